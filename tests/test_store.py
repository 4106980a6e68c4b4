"""Files written whole or not at all, and the seals by which a change of a bit is noticed."""

import os
import signal
from contextlib import suppress
from multiprocessing import get_context

import numpy as np
import pytest
from safetensors.numpy import load_file

from crossgap_lib.errors import CrossgapError
from crossgap_lib.store import NotWritten, pack, seal, unpack, whole


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def begin_and_die(path):
    with whole(path) as part:
        part.write_text("half")
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_has_left_goes_and_what_others_write_stays(tmp_path):
    child = get_context("spawn").Process(target=begin_and_die, args=(tmp_path / "x.csv",))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    (left,) = names(tmp_path)
    (tmp_path / ".x.mine.csv").write_text("somebody's own")
    with whole(tmp_path / "x.csv") as first:
        assert left not in names(tmp_path)
        first.write_text("1")
        with whole(tmp_path / "x.csv") as second:
            assert first != second
            second.write_text("2")
        assert first.exists()
    assert names(tmp_path) == [".x.mine.csv", "x.csv"]
    assert (tmp_path / "x.csv").read_text() == "1"


def test_links_are_replaced_and_not_followed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years")
    (tmp_path / "x.csv").symlink_to(tmp_path / "thesis.tex")
    with whole(tmp_path / "x.csv") as part:
        assert len(part.name) >= len(".x..csv") + 16, "a name that nobody can foresee"
        part.write_text("1")
    assert not (tmp_path / "x.csv").is_symlink()
    assert (tmp_path / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("name", ["x" * 250, "猫" * 80 + ".npz", "no suffix", ".hidden", "a.b.c"])
def test_names_of_any_length_and_script(tmp_path, name):
    before = os.umask(0o027)
    try:
        with whole(tmp_path / "deeper" / name) as part:
            part.write_text("1")
    finally:
        os.umask(before)
    assert names(tmp_path / "deeper") == [name]
    assert (tmp_path / "deeper" / name).stat().st_mode & 0o777 == 0o640


def test_a_disk_that_refuses_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with (
        pytest.raises(NotWritten, match=r"file/x\.csv can't be written: File exists"),
        whole(tmp_path / "file/x.csv"),
    ):
        pass
    with suppress(KeyboardInterrupt), whole(tmp_path / "x.csv") as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["file"]


ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([1, 2], np.int64), "empty": np.zeros((0, 4), np.float32)}


@pytest.mark.parametrize(
    ("change", "facts"),
    [
        ({"a": ARRAYS["a"].reshape(3, 2)}, "f"),
        ({"a": ARRAYS["a"].view(np.int64)}, "f"),
        ({"a": np.nextafter(ARRAYS["a"], 9)}, "f"),
        ({"b": ARRAYS["b"][::-1]}, "f"),
        ({"c": ARRAYS["b"]}, "f"),
        ({"empty": np.zeros((4, 0), np.float32)}, "f"),
        ({}, "g"),
    ],
)
def test_any_change_gives_another_seal(change, facts):
    assert seal(ARRAYS, "f") == seal(dict(reversed(ARRAYS.items())), "f")
    assert seal(ARRAYS | change, facts) != seal(ARRAYS, "f")


def test_a_packed_file_is_plain_safetensors_and_verified(tmp_path):
    """Its layout is the library's, so that earlier versions and others read it."""
    path = tmp_path / "x.safetensors"
    content = pack(ARRAYS, "made from this")
    path.write_bytes(content)
    for read in (load_file(path), unpack(path, "made from this")):
        assert read.keys() == ARRAYS.keys()
        assert all(np.array_equal(read[name], ARRAYS[name]) for name in ARRAYS)
    with pytest.raises(CrossgapError, match=r"x\.safetensors is sound, but of another model"):
        unpack(path, "made from that")
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :])
        with pytest.raises(CrossgapError, match=r"x\.safetensors is "):
            unpack(path, "made from this")
