"""Few-shot classifiers against textbook loops; the protocol: no picture in two parts, nothing chosen on the test."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.stats import entropy
from sklearn.covariance import ledoit_wolf
from sklearn.neighbors import KNeighborsClassifier

from crossgap_lib import CrossgapError, Embeddings, metrics, plots, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.runner.notebooks import run_notebooks
from crossgap_lib.tasks import classifiers
from crossgap_lib.tasks.classifiers import ape, ape_channels, coder, lda, linear_probe, prototype, tip_adapter, tip_x
from crossgap_lib.tasks.classifiers import zero_shot as zero_shot_scores
from crossgap_lib.tasks.shots import draw_support

CLASSES, WIDTH = 4, 10


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def made(shots=3, n=12, seed=0, classes=CLASSES, width=WIDTH):
    """support, labels, queries, prompts: unit rows around class means, far enough apart to be told mostly right."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes, width))
    labels = rng.permutation(np.repeat(np.arange(classes), shots))
    asked = rng.integers(classes, size=n)
    noisy = lambda rows, size: unit(rows + size * rng.normal(size=rows.shape))  # noqa: E731
    return noisy(means[labels], 0.8), labels, noisy(means[asked], 0.8), noisy(means, 0.4)


WITH_TEXT = {"tip_x": tip_x, "ape": ape, "coder": coder}
WITHOUT = {"prototype": prototype, "lda": lda, "linear_probe": linear_probe, "tip_adapter": tip_adapter}
EVERY = WITHOUT | WITH_TEXT


def scores(name, support, labels, queries, prompts, **setting):
    return EVERY[name](support, labels, queries, *((prompts,) if name in WITH_TEXT else ()), **setting)


# ---------------------------------------------------------------- against loops


def test_prototypes_against_a_loop():
    support, labels, queries, _ = made()
    for x, row in zip(queries, prototype(support, labels, queries), strict=True):
        for c in range(CLASSES):
            mean = np.mean([support[k] for k in range(len(labels)) if labels[k] == c], axis=0)
            assert row[c] == pytest.approx(100 * x @ mean / np.sqrt(mean @ mean))


def test_one_prototype_a_class_is_the_nearest_neighbour():
    support, labels, queries, _ = made(shots=1, n=40)
    nearest = KNeighborsClassifier(1, metric="cosine").fit(support, labels).predict(queries)
    assert np.array_equal(prototype(support, labels, queries).argmax(axis=1), nearest)
    assert len(set(nearest)) == CLASSES


def test_lda_against_the_formula():
    support, labels, queries, _ = made(shots=4)
    means = np.stack([support[labels == c].mean(axis=0) for c in range(CLASSES)])
    around = np.stack([x - means[c] for x, c in zip(support, labels, strict=True)])
    covariance = np.cov(around.T, ddof=1)  # what is around the means has mean 0
    n, d = support.shape
    precision = d * np.linalg.inv((n - 1) * covariance + np.trace(covariance) * np.eye(d))
    for x, row in zip(queries, lda(support, labels, queries), strict=True):
        expected = [precision @ m @ x - 0.5 * m @ precision @ m for m in means]
        np.testing.assert_allclose(row, expected, rtol=1e-8)


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_lda_with_shrunk_covariances_against_the_formula(classes):
    support, labels, queries, _ = made(shots=6, classes=classes)
    parts = [support[labels == c] for c in range(classes)]
    scales = [part.std(axis=0) for part in parts]  # scikit-learn shrinks standardised features
    shrunk = [ledoit_wolf((p - p.mean(axis=0)) / s)[0] * np.outer(s, s) for p, s in zip(parts, scales, strict=True)]
    precision, means = np.linalg.inv(np.mean(shrunk, axis=0)), [p.mean(axis=0) for p in parts]
    expected = np.stack([queries @ precision @ m - 0.5 * m @ precision @ m for m in means], axis=1)
    found = lda(support, labels, queries, covariance="scikit-learn")
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("covariance", classifiers.COVARIANCES)
def test_one_shot_leaves_lda_without_a_covariance(covariance):
    support, labels, queries, _ = made(shots=1)
    assert not lda(support, labels, queries, covariance=covariance).any()


