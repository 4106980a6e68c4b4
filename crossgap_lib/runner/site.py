"""``figures/index.html``: one static page of what the notebooks made, verdicts first, for file:// as for a server."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import mistune
import nbformat
import pandas as pd
from jinja2 import Environment
from PIL import Image

from crossgap_lib.paths import NOTEBOOKS
from crossgap_lib.runner.notebooks import list_notebooks
from crossgap_lib.runner.staleness import read_record
from crossgap_lib.store import whole
from crossgap_lib.tasks.claims import VERDICTS, claims_table, count_verdicts, read_claims

# A sentence ends at . ! or ? before a capital, unless the full stop belongs to "App. B", "Fig. 2" or "et al."
_SENTENCE = re.compile(
    r"(?<=[.!?])(?<!App\.)(?<!Fig\.)(?<!Tab\.)(?<!Eq\.)(?<!Sec\.)(?<!al\.)(?<!vs\.)\s+(?=[A-Z*_`(\"])"
)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_markdown = mistune.create_markdown(escape=True, plugins=["table", "strikethrough"])


@dataclass(frozen=True)
class Figure:
    """A figure on the page: a PNG and the files of the same name beside it. Links are relative to the index."""

    alt: str
    png: str
    full: str  # the SVG, or the PNG if there is none
    csv: str | None
    size: tuple[int, int] | None  # width, height in pixels


@dataclass(frozen=True)
class Section:
    """What the index says of one notebook."""

    name: str
    title: str
    lead: str  # HTML: the first sentence
    record: dict[str, Any]
    figures: list[Figure]
    tables: list[tuple[str, str]]  # CSV files without a figure: name, link
    verdicts: str  # HTML: its claims, judged
    executed: str | None
    failed: str | None

    @property
    def missing(self) -> bool:
        """Whether there is nothing to show. Figures may be there without a run, if they were committed."""
        return not (self.executed or self.figures or self.failed)


def write_index(out: Path, notebooks: Path) -> Path:
    """Writes ``out/index.html`` from what is in ``out`` and the notebooks' own titles, and ``out/claims.csv``, the
    verdict tables of all notebooks together; returns the page's path."""
    claims = read_claims(out)
    if len(claims):
        with whole(out / "claims.csv") as part:
            claims.to_csv(part, index=False)
    sections = [_section(notebook, out, claims) for notebook in list_notebooks(notebooks)]
    page = out / "index.html"
    with whole(page) as part:
        part.write_text(
            _PAGE.render(sections=sections, board=_board(claims, sections), verdicts=VERDICTS), encoding="utf-8"
        )
    return page


def scoreboard(claims: pd.DataFrame, notebooks: Path = NOTEBOOKS, links: str = "") -> str:
    """Notebooks with verdicts as a Markdown table: name, question, and how many of its claims have which verdict.

    ``links``: where the notebooks lie, seen from the page that shows the table.
    """
    counts = count_verdicts(claims)
    lines = [["notebook", "question", *counts.columns], ["---", "---", *["---:"] * len(counts.columns)]]
    for path in list_notebooks(notebooks):
        if path.stem in counts.index:
            title = _title(nbformat.read(path, as_version=4)).replace("|", "\\|")
            numbers = (str(n) if n else "" for n in counts.loc[path.stem])
            lines.append([f"[{path.stem}]({links}{path.name})", title, *numbers])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _board(claims: pd.DataFrame, sections: Sequence[Section]) -> list[tuple[Section, list[int]]]:
    """Each section with the numbers of its verdicts; empty where nothing was judged."""
    counts = count_verdicts(claims)
    return [(s, counts.loc[s.name].tolist()) for s in sections if s.name in counts.index]


