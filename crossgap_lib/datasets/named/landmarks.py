"""ROxford and RParis: queries with a box, a gallery, and what is easy, hard and junk (Radenovic et al. 2018)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.named.lists import listed_pictures
from crossgap_lib.datasets.named.plain_pickle import read_plain_pickle
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError, UnreadableImage, one_sentence
from crossgap_lib.store import digest

# (what is relevant, what is taken out of the ranking), Radenovic et al. 2018, Sec. 3.3.
DIFFICULTIES = {
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_KINDS = ("easy", "hard", "junk")


@dataclass(frozen=True)
class GroundTruth:
    """The names of the pictures, without .jpg, and which of the gallery were judged relevant to each query."""

    gallery: list[str]  # (g,)
    queries: list[str]  # (q,)
    boxes: list[list[float]]  # (q, 4) x1, y1, x2, y2 in pixels
    judged: list[dict[str, list[int]]]  # (q,) {"easy": rows of the gallery, "hard": ..., "junk": ...}

    def judged_as(self, kinds: Sequence[str]) -> dict[str, frozenset[str]]:
        """{id of a query: ids of the gallery that were judged to be of one of these kinds}."""
        ids = [frozenset(f"{self.gallery[k]}.jpg" for kind in kinds for k in entry[kind]) for entry in self.judged]
        return dict(zip((f"{query}.jpg" for query in self.queries), ids, strict=True))


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, crop_queries: bool = True) -> Dataset:
    """The split "gallery" (the default) or "queries", whose pictures are cropped to their box with ``crop_queries``.

    Raises:
        CrossgapError: the ground truth or pictures are missing, or it has another form.
    """
    root, split = row.root_and_split(rest, split)
    truth = read_truth(root / row.markers[0])
    names = [f"{name}.jpg" for name in (truth.queries if split == "queries" else truth.gallery)]
    whole = listed_pictures(row, spec, root, split, names, root / row.markers[0])
    if split == "gallery" or not crop_queries:
        return whole
    box_of = dict(zip(names, truth.boxes, strict=True))
    return _cropped(whole, [box_of[name] for name in whole.ids])


def read_truth(path: Path) -> GroundTruth:
    """gnd_*.pkl, a pickle of {imlist, qimlist, gnd: a list of {bbx, easy, hard, junk}}, read by ``plain_pickle``.

    Raises:
        CrossgapError: the file can't be read, holds something else, or its parts contradict each other.
    """
    value = read_plain_pickle(path)
    with one_sentence(f"{path} is no ground truth of ROxford or RParis"):
        judged = [{kind: _numbers(entry[kind], int) for kind in _KINDS} for entry in value["gnd"]]
        boxes = [_numbers(entry["bbx"], float) for entry in value["gnd"]]
        gallery, queries = list(value["imlist"]), list(value["qimlist"])
    if not all(isinstance(name, str) for name in gallery + queries) or len(judged) != len(queries) or not queries:
        raise CrossgapError(f"{path}: imlist, qimlist and gnd do not fit each other")
    rows = [k for entry in judged for kind in _KINDS for k in entry[kind]]
    if rows and not 0 <= min(rows) <= max(rows) < len(gallery):
        raise CrossgapError(
            f"{path}: judged pictures run from {min(rows)} to {max(rows)}, but the gallery has {len(gallery)}"
        )
    wrong = next((k for k, box in enumerate(boxes) if len(box) != 4 or box[0] >= box[2] or box[1] >= box[3]), None)
    if wrong is not None:
        raise CrossgapError(f"{path}: the box of query {queries[wrong]!r} is {boxes[wrong]}, not x1, y1, x2, y2")
    return GroundTruth(gallery, queries, boxes, judged)


def _numbers(values: Any, kind: type) -> list:
    """A list or array of finite numbers as a plain list of ``kind``; 3.0 counts as a whole number."""
    array = np.asarray(values, dtype=np.float64).ravel()
    if not np.isfinite(array).all() or (kind is int and (array % 1).any()):
        raise ValueError(f"numbers such as {str(array[:3])[1:-1]}")
    return array.astype(kind).tolist()


def _cropped(whole: Dataset, boxes: Sequence[Sequence[float]]) -> Dataset:
    corners = np.array(boxes, dtype="<f8")  # (n, 4)
    return Dataset(
        whole.name,
        whole.ids,
        partial(_crop, whole.load, corners, whole.ids),
        digest([whole.fingerprint.encode(), corners.tobytes()]),
    )


def _crop(load: Any, corners: np.ndarray, ids: np.ndarray, i: int) -> Image.Image:
    """Picture i within its box, whose corners are rounded to pixels, as Pillow does, and lie within the picture."""
    picture = load(i)
    x1, y1, x2, y2 = (round(corner) for corner in corners[i])
    box = max(x1, 0), max(y1, 0), min(x2, picture.width), min(y2, picture.height)
    if box[0] >= box[2] or box[1] >= box[3]:
        size = f"{picture.width} x {picture.height}"
        raise UnreadableImage(f"{ids[i]}: the box {corners[i].tolist()} lies outside the picture of {size} pixels")
    return picture.crop(box)
