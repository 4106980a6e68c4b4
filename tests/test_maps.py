"""Flat maps, cones, the page and the atlas, against plain formulas; the files are read back as other programs do."""

import html
import json
import re
import shutil
import subprocess
from base64 import b64decode
from io import BytesIO
from itertools import pairwise

import nbformat
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from sklearn.manifold import trustworthiness
from threadpoolctl import threadpool_limits

from crossgap_lib import metrics, plots, tasks
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.result import Inversion
from crossgap_lib.paths import ROOT
from crossgap_lib.plots import atlas, widgets
from crossgap_lib.projection.linear import pca_of_prompts
from crossgap_lib.runner.notebooks import run_notebooks
from crossgap_lib.tasks.maps import _for_numba, flat_map

HOW = {"n_neighbors": 5, "perplexity": 8.0}


def cone(n, seed, shift, modality, d=6, ending="", **columns):
    """n embeddings around a direction of their own; ids p0, p1, ... with an ending."""
    rng = np.random.default_rng(seed)
    ids = [f"p{k}{ending}" for k in range(n)]
    return Embeddings(rng.normal(size=(n, d)) + shift, ids, modality=modality, **columns)


IMAGES = cone(30, 0, 1.5, "image", labels=np.arange(30) % 2, class_names=("cat", "dog"), texts=["a <b>pet</b>"] * 30)
TEXTS = cone(30, 1, -1.5, "text", ending="#0", labels=np.arange(30) % 2, texts=["</script><i>hi</i>"] * 30)
PROMPTS = cone(2, 2, -1.0, "text", ending="-prompt", labels=[0, 1])
SETS = {"image": IMAGES, "text": TEXTS, "prompt": PROMPTS}


def walk(n=4, steps=(0, 2, 5)):
    """Inverted features on their way from the texts to the images."""
    path = {s: torch.nn.functional.normalize(TEXTS.features[:n].lerp(IMAGES.features[:n], s / 5), dim=1) for s in steps}
    own = {"tokens": torch.zeros(n, 1, 3), "losses": torch.zeros(steps[-1], n), "snapshots": path}
    return Inversion(path[steps[-1]], IMAGES.ids[:n], IMAGES.labels[:n], modality="oti", **own)


@pytest.fixture(scope="module")
def maps():
    """The three methods on the three sets."""
    return tasks.flat_maps(SETS, seed=3, **HOW)


@pytest.fixture(scope="module")
def table(maps):
    return tasks.point_table(SETS, maps)


def everything(sets):
    return np.concatenate([e.features.double().numpy() for e in sets.values()])


# ---------------------------------------------------------------- maps


def test_all_sets_lie_on_every_map(maps):
    assert list(maps) == ["UMAP", "PCA", "t-SNE"]
    for flat in maps.values():
        assert {name: xy.shape for name, xy in flat.points.items()} == {
            "image": (30, 2),
            "text": (30, 2),
            "prompt": (2, 2),
        }
        assert all(np.isfinite(xy).all() and xy.dtype == np.float32 for xy in flat.points.values())


def test_pca_by_eigendecomposition(maps):
    rows = everything(SETS) - everything(SETS).mean(axis=0)
    values, vectors = np.linalg.eigh(rows.T @ rows)
    expected = rows @ vectors[:, ::-1][:, :2]
    found = np.concatenate(list(maps["PCA"].points.values()))
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)  # the sign is free
    shares = 100 * values[::-1][:2] / values.sum()
    assert maps["PCA"].axes == (f"PC 1 ({shares[0]:.0f} % of the variance)", f"PC 2 ({shares[1]:.0f} %)")


def test_plain_vectors_keep_their_norm():
    short = flat_map({"image": IMAGES, "projection": 0.5 * IMAGES.features}, "PCA", n_neighbors=5)
    whole = flat_map({"image": IMAGES, "projection": IMAGES.features}, "PCA", n_neighbors=5)
    np.testing.assert_allclose(whole.points["image"], whole.points["projection"], atol=1e-6)
    assert np.abs(short.points["image"] - short.points["projection"]).max() > 0.1


