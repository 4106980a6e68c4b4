"""What is kept on disk: files that are written whole or not at all, sealed by checksums, and the cache of results."""

import os
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import blake2b, file_digest, sha256
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryFile

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from crossgap_lib.errors import CrossgapError, one_sentence
from crossgap_lib.paths import cache_dir

try:
    from fcntl import LOCK_EX, LOCK_NB, flock
except ImportError:  # Windows, where what a killed process has left is not removed
    flock = None

# The folders of the cache; older versions also kept ground truths, which are still cleared.
PARTS = ("embeddings", "inversions", "ground_truth")
# What ``keep`` names a file, with the random digits that ``whole`` adds while it is written (and that stay where the
# process is killed). Older versions added the number of their process, or called unfinished files .part.
NAMED_BY_US = re.compile(r"\.?[0-9a-f]{32}(?P<process>\.\d+|\.[0-9a-f]{16})?(\.safetensors|\.json|\.part)?")
SEAL = "crossgap_seal"  # under this name the metadata of a file holds its seal
Arrays = Mapping[str, np.ndarray]


class NotWritten(CrossgapError):
    """A file that the disk does not take; its cause is the ``OSError``."""


def _not_written(path: Path, error: OSError) -> NotWritten:
    return NotWritten(f"{path} can't be written: {error.strerror or error}")


# ---------------------------------------------------------------- digests


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


# ---------------------------------------------------------------- whole or not at all


@contextmanager
def whole(path: Path, *, lasting: bool = False) -> Iterator[Path]:
    """A place to write to, which becomes ``path`` when all went well; otherwise nothing is left, and an old file stays.

    With ``lasting`` the file outlives a machine that stops. Folders are made as they are needed. Processes that write
    the same file do not meet: each has a place of its own, under a name that nobody can foresee, where no link is
    followed. What a killed process has left of ``path`` is removed.

    Raises:
        NotWritten: the disk is full, read-only or the like.
    """
    part = held = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        part, held = _begun(path)
        yield part
        if lasting:
            with part.open("rb") as file:
                os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise _not_written(path, error) from error
    finally:
        if part:
            part.unlink(missing_ok=True)
        if held:
            os.close(held)


def check_writable(path: Path) -> None:
    """Raises NotWritten where ``path`` can't be written: to be asked before what takes long."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise _not_written(path, error) from error


def _part_stem(path: Path) -> str:
    """How the names of unfinished files of ``path`` begin; 40 characters leave room for the rest, in any script."""
    return f".{path.stem[:40]}."


def _begun(path: Path) -> tuple[Path, int | None]:
    """A new, empty file beside ``path``, and the descriptor that locks it for as long as this process lives."""
    while True:
        part = path.with_name(f"{_part_stem(path)}{token_hex(8)}{path.suffix}")
        held = os.open(part, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_NOFOLLOW", 0), 0o666)
        if flock is None:
            os.close(held)  # Windows renames no file that is open
            return part, None
        with suppress(OSError):  # some network drives have no locks
            flock(held, LOCK_EX)
        if part.exists():  # nobody took it for abandoned before it was locked
            return part, held
        os.close(held)


def _remove_abandoned(path: Path) -> None:
    """Removes the unfinished files of ``path`` that no living process holds."""
    if flock is None:
        return
    named = re.compile(re.escape(_part_stem(path)) + "[0-9a-f]{16}" + re.escape(path.suffix))
    for name in filter(named.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):  # it is held, or another process was faster
            found = os.open(path.with_name(name), os.O_RDONLY | os.O_NOFOLLOW)
            try:
                flock(found, LOCK_EX | LOCK_NB)
                path.with_name(name).unlink()
            finally:
                os.close(found)


# ---------------------------------------------------------------- what was stored is what is read


def seal(arrays: Arrays, facts: str = "") -> str:
    """``facts``, a digest of what the arrays were made from, a colon, and a checksum of the facts and the arrays.

    One bit that differs in a name, a type, a shape or a value gives another seal.
    """
    made = sha256(facts.encode())
    for name, values in sorted(arrays.items()):
        array = np.asarray(values)
        made.update(repr((name, array.dtype.str, array.shape)).encode("utf-8", "surrogatepass"))
        made.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
    return f"{facts}:{made.hexdigest()}"


def check_seal(
    path: Path,
    told: str,
    arrays: Arrays,
    facts: str | None = None,
    remedy: str = f"remove {SEAL} from its metadata",
) -> None:
    """Compares the seal that a file tells with what was read of it, and with what it should have been made from.

    ``remedy`` is what somebody does who changed the file and wants it read.

    Raises:
        CrossgapError: it does not fit.
    """
    made_from = told.partition(":")[0]
    if seal(arrays, made_from) != told:
        raise CrossgapError(f"{path} is damaged, or was changed since crossgap wrote it (if you changed it, {remedy})")
    if facts is not None and facts != made_from:
        raise CrossgapError(f"{path} is sound, but of another model, other data or other settings than its name says")


def pack(arrays: Arrays, facts: str = "") -> bytes:
    """The content of a safetensors file of these arrays, with its seal; see ``unpack``."""
    return save({name: np.ascontiguousarray(array) for name, array in arrays.items()}, {SEAL: seal(arrays, facts)})


def unpack(path: Path, facts: str) -> dict[str, np.ndarray]:
    """The arrays that ``pack`` was given with these facts.

    Raises:
        CrossgapError: the file can't be read, has no seal, or holds something else.
    """
    with one_sentence(f"{path} is damaged"):  # readers raise nearly anything on such files
        with safe_open(path, "np") as archive:
            told = (archive.metadata() or {}).get(SEAL)
            arrays = {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
        if told is None:
            raise CrossgapError(f"{path} is damaged, or not crossgap's: it has no seal")
        check_seal(path, told, arrays, facts)
    return arrays


# ---------------------------------------------------------------- the cache


def _place(part: str, facts: tuple[object, ...]) -> tuple[Path, str]:
    """Where what depends on these facts is kept, in one of ``PARTS`` of the cache, and the digest of the facts."""
    made_from = digest(facts)
    return cache_dir() / part / f"{made_from}.safetensors", made_from


def kept(part: str, facts: tuple[object, ...]) -> dict[str, np.ndarray] | None:
    """The arrays that the cache keeps under these facts, or None. Where they do not verify, a warning says so."""
    path, made_from = _place(part, facts)
    if not path.is_file():
        return None
    try:
        return unpack(path, made_from)
    except CrossgapError as error:
        warnings.warn(f"A result of the cache is made anew: {error}", stacklevel=4)
        return None


def keep(part: str, facts: tuple[object, ...], arrays: Arrays) -> None:
    """Keeps arrays under these facts; where that can't be done, as in a read-only checkout, a warning says so."""
    path, made_from = _place(part, facts)
    try:
        with whole(path) as unfinished:
            unfinished.write_bytes(pack(arrays, made_from))
    except NotWritten as error:
        told = f"Nothing is kept, since the cache {cache_dir()} can't be written; CROSSGAP_CACHE names another folder"
        warnings.warn(f"{told}: {error}", stacklevel=2)
