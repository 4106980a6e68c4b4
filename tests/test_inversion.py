"""OTI and OVI against the textbook, on the mini and on real architectures with random weights."""

import numpy as np
import open_clip
import pytest
import torch
from torch.nn import functional as F

from crossgap_lib import metrics
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion import loop, oti_ovi, textbook
from crossgap_lib.inversion.fewer_steps import accelerate
from crossgap_lib.inversion.loop import ScaledGradient, gradient, initial_noise, invert
from crossgap_lib.inversion.oti_ovi import oti, ovi, template_ids
from crossgap_lib.inversion.towers import ImageTower, TextTower, _repeats
from crossgap_lib.models.load import load_model


def random_features(n: int, d: int, modality: str = "image") -> Embeddings:
    generator = torch.Generator().manual_seed(1)
    return Embeddings(torch.randn(n, d, generator=generator), [f"s{k}" for k in range(n)], modality=modality)


def textbook_oti(model, images, template, n_tokens, steps, **kwargs):
    before, after = template
    slots = list(range(len(before), len(before) + n_tokens))
    ids = torch.cat([before, torch.ones(n_tokens, dtype=torch.long), after])[: model.context_length][None]
    noise = initial_noise(images.ids, (n_tokens, TextTower(model.net).width), seed=0)
    forward = lambda tokens: textbook.text_features(model.net, ids, slots, tokens)  # noqa: E731
    return textbook.invert(forward, images.features, noise, steps, **kwargs)


def textbook_ovi(model, texts, n_patches, steps):
    noise = initial_noise(texts.ids, (n_patches, ImageTower(model.net).width), seed=0)
    forward = lambda patches: textbook.image_features(model.net, patches)  # noqa: E731
    return textbook.invert(forward, texts.features, noise, steps)


def assert_same_path(ours, theirs):
    features, losses = theirs
    torch.testing.assert_close(ours.losses, losses, atol=1e-4, rtol=0)
    torch.testing.assert_close(ours.features, features, atol=1e-4, rtol=0)


SIGLIP_TEMPLATE = (torch.tensor([262, 1069, 304]), torch.cat([torch.tensor([1]), torch.ones(60, dtype=torch.long)]))
CLIP_TEMPLATE = (
    torch.tensor([49406, 320, 1125, 539]),
    torch.cat([torch.tensor([49407]), torch.zeros(72, dtype=torch.long)]),
)


@pytest.fixture
def unpadded(monkeypatch):
    """Batches of 2 or 3 stay that small: on real architectures padding to 8 rows costs minutes."""
    monkeypatch.setattr(oti_ovi, "MIN_ROWS", 1)


@pytest.fixture(scope="module")
def clip_b32():
    return load_model("ViT-B-32,random")


@pytest.fixture(scope="module")
def siglip_b16():
    return load_model("ViT-B-16-SigLIP,random")


# ---------------------------------------------------------------- against the textbook


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_oti_on_the_mini_follows_the_textbook(cats_and_dogs, n_tokens):
    model, images, _ = cats_and_dogs
    images = images[:9]
    ours = oti(model, images, n_tokens=n_tokens, steps=20, cache=False)
    assert_same_path(ours, textbook_oti(model, images, template_ids(model, "a photo of"), n_tokens, 20))


@pytest.mark.parametrize("n_patches", [1, 3])
def test_ovi_on_the_mini_follows_the_textbook(cats_and_dogs, n_patches):
    model, _, prompts = cats_and_dogs
    ours = ovi(model, prompts, n_patches=n_patches, steps=20, cache=False)
    assert_same_path(ours, textbook_ovi(model, prompts, n_patches, 20))


def test_mean_loss_agrees_to_the_end(cats_and_dogs):
    model, images, _ = cats_and_dogs
    ours = oti(model, images, steps=150, cache=False)
    _, losses = textbook_oti(model, images, template_ids(model, "a photo of"), 1, 150)
    assert abs(ours.losses[-1].mean() - losses[-1].mean()) < 1e-2


@pytest.mark.slow
def test_oti_on_clip_b32(clip_b32, unpadded):
    images = random_features(3, 512)
    ours = oti(clip_b32, images, n_tokens=2, steps=20, template="a photo of", cache=False)
    assert_same_path(ours, textbook_oti(clip_b32, images, CLIP_TEMPLATE, 2, 20))


