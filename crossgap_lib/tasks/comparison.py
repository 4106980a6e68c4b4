"""Methods on the same footing: one number a query for each, paired intervals, and what the papers report beside it.

A table says which method is best only where the data do: the best cell of a row is bold when its paired interval
against every other method excludes zero.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from pandas.io.formats.style import Styler

from crossgap_lib import metrics
from crossgap_lib.errors import CrossgapError

METRICS = {"mAP": "ap", "R-Precision": "r_precision"}  # name in tables -> name in ``metrics.Retrieval``


def in_percent(result: metrics.Retrieval, metric: str = "ap", seed: int = 0) -> tuple[float, float, float]:
    """The mean of a metric over queries, with its 95 % bootstrap interval, in percent: (value, low, high)."""
    value, low, high = result.means[metric], *result.interval(metric, seed)
    return 100 * value, 100 * low, 100 * high


def paired_gain(
    values: np.ndarray, native: np.ndarray, *, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean difference of two methods on the same queries (n,), with a bootstrap interval: (mean, low, high).

    Raises:
        CrossgapError: not the same queries.
    """
    if len(values) != len(native):
        raise CrossgapError(f"{len(values)} and {len(native)} queries are not the same ones.")
    difference = np.asarray(values, float) - native
    return float(difference.mean()), *metrics.bootstrap_interval(difference, seed, level)


def gain_table(values: Mapping[str, np.ndarray], baseline: str, *, seed: int = 0) -> pd.DataFrame:
    """Every method's mean and its gain over ``baseline``, in percent, with 95 % bootstrap intervals over queries.

    Args:
        values: method -> (n,) one number in [0, 1] for each query (AP, hit, right or wrong), the same queries for all.

    Columns: method, n, value, low, high, gain, gain low, gain high (paired), sure (the gain's interval excludes zero),
    best (the largest mean, and surely above every other method).

    Raises:
        CrossgapError: no such baseline, or methods that did not answer the same queries.
    """
    if baseline not in values:
        raise CrossgapError(f"There is no method {baseline!r} to compare with, only {', '.join(values)}.")
    columns = {name: np.asarray(v, float) for name, v in values.items()}
    leader, rows = _sure_leader(columns, seed), []
    for name, column in columns.items():
        gain = (np.nan,) * 3 if name == baseline else paired_gain(column, columns[baseline], seed=seed)
        numbers = 100 * np.array([column.mean(), *metrics.bootstrap_interval(column, seed), *gain])
        rows.append((name, len(column), *numbers, bool(gain[1] > 0 or gain[2] < 0), name == leader))
    names = ["method", "n", "value", "low", "high", "gain", "gain low", "gain high", "sure", "best"]
    return pd.DataFrame(rows, columns=names)


def _sure_leader(columns: Mapping[str, np.ndarray], seed: int) -> str | None:
    """The method with the largest mean, where it is surely above all others."""
    first = max(columns, key=lambda name: columns[name].mean())
    others = (column for name, column in columns.items() if name != first)
    return first if all(paired_gain(columns[first], other, seed=seed)[1] > 0 for other in others) else None


def with_published(
    measured: pd.DataFrame, reported: pd.DataFrame, *, baseline: str, on: Sequence[str] = ()
) -> pd.DataFrame:
    """``gain_table`` rows with the published value and gain of the same method beside them, and what differs.

    Args:
        measured: rows of ``gain_table``, with the columns ``on`` added where several tables were put together.
        reported: columns method, value and ``on``; the methods are named as in ``measured``.
        baseline: the method that the published gains are over.
        on: what tells the rows of one method apart (model, data set).

    Adds: published, published gain, and gains agree: "yes" (sure, and of the same sign), "no" (sure, and of the
    opposite one), "not sure" (the measured interval holds zero), "" where nothing is published.
    """
    keys = [*on, "_all"]  # a constant key, so that an empty ``on`` needs no case of its own
    known = reported[[*on, "method", "value"]].rename(columns={"value": "published"}).assign(_all=0)
    native = known[known["method"] == baseline].drop(columns="method").rename(columns={"published": "_native"})
    known = known.merge(native, on=keys, how="left").drop(columns="_all")
    known["published gain"] = (known["published"] - known.pop("_native")).where(known["method"] != baseline)
    table = measured.merge(known, on=[*on, "method"], how="left", validate="many_to_one")
    return table.assign(**{"gains agree": [_agreement(row) for _, row in table.iterrows()]})


def _agreement(row: pd.Series) -> str:
    if np.isnan(row["published gain"]) or np.isnan(row["gain"]):
        return ""
    if not row["sure"]:
        return "not sure"
    return "yes" if row["gain"] * row["published gain"] > 0 else "no"


def agreement_sentence(table: pd.DataFrame) -> str:
    """How many of the published gains have the measured sign, from the rows of ``with_published``."""
    counts = table["gains agree"].value_counts()
    yes, no, unsure = (int(counts.get(word, 0)) for word in ("yes", "no", "not sure"))
    total = yes + no + unsure
    if not total:
        return "Nothing is published to compare with."
    return f"Of {total} published gains {yes} have the same sign here, {no} the opposite one, {unsure} are not sure."


def bold_table(table: pd.DataFrame, index: Sequence[str], *, value: str = "value") -> Styler:
    """A row for each ``index``, a column for each method, one decimal; ``best`` cells are bold."""
    order = list(dict.fromkeys(table["method"]))
    wide, best = (table.pivot(index=list(index), columns="method", values=c)[order] for c in (value, "best"))
    weights = best.map(lambda sure: "font-weight: bold" if sure is True else "")
    return wide.style.apply(lambda _: weights, axis=None).format(precision=1, na_rep="")
