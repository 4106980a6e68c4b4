"""Every figure is drawn once from small made-up results; the sliders of the explorers are moved by hand."""

import re
from dataclasses import replace
from hashlib import blake2b
from importlib import import_module
from itertools import chain
from pkgutil import iter_modules

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets import IntSlider, Play, ToggleButtons
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import StepPatch
from PIL import Image

from crossgap_lib import plots, tasks
from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.embeddings.embeddings import MODALITIES, Embeddings
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.metrics import overlap_coefficient
from crossgap_lib.plots import style, widgets
from crossgap_lib.plots.inversion import inversion_state
from crossgap_lib.plots.maps import walk_state
from crossgap_lib.tasks.degrees_of_freedom import Anchors
from crossgap_lib.tasks.maps import flat_map

RNG = np.random.default_rng(0)
SAMPLES = {"image-image": RNG.normal(0.7, 0.1, 300), "text-image": RNG.normal(0.2, 0.1, 200)}
COLOURS = {"image-image": plots.COLOURS["image"], "text-image": plots.COLOURS["text"]}
PICTURES = [Image.new("RGB", (4, 4), (40 * k, 0, 0)) for k in range(5)]


def gallery(n=12, d=4):
    labels = np.arange(n) % 2
    features = np.random.default_rng(1).normal(size=(n, d)) + np.eye(d)[labels]
    return Embeddings(features, labels=labels, class_names=("cat", "dog"))


def texts(n=12, d=4):
    return Embeddings(np.random.default_rng(2).normal(size=(n, d)) - 1, [f"t{k}" for k in range(n)], modality="text")


def fake_runs(steps=(0, 1, 2, 5)):
    """One and two pseudo-tokens on their way from random features to the native ones of six pictures."""
    native, runs = gallery()[:6], {}
    for n in (1, 2):
        start = torch.randn(native.features.shape, generator=torch.Generator().manual_seed(n))
        shots = {s: torch.nn.functional.normalize(start.lerp(native.features, n * s / 10), dim=1) for s in steps}
        own = {"tokens": torch.zeros(6, n, 3), "losses": torch.zeros(steps[-1], 6), "snapshots": shots}
        runs[n] = Inversion(shots[steps[-1]], native.ids, native.labels, modality="oti", **own)
    return runs


MEASURES = pd.DataFrame(
    [
        (stage, task, kind, 9, metric, value, *((value - 2, value + 1) if task == "image-image" else (np.nan, np.nan)))
        for stage, value in (("all pictures", 80.0), ("perfectly ranked", 90.0))
        for task in ("text-image", "image-image")
        for kind in ("cat", "dog")
        for metric in ("mAP", "R-Precision")
    ],
    columns=["stage", "task", "query class", "queries", "metric", "value", "low", "high"],
)
PUBLISHED = {("dog", "mAP"): 83.1, ("dog", "R-Precision"): 73.2}
AGREEMENT = pd.DataFrame(
    [
        (factor, method, value, value - 3, value + 2)
        for factor in ("colour", "size")
        for method, value in (("any wrong picture", 20.5), ("nearest wrong picture", 70.5))
    ],
    columns=["factor", "method", "value", "low", "high"],
)
SIBLINGS = pd.DataFrame(
    [
        (q, pair, *rest)
        for q in ("overlap", "mAP (%)")
        for pair in ("a to b", "c to d")
        for rest in (("without", 40.0, 38.0, 45.0), ("with", 41.0, 38.0, 45.0))
    ],
    columns=["quantity", "pair", "objective", "value", "low", "high"],
)
DIAL = pd.DataFrame(
    [(m, s, 100 * s, 90 * s, 110 * s) for m in ("mini-clip", "mini-slip") for s in (0, 0.5, 1)],
    columns=["model", "strength", "value", "low", "high"],
)
NEIGHBOURS = pd.DataFrame(
    [(0, 1, 2, 0.9, 0.8, 3), (3, 4, 2, 0.7, 0.95, 0)],
    columns=["query", "wrong", "right", "wrong_score", "right_score", "rank_lost"],
)
LADDER = pd.DataFrame({"model": ["CLIP ViT-B/32", "SigLIP ViT-B/16"], "value": [0.82, 1.05]})


def curves(**options):
    curve = tasks.along_steps(fake_runs(), gallery())
    return plots.inversion_curves(curve, native=60.0, unit="pseudo-token", modality="oti", **options)


def state():
    curve, densities = tasks.along_steps(fake_runs(), gallery()), np.array([0.0, 1.0, 3.0, 1.0])
    inverted = {(n, step): densities[::-1] for n, step in zip(curve["n"], curve["step"], strict=True)}
    figure, move = inversion_state(curve, inverted, densities, densities, native=60.0, unit="patch", modality="oti")
    move(2, 5)
    return figure


