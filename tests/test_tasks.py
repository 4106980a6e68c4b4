"""The papers' experiments against loops, brute force and plain formulas; the last section needs trained weights."""

import json
import platform
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crossgap_lib import metrics, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings, load_pair
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.memory import PeakMemory
from crossgap_lib.paths import MINIS
from crossgap_lib.tasks.dogs_vs_cats import correctly_classified, minimal_removal, perfectly_ranked
from crossgap_lib.tasks.gap import gap_interval
from crossgap_lib.tasks.pairs import similarities

CLASSES = ("cat", "dog")


def at_angles(*degrees, **columns):
    """Unit vectors in the plane."""
    angles = np.radians(degrees)
    return Embeddings(np.stack([np.cos(angles), np.sin(angles)], axis=1), **columns)


def noisy_classes(n=30, classes=2, d=4, seed=0, spread=1.0):
    """(images, prompts): n pictures scattered around their class's prompt, ids apart."""
    rng = np.random.default_rng(seed)
    centres, labels = rng.normal(size=(classes, d)), rng.integers(classes, size=n)
    labels[:classes] = range(classes)
    names = [f"class {k}" for k in range(classes)]
    images = Embeddings(
        centres[labels] + spread * rng.normal(size=(n, d)), [f"i{k}" for k in range(n)], labels, names, "image"
    )
    return images, Embeddings(centres, [f"p{k}" for k in range(classes)], range(classes), names, "text")


# ---------------------------------------------------------------- similarities


def test_similarities_are_cosines_in_blocks_too():
    big, small = noisy_classes(n=1500)[0], noisy_classes()[1]
    exact = big.features.double().numpy() @ small.features.double().numpy().T
    np.testing.assert_allclose(similarities(big, small), exact, atol=1e-7)
    assert similarities(big, small).dtype == np.float32


def test_all_similarities_leave_out_the_own_row():
    a, b = at_angles(0, 30, 90), at_angles(10, 20, 40, modality="text")
    cos = lambda *degrees: np.cos(np.radians(degrees))  # noqa: E731
    np.testing.assert_allclose(tasks.all_similarities(a, a), cos(30, 90, 60), atol=1e-6)
    # The same ids in another modality, as inverted features have them: both orders of a pair count.
    np.testing.assert_allclose(tasks.all_similarities(a, b), cos(20, 40, 20, 10, 80, 70), atol=1e-6)
    np.testing.assert_allclose(tasks.unpaired_similarities(a, b), cos(20, 40, 20, 10, 80, 70), atol=1e-6)
    other = at_angles(10, 20, ids=["x", "row-000000"])
    np.testing.assert_allclose(tasks.all_similarities(a, other), cos(10, 20, 10, 80, 70), atol=1e-6)


# ---------------------------------------------------------------- the two filters


def is_perfect(scores, positive):
    return not (positive.any() and (~positive).any()) or scores[positive].min() > scores[~positive].max()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=8))
@settings(max_examples=100, deadline=None)
def test_minimal_removal_is_perfect_and_minimal(items):
    scores = np.array([score for score, _ in items], dtype=np.float32)
    positive = np.array([p for _, p in items])
    subsets = (np.array(keep) for keep in product([False, True], repeat=len(items)))
    most = max(keep.sum() for keep in subsets if is_perfect(scores[keep], positive[keep]))
    stays = minimal_removal(scores, positive)
    assert stays.dtype == bool
    assert is_perfect(scores[stays], positive[stays])
    assert stays.sum() == most


@given(st.integers(0, 10_000), st.integers(2, 4))
@settings(max_examples=30, deadline=None)
def test_perfectly_ranked_gives_every_prompt_an_ap_of_one(seed, classes):
    images, prompts = noisy_classes(n=40, classes=classes, seed=seed)
    left = images[perfectly_ranked(images, prompts)]
    for prompt in range(classes):
        if prompt in left.labels:
            assert metrics.retrieval(prompts[[prompt]], left).means["ap"] == 1


