"""Downloads with the downloaders replaced: what they are asked for, what is said, and a network that is not there."""

from types import SimpleNamespace
from urllib.error import URLError

import huggingface_hub
import miniatures
import pytest
import sklearn.datasets
import torchvision.datasets
from click.testing import CliRunner

import crossgap_lib.cli as cli
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named import fetch
from crossgap_lib.datasets.named.fetch import fetch_dataset
from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.datasets.text_sets import load_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models import load as models

BY_TORCHVISION = [name for name, row in SETS.items() if row.torchvision]
BY_HUB = [name for name, row in SETS.items() if row.hub]
BY_HAND = [name for name, row in SETS.items() if not row.fetched_by]


def raising(error):
    def raises(*_, **__):
        raise error

    return raises


@pytest.mark.parametrize("name", BY_TORCHVISION)
def test_torchvision_downloads_the_pictures(name, tmp_path, monkeypatch):
    calls = []
    assert hasattr(torchvision.datasets, SETS[name].torchvision)
    monkeypatch.setattr(torchvision.datasets, SETS[name].torchvision, lambda **options: calls.append(options))
    said = fetch_dataset(f"{name}:{tmp_path / 'new'}")
    assert calls == [{"root": str(tmp_path / "new"), "download": True}]
    assert said.startswith(f"{name} was downloaded to {tmp_path / 'new'} by torchvision.")
    assert (f"Left to do: {SETS[name].by_hand}" in said) == bool(SETS[name].by_hand)


@pytest.mark.parametrize("name", BY_HUB)
def test_the_hub_downloads_a_repository(name, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda **options: calls.append(options))
    assert "by huggingface_hub" in fetch_dataset(f"{name}:{tmp_path}")
    assert calls == [{"repo_id": SETS[name].hub, "repo_type": "dataset", "local_dir": str(tmp_path)}]


def test_what_the_hub_brings_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda local_dir, **_: miniatures.nano(tmp_path))
    fetch_dataset(f"nano-fever:{tmp_path}")
    assert len(load_texts(f"nano-fever:{tmp_path}").corpus) == 3


def test_pictures_of_torchvision_and_a_split_file_are_read(tmp_path, monkeypatch):
    def download(root, download):
        miniatures.coop(tmp_path, "split_zhou_EuroSAT.json", "eurosat/2750")

    monkeypatch.setattr(torchvision.datasets, "EuroSAT", download)
    fetch_dataset(f"eurosat:{tmp_path}")
    assert len(load_dataset(f"eurosat:{tmp_path}")) == 3


def test_newsgroups_are_written_as_files_and_the_pickle_goes(tmp_path, monkeypatch):
    def fetch_20newsgroups(data_home, subset, shuffle):
        homes.append(data_home)
        folder = f"{data_home}/20news_home/20news-bydate-{subset}"
        return SimpleNamespace(filenames=[f"{folder}/sci.space/1", f"{folder}/rec.autos/2"], data=["moon é", "car"])

    homes = []
    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", fetch_20newsgroups)
    fetch_dataset(f"20newsgroups:{tmp_path}")
    assert load_texts(f"20newsgroups:{tmp_path}").corpus == ("car", "moon é")
    assert len(load_texts(f"20newsgroups:{tmp_path}/train").corpus) == 2
    assert not any(str(tmp_path) in home for home in homes)


def test_a_post_that_would_be_written_elsewhere_is_refused(tmp_path, monkeypatch):
    bunch = SimpleNamespace(filenames=["/etc/../sci.space/1"], data=["x"])
    monkeypatch.setattr(sklearn.datasets, "fetch_20newsgroups", lambda **_: bunch)
    with pytest.raises(CrossgapError, match="scikit-learn named a post"):
        fetch_dataset(f"20newsgroups:{tmp_path}")


@pytest.mark.parametrize("name", BY_HAND)
def test_what_has_no_download_says_what_to_place(name, tmp_path):
    with pytest.raises(CrossgapError) as caught:
        fetch_dataset(f"{name}:{tmp_path}")
    assert str(caught.value) == f"There is no download of {SETS[name].placement}"


@pytest.mark.parametrize("error", [URLError("Name or service not known"), RuntimeError("File not found or corrupted.")])
def test_an_absent_network_is_one_sentence(error, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "DTD", raising(error))
    result = CliRunner().invoke(cli.cli, ["fetch", f"dtd:{tmp_path}"])
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
    assert result.stderr.startswith("Error: dtd can't be downloaded: ")
    assert str(error.args[0]) in result.stderr


def test_the_hub_without_a_network_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CrossgapError, match="nano-nq can't be downloaded: "):
        fetch_dataset(f"nano-nq:{tmp_path / 'x'}")


def test_a_name_without_a_path():
    with pytest.raises(CrossgapError, match=r"Where should dtd go\? crossgap fetch dtd:PATH"):
        fetch_dataset("dtd:")
    with pytest.raises(CrossgapError, match=r"Did you mean: .*eurosat"):
        fetch_dataset("eurosats:x")


def test_the_command_line_tells_sets_from_models(monkeypatch):
    monkeypatch.setattr(models, "fetch_model", lambda spec: f"model {spec}")
    monkeypatch.setattr(fetch, "fetch_dataset", lambda spec: f"set {spec}")
    for spec in ("ViT-B-32,openai", "ViT-B-32,/a:b.pt", "timm:vit_base", "local-dir:x", "mini-clip"):
        assert CliRunner().invoke(cli.cli, ["fetch", spec]).stdout == f"model {spec}\n"
    for spec in ("dtd:x", "dtt:x", "dtd:"):
        assert CliRunner().invoke(cli.cli, ["fetch", spec]).stdout == f"set {spec}\n"


def test_the_command_line_lists_the_sets():
    result = CliRunner().invoke(cli.cli, ["datasets"])
    assert result.exit_code == 0
    assert all(name in result.stdout for name in SETS)
