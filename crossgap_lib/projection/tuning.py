"""CLIP's last projections trained on, at another temperature (Cross the Gap, Sec. 5.6 and App. A, "CLIP fine-tuning").

The paper fine-tunes CLIP ViT-B/32 on COCO at temperature 1, which closes the gap, and at 0.01 as a reference: the final
projections alone, AdamW, 30 000 steps of 512 pairs. Both towers are frozen, so each pair is encoded once, up to its
projection, and a step is a few small matrix products.
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from open_clip.loss import ClipLoss
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.projectors import SIDES, Projector, put_in

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder


def tune_projections(
    model: "DualEncoder",
    images: Embeddings,
    texts: Embeddings,
    *,
    temperature: float,
    steps: int = 500,
    batch_size: int = 128,
    lr: float = 2e-4,
    weight_decay: float = 0.01,
    seed: int = 0,
) -> "DualEncoder":
    """The same towers with projections trained by CLIP's loss at ``temperature``; ``model`` stays as it is.

    Args:
        images, texts: (n, columns) pairs of the model, row by row, encoded with ``before_projection=True``.
        temperature: of the softmax; CLIP ends at 0.01.
        steps, batch_size: AdamW at a constant ``lr``; the pairs are drawn anew, with ``seed``, in each pass over them.

    Raises:
        CrossgapError: other numbers of rows, features after the projection, fewer than two pairs, settings out of
            range, or an encoder that does not end in a linear projection.
    """
    pairs = {"image": images, "text": texts}
    weights = {side: _matrix(model.projector(side)).requires_grad_() for side in SIDES}  # (d, columns)
    _check(pairs, weights, temperature, steps, batch_size, lr)
    adamw = torch.optim.AdamW(weights.values(), lr=lr, weight_decay=weight_decay)
    loss, scale = ClipLoss(), torch.tensor(1 / temperature)
    for rows in _batches(len(images), batch_size, steps, seed):
        features = [F.normalize(pairs[side].features[rows] @ weights[side].T, dim=1) for side in SIDES]  # (b, d)
        adamw.zero_grad()
        loss(*features, scale).backward()
        adamw.step()
    net = deepcopy(model.net)
    for side in SIDES:
        put_in(net, side, _projector(weights[side].detach(), model.projector(side)))
    note = f"projections tuned at temperature {temperature:g}: {steps} steps of {min(batch_size, len(images))} pairs"
    return replace(model, name=f"{model.name} tuned at {temperature:g}", net=net, notes=(*model.notes, note))


def _batches(n: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Row numbers, in another order in each pass over all of them."""
    generator, left = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(left) < min(size, n):  # what is left of a pass is no full batch
            left = torch.randperm(n, generator=generator)
        rows, left = left[:size], left[size:]
        yield rows


def _matrix(projector: Projector) -> Tensor:
    """[W b], which takes ``before_projection`` features as they are."""
    parts = [projector.weight] if projector.bias is None else [projector.weight, projector.bias[:, None]]
    return torch.cat(parts, dim=1)


def _projector(matrix: Tensor, like: Projector) -> Projector:
    return Projector(matrix) if like.bias is None else Projector(matrix[:, :-1], matrix[:, -1])


def _check(
    pairs: dict[str, Embeddings], weights: dict[str, Tensor], temperature: float, steps: int, batch: int, lr: float
) -> None:
    n, m = map(len, pairs.values())
    if n != m or n < 2:
        raise CrossgapError(f"Projections are tuned on two pairs or more, row by row, but there are {n} and {m} rows.")
    for side, e in pairs.items():
        if not e.meta.get("before_projection") or e.modality != side:
            raise CrossgapError(f"Tuning takes {side}s that were encoded with before_projection=True.")
        if (found := e.features.shape[1]) != (columns := weights[side].shape[1]):
            raise CrossgapError(f"The {side} features have {found} columns; the projection takes {columns}.")
    if not (temperature > 0 and lr > 0 and steps >= 1 and batch >= 2):
        raise CrossgapError("Tuning needs a positive temperature and learning rate, a step, and two pairs in a batch.")
