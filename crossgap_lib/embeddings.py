"""Embeddings: unit-norm features with ids, labels, modality and texts; how they are made, kept and exchanged."""

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.paths import cache_dir
from crossgap_lib.progress import bar

if TYPE_CHECKING:
    from crossgap_lib.datasets import Dataset
    from crossgap_lib.encoders import DualEncoder

MODALITIES = ("image", "text", "oti", "ovi", "projection")
_ENCODE_VERSION = 1  # part of every cache key: raise it whenever encoding changes


def _unit_rows(features: Any) -> Tensor:
    """Anything array-like (n, d) -> float32 CPU tensor with unit rows; refuses what has no direction."""
    array = features.detach().cpu() if isinstance(features, Tensor) else np.asarray(features)
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiu":
            raise CrossgapError(f"Features must be numbers, not an array of {array.dtype}.")
        array = torch.from_numpy(np.array(array, dtype=np.float32))
    array = array.float()
    if array.ndim != 2 or 0 in array.shape:
        raise CrossgapError(f"Features must have shape (n, d) with n and d at least 1, not {tuple(array.shape)}.")
    if bad := int((~torch.isfinite(array)).any(dim=1).sum()):
        raise CrossgapError(f"{bad} of {len(array)} feature rows hold NaN or infinity.")
    peaks = array.abs().amax(dim=1, keepdim=True)  # (n, 1)
    if zero := int((peaks == 0).sum()):
        raise CrossgapError(f"{zero} of {len(array)} feature rows are all zero, so they have no direction.")
    already = (array.norm(dim=1, keepdim=True) - 1).abs() < 1e-6  # stay bit for bit, so save and load are exact
    scaled = array / peaks  # so that squares neither overflow nor vanish
    return torch.where(already, array, scaled / scaled.norm(dim=1, keepdim=True))


@dataclass(eq=False)
class Embeddings:
    """n features of one modality.

    Attributes:
        features: (n, d) float32 on the CPU, unit L2 norm (rows are normalised on the way in).
        ids: (n,) unique names of the rows; equal ids in two sets mean the same picture or text.
        labels: (n,) int64 indices into ``class_names``, or None.
        modality: one of "image", "text", "oti", "ovi", "projection".
        texts: (n,) captions or prompts, or None.
        meta: what made them: model, dataset, fingerprints, skipped pictures.

    Raises:
        CrossgapError: NaN, all-zero rows, wrong shapes or lengths, object arrays, repeated ids, labels that are no
            whole numbers or index no class name.
    """

    features: Tensor
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    modality: str = "image"
    texts: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.features = _unit_rows(self.features)
        ids = [f"row-{k:06d}" for k in range(len(self.features))] if self.ids is None else self.ids
        self.ids = self._column("ids", ids, str)
        if len(np.unique(self.ids)) < len(self.ids):
            raise CrossgapError("The ids repeat; every row needs its own.")
        self.labels = self._column("labels", self.labels, np.int64)
        self.texts = self._column("texts", self.texts, str)
        self.class_names = tuple(self.class_names)
        known = len(self.class_names)
        if known and self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < known:
            low, high = self.labels.min(), self.labels.max()
            raise CrossgapError(f"The labels run from {low} to {high}, but there are {known} class names.")
        if self.modality not in MODALITIES:
            raise CrossgapError(f"Modality {self.modality!r} is none of {', '.join(MODALITIES)}.")

    def _column(self, name: str, values: Any, dtype: type) -> np.ndarray | None:
        if values is None:
            return None
        column = np.asarray(values)
        if column.dtype == object and not all(isinstance(v, str) for v in column.ravel()):
            raise CrossgapError(f"The {name} are an object array; only plain strings and numbers are read.")
        if column.shape != (len(self.features),):
            raise CrossgapError(f"There are {len(self.features)} features, but the {name} have shape {column.shape}.")
        if dtype is np.int64 and column.dtype.kind not in "iub":
            raise CrossgapError(f"The {name} must be whole numbers, not {column.dtype}.")
        return column.astype(dtype)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int] | Tensor) -> "Embeddings":
        """The rows of a slice, a boolean mask or an index array; meta is kept."""
        return replace(self, **self._rows(_row_index(rows, len(self))))

    def _rows(self, index: np.ndarray) -> dict[str, Any]:
        take = lambda column: None if column is None else column[index]  # noqa: E731
        return {
            "features": self.features[torch.from_numpy(index)],
            "ids": self.ids[index],
            "labels": take(self.labels),
            "texts": take(self.texts),
        }

    def __repr__(self) -> str:
        n, d = self.features.shape
        classes = f", {len(self.class_names)} classes" if self.class_names else ""
        return f"{type(self).__name__}({n} x {d}, {self.modality}{classes}, model={self.meta.get('model', 'unknown')})"

    def save(self, path: str | Path) -> Path:
        """Writes ``.npz``, ``.parquet`` or ``.safetensors``, whole or not at all."""
        path = Path(path)
        write = {".npz": _write_npz, ".parquet": _write_parquet, ".safetensors": _write_safetensors}
        if path.suffix not in write:
            raise CrossgapError(f"Can't save {path.name}: choose .npz, .parquet or .safetensors.")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
        try:
            write[path.suffix](self, part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Embeddings":
        """Reads what ``save`` wrote, a plain ``.npy`` of shape (n, d), or any ``.npz`` with ``features``.

        Raises:
            CrossgapError: a missing, damaged, pickled or pair file (see ``load_pair``), or bad features.
        """
        path = Path(path)
        read = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet, ".safetensors": _read_safetensors}
        if path.suffix not in read:
            raise CrossgapError(f"Can't read {path.name}: embeddings come as {', '.join(read)}.")
        with _clear_errors(path):
            return cls(**read[path.suffix](path))


