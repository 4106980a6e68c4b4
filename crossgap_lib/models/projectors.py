"""The last linear map of an encoder, W h (+ b), and how to encode without it: h instead of W h + b.

It is found by structure: open_clip's ``VisionTransformer.proj`` and ``text_projection`` (a parameter, or a linear layer
with a bias), timm's ``head.proj`` in open_clip or, where that has no head of its own (EVA02, PE-Core), ``trunk.head``,
``proj`` of a Hugging Face text tower.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from crossgap_lib.errors import CrossgapError

SIDES = ("image", "text")


@dataclass(frozen=True, eq=False)
class Projector:
    """h -> weight h + bias.

    Attributes:
        weight: (d, width).
        bias: (d,), or None.
    """

    weight: Tensor
    bias: Tensor | None = None

    @property
    def columns(self) -> int:
        """Columns of the features that it takes: the width, and one more where there is a bias (see ``with_one``)."""
        return self.weight.shape[1] + (self.bias is not None)


class _Site(NamedTuple):
    owner: nn.Module
    name: str

    @property
    def value(self) -> nn.Module | nn.Parameter:
        return getattr(self.owner, self.name)


def _site(net: nn.Module, side: str) -> _Site:
    if side not in SIDES:
        raise CrossgapError(f"A dual encoder has the sides image and text, not {side!r}.")
    if side == "image":
        tower = getattr(net, "visual", net)
        head, trunk = getattr(tower, "head", tower), getattr(tower, "trunk", tower)
        candidates = [_Site(tower, "proj"), _Site(head, "proj")]
        if isinstance(head, nn.Sequential) and not len(head):
            candidates.append(_Site(trunk, "head"))
    else:
        tower = getattr(net, "text", net)
        candidates = [_Site(tower, "text_projection"), _Site(tower, "proj")]
    found = [site for site in candidates if isinstance(getattr(*site, None), nn.Parameter | nn.Linear)]
    if not found:
        raise CrossgapError(
            f"The {side} encoder {type(tower).__name__} does not end in a linear projection "
            "(it ends in an MLP, in an attention pool, or in nothing at all)."
        )
    return found[0]


def projector_of(net: nn.Module, side: str) -> Projector:
    """The last linear map of the "image" or the "text" encoder, float32 on the CPU.

    Raises:
        CrossgapError: the encoder does not end in a linear map.
    """
    value = _site(net, side).value
    if isinstance(value, nn.Linear):
        return Projector(_plain(value.weight), None if value.bias is None else _plain(value.bias))
    return Projector(_plain(value).T.contiguous())  # open_clip keeps (width, d)


@torch.no_grad()
def put_in(net: nn.Module, side: str, projector: Projector) -> None:
    """Overwrites the projection of ``side`` with one of the same shape.

    Raises:
        CrossgapError: as ``projector_of``.
    """
    value = _site(net, side).value
    if isinstance(value, nn.Linear):
        value.weight.copy_(projector.weight)
        if projector.bias is not None:
            value.bias.copy_(projector.bias)
    else:
        value.copy_(projector.weight.T)


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float().cpu()


@contextmanager
def taken_away(net: nn.Module, side: str) -> Iterator[None]:
    """The encoder of ``side`` without its projection, for as long as this lasts.

    Raises:
        CrossgapError: as ``projector_of``.
    """
    site = _site(net, side)
    value = site.value
    absent = None if isinstance(value, nn.Parameter) or site.name == "text_projection" else nn.Identity()
    setattr(site.owner, site.name, absent)
    try:
        yield
    finally:
        setattr(site.owner, site.name, value)


def with_one(features: Tensor) -> Tensor:
    """Appends a 1 to each row, (n, width) -> (n, width + 1), so that W h + b becomes [W b] times the row.

    That is linear, so rows may be scaled to unit norm and still give W h + b up to a factor.
    """
    return torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
