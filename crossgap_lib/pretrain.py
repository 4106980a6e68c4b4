"""``crossgap pretrain NAME``: trains a mini model from nothing and writes it with a model card.

The minis are honest, small, real models of the drawn world, in open_clip's ``local-dir:`` format, so that every
open_clip user can load them and the code path is the one of the real models.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from open_clip.loss import ClipLoss
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch.nn import functional as F

from crossgap_lib import metrics, world
from crossgap_lib.datasets import load_dataset
from crossgap_lib.encoding import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.inversion import oti
from crossgap_lib.models import load_model
from crossgap_lib.paths import MINIS, ROOT
from crossgap_lib.progress import bar
from crossgap_lib.tasks import class_prompts

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from the machine."""

    name: str
    objective: str = "clip"
    logit_scale: float = 100.0  # held there: pre-trained CLIP ends at 100, and that is what makes the gap wide
    pictures: int = 48_000
    epochs: int = 10  # of the learning-rate schedule
    terse_epochs: int = 6  # some captions are terse in these first epochs alone: kinds are learned first, then details
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 150  # steps
    seed: int = 0
    strength: float = 1.0  # nuisance strength of the world


RECIPES = {recipe.name: recipe for recipe in (Recipe("mini-clip"),)}

_WIDTH, _CONTEXT = 128, 24
_VISION = {"image_size": world.SIZE, "layers": 5, "width": _WIDTH, "head_width": 32, "patch_size": 8}
_TEXT = {"context_length": _CONTEXT, "width": _WIDTH, "heads": 4, "layers": 3, "pool_type": "argmax"}


# ---------------------------------------------------------------- the checkpoint's files


