"""BDD100k's attributes of whole pictures: weather, timeofday, scene (Yu et al. 2018; Reevaluating, Sec. 4.4)."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.files import of_good, read_json
from crossgap_lib.datasets.named.lookup import placement
from crossgap_lib.datasets.named.places import named_pictures, picture_folder, root_and_split
from crossgap_lib.datasets.named.table import NamedSet
from crossgap_lib.errors import CrossgapError, did_you_mean

ATTRIBUTES = ("timeofday", "weather", "scene")
_FILES = ("bdd100k_labels_images_{}.json", "det_20/det_{}.json", "det_{}.json")
_UNDEFINED = "undefined"


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, attribute: str | None = None) -> Dataset:
    """The pictures of a split, labelled by one attribute, timeofday by default; "PATH/weather" names another one.

    Pictures whose attribute is undefined are left out, with a warning.

    Raises:
        CrossgapError: no such attribute, or labels or pictures are missing.
    """
    ahead, _, last = rest.rstrip("/").rpartition("/")
    if attribute is None and last in ATTRIBUTES:
        rest, attribute = ahead, last
    attribute = attribute or ATTRIBUTES[0]
    if attribute not in ATTRIBUTES:
        known = ", ".join(ATTRIBUTES)
        raise CrossgapError(
            f"{row.name} has no attribute {attribute!r}; there are {known}.{did_you_mean(attribute, ATTRIBUTES)}"
        )
    root, split = root_and_split(row, rest, split)
    file = _label_file(row, root / "labels", split)
    values = _values(file, attribute)
    defined = {name: value for name, value in values.items() if value != _UNDEFINED}
    if len(defined) < len(values):
        left_out = len(values) - len(defined)
        warnings.warn(
            f"{spec}: {left_out} of {len(values)} pictures, whose {attribute} is undefined, are left out", stacklevel=4
        )
    classes = sorted(set(defined.values()))
    labels = np.array([classes.index(value) for value in defined.values()], dtype=np.int64)
    folder = picture_folder(row, root) / split
    return named_pictures(spec, folder, list(defined), file, labels=labels, class_names=tuple(classes))


def _label_file(row: NamedSet, folder: Path, split: str) -> Path:
    found = next((path for path in (folder / name.format(split) for name in _FILES) if path.is_file()), None)
    if found is None:
        raise CrossgapError(f"No {_FILES[0].format(split)} in {folder} ({placement(row.name)}).")
    return found


def _values(file: Path, attribute: str) -> dict[str, str]:
    """{picture: value of the attribute} of a file that holds a list of frames."""

    def named(frame: Any) -> tuple[str, str]:
        try:
            pair = frame["name"], frame["attributes"][attribute]
        except (KeyError, TypeError) as error:
            raise CrossgapError(f"{file}: a frame lacks its name or {attribute}: {error}") from error
        if not all(isinstance(each, str) for each in pair):
            raise CrossgapError(f"{file}: names and values of {attribute} must be text")
        return pair

    frames = read_json(file)
    if not isinstance(frames, list):
        raise CrossgapError(f"{file} holds no list of frames")
    values = dict(of_good(named, frames))
    if not any(value != _UNDEFINED for value in values.values()):
        raise CrossgapError(f"{file}: {attribute} is defined for no picture")
    return values
