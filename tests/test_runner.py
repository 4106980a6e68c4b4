"""A few true papermill runs of tiny notebooks; what needs no kernel runs on a stand-in for papermill."""

import asyncio
import errno
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import nbformat
import pytest
import zmq.asyncio
from miniatures import cub, karpathy, photo_bytes, tar, write
from nbformat import v4

from crossgap_lib.errors import CrossgapError
from crossgap_lib.runner import notebooks as runner
from crossgap_lib.runner import staleness
from crossgap_lib.runner.kernel import ThisPython
from crossgap_lib.runner.notebooks import run_notebooks

PARAMETERS = 'model = "mini-clip"  # type: str\nsteps = 5  # type: int\nembeddings = ""  # type: str'
SAVE = """\
import os, sys
from pathlib import Path
folder = Path(os.environ["CROSSGAP_FIGURES"]) / NAME
folder.mkdir(parents=True, exist_ok=True)
facts = [sys.executable, Path.cwd(), steps, embeddings, os.environ["CROSSGAP_HEADLESS"]]
(folder / "facts.txt").write_text("\\n".join(map(str, facts)))"""
WIDGET = "from ipywidgets import interact\n@interact(k=(0, 3))\ndef show(k=1):\n    return undefined_name"


def notebook(folder: Path, name: str, *code: str, parameters: str = PARAMETERS) -> Path:
    cells = [v4.new_markdown_cell(f"# {name}")]
    if parameters:
        cells.append(v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    cells += [v4.new_code_cell(source.replace("NAME", repr(name))) for source in code]
    spec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": spec}), path)
    return path


def left_over(out: Path) -> list[str]:
    """Hidden files beside the lock, which stays: whoever waits for it must find the same file."""
    return sorted(path.name for path in out.iterdir() if path.name.startswith(".") and path.name != ".lock")


# ---------------------------------------------------------------- with kernels


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """One run of four notebooks, in a folder with braces in its name and with a broken kernelspec about."""
    base = tmp_path_factory.mktemp("real{run}")
    notebook(base / "nb", "01_good", SAVE)
    notebook(base / "nb", "02_fails", SAVE, "raise ValueError('no cat\\nwas found')", "print('never')")
    notebook(base / "nb", "03_widget", SAVE, WIDGET)
    notebook(base / "nb", "04_dies", "import os; os._exit(1)")
    spec = base / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/nowhere/python"], "display_name": "broken", "language": "python"}))
    for name in ("01_good", "02_fails", "03_widget"):
        (base / "out" / name).mkdir(parents=True)
        (base / "out" / name / "old.png").write_text("old")
    (base / "here").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(base / "jupyter"))
        seen = []
        runs = run_notebooks(
            parameters={"embeddings": "mine.npz"},
            extra={"steps": 7},
            notebooks=base / "nb",
            out=base / "out",
            cwd=base / "here",
            report=seen.append,
        )
    assert seen == runs
    return base, {run.name: run for run in runs}


def test_success_replaces_the_old_figures(real):
    base, runs = real
    folder = base / "out" / "01_good"
    assert runs["01_good"].status == "ran"
    assert sorted(p.name for p in folder.iterdir()) == [".run.json", "01_good.ipynb", "facts.txt"]


def test_kernel_is_this_python_in_the_callers_folder(real):
    base, _ = real
    python, here, steps, embeddings, headless = (base / "out/01_good/facts.txt").read_text().splitlines()
    assert (python, steps, embeddings, headless) == (sys.executable, "7", "mine.npz", "1")
    assert Path(here) == base / "here"


def test_failure_keeps_old_figures_and_leaves_the_notebook_with_its_error(real):
    base, runs = real
    assert runs["02_fails"].status == "failed"
    assert runs["02_fails"].message == "cell [4]: ValueError: no cat was found"
    assert [p.name for p in (base / "out/02_fails").iterdir()] == ["old.png"]
    failed = nbformat.read(base / "out/02_fails.failed.ipynb", as_version=4)
    errors = [o for c in failed.cells for o in c.get("outputs", []) if o.output_type == "error"]
    assert [error.ename for error in errors] == ["ValueError"]


