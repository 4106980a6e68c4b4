"""Long inversions: a folder of shards, written whole or not at all, with a manifest that says what they are.

Rows are cut into shards and shards into batches once, and the manifest keeps that cut, the number of threads and all
that the result depends on. A run that was stopped, by whatever, goes on with the shards that are missing and ends with
the same bytes as one that was not: samples do not depend on each other, and each shard is computed the same way
wherever and whenever that happens.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossgap_lib import memory
from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.embeddings.encode import skip_sentence
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.accelerated import Accelerated
from crossgap_lib.inversion.fewer_steps import FIT_SAMPLES, accelerate
from crossgap_lib.inversion.loop import WORTH_A_GRAPH
from crossgap_lib.inversion.oti_ovi import BATCH, PAPER_BATCH, TEMPLATE, Job, compiled, invert_batch, job_for, run
from crossgap_lib.jobs.shard_files import (
    FORMAT,
    clear_errors,
    differences,
    made_from,
    pack_shard,
    read_manifest,
    read_shard,
    shard_path,
    write,
    write_manifest,
)
from crossgap_lib.jobs.sources import open_source
from crossgap_lib.models.load import load_model
from crossgap_lib.processes import locked
from crossgap_lib.progress import bar

STEPS = {"oti": 150, "ovi": 1000}  # the paper's


@dataclass(frozen=True)
class Plan:
    """What a run inverts and how; plain values, so that a worker elsewhere can do the same."""

    model: str
    data: str
    method: str  # "oti" or "ovi"
    n: int = 1  # pseudo-tokens or pseudo-patches
    steps: int = 150
    template: str = TEMPLATE
    snapshots: tuple[int, ...] = ()
    seed: int = 0
    paper: bool = False
    precision: str = "fp32"
    device: str | None = None
    shard_size: int = 4096  # rows
    batch: int = 0  # samples at a time; 0 becomes 256, and with ``paper`` the released code's 64
    threads: int = 1
    accelerated: bool = False  # see fewer_steps.py; its start is fitted on rows drawn with the seed
    compiled: bool = False  # whether torch compiles the encoder: other kernels, so other last bits

    def __post_init__(self) -> None:
        if not self.batch:
            object.__setattr__(self, "batch", PAPER_BATCH if self.paper else BATCH)


class Worker:
    """Computes any shard of a plan; each process builds one."""

    def __init__(self, plan: Plan):
        if plan.method not in STEPS:
            raise CrossgapError(f"There is no method {plan.method!r}; there are oti and ovi.")
        torch.set_num_threads(plan.threads)
        self.plan = plan
        self.model = load_model(plan.model, device=plan.device, precision=plan.precision)
        self.source = open_source(self.model, plan.data, plan.method)

    @cached_property
    def job(self) -> Job:
        plan = self.plan
        how = {"snapshots": plan.snapshots, "paper": plan.paper, "accelerated": self.accelerated}
        job = job_for(self.model, plan.method, plan.n, plan.steps, template=plan.template, seed=plan.seed, **how)
        return compiled(job, plan.batch, self.model.device) if plan.compiled else job

    @cached_property
    def accelerated(self) -> Accelerated | None:
        """Fitted on rows drawn with the seed: the same in every process that has the same threads.

        Where some of the drawn pictures can't be read, twice as many are drawn, until enough can be or all were tried.
        """
        if not self.plan.accelerated:
            return None
        plan, source, most = self.plan, self.source, FIT_SAMPLES
        ids = np.arange(len(source)) if source.ids is None else source.ids
        while True:
            drawn = source.read(drawn_rows(ids, most, plan.seed)).features
            if most >= len(source) or (drawn is not None and len(drawn) >= FIT_SAMPLES):
                break
            most *= 2
        how = {"template": plan.template, "seed": plan.seed, "batch_size": plan.batch}
        return accelerate(self.model, plan.method, plan.n, fit_on=drawn, **how)

    @property
    def shards(self) -> int:
        return -(-len(self.source) // self.plan.shard_size)

    def shard(self, k: int) -> bytes:
        """The file of shard k: features, tokens, losses, snapshots, ids, labels and texts of its rows."""
        start = k * self.plan.shard_size
        part = self.source.read(slice(start, min(start + self.plan.shard_size, len(self.source))))
        seal = made_from(self.manifest, k)
        if part.features is None:
            return pack_shard({}, {"ids": [], "skipped": part.skipped}, seal)
        rows = part.features
        found = run(self.model, rows, self.job, self.plan.batch, cache=False)
        arrays = {"tokens": found.tokens.numpy(), "losses": found.losses.numpy()}
        arrays |= {f"step {s}": features.numpy() for s, features in found.snapshots.items()}
        if rows.labels is not None:
            arrays["labels"] = rows.labels
        facts = {"ids": rows.ids.tolist(), "class_names": rows.class_names, "skipped": part.skipped}
        return pack_shard(arrays, facts | {"texts": None if rows.texts is None else rows.texts.tolist()}, seal)

    @property
    def manifest(self) -> dict[str, Any]:
        """All that the run is, for the folder's manifest."""
        plan = asdict(self.plan)
        take = lambda *names: {name: plan[name] for name in names}  # noqa: E731
        return {
            "format": FORMAT,
            "crossgap": metadata.version("crossgap"),
            "model": {"spec": plan["model"], "fingerprint": self.model.fingerprint, **take("precision")},
            "data": {"spec": plan["data"], "fingerprint": self.source.fingerprint, "rows": len(self.source)},
            "inversion": take("method", "n", "steps", "template", "snapshots", "seed", "paper", "accelerated"),
            "composition": take("shard_size", "batch", "threads", "compiled"),
            "machine": {
                "torch": torch.__version__,
                "device": torch.device(self.model.device).type,
                "cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }

    def fitting_batch(self, budget: int) -> int:
        """The largest number of samples at a time that stays within ``budget`` bytes (see ``memory.fitting_batch``).

        It is found by trying two exact steps, or as many as a GPU captures. So it is for an accelerated run, whose
        start is fitted by such steps on batches of the same size; the fitted map itself, as large as a layer of the
        model, is not counted.
        """
        plan, device = self.plan, torch.device(self.model.device)
        steps = WORTH_A_GRAPH if device.type == "cuda" else 2
        job = job_for(self.model, plan.method, plan.n, steps, template=plan.template, paper=plan.paper)

        def tried(n: int) -> None:
            job.loops.clear()
            invert_batch(job, Embeddings(torch.ones(n, self.model.embed_dim)), device)

        return memory.fitting_batch(tried, budget, device, most=min(plan.shard_size, len(self.source)))


def _agreed(plan: Plan, folder: Path, asked: dict[str, int | None]) -> Plan:
    """The plan with the shard size, batch, threads and compilation that the folder was begun with, if it was.

    Raises:
        CrossgapError: another of them was asked for, or an older version began the folder.
    """
    if (old := read_manifest(folder)) is None:
        return plan
    if old["format"] != FORMAT:
        raise CrossgapError(
            f"{folder} was begun by an older version of crossgap, whose shards carry no checksums: if it is finished, "
            "cg.load_shards reads it; a new run needs another --out."
        )
    kept = old["composition"]
    for name, value in asked.items():
        if value is not None and value != kept[name]:
            raise CrossgapError(
                f"{folder} was begun with {name.replace('_', ' ')} {kept[name]}, not {value}, which is decided once. "
                "Leave the option out to go on, or choose another --out."
            )
    return replace(plan, **kept)


# ---------------------------------------------------------------- the run


@dataclass(frozen=True)
class Report:
    """How a run ended."""

    folder: Path
    shards: int
    done_before: int
    rows: int
    skipped: list[str]
    batch: int
    notes: tuple[str, ...]

    def __str__(self) -> str:
        lines = [
            f"{self.folder}: {self.rows} rows in {self.shards} shards ({self.done_before} were there), "
            f"{self.batch} samples at a time"
        ]
        if self.skipped:
            lines.append(skip_sentence(self.skipped, self.rows + len(self.skipped)))
        return "\n".join([*lines, *self.notes])


Engine = Callable[[Worker, list[int]], Iterator[tuple[int, bytes]]]


def here(worker: Worker, todo: list[int]) -> Iterator[tuple[int, bytes]]:
    """Shards one after the other in this process."""
    for k in todo:
        yield k, worker.shard(k)


def invert_to(
    folder: str | Path,
    plan: Plan,
    *,
    shard_size: int | None = None,
    batch: int | None = None,
    compiled: bool | None = None,
    budget: int | None = None,
    engine: Engine = here,
) -> Report:
    """Inverts everything that ``plan`` names into ``folder``, going on where an earlier run stopped.

    Args:
        shard_size, batch, compiled: rows a shard, samples at a time, and whether the encoder is compiled; by default
            the folder's own, else the plan's.
        budget: bytes that a batch may take; chooses ``batch`` for a new folder.
        engine: who computes the shards; they are written here.

    Raises:
        CrossgapError: the folder holds shards of another model, data set or inversion (the message says what
            differs) or of an older version, is in use, can't be written or is full; or not even a small batch fits
            into ``budget``.
        Interrupted: Ctrl-C.
    """
    folder = Path(folder)
    asked = {"shard_size": shard_size, "batch": batch, "compiled": compiled}
    plan = replace(plan, **{name: value for name, value in asked.items() if value is not None})
    with clear_errors(folder), locked(folder):
        return _run(folder, _agreed(plan, folder, asked), budget, engine)


def _run(folder: Path, plan: Plan, budget: int | None, engine: Engine) -> Report:
    worker, old = Worker(plan), read_manifest(folder)
    if old is None:
        if any(folder.glob("shard-*.safetensors")):
            raise CrossgapError(f"{folder} holds shards without a manifest; choose another --out.")
        if budget is not None:
            worker.plan = plan = replace(plan, batch=worker.fitting_batch(budget))
        _ = worker.job  # what can't be done is refused here, not after the folder is marked
        write_manifest(folder, worker.manifest)
    notes = _check_same(folder, old, worker.manifest)
    facts, damaged = _verified(folder, worker)
    done, todo = len(facts), [k for k in range(worker.shards) if k not in facts]
    progress = bar(total=worker.shards, initial=done, desc=f"{plan.method.upper()}, {plan.steps} steps", unit="shard")
    for k, content in engine(worker, todo) if todo else ():
        write(shard_path(folder, k), content)
        facts[k] = read_shard(folder, worker.manifest, k)[1]
        progress.update()
    if damaged:
        notes += (f"Done again, since {len(damaged)} did not hold what was written there: {', '.join(damaged)}.",)
    return Report(
        folder,
        worker.shards,
        done,
        sum(len(f["ids"]) for f in facts.values()),
        [reason for k in sorted(facts) for reason in facts[k]["skipped"]],
        plan.batch,
        notes,
    )


def _verified(folder: Path, worker: Worker) -> tuple[dict[int, dict[str, Any]], list[str]]:
    """({number: facts} of the shards that hold what was written there, the file names of those that do not)."""
    facts, damaged = {}, []
    for k in range(worker.shards):
        if os.path.lexists(path := shard_path(folder, k)):
            try:
                facts[k] = read_shard(folder, worker.manifest, k)[1]
            except CrossgapError:
                damaged.append(path.name)
    return facts, damaged


def _check_same(folder: Path, old: dict[str, Any] | None, new: dict[str, Any]) -> tuple[str, ...]:
    if old is None:
        return ()
    if differs := differences(old, new, ("model", "data", "inversion")):
        raise CrossgapError(f"{folder} holds shards of another run: {'; '.join(differs)}. Choose another --out.")
    if differs := differences(old, new, ("machine",)):
        return (
            f"Begun on another machine ({'; '.join(differs)}): the new shards agree with the old ones in the first "
            "steps and on average, but not bit for bit.",
        )
    return ()
