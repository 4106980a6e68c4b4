"""Dogs vs cats: the two filters of Cross the Gap, App. B, and what is left to explain after them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class Stage:
    """One stage of the filtering: the pictures left, and whether both classes still hold enough of them."""

    name: str
    images: Embeddings
    enough: bool
    note: str


def filter_stages(images: Embeddings, prompts: Embeddings, *, at_least: int = 10) -> list[Stage]:
    """All pictures, those correctly classified, and those of them that are perfectly ranked.

    A stage that leaves fewer than ``at_least`` pictures of a class says so, and its measures mean little.

    Raises:
        CrossgapError: the pictures carry no labels or class names, or the prompts no labels.
    """
    if images.labels is None or prompts.labels is None or not images.class_names:
        raise CrossgapError("Dogs vs Cats needs labelled pictures with class names, and labelled prompts.")
    stages, kept = [_stage("all pictures", images, len(images), at_least)], images
    steps = (("correctly classified", correctly_classified), ("perfectly ranked", perfectly_ranked))
    for name, keep in steps:
        mask = keep(kept, prompts)
        if not mask.any():
            stages[-1] = replace(stages[-1], note=f"{stages[-1].note}; {name}: none is left")
            break
        kept = kept[mask]
        stages.append(_stage(name, kept, len(images), at_least))
    return stages


def _stage(name: str, images: Embeddings, before: int, at_least: int) -> Stage:
    counts = np.bincount(images.labels, minlength=len(images.class_names))
    left = ", ".join(f"{n} {kind}" for n, kind in zip(counts, images.class_names, strict=True))
    enough = bool(counts.min() >= at_least)
    warning = "" if enough else f" - too little is left of a class (under {at_least}) to measure anything"
    return Stage(name, images, enough, f"{name}: {len(images)} of {before} pictures ({left}){warning}")


def stage_measures(stages: Sequence[Stage], prompts: Embeddings, *, seed: int = 0) -> pd.DataFrame:
    """mAP and R-Precision in percent for each stage and query class, with 95 % bootstrap intervals over queries.

    Columns: stage, task ("text-image" or "image-image"), query class, queries, metric, value, low, high. Text-image
    has one query a class, so it has no interval; image-image removes the query itself from its gallery.
    """
    rows = []
    for stage in (s for s in stages if s.enough):
        for label, kind in enumerate(stage.images.class_names):
            for task, queries in (("text-image", prompts), ("image-image", stage.images)):
                chosen = queries[queries.labels == label]
                result = metrics.retrieval(chosen, stage.images)
                for name, metric in METRICS.items():
                    value, *interval = in_percent(result, metric, seed)
                    interval = interval if len(chosen) > 1 else (np.nan, np.nan)
                    rows.append((stage.name, task, kind, len(chosen), name, value, *interval))
    return pd.DataFrame(rows, columns=["stage", "task", "query class", "queries", "metric", "value", "low", "high"])


def _wrong_neighbours(images: Embeddings) -> pd.DataFrame:
    """For each picture its nearest of another class and of its own, without an (n, n) array.

    Columns: wrong, right (rows), wrong_score, right_score, rank_lost (own-class pictures below the wrong one). The only
    picture of its class has no right one: <NA> and NaN.

    Raises:
        CrossgapError: all pictures are of one class.
    """
    if len(np.unique(images.labels)) < 2:
        raise CrossgapError("Wrong neighbours need pictures of two or more classes.")
    parts = []
    for rows, scores in similarity_blocks(images, images):
        scores[np.arange(len(rows)), rows] = np.nan  # a picture is not its own neighbour
        same = images.labels[rows, None] == images.labels[None]
        wrong, right = np.where(same, -np.inf, scores), np.where(same & ~np.isnan(scores), scores, -np.inf)
        best = wrong.max(axis=1)
        columns = {
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


def nearest_wrong(images: Embeddings, n: int, query_class: int) -> pd.DataFrame:
    """The n queries of a class whose nearest picture of another class is nearest, each gallery picture used once.

    Columns: query, wrong, right (rows of ``images``), wrong_score, right_score (nearest picture of the same class; <NA>
    and NaN where there is no other), and rank_lost: how many pictures of the same class rank below that wrong one.
    """
    table = _wrong_neighbours(images).rename_axis("query").reset_index()
    asked = table[images.labels == query_class].sort_values("wrong_score", ascending=False, kind="stable")
    return asked.drop_duplicates("wrong").head(n).reset_index(drop=True)


def shared_factors(images: Embeddings, factors: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """How often a query agrees in each known factor with its nearest wrong neighbour, and with a random wrong picture.

    ``factors``: one row for each row of ``images``; only categorical columns count, the label's own one is left out.
    Columns: factor, nearest wrong, random pair (shares between 0 and 1).
    """
    nearest = _wrong_neighbours(images)["wrong"].to_numpy()
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.choice(np.flatnonzero(images.labels != label)) for label in images.labels])
    columns = [c for c in factors.columns if not pd.api.types.is_numeric_dtype(factors[c]) and c != "kind"]
    agree = lambda values, other: float((values == values[other]).mean())  # noqa: E731
    rows = [(c, agree(factors[c].to_numpy(), nearest), agree(factors[c].to_numpy(), drawn)) for c in columns]
    return pd.DataFrame(rows, columns=["factor", "nearest wrong", "random pair"])


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
