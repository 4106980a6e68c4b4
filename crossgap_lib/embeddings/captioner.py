"""Captions in the place of inversion: a picture is described, and its description is the query (Cross the Gap, App. G).

Table A7 takes captions of DeCap and CoCa. Here they come from a CoCa of open_clip, from a file, or from the data set,
if it has captions: a captioner can hardly describe a picture better than these do.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from crossgap_lib.datasets.caption_files import read_captions
from crossgap_lib.datasets.files import read_json_lines
from crossgap_lib.embeddings.embeddings import Embeddings
from crossgap_lib.embeddings.encode import encode_texts, pixel_batches
from crossgap_lib.errors import CrossgapError, UnreadableImage
from crossgap_lib.progress import bar
from crossgap_lib.store import whole

if TYPE_CHECKING:
    from crossgap_lib.datasets.dataset import Dataset
    from crossgap_lib.models.encoder import DualEncoder

_MIN_LENGTH = 5  # tokens, SOT among them, before EOT may follow, as in open_clip's CoCa.generate


def generated_captions(
    captioner: "DualEncoder", photos: "Dataset", *, max_tokens: int = 30, batch_size: int = 16
) -> dict[str, str]:
    """{id: caption} of the pictures, by greedy decoding; pictures that can't be decoded are left out.

    open_clip's own ``CoCa.generate`` searches by beams and needs an older transformers than the one that is pinned.

    Args:
        captioner: a CoCa of open_clip, such as ``load_model("coca_ViT-B-32,laion2b_s13b_b90k")``.
        max_tokens: the most tokens of a caption, SOT and EOT among them.

    Raises:
        CrossgapError: the model has no text decoder, or ``max_tokens`` does not fit its context.
    """
    decoder = getattr(captioner.net, "text_decoder", None)
    if decoder is None:
        raise CrossgapError(f"{captioner.name} writes no captions; open_clip's coca_ models do.")
    if not _MIN_LENGTH < max_tokens <= captioner.context_length:
        raise CrossgapError(f"max_tokens must lie between {_MIN_LENGTH + 1} and {captioner.context_length}.")
    captions, batches = {}, pixel_batches(captioner, photos, batch_size)
    for k, batch in enumerate(bar(batches, desc="captions", unit="batch")):
        ids = photos.ids[k * batch_size :][: len(batch)]
        readable = [(name, p) for name, p in zip(ids, batch, strict=True) if not isinstance(p, UnreadableImage)]
        if readable:
            texts = decode_greedily(captioner, torch.stack([p for _, p in readable]), max_tokens)
            captions |= {str(name): text for (name, _), text in zip(readable, texts, strict=True)}
    return captions


@torch.no_grad()
def decode_greedily(captioner: "DualEncoder", pixels: Tensor, max_tokens: int) -> list[str]:
    """(b, 3, h, w) pixels -> b captions; each next token is the likeliest one, until EOT or ``max_tokens``."""
    start, end = (int(captioner.tokenize("")[0][k]) for k in (0, 1))
    with captioner.autocast():
        latent, embedded = captioner.net._encode_image(pixels.to(captioner.device))
        ids = torch.full((len(pixels), 1), start, device=latent.device)
        done = torch.zeros(len(pixels), dtype=torch.bool, device=latent.device)
        while ids.shape[1] < max_tokens and not done.all():
            told = {"image_latent": latent, "image_embs": embedded, "output_labels": False}
            logits = captioner.net(None, ids, **told)["logits"][:, -1].float()  # (b, vocabulary)
            if ids.shape[1] < _MIN_LENGTH:
                logits[:, end] = -torch.inf
            following = torch.where(done, end, logits.argmax(dim=1))
            ids = torch.cat([ids, following[:, None]], dim=1)
            done |= following == end
    return [_words(captioner, row, end) for row in ids[:, 1:].tolist()]


def _words(captioner: "DualEncoder", ids: list[int], end: int) -> str:
    return captioner.tokenizer.decode(ids[: ids.index(end)] if end in ids else ids).strip()


# ---------------------------------------------------------------- captions that are there


def known_captions(photos: "Dataset") -> dict[str, str]:
    """{id: the first caption of each picture}, which is what a perfect captioner might say.

    Raises:
        CrossgapError: the data set has no captions.
    """
    if photos.captions is None:
        raise CrossgapError(f"{photos.name} has no captions; name a file of captions or a captioner.")
    return {str(name): several[0] for name, several in zip(photos.ids, photos.captions, strict=True)}


def save_captions(captions: Mapping[str, str], path: str | Path) -> Path:
    """Writes a line {"id": ..., "caption": ...} for each caption; the file is written whole or not at all.

    Raises:
        CrossgapError: a disk that is full or read-only.
    """
    path = Path(path)
    lines = (json.dumps({"id": name, "caption": text}, ensure_ascii=False) for name, text in captions.items())
    with whole(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def load_captions(path: str | Path) -> dict[str, str]:
    """{id: caption} from a .jsonl file of ``save_captions``; of any other caption file, each picture's first caption.

    Raises:
        CrossgapError: the file can't be read, a line lacks its id or caption, or an id comes twice.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        return {row.name: row.captions[0] for row in read_captions(path)}
    captions: dict[str, str] = {}
    for number, entry in read_json_lines(path).items():
        name, text = entry.get("id"), entry.get("caption")
        if not isinstance(name, str) or not isinstance(text, str) or not text.strip():
            raise CrossgapError(f'{path}: line {number} must be {{"id": ..., "caption": ...}} with words for both.')
        if name in captions:
            raise CrossgapError(f"{path}: line {number} holds a caption of {name!r}, which has one already.")
        captions[name] = text.strip()
    return captions


def encode_captions(model: "DualEncoder", captions: Mapping[str, str], images: Embeddings) -> Embeddings:
    """The captions of ``images`` as text features (n, d), under the ids and labels of the pictures.

    Since a caption has its picture's id, ``metrics.retrieval`` can leave out the picture that a query describes.

    Raises:
        CrossgapError: a picture has no caption.
    """
    missing = [name for name in images.ids.tolist() if name not in captions]
    if missing:
        raise CrossgapError(f"{len(missing)} of {len(images)} pictures have no caption, the first is {missing[0]}.")
    texts = [captions[name] for name in images.ids.tolist()]
    return encode_texts(model, texts, ids=images.ids, labels=images.labels, class_names=images.class_names)
