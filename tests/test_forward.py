"""The training forward passes against open_clip's and timm's own, in values and in gradients."""

import open_clip
import pytest
import torch
from torch.nn import functional as F

from crossgap_lib.pretrain import RECIPES, files, forward

WORDS = ["a dog", "a photo of a small red dog in a green hat on a blue ground", "unicorn", "a cat", "a red cat, left"]


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("skeleton")
    files.write_open_clip(folder, RECIPES["mini-clip"])
    return shaken(files.new_open_clip(folder, 0)), folder


def shaken(net):
    """Biases begin at 0 and layer norms at 1: moved, a forgotten one shows."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return net


def images(n, side=48):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def ids_of(folder, texts):
    return open_clip.get_tokenizer(f"local-dir:{folder}")(texts)


def assert_same(module, ours, theirs):
    """Equal outputs, and equal gradients of everything that either of them reaches, up to float32's rounding."""
    outputs, gradients = [], []
    for run in (ours, theirs):
        module.zero_grad(set_to_none=True)
        outputs.append(run())
        outputs[-1].square().mean().backward()
        gradients.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    assert_near(outputs[0], outputs[1], "outputs")
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert_near(gradient, gradients[1][name], name)


def assert_near(ours, theirs, name):
    """A hundred-thousandth of the largest value is allowed everywhere: small entries are sums of large ones."""
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * theirs.abs().max().item(), msg=name)


def test_image_features_are_open_clips(net):
    clip, _ = net
    x = images(3)
    assert_same(clip, lambda: forward.image_features(clip, x), lambda: clip.encode_image(x))


def test_text_features_are_open_clips_whatever_the_lengths(net):
    clip, folder = net
    for texts in (WORDS, WORDS[:1], WORDS * 5):
        ids = ids_of(folder, texts)
        assert_same(clip, lambda ids=ids: forward.text_features(clip, ids), lambda ids=ids: clip.encode_text(ids))


def test_caption_as_long_as_the_context(net):
    clip, folder = net
    ids = ids_of(folder, ["dog " * 40, "dog"])
    assert ids[0].argmax() == 23
    assert_same(clip, lambda: forward.text_features(clip, ids), lambda: clip.encode_text(ids))


@pytest.mark.parametrize("side", [48, 24])
def test_timm_pooled_is_timms(side):
    vit, x = shaken(files.new_timm(RECIPES["mini-dino"])), images(3, side)
    assert_same(vit, lambda: forward.timm_pooled(vit, x), lambda: vit(x))


def test_smaller_pictures_get_interpolated_positions(net):
    """As in an image tower that was built for the smaller size, and that has the interpolated positions for its own."""
    visual, x = net[0].visual, images(2, 24)
    square = visual.positional_embedding[1:].T.reshape(1, 128, 6, 6)
    smaller = F.interpolate(square, size=(3, 3), mode="bicubic", antialias=True, align_corners=False)
    positions = torch.cat([visual.positional_embedding[:1], smaller.reshape(128, 9).T])
    weights = {"positional_embedding": positions, "proj": torch.eye(128)}
    assert_same(visual, lambda: forward.pooled(visual, x), lambda: torch.func.functional_call(visual, weights, x))
