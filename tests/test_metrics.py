"""Metrics against scikit-learn, torchmetrics, a textbook double loop, and examples worked by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalHitRate, RetrievalMAP, RetrievalRPrecision

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.bootstrap import BOOTSTRAP_RESAMPLES
from crossgap_lib.tasks.dogs_vs_cats import correctly_classified

KS = (1, 3)
patient = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def embed(features, labels=None, ids=None):
    return Embeddings(features, np.arange(len(features)).astype(str) if ids is None else ids, labels)


def broken(features, labels):
    """What Embeddings would refuse itself, with the attributes that the metrics read."""
    return SimpleNamespace(
        features=np.array(features), ids=np.arange(len(features)).astype(str), labels=np.array(labels)
    )


def blob(n, dim=6, classes=3, seed=0, prefix=""):
    rng = np.random.default_rng(seed)
    ids = [f"{prefix}{i}" for i in range(n)]
    return embed(rng.standard_normal((n, dim)), rng.integers(classes, size=n), ids)


def random_grid(n_queries=20, n_gallery=50, seed=0):
    """Tie-free scores; every query has something to find."""
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_queries * n_gallery).reshape(n_queries, n_gallery).astype(np.float32)
    relevant = rng.random((n_queries, n_gallery)) < 0.2
    relevant[:, 0] = True
    return scores, relevant


def textbook(scores, relevant, exclude=None, ks=KS):
    """The definitions, one query and one gallery item at a time; None for a query with nothing to find."""
    rows = []
    for q in range(len(scores)):
        items = [
            (-float(scores[q][g]), bool(relevant[q][g]))  # sorted: highest score first, False before True
            for g in range(len(scores[q]))
            if exclude is None or not exclude[q][g]
        ]
        ranked = [is_relevant for _, is_relevant in sorted(items)]
        r = sum(ranked)
        if r == 0:
            rows.append(None)
            continue
        precision = [sum(ranked[: i + 1]) / (i + 1) for i in range(len(ranked))]
        row = {
            "ap": sum(p for p, hit in zip(precision, ranked, strict=True) if hit) / r,
            "r_precision": precision[r - 1],
            "map_at_r": sum(p for p, hit in zip(precision[:r], ranked[:r], strict=True) if hit) / r,
        }
        rows.append(row | {f"hit_at_{k}": float(any(ranked[:k])) for k in ks})
    return rows


def assert_same(result, rows):
    """A Retrieval equals the textbook's rows, in order, dropped queries included."""
    kept = [i for i, row in enumerate(rows) if row is not None]
    assert result.rows.tolist() == kept
    assert result.dropped == len(rows) - len(kept)
    for name, values in result.per_query.items():
        np.testing.assert_allclose(values, [rows[i][name] for i in kept], atol=1e-12, err_msg=name)


def assert_equal(left, right):
    for name, values in left.per_query.items():
        np.testing.assert_array_equal(values, right.per_query[name], err_msg=name)


