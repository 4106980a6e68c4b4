"""Galleries that need not fit into memory, such as half-precision features of ImageNet in one mapped file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import normalised
from crossgap_lib.errors import CrossgapError


@dataclass(frozen=True, eq=False)
class StoredGallery:
    """A gallery that stays where it is, and what retrieval must know of its rows.

    Attributes:
        features: (n, d) of any precision; a memory-mapped ``.npy``, an HDF5 or zarr array, a tensor: whatever gives
            rows for a slice and for increasing row numbers. Rows are normalised as ``Embeddings`` does.
        labels: (n,) whole numbers.
        ids: (n,) names, or None: then no row can be recognised as the query itself.
    """

    features: Any
    labels: np.ndarray
    ids: np.ndarray | None = None

    @classmethod
    def open(cls, path: str | Path, labels: np.ndarray, ids: np.ndarray | None = None) -> StoredGallery:
        """A ``.npy`` file, mapped into memory and not read. Raises CrossgapError where it can't be."""
        try:
            return cls(np.load(path, mmap_mode="r", allow_pickle=False), labels, ids)
        except (OSError, ValueError) as error:
            raise CrossgapError(f"{path} can't be read as a .npy file of features.") from error

    def __len__(self) -> int:
        return self.features.shape[0]

    def rows(self, which: slice | np.ndarray) -> Tensor:
        """(m, d) float32, unit norm. Raises CrossgapError for NaN, infinity and rows of zeros."""
        if isinstance(self.features, Tensor):
            return normalised(self.features[which if isinstance(which, slice) else torch.from_numpy(which)])
        return normalised(self.features[which])
