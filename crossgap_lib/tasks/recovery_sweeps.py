"""How well image-image similarities are recovered when images, anchors or precision run short: one table a question.

The matrices are small and many, so each sweep runs on one thread: more would wait for each other most of the time,
which on a busy machine took a hundred times as long.
"""

from collections.abc import Iterable, Sequence
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import expit, softmax
from scipy.stats import spearmanr
from threadpoolctl import threadpool_limits

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks import degrees_of_freedom as dof
from crossgap_lib.tasks.pairs import as_rows, of_unit_norm

READOUTS = ("cosine", "sigmoid", "softmax over texts", "softmax over images")
_ROWS = 500  # images whose similarities to all others are compared
_ROUNDS = 4  # of subspace iteration, where S is noisy
_on_one_thread = threadpool_limits.wrap(limits=1)

Pairs = tuple[np.ndarray, np.ndarray]  # similarities (m,): the images' own, and as recovered


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
    """Root mean square error and Pearson correlation of recovered similarities (m,) with the images' own."""
    rms = float(np.sqrt(np.mean((own - found) ** 2)))
    return {"rms": rms, "pearson": float(np.corrcoef(own, found)[0, 1])}


def _with_noise(values: np.ndarray, noise: float, seed: int) -> np.ndarray:
    return values + noise * np.random.default_rng([seed, 2]).standard_normal(values.shape) if noise else values


# ---------------------------------------------------------------- anchors (Eq. 2)


