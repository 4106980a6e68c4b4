"""``crossgap figures``: papermill runs of the notebooks.

A notebook writes to a folder of its own beside the old figures, which are replaced only when all of it went well.
What papermill lets pass is refused here: unknown parameters, and errors inside widgets.
"""

import ast
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, file_digest
from itertools import starmap
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import shorten
from typing import Any

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from traitlets import default

from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.paths import DATA, FIGURES, MINIS, NOTEBOOKS
from crossgap_lib.progress import watched

PACKAGE = Path(__file__).resolve().parent
RECORD = ".run.json"  # in each notebook's folder: what the figures were made from
WIDGETS = "application/vnd.jupyter.widget-state+json"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_FOLDERS = re.compile(r"(?<![^\s:,;=('\"\[])/(?:[^/:,;]+/)*")  # the folders of an absolute path, anywhere in a spec


@dataclass(frozen=True)
class Run:
    """What became of one notebook."""

    name: str
    status: str  # "fresh" (nothing to do), "ran" or "failed"
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
    out: Path = FIGURES,
    cwd: Path | None = None,
    report: Callable[[Run], None] | None = None,
) -> list[Run]:
    """Runs the notebooks that are stale and writes ``out/NN_name/``; one that fails does not stop the others.

    Args:
        only: notebooks by number or name ("1", "01", "01_dogs_vs_cats"); all where empty.
        parameters: handed to each chosen notebook that declares them (all must, if ``only`` names notebooks).
        extra: handed to every chosen notebook, each of which must declare them.
        force: run those that are fresh, too.
        jobs: how many run at once, each with its share of the cores.
        cwd: where the kernels run, so that relative paths in parameters start there; the current folder by default.
        report: called with each Run as soon as it is known.

    Returns:
        The runs in the notebooks' order.

    Raises:
        CrossgapError: an unknown notebook, a parameter that nobody declares, a notebook that can't be read.
    """
    out, cwd = Path(out).absolute(), Path(cwd or Path.cwd()).absolute()
    declared = {path: declared_parameters(path) for path in _choose(tuple(only), Path(notebooks))}
    given = _share_out(declared, parameters or {}, extra or {}, explicit=bool(only))
    out.mkdir(parents=True, exist_ok=True)
    asked = [(path, given[path], defaults | given[path], force, out, cwd) for path, defaults in declared.items()]
    runs = {}
    for run in starmap(_run, asked) if jobs == 1 else _side_by_side(asked, jobs):
        runs[run.name] = run
        if report:
            report(run)
    return [runs[path.stem] for path in declared]


def list_notebooks(folder: Path = NOTEBOOKS) -> list[Path]:
    """The numbered notebooks of a folder, in order."""
    return sorted(Path(folder).glob("[0-9][0-9]_*.ipynb"))


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


def declared_parameters(notebook: Path) -> dict[str, Any]:
    """Name -> default of the notebook's ``parameters`` cell. Raises CrossgapError where it can't be read."""
    try:
        found = papermill.inspect_notebook(_literal(notebook))
    except ValueError as error:  # no JSON, no notebook, or no kernel and language in it
        raise CrossgapError(f"{notebook} can't be read as a notebook: {shorten(str(error), 200)}") from error
    return {name: _value(entry["default"]) for name, entry in found.items()}


def _value(source: str) -> Any:
    try:
        return ast.literal_eval(source)
    except (ValueError, SyntaxError):
        return source


def _share_out(
    declared: Mapping[Path, Mapping], parameters: Mapping, extra: Mapping, *, explicit: bool
) -> dict[Path, dict[str, Any]]:
    """What each notebook is handed; refuses what papermill would only warn of."""
    if twice := parameters.keys() & extra.keys():
        raise CrossgapError(f"{', '.join(sorted(twice))}: given both as an option and with -p; leave one out.")
    for name in [*parameters, *extra]:
        lacking = [path for path, known in declared.items() if name not in known]
        if lacking and (explicit or name in extra or len(lacking) == len(declared)):
            raise CrossgapError(_refusal(name, lacking, declared))
    everything = {**parameters, **extra}
    return {path: {k: v for k, v in everything.items() if k in known} for path, known in declared.items()}


