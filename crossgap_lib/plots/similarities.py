"""Histograms of similarities, from samples and from counts."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.metrics import overlap_coefficient
from crossgap_lib.plots.style import DASHES, new_figure, short_name, styled, whiskers
from crossgap_lib.tasks.pair_counts import PairCounts, edges


@styled
def histograms(
    samples: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    *,
    title: str = "",
    ax: Axes | None = None,
    bins: int = 80,
) -> Figure:
    """Normalised histograms of similarity samples on common bins; two samples also get their overlap coefficient.

    The legend says of how many pairs each sample is.
    """
    figure, axes = (None, None) if ax is not None else new_figure(width=6.2, height=3.6)
    ax = axes[0, 0] if ax is None else ax
    values = np.concatenate(list(samples.values())).astype(float)
    edges = np.histogram_bin_edges(values, bins)  # also where all values are equal
    for k, (label, sample) in enumerate(samples.items()):
        heights, _ = np.histogram(sample, edges, density=True)
        style = DASHES[k % len(DASHES)]
        ax.stairs(heights, edges, fill=True, alpha=0.22, color=colours[label])
        ax.stairs(
            heights,
            edges,
            color=colours[label],
            linestyle=style,
            linewidth=1.8,
            label=f"{label} ({len(sample):,} pairs, mean {sample.mean():.2f})",
        )
    if len(samples) == 2:
        ax.plot([], [], " ", label=f"overlap {overlap_coefficient(*samples.values()):.2f}")
    ax.set(xlabel="cosine similarity", ylabel="density", title=title)
    top = ax.get_ylim()[1]
    ax.set_ylim(0, top * (1.12 + 0.09 * len(samples)))  # room for the legend above the curves
    ax.legend(fontsize=8.5, loc="upper left")
    return figure if figure is not None else ax.figure


@styled
def histogram_panels(
    panels: Mapping[str, Mapping[str, np.ndarray]], colours: Mapping[str, str], columns: int = 2
) -> Figure:
    """One ``histograms`` panel for each title."""
    rows = -(-len(panels) // columns)
    figure, axes = new_figure(rows, columns, width=5.4, height=3.5)
    for ax, (title, samples) in zip(axes.flat, panels.items(), strict=False):
        histograms(samples, colours, title=title, ax=ax)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    return figure


@styled
def count_histograms(
    rows: Mapping[str, Sequence[Mapping[str, PairCounts]]],
    titles: Sequence[str],
    colours: Mapping[str, str],
    unseen: Sequence[Sequence[Mapping[str, PairCounts]]] = (),
) -> Figure:
    """A row of panels for each model: its counted kinds of pair as densities (Reevaluating, Fig. 5).

    ``rows``: model -> a panel for each of ``titles``; an empty panel stands for what a model does not have.
    ``unseen``: rows that are not drawn but fit on the same axes, as a slider's other positions.
    """
    figure, axes = new_figure(len(rows), len(titles), width=5.4, height=2.2)
    for k, (name, panels) in enumerate(rows.items()):
        for ax, title, kinds in zip(axes[k], titles, panels, strict=True):
            _densities(ax, kinds, colours, legend=k == 0)
            ax.set_title(title if k == 0 else "")
        axes[k, 0].set_ylabel(short_name(name), fontweight="bold")
    for ax in axes.flat:
        ax.set_yticks([])
    for ax in axes[-1]:
        ax.set_xlabel("cosine similarity")
    _share_axes(axes, [*rows.values(), *unseen], bool(unseen))
    return figure


_MERGED = 2  # bins drawn as one: overlaps are counted in finer bins than eyes need
_ROOM = 1.5  # for the legend above the curves


def _density(counted: PairCounts) -> tuple[np.ndarray, np.ndarray]:
    """Heights and edges of the bins drawn."""
    bins = edges(len(counted.total))[::_MERGED]
    heights = np.add.reduceat(counted.total, range(0, len(counted.total), _MERGED))
    return heights / (counted.pairs * np.diff(bins)), bins


def _densities(ax: Axes, kinds: Mapping[str, PairCounts], colours: Mapping[str, str], *, legend: bool) -> None:
    for k, (kind, counted) in enumerate(kinds.items()):
        heights, bins = _density(counted)
        ax.stairs(heights, bins, fill=True, alpha=0.22, color=colours[kind])
        ax.stairs(heights, bins, color=colours[kind], linestyle=DASHES[k % len(DASHES)], linewidth=1.6, label=kind)
    if not kinds:
        ax.text(0.5, 0.5, "no text encoder", ha="center", va="center", transform=ax.transAxes)
        ax.grid(visible=False)
    elif legend:
        ax.set_ylim(0, ax.get_ylim()[1] * _ROOM)
        ax.legend(fontsize=8.5, loc="upper left", ncols=2)


def _share_axes(axes: np.ndarray, rows: Sequence[Sequence[Mapping[str, PairCounts]]], heights: bool) -> None:
    """The same cosines in all panels of a column, no wider than where there are any; with ``heights``, one height."""
    for column in range(axes.shape[1]):
        counted = [c for panels in rows for c in panels[column].values()]
        if not counted:
            continue
        (found,), bins = np.nonzero(sum(c.total for c in counted)), edges(len(counted[0].total))
        for ax in axes[:, column]:
            ax.set_xlim(bins[found[0]], bins[found[-1] + 1])
            if heights:
                ax.set_ylim(0, _ROOM * max(_density(c)[0].max() for c in counted))


@styled
def overlap_bars(table: pd.DataFrame) -> Figure:
    """Overlap coefficients with their intervals, a group of bars for each pair of kinds.

    ``table``: model, kinds, value, low, high.
    """
    groups, models = list(dict.fromkeys(table["kinds"])), list(dict.fromkeys(table["model"]))
    figure, axes = new_figure(1, len(groups), width=4.3, height=1.1 + 0.36 * len(models))
    for ax, kinds in zip(axes[0], groups, strict=True):
        part = table[table["kinds"] == kinds].set_index("model").reindex(models)
        y = np.arange(len(models))
        ax.barh(y, part["value"], color="#bbbbbb", edgecolor="#444444")
        ax.errorbar(part["value"], y, xerr=whiskers(part), **_WHISKER)
        for k, (value, high) in enumerate(zip(part["value"], part["high"], strict=True)):
            text = "no text encoder" if np.isnan(value) else f"{value:.2f}"
            ax.text(0.01 if np.isnan(value) else high + 0.015, k, text, va="center", fontsize=9)
        ax.set(xlim=(0, 1.15), ylim=(len(models) - 0.4, -0.6), xlabel="overlap coefficient")
        ax.set_title(kinds.replace(", ", ",\n"), fontsize=10)
        ax.set_yticks(y, [short_name(m) for m in models] if ax is axes[0, 0] else [""] * len(models))
        ax.grid(visible=False, axis="y")
    return figure


_WHISKER = {"fmt": "none", "ecolor": "#000000", "elinewidth": 1.4, "capsize": 3}
