"""Small tasks in true processes; Ctrl-C as a terminal sends it, to all of them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crossgap_lib.processes import side_by_side

SLOW = """\
import signal, sys, time
from pathlib import Path
from crossgap_lib.processes import side_by_side

def work(name):
    Path(name).touch()
    try:
        time.sleep(120)
    finally:
        Path(f"{name}.cleaned").touch()

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it, and so do we then
    list(side_by_side(work, [("1",), ("2",), ("3",)], 2, lost=print))
"""


def lost(task: tuple, exit_code: int) -> tuple:
    return "lost", task, exit_code


def test_each_task_is_done_once_and_lost_processes_are_told():
    done = list(side_by_side(divmod, [(7, 2), (9, 4), (5, 5)], 2, lost=lost))
    assert sorted(done) == [(1, 0), (2, 1), (3, 1)]
    assert list(side_by_side(os._exit, [(3,)], 2, lost=lost)) == [("lost", (3,), 3)]


def test_nothing_is_a_result_too():
    assert list(side_by_side(time.sleep, [(0,)], 2, lost=lost)) == [None]


def test_errors_come_back():
    with pytest.raises(ZeroDivisionError):
        list(side_by_side(divmod, [(1, 0)], 2, lost=lost))


def test_the_cores_are_shared_out_and_the_environment_comes_back(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert list(side_by_side(os.getenv, [("OMP_NUM_THREADS",)], 2, lost=lost)) == ["3"]
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert list(side_by_side(os.getenv, [("OMP_NUM_THREADS",)], 2, lost=lost)) == ["5"]


def until(holds, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_ctrl_c_ends_all_cleaned_up_and_begins_no_more(tmp_path: Path):
    (tmp_path / "slow.py").write_text(SLOW)
    run = subprocess.Popen([sys.executable, "slow.py"], cwd=tmp_path, start_new_session=True, stderr=subprocess.PIPE)
    try:
        until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists())
        os.killpg(run.pid, signal.SIGINT)
        said = run.communicate(timeout=60)[1].decode()
    finally:
        run.kill()
    assert said.count("KeyboardInterrupt") == 1, "the children say nothing"
    assert {p.name for p in tmp_path.iterdir()} == {"slow.py", "1", "2", "1.cleaned", "2.cleaned"}
