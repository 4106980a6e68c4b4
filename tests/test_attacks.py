"""Nothing that comes with a model runs: each attack would leave a mark, which must not appear.

An attack ends in one sentence (CrossgapError) or in a sound model. ``Bait`` is a pickled object whose reading writes
the mark; a Python file beside the weights would write it where it is imported.
"""

import io
import json
import pickle
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants as hub
from safetensors.torch import load_file
from test_models import write_open_clip, write_timm

from crossgap_lib import hub as hub_face
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.load import load_model


class Bait:
    """Leaves the mark where it is unpickled."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return self.mark.touch, ()


@pytest.fixture
def mark(tmp_path, monkeypatch):
    """A file that no attack may write; nobody is asked on the terminal, and nothing is asked of the network."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on the terminal"))
    monkeypatch.setattr(hub_face, "hub_answers", lambda: False)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    mark = tmp_path / "it-ran"
    yield mark
    assert not mark.exists()


def plant_code(folder, mark):
    """Python files of every name by which a configuration below could ask for one."""
    for name in ("own", "modeling_own", "tokenization_own", "configuration_own", "__init__", "hubconf", "setup"):
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Own: pass\n")


def edit(file, **changes):
    """The JSON file with these keys; "a.b" is the key b of the part a."""
    config = json.loads(file.read_text()) if file.exists() else {}
    for path, value in changes.items():
        part = config
        *parents, key = path.split(".")
        for parent in parents:
            part = part.setdefault(parent, {})
        part[key] = value
    file.write_text(json.dumps(config))


def sound_or_one_sentence(spec):
    """The model, used as people do; None where a sentence came."""
    said = None
    try:
        model = load_model(spec, device="cpu")
        assert model.encode_pixels(torch.zeros(1, 3, 16, 16)).isfinite().all()
        if model.has_text:
            assert model.encode_tokens(model.tokenize("a dog")).isfinite().all()
    except CrossgapError as error:
        said = str(error)
    assert said is None or (said.strip() and said.isprintable())
    return said


# --- configurations -----------------------------------------------------------------------------------------

OPEN_CLIP, TOKENIZER, CONFIG = "open_clip_config.json", "tokenizer_config.json", "config.json"
OWN = {"AutoTokenizer": ["own.Own", "own.Own"], "AutoConfig": "own.Own", "AutoModel": "own.Own"}
ASKING_FOR_CODE = {  # attack: (file, changes)
    "auto_map of a tokenizer": (TOKENIZER, {"auto_map": OWN, "tokenizer_class": "Own"}),
    "auto_map, trusting": (TOKENIZER, {"auto_map": OWN, "tokenizer_class": "Own", "trust_remote_code": True}),
    "auto_map of another repository": (TOKENIZER, {"auto_map": {"AutoTokenizer": ["them/theirs--own.Own", None]}}),
    "auto_map, deep": (OPEN_CLIP, {"model_cfg.text_cfg.hf_config": [{"auto_map": OWN}]}),
    "auto_map of the configuration": (CONFIG, {"auto_map": OWN, "model_type": "own"}),
    "kernel": (CONFIG, {"model_type": "bert", "attn_implementation": "them/kernel"}),
    "kernel of experts": (CONFIG, {"_experts_implementation_internal": "them/kernel"}),
}


@pytest.mark.parametrize("attack", ASKING_FOR_CODE)
def test_a_configuration_that_asks_for_code_is_refused(attack, tmp_path, mark):
    file, changes = ASKING_FOR_CODE[attack]
    folder = write_open_clip(tmp_path / "clip")
    plant_code(folder, mark)
    edit(folder / file, **changes)
    assert "code that comes with a model is never run" in sound_or_one_sentence(f"local-dir:{folder}")


