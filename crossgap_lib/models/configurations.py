"""Configurations that come with a model: what names code, leads elsewhere or describes no model is refused here."""

from itertools import chain
from pathlib import Path
from typing import Any

from torch import nn

from crossgap_lib.datasets.files import read_json
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.spelling import TRANSFORMERS, timm_names

# the largest that a configuration may say, far beyond any model; 2**20 for all other numbers
LARGEST = dict.fromkeys(("layers", "depth", "depths", "num_layers", "num_hidden_layers"), 1000)
LARGEST |= dict.fromkeys(("image_size", "img_size", "size"), 10_000)


def refuse_code(config: Any, where: str) -> None:
    """Stops at what names code, at any depth.

    ``auto_map`` names Python files beside the weights, which transformers would run, and an attention implementation
    "ORG/NAME" a kernel of the hub, which it would fetch and run.
    """
    parts = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, part in parts:
        if key == "auto_map" or ("_implementation" in str(key) and "/" in str(part)):
            raise CrossgapError(
                f"{where} asks for Python code of its own ({key}), and code that comes with a model is never run here: "
                "take a version of the model that needs none."
            )
        refuse_code(part, where)


def refuse_odd_parts(config: dict[str, Any], folder: Path) -> None:
    """Stops at names that lead out of the folder, and at sizes that no model has."""
    parts = config.get("model_cfg", {})
    trunk = parts.get("vision_cfg", {}).get("timm_model_name")
    if trunk is not None and f"timm:{trunk}" not in timm_names():
        raise CrossgapError(f"{folder} names {trunk!r} as its image encoder, which is no model of timm.")
    for key in ("hf_model_name", "hf_tokenizer_name"):
        if not isinstance(name := parts.get("text_cfg", {}).get(key, ""), str | None):
            raise CrossgapError(f"{folder} gives {name!r} as {key}, which is not a name.")
    refuse_absurd(config, folder)


def refuse_absurd(config: Any, where: object, key: str = "") -> None:
    """Stops at numbers with which building a model would not end, or would end the machine's memory."""
    for key, part in config.items() if isinstance(config, dict) else ((key, part) for part in config):
        if isinstance(part, dict | list):
            refuse_absurd(part, where, key)
        elif isinstance(part, int | float) and not abs(part) <= LARGEST.get(key, 2**20):
            raise CrossgapError(f"The configuration of {where} says {key}: {part:g}, which no model has.")


def refuse_oversize(net: nn.Module, file: str) -> None:
    """Stops where a model, built on the device "meta" without memory, has more numbers than its file has bytes."""
    numbers = sum(tensor.numel() for tensor in chain(net.parameters(), net.buffers()))
    size = Path(file).stat().st_size
    if numbers > size + 2**24:  # some masks are not in the file
        raise CrossgapError(
            f"The configuration describes a model of {numbers:,} numbers, and {file} has {size:,} bytes: "
            "they don't belong together."
        )


def refuse_transformers(config: Path) -> None:
    """Stops at a configuration of transformers, which names no architecture of timm."""
    found = read_json(config)
    if config.name == "config.json" and "model_type" in found and "architecture" not in found:
        same = TRANSFORMERS.get(str(found.get("_name_or_path")), "ViT-B-32-quickgelu,openai")
        raise CrossgapError(
            f"{config.parent} holds a transformers model ({found['model_type']}), which is not read here: name the "
            f"same weights as open_clip or timm has them, such as {same}, or give a folder that one of these two saved."
        )
