"""One face over every encoder: open_clip's CLIP family, timm's image-only models and local checkpoints.

``load_model("mini-clip")`` needs no network. Published weights come from the local cache, or from the hub
where it answers; where it does not, the error names what is missing and the command that fetches it.
"""

import json
import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from hashlib import blake2b
from html import escape
from itertools import islice
from pathlib import Path
from textwrap import shorten
from typing import Any, TypeVar

import open_clip
import timm
import torch
from huggingface_hub import constants as hub
from huggingface_hub.utils import get_session
from open_clip.factory import _find_checkpoint_in_dir, load_state_dict  # the very file open_clip would take
from open_clip.transform import MaybeConvertMode
from torch import Tensor, nn
from torchvision.transforms import Compose

from crossgap_lib import paths
from crossgap_lib.errors import CrossgapError, did_you_mean

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")  # what open_clip keeps per published tag
RANDOM = "random weights, nothing to download"
T = TypeVar("T")


@dataclass
class ModelCard:
    """What a result depends on, read from the loaded modules and not from the model's name."""

    name: str
    parameters: int
    embed_dim: int
    context_length: int | None
    tokenizer: str | None
    preprocessing: dict[str, Any]  # size (h, w), mean, std, interpolation, resize_mode
    activation: dict[str, str]  # by tower: QuickGELU and GELU give other features from the same weights
    pooling: dict[str, str]
    causal: bool | None  # None: no text tower
    logit_scale: float | None
    logit_bias: float | None
    precision: str
    device: str
    fingerprint: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The card as plain Python, ready for JSON."""
        return asdict(self)

    def _rows(self) -> Iterator[tuple[str, str]]:
        for key, value in self.to_dict().items():
            if isinstance(value, dict):
                yield from ((f"{key} {part}", _words(v)) for part, v in value.items())
            elif value is not None:
                yield key.replace("_", " "), _words(value)

    def __str__(self) -> str:
        return "\n".join(f"{key:<28}{value}" for key, value in self._rows())

    def _repr_html_(self) -> str:
        rows = (f"<tr><th>{escape(k)}</th><td>{escape(v)}</td></tr>" for k, v in self._rows())
        return f"<table>{''.join(rows)}</table>"


def _words(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ("; " if isinstance(value[0], str) else ", ").join(map(_words, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@dataclass
class DualEncoder:
    """A frozen image encoder, with its text encoder where it has one.

    Weights stay float32 whatever ``precision`` says: bf16 and fp16 are autocast, so the same network serves
    exact and fast runs. ``net`` is open_clip's ``CLIP`` or ``CustomTextCLIP``, or a timm model.
    """

    name: str
    net: nn.Module = field(repr=False)
    preprocess: Callable[..., Tensor] = field(repr=False)  # PIL image -> (3, h, w) float32, as for inference
    preprocessing: dict[str, Any] = field(repr=False)
    embed_dim: int
    notes: tuple[str, ...]  # where the weights come from, then what was inferred
    context_length: int | None = None
    tokenizer_name: str | None = None
    make_tokenizer: Callable[[], Callable[..., Tensor]] | None = field(default=None, repr=False)
    device: str = "cpu"
    precision: str = "fp32"

    @property
    def has_text(self) -> bool:
        return self.make_tokenizer is not None

    @cached_property
    def tokenizer(self) -> Callable[..., Tensor]:
        """Built on first use, so that a tokenizer that is not here hurts only who encodes text.

        Raises CrossgapError where the model has no text tower or the tokenizer can't be had.
        """
        self._need_text()
        return _cached_first(self.make_tokenizer, f"tokenizer ({self.tokenizer_name})", self.name)

    def tokenize(self, texts: str | list[str]) -> Tensor:
        """Token ids, (b, context_length) int64 on the CPU. Raises CrossgapError as ``tokenizer`` does."""
        ids = self.tokenizer([texts] if isinstance(texts, str) else list(texts))  # (b, L)
        known = getattr(self.net, "vocab_size", None)
        if known and ids.numel() and ids.max() >= known:
            raise CrossgapError(
                f"The tokenizer of {self.name} makes ids up to {ids.max()} but its text tower knows {known}: "
                "is text_cfg.hf_tokenizer_name empty in its open_clip_config.json?"
            )
        return ids

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """Image features, not normalised: (b, 3, h, w) -> (b, embed_dim) float32 on the model's device."""
        encode = getattr(self.net, "encode_image", self.net)  # a timm model is its own image tower
        with self.autocast():
            return encode(pixels.to(self.device)).float()

    @torch.no_grad()
    def encode_tokens(self, ids: Tensor) -> Tensor:
        """Text features, not normalised: (b, context_length) ids -> (b, embed_dim) float32.

        Raises CrossgapError for an image-only model and for ids of another length.
        """
        self._need_text()
        if ids.ndim != 2 or ids.shape[1] != self.context_length:
            raise CrossgapError(f"{self.name} takes ids (b, {self.context_length}), not {tuple(ids.shape)}.")
        with self.autocast():
            return self.net.encode_text(ids.to(self.device)).float()

    @cached_property
    def fingerprint(self) -> str:
        """Hex blake2b of weights and all else that features depend on, but for device and precision."""
        digest = blake2b(digest_size=16)
        for name, tensor in self.net.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        facts = [self.preprocessing, self.tokenizer_name]
        structure = [_activation(self.net), _pooling(self.net), _causal(self.net)]
        digest.update(json.dumps(facts + structure, sort_keys=True).encode())
        return digest.hexdigest()

    def describe(self) -> ModelCard:
        """The card of this model; printing it shows the traps: preprocessing, activation, context length."""
        scale, bias = (getattr(self.net, f"logit_{kind}", None) for kind in ("scale", "bias"))
        return ModelCard(
            name=self.name,
            parameters=sum(p.numel() for p in self.net.parameters()),
            embed_dim=self.embed_dim,
            context_length=self.context_length,
            tokenizer=self.tokenizer_name,
            preprocessing=self.preprocessing,
            activation=_activation(self.net),
            pooling=_pooling(self.net),
            causal=_causal(self.net),
            logit_scale=None if scale is None else scale.exp().item(),
            logit_bias=None if bias is None else bias.item(),
            precision=self.precision,
            device=self.device,
            fingerprint=self.fingerprint,
            notes=self.notes,
        )

    def autocast(self) -> torch.autocast:
        """A context in which ``net`` computes in ``precision``; it changes nothing for fp32."""
        dtype = AUTOCAST[self.precision]
        return torch.autocast(
            torch.device(self.device).type, dtype or torch.bfloat16, enabled=dtype is not None
        )

    def _need_text(self) -> None:
        if not self.has_text:
            raise CrossgapError(f"{self.name} encodes images only: it has no text tower.")


