"""The drawn world: what depends on what, what captions say, and that sets do not share pictures."""

import string
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageColor

from crossgap_lib.datasets import world
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.world import (
    BACKGROUNDS,
    COLOURS,
    MENTION,
    NUISANCES,
    UNSEEN,
    Factors,
    caption,
    draw,
    draw_factors,
    world_dataset,
)
from crossgap_lib.errors import CrossgapError

PLAIN = {name: float(name == "kind") for name in MENTION}
EVERYTHING = {**dict.fromkeys(MENTION, 1.0), "terse": 0.0}
CATEGORICAL = ("colour", "background", "texture", "accessory", "size", "position")


def pixels(data, k):
    return np.asarray(data.picture(k)).astype(int)


def same(left, right, k):
    """Whether picture, factors and captions of row k agree."""
    factors = left.factors.iloc[k].equals(right.factors.iloc[k])
    return np.array_equal(pixels(left, k), pixels(right, k)) and factors and left.captions[k] == right.captions[k]


# ---------------------------------------------------------------- what a picture depends on


@pytest.mark.parametrize("spec", ["all", "all/train", "dogs-vs-cats"])
def test_picture_k_does_not_depend_on_how_many_are_drawn(spec):
    few, many = world_dataset(spec, n=5), world_dataset(spec, n=60)
    assert all(same(few, many, k) for k in range(5))
    assert few.ids.tolist() == many.ids[:5].tolist()


def test_pictures_do_not_depend_on_the_order_of_drawing():
    data, again = world_dataset("all", n=6), world_dataset("all", n=6)
    forwards = [pixels(data, k) for k in range(6)]
    backwards = [pixels(again, k) for k in reversed(range(6))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(forwards, backwards, strict=True))


def test_the_same_seed_gives_the_same_bytes():
    a, b = world_dataset("all", n=24, seed=3), world_dataset("all", n=24, seed=3)
    assert all(np.array_equal(pixels(a, k), pixels(b, k)) for k in range(24))
    assert (a.captions, a.fingerprint) == (b.captions, b.fingerprint)


@pytest.mark.parametrize("other", [{"seed": 1}, {"spec": "all/train"}, {"spec": "all/val"}])
def test_another_seed_or_split_gives_other_pictures(other):
    data = world_dataset("all", n=24)
    changed = world_dataset(**{"spec": "all", "n": 24, **other})
    assert not any(np.array_equal(pixels(data, k), pixels(changed, k)) for k in range(24))
    assert not set(data.ids) & set(changed.ids)
    assert data.labels.tolist() == changed.labels.tolist()


def test_captions_are_drawn_beside_the_picture_and_leave_it_alone():
    one, three = world_dataset("all", n=12), world_dataset("all", n=12, n_captions=3, mention={"colour": 0.0})
    assert all(np.array_equal(pixels(one, k), pixels(three, k)) for k in range(12))
    assert one.factors.equals(three.factors)
    assert {len(several) for several in three.captions} == {3}
    assert len({several for several in three.captions if len(set(several)) > 1}) > 3  # captions of a picture differ


@pytest.mark.parametrize("factor", list(UNSEEN))
def test_an_unseen_world_differs_in_what_no_other_world_shows_and_in_nothing_else(factor):
    data, other = world_dataset("all", n=72), world_dataset("all", n=72, unseen=[factor])
    assert data.factors.drop(columns=factor).equals(other.factors.drop(columns=factor))
    shown = set(other.factors[factor])
    assert shown == set(UNSEEN[factor])
    assert shown & set(data.factors[factor]) <= {"plain"}
    said = world_dataset("all", n=72, mention={factor: 0.0})
    assert other.captions == said.captions  # all else is said, and this is not
    alike = [np.array_equal(pixels(data, k), pixels(other, k)) for k in range(72)]
    assert alike == list(data.factors[factor] == "plain")


def test_unseen_values_look_unlike_the_known_ones():
    """No unseen colour or background is as near to a known one as the two nearest known ones are to each other."""
    for factor, known in (("colour", COLOURS), ("background", BACKGROUNDS)):
        old, new = (np.array([ImageColor.getrgb(c) for c in v.values()], float) for v in (known, UNSEEN[factor]))
        among = np.linalg.norm(old[:, None] - old, axis=-1)[~np.eye(len(old), dtype=bool)].min()
        assert np.linalg.norm(new[:, None] - old, axis=-1).min() > 0.75 * among


def test_pictures_are_small_and_rgb_and_each_its_own():
    data = world_dataset("all", n=48)
    pictures = [data.picture(k) for k in range(48)]
    assert {(p.mode, p.size) for p in pictures} == {("RGB", (48, 48))}
    assert len({p.tobytes() for p in pictures}) == 48


