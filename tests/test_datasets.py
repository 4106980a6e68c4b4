"""Small trees of every layout, made here; captions in every format; subsets against plain NumPy indexing."""

import json
import os
import warnings
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crossgap_lib.datasets.caption_files import read_captions
from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.errors import CrossgapError, UnreadableImage


def photo(path, grey=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (grey,) * 3).save(path)


def grey_of(data: Dataset, i: int) -> int:
    return np.asarray(data.picture(i))[0, 0, 0]


# --- dogs-vs-cats ------------------------------------------------------------------------------------------


@pytest.fixture
def pet_images(tmp_path):
    for k, name in enumerate(["Cat/0.png", "Cat/2.png", "Cat/10.png", "Dog/1.png", "Dog/11702.png"]):
        photo(tmp_path / "PetImages" / name, grey=k * 10)
    (tmp_path / "PetImages/Cat/666.jpg").write_bytes(b"")
    (tmp_path / "PetImages/Cat/Thumbs.db").write_bytes(b"leftover")
    return tmp_path


@pytest.mark.parametrize("inner", ["", "PetImages"])
def test_pet_images_layout(pet_images, inner):
    spec = f"dogs-vs-cats:{pet_images / inner}"
    data = load_dataset(spec)
    assert data.name == spec
    assert data.ids.tolist() == [
        "Cat/0.png",
        "Cat/2.png",
        "Cat/10.png",
        "Cat/666.jpg",
        "Dog/1.png",
        "Dog/11702.png",
    ]
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1]
    assert data.labels.dtype == np.int64
    assert data.class_names == ("cat", "dog")
    assert [grey_of(data, i) for i in (0, 1, 2, 4, 5)] == [0, 10, 20, 30, 40]
    with pytest.raises(UnreadableImage, match=r"Cat/666\.jpg: the file is empty"):
        data.picture(3)


@pytest.mark.parametrize("inner", ["", "train"])
def test_train_layout(tmp_path, inner):
    for k, name in enumerate(["dog.0.png", "cat.10.png", "cat.9.png", "dog.1.png"]):
        photo(tmp_path / "train" / name, grey=k)
    photo(tmp_path / "test1/1.png")
    data = load_dataset(f"dogs-vs-cats:{tmp_path / inner}")
    assert data.ids.tolist() == ["cat.9.png", "cat.10.png", "dog.0.png", "dog.1.png"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert [grey_of(data, i) for i in range(4)] == [2, 1, 0, 3]


def test_dogs_without_cats_are_refused(tmp_path):
    photo(tmp_path / "train/dog.0.png")
    with pytest.raises(CrossgapError, match=r"both cats and dogs in .*PetImages/\{Cat,Dog\}/\*\.jpg or train/"):
        load_dataset(f"dogs-vs-cats:{tmp_path}")


# --- folder ------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    for name in ["hot_dog/b2.PNG", "hot_dog/deep/er/a.jpg", "hot_dog/b10.png", "Käse-Brot/日本.png"]:
        photo(tmp_path / name)
    for hidden in ["hot_dog/._b2.png", ".cache/x.png", "hot_dog/.thumbs/x.png"]:
        photo(tmp_path / hidden)
    (tmp_path / "hot_dog/notes.txt").write_text("no picture")
    return tmp_path


def test_a_class_a_folder(folders):
    data = load_dataset(f"folder:{folders}")
    assert data.class_names == ("Käse Brot", "hot dog")
    assert data.ids.tolist() == [
        "Käse-Brot/日本.png",
        "hot_dog/b2.PNG",
        "hot_dog/b10.png",
        "hot_dog/deep/er/a.jpg",
    ]
    assert data.labels.tolist() == [0, 1, 1, 1]
    assert data.picture(0).size == (3, 2)


def test_empty_class_and_loose_pictures_are_reported(folders):
    (folders / "empty").mkdir()
    photo(folders / "loose.png")
    with pytest.warns(UserWarning, match="folders without pictures: empty; 1 pictures lie in no class folder"):
        data = load_dataset(f"folder:{folders}")
    assert data.class_names == ("Käse Brot", "hot dog")
    assert len(data) == 4


def test_no_warning_where_all_is_well(folders):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"folder:{folders}")


