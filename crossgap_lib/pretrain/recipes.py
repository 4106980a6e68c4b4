"""What determines the training of each mini: same world, same budget, same tower; the objective differs.

The nanos are smaller, and differ in what captions say and in how much pictures differ beside their kind.
"""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from crossgap_lib.datasets import world
from crossgap_lib.errors import CrossgapError

_WORDS = {"separate": ("image", "both"), "meaning": ("tfidf", "factors")}  # that these fields of a recipe may hold


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
    data: str = "all"  # which set of the world
    mention: float | None = None  # how often captions name each nuisance; None: as the world's MENTION has it
    kind_epochs: int = 0  # captions name the kind alone in these first epochs
    width: int = 128  # of both towers, and of the embedding
    image_layers: int = 5
    text_layers: int = 3
    shared: bool = False  # one transformer, final layer norm and projection for pictures and texts (SharedCLIP)
    separate: str = "image"  # for align: whose features are pushed apart, those of "image" alone or of "both"
    meaning: str = "tfidf"  # for align: by what captions are alike, "tfidf" of their words or the known "factors"

    def __post_init__(self):
        for field, known in _WORDS.items():
            if getattr(self, field) not in known:
                raise CrossgapError(f"A recipe's {field} is {' or '.join(known)}, not {getattr(self, field)!r}.")
        if self.shared and self.image_layers != self.text_layers:
            raise CrossgapError("A recipe with shared=true needs as many text_layers as image_layers.")

    @property
    def steps_per_epoch(self) -> int:
        return self.pictures // self.batch

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    @property
    def rates(self) -> dict[str, float]:
        """How often captions name each factor, once the first epochs are over."""
        if self.mention is None:
            return world.MENTION | {"terse": 0.0}
        return dict.fromkeys(world.NUISANCES, self.mention) | {"kind": world.MENTION["kind"], "terse": 0.0}

    def rates_in(self, epoch: int) -> dict[str, float]:
        """How often they do in an epoch of training, counted from 0."""
        if epoch < self.kind_epochs:
            return {"kind": world.MENTION["kind"]}
        return self.rates | {"terse": world.MENTION["terse"] if epoch < self.terse_epochs else 0.0}

    def is_kept_as(self, kept: dict[str, Any]) -> bool:
        """Whether ``kept`` is this recipe as a dict; a field that it lacks is a newer one, and had its default."""
        return asdict(Recipe(self.name)) | kept == asdict(self)


# As published (Zhai et al. 2023): scale and bias begin at 10 and -10 and are learned. Held at 100 from the
# first step on, the sigmoid loss learned slowly: zero-shot 0.29 after half of the run.
_SIGLIP = {"logit_scale": 10.0, "learned_scale": True}
_CLIP_LEARNED = {"logit_scale": 1 / 0.07, "learned_scale": True}  # from where CLIP begins (Radford et al. 2021)

# Fixed on seed 0, mention 0.6 and strength 1 by zero-shot accuracy (0.85 at least) and time alone, before any cell of
# the grid was trained, and without a look at what inversion, projection or image-image retrieval do.
_NANO = Recipe(
    "nano",
    data="animals",
    width=96,
    image_layers=4,
    text_layers=2,
    pictures=16_000,
    epochs=12,
    terse_epochs=0,
    kind_epochs=4,
    lr=2e-3,
)


def nano(
    mention: float, strength: float = 1.0, seed: int = 0, objective: str = "clip", learned_scale: bool = False
) -> Recipe:
    """A nano by what sets it apart, which its name says, too: ``nano-m06-s03-seed1-slip``.

    ``learned_scale`` is for CLIP's loss: the logit scale is learned from CLIP's beginning on. SigLIP's always is.
    """
    name, scale = f"nano-m{_digits(mention)}", {}
    if strength != _NANO.strength:
        name += f"-s{_digits(strength)}"
    if seed != _NANO.seed:
        name += f"-seed{seed}"
    if objective != _NANO.objective:
        name += f"-{objective}"
    if objective.startswith("siglip"):
        scale = _SIGLIP
    elif learned_scale:
        name, scale = f"{name}-learned", _CLIP_LEARNED
    return replace(_NANO, name=name, mention=mention, strength=strength, seed=seed, objective=objective, **scale)


def _digits(share: float) -> str:
    """0.3 -> "03", 1.0 -> "1"."""
    return f"{share:g}".replace(".", "")


# AlignCLIP (Eslami and de Melo 2025) and what it is compared with. A shared transformer has one depth for pictures and
# texts, so the model with two of them gets the same. The rest is nano's.
_TWO = replace(nano(0.6), name="nano-two", text_layers=_NANO.image_layers)
_SHARED = replace(_TWO, name="nano-shared", shared=True)
_ALIGN = replace(_SHARED, name="nano-align", objective="align")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("mini-clip"),
        Recipe("mini-clip-tau1", logit_scale=1.0),
        Recipe("mini-siglip", objective="siglip", **_SIGLIP),
        Recipe("mini-slip", objective="slip"),
        Recipe("mini-siglip2", objective="siglip2", **_SIGLIP),
        Recipe("mini-dino", objective="dino"),
        *(nano(mention) for mention in (0.0, 0.3, 0.6, 1.0)),
        *(_TWO, _SHARED, _ALIGN, replace(_ALIGN, name="nano-align-both", separate="both")),
    )
}


def changed(recipe: Recipe, overrides: dict[str, Any]) -> Recipe:
    """The recipe with other values for some fields; raises CrossgapError for a field that there is not."""
    known = [field.name for field in fields(Recipe)]
    if unknown := sorted(set(overrides) - set(known)):
        raise CrossgapError(f"A recipe has no field {unknown}; there are {', '.join(known)}.")
    return replace(recipe, **overrides)
