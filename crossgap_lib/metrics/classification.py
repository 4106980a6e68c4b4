"""Shares of right answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.checks import labels_of, numpy_of, two_sets

if TYPE_CHECKING:
    from crossgap_lib.embeddings import Embeddings

    Array = np.ndarray | torch.Tensor
    Vectors = Embeddings | Array


def accuracy(predicted: Array, labels: Array) -> float:
    """Share of predicted (n,) that equal labels (n,)."""
    predicted, labels = numpy_of(predicted), numpy_of(labels)
    if predicted.shape != labels.shape or predicted.ndim != 1 or not len(predicted):
        raise CrossgapError(
            f"Accuracy needs as many predictions as labels, (n,) each and n > 0, but the shapes are "
            f"{predicted.shape} and {labels.shape}."
        )
    return float((predicted == labels).mean())


def zero_shot_accuracy(images: Embeddings, class_prompts: Embeddings) -> float:
    """Accuracy of the prompt nearest to each image; images.labels index the prompts.

    Of equally near prompts the first wins. Raises CrossgapError without labels or with labels beyond them.
    """
    x, prompts = two_sets(images, class_prompts, ("images", "class prompts"))  # (n, d), (c, d)
    labels = labels_of("images", images, len(x))
    if labels.min() < 0 or labels.max() >= len(prompts):
        raise CrossgapError(
            f"The labels of the images run from {labels.min()} to {labels.max()}, which does not index "
            f"{len(prompts)} class prompts."
        )
    return accuracy((x @ prompts.T).astype(np.float32).argmax(axis=1), labels)
