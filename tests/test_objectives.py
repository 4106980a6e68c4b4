"""The minis' objectives against textbook loops, and what each trains."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch.nn import functional as F

from crossgap_lib.pretrain import RECIPES, objectives, views
from crossgap_lib.pretrain.objectives import (
    Batch,
    balanced,
    distillation_loss,
    koleo_loss,
    make_objective,
    separation_loss,
    simclr_loss,
    write_skeleton,
)


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(n=6, seed=0):
    ids = torch.randint(2, 40, (n, 24), generator=torch.Generator().manual_seed(seed))
    ids[:, 9] = 62  # EOT, the highest
    pixels = torch.rand(n, 3, 48, 48, generator=torch.Generator().manual_seed(seed))
    meanings = F.normalize(draw(n, 5, seed=seed).abs(), dim=-1).float()
    return Batch(pixels, ids, meanings, np.random.default_rng(seed))


def make(name, folder):
    recipe = RECIPES[name]
    write_skeleton(folder, recipe)
    return make_objective(recipe, folder)


# ---------------------------------------------------------------- losses


def test_simclr_is_the_textbook_loop():
    first, second = draw(5, 7), draw(5, 7, seed=1)
    z = [v / v.norm() for v in (*first, *second)]
    losses = []
    for i in range(10):
        partner = (i + 5) % 10
        others = [math.exp(float(z[i] @ z[k]) / 0.1) for k in range(10) if k != i]
        losses.append(-math.log(math.exp(float(z[i] @ z[partner]) / 0.1) / sum(others)))
    assert simclr_loss(first, second).item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_distillation_is_the_textbook_loop():
    student = [draw(4, 6, seed=s) for s in range(3)]
    targets, losses = [draw(4, 6, seed=10 + s).softmax(-1) for s in range(2)], []
    for i, t in enumerate(targets):
        for j, s in enumerate(student):
            if i == j:
                continue
            losses += [-sum(t[row] * torch.log(torch.softmax(s[row] / 0.1, 0))).item() for row in range(4)]
    assert distillation_loss(student, targets, same=2).item() == pytest.approx(np.mean(losses), rel=1e-9)


def test_distillation_compares_all_pairs_where_no_view_is_shared():
    student, target = draw(4, 6), draw(4, 6, seed=1).softmax(-1)
    expected = F.cross_entropy(student / 0.1, target)
    assert distillation_loss([student], [target]).item() == pytest.approx(expected.item())


def test_centred_targets_take_the_running_mean_off():
    centre = objectives.Centre()
    first, second = draw(3, 512).float(), draw(3, 512, seed=1).float()
    torch.testing.assert_close(centre(first), torch.softmax(first / 0.04, -1))  # nothing was seen before
    torch.testing.assert_close(centre(second), torch.softmax((second - 0.1 * first.mean(0)) / 0.04, -1))


def test_balanced_targets_use_every_prototype_equally():
    """Sinkhorn-Knopp goes to the plan of optimal transport with these marginals: here to a fixed point of both."""
    logits = draw(12, 4) * 0.05
    plan = torch.exp(logits / 0.05)
    for _ in range(500):
        plan = plan * (12 / 4) / plan.sum(0)
        plan = plan / plan.sum(1, keepdim=True)
    targets = balanced(logits)
    torch.testing.assert_close(targets.sum(1), torch.ones(12, dtype=torch.float64))
    equal = torch.full((4,), 3.0, dtype=torch.float64)
    torch.testing.assert_close(targets.sum(0), equal, rtol=0.05, atol=0)  # nearly, after three rounds
    torch.testing.assert_close(targets, plan, rtol=0.1, atol=1e-3)
    assert torch.softmax(logits / 0.05, -1).sum(0).std() > 10 * targets.sum(0).std(), "the plain softmax is not equal"


def test_koleo_is_the_textbook_loop_and_spreads_points():
    features = draw(7, 5)
    z, losses = F.normalize(features, dim=-1), []
    for i in range(7):
        losses.append(-math.log(min(float((z[i] - z[k]).norm()) for k in range(7) if k != i)))
    assert koleo_loss(features).item() == pytest.approx(np.mean(losses), rel=1e-6)
    points = torch.nn.Parameter(torch.tensor([[1.0, 0.0], [1.0, 0.01], [1.0, -0.02]]))
    optimizer = torch.optim.SGD([points], lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        koleo_loss(points).backward()
        optimizer.step()
    around = F.normalize(points.detach(), dim=-1)
    assert (around @ around.T).fill_diagonal_(-1).max() < 0.5, "near 120 degrees apart, from 1 degree"


def cosine(a, b):
    return float(a @ b / (a.norm() * b.norm()))


def cross_entropy(rows):
    """The mean of -log of what softmax gives the i-th entry of the i-th row."""
    return np.mean([-math.log(math.exp(row[i]) / sum(map(math.exp, row))) for i, row in enumerate(rows)])


def separation(own, other, meanings, scale):
    """AlignCLIP's: the cosine with the own partner, against cosines within the modality, less where captions agree."""
    rows = []
    for i, x in enumerate(own):
        rivals = [scale * cosine(x, y) * (1 - cosine(meanings[i], m)) for y, m in zip(own, meanings, strict=True)]
        rivals[i] = scale * cosine(x, other[i])
        rows.append(rivals)
    return cross_entropy(rows)


