"""Data sets of a few pixels in the real on-disk formats, for the readers of ``crossgap_lib.datasets.named``.

Picture k of a set is k grey levels bright, so that a test sees which file was read. Each set of pictures holds one
that can't be decoded.
"""

import io
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

BROKEN = b"\xff\xd8\xff\xe0 no JPEG after all"


def photo_bytes(grey: int, size: tuple[int, int] = (4, 3), form: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, (grey,) * 3).save(file, form)
    return file.getvalue()


def photo(path: Path, grey: int, size: tuple[int, int] = (4, 3)) -> None:
    """A PNG whatever the name ends in: pictures are told by their content, and PNG keeps the grey exact."""
    write(path, photo_bytes(grey, size))


def write(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def grey_of(dataset, row: int) -> int:
    return int(np.asarray(dataset.picture(row))[0, 0, 0])


# ---------------------------------------------------------------- classification

SPLIT = {  # split -> [path, label, class name], as CoOp's files have them
    "train": [["abyssinian_1.jpg", 0, "abyssinian"], ["great_dane_2.jpg", 1, "great_dane"]],
    "val": [["abyssinian_3.jpg", 0, "abyssinian"]],
    "test": [
        ["great_dane_4.jpg", 1, "great_dane"],
        ["abyssinian_5.jpg", 0, "abyssinian"],
        ["broken.jpg", 1, "great_dane"],
    ],
}


def coop(root: Path, file: str, pictures: str, split: dict = SPLIT) -> Path:
    """A split_zhou_*.json and its pictures; those of another base than ``root`` lie in ``pictures`` below it."""
    write(root / file, json.dumps(split))
    entries = [entry for part in split.values() for entry in part]
    for grey, (name, *_) in enumerate(entries, start=1):
        path = root / pictures / name
        write(path, BROKEN) if "broken" in name else photo(path, grey)
    return root


def aircraft(root: Path) -> Path:
    write(root / "variants.txt", "707-320\nA300B4\nF-16A/B\n")
    parts = {"train": "0034309 A300B4\n", "val": "1025794 707-320\n", "test": "0056978 F-16A/B\n0062765 707-320\n"}
    for part, lines in parts.items():
        write(root / f"images_variant_{part}.txt", lines)
    names = [line.split()[0] for lines in parts.values() for line in lines.splitlines()]
    for grey, name in enumerate(names, start=1):
        photo(root / f"images/{name}.jpg", grey)
    write(root / "images/0062765.jpg", BROKEN)
    return root


def imagenet(root: Path) -> Path:
    write(root / "classnames.txt", "n01440764 tench\nn01443537 goldfish\nn01484850 great white shark\n")
    files = ["train/n01440764/n01440764_10026.JPEG", "train/n01443537/n01443537_2.JPEG",
             "train/n01443537/n01443537_10.JPEG", "val/n01443537/ILSVRC2012_val_00000236.JPEG",
             "val/n01484850/ILSVRC2012_val_00002338.JPEG"]  # fmt: skip
    for grey, name in enumerate(files, start=1):
        photo(root / "images" / name, grey)
    write(root / "images/val/n01484850/ILSVRC2012_val_00002752.JPEG", BROKEN)
    return root


# ---------------------------------------------------------------- retrieval


def cub(root: Path) -> Path:
    albatross, ani = "001.Black_footed_Albatross", "002.Groove_billed_Ani"
    names = [f"{albatross}/Black_Footed_Albatross_0046_18.jpg", f"{albatross}/Black_Footed_Albatross_0009_34.jpg",
             f"{ani}/Groove_Billed_Ani_0002_1670.jpg", f"{ani}/broken.jpg"]  # fmt: skip
    write(root / "images.txt", "".join(f"{k} {name}\n" for k, name in enumerate(names, start=1)))
    write(root / "image_class_labels.txt", "1 1\n2 1\n3 2\n4 2\n")
    write(root / "train_test_split.txt", "1 0\n2 1\n3 1\n4 0\n")
    for grey, name in enumerate(names, start=1):
        photo(root / "images" / name, grey)
    write(root / "images" / names[-1], BROKEN)
    return root


def sop(root: Path) -> Path:
    header = "image_id class_id super_class_id path\n"
    write(root / "Ebay_train.txt", f"{header}1 1 1 bicycle_final/111085122871_0.JPG\n")
    lines = "59552 11319 1 bicycle_final/251952414262_0.JPG\n59553 11319 1 bicycle_final/251952414262_1.JPG\n"
    write(root / "Ebay_test.txt", f"{header}{lines}59554 11320 2 cabinet_final/broken.JPG\n")
    names = ["111085122871_0", "251952414262_0", "251952414262_1"]
    for grey, name in enumerate(names, start=1):
        photo(root / f"bicycle_final/{name}.JPG", grey)
    write(root / "cabinet_final/broken.JPG", BROKEN)
    return root


GROUND_TRUTH = {  # as revisitop's gnd_*.pkl: rows of imlist
    "imlist": ["all_souls_000013", "all_souls_000026", "ashmolean_1", "bodleian_2", "broken_3", "oxford_4"],
    "qimlist": ["all_souls_000006", "magdalen_000058"],
    "gnd": [
        {"bbx": [1.2, 1.0, 6.9, 4.0], "easy": [0, 2], "hard": [1], "junk": [3]},
        {"bbx": [0.0, 0.0, 3.0, 3.0], "easy": [], "hard": [5], "junk": [0]},
    ],
}


def landmarks(root: Path, arrays: bool = True, protocol: int = 2, name: str = "roxford5k") -> Path:
    """gnd_NAME.pkl (lists of numbers as arrays, as the real file has them) beside jpg/; queries are 8 x 6 pixels."""
    numbers = np.array if arrays else list
    gnd = [{key: numbers(values) for key, values in entry.items()} for entry in GROUND_TRUTH["gnd"]]
    write(root / f"gnd_{name}.pkl", pickle.dumps({**GROUND_TRUTH, "gnd": gnd}, protocol=protocol))
    for grey, picture in enumerate(GROUND_TRUTH["imlist"], start=1):
        photo(root / f"jpg/{picture}.jpg", grey)
    for grey, picture in enumerate(GROUND_TRUTH["qimlist"], start=101):
        photo(root / f"jpg/{picture}.jpg", grey, size=(8, 6))
    write(root / "jpg/broken_3.jpg", BROKEN)
    return root


def bdd100k(root: Path) -> Path:
    facts = [("b1c66a42-6f7d68ca.jpg", "clear", "night", "city street"), ("b1c81faa-3df17267.jpg", "rainy", "daytime",
             "highway"), ("b1c9c847-3bda4659.jpg", "undefined", "daytime", "highway"),
             ("broken.jpg", "clear", "dawn/dusk", "tunnel")]  # fmt: skip
    frames = [
        {"name": name, "attributes": {"weather": weather, "timeofday": time, "scene": scene}, "labels": []}
        for name, weather, time, scene in facts
    ]
    write(root / "labels/bdd100k_labels_images_val.json", json.dumps(frames))
    for grey, frame in enumerate(frames, start=1):
        photo(root / "images/100k/val" / frame["name"], grey)
    write(root / "images/100k/val/broken.jpg", BROKEN)
    return root


# ---------------------------------------------------------------- captions

KARPATHY = [("COCO_val2014_000000391895.jpg", "test"), ("COCO_val2014_000000522418.jpg", "test"),
            ("COCO_val2014_000000184613.jpg", "val"), ("COCO_val2014_000000318219.jpg", "train"),
            ("COCO_val2014_000000554625.jpg", "restval")]  # fmt: skip


def karpathy(root: Path, file: str, folder: str) -> Path:
    images = [
        {"filename": name, "filepath": folder, "split": split, "sentids": [0, 1], "imgid": k,
         "sentences": [{"raw": f"caption {k}.{c}", "imgid": k, "sentid": c} for c in range(3)]}
        for k, (name, split) in enumerate(KARPATHY)
    ]  # fmt: skip
    write(root / file, json.dumps({"images": images, "dataset": "coco"}))
    for grey, (name, _) in enumerate(KARPATHY, start=1):
        photo(root / folder / name, grey)
    write(root / folder / KARPATHY[1][0], BROKEN)
    return root


def nocaps(root: Path, n: int = 3) -> Path:
    images = [{"id": k, "file_name": f"{k:016x}.jpg", "domain": "near-domain"} for k in range(n)]
    notes = [{"image_id": k, "id": 10 * k + c, "caption": f"caption {k}.{c}"} for c in range(10) for k in range(n)]
    write(root / "nocaps_val_4500_captions.json", json.dumps({"images": images, "annotations": notes}))
    return root


# ---------------------------------------------------------------- texts

NANO = {
    "corpus": [{"_id": "d1", "text": "ice melts"}, {"_id": "d2", "text": "the sun is hot"}, {"_id": "d3", "text": "x"}],
    "queries": [{"_id": "q2", "text": "is the sun hot?"}, {"_id": "q1", "text": "does ice melt?"}],
    "qrels": [{"query-id": "q1", "corpus-id": "d1"}, {"query-id": "q2", "corpus-id": "d2"},
              {"query-id": "q2", "corpus-id": "d1"}],
}  # fmt: skip


def nano(root: Path, form: str = "parquet") -> Path:
    for part, rows in NANO.items():
        if form == "parquet":
            write(root / part / "x", "")
            pq.write_table(pa.Table.from_pylist(rows), root / part / "train-00000-of-00001.parquet")
        elif form == "tsv" and part == "qrels":
            lines = [f"{row['query-id']}\t{row['corpus-id']}\t1" for row in rows]
            write(root / "qrels/test.tsv", "\n".join(["query-id\tcorpus-id\tscore", *lines, "q1\td3\t0"]) + "\n")
        else:
            write(root / f"{part}.jsonl", "\n".join(map(json.dumps, rows)) + "\n")
    return root


def newsgroups(root: Path) -> Path:
    posts = {"sci.space/60801": "To the moon", "sci.space/9": "Mars \xe9", "rec.autos/102894": "My car"}
    for name, text in posts.items():
        write(root / "20news-bydate-test" / name, f"From: a@b\nSubject: x\n\n{text}\n".encode("latin-1"))
    return root


def imdb(root: Path) -> Path:
    reviews = {"test/pos/0_10.txt": "Great.<br /><br />Really.", "test/neg/2_1.txt": "Bad.",
               "test/neg/10_2.txt": "Meh.", "train/pos/1_7.txt": "Good.", "train/neg/3_4.txt": "No."}  # fmt: skip
    for name, text in reviews.items():
        write(root / name, text)
    return root


def imdb_parquet(root: Path) -> Path:
    write(root / "plain_text/x", "")
    table = pa.table({"text": ["Bad.", "Great."], "label": [0, 1]})
    pq.write_table(table, root / "plain_text/test-00000-of-00001.parquet")
    return root


# ---------------------------------------------------------------- tars


def tar(path: Path, files: dict[str, bytes | str]) -> Path:
    """A tar of these files, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            data = data.encode() if isinstance(data, str) else data
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def shards(root: Path, n: int = 2) -> str:
    """n tars of two samples each with labels and captions, the last picture broken; returns their pattern."""
    for k in range(n):
        files: dict[str, bytes | str] = {}
        for j in range(2):
            files[f"{j:04d}.jpg"] = BROKEN if (k, j) == (n - 1, 1) else photo_bytes(10 * k + j)
            files[f"{j:04d}.cls"] = str((k + j) % 2)
            files[f"{j:04d}.txt"] = f"caption {k}.{j}\n"
        tar(root / f"{k:02d}.tar", files)
    return f"{root}/{{00..{n - 1:02d}}}.tar"
