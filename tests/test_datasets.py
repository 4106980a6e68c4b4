"""Small trees of every layout, made here; captions in every format; subsets against plain NumPy indexing."""

import csv
import json
import os
import unicodedata
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
    (folders / "hot_dog/notes.txt").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"folder:{folders}")


def test_files_that_are_no_pictures_by_their_names_are_counted(folders):
    for name in ("IMG_0.HEIC", "IMG_1.heic", "scraped_0"):
        (folders / "hot_dog" / name).touch()
    with pytest.warns(UserWarning, match=r"4 files have no ending of a picture that is read here: 2 \.heic, 1 .*, 1 "):
        data = load_dataset(f"folder:{folders}")
    assert len(data) == 4


@pytest.mark.parametrize("names", [("train", "val"), ("Train", "Test", "extra"), ("fold_1", "fold_2"), ("testing",)])
def test_folders_that_are_splits_are_no_classes(tmp_path, names):
    for split in names:
        for kind in ("bear", "duck")[: 1 if split == names[-1] else 2]:  # the last split lacks a class
            photo(tmp_path / split / kind / "0.png")
    with pytest.raises(CrossgapError, match=f"{', '.join(sorted(names))} in .* are splits, not classes: read one, "):
        load_dataset(f"folder:{tmp_path}")
    assert load_dataset(f"folder:{tmp_path / names[0]}").class_names[0] == "bear"


