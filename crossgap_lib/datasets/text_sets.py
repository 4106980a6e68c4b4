"""``load_texts(spec)`` -> TextCollection: queries, corpus and what is relevant (Cross the Gap, Tables 2 and A5)."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.datasets.files import absolute, read_json_lines, skipping
from crossgap_lib.datasets.named import beir, text_folders
from crossgap_lib.datasets.named.coco import caption_rows
from crossgap_lib.datasets.named.collection import TextCollection, id_and_text
from crossgap_lib.datasets.named.lookup import unknown
from crossgap_lib.datasets.named.table import SETS, NamedSet
from crossgap_lib.errors import CrossgapError


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


def _first_captions(row: NamedSet, spec: str, rest: str, split: str | None = None) -> TextCollection:
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
    given = id_and_text(file, read_json_lines(file).values())
    strange = given.keys() - set(ids)
    if strange:
        raise CrossgapError(f"{file}: {len(strange)} ids, such as {min(strange)!r}, are not in this collection")
    if missing := len(ids) - len(given):
        warnings.warn(f"{file} replaces {len(given)} of {len(ids)} texts; {missing} stay as they are", stacklevel=3)
    return tuple(given.get(name, text) for name, text in zip(ids, texts, strict=True))


_FAMILIES: dict[str, Callable[..., TextCollection]] = {  # (row of the table, spec, what follows the colon, **options)
    "beir": beir.read,
    "captions": _first_captions,
    **dict.fromkeys(("imdb", "newsgroups"), text_folders.read),
}
