"""``Embeddings``: unit-norm features with ids, labels, modality and texts, and the files that hold them."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import whole

MODALITIES = ("image", "text", "oti", "ovi", "projection")
_IN_JSON = ("header", "ids", "texts")  # what npz and safetensors files hold as JSON, in arrays of bytes
_LONGEST_HEADER = 2**31 - 1  # bytes; without this, pyarrow reads 100 MB at most, though it writes any number


def normalised(features: Any) -> Tensor:
    """Anything array-like (n, d) -> float32 tensor on the CPU whose rows have unit norm.

    Raises:
        CrossgapError: another shape, no numbers, NaN or infinity, or a row of zeros, which has no direction.
    """
    array = features.detach().cpu() if isinstance(features, Tensor) else np.asarray(features)
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiu":
            raise CrossgapError(f"Features must be numbers, not an array of {array.dtype}.")
        array = torch.from_numpy(np.array(array, dtype=np.float16 if array.dtype == np.float16 else np.float32))
    array = array.float()  # torch widens halves faster than numpy
    if array.ndim != 2 or 0 in array.shape:
        raise CrossgapError(f"Features must have shape (n, d) with n and d at least 1, not {tuple(array.shape)}.")
    peaks = array.abs().amax(dim=1, keepdim=True)  # (n, 1), NaN or infinity where the row holds one
    if bad := int((~torch.isfinite(peaks)).sum()):
        raise CrossgapError(f"{bad} of {len(array)} feature rows hold NaN or infinity.")
    if zero := int((peaks == 0).sum()):
        raise CrossgapError(f"{zero} of {len(array)} feature rows are all zero, so they have no direction.")
    already = (array.norm(dim=1, keepdim=True) - 1).abs() < 1e-6  # these keep their bits, so save and load are exact
    scaled = array / peaks  # so that squares neither overflow nor vanish
    return torch.where(already, array, scaled / scaled.norm(dim=1, keepdim=True))


def strings(name: str, values: Any) -> np.ndarray:
    """Strings, or numbers written out, as an object array of ``str`` that has the shape of ``values``.

    Numpy's own strings (``<U9``) give every row the room of the longest: one text of 70 000 characters among 10 000
    short ones would take 2.8 GB.

    Raises:
        CrossgapError: anything else is among the values, such as a missing one (None or NaN).
    """
    given = np.asarray(values, dtype=object)
    wrong = [v for v in given.flat if not isinstance(v, str | bytes | Number) or v != v]  # only NaN differs from itself
    if wrong:
        raise CrossgapError(f"The {name} must be strings or numbers, and one of them is {wrong[0]!r:.40}.")
    written = [v.decode() if isinstance(v, bytes) else str(v) for v in given.flat]
    return np.array(written, dtype=object).reshape(given.shape)


@dataclass(eq=False)
class Embeddings:
    """n features of one modality.

    Attributes:
        features: (n, d) float32 on the CPU, unit L2 norm (rows are normalised on the way in).
        ids: (n,) unique names of the rows, ``str``; equal ids in two sets mean the same picture or text.
        labels: (n,) int64 indices into ``class_names``, or None.
        modality: one of "image", "text", "oti", "ovi", "projection".
        texts: (n,) captions or prompts, ``str``, or None.
        meta: where they come from: model, dataset, skipped pictures.

    Raises:
        CrossgapError: NaN, all-zero rows, wrong shapes or lengths, ids or texts that are neither strings nor numbers,
            repeated ids, labels that are no whole numbers or index no class name.
    """

    features: Tensor
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    modality: str = "image"
    texts: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.features = normalised(self.features)
        ids = [f"row-{k:06d}" for k in range(len(self.features))] if self.ids is None else self.ids
        self.ids = self._column("ids", ids, strings)
        if len(set(self.ids.tolist())) < len(self.ids):
            raise CrossgapError("The ids repeat; every row needs its own.")
        self.labels = self._column("labels", self.labels, _whole_numbers)
        self.texts = self._column("texts", self.texts, strings)
        self.class_names = tuple(self.class_names)
        known = len(self.class_names)
        if known and self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < known:
            low, high = self.labels.min(), self.labels.max()
            raise CrossgapError(f"The labels run from {low} to {high}, but there are {known} class names.")
        if self.modality not in MODALITIES:
            raise CrossgapError(f"Modality {self.modality!r} is none of {', '.join(MODALITIES)}.")

    def _column(self, name: str, values: Any, read: Callable[[str, Any], np.ndarray]) -> np.ndarray | None:
        if values is None:
            return None
        column = read(name, values)
        if column.shape != (len(self.features),):
            raise CrossgapError(f"There are {len(self.features)} features, but the {name} have shape {column.shape}.")
        return column

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: slice | np.ndarray | Sequence[int] | Tensor) -> "Embeddings":
        """The rows of a slice, a boolean mask or an index array; meta is kept.

        Raises:
            CrossgapError: no row is chosen, one that is not there, or rows are named by anything but whole numbers.
        """
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
        """Writes ``.npz``, ``.parquet`` or ``.safetensors``, whole or not at all.

        Parquet has columns of strings for ids and texts. The other two hold them as JSON in arrays of bytes, named
        ``ids_json`` and ``texts_json``: these take as much room as there is text, and any amount of it can be loaded.
        """
        path = Path(path)
        write = {".npz": _write_npz, ".parquet": _write_parquet, ".safetensors": _write_safetensors}
        if path.suffix not in write:
            raise CrossgapError(f"Can't save {path.name}: choose .npz, .parquet or .safetensors.")
        with whole(path) as part:
            write[path.suffix](self, part)
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


def _whole_numbers(name: str, values: Any) -> np.ndarray:
    column = np.asarray(values)
    if column.dtype.kind not in "iub":
        raise CrossgapError(f"The {name} must be whole numbers, not {column.dtype}.")
    return column.astype(np.int64)


def _row_index(rows: Any, n: int) -> np.ndarray:
    """(m,) row numbers, none negative, m at least 1."""
    if not isinstance(rows, slice):
        rows = np.asarray(rows.cpu() if isinstance(rows, Tensor) else rows)
        if rows.dtype == bool and rows.shape != (n,):
            raise CrossgapError(f"A mask over {n} embeddings needs shape ({n},), not {rows.shape}.")
        rows = rows if rows.size else rows.astype(np.intp)  # [] is float to numpy
        if rows.ndim != 1 or rows.dtype.kind not in "iub":
            raise CrossgapError("Embeddings are chosen by a slice, a boolean mask or a list of row numbers.")
        if rows.dtype != bool and len(beyond := rows[(rows < -n) | (rows >= n)]):
            raise CrossgapError(f"There is no row {beyond[0]} among {n} embeddings.")
    chosen = np.arange(n)[rows].copy()  # a slice may give negative strides, which torch does not take
    if not len(chosen):
        raise CrossgapError(f"Embeddings need at least one row, and none of the {n} is chosen.")
    return chosen


def drawn_rows(ids: np.ndarray, n: int = 0, seed: int = 0) -> np.ndarray:
    """Row numbers of n of these ids, drawn with ``seed``; 0, or more than there are, takes all.

    Which ids are drawn, and in which order they come, depends on the ids and on the seed alone and not on the order of
    the rows: a file may list one class after the other. (Embeddings without ids of their own are called by their row
    numbers.) The first m of what was drawn are a draw, too.

    Raises:
        CrossgapError: a negative n.
    """
    if n < 0:
        raise CrossgapError(f"{n} rows can't be drawn: give the number of rows, or 0 for all.")
    return np.argsort(ids)[np.random.default_rng(seed).permutation(len(ids))[: n or len(ids)]]


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


def as_json(value: Any) -> np.ndarray:
    """(bytes,) uint8: a value as JSON in UTF-8.

    Names of files that are no UTF-8 hold lone surrogates, which are kept.
    """
    text = json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return np.frombuffer(bytearray(text), dtype=np.uint8)  # of a bytearray, since torch wants what can be written to


def of_json(content: np.ndarray | Tensor) -> Any:
    """What ``as_json`` was given."""
    return json.loads(np.asarray(content).tobytes())


def _header(e: Embeddings) -> dict[str, Any]:
    return {"class_names": e.class_names, "modality": e.modality, "meta": e.meta}


def _present(**columns: Any) -> dict[str, Any]:
    return {name: column for name, column in columns.items() if column is not None}


def _arrays(e: Embeddings) -> dict[str, np.ndarray]:
    """All columns as arrays of numbers, for the formats that hold nothing else."""
    words = _present(header=_header(e), ids=e.ids.tolist(), texts=None if e.texts is None else e.texts.tolist())
    in_json = {f"{name}_json": as_json(value) for name, value in words.items()}
    return _present(features=e.features.numpy(), labels=e.labels) | in_json


def _from_columns(columns: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    """The arguments of Embeddings from the columns of a file, of which ``name`` holds the features."""
    if name not in columns:
        pair = " It is a pair file: use load_pair." if {"image_features", "text_features"} <= columns.keys() else ""
        others = ", ".join(column for column in columns if column != "header") or "nothing"
        raise CrossgapError(f"{path.name} holds no {name}, only {others}.{pair}")
    columns = columns | {k: of_json(columns[f"{k}_json"]) for k in _IN_JSON if f"{k}_json" in columns}
    header = columns.get("header", {})
    header = header if isinstance(header, dict) else json.loads(str(header))
    told = {k: header[k] for k in ("class_names", "modality", "meta") if k in header}
    return {"features": columns[name], **{k: columns.get(k) for k in ("ids", "labels", "texts")}, **told}


def _write_npz(e: Embeddings, path: Path) -> None:
    np.savez(path, **_arrays(e))


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return dict(archive)


def _read_npz(path: Path) -> dict[str, Any]:
    return _from_columns(_read_arrays(path), "features", path)


def _read_npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"features": np.lib.format.read_array(file, allow_pickle=False)}


def _write_parquet(e: Embeddings, path: Path) -> None:
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(e.features.numpy().ravel()), e.features.shape[1])
    try:
        columns = {k: pa.array(v) for k, v in _present(ids=e.ids, labels=e.labels, texts=e.texts).items()}
    except UnicodeEncodeError as error:  # ids are file names, which Python takes with any bytes in them
        told = f"Parquet can't hold {error.object!r:.60}, which is not valid Unicode; save as .npz or .safetensors."
        raise CrossgapError(told) from error
    table = pa.table({**columns, "vector": vectors})
    pq.write_table(table.replace_schema_metadata({"crossgap": json.dumps(_header(e))}), path)


def _read_parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path, thrift_string_size_limit=_LONGEST_HEADER)
    columns = {k: table[k].to_numpy(zero_copy_only=False) for k in table.column_names}
    if "vector" in columns:
        columns["vector"] = np.stack(columns["vector"])  # (n, d)
    header = (table.schema.metadata or {}).get(b"crossgap", b"{}").decode()
    return _from_columns({**columns, "header": header}, "vector", path)


def _write_safetensors(e: Embeddings, path: Path) -> None:
    save_file({k: torch.from_numpy(v).contiguous() for k, v in _arrays(e).items()}, path)


def read_json(archive: Any, name: str) -> Any:
    """What an open safetensors file holds as JSON under this name (``ids`` of embeddings, say); None where nothing.

    It is the tensor of bytes NAME_json. Older files have it in their metadata, of which safetensors reads 100 MB.
    """
    if f"{name}_json" in archive.keys():  # noqa: SIM118
        return of_json(archive.get_tensor(f"{name}_json"))
    metadata = archive.metadata() or {}
    return json.loads(metadata[name]) if name in metadata else None


def _read_safetensors(path: Path) -> dict[str, Any]:
    with safe_open(path, "pt") as archive:
        words = {"header": {}} | _present(**{name: read_json(archive, name) for name in _IN_JSON})
        numbers = [name for name in archive.keys() if name.removesuffix("_json") not in words]  # noqa: SIM118
        return _from_columns({name: archive.get_tensor(name) for name in numbers} | words, "features", path)
