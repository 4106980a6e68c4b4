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
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

STD, LR, BETAS, EPS, DECAY = 0.02, 0.02, (0.9, 0.999), 1e-8, 0.01

Encode = Callable[[Tensor], Tensor]  # pseudo-vectors (b, k, width) -> features (b, d), float32, not normalised
Update = Callable[[Tensor], None]  # moves the pseudo-vectors in place by their .grad, given the number of the step ()
WORTH_A_GRAPH = 10  # steps on a GPU; to capture one takes as long as some


def initial_noise(ids: Iterable[str], shape: tuple[int, int], seed: int) -> Tensor:
    """(n, *shape) from N(0, 0.02^2), each row drawn from (seed, id) alone, so that neither order nor batch matters."""
    generator, rows = torch.Generator(), []
    for name in ids:
        digest = blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
        generator.manual_seed(int.from_bytes(digest, "little"))
        rows.append(torch.empty(shape).normal_(0.0, STD, generator=generator))
    return torch.stack(rows)


class AdamW:
    """The published optimiser. It has no schedule, so it ignores the number of a step, and how many there are."""

    def __init__(self, tokens: Tensor, steps: int, eps: float = EPS, lr: float = LR):
        # capturable: the count of its steps lies on the GPU, too, where nothing need wait for it
        on_gpu = {"capturable": True, "fused": True} if tokens.is_cuda else {}
        self.optimizer = torch.optim.AdamW([tokens], lr=lr, betas=BETAS, eps=eps, weight_decay=DECAY, **on_gpu)

    def __call__(self, step: Tensor) -> None:
        self.optimizer.step()

    def restart(self) -> None:
        """Forgets what it has seen, in place: a captured step goes on reading the same memory."""
        for moments in self.optimizer.state.values():
            for value in moments.values():
                value.zero_()


def gradient(loss: Tensor, tokens: Tensor) -> Tensor:
    """The gradient of the summed losses (b,) with respect to the tokens (b, k, width): each sample's own."""
    return torch.autograd.grad(loss.sum(), tokens)[0]


class Loop:
    """The loop for batches of one shape.

    On a GPU a step is some hundred small kernels, and to launch them takes longer than to compute them. So there the
    first batch captures the step as a CUDA graph, and this one and all later ones replay it. Everything that a step
    changes lies in the same memory from batch to batch and on the device; nothing waits for it until the end.

    Args:
        encode: (b, k, width) -> (b, d), frozen.
        like: the targets (b, d) and the start (b, k, width) of a batch, for their shapes and device.
        stepper: (tokens, steps) -> the ``Update`` of these tokens.
        backward: (losses (b,), tokens) -> the gradient of each sample's loss, (b, k, width).

    Where an ``Update`` or ``backward`` keeps state, it has a ``restart()``, which is called before each batch.
    """

    def __init__(
        self,
        encode: Encode,
        like: tuple[Tensor, Tensor],
        steps: int,
        *,
        stepper: Callable[[Tensor, int], Update] = AdamW,
        backward: Callable[[Tensor, Tensor], Tensor] = gradient,
    ):
        targets, start = like
        self.encode, self.steps, self.backward = encode, steps, backward
        self.targets, self.features = torch.empty_like(targets), torch.empty_like(targets)
        self.tokens = torch.empty_like(start).requires_grad_()
        self.tokens.grad = torch.empty_like(start)
        self.losses = targets.new_empty(steps, len(targets))
        self.step = torch.zeros((), dtype=torch.long, device=targets.device)  # its number, from 0
        self.update, self.graph = stepper(self.tokens, steps), None

    def __call__(
        self, targets: Tensor, start: Tensor, keep: Collection[int] = ()
    ) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
        """Learns the vectors for which ``encode`` returns the targets; see ``invert``."""
        self._begin(targets, start)
        if self.targets.is_cuda and self.graph is None and self.steps >= WORTH_A_GRAPH:
            self.graph = self._captured()
            self._begin(targets, start)
        advance, kept = self.graph.replay if self.graph else self._advance, {}
        for step in range(self.steps):
            advance()
            if step in keep:
                kept[step] = self.features.clone()
        with torch.no_grad():
            kept[self.steps] = F.normalize(self.encode(self.tokens), dim=-1)
        return self.tokens.detach().clone(), self.losses.clone(), kept

    def _begin(self, targets: Tensor, start: Tensor) -> None:
        with torch.no_grad():
            self.targets.copy_(targets)
            self.tokens.copy_(start)
            self.step.zero_()
        for part in (self.update, self.backward):
            if hasattr(part, "restart"):
                part.restart()

    def _advance(self) -> None:
        """One step: ``features`` are those before the update."""
        features = F.normalize(self.encode(self.tokens), dim=-1)  # (b, d)
        loss = 1 - (features * self.targets).sum(dim=-1)  # (b,)
        self.features.copy_(features.detach())
        self.losses.index_copy_(0, self.step[None], loss.detach()[None])
        self.tokens.grad.copy_(self.backward(loss, self.tokens))
        self.update(self.step)
        self.step += 1

    def _captured(self) -> torch.cuda.CUDAGraph:
        """A step as a graph. Some steps go before, beside the main stream, in which libraries set themselves up."""
        with torch.cuda.device(self.targets.device):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                for _ in range(3):
                    self._advance()
            torch.cuda.current_stream().wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # other threads may use the GPU
                self._advance()
        return graph


def invert(
    encode: Encode,
    targets: Tensor,
    start: Tensor,
    steps: int,
    *,
    keep: Collection[int] = (),
    **how: Any,
) -> tuple[Tensor, Tensor, dict[int, Tensor]]:
    """Learns the vectors for which ``encode`` returns the targets, for one batch.

    Args:
        encode: (b, k, width) -> (b, d), frozen.
        targets: (b, d), unit norm.
        start: (b, k, width).
        keep: numbers of updates after which the features are kept, besides the last.
        how: stepper and backward, as ``Loop`` takes them.

    Returns:
        The vectors after the last step (b, k, width); losses (steps, b), of which losses[s] precedes update s;
        updates -> unit-norm features (b, d) after that many, for ``keep`` and for the last step.
    """
    return Loop(encode, (targets, start), steps, **how)(targets, start, keep)


class ScaledGradient:
    """``gradient`` for fp16, which rounds what is below 6e-8 to zero and is coarse below 6e-5.

    The loss is multiplied by a power of two before the backward pass and the gradient divided by it, both of which are
    exact. Measured on the mini and on CLIP's and SigLIP's architectures, any factor from 2^4 to 2^20 gives the same,
    smallest error; 2^12 is the middle. A gradient that overflows all the same counts as zero for this step, and the
    scale of its sample is halved; torch's GradScaler halves it for all samples and waits for the device.
    """

    def __init__(self, samples: int, device: torch.device | str):
        self.scale = torch.empty(samples, device=device)
        self.restart()

    def restart(self) -> None:
        self.scale.fill_(2.0**12)

    def __call__(self, loss: Tensor, tokens: Tensor) -> Tensor:
        grad = gradient(loss * self.scale, tokens) / self.scale[:, None, None]
        finite = grad.isfinite().flatten(1).all(dim=1)  # (b,)
        self.scale.copy_(torch.where(finite, self.scale, self.scale / 2))
        return grad.masked_fill(~finite[:, None, None], 0.0)