def trust(rows, flat, k):
    """Venna and Kaski (2001): 1 - 2 / (nk (2n - 3k - 1)) times the ranks that intruders have too much, in loops."""
    n, unit = len(rows), rows / np.linalg.norm(rows, axis=1, keepdims=True)
    far, near = -unit @ unit.T, ((flat[:, None] - flat[None]) ** 2).sum(-1)
    penalty = 0
    for i in range(n):
        order = [j for j in np.argsort(far[i], kind="stable") if j != i]
        rank = {j: r + 1 for r, j in enumerate(order)}
        on_map = [j for j in np.argsort(near[i], kind="stable") if j != i][:k]
        penalty += sum(max(0, rank[j] - k) for j in on_map)
    return 1 - 2 * penalty / (n * k * (2 * n - 3 * k - 1))


@pytest.mark.parametrize("method", tasks.maps.METHODS)
def test_trustworthiness_in_loops(maps, method):
    flat = np.concatenate(list(maps[method].points.values())).astype(float)
    assert maps[method].trustworthiness == pytest.approx(trust(everything(SETS), flat, 5), abs=1e-3)


def test_trustworthiness_is_scikit_learns_however_few_rows_are_held(monkeypatch):
    whole = flat_map(SETS, "PCA", seed=3, **HOW)
    xy = np.concatenate(list(whole.points.values()))
    expected = trustworthiness(everything(SETS), xy, n_neighbors=5, metric="cosine")
    assert whole.trustworthiness == pytest.approx(expected, abs=1e-3)
    held = []
    in_chunks = tasks.maps.pairwise_distances_chunked

    def noted(rows, reduce_func, **how):
        return in_chunks(rows, reduce_func=lambda d, start: held.append(d.size) or reduce_func(d, start), **how)

    monkeypatch.setattr("crossgap_lib.tasks.maps.pairwise_distances_chunked", noted)
    monkeypatch.setattr("crossgap_lib.tasks.maps._WORKING_MEMORY", 1e-3)  # MiB: two of 62 rows at a time
    assert flat_map(SETS, "PCA", seed=3, **HOW).trustworthiness == pytest.approx(expected, abs=1e-3)
    assert max(held) <= 2 * 62


@pytest.mark.parametrize("method", tasks.maps.METHODS)
def test_the_same_seed_gives_the_same_map(maps, method):
    with threadpool_limits(2):
        again = flat_map(SETS, method, seed=3, **HOW)
    for name, xy in maps[method].points.items():
        np.testing.assert_array_equal(again.points[name], xy)
    assert again.trustworthiness == maps[method].trustworthiness


def test_the_seed_counts(maps):
    other = flat_map(SETS, "UMAP", seed=4, **HOW)
    assert np.abs(other.points["image"] - maps["UMAP"].points["image"]).max() > 0.1


def test_the_cosine_decides_and_not_the_norm(maps):
    sizes = torch.linspace(0.3, 3, 30)[:, None]
    longer = SETS | {"image": IMAGES.features * sizes}
    for method in ("UMAP", "t-SNE"):
        flat = flat_map(longer, method, seed=3, **HOW)
        assert flat.trustworthiness == pytest.approx(maps[method].trustworthiness, abs=0.05)
        apart = flat.points["image"].mean(axis=0) - flat.points["text"].mean(axis=0)
        assert np.linalg.norm(apart) > flat.points["image"].std()


def test_new_points_are_placed_where_the_old_ones_lie(maps):
    np.testing.assert_allclose(maps["PCA"].place(IMAGES), maps["PCA"].points["image"], atol=1e-5)
    placed = maps["UMAP"].place(IMAGES.features[:7] + 1e-4)
    np.testing.assert_array_equal(placed, maps["UMAP"].place(IMAGES.features[:7] + 1e-4))
    to_images = np.linalg.norm(placed - maps["UMAP"].points["image"].mean(axis=0), axis=1)
    to_texts = np.linalg.norm(placed - maps["UMAP"].points["text"].mean(axis=0), axis=1)
    assert (to_images < to_texts).all()


def test_t_sne_places_nothing(maps):
    with pytest.raises(CrossgapError, match="t-SNE places no new points"):
        maps["t-SNE"].place(IMAGES)


@pytest.mark.parametrize("method", ["PCA", "UMAP"])
def test_points_of_another_width_are_refused(maps, method):
    with pytest.raises(CrossgapError, match="have 4 dimensions, the map 6"):
        maps[method].place(IMAGES.features[:, :4])


