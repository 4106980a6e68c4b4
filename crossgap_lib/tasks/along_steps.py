"""Inversion along its steps: loss and retrieval of every snapshot (Cross the Gap, Sec. 5.4, Fig. 2)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.metrics.large import exact_retrieval
from crossgap_lib.tasks.comparison import in_percent


def along_steps(
    runs: dict[int, Inversion], gallery: Embeddings, *, source: Embeddings | None = None, **options: Any
) -> pd.DataFrame:
    """Mean loss and retrieval mAP (percent) of every snapshot (Cross the Gap, Fig. 2a and 2b).

    ``runs``: number of pseudo-tokens (or -patches) -> inverted queries; the gallery keeps its native features.
    ``source`` holds what was inverted, where that is not part of the gallery; options are those of
    ``exact_retrieval``.
    Columns: n, step, loss (1 - cos to the native feature), mAP, low, high (95 % bootstrap over queries).
    """
    rows = []
    for n, run in runs.items():
        inverted = gallery if source is None else source
        native = inverted.features[_rows_of(run.ids, inverted.ids)]
        for step in sorted(run.snapshots):
            at = run.at(step)
            result = exact_retrieval(at, gallery, **options)
            loss = float((1 - (at.features * native).sum(dim=1)).mean())
            rows.append((n, step, loss, *in_percent(result)))
    return pd.DataFrame(rows, columns=["n", "step", "loss", "mAP", "low", "high"])


def over_seeds(
    runs: Mapping[int, Sequence[Inversion]], gallery: Embeddings, *, last_only: bool = False
) -> pd.DataFrame:
    """Loss and mAP (percent) of runs with several seeds: seed, step, loss, mAP.

    ``runs``: seed -> inversions; with ``last_only`` each counts with its last step alone, as the schedule of the
    accelerated mode asks for.
    """
    parts = []
    for seed, several in runs.items():
        for run in several:
            curve = along_steps({seed: run}, gallery).rename(columns={"n": "seed"})
            parts.append(curve[curve["step"] == run.steps] if last_only else curve)
    return pd.concat(parts, ignore_index=True)[["seed", "step", "loss", "mAP"]]


def _rows_of(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` stands among ``known``."""
    order = np.argsort(known)
    found = order[np.minimum(np.searchsorted(known[order], ids), len(known) - 1)]
    if not np.array_equal(known[found], ids):
        raise CrossgapError("The inverted queries are not part of the set that they are said to come from.")
    return found


def peaks(curve: pd.DataFrame) -> pd.DataFrame:
    """Per number of pseudo-tokens: the step of the best mAP, that mAP, and loss and mAP at the last step."""
    rows = []
    for n, part in curve.groupby("n"):
        best, last = part.loc[part["mAP"].idxmax()], part.loc[part["step"].idxmax()]
        rows.append((n, int(best["step"]), best["mAP"], best["loss"], int(last["step"]), last["mAP"], last["loss"]))
    names = ["n", "peak step", "peak mAP", "loss at peak", "last step", "last mAP", "last loss"]
    return pd.DataFrame(rows, columns=names)


def snapshot_steps(steps: int) -> list[int]:
    """About 25 steps from 0 to ``steps``, dense at the start, where everything happens."""
    dense = [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 17, 20, 25, 30]
    sparse = np.unique(np.geomspace(30, max(steps, 31), 12).round().astype(int)).tolist()
    return sorted({s for s in (*dense, *sparse, steps) if s <= steps})
