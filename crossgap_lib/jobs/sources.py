"""What a long inversion starts from: features of one modality, read some rows at a time, so that any number fits.

Pictures and texts are encoded when their rows are read. Of ``.npy`` and ``.safetensors`` files only those rows are
loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from crossgap_lib.datasets.files import read_lines, skipping
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import NothingReadable, encode_images, encode_texts
from crossgap_lib.embeddings.rows import good_rows, strings
from crossgap_lib.embeddings.vector_files import read_json
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
    if not path.is_file():
        raise CrossgapError(f"There is no embeddings file {path}.")
    if path.suffix == ".npy":
        return _of_npy(path, _STARTS_FROM[method])
    if path.suffix == ".safetensors":
        rows = _safetensors_rows(path)
        if rows:
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
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # (n, d)
    except (ValueError, OSError) as error:
        raise CrossgapError(f"{path} is damaged or holds pickled objects, which are never loaded.") from error
    if array.ndim != 2:
        raise CrossgapError(f"{path.name} must hold features (n, d), not {array.shape}.")
    with skipping(path.name):
        good = good_rows(array)

    def read(rows: Rows) -> Part:
        ids = [f"row-{k:06d}" for k in good[rows]]
        return Part(Embeddings(np.array(array[good[rows]]), ids=ids, modality=modality))

    return Source(content_digest(path), len(good), read)


def _safetensors_rows(path: Path) -> tuple[str, np.ndarray, Callable[[Rows], Embeddings]] | None:
    """(modality, ids, reader of rows) of what ``Embeddings.save`` wrote; None where it is something else."""
    try:
        with safe_open(path, "pt") as archive:
            names = set(archive.keys())
            header, ids, texts = (read_json(archive, name) for name in ("header", "ids", "texts"))
            if header is None or ids is None or "features" not in names:
                return None
            if len(ids) != archive.get_slice("features").get_shape()[0]:
                return None
            ids, texts = strings("ids", ids), None if texts is None else strings("texts", texts)
    except Exception:  # Embeddings.load says what is wrong
        return None

    def read(rows: Rows) -> Embeddings:
        with safe_open(path, "pt") as archive:
            features = _rows_of(archive.get_slice("features"), rows)
            labels = _rows_of(archive.get_slice("labels"), rows).to(torch.int64).numpy() if "labels" in names else None
        told = None if texts is None else texts[rows]
        return Embeddings(features, ids[rows], labels, tuple(header["class_names"]), header["modality"], told)

    return header["modality"], ids, read


def _rows_of(stored: Any, rows: Rows) -> Tensor:
    """Rows of a tensor in a safetensors file, and nothing else of it is read."""
    if isinstance(rows, slice):
        return stored[rows.start : rows.stop]
    return torch.cat([stored[k : k + 1] for k in rows.tolist()])
