"""Sliders over precomputed results: moving one redraws while it moves, and computes nothing.

Every explorer draws once when it is made, so an exception in a drawing is the cell's own and not lost in a callback.
"""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO

import ipywidgets as w
import numpy as np
import pandas as pd
from IPython.display import HTML
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.plots.atlas import data_url, thumbnails
from crossgap_lib.plots.inversion import inversion_state
from crossgap_lib.plots.maps import walk_state
from crossgap_lib.plots.style import DIFFERENT, counted, plural, styled
from crossgap_lib.tasks.maps import FlatMap
from crossgap_lib.tasks.pairs import all_similarities, similarities

_BINS = 200  # of similarities from -1 to 1
_STEP_MS = 200  # between two steps while it plays

# ipywidgets tells screen readers the place of a slider's option, such as 9, and neither its name nor the option itself;
# its play buttons and pictures have no name at all. This gives them theirs.
_SPOKEN = """
const speak = () => {
  const all = (part) => document.querySelectorAll(`.crossgap-explorer ${part}`);
  for (const slider of all(".widget-slider:not([data-spoken])")) {
    const handle = slider.querySelector(".noUi-handle"), option = slider.querySelector(".widget-readout");
    if (!handle) continue;
    slider.dataset.spoken = "yes";
    handle.setAttribute("aria-label", slider.querySelector(".widget-label").textContent);
    const say = () => handle.setAttribute("aria-valuetext", option.textContent);
    new MutationObserver(say).observe(option, {childList: true, characterData: true, subtree: true});
    say();
  }
  for (const play of all(".widget-play")) {
    play.children[0].title = "play or pause";
    play.children[1].title = "back to the first step";
  }
  for (const image of all("img.widget-image")) image.alt = "the figure that the sentence above it sums up";
};
const waiting = setInterval(speak, 200);  // widgets come into the page in their own time
setTimeout(() => clearInterval(waiting), 20000);
"""


# ---------------------------------------------------------------- any figure


class _Stage:
    """PNGs of figures, fast enough to follow a slider that is being dragged.

    A figure that comes for the first time is drawn whole. Where the same figure comes again, its ground is kept and
    only the artists marked ``animated`` are drawn on it (matplotlib's blitting), which takes some 20 ms.
    """

    figure: Figure | None = None

    @styled
    def png(self, figure: Figure) -> bytes:
        if figure is not self.figure:
            self.figure, self.canvas = figure, FigureCanvasAgg(figure)
            self.canvas.draw()
            self.ground = self.canvas.copy_from_bbox(figure.bbox)
            self.moving = figure.findobj(lambda artist: artist.get_animated())
        self.canvas.restore_region(self.ground)
        for artist in self.moving:
            artist.axes.draw_artist(artist)
        pixels, file = Image.fromarray(np.asarray(self.canvas.buffer_rgba())), BytesIO()
        pixels.convert("RGB").save(file, "PNG", compress_level=1)  # small enough, and the quickest
        return file.getvalue()


def figure_explorer(
    draw: Callable[..., tuple[Figure, str]], *, best: Callable[..., int] | None = None, **sliders: w.Widget
) -> w.VBox:
    """Sliders above one figure and one sentence; ``draw`` maps the sliders' values to both.

    Each state is drawn once and then kept. ``draw`` may also return one figure again and again, whose artists marked
    ``animated`` it has moved: only these are then drawn, some ten times as fast as a new figure.

    A slider called ``step`` gets a play button and a field to type a step in, and a button that jumps to the best step
    where ``best`` gives it for the values of the other sliders.
    """
    as_drawn = w.Layout(align_self="flex-start", max_width="100%")  # not blown up to the width of the page
    image, sentence, stage = w.Image(format="png", layout=as_drawn), w.HTML(), _Stage()

    @cache
    def state(*values: object) -> tuple[bytes, str]:
        figure, words = draw(**dict(zip(sliders, values, strict=True)))
        return stage.png(figure), words

    def show(**values: object) -> None:
        image.value, words = state(*values.values())
        sentence.value = _readout(words)

    return _explorer(show, sliders, sentence, image, best=best)


