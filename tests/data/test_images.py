"""Every kind of file that turns up in a collection, and what becomes of it."""

import contextlib
import io
import os
import struct
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from alzmri.data import images
from alzmri.data.images import NotAnImage, Unreadable, decode, fit, thumbnail

from ..processes import limit

Pixels = NDArray[np.uint8]
Draw = Callable[..., Pixels]
HOSTILE = (
    *("an odd maximum", "text", "comments in text", "line ends of a BMP", "JPEG 2000"),
    *("comments of a JPEG", "chunks before the pixels", "chunks after the pixels"),
    *("comment of a PGM", "blocks after a GIF", "scans of a JPEG", "rows of a TIFF"),
)


@pytest.fixture
def picture(draw: Draw) -> Image.Image:
    return Image.fromarray(draw(1))


def refused(path: Path) -> str:
    with pytest.raises(Unreadable) as caught:
        decode(path)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "gif", "pgm", "jp2", "webp"])
def test_every_format_is_read(tmp_path: Path, picture: Image.Image, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    options: dict[str, Any] = {"lossless": True} if suffix == "webp" else {}
    picture.save(path, **options)
    decoded = decode(path)
    assert np.array_equal(decoded.pixels, np.asarray(picture))
    assert decoded.converted == (suffix in ("gif", "webp"))


def test_content_counts_not_the_name(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "notes.txt", "PNG")
    assert np.array_equal(decode(tmp_path / "notes.txt").pixels, np.asarray(picture))
    text = tmp_path / "scan.jpg"
    text.write_text("patient 12, see folder 3")
    with pytest.raises(NotAnImage):
        decode(text)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("RGB", "jpg"), ("CMYK", "jpg"), ("P", "png"), ("1", "png")],
)
def test_colour_becomes_gray(tmp_path: Path, picture: Image.Image, mode: str, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    colour = picture.convert("RGB")
    (colour.quantize(64) if mode == "P" else colour.convert(mode)).save(path)
    decoded = decode(path)
    assert decoded.converted
    if mode != "1":
        difference = decoded.pixels.astype(int) - np.asarray(picture)
        assert np.abs(difference).mean() < 8


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_transparency_is_laid_on_black(tmp_path: Path, picture: Image.Image, mode: str) -> None:
    transparent = picture.convert(mode)
    alpha = np.full((40, 32), 255, np.uint8)
    alpha[:20] = 0
    transparent.putalpha(Image.fromarray(alpha))
    transparent.save(tmp_path / "x.png")
    decoded = decode(tmp_path / "x.png")
    assert decoded.converted
    assert not decoded.pixels[:20].any()
    assert np.array_equal(decoded.pixels[20:], np.asarray(picture)[20:])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_by_their_range(tmp_path: Path, suffix: str) -> None:
    twelve_bits = np.linspace(100, 4095, 1024).astype(np.uint16).reshape(32, 32)
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(twelve_bits).save(path)
    decoded = decode(path)
    assert decoded.converted
    assert (decoded.pixels.min(), decoded.pixels.max()) == (0, 255)
    assert (np.diff(decoded.pixels.ravel().astype(int)) >= 0).all()


def test_floats_are_scaled_unless_they_are_no_numbers(tmp_path: Path) -> None:
    values = np.linspace(-1, 1, 1024, dtype=np.float32).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert decode(tmp_path / "x.tif").converted
    values[3, 3] = np.nan
    Image.fromarray(values).save(tmp_path / "x.tif")
    assert "not numbers" in refused(tmp_path / "x.tif")


def test_every_exif_orientation_is_applied(tmp_path: Path, picture: Image.Image) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    for orientation, method in turned.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "x.png", exif=exif)
        pixels = decode(tmp_path / "x.png").pixels
        assert np.array_equal(pixels, np.asarray(picture.transpose(method))), orientation


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "bmp"])
@pytest.mark.parametrize("share", [0.5, 0.95])
def test_truncated(tmp_path: Path, picture: Image.Image, suffix: str, share: float) -> None:
    path = tmp_path / f"x.{suffix}"
    picture.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "damaged" in refused(path) or "not an image" in refused(path)


