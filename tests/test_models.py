"""The model face against plain open_clip and timm on the same weights, and every way a spec can fail.

Nothing here is downloaded: real architectures get random weights, and published tags are played by a small
architecture whose weights lie in a hub cache made for the test.
"""

import json
import pickle
import shutil
import subprocess
import sys

import numpy as np
import open_clip
import pytest
import timm
import torch
from huggingface_hub import constants as hub
from open_clip import pretrained
from open_clip.constants import INCEPTION_MEAN, INCEPTION_STD
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from crossgap_lib import hub as hub_face
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models import load as face
from crossgap_lib.models.load import fetch_model, load_model, model_names
from crossgap_lib.models.weights import read_weights

WORDS = ["<pad>", "<unk>", "a", "photo", "of", "dog", "cat", "<sot>", "<eot>"]  # EOT is the highest id
PREPROCESS = {"mean": [0.4] * 3, "std": [0.3] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
VISION = {"image_size": 16, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8}
TEXT = {"context_length": 8, "vocab_size": len(WORDS), "width": 16, "heads": 2, "layers": 2}
CLIP = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT | {"hf_tokenizer_name": "./"}}
SIGLIP = CLIP | {
    "custom_text": True,
    "init_logit_bias": -10,
    "text_cfg": CLIP["text_cfg"] | {"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
}


@pytest.fixture
def picture():
    pixels = np.random.default_rng(0).integers(0, 256, (23, 31, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def ids():
    return torch.tensor([[7, 2, 3, 4, 5, 8, 0, 0], [7, 6, 8, 0, 0, 0, 0, 0]])  # (2, 8)


def frozen(net):
    """Frozen as ours are: torch computes the attention of weights that need a gradient 1e-6 differently."""
    return net.eval().requires_grad_(False)


def write_tokenizer(folder):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<sot> $A <eot>", special_tokens=[("<sot>", 7), ("<eot>", 8)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_open_clip(folder, model_cfg=CLIP, preprocess_cfg=PREPROCESS):
    """An open_clip ``local-dir:`` folder with random weights."""
    folder.mkdir(exist_ok=True)
    write_tokenizer(folder)
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    net = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    save_file(net.state_dict(), folder / "open_clip_model.safetensors")
    return folder


@pytest.fixture
def folder(tmp_path):
    return write_open_clip(tmp_path / "clip")


def write_timm(folder):
    """A timm ``local-dir:`` folder with random weights."""
    args = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 0,
        "global_pool": "token",
        "model_args": args,
    }
    config["pretrained_cfg"] = {
        "input_size": [3, 16, 16],
        "mean": [0.4] * 3,
        "std": [0.3] * 3,
        "crop_pct": 1.0,
    }
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    net = timm.create_model("vit_tiny_patch16_224", num_classes=0, global_pool="token", **args)
    save_file(net.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture
def timm_folder(tmp_path):
    return write_timm(tmp_path / "dino")


def test_a_timm_folder_whose_pictures_do_not_fit_its_encoder_is_refused(timm_folder):
    config = json.loads((timm_folder / "config.json").read_text())
    config["pretrained_cfg"]["input_size"] = [3, 6, 16]
    (timm_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CrossgapError, match=r"pictures of \(6, 16\) pixels, but its encoder takes \(16, 16\)"):
        load_model(f"local-dir:{timm_folder}", device="cpu")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """An architecture ``tiny`` with two published tags, ``openai`` (QuickGELU) and ``laion2b``.

    The hub's cache is a folder of this test that holds their weights, and asking the network fails the test.
    """
    config = CLIP | {"text_cfg": TEXT}  # open_clip's own tokenizer
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-quickgelu", config | {"quick_gelu": True})
    squash = {"mean": INCEPTION_MEAN, "std": INCEPTION_STD, "resize_mode": "squash"}
    tags = {
        "openai": pretrained._pcfg(hf_hub="someone/openai/", quick_gelu=True),
        "laion2b": pretrained._pcfg(hf_hub="someone/laion2b/", **squash),
    }
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", tags)
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny-quickgelu", {"openai": tags["openai"]})
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub_face, "hub_answers", lambda: pytest.fail("asked the network"))
    weights = tmp_path / "weights.safetensors"
    save_file(open_clip.create_model("tiny", load_weights=False).state_dict(), weights)
    for tag in tags:
        _put_in_hub_cache(tmp_path / "hub" / f"models--someone--{tag}", weights)
    return weights


def _put_in_hub_cache(repo, weights):
    commit = "0" * 40
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text(commit)
    (repo / "snapshots" / commit).mkdir(parents=True)
    shutil.copy(weights, repo / "snapshots" / commit / "open_clip_model.safetensors")


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """An empty cache and a hub that does not answer, wherever the tests run."""
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(hub_face, "hub_answers", lambda: False)


# --- real architectures ----------------------------------------------------------------------------------

HALVES = (0.5, 0.5, 0.5)
REAL = {  # spec: (parameters, embedding size, context length, causal, activation, pooling, resize mode, mean)
    "ViT-B-32-quickgelu,random": (
        151_277_313,
        512,
        77,
        True,
        {"image": "QuickGELU", "text": "QuickGELU"},
        {"image": "CLS", "text": "EOT"},
        "shortest",
        open_clip.OPENAI_DATASET_MEAN,
    ),
    "ViT-L-14,random": (
        427_616_513,
        768,
        77,
        True,
        {"image": "GELU", "text": "GELU"},
        {"image": "CLS", "text": "EOT"},
        "shortest",
        open_clip.OPENAI_DATASET_MEAN,
    ),
    "ViT-B-16-SigLIP,random": (
        203_155_970,
        768,
        64,
        False,
        {"image": "GELU", "text": "GELU"},
        {"image": "attention", "text": "last token"},
        "squash",
        HALVES,
    ),
    "ViT-B-16-SigLIP2,random": (
        375_187_970,
        768,
        64,
        False,
        {"image": "GELU", "text": "GELU tanh"},
        {"image": "attention", "text": "last token"},
        "squash",
        HALVES,
    ),
    "timm:vit_small_patch14_dinov2,random": (
        22_056_192,
        384,
        None,
        None,
        {"image": "GELU"},
        {"image": "CLS"},
        "shortest, center crop of 1",
        (0.485, 0.456, 0.406),
    ),
}


def _slow_if_large(spec):
    large = REAL[spec][0] > 300_000_000  # seconds to draw the weights alone
    return pytest.param(spec, marks=pytest.mark.slow) if large else spec


@pytest.mark.parametrize("spec", map(_slow_if_large, REAL))
def test_real_architectures_tell_what_they_are_and_encode(spec, no_hub, picture):
    model = load_model(spec, device="cpu")
    card = model.describe()
    assert REAL[spec] == (
        card.parameters,
        card.embed_dim,
        card.context_length,
        card.causal,
        card.activation,
        card.pooling,
        card.preprocessing["resize_mode"],
        card.preprocessing["mean"],
    )
    pixels = model.preprocess(picture)[None]  # (1, 3, h, w)
    assert pixels.shape[2:] == card.preprocessing["size"]
    features = model.encode_pixels(pixels)
    assert features.shape == (1, card.embed_dim)
    assert torch.equal(features, model.encode_pixels(pixels))
    if model.has_text:
        ids = torch.randint(1, 30_000, (2, card.context_length), generator=torch.Generator().manual_seed(0))
        texts = model.encode_tokens(ids)
        assert texts.shape == (2, card.embed_dim)
        assert torch.equal(texts, model.encode_tokens(ids))
        assert not torch.equal(texts[0], texts[1])
    if "SigLIP" in spec:
        with pytest.raises(CrossgapError, match=f"tokenizer.*`crossgap fetch {spec}`"):
            model.tokenize("a dog")


def test_random_weights_are_what_open_clip_draws_from_that_seed(picture):
    model = load_model("ViT-B-32-quickgelu,random", device="cpu", seed=3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net, _, preprocess = open_clip.create_model_and_transforms("ViT-B-32-quickgelu")
    pixels, ids = (
        preprocess(picture)[None],
        open_clip.get_tokenizer("ViT-B-32-quickgelu")(["a photo of a dog"]),
    )
    assert torch.equal(model.preprocess(picture)[None], pixels)
    assert torch.equal(model.tokenize("a photo of a dog"), ids)
    with torch.no_grad():
        assert torch.equal(model.encode_pixels(pixels), frozen(net).encode_image(pixels))
        assert torch.equal(model.encode_tokens(ids), net.encode_text(ids))


# --- the same checkpoint as plain open_clip and timm -----------------------------------------------------


@pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_a_folder_gives_what_open_clip_gives(tmp_path, picture, config):
    folder = write_open_clip(tmp_path / "model", config)
    model = load_model(f"local-dir:{folder}", device="cpu")
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    pixels, texts = preprocess(picture)[None], ["A photo of a dog", "cat"]
    ids = open_clip.get_tokenizer(f"local-dir:{folder}")(texts)
    assert torch.equal(model.preprocess(picture)[None], pixels)
    assert torch.equal(model.tokenize(texts), ids)
    with torch.no_grad():
        assert torch.equal(model.encode_pixels(pixels), frozen(net).encode_image(pixels))
        assert torch.equal(model.encode_tokens(ids), net.encode_text(ids))
    assert not model.net.training
    assert not any(p.requires_grad for p in model.net.parameters())


def test_the_shipped_mini_gives_what_open_clip_gives(mini, picture):
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{face.paths.MINIS / 'mini-clip'}")
    pixels = preprocess(picture)[None].to(mini.device)
    with torch.no_grad():
        assert torch.equal(mini.encode_pixels(pixels), frozen(net).to(mini.device).encode_image(pixels))
    assert "mini-clip" in model_names()


def test_a_timm_folder_gives_what_timm_gives(timm_folder, picture):
    model = load_model(f"local-dir:{timm_folder}", device="cpu")
    net = frozen(timm.create_model(f"local-dir:{timm_folder}", pretrained=True))
    preprocess = timm.data.create_transform(**timm.data.resolve_model_data_config(net))
    pixels = preprocess(picture)[None]
    assert torch.equal(model.preprocess(picture)[None], pixels)
    with torch.no_grad():
        assert torch.equal(model.encode_pixels(pixels), net(pixels))
    assert model.encode_pixels(pixels).shape == (1, model.embed_dim) == (1, 24)
    assert model.describe().pooling == {"image": "CLS"}


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "P"])
def test_preprocessing_takes_pictures_of_any_mode(folder, timm_folder, picture, mode):
    for path in (folder, timm_folder):
        pixels = load_model(f"local-dir:{path}", device="cpu").preprocess(picture.convert(mode))
        assert pixels.shape == (3, 16, 16)
        assert pixels.dtype == torch.float32


def test_an_image_only_model_says_so(timm_folder, ids):
    model = load_model(f"local-dir:{timm_folder}", device="cpu")
    assert not model.has_text
    assert model.describe().causal is None
    for call in (lambda: model.tokenize("a dog"), lambda: model.encode_tokens(ids), lambda: model.tokenizer):
        with pytest.raises(CrossgapError, match="encodes images only"):
            call()


def test_random_weights_follow_the_seed_and_leave_the_global_generator_alone(tiny):
    before = torch.get_rng_state()
    one, same, other = (load_model("tiny,random", device="cpu", seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.fingerprint == same.fingerprint != other.fingerprint


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("config", [CLIP, SIGLIP], ids=["clip", "siglip"])
def test_low_precision_gives_float32_features_close_to_the_exact_ones(tmp_path, ids, config, precision):
    spec = f"local-dir:{write_open_clip(tmp_path / 'model', config)}"
    exact, fast = load_model(spec, device="cpu"), load_model(spec, device="cpu", precision=precision)
    pixels = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for name, batch in (("encode_pixels", pixels), ("encode_tokens", ids)):
        want, got = getattr(exact, name)(batch), getattr(fast, name)(batch)
        assert got.dtype == torch.float32
        assert not torch.equal(got, want)
        assert torch.cosine_similarity(got, want).min() > 0.999


# --- traps: activation and preprocessing -----------------------------------------------------------------


def test_published_weights_get_the_preprocessing_and_activation_of_their_tag(tiny, ids, monkeypatch):
    openai, laion = load_model("tiny,openai", device="cpu"), load_model("tiny,laion2b", device="cpu")
    assert openai.describe().activation == {"image": "QuickGELU", "text": "QuickGELU"}
    assert "QuickGELU is set because 'openai'" in str(openai.describe())
    assert openai.describe().preprocessing["resize_mode"] == "shortest"
    assert laion.describe().activation == {"image": "GELU", "text": "GELU"}
    assert laion.describe().preprocessing["resize_mode"] == "squash"
    assert laion.describe().preprocessing["mean"] == HALVES

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    net = frozen(open_clip.create_model("tiny-quickgelu", "openai"))
    with torch.no_grad():
        assert torch.equal(openai.encode_tokens(ids), net.encode_text(ids))
    assert not torch.equal(openai.encode_tokens(ids), laion.encode_tokens(ids))  # the same weights
    assert load_model("tiny-quickgelu", device="cpu").fingerprint == openai.fingerprint  # its only tag


def test_a_weights_file_is_read_as_the_tag_in_its_name(tiny, tmp_path):
    named = shutil.copy(tiny, tmp_path / "Tiny-OpenAI.safetensors")
    card = load_model(f"tiny,{named}", device="cpu").describe()
    assert card.activation["image"] == "QuickGELU"
    assert "'openai', which the file name says" in card.notes[1]
    squashed = shutil.copy(tiny, tmp_path / "laion2b.safetensors")
    card = load_model(f"tiny,{squashed}", device="cpu").describe()
    assert (card.activation["image"], card.preprocessing["resize_mode"]) == ("GELU", "squash")
    with pytest.raises(CrossgapError, match="'laion2b' were trained without QuickGELU: load them as tiny"):
        load_model(f"tiny-quickgelu,{squashed}", device="cpu")


def test_a_weights_file_of_unknown_origin_is_not_guessed_at(tiny):
    card = load_model(f"tiny,{tiny}", device="cpu").describe()
    assert card.activation["image"] == "GELU"
    assert "open_clip's default: published weights of tiny differ" in str(card)
    assert "activation is the architecture's own" in str(card)
    card = load_model(f"tiny-quickgelu,{tiny}", device="cpu").describe()
    assert card.activation["image"] == "QuickGELU"


def test_a_file_gets_the_preprocessing_that_all_published_weights_share(tiny, monkeypatch):
    only = {"laion2b": pretrained._PRETRAINED["tiny"]["laion2b"]}
    monkeypatch.setitem(pretrained._PRETRAINED, "tiny", only)
    card = load_model(f"tiny,{tiny}", device="cpu").describe()
    assert card.preprocessing["mean"] == HALVES
    assert "all published weights of tiny" in str(card)


def test_an_empty_tokenizer_name_is_caught_when_ids_leave_the_vocabulary(tmp_path):
    config = CLIP | {"text_cfg": TEXT}
    model = load_model(f"local-dir:{write_open_clip(tmp_path / 'model', config)}", device="cpu")
    with pytest.raises(CrossgapError, match=r"49407.*knows 9: is text_cfg.hf_tokenizer_name empty"):
        model.tokenize("a dog")


# --- the card and the fingerprint ------------------------------------------------------------------------


def test_the_card_reads_well_and_survives_json(folder):
    model = load_model(f"local-dir:{folder}", device="cpu")
    card = model.describe()
    lines = dict(line.split(maxsplit=1) for line in str(card).splitlines() if line.startswith(("causal", "device")))
    assert lines == {"causal": "yes", "device": "cpu"}
    for fact in ("bilinear", "squash", "0.4, 0.4, 0.4", "tokenizer.json", model.fingerprint, "fp32"):
        assert fact in str(card)
        assert fact in card._repr_html_()
    again = json.loads(json.dumps(card.to_dict()))
    assert again["parameters"] == sum(t.numel() for t in load_file(folder / "open_clip_model.safetensors").values())
    assert again["logit_scale"] == pytest.approx(1 / 0.07)
    assert "net=" not in repr(model)


def test_the_fingerprint_sees_whatever_features_depend_on(tmp_path, folder):
    def fingerprint(path):
        return load_model(f"local-dir:{path}", device="cpu").fingerprint

    def changed(name, change):
        copy = shutil.copytree(folder, tmp_path / name)
        change(copy)
        return fingerprint(copy)

    def edit(file, old, new):
        def change(copy):
            text = (copy / file).read_text()
            assert old in text
            (copy / file).write_text(text.replace(old, new))

        return change

    def nudge(copy):
        weights = load_file(copy / "open_clip_model.safetensors")
        weights["visual.proj"][0, 0] += 1e-3
        save_file(weights, copy / "open_clip_model.safetensors")

    config = "open_clip_config.json"
    found = {
        "original": fingerprint(folder),
        "weight": changed("weight", nudge),
        "activation": changed("activation", edit(config, '"embed_dim"', '"quick_gelu": true, "embed_dim"')),
        "mean": changed("mean", edit(config, "0.4", "0.45")),
        "tokenizer": changed("tokenizer", edit("tokenizer.json", '"dog"', '"dot"')),
        "heads of images": changed("heads-i", edit(config, '"head_width": 8', '"head_width": 16')),
        "heads of texts": changed("heads-t", edit(config, '"heads": 2', '"heads": 4')),
        "eps": changed("eps", edit(config, '"layers": 2', '"layers": 2, "norm_kwargs": {"eps": 1e-3}')),
    }
    assert len(set(found.values())) == len(found)
    assert changed("moved", lambda copy: None) == found["original"]
    assert int(found["original"], 16) > 0


def test_the_fingerprint_of_a_timm_model_sees_its_heads_and_pooling(timm_folder):
    def fingerprint(**args):
        config = json.loads((timm_folder / "config.json").read_text())
        config["model_args"] |= args
        (timm_folder / "config.json").write_text(json.dumps(config))
        return load_model(f"local-dir:{timm_folder}", device="cpu").fingerprint

    found = [fingerprint(), fingerprint(num_heads=4), fingerprint(num_heads=2), fingerprint(pool_include_prefix=True)]
    assert found[0] == found[2]
    assert len(set(found)) == 3


# --- what can go wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "close"),
    [
        ("ViT-B32-quickgelu,openai", "ViT-B-32-quickgelu"),
        ("ViT-B-32-quickgelu,opnai", "openai"),
        ("vit_small_patch14_dinov2", "timm:vit_small_patch14_dinov2"),
        ("timm:vit_smal_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("mini-clop", "mini-clip"),
    ],
)
def test_unknown_names_list_the_closest(spec, close, monkeypatch, tmp_path):
    (tmp_path / "mini-clip").mkdir()
    monkeypatch.setattr(face.paths, "MINIS", tmp_path)
    with pytest.raises(CrossgapError) as error:
        load_model(spec)
    closest = str(error.value).partition("Did you mean: ")[2].rstrip("?").split(", ")
    assert close in closest
    assert len(closest) <= 5


def test_a_name_alone_lists_its_tags():
    with pytest.raises(CrossgapError, match=r"A tag is needed for ViT-B-16\. Known: openai, .*, random"):
        load_model("ViT-B-16")


@pytest.mark.parametrize(
    ("spec", "missing"),
    [
        ("ViT-B-32-quickgelu,openai", "weights (timm/vit_base_patch32_clip_224.openai)"),
        ("ViT-B-16-SigLIP2", "weights (timm/ViT-B-16-SigLIP2)"),
        ("timm:vit_tiny_patch16_224", "weights (vit_tiny_patch16_224)"),
    ],
)
@pytest.mark.parametrize("load", [load_model, fetch_model])
def test_missing_weights_name_the_command_that_fetches_them(spec, missing, load, no_hub):
    with pytest.raises(CrossgapError) as error:
        load(spec)
    assert missing in str(error.value)
    assert f"`crossgap fetch {spec}`" in str(error.value)


HUB_B32 = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


@pytest.mark.parametrize(
    ("spelling", "known_as"),
    [
        ("ViT-B/32,openai", "ViT-B-32,openai"),
        ("ViT-L/14@336px,openai", "ViT-L-14-336,openai"),
        ("openai/clip-vit-base-patch32", "ViT-B-32-quickgelu,openai"),
        ("facebook/dinov2-small", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("timm:hf_hub:timm/vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("timm:timm/vit_small_patch14_dinov2.lvd142m", "timm:vit_small_patch14_dinov2.lvd142m"),
        ("timm/ViT-B-16-SigLIP2", "ViT-B-16-SigLIP2,webli"),
        (f"hf-hub:{HUB_B32}", "ViT-B-32,laion2b_s34b_b79k"),
        (f"{hub.ENDPOINT}/{HUB_B32}", "ViT-B-32,laion2b_s34b_b79k"),
        ("hf-hub:them/theirs", "hf-hub:them/theirs"),
        ("them/theirs", "hf-hub:them/theirs"),
    ],
)
def test_other_spellings_are_taken_for_what_they_mean(spelling, known_as, no_hub):
    with pytest.raises(CrossgapError, match="Not in the local cache") as error:
        load_model(spelling)
    assert f"`crossgap fetch {known_as}`" in str(error.value)


def test_other_spellings_that_mean_nothing_here(folder, tmp_path, no_hub):
    assert load_model(str(folder), device="cpu").name == f"local-dir:{folder}"
    with pytest.raises(CrossgapError, match=r"no model named 'ViT-B/33'.* Did you mean: .*ViT-B-32"):
        load_model("ViT-B/33,openai")
    with pytest.raises(CrossgapError, match="hf-hub:them/theirs brings its own: leave them out"):
        load_model("hf-hub:them/theirs,openai")
    theirs = {"model_type": "clip", "architectures": ["CLIPModel"], "_name_or_path": "openai/clip-vit-large-patch14"}
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(CrossgapError, match=r"a transformers model \(clip\).* such as ViT-L-14-quickgelu,openai"):
        load_model(f"local-dir:{tmp_path}")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    class Session:
        def head(self, url, timeout):
            asked.append((url, timeout))
            raise ConnectionError

    monkeypatch.setattr(hub_face, "get_session", Session)
    assert not hub_face.hub_answers()
    assert asked == [(hub.ENDPOINT, 5)]
    monkeypatch.setattr(Session, "head", lambda *_, **__: None)
    assert hub_face.hub_answers()


def test_where_the_hub_answers_what_is_missing_is_downloaded(tiny, monkeypatch):
    def download(cfg):
        if hub.HF_HUB_OFFLINE:
            raise FileNotFoundError
        return str(tiny)

    monkeypatch.setattr(open_clip, "download_pretrained", download)
    monkeypatch.setattr(hub_face, "hub_answers", lambda: True)
    assert load_model("tiny,openai", device="cpu").net.visual.image_size == (16, 16)
    assert not hub.HF_HUB_OFFLINE  # put back as it was

    def refuse(cfg):
        raise PermissionError("401 Unauthorized")

    monkeypatch.setattr(open_clip, "download_pretrained", refuse)
    with pytest.raises(CrossgapError, match=r"weights \(someone/openai\) of tiny,openai can't be fetched: 401"):
        load_model("tiny,openai", device="cpu")


def test_fetch_says_what_is_where(tiny, folder, tmp_path):
    assert fetch_model("tiny,openai").endswith(f"weights and tokenizer (CLIP BPE): cached in {tmp_path / 'hub'}.")
    assert f"read from {folder}" in fetch_model(f"local-dir:{folder}")
    assert "nothing to download" in fetch_model("timm:vit_tiny_patch16_224,random")


def test_the_wrong_architecture_names_the_first_misfits(tiny, tmp_path):
    wide = CLIP | {"vision_cfg": VISION | {"width": 32}, "text_cfg": TEXT | {"width": 32}}
    other = write_open_clip(tmp_path / "wide", wide) / "open_clip_model.safetensors"
    with pytest.raises(CrossgapError, match=r"visual\.proj is \(32, 8\) where the model has \(16, 8\)"):
        load_model(f"tiny,{other}", device="cpu")


def test_missing_tensors_are_named(tiny, tmp_path):
    weights = load_file(tiny)
    del weights["visual.proj"]
    save_file(weights, tmp_path / "cut.safetensors")
    with pytest.raises(CrossgapError, match=r"Missing key.*visual\.proj"):
        load_model(f"tiny,{tmp_path / 'cut.safetensors'}", device="cpu")


def test_a_torch_file_of_tensors_loads_and_a_pickle_never_runs(tiny, tmp_path):
    torch.save({"state_dict": load_file(tiny)}, tmp_path / "weights.pt")
    model = load_model(f"tiny,{tmp_path / 'weights.pt'}", device="cpu")
    assert model.fingerprint == load_model(f"tiny,{tiny}", device="cpu").fingerprint

    class Harm:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    for write in (torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing))):
        write(Harm(), tmp_path / "harm.pt")
        with pytest.raises(CrossgapError, match=r"harm\.pt can't be loaded"):
            load_model(f"tiny,{tmp_path / 'harm.pt'}", device="cpu")
    assert not (tmp_path / "harm").exists()


WRAPPED = {  # as training scripts and others keep the same weights
    "numbers of numpy": lambda w: {"best": np.float64(0.5), "step": np.int64(3), "state_dict": w},
    "model": lambda w: {"model": w, "epoch": 3},
    "twice": lambda w: {"model": {"state_dict": w}},
    "prefixes": lambda w: {"state_dict": {f"_orig_mod.module.{name}": tensor for name, tensor in w.items()}},
    "OpenAI's facts": lambda w: w | {"input_resolution": torch.tensor(224), "vocab_size": torch.tensor(49408)},
}


@pytest.mark.parametrize("kind", WRAPPED)
@pytest.mark.parametrize("zipped", [True, False])
def test_sound_weights_are_found_in_what_is_wrapped_around_them(tiny, tmp_path, kind, zipped):
    wanted = load_file(tiny)
    torch.save(WRAPPED[kind](wanted), tmp_path / "weights.pt", _use_new_zipfile_serialization=zipped)
    found = read_weights(tmp_path / "weights.pt")
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    assert load_model(f"tiny,{tmp_path / 'weights.pt'}", device="cpu").embed_dim == 8


def test_a_weights_file_is_what_its_content_says(tiny, tmp_path):
    wanted = load_file(tiny)
    shutil.copy(tiny, tmp_path / "weights.bin")
    torch.save(wanted, tmp_path / "torch.safetensors")
    for name in ("weights.bin", "torch.safetensors"):
        assert read_weights(tmp_path / name).keys() == wanted.keys()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 605157884\n", "run `git lfs pull`"),
        ("\n<!DOCTYPE html><html></html>", "is a web page"),
        ("<html>404</html>", "is a web page"),
        ("", "neither a safetensors file nor"),
        ("GGUF", "neither a safetensors file nor"),
    ],
)
@pytest.mark.parametrize("of_timm", [False, True])
def test_files_that_are_no_weights_say_what_they_are(tiny, timm_folder, tmp_path, content, sentence, of_timm):
    file = timm_folder / "model.safetensors" if of_timm else tmp_path / "weights.pt"
    file.write_text(content)
    with pytest.raises(CrossgapError, match=sentence) as error:
        load_model(f"local-dir:{timm_folder}" if of_timm else f"tiny,{file}", device="cpu")
    assert str(error.value).startswith(f"{file} can't be loaded: it is ")


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_corrupt_file_is_one_sentence(tiny, tmp_path, suffix):
    broken = tmp_path / f"broken.{suffix}"
    broken.write_bytes(tiny.read_bytes()[:1000])
    with pytest.raises(CrossgapError, match=rf"broken\.{suffix} can't be loaded: ."):
        load_model(f"tiny,{broken}", device="cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_refused(tiny, tmp_path, value):
    weights = load_file(tiny)
    weights["ln_final.weight"][3] = value
    save_file(weights, tmp_path / "bad.safetensors")
    with pytest.raises(CrossgapError, match=r"NaN or infinity, first in ln_final\.weight"):
        load_model(f"tiny,{tmp_path / 'bad.safetensors'}", device="cpu")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda f: shutil.rmtree(f), "is not a folder"),
        (lambda f: (f / "open_clip_config.json").unlink(), "holds neither open_clip_config.json"),
        (lambda f: (f / "open_clip_config.json").write_text("{"), r"open_clip_config\.json can't be read"),
        (lambda f: (f / "open_clip_config.json").write_text("{}"), "missing 'model_cfg'"),
        (lambda f: (f / "open_clip_model.safetensors").unlink(), "holds no weights"),
        (lambda f: (f / "open_clip_model.safetensors").write_bytes(b"no"), "can't be loaded"),
    ],
)
def test_a_spoiled_folder_says_what_is_wrong(folder, spoil, sentence):
    spoil(folder)
    with pytest.raises(CrossgapError, match=sentence):
        load_model(f"local-dir:{folder}", device="cpu")


