"""IMDB's film reviews (Maas et al. 2011): aclImdb/{test,train}/{pos,neg}/*.txt, or the Parquet files of the hub."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.files import natural, read_text
from crossgap_lib.datasets.named.collection import TextCollection, parquet_rows
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

SENTIMENTS = ("neg", "pos")  # labels 0 and 1, as in the hub's files
_QUERIES = ("a negative review of a film", "a positive review of a film")


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> TextCollection:
    """A sentence on each sentiment as queries, against the reviews of a split, or of both ("all").

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
    )


_Review = tuple[str, int, str]  # id, label, text


def _texts(root: Path, part: str) -> list[_Review]:
    files = [(path, label) for label, name in enumerate(SENTIMENTS) for path in _named(root / part / name, "*.txt")]
    return [(path.relative_to(root).as_posix(), label, _plain(read_text(path))) for path, label in files]


def _parquet(root: Path, part: str) -> list[_Review]:
    files = _named(root / "plain_text", f"{part}-*.parquet")
    rows = [(file, row["label"], row["text"]) for file in files for row in parquet_rows(file, ["label", "text"])]
    wrong = next((row for row in rows if row[1] not in (0, 1) or not isinstance(row[2], str)), None)
    if wrong:
        raise CrossgapError(f"{wrong[0]}: a review needs a label of 0 or 1 and a text, but is {str(wrong[1:])[:80]}")
    return [(f"{part}/{k:05d}", label, _plain(text)) for k, (_, label, text) in enumerate(rows)]


def _named(folder: Path, pattern: str) -> Iterable[Path]:
    return sorted(folder.glob(pattern), key=lambda path: natural(path.name))


def _plain(review: str) -> str:
    return review.replace("<br />", " ").strip()
