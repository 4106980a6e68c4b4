"""The index is read back with the standard library's parser, as a browser would see it."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
from nbformat import v4
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from crossgap_lib import tasks
from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import PUBLISHED, ROOT
from crossgap_lib.runner.publish import publish
from crossgap_lib.runner.site import scoreboard, write_index

INTRO = """# Is a dog *closer* to a cat? See [00](00_index.ipynb)

After App. B of *Cross the Gap* (Fig. 2a), `mAP` falls <script>alert(1)</script>. This sentence stays away.
"""


def write_claims(folder: Path, name: str) -> None:
    """Two claims of a notebook, one of which holds."""
    claims = tasks.Claims(name, "mini-clip, 9 queries")
    claims.add("the gap is <wide>", "Table A2", (0.85, 0.8, 0.9), above=0.5, digits=2)
    claims.untestable("it closes", "Table 4", "nobody trained that")
    claims.table(folder)


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
    write_claims(folder, "01_first")
    cells = [v4.new_markdown_cell(INTRO), v4.new_code_cell("1"), v4.new_code_cell("show()")]
    nbformat.write(v4.new_notebook(cells=cells), folder / "01_first.ipynb")
    for name, title in {"01_first": "Source", "02_never": "Never ran", "03_failed": "Failed"}.items():
        source = v4.new_notebook(cells=[v4.new_markdown_cell(f"# {title}\nOne. Two."), v4.new_code_cell("1")])
        nbformat.write(source, nb / f"{name}.ipynb")
    (out / "03_failed.failed.ipynb").write_text("{}")
    Image.new("RGB", (40, 30)).save(folder / "map_vs steps.png")
    words = PngInfo()
    words.add_text("Description", "A plain <picture>.")
    Image.new("RGB", (40, 30)).save(folder / "plain.png", pnginfo=words)
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
    assert set(by_alt) == {"map vs steps", "A plain <picture>.", "broken"}
    assert all(picture["loading"] == "lazy" for picture in page.pictures)
    assert (by_alt["A plain <picture>."]["width"], by_alt["A plain <picture>."]["height"]) == ("40", "30")
    assert "width" not in by_alt["broken"]
    assert {"01_first/map_vs%20steps.svg", "01_first/plain.png", "01_first/lonely.csv"} <= set(page.links)


def test_words_come_from_the_notebook_that_ran(page):
    assert "Is a dog closer to a cat? See 00" in page.words
    assert "After App. B of Cross the Gap (Fig. 2a), mAP falls" in page.words
    assert "stays away" not in page.words
    assert "the gap is <wide> Table A2 0.85 (0.80 to 0.90) queries holds" in page.words
    assert "Source" not in page.words
    assert "Ran 2031-05-06 07:08 UTC in 61 s: model=mini-clip." in page.words


def test_what_did_not_run_is_said(page):
    assert "Never ran (not run yet)" in page.words
    assert "crossgap figures --only 02 makes its figures" in page.words
    assert "Failed (last run failed)" in page.words


def test_markup_in_notebooks_and_scripts_stay_out(page):
    assert "script" not in page.tags
    assert "wide" not in page.tags


def test_the_scoreboard_counts_verdicts(page, tmp_path):
    lines = scoreboard(tasks.read_claims(tmp_path / "out"), tmp_path / "nb", "notebooks/").splitlines()
    assert lines[0] == "| notebook | question | holds | does not hold | split | not sure | not testable here |"
    assert lines[2] == "| [01_first](notebooks/01_first.ipynb) | Source | 1 |  |  |  | 1 |"
    assert len(lines) == 3, "notebooks without a verdict are no rows"
    first = page.words.index("What the papers claim, and what was seen here")
    assert page.words.index("Is a dog closer to a cat? See 0011") > first  # one holds, one can't be tested
    assert len(tasks.read_claims(tmp_path / "out" / "claims.csv")) == 2


def test_what_the_readme_shows_is_published(page, tmp_path):
    (tmp_path / "out").rename(tmp_path / "figures")
    (tmp_path / "nb").rename(tmp_path / "notebooks")
    readme, published = tmp_path / "README.md", tmp_path / "figures" / "published"
    board = "<!-- scoreboard -->\n<!-- end of scoreboard -->"
    readme.write_text(f"![plain](figures/published/01_first/plain.png)\n{board}\nThe end.")
    made = publish(tmp_path)
    assert [path.name for path in made] == ["plain.png", "claims.csv", "run.json"]
    assert (published / "01_first/plain.png").read_bytes() == (tmp_path / "figures/01_first/plain.png").read_bytes()
    assert json.loads((published / "run.json").read_text())["machine"]
    assert "| [01_first](notebooks/01_first.ipynb) | Source | 1 |" in readme.read_text()
    assert readme.read_text().endswith("<!-- end of scoreboard -->\nThe end.")
    readme.write_text("![gone](figures/published/01_first/gone.png)")
    with pytest.raises(CrossgapError, match=r"01_first/gone.png can't be published"):
        publish(tmp_path)


def test_the_readme_and_the_published_run_agree():
    board = scoreboard(tasks.read_claims(PUBLISHED / "claims.csv"), links="notebooks/")
    readme = (ROOT / "README.md").read_text()
    assert board in readme
    shown = re.findall(r"\((figures/[^)]+)\)", readme)
    assert len(shown) > 3
    assert all((ROOT / name).is_file() for name in shown)


def test_an_unfinished_page_is_never_left(page, tmp_path):
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "01_first",
        "03_failed.failed.ipynb",
        "claims.csv",
        "index.html",
    ]