def load_model(
    spec: str, *, device: str | None = None, precision: str = "fp32", seed: int = 0
) -> DualEncoder:
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
    minis = sorted(p.name for p in paths.MINIS.glob("mini-*") if p.is_dir())
    return [*minis, *open_clip.list_models(), *_timm_names()]


def _build(spec: str) -> DualEncoder:
    if spec.startswith("timm:"):
        return _from_timm(spec)
    if spec.startswith("local-dir:"):
        return _from_folder(spec, Path(spec.removeprefix("local-dir:")).expanduser())
    if spec.startswith("mini-") and (paths.MINIS / spec).is_dir():
        return _from_folder(spec, paths.MINIS / spec)
    return _from_open_clip(spec)


def _from_folder(spec: str, folder: Path) -> DualEncoder:
    if (folder / "open_clip_config.json").is_file():
        return _open_clip_folder(spec, folder)
    if (folder / "config.json").is_file():
        with _cache_only(), _one_sentence(f"{folder} can't be loaded as a timm model"):
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
    file = _cached_first(lambda: open_clip.download_pretrained(cfg), what, spec)
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
    with _one_sentence(f"{folder / 'open_clip_config.json'} can't be read"):
        config = json.loads((folder / "open_clip_config.json").read_text())
        file = _find_checkpoint_in_dir(folder)
    if file is None:
        raise CrossgapError(f"{folder} holds no weights, such as open_clip_model.safetensors.")
    arch, notes = f"local-dir:{folder}", [f"read from {folder}"]
    if not config.get("preprocess_cfg"):
        notes.append("the folder states no preprocessing, so it is open_clip's default")
    model = _open_clip(spec, arch, file, tuple(notes), {})
    if (
        folder / "tokenizer.json"
    ).is_file():  # its content, since features depend on that and not on its path
        content = blake2b((folder / "tokenizer.json").read_bytes(), digest_size=4).hexdigest()
        model = replace(model, tokenizer_name=f"tokenizer.json {content}")

    def make_tokenizer() -> Callable[..., Tensor]:
        with _one_sentence(f"The tokenizer in {folder} can't be read"):
            return open_clip.get_tokenizer(arch)

    return replace(model, make_tokenizer=make_tokenizer)