def test_no_pictures_at_all(tmp_path):
    (tmp_path / "dog").mkdir()
    with pytest.raises(CrossgapError, match=r"No pictures in .*CLASS/\*\.jpg.*folders without pictures: dog"):
        load_dataset(f"folder:{tmp_path}")


def test_two_folders_of_one_class_name_are_refused(tmp_path):
    photo(tmp_path / "hot_dog/0.png")
    photo(tmp_path / "hot-dog/0.png")
    with pytest.raises(CrossgapError, match="same name"):
        load_dataset(f"folder:{tmp_path}")


def test_a_dangling_link_stays_a_row(folders):
    os.symlink(folders / "nowhere", folders / "hot_dog/z.png")
    data = load_dataset(f"folder:{folders}")
    assert data.ids[-1] == "hot_dog/z.png"
    with pytest.raises(UnreadableImage, match="No such file"):
        data.picture(len(data) - 1)


# --- captions ----------------------------------------------------------------------------------------------

CAPTIONS = {"ä b.png": ("A dog runs , fast .", "a brown dog"), "2.png": ("a cat",)}


def coco_json() -> str:
    images = [{"id": 7, "file_name": "ä b.png"}, {"id": 3, "file_name": "2.png"}]
    notes = [(7, " A dog runs , fast .\n"), (3, "a cat "), (7, "a brown dog"), (7, "  ")]
    return json.dumps({"images": images, "annotations": [{"image_id": i, "caption": c} for i, c in notes]})


def karpathy_json(split: str = "test", filepath: str = "") -> str:
    rows = [(*item, split) for item in CAPTIONS.items()] + [("train.png", ("not this one",), "train")]
    folder = {"filepath": filepath} if filepath else {}
    images = [
        {"filename": name, "split": part, "sentences": [{"raw": f" {c} "} for c in captions], **folder}
        for name, captions, part in rows
    ]
    return json.dumps({"dataset": "tiny", "images": images})


TOKENS = "ä b.png#0\tA dog runs , fast . \r\n2.png#0\ta cat\r\n\r\nä b.png#1\ta brown dog\r\n"
CSV = 'image,caption\nä b.png,"A dog runs , fast ."\n2.png, a cat\n\nä b.png,a brown dog\n'
FORMATS = {
    "coco.json": coco_json(),
    "karpathy.json": karpathy_json(),
    "tokens.txt": TOKENS,
    "captions.txt": CSV,
}


@pytest.mark.parametrize("file_name", FORMATS)
@pytest.mark.parametrize("place", [".", "images", "Flicker8k_Dataset", "val2017", "../val2017"])
def test_caption_formats(tmp_path, file_name, place):
    folder = tmp_path / "annotations"
    for k, name in enumerate(CAPTIONS):
        photo(folder / place / name, grey=k)
    (folder / file_name).write_bytes(b"\xef\xbb\xbf" + FORMATS[file_name].encode())
    data = load_dataset(f"captions:{folder / file_name}")
    assert dict(zip(data.ids.tolist(), data.captions, strict=True)) == CAPTIONS
    assert [grey_of(data, i) for i in range(2)] == [0, 1]
    assert data.labels is None


def test_karpathy_splits_and_filepath(tmp_path):
    path = tmp_path / "dataset_coco.json"
    path.write_text(karpathy_json("val", filepath="val2014"))
    for name in [*CAPTIONS, "train.png"]:
        photo(tmp_path / "pictures/val2014" / name)
    where = {"images": tmp_path / "pictures"}
    assert load_dataset(f"captions:{path}/val", **where).ids.tolist() == list(CAPTIONS)
    assert load_dataset(f"captions:{path}", split="train", **where).captions == (("not this one",),)
    assert len(load_dataset(f"captions:{path}", split="all", **where)) == 3
    with pytest.raises(CrossgapError, match="no split 'test' in this file; there are all, train, val"):
        load_dataset(f"captions:{path}", **where)


def test_images_option_looks_nowhere_else(tmp_path):
    (tmp_path / "c.json").write_text(coco_json())
    for name in CAPTIONS:
        photo(tmp_path / name, grey=1)
        photo(tmp_path / "elsewhere" / name, grey=2)
    spec = f"captions:{tmp_path / 'c.json'}"
    assert grey_of(load_dataset(spec), 0) == 1
    assert grey_of(load_dataset(spec, images=tmp_path / "elsewhere"), 0) == 2
    with pytest.raises(CrossgapError, match="No such folder"):
        load_dataset(spec, images=tmp_path / "nowhere")


