"""Average precision of each query by several methods, and by several tasks on the same features.

Every comparison starts here: ``gain``, ``gain_table`` and ``chosen_elsewhere`` take these numbers.
"""

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.errors import CrossgapError
from crossgap_lib.metrics.large import exact_retrieval

Pair = tuple[Embeddings, Embeddings]  # queries and gallery, as a method compares them


def average_precisions(pairs: Mapping[Hashable, Pair], **options: Any) -> dict[Hashable, np.ndarray]:
    """Average precision of every query in [0, 1]: method, or setting of a method -> (n,).

    Queries to which nothing in the gallery is relevant are left out.

    Args:
        pairs: method -> (queries, gallery).
        options: those of ``exact_retrieval``.

    Raises:
        CrossgapError: methods that do not have the same queries.
    """
    values, ids = {}, None
    for method, (queries, gallery) in pairs.items():
        found = exact_retrieval(queries, gallery, **options)
        answered = queries.ids[found.rows]
        ids = answered if ids is None else ids
        if not np.array_equal(ids, answered):
            raise CrossgapError(f"{method!r} does not answer the same queries as the methods before it.")
        values[method] = found.ap
    return values


def by_task(
    pairs: Mapping[Hashable, Pair], pictures: Mapping[str, Embeddings], **options: Any
) -> dict[str, dict[Hashable, np.ndarray]]:
    """The same features asked about something else (Reevaluating, Sec. 4.4): task -> ``average_precisions``.

    Args:
        pairs: method -> (queries, gallery); the labels that they carry play no part.
        pictures: task -> the pictures of queries and gallery with the labels of that task, found by their ids
            (``labelled_by`` makes them). Pictures with the same label are relevant to each other.
        options: those of ``exact_retrieval``.
    """
    found = {}
    for task, labelled in pictures.items():
        known = dict(zip(labelled.ids, labelled.labels, strict=True))
        asked = {method: tuple(_relabelled(e, known) for e in pair) for method, pair in pairs.items()}
        found[task] = average_precisions(asked, **options)
    return found


def _relabelled(e: Embeddings, known: Mapping[str, int]) -> Embeddings:
    return replace(e, labels=np.array([known[name] for name in e.ids]), class_names=())
