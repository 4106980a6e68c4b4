"""Where a named data set and its pictures lie below the PATH that a spec gives, and which split is meant."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossgap_lib.datasets.dataset import Dataset, from_listing
from crossgap_lib.datasets.files import absolute, file_named
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError, did_you_mean


def root_and_split(row: NamedSet, rest: str, split: str | None = None) -> tuple[Path, str]:
    """(the set's folder, split) of "PATH" or "PATH/train"; the first split of the table by default.

    Raises:
        CrossgapError: the set is not there, so that the message says how to get it, or it has no such split.
    """
    path = absolute(rest)
    if _root(row, path) is None and _root(row, path.parent) is not None:
        if split not in (None, path.name):
            raise CrossgapError(f"{row.name}:{rest} names a split of its own, so split {split!r} can't be picked")
        path, split = path.parent, path.name
    split = row.splits[0] if split is None else split
    if split not in row.splits:
        known = ", ".join(row.splits)
        raise CrossgapError(f"{row.name} has no split {split!r}; there are {known}.{did_you_mean(split, row.splits)}")
    return root_of(row, path), split


def root_of(row: NamedSet, path: Path) -> Path:
    """The folder, ``path`` or one of ``row.folders`` in it, that holds one of ``row.markers``.

    Raises:
        CrossgapError: there is none; the message says how to get the set.
    """
    root = _root(row, path)
    if root is None:
        raise CrossgapError(f"No {' or '.join(row.markers)} in {path} ({placement(row.name)}).")
    return root


def _root(row: NamedSet, path: Path) -> Path | None:
    below = [path, *(path / name for name in row.folders)]
    return next((folder for folder in below if any((folder / m).exists() for m in row.markers)), None)


def listed_pictures(
    row: NamedSet, spec: str, root: Path, split: str, names: Sequence[str], listing: Path, **columns: Any
) -> Dataset:
    """The Dataset of the pictures of a split that the file ``listing`` names; ``columns`` as in ``from_listing``.

    Their folder may lie in ``root``, or in a folder of a download in it or beside it.

    Raises:
        CrossgapError: it is in none of these places, or pictures are missing.
    """
    bases = [root, *(base / name for base in (root, root.parent) for name in row.folders)]
    name = row.pictures.format(split)
    folder = next((base / name for base in bases if (base / name).is_dir()), None)
    if folder is None:
        raise CrossgapError(f"No folder {name} in {root} ({placement(row.name)}).")
    paths = [file_named(folder, name) for name in names]
    return from_listing(spec, listing, names, paths, [folder], **columns)