def test_perfectly_ranked_takes_prompt_after_prompt():
    images, prompts = noisy_classes(n=25, classes=2, seed=3, spread=2.0)
    first = minimal_removal(similarities(prompts, images)[0], images.labels == 0)
    assert 0 < first.sum() < 25
    assert np.array_equal(perfectly_ranked(images, prompts[:1]), first)
    second = minimal_removal(similarities(prompts, images[first])[1], images[first].labels == 1)
    expected = np.flatnonzero(first)[second]
    assert np.flatnonzero(perfectly_ranked(images, prompts)).tolist() == expected.tolist()


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 1, 0, 2]])
def test_correctly_classified_against_a_loop_in_any_order_of_prompts(order):
    images, prompts = noisy_classes(classes=3, seed=1)
    given_prompts = Embeddings(prompts.features[order], labels=order)
    expected = []
    for feature, label in zip(images.features, images.labels, strict=True):
        scores = [float(feature @ prompt) for prompt in prompts.features]
        expected.append(int(np.argmax(scores)) == label)
    assert correctly_classified(images, given_prompts).tolist() == expected
    assert 0 < sum(expected) < len(expected)


def test_equally_near_prompts_do_not_count_as_correct():
    images, prompts = at_angles(45, 40, labels=[0, 0]), Embeddings(np.eye(2), labels=[0, 1])
    assert correctly_classified(images, prompts).tolist() == [False, True]


PROMPTS = at_angles(0, 90, labels=[0, 1], modality="text", ids=["p0", "p1"])


def test_filter_stages_count_what_is_left():
    # The cat at 80 degrees is nearer to "dog"; all others are right, and already perfectly ranked.
    images = at_angles(1, 2, 80, 50, 60, 70, labels=[0, 0, 0, 1, 1, 1], class_names=CLASSES)
    stages = tasks.filter_stages(images, PROMPTS)
    assert list(stages) == ["all pictures", "correctly classified", "perfectly ranked"]
    assert [len(left) for left in stages.values()] == [6, 5, 5]
    assert stages["correctly classified"].ids.tolist() == images.ids[[0, 1, 3, 4, 5]].tolist()


def test_a_stage_without_any_picture_is_missing():
    images = at_angles(80, 10, labels=[0, 1], class_names=CLASSES)
    assert list(tasks.filter_stages(images, PROMPTS)) == ["all pictures"]


@pytest.mark.parametrize(
    ("images", "prompts"),
    [
        (at_angles(1, 2), PROMPTS),
        (at_angles(1, 2, labels=[0, 1]), PROMPTS),
        (at_angles(1, 2, labels=[0, 1], class_names=CLASSES), at_angles(0, 90)),
    ],
)
def test_filter_stages_need_labels_and_names(images, prompts):
    with pytest.raises(CrossgapError, match="labelled pictures with class names, and labelled prompts"):
        tasks.filter_stages(images, prompts)


# ---------------------------------------------------------------- measures


def test_stage_measures_are_those_of_metrics():
    images, prompts = noisy_classes(n=60, seed=5)
    stages = {"all": images, "few of a class": images[np.flatnonzero(images.labels == 1)]}
    table = tasks.stage_measures(stages, prompts, seed=7)
    assert set(table["stage"]) == {"all"}
    assert len(table) == 2 * 2 * 2
    for label, kind in enumerate(images.class_names):
        own = images[images.labels == label]
        for task, queries in (("text-image", prompts[[label]]), ("image-image", own)):
            result = metrics.retrieval(queries, images)
            for metric, name in (("ap", "mAP"), ("r_precision", "R-Precision")):
                here = (table["task"] == task) & (table["query class"] == kind) & (table["metric"] == name)
                (row,) = table[here].itertuples()
                assert row.queries == len(queries)
                assert row.value == pytest.approx(100 * result.means[metric])
                interval = [row.low / 100, row.high / 100]
                expected = result.interval(metric, 7) if task == "image-image" else (np.nan, np.nan)
                np.testing.assert_allclose(interval, expected)


def test_image_image_leaves_the_query_out():
    # Two far-apart pairs: with itself in the gallery a query would find one of its class whatever the rest is.
    images = at_angles(0, 90, 1, 91, labels=[0, 0, 1, 1], class_names=CLASSES)
    table = tasks.stage_measures({"all": images}, PROMPTS, at_least=2)
    values = table[(table["task"] == "image-image") & (table["metric"] == "R-Precision")]["value"]
    assert values.tolist() == [0, 0]


