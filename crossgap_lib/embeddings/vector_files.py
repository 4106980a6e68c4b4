"""Files of vectors: npz, npy, parquet and safetensors, ours and other people's, to and from named columns."""

import json
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from torch import Tensor

from crossgap_lib.embeddings.rows import bad_rows, float32, good_rows, row_names, whole_numbers
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import SEAL, check_seal, pack, seal

_IN_JSON = ("header", "ids", "texts")  # what npz and safetensors files hold as JSON, in arrays of bytes
# Under which names a file may hold what Embeddings takes. The first that fits counts.
_NAMES = {
    "ids": (
        *("ids", "id", "filenames", "filename", "file_names", "file_name", "paths", "path", "file_paths", "file_path"),
        *("filepaths", "filepath", "image_paths", "image_path", "images", "image", "files", "file", "keys", "key"),
    ),
    "labels": ("labels", "label", "targets", "target", "class_ids", "class_id", "class", "classes", "class_name", "y"),
    "texts": ("texts", "text", "captions", "caption", "sentences", "sentence", "prompts", "prompt", "titles", "title"),
    "class_names": ("class_names", "classnames", "classes", "label_names"),
    "modality": ("modality",),
    "meta": ("meta",),
}
FEATURES = ("features", "vector", "vectors", "feature", "embeddings", "embedding", "embeds")
SIDES = {side: tuple(f"{side}_{name}" for name in FEATURES) for side in ("image", "text")}  # of a pair file
# Who reads a table by pyarrow and saves some of its rows copies its metadata, and in it the seal of all rows.
_UNSEAL = (
    'save table.replace_schema_metadata({"crossgap": table.schema.metadata[b"crossgap"]}), which leaves out the seal '
    "that pyarrow copies"
)
_LONGEST_HEADER = 2**31 - 1  # bytes; without this, pyarrow reads 100 MB at most, though it writes any number


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turns whatever numpy, pyarrow and safetensors raise on a bad file into one sentence."""
    if path.suffix not in _READ:
        raise CrossgapError(f"Can't read {path.name}: embeddings come as {', '.join(_READ)}.")
    if not path.is_file():
        raise CrossgapError(f"There is no embeddings file {path}.")
    try:
        yield
    except CrossgapError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files: zlib.error, RuntimeError, TypeError
        if "allow_pickle" in str(error) or "Python objects" in str(error):  # so numpy names what it can't read
            raise CrossgapError(f"{path} is damaged or holds pickled objects, which are never loaded.") from error
        reason = " ".join(str(error).replace(str(path), path.name).split()) or type(error).__name__
        raise CrossgapError(f"{path} can't be read as embeddings: {reason}") from error


def as_json(value: Any) -> np.ndarray:
    """(bytes,) uint8: a value as JSON in UTF-8; names of skipped files may hold lone surrogates, which are kept."""
    return np.frombuffer(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"), dtype=np.uint8)


def of_json(content: np.ndarray | Tensor) -> Any:
    """What ``as_json`` was given."""
    return json.loads(np.asarray(content).tobytes())


def _header(own: dict[str, Any]) -> dict[str, Any]:
    return {"class_names": own["class_names"], "modality": own["modality"], "meta": own["meta"]}


def _present(**columns: Any) -> dict[str, Any]:
    return {name: column for name, column in columns.items() if column is not None}


def to_arrays(own: dict[str, Any]) -> dict[str, np.ndarray]:
    """All columns as arrays of numbers, for the formats that hold nothing else; ``of_arrays`` is the way back."""
    words = {k: column.tolist() for k, column in _present(ids=own["ids"], texts=own["texts"]).items()}
    in_json = {f"{name}_json": as_json(value) for name, value in {"header": _header(own), **words}.items()}
    return _present(features=np.asarray(own["features"]), labels=own["labels"]) | in_json


def of_arrays(arrays: dict[str, Any]) -> dict[str, Any]:
    """The columns, with what the header tells among them."""
    columns = dict(arrays)
    columns |= {k: of_json(columns.pop(f"{k}_json")) for k in _IN_JSON if f"{k}_json" in columns}
    header = columns.pop("header", {})
    return columns | (header if isinstance(header, dict) else json.loads(str(header)))


def key(columns: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def read_columns(path: Path) -> dict[str, Any]:
    """The columns of a file, with what its header tells among them."""
    return of_arrays(_READ[path.suffix](path))


def usable(path: Path, columns: dict[str, Any], sides: list[str]) -> tuple[list[Tensor], dict[str, Any]]:
    """([features of each side], the other arguments of Embeddings), without the rows that are bad."""
    features = [float32(columns.pop(side)) for side in sides]  # one copy of each, not two
    n = len(features[0])
    taken = {field: _taken(columns, field, n) for field in _NAMES}
    if unused := sorted(columns.keys() - {*sides, *taken.values()}):
        warnings.warn(f"{path.name} holds what is not used: {', '.join(unused)}", stacklevel=4)
    told = {field: columns[name] for field, name in taken.items() if name}
    kept = reduce(np.intersect1d, [good_rows(array) for array in features])
    if len(words := np.unique(np.asarray(told.get("modality", [])))) == 1:
        (told["modality"],) = words.tolist()
    if "labels" in told:
        told |= _numbered(np.asarray(told["labels"]), told.get("class_names"))
        kept = np.setdiff1d(kept, bad_rows("have no label that is 0 or more", told["labels"] < 0))
    if len(kept) < n:
        told.setdefault("ids", row_names(n))
        told |= {k: np.asarray(told[k], dtype=object)[kept] for k in ("ids", "texts") if k in told}
        told |= {"labels": told["labels"][kept]} if "labels" in told else {}
        features = [array[torch.from_numpy(kept)] for array in features]
    return features, told


def _taken(columns: dict[str, Any], field: str, n: int) -> str | None:
    """The name of the column from which a field is taken. One of the field's own name must fit, others may not."""
    if field == "meta":
        return field if isinstance(columns.get(field), dict) else None  # others may mean anything by it
    names = (name for name in _NAMES[field] if name in columns)
    return next((name for name in names if name == field or _fits(field, columns[name], n)), None)


