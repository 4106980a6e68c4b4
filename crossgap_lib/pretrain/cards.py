"""Model cards: what a mini is, how it was trained, and its numbers on held-out pictures."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.datasets import world
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.models.encoder import DualEncoder
from crossgap_lib.models.load import load_model
from crossgap_lib.paths import MINIS
from crossgap_lib.pretrain.files import write_json
from crossgap_lib.pretrain.recipes import Recipe
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.tasks import along_steps, class_prompts, drawn, labelled_by, peaks, snapshot_steps

_OTI_QUERIES, _OTI_GALLERY, _OTI_STEPS = 64, 1200, 150  # as notebook 02 draws them
_FACTORS = ("background", "colour")  # what a model sees in pictures when it is not the kind
_OBJECTIVES = {
    "clip": "softmax cross-entropy over image-text pairs (CLIP), logit scale held at {logit_scale:g}",
    "align": "AlignCLIP's: CLIP's (logit scale held at {logit_scale:g}), both directions summed, and half of the "
    "separation within a modality (separate: {separate}; how alike captions are: {meaning})",
    "siglip": "a sigmoid for every image-text pair (SigLIP), scale (from {logit_scale:g}) and bias learned",
    "slip": "CLIP's (logit scale held at {logit_scale:g}) and SimCLR between two strong views of each picture (SLIP)",
    "siglip2": "SigLIP's (scale, from {logit_scale:g}, and bias learned) and local-to-global self-distillation with a "
    "moving-average teacher (as in SigLIP 2, from the first step on)",
    "dino": "self-distillation of pictures with a moving-average teacher (DINO), its targets balanced and its features "
    "spread as in DINOv2; no text. The teacher is shipped",
}

_FIXED = """\
One seed. The world's nuisance strength and mention rates, and the recipe, were fixed by zero-shot accuracy and
dogs-vs-cats retrieval alone, before looking at what inversion or projection do."""
_FIXED_NANO = """\
The first of three seeds. The recipe was fixed by zero-shot accuracy and time alone, where captions name each nuisance
with rate 0.6, before looking at what inversion or projection do. `data/grid/` holds what its siblings were asked."""
_FIXED_DEEPER = """\
One seed. The recipe is that of `nano-m06` with as many blocks for texts as for pictures, so that they can share them;
nothing was chosen by what inversion, projection or image-image retrieval do."""
_FIXED_BLIND = """\
One seed. Its views and its guards against collapse were chosen in trial runs, one of them whole, by the rank of the
features and by what image-image retrieval finds by kind, background and colour; the rest is as in the other minis."""


# ---------------------------------------------------------------- numbers


def measure(folder: Path, recipe: Recipe) -> dict[str, float]:
    """The card's numbers, on held-out pictures of the recipe's world and on the weights as written (fp16)."""
    model = load_model(f"local-dir:{folder}", device="cpu")
    drawn_so = {"strength": recipe.strength, "mention": None if recipe.mention is None else recipe.rates}
    photos, two_kinds = (load_dataset(f"world:{name}", **drawn_so) for name in (recipe.data, "dogs-vs-cats"))
    everything, pets = (encode_images(model, p, cache=False) for p in (photos, two_kinds))
    values = {
        "parameters": float(sum(p.numel() for p in model.net.parameters())),
        "dogs-vs-cats image-image mAP": metrics.mean_average_precision(pets, pets),
        "image-image mAP, all kinds": metrics.mean_average_precision(everything, everything),
    }
    for factor in _FACTORS:
        asked = labelled_by(everything, photos, factor)
        values[f"image-image mAP, by {factor}"] = metrics.mean_average_precision(asked, asked)
    if model.has_text:
        values |= _with_text(model, everything, pets) | _inverted(model, everything)
    return {name: round(float(value), 4) for name, value in values.items()}


def _with_text(model: DualEncoder, everything: Embeddings, pets: Embeddings) -> dict[str, float]:
    kinds, two = class_prompts(model, everything), class_prompts(model, pets)
    captions = encode_texts(model, everything.texts.tolist(), cache=False)
    projected = pca_of_prompts(kinds)(everything)
    return {
        "zero-shot accuracy, all kinds": metrics.zero_shot_accuracy(everything, kinds),
        "modality gap": metrics.modality_gap(everything, captions),
        "logit scale": model.describe().logit_scale,
        "dogs-vs-cats text-image mAP": metrics.mean_average_precision(two, pets),
        "image-image mAP, all kinds, PCA of class prompts": metrics.mean_average_precision(projected, projected),
    }


def _inverted(model: DualEncoder, everything: Embeddings) -> dict[str, float]:
    """One-token OTI: where it is best, and where it ends."""
    gallery = drawn(everything, _OTI_GALLERY)
    queries = gallery[:_OTI_QUERIES]
    run = oti(model, queries, steps=_OTI_STEPS, snapshots=snapshot_steps(_OTI_STEPS), cache=False)
    peak = peaks(along_steps({1: run}, gallery)).iloc[0]
    return {
        "OTI loss, 1 token, step 150": float(run.losses[-1].mean()),
        "image-image mAP of the OTI queries": metrics.mean_average_precision(queries, gallery),
        "OTI mAP at its best step": peak["peak mAP"] / 100,
        "OTI best step": float(peak["peak step"]),
        "OTI mAP, step 150": peak["last mAP"] / 100,
    }


# ---------------------------------------------------------------- cards


def write_card(folder: Path, recipe: Recipe, seconds: tuple[float, float], device: str) -> dict[str, Any]:
    """Measures the written checkpoint and describes it in card.json and README.md.

    ``seconds``: of the training by the clock, and of the processor.
    """
    training = {"steps": recipe.steps, "pictures seen": recipe.steps * recipe.batch, "device": device}
    training |= dict(zip(("minutes", "processor minutes"), (round(part / 60, 1) for part in seconds), strict=True))
    return _write(folder, {"recipe": asdict(recipe), "training": training, "measured": measure(folder, recipe)})


def remeasure(folder: Path) -> dict[str, Any]:
    """The card of a mini that is there already, with its numbers measured anew."""
    card = read_card(folder)
    return _write(folder, card | {"measured": measure(folder, Recipe(**card["recipe"]))})


def read_card(folder: Path) -> dict[str, Any]:
    """What card.json says.

    Raises:
        CrossgapError: there is no card.
    """
    if not (folder / "card.json").is_file():
        raise CrossgapError(f"{folder} holds no card.json: it is not a mini.")
    return json.loads((folder / "card.json").read_text())


def zoo(folder: Path = MINIS) -> pd.DataFrame:
    """A row for each shipped mini: how it was trained and what was measured on held-out pictures."""
    rows = []
    for path in sorted(folder.glob("mini-*")):
        card = read_card(path)
        recipe, training = card["recipe"], card["training"]
        how = {"objective": recipe["objective"], "seed": recipe["seed"]}
        rows.append(
            {"model": path.name, **how, **{k: v for k, v in training.items() if k != "device"}, **card["measured"]}
        )
    return pd.DataFrame(rows).set_index("model")


def _write(folder: Path, card: dict[str, Any]) -> dict[str, Any]:
    write_json(folder / "card.json", card)
    (folder / "README.md").write_text(_card_text(folder.name, card))
    return card


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3f}"


def _card_text(name: str, card: dict[str, Any]) -> str:
    recipe, training, measured = Recipe(**card["recipe"]), card["training"], card["measured"]
    numbers = "\n".join(f"| {k} | {_number(v)} |" for k, v in measured.items())
    busy = training.get("processor minutes")
    busy = f", of which it worked {busy}" if busy and busy < training["minutes"] / 2 else ""  # others worked on it, too
    kinds, images_only = len(world.SETS[recipe.data][0]), recipe.objective == "dino"
    shared = (
        "\n  Pictures and texts share the transformer, final layer norm and projection, which the file holds twice."
    )
    return f"""# {name}

