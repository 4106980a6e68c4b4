"""Colours, markers and the files that figures are written to.

One colour and one marker for each modality, in every figure: the colours are Okabe and Ito's, which colour-blind
readers tell apart, and markers, line styles and hatches carry the same distinction in greyscale. Figures have an opaque
white ground, so they read the same in JupyterLab's dark theme.
"""

import os
from collections.abc import Callable
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from crossgap_lib.paths import FIGURES

T = TypeVar("T")

COLOURS = {"image": "#0072B2", "text": "#E69F00", "oti": "#D55E00", "ovi": "#009E73", "projection": "#CC79A7"}
MARKERS = {"image": "o", "text": "^", "oti": "s", "ovi": "D", "projection": "P"}
SAME, DIFFERENT = "#0072B2", "#E69F00"  # same-class and different-class pairs
PUBLISHED = "#444444"  # what a paper reports, always a black-grey diamond or dash
SERIES = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")  # numbers of pseudo-tokens
DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
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

    def _repr_png_(self) -> bytes:
        return png_bytes(self)


def new_figure(rows: int = 1, columns: int = 1, width: float = 4.6, height: float = 3.4) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (rows, columns)."""
    figure = ShownFigure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


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
def save_figure(figure: Figure, folder: Path, name: str, data: pd.DataFrame | None = None) -> Figure:
    """Writes name.png and name.svg, and the numbers behind them to name.csv; returns the figure for display."""
    figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
    figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
    if data is not None:
        data.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")
    return figure


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