def _open_clip(
    spec: str, arch: str, file: str | None, notes: tuple[str, ...], settings: dict[str, Any]
) -> DualEncoder:
    """Build ``arch`` with open_clip's arguments ``settings`` and fill it from ``file``."""
    off = {"load_weights": False, "pretrained_text": False}
    net, _, preprocess = _cached_first(
        lambda: open_clip.create_model_and_transforms(arch, **off, **settings), "configuration", spec
    )
    if file is not None:
        _fill(net, file)
    config = open_clip.get_model_config(arch)
    text = config["text_cfg"]
    clean = (text.get("tokenizer_kwargs") or {}).get("clean")  # canonicalize and lower fold the case
    return DualEncoder(
        name=spec,
        net=net,
        preprocess=preprocess,
        preprocessing={"size": _pair(net.visual.image_size)}
        | {k: net.visual.preprocess_cfg[k] for k in PREPROCESSING},
        embed_dim=config["embed_dim"],
        notes=notes,
        context_length=text.get("context_length", 77),
        tokenizer_name=(text.get("hf_tokenizer_name") or "CLIP BPE") + (f", clean={clean}" if clean else ""),
        make_tokenizer=lambda: open_clip.get_tokenizer(arch),
    )


def _fill(net: nn.Module, file: str) -> None:
    try:
        open_clip.load_checkpoint(net, file)  # strict, and torch files with weights_only: never a pickle
    except Exception as error:
        raise CrossgapError(f"{file} can't be loaded: {_misfits(net, file) or _brief(error)}") from error


def _misfits(net: nn.Module, file: str) -> str:
    """The first tensors of another shape, or "" where those fit; positions may differ (they get resized)."""
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
    net = _cached_first(lambda: timm.create_model(name, pretrained=True, num_classes=0), what, spec)
    return _timm(spec, net, f"cached in {hub.HF_HUB_CACHE}")


def _timm(spec: str, net: nn.Module, source: str) -> DualEncoder:
    cfg = timm.data.resolve_model_data_config(net)
    preprocessing = {key: cfg[key] for key in ("mean", "std", "interpolation")}
    preprocessing["size"] = tuple(cfg["input_size"][1:])
    preprocessing["resize_mode"] = f"shortest, {cfg['crop_mode']} crop of {cfg['crop_pct']:g}"
    rgb_first = Compose([MaybeConvertMode(), timm.data.create_transform(**cfg)])
    return DualEncoder(spec, net, rgb_first, preprocessing, net.head_hidden_size, (source,))


# --- facts read from the modules -------------------------------------------------------------------------


def _towers(net: nn.Module) -> dict[str, nn.Module]:
    """CLIP holds its text tower unpacked (``transformer``, ``ln_final``, ...), CustomTextCLIP in ``text``."""
    if not hasattr(net, "visual"):
        return {"image": net}
    return {"image": net.visual, "text": net.text if hasattr(net, "text") else net.transformer}


def _activation(net: nn.Module) -> dict[str, str]:
    found = {tower: {_activation_name(m) for m in part.modules()} for tower, part in _towers(net).items()}
    return {tower: ", ".join(sorted(names - {""})) or "not a module" for tower, names in found.items()}