def _refusal(name: str, lacking: list[Path], declared: Mapping[Path, Mapping]) -> str:
    takes = "; ".join(f"{path.stem} takes {', '.join(known) or 'none'}" for path, known in declared.items())
    known = {parameter for parameters in declared.values() for parameter in parameters}
    return f"No parameter {name!r} in {', '.join(p.stem for p in lacking)}.{did_you_mean(name, known)} ({takes})"


# ---------------------------------------------------------------- several at once


def _side_by_side(asked: list[tuple], jobs: int) -> Iterator[Run]:
    """Each run as it ends, each in a process of its own; Ctrl-C reaches all, and they clean up before this returns."""
    waiting, begun = list(asked), {}
    try:
        with _one_of(jobs):
            while waiting or begun:
                while waiting and len(begun) < jobs:
                    end, *process = _begin(waiting.pop(0))
                    begun[end] = process
                yield from (_ended(end, *begun.pop(end)) for end in wait(begun))
    finally:
        for process, _ in begun.values():
            process.join()


def _begin(each: tuple) -> tuple[Connection, BaseProcess, str]:
    """Where the new process will tell what became of its notebook, the process, the notebook's name."""
    spawn = get_context("spawn")
    here, there = spawn.Pipe(duplex=False)
    process = spawn.Process(target=_tell, args=(there, *each))
    process.start()
    there.close()
    return here, process, each[0].stem


def _tell(end: Connection, *each: Any) -> None:
    with suppress(KeyboardInterrupt), end:  # whoever pressed Ctrl-C is told by the first process
        try:
            end.send(_run(*each))
        except Exception as error:
            end.send(error)


def _ended(end: Connection, process: BaseProcess, name: str) -> Run:
    with end:
        try:
            told = end.recv()
        except EOFError:
            told = None
    process.join()
    if isinstance(told, Exception):
        raise told
    return told or Run(name, "failed", message=f"its process, which ended with {process.exitcode}")


