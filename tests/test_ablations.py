"""Ablations: sweeps against retrieval done by hand, vocabularies, templates, the Pareto front, and what is refused."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from crossgap_lib.tasks.ablations import _whole_words
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from crossgap_lib import plots, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images
from crossgap_lib.errors import CrossgapError
from crossgap_lib.projection.linear import centre, isoclip, mix, pca_of_prompts


def some(n, d=6, seed=0, classes=3, **columns):
    rng = np.random.default_rng(seed)
    return Embeddings(rng.normal(size=(n, d)) + 0.5, labels=rng.integers(0, classes, n), **columns)


GALLERY = some(40)
QUERIES, PROMPTS = GALLERY[:9], some(10, seed=1, modality="text")
OTHER = some(9, seed=2)
OTHER = Embeddings(OTHER.features, QUERIES.ids, QUERIES.labels, modality="oti")


def by_hand(queries, gallery):
    """Mean AP in percent of arrays, labels and ids; a query's own picture is left out."""
    found = []
    for q in range(len(queries)):
        scores = gallery.features.double().numpy() @ queries.features.double().numpy()[q]
        order = [k for k in np.argsort(-scores) if gallery.ids[k] != queries.ids[q]]
        hits = gallery.labels[order] == queries.labels[q]
        found.append(np.mean([hits[: k + 1].mean() for k in np.flatnonzero(hits)]))
    return 100 * np.mean(found)


# ---------------------------------------------------------------- mixing and centring


@given(alpha=st.floats(0, 1), seed=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_mixture_is_eq_9(alpha, seed):
    a, b = some(4, seed=seed), some(4, seed=seed + 1)
    expected = alpha * b.features.numpy() + (1 - alpha) * a.features.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(mix(a, b, alpha).features.numpy(), expected, atol=1e-6)


def test_the_ends_of_the_mixture_are_its_parts():
    for alpha, part in ((0, QUERIES), (1, OTHER)):
        np.testing.assert_allclose(mix(QUERIES, OTHER, alpha).features, part.features, atol=1e-6)
    assert mix(QUERIES, OTHER, 0.5).ids.tolist() == QUERIES.ids.tolist()


def test_bad_mixtures_are_refused():
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(CrossgapError, match="between 0 and 1"):
            mix(QUERIES, OTHER, alpha)
    for other in (OTHER[::-1], OTHER[:8], Embeddings(np.ones((9, 5)), QUERIES.ids)):
        with pytest.raises(CrossgapError, match="same pictures"):
            mix(QUERIES, other, 0.5)
    with pytest.raises(CrossgapError, match="leaves nothing"):
        mix(QUERIES, Embeddings(-QUERIES.features, QUERIES.ids), 0.5)


def test_centring_takes_the_mean_away():
    x, reference = some(7), some(30, seed=4)
    expected = x.features.numpy() - reference.features.numpy().mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(centre(x, reference).features.numpy(), expected, atol=1e-6)
    own = x.features - x.features.mean(dim=0)
    np.testing.assert_allclose(centre(x).features, own / own.norm(dim=1, keepdim=True), atol=1e-6)
    queries, gallery = tasks.centred_pair(QUERIES, GALLERY)
    np.testing.assert_allclose(queries.features, gallery.features[:9], atol=1e-6)
    with pytest.raises(CrossgapError, match="6 dimensions and the mean has 5"):
        centre(x, some(3, d=5))
    with pytest.raises(CrossgapError, match="leaves nothing"):
        centre(x[:1])


# ---------------------------------------------------------------- sweeps


def test_components_by_scikit_learn():
    table = tasks.component_sweep(QUERIES, GALLERY, {"words": PROMPTS, "few": PROMPTS[:3]}, [2, 4, 50])
    centred = table[(table["vocabulary"] == "words") & table["centred"]].set_index("components")
    assert centred.index.tolist() == [2, 4, 6], "those below the rank, and the rank"
    for k in (2, 4):
        pca = PCA(k).fit(PROMPTS.features.double().numpy())
        kept = pca.components_.T @ pca.components_
        after = [Embeddings(e.features.double().numpy() @ kept, e.ids, e.labels) for e in (QUERIES, GALLERY)]
        assert centred.loc[k, "value"] == pytest.approx(by_hand(*after), abs=1e-3)
        assert centred.loc[k, "explained"] == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-5)
    assert centred.loc[6, "gain"] == pytest.approx(0, abs=1e-6), "all six directions are no projection"
    assert table.loc[~table["centred"] & (table["vocabulary"] == "few"), "components"].tolist() == [2, 3]


