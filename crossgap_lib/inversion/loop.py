"""The method: which input vectors make a frozen encoder return a given feature?

OTI and OVI (Cross the Gap, Sec. 4, Algorithms 1 and 2) are both this loop. OTI learns pseudo-tokens that the text
encoder maps to the feature of an image; OVI learns pseudo-patches that the image encoder maps to the feature of a text.

    argmin over v of  1 - cos(encode(v), target)          (Eq. 2)

As in the paper (App. A) and its released code, v starts at N(0, 0.02^2), and AdamW takes 150 (OTI) or 1000 (OVI) steps
with lr 0.02, betas (0.9, 0.999), eps 1e-8 and weight decay 0.01, without a schedule; the vectors after the last step
are the result. The released code minimises the *mean* over the batch, so that AdamW's eps makes a sample's result
depend on its batch. Here the loss is a *sum* over samples, so that each sample's result is its own. (Dividing the loss
by n divides AdamW's first moment and the root of its second alike. So the mean with eps takes the same steps as the sum
with n * eps, which is what ``paper=True`` uses.)
"""

from collections.abc import Callable, Collection, Iterable
from hashlib import blake2b

import torch
from torch import Tensor
from torch.nn import functional as F

STD, LR, BETAS, EPS, DECAY = 0.02, 0.02, (0.9, 0.999), 1e-8, 0.01

Encode = Callable[[Tensor], Tensor]  # pseudo-vectors (b, k, width) -> features (b, d), float32, not normalised
Update = Callable[[int], None]  # moves the pseudo-vectors in place by their .grad, given the number of the step


def initial_noise(ids: Iterable[str], shape: tuple[int, int], seed: int) -> Tensor:
    """(n, *shape) from N(0, 0.02^2), each row drawn from (seed, id) alone, so that neither order nor batch matters."""
    generator, rows = torch.Generator(), []
    for name in ids:
        digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little"))
        rows.append(torch.empty(shape).normal_(0.0, STD, generator=generator))
    return torch.stack(rows)


def adamw(tokens: Tensor, steps: int, eps: float = EPS) -> Update:
    """The published optimiser. ``steps`` is unused, since it has no schedule (``Accelerated.stepper`` has one)."""
    optimizer = torch.optim.AdamW([tokens], lr=LR, betas=BETAS, eps=eps, weight_decay=DECAY)
    return lambda step: optimizer.step()


def gradient(loss: Tensor, tokens: Tensor) -> Tensor:
    """The gradient of the summed losses (b,) with respect to the tokens (b, k, width): each sample's own."""
    return torch.autograd.grad(loss.sum(), tokens)[0]


def invert(
    encode: Encode,
    targets: Tensor,
    start: Tensor,
    steps: int,
    *,
    keep: Collection[int] = (),
    stepper: Callable[[Tensor, int], Update] = adamw,
    backward: Callable[[Tensor, Tensor], Tensor] = gradient,
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Learns the vectors for which ``encode`` returns the targets.

    Args:
        encode: (b, k, width) -> (b, d), frozen.
        targets: (b, d), unit norm.
        start: (b, k, width).
        keep: numbers of updates after which the features are kept, besides the last.
        stepper: (tokens, steps) -> the ``Update`` of these tokens.
        backward: (losses (b,), tokens) -> the gradient of each sample's loss, (b, k, width).

    Returns:
        The vectors after the last step (b, k, width); losses (steps, b), of which losses[s] precedes update s;
        updates -> unit-norm features (b, d) after that many, for ``keep`` and for the last step.
    """
    tokens, losses, kept = start.clone().requires_grad_(), [], {}
    update = stepper(tokens, steps)
    for step in range(steps):
        features = F.normalize(encode(tokens), dim=-1)  # (b, d)
        if step in keep:
            kept[step] = features.detach()
        loss = 1 - (features * targets).sum(dim=-1)  # (b,)
        losses.append(loss.detach())  # left on the device, so that no step waits for it
        tokens.grad = backward(loss, tokens)
        update(step)
    with torch.no_grad():
        kept[steps] = F.normalize(encode(tokens), dim=-1)
    return tokens.detach(), torch.stack(losses) if losses else targets.new_empty(0, len(targets)), kept


class ScaledGradient:
    """``gradient`` for fp16, which rounds what is below 6e-8 to zero and is coarse below 6e-5.

    The loss is multiplied by a power of two before the backward pass and the gradient divided by it, both of which are
    exact. Measured on the mini and on CLIP's and SigLIP's architectures, any factor from 2^4 to 2^20 gives the same,
    smallest error; 2^12 is the middle. A gradient that overflows all the same counts as zero for this step, and the
    scale of its sample is halved; torch's GradScaler halves it for all samples and waits for the device.
    """

    def __init__(self, samples: int, device: torch.device | str):
        self.scale = torch.full((samples,), 2.0**12, device=device)

    def __call__(self, loss: Tensor, tokens: Tensor) -> Tensor:
        grad = gradient(loss * self.scale, tokens) / self.scale[:, None, None]
        finite = grad.isfinite().flatten(1).all(dim=1)  # (b,)
        self.scale = torch.where(finite, self.scale, self.scale / 2)
        return grad.masked_fill(~finite[:, None, None], 0.0)
