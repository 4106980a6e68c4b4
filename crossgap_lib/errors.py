"""Errors for people: one clear sentence each, which the command line prints without a traceback."""

from collections.abc import Iterable
from difflib import get_close_matches


class CrossgapError(ValueError):
    """Something the user can put right; the message says what and how."""


class UnreadableImage(CrossgapError):
    """A picture that can't be decoded. Encoders skip it, count it and report its path."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """\" Did you mean: a, b?" with the five known names closest to ``name``, or "" where none is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = get_close_matches(name.lower(), by_lower, n=5, cutoff=0.3)
    return f" Did you mean: {', '.join(by_lower[c] for c in close)}?" if close else ""
