"""Gains over the native features: along a parameter, on the bands of IsoCLIP, and by task."""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.methods import MARKS, method_colour
from crossgap_lib.plots.style import COLOURS, DASHES, PUBLISHED, new_figure, shades, styled

_GAIN = "gain in mAP (points)"


@styled
def gain_curves(
    table: pd.DataFrame,
    x: str,
    label: str,
    *,
    by: str,
    reported: pd.DataFrame | None = None,
    log: bool = False,
    best: bool = False,
) -> Figure:
    """Gain over native features along a parameter, with the paired 95 % interval as a band.

    Args:
        table: columns ``x``, gain, gain low, gain high, and ``by``, which tells the lines apart.
        label: of the horizontal axis, with its unit.
        reported: published values, drawn as diamonds: columns ``x``, gain and name.
        log: whether the parameter doubles from tick to tick.
        best: whether a hollow star marks the best of each line, which labels alone can tell.
    """
    figure, axes = new_figure(1, 1, width=8.6, height=4.4)
    ax, lines = axes[0, 0], dict(list(table.groupby(by, sort=False)))
    for k, ((name, rows), colour) in enumerate(zip(lines.items(), _line_colours(lines), strict=True)):
        _line(ax, rows.sort_values(x), x, k, colour, name, best)
    _diamonds(ax, reported, x)
    if best:
        ax.plot([], [], "*", color="black", markerfacecolor="white", markersize=14, label="best of these very queries")
    ax.axhline(0, color="black", linewidth=0.8)
    if log:
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter("{x:g}")
    ax.set(xlabel=label, ylabel=_GAIN)
    figure.legend(loc="outside right upper", fontsize=9)
    return figure


def _line_colours(names: Iterable[str]) -> list:
    """The colour of each method; those that share one get shades of it."""
    own = [method_colour(name, k) for k, name in enumerate(names)]
    left = {colour: iter(shades(colour, own.count(colour))) for colour in own}
    return [next(left[colour]) for colour in own]


def _line(ax: Axes, rows: pd.DataFrame, x: str, k: int, colour: tuple, name: str, best: bool) -> None:
    look = {"color": colour, "marker": MARKS[k % len(MARKS)], "linestyle": DASHES[k % len(DASHES)], "markersize": 5}
    ax.plot(rows[x], rows["gain"], label=name, **look)
    ax.fill_between(rows[x], rows["gain low"], rows["gain high"], color=colour, alpha=0.15, linewidth=0)
    if best:
        top = rows.loc[rows["gain"].idxmax()]
        ax.plot(top[x], top["gain"], "*", color=colour, markerfacecolor="white", markersize=14, zorder=3)


def _diamonds(ax: Axes, reported: pd.DataFrame | None, x: str) -> None:
    if reported is None or not len(reported):
        return
    ax.plot(reported[x], reported["gain"], "D", color="white", markeredgecolor=PUBLISHED, label="published", zorder=4)
    for row in reported.to_dict("records"):
        spot = {"xytext": (0, -7), "textcoords": "offset points", "ha": "center", "va": "top"}
        ax.annotate(row["name"], (row[x], row["gain"]), fontsize=8.5, color=PUBLISHED, **spot)


@styled
def band_gains(spectrum: Sequence[float], band: tuple[int, int], table: pd.DataFrame, reported: pd.DataFrame) -> Figure:
    """Left, singular values and the band of them that IsoCLIP keeps; right, what leaving out the strongest gains.

    Args:
        spectrum: (r,) largest first.
        band: how many directions are left out at the top and at the bottom.
        table: columns share (of the directions, left out at the top), gain, gain low, gain high.
        reported: published values: share, gain and name.
    """
    figure, axes = new_figure(1, 2, width=5.2, height=3.9)
    (left, right), r = axes[0], len(spectrum)
    left.plot(np.arange(1, r + 1), spectrum, color="black", linewidth=1.8)
    look = {"facecolor": COLOURS["projection"], "alpha": 0.25, "hatch": "//", "edgecolor": "white"}
    left.axvspan(band[0] + 0.5, r - band[1] + 0.5, label="kept by IsoCLIP", **look)
    left.set(xlabel="direction", ylabel=r"singular value of $W_i^\top W_t$", yscale="log", xlim=(0.5, r + 0.5))
    left.legend(loc="lower left", fontsize=9)
    _line(right, table, "share", 0, COLOURS["projection"], "measured", best=False)
    _diamonds(right, reported, "share")
    right.axhline(0, color="black", linewidth=0.8)
    right.set(xlabel="share of the directions left out at the top", ylabel=_GAIN)
    right.legend(loc="center right", fontsize=9)
    return figure


@styled
def gain_grid(table: pd.DataFrame) -> Figure:
    """Gain of each method (row) in each task (column); what is not sure stands in brackets.

    ``table``: rows of ``tasks.gain_table`` with the column task; methods without a gain (the baseline) are left out.
    """
    rows = table[table["gain"].notna()]
    order = {"index": list(dict.fromkeys(rows["method"])), "columns": list(dict.fromkeys(rows["task"]))}
    signed = rows["gain"].map("{:+.1f}".format)
    rows = rows.assign(words=signed.where(rows["sure"], "(" + signed + ")"))
    gains, words = (rows.pivot(index="method", columns="task", values=v).reindex(**order) for v in ("gain", "words"))
    height, width = gains.shape
    figure, axes = new_figure(1, 1, width=3.6 + 0.85 * width, height=1.1 + 0.36 * height)
    limit, bar = rows["gain"].abs().max(), {"label": _GAIN}
    look = {"cmap": "PRGn", "vmin": -limit, "vmax": limit, "linewidths": 1.5, "annot_kws": {"fontsize": 10}}
    sns.heatmap(gains, annot=words, fmt="", cbar_kws=bar, ax=axes[0, 0], **look)
    axes[0, 0].set_xlabel("what makes two pictures relevant to each other", labelpad=8)
    axes[0, 0].set_ylabel("")
    axes[0, 0].tick_params(length=0, labelrotation=0)
    return figure
