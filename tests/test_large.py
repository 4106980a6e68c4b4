"""Streamed retrieval against the sorting of whole rows, torchmetrics and scikit-learn; ties; blocks; memory."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP

import crossgap_lib as cg
from crossgap_lib import metrics
from crossgap_lib.cli import cli
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.rows import normalised
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics import large
from crossgap_lib.metrics.large import StoredGallery, streamed_retrieval
from crossgap_lib.runner import bench, bench_retrieval

KS = (1, 3)
MIB = 2**20


def assert_same(found, expected, atol=1e-12):
    assert found.rows.tolist() == expected.rows.tolist()
    assert found.n_relevant.tolist() == expected.n_relevant.tolist()
    assert (found.dropped, found.removed) == (expected.dropped, expected.removed)
    assert found.definition == expected.definition
    for name, values in expected.per_query.items():
        np.testing.assert_allclose(found.per_query[name], values, atol=atol, err_msg=name)


def clusters(n, d=32, classes=5, seed=0, ids="item"):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    centres = np.random.default_rng(99).normal(size=(classes, d))
    return Embeddings(centres[labels] + 2 * rng.normal(size=(n, d)), [f"{ids}-{k}" for k in range(n)], labels)


@pytest.fixture
def small_blocks(monkeypatch):
    """Many blocks of the gallery and of queries from few rows."""
    monkeypatch.setattr(large, "_MOST_ROWS", 7)
    monkeypatch.setattr(large, "_MOST_QUERIES", {"cpu": 3, "cuda": 3})


# ---------------------------------------------------------------- the same numbers


@st.composite
def searches(draw):
    """Queries and gallery whose rows repeat, within and across; some ids are shared, some labels nobody has."""
    d, n = draw(st.integers(1, 5)), draw(st.integers(1, 12))
    if draw(st.booleans()):
        rows = np.array(draw(st.lists(st.lists(st.integers(-2, 2), min_size=d, max_size=d), min_size=n, max_size=n)))
        rows[~rows.any(axis=1)] = 1
    else:
        rows = np.random.default_rng(draw(st.integers(0, 99))).normal(size=(n, d))
    sides = []
    for name in ("queries", "gallery"):
        which = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=25), label=name)
        labels = draw(st.lists(st.integers(0, 4), min_size=len(which), max_size=len(which)))
        ids = draw(st.permutations(range(len(which) + 2)))[: len(which)]
        sides.append(Embeddings(rows[which], ids=[str(i) for i in ids], labels=labels))
    return sides


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(searches(), st.sampled_from(["remove", "count", "keep"]), st.booleans())
def test_agrees_with_sorting(both, self_match, cut):
    with pytest.MonkeyPatch.context() as patch:
        if cut:
            patch.setattr(large, "_MOST_ROWS", 3)
            patch.setattr(large, "_MOST_QUERIES", {"cpu": 2, "cuda": 2})
        expected, found = (
            outcome(function, *both, self_match=self_match, ks=KS)
            for function in (metrics.retrieval, streamed_retrieval)
        )
    if isinstance(expected, str):
        assert found == expected
    else:
        assert_same(found, expected)


def outcome(function, *arguments, **options):
    """What a search returns, or the words it refuses with."""
    try:
        return function(*arguments, **options)
    except CrossgapError as error:
        return str(error)


@pytest.mark.parametrize("self_match", ["remove", "count", "keep"])
def test_agrees_with_sorting_on_clusters(self_match):
    gallery = clusters(900, seed=1)
    queries = gallery[np.random.default_rng(0).permutation(900)[:200]]
    expected = metrics.retrieval(queries, gallery, self_match=self_match)
    assert 0.2 < expected.means["ap"] < 0.9
    assert_same(streamed_retrieval(queries, gallery, self_match=self_match), expected)


def test_agrees_with_torchmetrics_and_scikit_learn():
    queries, gallery = clusters(40, ids="query"), clusters(500, seed=1)
    found = streamed_retrieval(queries, gallery)
    scores = queries.features @ gallery.features.T
    relevant = torch.from_numpy(queries.labels[:, None] == gallery.labels)
    indexes = torch.arange(40).repeat_interleave(500)
    oracle = RetrievalMAP()(1 + scores.flatten(), relevant.flatten(), indexes=indexes)  # it drops negative scores
    assert found.means["ap"] == pytest.approx(float(oracle), abs=1e-6)
    for k, row in enumerate(found.rows):
        assert found.ap[k] == pytest.approx(average_precision_score(relevant[row], scores[row]), abs=1e-6)


def test_blocks_and_memory_change_nothing(small_blocks, monkeypatch):
    queries, gallery = clusters(60, ids="query"), clusters(300, seed=1)
    one = streamed_retrieval(queries, gallery, memory=MIB)  # groups of a few queries, blocks of 7
    monkeypatch.setattr(large, "_MOST_ROWS", 8192)
    assert_same(streamed_retrieval(queries, gallery), one, atol=0)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert_same(streamed_retrieval(queries, gallery), one, atol=0)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_gallery_changes_nothing(seed):
    queries, gallery = clusters(50, ids="query"), clusters(400, seed=1)
    other = gallery[np.random.default_rng(seed).permutation(400)]
    assert_same(streamed_retrieval(queries, other), streamed_retrieval(queries, gallery), atol=0)


# ---------------------------------------------------------------- half precision and ties


def test_half_precision_from_disk(tmp_path):
    """Where the file is mapped, rows are those that Embeddings would hold."""
    queries, gallery = clusters(50, ids="query"), clusters(400, seed=1)
    np.save(tmp_path / "halves.npy", gallery.features.numpy().astype(np.float16))
    stored = StoredGallery.open(tmp_path / "halves.npy", gallery.labels, gallery.ids)
    assert isinstance(stored.features, np.memmap)
    held = Embeddings(np.load(tmp_path / "halves.npy"), gallery.ids, gallery.labels)
    assert_same(streamed_retrieval(queries, stored), metrics.retrieval(queries, held))


@pytest.mark.parametrize("rows", [7, 64, 8192])
def test_equal_halves_tie_wherever_they_stand(rows, monkeypatch):
    """A coarse space in half precision: each relevant item has irrelevant twins all over the gallery.

    The rank of a relevant item is counted by hand from whole numbers: the twins' places can play no part.
    """
    monkeypatch.setattr(large, "_MOST_ROWS", rows)
    rng = np.random.default_rng(0)
    originals = normalised(rng.normal(size=(60, 96))).numpy().astype(np.float16)
    which = rng.permutation(np.repeat(np.arange(60), 16))  # (960,) sixteen twins of each, anywhere
    labels = np.where(rng.random(960) < 0.1, 0, 1 + rng.integers(0, 3, 960))
    queries = Embeddings(rng.normal(size=(20, 96)), labels=np.zeros(20, int))
    found = streamed_retrieval(queries, StoredGallery(originals[which], labels), self_match="keep")
    exact = queries.features.double() @ normalised(originals).double().T  # (20, 60): one number for all twins
    for k in range(20):
        place = np.argsort(np.argsort(-exact[k].numpy()))[which]  # (960,) of each item's original
        relevant = np.sort(place[labels == 0])
        ranks = [i + 1 + (place[labels != 0] <= at).sum() for i, at in enumerate(relevant)]
        assert found.ap[k] == pytest.approx(np.mean([(i + 1) / rank for i, rank in enumerate(ranks)]), abs=1e-12)


def test_in_float32_twins_would_not_tie(monkeypatch):
    """Twins that stand in different blocks tie because products are made in float64; noise of float32 splits them."""
    queries, gallery = clusters(30, ids="query"), clusters(200, seed=1)
    twins = Embeddings(gallery.features.repeat(2, 1), labels=np.concatenate([gallery.labels, gallery.labels + 1]))
    expected = metrics.retrieval(queries, twins, self_match="keep")
    monkeypatch.setattr(large, "_MOST_ROWS", 64)
    honest, generator = large._similarity, torch.Generator().manual_seed(0)

    def disturbed(x, y, size):
        noise = size * (torch.rand(len(x), len(y), generator=generator, dtype=torch.float64) - 0.5)
        return (honest(x, y).double() + noise).float()

    monkeypatch.setattr(large, "_similarity", lambda x, y: disturbed(x, y, 1e-15))
    assert_same(streamed_retrieval(queries, twins, self_match="keep"), expected)
    monkeypatch.setattr(large, "_similarity", lambda x, y: disturbed(x, y, 2e-7))
    off = streamed_retrieval(queries, twins, self_match="keep")
    assert np.abs(off.ap - expected.ap).max() > 1e-4


@pytest.mark.parametrize("n", [1, 2, 5, 17])
def test_rows_are_normalised_alike_in_any_block(n):
    halves = np.random.default_rng(0).normal(size=(64, 512)).astype(np.float16)
    whole = normalised(halves)
    for start in range(0, 64 - n, 7):
        assert torch.equal(normalised(halves[start : start + n]), whole[start : start + n])


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_scores_are_float64_products_rounded(precision):
    """Against exact sums of Python's ``math.fsum``, in whatever precision torch is told to multiply float32."""
    x, y = clusters(6, d=512).features, clusters(40, d=512, seed=1).features
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        found = large._similarity(x, y.double())
    finally:
        torch.set_float32_matmul_precision(before)
    products = (x.double()[:, None] * y.double()).numpy()  # (6, 40, 512) exact: 48 bits of 53
    exact = [[np.float32(math.fsum(row)) for row in rows] for rows in products]
    assert np.array_equal(found.numpy(), exact)


