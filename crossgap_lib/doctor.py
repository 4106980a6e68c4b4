"""``crossgap doctor``: what is here."""

import os
import platform
from importlib import metadata
from pathlib import Path

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from crossgap_lib.paths import MINIS, cache_dir


def findings() -> dict[str, str]:
    """Topic -> what was found: device, versions, cache, minis, cached weights."""
    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "CUDA": _cuda(),
        "CPU threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "Python": platform.python_version(),
        "crossgap": _version("crossgap"),
        "torch": torch.__version__,
        "open_clip": _version("open_clip_torch"),
        "timm": _version("timm"),
        "cache": f"{cache_dir()} ({_megabytes(cache_dir()):.1f} MB)",
        "minis": ", ".join(_minis()) or "none",
        "cached weights": ", ".join(_cached_weights()) or "none (crossgap fetch SPEC brings them)",
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cuda() -> str:
    names = [torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())]
    return f"{torch.version.cuda}, {', '.join(names)}" if names else "none"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def _minis() -> list[str]:
    return sorted(path.name for path in MINIS.glob("mini-*") if any(path.glob("*.safetensors")))


def _cached_weights() -> list[str]:
    """The open_clip weights in the hub's cache, as ``load_model`` takes them."""
    pairs = [(arch, tag, open_clip.get_pretrained_cfg(arch, tag)) for arch, tag in open_clip.list_pretrained()]
    return [f"{arch},{tag}" for arch, tag, cfg in pairs if _is_cached(cfg.get("hf_hub", ""))]


def _is_cached(hub_path: str) -> bool:
    """Whether weights at open_clip's "org/repo/" or "org/repo/file" are here, under any name open_clip takes."""
    repo, _, file = hub_path.rpartition("/")
    names = (file, Path(file).stem + ".safetensors") if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, name), str) for name in names)
