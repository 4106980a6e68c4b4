"""Exact retrieval from galleries of millions, in a fixed budget of memory: ranks are counted, block by block.

Every metric of ``metrics.retrieval`` follows from the ranks of the relevant items, and the rank of the i-th best
relevant item is i plus the number of irrelevant items that score at least as much (``metrics.RANKING``). So the few
relevant scores of a query are computed first. Then the gallery streams by in blocks: the irrelevant scores of a block
are sorted, each relevant score is looked up among them, and what it finds is added to its count. The matrix of all
queries and items never exists, and no query's whole row is sorted.

Scores are what ``metrics.retrieval`` ranks by: float64 products, rounded to float32. So equal rows, such as features
stored in half precision, tie wherever they stand, and neither the sizes of blocks nor the order of the gallery nor the
device changes a rank. Only the rounding of float64 products (1e-16) can, here as in ``metrics.retrieval``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.rows import normalised, strings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.checks import check_ks
from crossgap_lib.metrics.ranking import Retrieval, collected, in_words, retrieval
from crossgap_lib.progress import bar

MEMORY = 2**29
_LEAST_MEMORY = 2**20
_LONG_ROW, _MANY_ENTRIES = 25_000, 10**8  # beyond both, counting is the faster way
_MOST_ROWS = 8192  # of the gallery at a time, where memory allows; ids are compared as many at a time
_MOST_QUERIES = {"cpu": 256, "cuda": 4096}  # at a time against a block, where memory allows
# Bytes of working memory, for each ...
_NUMBER_BYTES = 8 * 4  # number of a block's rows: its copies while it is read and normalised, and the float64
_SCORE_BYTES = 8 + 4 + 1 + 12  # score: float64, float32, whether it is left out, and what a GPU's sort takes
_LOOKUP_BYTES = 8 + 4  # relevant score that is looked up in a block
_KEPT_BYTES = 48  # relevant score of the queries that are ranked together: itself, its count, its rank and precision
_ITEM_BYTES = 16  # item of the gallery: its label, and its place among the items in order of their labels


# Interface --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class StoredGallery:
    """A gallery that stays where it is, and what retrieval must know of its rows.

    Attributes:
        features: (n, d) of any precision; a memory-mapped ``.npy``, an HDF5 or zarr array, a tensor: whatever gives
            rows for a slice and for increasing row numbers. Rows are normalised as ``Embeddings`` does.
        labels: (n,) whole numbers.
        ids: (n,) names, or None: then no row can be recognised as the query itself.
    """

    features: Any
    labels: np.ndarray
    ids: np.ndarray | None = None

    @classmethod
    def open(cls, path: str | Path, labels: np.ndarray, ids: np.ndarray | None = None) -> StoredGallery:
        """A ``.npy`` file, mapped into memory and not read. Raises CrossgapError where it can't be."""
        try:
            return cls(np.load(path, mmap_mode="r", allow_pickle=False), labels, ids)
        except (OSError, ValueError) as error:
            raise CrossgapError(f"{path} can't be read as a .npy file of features.") from error

    def __len__(self) -> int:
        return self.features.shape[0]

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """(m, d) float32, unit norm. Raises CrossgapError for NaN, infinity and rows of zeros."""
        if isinstance(self.features, Tensor) and isinstance(which, np.ndarray):
            which = torch.from_numpy(which)
        return normalised(self.features[which])


def exact_retrieval(queries: Embeddings, gallery: Embeddings, **options: Any) -> Retrieval:
    """``metrics.retrieval``, or ``streamed_retrieval`` where that gives the same numbers sooner.

    It does for large galleries, as long as labels alone say what is relevant and AP is the mean of precisions. Options
    are those of ``metrics.retrieval``.
    """
    counts = set(options) <= {"self_match", "ks", "ap"} and options.get("ap", "mean") == "mean"
    if counts and len(gallery) > _LONG_ROW and len(queries) * len(gallery) > _MANY_ENTRIES:
        return streamed_retrieval(queries, gallery, **{k: v for k, v in options.items() if k != "ap"})
    return retrieval(queries, gallery, **options)


