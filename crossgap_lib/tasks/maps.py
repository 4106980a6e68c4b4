"""Flat maps of several sets of embeddings in one space: PCA, UMAP and t-SNE (Reevaluating, App. B and Fig. 7)."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pandas as pd
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import pairwise_distances_chunked
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.paths import cache_dir

METHODS = ("UMAP", "PCA", "t-SNE")  # the rows of Fig. 7
_WORKING_MEMORY = 64  # MiB of distances at a time
_CAPTION = re.compile(r"#\d+$")  # "photo.jpg#0" is the first caption of photo.jpg
Vectors = Embeddings | Tensor | np.ndarray  # (n, d); plain arrays are taken as they are, at any norm


@dataclass(frozen=True, eq=False)
class FlatMap:
    """Sets of embeddings on one plane.

    Attributes:
        method: one of METHODS.
        points: set -> (n, 2) float32, row by row where the embeddings lie.
        trustworthiness: in [0, 1]; below 1 points are neighbours on the map that are none in the space, by the cosine
            (Venna and Kaski, 2001).
        n_neighbors: of a point, in UMAP and for the trustworthiness.
        axes: what the two directions are called.
        reducer: the fitted estimator.
    """

    method: str
    points: dict[str, np.ndarray]
    trustworthiness: float
    n_neighbors: int
    axes: tuple[str, str]
    reducer: Any

    def place(self, vectors: Vectors) -> np.ndarray:
        """Where further embeddings (n, d) lie on this map: (n, 2); the map stays as it is.

        Raises:
            CrossgapError: a t-SNE map, which is defined for the points it was made of alone, or another width.
        """
        if not hasattr(self.reducer, "transform"):
            raise CrossgapError(f"{self.method} places no new points: fit it with them, or take PCA or UMAP.")
        rows = _rows(vectors)
        if rows.shape[1] != self.reducer.n_features_in_:
            raise CrossgapError(f"These have {rows.shape[1]} dimensions, the map {self.reducer.n_features_in_}.")
        return self.reducer.transform(rows).astype(np.float32)


def flat_map(
    sets: Mapping[str, Vectors], method: str, *, seed: int = 0, n_neighbors: int = 15, perplexity: float = 30.0
) -> FlatMap:
    """One map of all sets together; the same seed gives the same map.

    UMAP and t-SNE compare by the cosine, as retrieval does. PCA takes the vectors at their own norm.

    Args:
        sets: name -> (n, d) embeddings, or plain vectors such as projections before the norm is taken.
        method: "PCA", "UMAP" or "t-SNE".
        n_neighbors: of a point, in UMAP and for the trustworthiness.
        perplexity: of t-SNE.

    Raises:
        CrossgapError: an unknown method, no sets, sets of different widths, or too few points.
    """
    if method not in METHODS:
        raise CrossgapError(f"There is no map {method!r}; there are {', '.join(METHODS)}.")
    rows = {name: _rows(vectors) for name, vectors in sets.items()}
    _check(rows, n_neighbors, perplexity if method == "t-SNE" else 1)
    everything = np.concatenate(list(rows.values()))  # (all, d)
    fit: Callable = {"PCA": _pca, "UMAP": _umap, "t-SNE": _tsne}[method]
    reducer, flat, axes = fit(everything, seed, n_neighbors, perplexity)
    trust = _trustworthiness(everything, flat, n_neighbors)
    ends = np.cumsum([len(part) for part in rows.values()])[:-1]
    points = dict(zip(rows, np.split(flat.astype(np.float32), ends), strict=True))
    return FlatMap(method, points, float(trust), n_neighbors, axes, reducer)


def flat_maps(sets: Mapping[str, Vectors], methods: Sequence[str] = METHODS, **options: Any) -> dict[str, FlatMap]:
    """A ``flat_map`` of the same sets by each method."""
    return {method: flat_map(sets, method, **options) for method in methods}


def walks(maps: Mapping[str, FlatMap], runs: Mapping[int, Inversion]) -> dict[int, dict[str, dict[int, np.ndarray]]]:
    """Where every snapshot of every run lies on maps that it has no part in.

    ``runs``: number of pseudo-tokens -> inversion. Returns number -> method -> step -> (n, 2).

    Raises:
        CrossgapError: a t-SNE map, which places no new points.
    """
    shots = [(n, step, run.snapshots[step].numpy()) for n, run in runs.items() for step in sorted(run.snapshots)]
    everything = np.concatenate([features for *_, features in shots])
    ends = np.cumsum([len(features) for *_, features in shots])[:-1]
    places: dict = {n: {method: {} for method in maps} for n in runs}
    for method, flat in maps.items():
        for (n, step, _), xy in zip(shots, np.split(flat.place(everything), ends), strict=True):
            places[n][method][step] = xy
    return places


def point_table(sets: Mapping[str, Embeddings], maps: Mapping[str, FlatMap]) -> pd.DataFrame:
    """A row for each point of each set, with its place on every map.

    Columns: id (unique, "set:id"), source (the picture it comes from: inverted and projected embeddings keep its id,
    captions are called "id#k"), set, modality, label (class name, or None), text (or None), and x and y of each map
    ("umap_x").

    Raises:
        CrossgapError: a set that is not on the maps with all of its rows.
    """
    class_names = next((e.class_names for e in sets.values() if e.class_names), ())
    tables = [_rows_of(name, e, class_names) for name, e in sets.items()]
    table = pd.concat(tables, ignore_index=True)
    for method, flat in maps.items():
        if any(len(flat.points.get(name, ())) != len(e) for name, e in sets.items()):
            raise CrossgapError(f"The {method} map does not hold the points of these sets.")
        xy = np.concatenate([flat.points[name] for name in sets])
        table[[f"{column(method)}_x", f"{column(method)}_y"]] = xy
    return table


def map_table(columns: Mapping[str, Mapping[str, FlatMap]]) -> pd.DataFrame:
    """The numbers behind a figure of maps; columns: column, method, set, row, x, y."""
    parts = {
        (name, method, kind): pd.DataFrame(xy, columns=["x", "y"])
        for name, maps in columns.items()
        for method, flat in maps.items()
        for kind, xy in flat.points.items()
    }
    return pd.concat(parts, names=["column", "method", "set", "row"]).reset_index()


def trust_table(columns: Mapping[str, Mapping[str, FlatMap]]) -> pd.DataFrame:
    """Trustworthiness: a row for each method, a column for each title."""
    return pd.DataFrame({name: {m: flat.trustworthiness for m, flat in maps.items()} for name, maps in columns.items()})


def column(method: str) -> str:
    """\"t-SNE" -> "tsne": the method in a column's name."""
    return method.replace("-", "").lower()