def test_separation_is_the_textbook_loop():
    images, texts, meanings = (F.normalize(draw(5, 7, seed=s), dim=-1) for s in range(3))
    paired, unlike = (images * texts).sum(-1), 1 - meanings @ meanings.T
    expected = separation(images, texts, meanings, 20.0)
    assert separation_loss(images, paired, unlike, torch.tensor(20.0)).item() == pytest.approx(expected, rel=1e-9)
    unlike.fill_diagonal_(1.0)
    assert separation_loss(images, paired, unlike, torch.tensor(20.0)).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("name", "separate"), [("nano-align", "image"), ("nano-align-both", "both")])
def test_align_is_the_textbook_loop(name, separate, tmp_path):
    objective, given = make(name, tmp_path), batch()
    with torch.no_grad():
        objective.net.logit_scale.fill_(math.log(10))  # 100 leaves but one term of each sum
        images = objective.net.encode_image(views.normalised(views.shifted(given.pixels, np.random.default_rng(0))))
        texts = objective.net.encode_text(given.ids)
    expected = cross_entropy([[10 * cosine(x, y) for y in texts] for x in images])
    expected += cross_entropy([[10 * cosine(x, y) for x in images] for y in texts])
    expected += 0.5 * separation(images, texts, given.meanings, 10)
    if separate == "both":
        expected += 0.5 * separation(texts, images, given.meanings, 10)
    assert objective.loss(given).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "loss"),
    [("mini-clip", ClipLoss()), ("mini-siglip", SigLipLoss()), ("nano-two", ClipLoss()), ("nano-shared", ClipLoss())],
)
def test_image_text_losses_are_open_clips(name, loss, tmp_path):
    objective, given = make(name, tmp_path), batch()
    images, texts, *rest = objective.net(
        views.normalised(views.shifted(given.pixels, np.random.default_rng(0))), given.ids
    )
    assert objective.loss(given).item() == pytest.approx(loss(images, texts, *rest).item(), rel=1e-6)


def test_siglip_is_a_sigmoid_for_every_pair(tmp_path):
    objective, given = make("mini-siglip", tmp_path), batch(4)
    images = views.normalised(views.shifted(given.pixels, np.random.default_rng(0)))
    x, y = (
        F.normalize(f(v), dim=-1)
        for f, v in ((objective.net.encode_image, images), (objective.net.encode_text, given.ids))
    )
    total = 0.0
    for i in range(4):
        for j in range(4):
            logit = 10 * (x[i] @ y[j]).item() - 10
            total += math.log1p(math.exp(-logit if i == j else logit)) / 4
    assert objective.loss(given).item() == pytest.approx(total, rel=1e-4)


