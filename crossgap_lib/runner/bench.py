"""``crossgap bench oti`` and ``ovi``: the inversion engine against the textbook loop, in one run on one machine.

A step is timed from the start of one forward pass to the start of the next, so the same clock serves both loops and
neither is charged for its set-up; on a GPU the clock is CUDA events, and nothing waits. There the engine replays a
captured step, in which no forward pass begins: it is timed as what many steps take more than few. The ratio says how
much faster the engine is; its FLOP/s, beside the rate at which this machine multiplies matrices, say how much is left
to gain.
"""

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
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

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.hub import cache_only
from crossgap_lib.inversion import textbook
from crossgap_lib.inversion.loop import WORTH_A_GRAPH, Encode, initial_noise
from crossgap_lib.inversion.oti_ovi import MIN_ROWS, TEMPLATE, Job, compiled, invert_batch, job_for, template_ids
from crossgap_lib.inversion.towers import ImageTower
from crossgap_lib.memory import PeakMemory
from crossgap_lib.models.encoder import AUTOCAST, DualEncoder
from crossgap_lib.models.load import load_model
from crossgap_lib.progress import bar

_COMPARED_STEPS = 20  # beyond them the trajectories are chaotic (see inversion/textbook.py)
_GEMM = 2048  # side of the square matrix whose products define the machine's rate


# ---------------------------------------------------------------- instruments


class Stopwatch:
    """Wraps a loop's forward pass and notes when each begins: the gaps between are the steps."""

    def __init__(self, forward: Encode, device: torch.device):
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
    """One inversion, as the library runs it and as the textbook does, with random features as targets."""

    model: DualEncoder
    job: Job  # the library's
    forward: Encode  # the textbook's forward pass, (b, k, width) -> (b, d)
    length: int  # positions in the textbook's context

    @property
    def loops(self) -> dict[str, Encode]:
        """The forward pass of each loop."""
        return {"engine": self.job.encode, "textbook": self.forward}

    def run(self, loop: str, forward: Encode, batch: int, steps: int) -> tuple[Tensor, Tensor]:
        """(features (b, d), losses (steps, b)) of a loop with this forward pass; all loops start at the same noise."""
        generator, device = torch.Generator().manual_seed(batch), self.model.device
        rows = Embeddings(torch.randn(batch, self.model.embed_dim, generator=generator))
        if loop == "textbook":
            noise, amp = initial_noise(rows.ids, self.job.shape, self.job.seed), AUTOCAST[self.model.precision]
            return textbook.invert(forward, rows.features.to(device), noise.to(device), steps, amp=amp)
        _, losses, kept = invert_batch(replace(self.job, encode=forward, steps=steps), rows, device)
        return kept[steps], losses


def oti_problem(model: DualEncoder, n_tokens: int) -> Problem:
    """OTI. The textbook tokenises its prompts anew in each step, as the released code does."""
    length, words = model.net.context_length, f"{TEMPLATE} {' '.join(['x'] * n_tokens)}"
    try:
        (before, after), tokenize = template_ids(model, TEMPLATE), model.tokenize
    except CrossgapError:  # SigLIP's tokenizer comes from a hub; random weights need no real words
        before, after = torch.tensor([2, 3, 4]), torch.ones(length - 3, dtype=torch.long)
        ids = torch.cat([before, torch.ones(n_tokens, dtype=torch.long), after])[None]
        tokenize = lambda prompts: ids  # noqa: E731
    slots = list(range(len(before), len(before) + n_tokens))

    def forward(tokens: Tensor) -> Tensor:
        ids = tokenize([words] * len(tokens))[:, :length].to(model.device)
        return textbook.text_features(model.net, ids, slots, tokens)

    return Problem(model, job_for(model, "oti", n_tokens, 1, template=(before, after)), forward, length)


def ovi_problem(model: DualEncoder, n_patches: int) -> Problem:
    """OVI; CLS is one more position of the context."""
    forward = partial(textbook.image_features, model.net)
    return Problem(model, job_for(model, "ovi", n_patches, 1), forward, ImageTower(model.net).n_slots + 1)


