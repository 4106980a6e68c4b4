"""Is a notebook stale? A record beside its figures says what they were made from."""

import json
import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import chdir, suppress
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import nbformat

from crossgap_lib.datasets.files import absolute, files_in, stamp
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import DATA, MINIS, ROOT
from crossgap_lib.store import content_digest, digest

PACKAGE = Path(__file__).resolve().parents[1]
RECORD = ".run.json"  # the record's name, in each notebook's folder of figures
_FOLDERS = re.compile(r"(?<![^\s:,;=('\"\[])/(?:[^/:,;]+/)*")  # the folders of an absolute path, anywhere in a spec


def is_fresh(folder: Path, key: str) -> bool:
    """Whether ``folder`` was made from what ``key`` (``run_key``) stands for, and holds what was written then.

    So it is stale where a file was changed by hand, or by a run of papermill itself.
    """
    record = read_record(folder)
    return record.get("key") == key and record.get("files") == _written(folder)


def read_record(folder: Path) -> dict[str, Any]:
    """The record of ``folder``: key, files, finished (UTC), seconds, parameters; {} if there is none to be read."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_record(folder: Path, key: str, values: Mapping[str, Any], seconds: float) -> None:
    """Writes the record of ``folder``. Of an absolute path in the parameters it holds the last part alone."""
    record = {
        "key": key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "parameters": {name: _FOLDERS.sub("", str(value)) for name, value in values.items()},
        "files": _written(folder),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _written(folder: Path) -> dict[str, str]:
    """Name -> digest of the content of each file that a notebook has written; the record is a hidden file."""
    return dict(_contents(folder))


def run_key(notebook: Path, values: Mapping[str, Any], cwd: Path) -> str:
    """A digest of all that the figures depend on.

    That is the notebook's cells, the library, the parameters and the files that they name (looked up from ``cwd``; a
    grid below the checkout, with its table), and the tables in ``data`` that any notebook may read.
    """
    notebook = notebook.absolute()
    with chdir(cwd), warnings.catch_warnings(action="ignore"):  # the notebook itself will say what is left out
        return digest(_facts(notebook, values))


def _facts(notebook: Path, values: Mapping[str, Any]) -> Iterator[object]:
    for cell in nbformat.read(notebook, as_version=4).cells:
        yield cell.cell_type, cell.source, cell.metadata.get("tags", [])
    yield sorted(values.items())
    yield os.environ.get("CROSSGAP_SKIP_BAD")
    yield from _contents(PACKAGE, ".py", ".toml")
    for part in ("published", "imagenet"):
        yield from _contents(DATA / part)
    for text in _texts(values.values()):
        yield from _input_files(text)


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from value.split(";")  # several data sets, as the command line gives them
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _input_files(text: str) -> Iterator[object]:
    """Facts of the files that a parameter names, as "mini-clip", "features.npz", "ViT-B-32,PATH" or "folder:PATH"."""
    for mini in re.findall(r"(?:mini|nano)-[\w-]+", text):
        yield from _contents(MINIS / mini)
    if text.endswith(".toml"):
        yield from _contents((ROOT / text).parent)
    if os.path.isfile(bare := absolute(text)):
        yield content_digest(bare)
    if os.path.isfile(weights := absolute(text.partition(",")[2])):
        yield stamp(weights)
    prefix, _, rest = text.partition(":")
    if rest and prefix != "world":
        yield from _listing(prefix, rest)
        yield from _as_it_is_read(text)


def _listing(prefix: str, rest: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """(path, stamp) of every file of a model or a data set, which is too large for a digest of its content."""
    path = absolute(rest)
    if os.path.isfile(path.parent):  # captions:FILE/split
        path = path.parent
    with suppress(CrossgapError, KeyError):  # no named set, or one that is not there
        path, _ = SETS[prefix].root_and_split(rest)
    yield from ((file.relative_to(path).as_posix(), stamp(file)) for file in _files(path))


def _as_it_is_read(spec: str) -> Iterator[object]:
    """What its reader finds of a data set: it knows where the files lie, as tars of a pattern or beside captions."""
    try:
        data = load_dataset(spec)
    except Exception as error:  # a model, texts, or pictures that are not in order, as the notebook will say
        yield str(error)
    else:
        labels = None if data.labels is None else data.labels.tolist()
        yield data.fingerprint, data.class_names, data.captions, labels


def _files(path: Path) -> list[Path]:
    """``path`` itself if it is a file, the files below it if it is a folder, without hidden ones; otherwise none."""
    return [path] if os.path.isfile(path) else [*chain(*files_in(path))]


def _contents(folder: Path, *endings: str) -> Iterator[tuple[str, str]]:
    """(path in the folder, digest of the content) of its files, or of those with one of the endings."""
    for path in _files(folder):
        if path.name.endswith(endings or "") and path.is_file():
            yield path.relative_to(folder).as_posix(), content_digest(path)