def _explorer(
    show: Callable[..., None], sliders: Mapping[str, w.Widget], *below: w.Widget, best: Callable[..., int] | None = None
) -> w.VBox:
    """The sliders over what ``show`` fills, which is called with their values now and whenever one moves."""

    def values() -> dict[str, object]:
        return {name: slider.value for name, slider in sliders.items()}

    def jump(_button: w.Button) -> None:
        sliders["step"].value = best(**{name: value for name, value in values().items() if name != "step"})

    for slider in sliders.values():
        slider.observe(lambda _change: show(**values()), names="value")
    show(**values())
    rows = [_ways_to(slider, best and jump) if name == "step" else slider for name, slider in sliders.items()]
    spoken = {"output_type": "display_data", "data": {"application/javascript": _SPOKEN}, "metadata": {}}
    script = w.Output(outputs=(spoken,), layout=w.Layout(height="0"))
    return w.VBox([*rows, script, *below]).add_class("crossgap-explorer")


def _ways_to(step: w.SelectionSlider, jump: Callable[[w.Button], None] | None) -> w.HBox:
    """The slider of the steps with a play button, a step that is typed and a button for the best one beside it."""
    play = w.Play(max=len(step.options) - 1, interval=_STEP_MS, show_repeat=False)
    w.link((step, "index"), (play, "value"))
    narrow = {"layout": w.Layout(width="12em"), "style": {"description_width": "initial"}}
    ends = {"min": step.options[0], "max": step.options[-1]}
    typed = w.BoundedIntText(description="step nearest to", **ends, **narrow)
    w.dlink((step, "value"), (typed, "value"))

    def go(change: Mapping) -> None:
        step.value = typed.value = min(step.options, key=lambda kept: abs(kept - change["new"]))

    typed.observe(go, "value")
    controls = [step, play, typed]
    if jump:
        controls.append(w.Button(description="best step", tooltip="to the step of the highest mAP"))
        controls[-1].on_click(jump)
    return w.HBox(controls, layout=w.Layout(flex_flow="row wrap"))


def _readout(words: str) -> str:
    return f"<p class='crossgap-readout'>{html.escape(words)}</p>"


def selection(name: str, values: Sequence, start: object = None) -> w.SelectionSlider:
    """A slider over ``values``, which redraws while it is dragged."""
    start = values[-1] if start is None else start
    look = {"style": {"description_width": "8em"}, "layout": w.Layout(width="30em")}
    return w.SelectionSlider(options=list(values), value=start, description=name, **look)


# ---------------------------------------------------------------- along the steps of an inversion


