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

from crossgap_lib.datasets import world
from crossgap_lib.errors import CrossgapError
from crossgap_lib.pretrain import views
from crossgap_lib.pretrain.objectives import Batch, Objective, make_objective, write_skeleton
from crossgap_lib.pretrain.recipes import Recipe
from crossgap_lib.progress import bar
from crossgap_lib.store import whole


def training_set(recipe: Recipe) -> tuple[np.ndarray, pd.DataFrame]:
    """(n, 48, 48, 3) uint8, the first n training pictures of the world, and their factors."""
    data = world.world_dataset("all/train", n=recipe.pictures, seed=recipe.seed, strength=recipe.strength)
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

    def save(self, objective: Objective, optimizer: torch.optim.Optimizer, epoch: int, seconds: float) -> None:
        state = {"objective": objective.state_dict(), "optimizer": optimizer.state_dict()}
        with whole(self.path) as part:
            torch.save({**state, "epoch": epoch, "seconds": seconds, "recipe": asdict(self.recipe)}, part)

    def restore(self, objective: Objective, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
        """(epochs done, seconds spent); (0, 0.0) where there is nothing to resume."""
        for unfinished in self.path.parent.glob(f".{self.path.stem}.*"):  # of a process that was killed
            unfinished.unlink()
        if not self.path.exists():
            return 0, 0.0
        state = torch.load(self.path, weights_only=True, map_location="cpu")
        if state["recipe"] != asdict(self.recipe):
            raise CrossgapError(f"{self.path} belongs to another recipe; remove it, or name another --out.")
        objective.load_state_dict(state["objective"])
        optimizer.load_state_dict(state["optimizer"])
        return state["epoch"], state["seconds"]


def train(
    recipe: Recipe,
    run_folder: Path,
    *,
    device: str = "cpu",
    after_epoch: Callable[[int, Objective], None] | None = None,
) -> tuple[torch.nn.Module, float]:
    """Trains to the end, resuming where a run was cut off; returns the encoder to ship and the seconds of training."""
    write_skeleton(run_folder, recipe.objective)
    objective = make_objective(recipe, run_folder).to(device)
    optimizer, checkpoint = _optimizer(objective, recipe), Checkpoint(run_folder, recipe)
    done, seconds = checkpoint.restore(objective, optimizer)
    if done < recipe.epochs:
        pictures, factors = training_set(recipe)
    for epoch in range(done, recipe.epochs):
        started = time.monotonic()
        ids = _epoch_captions(factors, run_folder, recipe, epoch)
        _train_epoch(objective, optimizer, pictures, ids, recipe, epoch, device)
        seconds += time.monotonic() - started
        checkpoint.save(objective, optimizer, epoch + 1, seconds)
        if after_epoch:
            after_epoch(epoch, objective)
    return objective.shipped(), seconds


def _epoch_captions(factors: pd.DataFrame, folder: Path, recipe: Recipe, epoch: int) -> torch.Tensor:
    """Token ids (n, context) of a fresh caption for each picture: what is mentioned changes from epoch to epoch."""
    if recipe.objective == "dino":
        return torch.empty(len(factors), 0, dtype=torch.long)  # it reads none
    rng = np.random.default_rng([recipe.seed, epoch])
    mention = world.MENTION if epoch < recipe.terse_epochs else world.MENTION | {"terse": 0.0}
    rows = (world.Factors(**row) for row in factors.to_dict("records"))
    return open_clip.get_tokenizer(f"local-dir:{folder}")([world.caption(row, rng, mention) for row in rows])


def _train_epoch(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    pictures: np.ndarray,
    ids: torch.Tensor,
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
        loss = objective.loss(Batch(views.pixels(pictures[rows], device), ids[rows].to(device), rng))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(objective.parameters(), 1.0)
        optimizer.step()
        objective.after_step((first + k + 1) / recipe.steps)
        if k % 50 == 0:
            steps.set_postfix(loss=f"{loss.item():.3f}")
    objective.eval()
