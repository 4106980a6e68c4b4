"""How exactly image-image similarities follow from image-text similarities: pairs, thresholds, noise, probabilities."""

from collections.abc import Callable, Mapping, Sequence
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from crossgap_lib.plots.style import COLOURS, PUBLISHED, SERIES, line_look, new_figure, styled
from crossgap_lib.tasks.degrees_of_freedom import Anchors, unknowns

_NORMS = {"images": ("norms of the images alone (the paper)", 1), "both": ("norms of images and texts", 2)}
_SHOWN = 2000  # points of a scatter
_ERROR = "error of the similarities (RMS)"
_NOISE = "noise on the image-text similarities"


def _band(ax: Axes, table: pd.DataFrame, x: str, y: str, k: int, label: str, **look: object) -> None:
    """The median over seeds as a line, their range as a band."""
    seen, look = table.groupby(x)[y].agg(["median", "min", "max"]), line_look(k, **look)
    ax.plot(seen.index, seen["median"], label=label, **look)
    ax.fill_between(seen.index, seen["min"], seen["max"], color=look["color"], alpha=0.25, linewidth=0)


@styled
def two_images(
    pairs: Mapping[str, np.ndarray],
    texts: Sequence[str],
    curve: pd.DataFrame,
    pictures: Mapping[str, Sequence[Image.Image]],
) -> Figure:
    """Two images and several texts, a panel for each pair; right how much k texts tell (Reevaluating, Fig. 4).

    Args:
        pairs: what a pair is -> (2, k) cosine similarities of its two images to the texts.
        texts: (k,); the first is the one that all images are equally near to.
        curve: a row for each number of anchors and seed: anchors, pearson.
        pictures: what a pair is -> its two pictures, where there are any.
    """
    figure, axes = new_figure(1, len(pairs) + 1, width=3.55, height=5.6)
    for ax in axes[0, 1 : len(pairs)]:
        ax.sharex(axes[0, 0])
    for ax, (words, s) in zip(axes[0], pairs.items(), strict=False):
        _similarities_of_two(ax, s, pictures.get(words, ()))
        ax.set_title(words)
    axes[0, 0].set_yticks(-np.arange(len(texts)), [fill(text, 28) for text in texts], fontsize=8.5)
    right, ticks = axes[0, -1], sorted(curve["anchors"].unique())
    _band(right, curve, "anchors", "pearson", 0, "")
    right.set_xscale("log", base=2)
    right.set_xticks(ticks[::2], ticks[::2])
    right.set(xlabel="known texts", ylim=(min(0, curve["pearson"].min()), 1.03), title="what so many texts tell")
    right.set_ylabel("correlation of recovered with own\nimage-image similarities")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=9)
    return figure


def _similarities_of_two(ax: Axes, s: np.ndarray, pictures: Sequence[Image.Image]) -> None:
    """A line for each text, with the similarities (2, k) of two images to it; the pictures themselves above."""
    y, colour = -np.arange(s.shape[1]), COLOURS["image"]
    ax.axhspan(-0.5, 0.5, color="#eeeeee", zorder=0)
    ax.hlines(y, s.min(axis=0), s.max(axis=0), color=colour, alpha=0.4, linewidth=3)
    ax.plot(s[0], y, "o", color=colour, label="first image")
    ax.plot(s[1], y, "s", color=colour, markerfacecolor="none", markersize=11, label="second image")
    ax.set_yticks(y, [""] * len(y))
    ax.set(xlabel="cosine similarity to the text", ylim=(y[-1] - 0.6, 2.2 if pictures else 0.6))
    for k, picture in enumerate(pictures):
        inset = ax.inset_axes([0.1 + 0.45 * k, 0.77, 0.35, 0.22])
        inset.imshow(picture)
        inset.set_axis_off()


@styled
def recovery_threshold(table: pd.DataFrame) -> Figure:
    """Error against the number of images, a panel for each d; lines at as many norms as unknowns.

    Args:
        table: of ``sweep(without_anchors)``: d, n, norms, seed, rms.
    """
    sizes = sorted(table["d"].unique())
    figure, axes = new_figure(1, len(sizes), width=5.2, height=3.9)
    for ax, d in zip(axes[0], sizes, strict=True):
        _threshold_panel(ax, table[table["d"] == d], int(d))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2)
    return figure


def _threshold_panel(ax: Axes, table: pd.DataFrame, d: int) -> None:
    for norms, part in table.groupby("norms"):
        label, share = _NORMS[norms]
        _band(ax, part, "n", "rms", 2 - share, label)
        where = unknowns(d) / share
        ax.axvline(where, color=SERIES[2 - share], linestyle=":", linewidth=1.2)
        ax.annotate(f"{where:.0f} ", (where, 0.5), xycoords=("data", "axes fraction"), ha="right", fontsize=9)
    ax.set(yscale="log", xlabel="images (and texts)", ylabel=_ERROR)
    ax.set_title(f"d = {d}: {unknowns(d)} unknowns")