def walk():
    table, native, walks = cones()
    figure, move = walk_state(flat(), walks, table, native)
    move(2, 5)
    return figure


def compute():
    both = tasks.along_steps({1: fake_runs()[1]}, gallery())
    return plots.against_compute(both, both, native=60.0, modality="oti", marked=1.5)


def bench(lengths=True):
    row = {"batch": 8, "length": 77, "us_per_sample_step": 9.0, "ratio": 1.0, "loop": "textbook"}
    rows = [row, row | {"loop": "engine", "us_per_sample_step": 3.0, "ratio": 3.0}]
    facts = {"method": "oti", "arch": "ViT-B-32", "precision": "fp32"}
    return plots.bench_curves(facts | {"batches": rows, "lengths": rows if lengths else []})


def flat(n=40):
    """Images, texts and prompts on two maps, the second one a copy of the first under another name."""
    sets = {"image": gallery(n), "text": texts(n), "prompt": texts(3)}
    pca = flat_map(sets, "PCA", n_neighbors=5)
    return {"PCA": pca, "UMAP": replace(pca, method="UMAP", axes=("UMAP 1", "UMAP 2"))}


def cones():
    """(table of the walk, table of the native sets, walks on the maps)."""
    walk, runs = flat(), fake_runs()
    native = tasks.cone_places({"images": gallery(), "texts": texts()}, gallery(), texts())
    return tasks.along_cones(runs, gallery(), texts()), native, tasks.walks(walk, runs)


def counts():
    """Rows of two models, of which the second reads no text."""
    images, captions = gallery(), texts()
    by_class, by_modality = tasks.count_by_class(images), tasks.count_by_modality(images, captions)
    return {"mini-clip": (by_class, by_modality), "timm:vit": (by_class, {})}


ERRORS = pd.DataFrame({"noise": [1e-6, 1e-4, 1e-2], "rms": [1e-9, 1e-3, 0.2], "pearson": [1.0, 0.9, -0.1], "seed": 0})


def recovery_errors():
    rows = [
        (d, n, norms, seed, 10.0 ** -(n + seed))
        for d in (2, 3)
        for n in (2, 5, 9)
        for norms in ("both", "images")
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["d", "n", "norms", "seed", "rms"])


def anchors():
    spectra = {f"{k} captions": Anchors(4, np.geomspace(1, 0.1, min(k, 4))) for k in (3, 9)}
    table = [ERRORS.assign(anchors=k, drop=drop) for k in (3, 9) for drop in (False, True)]
    return plots.anchor_curves(spectra, pd.concat(table), spread=0.1)


ANSWERS = {"Original": np.linspace(0, 1, 9), "OTI": np.linspace(0, 0.8, 9), "PCA": np.linspace(0.2, 1, 9)}
GAINS = tasks.gain_table(ANSWERS, "Original").assign(published=[40.0, 42.0, np.nan])
ALONE = pd.DataFrame({"method": ["Original"], "value": [58.6], "panel": "real"})  # without intervals
REPORTED = tasks.published_few_shot()


def dots():
    """Panels of images, of texts, and of a model that is measured elsewhere."""
    oracle = ANSWERS | {"OTI, best step": np.linspace(0.1, 1, 9)}
    chosen = tasks.gain_table(oracle, "Original").assign(published=np.nan, panel="chosen")
    texts = GAINS.replace({"OTI": "OVI 2 patches"}).assign(panel="texts")
    return pd.concat([chosen.sort_values("method", kind="stable"), texts, ALONE])


SHOTS = pd.DataFrame(
    [
        ("m", "image only", k, over, method, 50.0 + k, 48.0 + k, 52.0 + k, 2.0, 1.0, 3.0)
        for over in ("Prototype", "LDA")
        for method in (over, f"{over} + PCA")
        for k in (1, 4)
    ],
    columns=[
        *("model", "setting", "shots", "over", "method", "value", "low", "high", "gain", "gain low", "gain high"),
    ],
)
NAMES = pd.concat(tasks.gain_table(ANSWERS, "Original").assign(model=m, **{"asked about": "kind"}) for m in "ab")
BANDS = GAINS[1:].assign(share=[0.0, 0.5])
REPORTED_GAINS = pd.DataFrame({"share": [0.3], "gain": [4.2], "name": ["CLIP ViT-B/32"]})


def gains_along(**options):
    table = pd.concat([BANDS.assign(words="PCA of names"), BANDS.assign(words="Random subspace", gain=[-3.0, -1.0])])
    return plots.gain_curves(table, "share", "share", by="words", reported=REPORTED_GAINS, **options)


