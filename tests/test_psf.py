"""Measured point-spread functions: what is read, what is refused, and scaling against fine sampling."""

import hashlib
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from blurtrain import psf
from blurtrain.convolution import Separable
from blurtrain.errors import ConfigError
from blurtrain.kernels import content, gaussian, kernel, spread
from blurtrain.views import Blur

VALUES = np.random.default_rng(0).integers(1, 200, (5, 7))


def saved(folder: Path, values: object, name: str = "lens.npy") -> str:
    path = folder / name
    np.save(path, np.asarray(values))
    return str(path)


def view_of(path: str, scale: float = 1.0) -> Blur:
    return Blur("psf", scale, None, "reflect101", path)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    psf.read.cache_clear()
    kernel.cache_clear()


# reading


@pytest.mark.parametrize("dtype", ["u1", "<u2", ">u2", "i4", "f2", "f4", "f8", ">f8", "g"])
def test_array_is_normalised_whatever_its_type(tmp_path: Path, dtype: str) -> None:
    made = kernel(view_of(saved(tmp_path, VALUES.astype(dtype))))
    np.testing.assert_allclose(made.weights, VALUES / VALUES.sum(), rtol=0, atol=1e-15)


WRITERS: dict[str, Callable[[Path], None]] = {
    "8-bit.png": lambda path: Image.fromarray(VALUES.astype(np.uint8)).save(path),
    "8-bit.bmp": lambda path: Image.fromarray(VALUES.astype(np.uint8)).save(path),
    "16-bit.png": lambda path: Image.fromarray((VALUES * 257).astype(np.uint16)).save(path),
    "16-bit.tif": lambda path: Image.fromarray((VALUES * 300).astype(np.uint16)).save(path),
    "float.tif": lambda path: Image.fromarray((VALUES / 7).astype(np.float32)).save(path),
    "equal-channels.png": lambda path: Image.fromarray(VALUES.astype(np.uint8)).convert("RGB").save(path),
    "opaque.png": lambda path: Image.fromarray(VALUES.astype(np.uint8)).convert("RGBA").save(path),
    "palette.png": lambda path: Image.fromarray(VALUES.astype(np.uint8)).convert("P").save(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_image_is_read_as_it_is_stored(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    made = kernel(view_of(str(tmp_path / name)))
    np.testing.assert_allclose(made.weights, VALUES / VALUES.sum(), rtol=0, atol=1e-7)


def test_centre_of_an_even_side_is_where_fftshift_puts_it(tmp_path: Path) -> None:
    values = np.fft.fftshift(np.eye(1, 24).reshape(4, 6))  # the origin alone
    assert kernel(view_of(saved(tmp_path, values))).weights.tolist() == [[1]]
    values[0, 0] = 1
    weights = kernel(view_of(saved(tmp_path, values, "other.npy"))).weights
    assert weights.shape == (5, 7)
    assert weights[0, 0] == weights[2, 3] == 0.5
    assert not weights[-1].any()


def test_margins_of_zeros_are_trimmed_about_the_centre(tmp_path: Path) -> None:
    padded = np.pad(VALUES, [(3, 3), (2, 2)])
    padded[2, 5] = 4  # in one margin: that row stays, and so does its mirror image
    assert kernel(view_of(saved(tmp_path, padded))).shape == (7, 7)


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1e307])
def test_scale_of_the_values_is_of_no_account(tmp_path: Path, factor: float) -> None:
    made = kernel(view_of(saved(tmp_path, VALUES / 256 * factor)))
    np.testing.assert_allclose(made.weights, VALUES / VALUES.sum(), rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_separable_file_takes_the_fast_way(tmp_path: Path, dtype: type) -> None:
    made = kernel(view_of(saved(tmp_path, gaussian(1.5).weights.astype(dtype))))
    assert isinstance(made, Separable)
    np.testing.assert_allclose(made.weights, gaussian(1.5).weights, rtol=0, atol=1e-8)


def test_content_is_the_files_hash(tmp_path: Path) -> None:
    path = saved(tmp_path, VALUES)
    assert content(view_of(path)) == hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_file_is_read_once_so_that_hash_and_kernel_belong_together(tmp_path: Path) -> None:
    path = saved(tmp_path, VALUES)
    before = content(view_of(path))
    Path(path).unlink()
    assert content(view_of(path)) == before
    assert kernel(view_of(path, 2.0)).weights.sum() == pytest.approx(1, abs=1e-12)


# refusing


def refusal(path: str, scale: float = 1.0) -> str:
    """The message, without the path that it must begin with."""
    with pytest.raises(ConfigError) as caught:
        kernel(view_of(path, scale))
    message = str(caught.value)
    assert message.startswith(path)
    assert "\n" not in message
    return message.removeprefix(path).strip()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((3, 4, 3)), "must be two-dimensional, got shape (3, 4, 3)"),
        (np.ones(9), "must be two-dimensional, got shape (9,)"),
        (np.ones((0, 3)), "must be two-dimensional, got shape (0, 3)"),
        ([[1.0, -0.5]], "must not hold negative values, got -0.5: subtract the background first"),
        ([[1.0, math.nan]], "must hold finite values alone, got NaN or infinity"),
        ([[1.0, math.inf]], "must hold finite values alone, got NaN or infinity"),
        (np.zeros((3, 3)), "must hold a value above 0, got zeros alone"),
        (np.ones((1026, 1)), "must be at most 1025 px a side, got 1026 x 1"),
        (np.ones((2, 2), complex), "must hold real numbers, got complex128"),
        ([["a"]], "must hold real numbers, got <U1"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_array_that_is_no_point_spread_function_is_refused(tmp_path: Path, values: object, message: str) -> None:
    assert refusal(saved(tmp_path, values)) == message


def test_pickled_objects_are_never_loaded(tmp_path: Path) -> None:
    path = tmp_path / "objects.npy"
    np.save(path, np.array([[None]]), allow_pickle=True)
    assert refusal(str(path)).startswith("is no .npy file of plain numbers (Object arrays cannot be loaded")


def test_missing_file_is_refused(tmp_path: Path) -> None:
    expected = "cannot be read (No such file or directory): give a .npy file or an image as psf"
    assert refusal(str(tmp_path / "nothing.npy")) == expected
    assert "(Is a directory)" in refusal(str(tmp_path))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"\x89PNG\r\n\x1a\n"], ids=["empty", "text", "cut"])
