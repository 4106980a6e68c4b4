"""Files as people have them: where they are, in which order, whether they changed, and the text in them."""

import csv
import json
import os
import re
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from crossgap_lib.datasets.decode import EXTENSIONS
from crossgap_lib.errors import CrossgapError

T, U = TypeVar("T"), TypeVar("U")

# ---------------------------------------------------------------- bad rows

_left_out: ContextVar[list[tuple[int, str]] | None] = ContextVar("left_out", default=None)  # None: refuse bad rows


@contextmanager
def skipping(name: str, skip_bad: bool | None = None) -> Iterator[None]:
    """While it lasts, ``bad_row`` leaves rows out if ``skip_bad`` says so; at the end a warning counts and names them.

    None leaves it to the environment, where --skip-bad puts ``CROSSGAP_SKIP_BAD=1`` for notebooks and workers, too.
    """
    skip = os.environ.get("CROSSGAP_SKIP_BAD") == "1" if skip_bad is None else skip_bad
    notes: list[tuple[int, str]] = []
    token = _left_out.set(notes if skip else None)
    try:
        yield
    finally:
        _left_out.reset(token)
        if notes:
            reasons = "; ".join(reason for _, reason in notes[:3]) + ("; ..." if len(notes) > 3 else "")
            count = sum(n for n, _ in notes)
            warnings.warn(f"{name}: {count} bad row{'s are' if count > 1 else ' is'} left out: {reasons}", stacklevel=4)


def bad_row(reason: str, count: int = 1) -> None:
    """Notes that ``count`` rows are left out, which the caller then does.

    Raises:
        CrossgapError: within no ``skipping``, or in one that does not skip.
    """
    notes = _left_out.get()
    if notes is None:
        raise CrossgapError(f"{reason} (skip_bad=True, or --skip-bad on the command line, leaves out such rows)")
    notes.append((count, reason))


def of_good(read: Callable[[T], U], rows: Iterable[T]) -> list[U]:
    """What ``read`` makes of each row. One that it refuses is a bad row."""
    found = []
    for row in rows:
        try:
            found.append(read(row))
        except CrossgapError as error:
            bad_row(str(error))
    return found


def keyed(path: Path, pairs: Iterable[tuple[T, U]]) -> dict[T, U]:
    """{key: value} of pairs that the file ``path`` holds. A key that was there already is a bad row."""
    found: dict[T, U] = {}
    for key, value in pairs:
        if key in found:
            bad_row(f"{path} names {key!r} twice")
        found.setdefault(key, value)
    return found


# ---------------------------------------------------------------- text


def read_text(path: Path, encoding: str = "utf-8-sig") -> str:
    r"""What a file holds, UTF-8 by default, without its byte order mark; every line ends in \n.

    Raises:
        CrossgapError: the file can't be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding=encoding)
    except OSError as error:
        raise CrossgapError(f"{path} can't be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise CrossgapError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}, line {line}.") from error


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

    A line with fewer fields is a bad row.
    """

    def fields(numbered: tuple[int, str]) -> list[str]:
        found = numbered[1].split(" ", n - 1)
        if len(found) != n:
            raise CrossgapError(f"{path}: line {numbered[0]} has {len(found)} fields, not {n}")
        return found

    return of_good(fields, read_lines(path).items())


def parse_json(text: str, where: str) -> Any:
    """What JSON text holds. Raises CrossgapError, which begins with ``where``, if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CrossgapError(f"{where} can't be read as JSON: {error}") from error


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises CrossgapError where it can't be read."""
    return parse_json(read_text(path), str(path))


def read_json_lines(path: Path) -> dict[int, dict]:
    """{line number: object} of a file that holds one JSON object a line; blank lines are left out.

    A line that holds no JSON object is a bad row.
    """

    def numbered_object(numbered: tuple[int, str]) -> tuple[int, dict]:
        number, line = numbered
        found = parse_json(line, f"{path}: line {number}")
        if not isinstance(found, dict):
            raise CrossgapError(f"{path}: line {number} is {line[:60]!r}, no JSON object")
        return number, found

    return dict(of_good(numbered_object, read_lines(path).items()))


