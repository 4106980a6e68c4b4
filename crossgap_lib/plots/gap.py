"""The modality gap: a map, its dimensions, its place among published ones."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.plots.style import COLOURS, MARKERS, PUBLISHED, SERIES, new_figure, styled
from crossgap_lib.tasks.pairs import MOST_COMPARED

_SHOWN = 1200  # points of a modality


@styled
def gap_map(images: Embeddings, texts: Embeddings, *, limit: int = _SHOWN, seed: int = 0) -> Figure:
    """Both modalities on their first two principal components, with centroids and gap vector.

    At most ``limit`` pairs are shown, drawn with ``seed``; the title states how many. The components are those of at
    most MOST_COMPARED pairs.
    """
    rows, some = (np.sort(drawn_rows(images.ids, n, seed)) for n in (limit, MOST_COMPARED))
    both = np.vstack([images.features.numpy()[some], texts.features.numpy()[some]])
    pca = PCA(2, random_state=seed).fit(both)
    figure, axes = new_figure(width=6.4, height=4.4)
    ax = axes[0, 0]
    centres = {}
    for e, name in ((images, "image"), (texts, "text")):
        points = pca.transform(e.features.numpy()[rows])
        _cloud(ax, points, name)
        sns.kdeplot(x=points[:, 0], y=points[:, 1], levels=3, color=COLOURS[name], linewidths=0.8, ax=ax)
        centres[name] = pca.transform(e.features.numpy().mean(0, keepdims=True))[0]
    ax.annotate("", centres["text"], centres["image"], arrowprops={"arrowstyle": "<->", "linewidth": 2})
    ax.plot(*zip(*centres.values(), strict=True), "X", color="black", markersize=9, label="centroids")
    share = 100 * pca.explained_variance_ratio_
    ax.set(xlabel=f"PC 1 ({share[0]:.0f} % of the variance)", ylabel=f"PC 2 ({share[1]:.0f} %)")
    ax.set_title(f"{len(rows)} of {len(images)} pairs")
    ax.legend()
    return figure


@styled
def gap_dimensions(
    table: pd.DataFrame, images: Embeddings, texts: Embeddings, top: int = 12, *, seed: int = 0
) -> Figure:
    """The dimensions with the largest shares of the gap, and some pairs, drawn with ``seed``, on the first two."""
    rows = np.sort(drawn_rows(images.ids, _SHOWN, seed))
    figure, axes = new_figure(1, 2, width=5.4, height=3.8)
    best = table.head(top)
    names = best["dimension"].astype(str)
    axes[0, 0].bar(names, 100 * best["share"], color="#999999", edgecolor="black", linewidth=0.6)
    for x, (share, accuracy) in enumerate(zip(best["share"], best["accuracy"], strict=True)):
        axes[0, 0].annotate(f"{100 * accuracy:.0f}", (x, 100 * share), ha="center", va="bottom", fontsize=8)
    axes[0, 0].set(xlabel="dimension", ylabel="share of the squared gap (%)")
    axes[0, 0].set_title("number above: accuracy (%) of that dimension alone", fontsize=10)
    first, second = best["dimension"].iloc[:2]
    for e, name in ((images, "image"), (texts, "text")):
        _cloud(axes[0, 1], e.features.numpy()[np.ix_(rows, [first, second])], name)
    axes[0, 1].set(xlabel=f"dimension {first}", ylabel=f"dimension {second}")
    axes[0, 1].set_title(f"the two largest, {len(rows)} of {len(images)} pairs")
    axes[0, 1].legend()
    return figure


def _cloud(ax: Axes, points: np.ndarray, modality: str) -> None:
    """Points (n, 2) of one modality."""
    look = {"color": COLOURS[modality], "marker": MARKERS[modality], "label": modality}
    ax.scatter(*points.T, s=9, alpha=0.45, linewidths=0, **look)


@styled
def gap_ladder(measured: Mapping[str, float], reference: pd.DataFrame) -> Figure:
    """The measured gap among the published ones (Cross the Gap, Table A2), sorted."""
    rows = [(name, value, True) for name, value in measured.items()]
    rows += [(r.model, r.value, False) for r in reference.itertuples()]
    rows.sort(key=lambda row: row[1])
    figure, axes = new_figure(width=7.2, height=0.36 * len(rows) + 0.9)
    ax = axes[0, 0]
    for y, (_, value, ours) in enumerate(rows):
        colour = SERIES[0] if ours else PUBLISHED
        ax.plot([0, value], [y, y], color=colour, linewidth=2.4 if ours else 1, linestyle="-" if ours else "--")
        ax.plot(value, y, "o" if ours else "D", color=colour, markersize=8 if ours else 5)
        ax.annotate(f"{value:.3g}", (value, y), xytext=(8, -3.5), textcoords="offset points", fontsize=9)
    ax.set_yticks(range(len(rows)), [f"{name}{' (measured)' if ours else ''}" for name, _, ours in rows])
    ax.set(xlabel="modality gap (Eq. 7)", xlim=(0, max(r[1] for r in rows) * 1.15))
    ax.grid(axis="y", visible=False)
    return figure
