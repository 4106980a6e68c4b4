"""Causal attention of a few positions that come after a constant, shared prefix, with its backward pass by hand.

OTI's pseudo-tokens and EOT (L = 2 to 17 positions) see each other and the same prefix of P keys and values in each
sample. A general kernel would need the prefix copied for each sample and spends more time on such tiny matrices than on
arithmetic; here the prefix is one matrix product for all heads, and the few pairs of own positions are sums over the
width. Attention weights keep the key's position first, so that all that is done to them runs over long rows.
"""

from typing import Any

import torch
from torch import Tensor

_FEW = 4  # up to so many own positions pairs are taken one by one; beyond, small matrix products are faster

# Below: b samples, L own positions, P prefix positions, h heads, w head width. Weights are (P + L, b, L, h).


def _dots(x: Tensor, y: Tensor, out: Tensor) -> None:
    """Products of x at position i and y at j <= i: (b, L, h, w), (b, L, h, w) -> out[j, :, i], (L, b, L, h)."""
    length = x.shape[1]
    if length > _FEW:
        out.copy_((x.transpose(1, 2) @ y.permute(0, 2, 3, 1)).permute(3, 0, 2, 1))
        return
    for i in range(length):
        for j in range(i + 1):
            torch.sum(x[:, i] * y[:, j], dim=-1, out=out[j, :, i])


def _add_mix(out: Tensor, weights: Tensor, y: Tensor) -> None:
    """Adds to position i the sum over j <= i of weights[j, :, i] y_j: (L, b, L, h), (b, L, h, w) -> (b, L, h, w)."""
    length = y.shape[1]
    if length > _FEW:
        out += (weights.permute(1, 3, 2, 0) @ y.transpose(1, 2)).transpose(1, 2)
        return
    for i in range(length):
        for j in range(i + 1):
            out[:, i].addcmul_(weights[j, :, i, :, None], y[:, j])


def _add_mix_back(out: Tensor, weights: Tensor, x: Tensor) -> None:
    """The transpose: adds to position j the sum over i >= j of weights[j, :, i] x_i."""
    length = x.shape[1]
    if length > _FEW:
        out += (weights.permute(1, 3, 0, 2) @ x.transpose(1, 2)).transpose(1, 2)
        return
    for j in range(length):
        for i in range(j, length):
            out[:, j].addcmul_(weights[j, :, i, :, None], x[:, i])


def _all_heads(past: Tensor) -> Tensor:
    """(h, P, w) -> (P * h, h * w): one matrix in which each head sees its own keys, and zeros for the others."""
    heads, n_past, width = past.shape
    matrix = past.new_zeros(n_past, heads, heads, width)
    matrix.diagonal(dim1=1, dim2=2).copy_(past.permute(1, 2, 0))  # (P, w, h)
    return matrix.view(n_past * heads, heads * width)


def _scores(x: Tensor, y: Tensor, keys: Tensor) -> Tensor:
    """Products of x (b, L, h, w) with the prefix (P * h, h * w) and with own positions y: (P + L, b, L, h)."""
    b, length, heads, _ = x.shape
    n_past = len(keys) // heads
    out = x.new_zeros(n_past + length, b, length, heads)  # zeros: what lies after a position must be a number
    out[:n_past] = (x.flatten(2) @ keys.T).view(b, length, n_past, heads).permute(2, 0, 1, 3)
    _dots(x, y, out[n_past:])
    return out


def _mixed(weights: Tensor, values: Tensor, y: Tensor) -> Tensor:
    """The sum over the prefix (P * h, h * w) and over own positions y (b, L, h, w): (b, L, h, w)."""
    n_past = len(weights) - y.shape[1]
    rows = weights[:n_past].permute(1, 2, 0, 3).flatten(2)  # (b, L, P * h)
    out = (rows @ values).view(y.shape)
    _add_mix(out, weights[n_past:], y)
    return out


class _PrefixAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, past_k: Tensor, past_v: Tensor) -> Tensor:
        q, k, v = qkv.unbind(2)  # each (b, L, h, w)
        keys, values, scale, length = _all_heads(past_k), _all_heads(past_v), q.shape[-1] ** -0.5, q.shape[1]
        scores = _scores(q, k, keys) * scale
        later = torch.ones(length, length, dtype=torch.bool, device=q.device).tril(-1)  # [j, i]: key j after query i
        scores[-length:].masked_fill_(later[:, None, :, None], -torch.inf)
        weights = torch.softmax(scores, dim=0)
        ctx.save_for_backward(q, k, v, keys, values, weights)
        return _mixed(weights, values, v)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        q, k, v, keys, values, weights = ctx.saved_tensors
        b, length, heads, width = q.shape
        grads, own = q.new_zeros(b, length, 3, heads, width), slice(len(weights) - length, None)
        _add_mix_back(grads[:, :, 2], weights[own], grad)
        slope = _scores(grad, v, values)
        slope = weights * (slope - (slope * weights).sum(0)) * width**-0.5  # of the scores
        grads[:, :, 0] = _mixed(slope, keys, k)
        _add_mix_back(grads[:, :, 1], slope[own], q)
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
