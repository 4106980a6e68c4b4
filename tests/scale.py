"""Every notebook that takes vectors, on a pair file of 200 000 rows: ``make scale`` prints memory and time of each.

It fails where a notebook fails, or where one of its processes takes more than 4 GB.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from crossgap_lib.runner.notebooks import list_notebooks
from crossgap_lib.runner.parameters import declared_parameters

MOST = 4e9  # bytes


def write_pairs(path: Path, n: int, d: int, classes: int, seed: int = 0) -> None:
    """Noise around a random direction a class, and an offset a modality: a gap, a spectrum that falls, and labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    spread = np.arange(1, d + 1, dtype=np.float32) ** -0.5  # of each dimension
    centres = rng.standard_normal((classes, d), dtype=np.float32)
    sides = {}
    for side in ("image", "text"):
        noise = 1.5 * rng.standard_normal((n, d), dtype=np.float32)
        sides[f"{side}_features"] = (centres[labels] + noise) * spread + 2 * rng.standard_normal(d) * spread
    names = [f"class {c}" for c in range(classes)]
    np.savez(path, **{k: v.astype(np.float32) for k, v in sides.items()}, labels=labels, class_names=names)


def run(notebook: str, pairs: Path, out: Path) -> tuple[int, float, float]:
    """(exit code, peak bytes of its largest process, seconds)."""
    started = time.monotonic()
    command = [Path(sys.executable).with_name("crossgap"), "figures", "--force", "--only", notebook]
    process = subprocess.Popen([*command, "--embeddings", str(pairs), "--out", str(out)])
    _, status, used = os.wait4(process.pid, 0)  # with the kernel, which its parent has waited for
    return os.waitstatus_to_exitcode(status), used.ru_maxrss * 1024, time.monotonic() - started


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rows", type=int, default=200_000)
    asked.add_argument("--dim", type=int, default=512)
    asked.add_argument("--classes", type=int, default=1000)
    asked.add_argument("--only", nargs="*", help="Notebooks by number; by default all that take vectors.")
    asked.add_argument("--out", type=Path, default=Path(".cache/scale"))
    given = asked.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pairs = given.out / f"pairs-{given.rows}-{given.dim}.npz"
    if not pairs.exists():
        write_pairs(pairs, given.rows, given.dim, given.classes)
    taking = [p.stem for p in list_notebooks() if "embeddings" in declared_parameters(p)]
    chosen, failed = [name for name in taking if not given.only or name[:2] in given.only], False
    for name in chosen:
        code, peak, seconds = run(name, pairs, given.out)
        print(f"{name:<32} exit {code}, {peak / 1e9:5.2f} GB, {seconds:6.0f} s", flush=True)
        failed |= code != 0 or peak > MOST
    sys.exit(failed)


if __name__ == "__main__":
    main()
