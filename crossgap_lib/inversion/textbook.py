"""OTI and OVI as a textbook would write them: the whole encoder, the whole context, every step, no shortcut.

This is what the papers' released code does: every position goes through every layer, and each step waits for its loss.
(It also tokenises the prompts anew in each step, as ``bench`` does.) It is the oracle that tests of ``oti`` and ``ovi``
compare with, and the loop beside which ``bench`` times them, so it shares no code with them: open_clip's own forward
pass runs here, and a hook puts the pseudo-tokens (or pseudo-patches) in place of what the token embedding (or patch
embedding) returned.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Forward = Callable[[Tensor], Tensor]  # (b, k, width) -> (b, d), not normalised


@contextmanager
def _output_replaced(module: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
    handle = module.register_forward_hook(lambda _module, _inputs, output: replace(output))
    try:
        yield
    finally:
        handle.remove()


def text_features(net: nn.Module, ids: Tensor, slots: Sequence[int], tokens: Tensor) -> Tensor:
    """open_clip's encode_text of the prompts ``ids`` (1 or b, L) with ``tokens`` (b, k, width) at ``slots``: (b, d)."""

    def replace(embedded: Tensor) -> Tensor:  # (b, L, width)
        embedded = embedded.clone()
        embedded[:, slots] = tokens.to(embedded.dtype)
        return embedded

    with _output_replaced(getattr(net, "text", net).token_embedding, replace):
        return net.encode_text(ids.expand(len(tokens), -1))


def image_features(net: nn.Module, patches: Tensor) -> Tensor:
    """open_clip's encode_image with pseudo-patches (b, k, width), each repeated over its run of positions: (b, d)."""
    trunk = getattr(net.visual, "trunk", None)

    def spread(n: int) -> Tensor:
        return F.interpolate(patches.transpose(1, 2), size=n, mode="nearest")  # (b, width, n)

    def replace(embedded: Tensor) -> Tensor:
        if trunk is None:  # (b, width, rows, columns)
            return spread(embedded.shape[2] * embedded.shape[3]).view_as(embedded)
        return spread(embedded.shape[1]).transpose(1, 2)  # (b, n, width)

    size = net.visual.image_size
    height, width = (size, size) if isinstance(size, int) else size
    blank = torch.zeros(len(patches), 3, height, width, device=patches.device)
    with _output_replaced(net.visual.conv1 if trunk is None else trunk.patch_embed, replace):
        return net.encode_image(blank)


def invert(
    forward: Forward,
    targets: Tensor,
    noise: Tensor,
    steps: int,
    *,
    eps: float = 1e-8,
    mean: bool = False,
    amp: torch.dtype | None = None,
) -> tuple[Tensor, Tensor]:
    """Plain AdamW on the sum (``mean``: the released code's mean) of 1 - cos over the batch.

    ``targets`` (b, d); ``noise`` (b, k, width); ``amp``: autocast to this type with a GradScaler, as the released code
    runs on a GPU. Returns unit-norm features (b, d) after the last update and losses (steps, b) on the CPU.
    """
    device = noise.device.type
    autocast = torch.autocast(device, amp or torch.bfloat16, enabled=amp is not None)
    scaler = torch.amp.GradScaler(device, enabled=amp is torch.float16)
    tokens = torch.nn.Parameter(noise.clone())
    optimizer = torch.optim.AdamW([tokens], lr=0.02, betas=(0.9, 0.999), eps=eps, weight_decay=0.01, foreach=False)
    losses = []
    for _ in range(steps):
        with autocast:
            loss = 1 - F.cosine_similarity(forward(tokens).float(), targets)
        losses.append(loss.detach().cpu())  # waits for the device
        optimizer.zero_grad()
        scaler.scale(loss.mean() if mean else loss.sum()).backward()
        scaler.step(optimizer)
        scaler.update()
    with torch.no_grad(), autocast:
        return F.normalize(forward(tokens).float(), dim=-1).cpu(), torch.stack(losses)
