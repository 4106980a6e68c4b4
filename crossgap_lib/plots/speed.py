"""What ``crossgap bench`` measured."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, MARKERS, PUBLISHED, new_figure, styled


@styled
def bench_curves(result: Mapping[str, Any]) -> Figure:
    """Cost of a sample-step against batch size and against context length, both loops, log-log (``crossgap bench``)."""
    panels = [("batches", "batch", "samples at a time")]
    if result["lengths"]:
        panels.append(("lengths", "length", "positions of the full context"))
    figure, axes = new_figure(1, len(panels), width=5.2, height=3.9)
    looks = {"textbook": (PUBLISHED, "--", "D"), "engine": (COLOURS[result["method"]], "-", MARKERS[result["method"]])}
    for ax, (part, column, label) in zip(axes[0], panels, strict=True):
        table = pd.DataFrame(result[part])
        for loop, (colour, line, marker) in looks.items():
            rows = table[table["loop"] == loop].sort_values(column)
            ax.plot(rows[column], rows["us_per_sample_step"], line, marker=marker, color=colour, label=loop)
        for row in table[table["loop"] == "engine"].itertuples():
            spot = (getattr(row, column), row.us_per_sample_step)
            ax.annotate(f"{row.ratio:.3g}x", spot, xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds a sample-step")
        ticks = sorted(table[column].unique())
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
        ax.margins(0.12)
    axes[0, 0].set_ylim(axes[0, 0].get_ylim()[0] / 1.6, None)
    axes[0, 0].legend(loc="center right")
    figure.suptitle(f"{result['method'].upper()}, {result['arch']}, {result['precision']}: engine and textbook loop")
    return figure
