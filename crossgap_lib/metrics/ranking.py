"""Retrieval: every number here comes from one ranking, which ``RANKING`` defines.

Ties count against the method. So no number depends on the order of the gallery, and an encoder that gives all pictures
the same feature gets the worst score there is and not a lucky one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.metrics.bootstrap import bootstrap_interval
from crossgap_lib.metrics.checks import check_grid, check_ks, finite, labels_of, mask_of, numpy_of, two_sets

if TYPE_CHECKING:
    from crossgap_lib.embeddings.embeddings import Embeddings

    Array = np.ndarray | torch.Tensor


RANKING = (
    "The gallery is ranked by descending similarity in float32; ties count against the method: "
    "of equal similarities the irrelevant items come first."
)
BLOCK_BYTES = 2**27  # working memory for one block of queries: some 170 of them for a gallery of 25 000
BYTES_PER_ENTRY = 32  # similarity, sort key, hits and precision of one (query, gallery item) pair
_SELF_MATCH = {
    "remove": "The query itself (equal id) is removed. ",
    "count": "The query itself (equal id) is removed; mAP@R is cut at a rank that counts it, and a query alone in its "
    "class keeps AP 0, as in Cross the Gap's released code. ",
    "keep": "Self-matches are kept. ",
}
_AP = {
    "mean": "AP: the mean of precision at the relevant items.",
    "trapezoid": "AP: the area under the precision-recall curve by the trapezoid rule (Radenovic et al. 2018).",
}
_LAST = np.int64(2) ** 40  # a sort key behind those of all float32 scores; it is even, which means irrelevant

_Pairs = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # similarity, relevant, exclude: (rows, g) each


# Ranking ----------------------------------------------------------------------------------------------------


def ranked_relevance(similarity: Array, relevant: Array, exclude: Array | None = None) -> np.ndarray:
    """Relevance in ranked order, best first: bool (q, g), see ``RANKING``.

    similarity: (q, g), any monotone score; relevant, exclude: bool (q, g). An excluded entry (a self-match)
    moves behind the whole gallery and counts as irrelevant: it takes no rank before any other item.
    Raises CrossgapError for NaN or infinite similarities, no queries, an empty gallery, or other shapes.
    """
    check_grid(similarity.shape)
    similarity = finite(similarity, "the similarity matrix")  # (q, g) float32
    relevant = mask_of("relevant", relevant, similarity.shape)
    # IEEE floats order like their bits, once the negative ones are flipped; + 0.0 makes -0.0 equal to 0.0.
    bits = (similarity + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    key = (~bits).astype(np.int64)  # ascending key = descending similarity
    key *= 2
    key += relevant  # the low bit carries relevance through the sort and puts irrelevant ties first
    if exclude is not None:
        key[mask_of("exclude", exclude, similarity.shape)] = _LAST
    key.sort(axis=1)
    return (key & 1).astype(bool)


def average_precision(similarity: Array, relevant: Array) -> float:
    """AP of one query, similarity (g,), relevant bool (g,): the mean of precision at the relevant ones."""
    similarity, relevant = numpy_of(similarity)[None], numpy_of(relevant)[None]  # (1, g)
    return float(retrieval_from_similarity(similarity, relevant, ks=()).ap[0])


def _measure(
    ranked: np.ndarray, ks: Iterable[int], counted: np.ndarray | int = 0, ap: str = "mean"
) -> dict[str, np.ndarray]:
    """Every number of each query from ranked relevance (q, g); they are zero where no item is relevant.

    ``counted``: (q,) removed items that the cut of mAP@R counts all the same. ``ap``: a key of ``_AP``.
    """
    n_relevant = ranked.sum(axis=1)  # (q,) counted after self-matches are gone
    found = np.maximum(n_relevant, 1)
    ranks = np.arange(1, ranked.shape[1] + 1)
    hits = np.cumsum(ranked, axis=1, dtype=np.int32)  # (q, g) relevant items up to each rank
    precision = np.where(ranked, hits / ranks, 0.0)  # (q, g) precision at the rank of each relevant item
    summed = precision if ap == "mean" else (precision + np.where(ranked, _before(hits, ranked, ranks), 0.0)) / 2
    hit_at = {f"hit_at_{k}": hits[:, min(k, len(ranks)) - 1] > 0 for k in ks}
    return {
        "n_relevant": n_relevant,
        "ap": summed.sum(axis=1) / found,
        "r_precision": hits[np.arange(len(found)), found - 1] / found,
        "map_at_r": np.where(ranks <= (found + counted)[:, None], precision, 0.0).sum(axis=1) / found,
        **hit_at,
    }


def _before(hits: np.ndarray, ranked: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """(q, g) precision of the ranking that ends just before each rank; 1 of the empty one, as in Radenovic's script."""
    return np.where(ranks > 1, (hits - ranked) / np.maximum(ranks - 1, 1), 1.0)


