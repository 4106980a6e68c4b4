"""WebDataset tars: a sample is the files of one base name (0001.jpg, 0001.cls, 0001.txt), read where they lie.

The headers of each tar are read once, for the place of every file. Each picture is read through a file handle of its
own, since threads that share one would move it for each other.
"""

import json
import re
import tarfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.decode import EXTENSIONS, open_picture
from crossgap_lib.datasets.files import absolute, read_lines, stamp
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.store import digest

_BRACES = re.compile(r"\{([^{}]*)\}")
_SPAN = re.compile(r"(\d+)\.\.(\d+)")
_LABEL_KEYS, _CAPTION_KEYS = ("cls", "label"), ("caption", "text", "txt")  # of a sample's JSON
_MOST_SHARDS = 100_000


@dataclass(frozen=True)
class _Part:
    """Where one file of a sample lies."""

    tar: int  # number of the tar in the spec
    offset: int  # bytes from the start of the tar
    size: int  # bytes


@dataclass
class _Sample:
    parts: dict[str, _Part] = field(default_factory=dict)  # extension -> place

    @property
    def picture(self) -> _Part | None:
        return next((part for ending, part in self.parts.items() if f".{ending}" in EXTENSIONS), None)


def expand_braces(pattern: str) -> list[str]:
    """The names that a pattern with ``{00..09}`` or ``{a,b}`` stands for, as in a shell; 00 to 09 keep their zeros.

    Raises:
        CrossgapError: a brace is not closed or lies in another one, or there are more than 100 000 names.
    """
    pieces = _BRACES.split(pattern)  # text, what stands in braces, text, ...
    if any(brace in text for text in pieces[::2] for brace in "{}"):
        raise CrossgapError(f"{pattern!r} has an open or nested brace; {{00..09}} and {{a,b}} are written out")
    choices = [_choices(piece) if k % 2 else [piece] for k, piece in enumerate(pieces)]
    if np.prod([len(each) for each in choices], dtype=float) > _MOST_SHARDS:
        raise CrossgapError(f"{pattern!r} stands for more than {_MOST_SHARDS} tars")
    return ["".join(each) for each in product(*choices)]


def _choices(inside: str) -> list[str]:
    span = _SPAN.fullmatch(inside)
    if not span:
        return inside.split(",")
    first, last = map(int, span.groups())
    if abs(last - first) >= _MOST_SHARDS:
        raise CrossgapError(f"{{{inside}}} stands for more than {_MOST_SHARDS} tars")
    step = 1 if first <= last else -1
    width = len(span[1]) if span[1].startswith("0") or span[2].startswith("0") else 0
    return [str(k).zfill(width) for k in range(first, last + step, step)]


def read(spec: str, rest: str) -> Dataset:
    """``wds:PATH/{00..09}.tar``: pictures, with labels and captions if the tars have them.

    A label is a whole number, in a .cls file or under "cls" or "label" of a .json file; a caption is a .txt file or
    stands under "caption", "text" or "txt". The lines of a file classnames.txt beside the first tar name the labels.

    Samples without a picture, or without a label or caption if other samples have one, are left out with a warning,
    and so is what follows where a tar was cut off.

    Raises:
        CrossgapError: a tar is missing, compressed or no tar, there are no pictures, or a label is no whole number.
    """
    tars = [absolute(path) for path in expand_braces(rest)]
    missing = [tar for tar in tars if not tar.is_file()]
    if missing:
        raise CrossgapError(f"{len(missing)} of {len(tars)} tars are missing, the first is {missing[0]}")
    samples = _samples(tars)
    pictured = {key: sample for key, sample in samples.items() if sample.picture}
    if not pictured:
        raise CrossgapError(f"{spec} holds no pictures")
    facts = {key: _facts(tars, key, sample) for key, sample in pictured.items()}
    has_label, has_caption = (any(fact[k] is not None for fact in facts.values()) for k in (0, 1))
    kept = [
        key for key, (label, caption) in facts.items()
        if not (has_label and label is None) and not (has_caption and caption is None)
    ]  # fmt: skip
    _warn_of_left_out(spec, len(samples), len(pictured), len(kept))
    if not kept:
        raise CrossgapError(f"{spec}: no sample has both a label and a caption, as some have the one or the other")
    labels = np.array([facts[key][0] for key in kept], dtype=np.int64) if has_label else None
    captions = tuple((facts[key][1],) for key in kept) if has_caption else None
    class_names = _class_names(tars[0].parent / "classnames.txt", labels)
    return _dataset(spec, tars, {key: pictured[key].picture for key in kept}, labels, captions, class_names)


