"""Sets to compare: image-text pairs, caption sets, and samples of the similarities between two sets."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from crossgap_lib.datasets import Dataset, load_dataset
from crossgap_lib.embeddings import Embeddings, encode_images, encode_texts
from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.encoders import DualEncoder


def similarities(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Cosine similarities (q, g), rounded from float64 to float32 as ``metrics`` does: same order, same ties."""
    columns = gallery.features.double().T  # (d, g)
    blocks = [(rows.double() @ columns).float() for rows in queries.features.split(1024)]  # never (q, g) in float64
    return torch.cat(blocks).numpy()


def _one_set(queries: Embeddings, gallery: Embeddings) -> bool:
    """Whether both are the same rows: inverted features keep the ids of their pictures, but not the modality."""
    return queries.modality == gallery.modality and np.array_equal(queries.ids, gallery.ids)


def all_similarities(queries: Embeddings, gallery: Embeddings) -> np.ndarray:
    """Cosine similarities of all pairs but those of a row with its own id: (pairs,).

    Within one set each unordered pair counts once.
    """
    if _one_set(queries, gallery):
        return similarities(queries, gallery)[np.triu(np.ones((len(queries),) * 2, dtype=bool), k=1)]
    return similarities(queries, gallery)[queries.ids[:, None] != gallery.ids[None]]


def unpaired_similarities(images: Embeddings, texts: Embeddings) -> np.ndarray:
    """Cosine similarities of image i and text j, i != j: (n^2 - n,)."""
    return similarities(images, texts)[~np.eye(len(images), dtype=bool)]


def pair_similarities(queries: Embeddings, gallery: Embeddings, same_class: bool) -> np.ndarray:
    """Cosine similarities of all same-class (or all different-class) pairs, without self-pairs: (pairs,)."""
    same = queries.labels[:, None] == gallery.labels[None]
    if _one_set(queries, gallery):
        wanted = np.triu(same == same_class, k=1)  # each unordered pair once
    else:
        wanted = (same == same_class) & (queries.ids[:, None] != gallery.ids[None])
    return similarities(queries, gallery)[wanted]


def class_prompts(model: "DualEncoder", images: Embeddings) -> Embeddings:
    """\"a photo of a [CLASS]" for each class, labelled by it: (classes, d).

    Raises:
        CrossgapError: the pictures carry no class names.
    """
    if not images.class_names:
        raise CrossgapError("These pictures carry no class names to make prompts of.")
    prompts = [f"a photo of a {name}" for name in images.class_names]
    return encode_texts(model, prompts, labels=range(len(prompts)), class_names=images.class_names)


def image_text_pairs(model: "DualEncoder", photos: Dataset) -> tuple[Embeddings, Embeddings]:
    """Images and their first captions, row by row.

    Where pictures have labels but no captions, the prompt of the class stands in (``meta["captions"]`` says so).
    """
    images = encode_images(model, photos)
    own = images.texts is not None
    captions = images.texts if own else class_prompts(model, images).texts[images.labels]
    texts = encode_texts(model, captions.tolist(), ids=[f"{i}#0" for i in images.ids], labels=images.labels)
    texts.meta["captions"] = "own" if own else "class prompts"
    return images, texts


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
