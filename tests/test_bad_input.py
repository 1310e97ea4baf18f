"""Inputs that are odd, damaged or hostile: each is read as documented, or refused in one sentence with exit code 2."""

import functools
import io
import json
import math
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageFile, features

from blurtrain import backbones, images, parsers, psf
from blurtrain.cli import main
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, plain
from blurtrain.decoding import Geometry, decode
from blurtrain.errors import BackboneError, BlurtrainError, ConfigError, DataError
from blurtrain.folder_source import FolderSource
from blurtrain.images import MEND, ImageSet, load
from blurtrain.kernels import kernel
from blurtrain.options import GROUPS, read_yaml
from tests.test_decoding import COLOUR, bomb, encode, exif

pytestmark = pytest.mark.usefixtures("here")

GEOMETRY = Geometry(18, 16)

Refused = Callable[..., str]


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with exit code 2; gives its one sentence."""

    def run(*words: str) -> str:
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        return sentence_of(err)

    return run


def sentence_of(err: str) -> str:
    *earlier, last = err.removesuffix("\n").split("\n")
    assert last.startswith("blurtrain: error: ")
    assert "Traceback" not in err
    assert "blurtrain: error: " not in "".join(earlier)
    return last.removeprefix("blurtrain: error: ")


# a) images: what they hold


def png(pixels: np.ndarray, depth: int, colour: int, *extra: bytes) -> bytes:
    """A PNG file of a depth and colour type that Pillow cannot write; rows are packed already."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    width = pixels.shape[1] * pixels.itemsize * 8 // depth // {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width, len(pixels), depth, colour, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    parts = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


DEEP = np.random.default_rng(1).integers(0, 65536, (5, 7, 4), dtype=np.uint16)
BIG_ENDIAN = DEEP.astype(">u2")
RED, GREEN, BLUE = (Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue"))
INK = (40, 90, 160, 30)
CMYK = encode(Image.new("CMYK", (16, 16), INK), "JPEG", quality=100)
ADOBE = CMYK.index(b"\xff\xee")  # the marker that says how inks are stored


def printed(ink: Sequence[float]) -> list[int]:
    """RGB of four inks from 0 to 255, by the formula for ideal ones."""
    return [round((255 - part) * (255 - ink[3]) / 255) for part in ink[:3]]


def as_ycck(ink: Sequence[int]) -> list[float]:
    """The inks that stored bytes mean once they are taken for YCbCr (by JFIF) and black, inverted as Adobe does."""
    y, cb, cr, k = (255 - part for part in ink)
    rgb = (y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128))
    return [*(float(np.clip(round(value), 0, 255)) for value in rgb), 255 - k]


def solid(colour: Sequence[int], height: int = 16, width: int = 16) -> np.ndarray:
    return np.full((height, width, 3), colour, np.uint8)


def animated(kind: str, **options: Any) -> bytes:  # noqa: ANN401 - whatever the encoder takes
    frames = [image.copy() for image in (RED, GREEN, BLUE)]  # Pillow keeps another format's settings in an image
    return encode(frames[0], kind, save_all=True, append_images=frames[1:], **options)


def paletted(kind: str, **options: Any) -> bytes:  # noqa: ANN401
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    return encode(image, kind, **options)


PALETTED = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]], np.uint8)
GREY = np.random.default_rng(2).integers(0, 256, (6, 4), dtype=np.uint8)
ALPHA = np.arange(24, dtype=np.uint8).reshape(6, 4)

# What is decoded: bytes, expected pixels, largest difference.
DECODED: dict[str, tuple[bytes, np.ndarray, int]] = {
    "png 16-bit rgb": (png(BIG_ENDIAN[..., :3].reshape(5, -1), 16, 2), DEEP[..., :3] >> 8, 0),
    "png 16-bit rgba": (png(BIG_ENDIAN.reshape(5, -1), 16, 6), DEEP[..., :3] >> 8, 0),
    "png 16-bit grey with alpha": (
        png(BIG_ENDIAN[..., :2].reshape(5, -1), 16, 4),
        np.repeat(DEEP[..., :1] >> 8, 3, axis=2),
        0,
    ),
    "png 2-bit grey": (png(np.array([[0b00011011]], np.uint8), 2, 0), np.repeat([[[0], [85], [170], [255]]], 3, 2), 0),
    "png 4-bit grey": (png(np.array([[0x0F]], np.uint8), 4, 0), np.repeat([[[0], [255]]], 3, axis=2), 0),
    "jpeg cmyk": (CMYK, solid(printed(INK)), 1),
    "jpeg cmyk without adobe's marker": (CMYK[:ADOBE] + CMYK[ADOBE + 16 :], solid(printed(INK)), 1),
    "jpeg ycck": (CMYK[: ADOBE + 15] + b"\2" + CMYK[ADOBE + 16 :], solid(printed(as_ycck(INK))), 2),
    "jpeg stored as rgb": (encode(RED, "JPEG", keep_rgb=True, quality=100), solid((255, 0, 0), 8, 8), 1),
    "jpeg grey": (encode(Image.new("L", (8, 8), 77), "JPEG", quality=100), solid([77] * 3, 8, 8), 0),
    "jpeg progressive": (encode(BLUE, "JPEG", progressive=True, quality=100), solid((0, 0, 255), 8, 8), 3),
    "jpeg with garbage behind it": (encode(BLUE, "JPEG", quality=100) + b"\0garbage" * 99, solid((0, 0, 255), 8, 8), 3),
    "jpeg of two pictures": (encode(RED, "MPO", save_all=True, append_images=[GREEN]), solid((255, 0, 0), 8, 8), 3),
    "gif animated": (animated("GIF"), solid((255, 0, 0), 8, 8), 0),
    "png animated": (animated("PNG"), solid((255, 0, 0), 8, 8), 0),
    "webp animated": (animated("WEBP", lossless=True), solid((255, 0, 0), 8, 8), 0),
    "tiff of three pages": (animated("TIFF"), solid((255, 0, 0), 8, 8), 0),
    "png palette": (paletted("PNG"), PALETTED, 0),
    "png palette, one colour transparent": (paletted("PNG", transparency=1), PALETTED, 0),
    "png palette, transparency by colour": (paletted("PNG", transparency=bytes([0, 128, 255])), PALETTED, 0),
    "gif palette, one colour transparent": (paletted("GIF", transparency=1), PALETTED, 0),
    "png rgba": (encode(Image.fromarray(np.dstack([COLOUR, COLOUR[..., 0]])), "PNG"), COLOUR, 0),
    "webp rgba": (
        encode(Image.fromarray(np.dstack([COLOUR, COLOUR[..., 0]])), "WEBP", lossless=True, exact=True),
        COLOUR,
        0,
    ),
    "tiff rgba": (encode(Image.fromarray(np.dstack([COLOUR, COLOUR[..., 0]])), "TIFF"), COLOUR, 0),
    "png grey with alpha": (
        encode(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"),
        np.repeat(GREY[..., None], 3, axis=2),
        0,
    ),
    "png 1-bit": (
        encode(Image.fromarray(GREY > 99), "PNG"),
        np.repeat(np.where(GREY > 99, 255, 0)[..., None], 3, axis=2),
        0,
    ),
    "tiff 16-bit grey, big-endian": (
        encode(Image.fromarray(BIG_ENDIAN[..., 0]), "TIFF"),
        np.repeat(np.round(DEEP[..., :1] / 257), 3, axis=2),
        0,
    ),
    "tiff 32-bit grey of 16-bit values": (
        encode(Image.fromarray(DEEP[..., 0].astype(np.int32)), "TIFF"),
        np.repeat(np.round(DEEP[..., :1] / 257), 3, axis=2),
        0,
    ),
    "one pixel": (encode(Image.new("RGB", (1, 1), (9, 200, 30)), "PNG"), solid((9, 200, 30), 1, 1), 0),
    "one pixel high": (encode(Image.new("RGB", (30_000, 1), (9, 200, 30)), "PNG"), solid((9, 200, 30), 1, 30_000), 0),
    "one pixel wide": (encode(Image.new("RGB", (1, 30_000), (9, 200, 30)), "PNG"), solid((9, 200, 30), 30_000, 1), 0),
}


@pytest.mark.parametrize("name", DECODED)
@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
def test_odd_image_is_decoded_as_documented(name: str) -> None:
    data, expected, tolerance = DECODED[name]
    pixels = np.asarray(decode(data))
    assert pixels.shape == expected.shape
    np.testing.assert_allclose(pixels.astype(int), expected.astype(int), rtol=0, atol=tolerance)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["grey", "16-bit", "palette", "rgba", "webp"])
