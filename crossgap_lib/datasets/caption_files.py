"""Caption files -> rows of a picture's name and its captions, or a Dataset of them.

Of whatever format, a file is first cut into entries: dictionaries that hold a picture's name and its captions under
names that people use. ``_row`` then reads each of them.
"""

import ast
import json
import os
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crossgap_lib.datasets.dataset import Dataset, from_listing
from crossgap_lib.datasets.files import (
    absolute,
    bad_row,
    existing_folder,
    of_good,
    read_json_lines,
    read_table,
    read_text,
)
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError, one_sentence

# Under which names an entry, or a column of a table, has the picture's file and its captions. The first one counts.
PICTURE = (
    *("file_name", "filename", "image", "image_name", "image_path", "image_file", "file", "file_path", "filepath"),
    *("path", "img", "img_path", "picture"),
)
CAPTION = (
    *("captions", "caption", "texts", "text", "sentences", "sentence", "raw", "title", "descriptions", "description"),
    *("comments", "comment", "prompt"),
)
LONGEST = 10_000  # characters of a caption; what is longer mostly is a quote that never closes
_TOKEN_LINE = re.compile(r"(?P<name>.+)#\d+\t(?P<caption>.*)")
_KNOWN = (
    "COCO JSON, Karpathy JSON, Flickr8k 'name.jpg#0<TAB>caption' lines, and CSV, TSV, JSON or JSON lines with a "
    "picture (file_name, image, ...) and its caption (caption, text, ...)"
)

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
    spec: str, rest: str, *, split: str | None = None, images: str | os.PathLike | None = None
) -> Dataset:
    """``captions:FILE`` or ``captions:FILE/SPLIT``; for the options see ``load_dataset``."""
    path = absolute(rest)
    if path.parent.is_file():  # captions:dataset.json/train
        path, split = path.parent, path.name
    if not path.is_file():
        raise CrossgapError(f"No such file: {path}; expected is a caption file with its pictures beside it")
    return _with_pictures(spec, path, read_captions(path, split), images)


def _with_pictures(spec: str, path: Path, rows: list[CaptionRow], images: str | os.PathLike | None) -> Dataset:
    """The rows of the caption file ``path`` with their pictures, from the folder ``images`` or the usual places."""
    if images is not None:
        folders = [existing_folder(images, "the pictures that the caption file names")]
    else:
        bases = path.parent, path.parent.parent  # COCO: annotations/captions_val2017.json, val2017/*.jpg
        folders = [folder for base in bases for name in ("", *_PICTURE_FOLDERS) if (folder := base / name).is_dir()]
    names, below = [row.name for row in rows], [row.folder for row in rows]
    return from_listing(spec, path, names, folders, below, captions=tuple(row.captions for row in rows))


def read_named(
    row: NamedSet, spec: str, rest: str, *, split: str | None = None, images: str | os.PathLike | None = None
) -> Dataset:
    """COCO, Flickr30k and nocaps with their published split: Karpathy's (test by default), or the whole of nocaps.

    For the options see ``load_dataset``.
    """
    return _with_pictures(spec, *named_rows(row, rest, split), images)


def named_rows(row: NamedSet, rest: str, split: str | None = None) -> tuple[Path, list[CaptionRow]]:
    """(caption file, its rows). No picture is looked for: text-text retrieval needs none."""
    root, split = row.root_and_split(rest, split)
    file = root / row.markers[0]
    return file, read_captions(file, split if len(row.splits) > 1 else None)


def read_captions(path: Path, split: str | None = None) -> list[CaptionRow]:
    """Rows of a caption file, in the file's order; the format is told by the content.

    ``split`` picks a split: "train" is Karpathy's train and restval, as is the convention, and "all" every picture.
    None is "test" in a Karpathy file, and every picture in others. A warning names the columns of a table that are not
    used.

    Raises:
        CrossgapError: the file can't be read or has no such split; or, unless bad rows are skipped, a picture in it has
            no caption, or a caption is no text or longer than LONGEST.
    """
    groups: dict[tuple[str, str], list[str]] = {}  # (folder, name): captions; tables have a row for each caption
    with one_sentence(f"{path}: not a caption file (read are {_KNOWN})"):
        form, entries = _entries(path)
        entries = _of_split(path, form, [(where, _small_keys(entry)) for where, entry in entries], split)
        for folder, name, captions in of_good(lambda numbered: _row(*numbered), entries):
            groups.setdefault((folder, name), []).extend(filter(None, map(str.strip, captions)))
    used = {_key(entry, names) for _, entry in entries for names in (PICTURE, CAPTION)}
    used |= {"filepath", "split"} if split else {"filepath"}
    unused = dict.fromkeys(name for _, entry in entries for name in entry if name not in used)
    if form == "table" and unused:
        warnings.warn(f"{path} has columns that are not used: {', '.join(unused)}", stacklevel=4)
    if not groups:
        raise CrossgapError(f"{path}: holds no pictures with captions")
    if bare := [name for (_, name), captions in groups.items() if not captions]:
        bad_row(f"{path}: {len(bare)} of {len(groups)} pictures have no caption, the first is {bare[0]!r}", len(bare))
    return [CaptionRow(name, tuple(captions), folder) for (folder, name), captions in groups.items() if captions]


# ---------------------------------------------------------------- formats -> entries

_Entries = list[tuple[str, dict[str, Any]]]  # (where it stands, for messages; entry)