def _section(notebook: Path, out: Path, claims: pd.DataFrame) -> Section:
    folder = out / notebook.stem
    executed, failed = folder / notebook.name, out / f"{notebook.stem}.failed.ipynb"
    nb = nbformat.read(executed if executed.is_file() else notebook, as_version=4)
    pictures = sorted(folder.rglob("*.png"))
    tables = [csv for csv in sorted(folder.rglob("*.csv")) if csv.with_suffix(".png") not in pictures]
    own = claims[claims["notebook"] == notebook.stem]
    return Section(
        name=notebook.stem,
        title=_title(nb) or _words(notebook.stem),
        lead=_lead(nb),
        record=read_record(folder),
        figures=[_figure(png, out) for png in pictures],
        tables=[(csv.name, _link(csv, out)) for csv in tables],
        verdicts=claims_table(own).to_html() if len(own) else "",
        executed=_link(executed, out) if executed.is_file() else None,
        failed=_link(failed, out) if failed.is_file() else None,
    )


def _figure(png: Path, out: Path) -> Figure:
    svg, csv = png.with_suffix(".svg"), png.with_suffix(".csv")
    size, alt = _size_and_words(png)
    return Figure(
        alt=alt or _words(png.stem),
        png=_link(png, out),
        full=_link(svg if svg.is_file() else png, out),
        csv=_link(csv, out) if csv.is_file() else None,
        size=size,
    )


def _size_and_words(png: Path) -> tuple[tuple[int, int] | None, str]:
    """The size, told to the browser so that the page does not jump while pictures load, and what the picture shows."""
    try:
        with Image.open(png) as picture:
            return picture.size, picture.info.get("Description", "")
    except OSError:  # a broken picture is no reason to lose the index
        return None, ""


def _words(stem: str) -> str:
    return re.sub(r"[_-]+", " ", stem)


def _link(path: Path, out: Path) -> str:
    return quote(path.relative_to(out).as_posix())


# ---------------------------------------------------------------- words from the notebook


def _prose(nb: nbformat.NotebookNode) -> list[str]:
    """Markdown blocks in order, papermill's own remarks left out."""
    cells = [c for c in nb.cells if c.cell_type == "markdown" and not c.source.lstrip().startswith("<")]
    return [block.strip() for cell in cells for block in re.split(r"\n\s*\n|(?<=\n)(?=#)", cell.source)]


def _title(nb: nbformat.NotebookNode) -> str:
    headings = (block.splitlines()[0] for block in _prose(nb) if block.startswith("#"))
    return _LINK.sub(r"\1", next(headings, "").lstrip("# ")).replace("`", "").replace("*", "")


def _lead(nb: nbformat.NotebookNode) -> str:
    """First sentence of the first paragraph; its links would lead nowhere from the index."""
    paragraphs = (re.sub(r"^#.*\n?", "", block) for block in _prose(nb))
    first = next((text for text in paragraphs if text.strip()), "")
    return _markdown(_SENTENCE.split(_LINK.sub(r"\1", first), maxsplit=1)[0])


# ---------------------------------------------------------------- the page

_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>crossgap: figures</title>
<style>
:root { --ground: #fbfaf8; --ink: #1d1d1f; --soft: #63636a; --line: #dedad3; --link: #0b5cad; --warn: #a3330b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #17181b; --ink: #e8e6e1; --soft: #a2a1a0; --line: #36383d; --link: #82b7ff; --warn: #ff9d76; }
}
html { scroll-behavior: smooth; scroll-padding-top: 1rem; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; max-width: 78rem; padding: 2.5rem 1.25rem 5rem; background: var(--ground); color: var(--ink);
  font: 1rem/1.6 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; }