# ---------------------------------------------------------------- the parts


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_counts_are_those_of_a_loop(data):
    """Marks and scores on a coarse grid, equal ones included, and zeros of both signs."""
    t, r, b = (data.draw(st.integers(1, most)) for most in (4, 6, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**16)))
    signs = rng.choice([-1.0, 1.0], (t, b))
    marks = (rng.integers(-4, 5, (t, r)) * 1e-3).astype(np.float32)
    scores = (rng.integers(0, 6, (t, b)) * signs * 1e-3).astype(np.float32)
    scores[rng.random(scores.shape) < 0.1] = -np.inf
    expected = [[sum(score >= mark for score in scores[i]) for mark in marks[i]] for i in range(t)]
    assert large._at_least(torch.from_numpy(scores.copy()), torch.from_numpy(marks)).tolist() == expected


def test_relevant_items_are_those_of_the_matrix():
    rng = np.random.default_rng(0)
    query_labels, gallery_labels = rng.integers(0, 9, 40), rng.integers(2, 12, 100)
    own = np.where(rng.random(40) < 0.5, rng.permutation(100)[:40], -1)
    found = large._Relevant(query_labels, gallery_labels, own)
    same = query_labels[:, None] == gallery_labels
    expected = same & (own[:, None] != np.arange(100))
    assert found.n.tolist() == expected.sum(axis=1).tolist()
    assert [found.class_rows(k).tolist() for k in range(40)] == [np.flatnonzero(row).tolist() for row in same]
    groups = large._groups(found, d=8, memory=4096)
    assert len(groups) > 3
    assert sorted(np.concatenate(groups)) == np.flatnonzero(expected.any(axis=1)).tolist()
    for group in groups:
        assert (np.diff(query_labels[group]) != 0).sum() == len(set(query_labels[group])) - 1, "classes side by side"