def test_image_of_any_kind_is_turned_upright(orientation: int, name: str) -> None:
    stored: dict[str, tuple[Image.Image, str, np.ndarray]] = {
        "grey": (Image.fromarray(GREY), "PNG", GREY),
        "16-bit": (Image.fromarray(GREY.astype(np.uint16) * 257), "PNG", GREY),
        "palette": (Image.fromarray(GREY, "L").convert("P"), "PNG", GREY),
        "rgba": (Image.fromarray(np.dstack([GREY, GREY, GREY, ALPHA])), "PNG", GREY),
        "webp": (Image.fromarray(np.dstack([GREY, GREY, GREY])), "WEBP", GREY),
    }
    image, kind, values = stored[name]
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = np.asarray(decode(encode(image, kind, exif=exif(orientation), **options)))
    upright = turned(values, orientation)
    np.testing.assert_array_equal(pixels, np.repeat(upright[..., None], 3, axis=2))


def turned(values: np.ndarray, orientation: int) -> np.ndarray:
    """What is stored, as it is to be seen (Exif 2.32, 4.6.5): 5 to 8 have their rows as columns."""
    upright = values.T if orientation > 4 else values
    if orientation in (3, 4, 7, 8):  # the stored origin is at the bottom
        upright = upright[::-1]
    return upright[:, ::-1] if orientation in (2, 3, 6, 7) else upright  # or at the right


def claiming(kind: str, side: int) -> bytes:
    """A file of at most a few hundred bytes that claims to hold a square picture of that side."""
    if kind == "PNG":
        return bomb(side, side)
    if kind == "PPM":
        return f"P6 {side} {side} 255 ".encode()
    if kind == "BMP":
        return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 100, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0)
    data = bytearray(encode(Image.new("L", (8, 8)), kind))
    if kind == "GIF":
        data[6:10] = struct.pack("<HH", side, side)
    elif kind == "JPEG":
        place = data.index(b"\xff\xc0")
        data[place + 5 : place + 9] = struct.pack(">HH", side, side)
    elif kind == "TIFF":
        place = struct.unpack("<I", data[4:8])[0]
        for entry in range(place + 2, place + 2 + 12 * int.from_bytes(data[place : place + 2], "little"), 12):
            if int.from_bytes(data[entry : entry + 2], "little") in (256, 257):  # width and length, as long numbers
                data[entry + 2 : entry + 12] = struct.pack("<HII", 4, 1, side)
    elif kind == "WEBP":
        short = struct.pack("<I", side - 1)[:3]
        frame = b"\0" * 6 + b"\7\0\0\7\0\0" + b"\x64\0\0\0" + bytes(data[12:])
        chunks = (b"VP8X", b"\2\0\0\0" + 2 * short), (b"ANIM", b"\0" * 6), (b"ANMF", frame)
        body = b"WEBP" + b"".join(name + struct.pack("<I", len(part)) + part for name, part in chunks)
        data = bytearray(b"RIFF" + struct.pack("<I", len(body)) + body)
    return bytes(data)


@pytest.mark.parametrize("side", [9_460, 16_000, 60_000])
@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "JPEG", "TIFF", "WEBP"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bomb_of_any_format_is_refused_unread(
    kind: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = claiming(kind, min(side, 16_383) if kind == "WEBP" else side)
    assert len(data) < 500
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("pixels were unpacked"))
    with pytest.raises(DataError, match=r"^has .*more than 89,478,485"):
        decode(data)


NOT_DECODED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "is no image in a known format"),
    "text": (b"this is no picture\n" * 20, "is no image in a known format"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "is no image in a known format"),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "is no image in a known format"),
    "pdf": (b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n", "is no image in a known format"),
    "ico": (b"\0\0\1\0\1\0\x08\x08" + b"\0" * 300, "is no image in a known format"),
    "zip": (b"PK\3\4" + b"\0" * 40, "is no image in a known format"),
    "zeros": (b"\0" * 5000, "is no image in a known format"),
    "jpeg cut in its header": (encode(RED, "JPEG")[:30], "cannot be decoded|is no image"),
    "jpeg cut in its pixels": (encode(Image.fromarray(COLOUR), "JPEG")[:-20], "cannot be decoded"),
    "png cut": (encode(Image.fromarray(COLOUR), "PNG")[:-60], "cannot be decoded"),
    "gif cut": (animated("GIF")[:40], "cannot be decoded|is no image"),
    "png of no pixels": (bomb(0, 5), "cannot be decoded|is no image"),
    "tiff of floats": (encode(Image.fromarray(GREY / np.float32(255)), "TIFF"), "has floating-point pixels"),
    "tiff of large numbers": (encode(Image.fromarray(np.array([[0, 70_000]], np.int32)), "TIFF"), "outside 16 bit"),
    "tiff of negative numbers": (encode(Image.fromarray(np.array([[0, -1]], np.int32)), "TIFF"), "outside 16 bit"),
}
if features.check("avif"):
    NOT_DECODED["avif"] = (encode(RED, "AVIF"), "is no image in a known format")


@pytest.mark.parametrize("name", NOT_DECODED)
def test_what_is_no_image_is_refused(name: str) -> None:
    data, reason = NOT_DECODED[name]
    with pytest.raises(DataError, match=reason) as caught:
        decode(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [(1, 1), (1, 2_000), (2_000, 1), (3, 700)])
def test_elongated_image_keeps_its_colour(size: tuple[int, int]) -> None:
    pixels = Geometry(64, 48).apply(Image.new("RGB", size, (9, 200, 30)))
    np.testing.assert_array_equal(pixels, solid((9, 200, 30), 48, 48).transpose(2, 0, 1))


@pytest.mark.parametrize("size", [(1, 1_500_000), (1_500_000, 1)])
def test_too_elongated_image_is_refused_before_it_is_resized(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"px, too elongated to be resized to 64 px$"):
        Geometry(64, 48).apply(Image.new("RGB", size))


# b) the file system


