"""Image files to pixels: torchvision's geometry bit for bit, and every odd file named rather than guessed."""

import io
import struct
import warnings
import zlib
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights
from torchvision.transforms import InterpolationMode

from blurtrain.decoding import FORMATS, MAX_PIXELS, Geometry, decode
from blurtrain.errors import DataError

COLOUR = np.random.default_rng(0).integers(0, 256, (12, 9, 3), dtype=np.uint8)
GREY = COLOUR[..., 0]


def picture(height: int, width: int) -> Image.Image:
    """Smooth enough for interpolation to matter, with noise that shows a missing antialias filter."""
    rng = np.random.default_rng([height, width])
    ramp = np.add.outer(np.linspace(0, 100, height), np.linspace(0, 80, width))[..., None]
    return Image.fromarray((ramp + rng.integers(0, 76, (height, width, 3))).astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:  # noqa: ANN401 - whatever the encoder takes
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def bomb(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that claims to be that large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def torchvision_pixels(image: Image.Image, geometry: Geometry) -> np.ndarray:
    """What torchvision's own preset makes of an image, before normalisation."""
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms(
        resize_size=geometry.resize,
        crop_size=geometry.crop,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=InterpolationMode[geometry.interpolation],
    )
    result: torch.Tensor = preset(image)
    return result.numpy()


SIZES = [
    (256, 256),
    (224, 224),
    (300, 200),
    (200, 300),
    (257, 256),
    (97, 31),
    (641, 479),
    (500, 33),
    (1, 5),
]


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "geometry",
    [Geometry(256, 224), Geometry(232, 224, "BICUBIC"), Geometry(64, 64), Geometry(33, 21), Geometry(20, 41)],
    ids=str,
)
def test_geometry_is_torchvisions_bit_for_bit(size: tuple[int, int], geometry: Geometry) -> None:
    image = picture(*size)
    pixels = geometry.apply(image)
    assert pixels.dtype == np.uint8
    assert pixels.flags["C_CONTIGUOUS"]
    np.testing.assert_array_equal(pixels.astype(np.float32) / np.float32(255), torchvision_pixels(image, geometry))


def test_default_geometry_of_the_preset_is_the_one_compared() -> None:
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
    image = picture(311, 290)
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preset.mean, preset.std))
    undone = np.asarray((preset(image) * std + mean) * 255)
    pixels = Geometry(256, 224).apply(image)
    np.testing.assert_allclose(undone, pixels, rtol=0, atol=1e-4)


def test_shrinking_antialiases() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8))
    assert Geometry(32, 32).apply(noise).std() < 10  # 74 without


def test_small_image_gets_black_margins() -> None:
    pixels = Geometry(8, 12).apply(Image.new("RGB", (8, 8), (255, 255, 255)))
    assert (pixels[:, 2:10, 2:10] == 255).all()
    assert pixels.sum() == 3 * 64 * 255


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_the_pixels_that_were_written(kind: str) -> None:
    image = decode(encode(Image.fromarray(COLOUR), kind))
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), COLOUR)


def test_channels_are_red_green_blue() -> None:
    image = decode(encode(Image.new("RGB", (4, 4), (250, 10, 90)), "PNG"))
    assert image.getpixel((0, 0)) == (250, 10, 90)
    assert Geometry(4, 4).apply(image)[:, 0, 0].tolist() == [250, 10, 90]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    image = decode(encode(Image.new("RGB", (16, 8), (200, 40, 60)), kind))
    assert image.size == (16, 8)
    np.testing.assert_allclose(np.asarray(image)[4, 8], (200, 40, 60), atol=6)


def test_unlisted_format_is_refused() -> None:
    with pytest.raises(DataError, match="is no image in a known format"):
        decode(encode(Image.fromarray(COLOUR), "TGA"))


