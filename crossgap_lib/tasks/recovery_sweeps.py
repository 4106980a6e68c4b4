"""How well image-image similarities are recovered when images, anchors or precision run short.

Each experiment is a function of one setting, which returns how well the recovered similarities agree with the images'
own; ``sweep`` makes a table of it for all combinations of settings.
"""

from collections.abc import Callable, Iterable
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks import degrees_of_freedom as dof
from crossgap_lib.tasks.pairs import as_rows, of_unit_norm

READOUTS = ("sigmoid", "softmax over texts", "softmax over images")
_ROWS = 500  # images whose similarities to all others are compared
_ROUNDS = 4  # of subspace iteration, where S is noisy

Pairs = tuple[np.ndarray, np.ndarray]  # similarities (m,): the images' own, and as recovered


def sweep(run: Callable[..., dict[str, float]], **grid: Iterable) -> pd.DataFrame:
    """A row for each combination of the grid's values: these values, and what ``run`` returns for them.

    The matrices are small and many, so a sweep runs on one thread: more would wait for each other most of the time.
    """
    settings = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    with threadpool_limits(limits=1):
        return pd.DataFrame([setting | run(**setting) for setting in settings])


def random_pairs(n: int, d: int, seed: int) -> Pairs:
    """(images, texts), each n random unit vectors (n, d)."""
    images, texts = of_unit_norm(np.random.default_rng([n, d, seed]).standard_normal((2, n, d)))
    return images, texts


def unit_rows(e: Embeddings) -> np.ndarray:
    """Features (n, d) as float64, of unit norm to float64's rounding: what Eq. 8 takes for granted."""
    return of_unit_norm(as_rows(e))


def other_pairs(images: np.ndarray, found: np.ndarray) -> Pairs:
    """(own, recovered) similarities of distinct pairs, of at most 500 images to all.

    Args:
        images: (N, d).
        found: recovered similarities of the first rows to all, (rows, N).
    """
    own = images[: len(found)] @ images.T
    distinct = np.arange(len(own))[:, None] < np.arange(len(images))[None]
    return own[distinct], found[distinct]


