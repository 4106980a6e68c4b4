"""Pure measures: features or similarities in, numbers out.

One definition of a ranking serves every retrieval metric here (``RANKING``): ties count against the method,
so no number depends on the order of the gallery, and a collapsed encoder scores its worst case, not its luck.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from crossgap_lib.errors import CrossgapError, did_you_mean

if TYPE_CHECKING:
    from crossgap_lib.embeddings import Embeddings

    Array = np.ndarray | torch.Tensor
    Vectors = Embeddings | Array

RANKING = (
    "The gallery is ranked by descending similarity in float32; ties count against the method: "
    "of equal similarities the irrelevant items come first."
)
BLOCK_BYTES = 2**27  # working memory for one block of queries: some 170 of them for a gallery of 25 000
BYTES_PER_ENTRY = 32  # similarity, sort key, hits and precision of one (query, gallery item) pair
BOOTSTRAP_RESAMPLES = 1000
_KEPT_RESAMPLES = 4096  # values up to which resamples are kept: 32 MB
_SELF_MATCH = {
    "remove": "The query itself (equal id) is removed. ",
    "count": "The query itself (equal id) is removed, but counted in R. ",
    "keep": "Self-matches are kept. ",
}
_LAST = np.int64(2) ** 40  # a sort key behind every float32 score; even, so it reads as irrelevant


# Ranking ----------------------------------------------------------------------------------------------------


def ranked_relevance(similarity: Array, relevant: Array, exclude: Array | None = None) -> np.ndarray:
    """Relevance in ranked order, best first: bool (q, g), see ``RANKING``.

    similarity: (q, g), any monotone score; relevant, exclude: bool (q, g). An excluded entry (a self-match)
    moves behind the whole gallery and counts as irrelevant: it takes no rank before any other item.
    Raises CrossgapError for NaN or infinite similarities, no queries, an empty gallery, or other shapes.
    """
    _check_grid(similarity.shape)
    similarity = _finite(similarity, "the similarity matrix")  # (q, g) float32
    relevant = _mask("relevant", relevant, similarity.shape)
    # IEEE floats order like their bits, once the negative ones are flipped; + 0.0 makes -0.0 equal to 0.0.
    bits = (similarity + np.float32(0)).view(np.int32)
    bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)
    key = (~bits).astype(np.int64)  # ascending key = descending similarity
    key *= 2
    key += relevant  # the low bit carries relevance through the sort and puts irrelevant ties first
    if exclude is not None:
        key[_mask("exclude", exclude, similarity.shape)] = _LAST
    key.sort(axis=1)
    return (key & 1).astype(bool)


def average_precision(similarity: Array, relevant: Array) -> float:
    """AP of one query, similarity (g,), relevant bool (g,): the mean of precision at the relevant ones."""
    similarity, relevant = _numpy(similarity)[None], _numpy(relevant)[None]  # (1, g)
    return float(retrieval_from_similarity(similarity, relevant, ks=()).ap[0])


def _measure(ranked: np.ndarray, ks: Iterable[int], counted: np.ndarray | int = 0) -> dict[str, np.ndarray]:
    """Every per-query number from ranked relevance (q, g). Without a relevant item the numbers are zero.

    ``counted``: (q,) removed items that R of the numbers at R counts all the same.
    """
    n_relevant = ranked.sum(axis=1)  # (q,) counted after self-matches are gone
    found = np.maximum(n_relevant, 1)
    r = found + counted
    ranks = np.arange(1, ranked.shape[1] + 1)
    hits = np.cumsum(ranked, axis=1, dtype=np.int32)  # (q, g) relevant items up to each rank
    precision = np.where(ranked, hits / ranks, 0.0)  # (q, g) precision at the rank of each relevant item
    hit_at = {f"hit_at_{k}": hits[:, min(k, len(ranks)) - 1] > 0 for k in ks}
    return {
        "n_relevant": n_relevant,
        "ap": precision.sum(axis=1) / found,
        "r_precision": hits[np.arange(len(r)), np.minimum(r, len(ranks)) - 1] / r,
        "map_at_r": np.where(ranks <= r[:, None], precision, 0.0).sum(axis=1) / r,
        **hit_at,
    }


# Retrieval --------------------------------------------------------------------------------------------------


def bootstrap_interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a mean: percentiles over resamples of the values (n,).

    Raises:
        CrossgapError: a level that is no probability.
    """
    if not 0 < level < 1:
        raise CrossgapError(f"level must lie between 0 and 1, but is {level}.")
    means = _resampled_means(np.asarray(values, float), seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    if len(values) <= _KEPT_RESAMPLES:
        return _resamples(len(values), seed) @ values / len(values)
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(values, len(values)).mean() for _ in range(BOOTSTRAP_RESAMPLES)])


