"""Gains over the native features: along a parameter, on the bands of IsoCLIP, and by task; panels of any quantity."""

from collections.abc import Iterable, Sequence
from itertools import product
from textwrap import fill

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.methods import ORACLE, method_colour
from crossgap_lib.plots.style import COLOURS, PUBLISHED, line_look, new_figure, shades, styled, whiskers

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
    ax.plot(rows[x], rows["gain"], label=name, **line_look(k, color=colour))
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
    left.set(xlabel="direction", ylabel="singular value of Wᵢᵀ Wₜ", yscale="log", xlim=(0.5, r + 0.5))
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


@styled
def line_panels(table: pd.DataFrame, x: str, xlabel: str, ylabel: str = "", *, by: str, row: str = "") -> Figure:
    """Quantities along a parameter, a panel each, with 95 % intervals.

    A method whose setting labels chose on the same queries ("OTI, best step") has hollow marks and no line. What
    chance finds is dotted in the colour of its line.

    Args:
        table: columns ``x``, panel, value, low, high, ``by``, which tells the lines apart, and, where there is one,
            chance.
        ylabel: of all panels, which then share their scale; else each has its own, and its title says what it is.
        row: the column whose values are a row of panels each, with the value before the label.
    """
    table = table if row else table.assign(**{"": ""})
    rows, titles, lines = (list(dict.fromkeys(table[name])) for name in (row, "panel", by))
    looks = list(enumerate(zip(lines, _line_colours(lines), strict=True)))
    size = {"width": 10.8 / len(titles), "height": 3.5 if len(rows) == 1 else 2.8}
    figure, axes = new_figure(len(rows), len(titles), **size, sharey=bool(ylabel))
    for ax, (value, title) in zip(axes.flat, product(rows, titles), strict=True):
        part = table[(table[row] == value) & (table["panel"] == title)]
        for k, (name, colour) in looks:
            _points(ax, part[part[by] == name].sort_values(x), x, k, colour, name)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=title if value == rows[0] else "", xlabel=xlabel if value == rows[-1] else "")
    for ax, value in zip(axes[:, 0], rows, strict=True):
        ax.set_ylabel(f"{value}\n{ylabel}".strip())
    if (table["value"] >= 0).all():
        for ax in axes.flat:
            ax.set_ylim(0, None)
    handles = {text: handle for ax in axes.flat for handle, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    if "chance" in table and table["chance"].notna().any():
        handles["chance"] = axes[0, 0].plot([], [], ":", color="black")[0]
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=min(4, len(handles)), fontsize=9)
    return figure


def _points(ax: Axes, rows: pd.DataFrame, x: str, k: int, colour: tuple, name: str) -> None:
    """The k-th line of a panel."""
    look = line_look(k, color=colour, markersize=6, linewidth=1.8)
    if name.endswith(ORACLE):
        look |= {"linestyle": "", "markerfacecolor": "none", "markersize": 10}
    if len(rows):
        ax.errorbar(rows[x], rows["value"], whiskers(rows), label=name, capsize=2, **look)
        if "chance" in rows:
            ax.plot(rows[x], rows["chance"], ":", color=colour, linewidth=1.4)


@styled
def gap_points(table: pd.DataFrame, reported: pd.DataFrame) -> Figure:
    """Gains over native features against the modality gap, a mark for each model, with paired 95 % intervals.

    Args:
        table: columns model, panel, gap, gain, gain low, gain high, family. Lines join the models of a family, in the
            order of their gaps; those without one stand alone.
        reported: published values, drawn as diamonds: columns panel, gap, gain and name.
    """
    titles, models = (list(dict.fromkeys(table[name])) for name in ("panel", "model"))
    figure, axes = new_figure(1, len(titles), width=10.8 / len(titles), height=4.9, sharey=True)
    for ax, title in zip(axes[0], titles, strict=True):
        part = table[table["panel"] == title]
        for _, family in part.sort_values("gap").groupby("family"):
            ax.plot(family["gap"], family["gain"], color="#999999", linewidth=1, zorder=1)
        for model, row in part.groupby("model"):
            look = line_look(models.index(model), linestyle="", markersize=8)
            ax.errorbar(row["gap"], row["gain"], whiskers(row, "gain"), capsize=2, label=model, **look)
        _diamonds(ax, reported[reported["panel"] == title], "gap")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(title=title, xlabel="modality gap (Eq. 7)", xlim=(-0.05, None))
    axes[0, 0].set_ylabel(_GAIN)
    handles = {name: handle for ax in axes[0] for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
    names = sorted(handles, key=lambda name: models.index(name) if name in models else len(models))
    figure.legend([handles[name] for name in names], names, loc="outside lower left", ncols=4, fontsize=9)
    return figure


@styled
def change_dots(table: pd.DataFrame) -> Figure:
    """What models change against one that they are compared with, a panel a quantity, with paired 95 % intervals.

    ``table``: columns panel (the quantity), model, gain, gain low, gain high.
    """
    titles, models = (list(dict.fromkeys(table[name])) for name in ("panel", "model"))
    columns = min(4, len(titles))
    rows = -(-len(titles) // columns)
    size = {"width": 10.8 / columns, "height": 0.9 + 0.3 * len(models)}
    figure, axes = new_figure(rows, columns, **size, sharey=True)
    for ax, title in zip(axes.flat, titles, strict=False):
        for model, row in table[table["panel"] == title].groupby("model"):
            k = models.index(model)
            ax.errorbar(
                row["gain"], [-k], xerr=whiskers(row, "gain"), capsize=2, **line_look(k, linestyle="", markersize=6)
            )
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set(ylim=(0.5 - len(models), 0.5))
        ax.set_title(fill(title, 18), fontsize=10)
        ax.set_yticks(-np.arange(len(models)), models)
        ax.tick_params(axis="y", length=0)
    for ax in axes.flat[len(titles) :]:
        ax.axis("off")
    return figure
