"""Mutated files for every reader: each ends in a sound reading or in a CrossgapError, within seconds.

``make fuzz`` runs without end and keeps what it finds in .cache/fuzz/found; tests/test_fuzz.py runs a part. An input is
known by (reader, seed, number). If the interpreter itself dies, its last input lies in .cache/fuzz/now.

A new reader is a row of ``READERS``.
"""

import argparse
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tarfile
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import miniatures
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import test_models
import torch
from PIL import Image
from safetensors.torch import load_file

from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.plain_pickle import read_plain_pickle
from crossgap_lib.datasets.retrieval_sets import load_retrieval
from crossgap_lib.datasets.text_sets import load_texts
from crossgap_lib.embeddings.embeddings import Embeddings, load_pair
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.jobs.shard_files import FORMAT, load_shards, made_from, pack_shard, shard_path, write, write_manifest
from crossgap_lib.jobs.sources import open_source
from crossgap_lib.models.load import load_model
from crossgap_lib.paths import ROOT

SECONDS = 20  # of processor time, for one input


class Reader(NamedTuple):
    make: Callable[[Path], object]  # writes valid files into an empty folder
    read: Callable[[Path], object]  # raises CrossgapError, or AssertionError where what it read is not sound
    hit: str = r".*"  # regular expression: which files, by their paths in the folder, are mutated
    in_tests: int = 800  # inputs in a run of the tests, which then takes a second or two


# ---------------------------------------------------------------- what is read, and what a sound reading is


def check_dataset(data, decode: bool = False) -> None:
    """The columns fit each other; with ``decode``, every picture is read or reported."""
    n = len(data)
    assert n == len(data.ids) == len(set(data.ids.tolist())) > 0
    if data.labels is not None:
        assert data.labels.shape == (n,)
        assert data.labels.min() >= 0
        assert not data.class_names or data.labels.max() < len(data.class_names)
    assert all(isinstance(name, str) and name for name in data.class_names)
    if data.captions is not None:
        assert len(data.captions) == n
        assert all(several and all(isinstance(c, str) and c.strip() for c in several) for several in data.captions)
    for row in range(n if decode else 0):
        with suppress(UnreadableImage):
            assert data.picture(row).mode == "RGB"


def check_texts(found) -> None:
    assert all(isinstance(text, str) for text in (*found.queries, *found.corpus))
    if found.relevant is not None:
        assert found.relevant.any(axis=1).all()  # a query without a relevant text can't be scored


def dataset(prefix: str, file: str = "", decode: bool = False) -> Callable[[Path], None]:
    return lambda folder: check_dataset(load_dataset(f"{prefix}:{folder / file}"), decode)


def texts(prefix: str, **options: str) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        check_texts(load_texts(f"{prefix}:{folder}", **{key: folder / file for key, file in options.items()}))

    return read


def retrieval(folder: Path) -> None:
    task = load_retrieval(f"roxford5k:{folder}", difficulty="medium")
    check_dataset(task.queries)
    task.options(task.queries, task.gallery)


def captioned(name: str, text: str) -> Callable[[Path], None]:
    """A caption file and the three pictures that it names."""

    def make(folder: Path) -> None:
        miniatures.write(folder / name, text)
        for k in range(3):
            miniatures.photo(folder / f"{k}.png", k)

    return make


def _coco() -> str:
    notes = [{"image_id": k, "id": k, "caption": f"picture {k}"} for k in range(3)]
    return json.dumps({"images": [{"id": k, "file_name": f"{k}.png"} for k in range(3)], "annotations": notes})


def _mixed_pictures(folder: Path) -> None:
    for k, form in enumerate(("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO")):
        miniatures.write(folder / f"cat/{k}.{form.lower()}", miniatures.photo_bytes(k, (16, 16), form))
    deep = Image.fromarray(np.linspace(0, 60_000, 64, dtype=np.uint16).reshape(8, 8))
    deep.save(folder / "cat/deep.png")


