"""WebDataset tars: a sample is the files of one base name (0001.jpg, 0001.cls, 0001.txt), read where they lie.

The headers of each tar are read once, for the place of every file. Each picture is read through a file handle of its
own, since threads that share one would move it for each other.
"""

import os
import re
import tarfile
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.decode import EXTENSIONS, open_picture
from crossgap_lib.datasets.files import absolute, of_good, parse_json, read_lines, stamp
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.store import digest

_BRACES = re.compile(r"\{([^{}]*)\}")
_SPAN = re.compile(r"(\d+)\.\.(\d+)")
# The endings of files, and the keys in a sample's JSON, that hold its label and its captions. The first one counts.
_LABEL = ("cls", "label", "labels", "class", "class_id", "target")
_CAPTION = ("txt", "captions", "caption", "texts", "text", "title", "description")
_MOST_SHARDS = 100_000

_Place = tuple[int, int, int]  # of a file: the number of its tar, its offset there and its size, in bytes
_Sample = dict[str, _Place]  # of the files of a sample, by their endings
_Facts = tuple[int | None, tuple[str, ...] | None]  # (label, captions) of a sample; None for what it does not have


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


def read(spec: str, rest: str, *, pictures_alone: bool = False) -> Dataset:
    """``wds:PATH/{00..09}.tar``: pictures, with labels and captions if the tars have them.

    A label is a whole number, in a .cls file or under "cls", "label" or "class" of a .json file. Each line of a .txt
    file is a caption, and so is what stands under "caption", "text" or "txt" of a .json file. The lines of a file
    classnames.txt beside the first tar, or a level above it, name the labels.

    With ``pictures_alone`` neither labels nor captions are looked for.

    Samples without a picture, or without a label or caption if other samples have one, are left out with a warning,
    and so are files of other kinds, and what follows where a tar was cut off.

    Raises:
        CrossgapError: a tar is missing, compressed or no tar, there are no pictures, or a label is no whole number.
    """
    tars = [absolute(path) for path in expand_braces(rest)]
    if missing := [tar for tar in tars if not tar.is_file()]:
        raise CrossgapError(f"{len(missing)} of {len(tars)} tars are missing, the first is {missing[0]}")
    unused: Counter[str] = Counter()  # what is left out, in words, and how often
    pictured = {key: sample for key, sample in _samples(tars, unused).items() if _picture(sample)}
    if not pictured:
        raise CrossgapError(f"{spec} holds no pictures")
    facts: dict[str, _Facts] = dict.fromkeys(pictured, (None, None))
    if not pictures_alone:
        facts = dict(of_good(lambda each: (each[0], _facts(tars, *each, unused)), pictured.items()))
    has_label, has_caption = (any(fact[k] is not None for fact in facts.values()) for k in (0, 1))
    kept = {
        key: (label, captions) for key, (label, captions) in facts.items()
        if not (has_label and label is None) and not (has_caption and captions is None)
    }  # fmt: skip
    if not kept:
        raise CrossgapError(f"{spec}: no sample has both a label and a caption, as some have the one or the other")
    unused["samples that lack the label or caption of others"] += len(facts) - len(kept)
    if said := ", ".join(f"{count} {kind}" for kind, count in unused.items() if count):
        warnings.warn(f"{spec} leaves out {said}", stacklevel=4)
    labels = np.array([label for label, _ in kept.values()], dtype=np.int64) if has_label else None
    ids = np.array(list(kept), dtype=str)
    places = np.array([_picture(pictured[key]) for key in kept], dtype="<i8")  # (n, 3)
    return Dataset(
        spec,
        ids,
        partial(_load, tuple(map(str, tars)), places, ids),
        digest([*((tar.name, *stamp(tar)) for tar in tars), *kept, places.tobytes()]),
        labels=labels,
        class_names=_class_names(tars[0].parent, labels) if has_label else (),
        captions=tuple(captions for _, captions in kept.values()) if has_caption else None,
    )


def _picture(sample: _Sample) -> _Place | None:
    return next((place for ending, place in sample.items() if f".{ending}" in EXTENSIONS), None)


def _load(tars: tuple[str, ...], places: np.ndarray, ids: np.ndarray, i: int) -> Image.Image:
    try:
        return open_picture(_bytes(tars, places[i]))
    except (OSError, UnreadableImage) as error:
        told = str(error).removeprefix("<bytes>: ")
        raise UnreadableImage(f"{tars[places[i][0]]}: {ids[i]}: {told}") from error


