"""Every named data set of pictures on a miniature in its real format, and what is said where files do not fit."""

import csv
import json
import os
import re
import shutil
from multiprocessing.reduction import ForkingPickler

import miniatures
import pytest
from miniatures import BROKEN, SPLIT, grey_of, photo, write

from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.table import SETS, listing, prompt_template
from crossgap_lib.embeddings.encode import encode_images, skip_report
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.paths import DATA

COOP = {name: row for name, row in SETS.items() if row.family == "coop"}
MAKERS = {
    "oxford-pets": lambda root: miniatures.coop(root, "split_zhou_OxfordPets.json", "images"),
    "fgvc-aircraft": miniatures.aircraft,
    "imagenet": miniatures.imagenet,
    "cub": miniatures.cub,
    "sop": miniatures.sop,
    "roxford5k": miniatures.landmarks,
    "bdd100k": miniatures.bdd100k,
    "coco": lambda root: miniatures.karpathy(root, "dataset_coco.json", "val2014"),
    "flickr30k": lambda root: miniatures.karpathy(root, "dataset_flickr30k.json", "flickr30k-images"),
}


@pytest.fixture(params=MAKERS)
def named(request, tmp_path):
    """(name, root) of one miniature of each family."""
    return request.param, MAKERS[request.param](tmp_path)


# ---------------------------------------------------------------- the table


def test_the_table_holds_what_both_papers_use():
    eleven = {"imagenet", "caltech101", "oxford-pets", "stanford-cars", "flowers102", "food101", "fgvc-aircraft", "dtd",
              "eurosat", "sun397", "ucf101"}  # fmt: skip
    assert {name for name, row in SETS.items() if ("reevaluating", "2") in row.tables} == eleven
    assert {"cub", "sop", "roxford5k", "rparis6k", "coco", "flickr30k", "nocaps", "bdd100k"} < set(SETS)
    assert sum(row.texts_only for row in SETS.values()) == 9  # Table A5


def test_tables_are_those_that_the_published_numbers_are_in():
    with (DATA / "published" / "published.csv").open() as file:
        rows = list(csv.DictReader(file))
    for each in SETS.values():
        found = {(row["source"], row["table"]) for row in rows if row["dataset"] in each.published}
        means = {("reevaluating", "2")} & set(each.tables)  # published as a mean of the eleven
        assert found | means == set(each.tables), each.name
        assert set(each.published) <= {row["dataset"] for row in rows} | {"COCO val", "Flickr30k val"}


def test_prompts_are_coops():
    assert prompt_template("oxford-pets:x") == "a photo of a {}, a type of pet."
    assert prompt_template("dtd:x") == "{} texture."
    assert prompt_template("folder:x") == "a photo of a {}"
    assert all(row.template.count("{}") == 1 for row in SETS.values())


def test_placement_is_one_sentence_with_the_tree():
    for name, row in SETS.items():
        said = SETS[name].placement
        assert said.endswith(f"; expected is {row.tree}")
        assert ("crossgap fetch" in said) == bool(row.fetched_by)
        assert ("by hand" in said) == bool(row.by_hand)
        assert row.fetched_by or row.by_hand
        assert not re.search(r"\. [A-Z]", said)


def test_listing_names_everything():
    said = listing()
    for name, row in SETS.items():
        assert re.search(rf"^{name}\s+{re.escape(row.what)}$", said, re.MULTILINE)
    assert "Cross the Gap 1, 2-right, 3, A3; Reevaluating 2, 3" in said
    assert "wds:PATH/{00..09}.tar" in said


@pytest.mark.parametrize(
    ("spec", "close"), [("oxfordpets:x", "oxford-pets"), ("roxford:x", "roxford5k"), ("CUB:x", "cub")]
)
def test_unknown_names_list_close_matches(spec, close):
    with pytest.raises(CrossgapError, match=rf"Unknown dataset '{spec}'.* Did you mean: .*{close}"):
        load_dataset(spec)


# ---------------------------------------------------------------- what all share


def test_one_broken_picture_is_reported_and_skipped(named, mini):
    name, root = named
    data = load_dataset(f"{name}:{root}")
    images = encode_images(mini, data, cache=False)
    assert len(images) == len(data) - 1
    assert re.search(
        r"1 of \d+ pictures could not be decoded and were skipped: .*(broken|\d\.(jpg|JPEG))", skip_report(images)
    )