@st.composite
def grids(draw):
    """Scores from few values, so that ties abound; relevance and exclusions at random; something to find."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 9)))
    scores = draw(hnp.arrays(np.float32, shape, elements=st.sampled_from([-2.0, -0.5, -0.0, 0.0, 0.5, 3.0])))
    relevant, exclude = draw(hnp.arrays(bool, shape)), draw(hnp.arrays(bool, shape))
    exclude[0, 0], relevant[0, 0] = False, True
    return scores, relevant, exclude


# Ranking ----------------------------------------------------------------------------------------------------


def test_worked_example():
    # Ranked a, b, c, d, e; a, c and e are relevant, at precision 1/1, 2/3 and 3/5; R = 3.
    scores, relevant = [[0.9, 0.8, 0.7, 0.6, 0.5]], np.array([[True, False, True, False, True]])
    result = metrics.retrieval_from_similarity(np.array(scores), relevant, ks=(1,))
    assert result.means == pytest.approx(
        {"ap": (1 + 2 / 3 + 3 / 5) / 3, "r_precision": 2 / 3, "map_at_r": (1 + 2 / 3) / 3, "hit_at_1": 1.0}
    )
    # Without a, its self-match, c and e come at precision 1/2 and 2/4, and R falls to 2.
    exclude = np.array([[True, False, False, False, False]])
    result = metrics.retrieval_from_similarity(np.array(scores), relevant, exclude, ks=(1,))
    assert result.n_relevant.tolist() == [2]
    assert result.means == pytest.approx(
        {"ap": (1 / 2 + 2 / 4) / 2, "r_precision": 1 / 2, "map_at_r": 1 / 4, "hit_at_1": 0.0}
    )


@pytest.mark.parametrize(
    ("correct", "r_precision", "map_at_r"),
    [([1], 0.1, 0.1), ([1, 10], 0.2, 0.12), ([1, 2], 0.2, 0.2), (range(1, 11), 1.0, 1.0)],
)
def test_map_at_r_of_the_metric_learning_reality_check(correct, r_precision, map_at_r):
    """The example table of Musgrave et al. 2020: 10 relevant items, some among the first 10 retrieved."""
    relevant = np.zeros((1, 30), bool)
    relevant[0, np.array(correct) - 1] = True
    relevant[0, 30 - (10 - len(correct)) : 30] = True
    result = metrics.retrieval_from_similarity(-np.arange(30.0)[None], relevant)
    assert result.means["r_precision"] == pytest.approx(r_precision)
    assert result.means["map_at_r"] == pytest.approx(map_at_r)
    assert result.means["hit_at_1"] == 1


def test_ties_count_against_the_method():
    relevant = np.array([True, False, True, False, False])
    ranked = metrics.ranked_relevance(np.array([[0.0, -0.0, 0.0, 0.0, -0.0]]), relevant[None])
    assert ranked.tolist() == [[False, False, False, True, True]]
    assert metrics.average_precision(np.zeros(5), relevant) == pytest.approx((1 / 4 + 2 / 5) / 2)
    assert "ties count against" in metrics.retrieval_from_similarity(np.zeros((1, 5)), relevant[None]).definition


def test_ranks_the_whole_float_range_downwards():
    tiny, huge = np.finfo(np.float32).smallest_subnormal, np.finfo(np.float32).max
    falling = np.array([huge, 1.0, tiny, 0.0, -tiny, -1.0, -huge], np.float32)
    for place in range(len(falling)):
        relevant = np.arange(len(falling)) == place
        shuffled = np.random.default_rng(place).permutation(len(falling))
        ranked = metrics.ranked_relevance(falling[shuffled][None], relevant[shuffled][None])
        assert ranked[0].tolist() == relevant.tolist()


def test_agrees_with_scikit_learn():
    scores, relevant = random_grid()
    result = metrics.retrieval_from_similarity(scores, relevant)
    expected = [average_precision_score(hit, row) for hit, row in zip(relevant, scores, strict=True)]
    np.testing.assert_allclose(result.ap, expected, atol=1e-12)
    assert metrics.average_precision(scores[3], relevant[3]) == pytest.approx(expected[3])


def test_agrees_with_torchmetrics():
    scores, relevant = random_grid(seed=1)
    relevant[2] = False  # both leave out a query with nothing to find
    means = metrics.retrieval_from_similarity(scores, relevant, ks=KS).means
    preds, target = torch.from_numpy(scores).flatten(), torch.from_numpy(relevant).flatten()
    indexes = torch.arange(len(scores)).repeat_interleave(scores.shape[1])
    oracles = {"ap": RetrievalMAP, "r_precision": RetrievalRPrecision}
    for name, oracle in oracles.items():
        expected = oracle(empty_target_action="skip")(preds, target, indexes=indexes)
        assert means[name] == pytest.approx(float(expected), abs=1e-6)
    for k in KS:
        oracle = RetrievalHitRate(empty_target_action="skip", top_k=k)
        assert means[f"hit_at_{k}"] == pytest.approx(float(oracle(preds, target, indexes=indexes)), abs=1e-6)


@given(grids())
@patient
def test_agrees_with_the_textbook_with_ties_and_self_matches(grid):
    scores, relevant, exclude = grid
    everything = metrics.retrieval_from_similarity(scores, relevant, ks=KS)
    assert_same(everything, textbook(scores, relevant))
    without = metrics.retrieval_from_similarity(scores, relevant, exclude, ks=KS)
    assert_same(without, textbook(scores, relevant, exclude))
    assert without.removed == exclude.sum()


@given(grids(), st.randoms(use_true_random=False))
@patient
def test_order_of_gallery_and_queries_does_not_matter(grid, random):
    result = metrics.retrieval_from_similarity(*grid, ks=KS)
    columns = random.sample(range(grid[0].shape[1]), grid[0].shape[1])
    assert_equal(result, metrics.retrieval_from_similarity(*(part[:, columns] for part in grid), ks=KS))
    rows = random.sample(range(len(grid[0])), len(grid[0]))
    turned = metrics.retrieval_from_similarity(*(part[rows] for part in grid), ks=KS)
    back = np.argsort(np.array(rows)[turned.rows])
    for name, values in result.per_query.items():
        np.testing.assert_array_equal(values, turned.per_query[name][back])


@given(grids())
@patient
def test_only_the_order_of_scores_matters_and_all_stays_in_bounds(grid):
    scores, relevant, exclude = grid
    result = metrics.retrieval_from_similarity(scores, relevant, exclude, ks=KS)
    stretched = metrics.retrieval_from_similarity(np.exp(scores) * 7 - 100, relevant, exclude, ks=KS)
    assert_equal(result, stretched)
    assert all(((values >= 0) & (values <= 1)).all() for values in result.per_query.values())
    assert (result.map_at_r <= result.ap + 1e-12).all()
    assert (result.map_at_r <= result.r_precision + 1e-12).all()


@given(grids(), st.integers(1, 2000))
@patient
def test_block_size_changes_nothing(grid, block_bytes):
    blocks = metrics.retrieval_from_similarity(*grid, ks=KS, block_bytes=block_bytes)
    whole = metrics.retrieval_from_similarity(*grid, ks=KS)
    assert_equal(blocks, whole)
    assert (blocks.rows.tolist(), blocks.definition) == (whole.rows.tolist(), whole.definition)


def test_memory_layout_and_repeated_ks_change_nothing():
    scores, relevant = random_grid()
    expected = metrics.retrieval_from_similarity(scores, relevant, ks=KS)
    turned = metrics.retrieval_from_similarity(np.asfortranarray(scores), np.asfortranarray(relevant), ks=KS * 2)
    assert_equal(expected, turned)


def test_takes_tensors_of_any_precision():
    scores, relevant = random_grid(4, 8)
    expected = metrics.retrieval_from_similarity(scores, relevant)
    for dtype in (torch.float64, torch.bfloat16, torch.float16):  # whole numbers below 256 are exact in all
        tensor = torch.from_numpy(scores).to(dtype).requires_grad_()
        assert_equal(expected, metrics.retrieval_from_similarity(tensor, torch.from_numpy(relevant)))


# Retrieval of embeddings ------------------------------------------------------------------------------------


def similarity_by_loop(queries, gallery):
    """Products one by one, correctly rounded."""
    pairs = [[math.fsum(a * b) for b in gallery.features.double().numpy()] for a in queries.features.double().numpy()]
    return np.array(pairs, np.float32)


@pytest.mark.parametrize("self_match", ["remove", "keep"])
def test_embeddings_agree_with_the_textbook(self_match):
    images = blob(30)
    same_class = images.labels[:, None] == images.labels
    exclude = np.eye(30, dtype=bool) if self_match == "remove" else None
    result = metrics.retrieval(images, images, self_match=self_match, ks=KS)
    assert_same(result, textbook(similarity_by_loop(images, images), same_class, exclude))
    assert result.removed == (30 if self_match == "remove" else 0)
    assert (result.hit_at[1].all()) == (self_match == "keep")


def test_a_counted_self_match_may_raise_r_beyond_the_gallery():
    """The only item is one query's own entry: removed for that one, which keeps AP 0, and relevant to the other."""
    queries, gallery = embed(np.eye(2), [1, 1], ["own", "other"]), embed([[1.0, 0.0]], [1], ["own"])
    result = metrics.retrieval(queries, gallery, self_match="count")
    assert (result.rows.tolist(), result.dropped, result.r_precision.tolist()) == ([0, 1], 0, [0.0, 1.0])
    with pytest.raises(CrossgapError, match="No query has a relevant item"):
        metrics.retrieval(queries[[0]], gallery, self_match="count")