def test_neighbours_against_a_loop():
    images, _ = noisy_classes(n=25, classes=3, seed=2)
    cosine = images.features.double().numpy() @ images.features.double().numpy().T
    expected = []
    for query in range(25):
        wrong = [k for k in range(25) if images.labels[k] != images.labels[query]]
        right = [k for k in range(25) if images.labels[k] == images.labels[query] and k != query]
        near, best = (max(rows, key=lambda k, q=query: cosine[q, k]) for rows in (wrong, right))
        lost = sum(cosine[query, k] < cosine[query, near] for k in right)
        expected.append((query, near, best, cosine[query, near], cosine[query, best], lost))
    table = tasks.neighbours(images)
    assert list(table) == ["query", "wrong", "right", "wrong_score", "right_score", "rank_lost"]
    np.testing.assert_allclose(table.astype(float), expected, atol=1e-6)


def test_the_only_picture_of_its_class_has_no_right_neighbour():
    table = tasks.neighbours(at_angles(0, 20, 30, labels=[0, 1, 1]))
    alone = next(table.itertuples())
    assert (alone.query, alone.wrong, alone.rank_lost) == (0, 1, 0)
    assert pd.isna(alone.right)
    assert np.isnan(alone.right_score)
    assert table["right"].tolist()[1:] == [2, 1]
    for labels in ([1, 1], None):
        with pytest.raises(CrossgapError, match="two or more classes"):
            tasks.neighbours(at_angles(0, 20, labels=labels))


def test_shared_factors_by_hand():
    images = at_angles(0, 20, 12, 90, labels=[0, 0, 1, 1])  # nearest wrong ones: 2, 2, 1, 1
    factors = pd.DataFrame({"colour": list("rrrg"), "size": list("abab")}, index=[7, 8, 9, 10])
    shared = tasks.shared_factors(images, tasks.neighbours(images), factors)
    agrees, chance = "nearest wrong picture", "any wrong picture"
    assert list(shared["colour"]) == [chance, agrees]
    assert shared["colour"][agrees].tolist() == [1, 1, 1, 0]
    assert shared["size"][agrees].tolist() == [1, 0, 0, 1]
    # The two pictures of the other class: of the reds' others one or two are red, of the green's others none is green.
    assert shared["colour"][chance].tolist() == [0.5, 0.5, 1, 0]
    assert shared["size"][chance].tolist() == [0.5] * 4


# ---------------------------------------------------------------- few shots


def test_few_shot_prototypes_against_a_loop():
    images, _ = noisy_classes(n=40, classes=3, seed=4)
    images = images[np.argsort(images.ids)]  # drawn from in this order, whatever the rows' own
    x, y = images.features.double().numpy(), images.labels
    expected = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        support = [rng.choice(np.flatnonzero(y == c), 4, replace=False) for c in range(3)]
        prototypes = [x[rows].mean(axis=0) / np.linalg.norm(x[rows].mean(axis=0)) for rows in support]
        rest = [k for k in range(40) if k not in np.concatenate(support)]
        expected.append(np.mean([np.argmax([p @ x[k] for p in prototypes]) == y[k] for k in rest]))
    np.testing.assert_allclose(tasks.few_shot_prototypes(images, 4, seeds=range(5)), expected)
    assert len(set(expected)) > 1


def test_few_shot_prototypes_test_no_picture_they_were_made_of():
    # All orthogonal: whoever is not in the support is equally far from both prototypes, and a tie is wrong.
    images = Embeddings(np.eye(6), labels=[3, 3, 3, 7, 7, 7])
    assert tasks.few_shot_prototypes(images, 2, seeds=range(4)).tolist() == [0] * 4


def test_few_shots_need_a_picture_to_test_on():
    images = Embeddings(np.eye(5), labels=[0, 0, 0, 1, 1])
    with pytest.raises(CrossgapError, match="2 shots need more than 2 pictures a class; one has 2"):
        tasks.few_shot_prototypes(images, 2)
    assert len(tasks.few_shot_prototypes(images, 1)) == 20


# ---------------------------------------------------------------- inversion along its steps


