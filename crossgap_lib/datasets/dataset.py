"""``Dataset``: rows of pictures that are listed now and decoded on demand."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from crossgap_lib.datasets.decode import open_picture
from crossgap_lib.datasets.files import bad_row, stamp
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import digest


@dataclass(frozen=True, eq=False)
class Dataset:
    """n pictures, each decoded only when it is asked for, with what is known of them.

    ``dataset[rows]`` with a slice, a boolean mask or an array of row numbers is the Dataset of those rows.

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
    paths: Sequence[Path | None],
    looked_in: Iterable[Path],
    **columns: Any,
) -> Dataset:
    """The Dataset of the n pictures that the file ``listing`` names; one that is not there is a bad row.

    Args:
        names: (n,) as the listing has them; they become the ids.
        paths: (n,) the file of each picture, None where it is not there.
        looked_in: the folders that were searched, for the message.
        columns: further fields of Dataset, such as labels.

    Raises:
        CrossgapError: none of the pictures is there.
    """
    there = [k for k, path in enumerate(paths) if path]
    if len(there) < len(names):
        first = next(name for name, path in zip(names, paths, strict=True) if not path)
        message = (
            f"{len(names) - len(there)} of {len(names)} pictures that {listing} names are missing, the first is "
            f"{first!r}; looked in {', '.join(map(str, looked_in))}"
        )
        if not there:
            raise CrossgapError(message)
        bad_row(message, len(names) - len(there))
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