def test_self_match_goes_by_id_wherever_it_stands():
    gallery, some = blob(20), list(range(15, 5, -1))
    queries = embed(gallery.features[some].numpy(), gallery.labels[some], gallery.ids[some])
    result = metrics.retrieval(queries, gallery)
    for i in range(10):
        rest = gallery.ids != queries.ids[i]
        alone = metrics.retrieval(
            embed(queries.features[i : i + 1].numpy(), queries.labels[i : i + 1], ["query"]),
            embed(gallery.features[rest].numpy(), gallery.labels[rest], gallery.ids[rest]),
        )
        assert result.ap[i] == alone.ap[0]
        assert result.r_precision[i] == alone.r_precision[0]


def test_equal_vectors_tie_wherever_they_stand():
    """Float32 products of equal vectors can differ in the last bit by column; the ranking must not see it."""
    query = blob(37, dim=512, classes=1)
    gallery = embed(np.tile(query.features[:1].numpy(), (1003, 1)), np.arange(1003) % 2)
    result = metrics.retrieval(query, gallery, self_match="keep")
    worst = np.mean(np.arange(1, 503) / np.arange(502, 1004))  # 501 irrelevant ones come first
    np.testing.assert_allclose(result.ap, worst)


@pytest.mark.parametrize("self_match", ["remove", "count", "keep"])
@pytest.mark.parametrize("block_bytes", [1, metrics.BLOCK_BYTES])
def test_excluded_items_take_no_rank(self_match, block_bytes):
    """As if they were not in the gallery: that of each query is cut down before the ranking."""
    x, junk = blob(30), np.random.default_rng(1).random((30, 30)) < 0.3
    found = metrics.retrieval(x, x, exclude=junk, self_match=self_match, block_bytes=block_bytes, ks=(1, 3))
    for k, row in enumerate(found.rows):
        one = metrics.retrieval(x[[row]], x[~junk[row]], self_match=self_match, ks=(1, 3))
        for name, values in one.per_query.items():
            assert found.per_query[name][k] == pytest.approx(values[0]), name
    own = 0 if self_match == "keep" else int((~junk.diagonal()).sum())
    assert found.removed == junk.sum() + own
    assert "Excluded items take no rank." in found.definition
    with pytest.raises(CrossgapError, match="exclude must be boolean"):
        metrics.retrieval(x, x, exclude=junk[:3])


