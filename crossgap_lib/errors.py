"""Errors for people: one clear sentence each, which the command line prints without a traceback."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from textwrap import shorten

# Control characters but tab and line feed, line separators, what turns the direction of writing round, and halves of
# characters, which names of files hold that are no UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


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


def printable(text: str) -> str:
    """The text for a terminal or a figure: a character that would be obeyed and not shown becomes its escape, \\x1b."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def encodable(text: str) -> str:
    """The text as UTF-8 can hold it: half a character, as in file names that are no UTF-8, becomes its escape."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def brief(error: BaseException) -> str:
    """What an error says, in at most 300 characters on one line."""
    return shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
