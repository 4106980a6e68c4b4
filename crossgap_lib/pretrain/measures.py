"""What a mini makes of each factor of its world: the measurements of a grid's cell, on held-out pictures of that world.

Every factor is asked about in the same way, the kind and each of the nine nuisances. Tilt, blur and noise count as two
values each: beyond the bound at which captions begin to speak of them, or not. (In a world of less strength the bound
is lower in proportion, so that both values are as frequent everywhere; no caption speaks of them there.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.datasets import world
from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.models.encoder import DualEncoder
from crossgap_lib.pretrain.recipes import Recipe
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.tasks import (
    average_precisions,
    chosen_elsewhere,
    count_by_class,
    gain,
    gap_report,
    labelled_by,
    measured,
    overlap,
    snapshot_steps,
)

FACTORS = ("kind", *world.NUISANCES)
COLUMNS = ("factor", "quantity", "method", "value", "low", "high", "n")
NATIVE, OTI = "native", "OTI"  # OTI after its last step, as published
OTI_CHOSEN, OTI_BEST = "OTI, step chosen on other queries", "OTI, best step"  # the best one, only labels can tell
OTI_KINDS = "OTI, best step for kinds"
PCA, PCA_OF_KINDS = "PCA of the factor's names", "PCA of kinds"
SHORT, LONG = "short prompts", "prompts like captions"
_CONTEXTS = 48  # of which a prompt like captions is the mean
Row = tuple  # as COLUMNS has it
View = tuple[Embeddings, Embeddings]  # features of all pictures: as queries, and as the gallery


def measure_cell(
    model: DualEncoder, recipe: Recipe, *, pictures: int = 1200, queries: int = 300, steps: int = 150
) -> pd.DataFrame:
    """All that a grid says of one cell, in long form.

    Columns: factor ("" where none is asked about), quantity, method, value, low, high (95 % bootstrap over queries or
    pictures, paired for gains; NaN where there is none), n (queries or pictures). mAP, gains and accuracies are in
    percent.

    Args:
        model: what ``recipe`` trained. Without text, there are only the native features.
        pictures: held-out ones, the same for all cells of a strength.
        queries: so many of them, drawn, each of which searches all the others.
        steps: of OTI with one pseudo-token; 150 as published.
    """
    photos = world.world_dataset(recipe.data, n=pictures, strength=recipe.strength, mention=recipe.rates)
    photos = _as_told(photos, recipe.strength)
    images = encode_images(model, photos, cache=False)
    learns = np.isin(np.arange(pictures), drawn_rows(images.ids, 2 * pictures // 3, seed=1))
    asked = {factor: labelled_by(images, photos, factor) for factor in FACTORS}
    asked = {factor: labelled for factor, labelled in asked.items() if len(np.unique(labelled.labels[learns])) > 1}
    drawn = drawn_rows(images.ids, queries)

    rows, views, along, prompts = [_overlap(images)], {NATIVE: (images, images)}, {}, {}
    if model.has_text:
        rows += _gap(model, images)
        run = oti(model, images, steps=steps, snapshots=snapshot_steps(steps), cache=False)
        along = {step: (run.at(step), images) for step in sorted(run.snapshots)}
        prompts = {factor: _prompts(model, recipe, factor, some.class_names) for factor, some in asked.items()}
        best = _best(_average_precisions(along, asked["kind"], drawn))
        views |= {OTI: along[steps], OTI_KINDS: along[best]} | _projected(PCA_OF_KINDS, prompts["kind"], images)
    for factor, labelled in asked.items():
        own = prompts.get(factor, {})
        found = _zero_shot(own, labelled) + _probes(views, labelled, learns)
        found += _retrieval(views | _projected(PCA, own, images), along, labelled, drawn)
        rows += [(factor, *row) for row in found]
    return pd.DataFrame(rows, columns=COLUMNS)


def _as_told(photos: Dataset, strength: float) -> Dataset:
    """Tilt, blur and noise as two values each: whether they are beyond the bound of captions."""
    bounds = {name: bound * strength for name, bound in world.SAID_FROM.items()}
    return replace(photos, factors=photos.factors.assign(**{n: photos.factors[n].abs() > b for n, b in bounds.items()}))


def _row(quantity: str, method: str, values: np.ndarray) -> Row:
    """The mean of values (n,) in [0, 1], in percent."""
    return quantity, method, *measured(values)[:3], len(values)


# ---------------------------------------------------------------- the two modalities


def _gap(model: DualEncoder, images: Embeddings) -> list[Row]:
    """``gap_report`` on pictures and their own captions, and the logit scale."""
    captions = encode_texts(model, images.texts.tolist(), cache=False)
    report = gap_report(images, captions)
    rows = [("", r.quantity, NATIVE, r.value, r.low, r.high, len(images)) for r in report.itertuples()]
    return [*rows, ("", "logit scale", NATIVE, model.describe().logit_scale, np.nan, np.nan, len(images))]


def _overlap(images: Embeddings) -> Row:
    """How much the similarities of pictures of one kind overlap with those of different kinds, from 0 to 1."""
    counts = count_by_class(images)
    return "kind", "overlap", NATIVE, *overlap(counts["same class"], counts["different class"]), len(images)


# ---------------------------------------------------------------- prompts


def _prompts(model: DualEncoder, recipe: Recipe, factor: str, values: Sequence[str]) -> dict[str, Embeddings]:
    """A text feature for each value of a factor, in two ways: (values, d) each, labelled.

    Short ones are "a photo of a dog", "a photo of a red thing", "a photo of a thing on a pink background". Those like
    captions name the value and, of everything else, as much as the world's captions do: the mean over some contexts,
    which are the same for all values.
    """
    drawn = world.world_dataset(f"{recipe.data}/val", n=_CONTEXTS, strength=recipe.strength).factors
    contexts = [world.Factors(**row) for row in drawn.to_dict("records")]
    rates = recipe.rates | {factor: 1.0}
    short, long = [], []
    for value in values:
        shown = [replace(context, **{factor: _example(factor, value)}) for context in contexts]
        short.append(world.sentence(shown[0], {factor}))
        long += [world.caption(factors, np.random.default_rng(k), rates) for k, factors in enumerate(shown)]
    means = encode_texts(model, long, cache=False).features.view(len(values), _CONTEXTS, -1).mean(dim=1)
    named = {"labels": np.arange(len(values)), "class_names": values}
    return {
        SHORT: encode_texts(model, short, **named, cache=False),
        LONG: Embeddings(means, modality="text", **named),
    }


def _example(factor: str, value: str) -> str | float:
    """A factor that shows the value: of those that are numbers, far beyond the bound of captions, or 0."""
    return 2 * world.SAID_FROM[factor] * (value == "True") if factor in world.SAID_FROM else value


def _zero_shot(prompts: Mapping[str, Embeddings], asked: Embeddings) -> list[Row]:
    """Of how many pictures the prompt of the right value is the nearest."""
    scores = {length: (asked.features @ p.features.T).numpy() for length, p in prompts.items()}
    return [_row("zero-shot", length, metrics.answered_rightly(s, asked.labels)) for length, s in scores.items()]


def _projected(name: str, prompts: Mapping[str, Embeddings], images: Embeddings) -> dict[str, View]:
    """The pictures projected onto the components of the prompts (Reevaluating, Sec. 3.3), for each way to prompt.

    Two values have one component, of which the norm would leave a sign alone. There what the projection cut off the
    mean is added back (Eq. 12), and similarities stay graded.
    """
    views = {}
    for length, several in prompts.items():
        features = pca_of_prompts(several)(images, mean_adjusted=len(several) == 2)
        views[f"{name}, {length}"] = features, features
    return views


# ---------------------------------------------------------------- retrieval and probes


def _average_precisions(views: Mapping, asked: Embeddings, queries: np.ndarray) -> dict:
    """AP of each query for each of the views, (q,)."""
    label = lambda features: replace(features, labels=asked.labels, class_names=asked.class_names)  # noqa: E731
    return average_precisions({v: (label(q)[queries], label(g)) for v, (q, g) in views.items()}, ks=())


def _best(curve: Mapping[int, np.ndarray]) -> int:
    return max(curve, key=lambda step: curve[step].mean())


def _retrieval(
    views: Mapping[str, View], along: Mapping[int, View], asked: Embeddings, queries: np.ndarray
) -> list[Row]:
    """mAP of pictures of the same value by every method, and what each gains over native features."""
    queries = queries[np.bincount(asked.labels)[asked.labels[queries]] > 1]  # there is something to find
    found = _average_precisions(views, asked, queries)
    share = (np.bincount(asked.labels)[asked.labels[queries]] - 1) / (len(asked) - 1)  # of the gallery, to be found
    rows = [_row("mAP", "chance", share)]
    if along:
        curve = _average_precisions(along, asked, queries)
        best = _best(curve)
        found |= {OTI_CHOSEN: chosen_elsewhere(curve, asked.ids[queries])[0], OTI_BEST: curve[best]}
        rows.append(("best step", OTI, best, np.nan, np.nan, len(curve[best])))
    rows += [_row("mAP", method, ap) for method, ap in found.items()]
    native = found.pop(NATIVE)
    return rows + [("gain", method, *gain(ap, native)[:3], len(ap)) for method, ap in found.items()]


def _probes(views: Mapping[str, View], asked: Embeddings, learns: np.ndarray) -> list[Row]:
    """How often a linear probe, trained on other pictures, reads the factor off each kind of feature."""
    most = np.bincount(asked.labels[learns]).argmax()
    rows = [_row("linear probe", "chance", asked.labels[~learns] == most)]
    for name, (features, _) in views.items():
        rows.append(_row("linear probe", name, metrics.linear_probe(features.features, asked.labels, learns)))
    return rows
