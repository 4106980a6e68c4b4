"""Causal attention of a few positions that come after a constant, shared prefix, with its backward pass by hand.

OTI's pseudo-tokens and EOT (L = 2 to 17 positions) see each other and the same prefix of P keys and values in each
sample. A general kernel would need the prefix copied for each sample and spends more time on such tiny matrices than on
arithmetic; here the prefix is one matrix product a head, and the few pairs of own positions are sums over the width.
"""

from typing import Any

import torch
from torch import Tensor

_FEW = 4  # up to so many own positions pairs are taken one by one; beyond, small matrix products are faster

# Below: b samples, L own positions, P prefix positions, h heads, w head width. Attention weights are (b, L, h, P + L).


def _dots(x: Tensor, y: Tensor) -> Tensor:
    """Products of all pairs of positions: (b, L, h, w), (b, L, h, w) -> (b, L, h, L); above the diagonal undefined."""
    length = x.shape[1]
    if length > _FEW:
        return (x.transpose(1, 2) @ y.permute(0, 2, 3, 1)).transpose(1, 2)
    out = x.new_zeros(*x.shape[:3], length)
    for i in range(length):
        for j in range(i + 1):
            torch.sum(x[:, i] * y[:, j], dim=-1, out=out[:, i, :, j])
    return out


def _mix(weights: Tensor, y: Tensor) -> Tensor:
    """Weighted sums over the positions up to one's own: (b, L, h, L), (b, L, h, w) -> (b, L, h, w)."""
    length = y.shape[1]
    if length > _FEW:
        return (weights.transpose(1, 2) @ y.transpose(1, 2)).transpose(1, 2)
    rows = []
    for i in range(length):
        row = weights[:, i, :, :1] * y[:, 0]
        for j in range(1, i + 1):
            row.addcmul_(weights[:, i, :, j : j + 1], y[:, j])
        rows.append(row)
    return torch.stack(rows, dim=1)


def _mix_back(weights: Tensor, x: Tensor, out: Tensor) -> None:
    """The transpose of ``_mix``: position j gets the sum over i >= j of weights_ij x_i."""
    length = x.shape[1]
    if length > _FEW:
        out.copy_((weights.permute(0, 2, 3, 1) @ x.transpose(1, 2)).transpose(1, 2))
        return
    for j in range(length):
        torch.mul(weights[:, j, :, j : j + 1], x[:, j], out=out[:, j])
        for i in range(j + 1, length):
            out[:, j].addcmul_(weights[:, i, :, j : j + 1], x[:, i])


def _by_head(x: Tensor, matrices: Tensor) -> Tensor:
    """Each head's own matrix: (b, L, h, m) @ (h, m, n) -> (b, L, h, n)."""
    return torch.bmm(x.flatten(0, 1).transpose(0, 1), matrices).transpose(0, 1).unflatten(0, x.shape[:2])


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, past_k: Tensor, past_v: Tensor) -> Tensor:
        q, k, v = qkv.unbind(2)  # (b, L, h, w)
        scale, length = q.shape[-1] ** -0.5, q.shape[1]
        own = _dots(q, k)
        own = own.masked_fill(
            torch.ones(length, length, dtype=torch.bool, device=q.device).triu(1)[:, None], -torch.inf
        )
        scores = torch.cat([_by_head(q, past_k.transpose(1, 2)), own], dim=-1)
        weights = torch.softmax(scores * scale, dim=-1)  # (b, L, h, P + L)
        n_past = past_k.shape[1]
        ctx.save_for_backward(qkv, past_k, past_v, weights)
        return _mix(weights[..., n_past:], v) + _by_head(weights[..., :n_past], past_v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        qkv, past_k, past_v, weights = ctx.saved_tensors
        q, k, v = qkv.unbind(2)
        n_past, grads = past_k.shape[1], torch.empty_like(qkv)
        _mix_back(weights[..., n_past:], grad, out=grads[:, :, 2])
        slope = torch.cat([_by_head(grad, past_v.transpose(1, 2)), _dots(grad, v)], dim=-1)
        slope = weights * (slope - (slope * weights).sum(-1, keepdim=True)) * q.shape[-1] ** -0.5  # of the scores
        torch.add(_mix(slope[..., n_past:], k), _by_head(slope[..., :n_past], past_k), out=grads[:, :, 0])
        _mix_back(slope[..., n_past:], q, out=grads[:, :, 1])
        return grads, None, None


def prefix_attention(qkv: Tensor, past_k: Tensor, past_v: Tensor) -> Tensor:
    """Attention of each own position to the prefix and to the own positions up to itself.

    Args:
        qkv: (b, L, 3, h, w) queries, keys and values.
        past_k, past_v: (h, P, w) the prefix's keys and values; constants, so no gradient goes to them.

    Returns:
        (b, L, h, w), scaled by 1 / sqrt(w) as usual.
    """
    return _PrefixAttention.apply(qkv, past_k, past_v)
