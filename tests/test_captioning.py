"""Captions by CoCa against open_clip's own generate, from files, and as queries."""

import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import torch
import transformers
from open_clip import coca_model

from crossgap_lib import metrics
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.captioner import (
    decode_greedily,
    encode_captions,
    generated_captions,
    known_captions,
    load_captions,
    save_captions,
)
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_images
from crossgap_lib.errors import CrossgapError
from crossgap_lib.models.encoder import DualEncoder
from crossgap_lib.models.load import load_model

VISION = {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
POOL = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
COCA = {
    "embed_dim": 32,
    "vision_cfg": VISION | POOL,
    "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
    "multimodal_cfg": TEXT | {"attn_pooler_heads": 2},
}


def small_coca(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = coca_model.CoCa(**COCA).eval()
        net.text_decoder.text_projection.data.normal_()  # open_clip leaves it as the memory was
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    preprocess = open_clip.image_transform(32, is_train=False)
    return DualEncoder(
        "small coca", net, preprocess, {"size": (32, 32)}, 32, ("random",), 16, "CLIP BPE", lambda: tokenizer
    )


@pytest.fixture
def generate(monkeypatch):
    """open_clip's CoCa.generate, which this transformers lacks but for its beam search."""
    for name in ("LogitsProcessorList", "TopKLogitsWarper", "RepetitionPenaltyLogitsProcessor"):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    for name in ("MinLengthLogitsProcessor", "MaxLengthCriteria", "StoppingCriteriaList"):
        monkeypatch.setattr(coca_model, name, getattr(transformers, name), raising=False)
    monkeypatch.setattr(coca_model, "_has_transformers", True)
    monkeypatch.setitem(coca_model.GENERATION_TYPES, "top_k", transformers.TopKLogitsWarper)
    return lambda net, pixels, n: net.generate(pixels, generation_type="top_k", top_k=1, seq_len=n)


@pytest.mark.parametrize("length", [6, 12])
def test_greedy_decoding_is_open_clips_generate_with_one_candidate(generate, length):
    coca, pixels = small_coca(), torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    ours = decode_greedily(coca, pixels, length)
    theirs = generate(coca.net, pixels, length)  # its last id is always EOT
    for own, ids in zip(ours, theirs.tolist(), strict=True):
        text = coca.tokenizer.decode(ids[1:]).split("<end_of_text>")[0].strip()
        assert own.startswith(text)
        assert text


def test_a_caption_ends_at_eot_and_not_before_five_ids():
    coca, pixels = small_coca(), torch.zeros(3, 3, 32, 32)
    projection = coca.net.text_decoder.text_projection.data
    coca.net.text_decoder.ln_final.weight.data.zero_()
    coca.net.text_decoder.ln_final.bias.data.zero_()[0] = 1.0
    projection.zero_()
    projection[0, 49407], projection[0, 320] = 2.0, 1.0  # EOT is always the likeliest, then "a"
    assert decode_greedily(coca, pixels, 12) == ["a a a a"] * 3


def test_captions_of_a_data_set():
    coca, photos = small_coca(), load_dataset("world:all", n=5)
    captions = generated_captions(coca, photos, max_tokens=8, batch_size=2)
    assert list(captions) == photos.ids.tolist()
    pixels = torch.stack([coca.preprocess(photos.picture(k)) for k in range(5)])
    assert list(captions.values()) == decode_greedily(coca, pixels, 8)


def test_pictures_that_cannot_be_decoded_have_no_caption(tmp_path):
    (tmp_path / "cat").mkdir()
    load_dataset("world:all", n=1).picture(0).save(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "0.png").write_bytes(b"no picture")
    captions = generated_captions(small_coca(), load_dataset(f"folder:{tmp_path}"), max_tokens=6)
    assert list(captions) == ["cat/1.png"]


@pytest.mark.slow
def test_a_coca_of_open_clip():
    coca, photos = load_model("coca_ViT-B-32,random"), load_dataset("world:all", n=2)
    captions = generated_captions(coca, photos, max_tokens=7)
    assert list(captions) == photos.ids.tolist()
    assert all(captions.values())


def test_other_models_write_no_captions(mini):
    photos = load_dataset("world:all", n=2)
    with pytest.raises(CrossgapError, match="writes no captions"):
        generated_captions(mini, photos)
    for length in (5, 17):
        with pytest.raises(CrossgapError, match="between 6 and 16"):
            generated_captions(small_coca(), photos, max_tokens=length)


# ---------------------------------------------------------------- captions that are there


def test_files_come_back(tmp_path):
    captions = {"a/1.jpg": "eine Möwe", "b": 'a "dog"', "c": "a\u2028b \x85 c"}
    assert load_captions(save_captions(captions, tmp_path / "c.jsonl")) == captions
    (tmp_path / "captions.csv").write_text('image,caption\n1.jpg,"a dog, a cat"\n1.jpg,again\n2.jpg,a hat\n')
    assert load_captions(tmp_path / "captions.csv") == {"1.jpg": "a dog, a cat", "2.jpg": "a hat"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "no text"),
        ("{", "line 1 can't be read as JSON"),
        ('{"id": "a"}\n', "line 1 must be"),
        ('\n{"id": "a", "caption": " "}', "line 2 must be"),
        ('{"id": 3, "caption": "a dog"}', "with words for both"),
        ('["a", "b"]', "line 1 is .* no JSON object"),
        ('{"id": "a", "caption": "x"}\n{"id": "a", "caption": "y"}', "line 2 holds a caption of 'a', which has one"),
    ],
)
def test_bad_files_are_refused(tmp_path, content, message):
    (tmp_path / "c.jsonl").write_text(content)
    with pytest.raises(CrossgapError, match=message):
        load_captions(tmp_path / "c.jsonl")
    with pytest.raises(CrossgapError, match="can't be read"):
        load_captions(tmp_path / "absent.jsonl")


def test_captions_as_queries(mini, tmp_path):
    """The textbook: encode each caption, rank the other pictures, average precision by hand."""
    photos = load_dataset("world:dogs-vs-cats", n=12)
    images = encode_images(mini, photos, cache=False)
    queries = encode_captions(mini, known_captions(photos), images)
    assert queries.modality == "text"
    assert queries.texts.tolist() == [several[0] for several in photos.captions]
    found = metrics.retrieval(queries, images)
    for row in range(12):
        own = torch.nn.functional.normalize(mini.encode_tokens(mini.tokenize(photos.captions[row][0])), dim=1)
        scores = (own @ images.features.T).numpy()[0]
        order = [k for k in np.argsort(-scores) if k != row]
        hits = photos.labels[order] == photos.labels[row]
        precision = [hits[: k + 1].mean() for k in np.flatnonzero(hits)]
        assert found.ap[row] == pytest.approx(np.mean(precision), abs=1e-6)


def test_missing_captions_are_named(mini):
    images = Embeddings(np.eye(3), ids=["a", "b", "c"])
    with pytest.raises(CrossgapError, match="2 of 3 pictures have no caption, the first is b"):
        encode_captions(mini, {"a": "a dog"}, images)
    with pytest.raises(CrossgapError, match="has no captions"):
        known_captions(replace(load_dataset("world:all", n=2), captions=None))


def test_json_lines_are_one_a_picture(tmp_path):
    path = save_captions({"a": "x\ny"}, tmp_path / "c.jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"id": "a", "caption": "x\ny"}]
