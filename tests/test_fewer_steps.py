"""The accelerated mode: what it starts from, how long its steps are, and that it leaves the exact mode alone."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from crossgap_lib import metrics
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion import fewer_steps, oti_ovi
from crossgap_lib.inversion.accelerated import Accelerated
from crossgap_lib.inversion.fewer_steps import FIT_STEPS, accelerate
from crossgap_lib.inversion.oti_ovi import oti, ovi


@pytest.fixture(scope="module")
def fitted(mini):
    """(OTI's accelerated mode, the features it was fitted on)."""
    images = encode_images(mini, load_dataset("world:all/train", n=48), cache=False)
    return accelerate(mini, "oti", 2, fit_on=images), images


def by_ridge_regression(features, tokens):
    """The normal equations of ridge regression with an intercept, in float64."""
    x, tokens = features.double(), tokens.flatten(1).double()
    centred = x - x.mean(0)
    weights = torch.linalg.solve(
        centred.T @ centred + 0.3 * torch.eye(x.shape[1]), centred.T @ (tokens - tokens.mean(0))
    )
    return (centred @ weights + tokens.mean(0)).float()


def test_the_start_is_the_ridge_regression_of_exact_tokens(mini, fitted):
    fast, images = fitted
    exact = oti(mini, images, n_tokens=2, steps=FIT_STEPS["oti"], cache=False)
    begun = fast.begin(images.features).flatten(1)
    torch.testing.assert_close(begun, by_ridge_regression(images.features, exact.tokens), atol=1e-5, rtol=0)
    assert fast.fit_steps == 48 * FIT_STEPS["oti"]


def test_the_start_is_fitted_with_the_template_of_the_run(mini, fitted):
    _, images = fitted
    words = "{} with a hat"
    fast = accelerate(mini, "oti", 1, fit_on=images, template=words)
    exact = oti(mini, images, steps=FIT_STEPS["oti"], template=words, cache=False)
    begun = fast.begin(images.features).flatten(1)
    torch.testing.assert_close(begun, by_ridge_regression(images.features, exact.tokens), atol=1e-5, rtol=0)
    run = oti(mini, images[:8], steps=0, template=words, accelerated=fast, cache=False)
    torch.testing.assert_close(run.tokens, fast.begin(images[:8].features))


def test_the_fit_keeps_to_the_batch(mini, fitted, monkeypatch):
    _, images = fitted
    sizes, run = [], oti_ovi.invert_batch

    def noted(job, rows, where):
        sizes.append(len(rows))
        return run(job, rows, where)

    monkeypatch.setattr(oti_ovi, "invert_batch", noted)
    small = accelerate(mini, "oti", 1, fit_on=images, batch_size=10)
    assert sizes == [10, 10, 10, 10, 8]
    torch.testing.assert_close(small.weights, accelerate(mini, "oti", 1, fit_on=images).weights, atol=1e-4, rtol=0)


def test_the_sample_is_drawn_and_the_order_of_the_rows_plays_no_part(mini, monkeypatch):
    """600 rows of three classes, one after the other, as in folders; then the same rows the other way round."""
    monkeypatch.setitem(FIT_STEPS, "oti", 1)
    features = torch.randn(600, 128, generator=torch.Generator().manual_seed(2))
    rows = Embeddings(
        features, [f"{'abc'[k // 200]}/{k}.jpg" for k in range(600)], np.arange(600) // 200, ("a", "b", "c")
    )
    seen, run = [], fewer_steps.run
    monkeypatch.setattr(
        fewer_steps, "run", lambda model, rows, *args, **how: seen.append(rows) or run(model, rows, *args, **how)
    )
    first, again = (accelerate(mini, "oti", 1, fit_on=some) for some in (rows, rows[::-1]))
    other = accelerate(mini, "oti", 1, fit_on=rows, seed=1)
    assert [len(sample) for sample in seen] == [256] * 3
    assert all(np.bincount(sample.labels, minlength=3).min() > 60 for sample in seen)
    assert torch.equal(first.weights, again.weights)
    assert set(seen[0].ids) != set(seen[2].ids)
    assert not torch.equal(first.weights, other.weights)


def unfitted(k, width):
    """Steps of length 0.4 from a start that is always zero."""
    return Accelerated(0.4, (k, width), torch.zeros(k * width, 3), torch.zeros(k * width), 0)


def test_steps_have_the_length_that_the_schedule_says():
    fast, tokens = unfitted(2, 8), torch.zeros(3, 2, 8)
    for step, share in ((0, 1.0), (2, 0.5), (3, (1 - np.sqrt(0.5)) / 2)):
        tokens.grad = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(step)) * 10.0**-step
        before = tokens.clone()
        fast.stepper(tokens, 4)(torch.tensor(step))
        moved = before - tokens
        torch.testing.assert_close(moved.square().mean(-1).sqrt(), torch.full((3, 2), 0.4 * float(share)))
        assert (torch.nn.functional.cosine_similarity(moved, tokens.grad, dim=-1) > 0.999).all()


def test_a_zero_gradient_moves_nothing():
    tokens = torch.ones(1, 1, 4)
    tokens.grad = torch.zeros(1, 1, 4)
    unfitted(1, 4).stepper(tokens, 1)(torch.tensor(0))
    assert torch.equal(tokens, torch.ones(1, 1, 4))