def panels(**options):
    """Two methods and a hindsight's choice, for two questions at two strengths, the last one without the first m."""
    rows = [
        (f"strength {s}", panel, method, m, y, y - 5, y + 5, 8.0)
        for s in (1, 2)
        for panel in ("kind", "colour")
        for method, y in (("OTI", 40.0), ("PCA of kinds", -10.0), ("OTI, best step", 60.0))
        for m in (0, 50, 100)[s == 2 :]
    ]
    columns = ["strength", "panel", "method", "m", "value", "low", "high", "chance"]
    return plots.line_panels(pd.DataFrame(rows, columns=columns), "m", "m (%)", by="method", **options)


GAPS = BANDS.assign(model=["wide", "narrow"], gap=[0.8, 0.1], family="wide", panel="OTI")


def gap_points():
    reported = REPORTED_GAINS.assign(gap=0.5, panel="OTI")
    return plots.gap_points(pd.concat([GAPS, GAPS.assign(panel="PCA")]), reported)


def captions(models=("nano-m0", "nano-m1")):
    curve, found = tasks.along_steps({1: fake_runs()[1]}, gallery()), list(zip(PICTURES, "abaab", strict=True))
    return plots.caption_rows(dict.fromkeys(models, (tasks.count_by_class(gallery()), curve, 60.0, found)))


FIGURES = {
    "against_compute": compute,
    "bench_curves": bench,
    "bench_curves, one panel": lambda: bench(lengths=False),
    "contact_sheet": lambda: plots.contact_sheet(PICTURES, ["a", "b", "c", "d", "e"], columns=3),
    "contact_sheet, no titles": lambda: plots.contact_sheet(PICTURES),
    "neighbour_pairs": lambda: plots.neighbour_pairs(NEIGHBOURS, dict(enumerate(PICTURES)), list("abcde")),
    "histograms": lambda: plots.histograms(SAMPLES, COLOURS, title="similarities"),
    "histogram_panels": lambda: plots.histogram_panels({"one": SAMPLES, "two": SAMPLES, "three": SAMPLES}, COLOURS),
    "count_histograms": lambda: plots.count_histograms(
        counts(), ("by class", "by modality"), {("mini-clip", "by class"): 0.3}
    ),
    "sibling_slopes": lambda: plots.sibling_slopes(SIBLINGS, "an objective"),
    "dial_curves": lambda: plots.dial_curves(DIAL, {0: 0.0, 0.5: 75.0, 1: 100.0}),
    "method_dots": lambda: plots.method_dots(dots(), "mAP (%)"),
    "method_dots, an empty place": lambda: plots.method_dots(dots(), "mAP (%)", columns=2),
    "gain_curves": lambda: gains_along(best=True, log=True),
    "band_gains": lambda: plots.band_gains([3.0, 2.0, 1.0, 0.5], (1, 1), BANDS, REPORTED_GAINS),
    "line_panels": lambda: panels(ylabel="gain", row="strength"),
    "line_panels, a scale each": panels,
    "gap_points": gap_points,
    "change_dots": lambda: plots.change_dots(GAPS),
    "caption_rows": captions,
    "caption_rows, one": lambda: captions(["nano-m0"]),
    "gain_grid": lambda: plots.gain_grid(pd.concat([GAINS.assign(task="kind"), GAINS.assign(task="colour")])),
    "accuracy_panels": lambda: plots.accuracy_panels(SHOTS, REPORTED, {"m": "CLIP ViT-B"}),
    "shot_gains": lambda: plots.shot_gains(
        dict.fromkeys("abcd", SHOTS), ["over"], "gain", reported={"a": tasks.published_pca_gains(REPORTED)}
    ),
    "names_bars": lambda: plots.names_bars(NAMES),
    "two_images": lambda: plots.two_images(
        {"alike": np.eye(2), "unlike": np.eye(2)},
        ["a cat", "a dog"],
        ERRORS.assign(anchors=[1, 2, 4]),
        {"alike": PICTURES[:2]},
    ),
    "stage_lines": lambda: plots.stage_lines(MEASURES, PUBLISHED),
    "agreement_dots": lambda: plots.agreement_dots(AGREEMENT),
    "inversion_curves": curves,
    "inversion_state": state,
    "gap_map": lambda: plots.gap_map(gallery(40), texts(40), limit=30),
    "gap_dimensions": lambda: plots.gap_dimensions(
        tasks.separating_dimensions(gallery(), texts()), gallery(), texts(), top=3
    ),
    "two_readings": plots.two_readings,
    "gap_ladder": lambda: plots.gap_ladder({"mini-clip": 0.9}, LADDER),
    "map_grid": lambda: plots.map_grid({"left": flat(), "right": flat()}),
    "map_grid, one column": lambda: plots.map_grid({"": flat()}),
    "walk_panels": lambda: plots.walk_panels(flat(), cones()[2][1], [0, 2, 5]),
    "walk_state": walk,
    "cone_curves": lambda: plots.cone_curves(*cones()[:2]),
    "projected_histograms": lambda: plots.projected_histograms(
        {"one": SAMPLES, "two": SAMPLES}, COLOURS, ["mAP 1", "mAP 2"]
    ),
    "recovery_threshold": lambda: plots.recovery_threshold(recovery_errors()),
    "anchor_curves": anchors,
    "noise_curves": lambda: plots.noise_curves(ERRORS.assign(n=9), spread=0.1),
    "readout_noise": lambda: plots.readout_noise(
        {"random": ERRORS.assign(name="sigmoid", scale=10.0), "real": ERRORS.assign(name="softmax", scale=100.0)}
    ),
}


