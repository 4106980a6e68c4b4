"""Decoding: one picture file -> the RGB picture that a viewer shows, or one clear error."""

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from threading import Condition

import numpy as np
from PIL import Image, UnidentifiedImageError

from crossgap_lib.errors import UnreadableImage

# What browsers and photo viewers show. Pillow reads more formats, but EPS starts another program, and TGA has no
# signature, so that any file would pass for a picture.
FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
EXTENSIONS = frozenset(ext for ext, name in Image.registered_extensions().items() if name in FORMATS)

_ORIENTATION = 0x0112  # EXIF tag
_UPRIGHT = {  # EXIF orientation -> what turns the stored pixels upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_AT_ONCE = 2**31  # bytes that pictures may take together while threads decode them
_OF_A_PIXEL = 20  # bytes at most: four of the picture, in each of five states between the file and RGB on white
_BLOCK = 2**20  # pixels that are scaled at a time: 8 MB in float64
_PILLOW = re.compile(r"PIL\.")
_HUSHED = ("ignore", None, Warning, _PILLOW, 0)


def open_picture(source: str | os.PathLike | bytes) -> Image.Image:
    """The picture in a file, or in the bytes of one, in mode RGB, as a viewer shows it.

    EXIF rotation is applied and transparency lies on white. Greyscale of 16 bits or of floats is scaled, not clipped,
    to 8 bits. Of an animation the first frame is taken. Colour profiles are ignored, as CLIP's own preprocessing does.

    Threads that decode large pictures wait for each other, so that together they take 2 GiB, or what the largest takes.

    Raises:
        UnreadableImage: the picture can't be decoded whole; the message has the path and the reason (missing, empty,
            truncated, damaged, not a picture, or so large that it may be an attack on the memory).
    """
    _hush_pillow()
    try:
        return _decode(source if isinstance(source, bytes) else Path(source).read_bytes())
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged files: struct.error, KeyError
        name = "<bytes>" if isinstance(source, bytes) else os.fspath(source)
        raise UnreadableImage(f"{name}: {_reason(error)}") from error


def _decode(data: bytes) -> Image.Image:
    if not data:
        raise ValueError("the file is empty")
    with Image.open(BytesIO(data), formats=FORMATS) as image, _room.taken(image.width * image.height * _OF_A_PIXEL):
        image.load()
        return _rgb(_upright(image))


class _Room:
    """Bytes that threads share: who finds too few left waits, and who needs more than there are waits for all."""

    def __init__(self, most: int):
        self.most, self.left, self.changed = most, most, Condition()

    @contextmanager
    def taken(self, size: int) -> Iterator[None]:
        size = min(size, self.most)
        with self.changed:
            self.changed.wait_for(lambda: size <= self.left)
            self.left -= size
        try:
            yield
        finally:
            with self.changed:
                self.left += size
                self.changed.notify_all()


_room = _Room(_AT_ONCE)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not a picture, or not in a format that is read here"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose would write the EXIF block anew, which fails if another tag in it is damaged.
    turn = _UPRIGHT.get(image.getexif().get(_ORIENTATION))
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # also I;16, I;16B
        return _grey(image, whites=(65535,)).convert("RGB")
    if image.mode == "F":
        return _grey(image, whites=(1, 255, 65535)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _grey(image: Image.Image, whites: tuple[int, ...]) -> Image.Image:
    """A picture of 8 bits out of deeper pixels.

    0 becomes black, and the least of ``whites`` that no pixel exceeds becomes white. If a pixel is negative or exceeds
    every white, the least pixel becomes black and the greatest white. NaN becomes black.
    """
    rows = max(1, _BLOCK // image.width)
    parts = np.split(np.asarray(image), range(rows, image.height, rows))  # views (rows, w)
    finite = [float(end) for part in parts for end in _ends(part[np.isfinite(part)])] or [0.0]
    low, high = min(finite), max(finite)
    white = next((w for w in whites if low >= 0 and high <= w), None)
    if white is not None:
        low, high = 0, white

    def scaled(part: np.ndarray) -> np.ndarray:
        values = np.nan_to_num(part.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)

    return Image.fromarray(np.concatenate([scaled(part) for part in parts]))


def _ends(values: np.ndarray) -> tuple:
    """The least and the greatest value, where there are any."""
    return (values.min(), values.max()) if values.size else ()


def _hush_pillow() -> None:
    # The filter is added once and stays. ``warnings.catch_warnings`` exchanges the filters of the whole process, so
    # that of two threads that decode at the same time one could leave the other's. It is looked up first, since
    # adding it again would make Python repeat the warnings that it shows only once.
    if _HUSHED not in warnings.filters:
        warnings.filterwarnings("ignore", module=_PILLOW.pattern)