TEXTS, PICTURES = "model_cfg.text_cfg", "model_cfg.vision_cfg"
ODD = {  # attack: (file, changes, what the sentence says; None: the model is sound, the change is of no effect)
    "class of the folder's own": (TOKENIZER, {"tokenizer_class": "own.Own"}, "no tokenizer of transformers"),
    "class that is a model": (TOKENIZER, {"tokenizer_class": "AutoModel"}, "no tokenizer of transformers"),
    "class that calls itself": (TOKENIZER, {"tokenizer_class": "AutoTokenizer"}, "no tokenizer of transformers"),
    "class that is a function": (TOKENIZER, {"tokenizer_class": "pipeline"}, "no tokenizer of transformers"),
    "class that is no name": (TOKENIZER, {"tokenizer_class": {"a": 1}}, "no tokenizer of transformers"),
    "trusting without code": (TOKENIZER, {"trust_remote_code": True}, None),
    "arguments that trust": (OPEN_CLIP, {f"{TEXTS}.tokenizer_kwargs": {"trust_remote_code": True}}, "not taken"),
    "arguments of no kind": (OPEN_CLIP, {f"{TEXTS}.tokenizer_kwargs": [1]}, "can't be"),
    "tokenizer elsewhere": (OPEN_CLIP, {f"{TEXTS}.hf_tokenizer_name": "../theirs"}, None),
    "tokenizer of the hub": (OPEN_CLIP, {f"{TEXTS}.hf_tokenizer_name": "them/theirs"}, None),
    "tokenizer that is a number": (OPEN_CLIP, {f"{TEXTS}.hf_tokenizer_name": -1}, "hf_tokenizer_name"),
    "text encoder elsewhere": (OPEN_CLIP, {f"{TEXTS}.hf_model_name": "../theirs"}, "asks for Python code"),
    "text encoder that is a number": (OPEN_CLIP, {f"{TEXTS}.hf_model_name": 3}, "hf_model_name"),
    "image encoder of the hub": (OPEN_CLIP, {f"{PICTURES}.timm_model_name": "hf-hub:them/theirs"}, "no model of timm"),
    "image encoder elsewhere": (OPEN_CLIP, {f"{PICTURES}.timm_model_name": "local-dir:../theirs"}, "no model of timm"),
    "image encoder of no kind": (OPEN_CLIP, {f"{PICTURES}.timm_model_name": [1]}, "no model of timm"),
    "class of attention": (OPEN_CLIP, {f"{PICTURES}.block_type": "own.Own"}, None),
    "arguments of a module": (OPEN_CLIP, {f"{TEXTS}.act_kwargs": {"__class__": "own.Own"}}, "can't be loaded"),
    "width": (OPEN_CLIP, {f"{TEXTS}.width": 10**9}, "width: 1e\\+09, which no model has"),
    "width, endless": (OPEN_CLIP, {f"{TEXTS}.width": float("inf")}, "width: inf, which no model has"),
    "depth": (OPEN_CLIP, {f"{TEXTS}.layers": 10**20}, "layers: 1e\\+20, which no model has"),
    "depth of a ResNet": (OPEN_CLIP, {f"{PICTURES}.layers": [1, 10**6, 1, 1]}, "layers: 1e\\+06, which no model has"),
    "memory": (OPEN_CLIP, {f"{TEXTS}.width": 2**18, f"{TEXTS}.layers": 900}, "don't belong together"),
    "memory of a mask": (OPEN_CLIP, {f"{TEXTS}.context_length": 2**19}, "don't belong together"),
    "size of pictures": (OPEN_CLIP, {f"{PICTURES}.image_size": 10**6}, "image_size: 1e\\+06, which no model has"),
    "spread of pixels": (OPEN_CLIP, {"preprocess_cfg.std": [0, 0, 0]}, "preprocessing"),
    "pixels of two colours": (OPEN_CLIP, {"preprocess_cfg.mean": [0.5, 0.5]}, "preprocessing"),
    "no description": (OPEN_CLIP, {"model_cfg": [1]}, "can't be loaded"),
    "no texts": (OPEN_CLIP, {"model_cfg.text_cfg": 5}, "can't be loaded"),
}


@pytest.mark.parametrize("attack", ODD)
def test_an_odd_configuration_is_one_sentence_or_of_no_effect(attack, tmp_path, mark):
    file, changes, says = ODD[attack]
    folder, theirs = write_open_clip(tmp_path / "clip"), tmp_path / "theirs"
    theirs.mkdir()
    for place in (folder, theirs):
        plant_code(place, mark)
    edit(theirs / CONFIG, model_type="own", auto_map=OWN)
    changes = {k: str(theirs) if v == "../theirs" and "model" in k.split(".")[-1] else v for k, v in changes.items()}
    edit(folder / file, **changes)
    said = sound_or_one_sentence(f"local-dir:{folder}")
    assert said is None if says is None else re.search(says, said or "")


