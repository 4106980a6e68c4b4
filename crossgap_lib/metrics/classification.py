"""Accuracies: the share of rows whose class was found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.checks import finite, labels_of, numpy_of, two_sets

if TYPE_CHECKING:
    from crossgap_lib.embeddings.embeddings import Embeddings

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


def answered_rightly(scores: Array, labels: np.ndarray, classes: np.ndarray | None = None) -> np.ndarray:
    """Whether each row's own class has the highest score, bool (n,): the rule of zero-shot and few-shot accuracies.

    Scores are compared in float32, and ties count against the method, as in a ranking (``metrics.RANKING``): a row
    whose own class shares the highest score with another class is answered wrongly.

    Args:
        scores: (n, c), the higher the better.
        labels: (n,) the class of each row.
        classes: (c,) the class of each column; by default column j is class j. Of several columns of a class the best
            one counts.
    """
    scores = numpy_of(scores).astype(np.float32)
    own = labels[:, None] == (np.arange(scores.shape[1]) if classes is None else classes)  # (n, c)
    return np.where(own, scores, -np.inf).max(axis=1) > np.where(own, -np.inf, scores).max(axis=1)


def linear_probe(features: Vectors, labels: np.ndarray, learns: np.ndarray) -> np.ndarray:
    """Which rows a linear probe classifies rightly that it was not trained on, bool (rows that do not learn,).

    The probe is logistic regression on standardised features, with scikit-learn's default penalty.

    Args:
        features: (n, d), of any norm.
        labels: (n,) the class of each row.
        learns: (n,) bool, the rows that it is trained on.

    Raises:
        CrossgapError: fewer than two classes to learn, or no row that is left to be read.
    """
    if len(np.unique(labels[learns])) < 2 or learns.all():
        raise CrossgapError("A linear probe needs pictures of two classes to learn from, and others to read.")
    x = finite(getattr(features, "features", features), "features")
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(x[learns], labels[learns])
    return probe.predict(x[~learns]) == labels[~learns]


def zero_shot_accuracy(images: Embeddings, class_prompts: Embeddings) -> float:
    """Share of images whose nearest prompt is that of their class; images.labels index the prompts.

    An image that is equally near to another prompt counts as wrong (``answered_rightly``). Raises CrossgapError without
    labels or with labels beyond them.
    """
    x, prompts = two_sets(images, class_prompts, ("images", "class prompts"))  # (n, d), (c, d)
    labels = labels_of("images", images, len(x))
    if labels.min() < 0 or labels.max() >= len(prompts):
        raise CrossgapError(
            f"The labels of the images run from {labels.min()} to {labels.max()}, which does not index "
            f"{len(prompts)} class prompts."
        )
    return float(answered_rightly(x @ prompts.T, labels).mean())
