"""``TextCollection``: the texts of a retrieval task, and the rows that hold them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from crossgap_lib.datasets.files import of_good, read_json_lines, read_table
from crossgap_lib.errors import CrossgapError, one_sentence

_IDS, _TEXTS = ("_id", "id"), ("text", "summary")  # under which a row has its id and its text


@dataclass(frozen=True, eq=False)
class TextCollection:
    """q texts to ask with (queries) and c texts to find (the corpus), and which are relevant to which.

    A text that is longer than a model's context is cut by its tokenizer.

    Raises:
        CrossgapError: there are no queries or no corpus, ids repeat, or nothing says what is relevant.
    """

    name: str
    queries: tuple[str, ...]  # (q,)
    query_ids: tuple[str, ...]  # (q,)
    corpus: tuple[str, ...]  # (c,)
    corpus_ids: tuple[str, ...]  # (c,) equal to a query's id if it is the query itself
    protocol: str  # in words
    query_labels: np.ndarray | None = None  # (q,) int64; a text is relevant to a query of equal label
    corpus_labels: np.ndarray | None = None  # (c,) int64
    relevant: np.ndarray | None = None  # (q, c) bool, in the place of labels

    def __post_init__(self) -> None:
        q, c = len(self.queries), len(self.corpus)
        if not q or not c:
            raise CrossgapError(f"{self.name} holds {q} queries and {c} texts to find")
        for ids, n in ((self.query_ids, q), (self.corpus_ids, c)):
            if len(set(ids)) != n:
                raise CrossgapError(f"{self.name}: {n} texts have {len(set(ids))} different ids")
        if self.relevant is None and (self.query_labels is None or self.corpus_labels is None):
            raise CrossgapError(f"{self.name}: neither labels nor judgements say what is relevant")
        if self.relevant is not None and self.relevant.shape != (q, c):
            raise CrossgapError(f"{self.name}: judgements {self.relevant.shape} for {q} queries and {c} texts")

    def options(self) -> dict[str, Any]:
        """What ``metrics.retrieval`` takes for the encoded queries and corpus, all rows in order."""
        own = set(self.query_ids) & set(self.corpus_ids)
        judged = {} if self.relevant is None else {"relevant": self.relevant}
        return {"self_match": "remove" if own else "keep", **judged}


def _parquet(file: Path) -> list[dict]:
    with one_sentence(f"{file} can't be read as Parquet"):
        return pq.read_table(file).to_pylist()


ROWS_OF: dict[str, Callable[[Path], Iterable[dict]]] = {  # by the ending of the file; raise CrossgapError
    ".parquet": _parquet,
    ".jsonl": lambda file: read_json_lines(file).values(),
    ".tsv": lambda file: read_table(file, "\t").values(),
}


def id_and_text(file: Path, rows: Iterable[dict]) -> dict[str, str]:
    """{id: text} of rows that have an _id or id, a text or summary and perhaps a title, which goes before the text.

    A row that lacks one of them, or whose id repeats, is a bad row.
    """
    found: dict[str, str] = {}

    def add(row: dict) -> None:
        name = next((row[key] for key in _IDS if key in row), None)
        text = next((row[key] for key in _TEXTS if key in row), None)
        if name is None or not isinstance(text, str):
            raise CrossgapError(f"{file}: a row needs _id (or id) and text, but is {str(row)[:80]}")
        if str(name) in found:
            raise CrossgapError(f"{file}: id {str(name)!r} repeats")
        found[str(name)] = f"{row.get('title') or ''} {text}".strip()

    of_good(add, rows)
    return found
