"""``load_dataset(spec)`` -> Dataset: which reader a spec means."""

from collections.abc import Callable
from functools import partial

from crossgap_lib.datasets import tars
from crossgap_lib.datasets.caption_files import read_caption_file, read_named
from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.files import skipping
from crossgap_lib.datasets.folders import read_dogs_vs_cats, read_folder, read_imagenet
from crossgap_lib.datasets.named import landmarks, lists
from crossgap_lib.datasets.named.table import SETS, unknown
from crossgap_lib.datasets.world import world_dataset
from crossgap_lib.errors import CrossgapError

_READERS: dict[str, Callable[..., Dataset]] = {  # called with (spec, what follows the colon, **options)
    "world": lambda _, rest, **options: world_dataset(rest, **options),
    "dogs-vs-cats": read_dogs_vs_cats,
    "folder": read_folder,
    "captions": read_caption_file,
    "wds": tars.read,
}
_FAMILIES: dict[str, Callable[..., Dataset]] = {  # of named sets; called with (row of the table, spec, rest, **options)
    **dict.fromkeys(lists.READERS, lists.read),
    "captions": read_named,
    "imagenet": read_imagenet,
    "landmarks": landmarks.read,
}
_EXAMPLES = {"world": "dogs-vs-cats", "captions": "FILE", "wds": "PATH/{00..09}.tar"}


def load_dataset(spec: str, *, skip_bad: bool | None = None, skip_missing: bool | None = None, **options) -> Dataset:
    """The data set that ``spec``, PREFIX:REST, names. No picture is decoded until it is asked for.

    - ``world:dogs-vs-cats``, ``world:animals``, ``world:all``: drawn pictures, held out from training; the minis are
      trained on ``world:all/train``.
    - ``dogs-vs-cats:PATH``: ``PetImages/{Cat,Dog}/0.jpg`` or ``train/cat.0.jpg``; the classes are cat and dog.
    - ``folder:PATH``: each folder in PATH is a class, with its pictures at any depth.
    - ``captions:FILE``: COCO or Karpathy JSON, a Flickr8k token file, or a table of pictures and captions (CSV, TSV,
      JSON, JSON lines). Options: ``split`` of a Karpathy file ("test" by default; ``captions:FILE/train`` says it, too,
      and is train with restval) and ``images`` (the folder of the pictures).
    - ``wds:PATH/{00..09}.tar``: WebDataset tars, read in place.
    - ``oxford-pets:PATH``, ``cub:PATH``, ...: the papers' data sets, which ``crossgap datasets`` lists; ``split``, or
      ``oxford-pets:PATH/train``, picks a split.

    A bad row among good ones, such as a picture that is not there or a line of another form, is refused;
    ``skip_bad=True`` (also called ``skip_missing``; on the command line ``--skip-bad``) leaves it out, and a warning
    counts and names what was left out.

    Raises:
        CrossgapError: nothing of that kind is there.
    """
    prefix, colon, rest = spec.partition(":")
    known = (*_READERS, *SETS)
    if prefix not in known or not colon:
        raise unknown(spec, known)
    if not rest:
        raise CrossgapError(f"{spec!r} lacks what comes after the colon: {prefix}:{_EXAMPLES.get(prefix, 'PATH')}")
    with skipping(spec, skip_missing if skip_bad is None else skip_bad):
        row = SETS.get(prefix)
        if row and row.texts_only:
            raise CrossgapError(f"{row.name} holds texts and no pictures: load_texts({spec!r}) reads it")
        read = partial(_FAMILIES[row.family], row) if row else _READERS[prefix]
        found = read(spec, rest, **options)
        if not len(found):
            raise CrossgapError(f"{spec} holds no pictures, or none of its rows is good")
        return found