# ---------------------------------------------------------------- refusals


def test_refusals(tmp_path):
    queries, gallery = clusters(5), clusters(20)
    halves, labels = gallery.features.numpy().astype(np.float16), gallery.labels
    bad = halves.copy()
    bad[3, 0] = np.nan
    stored = StoredGallery(halves, labels)
    cases = [
        (queries, StoredGallery(bad, labels), {"self_match": "keep"}, "1 of .* rows hold NaN"),
        (queries, stored, {}, "no ids to find self-matches by"),
        (queries, StoredGallery(halves[:, :9], labels), {"self_match": "keep"}, "32 dimensions and gallery 9"),
        (queries, StoredGallery(halves, labels[1:]), {"self_match": "keep"}, "20 rows, but labels"),
        (queries, StoredGallery(halves, labels * 1.0), {"self_match": "keep"}, "whole numbers"),
        (queries, StoredGallery(halves[:0], labels[:0]), {"self_match": "keep"}, r"shape is \(0, 32\)"),
        (queries, StoredGallery(halves, labels, ["item-1"] * 20), {}, "ids repeat"),
        (Embeddings(queries.features), gallery, {}, "need labels"),
        (queries, gallery, {"self_match": "drop"}, "self_match must be one of"),
        (queries, gallery, {"ks": (0,)}, "k must be"),
        (queries, gallery, {"memory": 1000}, "memory must be at least"),
        (Embeddings(queries.features, labels=np.full(5, 77)), gallery, {}, "No query has a relevant item"),
    ]
    for left, right, options, words in cases:
        with pytest.raises(CrossgapError, match=words):
            streamed_retrieval(left, right, **options)
    for name, content in (("x.npy", b"no array"), ("gone.npy", None)):
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CrossgapError, match=f"{name} can't be read"):
            StoredGallery.open(tmp_path / name, labels)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(CrossgapError, match="can't be read"):
        StoredGallery.open(tmp_path / "objects.npy", np.zeros(1, int))


def test_the_package_offers_it():
    assert cg.streamed_retrieval is streamed_retrieval
    assert cg.StoredGallery is StoredGallery


# ---------------------------------------------------------------- benchmark


