"""Folders of pictures as people have them: a folder for each class, both layouts of dogs-vs-cats, and ImageNet."""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.files import bad_row, existing_folder, files_in, keyed, read_fields, subfolders
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

_SPLIT = re.compile(r"(train(ing|val)?|val(id(ation)?)?|test(ing)?|dev|eval)[ _-]?(set|split|data|images)?\d*", re.I)
Group = tuple[list[Path], list[Path]]  # of a class: its pictures, and the other files among them


def read_dogs_vs_cats(spec: str, rest: str) -> Dataset:
    """``dogs-vs-cats:PATH`` in Microsoft's layout or in Kaggle's; class 0 is cat, 1 is dog.

    Raises:
        CrossgapError: no such folder, or no pictures of both.
    """
    root = existing_folder(rest, "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg")
    for base in (root / "PetImages", root, root / "train"):
        groups = [_of_kind(base, kind) for kind in ("cat", "dog")]
        pictures = [found for found, _ in groups]
        if all(pictures):
            return labelled(spec, base, ("cat", "dog"), pictures, no_pictures(groups))
    raise CrossgapError(
        f"No pictures of both cats and dogs in {root}; expected are PetImages/{{Cat,Dog}}/*.jpg or "
        "train/{cat,dog}.*.jpg (for other trees there is folder:PATH)"
    )


def _of_kind(base: Path, kind: str) -> Group:
    """The files in the folder ``base``/Kind or, if it has no pictures, those in ``base`` that are named kind.N."""
    inside = [files_in(folder) for folder in subfolders(base) if folder.name.lower() == kind]
    if any(pictures for pictures, _ in inside):
        return [path for pictures, _ in inside for path in pictures], [path for _, others in inside for path in others]
    named = re.compile(rf"{kind}\.\d+\.", re.IGNORECASE)
    return tuple([path for path in files if named.match(path.name)] for files in files_in(base, deep=False))


def read_folder(spec: str, rest: str) -> Dataset:
    """``folder:PATH``: each folder in PATH is a class, which may have folders in it; in names _ and - become spaces.

    A warning names the class folders without pictures, counts the files that are no pictures or lie in no class
    folder, and says where all pictures lie deeper than in the class folders.

    Raises:
        CrossgapError: no such folder, no pictures, two class folders of the same name, or folders that are splits.
    """
    root = existing_folder(rest, "CLASS/*.jpg, a folder a class")
    outside, groups = files_in(root, deep=False), {folder.name: files_in(folder) for folder in subfolders(root)}
    classes = {name: pictures for name, (pictures, _) in groups.items() if pictures}
    empty = ", ".join(name for name in groups if name not in classes)
    notes = [f"class folders without pictures: {empty}"] if empty else []
    notes += [f"{len(outside[0])} pictures lie in no class folder"] if outside[0] else []
    notes += no_pictures([*groups.values(), outside])
    if not classes:
        raise CrossgapError("; ".join([f"No pictures in {root}; expected is CLASS/*.jpg, a folder a class", *notes]))
    names = tuple(re.sub("[_-]+", " ", unicodedata.normalize("NFC", name)).strip() or name for name in classes)
    if len(set(names)) < len(names):
        raise CrossgapError(f"Two class folders in {root} have the same name once _ and - are spaces: {list(classes)}")
    return labelled(spec, root, names, list(classes.values()), [*notes, *_a_level_deeper(root, classes)])


def _a_level_deeper(root: Path, classes: dict[str, list[Path]]) -> list[str]:
    """A note where no picture lies in a class folder itself, but all of them in folders below.

    Raises:
        CrossgapError: the folders are splits, by their names or since each holds the same folders (fold1/bear,
            fold1/duck, fold2/bear, fold2/duck).
    """
    named_so = sum(bool(_SPLIT.fullmatch(name)) for name in classes)
    split, first = named_so == len(classes) or named_so > 1, root / next(iter(classes))
    deeper = all(path.parent != root / name for name, pictures in classes.items() for path in pictures)
    if deeper:
        below = [{p.relative_to(root / name).parts[0] for p in pictures} for name, pictures in classes.items()]
        fewest = min(below, key=len)
        alike = len(below) > 1 and all(fewest <= each for each in below)
        split = split or (alike and not all(map(_SPLIT.fullmatch, fewest)))
    if split:
        raise CrossgapError(f"{', '.join(classes)} in {root} are splits, not classes: read one, folder:{first}")
    if not deeper:
        return []
    inner = ", ".join(sorted(below[0])[:3])
    return [f"no picture lies in a class folder itself; if the classes are {inner}, ... read folder:{first}"]


def read_imagenet(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> Dataset:
    """ImageNet as CoOp lays it out: classnames.txt ("n01440764 tench") and images/{train,val} with a folder a class.

    As CoOp does, the validation pictures are the test. Labels number the classes in the order of their folder names.

    Raises:
        CrossgapError: classnames.txt or the pictures are missing, or a folder is not in classnames.txt.
    """
    root, split = row.root_and_split(rest, split)
    name_of = keyed(root / "classnames.txt", read_fields(root / "classnames.txt", 2))
    part = {"train": "train", "val": "val", "test": "val"}[split]
    base = next((folder for folder in (root / "images" / part, root / part) if folder.is_dir()), None)
    if base is None:
        raise row.missing(f"folder images/{part} in {root}")
    groups = {folder.name: files_in(folder) for folder in subfolders(base)}
    for name in sorted(groups.keys() - name_of.keys()):
        bad_row(f"{base}: folder {name!r} is not in classnames.txt", len(groups.pop(name)[0]))
    loose = len(files_in(base, deep=False)[0])
    unsorted = f"{loose} pictures lie in no class folder; ImageNet's val is sorted into them by valprep.sh"
    if not any(pictures for pictures, _ in groups.values()):
        raise CrossgapError(f"No pictures in the class folders of {base} ({unsorted if loose else row.placement}).")
    notes = ([unsorted] if loose else []) + no_pictures(groups.values())
    order = sorted(name_of)
    pictures = [groups.get(folder, ([], []))[0] for folder in order]
    return labelled(spec, base.parent, tuple(name_of[folder] for folder in order), pictures, notes)


def no_pictures(groups: Iterable[Group]) -> list[str]:
    """A note that counts the files of these groups that are no pictures, by their endings; empty if there are none."""
    endings = Counter(path.suffix.lower() or "without ending" for _, others in groups for path in others)
    counts = ", ".join(f"{n} {ending}" for ending, n in endings.most_common(5)) + (", ..." if len(endings) > 5 else "")
    return [f"{endings.total()} files have no ending of a picture that is read here: {counts}"] if endings else []


def labelled(
    spec: str, root: Path, class_names: tuple[str, ...], groups: list[list[Path]], notes: list[str]
) -> Dataset:
    """The Dataset of ``groups`` of picture files, one for each class; ids are their paths from ``root``.

    A warning says what ``notes`` say.
    """
    if notes:
        warnings.warn("; ".join([spec, *notes]), stacklevel=4)
    paths = [path for group in groups for path in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])  # (n,)
    ids = [path.relative_to(root).as_posix() for path in paths]
    return from_files(spec, ids, paths, labels=labels, class_names=class_names)
