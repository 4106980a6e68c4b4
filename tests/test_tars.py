"""WebDataset tars in place: against what was put in, cut off at every length, and from many threads."""

import gzip
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.reduction import ForkingPickler

import miniatures
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import BROKEN, grey_of, photo_bytes, tar, write

from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.tars import expand_braces
from crossgap_lib.errors import CrossgapError, UnreadableImage


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("a.tar", ["a.tar"]),
        ("{00..02}.tar", ["00.tar", "01.tar", "02.tar"]),
        ("{8..11}", ["8", "9", "10", "11"]),
        ("{008..010}", ["008", "009", "010"]),
        ("{2..0}", ["2", "1", "0"]),
        ("{train,val}/{0..1}.tar", ["train/0.tar", "train/1.tar", "val/0.tar", "val/1.tar"]),
    ],
)
def test_braces_as_a_shell_expands_them(pattern, names):
    assert expand_braces(pattern) == names


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 4))
def test_spans_hold_every_number_once(first, last, width):
    found = expand_braces(f"x{first:0{width}d}y{{{first:0{width}d}..{last:0{width}d}}}")
    numbers = [int(name.split("y")[1]) for name in found]
    assert sorted(numbers) == list(range(min(first, last), max(first, last) + 1))


@pytest.mark.parametrize("pattern", ["{00..02.tar", "00}.tar", "{a{0..1}}", "{0..99999999}", "{0..999}{0..999}"])
def test_braces_that_are_refused(pattern):
    with pytest.raises(CrossgapError, match=r"open or nested brace|more than 100000"):
        expand_braces(pattern)


def test_samples_with_labels_and_captions(tmp_path):
    data = load_dataset(f"wds:{miniatures.shards(tmp_path, n=3)}")
    assert data.ids.tolist() == ["00/0000", "00/0001", "01/0000", "01/0001", "02/0000", "02/0001"]
    assert data.labels.tolist() == [0, 1, 1, 0, 0, 1]
    assert data.captions[3] == ("caption 1.1",)
    assert [grey_of(data, k) for k in range(5)] == [0, 1, 10, 11, 20]
    with pytest.raises(UnreadableImage, match=r"02\.tar: 02/0001: \w+"):
        data.picture(5)
    assert data.class_names == ()
    write(tmp_path / "classnames.txt", "cat\ndog\n")
    assert load_dataset(f"wds:{tmp_path}/{{00..02}}.tar").class_names == ("cat", "dog")
    write(tmp_path / "classnames.txt", "cat\n")
    with pytest.raises(CrossgapError, match="names 1 classes, but labels go up to 1"):
        load_dataset(f"wds:{tmp_path}/{{00..02}}.tar")


lines = st.text(st.characters(exclude_categories=("Cs", "Cc"))).map(str.strip).filter(bool)
facts = st.tuples(st.integers(0, 999), st.lists(lines, min_size=1))


@settings(deadline=None, max_examples=25)
@given(st.dictionaries(st.text("aB0_-é", min_size=1), facts, min_size=1), st.booleans())
@pytest.mark.filterwarnings("ignore:The labels have no names")
def test_labels_and_captions_come_back(tmp_path_factory, samples, in_json):
    files: dict[str, bytes | str] = {}
    for key, (label, captions) in samples.items():
        files[f"{key}.png"] = photo_bytes(0)
        told = {"json": json.dumps({"label": label, "captions": captions})}
        if not in_json:
            told = {"cls": str(label), "txt": "\n".join(captions)}
        files |= {f"{key}.{ending}": text for ending, text in told.items()}
    data = load_dataset(f"wds:{tar(tmp_path_factory.getbasetemp() / 'x.tar', files)}")
    found = zip(data.ids.tolist(), data.labels.tolist(), data.captions, strict=True)
    assert {key: (label, list(captions)) for key, label, captions in found} == {f"x/{k}": v for k, v in samples.items()}


