"""Files of weights: the tensors in them, or one sentence on what such a file is. No code of a file runs."""

import pickle
import warnings
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from crossgap_lib.errors import CrossgapError, one_sentence

CHECKPOINT_KEYS = ("state_dict", "model", "model_state_dict", "module")  # where training scripts put the weights
PREFIXES = ("module.", "_orig_mod.", "model.")  # which they put before all names of tensors
FACTS = ("input_resolution", "context_length", "vocab_size")  # that OpenAI's files hold beside the weights


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors in a safetensors or torch file by name; which of the two it is, its content says and not its name.

    What a training script wraps around them is taken off. No code of the file runs: torch reads ``weights_only``.

    Raises:
        CrossgapError: a file of another kind, a damaged one, or one that holds objects of other Python classes.
    """
    with one_sentence(f"{file} can't be loaded"):
        if fault := _other_kind(file):
            raise CrossgapError(f"{file} can't be loaded: {fault}.")
        found = load_file(file) if _begin(file)[8:9] == b"{" else _read_torch_file(file)
    while isinstance(found, dict) and (key := next((k for k in CHECKPOINT_KEYS if isinstance(found.get(k), dict)), "")):
        found = found[key]
    tensors = found.items() if isinstance(found, dict) else ()
    tensors = {str(name): value for name, value in tensors if isinstance(value, Tensor) and name not in FACTS}
    if not tensors:
        raise CrossgapError(f"{file} can't be loaded: it holds no tensors by name.")
    while prefix := next((p for p in PREFIXES if all(name.startswith(p) for name in tensors)), ""):
        tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return tensors


def _begin(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(512)


def _other_kind(file: Path) -> str:
    """What a file is and what to do, where it is neither safetensors nor what ``torch.save`` writes; "" otherwise."""
    begin = _begin(file)
    if begin.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer and not the weights; run `git lfs pull` in its folder"
    if begin.lstrip().lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "it is a web page and not the weights; download the file itself"
    if _is_torchscript(file):
        return (
            "it is a TorchScript archive, which holds code beside the weights; take published ones by their tag "
            "(OpenAI's are ViT-B-32-quickgelu,openai and the like), or save its state_dict() as safetensors"
        )
    known = begin[8:9] == b"{" or begin.startswith((b"PK\x03\x04", b"\x80"))
    return "" if known else "it is neither a safetensors file nor one that torch.save wrote"


def _is_torchscript(file: Path) -> bool:
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
        return any(Path(name).name == "constants.pkl" for name in archive.namelist())
    return False


def _read_torch_file(file: Path) -> Any:
    try:
        # opened here, since torch.load would go by a name that ends in .safetensors
        with file.open("rb") as stream, numpy_numbers_ignored(), warnings.catch_warnings(action="ignore"):
            return torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CrossgapError(
            f"{file} can't be loaded: it is damaged, or holds Python objects other than tensors and plain values, and "
            "those are never loaded; save the state_dict() alone, as safetensors."
        ) from error


class _Ignored:
    """Stands for a numpy number beside the weights: takes whatever it is made of, and is nothing."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...


def numpy_numbers_ignored() -> torch.serialization.safe_globals:
    """A context in which torch reads past numpy numbers, such as the best accuracy in a training checkpoint."""
    names = ("numpy.dtype", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
    return torch.serialization.safe_globals([(_Ignored, name) for name in names])
