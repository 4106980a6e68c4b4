"""``crossgap figures``: papermill runs of the notebooks.

A notebook writes to a folder of its own beside the old figures, which are replaced only when all of it went well.
What papermill lets pass is refused here: unknown parameters, and errors inside widgets.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import nbformat
import papermill

from crossgap_lib.errors import CrossgapError, did_you_mean, one_sentence
from crossgap_lib.paths import FIGURES, NOTEBOOKS
from crossgap_lib.processes import environment, locked, side_by_side
from crossgap_lib.progress import watched
from crossgap_lib.runner.kernel import ThisPython
from crossgap_lib.runner.parameters import checked, declared_parameters
from crossgap_lib.runner.staleness import is_fresh, run_key, write_record
from crossgap_lib.store import digest

WIDGETS = "application/vnd.jupyter.widget-state+json"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Run:
    """What became of one notebook."""

    name: str
    out: Path  # its figures are in out/NN_name/
    status: str  # "fresh" (nothing to do), "ran", "failed", or "left out" (no parameter that was set changes it)
    seconds: float = 0.0
    message: str = ""  # what failed and where


def run_notebooks(
    only: Iterable[str] = (),
    parameters: Mapping[str, Any] | None = None,
    extra: Mapping[str, Any] | None = None,
    *,
    force: bool = False,
    jobs: int = 1,
    notebooks: Path = NOTEBOOKS,
    out: Path | None = None,
    cwd: Path | None = None,
    report: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Runs the notebooks that are stale and writes ``out/NN_name/``; one that fails does not stop the others.

    Args:
        only: notebooks by number or name ("1", "01", "01_dogs_vs_cats"); all where empty.
        parameters: handed to each chosen notebook that declares them (all must, if ``only`` names notebooks). ``model``
            is the only one of ``models``, too. A notebook that gets none of them is left out.
        extra: handed to every chosen notebook, each of which must declare them.
        force: run those that are fresh, too.
        jobs: how many run at once, each with its share of the cores.
        out: by default ``own_folder``: figures/, or one of its own for a run with other parameters.
        cwd: where the kernels run, so that relative paths in parameters start there; the current folder by default.
        report: called with each Run as soon as it is known.

    Returns:
        The runs in the notebooks' order.

    Raises:
        CrossgapError: an unknown notebook, a parameter that nobody declares or whose value is not what was declared, a
            notebook that can't be read, or a folder that can't be written or into which another run is writing.
    """
    cwd = Path(cwd or Path.cwd()).absolute()
    declared = {path: declared_parameters(path) for path in _choose(tuple(only), Path(notebooks))}
    given = _share_out(declared, parameters or {}, extra or {}, explicit=bool(only))
    defaults = {path: {name: asked.default for name, asked in known.items()} for path, known in declared.items()}
    out = Path(out or own_folder(defaults, given)).absolute()
    changed = {path for path, own in given.items() if own.keys() - {"device"}}  # which says where, not what is computed
    left_out = [path for path in declared if changed and path not in changed]
    runs = {path.stem: Run(path.stem, out, "left out") for path in left_out}
    for run in runs.values() if report else ():
        report(run)
    chosen = [path for path in declared if path not in left_out]
    asked = [(path, given[path], defaults[path] | given[path], force, out, cwd) for path in chosen]
    with ExitStack() as until_the_end:
        with one_sentence(f"The figures can't be written to {out}, give another folder by --out"):
            until_the_end.enter_context(locked(out))
        longest_first = sorted(asked, key=lambda one: -_minutes(one[0]))
        for run in side_by_side(_run, longest_first, jobs, lost=_lost) if jobs > 1 else starmap(_run, asked):
            runs[run.name] = run
            if report:
                report(run)
    return [runs[path.stem] for path in declared]


