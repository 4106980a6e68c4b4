"""What each mini minimises. An objective owns the encoder, the heads and teacher it needs, and the loss of a batch.

* clip: softmax cross-entropy over image-text pairs (Radford et al. 2021), open_clip's ``ClipLoss``.
* align: AlignCLIP (Eslami and de Melo 2025): clip with both directions summed, where open_clip takes their mean, plus
  its separation within a modality, with weight 0.5. The paper's model also shares the transformer, which is up to the
  recipe (``shared``); clip with a shared transformer is the paper's SharedCLIP.
* siglip: a sigmoid for every pair (Zhai et al. 2023), open_clip's ``SigLipLoss``; scale and bias are learned.
* slip: clip, plus SimCLR between two strong views (Mu et al. 2022), with weight 1.
* siglip2: siglip, plus the local-to-global self-distillation of SigLIP 2 (Tschannen et al. 2025): a teacher,
  the moving average of the image tower, sees the whole picture, the student small crops. From the first step on, where
  SigLIP 2 adds it for the last fifth; without its decoder and masked-patch losses.
* dino: self-distillation alone, no text; the teacher is what is kept. DINO (Caron et al. 2021) with what DINOv2 added
  against collapse (Oquab et al. 2023): targets balanced by Sinkhorn-Knopp, features spread by KoLeo. A run without
  these two (and with views of any hue) ended at one bit: whether the background is black. Without masked patches.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from torch.nn import functional as F

from crossgap_lib.datasets import world
from crossgap_lib.pretrain import files, views
from crossgap_lib.pretrain.forward import image_features, pooled, text_features, timm_pooled
from crossgap_lib.pretrain.recipes import Recipe

_SIGLIP_BIAS = -10.0  # where SigLIP's begins
_SIMCLR_TEMPERATURE = 0.1
_SEPARATION = 0.5  # weight of AlignCLIP's separation
_LOCALS, _LOCAL_SIDE = 2, world.SIZE // 2  # small crops of each picture, and their pixels
# Shares of the area. A tenth of a picture is often mere background, and DINO has no captions that ask for more.
_SIMCLR_AREA, _SIGLIP2_LOCAL, _DINO_GLOBAL, _DINO_LOCAL = (0.3, 1.0), (0.1, 0.4), (0.4, 1.0), (0.2, 0.5)
_DINO_HUE, _DINO_SPREAD = 0.1, 0.1  # as published: hues may turn where no caption names them; the weight of KoLeo
_PROTOTYPES, _HIDDEN = 512, 512
_STUDENT_TEMPERATURE, _TEACHER_TEMPERATURE = 0.1, 0.04
_CENTRE_MOMENTUM, _TEACHER_MOMENTUM = 0.9, 0.99
_SINKHORN_TEMPERATURE, _SINKHORN_ROUNDS = 0.05, 3


@dataclass(frozen=True)
class Batch:
    pixels: Tensor  # (b, 3, h, w) in [0, 1]
    ids: Tensor  # (b, context) token ids
    meanings: Tensor  # (b, words) of unit norm, whose cosines say how alike captions are; (b, 0) but for align
    rng: np.random.Generator  # of the views


# ---------------------------------------------------------------- the losses that open_clip lacks


def simclr_loss(first: Tensor, second: Tensor, temperature: float = _SIMCLR_TEMPERATURE) -> Tensor:
    """NT-Xent (Chen et al. 2020, Eq. 1) of two views (b, d) each: each picks its partner among the other 2b - 1."""
    z = F.normalize(torch.cat([first, second]), dim=-1)  # (2b, d)
    logits = (z @ z.T / temperature).fill_diagonal_(-torch.inf)
    partner = torch.arange(len(z), device=z.device).roll(len(first))
    return F.cross_entropy(logits, partner)


def separation_loss(features: Tensor, paired: Tensor, unlike: Tensor, scale: Tensor) -> Tensor:
    """AlignCLIP's separation within a modality: a sample picks its partner among the others of its own modality.

    Another sample counts as a rival in proportion to how much its caption differs.

    Args:
        features: (b, d) of one modality, of unit norm.
        paired: (b,) cosine of each with its partner in the other modality.
        unlike: (b, b) 1 - cosine of what captions mean; its diagonal is not looked at.
        scale: the logit scale.
    """
    logits = (features @ features.T * unlike).diagonal_scatter(paired)
    return F.cross_entropy(scale * logits, torch.arange(len(features), device=features.device))


def distillation_loss(student: list[Tensor], targets: list[Tensor], same: int = 0) -> Tensor:
    """DINO's cross-entropy (Caron et al. 2021, Eq. 3), the mean over pairs of a student's and a teacher's view.

    Args:
        student: logits (b, prototypes) of each view.
        targets: the teacher's probabilities (b, prototypes) of each of its views.
        same: the first so many views are the same pictures for both, and a view is not compared with itself.
    """
    guesses = [F.log_softmax(s / _STUDENT_TEMPERATURE, dim=-1) for s in student]
    pairs = [(t, g) for i, t in enumerate(targets) for j, g in enumerate(guesses) if i != j or i >= same]
    return torch.stack([-(t * g).sum(dim=-1).mean() for t, g in pairs]).mean()


def balanced(logits: Tensor) -> Tensor:
    """Targets (b, prototypes) of which every prototype gets an equal share (Sinkhorn-Knopp, Caron et al. 2020)."""
    shares = torch.exp((logits - logits.max()) / _SINKHORN_TEMPERATURE)
    for _ in range(_SINKHORN_ROUNDS):
        shares = shares / shares.sum(dim=0)  # of a prototype, over samples
        shares = shares / shares.sum(dim=1, keepdim=True)  # of a sample, over prototypes
    return shares


def koleo_loss(features: Tensor) -> Tensor:
    """The mean of -log of the distance to the nearest other sample (Oquab et al. 2023, Sec. 4), on unit vectors."""
    z = F.normalize(features, dim=-1)  # (b, d)
    nearest = (z.detach() @ z.detach().T).fill_diagonal_(-1).argmax(dim=1)
    return -torch.log((z - z[nearest]).norm(dim=-1) + 1e-8).mean()


# ---------------------------------------------------------------- parts


def _mlp(width: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, out))


class PrototypeHead(nn.Module):
    """DINO's head: an MLP, unit norm, then cosines with prototypes of unit norm."""

    def __init__(self, width: int):
        super().__init__()
        self.mlp, self.prototypes = _mlp(width, width), nn.Parameter(torch.randn(_PROTOTYPES, width))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(self.mlp(x), dim=-1) @ F.normalize(self.prototypes, dim=-1).T  # (b, prototypes)


