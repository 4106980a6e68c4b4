"""Sliders over precomputed results: moving one redraws, and computes nothing."""

import html
from collections.abc import Callable, Mapping, Sequence

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.figure import Figure

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.plots.inversion import inversion_state
from crossgap_lib.plots.maps import walk_state
from crossgap_lib.plots.style import counted, plural, png_bytes
from crossgap_lib.tasks.maps import FlatMap
from crossgap_lib.tasks.pairs import all_similarities

_SLIDER = {"continuous_update": False, "style": {"description_width": "8em"}, "layout": w.Layout(width="30em")}


def figure_explorer(draw: Callable[..., tuple[Figure, str]], **sliders: w.Widget) -> w.VBox:
    """Sliders above one figure and one sentence; ``draw`` maps the sliders' values to both.

    The first draw happens at once, so an exception in ``draw`` is the cell's own and not lost in a callback.
    """
    as_drawn = w.Layout(align_self="flex-start", max_width="100%")  # not blown up to the width of the page
    image, sentence = w.Image(format="png", layout=as_drawn), w.HTML()

    def update(_change: object = None) -> None:
        figure, words = draw(**{name: slider.value for name, slider in sliders.items()})
        image.value, sentence.value = png_bytes(figure), f"<p class='crossgap-readout'>{words}</p>"

    for slider in sliders.values():
        slider.observe(update, names="value")
    update()
    return w.VBox([*sliders.values(), sentence, image])


def selection(name: str, values: Sequence, start: object = None) -> w.SelectionSlider:
    """A slider over ``values``, which redraws when it is let go."""
    start = values[-1] if start is None else start
    return w.SelectionSlider(options=list(values), value=start, description=name, **_SLIDER)


def inversion_explorer(
    runs: Mapping[int, Inversion],
    curve: pd.DataFrame,
    gallery: Embeddings,
    others: Embeddings,
    *,
    native: float,
    unit: str = "pseudo-token",
) -> w.VBox:
    """Two sliders, number of pseudo-tokens (or -patches) and steps: the loss and mAP curves with the chosen point,
    and the similarities of the inverted features to the gallery beside the intra- and the inter-modal ones.

    ``others`` are embeddings of the modality that the inversion goes to: texts for OTI, images for OVI.
    """
    modality = next(iter(runs.values())).modality
    same, cross = all_similarities(gallery, gallery), all_similarities(others, gallery)

    def draw(n: int, step: int) -> tuple[Figure, str]:
        point = curve[(curve["n"] == n) & (curve["step"] == step)].iloc[0]
        inverted = all_similarities(runs[n].at(step), gallery)
        figure = inversion_state(curve, n, step, inverted, same, cross, native=native, unit=unit, modality=modality)
        words = f"{counted(n, unit)}, step {step}: loss {point['loss']:.3f}, mAP {point['mAP']:.1f} %"
        return figure, f"{words} (native {native:.1f} %)"

    steps = sorted(next(iter(runs.values())).snapshots)
    return figure_explorer(
        draw,
        n=selection(plural(unit), sorted(runs), min(runs)),
        step=selection("steps", steps, steps[len(steps) // 3]),
    )


def walk_explorer(
    maps: Mapping[str, FlatMap],
    walks: Mapping[int, Mapping[str, Mapping[int, np.ndarray]]],
    table: pd.DataFrame,
    places: pd.DataFrame,
    title: str = "",
) -> w.VBox:
    """Two sliders, number of pseudo-tokens and steps: OTI on its way from the text cone, on maps that stay as they are.

    ``walks``: number of pseudo-tokens -> method -> step -> (n, 2); ``table`` and ``places`` as for ``cone_curves``;
    ``title`` says N and seed.
    """

    def draw(n: int, step: int) -> tuple[Figure, str]:
        row = table[(table["n"] == n) & (table["step"] == step)].iloc[0]
        words = (
            f"{counted(n, 'pseudo-token')}, step {step}: mean cosine {row['to images']:.2f} to the image axis, "
            f"{row['to texts']:.2f} to the text axis; {100 * row['nearer images']:.0f} % nearer to the image axis"
        )
        return walk_state(maps, walks[n], table, places, n, step, title), words

    steps = sorted(set(table["step"]))
    return figure_explorer(
        draw, n=selection("pseudo-tokens", sorted(walks)), step=selection("steps", steps, steps[len(steps) // 3])
    )


def framed(page: str, height: int = 700) -> HTML:
    """A whole HTML page in an output cell, in a frame, so that neither its style nor its scripts touch the notebook."""
    frame = f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: {height}px; border: 0"></iframe>'
    return HTML(f"<div>{frame}</div>")  # IPython warns of an output that is nothing but a frame
