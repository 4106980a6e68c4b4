"""Training-free maps of embeddings.

* PCA of class prompts (Reevaluating, Sec. 3.3 and App. B): the principal components of "a photo of a {class name}" span
  the directions in which dominant concepts differ. Image embeddings are projected onto them and compared there.
* IsoCLIP (Magistri et al., CVPR 2026): the singular directions that the two projections share, without the strongest
  and the weakest.
* Native and inverted features mixed (Cross the Gap, Eq. 9), and embeddings centred.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.projectors import Projector

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

_RANK_TOLERANCE = 1e-5  # smaller singular values, relative to the largest, are rounding errors of float32 features
_EXACT = 1e-10  # the same for weights, whose product is taken in float64


@dataclass(frozen=True, eq=False)
class Projection:
    """x -> Q L Q^T x, an orthogonal projection onto the span of ``components`` (Reevaluating, Eq. 11).

    Attributes:
        components: (k, d) orthonormal rows, the kept directions.
        variances: (m,) variance of the prompts along all of their directions, largest first; the first k are kept.
    """

    components: Tensor
    variances: Tensor

    @property
    def explained(self) -> float:
        """Share of the prompts' variance that the kept directions hold."""
        return float(self.variances[: len(self.components)].sum() / self.variances.sum())

    def __call__(self, x: Embeddings, *, mean_adjusted: bool = False) -> Embeddings:
        """``x`` projected, in d dimensions, at unit norm.

        ``mean_adjusted`` adds back what the projection cut off the mean of ``x`` (Eq. 12). That is a translation: it
        leaves distances alone until the norm is taken.

        Raises:
            CrossgapError: another width, or an embedding of which nothing is left.
        """
        return _of_unit_norm(x, self.project(x.features, mean_adjusted=mean_adjusted), "The projection")

    def project(self, features: Tensor, *, mean_adjusted: bool = False) -> Tensor:
        """(n, d) -> (n, d), not normalised.

        Raises:
            CrossgapError: another width.
        """
        if features.shape[-1] != (d := self.components.shape[1]):
            raise CrossgapError(f"These features have {features.shape[-1]} dimensions and the projection has {d}.")
        kept = features @ self.components.T @ self.components
        if not mean_adjusted:
            return kept
        mean = features.mean(dim=0)
        return kept + (mean - self.project(mean))


def _of_unit_norm(x: Embeddings, features: Tensor, what: str) -> Embeddings:
    """``x`` with other features, normalised; refuses any that is zero, since it has no direction."""
    if (features.norm(dim=1) < 1e-6).any():
        raise CrossgapError(f"{what} leaves nothing of at least one embedding: its norm is 0.")
    return replace(x, features=F.normalize(features, dim=1))