@pytest.mark.parametrize(
    ("sets", "method", "options", "message"),
    [
        (SETS, "MDS", {}, "no map 'MDS'; there are UMAP, PCA, t-SNE"),
        ({}, "PCA", {}, "at least one set"),
        ({"image": IMAGES, "text": TEXTS.features[:, :3]}, "PCA", {}, "sets of one width"),
        ({"image": IMAGES}, "PCA", {}, "half of the 30 points, and is 15"),
        ({"image": IMAGES}, "PCA", {"n_neighbors": 1}, "and is 1"),
        ({"image": IMAGES}, "t-SNE", {"n_neighbors": 5, "perplexity": 30}, "between 1 and the 30 points, and is 30"),
        ({"image": IMAGES.features[0]}, "PCA", {}, r"shape \(n, d\), not \(6,\)"),
        ({"image": IMAGES.features * np.nan}, "PCA", {}, "finite"),
    ],
)
def test_what_no_map_can_be_made_of(sets, method, options, message):
    with pytest.raises(CrossgapError, match=message):
        flat_map(sets, method, **options)


def test_walks_are_the_snapshots_placed(maps):
    runs, pca = {1: walk(), 4: walk(3)}, {"PCA": maps["PCA"]}
    places = tasks.walks(pca, runs)
    assert {n: list(steps["PCA"]) for n, steps in places.items()} == {1: [0, 2, 5], 4: [0, 2, 5]}
    for n, run in runs.items():
        for step, features in run.snapshots.items():
            np.testing.assert_allclose(places[n]["PCA"][step], maps["PCA"].place(features), atol=1e-6)
    with pytest.raises(CrossgapError, match="places no new points"):
        tasks.walks(maps, runs)


# ---------------------------------------------------------------- the table of points


def test_point_table_says_what_each_point_is(table, maps):
    assert len(table) == 62
    assert table["id"].is_unique
    own = ["id", "source", "set", "modality", "label", "text"]
    assert list(table) == [*own, "umap_x", "umap_y", "pca_x", "pca_y", "tsne_x", "tsne_y"]
    image, text, prompt = (table[table["set"] == name].iloc[1] for name in SETS)
    assert (image["id"], image["source"], image["modality"], image["label"]) == ("image:p1", "p1", "image", "dog")
    assert (text["id"], text["source"], text["label"]) == ("text:p1#0", "p1", "dog")  # the image's caption and class
    assert (prompt["source"], prompt["modality"], prompt["text"]) == ("p1-prompt", "text", None)
    np.testing.assert_array_equal(table[["tsne_x", "tsne_y"]][30:60], maps["t-SNE"].points["text"])


def test_point_table_without_labels_has_none():
    plain = {"image": cone(12, 0, 1, "image")}
    found = tasks.point_table(plain, {"PCA": flat_map(plain, "PCA", n_neighbors=3)})
    assert found["label"].isna().all()
    assert found["text"].isna().all()


def test_point_table_needs_maps_of_its_sets(maps):
    with pytest.raises(CrossgapError, match="UMAP map does not hold the points"):
        tasks.point_table(SETS | {"oti": IMAGES}, maps)
    with pytest.raises(CrossgapError, match="UMAP map does not hold the points"):
        tasks.point_table({"image": IMAGES[:5]}, maps)


def test_the_tables_behind_a_figure_of_maps(maps):
    columns = {"left": maps, "right": {"PCA": maps["PCA"]}}
    points = tasks.map_table(columns)
    assert list(points) == ["column", "method", "set", "row", "x", "y"]
    assert len(points) == 4 * 62
    one = points[(points["column"] == "right") & (points["set"] == "text")]
    np.testing.assert_array_equal(one[["x", "y"]], maps["PCA"].points["text"])
    trusted = tasks.trust_table(columns)
    assert trusted.loc["UMAP", "left"] == maps["UMAP"].trustworthiness
    assert np.isnan(trusted.loc["UMAP", "right"])


# ---------------------------------------------------------------- cones


def in_plane(*degrees, **columns):
    angles = np.radians(degrees)
    return Embeddings(np.stack([np.cos(angles), np.sin(angles)], axis=1), **columns)


