"""Image-image from image-text similarities, against the dense system as the paper writes it, SVD and pinv of numpy."""

from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import aslinearoperator

from crossgap_lib import plots
from crossgap_lib.embeddings.embeddings import Embeddings, load_pair
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks import degrees_of_freedom as dof
from crossgap_lib.tasks import recovery_sweeps as sweeps


def units(n, d, seed=0, shift=0.0):
    """n random unit vectors (n, d), around a direction where shift > 0, as a modality's cone has it."""
    x = np.random.default_rng([9, n, d, seed]).normal(size=(n, d))
    x[:, 0] += shift
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def pairs(n, d, seed=0, shift=0.0):
    return units(n, d, 2 * seed, shift), units(n, d, 2 * seed + 1, shift)


def equations(v):
    """A of Eq. 9 as the paper writes it: N x d^2, entry V_ij V_ik."""
    return np.stack([np.kron(row, row) for row in v])


def paper(s, d):
    """S_intra by Eq. 5 to 10 with numpy's SVD and least squares, all matrices formed."""
    v = np.linalg.svd(s)[2][:d].T
    x = np.linalg.lstsq(equations(v), np.ones(len(v)))[0]
    return v @ x.reshape(d, d) @ v.T


def projector(v):
    return v @ np.linalg.pinv(v)


# ---------------------------------------------------------------- the system


@given(st.integers(1, 9), st.integers(0, 99))
def test_symmetric_matrices_as_vectors_keep_their_length(d, seed):
    q = np.random.default_rng(seed).normal(size=(d, d))
    q = q + q.T
    x = dof.as_vector(q)
    assert x.shape == (dof.unknowns(d),)
    assert np.linalg.norm(x) == pytest.approx(np.linalg.norm(q))
    np.testing.assert_allclose(dof.as_symmetric(x, d), q)


