"""The library where people have it: in a checkout, in one that is only read, and installed from a wheel."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crossgap_lib.paths import ROOT


@pytest.mark.parametrize(
    ("installed", "writable", "shipped", "made", "cache"),
    [
        (False, True, "checkout", "checkout", "checkout/.cache"),
        (False, False, "checkout", "here", "caches/crossgap"),
        (True, True, "checkout/crossgap_lib/shipped", "here", "caches/crossgap"),
        (True, False, "checkout/crossgap_lib/shipped", "here", "caches/crossgap"),
    ],
)
def test_what_comes_along_is_found_and_what_is_made_goes_where_it_can(
    tmp_path, monkeypatch, installed, writable, shipped, made, cache
):
    found = paths_in(tmp_path, monkeypatch, installed, writable)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert {found[name] for name in ("DATA", "NOTEBOOKS")} == {tmp_path / shipped / n for n in ("data", "notebooks")}
    assert found["PUBLISHED"] == tmp_path / shipped / "figures/published"
    assert (found["FIGURES"], found["cache_dir"]()) == (tmp_path / made / "figures", tmp_path / cache)
    monkeypatch.setenv("CROSSGAP_CACHE", "elsewhere")
    assert found["cache_dir"]() == Path("elsewhere")


def test_who_has_no_home_keeps_the_cache_where_they_stand(tmp_path, monkeypatch):
    found = paths_in(tmp_path, monkeypatch, installed=True, writable=True)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what it does for a user without an entry
    assert found["cache_dir"]() == tmp_path / "here/.cache/crossgap"


def paths_in(tmp_path: Path, monkeypatch, installed: bool, writable: bool) -> dict:
    """What paths.py says in a checkout or a package of its own, to somebody who stands in the folder "here"."""
    package = tmp_path / "checkout/crossgap_lib"
    for folder in (package / "shipped" if installed else package, tmp_path / "here"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(os, "access", lambda *_: writable)
    for name in ("CROSSGAP_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return runpy.run_path(shutil.copy(ROOT / "crossgap_lib/paths.py", package))


# ---------------------------------------------------------------- a wheel

USE = """
import crossgap_lib as cg
from crossgap_lib import paths, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.table import SETS
assert "Пакеты" in cg.__file__
assert len(cg.load_model("mini-clip").tokenize("a cat")) == 1
assert len(tasks.published()) > 1000
assert len(tasks.projection_words("imagenet", "folder:x")) == 1000
assert len(load_dataset("world:dogs-vs-cats")) > 0
assert "oxford-pets" in SETS
assert (paths.DATA / "grid/grid.parquet").is_file()
print(paths.FIGURES, paths.cache_dir(), sep="\\n")
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """``run(*command)`` with crossgap installed from a wheel, in an empty folder of another script than Latin."""
    base = tmp_path_factory.mktemp("wheel")
    site, here = base / "Пакеты mit Leerzeichen", base / "mein Ordner/данные"
    here.mkdir(parents=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-index"]
    subprocess.run([*pip, "wheel", *offline, "--no-build-isolation", "-w", base, ROOT], check=True)
    subprocess.run([*pip, "install", *offline, "--target", site, *base.glob("*.whl")], check=True)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("CROSSGAP_") and k != "HOME"}
    environment |= {"PYTHONPATH": str(site), "XDG_CACHE_HOME": str(base / "caches"), "CROSSGAP_HEADLESS": "1"}

    def run(*command: str) -> str:
        ran = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr[-2000:]
        return ran.stdout

    return run, site, here, base / "caches"


@pytest.mark.slow
def test_a_wheel_brings_models_numbers_and_tables(installed):
    run, site, here, caches = installed
    assert run(sys.executable, "-c", USE).splitlines()[-2:] == [str(here / "figures"), str(caches / "crossgap")]
    assert "mini-siglip2" in run(sys.executable, str(site / "bin/crossgap"), "zoo")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_wheel_runs_the_notebooks_where_the_user_stands(installed):
    run, site, here, _ = installed
    shipped = sorted((site / "crossgap_lib/shipped").rglob("*"))
    said = run(sys.executable, str(site / "bin/crossgap"), "figures", "--only", "00")
    assert "Figures: figures/index.html" in said
    assert (here / "figures/00_index/00_index.ipynb").is_file()
    assert sorted((site / "crossgap_lib/shipped").rglob("*")) == shipped
