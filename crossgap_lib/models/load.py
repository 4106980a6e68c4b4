"""Loading models by name: open_clip's CLIP family, timm's image-only models and local checkpoints.

``load_model("mini-clip")`` needs no network. Published weights come from the local cache, or from the hub
where it answers; where it does not, the error names what is missing and the command that fetches it.

No Python code that comes with a model is ever run: configurations that ask for some are refused.
"""

import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest import mock

import open_clip
import timm
import torch
from huggingface_hub import constants as hub
from open_clip.factory import _find_checkpoint_in_dir  # the very file open_clip would take
from open_clip.transform import MaybeConvertMode
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms import Compose
from transformers import PretrainedConfig
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from crossgap_lib import paths
from crossgap_lib.datasets.files import read_json
from crossgap_lib.errors import CrossgapError, brief, did_you_mean, one_sentence
from crossgap_lib.hub import cached_first, first_on_hub
from crossgap_lib.models.configurations import (
    refuse_absurd,
    refuse_code,
    refuse_odd_parts,
    refuse_oversize,
    refuse_transformers,
)
from crossgap_lib.models.encoder import AUTOCAST, DualEncoder
from crossgap_lib.models.spelling import spelled, timm_names
from crossgap_lib.models.weights import numpy_numbers_ignored, read_weights
from crossgap_lib.store import digest

TOKENIZER_ARGUMENTS = ("clean", "strip_sep_token", "language")  # what a configuration may tell a tokenizer
# classes that a tokenizer may name; others are no tokenizers, such as AutoModel, or would call themselves
TOKENIZER_CLASSES = r"(?!Auto)\w*Tokenizer(Fast)?|\w+Backend"
NO_WEIGHTS = {"load_weights": False, "pretrained_text": False}  # arguments of open_clip
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what open_clip keeps per published tag
RANDOM = "random weights, nothing to download"
WEIGHTS = {  # by configuration: the weights beside it, in the order of preference
    "open_clip_config.json": ("open_clip_model.safetensors", "open_clip_pytorch_model.bin"),
    "config.json": ("model.safetensors", "pytorch_model.bin"),
}