def resized(model: DualEncoder, method: str, arch: str) -> Iterator[DualEncoder]:
    """The architecture with other context lengths (OTI) or image sides in pixels (OVI), and random weights."""
    side = model.preprocessing["size"][0]
    sizes = {"oti": sorted({16, 32, model.net.context_length}), "ovi": [side // 2, side, side * 3 // 2]}[method]
    forced = {"oti": "force_context_length", "ovi": "force_image_size"}[method]
    for size in sizes:
        with cache_only():  # nothing to fetch, nothing to warn of
            net = open_clip.create_model(arch, **{forced: size})
        yield replace(model, net=net.eval().requires_grad_(False).to(model.device))


# ---------------------------------------------------------------- measurements


def differences(problem: Problem, batch: int = 4) -> dict[str, float]:
    """Largest differences between the two trajectories: of losses up to step 20, and of features after it."""
    ours, theirs = (problem.run(loop, forward, batch, _COMPARED_STEPS) for loop, forward in problem.loops.items())
    features, losses = (float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    return {"steps": _COMPARED_STEPS, "loss": losses, "features": features}


def sample_flops(problem: Problem, loop: str) -> float:
    """FLOPs of a sample-step as torch counts them: of a run of one step, less the forward pass that ends each run."""
    forward = problem.loops[loop]
    with FlopCounterMode(display=False) as whole:
        problem.run(loop, forward, MIN_ROWS, 1)
    with torch.no_grad(), FlopCounterMode(display=False) as closing:
        forward(torch.zeros(MIN_ROWS, *problem.job.shape, device=problem.model.device))
    return (whole.get_total_flops() - closing.get_total_flops()) / MIN_ROWS


def compare(problem: Problem, batch: int, at_least: float, *, compile: bool = False) -> list[dict[str, Any]]:
    """A row for each loop at one batch size: what a step of the whole batch took, and what that means a sample.

    The engine runs before and after the textbook, since a machine's speed wanders while the textbook takes its time.
    """
    device, dtype = torch.device(problem.model.device), problem.model.dtype
    loops, flops = problem.loops, {loop: batch * sample_flops(problem, loop) for loop in problem.loops}
    if compile:
        torch.compiler.reset()  # torch compiles the same function for a few sizes only
        loops["compiled"] = compiled(problem.job, batch, problem.model.device).encode
        flops["compiled"] = flops["engine"]
    fast = [loop for loop in loops if loop != "textbook"]
    gemm, times, peaks = gemm_rate(device, dtype), {loop: [] for loop in [*fast, "textbook"]}, {}
    for loop in [*fast, "textbook", *fast]:
        enough = at_least * gemm / flops[loop]  # no step is faster than matrix products of as many FLOPs
        n = int(np.clip(enough + 1, 2 if loop == "textbook" else WORTH_A_GRAPH, 200))
        with PeakMemory(device) as peak:
            times[loop].append(_step_seconds(problem, loop, loops[loop], batch, n))
        peaks[loop] = peak.bytes
    gemm = max(gemm, gemm_rate(device, dtype))
    seconds = {loop: float(np.mean([np.median(run) for run in runs])) for loop, runs in times.items()}
    return [
        {
            "loop": loop, "batch": batch, "length": problem.length, "steps": sum(map(len, times[loop])),
            "seconds": seconds[loop], "flops": flops[loop], "gemm": gemm, "peak_bytes": peaks[loop],
            "us_per_sample_step": 1e6 * seconds[loop] / batch,
            "gflops": flops[loop] / seconds[loop] / 1e9, "gemm_share": flops[loop] / seconds[loop] / gemm,
            "mib_per_sample": None if peaks[loop] is None else peaks[loop] / batch / 2**20,
            "ratio": seconds["textbook"] / seconds[loop], "ratio_by_count": flops["textbook"] / flops[loop],
        }
        for loop in times
    ]  # fmt: skip


def _step_seconds(problem: Problem, loop: str, forward: Encode, batch: int, steps: int) -> list[float]:
    """Seconds of each of some steps; or, of a loop that is captured, their mean ``steps`` times."""
    device = torch.device(problem.model.device)
    if device.type == "cuda" and loop != "textbook":
        runs = (partial(problem.run, loop, forward, batch, n) for n in (steps, steps, 3 * steps))
        _, few, many = (_seconds(run, device) for run in runs)  # in the first, libraries set themselves up
        return [(many - few) / (2 * steps)] * steps
    watch = Stopwatch(forward, device)
    problem.run(loop, watch, batch, steps)
    return watch.steps()[1:]  # the first step warms caches and allocators


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    run()
    torch.cuda.synchronize(device)
    return time.perf_counter() - start


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
    compile: bool = False,
) -> dict[str, Any]:
    """Measures both loops and returns everything that is printed, plain Python ready for JSON.

    Args:
        arch: an open_clip architecture, whose weights are random since that costs the same, or a shipped mini.
        batches: samples at a time, in both loops.
        n: pseudo-tokens or pseudo-patches.
        at_least: seconds of timed steps for each loop and batch.
        sweep: also over context lengths, at the smallest batch; a mini has but one.
        compile: the compiled engine as well.

    Raises:
        CrossgapError: an unknown architecture, or one whose encoder can't be entered or compiled.
    """
    make, is_mini = {"oti": oti_problem, "ovi": ovi_problem}[method], arch.startswith("mini-")
    model = load_model(arch if is_mini else f"{arch},random", device=device, precision=precision)
    problem, rows, swept = make(model, n), [], []
    found = differences(problem)
    for batch in bar(batches, desc="batch sizes"):
        rows += compare(problem, batch, at_least, compile=compile)
    for other in bar(resized(model, method, arch) if sweep and not is_mini else (), desc="context lengths"):
        swept += compare(make(other, n), min(batches), at_least / 2, compile=compile)
    return {
        "method": method, "arch": arch, "n": n, "precision": precision, "device": device_name(model.device),
        "threads": torch.get_num_threads(), "torch": torch.__version__,
        "gemm_gflops": max(row["gemm"] for row in rows) / 1e9,
        "difference": found, "batches": rows, "lengths": swept,
    }  # fmt: skip


def device_name(device: str | torch.device) -> str:
    """The GPU's name, or the CPU's where the system tells it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


# ---------------------------------------------------------------- what is printed

_COLUMNS = {
    "loop": ("loop", str),
    "batch": ("batch", str),
    "length": ("context", str),
    "us_per_sample_step": ("us a sample-step", "{:,.0f}".format),
    "ratio": ("times textbook", "{:.1f}".format),
    "ratio_by_count": ("by count", "{:.1f}".format),
    "mib_per_sample": ("MiB a sample", "{:.2f}".format),
    "gflops": ("GFLOP/s", "{:,.0f}".format),
    "gemm_share": ("of GEMM rate", "{:.0%}".format),
}


def summary(result: dict[str, Any]) -> str:
    """What is printed: the machine, the difference between the trajectories, and both tables."""
    header, formatters = map(list, zip(*_COLUMNS.values(), strict=True))

    def table(part: str) -> str:
        rows = pd.DataFrame(result[part], columns=list(_COLUMNS))
        return rows.to_string(index=False, header=header, formatters=formatters, na_rep="-")

    off = result["difference"]
    lines = [
        f"{result['method'].upper()} of {result['arch']}, {result['n']} pseudo-vectors, {result['precision']}, on "
        f"{result['device']} with {result['threads']} threads; GEMM rate {result['gemm_gflops']:,.0f} GFLOP/s",
        f"largest difference up to step {off['steps']}: losses {off['loss']:.1e}, features {off['features']:.1e}",
        *(f"\n{table(part)}" for part in ("batches", "lengths") if result[part]),
    ]
    return "\n".join(lines)
