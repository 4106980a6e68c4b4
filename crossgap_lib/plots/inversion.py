"""Inversion along its steps, and against compute."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, DASHES, MARKERS, PUBLISHED, new_figure, plural, shades, styled


@styled
def inversion_curves(
    curve: pd.DataFrame, *, native: float, unit: str, modality: str, marked: Mapping[str, int] | None = None
) -> Figure:
    """Loss and retrieval mAP against steps, a line for each number of pseudo-tokens (Cross the Gap, Fig. 2a, 2b).

    Args:
        curve: rows of ``tasks.step_means``; its column n may hold any other setting, such as learning rates.
        native: the intra-modal mAP (percent) of what was inverted.
        unit: what n counts: "pseudo-token", "pseudo-patch" or "learning rate".
        marked: what happens at a step -> that step, shown by dotted lines.
    """
    figure, axes = new_figure(1, 2, width=5.2, height=3.9)
    for n, part, look in _settings(curve, modality):
        axes[0, 0].plot(part["step"], part["loss"], **look, label=f"{n:g}")
        axes[0, 1].plot(part["step"], part["mAP"], **look)
        axes[0, 1].fill_between(part["step"], part["low"], part["high"], color=look["color"], alpha=0.1, linewidth=0)
        best = part.loc[part["mAP"].idxmax()]
        hollow = {"color": look["color"], "markerfacecolor": "white", "markersize": 11, "clip_on": False}
        axes[0, 1].plot(best["step"], best["mAP"], "*", **hollow)
    native_line(axes[0, 1], native, modality)
    for ax in axes[0]:
        step_axis(ax, curve["step"].max())
        for words, step in (marked or {}).items():
            ax.axvline(step, color=PUBLISHED, linewidth=1.2, linestyle=":")
            if ax is axes[0, 0]:
                spot = {"xycoords": ("data", "axes fraction"), "ha": "right", "va": "bottom", "rotation": 90}
                ax.annotate(words, (step, 0.02), fontsize=8.5, color=PUBLISHED, **spot)
    axes[0, 0].set(ylabel="loss, 1 - cos", ylim=(0, None), title="distance to the native feature")
    axes[0, 1].set(ylabel="mAP (%)", title=f"retrieval with {modality.upper()} queries")
    axes[0, 0].legend(title=plural(unit), loc="lower left")
    return figure


def _settings(curve: pd.DataFrame, modality: str) -> Iterator[tuple[float, pd.DataFrame, dict]]:
    """Each n with its rows in the order of the steps and the look of its line: a shade of the method's colour."""
    groups = curve.sort_values("step").groupby("n")
    for k, (shade, (n, part)) in enumerate(zip(shades(COLOURS[modality], len(groups)), groups, strict=True)):
        yield n, part, {"color": shade, "linestyle": DASHES[k % len(DASHES)], "linewidth": 1.8}


def step_axis(ax: Axes, last: int, label: str = "optimisation steps") -> None:
    """Steps from 0, where nothing is optimised yet, and logarithmic from 1 on, with plain numbers at the ticks."""
    ax.set_xscale("symlog", linthresh=1)
    ax.set_xlim(-0.1, None)
    ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000, 3000) if t <= last]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(f"{label} (logarithmic)")


def native_line(ax: Axes, native: float, modality: str) -> None:
    """The mAP of what was inverted, in that modality's colour, with its number at the left end."""
    colour = COLOURS["image" if modality == "oti" else "text"]
    ax.axhline(native, color=colour, linewidth=1.4)
    spot = {"xycoords": ("axes fraction", "data"), "va": "bottom", "ha": "left"}
    ax.annotate(f"native {native:.1f}", (0.01, native), fontsize=8.5, color=colour, **spot)


