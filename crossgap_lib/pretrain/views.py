"""Views of training pictures: the two-pixel shift of image-text training, and the strong ones of self-supervision.

Each picture of a batch gets its own draw, all at once in tensor operations. Pixels are in [0, 1] until ``normalised``.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.pretrain.files import MEAN, STD

_SHIFT = 2  # pixels
_LUMA = (0.299, 0.587, 0.114)
_ASPECT = (3 / 4, 4 / 3)


def pixels(pictures: np.ndarray, device: str = "cpu") -> Tensor:
    """(b, h, w, 3) uint8 -> (b, 3, h, w) in [0, 1]."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255


def normalised(batch: Tensor) -> Tensor:
    """As the minis' preprocessing does."""
    mean, std = (torch.tensor(v, device=batch.device).view(3, 1, 1) for v in (MEAN, STD))
    return (batch - mean) / std


def shifted(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Each picture moved by up to 2 pixels each way; what comes in repeats the edge."""
    side = batch.shape[-1]
    padded = F.pad(batch, (_SHIFT,) * 4, mode="replicate")
    offsets = rng.integers(0, 2 * _SHIFT + 1, (len(batch), 2))
    down, right = torch.from_numpy(offsets).to(batch.device).T
    windows = padded.unfold(2, side, 1).unfold(3, side, 1)  # (b, 3, 5, 5, side, side), all shifts, without a copy
    return windows[torch.arange(len(batch), device=batch.device), :, down, right]


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    """(b,) -> (b, 1, 1, 1)"""
    return torch.from_numpy(np.asarray(values, np.float32)).to(like.device).view(-1, 1, 1, 1)


def crops(batch: Tensor, rng: np.random.Generator, area: tuple[float, float], side: int) -> Tensor:
    """A random rectangle of each picture with ``area`` of its area, flipped half the time: (b, 3, side, side)."""
    b = len(batch)
    share, aspect = rng.uniform(*area, b), np.exp(rng.uniform(*np.log(_ASPECT), b))
    width, height = (np.minimum(1, np.sqrt(share * ratio)) for ratio in (aspect, 1 / aspect))  # of the whole side
    flip = np.where(rng.random(b) < 0.5, -1, 1)
    theta = np.zeros((b, 2, 3), np.float32)  # output coordinates in [-1, 1] -> input coordinates
    theta[:, 0, 0], theta[:, 1, 1] = width * flip, height
    theta[:, 0, 2], theta[:, 1, 2] = rng.uniform(-1, 1, b) * (1 - width), rng.uniform(-1, 1, b) * (1 - height)
    grid = F.affine_grid(torch.from_numpy(theta).to(batch.device), [b, 3, side, side], align_corners=False)
    return F.grid_sample(batch, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _gray(batch: Tensor) -> Tensor:
    weights = torch.tensor(_LUMA, device=batch.device).view(3, 1, 1)
    return (batch * weights).sum(dim=1, keepdim=True)


def turned(batch: Tensor, angles: np.ndarray) -> Tensor:
    """Each picture's colours turned about the gray axis by its angle (b,), in radians; grays stay as they are."""
    axis = torch.full((3,), 3**-0.5)
    cross = torch.linalg.cross(torch.eye(3), axis.expand(3, 3))
    cos, sin = (torch.from_numpy(f(angles).astype(np.float32)).view(-1, 1, 1) for f in (np.cos, np.sin))
    turn = cos * torch.eye(3) + sin * cross + (1 - cos) * torch.outer(axis, axis)  # (b, 3, 3), Rodrigues' formula
    return torch.einsum("bij,bjhw->bihw", turn.to(batch.device), batch)


def jittered(batch: Tensor, rng: np.random.Generator, hue: float = 0.0) -> Tensor:
    """SimCLR's colour distortion (Chen et al. 2020, App. A): brightness, contrast, saturation in 8 of 10 pictures, gray
    in 2 of 10. ``hue`` is the largest turn, of the whole circle: none where captions name the colours."""
    b = len(batch)
    some = rng.random(b) < 0.8
    if hue:
        batch = turned(batch, 2 * np.pi * np.where(some, rng.uniform(-hue, hue, b), 0))
    brightness, contrast, saturation = (_column(np.where(some, rng.uniform(0.6, 1.4, b), 1), batch) for _ in range(3))
    saturation = torch.where(_column(rng.random(b) < 0.2, batch) > 0, 0, saturation)
    batch = batch * brightness
    batch = torch.lerp(_gray(batch).mean(dim=(2, 3), keepdim=True).expand_as(batch), batch, contrast)
    return torch.lerp(_gray(batch).expand_as(batch), batch, saturation).clamp(0, 1)


def blurred(batch: Tensor, rng: np.random.Generator) -> Tensor:
    """Half of the pictures through a 3 x 3 binomial filter."""
    line = torch.tensor([0.25, 0.5, 0.25], device=batch.device)
    kernel = (line[:, None] * line).expand(3, 1, 3, 3)
    soft = F.conv2d(F.pad(batch, (1, 1, 1, 1), mode="replicate"), kernel, groups=3)
    return torch.where(_column(rng.random(len(batch)) < 0.5, batch) > 0, soft, batch)


def strong(batch: Tensor, rng: np.random.Generator, area: tuple[float, float], side: int, hue: float = 0.0) -> Tensor:
    """Crop, flip, colour and blur, normalised: a view for SimCLR or DINO."""
    return normalised(blurred(jittered(crops(batch, rng, area, side), rng, hue), rng))
