"""Which items of a large gallery are relevant to which queries, and which is the query itself: no matrix of pairs."""

import numpy as np

from crossgap_lib.embeddings.embeddings import strings
from crossgap_lib.errors import CrossgapError

_BLOCK = 8192  # ids compared at a time


class RelevantPairs:
    """Relevant pairs and self-matches, found by label without a matrix.

    ``order``: queries with something to find, those of one class side by side and of few relevant items first.
    """

    def __init__(self, query_labels: np.ndarray, gallery_labels: np.ndarray, own: np.ndarray):
        classes, label_of = np.unique(query_labels, return_inverse=True)
        by_label = np.argsort(gallery_labels, kind="stable")  # (g,) within a label, increasing rows
        sorted_labels = gallery_labels[by_label]
        first, last = (np.searchsorted(sorted_labels, classes, side) for side in ("left", "right"))
        self.own, self.by_label = own, by_label
        self.own_relevant = ((own >= 0) & (gallery_labels[own] == query_labels)).astype(np.int64)  # (q,) 0 or 1
        self.n_relevant = (last - first)[label_of] - self.own_relevant  # (q,)
        by_size = np.lexsort((classes, last - first))  # classes get their code in this order
        code = np.argsort(by_size)
        self.first, self.class_sizes = first[by_size], (last - first)[by_size]  # of each code; first in by_label
        self.query_codes = code[label_of]  # (q,)
        at = np.searchsorted(classes, gallery_labels).clip(max=len(classes) - 1)
        self.gallery_codes = np.where(classes[at] == gallery_labels, code[at], -1)  # (g,) -1: relevant to nobody
        order = np.argsort(self.query_codes, kind="stable")
        self.order = order[self.n_relevant[order] > 0]

    def most(self, group: np.ndarray) -> int:
        """The size of the largest class of these queries."""
        return int(self.class_sizes[self.query_codes[group]].max())

    def class_rows(self, code: int) -> np.ndarray:
        """The gallery's rows of a class, increasing."""
        return self.by_label[self.first[code] :][: self.class_sizes[code]]

    def within(self, group: np.ndarray, block: slice) -> tuple[np.ndarray, np.ndarray]:
        """(query, item) positions, in group and block, of pairs that are relevant or the query itself."""
        codes, items = self.query_codes[group], self.gallery_codes[block]  # (t,) ascending, (b,)
        columns = np.flatnonzero((items >= codes[0]) & (items <= codes[-1]))
        start, stop = (np.searchsorted(codes, items[columns], side) for side in ("left", "right"))
        n = stop - start  # queries of each such item's class
        rows = np.arange(n.sum()) + np.repeat(start - np.cumsum(n) + n, n)
        own = self.own[group]
        itself = np.flatnonzero((own >= block.start) & (own < block.stop))
        return np.concatenate([rows, itself]), np.concatenate([np.repeat(columns, n), own[itself] - block.start])


def own_rows(query_ids: np.ndarray, gallery_ids: np.ndarray) -> np.ndarray:
    """(q,) the gallery's row with the same id, or -1; ids are compared a block at a time."""
    order = np.argsort(query_ids)
    known, own = query_ids[order], np.full(len(query_ids), -1)
    for start in range(0, len(gallery_ids), _BLOCK):
        ids = strings("ids", gallery_ids[start : start + _BLOCK])
        at = np.searchsorted(known, ids).clip(max=len(known) - 1)
        found = np.flatnonzero(known[at] == ids)
        to = order[at[found]]
        if (own[to] >= 0).any() or len(np.unique(to)) < len(to):
            raise CrossgapError("The gallery's ids repeat; every row needs its own.")
        own[to] = start + found
    return own