def test_json_folders_and_other_files(tmp_path):
    files = {
        "./a/1.jpg": photo_bytes(1),
        "./a/1.json": json.dumps({"label": 3, "caption": " one "}),
        "./b/1.seg.png": photo_bytes(9),
        "./b/1.PNG": photo_bytes(2),
        "./b/1.json": json.dumps({"cls": 4, "caption": "two", "url": None}),
        "__index__": "0",
    }
    with pytest.warns(UserWarning, match="leaves out 1 samples without a picture, 1 .seg.png files$"):
        data = load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}")
    assert data.ids.tolist() == ["x/a/1", "x/b/1"]
    assert data.labels.tolist() == [3, 4]
    assert data.captions == (("one",), ("two",))
    assert [grey_of(data, k) for k in (0, 1)] == [1, 2]


def test_names_that_people_use_and_a_caption_a_line(tmp_path):
    files = {
        **{"1.png": photo_bytes(1), "1.txt": "a duck\n a bird \n\n", "1.json": '{"class": 3}', "1.npy": "x"},
        **{"2.png": photo_bytes(2), "2.json": '{"captions": ["one\\nline", "two"], "label": "4"}', "2.jpg": b"again"},
    }
    write(tmp_path / "classnames.txt", "a\nb\nc\nd\ne\n")  # a level above, as CLIP_benchmark lays it out
    with pytest.warns(UserWarning, match=r"leaves out 1 \.npy files, 1 \.jpg files$"):
        data = load_dataset(f"wds:{tar(tmp_path / 'test/0.tar', files)}")
    assert data.captions == (("a duck", "a bird"), ("one\nline", "two"))
    assert (data.labels.tolist(), data.class_names) == ([3, 4], tuple("abcde"))
    write(tmp_path / "classnames.txt", "a\n\nb\nc\nd\ne\n")
    with pytest.raises(CrossgapError, match=r"classnames\.txt has a blank line before its end"):
        load_dataset(f"wds:{tmp_path}/test/0.tar")
    (tmp_path / "classnames.txt").unlink()
    with pytest.warns(UserWarning, match=r"The labels have no names, as there is no classnames\.txt"):
        load_dataset(f"wds:{tmp_path}/test/0.tar")


def test_a_json_without_label_and_caption_is_said(tmp_path):
    files = {"1.png": photo_bytes(1), "1.json": '{"url": "x", "species": "duck"}'}
    with pytest.warns(UserWarning, match="1 .json files without label and caption, but with url, species"):
        assert load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}").labels is None


def test_links_in_a_tar(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        write(tmp_path / "a", photo_bytes(7))
        archive.add(tmp_path / "a", "0.png")
        for name, kind, target in [("d/1.png", tarfile.LNKTYPE, "0.png"), ("d/2.png", tarfile.SYMTYPE, "../0.png")]:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            archive.addfile(link)
        link.name, link.linkname = "3.png", "/etc/passwd"
        archive.addfile(link)
    with pytest.warns(UserWarning, match="1 links to files that the tar does not hold"):
        data = load_dataset(f"wds:{tmp_path}/x.tar")
    assert data.ids.tolist() == ["x/0", "x/d/1", "x/d/2"]
    assert [grey_of(data, k) for k in range(3)] == [7, 7, 7]


def test_bad_samples_are_skipped_and_counted(tmp_path):
    files = {f"{k}.png": photo_bytes(k) for k in range(4)} | {
        "0.cls": "0",
        "1.cls": "-1",
        "2.cls": b"\xff",
        "3.cls": "1",
    }
    with pytest.warns(UserWarning, match="2 bad rows are left out: x/1: the label must be .* the text of x/2 can't"):
        data = load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}", skip_bad=True)
    assert (data.ids.tolist(), data.labels.tolist()) == (["x/0", "x/3"], [0, 1])


def test_tars_of_one_name_keep_their_samples_apart(tmp_path):
    for k, part in enumerate(("a", "b")):
        tar(tmp_path / part / "0.tar", {"1.png": photo_bytes(k)})
    data = load_dataset(f"wds:{tmp_path}/{{a,b}}/0.tar")
    assert data.ids.tolist() == ["0-0/1", "1-0/1"]
    assert [grey_of(data, k) for k in (0, 1)] == [0, 1]


