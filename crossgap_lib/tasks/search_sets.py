"""Retrieval tasks, encoded: queries, gallery, and what ``metrics.retrieval`` must know of them."""

from typing import TYPE_CHECKING, Any

from crossgap_lib.datasets.named.table import SETS
from crossgap_lib.datasets.retrieval_sets import RetrievalSet
from crossgap_lib.datasets.text_sets import TextCollection, load_texts
from crossgap_lib.embeddings.embeddings import Embeddings, drawn_rows
from crossgap_lib.embeddings.encode import encode_images, encode_texts
from crossgap_lib.errors import CrossgapError
from crossgap_lib.tasks.pairs import caption_sets, drawn, with_captions

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder

Search = tuple[Embeddings, Embeddings, dict[str, Any]]  # queries (q, d), gallery (g, d), options of metrics.retrieval


def queries_and_gallery(
    model: "DualEncoder", found: RetrievalSet, *, n_queries: int = 0, n_gallery: int = 0, seed: int = 0
) -> Search:
    """The pictures of a retrieval task.

    ``n_queries`` and ``n_gallery`` draw a sample with ``seed``; 0 takes all. Where both are one set, the queries are
    the first of the pictures drawn for the gallery.
    """
    gallery = encode_images(model, drawn(found.gallery, n_gallery, seed))
    if found.queries is found.gallery:
        queries = gallery[: n_queries or len(gallery)]
    else:
        queries = encode_images(model, drawn(found.queries, n_queries, seed))
    return queries, gallery, found.options(queries, gallery)


def texts_to_search(
    model: "DualEncoder",
    spec: str,
    *,
    n_texts: int = 0,
    n_captions: int = 5,
    first_captions: str = "in",
    summaries: str | None = None,
    seed: int = 0,
) -> Search | None:
    """The texts of a text-text retrieval task (Cross the Gap, Sec. 5.2, App. F and G).

    ``spec`` is a named text or caption set (``load_texts``; ``summaries`` replace texts of its corpus), or pictures
    with captions, of which the first asks for the others of its picture. None where no picture has two captions.

    Args:
        n_texts: queries, drawn with ``seed`` (of ``world:`` the first); 0 takes all.
        n_captions: captions drawn for each picture of ``world:``.
        first_captions: "in": the gallery is "all captions in the dataset", as in the paper; "out": first captions are
            queries alone.

    Raises:
        CrossgapError: as ``load_texts`` and ``load_dataset``; another word for ``first_captions``.
    """
    if first_captions not in ("in", "out"):
        raise CrossgapError(f"first_captions must be 'in' or 'out' of the gallery, but is {first_captions!r}.")
    row = SETS.get(spec.partition(":")[0])
    if row and (row.texts_only or row.family == "captions"):
        queries, gallery, options = _collection(model, load_texts(spec, summaries=summaries), n_texts, seed)
    else:
        found = caption_sets(model, with_captions(spec, n_texts, n_captions, seed))
        if found is None:
            return None
        queries, gallery, options = *found, {"self_match": "remove"}
    if first_captions == "out":
        asked = set(queries.ids)  # numpy's isin compares every two
        gallery = gallery[[name not in asked for name in gallery.ids]]
    return queries, gallery, options


def _collection(model: "DualEncoder", texts: TextCollection, n_texts: int, seed: int) -> Search:
    rows = drawn_rows(texts.query_ids, n_texts, seed)
    queries = encode_texts(model, texts.queries, ids=texts.query_ids, labels=texts.query_labels)[rows]
    gallery = encode_texts(model, texts.corpus, ids=texts.corpus_ids, labels=texts.corpus_labels)
    options = texts.options()
    if "relevant" in options:
        options["relevant"] = options["relevant"][rows]
    return queries, gallery, options
