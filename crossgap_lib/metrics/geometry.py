"""Where two sets of features lie: modality gap, alignment, uniformity, overlap of similarities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.checks import finite, two_sets, vectors_of

if TYPE_CHECKING:
    from crossgap_lib.embeddings.embeddings import Embeddings

    Array = np.ndarray | torch.Tensor
    Vectors = Embeddings | Array

_DISTANCES = 2**22  # as many are held at a time, in 32 MB
_BY_DIFFERENCES = "donot_use_mm_for_euclid_dist"  # by products, small distances would lose their digits


def gap_vector(images: Vectors, texts: Vectors) -> np.ndarray:
    """Centroid of the images minus centroid of the texts, float64 (d,): Cross the Gap, Eq. 7.

    Takes Embeddings or unit-norm (n, d) and (m, d); n and m may differ.
    """
    x, y = two_sets(images, texts, ("images", "texts"))
    return x.mean(axis=0) - y.mean(axis=0)


def modality_gap(images: Vectors, texts: Vectors) -> float:
    """Length of ``gap_vector``, in [0, 2]: Cross the Gap, Eq. 7 and Table A2, after Liang et al. 2022."""
    return float(np.linalg.norm(gap_vector(images, texts)))


def alignment(left: Vectors, right: Vectors, alpha: float = 2) -> float:
    """Mean distance ** alpha of positive pairs, row i to row i, (n, d) each: Wang & Isola 2020. 0 is best."""
    x, y = two_sets(left, right, ("left", "right"))
    if len(x) != len(y):
        raise CrossgapError(f"Alignment pairs row i with row i, but there are {len(x)} and {len(y)} rows.")
    return float((np.linalg.norm(x - y, axis=1) ** alpha).mean())


def uniformity(vectors: Vectors, t: float = 2) -> float:
    """Log of the mean of exp(-t * squared distance) over distinct pairs of (n, d), n > 1: Wang & Isola 2020.

    0 for a collapsed set, lower is more even. Holds the distances of some rows to all others at a time, so memory grows
    with n; time grows with n squared.
    """
    x = vectors_of(vectors, "vectors")
    if len(x) < 2:
        raise CrossgapError("Uniformity needs at least two vectors.")
    x, n = torch.from_numpy(x), len(x)
    step, total = max(1, _DISTANCES // n), 0.0
    for start in range(0, n, step):
        squared = torch.cdist(x[start : start + step], x[start:], compute_mode=_BY_DIFFERENCES).square()
        total += float(squared.mul_(-t).exp_().triu_(diagonal=1).sum())  # row i with the rows after it
    return float(np.log(total / (n * (n - 1) / 2)))


def overlap_coefficient(a: Array, b: Array, bins: int | np.ndarray = 100) -> float:
    """Overlap of two samples of similarities (any shape), in [0, 1]: 1 where alike, 0 where disjoint.

    The sum over common bins of the smaller of the two normalised histograms, as one number for the histograms
    of Cross the Gap, Fig. A1 and Reevaluating, Fig. 2. Symmetric. ``bins`` equal bins span the smallest to
    the largest value of both samples together; pass edges (bins + 1,) to fix them, and hand the same edges to
    the plot. Samples smaller than the number of bins read too low.
    """
    a, b = finite(a, "the first sample").ravel(), finite(b, "the second sample").ravel()
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
