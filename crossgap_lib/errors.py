"""Errors for people: one clear sentence each, which the command line prints without a traceback."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from textwrap import shorten


class CrossgapError(ValueError):
    """Something the user can put right; the message says what and how."""


class UnreadableImage(CrossgapError):
    """A picture that can't be decoded. Encoders skip it, count it and report its path."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """\" Did you mean: a, b?" with the five known names closest to ``name``, or "" where none is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower, n=5, cutoff=0.3)
    return f" Did you mean: {', '.join(by_lower[c] for c in close)}?" if close else ""


@contextmanager
def one_sentence(what: str, passing: type[Exception] = CrossgapError) -> Iterator[None]:
    """Turns what a library raises on bad input, of any type, into ``what`` and its reason, in one sentence."""
    try:
        yield
    except (CrossgapError, passing):
        raise
    except Exception as error:
        raise CrossgapError(f"{what}: {brief(error)}") from error


def brief(error: BaseException) -> str:
    """What an error says, in at most 300 characters on one line."""
    return shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
