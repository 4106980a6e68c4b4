"""Training from nothing, resume, the written checkpoint, and the numbers of the shipped one."""

import json
import math
from dataclasses import asdict, replace

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.loss import ClipLoss
from PIL import Image

from crossgap_lib import pretrain
from crossgap_lib.datasets import world
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.load import load_model
from crossgap_lib.paths import MINIS
from crossgap_lib.pretrain import cards, files, forward, loop, views
from crossgap_lib.pretrain.objectives import Batch, make_objective, write_skeleton

ALIGNED = ("nano-two", "nano-shared", "nano-align", "nano-align-both")
TINY = replace(pretrain.RECIPES["mini-clip"], pictures=48, epochs=3, batch=16, warmup=2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, net, weights after each epoch) of an uninterrupted tiny run."""
    folder, epochs = tmp_path_factory.mktemp("run"), []
    keep = lambda _, run: epochs.append({k: v.clone() for k, v in run.net.state_dict().items()})  # noqa: E731
    net, _ = loop.train(TINY, folder, after_epoch=keep)
    return folder, net, epochs


def test_training_changes_weights_and_holds_the_logit_scale(run):
    _, net, epochs = run
    assert len(epochs) == TINY.epochs
    assert net.logit_scale.exp().item() == pytest.approx(100, rel=1e-5)
    changed = [name for name in epochs[0] if not torch.equal(epochs[0][name], epochs[-1][name])]
    assert {"visual.conv1.weight", "text_projection"} <= set(changed)
    assert "logit_scale" not in changed


def test_training_lowers_the_loss(tmp_path):
    recipe = replace(TINY, epochs=25, warmup=5, pictures=16)
    net, _ = loop.train(recipe, tmp_path)
    start = files.new_open_clip(tmp_path, recipe.seed)
    start.logit_scale.data.fill_(math.log(100))
    pixels = views.normalised(views.pixels(loop.training_set(recipe)[0]))
    data = world.world_dataset("all/train", n=16)
    ids = open_clip.get_tokenizer(f"local-dir:{tmp_path}")([c[0] for c in data.captions])
    losses = []
    for model in (start.eval(), net.eval()):
        with torch.no_grad():
            losses.append(ClipLoss()(*model(pixels, ids)[:3]).item())
    assert losses[1] < 0.7 * losses[0]


@pytest.mark.parametrize("name", ALIGNED)
def test_shared_and_separated_train_and_load_as_a_plain_clip(name, tmp_path):
    """The loss of the training set falls, shared weights stay shared, also in a resumed run, and open_clip agrees."""
    recipe = replace(pretrain.RECIPES[name], pictures=16, batch=16, epochs=24, kind_epochs=0, warmup=3)
    whole, losses = batch_of(recipe, tmp_path), []

    def look(epoch, objective):
        with torch.no_grad():
            losses.append(objective.loss(whole).item())
        if epoch == 11:
            raise KeyboardInterrupt

    look(-1, make_objective(recipe, tmp_path))
    with pytest.raises(KeyboardInterrupt):
        loop.train(recipe, tmp_path, after_epoch=look)
    net, _ = loop.train(recipe, tmp_path, after_epoch=look)
    assert len(losses) == 1 + recipe.epochs
    assert losses[-1] < 0.7 * losses[0]
    assert (net.transformer is net.visual.transformer) == recipe.shared

    files.write_weights(tmp_path, net)
    loaded, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    for text, image in (("transformer", "visual.transformer"), ("ln_final", "visual.ln_post")):
        ours = [loaded.get_submodule(part).state_dict() for part in (text, image)]
        assert all(torch.equal(w, ours[1][key]) for key, w in ours[0].items()) == recipe.shared
    assert torch.equal(loaded.text_projection, loaded.visual.proj) == recipe.shared
    net.load_state_dict({key: weights.half().float() for key, weights in net.state_dict().items()})
    pixels = views.normalised(whole.pixels)
    with torch.no_grad():
        torch.testing.assert_close(forward.image_features(net, pixels), loaded.eval().encode_image(pixels))
        torch.testing.assert_close(forward.text_features(net, whole.ids), loaded.encode_text(whole.ids))


def batch_of(recipe, folder):
    """The whole training set as one batch, with the captions of the first epoch."""
    write_skeleton(folder, recipe)
    pictures, factors = loop.training_set(recipe)
    ids, meanings = loop._epoch_captions(factors, folder, recipe, 0)
    return Batch(views.pixels(pictures), ids, meanings, np.random.default_rng(0))


def told(meaning, n=30):
    """(captions, factors, cosines of what the captions mean) of n training pictures."""
    recipe = replace(pretrain.RECIPES["nano-align"], meaning=meaning, pictures=n)
    data = world.world_dataset("animals/train", n=n, mention=recipe.rates)
    captions = [caption for (caption,) in data.captions]
    meanings = loop._meanings(captions, data.factors, recipe).double()
    return captions, data.factors, (meanings @ meanings.T).numpy()


def test_captions_are_alike_by_tfidf():
    """scikit-learn's definition, word by word: counts times ln((1 + n) / (1 + those with it)) + 1."""
    captions, _, ours = told("tfidf")
    bags = [[word for word in caption.split() if len(word) > 1] for caption in captions]
    rarity = {w: math.log((1 + len(bags)) / (1 + sum(w in bag for bag in bags))) + 1 for bag in bags for w in bag}
    weighed = [{w: bag.count(w) * rarity[w] for w in bag} for bag in bags]
    dot = lambda a, b: sum(weight * b.get(w, 0.0) for w, weight in a.items())  # noqa: E731
    for i, a in enumerate(weighed):
        for j, b in enumerate(weighed):
            assert ours[i, j] == pytest.approx(dot(a, b) / math.sqrt(dot(a, a) * dot(b, b)), abs=1e-6)


