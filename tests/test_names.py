"""Names hold anything: HTML, formulas, Markdown, escape sequences, slashes, line breaks, other scripts.

Each border that they cross has one function: ``printable`` to the terminal, ``file_stem`` to names of files,
``escaped_table`` and the page's template to HTML, and the figure itself to its texts.
"""

import unicodedata
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import PurePosixPath, PureWindowsPath

import nbformat
import pandas as pd
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text
from PIL import Image

from crossgap_lib import cli, plots, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.errors import printable
from crossgap_lib.plots import style, widgets
from crossgap_lib.runner.notebooks import run_notebooks

WILD = (
    "F-16A/B",
    "<img src=x onerror=alert(1)>",
    r"$\frac{x}$",
    "two $ and $",
    "a*b*c `d` [x](javascript:alert(2)) | e",
    "line\nbreak \x1b[31mred\x1b[0m \u202edlo",
    "no UTF-8 \udcff",
    "\u0635\u0642\u0631 \u9df9 \U0001f985",
    "quote\"s' & <b>bold",
)
names = st.one_of(st.text(), st.sampled_from(WILD), st.text("$\\{}^_<>&/\x1b\n\u202e\udc80", max_size=12))


class Page(HTMLParser):
    """The tags of some HTML, and its words."""

    def __init__(self, page: str):
        super().__init__()
        self.tags, self.words = set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words += data


# --- each border, for any name -----------------------------------------------------------------------------------


@given(names)
def test_what_is_printed_is_obeyed_by_no_terminal(name):
    shown = printable(name)
    shown.encode("utf-8")
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") and c not in "\n\t"]
    assert not {unicodedata.bidirectional(c) for c in shown} & {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI"}
    if name.isprintable():
        assert shown == name


def test_an_escape_sequence_is_shown():
    assert printable("a\x1b[31mb\nc \u9df9 \udcff") == "a\\x1b[31mb\nc \u9df9 \\udcff"


@given(names)
def test_a_file_is_named_in_its_folder_whatever_the_name(name):
    stem = style.file_stem(name)
    assert PurePosixPath("folder", stem + ".png").name == PureWindowsPath("folder", stem + ".png").name == stem + ".png"
    assert len(stem.encode()) <= 250
    assert stem.strip(".")


@pytest.mark.parametrize(("name", "stem"), [("stages_2.b", "stages_2.b"), ("a F-16A/B", "a-F-16A-B"), ("../..", "-")])
def test_a_stem_keeps_letters_and_digits(name, stem):
    assert style.file_stem(name) == stem


@given(names.filter(lambda name: printable(name) == name and "\n" not in name))
@settings(max_examples=50, deadline=None)
def test_names_in_a_table_are_words(name):
    table = pd.DataFrame({name: [1.25, 2.0], "names": [name, "b"]}, index=[name, "c"])
    page = Page(tasks.escaped_table(table, precision=1).to_html())
    assert page.tags <= {"style", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.words.count(name) >= 3
    assert "1.2" in page.words


@given(names)
@settings(max_examples=15, deadline=None)
def test_a_figure_shows_any_name_as_it_is(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp("figure")
    figure = two_names(name)
    plots.save_figure(figure, folder, name, pd.DataFrame({"name": [1]}), title=name, stamp=name, alt=name)
    stem = style.file_stem(name)
    assert {file.name for file in folder.iterdir()} == {f"{stem}.png", f"{stem}.svg", f"{stem}.csv"}
    with Image.open(folder / f"{stem}.png") as picture:
        picture.load()
    words = " ".join(ET.parse(folder / f"{stem}.svg").getroot().itertext())  # well-formed, whatever the name
    for line in printable(name).split("\n"):
        assert " ".join(line.split()) in " ".join(words.split())


@style.styled
def two_names(name: str):
    """A name as a title, at a tick, at a category and in a legend."""
    figure, axes = style.new_figure(1, 2)
    axes[0, 0].plot([0, 1], label=f"line {name}")
    axes[0, 0].set_xticks([0, 1], [name, "b"])
    axes[0, 0].set_title(name)
    axes[0, 1].plot([f"x {name}", "b"], [0, 1])
    axes[0, 0].legend()
    return figure


def test_powers_of_ten_are_no_formulas():
    figure, axes = style.styled(style.new_figure)()
    axes[0, 0].set(yscale="log", ylim=(1e-9, 1))
    style.png_bytes(figure)
    labels = [text.get_text() for text in figure.findobj(Text)]
    assert "10\u207b\u2076" in labels
    assert not [label for label in labels if "$" in label]


# --- end to end ---------------------------------------------------------------------------------------------------


def test_a_sentence_below_sliders_is_words():
    figure = style.styled(style.new_figure)()[0]
    box = widgets.figure_explorer(lambda n: (figure, WILD[1]), n=widgets.selection("n", [1, 2]))
    (sentence,) = (part for part in box.children if "readout" in str(getattr(part, "value", "")))
    assert Page(sentence.value).tags == {"p"}
    assert Page(sentence.value).words == WILD[1]


@pytest.mark.parametrize("option", ["--data", "--texts"])
def test_the_command_line_shows_escape_sequences(option, tmp_path):
    asked = ["embed", "--model", "mini-clip", option, f"folder:{tmp_path}/\x1b[31mno\n", "--out", f"{tmp_path}/x.npz"]
    said = CliRunner().invoke(cli.cli, asked, color=True).output
    assert "no" in said
    assert "\x1b" not in said


@pytest.fixture(scope="module")
def wild_folder(tmp_path_factory):
    """A folder of classes whose names can be folders."""
    folder, world = tmp_path_factory.mktemp("wild"), load_dataset("world:dogs-vs-cats", n=48)
    kinds = [WILD[1], WILD[2], WILD[5], WILD[7]]
    for row in range(len(world)):
        kind = folder / kinds[(row // 2) % 2 * 2 + world.labels[row]]
        kind.mkdir(exist_ok=True)
        world.picture(row).save(kind / f"{row:03d} <i>\x1b[32m$x$.png")
    return folder


@pytest.mark.slow
def test_a_notebook_takes_wild_class_names(wild_folder, tmp_path):
    given = {"data": f"folder:{wild_folder}", "without_captions": ""}
    (run,) = run_notebooks(["01"], given, out=tmp_path)
    assert run.status == "ran", run.message
    cells = nbformat.read(tmp_path / run.name / f"{run.name}.ipynb", as_version=4).cells
    outputs = [o.data for c in cells if c.cell_type == "code" for o in c.outputs if "data" in o]
    pages = [Page(data["text/html"]) for data in outputs if "text/html" in data]
    assert not set().union(*(page.tags for page in pages)) & {"img", "script", "b", "i"}
    assert any(WILD[1] in page.words for page in pages)
    assert sum("image/png" in data for data in outputs) >= 3