def list_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of a folder, in order."""
    return sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))


def _minutes(notebook: Path) -> float:
    """What its metadata say that it takes: notebooks that take long begin first, so that none is waited for alone."""
    return json.loads(notebook.read_text(encoding="utf-8"))["metadata"].get("crossgap", {}).get("minutes", 0)


# ---------------------------------------------------------------- who runs, with what


def _choose(only: tuple[str, ...], folder: Path) -> list[Path]:
    known = {path.stem: path for path in list_notebooks(folder)}
    if not known:
        raise CrossgapError(f"There are no notebooks (NN_name.ipynb) in {folder}.")
    chosen = {_named(wanted, known) for wanted in only} or set(known)
    return [path for name, path in known.items() if name in chosen]


def _named(wanted: str, known: Mapping[str, Path]) -> str:
    short = Path(wanted).stem
    for name in known:
        if short == name or (short.isdigit() and short.zfill(2) == name[:2]):
            return name
    raise CrossgapError(f"There is no notebook {wanted!r}; there are {', '.join(known)}.")


def _share_out(
    declared: Mapping[Path, Mapping], parameters: Mapping, extra: Mapping, *, explicit: bool
) -> dict[Path, dict[str, Any]]:
    """What each notebook is handed, checked; refuses what papermill would only warn of."""
    if twice := parameters.keys() & extra.keys():
        raise CrossgapError(f"{', '.join(sorted(twice))}: given both as an option and with -p; leave one out.")
    everything = {**parameters, **extra}
    if "model" in parameters:
        everything = {"models": [parameters["model"]], **everything}
    for name in [*parameters, *extra]:
        taken = {"model", "models"} if name == "model" else {name}
        lacking = [path for path, known in declared.items() if not known.keys() & taken]
        if lacking and (explicit or name in extra or len(lacking) == len(declared)):
            raise CrossgapError(_refusal(name, lacking, declared))
    return {
        path: checked(known, {k: v for k, v in everything.items() if k in known}) for path, known in declared.items()
    }


def own_folder(defaults: Mapping[Path, Mapping], given: Mapping[Path, Mapping]) -> Path:
    """figures/ for a run with the notebooks' own parameters, else figures/runs/ and a name made of what differs.

    So the pictures of the default run, which README shows, stay what they are. ``device`` says where and not what is
    computed, and does not count.
    """
    values = [(k, v) for path, known in given.items() for k, v in known.items() if v != defaults[path][k]]
    changed = {name: value for name, value in values if name != "device"}
    if not changed:
        return FIGURES
    words = re.sub(r"[^\w.=]+", "-", "-".join(f"{name}={value}" for name, value in changed.items()))
    return FIGURES / "runs" / f"{words[:60].strip('-')}-{digest(sorted(changed.items()))[:8]}"


def _refusal(name: str, lacking: list[Path], declared: Mapping[Path, Mapping]) -> str:
    takes = "; ".join(f"{path.stem} takes {', '.join(known) or 'none'}" for path, known in declared.items())
    known = {parameter for parameters in declared.values() for parameter in parameters}
    return f"No parameter {name!r} in {', '.join(p.stem for p in lacking)}.{did_you_mean(name, known)} ({takes})"


# ---------------------------------------------------------------- one notebook


def _run(notebook: Path, given: dict, values: dict, force: bool, out: Path, cwd: Path) -> Run:
    try:
        return _run_if_stale(notebook, given, values, force, out, cwd)
    except OSError as error:  # as where the disk is full: the others still run, and the old figures stay
        return Run(notebook.stem, out, "failed", message=_brief(type(error).__name__, str(error)))


def _run_if_stale(notebook: Path, given: dict, values: dict, force: bool, out: Path, cwd: Path) -> Run:
    name = notebook.stem
    folder, failed = out / name, out / f"{name}.failed.ipynb"
    _clear_up(folder)
    key = run_key(notebook, values, cwd)
    if not force and not failed.exists() and is_fresh(folder, key):
        return Run(name, out, "fresh")
    started = time.monotonic()
    with TemporaryDirectory(prefix=f".{name}.part-", dir=out, ignore_cleanup_errors=True) as part:
        stage = Path(part, name)
        stage.mkdir()
        problem = _execute(notebook, stage / notebook.name, given, cwd)
        seconds = time.monotonic() - started
        if problem:
            _keep_failed(stage / notebook.name, failed)
            return Run(name, out, "failed", seconds, problem)
        write_record(stage, key, values, seconds)
        _swap(stage, folder)
    failed.unlink(missing_ok=True)
    return Run(name, out, "ran", seconds)


def _clear_up(folder: Path) -> None:
    """Removes what a run that was killed has left, once the old figures are back in their place."""
    for part in folder.parent.glob(f".{folder.name}.part-*"):
        if (part / "old").exists() and not folder.exists():
            (part / "old").rename(folder)
        shutil.rmtree(part, ignore_errors=True)


def _lost(asked: tuple, exit_code: int) -> Run:
    """Of a notebook whose process was killed, as where memory runs out."""
    notebook, _, _, _, out, _ = asked
    return Run(notebook.stem, out, "failed", message=f"its process, which ended with {exit_code}")


def _execute(notebook: Path, executed: Path, given: dict, cwd: Path) -> str:
    """Runs ``notebook`` into the file ``executed``; returns where and why it failed, or ""."""
    options = {
        "kernel_name": "python3",
        "kernel_manager_class": ThisPython,
        "extra_arguments": ["--log-level=50"],  # each kernel warns of local TCP ports, and of being told to stop
        "progress_bar": watched(),
        "cwd": cwd,
    }
    figures = str(executed.parent.parent)  # the notebook writes to CROSSGAP_FIGURES/NN_name
    try:
        own = f"{figures}/.ipython"  # neither the user's start-up files nor a home that can't be written
        with environment(CROSSGAP_FIGURES=figures, CROSSGAP_HEADLESS="1", IPYTHONDIR=own):
            papermill.execute_notebook(_literal(notebook), _literal(executed), given, **options)
    except papermill.PapermillExecutionError as error:
        return f"cell [{error.exec_count}]: {_brief(error.ename, error.evalue)}"
    except Exception as error:  # a kernel that died or never started: the other notebooks still run
        return _last_begun(executed) + _brief(type(error).__name__, str(error))
    return _widget_error(_forget_places(executed))


def _last_begun(executed: Path) -> str:
    """The cell in which a kernel died: papermill knows only that it did."""
    try:
        cells = nbformat.read(executed, as_version=4).cells
    except (OSError, ValueError):  # none, or half of one, as where the disk is full
        executed.unlink(missing_ok=True)
        return ""
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
    return f"cell [{len(begun)}]: " if begun else ""


def _widget_error(nb: nbformat.NotebookNode) -> str:
    """The first exception that ``interact`` or an Output widget caught: papermill exits 0 with those."""
    models = nb.metadata.get("widgets", {}).get(WIDGETS, {}).get("state", {}).values()
    for output in (output for model in models for output in model["state"].get("outputs", ())):
        if output["output_type"] == "error":
            cell = re.search(r"In ?\[(\d+)\]", _ANSI.sub("", "\n".join(output["traceback"])))
            where = f"a widget of cell [{cell[1]}]" if cell else "a widget"
            return f"{where}: {_brief(output['ename'], output['evalue'])}"
    return ""


def _keep_failed(executed: Path, failed: Path) -> None:
    if executed.exists():
        _forget_places(executed)
        executed.replace(failed)


def _forget_places(executed: Path) -> nbformat.NotebookNode:
    """Takes this machine's folders, which papermill notes, out of the executed notebook."""
    nb = nbformat.read(executed, as_version=4)
    for place in ("input_path", "output_path"):
        nb.metadata.get("papermill", {}).pop(place, None)
    nbformat.write(nb, executed)
    return nb


def _swap(stage: Path, folder: Path) -> None:
    """Puts ``stage`` in the place of ``folder`` by renames; the old one goes away with the temporary folder."""
    old = stage.with_name("old")
    if folder.exists():
        folder.rename(old)
    try:
        stage.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise


def _literal(path: Path) -> str:
    """papermill takes braces in a path for format fields."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _brief(kind: str, message: str) -> str:
    return shorten(f"{kind}: {_ANSI.sub('', message)}", 300, placeholder=" ...")
