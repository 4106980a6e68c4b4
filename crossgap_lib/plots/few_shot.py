"""Accuracy and gains against shots, measured and published on the same axes, and what names help which question."""

from collections.abc import Mapping, Sequence
from textwrap import fill
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.style import (
    COLOURS,
    MARKERS,
    PUBLISHED,
    line_look,
    new_figure,
    short_name,
    styled,
    whiskers,
)
from crossgap_lib.tasks.few_shot import with_pca


@styled
def accuracy_panels(measured: pd.DataFrame, reported: pd.DataFrame, stands_for: Mapping[str, str]) -> Figure:
    """Accuracy against shots, from 0 to 100 everywhere: a row for each model, a panel for each classifier.

    Args:
        measured: rows of ``tasks.few_shot_table`` of one setting, with the column model.
        reported: rows of ``tasks.published_few_shot``, drawn in grey.
        stands_for: measured model -> the published one beside it, "" where there is none.
    """
    models = list(dict.fromkeys(measured["model"]))
    classifiers = list(dict.fromkeys(measured["method"].str.removesuffix(" + PCA")))
    figure, axes = new_figure(len(models), len(classifiers), width=3.5, height=2.9)
    for row, model in zip(axes, models, strict=True):
        ours, theirs = measured[measured["model"] == model], reported[reported["model"] == stands_for.get(model, "")]
        for ax, classifier in zip(row, classifiers, strict=True):
            for feature, words in (("image", "images as they are"), ("projection", "PCA")):
                name = with_pca(classifier, feature == "projection")
                rows, known = ours[ours["method"] == name], theirs[theirs["method"] == name]
                look = {"color": COLOURS[feature], "marker": MARKERS[feature], "linewidth": 1.6, "capsize": 2}
                ax.errorbar(rows["shots"], rows["value"], whiskers(rows), label=f"measured, {words}", **look)
                look = {"color": PUBLISHED, "marker": "D", "markersize": 4, "linewidth": 0.9}
                look |= {"linestyle": "--", "markerfacecolor": "white"} if feature == "projection" else {}
                ax.plot(known["shots"], known["value"], label=f"published, {words}", **look)
            _shot_axis(ax, measured["shots"])
            ax.set(title=f"{short_name(model)}: {classifier}", ylim=(0, 100))
        row[0].set_ylabel("accuracy (%)")
    handles = dict(sorted(zip(*reversed(axes[0, 0].get_legend_handles_labels()), strict=True)))
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=2, fontsize=9)
    return figure


def _shot_axis(ax: Axes, shots: Sequence[int]) -> None:
    ticks = sorted(set(shots))
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(k) for k in ticks])
    ax.minorticks_off()
    ax.set_xlabel("shots (pictures a class)")


@styled
def shot_gains(
    panels: Mapping[str, pd.DataFrame],
    line: Sequence[str],
    ylabel: str,
    *,
    reported: Mapping[str, pd.DataFrame] = MappingProxyType({}),
    columns: int = 3,
) -> Figure:
    """Gains against shots with paired 95 % intervals, a panel for each table, all on the same scale.

    Args:
        panels: title -> rows of ``tasks.shot_table`` that hold a gain.
        line: the columns whose values tell the lines apart.
        reported: title -> rows of ``tasks.published_pca_gains``, drawn in grey beside the panel's own.
        columns: panels in a row.
    """
    columns = min(columns, len(panels))
    n_rows = -(-len(panels) // columns)
    figure, axes = new_figure(n_rows, columns, 10.5 / columns, 3.3 if n_rows > 1 else 4.2, sharey=True)
    order, handles = {}, {}  # key -> which line it is, label -> what the legend shows
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    for ax, (title, table) in zip(axes.flat, panels.items(), strict=False):
        for key, rows in table.groupby(list(line), sort=False):
            handles |= _gain_line(ax, rows, order.setdefault(key, len(order)), " over ".join(key))
        if title in reported:
            for key, rows in reported[title].groupby("over", sort=False):
                handles |= _gain_line(ax, rows, order.get((key,), 0), f"{key}, published", published=True)
        ax.axhline(0, color="black", linewidth=0.8)
        _shot_axis(ax, table["shots"])
        ax.set_title(fill(title, int(100 / columns)))
    for ax in axes[:, 0]:
        ax.set_ylabel(ylabel)
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=-(-len(handles) // 2), fontsize=9)
    return figure


def _gain_line(ax: Axes, rows: pd.DataFrame, k: int, label: str, *, published: bool = False) -> dict[str, Artist]:
    """The k-th line with its intervals, moved a little aside so that they do not hide each other; label -> line."""
    own = {"color": PUBLISHED, "marker": "D", "markersize": 4, "linewidth": 0.9} if published else {}
    x = rows["shots"] * (1 if published else 1.04 ** (k - 1))
    return {label: ax.errorbar(x, rows["gain"], whiskers(rows, "gain"), capsize=2, **line_look(k, **own))}


@styled
def names_bars(table: pd.DataFrame) -> Figure:
    """Accuracy for each question about the same pictures, a bar for each way to compare them, a panel for each model.

    Args:
        table: rows of ``tasks.gain_table`` with the columns model and asked about. Methods come in this order: images
            as they are, along the question's own names, along other names.
    """
    models, questions = (list(dict.fromkeys(table[column])) for column in ("model", "asked about"))
    methods = list(dict.fromkeys(table["method"]))
    native, projected = COLOURS["image"], COLOURS["projection"]
    looks = ((native, "white", ""), (projected, "white", "xx"), ("white", projected, ".."))  # face, edge, hatch
    figure, axes = new_figure(1, len(models), width=10.5 / max(2, len(models)), height=3.4)
    for k, (method, (face, edge, hatch)) in enumerate(zip(methods, looks, strict=False)):
        for ax, model in zip(axes[0], models, strict=True):
            rows = (
                table[(table["method"] == method) & (table["model"] == model)].set_index("asked about").loc[questions]
            )
            look = {"facecolor": face, "hatch": hatch, "edgecolor": edge, "ecolor": "black", "capsize": 2}
            ax.bar(
                np.arange(len(questions)) + 0.27 * (k - 1),
                rows["value"],
                0.25,
                yerr=whiskers(rows),
                label=method,
                **look,
            )
    for ax, model in zip(axes[0], models, strict=True):
        ax.set_xticks(range(len(questions)), questions)
        ax.set(title=short_name(model), xlabel="what is asked about the same pictures", ylim=(0, 105))
        ax.grid(axis="x", visible=False)
    axes[0, 0].set_ylabel("accuracy (%)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=3, fontsize=9)
    return figure
