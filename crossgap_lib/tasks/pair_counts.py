"""Histograms of all pairs of a large set, counted in a stream: Fig. 2 and 5 of Reevaluating, Fig. A1 of Cross the Gap.

No n x n matrix is made. Rows are dealt into groups by seed and ids, and counts are kept for each pair of groups, so
that leaving one group out costs nothing: that is the jackknife for statistics of pairs. They are not independent, since
an odd picture is odd in all of its n - 1 pairs. Of more than MOST_COMPARED rows so many are drawn, and the number of
pairs says so.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from scipy.stats import t as student_t

from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.pairs import MOST_COMPARED

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


def _groups(x: Embeddings, groups: int, seed: int) -> list[np.ndarray]:
    """The rows of each group."""
    if len(x) < 2:
        raise CrossgapError("One embedding has no pairs to count.")
    return np.array_split(drawn_rows(x.ids, MOST_COMPARED, seed), min(groups, len(x)))


def _count(
    x: Embeddings,
    y: Embeddings,
    parts: list[np.ndarray],
    match: Callable[[np.ndarray, np.ndarray], np.ndarray],
    bins: int,
    once: bool,
) -> tuple[PairCounts, PairCounts]:
    """(the pairs that match, all others); ``match`` maps (rows, columns) to a mask, (rows, columns) bool.

    ``once``: x and y are one set, and each unordered pair of different rows counts once.
    """
    counts = np.zeros((2, len(parts), len(parts), bins), np.int64)
    for (i, left), (j, right) in product(enumerate(parts), repeat=2):
        if once and j < i:
            continue
        for rows, columns in _tiles(left, right):
            values, matching = _similarities(x, y, rows, columns), match(rows, columns)
            seen = rows[:, None] < columns if once and i == j else True
            for k, mask in enumerate((matching & seen, ~matching & seen)):
                counts[k, i, j] += np.histogram(values[mask], bins, range=(-1, 1))[0]
    return PairCounts(counts[0]), PairCounts(counts[1])


def _every(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    return np.ones((len(rows), len(columns)), dtype=bool)


def count_by_class(
    images: Embeddings, *, bins: int = BINS, groups: int = GROUPS, seed: int = 0
) -> dict[str, PairCounts]:
    """Same-class and different-class pairs of one set, each unordered pair once (Reevaluating, Fig. 2a and 5 left).

    Args:
        images: (n, d) with labels.
        bins: equal bins over [-1, 1].
        groups: for the intervals; dealt by ``seed`` and ids.

    Raises:
        CrossgapError: no labels, or fewer than two rows.
    """
    if images.labels is None:
        raise CrossgapError("Same-class and different-class pairs need labels.")
    labels, parts = images.labels, _groups(images, groups, seed)
    same = lambda rows, columns: labels[rows][:, None] == labels[columns]  # noqa: E731
    return dict(zip(("same class", "different class"), _count(images, images, parts, same, bins, True), strict=True))


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
    parts = _groups(images, groups, seed)
    paired = lambda rows, columns: rows[:, None] == columns  # noqa: E731
    pairs, non_pairs = _count(images, texts, parts, paired, bins, once=False)
    return {
        "image-image": _count(images, images, parts, _every, bins, once=True)[0],
        "text-text": _count(texts, texts, parts, _every, bins, once=True)[0],
        "image-text pairs": pairs,
        "image-text non-pairs": non_pairs,
    }


# ---------------------------------------------------------------- one number for several histograms


def jackknife(
    statistic: Callable[..., np.ndarray], *kinds: PairCounts, level: float = 0.95
) -> tuple[float, float, float]:
    """A statistic of counted kinds of pair, with its delete-a-group jackknife interval: (value, low, high).

    Args:
        statistic: takes the counts of each kind, (..., bins), and returns (...).
        kinds: several of one set of pictures, or of several models on the same pictures: then what is left out is left
            out of all, so that the interval of a difference between models is a paired one.

    Raises:
        CrossgapError: a kind without pairs, or with all of them in one group.
    """
    without = [kind.left_out() for kind in kinds]
    if min(counts.sum(-1).min() for counts in without) == 0:
        raise CrossgapError("Too few pairs for an interval: count more pictures of each class.")
    value, replicas = float(statistic(*(kind.total for kind in kinds))), statistic(*without)
    groups = len(replicas)
    error = np.sqrt((groups - 1) / groups * ((replicas - replicas.mean()) ** 2).sum())
    margin = float(error * student_t.ppf(0.5 + level / 2, groups - 1))
    return value, value - margin, value + margin


def overlap_of_counts(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The overlap coefficient of counts (..., bins): the sum of the smaller of two normalised histograms.

    1 where the histograms are alike, 0 where they are disjoint, as ``metrics.overlap_coefficient``.
    """
    return np.minimum(a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)).sum(-1)


def overlap(a: PairCounts, b: PairCounts) -> tuple[float, float, float]:
    """Overlap coefficient of two kinds of pair, with its ``jackknife`` interval: (value, low, high)."""
    value, low, high = jackknife(overlap_of_counts, a, b)
    return value, max(0.0, low), min(1.0, high)