class Teacher(nn.Module):
    """The moving average of a student."""

    def __init__(self, student: nn.Module):
        super().__init__()
        self.module = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def follow(self, student: nn.Module, progress: float) -> None:
        """Momentum from 0.99 to 1 over the run, on a cosine."""
        momentum = 1 - (1 - _TEACHER_MOMENTUM) * 0.5 * (1 + math.cos(math.pi * progress))
        for mine, theirs in zip(self.module.parameters(), student.parameters(), strict=True):
            mine.lerp_(theirs.detach(), 1 - momentum)


class Centre(nn.Module):
    """The running mean of a teacher's logits, taken off before its softmax (Caron et al. 2021, Eq. 4)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(_PROTOTYPES))

    @torch.no_grad()
    def forward(self, logits: Tensor) -> Tensor:
        """Targets (b, prototypes) by the mean so far, which then moves."""
        targets = F.softmax((logits - self.mean) / _TEACHER_TEMPERATURE, dim=-1)
        self.mean.lerp_(logits.mean(dim=0), 1 - _CENTRE_MOMENTUM)
        return targets


def _strong(batch: Batch, area: tuple[float, float], side: int = world.SIZE, hue: float = 0.0) -> Tensor:
    return views.strong(batch.pixels, batch.rng, area, side, hue)


# ---------------------------------------------------------------- the objectives


class Objective(nn.Module):
    """``net`` is trained, ``loss`` is minimised, ``shipped`` is what the checkpoint holds at the end."""

    net: nn.Module

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch, a scalar."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after each optimizer step with the share of the run that is done."""

    def shipped(self) -> nn.Module:
        return self.net