@lru_cache(maxsize=4)
def _resamples(n: int, seed: int) -> np.ndarray:
    """How often each of n values is in each resample, (resamples, n): drawn once for all methods that it serves."""
    rng = np.random.default_rng(seed)
    counts = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(BOOTSTRAP_RESAMPLES)]
    return np.array(counts, dtype=float)


@dataclass(frozen=True, eq=False)
class Retrieval:
    """Per-query retrieval numbers, all in [0, 1]; n counts the queries that have a relevant item."""

    ap: np.ndarray  # (n,) average precision
    r_precision: np.ndarray  # (n,) precision at rank R, R = relevant items without the self-match
    map_at_r: np.ndarray  # (n,) sum over ranks i <= R of precision@i * relevant(i), divided by R
    hit_at: dict[int, np.ndarray]  # k -> bool (n,): at least one relevant item in the top k
    n_relevant: np.ndarray  # (n,) R
    rows: np.ndarray  # (n,) which of the queries given these are
    dropped: int  # queries left out because nothing in the gallery is relevant to them
    removed: int  # gallery entries taken out, over all queries given: self-matches and excluded ones
    definition: str  # how all this was counted, in words

    def __len__(self) -> int:
        return len(self.ap)

    @property
    def per_query(self) -> dict[str, np.ndarray]:
        """{"ap", "r_precision", "map_at_r", "hit_at_K" ...: (n,)}: the names ``interval`` takes."""
        hits = {f"hit_at_{k}": hit for k, hit in self.hit_at.items()}
        return {"ap": self.ap, "r_precision": self.r_precision, "map_at_r": self.map_at_r, **hits}

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
    ks: Sequence[int] = (1, 5, 10),
    block_bytes: int = BLOCK_BYTES,
) -> Retrieval:
    """Rank the gallery for every query by cosine similarity (Cross the Gap, App. B; Reevaluating, Sec. 4.1).

    relevant: bool (q, g); without it an item is relevant when its label equals the query's.
    exclude: bool (q, g), items that are irrelevant and take no rank: junk of ROxford and RParis.
    self_match: "remove" takes the query's own entry (equal id) out of its gallery before R is counted; "count" takes
    it out but counts it in the R of R-Precision and mAP@R, as the released Cross-the-Gap code does; "keep" leaves it
    in, as paired rows with equal ids need.
    ks: ranks of R@k. block_bytes bounds the working memory: the (q, g) matrix never exists as a whole.
    Each query's row is sorted: for more than some ten thousand items take ``streamed_retrieval``, which counts.
    Raises CrossgapError for empty, non-finite or non-unit features, dimensions, labels or relevance that do
    not fit, k < 1, or when no query has a relevant item.
    """
    words = in_words(self_match, "equal label" if relevant is None else "as given for each pair")
    q, g = _two_sets(queries, gallery, ("queries", "gallery"))  # (q, d), (g, d)
    is_relevant = _relevance(queries, gallery, relevant, (len(q), len(g)))
    is_self = None if self_match == "keep" else _equal(queries.ids, gallery.ids)
    junk = None if exclude is None else _mask("exclude", exclude, (len(q), len(g)))
    words += "" if junk is None else " Excluded items take no rank."

    def block(rows: slice) -> _Block:
        hit, out = is_relevant(rows), is_self(rows) if is_self else None
        if junk is not None:
            hit, out = hit & ~junk[rows], junk[rows] if out is None else out | junk[rows]
        # Float64 products, rounded to float32 by the ranking: equal vectors tie exactly wherever they stand.
        return q[rows] @ g.T, hit, out

    return _collect(block, (len(q), len(g)), ks, block_bytes, words, counted=self_match == "count")


