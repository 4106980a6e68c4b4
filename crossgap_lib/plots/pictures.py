"""Pictures in grids and columns."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.figure import Figure
from PIL import Image

from crossgap_lib.plots.style import DIFFERENT, SAME, new_figure, styled


@styled
def contact_sheet(pictures: Sequence[Image.Image], titles: Sequence[str] = (), columns: int = 12) -> Figure:
    """Pictures in a grid, each with its title."""
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
    """Query, nearest wrong picture and nearest right one, a column each row of ``tasks.nearest_wrong``.

    Where a query is the only picture of its class, words stand in the place of the right one.
    """
    figure, axes = new_figure(3, len(table), width=1.55, height=1.75)
    for column, row in zip(axes.T, table.itertuples(), strict=True):
        shown = (
            (row.query, "query"),
            (row.wrong, f"wrong  {row.wrong_score:.3f}"),
            (row.right, f"right  {row.right_score:.3f}"),
        )
        for ax, (k, title) in zip(column, shown, strict=True):
            if pd.isna(k):
                ax.text(0.5, 0.5, f"no other\n{names[row.query]}", ha="center", va="center", fontsize=8)
                ax.set_axis_off()
                continue
            ax.imshow(pictures[k])
            ax.set_title(f"{names[k]}\n{title}", fontsize=8, fontweight="normal", pad=3)
            ax.set_xticks([])
            ax.set_yticks([])
            edge = DIFFERENT if title.startswith("wrong") else SAME if title.startswith("right") else "black"
            style = "--" if title.startswith("wrong") else "-"
            for spine in ax.spines.values():
                spine.set(visible=True, color=edge, linewidth=2.5, linestyle=style)
    return figure
