"""CoOp's split files: train, val and test lists of [relative path, label, class name] (Zhou et al. 2022)."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import named_pictures, picture_folder, read_json, root_and_split
from crossgap_lib.errors import CrossgapError

IGNORED_FOLDERS = ("BACKGROUND_Google", "Faces_easy")  # of Caltech101: Cross the Gap, App. F
_PARTS = ("train", "val", "test")


class Entry(NamedTuple):
    path: str
    label: int
    class_name: str


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, skip_missing: bool = False) -> Dataset:
    """One split of a set; class names as CoOp prompts them, underscores as spaces.

    Raises:
        CrossgapError: the split file or pictures are missing, or it holds something else than such a split.
    """
    root, split = root_and_split(row, rest, split)
    file = root / row.markers[0]
    parts, class_names = read_split(file)
    entries = parts[split]
    if not entries:
        raise CrossgapError(f"{file}: the {split} split is empty")
    labels = np.array([entry.label for entry in entries], dtype=np.int64)
    names = [entry.path for entry in entries]
    folder = picture_folder(row, root)
    return named_pictures(spec, folder, names, file, skip_missing, labels=labels, class_names=class_names)


def read_split(file: Path) -> tuple[dict[str, list[Entry]], tuple[str, ...]]:
    """({split: entries}, class names by label) of a split file, without Caltech101's two ignored classes."""
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in _PARTS):
        raise CrossgapError(f"{file} holds no lists train, val and test")
    parts = {part: [_entry(file, values) for values in data[part]] for part in _PARTS}
    names = _class_names(file, [entry for entries in parts.values() for entry in entries])
    kept = {part: [entry for entry in entries if not _ignored(entry)] for part, entries in parts.items()}
    used = sorted({entry.label for entries in kept.values() for entry in entries})
    rank = {label: k for k, label in enumerate(used)}
    numbered = {part: [entry._replace(label=rank[entry.label]) for entry in entries] for part, entries in kept.items()}
    return numbered, tuple(names[label] for label in used)


def _entry(file: Path, values: object) -> Entry:
    kinds = [type(value) for value in values] if isinstance(values, list) else []
    if kinds != [str, int, str]:
        raise CrossgapError(f"{file}: an entry is [path, label, class name], not {str(values)[:80]}")
    path, label, name = values
    return Entry(path, label, name.replace("_", " "))


def _ignored(entry: Entry) -> bool:
    return entry.path.split("/")[0] in IGNORED_FOLDERS


def _class_names(file: Path, entries: list[Entry]) -> list[str]:
    names = {entry.label: entry.class_name for entry in entries}
    two = next((entry for entry in entries if names[entry.label] != entry.class_name), None)
    if two:
        raise CrossgapError(f"{file}: label {two.label} is both {two.class_name!r} and {names[two.label]!r}")
    if sorted(names) != list(range(len(names))):
        raise CrossgapError(
            f"{file}: labels must be 0 to {len(names) - 1} for its {len(names)} classes, but run from "
            f"{min(names)} to {max(names)}"
        )
    return [names[label] for label in range(len(names))]