def streamed_retrieval(
    queries: Embeddings,
    gallery: Embeddings | StoredGallery,
    *,
    self_match: str = "remove",
    ks: Sequence[int] = (1, 5, 10),
    device: str | torch.device | None = None,
    memory: int = MEMORY,
) -> Retrieval:
    """Rank a large gallery for every query by cosine similarity, as ``metrics.retrieval`` does, by counting.

    Args:
        queries: (q, d) with labels.
        gallery: (g, d) with labels; an item is relevant when its label equals the query's.
        self_match: "remove", "count" or "keep" the gallery's entry with the query's own id, as for ``retrieval``.
        ks: ranks of R@k.
        device: where products are computed; CUDA where there is one.
        memory: bytes aimed at for all that is made on the way. Features given are not counted, nor are the pages of a
            mapped file, which the system takes back when it needs them. With more, the gallery is read less often.

    Raises:
        CrossgapError: NaN or zero rows, dimensions or labels that do not fit, a gallery without ids where self-matches
            are to be found, k < 1, too little memory, or no query with a relevant item.
    """
    check_ks(ks)
    words = in_words(self_match, "equal label")
    if isinstance(gallery, Embeddings):
        gallery = StoredGallery(gallery.features, gallery.labels, gallery.ids)
    _check(queries, gallery, self_match, memory)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    own = np.full(len(queries), -1) if self_match == "keep" else _own_rows(queries.ids, gallery.ids)
    relevant = _Relevant(queries.labels, np.asarray(gallery.labels), own)
    counted = relevant.own if self_match == "count" else np.zeros(len(queries), int)
    columns = {"n_relevant": relevant.n, "counted": counted}
    for group in bar(_groups(relevant, queries.features.shape[1], memory), desc="groups of queries"):
        search = _Search(queries.features[torch.from_numpy(group)].to(device), group, relevant, gallery, memory)
        for name, values in _measure(search.ranks(), relevant.n[group], counted[group], ks).items():
            columns.setdefault(name, np.zeros(len(queries), values.dtype))[group] = values
    return collected(columns, (len(queries), len(gallery)), int((own >= 0).sum()), words)


# Relevant items ---------------------------------------------------------------------------------------------


class _Relevant:
    """The relevant items of each query, found by label without a matrix of pairs.

    Args:
        labels, item_labels: (q,) of the queries and (g,) of the gallery's items.
        own_row: (q,) the gallery's row that is the query itself, or -1. It is not among the relevant items.
    """

    def __init__(self, labels: np.ndarray, item_labels: np.ndarray, own_row: np.ndarray):
        self.labels, self.item_labels, self.own_row = labels, item_labels, own_row
        self.by_label = np.argsort(item_labels, kind="stable")  # (g,) rows in order of labels, then increasing
        in_order = item_labels[self.by_label]
        self.first = np.searchsorted(in_order, labels, "left")  # (q,) where the query's class begins in by_label
        self.class_size = np.searchsorted(in_order, labels, "right") - self.first  # (q,)
        self.own = ((own_row >= 0) & (item_labels[own_row] == labels)).astype(np.int64)  # (q,) 1: itself in its class
        self.n = self.class_size - self.own  # (q,)

    def class_rows(self, query: int) -> np.ndarray:
        """(m,) the gallery's rows of a query's class, increasing, the query itself included."""
        return self.by_label[self.first[query] :][: self.class_size[query]]


