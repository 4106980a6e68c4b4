"""``DualEncoder``: one interface to every encoder, and a card of what silently changes its results."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import cached_property
from html import escape
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from crossgap_lib.errors import CrossgapError, brief, one_sentence
from crossgap_lib.hub import cached_first
from crossgap_lib.models.projectors import Projector, projector_of, taken_away, with_one
from crossgap_lib.store import digest

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    """A frozen image encoder, and the text encoder that belongs to it if there is one.

    Weights stay float32 whatever ``precision`` says, since bf16 and fp16 are autocast: the same network serves exact
    and fast runs. ``net`` is open_clip's ``CLIP`` or ``CustomTextCLIP``, or a timm model.
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
        """Built on first use, so that images can be encoded where the tokenizer is missing.

        Raises CrossgapError where the model has no text tower or the tokenizer can't be had.
        """
        self.need_text()
        with _panics_named(self.name):
            return cached_first(self.make_tokenizer, f"tokenizer ({self.tokenizer_name})", self.name)

    def tokenize(self, texts: str | list[str]) -> Tensor:
        """Token ids, (b, context_length) int64 on the CPU. Raises CrossgapError as ``tokenizer`` does."""
        tokenizer = self.tokenizer
        with _panics_named(self.name), one_sentence(f"The tokenizer of {self.name} fails"):
            ids = tokenizer([texts] if isinstance(texts, str) else list(texts))  # (b, L)
        known = getattr(self.net, "vocab_size", None)
        if known and ids.numel() and ids.max() >= known:
            raise CrossgapError(
                f"The tokenizer of {self.name} makes ids up to {ids.max()} but its text tower knows {known}: "
                "is text_cfg.hf_tokenizer_name empty in its open_clip_config.json?"
            )
        return ids

    @torch.no_grad()
    def encode_pixels(self, pixels: Tensor, *, before_projection: bool = False) -> Tensor:
        """Image features, not normalised: (b, 3, h, w) -> (b, embed_dim) float32 on the model's device.

        ``before_projection``: what the last linear map takes, (b, ``projector("image").columns``).
        """
        encode = getattr(self.net, "encode_image", self.net)  # a timm model is its own image tower
        return self._encode(encode, pixels, "image", before_projection)

    @torch.no_grad()
    def encode_tokens(self, ids: Tensor, *, before_projection: bool = False) -> Tensor:
        """Text features, not normalised: (b, context_length) ids -> (b, embed_dim) float32.

        ``before_projection``: what the last linear map takes, (b, ``projector("text").columns``).

        Raises CrossgapError for an image-only model and for ids of another length.
        """
        self.need_text()
        if ids.ndim != 2 or ids.shape[1] != self.context_length:
            raise CrossgapError(f"{self.name} takes ids (b, {self.context_length}), not {tuple(ids.shape)}.")
        return self._encode(self.net.encode_text, ids, "text", before_projection)

    def _encode(self, encode: Callable[[Tensor], Tensor], inputs: Tensor, side: str, before_projection: bool) -> Tensor:
        with taken_away(self.net, side) if before_projection else nullcontext(), self.autocast():
            features = encode(inputs.to(self.device)).float()
        return with_one(features) if before_projection and self.projector(side).bias is not None else features

    def projector(self, side: str) -> Projector:
        """The last linear map of the "image" or the "text" encoder. Raises CrossgapError where there is none."""
        if side == "text":
            self.need_text()
        return projector_of(self.net, side)

    @cached_property
    def fingerprint(self) -> str:
        """32 hex digits that change with the weights and all else that features depend on, but device and precision."""
        facts = [self.preprocessing, self.tokenizer_name]
        structure = [_activation(self.net), _pooling(self.net), _causal(self.net), list(_settings(self.net))]
        return digest(chain([json.dumps(facts + structure, sort_keys=True)], _weights(self.net)))

    def describe(self) -> ModelCard:
        """The card of this model. Printed, it shows what is easily wrong: preprocessing, activation, context length."""
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

    @property
    def dtype(self) -> torch.dtype:
        """The type that ``precision`` computes in."""
        return AUTOCAST[self.precision] or torch.float32

    def autocast(self) -> torch.autocast:
        """A context in which ``net`` computes in ``precision``; it changes nothing for fp32."""
        dtype = AUTOCAST[self.precision]
        return torch.autocast(torch.device(self.device).type, dtype or torch.bfloat16, enabled=dtype is not None)

    def need_text(self) -> None:
        """Raises CrossgapError for an image-only model."""
        if not self.has_text:
            raise CrossgapError(f"{self.name} encodes images only: it has no text tower.")


@contextmanager
def _panics_named(model: str) -> Iterator[None]:
    """A panic of the tokenizers library, which is written in Rust, as a sentence; it is no ``Exception`` of Python."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise CrossgapError(f"The tokenizer of {model} is damaged: {brief(error)}") from error


# ---------------------------------------------------------------- facts read from the modules


def _weights(net: nn.Module) -> Iterator[object]:
    """Names, types, shapes and bytes of all tensors, one tensor after the other."""
    for name, tensor in net.state_dict().items():
        yield name, str(tensor.dtype), tuple(tensor.shape)
        yield tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


_OF_NO_EFFECT = {"training", "fused_attn", "grad_checkpointing"}  # settings that change no feature of a frozen encoder


def _settings(net: nn.Module) -> Iterator[tuple[str, str, list]]:
    """(module, class, settings) of every module: heads, eps of layer norms and all that the weights don't show."""
    for name, module in net.named_modules():
        plain = {key: value for key, value in vars(module).items() if not key.startswith("_") and _is_plain(value)}
        yield name, type(module).__name__, sorted((k, v) for k, v in plain.items() if k not in _OF_NO_EFFECT)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


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
