"""The files of a long inversion: a manifest and shards, written whole or not at all, sealed, and checked when read."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from crossgap_lib.datasets.files import read_json
from crossgap_lib.embeddings.vector_files import as_json, of_json
from crossgap_lib.errors import CrossgapError, one_sentence
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.store import SEAL, Arrays, NotWritten, digest, pack, seal, unpack, whole

MANIFEST = "manifest.json"
FORMAT = 3
_READABLE = (1, 2, FORMAT)  # those before have no seals; shards of format 1 have no texts, and their facts are metadata
_FACTS = "crossgap"  # under this name a shard holds ids, texts and the like, as JSON
_SAME = ("model", "data", "inversion", "composition")  # the parts of a manifest on which each shard depends


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence on what is kept."""


# ---------------------------------------------------------------- the manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the folder, or None where there is none.

    Raises:
        CrossgapError: a manifest that is damaged, was edited, or is of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise CrossgapError(f"{path} is damaged; move it and the shards beside it away.")
    if manifest["format"] not in _READABLE:
        raise CrossgapError(f"{path} was written by another version of crossgap; choose another --out.")
    if manifest["format"] == FORMAT and manifest.pop(SEAL, None) != _seal(manifest):
        raise CrossgapError(f"{path} was changed since it was written; undo that, or choose another --out.")
    return manifest


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Writes what ``read_manifest`` reads."""
    write(folder / MANIFEST, (json.dumps(manifest | {SEAL: _seal(manifest)}, indent=2) + "\n").encode())


def _seal(manifest: dict[str, Any]) -> str:
    return seal({"manifest": as_json(json.loads(json.dumps(manifest)))})


def made_from(manifest: dict[str, Any], k: int) -> str:
    """A digest of what shard k of this run depends on, for its seal. The specs of model and data may differ."""
    parts = [{name: fact for name, fact in manifest[part].items() if name != "spec"} for part in _SAME]
    return digest((json.dumps(parts, sort_keys=True), k))


def differences(old: dict[str, Any], new: dict[str, Any], sections: tuple[str, ...]) -> list[str]:
    """Each fact that differs, as "inversion steps was 150 and is 200". The specs of model and data may differ."""
    found = []
    for section in sections:
        for name, value in json.loads(json.dumps(new[section])).items():
            before = old[section].get(name)
            if name != "spec" and before != value:
                found.append(f"{section} {name} was {before} and is {value}")
    return found


# ---------------------------------------------------------------- files


def shard_path(folder: Path, k: int) -> Path:
    """Where shard number k lies."""
    return folder / f"shard-{k:06d}.safetensors"


def pack_shard(arrays: Arrays, facts: dict[str, Any], made_from: str) -> bytes:
    """The content of a shard's file.

    The facts are JSON in an array of bytes, since safetensors reads no more than 100 MB of metadata.
    """
    return pack(arrays | {f"{_FACTS}_json": as_json(facts)}, made_from)


def read_shard(folder: Path, manifest: dict[str, Any], k: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(arrays, facts) of shard k: features after some steps, tokens, losses and labels; ids, texts and the like.

    Raises:
        CrossgapError: it can't be read, or is not what the run of this manifest wrote there.
    """
    path = shard_path(folder, k)
    if manifest["format"] == FORMAT:
        arrays = unpack(path, made_from(manifest, k))
        return arrays, of_json(arrays.pop(f"{_FACTS}_json"))
    with one_sentence(f"{path} can't be read"), safe_open(path, "np") as archive:
        arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        words = arrays.pop(f"{_FACTS}_json", None)
        return arrays, json.loads(archive.metadata()[_FACTS]) if words is None else of_json(words)


def write(path: Path, content: bytes) -> None:
    """Writes a file whole or not at all, even if the machine stops."""
    with whole(path, lasting=True) as part:
        part.write_bytes(content)


@contextmanager
def clear_errors(folder: Path) -> Iterator[None]:
    """Turns what goes wrong with the folder into one sentence, which says what is kept."""
    again = "The shards that are finished are kept, and the same command goes on from there."
    try:
        yield
    except (OSError, NotWritten) as raised:
        error = raised.__cause__ if isinstance(raised, NotWritten) else raised
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CrossgapError(f"No space is left for {folder}. {again}") from error
        named, ours = Path(error.filename or folder).absolute(), folder.absolute()
        elsewhere = not (named.is_relative_to(ours) or ours.is_relative_to(named))  # input, say, that went away
        what = f"Can't use {error.filename}" if elsewhere else f"Can't write into {folder}"
        raise CrossgapError(f"{what}: {error.strerror or error}. {again}") from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. {again}") from error


# ---------------------------------------------------------------- reading


def load_shards(folder: str | Path) -> Inversion:
    """All rows of a finished run as one ``Inversion``; ``meta["skipped"]`` says which pictures could not be read.

    Raises:
        CrossgapError: no run is there, it is not finished, a shard is damaged or not its own, or not one row could be
            read.
    """
    folder = Path(folder)
    if (manifest := read_manifest(folder)) is None:
        raise CrossgapError(f"{folder} holds no inversion: there is no {MANIFEST}.")
    with one_sentence(f"{folder} can't be read as a finished inversion"):
        return _loaded(folder, manifest)


def _loaded(folder: Path, manifest: dict[str, Any]) -> Inversion:
    shards = -(-manifest["data"]["rows"] // manifest["composition"]["shard_size"])
    missing = shards - len(list(folder.glob("shard-*.safetensors")))
    if missing > 0:
        raise CrossgapError(
            f"{folder} is not finished: {missing} of {shards} shards are missing. "
            "The command that began it goes on from there."
        )
    try:
        arrays, facts = zip(*(read_shard(folder, manifest, k) for k in range(shards)), strict=True)
    except CrossgapError as error:
        raise CrossgapError(f"{error}. The command that began {folder} makes it anew.") from error
    skipped = [reason for f in facts for reason in f["skipped"]]
    if not any(f["ids"] for f in facts):
        raise CrossgapError(f"Not one row of {folder} could be read.")
    facts, arrays = zip(*((f, a) for f, a in zip(facts, arrays, strict=True) if f["ids"]), strict=True)
    column = lambda name, axis=0: np.concatenate([a[name] for a in arrays], axis=axis)  # noqa: E731
    tensor = lambda *asked: torch.from_numpy(column(*asked))  # noqa: E731
    steps, method = manifest["inversion"]["steps"], manifest["inversion"]["method"]
    snapshots = {int(name.split()[1]): tensor(name) for name in arrays[0] if name.startswith("step ")}
    return Inversion(
        snapshots[steps],
        ids=[name for f in facts for name in f["ids"]],
        labels=column("labels") if "labels" in arrays[0] else None,
        class_names=tuple(facts[0]["class_names"]),
        modality=method,
        texts=[text for f in facts for text in f["texts"]] if facts[0].get("texts") else None,
        meta={"model": manifest["model"]["spec"], "dataset": manifest["data"]["spec"], "skipped": skipped},
        tokens=tensor("tokens"),
        losses=tensor("losses", 1),
        snapshots=dict(sorted(snapshots.items())),
    )