def test_linear_probe_minimises_the_penalised_cross_entropy():
    support, labels, queries, _ = made(shots=4)

    def loss(flat, c=10.0):
        weights, bias = flat[:-CLASSES].reshape(WIDTH, CLASSES), flat[-CLASSES:]
        rows = support @ weights + bias
        surprise = np.log(np.exp(rows).sum(axis=1)) - rows[np.arange(len(labels)), labels]
        return surprise.sum() + (weights**2).sum() / (2 * c)

    best = minimize(loss, np.zeros((WIDTH + 1) * CLASSES)).x
    expected = queries @ best[:-CLASSES].reshape(WIDTH, CLASSES) + best[-CLASSES:]
    found = linear_probe(support, labels, queries, c=10.0)
    np.testing.assert_allclose(found - found[:, :1], expected - expected[:, :1], atol=0.05)
    assert np.abs(expected).max() > 1


def test_two_classes_have_two_columns():
    support, labels, queries, _ = made(classes=2)
    for found in (linear_probe(support, labels, queries), lda(support, labels, queries, covariance="scikit-learn")):
        assert found.shape == (len(queries), 2)
        assert np.array_equal(found.argmax(axis=1), prototype(support, labels, queries).argmax(axis=1))


def test_tip_adapter_against_a_loop():
    support, labels, queries, _ = made()
    expected = np.zeros((len(queries), CLASSES))
    for i, x in enumerate(queries):
        for s, c in zip(support, labels, strict=True):
            expected[i, c] += np.exp(-2.5 * (1 - x @ s))
    np.testing.assert_allclose(tip_adapter(support, labels, queries, beta=2.5), expected)


def test_tip_x_against_a_loop():
    support, labels, queries, texts = made()
    signature = lambda x: np.exp(t := [x @ w / 0.3 for w in texts]) / np.exp(t).sum()  # noqa: E731
    among = [entropy(signature(a), signature(b)) for a in support for b in support]
    cosines = [a @ b for a in support for b in support]
    rate = (max(cosines) - min(cosines)) / (max(among) - min(among))
    expected = np.zeros((len(queries), CLASSES))
    for i, x in enumerate(queries):
        for s, c in zip(support, labels, strict=True):
            bridge = 1 - rate * entropy(signature(x), signature(s))
            expected[i, c] += np.exp(-2.0 * (1 - x @ s)) + 0.7 * bridge
    found = tip_x(support, labels, queries, texts, beta=2.0, gamma=0.7, temperature=0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-8)


def criterion_by_loops(support, labels, prompts, weights):
    similarity, count = np.zeros(WIDTH), 0
    sets = [[prompts[c], *support[labels == c]] for c in range(CLASSES)]
    for i, one in enumerate(sets):
        for j, other in enumerate(sets):
            for a in one if i != j else ():
                for b in other:
                    similarity, count = similarity + a * b, count + 1
    variance = ((prompts - prompts.mean(axis=0)) ** 2).sum(axis=0) / (CLASSES - 1)
    return weights[1] * variance - weights[0] * similarity / count


@pytest.mark.parametrize("weights", [(0.7, 0.3), (0.2, 0.8)])
def test_ape_against_a_loop(weights):
    support, labels, queries, prompts = made()
    best = sorted(range(WIDTH), key=lambda k: -criterion_by_loops(support, labels, prompts, weights)[k])[:6]
    assert ape_channels(support, labels, prompts, share=0.6, weights=weights).tolist() == best
    cut = lambda x: unit(x[best])  # noqa: E731
    expected = np.zeros((len(queries), CLASSES))
    for i, x in enumerate(queries):
        for s, c in zip(support, labels, strict=True):
            says = np.exp([cut(s) @ cut(t) for t in prompts])
            divergence = entropy(np.eye(CLASSES)[c], says / says.sum(), base=2)
            expected[i, c] += np.exp(-2.0 * (1 - cut(x) @ cut(s))) * np.exp(0.4 * divergence)
    settings = {"beta": 2.0, "gamma": 0.4, "share": 0.6, "weights": weights}
    np.testing.assert_allclose(ape(support, labels, queries, prompts, **settings), expected)


def test_ape_without_selection_or_surprise_is_tip_adapter():
    support, labels, queries, prompts = made()
    found = ape(support, labels, queries, prompts, beta=3.0, gamma=0.0, share=1.0)
    np.testing.assert_allclose(found, tip_adapter(support, labels, queries, beta=3.0))


def test_coder_against_a_loop():
    support, labels, queries, _ = made()
    texts = unit(np.random.default_rng(5).normal(size=(17, WIDTH)))
    profile = lambda x: unit(np.array([x @ t for t in texts]))  # noqa: E731
    expected = np.zeros((len(queries), CLASSES))
    for i, x in enumerate(queries):
        affinities = [profile(x) @ profile(s) for s in support]
        low, high = min(affinities), max(affinities)
        for affinity, c in zip(affinities, labels, strict=True):
            expected[i, c] += np.exp(-4.0 * (1 - (affinity - low) / (high - low)))
    np.testing.assert_allclose(coder(support, labels, queries, texts, beta=4.0), expected)


