"""A procedural caption world: cartoon pictures whose every factor is known, with web-like captions.

The dominant concept is the *kind* (dog, cat, car, ...). Nine nuisances vary beside it: colour, background,
texture, accessory, size, position, rotation, blur and noise. Captions nearly always name the kind and name each
nuisance only sometimes, as web captions do. Two dials make it an experiment: the nuisance ``strength`` and how
often captions ``mention`` each nuisance. Picture k depends on (seed, split, k) alone, never on how many are drawn.
"""

from collections.abc import Collection, Mapping, Set
from dataclasses import asdict, dataclass, fields
from functools import cache, lru_cache, partial

import numpy as np
import pandas as pd
from PIL import Image, ImageColor, ImageDraw, ImageFilter

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.shapes import ACCESSORIES, KINDS, Shape
from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.store import digest

SIZE = 48  # pixels a side
_OVERSAMPLE = 3  # drawn this much larger, then averaged down: smooth edges
_VERSION = 2  # part of every fingerprint: raise it whenever a picture or a caption would change

COLOURS = {
    "red": "#d62f2f", "orange": "#f28a1e", "yellow": "#f0d22c", "green": "#2f9e41",
    "blue": "#2f5fd6", "purple": "#8a3fc0", "brown": "#8b5a2b", "gray": "#8d8d8d",
}  # fmt: skip
BACKGROUNDS = {
    "white": "#f7f7f7", "pink": "#f6b9cf", "cyan": "#a9e4ea", "beige": "#e6d3a8",
    "lime": "#c9e89a", "black": "#2b2b33",
}  # fmt: skip
TEXTURES = ("plain", "striped", "spotted", "checked")
# What no other world shows: for worlds that differ from those that a model was trained on. As many as are known, since
# then the same draw gives the same picture but for this factor.
UNSEEN: dict[str, Mapping | tuple] = {
    "colour": {
        "teal": "#1f9d99", "magenta": "#d92fb4", "olive": "#8fa81f", "navy": "#1d2c73",
        "salmon": "#f4a08c", "maroon": "#6d1430", "mint": "#9fe0b8", "khaki": "#c4b26a",
    },
    "background": {
        "lavender": "#cdbdf2", "petrol": "#1d5a5c", "slate": "#6c7b91", "mustard": "#c8a227",
        "wine": "#5b1b2c", "sky": "#8db7f0",
    },
    "texture": ("plain", "dashed", "ringed", "wavy"),
}  # fmt: skip
SIZES = {"small": 0.62, "medium": 0.78, "large": 0.94}  # half-extent of the kind / half-extent of the picture
POSITIONS = {"centre": (0, 0), "left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
_SHIFT = 0.2  # distance of "left" from the centre / half-extent of the picture
_MAX_TILT, _MAX_BLUR, _MAX_NOISE = 20.0, 0.8, 16.0  # degrees; pixels; grey levels (standard deviations)

# How often a caption names each factor. Captions differ in detail, as on the web: a ``terse`` one names each nuisance
# a tenth as often. Fixed, together with the nuisances' ranges, by zero-shot accuracy and dogs-vs-cats retrieval alone,
# before looking at what inversion or projection do.
MENTION: dict[str, float] = {
    "kind": 0.97, "colour": 0.85, "background": 0.85, "accessory": 0.85, "texture": 0.68,
    "size": 0.60, "position": 0.33, "tilt": 0.20, "blur": 0.20, "noise": 0.20, "terse": 0.25,
}  # fmt: skip
_TERSE_DETAIL = 0.1
SAID_FROM = {"tilt": 10.0, "blur": 0.4, "noise": 10.0}  # only a picture that is beyond these is called so
_OPENINGS = ("a photo of", "a photo of", "a photo of", "a drawing of", "a picture of", "")
_PREPOSITIONS = {"left": "on the left", "right": "on the right", "top": "at the top", "bottom": "at the bottom"}


@dataclass(frozen=True)
class Factors:
    """Everything that determines a picture; ``noise_seed`` only picks the grain."""

    kind: str
    colour: str = "gray"
    background: str = "white"
    texture: str = "plain"
    accessory: str = "none"
    size: str = "medium"
    position: str = "centre"
    tilt: float = 0.0  # degrees, clockwise
    blur: float = 0.0  # radius in pixels
    noise: float = 0.0  # standard deviation in grey levels
    noise_seed: int = 0


NUISANCES = tuple(f.name for f in fields(Factors) if f.name not in ("kind", "noise_seed"))


# ---------------------------------------------------------------- factors


def draw_factors(kind: str, rng: np.random.Generator, strength: float = 1.0, unseen: Collection[str] = ()) -> Factors:
    """The factors of one picture. With ``strength`` 0 every nuisance has its default.

    A categorical nuisance (colour, size, ...) leaves its default with probability ``strength``; a continuous one (tilt,
    blur, noise) is multiplied by it. Those in ``unseen`` take their values from ``UNSEEN``.
    """
    known = {"colour": COLOURS, "background": BACKGROUNDS, "texture": TEXTURES}
    values = known | {name: UNSEEN[name] for name in unseen}

    def pick(default: str, values: Mapping | tuple) -> str:
        chosen, leaves = list(values)[rng.integers(len(values))], rng.random() < strength
        return chosen if leaves else default

    return Factors(
        kind=kind,
        colour=pick("gray", values["colour"]),
        background=pick("white", values["background"]),
        texture=pick("plain", values["texture"]),
        accessory=pick("none", ("none", *ACCESSORIES)),
        size=pick("medium", SIZES),
        position=pick("centre", POSITIONS),
        tilt=float(strength * rng.uniform(-_MAX_TILT, _MAX_TILT)),
        blur=float(strength * max(0.0, rng.uniform(-_MAX_BLUR, _MAX_BLUR))),  # half the pictures are sharp
        noise=float(strength * rng.uniform(0, _MAX_NOISE)),
        noise_seed=int(rng.integers(2**31)),
    )


# ---------------------------------------------------------------- pictures


def _place(polygon: np.ndarray, factors: Factors) -> list[tuple[float, float]]:
    """A polygon (m, 2) in unit coordinates -> its points in oversampled pixels: turned, scaled, shifted."""
    angle = np.radians(factors.tilt)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shift = np.array(POSITIONS[factors.position]) * _SHIFT
    points = polygon @ turn * SIZES[factors.size] * 0.9 + shift  # (m, 2) in [-1, 1]
    return [tuple(p) for p in (points + 1) / 2 * SIZE * _OVERSAMPLE]


def _tone(colour: str, towards: str, share: float) -> tuple[int, ...]:
    a, b = (np.array(ImageColor.getrgb(c)) for c in (colour, towards))
    return tuple(int(v) for v in np.round(a + (b - a) * share))


@cache
def _grid() -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[: SIZE * _OVERSAMPLE, : SIZE * _OVERSAMPLE] / _OVERSAMPLE  # pixels of the final picture
    return x, y


def _texture_mask(texture: str, tilt: float) -> np.ndarray:
    """(side, side) bool: the pixels that take the second tone; the pattern turns with the kind."""
    x, y = _grid()
    angle = np.radians(tilt)
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    if texture == "striped":
        return np.mod(u, 6) < 2.6
    if texture == "checked":
        return (np.mod(u, 8) < 4) ^ (np.mod(v, 8) < 4)
    if texture == "dashed":
        return (np.mod(u, 6) < 2.6) & (np.mod(v, 9) < 5.5)
    if texture == "ringed":
        return np.mod(np.hypot(x - SIZE / 2, y - SIZE / 2), 6) < 2.6
    if texture == "wavy":
        return np.mod(v + 1.5 * np.sin(u * np.pi / 6), 6) < 2.6
    return (np.mod(u, 7) - 3.5) ** 2 + (np.mod(v, 7) - 3.5) ** 2 < 4.2  # spotted


def _paint(canvas: Image.Image, shape: Shape, factors: Factors) -> None:
    """Draws the outlines, then every polygon in order, then the texture on what is painted ``body``."""
    colour = {**COLOURS, **UNSEEN["colour"]}[factors.colour]
    tones = {
        "body": ImageColor.getrgb(colour),
        "light": _tone(colour, "white", 0.55),
        "shade": _tone(colour, "black", 0.35),
    }
    pen, body = ImageDraw.Draw(canvas), Image.new("L", canvas.size)
    mask = ImageDraw.Draw(body)
    placed = [(paint, _place(polygon, factors)) for paint, polygon in shape]
    for _, points in placed:
        pen.line([*points, points[0]], fill=(20, 20, 20), width=3, joint="curve")
    for paint, points in placed:
        pen.polygon(points, fill=tones.get(paint, paint))
        mask.polygon(points, fill=255 if paint == "body" else 0)
    if factors.texture != "plain":
        second = Image.new("RGB", canvas.size, _tone(colour, "white" if factors.colour != "yellow" else "black", 0.6))
        where = _texture_mask(factors.texture, factors.tilt) & (np.asarray(body) > 0)
        canvas.paste(second, mask=Image.fromarray(where.astype(np.uint8) * 255))


def draw(factors: Factors) -> Image.Image:
    """The picture of these factors: (48, 48) RGB, about 2 ms."""
    ground = {**BACKGROUNDS, **UNSEEN["background"]}[factors.background]
    canvas = Image.new("RGB", (SIZE * _OVERSAMPLE,) * 2, ground)
    _paint(canvas, KINDS[factors.kind], factors)
    if factors.accessory != "none":
        plain = Factors(kind=factors.kind, size=factors.size, position=factors.position, tilt=factors.tilt)
        _paint(canvas, ACCESSORIES[factors.accessory], plain)
    picture = canvas.reduce(_OVERSAMPLE)
    if factors.blur:
        picture = picture.filter(ImageFilter.GaussianBlur(factors.blur))
    if factors.noise:
        grain = np.random.default_rng(factors.noise_seed).normal(0, factors.noise, (SIZE, SIZE, 3))
        picture = Image.fromarray(np.clip(np.asarray(picture) + grain, 0, 255).astype(np.uint8))
    return picture


_drawn = lru_cache(maxsize=2**13)(draw)  # 57 MB: several models are shown the same pictures


# ---------------------------------------------------------------- captions


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def _phrase(name: str, factors: Factors) -> str:
    """How a caption names the factor ``name``; "" if it has nothing to say of it."""
    value = getattr(factors, name)
    return {
        "kind": lambda: value,
        "colour": lambda: value,
        "background": lambda: f"on {_with_article(value)} background",
        "texture": lambda: "" if value == "plain" else value,
        "accessory": lambda: "" if value == "none" else f"with {_with_article(value)}",
        "size": lambda: value,
        "position": lambda: _PREPOSITIONS.get(value, ""),
        "tilt": lambda: "tilted" if abs(value) > SAID_FROM["tilt"] else "",
        "blur": lambda: "blurry" if value > SAID_FROM["blur"] else "",
        "noise": lambda: "grainy" if value > SAID_FROM["noise"] else "",
    }[name]()


_WORD_ORDER = ("size", "tilt", "colour", "texture", "kind", "accessory", "background", "position", "blur", "noise")


def sentence(factors: Factors, said: Set[str], opening: str = _OPENINGS[0]) -> str:
    """The caption that names the factors in ``said``; where the kind is not among them, it speaks of a thing."""
    words = [_phrase(name, factors) if name in said else "" for name in _WORD_ORDER]
    if "kind" not in said:
        words[_WORD_ORDER.index("kind")] = "thing"
    return f"{opening} {_with_article(' '.join(w for w in words if w))}".strip()


def caption(factors: Factors, rng: np.random.Generator, mention: Mapping[str, float] = MENTION) -> str:
    """One caption, such as "a photo of a small red striped dog with a hat on a pink background"."""
    detail = _TERSE_DETAIL if rng.random() < mention.get("terse", 0.0) else 1.0
    rates = {name: mention.get(name, 0.0) * (1.0 if name == "kind" else detail) for name in _WORD_ORDER}
    said = {name for name, rate in rates.items() if rng.random() < rate}
    return sentence(factors, said, _OPENINGS[rng.integers(len(_OPENINGS))])


def vocabulary() -> list[str]:
    """Every word a caption can hold, sorted."""
    phrases = (*_OPENINGS, "a an thing tilted blurry grainy with on background", *_PREPOSITIONS.values())
    names = {*KINDS, *COLOURS, *BACKGROUNDS, *TEXTURES, *ACCESSORIES, *SIZES} - {"plain"}  # never said
    return sorted({word for phrase in (*phrases, *names) for word in phrase.split()})


# ---------------------------------------------------------------- data sets

SETS = {  # kinds, default size; a set's place is in the seeds of its pictures, so new ones come last
    "dogs-vs-cats": (("cat", "dog"), 1000),
    "all": (tuple(KINDS), 2400),
    "animals": (tuple(KINDS)[:12], 1200),
}
_SPLITS = {"test": 0, "train": 1, "val": 2}


def _draw_row(rows: list[Factors], k: int) -> Image.Image:
    """A function of the module, since a Dataset that is sent to worker processes can't hold a closure."""
    return _drawn(rows[k]).copy()


def _check(name: str, split: str, n: int, strength: float, mention: Mapping[str, float]) -> None:
    if name not in SETS or split not in _SPLITS:
        known = [f"world:{s}" for s in SETS] + [f"world:{s}/{p}" for s in SETS for p in _SPLITS]
        raise CrossgapError(f"No data set world:{name}/{split}.{did_you_mean(f'world:{name}/{split}', known)}")
    if n < 1 or not 0 <= strength <= 1:
        raise CrossgapError(f"A world needs n >= 1 and a strength in [0, 1], not n={n}, strength={strength}.")
    if unknown := set(mention) - set(MENTION):
        raise CrossgapError(f"No factor {sorted(unknown)} to mention; there are {', '.join(MENTION)}.")
    if not all(0 <= rate <= 1 for rate in mention.values()):
        raise CrossgapError("A mention rate is a probability in [0, 1].")


def world_dataset(
    spec: str,
    *,
    n: int | None = None,
    seed: int = 0,
    strength: float = 1.0,
    mention: Mapping[str, float] | None = None,
    n_captions: int = 1,
    unseen: Collection[str] = (),
) -> Dataset:
    """``dogs-vs-cats``, ``animals`` or ``all``, with ``/train`` or ``/val`` for the other splits; else held out.

    Kinds take turns, so classes are balanced. ``mention`` overrides single rates of ``MENTION``; ``n_captions``
    captions are drawn for each picture. Of the nuisances in ``unseen`` (colour, background, texture) pictures show
    values that no other world shows, and captions, which have no word for them, say nothing; all else is as without.

    Raises:
        CrossgapError: an unknown set, split or factor, or a value out of range.
    """
    name, _, split = spec.partition("/")
    split = split or "test"
    kinds, default_n = SETS.get(name, ((), 0))
    n, rates = default_n if n is None else n, {**MENTION, **(mention or {})}
    _check(name, split, n, strength, rates)
    if unknown := set(unseen) - set(UNSEEN):
        raise CrossgapError(f"No unseen values of {sorted(unknown)}; there are those of {', '.join(UNSEEN)}.")
    if seed < 0 or n_captions < 1:
        raise CrossgapError(f"A world needs seed >= 0 and n_captions >= 1, not seed={seed}, n_captions={n_captions}.")
    # dogs-vs-cats must not repeat the pictures of "all", hence the set's own stream.
    stream = [seed, _SPLITS[split], list(SETS).index(name)]
    rngs = [np.random.default_rng([*stream, k]) for k in range(n)]
    rows = [draw_factors(kinds[k % len(kinds)], rng, strength, unseen) for k, rng in enumerate(rngs)]
    rates |= dict.fromkeys(unseen, 0.0)
    captions = tuple(
        tuple(caption(f, rng, rates) for _ in range(n_captions)) for f, rng in zip(rows, rngs, strict=True)
    )
    facts = (_VERSION, spec, split, n, seed, strength, sorted(rates.items()), n_captions, *sorted(unseen))
    return Dataset(
        name=f"world:{spec}",
        ids=np.array([f"world-{name}-{split}-{seed}-{k:06d}" for k in range(n)]),
        load=partial(_draw_row, rows),
        fingerprint=digest(facts),
        labels=np.arange(n) % len(kinds),
        class_names=tuple(kinds),
        captions=captions,
        factors=pd.DataFrame([asdict(f) for f in rows]),
    )
