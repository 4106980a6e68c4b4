"""``crossgap doctor``: what this machine has, and how the cache is emptied."""

import os
import platform
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

import open_clip
import torch
from huggingface_hub import try_to_load_from_cache
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import MINIS, cache_dir
from crossgap_lib.store import NAMED_BY_US, PARTS

_WRITING = 3600  # seconds; an unfinished file that is younger may still be written to


def findings() -> dict[str, str]:
    """{topic: what was found}, of device, versions, cache, minis and cached weights."""
    return {
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "CUDA": _cuda(),
        "CPU threads": f"{torch.get_num_threads()} of {os.cpu_count()}",
        "Python": platform.python_version(),
        "crossgap": _version("crossgap"),
        "torch": torch.__version__,
        "open_clip": _version("open_clip_torch"),
        "timm": _version("timm"),
        "cache": _cache(),
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


def _minis() -> list[str]:
    return sorted(path.name for path in MINIS.glob("*") if any(path.glob("*.safetensors")))


def _cached_weights() -> list[str]:
    """The open_clip weights in the hub's cache, as ``load_model`` takes them."""
    pairs = [(arch, tag, open_clip.get_pretrained_cfg(arch, tag)) for arch, tag in open_clip.list_pretrained()]
    return [f"{arch},{tag}" for arch, tag, cfg in pairs if _is_cached(cfg.get("hf_hub", ""))]


def _is_cached(hub_path: str) -> bool:
    """Whether open_clip's weights "org/repo/" or "org/repo/file" are cached, under any of the names that it takes."""
    repo, _, file = hub_path.rpartition("/")
    names = (file, Path(file).stem + ".safetensors") if file else (HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    return bool(repo) and any(isinstance(try_to_load_from_cache(repo, name), str) for name in names)


# ---------------------------------------------------------------- the cache


def clear_cache() -> list[str]:
    """Removes the files that crossgap wrote into its cache. Links are neither followed nor removed.

    Returns:
        Sentences on what was removed, what stays, and why.

    Raises:
        CrossgapError: some files can't be removed; all others are removed by then.
    """
    stays = {path: _why_it_stays(path) for path in _files(cache_dir())}
    ours = [path for path, reason in stays.items() if reason is None]
    said, failed = [f"Removed from {cache_dir()}: {_amount(ours)}."], []
    for path in ours:
        try:
            path.unlink(missing_ok=True)  # another process may have removed it
        except OSError as error:
            failed.append(f"{path}: {error.strerror}")
    if failed:
        raise CrossgapError(f"{len(failed)} of {len(ours)} files can't be removed, the first is {failed[0]}.")
    for reason in dict.fromkeys(reason for reason in stays.values() if reason):
        first, *others = (path for path, why in stays.items() if why == reason)
        said.append(f"Left alone, since {reason}: {first}{f' and {len(others)} more' if others else ''}.")
    return said


def _why_it_stays(path: Path) -> str | None:
    """Why a file in the cache must not be removed; None if it may be."""
    named = NAMED_BY_US.fullmatch(path.name)
    if path.is_symlink():
        return "it is a link"
    if not named or _part(path) not in PARTS:
        return "crossgap did not write it"
    if named["process"] and _age(path) < _WRITING:
        return "it is being written just now"
    return None


def _cache() -> str:
    """Where the cache is, and the size of each part of it."""
    files = list(_files(cache_dir()))
    if not files:
        return f"{cache_dir()} (empty)"
    parts = {name: [path for path in files if _part(path) == name] for name in (*PARTS, "other")}
    told = ", ".join(f"{name.replace('_', ' ')} {_amount(paths)}" for name, paths in parts.items() if paths)
    return f"{cache_dir()} ({told}; crossgap doctor --clear-cache empties it)"


def _files(folder: Path) -> Iterator[Path]:
    """Every file and link below a folder; links are not followed."""
    for here, folders, files in os.walk(folder):
        paths = [Path(here, name) for name in sorted((*folders, *files))]
        yield from (path for path in paths if path.is_symlink() or not path.is_dir())


def _part(path: Path) -> str:
    """The folder of the cache, one of ``PARTS``, that a file lies in, or "other"."""
    folder = path.parent
    return folder.name if folder.parent == cache_dir() and folder.name in PARTS else "other"


def _amount(paths: Sequence[Path]) -> str:
    """The size of some files, as "12.3 MB in 4 files"."""
    return f"{sum(map(_size, paths)) / 1e6:.1f} MB in {len(paths)} file{'' if len(paths) == 1 else 's'}"


def _size(path: Path) -> int:
    """The size of a file, or of a link itself, in bytes; 0 if it has been removed meanwhile."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0


def _age(path: Path) -> float:
    """Seconds since a file was last written; infinity if it has been removed meanwhile."""
    try:
        return time.time() - path.lstat().st_mtime
    except OSError:
        return float("inf")