def read(root: Path, **options: Any) -> ImageSet:  # noqa: ANN401 - as `load` takes them
    return load(DataConfig(root=str(root)), GEOMETRY, root.parent / "cache", **options)


def contents(found: ImageSet) -> dict[str, list[bytes]]:
    """Content names of the images of each class."""
    return {name: sorted(found.ids[found.labels == label].tolist()) for label, name in enumerate(found.classes)}


def test_name_says_nothing_about_what_a_file_holds(photo_folder: Path) -> None:
    before = contents(read(photo_folder))
    (photo_folder / "train/red/0.png").rename(photo_folder / "train/red/zero.JPG")
    (photo_folder / "train/red/1.jpg").rename(photo_folder / "train/red/one.tiff")
    assert contents(read(photo_folder)) == before


def test_text_that_is_called_jpg_is_named(photo_folder: Path, refused: Refused) -> None:
    (photo_folder / "train/red/1.jpg").write_text("Error 404\n" * 50)
    sentence = refused("train", "--data.root", str(photo_folder))
    assert sentence.startswith("train/red/1.jpg is no image in a known format (JPEG, ")
    assert sentence.endswith(f"): {MEND}")


LINKS: dict[str, Callable[[Path, Path], object]] = {
    "image within the root": lambda root, _: relink(root / "train/red/0.png", root / "train/red/.kept.png"),
    "image out of the root": lambda root, out: relink(root / "train/red/0.png", out / "0.png"),
    "chain": lambda root, out: [relink(root / "train/red/0.png", out / name) for name in ("0.png", "link")],
    "class folder": lambda root, out: relink(root / "train/red", out / "red"),
    "split folder": lambda root, out: relink(root / "train", out / "anywhere"),
    "all class folders": lambda root, out: [
        relink(folder, out / "-".join(folder.parts[-2:])) for folder in sorted(root.glob("*/*"))
    ],
    "folder in a class": lambda root, out: (
        (root / "train/red/0.png").rename(mkdir(out / "more") / "0.png"),
        linked(root / "train/red/more", out / "more"),
    ),
    "circle in a class": lambda root, _: linked(root / "train/red/again", "."),
    "circle to the root": lambda root, _: linked(root / "train/red/up", root),
    "circle through another link": lambda root, out: (
        relink(root / "train/red", out / "red"),
        linked(out / "red/back", root / "train"),
    ),
    "two circles": lambda root, out: (
        linked(mkdir(out / "x") / "y", mkdir(out / "z")),
        linked(out / "z/x", out / "x"),
        linked(root / "train/red/x", out / "x"),
    ),
    "link to itself": lambda root, _: linked(root / "train/red/self", "self"),
    "link to nowhere without a suffix": lambda root, _: linked(root / "train/red/gone", "nowhere"),
    "link to nowhere beside the classes, an image": lambda root, _: linked(root / "train/x.jpg", "nowhere"),
    "hidden link to nowhere": lambda root, _: linked(root / "train/.lock", "nowhere"),
    "folder called like an image": lambda root, _: rename(root, "set.jpg/0.png"),
    "empty folder called like an image": lambda root, _: (root / "train/red/x.jpg").mkdir(),
    "hidden files and folders": lambda root, _: [
        (mkdir(root / folder) / "x.jpg").write_text("no image") for folder in (".old", "train/.old", "train/red/.old")
    ],
    "hidden files in a class": lambda root, _: (root / "train/red/.x.jpg").write_text("no image"),
    "other files": lambda root, _: [
        (root / name).write_text("x") for name in ("readme.txt", "train/list.csv", "train/red/Thumbs.db")
    ],
    "name that is not ascii": lambda root, _: rename(root, "Größe 日本 \N{GRINNING FACE}.png"),
    "name with a line break": lambda root, _: rename(root, "a\nb\tc\x1b[31m.png"),
    "name of 200 characters": lambda root, _: rename(root, "x" * 196 + ".png"),
    "name of 255 bytes": lambda root, _: rename(root, "é" * 125 + "x.png"),
    "name that is no text": lambda root, _: rename(root, os.fsdecode(b"caf\xe9\xff.png")),
    "name that looks like an option": lambda root, _: rename(root, "--config=x.png"),
    "name of a pattern": lambda root, _: rename(root, "[a-z]*?.png"),
    "upper-case suffix": lambda root, _: rename(root, "0.PNG"),
    "deep folders": lambda root, _: rename(root, "d/" * 300 + "0.png"),
}
NOTED = {
    "circle in a class": "train/red/again leads back to a folder that is read anyway: it is left out",
    "circle to the root": "train/red/up leads back to a folder that is read anyway: it is left out",
    "circle through another link": "train/red/back leads back to a folder that is read anyway: it is left out",
    "two circles": "train/red/x/y/x leads back to a folder that is read anyway: it is left out",
    "link to itself": "train/red/self is a link that leads nowhere: it is left out",
    "link to nowhere without a suffix": "train/red/gone is a link that leads nowhere: it is left out",
}


