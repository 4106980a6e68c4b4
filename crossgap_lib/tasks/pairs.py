"""Sets to compare: image-text pairs, caption sets, and samples of the similarities between two sets."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from crossgap_lib.datasets import Dataset, load_dataset
from crossgap_lib.embeddings import Embeddings
from crossgap_lib.encoding import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.encoders import DualEncoder

_BLOCK = 1024  # queries at a time


def similarity_blocks(queries: Embeddings, gallery: Embeddings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, cosine similarities of these queries to the gallery), a block of queries after the other.

    Rounded from float64 to float32 as ``metrics`` does: same order, same ties.
    """
    columns = gallery.features.double().T  # (d, g)
    for rows in np.split(np.arange(len(queries)), range(_BLOCK, len(queries), _BLOCK)):
        yield rows, (queries.features[rows].double() @ columns).float().numpy()


def similarities(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Cosine similarities (q, g)."""
    return np.concatenate([block for _, block in similarity_blocks(queries, gallery)])


def _wanted_similarities(
    queries: Embeddings, gallery: Embeddings, want: Callable[[np.ndarray], np.ndarray]
) -> np.ndarray:
    """Cosine similarities of the pairs that ``want`` (rows -> (rows, g) bool) keeps: (pairs,), no (q, g) array."""
    return np.concatenate([block[want(rows)] for rows, block in similarity_blocks(queries, gallery)])


def _other(queries: Embeddings, gallery: Embeddings, rows: np.ndarray) -> np.ndarray:
    """(rows, g) bool: pairs of two ids. Within one set each unordered pair counts once; inverted features keep the
    ids of their pictures, but not the modality, so they and the pictures are two sets."""
    if queries.modality == gallery.modality and np.array_equal(queries.ids, gallery.ids):
        return rows[:, None] < np.arange(len(gallery))[None]
    return queries.ids[rows, None] != gallery.ids[None]


def all_similarities(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Cosine similarities of all pairs but those of a row with its own id: (pairs,).

    Within one set each unordered pair counts once.
    """
    return _wanted_similarities(queries, gallery, lambda rows: _other(queries, gallery, rows))


def unpaired_similarities(images: Embeddings, texts: Embeddings) -> np.ndarray:
    """Cosine similarities of image i and text j, i != j: (n^2 - n,)."""
    return _wanted_similarities(images, texts, lambda rows: rows[:, None] != np.arange(len(texts))[None])


def pair_similarities(queries: Embeddings, gallery: Embeddings, same_class: bool) -> np.ndarray:
    """Cosine similarities of all same-class (or all different-class) pairs, without self-pairs: (pairs,)."""

    def want(rows: np.ndarray) -> np.ndarray:
        same = queries.labels[rows, None] == gallery.labels[None]
        return (same == same_class) & _other(queries, gallery, rows)

    return _wanted_similarities(queries, gallery, want)


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


def drawn(photos: Dataset, n: int, seed: int = 0) -> Dataset:
    """At most n pictures, drawn with ``seed`` and in drawn order: folders list one class after the other."""
    return photos[np.random.default_rng(seed).permutation(len(photos))[:n]]


def with_captions(data: str, n: int, n_captions: int) -> Dataset:
    """n pictures of a data set; those of the world get ``n_captions`` captions each."""
    if data.startswith("world:"):
        return load_dataset(data, n=n, n_captions=n_captions)
    return drawn(load_dataset(data), n)


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
