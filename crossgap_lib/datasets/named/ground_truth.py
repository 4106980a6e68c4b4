"""Numbers and names out of a pickle that is never executed, for the ground truth of ROxford and RParis.

A pickle is a program. This reads the program with ``pickletools``, which only takes it apart, and acts on the few
instructions that build plain containers, numbers, strings and arrays of numbers. Nothing is imported, no object of
the file's choosing is made or called: whatever else the file asks for is refused by name.
"""

import json
import pickletools
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import cached, whole

LARGEST = 2**26  # bytes of a file; the ground truth of ROxford has some hundred thousand
MOST, DEEPEST = 2**22, 20  # values, which a file may count several times by reference, and containers in containers
_VERSION = b"1"  # of what ``as_json`` keeps
_MARK = object()
_ARRAY, _BUFFER, _SCALAR, _DTYPE, _NDARRAY = "new array", "array", "number", "dtype", "ndarray"
_ENCODE, _BYTES = "encode", "bytes"
_CORES = ("numpy.core", "numpy._core")  # before and since NumPy 2
_NAMES = {
    **{f"{core}.multiarray _reconstruct": _ARRAY for core in _CORES},
    **{f"{core}.numeric _frombuffer": _BUFFER for core in _CORES},
    **{f"{core}.multiarray scalar": _SCALAR for core in _CORES},
    "numpy ndarray": _NDARRAY,
    "numpy dtype": _DTYPE,
    "_codecs encode": _ENCODE,
    "__builtin__ bytes": _BYTES,
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple}
_PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)


class _Refused(Exception):
    """An instruction that is not followed here; the message says which."""


class _Name(str):
    """One of the names above: what the file calls it, and nothing that could be called."""


class _Dtype:
    """A dtype in the making: its code, then its byte order."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or code[:1] not in ("b", "i", "u", "f") or not code[1:].isdigit():
            raise _Refused(f"an array of {code!r}, where only numbers are read")
        self.value = np.dtype(code)

    def build(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ("<", ">", "|", "="):
            raise _Refused(f"a dtype with state {str(state)[:40]}")
        self.value = self.value.newbyteorder(order)


class _Array:
    """An array in the making: empty, then filled from bytes."""

    def __init__(self) -> None:
        self.value = np.empty(0)

    def build(self, state: Any) -> None:
        kinds = [type(part) for part in state] if isinstance(state, tuple) else []
        if kinds[1:4] != [tuple, _Dtype, bool] or len(kinds) != 5 or kinds[4] not in (str, bytes):
            raise _Refused("an array that is not made of a shape, a dtype and bytes")
        _, shape, dtype, fortran, raw = state
        self.value = _filled(shape, dtype.value, raw, "F" if fortran else "C")


def _filled(shape: tuple, dtype: np.dtype, raw: str | bytes | bytearray, order: str) -> np.ndarray:
    try:
        data = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
        return np.frombuffer(data, dtype).reshape(shape, order=order).copy()
    except (ValueError, TypeError, UnicodeEncodeError) as error:
        raise _Refused(f"an array of shape {str(shape)[:40]} that its bytes do not fill") from error


class _Machine:
    """The stack on which a pickle builds its value, for the instructions that are followed."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        if name in ("PROTO", "FRAME", "STOP"):
            return
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.stack.append(_EMPTY[name]())
        elif name in _PUSHED:
            self.stack.append(argument)
        elif step := getattr(self, f"_{name.lower()}", None):
            step(argument)
        else:
            raise _Refused(f"the instruction {name}")

    def take(self, kind: type | tuple[type, ...] = object) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise _Refused("instructions that do not fit each other")
        return self.stack.pop()

    def peek(self, kind: type) -> Any:
        self.stack.append(self.take(kind))
        return self.stack[-1]

    def above_mark(self) -> list[Any]:
        """Everything above the last mark, which goes, too."""
        items: list[Any] = []
        while (item := self.take()) is not _MARK:
            items.append(item)
        return items[::-1]

    def _mark(self, _: None) -> None:
        self.stack.append(_MARK)

    def _pop_mark(self, _: None) -> None:
        self.above_mark()

    def _memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.peek(object)

    def _put(self, key: int) -> None:
        self.memo[int(key)] = self.peek(object)

    def _get(self, key: int) -> None:
        if int(key) not in self.memo:
            raise _Refused("a value that was not made before")
        self.stack.append(self.memo[int(key)])

    _binput = _long_binput = _put
    _binget = _long_binget = _get

    def _append(self, _: None) -> None:
        item = self.take()
        self.peek(list).append(item)

    def _appends(self, _: None) -> None:
        items = self.above_mark()
        self.peek(list).extend(items)

    def _list(self, _: None) -> None:
        self.stack.append(self.above_mark())

    def _tuple(self, _: None) -> None:
        self.stack.append(tuple(self.above_mark()))

    def _tuple1(self, _: None) -> None:
        self.stack.append((self.take(),))

    def _tuple2(self, _: None) -> None:
        self.stack.append(tuple([self.take(), self.take()][::-1]))

    def _tuple3(self, _: None) -> None:
        self.stack.append(tuple([self.take(), self.take(), self.take()][::-1]))

    def _dict(self, _: None) -> None:
        self.stack.append(_pairs(self.above_mark()))

    def _setitem(self, _: None) -> None:
        value, key = self.take(), self.take()
        self.peek(dict).update(_pairs([key, value]))

    def _setitems(self, _: None) -> None:
        items = self.above_mark()
        self.peek(dict).update(_pairs(items))

    def _global(self, words: str) -> None:
        if words not in _NAMES:
            raise _Refused(f"the name {words.replace(' ', '.')}")
        self.stack.append(_Name(_NAMES[words]))

    def _stack_global(self, _: None) -> None:
        name, module = self.take(str), self.take(str)
        self._global(f"{module} {name}")

    def _reduce(self, _: None) -> None:
        arguments, name = self.take(tuple), self.take(_Name)
        self.stack.append(_made(name, arguments))

    def _build(self, _: None) -> None:
        state = self.take()
        self.peek((_Array, _Dtype)).build(state)


