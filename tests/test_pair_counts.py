"""Streamed pair counts against numpy.histogram over the whole matrix, and their jackknife."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crossgap_lib import metrics, tasks
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.memory import PeakMemory
from crossgap_lib.tasks import pair_counts
from crossgap_lib.tasks.pair_counts import PairCounts, edges


def draw(n, d=6, classes=3, seed=0, modality="image"):
    generator = torch.Generator().manual_seed(seed)
    return Embeddings(torch.randn(n, d, generator=generator), labels=np.arange(n) % classes, modality=modality)


def cosines(x, y):
    return (x.features.double() @ y.features.double().T).float().clamp(-1, 1).numpy()


@pytest.mark.parametrize("n", [2, 7, 61])
def test_by_class_is_numpys_histogram_of_the_whole_matrix(n, monkeypatch):
    monkeypatch.setattr(pair_counts, "_TILE", 5)
    images = draw(n)
    values, i, j = cosines(images, images), *np.triu_indices(n, 1)
    same = images.labels[i] == images.labels[j]
    found = tasks.count_by_class(images, bins=50, groups=4)
    for kind, wanted in (("same class", same), ("different class", ~same)):
        expected = np.histogram(values[i, j][wanted], np.linspace(-1, 1, 51))[0]
        assert np.array_equal(found[kind].total, expected), kind
        assert found[kind].pairs == wanted.sum()


def test_by_modality_is_numpys_histogram_of_the_whole_matrix(monkeypatch):
    monkeypatch.setattr(pair_counts, "_TILE", 7)
    images, texts = draw(40), draw(40, seed=1, modality="text")
    upper, across = np.triu_indices(40, 1), cosines(images, texts)
    expected = {
        "image-image": cosines(images, images)[upper],
        "text-text": cosines(texts, texts)[upper],
        "image-text pairs": np.diag(across),
        "image-text non-pairs": across[~np.eye(40, dtype=bool)],
    }
    found = tasks.count_by_modality(images, texts, bins=50)
    assert list(found) == list(expected)
    for kind, values in expected.items():
        assert np.array_equal(found[kind].total, np.histogram(values, np.linspace(-1, 1, 51))[0]), kind


def test_what_is_left_out_is_counted_without_these_rows():
    images = draw(24)
    found = tasks.count_by_class(images, bins=30, groups=4, seed=3)
    for k, rows in enumerate(pair_counts._groups(images, 4, 3)):
        rest = images[np.setdiff1d(np.arange(24), rows)]
        without = tasks.count_by_class(rest, bins=30)
        for kind in found:
            assert np.array_equal(found[kind].left_out()[k], without[kind].total)


def test_neither_tiles_nor_groups_nor_seed_change_a_count(monkeypatch):
    images = draw(30)
    one = tasks.count_by_class(images)["same class"].total
    monkeypatch.setattr(pair_counts, "_TILE", 4)
    assert np.array_equal(tasks.count_by_class(images, groups=7, seed=9)["same class"].total, one)


@settings(max_examples=40, deadline=None)
@given(st.integers(4, 30), st.integers(0, 10))
def test_overlap_is_that_of_the_samples(n, seed):
    images = draw(n, classes=2, seed=seed)
    found = tasks.count_by_class(images, groups=n)
    values, i, j = cosines(images, images), *np.triu_indices(n, 1)
    same = images.labels[i] == images.labels[j]
    expected = metrics.overlap_coefficient(values[i, j][same], values[i, j][~same], edges())
    value, low, high = tasks.overlap(found["same class"], found["different class"])
    assert value == pytest.approx(expected, abs=1e-12)
    assert 0 <= low <= value <= high <= 1


def test_intervals_do_not_depend_on_the_order_of_the_rows():
    images = draw(40)
    turned = images[np.random.default_rng(5).permutation(40)]
    one, other = (tasks.overlap(*tasks.count_by_class(e, bins=30, groups=5).values()) for e in (images, turned))
    assert one == pytest.approx(other)


def test_of_many_rows_so_many_are_counted_drawn_by_seed_and_ids(monkeypatch):
    images = draw(61)
    drawn = tasks.drawn(images, 20, seed=4)
    turned = images[np.random.default_rng(5).permutation(61)]
    expected = tasks.count_by_class(drawn)["same class"].total
    monkeypatch.setattr(pair_counts, "MOST_COMPARED", 20)
    for e in (images, turned):
        counted = tasks.count_by_class(e, seed=4)
        assert sum(kind.pairs for kind in counted.values()) == 20 * 19 // 2
        assert (counted["same class"].total == expected).all()


def test_the_jackknife_of_a_difference_leaves_the_same_pictures_out_of_both_models():
    """Against a loop that counts anew without one group after the other."""
    models = [draw(60, classes=2, seed=seed) for seed in (0, 1)]
    counted = [tasks.count_by_class(e, bins=20, groups=6) for e in models]

    def difference(a, b, c, d):
        return tasks.overlap_of_counts(a, b) - tasks.overlap_of_counts(c, d)

    def without(rows):
        rest = np.setdiff1d(np.arange(60), rows)
        left = [tasks.count_by_class(e[rest], bins=20).values() for e in models]
        return difference(*(kind.total for kinds in left for kind in kinds))

    value, low, high = tasks.jackknife(difference, *counted[0].values(), *counted[1].values())
    replicas = np.array([without(rows) for rows in pair_counts._groups(models[0], 6, 0)])
    error = np.sqrt(5 * replicas.var())
    assert value == pytest.approx(without([]))
    assert (high - low) / 2 == pytest.approx(error * 2.5706, rel=1e-4)  # Student's t, 5 degrees of freedom
    assert (high + low) / 2 == pytest.approx(value)
    same = tasks.jackknife(difference, *counted[0].values(), *counted[0].values())
    assert same == (0, 0, 0), "paired: a model does not differ from itself"


def test_identical_and_disjoint_kinds():
    half = np.zeros((4, 4, 10), np.int64)
    left, right = half.copy(), half.copy()
    left[..., 2], right[..., 7] = 5, 5
    assert tasks.overlap(PairCounts(left), PairCounts(left)) == (1.0, 1.0, 1.0)
    assert tasks.overlap(PairCounts(left), PairCounts(right)) == (0.0, 0.0, 0.0)


def test_the_jackknife_covers_what_it_should():
    """Two normal mixtures in one dimension of the features; the interval holds the value of a far larger set."""

    def overlap(n, seed):
        generator = torch.Generator().manual_seed(seed)
        labels = np.arange(n) % 2
        features = torch.randn(n, 8, generator=generator) + 0.8 * torch.eye(8)[torch.from_numpy(labels)]
        return tasks.overlap(*tasks.count_by_class(Embeddings(features, labels=labels), bins=40).values())

    truth = overlap(6000, 0)[0]
    intervals = [overlap(300, seed) for seed in range(1, 41)]
    covered = np.mean([low <= truth <= high for _, low, high in intervals])
    assert covered >= 0.8, "nominally 0.95; small samples overlap less, which is a bias"
    assert np.mean([high - low for _, low, high in intervals]) < 0.2


def test_refusals():
    images = draw(6)
    with pytest.raises(CrossgapError, match="need labels"):
        tasks.count_by_class(Embeddings(images.features))
    with pytest.raises(CrossgapError, match="no pairs"):
        tasks.count_by_class(images[:1])
    with pytest.raises(CrossgapError, match="6 images and 5 texts"):
        tasks.count_by_modality(images, draw(5, modality="text"))
    everything_in_one = np.zeros((2, 2, 4), np.int64)
    everything_in_one[0, 0, 1] = 3
    with pytest.raises(CrossgapError, match="Too few pairs"):
        tasks.overlap(PairCounts(everything_in_one), PairCounts(everything_in_one))


@pytest.mark.slow
def test_25000_features_stay_under_a_gigabyte():
    """All 312 million image-image pairs of 25 000 features, by class; no matrix of them could be held."""
    images = draw(25_000, d=64, classes=100)
    with PeakMemory(torch.device("cpu")) as peak:
        found = tasks.count_by_class(images)
    assert sum(kind.pairs for kind in found.values()) == 25_000 * 24_999 // 2
    assert peak.bytes is None or peak.bytes < 1e9