def words_in(figure: Figure) -> str:
    """All that is written in a figure, once it is laid out."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(mpl.text.Text))


# ---------------------------------------------------------------- figures


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_written(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert figure._repr_png_()[0].startswith(b"\x89PNG")  # how a notebook shows it
    assert plots.save_figure(figure, tmp_path, "f", AGREEMENT) is figure
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f.csv", "f.png", "f.svg"]
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)  # an opaque white ground in a dark theme
        assert min(picture.size) > 90
        assert len(np.unique(np.asarray(picture.convert("L")))) > 4
    assert "<svg" in (tmp_path / "f.svg").read_text()


def test_labels_are_short_and_say_what_is_missing():
    said = words_in(FIGURES["count_histograms"]())
    assert "vit" in said
    assert "timm:" not in said
    assert "no such pairs" in said
    assert said.count("overlap 0.30") == 1
    assert style.short_name("local-dir:some/where/mini-x") == "mini-x"
    assert style.short_name("ViT-B-32,openai") == "ViT-B-32,openai"


def test_methods_share_one_scale_and_what_labels_chose_is_hollow():
    chosen, texts, alone = FIGURES["method_dots"]().axes
    assert chosen.get_xlim() == texts.get_xlim() == alone.get_xlim()
    rings = [line for line in chosen.lines if line.get_markersize() > 10]
    assert [ring.get_markerfacecolor() for ring in rings] == ["none"]
    line, *_ = texts.lines  # the original features, which are texts where OVI alone inverts
    assert line.get_color() == plots.COLOURS["text"]
    assert chosen.lines[0].get_color() == plots.COLOURS["image"]
    assert [label.get_text() for label in chosen.get_yticklabels()] == ["OTI", "Original", "PCA", "OVI 2 patches"]
    assert not any(label.get_text() for label in texts.get_yticklabels()), "methods are named once, at the left"


def test_more_lines_than_colours_are_told_apart():
    pairs = pd.concat(SIBLINGS.assign(pair=SIBLINGS["pair"] + str(k)) for k in range(4))
    assert len(plots.sibling_slopes(pairs, "an objective").legends[0].get_texts()) == 8 > len(plots.SERIES)
    assert len({tuple(style.line_look(k).items()) for k in range(30)}) == 30


def test_panels_share_a_scale_that_their_label_names_and_what_hindsight_chose_has_no_line():
    first, *others = FIGURES["line_panels"]().axes
    assert len(others) == 3
    assert {ax.get_ylim() for ax in others} == {first.get_ylim()}
    assert first.get_ylabel() == "strength 1\ngain"
    hollow = [line for line in first.lines if line.get_markerfacecolor() == "none"]
    assert [line.get_linestyle() for line in hollow] == ["None"]
    assert hollow[0].get_ydata().tolist() == [60.0] * 3
    dotted = [line.get_ydata().tolist() for line in others[-1].lines if line.get_linestyle() == ":"]
    assert dotted == [[8.0] * 2] * 3, "what chance finds, of each method, where there is such a cell"
    alone = FIGURES["line_panels, a scale each"]().axes
    assert [ax.get_ylabel() for ax in alone] == ["", ""]


def test_neighbours_of_the_querys_class_are_framed_in_full():
    *_, strip = FIGURES["caption_rows, one"]().axes
    frames = [patch.get_linestyle() for patch in strip.patches]
    assert frames == ["-", "--", "-", "-", "--"]
    assert [label.get_text() for label in strip.get_xticklabels()] == list("abaab")


def test_whiskers_reach_from_the_mean_to_both_ends_of_its_own_interval():
    table = pd.DataFrame({"value": [5.0, 1.0], "low": [3.0, np.nan], "high": [9.0, np.nan]})
    table[["gain", "gain low", "gain high"]] = [[1.0, 0.5, 3.0], [-2.0, -2.0, -1.0]]
    assert np.array_equal(style.whiskers(table), [[2, np.nan], [4, np.nan]], equal_nan=True)
    assert style.whiskers(table, "gain").tolist() == [[0.5, 0], [2, 1]]
    outside = table.assign(low=5.0 + 1e-15)  # matplotlib refuses error bars below 0
    assert (style.whiskers(outside[:1]) >= 0).all()


def test_counted_densities_have_an_area_of_one():
    figure = FIGURES["count_histograms"]()
    stairs = [p for p in figure.axes[0].patches if isinstance(p, StepPatch)]
    assert len(stairs) == 4, "two kinds, filled and outlined"
    for patch in stairs:
        values, edges, _ = patch.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1)


def test_positions_of_a_slider_share_their_cosines_and_are_drawn_as_they_would_be_alone():
    near, far = (tasks.count_by_class(gallery(n)) for n in (40, 8))
    figure, move = plots.counts_state([near, far], "by class")
    (ax,), cosines = figure.axes, figure.axes[0].get_xlim()
    for position in (far, near, far):
        move(position)
        alone = plots.count_histograms({"m": (position,)}, ("by class",)).axes[0]
        drawn, expected = ([patch.get_data().values for patch in a.patches] for a in (ax, alone))
        assert np.array_equal(drawn, expected)
        assert ax.get_ylim()[1] > np.max(expected)
        assert ax.get_xlim() == cosines
    assert cosines != alone.get_xlim(), "far alone needs fewer"


def test_what_a_kind_of_pair_looks_like_does_not_depend_on_what_stands_beside_it():
    axes = FIGURES["count_histograms"]().axes
    lines = [[p for p in ax.patches if isinstance(p, StepPatch) and not p.get_fill()] for ax in axes[:2]]
    (same, different), (images, captions, matching, others) = lines
    assert to_rgb(same.get_edgecolor()[:3]) == to_rgb(plots.SAME)
    assert to_rgb(different.get_edgecolor()[:3]) == to_rgb(plots.DIFFERENT)
    assert to_rgb(images.get_edgecolor()[:3]) == to_rgb(plots.COLOURS["image"])
    assert to_rgb(captions.get_edgecolor()[:3]) == to_rgb(plots.COLOURS["text"])
    assert to_rgb(matching.get_edgecolor()[:3]) == to_rgb(others.get_edgecolor()[:3]) == to_rgb(plots.MATCHING)
    assert matching.get_linestyle() != others.get_linestyle()


def test_every_plot_is_tested_here():
    modules = [import_module(f"crossgap_lib.plots.{found.name}") for found in iter_modules(plots.__path__)]
    drawing = {
        name
        for name, function in chain.from_iterable(vars(module).items() for module in modules)
        if not name.startswith("_") and getattr(function, "__annotations__", {}).get("return") is Figure
    }
    movable = {"walk_state", "inversion_state"}  # they return what moves the figure, too
    assert drawing - {"save_figure"} == {name.partition(",")[0] for name in FIGURES} - movable


@pytest.mark.parametrize("name", ["histograms", "gap_map"])
def test_the_same_result_gives_the_same_files(name, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        plots.save_figure(FIGURES[name](), tmp_path / folder, "f", MEASURES)
    for ending in ("png", "svg", "csv"):
        first, second = (blake2b((tmp_path / k / f"f.{ending}").read_bytes()).hexdigest() for k in "ab")
        assert first == second, ending


def test_the_numbers_behind_a_figure_are_written_beside_it(tmp_path):
    plots.save_figure(FIGURES["histograms"](), tmp_path, "with", AGREEMENT)
    plots.save_figure(FIGURES["histograms"](), tmp_path, "without")
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "with.csv"), AGREEMENT)
    assert not (tmp_path / "without.csv").exists()


def test_figures_leave_the_users_matplotlib_alone():
    before = dict(mpl.rcParams)
    FIGURES["histograms"]()
    assert dict(mpl.rcParams) == before


def test_figure_folders_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSGAP_FIGURES", str(tmp_path / "elsewhere"))
    assert plots.figure_folder("01_dogs") == tmp_path / "elsewhere" / "01_dogs"
    assert (tmp_path / "elsewhere" / "01_dogs").is_dir()


def test_histograms_are_densities_with_means_and_overlap():
    figure = plots.histograms(SAMPLES, COLOURS)
    words = words_in(figure)
    for name, sample in SAMPLES.items():
        assert f"{name} ({len(sample):,} pairs, mean {sample.mean():.2f})" in words
    assert f"overlap {overlap_coefficient(*SAMPLES.values()):.2f}" in words
    for patch in figure.axes[0].patches:
        heights, edges, _ = patch.get_data()
        assert (heights * np.diff(edges)).sum() == pytest.approx(1)
    three = plots.histograms(SAMPLES | {"more": SAMPLES["text-image"]}, COLOURS | {"more": "k"})
    assert "overlap" not in words_in(three)


def test_histograms_of_equal_values_are_drawn():
    constant = {"image-image": np.full(9, 0.5, np.float32)}
    words_in(plots.histograms(constant, COLOURS))


def test_stages_show_what_the_paper_reports_beside_its_own_class_alone():
    cat, dog = FIGURES["stage_lines"]().axes
    assert not [text for text in cat.texts if "published" in text.get_text()]
    assert [text.get_text() for text in dog.texts] == ["published mAP 83.1", "published R-Precision 73.2"]
    assert [line.get_ydata().item() for line in dog.lines if line.get_marker() == "D"] == [83.1, 73.2]
    drawn = [line.get_ydata().tolist() for line in cat.lines if line.get_marker() in "o^"]
    assert drawn == [[80, 90]] * 4, "two tasks and two metrics from stage to stage"


def test_a_mean_a_hair_outside_its_interval_is_drawn():
    measures = MEASURES.assign(low=MEASURES["value"] + 1e-9)
    words_in(plots.stage_lines(measures, PUBLISHED))


def test_the_nearer_neighbour_is_named_so_in_bold():
    figure = FIGURES["neighbour_pairs"]()
    bold = [ax.get_title() for ax in figure.axes if ax.title.get_fontweight() == "bold"]
    assert bold == ["b, 0.900, nearer", "c, 0.950, nearer"]  # the wrong one of the first query, the right one then
    assert "a" in words_in(figure)
    assert len(figure.axes) == 3 * 2


def test_the_only_picture_of_its_class_has_words_in_the_place_of_a_right_neighbour():
    alone = NEIGHBOURS.assign(right=pd.array([2, None], "Int64"), right_score=[0.8, np.nan])
    words = words_in(plots.neighbour_pairs(alone, dict(enumerate(PICTURES)), list("abcde")))
    assert "no other\nd" in words
    assert words.count("nearer") == 2


def test_gap_map_says_how_many_pairs_are_shown():
    assert "30 of 40 pairs" in words_in(FIGURES["gap_map"]())


def test_maps_say_how_many_points_and_how_trustworthy():
    words = words_in(FIGURES["map_grid"]())
    assert "image (40)" in words
    assert "class prompt (3)" in words
    assert words.count(f"trustworthiness {flat()['PCA'].trustworthiness:.3f} (5 neighbours, cosine)") == 4


def test_steps_of_a_walk_share_their_view():
    figure = FIGURES["walk_panels"]()
    words = words_in(figure)
    assert all(f"{method}, step {step}" in words for method in ("PCA", "UMAP") for step in (0, 2, 5))
    assert len({(*ax.get_xlim(), *ax.get_ylim()) for ax in figure.axes[:3]}) == 1


def test_projected_histograms_share_their_axis_and_bear_the_notes():
    figure = FIGURES["projected_histograms"]()
    assert {"cosine similarity\nmAP 1", "cosine similarity\nmAP 2"} <= {ax.get_xlabel() for ax in figure.axes}
    assert len({ax.get_xlim() for ax in figure.axes}) == 1


def test_the_ladder_is_sorted_and_marks_what_was_measured():
    figure = FIGURES["gap_ladder"]()
    words_in(figure)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["CLIP ViT-B/32", "mini-clip (measured)", "SigLIP ViT-B/16"]


def test_thresholds_are_named_and_lines_stand_at_as_many_norms_as_unknowns():
    figure = FIGURES["recovery_threshold"]()
    assert {"6 ", "3 ", "d = 3: 6 unknowns"} <= set(words_in(figure).splitlines())
    upright = [
        line.get_xdata()[0]
        for line in figure.axes[1].lines
        if line.get_linestyle() == ":" and len(set(line.get_xdata())) == 1
    ]
    assert sorted(upright) == [3, 6]


def test_curves_star_the_peak_in_hindsight_and_mark_steps():
    figure = curves(marked={"as published": 3})
    assert {"native 60.0", "as published"} <= set(words_in(figure).splitlines())
    curve = tasks.along_steps(fake_runs(), gallery())
    best = tasks.peaks(curve)
    stars = [line for line in figure.axes[1].lines if line.get_marker() == "*"]
    assert [star.get_xydata()[0].tolist() for star in stars] == best[["peak step", "peak mAP"]].to_numpy().tolist()
    assert {star.get_markerfacecolor() for star in stars} == {"white"}  # hollow: chosen on what it is scored on


# ---------------------------------------------------------------- colours


def luminance(colour) -> float:
    return float(np.dot([0.299, 0.587, 0.114], to_rgb(colour)))


def test_every_modality_has_a_look_of_its_own():
    for looks in (plots.COLOURS, style.MARKERS):
        assert set(looks) == set(MODALITIES)
        assert len(set(looks.values())) == len(MODALITIES)


@pytest.mark.parametrize(
    "pair",
    [
        (plots.COLOURS["image"], plots.COLOURS["text"]),
        (plots.SAME, plots.DIFFERENT),
        (plots.DIFFERENT, style.PUBLISHED),
    ],
)
def test_colours_used_together_differ_in_greyscale(pair):
    light, dark = map(luminance, pair)
    assert abs(light - dark) > 0.15


def test_series_differ_in_dash_as_well_as_in_colour():
    assert len(set(style.SERIES)) == len(style.SERIES)
    assert len(set(style.DASHES)) == len(style.DASHES) >= len(style.SERIES)


# ---------------------------------------------------------------- sliders


def readout(box) -> str:
    return box.children[-2].value


def picture(box) -> str:
    """A digest of the picture shown, since a failing comparison of long bytes takes pytest minutes to explain."""
    return blake2b(box.children[-1].value).hexdigest()


def control(box, name):
    """The slider, field or button of that name, in the box or in a row of it."""
    parts = [part for child in box.children for part in (child, *getattr(child, "children", ()))]
    (found,) = [part for part in parts if getattr(part, "description", "") == name]
    return found


def along_steps():
    runs = fake_runs()
    curve = tasks.along_steps(runs, gallery())
    return widgets.inversion_explorer(runs, curve, gallery(), texts(), native=61.5), curve


@pytest.fixture
def explorer():
    return along_steps()


def test_the_explorer_redraws_and_says_the_state(explorer):
    box, curve = explorer
    assert bytes(box.children[-1].value).startswith(b"\x89PNG")
    seen = {picture(box)}
    for n, step in ((1, 5), (2, 5), (2, 0)):
        control(box, "pseudo-tokens").value = n
        control(box, "steps").value = step
        row = curve[(curve["n"] == n) & (curve["step"] == step)].iloc[0]
        unit = "pseudo-token" if n == 1 else "pseudo-tokens"
        assert f"{n} {unit}, step {step}: loss {row['loss']:.3f}, mAP {row['mAP']:.1f} %" in readout(box)
        assert "(native 61.5 %)" in readout(box)
        assert picture(box) not in seen
        seen.add(picture(box))


def test_the_explorers_sliders_offer_what_was_computed_and_follow_the_mouse(explorer):
    box, _ = explorer
    assert tuple(control(box, "pseudo-tokens").options) == (1, 2)
    assert tuple(control(box, "steps").options) == (0, 1, 2, 5)
    assert control(box, "steps").value == 1  # after a third of them
    assert control(box, "steps").continuous_update


def test_what_was_moved_looks_like_what_is_drawn_anew(explorer):
    """Only the moving parts are drawn again, and nothing of an earlier state may stay behind."""
    (moved, _), (anew, _) = explorer, along_steps()
    control(moved, "pseudo-tokens").value = 2
    for step in (5, 0, 2):
        control(moved, "steps").value = step
    for name, value in (("steps", 2), ("pseudo-tokens", 2)):
        control(anew, name).value = value
    assert (picture(moved), readout(moved)) == (picture(anew), readout(anew))


def test_steps_are_played_typed_and_jumped_to(explorer):
    box, curve = explorer
    steps, typed = control(box, "steps"), control(box, "step nearest to")
    (play,) = [part for child in box.children for part in getattr(child, "children", ()) if isinstance(part, Play)]
    assert (play.value, play.max) == (1, 3)
    play.value = 3
    assert (steps.value, typed.value) == (5, 5)
    typed.value = 3
    assert (steps.value, typed.value, play.value) == (2, 2, 2)  # what was kept is 0, 1, 2, 5
    typed.value = 1
    control(box, "pseudo-tokens").value = 2
    control(box, "best step").click()
    assert steps.value == curve[curve["n"] == 2].set_index("step")["mAP"].idxmax()


def nearest_by_hand(feature, own):
    """Class names of the two pictures most like a feature (d,), without the query's own one."""
    others = [k for k in range(len(gallery())) if gallery().ids[k] != own]
    nearest = sorted(others, key=lambda k: -float(feature @ gallery().features[k]))[:2]
    return [gallery().class_names[gallery().labels[k]] for k in nearest]