def _entries(path: Path) -> tuple[str, _Entries]:
    """(format, entries): "coco", "karpathy" or "table"."""
    text = read_text(path)
    start = text.lstrip()
    of_lines = path.suffix.lower() in (".jsonl", ".ndjson")
    if start.startswith(("{", "[")) and not of_lines:
        try:
            return _of_json(path, json.loads(text))
        except json.JSONDecodeError as error:
            of_lines = error.msg == "Extra data"  # JSON lines, by another name
            if not of_lines:
                raise CrossgapError(f"{path}: can't be read as JSON: {error}") from error
    if of_lines:
        return "table", [(f"{path}: line {number}", entry) for number, entry in read_json_lines(path).items()]
    for delimiter in "\t|,;":
        columns = [name.strip(' "').lower() for name in start.partition("\n")[0].split(delimiter)]
        if _key(columns, PICTURE) and _key(columns, CAPTION):
            return "table", [(f"{path}: line {n}", row) for n, row in read_table(path, delimiter).items()]
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return "tokens", of_good(partial(_token, path), lines)


def _of_json(path: Path, data: Any) -> tuple[str, _Entries]:
    form = "table"
    if isinstance(data, dict):
        wrapped = next((data[key] for key in ("data", "annotations") if isinstance(data.get(key), list)), None)
        if "images" in data:
            form, data = ("coco", _coco(path, data)) if "annotations" in data else ("karpathy", data["images"])
        elif wrapped is not None:
            data = wrapped
        elif _key(data, PICTURE):
            data = [data]
        else:
            data = [{"image": name, "captions": captions} for name, captions in data.items()]
    return form, [(f"{path}: entry {number}", entry) for number, entry in enumerate(data, start=1)]


def _coco(path: Path, data: dict) -> list[dict[str, Any]]:
    captions: dict[Any, list] = {image["id"]: [] for image in data["images"]}
    if twice := len(data["images"]) - len(captions):
        raise CrossgapError(f"{path}: {twice} images have the id of another one, so that captions can't be told apart")
    orphans = [note["image_id"] for note in data["annotations"] if note["image_id"] not in captions]
    if orphans:
        told = f"{len(orphans)} image_id of the annotations, as {orphans[0]}, are not among the images"
        bad_row(f"{path}: {told}", len(orphans))
    for note in data["annotations"]:
        captions.get(note["image_id"], []).append(note["caption"])
    return [{"file_name": each["file_name"], "captions": captions[each["id"]]} for each in data["images"]]


def _token(path: Path, numbered: tuple[int, str]) -> tuple[str, dict[str, Any]]:
    number, line = numbered
    match = _TOKEN_LINE.fullmatch(line)
    if match is None:
        raise CrossgapError(f"{path}: line {number} is {line[:60]!r}; read are {_KNOWN}")
    return f"{path}: line {number}", {"image": match["name"], "caption": match["caption"]}


def _of_split(path: Path, form: str, entries: _Entries, split: str | None) -> _Entries:
    splits = {str(entry["split"]) for _, entry in entries if "split" in entry}
    if split is None and (form != "karpathy" or not splits):
        return entries
    split = split or "test"
    if not splits:
        raise CrossgapError(f"{path}: only Karpathy files have splits, so split {split!r} can't be picked")
    if split not in splits | {"all"}:
        known = ", ".join(sorted(splits | {"all"}))
        raise CrossgapError(f"{path}: no split {split!r} in this file; there are {known}")
    wanted = {"all": splits, "train": {"train", "restval"}}.get(split, {split})
    if lacking := [where for where, entry in entries if "split" not in entry]:
        bad_row(f"{lacking[0]} names no split", len(lacking))
    return [(where, entry) for where, entry in entries if str(entry.get("split")) in wanted]


# ---------------------------------------------------------------- entries -> rows


def _row(where: str, entry: dict[str, Any]) -> tuple[str, str, list[str]]:
    """(folder, name, captions) of an entry."""
    picture, caption = _key(entry, PICTURE), _key(entry, CAPTION)
    if picture is None or caption is None:
        raise CrossgapError(f"{where} lacks {'captions' if picture else 'a picture'}, but has {', '.join(entry)}")
    name, captions = entry[picture], _several(entry[caption])
    if not isinstance(name, str) or not name:
        raise CrossgapError(f"{where}: a file name is expected, not {name!r}")
    for text in captions:
        if not isinstance(text, str):
            raise CrossgapError(f"{where}: a caption of {name!r} is {text!r:.60}, not text")
        if len(text) > LONGEST:
            size = f"{len(text)} characters, more than {LONGEST}"
            raise CrossgapError(f"{where}: a caption of {name!r} has {size}; does each quote close?")
    return str(entry.get("filepath", "")) if picture != "filepath" else "", name, captions


def _small_keys(entry: dict) -> dict[str, Any]:
    return {str(key).strip().lower(): value for key, value in entry.items()}


def _key(entry: Iterable[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in entry), None)


def _several(captions: Any) -> list:
    """A caption, Karpathy's {"raw": caption}, a list of them, or such a list written out in a cell of a table."""
    if isinstance(captions, str) and captions.startswith(("['", '["')):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # a caption that starts like a list
            captions = ast.literal_eval(captions)
    several = captions if isinstance(captions, list) else [captions]
    return [each[_key(each, CAPTION)] if isinstance(each, dict) and _key(each, CAPTION) else each for each in several]