def _row_index(rows: Any, n: int) -> np.ndarray:
    if isinstance(rows, slice):
        return np.arange(n)[rows].copy()  # torch takes no negative strides
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape != (n,):
        raise CrossgapError(f"A mask over {n} embeddings needs shape ({n},), not {rows.shape}.")
    if rows.ndim != 1:
        raise CrossgapError("Embeddings are chosen by a slice, a boolean mask or a list of row numbers.")
    return np.arange(n)[rows]


def load_pair(path: str | Path) -> tuple[Embeddings, Embeddings]:
    """Images and texts of a pair file: ``.npz`` with image_features and text_features (n, d), optional captions.

    Row i of one belongs to row i of the other.

    Raises:
        CrossgapError: the file is no pair file, or the two sides differ in shape.
    """
    path = Path(path)
    with _clear_errors(path):
        columns = _read_arrays(path)
    missing = {"image_features", "text_features"} - columns.keys()
    if missing:
        raise CrossgapError(f"{path.name} is no pair file: it lacks {' and '.join(sorted(missing))}.")
    images, texts = columns["image_features"], columns["text_features"]
    if images.shape != texts.shape:
        raise CrossgapError(f"{path.name}: image features {images.shape} and text features {texts.shape} must match.")
    meta = {"model": path.stem, "dataset": path.stem}
    captions = columns.get("captions")
    return (
        Embeddings(images, modality="image", meta=dict(meta)),
        Embeddings(texts, modality="text", texts=captions, meta=dict(meta)),
    )


# ---------------------------------------------------------------- files


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
    """Turns whatever numpy, pyarrow and safetensors raise on a bad file into one sentence."""
    if not path.is_file():
        raise CrossgapError(f"There is no embeddings file {path}.")
    try:
        yield
    except CrossgapError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files: zlib.error, RuntimeError, TypeError
        if "allow_pickle" in str(error):  # numpy takes whatever it does not know for a pickle
            raise CrossgapError(f"{path} is damaged or holds pickled objects, which are never loaded.") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CrossgapError(f"{path} can't be read as embeddings: {reason}") from error


