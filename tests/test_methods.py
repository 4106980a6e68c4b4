"""Every way to compare images with images: against scikit-learn and against the parts they are made of."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import average_precision_score

from crossgap_lib import metrics, tasks
from crossgap_lib.embeddings.encode import encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import oti
from crossgap_lib.tasks.methods import ORIGINAL, OTI, OTI_BEST
from crossgap_lib.tasks.methods import PCA as PROJECTED


@pytest.fixture(scope="module")
def found(mini, cats_and_dogs):
    _, images, _ = cats_and_dogs
    kinds = encode_texts(mini, [f"a photo of a {k}" for k in ("cat", "dog", "car", "fish", "tree")], cache=False)
    return tasks.image_image_methods(mini, images[:10], kinds, gallery=images, steps=6), images, kinds


def mean_ap(queries, gallery, labels):
    """By scikit-learn, the query itself left out."""
    scores = queries @ gallery.T
    aps = []
    for q in range(len(queries)):
        rest = np.arange(len(gallery)) != q
        aps.append(average_precision_score(labels[rest] == labels[q], scores[q, rest]))
    return np.array(aps)


def test_every_method_is_scikit_learns(found, mini):
    results, images, kinds = found
    x, labels = images.features.double().numpy(), images.labels
    np.testing.assert_allclose(results[ORIGINAL].ap, mean_ap(x[:10], x, labels), atol=1e-6)
    axes = PCA().fit(kinds.features.double().numpy()).components_[:4]  # five prompts: four centred components
    projected = x @ axes.T
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    np.testing.assert_allclose(results[PROJECTED].ap, mean_ap(projected[:10], projected, labels), atol=1e-5)
    inverted = oti(mini, images[:10], steps=6, cache=False).features.double().numpy()
    np.testing.assert_allclose(results[OTI].ap, mean_ap(inverted, x, labels), atol=2e-3)


def test_best_step_is_no_worse_than_the_last(found):
    results, *_ = found
    assert results[OTI_BEST].means["ap"] >= results[OTI].means["ap"]


def test_without_prompts_there_is_the_original_alone(mini, cats_and_dogs):
    _, images, _ = cats_and_dogs
    assert list(tasks.image_image_methods(mini, images[:5], None, gallery=images)) == [ORIGINAL]


def test_table_holds_means_and_paired_gains(found):
    results, *_ = found
    table = tasks.method_table(results).set_index(["method", "metric"])
    assert np.isnan(table.loc[(ORIGINAL, "mAP"), "gain"])
    row = table.loc[(PROJECTED, "mAP")]
    assert row["gain"] == pytest.approx(row["value"] - table.loc[(ORIGINAL, "mAP"), "value"])
    assert row["gain low"] <= row["gain"] <= row["gain high"]
    assert row["low"] <= row["value"] <= row["high"]


def test_paired_gain_knows_that_queries_are_paired():
    rng = np.random.default_rng(0)
    native = rng.random(200)
    mean, low, high = tasks.paired_gain(native + 0.01, native)
    assert (mean, low, high) == pytest.approx((0.01, 0.01, 0.01)), "every query gains the same: no doubt at all"
    _, low, high = tasks.paired_gain(rng.random(200), native)
    assert low < 0 < high
    with pytest.raises(CrossgapError, match="not the same"):
        tasks.paired_gain(native[:5], native)


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
