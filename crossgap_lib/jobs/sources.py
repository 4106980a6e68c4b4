"""What a long inversion starts from: features of one modality, read some rows at a time, so that any number fits.

Pictures and texts are encoded when their rows are read. Of ``.npy`` and ``.safetensors`` files only those rows are
loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from crossgap_lib.datasets.files import read_lines, skipping
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import NothingReadable, encode_images, encode_texts
from crossgap_lib.embeddings.rows import good_rows, strings
from crossgap_lib.embeddings.vector_files import clear_errors, read_columns
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import content_digest, digest

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

FILES = (".npy", ".npz", ".parquet", ".safetensors")
Rows = slice | np.ndarray
_STARTS_FROM = {"oti": "image", "ovi": "text"}


@dataclass(frozen=True)
class Part:
    """Features of some rows, and why the others of the part are missing."""

    features: Embeddings | None  # None where nothing of the part could be read
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Source:
    """n rows, of which ``read(rows)`` gives some, named by a slice or an array of row numbers."""

    fingerprint: str
    n: int
    read: Callable[[Rows], Part]
    ids: np.ndarray | None = None  # (n,) names of the rows, None where only their numbers tell them apart

    def __len__(self) -> int:
        return self.n


def open_source(model: "DualEncoder", spec: str, method: str) -> Source:
    """The rows that ``spec`` names, as ``method`` takes them: images for OTI, texts for OVI.

    A file of embeddings is taken as it is; a ``.txt`` file gives its lines; a data set gives its pictures (OTI), or
    the first captions, or, where it has none, the prompts of its classes (OVI).

    Raises:
        CrossgapError: nothing of that kind is there, or it belongs to the other modality.
    """
    path = Path(spec)
    if path.suffix in FILES:
        return _of_file(path, method)
    if path.suffix == ".txt":
        if method == "oti":
            raise CrossgapError(f"OTI starts from images and {path.name} holds texts; OVI takes it.")
        return _of_texts(model, list(read_lines(path).values()))
    photos = load_dataset(spec)
    if method == "ovi":
        if photos.captions is not None:
            return _of_texts(model, [several[0] for several in photos.captions], [f"{i}#0" for i in photos.ids])
        if not photos.class_names:
            raise CrossgapError(f"OVI starts from texts, and {spec} has neither captions nor class names.")
        return _of_texts(model, [f"a photo of a {name}" for name in photos.class_names])

    def read(rows: Rows) -> Part:
        try:
            images = encode_images(model, photos[rows], cache=False)
        except NothingReadable as error:
            return Part(None, error.skipped)
        return Part(images, images.meta.get("skipped", []))

    return Source(photos.fingerprint, len(photos), read, photos.ids)


def _of_texts(model: "DualEncoder", texts: list[str], ids: list[str] | None = None) -> Source:
    ids = ids or [f"text-{k:06d}" for k in range(len(texts))]

    def read(rows: Rows) -> Part:
        picked = np.arange(len(texts))[rows]
        return Part(encode_texts(model, [texts[k] for k in picked], ids=[ids[k] for k in picked], cache=False))

    return Source(digest((texts, ids)), len(texts), read, np.array(ids))


# ---------------------------------------------------------------- files of embeddings


def _of_file(path: Path, method: str) -> Source:
    if path.suffix == ".npy":
        return _of_npy(path, _STARTS_FROM[method])
    if path.suffix == ".safetensors" and (rows := _safetensors_rows(path)):
        return _checked(path, *rows, method)
    whole = Embeddings.load(path)
    return _checked(path, whole.modality, whole.ids, lambda rows: whole[rows], method)


def _checked(path: Path, modality: str, ids: np.ndarray, read: Callable[[Rows], Embeddings], method: str) -> Source:
    if modality != _STARTS_FROM[method]:
        raise CrossgapError(
            f"{method.upper()} starts from {_STARTS_FROM[method]} features, and {path.name} holds those of modality "
            f"{modality!r}."
        )
    return Source(content_digest(path), len(ids), lambda rows: Part(read(rows)), ids)


def _of_npy(path: Path, modality: str) -> Source:
    with clear_errors(path), skipping(path.name):
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # (n, d)
        good = good_rows(array)

    def read(rows: Rows) -> Part:
        ids = [f"row-{k:06d}" for k in good[rows]]
        return Part(Embeddings(np.array(array[good[rows]]), ids=ids, modality=modality))

    return Source(content_digest(path), len(good), read)


def _safetensors_rows(path: Path) -> tuple[str, np.ndarray, Callable[[Rows], Embeddings]] | None:
    """(modality, ids, reader of rows) of what ``Embeddings.save`` wrote; None where it is something else.

    The features stay in the file until rows of them are read.
    """
    with clear_errors(path):
        columns = read_columns(path)
        features, ids = columns.get("features"), columns.get("ids")
        if not isinstance(features, Tensor) or not isinstance(ids, list) or "modality" not in columns:
            return None  # Embeddings.load knows the files of others
        if features.ndim != 2 or len(ids) != len(features):
            raise CrossgapError(f"{path.name} holds {len(ids)} ids for features of shape {tuple(features.shape)}.")
        own = {name: strings(name, columns[name]) for name in ("ids", "texts") if columns.get(name) is not None}
        own |= {"labels": np.asarray(columns["labels"])} if "labels" in columns else {}
        told = {"class_names": tuple(columns.get("class_names", ())), "modality": columns["modality"]}

    def read(rows: Rows) -> Embeddings:
        return Embeddings(features[rows], **{name: column[rows] for name, column in own.items()}, **told)

    return told["modality"], own["ids"], read
