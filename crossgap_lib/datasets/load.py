"""``load_dataset("dogs-vs-cats:PATH")`` -> Dataset: which reader a spec means."""

from collections.abc import Callable

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.folders import read_dogs_vs_cats, read_folder
from crossgap_lib.datasets.named import (
    aircraft,
    attributes,
    captions,
    coop,
    imagenet,
    landmarks,
    metric_learning,
    tars,
)
from crossgap_lib.datasets.named.lookup import unknown
from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.datasets.world import world_dataset
from crossgap_lib.errors import CrossgapError

_READERS: dict[str, Callable[..., Dataset]] = {  # (spec, what follows the colon, **options)
    "world": lambda _, rest, **options: world_dataset(rest, **options),
    "dogs-vs-cats": read_dogs_vs_cats,
    "folder": read_folder,
    "captions": captions.read_file,
    "wds": tars.read,
}
_FAMILIES: dict[str, Callable[..., Dataset]] = {  # of the papers' data sets: (row of the table, spec, rest, **options)
    module.__name__.rpartition(".")[2]: module.read
    for module in (aircraft, attributes, captions, coop, imagenet, landmarks, metric_learning)
}
_EXAMPLES = {"world": "dogs-vs-cats", "captions": "FILE", "wds": "PATH/{00..09}.tar"}


def load_dataset(spec: str, **options) -> Dataset:
    """The dataset that ``spec``, PREFIX:REST, names; listing it decodes no picture.

    - ``world:dogs-vs-cats``, ``world:all``: drawn pictures, held out (``world:all/train``: not).
    - ``dogs-vs-cats:PATH``: ``PetImages/{Cat,Dog}/0.jpg`` or ``train/cat.0.jpg``; classes cat and dog.
    - ``folder:PATH``: a class a folder, pictures at any depth in it.
    - ``captions:PATH``: COCO or Karpathy JSON, Flickr8k token file, or image,caption CSV. Options: ``split``
      (Karpathy; "test" by default, also ``captions:PATH/train``), ``images`` (folder of the pictures),
      ``skip_missing`` (leave out, with a warning, rows whose picture is not there).

    - ``wds:PATH/{00..09}.tar``: WebDataset tars, read in place.
    - ``oxford-pets:PATH``, ``cub:PATH``, ...: the papers' data sets by name, test split unless ``split`` or
      ``oxford-pets:PATH/train`` say otherwise; ``crossgap datasets`` lists them.

    Raises CrossgapError where nothing of that kind is there.
    """
    prefix, colon, rest = spec.partition(":")
    known = (*_READERS, *SETS)
    if prefix not in known or not colon:
        raise unknown(spec, known)
    if not rest:
        raise CrossgapError(f"{spec!r} lacks what comes after the colon: {prefix}:{_EXAMPLES.get(prefix, 'PATH')}")
    if prefix not in SETS:
        return _READERS[prefix](spec, rest, **options)
    row = SETS[prefix]
    if row.texts_only:
        raise CrossgapError(f"{row.name} holds texts and no pictures: load_texts({spec!r}) reads it")
    return _FAMILIES[row.family](row, spec, rest, **options)