def test_classes_that_may_lie_a_level_deeper_are_said(tmp_path):
    for name in ("bird/duck", "bird/owl", "mammal/bear"):
        photo(tmp_path / name / "0.png")
    with pytest.warns(UserWarning, match=r"if the classes are duck, owl, \.\.\. read folder:.*/bird"):
        data = load_dataset(f"folder:{tmp_path}")
    assert (data.class_names, data.labels.tolist()) == (("bird", "mammal"), [0, 0, 1])
    photo(tmp_path / "mammal/0.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(f"folder:{tmp_path}")


def test_a_class_named_like_a_split_among_others(tmp_path):
    for name in ("car", "train"):
        photo(tmp_path / name / "0.png")
    assert load_dataset(f"folder:{tmp_path}").class_names == ("car", "train")


def test_links_to_folders_are_followed_once(tmp_path):
    photo(tmp_path / "elsewhere/deep/1.png")
    photo(tmp_path / "set/cat/0.png")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set/cat/linked")
    os.symlink(tmp_path / "elsewhere", tmp_path / "set/dog")
    os.symlink(tmp_path / "set/cat", tmp_path / "elsewhere/deep/around")
    data = load_dataset(f"folder:{tmp_path / 'set'}")
    assert data.ids.tolist() == ["cat/0.png", "cat/linked/deep/1.png", "dog/deep/1.png", "dog/deep/around/0.png"]


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


TABLES = {
    "metadata.csv": 'File_Name,text\nä b.png,"A dog runs , fast ."\n2.png,a cat\nä b.png,a brown dog\n',
    "quoted.csv": '"image","caption","id"\n"ä b.png","A dog runs , fast .",0\n2.png,a cat,1\nä b.png,a brown dog,2\n',
    "lists.csv": """filename;raw\nä b.png;"['A dog runs , fast .', 'a brown dog']"\n2.png;"[""a cat""]"\n""",
    "open_clip.tsv": "filepath\ttitle\nä b.png\tA dog runs , fast .\n2.png\ta cat\nä b.png\ta brown dog\n",
    "results.csv": "image_name| comment_number| comment\nä b.png| 0| A dog runs , fast .\n2.png| 0| a cat\n"
    "ä b.png| 1| a brown dog\n",
    "blip.json": json.dumps([{"image": name, "caption": list(several)} for name, several in CAPTIONS.items()]),
    "lines.json": "\n".join(
        json.dumps({"file_name": n, "text": c}) for n, several in CAPTIONS.items() for c in several
    ),
    "one.jsonl": "\n".join(json.dumps({"path": name, "sentences": several}) for name, several in CAPTIONS.items()),
    "mapping.json": json.dumps(CAPTIONS),
    "wrapped.json": json.dumps({"info": {}, "data": [{"image": n, "text": list(c)} for n, c in CAPTIONS.items()]}),
}


@pytest.mark.parametrize("file_name", TABLES)
@pytest.mark.filterwarnings("ignore:.*has columns that are not used")
def test_tables_of_others(tmp_path, file_name):
    (tmp_path / file_name).write_text("\ufeff" + TABLES[file_name])
    assert {row.name: row.captions for row in read_captions(tmp_path / file_name)} == CAPTIONS


def test_columns_that_are_not_used_are_named(tmp_path):
    (tmp_path / "c.csv").write_text("width,image,label,caption,split\n3,a.png,7,a dog,val\n")
    with pytest.warns(UserWarning, match=r"c\.csv has columns that are not used: width, label, split$"):
        assert read_captions(tmp_path / "c.csv") == [("a.png", ("a dog",), "")]
    (tmp_path / "c.csv").write_text("image,label\na.png,7\n")
    with pytest.raises(CrossgapError, match="line 1 is 'image,label'; read are COCO JSON"):
        read_captions(tmp_path / "c.csv")


BAD_ROWS = {
    "fields.csv": "image,caption\n0.png,zero\n1.png,one,two\n2.png,two\n",
    "pipes.csv": "image_name| comment_number| comment\n0.png| 0| zero\n1.png| 4   one\n2.png| 0| two\n",
    "quote.csv": 'image,caption\n0.png,zero\n1.png,"one\n2.png,two\n',
    "long.csv": f"image,caption\n0.png,zero\n1.png,{'one ' * 9000}\n2.png,two\n",
    "tokens.txt": "0.png#0\tzero\n1.png one\n2.png#0\ttwo\n",
    "lines.jsonl": '{"image": "0.png", "text": "zero"}\n{"image": \n{"image": "2.png", "text": "two"}\n',
    "null.jsonl": '{"img": "0.png", "text": "zero"}\n{"img": "1.png", "text": null}\n{"img": "2.png", "text": "two"}',
    "missing.txt": "0.png#0\tzero\n3.png.1#0\tone\n2.png#0\ttwo\n",
}


@pytest.mark.parametrize("file_name", BAD_ROWS)
@pytest.mark.filterwarnings("ignore:.*has columns that are not used")
def test_a_bad_row_is_refused_or_skipped_and_counted(tmp_path, file_name, monkeypatch):
    for k in range(3):
        photo(tmp_path / f"{k}.png", grey=k)
    (tmp_path / file_name).write_text(BAD_ROWS[file_name])
    spec = f"captions:{tmp_path / file_name}"
    said = "1 of 3 pictures" if file_name == "missing.txt" else "line (2|3)"
    with pytest.raises(CrossgapError, match=rf"{said}.*\(skip_bad=True, or --skip-bad on the command line, leaves"):
        load_dataset(spec)
    for skip in (True, None):  # None asks the environment, as in notebooks
        with pytest.warns(UserWarning, match=f"{file_name}: 1 bad row is left out: .*{said}"):
            data = load_dataset(spec, skip_bad=skip)
        assert (data.ids.tolist(), data.captions) == (["0.png", "2.png"], (("zero",), ("two",)))
        assert [grey_of(data, k) for k in (0, 1)] == [0, 2]
        monkeypatch.setenv("CROSSGAP_SKIP_BAD", "1")


@pytest.mark.parametrize("name", ["\0", "\ud800", "x" * 9999, "0.png/1.png"])
def test_names_that_no_file_can_have_are_missing(tmp_path, name):
    photo(tmp_path / "0.png")
    (tmp_path / "c.json").write_text(json.dumps({"0.png": "a", name: "b"}))
    with pytest.raises(CrossgapError, match="1 of 2 pictures"):
        load_dataset(f"captions:{tmp_path / 'c.json'}")
    with pytest.warns(UserWarning, match="1 of 2 pictures"):
        assert len(load_dataset(f"captions:{tmp_path / 'c.json'}", skip_bad=True)) == 1


@pytest.mark.parametrize("text", ["0.png#0\t \n", "image,caption\n0.png,\n", "image,caption\n0.png,x,y\n"])
def test_nothing_but_bad_rows_is_refused(tmp_path, text):
    photo(tmp_path / "0.png")
    (tmp_path / "c.txt").write_text(text)
    with pytest.raises(CrossgapError, match="no pictures"), pytest.warns(UserWarning, match="1 bad row is left out"):
        load_dataset(f"captions:{tmp_path / 'c.txt'}", skip_bad=True)


visible = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1).map(str.strip).filter(bool)
file_names = visible.filter(lambda name: "#" not in name and name[0] not in "[{")  # these begin a JSON file
listed = st.dictionaries(file_names, st.lists(visible, min_size=1), min_size=1)


