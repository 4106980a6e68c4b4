"""What ``crossgap bench`` measured."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from crossgap_lib.plots.style import COLOURS, MARKERS, PUBLISHED, new_figure, styled


@styled
def bench_curves(result: Mapping[str, Any]) -> Figure:
    """Cost of a sample-step against batch size and against context length, all loops, log-log (``crossgap bench``)."""
    panels = [("batches", "batch", "samples at a time")]
    if result["lengths"]:
        panels.append(("lengths", "length", "positions of the full context"))
    figure, axes = new_figure(1, len(panels), width=5.2, height=3.9)
    colour, marker = COLOURS[result["method"]], MARKERS[result["method"]]
    looks = {"textbook": (PUBLISHED, "--", "D"), "engine": (colour, "-", marker), "compiled": (colour, ":", marker)}
    for ax, (part, column, label) in zip(axes[0], panels, strict=True):
        table = pd.DataFrame(result[part])
        for loop, rows in table.sort_values(column).groupby("loop"):
            colour, line, marker = looks[loop]
            ax.plot(rows[column], rows["us_per_sample_step"], line, marker=marker, color=colour, label=loop)
        for row in table[table["loop"] == "engine"].itertuples():
            spot = (getattr(row, column), row.us_per_sample_step)
            ax.annotate(f"{row.ratio:.3g}x", spot, xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds a sample-step")
        ticks = sorted(table[column].unique())
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
        ax.margins(0.12)
        ax.set_ylim(ax.get_ylim()[0] / 1.3, None)
        ax.yaxis.set_major_formatter(_thousands)
        ax.yaxis.set_minor_formatter(_thousands if np.ptp(np.log10(ax.get_ylim())) < 1 else NullFormatter())
    axes[0, 0].legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    figure.suptitle(f"{result['method'].upper()}, {result['arch']}, {result['precision']}: engine and textbook loop")
    return figure


def _thousands(value: float, _: int) -> str:
    return f"{value:,.0f}"