class ImageText(Objective):
    """clip and siglip, with towers of their own or shared ones."""

    def __init__(self, net: nn.Module, recipe: Recipe, pair_loss: Callable[..., Tensor]):
        super().__init__()
        self.net, self.pair_loss = net, pair_loss
        net.logit_scale.data.fill_(math.log(recipe.logit_scale))
        net.logit_scale.requires_grad_(recipe.learned_scale)

    def features(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Of the pictures, a little shifted, and of their captions: (b, d) each, of unit norm."""
        pictures = views.normalised(views.shifted(batch.pixels, batch.rng))
        images, texts = image_features(self.net, pictures), text_features(self.net, batch.ids)
        return F.normalize(images, dim=-1), F.normalize(texts, dim=-1)

    def loss(self, batch: Batch) -> Tensor:
        scale, bias = self.net.logit_scale.exp(), self.net.logit_bias
        rest = [scale] if bias is None else [scale, bias]  # siglip has a bias
        return self.pair_loss(*self.features(batch), *rest)


class Align(ImageText):
    """AlignCLIP's loss: pairs, and the separation of images, or of images and of texts."""

    def __init__(self, net: nn.Module, recipe: Recipe, pair_loss: Callable[..., Tensor]):
        super().__init__(net, recipe, pair_loss)
        self.separate = recipe.separate

    def loss(self, batch: Batch) -> Tensor:
        images, texts = self.features(batch)
        scale, paired = self.net.logit_scale.exp(), (images * texts).sum(dim=-1)
        unlike = 1 - batch.meanings @ batch.meanings.T  # (b, b)
        separated = (images, texts) if self.separate == "both" else (images,)
        apart = sum(separation_loss(features, paired, unlike, scale) for features in separated)
        return 2 * self.pair_loss(images, texts, scale) + _SEPARATION * apart


class Slip(ImageText):
    """An image-text loss and SimCLR on the features before the projection."""

    def __init__(self, net: nn.Module, recipe: Recipe, pair_loss: Callable[..., Tensor]):
        super().__init__(net, recipe, pair_loss)
        self.head = _mlp(recipe.width, recipe.width)

    def loss(self, batch: Batch) -> Tensor:
        first, second = (self.head(pooled(self.net.visual, _strong(batch, _SIMCLR_AREA))) for _ in range(2))
        return super().loss(batch) + simclr_loss(first, second)


class Siglip2(ImageText):
    """An image-text loss, and local crops that guess what the teacher sees in the whole picture."""

    def __init__(self, net: nn.Module, recipe: Recipe, pair_loss: Callable[..., Tensor]):
        super().__init__(net, recipe, pair_loss)
        self.head = PrototypeHead(recipe.width)
        self.teacher, self.centre = Teacher(self._student()), Centre()

    def _student(self) -> nn.ModuleList:
        return nn.ModuleList([self.net.visual, self.head])

    def loss(self, batch: Batch) -> Tensor:
        visual, head = self.teacher.module
        with torch.no_grad():
            whole = head(pooled(visual, views.normalised(batch.pixels)))
        local = torch.cat([_strong(batch, _SIGLIP2_LOCAL, _LOCAL_SIDE) for _ in range(_LOCALS)])
        guesses = self.head(pooled(self.net.visual, local)).chunk(_LOCALS)
        return super().loss(batch) + distillation_loss(list(guesses), [self.centre(whole)])

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self._student(), progress)


class Dino(Objective):
    """Two large and two small views; the student sees all, the teacher the large ones."""

    def __init__(self, net: nn.Module, recipe: Recipe):
        super().__init__()
        self.net, self.head = net, PrototypeHead(recipe.width)
        self.teacher = Teacher(self._student())

    def _student(self) -> nn.ModuleList:
        return nn.ModuleList([self.net, self.head])

    def loss(self, batch: Batch) -> Tensor:
        whole = torch.cat([_strong(batch, _DINO_GLOBAL, hue=_DINO_HUE) for _ in range(2)])
        local = torch.cat([_strong(batch, _DINO_LOCAL, _LOCAL_SIDE, _DINO_HUE) for _ in range(_LOCALS)])
        net, head = self.teacher.module
        with torch.no_grad():
            targets = balanced(head(timm_pooled(net, whole))).chunk(2)
        large, small = (timm_pooled(self.net, x) for x in (whole, local))
        guesses = [*self.head(large).chunk(2), *self.head(small).chunk(_LOCALS)]
        spread = torch.stack([koleo_loss(view) for view in large.chunk(2)]).sum()
        return distillation_loss(guesses, list(targets), same=2) + _DINO_SPREAD * spread

    def after_step(self, progress: float) -> None:
        self.teacher.follow(self._student(), progress)

    def shipped(self) -> nn.Module:
        return self.teacher.module[0]


OBJECTIVES = ("clip", "align", "siglip", "slip", "siglip2", "dino")
_IMAGE_TEXT = {
    "clip": (ImageText, ClipLoss),
    "align": (Align, ClipLoss),
    "slip": (Slip, ClipLoss),
    "siglip": (ImageText, SigLipLoss),
    "siglip2": (Siglip2, SigLipLoss),
}


def write_skeleton(folder: Path, recipe: Recipe) -> None:
    """The files beside the weights, as the objective needs them."""
    if recipe.objective == "dino":
        files.write_timm(folder, recipe)
    else:
        bias = _SIGLIP_BIAS if recipe.objective.startswith("siglip") else None
        files.write_open_clip(folder, recipe, logit_bias=bias)


def make_objective(recipe: Recipe, folder: Path) -> Objective:
    """The recipe's objective around a new encoder; ``folder`` holds the skeleton. Heads are drawn from the seed too."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed + 1)
        if recipe.objective == "dino":
            return Dino(files.new_timm(recipe), recipe)
        kind, pair_loss = _IMAGE_TEXT[recipe.objective]
        return kind(files.new_open_clip(folder, recipe.seed, shared=recipe.shared), recipe, pair_loss())
