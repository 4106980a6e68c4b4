"""FGVCAircraft's own text files: variants.txt and images_variant_{train,val,test}.txt (Maji et al. 2013)."""

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.named.named_set import NamedSet
from crossgap_lib.datasets.named.places import named_pictures, picture_folder, read_fields, read_lines, root_and_split
from crossgap_lib.errors import CrossgapError


def read(row: NamedSet, spec: str, rest: str, *, split: str | None = None, skip_missing: bool = False) -> Dataset:
    """One split; labels number the variants in the order of variants.txt, as CoOp does.

    Raises:
        CrossgapError: a file or pictures are missing, or a variant is not in variants.txt.
    """
    root, split = root_and_split(row, rest, split)
    file = root / f"images_variant_{split}.txt"
    variants = read_lines(root / "variants.txt")
    number = {variant: label for label, variant in enumerate(variants)}
    pairs = read_fields(file, 2)  # 1025794 707-320
    strange = next((variant for _, variant in pairs if variant not in number), None)
    if strange:
        raise CrossgapError(f"{file}: variant {strange!r} is not in variants.txt")
    labels = np.array([number[variant] for _, variant in pairs], dtype=np.int64)
    names = [f"{picture}.jpg" for picture, _ in pairs]
    folder = picture_folder(row, root)
    return named_pictures(spec, folder, names, file, skip_missing, labels=labels, class_names=tuple(variants))