def test_relevance_given_or_by_label_and_block_size():
    queries, gallery = blob(9, seed=1, prefix="q"), blob(40, seed=2, prefix="g")
    by_label = metrics.retrieval(queries, gallery)
    given_pairs = metrics.retrieval(
        queries, gallery, relevant=torch.from_numpy(queries.labels[:, None] == gallery.labels)
    )
    assert_equal(by_label, given_pairs)
    assert_equal(by_label, metrics.retrieval(queries, gallery, block_bytes=1))
    assert by_label.definition != given_pairs.definition


def test_shortcuts_are_the_means():
    images = blob(30)
    means = metrics.retrieval(images, images, self_match="keep", ks=(2,)).means
    assert metrics.mean_average_precision(images, images, self_match="keep") == means["ap"]
    assert metrics.r_precision(images, images, self_match="keep") == means["r_precision"]
    assert metrics.map_at_r(images, images, self_match="keep") == means["map_at_r"]
    assert metrics.recall_at_k(images, images, 2, self_match="keep") == means["hit_at_2"] == 1


def test_queries_without_a_relevant_item_are_counted():
    queries = embed(np.eye(3), labels=[0, 7, 1], ids=["a", "b", "c"])
    result = metrics.retrieval(queries, embed(np.eye(3), labels=[0, 1, 1], ids=["d", "e", "f"]))
    assert (len(result), result.dropped, result.rows.tolist()) == (2, 1, [0, 2])
    assert "1 of 3 queries left out" in result.definition
    assert result.n_relevant.tolist() == [1, 2]


def test_interval_is_seeded_and_as_wide_as_the_central_limit_says():
    scores, relevant = random_grid(n_queries=400)
    result = metrics.retrieval_from_similarity(scores, relevant)
    low, high = result.interval("ap", seed=3)
    assert (low, high) == result.interval("ap", seed=3) != result.interval("ap", seed=4)
    assert low < result.means["ap"] < high
    reach = 1.96 * result.ap.std() / math.sqrt(400)
    assert (result.means["ap"] - low, high - result.means["ap"]) == pytest.approx((reach, reach), rel=0.1)
    narrow = result.interval("ap", seed=3, level=0.5)
    assert low < narrow[0] < narrow[1] < high
    table = result.table(seed=3)
    assert table.loc["ap"].tolist() == [result.means["ap"], low, high, 400]
    assert table.index.tolist() == ["ap", "r_precision", "map_at_r", "hit_at_1", "hit_at_5", "hit_at_10"]


