"""Exact retrieval against galleries of millions: no matrix, no sorting of rows, float32 products.

Every metric of ``metrics.retrieval`` follows from the ranks of the relevant items, and the rank of the i-th best
relevant item is i plus the number of irrelevant items that score at least as much (``metrics.RANKING``). So the few
relevant scores of a query are computed first, in float64; then the gallery streams by, a block of products at a time,
and each product is only counted: it falls into one of some thousand equal cells between the query's lowest and highest
relevant score. Most cells hold no relevant score, and counting in the cell is all there is to do.

What is guaranteed: a float32 product decides nothing that its rounding could change. One that lies within a tolerance
of a relevant score is computed again in float64 and rounded to float32, which is the similarity ``metrics.retrieval``
ranks by. So equal rows, such as features stored in half precision, tie wherever they stand, and neither the sizes of
blocks nor the order of the gallery nor the device changes a rank. The tolerance is the worst case of a product of unit
vectors, d * 2^-24, or, where 2^17 relevant pairs were measured, twice the largest error among them: of so many normal
errors the largest lies beyond four standard deviations, and one in 10^15 or fewer lies beyond twice that. Where a
float64 product decides, its own error (1e-16) can, as there.

``metrics.retrieval`` sorts each query's whole row and takes any relevance; it is for some ten thousand items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.checks import check_ks
from crossgap_lib.metrics.ranking import Retrieval, collected, in_words, retrieval
from crossgap_lib.metrics.streamed.cells import ScoreCells, bytes_per_query
from crossgap_lib.metrics.streamed.gallery import StoredGallery
from crossgap_lib.metrics.streamed.pairs import RelevantPairs, own_rows
from crossgap_lib.progress import bar

MEMORY = 2**29
_LONG_ROW, _MANY_ENTRIES = 25_000, 10**8  # beyond, counting is the faster way
_MOST_ROWS = 8192  # of the gallery at a time, where memory allows
_PRODUCT_BYTES = 4 + 4 + 8 + 1  # a product: itself, its cell as float32 and int64, whether that holds a relevant score
_PAIR_BYTES = 16  # an item's place among its label's, and the code of that
_LOADING = 6  # float32 copies of a block while it is read and normalised
_RECOMPUTED = {"cpu": 128, "cuda": 2**16}  # pairs whose products are made anew at a time
_MANY_PAIRS = 2**17  # whose largest rounding error tells that of all others
_LEAST_MEMORY = 2**20


def exact_retrieval(queries: Embeddings, gallery: Embeddings, **options: Any) -> Retrieval:
    """``metrics.retrieval``, or ``streamed_retrieval`` where it gives the same numbers sooner: long rows, labels alone.

    Options are those of ``metrics.retrieval``.
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
    gallery = _stored(gallery)
    _check(queries, gallery, self_match, memory)
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    own = np.full(len(queries), -1) if self_match == "keep" else own_rows(queries.ids, gallery.ids)  # (q,), -1: none
    pairs = RelevantPairs(queries.labels, np.asarray(gallery.labels), own)
    sizes = _Sizes.within(memory, tuple(gallery.features.shape), device)
    columns = _empty_columns(len(queries), ks)
    columns["n_relevant"] = pairs.n_relevant
    with _workers(device) as pool:
        for group in bar(list(_groups(pairs, sizes.state)), desc="groups of queries"):
            x = queries.features[torch.from_numpy(group)].to(device)
            ranks = _Search(x, group, pairs, gallery, sizes, pool).ranks()
            counted = pairs.own_relevant[group] if self_match == "count" else 0
            for name, values in _measure(ranks, pairs.n_relevant[group], counted, ks).items():
                columns[name][group] = values
    return collected(columns, (len(queries), len(gallery)), ks, int((own >= 0).sum()), words)


# Numbers from ranks -----------------------------------------------------------------------------------------


def _empty_columns(n: int, ks: Sequence[int]) -> dict[str, np.ndarray]:
    numbers = {name: np.zeros(n) for name in ("ap", "r_precision", "map_at_r")}
    return {**numbers, **{f"hit_at_{k}": np.zeros(n, bool) for k in ks}}


def _measure(
    ranks: np.ndarray, n_relevant: np.ndarray, counted: np.ndarray | int, ks: Sequence[int]
) -> dict[str, np.ndarray]:
    """Every number of each query from the ranks of its relevant items, best first: (q, r), 0 beyond n_relevant (q,)."""
    place = np.arange(1, ranks.shape[1] + 1)
    real = place <= n_relevant[:, None]
    precision = np.where(real, place / np.maximum(ranks, 1), 0.0)  # (q, r)
    r = n_relevant + counted
    within = real & (ranks <= r[:, None])
    return {
        "ap": precision.sum(axis=1) / n_relevant,
        "r_precision": within.sum(axis=1) / r,
        "map_at_r": np.where(within, precision, 0.0).sum(axis=1) / r,
        **{f"hit_at_{k}": ranks[:, 0] <= k for k in ks},
    }