@pytest.mark.slow
def test_ovi_on_clip_b32(clip_b32, unpadded):
    texts = random_features(2, 512, "text")
    assert_same_path(ovi(clip_b32, texts, n_patches=4, steps=6, cache=False), textbook_ovi(clip_b32, texts, 4, 6))


@pytest.mark.slow
def test_oti_on_siglip(siglip_b16, unpadded):
    images = random_features(2, 768)
    ours = oti(siglip_b16, images, n_tokens=2, steps=4, template=SIGLIP_TEMPLATE, cache=False)
    assert_same_path(ours, textbook_oti(siglip_b16, images, SIGLIP_TEMPLATE, 2, 4))


@pytest.mark.slow
def test_ovi_on_siglip(siglip_b16, unpadded):
    texts = random_features(2, 768, "text")
    ours = ovi(siglip_b16, texts, n_patches=4, steps=3, cache=False)
    assert_same_path(ours, textbook_ovi(siglip_b16, texts, 4, 3))


@pytest.mark.parametrize(
    "arch", ["PE-Core-T-16-384", pytest.param("EVA02-B-16", marks=pytest.mark.slow)], ids=["PE-Core", "EVA02"]
)
def test_ovi_of_towers_that_rotate_queries_and_keys(arch, unpadded):
    model = load_model(f"{arch},random", device="cpu")
    texts = random_features(2, model.embed_dim, "text")
    assert_same_path(ovi(model, texts, n_patches=4, steps=2, cache=False), textbook_ovi(model, texts, 4, 2))


@pytest.mark.parametrize("method", [oti, ovi])
def test_an_image_only_model_says_so_before_anything_runs(method):
    model = load_model("timm:vit_tiny_patch16_224,random", device="cpu")
    with pytest.raises(CrossgapError, match="vit_tiny_patch16_224,random encodes images only"):
        method(model, random_features(2, model.embed_dim), cache=False)
    assert "encodes images only" in oti_ovi.why_not(model, "ovi")


def test_paper_mode_is_the_mean_over_the_batch(cats_and_dogs):
    model, images, _ = cats_and_dogs
    images = images[:10]
    paper = oti(model, images, steps=15, paper=True, cache=False)
    ids = template_ids(model, "a photo of")
    assert_same_path(paper, textbook_oti(model, images, ids, 1, 15, mean=True, eps=1e-8))


def test_paper_mode_optimises_64_at_a_time(cats_and_dogs):
    """As the released code does: the mean over a batch makes each result depend on those beside it."""
    model, images, _ = cats_and_dogs
    images = random_features(70, images.features.shape[1])
    run = lambda rows, **how: oti(model, images[rows], steps=3, paper=True, cache=False, **how)  # noqa: E731
    found, slices = run(slice(None)), (slice(0, 64), slice(64, 70))
    parts = torch.cat([run(rows, batch_size=70).features for rows in slices])
    assert torch.equal(found.features, parts)
    assert not torch.equal(found.features, run(slice(None), batch_size=70).features)


# ---------------------------------------------------------------- half precision


@pytest.fixture(scope="module")
def precisions():
    return {name: load_model("mini-clip", device="cpu", precision=name) for name in ("fp32", "bf16", "fp16")}


@pytest.fixture(scope="module")
def drawings(precisions):
    photos = load_dataset("world:all", n=600)
    captions = [several[0] for several in photos.captions[:16]]
    model = precisions["fp32"]
    return encode_images(model, photos, cache=False), encode_texts(model, captions, cache=False)


# About three times what was seen: bf16 0.017, 0.014 and 0.05 points of mAP; fp16 0.0003, 0.0023 and 0.01 points.
HALF = [("bf16", 0.05, 0.04, 0.3), ("fp16", 1e-3, 7e-3, 0.1)]