# Classification and geometry --------------------------------------------------------------------------------


def test_accuracy():
    assert metrics.accuracy(np.array([0, 1, 2, 2]), torch.tensor([0, 1, 1, 2])) == 0.75
    images = embed([[1, 0.1], [0.2, 1], [1, 1], [1, 0]], labels=[0, 1, 1, 1])
    # Nearest prompts: 0, 1, both (a tie), 0.
    assert metrics.zero_shot_accuracy(images, embed(np.eye(2))) == 0.5


def test_a_linear_probe_against_softmax_regression_by_hand():
    """Standardised by the rows that learn; cross-entropy summed over them plus half the squared weights."""
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = rng.normal(size=(60, 4)) * [1, 5, 0.2, 3] + rng.normal(size=(3, 4))[labels]
    learns = np.arange(60) < 40
    z = torch.from_numpy((x - x[learns].mean(0)) / x[learns].std(0))
    w, b = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True), torch.zeros(3, dtype=float, requires_grad=True)
    solver, own = torch.optim.LBFGS([w, b], max_iter=500, line_search_fn="strong_wolfe"), torch.from_numpy(labels)

    def loss():
        solver.zero_grad()
        logits = z[learns] @ w.T + b
        total = torch.nn.functional.cross_entropy(logits, own[learns], reduction="sum") + (w**2).sum() / 2
        total.backward()
        return total

    solver.step(loss)
    expected = ((z[~learns] @ w.T + b).argmax(dim=1) == own[~learns]).numpy()
    assert 0.4 < expected.mean() < 1
    np.testing.assert_array_equal(metrics.linear_probe(x, labels, learns), expected)


def test_a_tie_is_answered_wrongly_whichever_class_comes_first():
    scores = np.array([[1, 1, 0], [1, 1, 0], [0, 2, 2], [3, 1, 2]])
    assert metrics.answered_rightly(scores, np.array([0, 1, 0, 0])).tolist() == [False, False, False, True]
    a_hair = np.array([[1.0, 1.0 - 1e-12]])  # equal in float32, as for a ranking
    assert metrics.answered_rightly(a_hair, np.array([0])).tolist() == [False]
    # Of two columns of class 7 the better one counts.
    two = metrics.answered_rightly(np.array([[0.1, 0.5, 0.3]]), np.array([7]), np.array([7, 4, 7]))
    assert two.tolist() == [False]
    assert metrics.answered_rightly(np.array([[0.1, 0.2, 0.3]]), np.array([7]), np.array([7, 4, 7])).tolist() == [True]


def test_both_zero_shot_accuracies_count_ties_alike():
    images = embed([[1, 1], [1, 1], [1, 0.5]], labels=[0, 1, 0])
    prompts = Embeddings(np.eye(2), labels=[0, 1])
    assert metrics.zero_shot_accuracy(images, prompts) == pytest.approx(1 / 3)
    assert correctly_classified(images, prompts).tolist() == [False, False, True]


def test_resampled_means_of_rows_are_those_of_their_columns():
    rows = np.random.default_rng(0).normal(size=(30, 3))
    means = metrics.resampled_means(rows, seed=4)
    assert means.shape == (BOOTSTRAP_RESAMPLES, 3)
    rng = np.random.default_rng(4)
    for mean in means[:5]:
        np.testing.assert_allclose(mean, rows[rng.integers(30, size=30)].mean(axis=0))
    for k in range(3):
        low, high = metrics.bootstrap_interval(rows[:, k], seed=4)
        np.testing.assert_allclose([low, high], np.quantile(means[:, k], [0.025, 0.975]))


def test_resamples_that_are_not_kept_are_the_same(monkeypatch):
    rows = np.random.default_rng(0).normal(size=(30, 3))
    kept = metrics.resampled_means(rows, seed=4)
    monkeypatch.setattr("crossgap_lib.metrics.bootstrap._KEPT_RESAMPLES", 29)
    np.testing.assert_allclose(metrics.resampled_means(rows, seed=4), kept)