def test_no_step_at_all_gives_the_start(mini, fitted, cats_and_dogs):
    fast, _ = fitted
    _, images, _ = cats_and_dogs
    run = oti(mini, images, n_tokens=2, steps=0, accelerated=fast, cache=False)
    assert run.losses.shape == (0, 40)
    begun = fast.begin(images.features)
    torch.testing.assert_close(run.tokens, begun)
    with pytest.raises(CrossgapError, match="at least one step"):
        oti(mini, images, n_tokens=2, steps=0, cache=False)


def test_neither_batch_nor_order_matters(mini, fitted, cats_and_dogs):
    fast, _ = fitted
    _, images, _ = cats_and_dogs
    whole = oti(mini, images, n_tokens=2, steps=3, accelerated=fast, cache=False)
    chosen = [30, 2, 17]
    some = oti(mini, images[chosen], n_tokens=2, steps=3, accelerated=fast, batch_size=2, cache=False)
    torch.testing.assert_close(some.features, whole.features[chosen], atol=1e-5, rtol=0)


def test_ovi_begins_where_the_exact_patches_of_other_texts_point(mini, cats_and_dogs):
    """Fitted on the prompts themselves and hardly penalised, the start is where their own exact patches are."""
    _, _, prompts = cats_and_dogs
    train = load_dataset("world:all/train", n=24)
    texts = encode_texts(mini, [several[0] for several in train.captions], cache=False)
    fast = accelerate(mini, "ovi", 3, fit_on=texts)
    exact = ovi(mini, texts, n_patches=3, steps=FIT_STEPS["ovi"], cache=False)
    begun, reached = fast.begin(texts.features).flatten(1), exact.tokens.flatten(1)
    agreement = torch.nn.functional.cosine_similarity(begun - begun.mean(0), reached - reached.mean(0), dim=1)
    assert agreement.min() > 0.5
    run = ovi(mini, prompts, n_patches=3, steps=0, accelerated=fast, cache=False)
    torch.testing.assert_close(run.tokens, fast.begin(prompts.features))


def test_cached_results_keep_the_modes_apart(mini, fitted, cats_and_dogs):
    fast, _ = fitted
    _, images, _ = cats_and_dogs
    exact = oti(mini, images[:8], n_tokens=2, steps=2)
    accelerated = oti(mini, images[:8], n_tokens=2, steps=2, accelerated=fast)
    assert not torch.equal(exact.features, accelerated.features)
    assert torch.equal(oti(mini, images[:8], n_tokens=2, steps=2).features, exact.features)


def test_one_step_beats_the_best_exact_step(mini):
    """The claim that it exists for, on the shipped mini: 64 queries, 600 pictures, at most a fifth of the steps."""
    gallery = encode_images(mini, load_dataset("world:all", n=600), cache=False)
    train = encode_images(mini, load_dataset("world:all/train", n=256), cache=False)
    queries, steps = gallery[:64], range(1, 13)
    exact = oti(mini, queries, steps=12, snapshots=steps, cache=False)
    curve = [metrics.mean_average_precision(exact.at(s), gallery) for s in steps]
    best = 1 + int(np.argmax(curve))
    fast = accelerate(mini, "oti", 1, fit_on=train)
    quick = oti(mini, queries, steps=1, accelerated=fast, cache=False)
    assert best >= 5
    assert metrics.mean_average_precision(quick, gallery) > max(curve)


def test_a_start_serves_only_what_it_was_fitted_for(mini, fitted, cats_and_dogs):
    fast, _ = fitted
    _, images, prompts = cats_and_dogs
    twin = replace(mini, net=deepcopy(mini.net))  # a model of the same width
    twin.net.text_projection.data[0, 0] += 1
    how = {"steps": 1, "accelerated": fast, "cache": False}
    for words, refused in {
        "another method and another template": lambda: ovi(mini, prompts, n_patches=2, **how),
        "another model": lambda: oti(twin, images, n_tokens=2, **how),
        "another number of pseudo-vectors": lambda: oti(mini, images, n_tokens=1, **how),
        "another template": lambda: oti(mini, images, n_tokens=2, template="a drawing of", **how),
    }.items():
        with pytest.raises(CrossgapError, match=f"was fitted for {words}: fit one for this run"):
            refused()
    same = oti(mini, images[:8], n_tokens=2, template="a photo of {}", **how)  # the default, written otherwise
    assert torch.equal(same.tokens, oti(mini, images[:8], n_tokens=2, **how).tokens)


def test_refusals(mini, cats_and_dogs):
    _, images, _ = cats_and_dogs
    with pytest.raises(CrossgapError, match="fitted on image features"):
        accelerate(mini, "oti", 1)
    with pytest.raises(CrossgapError, match="fitted on image features"):
        accelerate(mini, "oti", 1, fit_on=images[:5])
    with pytest.raises(CrossgapError, match="no method 'uti'"):
        accelerate(mini, "uti", 1)
    with pytest.raises(CrossgapError, match="fitted on text features"):
        accelerate(mini, "ovi", 1)
    with pytest.raises(CrossgapError, match="features of the model itself"):
        accelerate(mini, "oti", 1, fit_on=Embeddings(torch.eye(17)))
