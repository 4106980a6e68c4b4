"""Tasks made inter- or intra-modal: against plain loops over the same inverted features; the protocol's switches."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from crossgap_lib import metrics, tasks
from crossgap_lib.datasets import world
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import oti, ovi
from crossgap_lib.tasks.crossed import IMAGE_TO_TEXT, OVI, TEXT_TO_IMAGE
from crossgap_lib.tasks.methods import ORIGINAL, OTI

STEPS = {"oti_steps": 3, "ovi_steps": 2}


@pytest.fixture(scope="module")
def pictures(mini):
    """(images, first captions, all captions) of 12 pictures with 3 captions each."""
    photos = load_dataset("world:all", n=12, n_captions=3)
    return encode_images(mini, photos, cache=False), *tasks.caption_sets(mini, photos)


def ap_by_hand(scores, relevant):
    order = np.argsort(-scores)
    hits = relevant[order]
    return np.mean([hits[: k + 1].mean() for k in np.flatnonzero(hits)])


def test_text_text_queries_find_the_other_captions_of_their_picture(mini, pictures):
    _, firsts, captions = pictures
    found = tasks.text_text_methods(mini, firsts, captions, n_patches=2, steps=2, self_match="remove")
    inverted = ovi(mini, firsts, n_patches=2, steps=2, cache=False)
    for method, queries in ((ORIGINAL, firsts), (OVI, inverted)):
        scores = (queries.features @ captions.features.T).numpy()
        for row in range(len(firsts)):
            others = captions.ids != firsts.ids[row]
            expected = ap_by_hand(scores[row, others], captions.labels[others] == row)
            assert found[method].ap[row] == pytest.approx(expected, abs=1e-6)


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
    found = tasks.text_text_methods(mini, queries, gallery, steps=2, **options)
    assert found[ORIGINAL].means["ap"] > 0.7


def test_zero_shot_inverts_one_side_at_a_time(mini, pictures):
    images, *_ = pictures
    prompts = tasks.class_prompts(mini, images)
    found = tasks.zero_shot_methods(mini, images, prompts, **STEPS)
    texts, patches = oti(mini, images, steps=3, cache=False), ovi(mini, prompts, steps=2, cache=False)
    for method, x, y in ((ORIGINAL, images, prompts), (OTI, texts, prompts), (OVI, images, patches)):
        nearest = (x.features @ y.features.T).argmax(dim=1).numpy()
        np.testing.assert_array_equal(found[method], nearest == images.labels)
    other = Embeddings(prompts.features.flip(0), prompts.ids, prompts.labels, prompts.class_names, "text")
    swapped = tasks.zero_shot_methods(mini, images, prompts, ovi_prompts=other, **STEPS)
    assert (swapped[OTI] == found[OTI]).all()
    assert (swapped[OVI] != found[OVI]).any(), "OVI must invert the prompts it is given"


def test_image_text_hits_by_loop(mini, pictures):
    images, _, captions = pictures
    found = tasks.image_text_methods(mini, images, captions, n_images=5, n_texts=5, ks=(1, 2), seed=3, **STEPS)
    drawn = tasks.drawn_rows(images.ids, 5, seed=4)
    texts = captions[3 * drawn]
    pairs = {
        (IMAGE_TO_TEXT, ORIGINAL): (images[drawn], captions),
        (IMAGE_TO_TEXT, OTI): (oti(mini, images[drawn], steps=3, seed=3, cache=False), captions),
        (TEXT_TO_IMAGE, ORIGINAL): (texts, images),
        (TEXT_TO_IMAGE, OVI): (ovi(mini, texts, steps=2, seed=3, cache=False), images),
    }
    for (direction, method), (queries, gallery) in pairs.items():
        owner = captions.labels if direction == IMAGE_TO_TEXT else np.arange(12)
        top = (queries.features @ gallery.features.T).topk(2).indices.numpy()
        for k in (1, 2):
            expected = [drawn[row] in owner[top[row, :k]] for row in range(5)]
            assert found[direction][method].hit_at[k].tolist() == expected


def test_image_text_queries_do_not_depend_on_the_order_of_the_rows(mini, pictures):
    images, _, captions = pictures
    order = np.random.default_rng(1).permutation(12)
    at = np.argsort(order)  # where each picture went
    moved = np.concatenate([np.arange(3 * k, 3 * k + 3) for k in order])
    shuffled = replace(captions[moved], labels=at[captions.labels[moved]])
    how = {"n_images": 4, "n_texts": 5, **STEPS}
    found = tasks.image_text_methods(mini, images, captions, **how)
    again = tasks.image_text_methods(mini, images[order], shuffled, **how)
    for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE):
        np.testing.assert_allclose(again[direction][ORIGINAL].ap, found[direction][ORIGINAL].ap, atol=1e-6)


def test_zero_takes_all_image_text_queries(mini, pictures):
    images, _, captions = pictures
    found = tasks.image_text_methods(mini, images, captions, n_texts=0, **STEPS)
    assert [len(found[direction][ORIGINAL]) for direction in (IMAGE_TO_TEXT, TEXT_TO_IMAGE)] == [12, 12]


def test_zero_takes_all_texts(mini, monkeypatch):
    """A world of its own size: 2400 pictures with two captions each would take long to encode."""
    monkeypatch.setitem(world._SETS, "all", (world._SETS["all"][0], 7))
    queries, gallery, _ = tasks.texts_to_search(mini, "world:all", n_texts=0, n_captions=2)
    assert (len(queries), len(gallery)) == (7, 14)


def test_captions_must_belong_to_the_pictures(mini, pictures):
    images, _, captions = pictures
    with pytest.raises(CrossgapError, match="labelled by the row"):
        tasks.image_text_methods(mini, images[:4], captions, n_images=2, n_texts=2)
    with pytest.raises(CrossgapError, match="needs a caption"):
        tasks.image_text_methods(mini, images, captions[3:], n_images=2, n_texts=2)


# ---------------------------------------------------------------- the protocol


def test_both_protocols_are_named_and_differ_where_they_say():
    table = tasks.protocol_table(tasks.protocol("paper"))
    assert (table["used here"] == table["paper"]).iloc[:5].all()
    differ = table["paper"] != table["released code"]
    assert differ.loc[["the query in its own gallery", "Flickr30k and COCO", "ROxford and RParis queries"]].all()
    with pytest.raises(CrossgapError, match="Did you mean: paper"):
        tasks.protocol("papers")


def test_r_may_count_the_removed_query():
    rng = np.random.default_rng(0)
    x = Embeddings(rng.normal(size=(15, 4)), labels=rng.integers(0, 3, 15))
    ours, theirs = (metrics.retrieval(x, x, self_match=how) for how in ("remove", "count"))
    np.testing.assert_array_equal(ours.ap, theirs.ap)
    scores = (x.features.double() @ x.features.double().T).numpy()
    for row in range(15):
        others = np.arange(15) != row
        relevant = (x.labels == x.labels[row])[others][np.argsort(-scores[row, others])]
        r = relevant.sum() + 1  # the query counts
        precision = [relevant[: k + 1].mean() for k in range(min(r, 14)) if relevant[k]]
        assert theirs.map_at_r[row] == pytest.approx(sum(precision) / r)
        assert theirs.r_precision[row] == pytest.approx(relevant[:r].sum() / r)
    assert "counted in R" in theirs.definition


# ---------------------------------------------------------------- queries that are not part of the gallery


def test_methods_take_a_gallery_of_its_own(mini, pictures):
    images, *_ = pictures
    others = encode_images(mini, load_dataset("world:all/train", n=48), cache=False)
    prompts = tasks.class_prompts(mini, images)
    found = tasks.image_image_methods(mini, images, prompts, gallery=others, steps=4)
    scores = (images.features.double() @ others.features.double().T).numpy()
    kept = [row for row in range(len(images)) if (others.labels == images.labels[row]).any()]
    expected = [ap_by_hand(scores[row], others.labels == images.labels[row]) for row in kept]
    np.testing.assert_allclose(found[ORIGINAL].ap, expected, atol=1e-6)
    assert found[OTI].removed == 0
