"""Methods side by side: a panel for each model, a row for each method."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from crossgap_lib.plots.style import COLOURS, PUBLISHED, SERIES, new_figure, styled

_FAMILIES = {"Original": "image", "OTI": "oti", "OVI": "ovi", "PCA": "projection"}
ORACLE = "best step"  # ends the name of a method whose setting was chosen by the queries that it is scored on


def method_colour(method: str, k: int, *, native: str = "image") -> str:
    """The colour of what the method's features are: texts for OTI, images for OVI; others by their number ``k``.

    ``native``: the modality of the original features.
    """
    family = next((f for name, f in _FAMILIES.items() if re.split("[ ,]", method)[0] == name), None)
    return SERIES[k % len(SERIES)] if family is None else COLOURS[native if family == "image" else family]


@styled
def method_dots(table: pd.DataFrame, label: str, *, columns: int = 3) -> Figure:
    """The mean of each method, a panel for each model or data set, all on one scale; published values as diamonds.

    Vertical lines mark the original features, measured (solid) and published (dotted), so that gains lie to their
    right. Intervals are those of the gain over the original features, so a gain is sure where its interval does not
    reach the line. A method whose setting labels chose on the same queries ("OTI, best step") is a ring around the dot
    of the method before it. The original features are images, but texts in a panel that knows OVI alone.

    Args:
        table: rows of ``tasks.beside_published``, with the titles of their panels in the column panel.
        label: what the values are, with its unit.
        columns: panels side by side.
    """
    panels = dict(list(table.groupby("panel", sort=False)))
    methods = [m for m in dict.fromkeys(table["method"]) if not m.endswith(ORACLE)]
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height = 1.0 + 0.36 * len(methods) + 1.1 / rows  # the last for title, legend and stamp of the figure
    figure, axes = new_figure(rows, columns, width=min(5.0, 10.5 / columns), height=height, sharex=True)
    for k, (ax, (title, part)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
        _dots(ax, part, methods)
        ax.set(title=title, ylim=(0.5 - len(methods), 0.5))
        ax.set_yticks(-np.arange(len(methods)), [""] * len(methods) if k % columns else methods)
        if k + columns >= len(panels):  # the lowest of its column
            ax.tick_params(labelbottom=True)
            ax.set_xlabel(label)
    spare = axes.flat[len(panels) :]
    for ax in spare:
        ax.axis("off")
    if len(spare):
        spare[-1].legend(handles=_legend(table), loc="center", fontsize=9)
    else:
        figure.legend(handles=_legend(table), loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _dots(ax: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> None:
    """One panel: the methods below each other, in their order."""
    inverted = {method[:3] for method in rows["method"]} & {"OTI", "OVI"}
    native = "text" if inverted == {"OVI"} else "image"
    original = rows[rows["method"] == "Original"].iloc[0]
    ax.axvline(original["value"], color=COLOURS[native], linewidth=1, zorder=0)
    ax.axvline(original["published"], color=PUBLISHED, linewidth=1, linestyle=":", zorder=0)
    y = 0
    for row in rows.to_dict("records"):
        oracle = row["method"].endswith(ORACLE)
        y = y if oracle else -methods.index(row["method"])
        colour = method_colour(row["method"], -y, native=native)
        look = {"markersize": 11, "markerfacecolor": "none"} if oracle else {"markersize": 7}
        ax.plot(row["value"], y, "o", color=colour, **look)
        if not oracle:
            ends = [original["value"] + row[f"gain {end}"] for end in ("low", "high")]
            ax.plot(ends, [y, y], "|-", color=colour)
        ax.plot(row["published"], y - 0.28, "D", color="white", markeredgecolor=PUBLISHED, markersize=5.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)


def _legend(table: pd.DataFrame) -> list[Line2D]:
    look = {"linestyle": "none", "color": "black"}
    handles = [Line2D([], [], marker="o", label="measured, with the\n95 % interval of its gain", **look)]
    if table["method"].str.endswith(ORACLE).any():
        ring = {"marker": "o", "markersize": 11, "markerfacecolor": "none"}
        handles.append(Line2D([], [], label="best step of these very queries", **ring, **look))
    if table["published"].notna().any():
        handles.append(Line2D([], [], marker="D", markerfacecolor="white", label="published", **look))
    return handles