def agreement(own: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Recovered similarities (m,) against the images' own: root mean square error, correlation, and slope of the line.

    A correlation of 1 means that the order is known, and all but the slope and the offset of a line.
    """
    pearson = float(np.corrcoef(own, found)[0, 1])
    rms = float(np.sqrt(np.mean((own - found) ** 2)))
    return {"rms": rms, "pearson": pearson, "slope": pearson * float(found.std() / own.std())}


def _with_noise(values: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return values + noise * np.random.default_rng([seed, 2]).standard_normal(values.shape) if noise else values


# ---------------------------------------------------------------- anchors (Eq. 2)


def distinct_rows(texts: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Indices of k rows (or all there are) that differ from each other, drawn with ``seed``: captions repeat."""
    _, first = np.unique(texts.round(4), axis=0, return_index=True)
    return np.random.default_rng([seed, 3]).permutation(first)[:k]


def with_anchors(
    images: np.ndarray, texts: np.ndarray, anchors: int, noise: float = 0.0, drop: bool = False, seed: int = 0
) -> dict[str, float]:
    """Recovery from anchors drawn among the texts (n_T, d), with noise of standard deviation sigma on S.

    Plain least squares takes all directions. With ``drop``, those are left out that k noisy anchors tell worse than
    sigma sqrt(k), and the cosine of what is left is taken, since an image's unit norm is known.
    """
    known = texts[distinct_rows(texts, anchors, seed)]
    s = _with_noise(known @ images.T, noise, seed)
    found = dof.from_anchors(known, s, cutoff=noise * np.sqrt(len(known)) if drop else 0.0)
    found = of_unit_norm(found) if drop else found
    return agreement(*other_pairs(images, found[:_ROWS] @ found.T))


# ---------------------------------------------------------------- without anchors (Eq. 4 to 10)


def from_norms(images: np.ndarray, texts: np.ndarray, norms: str, seed: int = 0) -> tuple[dof.Recovery, np.ndarray]:
    """(recovery, V^T-coordinates W of the texts), by the direct solver, from the norms of "images" or of "both"."""
    n, d = images.shape
    s = texts @ images.T
    v = dof.column_space(s, d, seed=seed)
    w = s @ v / n
    q = dof.solve_both_norms(v, w)[0] if norms == "both" else dof.solve_norms_directly(v)
    return dof.Recovery(v, q), w


def recovered_pairs(d: int, n: int, norms: str = "images", noise: float = 0.0, seed: int = 0) -> Pairs:
    """(own, recovered) similarities of n random images, from those to as many random texts that nobody knows."""
    images, texts = random_pairs(n, d, seed)
    if noise:
        found = dof.recover(_with_noise(texts @ images.T, noise, seed), d, rounds=_ROUNDS, tolerance=1e-10)
    else:
        found, _ = from_norms(images, texts, norms, seed)
    return other_pairs(images, found[:_ROWS])


def without_anchors(**setting: float | str) -> dict[str, float]:
    """``agreement`` of ``recovered_pairs``."""
    return agreement(*recovered_pairs(**setting))


def strongest_directions(
    images: np.ndarray, texts: np.ndarray, directions: int, noise: float = 0.0, seed: int = 0
) -> dict[str, float]:
    """Recovery as if S had only its k strongest directions: real features fill their d dimensions unevenly."""
    s = _with_noise(texts @ images.T, noise, seed)
    found = dof.recover(s, directions, rounds=_ROUNDS, tolerance=1e-8, seed=seed)
    return agreement(*other_pairs(images, found[:_ROWS]))


def another_solution(n: int, d: int, seed: int = 0) -> dict[str, float]:
    """Too few pairs: images and texts of unit norm with the very same S, but other image-image similarities.

    Returns the largest differences: of S, of a norm from one, and of an image-image similarity.

    Raises:
        CrossgapError: so many pairs that there is no other solution.
    """
    if 2 * n >= dof.unknowns(d):
        raise CrossgapError(f"{2 * n} norms leave no freedom to {dof.unknowns(d)} unknowns.")
    images, texts = random_pairs(n, d, seed)
    found, w = from_norms(images, texts, "both", seed)
    root = np.linalg.cholesky(found.q)
    x, t = found.v @ root, np.linalg.solve(root, w.T).T
    norms = np.linalg.norm(np.vstack([x, t]), axis=1)
    off = {"S_inter": t @ x.T - texts @ images.T, "norms": norms - 1, "S_intra": x @ x.T - images @ images.T}
    return {name: float(np.abs(difference).max()) for name, difference in off.items()}


# ---------------------------------------------------------------- what the losses see


def readout(s: np.ndarray, name: str, scale: float = 1.0, bias: float = 0.0) -> np.ndarray:
    """The probabilities (n_T, N) that a loss compares with its labels, from S (n_T, N).

    Raises:
        CrossgapError: a readout that is not in READOUTS.
    """
    if name not in READOUTS:
        raise CrossgapError(f"{name!r} is no readout; there are {', '.join(READOUTS)}.")
    if name == "sigmoid":
        return expit(scale * s + bias)
    return softmax(scale * s, axis=0 if name == "softmax over texts" else 1)


def from_readout(
    values: np.ndarray, name: str, d: int, scale: float = 1.0, bias: float = 0.0, noise: float = 0.0
) -> dof.Recovery:
    """Image-image similarities from what ``readout`` returned, with noise of a known size on it."""
    how = {"rounds": _ROUNDS, "tolerance": 1e-8 if noise else 1e-12}
    if name == "sigmoid":
        return dof.recover((dof.log_odds(values, noise) - bias) / scale, d, **how)
    log_p = np.log(values.clip(max(noise, 1e-300)))
    solve = dof.from_text_softmax if name == "softmax over texts" else dof.from_image_softmax
    return solve(log_p, scale, d, **how)


def exact_readout(
    d: int, n: int, name: str, scale: float = 10.0, bias: float = -10.0, in_d: bool = False, seed: int = 0
) -> dict[str, float]:
    """Recovery of n random images from a readout without noise; ``in_d``: see ``in_d_dimensions``."""
    images, texts = random_pairs(n, d, seed)
    found = from_readout(readout(texts @ images.T, name, scale, bias), name, d, scale, bias)
    found = dof.in_d_dimensions(found) if in_d else found
    return agreement(*other_pairs(images, found[:_ROWS]))


def noisy_readout(
    images: np.ndarray,
    texts: np.ndarray,
    directions: int,
    name: str,
    scale: float,
    noise: float,
    bias: float = -10.0,
    seed: int = 0,
) -> dict[str, float]:
    """Recovery in the strongest directions from probabilities with normal noise, of the same size for all of them.

    A loss hardly minds which of two tiny probabilities it is. All logarithms count alike here; a fit of low rank to
    those above the noise could tell more. Adds above: how many of an image's probabilities lie more than five times the
    noise off 0 and 1, median.
    """
    exact = readout(texts @ images.T, name, scale, bias)
    above = float(np.median(((exact > 5 * noise) & (exact < 1 - 5 * noise)).sum(axis=0)))
    found = from_readout(_with_noise(exact, noise, seed), name, directions, scale, bias, noise)
    return {"above": above} | agreement(*other_pairs(images, found[:_ROWS]))
