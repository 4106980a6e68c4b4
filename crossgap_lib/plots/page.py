"""A flat map as one HTML page: pointing at a point shows the picture and the words behind it.

The page needs no server, no other file and no library: it opens from a disk as well as in a frame in JupyterLab.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment

from crossgap_lib.errors import CrossgapError
from crossgap_lib.plots.atlas import data_url
from crossgap_lib.plots.maps import SETS
from crossgap_lib.plots.style import COLOURS, MARKERS
from crossgap_lib.tasks.maps import FlatMap, column

# Markers as SVG paths around (0, 0), of nearly one area each.
_SHAPES = {
    "o": "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "^": "M0-5.2L5 4H-5z",
    "s": "M-3.6-3.6h7.2v7.2h-7.2z",
    "D": "M0-5L5 0L0 5L-5 0z",
    "P": "M-1.6-4.6h3.2v3h3v3.2h-3v3h-3.2v-3h-3v-3.2h3z",
}


def map_page(
    table: pd.DataFrame, maps: Mapping[str, FlatMap], pictures: Mapping[str, bytes], *, title: str, note: str = ""
) -> str:
    """The page, as HTML.

    Args:
        table: ``tasks.point_table`` of the maps.
        maps: method -> map; buttons switch between them.
        pictures: source -> a JPEG, shown with every point of that source.
        title: what is shown, with N and seed.
        note: a sentence below it.

    Raises:
        CrossgapError: a set that has no colour and marker.
    """
    if strangers := set(table["set"]) - set(SETS):
        raise CrossgapError(f"There is no colour for the set {min(strangers)!r}; there are {', '.join(SETS)}.")
    sources = {source: k for k, source in enumerate(dict.fromkeys(table["source"]))}
    names = [name for name in SETS if name in set(table["set"])]
    data = {
        "maps": [_map(table, flat) for flat in maps.values()],
        "sets": [_look(name, int((table["set"] == name).sum())) for name in names],
        "points": [_point(row, names, sources) for row in table.itertuples()],
        "pictures": [data_url(pictures[source]) if source in pictures else None for source in sources],
    }
    # "<" inside a script could close it: a caption may hold anything
    return _PAGE.render(title=title, note=note, data=json.dumps(data).replace("<", "\\u003c"))


def _map(table: pd.DataFrame, flat: FlatMap) -> dict[str, Any]:
    """Places between 0 and 1, y downwards as SVG has it."""
    xy = table[[f"{column(flat.method)}_{axis}" for axis in "xy"]].to_numpy(float)
    low, extent = xy.min(axis=0), np.ptp(xy, axis=0)
    flat_xy = (xy - low) / np.where(extent > 0, extent, 1)
    flat_xy[:, 1] = 1 - flat_xy[:, 1]
    words = f"trustworthiness {flat.trustworthiness:.3f} ({flat.n_neighbors} neighbours, cosine)"
    return {"name": flat.method, "axes": flat.axes, "words": words, "xy": flat_xy.round(4).tolist()}


def _look(name: str, n: int) -> dict[str, Any]:
    modality, label, _ = SETS[name]
    big = 1.7 if name == "prompt" else 1
    return {"label": label, "n": n, "colour": COLOURS[modality], "shape": _SHAPES[MARKERS[modality]], "size": big}


def _point(row: Any, names: list[str], sources: Mapping[str, int]) -> list[Any]:
    words = [None if pd.isna(value) else value for value in (row.label, row.text)]
    return [names.index(row.set), sources[row.source], *words]


_PAGE = Environment(autoescape=True).from_string("""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
:root { --ground: #fff; --ink: #1a1a1a; --soft: #5c5c5c; --line: #c4c4c4; --panel: #f4f4f4; color-scheme: light; }
:root.dark { --ground: #181818; --ink: #ececec; --soft: #b0b0b0; --line: #555; --panel: #262626; color-scheme: dark; }
body { margin: 0; padding: 12px 16px; background: var(--ground); color: var(--ink);
 font: 14px/1.4 system-ui, sans-serif; }
h1 { font-size: 16px; margin: 0 0 2px; }
p { margin: 0 0 6px; color: var(--soft); }
fieldset { display: inline-flex; flex-wrap: wrap; gap: 2px 14px; border: 0; padding: 0; margin: 0 24px 6px 0; }
legend { float: left; padding: 0; margin-right: 10px; color: var(--soft); }
label { display: inline-flex; align-items: center; gap: 4px; cursor: pointer; }
label svg { width: 16px; height: 16px; }
main { display: flex; flex-wrap: wrap; gap: 14px; }
figure { flex: 1 1 420px; margin: 0; max-width: 900px; }
#map { display: block; width: 100%; max-height: max(300px, calc(100vh - 160px));
 border: 1px solid var(--line); border-radius: 4px; cursor: crosshair; }
#map:focus-visible { outline: 3px solid #56b4e9; }
.point { stroke: var(--ground); stroke-width: 0.6; opacity: 0.85; }
.prompt { stroke: var(--ink); stroke-width: 0.8; opacity: 1; }
.hidden { display: none; }
#links line { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 3; opacity: 0.7; }
#rings circle { fill: none; stroke: var(--ink); stroke-width: 1.6; }
figcaption { color: var(--soft); font-size: 12.5px; margin-top: 3px; }
#card { flex: 0 1 210px; min-height: 300px; background: var(--panel); border-radius: 4px; padding: 12px; }
#card img { width: 186px; image-rendering: pixelated; border-radius: 3px; display: block; margin-bottom: 8px; }
#card strong { display: flex; align-items: center; gap: 5px; }
#card svg { width: 18px; height: 18px; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
{% if note %}<p>{{ note }}</p>{% endif %}
<fieldset id="methods"><legend>Map</legend></fieldset>
<fieldset id="sets"><legend>Show</legend></fieldset>
<main>
<figure>
<svg id="map" viewBox="0 0 760 520" tabindex="0" role="application"
 aria-label="Map of embeddings. Arrow keys walk from point to point, Enter holds one, Escape lets it go.">
<g id="links"></g><g id="points"></g><g id="rings"></g></svg>
<figcaption id="words"></figcaption>
</figure>
<aside id="card" aria-live="polite"></aside>
</main>
<script type="application/json" id="data">{{ data | safe }}</script>
<script>
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg", WIDTH = 760, HEIGHT = 520, MARGIN = 16, REACH = 26;
const map = document.getElementById("map"), card = document.getElementById("card");
let shown = data.maps[0], chosen = null, held = false;

function make(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

function place(i) {
  const [x, y] = shown.xy[i];
  return [MARGIN + x * (WIDTH - 2 * MARGIN), MARGIN + y * (HEIGHT - 2 * MARGIN)];
}

function marker(look, parent) {
  const svg = make("svg", { viewBox: "-9 -9 18 18", "aria-hidden": "true" }, parent);
  make("path", { d: look.shape, fill: look.colour, transform: `scale(${1.3 * Math.sqrt(look.size)})` }, svg);
}

const points = data.points.map(([set]) => {
  const look = data.sets[set], name = "point" + (look.size > 1 ? " prompt" : "");
  return make("path", { d: look.shape, fill: look.colour, class: name }, document.getElementById("points"));
});
const kin = data.pictures.map(() => []);
data.points.forEach(([, source], i) => kin[source].push(i));
const visible = i => !points[i].classList.contains("hidden");

function drawMap() {
  points.forEach((point, i) => {
    const [x, y] = place(i), size = data.sets[data.points[i][0]].size;
    point.setAttribute("transform", `translate(${x.toFixed(1)} ${y.toFixed(1)}) scale(${size})`);
  });
  document.getElementById("words").textContent =
    `${shown.name}: ${shown.axes[0]} to the right, ${shown.axes[1]} upwards; ${shown.words}`;
  choose(chosen);
}

function drawRings() {
  const links = document.getElementById("links"), rings = document.getElementById("rings");
  links.replaceChildren();
  rings.replaceChildren();
  if (chosen === null) return;
  const [x, y] = place(chosen);
  for (const other of kin[data.points[chosen][1]].filter(visible)) {
    const [x2, y2] = place(other);
    make("line", { x1: x, y1: y, x2: x2, y2: y2 }, links);
    make("circle", { cx: x2, cy: y2, r: other === chosen ? 10 : 7 }, rings);
  }
}

function drawCard() {
  card.replaceChildren();
  const line = (name, text) => { card.appendChild(document.createElement(name)).append(text); };
  if (chosen === null) {
    line("p", "Point at the map, or walk with the arrow keys. A click or Enter holds a point, Escape lets it go.");
    line("p", "Dashed lines lead to the other points of the same picture.");
    return;
  }
  const [set, source, label, text] = data.points[chosen], look = data.sets[set];
  if (data.pictures[source]) {
    const image = document.createElement("img");
    image.src = data.pictures[source];
    image.alt = text || label || "the picture of this point";
    card.append(image);
  }
  const heading = card.appendChild(document.createElement("strong"));
  marker(look, heading);
  heading.append(look.label + (held ? " (held)" : ""));
  if (label) line("div", "class: " + label);
  if (text) line("div", text);
}

function choose(i) {
  chosen = i !== null && visible(i) ? i : null;
  if (chosen === null) held = false;
  drawRings();
  drawCard();
}

function nearest(x, y, wanted) {
  let best = null, least = Infinity;
  points.forEach((_, i) => {
    if (!visible(i)) return;
    const [px, py] = place(i), cost = wanted(px - x, py - y, i);
    if (cost < least) [best, least] = [i, cost];
  });
  return best;
}

function under(event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM().inverse());
  return nearest(at.x, at.y, (dx, dy) => { const d = Math.hypot(dx, dy); return d < REACH ? d : Infinity; });
}

map.addEventListener("pointermove", event => {
  const found = held ? chosen : under(event);
  if (found !== chosen) choose(found);
});
map.addEventListener("pointerleave", () => { if (!held) choose(null); });
map.addEventListener("click", event => {
  const found = under(event);
  held = found !== null && !(held && found === chosen);
  choose(found);
});

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
map.addEventListener("keydown", event => {
  if (event.key === "Escape") { held = false; choose(null); }
  else if (event.key === "Enter" || event.key === " ") { held = chosen !== null && !held; choose(chosen); }
  else if (ARROWS[event.key]) walk(...ARROWS[event.key]);
  else return;
  event.preventDefault();
});

// The nearest point within 45 degrees of the arrow; from the middle of the map where none is chosen yet.
function walk(ax, ay) {
  const [x, y] = chosen === null ? [WIDTH / 2, HEIGHT / 2] : place(chosen);
  const next = nearest(x, y, (dx, dy, i) => {
    const along = dx * ax + dy * ay, aside = Math.abs(dx * ay) + Math.abs(dy * ax);
    return i !== chosen && (chosen === null || (along > 0 && aside <= along)) ? Math.hypot(dx, dy) : Infinity;
  });
  if (next !== null) choose(next);
}

function option(type, text, checked, look, act) {
  const group = document.getElementById(type === "radio" ? "methods" : "sets");
  const label = group.appendChild(document.createElement("label"));
  const input = label.appendChild(document.createElement("input"));
  Object.assign(input, { type, name: group.id, checked });
  input.addEventListener("change", () => act(input.checked));
  if (look) marker(look, label);
  label.append(text);
}

for (const one of data.maps) option("radio", one.name, one === shown, null, () => { shown = one; drawMap(); });
data.sets.forEach((look, k) => option("checkbox", `${look.label} (${look.n})`, true, look, on => {
  points.forEach((point, i) => { if (data.points[i][0] === k) point.classList.toggle("hidden", !on); });
  choose(chosen);
}));

// JupyterLab says on its body which theme it has; elsewhere the system is asked.
const system = matchMedia("(prefers-color-scheme: dark)");
function lab() { try { return parent === window ? null : parent.document.body; } catch { return null; } }
function theme() {
  const light = lab()?.dataset.jpThemeLight;
  document.documentElement.classList.toggle("dark", light === undefined ? system.matches : light === "false");
}
system.addEventListener("change", theme);
if (lab()) new MutationObserver(theme).observe(lab(), { attributes: true });
theme();
drawMap();
</script>
</body>
</html>
""")