def _one_of(jobs: int) -> AbstractContextManager:
    """The environment of a process among ``jobs``: bars would overwrite each other, threads wait for each other."""
    share = max(1, (os.cpu_count() or 1) // jobs)
    return _environment(CROSSGAP_HEADLESS="1", OMP_NUM_THREADS=os.environ.get("OMP_NUM_THREADS", str(share)))


# ---------------------------------------------------------------- one notebook


def _run(notebook: Path, given: dict, values: dict, force: bool, out: Path, cwd: Path) -> Run:
    name = notebook.stem
    folder, failed = out / name, out / f"{name}.failed.ipynb"
    key = _key(notebook, values, cwd)
    if not force and not failed.exists() and _is_fresh(folder, key):
        return Run(name, "fresh")
    started = time.monotonic()
    with TemporaryDirectory(prefix=f".{name}.part-", dir=out, ignore_cleanup_errors=True) as part:
        stage = Path(part, name)
        stage.mkdir()
        problem = _execute(notebook, stage / notebook.name, given, cwd)
        seconds = time.monotonic() - started
        if problem:
            _keep_failed(stage / notebook.name, failed)
            return Run(name, "failed", seconds, problem)
        _write_record(stage, key, values, seconds)
        _swap(stage, folder)
    failed.unlink(missing_ok=True)
    return Run(name, "ran", seconds)


def _execute(notebook: Path, executed: Path, given: dict, cwd: Path) -> str:
    """Runs ``notebook`` into the file ``executed``; returns where and why it failed, or ""."""
    options = {
        "kernel_name": "python3",
        "kernel_manager_class": _ThisPython,
        "extra_arguments": ["--log-level=50"],  # each kernel warns of local TCP ports, and of being told to stop
        "progress_bar": watched(),
        "cwd": cwd,
    }
    figures = str(executed.parent.parent)  # the notebook writes to CROSSGAP_FIGURES/NN_name
    try:
        with _environment(CROSSGAP_FIGURES=figures, CROSSGAP_HEADLESS="1"):
            papermill.execute_notebook(_literal(notebook), _literal(executed), given, **options)
    except papermill.PapermillExecutionError as error:
        return f"cell [{error.exec_count}]: {_brief(error.ename, error.evalue)}"
    except Exception as error:  # a kernel that died or never started: the other notebooks still run
        return _last_begun(executed) + _brief(type(error).__name__, str(error))
    return _widget_error(_forget_places(executed))


def _last_begun(executed: Path) -> str:
    """The cell in which a kernel died: papermill knows only that it did."""
    if not executed.exists():  # as where the disk is full
        return ""
    cells = nbformat.read(executed, as_version=4).cells
    begun = [c for c in cells if c.cell_type == "code" and c.metadata.get("papermill", {}).get("start_time")]
    return f"cell [{len(begun)}]: " if begun else ""


class _ThisPython(AsyncKernelManager):
    """Kernels of the running interpreter, whatever kernelspec the machine has under the name python3."""

    @default("kernel_spec_manager")
    def _native_only(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[], parent=self)


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


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    """Environment variables that a kernel started meanwhile inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _literal(path: Path) -> str:
    """papermill takes braces in a path for format fields."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _brief(kind: str, message: str) -> str:
    return shorten(f"{kind}: {_ANSI.sub('', message)}", 300, placeholder=" ...")


# ---------------------------------------------------------------- staleness


def _is_fresh(folder: Path, key: str) -> bool:
    record = read_record(folder)
    return record.get("key") == key and all((folder / name).is_file() for name in record["files"])


def read_record(folder: Path) -> dict[str, Any]:
    """What ``folder`` was made from: key, files, finished (UTC), seconds, parameters; {} where nothing says so."""
    try:
        return json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def _write_record(folder: Path, key: str, values: Mapping[str, Any], seconds: float) -> None:
    record = {
        "key": key,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(seconds, 1),
        "parameters": {name: _FOLDERS.sub("", str(value)) for name, value in values.items()},
        "files": sorted(path.relative_to(folder).as_posix() for path in _files(folder)),
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def _key(notebook: Path, values: Mapping[str, Any], cwd: Path) -> str:
    """Changes with the notebook's cells, the library, the parameters, the files they name and the papers' tables."""
    digest = blake2b(digest_size=16)
    for fact in _facts(notebook, values, cwd):
        digest.update(repr(fact).encode() + b"\0")
    return digest.hexdigest()


def _facts(notebook: Path, values: Mapping[str, Any], cwd: Path) -> Iterator[object]:
    for cell in nbformat.read(notebook, as_version=4).cells:
        yield cell.cell_type, cell.source, cell.metadata.get("tags", [])
    yield sorted(values.items())
    yield from _contents(PACKAGE, ".py")
    yield from _contents(DATA / "published")
    for text in _texts(values.values()):
        yield from _input_files(text, cwd)


def _texts(values: Iterable[Any]) -> Iterator[str]:
    for value in values:
        if isinstance(value, str):
            yield from value.split(";")  # several data sets, as the command line gives them
        elif isinstance(value, list | tuple):
            yield from _texts(value)


def _input_files(text: str, cwd: Path) -> Iterator[object]:
    """What is in the files that a parameter names: "mini-clip", "features.npz", "ViT-B-32,PATH", "folder:PATH"."""
    for mini in re.findall(r"mini-[\w-]+", text):
        yield from _contents(MINIS / mini)
    if os.path.isfile(bare := _resolve(text, cwd)):
        yield _content(bare)
    if os.path.isfile(weights := _resolve(text.partition(",")[2], cwd)):
        yield _stamp(weights)
    prefix, _, rest = text.partition(":")
    if rest and prefix != "world":
        yield from _listing(_resolve(rest, cwd))


def _resolve(name: str, cwd: Path) -> Path:
    return cwd / os.path.expanduser(name)


def _listing(path: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """Size and time of every file: photo folders are too large to be read for this."""
    if os.path.isfile(path.parent):  # captions:FILE/split
        path = path.parent
    yield from ((file.relative_to(path).as_posix(), _stamp(file)) for file in _files(path))


def _files(path: Path) -> list[Path]:
    """The file itself, or every file below a folder; none where nothing is."""
    if os.path.isfile(path):
        return [path]
    return sorted(p for p in path.rglob("*") if p.is_file()) if os.path.isdir(path) else []


def _contents(folder: Path, ending: str = "") -> Iterator[tuple[str, str]]:
    for path in _files(folder):
        if path.name.endswith(ending) and "__pycache__" not in path.parts:
            yield path.relative_to(folder).as_posix(), _content(path)


def _content(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, blake2b).hexdigest()


def _stamp(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
