"""IMDB's film reviews (Maas et al. 2011): aclImdb/{test,train}/{pos,neg}/*.txt, or the Parquet files of the hub."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from crossgap_lib.datasets.named.collection import TextCollection
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.picture_files import natural
from crossgap_lib.errors import CrossgapError

SENTIMENTS = ("neg", "pos")  # label 0 and 1, as the hub numbers them
_QUERIES = ("a negative review of a film", "a positive review of a film")


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> TextCollection:
    """One sentence on each sentiment, against the reviews of a split, or of both ("all").

    Raises:
        CrossgapError: no reviews, or files of another form.
    """
    root, split = root_and_split(row, rest, split)
    parts = ("train", "test") if split == "all" else (split,)
    reviews = [review for part in parts for review in (_texts(root, part) or _parquet(root, part))]
    if {label for _, label, _ in reviews} != {0, 1}:
        raise CrossgapError(f"No {split} reviews of both sentiments in {root} ({placement(row.name)}).")
    ids, labels, texts = zip(*reviews, strict=True)
    return TextCollection(
        spec,
        _QUERIES,
        SENTIMENTS,
        texts,
        ids,
        row.protocol,
        query_labels=np.arange(2),
        corpus_labels=np.array(labels, dtype=np.int64),
        class_names=("negative", "positive"),
    )


_Review = tuple[str, int, str]  # id, label, text


def _texts(root: Path, part: str) -> list[_Review]:
    files = [(path, label) for label, name in enumerate(SENTIMENTS) for path in _named(root / part / name, "*.txt")]
    return [(path.relative_to(root).as_posix(), label, _plain(path.read_text("utf-8"))) for path, label in files]


def _parquet(root: Path, part: str) -> list[_Review]:
    rows: list[dict] = []
    for file in _named(root / "plain_text", f"{part}-*.parquet"):
        try:
            rows += pq.read_table(file, columns=["text", "label"]).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise CrossgapError(f"{file} can't be read as reviews with text and label: {error}") from error
    return [(f"{part}/{k:05d}", int(row["label"]), _plain(row["text"])) for k, row in enumerate(rows)]


def _named(folder: Path, pattern: str) -> Iterable[Path]:
    return sorted(folder.glob(pattern), key=lambda path: natural(path.name))


def _plain(review: str) -> str:
    return review.replace("<br />", " ").strip()