# Counting ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Sizes:
    """How the memory is divided: bytes of what is kept for queries, rows of the gallery and queries at a time."""

    state: int
    rows: int
    queries: int
    workers: int

    @classmethod
    def within(cls, memory: int, shape: tuple[int, int], device: torch.device) -> _Sizes:
        g, d = shape
        workers, most = (torch.get_num_threads(), 256) if device.type == "cpu" else (1, 4096)
        rows = int(np.clip(memory // (8 * 4 * d * _LOADING), 16, _MOST_ROWS))
        queries = int(np.clip(memory // (8 * rows * _PRODUCT_BYTES * workers), 1, most))
        return cls(max(memory // 3 - _PAIR_BYTES * g, memory // 8), rows, queries, workers)


def _groups(pairs: RelevantPairs, budget: int) -> Iterator[np.ndarray]:
    """Queries, in order, as many at a time as may be kept; each group reads the gallery once."""
    each, start = np.array([bytes_per_query(r) for r in pairs.class_sizes[pairs.query_codes[pairs.order]]]), 0
    while start < len(each):
        n = max(1, int((each[start:] * np.arange(1, len(each) - start + 1) <= budget).sum()))
        yield pairs.order[start : start + n]
        start += n


@contextmanager
def _workers(device: torch.device) -> Iterator[ThreadPoolExecutor]:
    """On a CPU, a thread of single-threaded kernels for each of torch's threads: they need not wait for each other."""
    threads = torch.get_num_threads()
    workers, inside = (threads, 1) if device.type == "cpu" else (1, threads)
    torch.set_num_threads(inside)
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(inside,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class _Search:
    """Some queries, those of one class side by side, against the whole gallery."""

    x: Tensor  # (q, d) on the device
    group: np.ndarray  # (q,) which of all queries these are
    pairs: RelevantPairs
    gallery: StoredGallery
    sizes: _Sizes
    pool: ThreadPoolExecutor

    def ranks(self) -> np.ndarray:
        """(q, r) of the relevant items, best first, 0 where a query has fewer."""
        cells = self._marked()
        tiles = _slices(0, len(self.x), min(self.sizes.queries, -(-len(self.x) // self.sizes.workers)))
        blocks = _slices(0, len(self.gallery), self.sizes.rows)
        coming = self.pool.submit(self.gallery.rows, blocks[0])
        for block, following in bar(zip(blocks, [*blocks[1:], None], strict=True), desc="gallery", total=len(blocks)):
            y = coming.result().to(self.x.device)
            if following:
                coming = self.pool.submit(self.gallery.rows, following)
            list(self.pool.map(partial(self._count, cells, block, y), tiles))
        return cells.ranks().cpu().numpy()

    def _count(self, cells: ScoreCells, block: slice, y: Tensor, tile: slice) -> None:
        """Counts the products of some queries with a block of the gallery, y (b, d)."""
        x = self.x[tile]
        scores = torch.mm(x, y.T, out=cells.buffer("products", (len(x), len(y)), torch.float32))
        left_out = (torch.from_numpy(at).to(x.device) for at in self.pairs.within(self.group[tile], block))
        scores[tuple(left_out)] = -torch.inf
        cells.add(tile, scores, _exact(x, y))

    def _marked(self) -> ScoreCells:
        """Cells around the relevant scores: float64 products, rounded to float32."""
        codes, n = self.pairs.query_codes[self.group], self.pairs.n_relevant[self.group]
        marks = self.x.new_full((len(self.x), self.pairs.most(self.group)), torch.inf)
        error = max(self.pool.map(partial(self._mark, codes, marks), np.unique(codes)))
        return ScoreCells(marks, torch.from_numpy(n), _tolerance(error, int(n.sum()), self.x.shape[1]), self.pool.map)

    def _mark(self, codes: np.ndarray, marks: Tensor, code: int) -> float:
        """Fills in the relevant scores of a class; the largest error of float32 products among them."""
        first, last = np.searchsorted(codes, [code, code + 1])
        rows, error = self.pairs.class_rows(code), 0.0
        for part in _slices(0, len(rows), self.sizes.rows):
            y = self.gallery.rows(rows[part]).to(self.x.device)
            for tile in _slices(first, last, self.sizes.queries):
                exact = self.x[tile].double() @ y.double().T
                error = max(error, float((self.x[tile] @ y.T - exact).abs().max()))
                marks[tile, part] = exact.float()
        own = first + np.flatnonzero(self.pairs.own_relevant[self.group[first:last]])
        marks[own, np.searchsorted(rows, self.pairs.own[self.group[own]])] = torch.inf
        return error


def _slices(start: int, stop: int, step: int) -> list[slice]:
    return [slice(at, min(at + step, stop)) for at in range(start, stop, step)]


def _tolerance(error: float, pairs: int, d: int) -> float:
    """How far a float32 product of unit vectors (d,) may be from the exact one, rounded: see the module.

    error: the largest seen over so many pairs.
    """
    return 2**-24 + (2 * error if pairs >= _MANY_PAIRS else d * 2**-24)


def _exact(x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Positions in x (t, d) and y (b, d) -> float64 products, rounded to float32."""

    def similarity(i: Tensor, j: Tensor) -> Tensor:
        step = _RECOMPUTED.get(x.device.type, _RECOMPUTED["cuda"])
        parts = zip(i.split(step), j.split(step), strict=True)
        pairs = ((x.index_select(0, a).double(), y.index_select(0, b)) for a, b in parts)  # (m, d) each
        return torch.cat([left.mul_(right).sum(1).float() for left, right in pairs])

    return similarity


# Checks -----------------------------------------------------------------------------------------------------


def _stored(gallery: Embeddings | StoredGallery) -> StoredGallery:
    if isinstance(gallery, Embeddings):
        return StoredGallery(gallery.features, gallery.labels, gallery.ids)
    return gallery


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
    if torch.get_float32_matmul_precision() != "highest":
        raise CrossgapError(
            "Exact ranks need torch.set_float32_matmul_precision('highest'); TF32 and bfloat16 do not do."
        )
    if memory < _LEAST_MEMORY:
        raise CrossgapError(f"memory must be at least {_LEAST_MEMORY} bytes, but is {memory}.")