def mkdir(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def linked(path: Path, target: Path | str) -> Path:
    path.symlink_to(target)
    return path


def relink(path: Path, target: Path) -> Path:
    """Move something away and leave a link in its place."""
    return linked(path, path.rename(target))


def rename(root: Path, name: str) -> None:
    path = root / "train/red" / name
    (root / "train/red/0.png").rename(mkdir(path.parent) / path.name)


@pytest.mark.parametrize("name", LINKS)
@pytest.mark.parametrize("layout", ["splits", "classes"])
def test_names_and_links_change_no_image(
    photo_folder: Path, tmp_path: Path, name: str, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_folder if layout == "splits" else photo_folder / "train"
    before = contents(read(root))
    LINKS[name](photo_folder, mkdir(tmp_path / "out"))
    capsys.readouterr()
    after = read(root)
    assert contents(after) == before
    assert after.skipped == {}
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == ([f"note: {photo_folder}/{NOTED[name]}"] if name in NOTED else [])
    json.dumps(after.names, ensure_ascii=False).encode()  # names are text


def test_many_links_to_each_other_do_not_multiply(photo_folder: Path, tmp_path: Path) -> None:
    before = contents(read(photo_folder))
    for level in range(25):  # 2 ** 25 ways to the last folder
        for way in "ab":
            (mkdir(tmp_path / f"farm/{level}") / way).symlink_to(tmp_path / f"farm/{level + 1}")
    mkdir(tmp_path / "farm/25")
    (photo_folder / "train/red/farm").symlink_to(tmp_path / "farm/0")
    assert contents(read(photo_folder)) == before


CLASS = "train/red"
BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "class link to nowhere": (
        lambda root: (root / "train/cyan").symlink_to("nowhere"),
        r"{root}/train/cyan is a link that leads nowhere: mend or remove it",
    ),
    "class link to itself": (
        lambda root: (root / "train/cyan").symlink_to("cyan"),
        r"{root}/train/cyan is a link that leads nowhere: mend or remove it",
    ),
    "class link to the root": (
        lambda root: (root / "train/cyan").symlink_to(root),
        r"{root}/train/cyan is a link to a folder that it lies in: mend or remove it",
    ),
    "split link to nowhere": (
        lambda root: (root / "val").symlink_to("nowhere"),
        r"{root}/val is a link that leads nowhere: mend or remove it",
    ),
    "image link to nowhere": (
        lambda root: (root / CLASS / "x.jpg").symlink_to("nowhere"),
        r"train/red/x\.jpg cannot be read \(No such file or directory\): mend or remove it, .*, or .* skip",
    ),
    "image link to itself": (
        lambda root: (root / CLASS / "x.jpg").symlink_to("x.jpg"),
        r"train/red/x\.jpg cannot be read \(Too many levels of symbolic links\): mend or remove it, .*, or .* skip",
    ),
    "pipe called like an image": (
        lambda root: os.mkfifo(root / CLASS / "x.jpg"),
        rf"train/red/x\.jpg is no ordinary file: {MEND}",
    ),
    "link to an endless device": (
        lambda root: (root / CLASS / "x.jpg").symlink_to("/dev/zero"),
        rf"train/red/x\.jpg is no ordinary file: {MEND}",
    ),
    "file of 100 GB without contents": (
        lambda root: sparse(root / CLASS / "x.png", 10**11),
        r"train/red/x\.png has 100,000,000,000 bytes, more than 1,073,741,824: mend or remove it, .*, or .* skip",
    ),
    "image of zero bytes": (
        lambda root: (root / CLASS / "x.png").touch(),
        r"train/red/x\.png is no image in a known format \(.*\): mend or remove it, .*, or .* skip",
    ),
    "same bad bytes three times": (
        lambda root: [(root / CLASS / f"x{i}.png").write_bytes(b"bad") for i in range(3)],
        r"train/red/x0\.png is no image in a known format \(.*\) \(and 2 more\): mend or remove it, .*, or .* skip",
    ),
    "bad image with a line break in its name": (
        lambda root: (root / CLASS / "a\nb\x1b[2J.png").write_bytes(b"bad"),
        r"train/red/a\\nb\\x1b\[2J\.png is no image in a known format .*",
    ),
    "bad image whose name is no text": (
        lambda root: (root / CLASS / os.fsdecode(b"caf\xe9.png")).write_bytes(b"bad"),
        r"train/red/caf\\xe9\.png is no image in a known format .*",
    ),
    "class of hidden files": (
        lambda root: (mkdir(root / "train/cyan") / ".x.jpg").write_text("x"),
        r"class folder {root}/train/cyan has no images \(.*\): add some, or remove it",
    ),
    "class of other files": (
        lambda root: (mkdir(root / "train/cyan") / "x.txt").write_text("x"),
        r"class folder {root}/train/cyan has no images \(.*\): add some, or remove it",
    ),
    "class of links in circles": (
        lambda root: (mkdir(root / "train/cyan") / "again").symlink_to("."),
        r"class folder {root}/train/cyan has no images \(.*\): add some, or remove it",
    ),
}


def sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_folder_is_one_sentence(photo_folder: Path, name: str, refused: Refused) -> None:
    change, sentence = BROKEN[name]
    change(photo_folder)
    got = refused("train", "--data.root", str(photo_folder))
    assert re.fullmatch(sentence.replace("{root}", re.escape(str(photo_folder))), got), got


def test_class_folder_may_have_any_name(photo_folder: Path) -> None:
    before = list(contents(read(photo_folder)).values())
    names = {"red": os.fsdecode(b"\xff"), "green": "é\n日本", "blue": "--blue"}
    for split in ("train", "test"):
        for old, new in names.items():
            (photo_folder / split / old).rename(photo_folder / split / new)
    after = contents(read(photo_folder))
    assert list(after) == ["--blue", "é\n日本", "\\xff"]
    assert sorted(after.values()) == sorted(before)


ROOTS: dict[str, Callable[[Path], str]] = {
    "nothing": lambda _: "nowhere",
    "file": lambda root: str(root / CLASS / "0.png"),
    "link to nowhere": lambda root: str(linked(root.parent / "l", "nowhere")),
    "link to itself": lambda root: str(linked(root.parent / "l", "l")),
    "name of 5000 characters": lambda _: "x" * 5000,
    "path of 5000 characters": lambda _: "x/" * 2500,
    "home": lambda _: "~nobody",
    "address": lambda _: "https://example.org/photos",
    "file taken for a folder": lambda root: str(root / CLASS / "0.png" / "photos"),
    "empty": lambda root: str(mkdir(root.parent / "empty")),
    "space": lambda _: " ",
    "device": lambda _: "/dev/null",
}


@pytest.mark.parametrize("command", ["train", "compare", "preview"])
@pytest.mark.parametrize("name", ROOTS)
def test_root_that_is_none_is_one_sentence(photo_folder: Path, name: str, command: str, refused: Refused) -> None:
    sentence = refused(command, "--name", "mine", "--data.root", ROOTS[name](photo_folder))
    allowed = "give {train,test}-{000..003}.tar" if name == "address" else "give ROOT/train/CLASS and ROOT/test/CLASS"
    assert allowed in sentence
    assert not Path("cache").exists()


LONG = "y" * 5000
PLACES: list[list[str]] = [
    ["train", "--runs", LONG],
    ["train", "--name", "x" * 201],
    ["train", "--name", "é" * 101],
    ["train", "--cache", LONG],
    ["train", "--runs", "loop/x"],
    ["train", "--backbone.weights", f"{LONG}.pth"],
    ["train", "--backbone.weights", "loop/x.pth"],
    ["train", "--backbone.weights", "folder.pth"],
    ["train", "--backbone.weights", "folder.safetensors"],
    ["train", "--backbone.weights", "pipe.pth"],
    ["train", "--sweep", f"[{{family: psf, file: {LONG}}}]"],
    ["train", "--sweep", "[{family: psf, file: folder.pth}]"],
    ["train", "--sweep", "[{family: psf, file: loop}]"],
    ["train", "--config", LONG],
    ["train", "--config", "folder.pth"],
    ["train", "--config", "loop"],
    ["train", "--config", "nowhere.yaml"],
    ["compare", LONG, "folder.pth"],
    ["compare", "loop", "folder.pth"],
    ["compare", "folder.pth", "nowhere"],
    ["compare", "", "nowhere"],
    ["preview", "--out", f"{LONG}.png"],
    ["preview", "--out", "loop/x.png"],
    ["preview", "--out", "folder.png"],
    ["cache", "--cache", LONG],
    ["cache", "--cache", ""],
    ["pretrain", "--folder", ""],
    ["pretrain", "--seed", str(10**30)],
    ["backbones", "\udcff"],
    ["train", "--name", "\udcff"],
    ["\udcff"],
]


@pytest.mark.parametrize("words", PLACES, ids=lambda words: " ".join(words)[:40].encode("ascii", "replace").decode())
def test_place_that_cannot_be_used_is_one_sentence(words: list[str], refused: Refused) -> None:
    Path("loop").symlink_to("loop")
    for name in ("folder.pth", "folder.safetensors", "folder.png"):
        Path(name).mkdir()
    os.mkfifo("pipe.pth")
    small = ["--data.glyphs.train", "20", "--data.glyphs.test", "10"] if words[0] in ("train", "preview") else []
    assert len(refused(*words, *small)) < 1100


@pytest.mark.parametrize("number", [13, 5, 116], ids=["no permission", "failing disk", "stale network folder"])
def test_file_that_cannot_be_read_is_named(
    photo_folder: Path, number: int, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    opened = Path.open

    def refuse(path: Path, *arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - as Path.open
        if path.name == "1.jpg":
            raise OSError(number, os.strerror(number), str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", refuse)
    for cache in ("cache", "false"):
        sentence = refused("train", "--data.root", str(photo_folder), "--cache", cache)
        expected = f"train/blue/1.jpg cannot be read ({os.strerror(number)}) (and 2 more): {MEND}"
        assert sentence == expected


def test_folder_that_cannot_be_listed_is_named(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch, refused: Refused
) -> None:
    listed = os.scandir

    def refuse(path: Any) -> Any:  # noqa: ANN401 - as os.scandir
        if str(path).endswith("train/red/deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    mkdir(photo_folder / "train/red/deep")
    monkeypatch.setattr(os, "scandir", refuse)
    for words in ([], ["--on-bad-image", "skip"]):  # nobody knows what is in it, so it cannot be skipped
        sentence = refused("train", "--data.root", str(photo_folder), *words)
        assert sentence == f"{photo_folder}/train/red/deep cannot be read (Permission denied): mend its permissions"


@pytest.mark.parametrize("step", ["before it is hashed", "before it is decoded", "between two epochs"])
def test_file_that_vanishes_is_named(photo_folder: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = photo_folder / "train/green/1.jpg"
    if step == "before it is hashed":
        source = FolderSource(photo_folder)
        monkeypatch.setattr(images, "open_source", lambda *_, **__: source)
        gone.unlink()
    elif step == "before it is decoded":
        key = FolderSource.key

        def vanish(source: FolderSource, index: int) -> str:
            digest = key(source, index)
            if source.items[index].name == "train/green/1.jpg":
                gone.unlink()
            return digest

        monkeypatch.setattr(FolderSource, "key", vanish)
    else:
        found = load(DataConfig(root=str(photo_folder)), GEOMETRY, cache=False)
        gone.unlink()
        with pytest.raises(DataError, match=r"^train/green/1\.jpg cannot be read \(No such file or directory\)$"):
            found.read_pixels(found.train)
        return
    with pytest.raises(DataError, match=r"^train/green/1\.jpg cannot be read \(No such file or directory\): mend"):
        read(photo_folder)


# Imports and loads all that is needed, then becomes another user for every command.
AS_ANOTHER_USER = """
import json, os, sys
import torch
torch.set_num_threads(1)  # threads do not survive a fork
from blurtrain import backbones, cli, config, decoding, experiment, previews, report, training
from PIL import Image
Image.init()
backbones.load(config.BackboneConfig())
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os.dup2(1, 2)
        code = 70
        try:
            code = cli.main(json.loads(line))
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("ended with", code, flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that become another user")
def test_permissions_that_are_missing_are_one_sentence(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as place:  # not below pytest's own folder, which is closed to others
        folder = Path(place)
        folder.chmod(0o777)
        monkeypatch.chdir(folder)
        cases = without_permission(photo_folder, folder)
        try:
            done = subprocess.run(
                [sys.executable, "-c", AS_ANOTHER_USER],
                input="".join(json.dumps(words) + "\n" for words, _ in cases),
                capture_output=True,
                text=True,
                timeout=120,
                check=True,
            )
        finally:
            for path in (folder / "closed", *folder.glob("photos-*"), *folder.glob("photos-*/train/red")):
                path.chmod(0o755)  # or they could not be removed
    *answers, rest = done.stdout.split("ended with 2\n")
    assert rest == ""
    assert len(answers) == len(cases)
    for (words, expected), answer in zip(cases, answers, strict=True):
        assert expected in sentence_of(answer), words


def without_permission(photos: Path, folder: Path) -> list[tuple[list[str], str]]:
    """Commands that meet something closed, each with a part of the sentence."""
    closed = mkdir(folder / "closed")
    for name in ("open", "file", "listing", "entering", "root"):
        shutil.copytree(photos, folder / f"photos-{name}")
    for name in ("closed.yaml", "closed.pth", "closed.safetensors", "closed.npy"):
        (folder / name).touch()
        (folder / name).chmod(0)
    (folder / "photos-file/train/red/1.jpg").chmod(0)
    (folder / "photos-listing/train/red").chmod(0o311)
    (folder / "photos-entering/train/red").chmod(0o644)
    (folder / "photos-root").chmod(0)
    closed.chmod(0)
    denied = "(Permission denied)"
    return [
        (["train", "--data.root", "photos-file", "--cache", "false"], f"train/red/1.jpg cannot be read {denied}: mend"),
        (["train", "--data.root", "photos-listing"], f"photos-listing/train/red cannot be read {denied}: mend its"),
        (["train", "--data.root", "photos-entering", "--cache", "false"], f"cannot be read {denied} (and 7 more)"),
        (["train", "--data.root", "photos-root"], f"photos-root cannot be read {denied}: mend its permissions"),
        (["train", "--data.root", "photos-root/train"], f"is not a folder {denied}: give ROOT/train/CLASS"),
        (["train", "--data.root", "photos-open", "--runs", "closed"], denied),
        (["train", "--data.root", "photos-open", "--runs", "closed/runs"], denied),
        (["train", "--config", "closed.yaml"], "closed.yaml"),
        (["train", "--config", "closed/c.yaml"], "closed/c.yaml"),
        (["train", "--backbone.weights", "closed.pth"], "closed.pth"),
        (["train", "--backbone.weights", "closed.safetensors"], "closed.safetensors"),
        (["train", "--backbone.weights", "closed/w.pth"], f"closed/w.pth cannot be used {denied}"),
        (["train", "--sweep", "[{family: psf, file: closed.npy}]"], f"closed.npy cannot be read {denied}: give a"),
        (["compare", "closed/a", "closed/b"], "closed/a"),
        (["cache", "--cache", "closed/cache"], denied),
    ]


# d) configs


def leaves(kind: Any = Config, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:  # noqa: ANN401
    """Every key of a config that has a value of its own."""
    for field in fields(kind):
        below = field.type
        yield from leaves(below, (*above, field.name)) if is_dataclass(below) else [(*above, field.name)]


# Keys of the blurs in lists are named by the list, so that they are tried in a blur.
KEYS = [*leaves(), *(("copies", "0", field.name) for field in fields(BlurGrid))]
BLURS: dict[str, dict[str, Any]] = {
    "angle": {"family": "motion", "strengths": [5.0]},
    "file": {"family": "psf", "file": "lens.npy"},
}

HOSTILE: list[Any] = [
    *(True, False, None, math.nan, math.inf, -math.inf, -1, 0, 1, -0.5, 5.0, 10**30, -(10**30), 1e308),
    *("", "text", "null", "1e400", "0x1F", "a\0b", "a\nb", "x" * 5000),
    *([], {}, ["text"], [None], [True], [math.nan], [-1.0], [1e308], [True] * 3, {"a": 1}, [{"a": 1}]),
]


@functools.cache
def parser() -> Any:  # noqa: ANN401 - private to the command line
    return parsers.config_parser("train")


def config_or_sentence(words: Sequence[str]) -> Config | str:
    """The config that the words of `blurtrain train` make, or why there is none."""
    try:
        return parsers.config_of(parser(), parser().parse_words(words))
    except BlurtrainError as error:
        return str(error)


def value_at(config: Config, key: Sequence[str]) -> object:
    found: object = config
    for name in key:
        found = found[int(name)] if isinstance(found, tuple) else getattr(found, name)
    return found


def is_same(written: object, taken: object) -> bool:
    """Whether a value was taken as it was written; a number may have been written as a text."""
    if isinstance(taken, tuple):
        return isinstance(written, list) and len(written) == len(taken) and all(map(is_same, written, taken))
    if isinstance(taken, dict):
        return written == taken
    if isinstance(taken, bool) or taken is None:
        return taken is written or str(written).lower() == ("true" if taken else "false") or written in ("null", "~")
    if isinstance(taken, dict):
        return written in (taken, str(taken))
    if isinstance(taken, int | float):
        number = int(written, 0) if written == "0x1F" else float(written)  # type: ignore[arg-type]
        return not isinstance(written, bool) and math.isfinite(taken) and number == float(taken)
    if isinstance(taken, BlurGrid):
        return isinstance(written, dict) and written == {key: plain(taken)[key] for key in written}
    return isinstance(written, str) and str(taken) == written


def config_file(key: Sequence[str], value: object) -> str:
    """A YAML file with that value at that key."""
    *above, name = key
    tree: Any = {name: value}
    if above[-1:] == ["0"]:
        tree = [BLURS.get(name, {"family": "gaussian", "strengths": [1.0]}) | tree]
        above = above[:-1]
    for group in reversed(above):
        tree = {group: tree}
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


def options(key: Sequence[str], value: object) -> list[str]:
    """The same as words of a command line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf).removesuffix("\n...\n").strip()
    word = value if isinstance(value, str) else text
    if key[1:2] == ("0",):
        blur = BLURS.get(key[2], {"family": "gaussian", "strengths": [1.0]}) | {key[2]: value}
        return [f"--{key[0]}={yaml.safe_dump([blur], default_flow_style=True, width=math.inf).strip()}"]
    return [f"--{'.'.join(key)}={word}"]


@pytest.mark.parametrize("key", KEYS, ids=".".join)
@pytest.mark.parametrize("route", ["file", "command line"])
def test_hostile_value_is_refused_or_taken_as_it_is(key: tuple[str, ...], route: str, tmp_path: Path) -> None:
    for value in HOSTILE:
        words = options(key, value)
        if route == "file":
            (tmp_path / "c.yaml").write_text(config_file(key, value))
            words = ["--config", "c.yaml"]
        elif isinstance(value, str) and "\0" in value:
            continue  # no command line can hold it
        got = config_or_sentence(words)
        if isinstance(got, Config):
            written = words[0].partition("=")[2] if route != "file" and key[1:2] != ("0",) else value
            if isinstance(value_at(got, key), tuple | dict):
                written = value
            assert is_same(written, value_at(got, key)), (value, value_at(got, key))
            assert "\0" not in str(value) or key == ("backbone", "name"), value  # no file can be called so
        else:
            assert key[-1].removesuffix("s") in got or re.search("key 'a'( of a blur)? is not known", got), (value, got)
            assert "Traceback" not in got
            assert "Does not validate" not in got


@pytest.mark.parametrize("key", KEYS, ids=".".join)
def test_misspelt_key_is_named(key: tuple[str, ...], refused: Refused) -> None:
    *above, name = key
    for place in range(len(name)):
        wrong = name[:place] + name[place + 1 :]
        if wrong in {other[-1] for other in KEYS if other[:-1] == key[:-1]}:
            continue
        Path("c.yaml").write_text(config_file((*above, wrong), 1))
        in_file, *in_words = (
            config_or_sentence(words) for words in (["--config", "c.yaml"], options((*above, wrong), 1))
        )
        for got in (in_file, *in_words):
            assert isinstance(got, str)
            assert (
                repr(".".join([*above, wrong]) if "0" not in above else wrong) in got
                or f"--{'.'.join([*above, wrong])}" in got
            )
            assert "is not known" in got
    assert "is not known" in refused("train", "--config", "c.yaml")


def test_groups_are_those_of_the_config() -> None:
    def groups(kind: Any) -> Iterator[str]:  # noqa: ANN401 - a dataclass
        for field in fields(kind):
            if is_dataclass(field.type):
                yield field.name
                yield from groups(field.type)

    assert tuple(groups(Config)) == GROUPS


@pytest.mark.parametrize("key", KEYS[: -len(fields(BlurGrid))], ids=".".join)
def test_option_may_have_hyphens(key: tuple[str, ...]) -> None:
    value = value_at(Config(), key)
    word = json.dumps(plain(value)) if isinstance(value, tuple) else str(value).lower() if value is None else str(value)
    if value is None:
        words = {"name": "x", "sha256": "0" * 64, "resize": "9", "crop": "9", "pipeline": "{transform: {}}"}
        word = words.get(key[-1], "[0.5, 0.5, 0.5]")
    option = ".".join(key)
    expected = config_or_sentence([f"--{option}", word])
    assert isinstance(expected, Config)
    assert config_or_sentence([f"--{option.replace('_', '-')}", word]) == expected
    assert config_or_sentence([f"--{option.replace('_', '-')}={word}"]) == expected


@pytest.mark.parametrize("word", ["true", "True", "yes", "on", "none", "null", "0", "1"])
def test_switch_is_no_folder_of_a_store(word: str) -> None:
    assert config_or_sentence([f"--cache={word}"]) == f"cache must be a folder or false, got {word!r}"


@pytest.mark.parametrize("word", ["false", "no", "off", "False"])
def test_store_can_be_switched_off(word: str) -> None:
    got = config_or_sentence([f"--cache={word}"])
    assert isinstance(got, Config)
    assert got.cache is False


@pytest.mark.parametrize("name", ["12:30", "*x", "&a b", "[a.b]", "{a: 1, a: 2}", "010", "a: b", "'it", "- x", "!x"])
def test_text_that_would_be_odd_yaml_is_taken_as_it_is(name: str) -> None:
    got = config_or_sentence([f"--name={name}", f"--runs={name}"])
    assert isinstance(got, Config)
    assert (got.name, str(got.runs)) == (name, name)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("--batch_size=1:30", "--batch_size must be in plain decimal digits, got '1:30'"),
        ("--head.l2=[1:30]", "the number 1:30 in line 1 is another one in YAML: write plain decimal digits"),
        ("--copies=[{family: box, family: psf}]", "key 'family' stands twice in line 1: keep one of them"),
        ("--copies=[*x]", "the alias *x in line 1 is not allowed: write its value out"),
        ("--name=#1", "--name must begin with another character, got '#1'"),
        ("--copies=[!!x y]", "copies: must be a list, got: [!!x y]"),
    ],
)
def test_odd_yaml_where_no_text_is_wanted_is_refused(word: str, sentence: str) -> None:
    assert config_or_sentence([word]) == sentence


def test_hyphens_in_values_and_misspelt_options_stay(refused: Refused) -> None:
    got = config_or_sentence(["--name", "a-b_c", "--runs=x-y", "--batch-size", "8"])
    assert isinstance(got, Config)
    assert (got.name, got.runs, got.batch_size) == ("a-b_c", Path("x-y"), 8)
    assert refused("train", "--batch-siz", "3") == "option --batch-siz is not known: did you mean 'batch_size'?"
    assert main(["cache", "--unused-for", "3"]) == 0


YAML: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "must hold keys and values"),
    "comment alone": (b"# name: x\n", "must hold keys and values"),
    "null": (b"null\n", "must hold keys and values"),
    "list": (b"- name\n- x\n", "must hold keys and values"),
    "number": (b"3\n", "must hold keys and values"),
    "text": (b"name\n", "must hold keys and values"),
    "every byte": (bytes(range(256)), "is no text in UTF-8"),
    "picture": (encode(RED, "PNG"), "is no text in UTF-8"),
    "zero byte": (b"name: a\0b\n", "is no valid YAML"),
    "escape byte": (b"name: a\x1bb\n", "is no valid YAML"),
    "utf-16": ("name: x\n".encode("utf-16"), "is no text in UTF-8"),
    "latin-1": ("name: é\n".encode("latin-1"), "is no text in UTF-8"),
    "tab": (b"head:\n\tfolds: 3\n", "line 2 of the YAML is indented by a tab: indent it by spaces"),
    "open bracket": (b"copies: [\n", "is no valid YAML"),
    "open quote": (b"name: 'x\n", "is no valid YAML"),
    "two documents": (b"name: x\n---\nname: y\n", "is no valid YAML"),
    "key twice": (b"batch_size: 3\nbatch_size: 8\n", "key 'batch_size' stands twice in line 2"),
    "key twice within": (b"head: {folds: 3, folds: 4}\n", "key 'folds' stands twice in line 1"),
    "key twice in a blur": (b"copies:\n- {family: box, family: gaussian}\n", "key 'family' stands twice in line 2"),
    "group twice": (b"head: {folds: 3}\nhead: {tolerance: 1.0e-4}\n", "key 'head' stands twice in line 2"),
    "key of a number": (b"1: 2\n", "the key in line 1 is not a text"),
    "key of null": (b"null: 2\n", "the key in line 1 is not a text"),
    "key of a list": (b"? [a]\n: 1\n", "the key in line 1 is not a text"),
    "empty key": (b"'': 1\n", "key"),
    "alias": (b"copies: &a []\nsweep: *a\n", "the alias *a in line 2 is not allowed"),
    "alias to itself": (b"head: &a {l2: *a}\n", "the alias *a in line 1 is not allowed"),
    "merge": (b"head: {<<: {folds: 3}}\n", "the key in line 1 is not a text"),
    "billion laughs": (
        b"a0: &a0 [x]\n"
        + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 10)) for i in range(1, 12)),
        "the alias *a0 in line 2 is not allowed",
    ),
    "deep lists": (b"copies: " + b"[" * 200 + b"]" * 200, "lie more than 16 deep"),
    "deepest lists": (b"copies: " + b"[" * 3000 + b"]" * 3000, " line 1"),
    "deep keys": (b"".join(b" " * i + b"a:\n" for i in range(500)), "lie more than 16 deep"),
    "long list": (b"head: {l2: [%s]}\n" % b", ".join([b"-1"] * 5_000), "head.l2 must be numbers from"),
    "long text": (b"name: " + b"x" * 10**6, "name must be printable and at most 200 bytes long"),
    "octal": (b"batch_size: 010\n", "the number 010 in line 1 is another one in YAML"),
    "base sixty": (b"head: {l2: [1:30]}\n", "the number 1:30 in line 1 is another one in YAML"),
    "python object": (b"name: !!python/object/apply:pathlib.Path.touch [ran]\n", "is no valid YAML"),
    "python name": (b"name: !!python/name:os.system\n", "is no valid YAML"),
    "unknown tag": (b"name: !x y\n", "is no valid YAML"),
    "bytes": (b"name: !!binary aGk=\n", "name: must be a text"),
    "set": (b"batch_size: !!set {a, b}\n", "batch_size: must be a whole number"),
    "date": (b"batch_size: 2020-01-01\n", "batch_size: must be a whole number"),
    "itself": (b"config: c.yaml\n", "c.yaml"),
}