def _tree(folder: Path) -> None:
    for name in ("bear/1.png", "bear/notes.txt", "black_duck/2.png", "black_duck/deep/10.png", "étang/3.png"):
        miniatures.photo(folder / name, 1)


def _tars(folder: Path) -> None:
    miniatures.shards(folder / "set/train")
    more = {"1.png": miniatures.photo_bytes(1), "1.json": '{"label": 1, "captions": ["a", "b"]}'}
    miniatures.tar(folder / "set/train/02.tar", more)
    miniatures.write(folder / "set/classnames.txt", "bear\nduck\n")


def _nano_with_summaries(folder: Path) -> None:
    miniatures.nano(folder, "jsonl")
    miniatures.write(folder / "summaries.jsonl", '{"id": "d1", "summary": "ice"}\n{"_id": "d2", "text": "sun"}\n')


def model(folder: Path) -> None:
    """Loads, and encodes what a user would: features of the promised width."""
    loaded = load_model(f"local-dir:{folder}", device="cpu")
    picture = Image.new("RGB", (20, 30), "red")
    features = [loaded.encode_pixels(loaded.preprocess(picture)[None])]
    if loaded.has_text:
        features.append(loaded.encode_tokens(loaded.tokenize(["a photo of a dog", ""]))[:1])
    for each in features:
        assert each.shape == (1, loaded.embed_dim)


def _torch_model(folder: Path) -> None:
    test_models.write_open_clip(folder)
    weights = folder / "open_clip_model.safetensors"
    torch.save({"epoch": 3, "state_dict": load_file(weights)}, folder / "open_clip_pytorch_model.bin")
    weights.unlink()


_TABLE = {
    "csv": "file_name,text,id\n0.png,\"zero, no\",1\n1.png,one,2\n2.png,\"['two', '2']\",3\n",
    "tsv": "filepath\ttitle\n0.png\tzero\n1.png\tone\n2.png\ttwo\n",
    "txt": "image_name| comment_number| comment\n0.png| 0| zero\n1.png| 0| one\n2.png| 1| two\n",
    "jsonl": "".join(f'{{"image": "{k}.png", "caption": ["a {k}"]}}\n' for k in range(3)),
    "list.json": json.dumps([{"image": f"{k}.png", "caption": f"a {k}"} for k in range(3)]),
    "map.json": json.dumps({f"{k}.png": [f"a {k}"] for k in range(3)}),
    "coco.json": _coco(),
    "token.txt": "".join(f"{k}.png#0\tzero {k}\n{k}.png#1\tone\n" for k in range(3)),
}
_LISTS = r".*\.(txt|json|pkl|tsv|jsonl|parquet)"  # not the pictures

_KINDS = ("npz", "parquet", "safetensors")
_VECTORS = np.random.default_rng(0).standard_normal((4, 3), np.float32)
_WORDS = {"labels": np.array([0, 1, 1, 0]), "captions": np.array(["a cat", "a dog", "x", "y"])}
_NAMED = {"ids": ["a/1.jpg", "b", "c", "ü"], "labels": [0, 1, 1, 0], "class_names": ("cat", "dog"), "texts": [*"abcd"]}


def saved(name: str) -> Callable[[Path], object]:
    """Embeddings with every column, as the library writes them."""
    return lambda folder: Embeddings(_VECTORS, **_NAMED, meta={"model": "m"}).save(folder / name)


def embeddings(name: str) -> Callable[[Path], None]:
    """``Embeddings`` checks its columns itself; what is left is that rows of a file are those of the whole."""

    def read(folder: Path) -> None:
        whole = Embeddings.load(folder / name)
        some = open_source(None, str(folder / name), "oti").read(slice(1, 3)).features
        assert some is None or some.ids.tolist() == whole.ids[1:3].tolist()

    return read


