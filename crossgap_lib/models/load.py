"""Loading models by name: open_clip's CLIP family, timm's image-only models and local checkpoints.

``load_model("mini-clip")`` needs no network. Published weights come from the local cache, or from the hub
where it answers; where it does not, the error names what is missing and the command that fetches it.

No Python code that comes with a model is ever run: configurations that ask for some are refused.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import open_clip
import timm
import torch
from huggingface_hub import constants as hub
from open_clip.factory import _find_checkpoint_in_dir, load_state_dict  # the very file open_clip would take
from open_clip.transform import MaybeConvertMode
from torch import Tensor, nn
from torchvision.transforms import Compose
from transformers import PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from crossgap_lib import paths
from crossgap_lib.errors import CrossgapError, brief, did_you_mean, one_sentence
from crossgap_lib.hub import cache_only, cached_first
from crossgap_lib.models.encoder import AUTOCAST, DualEncoder
from crossgap_lib.store import digest

TOKENIZER_ARGUMENTS = ("clean", "strip_sep_token", "language")  # what a configuration may tell a tokenizer
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what open_clip keeps per published tag
RANDOM = "random weights, nothing to download"


def load_model(spec: str, *, device: str | None = None, precision: str = "fp32", seed: int = 0) -> DualEncoder:
    """The model that ``spec`` names, frozen and in eval mode.

    ``spec`` is one of
      - ``mini-clip``: a model shipped with the project (``data/minis/``);
      - ``ViT-B-32-quickgelu,openai``: an open_clip architecture and a published tag, which may be left out
        where there is only one;
      - ``ViT-B-32,PATH``: the same with a weights file (safetensors, or a torch file of plain tensors);
      - ``ViT-B-32,random``: seeded random weights, no download;
      - ``local-dir:PATH``: a folder with ``open_clip_config.json`` (open_clip) or ``config.json`` (timm);
      - ``timm:NAME`` or ``timm:NAME,random``: an image-only timm model.

    ``device`` is CUDA where there is one unless told; ``precision`` is fp32, bf16 or fp16 (autocast; features
    come out as float32); ``seed`` is for random weights. The global random state is left as it was.

    Raises CrossgapError for names, files and devices that are unknown, missing, corrupt or unfit, and for
    weights that are not in the cache while the hub does not answer.
    """
    if precision not in AUTOCAST:
        raise CrossgapError(f"Precision {precision!r} is not one of {', '.join(AUTOCAST)}.")
    device = _usable(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with torch.random.fork_rng(devices=[]):  # modules draw their first weights even if a checkpoint follows
        torch.default_generator.manual_seed(seed)
        model = _build(spec)
    model.net.eval().requires_grad_(False)
    _refuse_nan(model)
    model.net.to(device)
    return replace(model, device=device, precision=precision)


def fetch_model(spec: str) -> str:
    """Bring weights and tokenizer of ``spec`` into the local cache; returns a sentence on what is where.

    Raises CrossgapError as ``load_model`` does.
    """
    model = load_model(spec, device="cpu")
    ready = "weights"
    if model.has_text and model.tokenizer:  # building the tokenizer is what caches it
        ready += f" and tokenizer ({model.tokenizer_name})"
    return f"{spec} is ready for offline use, {ready}: {model.notes[0]}."


def model_names() -> list[str]:
    """Every name that ``load_model`` takes before the comma: the shipped minis, open_clip's and timm's."""
    return [*_shipped(), *open_clip.list_models(), *_timm_names()]


def _shipped() -> list[str]:
    return sorted(path.name for path in paths.MINIS.glob("*") if path.is_dir())


def _build(spec: str) -> DualEncoder:
    if spec.startswith("timm:"):
        return _from_timm(spec)
    if spec.startswith("local-dir:"):
        return _from_folder(spec, Path(spec.removeprefix("local-dir:")).expanduser())
    if spec in _shipped():
        return _from_folder(spec, paths.MINIS / spec)
    return _from_open_clip(spec)


def _from_folder(spec: str, folder: Path) -> DualEncoder:
    for file in sorted(folder.glob("*config.json")):
        with one_sentence(f"{file} can't be read"):
            _refuse_code(json.loads(file.read_text(encoding="utf-8")), str(file))
    if (folder / "open_clip_config.json").is_file():
        return _open_clip_folder(spec, folder)
    if (folder / "config.json").is_file():
        with cache_only(), one_sentence(f"{folder} can't be loaded as a timm model"):
            # pretrained=False would silently give random weights
            net = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        return _timm(spec, net, f"read from {folder}")
    lack = "holds neither open_clip_config.json (open_clip) nor config.json (timm)"
    raise CrossgapError(f"{folder} {lack if folder.is_dir() else 'is not a folder'}.")


# --- open_clip -------------------------------------------------------------------------------------------


def _from_open_clip(spec: str) -> DualEncoder:
    arch, _, weights = spec.partition(",")
    if arch not in open_clip.list_models():
        raise CrossgapError(f"There is no model named {arch!r}.{did_you_mean(arch, model_names())}")
    tags = open_clip.list_pretrained_tags_by_model(arch)
    if not weights and len(tags) == 1:
        weights = tags[0]
    if weights == "random":
        settings, note = _settings(arch, tags)
        return _open_clip(spec, arch, None, (RANDOM, note), settings)
    if open_clip.is_pretrained_cfg(arch, weights):
        return _published(spec, arch, weights)
    if Path(weights).expanduser().is_file():
        return _weights_file(spec, arch, Path(weights).expanduser())
    fault = f"{weights!r} is neither a weights file nor a published tag" if weights else "A tag is needed"
    close = did_you_mean(weights, tags) or f" Known: {', '.join([*tags, 'random'])}."
    raise CrossgapError(f"{fault} for {arch}.{close}")


def _published(spec: str, arch: str, tag: str) -> DualEncoder:
    cfg = open_clip.get_pretrained_cfg(arch, tag)
    what = f"weights ({cfg['hf_hub'].strip('/')})"
    file = cached_first(lambda: open_clip.download_pretrained(cfg), what, spec)
    settings, _ = _settings(arch, [tag])
    force, why = _quick_gelu(arch, arch, tag)
    notes = (f"cached in {hub.HF_HUB_CACHE}", *why)
    return _open_clip(spec, arch, file, notes, {**settings, "force_quick_gelu": force})


def _weights_file(spec: str, arch: str, file: Path) -> DualEncoder:
    """A file says nothing of preprocessing or activation; its name may hold the tag it was published as."""
    base = arch.removesuffix("-quickgelu")  # lists every tag, those without QuickGELU too
    tags = open_clip.list_pretrained_tags_by_model(base)
    label = file.name.lower().replace("-", "_")
    named = max((tag for tag in tags if tag in label), key=len, default=None)
    settings, note = _settings(base, [named] if named else tags)
    if named:
        settings["force_quick_gelu"], why = _quick_gelu(arch, base, named)
        why = (f"preprocessing is that of {named!r}, which the file name says", *why)
    else:
        why = (note, "the file name says no published tag: the activation is the architecture's own")
    return _open_clip(spec, arch, str(file), (f"read from {file}", *why), settings)


def _settings(arch: str, tags: list[str]) -> tuple[dict[str, Any], str]:
    """The preprocessing on which all ``tags`` agree, as arguments of open_clip, and a sentence about it.

    open_clip itself gives weights by path and random ones OpenAI's preprocessing, whatever the architecture.
    """
    cfgs = [[open_clip.get_pretrained_cfg(arch, tag)[key] for key in PREPROCESSING] for tag in tags]
    if cfgs and all(cfg == cfgs[0] for cfg in cfgs):
        settings = {f"image_{key}": value for key, value in zip(PREPROCESSING, cfgs[0], strict=True)}
        return settings, f"preprocessing is that of all published weights of {arch}"
    why = "differ in it" if cfgs else "do not exist"
    return {}, f"preprocessing is open_clip's default: published weights of {arch} {why}"


def _quick_gelu(arch: str, base: str, tag: str) -> tuple[bool, tuple[str, ...]]:
    """Whether to force QuickGELU for ``tag``: open_clip only warns, and the features would be wrong."""
    wanted = open_clip.get_pretrained_cfg(base, tag).get("quick_gelu", False)
    declared = open_clip.get_model_config(arch).get("quick_gelu", False)
    if declared and not wanted and base != arch:
        raise CrossgapError(f"The weights {tag!r} were trained without QuickGELU: load them as {base}.")
    if wanted and not declared:
        return True, (f"QuickGELU is set because {tag!r} was trained with it, which {arch} does not say",)
    return False, ()


def _open_clip_folder(spec: str, folder: Path) -> DualEncoder:
    with one_sentence(f"{folder / 'open_clip_config.json'} can't be read"):
        config = json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
        file = _find_checkpoint_in_dir(folder)
    if file is None:
        raise CrossgapError(f"{folder} holds no weights, such as open_clip_model.safetensors.")
    arch, notes = f"local-dir:{folder}", [f"read from {folder}"]
    if not config.get("preprocess_cfg"):
        notes.append("the folder states no preprocessing, so it is open_clip's default")
    model = _open_clip(spec, arch, file, tuple(notes), {})
    if (folder / "tokenizer.json").is_file():  # its content, since features depend on that and not on its path
        content = digest([(folder / "tokenizer.json").read_bytes()])[:8]
        model = replace(model, tokenizer_name=f"tokenizer.json {content}")

    def make_tokenizer() -> Callable[..., Tensor]:
        with one_sentence(f"The tokenizer in {folder} can't be read"):
            return _tokenizer(arch)

    return replace(model, make_tokenizer=make_tokenizer)


def _open_clip(spec: str, arch: str, file: str | None, notes: tuple[str, ...], settings: dict[str, Any]) -> DualEncoder:
    """Build ``arch`` with open_clip's arguments ``settings`` and fill it from ``file``."""
    off = {"load_weights": False, "pretrained_text": False}

    def build() -> tuple[nn.Module, Any, Any]:
        if name := _text_cfg(arch).get("hf_model_name"):
            _refuse_code(PretrainedConfig.get_config_dict(name)[0], f"The text encoder {name}")
        return open_clip.create_model_and_transforms(arch, **off, **settings)

    net, _, preprocess = cached_first(build, "configuration", spec)
    if file is not None:
        _fill(net, file)
    config = open_clip.get_model_config(arch)
    text = config["text_cfg"]
    clean = (text.get("tokenizer_kwargs") or {}).get("clean")  # canonicalize and lower fold the case
    return DualEncoder(
        name=spec,
        net=net,
        preprocess=preprocess,
        preprocessing={"size": _pair(net.visual.image_size)} | {k: net.visual.preprocess_cfg[k] for k in PREPROCESSING},
        embed_dim=config["embed_dim"],
        notes=notes,
        context_length=text.get("context_length", 77),
        tokenizer_name=(text.get("hf_tokenizer_name") or "CLIP BPE") + (f", clean={clean}" if clean else ""),
        make_tokenizer=lambda: _tokenizer(arch),
    )