# Retrieval --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Per-query retrieval numbers, all in [0, 1]; n counts the queries that have a relevant item."""

    per_query: dict[str, np.ndarray]  # name -> (n,), as ``_measure`` calls them; ``interval`` takes these names
    n_relevant: np.ndarray  # (n,) R
    rows: np.ndarray  # (n,) which of the queries given these are
    dropped: int  # queries left out because nothing in the gallery is relevant to them
    removed: int  # gallery entries taken out, over all queries given: self-matches and excluded ones
    definition: str  # how all this was counted, in words

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def ap(self) -> np.ndarray:
        """(n,) average precision."""
        return self.per_query["ap"]

    @property
    def r_precision(self) -> np.ndarray:
        """(n,) precision at rank R, R = relevant items without the self-match."""
        return self.per_query["r_precision"]

    @property
    def map_at_r(self) -> np.ndarray:
        """(n,) sum over ranks i <= R of precision@i * relevant(i), divided by R."""
        return self.per_query["map_at_r"]

    @property
    def hit_at(self) -> dict[int, np.ndarray]:
        """k -> bool (n,): at least one relevant item in the top k."""
        hits = {name: hit for name, hit in self.per_query.items() if name.startswith("hit_at_")}
        return {int(name.removeprefix("hit_at_")): hit for name, hit in hits.items()}

    @property
    def means(self) -> dict[str, float]:
        """The mean over queries of each metric; ``means["ap"]`` is mAP, ``means["hit_at_5"]`` is R@5."""
        return {name: float(values.mean()) for name, values in self.per_query.items()}

    def interval(self, name: str, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
        """Bootstrap interval of one mean: percentiles over resampled queries; the gallery stays as it is."""
        if name not in self.per_query:
            raise CrossgapError(f"No metric is called {name!r}.{did_you_mean(name, self.per_query)}")
        return bootstrap_interval(self.per_query[name], seed, level)

    def table(self, seed: int = 0, level: float = 0.95) -> pd.DataFrame:
        """One row a metric (the index): its mean over queries, the bootstrap interval, and n queries."""
        means, n = self.means, len(self)
        rows = {name: (means[name], *self.interval(name, seed, level), n) for name in means}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["mean", "low", "high", "queries"])


