"""Pure plots: a result goes in, a matplotlib Figure comes out.

One colour and one marker for each modality, in every figure: the colours are Okabe and Ito's, which colour-blind
readers tell apart, and markers, line styles and hatches carry the same distinction in greyscale. Figures have an opaque
white ground, so they read the same in JupyterLab's dark theme.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from sklearn.decomposition import PCA

from crossgap_lib.embeddings import Embeddings
from crossgap_lib.metrics import overlap_coefficient
from crossgap_lib.paths import FIGURES

T = TypeVar("T")

COLOURS = {"image": "#0072B2", "text": "#E69F00", "oti": "#D55E00", "ovi": "#009E73", "projection": "#CC79A7"}
MARKERS = {"image": "o", "text": "^", "oti": "s", "ovi": "D", "projection": "P"}
SAME, DIFFERENT = "#0072B2", "#E69F00"  # same-class and different-class pairs
PUBLISHED = "#444444"  # what a paper reports, always a black-grey diamond or dash
_SERIES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # numbers of pseudo-tokens
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
_RC = {
    **{"figure.facecolor": "white", "savefig.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"},
    **{"legend.frameon": False, "axes.axisbelow": True, "svg.hashsalt": "crossgap", "svg.fonttype": "none"},
}


def _styled(plot: Callable[..., T]) -> Callable[..., T]:
    """The suite's style while a figure is made, without touching the user's own settings."""

    @wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> T:
        with mpl.rc_context(_RC):
            return plot(*args, **kwargs)

    return styled


class _Shown(Figure):
    """A figure outside pyplot (nothing to close, nothing drawn twice) that every notebook front end can show."""

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def _figure(rows: int = 1, columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (rows, columns)."""
    figure = _Shown(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def figure_folder(notebook: str) -> Path:
    """Where the notebook's figures go: figures/NN_name, or below ``CROSSGAP_FIGURES``."""
    folder = Path(os.environ.get("CROSSGAP_FIGURES") or FIGURES) / notebook
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@_styled
def save_figure(figure: Figure, folder: Path, name: str, data: pd.DataFrame | None = None) -> Figure:
    """Writes name.png and name.svg, and the numbers behind them to name.csv; returns the figure for display."""
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    if data is not None:
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return figure


@_styled
def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, for an image widget."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


# ---------------------------------------------------------------- pictures


@_styled
def contact_sheet(pictures: Sequence[Image.Image], titles: Sequence[str] = (), columns: int = 12) -> Figure:
    """Pictures in a grid, each with its title."""
    rows = -(-len(pictures) // columns)
    figure, axes = _figure(rows, columns, width=1.0, height=1.18 if titles else 1.0)
    for ax in axes.flat:
        ax.set_axis_off()
    for k, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture)
        if titles:
            ax.set_title(titles[k], fontsize=8, fontweight="normal", pad=2)
    return figure


@_styled
def neighbour_pairs(table: pd.DataFrame, pictures: Mapping[int, Image.Image], names: Sequence[str]) -> Figure:
    """Query, nearest wrong picture and nearest right one, a column each row of ``tasks.nearest_wrong``."""
    figure, axes = _figure(3, len(table), width=1.55, height=1.75)
    for column, row in zip(axes.T, table.itertuples(), strict=True):
        shown = (
            (row.query, "query"),
            (row.wrong, f"wrong  {row.wrong_score:.3f}"),
            (row.right, f"right  {row.right_score:.3f}"),
        )
        for ax, (k, title) in zip(column, shown, strict=True):
            ax.imshow(pictures[k])
            ax.set_title(f"{names[k]}\n{title}", fontsize=8, fontweight="normal", pad=3)
            ax.set_xticks([])
            ax.set_yticks([])
            edge = DIFFERENT if title.startswith("wrong") else SAME if title.startswith("right") else "black"
            style = "--" if title.startswith("wrong") else "-"
            for spine in ax.spines.values():
                spine.set(visible=True, color=edge, linewidth=2.5, linestyle=style)
    return figure


# ---------------------------------------------------------------- histograms


@_styled
def histograms(
    samples: Mapping[str, np.ndarray],
    colours: Mapping[str, str],
    *,
    title: str = "",
    ax: Axes | None = None,
    bins: int = 80,
) -> Figure:
    """Normalised histograms of similarity samples on common bins; two samples also get their overlap coefficient."""
    figure, axes = (None, None) if ax is not None else _figure(width=6.2, height=3.6)
    ax = axes[0, 0] if ax is None else ax
    values = np.concatenate(list(samples.values())).astype(float)
    edges = np.histogram_bin_edges(values, bins)  # also where all values are equal
    for k, (label, sample) in enumerate(samples.items()):
        heights, _ = np.histogram(sample, edges, density=True)
        style = _DASHES[k % len(_DASHES)]
        ax.stairs(heights, edges, fill=True, alpha=0.22, color=colours[label])
        ax.stairs(
            heights,
            edges,
            color=colours[label],
            linestyle=style,
            linewidth=1.8,
            label=f"{label} (mean {sample.mean():.2f})",
        )
    if len(samples) == 2:
        ax.plot([], [], " ", label=f"overlap {overlap_coefficient(*samples.values()):.2f}")
    ax.set(xlabel="cosine similarity", ylabel="density", title=title)
    top = ax.get_ylim()[1]
    ax.set_ylim(0, top * (1.12 + 0.09 * len(samples)))  # room for the legend above the curves
    ax.legend(fontsize=8.5, loc="upper left")
    return figure if figure is not None else ax.figure


@_styled
def histogram_panels(
    panels: Mapping[str, Mapping[str, np.ndarray]], colours: Mapping[str, str], columns: int = 2
) -> Figure:
    """One ``histograms`` panel for each title."""
    rows = -(-len(panels) // columns)
    figure, axes = _figure(rows, columns, width=5.4, height=3.5)
    for ax, (title, samples) in zip(axes.flat, panels.items(), strict=False):
        histograms(samples, colours, title=title, ax=ax)
    for ax in axes.flat[len(panels) :]:
        ax.set_axis_off()
    return figure


# ---------------------------------------------------------------- dogs vs cats


@_styled
def stage_bars(measures: pd.DataFrame, reference: Mapping[tuple[str, str], float]) -> Figure:
    """mAP and R-Precision of each stage, bars with 95 % intervals; ``reference``: (metric, task) -> paper's value."""
    names = list(dict.fromkeys(measures["metric"]))
    figure, axes = _figure(1, len(names), width=6.0, height=3.8)
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
        errors = np.stack([group["value"] - group["low"], group["high"] - group["value"]])
        errors = np.nan_to_num(errors).clip(0)  # rounding may put a mean a hair outside its interval
        hatch = "///" if kind == part["query class"].iloc[0] else ""
        ax.bar(
            x,
            group["value"],
            width * 0.92,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=f"{task}, {kind} queries",
        )
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


@_styled
def agreement_bars(agreement: pd.DataFrame) -> Figure:
    """How often pairs agree in each factor: nearest wrong neighbours against random wrong pairs."""
    figure, axes = _figure(width=6.4, height=3.4)
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


# ---------------------------------------------------------------- inversion


@_styled
def inversion_curves(
    curve: pd.DataFrame, *, native: float, unit: str, modality: str, log: bool = True, marker_step: int | None = None
) -> Figure:
    """Loss and retrieval mAP against steps, a line for each number of pseudo-tokens (Cross the Gap, Fig. 2a, 2b).

    ``native`` is the intra-modal mAP (percent) that inversion starts from and drifts back to.
    """
    figure, axes = _figure(1, 2, width=5.4, height=3.7)
    for k, (n, part) in enumerate(curve.groupby("n")):
        look = {"color": _SERIES[k % len(_SERIES)], "linestyle": _DASHES[k % len(_DASHES)], "linewidth": 1.8}
        x = part["step"] + (1 if log else 0)
        axes[0, 0].plot(x, part["loss"], **look, label=f"{n} {unit}{'s' if n > 1 else ''}")
        axes[0, 1].plot(x, part["mAP"], **look)
        axes[0, 1].fill_between(x, part["low"], part["high"], color=look["color"], alpha=0.08, linewidth=0)
        best = part.loc[part["mAP"].idxmax()]
        axes[0, 1].plot(best["step"] + (1 if log else 0), best["mAP"], "*", color=look["color"], markersize=11)
    axes[0, 1].axhline(native, color=COLOURS["image" if modality == "oti" else "text"], linewidth=1.4)
    axes[0, 1].annotate(
        f"native {native:.1f}", (0.01, native), xycoords=("axes fraction", "data"), fontsize=8.5, va="bottom",
        color=COLOURS["image" if modality == "oti" else "text"],
    )  # fmt: skip
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


@_styled
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
    figure, axes = _figure(1, 3, width=4.2, height=3.5)
    for ax, column in zip(axes[0], ("loss", "mAP"), strict=False):
        for other, part in curve.groupby("n"):
            chosen = other == n
            look = {"color": COLOURS[modality] if chosen else "#999999", "linewidth": 2.4 if chosen else 1}
            ax.plot(
                part["step"] + 1,
                part[column],
                **look,
                label=f"{other} {unit}{'s' if other > 1 else ''}" if chosen else None,
            )
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
    histograms(samples, colours, title=f"{n} {unit}{'s' if n > 1 else ''}", ax=axes[0, 2])
    return figure


@_styled
def against_compute(
    exact: pd.DataFrame, accelerated: pd.DataFrame, *, native: float, modality: str, published_steps: int
) -> Figure:
    """Loss and mAP of the exact and the accelerated mode against passes a sample, with bands over seeds.

    Both tables: seed, step, loss, mAP. The vertical line marks a fifth of the step at which the exact mode is best.
    """
    figure, axes = _figure(1, 2, width=5.4, height=3.8)
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
    native_colour = COLOURS["image" if modality == "oti" else "text"]
    axes[0, 1].axhline(native, color=native_colour, linewidth=1.4)
    axes[0, 1].annotate(
        f"native {native:.1f}", (0.99, native), xycoords=("axes fraction", "data"), fontsize=8.5, va="bottom",
        ha="right", color=native_colour,
    )  # fmt: skip
    axes[0, 0].set(ylabel="loss, 1 - cos", title=f"{modality.upper()} loss (as published: {published_steps} steps)")
    axes[0, 1].set(ylabel="mAP (%)", title=f"retrieval (dotted: a fifth of step {best})")
    axes[0, 0].legend()
    return figure


# ---------------------------------------------------------------- the modality gap


@_styled
def gap_map(images: Embeddings, texts: Embeddings, *, limit: int = 1000, seed: int = 0) -> Figure:
    """Both modalities on their first two principal components, with centroids and gap vector.

    At most ``limit`` pairs are shown, drawn with ``seed``; the title states how many.
    """
    rows = np.sort(np.random.default_rng(seed).choice(len(images), min(limit, len(images)), replace=False))
    both = np.vstack([images.features.numpy(), texts.features.numpy()])
    pca = PCA(2, random_state=seed).fit(both)
    figure, axes = _figure(width=6.4, height=4.4)
    ax = axes[0, 0]
    centres = {}
    for e, name in ((images, "image"), (texts, "text")):
        points = pca.transform(e.features.numpy()[rows])
        ax.scatter(*points.T, s=9, alpha=0.45, color=COLOURS[name], marker=MARKERS[name], label=name, linewidths=0)
        sns.kdeplot(x=points[:, 0], y=points[:, 1], levels=3, color=COLOURS[name], linewidths=0.8, ax=ax)
        centres[name] = pca.transform(e.features.numpy().mean(0, keepdims=True))[0]
    ax.annotate("", centres["text"], centres["image"], arrowprops={"arrowstyle": "<->", "linewidth": 2})
    ax.plot(*zip(*centres.values(), strict=True), "X", color="black", markersize=9, label="centroids")
    share = 100 * pca.explained_variance_ratio_
    ax.set(xlabel=f"PC 1 ({share[0]:.0f} % of the variance)", ylabel=f"PC 2 ({share[1]:.0f} %)")
    ax.set_title(f"{len(rows)} of {len(images)} pairs")
    ax.legend()
    return figure


@_styled
def gap_dimensions(table: pd.DataFrame, images: Embeddings, texts: Embeddings, top: int = 12) -> Figure:
    """The dimensions with the largest shares of the gap, and both modalities on the first two of them."""
    figure, axes = _figure(1, 2, width=5.4, height=3.8)
    best = table.head(top)
    names = best["dimension"].astype(str)
    axes[0, 0].bar(names, 100 * best["share"], color="#999999", edgecolor="black", linewidth=0.6)
    for x, (share, accuracy) in enumerate(zip(best["share"], best["accuracy"], strict=True)):
        axes[0, 0].annotate(f"{100 * accuracy:.0f}", (x, 100 * share), ha="center", va="bottom", fontsize=8)
    axes[0, 0].set(xlabel="dimension", ylabel="share of the squared gap (%)")
    axes[0, 0].set_title("number above: accuracy (%) of that dimension alone", fontsize=10)
    first, second = best["dimension"].iloc[:2]
    for e, name in ((images, "image"), (texts, "text")):
        f = e.features.numpy()
        axes[0, 1].scatter(
            f[:, first],
            f[:, second],
            s=9,
            alpha=0.45,
            color=COLOURS[name],
            marker=MARKERS[name],
            label=name,
            linewidths=0,
        )
    axes[0, 1].set(xlabel=f"dimension {first}", ylabel=f"dimension {second}", title="the two largest")
    axes[0, 1].legend()
    return figure


@_styled
def gap_ladder(measured: Mapping[str, float], reference: pd.DataFrame) -> Figure:
    """The measured gap among the published ones (Cross the Gap, Table A2), sorted."""
    rows = [(name, value, True) for name, value in measured.items()]
    rows += [(r.model, r.value, False) for r in reference.itertuples()]
    rows.sort(key=lambda row: row[1])
    figure, axes = _figure(width=7.2, height=0.36 * len(rows) + 0.9)
    ax = axes[0, 0]
    for y, (_, value, ours) in enumerate(rows):
        colour = COLOURS["image"] if ours else PUBLISHED
        ax.plot([0, value], [y, y], color=colour, linewidth=2.4 if ours else 1, linestyle="-" if ours else "--")
        ax.plot(value, y, "o" if ours else "D", color=colour, markersize=8 if ours else 5)
        ax.annotate(f"{value:.3g}", (value, y), xytext=(8, -3.5), textcoords="offset points", fontsize=9)
    ax.set_yticks(range(len(rows)), [f"{name}{' (measured)' if ours else ''}" for name, _, ours in rows])
    ax.set(xlabel="modality gap (Eq. 7)", xlim=(0, max(r[1] for r in rows) * 1.15))
    ax.grid(axis="y", visible=False)
    return figure


# ---------------------------------------------------------------- speed


@_styled
def bench_curves(result: Mapping[str, Any]) -> Figure:
    """Cost of a sample-step against batch size and against context length, both loops, log-log (``crossgap bench``)."""
    panels = [("batches", "batch", "samples at a time")]
    if result["lengths"]:
        panels.append(("lengths", "length", "positions of the full context"))
    figure, axes = _figure(1, len(panels), width=5.2, height=3.9)
    looks = {"textbook": (PUBLISHED, "--", "D"), "engine": (COLOURS[result["method"]], "-", MARKERS[result["method"]])}
    for ax, (part, column, label) in zip(axes[0], panels, strict=True):
        table = pd.DataFrame(result[part])
        for loop, (colour, line, marker) in looks.items():
            rows = table[table["loop"] == loop].sort_values(column)
            ax.plot(rows[column], rows["us_per_sample_step"], line, marker=marker, color=colour, label=loop)
        for row in table[table["loop"] == "engine"].itertuples():
            spot = (getattr(row, column), row.us_per_sample_step)
            ax.annotate(f"{row.ratio:.3g}x", spot, xytext=(0, -15), textcoords="offset points", ha="center", fontsize=9)
        ax.set(xscale="log", yscale="log", xlabel=label, ylabel="microseconds a sample-step")
        ticks = sorted(table[column].unique())
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.set_xticks([], minor=True)
        ax.margins(0.12)
    axes[0, 0].set_ylim(axes[0, 0].get_ylim()[0] / 1.6, None)
    axes[0, 0].legend(loc="center right")
    figure.suptitle(f"{result['method'].upper()}, {result['arch']}, {result['precision']}: engine and textbook loop")
    return figure