def test_mixing_starts_at_the_native_baseline():
    table = tasks.mixing_sweep(QUERIES, OTHER, GALLERY, [1.0, 0.3])
    assert table["alpha"].tolist() == [0, 0.3, 1]
    assert table["value"].tolist() == pytest.approx(
        [by_hand(mix(QUERIES, OTHER, a), GALLERY) for a in (0, 0.3, 1)], abs=1e-4
    )
    assert np.isnan(table["gain"][0])
    assert table["gain"][2] == pytest.approx(table["value"][2] - table["value"][0])


def test_bands(mini):
    photos = load_dataset("world:dogs-vs-cats", n=16)
    native, before = (encode_images(mini, photos, before_projection=b, cache=False) for b in (False, True))
    iso = isoclip(mini)
    table = tasks.band_sweep(native[:6], native, iso, (before[:6], before), (0, 9), (0, 200))
    assert table[["top", "bottom", "kept"]].to_numpy().tolist() == [[0, 0, len(iso.spectrum)], [9, 0, 119]]
    assert table["gain"][0] == pytest.approx(0, abs=1e-3), "the whole band is the native features"
    assert table["value"][1] == pytest.approx(by_hand(iso(before[:6], top=9, bottom=0), iso(before, top=9, bottom=0)))


# ---------------------------------------------------------------- tasks


def test_factors_are_the_labels():
    project = pca_of_prompts(PROMPTS, 2)
    pairs = {"Original": (QUERIES, GALLERY), "PCA": (project(QUERIES), project(GALLERY))}
    colour = np.array(["red", "blue"])[np.random.default_rng(0).integers(0, 2, 40)]
    table = tasks.factor_tasks(pairs, {"kind": (QUERIES.labels, GALLERY.labels), "colour": (colour[:9], colour)})
    values = table.set_index(["task", "method"])["value"]
    code = (colour == "red").astype(int)
    for task, labels in (("kind", GALLERY.labels), ("colour", code)):
        for method, (q, g) in pairs.items():
            expected = by_hand(*(Embeddings(e.features, e.ids, labels[: len(e)]) for e in (q, g)))
            assert values[task, method] == pytest.approx(expected, abs=1e-4)


def test_other_queries_are_refused():
    pairs = {"Original": (QUERIES, GALLERY), "less": (QUERIES[:8], GALLERY)}
    with pytest.raises(CrossgapError, match="'less' does not answer the same queries"):
        tasks.retrieval_gains(pairs)


# ---------------------------------------------------------------- words


def test_words_of_tokenizers(mini):
    assert _whole_words(["dog</w>", "ca", "cat</w>", "a</w>", "Dog</w>", "3rd</w>"]) == {"dog", "cat"}
    assert _whole_words(["▁dog", "cat", "▁ab", "<pad>"]) == {"dog"}
    assert _whole_words(["<sot>", "dog", "of"]) == {"dog"}
    assert _whole_words([]) == set()
    kinds = load_dataset("world:all", n=1).class_names
    words = tasks.tokenizer_words(mini, 12, exclude=kinds)
    assert words == tasks.tokenizer_words(mini, 12, exclude=kinds)
    assert words != tasks.tokenizer_words(mini, 12, exclude=kinds, seed=1)
    assert len(set(words)) == 12
    assert not set(words) & set(kinds)
    with pytest.raises(CrossgapError, match="words to draw 999 from"):
        tasks.tokenizer_words(mini, 999)
    with pytest.raises(CrossgapError, match="shows 0 words"):
        tasks.tokenizer_words(SimpleNamespace(name="none", tokenizer=len), 1)


# ---------------------------------------------------------------- cost


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 4)), min_size=1, max_size=7))
@settings(max_examples=60, deadline=None)
def test_the_front_is_the_definition(points):
    names = ["Original", *map(str, range(len(points) - 1))]
    values = {n: np.full(3, v / 4) for n, (_, v) in zip(names, points, strict=True)}
    table = tasks.pareto_table(values, {n: float(s) for n, (s, _) in zip(names, points, strict=True)})
    for row in table.itertuples():
        beaten = any(
            (o.seconds <= row.seconds and o.value > row.value) or (o.seconds < row.seconds and o.value == row.value)
            for o in table.itertuples()
        )
        twin = any((o.seconds, o.value) == (row.seconds, row.value) and o.Index < row.Index for o in table.itertuples())
        assert table["non-dominated"][row.Index] == (not beaten and not twin)