def test_zero_shot_is_the_cosine():
    *_, queries, prompts = made()
    expected = [[100 * sum(a * b for a, b in zip(x, t, strict=True)) for t in prompts] for x in queries]
    np.testing.assert_allclose(zero_shot_scores(queries, prompts), expected)


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("name", EVERY)
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_the_order_of_the_support_does_not_matter(name, seed):
    support, labels, queries, prompts = made(seed=seed)
    order = np.random.default_rng(seed).permutation(len(labels))
    found = scores(name, support[order], labels[order], queries, prompts)
    np.testing.assert_allclose(found, scores(name, support, labels, queries, prompts), rtol=1e-6, atol=0.05)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "linear_probe"])
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_renaming_the_classes_permutes_the_scores(name, seed):
    support, labels, queries, prompts = made(seed=seed)
    names = np.random.default_rng(seed + 1).permutation(CLASSES)  # class c becomes names[c]
    renamed = scores(name, support, names[labels], queries, prompts[np.argsort(names)])
    np.testing.assert_allclose(renamed[:, names], scores(name, support, labels, queries, prompts), rtol=1e-7)


@pytest.mark.parametrize("name", EVERY)
def test_a_query_is_answered_alone(name, monkeypatch):
    support, labels, queries, prompts = made(n=9)
    together = scores(name, support, labels, queries, prompts)
    monkeypatch.setattr(classifiers, "_ENTRIES", 2 * len(support))  # two queries at a time
    np.testing.assert_allclose(scores(name, support, labels, queries, prompts), together, rtol=1e-10)
    alone = [scores(name, support, labels, queries[k : k + 1], prompts)[0] for k in range(9)]
    np.testing.assert_allclose(alone, together, rtol=1e-10)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", EVERY)
def test_classifiers_refuse_what_does_not_fit(name):
    support, labels, queries, prompts = made()
    with pytest.raises(CrossgapError, match="The images have 10 dimensions and the queries 9"):
        scores(name, support, labels, queries[:, :9], prompts)
    with pytest.raises(CrossgapError, match="queries hold NaN"):
        scores(name, support, labels, np.where(queries > 0, np.nan, queries), prompts)
    with pytest.raises(CrossgapError, match="12 support images need as many"):
        scores(name, support, labels[:-1], queries, prompts)
    with pytest.raises(CrossgapError, match=r"0 .. c - 1"):
        scores(name, support, np.where(labels == 2, 7, labels), queries, prompts)
    with pytest.raises(CrossgapError, match="two or more classes"):
        scores(name, support, np.zeros_like(labels), queries, prompts[:1])
    with pytest.raises(CrossgapError, match="queries must be a matrix"):
        scores(name, support, labels, queries[:0], prompts)


def test_what_reads_texts_refuses_others():
    support, labels, queries, prompts = made()
    for scored in WITH_TEXT.values():
        with pytest.raises(CrossgapError, match=r"10 dimensions and the (texts|prompts) 9"):
            scored(support, labels, queries, prompts[:, :9])
    with pytest.raises(CrossgapError, match="3 prompts for 4 classes"):
        ape(support, labels, queries, prompts[:3])
    with pytest.raises(CrossgapError, match=r"share of channels lies in \(0, 1\], but is 0"):
        ape(support, labels, queries, prompts, share=0)
    with pytest.raises(CrossgapError, match="not 'oracle'"):
        lda(support, labels, queries, covariance="oracle")


# ---------------------------------------------------------------- protocol


def embeddings(name, labels, seed, classes=CLASSES, spread=0.9):
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).normal(size=(classes, WIDTH))
    features = means[labels] + spread * rng.normal(size=(len(labels), WIDTH))
    names = tuple(f"kind {c}" for c in range(classes))
    return Embeddings(features, [f"{name}-{k}" for k in range(len(labels))], labels, names)


def split(**parts):
    train, validation, test = (
        embeddings(name, np.arange(n) % CLASSES, seed) for name, n, seed in (("a", 32, 1), ("b", 20, 2), ("c", 60, 3))
    )
    prompts = embeddings("p", np.arange(CLASSES), 4, spread=1.2)
    prompts = replace(prompts, modality="text")
    return tasks.FewShotSplit(**({"train": train, "validation": validation, "test": test, "prompts": prompts} | parts))