def _foreign_table(folder: Path) -> None:
    pq.write_table(pa.table({"vector": list(_VECTORS), **_WORDS}), folder / "f.parquet")


def _pair(folder: Path) -> None:
    np.savez(folder / "f.npz", image_features=_VECTORS, text_features=_VECTORS, **_WORDS)


def _shards(folder: Path, older: bool = False) -> None:
    """A finished run of two shards."""
    facts = {"format": FORMAT, "model": {"spec": "m"}, "data": {"spec": "d", "rows": 4}}
    facts |= {"inversion": {"steps": 1, "method": "oti"}, "composition": {"shard_size": 2}}
    write_manifest(folder, facts)
    for k in range(2):
        rows = slice(2 * k, 2 * k + 2)
        arrays = {"step 1": _VECTORS[rows], "tokens": _VECTORS[rows][:, None], "losses": _VECTORS[:1, rows]}
        told = {"ids": _NAMED["ids"][rows], "class_names": [], "skipped": [], "texts": None}
        write(shard_path(folder, k), pack_shard(arrays, told, made_from(facts, k)))
    if older:
        write(folder / "manifest.json", json.dumps(facts | {"format": 2}).encode())


def _same_shards(folder: Path) -> None:
    run = load_shards(folder)
    assert run.ids.tolist() == _NAMED["ids"]
    assert np.array_equal(run.tokens[:, 0], _VECTORS)


READERS: dict[str, Reader] = {
    **{f"vectors-{kind}": Reader(saved(f"f.{kind}"), embeddings(f"f.{kind}"), in_tests=150) for kind in _KINDS},
    "vectors-npy": Reader(lambda folder: np.save(folder / "f.npy", _VECTORS), embeddings("f.npy"), in_tests=150),
    "vectors-of-others": Reader(_foreign_table, embeddings("f.parquet"), in_tests=150),
    "pairs": Reader(_pair, lambda folder: load_pair(folder / "f.npz"), in_tests=150),
    "shards": Reader(_shards, _same_shards, in_tests=150),
    "older-shards": Reader(partial(_shards, older=True), load_shards, in_tests=150),
    **{
        f"captions-{name}": Reader(captioned(f"c.{name}", text), dataset("captions", f"c.{name}"), rf"c\.{name}")
        for name, text in _TABLE.items()
    },
    "karpathy": Reader(
        lambda folder: miniatures.karpathy(folder, "dataset_coco.json", "val2014"), dataset("coco"), _LISTS
    ),
    "karpathy-train": Reader(
        lambda folder: miniatures.karpathy(folder, "c.json", "x"), dataset("captions", "c.json/train"), _LISTS
    ),
    "nocaps": Reader(miniatures.nocaps, texts("nocaps"), _LISTS),
    "split": Reader(
        lambda folder: miniatures.coop(folder, "split_zhou_DescribableTextures.json", "images"), dataset("dtd"), _LISTS
    ),
    "aircraft": Reader(miniatures.aircraft, dataset("fgvc-aircraft"), _LISTS),
    "cub": Reader(miniatures.cub, dataset("cub"), _LISTS),
    "sop": Reader(miniatures.sop, dataset("sop", "all"), _LISTS),
    "imagenet": Reader(miniatures.imagenet, dataset("imagenet"), _LISTS),
    "bdd100k": Reader(miniatures.bdd100k, dataset("bdd100k", "val/weather"), _LISTS),
    "ground-truth": Reader(miniatures.landmarks, dataset("roxford5k", "queries"), _LISTS),
    "ground-truth-text": Reader(partial(miniatures.landmarks, protocol=0), retrieval, _LISTS),
    "pickle": Reader(
        lambda folder: miniatures.landmarks(folder, protocol=4),
        lambda f: read_plain_pickle(f / "gnd_roxford5k.pkl"),
        _LISTS,
    ),
    "folder": Reader(_tree, dataset("folder")),
    "pictures": Reader(_mixed_pictures, dataset("folder", decode=True)),
    "tars": Reader(_tars, lambda folder: check_dataset(load_dataset(f"wds:{folder}/set/train/{{00..02}}.tar"), True)),
    "beir-parquet": Reader(miniatures.nano, texts("nano-fever"), _LISTS),
    "beir-jsonl": Reader(_nano_with_summaries, texts("nano-fever", summaries="summaries.jsonl"), _LISTS),
    "beir-tsv": Reader(lambda folder: miniatures.nano(folder, "tsv"), texts("nano-fever"), _LISTS),
    "newsgroups": Reader(miniatures.newsgroups, texts("20newsgroups")),
    "imdb": Reader(miniatures.imdb, texts("imdb")),
    "imdb-parquet": Reader(miniatures.imdb_parquet, texts("imdb"), _LISTS),
    "model-config": Reader(test_models.write_open_clip, model, r"open_clip_config\.json", in_tests=40),
    "model-tokenizer": Reader(test_models.write_open_clip, model, r"tokenizer.*\.json", in_tests=40),
    "model-weights": Reader(test_models.write_open_clip, model, r".*\.safetensors", in_tests=40),
    "model-torch": Reader(_torch_model, model, r".*\.bin", in_tests=40),
    "timm-model": Reader(test_models.write_timm, model, in_tests=40),
}


