"""What is known of a named data set before any of its files is read."""

from dataclasses import dataclass

CTG, RE = "cross-the-gap", "reevaluating"  # sources of published.csv
PLAIN_TEMPLATE = "a photo of a {}"


@dataclass(frozen=True)
class NamedSet:
    """A data set that both papers or one of them use, as ``load_dataset(f"{name}:PATH")`` finds it."""

    name: str  # what a spec starts with
    what: str  # in words
    family: str  # the module of this package that reads it
    tables: tuple[tuple[str, str], ...]  # (source, table) of published.csv that it serves
    published: tuple[str, ...]  # its names there
    protocol: str  # queries, gallery and split, in words
    tree: str  # what is expected in PATH
    markers: tuple[str, ...]  # one of these tells its folder
    by_hand: str = ""  # what a person must place there, and where it comes from
    folders: tuple[str, ...] = ()  # sub-folders of PATH in which CoOp or a download puts it
    pictures: str = ""  # folder of the pictures, which the names in the split file start from
    template: str = PLAIN_TEMPLATE  # its prompt (CoOp's)
    splits: tuple[str, ...] = ()  # those that can be asked for, the default first
    torchvision: str = ""  # class of torchvision.datasets that downloads it
    hub: str = ""  # dataset repository that huggingface_hub downloads
    texts_only: bool = False

    @property
    def fetched_by(self) -> str:
        """What ``crossgap fetch`` downloads it with, or "" where all of it is placed by hand."""
        sklearn = "scikit-learn" if self.family == "newsgroups" else ""
        return "torchvision" if self.torchvision else "huggingface_hub" if self.hub else sklearn
