"""Bootstrap intervals of means."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from crossgap_lib.errors import CrossgapError

BOOTSTRAP_RESAMPLES = 1000
_KEPT_RESAMPLES = 4096  # for at most so many values are the resamples kept, which take 32 MB


def bootstrap_interval(values: np.ndarray, seed: int = 0, level: float = 0.95) -> tuple[float, float]:
    """Bootstrap interval of a mean: percentiles over resamples of the values (n,).

    Raises:
        CrossgapError: a level that is no probability.
    """
    if not 0 < level < 1:
        raise CrossgapError(f"level must lie between 0 and 1, but is {level}.")
    means = resampled_means(np.asarray(values, float), seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def resampled_means(values: np.ndarray, seed: int = 0) -> np.ndarray:
    """The mean of each resample of the rows (n, ...), drawn with replacement: (resamples, ...)."""
    n = len(values)
    if n <= _KEPT_RESAMPLES:
        return _resamples(n, seed) @ values / n
    return np.array([counts.astype(values.dtype) @ values / n for counts in _counts(n, seed)])


@lru_cache(maxsize=4)
def _resamples(n: int, seed: int) -> np.ndarray:
    """All ``_counts`` together, (resamples, n), kept because several methods of a table are resampled alike."""
    return np.array(list(_counts(n, seed)), dtype=float)


def _counts(n: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of n rows is in a resample, (n,), one resample after the other."""
    rng = np.random.default_rng(seed)
    return (np.bincount(rng.integers(n, size=n), minlength=n) for _ in range(BOOTSTRAP_RESAMPLES))
