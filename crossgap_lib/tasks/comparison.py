"""Methods on the same footing: one number a query for each, and paired intervals.

A table says which method is best only where the data do: the best cell of a row is bold when its paired interval
against every other method excludes zero.
"""

from collections.abc import Hashable, Mapping, Sequence
from math import nan
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler
from scipy.stats import binomtest

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import drawn_rows
from crossgap_lib.errors import CrossgapError

METRICS = {"mAP": "ap", "R-Precision": "r_precision"}  # name in tables -> name in ``metrics.Retrieval``


class Measured(NamedTuple):
    """A number with its 95 % interval and, for paired gains, its effect size."""

    value: float
    low: float
    high: float
    effect: float = nan  # mean difference over the standard deviation of the differences: Cohen's d of paired samples


def measured(values: Sequence[float] | np.ndarray, *, seed: int = 0, scale: float = 100) -> Measured:
    """The mean of values (n,), one a query or picture, in percent by default, with its 95 % interval.

    Numbers are resampled (bootstrap). Of booleans the share is told with Wilson's interval, since where all of them
    agree resampling would find no spread.
    """
    values = np.asarray(values)
    if values.dtype == bool:
        found = binomtest(int(values.sum()), len(values)).proportion_ci(method="wilson")
        return Measured(*(scale * v for v in (values.mean(), *found)))
    values = values.astype(float)
    return Measured(*(scale * v for v in (values.mean(), *metrics.bootstrap_interval(values, seed))))


def gain(values: np.ndarray, native: np.ndarray, *, seed: int = 0, scale: float = 100) -> Measured:
    """How far ``values`` lie above ``native`` (n,), paired: on the same queries; by default in percent points.

    Raises:
        CrossgapError: not the same queries.
    """
    if len(values) != len(native):
        raise CrossgapError(f"{len(values)} and {len(native)} queries are not the same ones.")
    difference = np.asarray(values, float) - native
    spread = difference.std(ddof=1) if len(difference) > 1 else 0.0
    effect = difference.mean() / spread if spread > 0 else nan
    return measured(difference, seed=seed, scale=scale)._replace(effect=effect)


def in_percent(result: metrics.Retrieval, metric: str = "ap", seed: int = 0) -> tuple[float, float, float]:
    """The mean of a metric over queries, with its 95 % bootstrap interval, in percent: (value, low, high)."""
    return measured(result.per_query[metric], seed=seed)[:3]


def gain_table(values: Mapping[str, np.ndarray], baseline: str, *, seed: int = 0) -> pd.DataFrame:
    """Every method's mean and its gain over ``baseline``, in percent, with 95 % bootstrap intervals over queries.

    Args:
        values: method -> (n,) one number in [0, 1] for each query (AP, hit, right or wrong), the same queries for all.

    Columns: method, n, value, low, high, gain, gain low, gain high, effect (paired, see ``gain``), sure (the gain's
    interval excludes zero), best (the largest mean, and surely above every other method).

    Raises:
        CrossgapError: no such baseline, or methods that did not answer the same queries.
    """
    if baseline not in values:
        raise CrossgapError(f"There is no method {baseline!r} to compare with, only {', '.join(values)}.")
    columns = {name: np.asarray(v, float) for name, v in values.items()}
    leader, rows = _sure_leader(columns, seed), []
    for name, column in columns.items():
        more = Measured(nan, nan, nan) if name == baseline else gain(column, columns[baseline], seed=seed)
        sure = bool(more.low > 0 or more.high < 0)
        rows.append((name, len(column), *measured(column, seed=seed)[:3], *more, sure, name == leader))
    names = ["method", "n", "value", "low", "high", "gain", "gain low", "gain high", "effect", "sure", "best"]
    return pd.DataFrame(rows, columns=names)


def chosen_elsewhere(
    values: Mapping[Hashable, np.ndarray], ids: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, tuple[Hashable, Hashable]]:
    """What a setting that labels choose is worth on queries that did not choose it (two-fold cross-fitting).

    The queries are halved by ``seed`` and their ids. Each half is scored with the setting that is best on the other
    half, so that no query has a say in the setting that it is scored with.

    Args:
        values: setting, such as a step or a number of components -> (n,) one number for each query.
        ids: (n,) of the queries, so that the order of the rows does not matter.

    Returns:
        (n,) the number of each query, and the settings chosen for the two halves.

    Raises:
        CrossgapError: fewer than two queries.
    """
    if len(ids) < 2:
        raise CrossgapError("A setting that is chosen on other queries needs two queries at least.")
    first = np.zeros(len(ids), dtype=bool)
    first[drawn_rows(ids, len(ids) // 2, seed)] = True
    scores, chosen = np.empty(len(ids)), []
    for half in (first, ~first):
        best = max(values, key=lambda setting: np.asarray(values[setting])[~half].mean())
        scores[half] = np.asarray(values[best])[half]
        chosen.append(best)
    return scores, tuple(chosen)


def _sure_leader(columns: Mapping[str, np.ndarray], seed: int) -> str | None:
    """The method with the largest mean, where it is surely above all others."""
    first = max(columns, key=lambda name: columns[name].mean())
    others = (column for name, column in columns.items() if name != first)
    return first if all(gain(columns[first], other, seed=seed).low > 0 for other in others) else None


def escaped_table(table: pd.DataFrame, **how: Any) -> Styler:
    """A table whose cells and names of rows and columns are shown as they are, though they hold HTML or formulas.

    ``how``: as for ``Styler.format``, which escapes no names, and nothing by default.
    """
    look = table.style.format(escape="html", **how).set_table_attributes('class="tex2jax_ignore mathjax_ignore"')
    return look.format_index(escape="html", axis="index").format_index(escape="html", axis="columns")


def bold_table(table: pd.DataFrame, index: Sequence[str], *, value: str = "value") -> Styler:
    """A row for each ``index``, a column for each method, one decimal; ``best`` cells are bold."""
    order = list(dict.fromkeys(table["method"]))
    wide, best = (table.pivot(index=list(index), columns="method", values=c)[order] for c in (value, "best"))
    weights = best.map(lambda sure: "font-weight: bold" if sure is True else "")
    return escaped_table(wide, precision=1, na_rep="").apply(lambda _: weights, axis=None)
