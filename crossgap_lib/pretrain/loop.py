"""The training loop: one epoch after the other, checkpointed, the same result on the same machine."""

import math
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import OneHotEncoder, normalize

from crossgap_lib.datasets import world
from crossgap_lib.errors import CrossgapError
from crossgap_lib.pretrain import views
from crossgap_lib.pretrain.objectives import Batch, Objective, make_objective, write_skeleton
from crossgap_lib.pretrain.recipes import Recipe
from crossgap_lib.progress import bar
from crossgap_lib.store import whole


def clocks() -> np.ndarray:
    """(2,) seconds: of the wall clock, and of what this process's threads computed, fewer where others compute, too."""
    return np.array([time.monotonic(), time.process_time()])


def training_set(recipe: Recipe) -> tuple[np.ndarray, pd.DataFrame]:
    """(n, 48, 48, 3) uint8, the first n training pictures of the world, and their factors."""
    facts = {"seed": recipe.seed, "strength": recipe.strength, "mention": recipe.rates}
    data = world.world_dataset(f"{recipe.data}/train", n=recipe.pictures, **facts)
    pictures = np.empty((len(data), world.SIZE, world.SIZE, 3), np.uint8)
    for k in bar(range(len(data)), desc="drawing", unit="picture"):
        pictures[k] = np.asarray(data.load(k))
    return pictures, data.factors


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
    """All of a run's state, written atomically after each epoch and refused by another recipe."""

    def __init__(self, folder: Path, recipe: Recipe):
        self.path, self.recipe = folder / "checkpoint.pt", recipe

    def save(self, objective: Objective, optimizer: torch.optim.Optimizer, epoch: int, seconds: np.ndarray) -> None:
        state = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
        with whole(self.path) as part:
            torch.save({**state, "epoch": epoch, "seconds": seconds.tolist(), "recipe": asdict(self.recipe)}, part)

    def restore(self, objective: Objective, optimizer: torch.optim.Optimizer) -> tuple[int, np.ndarray]:
        """(epochs done, seconds spent as ``clocks`` has them); zeros where there is nothing to resume."""
        for unfinished in self.path.parent.glob(f".{self.path.stem}.*"):  # of a process that was killed
            unfinished.unlink()
        if not self.path.exists():
            return 0, np.zeros(2)
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if not self.recipe.is_kept_as(state["recipe"]):
            raise CrossgapError(f"{self.path} belongs to another recipe; remove it, or name another --out.")
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        return state["epoch"], np.array(state["seconds"])


def train(
    recipe: Recipe,
    run_folder: Path,
    *,
    device: str = "cpu",
    after_epoch: Callable[[int, Objective], None] | None = None,
) -> tuple[torch.nn.Module, np.ndarray]:
    """Trains to the end, resuming where a run was cut off; returns the encoder to ship and its seconds (``clocks``)."""
    write_skeleton(run_folder, recipe)
    objective = make_objective(recipe, run_folder).to(device)
    optimizer, checkpoint = _optimizer(objective, recipe), Checkpoint(run_folder, recipe)
    done, seconds = checkpoint.restore(objective, optimizer)
    started = clocks()
    if done < recipe.epochs:
        pictures, factors = training_set(recipe)
    for epoch in range(done, recipe.epochs):
        captions = _epoch_captions(factors, run_folder, recipe, epoch)
        _train_epoch(objective, optimizer, pictures, captions, recipe, epoch, device)
        seconds, started = seconds + clocks() - started, clocks()
        checkpoint.save(objective, optimizer, epoch + 1, seconds)
        if after_epoch:
            after_epoch(epoch, objective)
    return objective.shipped(), seconds


def _epoch_captions(
    factors: pd.DataFrame, folder: Path, recipe: Recipe, epoch: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids (n, context) and ``_meanings`` of a fresh caption for each picture.

    What is mentioned changes from epoch to epoch.
    """
    if recipe.objective == "dino":
        return torch.empty(len(factors), 0, dtype=torch.long), torch.empty(len(factors), 0)  # it reads none
    rng = np.random.default_rng([recipe.seed, epoch])
    mention = recipe.rates_in(epoch)
    rows = (world.Factors(**row) for row in factors.to_dict("records"))
    captions = [world.caption(row, rng, mention) for row in rows]
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(captions)
    return ids, _meanings(captions, factors, recipe)


def _meanings(captions: list[str], factors: pd.DataFrame, recipe: Recipe) -> torch.Tensor:
    """What captions mean, for AlignCLIP: (n, words) of unit norm, whose cosines say how alike they are.

    The paper has a frozen sentence encoder for it. Here it is TF-IDF, which knows every word of these captions, or the
    known factors, whether captions name them or not: the cosine is then the share of the ten that two pictures have in
    common. Tilt, blur and noise count as two values each: beyond the bound at which captions speak of them, or not.
    """
    if recipe.objective != "align":
        return torch.empty(len(captions), 0)
    if recipe.meaning == "tfidf":
        rows = TfidfVectorizer().fit_transform(captions)
    else:
        beyond = {name: factors[name].abs() > bound for name, bound in world.SAID_FROM.items()}
        told = factors.assign(**beyond).drop(columns="noise_seed")
        rows = normalize(OneHotEncoder().fit_transform(told))
    return torch.from_numpy(rows.toarray()).float()


def _train_epoch(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    pictures: np.ndarray,
    captions: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe,
    epoch: int,
    device: str,
) -> None:
    rng = np.random.default_rng([recipe.seed, epoch, 1])
    order, first = rng.permutation(len(pictures)), epoch * recipe.steps_per_epoch
    objective.train()
    steps = bar(range(recipe.steps_per_epoch), desc=f"epoch {epoch + 1}/{recipe.epochs}", unit="step")
    for k in steps:
        rows = order[k * recipe.batch : (k + 1) * recipe.batch]
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(recipe, first + k, recipe.steps)
        read = (part[rows].to(device) for part in captions)
        loss = objective.loss(Batch(views.pixels(pictures[rows], device), *read, rng))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        objective.after_step((first + k + 1) / recipe.steps)
        if k % 50 == 0:
            steps.set_postfix(loss=f"{loss.item():.3f}")
    objective.eval()
