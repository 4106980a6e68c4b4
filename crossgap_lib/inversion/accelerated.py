"""A faster inversion: a fitted start instead of noise, and steps of set length along the gradient instead of AdamW's.

``fewer_steps`` explains both and fits the start by running ``oti_ovi``, which takes what is defined here.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import digest


@dataclass(frozen=True, eq=False)
class Accelerated:
    """How an accelerated run begins and steps.

    Attributes:
        length: of the first step of each pseudo-vector: the root mean square over its width.
        shape: (k, width).
        weights, bias: (k * width, d) and (k * width,), the map from features to the first pseudo-vectors.
        fit_steps: forward and backward passes that the fit took, all samples together.
        fitted_for: the ``purpose`` of the runs that it serves (see ``oti_ovi.Job``); all others are refused.
    """

    length: float
    shape: tuple[int, int]
    weights: Tensor
    bias: Tensor
    fit_steps: int
    fitted_for: dict[str, Any] = field(default_factory=dict)

    def check(self, purpose: dict[str, Any]) -> None:
        """Raises CrossgapError for a run of another method, model, number of pseudo-vectors or template."""
        facts = self.fitted_for.keys() | purpose.keys()
        other = [f"another {name}" for name in sorted(facts) if self.fitted_for.get(name) != purpose.get(name)]
        if other:
            raise CrossgapError(
                f"This accelerated start was fitted for {' and '.join(other)}: fit one for this run with accelerate."
            )

    def begin(self, features: Tensor) -> Tensor:
        """(b, d) unit-norm features -> the first pseudo-vectors (b, k, width)."""
        weights, bias = (t.to(features.device) for t in (self.weights, self.bias))
        return (features @ weights.T + bias).unflatten(1, self.shape)

    def stepper(self, tokens: Tensor, steps: int) -> Callable[[Tensor], None]:
        """The rule by which ``loop.Loop`` changes the pseudo-vectors (b, k, width) in each step.

        Each pseudo-vector's gradient is divided by its own root mean square; the length of the steps falls by a cosine.
        """
        cosines = [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]
        lengths = torch.tensor([self.length * cosine for cosine in cosines], device=tokens.device)

        @torch.no_grad()
        def update(step: Tensor) -> None:
            rms = tokens.grad.square().mean(dim=-1, keepdim=True).sqrt()
            tokens.sub_(lengths.index_select(0, step[None]) * tokens.grad / rms.clamp_min(1e-20))

        return update

    @cached_property
    def fingerprint(self) -> str:
        """Hex digits that change with anything that a result depends on."""
        tensors = (t.numpy().tobytes() for t in (self.weights, self.bias))
        return digest((self.length, self.shape, sorted(self.fitted_for.items()), *tensors))
