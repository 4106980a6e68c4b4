"""Two cones, one for each modality: what walks from one to the other, and what a projection makes of them."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.projection.linear import Projection
from crossgap_lib.tasks.comparison import gain, in_percent
from crossgap_lib.tasks.pairs import all_similarities

ORIGINAL, PROJECTED, ADJUSTED = "original", "projected (Eq. 11)", "mean-adjusted (Eq. 12)"


# ---------------------------------------------------------------- OTI on its way


def cone_places(sets: Mapping[str, Embeddings], images: Embeddings, texts: Embeddings) -> pd.DataFrame:
    """Where each set lies between the axes of the image cone and the text cone, a row for each.

    The axis of a cone is its centroid's direction. Columns: set, to images, to texts (mean cosines to the two axes),
    nearer images (share of the set with a larger cosine to the image axis).
    """
    axes = torch.stack([_axis(images), _axis(texts)], dim=1)  # (d, 2)
    rows = []
    for name, e in sets.items():
        cosines = e.features.double() @ axes  # (n, 2)
        nearer = (cosines[:, 0] > cosines[:, 1]).double().mean()
        rows.append((name, *cosines.mean(dim=0).tolist(), float(nearer)))
    return pd.DataFrame(rows, columns=["set", "to images", "to texts", "nearer images"])


def along_cones(runs: Mapping[int, Inversion], images: Embeddings, texts: Embeddings) -> pd.DataFrame:
    """``cone_places`` of every snapshot of every run.

    ``runs``: number of pseudo-tokens -> inversion. Columns: n, step, to images, to texts, nearer images.
    """
    shots = {(n, step): run.at(step) for n, run in runs.items() for step in sorted(run.snapshots)}
    table = cone_places(shots, images, texts)
    table.insert(0, "n", [n for n, _ in shots])
    table.insert(1, "step", [step for _, step in shots])
    return table.drop(columns="set")


def _axis(e: Embeddings) -> Tensor:
    return F.normalize(e.features.double().mean(dim=0), dim=0)  # (d,)


# ---------------------------------------------------------------- projections


def projected_points(projection: Projection, images: Embeddings) -> dict[str, Tensor]:
    """Images before and after the projection, (n, d) each, at the norm they come out with (Reevaluating, Fig. 7)."""
    return {
        ORIGINAL: images.features,
        PROJECTED: projection.project(images.features),
        ADJUSTED: projection.project(images.features, mean_adjusted=True),
    }


def projection_variants(projection: Projection, images: Embeddings) -> dict[str, Embeddings]:
    """The images as they are, projected, and mean-adjusted, all at unit norm (Reevaluating, Fig. 8, from left)."""
    return {
        ORIGINAL: images,
        PROJECTED: replace(projection(images), modality="projection"),
        ADJUSTED: replace(projection(images, mean_adjusted=True), modality="projection"),
    }


def variant_similarities(variants: Mapping[str, Embeddings], texts: Embeddings) -> dict[str, dict[str, np.ndarray]]:
    """Cosines of all image-image, text-text and image-text pairs of each variant; the texts stay as they are."""
    within = all_similarities(texts, texts)
    return {
        name: {"image-image": all_similarities(e, e), "text-text": within, "image-text": all_similarities(e, texts)}
        for name, e in variants.items()
    }


def variant_retrieval(variants: Mapping[str, Embeddings], *, seed: int = 0) -> pd.DataFrame:
    """Image-image mAP (percent) of each variant, and what it gains over the one before.

    Columns: variant, mAP, low, high, change, change low, change high; 95 % bootstraps over queries, the changes' over
    paired queries, so a change whose interval holds 0 is no significant one.

    Raises:
        CrossgapError: images without labels.
    """
    rows, before = [], None
    for name, e in variants.items():
        result = metrics.retrieval(e, e)
        change = (np.nan,) * 3 if before is None else gain(result.ap, before, seed=seed)[:3]
        rows.append((name, *in_percent(result, "ap", seed), *change))
        before = result.ap
    return pd.DataFrame(rows, columns=["variant", "mAP", "low", "high", "change", "change low", "change high"])
