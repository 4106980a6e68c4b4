"""Classification sets whose files list each picture with its class: CoOp's splits, FGVC-Aircraft, CUB, SOP, BDD100k."""

import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from crossgap_lib.datasets.dataset import Dataset, from_listing
from crossgap_lib.datasets.files import bad_row, keyed, of_good, read_fields, read_json, read_lines
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError, did_you_mean


class Listed(NamedTuple):
    """What the list of one split says of its n pictures."""

    file: Path  # the list
    rows: list[tuple[str, int]]  # (n,) (path from the set's folder of pictures, label)
    class_names: tuple[str, ...] = ()  # label -> name; empty where classes have numbers alone


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, **options: str | None) -> Dataset:
    """One split of a set; sets with ``attributes`` also take ``attribute``, which "PATH/weather" names, too.

    Raises:
        CrossgapError: a list or pictures are missing, or the lists have another form or contradict each other.
    """
    ahead, _, last = rest.rstrip("/").rpartition("/")
    if last in row.attributes and not options.get("attribute"):
        rest, options = ahead, {"attribute": last}
    root, split = row.root_and_split(rest, split)
    file, rows, class_names = READERS[row.family](row, root, split, **options)
    if not rows:
        raise CrossgapError(f"{file}: the {split} split is empty")
    names, labels = zip(*rows, strict=True)
    columns = {"labels": np.array(labels, dtype=np.int64), "class_names": class_names}
    return listed_pictures(row, spec, root, split, names, file, **columns)


def listed_pictures(
    row: NamedSet, spec: str, root: Path, split: str, names: Sequence[str], listing: Path, **columns: Any
) -> Dataset:
    """The Dataset of the pictures of a split that the file ``listing`` names; ``columns`` as in ``from_listing``.

    Their folder may lie in ``root``, or in a folder of a download in it or beside it.

    Raises:
        CrossgapError: it is in none of these places, or pictures are missing.
    """
    bases = [root, *(base / name for base in (root, root.parent) for name in row.folders)]
    name = row.pictures.format(split)
    folder = next((base / name for base in bases if (base / name).is_dir()), None)
    if folder is None:
        raise row.missing(f"folder {name} in {root}")
    return from_listing(spec, listing, names, [folder], **columns)


def _names_of_labels(file: Path, pairs: list[tuple[int, str]], first: int = 0) -> dict[int, str]:
    """{label: class name}, of labels that run from ``first`` without a gap and have one name each."""
    names = dict(pairs)
    if two := next((pair for pair in pairs if names[pair[0]] != pair[1]), None):
        raise CrossgapError(f"{file}: label {two[0]} is both {two[1]!r} and {names[two[0]]!r}")
    if sorted(names) != list(range(first, first + len(names))):
        raise CrossgapError(
            f"{file}: labels must be {first} to {first + len(names) - 1} for its {len(names)} classes, but run from "
            f"{min(names)} to {max(names)}"
        )
    if "" in names.values():
        raise CrossgapError(f"{file}: a class has no name")
    return names


def _whole(file: Path, text: str, least: int = 1) -> int:
    if not (text.isdecimal() and len(text) < 10 and int(text) >= least):
        raise CrossgapError(f"{file}: a class is a whole number from {least}, not {text[:40]!r}")
    return int(text)


# ---------------------------------------------------------------- CoOp's split files (Zhou et al. 2022)

_PARTS = ("train", "val", "test")
_IGNORED = ("BACKGROUND_Google", "Faces_easy")  # folders of Caltech101 that Cross the Gap, App. F, leaves out


def _coop(row: NamedSet, root: Path, split: str) -> Listed:
    """Lists train, val and test of [relative path, label, class name]; in class names _ becomes a space, as in CoOp.

    Labels are numbered anew from 0 where classes are left out.
    """
    file = root / row.markers[0]
    data = read_json(file)
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in _PARTS):
        raise CrossgapError(f"{file} holds no lists train, val and test")
    entries = {part: of_good(partial(_entry, file), data[part]) for part in _PARTS}
    everything = [entry for part in _PARTS for entry in entries[part]]
    names = _names_of_labels(file, [(label, name) for _, label, name in everything])
    used = sorted({label for path, label, _ in everything if path.split("/")[0] not in _IGNORED})
    rows = [(path, used.index(label)) for path, label, _ in entries[split] if path.split("/")[0] not in _IGNORED]
    return Listed(file, rows, tuple(names[label] for label in used))


def _entry(file: Path, values: object) -> tuple[str, int, str]:
    if not isinstance(values, list) or [type(value) for value in values] != [str, int, str]:
        raise CrossgapError(f"{file}: an entry is [path, label, class name], not {str(values)[:80]}")
    path, label, name = values
    return path, label, name.replace("_", " ").strip()


# ---------------------------------------------------------------- FGVC-Aircraft (Maji et al. 2013)


