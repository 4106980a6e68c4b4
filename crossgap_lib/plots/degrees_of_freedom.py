"""How exactly image-image similarities follow from image-text similarities: thresholds, noise, readouts."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, DASHES, PUBLISHED, SERIES, new_figure, styled
from crossgap_lib.tasks.degrees_of_freedom import Anchors, unknowns

_MARKS = "os^DPv"
_NORMS = {"images": ("norms of the images alone (the paper)", 1), "both": ("norms of images and texts", 2)}
_SHOWN = 2000  # points of a scatter


def _look(k: int) -> dict[str, object]:
    """Colour, dash and marker of the k-th line."""
    colour, dash, mark = SERIES[k % len(SERIES)], DASHES[k % len(DASHES)], _MARKS[k % len(_MARKS)]
    return {"color": colour, "linestyle": dash, "marker": mark, "markersize": 5, "linewidth": 1.5}


def _band(ax: Axes, table: pd.DataFrame, x: str, y: str, k: int, label: str) -> None:
    """The median over seeds as a line, their range as a band."""
    seen = table.groupby(x)[y].agg(["median", "min", "max"])
    ax.plot(seen.index, seen["median"], label=label, **_look(k))
    ax.fill_between(seen.index, seen["min"], seen["max"], color=SERIES[k % len(SERIES)], alpha=0.2, linewidth=0)


@styled
def recovery_threshold(table: pd.DataFrame) -> Figure:
    """Error against the number of images, a panel for each d; lines at as many norms as unknowns.

    Args:
        table: of ``threshold_sweep``: d, n, norms, seed, rms.
    """
    sizes = sorted(table["d"].unique())
    figure, axes = new_figure(1, len(sizes), width=5.2, height=3.9)
    for ax, d in zip(axes[0], sizes, strict=True):
        _threshold_panel(ax, table[table["d"] == d], int(d))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def _threshold_panel(ax: Axes, table: pd.DataFrame, d: int) -> None:
    for norms, part in table.groupby("norms"):
        label, share = _NORMS[norms]
        _band(ax, part, "n", "rms", 2 - share, label)
        where = unknowns(d) / share
        ax.axvline(where, color=SERIES[2 - share], linestyle=":", linewidth=1.2)
        ax.annotate(f"{where:.0f} ", (where, 0.5), xycoords=("data", "axes fraction"), ha="right", fontsize=9)
    ax.set(yscale="log", xlabel="images (and texts)", ylabel="error of the similarities (RMS)")
    ax.set_title(f"d = {d}: {unknowns(d)} unknowns")


@styled
def recovery_state(table: pd.DataFrame, n: int, own: np.ndarray, found: np.ndarray) -> Figure:
    """The error's curve for one d with the chosen number of images, and the similarities recovered from so many.

    Args:
        table: of ``threshold_sweep``, a single d.
        own, found: (m,) similarities of image pairs, the images' own and as recovered.
    """
    figure, axes = new_figure(1, 2, width=4.7, height=3.8)
    curve = table[table["norms"] == "images"]
    _threshold_panel(axes[0, 0], curve, int(table["d"].iloc[0]))
    error = curve[curve["n"] == n]["rms"].median()
    axes[0, 0].plot(n, error, "o", color=COLOURS["oti"], markersize=13, fillstyle="none", markeredgewidth=2)
    _scatter(axes[0, 1], own, found)
    axes[0, 1].set_title(f"{n} images")
    return figure


def _scatter(ax: Axes, own: np.ndarray, found: np.ndarray) -> None:
    """Recovered against own similarities, at most 2000 pairs, with the line where both are equal."""
    rows = np.linspace(0, len(own) - 1, min(_SHOWN, len(own))).astype(int)
    ends = [own[rows].min(), own[rows].max()]
    ax.plot(ends, ends, color=PUBLISHED, linewidth=1, linestyle="--", label="equal")
    ax.plot(own[rows], found[rows], ".", color=COLOURS["image"], markersize=4, alpha=0.5, markeredgewidth=0)
    ax.set(xlabel="image-image similarity", ylabel="recovered")
    ax.legend(loc="upper left", fontsize=9)


@styled
def readout_scatters(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], table: pd.DataFrame) -> Figure:
    """Recovered against own similarities for each readout, with the rank correlation and the line between them.

    Args:
        pairs: of ``readout_pairs``.
        table: of ``readout_table``.
    """
    figure, axes = new_figure(1, len(pairs), width=2.9, height=3.2)
    for ax, (name, (own, found)), row in zip(axes[0], pairs.items(), table.itertuples(), strict=True):
        _scatter(ax, own, found)
        ax.set_title(name.replace(", ", ",\n"), fontsize=10)
        words = f"rank corr. {row.spearman:.4f}\nslope {row.slope:.3f}"
        ax.annotate(words, (0.97, 0.04), xycoords="axes fraction", ha="right", fontsize=9)
    for ax in axes[0, 1:]:
        ax.set_ylabel("")
        ax.get_legend().remove()
    return figure


@styled
def anchor_curves(spectra: Mapping[str, Anchors], table: pd.DataFrame, spread: float) -> Figure:
    """Left the singular values of anchor matrices, right the error under noise, with the spread of the similarities:
    an error of that size is what a constant would have.

    Args:
        spectra: name -> anchors.
        table: of ``anchor_sweep``; noise 0 is left out.
        spread: standard deviation of the image-image similarities.
    """
    figure, axes = new_figure(1, 2, width=5.4, height=4.1)
    left, right = axes[0]
    for k, (name, anchors) in enumerate(spectra.items()):
        shown = anchors.singular / anchors.singular[0]
        left.plot(np.arange(1, len(shown) + 1), shown, label=name, **_look(k) | {"markevery": max(1, len(shown) // 8)})
    left.set(yscale="log", xlabel="direction", ylabel="singular value (of the largest)", title="what the anchors see")
    left.legend(fontsize=9)
    order = list(table["anchors"].unique())
    for (count, solver), part in table[table["noise"] > 0].groupby(["anchors", "solver"]):
        look = _look(order.index(count)) | {"linestyle": "--" if solver == "all directions" else "-"}
        right.plot(part["noise"], part["rms"], label=f"{count} anchors, {solver}", **look)
    right.axhline(spread, color=PUBLISHED, linestyle=":", linewidth=1.5, label="spread of the similarities")
    right.set(xscale="log", yscale="log", title="what noise leaves", ylim=(3e-6, 1e3))
    right.set(xlabel="noise on the image-text similarities", ylabel="error of the similarities (RMS)")
    right.legend(fontsize=8, loc="lower right")
    return figure


@styled
def noise_curves(table: pd.DataFrame, spread: float) -> Figure:
    """Error against noise on S for each number of images, medians and ranges over seeds.

    Args:
        table: of ``noise_sweep``.
        spread: standard deviation of the image-image similarities.
    """
    figure, axes = new_figure(width=6.2, height=4.1)
    ax = axes[0, 0]
    for k, (n, part) in enumerate(table.groupby("n")):
        _band(ax, part, "noise", "rms", k, f"{n} images")
    ax.axhline(spread, color=PUBLISHED, linestyle=":", linewidth=1.5, label="spread of the similarities")
    ax.set(xscale="log", yscale="log", xlabel="noise on the image-text similarities")
    ax.set_ylabel("error of the similarities (RMS)")
    ax.legend(fontsize=9)
    return figure


@styled
def readout_noise(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Correlation of recovered with own similarities against noise on the probabilities, a panel for each table.

    Args:
        tables: title -> table of ``readout_noise``; noise 0 is left out.
    """
    figure, axes = new_figure(1, len(tables), width=5.2, height=3.9)
    for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
        for k, ((readout, scale), part) in enumerate(table[table["noise"] > 0].groupby(["readout", "scale"])):
            ax.plot(part["noise"], part["pearson"], label=f"{readout}, scale {scale:g}", **_look(k))
        ax.axhline(0, color=PUBLISHED, linewidth=0.8)
        ax.set(xscale="log", xlabel="noise on the probabilities", title=title, ylim=(-1.05, 1.05))
    axes[0, 0].set_ylabel("Pearson correlation with\nthe image-image similarities")
    axes[0, 0].legend(loc="lower left", fontsize=9)
    return figure


@styled
def direction_curves(table: pd.DataFrame, n: int) -> Figure:
    """Correlation of recovered with own similarities against the directions kept, for each noise; the dotted line is
    the last one that n images suffice for.

    Args:
        table: of ``direction_sweep``.
    """
    figure, axes = new_figure(width=5.8, height=3.9)
    ax = axes[0, 0]
    for k, (noise, part) in enumerate(table.groupby("noise")):
        ax.plot(part["directions"], part["pearson"], label=f"noise {noise:g}" if noise else "no noise", **_look(k))
    most = int((np.sqrt(8 * n + 1) - 1) / 2)
    ax.axvline(most, color=PUBLISHED, linestyle=":", linewidth=1.2)
    ax.annotate(f"{n} images\nend here ", (most, 0.45), xycoords=("data", "axes fraction"), ha="right", fontsize=9)
    ax.set(xlabel="directions of the image-text similarities", ylim=(min(0, table["pearson"].min()), 1.03))
    ax.set_ylabel("Pearson correlation with\nthe image-image similarities")
    ax.legend(loc="lower center", fontsize=9)
    return figure
