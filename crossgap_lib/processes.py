"""Work side by side in processes of their own, the environment that they inherit, and folders that only one may use."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from crossgap_lib.errors import CrossgapError

T = TypeVar("T")
_SPAWN = get_context("spawn")  # a fork would inherit the threads' locks


def side_by_side(
    work: Callable[..., T], tasks: Sequence[tuple], jobs: int, *, lost: Callable[[tuple, int], T]
) -> Iterator[T]:
    """``work(*task)`` of each task as it ends, ``jobs`` at once, each with its share of the cores.

    Ctrl-C reaches all processes: none begins any more, and those that run clean up before this returns. (A pool of
    workers hangs then, and queues ahead.) Bars are off, since they would overwrite each other.

    Args:
        lost: what stands for the result of a task whose process was killed, from the task and the exit code.

    Raises:
        Exception: what ``work`` raised, when the other processes have ended.
    """
    waiting, begun = list(tasks), {}
    share = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    try:
        with environment(CROSSGAP_HEADLESS="1", OMP_NUM_THREADS=share):
            while waiting or begun:
                while waiting and len(begun) < jobs:
                    task = waiting.pop(0)
                    end, process = _begin(work, task)
                    begun[end] = process, task
                for end in wait(begun):
                    process, task = begun.pop(end)
                    told = _ended(end, process)
                    yield lost(task, process.exitcode) if told is None else told[0]
    finally:
        for process, _ in begun.values():
            process.join()


def _begin(work: Callable, task: tuple) -> tuple[Connection, BaseProcess]:
    """A process, and where it will tell what came of the task."""
    here, there = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_tell, args=(there, work, *task))
    process.start()
    there.close()
    return here, process


def _tell(end: Connection, work: Callable, *task: Any) -> None:
    with suppress(KeyboardInterrupt), end:  # whoever pressed Ctrl-C is told by the first process
        try:
            end.send((work(*task),))
        except Exception as error:
            end.send(error)


def _ended(end: Connection, process: BaseProcess) -> tuple | None:
    """The result, in a tuple of one; None where the process could not tell."""
    with end:
        try:
            told = end.recv()
        except EOFError:
            told = None
    process.join()
    if isinstance(told, Exception):
        raise told
    return told


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Environment variables that a process started meanwhile inherits."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """The folder is ours for as long as this process lives; it is made where it is missing.

    Raises:
        CrossgapError: it is another's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise CrossgapError(f"Another process is writing into {folder} just now; wait for it to end.") from error