def test_slip_and_siglip2_add_to_the_image_text_loss(tmp_path, monkeypatch):
    for name, plain in (("mini-slip", "mini-clip"), ("mini-siglip2", "mini-siglip")):
        given = batch()
        monkeypatch.setattr(objectives, "simclr_loss", lambda *_: torch.tensor(0.0))
        monkeypatch.setattr(objectives, "distillation_loss", lambda *_, **__: torch.tensor(0.0))
        monkeypatch.setattr(views, "shifted", lambda pixels, _: pixels)
        without = make(name, tmp_path / name).loss(given).item()
        assert without == pytest.approx(make(plain, tmp_path / plain).loss(given).item(), rel=1e-6)
        monkeypatch.setattr(objectives, "simclr_loss", lambda *_: torch.tensor(2.0))
        monkeypatch.setattr(objectives, "distillation_loss", lambda *_, **__: torch.tensor(2.0))
        assert make(name, tmp_path / name).loss(given).item() == pytest.approx(without + 2, rel=1e-6)


# ---------------------------------------------------------------- what is trained, what is shipped


@pytest.mark.parametrize("name", RECIPES)
def test_gradients_reach_all_that_is_trained_and_nothing_else(name, tmp_path):
    objective = make(name, tmp_path)
    objective.loss(batch()).backward()
    for part, parameter in objective.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, part
            assert torch.isfinite(parameter.grad).all(), part
        else:
            assert parameter.grad is None
            assert part.startswith("teacher") or (part == "net.logit_scale" and not RECIPES[name].learned_scale)


def test_the_same_seed_gives_the_same_encoder_under_every_image_text_objective(tmp_path):
    nets = [
        make(n, tmp_path / n).net for n in ("mini-clip", "mini-siglip", "mini-slip", "mini-siglip2", "mini-clip-tau1")
    ]
    for net in nets[1:]:
        for name, weights in nets[0].state_dict().items():
            if name != "logit_scale":
                assert torch.equal(weights, net.state_dict()[name]), name


def test_one_transformer_is_trained_where_it_is_shared(tmp_path):
    """Its gradient is the sum of what pictures and texts ask of it, which a model with two of them keeps apart."""
    shared, two = (make(name, tmp_path / name) for name in ("nano-shared", "nano-two"))
    two.net.load_state_dict(shared.net.state_dict())
    for objective in (shared, two):
        objective.loss(batch()).backward()
    one, both = (dict(objective.net.named_parameters(remove_duplicate=False)) for objective in (shared, two))
    texts = [name for name in both if name.startswith(("transformer.", "ln_final.", "text_projection"))]
    assert len(texts) == 4 * 12 + 2 + 1, "four blocks, the final layer norm and the projection"
    for name in texts:
        images = "visual." + name.replace("ln_final", "ln_post").replace("text_projection", "proj")
        expected = both[name].grad + both[images].grad
        assert one[name] is one[images]
        torch.testing.assert_close(one[name].grad, expected, rtol=0, atol=1e-5 * expected.abs().max().item())


def test_teacher_follows_the_student(tmp_path):
    objective = make("mini-dino", tmp_path)
    teacher, student = objective.teacher.module[0].cls_token, objective.net.cls_token
    before = teacher.clone()
    with torch.no_grad():
        student += 1.0
    objective.after_step(0.0)
    torch.testing.assert_close(teacher, before + 0.01, atol=1e-6, rtol=0)  # momentum 0.99
    halfway = teacher.clone()
    objective.after_step(1.0)
    assert torch.equal(teacher, halfway), "momentum 1 at the end"
    assert objective.shipped() is objective.teacher.module[0]


# ---------------------------------------------------------------- views


def test_shifts_are_slices_of_the_padded_picture():
    pixels = batch(60).pixels
    down_right = np.random.default_rng(3).integers(0, 5, (60, 2))
    assert len(np.unique(down_right, axis=0)) > 20, "of the 25 shifts"
    padded = F.pad(pixels, (2, 2, 2, 2), mode="replicate")
    expected = [picture[:, y : y + 48, x : x + 48] for picture, (y, x) in zip(padded, down_right, strict=True)]
    assert torch.equal(views.shifted(pixels, np.random.default_rng(3)), torch.stack(expected))


