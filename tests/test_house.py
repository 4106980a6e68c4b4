"""What is promised twice is the same twice, and every notebook keeps the house rules."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from importlib.metadata import distributions
from itertools import pairwise

import jedi
import licences
import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import crossgap_lib as cg
from crossgap_lib.paths import NOTEBOOKS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
DEPENDENCIES = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]


def with_comment(lines, entry):
    """{what an entry says: its comment} of the lines that match ``entry``."""
    found = [match for line in lines if (match := re.fullmatch(entry, line))]
    return {match[1].strip(): (match[2] or "").strip() for match in found}


def environment() -> tuple[dict[str, str], dict[str, str]]:
    """(conda entries, pip entries) of environment.yml, each with its comment."""
    text = (ROOT / "environment.yml").read_text()
    conda, pip = text.split("- pip:\n")
    entry = r"\s*- ([^#]+?)(?:\s+# (.*))?"
    return with_comment(conda.split("dependencies:\n")[1].splitlines(), entry), with_comment(pip.splitlines(), entry)


# ---------------------------------------------------------------- dependencies


def test_conda_gets_what_pip_gets():
    _, pip = environment()
    assert set(pip) - {"-e ."} == set(DEPENDENCIES)
    assert "-e ." in pip


def test_conda_itself_gets_python_and_pip_alone():
    conda, _ = environment()
    assert set(conda) == {f"python{PROJECT['requires-python']}", "pip"}


def test_every_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    project = with_comment(text.splitlines(), r'\s*"([^"]+)",(?:\s+# (.*))?')
    assert set(DEPENDENCIES) <= set(project)
    conda, pip = environment()
    for comments in (project, conda, pip):
        assert [name for name, comment in comments.items() if not comment] == []
    assert {name: pip[name] for name in DEPENDENCIES} == {name: project[name] for name in DEPENDENCIES}


def constraints() -> dict[str, str]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = [re.fullmatch(r"([\w.-]+)==([\w.+!-]+)", line) for line in lines if line]
    assert all(pins), "constraints.txt holds lines name==version and comments only"
    return {canonicalize_name(pin[1]): pin[2] for pin in pins}


@pytest.mark.parametrize("line", DEPENDENCIES)
def test_every_dependency_is_pinned_at_a_version_that_satisfies_it(line):
    requirement = Requirement(line)
    assert requirement.specifier.contains(constraints()[canonicalize_name(requirement.name)])


def test_constraints_name_no_place():
    text = (ROOT / "constraints.txt").read_text()
    assert not re.search(r"https?:|://|file:|index|trusted-host|@", text)


def test_the_licence_of_every_pinned_package_is_listed():
    """Of those that are installed here in the version that is pinned, it is what they say."""
    assert set(licences.listed()) == set(licences.pinned())
    pins = constraints()
    here = [dist.name for dist in distributions() if pins.get(canonicalize_name(dist.name)) == dist.version]
    named = {canonicalize_name(package): of for package, of in licences.listed().items()}
    assert len(here) > 50
    assert {name: named[canonicalize_name(name)] for name in here} == {name: licences.licence(name) for name in here}


# ---------------------------------------------------------------- the library's face


def test_every_name_of_the_stub_is_there():
    stub = ast.parse((ROOT / "crossgap_lib/__init__.pyi").read_text())
    names = [alias.asname for line in stub.body for alias in line.names]
    assert len(set(names)) == len(names)
    assert sorted(names) == sorted(cg.__all__) == sorted(set(dir(cg)))
    for name in names:
        assert getattr(cg, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        cg.no_such_name  # noqa: B018


def test_an_editor_completes_the_face():
    """jedi is what JupyterLab asks; it runs nothing and reads the stub."""
    found = jedi.Script("import crossgap_lib as cg\ncg.").complete(2, 3)
    assert set(cg.__all__) <= {completion.name for completion in found}
    (signature,) = jedi.Script("import crossgap_lib as cg\ncg.oti(").get_signatures(2, 7)
    assert [parameter.name for parameter in signature.params][:3] == ["model", "images", "n_tokens"]


def test_contributing_shows_every_room():
    rooms = {path.stem for path in (ROOT / "crossgap_lib").iterdir() if path.suffix == ".py" or path.is_dir()}
    shown = re.findall(r"^    (\w+)(?:/|\.py)", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert set(shown) == rooms - {"__init__", "__main__", "__pycache__"}


def test_the_readme_names_the_two_commands():
    text = (ROOT / "README.md").read_text()
    assert "make figures" in text
    assert "make test" in text


def test_make_test_runs_its_later_stages_after_a_failure(tmp_path):
    """On stand-ins for ruff and python that note their calls; the first one of each fails."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests/install_chromium.sh").touch()
    stand_in = tmp_path / ".venv/bin/python"
    stand_in.parent.mkdir(parents=True)
    stand_in.write_text('#!/bin/sh\necho "$0 $@" >> calls.txt\ntest -e failed || { touch failed; exit 1; }\n')
    stand_in.chmod(0o755)
    shutil.copy(stand_in, stand_in.with_name("ruff"))
    (tmp_path / ".venv/.installed").touch()
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    run = subprocess.run(["make", "test"], cwd=tmp_path, env=variables, capture_output=True, check=False)
    calls = (tmp_path / "calls.txt").read_text()
    assert run.returncode != 0
    for stage in ("ruff check", "--ignore=tests/test_browser.py", "--nbval-lax", "-rs tests/test_browser.py"):
        assert stage in calls, stage