def _dataset(
    spec: str, tars: list[Path], parts: dict[str, _Part], labels: np.ndarray | None, captions: Any, names: tuple
) -> Dataset:
    places = np.array([(part.tar, part.offset, part.size) for part in parts.values()], dtype="<i8")  # (n, 3)
    ids = np.array(list(parts), dtype=str)
    stamps = ["\0".join((tar.name, *stamp(tar))).encode() for tar in tars]
    made = digest([*stamps, "\0".join(ids.tolist()).encode(), places.tobytes()])
    load = partial(_load, tuple(map(str, tars)), places, ids)
    return Dataset(spec, ids, load, made, labels=labels, class_names=names, captions=captions)


def _load(tars: tuple[str, ...], places: np.ndarray, ids: np.ndarray, i: int) -> Image.Image:
    tar, offset, size = places[i]
    name = f"{tars[tar]}: {ids[i]}"
    try:
        return open_picture(_bytes(tars[tar], int(offset), int(size)))
    except (OSError, UnreadableImage) as error:
        raise UnreadableImage(f"{name}: {str(error).removeprefix('<bytes>: ')}") from error


def _bytes(tar: str | Path, offset: int, size: int) -> bytes:
    with open(tar, "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise UnreadableImage("the tar ends within this file")
    return data


# ---------------------------------------------------------------- samples


def _samples(tars: list[Path]) -> dict[str, _Sample]:
    """{tar/key: sample}, in the order of the tars."""
    samples: dict[str, _Sample] = {}
    for number, tar in enumerate(tars):
        prefix = tar.stem if len({each.stem for each in tars}) == len(tars) else f"{number}-{tar.stem}"
        for member in _members(tar):
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, ending = base.partition(".")  # WebDataset: the key ends at the first dot
            key = "/".join(filter(None, (prefix, folder, stem)))
            part = _Part(number, member.offset_data, member.size)
            samples.setdefault(key, _Sample()).parts.setdefault(ending.lower(), part)
    return samples


def _members(tar: Path) -> Iterator[tarfile.TarInfo]:
    """The plain files of a tar, without hidden ones, in order; warns if the tar was cut off."""
    end = 0
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                if member.isreg() and not Path(member.name).name.startswith("."):
                    yield member
    except (tarfile.TarError, OSError) as error:
        if not end:
            raise CrossgapError(f"{tar} is no plain tar ({error}); compressed tars must be unpacked to .tar") from error
    with tar.open("rb") as file:
        file.seek(end)
        whole = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    if not whole:
        warnings.warn(f"{tar} has no end: it was cut off, and what came after is missing", stacklevel=6)


def _facts(tars: list[Path], key: str, sample: _Sample) -> tuple[int | None, str | None]:
    """(label, caption) of a sample; None for what it does not have."""
    notes = _json(tars, key, sample.parts["json"]) if "json" in sample.parts else {}
    label = _text(tars, key, sample.parts["cls"]) if "cls" in sample.parts else _first(notes, _LABEL_KEYS)
    caption = _text(tars, key, sample.parts["txt"]) if "txt" in sample.parts else _first(notes, _CAPTION_KEYS)
    if label is not None and not re.fullmatch(r"\d{1,9}", str(label)):
        raise CrossgapError(f"{key}: the label must be a whole number, not {str(label)[:40]!r}")
    return None if label is None else int(label), str(caption).strip() or None if caption is not None else None


def _first(notes: dict, keys: tuple[str, ...]) -> Any:
    return next((notes[key] for key in keys if notes.get(key) is not None), None)


def _text(tars: list[Path], key: str, part: _Part) -> str:
    try:
        return _bytes(tars[part.tar], part.offset, part.size).decode().strip()
    except (UnreadableImage, UnicodeDecodeError) as error:
        raise CrossgapError(f"{tars[part.tar]}: the text of {key} can't be read: {error}") from error


def _json(tars: list[Path], key: str, part: _Part) -> dict:
    try:
        notes = json.loads(_text(tars, key, part))
    except (json.JSONDecodeError, RecursionError) as error:
        raise CrossgapError(f"{tars[part.tar]}: the JSON of {key} can't be read: {error}") from error
    return notes if isinstance(notes, dict) else {}


def _warn_of_left_out(spec: str, total: int, pictured: int, kept: int) -> None:
    reasons = (total - pictured, "hold no picture"), (pictured - kept, "lack the label or caption that others have")
    said = [f"{count} {why}" for count, why in reasons if count]
    if said:
        warnings.warn(f"{spec}: of {total} samples {' and '.join(said)}; they are left out", stacklevel=5)


def _class_names(file: Path, labels: np.ndarray | None) -> tuple[str, ...]:
    if labels is None or not file.is_file():
        return ()
    names = tuple(read_lines(file).values())
    if labels.max() >= len(names):
        raise CrossgapError(f"{file} names {len(names)} classes, but labels go up to {labels.max()}")
    return names