def test_a_pictures_neighbours_follow_the_query_and_the_steps():
    runs, everything = fake_runs(), gallery()
    ids, load = np.array(everything.ids, dtype=str), lambda k: PICTURES[k % len(PICTURES)]
    box = widgets.neighbour_explorer(runs, everything, Dataset("twelve", ids, load, "f"), k=2)
    (asked,) = [child for child in box.children if isinstance(child, ToggleButtons)]
    assert [name for name, _ in asked.options] == [everything.class_names[k] for k in runs[1].labels]
    for query, n, step in ((0, 1, 0), (4, 1, 0), (4, 2, 5), (3, 2, 2)):
        asked.value, control(box, "pseudo-tokens").value, control(box, "steps").value = query, n, step
        own, native, inverted = runs[n].ids[query], *(child.value for child in box.children[-2:])
        names = [re.findall("<figcaption>(.*?)</figcaption>", strip) for strip in (native, inverted)]
        assert names[0] == nearest_by_hand(everything.features[query], own)
        assert names[1] == nearest_by_hand(runs[n].at(step).features[query], own)
        right = names[1].count(everything.class_names[runs[n].labels[query]])
        assert f"step {step}: {right} of 2 nearest" in box.children[-3].value
        assert inverted.count("3px solid currentColor") == right