def _aircraft(_: NamedSet, root: Path, split: str) -> Listed:
    """images_variant_test.txt "1025794 707-320"; labels number the lines of variants.txt, as CoOp does."""
    file = root / f"images_variant_{split}.txt"
    variants = tuple(read_lines(root / "variants.txt").values())

    def labelled(pair: list[str]) -> tuple[str, int]:
        if pair[1] not in variants:
            raise CrossgapError(f"{file}: variant {pair[1]!r} is not in variants.txt")
        return f"{pair[0]}.jpg", variants.index(pair[1])

    return Listed(file, of_good(labelled, read_fields(file, 2)), variants)


# ---------------------------------------------------------------- CUB-200-2011, Stanford Online Products


def _cub(_: NamedSet, root: Path, split: str) -> Listed:
    """images.txt "1 001.Black_footed_Albatross/x.jpg", image_class_labels.txt "1 1", train_test_split.txt "1 0"."""
    file = root / "images.txt"
    paths = keyed(file, read_fields(file, 2))
    species = _numbers(root / "image_class_labels.txt", paths, least=1)
    in_train = _numbers(root / "train_test_split.txt", paths, least=0)
    pairs = [(number, _species(paths[key])) for key, number in species.items()]
    names = _names_of_labels(root / "image_class_labels.txt", pairs, first=1)
    wanted = {"all": (0, 1), "train": (1,), "test": (0,)}[split]
    kept = [key for key in paths if key in species and in_train.get(key) in wanted]
    return Listed(file, [(paths[key], species[key] - 1) for key in kept], tuple(names[k] for k in sorted(names)))


def _species(path: str) -> str:
    """ "001.Black_footed_Albatross/x.jpg" -> "Black footed Albatross"."""
    return path.split("/")[0].partition(".")[2].replace("_", " ").strip()


def _numbers(file: Path, paths: dict[str, str], least: int) -> dict[str, int]:
    """{image id: number} of a file that must number exactly the ids of images.txt."""
    pairs = keyed(file, of_good(lambda pair: (pair[0], _whole(file, pair[1], least)), read_fields(file, 2)))
    if different := pairs.keys() ^ paths.keys():
        bad_row(f"{file} and images.txt do not number the same pictures", len(different))
    return {key: number for key, number in pairs.items() if key in paths}


def _sop(_: NamedSet, root: Path, split: str) -> Listed:
    """Ebay_test.txt: a header, then "image_id class_id super_class_id path". The 22 634 products have no names."""
    files = [root / f"Ebay_{part}.txt" for part in (("train", "test") if split == "all" else (split,))]
    fields = [(file, each) for file in files for each in read_fields(file, 4)[1:]]
    return Listed(files[0], of_good(lambda row: (row[1][3], _whole(row[0], row[1][1]) - 1), fields))


# ---------------------------------------------------------------- BDD100k (Yu et al. 2018; Reevaluating, Sec. 4.4)

_FRAME_FILES = ("bdd100k_labels_images_{}.json", "det_20/det_{}.json", "det_{}.json")
_UNDEFINED = "undefined"


def _attributes(row: NamedSet, root: Path, split: str, attribute: str | None = None) -> Listed:
    """A list of frames {"name": ..., "attributes": {"weather": "rainy", ...}}; the values of one attribute are classes.

    Pictures whose attribute is undefined are left out, with a warning.
    """
    attribute = attribute or row.attributes[0]
    if attribute not in row.attributes:
        known = f"{', '.join(row.attributes)}.{did_you_mean(attribute, row.attributes)}"
        raise CrossgapError(f"{row.name} has no attribute {attribute!r}; there are {known}")
    places = [root / "labels" / name.format(split) for name in _FRAME_FILES]
    file = next((path for path in places if path.is_file()), None)
    if file is None:
        raise row.missing(f"{places[0].name} in {root / 'labels'}")
    frames = read_json(file)
    if not isinstance(frames, list):
        raise CrossgapError(f"{file} holds no list of frames")
    values = keyed(file, of_good(partial(_frame, file, attribute), frames))
    classes = sorted({value for value in values.values() if value != _UNDEFINED})
    if not classes:
        raise CrossgapError(f"{file}: {attribute} is defined for no picture")
    rows = [(name, classes.index(value)) for name, value in values.items() if value != _UNDEFINED]
    if left_out := len(values) - len(rows):
        told = f"{file}: {left_out} of {len(values)} pictures, whose {attribute} is undefined, are left out"
        warnings.warn(told, stacklevel=5)
    return Listed(file, rows, tuple(classes))


def _frame(file: Path, attribute: str, frame: Any) -> tuple[str, str]:
    try:
        pair = frame["name"], frame["attributes"][attribute]
    except (KeyError, TypeError) as error:
        raise CrossgapError(f"{file}: a frame lacks its name or {attribute}: {error}") from error
    if not all(isinstance(each, str) and each for each in pair):
        raise CrossgapError(f"{file}: names and values of {attribute} must be text")
    return pair


READERS: dict[str, Callable[..., Listed]] = {  # by family; called with (row of the table, its folder, split)
    "coop": _coop,
    "aircraft": _aircraft,
    "cub": _cub,
    "sop": _sop,
    "attributes": _attributes,
}
