"""Caption files (COCO, Karpathy, Flickr8k, CSV) -> rows of a picture's name and its captions, or a Dataset of them."""

import csv
import json
import os
import re
from collections.abc import Iterable
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from crossgap_lib.datasets.dataset import Dataset, from_listing
from crossgap_lib.datasets.files import absolute, existing_folder, read_text
from crossgap_lib.errors import CrossgapError

_TOKEN_LINE = re.compile(r"(?P<name>.+)#\d+\t(?P<caption>.*)")
_KNOWN = "COCO JSON, Karpathy JSON, Flickr8k 'name.jpg#0<TAB>caption' lines or an 'image,caption' CSV"


# Where the downloads of COCO, Flickr8k and Flickr30k keep their pictures: beside the caption file or a level above it.
_PICTURE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images"),
    *("val2017", "val2014", "train2017", "train2014"),
)


class CaptionRow(NamedTuple):
    name: str  # of the picture file, as the caption file has it
    captions: tuple[str, ...]  # stripped, in the file's order; Cross the Gap, Sec. 5.2, takes the first as query
    folder: str = ""  # the picture's folder, which Karpathy's COCO file keeps apart from the name ("val2014")


def read_caption_file(
    spec: str,
    rest: str,
    *,
    split: str | None = None,
    images: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> Dataset:
    """``captions:FILE`` or ``captions:FILE/SPLIT``; for the options see ``load_dataset``."""
    path = absolute(rest)
    if path.parent.is_file():  # captions:dataset.json/train
        path, split = path.parent, path.name
    if not path.is_file():
        raise CrossgapError(f"No such file: {path}; expected is a caption file with its pictures beside it")
    return with_pictures(spec, path, read_captions(path, split), images, skip_missing)


def with_pictures(
    spec: str, path: Path, rows: list[CaptionRow], images: str | os.PathLike | None, skip_missing: bool
) -> Dataset:
    """The rows of the caption file ``path`` with their pictures, from the folder ``images`` or the usual places.

    Raises:
        CrossgapError: pictures are not there; with ``skip_missing`` they are left out with a warning.
    """
    if images is not None:
        folders = [existing_folder(images, "the pictures that the caption file names")]
    else:
        bases = path.parent, path.parent.parent  # COCO: annotations/captions_val2017.json, val2017/*.jpg
        folders = [folder for base in bases for name in ("", *_PICTURE_FOLDERS) if (folder := base / name).is_dir()]
    return from_listing(
        spec,
        path,
        [row.name for row in rows],
        [_find(row, folders) for row in rows],
        folders,
        skip_missing=skip_missing,
        captions=[row.captions for row in rows],
    )


def _find(row: CaptionRow, folders: list[Path]) -> Path | None:
    candidates = (folder / inner / row.name for folder in folders for inner in (row.folder, ""))
    return next((path for path in candidates if os.path.isfile(path)), None)


# ---------------------------------------------------------------- formats


def read_captions(path: Path, split: str | None = None) -> list[CaptionRow]:
    """Rows of a caption file, in the file's order; the format is told by the content.

    ``split`` picks a split of a Karpathy file: "test" if it is None, "all" for every picture.

    Raises:
        CrossgapError: the file can't be read, has no such split, or a picture in it has no caption.
    """
    text = read_text(path)
    try:
        rows = _parse(text, split)
    except json.JSONDecodeError as error:
        raise CrossgapError(f"{path}: not valid JSON: {error}") from error
    except CrossgapError as error:
        raise CrossgapError(f"{path}: {error}") from error
    except KeyError as error:
        raise CrossgapError(f"{path}: not a caption file: an entry lacks {error}; read are {_KNOWN}") from error
    except (TypeError, AttributeError, RecursionError) as error:
        raise CrossgapError(f"{path}: not a caption file: {error}; read are {_KNOWN}") from error
    return _with_captions(path, rows)


def _with_captions(path: Path, rows: list[CaptionRow]) -> list[CaptionRow]:
    if not rows:
        raise CrossgapError(f"{path}: holds no pictures with captions")
    bare = [row.name for row in rows if not row.captions]
    if bare:
        raise CrossgapError(f"{path}: {len(bare)} of {len(rows)} pictures have no caption, the first is {bare[0]!r}")
    return rows


def _parse(text: str, split: str | None) -> list[CaptionRow]:
    if text.lstrip().startswith(("{", "[")):
        data = json.loads(text)
        if "annotations" not in data:
            return _karpathy(data["images"], split or "test")
        rows = _coco(data)
    elif text.lower().replace(" ", "").startswith("image,caption\n"):
        rows = _csv(text)
    else:
        rows = _token_lines(text)
    if split is not None:
        raise CrossgapError(f"only Karpathy files have splits, so split {split!r} can't be picked")
    return rows


def _row(name: str, captions: Iterable[str], folder: str = "") -> CaptionRow:
    if not isinstance(name, str) or not isinstance(folder, str):
        raise TypeError(f"a file name is expected, not {name!r} in {folder!r}")
    stripped = (caption.strip() for caption in captions)
    return CaptionRow(name, tuple(caption for caption in stripped if caption), folder)


def _grouped(pairs: Iterable[tuple[object, str]]) -> dict:
    """{picture: its captions}, in the order in which the pictures appear."""
    groups: dict = {}
    for picture, caption in pairs:
        groups.setdefault(picture, []).append(caption)
    return groups


def _coco(data: dict) -> list[CaptionRow]:
    captions = _grouped((note["image_id"], note["caption"]) for note in data["annotations"])
    orphans = captions.keys() - {image["id"] for image in data["images"]}
    if orphans:
        raise CrossgapError(f"{len(orphans)} image_id of the annotations, as {min(orphans)}, are not among the images")
    return [_row(image["file_name"], captions.get(image["id"], ())) for image in data["images"]]


def _karpathy(images: list[dict], split: str) -> list[CaptionRow]:
    splits = {image["split"] for image in images} | {"all"}
    if split not in splits:
        raise CrossgapError(f"no split {split!r} in this file; there are {', '.join(sorted(splits))}")
    return [
        _row(image["filename"], (sentence["raw"] for sentence in image["sentences"]), image.get("filepath", ""))
        for image in images
        if split in ("all", image["split"])
    ]


def _token_lines(text: str) -> list[CaptionRow]:
    def pairs():
        for number, line in enumerate(text.split("\n"), start=1):
            match = _TOKEN_LINE.fullmatch(line)
            if match:
                yield match["name"], match["caption"]
            elif line.strip():
                raise CrossgapError(f"line {number} is {line[:60]!r}; read are {_KNOWN}")

    return [_row(name, captions) for name, captions in _grouped(pairs()).items()]


def _csv(text: str) -> list[CaptionRow]:
    def pairs():
        lines = csv.reader(StringIO(text), skipinitialspace=True)
        next(lines)  # header
        for fields in lines:
            if fields and len(fields) != 2:
                raise CrossgapError(
                    f"line {lines.line_num} has {len(fields)} fields, not 2 (quote captions with commas)"
                )
            if fields:
                yield tuple(fields)

    return [_row(name, captions) for name, captions in _grouped(pairs()).items()]
