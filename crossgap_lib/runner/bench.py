"""``crossgap bench oti`` and ``ovi``: the inversion engine against the textbook loop, in one run on one machine.

A step is timed from one forward pass to the next, so both loops are measured by the same clock and neither is charged
for its set-up; on a GPU the clock is CUDA events and nothing waits. The ratio says how much faster the engine is; its
GFLOP/s beside the machine's own GEMM rate, measured in the same run, say how much is left to gain.
"""

import json
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from crossgap_lib.errors import CrossgapError
from crossgap_lib.hub import cache_only
from crossgap_lib.inversion import textbook
from crossgap_lib.inversion.loop import ScaledGradient, gradient, initial_noise, invert
from crossgap_lib.inversion.oti_ovi import TEMPLATE, template_ids
from crossgap_lib.inversion.towers import ImageTower, TextTower
from crossgap_lib.memory import PeakMemory
from crossgap_lib.models.encoder import AUTOCAST, DualEncoder
from crossgap_lib.models.load import load_model
from crossgap_lib.progress import bar

_COMPARED_STEPS = 20  # the trajectories are chaotic beyond (see inversion/textbook.py)
_SMALL = 8  # samples of the run whose FLOPs are counted
_TRIAL = 32  # samples of a trial run, at most
_GEMM = 2048  # side of the square matrix whose products define the machine's GEMM rate


# ---------------------------------------------------------------- instruments


class Stopwatch:
    """Wraps a loop's forward pass and notes when each begins: the gaps between are the steps."""

    def __init__(self, forward: Callable[[Tensor], Tensor], device: torch.device):
        self.forward, self.device, self.cuda, self.marks = forward, device, device.type == "cuda", []

    def __call__(self, tokens: Tensor) -> Tensor:
        self.marks.append(self._now())
        return self.forward(tokens)

    def _now(self) -> Any:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def steps(self) -> list[float]:
        """Seconds of each step."""
        if not self.cuda:
            return np.diff(self.marks).tolist()
        torch.cuda.synchronize(self.device)
        return [a.elapsed_time(b) / 1e3 for a, b in pairwise(self.marks)]

    def seconds(self) -> float:
        """The median step; the first one, which warms caches and allocators, does not count where there are others."""
        steps = self.steps()
        return float(np.median(steps[1:] or steps))


