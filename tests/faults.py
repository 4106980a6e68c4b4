"""SIGKILL at seeded random moments: each run goes on until it ends, with the same bytes and nothing left about.

``make faults`` kills a hundred times, over commands that write embeddings, shards, checkpoints and figures, and prints
how often it killed what; tests/test_faults.py does a part of it.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from miniatures import photo
from nbformat import v4, write

_CELL = (
    "import os, pathlib, time\nout = pathlib.Path(os.environ['CROSSGAP_FIGURES'], '01_tiny')\nout.mkdir(exist_ok=True)"
)
_CHILDREN = get_context("forkserver")  # clean children, which have torch loaded already


def prepare(inputs: Path) -> None:
    """What the runs read: pictures, vectors as wide as the mini's, and a notebook that writes a file a cell."""
    for k in range(16):
        photo(inputs / "photos" / "grey" / f"{k}.png", 10 * k)
    np.save(inputs / "images.npy", np.random.default_rng(0).standard_normal((16, 128), np.float32))
    cells = [v4.new_code_cell(_CELL)]
    cells += [v4.new_code_cell(f"(out / '{k}.csv').write_text('{k}' * 10000)\ntime.sleep(0.1)") for k in range(4)]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    (inputs / "notebooks").mkdir()
    write(v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), inputs / "notebooks" / "01_tiny.ipynb")


# ---------------------------------------------------------------- the runs, each in a process of its own


def _command(*arguments: object) -> None:
    from crossgap_lib.cli import cli

    cli([*map(str, arguments)])


def embed(inputs: Path, out: Path) -> None:
    os.environ["CROSSGAP_CACHE"] = str(out / "cache")
    _command("embed", "--model", "mini-clip", "--data", f"folder:{inputs / 'photos'}", "--out", out / "pictures.npz")


def invert(inputs: Path, out: Path) -> None:
    how = ("--method", "oti", "--steps", 4, "--shard-size", 2, "--batch", 2)
    _command("invert", "--model", "mini-clip", "--data", inputs / "images.npy", "--out", out / "shards", *how)


def pretrain(inputs: Path, out: Path) -> None:
    from crossgap_lib.pretrain import cards

    cards.measure = lambda *_: {"parameters": 1}  # a minute, and nothing of it is kept
    changes = ("pictures=16", "epochs=4", "batch=8", "warmup=2")
    _command("pretrain", "mini-clip", "--out", out / "mini", *(word for c in changes for word in ("--set", c)))


def figures(inputs: Path, out: Path) -> None:
    from crossgap_lib.runner.notebooks import run_notebooks

    (run,) = run_notebooks(notebooks=inputs / "notebooks", out=out / "figures", cwd=inputs)
    sys.exit(run.status == "failed")


class Victim(NamedTuple):
    run: Callable[[Path, Path], None]  # from a folder of inputs into one of results
    same: str  # which files hold the same bytes after each run
    steps: str  # which files show that something is done
    kills: int  # of a hundred
    lasting: bool = False  # whether no later run writes such a file again


VICTIMS = {
    "embed": Victim(embed, "**/*.[ns][pa][zf]*", "cache/embeddings/*", 20),
    "invert": Victim(invert, "shards/shard-*", "shards/shard-*", 40, lasting=True),
    "pretrain": Victim(pretrain, "mini/*.safetensors", "mini.run/checkpoint.pt", 20),
    "figures": Victim(figures, "figures/01_tiny/*.csv", "figures/.*/01_tiny/*.csv", 20),
}


# ---------------------------------------------------------------- killing


class Killed(NamedTuple):
    kills: int
    with_steps: int  # of these kills, those that came when something was done already
    runs: int  # that came to their end, each killed once or more but for the last


def _quiet(run: Callable, inputs: Path, out: Path) -> None:
    os.environ["CROSSGAP_HEADLESS"] = "1"
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    run(inputs, out)


def _begun(victim: Victim, inputs: Path, out: Path):
    out.mkdir(exist_ok=True)
    child = _CHILDREN.Process(target=_quiet, args=(victim.run, inputs, out))
    child.start()
    return child


def _listing(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def _same(folder: Path, victim: Victim) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.glob(victim.same)}


def _born(folder: Path, victim: Victim) -> dict[Path, int]:
    """When each step was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob(victim.steps)}


def kill(name: str, kills: int, folder: Path, seed: int = 0) -> Killed:
    """Kills the runs of a victim so often, and lets each go on where it was killed until one comes to its end.

    Raises:
        AssertionError: a run fails, writes a finished step again, ends with other bytes or leaves something about.
    """
    victim, rng, inputs = VICTIMS[name], random.Random(f"{name}/{seed}"), folder / "inputs"
    _CHILDREN.set_forkserver_preload(
        ["crossgap_lib.jobs.shards", "crossgap_lib.pretrain.cards", "crossgap_lib.runner.site"]
    )
    inputs.mkdir(parents=True)
    prepare(inputs)
    for reference in (folder / "warm", folder / "whole"):
        started = time.monotonic()
        child = _begun(victim, inputs, reference)
        child.join()
        lasts = time.monotonic() - started
        assert child.exitcode == 0, f"{name} fails without being killed"
    expected, listed = _same(reference, victim), _listing(reference)
    assert expected

    done = with_steps = 0
    for runs in count(1):
        out = folder / f"run-{runs}"
        exit_code, born = None, {}
        while exit_code != 0:
            child = _begun(victim, inputs, out)
            child.join(rng.uniform(0, lasts) if done < kills else None)
            if child.exitcode is None:
                os.kill(child.pid, signal.SIGKILL)
            child.join()
            exit_code, before, born = child.exitcode, born, _born(out, victim)
            assert exit_code in (0, -signal.SIGKILL), f"{name} ended with {exit_code} after {done} kills"
            assert not victim.lasting or before.items() <= born.items(), f"{name} has written again what was finished"
            if exit_code:
                done += 1
                with_steps += bool(born)
            lasts *= 0.8 if exit_code == 0 else 1.0 if born else 1.1  # so that most moments lie within the work
        assert _same(out, victim) == expected, f"{name} ended with other bytes after {done} kills"
        assert _listing(out) == listed, f"{name} leaves {_listing(out) ^ listed} after {done} kills"
        if done >= kills:
            return Killed(done, with_steps, runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("victims", nargs="*", metavar="VICTIM", help=f"of {', '.join(VICTIMS)}; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    total = 0
    for name in options.victims or VICTIMS:
        with tempfile.TemporaryDirectory() as folder:
            told = kill(name, VICTIMS[name].kills, Path(folder), options.seed)
        total += told.kills
        print(f"{name}: {told.kills} kills, {told.with_steps} with steps done; {told.runs} runs ended", flush=True)
    print(f"{total} kills, and all runs ended with the same bytes and nothing left about")


if __name__ == "__main__":
    main()
