"""Ground truth out of pickles that may import nothing; Easy, Medium and Hard against a loop over ranks."""

import json
import os
import pickle
import pickletools
import warnings
from contextlib import suppress
from dataclasses import replace

import miniatures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from miniatures import GROUND_TRUTH, grey_of, write
from PIL import Image

from crossgap_lib import metrics
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.landmarks import read_truth
from crossgap_lib.datasets.named.plain_pickle import LARGEST, read_plain_pickle
from crossgap_lib.datasets.retrieval_sets import concatenated, load_retrieval
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError, UnreadableImage

# ---------------------------------------------------------------- pickles


def plain(tmp_path, value, protocol=2):
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    return read_plain_pickle(path)


def refused(tmp_path, data: bytes, why: str) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    with pytest.raises(CrossgapError, match=why):
        read_plain_pickle(path)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=50)
@given(value=values, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_data_comes_back_as_it_was(tmp_path_factory, value, protocol):
    assert plain(tmp_path_factory.getbasetemp(), value, protocol) == value


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", ["<i8", ">i4", "<u2", "|i1", "<f4", ">f8", "?"])
@pytest.mark.parametrize("shape", [(0,), (3,), (2, 3)])
def test_arrays_of_numbers_come_back_as_they_were(tmp_path, protocol, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for given_ in (array, np.asfortranarray(array)):
        found = plain(tmp_path, {"a": given_, "same": [given_]}, protocol)
        assert found["a"].dtype == given_.dtype
        np.testing.assert_array_equal(found["a"], given_)
        np.testing.assert_array_equal(found["same"][0], given_)


def test_numbers_of_numpy_and_shared_lists(tmp_path):
    shared = [1, 2]
    assert plain(tmp_path, [np.float64(0.5), np.int32(-3), shared, shared]) == [0.5, -3, [1, 2], [1, 2]]


def test_what_python_2_wrote(tmp_path):
    """Text and the bytes of arrays are one kind of string there."""
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I2\nt"
    state = b"cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR(I3\nS'|'\nNNNI-1\nI-1\nI0\ntbI00\nU\x02\x01\xfftb."
    path = tmp_path / "x.pkl"
    path.write_bytes(array + state)
    assert read_plain_pickle(path).tolist() == [1, 255]
    path.write_bytes(b"(dp0\nS'imlist'\np1\n(lp2\nS'a_1'\np3\nas.")
    assert read_plain_pickle(path) == {"imlist": ["a_1"]}


class Evil:
    """Unpickled, it makes a folder."""

    def __init__(self, call, *arguments):
        self.made = call, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path, protocol):
    target = tmp_path / "pwned"
    for call, argument in (
        (os.system, f"mkdir {target}"),
        (os.mkdir, str(target)),
        (eval, f"__import__('os').mkdir({str(target)!r})"),
    ):
        data = pickle.dumps({"gnd": Evil(call, argument)}, protocol=protocol)
        assert any(code.name == "REDUCE" for code, _, _ in pickletools.genops(data))
        refused(tmp_path, data, r"is refused: it holds the name '(posix|nt|__builtin__|builtins)\.\w+'")
        write(tmp_path / "gnd_roxford5k.pkl", data)
        with pytest.raises(CrossgapError, match="is refused"):
            load_dataset(f"roxford5k:{tmp_path}")
    assert not target.exists()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (pickle.dumps(np.array([{}, 1], dtype=object), protocol=2), "an array of 'O8'"),
        (pickle.dumps(np.array(["a"]), protocol=2), "an array of 'U1'"),
        (pickle.dumps(np.zeros(2, dtype="M8[s]"), protocol=2), "an array of 'M8'"),
        (pickle.dumps(np.zeros(2, dtype=[("a", "i4")]), protocol=2), "an array of 'V4'"),
        (pickle.dumps({1, 2}, protocol=2), r"the name '__builtin__\.set'"),
        (pickle.dumps({1, 2}, protocol=4), "a set, where plain data is expected"),
        (pickle.dumps(1j, protocol=4), r"the name 'builtins\.complex'"),
        (pickle.dumps(replace, protocol=4), r"the name 'dataclasses\.replace'"),
        (b"\x80\x04\x8c\x05numpy\x8c\x10ndarray.__init__\x93.", r"the name 'numpy\.ndarray\.__init__'"),
        (pickle.dumps(np.dtype("f4"), protocol=2), "a _Dtype, where plain data is expected"),
        (pickle.dumps(np.ndarray, protocol=2), "a type, where plain data is expected"),
        (b"cnumpy\nndarray\n(I2\ntR.", "damaged, or no pickle"),  # would be memory that is not cleared
        (b"c_codecs\nencode\n(I1\nI2\ntR.", "damaged, or no pickle"),
        (b"c_codecs\nencode\n(V\\u0100\nVlatin1\ntR.", "damaged, or no pickle"),
        (b"cnumpy\ndtype\n(S'u1'\ntR}S'value'\nI1\nsb.", "damaged, or no pickle"),  # another field of the stand-in
        (b"cnumpy\nndarray\n}S'value'\nI1\nsb.", "damaged, or no pickle"),  # or of its class
        (b"cnumpy\nndarray\n)\x81}b.", "a state for _StandIn"),
        (b"cnumpy.core.multiarray\nscalar\n(I1\nS'a'\ntR.", "an array without a type of number"),
        (b"\x80\x02P0\n.", "damaged, or no pickle"),
        (b"\x80\x02\x82\x01.", "damaged, or no pickle"),
        (b"(.", "damaged, or no pickle"),
        (b"a.", "damaged, or no pickle"),
        (b"g7\n.", "damaged, or no pickle"),
        (b"(I1\nd.", "damaged, or no pickle"),
        (b"(NI1\nd.", "a dict whose keys"),
        (b"(lp0\ng0\na.", "nested deeper than 20 levels"),  # a list that holds itself
        (b"no pickle", "damaged, or no pickle"),
        (b"", "is empty"),
        (pickle.dumps([1, 2], protocol=2)[:-1], "damaged, or no pickle"),
    ],
)
def test_what_is_no_plain_data_is_refused(tmp_path, data, why):
    refused(tmp_path, data, why)