def pca_of_prompts(prompts: Embeddings, n_components: int | None = None, *, centred: bool = True) -> Projection:
    """The projection onto the first principal components of class prompts (Reevaluating, Sec. 3.3).

    Args:
        prompts: (n, d) text features of class prompts. The paper takes the 1000 of ImageNet for every data set.
        n_components: how many to keep; by default d / 2 as in the paper, or all there are where those are fewer (n
            class names have n - 1 centred components).
        centred: subtract the prompts' mean first, as PCA does; without, the first direction is close to that mean.

    Raises:
        CrossgapError: fewer than two prompts, or more components than there are.
    """
    if len(prompts) < 2:
        raise CrossgapError("PCA of class prompts needs two or more class names.")
    features = prompts.features.double()
    _, spread, directions = torch.linalg.svd(
        features - features.mean(dim=0) if centred else features, full_matrices=False
    )
    rank = int((spread > _RANK_TOLERANCE * spread[0]).sum())
    n_components = min(features.shape[1] // 2, rank) if n_components is None else n_components
    if not 1 <= n_components <= rank:
        raise CrossgapError(f"These {len(prompts)} prompts have {rank} components; {n_components} can't be kept.")
    variances = spread[:rank].square() / (len(prompts) - centred)
    return Projection(directions[:n_components].float(), variances.float())


# ---------------------------------------------------------------- IsoCLIP

# (top, bottom) directions left out, for the models of the IsoCLIP paper and its released code. SigLIP2's 350 and 50
# have no place here: open_clip's SigLIP2 pools by attention and ends in an MLP, not in a linear projection.
# For other models, and for PE-Core's texts, the bands are this project's own scaling (``default_band``).
PUBLISHED_BANDS = {
    ("ViT-B-32,openai", "image"): (150, 50),
    ("ViT-B-32,openai", "text"): (20, 100),
    ("ViT-B-16,openai", "image"): (200, 50),
    ("ViT-B-16,openai", "text"): (10, 50),
    ("ViT-L-14,openai", "image"): (250, 200),
    ("ViT-L-14,openai", "text"): (10, 300),
    ("ViT-B-32,datacomp_xl_s13b_b90k", "image"): (50, 50),
    ("ViT-B-32,datacomp_xl_s13b_b90k", "text"): (0, 0),
    ("ViT-B-16,datacomp_xl_s13b_b90k", "image"): (100, 100),
    ("ViT-B-16,datacomp_xl_s13b_b90k", "text"): (2, 150),
    ("PE-Core-B-16,meta", "image"): (300, 50),
}
_SHARES = {"image": (150 / 512, 50 / 512), "text": (20 / 512, 100 / 512)}  # other models: as CLIP B/32, of its 512


@dataclass(frozen=True, eq=False)
class IsoClip:
    """Psi = W_i^T W_t = U S V^T, by which images and texts are compared, and the maps onto a band of its directions.

    With h an image feature before its projection W_i and h_t a text's, their cosine is h^T Psi h_t up to norms. So
    W_i U_k U_k^T h keeps that part of the image which the directions k of Psi compare. For texts: W_t V_k V_k^T h.

    Attributes:
        projectors: "image" and "text", W_i (d, width_i) and W_t (d, width_t) with their biases.
        directions: "image" U (width_i, r) and "text" V (width_t, r), orthonormal columns.
        spectrum: (r,) S, largest first; r is the rank of Psi.
        model: the name of the model.

    With the whole band kept, features are the native ones where r is the rank of their own projection. It is for CLIP;
    it is not where the other encoder is narrower than this one's projection.
    """

    projectors: dict[str, Projector]
    directions: dict[str, Tensor]
    spectrum: Tensor
    model: str

    def published_band(self, side: str) -> tuple[int, int] | None:
        """(top, bottom) as published for this model, or None."""
        return PUBLISHED_BANDS.get((self.model.replace("-quickgelu", ""), side))

    def default_band(self, side: str) -> tuple[int, int]:
        """(top, bottom): ``published_band``, or else this project's own scaling: CLIP B/32's shares of r."""
        return self.published_band(side) or tuple(round(share * len(self.spectrum)) for share in _SHARES[side])

    def __call__(self, x: Embeddings, *, top: int | None = None, bottom: int | None = None) -> Embeddings:
        """Features before the projection (n, width) -> (n, d) at unit norm.

        Args:
            x: images or texts (told by their modality) from ``encode_images`` or ``encode_texts`` with
                ``before_projection=True``.
            top, bottom: how many of the strongest and of the weakest directions to leave out; ``default_band`` where
                not given.

        Raises:
            CrossgapError: features after the projection or of another width, or a band that is empty.
        """
        side = self._side(x)
        own = self.default_band(side)
        kept = self._band(own[0] if top is None else top, own[1] if bottom is None else bottom)
        weight, bias = self.projectors[side].weight, self.projectors[side].bias
        basis = self.directions[side][:, kept]  # (width, k)
        h = x.features[:, : weight.shape[1]]
        features = h @ basis @ (weight @ basis).T  # (n, d)
        if bias is not None:
            features = features + x.features[:, -1:] * bias
        return _of_unit_norm(x, features, "The band")

    def _band(self, top: int, bottom: int) -> slice:
        r = len(self.spectrum)
        if top < 0 or bottom < 0 or top + bottom >= r:
            raise CrossgapError(f"Of {r} directions {top} at the top and {bottom} at the bottom can't be left out.")
        return slice(top, r - bottom)

    def _side(self, x: Embeddings) -> str:
        if x.modality not in self.projectors or not x.meta.get("before_projection"):
            raise CrossgapError("IsoCLIP takes images or texts that were encoded with before_projection=True.")
        if x.features.shape[1] != (columns := self.projectors[x.modality].columns):
            raise CrossgapError(f"These features have {x.features.shape[1]} columns; the projection takes {columns}.")
        return x.modality


def isoclip(model: "DualEncoder") -> IsoClip:
    """The singular directions that the two projections of a model share.

    Raises:
        CrossgapError: an encoder that does not end in a linear projection, or no text encoder.
    """
    projectors = {side: model.projector(side) for side in ("image", "text")}
    u, s, vt = torch.linalg.svd(
        projectors["image"].weight.double().T @ projectors["text"].weight.double(), full_matrices=False
    )
    r = int((s > _EXACT * s[0]).sum())
    directions = {"image": u[:, :r].float(), "text": vt[:r].T.float()}
    return IsoClip(projectors, directions, s[:r].float(), model.name)


# ---------------------------------------------------------------- mixing and centring


def mix(native: Embeddings, inverted: Embeddings, alpha: float) -> Embeddings:
    """alpha * inverted + (1 - alpha) * native, at unit norm (Cross the Gap, Eq. 9, Table A10).

    alpha is 0 for native features alone and 1 for inverted ones alone.

    Raises:
        CrossgapError: not the same pictures row by row, another width, alpha outside [0, 1], or two opposite features.
    """
    if not 0 <= alpha <= 1:
        raise CrossgapError(f"alpha must lie between 0 and 1, not {alpha}.")
    if not np.array_equal(native.ids, inverted.ids) or native.features.shape != inverted.features.shape:
        raise CrossgapError("Native and inverted features must be of the same pictures, row by row, and as wide.")
    return _of_unit_norm(native, alpha * inverted.features + (1 - alpha) * native.features, "The mixture")


def centre(x: Embeddings, reference: Embeddings | None = None) -> Embeddings:
    """``x`` without the mean of ``reference`` (its own by default), at unit norm.

    Raises:
        CrossgapError: another width, or an embedding of which nothing is left.
    """
    mean = (x if reference is None else reference).features.double().mean(dim=0)
    if len(mean) != x.features.shape[1]:
        raise CrossgapError(f"These features have {x.features.shape[1]} dimensions and the mean has {len(mean)}.")
    return _of_unit_norm(x, (x.features.double() - mean).float(), "Centring")
