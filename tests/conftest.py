"""Fixtures shared by all tests: a private cache, the shipped mini, and random models of real architectures."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("busy", deadline=None)  # no test may depend on the clock
settings.load_profile("busy")
os.environ["CROSSGAP_HEADLESS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a hub


@pytest.fixture(autouse=True, scope="session")
def _private_cache(tmp_path_factory):
    os.environ["CROSSGAP_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def mini():
    from crossgap_lib.models.load import load_model

    return load_model("mini-clip")


@pytest.fixture(scope="session")
def cats_and_dogs(mini):
    """(model, image embeddings, prompt embeddings) of 40 drawn cats and dogs."""
    from crossgap_lib.datasets.load import load_dataset
    from crossgap_lib.embeddings.encode import encode_images, encode_texts

    images = encode_images(mini, load_dataset("world:dogs-vs-cats", n=40), cache=False)
    prompts = encode_texts(mini, ["a photo of a cat", "a photo of a dog"], labels=[0, 1], cache=False)
    return mini, images, prompts


@pytest.fixture(scope="session")
def real_folder():
    """Real CLIP vectors, which the project never ships: beside the checkout or where CROSSGAP_REAL says."""
    folder = Path(os.environ.get("CROSSGAP_REAL") or Path(__file__).parents[2] / "shared" / "real")
    if not folder.is_dir():
        pytest.skip(f"SKIPPED: no real CLIP vectors in {folder}; set CROSSGAP_REAL to test on them")
    return folder
