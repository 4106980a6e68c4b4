"""Contact sheets: pictures in a grid, and queries above their nearest neighbours."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from crossgap_lib.plots.style import DIFFERENT, SAME, new_figure, styled


@styled
def contact_sheet(pictures: Sequence[Image.Image], titles: Sequence[str] = (), columns: int = 12) -> Figure:
    """The pictures in a grid of so many columns, each below its title."""
    rows = -(-len(pictures) // columns)
    figure, axes = new_figure(rows, columns, width=1.0, height=1.18 if titles else 1.0)
    for ax in axes.flat:
        ax.set_axis_off()
    for k, (ax, picture) in enumerate(zip(axes.flat, pictures, strict=False)):
        ax.imshow(picture)
        if titles:
            ax.set_title(titles[k], fontsize=8, fontweight="normal", pad=2)
    return figure


@styled
def neighbour_pairs(table: pd.DataFrame, pictures: Mapping[int, Image.Image], names: Sequence[str]) -> Figure:
    """A column for each row of ``tasks.neighbours``: query, nearest picture of another class and of its own.

    The nearer of the two is named so in bold. ``pictures`` and ``names`` give the picture and the class name of a row
    number. If a query is the only picture of its class, words stand in the place of the right picture.
    """
    figure, axes = new_figure(3, len(table), width=1.65, height=1.75)
    for column, row in zip(axes.T, table.itertuples(), strict=True):
        nearer = "right" if row.right_score > row.wrong_score else "wrong"
        shown = (
            ("query", row.query, "", SAME),
            ("wrong", row.wrong, f", {row.wrong_score:.3f}", DIFFERENT),
            ("right", row.right, f", {row.right_score:.3f}", SAME),
        )
        for ax, (role, k, score, edge) in zip(column, shown, strict=True):
            ax.set_xticks([])
            ax.set_yticks([])
            ax.spines[:].set(visible=True, color=edge, linewidth=2.5)
            if pd.isna(k):
                ax.text(0.5, 0.5, f"no other\n{fill(names[row.query], 18)}", ha="center", va="center", fontsize=9)
                continue
            ax.imshow(pictures[k])
            first = role == nearer
            title = fill(f"{names[k]}{score}{', nearer' if first else ''}", 22)  # as wide as a picture
            ax.set_title(title, fontsize=9, fontweight="bold" if first else "normal", pad=3)
    for ax, label in zip(axes[:, 0], ("query", "nearest of\nanother class", "nearest of\nits own class"), strict=True):
        ax.set_ylabel(label)
    return figure