def _bytes(tars: Sequence[str | Path], place: Sequence[int]) -> bytes:
    tar, offset, size = place
    with open(tars[tar], "rb") as file:
        file.seek(offset)
        data = file.read(size)
    if len(data) < size:
        raise UnreadableImage("the tar ends within this file")
    return data


# ---------------------------------------------------------------- samples


def _samples(tars: list[Path], unused: Counter[str]) -> dict[str, _Sample]:
    """{tar/key: sample}, in the order of the tars."""
    samples: dict[str, _Sample] = {}
    for number, tar in enumerate(tars):
        prefix = tar.stem if len({each.stem for each in tars}) == len(tars) else f"{number}-{tar.stem}"
        for name, *span in _members(tar, unused):
            folder, _, base = name.rpartition("/")
            stem, _, ending = base.partition(".")  # WebDataset: the key ends at the first dot
            sample = samples.setdefault("/".join(filter(None, (prefix, folder, stem))), {})
            if ending.lower() in sample:
                unused["files of a name that was there already"] += 1
            sample.setdefault(ending.lower(), (number, *span))
    unused["samples without a picture"] += sum(not _picture(sample) for sample in samples.values())
    return samples


def _members(tar: Path, unused: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """(name, offset, size) of the files of a tar in order, and of links to files before them; without hidden ones.

    Warns if the tar was cut off.
    """
    end, places = 0, {}
    try:
        with tarfile.open(tar, "r:") as archive:
            for member in archive:
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                name = os.path.normpath(member.name)
                if member.isreg():
                    places[name] = member.offset_data, member.size
                elif member.islnk() or member.issym():
                    folder = os.path.dirname(name) if member.issym() else ""
                    target = os.path.normpath(os.path.join(folder, member.linkname))
                    if target not in places:
                        unused["links to files that the tar does not hold before them"] += 1
                        continue
                    places[name] = places[target]
                if name in places and not os.path.basename(name).startswith("."):
                    yield name, *places[name]
    except (tarfile.TarError, OSError) as error:
        if not end:
            raise CrossgapError(f"{tar} is no plain tar ({error}); compressed tars must be unpacked to .tar") from error
    with tar.open("rb") as file:
        file.seek(end)
        whole = file.read(tarfile.BLOCKSIZE) == tarfile.NUL * tarfile.BLOCKSIZE
    if not whole:
        warnings.warn(f"{tar} has no end: it was cut off, and what came after is missing", stacklevel=6)


def _facts(tars: list[Path], key: str, sample: _Sample, unused: Counter[str]) -> _Facts:
    notes = parse_json(_text(tars, key, sample["json"]), f"the .json of {key}") if "json" in sample else {}
    notes = notes if isinstance(notes, dict) else {}
    for ending, place in sample.items():
        if ending in _LABEL:
            notes[ending] = _text(tars, key, place)
        elif ending in _CAPTION:
            notes[ending] = _text(tars, key, place).split("\n")
        elif ending != "json" and place is not _picture(sample):
            unused[f".{ending} files"] += 1
    label, captions = (next((notes[k] for k in keys if notes.get(k) is not None), None) for keys in (_LABEL, _CAPTION))
    if label is not None and not re.fullmatch(r"\d{1,9}", str(label)):
        raise CrossgapError(f"{key}: the label must be a whole number, not {str(label)[:40]!r}")
    if label is None and captions is None and notes:
        unused[f".json files without label and caption, but with {', '.join(notes)}"[:200]] += 1
    several = captions if isinstance(captions, list) else [captions]
    stripped = tuple(str(caption).strip() for caption in several if caption is not None)
    return None if label is None else int(label), tuple(filter(None, stripped)) or None


def _text(tars: list[Path], key: str, place: _Place) -> str:
    try:
        return _bytes(tars, place).decode().strip()
    except (UnreadableImage, UnicodeDecodeError) as error:
        raise CrossgapError(f"{tars[place[0]]}: the text of {key} can't be read: {error}") from error


def _class_names(folder: Path, labels: np.ndarray) -> tuple[str, ...]:
    """The lines of classnames.txt beside the tars or, as CLIP_benchmark lays it out, a level above them."""
    file = next((p for p in (folder / "classnames.txt", folder.parent / "classnames.txt") if p.is_file()), None)
    if file is None:
        warnings.warn(f"The labels have no names, as there is no classnames.txt in {folder} or above it", stacklevel=5)
        return ()
    names = read_lines(file)
    if list(names) != list(range(1, len(names) + 1)):
        raise CrossgapError(f"{file} has a blank line before its end, so that labels would get the names of others")
    if labels.max() >= len(names):
        raise CrossgapError(f"{file} names {len(names)} classes, but labels go up to {labels.max()}")
    return tuple(names.values())
