"""What determines the training of each mini: same world, same budget, same tower; the objective differs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a training run, apart from the machine."""

    name: str
    objective: str = "clip"  # a name in objectives.OBJECTIVES
    logit_scale: float = 100.0  # pre-trained CLIP ends at 100, and that is what makes the gap wide
    learned_scale: bool = False  # else it is held where it is, which the CLIP minis do
    pictures: int = 48_000
    epochs: int = 10  # of the learning-rate schedule
    terse_epochs: int = 6  # some captions are terse in these first epochs alone: kinds are learned first, then details
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.1
    warmup: int = 150  # steps
    seed: int = 0
    strength: float = 1.0  # nuisance strength of the world

    @property
    def steps_per_epoch(self) -> int:
        return self.pictures // self.batch

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs


# As published (Zhai et al. 2023): scale and bias begin at 10 and -10 and are learned. Held at 100 from the
# first step on, the sigmoid loss learned slowly: zero-shot 0.29 after half of the run.
_SIGLIP = {"logit_scale": 10.0, "learned_scale": True}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("mini-clip"),
        Recipe("mini-clip-tau1", logit_scale=1.0),
        Recipe("mini-siglip", objective="siglip", **_SIGLIP),
        Recipe("mini-slip", objective="slip"),
        Recipe("mini-siglip2", objective="siglip2", **_SIGLIP),
        Recipe("mini-dino", objective="dino"),
    )
}
