"""The table of named data sets: what each is, how to get it, where it lies below a PATH, and the list of all."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crossgap_lib.datasets.files import absolute
from crossgap_lib.errors import CrossgapError, did_you_mean

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

    @property
    def placement(self) -> str:
        """How to get it, in one sentence: what ``crossgap fetch`` downloads, what to place by hand, and where."""
        by_command = f"`crossgap fetch {self.name}:PATH` downloads "
        if self.fetched_by and self.by_hand:
            how = f"{by_command}the pictures and {self.by_hand} must be placed by hand"
        else:
            how = f"{by_command}it" if self.fetched_by else f"{self.by_hand} must be placed by hand"
        return f"{self.name}: {how}; expected is {self.tree}"

    def missing(self, what: str) -> CrossgapError:
        """The error for a part of the set that is not there; it says how to get the set."""
        return CrossgapError(f"No {what} ({self.placement}).")

    def root(self, rest: str | Path) -> Path:
        """The set's folder, ``rest`` or one of ``folders`` in it. Raises CrossgapError if it is not there."""
        path = absolute(rest)
        root = self._found(path)
        if root is None:
            raise self.missing(f"{' or '.join(self.markers)} in {path}")
        return root

    def root_and_split(self, rest: str, split: str | None = None) -> tuple[Path, str]:
        """(the set's folder, split) of "PATH" or "PATH/train"; the first split of the table by default.

        Raises:
            CrossgapError: the set is not there, or it has no such split.
        """
        path = absolute(rest)
        if self._found(path) is None and self._found(path.parent) is not None:
            if split not in (None, path.name):
                told = f"{self.name}:{rest} names a split of its own"
                raise CrossgapError(f"{told}, so split {split!r} can't be picked")
            path, split = path.parent, path.name
        split = self.splits[0] if split is None else split
        if split not in self.splits:
            known = f"{', '.join(self.splits)}.{did_you_mean(split, self.splits)}"
            raise CrossgapError(f"{self.name} has no split {split!r}; there are {known}")
        return self.root(path), split

    def _found(self, path: Path) -> Path | None:
        below = [path, *(path / name for name in self.folders)]
        return next((folder for folder in below if any((folder / m).exists() for m in self.markers)), None)


def _row(name: str, facts: dict[str, Any]) -> NamedSet:
    tuples = {key: tuple(value) for key, value in facts.items() if isinstance(value, list)}
    tables = tuple((source, table) for source, tables in facts["tables"].items() for table in tables)
    return NamedSet(name, **facts | tuples | {"tables": tables})


_TABLE = tomllib.loads(Path(__file__).with_name("table.toml").read_text(encoding="utf-8"))
SETS: dict[str, NamedSet] = {
    name: _row(name, _TABLE["families"].get(facts["family"], {}) | facts) for name, facts in _TABLE["sets"].items()
}
_OWN = {  # the specs of ``load_dataset`` for other pictures than the papers'
    "world:all": "the drawn world, nothing to download; also world:dogs-vs-cats",
    "dogs-vs-cats:PATH": "PetImages/{Cat,Dog}/*.jpg or train/{cat,dog}.*.jpg",
    "folder:PATH": "CLASS/*.jpg, a folder a class",
    "captions:FILE": "COCO or Karpathy JSON, Flickr8k tokens, a table (CSV, TSV, JSON) of pictures and captions",
    "wds:PATH/{00..09}.tar": "WebDataset tars, read in place",
}
_WIDTH = max(map(len, _OWN))


def unknown(spec: str, known: Iterable[str]) -> CrossgapError:
    """The error for a spec, or a name, that starts with none of the known names; it suggests the closest of them."""
    known, name = list(known), spec.partition(":")[0]
    starts = ", ".join(f"{each}:" for each in known)
    return CrossgapError(f"Unknown dataset {spec!r}; it starts with one of {starts}.{did_you_mean(name, known)}")


def prompt_template(spec: str) -> str:
    """The prompt of a named data set (CoOp's) with {} for the class name; "a photo of a {}" for all other specs."""
    row = SETS.get(spec.partition(":")[0])
    return row.template if row else PLAIN_TEMPLATE


def listing() -> str:
    """What ``crossgap datasets`` prints: each set with the tables that it serves, its split, and how to get it."""
    own = [f"{spec:<{_WIDTH}} {what}" for spec, what in _OWN.items()]
    return "\n".join([*map(_entry, SETS.values()), "", "Anything else:", *own])


def _entry(row: NamedSet) -> str:
    papers = {"cross-the-gap": "Cross the Gap", "reevaluating": "Reevaluating"}  # as published.csv calls them
    served = {paper: ", ".join(t for source, t in row.tables if source == key) for key, paper in papers.items()}
    facts = {
        "tables": "; ".join(f"{paper} {names}" for paper, names in served.items() if names),
        "split": row.protocol,
        "here": "; ".join(filter(None, [row.fetched_by, row.by_hand and f"by hand: {row.by_hand}"])),
        "files": row.tree,
    }
    lines = [f"{'':<{_WIDTH}}   {key + ':':<8}{fact}" for key, fact in facts.items()]
    return "\n".join([f"{row.name:<{_WIDTH}} {row.what}", *lines])