# ---------------------------------------------------------------- mutators of bytes

Mutator = Callable[[random.Random, bytes], bytes]
_ABSURD = ("-1", "0", "1e999", "NaN", "-0", "0.5", "1" * 400, str(2**63), str(2**31), "true", "null", '""', "[]", "{}")
_PIECES = (
    b'"', b"'", b"\\", b"\0", b"\r", b"\n", b"\t", b",", b"|", b";", b"#", b"{", b"}", b"[", b"]", b"/", b"..", b" ",
    b"\xff", b"\xef\xbb\xbf", b"\xc3", b"\\ud800", b"\xed\xa0\x80", b"\xe2\x80\xa8", b"\x1b[31m", b"../../etc/passwd",
    b"x" * 20_000, b"a" * 300, b"<b>", b"$x$", b"file://", b"[" * 2000, b"['", b"[b'", "é".encode(), b"\x85", b"\x1c",
)  # fmt: skip
_VALUES = (None, True, -1, 0, 2.5, 1e308, 10**30, "", "x", "\0", "\ud800", "a" * 20_000, [], {}, [None], [[]], {"a": 1})


def _span(rng: random.Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 1, 2, 4, 8, 16, 64, 512)))


def flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if data else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def delete(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + data[end:]


def insert(rng: random.Random, data: bytes) -> bytes:
    at, _ = _span(rng, data)
    return data[:at] + rng.choice((rng.choice(_PIECES), rng.randbytes(rng.randrange(1, 9)))) + data[at:]


def replace(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:start] + rng.choice((rng.choice(_PIECES), rng.randbytes(end - start))) + data[end:]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    start, end = _span(rng, data)
    return data[:end] + data[start:end] * rng.choice((1, 1, 2, 100)) + data[end:]


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: _span(rng, data)[0]]


