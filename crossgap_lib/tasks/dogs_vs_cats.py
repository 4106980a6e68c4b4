"""Dogs vs cats: the two filters of Cross the Gap, App. B, and what is left to explain after them."""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.classifiers import prototype
from crossgap_lib.tasks.comparison import METRICS, in_percent
from crossgap_lib.tasks.pairs import as_rows, similarities, similarity_blocks
from crossgap_lib.tasks.shots import draw_support


def correctly_classified(images: Embeddings, prompts: Embeddings) -> np.ndarray:
    """App. B's first filter, (n,) bool: pictures nearer to their own class prompt than to any other.

    Ties count as wrong: the rule of ``metrics.answered_rightly``.
    """
    blocks = similarity_blocks(images, prompts)
    right = [metrics.answered_rightly(scores, images.labels[rows], prompts.labels) for rows, scores in blocks]
    return np.concatenate(right)


def minimal_removal(scores: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """App. B's second filter for one query, (n,) bool of what stays.

    Removes the fewest items so that every positive outranks every negative: with a threshold t, the positives at or
    below it and the negatives above it must go, so the best t is found by one pass over the sorted scores.
    """
    thresholds = np.concatenate([[-np.inf], np.unique(scores)])
    lost = np.searchsorted(np.sort(scores[positive]), thresholds, side="right")  # positives <= t
    negatives = np.sort(scores[~positive])
    lost = lost + len(negatives) - np.searchsorted(negatives, thresholds, side="right")  # negatives > t
    best = thresholds[np.argmin(lost)]
    return np.where(positive, scores > best, scores <= best)


def perfectly_ranked(images: Embeddings, prompts: Embeddings) -> np.ndarray:
    """The second filter for one class prompt after the other, (n,) bool of what stays."""
    stays = np.ones(len(images), dtype=bool)
    for scores, label in zip(similarities(prompts, images), prompts.labels, strict=True):
        rows = np.flatnonzero(stays)
        stays[rows] = minimal_removal(scores[rows], images.labels[rows] == label)
    return stays


def filter_stages(images: Embeddings, prompts: Embeddings) -> dict[str, Embeddings]:
    """All pictures, those correctly classified, and those of them that are perfectly ranked.

    A stage that no picture is left for is missing, and so are those after it.

    Raises:
        CrossgapError: the pictures carry no labels or class names, or the prompts no labels.
    """
    if images.labels is None or prompts.labels is None or not images.class_names:
        raise CrossgapError("Dogs vs Cats needs labelled pictures with class names, and labelled prompts.")
    stages = {"all pictures": images}
    for name, keep in (("correctly classified", correctly_classified), ("perfectly ranked", perfectly_ranked)):
        mask = keep(images, prompts)
        if not mask.any():
            break
        stages[name] = images = images[mask]
    return stages


def stage_measures(
    stages: Mapping[str, Embeddings], prompts: Embeddings, *, at_least: int = 10, seed: int = 0
) -> pd.DataFrame:
    """mAP and R-Precision in percent for each stage and query class, with 95 % bootstrap intervals over queries.

    A stage with fewer than ``at_least`` pictures of a class is left out, since its measures would mean little.
    Columns: stage, task ("text-image" or "image-image"), query class, queries, metric, value, low, high. Text-image
    has one query a class, so it has no interval; image-image removes the query itself from its gallery.
    """
    rows = []
    for stage, images in stages.items():
        if np.bincount(images.labels, minlength=len(images.class_names)).min() < at_least:
            continue
        for label, kind in enumerate(images.class_names):
            for task, queries in (("text-image", prompts), ("image-image", images)):
                chosen = queries[queries.labels == label]
                result = metrics.retrieval(chosen, images)
                for name, metric in METRICS.items():
                    value, *interval = in_percent(result, metric, seed)
                    interval = interval if len(chosen) > 1 else (np.nan, np.nan)
                    rows.append((stage, task, kind, len(chosen), name, value, *interval))
    return pd.DataFrame(rows, columns=["stage", "task", "query class", "queries", "metric", "value", "low", "high"])


def neighbours(images: Embeddings) -> pd.DataFrame:
    """For each picture its nearest one of another class and its nearest one of its own, without an (n, n) array.

    Columns: query, wrong, right (rows of ``images``), wrong_score, right_score (cosines), rank_lost (how many pictures
    of the query's class rank below the wrong one). The only picture of its class has no right one: <NA> and NaN.

    Raises:
        CrossgapError: there are no two classes.
    """
    if images.labels is None or len(np.unique(images.labels)) < 2:
        raise CrossgapError("Wrong neighbours need pictures of two or more classes.")
    parts = []
    for rows, scores in similarity_blocks(images, images):
        scores[np.arange(len(rows)), rows] = np.nan  # a picture is not its own neighbour
        same = images.labels[rows, None] == images.labels[None]
        wrong, right = np.where(same, -np.inf, scores), np.where(same & ~np.isnan(scores), scores, -np.inf)
        best = wrong.max(axis=1)
        columns = {
            "query": rows,
            "wrong": wrong.argmax(axis=1),
            "right": right.argmax(axis=1),
            "wrong_score": best,
            "right_score": right.max(axis=1),
            "rank_lost": (same & (scores < best[:, None])).sum(axis=1),
        }
        parts.append(pd.DataFrame(columns))
    table = pd.concat(parts, ignore_index=True)
    alone = np.isneginf(table["right_score"])
    right = table["right"].astype("Int64").mask(alone)
    return table.assign(right=right, right_score=table["right_score"].mask(alone))


def shared_factors(images: Embeddings, near: pd.DataFrame, factors: pd.DataFrame) -> dict[str, dict[str, np.ndarray]]:
    """Whether each query agrees with its nearest wrong picture in each factor, and how often chance would have it.

    Args:
        near: rows of ``neighbours``, one for each row of ``images``.
        factors: values to compare, a row for each row of ``images`` and a column for each factor.

    Returns:
        factor -> {"any wrong picture": (n,) the share of all pictures of other classes that agree with the query,
        "nearest wrong picture": (n,) 1 where it agrees, else 0}.
    """
    shared = {}
    for name in factors:
        values = pd.factorize(factors[name])[0]
        counts = pd.crosstab(images.labels, values)  # (classes, values)
        elsewhere = counts.sum() - counts  # of each value, among the pictures of all other classes
        share = elsewhere.div(elsewhere.sum(axis=1), axis=0).stack()  # by (class, value)
        chance = share.loc[list(zip(images.labels, values, strict=True))]
        agrees = values == values[near["wrong"]]
        shared[name] = {"any wrong picture": chance.to_numpy(), "nearest wrong picture": agrees.astype(float)}
    return shared


def few_shot_prototypes(images: Embeddings, shots: int, *, seeds: Iterable[int] = range(20)) -> np.ndarray:
    """Accuracy per seed of nearest-prototype classification by image-image similarity (Reevaluating, Table 1).

    ``shots`` pictures of each class are drawn, their mean is the class prototype, and all others are classified, ties
    counting as wrong. The draws do not depend on the order of the rows.

    Raises:
        CrossgapError: a class has no more than ``shots`` pictures.
    """
    images = images[np.argsort(images.ids)]
    classes, counts = np.unique(images.labels, return_counts=True)
    if counts.min() <= shots:
        raise CrossgapError(f"{shots} shots need more than {shots} pictures a class; one has {counts.min()}.")
    return np.array([_prototype_accuracy(images, classes, shots, seed) for seed in seeds])


def _prototype_accuracy(images: Embeddings, classes: np.ndarray, shots: int, seed: int) -> float:
    support, features = draw_support(images.labels, shots, seed), as_rows(images)
    tested = np.setdiff1d(np.arange(len(images)), support)
    scores = prototype(features[support.ravel()], np.repeat(np.arange(len(classes)), shots), features[tested])
    return float(metrics.answered_rightly(scores, images.labels[tested], classes).mean())
