"""What rows of features, words and whole numbers must be, and which rows are bad."""

from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.datasets.files import bad_row
from crossgap_lib.errors import CrossgapError, encodable, one_sentence


def normalised(features: Any) -> Tensor:
    """Anything array-like (n, d) -> float32 tensor on the CPU whose rows have unit norm.

    Raises:
        CrossgapError: another shape, no numbers, NaN or infinity, or a row of zeros, which has no direction.
    """
    array = float32(features)
    for what, wrong in _faults(array).items():
        if wrong.any():
            raise CrossgapError(_counted(what, wrong))
    already = (array.norm(dim=1, keepdim=True) - 1).abs() < 1e-6  # these keep their bits, so save and load are exact
    scaled = array / array.abs().amax(dim=1, keepdim=True)  # so that squares neither overflow nor vanish
    return torch.where(already, array, scaled / scaled.norm(dim=1, keepdim=True))


def float32(features: Any) -> Tensor:
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


def bad_rows(what: str, wrong: np.ndarray) -> np.ndarray:
    """The numbers of the rows (n, bool) of which that is true, after ``bad_row``."""
    if wrong.any():
        bad_row(_counted(what, wrong), int(wrong.sum()))
    return np.flatnonzero(wrong)


def good_rows(array: Any) -> np.ndarray:
    """The numbers of the rows of (n, d) that have a direction; others are bad rows. It takes 65 536 rows at a time.

    Raises:
        CrossgapError: no row has one.
    """
    parts = [_faults(float32(array[start : start + 65_536])) for start in range(0, len(array), 65_536)]
    found = {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}
    if np.logical_or.reduce([*found.values()]).all():
        raise CrossgapError(" and ".join(_counted(what, wrong) for what, wrong in found.items() if wrong.any()))
    bad = [bad_rows(what, wrong) for what, wrong in found.items()]
    return np.setdiff1d(np.arange(len(array)), np.concatenate(bad))


def strings(name: str, values: Any) -> np.ndarray:
    """Strings, or numbers written out, as an object array of ``encodable`` ``str`` that has the shape of ``values``.

    Numpy's own strings (``<U9``) give every row the room of the longest: one text of 70 000 characters among 10 000
    short ones would take 2.8 GB.

    Raises:
        CrossgapError: anything else is among the values, such as a missing one (None or NaN), or bytes that are no
            UTF-8.
    """
    with one_sentence(f"The {name} can't be read"):
        given = np.asarray(values, dtype=object)
        wrong = [v for v in given.flat if not isinstance(v, str | bytes | Number) or v != v]  # only NaN is not itself
        if wrong:
            raise CrossgapError(f"The {name} must be strings or numbers, and one of them is {wrong[0]!r:.40}.")
        written = [v.decode() if isinstance(v, bytes) else encodable(str(v)) for v in given.flat]
    return np.array(written, dtype=object).reshape(given.shape)


def whole_numbers(name: str, values: Any) -> np.ndarray:
    column = np.asarray(values)
    if column.dtype.kind not in "iub":
        raise CrossgapError(f"The {name} must be whole numbers, not {column.dtype}.")
    if column.size and column.max() > np.iinfo(np.int64).max:
        raise CrossgapError(f"The {name} must fit in 64 bits with a sign, and one of them is {column.max()}.")
    return column.astype(np.int64)


def row_names(n: int) -> list[str]:
    return [f"row-{k:06d}" for k in range(n)]