@pytest.mark.parametrize("block", [3, 4096])
def test_the_products_are_those_of_the_papers_matrix(block, monkeypatch):
    monkeypatch.setattr(dof, "BLOCK", block)
    v, q, r = np.random.default_rng(0).normal(size=(10, 4)), np.diag([1.0, 2, 3, 4]) + 0.5, np.arange(10.0) - 4
    system = dof.norm_equations(v)
    assert system.shape == (10, 10)
    np.testing.assert_allclose(system.matvec(dof.as_vector(q)), equations(v) @ q.ravel())
    np.testing.assert_allclose(system.rmatvec(r), dof.as_vector((equations(v).T @ r).reshape(4, 4)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [12, 21, 60])  # of 21 unknowns: too few, just enough, plenty
def test_solvers_find_the_least_squares_solution_of_least_norm(n, order):
    v = np.asarray(np.random.default_rng(n).normal(size=(n, 6)), order=order)
    expected = np.linalg.lstsq(equations(v), np.ones(n))[0].reshape(6, 6)
    np.testing.assert_allclose(dof.solve_norms(v)[0], expected, atol=1e-8)
    np.testing.assert_allclose(dof.solve_norms_directly(v), expected, atol=1e-9)


@settings(deadline=None, max_examples=20)
@given(d=st.integers(1, 8), seed=st.integers(0, 999), shift=st.floats(0, 2))
def test_similarities_come_back(d, seed, shift):
    images, texts = pairs(3 * dof.unknowns(d) + 2, d, seed, shift)
    found = dof.recover(texts @ images.T, d, seed=seed)
    np.testing.assert_allclose(found[:], images @ images.T, atol=1e-7)
    assert found.residual() < 1e-8


def test_recovery_is_that_of_the_paper_with_fewer_texts_than_images():
    images, texts = units(80, 5), units(30, 5, seed=1)
    s = texts @ images.T
    found = dof.recover(s, 5)
    np.testing.assert_allclose(found[:], paper(s, 5), atol=1e-9)
    np.testing.assert_allclose(found[[3, 5]], found[:][[3, 5]])


# ---------------------------------------------------------------- the column space


@pytest.mark.parametrize("rounds", [0, 4])
@pytest.mark.parametrize("wrap", [np.asarray, aslinearoperator])
def test_the_column_space_is_that_of_the_images(wrap, rounds):
    images, texts = units(70, 6), units(40, 6, seed=1)
    v = dof.column_space(wrap(texts @ images.T), 6, rounds=rounds)
    np.testing.assert_allclose(v.T @ v, 70 * np.eye(6), atol=1e-9)
    np.testing.assert_allclose(projector(v), projector(images), atol=1e-9)


def test_with_noise_it_is_that_of_the_largest_singular_values():
    images, texts = pairs(120, 6)
    s = texts @ images.T + 0.02 * np.random.default_rng(0).normal(size=(120, 120))
    v = dof.column_space(s, 6, rounds=8)
    np.testing.assert_allclose(projector(v), projector(np.linalg.svd(s)[2][:6].T), atol=1e-6)


def test_the_seed_does_not_matter_to_the_result():
    s = units(60, 5, 1) @ units(60, 5).T
    assert not np.allclose(dof.column_space(s, 5), dof.column_space(s, 5, seed=1))
    np.testing.assert_allclose(dof.recover(s, 5)[:], dof.recover(s, 5, seed=1)[:], atol=1e-9)


@pytest.mark.parametrize(
    ("s", "d", "message"),
    [
        (np.full((9, 9), np.nan), 2, "similarities hold NaN"),
        (np.ones(9), 2, r"not of shape \(9,\)"),
        (np.ones((9, 0)), 2, r"not of shape \(9, 0\)"),
        (np.ones((9, 9)), 10, "can't have rank 10"),
        (np.ones((9, 9)), 0, "can't have rank 0"),
        (np.ones((9, 9)), 2, "rank 1, which is less than d = 2"),
        (aslinearoperator(np.full((9, 9), np.nan)), 2, "hold NaN"),
    ],
)
def test_bad_similarities_are_refused(s, d, message):
    with pytest.raises(CrossgapError, match=message):
        dof.column_space(s, d)


def test_too_few_images_are_refused_with_the_number_that_it_takes():
    s = units(20, 4, 1) @ units(9, 4).T
    with pytest.raises(CrossgapError, match="9 images give 9 equations for 10 unknowns: at least 10 images"):
        dof.recover(s, 4)
    with pytest.raises(CrossgapError, match="at least 10 images"):
        dof.benchmark(4, 9)
    with pytest.raises(CrossgapError, match="rows of V hold NaN"):
        dof.solve_norms(np.full((3, 2), np.nan))


# ---------------------------------------------------------------- anchors


def test_anchors_solve_eq_2():
    images, texts = units(30, 7), units(7, 7, seed=1)
    s = texts @ images.T
    np.testing.assert_allclose(dof.from_anchors(texts, s), np.linalg.solve(texts, s).T, atol=1e-9)
    np.testing.assert_allclose(dof.from_anchors(texts, s), images, atol=1e-9)


@pytest.mark.parametrize(("k", "cutoff"), [(5, 0.0), (20, 0.0), (20, 1.5)])
def test_anchors_that_leave_directions_out_give_the_pseudo_inverse(k, cutoff):
    texts = units(k, 7)
    s = np.random.default_rng(0).normal(size=(k, 4))
    singular = np.linalg.svd(texts, compute_uv=False)
    assert (singular.min() < cutoff < singular.max()) == (cutoff > 0)
    expected = np.linalg.pinv(texts, rcond=cutoff / singular[0]) @ s
    np.testing.assert_allclose(dof.from_anchors(texts, s, cutoff), expected.T, atol=1e-9)


def test_anchors_are_described_by_numpys_condition_number_and_rank():
    texts = units(20, 7)
    anchors = dof.describe_anchors(texts)
    assert anchors.condition == pytest.approx(np.linalg.cond(texts))
    assert anchors.rank() == 7
    assert dof.describe_anchors(texts[:5]).condition == np.inf
    in_a_plane = dof.describe_anchors(units(7, 2) @ np.eye(2, 7))  # all different, and far from invertible
    assert in_a_plane.rank() == 2
    assert in_a_plane.condition > 1e12


def test_bad_anchors_are_refused():
    with pytest.raises(CrossgapError, match="3 anchors do not go with similarities to 4 texts"):
        dof.from_anchors(np.ones((3, 2)), np.ones((4, 5)))
    with pytest.raises(CrossgapError, match="anchors hold NaN"):
        dof.describe_anchors(np.array([[np.inf, 1]]))


# ---------------------------------------------------------------- how many images


def test_the_error_falls_at_as_many_images_as_unknowns():
    table = sweeps.sweep(sweeps.without_anchors, d=[32], n=[520, 540], seed=[0, 1]).groupby("n")["rms"]
    assert table.min()[520] > 1e-3
    assert table.max()[540] < 1e-12
    images, texts = pairs(540, 32)
    v = dof.column_space(texts @ images.T, 32)
    np.testing.assert_allclose(v @ dof.solve_norms(v)[0] @ v.T, images @ images.T, atol=1e-7)


def test_the_norms_of_texts_halve_the_number():
    n = round(0.55 * dof.unknowns(10))
    images, texts = pairs(n, 10, shift=0.5)
    v = dof.column_space(texts @ images.T, 10)
    q, left = dof.solve_both_norms(v, texts @ images.T @ v / n)
    assert left < 1e-9
    np.testing.assert_allclose(v @ q @ v.T, images @ images.T, atol=1e-8)
    assert np.abs(paper(texts @ images.T, 10) - images @ images.T).max() > 0.1


def test_with_fewer_there_is_another_solution():
    off = sweeps.another_solution(20, 10)
    assert max(off["S_inter"], off["norms"]) < 1e-12
    assert off["S_intra"] > 0.01
    with pytest.raises(CrossgapError, match="56 norms leave no freedom to 55 unknowns"):
        sweeps.another_solution(28, 10)


def test_sweeps_have_a_row_for_each_combination():
    table = sweeps.sweep(lambda n, seed: {"sum": n + seed}, n=(4, 5), seed=[0, 1])
    assert table.to_dict("list") == {"n": [4, 4, 5, 5], "seed": [0, 1, 0, 1], "sum": [4, 5, 5, 6]}


def test_the_norms_of_both_sides_are_asked_for_by_name():
    n = round(0.7 * dof.unknowns(6))
    alone, both = (sweeps.without_anchors(d=6, n=n, norms=norms, seed=1)["rms"] for norms in ("images", "both"))
    assert alone > 1e-3 > 1e-9 > both


def test_the_slider_moves_the_figure_to_the_number_of_images():
    table = sweeps.sweep(sweeps.without_anchors, d=[4], n=[6, 20], norms=["images"], seed=[0, 1])
    states = {n: sweeps.recovered_pairs(4, n) for n in (6, 20)}
    figure, move = plots.recovery_state(table, states)
    moved = [line for ax in figure.axes for line in ax.lines if line.get_animated()]
    for n in (20, 6):
        move(n)
        mark, dots = (line.get_xydata() for line in moved)
        assert mark.tolist() == [[n, table[table["n"] == n]["rms"].median()]]
        assert np.array_equal(np.sort(dots[:, 1]), np.sort(states[n][1]))


# ---------------------------------------------------------------- noise, agreement


def test_errors_are_proportional_to_noise_and_fall_with_images():
    table = sweeps.sweep(sweeps.without_anchors, d=[6], n=[50, 400], noise=[1e-6, 1e-4])
    table = table.set_index(["n", "noise"])["rms"]
    assert table[50, 1e-4] / table[50, 1e-6] == pytest.approx(100, rel=0.1)
    assert table[400, 1e-4] < table[50, 1e-4] / 2


def test_other_pairs_leave_out_doubles_and_the_own_row():
    images = units(5, 3)
    own, found = sweeps.other_pairs(images, 2 * (images[:2] @ images.T))
    expected = [images[i] @ images[j] for i, j in ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (1, 3), (1, 4))]
    np.testing.assert_allclose(own, expected)
    np.testing.assert_allclose(found, 2 * own)
    assert sweeps.agreement(own, found)["pearson"] == pytest.approx(1)
    assert sweeps.agreement(own, found)["rms"] == pytest.approx(np.sqrt(np.mean(own**2)))
    noisy = own + np.array([0.1, -0.2, 0.0, 0.3, 0.1, -0.1, 0.2])
    assert sweeps.agreement(own, noisy)["slope"] == pytest.approx(np.polyfit(own, noisy, 1)[0])