def _number_and_step(unit: str, numbers: Iterable[int], steps: Iterable[int]) -> dict[str, w.SelectionSlider]:
    """Sliders n and step, which begin with the least pseudo-tokens and after a third of the steps that were kept."""
    numbers, steps = sorted(numbers), sorted(steps)
    return {
        "n": selection(plural(unit), numbers, numbers[0]),
        "step": selection("steps", steps, steps[len(steps) // 3]),
    }


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

    def density(queries: Embeddings) -> np.ndarray:
        return np.histogram(all_similarities(queries, gallery), _BINS, (-1, 1), density=True)[0]

    states = {(n, step): density(run.at(step)) for n, run in runs.items() for step in run.snapshots}
    how = {"native": native, "unit": unit, "modality": next(iter(runs.values())).modality}
    figure, move = inversion_state(curve, states, density(gallery), density(others), **how)
    points = curve.set_index(["n", "step"])

    def draw(n: int, step: int) -> tuple[Figure, str]:
        move(n, step)
        loss, at = points.loc[(n, step), ["loss", "mAP"]]
        return figure, f"{counted(n, unit)}, step {step}: loss {loss:.3f}, mAP {at:.1f} % (native {native:.1f} %)"

    def best(n: int) -> int:
        return points.loc[n]["mAP"].idxmax()

    return figure_explorer(draw, best=best, **_number_and_step(unit, runs, curve["step"].unique()))


def neighbour_explorer(runs: Mapping[int, Inversion], gallery: Embeddings, photos: Dataset, *, k: int = 5) -> w.VBox:
    """Pictures to click: one is searched for, and the k nearest of its OTI feature change as the sliders move.

    Args:
        runs: number of pseudo-tokens -> inverted queries, which are all shown.
        gallery: what is searched, with labels; a query does not find itself.
        photos: the pictures of the queries and of the gallery.
    """
    first = next(iter(runs.values()))
    own = gallery[[gallery.ids.tolist().index(name) for name in first.ids]]
    found = {(n, step): _nearest(run.at(step), gallery, k) for n, run in runs.items() for step in run.snapshots}
    natively = _nearest(own, gallery, k)  # (q, k)
    seen = np.unique([natively, *found.values()])
    urls = {name: data_url(jpeg) for name, jpeg in thumbnails(photos, {*own.ids, *gallery.ids[seen]}).items()}

    names = [gallery.class_names[label] for label in own.labels]
    asked = w.ToggleButtons(options=[(name, q) for q, name in enumerate(names)], tooltips=list(own.ids))
    asked.add_class(f"crossgap-{asked.model_id}")
    faces = w.HTML(_picture_buttons(f".crossgap-{asked.model_id}", [urls[name] for name in own.ids]))
    said, native, inverted = w.HTML(), w.HTML(), w.HTML()

    def strip(words: str, query: int, rows: np.ndarray) -> str:
        cells = [_cell(urls[gallery.ids[row]], gallery, row, own.labels[query]) for row in rows]
        return f"<div>{words}</div><div style='display: flex; gap: 8px'>{''.join(cells)}</div>"

    def show(query: int, n: int, step: int) -> None:
        rows = found[n, step][query]
        right = int((gallery.labels[rows] == own.labels[query]).sum())
        words = f"{counted(n, 'pseudo-token')}, step {step}: {right} of {k} nearest are of its class, {names[query]}"
        said.value = _readout(words)
        native.value = strip("nearest to its own feature", query, natively[query])
        inverted.value = strip("nearest to its OTI feature", query, rows)

    sliders = {"query": asked, **_number_and_step("pseudo-token", runs, first.snapshots)}
    return _explorer(show, sliders, faces, said, native, inverted)


def _nearest(queries: Embeddings, gallery: Embeddings, k: int) -> np.ndarray:
    """(q, k) rows of the gallery, nearest first; a query does not find the row of its own id."""
    found = similarities(queries, gallery)
    found[queries.ids[:, None] == gallery.ids[None]] = -np.inf
    return np.argsort(-found, axis=1, kind="stable")[:, :k]


def _picture_buttons(place: str, urls: Sequence[str]) -> str:
    """A style sheet that puts a picture on each button of a row; the words stay there for screen readers."""
    look = "width: 56px; height: 56px; font-size: 0; background-size: cover; border: 3px solid transparent"
    chosen = "border-color: var(--jp-brand-color1, #1976d2)"
    rules = [f"{place} button {{{look}}}", f"{place} button.mod-active {{{chosen}}}"]
    rules += [f"{place} button:nth-of-type({q + 1}) {{background-image: url({url})}}" for q, url in enumerate(urls)]
    return f"<style>{' '.join(rules)}</style>"


def _cell(url: str, gallery: Embeddings, row: int, label: int) -> str:
    """A picture with its class below, framed in full where that is the query's class and dashed where it is not."""
    same, name = gallery.labels[row] == label, html.escape(gallery.class_names[gallery.labels[row]])
    frame = "3px solid currentColor" if same else f"3px dashed {DIFFERENT}"
    picture = f"<img src='{url}' alt='' style='width: 72px; height: 72px; border: {frame}'>"
    return f"<figure style='margin: 0; text-align: center'>{picture}<figcaption>{name}</figcaption></figure>"


# ---------------------------------------------------------------- maps


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
    figure, move = walk_state(maps, walks, table, places, title)

    def draw(n: int, step: int) -> tuple[Figure, str]:
        move(n, step)
        row = table[(table["n"] == n) & (table["step"] == step)].iloc[0]
        return figure, (
            f"{counted(n, 'pseudo-token')}, step {step}: mean cosine {row['to images']:.2f} to the image axis, "
            f"{row['to texts']:.2f} to the text axis; {100 * row['nearer images']:.0f} % nearer to the image axis"
        )

    return figure_explorer(draw, **_number_and_step("pseudo-token", walks, table["step"].unique()))


def framed(page: str, height: int = 700) -> HTML:
    """A whole HTML page in an output cell, in a frame, so that neither its style nor its scripts touch the notebook."""
    frame = f'<iframe srcdoc="{html.escape(page)}" style="width: 100%; height: {height}px; border: 0"></iframe>'
    return HTML(f"<div>{frame}</div>")  # IPython warns of an output that is nothing but a frame
