"""The two readings of one observation, drawn: Cross the Gap's Fig. 1 and Reevaluating's Fig. 1 and 3."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from crossgap_lib.plots.style import COLOURS, MARKERS, SAME, new_figure, styled

_POINT = {"markersize": 10, "markeredgecolor": "white", "linestyle": "none"}
_NOTE = {"fontsize": 9.5, "ha": "center"}


@styled
def two_readings() -> Figure:
    """Why is a dog close to a cat? On the left the answer of Cross the Gap, on the right that of Reevaluating."""
    figure, (axes,) = new_figure(1, 2, width=5.2, height=4.2)
    titles = ("Cross the Gap: the similarity is misaligned", "Reevaluating: the task is ambiguous")
    for ax, title in zip(axes, titles, strict=True):
        ax.set(title=title, aspect="equal", xticks=[], yticks=[])
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
    _misaligned(axes[0])
    _ambiguous(axes[1])
    return figure


def _misaligned(ax: Axes) -> None:
    """Two cones on a circle: training never compared the images with each other, so OTI crosses over to the texts."""
    ax.set(xlim=(-1.25, 1.25), ylim=(-1.1, 1.3))
    turn = np.linspace(0, 2 * np.pi, 200)
    ax.plot(np.cos(turn), np.sin(turn), color="#cccccc", linewidth=1)
    dogs, cat, word, inverted = _on_circle(158, 200), _on_circle(182), _on_circle(15, -15), _on_circle(42)
    for (x, y), name in zip([*dogs, *cat], ("dog", "dog", "cat"), strict=True):
        ax.plot(x, y, MARKERS["image"], color=COLOURS["image"], **_POINT)
        ax.text(x - 0.1, y, name, ha="right", va="center", fontsize=9.5, color=COLOURS["image"])
    for (x, y), name in zip(word, ("“dog”", "“cat”"), strict=True):
        ax.plot(x, y, MARKERS["text"], color=COLOURS["text"], **_POINT)
        ax.text(x + 0.1, y, name, va="center", fontsize=9.5, color="#8a6000")
    ax.plot(*inverted[0], MARKERS["oti"], color=COLOURS["oti"], **_POINT)
    _arrow(ax, dogs[0], inverted[0], COLOURS["oti"], bend=-0.25)
    ax.text(-0.05, 1.12, "OTI: the text feature of the query", color=COLOURS["oti"], **_NOTE)
    _line(ax, dogs[0], cat[0], ":")
    ax.text(-0.5, 0.24, "never trained,\nnot to be trusted", **_NOTE)
    _line(ax, inverted[0], dogs[1])
    ax.text(0.28, -0.42, "trained: image\nagainst text", **_NOTE)


def _ambiguous(ax: Axes) -> None:
    """Images differ in much besides the label: a projection on the axis of the labels answers the question asked."""
    ax.set(xlim=(-0.15, 2.35), ylim=(-0.35, 2.05))
    places = {"dog, on grass": (0.5, 1.75), "dog, indoors": (0.8, 0.45), "cat, on grass": (1.55, 1.55)}
    for name, (x, y) in places.items():
        ax.plot(x, y, MARKERS["image"], color=COLOURS["image"], **_POINT)
        ax.plot(x, 0, MARKERS["projection"], color=COLOURS["projection"], **_POINT)
        ax.plot((x, x), (y - 0.08, 0.08), color=COLOURS["projection"], linestyle=":", linewidth=1.2)
        ax.text(x + 0.07, y + 0.07, name, fontsize=9.5, color=COLOURS["image"])
    (first, second, third) = places.values()
    _line(ax, first, third)
    _line(ax, first, second, "--")
    ax.text(1.1, 1.42, "near: both on grass", **_NOTE)
    ax.text(0.36, 1.1, "far", **_NOTE)
    _arrow(ax, (-0.05, 0), (2.25, 0), "black")
    ax.text(1.1, -0.27, "what the labels ask for: dog … cat (projected)", color=COLOURS["projection"], **_NOTE)
    _arrow(ax, (-0.05, 0), (-0.05, 1.95), "black")
    ax.text(-0.12, 1.0, "everything else that a picture shows", rotation=90, va="center", **_NOTE | {"ha": "right"})


def _on_circle(*degrees: float) -> list[tuple[float, float]]:
    return [(float(np.cos(a)), float(np.sin(a))) for a in np.deg2rad(degrees)]


def _line(ax: Axes, start: tuple[float, float], end: tuple[float, float], style: str = "-") -> None:
    ax.plot((start[0], end[0]), (start[1], end[1]), color=SAME, linestyle=style)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0) -> None:
    shape = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.4, "connectionstyle": f"arc3,rad={bend}"}
    ax.annotate("", xy=end, xytext=start, arrowprops=shape | {"shrinkA": 4, "shrinkB": 6})
