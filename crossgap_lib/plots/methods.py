"""Methods side by side, a line for each model."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, DASHES, PUBLISHED, SERIES, new_figure, short_name, styled, whiskers

_FAMILIES = {"Original": "image", "OTI": "oti", "OVI": "ovi", "PCA": "projection"}
_HATCHES = {
    **{"OTI": "//", "OTI, best step": "..", "PCA": "xx"},
    **{"OVI": "\\\\", "OVI 1 patch": "\\\\", "OVI 2 patches": "..", "OVI 4 patches": "++"},
}
MARKS = ("o", "^", "s", "D", "P", "X", "v", "<", ">", "*")


def method_colour(method: str, k: int, *, native: str = "image") -> str:
    """The colour of what the method's features are: texts for OTI, images for OVI; others by their number ``k``.

    ``native``: the modality of the original features.
    """
    family = next((f for name, f in _FAMILIES.items() if re.split("[ ,]", method)[0] == name), None)
    return SERIES[k % len(SERIES)] if family is None else COLOURS[native if family == "image" else family]


@styled
def slope_chart(
    panels: dict[str, pd.DataFrame], methods: Sequence[str], counterparts: Mapping[str, str] = MappingProxyType({})
) -> Figure:
    """From method to method, a line for each model: mAP with its interval where there is one.

    ``panels``: title -> table with the columns model, method, value and, where measured, low and high. Models without
    some method are drawn where they have one. ``counterparts``: model -> the model of another panel that it stands in
    for; both look the same.
    """
    figure, axes = new_figure(1, len(panels), width=6.0, height=4.4)
    alike = [counterparts.get(model, model) for table in panels.values() for model in table["model"]]
    looks = {name: k for k, name in enumerate(dict.fromkeys(alike))}
    for ax, (title, table) in zip(axes[0], panels.items(), strict=True):
        present = [m for m in methods if m in set(table["method"])]
        for model, rows in table.groupby("model", sort=False):
            k = looks[counterparts.get(model, model)]
            _slope(ax, model, rows.set_index("method").reindex(present), k, len(present))
        ax.set_xticks(range(len(present)), present)
        ax.set(title=title, ylabel="image-image mAP (%)", xlim=(-0.2, len(present) - 0.8))
        ax.margins(y=0.08)
        ax.legend(fontsize=8.5, loc="upper left", bbox_to_anchor=(0, -0.1), ncols=2)
    return figure


def _slope(ax: Axes, model: str, rows: pd.DataFrame, k: int, n: int) -> None:
    x = np.arange(n) + 0.02 * (k % 5 - 2)  # so that intervals do not hide each other
    look = {"color": SERIES[k % len(SERIES)], "marker": MARKS[k % len(MARKS)], "markersize": 7}
    known = rows["value"].notna().to_numpy()
    ax.plot(
        x[known],
        rows["value"][known],
        linestyle=DASHES[k % len(DASHES)],
        linewidth=1.6,
        label=short_name(model),
        **look,
    )
    if "low" in rows:
        ax.errorbar(x, rows["value"], yerr=whiskers(rows), fmt="none", ecolor=look["color"], elinewidth=1.0, capsize=2)


@styled
def paired_bars(table: pd.DataFrame, label: str, *, native: str = "image") -> Figure:
    """A group of bars for each model, a bar for each method, with its interval and what is published.

    ``table``: rows of ``tasks.with_published`` with the column model; ``label``: what the values are; ``native``: the
    modality of the original features, which gives their colour.
    """
    groups = dict(list(table.groupby("model", sort=False)))
    width = 0.8 / max(map(len, groups.values()))
    figure, axes = new_figure(1, 1, width=max(4.6, 1.2 + 0.62 * len(table)), height=3.8)
    ax, seen = axes[0, 0], list(dict.fromkeys(table["method"]))
    for g, rows in enumerate(groups.values()):
        x = g + (np.arange(len(rows)) - (len(rows) - 1) / 2) * width
        colours = [method_colour(m, seen.index(m), native=native) for m in rows["method"]]
        hatches = [_HATCHES.get(m, "") for m in rows["method"]]
        error = whiskers(rows)
        bars = {"color": colours, "hatch": hatches, "edgecolor": "white", "linewidth": 0.8}
        ax.bar(x, rows["value"], 0.92 * width, yerr=error, ecolor="black", capsize=2.5, label=rows["method"], **bars)
        ax.plot(x, rows["published"], "D", color="white", markeredgecolor=PUBLISHED, markersize=6, label="published")
    ax.set_xticks(range(len(groups)), [_wrapped(short_name(name)) for name in groups])
    ax.set(ylabel=label, ylim=(0, 105))
    ax.grid(axis="x", visible=False)
    handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    published = handles.pop("published")
    if table["published"].notna().any():
        handles["published"] = published
    columns = max(2, int(figure.get_figwidth() / 1.5))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, fontsize=9)
    return figure


def _wrapped(name: str) -> str:
    return name.replace(", ", "\n")
