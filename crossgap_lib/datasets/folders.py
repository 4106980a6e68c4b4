"""Folders of pictures as people have them: one folder for each class, and both layouts of dogs-vs-cats."""

import re
import warnings
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.files import existing_folder, pictures_in, subfolders
from crossgap_lib.errors import CrossgapError


def read_dogs_vs_cats(spec: str, rest: str) -> Dataset:
    """``dogs-vs-cats:PATH`` in Microsoft's layout or in Kaggle's; class 0 is cat, 1 is dog.

    Raises:
        CrossgapError: no such folder, or no pictures of both.
    """
    root = existing_folder(rest, "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg")
    for base in (root / "PetImages", root, root / "train"):
        groups = [_of_kind(base, kind) for kind in ("cat", "dog")]
        if all(groups):
            return labelled(spec, base, ("cat", "dog"), groups)
    raise CrossgapError(
        f"No pictures of both cats and dogs in {root}; expected are PetImages/{{Cat,Dog}}/*.jpg or "
        "train/{cat,dog}.*.jpg (for other trees there is folder:PATH)"
    )


def _of_kind(base: Path, kind: str) -> list[Path]:
    """The pictures in the folder ``base``/Kind or, if there are none, those in ``base`` that are named kind.N.jpg."""
    folders = [folder for folder in subfolders(base) if folder.name.lower() == kind]
    named = re.compile(rf"{kind}\.\d+\.", re.IGNORECASE)
    flat = [path for path in pictures_in(base, deep=False) if named.match(path.name)]
    return [path for folder in folders for path in pictures_in(folder)] or flat


def read_folder(spec: str, rest: str) -> Dataset:
    """``folder:PATH``: each folder in PATH is a class, which may have folders in it; in names _ and - become spaces.

    A warning names the class folders without pictures, and counts the pictures that lie in no class folder.

    Raises:
        CrossgapError: no such folder, no pictures, or two class folders of the same name.
    """
    root = existing_folder(rest, "CLASS/*.jpg, a folder a class")
    pictures = {folder.name: pictures_in(folder) for folder in subfolders(root)}
    classes = [name for name in pictures if pictures[name]]
    notes = _leftovers(root, [name for name in pictures if not pictures[name]])
    if not classes:
        raise CrossgapError(f"No pictures in {root}; expected is CLASS/*.jpg, a folder a class{notes}")
    if notes:
        warnings.warn(f"{spec}{notes}", stacklevel=3)
    names = tuple(re.sub("[_-]+", " ", name).strip() for name in classes)
    if len(set(names)) < len(names):
        raise CrossgapError(f"Two class folders in {root} have the same name once _ and - are spaces: {classes}")
    return labelled(spec, root, names, [pictures[name] for name in classes])


def _leftovers(root: Path, empty: list[str]) -> str:
    """What ``read_folder`` leaves out, for messages; "" if it is nothing."""
    loose = len(pictures_in(root, deep=False))
    return (f"; class folders without pictures: {', '.join(empty)}" if empty else "") + (
        f"; {loose} pictures lie in no class folder" if loose else ""
    )


def labelled(spec: str, root: Path, class_names: tuple[str, ...], groups: list[list[Path]]) -> Dataset:
    """The Dataset of ``groups`` of picture files, one for each class; ids are their paths from ``root``."""
    paths = [path for group in groups for path in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])  # (n,)
    ids = [path.relative_to(root).as_posix() for path in paths]
    return from_files(spec, ids, paths, labels=labels, class_names=class_names)
