"""Counting how many scores reach each of a query's marks, without sorting them: the inner loop of ``retrieval``.

A query's marks (its relevant scores) span a range that is cut into equal cells, many more than there are marks. A
score is counted in its cell. Only cells that a mark, or the tolerance around it, touches need a second look: there a
binary search among the marks decides, and within the tolerance a more exact score.
"""

import threading
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

CELLS_PER_MARK = 8
_CELLS = (256, 2**15)  # at least and at most; float32 tells 2**15 cells apart with room to spare
_SLACK = 0.01  # of a cell, more than rounding can move a score
_NARROWEST = 2**-12  # range of scores
_CHUNK = 2**18  # numbers held at a time while preparing and reading out


def cells_for(marks: int) -> int:
    """How many cells serve so many marks."""
    least, most = _CELLS
    return min(max(CELLS_PER_MARK * marks, least), most)


def bytes_per_query(marks: int) -> int:
    """What ``ScoreCells`` takes for a query: a mark, its key, count and rank; a count and a flag a cell."""
    return (4 + 8 + 4 + 4) * (marks + 1) + (4 + 1) * cells_for(marks)


class ScoreCells:
    """For q queries with up to r marks each: how many of the scores that went by are at least as high as each mark.

    Args:
        marks: (q, r) float32, in any order, inf where a query has fewer; at least one each.
        n: (q,) marks of each query.
        tolerance: how far a score handed to ``add`` may be off.
        each: ``map``, or that of a pool of threads; ``add`` may be called from several threads for different rows.
    """

    def __init__(self, marks: Tensor, n: Tensor, tolerance: float, each: Callable[..., Iterable] = map):
        (q, r), device = marks.shape, marks.device
        self.n, self.tolerance, self.cells = n.to(device)[:, None], tolerance, cells_for(r)
        self.keys = torch.empty(q, r, dtype=torch.int64, device=device)  # marks, ascending
        self.touched = torch.empty(q, self.cells, dtype=torch.bool, device=device)  # cells that need a second look
        self.in_cell = torch.zeros(q, self.cells, dtype=torch.int32, device=device)
        self.above = torch.zeros(q, r + 1, dtype=torch.int32, device=device)  # second looks: above k marks or equal
        self.origin, self.scale = torch.empty(2, q, 1, device=device)
        self.buffers = threading.local()
        self.each = each
        list(each(lambda rows: self._prepare(rows, marks[rows].sort(dim=1).values), self._chunks()))

    def _chunks(self) -> list[slice]:
        q, r = self.keys.shape
        step = max(1, _CHUNK // max(r, self.cells))
        return [slice(start, min(start + step, q)) for start in range(0, q, step)]

    def _prepare(self, rows: slice, marks: Tensor) -> None:
        """Lays the cells so that a mark and its tolerance never reach the first cell or the last."""
        low, high = marks[:, :1].double(), marks.gather(1, self.n[rows] - 1).double()
        scale = (self.cells - 8) / ((high - low).clamp(min=_NARROWEST) + 4 * self.tolerance)
        self.scale[rows], self.origin[rows] = scale, low - 2 * self.tolerance - 2 / scale
        self.keys[rows] = _keys(torch.arange(rows.start, rows.stop, device=marks.device)[:, None], marks)
        place = (marks.double() - self.origin[rows].double()) * self.scale[rows].double()
        reach = self.tolerance * self.scale[rows].double() + _SLACK
        real = (marks < torch.inf).int()
        edges = torch.zeros(len(marks), self.cells + 1, dtype=torch.int32, device=marks.device)
        edges.scatter_add_(1, (place - reach).clamp(0, self.cells - 1).long(), real)
        edges.scatter_add_(1, (place + reach).clamp(0, self.cells - 1).long() + 1, -real)
        self.touched[rows] = edges.cumsum(1)[:, :-1] > 0

    def add(self, rows: slice, scores: Tensor, exact: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Counts scores (t, b), contiguous, of the queries ``rows``; -inf counts nowhere.

        exact: positions (m,), (m,) in ``scores`` -> float32 (m,), asked for those that lie within the tolerance of a
        mark.
        """
        cell, flags = self._cell(rows, scores), self.buffer("flags", scores.shape, torch.bool)
        self.in_cell[rows].scatter_add_(1, cell, self.in_cell.new_ones(()).expand(cell.shape))
        at = _flat_nonzero(torch.gather(self.touched[rows], 1, cell, out=flags))
        i, score, marks = at // scores.shape[1], scores.view(-1)[at], self.keys[rows].view(-1)
        found = torch.searchsorted(marks, _keys(i + rows.start, score), right=True)  # and r for each row before
        below, above = (found - 1).clamp(min=0), found.clamp(max=len(marks) - 1)
        near = marks[below] >= _keys(i + rows.start, score - self.tolerance)
        near |= marks[above] <= _keys(i + rows.start, score + self.tolerance)
        near = near.nonzero()[:, 0]
        again = _keys(i[near] + rows.start, exact(i[near], at[near] % scores.shape[1]))
        found[near] = torch.searchsorted(marks, again, right=True)
        counts = self.above[rows].view(-1)
        counts.scatter_add_(0, found + i, counts.new_ones(()).expand(i.shape))

    def _cell(self, rows: slice, scores: Tensor) -> Tensor:
        """(t, b) int64"""
        place = torch.sub(scores, self.origin[rows], out=self.buffer("place", scores.shape, torch.float32))
        place.mul_(self.scale[rows]).clamp_(0, self.cells - 1)
        return self.buffer("cell", scores.shape, torch.int64).copy_(place)

    def buffer(self, name: str, shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
        """This thread's memory for a block; made once, as fresh pages cost as much as what is written to them."""
        made, size = vars(self.buffers), shape[0] * shape[1]
        if size > len(made.get(name, ())):
            made[name] = torch.empty(size, dtype=dtype, device=self.keys.device)
        return made[name][:size].view(shape)

    def ranks(self) -> Tensor:
        """(q, r) int32 rank of each mark among the scores, best mark first, 0 behind the last one.

        The i-th best of a query's marks has rank i plus the number of scores at least as high.
        """
        ranks = torch.zeros(self.keys.shape, dtype=torch.int32, device=self.keys.device)
        place = torch.arange(1, ranks.shape[1] + 1, device=ranks.device)

        def read(rows: slice) -> None:
            ahead = self._ahead(rows).gather(1, (self.n[rows] - place).clamp(min=0))
            ranks[rows] = torch.where(place <= self.n[rows], place + ahead, 0).int()

        list(self.each(read, self._chunks()))
        return ranks

    def _ahead(self, rows: slice) -> Tensor:
        """(t, r) scores at least as high as each mark, marks ascending."""
        clear = self.in_cell[rows].masked_fill(self.touched[rows], 0).cumsum(1)
        looked_at = self.above[rows].cumsum(1)
        cell = self._cell(rows, _scores(self.keys[rows]))
        return clear[:, -1:] - clear.gather(1, cell) + looked_at[:, -1:] - looked_at[:, :-1]


def _flat_nonzero(flags: Tensor) -> Tensor:
    """Positions (m,) of what is set, counted through all rows; numpy finds them in half the time."""
    if flags.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(flags.numpy()))
    return flags.view(-1).nonzero()[:, 0]


def _keys(rows: Tensor, scores: Tensor) -> Tensor:
    """Int64 that orders by row, then by float32 score, exactly; 0.0 and -0.0 are equal."""
    return (rows << 32) + _flip((scores + 0.0).view(torch.int32)).long() + 2**31


def _scores(keys: Tensor) -> Tensor:
    """The scores of keys."""
    return _flip(((keys & 0xFFFFFFFF) - 2**31).int()).view(torch.float32)


def _flip(bits: Tensor) -> Tensor:
    """The bits of a float32 as an int32 of the same order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)
