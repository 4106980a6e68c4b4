"""A part of what ``make fuzz`` does without end: the same inputs each time."""

import fuzz
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", fuzz.READERS)
def test_mutated_files_end_in_a_sound_reading_or_in_one_sentence(name, tmp_path):
    target = fuzz.Target(name, tmp_path / "now")
    found = [target.input(0, number) for number in range(fuzz.READERS[name].in_tests)]
    assert [wrong.told for wrong in found if wrong] == []


def test_the_harness_finds_what_is_wrong(tmp_path, monkeypatch):
    """An error that is not declared, an empty message, and a reader that does not come to an end."""

    def read(folder):
        text = (folder / "x").read_bytes()
        if text[:3] != b"abc":
            raise fuzz.CrossgapError("") if len(text) % 2 else KeyError(text)
        while len(text) > 100:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.05)
    monkeypatch.setitem(fuzz.READERS, "x", fuzz.Reader(lambda folder: fuzz.miniatures.write(folder / "x", "abc"), read))
    target = fuzz.Target("x", tmp_path / "now")
    first = [target.input(1, number) for number in range(60)]
    assert {wrong.kind.split("-")[1] for wrong in first if wrong} >= {"says", "KeyError", "TooLong"}
    assert [wrong and wrong.told for wrong in first] == [w and w.told for w in map(target.input, [1] * 60, range(60))]
    assert (tmp_path / "now/x").read_bytes() == b"abc"
