"""Histograms of similarities."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.metrics import overlap_coefficient
from crossgap_lib.plots.style import DASHES, new_figure, styled


@styled
def histograms(
    samples: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    *,
    title: str = "",
    ax: Axes | None = None,
    bins: int = 80,
) -> Figure:
    """Normalised histograms of similarity samples on common bins; two samples also get their overlap coefficient."""
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
            label=f"{label} (mean {sample.mean():.2f})",
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