@pytest.mark.parametrize(("precision", "loss", "feature", "points"), HALF)
def test_half_precision_stays_near_fp32_and_retrieves_as_well(precisions, drawings, precision, loss, feature, points):
    gallery, texts = drawings
    steps, paths, best = range(13), {}, {}
    for name in ("fp32", precision):
        run = oti(precisions[name], gallery[:64], steps=12, snapshots=steps, cache=False)
        curve = [100 * metrics.mean_average_precision(run.at(s), gallery) for s in steps]
        best[name] = (int(np.argmax(curve)), max(curve))
        other = ovi(precisions[name], texts, n_patches=2, steps=12, snapshots=steps, cache=False)
        paths[name] = [(r.losses, torch.stack([r.at(s).features for s in steps])) for r in (run, other)]
    for (losses, features), (their_losses, their_features) in zip(paths[precision], paths["fp32"], strict=True):
        torch.testing.assert_close(losses, their_losses, atol=loss, rtol=0)
        torch.testing.assert_close(features, their_features, atol=feature, rtol=0)
    assert best["fp32"][1] > 60
    assert abs(best[precision][0] - best["fp32"][0]) <= 1
    assert best[precision][1] == pytest.approx(best["fp32"][1], abs=points)


def test_fp16_follows_the_textbook_with_torchs_gradient_scaler(precisions, drawings):
    model, images = precisions["fp16"], drawings[0][:9]
    ours = oti(model, images, steps=20, cache=False)
    losses = textbook_oti(model, images, template_ids(model, "a photo of"), 1, 20, amp=torch.float16)[1]
    torch.testing.assert_close(ours.losses, losses, atol=1e-3, rtol=0)


def linear_job(gain: float, d: int, steps: int, dtype: torch.dtype) -> tuple:
    """A linear encoder of 32 dimensions into d, whose output grows with ``gain``, and its gradient the other way."""
    weight = gain * torch.randn(d, 32, generator=torch.Generator().manual_seed(0))
    return lambda tokens: F.linear(tokens.flatten(1).to(dtype), weight.to(dtype)).float(), steps, dtype == torch.float16


def optimised(problem: tuple, d: int):
    encode, steps, half = problem
    targets = F.normalize(torch.randn(8, d, generator=torch.Generator().manual_seed(1)), dim=-1)
    backward = ScaledGradient(8, "cpu") if half else gradient
    return invert(encode, targets, initial_noise(map(str, range(8)), (1, 32), 0), steps, backward=backward)


def test_gradients_too_small_for_fp16_are_not_lost():
    """The gradient's elements are near 4e-6 / 32, where fp16 has steps of 6e-8: unscaled, tokens go 0.04 astray."""
    half, full = (optimised(linear_job(8e3, 1024, 3, dtype), 1024) for dtype in (torch.float16, torch.float32))
    torch.testing.assert_close(half[0], full[0], atol=1e-3, rtol=0)


def test_gradients_too_large_for_fp16_spoil_nothing():
    """At first every gradient overflows under the loss scale; each step halves it until they fit."""
    tokens, losses, _ = optimised(linear_job(1e-3, 64, 20, torch.float16), 64)
    assert tokens.isfinite().all()
    assert torch.allclose(losses[0], losses[1], atol=1e-3)
    assert (losses[-1] < 0.5 * losses[0]).all()


def test_an_overflow_concerns_its_own_sample():
    slopes = torch.tensor([[2.0, -1.0], [float("inf"), 1.0], [float("nan"), 0.0]])
    tokens, scaled = torch.zeros(3, 1, 2, requires_grad=True), ScaledGradient(3, "cpu")
    scaled.scale = torch.tensor([4.0, 4.0, 2.0])
    grad = scaled((tokens.squeeze(1) * slopes).sum(1), tokens)
    assert grad.squeeze(1).tolist() == [[2.0, -1.0], [0.0, 0.0], [0.0, 0.0]]
    assert scaled.scale.tolist() == [4.0, 2.0, 1.0]