def test_the_benchmark_measures_what_it_says(monkeypatch, tmp_path):
    monkeypatch.setattr(bench, "_GEMM", 128)
    args = ["bench", "retrieval", "--queries", "40", "--gallery", "3000", "--dim", "16", "--classes", "6"]
    done = CliRunner().invoke(cli, [*args, "--json", str(tmp_path / "r.json")])
    assert done.exit_code == 0, done.output
    assert "of the GEMM rate" in done.output
    result = bench_retrieval.bench(40, 3000, 16, 6)
    assert set(result) >= {"seconds", "gflops", "gemm_gflops", "ratio", "peak_bytes", "difference"}
    assert result["gflops"] == pytest.approx(2 * 40 * 3000 * 16 / result["seconds"] / 1e9)
    assert result["gemm_share"] == pytest.approx(result["gflops"] / result["gemm_gflops"])
    assert result["cpu_share"] > 0
    assert result["ratio"] == pytest.approx(result["textbook_seconds_a_query"] * 40 / result["seconds"])
    assert result["imagenet_seconds"] == pytest.approx(result["seconds"] * 50_000 * 1_281_167 / (40 * 3000))
    assert result["difference"] < 1e-6
    assert 0.2 < result["mean_average_precision"] < 0.99


def test_the_benchmark_refuses():
    done = CliRunner().invoke(cli, ["bench", "retrieval", "--queries", "0"])
    assert (done.exit_code, "at least 1" in done.output) == (1, True)


def test_the_textbook_by_hand():
    features = np.array([[1.0], [0.9], [0.8], [0.7]])
    assert bench_retrieval.textbook_ap(np.ones(1), 1, features, np.array([1, 0, 1, 0])) == pytest.approx(5 / 6)


# ---------------------------------------------------------------- size

LARGE = """
import sys, numpy as np, torch
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.runner.bench_retrieval import clusters, stored
from crossgap_lib.metrics.large import streamed_retrieval
from crossgap_lib.memory import PeakMemory
from pathlib import Path
gallery = stored(Path(sys.argv[1]), 200_000, 200, 64)
labels = np.arange(2000) % 200
queries = Embeddings(clusters(labels, 200, 64, seed=0), labels=labels)
streamed_retrieval(queries[:4], gallery, self_match="keep", memory=2**26)
with PeakMemory(torch.device("cpu")) as peak:
    found = streamed_retrieval(queries, gallery, self_match="keep", memory=2**26)
print(len(found), peak.bytes or 0, *found.ap[:5])
"""


def test_long_rows_are_counted_and_others_sorted(monkeypatch):
    rng = np.random.default_rng(0)
    x = Embeddings(rng.normal(size=(60, 8)), labels=rng.integers(0, 4, 60))
    calls = []
    counted = lambda *sides, **options: calls.append(options) or streamed_retrieval(*sides, **options)  # noqa: E731
    monkeypatch.setattr(large, "streamed_retrieval", counted)
    expected = large.exact_retrieval(x[:9], x, self_match="count")
    assert calls == []
    monkeypatch.setattr(large, "_LONG_ROW", 50)
    monkeypatch.setattr(large, "_MANY_ENTRIES", 500)
    assert_same(large.exact_retrieval(x[:9], x, self_match="count", ap="mean"), expected)
    assert calls == [{"self_match": "count"}]
    large.exact_retrieval(x[:9], x, ap="trapezoid")
    large.exact_retrieval(x[:9], x, exclude=np.zeros((9, 60), bool))
    assert len(calls) == 1, "what only sorting can do is sorted"


@pytest.mark.slow
def test_2000_queries_by_200_000_items_in_little_memory(tmp_path):
    """64 MiB are aimed at, where the matrix would take 1.6 GB; the APs are those of whole rows, sorted."""
    path = tmp_path / "gallery.npy"
    done = subprocess.run([sys.executable, "-c", LARGE, path], capture_output=True, text=True, check=True)
    n, peak, *ap = map(float, done.stdout.split())
    assert n == 2000
    assert peak < 96 * MIB  # the allocator keeps some of what is freed
    features = normalised(np.load(path)).double()
    item_labels = np.random.default_rng(0).integers(0, 200, 200_000)
    rows = Embeddings(bench_retrieval.clusters(np.arange(2000) % 200, 200, 64, seed=0)).features[:5].double()
    for k, scores in enumerate((rows @ features.T).float().numpy()):
        expected = bench_retrieval.textbook_ap(np.ones(1), k, scores[:, None], item_labels)
        assert ap[k] == pytest.approx(expected, abs=1e-6)
