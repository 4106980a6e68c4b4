"""Classification sets whose text files list each picture with its class: CoOp's splits, FGVC-Aircraft, CUB, SOP."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.files import bad_row, of_good, read_fields, read_json, read_lines
from crossgap_lib.datasets.named.places import named_pictures, picture_folder, root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError


class Listed(NamedTuple):
    """What the list of one split says of its n pictures."""

    file: Path  # the list
    names: list[str]  # (n,) relative to the set's folder of pictures
    labels: list[int]  # (n,)
    class_names: tuple[str, ...]  # label -> name; empty where classes have numbers alone


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> Dataset:
    """One split of a set.

    Raises:
        CrossgapError: a list or pictures are missing, or the lists have another form or contradict each other.
    """
    root, split = root_and_split(row, rest, split)
    file, names, labels, class_names = READERS[row.family](row, root, split)
    if not names:
        raise CrossgapError(f"{file}: the {split} split is empty")
    columns = {"labels": np.array(labels, dtype=np.int64), "class_names": class_names}
    return named_pictures(spec, picture_folder(row, root), names, file, **columns)


# ---------------------------------------------------------------- CoOp's split files (Zhou et al. 2022)

_PARTS = ("train", "val", "test")
_IGNORED = ("BACKGROUND_Google", "Faces_easy")  # folders of Caltech101 that Cross the Gap, App. F, leaves out


class _Entry(NamedTuple):
    path: str
    label: int
    class_name: str


def _coop(row: NamedSet, root: Path, split: str) -> Listed:
    """Lists train, val and test of [relative path, label, class name]; in class names _ becomes a space, as in CoOp.

    Labels are numbered anew from 0 where classes are left out.
    """
    file = root / row.markers[0]
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in _PARTS):
        raise CrossgapError(f"{file} holds no lists train, val and test")
    parts = {part: of_good(partial(_entry, file), data[part]) for part in _PARTS}
    names = _class_names(file, [entry for entries in parts.values() for entry in entries])
    kept = {part: [e for e in entries if e.path.split("/")[0] not in _IGNORED] for part, entries in parts.items()}
    used = sorted({entry.label for entries in kept.values() for entry in entries})
    number = {label: k for k, label in enumerate(used)}
    labels = [number[entry.label] for entry in kept[split]]
    return Listed(file, [entry.path for entry in kept[split]], labels, tuple(names[label] for label in used))


def _entry(file: Path, values: object) -> _Entry:
    kinds = [type(value) for value in values] if isinstance(values, list) else []
    if kinds != [str, int, str]:
        raise CrossgapError(f"{file}: an entry is [path, label, class name], not {str(values)[:80]}")
    path, label, name = values
    return _Entry(path, label, name.replace("_", " "))


def _class_names(file: Path, entries: list[_Entry]) -> dict[int, str]:
    names = {entry.label: entry.class_name for entry in entries}
    two = next((entry for entry in entries if names[entry.label] != entry.class_name), None)
    if two:
        raise CrossgapError(f"{file}: label {two.label} is both {two.class_name!r} and {names[two.label]!r}")
    if sorted(names) != list(range(len(names))):
        raise CrossgapError(
            f"{file}: labels must be 0 to {len(names) - 1} for its {len(names)} classes, but run from "
            f"{min(names)} to {max(names)}"
        )
    return names


# ---------------------------------------------------------------- FGVC-Aircraft (Maji et al. 2013)


def _aircraft(_: NamedSet, root: Path, split: str) -> Listed:
    """images_variant_test.txt "1025794 707-320"; labels number the lines of variants.txt, as CoOp does."""
    file = root / f"images_variant_{split}.txt"
    variants = list(read_lines(root / "variants.txt").values())
    number = {variant: label for label, variant in enumerate(variants)}

    def labelled(pair: list[str]) -> tuple[str, int]:
        if pair[1] not in number:
            raise CrossgapError(f"{file}: variant {pair[1]!r} is not in variants.txt")
        return f"{pair[0]}.jpg", number[pair[1]]

    pairs = of_good(labelled, read_fields(file, 2))
    return Listed(file, [name for name, _ in pairs], [label for _, label in pairs], tuple(variants))


# ---------------------------------------------------------------- CUB-200-2011, Stanford Online Products


def _cub(_: NamedSet, root: Path, split: str) -> Listed:
    """images.txt "1 001.Black_footed_Albatross/x.jpg", image_class_labels.txt "1 1", train_test_split.txt "1 0"."""
    file = root / "images.txt"
    paths = dict(read_fields(file, 2))
    species = _numbers(root / "image_class_labels.txt", paths)
    in_train = _numbers(root / "train_test_split.txt", paths)
    named = {number: _species(paths[key]) for key, number in species.items() if key in paths}
    if sorted(named) != list(range(1, len(named) + 1)):
        raise CrossgapError(
            f"{root / 'image_class_labels.txt'}: classes must be 1 to {len(named)}, but run from {min(named)} to "
            f"{max(named)}"
        )
    wanted = {"all": (0, 1), "train": (1,), "test": (0,)}[split]
    kept = [key for key in paths if key in species and in_train.get(key) in wanted]
    labels = [species[key] - 1 for key in kept]
    return Listed(file, [paths[key] for key in kept], labels, tuple(named[k] for k in sorted(named)))


def _species(path: str) -> str:
    """ "001.Black_footed_Albatross/x.jpg" -> "Black footed Albatross"."""
    return path.split("/")[0].partition(".")[2].replace("_", " ")


def _numbers(file: Path, paths: dict[str, str]) -> dict[str, int]:
    """{image id: number} of a file that must number exactly the ids of images.txt."""
    pairs = dict(of_good(lambda pair: (pair[0], _whole(file, pair[1])), read_fields(file, 2)))
    if different := pairs.keys() ^ paths.keys():
        bad_row(f"{file} and images.txt do not number the same pictures", len(different))
    return pairs


def _sop(_: NamedSet, root: Path, split: str) -> Listed:
    """Ebay_test.txt: a header, then "image_id class_id super_class_id path". The 22 634 products have no names."""
    parts = ("train", "test") if split == "all" else (split,)
    files = [root / f"Ebay_{part}.txt" for part in parts]
    rows = [(file, fields) for file in files for fields in read_fields(file, 4)[1:]]
    pairs = of_good(lambda row: (row[1][3], _whole(row[0], row[1][1]) - 1), rows)
    return Listed(files[0], [name for name, _ in pairs], [label for _, label in pairs], ())


def _whole(file: Path, text: str) -> int:
    if not text.isdecimal():
        raise CrossgapError(f"{file}: a class is a whole number, not {text!r}")
    return int(text)


READERS: dict[str, Callable[[NamedSet, Path, str], Listed]] = {  # by family
    "coop": _coop,
    "aircraft": _aircraft,
    "cub": _cub,
    "sop": _sop,
}