def swap(rng: random.Random, data: bytes) -> bytes:
    a, b, c = sorted(rng.randrange(len(data) + 1) for _ in range(3))
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def number(rng: random.Random, data: bytes) -> bytes:
    """A number that stands in the text becomes an absurd one."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data[:100_000]))
    if not found:
        return flip(rng, data)
    place = rng.choice(found)
    return data[: place.start()] + rng.choice(_ABSURD).encode() + data[place.end() :]


def encoding(rng: random.Random, data: bytes) -> bytes:
    """The text in another encoding."""
    return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "latin-1", "utf-7")), "replace")


def lines(rng: random.Random, data: bytes) -> bytes:
    """A line dropped, doubled, moved or emptied, or one of its fields."""
    rows = data.split(b"\n")
    k = rng.randrange(len(rows))
    parts = re.split(rb"([,\t|; ])", rows[k])
    f = rng.randrange(len(parts))
    changes = (
        rows[:k] + rows[k + 1 :],
        [*rows, rows[k]],
        rows[k:] + rows[:k],
        [*rows[:k], b"", *rows[k:]],
        [*rows[:k], b"".join([*parts[:f], *parts[f + 1 :]]), *rows[k + 1 :]],
        [*rows[:k], b"".join([*parts[:f], rng.choice(_PIECES), *parts[f + 1 :]]), *rows[k + 1 :]],
        [*rows[:k], b"".join([*parts, *parts[f:]]), *rows[k + 1 :]],
    )
    return rng.choice((b"\n", b"\n", b"\n", b"\r\n", b"\r", "\u2028".encode())).join(rng.choice(changes))


def structure(rng: random.Random, data: bytes) -> bytes:
    """JSON, or one line of JSON lines, with a key or an item dropped, renamed, doubled, or of another type."""
    rows = data.split(b"\n")
    k = rng.randrange(len(rows))
    for text, put in (data, lambda new: new), (rows[k], lambda new: b"\n".join([*rows[:k], new, *rows[k + 1 :]])):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            continue
        return put(json.dumps(_restructured(rng, value)).encode())
    return lines(rng, data)


def _restructured(rng: random.Random, value):
    inside = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    if not inside or rng.random() < 0.15:
        return rng.choice((*_VALUES, [value], {"a": value}, str(value)))
    key, item = rng.choice(inside)
    if rng.random() < 0.6:
        inside = [(each, _restructured(rng, item) if each == key else old) for each, old in inside]
    else:
        others = [(each, old) for each, old in inside if each != key]
        inside = rng.choice(
            (others, [*others, (f"{key}x", item)], [*inside, (f"{key}", item)], [*others, (key, value)])
        )
    return dict(inside) if isinstance(value, dict) else [item for _, item in inside]


# ---------------------------------------------------------------- mutators of what lies in containers


def packed(rng: random.Random, data: bytes) -> bytes:
    """A part of a zip, a tar, a Parquet table or a safetensors file mutated, with the container whole around it."""
    try:
        if data[:4] == b"PK\3\4":
            return _in_zip(rng, data)
        if data[:4] == b"PAR1":
            return _in_parquet(rng, data)
        if data[257:262] == b"ustar":
            return _in_tar(rng, data)
        size = int.from_bytes(data[:8], "little")
        if data[8:9] == b"{" and size <= len(data):
            header = rng.choice(PLAIN)(rng, data[8 : 8 + size])
            return len(header).to_bytes(8, "little") + header + data[8 + size :]
    except (
        ValueError,
        OSError,
        EOFError,
        LookupError,
        ArithmeticError,
        RuntimeError,
        pa.ArrowException,
        tarfile.TarError,
        zipfile.BadZipFile,
    ):
        pass  # a mutation before this one has broken the container
    return rng.choice(PLAIN)(rng, data)


def _in_zip(rng: random.Random, data: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, warnings.catch_warnings(), zipfile.ZipFile(made, "w") as new:
        warnings.simplefilter("ignore")
        names = old.namelist()
        chosen = rng.choice(names)
        for name in names:
            part = old.read(name)
            new.writestr(name, rng.choice(PLAIN)(rng, part) if name == chosen else part)
    return made.getvalue()


def _in_tar(rng: random.Random, data: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=made, mode="w") as new:
        members = old.getmembers()
        chosen = rng.choice(members)
        for member in members:
            part = old.extractfile(member).read() if member.isreg() else b""
            if member is chosen:
                member, part = _changed_member(rng, member, part)
            member.size = len(part)
            new.addfile(member, io.BytesIO(part))
    return made.getvalue()


def _changed_member(rng: random.Random, member: tarfile.TarInfo, part: bytes) -> tuple[tarfile.TarInfo, bytes]:
    what = rng.randrange(3)
    if what == 0:
        return member, rng.choice(PLAIN)(rng, part)
    if what == 1:
        name = rng.choice((replace, insert, flip, delete))(rng, member.name.encode("utf-8", "surrogateescape"))
        member.name = rng.choice((name.decode("utf-8", "surrogateescape").replace("\0", "x"), "../../x.png", "/x.cls"))
        return member, part
    kinds = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE)
    member.type, member.linkname = rng.choice(kinds), rng.choice((member.name, "0000.jpg", "/etc/passwd"))
    return member, b""


def _in_parquet(rng: random.Random, data: bytes) -> bytes:
    table = pq.read_table(io.BytesIO(data))
    rows = _restructured(rng, table.to_pylist())
    made = io.BytesIO()
    if isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows):
        rows = [{str(key).encode("utf-8", "replace").decode(): value for key, value in row.items()} for row in rows]
        table = pa.Table.from_pylist(rows, schema=None)
    else:
        column = rng.choice(table.column_names)
        kinds = (pa.string(), pa.binary(), pa.float64(), pa.list_(pa.string()), pa.null(), pa.bool_())
        changed = pa.array([None] * len(table), rng.choice(kinds))
        table = table.set_column(table.column_names.index(column), column, changed)
    pq.write_table(table, made)
    return made.getvalue()


PLAIN: tuple[Mutator, ...] = (
    *(flip, delete, insert, replace, duplicate, truncate, swap, number, encoding),
    *(lines, lines, structure, structure, structure),
)
MUTATORS: tuple[Mutator, ...] = (*PLAIN, packed, packed, packed, packed)


def mutated(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        data = rng.choice(MUTATORS)(rng, data)
    return data


# ---------------------------------------------------------------- mutators of folders


def moved(rng: random.Random, folder: Path, path: Path) -> None:
    """The file gone, renamed, moved, empty, a folder, a link to nothing or to itself, or another file of the folder."""
    others = [other for other in folder.rglob("*") if other.is_file() and other != path]
    names = (f"{path.name}.bak", path.stem, path.name.upper(), f"a\n{path.name}", f"ü{path.name}", "\udcff.png",
             f".{path.name}", f"{'x' * 200}{path.suffix}", f"{path.stem}.png")  # fmt: skip
    name = rng.choice(names)
    what = rng.randrange(9)
    if what == 1 and others:
        shutil.copy(rng.choice(others), path)
        return
    data = path.read_bytes()
    path.unlink()
    if what == 2:
        path.with_name(name).write_bytes(data)
    elif what == 3:
        miniatures.write(path.parent / "inner" / path.name, data)
    elif what == 4:
        path.touch()
    elif what == 5:
        path.mkdir()
    elif what == 6:
        path.symlink_to(rng.choice((path.name, "nowhere", "/dev/null", "..")))
    elif what == 7:
        miniatures.write(path.parent.parent / path.name, data)
    elif what == 8 and path.parent != folder:
        shutil.copytree(path.parent, path.parent.with_name(name), dirs_exist_ok=True)


# ---------------------------------------------------------------- a run


class TooLong(BaseException):
    """An input took more than ``SECONDS``; no reader takes it for an error of its own."""


class Found(NamedTuple):
    kind: str  # reader, type of the error and place
    told: str  # the error, and which input it was
    data: bytes | None  # the mutated file; None where a folder was


class Target:
    """A reader in a folder of its own, which is as its maker left it before each input."""

    def __init__(self, name: str, folder: Path):
        self.name, self.reader, self.folder, self.turned = name, READERS[name], folder, 0
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.reader.make(folder)
        self.files = {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
        self.hit = [p for p in self.files if re.fullmatch(self.reader.hit, p.relative_to(folder).as_posix())]
        self.read()  # an error here is the maker's

    def read(self) -> None:
        with warnings.catch_warnings(), within(SECONDS):
            warnings.simplefilter("ignore")
            self.reader.read(self.folder)

    def input(self, seed: int, number: int) -> Found | None:
        """Reads input ``number``. Returns what is wrong with the outcome."""
        rng = random.Random(f"{self.name}/{seed}/{number}")
        path = rng.choice(self.hit)
        in_folder = rng.random() < 0.05
        os.environ["CROSSGAP_SKIP_BAD"] = rng.choice("01")
        try:
            if in_folder:
                with suppress(OSError):  # a folder of that name is there already
                    moved(rng, self.folder, path)
            else:
                self._put(path, mutated(rng, self.files[path]))
            self.read()
        except CrossgapError as error:
            if not str(error).strip():
                return self._found(f"says-nothing-{place(error)}", error, number, seed, path, in_folder)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            return self._found(f"{type(error).__name__}-{place(error)}", error, number, seed, path, in_folder)
        finally:
            del os.environ["CROSSGAP_SKIP_BAD"]
            self._restore(path, in_folder)
        return None

    @staticmethod
    def _put(path: Path, data: bytes) -> None:
        path.unlink()  # a file that is written over goes to the disk at once (ext4), which takes 5 ms
        path.write_bytes(data)

    def turn(self, seed: int, seconds: float = 1) -> Iterator[Found]:
        """Goes on with the inputs of ``seed`` for so long: one takes most readers 0.5 ms, and those of models 25."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            wrong = self.input(seed, self.turned)
            self.turned += 1
            if wrong:
                yield wrong

    def _found(self, kind: str, error: BaseException, number: int, seed: int, path: Path, in_folder: bool) -> Found:
        told = f"{self.name}, seed {seed}, input {number}, {path.name}: {type(error).__name__}: {str(error)[:300]!r}"
        return Found(f"{self.name}-{kind}", told, None if in_folder else path.read_bytes())

    def _restore(self, path: Path, in_folder: bool) -> None:
        if not in_folder:
            self._put(path, self.files[path])
            return
        shutil.rmtree(self.folder)
        for each, data in self.files.items():
            miniatures.write(each, data)


