"""Linear adapters against the map that made the data, closed forms, and real CLIP pairs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes

from crossgap_lib.embeddings.embeddings import Embeddings, load_pair
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics import modality_gap, retrieval
from crossgap_lib.projection.adapters import _loss, train_adapter

D = 8


def pairs(n=400, d_out=D, noise=0.0, seed=0):
    """Images, and texts that are a linear map of them."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, D))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    y = x @ rng.normal(size=(d_out, D)).T + noise * rng.normal(size=(n, d_out))
    return Embeddings(x, modality="image"), Embeddings(y, modality="text")


def mean_cosine(a, b):
    return float((a.features * b.features).sum(dim=1).mean())


# ---------------------------------------------------------------- what is learned


@pytest.mark.parametrize("d_out", [D, 5])
def test_it_recovers_a_linear_map(d_out):
    x, y = pairs(d_out=d_out)
    new_x, new_y = (e[np.arange(300, 400)] for e in (x, y))
    adapter = train_adapter(x[:300], y[:300], contrastive=0.0, epochs=200, lr=0.02)
    mapped = adapter(new_x)
    assert mean_cosine(mapped, new_y) > 0.999
    assert mapped.features.shape == (100, d_out)
    assert mapped.modality == "text"
    assert mapped.ids.tolist() == new_x.ids.tolist()
    if d_out == D:
        assert mean_cosine(new_x, new_y) < 0.5, "the identity does not"


def test_the_cosine_part_reaches_procrustes_and_least_squares():
    """On a rotation Procrustes' solution is the best there is; on noisy pairs least squares is close to the best."""
    rng = np.random.default_rng(1)
    rotation = np.linalg.qr(rng.normal(size=(D, D)))[0]
    x = Embeddings(rng.normal(size=(400, D)))
    y = Embeddings(x.features.numpy() @ rotation, modality="text")
    best = orthogonal_procrustes(x.features.numpy(), y.features.numpy())[0]
    adapter = train_adapter(x, y, contrastive=0.0, epochs=200, lr=0.02, weight_decay=0.0)
    weight = adapter.weight.numpy().T / np.linalg.norm(adapter.weight.numpy(), 2)
    np.testing.assert_allclose(weight, best, atol=0.02)
    x, y = pairs(noise=0.5)
    design = np.column_stack([x.features.numpy(), np.ones(len(x))])
    fitted = Embeddings(design @ np.linalg.lstsq(design, y.features.numpy(), rcond=None)[0])
    adapter = train_adapter(x, y, contrastive=0.0, epochs=200, lr=0.02)
    assert mean_cosine(adapter(x), y) == pytest.approx(mean_cosine(fitted, y), abs=0.01)


def test_the_contrastive_part_alone_finds_the_pairs():
    x, y = pairs(noise=0.1, seed=3)
    seen, new = np.arange(300), np.arange(300, 400)
    adapter = train_adapter(x[seen], y[seen], cosine=0.0, contrastive=1.0, epochs=60, lr=0.02, batch_size=32)
    mapped, numbered = adapter(x[new]), Embeddings(y[new].features, labels=range(100), modality="text")
    before, after = (float(_loss(e.features, y[new].features, 0.0, 1.0)) for e in (x[new], mapped))
    assert after < 0.05 * before
    hits = [retrieval(replace(e, labels=np.arange(100)), numbered, self_match="keep") for e in (x[new], mapped)]
    assert hits[1].means["ap"] > hits[0].means["ap"] + 0.5


@given(
    n=st.integers(2, 6),
    d=st.integers(2, 5),
    cosine=st.floats(0, 2),
    contrastive=st.floats(0, 2),
    seed=st.integers(0, 9),
)
@settings(max_examples=25, deadline=None)
def test_the_loss_is_the_textbooks(n, d, cosine, contrastive, seed):
    rng = np.random.default_rng(seed)
    a, b = (Embeddings(rng.normal(size=(n, d))).features for _ in range(2))
    cos = a.double().numpy() @ b.double().numpy().T
    entropy = 0.0
    for i in range(n):
        for row in (cos[i], cos[:, i]):
            entropy += (np.log(np.exp(100 * (row - row.max())).sum()) + 100 * (row.max() - row[i])) / (2 * n)
    expected = cosine * np.mean([1 - cos[i, i] for i in range(n)]) + contrastive * entropy
    assert float(_loss(a, b, cosine, contrastive)) == pytest.approx(expected, rel=1e-3, abs=1e-3)


# ---------------------------------------------------------------- how


def test_the_seed_decides():
    x, y = pairs(60, noise=0.3)
    one, same, other = (train_adapter(x, y, seed=s, epochs=5) for s in (0, 0, 1))
    assert torch.equal(one.weight, same.weight)
    assert torch.equal(one.bias, same.bias)
    assert not torch.equal(one.weight, other.weight)


def test_it_keeps_the_epoch_that_is_best_on_held_out_pairs():
    x, y = pairs(30, noise=3.0)
    adapter = train_adapter(x, y, contrastive=0.0, lr=0.3, epochs=60, patience=5)
    history = adapter.history
    assert adapter.epoch == history["held-out loss"].idxmin()
    assert len(history) == adapter.epoch + 6, "five epochs more, and the start"
    assert history["epoch"].tolist() == list(range(len(history)))
    at_start = train_adapter(x, x, contrastive=0.0, patience=2)
    assert at_start.epoch == 0, "the identity can't be beaten"
    torch.testing.assert_close(at_start.weight, torch.eye(D))


def test_bad_input_is_refused():
    x, y = pairs(20)
    with pytest.raises(CrossgapError, match="20 and 19 rows"):
        train_adapter(x, y[:19])
    for settings_ in ({"held_out": 1.0}, {"epochs": 0}, {"batch_size": 0}, {"contrastive": -1.0}):
        with pytest.raises(CrossgapError, match="8 pairs or more"):
            train_adapter(x, y, **settings_)
    with pytest.raises(CrossgapError, match="8 pairs or more"):
        train_adapter(x[:7], y[:7])
    with pytest.raises(CrossgapError, match="NaN"):
        train_adapter(Embeddings(np.full((9, 2), np.nan)), y)
    with pytest.raises(CrossgapError, match="8"):
        train_adapter(x, y, epochs=1)(Embeddings(np.ones((2, 3))))


# ---------------------------------------------------------------- real CLIP pairs


def test_on_real_pairs_the_gap_shrinks(real_folder):
    images, texts = load_pair(real_folder / "clip_vitb16_coco500.npz")
    seen, new = np.arange(400), np.arange(400, 500)
    adapter = train_adapter(images[seen], texts[seen], epochs=20)
    mapped = adapter(images[new])
    before, after = (modality_gap(e, texts[new]) for e in (images[new], mapped))
    assert before > 0.8
    assert after < before / 2
    assert mean_cosine(mapped, texts[new]) > mean_cosine(images[new], texts[new]) + 0.1
