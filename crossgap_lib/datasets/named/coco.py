"""COCO, Flickr30k and nocaps: caption files with their published split."""

import os
from pathlib import Path

from crossgap_lib.datasets.caption_files import CaptionRow, read_captions, with_pictures
from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.named.places import root_and_split
from crossgap_lib.datasets.named.table import NamedSet


def read(
    row: NamedSet, spec: str, rest: str, *, split: str | None = None, images: str | os.PathLike | None = None
) -> Dataset:
    """A split of Karpathy's file (the test split by default), or the whole validation file of nocaps.

    For the options see ``load_dataset``.
    """
    file, rows = caption_rows(row, rest, split)
    return with_pictures(spec, file, rows, images)


def caption_rows(row: NamedSet, rest: str, split: str | None = None) -> tuple[Path, list[CaptionRow]]:
    """(caption file, its rows). No picture is looked for: text-text retrieval needs none."""
    root, split = root_and_split(row, rest, split)
    file = root / row.markers[0]
    return file, read_captions(file, split if len(row.splits) > 1 else None)