def test_a_world_can_be_sent_to_another_process():
    ForkingPickler.dumps(world_dataset("all", n=2))


# ---------------------------------------------------------------- kinds and nuisances


def test_there_are_kinds_and_nuisances_enough():
    assert len(world.KINDS) >= 24
    assert len(NUISANCES) >= 7
    assert {*NUISANCES, "kind", "terse"} == set(MENTION)


def test_every_kind_looks_different():
    plain = [draw(Factors(kind)).tobytes() for kind in world.KINDS]
    assert len(set(plain)) == len(world.KINDS)
    blank = np.asarray(draw(Factors("star")))[0, 0]
    for kind in world.KINDS:
        drawn = (np.asarray(draw(Factors(kind))) != blank).any(axis=2).mean()
        assert 0.05 < drawn < 0.8, kind


@pytest.mark.parametrize("kind", ["cat", "key"])
@pytest.mark.parametrize("name", [n for n in NUISANCES if n in CATEGORICAL])
def test_every_value_of_a_nuisance_shows(kind, name):
    values = {
        "colour": world.COLOURS,
        "background": world.BACKGROUNDS,
        "texture": world.TEXTURES,
        "accessory": ("none", *world.ACCESSORIES),
        "size": world.SIZES,
        "position": world.POSITIONS,
    }[name]
    base = Factors(kind, colour="red")
    assert len({draw(replace(base, **{name: value})).tobytes() for value in values}) == len(values)


@pytest.mark.parametrize("change", [{"tilt": 12.0}, {"blur": 0.7}, {"noise": 8.0}])
def test_continuous_nuisances_show(change):
    assert draw(Factors("dog", **change)).tobytes() != draw(Factors("dog")).tobytes()


def test_noise_has_the_strength_it_says():
    clean, noisy = (np.asarray(draw(Factors("dog", noise=n, noise_seed=5))).astype(float) for n in (0.0, 10.0))
    grey = (clean > 60) & (clean < 195)  # where nothing is clipped
    assert (noisy - clean)[grey].std() == pytest.approx(10, rel=0.1)


def test_every_value_is_drawn_about_equally_often():
    rng = np.random.default_rng(0)
    rows = [draw_factors("cat", rng) for _ in range(1200)]
    for name in CATEGORICAL:
        counts = Counter(getattr(row, name) for row in rows)
        share = 1200 / len(counts)
        assert all(0.7 * share < count < 1.3 * share for count in counts.values()), name
    assert {r.colour for r in rows} == set(world.COLOURS)
    assert all(-20 <= r.tilt <= 20 and 0 <= r.blur <= 0.8 and 0 <= r.noise <= 16 for r in rows)
    assert 0.4 < np.mean([r.blur == 0 for r in rows]) < 0.6


# ---------------------------------------------------------------- strength


def test_strength_zero_draws_every_kind_one_way():
    data = world_dataset("all", n=72, strength=0)
    for kind in range(24):
        looks = {data.picture(k).tobytes() for k in np.flatnonzero(data.labels == kind)}
        assert len(looks) == 1
    assert len({data.picture(k).tobytes() for k in range(24)}) == 24


def test_more_strength_is_more_variation():
    strengths = (0.0, 0.25, 0.5, 0.75, 1.0)
    worlds = [world_dataset("all", n=120, strength=s) for s in strengths]
    plain = worlds[0]
    changed = [(w.factors[list(CATEGORICAL)] != plain.factors[list(CATEGORICAL)]).to_numpy() for w in worlds]
    for less, more in pairwise(changed):
        assert (more | ~less).all()  # what has left its default stays away from it
        assert more.sum() > less.sum()
    distances = [np.mean([np.abs(pixels(w, k) - pixels(plain, k)).mean() for k in range(120)]) for w in worlds]
    assert distances == sorted(distances)
    assert distances[0] == 0
    for name in ("tilt", "blur", "noise"):
        half, full = worlds[2].factors[name].abs(), worlds[4].factors[name].abs()
        np.testing.assert_allclose(2 * half, full)


# ---------------------------------------------------------------- captions


def test_captions_name_what_they_are_told_to():
    said = Factors("dog", "red", "pink", "striped", "hat", "small", "left", 15.0, 0.7, 12.0)
    words = caption(said, np.random.default_rng(0), EVERYTHING)
    assert words.endswith("a small tilted red striped dog with a hat on a pink background on the left blurry grainy")
    plain = {caption(said, np.random.default_rng(k), PLAIN) for k in range(40)}
    assert plain == {"a photo of a dog", "a drawing of a dog", "a picture of a dog", "a dog"}
    assert caption(said, np.random.default_rng(0), {}).endswith("a thing")


