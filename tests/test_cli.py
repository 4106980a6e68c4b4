"""The command line with everything behind it replaced: what it hands on, prints and exits with."""

import errno
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import crossgap_lib.cli as cli
from crossgap_lib import pretrain
from crossgap_lib.datasets import load as datasets
from crossgap_lib.embeddings import encode as encoding
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion import oti_ovi
from crossgap_lib.models import load as models
from crossgap_lib.pretrain import grid
from crossgap_lib.runner import doctor, site
from crossgap_lib.runner import notebooks as runner
from crossgap_lib.runner.notebooks import Run


def run(*arguments: str):
    return CliRunner().invoke(cli.cli, arguments)


def raising(error: BaseException):
    def raises(*_, **__):
        raise error

    return raises


# ---------------------------------------------------------------- manners


def test_help_loads_nothing_heavy():
    code = "import sys, crossgap_lib.cli; print({'torch', 'open_clip', 'papermill'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_commands_are_those_that_work():
    known = {"figures", "embed", "pretrain", "zoo", "fetch", "datasets", "invert", "bench", "dof", "doctor"}
    assert set(cli.cli.commands) == known
    for name in cli.cli.commands:
        assert run(name, "--help").exit_code == 0


def test_errors_for_people_are_one_line(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", raising(CrossgapError("no such\nmodel")))
    result = run("fetch", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", "Error: no such model\n")


def test_ctrl_c_is_130_and_one_line(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", raising(KeyboardInterrupt()))
    result = run("fetch", "x")
    assert (result.exit_code, result.stderr) == (130, "Interrupted.\n")


def test_a_full_disk_is_one_line(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", raising(OSError(errno.ENOSPC, "No space left on device", "/x/y")))
    result = run("fetch", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    told = "Error: /x/y can't be used (No space left on device): make room, or name another place.\n"
    assert result.stderr == told


def test_warnings_are_one_line_without_code():
    code = (
        "import warnings, click\n"
        "from crossgap_lib import cli\n"
        "cli.cli.add_command(click.Command('warn', callback=lambda: warnings.warn('two\\nlines')))\n"
        "cli.main()"
    )
    ran = subprocess.run([sys.executable, "-c", code, "warn"], capture_output=True, text=True, check=True)
    assert ran.stderr == "Warning: two lines\n"


def test_bugs_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", raising(ZeroDivisionError("bug")))
    assert isinstance(run("fetch", "x").exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("3", 3), ("1e-3", 1e-3), ("true", True), ("False", False), ("None", None), ("null", None)),
        *(("[1, 2, 8]", [1, 2, 8]), ("", ""), ("'5'", "5"), ("world:all", "world:all")),
        *(("ViT-B-32,openai", "ViT-B-32,openai"), ("2024-01-02", "2024-01-02"), ("*x: [", "*x: [")),
        *((text, text) for text in ("a: b", "{a: b}", "[a: b]", "yes", "off", "1:30", "0x10", "a #b", "folder:C: D")),
    ],
)
def test_typed(text, value):
    assert cli.typed(text) == value
    assert type(cli.typed(text)) is type(value)


# ---------------------------------------------------------------- figures


@pytest.fixture
def figures(monkeypatch, tmp_path):
    """Calls of run_notebooks; ``runs`` is what they return."""
    seen = SimpleNamespace(calls=[], runs=[Run("01_a", Path("here"), "fresh"), Run("02_b", Path("here"), "ran", 12.3)])

    def run_notebooks(only, parameters, extra, *, report, **options):
        seen.calls.append((only, parameters, extra, options))
        for each in seen.runs:
            report(each)
        return seen.runs

    monkeypatch.setattr(runner, "run_notebooks", run_notebooks)
    monkeypatch.setattr(site, "write_index", lambda out, _: out / "index.html")
    monkeypatch.chdir(tmp_path)
    return seen


def test_figures_hands_on_only_what_was_given(figures, tmp_path):
    (tmp_path / "f.npz").touch()
    options = "--only 01 --only 2 --model m --embeddings f.npz -p steps 5 -p names [a,b] --force --jobs 3 --out here"
    assert run("figures", *options.split()).exit_code == 0
    only, parameters, extra, more = figures.calls[0]
    assert only == ("01", "2")
    assert parameters == {"model": "m", "embeddings": "f.npz"}
    assert extra == {"steps": 5, "names": ["a", "b"]}
    assert (more["force"], more["jobs"]) == (True, 3)


def test_figures_prints_a_line_a_notebook_and_the_index(figures):
    result = run("figures", "--out", "here")
    lines = [line.split(maxsplit=1) for line in result.stdout.splitlines()]
    assert lines == [["01_a", "fresh"], ["02_b", "ran in 12 s"], ["Figures:", "here/index.html"]]


def test_figures_exits_1_when_a_notebook_failed(figures, tmp_path):
    figures.runs.append(Run("03_c", Path("here"), "failed", 1.0, "cell [4]: ValueError: no cat"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here/03_c.failed.ipynb").touch()
    result = run("figures", "--out", "here")
    assert result.exit_code == 1
    assert "failed in cell [4]: ValueError: no cat" in result.stdout
    assert "see here/03_c.failed.ipynb" in result.stdout


def test_figures_refuses_a_missing_embeddings_file(figures):
    result = run("figures", "--embeddings", "nowhere.npz")
    assert result.exit_code == 2
    assert "nowhere.npz" in result.stderr
    assert figures.calls == []


# ---------------------------------------------------------------- embed, pretrain, fetch, doctor


@pytest.fixture
def encoders(monkeypatch, tmp_path):
    monkeypatch.setattr(models, "load_model", lambda spec, device: (spec, device))
    monkeypatch.setattr(datasets, "load_dataset", lambda spec: spec)
    pictures = Embeddings(torch.eye(3, 4), meta={"skipped": ["bad.jpg: truncated"]})
    monkeypatch.setattr(encoding, "encode_images", lambda model, data: pictures)
    monkeypatch.setattr(
        encoding, "encode_texts", lambda model, texts: Embeddings(torch.eye(len(texts)), texts=texts, modality="text")
    )
    monkeypatch.chdir(tmp_path)


def test_embed_pictures(encoders):
    result = run("embed", "--model", "m", "--data", "folder:x", "--out", "f.npz")
    assert result.exit_code == 0
    assert "f.npz: n = 3, d = 4" in result.stdout
    assert "1 of 4 pictures could not be decoded" in result.stdout
    assert len(Embeddings.load("f.npz")) == 3


def test_embed_texts_a_line_each(encoders, tmp_path):
    (tmp_path / "t.txt").write_bytes("\ufeffa dog\r\n\r\n  une écharpe \n".encode())
    result = run("embed", "--model", "m", "--texts", "t.txt", "--out", "sub/f.safetensors")
    assert result.exit_code == 0
    assert list(Embeddings.load("sub/f.safetensors").texts) == ["a dog", "une écharpe"]


@pytest.mark.parametrize("content", [b"", b" \n\n", b"\xff\xfe\x00"])
def test_embed_refuses_files_without_text(encoders, tmp_path, content):
    (tmp_path / "t.txt").write_bytes(content)
    result = run("embed", "--model", "m", "--texts", "t.txt", "--out", "f.npz")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: t.txt")


@pytest.mark.parametrize(
    ("out", "match"), [("f.csv", "Can't save f.csv"), ("taken/f.npz", "taken/f.npz can't be written: File exists")]
)
def test_embed_knows_before_encoding_where_it_can_write(monkeypatch, tmp_path, out, match):
    monkeypatch.setattr(cli, "_embed", raising(AssertionError("encoded")))
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("a file, and no folder")
    result = run("embed", "--model", "m", "--data", "d", "--out", out)
    assert result.exit_code == 1
    assert match in result.output


@pytest.mark.parametrize("choice", [[], ["--data", "d", "--texts", __file__]])
def test_embed_wants_pictures_or_texts(choice):
    result = run("embed", "--model", "m", "--out", "f.npz", *choice)
    assert result.exit_code == 2
    assert "either --data or --texts" in result.stderr


def test_saved_formats_are_those_that_embeddings_write(tmp_path):
    for ending in cli.SAVED:
        Embeddings(torch.eye(2)).save(tmp_path / f"f{ending}")


def test_pretrain_hands_on_typed_changes(monkeypatch, tmp_path):
    calls = []
    monkeypatch.setattr(pretrain, "pretrain", lambda *a, **k: calls.append((a, k)) or tmp_path / "x")
    result = run("pretrain", "mini-clip", "--out", str(tmp_path), "--set", "epochs=2", "--set", "lr=1e-4")
    assert result.stdout == f"mini-clip is in {tmp_path / 'x'}\n"
    options = {"out": tmp_path, "device": None, "overrides": {"epochs": 2, "lr": 1e-4}}
    assert calls == [(("mini-clip",), options)]


def test_pretrain_trains_a_grid(monkeypatch, tmp_path):
    calls, file = [], tmp_path / "g.toml"
    file.touch()
    monkeypatch.setattr(grid, "train_grid", lambda *a, **k: calls.append((a, k)) or tmp_path / "g.parquet")
    result = run("pretrain", "--grid", str(file), "--jobs", "2")
    assert result.stdout == f"The measurements are in {tmp_path / 'g.parquet'}\n"
    assert calls == [((file,), {"jobs": 2, "device": None, "report": cli._echo})]


@pytest.mark.parametrize(
    "words", [[], ["mini-clip", "--grid"], ["--set", "epochs=2", "--grid"], ["--out", "x", "--grid"]]
)
def test_pretrain_wants_a_name_or_a_grid(words, tmp_path):
    (tmp_path / "g.toml").touch()
    result = run("pretrain", *words, *([str(tmp_path / "g.toml")] if words else []))
    assert result.exit_code == 2
    assert "either NAME" in result.stderr


def test_pretrain_wants_key_and_value(monkeypatch):
    monkeypatch.setattr(pretrain, "pretrain", raising(AssertionError("trained")))
    result = run("pretrain", "mini-clip", "--set", "epochs")
    assert (result.exit_code, result.stderr) == (1, "Error: --set takes KEY=VALUE, not 'epochs'.\n")


def test_fetch_prints_what_is_where(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", lambda spec: f"{spec} is ready")
    assert run("fetch", "ViT-B-32,openai").stdout == "ViT-B-32,openai is ready\n"


def test_dof_prints_what_it_measured():
    result = run("dof", "--d", "4", "--n", "40")
    said = dict(line.split(":") for line in result.stdout.splitlines())
    assert (result.exit_code, int(said["n"]), int(said["unknowns"])) == (0, 40, 10)
    assert float(said["rms"]) < 1e-8


def test_dof_says_how_many_images_it_takes():
    result = run("dof", "--d", "4", "--n", "9")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "at least 10 images" in result.stderr


def test_doctor_finds_versions_cache_minis_and_weights(monkeypatch, tmp_path):
    hub, minis = tmp_path / "hub", tmp_path / "minis"
    snapshot = hub / "models--timm--vit_base_patch32_clip_224.openai" / "snapshots" / "abc"
    for folder in (snapshot, minis / "mini-clip", minis / "mini-empty", tmp_path / "cache"):
        folder.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("abc")
    (snapshot / "open_clip_model.safetensors").touch()
    (minis / "mini-clip" / "open_clip_model.safetensors").touch()
    (tmp_path / "cache" / "features").write_bytes(bytes(2_000_000))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(hub))
    monkeypatch.setattr(doctor, "MINIS", minis)
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path / "cache"))
    result = run("doctor")
    assert result.exit_code == 0
    said = {line.partition(":")[0]: line.partition(":")[2].strip() for line in result.stdout.splitlines()}
    assert said["torch"] == torch.__version__
    assert said["minis"] == "mini-clip"
    assert said["cache"].startswith(f"{tmp_path / 'cache'} (other 2.0 MB in 1 file; ")
    assert "ViT-B-32,openai" in said["cached weights"]
    assert "ViT-L-14,openai" not in said["cached weights"]


@pytest.mark.parametrize("skip", [[], ["--skip-bad"]])
def test_bad_rows_are_skipped_by_one_option(monkeypatch, tmp_path, skip):
    seen = []

    def embed(*_):
        seen.append(os.environ.get("CROSSGAP_SKIP_BAD"))  # which notebooks and other processes inherit
        raise CrossgapError("seen")

    monkeypatch.setattr(cli, "_embed", embed)
    assert run("embed", *skip, "--model", "m", "--data", "d", "--out", f"{tmp_path}/x.npz").stderr == "Error: seen\n"
    assert seen == (["1"] if skip else [None])
    assert "CROSSGAP_SKIP_BAD" not in os.environ
    for command in ("figures", "invert"):
        assert "--skip-bad" in run(command, "--help").stdout


# ---------------------------------------------------------------- the cache


KEY = "0123456789abcdef" * 2


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """A folder for the cache, beside one of the user's that is none of crossgap's business."""
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path / "cache"))
    write(tmp_path / "mine" / f"{KEY}.safetensors", 7)
    return tmp_path / "cache"


def write(path: Path, size: int, age: float = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    then = path.stat().st_mtime - age
    os.utime(path, (then, then))
    return path


def whats_left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


def test_doctor_says_what_the_cache_holds(cache):
    assert doctor.findings()["cache"] == f"{cache} (empty)"
    write(cache / "embeddings" / f"{KEY}.safetensors", 1_000_000)
    write(cache / "embeddings" / f"{KEY[::-1]}.safetensors", 500_000)
    write(cache / "inversions" / f"{KEY}.safetensors", 200_000)
    write(cache / "ground_truth" / f"{KEY}.json", 100_000)
    (cache / "inversions" / "link").symlink_to(cache.parent / "mine", target_is_directory=True)
    shares = "embeddings 1.5 MB in 2 files, inversions 0.2 MB in 2 files, ground truth 0.1 MB in 1 file"
    assert doctor.findings()["cache"] == f"{cache} ({shares}; crossgap doctor --clear-cache empties it)"


def test_an_emptied_cache_is_what_crossgap_really_writes(cache, cats_and_dogs):
    model, images, _ = cats_and_dogs
    encoding.encode_texts(model, ["a dog"])
    oti_ovi.oti(model, images[:2], steps=1)
    assert len(whats_left(cache)) == 2
    result = run("doctor", "--clear-cache")
    assert (result.exit_code, whats_left(cache)) == (0, set())
    assert result.stdout.startswith(f"Removed from {cache}: ")
    assert result.stdout.endswith("MB in 2 files.\n")
    encoding.encode_texts(model, ["a dog"])
    assert len(whats_left(cache)) == 1


def test_leftovers_of_killed_processes_go_and_files_being_written_stay(cache):
    names = (f"embeddings/.{KEY}.17.safetensors", f"inversions/{KEY}.17.part", f"ground_truth/{KEY}.17")
    for name in names:
        write(cache / name, 1000, age=4000)
        write(cache / name.replace("17", "18"), 1000)
    result = run("doctor", "--clear-cache")
    assert whats_left(cache) == {name.replace("17", "18") for name in names}
    assert "MB in 3 files." in result.stdout
    assert f"Left alone, since it is being written just now: {cache}/" in result.stdout
    assert "and 2 more." in result.stdout


def test_clearing_the_cache_touches_nothing_else(cache, tmp_path):
    write(cache / "embeddings" / f"{KEY}.safetensors", 1_000_000)
    others = ("embeddings/mine.safetensors", f"embeddings/deeper/{KEY}.safetensors", f"{KEY}.safetensors", "thesis.tex")
    for name in others:
        write(cache / name, 10)
    (cache / "inversions").symlink_to(tmp_path / "mine", target_is_directory=True)
    (cache / "embeddings" / f"{KEY[::-1]}.safetensors").symlink_to(tmp_path / "mine" / f"{KEY}.safetensors")
    result = run("doctor", "--clear-cache")
    assert result.exit_code == 0
    assert whats_left(cache) == {*others, f"embeddings/{KEY[::-1]}.safetensors"}
    assert (cache / "inversions").is_symlink()
    assert whats_left(tmp_path / "mine") == {f"{KEY}.safetensors"}
    lines = result.stdout.splitlines()
    assert lines[0] == f"Removed from {cache}: 1.0 MB in 1 file."
    reasons = {line.split(":")[0].removeprefix("Left alone, since ") for line in lines[1:]}
    assert reasons == {"it is a link", "crossgap did not write it"}
    assert "and 3 more." in result.stdout


def test_files_that_can_not_be_removed_are_said(cache, monkeypatch):
    stuck = write(cache / "embeddings" / f"{KEY}.safetensors", 10)
    write(cache / "inversions" / f"{KEY}.safetensors", 10)
    unlink = Path.unlink

    def refuses(path, **options):
        if path == stuck:
            raise PermissionError(13, "Permission denied", str(path))
        unlink(path, **options)

    monkeypatch.setattr(Path, "unlink", refuses)
    result = run("doctor", "--clear-cache")
    assert (result.exit_code, whats_left(cache)) == (1, {f"embeddings/{KEY}.safetensors"})
    assert result.stderr == f"Error: 1 of 2 files can't be removed, the first is {stuck}: Permission denied.\n"