@pytest.mark.parametrize("name", YAML)
def test_config_file_that_is_none_is_one_sentence(name: str, refused: Refused) -> None:
    data, expected = YAML[name]
    Path("c.yaml").write_bytes(data)
    sentence = refused("train", "--config", "c.yaml")
    assert expected in sentence
    assert len(sentence) < 1100
    assert not Path("ran").exists()


IMPORTS = [
    "copies: [spy.Spy]",
    "copies: [{class_path: spy.Spy}]",
    "copies: [{class_path: spy.spy, init_args: {}}]",
    "copies: '[spy.Spy]'",
    "copies: '[{class_path: spy.Spy}]'",
    "copies: [[spy.Spy]]",
    "copies: spy.Spy",
    "copies: {spy.Spy: 1}",
    "sweep: [spy]",
    "sweep: ['spy.Spy']",
    "backbone: spy.Spy",
    "backbone: {class_path: spy.Spy}",
    "backbone.class_path: spy.Spy",
    "data: {glyphs: spy.Spy}",
    "data: {glyphs: {class_path: spy.Spy, init_args: {train: 10}}}",
    "data.glyphs: spy.Spy",
    "minibatch: spy.Spy",
    "class_path: spy.Spy",
    "head: {l2: [spy.Spy]}",
    "engine: spy.Spy",
    "backbone: {mean: spy.Spy}",
]