@pytest.mark.parametrize("how", ["fp32", "fp16", "accelerated", "ovi"])
def test_a_batch_leaves_nothing_to_the_next_of_its_shape(precisions, how):
    """Both go through the same memory: moments, loss scales and numbers of steps begin anew."""
    model, method = precisions["fp16" if how == "fp16" else "fp32"], "ovi" if how == "ovi" else "oti"
    rows = random_features(40, model.embed_dim)
    fast = accelerate(model, "oti", fit_on=rows) if how == "accelerated" else None
    first, again = (oti_ovi.job_for(model, method, 1, 4, snapshots=(2,), accelerated=fast) for _ in range(2))
    oti_ovi.invert_batch(first, rows[:9], "cpu")
    second, alone = (oti_ovi.invert_batch(job, rows[9:18], "cpu") for job in (first, again))
    assert len(first.loops) == 1
    for ours, theirs in zip((*second[:2], *second[2].values()), (*alone[:2], *alone[2].values()), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a captured step against the same without")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("method", ["oti", "ovi"])
def test_a_captured_step_is_the_same_step(method, precision, monkeypatch):
    model = load_model("mini-clip", device="cuda", precision=precision)
    rows = random_features(20, model.embed_dim)
    runs = []
    for worth in (10, 1000):
        monkeypatch.setattr(loop, "WORTH_A_GRAPH", worth)
        job = oti_ovi.job_for(model, method, 1, 20, snapshots=(0, 5, 12))
        runs.append([oti_ovi.invert_batch(job, rows[k : k + 10], "cuda") for k in (0, 10)])
        assert all((made.graph is None) == (worth > 20) for made in job.loops.values())
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", ["oti", "ovi"])
def test_the_encoders_compile_without_a_break(cats_and_dogs, method):
    """Pure functions of tensors: torch takes them as one graph, and its gradient is the same."""
    model, images, prompts = cats_and_dogs
    job = oti_ovi.job_for(model, method, 2, 1)
    source = images[:4] if method == "oti" else prompts
    outcomes = []
    for encode in (job.encode, torch.compile(job.encode, fullgraph=True, backend="eager")):
        tokens = initial_noise(source.ids, job.shape, 0).requires_grad_()
        loss = 1 - (F.normalize(encode(tokens), dim=-1) * source.features).sum(dim=-1)
        outcomes.append((loss.detach(), gradient(loss, tokens)))
    torch.testing.assert_close(outcomes[0], outcomes[1], atol=1e-6, rtol=0)


# ---------------------------------------------------------------- structure decides, not the name


def test_clip_is_truncated_and_siglip_is_not(clip_b32, siglip_b16):
    assert TextTower(clip_b32.net).causal
    assert not TextTower(siglip_b16.net).causal


def test_siglip_may_not_be_truncated(siglip_b16):
    """Its last position is pooled and sees all 64 positions: another padding token gives other features."""
    before, after = SIGLIP_TEMPLATE
    other = after.clone()
    other[-5] = 7
    tower = TextTower(siglip_b16.net)
    tokens = torch.zeros(1, 1, tower.width)
    first, second = (F.normalize(tower.encoder((before, end), 1)(tokens), dim=-1) for end in (after, other))
    assert (first - second).abs().max() > 1e-4


def test_positions_after_eot_change_nothing_in_clip(clip_b32):
    before, after = CLIP_TEMPLATE
    tokens = torch.zeros(1, 1, 512)
    ids = torch.cat([before, torch.ones(1, dtype=torch.long), after])[:77][None]
    full = textbook.text_features(clip_b32.net, ids, [4], tokens)
    ids[0, 10:] = 5
    torch.testing.assert_close(full, textbook.text_features(clip_b32.net, ids, [4], tokens), atol=1e-5, rtol=0)
    ours = TextTower(clip_b32.net).encoder(CLIP_TEMPLATE, 1)(tokens)
    torch.testing.assert_close(ours, full, atol=1e-5, rtol=0)


@pytest.mark.parametrize("template", ["", "a photo of", "we see in this photo"])
def test_templates_of_the_paper(cats_and_dogs, template):
    """Cross the Gap, Table A9: any template, the empty one too, goes in as it is tokenised."""
    model, images, _ = cats_and_dogs
    before, after = template_ids(model, template)
    assert model.tokenizer.tokenizer.decode(before.tolist(), skip_special_tokens=False).split()[0] == "<sot>"
    assert len(before) == 1 + len(template.split())
    ours = oti(model, images[:8], steps=3, template=template, cache=False)
    assert_same_path(ours, textbook_oti(model, images[:8], (before, after), 1, 3))


@pytest.mark.parametrize("n_tokens", [1, 2])
@pytest.mark.parametrize("template", ["a photo of {} on the left", "{} with a hat", "We see {} in this photo"])
def test_text_may_stand_on_both_sides(cats_and_dogs, template, n_tokens):
    """The slots are where the word dog would be; words that the mini does not know are its unknown word."""
    model, images, _ = cats_and_dogs
    words = template.replace("{}", " ".join(["dog"] * n_tokens))
    ids, first = model.tokenize(words), 1 + words.split().index("dog")
    noise = initial_noise(images.ids[:8], (n_tokens, TextTower(model.net).width), seed=0)
    slots = list(range(first, first + n_tokens))
    forward = lambda tokens: textbook.text_features(model.net, ids, slots, tokens)  # noqa: E731
    ours = oti(model, images[:8], n_tokens=n_tokens, steps=3, template=template, cache=False)
    assert_same_path(ours, textbook.invert(forward, images[:8].features, noise, 3))


def test_a_place_at_the_end_is_the_default(cats_and_dogs):
    model, *_ = cats_and_dogs
    for plain, placed in (("a photo of", "a photo of {}"), ("", "{}")):
        for ours, theirs in zip(template_ids(model, plain), template_ids(model, placed), strict=True):
            assert torch.equal(ours, theirs)


def test_templates_that_leave_no_room_are_refused(cats_and_dogs):
    model, images, _ = cats_and_dogs
    with pytest.raises(CrossgapError, match="more than one place"):
        template_ids(model, "{} and {}")
    long = "a photo of {} on the left" + " with a hat" * 5  # SOT, 3 + 18 words, EOT: 23 of 24
    assert oti(model, images[:1], template=long, steps=1, cache=False).tokens.shape[1] == 1
    with pytest.raises(CrossgapError, match="2 pseudo-tokens don't fit: beside the template there is room for 1"):
        oti(model, images[:1], n_tokens=2, template=long, steps=1, cache=False)


def test_room_beside_the_template_in_siglip(siglip_b16):
    before, after = torch.tensor([262, 1069]), torch.cat([torch.arange(5, 60), torch.ones(7, dtype=torch.long)])
    tower = TextTower(siglip_b16.net)  # 2 + 55 ids, and at least one of the equal ids at the end
    assert tower.encoder((before, after), 6)(torch.zeros(1, 6, 768)).shape == (1, 768)
    with pytest.raises(CrossgapError, match="there is room for 6"):
        tower.encoder((before, after), 7)


def test_repeats_are_nearest_neighbour():
    runs = torch.bincount(_repeats(4, 49)).tolist()
    assert runs == [13, 12, 12, 12]
    for k, n in [(1, 49), (2, 49), (8, 196), (16, 196), (5, 36)]:
        ramp = torch.arange(k, dtype=torch.float)[None, None]
        assert torch.equal(_repeats(k, n), F.interpolate(ramp, size=n, mode="nearest")[0, 0].long())


@pytest.mark.slow
def test_towers_refuse_what_they_cannot_enter():
    resnet = open_clip.create_model("RN50-quickgelu")
    with pytest.raises(CrossgapError, match="ViT image encoder"):
        ImageTower(resnet)
    with pytest.raises(CrossgapError, match="class token"):
        TextTower(open_clip.create_model("coca_base"))
    for arch in ("convnext_small", "MobileCLIP2-S0", "vit_relpos_medium_patch16_cls_224"):
        with pytest.raises(CrossgapError, match="ViT image encoder"):
            ImageTower(open_clip.create_model(arch))


# ---------------------------------------------------------------- batch, order, seed


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_do_not_matter(cats_and_dogs, batch_size):
    model, images, _ = cats_and_dogs
    whole = oti(model, images, steps=20, batch_size=40, cache=False)
    split = oti(model, images, steps=20, batch_size=batch_size, cache=False)
    torch.testing.assert_close(split.features, whole.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(split.losses, whole.losses, atol=1e-5, rtol=0)


def test_order_and_subset_do_not_matter(cats_and_dogs):
    model, images, _ = cats_and_dogs
    whole = oti(model, images, steps=10, cache=False)
    chosen = [30, 2, 17, 5, 8]
    some = oti(model, images[chosen], steps=10, cache=False)
    torch.testing.assert_close(some.features, whole.features[chosen], atol=1e-5, rtol=0)


def test_noise_depends_on_seed_and_id_alone():
    first = initial_noise(["a", "b"], (2, 64), seed=0)
    assert torch.equal(initial_noise(["b"], (2, 64), seed=0)[0], first[1])
    assert not torch.equal(initial_noise(["a"], (2, 64), seed=1)[0], first[0])
    many = initial_noise(map(str, range(200)), (4, 128), seed=3)
    assert abs(many.std() - 0.02) < 2e-4
    assert abs(many.mean()) < 2e-4


# ---------------------------------------------------------------- results


def test_snapshots_are_shorter_runs(cats_and_dogs):
    model, images, _ = cats_and_dogs
    run = oti(model, images[:8], steps=12, snapshots=(0, 5), cache=False)
    assert sorted(run.snapshots) == [0, 5, 12]
    short = oti(model, images[:8], steps=5, cache=False)
    torch.testing.assert_close(run.at(5).features, short.features, atol=1e-5, rtol=0)
    similarity = (run.at(0).features * images.features[:8]).sum(1)
    torch.testing.assert_close(run.losses[0], 1 - similarity, atol=1e-5, rtol=0)
    with pytest.raises(CrossgapError, match="No snapshot at step 7"):
        run.at(7)


def test_rows_of_an_inversion(cats_and_dogs):
    model, images, _ = cats_and_dogs
    run = oti(model, images[:8], steps=4, snapshots=(2,), cache=False)
    some = run[np.array([True, False] * 4)]
    assert len(some) == 4
    assert some.tokens.shape == (4, 1, 128)
    assert torch.equal(some.losses, run.losses[:, ::2])
    assert torch.equal(some.at(2).features, run.at(2).features[::2])
    assert some.modality == "oti"


def test_cache_returns_the_same_without_optimising(cats_and_dogs, monkeypatch):
    model, images, _ = cats_and_dogs
    first = oti(model, images[:8], steps=3, snapshots=(1,))
    monkeypatch.setattr(oti_ovi, "Loop", lambda *_, **__: pytest.fail("optimised although cached"))
    again = oti(model, images[:8], steps=3, snapshots=(1,))
    for name in ("features", "tokens", "losses"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert list(again.snapshots) == [1, 3]
    with pytest.raises(pytest.fail.Exception):
        oti(model, images[:8], steps=3, snapshots=(1,), seed=1)


def test_what_the_cache_does_not_hold_any_more_is_made_again(cats_and_dogs, tmp_path, monkeypatch):
    """A flipped bit, and the result for other images under this one's name."""
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path))
    model, images, _ = cats_and_dogs
    first = oti(model, images[:8], steps=2)
    (kept,) = tmp_path.glob("inversions/*")
    whole = kept.read_bytes()
    oti(model, images[8:16], steps=2)
    (other,) = set(tmp_path.glob("inversions/*")) - {kept}
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), other.read_bytes()):
        kept.write_bytes(damaged)
        with pytest.warns(UserWarning, match="A result of the cache is made anew: "):
            again = oti(model, images[:8], steps=2)
        assert torch.equal(again.tokens, first.tokens)
        assert kept.read_bytes() == whole


def test_frozen_encoder_stays_as_it_was(cats_and_dogs):
    model, images, prompts = cats_and_dogs
    before = model.fingerprint
    oti(model, images[:8], steps=2, cache=False)
    ovi(model, prompts, steps=2, cache=False)
    del model.__dict__["fingerprint"]
    assert model.fingerprint == before
    assert not any(p.requires_grad for p in model.net.parameters())


def test_refusals(cats_and_dogs):
    model, images, prompts = cats_and_dogs
    with pytest.raises(CrossgapError, match="features of the model itself"):
        oti(model, random_features(3, 17))
    with pytest.raises(CrossgapError, match="don't fit"):
        oti(model, images, n_tokens=30)
    with pytest.raises(CrossgapError, match="36 patches"):
        ovi(model, prompts, n_patches=37)
    with pytest.raises(CrossgapError, match="at least one step"):
        oti(model, images, steps=0)
    with pytest.raises(CrossgapError, match="Snapshots lie between"):
        oti(model, images, steps=5, snapshots=(9,))
    with pytest.raises(CrossgapError, match="no room"):
        oti(model, images, template="a " * 40)