def test_support_is_drawn_from_each_class_and_repeats_with_the_seed():
    labels = np.array([5, 2, 2, 5, 9, 9, 2, 5, 9, 9])
    rows = draw_support(labels, 3, seed=4)
    assert labels[rows].tolist() == [[2] * 3, [5] * 3, [9] * 3]
    assert all(len(set(row)) == 3 for row in rows.tolist())
    assert np.array_equal(rows, draw_support(labels, 3, seed=4))
    assert {tuple(sorted(draw_support(labels, 3, s)[2])) for s in range(30)} == set(combinations((4, 5, 8, 9), 3))
    for shots in (4, 0):
        with pytest.raises(CrossgapError, match=f"{shots} shots can't be drawn: class 2 has 3"):
            draw_support(labels, shots, seed=0)


def test_what_is_held_back_is_not_drawn_from():
    train = embeddings("a", np.repeat([0, 1, 2, 3], [9, 1 + 1, 20, 4]), 0)
    rest, held = tasks.hold_back(train, share=0.25, seed=1)
    assert not set(rest.ids) & set(held.ids)
    assert set(rest.ids) | set(held.ids) == set(train.ids)
    assert np.bincount(held.labels).tolist() == [2, 1, 5, 1]
    for e, share in ((replace(train, labels=None), 0.5), (train, 1.0)):
        with pytest.raises(CrossgapError, match=r"labels and a share in \(0, 1\)"):
            tasks.hold_back(e, share)


def test_a_split_refuses_leaks_and_what_does_not_match():
    good = split()
    leaking = replace(good.test, ids=np.concatenate([good.train.ids[:7], good.test.ids[7:]]))
    with pytest.raises(CrossgapError, match="7 pictures are among both the training and the test ones"):
        replace(good, test=leaking)
    with pytest.raises(CrossgapError, match="among both the validation and the test ones, the first is b-0"):
        replace(good, test=good.validation)
    with pytest.raises(CrossgapError, match="the validation pictures have none"):
        replace(good, validation=replace(good.validation, labels=None))
    with pytest.raises(CrossgapError, match="test pictures have other class names"):
        replace(good, test=replace(good.test, class_names=tuple("wxyz")))
    with pytest.raises(CrossgapError, match="No training picture shows class 3"):
        replace(good, train=good.train[good.train.labels < 3])
    narrow = replace(good.test, features=good.test.features[:, :5])
    with pytest.raises(CrossgapError, match="test pictures have another width"):
        replace(good, test=narrow)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p[:3], "class 3 has 0"),
        (lambda p: replace(p, labels=[0, 1, 1, 3]), "class 1 has 2"),
        (lambda p: replace(p, class_names=tuple("wxyz")), "different class names"),
        (lambda p: replace(p, features=p.features[:, :5]), "prompts have another width"),
    ],
)
def test_a_split_refuses_prompts_of_other_classes(change, message):
    with pytest.raises(CrossgapError, match=message):
        split(prompts=change(split().prompts))


def test_prompts_are_found_by_their_label():
    order = np.array([2, 0, 3, 1])
    shuffled = split(prompts=split().prompts[order])
    np.testing.assert_array_equal(shuffled.prompt_rows(), split().prompt_rows())
    assert split(prompts=None).prompt_rows() is None


def test_equal_rows_are_counted():
    a, b = embeddings("a", np.arange(6) % CLASSES, 0), embeddings("b", np.arange(9) % CLASSES, 1)
    assert tasks.equal_rows(a, b) == 0
    both = replace(b, features=np.concatenate([a.features[[4, 1]], b.features[2:]]))
    assert tasks.equal_rows(a, both) == 2


def test_pictures_can_be_asked_about_another_factor():
    photos = load_dataset("world:all", n=30)
    images = Embeddings(np.random.default_rng(0).normal(size=(30, 3)), photos.ids)
    asked = tasks.labelled_by(images, photos, "background")
    assert [asked.class_names[k] for k in asked.labels] == photos.factors["background"].tolist()
    assert list(asked.class_names) == sorted(set(photos.factors["background"]))
    with pytest.raises(CrossgapError, match="'weather' of world:all is not known"):
        tasks.labelled_by(images, photos, "weather")
    with pytest.raises(CrossgapError, match="row by row"):
        tasks.labelled_by(images[:5], photos[5:10], "background")