def retrieval(
    queries: Embeddings,
    gallery: Embeddings,
    *,
    relevant: Array | None = None,
    exclude: Array | None = None,
    self_match: str = "remove",
    ap: str = "mean",
    ks: Sequence[int] = (1, 5, 10),
    block_bytes: int = BLOCK_BYTES,
) -> Retrieval:
    """Rank the gallery for every query by cosine similarity (Cross the Gap, App. B; Reevaluating, Sec. 4.1).

    relevant: bool (q, g); without it an item is relevant when its label equals the query's.
    exclude: bool (q, g), items that are irrelevant and take no rank: junk of ROxford and RParis.
    self_match: "remove" takes the query's own entry (equal id) out of its gallery before R is counted. "count" does as
    the released Cross-the-Gap code, whose R counts the query: mAP@R is cut at R, one rank later, but divided by R - 1,
    and a query that is alone in its class keeps AP 0, where it is left out otherwise; R-Precision is the same. "keep"
    leaves the entry in, as paired rows with equal ids need.
    ap: "mean" of precision at the relevant items, or "trapezoid", as the evaluation of ROxford and RParis has it.
    ks: ranks of R@k. block_bytes bounds the working memory: the (q, g) matrix never exists as a whole.
    Each query's row is sorted: for more than some ten thousand items take ``streamed_retrieval``, which counts.
    Raises CrossgapError for empty, non-finite or non-unit features, dimensions, labels or relevance that do
    not fit, k < 1, or when no query has a relevant item.
    """
    words = in_words(self_match, "equal label" if relevant is None else "as given for each pair", ap)
    q, g = two_sets(queries, gallery, ("queries", "gallery"))  # (q, d), (g, d)
    is_relevant = _relevance(queries, gallery, relevant, (len(q), len(g)))
    is_self = None if self_match == "keep" else _equal(queries.ids, gallery.ids)
    junk = None if exclude is None else mask_of("exclude", exclude, (len(q), len(g)))
    words += "" if junk is None else " Excluded items take no rank."

    def pairs(rows: slice) -> _Pairs:
        hit, out = is_relevant(rows), is_self(rows) if is_self else None
        if junk is not None:
            hit, out = hit & ~junk[rows], junk[rows] if out is None else out | junk[rows]
        # Float64 products, rounded to float32 by the ranking: equal vectors tie exactly wherever they stand.
        return q[rows] @ g.T, hit, out

    return _collect(pairs, (len(q), len(g)), ks, block_bytes, words, counted=self_match == "count", ap=ap)


def in_words(self_match: str, relevance: str, ap: str = "mean") -> str:
    """What a cosine ranking counts as its own, as relevant and as AP; raises CrossgapError for unknown settings."""
    if self_match not in _SELF_MATCH:
        raise CrossgapError(f"self_match must be one of {', '.join(_SELF_MATCH)}, but is {self_match!r}.")
    return f"Similarity is the cosine. {_SELF_MATCH[self_match]}Relevant: {relevance}. {_in_words(ap)}"


def _in_words(ap: str) -> str:
    if ap not in _AP:
        raise CrossgapError(f"ap must be one of {', '.join(_AP)}, but is {ap!r}.")
    return _AP[ap]


def retrieval_from_similarity(
    similarity: Array,
    relevant: Array,
    exclude: Array | None = None,
    *,
    ap: str = "mean",
    ks: Sequence[int] = (1, 5, 10),
    block_bytes: int = BLOCK_BYTES,
) -> Retrieval:
    """The same from any similarity (q, g), with relevant and exclude bool (q, g); raises as ``retrieval``."""
    similarity = numpy_of(similarity)
    check_grid(similarity.shape)
    relevant = mask_of("relevant", relevant, similarity.shape)
    exclude = None if exclude is None else mask_of("exclude", exclude, similarity.shape)

    def pairs(rows: slice) -> _Pairs:
        return similarity[rows], relevant[rows], None if exclude is None else exclude[rows]

    words = f"Similarity, relevance and exclusions: as given for each pair. {_in_words(ap)}"
    return _collect(pairs, similarity.shape, ks, block_bytes, words, ap=ap)


def mean_average_precision(queries: Embeddings, gallery: Embeddings, **options: Any) -> float:
    """mAP over the queries; options as for ``retrieval``."""
    return retrieval(queries, gallery, **options).means["ap"]


def r_precision(queries: Embeddings, gallery: Embeddings, **options: Any) -> float:
    """Mean R-Precision (Cross the Gap, App. B); options as for ``retrieval``."""
    return retrieval(queries, gallery, **options).means["r_precision"]


