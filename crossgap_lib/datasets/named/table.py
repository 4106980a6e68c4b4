"""The table of named data sets: what is known of each before any of its files is read."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CTG, RE = "cross-the-gap", "reevaluating"  # the two papers, as published.csv calls them
PLAIN_TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class NamedSet:
    """A data set of the papers, which ``load_dataset(f"{name}:PATH")`` or ``load_texts`` reads: a row of table.toml."""

    name: str  # what a spec starts with
    what: str  # in words
    family: str  # sets of one family are read by the same function
    tables: tuple[tuple[str, str], ...]  # (source, table) of published.csv that it serves
    published: tuple[str, ...]  # its names in published.csv
    protocol: str  # queries, gallery and split, in words
    tree: str  # the files that are expected in PATH
    markers: tuple[str, ...]  # files or folders; the folder that holds one of them is the set's
    by_hand: str = ""  # what a person must place there, and where it comes from
    folders: tuple[str, ...] = ()  # subfolders of PATH in which CoOp or a download puts the set
    pictures: str = ""  # the folder of the pictures, with {} for the split; names in the split file are relative to it
    template: str = PLAIN_TEMPLATE  # the prompt, CoOp's, with {} for the class name
    splits: tuple[str, ...] = ()  # those that can be asked for, the default first
    attributes: tuple[str, ...] = ()  # that may label its pictures, the default first
    torchvision: str = ""  # the class of torchvision.datasets that downloads it
    hub: str = ""  # the data set repository that huggingface_hub downloads
    texts_only: bool = False  # it holds no pictures
    texts: str = ""  # the folder of the texts of a split, {}, in which each class has a folder
    encoding: str = "utf-8-sig"  # of these texts
    queries: dict[str, str] = field(default_factory=dict)  # class -> the sentence that asks for its texts

    @property
    def fetched_by(self) -> str:
        """The library with which ``crossgap fetch`` downloads it; "" if all of it is placed by hand."""
        sklearn = "scikit-learn" if self.family == "newsgroups" else ""
        return "torchvision" if self.torchvision else "huggingface_hub" if self.hub else sklearn


def _row(name: str, facts: dict[str, Any]) -> NamedSet:
    tuples = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    tables = tuple((source, table) for source, tables in facts["tables"].items() for table in tables)
    return NamedSet(name, **facts | tuples | {"tables": tables})


_TABLE = tomllib.loads(Path(__file__).with_name("table.toml").read_text(encoding="utf-8"))
SETS: dict[str, NamedSet] = {
    name: _row(name, _TABLE["families"].get(facts["family"], {}) | facts) for name, facts in _TABLE["sets"].items()
}
