"""Classifiers that need no training: a few labelled images, and class prompts where there are any, to scores.

Each is a pure function of arrays with unit rows in one space:

    support (m, d), labels (m,) 0 .. c - 1, queries (n, d)[, prompts (c, d) or texts (t, d)] -> scores (n, c)

The highest score wins; a tie counts as wrong (``metrics.answered_rightly``). What the papers add to zero-shot scores
(``zero_shot`` + alpha * scores) is added by ``few_shot``, which also chooses alpha and the other parameters on
validation pictures.
"""

import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import numpy as np
from scipy.linalg import solve
from scipy.special import log_softmax
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.pairs import matrix, of_unit_norm

SCALE = 100.0  # of cosines with prompts and prototypes: CLIP's logit scale, as in the training-free literature
COVARIANCES = ("empirical-bayes", "scikit-learn")
_ENTRIES = 2**24  # of a matrix queries x support: more queries are answered in blocks


# ---------------------------------------------------------------- images alone (Reevaluating, Table 2)


def prototype(support: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Cosine to the mean of each class, times 100 (Reevaluating, Sec. 4.3).

    Raises:
        CrossgapError: as all of these functions: NaN, other widths, labels that are not 0 .. c - 1.
    """
    support, labels, queries = _checked(support, labels, queries)
    return SCALE * queries @ of_unit_norm(class_means(support, labels)).T


def lda(
    support: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, covariance: str = "empirical-bayes"
) -> np.ndarray:
    """Linear discriminant analysis with equal priors: x^T P mu - mu^T P mu / 2, P the inverse of a shared covariance.

    "empirical-bayes" is the estimate of Wang et al. 2024 ("A hard-to-beat baseline for training-free CLIP-based
    adaptation"): P = d ((m - 1) S + tr(S) I)^-1, S the covariance around the class means over m images.
    "scikit-learn" is LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"): Ledoit and Wolf's shrinkage for each
    class, averaged.

    With one image a class nothing scatters around the means, S = 0 and there is no such inverse. The pseudo-inverse,
    which the released code takes, is 0 as well, and so is every score. There the first class wins such ties, which is
    the 2.3 % of Table 2; here a tie counts as wrong, and the accuracy is 0. Both estimates do the same.

    Raises:
        CrossgapError: an unknown covariance.
    """
    if covariance not in COVARIANCES:
        raise CrossgapError(f"The covariance is estimated by {' or '.join(COVARIANCES)}, not {covariance!r}.")
    support, labels, queries = _checked(support, labels, queries)
    means = class_means(support, labels)
    around = support - means[labels]  # (m, d)
    if not around.any():
        return np.zeros((len(queries), len(means)))
    if covariance == "scikit-learn":
        return _fitted(LinearDiscriminantAnalysis("lsqr", "auto", priors=_even(means)), support, labels, queries)
    scatter = around.T @ around  # (m - 1) S
    d, ridge = len(scatter), np.trace(scatter) / (len(support) - 1)
    weights = d * solve(scatter + ridge * np.eye(d), means.T, assume_a="pos")  # (d, c)
    return queries @ weights - (means.T * weights).sum(axis=0) / 2


def linear_probe(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, c: float = 100.0) -> np.ndarray:
    """Logistic regression (scikit-learn's) with inverse regularisation ``c``."""
    support, labels, queries = _checked(support, labels, queries)
    return _fitted(LogisticRegression(C=c, max_iter=1000), support, labels, queries)


def _fitted(model: LinearDiscriminantAnalysis | LogisticRegression, support, labels, queries) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The number of unique classes is greater")  # one shot has as many as images
        scores = model.fit(support, labels).decision_function(queries)  # (n, c), or (n,) where there are two classes
    return np.column_stack([np.zeros_like(scores), scores]) if scores.ndim == 1 else scores


# ---------------------------------------------------------------- with prompts (Reevaluating, Fig. 6)


def zero_shot(queries: np.ndarray, prompts: np.ndarray) -> np.ndarray:
    """Cosine to the prompt of each class, times 100: (n, d), (c, d) -> (n, c)."""
    queries, prompts = matrix("queries", queries), matrix("prompts", prompts)
    _same_width(queries, prompts, "prompts")
    return SCALE * queries @ prompts.T


def _in_blocks(scores: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    """The same scores with a bounded number of queries at a time."""

    @wraps(scores)
    def in_blocks(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, *args: Any, **settings: Any):
        rows = max(1, _ENTRIES // max(len(support), 1))
        starts = range(0, max(len(queries), 1), rows)
        blocks = [scores(support, labels, queries[k : k + rows], *args, **settings) for k in starts]
        return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)

    return in_blocks


@_in_blocks
def tip_adapter(support: np.ndarray, labels: np.ndarray, queries: np.ndarray, *, beta: float = 5.5) -> np.ndarray:
    """Cache of Tip-Adapter (Zhang et al. 2022), training-free: sum over a class of exp(-beta (1 - cosine))."""
    support, labels, queries = _checked(support, labels, queries)
    return _cache(queries @ support.T, labels, beta)


def _cache(affinity: np.ndarray, labels: np.ndarray, beta: float, counts: np.ndarray | float = 1.0) -> np.ndarray:
    """Affinities to the support (n, m) -> (n, c); support image j counts ``counts[j]`` times."""
    return (np.exp(beta * (affinity - 1)) * counts) @ _one_hot(labels)


@_in_blocks
def tip_x(
    support: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    texts: np.ndarray,
    *,
    beta: float = 5.5,
    gamma: float = 1.0,
    temperature: float = 0.5,
) -> np.ndarray:
    """Tip-X (Udandarao et al. 2023, SuS-X, Sec. 3.2): Tip-Adapter's cache + gamma * affinity of signatures.

    A signature is the softmax over an image's cosines to ``texts`` (t, d), divided by ``temperature``; the affinity
    falls with the divergence KL(query || support). The released code scales the divergences of all queries at once to
    the range of their cosines, so that a score depends on who else is asked; here the ranges are those of the support
    with itself. The paper's gamma is alpha * gamma of ``few_shot``.
    """
    support, labels, queries = _checked(support, labels, queries)
    theirs, ours = _signatures(queries, texts, temperature), _signatures(support, texts, temperature)
    cosines, divergences = support @ support.T, _divergences(ours, ours)
    rate = np.ptp(cosines) / max(np.ptp(divergences), 1e-12)
    return tip_adapter(support, labels, queries, beta=beta) + gamma * (
        (1 - rate * _divergences(theirs, ours)) @ _one_hot(labels)
    )


def _signatures(images: np.ndarray, texts: np.ndarray, temperature: float) -> np.ndarray:
    """Log probabilities of the texts, (n, t)."""
    texts = matrix("texts", texts)
    _same_width(images, texts, "texts")
    return log_softmax(images @ texts.T / temperature, axis=1)


def _divergences(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """KL(p || q) of log probabilities (n, t) and (m, t): (n, m)."""
    return (np.exp(p) * p).sum(axis=1, keepdims=True) - np.exp(p) @ q.T


@_in_blocks
def ape(
    support: np.ndarray,
    labels: np.ndarray,
    queries: np.ndarray,
    prompts: np.ndarray,
    *,
    beta: float = 5.5,
    gamma: float = 0.1,
    share: float = 0.75,
    weights: Sequence[float] = (0.7, 0.3),
) -> np.ndarray:
    """APE (Zhu et al. 2023, "Not all features matter"), training-free: a cache on the channels that tell classes apart.

    A ``share`` of the channels is kept (``ape_channels``). An image of the cache counts exp(gamma KL) times, KL the
    divergence between its label and what its prompts say of it, in bits as in the released code: -log2 p(label).
    """
    support, labels, queries = _checked(support, labels, queries)
    prompts = _prompts(prompts, support, labels)
    kept = ape_channels(support, labels, prompts, share=share, weights=weights)
    support, queries, prompts = (of_unit_norm(x[:, kept]) for x in (support, queries, prompts))
    surprise = -log_softmax(support @ prompts.T, axis=1)[np.arange(len(labels)), labels] / np.log(2)  # (m,) bits
    return _cache(queries @ support.T, labels, beta, np.exp(gamma * surprise))


def ape_channels(
    support: np.ndarray,
    labels: np.ndarray,
    prompts: np.ndarray,
    *,
    share: float = 0.75,
    weights: Sequence[float] = (0.7, 0.3),
) -> np.ndarray:
    """The channels that APE keeps, (k,): little similarity between classes, much variance between them.

    Similarity is the mean over all pairs of prompts and images of different classes of the product in that channel,
    variance that of the prompts; the criterion is weights[1] * variance - weights[0] * similarity. The released code
    has weights of its own for each data set; these are one pair of them.
    """
    support, labels, _ = _checked(support, labels, support)
    prompts = _prompts(prompts, support, labels)
    if not 0 < share <= 1:
        raise CrossgapError(f"The share of channels lies in (0, 1], but is {share}.")
    members = np.bincount(labels) + 1  # a prompt and the images of a class
    sums = prompts + _one_hot(labels).T @ support  # (c, d)
    pairs = members.sum() ** 2 - (members**2).sum()
    similarity = (sums.sum(axis=0) ** 2 - (sums**2).sum(axis=0)) / pairs
    criterion = weights[1] * prompts.var(axis=0, ddof=1) - weights[0] * similarity
    return np.argsort(-criterion, kind="stable")[: max(1, round(share * len(criterion)))]


@_in_blocks
def coder(
    support: np.ndarray, labels: np.ndarray, queries: np.ndarray, texts: np.ndarray, *, beta: float = 5.5
) -> np.ndarray:
    """CODER (Yi et al. 2024): images told by their cosines to many texts (t, d), compared there by a cache.

    As released: cosines between these profiles, stretched for each query to [0, 1] over the support, then Tip-Adapter's
    exp(-beta (1 - affinity)).
    """
    support, labels, queries = _checked(support, labels, queries)
    texts = matrix("texts", texts)
    _same_width(support, texts, "texts")
    affinity = of_unit_norm(queries @ texts.T) @ of_unit_norm(support @ texts.T).T  # (n, m)
    affinity = affinity - affinity.min(axis=1, keepdims=True)
    affinity = affinity / np.maximum(affinity.max(axis=1, keepdims=True), 1e-12)
    return _cache(affinity, labels, beta)


# ---------------------------------------------------------------- shared


def class_means(support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(m, d), (m,) -> (c, d)."""
    return _one_hot(labels).T @ support / np.bincount(labels)[:, None]


def _one_hot(labels: np.ndarray) -> np.ndarray:
    return np.eye(labels.max() + 1)[labels]  # (m, c)


def _even(means: np.ndarray) -> np.ndarray:
    return np.full(len(means), 1 / len(means))


def _same_width(images: np.ndarray, others: np.ndarray, name: str) -> None:
    if images.shape[1] != others.shape[1]:
        raise CrossgapError(f"The images have {images.shape[1]} dimensions and the {name} {others.shape[1]}.")


def _checked(support: np.ndarray, labels: np.ndarray, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    support, queries, labels = matrix("support", support), matrix("queries", queries), np.asarray(labels)
    _same_width(support, queries, "queries")
    if labels.shape != (len(support),) or labels.dtype.kind not in "iu":
        raise CrossgapError(f"{len(support)} support images need as many whole-number labels.")
    present = np.unique(labels)
    if len(present) < 2 or not np.array_equal(present, np.arange(len(present))):
        raise CrossgapError(f"Labels must be 0 .. c - 1 with an image for each of two or more classes, not {present}.")
    return support, labels, queries


def _prompts(prompts: np.ndarray, support: np.ndarray, labels: np.ndarray) -> np.ndarray:
    prompts = matrix("prompts", prompts)
    _same_width(support, prompts, "prompts")
    if len(prompts) != labels.max() + 1:
        raise CrossgapError(f"There are {len(prompts)} prompts for {labels.max() + 1} classes.")
    return prompts
