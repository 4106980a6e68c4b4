"""Attention behind a shared prefix against torch's own kernel over the copied prefix."""

import pytest
import torch
from torch.nn import functional as F

from crossgap_lib.inversion.prefix_attention import prefix_attention


def problem(length, prefix=4, batch=5, heads=3, width=8, dtype=torch.float64):
    generator = torch.Generator().manual_seed(length)
    qkv = torch.randn(batch, length, 3, heads, width, generator=generator, dtype=dtype, requires_grad=True)
    past_k, past_v = torch.randn(2, heads, prefix, width, generator=generator, dtype=dtype)
    return qkv, past_k, past_v


def general(qkv, past_k, past_v):
    """torch's kernel: the prefix copied for each sample, an explicit mask."""
    q, k, v = qkv.permute(2, 0, 3, 1, 4)  # each (b, h, L, w)
    k, v = (torch.cat([past.expand(len(q), -1, -1, -1), own], dim=2) for past, own in ((past_k, k), (past_v, v)))
    n, total = q.shape[2], k.shape[2]
    mask = torch.ones(n, total, dtype=torch.bool).tril(total - n)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9])
def test_values_and_gradients_are_those_of_the_general_kernel(length):
    case = problem(length)
    ours, theirs = prefix_attention(*case), general(*case)
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=0)
    weights = torch.randn(ours.shape, generator=torch.Generator().manual_seed(9), dtype=ours.dtype)
    grads = [torch.autograd.grad((out * weights).sum(), case[0])[0] for out in (ours, theirs)]
    torch.testing.assert_close(*grads, atol=1e-12, rtol=0)


@pytest.mark.parametrize("length", [2, 6])
def test_gradients_are_finite_differences(length):
    qkv, past_k, past_v = problem(length, prefix=2, batch=2, heads=2, width=3)
    assert torch.autograd.gradcheck(lambda x: prefix_attention(x, past_k, past_v), qkv)


def test_extreme_scores_stay_finite():
    qkv, past_k, past_v = problem(2, dtype=torch.float32)
    out = prefix_attention(1e3 * qkv, past_k, past_v)
    (grad,) = torch.autograd.grad(out.sum(), qkv)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()
