"""Every format is written here and must come back as a viewer shows it, to pixel values known by hand."""

import struct
import threading
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crossgap_lib.datasets import decode
from crossgap_lib.datasets.decode import EXTENSIONS, open_picture
from crossgap_lib.errors import UnreadableImage

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    buffer = BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


def pixels(source) -> list:
    """(h, w, 3) as nested lists; checks the mode on the way."""
    image = open_picture(source)
    assert image.mode == "RGB"
    return np.asarray(image).tolist()


def row(*colours: tuple, mode: str) -> Image.Image:
    """One line of pixels."""
    image = Image.new(mode, (len(colours), 1))
    image.putdata(colours)
    return image


def png(width: int, depth: int, colour_type: int, line: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of one line, written by hand, since Pillow writes no 16-bit colour and no odd chunks."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + line)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in parts
    )


@pytest.fixture(scope="module")
def noise() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))


# --- plain pictures and deeper or fewer bits ---------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["PNG", "BMP", "TIFF", "PPM", "ICO"])
def test_lossless_rgb_comes_back_exactly(fmt, tmp_path):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    path = tmp_path / f"bild-é.{fmt.lower()}"
    path.write_bytes(encoded(image, fmt, **({"sizes": [(32, 32)]} if fmt == "ICO" else {})))
    assert pixels(path) == np.asarray(image).tolist()
    assert pixels(str(path)) == pixels(path.read_bytes())


@pytest.mark.parametrize(("fmt", "options"), [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("AVIF", {})])
def test_lossy_rgb_comes_back_nearly(fmt, options):
    image = Image.new("RGB", (32, 32), RED)
    image.paste(BLUE, (16, 0, 32, 32))
    shown = np.asarray(open_picture(encoded(image, fmt, **options)), dtype=int)  # (32, 32, 3)
    assert abs(shown[8, 4] - RED).max() < 12
    assert abs(shown[8, 28] - BLUE).max() < 12


def test_greyscale_and_one_bit_become_grey_rgb():
    assert pixels(encoded(row(0, 100, 255, mode="L"), "PNG")) == [[[v] * 3 for v in (0, 100, 255)]]
    assert pixels(encoded(row(0, 255, mode="1"), "PNG")) == [[[0] * 3, [255] * 3]]


def test_palette_colours():
    assert pixels(encoded(row(RED, GREEN, mode="RGB").quantize(2), "PNG")) == [[list(RED), list(GREEN)]]


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_scaled_not_clipped(fmt):
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert pixels(encoded(image, fmt)) == [[[v] * 3 for v in (0, 100, 255)]]


def test_big_endian_sixteen_bit_tiff_and_pgm():
    values = np.array([[0, 257 * 100, 65535]])
    shown = [[[v] * 3 for v in (0, 100, 255)]]
    assert pixels(b"P5 3 1 65535\n" + values.astype(">u2").tobytes()) == shown  # Pillow's mode I
    assert pixels(encoded(Image.frombytes("I;16B", (3, 1), values.astype(">u2").tobytes()), "TIFF")) == shown


def test_sixteen_bit_png_with_colour_and_with_alpha():
    assert pixels(png(1, 16, 2, struct.pack(">HHH", 257 * 10, 257 * 20, 65535))) == [[[10, 20, 255]]]
    assert pixels(png(1, 16, 4, struct.pack(">HH", 0, 0))) == [[list(WHITE)]]  # grey and alpha, see-through


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        ([0.0, 0.2, 1.0], [0, 51, 255]),  # fractions
        ([0.0, 7.0, 255.0], [0, 7, 255]),  # bytes in floats
        ([0.0, 257.0 * 9, 65535.0], [0, 9, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),  # no usual range: stretched
        ([0.0, 50000.0, 100000.0], [0, 128, 255]),
        ([0.5, np.nan, np.inf], [128, 0, 255]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([-3.0, -3.0, -3.0], [0, 0, 0]),
    ],
)
def test_float_tiff(stored, shown):
    image = Image.fromarray(np.array([stored], dtype=np.float32))
    assert pixels(encoded(image, "TIFF")) == [[[v] * 3 for v in shown]]


def test_int_beyond_sixteen_bits_is_stretched():
    image = Image.fromarray(np.array([[0, 500_000, 1_000_000]], dtype=np.int32))
    assert pixels(encoded(image, "TIFF")) == [[[v] * 3 for v in (0, 128, 255)]]


# --- transparency, on white --------------------------------------------------------------------------------


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_alpha_lies_on_white(fmt):
    image = row((*RED, 255), (*RED, 0), (*RED, 51), mode="RGBA")
    assert pixels(encoded(image, fmt)) == [[list(RED), list(WHITE), [255, 204, 204]]]


def test_grey_with_alpha_lies_on_white():
    assert pixels(encoded(row((0, 255), (0, 0), (0, 51), mode="LA"), "PNG")) == [[[0] * 3, [255] * 3, [204] * 3]]


