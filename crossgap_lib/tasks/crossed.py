"""Tasks natively and with one side inverted (Cross the Gap, Sec. 5.2 and 5.3, App. G).

Text-text retrieval becomes inter-modal when OVI turns the queries into image features. Zero-shot classification and
image-text retrieval are inter-modal; OTI of the images, or OVI of the texts, makes them intra-modal. The paper expects
a gain of the first kind of change and a loss of the second.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from crossgap_lib import metrics
from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.errors import CrossgapError
from crossgap_lib.inversion.oti_ovi import oti, ovi
from crossgap_lib.tasks.along_steps import snapshot_steps
from crossgap_lib.tasks.comparison import gain_table
from crossgap_lib.tasks.dogs_vs_cats import correctly_classified
from crossgap_lib.tasks.methods import ORIGINAL, OTI

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

OVI = "OVI"
IMAGE_TO_TEXT, TEXT_TO_IMAGE = "image-to-text", "text-to-image"


def text_text_methods(
    model: "DualEncoder",
    queries: Embeddings,
    gallery: Embeddings,
    *,
    n_patches: int = 1,
    steps: int = 1000,
    seed: int = 0,
    **options: Any,
) -> dict[str, metrics.Retrieval]:
    """Text-text retrieval by the queries' own features and by their OVI: Cross the Gap, Sec. 5.2, Table 2, A1 and A5.

    ``queries`` (q, d), ``gallery`` (g, d) and ``options`` are what ``texts_to_search`` gives.
    """
    # With snapshots, so that notebook 02's inversions of the same texts serve here, too.
    inverted = ovi(model, queries, n_patches=n_patches, steps=steps, snapshots=snapshot_steps(steps), seed=seed)
    sides = {ORIGINAL: queries, OVI: inverted}
    return {method: metrics.retrieval(side, gallery, **options) for method, side in sides.items()}


def zero_shot_methods(
    model: "DualEncoder",
    images: Embeddings,
    prompts: Embeddings,
    *,
    n_tokens: int = 1,
    oti_steps: int = 150,
    n_patches: int = 1,
    ovi_steps: int = 1000,
    ovi_prompts: Embeddings | None = None,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Which pictures are classified correctly, (n,) bool for each method: Cross the Gap, Sec. 5.3, Table 2 and A3.

    Original: images against prompts. OTI: inverted images against prompts. OVI: images against inverted prompts. A
    picture that is as near to a wrong prompt as to its own counts as wrong.

    Args:
        prompts: (classes, d) labelled by class.
        ovi_prompts: what OVI inverts, if not ``prompts``: the released code inverts "a photo of a {}" where its
            baseline has a data set's own prompts, so that its loss is one of the prompt, too.
    """
    as_texts = oti(model, images, n_tokens=n_tokens, steps=oti_steps, seed=seed)
    source = prompts if ovi_prompts is None else ovi_prompts
    as_images = ovi(model, source, n_patches=n_patches, steps=ovi_steps, seed=seed)
    return {
        ORIGINAL: correctly_classified(images, prompts),
        OTI: correctly_classified(as_texts, prompts),
        OVI: correctly_classified(images, as_images),
    }


def image_text_methods(
    model: "DualEncoder",
    images: Embeddings,
    captions: Embeddings,
    *,
    n_images: int = 0,
    n_texts: int = 0,
    n_tokens: int = 1,
    oti_steps: int = 150,
    n_patches: int = 1,
    ovi_steps: int = 1000,
    ks: Sequence[int] = (1, 5, 10),
    seed: int = 0,
) -> dict[str, dict[str, metrics.Retrieval]]:
    """Image-text retrieval in both directions, natively and made intra-modal: Cross the Gap, App. G, Table A4.

    Image-to-text: the query image, or its OTI, against all captions. Text-to-image: the query caption, or its OVI,
    against all images. R@k: one right item in the top k.

    Args:
        images: (n, d).
        captions: (m, d) labelled by the picture's row.
        n_images, n_texts: how many images, and first captions of how many images, are the queries, drawn with ``seed``;
            0 takes all. Everything is the gallery.

    Returns:
        direction -> method -> Retrieval.

    Raises:
        CrossgapError: a caption of no picture, or a picture without a caption.
    """
    rows = np.arange(len(images))
    if captions.labels is None or not np.isin(captions.labels, rows).all():
        raise CrossgapError("Captions must be labelled by the row of their picture.")
    captioned, first = np.unique(captions.labels, return_index=True)  # the first caption of each picture
    if not np.array_equal(captioned, rows):
        raise CrossgapError("Every picture needs a caption.")
    numbered = replace(images, labels=rows, class_names=())
    # Another seed than that of the pictures, which may be a draw themselves: twice the same one favours some rows.
    asked = lambda n: drawn_rows(images.ids, n, seed + 1)  # noqa: E731
    pictures, texts = numbered[asked(n_images)], captions[first[asked(n_texts)]]
    as_text = oti(model, pictures, n_tokens=n_tokens, steps=oti_steps, seed=seed)
    as_image = ovi(model, texts, n_patches=n_patches, steps=ovi_steps, seed=seed)
    return {
        IMAGE_TO_TEXT: {m: metrics.retrieval(q, captions, ks=ks) for m, q in ((ORIGINAL, pictures), (OTI, as_text))},
        TEXT_TO_IMAGE: {m: metrics.retrieval(q, numbered, ks=ks) for m, q in ((ORIGINAL, texts), (OVI, as_image))},
    }


def recall_table(found: Mapping[str, Mapping[str, metrics.Retrieval]], *, seed: int = 0) -> pd.DataFrame:
    """``gain_table`` of every direction and k of ``image_text_methods``, with the columns direction and k added."""
    parts = []
    for direction, methods in found.items():
        for k in next(iter(methods.values())).hit_at:
            hits = {method: result.hit_at[k] for method, result in methods.items()}
            parts.append(gain_table(hits, ORIGINAL, seed=seed).assign(direction=direction, k=k))
    return pd.concat(parts, ignore_index=True)