h2 { font-size: 1.4rem; line-height: 1.3; margin: 0; }
p, nav { max-width: 46rem; }
a { color: var(--link); }
nav ol { list-style: none; margin: 0; padding: 0; }
nav li { padding: .2rem 0; }
nav .number, .facts, figcaption { color: var(--soft); font-size: .875rem; }
nav .number { font-variant-numeric: tabular-nums; margin-right: .5rem; }
section { border-top: 1px solid var(--line); margin-top: 3rem; padding-top: 2rem; }
.facts { margin: .35rem 0 0; }
.warn { color: var(--warn); }
.verdicts, .board { margin: 1.25rem 0; font-size: .875rem; }
.board td + td, .board th + th { text-align: right; }
.figures { display: grid; gap: 1.75rem; margin-top: 1.5rem; }
figure { margin: 0; min-width: 0; }
figure a.picture { display: block; width: fit-content; max-width: 100%; box-sizing: border-box; background: #fff;
  border: 1px solid var(--line); border-radius: 8px; padding: .75rem; }
figure img { display: block; max-width: 100%; height: auto; color: #1d1d1f; }
figcaption { margin-top: .4rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .75rem .25rem 0; text-align: left; }
code { font-size: .9em; }
@media print { nav { display: none; } figure { break-inside: avoid; } }
</style>
</head>
<body>
<h1>crossgap: figures</h1>
<nav aria-label="Contents">
<ol>
{% for s in sections %}
<li><span class="number">{{ s.name[:2] }}</span><a href="#{{ s.name }}">{{ s.title }}</a>\
{% if s.failed %} <span class="warn">(last run failed)</span>{% elif s.missing %} (not run yet){% endif %}</li>
{% endfor %}
</ol>
</nav>
<main>
{% if board %}
<table class="board">
<caption>What the papers claim, and what was seen here (<a href="claims.csv">all claims</a>)</caption>
<tr><th>notebook</th>{% for verdict in verdicts %}<th>{{ verdict }}</th>{% endfor %}</tr>
{% for s, counts in board %}
<tr><td><a href="#{{ s.name }}">{{ s.title }}</a></td>{% for n in counts %}<td>{{ n or "" }}</td>{% endfor %}</tr>
{% endfor %}
</table>
{% endif %}
{% for s in sections %}
<section id="{{ s.name }}" aria-labelledby="{{ s.name }}-title">
<h2 id="{{ s.name }}-title">{{ s.title }}</h2>
<p class="facts">
{% if s.record %}
Ran <time datetime="{{ s.record.finished }}">{{ s.record.finished[:16] | replace("T", " ") }} UTC</time> \
in {{ "%.0f" | format(s.record.seconds) }} s\
{% for name, value in s.record.parameters.items() if value %}{{ ": " if loop.first else ", " }}\
<code>{{ name }}={{ value }}</code>{% endfor %}.
{% elif s.missing %}
Not run yet: <code>crossgap figures --only {{ s.name[:2] }}</code> makes its figures.
{% endif %}
{% if s.executed %}<a href="{{ s.executed }}">Executed notebook</a>{% endif %}
</p>
{% if s.failed %}
<p class="warn">The last run failed{{ "; what is shown is older" if s.figures }}.
<a href="{{ s.failed }}">The notebook with its error</a></p>
{% endif %}
{{ s.lead | safe }}
{% if s.verdicts %}<div class="verdicts">{{ s.verdicts | safe }}</div>{% endif %}
{% if s.figures %}
<div class="figures">
{% for f in s.figures %}
<figure>
<a class="picture" href="{{ f.full }}"><img src="{{ f.png }}" alt="{{ f.alt }}" loading="lazy"\
{% if f.size %} width="{{ f.size[0] }}" height="{{ f.size[1] }}"{% endif %}></a>
<figcaption>{{ f.alt }}{% if f.csv %} · <a href="{{ f.csv }}">numbers (CSV)</a>{% endif %}</figcaption>
</figure>
{% endfor %}
</div>
{% endif %}
{% if s.tables %}
<p class="facts">More numbers: {% for name, link in s.tables %}<a href="{{ link }}">{{ name }}</a>\
{{ "" if loop.last else ", " }}{% endfor %}</p>
{% endif %}
</section>
{% endfor %}
</main>
</body>
</html>
""")
