"""Flat maps: all sets in one space, OTI on its way between the cones, and what a projection does to the cosines."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure

from crossgap_lib.plots.similarities import histograms
from crossgap_lib.plots.style import COLOURS, DASHES, MARKERS, counted, new_figure, shades, styled
from crossgap_lib.tasks.maps import FlatMap

# set -> modality, whose colour and marker it has, name in the legend, marker size
SETS = {
    "image": ("image", "image", 14),
    "text": ("text", "caption", 20),
    "projection": ("projection", "projected image", 22),
    "ovi": ("ovi", "OVI", 24),
    "oti": ("oti", "OTI", 24),
    "prompt": ("text", "class prompt", 48),
}


@styled
def map_grid(columns: Mapping[str, Mapping[str, FlatMap]]) -> Figure:
    """A column for each title, a row for each method, the trustworthiness under each map (Reevaluating, Fig. 7).

    The sets of the maps are named as in ``SETS``.
    """
    methods = list(next(iter(columns.values())))
    figure, axes = new_figure(len(methods), len(columns), width=5.4, height=3.9)
    for column, (name, maps) in zip(axes.T, columns.items(), strict=True):
        for ax, method in zip(column, methods, strict=True):
            _sets(ax, maps[method].points)
            _frame(ax, maps[method])
            ax.set_title(f"{method}, {name}" if name else method)
    _outer_legend(figure, axes[0, :1])
    return figure


@styled
def walk_panels(
    maps: Mapping[str, FlatMap], walks: Mapping[str, Mapping[int, np.ndarray]], steps: Sequence[int]
) -> Figure:
    """OTI on fixed maps of images and texts after some steps: a row for each map, a column for each step.

    ``walks``: method -> step -> (n, 2) places of the OTI features on that map.
    """
    figure, axes = new_figure(len(maps), len(steps), width=3.5, height=3.2, sharex="row", sharey="row")
    for row, (method, flat) in zip(axes, maps.items(), strict=True):
        for ax, step in zip(row, steps, strict=True):
            _walkers(ax, flat, walks[method][step])
            ax.set_title(f"{method}, step {step}")
            if ax is not row[0]:
                ax.set(xlabel=flat.axes[0], ylabel="")
    _outer_legend(figure, axes[0, :1])
    return figure


@styled
def cone_curves(table: pd.DataFrame, places: pd.DataFrame) -> Figure:
    """Mean cosines to the axes of both cones, and the share nearer to the image axis, along the steps.

    ``table``: as ``tasks.along_cones`` gives it; ``places``: rows "images" and "texts" of ``tasks.cone_places``.
    """
    figure, axes = new_figure(1, 3, width=4.4, height=3.7)
    tones = shades(COLOURS["oti"], table["n"].nunique())
    for (n, part), tone, dash in zip(table.groupby("n"), tones, DASHES, strict=False):
        _cone_lines(axes[0], part, counted(n, "pseudo-token"), color=tone, linestyle=dash)
    _cone_axes(axes[0], places)
    axes[0, 2].legend(fontsize=9)
    return figure


@styled
def walk_state(
    maps: Mapping[str, FlatMap],
    walks: Mapping[int, Mapping[str, Mapping[int, np.ndarray]]],
    table: pd.DataFrame,
    places: pd.DataFrame,
    title: str = "",
) -> tuple[Figure, Callable[[int, int], None]]:
    """OTI on each map, and its mean cosines to both axes, for one number of pseudo-tokens and one step.

    Returns the figure, and a function that moves it to another n and step; what it moves is marked ``animated``.
    """
    figure, axes = new_figure(1, len(maps) + 1, width=4.0, height=3.9)
    first = next(iter(walks.values()))
    moving = {}
    for ax, (method, flat) in zip(axes[0], maps.items(), strict=False):
        moving[method] = _walkers(ax, flat, next(iter(first[method].values())))
        moving[method].set_animated(True)
        ax.update_datalim(np.concatenate([at for walk in walks.values() for at in walk[method].values()]))
        ax.autoscale_view()  # wide enough for all of them, so that it stays as the points move
        ax.set_title(method)
    draw_curves = _state_curves(axes[0, -1], table, places)
    _outer_legend(figure, axes[0, [0, -1]], title)

    def move(n: int, step: int) -> None:
        for method, points in moving.items():
            points.set_offsets(walks[n][method][step])
        draw_curves(table[table["n"] == n], step)

    return figure, move


@styled
def projected_histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]], colours: Mapping[str, str], notes: Sequence[str]
) -> Figure:
    """Cosines of each variant of the images on one axis, with a note (the mAP) under each (Reevaluating, Fig. 8)."""
    figure, axes = new_figure(1, len(panels), width=4.4, height=3.9, sharex=True)
    for ax, (name, samples), note in zip(axes[0], panels.items(), notes, strict=True):
        histograms(samples, colours, title=name, ax=ax)
        ax.set_xlabel(f"cosine similarity\n{note}")
    return figure


# ---------------------------------------------------------------- parts of them


def _sets(ax: Axes, points: Mapping[str, np.ndarray], alpha: float = 0.6) -> None:
    for name in SETS:  # in drawing order
        if name in points:
            modality, label, size = SETS[name]
            edge = {"edgecolors": "black", "linewidths": 0.9} if name == "prompt" else {"linewidths": 0, "alpha": alpha}
            look = {"color": COLOURS[modality], "marker": MARKERS[modality], "s": size, **edge}
            ax.scatter(*points[name].T, label=f"{label} ({len(points[name])})", **look)


def _walkers(ax: Axes, flat: FlatMap, places: np.ndarray) -> PathCollection:
    """The map in pale colours, OTI in full on top of it; the points of OTI are returned."""
    _sets(ax, flat.points, alpha=0.25)
    look = {"color": COLOURS["oti"], "marker": MARKERS["oti"], "s": 20, "edgecolors": "white", "linewidths": 0.4}
    points = ax.scatter(*places.T, label=f"OTI ({len(places)})", **look)
    _frame(ax, flat)
    return points


def _frame(ax: Axes, flat: FlatMap) -> None:
    """Names of the directions; the units of a map mean nothing."""
    ax.set(xticks=[], yticks=[], ylabel=flat.axes[1])
    trust = f"trustworthiness {flat.trustworthiness:.3f} ({flat.n_neighbors} neighbours, cosine)"
    ax.set_xlabel(f"{flat.axes[0]}\n{trust}")


def _outer_legend(figure: Figure, axes: Sequence[Axes], title: str = "") -> None:
    """One row above all panels, in full colours also where the points are pale."""
    handles = [handle for ax in axes for handle in ax.get_legend_handles_labels()[0]]
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=6, markerscale=1.5, title=title or None)
    for handle in legend.legend_handles:
        handle.set_alpha(1)


def _state_curves(ax: Axes, table: pd.DataFrame, places: pd.DataFrame) -> Callable[[pd.DataFrame, int], None]:
    """Axes for the mean cosines along the steps, with each modality's own; returns what draws the rows of one n."""
    own, moving = places.set_index("set"), {}
    for modality in ("image", "text"):
        column, colour = f"to {modality}s", COLOURS[modality]
        look = {"color": colour, "marker": MARKERS[modality], "markersize": 4, "markevery": 2, "animated": True}
        (line,) = ax.plot([], [], label=f"OTI to the {modality} axis", **look)
        (point,) = ax.plot([], [], MARKERS["oti"], color=COLOURS["oti"], markersize=8, animated=True)
        moving[column] = line, point
        level = own.loc[f"{modality}s", column]
        ax.axhline(level, color=colour, linewidth=1.2, linestyle="--")
        spot = {"xycoords": ("axes fraction", "data"), "va": "center", "ha": "right", "fontsize": 8.5}
        spot["bbox"] = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        ax.annotate(f"{modality}s to their own axis {level:.2f}", (0.98, level), color=colour, **spot)
    ax.set(xlabel="optimisation step + 1", ylabel="mean cosine", ylim=(0, 1.05), title="mean cosines")
    ax.set(xscale="log", xlim=(0.9, 1.1 * (table["step"].max() + 1)))

    def draw(part: pd.DataFrame, step: int) -> None:
        at = part[part["step"] == step]
        for column, (line, point) in moving.items():
            line.set_data(part["step"] + 1, part[column])
            point.set_data(at["step"] + 1, at[column])

    return draw


def _cone_lines(axes: Sequence[Axes], part: pd.DataFrame, label: str, **look: object) -> None:
    for ax, column in zip(axes, ("to images", "to texts", "nearer images"), strict=True):
        scale = 100 if column == "nearer images" else 1
        ax.plot(part["step"] + 1, scale * part[column], linewidth=1.8, label=label, **look)


def _cone_axes(axes: Sequence[Axes], places: pd.DataFrame) -> None:
    own = places.set_index("set")
    for ax, column, title in zip(axes, ("to images", "to texts"), ("image", "text"), strict=False):
        for name, modality, line in (("images", "image", "-"), ("texts", "text", "--")):
            value = own.loc[name, column]
            ax.axhline(value, color=COLOURS[modality], linewidth=1.4, linestyle=line)
            spot = {"xy": (0.99, value), "xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom"}
            ax.annotate(f"native {name} {value:.2f}", color=COLOURS[modality], fontsize=8.5, **spot)
        ax.set(ylabel="mean cosine", title=f"to the {title} axis")
    axes[2].set(ylabel="OTI points (%)", ylim=(-3, 103), title="nearer to the image axis")
    for ax in axes:
        ax.set(xscale="log", xlabel="optimisation step + 1")