def test_file_that_is_neither_array_nor_image_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "file.png"
    path.write_bytes(data)
    assert refusal(str(path)).startswith("is neither a .npy file nor an image that can be decoded (")


def test_array_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    path = Path(saved(tmp_path, VALUES))
    path.write_bytes(path.read_bytes()[:-8])
    assert refusal(str(path)).startswith("is no .npy file of plain numbers (")
    path.write_bytes(path.read_bytes()[:20])
    assert refusal(str(path)).startswith("is no .npy file of plain numbers (")


def test_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "huge.npy"
    with path.open("wb") as file:
        file.truncate(2**26 + 1)  # takes no space
    assert refusal(str(path)) == "must be at most 1025 px a side, but has more than 67,108,864 bytes"


def picture(folder: Path, image: Image.Image, name: str = "lens.png", **options: object) -> str:
    image.save(folder / name, **options)  # type: ignore[arg-type]
    return str(folder / name)


def test_colours_and_transparency_are_refused(tmp_path: Path) -> None:
    red = Image.new("RGB", (3, 3), (200, 0, 0))
    assert refusal(picture(tmp_path, red)) == "is a colour image whose channels differ: give one channel"
    clear = Image.new("LA", (3, 3), (200, 100))
    assert refusal(picture(tmp_path, clear, "clear.png")) == "is a transparent image: give one channel"


def test_several_frames_are_refused(tmp_path: Path) -> None:
    frame = Image.fromarray(VALUES.astype(np.uint8))
    path = picture(tmp_path, frame, "stack.tif", save_all=True, append_images=[frame])
    assert refusal(path) == "must be one picture, got 2 frames"