def test_a_kernel_that_dies_is_a_failure_of_its_cell(real):
    base, runs = real
    assert runs["04_dies"].message == "cell [3]: DeadKernelError: Kernel died"
    assert (base / "out/04_dies.failed.ipynb").is_file()


def test_an_error_inside_a_widget_is_a_failure(real):
    base, runs = real
    assert runs["03_widget"].status == "failed"
    assert runs["03_widget"].message.startswith("a widget of cell [4]: NameError: name 'undefined_name'")
    assert [p.name for p in (base / "out/03_widget").iterdir()] == ["old.png"]
    assert (base / "out/03_widget.failed.ipynb").is_file()


def test_nothing_else_is_left_behind(real):
    base, _ = real
    assert left_over(base / "out") == []
    assert "CROSSGAP_FIGURES" not in os.environ
    assert str(base) not in (base / "out/01_good/01_good.ipynb").read_text()


MEET = """\
import time
Path(NAME).touch()
other = Path({"01_a": "02_b", "02_b": "01_a"}[NAME])
until = time.monotonic() + 60
while not other.exists():
    assert time.monotonic() < until, "the other one never began"
    time.sleep(0.05)"""


def test_two_run_at_once_and_come_back_in_order(tmp_path):
    out, names = tmp_path / "out", ("01_a", "02_b", "03_fails")
    for name in names[:2]:
        notebook(tmp_path / "nb", name, SAVE, MEET)
    notebook(tmp_path / "nb", names[2], "raise ValueError('no cat')")
    seen = []
    runs = run_notebooks(jobs=2, notebooks=tmp_path / "nb", out=out, cwd=tmp_path, report=seen.append)
    assert [(run.name, run.status) for run in runs] == list(zip(names, ("ran", "ran", "failed"), strict=True))
    assert sorted(seen, key=lambda run: run.name) == runs
    assert left_over(out) == []


def test_what_takes_long_begins_first(tmp_path, monkeypatch):
    for name in ("01_a", "02_long", "03_b"):
        path = notebook(tmp_path / "nb", name, "1")
        if name == "02_long":
            told = json.loads(path.read_text())
            path.write_text(json.dumps(told | {"metadata": told["metadata"] | {"crossgap": {"minutes": 2}}}))
    begun = []

    def in_order(work, tasks, jobs, lost):
        begun.extend(task[0].stem for task in tasks)
        return [runner.Run(name, tmp_path, "ran") for name in begun]

    monkeypatch.setattr(runner, "side_by_side", in_order)
    runs = run_notebooks(jobs=2, notebooks=tmp_path / "nb", out=tmp_path / "out", cwd=tmp_path)
    assert begun == ["02_long", "01_a", "03_b"]
    assert [run.name for run in runs] == ["01_a", "02_long", "03_b"]


def test_a_process_that_is_killed_is_a_failure_of_its_notebook(tmp_path):
    notebook(tmp_path / "nb", "01_killed", "import os, signal; os.kill(os.getppid(), signal.SIGKILL)")
    (run,) = run_notebooks(jobs=2, notebooks=tmp_path / "nb", out=tmp_path / "out", cwd=tmp_path)
    assert (run.status, run.message) == ("failed", "its process, which ended with -9")


# ---------------------------------------------------------------- without kernels


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Two notebooks, a library, a mini and a published table of their own; papermill's execution replaced."""
    for name, folder in {"PACKAGE": "lib", "DATA": "data", "MINIS": "data/minis", "ROOT": "."}.items():
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(staleness, name, tmp_path / folder)
    notebook(tmp_path / "nb", "01_first", "1")
    notebook(tmp_path / "nb", "02_second", "2", parameters="steps = 5")
    monkeypatch.setattr(runner.papermill, "execute_notebook", pretend)
    return tmp_path


def pretend(path: str, executed: str, given: dict, **_) -> None:
    shutil.copy(path, executed)
    folder = Path(os.environ["CROSSGAP_FIGURES"], Path(path).stem)
    (folder / "plot.png").write_text(json.dumps(given))