def test_a_slice_and_another_process(named):
    name, root = named
    data = load_dataset(f"{name}:{root}")
    assert data[:1].ids.tolist() == data.ids[:1].tolist()
    assert data[1:].fingerprint != data.fingerprint
    ForkingPickler.dumps(data[:1])


def test_fingerprint_follows_the_files(named):
    name, root = named
    data = load_dataset(f"{name}:{root}")
    assert load_dataset(f"{name}:{root}").fingerprint == data.fingerprint
    picture = next(path for path in root.rglob("*") if path.name == data.ids[0].split("/")[-1])
    os.utime(picture, ns=(0, 1))
    touched = load_dataset(f"{name}:{root}").fingerprint
    write(picture, BROKEN)
    assert len({data.fingerprint, touched, load_dataset(f"{name}:{root}").fingerprint}) == 3


def test_the_folder_may_be_named_as_its_publisher_does(named):
    name, root = named
    inner = root.parent / "all" / SETS[name].folders[0]
    shutil.copytree(root, inner)
    assert load_dataset(f"{name}:{inner.parent}").ids.tolist() == load_dataset(f"{name}:{root}").ids.tolist()


def test_splits_after_the_path_or_as_option(named):
    name, root = named
    for split in SETS[name].splits if name != "bdd100k" else ("val",):
        a, b = load_dataset(f"{name}:{root}/{split}"), load_dataset(f"{name}:{root}", split=split)
        assert a.ids.tolist() == b.ids.tolist()
        assert a.fingerprint == b.fingerprint
    default = load_dataset(f"{name}:{root}", split=SETS[name].splits[0])
    assert load_dataset(f"{name}:{root}").fingerprint == default.fingerprint


@pytest.mark.parametrize("way", ["after", "option"])
def test_unknown_split_lists_the_known_ones(named, way):
    name, root = named
    match = rf"{name} has no split 'trainn'; there are {', '.join(SETS[name].splits)}"
    with pytest.raises(CrossgapError, match=match):
        load_dataset(f"{name}:{root}/trainn") if way == "after" else load_dataset(f"{name}:{root}", split="trainn")


def test_two_splits_at_once_are_refused(tmp_path):
    MAKERS["oxford-pets"](tmp_path)
    with pytest.raises(CrossgapError, match="names a split of its own, so split 'test' can't be picked"):
        load_dataset(f"oxford-pets:{tmp_path}/train", split="test")


@pytest.mark.parametrize("name", [name for name, row in SETS.items() if not row.texts_only])
def test_a_missing_set_is_answered_by_its_placement(name, tmp_path):
    with pytest.raises(CrossgapError, match=re.escape(SETS[name].placement)):
        load_dataset(f"{name}:{tmp_path}")


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in ("imagenet", "coco", "flickr30k")])
def test_pictures_that_are_named_and_missing(name, tmp_path):
    root = MAKERS[name](tmp_path)
    data = load_dataset(f"{name}:{root}")
    next(path for path in root.rglob("*") if path.name == data.ids[0].split("/")[-1]).unlink()
    with pytest.raises(CrossgapError, match=rf"1 of {len(data)} pictures that .* names are missing, the first is"):
        load_dataset(f"{name}:{root}")
    with pytest.warns(UserWarning, match="1 bad row is left out: 1 of"):
        rest = load_dataset(f"{name}:{root}", skip_missing=True)
    assert rest.ids.tolist() == data.ids[1:].tolist()
    if data.labels is not None:
        assert rest.labels.tolist() == data.labels[1:].tolist()


def test_texts_are_no_pictures(tmp_path):
    with pytest.raises(CrossgapError, match="imdb holds texts and no pictures: load_texts"):
        load_dataset(f"imdb:{tmp_path}")


# ---------------------------------------------------------------- CoOp


@pytest.mark.parametrize("name", COOP)
def test_every_coop_set(name, tmp_path):
    row = COOP[name]
    data = load_dataset(f"{name}:{miniatures.coop(tmp_path, row.markers[0], row.pictures)}")
    assert data.ids.tolist() == ["great_dane_4.jpg", "abyssinian_5.jpg", "broken.jpg"]
    assert data.labels.tolist() == [1, 0, 1]
    assert data.class_names == ("abyssinian", "great dane")
    assert [grey_of(data, k) for k in (0, 1)] == [4, 5]
    with pytest.raises(UnreadableImage, match=r"broken\.jpg"):
        data.picture(2)
    train = load_dataset(f"{name}:{tmp_path}/train")
    assert (train.ids.tolist(), train.labels.tolist()) == (["abyssinian_1.jpg", "great_dane_2.jpg"], [0, 1])