def _columns(e: Embeddings) -> dict[str, Any]:
    """The optional columns that are there, and the header as JSON."""
    header = json.dumps({"class_names": e.class_names, "modality": e.modality, "meta": e.meta})
    present = {"ids": e.ids, "labels": e.labels, "texts": e.texts}
    return {"header": header, **{k: v for k, v in present.items() if v is not None}}


def _from_columns(columns: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """What Embeddings takes, from what a file holds; ``name`` is its column of features."""
    if name not in columns:
        pair = " It is a pair file: use load_pair." if {"image_features", "text_features"} <= columns.keys() else ""
        others = ", ".join(column for column in columns if column != "header") or "nothing"
        raise CrossgapError(f"{path.name} holds no {name}, only {others}.{pair}")
    header = json.loads(str(columns.get("header", "{}")))
    told = {k: header[k] for k in ("class_names", "modality", "meta") if k in header}
    return {"features": columns[name], **{k: columns.get(k) for k in ("ids", "labels", "texts")}, **told}


def _write_npz(e: Embeddings, path: Path) -> None:
    np.savez(path, features=e.features.numpy(), **_columns(e))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _read_npz(path: Path) -> dict[str, Any]:
    return _from_columns(_read_arrays(path), "features", path)


def _read_npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"features": np.lib.format.read_array(file, allow_pickle=False)}


def _write_parquet(e: Embeddings, path: Path) -> None:
    columns = _columns(e)
    header = columns.pop("header")
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(e.features.numpy().ravel()), e.features.shape[1])
    table = pa.table({**{k: pa.array(v) for k, v in columns.items()}, "vector": vectors})
    pq.write_table(table.replace_schema_metadata({"crossgap": header}), path)


def _read_parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path)
    columns = {k: table[k].to_numpy(zero_copy_only=False) for k in table.column_names}
    if "vector" in columns:
        columns["vector"] = np.stack(columns["vector"])  # (n, d)
    header = (table.schema.metadata or {}).get(b"crossgap", b"{}").decode()
    return _from_columns({**columns, "header": header}, "vector", path)


def _write_safetensors(e: Embeddings, path: Path) -> None:
    columns = _columns(e)
    strings = {k: json.dumps(v.tolist()) if k in ("ids", "texts") else v for k, v in columns.items() if k != "labels"}
    tensors = {"features": e.features.contiguous()}
    if e.labels is not None:
        tensors["labels"] = torch.from_numpy(e.labels)
    save_file(tensors, path, metadata=strings)


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as archive:
        strings = archive.metadata() or {}
        tensors = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    lists = {k: json.loads(strings[k]) for k in ("ids", "texts") if k in strings}
    return _from_columns({**tensors, **lists, "header": strings.get("header", "{}")}, "features", path)


# ---------------------------------------------------------------- encoding


class NothingReadable(CrossgapError):
    """Not one picture of a data set could be decoded; ``skipped`` says why, path first."""

    def __init__(self, name: str, skipped: list[str]):
        super().__init__(f"None of the {len(skipped)} pictures of {name} can be decoded: {skipped[0]}")
        self.skipped = skipped


def _key(*facts: object) -> str:
    return blake2b(repr((_ENCODE_VERSION, *facts)).encode(), digest_size=16).hexdigest()


def _cached(key: str, compute: Any, use_cache: bool) -> Embeddings:
    """The embeddings kept under this key, else computed and kept; a damaged file is computed again."""
    path = cache_dir() / "embeddings" / f"{key}.safetensors"
    if use_cache and path.exists():
        try:
            return Embeddings.load(path)
        except CrossgapError:
            path.unlink(missing_ok=True)
    made = compute()
    if use_cache:
        made.save(path)
    return made


def _decode(dataset: "Dataset", row: int, preprocess: Any) -> Tensor | UnreadableImage:
    try:
        return preprocess(dataset.load(row))
    except UnreadableImage as error:
        return error