def place(error: BaseException) -> str:
    """The last line of the library that the error went through, or of the check that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "crossgap_lib" in frame.filename] or frames
    last = frames[-1] if isinstance(error, AssertionError) else ours[-1]
    return f"{Path(last.filename).name}.{last.lineno}"


@contextmanager
def within(seconds: float):
    """Raises TooLong after so many seconds of processor time, which a busy machine does not take away."""

    def stop(*_):
        raise TooLong(f"more than {seconds} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"of {', '.join(READERS)}; all by default")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "fuzz")
    parser.add_argument("--rounds", type=int, help="of a second for each reader; without end by default")
    options = parser.parse_args()
    most = 16 * 2**30  # bytes of addresses: an input that asks for more gets a MemoryError
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    found: Counter[str] = Counter()
    begun = time.monotonic()
    targets = [Target(name, options.folder / "now" / name) for name in options.readers or READERS]
    for _ in range(options.rounds) if options.rounds else count():
        for wrong in chain.from_iterable(target.turn(options.seed) for target in targets):
            found[wrong.kind] += 1
            if found[wrong.kind] == 1:
                _keep(options.folder / "found", wrong)
        done = sum(target.turned for target in targets)
        rate = done / (time.monotonic() - begun)
        print(f"seed {options.seed}: {done} inputs, {rate:.0f} a second; found {len(found)} kinds", flush=True)
    sys.exit(bool(found))


def _keep(folder: Path, wrong: Found) -> None:
    print(f"{wrong.kind}\n    {wrong.told}", flush=True)
    miniatures.write(folder / f"{wrong.kind}.txt", wrong.told.encode("utf-8", "replace"))
    if wrong.data is not None:
        miniatures.write(folder / wrong.kind, wrong.data)


if __name__ == "__main__":
    main()