def test_costs_are_checked():
    values = {"Original": np.zeros(3), "PCA": np.ones(3)}
    with pytest.raises(CrossgapError, match="what PCA costs"):
        tasks.pareto_table(values, {"Original": 1.0})
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(CrossgapError, match="positive number"):
            tasks.pareto_table(values, {"Original": 1.0, "PCA": wrong})


# ---------------------------------------------------------------- along a dial


def gains(gain, sure):
    return pd.DataFrame({"method": ["OTI"], "gain": [gain], "sure": [sure]})


def test_a_sign_change_needs_two_sure_signs():
    table = lambda *rows: tasks.gains_of({k / 2: gains(*r) for k, r in enumerate(rows)}, "strength")  # noqa: E731
    said = lambda *rows: tasks.sign_change(table(*rows), "strength", "OTI")  # noqa: E731
    assert said((2.0, True), (0.1, False), (-3.0, True)) == "yes: a gain at 0, a loss at 1"
    assert said((2.0, True), (-0.1, False), (1.0, True)) == "no: a sure gain at 0, 1"
    assert said((2.0, False), (-3.0, True)) == "no: a sure loss at 0.5"
    assert (
        said(
            (2.0, False),
        )
        == "no: never sure"
    )


def test_a_difference_in_words():
    values = {"a": np.full(9, 0.5), "b": np.full(9, 0.25), "c": np.arange(9) / 9}
    assert tasks.sure_difference(values, "a", "b") == "+25.0 (+25.0 to +25.0)"
    assert tasks.sure_difference(values, "c", "c") == "+0.0 (+0.0 to +0.0, not sure)"


# ---------------------------------------------------------------- plots


def test_plots_show_what_they_are_given():
    curves = tasks.component_sweep(QUERIES, GALLERY, {"words": PROMPTS}, [1, 2])
    figure = plots.gain_curves({"PCA": curves}, "components", "components", by="centred")
    assert [list(line.get_ydata()) for line in figure.axes[0].lines][:2] == [
        curves.loc[curves["centred"] == c, "gain"].tolist() for c in (True, False)
    ]
    spectrum = plots.spectrum([3.0, 2.0, 1.0, 0.5], {"image": (1, 1)})
    assert list(spectrum.axes[0].lines[0].get_ydata()) == [3, 2, 1, 0.5]
    assert spectrum.axes[0].patches[0].get_extents().transformed(spectrum.axes[0].transData.inverted()).x0 == 1.5
    table = tasks.factor_tasks(
        {"Original": (QUERIES, GALLERY), "OTI": (OTHER, GALLERY)}, {"kind": (QUERIES.labels, GALLERY.labels)}
    )
    bars = plots.task_gains(table, {"weather": -2.3}).axes[0].patches
    assert [bar.get_height() for bar in bars] == pytest.approx([table["gain"][1], -2.3])
    reported = pd.DataFrame({"method": ["Original", "OTI"], "value": [38.5, 40.2]})
    beside = tasks.with_published(table.drop(columns="task"), reported, baseline="Original")
    points = [line.get_xdata() for line in plots.method_gains(beside).axes[0].lines if line.get_marker() in "oD"]
    assert sorted(float(x) for xs in points for x in xs) == pytest.approx(sorted([table["gain"][1], 40.2 - 38.5]))
    front = tasks.pareto_table({"Original": np.zeros(3), "PCA": np.ones(3)}, {"Original": 1.0, "PCA": 2.0})
    assert plots.pareto(front).axes[0].lines[0].get_xydata().tolist() == [[1, 0], [2, 100]]
    assert plots.pareto(front).axes[0].get_xscale() == "log"


# ---------------------------------------------------------------- real CLIP texts


def test_imagenet_class_names_fill_most_of_the_space(real_folder):
    with np.load(real_folder / "clip_vitb32_imagenet_classnames.npz", allow_pickle=False) as file:
        names = Embeddings(file["features"], texts=file["texts"], modality="text")
    project = pca_of_prompts(names)
    assert project.components.shape == (256, 512), "d / 2, as in the paper"
    assert len(project.variances) == 511, "the layer norm before the projection takes one direction"
    rows = names.features.double().numpy()
    assert project.explained == pytest.approx(
        PCA(256, svd_solver="full").fit(rows).explained_variance_ratio_.sum(), abs=1e-4
    )
    assert 0.85 < project.explained < 0.99
    first = pca_of_prompts(names, 1, centred=False).explained
    assert first > pca_of_prompts(names, 1).explained + 0.3, "uncentred, the first direction is the mean"
