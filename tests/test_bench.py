"""What ``crossgap bench`` and the memory budget measure; no test asserts on a clock."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from crossgap_lib import memory, plots
from crossgap_lib.cli import cli
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import invert_batch, job_for
from crossgap_lib.memory import PeakMemory, fitting_batch, parse_bytes
from crossgap_lib.runner import bench

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(autouse=True, scope="module")
def _small_products():
    """The machine's rate is measured on small matrices here: these tests are not about speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "_GEMM", 128)
        yield


@pytest.fixture(scope="module")
def measured():
    return {method: bench.bench(method, "mini-clip", [8, 16], at_least=0.01) for method in ("oti", "ovi")}


@pytest.mark.parametrize("method", ["oti", "ovi"])
def test_both_loops_walk_the_same_path(measured, method):
    assert measured[method]["difference"]["steps"] == 20
    assert measured[method]["difference"]["loss"] < 1e-4
    assert measured[method]["difference"]["features"] < 1e-4


@pytest.mark.parametrize("method", ["oti", "ovi"])
def test_rows_are_consistent(measured, method):
    rows = measured[method]["batches"]
    assert [(row["loop"], row["batch"]) for row in rows] == [(n, b) for b in (8, 16) for n in ("engine", "textbook")]
    for row in rows:
        assert row["us_per_sample_step"] == pytest.approx(1e6 * row["seconds"] / row["batch"])
        assert row["gflops"] == pytest.approx(row["flops"] / row["seconds"] / 1e9)
        assert row["gemm_share"] == pytest.approx(1e9 * row["gflops"] / row["gemm"])
        twin = next(r for r in rows if r["batch"] == row["batch"] and r["loop"] == "textbook")
        assert row["ratio"] == pytest.approx(twin["seconds"] / row["seconds"])
        assert row["ratio_by_count"] == pytest.approx(twin["flops"] / row["flops"])


def test_the_engine_skips_most_of_otis_arithmetic(measured):
    """24 positions a prompt in the textbook, 2 in the engine; OVI keeps all but the last block's unpooled queries."""
    flops = {m: {r["loop"]: r["flops"] for r in measured[m]["batches"] if r["batch"] == 16} for m in measured}
    assert 10 < flops["oti"]["textbook"] / flops["oti"]["engine"] < 16
    assert 1.02 < flops["ovi"]["textbook"] / flops["ovi"]["engine"] < 1.3


def test_flops_by_hand(mini):
    """The textbook's OTI step of one sample: matrix products of 3 blocks over 24 positions, forward and backward.

    The lower bound leaves out attention, which torch 2.6 does not count on the CPU.
    """
    width, length, mlp = 128, 24, 4
    block = 2 * length * width * width * (3 + 1 + 2 * mlp)  # qkv, out, mlp
    attention = 2 * 2 * length * length * width
    products = 3 * block + 2 * width * width
    forward = products + 3 * attention
    counted = bench.sample_flops(bench.oti_problem(mini, 1), "textbook")
    assert 2 * products <= counted <= 2.2 * forward + 3 * attention


def test_the_compiled_engine_is_timed_beside_the_plain_one(monkeypatch):
    """By a compiler that compiles nothing; it sees the batch size alone, with and without gradients."""
    sizes = []

    def compiled(encode, **_):
        return lambda tokens: sizes.append(len(tokens)) or encode(tokens)

    monkeypatch.setattr(torch, "compile", compiled)
    result = bench.bench("oti", "mini-clip", [16], at_least=0.01, compile=True)
    rows = {row["loop"]: row for row in result["batches"]}
    assert list(rows) == ["engine", "compiled", "textbook"]
    assert rows["compiled"]["flops"] == rows["engine"]["flops"]
    assert rows["compiled"]["steps"] >= 18  # ten before and ten after the textbook, of which each first warms up
    assert set(sizes) == {16}
    labels = [line.get_label() for line in plots.bench_curves(result).axes[0].lines]
    assert sorted(labels) == sorted(rows)


def test_the_command_writes_json_and_a_figure(tmp_path):
    args = ["bench", "oti", "--arch", "mini-clip", "--batch", "8", "--seconds", "0.01"]
    done = CliRunner().invoke(cli, [*args, "--json", str(tmp_path / "b.json"), "--figure", str(tmp_path / "b.png")])
    assert done.exit_code == 0, done.output
    assert "times textbook" in done.output
    assert json.loads((tmp_path / "b.json").read_text())["batches"][0]["loop"] == "engine"
    assert (tmp_path / "b.png").stat().st_size > 5000
    piped = CliRunner().invoke(cli, [*args, "--json", "-"])
    assert json.loads(piped.stdout)["method"] == "oti"


def test_the_command_refuses():
    for args, words in ((["--batch", "8,x"], "--batch takes sizes"), (["--arch", "ViT-B-33"], "ViT-B-32")):
        done = CliRunner().invoke(cli, ["bench", "oti", *args])
        assert done.exit_code == 1
        assert words in done.output


def test_the_figure_shows_both_loops(measured):
    result = measured["oti"] | {"lengths": measured["oti"]["batches"]}
    figure = plots.bench_curves(result)
    assert len(figure.axes) == 2
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[0].lines}
    expected = [r["us_per_sample_step"] for r in measured["oti"]["batches"] if r["loop"] == "engine"]
    assert lines["engine"].tolist() == expected
    assert set(lines) == {"engine", "textbook"}