def by_hand(parts, k, seed, beta, alpha):
    """Which test pictures Tip-Adapter classifies rightly, every step spelt out."""
    train = parts.train[np.argsort(parts.train.ids)]
    rows = draw_support(train.labels, k, seed).ravel()
    x, y = train.features.double().numpy(), train.labels
    right = []
    for q, label in zip(parts.test.features.double().numpy(), parts.test.labels, strict=True):
        row = [100 * q @ t for t in parts.prompts.features.double().numpy()]
        for r in rows:
            row[y[r]] += alpha * np.exp(-beta * (1 - q @ x[r]))
        right.append(int(np.argmax(row)) == label)
    return right


def test_a_run_is_what_one_gets_by_hand():
    parts = split()
    methods = tasks.prompt_methods(alphas=(30.0,), betas=(2.0,))[3:4]
    run = tasks.few_shot(parts, methods, shots=(1, 3), seeds=(0, 1))
    for k in (1, 3):
        expected = [by_hand(parts, k, seed, 2.0, 30.0) for seed in (0, 1)]
        assert run.right[tasks.WITH_PROMPTS, "Tip-Adapter", k].tolist() == expected
    assert run.choices[["beta", "alpha"]].to_numpy().tolist() == [[2.0, 30.0]] * 4
    assert run.choices["validation"].isna().all()  # one setting leaves nothing to choose


def test_parameters_are_chosen_on_validation_pictures_alone():
    parts = split()
    methods = tasks.prompt_methods(alphas=(0.1, 1.0, 30.0), betas=(1.0, 10.0))[3:4]
    run = tasks.few_shot(parts, methods, shots=(2,), seeds=(5,))
    tried = {}
    for beta in (1.0, 10.0):
        for alpha in (0.1, 1.0, 30.0):
            mirrored = tasks.FewShotSplit(parts.train, parts.test, parts.validation, parts.prompts)
            tried[beta, alpha] = 100 * np.mean(by_hand(mirrored, 2, 5, beta, alpha))
    chosen = run.choices.iloc[0]
    assert chosen["validation"] == pytest.approx(max(tried.values()))
    assert (chosen["beta"], chosen["alpha"]) == max(tried, key=tried.get)
    assert len(set(tried.values())) > 1
    others = replace(parts, test=parts.test[parts.test.labels > 1])
    pd.testing.assert_frame_equal(tasks.few_shot(others, methods, shots=(2,), seeds=(5,)).choices, run.choices)


def test_a_projection_maps_the_images_and_leaves_zero_shot_scores_alone():
    parts = split()
    pca = pca_of_prompts(parts.prompts)
    methods = (*tasks.image_only_methods()[:1], *tasks.prompt_methods(alphas=(0.0,), betas=(1.0,)))
    run = tasks.few_shot(parts, methods, shots=(2,), seeds=(0,), projection=pca)
    zero = run.right[tasks.WITH_PROMPTS, "Zero-shot", 2]
    assert zero.mean() == metrics.zero_shot_accuracy(parts.test, parts.prompts)
    assert "Zero-shot + PCA" not in run.methods[tasks.WITH_PROMPTS]
    for name in ("CODER", "CODER + PCA"):  # alpha 0 leaves zero-shot scores only, which no projection touches
        assert np.array_equal(run.right[tasks.WITH_PROMPTS, name, 2], zero)
    seen = tasks.FewShotSplit(*(pca(e) for e in (parts.train, parts.validation, parts.test)))
    again = tasks.few_shot(seen, methods[:1], shots=(2,), seeds=(0,))
    assert np.array_equal(
        run.right[tasks.IMAGE_ONLY, "Prototype + PCA", 2], again.right[tasks.IMAGE_ONLY, "Prototype", 2]
    )


def one_to_one_by_hand(parts, seed, view, prompts_see):
    """Which test pictures prototypes plus prompts classify rightly, two shots, every step spelt out."""
    train = parts.train[np.argsort(parts.train.ids)]
    rows = draw_support(train.labels, 2, seed).ravel()
    x, y = view(train).features.double().numpy()[rows], train.labels[rows]
    means = [np.mean([x[k] for k in range(len(y)) if y[k] == c], axis=0) for c in range(CLASSES)]
    right, asked = [], (view(parts.test).features.double().numpy(), prompts_see(parts.test).features.double().numpy())
    for seen, read, label in zip(*asked, parts.test.labels, strict=True):
        prompts = parts.prompts.features.double().numpy()
        row = [100 * read @ t + 100 * seen @ m / np.sqrt(m @ m) for t, m in zip(prompts, means, strict=True)]
        right.append(int(np.argmax(row)) == label)
    return right


