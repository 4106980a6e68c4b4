"""CUB-200-2011 and Stanford Online Products: text files that number every picture and its class."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import named_pictures, picture_folder, read_fields, root_and_split
from crossgap_lib.errors import CrossgapError


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, skip_missing: bool = False) -> Dataset:
    """The pictures of a split. CUB's classes have names (species), SOP's have none (22 634 products).

    Raises:
        CrossgapError: a file or pictures are missing, or the files do not fit each other.
    """
    root, split = root_and_split(row, rest, split)
    file, names, labels, class_names = _READERS[row.name](root, split)
    if not names:
        raise CrossgapError(f"{file}: the {split} split is empty")
    folder = picture_folder(row, root)
    return named_pictures(spec, folder, names, file, skip_missing, labels=labels, class_names=class_names)


_Listed = tuple[Path, list[str], np.ndarray, tuple[str, ...]]  # file, names, labels (n,), class names


def _cub(root: Path, split: str) -> _Listed:
    """images.txt "1 001.Black_footed_Albatross/x.jpg", image_class_labels.txt "1 1", train_test_split.txt "1 0"."""
    file = root / "images.txt"
    paths = dict(read_fields(file, 2))
    species = _numbers(root / "image_class_labels.txt", paths)
    in_train = _numbers(root / "train_test_split.txt", paths)
    named = {number: _species(paths[key]) for key, number in species.items()}
    if sorted(named) != list(range(1, len(named) + 1)):
        raise CrossgapError(
            f"{root / 'image_class_labels.txt'}: classes must be 1 to {len(named)}, but run from {min(named)} to "
            f"{max(named)}"
        )
    wanted = {"all": (0, 1), "train": (1,), "test": (0,)}[split]
    kept = [key for key in paths if in_train[key] in wanted]
    labels = np.array([species[key] - 1 for key in kept], dtype=np.int64)
    return file, [paths[key] for key in kept], labels, tuple(named[k] for k in sorted(named))


def _species(path: str) -> str:
    """ "001.Black_footed_Albatross/x.jpg" -> "Black footed Albatross"."""
    return path.split("/")[0].partition(".")[2].replace("_", " ")


def _numbers(file: Path, paths: dict[str, str]) -> dict[str, int]:
    """{image id: number} for exactly the ids of images.txt."""
    pairs = read_fields(file, 2)
    if {key for key, _ in pairs} != paths.keys():
        raise CrossgapError(f"{file} and images.txt do not number the same pictures")
    return {key: _whole(file, number) for key, number in pairs}


def _sop(root: Path, split: str) -> _Listed:
    """Ebay_test.txt: a header, then "image_id class_id super_class_id path"."""
    parts = ("train", "test") if split == "all" else (split,)
    files = [root / f"Ebay_{part}.txt" for part in parts]
    rows = [(file, fields) for file in files for fields in read_fields(file, 4)[1:]]
    labels = np.array([_whole(file, fields[1]) - 1 for file, fields in rows], dtype=np.int64)
    return files[0], [fields[3] for _, fields in rows], labels, ()


def _whole(file: Path, text: str) -> int:
    if not text.isdigit():
        raise CrossgapError(f"{file}: a class is a whole number, not {text!r}")
    return int(text)


_READERS: dict[str, Callable[[Path, str], _Listed]] = {"cub": _cub, "sop": _sop}