def fake_run(gallery, ids, steps=(0, 3, 9)):
    """Inverted queries that walk from random features to their native ones."""
    rows = [gallery.ids.tolist().index(i) for i in ids]
    native = gallery.features[rows]
    start = torch.randn(native.shape, generator=torch.Generator().manual_seed(9))
    walk = {s: torch.nn.functional.normalize(start + (native - start) * s / steps[-1], dim=1) for s in steps}
    path = {"tokens": torch.zeros(len(ids), 1, 2), "losses": torch.zeros(steps[-1], len(ids)), "snapshots": walk}
    return Inversion(walk[steps[-1]], ids, gallery.labels[rows], modality="oti", **path), native


def test_along_steps_is_loss_and_map_of_every_snapshot():
    gallery, _ = noisy_classes(n=20, seed=6)
    ids = ["i7", "i3", "i12", "i0", "i19"]  # neither sorted nor the first ones
    run, native = fake_run(gallery, ids)
    curve = tasks.along_steps({2: run, 4: run[:2]}, gallery)
    assert curve[["n", "step"]].to_numpy().tolist() == [[n, s] for n in (2, 4) for s in (0, 3, 9)]
    for row in curve[curve["n"] == 2].itertuples():
        at = run.snapshots[row.step]
        assert row.loss == pytest.approx(1 - torch.cosine_similarity(at, native).mean().item(), abs=1e-6)
        assert row.mAP == pytest.approx(100 * metrics.mean_average_precision(run.at(row.step), gallery))
        assert row.low <= row.mAP <= row.high
    last = curve[(curve["n"] == 2) & (curve["step"] == 9)].iloc[0]
    assert last["loss"] == pytest.approx(0, abs=1e-6)
    own = np.isin(gallery.ids, ids)
    assert last["mAP"] == pytest.approx(100 * metrics.mean_average_precision(gallery[own], gallery))


def test_query_steps_is_the_loss_and_precision_of_each_query():
    gallery, _ = noisy_classes(n=20, seed=6)
    gallery.labels[12] = 99  # so that query i12 has nothing to find
    run, native = fake_run(gallery, ["i7", "i3", "i12", "i0"])
    table = tasks.query_steps({2: run}, gallery)
    assert table[["n", "step", "id"]].to_numpy().tolist() == [[2, s, i] for s in (0, 3, 9) for i in ("i7", "i3", "i0")]
    loss = 1 - torch.cosine_similarity(run.snapshots[3], native)
    at_3 = table[table["step"] == 3]
    assert at_3["loss"].tolist() == pytest.approx(loss[[0, 1, 3]].tolist(), abs=1e-6)
    assert at_3["ap"].tolist() == pytest.approx(metrics.retrieval(run.at(3), gallery).ap)


def test_queries_must_come_from_the_gallery():
    gallery, _ = noisy_classes(n=20, seed=6)
    run, _ = fake_run(gallery, ["i1", "i2"])
    for strangers in (["i1", "zzz"], ["", "i2"]):
        with pytest.raises(CrossgapError, match="not part of the set"):
            tasks.along_steps({1: replace(run, ids=np.array(strangers))}, gallery)


def test_peaks_by_hand():
    curve = pd.DataFrame(
        [(1, 0, 0.9, 10.0), (1, 5, 0.5, 30.0), (1, 9, 0.2, 20.0), (4, 0, 0.9, 10.0), (4, 9, 0.1, 40.0)],
        columns=["n", "step", "loss", "mAP"],
    )
    table = tasks.peaks(curve.sample(frac=1, random_state=0))
    assert table.to_numpy().tolist() == [[1, 5, 30, 0.5, 9, 20, 0.2], [4, 9, 40, 0.1, 9, 40, 0.1]]
    assert list(table) == ["n", "peak step", "peak mAP", "loss at peak", "last step", "last mAP", "last loss"]


@pytest.mark.parametrize("steps", [1, 7, 30, 31, 150, 300, 1000])
def test_snapshot_steps(steps):
    shots = tasks.snapshot_steps(steps)
    assert shots == sorted(set(shots))
    assert (shots[0], shots[-1]) == (0, steps)
    assert set(range(min(steps, 8) + 1)) <= set(shots)
    assert len(shots) <= 28
    assert all(isinstance(s, int) for s in shots)
    if steps >= 17:
        assert 17 in shots  # where the paper's best step is
    late = [s for s in shots if s >= 30]
    assert all(b / a < 1.6 for a, b in pairwise(late))


