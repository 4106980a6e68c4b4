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
    [
        ("CLIP ViT-B/32", "Original", "Average", 41.6),
        ("CLIP ViT-B/32", "PCA", "Average", 49.0),
        ("CLIP ViT-B/32", "Original", "Pets", 31.2),
        ("CLIP ViT-L/14", "Original", "Average", 53.7),
        ("CLIP ViT-B/16", "Original", "Dogs vs Cats", 87.1),
    ],
    columns=["model", "method", "dataset", "value"],
)


def beside(model, data):
    """Method -> published value."""
    rows = pd.DataFrame({"method": ["Original", "OTI", "PCA"], "model": model, "data": data})
    return tasks.beside_published(rows, REPORTED).set_index("method")["published"].dropna().to_dict()


def test_published_values_stand_beside_the_same_set_and_the_model_that_a_mini_stands_in_for():
    assert beside("mini-clip", "world:all") == {"Original": 41.6, "PCA": 49.0}
    assert beside("ViT-B-32-quickgelu,openai", "oxford-pets:/somewhere") == {"Original": 31.2}
    assert beside("ViT-L-14,openai", "folder:/somewhere") == {"Original": 53.7}


def test_dogs_vs_cats_stands_beside_its_own_table_which_has_other_patches():
    for data in ("world:dogs-vs-cats", "dogs-vs-cats:/somewhere"):
        assert beside("mini-clip", data) == {"Original": 87.1}


def test_what_nobody_published_stays_empty():
    assert beside("mini-siglip", "world:all") == {}
    assert beside("mini-siglip", "world:dogs-vs-cats") == {}
    assert beside("a model of mine", "world:all") == {}


def test_only_the_sure_winner_is_bold():
    html = tasks.bold_table(tasks.gain_table(VALUES, "Original").assign(model="m"), ["model"]).to_html()
    assert html.count("font-weight: bold") == 1