def statuses(house: Path, **options) -> str:
    runs = run_notebooks(notebooks=house / "nb", out=house / "out", cwd=house, **options)
    return " ".join(run.status for run in runs)


def test_only_what_is_stale_runs_again(house):
    assert statuses(house) == "ran ran"
    assert statuses(house) == "fresh fresh"
    assert statuses(house, force=True) == "ran ran"
    notebook(house / "nb", "01_first", "1 + 1")
    assert statuses(house) == "ran fresh"


def test_skipping_bad_rows_makes_stale(house, monkeypatch):
    statuses(house)
    monkeypatch.setenv("CROSSGAP_SKIP_BAD", "1")
    assert statuses(house) == "ran ran"


def test_outputs_in_the_notebook_do_not_make_it_stale(house):
    statuses(house)
    path = house / "nb/01_first.ipynb"
    nb = nbformat.read(path, as_version=4)
    nb.cells[-1].outputs = [v4.new_output("stream", text="1")]
    nb.cells[-1].execution_count = 3
    nbformat.write(nb, path)
    assert statuses(house) == "fresh fresh"


def test_figures_that_are_not_what_was_written_are_made_again(house):
    """Gone, edited by hand, drawn by a run of papermill itself with other parameters, or from somewhere else."""
    statuses(house)
    plot = house / "out/02_second/plot.png"
    plot.unlink()
    assert statuses(house) == "fresh ran"
    plot.write_text("of other parameters")
    assert statuses(house) == "fresh ran"
    plot.with_name("more.png").write_text("from somewhere else")
    assert statuses(house) == "fresh ran"
    assert statuses(house) == "fresh fresh"


@pytest.mark.parametrize("changed", ["lib/metrics.py", "lib/named/table.toml", "data/published/published.csv"])
def test_library_and_published_numbers_are_watched(house, changed):
    statuses(house)
    (house / changed).parent.mkdir(parents=True, exist_ok=True)
    (house / changed).write_text("x = 1")
    assert statuses(house) == "ran ran"
    assert statuses(house) == "fresh fresh"


def test_a_parameter_makes_stale_unless_it_is_the_default(house):
    statuses(house)
    assert statuses(house, parameters={"model": "mini-clip"}) == "fresh left out"
    assert statuses(house, parameters={"model": "ViT-B-32,random"}) == "ran left out"
    assert statuses(house) == "ran fresh"


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("mini-clip", "data/minis/mini-clip/model.safetensors"),  # the default: retrained, its figures are stale
        ("features.npz", "features.npz"),
        ("ViT-B-32,weights/b32.safetensors", "weights/b32.safetensors"),
        ("local-dir:my/model", "my/model/deep/config.json"),
        ("folder:photos", "photos/cat/1.jpg"),
        ("folder:photos;folder:more", "more/cat/1.jpg"),
        ("captions:coco.json/train", "coco.json"),
    ],
)
def test_input_files_that_parameters_name_are_watched(house, value, file):
    path = house / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("before")
    assert statuses(house, parameters={"model": value}) == "ran left out"
    assert statuses(house, parameters={"model": value}) == "fresh left out"
    path.write_text("after that")
    assert statuses(house, parameters={"model": value}) == "ran left out"


def test_a_grid_is_watched_with_its_table_by_who_reads_it(house):
    write(house / "data/grid/grid.toml", "[[cells]]")
    write(house / "data/grid/grid.parquet", "two cells")
    given = {"parameters": {"model": "data/grid/grid.toml"}}
    assert [statuses(house), statuses(house, **given)] == ["ran ran", "ran left out"]
    write(house / "data/grid/grid.parquet", "three")
    assert [statuses(house, **given), statuses(house)] == ["ran left out", "ran fresh"]  # 01 has its own default again