def in_words(self_match: str, relevance: str) -> str:
    """What a cosine ranking counts as its own and as relevant; raises CrossgapError for an unknown ``self_match``."""
    if self_match not in _SELF_MATCH:
        raise CrossgapError(f"self_match must be one of {', '.join(_SELF_MATCH)}, but is {self_match!r}.")
    return f"Similarity is the cosine. {_SELF_MATCH[self_match]}Relevant: {relevance}."


def retrieval_from_similarity(
    similarity: Array,
    relevant: Array,
    exclude: Array | None = None,
    *,
    ks: Sequence[int] = (1, 5, 10),
    block_bytes: int = BLOCK_BYTES,
) -> Retrieval:
    """The same from any similarity (q, g), with relevant and exclude bool (q, g); raises as ``retrieval``."""
    similarity = _numpy(similarity)
    _check_grid(similarity.shape)
    relevant = _mask("relevant", relevant, similarity.shape)
    exclude = None if exclude is None else _mask("exclude", exclude, similarity.shape)

    def block(rows: slice) -> _Block:
        return similarity[rows], relevant[rows], None if exclude is None else exclude[rows]

    words = "Similarity, relevance and exclusions: as given for each pair."
    return _collect(block, similarity.shape, ks, block_bytes, words)


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
    For row i paired with row i pass ``relevant=np.eye(n, dtype=bool), self_match="keep"``.
    """
    return retrieval(queries, gallery, ks=(k,), **options).means[f"hit_at_{k}"]


_Block = tuple[np.ndarray, np.ndarray, np.ndarray | None]  # similarity, relevant, exclude: (rows, g)


def _collect(
    block: Callable[[slice], _Block],
    shape: tuple[int, ...],
    ks: Sequence[int],
    block_bytes: int,
    words: str,
    counted: bool = False,
) -> Retrieval:
    """Measure block after block, and keep the queries that have something to find.

    ``counted``: R of the numbers at R counts relevant items that were removed.
    """
    check_ks(ks)
    parts, removed = [], 0
    for rows in _blocks(shape, block_bytes):
        similarity, relevant, exclude = block(rows)
        own = (relevant & exclude).sum(axis=1) if counted else 0
        parts.append(_measure(ranked_relevance(similarity, relevant, exclude), ks, own))
        removed += 0 if exclude is None else int(exclude.sum())
    return collected(
        {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, shape, ks, removed, words
    )


def collected(
    columns: dict[str, np.ndarray], shape: tuple[int, ...], ks: Sequence[int], removed: int, words: str
) -> Retrieval:
    """The queries that have something to find, and how it was counted, in words.

    columns: n_relevant, ap, r_precision, map_at_r and hit_at_K of every query, (q,) each; shape: (q, g).
    """
    kept = np.flatnonzero(columns["n_relevant"])
    if not len(kept):
        raise CrossgapError(_nothing_to_find(removed))
    columns = {name: values[kept] for name, values in columns.items()}
    hit_at = {k: columns.pop(f"hit_at_{k}") for k in dict.fromkeys(ks)}
    dropped = shape[0] - len(kept)
    definition = (
        f"{RANKING} {words} R@k: at least one relevant item in the top k. {removed} of {shape[0] * shape[1]} "
        f"pairs removed; {dropped} of {shape[0]} queries left out for having no relevant item."
    )
    return Retrieval(**columns, hit_at=hit_at, rows=kept, dropped=dropped, removed=removed, definition=definition)


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
        return _mask("relevant", relevant, shape).__getitem__
    return _equal(_labels("queries", queries, shape[0]), _labels("gallery", gallery, shape[1]))


def _equal(left: np.ndarray, right: np.ndarray) -> Callable[[slice], np.ndarray]:
    """Rows of left (q,) -> bool (rows, g): where left equals right (g,). Strings are compared as integers."""
    codes = np.unique(np.concatenate([left, right]), return_inverse=True)[1]
    return lambda rows: codes[: len(left)][rows, None] == codes[len(left) :]


# Classification ---------------------------------------------------------------------------------------------


def accuracy(predicted: Array, labels: Array) -> float:
    """Share of predicted (n,) that equal labels (n,)."""
    predicted, labels = _numpy(predicted), _numpy(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1 or not len(predicted):
        raise CrossgapError(
            f"Accuracy needs as many predictions as labels, (n,) each and n > 0, but the shapes are "
            f"{predicted.shape} and {labels.shape}."
        )
    return float((predicted == labels).mean())


def zero_shot_accuracy(images: Embeddings, class_prompts: Embeddings) -> float:
    """Accuracy of the prompt nearest to each image; images.labels index the prompts.

    Of equally near prompts the first wins. Raises CrossgapError without labels or with labels beyond them.
    """
    x, prompts = _two_sets(images, class_prompts, ("images", "class prompts"))  # (n, d), (c, d)
    labels = _labels("images", images, len(x))
    if labels.min() < 0 or labels.max() >= len(prompts):
        raise CrossgapError(
            f"The labels of the images run from {labels.min()} to {labels.max()}, which does not index "
            f"{len(prompts)} class prompts."
        )
    return accuracy((x @ prompts.T).astype(np.float32).argmax(axis=1), labels)


# Geometry ---------------------------------------------------------------------------------------------------


def gap_vector(images: Vectors, texts: Vectors) -> np.ndarray:
    """Centroid of the images minus centroid of the texts, float64 (d,): Cross the Gap, Eq. 7.

    Takes Embeddings or unit-norm (n, d) and (m, d); n and m may differ.
    """
    x, y = _two_sets(images, texts, ("images", "texts"))
    return x.mean(axis=0) - y.mean(axis=0)


def modality_gap(images: Vectors, texts: Vectors) -> float:
    """Length of ``gap_vector``, in [0, 2]: Cross the Gap, Eq. 7 and Table A2, after Liang et al. 2022."""
    return float(np.linalg.norm(gap_vector(images, texts)))


def alignment(left: Vectors, right: Vectors, alpha: float = 2) -> float:
    """Mean distance ** alpha of positive pairs, row i to row i, (n, d) each: Wang & Isola 2020. 0 is best."""
    x, y = _two_sets(left, right, ("left", "right"))
    if len(x) != len(y):
        raise CrossgapError(f"Alignment pairs row i with row i, but there are {len(x)} and {len(y)} rows.")
    return float((np.linalg.norm(x - y, axis=1) ** alpha).mean())


def uniformity(vectors: Vectors, t: float = 2) -> float:
    """Log of the mean of exp(-t * squared distance) over distinct pairs of (n, d), n > 1: Wang & Isola 2020.

    0 for a collapsed set, lower is more even. Holds n (n - 1) / 2 distances: sample above some 10 000 rows.
    """
    x = _vectors(vectors, "vectors")
    if len(x) < 2:
        raise CrossgapError("Uniformity needs at least two vectors.")
    return float(torch.pdist(torch.from_numpy(x)).square().mul(-t).exp().mean().log())


def overlap_coefficient(a: Array, b: Array, bins: int | np.ndarray = 100) -> float:
    """Overlap of two samples of similarities (any shape), in [0, 1]: 1 where alike, 0 where disjoint.

    The sum over common bins of the smaller of the two normalised histograms, as one number for the histograms
    of Cross the Gap, Fig. A1 and Reevaluating, Fig. 2. Symmetric. ``bins`` equal bins span the smallest to
    the largest value of both samples together; pass edges (bins + 1,) to fix them, and hand the same edges to
    the plot. Samples smaller than the number of bins read too low.
    """
    a, b = _finite(a, "the first sample").ravel(), _finite(b, "the second sample").ravel()
    both = np.concatenate([a, b]).astype(np.float64)  # so that bins narrower than float32 can't collapse
    edges = np.histogram_bin_edges(both, bins)
    if both.min() < edges[0] or both.max() > edges[-1]:
        raise CrossgapError(
            f"The bins span {edges[0]:.4g} to {edges[-1]:.4g}, but the samples span {both.min():.4g} to "
            f"{both.max():.4g}."
        )
    counts_a, counts_b = np.histogram(both[: len(a)], edges)[0], np.histogram(both[len(a) :], edges)[0]
    # Over one common denominator the sum is of whole numbers: exactly symmetric, and exactly 1 for equals.
    return float(np.minimum(counts_a * len(b), counts_b * len(a)).sum() / (len(a) * len(b)))


# Checks -----------------------------------------------------------------------------------------------------


def _numpy(values: Array) -> np.ndarray:
    """Any array or tensor as numpy; half precisions, which numpy may not know, become float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    return np.asarray(values)