def test_crops_are_rectangles_of_the_asked_area_half_of_them_mirrored():
    line = (torch.arange(48) + 0.5) / 48
    x, y = line.expand(48, 48), line[:, None].expand(48, 48)
    pixels = torch.stack([x, y, x]).expand(200, -1, -1, -1)  # each pixel holds its own coordinates
    out = views.crops(pixels, np.random.default_rng(0), (0.2, 0.5), 24)
    assert torch.equal(out[:, 0], out[:, 2])
    steps_x, steps_y = out[:, 0].diff(dim=2), out[:, 1].diff(dim=1)  # (200, 24, 23), (200, 23, 24)
    inner = slice(2, -2)  # the border is clamped
    widths, heights = 24 * steps_x[:, :, inner].mean((1, 2)), 24 * steps_y[:, inner].mean((1, 2))
    assert (steps_y[:, inner] > 0).all(), "never upside down"
    areas = widths.abs() * heights
    assert areas.min() > 0.19
    assert areas.max() < 0.51
    assert areas.std() > 0.05
    assert 0.35 < (widths < 0).float().mean() < 0.65
    ratios = widths.abs() / heights
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35


def test_jitter_keeps_pixels_in_range_and_grays_some():
    pixels = torch.rand(400, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    out = views.jittered(pixels, np.random.default_rng(0))
    assert out.min() >= 0
    assert out.max() <= 1
    gray = ((out - out.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-6).float().mean()
    assert 0.13 < gray < 0.27
    same = ((out - pixels).abs().amax(dim=(1, 2, 3)) < 1e-6).float().mean()
    assert 0.1 < same < 0.25, "a fifth is not distorted, and a fifth of those is gray"


def test_a_turn_of_the_hue_moves_colours_in_a_circle_about_gray():
    primaries = torch.eye(3).view(3, 3, 1, 1)  # red, green, blue
    third = views.turned(primaries, np.full(3, 2 * np.pi / 3))
    torch.testing.assert_close(third, primaries.roll(-1, dims=0))  # red becomes green, green blue, blue red
    grays = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0)).expand(5, 3, 4, 4)
    torch.testing.assert_close(views.turned(grays, np.linspace(0, 6, 5)), grays)
    colours = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    there_and_back = views.turned(views.turned(colours, np.arange(5.0)), -np.arange(5.0))
    torch.testing.assert_close(there_and_back, colours)


def test_the_hue_is_turned_where_asked_alone():
    red = torch.tensor([0.5, 0.2, 0.2]).view(1, 3, 1, 1).expand(200, 3, 8, 8)
    kept, turned = (views.jittered(red, np.random.default_rng(0), hue) for hue in (0.0, 0.5))
    assert (kept.argmax(dim=1) == 0).all(), "red stays red, or becomes gray"
    shares = turned.argmax(dim=1)[:, 0, 0].bincount(minlength=3) / 200
    assert shares.min() > 0.15, "as often green and blue as red"


def test_blur_leaves_flat_pictures_alone():
    flat = torch.full((20, 3, 8, 8), 0.3)
    torch.testing.assert_close(views.blurred(flat, np.random.default_rng(0)), flat)
    spike = torch.zeros(20, 3, 8, 8)
    spike[:, :, 4, 4] = 1
    centres = views.blurred(spike, np.random.default_rng(0))[:, 0, 4, 4]
    assert set(np.round(centres.tolist(), 4)) == {0.25, 1.0}


def test_views_depend_on_the_generator_alone():
    pixels = batch(8).pixels
    one, again = (views.strong(pixels, np.random.default_rng(3), (0.2, 1.0), 24) for _ in range(2))
    assert torch.equal(one, again)
    assert one.shape == (8, 3, 24, 24)


def test_recipes_share_everything_but_the_objective():
    reference = RECIPES["mini-clip"]
    for recipe in (recipe for name, recipe in RECIPES.items() if name.startswith("mini-")):
        same = replace(recipe, name=reference.name, objective="clip", logit_scale=100.0, learned_scale=False)
        assert same == reference


def test_what_alignclip_is_compared_with_differs_in_sharing_and_separation_alone():
    reference = RECIPES["nano-two"]
    assert replace(reference, name="nano-m06", text_layers=2) == RECIPES["nano-m06"]
    for name in ("nano-shared", "nano-align", "nano-align-both"):
        assert RECIPES[name].shared
        same = {"name": reference.name, "objective": "clip", "shared": False, "separate": "image"}
        assert replace(RECIPES[name], **same) == reference
