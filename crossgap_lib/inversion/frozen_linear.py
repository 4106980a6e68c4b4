"""Linear layers of a frozen encoder, with weights packed once instead of at every call.

A matrix product first copies its weights into the order in which its kernel reads them. For a few hundred rows, which
is what OTI has (two positions a sample), that is a tenth of the work or more, and frozen weights always give the same
copy. So it is kept: once for the forward pass and once, transposed, for the gradient of the input. Weights get none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# oneDNN's fused layer, which torch.compile uses for frozen CPU models. No public function takes packed weights.
_OPS = torch.ops.mkldnn
_GENERAL: ContextVar[bool] = ContextVar("general kernels", default=False)
_MAX_ROWS = 2048  # beyond, the copy is lost in the product, and packed weights would only take memory


class FrozenLinear:
    """x (..., in) -> x weight^T + bias (..., out), for weights (out, in) that never change."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()

    @cached_property
    def _packed(self) -> tuple[Tensor, Tensor]:
        transposed = self.weight.t().contiguous()
        return tuple(_OPS._reorder_linear_weight(w.contiguous(), _MAX_ROWS) for w in (self.weight, transposed))

    def __call__(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """The layer's output, with ``add`` (..., out) added: a residual connection costs nothing extra then."""
        if torch.backends.mkldnn.is_available() and prefers_own_kernels(x) and 1 < x.shape[:-1].numel() < _MAX_ROWS:
            return _Packed.apply(x, add, *self._packed, self.bias)
        out = F.linear(x, self.weight, self.bias)
        return out if add is None else add + out


def prefers_own_kernels(x: Tensor) -> bool:
    """On a CPU in fp32 general kernels leave much of the machine idle; on a GPU they are the best choice."""
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return plain and not _GENERAL.get()


@contextmanager
def general_kernels() -> Iterator[None]:
    """Everything inside runs on torch's own kernels, as on a GPU: to count FLOPs, and to compare."""
    token = _GENERAL.set(True)
    try:
        yield
    finally:
        _GENERAL.reset(token)


class _Packed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, add: Tensor | None, packed: Tensor, transposed: Tensor, bias: Tensor | None
    ) -> Tensor:
        ctx.transposed, ctx.adds = transposed, add is not None
        if add is None:
            return _OPS._linear_pointwise(x.contiguous(), packed, bias, "none", [], "")
        return _OPS._linear_pointwise.binary(x.contiguous(), add.contiguous(), packed, bias, "add")

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x = _OPS._linear_pointwise(grad.contiguous(), ctx.transposed, None, "none", [], "")
        return of_x, grad if ctx.adds else None, None, None, None