def _tokenizer(words: list[str]) -> Tokenizer:
    """One id a word, lower-cased; EOT has the highest id, because open_clip's ``argmax`` pooling finds it so."""
    specials = {"<pad>": 0, "<unk>": 1}
    ids = {**specials, **{w: i + 2 for i, w in enumerate(words)}}
    ids |= {"<sot>": len(ids), "<eot>": len(ids) + 1}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = [("<sot>", ids["<sot>"]), ("<eot>", ids["<eot>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<sot> $A <eot>", special_tokens=pair)
    return tokenizer


def _write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_skeleton(folder: Path) -> None:
    """Config and tokenizer of a mini in open_clip's ``local-dir:`` format; the weights come later."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(world.vocabulary())
    text = {**_TEXT, "vocab_size": tokenizer.get_vocab_size(), "hf_tokenizer_name": "./"}
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": world.SIZE}
    model_cfg = {"embed_dim": _WIDTH, "vision_cfg": _VISION, "text_cfg": text}
    _write_json(folder / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<sot>", "eos_token": "<eot>"}
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": _CONTEXT, **names}
    _write_json(folder / "tokenizer_config.json", fast)


def write_weights(folder: Path, net: torch.nn.Module) -> None:
    """fp16 weights: half the size, features off by up to 2e-3, so the card is measured after reloading them."""
    halves = {name: t.detach().cpu().half().contiguous() for name, t in net.state_dict().items()}
    save_file(halves, folder / "open_clip_model.safetensors", metadata={"format": "pt"})


def _new_net(folder: Path, seed: int) -> torch.nn.Module:
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"])


# ---------------------------------------------------------------- the data


def training_pictures(n: int, seed: int, strength: float) -> np.ndarray:
    """(n, 48, 48, 3) uint8, the first n training pictures of the world."""
    data = world.world_dataset("all/train", n=n, seed=seed, strength=strength)
    pictures = np.empty((n, world.SIZE, world.SIZE, 3), np.uint8)
    for k in bar(range(n), desc="drawing", unit="picture"):
        pictures[k] = np.asarray(data.load(k))
    return pictures


def _pixels(pictures: np.ndarray, rng: np.random.Generator | None, device: str) -> torch.Tensor:
    """(b, 48, 48, 3) uint8 -> normalised (b, 3, 48, 48); with ``rng`` each picture is shifted by up to 2 pixels."""
    batch = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float() / 255
    if rng is not None:
        padded = F.pad(batch, (2, 2, 2, 2), mode="replicate")
        offsets = rng.integers(0, 5, (len(batch), 2))
        shifted = [p[:, y : y + world.SIZE, x : x + world.SIZE] for p, (y, x) in zip(padded, offsets, strict=True)]
        batch = torch.stack(shifted)
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (MEAN, STD))
    return (batch - mean) / std


# ---------------------------------------------------------------- training


def _learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup) / max(1, total - recipe.warmup)))


def _optimizer(net: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """AdamW with decay on matrices alone, as open_clip trains."""
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))


class Checkpoint:
    """Net, optimizer and position of a run, written atomically after each epoch and refused by another recipe."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.path, self.recipe = folder / "checkpoint.pt", recipe

    def save(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer, epoch: int, seconds: float) -> None:
        state = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
        part = self.path.with_suffix(".part")
        torch.save({**state, "epoch": epoch, "seconds": seconds, "recipe": asdict(self.recipe)}, part)
        part.replace(self.path)

    def restore(self, net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """(epochs done, seconds spent); (0, 0.0) where there is nothing to resume."""
        if not self.path.exists():
            return 0, 0.0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if state["recipe"] != asdict(self.recipe):
            raise CrossgapError(f"{self.path} belongs to another recipe; remove it, or name another --out.")
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        return state["epoch"], state["seconds"]


def train(
    recipe: Recipe,
    run_folder: Path,
    *,
    device: str = "cpu",
    after_epoch: Callable[[int, torch.nn.Module], None] | None = None,
) -> tuple[torch.nn.Module, float]:
    """Trains to the end, resuming where a run was cut off; returns the net and the seconds of training."""
    write_skeleton(run_folder)
    net = _new_net(run_folder, recipe.seed).to(device)
    net.logit_scale.requires_grad_(False).fill_(math.log(recipe.logit_scale))
    optimizer, checkpoint = _optimizer(net, recipe), Checkpoint(run_folder, recipe)
    done, seconds = checkpoint.restore(net, optimizer)
    if done < recipe.epochs:
        pictures = training_pictures(recipe.pictures, recipe.seed, recipe.strength)
        factors = world.world_dataset(
            "all/train", n=recipe.pictures, seed=recipe.seed, strength=recipe.strength
        ).factors
        tokenize = open_clip.get_tokenizer(f"local-dir:{run_folder}")
    for epoch in range(done, recipe.epochs):
        started = time.monotonic()
        ids = _epoch_captions(factors, tokenize, recipe, epoch)
        _train_epoch(net, optimizer, pictures, ids, recipe, epoch, device)
        seconds += time.monotonic() - started
        checkpoint.save(net, optimizer, epoch + 1, seconds)
        if after_epoch:
            after_epoch(epoch, net)
    return net, seconds


def _epoch_captions(factors, tokenize: Callable, recipe: Recipe, epoch: int) -> torch.Tensor:
    """Token ids (n, context) of a fresh caption for each picture: what is mentioned changes from epoch to epoch."""
    rng = np.random.default_rng([recipe.seed, epoch])
    mention = world.MENTION if epoch < recipe.terse_epochs else world.MENTION | {"terse": 0.0}
    rows = (world.Factors(**row) for row in factors.to_dict("records"))
    return tokenize([world.caption(row, rng, mention) for row in rows])


def _train_epoch(net, optimizer, pictures, ids, recipe: Recipe, epoch: int, device: str) -> None:
    loss_fn, rng = ClipLoss(), np.random.default_rng([recipe.seed, epoch, 1])
    order = rng.permutation(len(pictures))
    per_epoch = len(pictures) // recipe.batch
    total = per_epoch * recipe.epochs
    net.train()
    steps = bar(range(per_epoch), desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="step")
    for k in steps:
        rows = order[k * recipe.batch : (k + 1) * recipe.batch]
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, epoch * per_epoch + k, total)
        images, texts, scale = net(_pixels(pictures[rows], rng, device), ids[rows].to(device))[:3]
        loss = loss_fn(images, texts, scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        if k % 50 == 0:
            steps.set_postfix(loss=f"{loss.item():.3f}")
    net.eval()


# ---------------------------------------------------------------- the whole run


def pretrain(
    name: str, *, out: Path | None = None, device: str | None = None, overrides: dict[str, Any] | None = None
) -> Path:
    """Trains the mini ``name``, writes checkpoint and model card to ``out`` (data/minis/NAME) and returns that folder.

    Epochs are checkpointed in runs/NAME: a run that was cut off goes on from there, with the same result on the
    same machine. ``overrides`` changes fields of the recipe.

    Raises:
        CrossgapError: an unknown name or recipe field, or a checkpoint of another recipe.
    """
    if name not in RECIPES:
        raise CrossgapError(f"There is no recipe {name!r}.{did_you_mean(name, RECIPES)}")
    known = {f.name: f.type for f in fields(Recipe)}
    if unknown := set(overrides or {}) - set(known):
        raise CrossgapError(f"A recipe has no field {sorted(unknown)}; there are {', '.join(known)}.")
    recipe = replace(RECIPES[name], **(overrides or {}))
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    out, run_folder = Path(out or MINIS / name), ROOT / "runs" / name
    net, seconds = train(recipe, run_folder, device=device)
    write_skeleton(out)
    write_weights(out, net)
    write_card(out, recipe, seconds, device)
    return out


def write_card(folder: Path, recipe: Recipe, seconds: float, device: str) -> dict[str, Any]:
    """Measures the written checkpoint and describes it in card.json and README.md."""
    pictures = recipe.epochs * (recipe.pictures // recipe.batch) * recipe.batch
    training = {"steps": pictures // recipe.batch, "pictures seen": pictures, "minutes": round(seconds / 60, 1)}
    card = {"recipe": asdict(recipe), "training": {**training, "device": device}, "measured": measure(folder)}
    _write_json(folder / "card.json", card)
    (folder / "README.md").write_text(_card_text(folder.name, card))
    return card


def measure(folder: Path) -> dict[str, float]:
    """The card's numbers, on held-out pictures and on the weights as written (fp16)."""
    model = load_model(f"local-dir:{folder}", device="cpu")
    everything, pets = (encode_images(model, load_dataset(f"world:{s}"), cache=False) for s in ("all", "dogs-vs-cats"))
    kinds, two = class_prompts(model, everything), class_prompts(model, pets)
    captions = encode_texts(model, everything.texts.tolist(), cache=False)
    inverted = oti(model, everything[:96], steps=150, cache=False)
    values = {
        "parameters": float(sum(p.numel() for p in model.net.parameters())),
        "zero-shot accuracy, all kinds": metrics.zero_shot_accuracy(everything, kinds),
        "modality gap": metrics.modality_gap(everything, captions),
        "dogs-vs-cats text-image mAP": metrics.mean_average_precision(two, pets),
        "dogs-vs-cats image-image mAP": metrics.mean_average_precision(pets, pets),
        "image-image mAP, all kinds": metrics.mean_average_precision(everything, everything),
        "OTI loss, 1 token, step 150": float(inverted.losses[-1].mean()),
    }
    return {name: round(float(value), 4) for name, value in values.items()}


def _card_text(name: str, card: dict[str, Any]) -> str:
    recipe, training, measured = card["recipe"], card["training"], card["measured"]
    numbers = "\n".join(f"| {k} | {v:,.0f} |" if v > 2 else f"| {k} | {v:.3f} |" for k, v in measured.items())
    return f"""# {name}

A small dual encoder ({measured["parameters"]:,.0f} parameters) trained from nothing by `crossgap pretrain {name}`
on pictures that crossgap draws. It knows {len(world.KINDS)} kinds of cartoon things and {len(world.NUISANCES)}
nuisances, and nothing of real photos.

- **Files**: open_clip's `local-dir:` format, so
  `open_clip.create_model_and_transforms("local-dir:data/minis/{name}")` and
  `open_clip.get_tokenizer("local-dir:data/minis/{name}")` load it without crossgap. Weights are fp16.
- **Data**: `world:all/train`, {recipe["pictures"]:,} pictures at nuisance strength {recipe["strength"]}, a new caption
  for each picture in each epoch.
- **Objective**: {recipe["objective"]}, logit scale held at {recipe["logit_scale"]:g}.
- **Training**: {training["steps"]:,} steps of {recipe["batch"]}, {training["pictures seen"]:,} pictures seen,
  {training["minutes"]} minutes on {training["device"]}, seed {recipe["seed"]}. A quarter of the captions are terse in
  the first {recipe["terse_epochs"]} of {recipe["epochs"]} epochs, none later.

| measured on held-out pictures | |
|---|---|
{numbers}

One seed. The world's nuisance strength and mention rates were fixed by zero-shot accuracy and dogs-vs-cats retrieval
alone, before looking at what inversion or projection do.
"""
