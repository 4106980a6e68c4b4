"""20 Newsgroups (Lang 1995) as the tree 20news-bydate-test/GROUP/NUMBER; a sentence on each group asks for its posts.

scikit-learn keeps its copy as a pickle, which is not read here. ``crossgap fetch`` lets scikit-learn download the posts
and writes them as this tree.
"""

from pathlib import Path

import numpy as np

from crossgap_lib.datasets.files import natural, subfolders
from crossgap_lib.datasets.named.collection import TextCollection
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

TOPICS = {
    "alt.atheism": "atheism",
    "comp.graphics": "computer graphics",
    "comp.os.ms-windows.misc": "the operating system Microsoft Windows",
    "comp.sys.ibm.pc.hardware": "the hardware of IBM PCs",
    "comp.sys.mac.hardware": "the hardware of Apple Macintosh computers",
    "comp.windows.x": "the X Window System",
    "misc.forsale": "things for sale",
    "rec.autos": "cars",
    "rec.motorcycles": "motorcycles",
    "rec.sport.baseball": "baseball",
    "rec.sport.hockey": "ice hockey",
    "sci.crypt": "cryptography",
    "sci.electronics": "electronics",
    "sci.med": "medicine and health",
    "sci.space": "space travel and astronomy",
    "soc.religion.christian": "the Christian religion",
    "talk.politics.guns": "the politics of guns",
    "talk.politics.mideast": "the politics of the Middle East",
    "talk.politics.misc": "politics",
    "talk.religion.misc": "religion",
}


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> TextCollection:
    """The query "a post about computer graphics", and so on, for each group there is, against the posts of a split.

    Raises:
        CrossgapError: no such tree, or it holds a folder that is no newsgroup.
    """
    root, split = root_and_split(row, rest, split)
    base = root / f"20news-bydate-{split}"
    files = {folder.name: _posts(folder) for folder in subfolders(base)}
    groups = [name for name in TOPICS if files.get(name)]
    strange = sorted(files.keys() - TOPICS.keys())
    if strange or not groups:
        raise CrossgapError(f"{base} holds {f'the folder {strange[0]}, which is no' if strange else 'no'} newsgroup")
    paths = [path for name in groups for path in files[name]]
    return TextCollection(
        spec,
        queries=tuple(f"a post about {TOPICS[name]}" for name in groups),
        query_ids=tuple(groups),
        corpus=tuple(path.read_text(encoding="latin-1").strip() for path in paths),
        corpus_ids=tuple(path.relative_to(base).as_posix() for path in paths),
        protocol=row.protocol,
        query_labels=np.arange(len(groups)),
        corpus_labels=np.repeat(np.arange(len(groups)), [len(files[name]) for name in groups]),
    )


def _posts(folder: Path) -> list[Path]:
    posts = (path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
    return sorted(posts, key=lambda path: natural(path.name))
