"""Ways to compare images with images on one model: native, inverted, projected (Reevaluating, Table 1 and 3)."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.inversion.oti_ovi import oti, why_not
from crossgap_lib.metrics.large import exact_retrieval
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.tasks.along_steps import snapshot_steps
from crossgap_lib.tasks.comparison import METRICS, chosen_elsewhere, in_percent, measured
from crossgap_lib.tasks.dogs_vs_cats import correctly_classified, few_shot_prototypes

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

ORIGINAL, OTI, PCA = "Original", "OTI", "PCA"
OTI_CHOSEN, OTI_BEST = "OTI, step chosen", "OTI, best step"


def image_image_methods(
    model: "DualEncoder",
    queries: Embeddings,
    prompts: Embeddings | None,
    *,
    gallery: Embeddings | None = None,
    steps: int = 150,
    n_tokens: int = 1,
    seed: int = 0,
    after: Callable[[Embeddings], Embeddings] = lambda features: features,
    **options: Any,
) -> dict[str, np.ndarray]:
    """Image-to-image retrieval, the same queries by every method (Reevaluating, Table 3): method -> AP (n,).

    - Original <I, I>: the features as they are.
    - OTI <T, I>: the inverted query against the native gallery, after ``steps`` updates. "OTI, step chosen" takes the
      step that is best for the other half of the queries (``chosen_elsewhere``). "OTI, best step" takes the one that is
      best for these very queries, which is an upper bound and no method.
    - PCA <I<-, I<->: query and gallery projected on the principal components of class prompts.

    Args:
        queries: (q, d) images with labels; where these are some of a larger set, draw them (``drawn``). Those to which
            nothing in the gallery is relevant have no AP.
        prompts: (classes, d) class prompts, or None for a model without text: then there is the original alone. A
            model with a text encoder that OTI can't enter goes without OTI (``invertible`` says which do).
        gallery: (g, d) where the queries are searched; by default the queries. They do not find themselves.
        after: what is done to features before they are compared, such as a shift of each modality. Features of OTI come
            from the text encoder, and their modality says so. The inversion itself is the encoder's own.
        options: those of ``exact_retrieval``.
    """
    images, gallery = after(queries), after(queries if gallery is None else gallery)
    native = exact_retrieval(images, gallery, **options)
    if prompts is None:
        return {ORIGINAL: native.ap}
    found = {ORIGINAL: native.ap}
    if why_not(model, "oti") is None:
        run = oti(model, queries, n_tokens=n_tokens, steps=steps, snapshots=snapshot_steps(steps), seed=seed)
        along = {step: exact_retrieval(after(run.at(step)), gallery, **options).ap for step in sorted(run.snapshots)}
        chosen, _ = chosen_elsewhere(along, queries.ids[native.rows], seed=seed)
        found |= {OTI: along[steps], OTI_CHOSEN: chosen, OTI_BEST: max(along.values(), key=np.mean)}
    project = pca_of_prompts(after(prompts))
    projected = exact_retrieval(project(images), project(gallery), **options)
    return found | {PCA: projected.ap}


def invertible(models: Mapping[str, "DualEncoder"], method: str) -> dict[str, "DualEncoder"]:
    """Those of the models that ``method``, "oti" or "ovi", can enter; of each other one it prints why it goes without.

    A notebook leaves the inversion of those out, and keeps what else it measures on them.
    """
    reasons = {name: why_not(model, method) for name, model in models.items()}
    for name, reason in reasons.items():
        if reason:
            print(f"{name} goes without {method.upper()}: {reason}")
    return {name: model for name, model in models.items() if not reasons[name]}


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
        rows.append(("T-I 0-shot", *measured(correctly_classified(images, prompts), seed=seed)[:3]))
    for k in shots:
        if np.bincount(images.labels).min() > k:
            draws = 100 * few_shot_prototypes(images, k)
            rows.append((f"I-I {k}-shot", draws.mean(), *np.quantile(draws, [0.025, 0.975])))
    return pd.DataFrame(rows, columns=["column", "value", "low", "high"])