@settings(deadline=None, max_examples=50)
@given(listed)
def test_captions_come_back_from_every_format(tmp_path_factory, rows):
    """Whatever they hold: quotes, delimiters, brackets, other scripts."""
    folder = tmp_path_factory.getbasetemp()
    pairs = [(name, caption) for name, captions in rows.items() for caption in captions]
    with (folder / "c.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([("image", "caption"), *pairs])
    entries = [{"image": name, "caption": caption} for name, caption in pairs]
    (folder / "c.json").write_text(json.dumps(entries))
    (folder / "c.jsonl").write_text("\n".join(json.dumps(entry, ensure_ascii=False) for entry in entries), "utf-8")
    (folder / "c.txt").write_text("\n".join(f"{name}#0\t{caption}" for name, caption in pairs), "utf-8")
    for ending in ("csv", "json", "jsonl", "txt"):
        found = {row.name: list(row.captions) for row in read_captions(folder / f"c.{ending}")}
        assert found == rows, ending


@pytest.mark.parametrize(("listed", "stored"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_names_in_another_form_of_unicode_are_found(tmp_path, listed, stored):
    photo(tmp_path / unicodedata.normalize(stored, "été/étang.png"))
    name = unicodedata.normalize(listed, "été/étang.png")
    (tmp_path / "c.txt").write_text(f"{name}#0\ta pond\n")
    assert load_dataset(f"captions:{tmp_path / 'c.txt'}").ids.tolist() == [name]
    assert load_dataset(f"folder:{tmp_path}").class_names == ("été",)  # in NFC, as prompts are written


def test_names_that_are_no_unicode_get_escapes(tmp_path):
    """Names of folders and files in Latin-1, and half a character in JSON: rows and pictures stay."""
    odd = os.fsdecode(b"caf\xe9")
    for k, name in enumerate((f"{odd}/{odd}.png", f"{odd}/1.png", "dog/1.png")):
        photo(tmp_path / name, k)
    with pytest.warns(UserWarning, match=r"1 class names .* get escapes, as in caf\\udce9"):
        data = load_dataset(f"folder:{tmp_path}")
    assert data.class_names == (r"caf\udce9", "dog")
    assert data.ids.tolist() == [r"caf\udce9/1.png", r"caf\udce9/caf\udce9.png", "dog/1.png"]
    assert [grey_of(data, k) for k in range(3)] == [1, 0, 2]
    pd.DataFrame({"id": data.ids, "class": [data.class_names[k] for k in data.labels]})  # pandas refuses the bytes
    (tmp_path / "c.json").write_text(json.dumps([{"image": f"{odd}/{odd}.png", "caption": "a \ud83d"}]))
    with pytest.warns(UserWarning, match="captions are not valid Unicode"):
        data = load_dataset(f"captions:{tmp_path / 'c.json'}")
    assert data.captions == ((r"a \ud83d",),)
    assert grey_of(data, 0) == 0


def test_karpathy_train_holds_restval(tmp_path):
    images = [
        {"filename": f"{k}.png", "split": split, "sentences": [{"raw": split}]}
        for k, split in enumerate(["train", "restval", "val", "test"])
    ]
    (tmp_path / "c.json").write_text(json.dumps({"images": images}))
    found = {s: [row.captions[0] for row in read_captions(tmp_path / "c.json", s)] for s in ("train", "restval", "all")}
    assert found == {"train": ["train", "restval"], "restval": ["restval"], "all": ["train", "restval", "val", "test"]}


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
        ("{", "can't be read as JSON"),
        ("{}", "holds no pictures"),
        ("[1]", "not a caption file"),
        ("[" * 100_000, "not a caption file"),
        (without("image_id"), "not a caption file .*: 'image_id'"),
        (without("caption"), "not a caption file .*: 'caption'"),
        (without("file_name"), "not a caption file .*: 'file_name'"),
        (without("id"), "not a caption file .*: 'id'"),
        (coco_json().replace('"2.png"', "null"), "a file name is expected, not None"),
        (coco_json().replace('"a cat "', "5"), r"entry 2: a caption of '2\.png' is 5, not text"),
        (coco_json().replace('"a cat "', "null"), r"entry 2: a caption of '2\.png' is None, not text"),
        (coco_json().replace('"a cat "', '" "'), r"1 of 2 pictures have no caption, the first is '2\.png'"),
        (coco_json().replace('"image_id": 3', '"image_id": 99'), "1 image_id of the annotations, as 99"),
        (karpathy_json().replace("sentences", "words"), "entry 1 lacks captions, but has filename, split, words"),
        (coco_json().replace('"id": 3', '"id": 7'), "1 images have the id of another one"),
        ('{"images": [], "annotations": []}', "holds no pictures"),
        ("", "holds no pictures"),
        ("a.png#0 no tab", "line 1 is 'a.png#0 no tab'"),
        ("image,caption\na.png,one, two\n", "line 2 has 3 fields"),
        ("image,caption\na.png\n", "line 2 has 1 fields"),
        ("image,caption,Caption\na.png,one,two\n", "two columns are called 'caption'"),
        ('image,caption\na.png,"A dog\nb.png,a cat\n', "line 2: .* does each quote close"),
        ('image,caption\na.png,a dog\nb.png,"a cat\nc.png,"a cow"\n', "line 3: .* does each quote close"),
        (f"image,caption\na.png,a dog\nb.png,{'x' * 20_000}\n", "line 3: .* has 20000 characters"),
        ('{"image": "a.png", "caption": "a"}\n{"image": "b.png", "caption": null}\n', "line 2: .* None, not text"),
        ('{"image": "a.png", "caption": "a"}\n{"image": \n', "line 2 can't be read as JSON"),
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


def test_a_picture_listed_twice_is_one_row(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(coco_json().replace("2.png", json.dumps("ä b.png")[1:-1]))
    assert read_captions(path) == [("ä b.png", (*CAPTIONS["ä b.png"], *CAPTIONS["2.png"]), "")]


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


def test_a_picture_changed_at_equal_size_and_time_is_noticed(pet_images):
    spec, picture = f"dogs-vs-cats:{pet_images}", pet_images / "PetImages/Dog/1.png"
    before, stat = load_dataset(spec).fingerprint, picture.stat()
    data = bytearray(picture.read_bytes())
    data[-20] ^= 1
    picture.write_bytes(data)
    os.utime(picture, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (picture.stat().st_size, picture.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    assert load_dataset(spec).fingerprint != before


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
