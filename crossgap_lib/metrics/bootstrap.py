"""Intervals of means, by resampling what they are means of."""

from functools import lru_cache

import numpy as np

from crossgap_lib.errors import CrossgapError

BOOTSTRAP_RESAMPLES = 1000
_KEPT_RESAMPLES = 4096  # values up to which resamples are kept: 32 MB


def bootstrap_interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a mean: percentiles over resamples of the values (n,).

    Raises:
        CrossgapError: a level that is no probability.
    """
    if not 0 < level < 1:
        raise CrossgapError(f"level must lie between 0 and 1, but is {level}.")
    means = _resampled_means(np.asarray(values, float), seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _resampled_means(values: np.ndarray, seed: int) -> np.ndarray:
    if len(values) <= _KEPT_RESAMPLES:
        return _resamples(len(values), seed) @ values / len(values)
    rng = np.random.default_rng(seed)
    return np.array([rng.choice(values, len(values)).mean() for _ in range(BOOTSTRAP_RESAMPLES)])


@lru_cache(maxsize=4)
def _resamples(n: int, seed: int) -> np.ndarray:
    """How often each of n values is in each resample, (resamples, n): drawn once for all methods that it serves."""
    rng = np.random.default_rng(seed)
    counts = [np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(BOOTSTRAP_RESAMPLES)]
    return np.array(counts, dtype=float)
