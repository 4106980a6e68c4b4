"""Colours, markers and the files that figures are written to.

A colour means one thing in every figure: what kind of feature is shown (image, text, OTI, OVI, projected), or what
kind of pair (same class, different class, matching image and text). The colours are Okabe and Ito's, which colour-blind
readers tell apart, and markers, line styles and hatches carry the same distinction in greyscale. Numbers of
pseudo-tokens are shades of OTI's colour. What has no modality, such as models and classifiers, takes SERIES, which
shares no colour with them. Figures have an opaque white ground, so they read the same on a dark page.
"""

import os
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossgap_lib.paths import FIGURES

T = TypeVar("T")

COLOURS = {"image": "#0072B2", "text": "#E69F00", "oti": "#D55E00", "ovi": "#009E73", "projection": "#CC79A7"}
MARKERS = {"image": "o", "text": "^", "oti": "s", "ovi": "D", "projection": "P"}
SAME, DIFFERENT = "#000000", "#999999"  # same-class and different-class pairs
MATCHING = "#56B4E9"  # image-text pairs that belong together; those that do not are dashed in the same colour
PUBLISHED = "#444444"  # what a paper reports, always a black-grey diamond or dash
SERIES = ("#1b1b1b", "#8c510a", "#7a8b00", "#4b2e83", "#5e6e7e", "#c9a66b")  # models, classifiers
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKS = ("o", "^", "s", "D", "P", "X", "v", "<", ">", "*")  # of lines that stand for no modality
_RC = {
    **{"figure.facecolor": "white", "savefig.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"},
    **{"legend.frameon": False, "axes.axisbelow": True, "svg.hashsalt": "crossgap", "svg.fonttype": "none"},
}


def styled(plot: Callable[..., T]) -> Callable[..., T]:
    """The suite's style while a figure is made, without touching the user's own settings."""

    @wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> T:
        with mpl.rc_context(_RC):
            return plot(*args, **kwargs)

    return styled


class ShownFigure(Figure):
    """A figure outside pyplot (nothing to close, nothing drawn twice) that every notebook front end can show."""

    alt = ""  # what those hear who can't see it

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return png_bytes(self), {"alt": self.alt}


def new_figure(
    rows: int = 1, columns: int = 1, width: float = 4.6, height: float = 3.4, **share: bool | str
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (rows, columns). ``sharex`` and ``sharey`` give them one scale, as in ``subplots``."""
    figure = ShownFigure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **share)


def line_look(k: int, **more: Any) -> dict[str, Any]:
    """Colour, dash and marker of the k-th of several lines; ``more`` takes the place of any of them or adds to them."""
    look = {"color": SERIES[k % len(SERIES)], "linestyle": DASHES[k % len(DASHES)], "marker": MARKS[k % len(MARKS)]}
    return look | {"markersize": 5, "linewidth": 1.5} | more


def shades(colour: str, n: int) -> list[tuple[float, float, float]]:
    """n shades of a colour from dark to light, for numbers of pseudo-tokens or -patches: the feature stays the same."""
    own, white = np.array(mpl.colors.to_rgb(colour)), np.ones(3)
    lightness = np.linspace(-0.45, 0.45, n) if n > 1 else [0.0]  # towards black below zero, towards white above
    return [tuple(own * (1 + at) if at < 0 else own + at * (white - own)) for at in lightness]


def whiskers(table: pd.DataFrame, column: str = "value") -> np.ndarray:
    """How far each interval reaches below and above its mean, (2, n), as error bars are drawn.

    The interval of "value" lies between the columns low and high, that of any other column, such as "gain", between
    "gain low" and "gain high".
    """
    ends = ["low", "high"] if column == "value" else [f"{column} low", f"{column} high"]
    return np.abs(table[ends].to_numpy().T - table[column].to_numpy())  # rounding may put a mean a hair outside


def figure_folder(notebook: str) -> Path:
    """Where the notebook's figures go: figures/NN_name, or below ``CROSSGAP_FIGURES``."""
    folder = Path(os.environ.get("CROSSGAP_FIGURES") or FIGURES) / notebook
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@styled
def save_figure(
    figure: Figure,
    folder: Path,
    name: str,
    data: pd.DataFrame | None = None,
    *,
    title: str = "",
    stamp: str = "",
    alt: str = "",
) -> Figure:
    """Writes name.png and name.svg, and the numbers behind them to name.csv; returns the figure for display.

    Args:
        title: what is to be seen, above the figure.
        stamp: model, number of queries and pictures, and seed, small below it.
        alt: one or two sentences for those who can't see the figure: what is drawn against what. They are kept in the
            files, and the site shows them as the caption.
    """
    _frame(figure, title, stamp)
    figure.alt = alt
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Description": alt})
    if data is not None:
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return figure


def _frame(figure: Figure, title: str, stamp: str) -> None:
    """Title and stamp on strips of their own, between which everything else is laid out."""
    lines = wrap(title, int(9.5 * figure.get_figwidth()))  # characters to a line
    above, below = ((0.1 + 0.2 * n) / figure.get_figheight() * bool(n) for n in (len(lines), bool(stamp)))
    figure.get_layout_engine().set(rect=(0, below, 1, 1 - above - below))
    if figure.legends:  # those that stand outside the axes are moved in, once there is room for them
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, below, 1, 1 - above - below), figure.transFigure)
    edge = 0.08 / figure.get_figheight()
    figure.text(0.01, 1 - edge, "\n".join(lines), ha="left", va="top", fontsize=12, fontweight="bold", in_layout=False)
    figure.text(0.99, edge, stamp, ha="right", va="bottom", fontsize=8, color="#555555", in_layout=False)


@styled
def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG, for an image widget."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()


def short_name(model: str) -> str:
    """A model's name as a label: a local folder by its last part, timm without its prefix."""
    return (
        Path(model.removeprefix("local-dir:")).name if model.startswith("local-dir:") else model.removeprefix("timm:")
    )


def counted(n: int, unit: str) -> str:
    """\"1 pseudo-patch", "4 pseudo-patches"."""
    return f"{n} {unit if n == 1 else plural(unit)}"


def plural(unit: str) -> str:
    return f"{unit}{'es' if unit.endswith('ch') else 's'}"
