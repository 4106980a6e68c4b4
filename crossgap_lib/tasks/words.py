"""Words to make prompts of: those that span the projection, and some that name no class."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crossgap_lib.datasets.files import read_lines
from crossgap_lib.datasets.shapes import KINDS
from crossgap_lib.errors import CrossgapError
from crossgap_lib.paths import DATA

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder


IMAGENET_NAMES = DATA / "imagenet" / "names.txt"


def projection_words(class_names: str, data: str, own: Iterable[str] = ()) -> list[str]:
    """The words x of the prompts "a photo of a x" that span the projection; which these are is printed.

    Reevaluating (Sec. 3.3) takes the names of ImageNet's 1000 classes, whatever the data set.

    Args:
        class_names: "imagenet", "own" or a file with a word a line. By default ("") photographs get ImageNet's names,
            and drawn pictures the kinds of the drawn world.
        data: the spec of the pictures.
        own: the names of their classes.

    Raises:
        CrossgapError: a file that can't be read, or fewer than two words.
    """
    if not class_names and data.startswith("world:"):
        words, whose = list(KINDS), "the kinds of the drawn world"
    elif class_names == "own":
        words, whose = list(own), "the classes of the data set"
    else:
        path = IMAGENET_NAMES if class_names in ("", "imagenet") else Path(class_names)
        words = list(read_lines(path).values())
        whose = "ImageNet's classes" if path == IMAGENET_NAMES else f"the lines of {path}"
    if len(words) < 2:
        raise CrossgapError(f"The projection needs two words or more, and there are {len(words)}: {whose}.")
    print(f"{data}: the projection is spanned by {len(words)} names, {whose}.")
    return words


def tokenizer_words(model: "DualEncoder", n: int, *, exclude: Iterable[str] = (), seed: int = 0) -> list[str]:
    """n whole words of the model's vocabulary, drawn with ``seed``: letters alone, three or more.

    Raises:
        CrossgapError: a tokenizer that shows no vocabulary, or fewer words than that.
    """
    tokenizer = getattr(model.tokenizer, "tokenizer", model.tokenizer)  # open_clip wraps Hugging Face's
    entries = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else getattr(tokenizer, "encoder", {})
    words = _whole_words(entries) - set(exclude)
    if len(words) < n:
        raise CrossgapError(f"The tokenizer of {model.name} shows {len(words)} words to draw {n} from.")
    return np.random.default_rng(seed).permutation(sorted(words))[:n].tolist()


def _whole_words(entries: Iterable[str]) -> set[str]:
    """CLIP's BPE ends whole words with </w>; SentencePiece begins them with a mark; word lists mark nothing."""
    for begin, end in (("", "</w>"), ("\u2581", ""), ("", "")):
        marked = {e for e in entries if e.startswith(begin) and e.endswith(end)}
        words = {e.removeprefix(begin).removesuffix(end) for e in marked}
        if found := {w for w in words if len(w) > 2 and w.isascii() and w.isalpha() and w.islower()}:
            return found
    return set()
