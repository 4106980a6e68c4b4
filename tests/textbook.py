"""OTI and OVI as a textbook would write them: the whole encoder, the whole context, every step, no shortcut.

The oracle of crossgap_lib.inversion shares no code with it: open_clip's own forward pass runs, and a hook puts the
pseudo-tokens (pseudo-patches) in place of what the token embedding (patch embedding) returned.
"""

from contextlib import contextmanager

import torch
from torch.nn import functional as F


@contextmanager
def _output_replaced(module, replace):
    handle = module.register_forward_hook(lambda _module, _inputs, output: replace(output))
    try:
        yield
    finally:
        handle.remove()


def text_features(net, ids, slots, tokens):
    """open_clip's encode_text with ``tokens`` (b, k, width) at the positions ``slots`` of the prompt ``ids``."""

    def replace(embedded):  # (b, L, width)
        embedded = embedded.clone()
        embedded[:, slots] = tokens
        return embedded

    with _output_replaced(getattr(net, "text", net).token_embedding, replace):
        return net.encode_text(ids.expand(len(tokens), -1))


def image_features(net, patches):
    """open_clip's encode_image with pseudo-patches (b, k, width), each repeated over its run of positions."""
    trunk = getattr(net.visual, "trunk", None)

    def spread(n):
        return F.interpolate(patches.transpose(1, 2), size=n, mode="nearest")  # (b, width, n)

    def replace(embedded):
        if trunk is None:  # (b, width, rows, columns)
            return spread(embedded.shape[2] * embedded.shape[3]).view_as(embedded)
        return spread(embedded.shape[1]).transpose(1, 2)  # (b, n, width)

    size = net.visual.image_size
    side = size if isinstance(size, int) else size[0]
    blank = torch.zeros(len(patches), 3, side, side)
    with _output_replaced(net.visual.conv1 if trunk is None else trunk.patch_embed, replace):
        return net.encode_image(blank)


def invert(forward, targets, noise, steps, eps=1e-8, mean=False):
    """(features after the last update, losses (steps, n)); plain AdamW on the sum or the mean of 1 - cos."""
    tokens = torch.nn.Parameter(noise.clone())
    optimizer = torch.optim.AdamW([tokens], lr=0.02, betas=(0.9, 0.999), eps=eps, weight_decay=0.01, foreach=False)
    losses = []
    for _ in range(steps):
        loss = 1 - F.cosine_similarity(forward(tokens), targets)
        losses.append(loss.detach())
        optimizer.zero_grad()
        (loss.mean() if mean else loss.sum()).backward()
        optimizer.step()
    with torch.no_grad():
        return F.normalize(forward(tokens), dim=-1), torch.stack(losses)