def test_prompts_and_prototypes_one_to_one_in_both_readings():
    parts, native = split(), lambda e: e
    pca = pca_of_prompts(parts.prompts)
    run = tasks.few_shot(parts, tasks.one_to_one(), shots=(2,), seeds=range(8), projection=pca)
    paper, released = ("Prototype 1:1", "Prototype 1:1, as released")
    readings = {
        **{(name, False): (native, native) for name in (paper, released)},
        **{(paper, True): (pca, native), (released, True): (pca, pca)},
    }
    found = {key: run.right[tasks.WITH_PROMPTS, tasks.with_pca(*key), 2].tolist() for key in readings}
    assert found == {key: [one_to_one_by_hand(parts, k, *how) for k in range(8)] for key, how in readings.items()}
    assert found[paper, True] != found[released, True]


def test_the_prototype_run_agrees_with_few_shot_prototypes():
    # All pictures not drawn are asked there; here the test part is other pictures: so let them be the same ones.
    train = split().train
    train = train[np.argsort(train.ids)]
    for seed in range(3):
        rest = np.setdiff1d(np.arange(len(train)), draw_support(train.labels, 2, seed))
        rows = draw_support(train.labels, 2, seed).ravel()
        support, labels = train.features[rows].double().numpy(), train.labels[rows]
        answers = prototype(support, labels, train.features[rest].double().numpy()).argmax(axis=1)
        accuracy = (answers == train.labels[rest]).mean()
        assert tasks.few_shot_prototypes(train, 2, seeds=[seed])[0] == pytest.approx(accuracy)


def test_draws_do_not_depend_on_the_order_of_the_rows():
    parts, shuffled = split(), np.random.default_rng(5).permutation(32)
    mixed = replace(parts, train=parts.train[shuffled])
    runs = [tasks.few_shot(p, tasks.image_only_methods()[:1], shots=(2,), seeds=range(4)) for p in (parts, mixed)]
    one, other = (run.right[tasks.IMAGE_ONLY, "Prototype", 2].tolist() for run in runs)
    assert one == other
    assert one[0] != one[1], "draws must differ"
    held = [set(tasks.hold_back(p.train, 0.25, seed=1)[1].ids) for p in (parts, mixed)]
    assert held[0] == held[1]
    by_prototype = [tasks.few_shot_prototypes(p.train, 2, seeds=range(4)) for p in (parts, mixed)]
    np.testing.assert_array_equal(*by_prototype)


def test_one_shot_lda_knows_nothing_and_adds_nothing_to_zero_shot():
    parts = split()
    run = tasks.few_shot(parts, (*tasks.image_only_methods(), *tasks.prompt_methods()), shots=(1,), seeds=(0, 1))
    assert not run.share(tasks.IMAGE_ONLY, "LDA", 1).any(), "all scores are equal: a tie counts as wrong"
    assert np.array_equal(run.share(tasks.WITH_PROMPTS, "LDA", 1), run.share(tasks.WITH_PROMPTS, "Zero-shot", 1))


def test_a_run_refuses_missing_prompts_and_too_many_shots():
    with pytest.raises(CrossgapError, match=r"Zero-shot, Prototype.* need class prompts"):
        tasks.few_shot(split(prompts=None), tasks.prompt_methods())
    with pytest.raises(CrossgapError, match="needs a method, a number of shots and a seed"):
        tasks.few_shot(split(), tasks.image_only_methods(), shots=())
    with pytest.raises(CrossgapError, match="9 shots can't be drawn: class 0 has 8"):
        tasks.few_shot(split(), tasks.image_only_methods(), shots=(9,))


def test_every_method_repeats_and_reads_only_what_it_is_given():
    parts = split(texts=embeddings("t", np.arange(11) % CLASSES, 6))
    methods = (*tasks.prompt_methods(), *tasks.support_alone(tasks.prompt_methods()))
    runs = [tasks.few_shot(parts, methods, shots=(2,), seeds=(0,)) for _ in range(2)]
    pd.testing.assert_frame_equal(runs[0].choices, runs[1].choices)
    other = tasks.few_shot(replace(parts, texts=None), methods, shots=(2,), seeds=(0,))
    differ = {key[1] for key in other.right if not np.array_equal(other.right[key], runs[0].right[key])}
    assert differ <= {"CODER"}
    alone = [m for m in methods if m.setting == tasks.SUPPORT_ALONE]
    assert "Zero-shot" not in {m.name for m in alone}
    assert not any("alpha" in m.grid for m in alone)


