"""``load_texts(spec)`` -> TextCollection: queries, corpus and what is relevant (Cross the Gap, Table 2 and A5)."""

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.benchmarks.benchmark import Benchmark
from crossgap_lib.benchmarks.captions import caption_rows
from crossgap_lib.benchmarks.lookup import unknown
from crossgap_lib.benchmarks.places import read_lines
from crossgap_lib.benchmarks.table import SETS
from crossgap_lib.errors import CrossgapError
from crossgap_lib.picture_files import absolute

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


def load_texts(
    spec: str, *, summaries: str | Path | None = None, queries: str | Path | None = None, **options: Any
) -> TextCollection:
    """The text-text retrieval task of a named set: NanoBEIR's, 20newsgroups, imdb, or captions (coco, flickr30k,
    nocaps), where the first caption of each picture asks for its others.

    Args:
        summaries: JSON lines {"id": ..., "text": ...} that replace texts of the corpus, as the paper has long ones
            summarised by a language model (App. G). Texts without one stay, with a warning.
        queries: JSON lines that replace the queries of the same ids, such as a class's description.
        options: ``split``, where the set has several.

    Raises:
        CrossgapError: unknown set, missing files (``lookup.placement``), or files of another form.
    """
    prefix, colon, rest = spec.partition(":")
    row = SETS.get(prefix)
    if row is None or not (row.texts_only or row.family == "captions") or not colon or not rest:
        raise unknown(spec, [name for name, row in SETS.items() if row.texts_only or row.family == "captions"])
    if row.family == "captions":
        made = _first_captions(row, spec, rest, **options)
    else:
        made = import_module(f"crossgap_lib.benchmarks.{row.family}").read(row, spec, rest, **options)
    if queries is not None:
        made = replace(made, queries=_replaced(queries, made.query_ids, made.queries))
    if summaries is not None:
        made = replace(made, corpus=_replaced(summaries, made.corpus_ids, made.corpus))
    return made


def _first_captions(row: Benchmark, spec: str, rest: str, split: str | None = None) -> TextCollection:
    _, rows = caption_rows(row, rest, split)
    count = [len(each.captions) for each in rows]
    return TextCollection(
        spec,
        queries=tuple(each.captions[0] for each in rows),
        query_ids=tuple(f"{each.name}#0" for each in rows),
        corpus=tuple(caption for each in rows for caption in each.captions),
        corpus_ids=tuple(f"{each.name}#{k}" for each in rows for k in range(len(each.captions))),
        protocol=f"{row.protocol}; the query itself is removed",
        query_labels=np.arange(len(rows)),
        corpus_labels=np.repeat(np.arange(len(rows)), count),
    )


def _replaced(path: str | Path, ids: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    file = absolute(path)
    given = id_and_text(file, json_lines(file))
    strange = given.keys() - set(ids)
    if strange:
        raise CrossgapError(f"{file}: {len(strange)} ids, such as {min(strange)!r}, are not in this collection")
    if missing := len(ids) - len(given):
        warnings.warn(f"{file} replaces {len(given)} of {len(ids)} texts; {missing} stay as they are", stacklevel=3)
    return tuple(given.get(name, text) for name, text in zip(ids, texts, strict=True))


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