def load_model(spec: str, *, device: str | None = None, precision: str = "fp32", seed: int = 0) -> DualEncoder:
    """The model that ``spec`` names, frozen and in eval mode.

    ``spec`` is one of
      - ``mini-clip``: a model shipped with the project (``data/minis/``);
      - ``ViT-B-32-quickgelu,openai``: an open_clip architecture and a published tag, which may be left out
        where there is only one;
      - ``ViT-B-32,PATH``: the same with a weights file (safetensors, or a torch file of plain tensors);
      - ``ViT-B-32,random``: seeded random weights, no download;
      - ``local-dir:PATH``: a folder with ``open_clip_config.json`` (open_clip) or ``config.json`` (timm);
      - ``timm:NAME`` or ``timm:NAME,random``: an image-only timm model;
      - ``hf-hub:ORG/NAME``: a repository of the hub with an open_clip or timm model.

    Other spellings are understood where they say the same: "ViT-B/32,openai", "openai/clip-vit-base-patch32",
    "timm:hf_hub:timm/NAME", a folder's path without "local-dir:". The model's name is the spelling above.

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
        model = _build(spelled(spec))
    model.net.eval().requires_grad_(False)
    _refuse_nan(model)
    _try_preprocessing(model)
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
    return [*_shipped(), *open_clip.list_models(), *timm_names()]


def _shipped() -> list[str]:
    return sorted(path.name for path in paths.MINIS.glob("*") if path.is_dir())


def _build(spec: str) -> DualEncoder:
    if spec.startswith("timm:"):
        return _from_timm(spec)
    if spec.startswith("hf-hub:"):
        return _from_hub(spec, spec.removeprefix("hf-hub:"))
    if spec.startswith("local-dir:"):
        return _from_folder(spec, Path(spec.removeprefix("local-dir:")).expanduser())
    if spec in _shipped():
        return _from_folder(spec, paths.MINIS / spec)
    return _from_open_clip(spec)


def _from_hub(spec: str, repo: str) -> DualEncoder:
    """Brings configuration and weights into the local cache, which keeps them as a folder."""
    if "," in repo:
        raise CrossgapError(
            f"{spec!r} names weights, but hf-hub:{repo.partition(',')[0]} brings its own: leave them out."
        )

    def bring() -> Path:
        config = first_on_hub(repo, tuple(WEIGHTS))
        refuse_transformers(config)
        return first_on_hub(repo, WEIGHTS[config.name]).parent

    return _from_folder(spec, cached_first(bring, "configuration and weights", spec))


def _from_folder(spec: str, folder: Path) -> DualEncoder:
    for file in sorted(folder.glob("*config.json")):
        refuse_code(read_json(file), str(file))
    with one_sentence(f"The model in {folder} can't be loaded"):
        if (folder / "open_clip_config.json").is_file():
            return _open_clip_folder(spec, folder)
        if (folder / "config.json").is_file():
            return _timm_folder(spec, folder)
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
    config, file = read_json(folder / "open_clip_config.json"), _find_checkpoint_in_dir(folder)
    if file is None:
        raise CrossgapError(f"{folder} holds no weights, such as open_clip_model.safetensors.")
    refuse_odd_parts(config, folder)
    arch, notes = f"local-dir:{folder}", [f"read from {folder}"]
    if not config.get("preprocess_cfg"):
        notes.append("the folder states no preprocessing, so it is open_clip's default")
    model = _open_clip(spec, arch, file, tuple(notes), {})
    if spec.startswith("hf-hub:"):  # its tokenizer is where the configuration says, often in another repository
        return replace(model, make_tokenizer=lambda: _tokenizer(spec))
    if (folder / "tokenizer.json").is_file():  # its content, since features depend on that and not on its path
        content = digest([(folder / "tokenizer.json").read_bytes()])[:8]
        model = replace(model, tokenizer_name=f"tokenizer.json {content}")

    def make_tokenizer() -> Callable[..., Tensor]:
        with one_sentence(f"The tokenizer in {folder} can't be read"):
            return _tokenizer(arch)

    return replace(model, make_tokenizer=make_tokenizer)


def _open_clip(spec: str, arch: str, file: str | None, notes: tuple[str, ...], settings: dict[str, Any]) -> DualEncoder:
    """Build ``arch`` with open_clip's arguments ``settings`` and fill it from ``file``."""

    def build() -> tuple[nn.Module, Any, Any]:
        if name := _text_cfg(arch).get("hf_model_name"):
            theirs, _ = PretrainedConfig.get_config_dict(name)
            refuse_code(theirs, f"The text encoder {name}")
            refuse_absurd(theirs, name)
        if arch.startswith("local-dir:"):
            with torch.device("meta"):
                refuse_oversize(open_clip.create_model(arch, device="meta", **NO_WEIGHTS), file)
        return open_clip.create_model_and_transforms(arch, **NO_WEIGHTS, **settings)

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
    if arch.startswith("local-dir:"):
        source = arch.removeprefix("local-dir:")
    config = get_tokenizer_config(source)
    refuse_code(config, f"The tokenizer {source}")
    if not re.fullmatch(TOKENIZER_CLASSES, name := str(config.get("tokenizer_class") or "Tokenizer")):
        raise CrossgapError(
            f"The tokenizer {source} names {name!r} as its class, which is no tokenizer of transformers."
        )
    return open_clip.get_tokenizer(arch, trust_remote_code=False)


def _fill(net: nn.Module, file: str) -> None:
    if Path(file).suffix in (".npz", ".npy"):  # big_vision's, which open_clip itself reads, without pickles
        with one_sentence(f"{file} can't be loaded"):
            open_clip.load_checkpoint(net, file)
        return
    tensors = read_weights(Path(file))
    try:
        with mock.patch.object(open_clip.factory, "load_state_dict", return_value=dict(tensors)):
            open_clip.load_checkpoint(net, file)  # strict; converts what it has read, which are our tensors
    except Exception as error:
        raise CrossgapError(f"{file} can't be loaded: {_misfits(net, tensors) or brief(error)}") from error


def _misfits(net: nn.Module, found: dict[str, Tensor]) -> str:
    """The first tensors of another shape, in words, or "" where all fit; positions may differ, as they are resized."""
    shapes = (
        f"{key} is {tuple(found[key].shape)} where the model has {tuple(wanted.shape)}"
        for key, wanted in net.state_dict().items()
        if key in found and found[key].numel() != wanted.numel() and not key.endswith("positional_embedding")
    )
    return "; ".join(islice(shapes, 3))