def test_arrays_whose_bytes_do_not_fill_them(tmp_path):
    data = pickle.dumps(np.arange(4, dtype="<i4"), protocol=4)
    assert plain(tmp_path, np.arange(4, dtype="<i4"), 4).tolist() == [0, 1, 2, 3]
    refused(tmp_path, data.replace(b"K\x04\x85", b"K\x05\x85", 1), "an array of shape")


@pytest.mark.parametrize(
    "data",
    [
        b"Nr\xff\xff\xff\xff.",  # the value with the number 2**32 - 1: a table of as many places
        b"\x80\x05\x96\x00\x00\x00\x00\x10\x00\x00\x00.",  # 64 GiB of bytes
        b"\x80\x04\x8e\x00\x00\x00\x00\x10\x00\x00\x00.",
        b"\x80\x04\x8d\x00\x00\x00\x00\x10\x00\x00\x00.",
    ],
)
def test_few_bytes_that_ask_for_much_memory(tmp_path, data):
    refused(tmp_path, data, "a value with the number|damaged, or no pickle")


def test_few_bytes_that_stand_for_many_values(tmp_path):
    """Lists of ten references to the list before: a billion numbers in two hundred bytes."""
    levels = [b"(lp0\n" + b"I1\na" * 10]
    levels += [f"(lp{k}\n".encode() + f"g{k - 1}\na".encode() * 10 for k in range(1, 9)]
    refused(tmp_path, b"".join(levels) + b".", "or more than 4194304 values")


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_a_damaged_file_is_refused_in_one_way(tmp_path_factory, data):
    whole = pickle.dumps({"gnd": [np.arange(3), 0.5, "a"]}, protocol=data.draw(st.integers(0, pickle.HIGHEST_PROTOCOL)))
    at, size = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 4))
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(whole[:at] + data.draw(st.binary(max_size=4)) + whole[at + size :])
    with suppress(CrossgapError):
        read_plain_pickle(path)