def test_a_tokenizer_file_on_which_its_library_panics_is_one_sentence(tmp_path, mark):
    folder = write_open_clip(tmp_path / "clip")
    edit(folder / "tokenizer.json", **{"post_processor.special_tokens": {}})  # its template names <sot> and <eot>
    assert "tokenizer" in sound_or_one_sentence(f"local-dir:{folder}")


# --- weights ------------------------------------------------------------------------------------------------


def as_pickle(weights, bait):
    return pickle.dumps(weights | {"logit_scale": bait})


def as_torch_file(weights, bait, **how):
    made = io.BytesIO()
    torch.save(weights | {"logit_scale": bait}, made, **how)
    return made.getvalue()


def as_checkpoint(weights, bait):
    made = io.BytesIO()
    torch.save({"state_dict": weights, "args": bait}, made)
    return made.getvalue()


def as_climbing_zip(weights, bait):
    """A torch file with a record that would be written outside, had anybody unpacked the archive."""
    made = io.BytesIO(as_torch_file(weights, 0.0))
    with zipfile.ZipFile(made, "a") as archive:
        archive.writestr(f"../{bait.mark.name}", "")
        archive.writestr(str(bait.mark), "")
    return made.getvalue()


def as_tar(weights, bait):
    """torch's oldest format is a tar, which it would unpack."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("sys_info", "pickle", f"../../{bait.mark.name}", str(bait.mark)):
            part = tarfile.TarInfo(name)
            part.size = len(data := pickle.dumps(bait))
            archive.addfile(part, io.BytesIO(data))
    return made.getvalue()


def as_numpy(weights, bait):
    made = io.BytesIO()
    np.savez(made, **{"params/img/embedding/kernel": np.array([bait], dtype=object)})
    return made.getvalue()


def with_numpy_number(weights, bait):
    """A numpy number whose bytes are those of an object: numpy would take them for a pointer."""

    class Number:
        def __reduce__(self):
            return np.float64(0).__reduce__()[0], (np.dtype("O"), b"\1\2\3\4\5\6\7\10")

    return as_checkpoint(weights, Number())


def as_torchscript(weights, bait):
    made = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), made)
    return made.getvalue()


ATTACKS = {
    "pickle": as_pickle,
    "torch file": as_torch_file,
    "old torch file": lambda w, b: as_torch_file(w, b, _use_new_zipfile_serialization=False),
    "newest pickle": lambda w, b: as_torch_file(w, b, pickle_protocol=5),
    "beside the weights": as_checkpoint,
    "climbing zip": as_climbing_zip,
    "climbing tar": as_tar,
    "numpy": as_numpy,
    "numpy number": with_numpy_number,
    "TorchScript": as_torchscript,
    "json": lambda w, b: b"{}" + b"{" * 100,
    "nothing": lambda w, b: b"",
}
NAMES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin", "weights.pth")


def said_of(folder, weights, name, attack, mark):
    """What is said of a model's folder whose only weights are the attack, under this name; None where it loads."""
    tensors = load_file(folder / weights)
    (folder / weights).unlink()
    (folder / name).write_bytes(ATTACKS[attack](tensors, Bait(mark)))
    return sound_or_one_sentence(f"local-dir:{folder}")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("attack", ATTACKS)
def test_weights_of_a_folder_run_nothing(attack, name, tmp_path, mark):
    said = said_of(write_open_clip(tmp_path / "clip"), "open_clip_model.safetensors", name, attack, mark)
    assert said is None if attack == "numpy number" else f"{name} can't be loaded: " in said


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pth"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_weights_of_a_timm_folder_run_nothing(attack, name, tmp_path, mark):
    said = said_of(write_timm(tmp_path / "dino"), "model.safetensors", name, attack, mark)
    assert said is None if attack == "numpy number" and "safe" not in name else "can't be loaded" in said


