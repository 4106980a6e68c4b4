"""What is kept on disk: the cache, files that are written whole or not at all, and the digests that name both."""

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b, file_digest
from pathlib import Path

from safetensors import SafetensorError

from crossgap_lib.paths import cache_dir

# The folders of the cache; older versions also kept ground truths, which are still cleared.
PARTS = ("embeddings", "inversions", "ground_truth")
# What ``cached`` names a file, with the process id that ``whole`` adds while it is written (for ever, where the process
# was killed); older versions called unfinished files .part.
NAMED_BY_US = re.compile(r"\.?[0-9a-f]{32}(?P<process>\.\d+)?(\.safetensors|\.json|\.part)?")


def digest(facts: Iterable[object]) -> str:
    """32 hex digits that change with any of the facts: bytes count as they are, all else as ``repr`` writes it.

    Other borders between the same bytes give another digest.
    """
    made = blake2b(digest_size=16)
    for fact in facts:
        part = fact if isinstance(fact, bytes) else repr(fact).encode("utf-8", "surrogatepass")
        made.update(len(part).to_bytes(8, "little") + part)
    return made.hexdigest()


def content_digest(path: Path) -> str:
    """128 hex digits of what a file holds, read piece by piece."""
    with path.open("rb") as file:
        return file_digest(file, blake2b).hexdigest()


def cached(part: str, facts: Iterable[object], suffix: str) -> Path:
    """Where what depends on these facts is kept, in one of ``PARTS`` of the cache; the file may not be there yet."""
    return cache_dir() / part / f"{digest(facts)}{suffix}"


def keep(write: Callable[[], object]) -> None:
    """Lets ``write`` write a file of the cache; where it can't, as in a read-only checkout, a warning says so."""
    try:
        write()
    except (OSError, SafetensorError) as error:
        told = f"Nothing is kept, since the cache {cache_dir()} can't be written; CROSSGAP_CACHE names another folder"
        warnings.warn(f"{told}: {error}", stacklevel=2)


@contextmanager
def whole(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A place to write to, which becomes ``path`` when all went well; otherwise nothing is left, and an old file stays.

    With ``lasting`` the file outlives a machine that stops. Folders are made as they are needed. Processes that write
    the same file do not meet: each has a place of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield part
        if lasting:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