# --- timm ------------------------------------------------------------------------------------------------


def _from_timm(spec: str) -> DualEncoder:
    prefixed, _, weights = spec.partition(",")
    name = prefixed.removeprefix("timm:")
    if prefixed not in timm_names():
        raise CrossgapError(f"timm has no model {name!r}.{did_you_mean(prefixed, timm_names())}")
    if weights == "random":
        return _timm(spec, timm.create_model(name, num_classes=0), RANDOM)
    if weights or not timm.is_model_pretrained(name):
        raise CrossgapError(f"{spec!r} names no weights that timm has: {prefixed},random needs none.")
    what = f"weights ({name})"
    net = cached_first(lambda: timm.create_model(name, pretrained=True, num_classes=0), what, spec)
    return _timm(spec, net, f"cached in {hub.HF_HUB_CACHE}")


def _timm_folder(spec: str, folder: Path) -> DualEncoder:
    name, config = f"local-dir:{folder}", folder / "config.json"
    refuse_transformers(config)
    refuse_absurd(read_json(config), folder)
    with one_sentence(f"{folder} can't be loaded as a timm model"), numpy_numbers_ignored(), _heard() as said:
        files = [file for file in sorted(folder.iterdir()) if file.suffix in (".safetensors", ".bin", ".pth")]
        if not files:
            raise CrossgapError(f"{folder} holds no weights, such as model.safetensors.")
        with torch.device("meta"):
            largest = str(max(files, key=lambda file: file.stat().st_size))
            refuse_oversize(timm.create_model(name, num_classes=0), largest)
        try:  # pretrained=False would silently give random weights
            net = timm.create_model(name, pretrained=True, num_classes=0)
        except Exception:
            for file in files:
                read_weights(file)  # says in one sentence what is wrong with a file, where one is at fault
            raise
    if missing := [words for words in said if words.startswith("Missing keys")]:
        raise CrossgapError(f"{folder} can't be loaded as a timm model: {brief(missing[0])}")
    return _timm(spec, net, f"read from {folder}")


@contextmanager
def _heard() -> Iterator[list[str]]:
    """What timm logs while it loads: of weights that the file lacks, and that stay random, it says no more."""
    log, said, handler = logging.getLogger("timm.models"), [], logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    level, log.propagate = log.level, False
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        yield said
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = True


def _timm(spec: str, net: nn.Module, source: str) -> DualEncoder:
    cfg = timm.data.resolve_model_data_config(net)
    preprocessing = {key: cfg[key] for key in ("mean", "std", "interpolation")}
    preprocessing["size"] = tuple(cfg["input_size"][1:])
    preprocessing["resize_mode"] = f"shortest, {cfg['crop_mode']} crop of {cfg['crop_pct']:g}"
    patches = getattr(net, "patch_embed", None)
    taken = getattr(patches, "strict_img_size", False) and patches.img_size
    if taken and tuple(taken) != preprocessing["size"]:
        size = preprocessing["size"]
        raise CrossgapError(f"{spec} prepares pictures of {size} pixels, but its encoder takes {tuple(taken)}.")
    rgb_first = Compose([MaybeConvertMode(), timm.data.create_transform(**cfg)])
    return DualEncoder(spec, net, rgb_first, preprocessing, net.head_hidden_size, (source,))


# ---------------------------------------------------------------- checks


def _refuse_nan(model: DualEncoder) -> None:
    for name, tensor in model.net.state_dict().items():
        if not tensor.sum().isfinite():  # one NaN or infinity is enough to show in the sum
            raise CrossgapError(f"The weights of {model.name} hold NaN or infinity, first in {name}.")


def _try_preprocessing(model: DualEncoder) -> None:
    """Refuses a configuration with which no picture can be prepared, before any is read."""
    with one_sentence(f"The preprocessing of {model.name} does not work"):
        pixels = model.preprocess(Image.new("RGB", (8, 8)))
        if pixels.ndim != 3 or not pixels.isfinite().all():
            raise CrossgapError(f"The preprocessing of {model.name} makes pixels that are not numbers.")


def _usable(device: str) -> str:
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise CrossgapError(f"The device {device!r} can't be used here: {brief(error)}") from error


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