# ---------------------------------------------------------------- tables and figures


def run_of(shots=(1, 4), seeds=range(3)):
    parts = split()
    methods = (*tasks.image_only_methods(), *tasks.prompt_methods(betas=(5.5,)))
    return tasks.few_shot(parts, methods, shots=shots, seeds=seeds, projection=pca_of_prompts(parts.prompts))


def test_the_table_counts_draws_and_pictures():
    run = run_of()
    table = tasks.few_shot_table(run).set_index(["setting", "method", "shots"])
    assert len(table) == 2 * (3 * 2 + 6 * 2 + 1)
    right, base = (run.right[tasks.IMAGE_ONLY, name, 4] for name in ("LDA + PCA", "Prototype"))
    row = table.loc[(tasks.IMAGE_ONLY, "LDA + PCA", 4)]
    assert row["value"] == pytest.approx(100 * np.mean(right))
    assert row["spread"] == pytest.approx(100 * np.std([np.mean(draw) for draw in right], ddof=1))
    assert row["over"] == "Prototype"
    assert row["gain"] == pytest.approx(100 * (right.mean() - base.mean()))
    assert np.isnan(tasks.few_shot_table(run_of(seeds=[0]))["spread"]).all()


def test_gains_of_pca_are_those_over_the_same_method():
    run = run_of()
    gains = tasks.pca_gains(run)
    assert (gains["method"] == gains["over"] + " + PCA").all()
    assert len(gains) == 2 * (3 + 6)
    row = gains.set_index(["setting", "over", "shots"]).loc[(tasks.IMAGE_ONLY, "LDA", 4)]
    with_it, without = (run.right[tasks.IMAGE_ONLY, name, 4].mean(axis=0) for name in ("LDA + PCA", "LDA"))
    interval = metrics.bootstrap_interval(with_it - without)
    assert row[["gain", "gain low", "gain high"]].tolist() == pytest.approx(
        [100 * v for v in ((with_it - without).mean(), *interval)]
    )
    alone = tasks.few_shot(split(), tasks.image_only_methods(), shots=(1,), seeds=(0,))
    assert tasks.pca_gains(alone).empty


def test_one_method_over_another_at_each_number_of_shots():
    run = run_of(shots=(1, 2))
    table = tasks.shot_table(run, tasks.WITH_PROMPTS, ["CODER"], "LDA + PCA")
    assert table[["method", "shots"]].to_numpy().tolist() == [
        *(["LDA + PCA", 1], ["CODER", 1], ["LDA + PCA", 2], ["CODER", 2]),
    ]
    coder_right, lda_right = (run.right[tasks.WITH_PROMPTS, name, 2].mean() for name in ("CODER", "LDA + PCA"))
    assert table["gain"].iloc[-1] == pytest.approx(100 * (coder_right - lda_right))


def test_names_help_the_question_they_belong_to():
    # Two independent factors, each along an axis of its own.
    rng = np.random.default_rng(0)
    first, second = rng.integers(2, size=(2, 240))
    features = np.stack([2 * first - 1, 2 * second - 1, 0 * first], axis=1) + 0.5 * rng.normal(size=(240, 3))
    prompts = {"first": [[1, 0, 1], [-1, 0, 1]], "second": [[0, 1, 1], [0, -1, 1]]}
    names = {f: pca_of_prompts(Embeddings(np.array(rows), modality="text")) for f, rows in prompts.items()}

    def accuracies(labels):
        parts = [Embeddings(features[p], [f"r{k}" for k in p], labels[p]) for p in np.split(np.arange(240), [40, 60])]
        question, method = tasks.FewShotSplit(*parts), tasks.image_only_methods()[:1]
        runs = {f: tasks.few_shot(question, method, shots=[1], seeds=range(3), projection=v) for f, v in names.items()}
        native = runs["first"].share(tasks.IMAGE_ONLY, "Prototype", 1).mean()
        return native, {f: run.share(tasks.IMAGE_ONLY, "Prototype + PCA", 1).mean() for f, run in runs.items()}

    for labels, own, other in ((first, "first", "second"), (second, "second", "first")):
        native, along = accuracies(labels)
        assert along[own] > native > along[other]