@pytest.fixture
def people(house):
    """Data and models as people have them: behind links, in several tars, with pictures beside captions."""
    for k in range(2):
        tar(house / f"tars/{k}.tar", {"a.jpg": photo_bytes(k), "a.cls": "0"})
    write(house / "tars/classnames.txt", "cat")
    write(house / "coco/annotations/captions.json", '{"cat.jpg": "a cat"}')
    karpathy(house / "flickr", "dataset.json", "images")
    for picture in ("coco/val2017/cat.jpg", "elsewhere/cat/1.jpg"):
        write(house / picture, photo_bytes(1))
    write(house / "elsewhere/model/model.safetensors", "weights")
    (house / "linked").mkdir()
    (house / "linked/cat").symlink_to(house / "elsewhere/cat")
    (house / "model").symlink_to(house / "elsewhere/model")
    cub(house / "cub")
    return house


@pytest.mark.parametrize(
    ("value", "file"),
    [
        ("wds:tars/{0..1}.tar", "tars/1.tar"),
        ("wds:tars/{0,1}.tar", "tars/classnames.txt"),
        ("captions:coco/annotations/captions.json", "coco/val2017/cat.jpg"),
        ("captions:coco/annotations/captions.json", "coco/annotations/captions.json"),
        ("captions:flickr/dataset.json/test", "flickr/images/COCO_val2014_000000391895.jpg"),
        ("folder:linked", "elsewhere/cat/1.jpg"),
        ("folder:linked", "elsewhere/cat/2.jpg"),
        ("cub:cub/train", "cub/image_class_labels.txt"),
        ("cub:cub", "cub/bounding_boxes.txt"),
        ("local-dir:model", "elsewhere/model/model.safetensors"),
        ("timm:x;folder:linked", "elsewhere/cat/1.jpg"),
    ],
)
def test_every_file_behind_a_spec_is_watched(people, value, file):
    assert statuses(people, only=["01"], parameters={"model": value}) == "ran"
    assert statuses(people, only=["01"], parameters={"model": value}) == "fresh"
    if file.endswith(".tar"):
        tar(people / file, {"a.jpg": photo_bytes(9), "a.cls": "0"})  # as large as before
    else:
        write(people / file, "another")
    assert statuses(people, only=["01"], parameters={"model": value}) == "ran"


def test_embeddings_are_watched_by_content_and_not_by_time(house):
    (house / "features.npz").write_text("same")
    given = {"parameters": {"embeddings": "features.npz"}}
    statuses(house, **given)
    os.utime(house / "features.npz", (1, 1))
    assert statuses(house, **given) == "fresh left out"


def test_a_second_run_on_one_folder_is_refused(house, monkeypatch):
    """It would put its figures in the place of the first one's, or lose its own."""

    def while_it_runs(path, executed, given, **how):
        with pytest.raises(CrossgapError, match=r"Another process is writing into .*out just now"):
            statuses(house)
        pretend(path, executed, given, **how)

    monkeypatch.setattr(runner.papermill, "execute_notebook", while_it_runs)
    assert statuses(house) == "ran ran"


def test_other_parameters_go_to_a_folder_of_their_own(house, monkeypatch):
    monkeypatch.setattr(runner, "FIGURES", house / "figures")

    def run(**given):
        runs = run_notebooks(notebooks=house / "nb", cwd=house, **given)
        (out,) = {run.out for run in runs}
        assert all((out / run.name / "plot.png").is_file() == (run.status != "left out") for run in runs)
        return out.relative_to(house / "figures").as_posix()

    assert run() == "."
    before = (house / "figures/01_first/plot.png").read_bytes()
    other = run(parameters={"model": "ViT-B-32,openai"})
    assert re.fullmatch(r"runs/model=ViT-B-32-openai-[0-9a-f]{8}", other)
    assert run(parameters={"model": "ViT-B-32,openai"}) == other
    assert run(extra={"steps": 6}) != run(extra={"steps": 7})
    assert run(extra={"steps": 5}) == "."
    assert run(parameters={"model": "/somewhere/else, with spaces/" * 9}).count("/") == 1
    assert (house / "figures/01_first/plot.png").read_bytes() == before


