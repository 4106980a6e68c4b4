"""Dogs vs cats: bars for the filtering stages and for what wrong neighbours share."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, DIFFERENT, PUBLISHED, new_figure, styled, whiskers


@styled
def stage_bars(measures: pd.DataFrame, reference: Mapping[tuple[str, str], float]) -> Figure:
    """mAP and R-Precision of each stage, bars with 95 % intervals; ``reference``: (metric, task) -> paper's value."""
    names = list(dict.fromkeys(measures["metric"]))
    figure, axes = new_figure(1, len(names), width=6.0, height=3.8)
    for ax, metric in zip(axes[0], names, strict=True):
        part = measures[measures["metric"] == metric]
        _stage_panel(ax, part, metric, {task: v for (m, task), v in reference.items() if m == metric})
    return figure


def _stage_panel(ax: Axes, part: pd.DataFrame, metric: str, reference: Mapping[str, float]) -> None:
    stages = list(dict.fromkeys(part["stage"]))
    groups = list(part.groupby(["task", "query class"], sort=False))
    width = 0.8 / len(groups)
    for k, ((task, kind), group) in enumerate(groups):
        colour = COLOURS["text" if task == "text-image" else "image"]
        x = np.array([stages.index(s) for s in group["stage"]]) + (k - (len(groups) - 1) / 2) * width
        errors = np.nan_to_num(whiskers(group))  # one query has no interval
        hatch = "///" if kind == part["query class"].iloc[0] else ""
        look = {"color": colour, "hatch": hatch, "edgecolor": "white"}
        ax.bar(x, group["value"], width * 0.92, label=f"{task}, {kind} queries", **look)
        ax.errorbar(x, group["value"], errors, fmt="none", ecolor="black", capsize=2, linewidth=1)
    for task, value in reference.items():
        style = ":" if task == "text-image" else "--"
        ax.axhline(value, color=PUBLISHED, linestyle=style, linewidth=1.3)
        ax.annotate(
            f"paper {value:.1f}",
            (1.0, value),
            xycoords=("axes fraction", "data"),
            fontsize=8,
            va="bottom",
            ha="right",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.5},
        )
    ax.set_xticks(range(len(stages)), stages)
    low = min(part["low"].min(), part["value"].min(), *reference.values())
    ax.set(ylabel=f"{metric} (%)", ylim=(max(0, low - 12), 100 + 0.45 * (112 - max(0, low))), title=metric)
    ax.set_yticks([t for t in ax.get_yticks() if t <= 100])
    ax.legend(fontsize=8, ncols=2, loc="upper left")


@styled
def agreement_bars(agreement: pd.DataFrame) -> Figure:
    """How often pairs agree in each factor: nearest wrong neighbours against random wrong pairs."""
    figure, axes = new_figure(width=6.4, height=3.4)
    ax, x = axes[0, 0], np.arange(len(agreement))
    for shift, column, colour, hatch in (
        (-0.2, "nearest wrong", DIFFERENT, "///"),
        (0.2, "random pair", "#999999", ""),
    ):
        ax.bar(x + shift, 100 * agreement[column], 0.38, color=colour, hatch=hatch, edgecolor="white", label=column)
    ax.set_xticks(x, agreement["factor"])
    ax.set(ylabel="pairs that agree (%)", ylim=(0, 118), title="what a picture shares with a wrong neighbour")
    ax.legend(ncols=2, loc="upper left")
    return figure