def test_large_image_is_refused(tmp_path: Path) -> None:
    path = picture(tmp_path, Image.new("L", (1026, 2), 1))
    assert refusal(path) == "must be at most 1025 px a side, got 2 x 1026"


def test_kernel_that_scaling_makes_too_large_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, np.ones((3, 101)))
    assert refusal(path, 16.0) == "must be at most 1025 px a side, got 49 x 1617 at strength 16"


# scaling


def test_scale_one_is_exact(tmp_path: Path) -> None:
    path = saved(tmp_path, VALUES)
    np.testing.assert_array_equal(psf.scaled(path, 1.0), VALUES / VALUES.max() / (VALUES / VALUES.max()).sum())


@pytest.mark.parametrize("scale", [0.13, 0.5, 0.8, 1.5, 2.0, 3.0, 7.7])
def test_each_pixel_gets_its_share_of_the_squares(tmp_path: Path, scale: float) -> None:
    made = kernel(view_of(saved(tmp_path, VALUES), scale))
    fine = 400  # samples along each square
    expected = np.zeros(made.shape)
    places = [((np.arange(n * fine) + 0.5) / fine - n / 2) * scale for n in VALUES.shape]
    rows, columns = (np.rint(place).astype(int) + n // 2 for place, n in zip(places, made.shape, strict=True))
    density = np.kron(VALUES, np.ones((fine, fine))) / VALUES.sum() / fine**2
    np.add.at(expected, (rows[:, None], columns), density)
    np.testing.assert_allclose(made.weights, expected, rtol=0, atol=1.5 / fine)


@given(st.floats(0.02, 16))
@settings(max_examples=50)
def test_scaling_keeps_the_sum_and_stays_centred(tmp_path_factory: pytest.TempPathFactory, scale: float) -> None:
    path = saved(tmp_path_factory.getbasetemp(), VALUES, "shared.npy")
    weights = psf.scaled(path, scale)
    assert weights.min() >= 0
    assert weights.sum() == pytest.approx(1, abs=1e-12)
    for n, axis in zip(weights.shape, (0, 1), strict=True):
        side = VALUES.shape[axis]
        before = (VALUES.sum(1 - axis) / VALUES.sum()) @ (np.arange(side) - side // 2)
        after = weights.sum(1 - axis) @ (np.arange(n) - n // 2)
        assert after == pytest.approx(before * scale, abs=0.5)  # what a pixel collects counts as in its middle


def test_whole_factor_repeats_each_value(tmp_path: Path) -> None:
    weights = kernel(view_of(saved(tmp_path, VALUES), 3.0)).weights
    np.testing.assert_allclose(weights, np.kron(VALUES, np.ones((3, 3))) / VALUES.sum() / 9, rtol=0, atol=1e-15)


def test_symmetric_function_stays_symmetric(tmp_path: Path) -> None:
    made = kernel(view_of(saved(tmp_path, [[1, 2, 1], [3, 9, 3], [1, 2, 1]]), 1.7))
    assert made.is_even


def test_tiny_scale_leaves_one_pixel(tmp_path: Path) -> None:
    np.testing.assert_allclose(kernel(view_of(saved(tmp_path, VALUES), 0.1)).weights, [[1]], rtol=1e-15)


def test_spread_is_the_kernels_own(tmp_path: Path) -> None:
    path = saved(tmp_path, gaussian(2.0).weights)
    assert spread(view_of(path)) == pytest.approx(2, rel=1e-3)
    assert spread(view_of(path, 3.0)) == pytest.approx(math.sqrt(36 + 9 / 12), rel=0.01)  # and that of the squares


def test_bytes_decide_what_a_file_is_not_its_name(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.save(buffer, VALUES)
    path = tmp_path / "array.png"
    path.write_bytes(buffer.getvalue())
    np.testing.assert_allclose(kernel(view_of(str(path))).weights, VALUES / VALUES.sum(), rtol=0, atol=1e-15)
    assert re.fullmatch("[0-9a-f]{64}", content(view_of(str(path))))