def test_cone_places_by_hand():
    images, texts = in_plane(-10, 10), in_plane(80, 100, modality="text")  # axes at 0 and 90 degrees
    places = tasks.cone_places({"between": in_plane(30, 60, 20), "images": images}, images, texts).set_index("set")
    assert places.loc["between", "to images"] == pytest.approx(np.cos(np.radians([30, 60, 20])).mean(), abs=1e-6)
    assert places.loc["between", "to texts"] == pytest.approx(np.sin(np.radians([30, 60, 20])).mean(), abs=1e-6)
    assert places.loc["between", "nearer images"] == pytest.approx(2 / 3)
    assert places.loc["images", "to images"] == pytest.approx(np.cos(np.radians(10)), abs=1e-6)


def test_along_cones_walks_from_one_to_the_other():
    runs = {1: walk(), 4: walk(3)}
    cones = tasks.along_cones(runs, IMAGES, TEXTS)
    assert cones[["n", "step"]].to_numpy().tolist() == [[n, s] for n in (1, 4) for s in (0, 2, 5)]
    assert list(cones) == ["n", "step", "to images", "to texts", "nearer images"]
    axis = IMAGES.features.double().mean(dim=0).numpy()
    for row in cones[cones["n"] == 4].to_dict("records"):
        at = runs[4].snapshots[row["step"]].double().numpy()
        assert row["to images"] == pytest.approx((at @ axis / np.linalg.norm(axis)).mean(), abs=1e-6)
    assert (cones[cones["step"] == 0]["nearer images"] == 0).all()
    assert (cones[cones["step"] == 5]["nearer images"] == 1).all()


# ---------------------------------------------------------------- Fig. 8


@pytest.fixture(scope="module")
def projection():
    return pca_of_prompts(cone(5, 7, -1.0, "text"), 3)


def test_variants_are_the_projected_points_at_unit_norm(projection):
    variants, points = tasks.projection_variants(projection, IMAGES), tasks.projected_points(projection, IMAGES)
    assert list(variants) == list(points) == ["original", "projected (Eq. 11)", "mean-adjusted (Eq. 12)"]
    for name, e in variants.items():
        expected = points[name] / points[name].norm(dim=1, keepdim=True)
        torch.testing.assert_close(e.features, expected, atol=1e-6, rtol=0)
        assert e.ids.tolist() == IMAGES.ids.tolist()
    assert [e.modality for e in variants.values()] == ["image", "projection", "projection"]


def test_variant_retrieval_is_that_of_metrics(projection):
    variants = tasks.projection_variants(projection, IMAGES)
    found = tasks.variant_retrieval(variants, seed=5)
    aps = [metrics.retrieval(e, e).ap for e in variants.values()]
    np.testing.assert_allclose(found["mAP"], [100 * ap.mean() for ap in aps])
    np.testing.assert_allclose(found["change"], [np.nan, *(100 * (b - a).mean() for a, b in pairwise(aps))])
    inner = found.iloc[1:]
    assert (inner["change low"] <= inner["change"]).all()
    assert (inner["change"] <= inner["change high"]).all()
    error = 100 * (aps[2] - aps[1]).std() / np.sqrt(30)  # a normal interval is close to the bootstrap's
    assert found["change high"][2] - found["change low"][2] == pytest.approx(2 * 1.96 * error, rel=0.2)


def test_variant_similarities_are_all_pairs(projection):
    variants = tasks.projection_variants(projection, IMAGES)
    found = tasks.variant_similarities(variants, TEXTS)
    upper = np.triu_indices(30, 1)
    for name, e in variants.items():
        image, text = (x.features.double().numpy() for x in (e, TEXTS))
        expected = {"image-image": (image @ image.T)[upper], "text-text": (text @ text.T)[upper]}
        expected["image-text"] = (image @ text.T).ravel()
        for kind, values in expected.items():
            np.testing.assert_allclose(np.sort(found[name][kind]), np.sort(values), atol=1e-6)


def test_the_same_images_again_change_nothing():
    found = tasks.variant_retrieval({"a": IMAGES, "b": IMAGES})
    assert found.loc[1, ["change", "change low", "change high"]].tolist() == [0, 0, 0]


# ---------------------------------------------------------------- the atlas


