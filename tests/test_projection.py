"""PCA of class prompts against scikit-learn's PCA and numpy's eigendecomposition; mixtures and centring by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.projection.linear import centre, mix, pca_of_prompts


def some(n, d=8, seed=0, shift=1.0, **columns):
    """n vectors around a common direction, as the features of one modality are."""
    return Embeddings(np.random.default_rng(seed).normal(size=(n, d)) + shift, **columns)


PROMPTS, IMAGES = some(20, modality="text"), some(12, seed=1, shift=-0.5)


def eigenvectors(prompts, centred=True):
    """(d, d) Q of Eq. 11, columns sorted by eigenvalue, largest first."""
    rows = prompts.features.double().numpy()
    rows = rows - rows.mean(axis=0) if centred else rows
    values, vectors = np.linalg.eigh(rows.T @ rows)
    return vectors[:, np.argsort(values)[::-1]]


def eq_11(x, prompts, k, centred=True):
    """x -> Q L Q^T x, written out."""
    q = eigenvectors(prompts, centred)
    kept = np.diag([1.0] * k + [0.0] * (q.shape[0] - k))
    return x @ (q @ kept @ q.T).T


# ---------------------------------------------------------------- Eq. 11


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_projection_is_eq_11_by_eigendecomposition(k, centred):
    projection = pca_of_prompts(PROMPTS, k, centred=centred)
    expected = eq_11(IMAGES.features.double().numpy(), PROMPTS, k, centred)
    np.testing.assert_allclose(projection.project(IMAGES.features).numpy(), expected, atol=1e-6)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(projection(IMAGES).features.numpy(), unit, atol=1e-6)


def test_components_and_variances_are_those_of_scikit_learn():
    pca = PCA(3).fit(PROMPTS.features.double().numpy())
    projection = pca_of_prompts(PROMPTS, 3)
    agreement = np.abs(pca.components_ @ projection.components.double().numpy().T)  # the sign is free
    np.testing.assert_allclose(agreement, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(projection.variances[:3], pca.explained_variance_, rtol=1e-5)
    assert projection.explained == pytest.approx(pca.explained_variance_ratio_.sum(), rel=1e-5)


@given(n=st.integers(2, 14), d=st.integers(2, 10), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_it_is_an_orthogonal_projection(n, d, seed):
    projection = pca_of_prompts(some(n, d, seed))
    rows = projection.components
    torch.testing.assert_close(rows @ rows.T, torch.eye(len(rows)), atol=1e-5, rtol=0)
    x = some(5, d, seed + 1).features
    once = projection.project(x)
    torch.testing.assert_close(projection.project(once), once, atol=1e-5, rtol=0)
    assert (once.norm(dim=1) <= 1 + 1e-5).all()  # inside the sphere, as Fig. 8 says


def test_with_all_directions_nothing_changes():
    projection = pca_of_prompts(PROMPTS, 8)
    torch.testing.assert_close(projection(IMAGES).features, IMAGES.features, atol=1e-5, rtol=0)
    assert projection.explained == pytest.approx(1)


@pytest.mark.parametrize(("n", "d", "kept"), [(20, 8, 4), (3, 8, 2), (2, 8, 1), (5, 9, 4)])
def test_half_of_the_dimensions_are_kept_or_all_components_there_are(n, d, kept):
    assert pca_of_prompts(some(n, d)).components.shape == (kept, d)


def test_without_centring_the_mean_is_a_component_too():
    assert pca_of_prompts(some(3, 8), centred=False).components.shape == (3, 8)
    first = pca_of_prompts(some(30, 8, shift=5.0), 1, centred=False).components[0]
    mean = some(30, 8, shift=5.0).features.mean(dim=0)
    assert abs(float(first @ mean / mean.norm())) > 0.99


# ---------------------------------------------------------------- Eq. 12


def test_mean_adjustment_is_eq_12():
    x = IMAGES.features.double().numpy()
    q = eigenvectors(PROMPTS)
    cut = np.diag([0.0] * 3 + [1.0] * 5)
    expected = eq_11(x, PROMPTS, 3) + q @ cut @ q.T @ x.mean(axis=0)
    projection = pca_of_prompts(PROMPTS, 3)
    adjusted = projection.project(IMAGES.features, mean_adjusted=True)
    np.testing.assert_allclose(adjusted.numpy(), expected, atol=1e-6)
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(projection(IMAGES, mean_adjusted=True).features.numpy(), unit, atol=1e-6)


def test_mean_adjustment_leaves_distances_alone_and_restores_the_mean():
    projection = pca_of_prompts(PROMPTS, 3)
    plain, adjusted = (projection.project(IMAGES.features, mean_adjusted=m).numpy() for m in (False, True))
    np.testing.assert_allclose(pdist(adjusted), pdist(plain), atol=1e-6)
    np.testing.assert_allclose(adjusted.mean(axis=0), IMAGES.features.numpy().mean(axis=0), atol=1e-6)
    shift = (adjusted - plain)[0]
    np.testing.assert_allclose(plain @ shift, 0, atol=1e-6)  # orthogonal to all projected images
    assert np.linalg.norm(shift) > 0.1


def test_after_the_norm_the_distances_do_change():
    projection = pca_of_prompts(PROMPTS, 3)
    plain, adjusted = (projection(IMAGES, mean_adjusted=m).features.numpy() for m in (False, True))
    assert np.abs(pdist(adjusted) - pdist(plain)).max() > 0.01


def test_rows_keep_their_names():
    images = some(4, labels=[0, 1, 1, 0], ids=list("abcd"), class_names=("cat", "dog"), texts=list("wxyz"))
    after = pca_of_prompts(PROMPTS)(images)
    assert after.ids.tolist() == list("abcd")
    assert after.labels.tolist() == [0, 1, 1, 0]
    assert after.class_names == ("cat", "dog")
    assert after.texts.tolist() == list("wxyz")


# ---------------------------------------------------------------- what can't be


def test_one_prompt_has_no_components():
    with pytest.raises(CrossgapError, match="two or more class names"):
        pca_of_prompts(PROMPTS[:1])


def test_equal_prompts_have_no_components():
    equal = Embeddings(np.tile(np.random.default_rng(0).normal(size=8), (3, 1)))
    with pytest.raises(CrossgapError, match="3 prompts have 0 components"):
        pca_of_prompts(equal)


@pytest.mark.parametrize("k", [0, -1, 3])
def test_no_more_components_than_there_are(k):
    with pytest.raises(CrossgapError, match=f"3 prompts have 2 components; {k} can't be kept"):
        pca_of_prompts(PROMPTS[:3], k)


def test_features_of_another_width_are_refused():
    projection = pca_of_prompts(PROMPTS)
    for refused in (lambda: projection(some(3, d=5)), lambda: projection.project(some(3, d=5).features)):
        with pytest.raises(CrossgapError, match="5 dimensions and the projection has 8"):
            refused()


def test_images_of_which_nothing_is_left_are_refused():
    flat = Embeddings(np.array([[1.0, 1, 0], [-1, 1, 0]]))  # differ along the first direction alone
    with pytest.raises(CrossgapError, match="leaves nothing"):
        pca_of_prompts(flat)(Embeddings(np.array([[0.0, 0, 1]])))


# ---------------------------------------------------------------- mixing and centring


NATIVE, INVERTED = some(12, seed=2), some(12, seed=3, modality="oti")


@given(alpha=st.floats(0, 1), seed=st.integers(0, 20))
@settings(max_examples=25, deadline=None)
def test_mixture_is_eq_9(alpha, seed):
    a, b = some(4, seed=seed), some(4, seed=seed + 1)
    expected = alpha * b.features.numpy() + (1 - alpha) * a.features.numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(mix(a, b, alpha).features.numpy(), expected, atol=1e-6)


def test_the_ends_of_the_mixture_are_its_parts():
    for alpha, part in ((0, NATIVE), (1, INVERTED)):
        np.testing.assert_allclose(mix(NATIVE, INVERTED, alpha).features, part.features, atol=1e-6)
    assert mix(NATIVE, INVERTED, 0.5).ids.tolist() == NATIVE.ids.tolist()


def test_bad_mixtures_are_refused():
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(CrossgapError, match="between 0 and 1"):
            mix(NATIVE, INVERTED, alpha)
    for other in (INVERTED[::-1], INVERTED[:8], Embeddings(np.ones((12, 5)), NATIVE.ids)):
        with pytest.raises(CrossgapError, match="same pictures"):
            mix(NATIVE, other, 0.5)
    with pytest.raises(CrossgapError, match="leaves nothing"):
        mix(NATIVE, Embeddings(-NATIVE.features, NATIVE.ids), 0.5)


def test_centring_takes_the_mean_away():
    x, reference = some(7), some(30, seed=4)
    expected = x.features.numpy() - reference.features.numpy().mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(centre(x, reference).features.numpy(), expected, atol=1e-6)
    own = x.features - x.features.mean(dim=0)
    np.testing.assert_allclose(centre(x).features, own / own.norm(dim=1, keepdim=True), atol=1e-6)
    with pytest.raises(CrossgapError, match="8 dimensions and the mean has 5"):
        centre(x, some(3, d=5))
    with pytest.raises(CrossgapError, match="leaves nothing"):
        centre(x[:1])


# ---------------------------------------------------------------- real CLIP texts


def test_imagenet_class_names_fill_most_of_the_space(real_folder):
    with np.load(real_folder / "clip_vitb32_imagenet_classnames.npz", allow_pickle=False) as file:
        names = Embeddings(file["features"], texts=file["texts"], modality="text")
    project = pca_of_prompts(names)
    assert project.components.shape == (256, 512), "d / 2, as in the paper"
    assert len(project.variances) == 511, "the layer norm before the projection takes one direction"
    rows = names.features.double().numpy()
    assert project.explained == pytest.approx(
        PCA(256, svd_solver="full").fit(rows).explained_variance_ratio_.sum(), abs=1e-4
    )
    assert 0.85 < project.explained < 0.99
    first = pca_of_prompts(names, 1, centred=False).explained
    assert first > pca_of_prompts(names, 1).explained + 0.3, "uncentred, the first direction is the mean"
