"""Paired tables: means and intervals by hand, the rule for bold, and published numbers in the right cells."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crossgap_lib import tasks
from crossgap_lib.errors import CrossgapError

N, RNG = 300, np.random.default_rng(0)
NATIVE = RNG.random(N)
VALUES = {"Original": NATIVE, "better": np.clip(NATIVE + 0.1, 0, None), "noise": RNG.random(N)}


def test_numbers_are_percent_and_gains_are_paired():
    table = tasks.gain_table(VALUES, "Original").set_index("method")
    assert table.loc["better", "value"] == pytest.approx(100 * VALUES["better"].mean())
    assert table.loc["better", ["gain", "gain low", "gain high"]].tolist() == pytest.approx([10, 10, 10])
    assert np.isnan(table.loc["Original", "gain"])
    assert table["n"].unique().tolist() == [N]
    assert table["sure"].to_dict() == {"Original": False, "better": True, "noise": False}


def test_interval_is_the_bootstraps():
    row = tasks.gain_table(VALUES, "Original", seed=3).set_index("method").loc["noise"]
    rng, draws = np.random.default_rng(11), []
    for _ in range(4000):
        draws.append(100 * (VALUES["noise"] - NATIVE)[rng.integers(0, N, N)].mean())
    assert row[["gain low", "gain high"]].tolist() == pytest.approx(np.quantile(draws, [0.025, 0.975]), abs=1.0)


def test_best_must_be_surely_above_every_other():
    best = lambda values: tasks.gain_table(values, "Original").set_index("method")["best"].to_dict()  # noqa: E731
    assert best(VALUES) == {"Original": False, "better": True, "noise": False}
    doubt = VALUES | {"rival": VALUES["better"] + RNG.normal(0, 0.3, N)}
    assert not any(best(doubt).values()), "a rival within the noise leaves nobody surely first"


@given(st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_order_of_methods_does_not_matter(seed):
    rng = np.random.default_rng(seed)
    values = {name: rng.random(12) for name in "abc"}
    one = tasks.gain_table(values, "a").set_index("method").sort_index()
    other = tasks.gain_table(dict(reversed(values.items())), "a").set_index("method").sort_index()
    pd.testing.assert_frame_equal(one, other)


def test_bad_input_is_one_sentence():
    with pytest.raises(CrossgapError, match="no method 'native'"):
        tasks.gain_table(VALUES, "native")
    with pytest.raises(CrossgapError, match="not the same"):
        tasks.gain_table(VALUES | {"short": NATIVE[:5]}, "Original")


REPORTED = pd.DataFrame(
    {"model": ["m"] * 3, "method": ["Original", "better", "noise"], "value": [40.0, 35.0, 50.0], "table": ["1"] * 3}
)


def test_published_values_stand_beside_their_own_method():
    measured = tasks.gain_table(VALUES, "Original").assign(model="m")
    table = tasks.with_published(measured, REPORTED, baseline="Original", on=["model"]).set_index("method")
    assert table["published"].to_dict() == {"Original": 40.0, "better": 35.0, "noise": 50.0}
    assert table.loc["better", "published gain"] == -5
    assert table["gains agree"].to_dict() == {"Original": "", "better": "no", "noise": "not sure"}
    plain = tasks.with_published(measured, REPORTED, baseline="Original").set_index("method")
    assert plain["published gain"].drop("Original").to_dict() == {"better": -5.0, "noise": 10.0}
    said = tasks.agreement_sentence(table.reset_index())
    assert said == "Of 2 published gains 0 have the same sign here, 1 the opposite one, 1 are not sure."


def test_what_nobody_published_stays_empty():
    measured = tasks.gain_table(VALUES, "Original").assign(model="other")
    table = tasks.with_published(measured, REPORTED, baseline="Original", on=["model"])
    assert table["published"].isna().all()
    assert (table["gains agree"] == "").all()
    assert tasks.agreement_sentence(table) == "Nothing is published to compare with."


def test_only_the_sure_winner_is_bold():
    html = tasks.bold_table(tasks.gain_table(VALUES, "Original").assign(model="m"), ["model"]).to_html()
    assert html.count("font-weight: bold") == 1