def _finite(values: Array, name: str) -> np.ndarray:
    """Float32 of any shape, finite and not empty."""
    with np.errstate(over="ignore"):  # beyond float32 reads as infinite, which is refused below
        values = _numpy(values).astype(np.float32, order="C")  # sums along rows round alike in one layout
    if not values.size:
        raise CrossgapError(f"Nothing to measure: {name} is empty.")
    if not np.isfinite(values).all():
        raise CrossgapError(f"{name[0].upper()}{name[1:]} holds NaN or infinite values.")
    return values


def _check_grid(shape: tuple[int, ...]) -> None:
    if len(shape) != 2 or 0 in shape:
        raise CrossgapError(
            f"Similarities must be (queries, gallery), at least one of each, but their shape is {shape}."
        )


def _mask(name: str, mask: Array, shape: tuple[int, ...]) -> np.ndarray:
    mask = _numpy(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise CrossgapError(
            f"{name} must be boolean of shape (queries, gallery) = {shape}, but is {mask.dtype} {mask.shape}."
        )
    return mask


def check_ks(ks: Sequence[int]) -> None:
    wrong = [k for k in ks if not isinstance(k, int | np.integer) or k < 1]
    if wrong:
        raise CrossgapError(f"k must be a whole number of at least 1, but is {wrong[0]!r}.")


def _labels(name: str, embeddings: Embeddings, n: int) -> np.ndarray:
    if embeddings.labels is None:
        raise CrossgapError(f"The {name} have no labels, which this measure needs.")
    labels = _numpy(embeddings.labels)
    if labels.shape != (n,):
        raise CrossgapError(f"The {name} have {n} rows, but labels of shape {labels.shape}.")
    return labels


def _two_sets(left: Vectors, right: Vectors, names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    x, y = _vectors(left, names[0]), _vectors(right, names[1])
    if x.shape[1] != y.shape[1]:
        raise CrossgapError(
            f"Features must share one space, but {names[0]} have {x.shape[1]} dimensions and {names[1]} {y.shape[1]}."
        )
    return x, y


def _vectors(vectors: Vectors, name: str) -> np.ndarray:
    """Features of Embeddings, or an array of them: float64 (n, d), finite, of unit norm."""
    x = _numpy(getattr(vectors, "features", vectors)).astype(np.float64)
    if x.ndim != 2 or not x.size:
        raise CrossgapError(f"The {name} must be features (n, d) with n > 0, but their shape is {x.shape}.")
    if not np.isfinite(x).all():
        raise CrossgapError(f"NaN or infinite values in the features of the {name}.")
    norms = np.linalg.norm(x, axis=1)
    if np.abs(norms - 1).max() > 0.01:  # loose enough for half-precision files
        raise CrossgapError(
            f"The features of the {name} must have unit norm, but norms run from {norms.min():.4g} to "
            f"{norms.max():.4g}."
        )
    return x