PICTURES = {"p0": b"\xff\xd8 not asked to be decoded"}


def test_thumbnails_are_small_jpegs():
    photos = load_dataset("world:all", n=3)
    small = atlas.thumbnails(photos, photos.ids[1:])
    assert list(small) == photos.ids[1:].tolist()
    for name, jpeg in small.items():
        picture = Image.open(BytesIO(jpeg))
        assert picture.format == "JPEG"
        original = photos.picture(photos.ids.tolist().index(name))
        assert max(picture.size) <= 96
        assert np.abs(np.asarray(picture, float) - np.asarray(original, float)).mean() < 12
    with pytest.raises(CrossgapError, match="has no picture 'nobody'"):
        atlas.thumbnails(photos, ["nobody"])


@pytest.fixture(scope="module")
def written(tmp_path_factory, table):
    photos = load_dataset("world:all", n=30)
    jpegs = atlas.thumbnails(photos, photos.ids)
    pictures = {f"p{k}": jpeg for k, jpeg in enumerate(jpegs.values())}
    return atlas.write_atlas(tmp_path_factory.mktemp("atlas") / "atlas.parquet", table, SETS, pictures), pictures


def test_the_atlas_has_plain_columns(written):
    schema = pq.read_schema(written[0])
    strings, numbers = ("id", "source", "set", "modality", "label", "text"), ("umap", "pca", "tsne")
    expected = dict.fromkeys(strings, pa.string()) | {f"{m}_{axis}": pa.float32() for m in numbers for axis in "xy"}
    assert {name: schema.field(name).type for name in expected} == expected
    assert set(schema.names) == {*expected, "image", "vector"}
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert schema.field("vector").type == pa.list_(pa.float32(), 6)


def test_the_atlas_read_back_is_what_was_written(written, table):
    path, pictures = written
    found = pd.read_parquet(path)
    plain = pq.read_table(path)
    for name in table:
        assert plain[name].to_pylist() == [None if pd.isna(value) else value for value in table[name]]
    np.testing.assert_array_equal(np.stack(found["vector"]), everything(SETS).astype(np.float32))
    for row in found.itertuples():
        if row.source in pictures:  # an image and its caption
            assert row.image["bytes"] == pictures[row.source]
            assert row.image["path"] == f"{row.source}.jpg"
            assert Image.open(BytesIO(row.image["bytes"])).size == (48, 48)
        else:
            assert row.set == "prompt"
            assert row.image is None


def test_an_atlas_needs_no_pictures(tmp_path, table):
    found = pd.read_parquet(atlas.write_atlas(tmp_path / "atlas.parquet", table, SETS))
    assert found["image"].isna().all()


def test_an_atlas_of_other_points_is_not_written(tmp_path, table):
    with pytest.raises(CrossgapError, match="in their order"):
        atlas.write_atlas(tmp_path / "a.parquet", table, dict(reversed(SETS.items())))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="no git checkout")
@pytest.mark.parametrize("name", ["atlas.parquet", "map.html"])
def test_large_files_stay_out_of_the_repository(name):
    asked = subprocess.run(["git", "check-ignore", "-q", f"figures/06_umap_pca_tsne/{name}"], cwd=ROOT, check=False)
    assert asked.returncode == 0


# ---------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def page(table, maps):
    return plots.map_page(table, maps, PICTURES, title="N = 62 <points>, seed 3", note="A note.")


