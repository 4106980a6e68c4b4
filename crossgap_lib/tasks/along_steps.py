"""Inversion along its steps: loss and retrieval of every snapshot (Cross the Gap, Sec. 5.4, Fig. 2)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.metrics.large import exact_retrieval
from crossgap_lib.tasks.comparison import measured


def query_steps(
    runs: Mapping[int, Inversion], gallery: Embeddings, *, source: Embeddings | None = None, **options: Any
) -> pd.DataFrame:
    """Loss and average precision of each query at every snapshot: n, step, id, loss (1 - cos), ap (in [0, 1]).

    Queries without a relevant item in the gallery are left out.

    Args:
        runs: number of pseudo-tokens (or -patches) -> inverted queries.
        gallery: what is searched; it keeps its native features.
        source: what was inverted, where that is not part of the gallery.
        options: those of ``exact_retrieval``.
    """
    inverted, parts = gallery if source is None else source, []
    for n, run in runs.items():
        native = inverted.features[_rows_of(run.ids, inverted.ids)]
        for step in sorted(run.snapshots):
            at = run.at(step)
            found = exact_retrieval(at, gallery, **options)
            loss = (1 - (at.features * native).sum(dim=1)).numpy()[found.rows]  # (n,)
            parts.append(pd.DataFrame({"n": n, "step": step, "id": at.ids[found.rows], "loss": loss, "ap": found.ap}))
    return pd.concat(parts, ignore_index=True)


def step_means(queries: pd.DataFrame) -> pd.DataFrame:
    """Mean loss and mAP (percent) of each n and step, from the rows of ``query_steps`` (Cross the Gap, Fig. 2a and 2b).

    Columns: n, step, loss, mAP, low, high (95 % bootstrap over queries).
    """
    rows = [(*state, part["loss"].mean(), *measured(part["ap"])[:3]) for state, part in queries.groupby(["n", "step"])]
    return pd.DataFrame(rows, columns=["n", "step", "loss", "mAP", "low", "high"])


def along_steps(runs: Mapping[int, Inversion], gallery: Embeddings, **how: Any) -> pd.DataFrame:
    """``step_means`` of ``query_steps``, for those who do not ask which query gained."""
    return step_means(query_steps(runs, gallery, **how))


def _rows_of(ids: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Where each of ``ids`` stands among ``known``."""
    found = pd.Index(known).get_indexer(ids)  # -1 for an id that is not there
    if (found < 0).any():
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
