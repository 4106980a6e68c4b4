"""The packed linear layer against torch's, values and gradients."""

import pytest
import torch
from torch.nn import functional as F

from crossgap_lib.inversion import frozen_linear
from crossgap_lib.inversion.frozen_linear import FrozenLinear, general_kernels, prefers_own_kernels


def draw(rows, inputs=24, outputs=40):
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, 3, inputs, generator=generator, requires_grad=True)
    weight, bias = torch.randn(outputs, inputs, generator=generator), torch.randn(outputs, generator=generator)
    add = torch.randn(rows, 3, outputs, generator=generator, requires_grad=True)
    return x, weight, bias, add


def value_and_gradients(out, *inputs):
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return out, *torch.autograd.grad((out * upstream).sum(), inputs)


@pytest.mark.parametrize("rows", [1, 2, 33, frozen_linear._MAX_ROWS])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_torchs(rows, with_bias):
    x, weight, bias, add = draw(rows)
    bias = bias if with_bias else None
    layer = FrozenLinear(weight, bias)
    for ours, theirs, inputs in (
        (layer(x), F.linear(x, weight, bias), (x,)),
        (layer(x, add=add), F.linear(x, weight, bias) + add, (x, add)),
    ):
        for a, b in zip(value_and_gradients(ours, *inputs), value_and_gradients(theirs, *inputs), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


def test_strided_input_and_gradient():
    x, weight, bias, _ = draw(8, inputs=16, outputs=16)
    layer, turned = FrozenLinear(weight, bias), x.transpose(0, 1)
    ours, theirs = layer(turned).transpose(0, 1), F.linear(turned, weight, bias).transpose(0, 1)
    for a, b in zip(value_and_gradients(ours, x), value_and_gradients(theirs, x), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-5)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="oneDNN is not in this build of torch")
def test_weights_are_packed_once_and_only_where_it_pays():
    x, weight, bias, _ = draw(8)
    layer = FrozenLinear(weight, bias)
    with general_kernels():
        layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        layer(x)
    layer(x.double().float().repeat(frozen_linear._MAX_ROWS, 1, 1))
    assert "_packed" not in vars(layer)
    layer(x)
    kept = layer._packed
    layer(x)
    assert layer._packed is kept


def test_own_kernels_are_for_fp32_on_a_cpu():
    x = torch.zeros(2, 2)
    assert prefers_own_kernels(x)
    assert not prefers_own_kernels(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        assert not prefers_own_kernels(x)
    with general_kernels():
        assert not prefers_own_kernels(x)
    assert prefers_own_kernels(x)