def _pixel_batches(model: "DualEncoder", dataset: "Dataset", size: int) -> Iterator[list[Tensor | UnreadableImage]]:
    """Decoded batches, the next one being read by threads while the encoder works on this one."""
    starts = range(0, len(dataset), size)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:

        def submit(start: int) -> list:
            rows = range(start, min(start + size, len(dataset)))
            return [pool.submit(_decode, dataset, row, model.preprocess) for row in rows]

        pending = submit(0)
        for start in starts:
            current, pending = pending, submit(start + size)
            yield [future.result() for future in current]


def encode_images(model: "DualEncoder", dataset: "Dataset", *, batch_size: int = 64, cache: bool = True) -> Embeddings:
    """Image features of a data set: (n - skipped, d).

    Pictures that can't be decoded are skipped; ``meta["skipped"]`` lists why, path first, and ``skip_report`` says it.

    Raises:
        CrossgapError: the data set is empty; NothingReadable: none of its pictures can be decoded.
    """
    if len(dataset) == 0:
        raise CrossgapError(f"{dataset.name} holds no pictures.")
    labels = None if dataset.labels is None else dataset.labels.tolist()
    facts = (dataset.fingerprint, dataset.class_names, labels, _first_captions(dataset))  # all that is kept
    key = _key("image", model.fingerprint, model.precision, *facts)
    return _cached(key, lambda: _encode_images(model, dataset, batch_size), cache)


def _first_captions(dataset: "Dataset") -> list[str] | None:
    return None if dataset.captions is None else [several[0] for several in dataset.captions]


def _encode_images(model: "DualEncoder", dataset: "Dataset", batch_size: int) -> Embeddings:
    features, kept, skipped = [], [], []
    progress = bar(total=len(dataset), desc="encoding pictures", unit="picture")
    for start, batch in enumerate(_pixel_batches(model, dataset, batch_size)):
        rows = range(start * batch_size, start * batch_size + len(batch))
        readable = [(row, p) for row, p in zip(rows, batch, strict=True) if not isinstance(p, UnreadableImage)]
        skipped += [str(p) for p in batch if isinstance(p, UnreadableImage)]
        if readable:
            kept += [row for row, _ in readable]
            features.append(model.encode_pixels(torch.stack([p for _, p in readable])).float().cpu())
        progress.update(len(batch))
    if not features:
        raise NothingReadable(dataset.name, skipped)
    index, captions = np.array(kept), _first_captions(dataset)
    return Embeddings(
        torch.cat(features),
        ids=dataset.ids[index],
        labels=None if dataset.labels is None else dataset.labels[index],
        class_names=dataset.class_names,
        modality="image",
        texts=None if captions is None else [captions[row] for row in kept],
        meta={"model": model.name, "dataset": dataset.name, "skipped": skipped},
    )


def skip_report(embeddings: Embeddings) -> str:
    """One sentence on the pictures that could not be decoded."""
    skipped = embeddings.meta.get("skipped", [])
    if not skipped:
        return f"All {len(embeddings)} pictures were read."
    shown = "; ".join(skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
    return f"{len(skipped)} of {len(embeddings) + len(skipped)} pictures could not be decoded and were skipped: {shown}"


def encode_texts(
    model: "DualEncoder",
    texts: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    batch_size: int = 256,
    cache: bool = True,
) -> Embeddings:
    """Text features: (n, d). ``ids`` default to text-000000, ...

    Raises:
        CrossgapError: no texts, something that is not a string, or a model without a text encoder.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(t, str) for t in texts):
        raise CrossgapError("encode_texts needs at least one text, and strings only.")
    ids = [f"text-{k:06d}" for k in range(len(texts))] if ids is None else list(ids)

    def compute() -> Embeddings:
        starts = bar(range(0, len(texts), batch_size), desc="encoding texts", unit="batch")
        features = [model.encode_tokens(model.tokenize(texts[s : s + batch_size])).float().cpu() for s in starts]
        meta = {"model": model.name}
        return Embeddings(torch.cat(features), ids, labels, tuple(class_names), "text", texts, meta)

    facts = (list(ids), None if labels is None else list(map(int, labels)), tuple(class_names))
    return _cached(_key("text", model.fingerprint, model.precision, texts, *facts), compute, cache)
