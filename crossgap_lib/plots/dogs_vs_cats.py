"""Dogs vs cats: what the filters change, and what wrong neighbours share."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, DIFFERENT, MARKERS, PUBLISHED, new_figure, styled, whiskers


@styled
def stage_lines(measures: pd.DataFrame, published: Mapping[tuple[str, str], float]) -> Figure:
    """mAP and R-Precision from stage to stage with 95 % intervals, a panel for each of the first two query classes.

    ``measures``: rows of ``tasks.stage_measures``; ``published``: (query class, metric) -> the paper's value after the
    last stage.
    """
    kinds = list(dict.fromkeys(measures["query class"]))[:2]
    figure, axes = new_figure(1, len(kinds), width=5.0, height=4.2)
    for ax, kind in zip(axes[0], kinds, strict=True):
        part = measures[measures["query class"] == kind]
        for (task, metric), line in part.groupby(["task", "metric"], sort=False):
            name, dash = "text" if task == "text-image" else "image", "-" if metric == "mAP" else "--"
            look = {"color": COLOURS[name], "marker": MARKERS[name], "linestyle": dash, "capsize": 3}
            ax.errorbar(line["stage"], line["value"], whiskers(line), label=f"{task}, {metric}", **look)
        for metric in (m for k, m in published if k == kind):
            value, last = published[kind, metric], part["stage"].iloc[-1]
            ax.plot(last, value, "D", color=PUBLISHED)
            ax.annotate(
                f"published {metric} {value:.1f}", (last, value), (-8, -3), textcoords="offset points", ha="right"
            )
        ax.set(title=f"{kind} queries", xlabel="pictures left after each filter", ylabel="percent")
        ax.set_ylim(min(50, part["value"].min() - 5), 101)  # chance finds half of two classes
        ax.margins(x=0.15)
    axes[0, 0].legend(loc="lower left", ncols=2, fontsize=9, columnspacing=1)
    return figure


@styled
def agreement_dots(table: pd.DataFrame) -> Figure:
    """How often the nearest wrong picture agrees with its query in each factor, and how often chance would have it.

    ``table``: rows of ``tasks.gain_table`` with the column factor; the first method is chance.
    """
    factors, (chance, nearest) = list(dict.fromkeys(table["factor"])), dict.fromkeys(table["method"])
    figure, axes = new_figure(width=8.0, height=0.8 + 0.36 * len(factors))
    ax = axes[0, 0]
    for method, colour, marker in ((chance, PUBLISHED, "|"), (nearest, DIFFERENT, "o")):
        part = table[table["method"] == method]
        look = {"color": colour, "marker": marker, "markersize": 13 if marker == "|" else 8, "markeredgewidth": 2}
        ax.errorbar(part["value"], part["factor"], xerr=whiskers(part), linestyle="", label=method, **look)
    wide = table.pivot(index="factor", columns="method", values="value")
    ax.hlines(wide.index, wide[chance], wide[nearest], color=DIFFERENT, linewidth=3, zorder=1)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="pairs that agree in the factor (%)")
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure
