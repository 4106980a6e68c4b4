"""IsoCLIP against numpy's SVD of open_clip's own weights and features; encoding without the last linear map."""

from types import SimpleNamespace

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.load import load_model
from crossgap_lib.models.projectors import Projector, projector_of, taken_away
from crossgap_lib.projection.linear import IsoClip, isoclip

TEXTS = ["a photo of a dog", "a red cat on a pink background", "a small house"]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def hooked(module, run):
    """What goes into ``module`` while ``run`` is called."""
    seen = []
    handle = module.register_forward_hook(lambda _m, _i, output: seen.append(output))
    try:
        run()
    finally:
        handle.remove()
    return seen[-1].detach().double().numpy()


@pytest.fixture(scope="module")
def encoded(mini):
    """Pictures and texts of mini-clip: (model, data set, images before, images, texts before, texts)."""
    photos = load_dataset("world:all", n=10)
    images = [encode_images(mini, photos, before_projection=b, cache=False) for b in (True, False)]
    texts = [encode_texts(mini, TEXTS, before_projection=b, cache=False) for b in (True, False)]
    return mini, photos, *images, *texts


def oracle(model, photos, top, bottom):
    """IsoCLIP of the pictures from open_clip's weights and its own pooled features, by numpy."""
    visual, text = model.net.visual, getattr(model.net, "text", model.net)
    w_i = visual.proj.detach().double().numpy().T
    w_t = text.text_projection.detach().double().numpy().T
    pixels = torch.stack([model.preprocess(photos.picture(k)) for k in range(len(photos))])
    h = hooked(visual.ln_post, lambda: model.net.encode_image(pixels))
    h = h if h.ndim == 2 else h[:, 0]  # the class token where the norm comes before pooling
    u, s, _ = np.linalg.svd(w_i.T @ w_t)
    rank = np.linalg.matrix_rank(w_i.T @ w_t, tol=1e-10 * s[0])
    kept = u[:, :rank][:, top : rank - bottom]
    return unit(h @ (w_i @ kept @ kept.T).T)


# ---------------------------------------------------------------- against numpy


@pytest.mark.parametrize(("top", "bottom"), [(0, 0), (5, 0), (0, 30), (37, 12)])
def test_images_on_the_mini(encoded, top, bottom):
    model, photos, before, *_ = encoded
    ours = isoclip(model)(before, top=top, bottom=bottom).features.numpy()
    np.testing.assert_allclose(ours, oracle(model, photos, top, bottom), atol=2e-5)


def test_the_whole_band_gives_native_features(encoded):
    model, _, images_before, images, texts_before, texts = encoded
    iso = isoclip(model)
    for before, native in ((images_before, images), (texts_before, texts)):
        whole = iso(before, top=0, bottom=0)
        torch.testing.assert_close(whole.features, native.features, atol=1e-5, rtol=0)
        assert whole.ids.tolist() == native.ids.tolist()
        assert whole.modality == native.modality


def test_the_spectrum_is_that_of_the_product(encoded):
    model, *_ = encoded
    w_i, w_t = (model.projector(side).weight.double().numpy() for side in ("image", "text"))
    iso = isoclip(model)
    np.testing.assert_allclose(iso.spectrum, np.linalg.svd(w_i.T @ w_t)[1][: len(iso.spectrum)], atol=1e-5)
    assert (iso.spectrum[:-1] >= iso.spectrum[1:]).all()


def test_texts_are_mapped_by_the_other_directions(encoded):
    model, *_, before, _ = encoded
    w_i, w_t = (model.projector(side).weight.double().numpy() for side in ("image", "text"))
    v = np.linalg.svd(w_i.T @ w_t)[2].T[:, 4:100]
    expected = unit(before.features.double().numpy() @ v @ v.T @ w_t.T)
    ours = isoclip(model)(before, top=4, bottom=len(isoclip(model).spectrum) - 100)
    np.testing.assert_allclose(ours.features.numpy(), expected, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("top", "bottom"), [(0, 0), (150, 50)])
def test_images_on_clip_b32(top, bottom):
    model, photos = load_model("ViT-B-32,random"), load_dataset("world:all", n=2)
    iso = isoclip(model)
    assert len(iso.spectrum) == 512
    ours = iso(encode_images(model, photos, before_projection=True, cache=False), top=top, bottom=bottom).features
    np.testing.assert_allclose(ours.numpy(), oracle(model, photos, top, bottom), atol=2e-5)
    if not top:
        native = encode_images(model, photos, cache=False)
        torch.testing.assert_close(ours, native.features, atol=2e-5, rtol=0)


# ---------------------------------------------------------------- the last linear map


def random_iso(seed, d=6, widths=(9, 7), biases=(True, True)):
    rng = np.random.default_rng(seed)
    tensor = lambda *shape: torch.from_numpy(rng.normal(size=shape)).float()  # noqa: E731
    projectors = {
        side: Projector(tensor(d, width), tensor(d) if bias else None)
        for side, width, bias in zip(("image", "text"), widths, biases, strict=True)
    }
    return isoclip(SimpleNamespace(name="some", projector=projectors.get)), projectors, rng


@given(
    seed=st.integers(0, 50), top=st.integers(0, 3), bottom=st.integers(0, 2), side=st.sampled_from(["image", "text"])
)
@settings(max_examples=25, deadline=None)
def test_a_bias_survives_the_unit_norm_of_the_features(seed, top, bottom, side):
    """[h, 1] is normalised on its way in; W P h + b must come out as if it had not been."""
    iso, projectors, rng = random_iso(seed)
    weight, bias = (t.double().numpy() for t in (projectors[side].weight, projectors[side].bias))
    h = rng.normal(size=(4, weight.shape[1])) * 5
    u, _, vt = np.linalg.svd(projectors["image"].weight.double().numpy().T @ projectors["text"].weight.double().numpy())
    basis = (u[:, :6] if side == "image" else vt[:6].T)[:, top : 6 - bottom]
    expected = unit(h @ basis @ basis.T @ weight.T + bias)
    before = Embeddings(np.column_stack([h, np.ones(4)]), modality=side, meta={"before_projection": True})
    np.testing.assert_allclose(iso(before, top=top, bottom=bottom).features.numpy(), expected, atol=2e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_text_towers_with_a_linear_layer(bias):
    config = {"context_length": 8, "vocab_size": 20, "width": 16, "heads": 2, "layers": 1, "output_dim": 6}
    tower = open_clip.transformer.TextTransformer(**config, proj_type="linear", proj_bias=bias, pad_id=0).eval()
    net, ids = SimpleNamespace(text=tower), torch.tensor([[3, 4, 5, 19, 0, 0, 0, 0]])
    projector = projector_of(net, "text")
    whole = tower(ids)
    with taken_away(net, "text"):
        pooled = tower(ids)
    torch.testing.assert_close(F.linear(pooled, projector.weight, projector.bias), whole)
    assert projector.columns == 16 + bias
    torch.testing.assert_close(tower(ids), whole)  # it is back


@pytest.mark.parametrize(
    ("name", "size", "how"),
    [
        ("vit_tiny_patch16_224", 224, {"pool": "", "proj": "linear", "proj_bias": True}),
        ("vit_pe_core_tiny_patch16_384", 384, {"pool": "map", "proj": None}),  # as PE-Core, whose trunk ends in the map
        ("eva02_tiny_patch14_224", 224, {"pool": "token", "proj": None}),  # as EVA02
    ],
)
def test_timm_towers_with_a_linear_head(name, size, how):
    tower = open_clip.timm_model.TimmModel(name, embed_dim=6, image_size=size, **how).eval()
    net, pixels = SimpleNamespace(visual=tower), torch.rand(1, 3, size, size)
    projector = projector_of(net, "image")
    whole = tower(pixels)
    with taken_away(net, "image"):
        pooled = tower(pixels)
    assert (pooled.shape[1], whole.shape[1]) == (192, 6)
    torch.testing.assert_close(F.linear(pooled, projector.weight, projector.bias), whole)
    torch.testing.assert_close(tower(pixels), whole)


def test_the_projection_is_back_after_an_error(mini):
    before = mini.net.visual.proj
    with pytest.raises(ZeroDivisionError), taken_away(mini.net, "image"):
        1 / 0  # noqa: B018
    assert mini.net.visual.proj is before
    assert "visual.proj" in mini.net.state_dict()


def test_encoding_is_cached_apart(mini):
    photos = load_dataset("world:all", n=3)
    native, before, again = (encode_images(mini, photos, before_projection=b) for b in (False, True, False))
    assert torch.equal(native.features, again.features)
    assert not torch.equal(native.features, before.features)
    assert before.meta["before_projection"]
    assert "before_projection" not in native.meta
    texts = [encode_texts(mini, TEXTS, before_projection=b) for b in (False, True)]
    assert not torch.equal(texts[0].features, texts[1].features)


# ---------------------------------------------------------------- bands


PUBLISHED = """
ViT-B-32-quickgelu,openai        image 150  50  text  20 100
ViT-B-16,openai                  image 200  50  text  10  50
ViT-L-14-quickgelu,openai        image 250 200  text  10 300
ViT-B-32,datacomp_xl_s13b_b90k   image  50  50  text   0   0
ViT-B-16,datacomp_xl_s13b_b90k   image 100 100  text   2 150
PE-Core-B-16,meta                image 300  50
"""


def iso_of(name, rank):
    each = {side: torch.eye(rank) for side in ("image", "text")}
    return IsoClip({side: Projector(eye) for side, eye in each.items()}, each, torch.ones(rank), name)


@pytest.mark.parametrize("line", PUBLISHED.strip().splitlines())
def test_published_bands(line):
    name, *rest = line.split()
    for side, top, bottom in zip(rest[::3], rest[1::3], rest[2::3], strict=True):
        iso = iso_of(name, 768)
        assert iso.default_band(side) == iso.published_band(side) == (int(top), int(bottom))


@pytest.mark.parametrize(("name", "side"), [("another", "image"), ("another", "text"), ("PE-Core-B-16,meta", "text")])
def test_other_bands_are_our_own_scaling_of_clip_b32(name, side):
    for rank in (512, 1024):
        iso, expected = iso_of(name, rank), {"image": (150, 50), "text": (20, 100)}[side]
        assert iso.published_band(side) is None
        assert iso.default_band(side) == tuple(n * rank // 512 for n in expected)


# ---------------------------------------------------------------- what can't be


def test_empty_bands_are_refused(encoded):
    model, _, before, *_ = encoded
    iso = isoclip(model)
    for top, bottom in ((-1, 0), (0, -1), (64, 64)):
        with pytest.raises(CrossgapError, match="can't be left out"):
            iso(before, top=top, bottom=bottom)


def test_features_after_the_projection_are_refused(encoded):
    model, _, before, native, *_ = encoded
    with pytest.raises(CrossgapError, match="before_projection=True"):
        isoclip(model)(native)
    narrow = Embeddings(before.features[:, :5], meta=before.meta)
    with pytest.raises(CrossgapError, match="5 columns"):
        isoclip(model)(narrow)


@pytest.mark.parametrize("visual", [nn.Sequential(), SimpleNamespace(head=nn.Sequential())])
def test_encoders_without_a_linear_end_are_refused(visual):
    with pytest.raises(CrossgapError, match="does not end in a linear projection"):
        projector_of(SimpleNamespace(visual=visual), "image")
    with pytest.raises(CrossgapError, match="image and text"):
        projector_of(SimpleNamespace(visual=visual), "sound")


@pytest.mark.slow
def test_siglip_is_refused():
    with pytest.raises(CrossgapError, match="TimmModel does not end in a linear projection"):
        isoclip(load_model("ViT-B-16-SigLIP,random"))