def test_unit_rows_are_of_unit_norm_in_float64():
    rows = sweeps.unit_rows(Embeddings(units(9, 4)))
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-15)


# ---------------------------------------------------------------- readouts


def test_readouts_are_those_of_torch():
    s = units(6, 4, 1) @ units(5, 4).T
    logits = torch.from_numpy(10 * s)
    np.testing.assert_allclose(sweeps.readout(s, "softmax over texts", 10), logits.softmax(0))
    np.testing.assert_allclose(sweeps.readout(s, "softmax over images", 10), logits.softmax(1))
    np.testing.assert_allclose(sweeps.readout(s, "sigmoid", 10, -3), (logits - 3).sigmoid())
    with pytest.raises(CrossgapError, match="'tanh' is no readout"):
        sweeps.readout(s, "tanh")


def test_log_odds_undo_the_sigmoid_and_end_at_the_noise():
    x = np.linspace(-20, 20, 9)
    np.testing.assert_allclose(dof.log_odds(1 / (1 + np.exp(-x))), x, rtol=1e-6)
    assert np.isfinite(dof.log_odds(np.array([0.0, 1.0]))).all()
    assert dof.log_odds(np.array([0.0]), noise=0.1)[0] == pytest.approx(np.log(1 / 9))


@pytest.mark.parametrize("name", ["sigmoid", "softmax over texts"])
def test_readouts_that_determine_everything(name):
    images, texts = pairs(120, 6, shift=0.7)
    p = sweeps.readout(texts @ images.T, name, 10, -5)
    np.testing.assert_allclose(sweeps.from_readout(p, name, 6, 10, -5)[:], images @ images.T, atol=1e-8)