def data_in(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_the_page_holds_all_points_with_their_words(page, table):
    data = data_in(page)
    assert [(look["label"], look["n"]) for look in data["sets"]] == [
        ("image", 30),
        ("caption", 30),
        ("class prompt", 2),
    ]
    assert [look["colour"] for look in data["sets"]] == [plots.COLOURS[m] for m in ("image", "text", "text")]
    assert len(data["points"]) == len(table)
    for (kind, source, label, text), row in zip(data["points"], table.itertuples(), strict=True):
        assert data["sets"][kind]["label"] == {"text": "caption", "prompt": "class prompt"}.get(row.set, row.set)
        assert (label, text) == (row.label, row.text)
        assert (data["pictures"][source] is not None) == (row.source == "p0")
    shown = [url for url in data["pictures"] if url]
    assert [b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in shown] == [PICTURES["p0"]]


def test_the_page_keeps_each_maps_proportions(page, maps, table):
    for one, flat in zip(data_in(page)["maps"], maps.values(), strict=True):
        xy, own = np.array(one["xy"]), np.concatenate(list(flat.points.values()))
        assert one["name"] == flat.method
        assert f"{flat.trustworthiness:.3f}" in one["words"]
        assert (xy.min(axis=0).tolist(), xy.max(axis=0).tolist()) == ([0, 0], [1, 1])
        assert np.corrcoef(xy[:, 0], own[:, 0])[0, 1] == pytest.approx(1)
        assert np.corrcoef(xy[:, 1], own[:, 1])[0, 1] == pytest.approx(-1)  # y points down in SVG


def test_words_cannot_leave_their_place_in_the_page(page):
    assert page.count("</script>") == 2
    assert "<i>hi</i>" not in page
    assert "N = 62 &lt;points&gt;, seed 3" in page


def test_the_page_asks_for_nothing_from_elsewhere(page):
    places = set(re.findall(r"https?://[^\"'\s]+", page))
    assert places <= {"http://www.w3.org/2000/svg"}  # the name of a language, never fetched


def test_a_set_without_a_colour_has_no_page(table, maps):
    with pytest.raises(CrossgapError, match="no colour for the set 'sound'"):
        plots.map_page(table.assign(set="sound"), maps, {}, title="")


def test_a_framed_page_is_the_page(page):
    frame = widgets.framed(page, height=300).data
    assert html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1]) == page
    assert "height: 300px" in frame


# ---------------------------------------------------------------- sliders


def test_the_walks_sliders_say_and_show_the_state(maps):
    runs, ground = {1: walk(), 4: walk(3)}, {"PCA": maps["PCA"], "UMAP": maps["UMAP"]}
    cones = tasks.along_cones(runs, IMAGES, TEXTS)
    native = tasks.cone_places({"images": IMAGES, "texts": TEXTS}, IMAGES, TEXTS)
    box = widgets.walk_explorer(ground, tasks.walks(ground, runs), cones, native)
    tokens, row, _, words, image = box.children
    steps = row.children[0]
    assert (tokens.description, tokens.options) == ("pseudo-tokens", (1, 4))
    assert (steps.description, steps.options) == ("steps", (0, 2, 5))
    assert steps.continuous_update
    seen = set()
    for n, step, share in ((1, 0, 0), (1, 5, 100), (4, 5, 100)):
        tokens.value, steps.value = n, step
        assert f"step {step}: mean cosine" in words.value
        assert f"{share} % nearer to the image axis" in words.value
        seen.add(bytes(image.value))
    assert len(seen) == 3


# ---------------------------------------------------------------- the notebook on a file of pairs


@pytest.mark.slow
def test_the_notebook_maps_pairs_without_an_encoder(tmp_path):
    pairs = {f"{name}_features": e.features.numpy() for name, e in SETS.items() if name != "prompt"}
    np.savez(tmp_path / "pairs.npz", **pairs, captions=[f"caption {k}" for k in range(30)])
    given = {"embeddings": str(tmp_path / "pairs.npz"), "n": 25, "n_neighbors": 5, "perplexity": 8.0}
    (run,) = run_notebooks(["06"], given, out=tmp_path / "out")
    assert run.status == "ran", run.message
    folder = tmp_path / "out" / "06_umap_pca_tsne"
    assert {"maps.png", "maps.csv", "map.html", "atlas.parquet"} <= {p.name for p in folder.iterdir()}
    assert not (folder / "projected_cosines.png").exists()
    data = data_in((folder / "map.html").read_text())
    assert [(look["label"], look["n"]) for look in data["sets"]] == [("image", 25), ("caption", 25)]
    cells = nbformat.read(folder / "06_umap_pca_tsne.ipynb", as_version=4).cells
    said = "".join(o.text for c in cells if c.cell_type == "code" for o in c.outputs if o.output_type == "stream")
    assert said.count("left out") == 1


def test_numba_has_a_place_where_nothing_else_can_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path))
    assert _for_numba() == str(tmp_path / "numba")
    (tmp_path / "file").touch()
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path / "file"))  # no folder can be made in it
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _for_numba().startswith(str(tmp_path / "crossgap-numba-"))
