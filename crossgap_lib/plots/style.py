"""Colours, markers and the files that figures are written to.

A colour means one thing in every figure: what kind of feature is shown (image, text, OTI, OVI, projected), or what
kind of pair (same class, different class, matching image and text). The colours are Okabe and Ito's, which colour-blind
readers tell apart, and markers, line styles and hatches carry the same distinction in greyscale. Numbers of
pseudo-tokens are shades of OTI's colour. What has no modality, such as models and classifiers, takes SERIES, which
shares no colour with them. Figures have an opaque white ground, so they read the same on a dark page.
"""

import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from io import BytesIO
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure
from matplotlib.font_manager import get_font_names
from matplotlib.text import Text
from matplotlib.ticker import Formatter, LogFormatterMathtext

from crossgap_lib.errors import printable
from crossgap_lib.paths import FIGURES

pd.set_option("display.html.use_mathjax", False)  # names in the tables of notebooks may hold "$"
T = TypeVar("T")

COLOURS = {"image": "#0072B2", "text": "#E69F00", "oti": "#D55E00", "ovi": "#009E73", "projection": "#CC79A7"}
MARKERS = {"image": "o", "text": "^", "oti": "s", "ovi": "D", "projection": "P"}
SAME, DIFFERENT = "#000000", "#999999"  # same-class and different-class pairs
MATCHING = "#56B4E9"  # image-text pairs that belong together; those that do not are dashed in the same colour
PUBLISHED = "#444444"  # what a paper reports, always a black-grey diamond or dash
SERIES = ("#1b1b1b", "#8c510a", "#7a8b00", "#4b2e83", "#5e6e7e", "#c9a66b")  # models, classifiers
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
MARKS = ("o", "^", "s", "D", "P", "X", "v", "<", ">", "*")  # of lines that stand for no modality
# Fonts for what matplotlib's own has no glyphs of, such as Chinese or Japanese, as systems have them.
_FALLBACKS = (
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Hiragino Sans", "PingFang SC", "Microsoft YaHei"),
    *("Yu Gothic", "Malgun Gothic", "Noto Sans Devanagari", "Nirmala UI", "Arial Unicode MS", "Noto Emoji", "Symbola"),
)
_RC = {
    "font.family": ["DejaVu Sans", *sorted(set(get_font_names()) & {*_FALLBACKS}, key=_FALLBACKS.index)],
    "text.parse_math": False,  # names may hold "$"
    **{"figure.facecolor": "white", "savefig.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.25, "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold"},
    **{"legend.frameon": False, "axes.axisbelow": True, "svg.hashsalt": "crossgap", "svg.fonttype": "none"},
}


def styled(plot: Callable[..., T]) -> Callable[..., T]:
    """The suite's style while a figure is made, without touching the user's own settings."""

    @wraps(plot)
    def styled(*args: Any, **kwargs: Any) -> T:
        with mpl.rc_context(_RC), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands there
            return plot(*args, **kwargs)

    return styled


class ShownFigure(Figure):
    """A figure outside pyplot (nothing to close, nothing drawn twice) that every notebook front end can show."""

    alt = ""  # what those hear who can't see it

    def draw(self, renderer: RendererBase) -> None:
        for text in self.findobj(Text):
            text.set_text(printable(text.get_text()))
        for axis in (axis for ax in self.axes for axis in (ax.xaxis, ax.yaxis)):
            for ticks in (axis.major, axis.minor):
                if not isinstance(ticks.formatter, _Words):
                    ticks.formatter = _Words(ticks.formatter)
        super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, str]]:
        return png_bytes(self), {"alt": self.alt}


class _Words(Formatter):
    """The labels of another formatter as words: names printable, powers of ten in Unicode and not as a formula."""

    def __init__(self, inner: Formatter):
        self.inner, self.get_offset = inner, inner.get_offset

    def __call__(self, value: float, place: int | None = None) -> str:
        return self.inner(value, place)

    def format_ticks(self, values: Sequence[float]) -> list[str]:
        say = _power if isinstance(self.inner, LogFormatterMathtext) else printable
        return [say(str(label)) for label in self.inner.format_ticks(values)]


_RAISED = str.maketrans("-\u22120123456789", "\u207b\u207b\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")


def _power(label: str) -> str:
    """``$\\mathdefault{2\\times10^{-3}}$`` as 2 times ten to the power of -3, in characters that stand raised."""
    plain = label.removeprefix(r"$\mathdefault{").removesuffix("}$").replace(r"\times", "\u00d7")
    return re.sub(r"\^\{(.*?)\}", lambda found: found[1].translate(_RAISED), plain)


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
        name: of the files; what names of files had better not hold, such as /, becomes a hyphen.
        title: what is to be seen, above the figure.
        stamp: model, number of queries and pictures, and seed, small below it.
        alt: one or two sentences for those who can't see the figure: what is drawn against what. They are kept in the
            files, and the site shows them as the caption.
    """
    _frame(figure, title, stamp)
    name, alt = file_stem(name), printable(alt)
    figure.alt = alt
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None, "Description": alt})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Description": alt})
    if data is not None:
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return figure


def file_stem(name: str) -> str:
    """A name for a file on any system, of letters, digits, dots, underscores and hyphens."""
    return re.sub(r"[^\w.]+", "-", name)[:60].strip("-.") or "-"


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
