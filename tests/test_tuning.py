"""Tuned projections against a textbook loop through the whole model, and what they must leave alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from crossgap_lib import metrics
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.load import load_model
from crossgap_lib.models.projectors import SIDES
from crossgap_lib.projection.tuning import _batches, tune_projections
from crossgap_lib.tasks import image_text_pairs

N = 48


@pytest.fixture(scope="module")
def mini():
    return load_model("mini-clip", device="cpu")


@pytest.fixture(scope="module")
def photos():
    return load_dataset("world:all/train", n=N)


@pytest.fixture(scope="module")
def pairs(mini, photos):
    return image_text_pairs(mini, photos, before_projection=True)


def test_it_is_the_textbook_loop(mini, photos, pairs):
    """Autograd through encode_image and encode_text, towers and all, with the loss written out.

    In float64: Adam divides a gradient by its size, so that where one is nearly zero, float32 alone is off by 3e-5.
    """
    tuned = tune_projections(mini, *pairs, temperature=0.5, steps=3, batch_size=N, lr=1e-3, seed=1)
    net = load_model("mini-clip", device="cpu").net.double()
    trained = [net.visual.proj.requires_grad_(), net.text_projection.requires_grad_()]
    adamw = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.01)
    pixels = torch.stack([mini.preprocess(photos.load(k)) for k in range(N)]).double()
    ids = mini.tokenize([captions[0] for captions in photos.captions])
    for _ in range(3):
        x, y = F.normalize(net.encode_image(pixels), dim=1), F.normalize(net.encode_text(ids), dim=1)
        p = torch.log_softmax(x @ y.T / 0.5, dim=1).diagonal() + torch.log_softmax(y @ x.T / 0.5, dim=1).diagonal()
        adamw.zero_grad()
        (-p.mean() / 2).backward()
        adamw.step()
    for theirs, ours in zip(trained, (tuned.net.visual.proj, tuned.net.text_projection), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=2e-5, rtol=0)
    assert (trained[0] - mini.net.visual.proj).abs().max() > 1e-3, "and it did move"


def test_temperature_1_closes_the_gap_that_a_low_one_leaves(mini):
    before = image_text_pairs(mini, load_dataset("world:all/train", n=600), before_projection=True)
    images, texts = image_text_pairs(mini, load_dataset("world:all", n=240))
    gaps = {"mini-clip": metrics.modality_gap(images, texts)}
    for t in (0.01, 1.0):
        tuned = tune_projections(mini, *before, temperature=t, steps=300, lr=3e-4)
        gaps[t] = metrics.modality_gap(*image_text_pairs(tuned, load_dataset("world:all", n=240)))
    assert gaps[1.0] < 0.1 < 0.5 < gaps[0.01]
    assert gaps["mini-clip"] > 0.6


def test_only_the_projections_change_and_the_model_stays_as_it_was(mini, pairs):
    old, frozen = mini.fingerprint, {k: v.clone() for k, v in mini.net.state_dict().items()}
    tuned = tune_projections(mini, *pairs, temperature=1.0, steps=2)
    changed = {k for k, v in tuned.net.state_dict().items() if not torch.equal(v, frozen[k])}
    assert changed == {"visual.proj", "text_projection"}
    assert all(torch.equal(v, frozen[k]) for k, v in mini.net.state_dict().items())
    assert mini.fingerprint == old != tuned.fingerprint, "no cache may mix them up"
    assert tuned.name == "mini-clip tuned at 1"
    assert "temperature 1: 2 steps of 48 pairs" in tuned.describe().notes[-1]
    assert not any(p.requires_grad for p in tuned.net.parameters())


def test_the_seed_decides(mini, pairs):
    one, same, other = (
        tune_projections(mini, *pairs, temperature=0.1, steps=4, batch_size=16, seed=s).fingerprint for s in (0, 0, 1)
    )
    assert one == same != other


def test_every_pass_sees_every_pair_once():
    rows = list(_batches(10, 5, 6, seed=0))
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert sorted(torch.cat([first, second]).tolist()) == list(range(10))
    assert [len(r) for r in _batches(10, 4, 5, seed=0)] == [4] * 5, "no short batch"
    assert [len(r) for r in _batches(3, 8, 2, seed=0)] == [3, 3]


def test_a_bias_is_tuned_too(photos):
    """A text tower that ends in a linear layer with a bias, as SigLIP's does."""
    model = load_model("mini-clip", device="cpu")
    linear = torch.nn.Linear(*model.net.text_projection.shape)
    with torch.no_grad():
        linear.weight.copy_(model.net.text_projection.T)
        linear.bias.fill_(0.1)
    del model.net.text_projection
    model.net.text_projection = linear.requires_grad_(False)
    before = image_text_pairs(model, photos, before_projection=True)
    tuned = tune_projections(model, *before, temperature=0.5, steps=1, batch_size=N, lr=1e-3)
    moved = tuned.net.text_projection.bias - linear.bias * (1 - 1e-3 * 0.01)  # AdamW decays it first
    torch.testing.assert_close(moved.abs(), torch.full_like(moved, 1e-3), rtol=1e-3, atol=0)  # Adam's first step: lr


def test_an_encoder_that_does_not_end_in_a_projection_is_refused():
    with pytest.raises(CrossgapError, match="does not end in a linear projection"):
        tune_projections(load_model("ViT-B-16-SigLIP,random", device="cpu"), *_fake(8, 8), temperature=1.0)


def _fake(d_image, d_text, n=6):
    rng, meta = np.random.default_rng(0), {"before_projection": True}
    return tuple(
        Embeddings(rng.normal(size=(n, d)), modality=side, meta=dict(meta))
        for side, d in zip(SIDES, (d_image, d_text), strict=True)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: ((x[:5], y), {}), "5 and 48 rows"),
        (lambda x, y: ((x[:1], y[:1]), {}), "1 and 1 rows"),
        (lambda x, y: ((y, x), {}), "Tuning takes images"),
        (lambda x, y: ((replace(x, meta={}), y), {}), "before_projection=True"),
        (lambda x, y: (_fake(100, 128), {}), "100 columns; the projection takes 128"),
        (lambda x, y: ((x, y), {"temperature": 0.0}), "positive temperature"),
        (lambda x, y: ((x, y), {"steps": 0}), "a step"),
        (lambda x, y: ((x, y), {"batch_size": 1}), "two pairs"),
    ],
)
def test_what_is_refused(mini, pairs, change, message):
    data, options = change(*pairs)
    with pytest.raises(CrossgapError, match=message):
        tune_projections(mini, *data, **{"temperature": 1.0, "steps": 1} | options)
