"""Sets to compare: image-text pairs, caption sets, what is drawn from a set, its rows, and the similarities of two."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from crossgap_lib.datasets.dataset import Dataset
from crossgap_lib.datasets.load import load_dataset
from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

_BLOCK = 2**22  # similarities at a time: 34 MB in float64
MOST_ROWS = 4096  # of a set, whose similarities make a histogram: 16.8 million pairs of two sets, 67 MB
MOST_COMPARED = 25_000  # rows of a set of which all pairs are counted or ranked, in a minute or two
Rows = TypeVar("Rows", Dataset, Embeddings)


def drawn(rows: Rows, n: int = 0, seed: int = 0) -> Rows:
    """n pictures of a data set, or n embeddings, as ``drawn_rows`` draws them."""
    return rows[drawn_rows(rows.ids, n, seed)]


def matrix(name: str, values: np.ndarray) -> np.ndarray:
    """The values as float64 (rows, columns); raises CrossgapError where they are no such thing."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape:
        raise CrossgapError(f"The {name} must be a matrix with rows and columns, not of shape {array.shape}.")
    if not np.isfinite(array).all():
        raise CrossgapError(f"The {name} hold NaN or infinity.")
    return array


def as_rows(e: Embeddings) -> np.ndarray:
    """Features as float64 (n, d)."""
    return e.features.double().numpy()


def of_unit_norm(rows: np.ndarray) -> np.ndarray:
    """Rows (..., d) at unit norm; a row of zeros stays as it is."""
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True).clip(1e-12)


def similarity_blocks(queries: Embeddings, gallery: Embeddings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, cosine similarities of these queries to the gallery), a block of queries after the other.

    Rounded from float64 to float32 as ``metrics`` does: same order, same ties.
    """
    columns = gallery.features.double().T  # (d, g)
    step = max(1, _BLOCK // len(gallery))
    for rows in np.split(np.arange(len(queries)), range(step, len(queries), step)):
        yield rows, (queries.features[rows].double() @ columns).float().numpy()


def similarities(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Cosine similarities (q, g)."""
    return np.concatenate([block for _, block in similarity_blocks(queries, gallery)])


def _wanted_similarities(
    queries: Embeddings, gallery: Embeddings, want: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Cosine similarities of the pairs that ``want`` (rows -> (rows, g) bool) keeps: (pairs,), no (q, g) array."""
    return np.concatenate([block[want(rows)] for rows, block in similarity_blocks(queries, gallery)])


def _some(e: Embeddings, seed: int) -> Embeddings:
    """All rows where there are at most MOST_ROWS, in their order; else so many, drawn with ``seed``."""
    return e if len(e) <= MOST_ROWS else drawn(e, MOST_ROWS, seed)


def all_similarities(queries: Embeddings, gallery: Embeddings, *, seed: int = 0) -> np.ndarray:
    """Cosine similarities of all pairs but those of a row with its own id: (pairs,).

    Within one set each unordered pair counts once. Inverted features keep the ids of their pictures, but not the
    modality, so they and the pictures are two sets. Of a larger set only MOST_ROWS rows take part, drawn with ``seed``;
    the number of similarities says how many pairs there were.
    """
    queries, gallery = _some(queries, seed), _some(gallery, seed)
    one_set = queries.modality == gallery.modality and np.array_equal(queries.ids, gallery.ids)

    def want(rows: np.ndarray) -> np.ndarray:
        return rows[:, None] < np.arange(len(gallery)) if one_set else queries.ids[rows, None] != gallery.ids

    return _wanted_similarities(queries, gallery, want)


def unpaired_similarities(images: Embeddings, texts: Embeddings, *, seed: int = 0) -> np.ndarray:
    """Cosine similarities of image i and text j, i != j: (n^2 - n,), n at most MOST_ROWS pairs, drawn with ``seed``."""
    if len(images) > MOST_ROWS:
        rows = drawn_rows(images.ids, MOST_ROWS, seed)
        images, texts = images[rows], texts[rows]
    return _wanted_similarities(images, texts, lambda rows: rows[:, None] != np.arange(len(texts))[None])


def class_prompts(model: "DualEncoder", images: Embeddings, template: str = "a photo of a {}") -> Embeddings:
    """\"a photo of a [CLASS]" for each class, labelled by it: (classes, d).

    Raises:
        CrossgapError: the pictures carry no class names, or the template has no place for them.
    """
    if "{}" not in template:
        raise CrossgapError(f"The prompt template {template!r} has no {{}} for the class name.")
    if not images.class_names:
        raise CrossgapError("These pictures carry no class names to make prompts of.")
    prompts = [template.replace("{}", name) for name in images.class_names]
    return encode_texts(model, prompts, labels=range(len(prompts)), class_names=images.class_names)


def image_text_pairs(
    model: "DualEncoder", photos: Dataset, *, before_projection: bool = False
) -> tuple[Embeddings, Embeddings]:
    """Images and their first captions, row by row; ``before_projection`` as for ``encode_images``.

    Where pictures have labels but no captions, the prompt of the class stands in (``meta["captions"]`` says so).
    """
    stage = {"before_projection": before_projection}
    images = encode_images(model, photos, **stage)
    own = images.texts is not None
    captions = images.texts if own else class_prompts(model, images).texts[images.labels]
    names = [f"{i}#0" for i in images.ids]
    texts = encode_texts(model, captions.tolist(), ids=names, labels=images.labels, **stage)
    texts.meta["captions"] = "own" if own else "class prompts"
    return images, texts


def images_and_texts(model: "DualEncoder", photos: Dataset) -> tuple[Embeddings, Embeddings | None]:
    """``image_text_pairs``, or the images and None where the model reads no text."""
    return image_text_pairs(model, photos) if model.has_text else (encode_images(model, photos), None)


def texts_of(model: "DualEncoder", images: Embeddings) -> Embeddings:
    """The first captions of these images, or the class prompts where there are no captions."""
    if images.texts is None:
        return class_prompts(model, images)
    return encode_texts(model, images.texts.tolist(), ids=[f"{i}#0" for i in images.ids])


def with_captions(data: str, n: int, n_captions: int, seed: int = 0) -> Dataset:
    """n pictures of a data set, drawn with ``seed``; 0 takes all.

    Of the world these are its first n, which are as random as any others; they get ``n_captions`` captions each.
    """
    if data.startswith("world:"):
        return load_dataset(data, n=n or None, n_captions=n_captions)
    return drawn(load_dataset(data), n, seed)


def caption_sets(model: "DualEncoder", photos: Dataset) -> tuple[Embeddings, Embeddings] | None:
    """(first captions, all captions) labelled by picture, for text-to-text retrieval (Cross the Gap, Sec. 5.2).

    None where no picture has two captions.
    """
    if photos.captions is None or max(map(len, photos.captions)) < 2:
        return None
    rows = [(row, k, text) for row, several in enumerate(photos.captions) for k, text in enumerate(several)]
    ids = [f"{photos.ids[row]}#{k}" for row, k, _ in rows]
    everything = encode_texts(model, [text for *_, text in rows], ids=ids, labels=[row for row, *_ in rows])
    return everything[np.array([k == 0 for _, k, _ in rows])], everything
