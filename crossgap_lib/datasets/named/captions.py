"""Pictures with captions: any caption file, or COCO, Flickr30k and nocaps by name, with their published split."""

import os
import warnings
from pathlib import Path

from crossgap_lib.datasets.caption_files import CaptionRow, read_captions
from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.picture_files import absolute, existing_folder
from crossgap_lib.errors import CrossgapError

# Where the downloads of COCO, Flickr8k and Flickr30k keep their pictures: here, beside the caption file, or a
# level above it.
_PICTURE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images"),
    *("val2017", "val2014", "train2017", "train2014"),
)


def read(
    row: NamedSet,
    spec: str,
    rest: str,
    *,
    split: str | None = None,
    images: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> Dataset:
    """COCO, Flickr30k or nocaps: Karpathy's test, the whole validation file of nocaps. Options as ``captions:``."""
    file, rows = caption_rows(row, rest, split)
    return with_pictures(spec, file, rows, images, skip_missing)


def caption_rows(row: NamedSet, rest: str, split: str | None = None) -> tuple[Path, list[CaptionRow]]:
    """(caption file, its rows): all that text-text retrieval needs, no picture is looked for."""
    root, split = root_and_split(row, rest, split)
    file = root / row.markers[0]
    return file, read_captions(file, split if len(row.splits) > 1 else None)


def read_file(
    spec: str,
    rest: str,
    *,
    split: str | None = None,
    images: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> Dataset:
    """``captions:FILE``, see ``load_dataset``."""
    path, split = _file_and_split(rest, split)
    return with_pictures(spec, path, read_captions(path, split), images, skip_missing)


def _file_and_split(rest: str, split: str | None) -> tuple[Path, str | None]:
    path = absolute(rest)
    if path.parent.is_file():  # captions:dataset.json/train
        path, split = path.parent, path.name
    if not path.is_file():
        raise CrossgapError(f"No such file: {path}; expected is a caption file with its pictures beside it")
    return path, split


def with_pictures(
    spec: str, path: Path, rows: list[CaptionRow], images: str | os.PathLike | None, skip_missing: bool
) -> Dataset:
    """The rows of a caption file with their pictures.

    Raises:
        CrossgapError: pictures that are not there; with ``skip_missing`` they are left out with a warning.
    """
    folders = _picture_folders(path, images)
    files = [_find(row, folders) for row in rows]
    found = [(row, file) for row, file in zip(rows, files, strict=True) if file]
    missing = [row.name for row, file in zip(rows, files, strict=True) if not file]
    if missing:
        message = _missing_message(path, missing, len(rows), folders)
        if not skip_missing or not found:
            raise CrossgapError(f"{message} (images=FOLDER looks elsewhere, skip_missing=True leaves them out)")
        warnings.warn(f"{message}; they are left out", stacklevel=5)
    captions = tuple(row.captions for row, _ in found)
    return from_files(spec, [row.name for row, _ in found], [file for _, file in found], captions=captions)


def _missing_message(path: Path, missing: list[str], total: int, folders: list[Path]) -> str:
    return (
        f"{len(missing)} of {total} pictures named in {path} are missing, the first is {missing[0]!r}; "
        f"looked in {', '.join(map(str, folders))}"
    )


def _picture_folders(path: Path, images: str | os.PathLike | None) -> list[Path]:
    if images is not None:
        return [existing_folder(images, "the pictures that the caption file names")]
    above = path.parent, path.parent.parent  # COCO: annotations/captions_val2017.json, val2017/*.jpg
    folders = [base / name for base in above for name in ("", *_PICTURE_FOLDERS)]
    return [folder for folder in folders if folder.is_dir()]


def _find(row: CaptionRow, folders: list[Path]) -> Path | None:
    candidates = (folder / inner / row.name for folder in folders for inner in (row.folder, ""))
    return next((path for path in candidates if os.path.isfile(path)), None)