def test_what_goes_wrong_in_a_drawing_goes_wrong_at_once():
    def draw(k):
        raise ZeroDivisionError(f"k is {k}")

    with pytest.raises(ZeroDivisionError, match="k is 4"):
        widgets.figure_explorer(draw, k=IntSlider(4))


def test_any_figure_can_be_explored():
    def draw(k):
        return plots.histograms({"image-image": SAMPLES["image-image"] * k}, COLOURS), f"times {k}"

    box = widgets.figure_explorer(draw, k=IntSlider(1, min=1, max=3))
    assert readout(box) == "<p class='crossgap-readout'>times 1</p>"
    before = picture(box)
    box.children[0].value = 3
    assert readout(box) == "<p class='crossgap-readout'>times 3</p>"
    assert picture(box) != before


# ---------------------------------------------------------------- gains


def test_gain_curves_show_every_gain_the_best_hollow_and_the_published_as_diamonds():
    lines = gains_along(best=True).axes[0].lines
    drawn = [line.get_xydata().tolist() for line in lines if line.get_marker() in "o^"]
    assert drawn == [[[0, y[0]], [0.5, y[1]]] for y in (BANDS["gain"].tolist(), [-3, -1])]
    stars = [line for line in lines if line.get_marker() == "*" and len(line.get_xdata())]
    assert [line.get_ydata().tolist() for line in stars] == [[BANDS["gain"].max()], [-1]]
    assert {line.get_markerfacecolor() for line in stars} == {"white"}
    assert [line.get_xydata().tolist() for line in lines if line.get_marker() == "D"] == [[[0.3, 4.2]]]
    assert not any(line.get_marker() == "*" for line in gains_along().axes[0].lines)