def test_uniformity_holds_no_more_distances_than_it_is_told(monkeypatch):
    x = blob(50)
    whole = metrics.uniformity(x)
    held = []
    real = torch.cdist
    monkeypatch.setattr(torch, "cdist", lambda a, b, **how: held.append(len(a) * len(b)) or real(a, b, **how))
    monkeypatch.setattr("crossgap_lib.metrics.geometry._DISTANCES", 120)
    assert metrics.uniformity(x) == pytest.approx(whole)
    assert max(held) <= 120


def test_gap_alignment_and_uniformity_against_plain_loops():
    images, texts = blob(7, seed=1), blob(7, seed=2)
    x, y = images.features.tolist(), texts.features.tolist()
    gap = [sum(row[j] for row in x) / 7 - sum(row[j] for row in y) / 7 for j in range(6)]
    np.testing.assert_allclose(metrics.gap_vector(images, texts), gap, atol=1e-12)
    assert metrics.modality_gap(images, texts) == pytest.approx(math.sqrt(sum(v * v for v in gap)))
    for alpha in (1, 2):
        distances = [math.dist(a, b) ** alpha for a, b in zip(x, y, strict=True)]
        assert metrics.alignment(images, texts, alpha) == pytest.approx(sum(distances) / 7)
    for t in (1, 2):
        pairs = [math.exp(-t * math.dist(x[i], x[j]) ** 2) for i in range(7) for j in range(i)]
        assert metrics.uniformity(images, t) == pytest.approx(math.log(sum(pairs) / 21))


def test_gap_of_known_sets_takes_arrays_and_unequal_sizes():
    assert metrics.modality_gap(np.eye(2), np.eye(2)) == 0
    opposite = np.array([[1.0, 0.0]])
    assert metrics.modality_gap(opposite, -np.repeat(opposite, 3, axis=0)) == 2
    assert metrics.modality_gap(torch.eye(2).half(), opposite) == pytest.approx(math.sqrt(0.5))


def test_overlap_of_known_cases():
    a = np.linspace(0, 1, 50)
    assert metrics.overlap_coefficient(a, a) == 1
    assert metrics.overlap_coefficient(a, a + 2) == 0
    assert metrics.overlap_coefficient(np.repeat(a, 3), torch.from_numpy(a)) == 1
    # Bins [0, 1) and [1, 2]: shares 3/4, 1/4 against 1/2, 1/2: min 1/2 + 1/4.
    assert metrics.overlap_coefficient([0, 0.5, 0.6, 1.5], [0.5, 2], bins=np.array([0, 1, 2])) == 0.75
    assert metrics.overlap_coefficient([0, 0.5, 0.6, 1.5], [0.5, 2], bins=2) == 0.75


samples = hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1, 1, width=32))


@given(samples, samples, st.integers(1, 50))
@patient
def test_overlap_is_symmetric_and_bounded(a, b, bins):
    overlap = metrics.overlap_coefficient(a, b, bins)
    assert overlap == metrics.overlap_coefficient(b, a, bins)
    assert 0 <= overlap <= 1
    assert metrics.overlap_coefficient(a, a[::-1], bins) == 1


# Refusals ---------------------------------------------------------------------------------------------------