def _fits(field: str, values: Any, n: int) -> bool:
    """Whether a column can be meant: words or numbers, one for each of n rows, and ids and class names differ."""
    column = np.asarray(values, dtype=object if isinstance(values, list) else None)
    words = column.dtype.kind in "SU" or (column.dtype.kind == "O" and all(isinstance(v, str) for v in column.flat))
    if not words and column.dtype.kind not in {"ids": "iu", "labels": "iuf"}.get(field, ""):
        return False
    if column.ndim != 1 or (len(column) != n and field != "class_names"):
        return False
    return field in ("labels", "texts") or len(set(column.tolist())) == len(column)


def _numbered(labels: np.ndarray, class_names: Any) -> dict[str, Any]:
    """Labels as whole numbers, -1 where one is missing, and the class names, to which labels that are words lead."""
    if labels.dtype.kind == "f":
        missing = np.isnan(labels)
        if len(beyond := labels[np.abs(labels) >= 2.0**63]):
            raise CrossgapError(f"The labels must fit in 64 bits with a sign, and one of them is {beyond[0]:g}.")
        whole = not (labels[~missing] % 1).any()
        return {"labels": np.where(missing, -1, labels).astype(np.int64) if whole else labels}
    if labels.dtype.kind not in "SUO" or not all(isinstance(v, str | bytes | None) for v in labels.flat):
        return {"labels": whole_numbers("labels", labels)}
    written = [v.decode() if isinstance(v, bytes) else v for v in labels.tolist()]
    names = sorted({v for v in written if v is not None}) if class_names is None else list(class_names)
    number = {None: -1} | {name: k for k, name in enumerate(names)}
    if strange := [v for v in written if v not in number]:
        raise CrossgapError(f"The label {strange[0]!r:.60} is none of the {len(names)} class names.")
    return {"labels": np.array([number[v] for v in written], dtype=np.int64), "class_names": names}


def _write_npz(own: dict[str, Any], path: Path) -> None:
    arrays = to_arrays(own)
    np.savez(path, **arrays)
    with ZipFile(path, "a") as archive:
        archive.comment = f"{SEAL}={seal(arrays)}".encode()


