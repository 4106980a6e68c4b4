"""Every way to compare images with images on one model: native, inverted, projected (Reevaluating, Table 1 and 3)."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.metrics.large import exact_retrieval
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.tasks.along_steps import along_steps, snapshot_steps
from crossgap_lib.tasks.comparison import METRICS, gain_table, in_percent
from crossgap_lib.tasks.dogs_vs_cats import correctly_classified, few_shot_prototypes

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

ORIGINAL, OTI, OTI_BEST, PCA = "Original", "OTI", "OTI, best step", "PCA"


def image_image_methods(
    model: "DualEncoder",
    queries: Embeddings,
    prompts: Embeddings | None,
    *,
    gallery: Embeddings | None = None,
    steps: int = 150,
    n_tokens: int = 1,
    seed: int = 0,
    **options: Any,
) -> dict[str, metrics.Retrieval]:
    """Image-to-image retrieval, the same queries by every method (Reevaluating, Table 3).

    Original <I, I>; OTI <T, I>, the inverted query against the native gallery, after ``steps`` and at the step that is
    best, which only labels can tell; PCA <I<-, I<->, query and gallery projected on the components of class prompts.

    Args:
        queries: (q, d) images with labels; where these are some of a larger set, draw them (``drawn``).
        prompts: (classes, d) class prompts, or None for a model without text: then there is the original alone.
        gallery: (g, d) where the queries are searched; by default the queries. They do not find themselves.
        options: those of ``exact_retrieval``.
    """
    gallery = queries if gallery is None else gallery
    found = {ORIGINAL: exact_retrieval(queries, gallery, **options)}
    if prompts is None:
        return found
    run = oti(model, queries, n_tokens=n_tokens, steps=steps, snapshots=snapshot_steps(steps), seed=seed)
    curve = along_steps({n_tokens: run}, gallery, source=queries, **options)
    best = int(curve.loc[curve["mAP"].idxmax(), "step"])
    project = pca_of_prompts(prompts)
    return found | {
        OTI: exact_retrieval(run, gallery, **options),
        OTI_BEST: exact_retrieval(run.at(best), gallery, **options),
        PCA: exact_retrieval(project(queries), project(gallery), **options),
    }


def method_table(found: Mapping[str, metrics.Retrieval], *, seed: int = 0) -> pd.DataFrame:
    """``gain_table`` of mAP and of R-Precision over the original, with the column metric added."""
    tables = []
    for metric, name in METRICS.items():
        values = {method: result.per_query[name] for method, result in found.items()}
        tables.append(gain_table(values, ORIGINAL, seed=seed).assign(metric=metric))
    return pd.concat(tables, ignore_index=True)


def retrieval_and_shots(
    images: Embeddings, prompts: Embeddings | None, *, shots: Iterable[int] = (1, 16), seed: int = 0
) -> pd.DataFrame:
    """The columns of Reevaluating's Table 1, in percent with 95 % intervals: column, value, low, high.

    T-I mAP, I-I mAP and R-Precision (bootstrap over queries; of the few prompts there is none), zero-shot accuracy
    (bootstrap over pictures), k-shot accuracy by image prototypes (quantiles over 20 draws). What a model without text,
    or a small set, can't give is left out.
    """
    among_images = metrics.retrieval(images, images)
    rows = [(f"I-I {name}", *in_percent(among_images, metric, seed)) for name, metric in METRICS.items()]
    if prompts is not None:
        rows.insert(0, ("T-I mAP", 100 * metrics.retrieval(prompts, images).means["ap"], np.nan, np.nan))
        right = correctly_classified(images, prompts).astype(float)  # (n,)
        rows.append(("T-I 0-shot", *(100 * v for v in (right.mean(), *metrics.bootstrap_interval(right, seed)))))
    for k in shots:
        if np.bincount(images.labels).min() > k:
            draws = 100 * few_shot_prototypes(images, k)
            rows.append((f"I-I {k}-shot", draws.mean(), *np.quantile(draws, [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["column", "value", "low", "high"])