# ---------------------------------------------------------------- memory


def test_peak_memory_sees_what_was_taken():
    with PeakMemory(CPU) as peak:
        block = np.ones(64 * MIB, dtype=np.uint8)
        del block
    if peak.bytes is None:
        pytest.skip("memory is measured on Linux and on GPUs")
    assert 60 * MIB < peak.bytes < 80 * MIB
    with PeakMemory(CPU) as quiet:
        pass
    assert quiet.bytes < 8 * MIB


@pytest.mark.parametrize(
    ("text", "expected"),
    [("2G", 2 * 2**30), ("800M", 800 * MIB), ("1.5 GiB", 3 * 2**29), ("64kb", 65536), ("1024", 1024)],
)
def test_amounts_of_memory(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "much", "-3G", "2X", "nan", "inf", "0"])
def test_what_is_no_amount(text):
    with pytest.raises(CrossgapError, match="no amount of memory"):
        parse_bytes(text)


def test_the_budget_is_kept_and_used(monkeypatch):
    """A run of n samples takes 10 MiB + n MiB: by a pretended measurement, then by a real one."""
    asked = []
    monkeypatch.setattr(memory, "_peak", lambda run, n, device: asked.append(n) or (10 + n) * MIB)
    assert fitting_batch(lambda n: None, 100 * MIB, CPU) == 64
    assert fitting_batch(lambda n: None, 10_000 * MIB, CPU, most=512) == 512
    with pytest.raises(CrossgapError, match="8 samples take 18 MiB here"):
        fitting_batch(lambda n: None, 15 * MIB, CPU)


def test_the_sizes_tried_are_the_sizes_run(monkeypatch):
    """A shard of 1000 rows: the whole of it or a power of two, never what halving 1000 leads to, and never below 8."""
    asked = []
    monkeypatch.setattr(memory, "_peak", lambda run, n, device: asked.append(n) or (10 + n) * MIB)
    for budget, expected in ((20, 8), (30, 16), (900, 512), (1010, 1000), (5000, 1000)):
        asked.clear()
        assert fitting_batch(lambda n: None, budget * MIB, CPU, most=1000) == expected
        assert expected in asked
        assert set(asked) <= {8, 16, 32, 64, 128, 256, 512, 1000}
    asked.clear()
    with pytest.raises(CrossgapError, match="8 samples take 18 MiB here, more than the budget of 17 MiB"):
        fitting_batch(lambda n: None, 17 * MIB, CPU, most=1000)
    assert asked == [8]
    assert fitting_batch(lambda n: None, 20 * MIB, CPU, most=5) == 5
    with pytest.raises(CrossgapError, match="5 samples take 15 MiB"):
        fitting_batch(lambda n: None, 14 * MIB, CPU, most=5)


class FakeGpus:
    """Stands in for torch.cuda and notes which device each function was asked about."""

    def __init__(self):
        self.asked = {}

    def __getattr__(self, name):
        def function(device=None):
            self.asked[name] = device
            return f"stream of {device}" if name == "current_stream" else 100

        return function

    def Event(self, enable_timing):
        gpus = self

        class Event:
            def record(self, stream=None):
                gpus.asked["record"] = stream

            def elapsed_time(self, other):
                return 5.0

        return Event()


def test_the_gpu_that_was_asked_for_is_measured(monkeypatch):
    """Without a device torch.cuda speaks of the current one, the first, whichever the model is on."""
    gpus, second = FakeGpus(), torch.device("cuda:1")
    monkeypatch.setattr(torch, "cuda", gpus)
    with PeakMemory(second) as peak:
        pass
    assert peak.bytes == 0
    functions = {"synchronize", "reset_peak_memory_stats", "memory_allocated", "max_memory_allocated"}
    assert gpus.asked == dict.fromkeys(functions, second)
    gpus.asked.clear()
    watch = bench.Stopwatch(lambda tokens: tokens, second)
    watch(torch.zeros(1))
    watch(torch.zeros(1))
    assert watch.steps() == [0.005]
    assert gpus.asked == {"current_stream": second, "record": "stream of cuda:1", "synchronize": second}


def test_a_captured_loop_is_timed_without_its_set_up(monkeypatch):
    """A run of n steps takes 7 s of set-up and 0.01 s a step; no step begins a forward pass that could be marked."""
    problem = SimpleNamespace(model=SimpleNamespace(device="cuda"), run=None)
    monkeypatch.setattr(bench, "partial", lambda run, *asked: asked)
    monkeypatch.setattr(bench, "_seconds", lambda asked, device: 7 + 0.01 * asked[-1])
    assert bench._step_seconds(problem, "engine", None, 8, 20) == pytest.approx([0.01] * 20)


def test_a_wrong_forecast_is_noticed(monkeypatch):
    """Memory that grows faster than two small runs promise: the chosen size is tried before it is believed."""
    taken = lambda n: (n if n < 500 else 3 * n) * MIB  # noqa: E731
    monkeypatch.setattr(memory, "_peak", lambda run, n, device: taken(n))
    assert fitting_batch(lambda n: None, 1000 * MIB, CPU) == 256


def test_a_budget_for_real(mini):
    job = job_for(mini, "oti", 4, 2)

    def run(n):
        invert_batch(job, Embeddings(torch.ones(n, 128)), CPU)

    batch = fitting_batch(run, 60 * MIB, CPU, most=1024)
    assert memory._peak(run, batch, CPU) < 75 * MIB
    assert batch >= 32