@pytest.mark.parametrize(
    ("name", "downloaded"),
    [
        ("oxford-pets", "oxford-iiit-pet/images"),
        ("flowers102", "flowers-102/jpg"),
        ("food101", "food-101/images"),
        ("dtd", "dtd/dtd/images"),
        ("eurosat", "eurosat/2750"),
        ("sun397", "SUN397"),
        ("caltech101", "caltech101/101_ObjectCategories"),
    ],
)
@pytest.mark.parametrize("split_file_inside", [False, True])
def test_pictures_where_torchvision_puts_them(name, downloaded, split_file_inside, tmp_path):
    """The split file lies in PATH, or in the folder that the download made in it."""
    file = SETS[name].markers[0]
    miniatures.coop(tmp_path, file, downloaded)
    if split_file_inside and name != "sun397":  # its download makes no folder around SUN397
        (tmp_path / file).rename(tmp_path / downloaded.split("/")[0] / file)
    assert len(load_dataset(f"{name}:{tmp_path}")) == 3


def test_caltech_without_background_and_faces_easy(tmp_path):
    split = {
        "train": [["Faces_easy/image_1.jpg", 1, "Faces_easy"], ["airplanes/image_2.jpg", 2, "airplane"]],
        "val": [["BACKGROUND_Google/image_3.jpg", 0, "background"]],
        "test": [["accordion/image_4.jpg", 3, "accordion"], ["Faces_easy/image_5.jpg", 1, "Faces_easy"]],
    }
    miniatures.coop(tmp_path, "split_zhou_Caltech101.json", "101_ObjectCategories", split)
    data = load_dataset(f"caltech101:{tmp_path}")
    assert (data.ids.tolist(), data.labels.tolist()) == (["accordion/image_4.jpg"], [1])
    assert data.class_names == ("airplane", "accordion")


def changed(part: int, value: object) -> dict:
    """The split with one field of its last test entry changed."""
    split = json.loads(json.dumps(SPLIT))
    split["test"][-1][part] = value
    return split


@pytest.mark.parametrize(
    ("split", "why"),
    [
        (changed(1, 7), r"labels must be 0 to 2 for its 3 classes, but run from 0 to 7"),
        (changed(1, -1), "labels must be 0 to 2 for its 3 classes, but run from -1 to 1"),
        (changed(1, "1"), r"an entry is \[path, label, class name\]"),
        (changed(1, True), r"an entry is \[path, label, class name\]"),
        (changed(2, "poodle"), "label 1 is both"),
        ({**SPLIT, "test": []}, "the test split is empty"),
        ({"train": [], "test": []}, "holds no lists train, val and test"),
        ([], "holds no lists train, val and test"),
    ],
)
def test_malformed_splits(tmp_path, split, why):
    root = miniatures.coop(tmp_path, "split_zhou_DescribableTextures.json", "images")
    write(root / "split_zhou_DescribableTextures.json", json.dumps(split))
    with pytest.raises(CrossgapError, match=why):
        load_dataset(f"dtd:{root}")


@pytest.mark.parametrize("text", ["{", "[" * 100_000, b"\xff\xfe"])
def test_a_split_that_is_no_json(tmp_path, text):
    write(tmp_path / "split_zhou_DescribableTextures.json", text)
    with pytest.raises(CrossgapError, match=r"can't be read as JSON|is not UTF-8 text"):
        load_dataset(f"dtd:{tmp_path}")


# ---------------------------------------------------------------- aircraft, ImageNet


def test_aircraft(tmp_path):
    data = load_dataset(f"fgvc-aircraft:{miniatures.aircraft(tmp_path)}")
    assert data.ids.tolist() == ["0056978.jpg", "0062765.jpg"]
    assert data.class_names == ("707-320", "A300B4", "F-16A/B")
    assert data.labels.tolist() == [2, 0]
    assert grey_of(data, 0) == 3
    write(tmp_path / "images_variant_test.txt", "0056978 Concorde\n")
    with pytest.raises(CrossgapError, match=r"variant 'Concorde' is not in variants\.txt"):
        load_dataset(f"fgvc-aircraft:{tmp_path}")
    write(tmp_path / "images_variant_test.txt", "0056978\n")
    with pytest.raises(CrossgapError, match="line 1 has 1 fields, not 2"):
        load_dataset(f"fgvc-aircraft:{tmp_path}")


