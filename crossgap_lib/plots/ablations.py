"""Ablations: a spectrum with its band, gains along a parameter, gains by task, and mAP against cost."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.methods import MARKS, method_colour
from crossgap_lib.plots.style import COLOURS, DASHES, PUBLISHED, SERIES, new_figure, styled, whiskers

_GAIN = "gain in mAP (points)"


@styled
def spectrum(values: Sequence[float], bands: dict[str, tuple[int, int]]) -> Figure:
    """Singular values of the inter-modal operator and the directions that are kept.

    ``values``: (r,) largest first; ``bands``: side -> (top, bottom) directions left out.
    """
    figure, axes = new_figure(1, 1, width=6.4, height=3.8)
    ax, r = axes[0, 0], len(values)
    ax.plot(np.arange(1, r + 1), values, color="black", linewidth=1.8)
    for (side, (top, bottom)), hatch in zip(bands.items(), ("//", "\\\\"), strict=False):
        look = {"facecolor": COLOURS.get(side, SERIES[0]), "alpha": 0.18, "hatch": hatch, "edgecolor": "white"}
        ax.axvspan(top + 0.5, r - bottom + 0.5, label=f"kept for {side}s: {top + 1} to {r - bottom}", **look)
    ax.set(xlabel="direction", ylabel=r"singular value of $W_i^\top W_t$", yscale="log", xlim=(0.5, r + 0.5))
    ax.legend(loc="lower left", fontsize=9)
    return figure


@styled
def gain_curves(
    panels: dict[str, pd.DataFrame], x: str, label: str, *, by: str | None = None, ylabel: str = _GAIN
) -> Figure:
    """Gain over native features along a parameter, with the paired 95 % interval as a band; a panel for each table.

    ``panels``: title -> table with the columns ``x``, gain, gain low, gain high and, for several lines, ``by``.
    """
    figure, axes = new_figure(1, len(panels), width=5.0, height=3.9)
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        groups = [(None, table)] if by is None else list(table.groupby(by, sort=False))
        for k, (name, rows) in enumerate(groups):
            _curve(ax, rows.sort_values(x), x, k, name)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=title, xlabel=label, ylabel=ylabel)
        if by is not None:
            words = {"title": by, "title_fontsize": 9} if pd.api.types.is_numeric_dtype(table[by]) else {}
            ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.17), ncols=3, **words)
    _share_limits(axes[0])
    return figure


def _curve(ax: Axes, rows: pd.DataFrame, x: str, k: int, name: str | None) -> None:
    colour, fill = method_colour(str(name), k + 1), rows[["gain low", "gain high"]].fillna(0)
    look = {"color": colour, "marker": MARKS[k % len(MARKS)], "linestyle": DASHES[k % len(DASHES)], "markersize": 5}
    ax.plot(rows[x], rows["gain"].fillna(0), label=None if name is None else str(name), **look)
    ax.fill_between(rows[x], fill["gain low"], fill["gain high"], color=colour, alpha=0.15, linewidth=0)


def _share_limits(axes: Sequence[Axes]) -> None:
    low, high = zip(*(ax.get_ylim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_ylim(min(low), max(high))


@styled
def method_gains(table: pd.DataFrame, title: str = "") -> Figure:
    """Gain of each method over the native features with its paired interval, and the published one beside it.

    ``table``: rows of ``tasks.with_published``; methods without a gain (the baseline) are left out. Filled points are
    sure.
    """
    rows = table[table["gain"].notna()].reset_index(drop=True)
    figure, axes = new_figure(1, 1, width=7.2, height=1.3 + 0.36 * len(rows))
    ax, y = axes[0, 0], -rows.index.to_numpy()
    look = {"ecolor": COLOURS["image"], "capsize": 3, "elinewidth": 1.6}
    ax.errorbar(rows["gain"], y, xerr=whiskers(rows, "gain"), fmt="none", **look)
    for sure, inside in ((True, COLOURS["image"]), (False, "white")):
        look = {"color": COLOURS["image"], "markerfacecolor": inside, "markersize": 8}
        kept = (rows["sure"] == sure).to_numpy()
        ax.plot(rows["gain"][kept], y[kept], "o", label="measured" if sure else "measured, not sure", **look)
    look = {"color": PUBLISHED, "markerfacecolor": "white", "markersize": 8}
    ax.plot(rows["published gain"], y + 0.22, "D", label="published (CLIP ViT-B/32)", **look)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set_yticks(y, rows["method"])
    ax.set(xlabel=_GAIN, title=title)
    ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    return figure


@styled
def task_gains(table: pd.DataFrame, reported: dict[str, float], *, split: int = 1, title: str = "") -> Figure:
    """Gain by task, a bar for each method, and beside it what is published for other tasks.

    Args:
        table: rows of ``tasks.factor_tasks``.
        reported: published task -> gain.
        split: so many tasks at the left are the main concept; a line divides them from the rest.
    """
    measured = table[table["gain"].notna()]
    tasks, methods = list(dict.fromkeys(measured["task"])), list(dict.fromkeys(measured["method"]))
    width = 0.8 / len(methods)
    figure, axes = new_figure(1, 1, width=2.6 + 1.05 * (len(tasks) + len(reported)), height=4.0)
    ax = axes[0, 0]
    for k, method in enumerate(methods):
        rows = measured[measured["method"] == method].set_index("task").reindex(tasks)
        at = np.arange(len(tasks)) + (k - (len(methods) - 1) / 2) * width
        error = whiskers(rows, "gain")
        look = {"color": method_colour(method, k), "hatch": ("", "//", "..", "xx")[k % 4], "edgecolor": "white"}
        ax.bar(at, rows["gain"], 0.92 * width, yerr=error, ecolor="black", capsize=2, label=method, **look)
    at = len(tasks) + 0.3 + np.arange(len(reported))
    if reported:
        label = "PCA, published (CLIP ViT-L/14)"
        ax.bar(at, list(reported.values()), 0.45, color="white", edgecolor=PUBLISHED, hatch="xx", label=label)
        ax.axvline(len(tasks) - 0.35, color=PUBLISHED, linewidth=0.8)
    ax.axvline(split - 0.5, color=PUBLISHED, linewidth=0.8, linestyle=":")
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xticks([*range(len(tasks)), *at], [*tasks, *(name.replace(" ", "\n", 1) for name in reported)], fontsize=9)
    ax.set(ylabel=_GAIN, title=title)
    ax.grid(axis="x", visible=False)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=4, fontsize=9)
    return figure


@styled
def pareto(table: pd.DataFrame) -> Figure:
    """mAP against seconds a query, with intervals; methods that no other dominates are filled and connected.

    ``table``: rows of ``tasks.pareto_table``.
    """
    figure, axes = new_figure(1, 1, width=8.2, height=5.0)
    ax, front = axes[0, 0], table[table["non-dominated"]].sort_values("seconds")
    ax.plot(front["seconds"], front["value"], color=PUBLISHED, linewidth=1.4, label="not dominated", zorder=1)
    errors = whiskers(table)  # (2, methods)
    for k, row in enumerate(table.to_dict("records")):
        at, error = (row["seconds"], row["value"]), errors[:, [k]]
        look = {"color": method_colour(row["method"], k), "marker": MARKS[k % len(MARKS)], "markersize": 9}
        inside = look["color"] if row["non-dominated"] else "white"
        ax.errorbar(*at, yerr=error, fmt="none", ecolor=look["color"], capsize=2, elinewidth=0.9)
        ax.plot(*at, linestyle="none", markerfacecolor=inside, label=row["method"], **look)
    ax.set(xscale="log", xlabel="seconds a query, its encoding included", ylabel="image-image mAP (%)")
    ax.margins(x=0.06)
    ax.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
