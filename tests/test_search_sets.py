"""Texts to search, as encoded sets, and the protocol's switches: against plain loops."""

import numpy as np
import pandas as pd
import pytest

from crossgap_lib import metrics, tasks
from crossgap_lib.datasets import world
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError


def test_captions_of_the_world_are_searched(mini):
    queries, gallery, options = tasks.texts_to_search(mini, "world:all", n_texts=6, n_captions=3)
    assert (len(queries), len(gallery), options) == (6, 18, {"self_match": "remove"})
    others = tasks.texts_to_search(mini, "world:all", n_texts=6, n_captions=3, first_captions="out")[1]
    assert set(gallery.ids) - set(others.ids) == set(queries.ids)
    assert tasks.texts_to_search(mini, "world:all", n_texts=6, n_captions=1) is None
    with pytest.raises(CrossgapError, match="'in' or 'out'"):
        tasks.texts_to_search(mini, "world:all", first_captions="maybe")


def test_named_texts_keep_their_judgements_when_drawn(mini, tmp_path):
    for part, rows in {
        "corpus": [{"_id": f"c{k}", "text": f"a {kind}"} for k, kind in enumerate(("dog", "cat", "fish", "tree"))],
        "queries": [{"_id": f"q{k}", "text": f"a photo of a {kind}"} for k, kind in enumerate(("tree", "dog", "cat"))],
        "qrels": [{"query-id": "q0", "corpus-id": "c3"}, {"query-id": "q1", "corpus-id": "c0"}]
        + [{"query-id": "q2", "corpus-id": c} for c in ("c1", "c2")],
    }.items():
        (tmp_path / part).mkdir()
        pd.DataFrame(rows).to_parquet(tmp_path / part / "train-00000-of-00001.parquet")
    queries, gallery, options = tasks.texts_to_search(mini, f"nano-fever:{tmp_path}", n_texts=2, seed=3)
    wanted = {"a photo of a tree": {"a tree"}, "a photo of a dog": {"a dog"}, "a photo of a cat": {"a cat", "a fish"}}
    for text, row in zip(queries.texts, options["relevant"], strict=True):
        assert set(gallery.texts[row]) == wanted[text]
    assert metrics.retrieval(queries, gallery, **options).means["ap"] > 0.7


def test_zero_takes_all_texts(mini, monkeypatch):
    """A world of its own size: 2400 pictures with two captions each would take long to encode."""
    monkeypatch.setitem(world.SETS, "all", (world.SETS["all"][0], 7))
    queries, gallery, _ = tasks.texts_to_search(mini, "world:all", n_texts=0, n_captions=2)
    assert (len(queries), len(gallery)) == (7, 14)


# ---------------------------------------------------------------- the protocol


def test_both_protocols_are_named_and_differ_where_they_say():
    table = tasks.protocol_table(tasks.protocol("paper"))
    assert (table["used here"] == table["paper"]).iloc[:8].all()
    differ = table["paper"] != table["released code"]
    changed = ["mAP@R", "R-Precision", "a query alone in its class", "Flickr30k and COCO", "ROxford and RParis queries"]
    assert differ.loc[["the query in its own gallery", *changed]].all()
    with pytest.raises(CrossgapError, match="Did you mean: paper"):
        tasks.protocol("papers")


def test_the_released_code_cuts_at_r_and_divides_by_r_minus_one():
    """R counts the query, which is removed. R-Precision is as without it; a query alone in its class keeps AP 0."""
    rng = np.random.default_rng(0)
    x = Embeddings(rng.normal(size=(15, 4)), labels=[7, *rng.integers(0, 3, 14)])
    ours, theirs = (metrics.retrieval(x, x, self_match=how) for how in ("remove", "count"))
    assert (ours.rows.tolist(), theirs.rows.tolist()) == (list(range(1, 15)), list(range(15)))
    assert (ours.dropped, theirs.dropped, theirs.n_relevant[0]) == (1, 0, 0)
    assert {name: values[0] for name, values in theirs.per_query.items()} == dict.fromkeys(theirs.per_query, 0)
    np.testing.assert_array_equal(ours.ap, theirs.ap[1:])
    np.testing.assert_array_equal(ours.r_precision, theirs.r_precision[1:])
    scores = (x.features.double() @ x.features.double().T).numpy()
    for row in range(1, 15):
        others = np.arange(15) != row
        relevant = (x.labels == x.labels[row])[others][np.argsort(-scores[row, others])]
        r = relevant.sum() + 1  # the query counts
        precision = [relevant[: k + 1].mean() for k in range(r) if relevant[k]]
        assert theirs.map_at_r[row] == pytest.approx(sum(precision) / min(r - 1, r))
        assert theirs.r_precision[row] == pytest.approx(relevant[: r - 1].mean())
    assert (theirs.map_at_r[1:] > ours.map_at_r).any()
    assert "keeps AP 0" in theirs.definition


def test_the_readings_of_reevaluating_stand_in_one_table():
    table = tasks.reevaluating_table()
    assert list(table.columns) == ["used here", "paper", "released code"]
    assert (table["used here"] != "").all()
    offered = table.loc["prompts and prototypes, weighed 1:1", "used here"]
    assert all(method.name in offered for method in tasks.one_to_one())
