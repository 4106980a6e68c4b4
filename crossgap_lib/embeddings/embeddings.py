"""``Embeddings``: unit-norm features with ids, labels, modality and texts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.datasets.files import skipping
from crossgap_lib.embeddings.rows import normalised, row_names, strings, whole_numbers
from crossgap_lib.embeddings.vector_files import FEATURES, SIDES, WRITE, clear_errors, key, read_columns, usable
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import whole

MODALITIES = ("image", "text", "oti", "ovi", "projection")


@dataclass(eq=False)
class Embeddings:
    """n features of one modality.

    Attributes:
        features: (n, d) float32 on the CPU, unit L2 norm (rows are normalised on the way in).
        ids: (n,) unique names of the rows, ``str``; equal ids in two sets mean the same picture or text.
        labels: (n,) int64 indices into ``class_names``, or None.
        modality: one of "image", "text", "oti", "ovi", "projection".
        texts: (n,) captions or prompts, ``str``, or None.
        meta: where they come from: model, dataset, skipped pictures.

    Raises:
        CrossgapError: NaN, all-zero rows, wrong shapes or lengths, ids or texts that are neither strings nor numbers,
            repeated ids, labels that are no whole numbers or index no class name.
    """

    features: Tensor
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    modality: str = "image"
    texts: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.features = normalised(self.features)
        ids = row_names(len(self.features)) if self.ids is None else self.ids
        self.ids = self._column("ids", ids, strings)
        if len(set(self.ids.tolist())) < len(self.ids):
            raise CrossgapError("The ids repeat; every row needs its own.")
        self.labels = self._column("labels", self.labels, whole_numbers)
        self.texts = self._column("texts", self.texts, strings)
        self.class_names = tuple(strings("class names", self.class_names).tolist())
        if self.labels is not None and self.labels.min() < 0 and not self.class_names:
            raise CrossgapError(f"Labels count from 0, and one of these is {self.labels.min()}.")
        known = len(self.class_names)
        if known and self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < known:
            low, high = self.labels.min(), self.labels.max()
            raise CrossgapError(f"The labels run from {low} to {high}, but there are {known} class names.")
        if self.modality not in MODALITIES:
            raise CrossgapError(f"Modality {self.modality!r} is none of {', '.join(MODALITIES)}.")

    def _column(self, name: str, values: Any, read: Callable[[str, Any], np.ndarray]) -> np.ndarray | None:
        if values is None:
            return None
        column = read(name, values)
        if column.shape != (len(self.features),):
            raise CrossgapError(f"There are {len(self.features)} features, but the {name} have shape {column.shape}.")
        return column

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int] | Tensor) -> "Embeddings":
        """The rows of a slice, a boolean mask or an index array; meta is kept.

        Raises:
            CrossgapError: no row is chosen, one that is not there, or rows are named by anything but whole numbers.
        """
        return replace(self, **self._rows(_row_index(rows, len(self))))

    def _rows(self, index: np.ndarray) -> dict[str, Any]:
        take = lambda column: None if column is None else column[index]  # noqa: E731
        return {
            "features": self.features[torch.from_numpy(index)],
            "ids": self.ids[index],
            "labels": take(self.labels),
            "texts": take(self.texts),
        }

    def columns(self) -> dict[str, Any]:
        """What ``Embeddings`` takes, by name: all attributes but those that a subclass adds."""
        return {column.name: getattr(self, column.name) for column in fields(Embeddings)}

    def __repr__(self) -> str:
        n, d = self.features.shape
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"{type(self).__name__}({n} x {d}, {self.modality}{classes}, model={self.meta.get('model', 'unknown')})"

    def save(self, path: str | Path) -> Path:
        """Writes ``.npz``, ``.parquet`` or ``.safetensors``, whole or not at all.

        Parquet has columns of strings for ids and texts. The other two hold them as JSON in arrays of bytes, named
        ``ids_json`` and ``texts_json``: these take as much room as there is text, and any amount of it can be loaded.
        Each carries a checksum in its metadata, which ``load`` verifies.

        Raises:
            CrossgapError: another ending, or a disk that is full or read-only.
        """
        path = Path(path)
        if path.suffix not in WRITE:
            raise CrossgapError(f"Can't save {path.name}: choose {', '.join(WRITE)}.")
        with whole(path) as part:
            WRITE[path.suffix](self.columns(), part)
        return path

    @classmethod
    def load(cls, path: str | Path, *, skip_bad: bool | None = None) -> "Embeddings":
        """Reads what ``save`` wrote, a plain ``.npy`` of shape (n, d), or such files of others, with ``features``.

        Labels, class names, ids (or names of files), texts and the modality are taken under the names that people use;
        a warning names the columns that are not used. Labels that are words become class names, in their order.

        Args:
            skip_bad: leave out, with a warning, the rows that hold NaN, zeros, another number of values or no label of
                0 or more; otherwise they are refused. None asks ``CROSSGAP_SKIP_BAD``, which --skip-bad sets.

        Raises:
            CrossgapError: a missing, damaged, pickled or pair file (see ``load_pair``), or bad features.
        """
        path = Path(path)
        with clear_errors(path), skipping(path.name, skip_bad):
            columns = read_columns(path)
            name = key(columns, FEATURES)
            sides = {side: held for side, names in SIDES.items() if (held := key(columns, names))}
            if name is None and len(sides) == 1:
                ((side, name),) = sides.items()
                columns.setdefault("modality", side)
            if name is None:
                pair = " It is a pair file: use load_pair." if sides else ""
                raise CrossgapError(f"{path.name} holds no features, only {', '.join(columns) or 'nothing'}.{pair}")
            (features,), told = usable(path, columns, [name])
            return cls(features, **told)


def _row_index(rows: Any, n: int) -> np.ndarray:
    """(m,) row numbers, none negative, m at least 1."""
    if not isinstance(rows, slice):
        rows = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if rows.dtype == bool and rows.shape != (n,):
            raise CrossgapError(f"A mask over {n} embeddings needs shape ({n},), not {rows.shape}.")
        rows = rows if rows.size else rows.astype(np.intp)  # [] is float to numpy
        if rows.ndim != 1 or rows.dtype.kind not in "iub":
            raise CrossgapError("Embeddings are chosen by a slice, a boolean mask or a list of row numbers.")
        if rows.dtype != bool and len(beyond := rows[(rows < -n) | (rows >= n)]):
            raise CrossgapError(f"There is no row {beyond[0]} among {n} embeddings.")
    chosen = np.arange(n)[rows].copy()  # a slice may give negative strides, which torch does not take
    if not len(chosen):
        raise CrossgapError(f"Embeddings need at least one row, and none of the {n} is chosen.")
    return chosen


def drawn_rows(ids: np.ndarray, n: int = 0, seed: int = 0) -> np.ndarray:
    """Row numbers of n of these ids, drawn with ``seed``; 0, or more than there are, takes all.

    Which ids are drawn, and in which order they come, depends on the ids and on the seed alone and not on the order of
    the rows: a file may list one class after the other. (Embeddings without ids of their own are called by their row
    numbers.) The first m of what was drawn are a draw, too.

    Raises:
        CrossgapError: a negative n.
    """
    if n < 0:
        raise CrossgapError(f"{n} rows can't be drawn: give the number of rows, or 0 for all.")
    return np.argsort(ids)[np.random.default_rng(seed).permutation(len(ids))[: n or len(ids)]]


def load_pair(path: str | Path, *, skip_bad: bool | None = None) -> tuple[Embeddings, Embeddings]:
    """Images and texts of a pair file: image_features and text_features (n, d), in any format that ``load`` reads.

    Row i of one belongs to row i of the other. Captions, labels and so on are taken as ``Embeddings.load`` does, and so
    is ``skip_bad``; a row that is bad on one side is left out on both.

    Raises:
        CrossgapError: the file is no pair file, or the two sides differ in shape.
    """
    path = Path(path)
    with clear_errors(path), skipping(path.name, skip_bad):
        columns = read_columns(path)
        if "captions" in columns and "texts" not in columns:
            columns["texts"] = columns.pop("captions")
        sides = [key(columns, names) for names in SIDES.values()]
        if None in sides:
            missing = [names[0] for held, names in zip(sides, SIDES.values(), strict=True) if held is None]
            raise CrossgapError(f"{path.name} is no pair file: it lacks {' and '.join(missing)}.")
        a, b = (tuple(columns[side].shape) for side in sides)
        if a != b:
            raise CrossgapError(f"{path.name}: image features {a} and text features {b} must match.")
        (images, texts), told = usable(path, columns, sides)
    captions, meta = told.pop("texts", None), {"model": path.stem, "dataset": path.stem} | told.pop("meta", {})
    return (
        Embeddings(images, **told | {"modality": "image"}, meta=dict(meta)),
        Embeddings(texts, **told | {"modality": "text"}, texts=captions, meta=dict(meta)),
    )


def load_vectors(path: str | Path) -> Embeddings:
    """The vectors of a file, or the images of a pair file; which of them it is, and how many, is printed.

    Raises:
        CrossgapError: as ``Embeddings.load`` and ``load_pair``.
    """
    path = Path(path)
    with clear_errors(path):
        columns = read_columns(path)
        pair = key(columns, FEATURES) is None and all(key(columns, names) for names in SIDES.values())
        del columns  # which may be most of the memory, and is read again
    vectors = load_pair(path)[0] if pair else Embeddings.load(path)
    print(f"{path.name}: {len(vectors)} {'images of pairs' if pair else 'vectors'}")
    return vectors
