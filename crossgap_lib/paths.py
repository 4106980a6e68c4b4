"""Where things are, wherever the caller stands: papermill runs in the caller's folder, nbval in the notebook's."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"
FIGURES = ROOT / "figures"
PUBLISHED = FIGURES / "published"  # what README shows of the default run
NOTEBOOKS = ROOT / "notebooks"
MINIS = DATA / "minis"


def cache_dir() -> Path:
    """Folder for embeddings and inversions; ``CROSSGAP_CACHE`` moves it."""
    return Path(os.environ.get("CROSSGAP_CACHE") or ROOT / ".cache")