# ---------------------------------------------------------------- the gap


def pairs(n=40, d=6, seed=0):
    rng = np.random.default_rng(seed)
    content = rng.normal(size=(n, d))
    shift = np.eye(d)[0] * 2
    images = Embeddings(content + 0.3 * rng.normal(size=(n, d)) + shift)
    return images, Embeddings(content + 0.3 * rng.normal(size=(n, d)) - shift, modality="text")


def test_gap_report_against_plain_formulas():
    images, texts = pairs()
    a, b = images.features.double().numpy(), texts.features.double().numpy()
    n, cross, within_a, within_b = len(a), a @ b.T, a @ a.T, b @ b.T
    off = ~np.eye(n, dtype=bool)
    gap = a.mean(0) - b.mean(0)
    unit = gap / np.linalg.norm(gap)
    along = sum(((x - y) @ unit) ** 2 for x, y in zip(a, b, strict=True))
    paired, alone = (1 - np.diag(cross).mean()) / 2, (1 - (within_a[off].mean() + within_b[off].mean()) / 2) / 2
    expected = {
        "modality gap (Eq. 7)": np.linalg.norm(gap),
        "RMG": paired / (paired + alone),
        "mean cosine of pairs": np.diag(cross).mean(),
        "mean cosine of non-pairs": cross[off].mean(),
        "mean cosine image-image": within_a[off].mean(),
        "mean cosine text-text": within_b[off].mean(),
        "share of the squared pair distance along the gap": along / ((a - b) ** 2).sum(),
        "mean distance of pairs": np.mean([np.linalg.norm(x - y) for x, y in zip(a, b, strict=True)]),
        "R@1 image to text": np.mean(cross.argmax(axis=1) == np.arange(n)),
        "R@1 text to image": np.mean(cross.argmax(axis=0) == np.arange(n)),
    }
    report = tasks.gap_report(images, texts).set_index("quantity")
    assert list(report.index) == list(expected)
    np.testing.assert_allclose(report["value"], list(expected.values()), atol=1e-5)
    intervals = report.dropna()
    assert len(intervals) == 5
    assert ((intervals["low"] < intervals["value"]) & (intervals["value"] <= intervals["high"])).all()
    pd.testing.assert_frame_equal(report, tasks.gap_report(images, texts, seed=0).set_index("quantity"))


