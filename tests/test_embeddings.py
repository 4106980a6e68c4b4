"""Round trips, refusals and encoding. The files that are refused are made here; nothing here loads a pickle."""

import json
import os
import re
import tracemalloc
from contextlib import contextmanager, suppress
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from safetensors.torch import save_file

from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings import vector_files
from crossgap_lib.embeddings.embeddings import Embeddings, load_pair
from crossgap_lib.embeddings.encode import encode_images, encode_texts, skip_report
from crossgap_lib.embeddings.vector_files import to_arrays
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.jobs.sources import open_source
from crossgap_lib.store import SEAL, pack

KINDS = (".npz", ".parquet", ".safetensors")


def random_features(n=5, d=7, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def full(n=5):
    """Embeddings with every column filled."""
    return Embeddings(
        random_features(n),
        ids=[f"Übung/{k}.jpg" for k in range(n)],
        labels=np.arange(n) % 2,
        class_names=("cat", "собака"),
        modality="text",
        texts=[f'猫 no. {k}, naïve "quoted", and a comma' for k in range(n)],
        meta={"model": "mini", "skipped": ["bad.jpg: the file is empty"], "n": 3},
    )


def assert_equal(left: Embeddings, right: Embeddings):
    assert torch.equal(left.features, right.features)  # bit for bit
    for name in ("ids", "labels", "texts"):
        a, b = getattr(left, name), getattr(right, name)
        assert (a is None) == (b is None)
        assert a is None or (a.dtype.kind == b.dtype.kind and a.tolist() == b.tolist())
    for name in ("class_names", "modality", "meta"):
        assert getattr(left, name) == getattr(right, name)


def refused(match, action):
    """The action is refused in one line, which is returned."""
    with pytest.raises(CrossgapError, match=match) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


# ---------------------------------------------------------------- what they are


LARGE = float(np.float32(1e30))
finite = st.floats(-LARGE, LARGE, width=32)


@st.composite
def matrices(draw):
    """(n, d) float32 with no all-zero row, of any magnitude."""
    array = draw(hnp.arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 24)), elements=finite))
    array[~array.any(axis=1), 0] = 1
    return array


@given(matrices())
@settings(max_examples=50, deadline=None)
def test_rows_become_unit_and_keep_their_direction(array):
    features = Embeddings(array).features
    assert features.dtype == torch.float32
    exact = array.astype(np.float64) / np.linalg.norm(array.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(features.numpy(), exact, atol=2e-6)


@given(matrices())
@settings(max_examples=50, deadline=None)
def test_normalising_twice_changes_no_bit(array):
    once = Embeddings(array).features
    assert torch.equal(Embeddings(once).features, once)


def test_normalising_twice_changes_no_bit_in_wide_rows():
    once = Embeddings(random_features(50, 4096)).features
    assert torch.equal(Embeddings(once).features, once)


@pytest.mark.parametrize("scale", [1e-30, 1e-14, 1e25])
def test_tiny_and_huge_rows_have_a_direction_too(scale):
    np.testing.assert_allclose(Embeddings([[3 * scale, 4 * scale]]).features, [[0.6, 0.8]], rtol=1e-6)


def test_the_features_given_are_not_changed_in_place():
    mine = random_features() * 3
    before = mine.clone()
    Embeddings(mine)
    assert torch.equal(mine, before)


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float64", "int64"])
def test_every_number_type_becomes_float32(kind):
    features = torch.tensor([[3, 4], [1, 0]], dtype=getattr(torch, kind))
    assert torch.equal(Embeddings(features).features, Embeddings(np.array([[3.0, 4.0], [1.0, 0.0]])).features)


@given(st.data())
@settings(max_examples=30, deadline=None)
def test_slice_mask_and_row_numbers_agree(data):
    e = full(9)
    rows = data.draw(st.slices(9).filter(lambda s: len(range(9)[s]) > 0))
    index = np.arange(9)[rows]
    by_slice, by_index, by_tensor = e[rows], e[index], e[torch.tensor(index.tolist())]
    assert_equal(by_slice, by_index)
    assert_equal(by_slice, by_tensor)
    assert len(by_slice) == len(index)
    assert torch.equal(by_slice.features, e.features[index.tolist()])
    assert by_slice.ids.tolist() == [f"Übung/{k}.jpg" for k in index]
    assert by_slice.labels.tolist() == [k % 2 for k in index]
    mask = np.isin(np.arange(9), index)
    assert_equal(e[mask], e[np.sort(index)])
    assert_equal(e[mask.tolist()], e[mask])


def test_what_is_absent_stays_absent_in_a_slice():
    part = Embeddings(random_features())[1:3]
    assert (part.labels, part.texts, part.ids.tolist()) == (None, None, ["row-000001", "row-000002"])


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (np.array(["ab", "c"]), ["ab", "c"]),
        (list(np.array(["ab", "c"])), ["ab", "c"]),
        (np.array(["ab", "c"], dtype=object), ["ab", "c"]),
        (np.array([b"ab", b"c"]), ["ab", "c"]),
        (pd.Series(["ab", "c"]), ["ab", "c"]),
        (("ab\0", ""), ["ab\0", ""]),
        (range(1, 3), ["1", "2"]),
        (torch.tensor([1, 2]), ["1", "2"]),
    ],
)
def test_strings_of_any_kind_and_numbers_become_plain_strings(given, read):
    e = Embeddings(random_features(2), ids=given, texts=given)
    for column in (e.ids, e.texts, e[[1, 0]].texts[::-1]):
        assert column.tolist() == read
        assert {type(word) for word in column} == {str}


