"""``crossgap pretrain --grid FILE``: many nanos, what captions say and how much pictures differ varied, in one table.

FILE is TOML. Each of its ``[[cells]]`` lists values of what ``nano`` takes, and declares every combination of them:

    [[cells]]
    mention = [0.0, 0.6, 1.0]
    strength = [0.3, 1.0]
    seed = [0, 1, 2]

Cells are trained in that order, the last named value changing fastest, and are measured as [measure] tells
``measure_cell``. [overrides] changes the recipe of all of them. The table lies beside FILE, as FILE.parquet. It is
written anew after each cell, and holds the recipe, the seconds and the machine of every cell, too (``attrs["cells"]``).
"""

import os
import platform
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from crossgap_lib.errors import CrossgapError, one_sentence
from crossgap_lib.models.load import load_model
from crossgap_lib.paths import ROOT
from crossgap_lib.pretrain.files import write_weights
from crossgap_lib.pretrain.loop import clocks, train
from crossgap_lib.pretrain.measures import measure_cell
from crossgap_lib.pretrain.recipes import Recipe, changed, nano
from crossgap_lib.processes import locked, side_by_side
from crossgap_lib.store import whole

_AXES = ("mention", "strength", "seed", "objective", "learned_scale")  # what ``nano`` takes
Facts = dict[str, Any]  # of a cell: its recipe, its seconds, the machine


def train_grid(
    file: Path,
    *,
    jobs: int = 1,
    device: str | None = None,
    runs: Path = ROOT / "runs",
    report: Callable[[str], None] = print,
) -> Path:
    """Trains and measures the cells that FILE declares and that its table lacks; returns the table's path.

    A run that was stopped, at whatever point, goes on where it was: cells of the table are done, and the training of
    the others is checkpointed after each epoch.

    Args:
        jobs: cells at a time, each in a process of its own with its share of the cores; one at a time in this process.
        runs: where each cell has a folder for its checkpoint and weights.
        report: is told of each cell that is done.

    Raises:
        CrossgapError: a file that declares no grid, a table of other recipes, or a process that was killed.
    """
    cells, how = read_grid(file)
    out = file.with_suffix(".parquet")
    with locked(runs / f"grid-{file.stem}"):
        table = _read(out)
        missing = [recipe for recipe in cells if recipe.name not in _done(table, out, cells)]
        report(f"{len(cells) - len(missing)} of {len(cells)} cells are done.")
        for recipe, rows, facts in _train([(recipe, runs / recipe.name, device, how) for recipe in missing], jobs):
            table = _with(table, recipe, rows, facts, [cell.name for cell in cells])
            with whole(out) as part:
                table.to_parquet(part, index=False)
            report(f"{recipe.name}: {facts['training seconds']:.0f} s, measured in {facts['measuring seconds']:.0f} s.")
    return out


def read_grid(file: Path) -> tuple[list[Recipe], dict[str, int]]:
    """The recipes that the file declares, each once and in its order, and what it tells ``measure_cell``.

    Raises:
        CrossgapError: no TOML, no cells, or words that a grid does not know.
    """
    with one_sentence(f"{file} can't be read as a grid"):
        told = tomllib.loads(file.read_text(encoding="utf-8"))
        _refuse_unknown(file, told, ("cells", "overrides", "measure"))
        cells, overrides, how = told.get("cells", []), told.get("overrides", {}), told.get("measure", {})
        _refuse_unknown(file, how, ("pictures", "queries", "steps"))
        declared = [nano(**cell) for table in cells for cell in _combinations(file, table)]
        if not declared:
            raise CrossgapError(f"{file} declares no [[cells]].")
        return [changed(recipe, overrides) for recipe in dict.fromkeys(declared)], how


def _combinations(file: Path, table: dict[str, list]) -> Iterator[dict[str, Any]]:
    _refuse_unknown(file, table, _AXES)
    if "mention" not in table or not all(isinstance(values, list) for values in table.values()):
        raise CrossgapError(f"Each [[cells]] of {file} must list values, and of mention at least.")
    return (dict(zip(table, values, strict=True)) for values in product(*table.values()))


def _refuse_unknown(file: Path, table: dict, words: tuple[str, ...]) -> None:
    if unknown := sorted(set(table) - set(words)):
        raise CrossgapError(f"{file} speaks of {', '.join(unknown)}, but a grid knows {', '.join(words)} there.")


# ---------------------------------------------------------------- one cell


def _train(tasks: list[tuple], jobs: int) -> Iterator[tuple[Recipe, pd.DataFrame, Facts]]:
    if jobs == 1:
        yield from (_train_cell(*task) for task in tasks)
    else:
        yield from side_by_side(_train_cell, tasks, jobs, lost=_killed)


def _killed(task: tuple, code: int) -> None:
    raise CrossgapError(
        f"The process of {task[0].name} was killed ({code}); run the grid again, it goes on from there."
    )


def _train_cell(
    recipe: Recipe, folder: Path, device: str | None, how: dict[str, int]
) -> tuple[Recipe, pd.DataFrame, Facts]:
    """The cell's measurements, taken on the weights as written (fp16)."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with locked(folder):
        net, (wall, cpu) = train(recipe, folder, device=device)
        write_weights(folder, net)
    started = clocks()
    rows = measure_cell(load_model(f"local-dir:{folder}", device=device), recipe, **how)
    facts = {
        "recipe": asdict(recipe),
        "training seconds": round(cpu, 1),  # of the CPU, as all others; a busy machine takes longer
        "training seconds, wall": round(wall, 1),
        "measuring seconds": round((clocks() - started)[1], 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {device}, "
        f"torch {torch.__version__}",
    }
    return recipe, rows, facts


# ---------------------------------------------------------------- the table


def _read(path: Path) -> pd.DataFrame:
    if not path.exists():
        return pd.DataFrame(columns=["cell"])
    with one_sentence(f"{path} can't be read as the table of a grid"):
        return pd.read_parquet(path)


def _done(table: pd.DataFrame, path: Path, cells: list[Recipe]) -> set[str]:
    """The cells that are in the table; raises CrossgapError where one was trained by another recipe."""
    facts = table.attrs.get("cells", {})
    for cell in cells:
        if cell.name in facts and not cell.is_kept_as(facts[cell.name]["recipe"]):
            raise CrossgapError(f"{path} holds {cell.name} by another recipe; remove the table, or name the grid anew.")
    return set(facts)


def _with(table: pd.DataFrame, recipe: Recipe, rows: pd.DataFrame, facts: Facts, order: list[str]) -> pd.DataFrame:
    """The table with a cell more, cells in the order in which they are declared."""
    own = {axis: getattr(recipe, axis) for axis in _AXES}
    cells = table.attrs.get("cells", {}) | {recipe.name: facts}
    rows = rows.assign(cell=recipe.name, **own)[["cell", *_AXES, *rows.columns]]
    parts = dict(tuple(table.groupby("cell"))) | {recipe.name: rows}
    made = pd.concat([parts[name] for name in sorted(parts, key=lambda n: order.index(n) if n in order else -1)])
    made = made.reset_index(drop=True)
    made.attrs["cells"] = cells
    return made