def test_truncated_jpeg_filled_up_with_zeros(tmp_path: Path, picture: Image.Image) -> None:
    path = tmp_path / "x.jpg"
    picture.save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\0"))
    assert "damaged" in refused(path)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A part of a PNG."""
    checksum = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def huge_png() -> bytes:
    """60000 x 60000 pixels in a few bytes."""
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(huge_png())
    assert "more than 4096 pixels a side" in refused(tmp_path / "x")


def test_too_many_bytes(tmp_path: Path) -> None:
    with (tmp_path / "x.jpg").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # sparse: takes no room
    assert refused(tmp_path / "x.jpg") == "larger than 128 MiB"


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp", "mpo"])
def test_several_frames(tmp_path: Path, draw: Draw, suffix: str) -> None:
    frames = [Image.fromarray(draw(seed)) for seed in range(3)]
    path = tmp_path / f"x.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert "several frames" in refused(path)


def test_thousands_of_scans_are_refused(tmp_path: Path, picture: Image.Image) -> None:
    """67 kB of them, each a pass over 4096 x 4096 pixels, take half a minute to decode."""
    path = tmp_path / "x.jpg"
    picture.resize((4096, 4096)).save(path, progressive=True)
    whole = path.read_bytes()
    assert decode(path).pixels.shape == (4096, 4096)
    last = whole.rindex(b"\xff\xda")
    path.write_bytes(whole[:last] + whole[last:-2] * 16 + whole[-2:])
    begin = time.process_time()
    assert "21 scans" in refused(path)
    assert time.process_time() - begin < 1
    # CMYK has the most scans of what libjpeg writes.
    picture.convert("CMYK").save(path, progressive=True)
    assert path.read_bytes().count(b"\xff\xda") == 18
    assert decode(path).pixels.shape == (40, 32)


def hostile(picture: Image.Image, kind: str) -> bytes:
    """An image that would take from several seconds to a minute to decode."""

    def encoded(kind: str) -> bytes:
        file = io.BytesIO()
        picture.save(file, kind)
        return file.getvalue()

    jpeg, png, gif, many = encoded("JPEG"), encoded("PNG"), encoded("GIF"), 2**22
    odd = b"P5\n32 40 200\n" + (np.asarray(picture) // 2).tobytes()
    match kind:
        case "an odd maximum":
            return b"P5 4096 4096 200\n" + bytes((7, 9)) * 2**23
        case "text":
            return b"P2 1025 1024 255\n" + b"7 9 " * (1025 * 512)
        case "comments in text":
            return b"P2 32 40 255\n" + b"#\n" * many + b"7 9 " * 640
        case "line ends of a BMP":
            head = struct.pack("<IiiHHIIiiII", 40, 4096, 4096, 1, 8, 1, 0, 0, 0, 256, 0)
            return b"BM" + struct.pack("<III", 0, 0, 1078) + head + bytes(1024 + 2 * many)
        case "JPEG 2000":
            return encoded("JPEG2000") + bytes(2 * many)
        case "comments of a JPEG":
            return jpeg[:2] + b"\xff\xfe\0\2" * many + jpeg[2:]
        case "chunks before the pixels":
            return png[:33] + chunk(b"aaAa", b"") * many + png[33:]
        case "chunks after the pixels":
            return png[:-12] + chunk(b"aaAa", b"") * many + png[-12:]
        case "comment of a PGM":
            return odd.replace(b"\n", b"\n#" + b"x" * 8 * many + b"\n", 1)
        case "blocks after a GIF":
            return gif[:-1] + bytes(8 * many) + gif[-1:]
        case "scans of a JPEG":
            first = jpeg.index(b"\xff\xda")
            return jpeg[:-2] + (jpeg[first:-2] + bytes(5 * many)) * 2 + jpeg[-2:]
        case _:  # rows of a TIFF: uncompressed, 4096 x 4096 pixels
            tags = {256: 4096, 257: 4096, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 1}
            entries = (
                struct.pack("<HHII", tag, 4, many if tag == 273 else 1, value)
                for tag, value in tags.items()
            )
            ifd = struct.pack("<H", len(tags)) + b"".join(entries)
            return (b"II*\0" + struct.pack("<I", 8) + ifd).ljust(200, b"\0") + bytes(4 * many)


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_takes_long_to_decode_is_refused_soon(
    tmp_path: Path, picture: Image.Image, kind: str
) -> None:
    (tmp_path / "x").write_bytes(hostile(picture, kind))
    begin = time.process_time()
    said = refused(tmp_path / "x")
    assert time.process_time() - begin < limit(2)
    assert "take too long" in said or "takes too long to decode" in said


def test_ordinary_files_of_slow_formats_are_read(tmp_path: Path, picture: Image.Image) -> None:
    path, text = tmp_path / "x.pgm", b" ".join(b"%d" % value for value in np.asarray(picture).flat)
    path.write_bytes(b"P2\n# by hand\n32 40\n255\n" + text)
    assert np.array_equal(decode(path).pixels, np.asarray(picture))
    half = np.asarray(picture) // 2
    path.write_bytes(b"P5 32 40 127\n" + half.tobytes())
    assert np.allclose(decode(path).pixels, half * (255 / 127), atol=1)
    Image.fromarray(np.arange(2**24, dtype=np.uint32).reshape(4096, 4096).astype(np.uint8)).save(
        path
    )
    assert decode(path).pixels.shape == (4096, 4096)


def test_too_small_and_blank(tmp_path: Path) -> None:
    Image.fromarray(np.arange(15 * 40, dtype=np.uint8).reshape(15, 40)).save(tmp_path / "x.png")
    assert refused(tmp_path / "x.png") == "smaller than 16x16 pixels: 40x15"
    for sides in ((16, 40), (4096, 16)):  # the smallest and the largest are usable
        gray = np.arange(sides[0] * sides[1], dtype=np.uint32).reshape(sides) % 251
        Image.fromarray(gray.astype(np.uint8)).save(tmp_path / "x.png")
        assert decode(tmp_path / "x.png").pixels.shape == sides
    Image.new("L", (20, 20), 7).save(tmp_path / "x.png")
    assert refused(tmp_path / "x.png") == "blank: every pixel is 7"


def test_only_regular_files(tmp_path: Path, picture: Image.Image) -> None:
    picture.save(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    assert "symbolic link" in refused(tmp_path / "link.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "pipe.png") == "not a regular file"


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    gradient = Image.fromarray(np.arange(1024).reshape(32, 32).astype(np.uint8))
    folder = tmp_path_factory.mktemp("samples")
    for suffix in ("jpg", "png", "tif", "gif"):
        gradient.save(folder / f"x.{suffix}")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=80, deadline=None)
@given(st.data())
def test_damage_never_escapes(samples: list[bytes], data: st.DataObject) -> None:
    """Whatever happens to a file, it is decoded to pixels or refused."""
    content = bytearray(data.draw(st.sampled_from(samples)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.NamedTemporaryFile() as file:
        file.write(content)
        file.flush()
        with contextlib.suppress(Unreadable):
            assert decode(Path(file.name)).pixels.ndim == 2


@pytest.mark.parametrize(("height", "width", "side"), [(40, 32, 64), (33, 20, 32), (300, 301, 224)])
def test_fit_gives_squares(height: int, width: int, side: int) -> None:
    pixels = np.full((height, width), 200, np.uint8)
    for mode in ("pad", "stretch"):
        fitted = fit(pixels, side, mode)
        assert fitted.shape == (side, side)
        assert fitted.dtype == np.uint8
    assert (fit(pixels, side, "stretch") == 200).all()


def test_pad_adds_black_evenly_to_the_short_side() -> None:
    fitted = fit(np.full((64, 32), 200, np.uint8), 32, "pad")
    assert not fitted[:, :8].any()
    assert not fitted[:, 24:].any()
    assert (fitted[:, 8:24] == 200).all()


def _disc(radius: float) -> NDArray[np.float64]:
    """``[96, 80]``: an ellipse with a bright stripe down the middle, and brighter below."""
    y, x = np.mgrid[:96, :80] - np.array([47.5, 39.5])[:, None, None]
    inside = (x / (0.8 * radius)) ** 2 + (y / radius) ** 2 < 1
    return np.where(inside, 120 + 40 * (abs(x) < 12) + 30 * (y > 0), 0.0)


@settings(max_examples=30, deadline=None)
@given(
    border=st.tuples(*[st.integers(0, 30)] * 4),
    width=st.floats(0.6, 3),
    height=st.floats(0.6, 3),
    gain=st.floats(0.7, 1.2),
    offset=st.floats(0, 30),
)
def test_thumbnail_is_of_the_head_wherever_it_is(
    border: tuple[int, int, int, int], width: float, height: float, gain: float, offset: float
) -> None:
    plain = _disc(40).astype(np.uint8)
    bright = np.rint(np.clip(_disc(40) * gain + offset, 0, 255)).astype(np.uint8)
    padded = cv2.copyMakeBorder(bright, *border, cv2.BORDER_CONSTANT, value=0)
    copy = cv2.resize(padded, None, fx=width, fy=height, interpolation=cv2.INTER_AREA)
    first, second = thumbnail(plain), thumbnail(np.asarray(copy, np.uint8))
    alike = [np.corrcoef(first.ravel(), view.ravel())[0, 1] for view in (second, first[::-1])]
    # Little is left of a disc that is small and dim: one upside down may be as like by a hair.
    assert alike[1] < alike[0] + 0.01


@pytest.mark.parametrize("degrees", [-17, 6, 100])
def test_thumbnail_is_upright_however_the_head_is_turned(degrees: int) -> None:
    plain = cv2.copyMakeBorder(_disc(40).astype(np.uint8), 20, 20, 28, 28, cv2.BORDER_CONSTANT)
    matrix = cv2.getRotationMatrix2D((67.5, 67.5), -degrees, 1)
    turned = np.asarray(cv2.warpAffine(plain, matrix, (136, 136)), np.uint8)
    first, second = thumbnail(plain), thumbnail(turned)
    same = [np.corrcoef(first.ravel(), view.ravel())[0, 1] for view in (second, second[::-1])]
    assert max(same) > 0.97
