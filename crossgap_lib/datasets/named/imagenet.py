"""ImageNet as CoOp lays it out: classnames.txt ("n01440764 tench") and images/{train,val} with a folder a class."""

from pathlib import Path

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.files import bad_row, files_in, pictures_in, read_fields, subfolders
from crossgap_lib.datasets.folders import labelled, no_pictures
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError

_FOLDER = {"train": "train", "val": "val", "test": "val"}  # as CoOp does, the validation pictures are the test


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None) -> Dataset:
    """One split; labels number the classes in the order of their folder names, class names are CLIP's.

    Raises:
        CrossgapError: classnames.txt or the pictures are missing, or a folder is not in classnames.txt.
    """
    root, split = root_and_split(row, rest, split)
    name_of = dict(read_fields(root / "classnames.txt", 2))
    base = _part(row, root, _FOLDER[split])
    groups = {folder.name: files_in(folder) for folder in subfolders(base)}
    for name in sorted(groups.keys() - name_of.keys()):
        bad_row(f"{base}: folder {name!r} is not in classnames.txt", len(groups.pop(name)[0]))
    loose = len(pictures_in(base, deep=False))
    unsorted = f"{loose} pictures lie in no class folder; ImageNet's val is sorted into them by valprep.sh"
    if not any(pictures for pictures, _ in groups.values()):
        reason = unsorted if loose else placement(row.name)
        raise CrossgapError(f"No pictures in the class folders of {base} ({reason}).")
    order = sorted(name_of)
    names = tuple(name_of[folder] for folder in order)
    notes = ([unsorted] if loose else []) + no_pictures(groups.values())
    return labelled(spec, base.parent, names, [groups.get(folder, ([],))[0] for folder in order], notes)


def _part(row: NamedSet, root: Path, name: str) -> Path:
    found = next((base for base in (root / "images" / name, root / name) if base.is_dir()), None)
    if found is None:
        raise CrossgapError(f"No folder images/{name} in {root} ({placement(row.name)}).")
    return found