@pytest.mark.parametrize("suffix", ["pt", "npz", "safetensors"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_weights_file_runs_nothing(attack, suffix, tmp_path, mark):
    file = tmp_path / f"weights.{suffix}"
    file.write_bytes(ATTACKS[attack]({"visual.proj": torch.ones(2, 2)}, Bait(mark)))
    assert f"weights.{suffix} can't be loaded: " in sound_or_one_sentence(f"ViT-S-32-alt,{file}")


# --- timm folders and the hub -------------------------------------------------------------------------------

TIMM = {
    "auto_map": ({"auto_map": OWN}, "never run"),
    "architecture of the hub": ({"architecture": "hf-hub:them/theirs"}, "can't be loaded"),
    "architecture that is a path": ({"architecture": "../own"}, "can't be loaded"),
    "weights elsewhere": ({"pretrained_cfg.file": "../elsewhere.bin", "pretrained_cfg.source": ""}, None),
    "weights of the hub": ({"pretrained_cfg.hf_hub_id": "them/theirs", "pretrained_cfg.source": "hf-hub"}, None),
    "weights of an address": ({"pretrained_cfg.url": "https://them.invalid/x.pth"}, None),
    "loader of its own": ({"pretrained_cfg.custom_load": "hf"}, None),
    "class of a layer": ({"model_args.act_layer": "own.Own"}, "can't be loaded"),
    "class of a block": ({"model_args.block_fn": "own.Own"}, "can't be loaded"),
    "width": ({"model_args.embed_dim": 10**9}, "embed_dim: 1e\\+09, which no model has"),
    "depth": ({"model_args.depth": 10**9}, "depth: 1e\\+09, which no model has"),
    "memory": ({"model_args.embed_dim": 2**17, "model_args.depth": 900}, "don't belong together"),
    "deeper than its weights": (
        {"model_args.depth": 3, "num_classes": 9, "pretrained_cfg.classifier": "head"},
        "Missing keys",
    ),
}


@pytest.mark.parametrize("attack", TIMM)
def test_a_timm_folder_runs_nothing(attack, tmp_path, mark):
    changes, says = TIMM[attack]
    folder = write_timm(tmp_path / "dino")
    torch.save({"norm.weight": Bait(mark)}, tmp_path / "elsewhere.bin")
    plant_code(folder, mark)
    edit(
        folder / CONFIG,
        **{k: v.replace("..", str(tmp_path)) if v == "../elsewhere.bin" else v for k, v in changes.items()},
    )
    said = sound_or_one_sentence(f"local-dir:{folder}")
    assert said is None if says is None else re.search(says, said or "")


def in_hub_cache(folder, repo):
    """The folder as the hub's client keeps a repository."""
    place = Path(hub.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder, place / "snapshots" / ("0" * 40))
    for name in (CONFIG, "added_tokens.json", "special_tokens_map.json", "chat_template.jinja", "tokenizer.model"):
        if not (folder / name).exists():  # the client remembers what the hub has said that it lacks
            missing = place / ".no_exist" / ("0" * 40) / name
            missing.parent.mkdir(parents=True, exist_ok=True)
            missing.touch()
    return f"hf-hub:{repo}"


def test_repositories_of_the_hub_load_and_run_nothing(tmp_path, mark):
    clip, dino = write_open_clip(tmp_path / "clip"), write_timm(tmp_path / "dino")
    edit(clip / OPEN_CLIP, **{f"{TEXTS}.hf_tokenizer_name": "them/clip"})
    for folder in (clip, dino):
        plant_code(folder, mark)
        assert sound_or_one_sentence(in_hub_cache(folder, f"them/{folder.name}")) is None
        assert sound_or_one_sentence(f"them/{folder.name}") is None
        assert sound_or_one_sentence(f"timm:hf_hub:them/{folder.name}") is None
        edit(folder / CONFIG, auto_map=OWN)
        spec = in_hub_cache(folder, f"evil/{folder.name}")
        assert "code that comes with a model is never run" in sound_or_one_sentence(spec)


def test_a_tokenizer_of_another_repository_runs_nothing(tmp_path, mark):
    clip, theirs = write_open_clip(tmp_path / "clip"), tmp_path / "theirs"
    theirs.mkdir()
    plant_code(theirs, mark)
    edit(theirs / TOKENIZER, auto_map=OWN, tokenizer_class="Own")
    in_hub_cache(theirs, "them/tokens")
    edit(clip / OPEN_CLIP, **{f"{TEXTS}.hf_tokenizer_name": "them/tokens"})
    assert "code that comes with a model is never run" in sound_or_one_sentence(in_hub_cache(clip, "them/clip"))


def test_a_repository_with_a_pickle_for_weights_runs_nothing(tmp_path, mark):
    clip = write_open_clip(tmp_path / "clip")
    (clip / NAMES[0]).unlink()
    torch.save({"logit_scale": Bait(mark)}, clip / NAMES[1])
    assert "holds Python objects" in sound_or_one_sentence(in_hub_cache(clip, "them/clip"))