# --- code that comes with a model ------------------------------------------------------------------------


def plant(folder, where, name="AutoTokenizer"):
    """A Python file that leaves a trace where it runs, named by the ``auto_map`` of a configuration."""
    trace = folder.parent / "it-ran"
    (folder / "own.py").write_text(f"open({str(trace)!r}, 'w').close()\nclass Own: pass\n")
    config = json.loads((folder / where).read_text()) if (folder / where).exists() else {}
    entry = ["own.Own", None] if name == "AutoTokenizer" else "own.Own"
    (folder / where).write_text(json.dumps(config | {"auto_map": {name: entry}}))
    return trace


def edit_text_cfg(folder, **changes):
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"] |= changes
    path.write_text(json.dumps(config))


@pytest.fixture
def nobody_is_asked(monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))


@pytest.mark.parametrize("load", [load_model, fetch_model])
@pytest.mark.parametrize("trusting", [{"trust_remote_code": True}, {}], ids=["trusting", "silent"])
@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
def test_a_folder_that_brings_code_is_refused_and_nothing_runs(folder, load, trusting, where, nobody_is_asked):
    edit_text_cfg(folder, tokenizer_kwargs=trusting)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "Own"}))
    trace = plant(folder, where)
    with pytest.raises(CrossgapError, match=rf"{where} asks for Python code of its own \(auto_map\)"):
        load(f"local-dir:{folder}")
    assert not trace.exists()