def test_a_file_too_large_is_not_read(tmp_path):
    path = tmp_path / "x.pkl"
    with path.open("wb") as file:
        file.truncate(LARGEST + 1)
    with pytest.raises(CrossgapError, match="larger than"):
        read_plain_pickle(path)


# ---------------------------------------------------------------- ground truth


@pytest.mark.parametrize("arrays", [True, False])
@pytest.mark.parametrize("protocol", [0, 2, pickle.HIGHEST_PROTOCOL])
def test_ground_truth_of_every_protocol(tmp_path, arrays, protocol):
    path = miniatures.landmarks(tmp_path, arrays, protocol) / "gnd_roxford5k.pkl"
    truth = read_truth(path)
    assert (truth.gallery, truth.queries) == (GROUND_TRUTH["imlist"], GROUND_TRUTH["qimlist"])
    assert truth.boxes[0] == [1.2, 1.0, 6.9, 4.0]
    assert truth.judged == [{k: entry[k] for k in ("easy", "hard", "junk")} for entry in GROUND_TRUTH["gnd"]]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.pop("imlist"), "no ground truth of ROxford or RParis: 'imlist'"),
        (lambda t: t["gnd"][0].pop("bbx"), "no ground truth of ROxford or RParis: 'bbx'"),
        (lambda t: t["gnd"][0].update(easy=["a"]), "no ground truth"),
        (lambda t: t["gnd"][0].update(easy=[0.5]), "no ground truth"),
        (lambda t: t["gnd"][0].update(easy=[99]), "judged pictures run from 0 to 99, but the gallery has 6"),
        (lambda t: t["gnd"][0].update(junk=[-1]), "judged pictures run from -1 to 5"),
        (lambda t: t["gnd"][0].update(bbx=[5, 0, 1, 3]), "the box of query 'all_souls_000006' is"),
        (lambda t: t["gnd"][0].update(bbx=[1, 2, 3]), "the box of query"),
        (lambda t: t["gnd"][0].update(bbx=[0, 0, float("inf"), 3]), "no ground truth"),
        (lambda t: t.update(gnd=[np.arange(3)] * 2), "no ground truth"),
        (lambda t: t["gnd"][0].update(easy=[10**400]), "no ground truth"),
        (lambda t: t["gnd"].pop(), "imlist, qimlist and gnd do not fit"),
        (lambda t: t.update(imlist=[1, 2, 3, 4, 5, 6]), "imlist, qimlist and gnd do not fit"),
    ],
)
def test_ground_truth_of_another_form(tmp_path, change, why):
    truth = json.loads(json.dumps(GROUND_TRUTH))
    change(truth)
    write(miniatures.landmarks(tmp_path) / "gnd_roxford5k.pkl", pickle.dumps(truth))
    with pytest.raises(CrossgapError, match=why):
        load_dataset(f"roxford5k:{tmp_path}")


def test_gallery_and_cropped_queries(tmp_path):
    root = miniatures.landmarks(tmp_path)
    gradient = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(6, 8, 3)
    Image.fromarray(gradient).save(root / "jpg/all_souls_000006.jpg", format="PNG")
    gallery = load_dataset(f"roxford5k:{root}")
    assert gallery.ids.tolist() == [f"{name}.jpg" for name in GROUND_TRUTH["imlist"]]
    queries = load_dataset(f"roxford5k:{root}/queries")
    np.testing.assert_array_equal(np.asarray(queries.picture(0)), gradient[1:4, 1:7])
    whole = load_dataset(f"roxford5k:{root}/queries", crop_queries=False)
    assert whole.picture(0).size == (8, 6)
    assert whole.fingerprint != queries.fingerprint
    assert queries[[1]].picture(0).size == (3, 3)
    assert set(queries.ids).isdisjoint(gallery.ids)


