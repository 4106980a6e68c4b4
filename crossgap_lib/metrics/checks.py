"""What measures take: arrays, tensors or Embeddings. What does not fit is refused with a CrossgapError."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.embeddings.embeddings import Embeddings

    Array = np.ndarray | torch.Tensor
    Vectors = Embeddings | Array


def numpy_of(values: Array) -> np.ndarray:
    """Any array or tensor as numpy; half precisions, which numpy may not know, become float32."""
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = (values.float() if values.is_floating_point() and values.itemsize < 4 else values).numpy()
    return np.asarray(values)


def finite(values: Array, name: str) -> np.ndarray:
    """``values`` in float32, of any shape; refuses NaN, infinity and nothing at all."""
    with np.errstate(over="ignore"):  # beyond float32 reads as infinite, which is refused below
        values = numpy_of(values).astype(np.float32, order="C")  # sums along rows round alike in one layout
    if not values.size:
        raise CrossgapError(f"Nothing to measure: {name} is empty.")
    if not np.isfinite(values).all():
        raise CrossgapError(f"{name[0].upper()}{name[1:]} holds NaN or infinite values.")
    return values


def check_grid(shape: tuple[int, ...]) -> None:
    """Refuses similarities of any other shape than (queries, gallery)."""
    if len(shape) != 2 or 0 in shape:
        raise CrossgapError(
            f"Similarities must be (queries, gallery), at least one of each, but their shape is {shape}."
        )


def mask_of(name: str, mask: Array, shape: tuple[int, ...]) -> np.ndarray:
    """A boolean array of this shape, (queries, gallery)."""
    mask = numpy_of(mask)
    if mask.shape != shape or mask.dtype != bool:
        raise CrossgapError(
            f"{name} must be boolean of shape (queries, gallery) = {shape}, but is {mask.dtype} {mask.shape}."
        )
    return mask


def check_ks(ks: Sequence[int]) -> None:
    """Refuses ranks that are no whole numbers from 1 on."""
    wrong = [k for k in ks if not isinstance(k, int | np.integer) or k < 1]
    if wrong:
        raise CrossgapError(f"k must be a whole number of at least 1, but is {wrong[0]!r}.")


def labels_of(name: str, embeddings: Embeddings, n: int) -> np.ndarray:
    """The labels (n,) of embeddings that must have some."""
    if embeddings.labels is None:
        raise CrossgapError(f"The {name} have no labels, which this measure needs.")
    labels = numpy_of(embeddings.labels)
    if labels.shape != (n,):
        raise CrossgapError(f"The {name} have {n} rows, but labels of shape {labels.shape}.")
    return labels


def two_sets(left: Vectors, right: Vectors, names: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Two sets of features of the same space, (n, d) and (m, d), each as ``vectors_of`` gives it."""
    x, y = vectors_of(left, names[0]), vectors_of(right, names[1])
    if x.shape[1] != y.shape[1]:
        raise CrossgapError(
            f"Features must share one space, but {names[0]} have {x.shape[1]} dimensions and {names[1]} {y.shape[1]}."
        )
    return x, y


def vectors_of(vectors: Vectors, name: str) -> np.ndarray:
    """The features of Embeddings, or an array of features, as float64 (n, d); refuses all that is not of unit norm."""
    x = numpy_of(getattr(vectors, "features", vectors)).astype(np.float64)
    if x.ndim != 2 or not x.size:
        raise CrossgapError(f"The {name} must be features (n, d) with n > 0, but their shape is {x.shape}.")
    if not np.isfinite(x).all():
        raise CrossgapError(f"NaN or infinite values in the features of the {name}.")
    norms = np.sqrt(np.einsum("nd,nd->n", x, x))  # np.linalg.norm would hold two more arrays of that size
    if np.abs(norms - 1).max() > 0.01:  # loose enough for half-precision files
        raise CrossgapError(
            f"The features of the {name} must have unit norm, but norms run from {norms.min():.4g} to "
            f"{norms.max():.4g}."
        )
    return x
