"""Histograms of all pairs of a large set, counted in a stream: Fig. 2 and 5 of Reevaluating, Fig. A1 of Cross the Gap.

No n x n matrix is made. Rows are dealt into groups with a seed, and counts are kept for each pair of groups, so that
leaving one group out costs nothing: that is the jackknife for statistics of pairs. They are not independent, since an
odd picture is odd in all of its n - 1 pairs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student_t

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError

BINS = 400  # over [-1, 1]
GROUPS = 20
_TILE = 2048  # rows and columns of similarities at a time: 32 MB in float64


@dataclass(frozen=True, eq=False)
class PairCounts:
    """Counted similarities of one kind of pair.

    Attributes:
        counts: (groups, groups, bins) int64; pairs of a row of group i with a row of group j.
    """

    counts: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """(bins,) counts of all pairs."""
        return self.counts.sum(axis=(0, 1))

    @property
    def pairs(self) -> int:
        return int(self.counts.sum())

    def left_out(self) -> np.ndarray:
        """(groups, bins) counts without any pair that touches group i."""
        own = self.counts[np.arange(len(self.counts)), np.arange(len(self.counts))]
        return self.total - self.counts.sum(axis=0) - self.counts.sum(axis=1) + own


def edges(bins: int = BINS) -> np.ndarray:
    """(bins + 1,) the bins' edges, the same for every model, so that histograms can be laid side by side."""
    return np.linspace(-1, 1, bins + 1)


def _tiles(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for i in range(0, len(rows), _TILE):
        for j in range(0, len(columns), _TILE):
            yield rows[i : i + _TILE], columns[j : j + _TILE]


def _similarities(x: Embeddings, y: Embeddings, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cosines (rows, columns), float64 rounded to float32 as everywhere; rounding beyond 1 is cut off."""
    left, right = x.features[torch.from_numpy(rows)], y.features[torch.from_numpy(columns)]
    return (left.double() @ right.double().T).float().clamp_(-1, 1).numpy()


def _histogram(values: np.ndarray, bins: int) -> np.ndarray:
    return np.histogram(values, bins, range=(-1, 1))[0]


def _groups(n: int, groups: int, seed: int) -> list[np.ndarray]:
    return [np.sort(part) for part in np.array_split(np.random.default_rng(seed).permutation(n), min(groups, n))]


def _count(
    x: Embeddings,
    y: Embeddings,
    parts: list[np.ndarray],
    kinds: Mapping[str, Callable[[np.ndarray, np.ndarray], np.ndarray] | None],
    bins: int,
    once: bool,
) -> dict[str, PairCounts]:
    """Counts for each kind of pair. A kind is a mask (rows, columns) -> bool, or None: every pair that is looked at.

    ``once``: x and y are one set, and each unordered pair of different rows counts once.
    """
    counts = {kind: np.zeros((len(parts), len(parts), bins), np.int64) for kind in kinds}
    for i, left in enumerate(parts):
        for j, right in enumerate(parts):
            if once and j < i:
                continue
            for rows, columns in _tiles(left, right):
                values = _similarities(x, y, rows, columns)
                seen = rows[:, None] < columns if once and i == j else None
                for kind, wanted in kinds.items():
                    mask = _both(seen, None if wanted is None else wanted(rows, columns))
                    counts[kind][i, j] += _histogram(values if mask is None else values[mask], bins)
    return {kind: PairCounts(c) for kind, c in counts.items()}


def _both(a: np.ndarray | None, b: np.ndarray | None) -> np.ndarray | None:
    return b if a is None else a if b is None else a & b


def count_by_class(
    images: Embeddings, *, bins: int = BINS, groups: int = GROUPS, seed: int = 0
) -> dict[str, PairCounts]:
    """Same-class and different-class pairs of one set, each unordered pair once (Reevaluating, Fig. 2a and 5 left).

    Args:
        images: (n, d) with labels.
        bins: equal bins over [-1, 1].
        groups: for the intervals; dealt with ``seed``.

    Raises:
        CrossgapError: no labels, or fewer than two rows.
    """
    if images.labels is None:
        raise CrossgapError("Same-class and different-class pairs need labels.")
    labels, parts = images.labels, _parts(images, groups, seed)
    same = lambda rows, columns: labels[rows][:, None] == labels[columns]  # noqa: E731
    found = _count(images, images, parts, {"same class": same, "all": None}, bins, once=True)
    different = PairCounts(found["all"].counts - found["same class"].counts)
    return {"same class": found["same class"], "different class": different}


def count_by_modality(
    images: Embeddings, texts: Embeddings, *, bins: int = BINS, groups: int = GROUPS, seed: int = 0
) -> dict[str, PairCounts]:
    """Image-image, text-text, and image-text pairs and non-pairs (Reevaluating, Fig. 2b and 5 right).

    Row i of ``images`` and of ``texts`` belong together. Arguments as for ``count_by_class``.

    Raises:
        CrossgapError: sets of different lengths, or fewer than two rows.
    """
    if len(images) != len(texts):
        raise CrossgapError(f"{len(images)} images and {len(texts)} texts are not pairs.")
    parts = _parts(images, groups, seed)
    paired = lambda rows, columns: rows[:, None] == columns  # noqa: E731
    across = _count(images, texts, parts, {"image-text pairs": paired, "all": None}, bins, once=False)
    return {
        "image-image": _count(images, images, parts, {"all": None}, bins, once=True)["all"],
        "text-text": _count(texts, texts, parts, {"all": None}, bins, once=True)["all"],
        "image-text pairs": across["image-text pairs"],
        "image-text non-pairs": PairCounts(across["all"].counts - across["image-text pairs"].counts),
    }


def _parts(x: Embeddings, groups: int, seed: int) -> list[np.ndarray]:
    if len(x) < 2:
        raise CrossgapError("One embedding has no pairs to count.")
    return _groups(len(x), groups, seed)


# ---------------------------------------------------------------- one number for two histograms


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The overlap coefficient of counts (..., bins): the sum of the smaller of two normalised histograms."""
    return np.minimum(a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)).sum(-1)


def overlap(a: PairCounts, b: PairCounts, *, level: float = 0.95) -> tuple[float, float, float]:
    """Overlap coefficient of two kinds of pair, with a delete-a-group jackknife interval: (value, low, high).

    1 where the histograms are alike, 0 where they are disjoint, as ``metrics.overlap_coefficient``.

    Raises:
        CrossgapError: a kind without pairs, or with all of them in one group.
    """
    without_a, without_b = a.left_out(), b.left_out()
    if min(without_a.sum(-1).min(), without_b.sum(-1).min()) == 0:
        raise CrossgapError("Too few pairs for an overlap with an interval.")
    value, replicas = float(_overlap(a.total, b.total)), _overlap(without_a, without_b)
    groups = len(replicas)
    error = np.sqrt((groups - 1) / groups * ((replicas - replicas.mean()) ** 2).sum())
    margin = error * student_t.ppf(0.5 + level / 2, groups - 1)
    return value, float(max(0.0, value - margin)), float(min(1.0, value + margin))


def mean_similarity(counts: PairCounts) -> float:
    """Mean cosine, to half a bin."""
    middles = (edges(counts.counts.shape[-1])[1:] + edges(counts.counts.shape[-1])[:-1]) / 2
    return float((counts.total * middles).sum() / counts.pairs)