def test_there_is_nothing_to_say_of_defaults_that_show_nothing():
    words = caption(Factors("dog"), np.random.default_rng(0), EVERYTHING)
    assert words.endswith("a medium gray dog on a white background")


def test_only_the_kind_is_named_when_told_so():
    data = world_dataset("all", n=48, mention=PLAIN)
    for several, label in zip(data.captions, data.labels, strict=True):
        *opening, article, kind = several[0].split()
        assert kind == data.class_names[label]
        assert article == ("an" if kind in ("elephant", "umbrella") else "a")
        assert " ".join(opening) in {"a photo of", "a drawing of", "a picture of", ""}


# How a caption names each factor, read off the words alone.
NAMES = {
    "kind": lambda words, f: f.kind in words,
    "colour": lambda words, f: f.colour in words,  # no background has the name of a colour
    "background": lambda words, f: "background" in words,
    "texture": lambda words, f: f.texture in words,
    "accessory": lambda words, f: "with" in words,
    "size": lambda words, f: f.size in words,
    "position": lambda words, f: "the" in words,
    "tilt": lambda words, f: "tilted" in words,
    "blur": lambda words, f: "blurry" in words,
    "noise": lambda words, f: "grainy" in words,
}  # fmt: skip
SAYABLE = {
    "texture": lambda f: f.texture != "plain",
    "accessory": lambda f: f.accessory != "none",
    "position": lambda f: f.position != "centre",
    "tilt": lambda f: abs(f.tilt) > 10,
    "blur": lambda f: f.blur > 0.4,
    "noise": lambda f: f.noise > 10,
}


@pytest.mark.parametrize(
    "rates",
    [
        MENTION,
        {**MENTION, "terse": 0.0},
        {**MENTION, "terse": 1.0},
        {name: 0.1 + 0.08 * k for k, name in enumerate(reversed(MENTION))},
    ],
)
def test_mention_rates_are_obeyed(rates):
    data = world_dataset("all", n=1500, mention=rates)
    rows = [
        (Factors(**row), several[0].split())
        for row, several in zip(data.factors.to_dict("records"), data.captions, strict=True)
    ]
    detail = 1 - 0.9 * rates["terse"]  # a terse caption names each nuisance a tenth as often
    for name in ("kind", *NUISANCES):
        rate = rates[name] * (1 if name == "kind" else detail)
        told = [NAMES[name](words, f) for f, words in rows if SAYABLE.get(name, lambda f: True)(f)]
        assert len(told) > 300
        assert np.mean(told) == pytest.approx(rate, abs=4 * np.sqrt(rate * (1 - rate) / len(told))), name


def test_every_word_of_a_caption_is_in_the_vocabulary():
    data = world_dataset("all/train", n=1500)
    words = {word for several in data.captions for word in several[0].split()}
    vocabulary = world.vocabulary()
    assert words <= set(vocabulary)
    assert vocabulary == sorted(set(vocabulary))
    assert all(word and set(word) <= set(string.ascii_lowercase) for word in vocabulary)
    assert len(set(vocabulary) - words) < 10  # and little in it is never said


def longest_caption():
    """A caption with every factor named, as long as they get."""
    said = Factors("dog", "red", "pink", "striped", "hat", "small", "left", 15.0, 0.7, 12.0)
    captions = {caption(said, np.random.default_rng(k), EVERYTHING) for k in range(40)}
    return max(captions, key=lambda words: len(words.split()))


def test_no_caption_is_longer_than_the_longest():
    longest = len(longest_caption().split())
    data = world_dataset("all", n=300, mention=EVERYTHING, n_captions=3)
    assert max(len(words.split()) for several in data.captions for words in several) <= longest
    assert longest == 21


def test_the_longest_caption_fits_the_minis_context(mini):
    (ids,) = mini.tokenize(longest_caption()).tolist()
    start, end = mini.tokenize("dog")[0][[0, 2]].tolist()
    assert len(ids) == mini.context_length == 24
    assert ids[0] == start
    assert ids[22] == end  # the start, 21 words, the end


def test_the_minis_tokenizer_knows_every_word(mini):
    ids = mini.tokenize(world.vocabulary())
    unknown = mini.tokenize("xylophone")[0, 1].item()
    assert len(set(ids[:, 1].tolist())) == len(world.vocabulary())
    assert unknown not in ids[:, 1]


def test_a_sentence_says_what_it_is_told_to():
    dog = Factors("dog", colour="red", background="pink", tilt=15.0)
    assert world.sentence(dog, {"kind"}) == "a photo of a dog"
    assert world.sentence(dog, {"colour", "tilt"}) == "a photo of a tilted red thing"
    assert (
        world.sentence(replace(dog, kind="elephant"), {"kind", "background"}, "") == "an elephant on a pink background"
    )
    assert world.sentence(dog, {"accessory", "blur"}) == "a photo of a thing"  # there is none to speak of


