"""Every way to compare images with images: against scikit-learn and against the parts they are made of."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from crossgap_lib import metrics, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.tasks.methods import ORIGINAL, OTI, OTI_BEST, OTI_CHOSEN
from crossgap_lib.tasks.methods import PCA as PROJECTED


@pytest.fixture(scope="module")
def found(mini, cats_and_dogs):
    _, images, _ = cats_and_dogs
    kinds = encode_texts(mini, [f"a photo of a {k}" for k in ("cat", "dog", "car", "fish", "tree")], cache=False)
    return tasks.image_image_methods(mini, images[:10], kinds, gallery=images, steps=6), images, kinds


def by_scikit_learn(queries, gallery):
    """(n,) average precision; a query is left out of its own gallery, and left out where nothing is relevant to it."""
    scores = queries.features.double().numpy() @ gallery.features.double().numpy().T
    aps = []
    for row, name in enumerate(queries.ids):
        rest = gallery.ids != name
        relevant = queries.labels[row] == gallery.labels[rest]
        if relevant.any():
            aps.append(average_precision_score(relevant, scores[row, rest]))
    return np.array(aps)


def projected_by_scikit_learn(images, kinds):
    axes = PCA().fit(kinds.features.double().numpy()).components_[:4]  # five prompts: four centred components
    features = images.features.double().numpy() @ axes.T
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return type(images)(features, images.ids, images.labels, images.class_names)


def test_every_method_is_scikit_learns(found, mini):
    aps, images, kinds = found
    np.testing.assert_allclose(aps[ORIGINAL], by_scikit_learn(images[:10], images), atol=1e-6)
    projected = projected_by_scikit_learn(images, kinds)
    np.testing.assert_allclose(aps[PROJECTED], by_scikit_learn(projected[:10], projected), atol=1e-5)
    inverted = oti(mini, images[:10], steps=6, cache=False)
    np.testing.assert_allclose(aps[OTI], by_scikit_learn(inverted, images), atol=2e-3)


def test_the_step_is_chosen_by_the_other_half_of_the_queries(found, mini):
    aps, images, _ = found
    run = oti(mini, images[:10], steps=6, snapshots=range(7), cache=False)
    along = {step: metrics.retrieval(run.at(step), images).ap for step in range(7)}
    best = max(along.values(), key=np.mean)
    np.testing.assert_allclose(aps[OTI_BEST], best, atol=2e-3)
    np.testing.assert_allclose(aps[OTI_CHOSEN], tasks.chosen_elsewhere(along, run.ids)[0], atol=2e-3)
    assert aps[OTI_BEST].mean() >= aps[OTI_CHOSEN].mean() - 1e-6


def test_without_prompts_there_is_the_original_alone(mini, cats_and_dogs):
    _, images, _ = cats_and_dogs
    assert list(tasks.image_image_methods(mini, images[:5], None, gallery=images)) == [ORIGINAL]


def test_what_is_done_after_the_encoder_is_done_to_all_that_is_compared(mini, cats_and_dogs):
    """Turning every feature by one rotation changes no similarity; turning those of texts alone changes OTI's."""
    _, images, _ = cats_and_dogs
    prompts = tasks.class_prompts(mini, images)
    turn = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(0)))[0]

    def turned(e):
        return replace(e, features=e.features @ turn)

    def texts_turned(e):
        return e if e.modality == "image" else turned(e)

    plain, same, other = (
        tasks.image_image_methods(mini, images[:10], prompts, gallery=images, steps=4, **how)
        for how in ({}, {"after": turned}, {"after": texts_turned})
    )
    for method, ap in plain.items():
        np.testing.assert_allclose(same[method], ap, atol=1e-3)
    np.testing.assert_array_equal(other["Original"], plain["Original"])
    assert not np.allclose(other["OTI"], plain["OTI"], atol=1e-2)
    assert not np.allclose(other["PCA"], plain["PCA"], atol=1e-2)


def test_queries_need_not_be_part_of_the_gallery(mini):
    images = encode_images(mini, load_dataset("world:all", n=12), cache=False)
    others = encode_images(mini, load_dataset("world:all/train", n=8), cache=False)
    aps = tasks.image_image_methods(mini, images, tasks.class_prompts(mini, images), gallery=others, steps=4)
    expected = by_scikit_learn(images, others)
    assert len(expected) < len(images), "some of these have nothing to find, and no method may count them"
    np.testing.assert_allclose(aps[ORIGINAL], expected, atol=1e-6)
    assert {len(values) for values in aps.values()} == {len(expected)}


def test_columns_of_table_1(cats_and_dogs):
    _, images, prompts = cats_and_dogs
    table = tasks.retrieval_and_shots(images, prompts, shots=(1, 16, 64)).set_index("column")
    assert list(table.index) == ["T-I mAP", "I-I mAP", "I-I R-Precision", "T-I 0-shot", "I-I 1-shot", "I-I 16-shot"]
    assert table.loc["I-I mAP", "value"] == pytest.approx(100 * metrics.mean_average_precision(images, images))
    assert table.loc["T-I mAP", "value"] == pytest.approx(100 * metrics.mean_average_precision(prompts, images))
    assert table.loc["T-I 0-shot", "value"] == pytest.approx(100 * metrics.zero_shot_accuracy(images, prompts))
    assert (table["low"].dropna() <= table["value"][table["low"].notna()]).all()
    without = tasks.retrieval_and_shots(images, None, shots=(1,))
    assert list(without["column"]) == ["I-I mAP", "I-I R-Precision", "I-I 1-shot"]


def test_a_model_that_oti_cannot_enter_keeps_its_other_methods(mini, found, capsys, monkeypatch):
    aps, images, kinds = found
    monkeypatch.setattr(mini.net, "cls_emb", torch.zeros(1), raising=False)  # as CoCa has it
    assert tasks.invertible({"mini": mini}, "oti") == {}
    assert (
        "mini goes without OTI: OTI does not cover text encoders with an appended class token"
        in capsys.readouterr().out
    )
    assert tasks.invertible({"mini": mini}, "ovi") == {"mini": mini}
    without = tasks.image_image_methods(mini, images[:10], kinds, gallery=images, steps=6)
    assert list(without) == [ORIGINAL, PROJECTED]
    assert all(np.array_equal(without[method], aps[method]) for method in without)
