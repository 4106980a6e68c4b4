"""``crossgap bench retrieval``: exact retrieval from a stored gallery against the textbook, in one run on one machine.

The gallery is a half-precision ``.npy`` on disk, mapped into memory. The textbook takes a query at a time: all
similarities, argsort, precision at the relevant ranks. It runs for a few queries, and its time is extrapolated to all.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.memory import PeakMemory
from crossgap_lib.metrics.large import MEMORY, StoredGallery, streamed_retrieval
from crossgap_lib.runner.bench import device_name, gemm_rate

IMAGENET = (50_000, 1_281_167)  # validation pictures, training pictures
CLASS_SIZE = 1281  # training pictures of a class there
_TEXTBOOK_QUERIES = 32
_MADE = 16_384  # rows of the gallery made at a time


def clusters(labels: np.ndarray, classes: int, d: int, seed: int) -> torch.Tensor:
    """Unit vectors (n, d) float32, like an encoder's: a mean for all, a centre for each class, a longer own part."""
    shared = torch.Generator().manual_seed(0)
    mean, centres = torch.randn(1, d, generator=shared), torch.randn(classes, d, generator=shared)
    own = torch.randn(len(labels), d, generator=torch.Generator().manual_seed(1 + seed))
    return F.normalize(mean + centres[torch.from_numpy(labels)] + 2.8 * own, dim=1)


def stored(path: Path, n: int, classes: int, d: int) -> StoredGallery:
    """Writes a gallery of clusters in half precision; labels in no order."""
    labels = np.random.default_rng(0).integers(0, classes, n)
    file = np.lib.format.open_memmap(path, "w+", np.float16, (n, d))
    for k, start in enumerate(range(0, n, _MADE)):
        rows = slice(start, start + _MADE)
        file[rows] = clusters(labels[rows], classes, d, seed=1 + k)
    file.flush()
    return StoredGallery.open(path, labels)


def textbook_ap(query: np.ndarray, label: int, features: np.ndarray, labels: np.ndarray) -> float:
    """AP of one query (d,) among features (g, d), by sorting everything."""
    order = np.argsort(-(features @ query), kind="stable")
    ranks = np.flatnonzero(labels[order] == label) + 1
    return float((np.arange(1, len(ranks) + 1) / ranks).mean())


def bench(
    queries: int = 2000,
    gallery: int = 100_000,
    d: int = 512,
    classes: int | None = None,
    *,
    device: str | None = None,
    memory: int = MEMORY,
) -> dict[str, Any]:
    """Measures and returns everything that is printed, plain Python ready for JSON.

    Args:
        classes: how many there are in the gallery; by default so many that they are as large as ImageNet's.
        memory: bytes that retrieval may take.

    Raises:
        CrossgapError: a number below 1, or too little memory.
    """
    classes = max(1, gallery // CLASS_SIZE) if classes is None else classes
    if min(queries, gallery, d, classes) < 1:
        raise CrossgapError("Queries, gallery, dimensions and classes must each be at least 1.")
    labels = np.random.default_rng(1).integers(0, classes, queries)
    asked = Embeddings(clusters(labels, classes, d, seed=0), labels=labels)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with tempfile.TemporaryDirectory() as folder:
        source = stored(Path(folder) / "gallery.npy", gallery, classes, d)
        return _measured(asked, source, where, memory) | {"classes": classes, "memory": memory}


def _measured(asked: Embeddings, source: StoredGallery, device: torch.device, memory: int) -> dict[str, Any]:
    options = {"self_match": "keep", "device": device, "memory": memory}
    streamed_retrieval(asked[:8], source, **options)  # libraries load, the file comes into the system's cache
    gemm = gemm_rate(device, torch.float64)
    with PeakMemory(device) as peak:
        start, used = time.perf_counter(), time.process_time()
        found = streamed_retrieval(asked, source, **options)
        seconds, used = time.perf_counter() - start, time.process_time() - used
    gemm, threads = max(gemm, gemm_rate(device, torch.float64)), torch.get_num_threads()
    (n, d), g = asked.features.shape, len(source)
    flops = 2 * n * g * d
    slow, off = _textbook(asked, source, found.rows, found.ap)
    return {
        "queries": n, "gallery": g, "d": d, "device": device_name(device), "threads": threads,
        "torch": torch.__version__, "mean_average_precision": found.means["ap"], "peak_bytes": peak.bytes,
        "seconds": seconds, "gflops": flops / seconds / 1e9,
        "gemm_gflops": gemm / 1e9, "gemm_share": flops / seconds / gemm,
        # The time of all threads on the CPU, which leaves out what other processes took of the machine.
        "cpu_seconds": used, "cpu_share": None if device.type == "cuda" else flops * threads / used / gemm,
        "textbook_seconds_a_query": slow, "textbook_queries": min(_TEXTBOOK_QUERIES, len(found)),
        "ratio": slow * n / seconds, "difference": off,
        "imagenet_seconds": seconds / (n * g) * IMAGENET[0] * IMAGENET[1],
    }  # fmt: skip


def _textbook(asked: Embeddings, source: StoredGallery, rows: np.ndarray, ap: np.ndarray) -> tuple[float, float]:
    """Seconds a query, and the largest difference to ``ap`` (n,), of some of the queries ``rows`` (n,)."""
    features, labels = source.rows(slice(0, len(source))).numpy(), source.labels
    some = np.linspace(0, len(rows) - 1, min(_TEXTBOOK_QUERIES, len(rows))).astype(int)
    start = time.perf_counter()
    slow = [textbook_ap(asked.features[k].numpy(), asked.labels[k], features, labels) for k in rows[some]]
    return (time.perf_counter() - start) / len(some), float(np.abs(slow - ap[some]).max())


def summary(result: dict[str, Any]) -> str:
    """What is printed."""
    r = result
    peak = "unknown" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 2**20:,.0f} MiB"
    by_cpu = "" if r["cpu_share"] is None else f" ({r['cpu_share']:.0%} by CPU time)"
    return (
        f"{r['queries']:,} queries x {r['gallery']:,} items x {r['d']} in half precision, {r['classes']} classes, on "
        f"{r['device']} with {r['threads']} threads; mAP {r['mean_average_precision']:.4f}\n"
        f"{r['seconds']:.1f} s, {r['gflops']:,.1f} GFLOP/s of products alone, which is {r['gemm_share']:.0%} of the "
        f"GEMM rate of {r['gemm_gflops']:,.1f} GFLOP/s in float64{by_cpu}; peak memory {peak} of "
        f"{r['memory'] / 2**20:,.0f} MiB allowed\n"
        f"textbook: {r['textbook_seconds_a_query'] * 1e3:,.0f} ms a query over {r['textbook_queries']} queries, "
        f"extrapolated to all: {r['ratio']:.1f} times as long; largest difference of AP {r['difference']:.1e}\n"
        f"extrapolated to {IMAGENET[0]:,} x {IMAGENET[1]:,} of the same dimensions and class sizes: "
        f"{r['imagenet_seconds'] / 3600:.2f} hours"
    )