def test_the_device_is_no_other_parameter(house, monkeypatch):
    monkeypatch.setattr(runner, "FIGURES", house / "figures")
    notebook(house / "nb", "01_first", "1", parameters='device = ""')
    (run,) = run_notebooks(("01",), {"device": "cuda"}, notebooks=house / "nb", cwd=house)
    assert run.out == house / "figures"


def test_a_failure_is_tried_again_and_forgotten_after_success(house, monkeypatch):
    statuses(house)
    monkeypatch.setattr(runner.papermill, "execute_notebook", lambda *a, **k: pretend(*a, **k) or 1 / 0)
    runs = run_notebooks(["1"], force=True, notebooks=house / "nb", out=house / "out")
    assert runs[0].message == "ZeroDivisionError: division by zero"
    assert (house / "out/01_first.failed.ipynb").is_file()
    assert (house / "out/01_first/plot.png").is_file()
    monkeypatch.setattr(runner.papermill, "execute_notebook", pretend)
    assert statuses(house) == "ran fresh"
    assert not (house / "out/01_first.failed.ipynb").exists()


def test_interrupt_keeps_old_figures_and_cleans_up(house, monkeypatch):
    def interrupted(*args, **options):
        pretend(*args, **options)
        raise KeyboardInterrupt

    statuses(house)
    before = (house / "out/01_first/.run.json").read_text()
    monkeypatch.setattr(runner.papermill, "execute_notebook", interrupted)
    with pytest.raises(KeyboardInterrupt):
        statuses(house, force=True)
    assert (house / "out/01_first/.run.json").read_text() == before
    assert left_over(house / "out") == []


def test_old_figures_come_back_when_the_swap_fails(house, monkeypatch):
    statuses(house)
    rename = Path.rename

    def refuse(self, target):
        if self.parent.name.startswith(".") and self.name != "old":
            raise OSError("no space")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert statuses(house, force=True) == "failed failed"
    assert (house / "out/01_first/plot.png").is_file()
    assert left_over(house / "out") == []


@pytest.mark.parametrize("step", ["TemporaryDirectory", "write_record", "_forget_places", "run_key"])
def test_a_full_disk_fails_each_notebook_and_keeps_the_old_figures(house, monkeypatch, step):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    statuses(house)
    before = (house / "out/01_first/.run.json").read_bytes()
    monkeypatch.setattr(runner, step, full)
    runs = run_notebooks(notebooks=house / "nb", out=house / "out", cwd=house, force=True)
    assert {run.message for run in runs} == {"OSError: [Errno 28] No space left on device"}
    assert (house / "out/01_first/.run.json").read_bytes() == before
    assert left_over(house / "out") == []


def test_half_a_notebook_on_a_full_disk_is_a_failure_that_leaves_nothing(house, monkeypatch):
    def half(path, executed, given, **_):
        Path(executed).write_text(Path(path).read_text()[:99])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner.papermill, "execute_notebook", half)
    assert statuses(house) == "failed failed"
    assert os.listdir(house / "out") == [".lock"]


def test_what_a_killed_run_has_left_is_cleared_up(house):
    statuses(house)
    part = house / "out/.01_first.part-x"
    (part / "01_first").mkdir(parents=True)
    (house / "out/01_first").rename(part / "old")  # killed between the two renames of the swap
    (house / "out/.02_second.part-y/02_second").mkdir(parents=True)
    assert statuses(house) == "fresh fresh"
    assert left_over(house / "out") == []


def test_a_folder_that_cant_be_made_is_one_sentence(house):
    (house / "file").touch()
    with pytest.raises(CrossgapError, match=r"can't be written to .*file/out, give another folder by --out: .*rrno"):
        run_notebooks(notebooks=house / "nb", out=house / "file/out", cwd=house)


def test_the_record_names_no_folder_of_this_machine(house):
    (house / "photos").mkdir()
    statuses(house, parameters={"model": f"folder:{house}/photos"})
    record = (house / "out/01_first/.run.json").read_text()
    assert json.loads(record)["parameters"] == {"model": "folder:photos", "steps": "5", "embeddings": ""}
    assert str(house) not in record


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("wanted", ["1", "01", "01_first", "01_first.ipynb"])
def test_a_notebook_is_chosen_by_number_or_name(house, wanted):
    assert [r.name for r in run_notebooks([wanted], notebooks=house / "nb", out=house / "out")] == ["01_first"]


