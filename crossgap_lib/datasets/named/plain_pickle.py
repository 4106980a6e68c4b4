"""Numbers and names out of a pickle that imports nothing: ROxford and RParis publish their ground truth as pickles.

A pickle is a program, which may call whatever it can import. ``_PlainUnpickler`` imports nothing: for the few names
with which NumPy pickles arrays it finds classes of this module, and it refuses every other name. These classes make
arrays of numbers alone, since NumPy's own constructors trust whatever state a file hands them.
"""

import pickle
import pickletools
import re
from collections.abc import Iterator
from io import BytesIO
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.errors import CrossgapError, brief

LARGEST = 2**26  # bytes of a file; the ground truth of ROxford has some hundred thousand
MOST, DEEPEST = 2**22, 20  # values, where a value counts as often as it is referred to; containers in containers
_PLAIN = (type(None), bool, int, float, str, bytes, np.ndarray)


class _Refused(Exception):
    """The file holds something that is not plain data; the message says what."""


class _StandIn:
    """What a file gets for one of NumPy's names; it may call it, and hand a state to what the call made.

    Without ``__setstate__`` the unpickler would write whatever state a file holds into the class.
    """

    def __setstate__(self, state: Any) -> None:
        raise _Refused(f"a state for {type(self).__name__}")


class _Dtype(_StandIn):
    """numpy.dtype: a code such as "i8", then a state that holds the byte order."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf]\d{1,2}", str(code)):
            raise _Refused(f"an array of {str(code)[:40]!r}, where only numbers are read")
        self.value = np.dtype(code)

    def __setstate__(self, state: tuple) -> None:
        self.value = self.value.newbyteorder(state[1])


class _Array(_StandIn):
    """An array, which NumPy pickles as an empty one and a state: (version, shape, dtype, column order, bytes)."""

    value = np.empty(0)

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, state: tuple) -> None:
        _, shape, dtype, by_columns, raw = state
        self.value = _filled(shape, dtype, raw, "F" if by_columns else "C")


class _FromBuffer(_StandIn):
    """numpy's _frombuffer, which makes an array at once (protocol 5)."""

    def __new__(cls, raw: bytes, dtype: _Dtype, shape: tuple, order: str) -> np.ndarray:
        return _filled(shape, dtype, raw, order)


class _Scalar(_StandIn):
    """numpy's scalar: one number."""

    def __new__(cls, dtype: _Dtype, raw: bytes) -> bool | int | float:
        return _filled((), dtype, raw, "C").item()


class _Bytes(_StandIn):
    """How Python 3 writes bytes under the protocols of Python 2: ``codecs.encode(text, "latin1")``, or ``bytes()``."""

    def __new__(cls, text: str = "", _: str = "latin1") -> bytes:
        return text.encode("latin-1")


def _filled(shape: tuple, dtype: _Dtype, raw: str | bytes, order: str) -> np.ndarray:
    data = raw.encode("latin-1") if isinstance(raw, str) else raw  # Python 2 wrote bytes as text
    if not isinstance(dtype, _Dtype):
        raise _Refused("an array without a type of number")
    try:
        return np.frombuffer(data, dtype.value).reshape(shape, order=order)
    except (ValueError, TypeError) as error:
        raise _Refused(f"an array of shape {str(shape)[:40]} that its bytes do not fill") from error


_CORES = ("numpy.core", "numpy._core")  # before NumPy 2 and since
_FOUND = {
    **{f"{core}.multiarray._reconstruct": _Array for core in _CORES},
    **{f"{core}.multiarray.scalar": _Scalar for core in _CORES},
    **{f"{core}.numeric._frombuffer": _FromBuffer for core in _CORES},
    "numpy.ndarray": _StandIn,  # only named, as what ``_reconstruct`` is to make
    "numpy.dtype": _Dtype,
    "_codecs.encode": _Bytes,
    "__builtin__.bytes": _Bytes,
}


class _PlainUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        """Called for every name that a pickle asks for; the only place where it could import something."""
        full = f"{module}.{name}"
        if full not in _FOUND:
            raise _Refused(f"the name {full[:80]!r}")
        return _FOUND[full]


def _check_sizes(data: bytes) -> None:
    """Refuses lengths and memo numbers beyond the file's size, for which the unpickler would reserve memory."""
    for code, argument, _ in pickletools.genops(data):  # raises ValueError where a length goes beyond the end
        if code.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > len(data):
            raise _Refused(f"a value with the number {argument}")


def read_plain_pickle(path: Path) -> Any:
    """The value of a pickle of plain containers, numbers, strings and arrays of numbers; nothing is imported.

    Raises:
        CrossgapError: the file is missing, damaged or large, or it asks for anything else.
    """
    try:
        data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    except OSError as error:
        raise CrossgapError(f"{path} can't be read: {error.strerror}") from error
    if not data:
        raise CrossgapError(f"{path} is empty, or larger than {LARGEST} bytes")
    try:
        _check_sizes(data)
        return _finished(_PlainUnpickler(BytesIO(data), encoding="latin1").load(), DEEPEST, count())
    except _Refused as refused:
        raise CrossgapError(f"{path} is refused: it holds {refused}; only plain data is read from a pickle") from None
    except Exception as error:  # the unpickler raises nearly anything on damaged files: IndexError, KeyError
        raise CrossgapError(f"{path} is damaged, or no pickle of plain data: {brief(error)}") from error


def _finished(value: Any, levels: int, counter: Iterator[int]) -> Any:
    """``value`` with arrays in the place of their stand-ins; everything that is not plain data is refused."""
    if levels < 0 or next(counter) > MOST:
        raise _Refused(f"containers nested deeper than {DEEPEST} levels, or more than {MOST} values")
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, list | tuple):
        return type(value)(_finished(item, levels - 1, counter) for item in value)
    if isinstance(value, dict):
        if not all(isinstance(key, str | int | bytes) for key in value):
            raise _Refused("a dict whose keys are neither text nor whole numbers")
        return {key: _finished(item, levels - 1, counter) for key, item in value.items()}
    if not isinstance(value, _PLAIN):
        raise _Refused(f"a {type(value).__name__}, where plain data is expected")
    return value
