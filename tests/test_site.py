"""The index is read back with the standard library's parser, as a browser would see it."""

import json
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat import v4
from PIL import Image

from crossgap_lib.runner.site import table_of_contents, write_index

INTRO = """# Is a dog *closer* to a cat? See [00](00_index.ipynb)

After App. B of *Cross the Gap* (Fig. 2a), `mAP` falls <script>alert(1)</script>. This sentence stays away.
"""
SEEN = "The gap is **0.85**.\n\n| a | b |\n|---|---|\n| 1 | 2 |"


class Page(HTMLParser):
    """Links, pictures and words of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.pictures, self.ids, self.tags, self.words = [], [], set(), set(), ""
        self.feed(path.read_text(encoding="utf-8"))
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.tags.add(tag)
        self.ids |= {found["id"]} if "id" in found else set()
        self.links += [found["href"]] if tag == "a" else []
        self.pictures += [found] if tag == "img" else []

    def handle_data(self, data):
        self.words += data


@pytest.fixture
def page(tmp_path):
    """One notebook that ran, one that never did, one whose last run failed."""
    nb, out = tmp_path / "nb", tmp_path / "out"
    folder = out / "01_first"
    folder.mkdir(parents=True)
    nb.mkdir()
    shown = [v4.new_output("display_data", {"text/markdown": SEEN, "text/plain": "<Markdown>"})]
    cells = [v4.new_markdown_cell(INTRO), v4.new_code_cell("1"), v4.new_code_cell("show()", outputs=shown)]
    nbformat.write(v4.new_notebook(cells=cells), folder / "01_first.ipynb")
    for name, title in {"01_first": "Source", "02_never": "Never ran", "03_failed": "Failed"}.items():
        source = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {title}\nOne. Two."), v4.new_code_cell("1")])
        nbformat.write(source, nb / f"{name}.ipynb")
    (out / "03_failed.failed.ipynb").write_text("{}")
    for name in ("map_vs steps.png", "plain.png"):
        Image.new("RGB", (40, 30)).save(folder / name)
    for name in ("map_vs steps.svg", "map_vs steps.csv", "lonely.csv"):
        (folder / name).write_text("")
    (folder / "broken.png").write_text("not a picture")
    record = {
        "finished": "2031-05-06T07:08:09+00:00",
        "seconds": 61.4,
        "parameters": {"model": "mini-clip", "device": ""},
    }
    (folder / ".run.json").write_text(json.dumps(record))
    return Page(write_index(out, nb))


def test_every_link_leads_somewhere(page, tmp_path):
    assert len(page.links) > 8
    for link in page.links + [picture["src"] for picture in page.pictures]:
        found = link[1:] in page.ids if link.startswith("#") else (tmp_path / "out" / unquote(link)).is_file()
        assert found, link


def test_pictures_have_words_a_size_and_open_the_svg(page):
    by_alt = {picture["alt"]: picture for picture in page.pictures}
    assert set(by_alt) == {"map vs steps", "plain", "broken"}
    assert all(picture["loading"] == "lazy" for picture in page.pictures)
    assert (by_alt["plain"]["width"], by_alt["plain"]["height"]) == ("40", "30")
    assert "width" not in by_alt["broken"]
    assert {"01_first/map_vs%20steps.svg", "01_first/plain.png", "01_first/lonely.csv"} <= set(page.links)


def test_words_come_from_the_notebook_that_ran(page):
    assert "Is a dog closer to a cat? See 00" in page.words
    assert "After App. B of Cross the Gap (Fig. 2a), mAP falls" in page.words
    assert "stays away" not in page.words
    assert "The gap is 0.85." in page.words
    assert "Source" not in page.words
    assert "Ran 2031-05-06 07:08 UTC in 61 s: model=mini-clip." in page.words


def test_what_did_not_run_is_said(page):
    assert "Never ran (not run yet)" in page.words
    assert "crossgap figures --only 02 makes its figures" in page.words
    assert "Failed (last run failed)" in page.words


def test_markup_in_notebooks_and_scripts_stay_out(page):
    assert "script" not in page.tags
    assert "table" in page.tags  # the conclusion's own


def test_table_of_contents_links_each_notebook(page, tmp_path):
    lines = table_of_contents(tmp_path / "nb").splitlines()
    assert lines[1] == "- [`02_never`](02_never.ipynb): Never ran"
    assert len(lines) == 3


def test_an_unfinished_page_is_never_left(page, tmp_path):
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "01_first",
        "03_failed.failed.ipynb",
        "index.html",
    ]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (v4.new_output("stream", text="printed words"), "printed words"),
        (v4.new_output("stream", name="stderr", text="a warning"), ""),
        (v4.new_output("execute_result", {"text/plain": "'words'"}), "'words'"),
        (v4.new_output("display_data", {"text/plain": "<Figure size 1x1>", "image/png": ""}), ""),
    ],
)
def test_only_words_count_as_a_conclusion(tmp_path, output, words):
    (tmp_path / "01_a").mkdir()
    nb = v4.new_notebook(cells=[v4.new_markdown_cell("# Title"), v4.new_code_cell("1", outputs=[output])])
    for folder in (tmp_path, tmp_path / "01_a"):
        nbformat.write(nb, folder / "01_a.ipynb")
    page = Page(write_index(tmp_path, tmp_path))
    assert page.words.rpartition("Executed notebook")[2].strip() == words