@contextmanager
def less_memory_than(megabytes):
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < megabytes * 1e6
    finally:
        tracemalloc.stop()


def with_a_long_one(n=10_000):
    """Many short texts and ids, and one of 70 000 characters in each."""
    words = [*(f"word {k}" for k in range(n)), "é" * 70_000]
    return Embeddings(random_features(n + 1, 2), words, modality="text", texts=words)


def test_one_long_text_takes_its_own_room_alone():
    with less_memory_than(50):  # with strings of one width, each column takes 10 001 x 70 000 x 4 bytes = 2.8 GB
        e = with_a_long_one()
        part = e[np.arange(len(e))[::-1]]
    assert part.texts[0] == part.ids[0] == "é" * 70_000
    assert part.texts[-1] == "word 0"


def test_repr_says_what_it_is():
    assert repr(full()) == "Embeddings(5 x 7, text, 2 classes, model=mini)"


REFUSED = {
    "1 of 2 feature rows hold NaN or infinity": lambda: Embeddings([[1, np.nan], [1, 1]]),
    "2 of 2 feature rows hold NaN or infinity": lambda: Embeddings([[1, np.inf], [-np.inf, 1]]),
    "1 of 3 feature rows are all zero": lambda: Embeddings([[1, 1], [0, 0], [1, 0]]),
    r"shape \(n, d\) .* not \(3,\)": lambda: Embeddings([1.0, 2.0, 3.0]),
    r"not \(1, 1, 2\)": lambda: Embeddings([[[1.0, 2.0]]]),
    r"not \(0, 4\)": lambda: Embeddings(np.zeros((0, 4))),
    r"not \(4, 0\)": lambda: Embeddings(torch.zeros(4, 0)),
    "must be numbers, not an array of object": lambda: Embeddings(np.array([["a", 1]], dtype=object)),
    "must be numbers, not an array of <U1": lambda: Embeddings([["a", "b"]]),
    r"5 features, but the ids have shape \(4,\)": lambda: Embeddings(random_features(), ids=list("abcd")),
    r"5 features, but the labels have shape \(2,\)": lambda: Embeddings(random_features(), labels=[0, 1]),
    r"5 features, but the texts have shape \(1,\)": lambda: Embeddings(random_features(), texts=["a"]),
    "The ids repeat": lambda: Embeddings(random_features(), ids=list("abcda")),
    "The texts must be strings or numbers, and one of them is None": lambda: Embeddings([[1]], texts=[None]),
    "and one of them is nan": lambda: Embeddings(random_features(2), texts=["a", np.nan]),
    r"The ids must be strings .* is \['a'\]": lambda: Embeddings(random_features(2), ids=[["a"], ["b", "c"]]),
    r"1 features, but the texts have shape \(\)": lambda: Embeddings([[1]], texts="a"),
    "The labels must be whole numbers, not float64": lambda: Embeddings(random_features(2), labels=[0.0, 1.5]),
    "The labels must be whole numbers, not <U3": lambda: Embeddings(random_features(2), labels=["cat", "dog"]),
    "labels run from 0 to 2, but there are 2 class": lambda: replace(full(3), labels=[0, 2, 1]),
    "labels run from -1 to 0, but there are 2 class": lambda: replace(full(2), labels=[-1, 0]),
    "Modality 'video' is none of image, text": lambda: Embeddings(random_features(), modality="video"),
    r"mask over 5 embeddings needs shape \(5,\), not \(4,\)": lambda: full()[np.ones(4, dtype=bool)],
    "a slice, a boolean mask or a list": lambda: full()[2],
    "a boolean mask or a list of row numbers": lambda: full()[[0.0, 1.0]],
    "mask or a list of row numbers": lambda: full()[torch.tensor([0.0])],
    "or a list of row numbers": lambda: full()[["a"]],
    "a list of row numbers": lambda: full()[[[0, 1]]],
    "There is no row 5 among 5 embeddings": lambda: full()[[0, 5]],
    "There is no row -6 among 5 embeddings": lambda: full()[torch.tensor([0, -6])],
    "There is no row 255 among 5": lambda: full()[np.array([255], dtype=np.uint8)],
    "need at least one row, and none of the 5 is chosen": lambda: full()[[]],
    "at least one row, and none of the 5 is chosen": lambda: full()[5:],
    "one row, and none of the 5 is chosen": lambda: full()[np.zeros(5, dtype=bool)],
    "row, and none of the 5 is chosen": lambda: full()[torch.tensor([])],
    "choose .npz, .parquet, .safetensors": lambda: full().save("features.csv"),
    "come as .npy, .npz, .parquet, .safetensors": lambda: Embeddings.load("features.pkl"),
    "There is no embeddings file .*nowhere.npz": lambda: Embeddings.load("nowhere.npz"),
    "There is no embeddings file .*nowhere_pair.npz": lambda: load_pair("nowhere_pair.npz"),
}


@pytest.mark.parametrize("match", REFUSED)
def test_refusals_are_one_sentence(match):
    message = refused(match, REFUSED[match])
    assert ". " not in message


