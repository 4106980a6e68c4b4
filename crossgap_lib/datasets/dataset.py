"""``Dataset``: rows of pictures that are listed now and decoded on demand."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crossgap_lib.datasets.decode import open_picture
from crossgap_lib.datasets.files import bad_row, file_named, stamp
from crossgap_lib.errors import CrossgapError, encodable
from crossgap_lib.store import digest


@dataclass(frozen=True, eq=False)
class Dataset:
    """n pictures, each decoded only when it is asked for, with what is known of them.

    ``dataset[rows]`` with a slice, a boolean mask or an array of row numbers is the Dataset of those rows. Ids, class
    names and captions that UTF-8 can't hold get escapes (``encodable``), since tables and files refuse them.

    Raises:
        CrossgapError: ids repeat, or a column has not n entries.
    """

    name: str  # the spec it came from
    ids: np.ndarray  # (n,) str, unique and stable: relative path, or "world-000123"
    load: Callable[[int], Image.Image]  # RGB picture of row i; raises UnreadableImage
    fingerprint: str  # hex digest that changes with the rows; of files it holds the relative path, size and time
    labels: np.ndarray | None = None  # (n,) int64
    class_names: tuple[str, ...] = ()  # label -> name, as used in a prompt ("dog")
    captions: tuple[tuple[str, ...], ...] | None = None  # (n,) captions of each row
    factors: pd.DataFrame | None = None  # (n, k) known factors of each picture (worlds only)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", np.array([encodable(name) for name in self.ids.tolist()], dtype=str))
        if odd := [text for text in chain(self.class_names, *(self.captions or ())) if encodable(text) != text]:
            told = f"{len(odd)} class names or captions are not valid Unicode and get escapes, as in {odd[0][:60]}"
            warnings.warn(f"{self.name}: {encodable(told)}", stacklevel=3)
            object.__setattr__(self, "class_names", tuple(map(encodable, self.class_names)))
            captions = self.captions and tuple(tuple(map(encodable, several)) for several in self.captions)
            object.__setattr__(self, "captions", captions)
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


def from_files(spec: str, ids: Sequence[str], paths: Sequence[Path], **columns: Any) -> Dataset:
    """The Dataset of n picture files; ``columns`` are further fields of Dataset, such as labels.

    The fingerprint holds the ids, and the size and time of each file.
    """
    stamps = ((name, *stamp(path)) for name, path in zip(ids, paths, strict=True))
    load = partial(_load_file, tuple(map(str, paths)))
    return Dataset(spec, np.array(ids, dtype=str), load, digest(stamps), **columns)


def from_listing(
    spec: str,
    listing: Path,
    names: Sequence[str],
    folders: Sequence[Path],
    below: Sequence[str] | None = None,
    **columns: Any,
) -> Dataset:
    """The Dataset of the n pictures that the file ``listing`` names; one that is not there is a bad row.

    Args:
        names: (n,) as the listing has them; they become the ids.
        folders: where the pictures are looked for, one folder after the other.
        below: (n,) the subfolder of these folders in which each picture is looked for first.
        columns: further fields of Dataset, such as labels.

    Raises:
        CrossgapError: none of the pictures is there.
    """

    def found(name: str, inner: str) -> Path | None:
        candidates = (file_named(base, name) for folder in folders for base in (folder / inner, folder))
        return next(filter(None, candidates), None)

    paths = list(map(found, names, below or [""] * len(names)))
    there = [k for k, path in enumerate(paths) if path]
    if missing := [name for name, path in zip(names, paths, strict=True) if not path]:
        told = f"{len(missing)} of {len(names)} pictures that {listing} names are missing, the first is {missing[0]!r}"
        told = f"{told}; looked in {', '.join(map(str, folders))}"
        if not there:
            raise CrossgapError(told)
        bad_row(told, len(missing))
    files = [path or listing / name for name, path in zip(names, paths, strict=True)]  # nothing lies below a file
    return from_files(spec, names, files, **columns)[there]


# These are functions of the module, since a Dataset that is sent to worker processes can't hold closures.
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