def _own_rows(query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    """(q,) the gallery's row with the same id, or -1; ids are compared a block at a time."""
    order = np.argsort(query_ids)
    known, own = query_ids[order], np.full(len(query_ids), -1)
    for block in _slices(0, len(gallery_ids), _MOST_ROWS):
        ids = strings("ids", gallery_ids[block])
        at = np.searchsorted(known, ids).clip(max=len(known) - 1)
        found = np.flatnonzero(known[at] == ids)
        to = order[at[found]]
        if (own[to] >= 0).any() or len(np.unique(to)) < len(to):
            raise CrossgapError("The gallery's ids repeat; every row needs its own.")
        own[to] = block.start + found
    return own


def _groups(relevant: _Relevant, d: int, memory: int) -> list[np.ndarray]:
    """Queries with something to find, in groups whose relevant scores fit into a third of the memory.

    Queries of one class stand side by side, small classes first. Each group reads the gallery once.
    """
    order = np.lexsort((relevant.first, relevant.class_size))
    order = order[relevant.n[order] > 0]
    budget = max(memory // 3 - _ITEM_BYTES * len(relevant.item_labels), memory // 8)
    # Bytes of each query. Those before it in its group take as much: all get the room that the largest class needs.
    each = relevant.class_size[order] * _KEPT_BYTES + 4 * d
    groups, start = [], 0
    while start < len(order):
        fits = each[start:] * np.arange(1, len(order) - start + 1) <= budget
        stop = start + max(1, int(fits.sum()))
        groups.append(order[start:stop])
        start = stop
    return groups


# Counting ---------------------------------------------------------------------------------------------------


class _Search:
    """Some queries, those of one class side by side, against the whole gallery.

    Args:
        x: (t, d) their features, on the device that computes.
        group: (t,) which of all queries these are.
    """

    def __init__(self, x: Tensor, group: np.ndarray, relevant: _Relevant, gallery: StoredGallery, memory: int):
        self.x, self.group, self.relevant, self.gallery = x, group, relevant, gallery
        self.most = int(relevant.class_size[group].max())  # relevant scores that are kept for each query
        rows = memory // (8 * x.shape[1] * _NUMBER_BYTES)
        self.rows = int(np.clip(rows, 16, _MOST_ROWS))  # of the gallery at a time
        queries = memory // (8 * (self.rows * _SCORE_BYTES + self.most * _LOOKUP_BYTES))
        self.queries = int(np.clip(queries, 1, _MOST_QUERIES.get(x.device.type, _MOST_QUERIES["cuda"])))  # at a time

    def ranks(self) -> np.ndarray:
        """(t, r) ranks of each query's relevant items, best first; beyond its last item the numbers mean nothing."""
        best_first = self._relevant_scores().sort(dim=1, descending=True).values
        ahead = torch.zeros(best_first.shape, dtype=torch.int32, device=self.x.device)
        labels, own = self.relevant.labels[self.group], self.relevant.own_row[self.group]  # (t,)
        for block in bar(_slices(0, len(self.gallery), self.rows), desc="gallery"):
            y = self._items(block)
            item_labels, items = self.relevant.item_labels[block], np.arange(block.start, block.stop)
            for tile in _slices(0, len(self.x), self.queries):
                left_out = (labels[tile, None] == item_labels) | (own[tile, None] == items)  # relevant, or itself
                scores = _similarity(self.x[tile], y).masked_fill_(self._put(left_out), -torch.inf)
                ahead[tile] += _at_least(scores, best_first[tile])
        return np.arange(1, self.most + 1) + ahead.cpu().numpy()

    def _relevant_scores(self) -> Tensor:
        """(t, r) float32 of each query's relevant items, in any order; -inf for the query itself and where none is."""
        scores = self.x.new_full((len(self.x), self.most), -torch.inf)
        own = self.relevant.own_row[self.group]
        begins = np.flatnonzero(np.diff(self.relevant.first[self.group], prepend=-1))  # the first query of each class
        for begin, end in zip(begins, [*begins[1:], len(self.group)], strict=True):
            items = self.relevant.class_rows(self.group[begin])
            for part in _slices(0, len(items), self.rows):
                y = self._items(items[part])
                for tile in _slices(begin, end, self.queries):
                    itself = self._put(own[tile, None] == items[part])
                    scores[tile, part] = _similarity(self.x[tile], y).masked_fill_(itself, -torch.inf)
        return scores

    def _items(self, which: slice | np.ndarray) -> Tensor:
        """(b, d) float64, some rows of the gallery."""
        return self.gallery.rows(which).to(self.x.device).double()

    def _put(self, mask: np.ndarray) -> Tensor:
        return torch.from_numpy(mask).to(self.x.device)


def _similarity(x: Tensor, y: Tensor) -> Tensor:
    """(t, b) float32 of x (t, d) float32 and y (b, d) float64: products in float64, rounded."""
    return (x.double() @ y.T).float()


def _at_least(scores: Tensor, marks: Tensor) -> Tensor:
    """(t, r) how many of a query's scores (t, b) are at least as high as each of its marks (t, r). Sorts ``scores``."""
    if scores.device.type == "cpu":
        scores.numpy().sort(axis=1)  # some thirty times as fast as torch's, which keeps track of places
    else:
        scores = scores.sort(dim=1).values
    return scores.shape[1] - torch.searchsorted(scores, marks)


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _measure(
    ranks: np.ndarray, n_relevant: np.ndarray, counted: np.ndarray, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Every number of each query from the ranks (q, r) of its n_relevant (q,) items, best first.

    ``counted``: (q,) removed items that the cut of mAP@R counts all the same.
    """
    place = np.arange(1, ranks.shape[1] + 1)
    real = place <= n_relevant[:, None]
    precision = np.where(real, place / ranks, 0.0)  # (q, r) precision at the rank of each relevant item
    within = real & (ranks <= (n_relevant + counted)[:, None])
    return {
        "ap": precision.sum(axis=1) / n_relevant,
        "r_precision": (real & (ranks <= n_relevant[:, None])).sum(axis=1) / n_relevant,
        "map_at_r": np.where(within, precision, 0.0).sum(axis=1) / n_relevant,
        **{f"hit_at_{k}": ranks[:, 0] <= k for k in ks},
    }


# Checks -----------------------------------------------------------------------------------------------------


def _check(queries: Embeddings, gallery: StoredGallery, self_match: str, memory: int) -> None:
    shape = tuple(gallery.features.shape)
    if len(shape) != 2 or 0 in shape:
        raise CrossgapError(f"The gallery must be features (g, d) with g and d at least 1, but their shape is {shape}.")
    if queries.features.shape[1] != shape[1]:
        raise CrossgapError(
            f"Features must share one space, but queries have {queries.features.shape[1]} dimensions and gallery "
            f"{shape[1]}."
        )
    if queries.labels is None or gallery.labels is None:
        raise CrossgapError("Queries and gallery need labels: an item is relevant when its label equals the query's.")
    for name, column in (("labels", gallery.labels), ("ids", gallery.ids)):
        if column is not None and np.shape(column) != shape[:1]:
            raise CrossgapError(f"The gallery has {shape[0]} rows, but {name} of shape {np.shape(column)}.")
    if np.asarray(gallery.labels).dtype.kind not in "iub":
        raise CrossgapError(f"The gallery's labels must be whole numbers, not {np.asarray(gallery.labels).dtype}.")
    if gallery.ids is None and self_match != "keep":
        raise CrossgapError("The gallery has no ids to find self-matches by; give them, or pass self_match='keep'.")
    if memory < _LEAST_MEMORY:
        raise CrossgapError(f"memory must be at least {_LEAST_MEMORY} bytes, but is {memory}.")
