"""Where a named data set lies below the PATH that its spec gives, and which split is meant."""

import json
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.picture_files import absolute
from crossgap_lib.errors import CrossgapError, did_you_mean


def root_and_split(row: NamedSet, rest: str, split: str | None = None) -> tuple[Path, str]:
    """(folder that holds one of ``row.markers``, split) of "PATH" or "PATH/train"; the table's first split by default.

    Raises:
        CrossgapError: the set is not there (the message is ``placement``), or it has no such split.
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
    """The folder at or below ``path`` that holds one of ``row.markers``; raises CrossgapError (``placement``)."""
    root = _root(row, path)
    if root is None:
        raise CrossgapError(f"No {' or '.join(row.markers)} in {path} ({placement(row.name)}).")
    return root


def _root(row: NamedSet, path: Path) -> Path | None:
    below = [path, *(path / name for name in row.folders)]
    return next((folder for folder in below if any((folder / m).exists() for m in row.markers)), None)


def picture_folder(row: NamedSet, root: Path) -> Path:
    """The folder in which the pictures of ``row`` lie: beside its marker, or where a download puts them.

    Raises:
        CrossgapError: it is in none of these places.
    """
    bases = [root, *(root / name for name in row.folders), *(root.parent / name for name in row.folders)]
    found = next((base / row.pictures for base in bases if (base / row.pictures).is_dir()), None)
    if found is None:
        raise CrossgapError(f"No folder {row.pictures} in {root} ({placement(row.name)}).")
    return found


def named_pictures(
    spec: str, folder: Path, names: Sequence[str], named_in: Path, skip_missing: bool = False, **columns: Any
) -> Dataset:
    """The Dataset of the pictures ``folder``/name, named in a file, with columns (n,) such as labels.

    Raises:
        CrossgapError: pictures that are not there; with ``skip_missing`` they are left out with a warning.
    """
    there = [os.path.isfile(folder / name) for name in names]
    missing = [name for name, here in zip(names, there, strict=True) if not here]
    if missing:
        message = (
            f"{len(missing)} of {len(names)} pictures that {named_in} names are missing, the first is {missing[0]!r}; "
            f"looked in {folder}"
        )
        if not skip_missing or len(missing) == len(names):
            raise CrossgapError(f"{message} (skip_missing=True leaves them out)")
        warnings.warn(f"{message}; they are left out", stacklevel=5)
    kept = [k for k, here in enumerate(there) if here]
    rows = {key: values[kept] if key == "labels" else values for key, values in columns.items()}
    return from_files(spec, [names[k] for k in kept], [folder / names[k] for k in kept], **rows)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file that are not blank, stripped. Raises CrossgapError where it can't be read."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CrossgapError(f"{path} can't be read as text: {error}") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def read_fields(path: Path, n: int) -> list[list[str]]:
    """Lines of ``n`` fields, the last of which may hold spaces. Raises CrossgapError with the first wrong line."""
    rows = [line.split(" ", n - 1) for line in read_lines(path)]
    wrong = next((k for k, row in enumerate(rows) if len(row) != n), None)
    if wrong is not None:
        raise CrossgapError(f"{path}: entry {wrong + 1} has {len(rows[wrong])} fields, not {n}")
    return rows


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises CrossgapError where it can't be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CrossgapError(f"{path} can't be read as JSON: {error}") from error