def test_a_softmax_over_images_leaves_one_parameter_and_the_order():
    images, texts = pairs(150, 6, shift=0.7)
    own = images @ images.T
    log_p = np.log(sweeps.readout(texts @ images.T, "softmax over images", 10))
    found = dof.from_image_softmax(log_p, 10, 6)
    one_less = (1 - found[:]) / (1 - own + np.eye(150))  # (1 - t) off the diagonal, as 1 stays 1
    t = 1 - one_less[0, 1]
    assert abs(t) > 1e-3
    np.testing.assert_allclose(found[:], (1 - t) * own + t, atol=1e-8)
    assert np.linalg.matrix_rank(equations(found.v)) == dof.unknowns(7) - 1
    np.testing.assert_allclose(dof.in_d_dimensions(found)[:], own, atol=1e-8)


def test_exact_readouts_tell_the_order_and_all_but_one_the_similarities():
    table = sweeps.sweep(partial(sweeps.exact_readout, 5, 80), name=sweeps.READOUTS, in_d=[False]).set_index("name")
    assert (table["pearson"] > 1 - 1e-9).all()
    last = table.loc["softmax over images"]
    assert table["rms"].drop("softmax over images").max() < 1e-8 < last["rms"]
    assert abs(last["slope"] - 1) > 1e-3
    assert sweeps.exact_readout(5, 80, "softmax over images", in_d=True)["rms"] < 1e-8


def test_softmaxes_want_enough_images_and_numbers():
    with pytest.raises(CrossgapError, match="20 images give 20 equations for 27 unknowns"):
        dof.from_image_softmax(np.zeros((30, 20)), 10, 6)
    with pytest.raises(CrossgapError, match="log-probabilities hold NaN"):
        dof.from_text_softmax(np.full((30, 30), -np.inf), 10, 3)


def test_noise_on_probabilities_spares_the_small_scale_longer():
    images, texts = sweeps.random_pairs(120, 5, 0)
    run = partial(sweeps.noisy_readout, images, texts, 5)
    table = sweeps.sweep(run, name=sweeps.READOUTS[:2], scale=[5, 100], noise=[0, 1e-9])
    table = table.set_index(["name", "scale", "noise"])
    softmax = table.loc["softmax over texts"]
    assert softmax["pearson"][5, 1e-9] > 0.9999 > 0.9 > softmax["pearson"][100, 1e-9]
    assert softmax["above"][5, 1e-9] == 120 > softmax["above"][100, 1e-9]
    assert table["rms"]["softmax over texts", 100, 0] < 1e-8