def test_published_accuracies_and_gains():
    table = tasks.published_few_shot().set_index(["model", "method", "shots"])["value"].sort_index()
    assert table["CLIP ViT-B", "Prototype"].tolist() == [43.4, 55.3, 63.8, 69.6, 73.5]
    assert table["CLIP ViT-B", "Prototype + PCA"].tolist() == [50.7, 62.5, 69.7, 74.7, 77.5]
    assert table["DINOv2 ViT-B", "LDA", 1] == 2.3
    gains = tasks.published_pca_gains(tasks.published_few_shot()).set_index(["model", "over", "shots"])
    assert gains["gain"]["CLIP ViT-B", "Prototype", 1] == pytest.approx(7.3)
    assert gains["gain"]["CLIP ViT-B", "LDA", 2] == pytest.approx(2.5)
    assert gains["gain low"].isna().all(), "one mean of eleven sets has no interval"
    assert "DINOv2 ViT-B" not in gains.index


def test_logs_of_the_released_code_have_a_gain_for_each_data_set():
    logs = tasks.published_few_shot("reevaluating-code", "few-shot logs")
    assert set(logs["setting"]) == {tasks.IMAGE_ONLY, tasks.WITH_PROMPTS}
    cells = logs.set_index(["model", "dataset", "method", "shots"])["value"]
    assert cells["DINOv3 ViT-L/16", "Caltech", "LDA", 1] == 5.27
    gains = tasks.published_pca_gains(logs).set_index(["model", "over", "shots"])
    each = cells["CLIP RN50", :, "Prototype + PCA", 1] - cells["CLIP RN50", :, "Prototype", 1]
    row = gains.loc[("CLIP RN50", "Prototype", 1)]
    assert (row["n"], row["gain"]) == (9, pytest.approx(each.mean()))
    assert each.min() < row["gain low"] < row["gain"] < row["gain high"] < each.max()


def test_minis_stand_for_models_of_table_two():
    names = set(tasks.published_few_shot()["model"])
    assert {tasks.stands_for(f"mini-{m}") for m in ("clip", "siglip", "siglip2", "dino")} == names
    assert tasks.stands_for("ViT-B-16-SigLIP2,webli") == "SigLIP2 ViT-B"
    assert tasks.stands_for("somebody's model") == ""


def test_class_texts_fill_every_template(cats_and_dogs):
    model, images, prompts = cats_and_dogs
    texts = tasks.class_texts(model, images, ["a photo of a {}", "a red {}"])
    assert texts.texts.tolist() == ["a photo of a cat", "a photo of a dog", "a red cat", "a red dog"]
    assert texts.labels.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(texts.features[:2], prompts.features, atol=1e-5)
    with pytest.raises(CrossgapError, match="at least one template"):
        tasks.class_texts(model, images, [])


def test_figures_hold_every_line_on_one_scale():
    run, known = run_of(), {"mini-clip": "CLIP ViT-B", "nobody": ""}
    table = pd.concat([tasks.few_shot_table(run).assign(model=m) for m in known])
    reported = tasks.published_few_shot()
    figure = plots.accuracy_panels(table[table["setting"] == tasks.IMAGE_ONLY], reported, known)
    assert {ax.get_ylim() for ax in figure.axes} == {(0, 100)}
    grey = [[line for line in ax.lines if line.get_marker() == "D" and len(line.get_xdata())] for ax in figure.axes]
    assert list(map(len, grey)) == [2, 2, 0, 0, 0, 0], "no linear probe is published, and nothing of nobody"
    gains = tasks.pca_gains(run)
    theirs = tasks.published_pca_gains(reported).query("model == 'CLIP ViT-B'")
    figure = plots.shot_gains({"a": gains, "b": gains}, ["setting", "over"], "gain", reported={"a": theirs})
    assert len({ax.get_ylim() for ax in figure.axes}) == 1
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[0] == "image only over Prototype"
    assert said[-2:] == ["Prototype, published", "LDA, published"]
    assert [len(ax.containers) for ax in figure.axes] == [9 + 2, 9]


@pytest.mark.slow
def test_the_notebook_takes_the_images_of_a_pair_file(tmp_path):
    rng, labels = np.random.default_rng(0), np.arange(90) % 3
    sides = {f"{side}_features": rng.normal(size=(90, 8)) + 2 * np.eye(8)[labels] for side in ("image", "text")}
    np.savez(tmp_path / "pairs.npz", **sides, labels=labels, class_names=["a/b", "<b>", "$c$"])
    asked = {"embeddings": str(tmp_path / "pairs.npz"), "shots": [1, 2], "n_draws": 1}
    (run,) = run_notebooks(["10"], asked, out=tmp_path / "out")
    assert run.status == "ran", run.message
