"""``load_texts(spec)`` -> TextCollection: queries, corpus and what is relevant (Cross the Gap, Tables 2 and A5).

BEIR's form, which NanoBEIR has, is a corpus, queries and judgements (qrels), in Parquet, JSON lines or TSV. Of texts
with classes, a sentence on each class (see table.toml) asks for its texts: 20 Newsgroups (Lang 1995) is the tree
20news-bydate-test/GROUP/NUMBER, which ``crossgap fetch`` writes, and IMDB's reviews of films (Maas et al. 2011) are
{test,train}/{pos,neg}/*.txt, or the Parquet files of the hub.
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from crossgap_lib.datasets.caption_files import named_rows
from crossgap_lib.datasets.files import (
    absolute,
    files_in,
    of_good,
    read_json_lines,
    read_table,
    read_text,
    skipping,
    subfolders,
)
from crossgap_lib.datasets.named.table import SETS, NamedSet, unknown
from crossgap_lib.errors import CrossgapError, one_sentence


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


def load_texts(
    spec: str,
    *,
    summaries: str | Path | None = None,
    queries: str | Path | None = None,
    skip_bad: bool | None = None,
    **options: Any,
) -> TextCollection:
    """The text-text retrieval task of a named set: one of NanoBEIR's, 20newsgroups, imdb, or coco, flickr30k, nocaps.

    Of sets of captions, the first caption of each picture asks for the others.

    Args:
        summaries: a file of JSON lines {"id": ..., "text": ...} that replace texts of the corpus; the paper has a
            language model summarise the long ones (App. G). A warning says how many texts stay as they are.
        queries: a file of such lines that replace queries, for instance by descriptions of the classes.
        skip_bad: leave out bad rows, with a warning, as ``load_dataset`` does.
        options: ``split``, of sets that have several.

    Raises:
        CrossgapError: the set is unknown, its files are missing, in which case the message says how to get them, or
            they have another form.
    """
    prefix, colon, rest = spec.partition(":")
    row = SETS.get(prefix)
    if row is None or row.family not in _FAMILIES or not colon or not rest:
        raise unknown(spec, [name for name, row in SETS.items() if row.family in _FAMILIES])
    with skipping(spec, skip_bad):
        made = _FAMILIES[row.family](row, spec, rest, **options)
        if queries is not None:
            made = replace(made, queries=_replaced(queries, made.query_ids, made.queries))
        if summaries is not None:
            made = replace(made, corpus=_replaced(summaries, made.corpus_ids, made.corpus))
    return made


def _replaced(path: str | Path, ids: Sequence[str], texts: Sequence[str]) -> tuple[str, ...]:
    file = absolute(path)
    given = _id_and_text(file, read_json_lines(file).values())
    strange = given.keys() - set(ids)
    if strange:
        raise CrossgapError(f"{file}: {len(strange)} ids, such as {min(strange)!r}, are not in this collection")
    if missing := len(ids) - len(given):
        warnings.warn(f"{file} replaces {len(given)} of {len(ids)} texts; {missing} stay as they are", stacklevel=3)
    return tuple(given.get(name, text) for name, text in zip(ids, texts, strict=True))


def _first_captions(row: NamedSet, spec: str, rest: str, split: str | None = None) -> TextCollection:
    _, rows = named_rows(row, rest, split)
    return TextCollection(
        spec,
        queries=tuple(each.captions[0] for each in rows),
        query_ids=tuple(f"{each.name}#0" for each in rows),
        corpus=tuple(caption for each in rows for caption in each.captions),
        corpus_ids=tuple(f"{each.name}#{k}" for each in rows for k in range(len(each.captions))),
        protocol=f"{row.protocol}; the query itself is removed",
        query_labels=np.arange(len(rows)),
        corpus_labels=np.repeat(np.arange(len(rows)), [len(each.captions) for each in rows]),
    )


# ---------------------------------------------------------------- BEIR


def _parquet(file: Path) -> list[dict]:
    with one_sentence(f"{file} can't be read as Parquet"):
        return pq.read_table(file).to_pylist()


_ROWS_OF: dict[str, Callable[[Path], Iterable[dict]]] = {  # by the ending of the file; raise CrossgapError
    ".parquet": _parquet,
    ".jsonl": lambda file: read_json_lines(file).values(),
    ".tsv": lambda file: read_table(file, "\t").values(),
}


def _id_and_text(file: Path, rows: Iterable[dict]) -> dict[str, str]:
    """{id: text} of rows that have an _id or id, a text or summary and perhaps a title, which goes before the text.

    A row that lacks one of them, or whose id repeats, is a bad row.
    """
    found: dict[str, str] = {}

    def add(row: dict) -> None:
        name, text = row.get("_id", row.get("id")), row.get("text", row.get("summary"))
        if name is None or not isinstance(text, str):
            raise CrossgapError(f"{file}: a row needs _id (or id) and text, but is {str(row)[:80]}")
        if str(name) in found:
            raise CrossgapError(f"{file}: id {str(name)!r} repeats")
        found[str(name)] = f"{row.get('title') or ''} {text}".strip()

    of_good(add, rows)
    return found


def _beir(row: NamedSet, spec: str, rest: str) -> TextCollection:
    """The queries to which some text is relevant, against the whole corpus."""
    root = row.root(rest)
    corpus, queries = (_id_and_text(root / part, _part(row, root, part)) for part in ("corpus", "queries"))
    judged = of_good(partial(_judgement, root / "qrels", queries, corpus), _part(row, root, "qrels"))
    pairs = [(query, text) for query, text, score in judged if score > 0]
    asked = tuple(name for name in queries if name in {query for query, _ in pairs})
    line, column = ({name: k for k, name in enumerate(names)} for names in (asked, corpus))
    relevant = np.zeros((len(asked), len(corpus)), dtype=bool)
    for query, text in pairs:
        relevant[line[query], column[text]] = True
    texts = tuple(queries[name] for name in asked)
    return TextCollection(spec, texts, asked, tuple(corpus.values()), tuple(corpus), row.protocol, relevant=relevant)


def _part(row: NamedSet, root: Path, part: str) -> list[dict]:
    """The rows of "corpus", "queries" or "qrels": a folder of Parquet, JSON lines or TSV files, or PART.jsonl."""
    inside = sorted(path for path in (root / part).glob("*") if path.suffix in _ROWS_OF)
    files = inside or [path for path in (root / f"{part}.jsonl",) if path.is_file()]
    if not files:
        raise row.missing(f"{part} in {root}")
    return [entry for file in files for entry in _ROWS_OF[file.suffix](file)]


def _judgement(file: Path, queries: dict, corpus: dict, judged: dict) -> tuple[str, str, float]:
    """(query, text, score) of a row of the qrels; where it has no score, the text is relevant."""
    query, text, score = judged.get("query-id"), judged.get("corpus-id"), judged.get("score", 1)
    if query is None or text is None:
        raise CrossgapError(f"{file}: a judgement needs query-id and corpus-id, but is {str(judged)[:80]}")
    if str(query) not in queries or str(text) not in corpus:
        raise CrossgapError(f"{file}: the pair {(query, text)} is not among queries and corpus")
    try:
        return str(query), str(text), float(score)
    except (TypeError, ValueError, OverflowError) as error:
        raise CrossgapError(f"{file}: the score {str(score)[:40]!r} is no number") from error


# ---------------------------------------------------------------- texts with classes

_Text = tuple[str, str, str]  # id, class, text


def _of_classes(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> TextCollection:
    """The queries of the classes that there are, against the texts of a split, or of both ("all")."""
    root, split = row.root_and_split(rest, split)
    parts = ("train", "test") if split == "all" else (split,)
    texts = [each for part in parts for each in (_in_folders(row, root, part) or _in_parquet(row, root, part))]
    classes = [name for name in row.queries if name in {kind for _, kind, _ in texts}]
    if len(classes) < 2:
        raise row.missing(f"{split} texts of two classes in {root}")
    texts.sort(key=lambda each: classes.index(each[1]))  # stable, so that each class keeps its order
    return TextCollection(
        spec,
        queries=tuple(row.queries[name] for name in classes),
        query_ids=tuple(classes),
        corpus=tuple(text.replace("<br />", " ").strip() for *_, text in texts),
        corpus_ids=tuple(name for name, *_ in texts),
        protocol=row.protocol,
        query_labels=np.arange(len(classes)),
        corpus_labels=np.array([classes.index(kind) for _, kind, _ in texts], dtype=np.int64),
    )


def _in_folders(row: NamedSet, root: Path, part: str) -> list[_Text]:
    """Texts of a folder for each class; a warning names the folders that are no classes.

    Ids are paths from ``root``, or, of sets whose splits are not read together, from the folder of the split.
    """
    base = root / row.texts.format(part)
    start = root if "all" in row.splits else base
    folders = {folder.name: folder for folder in subfolders(base)}
    if strange := sorted(folders.keys() - row.queries.keys()):
        warnings.warn(f"{base} holds folders that are no classes and not used: {', '.join(strange)}", stacklevel=5)
    files = [path for name in folders if name in row.queries for path in files_in(folders[name], deep=False)[1]]

    def text(file: Path) -> _Text:
        return file.relative_to(start).as_posix(), file.parent.name, read_text(file, row.encoding)

    return of_good(text, files)


def _in_parquet(row: NamedSet, root: Path, part: str) -> list[_Text]:
    classes = list(row.queries)
    files = sorted((root / "plain_text").glob(f"{part}-*.parquet"))

    def review(numbered: tuple[int, tuple[Path, dict]]) -> _Text:
        number, (file, each) = numbered
        label, text = each.get("label"), each.get("text")
        if type(label) is not int or label not in range(len(classes)) or not isinstance(text, str):
            raise CrossgapError(f"{file}: a review needs a label of 0 or 1 and a text, but is {str(each)[:80]}")
        return f"{part}/{number:05d}", classes[label], text

    return of_good(review, enumerate((file, each) for file in files for each in _ROWS_OF[".parquet"](file)))


_FAMILIES: dict[str, Callable[..., TextCollection]] = {  # (row of the table, spec, what follows the colon, **options)
    "beir": _beir,
    "captions": _first_captions,
    **dict.fromkeys(("imdb", "newsgroups"), _of_classes),
}
