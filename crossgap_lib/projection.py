"""Training-free maps of embeddings: what is left of an image when only class names may speak.

PCA of class prompts (Reevaluating, Sec. 3.3 and App. B): the principal components of "a photo of a {class name}" span
the directions in which dominant concepts differ. Image embeddings are projected onto them and compared there.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from crossgap_lib.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError

_RANK_TOLERANCE = 1e-5  # of the largest singular value: float32 features hold no more


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
        projected = self.project(x.features, mean_adjusted=mean_adjusted)
        if (projected.norm(dim=1) < 1e-6).any():
            raise CrossgapError("The projection leaves nothing of at least one embedding: its norm is 0.")
        return replace(x, features=F.normalize(projected, dim=1))

    def project(self, features: Tensor, *, mean_adjusted: bool = False) -> Tensor:
        """(n, d) -> (n, d), the norm as it comes out.

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