def test_missing_pictures_are_counted_and_named(tmp_path):
    (tmp_path / "c.json").write_text(coco_json())
    photo(tmp_path / "images/2.png")
    spec = f"captions:{tmp_path / 'c.json'}"
    with pytest.raises(CrossgapError, match=r"1 of 2 pictures .* first is 'ä b\.png'; looked in .*images"):
        load_dataset(spec)
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        data = load_dataset(spec, skip_missing=True)
    assert data.captions == (("a cat",),)
    (tmp_path / "images/2.png").unlink()
    with pytest.raises(CrossgapError, match="2 of 2"):
        load_dataset(spec, skip_missing=True)


def without(key: str) -> str:
    return coco_json().replace(f'"{key}"', '"other"')


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "not valid JSON"),
        ("{}", "lacks 'images'"),
        ("[1]", "not a caption file"),
        ("[" * 100_000, "not a caption file"),
        (without("image_id"), "lacks 'image_id'"),
        (without("caption"), "lacks 'caption'"),
        (without("file_name"), "lacks 'file_name'"),
        (without("id"), "lacks 'id'"),
        (coco_json().replace('"2.png"', "null"), "a file name is expected, not None"),
        (coco_json().replace('"a cat "', "5"), "not a caption file"),
        (coco_json().replace('"a cat "', '" "'), r"1 of 2 pictures have no caption, the first is '2\.png'"),
        (coco_json().replace('"image_id": 3', '"image_id": 99'), "1 image_id of the annotations, as 99"),
        (karpathy_json().replace("sentences", "words"), "lacks 'sentences'"),
        ('{"images": [], "annotations": []}', "holds no pictures"),
        ("", "holds no pictures"),
        ("a.png#0 no tab", "line 1 is 'a.png#0 no tab'"),
        ("image,caption\na.png,one, two\n", "line 2 has 3 fields"),
        ("image,caption\na.png\n", "line 2 has 1 fields"),
    ],
)
def test_malformed_caption_files(tmp_path, text, why):
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(CrossgapError, match=why) as caught:
        read_captions(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_binary_file_and_needless_split(tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CrossgapError, match=r"c\.json is not UTF-8 text: .* at byte 0"):
        read_captions(path)
    path.write_text(coco_json())
    with pytest.raises(CrossgapError, match="only Karpathy files have splits"):
        load_dataset(f"captions:{path}/train")


def test_a_picture_listed_twice_is_refused(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(coco_json().replace("2.png", json.dumps("ä b.png")[1:-1]))
    photo(tmp_path / "ä b.png")
    with pytest.raises(CrossgapError, match=r"1 ids appear more than once, the first is 'ä b\.png'"):
        load_dataset(f"captions:{path}")


# --- specs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["dog-vs-cats:x", "somewhere/pictures", "folder", ""])
def test_unknown_prefix_lists_the_known_ones(spec):
    with pytest.raises(CrossgapError, match="world:, dogs-vs-cats:, folder:, captions:"):
        load_dataset(spec)


def test_unknown_prefix_suggests_the_closest():
    with pytest.raises(CrossgapError, match="Did you mean: dogs-vs-cats"):
        load_dataset("dog-vs-cats:x")


def test_nothing_after_the_colon_is_not_the_current_folder():
    with pytest.raises(CrossgapError, match="folder:PATH"):
        load_dataset("folder:")


@pytest.mark.parametrize(
    ("prefix", "expected"), [("dogs-vs-cats", "PetImages"), ("folder", "CLASS"), ("captions", "caption file")]
)
def test_a_path_that_does_not_exist(tmp_path, prefix, expected):
    with pytest.raises(CrossgapError, match=rf"No such (file|folder): .*none; expected is .*{expected}"):
        load_dataset(f"{prefix}:{tmp_path}/none")


def test_relative_and_home_paths(folders, monkeypatch):
    monkeypatch.chdir(folders.parent)
    monkeypatch.setenv("HOME", str(folders.parent))
    data = load_dataset(f"folder:{folders.name}")
    assert load_dataset(f"folder:~/{folders.name}").fingerprint == data.fingerprint
    monkeypatch.chdir("/")  # a notebook may move on before it decodes
    assert data.picture(0).size == (3, 2)


# --- fingerprint and subsets -------------------------------------------------------------------------------


def test_fingerprint_follows_the_files(pet_images):
    spec = f"dogs-vs-cats:{pet_images}"
    first = load_dataset(spec).fingerprint
    assert int(first, 16) >= 0
    assert load_dataset(f"{spec}/PetImages").fingerprint == first
    picture = pet_images / "PetImages/Dog/1.png"
    os.utime(picture, ns=(0, 1))
    touched = load_dataset(spec).fingerprint
    picture.rename(picture.with_name("3.png"))
    assert len({first, touched, load_dataset(spec).fingerprint}) == 3


N = 7


def numbered() -> Dataset:
    return Dataset(
        name="numbered",
        ids=np.array([f"id-{i}" for i in range(N)]),
        load=lambda i: Image.new("RGB", (1, 1), (i, 0, 0)),
        fingerprint="00",
        labels=np.arange(N) % 3,
        class_names=("a", "b", "c"),
        captions=tuple((f"caption {i}",) for i in range(N)),
        factors=pd.DataFrame({"size": np.arange(N) / 10}),
    )


def assert_rows(data: Dataset, rows: list[int]) -> None:
    assert data.ids.tolist() == [f"id-{i}" for i in rows]
    assert [data.picture(k).getpixel((0, 0))[0] for k in range(len(data))] == rows
    assert data.labels.tolist() == [i % 3 for i in rows]
    assert data.captions == tuple((f"caption {i}",) for i in rows)
    assert data.factors["size"].tolist() == [i / 10 for i in rows]
    assert data.factors.index.tolist() == list(range(len(rows)))
    assert (data.name, data.class_names) == ("numbered", ("a", "b", "c"))


@settings(deadline=None)  # no test may depend on the clock
@given(st.slices(N))
def test_slice_equals_mask_equals_index_array(part):
    rows = list(range(N))[part]
    data = numbered()
    assert_rows(data[part], rows)
    assert_rows(data[np.array(rows, dtype=int)], rows)
    assert data[part].fingerprint == data[rows].fingerprint
    mask = np.isin(np.arange(N), rows)
    assert_rows(data[mask], sorted(rows))
    assert data[mask].fingerprint == data[sorted(rows)].fingerprint == numbered()[mask.tolist()].fingerprint


@settings(deadline=None)
@given(st.permutations(range(N)), st.integers(0, N), st.integers(0, N))
def test_subset_of_a_subset(order, start, stop):
    assert_rows(numbered()[order][start:stop], order[start:stop])


@settings(deadline=None)
@given(st.lists(st.integers(0, N - 1), unique=True), st.lists(st.integers(0, N - 1), unique=True))
def test_fingerprints_are_equal_only_for_the_same_rows(a, b):
    assert (numbered()[a].fingerprint == numbered()[b].fingerprint) == (a == b)


def test_all_rows_keep_the_fingerprint_and_negative_rows_count_from_the_end():
    data = numbered()
    assert data[:].fingerprint == data[np.ones(N, dtype=bool)].fingerprint == data.fingerprint
    assert data[[-1]].fingerprint == data[[N - 1]].fingerprint != data.fingerprint


def test_what_is_no_row_selection_is_refused():
    data = numbered()
    for rows in (0, np.int64(2), [[0, 1]]):
        with pytest.raises(TypeError, match=r"picture\(i\)"):
            data[rows]
    for rows in ([0.5], [N], np.ones(N + 1, dtype=bool)):
        with pytest.raises(IndexError):
            data[rows]
    with pytest.raises(CrossgapError, match="more than once, the first is 'id-2'"):
        data[[2, 2]]


def test_columns_of_another_length_are_refused():
    with pytest.raises(CrossgapError, match="1 labels for 2 pictures"):
        Dataset("x", np.array(["a", "b"]), lambda i: None, "00", labels=np.zeros(1))


def test_a_dataset_of_files_can_be_sent_to_another_process(folders):
    data = load_dataset(f"folder:{folders}")[1:]
    ForkingPickler.dumps(data)  # what a spawned worker is sent; a lambda in it would raise
