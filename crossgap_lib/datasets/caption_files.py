"""Caption files -> rows of a picture's name and its captions, or a Dataset of them.

Of whatever format, a file is first cut into entries: dictionaries that hold a picture's name and its captions under
names that people use. One function then makes rows of them.
"""

import ast
import json
import os
import re
import warnings
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from crossgap_lib.datasets.dataset import Dataset, from_listing
from crossgap_lib.datasets.files import (
    absolute,
    bad_row,
    existing_folder,
    file_named,
    of_good,
    read_json_lines,
    read_table,
    read_text,
)
from crossgap_lib.errors import CrossgapError

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
    return with_pictures(spec, path, read_captions(path, split), images)


def with_pictures(spec: str, path: Path, rows: list[CaptionRow], images: str | os.PathLike | None) -> Dataset:
    """The rows of the caption file ``path`` with their pictures, from the folder ``images`` or the usual places."""
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
        captions=[row.captions for row in rows],
    )


def _find(row: CaptionRow, folders: list[Path]) -> Path | None:
    candidates = (file_named(folder / inner, row.name) for folder in folders for inner in (row.folder, ""))
    return next((path for path in candidates if path), None)


def read_captions(path: Path, split: str | None = None) -> list[CaptionRow]:
    """Rows of a caption file, in the file's order; the format is told by the content.

    ``split`` picks a split: "train" is Karpathy's train and restval, as is the convention, and "all" every picture.
    None is "test" in a Karpathy file, and every picture in others. A warning names the columns of a table that are not
    used.

    Raises:
        CrossgapError: the file can't be read or has no such split; or, unless bad rows are skipped, a picture in it has
            no caption, or a caption is no text or longer than LONGEST.
    """
    text = read_text(path)
    try:
        return _rows(path, *_entries(path, text), split)
    except json.JSONDecodeError as error:
        raise CrossgapError(f"{path}: not valid JSON: {error}") from error
    except CrossgapError as error:
        raise CrossgapError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from error
    except KeyError as error:
        raise CrossgapError(f"{path}: not a caption file: an entry lacks {error}; read are {_KNOWN}") from error
    except (TypeError, AttributeError, RecursionError) as error:
        raise CrossgapError(f"{path}: not a caption file: {error}; read are {_KNOWN}") from error


# ---------------------------------------------------------------- formats -> entries

_Entries = Iterable[tuple[str, dict[str, Any]]]  # (where it stands, for messages; entry)


def _entries(path: Path, text: str) -> tuple[str, _Entries]:
    """(format, entries): "coco", "karpathy" or "table"."""
    start = text.lstrip()
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        return "table", _of_lines(path)
    if start.startswith(("{", "[")):
        try:
            return _of_json(json.loads(text))
        except json.JSONDecodeError as error:
            if error.msg != "Extra data":  # JSON lines, by another name
                raise
        return "table", _of_lines(path)
    header = start.partition("\n")[0]
    for delimiter in "\t|,;":
        columns = [name.strip(' "').lower() for name in header.split(delimiter)]
        if _key(columns, PICTURE) and _key(columns, CAPTION):
            return "table", [(f"line {number}", row) for number, row in read_table(path, delimiter).items()]
    return "tokens", _token_lines(text)


def _of_lines(path: Path) -> _Entries:
    return [(f"line {number}", entry) for number, entry in read_json_lines(path).items()]


def _of_json(data: Any) -> tuple[str, _Entries]:
    if isinstance(data, dict) and "annotations" in data:
        return "coco", _coco(data)
    if isinstance(data, dict) and "images" in data:
        return "karpathy", _numbered(data["images"])
    if isinstance(data, list) or _key(data, PICTURE):
        return "table", _numbered(data if isinstance(data, list) else [data])
    return "table", _numbered([{"image": name, "captions": captions} for name, captions in data.items()])


def _numbered(entries: list[dict]) -> _Entries:
    return [(f"entry {number}", entry) for number, entry in enumerate(entries, start=1)]


