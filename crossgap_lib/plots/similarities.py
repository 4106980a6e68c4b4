"""Histograms of similarities, from samples and from counts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from PIL import Image

from crossgap_lib.metrics import overlap_coefficient
from crossgap_lib.plots.inversion import step_axis
from crossgap_lib.plots.style import (
    COLOURS,
    DASHES,
    DIFFERENT,
    MATCHING,
    SAME,
    line_look,
    new_figure,
    short_name,
    styled,
    whiskers,
)
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
        said = f"{label} ({len(sample):,} pairs, mean {sample.mean():.2f})"
        _stairs(ax, heights, edges, colours[label], DASHES[k % len(DASHES)], said)
    if len(samples) == 2:
        ax.plot([], [], " ", label=f"overlap {overlap_coefficient(*samples.values()):.2f}")
    ax.set(xlabel="cosine similarity", ylabel="density", title=title)
    top = ax.get_ylim()[1]
    ax.set_ylim(0, top * (1.1 + 0.11 * len(samples)))  # room for the legend above the curves
    ax.legend(fontsize=8.5, loc="upper left")
    return figure if figure is not None else ax.figure


def _stairs(ax: Axes, heights: np.ndarray, bins: np.ndarray, colour: str, dash: Any, label: str | None = None) -> None:
    """A filled and outlined histogram."""
    ax.stairs(heights, bins, fill=True, alpha=0.22, color=colour)
    ax.stairs(heights, bins, color=colour, linestyle=dash, linewidth=1.7, label=label)


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


_LOOKS = {  # colour and dash of each kind of pair
    "same class": (SAME, "-"),
    "different class": (DIFFERENT, "--"),
    "image-image": (COLOURS["image"], "-"),
    "text-text": (COLOURS["text"], "-."),
    "image-text pairs": (MATCHING, "-"),
    "image-text non-pairs": (MATCHING, "--"),
}
_MERGED = 2  # bins drawn as one: overlaps are counted in finer bins than eyes need


@styled
def count_histograms(
    rows: Mapping[str, Sequence[Mapping[str, PairCounts]]],
    titles: Sequence[str],
    overlaps: Mapping[tuple[str, str], float] | None = None,
    unseen: Sequence[Sequence[Mapping[str, PairCounts]]] = (),
) -> Figure:
    """A row of panels for each model: its counted kinds of pair as densities (Reevaluating, Fig. 5).

    ``rows``: model -> a panel for each of ``titles``; an empty panel stands for what a model does not have.
    ``overlaps``: (model, title) -> the overlap coefficient to be written into the panel.
    ``unseen``: rows that are not drawn but fit on the same axes, as a slider's other positions.
    """
    figure, axes = new_figure(len(rows), len(titles), width=min(7, 10.8 / len(titles)), height=max(1.5, 3 / len(rows)))
    for panels, (model, row) in zip(axes, rows.items(), strict=True):
        panels[0].set_ylabel(short_name(model), fontweight="bold")
        for ax, title, kinds in zip(panels, titles, row, strict=True):
            for kind, counted in kinds.items():
                _stairs(ax, *_density(counted), *_LOOKS[kind])
            if not kinds:
                ax.text(0.5, 0.5, "no such pairs", ha="center", va="center", transform=ax.transAxes)
            if overlaps and (model, title) in overlaps:
                ax.set_title(f"overlap {overlaps[model, title]:.2f}", loc="left", y=0.8, x=0.02, fontweight="normal")
            ax.margins(y=0.3)  # room for the words
            ax.set_yticks([])
            ax.grid(visible=bool(kinds))
    for column, title in enumerate(titles):
        axes[0, column].set_title(title)
        axes[-1, column].set_xlabel("cosine similarity")
        _share_cosines(axes[:, column], [c for r in (*rows.values(), *unseen) for c in r[column].values()])
    drawn = {kind: None for panels in rows.values() for kinds in panels for kind in kinds}
    lines = [Line2D([], [], color=_LOOKS[kind][0], linestyle=_LOOKS[kind][1], label=kind) for kind in drawn]
    figure.legend(handles=lines, loc="outside lower left", ncols=3)
    return figure


@styled
def counts_state(
    positions: Sequence[Mapping[str, PairCounts]], title: str
) -> tuple[Figure, Callable[[Mapping[str, PairCounts]], None]]:
    """A panel of ``count_histograms`` with room for all positions of some sliders, and what moves it to one of them."""
    figure = count_histograms({"": positions[:1]}, (title,), unseen=[(kinds,) for kinds in positions])
    (ax,) = figure.axes
    for patch in ax.patches:
        patch.set_animated(True)

    def move(kinds: Mapping[str, PairCounts]) -> None:
        heights = [_density(counted)[0] for counted in kinds.values()]
        for patch, values in zip(ax.patches, np.repeat(heights, 2, axis=0), strict=True):  # filled, and its outline
            patch.set_data(values)
        ax.set_ylim(0, 1.3 * np.max(heights))  # nothing on the ground stands on this axis, so that may stay

    return figure, move


def _density(counted: PairCounts) -> tuple[np.ndarray, np.ndarray]:
    """Heights and edges of the bins drawn."""
    bins = edges(len(counted.total))[::_MERGED]
    heights = np.add.reduceat(counted.total, range(0, len(counted.total), _MERGED))
    return heights / (counted.pairs * np.diff(bins)), bins


def _share_cosines(axes: Sequence[Axes], counted: Sequence[PairCounts]) -> None:
    """The same cosines in all panels, no wider than where there are any."""
    if counted:
        (found,), bins = np.nonzero(sum(c.total for c in counted)), edges(len(counted[0].total))
        for ax in axes:
            ax.set_xlim(bins[found[0]], bins[found[-1] + 1])


@styled
def sibling_slopes(table: pd.DataFrame, objective: str) -> Figure:
    """What adding an objective changes: a panel for each quantity, a line from a model to its sibling.

    ``table``: quantity (the label of the axis), pair, objective ("without" or "with"), value, low, high. A pair that
    lacks a quantity is missing in its panel.
    """
    quantities = list(dict.fromkeys(table["quantity"]))
    looks = {pair: line_look(k, markersize=7, linewidth=2) for k, pair in enumerate(table["pair"].unique())}
    figure, axes = new_figure(1, len(quantities), width=10.8 / len(quantities), height=3.6)
    for ax, quantity in zip(axes[0], quantities, strict=True):
        for pair, line in table[table["quantity"] == quantity].groupby("pair", sort=False):
            ax.errorbar(line["objective"], line["value"], whiskers(line), label=pair, capsize=3, **looks[pair])
        ax.set(ylabel=quantity, xlabel=objective, ylim=(min(0, ax.get_ylim()[0]), None))
        ax.margins(x=0.25)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return figure


@styled
def dial_curves(table: pd.DataFrame, expected: Mapping[float, float]) -> Figure:
    """How much of the overlap at full strength stays at each strength, a line a model.

    ``table``: model, strength, value, low, high in percent; ``expected``: strength -> what would stay, a broad line.
    """
    figure, axes = new_figure(width=8.0, height=4.2)
    ax = axes[0, 0]
    for k, (model, line) in enumerate(table.groupby("model", sort=False)):
        look = line_look(k, markersize=6, label=short_name(model))
        ax.errorbar(line["strength"], line["value"], whiskers(line), capsize=3, **look)
    ax.plot(list(expected), list(expected.values()), color=DIFFERENT, alpha=0.5, linewidth=7, zorder=1, label="content")
    ax.set(xlabel="strength of what varies within a kind", ylabel="overlap that stays (%)", ylim=(0, None))
    ax.legend(loc="lower right")
    return figure


Found = Sequence[tuple[Image.Image, str]]  # the query and then its nearest pictures, each with the name of its class


@styled
def caption_rows(rows: Mapping[str, tuple[Mapping[str, PairCounts], pd.DataFrame, float, Found]]) -> Figure:
    """A row for each model: similarities by class, OTI along its steps, and the nearest pictures of a query.

    Args:
        rows: model -> its counted pairs by class, its rows of ``tasks.step_means``, its native mAP in percent, and
            what a query finds. Pictures of the query's class are framed in full, others dashed.
    """
    figure, axes = new_figure(len(rows), 3, width=3.6, height=2.7 if len(rows) == 1 else 1.9)
    for (left, middle, right), (name, (kinds, curve, native, found)) in zip(axes, rows.items(), strict=True):
        for kind, counted in kinds.items():
            _stairs(left, *_density(counted), *_LOOKS[kind], kind)
        left.set(xlim=(-0.6, 1), xticks=[-0.5, 0, 0.5, 1], yticks=[], ylabel=name)
        middle.axhline(native, color=COLOURS["image"], linestyle="--", label="native features")
        middle.plot(curve["step"], curve["mAP"], color=COLOURS["oti"], label="OTI")
        middle.fill_between(curve["step"], curve["low"], curve["high"], color=COLOURS["oti"], alpha=0.2)
        step_axis(middle, curve["step"].max(), "step")
        middle.set(ylim=(0, 102), ylabel="mAP (%)")
        _strip(right, found)
    for ax, title in zip(axes[0], ("similarities by kind", "OTI along its steps", "query, then nearest"), strict=True):
        ax.set_title(title)
    for ax in axes[:-1, 1]:
        ax.set_xlabel("")
    axes[-1, 0].set_xlabel("cosine similarity")
    handles = {text: h for ax in axes[0] for h, text in zip(*ax.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=len(handles), fontsize=9)
    return figure


def _strip(ax: Axes, found: Found) -> None:
    """Small pictures side by side above the names of their classes, the first of which is the query's."""
    for k, (picture, name) in enumerate(found):
        ax.imshow(picture, extent=(k, k + 0.92, 0, 0.92))
        look = (SAME, "-") if name == found[0][1] else (DIFFERENT, "--")
        ax.add_patch(Rectangle((k, 0), 0.92, 0.92, fill=False, edgecolor=look[0], linestyle=look[1], linewidth=2))
    ax.set(xlim=(-0.05, len(found)), ylim=(-0.05, 1), yticks=[])
    ax.set_xticks(np.arange(len(found)) + 0.46, [name for _, name in found], fontsize=8, rotation=30)
    ax.tick_params(length=0)
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