def test_imagenet(tmp_path):
    test = load_dataset(f"imagenet:{miniatures.imagenet(tmp_path)}")
    assert test.class_names == ("tench", "goldfish", "great white shark")
    assert test.labels.tolist() == [1, 2, 2]
    assert test.ids[0] == "val/n01443537/ILSVRC2012_val_00000236.JPEG"
    train = load_dataset(f"imagenet:{tmp_path}/train")
    assert train.labels.tolist() == [0, 1, 1]
    assert [grey_of(train, k) for k in range(3)] == [1, 2, 3]
    assert load_dataset(f"imagenet:{tmp_path}/val").ids.tolist() == test.ids.tolist()
    (tmp_path / "images/val/n02084071").mkdir()
    with pytest.raises(CrossgapError, match=r"folder 'n02084071' is not in classnames\.txt"):
        load_dataset(f"imagenet:{tmp_path}")
    shutil.rmtree(tmp_path / "images")
    with pytest.raises(CrossgapError, match=re.escape(SETS["imagenet"].placement)):
        load_dataset(f"imagenet:{tmp_path}")


# ---------------------------------------------------------------- CUB, SOP, BDD100k


def test_imagenet_whose_val_is_not_sorted(tmp_path):
    root = miniatures.imagenet(tmp_path)
    val = root / "images/val"
    photo(val / "ILSVRC2012_val_00000001.JPEG", 1)
    with pytest.warns(UserWarning, match="1 pictures lie in no class folder; ImageNet's val is sorted .* valprep"):
        load_dataset(f"imagenet:{root}")
    (val / "n09999999").mkdir()
    with pytest.raises(CrossgapError, match="folder 'n09999999' is not in classnames"):
        load_dataset(f"imagenet:{root}")
    for folder in val.glob("n*"):
        shutil.rmtree(folder)
    with pytest.raises(CrossgapError, match=r"1 pictures lie in no class folder; ImageNet's val is sorted .* valprep"):
        load_dataset(f"imagenet:{root}")


def test_cub(tmp_path):
    data = load_dataset(f"cub:{miniatures.cub(tmp_path)}")
    assert data.class_names == ("Black footed Albatross", "Groove billed Ani")
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert [grey_of(data, k) for k in range(3)] == [1, 2, 3]
    parts = {split: load_dataset(f"cub:{tmp_path}/{split}").ids.tolist() for split in ("train", "test")}
    assert parts == {"train": data.ids[[1, 2]].tolist(), "test": data.ids[[0, 3]].tolist()}


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        (
            "image_class_labels.txt",
            "1 1\n2 1\n3 2\n4 900\n",
            "labels must be 1 to 3 for its 3 classes, but run from 1 to 900",
        ),
        ("image_class_labels.txt", "1 1\n2 1\n3 0\n4 0\n", "a class is a whole number from 1, not '0'"),
        ("image_class_labels.txt", "1 1\n2 1\n3 two\n4 2\n", "a class is a whole number from 1, not 'two'"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n", r"and images\.txt do not number the same pictures"),
        ("image_class_labels.txt", f"1 1\n2 1\n3 {'2' * 400}\n4 2\n", "a class is a whole number from 1, not '2"),
        ("images.txt", "1 001/a.jpg\n2 001/b.jpg\n3 2.Ani/c.jpg\n4 2.Ani/d.jpg\n", "a class has no name"),
        ("images.txt", "1 1.A/a.jpg\n2 1.B/b.jpg\n3 2.Ani/c.jpg\n4 2.Ani/d.jpg\n", "label 1 is both 'A' and 'B'"),
        ("image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n4 1\n", r"image_class_labels\.txt names '4' twice"),
        ("train_test_split.txt", "1 0\n", r"and images\.txt do not number the same pictures"),
    ],
)
def test_cub_files_that_do_not_fit(tmp_path, file, text, why):
    write(miniatures.cub(tmp_path) / file, text)
    with pytest.raises(CrossgapError, match=why):
        load_dataset(f"cub:{tmp_path}")


def test_sop(tmp_path):
    data = load_dataset(f"sop:{miniatures.sop(tmp_path)}")
    assert data.labels.tolist() == [11318, 11318, 11319]
    assert data.class_names == ()
    assert [grey_of(data, k) for k in range(2)] == [2, 3]
    assert len(load_dataset(f"sop:{tmp_path}/all")) == 4
    for number in ("x", "0", "-1", "9" * 20):
        write(tmp_path / "Ebay_test.txt", f"image_id class_id super_class_id path\n1 {number} 1 a.JPG\n")
        with pytest.raises(CrossgapError, match=f"a class is a whole number from 1, not '{number}'"):
            load_dataset(f"sop:{tmp_path}")