UPRIGHT = {
    1: COLOUR,
    2: COLOUR[:, ::-1],
    3: COLOUR[::-1, ::-1],
    4: COLOUR[::-1],
    5: COLOUR.transpose(1, 0, 2),
    6: np.rot90(COLOUR, -1),
    7: COLOUR[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(COLOUR, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_image_is_turned_upright(orientation: int, kind: str) -> None:
    image = decode(encode(Image.fromarray(COLOUR), kind, exif=exif(orientation)))
    np.testing.assert_array_equal(np.asarray(image), UPRIGHT[orientation])


def test_jpeg_is_turned_upright() -> None:
    image = Image.new("RGB", (32, 16), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 16, 16))  # left half blue
    turned = decode(encode(image, "JPEG", exif=exif(6), quality=95))
    assert turned.size == (16, 32)
    np.testing.assert_allclose(np.asarray(turned)[2, 8], (0, 0, 255), atol=8)
    np.testing.assert_allclose(np.asarray(turned)[-2, 8], (255, 0, 0), atol=8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bit_grey_is_scaled(kind: str) -> None:
    deep = np.array([[0, 257, 40000], [65535, 128, 129]], np.uint16)
    pixels = np.asarray(decode(encode(Image.fromarray(deep), kind)))
    expected = np.round(deep / 65535 * 255).astype(np.uint8)
    assert expected.tolist() == [[0, 1, 156], [255, 0, 1]]
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], expected)


def test_grey_fills_all_channels() -> None:
    pixels = np.asarray(decode(encode(Image.fromarray(GREY), "PNG")))
    np.testing.assert_array_equal(pixels, np.stack([GREY] * 3, axis=-1))


def test_one_bit_is_black_and_white() -> None:
    pixels = np.asarray(decode(encode(Image.fromarray(GREY > 127), "PNG")))
    np.testing.assert_array_equal(pixels[..., 0], np.where(GREY > 127, 255, 0))


def test_alpha_is_dropped() -> None:
    alpha = np.arange(GREY.size, dtype=np.uint8).reshape(*GREY.shape, 1)
    colour = decode(encode(Image.fromarray(np.concatenate([COLOUR, alpha], axis=-1)), "PNG"))
    np.testing.assert_array_equal(np.asarray(colour), COLOUR)
    grey = decode(encode(Image.fromarray(np.concatenate([GREY[..., None], alpha], axis=-1)), "PNG"))
    np.testing.assert_array_equal(np.asarray(grey)[..., 1], GREY)


@pytest.mark.parametrize("transparent", [None, 1, bytes([0, 128, 255])], ids=["opaque", "one colour", "by colour"])
def test_palette_is_looked_up(transparent: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1], [2, 1]], np.uint8), "P")
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    options = {} if transparent is None else {"transparency": transparent}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow mentions transparency that is dropped
        pixels = np.asarray(decode(encode(image, "PNG", **options)))
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [0, 255, 0]]]
    np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_becomes_rgb(kind: str) -> None:
    inks = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for ink, colour in inks.items():
        image = decode(encode(Image.new("CMYK", (16, 16), ink), kind))
        np.testing.assert_allclose(np.asarray(image)[8, 8], colour, atol=3)


def test_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with Image.open(io.BytesIO(data)) as animation:
        assert animation.n_frames == 3  # type: ignore[attr-defined]
    assert decode(data).getpixel((3, 3)) == (255, 0, 0)


@pytest.mark.parametrize("data", [b"", b"this is no picture\n" * 20, b"\xff\xd8", b"\x89PNG\r\n\x1a\n"])
def test_bytes_that_are_no_image_are_refused(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^(is no image in a known format \(JPEG, PNG|cannot be decoded \()"):
        decode(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.4, 0.9])
def test_cut_file_is_refused(kind: str, share: float) -> None:
    data = encode(picture(40, 50), kind)
    with pytest.raises(DataError, match=r"cannot be decoded|is no image"):
        decode(data[: int(share * len(data))])


@pytest.mark.parametrize("filter_", ["error", "default", "ignore"])
@pytest.mark.parametrize("side", [9_500, 100_000], ids=["warned of", "refused by Pillow"])
def test_decompression_bomb_is_refused_before_it_is_unpacked(filter_: Any, side: int) -> None:  # noqa: ANN401
    assert side * side > MAX_PIXELS
    with warnings.catch_warnings(record=True):
        warnings.simplefilter(filter_)
        with pytest.raises(DataError, match=r"^has .*more than 89,478,485( pixels)?$"):
            decode(bomb(side, side))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "WEBP", "PNG"])
def test_damaged_bytes_give_an_image_or_a_data_error(kind: str) -> None:
    whole = encode(Image.fromarray(COLOUR), kind, exif=exif(6))
    for place in range(min(len(whole), 250)):
        for value in (0, 0x41, 0xFF):
            data = bytearray(whole)
            data[place] = value
            try:
                image = decode(bytes(data))
            except DataError:
                continue
            assert image.mode == "RGB"
