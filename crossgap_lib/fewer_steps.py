"""Fewer steps, honestly: a start that is fitted, steps of a fixed length, and a schedule. Not in the papers.

Two observations on what the exact method spends its steps on:

* Where OTI goes is nearly a linear function of the feature it starts from. A few hundred samples are inverted exactly
  for a few steps; a ridge regression from their features to the pseudo-tokens they reached says where any other sample
  would go. That averages out the noise each sample begins with. It is fitted once for a model and a number of
  pseudo-tokens, and looks at no label.
* AdamW's step is as long for a coordinate that matters as for one that does not. Following the normalised gradient of
  each pseudo-vector, with a cosine schedule over the steps there are, needs no history and far fewer steps (OVI).

Off by default: notebook 12 shows mAP and loss against compute, beside the exact mode, and what the fit costs.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch
from sklearn.linear_model import Ridge
from torch import Tensor

from crossgap_lib.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.encoders import DualEncoder

STEPS = {"oti": 1, "ovi": 60}  # on mini-clip OTI then passes the exact mode's best mAP, OVI is 0.1 point below
FIT_SAMPLES, FIT_STEPS = 256, 5  # exact inversions behind OTI's start, and the steps of each
_ALPHA = 0.3  # ridge penalty
_LENGTH = {"oti": 0.005, "ovi": 0.4}  # of the first step: root mean square over the width


@dataclass(frozen=True, eq=False)
class Accelerated:
    """How an accelerated run begins and steps.

    Attributes:
        length: root mean square over the width of each pseudo-vector's first step.
        weights, bias: (k * width, d) and (k * width,), the map from features to pseudo-vectors, or None: noise.
        shape: (k, width).
        fit_steps: forward and backward passes that the fit took, all samples together.
    """

    length: float
    shape: tuple[int, int]
    weights: Tensor | None = None
    bias: Tensor | None = None
    fit_steps: int = 0

    def begin(self, features: Tensor, noise: Tensor) -> Tensor:
        """(b, d) unit-norm features and (b, k, width) noise -> the first pseudo-vectors (b, k, width)."""
        if self.weights is None:
            return noise.clone()
        weights, bias = (t.to(features.device) for t in (self.weights, self.bias))
        return (features @ weights.T + bias).unflatten(1, self.shape)

    @torch.no_grad()
    def update(self, tokens: Tensor, step: int, steps: int) -> None:
        """Step number ``step`` of ``steps`` against ``tokens.grad`` (b, k, width), each pseudo-vector on its own."""
        rms = tokens.grad.square().mean(dim=-1, keepdim=True).sqrt()
        length = self.length * 0.5 * (1 + math.cos(math.pi * step / steps))
        tokens -= length * tokens.grad / rms.clamp_min(1e-20)

    @cached_property
    def fingerprint(self) -> str:
        tensors = [t.numpy().tobytes() for t in (self.weights, self.bias) if t is not None]
        facts = repr((self.length, self.shape)).encode()
        return blake2b(b"".join([facts, *tensors]), digest_size=16).hexdigest()


def accelerate(
    model: "DualEncoder", method: str, n: int = 1, *, fit_on: Embeddings | None = None, seed: int = 0
) -> Accelerated:
    """The accelerated mode of ``method`` for a model and a number of pseudo-vectors.

    Args:
        method: "oti" or "ovi".
        n: pseudo-tokens or pseudo-patches.
        fit_on: (m, d) image features, for OTI; the first 256 are inverted exactly for 5 steps. Labels play no part.
        seed: of the noise that those begin with.

    Raises:
        CrossgapError: an unknown method, or OTI without 16 features to fit on.
    """
    from crossgap_lib.inversion import oti, ovi_job  # late: inversion.py names this module's class

    if method == "ovi":
        return Accelerated(_LENGTH["ovi"], ovi_job(model, n, 1).shape)
    if method != "oti":
        raise CrossgapError(f"There is no method {method!r}; there are oti and ovi.")
    if fit_on is None or len(fit_on) < 16:
        raise CrossgapError("Accelerated OTI is fitted on image features: give 16 or more, better 256, as fit_on.")
    sample = fit_on[:FIT_SAMPLES]
    run = oti(model, sample, n_tokens=n, steps=FIT_STEPS, seed=seed, cache=False)
    fit = Ridge(alpha=_ALPHA).fit(sample.features.double().numpy(), run.tokens.flatten(1).double().numpy())
    weights, bias = (torch.from_numpy(part).float() for part in (fit.coef_, fit.intercept_))
    return Accelerated(_LENGTH["oti"], tuple(run.tokens.shape[1:]), weights, bias, len(sample) * FIT_STEPS)
