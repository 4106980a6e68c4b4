"""Is a notebook stale? A record beside its figures says what they were made from."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat

from crossgap_lib.paths import DATA, MINIS, ROOT
from crossgap_lib.store import content_digest, digest

PACKAGE = ROOT / "crossgap_lib"
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
    """Name -> digest of the content of each file that a notebook has written, but for the record."""
    return {name: content for name, content in _contents(folder) if name != RECORD}


def run_key(notebook: Path, values: Mapping[str, Any], cwd: Path) -> str:
    """A digest of all that the figures depend on.

    That is the notebook's cells, the library, the parameters and the files that they name (looked up from ``cwd``), and
    the tables in ``data``.
    """
    return digest(_facts(notebook, values, cwd))


def _facts(notebook: Path, values: Mapping[str, Any], cwd: Path) -> Iterator[object]:
    for cell in nbformat.read(notebook, as_version=4).cells:
        yield cell.cell_type, cell.source, cell.metadata.get("tags", [])
    yield sorted(values.items())
    yield os.environ.get("CROSSGAP_SKIP_BAD")
    yield from _contents(PACKAGE, ".py", ".toml")
    for part in ("published", "grid", "imagenet"):
        yield from _contents(DATA / part)
    for text in _texts(values.values()):
        yield from _input_files(text, cwd)


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from value.split(";")  # several data sets, as the command line gives them
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _input_files(text: str, cwd: Path) -> Iterator[object]:
    """Facts of the files that a parameter names, as "mini-clip", "features.npz", "ViT-B-32,PATH" or "folder:PATH"."""
    for mini in re.findall(r"(?:mini|nano)-[\w-]+", text):
        yield from _contents(MINIS / mini)
    if os.path.isfile(bare := _resolve(text, cwd)):
        yield content_digest(bare)
    if os.path.isfile(weights := _resolve(text.partition(",")[2], cwd)):
        yield _stamp(weights)
    prefix, _, rest = text.partition(":")
    if rest and prefix != "world":
        yield from _listing(_resolve(rest, cwd))


def _resolve(name: str, cwd: Path) -> Path:
    return cwd / os.path.expanduser(name)


def _listing(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """(path, (size, time)) of every file of a data set, which is too large for a digest of its content."""
    if os.path.isfile(path.parent):  # captions:FILE/split
        path = path.parent
    yield from ((file.relative_to(path).as_posix(), _stamp(file)) for file in _files(path))


def _files(path: Path) -> list[Path]:
    """``path`` itself if it is a file, every file below it if it is a folder, and otherwise none."""
    if os.path.isfile(path):
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file()) if os.path.isdir(path) else []


def _contents(folder: Path, *endings: str) -> Iterator[tuple[str, str]]:
    """(path in the folder, digest of the content) of its files, or of those with one of the endings."""
    for path in _files(folder):
        if path.name.endswith(endings or "") and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), content_digest(path)


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
