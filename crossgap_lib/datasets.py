"""``load_dataset("dogs-vs-cats:PATH")`` -> Dataset: rows that are listed now and decoded on demand."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from crossgap_lib.caption_files import CaptionRow, read_captions
from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.pictures import EXTENSIONS, open_picture

# Where the downloads of COCO, Flickr8k and Flickr30k keep their pictures: here, beside the caption file, or a
# level above it.
_PICTURE_FOLDERS = (
    *("images", "Images", "Flicker8k_Dataset", "Flickr8k_Dataset", "flickr30k_images", "flickr30k-images"),
    *("val2017", "val2014", "train2017", "train2014"),
)


@dataclass(frozen=True, eq=False)
class Dataset:
    """n pictures that are decoded only when asked for, with what is known of each.

    ``dataset[rows]`` with a slice, a boolean mask or an array of row numbers is the Dataset of those rows.
    Raises CrossgapError where ids repeat or a column has another length.
    """

    name: str  # the spec it came from
    ids: np.ndarray  # (n,) str, unique and stable: relative path, or "world-000123"
    load: Callable[[int], Image.Image]  # RGB picture of row i; raises UnreadableImage
    fingerprint: str  # hex blake2b of what the rows hold (files: relative path, size, mtime_ns)
    labels: np.ndarray | None = None  # (n,) int64
    class_names: tuple[str, ...] = ()  # label -> name, as used in a prompt ("dog")
    captions: tuple[tuple[str, ...], ...] | None = None  # (n,) captions of each row
    factors: pd.DataFrame | None = None  # (n, k) known factors of each picture (worlds only)

    def __post_init__(self) -> None:
        names, counts = np.unique(self.ids, return_counts=True)
        if (counts > 1).any():
            twice = names[counts > 1]
            raise CrossgapError(f"{self.name}: {len(twice)} ids appear more than once, the first is {str(twice[0])!r}")
        for column in ("labels", "captions", "factors"):
            values = getattr(self, column)
            if values is not None and len(values) != len(self):
                raise CrossgapError(f"{self.name}: {len(values)} {column} for {len(self)} pictures")

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, i: int) -> Image.Image:
        """RGB picture of row ``i``. Raises UnreadableImage."""
        return self.load(int(i))

    def __getitem__(self, rows: slice | Sequence | np.ndarray) -> "Dataset":
        everything = np.arange(len(self))
        picked = everything[_row_index(rows)]  # (m,) row numbers, none negative
        if np.array_equal(picked, everything):
            return self
        return replace(
            self,
            ids=self.ids[picked],
            load=partial(_load_picked, self.load, picked),
            fingerprint=_digest([self.fingerprint.encode(), picked.astype("<i8").tobytes()]),
            labels=None if self.labels is None else self.labels[picked],
            captions=None if self.captions is None else tuple(self.captions[i] for i in picked),
            factors=None if self.factors is None else self.factors.iloc[picked].reset_index(drop=True),
        )


def load_dataset(spec: str, **options) -> Dataset:
    """The dataset that ``spec``, PREFIX:REST, names; listing it decodes no picture.

    - ``world:dogs-vs-cats``, ``world:all``: drawn pictures, held out (``world:all/train``: not).
    - ``dogs-vs-cats:PATH``: ``PetImages/{Cat,Dog}/0.jpg`` or ``train/cat.0.jpg``; classes cat and dog.
    - ``folder:PATH``: a class a folder, pictures at any depth in it.
    - ``captions:PATH``: COCO or Karpathy JSON, Flickr8k token file, or image,caption CSV. Options: ``split``
      (Karpathy; "test" by default, also ``captions:PATH/train``), ``images`` (folder of the pictures),
      ``skip_missing`` (leave out, with a warning, rows whose picture is not there).

    Raises CrossgapError where nothing of that kind is there.
    """
    prefix, colon, rest = spec.partition(":")
    if prefix not in _LOADERS or not colon:
        known = ", ".join(f"{name}:" for name in _LOADERS)
        raise CrossgapError(f"Unknown dataset {spec!r}; it starts with one of {known}.{did_you_mean(prefix, _LOADERS)}")
    if not rest:
        raise CrossgapError(f"{spec!r} lacks what comes after the colon: {prefix}:{_EXAMPLES[prefix]}")
    return _LOADERS[prefix](spec, rest, **options)


def _world(spec: str, rest: str, **options) -> Dataset:
    from crossgap_lib.world import world_dataset  # late: world.py builds on this module's Dataset

    return world_dataset(rest, **options)


def _dogs_vs_cats(spec: str, rest: str) -> Dataset:
    root = _existing(rest, "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg")
    for base in (root / "PetImages", root, root / "train"):
        groups = [_of_kind(base, kind) for kind in ("cat", "dog")]
        if all(groups):
            return _labelled(spec, base, ("cat", "dog"), groups)
    raise CrossgapError(
        f"No pictures of both cats and dogs in {root}; expected are PetImages/{{Cat,Dog}}/*.jpg or "
        "train/{cat,dog}.*.jpg (for other trees there is folder:PATH)"
    )


def _of_kind(base: Path, kind: str) -> list[Path]:
    """Pictures in the folder ``base``/Kind, or those named kind.N.jpg in ``base``."""
    folders = [folder for folder in _folders(base) if folder.name.lower() == kind]
    named = re.compile(rf"{kind}\.\d+\.", re.IGNORECASE)
    flat = [path for path in _pictures(base, deep=False) if named.match(path.name)]
    return [path for folder in folders for path in _pictures(folder)] or flat


def _folder(spec: str, rest: str) -> Dataset:
    root = _existing(rest, "CLASS/*.jpg, a folder a class")
    pictures = {folder.name: _pictures(folder) for folder in _folders(root)}
    classes = [name for name in pictures if pictures[name]]
    notes = _leftovers(root, [name for name in pictures if not pictures[name]])
    if not classes:
        raise CrossgapError(f"No pictures in {root}; expected is CLASS/*.jpg, a folder a class{notes}")
    if notes:
        warnings.warn(f"{spec}{notes}", stacklevel=3)
    names = tuple(re.sub("[_-]+", " ", name).strip() for name in classes)
    if len(set(names)) < len(names):
        raise CrossgapError(
            f"Two class folders in {root} have the same name once _ and - are spaces: {sorted(classes)}"
        )
    return _labelled(spec, root, names, [pictures[name] for name in classes])


def _leftovers(root: Path, empty: list[str]) -> str:
    loose = len(_pictures(root, deep=False))
    return (f"; class folders without pictures: {', '.join(empty)}" if empty else "") + (
        f"; {loose} pictures lie in no class folder" if loose else ""
    )


def _captions(
    spec: str,
    rest: str,
    *,
    split: str | None = None,
    images: str | os.PathLike | None = None,
    skip_missing: bool = False,
) -> Dataset:
    path, split = _file_and_split(rest, split)
    rows = read_captions(path, split)
    folders = _picture_folders(path, images)
    files = [_find(row, folders) for row in rows]
    found = [(row, file) for row, file in zip(rows, files, strict=True) if file]
    missing = [row.name for row, file in zip(rows, files, strict=True) if not file]
    if missing:
        message = _missing_message(path, missing, len(rows), folders)
        if not skip_missing or not found:
            raise CrossgapError(f"{message} (images=FOLDER looks elsewhere, skip_missing=True leaves them out)")
        warnings.warn(f"{message}; they are left out", stacklevel=3)
    captions = tuple(row.captions for row, _ in found)
    return _from_files(spec, [row.name for row, _ in found], [file for _, file in found], captions=captions)


def _file_and_split(rest: str, split: str | None) -> tuple[Path, str | None]:
    path = _absolute(rest)
    if path.parent.is_file():  # captions:dataset.json/train
        path, split = path.parent, path.name
    if not path.is_file():
        raise CrossgapError(f"No such file: {path}; expected is a caption file with its pictures beside it")
    return path, split


def _missing_message(path: Path, missing: list[str], total: int, folders: list[Path]) -> str:
    return (
        f"{len(missing)} of {total} pictures named in {path} are missing, the first is {missing[0]!r}; "
        f"looked in {', '.join(map(str, folders))}"
    )


def _picture_folders(path: Path, images: str | os.PathLike | None) -> list[Path]:
    if images is not None:
        return [_existing(images, "the pictures that the caption file names")]
    above = path.parent, path.parent.parent  # COCO: annotations/captions_val2017.json, val2017/*.jpg
    folders = [base / name for base in above for name in ("", *_PICTURE_FOLDERS)]
    return [folder for folder in folders if folder.is_dir()]


def _find(row: CaptionRow, folders: list[Path]) -> Path | None:
    candidates = (folder / inner / row.name for folder in folders for inner in (row.folder, ""))
    return next((path for path in candidates if os.path.isfile(path)), None)


def _labelled(spec: str, root: Path, class_names: tuple[str, ...], groups: list[list[Path]]) -> Dataset:
    paths = [path for group in groups for path in group]
    labels = np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])  # (n,)
    ids = [path.relative_to(root).as_posix() for path in paths]
    return _from_files(spec, ids, paths, labels=labels, class_names=class_names)


def _from_files(spec: str, ids: list[str], paths: list[Path], **columns) -> Dataset:
    stamps = (os.fsencode("\0".join((name, *_stamp(path)))) for name, path in zip(ids, paths, strict=True))
    load = partial(_load_file, tuple(map(str, paths)))
    return Dataset(spec, np.array(ids, dtype=str), load, _digest(stamps), **columns)


def _stamp(path: Path) -> tuple[str, str]:
    try:
        stat = path.stat()
    except OSError:  # a dangling link stays a row, so that decoding reports it
        return "", ""
    return str(stat.st_size), str(stat.st_mtime_ns)


def _digest(parts: Iterable[bytes]) -> str:
    digest = blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


# Plain functions of the module, so that a Dataset can be sent to worker processes.
def _load_file(paths: tuple[str, ...], i: int) -> Image.Image:
    return open_picture(paths[i])


def _load_picked(load: Callable[[int], Image.Image], picked: np.ndarray, i: int) -> Image.Image:
    return load(int(picked[i]))


def _row_index(rows: slice | Sequence | np.ndarray) -> slice | np.ndarray:
    if isinstance(rows, slice):
        return rows
    index = np.asarray(rows)
    if index.ndim != 1:
        raise TypeError("a Dataset takes a slice, a mask or an array of rows; picture(i) gives one picture")
    return index if index.size else index.astype(np.intp)  # [] is float to numpy


def _absolute(path: str | os.PathLike) -> Path:
    return Path(os.path.abspath(os.path.expanduser(path)))


def _existing(path: str | os.PathLike, expected: str) -> Path:
    root = _absolute(path)
    if not root.is_dir():
        raise CrossgapError(f"No such folder: {root}; expected is a folder that holds {expected}")
    return root


def _folders(root: Path) -> list[Path]:
    """Folders in ``root`` by name, hidden ones left out; none where ``root`` is none."""
    inside = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def _pictures(folder: Path, deep: bool = True) -> list[Path]:
    """Picture files by extension, hidden ones left out, 2.jpg before 10.jpg."""
    found = []
    for here, subfolders, files in os.walk(folder):
        subfolders[:] = [name for name in subfolders if deep and not name.startswith(".")]
        found += [Path(here, name) for name in files if _is_picture(name)]
    return sorted(found, key=lambda path: _natural(path.relative_to(folder).as_posix()))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def _natural(name: str) -> tuple:
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name


_LOADERS = {"world": _world, "dogs-vs-cats": _dogs_vs_cats, "folder": _folder, "captions": _captions}
_EXAMPLES = {"world": "dogs-vs-cats", "dogs-vs-cats": "PATH", "folder": "PATH", "captions": "FILE"}