def map_at_r(queries: Embeddings, gallery: Embeddings, **options: Any) -> float:
    """mAP@R (Musgrave et al. 2020, "A Metric Learning Reality Check"); options as for ``retrieval``."""
    return retrieval(queries, gallery, **options).means["map_at_r"]


def recall_at_k(queries: Embeddings, gallery: Embeddings, k: int, **options: Any) -> float:
    """R@k as retrieval papers count it: the share of queries with at least one relevant item in the top k.

    With one positive a query this is recall; with several (five captions a picture) it is hit@k.
    For row i paired with row i give both sides the labels 0 .. n - 1 and pass ``self_match="keep"``.
    """
    return retrieval(queries, gallery, ks=(k,), **options).means[f"hit_at_{k}"]


def _collect(
    pairs: Callable[[slice], _Pairs],
    shape: tuple[int, ...],
    ks: Sequence[int],
    block_bytes: int,
    words: str,
    *,
    counted: bool = False,
    ap: str = "mean",
) -> Retrieval:
    """Measures one block of queries after the other, and keeps those that have something to find.

    ``counted``: whether relevant items that were removed count in the cut of mAP@R.
    """
    check_ks(ks)
    parts, removed = [], 0
    for rows in _blocks(shape, block_bytes):
        similarity, relevant, exclude = pairs(rows)
        own = (relevant & exclude).sum(axis=1) if counted else np.zeros(len(relevant), int)
        parts.append({"counted": own} | _measure(ranked_relevance(similarity, relevant, exclude), ks, own, ap))
        removed += 0 if exclude is None else int(exclude.sum())
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return collected(columns, shape, removed, words)


def collected(columns: dict[str, np.ndarray], shape: tuple[int, ...], removed: int, words: str) -> Retrieval:
    """The queries that have something to find, and how it was counted, in words.

    columns: what ``_measure`` returns, of every query, (q,) each, and counted: 1 where the query's own entry counts, so
    that it is kept even with nothing to find; shape: (q, g).
    """
    kept = np.flatnonzero(columns["n_relevant"] + columns.pop("counted"))
    if not columns["n_relevant"].any():
        raise CrossgapError(_nothing_to_find(removed))
    columns = {name: values[kept] for name, values in columns.items()}
    n_relevant = columns.pop("n_relevant")
    dropped = shape[0] - len(kept)
    definition = (
        f"{RANKING} {words} R@k: at least one relevant item in the top k. {removed} of {shape[0] * shape[1]} "
        f"pairs removed; {dropped} of {shape[0]} queries left out for having no relevant item."
    )
    return Retrieval(columns, n_relevant, kept, dropped, removed, definition)


def _blocks(shape: tuple[int, ...], block_bytes: int) -> Iterator[slice]:
    step = max(1, block_bytes // (shape[1] * BYTES_PER_ENTRY))
    return (slice(start, start + step) for start in range(0, shape[0], step))


def _nothing_to_find(removed: int) -> str:
    hint = (
        "; self-matches (equal ids) were removed, so pass self_match='keep' where equal ids mark a pair"
        if removed
        else ""
    )
    return f"No query has a relevant item in the gallery{hint}."


def _relevance(
    queries: Embeddings, gallery: Embeddings, relevant: Array | None, shape: tuple[int, int]
) -> Callable[[slice], np.ndarray]:
    """Rows of queries -> bool (rows, g)."""
    if relevant is not None:
        return mask_of("relevant", relevant, shape).__getitem__
    return _equal(labels_of("queries", queries, shape[0]), labels_of("gallery", gallery, shape[1]))


def _equal(left: np.ndarray, right: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Rows of left (q,) -> bool (rows, g): where left equals right (g,). Strings are compared as integers."""
    codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1]
    return lambda rows: codes[: len(left)][rows, None] == codes[len(left) :]
