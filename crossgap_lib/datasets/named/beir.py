"""BEIR's form of a retrieval task, as NanoBEIR has it: corpus, queries and qrels, in Parquet or JSON lines."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.files import absolute, of_good, read_json_lines, read_table
from crossgap_lib.datasets.named.collection import TextCollection, id_and_text, parquet_rows
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.places import root_of
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

_PAIR = ("query-id", "corpus-id")


def read(row: NamedSet, spec: str, rest: str) -> TextCollection:
    """The queries to which some text is relevant, against the whole corpus.

    A judgement of the qrels without a score, or with one above 0, says that a text is relevant to a query.

    Raises:
        CrossgapError: a part is missing or has another form, or the qrels name texts that are not there.
    """
    root = root_of(row, absolute(rest))
    corpus, queries = (id_and_text(root / part, _rows(row, root, part)) for part in ("corpus", "queries"))
    column = {name: k for k, name in enumerate(corpus)}

    def judgement(judged: dict) -> tuple[str, str, bool]:
        pair = _pair(root / "qrels", judged)
        if pair[0] not in queries or pair[1] not in column:
            raise CrossgapError(f"{root / 'qrels'}: the pair {pair} is not among queries and corpus")
        return *pair, _score(judged) > 0

    pairs = [(query, text) for query, text, good in of_good(judgement, _rows(row, root, "qrels")) if good]
    with_positive = {query for query, _ in pairs}
    asked = [name for name in queries if name in with_positive]
    line = {name: k for k, name in enumerate(asked)}
    relevant = np.zeros((len(asked), len(corpus)), dtype=bool)
    for query, text in pairs:
        relevant[line[query], column[text]] = True
    texts = tuple(queries[name] for name in asked)
    return TextCollection(
        spec, texts, tuple(asked), tuple(corpus.values()), tuple(corpus), row.protocol, relevant=relevant
    )


def _rows(row: NamedSet, root: Path, part: str) -> list[dict]:
    """The rows of "corpus", "queries" or "qrels": a folder of Parquet, JSON lines or TSV files, or PART.jsonl."""
    inside = sorted(path for path in (root / part).glob("*") if path.suffix in _READ)
    files = inside or [path for path in (root / f"{part}.jsonl",) if path.is_file()]
    if not files:
        raise CrossgapError(f"No {part} in {root} ({placement(row.name)}).")
    return [entry for file in files for entry in _READ[file.suffix](file)]


def _pair(file: Path, judged: dict) -> tuple[str, str]:
    if not all(judged.get(key) is not None for key in _PAIR):
        raise CrossgapError(f"{file}: a judgement needs {' and '.join(_PAIR)}, but is {str(judged)[:80]}")
    query, text = (str(judged[key]) for key in _PAIR)
    return query, text


def _score(judged: dict) -> float:
    try:
        return float(judged.get("score", 1))
    except (TypeError, ValueError) as error:
        raise CrossgapError(f"qrels: the score {judged.get('score')!r} is no number") from error


_READ: dict[str, Callable[[Path], Iterable[dict]]] = {
    ".parquet": parquet_rows,
    ".jsonl": lambda file: read_json_lines(file).values(),
    ".tsv": lambda file: read_table(file, "\t").values(),
}
