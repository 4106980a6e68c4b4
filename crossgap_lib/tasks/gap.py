"""The modality gap on image-text pairs (Cross the Gap, App. E, Eq. 7; Liang et al., 2022)."""

import numpy as np
import pandas as pd
import torch

from crossgap_lib import metrics
from crossgap_lib.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError


def gap_report(images: Embeddings, texts: Embeddings, *, seed: int = 0) -> pd.DataFrame:
    """What the gap looks like on n image-text pairs (row i with row i), one quantity a row.

    Columns: quantity, value, low, high (95 % bootstrap over pairs, where it means something).

    Raises:
        CrossgapError: the two sides differ in length, or there is a single pair.
    """
    if len(images) != len(texts):
        raise CrossgapError(f"The gap is measured on pairs: {len(images)} images and {len(texts)} texts don't pair up.")
    if len(images) < 2:
        raise CrossgapError("The gap is measured on two pairs at least.")
    a, b = images.features, texts.features
    n, apart = len(a), a - b  # (n, d)
    pair, distance = (a * b).sum(dim=1), apart.norm(dim=1)  # (n,)
    # A row of weights is one bootstrap over pairs: how often each was drawn, divided by n.
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), 200) / n
    weights = torch.from_numpy(weights).float()  # (200, n)
    interval = lambda means: np.percentile(means.numpy(), [2.5, 97.5])  # noqa: E731
    none = (np.nan, np.nan)
    non_pairs = (float(a.sum(0) @ b.sum(0)) - float(pair.sum())) / (n * n - n)
    rows = [
        ("modality gap (Eq. 7)", metrics.modality_gap(images, texts), *interval((weights @ apart).norm(dim=1))),
        ("mean cosine of pairs", float(pair.mean()), *interval(weights @ pair)),
        ("mean cosine of non-pairs", non_pairs, *none),
        ("mean cosine image-image", _mean_cosine(a), *none),
        ("mean cosine text-text", _mean_cosine(b), *none),
        # |a - b|^2 splits into the part along the gap vector and the rest, so shares add up to one
        ("share of the squared pair distance along the gap", _share_along(apart, apart.mean(0)), *none),
        ("mean distance of pairs", float(distance.mean()), *interval(weights @ distance)),
        *_pair_recall(images, texts, seed),
    ]
    return pd.DataFrame(rows, columns=["quantity", "value", "low", "high"])


def _pair_recall(images: Embeddings, texts: Embeddings, seed: int) -> list[tuple]:
    """R@1 in both directions; NaN where class prompts stand in for captions, since they repeat."""
    rows = []
    for name, queries, gallery in (("image to text", images, texts), ("text to image", texts, images)):
        values = (np.nan,) * 3
        if texts.meta.get("captions") != "class prompts":
            paired = np.eye(len(images), dtype=bool)
            result = metrics.retrieval(queries, gallery, relevant=paired, self_match="keep", ks=(1,))
            values = (result.means["hit_at_1"], *result.interval("hit_at_1", seed))
        rows.append((f"R@1 {name}", *values))
    return rows


def _mean_cosine(features: torch.Tensor) -> float:
    n = len(features)
    return (float(features.sum(0) @ features.sum(0)) - n) / (n * n - n)


def _share_along(differences: torch.Tensor, direction: torch.Tensor) -> float:
    """Part of the mean squared length of (n, d) differences that lies along a direction, between 0 and 1."""
    along = differences @ (direction / direction.norm())
    return float((along**2).sum() / (differences**2).sum())


def separating_dimensions(images: Embeddings, texts: Embeddings) -> pd.DataFrame:
    """How well each single dimension tells images from texts (Schrodi et al., 2024, in Cross the Gap, Sec. 2).

    Columns: dimension, gap (difference of the means), share (of the squared gap), accuracy (of the best threshold on
    that dimension alone, in-sample); sorted by share, largest first.
    """
    a, b = images.features.numpy(), texts.features.numpy()
    gap = a.mean(axis=0) - b.mean(axis=0)
    accuracy = [_threshold_accuracy(a[:, k], b[:, k]) for k in range(a.shape[1])]
    table = pd.DataFrame({"dimension": np.arange(len(gap)), "gap": gap, "share": gap**2 / (gap**2).sum()})
    return table.assign(accuracy=accuracy).sort_values("share", ascending=False, ignore_index=True)


def _threshold_accuracy(a: np.ndarray, b: np.ndarray) -> float:
    """Balanced accuracy of the best single threshold between two samples, whichever lies above."""
    values = np.sort(np.concatenate([a, b]))
    below_a, below_b = (np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (a, b))
    return float(0.5 + np.abs(below_a - below_b).max() / 2)
