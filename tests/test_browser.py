"""Notebook 02 as a person uses it: JupyterLab in headless Chromium, all cells run, sliders dragged, pictures clicked.

And a page of a flat map: pointed at, clicked and walked by keys.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect, sync_playwright

from crossgap_lib import plots, tasks
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.paths import NOTEBOOKS, ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TOKEN = "crossgap"
# Less work than the default, so that the test is about the browser.
SMALLER = {
    "steps": 60,
    "n_queries": 16,
    "n_gallery": 120,
    "ovi_steps": 6,
    "n_texts": 8,
    "n_tokens": [1, 2, 4],
    "n_patches": [1],
    "slower": [],
}

if CHROMIUM is None and os.environ.get("CI"):
    pytest.fail("CI needs Chromium for the browser test, and there is none", pytrace=False)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="SKIPPED LOUDLY: no Chromium, so no slider was dragged")


def smaller_notebook(folder: Path) -> Path:
    """Notebook 02 with other values in its parameters cell."""
    notebook = nbformat.read(NOTEBOOKS / "02_loss_versus_steps.ipynb", as_version=4)
    (cell,) = (c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in SMALLER.items():
        cell.source, found = re.subn(rf"^{name} = .*?  #", f"{name} = {value}  #", cell.source, flags=re.MULTILINE)
        assert found == 1, name
    path = folder / "02.ipynb"
    nbformat.write(notebook, path)
    return path


def write_settings(folder: Path) -> None:
    """No news dialog, and every cell kept in the page, so that outputs can be found."""
    settings = {
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in settings.items():
        path = folder / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that serves the notebook's folder."""
    folder, settings = tmp_path_factory.mktemp("lab"), tmp_path_factory.mktemp("settings")
    smaller_notebook(folder)
    write_settings(settings)
    environment = {
        **os.environ,
        "JUPYTERLAB_SETTINGS_DIR": str(settings),
        "CROSSGAP_FIGURES": str(folder / "figures"),
        "CROSSGAP_HEADLESS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "jupyter",
        "lab",
        "--no-browser",
        "--allow-root",
        "--port=0",
        f"--IdentityProvider.token={TOKEN}",
    ]
    log = (folder / "lab.log").open("w")
    process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield wait_for_server(process, folder / "lab.log")
    finally:
        process.terminate()
        process.wait(timeout=30)
        log.close()


def wait_for_server(process, log: Path, seconds: float = 120) -> str:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):(\d+)/", log.read_text()):
            address = f"http://127.0.0.1:{found[1]}"
            with urllib.request.urlopen(f"{address}/api/status?token={TOKEN}", timeout=30):
                return address
        time.sleep(0.5)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def page(lab):
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags)
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.set_default_timeout(60_000)
        page.goto(f"{lab}/lab/tree/02.ipynb?token={TOKEN}&reset")
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        wait_for_kernel(lab)
        yield page
        browser.close()