def _text_cfg(arch: str) -> dict[str, Any]:
    """What the configuration of ``arch`` says of texts; {} where it says nothing that can be read."""
    try:
        config = open_clip.get_model_config(arch)
    except Exception:  # open_clip itself says what is wrong, when it builds the model
        return {}
    return (config or {}).get("text_cfg") or {}


def _tokenizer(arch: str) -> Callable[..., Tensor]:
    """open_clip's tokenizer of ``arch``. transformers neither runs code for it nor asks whether it may."""
    text = _text_cfg(arch)
    if unknown := sorted(set(text.get("tokenizer_kwargs") or {}) - set(TOKENIZER_ARGUMENTS)):
        raise CrossgapError(
            f"The configuration of {arch} gives its tokenizer {', '.join(unknown)}, which is not taken: only "
            f"{', '.join(TOKENIZER_ARGUMENTS)} are."
        )
    if not (source := text.get("hf_tokenizer_name")):
        return open_clip.get_tokenizer(arch)
    if not arch.startswith("local-dir:"):  # a folder's configurations were read when the model was
        _refuse_code(get_tokenizer_config(source), f"The tokenizer {source}")
    return open_clip.get_tokenizer(arch, trust_remote_code=False)


def _refuse_code(config: Any, where: str) -> None:
    """Stops at ``auto_map``, at any depth: it names Python files beside the weights, which transformers would run."""
    if isinstance(config, dict) and "auto_map" in config:
        raise CrossgapError(
            f"{where} asks for Python code of its own (auto_map), and code that comes with a model is never run here: "
            "take a version of the model that needs none."
        )
    for part in config.values() if isinstance(config, dict) else config if isinstance(config, list) else ():
        _refuse_code(part, where)


