"""What an inversion returns."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError


@dataclass(eq=False, repr=False)
class Inversion(Embeddings):
    """Inverted features with the path that led to them.

    Attributes (beside those of Embeddings; n samples, k pseudo-tokens or pseudo-patches):
        tokens: (n, k, width) the learned pseudo-tokens, or for OVI pseudo-patches, after the last step.
        losses: (steps, n) 1 - cos; losses[s] precedes update s.
        snapshots: step -> (n, d) unit-norm features after that many updates; always holds the last step.
    """

    tokens: Tensor = field(default_factory=lambda: torch.empty(0))
    losses: Tensor = field(default_factory=lambda: torch.empty(0))
    snapshots: dict[int, Tensor] = field(default_factory=dict)

    @property
    def steps(self) -> int:
        return len(self.losses)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, {self.tokens.shape[1]} pseudo-vectors, {self.steps} steps)"

    def at(self, step: int) -> Embeddings:
        """The features after ``step`` updates.

        Raises:
            CrossgapError: no snapshot was taken there.
        """
        if step not in self.snapshots:
            raise CrossgapError(f"No snapshot at step {step}; there are {sorted(self.snapshots)}.")
        return Embeddings(**self.columns() | {"features": self.snapshots[step]})

    def _rows(self, index: np.ndarray) -> dict[str, Any]:
        rows = torch.from_numpy(index)
        shots = {step: features[rows] for step, features in self.snapshots.items()}
        own = {"tokens": self.tokens[rows], "losses": self.losses[:, rows], "snapshots": shots}
        return super()._rows(index) | own
