"""``Embeddings``: unit-norm features with ids, labels, modality and texts, and the files that hold them."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import reduce
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from crossgap_lib.datasets.files import bad_row, skipping
from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import whole

MODALITIES = ("image", "text", "oti", "ovi", "projection")
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
_FEATURES = ("features", "vector", "vectors", "feature", "embeddings", "embedding", "embeds")
_SIDES = {side: tuple(f"{side}_{name}" for name in _FEATURES) for side in ("image", "text")}  # of a pair file
_LONGEST_HEADER = 2**31 - 1  # bytes; without this, pyarrow reads 100 MB at most, though it writes any number


def normalised(features: Any) -> Tensor:
    """Anything array-like (n, d) -> float32 tensor on the CPU whose rows have unit norm.

    Raises:
        CrossgapError: another shape, no numbers, NaN or infinity, or a row of zeros, which has no direction.
    """
    array = _float32(features)
    for what, wrong in _faults(array).items():
        if wrong.any():
            raise CrossgapError(_counted(what, wrong))
    already = (array.norm(dim=1, keepdim=True) - 1).abs() < 1e-6  # these keep their bits, so save and load are exact
    scaled = array / array.abs().amax(dim=1, keepdim=True)  # so that squares neither overflow nor vanish
    return torch.where(already, array, scaled / scaled.norm(dim=1, keepdim=True))


def _float32(features: Any) -> Tensor:
    """(n, d) on the CPU."""
    array = features.detach().cpu() if isinstance(features, Tensor) else np.asarray(features)
    if isinstance(array, np.ndarray):
        if array.dtype.kind not in "fiu":
            raise CrossgapError(f"Features must be numbers, not an array of {array.dtype}.")
        array = torch.from_numpy(np.array(array, dtype=np.float16 if array.dtype == np.float16 else np.float32))
    array = array.float()  # torch widens halves faster than numpy
    if array.ndim != 2 or 0 in array.shape:
        raise CrossgapError(f"Features must have shape (n, d) with n and d at least 1, not {tuple(array.shape)}.")
    return array


def _faults(array: Tensor) -> dict[str, np.ndarray]:
    """{what is wrong: (n,) bool, the rows of (n, d) of which it is true}."""
    peaks = array.abs().amax(dim=1).numpy()  # (n,) NaN or infinity where the row holds one
    return {"hold NaN or infinity": ~np.isfinite(peaks), "are all zero, so they have no direction": peaks == 0}


def _counted(what: str, wrong: np.ndarray) -> str:
    """How many of n feature rows that is true of (n, bool), and which the first ones are."""
    rows = np.flatnonzero(wrong)
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} of {len(wrong)} feature rows {what}: {shown} (counted from 0)"


def _bad(what: str, wrong: np.ndarray) -> np.ndarray:
    """The numbers of the rows (n, bool) of which that is true, after ``bad_row``."""
    if wrong.any():
        bad_row(_counted(what, wrong), int(wrong.sum()))
    return np.flatnonzero(wrong)


def good_rows(array: Any) -> np.ndarray:
    """The numbers of the rows of (n, d) that have a direction; others are bad rows. It takes 65 536 rows at a time.

    Raises:
        CrossgapError: no row has one.
    """
    parts = [_faults(_float32(array[start : start + 65_536])) for start in range(0, len(array), 65_536)]
    found = {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}
    if np.logical_or.reduce([*found.values()]).all():
        raise CrossgapError(" and ".join(_counted(what, wrong) for what, wrong in found.items() if wrong.any()))
    bad = [_bad(what, wrong) for what, wrong in found.items()]
    return np.setdiff1d(np.arange(len(array)), np.concatenate(bad))


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
        ids = _row_names(len(self.features)) if self.ids is None else self.ids
        self.ids = self._column("ids", ids, strings)
        if len(set(self.ids.tolist())) < len(self.ids):
            raise CrossgapError("The ids repeat; every row needs its own.")
        self.labels = self._column("labels", self.labels, _whole_numbers)
        self.texts = self._column("texts", self.texts, strings)
        self.class_names = tuple(strings("class names", self.class_names).tolist())
        if self.labels is not None and self.labels.min() < 0 and not self.class_names:
            raise CrossgapError(f"Labels count from 0, and one of these is {self.labels.min()}.")
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

    def columns(self) -> dict[str, Any]:
        """What ``Embeddings`` takes, by name: all attributes but those that a subclass adds."""
        return {column.name: getattr(self, column.name) for column in fields(Embeddings)}

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
    def load(cls, path: str | Path, *, skip_bad: bool | None = None) -> "Embeddings":
        """Reads what ``save`` wrote, a plain ``.npy`` of shape (n, d), or such files of others, with ``features``.

        Labels, class names, ids (or names of files), texts and the modality are taken under the names that people use;
        a warning names the columns that are not used. Labels that are words become class names, in their order.

        Args:
            skip_bad: leave out, with a warning, the rows that hold NaN, zeros, another number of values or no label of
                0 or more; otherwise they are refused. None asks ``CROSSGAP_SKIP_BAD``, which --skip-bad sets.

        Raises:
            CrossgapError: a missing, damaged, pickled or pair file (see ``load_pair``), or bad features.
        """
        path = Path(path)
        with _clear_errors(path), skipping(path.name, skip_bad):
            columns = _read(path)
            name = _key(columns, _FEATURES)
            sides = {side: key for side, names in _SIDES.items() if (key := _key(columns, names))}
            if name is None and len(sides) == 1:
                ((side, name),) = sides.items()
                columns.setdefault("modality", side)
            if name is None:
                pair = " It is a pair file: use load_pair." if sides else ""
                raise CrossgapError(f"{path.name} holds no features, only {', '.join(columns) or 'nothing'}.{pair}")
            (features,), told = _usable(path, columns, [name])
            return cls(features, **told)


def _row_names(n: int) -> list[str]:
    return [f"row-{k:06d}" for k in range(n)]


def _whole_numbers(name: str, values: Any) -> np.ndarray:
    column = np.asarray(values)
    if column.dtype.kind not in "iub":
        raise CrossgapError(f"The {name} must be whole numbers, not {column.dtype}.")
    if column.size and column.max() > np.iinfo(np.int64).max:
        raise CrossgapError(f"The {name} must fit in 64 bits with a sign, and one of them is {column.max()}.")
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


def load_pair(path: str | Path, *, skip_bad: bool | None = None) -> tuple[Embeddings, Embeddings]:
    """Images and texts of a pair file: image_features and text_features (n, d), in any format that ``load`` reads.

    Row i of one belongs to row i of the other. Captions, labels and so on are taken as ``Embeddings.load`` does, and so
    is ``skip_bad``; a row that is bad on one side is left out on both.

    Raises:
        CrossgapError: the file is no pair file, or the two sides differ in shape.
    """
    path = Path(path)
    with _clear_errors(path), skipping(path.name, skip_bad):
        columns = _read(path)
        if "captions" in columns:
            columns.setdefault("texts", columns.pop("captions"))
        sides = [_key(columns, names) for names in _SIDES.values()]
        if None in sides:
            missing = [names[0] for key, names in zip(sides, _SIDES.values(), strict=True) if key is None]
            raise CrossgapError(f"{path.name} is no pair file: it lacks {' and '.join(missing)}.")
        a, b = (tuple(columns[side].shape) for side in sides)
        if a != b:
            raise CrossgapError(f"{path.name}: image features {a} and text features {b} must match.")
        (images, texts), told = _usable(path, columns, sides)
    captions, meta = told.pop("texts", None), {"model": path.stem, "dataset": path.stem} | told.pop("meta", {})
    return (
        Embeddings(images, **told | {"modality": "image"}, meta=dict(meta)),
        Embeddings(texts, **told | {"modality": "text"}, texts=captions, meta=dict(meta)),
    )


# ---------------------------------------------------------------- files


@contextmanager
def _clear_errors(path: Path) -> Iterator[None]:
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


def _key(columns: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((name for name in names if name in columns), None)


def _read(path: Path) -> dict[str, Any]:
    """The columns of a file, with what its header tells among them."""
    columns = _READ[path.suffix](path)
    columns |= {k: of_json(columns.pop(f"{k}_json")) for k in _IN_JSON if f"{k}_json" in columns}
    header = columns.pop("header", {})
    return columns | (header if isinstance(header, dict) else json.loads(str(header)))


def _usable(path: Path, columns: dict[str, Any], sides: list[str]) -> tuple[list[Tensor], dict[str, Any]]:
    """([features of each side], the other arguments of Embeddings), without the rows that are bad."""
    features = [_float32(columns[side]) for side in sides]
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
        kept = np.setdiff1d(kept, _bad("have no label that is 0 or more", told["labels"] < 0))
    if len(kept) < n:
        told.setdefault("ids", _row_names(n))
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
        whole = not (labels[~missing] % 1).any()
        return {"labels": np.where(missing, -1, labels).astype(np.int64) if whole else labels}
    if labels.dtype.kind not in "SUO" or not all(isinstance(v, str | bytes | None) for v in labels.flat):
        return {"labels": _whole_numbers("labels", labels)}
    written = [v.decode() if isinstance(v, bytes) else v for v in labels.tolist()]
    names = sorted({v for v in written if v is not None}) if class_names is None else list(class_names)
    number = {None: -1} | {name: k for k, name in enumerate(names)}
    if strange := [v for v in written if v not in number]:
        raise CrossgapError(f"The label {strange[0]!r:.60} is none of the {len(names)} class names.")
    return {"labels": np.array([number[v] for v in written], dtype=np.int64), "class_names": names}


def _write_npz(e: Embeddings, path: Path) -> None:
    np.savez(path, **_arrays(e))


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
    needed = [name for name in pickled if name in (*_FEATURES, *sum(_SIDES.values(), ()), *_NAMES)]
    told = f"{path.name}: pickled objects, which are never loaded, are in"
    if needed:
        raise CrossgapError(f"{told} {', '.join(needed)}; save them as numbers or strings.")
    if pickled:
        warnings.warn(f"{told} {', '.join(pickled)}, so that these are not used", stacklevel=4)
    return columns


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
    stored = table.schema.metadata or {}
    kinds = {name: table.schema.field(name).type for name in table.column_names}
    features = (*_FEATURES, *_SIDES["image"], *_SIDES["text"])
    vectors = [name for name in features if name in kinds and pa.types.is_nested(kinds[name])]
    for name in vectors:
        table = _of_one_length(table, name)
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name not in vectors}
    for name in vectors:
        chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[name].chunks]
        columns[name] = np.concatenate(chunks).reshape(len(table), -1)  # (n, d)
    hub = json.loads(stored.get(b"huggingface", b"{}")).get("info", {}).get("features", {})  # of a data set of the hub
    label = _key(columns, _NAMES["labels"])
    names = {"class_names": hub[label]["names"]} if label in hub and "names" in hub[label] else {}
    return names | columns | {"header": stored.get(b"crossgap", b"{}").decode()}


def _of_one_length(table: pa.Table, name: str) -> pa.Table:
    """The rows whose vector has as many numbers as most have; a null has none."""
    lengths = pc.list_value_length(table[name]).fill_null(0).to_numpy()  # (n,)
    d = np.bincount(lengths[lengths > 0]).argmax() if lengths.any() else 0
    if not len(_bad(f"have no {name} of {d} numbers", lengths != d)):
        return table
    if not _key(table.column_names, _NAMES["ids"]):
        table = table.append_column("ids", pa.array(_row_names(len(lengths))))
    return table.filter(pa.array(lengths == d))


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
        words = _present(**{name: read_json(archive, name) for name in _IN_JSON})
        names = [name for name in archive.keys() if name.removesuffix("_json") not in words]  # noqa: SIM118
        return {name: archive.get_tensor(name) for name in names} | words


_READ = {".npy": _read_npy, ".npz": _read_npz, ".parquet": _read_parquet, ".safetensors": _read_safetensors}