# ---------------------------------------------------------------- at size


def test_random_units_are_the_same_however_they_are_cut(monkeypatch):
    monkeypatch.setattr(dof, "BLOCK", 8)
    rows = dof.RandomUnits(20, 3, seed=4)
    whole = np.concatenate([rows[k : k + 8] for k in (0, 8, 16)])
    assert whole.shape == (20, 3)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1)
    np.testing.assert_array_equal(rows[:5], whole[:5])
    assert len(np.unique(whole)) == whole.size
    assert not np.allclose(rows[:5], dof.RandomUnits(20, 3, seed=5)[:5])
    y = np.random.default_rng(0).normal(size=(20, 2))
    other = dof.RandomUnits(20, 3, seed=5)
    texts = np.concatenate([other[k : k + 8] for k in (0, 8, 16)])
    np.testing.assert_allclose(dof.products(other, rows).rmatmat(y), (texts @ whole.T).T @ y)
    with pytest.raises(CrossgapError, match="no 0 unit vectors"):
        dof.RandomUnits(0, 3)


def test_errors_are_counted_block_by_block(monkeypatch):
    images, found = units(50, 4), dof.Recovery(units(50, 4, seed=1), np.diag([1.0, 2, 3, 4]))
    off = (found[:10] - images[:10] @ images.T)[np.arange(10)[:, None] != np.arange(50)]
    expected = np.sqrt((off**2).mean()), np.abs(off).max()
    for block in (16, 4096):
        monkeypatch.setattr(dof, "BLOCK", block)
        assert dof.largest_error(found, images, n_rows=10) == pytest.approx(expected)


def test_the_benchmark_measures_a_recovery():
    found = dof.benchmark(6, 300)
    assert (found["n"], found["unknowns"]) == (300, 21)
    assert found["rms"] <= found["largest"] < 1e-7
    assert found["residual"] < 1e-7
    assert 0 < found["iterations"] < 200
    assert found["seconds"] >= found["seconds_space"] + found["seconds_solve"]


# ---------------------------------------------------------------- features


def test_captions_that_repeat_are_one_anchor():
    texts = units(6, 4)[[0, 1, 1, 2, 0, 3]]
    rows = sweeps.distinct_rows(texts, 99)
    assert len(rows) == 4
    assert len(np.unique(texts[rows], axis=0)) == 4
    assert len(sweeps.distinct_rows(texts, 2)) == 2


def test_weak_directions_are_lost_to_noise_and_can_be_dropped():
    images, texts = pairs(100, 6)
    texts[:, 5] *= 1e-4  # no caption says anything about the last direction
    rms = {drop: sweeps.with_anchors(images, texts, 100, 1e-2, drop)["rms"] for drop in (False, True)}
    assert sweeps.with_anchors(images, texts, 100)["rms"] < 1e-9
    assert rms[False] > 1 > 0.3 > rms[True]


def test_strong_directions_alone():
    images, texts = pairs(200, 12)
    for x in (images, texts):
        x[:, 4:] *= 1e-3
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    found = {(k, noise): sweeps.strongest_directions(images, texts, k, noise) for k, noise in ((2, 0), (4, 1e-3))}
    assert found[4, 1e-3]["pearson"] > 0.999 > found[2, 0]["pearson"]


def test_500_captions_of_real_clip_are_poor_anchors(real_folder):
    images, texts = (sweeps.unit_rows(side) for side in load_pair(real_folder / "clip_vitb16_coco500.npz"))
    anchors = dof.describe_anchors(texts)
    assert (anchors.d, len(anchors.singular), anchors.condition) == (512, 500, np.inf)  # twelve ranks short at least
    assert anchors.singular[0] / anchors.singular[-1] == pytest.approx(1.12e4, rel=0.01)
    run = partial(sweeps.with_anchors, images, texts, 500)
    assert run()["rms"] > 0.05
    assert run(noise=1e-3)["pearson"] < 0.2
    assert run(noise=1e-3, drop=True)["pearson"] > 0.9
