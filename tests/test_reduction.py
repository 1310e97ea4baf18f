"""Large JPEGs decoded at a part of their size: nearly the same pixels, the same names for the same pictures."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurtrain import reduction
from blurtrain.config import DataConfig
from blurtrain.decoding import REDUCED, Geometry, decode
from blurtrain.folder_source import FolderSource
from blurtrain.images import load
from blurtrain.reduction import Reduced, reduced

GEOMETRY = Geometry(96, 96)
LARGE = (640, 600)  # px: half of the shorter side is still three times 96


def picture(seed: int, size: tuple[int, int] = LARGE) -> Image.Image:
    """Natural enough: amplitude falls as 1 / frequency."""
    width, height = size
    rng = np.random.default_rng(seed)
    frequency = np.maximum(np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]), 1 / width)
    noise = rng.standard_normal((3, height, width)) * 0.3 + rng.standard_normal((height, width))
    waves = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    waves = 0.45 + 0.2 * (waves - waves.mean()) / waves.std()
    return Image.fromarray((255 * waves.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of two large JPEGs in each split."""
    for split in ("train", "test"):
        for label in ("a", "b"):
            place = tmp_path / "photos" / split / label
            place.mkdir(parents=True)
            for index in range(2):
                seed = 4 * (split == "test") + 2 * (label == "b") + index
                picture(seed).save(place / f"{index}.jpg", quality=92)
    return tmp_path / "photos"


def source_of(folder: Path, geometry: Geometry = GEOMETRY) -> Reduced | FolderSource:
    found = reduced(FolderSource(folder), geometry)
    assert isinstance(found, Reduced | FolderSource)
    return found


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((640, 600), 2),
        ((600, 640), 2),
        ((640, 576), 2),
        ((640, 575), 1),
        ((2400, 1200), 4),
        ((2310, 2304), 8),
        ((300, 300), 1),
    ],
)
def test_at_least_three_times_the_wanted_pixels_are_left(size: tuple[int, int], scale: int) -> None:
    assert reduction._scale(("JPEG", *size), set(), reduction.LEFT * GEOMETRY.resize) == scale
    assert reduction._scale(("PNG", *size), set(), reduction.LEFT * GEOMETRY.resize) == 1
    assert reduction._scale(None, set(), reduction.LEFT * GEOMETRY.resize) == 1


def test_pixels_are_nearly_those_of_a_full_decoding(folder: Path) -> None:
    found, whole = source_of(folder), FolderSource(folder)
    assert isinstance(found, Reduced)
    for index in range(8):
        small = found.decode(index)
        assert (small.size, small.info[REDUCED]) == ((320, 300), 2)
        difference = GEOMETRY.apply(small).astype(float) - GEOMETRY.apply(whole.decode(index))
        assert 0 < np.abs(difference).mean() < 1.0  # grey levels


def test_smaller_networks_get_a_full_decoding(folder: Path) -> None:
    assert isinstance(source_of(folder, Geometry(95, 64)), FolderSource)


def test_small_images_are_left_alone(tmp_path: Path) -> None:
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        picture(1, (300, 280)).save(tmp_path / label / "0.jpg")
    assert isinstance(source_of(tmp_path), FolderSource)


def test_key_tells_how_it_is_decoded(folder: Path) -> None:
    found, whole = source_of(folder), FolderSource(folder)
    assert found.key(0) != whole.key(0)
    picture(99).save(folder / "train" / "a" / "other.png")  # of the same size
    assert isinstance(source_of(folder), FolderSource)


@pytest.mark.parametrize("turned", [False, True])
def test_duplicate_in_another_format_keeps_its_name(folder: Path, tmp_path: Path, turned: bool) -> None:
    with Image.open(folder / "train" / "a" / "0.jpg") as image:
        same = image.convert("RGB")
    if turned:  # stored on its side, and turned upright by its EXIF tag
        exif = Image.Exif()
        exif[0x0112] = 6
        same.transpose(Image.Transpose.ROTATE_90).save(folder / "test" / "a" / "same.png", exif=exif)
    else:
        same.save(folder / "test" / "a" / "same.png")
    found = load(DataConfig(root=str(folder)), GEOMETRY, tmp_path / "cache")
    names = dict(zip(found.names, found.ids.tolist(), strict=True))
    assert names["train/a/0.jpg"] == names["test/a/same.png"]
    assert found.names.index("train/a/0.jpg") not in found.train


def test_same_jpeg_under_another_name_keeps_its_name(folder: Path, tmp_path: Path) -> None:
    data = (folder / "train" / "a" / "0.jpg").read_bytes()
    (folder / "test" / "a" / "same.jpeg").write_bytes(data[:2] + b"\xff\xfe\x00\x06note" + data[2:])  # a comment more
    found = load(DataConfig(root=str(folder)), GEOMETRY, tmp_path / "cache")
    names = dict(zip(found.names, found.ids.tolist(), strict=True))
    assert names["train/a/0.jpg"] == names["test/a/same.jpeg"]


@pytest.mark.parametrize("stored", [True, False])
def test_native_size_is_that_of_the_file(folder: Path, tmp_path: Path, stored: bool) -> None:
    found = load(DataConfig(root=str(folder)), GEOMETRY, tmp_path / "cache" if stored else False)
    assert found.native_scale == pytest.approx(600 / 96)
    pixels = found.read_pixels(found.train[:1])
    index = int(found.train[0])
    np.testing.assert_array_equal(pixels[0], GEOMETRY.apply(source_of(folder).decode(index)))


def test_orientation_is_kept() -> None:
    import io

    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture(3).save(buffer, "JPEG", exif=exif, quality=92)
    full, small = decode(buffer.getvalue()), decode(buffer.getvalue(), 2)
    assert (full.size, small.size) == ((600, 640), (300, 320))
    difference = np.asarray(full.resize((60, 64))).astype(float) - np.asarray(small.resize((60, 64)))
    assert np.abs(difference).mean() < 2


def test_what_is_no_image_is_told_where_it_is_decoded(folder: Path) -> None:
    (folder / "train" / "a" / "0.jpg").write_bytes(b"no image")
    found = source_of(folder)
    assert isinstance(found, Reduced)
    scales = dict(zip([item.name for item in found.items], found.scales, strict=True))
    assert [name for name, scale in scales.items() if scale == 1] == ["train/a/0.jpg"]
