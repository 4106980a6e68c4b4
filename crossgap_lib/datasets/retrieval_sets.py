"""``load_retrieval(spec)`` -> RetrievalSet: queries, gallery, and what is relevant to which query."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from crossgap_lib.datasets.dataset import Dataset, from_files
from crossgap_lib.datasets.files import existing_folder, files_in
from crossgap_lib.datasets.folders import no_pictures
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.datasets.named.landmarks import DIFFICULTIES, read_truth
from crossgap_lib.datasets.named.table import SETS, NamedSet
from crossgap_lib.errors import CrossgapError, did_you_mean
from crossgap_lib.store import digest

_TWO_SPLITS = ("coop", "aircraft", "imagenet")  # families whose test split is the queries, and train the gallery


@dataclass(frozen=True, eq=False)
class RetrievalSet:
    """A retrieval task: pictures to ask with, pictures to find, and the rules by which it is counted.

    With the encoded pictures it is ``metrics.retrieval(q, g, **task.options(q, g))``.
    """

    name: str
    queries: Dataset  # (q,)
    gallery: Dataset  # (g,)
    protocol: str  # in words
    self_match: str = "keep"  # of metrics.retrieval; "remove" if queries and gallery are the same pictures
    ap: str = "mean"  # of metrics.retrieval; "trapezoid" if the set's own evaluation takes it
    relevant: dict[str, frozenset[str]] | None = None  # query id -> gallery ids; None if equal labels say it
    junk: dict[str, frozenset[str]] = field(default_factory=dict)  # query id -> gallery ids that take no rank

    def options(self, queries: Any, gallery: Any) -> dict[str, Any]:
        """Options of ``metrics.retrieval`` for the Embeddings of these pictures.

        Rows are found by their ids, since pictures that could not be decoded are missing from the Embeddings.

        Returns:
            self_match and ap; also relevant and exclude, (q, g) bool, if labels do not say what is relevant.
        """
        how = {"self_match": self.self_match, "ap": self.ap}
        if self.relevant is None:
            return how
        masks = {"relevant": self.relevant, "exclude": self.junk}
        row_of = {name: row for row, name in enumerate(gallery.ids)}
        return how | {key: _mask(queries.ids, row_of, masks[key]) for key in masks}


def _mask(query_ids: np.ndarray, row_of: dict[str, int], wanted: dict[str, frozenset[str]]) -> np.ndarray:
    mask = np.zeros((len(query_ids), len(row_of)), dtype=bool)
    for k, query in enumerate(query_ids):
        mask[k, [row_of[name] for name in wanted.get(query, ()) if name in row_of]] = True
    return mask


def load_retrieval(
    spec: str,
    *,
    difficulty: str = "easy",
    crop_queries: bool = True,
    distractors: str | None = None,
    **options: Any,
) -> RetrievalSet:
    """The retrieval task of a data set of pictures (Cross the Gap, Sec. 5.1 and App. F).

    - Classification sets: the test split asks, the train split is the gallery.
    - ROxford and RParis: queries, a gallery without them, and judgements.
    - All others (CUB, SOP, BDD100k, ``world:``, ``folder:``, ``wds:``): each picture asks for all others.

    Args:
        difficulty: "easy", "medium" or "hard", of ROxford and RParis.
        crop_queries: whether their queries are cropped to their box; the released Cross-the-Gap code does not do it.
        distractors: a folder or a ``wds:`` spec of pictures that join their gallery and are relevant to no query.
        options: of ``load_dataset``.

    Raises:
        CrossgapError: as ``load_dataset``; a set has no labels; a set without judgements has no difficulties and no
            distractors.
    """
    row = SETS.get(spec.partition(":")[0])
    if row and row.family == "landmarks":
        return _landmarks(row, spec, difficulty, crop_queries, distractors, options)
    if difficulty != "easy" or distractors:
        raise CrossgapError(f"Only ROxford and RParis have difficulties and distractors, {spec} has none")
    if row and row.family in _TWO_SPLITS:
        queries, gallery = (load_dataset(spec, split=split, **options) for split in ("test", "train"))
        return RetrievalSet(spec, queries, gallery, _words(row.protocol, queries, gallery, "equal label"))
    photos = load_dataset(spec, **options)
    if photos.labels is None:
        raise CrossgapError(f"{spec} has no labels, so that nothing says which pictures are relevant")
    said = row.protocol if row else "every picture against all others"
    return RetrievalSet(spec, photos, photos, _words(said, photos, photos, "equal label"), "remove")


def _words(protocol: str, queries: Dataset, gallery: Dataset, relevance: str) -> str:
    own = " The query itself is removed." if queries is gallery else ""
    return f"{len(queries)} queries, {len(gallery)} in the gallery; {protocol}. Relevant: {relevance}.{own}"


# ---------------------------------------------------------------- ROxford, RParis


def _landmarks(
    row: NamedSet, spec: str, difficulty: str, crop: bool, distractors: str | None, options: dict[str, Any]
) -> RetrievalSet:
    if difficulty not in DIFFICULTIES:
        known = f"{', '.join(DIFFICULTIES)}.{did_you_mean(difficulty, DIFFICULTIES)}"
        raise CrossgapError(f"There is no difficulty {difficulty!r}; there are {known}")
    positive, junk = DIFFICULTIES[difficulty]
    truth = read_truth(row.root(spec.partition(":")[2]) / row.markers[0])
    queries = load_dataset(spec, split="queries", crop_queries=crop, **options)
    gallery = load_dataset(spec, split="gallery", **options)
    if distractors:
        gallery = concatenated(spec, [gallery, _distractors(distractors)], ("", "distractors/"))
    said = (
        f"queries are {'cropped to their box' if crop else 'not cropped'}"
        f"{f', with distractors of {distractors}' if distractors else ''}; positives are {' and '.join(positive)}, "
        f"{' and '.join(junk)} take no rank; AP is the area under the precision-recall curve, by trapezoids"
    )
    words = _words(said, queries, gallery, f"judged {difficulty}")
    judged = {"relevant": truth.judged_as(positive), "junk": truth.judged_as(junk)}
    return RetrievalSet(spec, queries, gallery, words, ap="trapezoid", **judged)


def _distractors(spec: str) -> Dataset:
    if spec.startswith("wds:"):
        return load_dataset(spec, pictures_alone=True)
    root = existing_folder(spec, "distractor pictures")
    paths, others = files_in(root)
    if not paths:
        raise CrossgapError(f"No distractor pictures in {root}")
    for note in no_pictures([([], others)]):
        warnings.warn(f"{root}: {note}", stacklevel=4)
    return from_files(spec, [path.relative_to(root).as_posix() for path in paths], paths)


def concatenated(name: str, parts: Sequence[Dataset], prefixes: Sequence[str]) -> Dataset:
    """The pictures of several sets one after the other, with prefixed ids and without labels and captions."""
    ends = np.cumsum([len(part) for part in parts])  # (parts,)
    ids = np.concatenate([np.char.add(prefix, part.ids) for prefix, part in zip(prefixes, parts, strict=True)])
    load = partial(_load_of, tuple(part.load for part in parts), ends)
    made = digest(f"{prefix}\0{part.fingerprint}".encode() for prefix, part in zip(prefixes, parts, strict=True))
    return Dataset(name, ids, load, made)


def _load_of(loads: tuple[Callable[[int], Image.Image], ...], ends: np.ndarray, i: int) -> Image.Image:
    part = int(np.searchsorted(ends, i, side="right"))
    return loads[part](i - (int(ends[part - 1]) if part else 0))
