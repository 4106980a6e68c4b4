"""Which pictures a few-shot classifier is shown, which choose its parameters, and which it is asked about."""

from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.pairs import as_rows


def draw_support(labels: np.ndarray, shots: int, seed: int) -> np.ndarray:
    """Rows of ``shots`` pictures of each class, drawn without replacement: (classes, shots), classes in sorted order.

    Raises:
        CrossgapError: a class has fewer pictures, or there are no shots.
    """
    classes, counts = np.unique(labels, return_counts=True)
    if shots < 1 or counts.min() < shots:
        few = classes[counts.argmin()]
        raise CrossgapError(f"{shots} shots can't be drawn: class {few} has {counts.min()} pictures.")
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(np.flatnonzero(labels == c), shots, replace=False) for c in classes])


def hold_back(train: Embeddings, share: float = 0.25, seed: int = 0) -> tuple[Embeddings, Embeddings]:
    """(rest, held back): a share of each class, at least one picture, where no validation part was given.

    Which pictures these are depends on seed and ids, not on the order of the rows.

    Raises:
        CrossgapError: no labels, or a share that is not between 0 and 1.
    """
    if train.labels is None or not 0 < share < 1:
        raise CrossgapError(
            f"To hold back a share of each class, labels and a share in (0, 1) are needed, not {share}."
        )
    rng, held = np.random.default_rng(seed), np.zeros(len(train), dtype=bool)
    by_id = np.argsort(train.ids)
    for rows in (by_id[train.labels[by_id] == c] for c in np.unique(train.labels)):
        held[rng.choice(rows, max(1, round(share * len(rows))), replace=False)] = True
    return train[~held], train[held]


@dataclass(frozen=True, eq=False)
class FewShotSplit:
    """Three parts without a picture in common, and the texts of one model.

    Attributes:
        train: the support is drawn from these; every class is among them.
        validation: parameters are chosen on these.
        test: accuracy is counted on these alone.
        prompts: one for each class, found by its label (without labels: row i is class i), or None.
        texts: what CODER compares images with; the prompts where there are none.

    Raises:
        CrossgapError: missing labels, a picture (id) in two parts, other widths or class names, a class without
            training pictures, or prompts that do not match the classes.
    """

    train: Embeddings
    validation: Embeddings
    test: Embeddings
    prompts: Embeddings | None = None
    texts: Embeddings | None = None

    def __post_init__(self) -> None:
        parts = {"training": self.train, "validation": self.validation, "test": self.test}
        for name, e in parts.items():
            _check_part(name, e, self.train)
        for (one, a), (other, b) in combinations(parts.items(), 2):
            if len(both := np.intersect1d(a.ids, b.ids)):
                raise CrossgapError(
                    f"{len(both)} pictures are among both the {one} and the {other} ones, the first is {both[0]}."
                )
        for name, e in (("prompts", self.prompts), ("texts", self.texts)):
            if e is not None and e.features.shape[1] != self.train.features.shape[1]:
                raise CrossgapError(f"The {name} have another width than the pictures.")
        self.prompt_rows()

    @property
    def classes(self) -> np.ndarray:
        return np.unique(self.train.labels)

    def targets(self, part: Embeddings) -> np.ndarray:
        """(n,) 0 .. c - 1: where each label stands among the classes."""
        return np.searchsorted(self.classes, part.labels)

    def prompt_rows(self) -> np.ndarray | None:
        """(c, d) the prompt of each class, or None."""
        if self.prompts is None:
            return None
        named, ours = self.prompts.class_names, self.train.class_names
        if named and ours and named != ours:
            raise CrossgapError("The prompts and the pictures have different class names.")
        labels = np.arange(len(self.prompts)) if self.prompts.labels is None else self.prompts.labels
        counts = [int((labels == c).sum()) for c in self.classes]
        if set(counts) != {1}:
            wrong = next(k for k, n in enumerate(counts) if n != 1)
            raise CrossgapError(f"Each class needs one prompt; class {self.classes[wrong]} has {counts[wrong]}.")
        return as_rows(self.prompts)[[int(np.flatnonzero(labels == c)[0]) for c in self.classes]]


def _check_part(name: str, e: Embeddings, train: Embeddings) -> None:
    if e.labels is None:
        raise CrossgapError(f"Few-shot classification needs labels; the {name} pictures have none.")
    if e.features.shape[1] != train.features.shape[1]:
        raise CrossgapError(f"The {name} pictures have another width than the training ones.")
    if e.class_names != train.class_names:
        raise CrossgapError(f"The {name} pictures have other class names than the training ones.")
    if len(unseen := np.setdiff1d(e.labels, train.labels)):
        raise CrossgapError(f"No training picture shows class {unseen[0]}, of which there are {name} pictures.")


def equal_rows(a: Embeddings, b: Embeddings) -> int:
    """How many rows of ``a`` are in ``b`` bit for bit: the same picture under two names, most likely."""
    known = {row.tobytes() for row in b.features.numpy()}
    return sum(row.tobytes() in known for row in a.features.numpy())


def labelled_by(images: Embeddings, photos: Dataset, factor: str) -> Embeddings:
    """The same pictures, asked about one of their known factors: labels and class names are its values, sorted.

    Args:
        photos: what ``images`` were encoded from, row by row.

    Raises:
        CrossgapError: no such factor is known, or other pictures.
    """
    if photos.factors is None or factor not in photos.factors:
        raise CrossgapError(f"The factor {factor!r} of {photos.name} is not known.")
    if not np.array_equal(images.ids, photos.ids):
        raise CrossgapError("The images must be those of the data set, row by row.")
    names, labels = np.unique(photos.factors[factor].astype(str), return_inverse=True)
    return replace(images, labels=labels, class_names=tuple(names.tolist()))