def test_bdd100k_by_attribute(tmp_path):
    root = miniatures.bdd100k(tmp_path)
    times = load_dataset(f"bdd100k:{root}")
    assert times.class_names == ("dawn/dusk", "daytime", "night")
    assert times.labels.tolist() == [2, 1, 1, 0]
    with pytest.warns(UserWarning, match="1 of 4 pictures, whose weather is undefined, are left out"):
        weather = load_dataset(f"bdd100k:{root}/val/weather")
    assert weather.class_names == ("clear", "rainy")
    assert weather.labels.tolist() == [0, 1, 0]
    assert [grey_of(weather, k) for k in range(2)] == [1, 2]
    assert load_dataset(f"bdd100k:{root}/scene").class_names == ("city street", "highway", "tunnel")
    with pytest.raises(CrossgapError, match=r"no attribute 'time'; there are timeofday, weather, scene\. Did you mean"):
        load_dataset(f"bdd100k:{root}", attribute="time")


@pytest.mark.parametrize(
    ("frames", "why"),
    [
        ([{"name": "a.jpg"}], "a frame lacks its name or timeofday"),
        ([{"name": "a.jpg", "attributes": {"timeofday": 3}}], "must be text"),
        ([{"name": "a.jpg", "attributes": {"timeofday": ""}}], "must be text"),
        ([{"name": "a.jpg", "attributes": {"timeofday": "undefined"}}], "timeofday is defined for no picture"),
        ({"frames": []}, "holds no list of frames"),
    ],
)
def test_bdd100k_labels_of_another_form(tmp_path, frames, why):
    write(miniatures.bdd100k(tmp_path) / "labels/bdd100k_labels_images_val.json", json.dumps(frames))
    with pytest.raises(CrossgapError, match=why):
        load_dataset(f"bdd100k:{tmp_path}")


# ---------------------------------------------------------------- captions by name


def test_karpathy_test_is_the_default(tmp_path):
    data = load_dataset(f"coco:{miniatures.karpathy(tmp_path, 'dataset_coco.json', 'val2014')}")
    assert data.ids.tolist() == [name for name, split in miniatures.KARPATHY if split == "test"]
    assert data.captions[1] == ("caption 1.0", "caption 1.1", "caption 1.2")
    assert load_dataset(f"coco:{tmp_path}/val").captions[0][0] == "caption 2.0"


def test_nocaps_has_ten_captions(tmp_path):
    root = miniatures.nocaps(tmp_path)
    with pytest.raises(CrossgapError, match=r"3 of 3 pictures that .* names are missing"):
        load_dataset(f"nocaps:{root}")
    for k in range(3):
        miniatures.photo(root / f"images/{k:016x}.jpg", grey=k)
    data = load_dataset(f"nocaps:{root}")
    assert [len(several) for several in data.captions] == [10] * 3
    assert grey_of(data, 2) == 2


BAD_LINES = {  # of each list: (its file, what stands where its second row did)
    "oxford-pets": ("split_zhou_OxfordPets.json", None),
    "fgvc-aircraft": ("images_variant_test.txt", "1025794"),
    "cub": ("images.txt", "2"),
    "sop": ("Ebay_test.txt", "2 x 1 bicycle_final/2.JPG"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_of_a_list_is_refused_or_skipped(name, tmp_path):
    root = MAKERS[name](tmp_path)
    spec, (file, line) = f"{name}:{root}", BAD_LINES[name]
    ids, labels = load_dataset(spec).ids.tolist(), load_dataset(spec).labels.tolist()
    if line is None:
        lists = json.loads((root / file).read_text())
        lists["test"][1] = lists["test"][1][:2]
        write(root / file, json.dumps(lists))
    else:
        lines = (root / file).read_text().splitlines()
        lines[2 if name == "sop" else 1] = line  # below SOP's header
        write(root / file, "\n".join(lines))
    with pytest.raises(CrossgapError, match=r"\(skip_bad=True"):
        load_dataset(spec)
    with pytest.warns(UserWarning, match="bad rows? (is|are) left out"):
        rest = load_dataset(spec, skip_bad=True)
    assert (rest.ids.tolist(), rest.labels.tolist()) == ([ids[0], *ids[2:]], [labels[0], *labels[2:]])