def test_samples_without_what_others_have_are_counted(tmp_path):
    files = {"1.png": photo_bytes(1), "1.cls": "0", "2.png": photo_bytes(2), "3.cls": "1"}
    with pytest.warns(UserWarning, match="1 samples without a picture, 1 samples that lack the label or cap"):
        data = load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}")
    assert data.ids.tolist() == ["x/1"]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"1.png": photo_bytes(1), "1.cls": "dog"}, "x/1: the label must be a whole number, not 'dog'"),
        ({"1.png": photo_bytes(1), "1.cls": "-1"}, "the label must be a whole number"),
        ({"1.png": photo_bytes(1), "1.json": '{"label": 1.5}'}, "the label must be a whole number"),
        ({"1.png": photo_bytes(1), "1.json": "{"}, "the .json of x/1 can't be read as JSON"),
        ({"1.png": photo_bytes(1), "1.txt": b"\xff"}, "the text of x/1 can't be read"),
        ({"1.txt": "no picture"}, "holds no pictures"),
        ({"1.png": photo_bytes(1), "1.cls": "1", "2.png": photo_bytes(2), "2.txt": "x"}, "no sample has both"),
        ({}, "holds no pictures"),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_samples_that_are_refused(tmp_path, files, why):
    with pytest.raises(CrossgapError, match=why):
        load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}")


def test_missing_and_compressed_tars(tmp_path):
    pattern = miniatures.shards(tmp_path)
    with pytest.raises(CrossgapError, match=r"2 of 4 tars are missing, the first is .*02\.tar"):
        load_dataset(f"wds:{pattern.replace('01', '03')}")
    write(tmp_path / "x.tar", gzip.compress((tmp_path / "00.tar").read_bytes()))
    with pytest.raises(CrossgapError, match=r"x\.tar is no plain tar .*; compressed tars must be unpacked to \.tar"):
        load_dataset(f"wds:{tmp_path}/x.tar")
    write(tmp_path / "x.tar", b"")
    with pytest.raises(CrossgapError, match="is no plain tar"):
        load_dataset(f"wds:{tmp_path}/x.tar")


@pytest.mark.parametrize("size", [4 * 512 + 100, 4 * 512, 3 * 512 + 100, 3 * 512 + 5, 3 * 512, 2 * 512 + 10, 512])
def test_a_tar_that_was_cut_off_keeps_what_came_before(tmp_path, size):
    """Two pictures of one block each, a header before each: cut behind, in or before the second."""
    whole = tar(tmp_path / "x.tar", {"1.png": photo_bytes(1), "2.png": photo_bytes(2)}).read_bytes()
    with tarfile.open(tmp_path / "x.tar") as archive:
        ends = [member.offset_data + member.size for member in archive]
    write(tmp_path / "x.tar", whole[:size])
    with pytest.warns(UserWarning, match=r"x\.tar has no end: it was cut off"):
        data = load_dataset(f"wds:{tmp_path}/x.tar")
    for k in range(len(data)):
        if ends[k] <= size:
            assert grey_of(data, k) == k + 1
        else:
            with pytest.raises(UnreadableImage, match="the tar ends within this file"):
                data.picture(k)
    assert len(data) >= sum(end <= size for end in ends)


def test_reading_from_threads_slices_and_processes(tmp_path):
    files = {f"{k:03d}.png": photo_bytes(k) for k in range(60)}
    data = load_dataset(f"wds:{tar(tmp_path / 'x.tar', files)}")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda k: grey_of(data, k), range(60))) == list(range(60))
    assert grey_of(data[::-1], 0) == 59
    ForkingPickler.dumps(data[3:])


def test_fingerprint_follows_the_tars(tmp_path):
    spec = f"wds:{miniatures.shards(tmp_path)}"
    found = [load_dataset(spec).fingerprint]
    assert load_dataset(spec).fingerprint == found[0]
    os.utime(tmp_path / "01.tar", ns=(0, 1))
    found.append(load_dataset(spec).fingerprint)
    tar(tmp_path / "01.tar", {"0000.jpg": BROKEN, "0000.cls": "0", "0000.txt": "x"})
    os.utime(tmp_path / "01.tar", ns=(0, 1))
    found.append(load_dataset(spec).fingerprint)
    assert len(set(found)) == 3


def test_a_tar_that_vanishes_is_reported_for_each_picture(tmp_path):
    data = load_dataset(f"wds:{miniatures.shards(tmp_path)}")
    (tmp_path / "00.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"00\.tar: 00/0000: .*No such file"):
        data.picture(0)