@pytest.mark.parametrize("wanted", ["3", "", "first", "011"])
def test_an_unknown_notebook_is_refused_with_the_list(house, wanted):
    with pytest.raises(CrossgapError, match="there are 01_first, 02_second"):
        statuses(house, only=[wanted])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"parameters": {"device": "cpu"}}, "01_first takes model, steps, embeddings; 02_second takes steps"),
        ({"parameters": {"model": "x"}, "only": ["02"]}, "No parameter 'model' in 02_second"),
        ({"extra": {"model": "x"}}, "No parameter 'model' in 02_second"),
        ({"extra": {"stesp": 3}, "only": ["01"]}, "'stesp' in 01_first. Did you mean: steps"),
        ({"parameters": {"steps": 1}, "extra": {"steps": 2}}, "steps: given both"),
        ({"extra": {"steps": "ten"}}, "steps must be a whole number, but is 'ten'"),
    ],
)
def test_a_parameter_that_nobody_takes_is_refused_before_anything_runs(house, options, message):
    with pytest.raises(CrossgapError, match=message):
        statuses(house, **options)
    assert not (house / "out").exists()


def test_each_notebook_is_handed_what_it_declares(house):
    statuses(house, parameters={"model": "mini-siglip"}, extra={"steps": 9})
    given = [json.loads((house / "out" / n / "plot.png").read_text()) for n in ("01_first", "02_second")]
    assert given == [{"model": "mini-siglip", "steps": 9}, {"steps": 9}]


def test_one_model_serves_notebooks_that_compare_models(house):
    notebook(
        house / "nb", "03_compares", SAVE, parameters='models = ["a", "b"]  # type: list[str]\ndevice = ""  # type: str'
    )
    assert statuses(house, parameters={"model": "mini-siglip"}) == "ran left out ran"
    assert json.loads((house / "out/03_compares/plot.png").read_text()) == {"models": ["mini-siglip"]}
    assert statuses(house, only=["03"], parameters={"model": "mini-siglip"}) == "fresh"
    assert statuses(house, parameters={"model": "mini-siglip", "models": "a;c"}) == "fresh left out ran"
    assert statuses(house, parameters={"device": "cpu"}).split()[:2] == ["ran", "ran"]  # it changes no result


def test_a_broken_notebook_and_an_empty_folder_are_refused(house, tmp_path):
    (house / "nb/03_third.ipynb").write_text("<<<<<<< HEAD")
    with pytest.raises(CrossgapError, match=r"03_third.ipynb can't be read"):
        statuses(house)
    with pytest.raises(CrossgapError, match="no notebooks"):
        run_notebooks(notebooks=tmp_path / "none", out=tmp_path / "out")


def test_a_reply_that_was_overlooked_is_noticed():
    """As where something is sent through the socket on which a reply is awaited: the loop no longer hears of it."""

    async def overlooked() -> tuple[bool, bytes]:
        with zmq.asyncio.Context() as context:
            mine = context.socket(zmq.DEALER)
            mine.bind(f"inproc://{uuid4()}")
            theirs = zmq.Context.shadow(context.underlying).socket(zmq.DEALER)
            theirs.connect(mine.last_endpoint.decode())
            reply = asyncio.ensure_future(mine.recv())
            await asyncio.sleep(0.1)
            theirs.send(b"reply")
            _ = zmq.Socket.shadow(mine.underlying).events  # what swallows the event
            await asyncio.wait([reply], timeout=1)
            heard = reply.done()
            kernel = ThisPython()
            kernel.asking = SimpleNamespace(channels_running=True, shell_channel=SimpleNamespace(socket=mine))
            await kernel.is_alive()
            told = await asyncio.wait_for(reply, 60)
            theirs.close()
            mine.close()
            return heard, told

    assert asyncio.run(overlooked()) == (False, b"reply")
