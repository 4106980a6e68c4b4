"""Progress bars where a person watches (terminal, notebook), none headless."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def watched() -> bool:
    """True in a terminal or in a live notebook; ``CROSSGAP_HEADLESS=1`` (set by papermill and test runs) says no."""
    if os.environ.get("CROSSGAP_HEADLESS"):
        return False
    return sys.stderr.isatty() or "ipykernel" in sys.modules


def bar(items: Iterable | None = None, **options: Any) -> tqdm:
    """A tqdm bar that shows itself only where someone watches."""
    return tqdm(items, disable=not watched(), leave=False, **options)
