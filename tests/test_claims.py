"""Verdicts: each rule against intervals whose answer is plain, effect sizes against scipy's t statistic."""

from math import inf, nan

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from crossgap_lib import tasks
from crossgap_lib.errors import CrossgapError


@pytest.mark.parametrize(
    ("here", "bounds", "verdict"),
    [
        ((2.0, 1.0, 3.0), {"above": 0}, "holds"),
        ((-2.0, -3.0, -1.0), {"above": 0}, "does not hold"),
        ((0.5, -0.5, 1.5), {"above": 0}, "not sure"),
        ((0.0, 0.0, 0.0), {"above": 0}, "not sure"),
        ((5.0, 5.0, 5.0), {"above": 0}, "not sure"),  # nothing varied, so nothing is known of what varies
        ((0.2, 0.1, 0.3), {"below": 0.5}, "holds"),
        ((0.2, -0.4, 0.8), {"above": -1, "below": 1}, "holds"),
        ((2.0, 1.5, 2.5), {"above": -1, "below": 1}, "does not hold"),
        ((1.0, 0.5, 1.5), {"above": -1, "below": 1}, "not sure"),
        ((nan, nan, nan), {"above": 0}, "not testable here"),
        ((1.0, nan, nan), {"above": 0}, "not testable here"),
    ],
)
def test_verdicts(here, bounds, verdict):
    assert tasks.judge(tasks.Measured(*here), **bounds) == verdict


def test_a_claim_that_nothing_could_contradict_is_refused():
    with pytest.raises(CrossgapError, match="needs a bound"):
        tasks.judge(tasks.Measured(1.0, 0.0, 2.0))


@given(st.floats(-9, 9), st.floats(0.01, 5), st.floats(-5, 5))
def test_a_claim_and_its_opposite_never_both_hold(value, width, bound):
    here = tasks.Measured(value, value - width, value + width)
    both = {tasks.judge(here, above=bound), tasks.judge(here, below=bound)}
    assert both in ({"holds", "does not hold"}, {"not sure"})


@pytest.fixture
def claims():
    return tasks.Claims("02_loss", "mini-clip, 50 queries, seed 0")


YES, NO, OPEN = (2.0, 1.0, 3.0), (-2.0, -3.0, -1.0), (0.5, -0.5, 1.5)


@pytest.mark.parametrize(
    ("parts", "verdict"),
    [
        ({"a": YES, "b": YES}, "holds"),
        ({"a": YES, "b": NO}, "split"),
        ({"a": YES, "b": NO, "c": OPEN}, "split"),
        ({"a": YES, "b": OPEN}, "not sure"),
        ({"a": NO, "b": NO, "c": (nan, nan, nan)}, "does not hold"),
        ({"a": (nan, nan, nan)}, "not testable here"),
    ],
)
def test_several_models_give_one_verdict(claims, parts, verdict):
    claims.add("it gains", "a paper", parts, above=0)
    assert claims.rows[-1]["verdict"] == verdict


def test_a_claim_that_nothing_was_measured_for_says_why(claims):
    claims.add("it gains", "a paper", {}, above=0, otherwise="there are no captions", published="+1", figure="curves")
    claims.untestable("it gains", "a paper", "there are no captions", published="+1", figure="curves")
    assert claims.rows[0] == pytest.approx(claims.rows[1], nan_ok=True)
    assert claims.rows[0]["verdict"] == "not testable here"
    claims.add("it gains", "a paper", {}, above=0)
    assert claims.rows[-1]["here"] == "the parameters of this run do not ask for it"


def test_rows_are_written_and_read_again(claims, tmp_path):
    claims.add("it gains", "Fig. 2", YES, above=0, published="+3.1", unit="points", over="50 queries", figure="curves")
    claims.untestable("it stays", "Fig. 3", "there are no captions")
    folder = tmp_path / "02_loss"
    folder.mkdir()
    claims.table(folder)
    (tmp_path / "03_gap").mkdir()
    other = tasks.Claims("03_gap", "mini-clip")
    other.add("a gap", "Table A2", NO, below=0)
    other.table(tmp_path / "03_gap")
    found = tasks.read_claims(tmp_path)
    assert found["verdict"].tolist() == ["holds", "not testable here", "holds"]
    assert found["here"].tolist() == ["+2.0 (+1.0 to +3.0) points", "there are no captions", "-2.0 (-3.0 to -1.0)"]
    assert found.loc[0, ["low", "high"]].astype(float).tolist() == [1.0, 3.0]
    assert tasks.read_claims(tmp_path / "nothing").empty


def test_names_are_words_and_never_html(claims, tmp_path):
    claims.add("<script>alert(1)</script>", "a & b", {"<b>model</b>": YES}, above=0)
    page = claims.table(tmp_path).to_html()
    assert "<script>" not in page
    assert "<b>" not in page
    assert "&lt;b&gt;model" in page


def test_gains_are_paired_and_their_effect_is_that_of_a_t_test():
    rng = np.random.default_rng(0)
    native = rng.random(80)
    better = native + 0.05 + 0.02 * rng.standard_normal(80)
    found = tasks.gain(better, native)
    assert found.value == pytest.approx(100 * (better - native).mean())
    assert found.effect == pytest.approx(stats.ttest_rel(better, native).statistic / np.sqrt(80))
    assert np.isnan(tasks.gain(native, native).effect)


def test_a_setting_is_never_scored_on_the_queries_that_chose_it():
    """Noise alone: the best of many settings gains where it was chosen, and nothing on other queries."""
    rng = np.random.default_rng(0)
    values = {k: rng.standard_normal(40) for k in range(200)}
    ids = np.array([f"q{k:02d}" for k in range(40)])
    scores, chosen = tasks.chosen_elsewhere(values, ids)
    oracle = max(v.mean() for v in values.values())
    assert oracle > 0.35
    assert abs(scores.mean()) < 0.3 < oracle
    for half in (0, 1):  # each half's setting is the best one of the other half
        mine = np.isclose(scores, values[chosen[half]])
        assert mine.sum() >= 20
        best = max(values, key=lambda k, others=~mine: values[k][others].mean())
        assert chosen[half] == best or chosen[0] == chosen[1]
    order = rng.permutation(40)
    again, same = tasks.chosen_elsewhere({k: v[order] for k, v in values.items()}, ids[order])
    assert same == chosen
    assert np.array_equal(again, scores[order])
    with pytest.raises(CrossgapError, match="two queries"):
        tasks.chosen_elsewhere({0: np.ones(1)}, ids[:1])


def test_numbers_without_an_effect_leave_it_out(claims, tmp_path):
    claims.add(
        "a", "b", {"x": tasks.Measured(1, 0.5, 2, 0.4), "y": tasks.Measured(1, 0.5, 2, 0.9)}, above=-inf, below=9
    )
    claims.add("a", "b", YES, above=0)
    claims.table(tmp_path)
    assert pd.read_csv(tmp_path / "claims.csv", keep_default_na=False)["effect"].tolist() == ["+0.40 to +0.90", ""]


def test_the_share_of_answers_that_all_agree_still_has_an_interval():
    found = tasks.measured(np.ones(600, dtype=bool))
    z = stats.norm.ppf(0.975)
    assert found[:3] == pytest.approx((100, 100 / (1 + z**2 / 600), 100))  # Wilson 1927, all of n successes
    half = tasks.measured(np.arange(40) % 2 == 0)
    assert half.value == 50
    assert half.low == pytest.approx(100 - half.high)