A small {"image encoder" if images_only else "dual encoder"} ({measured["parameters"]:,.0f} parameters) trained from
nothing by `crossgap pretrain {name}` on pictures that crossgap draws: {kinds} kinds of cartoon things with
{len(world.NUISANCES)} nuisances. It has never seen a real photo.

- **Files**: {_loading(name, images_only)} Weights are fp16.
- **Data**: `world:{recipe.data}/train`, {recipe.pictures:,} pictures at strength {recipe.strength}{_captions(recipe)}.
- **Objective**: {_OBJECTIVES[recipe.objective].format(**card["recipe"])}.{shared if recipe.shared else ""}
- **Training**: {training["steps"]:,} steps of {recipe.batch}, {training["pictures seen"]:,} pictures seen,
  {training["minutes"]} minutes on {training["device"]}{busy}, seed {recipe.seed}.

| measured on held-out pictures | |
|---|---|
{numbers}

{_fixed(recipe)}
"""


def _fixed(recipe: Recipe) -> str:
    """How the recipe was found."""
    if recipe.objective == "dino":
        return _FIXED_BLIND
    if recipe.mention is None:
        return _FIXED
    return _FIXED_DEEPER if recipe.text_layers == recipe.image_layers else _FIXED_NANO


def _loading(name: str, images_only: bool) -> str:
    if images_only:
        return (
            "timm's `local-dir:` format, so\n"
            f'  `timm.create_model("local-dir:data/minis/{name}", pretrained=True)` loads it without crossgap.'
        )
    return (
        "open_clip's `local-dir:` format, so\n"
        f'  `open_clip.create_model_and_transforms("local-dir:data/minis/{name}")` and\n'
        f'  `open_clip.get_tokenizer("local-dir:data/minis/{name}")` load it without crossgap.'
    )


def _captions(recipe: Recipe) -> str:
    if recipe.objective == "dino":
        return ""
    epochs = f"of {recipe.epochs} epochs"
    if recipe.mention is None:
        told = f"a quarter of the captions are terse in the first {recipe.terse_epochs} {epochs}, none later"
    else:
        told = f"the kind alone is named in the first {recipe.kind_epochs} {epochs}, each nuisance with rate "
        told += f"{recipe.mention} later"
    return f", a new caption for each picture in each epoch;\n  {told}"