# ---------------------------------------------------------------- the sets


def test_animals_are_the_first_kinds_and_pictures_of_their_own():
    animals = load_dataset("world:animals/train", n=24)
    assert animals.class_names == tuple(world.KINDS)[:12]
    assert animals.labels.tolist() == [*range(12)] * 2
    assert len(load_dataset("world:animals")) == 1200
    others = load_dataset("world:all/train", n=12)
    assert not any(np.array_equal(pixels(animals, k), pixels(others, k)) for k in range(12))


def test_dogs_vs_cats_is_balanced_and_shares_no_picture_with_all():
    pets = load_dataset("world:dogs-vs-cats", n=100)
    assert pets.class_names == ("cat", "dog")
    assert np.bincount(pets.labels).tolist() == [50, 50]
    assert [pets.class_names[label] for label in pets.labels] == pets.factors["kind"].tolist()
    others = [load_dataset(f"world:{spec}", n=1200) for spec in ("all", "all/train", "all/val")]
    mine = {pets.picture(k).tobytes() for k in range(100)}
    for other in others:
        here = np.flatnonzero(np.isin(other.factors["kind"], ["cat", "dog"]))
        assert len(here) == 100
        assert not mine & {other.picture(k).tobytes() for k in here}
        assert not set(pets.factors["noise_seed"]) & set(other.factors["noise_seed"])


@pytest.mark.parametrize("spec", ["world:all/train", "world:all", "world:all/val"])
def test_all_kinds_take_turns(spec):
    data = load_dataset(spec, n=50)
    assert (data.name, len(data)) == (spec, 50)
    assert data.class_names == tuple(world.KINDS)
    assert data.labels.dtype == np.int64
    assert data.labels.tolist() == [k % 24 for k in range(50)]
    assert [data.class_names[label] for label in data.labels] == data.factors["kind"].tolist()


def test_default_sizes():
    assert len(world_dataset("dogs-vs-cats")) == 1000
    assert len(world_dataset("all")) == 2400


@given(st.sets(st.integers(0, 29), min_size=1))
@settings(max_examples=10, deadline=None)
def test_a_subset_keeps_its_pictures(rows):
    data, index = world_dataset("all", n=30), sorted(rows)
    part = data[np.array(index)]
    assert all(np.array_equal(pixels(part, k), pixels(data, row)) for k, row in enumerate(index[:3]))
    assert part.factors["kind"].tolist() == data.factors["kind"].iloc[index].tolist()


def test_every_parameter_is_in_the_fingerprint():
    changes = [
        {},
        {"spec": "dogs-vs-cats"},
        {"spec": "all/train"},
        {"n": 7},
        {"seed": 1},
        {"strength": 0.5},
        {"mention": {"colour": 0.5}},
        {"mention": {"size": 0.5}},
        {"n_captions": 2},
        {"unseen": ["colour"]},
        {"unseen": ["texture"], "mention": {"texture": 0.0}},
    ]
    prints = [world_dataset(**{"spec": "all", "n": 6, **change}).fingerprint for change in changes]
    assert len(set(prints)) == len(changes)
    assert world_dataset("all", n=6, mention={"colour": MENTION["colour"]}).fingerprint == prints[0]


@pytest.mark.parametrize(
    ("spec", "options", "match"),
    [
        ("dogs-vs-cat", {}, "No data set world:dogs-vs-cat/test. Did you mean: world:dogs-vs-cats"),
        ("all/trian", {}, "No data set world:all/trian. Did you mean: world:all/train"),
        ("all", {"unseen": ["size"]}, "No unseen values of .'size'.; there are those of colour, background, texture"),
        ("nothing/like/it", {}, "No data set world:nothing/like/it"),
        ("all", {"n": 0}, "n >= 1 .* not n=0"),
        ("all", {"n": -3}, "not n=-3"),
        ("all", {"strength": 1.5}, "strength=1.5"),
        ("all", {"strength": float("nan")}, "strength=nan"),
        ("all", {"mention": {"color": 0.5}}, r"No factor \['color'\] to mention; there are kind, colour"),
        ("all", {"mention": {"colour": 1.5}}, "probability"),
        ("all", {"mention": {"colour": float("nan")}}, "probability"),
        ("all", {"seed": -1}, "seed=-1"),
        ("all", {"n_captions": 0}, "n_captions=0"),
    ],
)
def test_what_is_not_there_is_refused_by_name(spec, options, match):
    with pytest.raises(CrossgapError, match=match):
        load_dataset(f"world:{spec}", **options)