def test_webp_with_alpha_lies_on_white():
    image = row((*BLUE, 255), (*BLUE, 0), mode="RGBA")
    assert pixels(encoded(image, "WEBP", lossless=True)) == [[list(BLUE), list(WHITE)]]


def test_palette_with_one_transparent_colour_and_with_alpha_a_colour():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    assert pixels(encoded(image, "PNG", transparency=1)) == [[list(RED), list(WHITE), list(BLUE)]]
    assert pixels(encoded(image, "GIF", transparency=1)) == [[list(RED), list(WHITE), list(BLUE)]]
    many = encoded(image, "PNG", transparency=bytes([255, 0, 51]))
    assert pixels(many) == [[list(RED), list(WHITE), [204, 204, 255]]]


def test_transparent_colour_of_grey_and_rgb_png():
    grey = encoded(row(10, 20, mode="L"), "PNG", transparency=10)
    assert pixels(grey) == [[list(WHITE), [20] * 3]]
    assert pixels(encoded(row(RED, BLUE, mode="RGB"), "PNG", transparency=RED)) == [[list(WHITE), list(BLUE)]]


# --- CMYK --------------------------------------------------------------------------------------------------


def test_cmyk_tiff_and_adobe_jpeg():
    inks = {(0, 255, 255, 0): RED, (255, 0, 255, 0): GREEN, (0, 0, 0, 0): WHITE, (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        image = Image.new("CMYK", (16, 16), ink)
        jpeg = encoded(image, "JPEG", quality=95)
        assert b"Adobe" in jpeg  # the marker that says the inks are stored inverted
        assert abs(np.asarray(open_picture(jpeg), dtype=int) - colour).max() < 8
        assert pixels(encoded(image, "TIFF"))[0][0] == list(colour)


# --- EXIF rotation -----------------------------------------------------------------------------------------

# EXIF 2.3, tag 274: where the first stored row and the first stored column are in the shown picture.
SIDES = {
    1: ("top", "left"),
    2: ("top", "right"),
    3: ("bottom", "right"),
    4: ("bottom", "left"),
    5: ("left", "top"),
    6: ("right", "top"),
    7: ("right", "bottom"),
    8: ("left", "bottom"),
}


def stored_for(shown: np.ndarray, orientation: int) -> np.ndarray:
    first_row, first_column = SIDES[orientation]
    stored = shown if first_row in ("top", "bottom") else shown.T
    stored = stored[::-1] if first_row in ("bottom", "right") else stored
    return np.ascontiguousarray(stored[:, ::-1] if first_column in ("bottom", "right") else stored)


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", SIDES)
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_exif_rotation(orientation, fmt, dtype):
    shown = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    stored = stored_for(shown, orientation).astype(dtype) * dtype(1 if dtype is np.uint8 else 257)
    picture = open_picture(encoded(Image.fromarray(stored), fmt, exif=exif(orientation)))
    assert np.asarray(picture)[:, :, 0].tolist() == shown.tolist()


@pytest.mark.parametrize("fmt", ["JPEG", "WEBP"])
def test_exif_rotation_of_a_photo(fmt):
    stored = Image.new("RGB", (32, 16), RED)  # on its side: the left of it is shown on top
    stored.paste(BLUE, (0, 0, 16, 16))
    shown = np.asarray(open_picture(encoded(stored, fmt, exif=exif(6))), dtype=int)
    assert shown.shape == (32, 16, 3)
    assert abs(shown[4, 8] - BLUE).max() < 12
    assert abs(shown[28, 8] - RED).max() < 12


def exif_block(*entries: bytes) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", len(entries)) + b"".join(entries) + bytes(4)


TURNED = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0)  # orientation 6
MISTYPED = struct.pack(">HHIHH", 0x010F, 3, 1, 6, 0)  # the maker's name, stored as a number
CUT_OFF = struct.pack(">HHII", 0x010F, 2, 4000, 9000)  # a text that lies beyond the block


@pytest.mark.parametrize(
    ("block", "size"),
    [
        (exif_block(MISTYPED, TURNED), (2, 3)),
        (exif_block(TURNED, CUT_OFF), (2, 3)),
        (exif_block(CUT_OFF), (3, 2)),
        (b"Exif\0\0garbage", (3, 2)),
        (exif_block(struct.pack(">HHIHH", 0x0112, 3, 1, 99, 0)), (3, 2)),
    ],
)
def test_damaged_exif_leaves_the_picture_readable_and_warns_nobody(block, size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(encoded(Image.new("RGB", (3, 2)), "JPEG", exif=block)).size == size


# --- animations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fmt", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})])
def test_first_frame_of_an_animation(fmt, options):
    first, second = Image.new("RGB", (4, 3), RED), Image.new("RGB", (4, 3), BLUE)
    data = encoded(first, fmt, save_all=True, append_images=[second], **options)
    assert Image.open(BytesIO(data)).n_frames == 2
    assert pixels(data) == np.asarray(first).tolist()


# --- what can't be read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"GIF89a", "not a picture"),
        (b"<html>404</html>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),  # would start Ghostscript
        (bytes(1000), "not a picture"),
    ],
)
def test_not_a_picture(content, why, tmp_path):
    path = tmp_path / "666.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImage, match=why) as caught:
        open_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "BytesIO" not in str(caught.value)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(UnreadableImage, match=r"none\.jpg: No such file"):
        open_picture(tmp_path / "none.jpg")
    with pytest.raises(UnreadableImage, match="Is a directory"):
        open_picture(tmp_path)


VARIANTS = [
    *[
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("GIF", {}),
        ("BMP", {}),
        ("PPM", {}),
        ("AVIF", {}),
    ],
    *[("WEBP", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
]


@pytest.mark.parametrize(("fmt", "options"), VARIANTS)
def test_a_truncated_picture_is_refused_never_shown_in_part(fmt, options, noise):
    data = encoded(noise, fmt, **options)
    whole = pixels(data)
    with pytest.raises(UnreadableImage, match="<bytes>: "):
        open_picture(data[: len(data) // 2])
    for end in range(1, len(data), max(1, len(data) // 60)):
        try:
            assert pixels(data[:end]) == whole  # only an end mark was cut off
        except UnreadableImage:
            continue


@settings(deadline=None)  # no test may depend on the clock
@given(st.data())
def test_damaged_bytes_give_a_picture_or_unreadable_image(data):
    image = Image.new("RGB", (9, 7), RED)
    content = bytearray(encoded(image, data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"]))))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[position] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            assert open_picture(bytes(content)).mode == "RGB"
        except UnreadableImage as error:
            assert str(error).startswith("<bytes>: ")  # noqa: PT017


def test_decompression_bomb_is_refused_and_a_large_picture_is_not(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow warns from 100 pixels and refuses from 200
        assert open_picture(encoded(Image.new("RGB", (12, 12)), "PNG")).size == (12, 12)
        with pytest.raises(UnreadableImage, match="decompression bomb"):
            open_picture(encoded(Image.new("RGB", (30, 30)), "PNG"))


def test_other_warnings_are_left_alone():
    open_picture(encoded(Image.new("RGB", (2, 2)), "PNG"))
    before = list(warnings.filters)
    open_picture(encoded(Image.new("RGB", (2, 2)), "PNG"))
    assert warnings.filters == before
    with pytest.warns(UserWarning, match="mine"):
        warnings.warn("mine", stacklevel=1)


def test_extensions_hold_the_usual_ones_and_no_documents():
    assert {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".avif"} <= EXTENSIONS
    assert not EXTENSIONS & {".pdf", ".eps", ".db", ".txt", ".json", ".mpg"}


# --- memory -----------------------------------------------------------------------------------------------------


def decoded_together(monkeypatch, pictures: int, bound: float, wait: float) -> int:
    """How many of some pictures are between file and RGB at once, where the bound is so many pictures."""
    data, inside, most = encoded(Image.new("L", (8, 8)), "PNG"), [], []
    company = threading.Event()
    monkeypatch.setattr(decode, "_room", decode._Room(int(bound * 64 * decode._OF_A_PIXEL)))

    def slow(image):
        inside.append(1)
        most.append(len(inside))
        if len(inside) > 1:
            company.set()
        company.wait(wait)  # for another to come in
        inside.pop()
        return image.convert("RGB")

    monkeypatch.setattr(decode, "_rgb", slow)
    with ThreadPoolExecutor(pictures) as pool:
        assert all(image.size == (8, 8) for image in pool.map(open_picture, [data] * pictures))
    return max(most)


def test_threads_wait_where_pictures_would_take_too_much_together(monkeypatch):
    assert decoded_together(monkeypatch, 4, bound=1.5, wait=0.1) == 1
    assert decoded_together(monkeypatch, 4, bound=0.5, wait=0.1) == 1  # larger than the bound: one after the other
    assert decoded_together(monkeypatch, 2, bound=2, wait=60) == 2


def test_a_picture_that_fails_leaves_its_room(monkeypatch, noise):
    monkeypatch.setattr(decode, "_room", decode._Room(1))
    data = encoded(noise, "PNG")
    with pytest.raises(UnreadableImage, match="truncated"):
        open_picture(data[: len(data) // 2])
    assert open_picture(data).size == noise.size


@pytest.mark.parametrize("mode", ["I;16", "F"])
def test_deep_grey_is_scaled_block_by_block(mode):
    values = np.random.default_rng(0).integers(0, 65536, (3000, 1500))
    image = Image.fromarray(values.astype(np.uint16 if mode == "I;16" else np.float32))
    tracemalloc.start()
    grey = np.asarray(decode._grey(image, whites=(65535,)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (grey == np.rint(values / 257)).all()
    assert peak < 16 * values.size  # float64 of the whole picture, some of them at once, takes 40 bytes a pixel