@styled
def inversion_state(
    curve: pd.DataFrame,
    inverted: Mapping[tuple[int, int], np.ndarray],
    same: np.ndarray,
    cross: np.ndarray,
    *,
    native: float,
    unit: str,
    modality: str,
) -> tuple[Figure, Callable[[int, int], None]]:
    """The loss and mAP curves with one chosen point, and the similarities of the inverted features to the gallery.

    Args:
        inverted: (n, step) -> (b,) densities of the similarities of inverted features to native ones, in b equal bins
            from -1 to 1.
        same, cross: (b,) densities of native to native (intra-modal) and of the other modality to native (inter-modal).

    Returns:
        The figure, and a function that moves it to another n and step. What it moves is marked ``animated``, so that
        the rest need not be drawn again.
    """
    figure, axes = new_figure(1, 3, width=3.9, height=3.3)
    curves = dict(zip(("loss", "mAP"), axes[0, :2], strict=True))
    for n, part, look in _settings(curve, modality):
        for column, ax in curves.items():
            ax.plot(part["step"], part[column], **look | {"linewidth": 1}, label=f"{n:g}")
    chosen = {"color": "black", "linewidth": 2.4, "animated": True}
    lines = {column: ax.plot([], [], **chosen)[0] for column, ax in curves.items()}
    mark = {
        "marker": MARKERS[modality],
        "color": COLOURS[modality],
        "markeredgecolor": "black",
        "markersize": 9,
        "clip_on": False,
    }
    points = {column: ax.plot([], [], **mark, animated=True)[0] for column, ax in curves.items()}
    move_histogram = _similarities(axes[0, 2], inverted, same, cross, modality)

    def move(n: int, step: int) -> None:
        part = curve[curve["n"] == n].sort_values("step")
        at = part[part["step"] == step]
        for column in curves:
            lines[column].set_data(part["step"], part[column])
            points[column].set_data(at["step"], at[column])
        move_histogram(inverted[n, step])

    for ax in curves.values():
        step_axis(ax, curve["step"].max(), "steps")
    native_line(curves["mAP"], native, modality)
    curves["mAP"].set(ylabel="mAP (%)")
    curves["loss"].set(ylabel="loss, 1 - cos", ylim=(0, None))
    curves["loss"].legend(title=plural(unit), fontsize=8.5, title_fontsize=8.5)
    return figure, move


def _similarities(
    ax: Axes, inverted: Mapping, same: np.ndarray, cross: np.ndarray, modality: str
) -> Callable[[np.ndarray], None]:
    """Histograms on axes for every state; returns what gives the inverted features' one other densities.

    Those of the first steps may be cut at the top: all prompts are nearly the same there, and so are their cosines.
    """
    native, other = ("image", "text") if modality == "oti" else ("text", "image")
    edges = np.linspace(-1, 1, len(same) + 1)
    for name, densities, dash in ((native, same, "-"), (other, cross, "--")):
        ax.stairs(densities, edges, color=COLOURS[name], linestyle=dash, linewidth=1.8, label=f"{name}-{native}")
    look = {"facecolor": to_rgba(COLOURS[modality], 0.35), "edgecolor": COLOURS[modality], "linewidth": 1.8}
    patch = ax.stairs(0 * same, edges, fill=True, animated=True, label=f"{modality.upper()}-{native}", **look)
    (seen,) = np.sum([same, cross, *inverted.values()], axis=0).nonzero()
    top = max(same.max(), cross.max(), np.median([densities.max() for densities in inverted.values()]))
    ax.set(xlim=(edges[seen[0]], edges[seen[-1] + 1]), ylim=(0, 1.5 * top))  # room for the legend
    ax.set(xlabel="cosine similarity", ylabel="density")
    ax.legend(fontsize=8.5, loc="upper left")
    return patch.set_data


@styled
def against_compute(
    exact: pd.DataFrame, accelerated: pd.DataFrame, *, native: float, modality: str, marked: float
) -> Figure:
    """Loss and mAP of the exact and the accelerated mode against passes a sample, mAP with its interval as a band.

    Args:
        exact, accelerated: rows of ``tasks.step_means``.
        native: the mAP (percent) of what was inverted.
        marked: a fifth of the steps that the exact mode takes, shown by a dotted line.
    """
    figure, axes = new_figure(1, 2, width=5.2, height=3.8)
    looks = {"exact": (PUBLISHED, "--", ""), "accelerated": (COLOURS[modality], "-", MARKERS[modality])}
    for (name, (colour, line, marker)), table in zip(looks.items(), (exact, accelerated), strict=True):
        for ax, column in zip(axes[0], ("loss", "mAP"), strict=True):
            look = {"linestyle": line, "marker": marker, "markersize": 5, "color": colour, "linewidth": 1.8}
            ax.plot(table["step"], table[column], label=name, **look)
        axes[0, 1].fill_between(table["step"], table["low"], table["high"], color=colour, alpha=0.15, linewidth=0)
    for ax in axes[0]:
        ax.axvline(marked, color="black", linewidth=1, linestyle=":", label="a fifth of the exact steps")
        step_axis(ax, exact["step"].max(), "forward and backward passes a sample")
    native_line(axes[0, 1], native, modality)
    axes[0, 0].set(ylabel="loss, 1 - cos", title="distance to the native feature")
    axes[0, 1].set(ylabel="mAP (%)", title=f"retrieval with {modality.upper()} queries")
    axes[0, 0].legend(loc="lower left")
    return figure