def read_table(path: Path, delimiter: str) -> dict[int, dict[str, str]]:
    """{line number: row} below the header of a CSV file, or the like, by the columns' names in small letters.

    Cells are stripped. A row with more or fewer cells is bad, and so is a line whose quote does not close. Where pipes
    part the cells, as in Flickr30k's file, there are no quotes.
    """
    rows = {number: cells for number, cells in _cells(path, delimiter) if any(cells)}
    header = [name.lower() for name in rows.pop(min(rows, default=0), [])]
    if twice := sorted({name for name in header if name and header.count(name) > 1}):
        raise CrossgapError(f"{path}: two columns are called {twice[0]!r}: rename one of them")

    def row(numbered: tuple[int, list[str]]) -> tuple[int, dict[str, str]]:
        number, cells = numbered
        if len(cells) != len(header):
            hint = " (quote captions with commas)" if delimiter == "," else ""
            raise CrossgapError(f"{path}: line {number} has {len(cells)} fields, not {len(header)}{hint}")
        return number, dict(zip(header, cells, strict=True))

    return dict(of_good(row, rows.items()))


def _cells(path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) of each row. Where a quote does not close, its line alone is bad."""
    quoting = csv.QUOTE_NONE if delimiter == "|" else csv.QUOTE_MINIMAL
    lines, done = read_text(path).split("\n"), 0
    while done < len(lines):
        start = done
        rest = (f"{line}\n" for line in islice(lines, start, None))
        reader = csv.reader(rest, delimiter=delimiter, quoting=quoting, skipinitialspace=True, strict=True)
        try:
            for cells in reader:
                yield done + 1, [cell.strip() for cell in cells]
                done = start + reader.line_num
        except csv.Error as error:
            bad_row(f"{path}: line {done + 1}: {error}; does each quote close?")
            done += 1


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


def files_in(folder: Path, deep: bool = True) -> tuple[list[Path], list[Path]]:
    """(pictures, other files) in ``folder``, with ``deep`` also in its subfolders, 2.jpg before 10.jpg.

    A picture is told by its extension. Hidden files and folders are left out. Links to folders are followed, but a
    folder that was read already, as one that lies around its own link, is not read again.
    """
    pictures, others, seen = [], [], {os.path.realpath(folder)}
    for here, inner, files in os.walk(folder, followlinks=True):
        visible = sorted(name for name in inner if deep and not name.startswith("."))
        real = {name: os.path.realpath(os.path.join(here, name)) for name in visible}
        inner[:] = [name for name in visible if real[name] not in seen]
        seen.update(real.values())
        for name in files:
            if not name.startswith("."):
                is_picture = os.path.splitext(name)[1].lower() in EXTENSIONS
                (pictures if is_picture else others).append(Path(here, name))
    return tuple(sorted(each, key=lambda p: natural(p.relative_to(folder).as_posix())) for each in (pictures, others))


def file_named(folder: Path, name: str) -> Path | None:
    """The file ``folder``/``name``, whose name may be written in another form of Unicode; None if it is not there.

    macOS stores an accent as a character of its own (NFD), where lists mostly have the letter with its accent (NFC).
    """
    forms = (name, *(unicodedata.normalize(form, name) for form in ("NFC", "NFD") if not name.isascii()))
    return next((path for form in forms if os.path.isfile(path := folder / form)), None)


def natural(name: str) -> tuple:
    """A sort key under which numbers in names count as numbers."""
    parts = re.split(r"([0-9]+)", name)  # text, digits, text, ...
    return [int(part) if k % 2 else part for k, part in enumerate(parts)], name


def stamp(path: str | os.PathLike) -> tuple[str, ...]:
    """What changes when a file does, as text: its size in bytes, and the times in ns when its content and it changed.

    The second time can't be set back, so that a picture of equal size and time is noticed, too. Where there is no file,
    as behind a dangling link, nothing; the link stays a row, so that decoding reports it.
    """
    try:
        stat = os.stat(path)
    except (OSError, ValueError):  # ValueError: no file can have this name
        return ()
    return str(stat.st_size), str(stat.st_mtime_ns), str(stat.st_ctime_ns)