@styled
def recovery_state(
    table: pd.DataFrame, states: Mapping[int, tuple[np.ndarray, np.ndarray]]
) -> tuple[Figure, Callable[[int], None]]:
    """The error's curve for one d with the chosen number of images, and the similarities recovered from so many.

    Args:
        table: as for ``recovery_threshold``, a single d.
        states: number of images -> (own, recovered) similarities of image pairs, (m,) each.

    Returns:
        The figure, and a function that moves it to another number of images; what it moves is marked ``animated``.
    """
    figure, axes = new_figure(1, 2, width=4.7, height=3.8)
    left, right = axes[0]
    _threshold_panel(left, table, int(table["d"].iloc[0]))
    look = {"color": "black", "markersize": 13, "fillstyle": "none", "markeredgewidth": 2, "animated": True}
    (mark,) = left.plot([], [], "o", **look)
    errors, end = table.groupby("n")["rms"].median(), max(np.abs(own).max() for own, _ in states.values())
    right.plot([-end, end], [-end, end], color=PUBLISHED, linewidth=1, linestyle="--", label="equal")
    look = {"color": COLOURS["image"], "markersize": 4, "alpha": 0.5, "markeredgewidth": 0, "animated": True}
    (dots,) = right.plot([], [], ".", **look)
    right.set(xlabel="image-image similarity", ylabel="recovered", xlim=(-end, end), ylim=(-1.3 * end, 1.3 * end))
    right.legend(loc="upper left", fontsize=9)

    def move(n: int) -> None:
        own, found = states[n]
        rows = np.linspace(0, len(own) - 1, min(_SHOWN, len(own))).astype(int)
        mark.set_data([n], [errors[n]])
        dots.set_data(own[rows], found[rows])

    return figure, move


@styled
def anchor_curves(spectra: Mapping[str, Anchors], table: pd.DataFrame, spread: float) -> Figure:
    """Left the singular values of anchor matrices, right the error under noise, with the spread of the similarities:
    an error of that size is what a constant would have.

    Args:
        spectra: name -> anchors.
        table: of ``sweep(with_anchors)``: anchors, noise, drop, seed, rms.
        spread: standard deviation of the image-image similarities.
    """
    figure, axes = new_figure(1, 2, width=5.2, height=4.3)
    left, right = axes[0]
    for k, (name, anchors) in enumerate(spectra.items()):
        shown = anchors.singular / anchors.singular[0]
        look = line_look(k, markevery=max(1, len(shown) // 8))
        left.plot(np.arange(1, len(shown) + 1), shown, label=name, **look)
    left.set(yscale="log", xlabel="direction", ylabel="singular value (of the largest)", title="what the anchors see")
    left.legend(fontsize=9)
    order = list(table["anchors"].unique())
    for (count, drop), part in table.groupby(["anchors", "drop"]):
        words, dash = ("directions above the noise", "-") if drop else ("all directions", "--")
        _band(right, part, "noise", "rms", order.index(count), f"{count} anchors, {words}", linestyle=dash)
    _error_under_noise(right, spread)
    right.set(title="what noise leaves", ylim=(1e-8, 1e3))
    right.legend(fontsize=8.5, loc="lower right")
    return figure


def _error_under_noise(ax: Axes, spread: float) -> None:
    ax.axhline(spread, color=PUBLISHED, linestyle=":", linewidth=1.5, label="spread of the similarities")
    ax.set(xscale="log", yscale="log", xlabel=_NOISE, ylabel=_ERROR)


@styled
def noise_curves(table: pd.DataFrame, spread: float) -> Figure:
    """Error against noise on S for each number of images, medians and ranges over seeds.

    Args:
        table: of ``sweep(without_anchors)``: n, noise, seed, rms.
        spread: standard deviation of the image-image similarities.
    """
    figure, axes = new_figure(width=6.2, height=4.1)
    for k, (n, part) in enumerate(table.groupby("n")):
        _band(axes[0, 0], part, "noise", "rms", k, f"{n} images")
    _error_under_noise(axes[0, 0], spread)
    axes[0, 0].legend(fontsize=9)
    return figure


@styled
def readout_noise(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Correlation of recovered with own similarities against noise on the probabilities, a panel for each table.

    Args:
        tables: title -> table of ``sweep(noisy_readout)``: name, scale, noise, seed, pearson.
    """
    figure, axes = new_figure(1, len(tables), width=5.2, height=3.9)
    low = min(0.0, *(table["pearson"].min() for table in tables.values())) - 0.05
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        for k, ((name, scale), part) in enumerate(table.groupby(["name", "scale"])):
            _band(ax, part, "noise", "pearson", k, f"{name}, scale {scale:g}")
        ax.axhline(0, color=PUBLISHED, linewidth=0.8)
        ax.set(xscale="log", xlabel="noise on the probabilities", title=title, ylim=(low, 1.05))
    axes[0, 0].set_ylabel("correlation of recovered with own\nimage-image similarities")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=9)
    return figure