def test_the_command_line_runs_no_code_of_a_folder(folder, tmp_path):
    """In a process of its own, with "yes" on its standard input."""
    edit_text_cfg(folder, tokenizer_kwargs={"trust_remote_code": True})
    trace = plant(folder, "tokenizer_config.json")
    (tmp_path / "texts.txt").write_text("a dog\n")
    embed = ["embed", "--model", f"local-dir:{folder}", "--texts", tmp_path / "texts.txt", "--out", tmp_path / "x.npz"]
    for command in (["fetch", f"local-dir:{folder}"], embed):
        call = [sys.executable, "-c", "from crossgap_lib.cli import main; main()", *map(str, command)]
        run = subprocess.run(call, input="y\ny\n", capture_output=True, text=True, timeout=300, check=False)
        assert run.returncode == 1
        assert "code that comes with a model is never run" in " ".join(run.stderr.split())
        assert len(run.stderr.strip().splitlines()) == 1
    assert not trace.exists()


def test_arguments_of_a_tokenizer_are_taken_from_a_short_list(folder):
    edit_text_cfg(folder, tokenizer_kwargs={"trust_remote_code": True, "subfolder": "..", "clean": "lower"})
    model = load_model(f"local-dir:{folder}", device="cpu")
    with pytest.raises(CrossgapError, match="gives its tokenizer subfolder, trust_remote_code, which is not taken"):
        model.tokenize("a dog")
    edit_text_cfg(folder, tokenizer_kwargs={"clean": "lower"})
    assert load_model(f"local-dir:{folder}", device="cpu").tokenize("a  dog").tolist() == [[7, 2, 5, 8, 0, 0, 0, 0]]


