"""Texts to ask with and texts to find, and the lines of JSON that hold them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.datasets.named.places import read_lines
from crossgap_lib.errors import CrossgapError

_IDS, _TEXTS = ("_id", "id"), ("text", "summary")  # keys of a line of JSON


@dataclass(frozen=True, eq=False)
class TextCollection:
    """Texts to ask with and texts to find; a text longer than a model's context is cut by its tokenizer.

    Raises:
        CrossgapError: nothing to ask or find, repeated ids, or judgements of another shape.
    """

    name: str
    queries: tuple[str, ...]  # (q,)
    query_ids: tuple[str, ...]  # (q,)
    corpus: tuple[str, ...]  # (c,)
    corpus_ids: tuple[str, ...]  # (c,) equal to a query's where it is the query itself
    protocol: str  # in words
    query_labels: np.ndarray | None = None  # (q,) int64: relevant is what has an equal label
    corpus_labels: np.ndarray | None = None  # (c,) int64
    relevant: np.ndarray | None = None  # bool (q, c), where labels do not say it
    class_names: tuple[str, ...] = ()

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


def json_lines(file: Path) -> list[dict]:
    """The objects of a JSON lines file. Raises CrossgapError where it can't be read."""
    try:
        rows = [json.loads(line) for line in read_lines(file)]
    except (json.JSONDecodeError, RecursionError) as error:
        raise CrossgapError(f"{file} can't be read as JSON lines: {error}") from error
    if not all(isinstance(row, dict) for row in rows):
        raise CrossgapError(f"{file} must hold one JSON object a line")
    return rows


def id_and_text(file: Path, rows: Iterable[dict]) -> dict[str, str]:
    """{id: text} of rows with _id or id, text or summary and perhaps a title, which goes before the text.

    Raises:
        CrossgapError: a row lacks one of them, or an id repeats.
    """
    found: dict[str, str] = {}
    for row in rows:
        name = next((row[key] for key in _IDS if key in row), None)
        text = next((row[key] for key in _TEXTS if key in row), None)
        if name is None or not isinstance(text, str):
            raise CrossgapError(f"{file}: a row needs _id (or id) and text, but is {str(row)[:80]}")
        if str(name) in found:
            raise CrossgapError(f"{file}: id {str(name)!r} repeats")
        found[str(name)] = f"{row.get('title') or ''} {text}".strip()
    return found