def distinct_rows(texts: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Indices of k rows (or all there are) that differ from each other, drawn with ``seed``: captions repeat."""
    _, first = np.unique(texts.round(4), axis=0, return_index=True)
    return np.random.default_rng([seed, 3]).permutation(first)[:k]


@_on_one_thread
def anchor_sweep(
    images: np.ndarray, texts: np.ndarray, counts: Iterable[int], noises: Sequence[float], *, seed: int = 0
) -> pd.DataFrame:
    """Recovery from k anchors drawn among the texts (n_T, d), with noise of standard deviation sigma on S.

    Columns: anchors, noise, solver, rms, pearson. "all directions" is plain least squares; "above the noise" drops the
    directions that k noisy anchors tell worse than sigma sqrt(k), and takes the cosine of what is left, since an
    image's unit norm is known.
    """
    table = []
    for k in counts:
        anchors = texts[distinct_rows(texts, k, seed)]
        for noise in noises:
            s = _with_noise(anchors @ images.T, noise, seed)
            plain = dof.from_anchors(anchors, s)
            cut = of_unit_norm(dof.from_anchors(anchors, s, cutoff=noise * np.sqrt(len(anchors))))
            for solver, x in (("all directions", plain), ("above the noise", cut)):
                scores = agreement(*other_pairs(images, x[:_ROWS] @ x.T))
                table.append({"anchors": len(anchors), "noise": noise, "solver": solver} | scores)
    return pd.DataFrame(table)


# ---------------------------------------------------------------- samples


def around_threshold(d: int, shares: Iterable[float]) -> list[int]:
    """Numbers of images: shares of the d (d + 1) / 2 unknowns."""
    return sorted({max(d, round(share * dof.unknowns(d))) for share in shares})


def from_norms(images: np.ndarray, texts: np.ndarray, norms: str, seed: int = 0) -> tuple[dof.Recovery, np.ndarray]:
    """(recovery, V^T-coordinates W of the texts), by the direct solver, from the norms of "images" or of "both"."""
    n, d = images.shape
    s = texts @ images.T
    v = dof.column_space(s, d, seed=seed)
    w = s @ v / n
    if norms == "both":
        return dof.Recovery(v, dof.solve_both_norms(v, w)[0]), w
    return dof.Recovery(v, dof.solve_norms_directly(v)), w


@_on_one_thread
def threshold_sweep(d: int, counts: Iterable[int], seeds: Iterable[int], norms: str = "images") -> pd.DataFrame:
    """Error without anchors for N random images and as many texts. Columns: d, n, norms, seed, rms, pearson."""
    table = []
    for n, seed in product(counts, seeds):
        images, texts = random_pairs(n, d, seed)
        found, _ = from_norms(images, texts, norms, seed)
        scores = agreement(*other_pairs(images, found[:_ROWS]))
        table.append({"d": d, "n": n, "norms": norms, "seed": seed} | scores)
    return pd.DataFrame(table)


@_on_one_thread
def threshold_pairs(d: int, counts: Iterable[int], seed: int = 0) -> dict[int, Pairs]:
    """(own, recovered) similarities from the norms of the images alone, for each number of images."""
    drawn = {n: random_pairs(n, d, seed) for n in counts}
    return {n: other_pairs(pair[0], from_norms(*pair, "images", seed)[0][:_ROWS]) for n, pair in drawn.items()}


@_on_one_thread
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


# ---------------------------------------------------------------- noise and readouts


@_on_one_thread
def noise_sweep(d: int, counts: Iterable[int], noises: Sequence[float], seeds: Iterable[int]) -> pd.DataFrame:
    """Error without anchors under noise of standard deviation sigma on S. Columns: n, noise, seed, rms, pearson."""
    table = []
    for n, noise, seed in product(counts, noises, seeds):
        images, texts = random_pairs(n, d, seed)
        s = _with_noise(texts @ images.T, noise, seed)
        found = dof.recover(s, d, rounds=_ROUNDS, tolerance=1e-10)
        scores = agreement(*other_pairs(images, found[:_ROWS]))
        table.append({"n": n, "noise": noise, "seed": seed} | scores)
    return pd.DataFrame(table)


def readout(s: np.ndarray, name: str, scale: float = 1.0, bias: float = 0.0) -> np.ndarray:
    """What the loss compares with its labels: S (n_T, N) itself or probabilities (n_T, N).

    Raises:
        CrossgapError: a readout that is not in READOUTS.
    """
    if name not in READOUTS:
        raise CrossgapError(f"{name!r} is no readout; there are {', '.join(READOUTS)}.")
    if name == "cosine":
        return s
    if name == "sigmoid":
        return expit(scale * s + bias)
    return softmax(scale * s, axis=0 if name == "softmax over texts" else 1)


def from_readout(
    values: np.ndarray, name: str, d: int, scale: float = 1.0, bias: float = 0.0, noise: float = 0.0
) -> dof.Recovery:
    """Image-image similarities from what ``readout`` returned, with noise of a known size on it."""
    how = {"rounds": _ROUNDS, "tolerance": 1e-8 if noise else 1e-12}
    if name == "cosine":
        return dof.recover(values, d, **how)
    if name == "sigmoid":
        return dof.recover((dof.log_odds(values, noise) - bias) / scale, d, **how)
    log_p = np.log(values.clip(max(noise, 1e-300)))
    solve = dof.from_text_softmax if name == "softmax over texts" else dof.from_image_softmax
    return solve(log_p, scale, d, **how)


@_on_one_thread
def readout_pairs(d: int, n: int, *, scale: float = 10.0, bias: float = -10.0, seed: int = 0) -> dict[str, Pairs]:
    """(own, recovered) similarities for each readout, without noise; the last entry is that of the image softmax
    brought back into d dimensions."""
    images, texts = random_pairs(n, d, seed)
    read = lambda name: readout(texts @ images.T, name, scale, bias)  # noqa: E731
    found = {name: from_readout(read(name), name, d, scale, bias) for name in READOUTS}
    found["softmax over images, rank d"] = dof.in_d_dimensions(found[READOUTS[-1]])
    return {name: other_pairs(images, recovery[:_ROWS]) for name, recovery in found.items()}


def readout_table(pairs: dict[str, Pairs]) -> pd.DataFrame:
    """Columns: readout, rms, pearson, spearman, slope and offset of the line own -> recovered."""
    rows = []
    for name, (own, found) in pairs.items():
        slope, offset = np.polyfit(own, found, 1)
        line = {"spearman": float(spearmanr(own, found).statistic), "slope": slope, "offset": offset}
        rows.append({"readout": name} | agreement(own, found) | line)
    return pd.DataFrame(rows)


@_on_one_thread
def readout_noise(
    images: np.ndarray,
    texts: np.ndarray,
    k: int,
    scales: Iterable[float],
    noises: Sequence[float],
    *,
    bias: float = -10.0,
    seed: int = 0,
) -> pd.DataFrame:
    """Noise on the probabilities of a sigmoid and of a softmax over texts, recovery in k directions.

    Columns: readout, scale, noise, above (how many of an image's probabilities lie more than five times the noise off 0
    and 1, median), rms, pearson. The noise is normal, of the same size for all probabilities: a loss hardly minds which
    of two tiny ones it is. All logarithms count alike here; a fit of low rank to those above the noise could tell more.
    """
    table = []
    for scale, name, noise in product(scales, READOUTS[1:3], noises):
        exact = readout(texts @ images.T, name, scale, bias)
        above = float(np.median(((exact > 5 * noise) & (exact < 1 - 5 * noise)).sum(axis=0)))
        found = from_readout(_with_noise(exact, noise, seed), name, k, scale, bias, noise)
        scores = agreement(*other_pairs(images, found[:_ROWS]))
        table.append({"readout": name, "scale": scale, "noise": noise, "above": above} | scores)
    return pd.DataFrame(table)


# ---------------------------------------------------------------- real features


@_on_one_thread
def direction_sweep(
    images: np.ndarray, texts: np.ndarray, directions: Iterable[int], noises: Sequence[float], *, seed: int = 0
) -> pd.DataFrame:
    """Without anchors, as if S had only its k strongest directions: what N images suffice for.

    Real features fill their d dimensions unevenly, so k directions may say nearly all. Directions beyond
    d, or with more unknowns than there are images, are left out. Columns: directions, noise, rms, pearson.
    """
    n, d = images.shape
    possible, table = [k for k in directions if k <= d and dof.unknowns(k) <= n], []
    for noise in noises:
        s = _with_noise(texts @ images.T, noise, seed)
        for k in possible:
            found = dof.recover(s, k, rounds=_ROUNDS, tolerance=1e-8, seed=seed)
            scores = agreement(*other_pairs(images, found[:_ROWS]))
            table.append({"directions": k, "noise": noise} | scores)
    return pd.DataFrame(table, columns=["directions", "noise", "rms", "pearson"])