# ---------------------------------------------------------------- the three methods


def _pca(rows: np.ndarray, seed: int, *_: Any) -> tuple[PCA, np.ndarray, tuple[str, str]]:
    pca = PCA(2, svd_solver="full", random_state=seed)
    flat = pca.fit_transform(rows)
    first, second = 100 * pca.explained_variance_ratio_
    return pca, flat, (f"PC 1 ({first:.0f} % of the variance)", f"PC 2 ({second:.0f} %)")


def _for_numba() -> str:
    """A folder for what numba compiles, which finds none where packages and HOME can't be written, as in containers."""
    folder = cache_dir() / "numba"
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return str(folder) if os.access(folder, os.W_OK) else mkdtemp(prefix="crossgap-numba-")


def _umap(rows: np.ndarray, seed: int, n_neighbors: int, *_: Any) -> tuple[Any, np.ndarray, tuple[str, str]]:
    os.environ["NUMBA_CACHE_DIR"] = os.environ.get("NUMBA_CACHE_DIR") or _for_numba()
    from umap import UMAP  # late: compiles for seconds

    reducer = UMAP(n_neighbors=n_neighbors, metric="cosine", random_state=seed, n_jobs=1)
    flat = reducer.fit_transform(rows)
    reducer.n_features_in_ = rows.shape[1]  # not set by every version of umap-learn
    return reducer, flat, ("UMAP 1", "UMAP 2")


def _tsne(rows: np.ndarray, seed: int, _: int, perplexity: float) -> tuple[TSNE, np.ndarray, tuple[str, str]]:
    # One thread: sums over threads would make the map depend on their number, and for some thousand points more of
    # them cost more than they bring, by far so on a busy machine.
    with threadpool_limits(1):
        tsne = TSNE(2, metric="cosine", init="pca", perplexity=perplexity, random_state=seed)
        return tsne, tsne.fit_transform(rows), ("t-SNE 1", "t-SNE 2")


def _trustworthiness(rows: np.ndarray, flat: np.ndarray, n_neighbors: int) -> float:
    """``trustworthiness`` of scikit-learn by the cosine, holding a bounded number of rows of distances at a time.

    rows: (n, d); flat: (n, 2).
    """
    n = len(rows)
    near = NearestNeighbors(n_neighbors=n_neighbors).fit(flat).kneighbors(return_distance=False)  # (n, k) on the map

    def beyond(distances: np.ndarray, start: int) -> np.ndarray:
        """(m,) how far the neighbours on the map are from being neighbours in the space, in ranks, for some rows."""
        own = np.arange(len(distances))
        distances[own, start + own] = np.inf  # a point is not its own neighbour
        ranks = np.argsort(np.argsort(distances, axis=1), axis=1) + 1
        excess = np.take_along_axis(ranks, near[start : start + len(distances)], axis=1) - n_neighbors
        return excess.clip(0).sum(axis=1)

    parts = pairwise_distances_chunked(rows, metric="cosine", reduce_func=beyond, working_memory=_WORKING_MEMORY)
    return 1 - sum(int(part.sum()) for part in parts) * 2 / (n * n_neighbors * (2 * n - 3 * n_neighbors - 1))


# ---------------------------------------------------------------- what goes in


def _rows(vectors: Vectors) -> np.ndarray:
    """(n, d) float32."""
    features = vectors.features if isinstance(vectors, Embeddings) else vectors
    rows = features.numpy() if isinstance(features, Tensor) else np.asarray(features)
    if rows.ndim != 2 or not np.isfinite(rows).all():
        raise CrossgapError(f"A map takes finite vectors of shape (n, d), not {rows.shape}.")
    return rows.astype(np.float32)


def _check(rows: Mapping[str, np.ndarray], n_neighbors: int, perplexity: float) -> None:
    if len({part.shape[1] for part in rows.values()}) != 1:
        raise CrossgapError("A map needs at least one set, and sets of one width.")
    n = sum(map(len, rows.values()))
    if not 2 <= n_neighbors < n / 2:
        raise CrossgapError(f"n_neighbors lies between 2 and half of the {n} points, and is {n_neighbors}.")
    if not 1 <= perplexity < n:
        raise CrossgapError(f"The perplexity lies between 1 and the {n} points, and is {perplexity:g}.")


def _rows_of(name: str, e: Embeddings, class_names: Sequence[str]) -> pd.DataFrame:
    nothing = [None] * len(e)
    return pd.DataFrame(
        {
            "id": [f"{name}:{i}" for i in e.ids],
            "source": [_CAPTION.sub("", i) for i in e.ids],
            "set": name,
            "modality": e.modality,
            "label": [class_names[k] for k in e.labels] if class_names and e.labels is not None else nothing,
            "text": nothing if e.texts is None else e.texts,
        }
    )