def test_a_grid_of_gains_writes_out_each_and_puts_what_is_not_sure_in_brackets():
    table = pd.DataFrame(
        {"method": ["Original", "OTI", "PCA"], "gain": [np.nan, -1.25, 3.5], "sure": [False, False, True]}
    )
    grid = plots.gain_grid(pd.concat([table.assign(task="kind"), table.assign(task="colour", gain=[np.nan, 9, -2])]))
    ax = grid.axes[0]
    assert [text.get_text() for text in ax.texts] == ["(-1.2)", "(+9.0)", "+3.5", "-2.0"]
    assert [label.get_text() for label in (*ax.get_yticklabels(), *ax.get_xticklabels())] == [
        "OTI",
        "PCA",
        "kind",
        "colour",
    ]


def test_the_kept_band_begins_behind_what_is_left_out():
    left, right = plots.band_gains([3.0, 2.0, 1.0, 0.5], (1, 2), BANDS, REPORTED_GAINS).axes
    box = left.patches[0].get_extents().transformed(left.transData.inverted())
    assert (box.x0, box.x1) == pytest.approx((1.5, 2.5)), "the second of four directions"
    assert left.lines[0].get_ydata().tolist() == [3, 2, 1, 0.5]
    assert right.lines[0].get_ydata().tolist() == BANDS["gain"].tolist()
