"""Pictures and texts -> Embeddings. Threads decode pictures while the encoder works, and results are cached."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.vector_files import of_arrays, to_arrays
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.progress import bar
from crossgap_lib.store import keep, kept

if TYPE_CHECKING:
    from crossgap_lib.datasets.dataset import Dataset
    from crossgap_lib.models.encoder import DualEncoder

_ENCODE_VERSION = 3  # part of every cache key: raise it whenever encoding changes


class NothingReadable(CrossgapError):
    """Not one picture of a data set could be decoded; ``skipped`` says why, path first."""

    def __init__(self, name: str, skipped: list[str]):
        super().__init__(f"None of the {len(skipped)} pictures of {name} can be decoded: {skipped[0]}")
        self.skipped = skipped


def _cached(
    facts: Sequence[object],
    compute: Callable[[], Embeddings],
    use_cache: bool,
    retry_skipped: Callable[[Embeddings], Embeddings] = lambda kept: kept,
) -> Embeddings:
    """The embeddings that the cache holds under these facts; where it holds none, they are computed and kept.

    ``retry_skipped`` takes what the cache holds and returns that or, where it could add something, other embeddings,
    which are then kept in its place.
    """
    facts = (_ENCODE_VERSION, *facts)
    arrays = kept("embeddings", facts) if use_cache else None
    found = None if arrays is None else Embeddings(**of_arrays(arrays))
    made = compute() if found is None else retry_skipped(found)
    if use_cache and made is not found:
        keep("embeddings", facts, to_arrays(made.columns()))
    return made


def _decode(dataset: "Dataset", row: int, preprocess: Any) -> Tensor | UnreadableImage:
    try:
        return preprocess(dataset.load(row))
    except UnreadableImage as error:
        return error


def pixel_batches(model: "DualEncoder", dataset: "Dataset", size: int) -> Iterator[list[Tensor | UnreadableImage]]:
    """Batches of ``size`` decoded pictures, (3, h, w) each, or why one can't be decoded.

    Threads read the next batch while the encoder works on this one.
    """
    starts = range(0, len(dataset), size)
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:

        def submit(start: int) -> list:
            rows = range(start, min(start + size, len(dataset)))
            return [pool.submit(_decode, dataset, row, model.preprocess) for row in rows]

        pending = submit(0)
        for start in starts:
            current, pending = pending, submit(start + size)
            yield [future.result() for future in current]


def encode_images(
    model: "DualEncoder",
    dataset: "Dataset",
    *,
    before_projection: bool = False,
    batch_size: int = 64,
    cache: bool = True,
) -> Embeddings:
    """Image features of a data set: (n - skipped, d).

    Pictures that can't be decoded are skipped; ``meta["skipped"]`` lists each with the reason, its path first, and
    ``skip_report`` sums them up. Those that a cached result lacks are tried again, since the cause may have passed (a
    drive that was not mounted). ``before_projection`` gives what the encoder's last linear map takes, which
    ``projection.isoclip`` needs; ``meta`` says so.

    Raises:
        CrossgapError: the data set is empty, or the encoder does not end in a linear map; NothingReadable: none of its
            pictures can be decoded.
    """
    if len(dataset) == 0:
        raise CrossgapError(f"{dataset.name} holds no pictures.")
    labels = None if dataset.labels is None else dataset.labels.tolist()
    of_data = (dataset.fingerprint, dataset.class_names, labels, _first_captions(dataset))
    facts = ("image", model.fingerprint, model.precision, *of_data, *_stage(before_projection))

    def encode(part: "Dataset") -> Embeddings:
        return _encode_images(model, part, batch_size, before_projection)

    return _cached(facts, lambda: encode(dataset), cache, lambda kept: _with_skipped(kept, dataset, encode))


def _stage(before_projection: bool) -> tuple[str, ...]:
    """What the cache's key says of it; ``_stage_note``: what meta says."""
    return ("before projection",) if before_projection else ()


def _stage_note(before_projection: bool) -> dict[str, bool]:
    return {"before_projection": True} if before_projection else {}


def _first_captions(dataset: "Dataset") -> list[str] | None:
    return None if dataset.captions is None else [several[0] for several in dataset.captions]


