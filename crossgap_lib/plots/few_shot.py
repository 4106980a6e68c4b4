"""Accuracy against shots, with and without a projection, beside what the papers report."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.isotonic import isotonic_regression

from crossgap_lib.plots.style import PUBLISHED, new_figure, short_name, styled, whiskers

_LOOKS = {
    "Prototype": ("#0072B2", "o"),
    "LDA": ("#D55E00", "s"),
    "Linear probe": ("#009E73", "D"),
    "Zero-shot": ("#000000", ""),
    "Tip-Adapter": ("#56B4E9", "^"),
    "Tip-X": ("#E69F00", "v"),
    "APE": ("#CC79A7", "P"),
    "CODER": ("#009E73", "X"),
}
_OTHER = ("#444444", "*")
_GAP = 0.055  # between labels, as a share of the axis


@styled
def few_shot_curves(
    measured: pd.DataFrame,
    settings: Sequence[str],
    reported: pd.DataFrame | None = None,
    stands_for: Mapping[str, str] | None = None,
) -> Figure:
    """Accuracy against shots: a row for each model, a panel for each setting and one for what is published.

    Args:
        measured: rows of ``tasks.few_shot_table`` with the column model; a model without a setting leaves it empty.
        reported: columns model, classifier, projected, shots, value; without, or where no model has a counterpart,
            there is no such panel.
        stands_for: measured model -> the published one beside it, "" where there is none.
    """
    known = {} if reported is None or not stands_for else stands_for
    models = list(dict.fromkeys(measured["model"]))
    panels = [
        *settings,
        *(["published"] if any(known.get(m) in set(reported["model"]) for m in models if known) else []),
    ]
    figure, axes = new_figure(len(models), len(panels), width=4.9, height=4.1)
    for row, model in zip(axes, models, strict=True):
        ours = measured[measured["model"] == model]
        for ax, kind in zip(row, panels, strict=True):
            name = known.get(model) if kind == "published" else model
            table = reported[reported["model"] == name] if kind == "published" else ours[ours["setting"] == kind]
            title = f"published: {name}" if kind == "published" else f"{short_name(model)}: {kind}"
            _curves(ax, table, title, grey=kind == "published") if len(table) else ax.set_axis_off()
    figure.legend(handles=_styles(), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _styles() -> list[Line2D]:
    native = Line2D([], [], color="#444444", label="images as they are")
    projected = Line2D([], [], color="#444444", linestyle="--", markerfacecolor="white", marker="o", label="PCA")
    interval = Line2D([], [], color="#444444", marker="|", linestyle="", markersize=12, label="typical 95 % interval")
    return [native, projected, interval]


def _curves(ax: Axes, table: pd.DataFrame, title: str, *, grey: bool) -> None:
    shots = sorted(table["shots"].unique())
    ends = {}
    for (classifier, projected), rows in table.sort_values("shots").groupby(["classifier", "projected"], sort=False):
        colour, marker = _LOOKS.get(classifier, _OTHER)
        colour, marker = (PUBLISHED, marker) if grey else (colour, marker)
        face = {"linestyle": "--", "markerfacecolor": "white"} if projected else {}
        face = {"linestyle": ":"} if classifier == "Zero-shot" else face
        ax.plot(rows["shots"], rows["value"], color=colour, marker=marker, markersize=5, linewidth=1.5, **face)
        if not projected or classifier not in ends:
            ends[classifier] = (rows["value"].iloc[-1], colour)
    _axes(ax, shots, title)
    _cut(ax, table)
    if not grey:
        _no_zoom(ax, table)
        _typical_interval(ax, table, shots[0])
    _end_labels(ax, shots[-1], ends)


def _axes(ax: Axes, shots: Sequence[int], title: str) -> None:
    ax.set_xscale("log", base=2)
    ax.set_xticks(shots, [str(k) for k in shots])
    ax.minorticks_off()
    ax.set_xlim(shots[0] / 1.15, shots[-1] * 2.9)  # room for the labels
    ax.set(title=title, xlabel="shots (pictures a class)", ylabel="accuracy (%)")


def _cut(ax: Axes, table: pd.DataFrame) -> None:
    """Leaves LDA without a covariance below the axis, and says where it is."""
    lost = (table["classifier"] == "LDA") & (table["shots"] == 1)
    shown = table["value"][~lost]
    if shown.empty or not (below := table[lost & (table["value"] < shown.min() - 15)])["value"].size:
        return
    low, high = shown.min(), shown.max()
    ax.set_ylim(low - 0.2 * (high - low), high + 0.1 * (high - low))
    place = {"xy": (1, 0), "xytext": (1.04, 0.08), "xycoords": (frame := ax.get_xaxis_transform()), "textcoords": frame}
    arrow = {"arrowstyle": "->", "color": PUBLISHED}
    ax.annotate(f"LDA\n{below['value'].max():.1f}", **place, arrowprops=arrow, fontsize=8, color=PUBLISHED, va="center")


def _no_zoom(ax: Axes, table: pd.DataFrame) -> None:
    """An axis of at least three intervals, so that noise does not look like a difference."""
    low, high = ax.get_ylim()
    lacking = 3 * (table["high"] - table["low"]).median() - (high - low)
    if lacking > 0:
        ax.set_ylim(low - lacking / 2, high + lacking / 2)


def _end_labels(ax: Axes, last: float, ends: Mapping[str, tuple[float, str]]) -> None:
    """Each method's name at the end of its line; names that would overlap are moved apart."""
    names = sorted(ends, key=lambda name: ends[name][0])
    values = np.array([ends[name][0] for name in names])
    low, high = ax.get_ylim()
    ax.set_ylim(low, high)
    for name, value, place in zip(names, values, spaced(values, _GAP * (high - low)), strict=True):
        look = {"color": ends[name][1], "in_layout": False}  # inside the axes: nothing to make room for
        ax.plot([last * 1.04, last * 1.22], [value, place], linewidth=0.6, **look)
        ax.text(last * 1.26, place, name, va="center", fontsize=8.5, **look)


