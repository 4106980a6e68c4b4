"""The main job from the command line: a folder of photographs with a broken one in it, and real CLIP vectors."""

import json

import nbformat
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image
from sklearn.datasets import load_sample_images
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from crossgap_lib.cli import cli
from crossgap_lib.embeddings.embeddings import Embeddings


def photographs(folder, a_class: int = 14) -> None:
    """Crops of two real photographs (scikit-learn's) as cats and dogs, and one broken JPEG."""
    for name, photo in zip(("Cat", "Dog"), load_sample_images().images, strict=True):
        rng = np.random.default_rng(0)
        place = folder / "PetImages" / name
        place.mkdir(parents=True, exist_ok=True)
        for k in range(a_class):
            y, x = rng.integers(0, 200, 2)
            Image.fromarray(photo[y : y + 220, x : x + 260]).save(place / f"{k}.jpg")
    whole = folder / "PetImages" / "Cat" / "0.jpg"
    whole.with_name("666.jpg").write_bytes(whole.read_bytes()[:900])


def run_figures(*arguments: str):
    result = CliRunner().invoke(cli, ["figures", *arguments])
    assert result.exit_code == 0, result.output
    return result


def spoken(path) -> str:
    """All that an executed notebook printed or said in Markdown."""
    outputs = [o for cell in nbformat.read(path, as_version=4).cells for o in cell.get("outputs", [])]
    return "\n".join(o.get("text", "") or o.get("data", {}).get("text/markdown", "") for o in outputs)


@pytest.mark.slow
def test_dogs_vs_cats_on_photographs(tmp_path):
    photographs(tmp_path / "photos")  # test_datasets reads the other layout
    run_figures("--only", "01", "--data", f"dogs-vs-cats:{tmp_path / 'photos'}", "--out", str(tmp_path / "out"))
    made = tmp_path / "out" / "01_dogs_vs_cats"
    said = spoken(made / "01_dogs_vs_cats.ipynb")
    assert "1 of 29 pictures could not be decoded and were skipped" in said
    assert "666.jpg" in said
    assert {"stages.png", "similarities.png", "neighbours_dog.png", "claims.csv"} <= {p.name for p in made.iterdir()}


@pytest.mark.slow
def test_modality_gap_of_real_clip_vectors(tmp_path, real_folder):
    file = real_folder / "clip_vitb16_coco500.npz"
    run_figures("--only", "03", "--embeddings", str(file), "--out", str(tmp_path))
    measured = pd.read_csv(tmp_path / "03_modality_gap" / "gap.csv").set_index("quantity")["value"]
    expected = {
        "modality gap (Eq. 7)": 0.851,
        "mean cosine of pairs": 0.310,
        "R@1 image to text": 0.552,
        "R@1 text to image": 0.506,
    }
    assert measured[list(expected)].round(3).to_dict() == expected
    record = json.loads((tmp_path / "03_modality_gap" / ".run.json").read_text())
    assert str(real_folder) not in json.dumps(record), "a record names no folder of this machine"


REAL = (
    "ViT-B-16-SigLIP,random",
    "ViT-B-16-SigLIP2,random",
    "timm:vit_small_patch14_dinov2,random",
    "timm:vit_small_patch16_dinov3,random",
)


def cached_tokenizer(cache, repo: str) -> None:
    """A tokenizer in the hub's cache layout, where SigLIP's is looked for; a word each, as its words don't matter."""
    snapshot = cache / f"models--{repo.replace('/', '--')}" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    absent = snapshot.parents[1] / ".no_exist" / "0"  # files that the hub is known not to have
    absent.mkdir(parents=True)
    for name in ("config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja"):
        (absent / name).touch()
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0")
    words = {
        "<pad>": 0,
        "</s>": 1,
        "<unk>": 2,
        **{w: k for k, w in enumerate(("a", "photo", "of", "cat", "dog", "x"), 3)},
    }
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.save(str(snapshot / "tokenizer.json"))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (snapshot / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.mark.slow
def test_real_architectures_run_through_the_comparison(tmp_path, monkeypatch):
    """SigLIP, SigLIP 2, DINOv2 and DINOv3 with random weights: encoded, inverted, projected, laid out."""
    for name in ("SigLIP", "SigLIP2"):
        cached_tokenizer(tmp_path / "hub", f"timm/ViT-B-16-{name}")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    # The same six pictures throughout: DINOv2 sees 1369 patches of each.
    small = {"data": "world:dogs-vs-cats", "n_two_classes": 6, "n_gallery": 6, "n_queries": 2, "steps": 1}
    extra = [part for name, value in small.items() for part in ("-p", name, str(value))]
    run_figures("--only", "05", "--models", ";".join(REAL), *extra, "--out", str(tmp_path / "out"))
    made = tmp_path / "out" / "05_siglip_siglip2_dino"
    table = pd.read_csv(made / "methods.csv")
    assert set(table["model"]) == set(REAL)
    for name in REAL:
        by_text = set() if name.startswith("timm") else {"OTI", "OTI, step chosen", "OTI, best step", "PCA"}
        assert set(table[table["model"] == name]["method"]) == {"Original"} | by_text
    assert table["value"].between(0, 100).all()
    assert (made / "methods.png").is_file()


@pytest.mark.slow
def test_comparisons_run_on_precomputed_features(tmp_path):
    """Notebook 04 on pairs without labels, notebook 05 on labelled image features: no encoder is loaded."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(2, 60, 16)).astype(np.float32)
    np.savez(tmp_path / "pairs.npz", image_features=images, text_features=texts)
    labels = np.arange(60) % 3
    Embeddings(images + 2 * np.eye(16, dtype=np.float32)[labels], labels=labels).save(tmp_path / "labelled.npz")
    out = tmp_path / "out"
    run_figures("--only", "04", "--embeddings", str(tmp_path / "pairs.npz"), "--out", str(out))
    (overlap,) = pd.read_csv(out / "04_similarity_histograms" / "histograms.csv").itertuples()
    assert overlap.pairs == "by modality", "there are no labels"
    assert overlap.value > 0.8, "both are drawn from the same cloud"
    verdicts = pd.read_csv(out / "04_similarity_histograms" / "claims.csv")["verdict"]
    assert set(verdicts) == {"not testable here"}
    run_figures("--only", "05", "--embeddings", str(tmp_path / "labelled.npz"), "--out", str(out))
    table = pd.read_csv(out / "05_siglip_siglip2_dino" / "methods.csv")
    assert set(table["method"]) == {"Original"}
    assert table["value"].min() > 40, "chance is a third"
