"""The files of a long inversion: a manifest, and shards that are written whole or not at all; and how to read them."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crossgap_lib.embeddings.vector_files import as_json, read_json
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.store import whole

MANIFEST = "manifest.json"
FORMAT = 2
_READABLE = (1, FORMAT)  # shards of format 1 have no texts, and their facts are metadata
_FACTS = "crossgap"  # under this name a shard holds ids, texts and the like, as JSON


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, with a sentence on what is kept."""


# ---------------------------------------------------------------- the manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of the folder, or None where there is none.

    Raises:
        CrossgapError: a manifest that is damaged or of another format.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = json.loads(path.read_text())
        known = manifest["format"] in _READABLE and manifest["composition"]["shard_size"] > 0
    except (ValueError, KeyError, TypeError) as error:
        raise CrossgapError(f"{path} is damaged; move it and the shards beside it away.") from error
    if not known:
        raise CrossgapError(f"{path} was written by another version of crossgap; choose another --out.")
    return manifest


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


def pack(tensors: dict[str, Tensor], facts: dict[str, Any]) -> bytes:
    """The content of a shard's file.

    The facts are JSON in a tensor of bytes, since safetensors reads no more than 100 MB of metadata.
    """
    return save({k: t.contiguous() for k, t in tensors.items()} | {f"{_FACTS}_json": torch.from_numpy(as_json(facts))})


def is_whole(path: Path) -> bool:
    """Whether a shard is there and can be read."""
    try:
        with safe_open(path, "pt") as archive:
            return read_json(archive, _FACTS) is not None
    except (SafetensorError, OSError, ValueError):
        return False


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
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise CrossgapError(f"No space is left for {folder}. {again}") from error
        named, ours = Path(error.filename or folder).absolute(), folder.absolute()
        elsewhere = not (named.is_relative_to(ours) or ours.is_relative_to(named))  # input, say, that went away
        what = f"Can't use {error.filename}" if elsewhere else f"Can't write into {folder}"
        raise CrossgapError(f"{what}: {error.strerror or error}. {again}") from error
    except KeyboardInterrupt as error:
        raise Interrupted(f"Interrupted. {again}") from error


# ---------------------------------------------------------------- reading


def facts_of(path: Path) -> dict[str, Any]:
    """Ids, texts, class names and skipped pictures of a shard."""
    with safe_open(path, "pt") as archive:
        return read_json(archive, _FACTS)


def load_shards(folder: str | Path) -> Inversion:
    """All rows of a finished run as one ``Inversion``; ``meta["skipped"]`` says which pictures could not be read.

    Raises:
        CrossgapError: no run is there, it is not finished, or not one row could be read.
    """
    folder = Path(folder)
    if (manifest := read_manifest(folder)) is None:
        raise CrossgapError(f"{folder} holds no inversion: there is no {MANIFEST}.")
    shards = -(-manifest["data"]["rows"] // manifest["composition"]["shard_size"])
    paths = [shard_path(folder, k) for k in range(shards)]
    missing = [path for path in paths if not is_whole(path)]
    if missing:
        raise CrossgapError(
            f"{folder} is not finished: {len(missing)} of {shards} shards are missing. "
            "The command that began it goes on from there."
        )
    skipped = [reason for path in paths for reason in facts_of(path)["skipped"]]
    parts = [part for path in paths if (part := _read_shard(path))]
    if not parts:
        raise CrossgapError(f"Not one row of {folder} could be read.")
    facts, tensors = zip(*parts, strict=True)
    column = lambda name, dim=0: torch.cat([t[name] for t in tensors], dim=dim)  # noqa: E731
    steps, method = manifest["inversion"]["steps"], manifest["inversion"]["method"]
    snapshots = {int(name.split()[1]): column(name) for name in tensors[0] if name.startswith("step ")}
    return Inversion(
        snapshots[steps],
        ids=[name for f in facts for name in f["ids"]],
        labels=column("labels").numpy() if "labels" in tensors[0] else None,
        class_names=tuple(facts[0]["class_names"]),
        modality=method,
        texts=[text for f in facts for text in f["texts"]] if facts[0].get("texts") else None,
        meta={"model": manifest["model"]["spec"], "dataset": manifest["data"]["spec"], "skipped": skipped},
        tokens=column("tokens"),
        losses=column("losses", dim=1),
        snapshots=dict(sorted(snapshots.items())),
    )


def _read_shard(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    facts = facts_of(path)
    if not facts["ids"]:
        return None
    with safe_open(path, "pt") as archive:
        return facts, {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
