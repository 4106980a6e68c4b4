"""The files of a mini: open_clip's ``local-dir:`` format, timm's for the image-only one."""

import json
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from safetensors.torch import save
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn

from crossgap_lib.datasets import world
from crossgap_lib.pretrain.recipes import Recipe
from crossgap_lib.store import whole

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
CONTEXT = 24
_HEADS, _PATCH = 4, 8
_TIMM = "vit_tiny_patch16_224"


def _open_clip_config(recipe: Recipe, vocabulary: int) -> dict[str, Any]:
    """Both towers in open_clip's words."""
    vision = {
        "image_size": world.SIZE,
        "layers": recipe.image_layers,
        "width": recipe.width,
        "head_width": recipe.width // _HEADS,
        "patch_size": _PATCH,
    }
    text = {
        "context_length": CONTEXT,
        "width": recipe.width,
        "heads": _HEADS,
        "layers": recipe.text_layers,
        "pool_type": "argmax",
        "vocab_size": vocabulary,
        "hf_tokenizer_name": "./",
    }
    return {"embed_dim": recipe.width, "vision_cfg": vision, "text_cfg": text}


def _timm_arguments(recipe: Recipe) -> dict[str, Any]:
    """The same image tower in timm's words: pre_norm is CLIP's layer norm before the first block."""
    return {
        "img_size": world.SIZE,
        "patch_size": _PATCH,
        "embed_dim": recipe.width,
        "depth": recipe.image_layers,
        "num_heads": _HEADS,
        "pre_norm": True,
        "dynamic_img_size": True,
    }


def _tokenizer(words: list[str]) -> Tokenizer:
    """One id a word, lower-cased; EOT has the highest id, because open_clip's ``argmax`` pooling finds it so."""
    specials = {"<pad>": 0, "<unk>": 1}
    ids = {**specials, **{w: i + 2 for i, w in enumerate(words)}}
    ids |= {"<sot>": len(ids), "<eot>": len(ids) + 1}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    pair = [("<sot>", ids["<sot>"]), ("<eot>", ids["<eot>"])]
    tokenizer.post_processor = processors.TemplateProcessing(single="<sot> $A <eot>", special_tokens=pair)
    return tokenizer


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_open_clip(folder: Path, recipe: Recipe, *, logit_bias: float | None = None) -> None:
    """Config and tokenizer of a dual encoder in open_clip's format; the weights come later."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _tokenizer(world.vocabulary())
    preprocess = {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash", "size": world.SIZE}
    model_cfg = _open_clip_config(recipe, tokenizer.get_vocab_size())
    if logit_bias is not None:
        model_cfg["init_logit_bias"] = logit_bias
    write_json(folder / "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": preprocess})
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<sot>", "eos_token": "<eot>"}
    fast = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": CONTEXT, **names}
    write_json(folder / "tokenizer_config.json", fast)


def write_timm(folder: Path, recipe: Recipe) -> None:
    """Config of an image-only encoder in timm's format; the weights come later."""
    folder.mkdir(parents=True, exist_ok=True)
    size = {"input_size": [3, world.SIZE, world.SIZE], "crop_pct": 1.0, "crop_mode": "squash"}
    seen = {**size, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    config = {"architecture": _TIMM, "num_classes": 0, "global_pool": "token"}
    write_json(folder / "config.json", {**config, "model_args": _timm_arguments(recipe), "pretrained_cfg": seen})


def write_weights(folder: Path, net: nn.Module) -> None:
    """fp16 weights: half the size, features off by up to 2e-3, so the card is measured after reloading them.

    Weights that two encoders share are written for each of them, as a plain CLIP has it.
    """
    halves = {name: t.detach().cpu().half().contiguous() for name, t in net.state_dict().items()}
    name = "model.safetensors" if (folder / "config.json").is_file() else "open_clip_model.safetensors"
    with whole(folder / name) as part:
        part.write_bytes(save(halves, metadata={"format": "pt"}))


def new_open_clip(folder: Path, seed: int, *, shared: bool = False) -> nn.Module:
    """The dual encoder that the folder's config describes, with first weights drawn from ``seed``.

    With ``shared`` (SharedCLIP, Eslami and de Melo 2025), pictures and texts pass through the same transformer, final
    layer norm and projection. Each keeps what comes before: patches, CLS and a layer norm, or words; and positions.
    """
    config = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = open_clip.CLIP(**config)
    if shared:
        net.transformer, net.ln_final = net.visual.transformer, net.visual.ln_post
        net.text_projection = net.visual.proj
    return net


def new_timm(recipe: Recipe) -> nn.Module:
    """The image-only encoder with first weights drawn from the recipe's seed."""
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        return timm.create_model(_TIMM, num_classes=0, global_pool="token", **_timm_arguments(recipe))
