"""ImageNet as CoOp lays it out: classnames.txt ("n01440764 tench") beside images/{train,val}, a folder a class."""

from pathlib import Path

import numpy as np

from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import read_fields, root_and_split
from crossgap_lib.datasets.picture_files import pictures_in, subfolders
from crossgap_lib.errors import CrossgapError

_FOLDER = {"train": "train", "val": "val", "test": "val"}  # as CoOp: tested on the validation pictures


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> Dataset:
    """One split; labels number the classes in the order of their folder names, class names are CLIP's.

    Raises:
        CrossgapError: classnames.txt or the pictures are missing, or a folder is not in classnames.txt.
    """
    root, split = root_and_split(row, rest, split)
    name_of = dict(read_fields(root / "classnames.txt", 2))
    order = {folder: label for label, folder in enumerate(sorted(name_of))}
    base = _part(row, root, _FOLDER[split])
    groups = {folder.name: pictures_in(folder) for folder in subfolders(base)}
    strange = next((name for name in groups if name not in order), None)
    if strange:
        raise CrossgapError(f"{base}: folder {strange!r} is not in classnames.txt")
    paths = [path for group in groups.values() for path in group]
    if not paths:
        raise CrossgapError(f"No pictures in the class folders of {base} ({placement(row.name)}).")
    labels = np.repeat([order[name] for name in groups], [len(group) for group in groups.values()]).astype(np.int64)
    ids = [path.relative_to(base.parent).as_posix() for path in paths]
    return from_files(spec, ids, paths, labels=labels, class_names=tuple(name_of[f] for f in order))


def _part(row: NamedSet, root: Path, name: str) -> Path:
    found = next((base for base in (root / "images" / name, root / name) if base.is_dir()), None)
    if found is None:
        raise CrossgapError(f"No folder images/{name} in {root} ({placement(row.name)}).")
    return found
