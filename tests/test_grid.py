"""Grids of nanos: what is declared, what captions say, stopping and going on, and what is measured of each cell."""

from collections import Counter
from dataclasses import replace
from itertools import combinations

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from sklearn.metrics import average_precision_score

from crossgap_lib.datasets import world
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.models.load import load_model
from crossgap_lib.paths import DATA
from crossgap_lib.pretrain import grid, loop, measures
from crossgap_lib.pretrain.objectives import write_skeleton
from crossgap_lib.pretrain.recipes import nano

TINY = """
[overrides]
pictures = 48
batch = 16
epochs = 2
kind_epochs = 1
warmup = 2
width = 32

[measure]
pictures = 96
queries = 24
steps = 3

[[cells]]
mention = [0.6, 0.0]
strength = [1.0]
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder, table) of a tiny grid of two cells that nothing stopped."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "tiny.toml").write_text(TINY)
    return folder, pd.read_parquet(grid.train_grid(folder / "tiny.toml", device="cpu", runs=folder / "runs"))


@pytest.fixture(scope="module")
def cell(trained):
    """(model, recipe, held-out pictures, their features, rows of the table) of the tiny nano-m06."""
    folder, table = trained
    recipe, _ = grid.read_grid(folder / "tiny.toml")[0]
    model = load_model(f"local-dir:{folder / 'runs/nano-m06'}", device="cpu")
    photos = world.world_dataset("animals", n=96, mention=recipe.rates)
    return model, recipe, photos, encode_images(model, photos, cache=False), table[table["cell"] == "nano-m06"]


def value(rows, factor, quantity, method):
    asked = (rows["factor"] == factor) & (rows["quantity"] == quantity) & (rows["method"] == method)
    (found,) = rows.loc[asked, "value"]
    return found


# ---------------------------------------------------------------- recipes and declarations


def test_a_nano_is_named_after_what_sets_it_apart():
    assert nano(0.6).name == "nano-m06"
    assert nano(1.0, 0.65, 2, "slip").name == "nano-m1-s065-seed2-slip"
    assert nano(0.3, learned_scale=True).name == "nano-m03-learned"
    assert nano(0.3, learned_scale=True).logit_scale == pytest.approx(14.29, abs=0.01)
    assert nano(0.3, objective="siglip") == nano(0.3, objective="siglip", learned_scale=True)
    assert nano(0.3, objective="siglip").learned_scale


def test_the_shipped_grid_declares_its_cells_once_and_the_first_seed_first():
    cells, how = grid.read_grid(DATA / "grid/grid.toml")
    assert how == {}
    assert len({cell.name for cell in cells}) == len(cells)
    core = {(m, s, seed) for m in (0.0, 0.3, 0.6, 0.9, 1.0) for s in (0.3, 1.0) for seed in range(3)}
    plain = [cell for cell in cells if cell == nano(cell.mention, cell.strength, cell.seed)]
    assert core <= {(cell.mention, cell.strength, cell.seed) for cell in plain}
    assert {(cell.strength, cell.seed) for cell in plain[:5]} == {(1.0, 0)}


def test_cells_are_all_combinations_in_order_and_once(tmp_path):
    again = '[[cells]]\nmention = [0.0, 0.3]\nobjective = ["clip", "slip"]\n'
    (tmp_path / "g.toml").write_text(TINY + again)
    cells, how = grid.read_grid(tmp_path / "g.toml")
    assert [cell.name for cell in cells] == ["nano-m06", "nano-m0", "nano-m0-slip", "nano-m03", "nano-m03-slip"]
    assert {cell.pictures for cell in cells} == {48}
    assert how == {"pictures": 96, "queries": 24, "steps": 3}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("cells = [", "can't be read as a grid"),
        ("", "declares no"),
        ("[[cells]]\nstrength = [1.0]", "of mention at least"),
        ("[[cells]]\nmention = 0.3", "must list values"),
        ("[[cells]]\nmention = [0.3]\ncolour = [1]", "speaks of colour, but a grid knows mention"),
        ("[cell]\nmention = [0.3]", "speaks of cell, but a grid knows cells"),
        ("[measure]\nsteps = 3\nstep = 3", "speaks of step, but a grid knows pictures"),
        ("[overrides]\nepoch = 3\n[[cells]]\nmention = [0.3]", "no field"),
        ('[[cells]]\nmention = ["often"]', "can't be read as a grid"),
    ],
)
def test_a_file_that_declares_no_grid_is_refused(tmp_path, text, match):
    (tmp_path / "g.toml").write_text(text)
    with pytest.raises(CrossgapError, match=match):
        grid.read_grid(tmp_path / "g.toml")


def test_a_rate_that_is_none_is_refused_before_anything_is_trained(tmp_path):
    (tmp_path / "g.toml").write_text("[[cells]]\nmention = [1.3]")
    with pytest.raises(CrossgapError, match="probability"):
        grid.train_grid(tmp_path / "g.toml", runs=tmp_path)


# ---------------------------------------------------------------- what captions say


def words_of_epoch(folder, recipe, factors, epoch):
    """The words of each caption, read back from the token ids that the training sees."""
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}").tokenizer
    ids, _ = loop._epoch_captions(factors, folder, recipe, epoch)
    return [set(tokenizer.decode(row, skip_special_tokens=True).split()) for row in ids.tolist()]


@pytest.mark.parametrize("mention", [0.0, 0.3, 1.0])
def test_captions_name_every_nuisance_at_one_rate_after_the_first_epochs(tmp_path, mention):
    recipe = nano(mention)
    write_skeleton(tmp_path, recipe)
    factors = world.world_dataset("animals/train", n=1200).factors
    for epoch, rate in ((3, 0.0), (4, mention)):
        captions = words_of_epoch(tmp_path, recipe, factors, epoch)
        named = {
            "kind": [kind in words for kind, words in zip(factors["kind"], captions, strict=True)],
            "colour": [colour in words for colour, words in zip(factors["colour"], captions, strict=True)],
            "background": ["background" in words for words in captions],
            "tilt": ["tilted" in w for w, tilt in zip(captions, factors["tilt"], strict=True) if abs(tilt) > 10],
            "noise": ["grainy" in w for w, noise in zip(captions, factors["noise"], strict=True) if noise > 10],
        }
        for factor, told in named.items():
            expected = 0.97 if factor == "kind" else rate
            within = 4 * np.sqrt(expected * (1 - expected) / len(told))
            assert np.mean(told) == pytest.approx(expected, abs=within), (factor, epoch)


# ---------------------------------------------------------------- training, stopping, going on


def test_a_grid_that_was_stopped_goes_on_to_the_same_table(trained, tmp_path, monkeypatch):
    (tmp_path / "tiny.toml").write_text(TINY)
    told = []
    again = lambda: grid.train_grid(tmp_path / "tiny.toml", device="cpu", runs=tmp_path / "runs", report=told.append)  # noqa: E731

    def stop(epoch, _):
        raise KeyboardInterrupt

    def until_the_second_cell(recipe, folder, device):
        return loop.train(recipe, folder, device=device, after_epoch=stop if recipe.mention == 0 else None)

    monkeypatch.setattr(grid, "train", until_the_second_cell)
    with pytest.raises(KeyboardInterrupt):
        again()
    assert set(pd.read_parquet(tmp_path / "tiny.parquet")["cell"]) == {"nano-m06"}

    epochs = []

    def told_epochs(recipe, folder, device):
        return loop.train(recipe, folder, device=device, after_epoch=lambda e, _: epochs.append((recipe.name, e)))

    monkeypatch.setattr(grid, "train", told_epochs)
    resumed = pd.read_parquet(again())
    assert epochs == [("nano-m0", 1)], "one cell was done, and of the other one epoch"
    pd.testing.assert_frame_equal(resumed, trained[1])
    again()
    assert len(epochs) == 1
    assert [line for line in told if "cells" in line] == [f"{n} of 2 cells are done." for n in (0, 1, 2)]


def test_the_table_tells_recipe_seconds_and_machine_of_each_cell(trained):
    _, table = trained
    assert list(table["cell"].unique()) == ["nano-m06", "nano-m0"]
    facts = table.attrs["cells"]
    assert facts["nano-m0"]["recipe"]["pictures"] == 48
    assert facts["nano-m06"]["recipe"]["mention"] == 0.6
    assert facts["nano-m0"]["training seconds"] > 0
    assert torch.__version__ in facts["nano-m0"]["machine"]
    own = table[["cell", "mention", "strength", "seed", "objective", "learned_scale"]].drop_duplicates()
    assert own.to_numpy().tolist() == [
        ["nano-m06", 0.6, 1.0, 0, "clip", False],
        ["nano-m0", 0.0, 1.0, 0, "clip", False],
    ]


def test_cells_of_another_recipe_are_refused_and_none_is_lost(trained, tmp_path):
    folder, table = trained
    (tmp_path / "tiny.parquet").write_bytes((folder / "tiny.parquet").read_bytes())
    (tmp_path / "tiny.toml").write_text(TINY.replace("epochs = 2", "epochs = 1"))
    with pytest.raises(CrossgapError, match="nano-m06 by another recipe"):
        grid.train_grid(tmp_path / "tiny.toml", runs=tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY.replace("[0.6, 0.0]", "[0.0]"))
    kept = pd.read_parquet(grid.train_grid(tmp_path / "tiny.toml", runs=tmp_path))
    pd.testing.assert_frame_equal(kept, table)


def test_a_cell_loads_in_open_clip_alone(trained):
    folder = trained[0] / "runs/nano-m06"
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    net.eval()
    assert (len(net.visual.transformer.resblocks), len(net.transformer.resblocks)) == (4, 2)
    ours = load_model(f"local-dir:{folder}", device="cpu")
    picture = preprocess(world.draw(world.Factors("dog")))[None]
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(["a photo of a dog"])
    with torch.no_grad():
        theirs = [net.encode_image(picture), net.encode_text(ids)]
    for feature, other in zip(theirs, (ours.encode_pixels(picture), ours.encode_tokens(ids)), strict=True):
        torch.testing.assert_close(feature, other, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_cells_side_by_side_give_the_same_table(trained, tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    out = grid.train_grid(tmp_path / "tiny.toml", jobs=2, device="cpu", runs=tmp_path / "runs")
    pd.testing.assert_frame_equal(pd.read_parquet(out), trained[1], rtol=1e-3)


# ---------------------------------------------------------------- measurements


def test_the_gap_and_its_relative_form(cell):
    """RMG by the formula of Schrodi et al., pair by pair."""
    model, _, _, images, rows = cell
    texts = encode_texts(model, images.texts.tolist(), cache=False)
    x, y = images.features.double().numpy(), texts.features.double().numpy()
    assert value(rows, "", "modality gap (Eq. 7)", "native") == pytest.approx(np.linalg.norm(x.mean(0) - y.mean(0)))
    distance = lambda a, b: 1 - (a @ b + 1) / 2  # noqa: E731
    pairs = np.mean([distance(a, b) for a, b in zip(x, y, strict=True)])
    within = [np.mean([distance(a, b) for a, b in combinations(z, 2)]) for z in (x, y)]
    assert value(rows, "", "RMG", "native") == pytest.approx(pairs / (pairs + np.mean(within)), rel=1e-4)


@pytest.mark.parametrize("factor", ["kind", "colour", "tilt"])
def test_native_retrieval_and_that_of_oti_are_textbook(cell, factor):
    model, _, photos, images, rows = cell
    labels = photos.factors[factor]
    labels = (labels.abs() > 10 if factor == "tilt" else labels).to_numpy()
    queries = measures.drawn_rows(images.ids, 24)
    inverted = oti(model, images, steps=3, cache=False)
    for method, features in (("native", images.features), ("OTI", inverted.features)):
        scores = (features @ images.features.T).double().numpy()
        others = np.arange(96)
        ap = [
            average_precision_score(labels[others != q] == labels[q], scores[q, others != q])
            for q in queries
            if (labels == labels[q]).sum() > 1
        ]
        assert value(rows, factor, "mAP", method) == pytest.approx(100 * np.mean(ap), abs=0.5)


def test_gains_and_choices_of_steps_fit_together(cell):
    rows = cell[-1]
    ap = rows[rows["quantity"] == "mAP"].set_index(["factor", "method"])["value"]
    gains = rows[rows["quantity"] == "gain"]
    assert set(gains["factor"]) == set(measures.FACTORS)
    for row in gains.itertuples():
        assert row.value == pytest.approx(ap[row.factor, row.method] - ap[row.factor, "native"], abs=1e-9)
        assert row.low <= row.value <= row.high
    for factor in measures.FACTORS:
        best = ap[factor, measures.OTI_BEST]
        assert best >= max(ap[factor, m] for m in (measures.OTI, measures.OTI_CHOSEN, measures.OTI_KINDS)) - 1e-9
    assert ap["kind", measures.OTI_BEST] == ap["kind", measures.OTI_KINDS]


def test_zero_shot_asks_by_prompts_of_both_lengths(cell):
    model, recipe, photos, images, rows = cell
    colours = sorted(world.COLOURS)
    short = encode_texts(
        model, [f"a photo of {'an' if c == 'orange' else 'a'} {c} thing" for c in colours], cache=False
    )
    right = np.array(colours)[(images.features @ short.features.T).argmax(dim=1).numpy()] == photos.factors["colour"]
    assert value(rows, "colour", "zero-shot", measures.SHORT) == pytest.approx(100 * right.mean())
    asked = measures._prompts(model, replace(recipe, mention=1.0), "colour", tuple(colours))
    assert {len(prompts) for prompts in asked.values()} == {8}


def test_prompts_like_captions_differ_in_the_value_alone(cell, monkeypatch):
    model, recipe, *_ = cell
    texts = []
    monkeypatch.setattr(
        measures, "encode_texts", lambda model, some, **how: texts.append(some) or encode_texts(model, some, **how)
    )
    measures._prompts(model, recipe, "colour", ("red", "blue"))
    long, short = texts
    assert short == ["a photo of a red thing", "a photo of a blue thing"]
    red, blue = long[: len(long) // 2], long[len(long) // 2 :]
    assert [text.replace("red", "blue") for text in red] == blue
    assert all("red" in text for text in red)
    told = Counter("background" in text for text in red)
    assert 0.3 < told[True] / len(red) < 0.9
    measures._prompts(model, recipe, "tilt", ("False", "True"))
    assert not any("tilted" in text for text in texts[2][:48])
    assert all("tilted" in text for text in texts[2][48:])


def test_a_model_without_text_is_asked_what_needs_none():
    rows = measures.measure_cell(load_model("mini-dino", device="cpu"), nano(0.3), pictures=60, queries=12)
    assert set(rows["quantity"]) == {"overlap", "mAP", "linear probe"}
    assert set(rows["method"]) == {"native", "chance"}
    assert set(rows["factor"]) == set(measures.FACTORS)


def test_a_probe_reads_what_is_there_and_not_what_is_not():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 100)
    features = rng.normal(size=(300, 8)) + 4 * np.eye(8)[labels]
    asked = measures.Embeddings(features, labels=labels, class_names=("a", "b", "c"))
    noise = measures.Embeddings(rng.normal(size=(300, 8)))
    learns = rng.random(300) < 0.6
    rows = measures._probes({"told": (asked, asked), "noise": (noise, noise)}, asked, learns)
    read = {method: share for _, method, share, *_ in rows}
    assert read["told"] > 97
    assert 20 < read["noise"] < 47
    assert 25 < read["chance"] < 42


# ---------------------------------------------------------------- what ships


def test_the_shipped_table_holds_cells_of_the_declared_recipes():
    declared = {recipe.name: recipe for recipe in grid.read_grid(DATA / "grid" / "grid.toml")[0]}
    table = pd.read_parquet(DATA / "grid" / "grid.parquet")
    for name, facts in table.attrs["cells"].items():
        assert declared[name].is_kept_as(facts["recipe"])
        assert facts["training seconds"] > 0
        assert name in set(table["cell"])
    shares = table[table["quantity"].isin(["mAP", "zero-shot", "linear probe"])]["value"]
    assert shares.between(0, 100).all()


@pytest.mark.parametrize("name", ["nano-m0", "nano-m03", "nano-m06", "nano-m1"])
def test_a_shipped_nano_gives_the_numbers_of_its_table(name):
    table = pd.read_parquet(DATA / "grid" / "grid.parquet")
    model, rows = load_model(name, device="cpu"), table[table["cell"] == name]
    photos = world.world_dataset("animals", n=400)
    images = encode_images(model, photos, cache=False)
    prompts = encode_texts(model, [f"a photo of a {kind}" for kind in photos.class_names], cache=False)
    right = (images.features @ prompts.features.T).argmax(dim=1).numpy() == photos.labels
    assert 100 * right.mean() == pytest.approx(value(rows, "kind", "zero-shot", measures.SHORT), abs=6)