def test_a_text_encoder_of_transformers_that_brings_code_is_refused(folder, tmp_path, nobody_is_asked):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "config.json").write_text(json.dumps({"model_type": "of-my-own"}))
    trace = plant(theirs, "config.json", "AutoConfig")
    edit_text_cfg(folder, hf_model_name=str(theirs))
    with pytest.raises(CrossgapError, match=r"The text encoder .*theirs asks for Python code of its own"):
        load_model(f"local-dir:{folder}", device="cpu")
    assert not trace.exists()


def test_a_tokenizer_of_the_hub_that_brings_code_is_refused(tiny, folder, monkeypatch, nobody_is_asked):
    """An architecture may name a tokenizer by hub name or by path; a folder stands for the hub here."""
    trace = plant(folder, "tokenizer_config.json")
    config = CLIP | {"text_cfg": TEXT | {"hf_tokenizer_name": str(folder)}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny", config)
    model = load_model("tiny,random", device="cpu")
    with pytest.raises(CrossgapError, match=r"The tokenizer .* asks for Python code of its own"):
        model.tokenize("a dog")
    assert not trace.exists()


def test_a_timm_folder_that_brings_code_is_refused(timm_folder):
    trace = plant(timm_folder, "config.json", "AutoModel")
    with pytest.raises(CrossgapError, match=r"config\.json asks for Python code of its own"):
        load_model(f"local-dir:{timm_folder}", device="cpu")
    assert not trace.exists()


def test_a_timm_folder_with_a_pickle_for_weights_runs_nothing(timm_folder):
    class Evil:
        def __reduce__(self):
            return open, (str(timm_folder / "it-ran"), "w")

    (timm_folder / "model.safetensors").unlink()
    torch.save({"norm.weight": Evil()}, timm_folder / "pytorch_model.bin")
    with pytest.raises(CrossgapError, match=r"pytorch_model\.bin can't be loaded: .* holds Python objects"):
        load_model(f"local-dir:{timm_folder}", device="cpu")
    assert not (timm_folder / "it-ran").exists()


# --- what is missing or spoiled ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "{}"])
def test_a_missing_or_spoiled_tokenizer_hurts_only_text(folder, content, picture):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()
    if content:
        (folder / "tokenizer.json").write_text(content)
    model = load_model(f"local-dir:{folder}", device="cpu")
    assert model.encode_pixels(model.preprocess(picture)[None]).shape == (1, 8)
    with pytest.raises(CrossgapError, match=r"The tokenizer in .* can't be read"):
        model.tokenize("a dog")


def test_a_spoiled_timm_folder_is_one_sentence(timm_folder):
    weights = load_file(timm_folder / "model.safetensors")
    weights["norm.weight"] = torch.ones(7)
    save_file(weights, timm_folder / "model.safetensors")
    with pytest.raises(CrossgapError, match=r"can't be loaded as a timm model: .*norm\.weight"):
        load_model(f"local-dir:{timm_folder}", device="cpu")
    (timm_folder / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CrossgapError, match=r"holds a transformers model \(bert\)"):
        load_model(f"local-dir:{timm_folder}", device="cpu")


def test_what_can_not_be_asked_for(folder, ids):
    spec = f"local-dir:{folder}"
    with pytest.raises(CrossgapError, match="device 'cuda:99' can't be used here"):
        load_model(spec, device="cuda:99")
    with pytest.raises(CrossgapError, match="device 'gpu' can't be used here"):
        load_model(spec, device="gpu")
    with pytest.raises(CrossgapError, match="Precision 'int8' is not one of fp32, bf16, fp16"):
        load_model(spec, precision="int8")
    with pytest.raises(CrossgapError, match="names no weights that timm has"):
        load_model("timm:vit_tiny_patch16_224,openai")
    with pytest.raises(CrossgapError, match=r"takes ids \(b, 8\), not \(2, 5\)"):
        load_model(spec, device="cpu").encode_tokens(ids[:, :5])


def test_model_names_holds_every_kind():
    names = set(model_names())
    assert {"ViT-B-16-SigLIP2", "timm:vit_base_patch14_dinov2.lvd142m", "timm:resnet50"} <= names