def test_captions_are_alike_by_known_factors():
    """The share of the ten factors that two pictures have in common."""
    _, factors, ours = told("factors")
    rows = factors.drop(columns="noise_seed").to_dict("records")
    for name, bound in (("tilt", 10), ("blur", 0.4), ("noise", 10)):
        for row in rows:
            row[name] = abs(row[name]) > bound
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert ours[i, j] == pytest.approx(sum(a[name] == b[name] for name in a) / 10, abs=1e-6)


def test_resumed_run_equals_the_uninterrupted_one(run, tmp_path):
    def cut(epoch: int, _net) -> None:
        if epoch == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        loop.train(TINY, tmp_path, after_epoch=cut)
    seen = []
    net, seconds = loop.train(TINY, tmp_path, after_epoch=lambda epoch, _: seen.append(epoch))
    assert seen == [2], "two epochs were checkpointed, so one was left"
    assert (seconds > 0).all()
    for name, weights in run[1].state_dict().items():
        assert torch.equal(weights, net.state_dict()[name]), name


def test_checkpoint_of_another_recipe_is_refused(run):
    with pytest.raises(CrossgapError, match="another recipe"):
        loop.train(replace(TINY, lr=0.5), run[0])


def test_learning_rate_warms_up_and_ends_at_zero():
    recipe = replace(TINY, warmup=10, lr=1.0)
    rates = [loop._learning_rate(recipe, step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert np.all(np.diff(rates[10:]) < 0)
    assert rates[99] < 1e-3


def test_written_checkpoint_loads_in_open_clip_alone(run, tmp_path):
    _, net, _ = run
    files.write_open_clip(tmp_path, TINY)
    files.write_weights(tmp_path, net)
    loaded, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    ids = tokenizer(["a photo of a red dog", "a unicorn"])
    assert ids.shape == (2, 24)
    assert (ids.argmax(dim=1) == torch.tensor([7, 3])).all(), "EOT has the highest id"
    picture = preprocess(Image.new("RGB", (60, 40), "red"))[None]
    with torch.no_grad():
        for ours, theirs in (
            (net.encode_text(ids), loaded.eval().encode_text(ids)),
            (net.encode_image(picture), loaded.encode_image(picture)),
        ):
            torch.testing.assert_close(ours, theirs, atol=2e-2, rtol=0)


def test_pretrain_writes_checkpoint_and_card(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "ROOT", tmp_path)
    monkeypatch.setattr(cards, "measure", lambda *_: {"parameters": 1.6e6, "modality gap": 0.5})
    overrides = {"pictures": 32, "epochs": 1, "batch": 16}
    folder = pretrain.pretrain("mini-clip", out=tmp_path / "mini-tiny", device="cpu", overrides=overrides)
    card = json.loads((folder / "card.json").read_text())
    assert card["training"]["steps"] == 2
    assert card["training"]["pictures seen"] == 32
    assert card["recipe"] == asdict(replace(pretrain.RECIPES["mini-clip"], **overrides))
    assert "| modality gap | 0.500 |" in (folder / "README.md").read_text()
    assert load_model(f"local-dir:{folder}").embed_dim == 128


def test_another_out_is_another_checkpoint(tmp_path, monkeypatch):
    """As the error says that refuses the checkpoint of another recipe."""
    monkeypatch.setattr(pretrain, "ROOT", tmp_path)
    monkeypatch.setattr(cards, "measure", lambda *_: {"parameters": 1})
    tiny = {"pictures": 32, "epochs": 1, "batch": 16}
    pretrain.pretrain("mini-clip", device="cpu", overrides=tiny)
    with pytest.raises(CrossgapError, match="another recipe; remove it, or name another --out"):
        pretrain.pretrain("mini-clip", device="cpu", overrides=tiny | {"lr": 1e-4})
    pretrain.pretrain("mini-clip", out=tmp_path / "other", device="cpu", overrides=tiny | {"lr": 1e-4})
    assert (tmp_path / "other.run/checkpoint.pt").is_file()
    assert (tmp_path / "runs/mini-clip/checkpoint.pt").is_file()
    assert (tmp_path / "data/minis/mini-clip/card.json").is_file()


def test_zoo_lays_the_cards_side_by_side(tmp_path):
    for name, objective, gap in (("mini-b", "dino", None), ("mini-a", "clip", 0.5)):
        (tmp_path / name).mkdir()
        measured = {"parameters": 1e6} | ({"modality gap": gap} if gap else {})
        card = {"recipe": {"objective": objective, "seed": 0}, "training": {"steps": 2, "device": "cpu"}}
        (tmp_path / name / "card.json").write_text(json.dumps(card | {"measured": measured}))
    table = cards.zoo(tmp_path)
    assert list(table.index) == ["mini-a", "mini-b"]
    assert table.loc["mini-a", "modality gap"] == 0.5
    assert np.isnan(table.loc["mini-b", "modality gap"])
    assert table.loc["mini-b", "objective"] == "dino"
    (tmp_path / "mini-c").mkdir()
    with pytest.raises(CrossgapError, match=r"holds no card\.json"):
        cards.zoo(tmp_path)


def test_image_only_mini_is_written_for_timm_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "ROOT", tmp_path)
    monkeypatch.setattr(cards, "load_dataset", lambda spec, **how: load_dataset(spec, n=96, **how))
    overrides = {"pictures": 16, "epochs": 1, "batch": 8}
    folder = pretrain.pretrain("mini-dino", out=tmp_path / "mini-dino", device="cpu", overrides=overrides)
    assert {p.name for p in folder.iterdir()} == {"config.json", "model.safetensors", "card.json", "README.md"}
    net = timm.create_model(f"local-dir:{folder}", pretrained=True)
    model = load_model(f"local-dir:{folder}")
    picture = Image.new("RGB", (48, 48), "red")
    torch.testing.assert_close(
        net.eval()(model.preprocess(picture)[None]),
        model.encode_pixels(model.preprocess(picture)[None]),
        atol=1e-5,
        rtol=0,
    )
    measured = json.loads((folder / "card.json").read_text())["measured"]
    assert "modality gap" not in measured
    assert 0 < measured["image-image mAP, all kinds"] < 1
    assert {"image-image mAP, by background", "image-image mAP, by colour"} <= set(measured)
    assert "timm.create_model" in (folder / "README.md").read_text()


@pytest.mark.parametrize("folder", sorted(MINIS.glob("*")), ids=lambda folder: folder.name)
def test_every_shipped_card_tells_its_own_recipe(folder):
    name, card = folder.name, cards.read_card(folder)
    assert pretrain.RECIPES[name].is_kept_as(card["recipe"])
    assert (folder / "README.md").read_text() == cards._card_text(name, card)


@pytest.mark.parametrize("name", pretrain.RECIPES)
def test_every_recipe_has_words_for_its_card(name):
    recipe = pretrain.RECIPES[name]
    training = {"steps": 2, "pictures seen": 32, "minutes": 1.0, "device": "cpu"}
    text = cards._card_text(name, {"recipe": asdict(recipe), "training": training, "measured": {"parameters": 7.0}})
    assert ("share the transformer" in text) == recipe.shared
    assert ("three seeds" in text) == name.startswith("nano-m")
    assert ("separate: both" in text) == (name == "nano-align-both")


def test_captions_of_the_minis_stay_what_they_were():
    """Those that the shipped minis were trained on: the first three pictures, with and without terse captions."""
    mini = pretrain.RECIPES["mini-clip"]
    rows = [world.Factors(**row) for row in loop.training_set(replace(mini, pictures=3))[1].to_dict("records")]
    told = {}
    for epoch in (0, 6):
        rng = np.random.default_rng([mini.seed, epoch])
        told[epoch] = [world.caption(row, rng, mini.rates_in(epoch)) for row in rows]
    assert told[0] == [
        "a picture of a small tilted purple dog with a bow on a black background",
        "a photo of a medium orange cat on a pink background on the left",
        "a rabbit with a balloon on a lime background",
    ]
    assert told[6] == [
        "a photo of a small purple striped dog with a bow on a black background at the top grainy",
        "a drawing of a medium spotted cat on a pink background",
        "a drawing of a large brown rabbit with a balloon",
    ]


def test_refusals():
    with pytest.raises(CrossgapError, match="mini-clip"):
        pretrain.pretrain("mini-clp")
    for overrides, why in (
        ({"epoch": 3}, "no field"),
        ({"shared": True}, "as many text_layers as image_layers"),
        ({"separate": "images"}, "separate is image or both, not 'images'"),
        ({"meaning": "bert"}, "meaning is tfidf or factors"),
    ):
        with pytest.raises(CrossgapError, match=why):
            pretrain.pretrain("mini-clip", overrides=overrides)


@pytest.mark.slow
def test_shipped_mini_meets_its_criterion():
    """The criterion by which the world's difficulty was fixed, on the weights as shipped; the card tells the truth."""
    folder = MINIS / "mini-clip"
    measured, card = (
        cards.measure(folder, pretrain.RECIPES["mini-clip"]),
        json.loads((folder / "card.json").read_text())["measured"],
    )
    assert measured["zero-shot accuracy, all kinds"] >= 0.90
    assert measured["dogs-vs-cats text-image mAP"] > 0.98
    assert 0.75 <= measured["dogs-vs-cats image-image mAP"] <= 0.90
    assert 0.6 <= measured["modality gap"] <= 1.1
    assert measured["OTI loss, 1 token, step 150"] > 0.15
    for name, value in card.items():
        assert measured[name] == pytest.approx(value, abs=5e-3), name