def spaced(places: np.ndarray, gap: float) -> np.ndarray:
    """Ascending places (n,) moved as little as possible (least squares) so that neighbours are ``gap`` apart."""
    steps = gap * np.arange(len(places))
    return isotonic_regression(np.asarray(places, float) - steps) + steps


def _typical_interval(ax: Axes, table: pd.DataFrame, first: float) -> None:
    half = ((table["high"] - table["low"]) / 2).median()
    low, high = ax.get_ylim()
    middle = high - 0.08 * (high - low) - half
    ax.errorbar([first * 1.05], [middle], yerr=half, color=PUBLISHED, capsize=3, linewidth=1.2)


@styled
def pca_gains(measured: pd.DataFrame, reported: pd.DataFrame, stands_for: Mapping[str, str]) -> Figure:
    """What PCA adds to each image-only classifier against shots: measured, with intervals, and published (diamonds).

    Args: as ``few_shot_curves``.
    """
    table = measured[(measured["setting"] == "image only") & measured["projected"]]
    models = list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(1, max(len(models), 1), width=4.9, height=3.8)
    for ax, model in zip(axes[0], models, strict=False):
        theirs = published_gains(reported[reported["model"] == stands_for.get(model, "")])
        _gains(ax, table[table["model"] == model], theirs)
        ax.set_title(short_name(model) + (f" (published: {stands_for[model]})" if len(theirs) else ""))
    axes[0, 0].set_ylabel("gain of PCA (points of accuracy)")
    return figure


def published_gains(reported: pd.DataFrame) -> pd.DataFrame:
    """Columns classifier, shots, gain: the published projected value less the plain one."""
    wide = reported.pivot_table(index=["classifier", "shots"], columns="projected", values="value")
    if True not in wide or False not in wide:
        return pd.DataFrame(columns=["classifier", "shots", "gain"])
    return (wide[True] - wide[False]).dropna().rename("gain").reset_index()


def _gains(ax: Axes, table: pd.DataFrame, theirs: pd.DataFrame) -> None:
    for k, (classifier, rows) in enumerate(table.groupby("classifier", sort=False)):
        colour, marker = _LOOKS.get(classifier, _OTHER)
        x = rows["shots"] * 1.05 ** (k - 1)  # so that intervals do not hide each other
        look = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.5, "capsize": 2}
        ax.errorbar(x, rows["PCA gain"], yerr=whiskers(rows, "PCA gain"), label=classifier, **look)
    for classifier, rows in theirs.groupby("classifier"):
        dash = "--" if classifier == "LDA" else "-"
        look = {"color": PUBLISHED, "marker": "D", "markersize": 4, "linewidth": 0.9, "linestyle": dash}
        ax.plot(rows["shots"], rows["gain"], label=f"{classifier}, published", **look)
    shots = sorted(table["shots"].unique())
    _axes(ax, shots, "")
    ax.set_xlim(shots[0] / 1.2, shots[-1] * 1.2)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_ylabel("")
    handles, labels = ax.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda k: "published" in labels[k])
    ax.legend([handles[k] for k in order], [labels[k] for k in order], fontsize=8.5)