def _activation_name(module: nn.Module) -> str:
    name = type(module).__name__
    if name == "GELUTanh" or getattr(module, "approximate", "none") == "tanh":
        return "GELU tanh"
    return name if name.endswith(("GELU", "GELUActivation", "ReLU", "SiLU")) else ""


def _pooling(net: nn.Module) -> dict[str, str]:
    pooling = {tower: _image_pooling(part) for tower, part in _towers(net).items() if tower == "image"}
    if hasattr(net, "visual"):
        text = net.text if hasattr(net, "text") else net
        kind = getattr(text, "text_pool_type", None) or getattr(text, "pool_type", None)
        words = {"argmax": "EOT", "eos": "EOT", "last": "last token", "first": "first token"}
        appended = getattr(text, "cls_emb", None) is not None  # CoCa's, whatever the pool type says
        pooling["text"] = "CLS" if appended else words.get(kind, "the architecture's own")
    return pooling


def _image_pooling(visual: nn.Module) -> str:
    trunk = getattr(visual, "trunk", visual)  # TimmModel keeps timm's model in ``trunk``
    if any(getattr(trunk, name, None) is not None for name in ("attn_pool", "attnpool")):
        return "attention"
    kind = getattr(trunk, "pool_type", None) or getattr(trunk, "global_pool", None)
    words = {"tok": "CLS", "token": "CLS", "avg": "mean of patches"}
    return words.get(kind, "the architecture's own")


def _causal(net: nn.Module) -> bool | None:
    if not hasattr(net, "visual"):
        return None
    return getattr(net.text if hasattr(net, "text") else net, "attn_mask", None) is not None


def _refuse_nan(model: DualEncoder) -> None:
    for name, tensor in model.net.state_dict().items():
        if not tensor.sum().isfinite():  # one NaN or infinity is enough to show in the sum
            raise CrossgapError(f"The weights of {model.name} hold NaN or infinity, first in {name}.")


def _usable(device: str) -> str:
    try:
        return str(torch.empty(0, device=device).device)
    except (RuntimeError, AssertionError) as error:
        raise CrossgapError(f"The device {device!r} can't be used here: {_brief(error)}") from error


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


# --- the hub, and errors in one sentence -----------------------------------------------------------------


def _cached_first(get: Callable[[], T], what: str, spec: str) -> T:
    """``get()`` from the local cache; only what is missing there asks the network, and only if it answers.

    The hub's client asks the network even for cached files, and retries for three quarters of a minute.
    """
    try:
        with _cache_only(), _one_sentence(f"The {what} of {spec} can't be loaded", passing=OSError):
            return get()
    except OSError as missing:  # FileNotFoundError of open_clip and timm, OSError of transformers
        if not _hub_answers():
            raise CrossgapError(
                f"Not in the local cache: {what} of {spec}, and the hub does not answer; "
                f"run `crossgap fetch {shlex.quote(spec)}` where there is a network."
            ) from missing
    with _one_sentence(f"The {what} of {spec} can't be fetched"):
        return get()


@contextmanager
def _cache_only() -> Iterator[None]:
    """The hub's offline mode for a moment, without the remarks that open_clip logs on the root logger."""
    offline, level = hub.HF_HUB_OFFLINE, logging.root.manager.disable
    hub.HF_HUB_OFFLINE = True
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logging.disable(level)


def _hub_answers() -> bool:
    try:
        get_session().head(hub.ENDPOINT, timeout=5)  # seconds; its client, so that proxies and mirrors count
    except Exception:  # whatever keeps the hub away, offline mode included
        return False
    return True


@contextmanager
def _one_sentence(what: str, passing: type[Exception] = CrossgapError) -> Iterator[None]:
    """Turn what a library raises on bad input, of any type, into one clear sentence."""
    try:
        yield
    except (CrossgapError, passing):
        raise
    except Exception as error:
        raise CrossgapError(f"{what}: {_brief(error)}") from error


def _brief(error: BaseException) -> str:
    return shorten(str(error) or type(error).__name__, 300, placeholder=" ...")