def _coco(data: dict) -> _Entries:
    captions: dict[Any, list] = {image["id"]: [] for image in data["images"]}
    orphans = [note for note in data["annotations"] if note["image_id"] not in captions]
    if orphans:
        first = orphans[0]["image_id"]
        bad_row(f"{len(orphans)} image_id of the annotations, as {first}, are not among the images", len(orphans))
    for note in data["annotations"]:
        captions.get(note["image_id"], []).append(note["caption"])
    return _numbered([{"file_name": each["file_name"], "captions": captions[each["id"]]} for each in data["images"]])


def _token_lines(text: str) -> _Entries:
    for number, line in enumerate(text.split("\n"), start=1):
        if match := _TOKEN_LINE.fullmatch(line):
            yield f"line {number}", {"image": match["name"], "caption": match["caption"]}
        elif line.strip():
            bad_row(f"line {number} is {line[:60]!r}; read are {_KNOWN}")


# ---------------------------------------------------------------- entries -> rows


def _rows(path: Path, form: str, entries: _Entries, split: str | None) -> list[CaptionRow]:
    groups: dict[tuple[str, str], list[str]] = {}  # (folder, name): captions; tables have a row for each caption
    columns, used = {}, {"filepath", *(["split"] if split else [])}

    def add(numbered: tuple[str, dict]) -> None:
        where, entry = numbered[0], {str(key).strip().lower(): value for key, value in numbered[1].items()}
        picture, caption = _key(entry, PICTURE), _key(entry, CAPTION)
        columns.update(dict.fromkeys(entry))
        used.update({picture, caption})
        if picture is None or caption is None:
            lacks = "a picture" if picture is None else "captions"
            raise CrossgapError(f"{where} lacks {lacks}, but has {', '.join(entry)}")
        name, captions = entry[picture], _several(entry[caption])
        if not isinstance(name, str) or not name:
            raise CrossgapError(f"{where}: a file name is expected, not {name!r}")
        for text in captions:
            if not isinstance(text, str):
                raise CrossgapError(f"{where}: a caption of {name!r} is {text!r:.60}, not text")
            if len(text) > LONGEST:
                size = f"{len(text)} characters, more than {LONGEST}"
                raise CrossgapError(f"{where}: a caption of {name!r} has {size}; does each quote close?")
        folder = entry.get("filepath", "") if picture != "filepath" else ""
        groups.setdefault((str(folder), name), []).extend(filter(None, map(str.strip, captions)))

    of_good(add, _of_split(form, entries, split))
    if form == "table" and (unused := [name for name in columns if name not in used]):
        warnings.warn(f"{path} has columns that are not used: {', '.join(unused)}", stacklevel=5)
    if not groups:
        raise CrossgapError("holds no pictures with captions")
    if bare := [name for (_, name), captions in groups.items() if not captions]:
        bad_row(f"{len(bare)} of {len(groups)} pictures have no caption, the first is {bare[0]!r}", len(bare))
    return [CaptionRow(name, tuple(captions), folder) for (folder, name), captions in groups.items() if captions]


def _key(entry: Iterable[str], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in entry), None)


def _several(captions: Any) -> list:
    """A caption, Karpathy's {"raw": caption}, a list of them, or such a list written out in a cell of a table."""
    if isinstance(captions, str) and captions.startswith(("['", '["')):
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):  # a caption that starts like a list
            captions = ast.literal_eval(captions)
    several = captions if isinstance(captions, list) else [captions]
    return [each[_key(each, CAPTION)] if isinstance(each, dict) and _key(each, CAPTION) else each for each in several]


def _of_split(form: str, entries: _Entries, split: str | None) -> _Entries:
    entries = list(entries)
    splits = {str(entry["split"]) for _, entry in entries if "split" in entry}
    if split is None and (form != "karpathy" or not splits):
        return entries
    split = split or "test"
    if not splits:
        raise CrossgapError(f"only Karpathy files have splits, so split {split!r} can't be picked")
    if split not in splits | {"all"}:
        raise CrossgapError(f"no split {split!r} in this file; there are {', '.join(sorted(splits | {'all'}))}")
    wanted = {"all": splits, "train": {"train", "restval"}}.get(split, {split})
    if lacking := [where for where, entry in entries if "split" not in entry]:
        bad_row(f"{lacking[0]} names no split", len(lacking))
    return [(where, entry) for where, entry in entries if str(entry.get("split")) in wanted]