def _encode_images(model: "DualEncoder", dataset: "Dataset", batch_size: int, before_projection: bool) -> Embeddings:
    features, rows, skipped = [], [], []
    progress = bar(total=len(dataset), desc="encoding pictures", unit="picture")
    for k, batch in enumerate(pixel_batches(model, dataset, batch_size)):
        numbered = enumerate(batch, start=k * batch_size)
        readable = [(row, p) for row, p in numbered if not isinstance(p, UnreadableImage)]
        skipped += [str(p) for p in batch if isinstance(p, UnreadableImage)]
        if readable:
            rows += [row for row, _ in readable]
            pixels = torch.stack([p for _, p in readable])
            features.append(model.encode_pixels(pixels, before_projection=before_projection).float().cpu())
        progress.update(len(batch))
    if not features:
        raise NothingReadable(dataset.name, skipped)
    meta = {"model": model.name, "dataset": dataset.name, "skipped": skipped, **_stage_note(before_projection)}
    return _of_rows(dataset, np.array(rows), torch.cat(features), meta)


def _with_skipped(kept: Embeddings, dataset: "Dataset", encode: Callable[["Dataset"], Embeddings]) -> Embeddings:
    """``kept`` with those skipped pictures that can be decoded now, in the data set's order."""
    if not kept.meta["skipped"]:
        return kept
    row_of = {name: row for row, name in enumerate(dataset.ids.tolist())}
    rows = [row_of.pop(name) for name in kept.ids]  # the rows that stay in row_of were skipped
    try:
        found = encode(dataset[list(row_of.values())])
    except NothingReadable:
        return kept
    rows = np.array(rows + [row_of[name] for name in found.ids])
    order = rows.argsort()
    features = torch.cat([kept.features, found.features])[torch.from_numpy(order)]
    return _of_rows(dataset, rows[order], features, kept.meta | {"skipped": found.meta["skipped"]})


def _of_rows(dataset: "Dataset", rows: np.ndarray, features: Tensor, meta: dict[str, Any]) -> Embeddings:
    """Features (m, d) of rows (m,) of the data set, with all that is known of them."""
    captions = _first_captions(dataset)
    return Embeddings(
        features,
        ids=dataset.ids[rows],
        labels=None if dataset.labels is None else dataset.labels[rows],
        class_names=dataset.class_names,
        modality="image",
        texts=None if captions is None else [captions[row] for row in rows],
        meta=meta,
    )


def skip_report(embeddings: Embeddings) -> str:
    """One sentence on the pictures that could not be decoded."""
    skipped = embeddings.meta.get("skipped", [])
    if not skipped:
        return f"All {len(embeddings)} pictures were read."
    return skip_sentence(skipped, len(embeddings) + len(skipped))


def skip_sentence(skipped: Sequence[str], total: int) -> str:
    """How many of ``total`` pictures are missing, and why the first three are."""
    shown = "; ".join(skipped[:3]) + ("; ..." if len(skipped) > 3 else "")
    return f"{len(skipped)} of {total} pictures could not be decoded and were skipped: {shown}"


def encode_texts(
    model: "DualEncoder",
    texts: Sequence[str],
    *,
    ids: Sequence[str] | None = None,
    labels: Sequence[int] | None = None,
    class_names: Sequence[str] = (),
    before_projection: bool = False,
    batch_size: int = 256,
    cache: bool = True,
) -> Embeddings:
    """Text features: (n, d). ``ids`` default to text-000000, ...; ``before_projection`` as for ``encode_images``.

    Raises:
        CrossgapError: no texts, something that is not a string, or a model without a text encoder.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    if not texts or not all(isinstance(t, str) for t in texts):
        raise CrossgapError("encode_texts needs at least one text, and strings only.")
    ids = [f"text-{k:06d}" for k in range(len(texts))] if ids is None else list(ids)

    def encode(part: list[str]) -> Tensor:
        return model.encode_tokens(model.tokenize(part), before_projection=before_projection).float().cpu()

    def compute() -> Embeddings:
        starts = bar(range(0, len(texts), batch_size), desc="encoding texts", unit="batch")
        features = [encode(texts[s : s + batch_size]) for s in starts]
        meta = {"model": model.name, **_stage_note(before_projection)}
        return Embeddings(torch.cat(features), ids, labels, tuple(class_names), "text", texts, meta)

    columns = (list(ids), None if labels is None else list(map(int, labels)), tuple(class_names))
    facts = ("text", model.fingerprint, model.precision, texts, *columns, *_stage(before_projection))
    return _cached(facts, compute, cache)
