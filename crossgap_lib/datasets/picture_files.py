"""Folders of picture files: which are there, in which order, and whether they changed."""

import os
import re
from pathlib import Path

from crossgap_lib.datasets.pictures import EXTENSIONS
from crossgap_lib.errors import CrossgapError


def absolute(path: str | os.PathLike) -> Path:
    """``path`` from the root, ~ expanded: a notebook may change its folder before a picture is decoded."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def existing_folder(path: str | os.PathLike, expected: str) -> Path:
    """The absolute folder; raises CrossgapError, saying what is expected in it, where there is none."""
    root = absolute(path)
    if not root.is_dir():
        raise CrossgapError(f"No such folder: {root}; expected is a folder that holds {expected}")
    return root


def subfolders(root: Path) -> list[Path]:
    """Folders in ``root`` by name, hidden ones left out; none where ``root`` is none."""
    inside = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path, deep: bool = True) -> list[Path]:
    """Picture files by extension, hidden ones left out, 2.jpg before 10.jpg."""
    found = []
    for here, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if deep and not name.startswith(".")]
        found += [Path(here, name) for name in files if is_picture(name)]
    return sorted(found, key=lambda path: natural(path.relative_to(folder).as_posix()))


def is_picture(name: str) -> bool:
    """Whether a file of this name is taken for a picture: by its extension, hidden files never."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def natural(name: str) -> tuple:
    """Sort key under which numbers in names count as numbers."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name


def stamp(path: str | os.PathLike) -> tuple[str, str]:
    """(size, mtime_ns) of a file, which change when it does; two empty strings where there is none."""
    try:
        stat = os.stat(path)
    except OSError:  # a dangling link stays a row, so that decoding reports it
        return "", ""
    return str(stat.st_size), str(stat.st_mtime_ns)