# ---------------------------------------------------------------- files


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, kind):
    path = tmp_path / "new folder" / f"features{kind}"
    assert full().save(path) == path
    assert_equal(Embeddings.load(path), full())
    assert [p.name for p in path.parent.iterdir()] == [path.name]  # no temporary file


@pytest.mark.parametrize("kind", KINDS)
def test_features_alone_round_trip(tmp_path, kind):
    e = Embeddings(random_features())[1:4]
    assert_equal(Embeddings.load(e.save(str(tmp_path / f"f{kind}"))), e)


@given(array=matrices(), texts=st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
@settings(max_examples=10, deadline=None)
def test_any_values_and_any_text_round_trip(tmp_path_factory, array, texts):
    e = Embeddings(array, texts=[f"{texts}{k}" for k in range(len(array))], class_names=(texts,))
    for kind in KINDS:
        assert_equal(Embeddings.load(e.save(tmp_path_factory.mktemp("any") / f"f{kind}")), e)


@pytest.mark.parametrize("kind", KINDS)
def test_one_long_text_takes_its_own_room_alone_in_files(tmp_path, kind):
    e, path = with_a_long_one(), tmp_path / f"f{kind}"
    with less_memory_than(50):
        loaded = Embeddings.load(e.save(path))
    assert_equal(loaded, e)
    assert path.stat().st_size < 2e6


@pytest.mark.parametrize("kind", KINDS)
def test_names_that_are_no_unicode_get_escapes_and_come_back(tmp_path, kind):
    odd = os.fsdecode(b"caf\xe9.jpg")  # Latin-1: the byte becomes half a character
    words = {"ids": [odd, "b"], "texts": ["x", "\ud83d"], "labels": [0, 0], "class_names": [odd]}
    e = Embeddings(random_features(2), **words, meta={"skipped": [f"{odd}: the file is empty"]})
    assert e.ids.tolist() == ["caf\\udce9.jpg", "b"]
    assert e.texts.tolist() == ["x", "\\ud83d"]
    assert e.class_names == ("caf\\udce9.jpg",)
    assert_equal(Embeddings.load(e.save(tmp_path / f"f{kind}")), e)


@pytest.mark.slow  # pyarrow takes its time over 100 MB of metadata
def test_parquet_reads_a_header_as_long_as_it_writes(tmp_path):
    e = Embeddings(random_features(1), meta={"skipped": ["x" * 110_000_000]})
    assert Embeddings.load(e.save(tmp_path / "f.parquet")).meta == e.meta


def test_the_header_of_a_safetensors_file_does_not_grow(tmp_path):
    texts = [f"{k} {'long ' * 200}" for k in range(10_000)]
    skipped = [f"folder/{k:0100d}.jpg: the file is empty" for k in range(10_000)]
    e = Embeddings(random_features(10_000, 2), [f"{k:0100d}" for k in range(10_000)], texts=texts)
    path = replace(e, meta={"skipped": skipped}).save(tmp_path / "f.safetensors")
    assert path.stat().st_size > 10e6
    assert int.from_bytes(path.read_bytes()[:8], "little") < 2**16  # safetensors reads headers of up to 100 MB


def save_as_before(e, path):
    """Files of older versions: words in the metadata of safetensors, and in strings of one width in npz."""
    header = json.dumps({"class_names": e.class_names, "modality": e.modality, "meta": e.meta})
    if path.suffix == ".npz":
        words = {"ids": e.ids.astype(str), "texts": e.texts.astype(str), "header": header}
        np.savez(path, features=e.features.numpy(), labels=e.labels, **words)
    else:
        words = {"ids": json.dumps(e.ids.tolist()), "texts": json.dumps(e.texts.tolist()), "header": header}
        save_file({"features": e.features, "labels": torch.from_numpy(e.labels)}, path, metadata=words)
    return path


@pytest.mark.parametrize("kind", [".npz", ".safetensors"])
def test_files_of_older_versions_are_read(tmp_path, kind):
    assert_equal(Embeddings.load(save_as_before(full(), tmp_path / f"f{kind}")), full())


@pytest.mark.parametrize("save", [save_as_before, Embeddings.save])
def test_rows_of_a_safetensors_file_of_any_age_are_read(tmp_path, save):
    source = open_source(None, str(save(full(), tmp_path / "f.safetensors")), "ovi")
    rows, expected = source.read(slice(1, 4)).features, full()[1:4]
    assert torch.equal(rows.features, expected.features)
    assert (rows.ids.tolist(), rows.labels.tolist()) == (expected.ids.tolist(), expected.labels.tolist())
    assert (rows.class_names, rows.modality) == (expected.class_names, expected.modality)


def test_rows_of_a_file_with_one_long_id_take_its_own_room_alone(tmp_path):
    path = with_a_long_one().save(tmp_path / "f.safetensors")
    with less_memory_than(50):
        assert open_source(None, str(path), "ovi").read(slice(9_999, None)).features.ids.tolist()[1] == "é" * 70_000


def test_a_plain_npy_is_imported(tmp_path):
    np.save(tmp_path / "f.npy", random_features().double().numpy() * 7)
    loaded = Embeddings.load(tmp_path / "f.npy")
    np.testing.assert_allclose(loaded.features, Embeddings(random_features()).features, atol=1e-6)
    assert loaded.ids.tolist() == [f"row-{k:06d}" for k in range(5)]
    assert loaded.labels is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_foreign_npz_with_features_is_imported(tmp_path, save):
    save(tmp_path / "f.npz", features=random_features().numpy(), labels=np.arange(5, dtype=np.uint8), other=np.eye(2))
    loaded = Embeddings.load(tmp_path / "f.npz")
    assert torch.equal(loaded.features, Embeddings(random_features()).features)
    assert loaded.labels.tolist() == [0, 1, 2, 3, 4]


def test_the_names_that_people_use_are_taken_and_others_said(tmp_path):
    columns = {"label": [2, 0, 1, 0, 0], "class_names": list("xyz"), "filenames": list("abcde"), "caption": ["t"] * 5}
    more = {"modality": "text", "id": [7] * 5, "width": range(5)}  # ids repeat, so that those are none
    np.savez(tmp_path / "f.npz", embeddings=random_features().numpy(), **columns, **more)
    with pytest.warns(UserWarning, match=r"f\.npz holds what is not used: id, width$"):
        loaded = Embeddings.load(tmp_path / "f.npz")
    assert (loaded.labels.tolist(), loaded.class_names, loaded.modality) == ([2, 0, 1, 0, 0], ("x", "y", "z"), "text")
    assert (loaded.ids.tolist(), loaded.texts.tolist()) == (list("abcde"), ["t"] * 5)


def test_class_names_of_the_hub_and_labels_that_are_words(tmp_path):
    rows = pa.array(random_features().tolist())
    facts = {"info": {"features": {"label": {"names": ["bear", "duck"], "_type": "ClassLabel"}}}}
    table = pa.table({"vector": rows, "label": [0, 1, 1, 0, 0]}, metadata={"huggingface": json.dumps(facts)})
    pq.write_table(table, tmp_path / "f.parquet")
    loaded = Embeddings.load(tmp_path / "f.parquet")
    assert (loaded.labels.tolist(), loaded.class_names) == ([0, 1, 1, 0, 0], ("bear", "duck"))
    pq.write_table(pa.table({"vector": rows, "class": ["owl", "bee", "owl", "owl", "ant"]}), tmp_path / "f.parquet")
    loaded = Embeddings.load(tmp_path / "f.parquet")
    assert (loaded.labels.tolist(), loaded.class_names) == ([2, 1, 2, 2, 0], ("ant", "bee", "owl"))


def test_text_features_alone_are_no_images(tmp_path):
    np.savez(tmp_path / "f.npz", text_features=np.eye(2))
    assert Embeddings.load(tmp_path / "f.npz").modality == "text"


def bad_files(folder) -> dict[str, str]:
    """{file of five rows, of which 1 and 3 are bad: why}."""
    a, b = random_features().numpy(), random_features().numpy()
    a[[1, 3]], b[1], b[3, 2] = 0, np.nan, np.inf
    np.save(folder / "zeros.npy", a)
    np.savez(folder / "nan.npz", features=b)
    labels = {"noise.npz": np.array([0, -1, 2, -1, 0]), "null.npz": np.array([0, np.nan, 2, np.nan, 0])}
    for name, column in labels.items():
        np.savez(folder / name, features=random_features().numpy(), label=column)
    vectors = {"none.parquet": [[1.0], None, [1.0], None, [2.0]], "ragged.parquet": [[1.0], [1.0, 2], [1.0], [], [2.0]]}
    for name, rows in vectors.items():
        pq.write_table(pa.table({"vector": rows}), folder / name)
    return dict.fromkeys(labels, "no label that is 0 or more") | {
        **{"zeros.npy": "are all zero", "nan.npz": "hold NaN or infinity"},
        **dict.fromkeys(vectors, "have no vector of 1 numbers"),
    }


@pytest.mark.parametrize("name", ["zeros.npy", "nan.npz", "noise.npz", "null.npz", "none.parquet", "ragged.parquet"])
def test_bad_rows_are_named_and_can_be_skipped(tmp_path, name):
    said = f"2 of 5 feature rows .*{bad_files(tmp_path)[name]}.*: 1, 3"
    refused(rf"{said} \(counted from 0\) \(skip_bad", lambda: Embeddings.load(tmp_path / name))
    with pytest.warns(UserWarning, match=f"{name}: 2 bad rows are left out: {said}"):
        loaded = Embeddings.load(tmp_path / name, skip_bad=True)
    assert loaded.ids.tolist() == ["row-000000", "row-000002", "row-000004"]
    assert loaded.labels is None or loaded.labels.tolist() == [0, 2, 0]


def test_inversion_of_a_file_with_rows_of_zeros(tmp_path, monkeypatch):
    bad_files(tmp_path)
    refused("2 of 5 feature rows are all zero", lambda: open_source(None, str(tmp_path / "zeros.npy"), "oti"))
    monkeypatch.setenv("CROSSGAP_SKIP_BAD", "1")
    with pytest.warns(UserWarning, match="2 bad rows are left out"):
        source = open_source(None, str(tmp_path / "zeros.npy"), "oti")
    assert len(source) == 3
    part = source.read(slice(1, 3)).features
    assert part.ids.tolist() == ["row-000002", "row-000004"]
    assert torch.equal(part.features, Embeddings(random_features()).features[[2, 4]])


def test_a_foreign_parquet_with_vectors_is_imported(tmp_path):
    table = pd.DataFrame({"vector": random_features().double().tolist(), "ids": range(10, 15), "header": list("abcde")})
    table.to_parquet(tmp_path / "f.parquet")
    loaded = Embeddings.load(tmp_path / "f.parquet")
    assert torch.equal(loaded.features, Embeddings(random_features()).features)
    assert loaded.ids.tolist() == ["10", "11", "12", "13", "14"]


def test_real_text_features_become_unit_rows(real_folder):
    path = real_folder / "clip_vitb32_imagenet_classnames.npz"
    with np.load(path, allow_pickle=False) as raw:
        features, texts = raw["features"], raw["texts"]
    assert np.abs(np.linalg.norm(features, axis=1) - 1).max() > 0.1  # they are not normalised in the file
    loaded = Embeddings.load(path)
    np.testing.assert_allclose(np.linalg.norm(loaded.features, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose((loaded.features.numpy() * features).sum(1), np.linalg.norm(features, axis=1), rtol=1e-5)
    assert loaded.texts.tolist() == texts.tolist()


def test_real_pairs_load_row_by_row(real_folder):
    path = real_folder / "clip_vitb16_coco500.npz"
    images, texts = load_pair(path)
    with np.load(path, allow_pickle=False) as raw:
        np.testing.assert_allclose((images.features * texts.features).sum(1), _cosines(raw), atol=1e-5)
        assert texts.texts.tolist() == raw["captions"].tolist()
    assert (images.modality, texts.modality) == ("image", "text")
    assert images.ids.tolist() == texts.ids.tolist()
    refused("pair file: use load_pair", lambda: Embeddings.load(path))


def _cosines(raw):
    a, b = raw["image_features"], raw["text_features"]
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def test_pair_files_are_checked(tmp_path):
    path, a = tmp_path / "p.npz", random_features().numpy()
    np.savez(path, image_features=a)
    refused("is no pair file: it lacks text_features", lambda: load_pair(path))
    np.savez(path, image_features=a, text_features=a[:4])
    refused(r"\(5, 7\) and text features \(4, 7\) must match", lambda: load_pair(path))
    np.savez(path, image_features=a, text_features=a, captions=["one"])
    refused("the texts have shape", lambda: load_pair(path))
    np.savez(path, image_features=a, text_features=a)
    save_file({"image_features": torch.from_numpy(a), "text_features": torch.ones(5, 7)}, tmp_path / "p.safetensors")
    pq.write_table(pa.table({f"{k}_features": a.tolist() for k in ("image", "text")}), tmp_path / "p.parquet")
    for other in (tmp_path / "p.safetensors", tmp_path / "p.parquet"):
        assert torch.equal(load_pair(other)[0].features, Embeddings(a).features)
    images, texts = load_pair(path)
    assert texts.texts is None
    texts.meta["captions"] = "mine"
    assert "captions" not in images.meta


def test_a_pair_is_left_out_on_both_sides_and_pickles_are_said(tmp_path):
    a, b = random_features().numpy(), random_features().numpy()
    a[1], b[4] = 0, np.nan
    names = np.array([str(k) for k in range(5)], dtype=object)  # numpy pickles an array of objects
    facts = {"captions": list("abcde"), "fns": names, "filename": [f"{k}.jpg" for k in range(5)], "label": range(5)}
    np.savez(tmp_path / "p.npz", image_features=a, text_features=b, **facts)
    pickles = pytest.warns(UserWarning, match=r"p\.npz: pickled objects, which are never loaded, are in fns, so")
    with pickles, pytest.warns(UserWarning, match=r"p\.npz: 2 bad rows are left out"):
        images, texts = load_pair(tmp_path / "p.npz", skip_bad=True)
    assert images.ids.tolist() == texts.ids.tolist() == ["0.jpg", "2.jpg", "3.jpg"]
    assert (texts.texts.tolist(), images.labels.tolist()) == (["a", "c", "d"], [0, 2, 3])


def test_captions_beside_texts_are_named_as_unused(tmp_path):
    pair = np.eye(3, dtype=np.float32)
    np.savez(tmp_path / "p.npz", image_features=pair, text_features=pair, texts=list("abc"), captions=list("def"))
    with pytest.warns(UserWarning, match=r"p\.npz holds what is not used: captions"):
        _, texts = load_pair(tmp_path / "p.npz")
    assert texts.texts.tolist() == ["a", "b", "c"]


# ---------------------------------------------------------------- files that are refused


class Canary:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("name", ["f.npy", "f.npz", "raw.npy", "raw.npz"])
def test_pickles_are_never_loaded(tmp_path, name):
    path, canary = tmp_path / name, tmp_path / "canary"
    objects = np.array([[Canary(canary)]], dtype=object)
    if name == "f.npz":
        np.savez(path, features=random_features(1).numpy(), texts=objects[0])
    elif name == "f.npy":
        np.save(path, objects, allow_pickle=True)
    else:
        path.write_bytes(objects.dumps())
    assert b"mkdir" in path.read_bytes()
    refused("pickled objects, which are never loaded|magic string is not correct", lambda: Embeddings.load(path))
    assert not canary.exists()


@pytest.mark.parametrize("kind", [*KINDS, ".npy"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused_by_name(tmp_path, kind, keep):
    path = tmp_path / f"cut{kind}"
    np.save(path, random_features(50).numpy()) if kind == ".npy" else full(50).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    refused(f"cut{kind}", lambda: Embeddings.load(path))


@pytest.mark.parametrize("kind", [".npz", ".safetensors", ".npy"])
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_damaged_bytes_give_embeddings_or_a_clear_error(tmp_path_factory, kind, data):
    path = tmp_path_factory.mktemp("damaged") / f"f{kind}"
    np.save(path, random_features().numpy()) if kind == ".npy" else full().save(path)
    whole = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    damage = data.draw(st.binary(min_size=1, max_size=12))
    whole[at : at + len(damage)] = damage
    path.write_bytes(whole)
    with suppress(CrossgapError):
        Embeddings.load(path)


def flipped(content: bytes, at: int) -> bytes:
    """With one bit that differs."""
    return content[:at] + bytes([content[at] ^ 1 << at % 8]) + content[at + 1 :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_noticed_wherever_it_is(tmp_path, kind):
    """What is read is what was stored, or nothing: files have bytes that mean nothing, such as times in a zip."""
    path, stored = tmp_path / f"f{kind}", full(40)
    whole = stored.save(path).read_bytes()
    refusals = []
    for at in range(0, len(whole), 7):
        path.write_bytes(flipped(whole, at))
        try:
            assert_equal(Embeddings.load(path), stored)
        except CrossgapError as error:
            refusals.append(str(error))
    assert len(refusals) > len(whole) / 7 / 2
    assert all(path.name in told for told in refusals)
    path.write_bytes(whole)
    assert_equal(Embeddings.load(path), stored)


def test_a_flip_that_hides_the_metadata_of_a_parquet_file_is_noticed(tmp_path):
    """pyarrow skips metadata that it can't find; every bit of the bytes that lead to them is tried."""
    path, stored = tmp_path / "f.parquet", full(40)
    whole, told = stored.save(path).read_bytes(), []
    for at in range(whole.index(b"crossgap") - 12, whole.index(b"crossgap")):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            try:
                assert_equal(Embeddings.load(path), stored)
            except CrossgapError as error:
                told.append(str(error))
    assert any("pyarrow finds none" in message for message in told)


def test_rows_that_others_saved_with_our_seal_are_read_as_the_refusal_says(tmp_path):
    path, stored = tmp_path / "f.parquet", full(40)
    table = pq.read_table(stored.save(path))
    pq.write_table(table, path)  # the same content, by another writer
    assert_equal(Embeddings.load(path), stored)
    table = table.slice(5, 10)
    pq.write_table(table, path)
    message = refused("was changed since crossgap wrote it", lambda: Embeddings.load(path))
    table = eval(re.search(r"table\.replace_schema_metadata\(.*?\}\)", message)[0], {"table": table})
    pq.write_table(table, path)
    assert_equal(Embeddings.load(path), stored[5:15])


def test_a_file_of_another_kind_is_refused(tmp_path):
    for kind, other in ((".npz", ".npy"), (".npy", ".npz")):
        path = tmp_path / f"f{kind}"
        with path.open("wb") as file:
            np.save(file, np.eye(2)) if other == ".npy" else np.savez(file, features=np.eye(2))
        refused(f"f{kind} can't be read", lambda path=path: Embeddings.load(path))


def test_files_without_features_say_what_they_hold(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.eye(2), labels=np.arange(2))
    refused("f.npz holds no features, only x, labels", lambda: Embeddings.load(tmp_path / "f.npz"))
    pd.DataFrame({"x": [1, 2]}).to_parquet(tmp_path / "f.parquet")
    refused("f.parquet holds no features, only x", lambda: Embeddings.load(tmp_path / "f.parquet"))


@pytest.mark.parametrize(
    ("columns", "match"),
    [
        ({"features": np.array([[1.0, np.nan]])}, "NaN"),
        ({"features": np.eye(3), "labels": np.array([0.5, 1, 2])}, "whole numbers"),
        ({"features": np.eye(3), "labels": np.array(["a"] * 3), "class_names": ["b"]}, "'a' is none of the 1 class"),
        ({"features": np.eye(3), "labels": np.array([0, 2**63, 1], dtype=np.uint64)}, "fit in 64 bits"),
        ({"features": np.eye(3), "labels": np.array([0, np.nan, 1e19])}, "fit in 64 bits"),
        ({"features": np.eye(3), "ids": np.arange(2)}, "ids have shape"),
        ({"features": np.eye(3), "header": np.array("no JSON")}, "can't be read"),
        ({"features": np.eye(3), "header": np.array('{"modality": 3}')}, "Modality 3 is none of"),
        ({"features": np.array(["a", "b"])}, "must be numbers"),
    ],
)
def test_bad_columns_of_a_foreign_file_are_refused(tmp_path, columns, match):
    np.savez(tmp_path / "f.npz", **columns)
    refused(match, lambda: Embeddings.load(tmp_path / "f.npz"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path, kind):
    unwritable = Embeddings(random_features(), meta={"not JSON": object()})
    path = tmp_path / f"f{kind}"
    with pytest.raises(TypeError):
        unwritable.save(path)
    assert list(tmp_path.iterdir()) == []
    before = full().save(path).read_bytes()
    with pytest.raises(TypeError):
        unwritable.save(path)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


@pytest.mark.parametrize("kind", KINDS)
def test_a_save_that_breaks_midway_leaves_nothing(tmp_path, kind, monkeypatch):
    def half(_columns, path):
        path.write_bytes(b"half a file")
        raise OSError("disk full")

    monkeypatch.setitem(vector_files.WRITE, kind, half)
    with pytest.raises(CrossgapError, match="can't be written: disk full"):
        full().save(tmp_path / f"f{kind}")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- encoding


class FakeEncoder:
    """Pixels and code points as features, and a count of how often it was asked."""

    name, precision = "fake", "fp32"

    def __init__(self, fingerprint="f0", precision="fp32"):
        self.fingerprint, self.precision, self.calls = fingerprint, precision, []

    def preprocess(self, image):
        return torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) + 1  # (3, 2, 2)

    def encode_pixels(self, pixels, *, before_projection=False):
        self.calls.append(len(pixels))
        return pixels.flatten(1)

    def tokenize(self, texts):
        return torch.tensor([[ord(c) for c in text.ljust(20)[:20]] for text in texts])

    def encode_tokens(self, ids, *, before_projection=False):
        self.calls.append(len(ids))
        return ids.float()


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "embeddings"


@pytest.fixture
def photos(tmp_path):
    """Four 2 x 2 pictures of two classes, and one that can't be decoded between them."""
    rng = np.random.default_rng(0)
    for name in ("ant/0.png", "ant/2.png", "bee/0.png", "bee/1.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (2, 2, 3), dtype=np.uint8)).save(path)
    (tmp_path / "photos/ant/1.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return load_dataset(f"folder:{tmp_path / 'photos'}")


def test_a_cache_that_cant_be_written_is_said_and_not_missed(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("CROSSGAP_CACHE", str(tmp_path / "photos/ant/0.png"))  # no folder can be made in a file
    with pytest.warns(UserWarning, match=r"Nothing is kept, since the cache .* can't be written; CROSSGAP_CACHE names"):
        assert len(encode_images(FakeEncoder(), photos)) == 4


def test_pictures_keep_order_and_labels_and_the_corrupt_one_is_reported(photos, tmp_path):
    images = encode_images(FakeEncoder(), photos, cache=False, batch_size=2)
    assert images.ids.tolist() == ["ant/0.png", "ant/2.png", "bee/0.png", "bee/1.png"]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert (images.class_names, images.modality, images.texts) == (("ant", "bee"), "image", None)
    arrays = [np.array(Image.open(tmp_path / "photos" / i), dtype=float) for i in images.ids]  # (2, 2, 3)
    expected = np.stack([a.transpose(2, 0, 1).ravel() + 1 for a in arrays])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(images.features, expected, atol=1e-6)
    (skipped,) = images.meta["skipped"]
    assert skipped.startswith(f"{tmp_path / 'photos' / 'ant' / '1.png'}: ")
    assert skip_report(images) == f"1 of 5 pictures could not be decoded and were skipped: {skipped}"
    assert images.meta["model"] == "fake"
    assert images.meta["dataset"] == photos.name


def test_skip_report_of_nothing_and_of_much_skipped():
    assert skip_report(Embeddings(random_features())) == "All 5 pictures were read."
    many = Embeddings(random_features(), meta={"skipped": [f"{k}.jpg: bad" for k in range(5)]})
    assert skip_report(many).endswith("5 of 10 pictures could not be decoded and were skipped: "
                                      "0.jpg: bad; 1.jpg: bad; 2.jpg: bad; ...")  # fmt: skip


def test_first_captions_become_the_texts(photos):
    told = replace(photos, captions=tuple((f"first {k}", f"second {k}") for k in range(5)))
    images = encode_images(FakeEncoder(), told, cache=False)
    assert images.texts.tolist() == ["first 0", "first 2", "first 3", "first 4"]  # row 1 is the corrupt one


def test_nothing_to_encode_is_said(photos, tmp_path):
    refused("holds no pictures", lambda: encode_images(FakeEncoder(), photos[np.zeros(5, dtype=bool)]))
    alone = photos[np.array([1])]
    refused(r"None of the 1 pictures of .* can be decoded: .*1\.png: ", lambda: encode_images(FakeEncoder(), alone))


def test_the_batch_size_changes_nothing(mini):
    pictures = load_dataset("world:dogs-vs-cats", n=11)
    whole = encode_images(mini, pictures, cache=False)
    parts = encode_images(mini, pictures, cache=False, batch_size=4)
    torch.testing.assert_close(whole.features, parts.features, atol=1e-5, rtol=0)
    assert whole.ids.tolist() == parts.ids.tolist() == pictures.ids.tolist()
    captions = whole.texts.tolist()
    torch.testing.assert_close(
        encode_texts(mini, captions, cache=False).features,
        encode_texts(mini, captions, cache=False, batch_size=3).features,
        atol=1e-5,
        rtol=0,
    )


def test_the_fake_is_asked_batch_by_batch(photos):
    encoder = FakeEncoder()
    encode_images(encoder, photos, cache=False, batch_size=2)
    assert encoder.calls == [1, 2, 1]  # one of the first two is corrupt
    encoder = FakeEncoder()
    encode_texts(encoder, list("abcde"), cache=False, batch_size=2)
    assert encoder.calls == [2, 2, 1]


def test_a_cached_set_is_not_encoded_again(photos, own_cache):
    encoder = FakeEncoder()
    first = encode_images(encoder, photos)
    assert_equal(encode_images(encoder, photos, batch_size=1), first)
    assert len(encoder.calls) == 1
    assert len(list(own_cache.iterdir())) == 1
    encode_images(encoder, photos, cache=False)
    assert len(encoder.calls) == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"garbage",
        lambda _: b"\xff" * 300,
        lambda content: flipped(content, content.index(b"}}") + 40),  # of the features, say
        lambda _: pack(to_arrays(full().columns()), "another model"),
        lambda content: content.replace(SEAL.encode(), b"unknown__seal"),
    ],
)
def test_a_cache_file_that_does_not_verify_is_made_again(photos, own_cache, damage):
    encoder = FakeEncoder()
    first = encode_images(encoder, photos)
    (kept,) = own_cache.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    with pytest.warns(UserWarning, match=r"A result of the cache is made anew: .*safetensors is "):
        assert_equal(encode_images(encoder, photos), first)
    assert len(encoder.calls) == 2
    assert_equal(encode_images(encoder, photos), first)
    assert len(encoder.calls) == 2
    assert_equal(Embeddings.load(kept), first)


class Drive:
    """Pictures of which some can't be read at present; counts how often each was asked for."""

    def __init__(self, photos, away):
        self.load, self.away, self.asked = photos.load, set(away), []

    def __call__(self, row):
        self.asked.append(row)
        if row in self.away:
            raise UnreadableImage(f"picture {row}: Input/output error")
        return self.load(row)


def test_skipped_pictures_are_tried_again(photos, own_cache):
    told = replace(photos, captions=tuple((f"caption {k}",) for k in range(5)))
    drive, encoder = Drive(photos, away=[0, 3]), FakeEncoder()
    on_drive = replace(told, load=drive)
    first = encode_images(encoder, on_drive)
    assert first.ids.tolist() == ["ant/2.png", "bee/1.png"]
    assert len(first.meta["skipped"]) == 3  # row 1 is damaged

    drive.asked.clear()
    assert_equal(encode_images(encoder, on_drive), first)  # the drive is still away
    assert sorted(drive.asked) == [0, 1, 3]
    assert encoder.calls == [2]

    drive.away.clear()
    after = encode_images(encoder, on_drive)
    assert encoder.calls == [2, 2]  # those two alone
    assert_equal(after, encode_images(FakeEncoder(), told, cache=False))
    (skipped,) = after.meta["skipped"]
    assert "ant/1.png" in skipped

    drive.asked.clear()
    assert_equal(encode_images(encoder, on_drive), after)  # as it was kept
    assert (drive.asked, encoder.calls) == ([1], [2, 2])
    assert len(list(own_cache.iterdir())) == 1


def test_whatever_decides_the_result_is_in_the_key(photos, own_cache):
    variants = [
        (FakeEncoder(), photos),
        (FakeEncoder("f1"), photos),
        (FakeEncoder(precision="bf16"), photos),
        (FakeEncoder(), photos[1:]),
        (FakeEncoder(), replace(photos, fingerprint="other pictures")),
        (
            FakeEncoder(),
            replace(photos, class_names=("Ant", "Bee")),
        ),  # folder: and dogs-vs-cats: can see one tree
        (FakeEncoder(), replace(photos, labels=1 - photos.labels)),
        (FakeEncoder(), replace(photos, captions=(("a",),) * 5)),
        (FakeEncoder(), replace(photos, captions=(("b",),) * 5)),
    ]
    for encoder, data in variants:
        images = encode_images(encoder, data)
        assert len(encoder.calls) == 1
        assert images.class_names == data.class_names
    assert len(list(own_cache.iterdir())) == len(variants)


def test_texts_carry_ids_labels_and_class_names():
    columns = {"ids": ["x", "y"], "labels": [1, 0], "class_names": ("c", "d")}
    texts = encode_texts(FakeEncoder(), ["ab", "Ünï"], **columns, cache=False)
    assert texts.ids.tolist() == ["x", "y"]
    assert texts.texts.tolist() == ["ab", "Ünï"]
    assert texts.labels.tolist() == [1, 0]
    assert (texts.class_names, texts.modality) == (("c", "d"), "text")
    codes = np.array([[ord(c) for c in t.ljust(20)] for t in ("ab", "Ünï")], dtype=float)
    np.testing.assert_allclose(texts.features, codes / np.linalg.norm(codes, axis=1, keepdims=True), atol=1e-6)
    single = encode_texts(FakeEncoder(), "one text", cache=False)
    assert single.ids.tolist() == ["text-000000"]
    assert single.texts.tolist() == ["one text"]


def test_texts_are_cached_under_all_that_decides_them(own_cache):
    encoder = FakeEncoder()
    base = {"ids": ["x", "y"], "labels": [0, 1], "class_names": ("c", "d")}
    changes = [{}, {"ids": ["x", "z"]}, {"labels": [1, 0]}, {"class_names": ("c", "e")}]
    results = [encode_texts(encoder, ["ab", "cd"], **{**base, **change}) for change in changes]
    results.append(encode_texts(encoder, ["ab", "ce"], **base))
    results.append(encode_texts(FakeEncoder("f1"), ["ab", "cd"], **base))
    assert len(encoder.calls) == 5
    assert len(list(own_cache.iterdir())) == 6
    assert_equal(encode_texts(encoder, ["ab", "cd"], **base), results[0])
    assert len(encoder.calls) == 5


@pytest.mark.parametrize("texts", [[], [None], ["a", 3]])
def test_only_texts_are_encoded(texts):
    refused("at least one text, and strings only", lambda: encode_texts(FakeEncoder(), texts))