def _read_npz(path: Path) -> dict[str, Any]:
    columns, pickled = {}, []
    with np.load(path, allow_pickle=False) as archive:
        for name in archive.files:
            try:
                columns[name] = archive[name]
            except ValueError as error:
                if "allow_pickle" not in str(error):
                    raise
                pickled.append(name)
        named, _, told = archive.zip.comment.decode("ascii", "replace").partition("=")
    if named == SEAL:
        check_seal(path, told, columns)
    needed = [name for name in pickled if name in (*FEATURES, *sum(SIDES.values(), ()), *_NAMES)]
    told = f"{path.name}: pickled objects, which are never loaded, are in"
    if needed:
        raise CrossgapError(f"{told} {', '.join(needed)}; save them as numbers or strings.")
    if pickled:
        warnings.warn(f"{told} {', '.join(pickled)}, so that these are not used", stacklevel=4)
    return columns


def _read_npy(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"features": np.lib.format.read_array(file, allow_pickle=False)}


def _write_parquet(own: dict[str, Any], path: Path) -> None:
    features = own["features"].numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(features.ravel()), features.shape[1])
    kept = _present(ids=own["ids"], labels=own["labels"], texts=own["texts"])
    table = pa.table({k: pa.array(v) for k, v in kept.items()} | {"vector": vectors})
    told = {"crossgap": json.dumps(_header(own)), SEAL: seal(to_arrays(own))}
    pq.write_table(table.replace_schema_metadata(told), path)


def _read_parquet(path: Path) -> dict[str, Any]:
    table = pq.read_table(path, thrift_string_size_limit=_LONGEST_HEADER)
    stored = table.schema.metadata or {}
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    features = (*FEATURES, *SIDES["image"], *SIDES["text"])
    vectors = [name for name in features if name in kinds and pa.types.is_nested(kinds[name])]
    for name in vectors:
        table = _of_one_length(table, name)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name not in vectors}
    for name in vectors:
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
        columns[name] = np.concatenate(chunks).reshape(len(table), -1)  # (n, d)
    hub = json.loads(stored.get(b"huggingface", b"{}")).get("info", {}).get("features", {})  # of a data set of the hub
    label = key(columns, _NAMES["labels"])
    names = {"class_names": hub[label]["names"]} if label in hub and "names" in hub[label] else {}
    header = json.loads(stored.get(b"crossgap", b"{}"))
    if sealed := stored.get(SEAL.encode()):
        own = {"labels": None, "texts": None, "features": columns["vector"]} | columns | header
        check_seal(path, sealed.decode(), to_arrays(own), remedy=_UNSEAL)
    elif SEAL.encode() in _footer(path):
        raise CrossgapError(f"{path} is damaged: it holds a seal, but pyarrow finds none in its metadata: copy it anew")
    return names | columns | {"header": header}


def _footer(path: Path) -> bytes:
    """The part of a Parquet file that holds its metadata, as bytes: a flipped bit can hide them all from pyarrow."""
    with path.open("rb") as file:
        file.seek(-8, os.SEEK_END)  # the footer's size, and "PAR1"
        size = int.from_bytes(file.read(4), "little")
        file.seek(-8 - size, os.SEEK_END)
        return file.read(size)


def _of_one_length(table: pa.Table, name: str) -> pa.Table:
    """The rows whose vector has as many numbers as most have; a null has none."""
    lengths = pc.list_value_length(table[name]).fill_null(0).to_numpy()  # (n,)
    d = np.bincount(lengths[lengths > 0]).argmax() if lengths.any() else 0
    if not len(bad_rows(f"have no {name} of {d} numbers", lengths != d)):
        return table
    if not key(table.column_names, _NAMES["ids"]):
        table = table.append_column("ids", pa.array(row_names(len(lengths))))
    return table.filter(pa.array(lengths == d))


def _write_safetensors(own: dict[str, Any], path: Path) -> None:
    path.write_bytes(pack(to_arrays(own)))


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Its tensors lie in the file until they are used; what older files hold as JSON in their metadata is read."""
    with safe_open(path, "pt") as archive:
        columns, metadata = {name: archive.get_tensor(name) for name in archive.keys()}, archive.metadata() or {}  # noqa: SIM118
    if SEAL in metadata:
        check_seal(path, metadata[SEAL], columns)
    return columns | {name: json.loads(metadata[name]) for name in _IN_JSON if name in metadata}


_READ = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet, ".safetensors": _read_safetensors}

WRITE = {".npz": _write_npz, ".parquet": _write_parquet, ".safetensors": _write_safetensors}
