"""Words that name no class, to make prompts of: do the words behind a projection matter?"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from crossgap_lib.errors import CrossgapError

if TYPE_CHECKING:
    from crossgap_lib.models.encoder import DualEncoder


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