def gemm_rate(device: torch.device, dtype: torch.dtype, repeats: int = 4) -> float:
    """The best FLOP/s of 1024 rows times a 2048 x 2048 matrix, as torch computes it here."""
    weight = torch.randn(_GEMM, _GEMM, device=device).to(dtype)
    rows = torch.randn(_GEMM // 2, _GEMM, device=device).to(dtype)
    watch = Stopwatch(partial(F.linear, weight=weight), device)
    for _ in range(repeats + 1):
        watch(rows)
    return 2 * rows.numel() * _GEMM / min(watch.steps())


# ---------------------------------------------------------------- the two loops


@dataclass(frozen=True)
class Problem:
    """One inversion problem as both loops see it."""

    model: DualEncoder
    encode: Callable[[Tensor], Tensor]  # the engine's map (b, k, width) -> (b, d)
    forward: Callable[[Tensor], Tensor]  # the textbook's
    shape: tuple[int, int]  # (k, width)
    length: int  # positions in the textbook's context

    def targets(self, batch: int) -> Tensor:
        generator = torch.Generator().manual_seed(batch)
        return F.normalize(torch.randn(batch, self.model.embed_dim, generator=generator), dim=-1).to(self.model.device)

    def noise(self, batch: int) -> Tensor:
        return initial_noise(map(str, range(batch)), self.shape, seed=0).to(self.model.device)

    def engine(self, batch: int, steps: int, encode: Callable | None = None) -> tuple[Tensor, Tensor]:
        """(features, losses) of the library's own loop."""
        slope = ScaledGradient(batch, self.model.device) if self.model.dtype == torch.float16 else gradient
        start = (self.targets(batch), self.noise(batch))
        _, losses, kept = invert(encode or self.encode, *start, steps, gradient=slope)
        return kept[steps].cpu(), losses.cpu()

    def textbook(self, batch: int, steps: int, forward: Callable | None = None) -> tuple[Tensor, Tensor]:
        """(features, losses) of the textbook loop, in the model's precision as the released code autocasts."""
        amp = AUTOCAST[self.model.precision]
        return textbook.invert(forward or self.forward, self.targets(batch), self.noise(batch), steps, amp=amp)


def oti_problem(model: DualEncoder, n_tokens: int) -> Problem:
    """OTI as ``oti`` runs it, and the textbook: prompts tokenised in each step, the whole context encoded."""
    tower = TextTower(model.net, model.dtype)
    before, after = _template(model, tower)
    slots = list(range(len(before), len(before) + n_tokens))
    ids = torch.cat([before, torch.ones(n_tokens, dtype=torch.long), after])[: tower.context_length].to(model.device)

    def forward(tokens: Tensor) -> Tensor:
        prompts = [f"{TEMPLATE} {' '.join(['x'] * n_tokens)}"] * len(tokens)
        again = model.tokenize(prompts).to(model.device) if _has_tokenizer(model) else ids[None]
        return textbook.text_features(model.net, again, slots, tokens)

    encode = tower.encoder((before, after), n_tokens)
    return Problem(model, encode, forward, (n_tokens, tower.width), tower.context_length)


def ovi_problem(model: DualEncoder, n_patches: int) -> Problem:
    """OVI as ``ovi`` runs it, and the textbook."""
    tower = ImageTower(model.net, model.dtype)
    forward = lambda patches: textbook.image_features(model.net, patches)  # noqa: E731
    return Problem(model, tower.encoder(n_patches), forward, (n_patches, tower.width), tower.n_slots + 1)


def _has_tokenizer(model: DualEncoder) -> bool:
    try:
        return model.tokenizer is not None
    except CrossgapError:  # SigLIP's comes from a hub; random weights don't need the real words
        return False


def _template(model: DualEncoder, tower: TextTower) -> tuple[Tensor, Tensor]:
    if _has_tokenizer(model):
        return template_ids(model, TEMPLATE)
    before, length = torch.tensor([2, 3, 4]), tower.context_length
    return before, torch.ones(length - len(before), dtype=torch.long)


# ---------------------------------------------------------------- measurements


@dataclass(frozen=True)
class Row:
    """One loop at one batch size and context length."""

    loop: str  # "textbook" or "engine"
    batch: int
    length: int  # positions of the full context
    seconds: float  # a step of the whole batch
    flops: float  # a step of the whole batch, as counted by torch
    peak_bytes: float | None  # of the whole batch
    steps: int  # timed
    gemm: float  # FLOP/s of matrix products just before and after, the better of the two

    def facts(self) -> dict[str, Any]:
        """The row in the units that people compare."""
        mib = None if self.peak_bytes is None else self.peak_bytes / self.batch / 2**20
        return asdict(self) | {
            "us_per_sample_step": 1e6 * self.seconds / self.batch,
            "gflops": self.flops / self.seconds / 1e9,
            "gemm_share": self.flops / self.seconds / self.gemm,
            "mib_per_sample": mib,
        }


def _measure(problem: Problem, loop: str, batch: int, at_least: float, dtype: torch.dtype) -> Row:
    """Times one loop for at least ``at_least`` seconds and two steps, of which the first warms up."""
    device = torch.device(problem.model.device)
    run, inner = (problem.engine, problem.encode) if loop == "engine" else (problem.textbook, problem.forward)
    small, trial = min(batch, _TRIAL), Stopwatch(inner, device)
    run(small, 2, trial)  # what a step costs, so that the number of timed steps can be chosen; kernels get made, too
    steps = int(np.clip(at_least / (trial.seconds() * batch / small) + 1, 2 if loop == "textbook" else 10, 200))
    watch, before = Stopwatch(inner, device), gemm_rate(device, dtype)
    with PeakMemory(device) as peak:
        run(batch, steps, watch)
    gemm = max(before, gemm_rate(device, dtype))
    flops = _flops(problem, run, inner) * batch
    return Row(loop, batch, problem.length, watch.seconds(), flops, peak.bytes, steps, gemm)


def _both(problem: Problem, batch: int, at_least: float, dtype: torch.dtype) -> list[Row]:
    """The engine before and after the textbook, since a machine's speed wanders while the textbook takes its time."""
    before = _measure(problem, "engine", batch, at_least, dtype)
    slow = _measure(problem, "textbook", batch, at_least, dtype)
    after = _measure(problem, "engine", batch, at_least, dtype)
    mean = {name: (getattr(before, name) + getattr(after, name)) / 2 for name in ("seconds", "gemm")}
    return [replace(before, steps=before.steps + after.steps, **mean), slow]


def _flops(problem: Problem, run: Callable, inner: Callable) -> float:
    """FLOPs of a sample-step as torch counts them: of a one-step run, less the forward pass that closes both loops."""
    with FlopCounterMode(display=False) as whole:
        run(_SMALL, 1, inner)
    with torch.no_grad(), FlopCounterMode(display=False) as closing:
        inner(problem.noise(_SMALL))
    return (whole.get_total_flops() - closing.get_total_flops()) / _SMALL


def differences(problem: Problem, batch: int = 4, steps: int = _COMPARED_STEPS) -> dict[str, float]:
    """Largest differences between the two trajectories: each loss up to ``steps`` and the features after them."""
    (ours, our_losses), (theirs, their_losses) = problem.engine(batch, steps), problem.textbook(batch, steps)
    return {
        "steps": steps,
        "loss": float((our_losses - their_losses).abs().max()),
        "features": float((ours - theirs).abs().max()),
    }


def _random_model(arch: str, device: str | None, precision: str, length: int | None, method: str) -> DualEncoder:
    """Random weights cost as much as trained ones; ``length``: another context (OTI) or another image side (OVI)."""
    if arch.startswith("mini-"):
        return load_model(arch, device=device, precision=precision)
    model = load_model(f"{arch},random", device=device, precision=precision)
    if length is None:
        return model
    force = {"force_context_length": length} if method == "oti" else {"force_image_size": length}
    with cache_only():  # nothing to fetch, nothing to warn of
        net = open_clip.create_model(arch, **force)
    net = net.eval().requires_grad_(False).to(model.device)
    if method == "ovi":
        return replace(model, net=net)
    tokenizer = open_clip.get_tokenizer(arch, context_length=length) if _has_tokenizer(model) else None
    make = model.make_tokenizer if tokenizer is None else lambda: tokenizer
    return replace(model, net=net, context_length=length, make_tokenizer=make)


def _lengths(arch: str, method: str, model: DualEncoder) -> list[int]:
    """What the sweep over context lengths tries: fractions of a text context, multiples of an image side."""
    if arch.startswith("mini-"):
        return []
    if method == "oti":
        return sorted({16, 32, model.context_length})
    size = model.net.visual.image_size
    side = size if isinstance(size, int) else size[0]
    return [side // 2, side, side * 3 // 2]


def bench(
    method: str,
    arch: str,
    batches: Sequence[int],
    *,
    n: int = 1,
    device: str | None = None,
    precision: str = "fp32",
    at_least: float = 2.0,
    sweep: bool = True,
) -> dict[str, Any]:
    """Measures both loops and returns everything that is printed, plain Python ready for JSON.

    Args:
        method: "oti" or "ovi".
        arch: an open_clip architecture (random weights) or a shipped mini.
        batches: samples at a time; the textbook runs the same.
        n: pseudo-tokens or pseudo-patches.
        at_least: seconds of timed steps for each loop and batch.
        sweep: also over context lengths, at the smallest batch.

    Raises:
        CrossgapError: an unknown architecture, or one whose encoder can't be entered.
    """
    make = {"oti": oti_problem, "ovi": ovi_problem}[method]
    model = _random_model(arch, device, precision, None, method)
    where = torch.device(model.device)
    problem, dtype = make(model, n), AUTOCAST[precision] or torch.float32
    found, rows, swept = differences(problem), [], []
    for batch in bar(batches, desc="batch sizes"):
        rows += _both(problem, batch, at_least, dtype)
    del problem
    for length in bar(_lengths(arch, method, model) if sweep else [], desc="context lengths"):
        other = make(_random_model(arch, device, precision, length, method), n)
        swept += _both(other, min(batches), at_least / 2, dtype)
    return {
        "method": method,
        "arch": arch,
        "n": n,
        "precision": precision,
        "device": torch.cuda.get_device_name(where) if where.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "gemm_gflops": max(row.gemm for row in rows) / 1e9,
        "difference": found,
        "batches": _with_ratio([row.facts() for row in rows]),
        "lengths": _with_ratio([row.facts() for row in swept]),
    }


def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _with_ratio(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each row how many times faster it is than the textbook at the same batch and length, and how many times
    it would be if both ran at the same share of the machine's rate: the ratio of their FLOPs."""
    slow = {(row["batch"], row["length"]): row for row in rows if row["loop"] == "textbook"}
    names = {"ratio": "seconds", "ratio_by_count": "flops"}
    return [row | {k: slow[row["batch"], row["length"]][v] / row[v] for k, v in names.items()} for row in rows]


def table(result: dict[str, Any], part: str = "batches") -> pd.DataFrame:
    """The measurements as people read them, a row for each loop."""
    names = {
        "loop": "loop", "batch": "batch", "length": "context", "us_per_sample_step": "us a sample-step",
        "ratio": "times textbook", "ratio_by_count": "by count", "mib_per_sample": "MiB a sample",
        "gflops": "GFLOP/s", "gemm_share": "of GEMM rate",
    }  # fmt: skip
    return pd.DataFrame(result[part], columns=list(names)).rename(columns=names)


def summary(result: dict[str, Any]) -> str:
    """What is printed: both tables, the difference between the trajectories, the machine."""
    styles = {
        "us a sample-step": "{:,.0f}".format,
        "times textbook": "{:.1f}".format,
        "by count": "{:.1f}".format,
        "MiB a sample": "{:.2f}".format,
        "GFLOP/s": "{:,.0f}".format,
        "of GEMM rate": "{:.0%}".format,
    }
    show = lambda part: table(result, part).to_string(index=False, formatters=styles, na_rep="-")  # noqa: E731
    off = result["difference"]
    lines = [
        f"{result['method'].upper()} of {result['arch']}, {result['n']} pseudo-vectors, {result['precision']}, on "
        f"{result['device']} with {result['threads']} threads; GEMM rate {result['gemm_gflops']:,.0f} GFLOP/s",
        f"largest difference up to step {off['steps']}: losses {off['loss']:.1e}, features {off['features']:.1e}",
        "",
        show("batches"),
    ]
    return "\n".join(lines + (["", show("lengths")] if result["lengths"] else []))


def write_json(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