# ---------------------------------------------------------------- notebooks


NAMES = sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))


@pytest.fixture(params=NAMES)
def notebook(request):
    return nbformat.read(NOTEBOOKS / request.param, as_version=nbformat.NO_CONVERT)


def code(notebook) -> list[str]:
    return [cell["source"] for cell in notebook["cells"] if cell["cell_type"] == "code"]


def test_there_are_numbered_notebooks():
    assert len(NAMES) >= 4
    assert all(re.match(r"\d\d_[a-z]", name) for name in NAMES)
    assert len({name[:2] for name in NAMES}) == len(NAMES)


def test_notebooks_are_valid_and_without_outputs(notebook):
    nbformat.validate(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None
    assert "widgets" not in notebook["metadata"]


def test_notebooks_run_in_the_kernel_python3(notebook):
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"


def test_every_cell_has_an_id_of_its_own(notebook):
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)


def test_notebooks_open_with_a_heading(notebook):
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown"
    assert re.match(r"# \S", first["source"])


def test_parameters_are_plain_literals_with_types(notebook):
    tagged = [cell for cell in notebook["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    source = tagged[0]["source"]
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign)
        line = source.splitlines()[statement.end_lineno - 1]
        value = ast.literal_eval(statement.value)
        types = r"(str|int|float|bool|list\[(?:str|int|float|list\[str\])\])"
        comment = re.search(rf"  # type: {types}(?: \([^()]+\))?$", line)
        assert comment, line
        assert type(value).__name__ == comment[1].partition("[")[0]


def test_prose_stands_before_every_second_code_cell_at_least(notebook):
    kinds = [cell["cell_type"] for cell in notebook["cells"]]
    explained = sum(a == "markdown" and b == "code" for a, b in pairwise(kinds))
    assert explained >= kinds.count("code") / 2


def test_cells_are_short(notebook):
    lengths = sorted(len(source.splitlines()) for source in code(notebook))
    assert lengths[-1] <= 25
    assert lengths[len(lengths) // 2] <= 13  # a figure's words take some lines


def test_no_line_of_code_is_wider_than_a_page(notebook):
    assert max(len(line) for source in code(notebook) for line in source.splitlines()) <= 120


def test_every_figure_says_what_is_seen_on_what_and_to_those_who_cant_see_it(notebook):
    calls = [node for source in code(notebook) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    figures = [c for c in calls if isinstance(c.func, ast.Attribute) and c.func.attr == "save_figure"]
    assert figures
    for figure in figures:
        assert {"title", "stamp", "alt"} <= {keyword.arg for keyword in figure.keywords}, ast.unparse(figure)


def test_notebooks_end_with_their_verdicts(notebook, request):
    if request.node.callspec.params["notebook"].startswith("00"):
        pytest.skip("the index shows those of all others")
    assert code(notebook)[-1].rstrip().endswith("claims.table(folder)")


def test_notebooks_write_to_their_own_folder(notebook, request):
    name = request.node.callspec.params["notebook"].removesuffix(".ipynb")
    assert f'plots.figure_folder("{name}")' in "\n".join(code(notebook))