def test_a_box_beyond_the_picture_is_cut_or_reported(tmp_path):
    truth = json.loads(json.dumps(GROUND_TRUTH))
    truth["gnd"][0]["bbx"], truth["gnd"][1]["bbx"] = [-2, -2, 3, 99], [50, 0, 60, 5]
    write(miniatures.landmarks(tmp_path) / "gnd_roxford5k.pkl", pickle.dumps(truth))
    queries = load_dataset(f"roxford5k:{tmp_path}/queries")
    assert queries.picture(0).size == (3, 6)
    with pytest.raises(UnreadableImage, match=r"magdalen_000058\.jpg: the box .* outside the picture of 8 x 6 pixels"):
        queries.picture(1)


# ---------------------------------------------------------------- retrieval


def encoded(data, seed, keep=None) -> Embeddings:
    """Random features in the place of an encoder's, for rows ``keep``."""
    features = torch.randn(len(data), 5, generator=torch.Generator().manual_seed(seed))
    made = Embeddings(features, ids=data.ids, labels=data.labels)
    return made if keep is None else made[keep]


def textbook(q: Embeddings, g: Embeddings, query: str, positive: set[str], junk: set[str]) -> float | None:
    """AP as the benchmark's evaluation has it: walk down the ranking, step over junk; at each positive add the
    trapezoid between the precision just before it and at it, over one step of recall."""
    similarity = q.features[list(q.ids).index(query)] @ g.features.T
    names = [str(g.ids[k]) for k in similarity.argsort(descending=True)]
    rank, hits, area = 0, 0, 0.0
    for name in names:
        if name in junk:
            continue
        before = hits / rank if rank else 1.0
        rank += 1
        if name in positive:
            hits += 1
            area += (before + hits / rank) / 2
    return area / hits if hits else None


@pytest.mark.parametrize(
    ("difficulty", "positive", "junk"),
    [
        ("easy", ["easy"], ["junk", "hard"]),
        ("medium", ["easy", "hard"], ["junk"]),
        ("hard", ["hard"], ["junk", "easy"]),
    ],
)
@pytest.mark.parametrize("distractors", [False, True])
def test_difficulties_against_a_loop(tmp_path, difficulty, positive, junk, distractors):
    root = miniatures.landmarks(tmp_path / "set")
    for k in range(5):
        miniatures.photo(tmp_path / f"more/{k % 2}/{k}.jpg", grey=200 + k)
    extra = {"distractors": str(tmp_path / "more")} if distractors else {}
    task = load_retrieval(f"roxford5k:{root}", difficulty=difficulty, **extra)
    for seed in range(5):
        q, g = encoded(task.queries, seed), encoded(task.gallery, seed + 100)
        found = metrics.retrieval(q, g, **task.options(q, g))
        names = lambda kinds, entry: {f"{GROUND_TRUTH['imlist'][k]}.jpg" for kind in kinds for k in entry[kind]}  # noqa: E731
        wanted = [
            textbook(q, g, f"{query}.jpg", names(positive, entry), names(junk, entry))
            for query, entry in zip(GROUND_TRUTH["qimlist"], GROUND_TRUTH["gnd"], strict=True)
        ]
        assert found.ap.tolist() == pytest.approx([ap for ap in wanted if ap is not None])
    assert len(task.gallery) == (11 if distractors else 6)
    assert " and ".join(positive) in task.protocol


