"""Texts in a folder for each class, and a sentence on each class (see table.toml) that asks for its texts.

20 Newsgroups (Lang 1995) is the tree 20news-bydate-test/GROUP/NUMBER, which ``crossgap fetch`` writes, since
scikit-learn keeps its copy as a pickle. IMDB's reviews of films (Maas et al. 2011) are {test,train}/{pos,neg}/*.txt, or
the Parquet files of the hub.
"""

import warnings
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.files import files_in, of_good, read_text, subfolders
from crossgap_lib.datasets.named.collection import TextCollection, parquet_rows
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

_Text = tuple[str, str, str]  # id, class, text


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> TextCollection:
    """The queries of the classes that there are, against the texts of a split, or of both ("all").

    A warning names the folders that are no classes.

    Raises:
        CrossgapError: no such tree, or texts of fewer than two classes.
    """
    root, split = root_and_split(row, rest, split)
    parts = ("train", "test") if split == "all" else (split,)
    texts = [each for part in parts for each in (_in_folders(row, root, part) or _in_parquet(row, root, part))]
    classes = [name for name in row.queries if name in {kind for _, kind, _ in texts}]
    if len(classes) < 2:
        raise CrossgapError(f"No {split} texts of two classes in {root} ({placement(row.name)}).")
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
    """Ids are paths from ``root``, or, of sets whose splits are not read together, from the folder of the split."""
    base = root / row.texts.format(part)
    start = root if "all" in row.splits else base
    folders = {folder.name: folder for folder in subfolders(base)}
    if strange := sorted(folders.keys() - row.queries.keys()):
        warnings.warn(f"{base} holds folders that are no classes and not used: {', '.join(strange)}", stacklevel=4)
    files = [path for name in folders if name in row.queries for path in files_in(folders[name], deep=False)[1]]

    def text(file: Path) -> _Text:
        return file.relative_to(start).as_posix(), file.parent.name, read_text(file, row.encoding)

    return of_good(text, files)


def _in_parquet(row: NamedSet, root: Path, part: str) -> list[_Text]:
    files = sorted((root / "plain_text").glob(f"{part}-*.parquet"))
    rows = [(file, each) for file in files for each in parquet_rows(file, ["label", "text"])]
    classes = list(row.queries)

    def review(numbered: tuple[int, tuple[Path, dict]]) -> _Text:
        number, (file, each) = numbered
        label, text = each["label"], each["text"]
        if label not in range(len(classes)) or not isinstance(text, str):
            told = f"a review needs a label of 0 or 1 and a text, but is {str((label, text))[:80]}"
            raise CrossgapError(f"{file}: {told}")
        return f"{part}/{number:05d}", classes[label], text

    return of_good(review, enumerate(rows))
