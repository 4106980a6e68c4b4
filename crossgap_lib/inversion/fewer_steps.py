"""Fewer steps: a start that is fitted, steps whose length a schedule sets. This is not in the papers.

Two observations on the exact method lead to it:

* Where an inversion goes is nearly a linear function of the feature it starts from. A few hundred samples are inverted
  exactly for a few steps; a ridge regression from their features to the pseudo-vectors they reached says where any
  other sample would go. That averages out the noise that each sample begins with. It is fitted once for a model and a
  number of pseudo-vectors, and uses no label.
* AdamW's first steps are as long along a coordinate that hardly changes the loss as along one that changes it much.
  Here each pseudo-vector follows its gradient, scaled to a length that falls by a cosine schedule: that needs no
  history and far fewer steps.

Off by default: notebook 12 shows mAP and loss against compute, beside the exact mode, and what the fit costs.
"""

from typing import TYPE_CHECKING

import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.accelerated import Accelerated
from crossgap_lib.inversion.oti_ovi import TEMPLATE, job_for, run

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

STEPS = {"oti": 1, "ovi": 26}  # on mini-clip OTI then passes the exact mode's best mAP; see notebook 12 for OVI
FIT_SAMPLES, FIT_STEPS = 256, {"oti": 5, "ovi": 10}  # exact inversions behind the start, and the steps of each
_ALPHA = 0.3  # ridge penalty
_LENGTH = {"oti": 0.005, "ovi": 0.2}  # of the first step: its root mean square over the width


def accelerate(
    model: "DualEncoder",
    method: str,
    n: int = 1,
    *,
    fit_on: Embeddings | None = None,
    template: str | tuple[Tensor, Tensor] = TEMPLATE,
    seed: int = 0,
    batch_size: int = 64,
) -> Accelerated:
    """The accelerated mode of ``method`` for a model, a number of pseudo-vectors and, for OTI, a template.

    Hand the result to ``oti`` or ``ovi`` as ``accelerated``, with ``steps=STEPS[method]``.

    Args:
        method: "oti" or "ovi".
        n: pseudo-tokens or pseudo-patches.
        fit_on: (m, d) features of what will be inverted (images for OTI, texts for OVI); 256 of them, drawn with the
            seed, are inverted exactly for 5 (OTI) or 10 (OVI) steps. Labels and the order of the rows play no part.
        template: the one that the inversion will use, as ``oti`` takes it; OVI has none.
        seed: for the draw, and for the noise that the drawn samples begin with.
        batch_size: samples inverted at a time.

    Raises:
        CrossgapError: an unknown method, fewer than 16 features to fit on, or what ``oti`` and ``ovi`` refuse.
    """
    if method not in _LENGTH:
        raise CrossgapError(f"There is no method {method!r}; there are oti and ovi.")
    if fit_on is None or len(fit_on) < 16:
        what = {"oti": "image", "ovi": "text"}[method]
        raise CrossgapError(
            f"Accelerated {method.upper()} is fitted on {what} features: give 16 or more, better 256, as fit_on."
        )
    sample = fit_on[drawn_rows(fit_on.ids, FIT_SAMPLES, seed)]
    job = job_for(model, method, n, FIT_STEPS[method], template=template, seed=seed)
    found = run(model, sample, job, batch_size, cache=False)
    fit = Ridge(alpha=_ALPHA).fit(sample.features.double().numpy(), found.tokens.flatten(1).double().numpy())
    weights, bias = (torch.from_numpy(part).float() for part in (fit.coef_, fit.intercept_))
    passes = len(sample) * FIT_STEPS[method]
    return Accelerated(_LENGTH[method], job.shape, weights, bias, passes, job.purpose)
