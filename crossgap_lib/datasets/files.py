"""Files as people have them: where they are, in which order, whether they changed, and the text in them."""

import json
import os
import re
from pathlib import Path
from typing import Any

from crossgap_lib.datasets.decode import EXTENSIONS
from crossgap_lib.errors import CrossgapError

# ---------------------------------------------------------------- text


def read_text(path: Path) -> str:
    r"""What a UTF-8 file holds, without its byte order mark; every line ends in \n.

    Raises:
        CrossgapError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise CrossgapError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise CrossgapError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}.") from error


def read_lines(path: Path) -> dict[int, str]:
    r"""{line number from 1: line} of a UTF-8 file, stripped; blank lines are left out.

    Only \n, \r\n and \r end a line: ``str.splitlines`` would also cut at U+2028 and others, which captions may hold.

    Raises:
        CrossgapError: as ``read_text``, or there is nothing but blanks.
    """
    lines = {number: line.strip() for number, line in enumerate(read_text(path).split("\n"), start=1)}
    if not any(lines.values()):
        raise CrossgapError(f"{path} holds no text.")
    return {number: line for number, line in lines.items() if line}


def read_fields(path: Path, n: int) -> list[list[str]]:
    """The lines of a text file, each cut at spaces into ``n`` fields; the last field may hold spaces.

    Raises:
        CrossgapError: the file can't be read, or a line has fewer fields; the message has its number.
    """
    rows = {number: line.split(" ", n - 1) for number, line in read_lines(path).items()}
    wrong = next((number for number, row in rows.items() if len(row) != n), None)
    if wrong is not None:
        raise CrossgapError(f"{path}: line {wrong} has {len(rows[wrong])} fields, not {n}")
    return list(rows.values())


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises CrossgapError where it can't be read."""
    try:
        return json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise CrossgapError(f"{path} can't be read as JSON: {error}") from error


def read_json_lines(path: Path) -> dict[int, dict]:
    """{line number: object} of a file that holds one JSON object a line; blank lines are left out.

    Raises:
        CrossgapError: the file can't be read, or a line is no JSON object; the message has its number.
    """
    return {number: _json_object(path, number, line) for number, line in read_lines(path).items()}


def _json_object(path: Path, number: int, line: str) -> dict:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise CrossgapError(f"{path}: line {number} can't be read as JSON: {error}") from error
    if not isinstance(found, dict):
        raise CrossgapError(f"{path}: line {number} is {line[:60]!r}, no JSON object")
    return found


# ---------------------------------------------------------------- folders and pictures


def absolute(path: str | os.PathLike) -> Path:
    """``path`` from the root, ~ expanded: a notebook may change its folder before a picture is decoded."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def existing_folder(path: str | os.PathLike, expected: str) -> Path:
    """The absolute path of a folder. Raises CrossgapError, which says what is ``expected`` in it, if it isn't there."""
    root = absolute(path)
    if not root.is_dir():
        raise CrossgapError(f"No such folder: {root}; expected is a folder that holds {expected}")
    return root


def subfolders(root: Path) -> list[Path]:
    """The folders in ``root``, sorted by name, without hidden ones; an empty list if ``root`` is no folder."""
    inside = root.iterdir() if root.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def pictures_in(folder: Path, deep: bool = True) -> list[Path]:
    """The picture files in ``folder``, with ``deep`` also in its subfolders, 2.jpg before 10.jpg.

    A picture is told by its extension. Hidden files and folders are left out.
    """
    found = []
    for here, inner, files in os.walk(folder):
        inner[:] = [name for name in inner if deep and not name.startswith(".")]
        found += [Path(here, name) for name in files if _is_picture(name)]
    return sorted(found, key=lambda path: natural(path.relative_to(folder).as_posix()))


def _is_picture(name: str) -> bool:
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def natural(name: str) -> tuple:
    """A sort key under which numbers in names count as numbers."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name


def stamp(path: str | os.PathLike) -> tuple[str, str]:
    """(size in bytes, time of the last change in ns) of a file, as text; two empty strings where there is no file."""
    try:
        stat = os.stat(path)
    except OSError:  # a dangling link stays a row, so that decoding reports it
        return "", ""
    return str(stat.st_size), str(stat.st_mtime_ns)