def test_distractors_are_read_where_they_lie(tmp_path):
    root = miniatures.landmarks(tmp_path / "set")
    pattern = miniatures.shards(tmp_path / "tars")
    task = load_retrieval(f"roxford5k:{root}", distractors=f"wds:{pattern}")
    assert task.gallery.ids[[0, 6, 9]].tolist() == [
        "all_souls_000013.jpg",
        "distractors/00/0000",
        "distractors/01/0001",
    ]
    assert [grey_of(task.gallery, k) for k in (0, 5, 6, 7, 8)] == [1, 6, 0, 1, 10]
    with pytest.raises(UnreadableImage, match="0001"):
        task.gallery.picture(9)
    parts = [task.queries, load_dataset(f"wds:{pattern}")]
    digests = {concatenated("x", parts, prefixes).fingerprint for prefixes in (("", "a/"), ("", "b/"), ("c/", "a/"))}
    assert len(digests) == 3  # ids are kept with encoded pictures
    miniatures.tar(tmp_path / "tars/01.tar", {"0002.jpg": miniatures.photo_bytes(12)})  # no label, unlike the others
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(load_retrieval(f"roxford5k:{root}", distractors=f"wds:{pattern}").gallery) == 9
    (tmp_path / "empty").mkdir()
    with pytest.raises(CrossgapError, match="No distractor pictures"):
        load_retrieval(f"roxford5k:{root}", distractors=str(tmp_path / "empty"))


def test_options_follow_the_ids_when_pictures_were_skipped(tmp_path):
    task = load_retrieval(f"roxford5k:{miniatures.landmarks(tmp_path)}", difficulty="medium")
    q, g = encoded(task.queries, 0), encoded(task.gallery, 1, keep=[5, 0, 2])  # 1, 3 and 4 could not be read
    options = task.options(q, g)
    assert options["relevant"].tolist() == [[False, True, True], [True, False, False]]
    assert options["exclude"].tolist() == [[False] * 3, [False, True, False]]


def test_the_released_code_does_not_crop(tmp_path):
    root = miniatures.landmarks(tmp_path)
    task = load_retrieval(f"roxford5k:{root}", crop_queries=False)
    assert task.queries.picture(0).size == (8, 6)
    assert "not cropped" in task.protocol
    assert "cropped to their box" in load_retrieval(f"roxford5k:{root}").protocol


def test_classification_sets_ask_test_against_train(tmp_path):
    root = miniatures.coop(tmp_path, "split_zhou_OxfordPets.json", "images")
    task = load_retrieval(f"oxford-pets:{root}")
    assert (len(task.queries), len(task.gallery), task.self_match) == (3, 2, "keep")
    q, g = encoded(task.queries, 0), encoded(task.gallery, 1)
    assert task.options(q, g) == {"self_match": "keep", "ap": "mean"}
    assert metrics.retrieval(q, g, **task.options(q, g)).n_relevant.tolist() == [1, 1, 1]
    with pytest.raises(CrossgapError, match="names a split of its own"):
        load_retrieval(f"oxford-pets:{root}/val")


@pytest.mark.parametrize(("name", "make", "relevant"), [("cub", miniatures.cub, 1), ("sop", miniatures.sop, 1)])
def test_one_set_is_asked_against_itself(tmp_path, name, make, relevant):
    task = load_retrieval(f"{name}:{make(tmp_path)}")
    assert task.queries is task.gallery
    q = encoded(task.queries, 0)
    found = metrics.retrieval(q, q, **task.options(q, q))
    assert set(found.n_relevant) == {relevant}
    assert "The query itself is removed." in task.protocol


def test_unnamed_sets_are_served_too(tmp_path):
    for k, name in enumerate(["cat/1.png", "cat/2.png", "dog/1.png"]):
        miniatures.photo(tmp_path / name, grey=k)
    assert load_retrieval(f"folder:{tmp_path}").self_match == "remove"
    assert len(load_retrieval("world:dogs-vs-cats", n=8).queries) == 8


def test_what_retrieval_refuses(tmp_path):
    root = miniatures.landmarks(tmp_path)
    with pytest.raises(
        CrossgapError, match=r"no difficulty 'heard'; there are easy, medium, hard\. Did you mean: hard"
    ):
        load_retrieval(f"roxford5k:{root}", difficulty="heard")
    with pytest.raises(CrossgapError, match="Only ROxford and RParis have difficulties and distractors"):
        load_retrieval("world:dogs-vs-cats", difficulty="hard")
    with pytest.raises(CrossgapError, match="has no labels"):
        load_retrieval(f"wds:{miniatures.tar(tmp_path / 'x.tar', {'1.png': miniatures.photo_bytes(1)})}")
