"""Weights and tokenizers from the local cache first, and whatever goes wrong with them in one sentence."""

import logging
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from huggingface_hub import constants as hub
from huggingface_hub import hf_hub_download
from huggingface_hub.utils import EntryNotFoundError, get_session

from crossgap_lib.errors import CrossgapError, one_sentence

T = TypeVar("T")


def cached_first(get: Callable[[], T], what: str, spec: str) -> T:
    """``get()`` from the local cache; only what is missing there asks the network, and only if it answers.

    The hub's client asks the network even for cached files, and retries for three quarters of a minute.
    """
    try:
        with cache_only(), one_sentence(f"The {what} of {spec} can't be loaded", passing=OSError):
            return get()
    except OSError as missing:  # FileNotFoundError of open_clip and timm, OSError of transformers
        if not hub_answers():
            raise CrossgapError(
                f"Not in the local cache: {what} of {spec}, and the hub does not answer; "
                f"run `crossgap fetch {shlex.quote(spec)}` where there is a network."
            ) from missing
    with one_sentence(f"The {what} of {spec} can't be fetched"):
        return get()


@contextmanager
def cache_only() -> Iterator[None]:
    """The hub's offline mode for a moment, without the remarks that open_clip logs on the root logger."""
    offline, level = hub.HF_HUB_OFFLINE, logging.root.manager.disable
    hub.HF_HUB_OFFLINE = True
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        hub.HF_HUB_OFFLINE = offline
        logging.disable(level)


def hub_answers() -> bool:
    try:
        get_session().head(hub.ENDPOINT, timeout=5)  # seconds; its client, so that proxies and mirrors count
    except Exception:  # whatever keeps the hub away, offline mode included
        return False
    return True


def first_on_hub(repo: str, names: tuple[str, ...]) -> Path:
    """The first of these files that the repository holds, in the local cache. Raises FileNotFoundError if none."""
    for name in names:
        with suppress(EntryNotFoundError):
            return Path(hf_hub_download(repo, name))
    raise FileNotFoundError(f"{repo} has none of {', '.join(names)}")