@pytest.mark.parametrize("text", IMPORTS)
def test_config_imports_no_module(text: str, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spy.py").write_text(
        "from pathlib import Path\nPath('ran').touch()\nclass Spy: pass\ndef spy(): pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    Path("c.yaml").write_text(text)
    key, _, value = text.partition(": ")
    refused("train", "--config", "c.yaml")
    refused("train", "--config", text)
    refused("train", f"--{key}={value}")
    refused("train", f"--{key}", value)
    assert not Path("ran").exists()
    assert "spy" not in sys.modules
    __import__("spy")
    assert Path("ran").exists()  # so the test could fail
    del sys.modules["spy"]


def test_config_of_a_run_folder_imports_no_module(
    refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spied.py").write_text("from pathlib import Path\nPath('ran').touch()\nclass Spy: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    (mkdir(tmp_path / "run") / "config.yaml").write_text("copies: [{class_path: spied.Spy}]\n")
    refused("compare", "run", "run")
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", ["[", "a: *b", "'a: 1", "{a: 1, a: 2}", "&a [*a]", "!!python/name:os.system", "\t- x"])
def test_yaml_is_read_or_refused_whatever_it_is(text: str) -> None:
    with pytest.raises((ConfigError, yaml.YAMLError)):
        read_yaml(text)


# e) weights and point-spread functions


class Payload:
    """Makes a file as soon as it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("ran"),))


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name.replace('__', '/').replace('_', '.')}", data)
    return buffer.getvalue()


def tarred(**members: bytes) -> bytes:
    """The format of torch before 2018."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def saved(value: object, **options: Any) -> bytes:  # noqa: ANN401 - as torch.save
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def lying(header: object, data: bytes = b"\0" * 8, length: int | None = None) -> bytes:
    """A safetensors file with any header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(dtype: str, shape: Sequence[int], start: int, end: int) -> dict[str, object]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}}


PAYLOAD = pickle.dumps(Payload(), protocol=2)
WHOLE = saved({"a": torch.ones(2, 3)})
SCRIPT = io.BytesIO()

WEIGHTS: dict[str, bytes] = {
    "zero bytes.pth": b"",
    "zero bytes.safetensors": b"",
    "text.pth": b"no weights",
    "text.safetensors": b"no weights at all",
    "pickle.pth": PAYLOAD,
    "pickle.pt": pickle.dumps(Payload()),
    "pickle.safetensors": PAYLOAD,
    "pickle of protocol 0.pth": pickle.dumps(Payload(), protocol=0),
    "pickle in zip.pth": saved({"a": Payload()}),
    "pickle in key.pth": saved({"state_dict": {"a": [Payload()]}}),
    "pickle in legacy file.pth": saved({"a": Payload()}, _use_new_zipfile_serialization=False),
    "pickle in hand-made zip.pth": zipped(data_pkl=PAYLOAD, version=b"3", byteorder=b"little"),
    "pickle elsewhere in zip.pth": zipped(data_pkl=pickle.dumps({}, 2), constants_pkl=PAYLOAD, version=b"3"),
    "pickle as script.pt": zipped(data_pkl=PAYLOAD, constants_pkl=PAYLOAD, code__x_py=b"import os", version=b"3"),
    "pickle in tar.pth": tarred(storages=PAYLOAD, tensors=PAYLOAD, pickle=PAYLOAD),
    "pickle in tar, at its end.pth": tarred(storages=pickle.dumps(0, 2), tensors=pickle.dumps(0, 2), pickle=PAYLOAD),
    "harmless tar.pth": tarred(
        storages=pickle.dumps(0, 2), tensors=pickle.dumps(0, 2), pickle=pickle.dumps({"a": 1}, 2)
    ),
    "harmless pickle.pth": pickle.dumps({"a": 1}),
    "zip without members.pth": zipped(),
    "zip cut.pth": WHOLE[: len(WHOLE) // 2],
    "zip without its storage.pth": zipped(
        data_pkl=zipfile.ZipFile(io.BytesIO(WHOLE)).read("archive/data.pkl"), version=b"3"
    ),
    "whole model.pth": saved(torch.nn.Linear(2, 2)),
    "sparse.pth": saved({"a": torch.eye(3).to_sparse()}),
    "complex.pth": saved({"a": torch.ones(2, dtype=torch.complex64)}),
    "list.pth": saved([torch.ones(2)]),
    "number.pth": saved(3),
    "nothing.pth": saved({}),
    "header longer than the file.safetensors": lying(tensor("F32", [2], 0, 8), length=10**6),
    "header of 2 ** 63 bytes.safetensors": lying(tensor("F32", [2], 0, 8), length=2**63),
    "header shorter than it is.safetensors": lying(tensor("F32", [2], 0, 8), length=10),
    "header that is no json.safetensors": lying(b"{" * 64),
    "header that is a list.safetensors": lying([1]),
    "header of null.safetensors": lying(None),
    "data beyond the file.safetensors": lying(tensor("F32", [200], 0, 800)),
    "data before the file.safetensors": lying(tensor("F32", [2], -8, 0)),
    "data backwards.safetensors": lying(tensor("F32", [2], 8, 0)),
    "shape larger than the data.safetensors": lying(tensor("F32", [2**20, 2**20], 0, 8)),
    "shape that overflows.safetensors": lying(tensor("F32", [2**40, 2**40], 0, 8)),
    "negative shape.safetensors": lying(tensor("F32", [-2], 0, 8)),
    "unknown type.safetensors": lying(tensor("Q99", [2], 0, 8)),
    "overlapping data.safetensors": lying({**tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 0, 8)["a"]}),
    "hole in the data.safetensors": lying(tensor("F32", [1], 4, 8)),
    "name twice.safetensors": lying(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}'
    ),
    "header alone.safetensors": lying({}, data=b""),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_hostile_weights_are_refused_and_their_code_is_not_run(name: str) -> None:
    Path(name).write_bytes(WEIGHTS[name])
    with pytest.raises(BackboneError, match=name.split()[0]):
        backbones.load(BackboneConfig(weights=name))
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["pickle.pth", "pickle in zip.pth", "pickle in tar.pth", "text.safetensors"])
def test_hostile_weights_end_a_command_in_one_sentence(name: str, refused: Refused) -> None:
    Path(name).write_bytes(WEIGHTS[name])
    sentence = refused("train", "--backbone.weights", name, "--data.glyphs.train", "20", "--data.glyphs.test", "10")
    assert sentence.startswith(name)
    assert not Path("ran").exists()


def test_payload_would_run() -> None:
    pickle.loads(PAYLOAD)
    assert Path("ran").exists()


def lens(**header: object) -> bytes:
    """A .npy file whose header says what it likes."""
    values = {"descr": "<f8", "fortran_order": False, "shape": (3, 3)} | header
    text = repr(values).encode() + b"\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(text)) + text + np.ones(9).tobytes()


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def archive_of(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


LENSES: dict[str, bytes] = {
    "zero bytes": b"",
    "text": b"no lens",
    "pickle": PAYLOAD,
    "objects": npy(np.array([[Payload()]], dtype=object)),
    "objects by the header": lens(descr="|O"),
    "objects in a record": npy(np.array([(Payload(),)], dtype=[("a", object)])),
    "archive of objects": archive_of(np.array([Payload()], dtype=object)),
    "archive": archive_of(np.ones((3, 3))),
    "magic alone": b"\x93NUMPY",
    "header that calls a function": b"\x93NUMPY\1\0\x40\0" + b"__import__('pathlib').Path('ran').touch()".ljust(64),
    "header that is no dictionary": b"\x93NUMPY\1\0\x02\0[]",
    "huge shape": lens(shape=(10**9, 10**9)),
    "shape that overflows": lens(shape=(2**62, 2**62)),
    "large shape without data": lens(shape=(2**14, 2**14)),
    "negative shape": lens(shape=(-3, -3)),
    "shape of texts": lens(shape=("a",)),
    "unknown type": lens(descr="<q99"),
    "type of texts": lens(descr="<U1"),
    "dates": npy(np.array([["2020-01-01"]], dtype="M8[D]")),
    "record": npy(np.zeros((3, 3), dtype=[("a", "f8")])),
    "version 9": b"\x93NUMPY\x09\0" + lens()[8:],
    "bomb": bomb(60_000, 60_000),
    "long picture": bomb(1_026, 1),
    "animation": animated("GIF"),
    "transparent palette": paletted("PNG", transparency=1),
    "cut picture": encode(Image.fromarray(GREY), "PNG")[:-30],
    "tiff of floats, infinite": encode(Image.fromarray(np.full((3, 3), np.inf, np.float32)), "TIFF"),
    "tiff of negative numbers": encode(Image.fromarray(np.full((3, 3), -1, np.int32)), "TIFF"),
}


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.filterwarnings("ignore:Reading `.npy`", "ignore::PIL.Image.DecompressionBombWarning")
def test_hostile_point_spread_function_is_refused_and_its_code_is_not_run(name: str, refused: Refused) -> None:
    Path("lens.npy").write_bytes(LENSES[name])
    psf.read.cache_clear()
    kernel.cache_clear()
    sentence = refused("train", "--sweep", "[{family: psf, file: lens.npy}]", "--data.glyphs.train", "20")
    assert "lens.npy" in sentence
    assert not Path("ran").exists()
