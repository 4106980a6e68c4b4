"""Inversion along its steps, and against compute."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.similarities import histograms
from crossgap_lib.plots.style import COLOURS, DASHES, MARKERS, PUBLISHED, SERIES, counted, new_figure, styled


@styled
def inversion_curves(
    curve: pd.DataFrame, *, native: float, unit: str, modality: str, log: bool = True, marker_step: int | None = None
) -> Figure:
    """Loss and retrieval mAP against steps, a line for each number of pseudo-tokens (Cross the Gap, Fig. 2a, 2b).

    ``native`` is the intra-modal mAP (percent) that inversion starts from and drifts back to.
    """
    figure, axes = new_figure(1, 2, width=5.4, height=3.7)
    for k, (n, part) in enumerate(curve.groupby("n")):
        look = {"color": SERIES[k % len(SERIES)], "linestyle": DASHES[k % len(DASHES)], "linewidth": 1.8}
        x = part["step"] + (1 if log else 0)
        axes[0, 0].plot(x, part["loss"], **look, label=counted(n, unit))
        axes[0, 1].plot(x, part["mAP"], **look)
        axes[0, 1].fill_between(x, part["low"], part["high"], color=look["color"], alpha=0.08, linewidth=0)
        best = part.loc[part["mAP"].idxmax()]
        axes[0, 1].plot(best["step"] + (1 if log else 0), best["mAP"], "*", color=look["color"], markersize=11)
    _native_line(axes[0, 1], native, modality, "right" if modality == "oti" else "left")
    for ax in axes[0]:
        if log:
            ax.set_xscale("log")
        if marker_step is not None:
            ax.axvline(marker_step + (1 if log else 0), color="black", linewidth=1, linestyle=":")
        ax.set_xlabel("optimisation step" + (" + 1" if log else ""))
    axes[0, 0].set(ylabel="loss, 1 - cos", ylim=(0, None), title=f"{modality.upper()} loss")
    axes[0, 1].set(ylabel="mAP (%)", title=f"retrieval with {modality.upper()} queries (star: peak)")
    axes[0, 0].legend()
    return figure


def _native_line(ax: Axes, native: float, modality: str, side: str) -> None:
    """The mAP of what was inverted, in that modality's colour, with its number at the "left" or the "right"."""
    colour = COLOURS["image" if modality == "oti" else "text"]
    ax.axhline(native, color=colour, linewidth=1.4)
    spot = {"xy": (0.99 if side == "right" else 0.01, native), "xycoords": ("axes fraction", "data")}
    ax.annotate(f"native {native:.1f}", fontsize=8.5, va="bottom", ha=side, color=colour, **spot)


@styled
def inversion_state(
    curve: pd.DataFrame,
    n: int,
    step: int,
    inverted: np.ndarray,
    same: np.ndarray,
    cross: np.ndarray,
    *,
    native: float,
    unit: str,
    modality: str,
) -> Figure:
    """One state of an inversion: where it stands on the loss and mAP curves, and its similarities to the gallery.

    ``inverted``, ``same`` and ``cross`` are similarity samples: inverted to native, native to native (intra-modal)
    and the other modality to native (inter-modal).
    """
    figure, axes = new_figure(1, 3, width=4.2, height=3.5)
    for ax, column in zip(axes[0], ("loss", "mAP"), strict=False):
        for other, part in curve.groupby("n"):
            chosen = other == n
            look = {"color": COLOURS[modality] if chosen else "#999999", "linewidth": 2.4 if chosen else 1}
            ax.plot(part["step"] + 1, part[column], label=counted(other, unit) if chosen else None, **look)
        point = curve[(curve["n"] == n) & (curve["step"] == step)].iloc[0]
        ax.plot(step + 1, point[column], MARKERS[modality], color="black", markersize=8)
        ax.set_xscale("log")
        ax.set_xlabel("optimisation step + 1")
    axes[0, 0].set(ylabel="loss, 1 - cos", ylim=(0, None), title=f"step {step}: loss {point['loss']:.3f}")
    axes[0, 0].legend()
    native_name, other_name = ("image", "text") if modality == "oti" else ("text", "image")
    axes[0, 1].axhline(native, color=COLOURS[native_name], linewidth=1.2)
    axes[0, 1].set(ylabel="mAP (%)", title=f"mAP {point['mAP']:.1f} (native {native:.1f})")
    samples = {
        f"{native_name}-{native_name}": same,
        f"{other_name}-{native_name}": cross,
        f"{modality.upper()}-{native_name}": inverted,
    }
    colours = dict(zip(samples, (COLOURS[native_name], COLOURS[other_name], COLOURS[modality]), strict=True))
    histograms(samples, colours, title=counted(n, unit), ax=axes[0, 2])
    return figure


@styled
def against_compute(
    exact: pd.DataFrame, accelerated: pd.DataFrame, *, native: float, modality: str, published_steps: int
) -> Figure:
    """Loss and mAP of the exact and the accelerated mode against passes a sample, with bands over seeds.

    Both tables: seed, step, loss, mAP. The vertical line marks a fifth of the step at which the exact mode is best.
    """
    figure, axes = new_figure(1, 2, width=5.4, height=3.8)
    looks = {"exact": (PUBLISHED, "--"), "accelerated": (COLOURS[modality], "-")}
    best = int(exact.groupby("step")["mAP"].mean().idxmax())
    for ax, column in zip(axes[0], ("loss", "mAP"), strict=True):
        for (name, (colour, line)), table in zip(looks.items(), (exact, accelerated), strict=True):
            by_step = table.groupby("step")[column]
            steps, mean = by_step.mean().index, by_step.mean()
            marker = MARKERS[modality] if name == "accelerated" else ""
            ax.plot(steps, mean, line, marker=marker, markersize=5, color=colour, linewidth=1.8, label=name)
            ax.fill_between(steps, by_step.min(), by_step.max(), color=colour, alpha=0.2, linewidth=0)
        ax.axvline(best / 5, color="black", linewidth=1, linestyle=":")
        ax.set_xscale("symlog", linthresh=1)
        ax.set_xlim(-0.1, None)
        ticks = [t for t in (0, 1, 3, 10, 30, 100, 300, 1000) if t <= exact["step"].max()]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
        ax.set_xlabel("forward and backward passes a sample")
    _native_line(axes[0, 1], native, modality, "left")
    axes[0, 0].set(ylabel="loss, 1 - cos", title=f"{modality.upper()} loss (as published: {published_steps} steps)")
    axes[0, 1].set(ylabel="mAP (%)", title=f"retrieval (dotted: a fifth of step {best})")
    axes[0, 0].legend()
    return figure