GRID = np.zeros((2, 3))
ALL = np.ones((2, 3), bool)
IMAGES = embed(np.eye(3), labels=[0, 1, 0])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.retrieval_from_similarity(GRID * np.nan, ALL), "NaN or infinite"),
        (lambda: metrics.retrieval_from_similarity(GRID + 1e39, ALL), "NaN or infinite"),
        (lambda: metrics.retrieval_from_similarity(GRID[:0], ALL[:0]), "at least one of each"),
        (lambda: metrics.retrieval_from_similarity(GRID[:, :0], ALL[:, :0]), "at least one of each"),
        (lambda: metrics.retrieval_from_similarity(GRID[0], ALL[0]), "at least one of each"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL.T), "relevant must be boolean"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL.astype(int)), "relevant must be boolean"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL, ALL[:1]), "exclude must be boolean"),
        (lambda: metrics.ranked_relevance(GRID, ALL, ALL[:1]), "exclude must be boolean"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL, ks=(1, 0)), "k must be"),
        (lambda: metrics.recall_at_k(IMAGES, IMAGES, 1.5), "k must be"),
        (lambda: metrics.retrieval_from_similarity(GRID, ~ALL), "No query has a relevant item"),
        (lambda: metrics.retrieval(IMAGES, IMAGES, relevant=np.eye(3, dtype=bool)), "self_match='keep'"),
        (lambda: metrics.retrieval(IMAGES, IMAGES, relevant=ALL), "relevant must be boolean"),
        (lambda: metrics.retrieval(IMAGES, IMAGES, self_match="drop"), "one of remove, count, keep"),
        (lambda: metrics.retrieval(IMAGES, IMAGES, ap="median"), "one of mean, trapezoid"),
        (lambda: metrics.retrieval(embed(np.eye(3)), IMAGES), "queries have no labels"),
        (lambda: metrics.retrieval(IMAGES, broken(np.eye(3), [1])), "labels of shape"),
        (lambda: metrics.retrieval(IMAGES, embed(np.eye(4), labels=range(4))), "share one space"),
        (lambda: metrics.retrieval(IMAGES, broken(np.ones((0, 3)), [])), "gallery must be features"),
        (lambda: metrics.retrieval(broken([[np.nan, 1]], [0]), IMAGES), "NaN or infinite"),
        (lambda: metrics.modality_gap(np.eye(2), 2 * np.eye(2)), "unit norm"),
        (lambda: metrics.modality_gap(np.eye(2), np.zeros((0, 2))), "texts must be features"),
        (lambda: metrics.alignment(np.eye(2), np.eye(2)[:1]), "2 and 1 rows"),
        (lambda: metrics.uniformity(np.eye(2)[:1]), "at least two"),
        (lambda: metrics.accuracy(np.zeros(2), np.zeros(3)), "as many predictions as labels"),
        (lambda: metrics.accuracy(np.zeros(0), np.zeros(0)), "n > 0"),
        (lambda: metrics.linear_probe(np.eye(3), np.arange(3), np.ones(3, bool)), "two classes to learn from"),
        (lambda: metrics.linear_probe(np.eye(3), np.zeros(3), np.arange(3) < 2), "two classes to learn from"),
        (lambda: metrics.zero_shot_accuracy(embed(np.eye(3)), IMAGES), "images have no labels"),
        (lambda: metrics.zero_shot_accuracy(embed(np.eye(3), labels=[0, 1, 3]), IMAGES), "3 class prompts"),
        (lambda: metrics.zero_shot_accuracy(broken(np.eye(2), [0, -1]), embed(np.eye(2))), "from -1 to 0"),
        (lambda: metrics.overlap_coefficient([], [1.0]), "first sample is empty"),
        (lambda: metrics.overlap_coefficient([1.0], [np.inf]), "second sample holds NaN"),
        (lambda: metrics.overlap_coefficient([0.0], [3.0], bins=np.array([0, 1])), "The bins span"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL).interval("app"), "Did you mean: ap"),
        (lambda: metrics.retrieval_from_similarity(GRID, ALL).interval("ap", level=95), "level must"),
    ],
)
def test_refuses_in_one_sentence(call, says):
    with pytest.raises(CrossgapError) as refusal:
        call()
    assert says in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_trapezoids_by_a_worked_example():
    """Relevant at ranks 1 and 3 of 4: (1 + 1) / 2 at the first, (1/2 + 2/3) / 2 at the second, over two positives."""
    scores, relevant = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[True, False, True, False]])
    result = metrics.retrieval_from_similarity(scores, relevant, ap="trapezoid")
    assert result.ap[0] == pytest.approx((1 + (1 / 2 + 2 / 3) / 2) / 2)
    assert "trapezoid" in result.definition


# Real vectors -----------------------------------------------------------------------------------------------


def test_real_clip_vectors(real_folder):
    """CLIP ViT-B/16 on 500 COCO pairs; the expected numbers were measured elsewhere, by other code."""
    pairs = np.load(real_folder / "clip_vitb16_coco500.npz", allow_pickle=False)
    images, texts = embed(pairs["image_features"]), embed(pairs["text_features"])
    same_row = {"relevant": np.eye(500, dtype=bool), "self_match": "keep"}
    assert metrics.recall_at_k(images, texts, 1, **same_row) == pytest.approx(0.552, abs=1e-9)
    assert metrics.recall_at_k(texts, images, 1, **same_row) == pytest.approx(0.506, abs=1e-9)
    assert metrics.modality_gap(images, texts) == pytest.approx(0.851, abs=5e-4)
    # For unit vectors the squared distance of a pair is 2 - 2 cos: alignment holds the mean pair cosine.
    assert 1 - metrics.alignment(images, texts) / 2 == pytest.approx(0.310, abs=5e-4)
