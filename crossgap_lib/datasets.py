"""``load_dataset("dogs-vs-cats:PATH")`` -> Dataset: rows that are listed now and decoded on demand."""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from crossgap_lib.benchmarks.benchmark import Benchmark
from crossgap_lib.benchmarks.lookup import unknown
from crossgap_lib.benchmarks.table import SETS
from crossgap_lib.errors import CrossgapError
from crossgap_lib.picture_files import digest, existing_folder, pictures_in, stamp, subfolders
from crossgap_lib.pictures import open_picture


@dataclass(frozen=True, eq=False)
class Dataset:
    """n pictures that are decoded only when asked for, with what is known of each.

    ``dataset[rows]`` with a slice, a boolean mask or an array of row numbers is the Dataset of those rows.
    Raises CrossgapError where ids repeat or a column has another length.
    """

    name: str  # the spec it came from
    ids: np.ndarray  # (n,) str, unique and stable: relative path, or "world-000123"
    load: Callable[[int], Image.Image]  # RGB picture of row i; raises UnreadableImage
    fingerprint: str  # hex blake2b of what the rows hold (files: relative path, size, mtime_ns)
    labels: np.ndarray | None = None  # (n,) int64
    class_names: tuple[str, ...] = ()  # label -> name, as used in a prompt ("dog")
    captions: tuple[tuple[str, ...], ...] | None = None  # (n,) captions of each row
    factors: pd.DataFrame | None = None  # (n, k) known factors of each picture (worlds only)

    def __post_init__(self) -> None:
        names, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            twice = names[counts > 1]
            raise CrossgapError(f"{self.name}: {len(twice)} ids appear more than once, the first is {str(twice[0])!r}")
        for column in ("labels", "captions", "factors"):
            values = getattr(self, column)
            if values is not None and len(values) != len(self):
                raise CrossgapError(f"{self.name}: {len(values)} {column} for {len(self)} pictures")

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, i: int) -> Image.Image:
        """RGB picture of row ``i``. Raises UnreadableImage."""
        return self.load(int(i))

    def __getitem__(self, rows: slice | Sequence | np.ndarray) -> "Dataset":
        everything = np.arange(len(self))
        picked = everything[_row_index(rows)]  # (m,) row numbers, none negative
        if np.array_equal(picked, everything):
            return self
        return replace(
            self,
            ids=self.ids[picked],
            load=partial(_load_picked, self.load, picked),
            fingerprint=digest([self.fingerprint.encode(), picked.astype("<i8").tobytes()]),
            labels=None if self.labels is None else self.labels[picked],
            captions=None if self.captions is None else tuple(self.captions[i] for i in picked),
            factors=None if self.factors is None else self.factors.iloc[picked].reset_index(drop=True),
        )


def load_dataset(spec: str, **options) -> Dataset:
    """The dataset that ``spec``, PREFIX:REST, names; listing it decodes no picture.

    - ``world:dogs-vs-cats``, ``world:all``: drawn pictures, held out (``world:all/train``: not).
    - ``dogs-vs-cats:PATH``: ``PetImages/{Cat,Dog}/0.jpg`` or ``train/cat.0.jpg``; classes cat and dog.
    - ``folder:PATH``: a class a folder, pictures at any depth in it.
    - ``captions:PATH``: COCO or Karpathy JSON, Flickr8k token file, or image,caption CSV. Options: ``split``
      (Karpathy; "test" by default, also ``captions:PATH/train``), ``images`` (folder of the pictures),
      ``skip_missing`` (leave out, with a warning, rows whose picture is not there).

    - ``wds:PATH/{00..09}.tar``: WebDataset tars, read in place.
    - ``oxford-pets:PATH``, ``cub:PATH``, ...: the papers' data sets by name, test split unless ``split`` or
      ``oxford-pets:PATH/train`` say otherwise; ``crossgap datasets`` lists them.

    Raises CrossgapError where nothing of that kind is there.
    """
    prefix, colon, rest = spec.partition(":")
    known = (*_LOADERS, *SETS)
    if prefix not in known or not colon:
        raise unknown(spec, known)
    if not rest:
        raise CrossgapError(f"{spec!r} lacks what comes after the colon: {prefix}:{_EXAMPLES.get(prefix, 'PATH')}")
    if prefix in SETS:
        return _named(SETS[prefix], spec, rest, **options)
    return _LOADERS[prefix](spec, rest, **options)