def _fill(net: nn.Module, file: str) -> None:
    try:
        open_clip.load_checkpoint(net, file)  # strict, and torch files with weights_only: never a pickle
    except Exception as error:
        raise CrossgapError(f"{file} can't be loaded: {_misfits(net, file) or brief(error)}") from error


def _misfits(net: nn.Module, file: str) -> str:
    """The first tensors of another shape, in words, or "" where all fit; positions may differ, as they are resized."""
    try:
        found = load_state_dict(file)
    except Exception:
        return ""
    shapes = (
        f"{key} is {tuple(found[key].shape)} where the model has {tuple(wanted.shape)}"
        for key, wanted in net.state_dict().items()
        if key in found and found[key].numel() != wanted.numel() and not key.endswith("positional_embedding")
    )
    return "; ".join(islice(shapes, 3))


# --- timm ------------------------------------------------------------------------------------------------


def _timm_names() -> list[str]:
    return [f"timm:{name}" for name in [*timm.list_models(), *timm.list_pretrained()]]


def _from_timm(spec: str) -> DualEncoder:
    prefixed, _, weights = spec.partition(",")
    name = prefixed.removeprefix("timm:")
    if prefixed not in _timm_names():
        raise CrossgapError(f"timm has no model {name!r}.{did_you_mean(prefixed, _timm_names())}")
    if weights == "random":
        return _timm(spec, timm.create_model(name, num_classes=0), RANDOM)
    if weights or not timm.is_model_pretrained(name):
        raise CrossgapError(f"{spec!r} names no weights that timm has: {prefixed},random needs none.")
    what = f"weights ({name})"
    net = cached_first(lambda: timm.create_model(name, pretrained=True, num_classes=0), what, spec)
    return _timm(spec, net, f"cached in {hub.HF_HUB_CACHE}")


def _timm(spec: str, net: nn.Module, source: str) -> DualEncoder:
    cfg = timm.data.resolve_model_data_config(net)
    preprocessing = {key: cfg[key] for key in ("mean", "std", "interpolation")}
    preprocessing["size"] = tuple(cfg["input_size"][1:])
    preprocessing["resize_mode"] = f"shortest, {cfg['crop_mode']} crop of {cfg['crop_pct']:g}"
    rgb_first = Compose([MaybeConvertMode(), timm.data.create_transform(**cfg)])
    return DualEncoder(spec, net, rgb_first, preprocessing, net.head_hidden_size, (source,))


# ---------------------------------------------------------------- checks


def _refuse_nan(model: DualEncoder) -> None:
    for name, tensor in model.net.state_dict().items():
        if not tensor.sum().isfinite():  # one NaN or infinity is enough to show in the sum
            raise CrossgapError(f"The weights of {model.name} hold NaN or infinity, first in {name}.")


def _usable(device: str) -> str:
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise CrossgapError(f"The device {device!r} can't be used here: {brief(error)}") from error


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
