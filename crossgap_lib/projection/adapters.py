"""Linear adapters: one linear layer from images to texts, or back, trained on pairs (Cross the Gap, App. G, Table A6).

The paper trains on 595 000 pairs with a cosine loss and, after Patel et al. 2024, a contrastive one like CLIP's. It
gives neither their weights nor the optimiser's settings; those here are this project's own. Unlike OTI and OVI an
adapter needs pairs, but once trained it costs one matrix product a query.
"""

from dataclasses import dataclass, replace
from itertools import count

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError

_SCALE = 100.0  # of the contrastive logits, which is where CLIP's own training ends


@dataclass(frozen=True, eq=False)
class Adapter:
    """x -> normalised (W x + b).

    Attributes:
        weight: (d_out, d_in).
        bias: (d_out,).
        target: modality of what it was trained to give.
        history: a row for each epoch: epoch (0 is the start), loss, held-out loss.
        epoch: the one whose weights these are, with the least held-out loss.
    """

    weight: Tensor
    bias: Tensor
    target: str
    history: pd.DataFrame
    epoch: int

    def __call__(self, x: Embeddings) -> Embeddings:
        """``x`` in the other modality's space, at unit norm, with the same ids and labels.

        Raises:
            CrossgapError: features of another width.
        """
        if x.features.shape[1] != self.weight.shape[1]:
            raise CrossgapError(
                f"These features have {x.features.shape[1]} dimensions; the adapter takes {self.weight.shape[1]}."
            )
        return replace(x, features=_mapped(x.features, self.weight, self.bias), modality=self.target)


def train_adapter(
    source: Embeddings,
    target: Embeddings,
    *,
    cosine: float = 1.0,
    contrastive: float = 0.2,
    epochs: int = 100,
    patience: int = 10,
    held_out: float = 0.1,
    batch_size: int = 128,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> Adapter:
    """A linear layer that takes row i of ``source`` to row i of ``target``.

    Loss: cosine * mean(1 - cos) + contrastive * CLIP's symmetric cross-entropy within a batch at logit scale 100.
    AdamW; it starts at the identity (where widths agree), and stops ``patience`` epochs after the held-out loss was
    least. The same seed gives the same adapter.

    Args:
        source: (n, d_in).
        target: (n, d_out).
        held_out: share of the pairs, at least one, that are not trained on but choose the epoch.

    Raises:
        CrossgapError: fewer than 8 pairs, other numbers of rows, or settings out of range.
    """
    n = len(source)
    if n != len(target):
        raise CrossgapError(f"An adapter is trained on pairs, but there are {n} and {len(target)} rows.")
    if n < 8 or not 0 < held_out < 1 or min(epochs, batch_size, patience) < 1 or min(cosine, contrastive) < 0:
        raise CrossgapError(
            "An adapter needs 8 pairs or more, a held-out share between 0 and 1, at least one epoch and one pair in a "
            "batch, and loss weights that are not negative."
        )
    x, y, generator = source.features, target.features, torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    n_held = max(1, round(held_out * n))
    held, kept = order[:n_held], order[n_held:]
    weight, bias = _start(x.shape[1], y.shape[1], generator)
    adamw = torch.optim.AdamW([weight, bias], lr=lr, weight_decay=weight_decay)

    def loss(rows: Tensor) -> Tensor:
        return _loss(_mapped(x[rows], weight, bias), y[rows], cosine, contrastive)

    rows, best = [], (float("inf"), 0, weight, bias)
    for epoch in count():
        with torch.no_grad():
            rows.append((epoch, float(loss(kept)), float(loss(held))))
        if rows[-1][2] < best[0]:
            best = (rows[-1][2], epoch, weight.detach().clone(), bias.detach().clone())
        if epoch == epochs or epoch - best[1] >= patience:
            break
        for batch in kept[torch.randperm(len(kept), generator=generator)].split(batch_size):
            adamw.zero_grad()
            loss(batch).backward()
            adamw.step()
    history = pd.DataFrame(rows, columns=["epoch", "loss", "held-out loss"])
    return Adapter(best[2], best[3], target.modality, history, best[1])


def _start(d_in: int, d_out: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    unrelated = d_in != d_out
    weight = torch.randn(d_out, d_in, generator=generator) / d_in**0.5 if unrelated else torch.eye(d_in)
    return weight.requires_grad_(), torch.zeros(d_out, requires_grad=True)


def _mapped(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.normalize(x @ weight.T + bias, dim=1)


def _loss(mapped: Tensor, target: Tensor, cosine: float, contrastive: float) -> Tensor:
    """The loss of unit rows (n, d) against the rows of ``target`` that they belong to."""
    logits, pairs = _SCALE * mapped @ target.T, torch.arange(len(target))
    softmax = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    return cosine * (1 - (mapped * target).sum(dim=1)).mean() + contrastive * softmax