def differences(gap, n, spectrum, seed):
    """n normal differences whose mean has the length ``gap`` and whose variances sum to 1: (n, d)."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, len(spectrum))) * np.sqrt(spectrum / spectrum.sum()) + gap / np.sqrt(len(spectrum))


@pytest.mark.parametrize("gap", [0.06, 0.12, 0.31, 0.7])
@pytest.mark.parametrize(("n", "spectrum"), [(500, np.ones(64)), (500, 1 / np.arange(1, 65))])
def test_the_gaps_interval_holds_the_true_gap_and_the_estimate(gap, n, spectrum):
    """Of these, 0.06 is the hard one: the spread of a mean of 500 is 0.045, so Eq. 7 reads 0.075."""
    trials, covered = 120, 0
    for trial in range(trials):
        apart = differences(gap, n, spectrum, trial)
        estimate = np.linalg.norm(apart.mean(axis=0))
        low, high = gap_interval(apart, estimate)
        covered += low <= gap <= high
        assert low <= estimate <= high
    assert covered / trials >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / trials)


def test_the_gaps_interval_narrows_to_the_true_gap():
    low, high = gap_interval(differences(0.3, 20_000, np.ones(8), 0).astype(np.float32), 0.3)
    assert 0.28 < low < 0.3 < high < 0.32


def test_recall_of_pairs_is_that_of_an_identity_matrix():
    images, texts = pairs(n=60)
    paired = {"relevant": np.eye(60, dtype=bool), "self_match": "keep", "ks": (1,)}
    report = tasks.gap_report(images, texts, seed=2).set_index("quantity")
    for name, sides in (("image to text", (images, texts)), ("text to image", (texts, images))):
        result = metrics.retrieval(*sides, **paired)
        expected = (result.means["hit_at_1"], *result.interval("hit_at_1", 2))
        assert tuple(report.loc[f"R@1 {name}", ["value", "low", "high"]]) == pytest.approx(expected)


def test_recall_of_many_pairs_is_that_of_drawn_ones(monkeypatch):
    images, texts = pairs(n=60)
    rows, quantity = tasks.drawn_rows(images.ids, 20, seed=2), "R@1 image to text"
    few, whole = (tasks.gap_report(*e, seed=2) for e in ((images[rows], texts[rows]), (images, texts)))
    monkeypatch.setattr("crossgap_lib.tasks.gap.MOST_COMPARED", 20)
    report = tasks.gap_report(images, texts, seed=2).set_index("quantity")
    assert report.loc[f"{quantity} of 20 pairs"].equals(few.set_index("quantity").loc[quantity])
    assert report["value"].iloc[0] == whole["value"].iloc[0]  # of all pairs


def test_vectors_are_those_of_a_file_or_the_images_of_a_pair_file(tmp_path, capsys):
    images, texts = pairs(n=60)
    np.savez(tmp_path / "pair.npz", image_features=images.features, text_features=texts.features)
    images.save(tmp_path / "alone.npz")
    for name, said in (("pair", "60 images of pairs"), ("alone", "60 vectors")):
        found = tasks.load_vectors(tmp_path / f"{name}.npz")
        torch.testing.assert_close(found.features, images.features)
        assert f"{name}.npz: {said}" in capsys.readouterr().out


@pytest.mark.skipif(platform.system() != "Linux", reason="resident memory is measured on Linux")
def test_gap_report_of_many_pairs_makes_no_matrix_of_them():
    n = 20_000
    images, texts = pairs(n=n, d=4)
    tasks.gap_report(*pairs(n=20))  # libraries load
    with PeakMemory(torch.device("cpu")) as peak:
        report = tasks.gap_report(images, texts)
    assert report["value"].notna().all()
    assert peak.bytes < n * n  # one matrix of booleans


@pytest.mark.parametrize("similarities", [tasks.all_similarities, tasks.unpaired_similarities])
def test_histograms_of_large_sets_are_of_drawn_rows(monkeypatch, similarities):
    monkeypatch.setattr("crossgap_lib.tasks.pairs.MOST_ROWS", 10)
    images, texts = pairs(n=30)
    rows = tasks.drawn_rows(images.ids, 10, seed=3)
    found = similarities(images, texts, seed=3)
    whole = images.features[rows].double() @ texts.features[rows].double().T
    np.testing.assert_allclose(np.sort(found), np.sort(whole[~np.eye(10, dtype=bool)]), atol=1e-6)
    assert len(tasks.all_similarities(images, images)) == 45
    assert len(tasks.all_similarities(images[:9], images[:9])) == 36


def test_gap_of_real_clip(real_folder):
    report = tasks.gap_report(*load_pair(real_folder / "clip_vitb16_coco500.npz")).set_index("quantity")
    value = report["value"]
    assert value["modality gap (Eq. 7)"] == pytest.approx(0.851, abs=5e-4)
    assert value["mean cosine of pairs"] == pytest.approx(0.310, abs=5e-4)
    assert value["R@1 image to text"] == pytest.approx(0.552, abs=5e-4)
    assert value["R@1 text to image"] == pytest.approx(0.506, abs=5e-4)
    assert value["mean cosine image-image"] > value["mean cosine of pairs"] > value["mean cosine of non-pairs"]


def test_class_prompts_in_place_of_captions_have_no_recall():
    images, texts = pairs()
    texts.meta["captions"] = "class prompts"
    report = tasks.gap_report(images, texts).set_index("quantity")
    assert report.loc[["R@1 image to text", "R@1 text to image"]].isna().all(axis=None)
    assert report["value"].notna().sum() == 8


def test_gap_report_needs_pairs():
    images, texts = pairs()
    with pytest.raises(CrossgapError, match="40 images and 39 texts don't pair up"):
        tasks.gap_report(images, texts[1:])
    with pytest.raises(CrossgapError, match="two pairs at least"):
        tasks.gap_report(images[:1], texts[:1])


def best_threshold(a, b):
    """Balanced accuracy of the best threshold, by trying all of them in both directions."""
    tried = [t for t in np.concatenate([a, b])]
    return max(max(s, 1 - s) for s in ((np.mean(a <= t) + np.mean(b > t)) / 2 for t in tried))


def test_separating_dimensions_find_the_planted_one():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(30, 5)), rng.normal(size=(17, 5))
    a[:, 3], b[:, 3] = 6 + rng.random(30), -6 - rng.random(17)
    images, texts = Embeddings(a), Embeddings(b, modality="text")
    table = tasks.separating_dimensions(images, texts)
    assert table["dimension"][0] == 3
    assert table["accuracy"][0] == 1
    assert table["share"].sum() == pytest.approx(1)
    assert table["share"].is_monotonic_decreasing
    a, b = images.features.numpy(), texts.features.numpy()
    for row in table.itertuples():
        assert row.gap == pytest.approx(a[:, row.dimension].mean() - b[:, row.dimension].mean(), abs=1e-6)
        assert row.accuracy == pytest.approx(best_threshold(a[:, row.dimension], b[:, row.dimension]))


# ---------------------------------------------------------------- pairs and captions


def test_class_prompts(mini):
    prompts = tasks.class_prompts(mini, at_angles(1, 2, 3, labels=[0, 1, 1], class_names=CLASSES))
    assert prompts.texts.tolist() == ["a photo of a cat", "a photo of a dog"]
    assert prompts.labels.tolist() == [0, 1]
    assert prompts.class_names == CLASSES
    with pytest.raises(CrossgapError, match="no class names"):
        tasks.class_prompts(mini, at_angles(1, 2))


def test_image_text_pairs_take_own_captions_or_class_prompts(mini):
    photos = load_dataset("world:dogs-vs-cats", n=6)
    images, texts = tasks.image_text_pairs(mini, photos)
    assert texts.texts.tolist() == [several[0] for several in photos.captions]
    assert texts.ids.tolist() == [f"{i}#0" for i in images.ids]
    assert texts.meta["captions"] == "own"
    assert torch.equal(tasks.texts_of(mini, images).features, texts.features)
    images, texts = tasks.image_text_pairs(mini, replace(photos, captions=None))
    assert texts.texts.tolist() == ["a photo of a cat", "a photo of a dog"] * 3
    assert texts.labels.tolist() == images.labels.tolist()
    assert texts.meta["captions"] == "class prompts"
    assert tasks.texts_of(mini, images).texts.tolist() == ["a photo of a cat", "a photo of a dog"]


def test_caption_sets_are_first_captions_among_all(mini):
    photos = tasks.with_captions("world:all", 5, 3)
    assert [len(several) for several in photos.captions] == [3] * 5
    firsts, everything = tasks.caption_sets(mini, photos)
    flat = [text for several in photos.captions for text in several]
    assert everything.texts.tolist() == flat
    assert everything.labels.tolist() == [k for k in range(5) for _ in range(3)]
    assert everything.ids[:4].tolist() == [f"{photos.ids[0]}#{k}" for k in range(3)] + [f"{photos.ids[1]}#0"]
    assert firsts.texts.tolist() == flat[::3]
    assert torch.equal(firsts.features, everything.features[::3])
    result = metrics.retrieval(firsts, everything)
    assert result.n_relevant.tolist() == [2] * 5  # the query itself is not among them
    expected = encode_texts(mini, flat, cache=False).features
    torch.testing.assert_close(everything.features, expected, atol=1e-6, rtol=0)


def test_there_are_no_caption_sets_without_second_captions(mini):
    photos = load_dataset("world:all", n=4)
    assert tasks.caption_sets(mini, photos) is None
    assert tasks.caption_sets(mini, replace(photos, captions=None)) is None


def test_with_captions_cuts_any_data_set(tmp_path):
    for k in range(3):
        (tmp_path / "ant").mkdir(exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / f"ant/{k}.png")
    assert len(tasks.with_captions(f"folder:{tmp_path}", 2, 5)) == 2
    assert len(tasks.with_captions(f"folder:{tmp_path}", 9, 5)) == 3


# ---------------------------------------------------------------- what the papers report


def test_published_values():
    dogs = tasks.published(source="cross-the-gap", table="App. B").set_index("metric")["value"]
    assert dogs.to_dict() == {"mAP": 83.1, "R-Precision": 73.2}
    gaps = tasks.published(table="A2").set_index("model")["value"]
    assert gaps["CLIP ViT-B/32"] == 0.82
    assert gaps["SigLIP ViT-B/16"] == 1.05
    assert len(gaps) == 9
    assert tasks.published(table="1", source="reevaluating").shape[0] == 11
    everything = tasks.published()
    assert len(everything) == 1418 + 14  # the papers, and what was measured on real CLIP vectors
    assert everything["value"].notna().all()


def test_published_values_of_nothing_are_no_rows():
    assert len(tasks.published(table="no such table")) == 0


# ---------------------------------------------------------------- needs the mini's trained weights


@pytest.fixture(scope="module")
def trained(mini):
    """What the model card says, and a part of its pictures to check it on."""
    card = json.loads((MINIS / "mini-clip" / "card.json").read_text())["measured"]
    pets = encode_images(mini, load_dataset("world:dogs-vs-cats", n=400), cache=False)
    return card, pets, tasks.class_prompts(mini, pets), mini


def test_trained_mini_is_as_its_card_says(trained):
    card, pets, prompts, mini = trained
    text_image = metrics.mean_average_precision(prompts, pets)
    image_image = metrics.mean_average_precision(pets, pets)
    assert text_image == pytest.approx(card["dogs-vs-cats text-image mAP"], abs=0.01)
    assert image_image == pytest.approx(card["dogs-vs-cats image-image mAP"], abs=0.03)
    images, texts = tasks.image_text_pairs(mini, load_dataset("world:all", n=240))
    zero_shot = metrics.zero_shot_accuracy(images, tasks.class_prompts(mini, images))
    assert zero_shot == pytest.approx(card["zero-shot accuracy, all kinds"], abs=0.08)
    assert metrics.modality_gap(images, texts) == pytest.approx(card["modality gap"], abs=0.02)


def test_trained_mini_meets_the_criteria_that_fixed_the_world(trained):
    card, *_ = trained
    assert card["zero-shot accuracy, all kinds"] >= 0.90
    assert card["dogs-vs-cats text-image mAP"] > 0.98
    assert 0.75 <= card["dogs-vs-cats image-image mAP"] <= 0.90


def test_trained_mini_is_perfect_on_texts_and_not_on_images_after_the_filters(trained):
    _, pets, prompts, _ = trained
    stages = tasks.filter_stages(pets, prompts)
    table = tasks.stage_measures({"last": stages["perfectly ranked"]}, prompts)
    assert len(table) == 8
    assert (table[table["task"] == "text-image"]["value"] == 100).all()
    assert (table[table["task"] == "image-image"]["value"] < 95).all()


def test_drawn_pictures_mix_the_classes():
    """A folder lists one class after the other, so the first n of it would be a single class."""
    photos = load_dataset("world:dogs-vs-cats", n=40)
    by_class = photos[np.argsort(photos.labels, kind="stable")]
    some = tasks.drawn(by_class, 10, seed=1)
    assert len(some) == 10
    assert set(some.labels) == {0, 1}
    assert some.ids.tolist() == tasks.drawn(by_class, 10, seed=1).ids.tolist()
    assert set(tasks.drawn(by_class, 99).ids) == set(photos.ids)


def test_what_is_drawn_does_not_depend_on_the_order_of_the_rows():
    images, _ = noisy_classes(n=40)
    by_class = images[np.argsort(images.labels, kind="stable")]
    for n in (1, 7, 40):
        assert tasks.drawn(by_class, n, seed=2).ids.tolist() == tasks.drawn(images, n, seed=2).ids.tolist()
    assert tasks.drawn(images, 7, seed=2).ids.tolist() == tasks.drawn(images, 30, seed=2).ids[:7].tolist()
    assert set(tasks.drawn(images, 7, seed=2).ids) != set(tasks.drawn(images, 7, seed=3).ids)
    assert len(tasks.drawn(images, 0)) == 40
    with pytest.raises(CrossgapError, match="-1 rows can't be drawn: give the number of rows, or 0 for all"):
        tasks.drawn(images, -1)


def test_every_row_is_drawn_about_as_often():
    ids = np.array([f"i{k}" for k in range(20)])
    counts = np.bincount(np.concatenate([tasks.drawn_rows(ids, 5, seed) for seed in range(800)]), minlength=20)
    assert (np.abs(counts - 200) < 5 * np.sqrt(200 * 0.75)).all()