# The readers build on this module, so they are imported late.
def _named(row: Benchmark, spec: str, rest: str, **options) -> Dataset:
    if row.texts_only:
        raise CrossgapError(f"{row.name} holds texts and no pictures: load_texts({spec!r}) reads it")
    return import_module(f"crossgap_lib.benchmarks.{row.family}").read(row, spec, rest, **options)


def _captions(spec: str, rest: str, **options) -> Dataset:
    from crossgap_lib.benchmarks.captions import read_file

    return read_file(spec, rest, **options)


def _tars(spec: str, rest: str) -> Dataset:
    from crossgap_lib.benchmarks.tars import read

    return read(spec, rest)


def _world(spec: str, rest: str, **options) -> Dataset:
    from crossgap_lib.world import world_dataset

    return world_dataset(rest, **options)


def _dogs_vs_cats(spec: str, rest: str) -> Dataset:
    root = existing_folder(rest, "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg")
    for base in (root / "PetImages", root, root / "train"):
        groups = [_of_kind(base, kind) for kind in ("cat", "dog")]
        if all(groups):
            return _labelled(spec, base, ("cat", "dog"), groups)
    raise CrossgapError(
        f"No pictures of both cats and dogs in {root}; expected are PetImages/{{Cat,Dog}}/*.jpg or "
        "train/{cat,dog}.*.jpg (for other trees there is folder:PATH)"
    )


def _of_kind(base: Path, kind: str) -> list[Path]:
    """Pictures in the folder ``base``/Kind, or those named kind.N.jpg in ``base``."""
    folders = [folder for folder in subfolders(base) if folder.name.lower() == kind]
    named = re.compile(rf"{kind}\.\d+\.", re.IGNORECASE)
    flat = [path for path in pictures_in(base, deep=False) if named.match(path.name)]
    return [path for folder in folders for path in pictures_in(folder)] or flat


def _folder(spec: str, rest: str) -> Dataset:
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
        raise CrossgapError(
            f"Two class folders in {root} have the same name once _ and - are spaces: {sorted(classes)}"
        )
    return _labelled(spec, root, names, [pictures[name] for name in classes])


def _leftovers(root: Path, empty: list[str]) -> str:
    loose = len(pictures_in(root, deep=False))
    return (f"; class folders without pictures: {', '.join(empty)}" if empty else "") + (
        f"; {loose} pictures lie in no class folder" if loose else ""
    )


def _labelled(spec: str, root: Path, class_names: tuple[str, ...], groups: list[list[Path]]) -> Dataset:
    paths = [path for group in groups for path in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])  # (n,)
    ids = [path.relative_to(root).as_posix() for path in paths]
    return from_files(spec, ids, paths, labels=labels, class_names=class_names)


def from_files(spec: str, ids: list[str], paths: list[Path], **columns) -> Dataset:
    """The Dataset of picture files, decoded on demand; the fingerprint holds their ids, sizes and times."""
    stamps = (os.fsencode("\0".join((name, *stamp(path)))) for name, path in zip(ids, paths, strict=True))
    load = partial(_load_file, tuple(map(str, paths)))
    return Dataset(spec, np.array(ids, dtype=str), load, digest(stamps), **columns)


# Plain functions of the module, so that a Dataset can be sent to worker processes.
def _load_file(paths: tuple[str, ...], i: int) -> Image.Image:
    return open_picture(paths[i])


def _load_picked(load: Callable[[int], Image.Image], picked: np.ndarray, i: int) -> Image.Image:
    return load(int(picked[i]))


def _row_index(rows: slice | Sequence | np.ndarray) -> slice | np.ndarray:
    if isinstance(rows, slice):
        return rows
    index = np.asarray(rows)
    if index.ndim != 1:
        raise TypeError("a Dataset takes a slice, a mask or an array of rows; picture(i) gives one picture")
    return index if index.size else index.astype(np.intp)  # [] is float to numpy


_LOADERS = {
    "world": _world,
    "dogs-vs-cats": _dogs_vs_cats,
    "folder": _folder,
    "captions": _captions,
    "wds": _tars,
}
_EXAMPLES = {"world": "dogs-vs-cats", "captions": "FILE", "wds": "PATH/{00..09}.tar"}
