"""``crossgap fetch SET:PATH``: download a data set with torchvision, huggingface_hub or scikit-learn."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from crossgap_lib.datasets.files import absolute
from crossgap_lib.datasets.named.table import SETS, NamedSet, unknown
from crossgap_lib.errors import CrossgapError, one_sentence


def fetch_dataset(spec: str) -> str:
    """Download what can be downloaded of ``NAME:PATH`` into PATH.

    Returns:
        A sentence on what was downloaded, and one on what is left to place by hand.

    Raises:
        CrossgapError: the name is unknown, the path is missing, the set has no download, or the download fails.
    """
    name, _, rest = spec.partition(":")
    row = SETS.get(name)
    if row is None:
        raise unknown(name, SETS)
    if not rest:
        raise CrossgapError(f"Where should {name} go? crossgap fetch {name}:PATH")
    if not row.fetched_by:
        raise CrossgapError(f"There is no download of {row.placement}")
    folder = absolute(rest)
    folder.mkdir(parents=True, exist_ok=True)
    with one_sentence(f"{name} can't be downloaded"):
        _FETCHERS[row.fetched_by](row, folder)
    done = f"{name} was downloaded to {folder} by {row.fetched_by}."
    return f"{done} Left to do: {row.by_hand} by hand; expected is {row.tree}." if row.by_hand else done


def _torchvision(row: NamedSet, folder: Path) -> None:
    import torchvision.datasets

    getattr(torchvision.datasets, row.torchvision)(root=str(folder), download=True)


def _hub(row: NamedSet, folder: Path) -> None:
    import huggingface_hub

    huggingface_hub.snapshot_download(repo_id=row.hub, repo_type="dataset", local_dir=str(folder))


def _sklearn(row: NamedSet, folder: Path) -> None:
    """Writes the posts as text files.

    scikit-learn also keeps them as a pickle; it goes to a temporary folder, and nothing here reads it.
    """
    from sklearn.datasets import fetch_20newsgroups

    for split in row.splits:
        with TemporaryDirectory() as scratch:
            _write_posts(folder, fetch_20newsgroups(data_home=scratch, subset=split, shuffle=False))


def _write_posts(folder: Path, posts: Any) -> None:
    for file, text in zip(posts.filenames, posts.data, strict=True):
        part, group, number = Path(str(file)).parts[-3:]
        if not re.fullmatch(r"20news-bydate-(test|train)", part):
            raise CrossgapError(f"scikit-learn named a post {file}, not 20news-bydate-test/GROUP/NUMBER")
        path = folder / part / group / number
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="latin-1")


_FETCHERS = {"torchvision": _torchvision, "huggingface_hub": _hub, "scikit-learn": _sklearn}