def wait_for_kernel(lab: str, seconds: float = 120) -> None:
    """The page says "idle" before its kernel exists, and a click then asks which kernel to take; the server knows."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{lab}/api/sessions?token={TOKEN}", timeout=30) as answer:
            if any(session["kernel"]["execution_state"] == "idle" for session in json.load(answer)):
                return
        time.sleep(0.5)
    raise AssertionError("no kernel became idle")


def run_all(page, seconds: float = 200) -> None:
    """Run > Run All Cells, and waits until every cell bears a number."""
    page.locator(".lm-MenuBar-item", has_text="Run").first.click()
    page.locator(".lm-Menu-item", has_text=re.compile("^Run All Cells")).click()
    prompts = (
        "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')].map(p => p.textContent).filter(t => t.trim())"
    )
    done = f"() => {{ const t = {prompts}; return t.length > 5 && t.every(p => /\\[\\d+\\]/.test(p)); }}"
    page.wait_for_function(done, timeout=1000 * seconds)


def picture(image) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(image.screenshot())).convert("L"), dtype=int)


@contextmanager
def dragged(page, slider, share: float) -> Iterator[None]:
    """The handle held at this share of the bar with the mouse, and let go in the end."""
    slider.scroll_into_view_if_needed()
    handle, bar = slider.locator(".noUi-handle").bounding_box(), slider.locator(".noUi-base").bounding_box()
    y = handle["y"] + handle["height"] / 2
    page.mouse.move(handle["x"] + handle["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(bar["x"] + share * bar["width"], y, steps=10)
    yield
    page.mouse.up()


def changed_thirds(before: np.ndarray, after: np.ndarray) -> list[bool]:
    """Whether the loss curve, the mAP curve and the histogram (thirds of the figure) look different."""
    assert before.shape == after.shape
    thirds = zip(np.array_split(before, 3, axis=1), np.array_split(after, 3, axis=1), strict=True)
    return [bool((np.abs(a - b) > 40).sum() > 20) for a, b in thirds]


@pytest.fixture(scope="module")
def notebook(page):
    """The page after all cells ran without a word on stderr."""
    expect.set_options(timeout=60_000)
    run_all(page)
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").all_inner_texts() == []
    yield page
    keep = ROOT / ".cache" / "screenshots"
    keep.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=keep / "notebook_02.png")


def explorer_of(page, words: str):
    """(explorer, its sentence, its slider of steps, what the slider tells a screen reader)."""
    explorer = page.locator(".crossgap-explorer").filter(has_text=words).first
    steps = slider_of(explorer, "steps")
    return explorer, explorer.locator(".crossgap-readout"), steps, steps.locator(".noUi-handle")


def slider_of(explorer, label: str):
    return explorer.locator(".widget-slider").filter(has=explorer.page.locator(".widget-label", has_text=label))


def test_sliders_redraw_curve_and_histogram_while_they_are_dragged(notebook):
    explorer, readout, _, _ = explorer_of(notebook, "loss")
    image = explorer.locator("img")
    for label, share in (("pseudo-tokens", 1.0), ("steps", 0.95)):
        image.scroll_into_view_if_needed()
        before, words = picture(image), readout.inner_text()
        with dragged(notebook, slider_of(explorer, label), share):
            expect(readout).not_to_have_text(words)
            notebook.wait_for_timeout(500)  # the new picture is decoded
            assert changed_thirds(before, picture(image)) == [True, True, True], label
    assert readout.inner_text().startswith("4 pseudo-tokens")


def test_sliders_tell_screen_readers_their_name_and_value(notebook):
    _, readout, _, handle = explorer_of(notebook, "loss")
    expect(handle).to_have_attribute("aria-label", "steps")
    handle.focus()
    for key in ("Home", "ArrowRight", "End"):
        notebook.keyboard.press(key)
    expect(readout).to_contain_text("step 60:")
    expect(handle).to_have_attribute("aria-valuetext", "60")


def test_steps_play_are_typed_and_jump_to_the_best(notebook):
    explorer, readout, _, handle = explorer_of(notebook, "loss")
    typed = explorer.get_by_label("step nearest to")
    typed.fill("11")
    typed.press("Enter")
    expect(readout).to_contain_text("step 10:")
    expect(typed).to_have_value("10")
    explorer.get_by_text("best step").click()
    expect(readout).not_to_contain_text("step 10:")
    typed.fill("0")
    typed.press("Enter")
    expect(readout).to_contain_text("step 0:")
    explorer.get_by_title("play or pause").click()
    expect(readout).to_contain_text("step 60:")  # it plays up to the last step
    expect(handle).to_have_attribute("aria-valuetext", "60")


def test_a_picture_that_is_clicked_shows_its_neighbours_along_the_steps(notebook):
    explorer, readout, steps, _ = explorer_of(notebook, "nearest to its OTI feature")
    names = explorer.locator("figcaption")
    assert explorer.locator("figure img").evaluate_all("all => all.every(img => img.naturalWidth > 0)")
    first = names.all_inner_texts()
    assert len(first) == 10
    explorer.locator(".widget-toggle-button").nth(3).click()
    expect(readout).to_contain_text(explorer.locator(".widget-toggle-button").nth(3).text_content())
    second = names.all_inner_texts()
    assert second[:5] != first[:5]
    with dragged(notebook, steps, 0.0):
        expect(readout).to_contain_text("step 0:")
        assert names.all_inner_texts()[:5] == second[:5]  # the native ones stay
        assert names.all_inner_texts()[5:] != second[5:]


# ---------------------------------------------------------------- the page of a map


def map_page(folder: Path) -> Path:
    """Twelve images and their captions; the pictures are red, and the first one has none."""
    rng = np.random.default_rng(0)
    images = Embeddings(rng.normal(size=(12, 4)) + 2, labels=[k % 2 for k in range(12)], class_names=("cat", "dog"))
    texts = Embeddings(rng.normal(size=(12, 4)) - 2, modality="text", texts=[f"caption {k}" for k in range(12)])
    sets, file = {"image": images, "text": texts}, BytesIO()
    Image.new("RGB", (8, 8), "red").save(file, "JPEG")
    flat = tasks.flat_maps(sets, ("PCA", "t-SNE"), n_neighbors=3, perplexity=5.0)
    pictures = dict.fromkeys(images.ids[1:].tolist(), file.getvalue())
    path = folder / "map.html"
    path.write_text(plots.map_page(tasks.point_table(sets, flat), flat, pictures, title="N = 12, seed 0"))
    return path


@pytest.fixture(params=["light", "dark"])
def flat_page(page, tmp_path, request):
    """The page of a map in a light and in a dark browser; no script may have failed in the end."""
    context = page.context.browser.new_context(viewport={"width": 1100, "height": 760}, color_scheme=request.param)
    shown, errors = context.new_page(), []
    shown.on("pageerror", lambda error: errors.append(str(error)))
    shown.goto(map_page(tmp_path).as_uri())
    yield shown, request.param
    context.close()
    assert errors == []


def middle(locator) -> tuple[float, float]:
    box = locator.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_a_map_shows_pictures_to_mouse_and_keys(flat_page):
    shown, scheme = flat_page
    card, image = shown.locator("#card"), shown.locator("#card img")
    ground = shown.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") == (scheme == "light")
    assert image.count() == 0
    shown.mouse.move(*middle(shown.locator(".point").nth(3)))
    assert "class: dog" in card.inner_text()
    assert image.evaluate("img => img.naturalWidth") == 8
    assert shown.locator("#links line").count() == 2  # to itself and to its caption
    shown.mouse.click(*middle(shown.locator(".point").nth(15)))
    assert "caption 3" in card.inner_text()
    assert "held" in card.inner_text()
    shown.mouse.move(*middle(shown.locator(".point").nth(8)))
    assert "caption 3" in card.inner_text()  # held, whatever is pointed at
    shown.keyboard.press("Escape")
    assert image.count() == 0
    shown.keyboard.press("ArrowRight")
    first = card.inner_text()
    assert "image" in first or "caption" in first
    for key in ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight"):
        shown.keyboard.press(key)
    shown.keyboard.press("Enter")
    assert "held" in card.inner_text()


def test_a_maps_legend_hides_sets_and_its_buttons_switch_maps(flat_page):
    shown, _ = flat_page
    assert shown.locator("#sets").inner_text().split("\n") == ["Show", "image (12)", "caption (12)"]
    shown.get_by_label("caption").uncheck()
    assert shown.locator(".point:visible").count() == 12
    before = middle(shown.locator(".point").first)
    assert shown.locator("#words").inner_text().startswith("PCA")
    shown.get_by_label("t-SNE").check()
    assert shown.locator("#words").inner_text().startswith("t-SNE")
    assert middle(shown.locator(".point").first) != before
