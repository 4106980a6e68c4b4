"""``crossgap pretrain NAME``: trains a mini model from nothing and writes it with a model card.

The minis are honest, small, real models of the drawn world, in open_clip's ``local-dir:`` format (the image-only one in
timm's), so that every open_clip user can load them and the code path is the one of the real models.

recipes.py says what is trained, objectives.py how, views.py on which views of the pictures; loop.py does it, files.py
and cards.py write what is left of it. grid.py trains many nanos, and measures.py asks each what its world taught it.
"""

from pathlib import Path
from typing import Any

import torch

from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.paths import ROOT
from crossgap_lib.pretrain.cards import write_card
from crossgap_lib.pretrain.files import write_weights
from crossgap_lib.pretrain.loop import train
from crossgap_lib.pretrain.objectives import write_skeleton
from crossgap_lib.pretrain.recipes import RECIPES, Recipe, changed
from crossgap_lib.processes import locked

__all__ = ["RECIPES", "Recipe", "pretrain"]


def pretrain(
    name: str, *, out: Path | None = None, device: str | None = None, overrides: dict[str, Any] | None = None
) -> Path:
    """Trains the mini ``name``, writes checkpoint and model card to ``out`` (data/minis/NAME) and returns that folder.

    Epochs are checkpointed in runs/NAME, or beside ``out`` in OUT.run where that is given: a run that was cut off goes
    on from there, with the same result on the same machine. ``overrides`` changes fields of the recipe.

    Raises:
        CrossgapError: an unknown name or recipe field, a checkpoint of another recipe, or one that another run uses.
    """
    if name not in RECIPES:
        raise CrossgapError(f"There is no recipe {name!r}.{did_you_mean(name, RECIPES)}")
    recipe = changed(RECIPES[name], overrides or {})
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    run_folder = Path(f"{out}.run") if out else ROOT / "runs" / name
    out = Path(out or ROOT / "data" / "minis" / name)  # not into an installed package
    with locked(run_folder):
        net, seconds = train(recipe, run_folder, device=device)
    write_skeleton(out, recipe)
    write_weights(out, net)
    write_card(out, recipe, seconds, device)
    return out
