"""Where things are, wherever the caller stands: papermill runs in the caller's folder, nbval in the notebook's."""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
# What comes with the library, data/, notebooks/ and figures/published/: in an installed package within it, in a
# checkout beside it.
_INSIDE, _CHECKOUT = _PACKAGE / "shipped", _PACKAGE.parent
_SHIPPED = _INSIDE if _INSIDE.is_dir() else _CHECKOUT
DATA = _SHIPPED / "data"
MINIS = DATA / "minis"
NOTEBOOKS = _SHIPPED / "notebooks"
PUBLISHED = _SHIPPED / "figures" / "published"  # what README shows of the default run

# What is made, figures/ and runs/: in a checkout, or where the user stands if it is none, or one that is only read.
ROOT = _CHECKOUT if _SHIPPED == _CHECKOUT and os.access(_CHECKOUT, os.W_OK) else Path.cwd()
FIGURES = ROOT / "figures"


def cache_dir() -> Path:
    """Folder for embeddings and inversions, in the checkout or the user's caches; ``CROSSGAP_CACHE`` moves it."""
    if moved := os.environ.get("CROSSGAP_CACHE"):
        return Path(moved)
    if ROOT == _CHECKOUT:
        return ROOT / ".cache"
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return ROOT / caches.removeprefix("~/") / "crossgap"  # where the user stands, if that is nobody with a home