def _pairs(items: list[Any]) -> dict[Any, Any]:
    if len(items) % 2 or not all(isinstance(key, str | int | bytes) for key in items[::2]):
        raise _Refused("a dict whose keys are neither text nor whole numbers")
    return dict(zip(items[::2], items[1::2], strict=True))


def _made(name: str, arguments: tuple) -> Any:
    """What the few known calls of NumPy's pickles stand for."""
    if name == _ARRAY and len(arguments) == 3:
        return _Array()
    if name == _DTYPE and arguments:
        return _Dtype(arguments[0])
    if (
        name == _BUFFER
        and [type(each) for each in arguments[1:3]] == [_Dtype, tuple]
        and arguments[3:] in (("C",), ("F",))
    ):
        return _filled(arguments[2], arguments[1].value, arguments[0], arguments[3])
    if name == _SCALAR and len(arguments) == 2 and isinstance(arguments[0], _Dtype):
        return _filled((), arguments[0].value, arguments[1], "C").item()
    if name == _ENCODE and len(arguments) == 2 and isinstance(arguments[0], str):
        return _latin(arguments[0])
    if name == _BYTES and not arguments:
        return b""
    raise _Refused(f"a call of {name} with {len(arguments)} arguments")


def _latin(text: str) -> bytes:
    """How Python 3 writes bytes under the protocols of Python 2."""
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise _Refused("bytes that are none") from error


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle of plain containers, numbers, strings and arrays of numbers; nothing in it is executed.

    Raises:
        CrossgapError: the file is missing, damaged or large, or it asks for anything else.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    except OSError as error:
        raise CrossgapError(f"{path} can't be read: {error.strerror}") from error
    if not data:
        raise CrossgapError(f"{path} is empty, or larger than {LARGEST} bytes")
    machine = _Machine()
    try:
        for code, argument, _ in pickletools.genops(data):
            machine.follow(code.name, argument)
        if len(machine.stack) != 1:
            raise _Refused("instructions that leave more than one value")
        return _finished(machine.stack[0], DEEPEST, count())
    except _Refused as refused:
        raise CrossgapError(f"{path} is refused: it holds {refused}; only plain data is read from a pickle") from None
    except (ValueError, TypeError, UnicodeDecodeError, RecursionError) as error:
        raise CrossgapError(f"{path} is damaged, or no pickle of plain data: {error}") from error


def _finished(value: Any, levels: int, counter: Iterator[int]) -> Any:
    """Containers with arrays in the place of what was becoming them."""
    if levels < 0 or next(counter) > MOST:
        raise _Refused(f"containers nested deeper than {DEEPEST} levels, or more than {MOST} values")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, list | tuple):
        return type(value)(_finished(item, levels - 1, counter) for item in value)
    if isinstance(value, dict):
        return {key: _finished(item, levels - 1, counter) for key, item in value.items()}
    if isinstance(value, _Name | _Dtype) or value is _MARK:
        raise _Refused("a name where data is expected")
    return value


def as_json(path: Path, check: Callable[[Any], Any]) -> Any:
    """``check(value)`` of a pickle, kept as JSON in the cache under what the file holds.

    Raises:
        CrossgapError: as ``read_plain_pickle``, or as ``check`` does.
    """
    try:
        kept = cached("ground_truth", (_VERSION, path.read_bytes()), ".json")
        return json.loads(kept.read_text())
    except (OSError, ValueError):  # not there, or cut off
        value = check(read_plain_pickle(path))
    with whole(kept) as part:
        part.write_text(json.dumps(value))
    return value
