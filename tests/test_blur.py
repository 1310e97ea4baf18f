"""Blurring against scipy in float64, and what a blur must leave alone."""

import sys
from dataclasses import replace
from pathlib import Path

import cv2
import jaxtyping
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from blurtrain import kernels
from blurtrain.blur import blur, blur_pixels, border_matrix
from blurtrain.config import BlurGrid
from blurtrain.convolution import Planar, Separable
from blurtrain.kernels import gaussian
from blurtrain.views import CLEAN, Blur, Border

SCIPY_MODES: dict[Border, str] = {
    "reflect101": "mirror",
    "symmetric": "reflect",
    "replicate": "nearest",
    "circular": "wrap",
    "zero": "constant",
}
NUMPY_MODES: dict[Border, str] = {
    "reflect101": "reflect",
    "symmetric": "symmetric",
    "replicate": "edge",
    "circular": "wrap",
    "zero": "constant",
}
BORDERS = list(SCIPY_MODES)
SIDES = st.tuples(st.integers(1, 24), st.integers(1, 24))
blur_module = sys.modules["blurtrain.blur"]  # the package has a function of that name
SIZES = [(32, 32), (9, 23), (17, 6), (5, 4), (1, 8)]  # the last ones are narrower than most kernels
SIGMAS = [0.3, 0.5, 1.0, 2.5, 6.0]
every_case = pytest.mark.parametrize(
    ("border", "size", "sigma"),
    [(border, size, sigma) for border in BORDERS for size in SIZES for sigma in SIGMAS],
    ids=lambda value: str(value).replace(" ", ""),
)


DIRECT, FOURIER, SEPARABLE = "_direct", "_fourier", "_separable"
FAMILY_VIEWS: list[tuple[Blur, str]] = [
    (Blur("box", 3.0), SEPARABLE),
    (Blur("box", 9.0), SEPARABLE),
    (Blur("box", 31.0), SEPARABLE),
    (Blur("defocus", 0.4), SEPARABLE),
    (Blur("defocus", 1.3), DIRECT),
    (Blur("defocus", 5.0), DIRECT),
    (Blur("defocus", 9.5), FOURIER),
    (Blur("motion", 7.0, 0.0), SEPARABLE),
    (Blur("motion", 7.5, 90.0), SEPARABLE),
    (Blur("motion", 6.0, 30.0), DIRECT),
    (Blur("motion", 33.0, 125.0), DIRECT),  # in pieces
    (Blur("motion", 120.0, 20.0), FOURIER),
    (Blur("half-gaussian", 1.0, 20.0), DIRECT),
    (Blur("half-gaussian", 5.0, 250.0), DIRECT),
    (Blur("half-gaussian", 2.0, 180.0), SEPARABLE),
    (Blur("psf", 1.0, None, "reflect101", "ragged 9 x 5"), DIRECT),
    (Blur("psf", 2.7, None, "reflect101", "ragged 9 x 5"), FOURIER),
]
every_family = pytest.mark.parametrize(
    "view", [view for view, _ in FAMILY_VIEWS], ids=[view.name for view, _ in FAMILY_VIEWS]
)
every_border = pytest.mark.parametrize("border", BORDERS)


@pytest.fixture(autouse=True)
def ragged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file for psf that is symmetric in no way."""
    if not Path("ragged 9 x 5").exists():
        monkeypatch.chdir(tmp_path)
        with Path("ragged 9 x 5").open("wb") as file:
            np.save(file, np.random.default_rng(0).random((9, 5)))


def convolved(images: np.ndarray, view: Blur) -> np.ndarray:
    """Each plane convolved by scipy in float64, beyond the border that numpy pads."""
    weights = kernels.kernel(view).weights[None, None]
    # scipy.ndimage's own border reads a pixel beside the image where the kernel reaches four image sides (scipy 1.17).
    margins = [(n // 2, n // 2) for n in weights.shape]
    padded = np.pad(images.astype(np.float64), margins, mode=NUMPY_MODES[view.border])  # type: ignore[call-overload]
    return np.asarray(scipy.signal.convolve(padded, weights, "valid", "direct"))


@every_family
@every_border
@pytest.mark.parametrize("size", [(40, 37), (9, 23), (5, 4), (1, 8), (1, 1)], ids=str)
def test_every_family_matches_scipy(view: Blur, border: Border, size: tuple[int, int]) -> None:
    view = replace(view, border=border)
    pixels = random_pixels(2, 1, *size)
    expected = convolved(pixels / 255, view)
    np.testing.assert_allclose(blur_pixels(pixels, view), expected, rtol=0, atol=1e-6)
    images = torch.from_numpy(pixels / 255)
    np.testing.assert_allclose(blur(images.float(), view), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(blur(images, view), expected, rtol=0, atol=1e-12)


@every_family
def test_large_images_match_scipy(view: Blur) -> None:
    pixels = random_pixels(1, 1, 230, 224)
    np.testing.assert_allclose(blur_pixels(pixels, view), convolved(pixels / 255, view), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("view", "way"), FAMILY_VIEWS, ids=str)
@pytest.mark.parametrize("size", [(40, 37), (5, 4)], ids=str)
def test_way_depends_on_the_kernel_alone(
    view: Blur, way: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = []
    for name in (DIRECT, FOURIER, SEPARABLE):
        monkeypatch.setattr(blur_module, name, lambda *_, name=name: taken.append(name))
    blur_pixels(random_pixels(2, 3, *size), view)
    assert taken == 3 * [way]  # each colour channel by itself


@every_border
@pytest.mark.parametrize("size", [(40, 37), (5, 4), (1, 8)], ids=str)
@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (41, 9), (9, 41)])
def test_direct_and_fourier_agree(border: Border, size: tuple[int, int], rows: int, columns: int) -> None:
    made = Planar(np.random.default_rng(rows).dirichlet(np.full(rows * columns, 0.3)).reshape(rows, columns))
    planes = random_pixels(2, *size)
    results = np.empty((2, *planes.shape), np.float32)
    blur_module._direct(planes, results[0], made, border, 1 / 255)
    blur_module._fourier(planes, results[1], made, border, 1 / 255)
    np.testing.assert_allclose(results[0], results[1], rtol=0, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.001, 1), st.integers(0, 99))
@settings(max_examples=50)
def test_pieces_are_small_and_add_up_to_the_mirrored_kernel(rows: int, columns: int, share: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.random((2 * rows + 1, 2 * columns + 1)) * (rng.random((2 * rows + 1, 2 * columns + 1)) < share)
    total = np.zeros(weights.shape, np.float32)
    for row, column, piece in blur_module._pieces(Planar(weights), 0.5):
        assert 0 < piece.size <= 128
        total[row : row + piece.shape[0], column : column + piece.shape[1]] += piece
    np.testing.assert_array_equal(total, (weights[::-1, ::-1] * 0.5).astype(np.float32))


def test_point_of_light_becomes_the_kernel_as_seen() -> None:
    pixels = np.zeros((1, 1, 41, 41), np.uint8)
    pixels[..., 20, 20] = 255
    for view, _ in FAMILY_VIEWS:
        weights = kernels.kernel(view).weights
        top, left = (20 - n // 2 for n in weights.shape)
        if top >= 0 and left >= 0:
            seen = blur_pixels(pixels, view)[0, 0, top : top + weights.shape[0], left : left + weights.shape[1]]
            np.testing.assert_allclose(seen, weights, rtol=0, atol=1e-6)


@every_family
@every_border
def test_constant_image_stays_in_every_family(view: Blur, border: Border) -> None:
    result = blur_pixels(np.full((1, 1, 20, 24), 200, np.uint8), replace(view, border=border))
    if border == "zero":
        assert result.max() <= 200 / 255 + 1e-6
    else:
        np.testing.assert_allclose(result, 200 / 255, rtol=0, atol=1e-6)


@given(st.sampled_from([view for view, _ in FAMILY_VIEWS if view.family != "psf"]), st.sampled_from(BORDERS), SIDES)
def test_values_of_every_family_stay_between_lowest_and_highest(
    view: Blur, border: Border, size: tuple[int, int]
) -> None:
    pixels = np.random.default_rng(size).integers(0 if border == "zero" else 100, 181, (1, 1, *size), dtype=np.uint8)
    result = blur_pixels(pixels, replace(view, border=border))
    assert result.min() >= pixels.min() / 255 * (border != "zero") - 1e-6
    assert result.max() <= pixels.max() / 255 + 1e-6


@given(st.sampled_from([Blur("box", 5.0), Blur("defocus", 3.3), Blur("defocus", 8.0)]), SIDES, st.sampled_from([2, 3]))
@settings(max_examples=40)
def test_even_kernels_commute_with_flips(view: Blur, size: tuple[int, int], axis: int) -> None:
    pixels = random_pixels(1, 1, *size)
    flipped = blur_pixels(np.flip(pixels, axis).copy(), view)
    np.testing.assert_allclose(flipped, np.flip(blur_pixels(pixels, view), axis), rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", [Blur("defocus", 2.3), Blur("defocus", 9.0), Blur("box", 7.0)], ids=str)
@pytest.mark.parametrize("n", [1, 6, 30])
def test_symmetric_border_keeps_the_mean_of_even_kernels(view: Blur, n: int) -> None:
    pixels = random_pixels(1, 1, n, n + 3)
    result = blur_pixels(pixels, replace(view, border="symmetric"))
    assert result.mean(dtype=np.float64) == pytest.approx(pixels.mean() / 255, abs=1e-6)


@every_family
@pytest.mark.parametrize("border", ["reflect101", "circular"])
def test_every_family_blurs_alike_in_any_batch_and_with_any_threads(view: Blur, border: Border) -> None:
    view = replace(view, border=border)
    pixels = random_pixels(5, 3, 33, 30)
    together, threads = blur_pixels(pixels, view), cv2.getNumThreads()
    np.testing.assert_array_equal(np.concatenate([blur_pixels(image[None], view) for image in pixels]), together)
    try:
        for count in (1, 3):
            cv2.setNumThreads(count)
            np.testing.assert_array_equal(blur_pixels(pixels, view), together)
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 5), (7, 3)])
@pytest.mark.parametrize("reach", [0, 1, 4, 30])
@every_border
def test_opencvs_margin_is_that_of_the_matrices(border: Border, height: int, width: int, reach: int) -> None:
    made = Planar(np.eye(2 * reach + 1) / (2 * reach + 1))
    plane = random_pixels(height, width) | 1
    rows, columns = (blur_module.sources(n, reach, border) for n in plane.shape)
    expected = np.where((rows[:, None] >= 0) & (columns >= 0), plane[rows[:, None], columns], 0)
    np.testing.assert_array_equal(blur_module._padded(plane, made, border), expected)


@pytest.mark.parametrize("view", [Blur("motion", 4.0, 30.0), Blur("defocus", 2.5), Blur("box", 5.0)], ids=str)
@every_border
def test_gradient_of_every_way_is_that_of_a_linear_map(view: Blur, border: Border) -> None:
    view = replace(view, border=border)
    generator = torch.Generator().manual_seed(0)
    images, probe = (torch.rand(2, 1, 7, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    images.requires_grad_()
    (gradient,) = torch.autograd.grad((blur(images, view) * probe).sum(), images)
    other = torch.rand(2, 1, 7, 6, dtype=torch.float64, generator=generator)  # <A^T p, x> = <p, A x>
    assert (gradient * other).sum().item() == pytest.approx((probe * blur(other, view)).sum().item(), abs=1e-12)
    floats = images.detach().float().requires_grad_()
    np.testing.assert_allclose(blur(floats, view).detach(), blur(images, view).detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@every_family
def test_every_family_keeps_the_type_and_rounds_once(view: Blur, dtype: torch.dtype) -> None:
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0)).to(dtype)
    result = blur(images, view)
    assert result.dtype == dtype
    exact = blur(images.double(), view)
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)


@every_family
def test_autocast_does_not_round(view: Blur) -> None:
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = blur(images, view)
    torch.testing.assert_close(result.double(), blur(images.double(), view), rtol=0, atol=1e-6)


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).integers(0, 256, shape, dtype=np.uint8)


def oracle(images: np.ndarray, sigma: float, border: Border) -> np.ndarray:
    """Both axes filtered by scipy in float64."""
    radius = int(np.ceil(4 * sigma))
    taps = np.exp(-(np.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    result = images.astype(np.float64)
    for axis in (-2, -1):
        result = scipy.ndimage.correlate1d(result, taps / taps.sum(), axis, mode=SCIPY_MODES[border])
    return result


@every_case
def test_blurred_pixels_match_scipy(border: Border, size: tuple[int, int], sigma: float) -> None:
    pixels = random_pixels(2, 3, *size)
    result = blur_pixels(pixels, Blur("gaussian", sigma, None, border))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracle(pixels / 255, sigma, border), rtol=0, atol=1e-6)


@every_case
def test_blurred_float32_images_match_scipy(border: Border, size: tuple[int, int], sigma: float) -> None:
    images = (random_pixels(2, 3, *size) / 255).astype(np.float32)
    result = blur(torch.from_numpy(images), Blur("gaussian", sigma, None, border))
    assert result.dtype == torch.float32
    np.testing.assert_allclose(result, oracle(images, sigma, border), rtol=0, atol=1e-6)


@every_case
def test_matrix_products_match_scipy(border: Border, size: tuple[int, int], sigma: float) -> None:
    images = random_pixels(2, 3, *size) / 255
    result = blur(torch.from_numpy(images), Blur("gaussian", sigma, None, border))
    assert result.dtype == torch.float64
    np.testing.assert_allclose(result, oracle(images, sigma, border), rtol=0, atol=1e-12)


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("n", [1, 2, 3, 8, 20])
@pytest.mark.parametrize("taps", [1, 3, 7, 21])
def test_border_matrix_is_a_convolution_of_the_padded_axis(border: Border, n: int, taps: int) -> None:
    rng = np.random.default_rng([n, taps])
    lopsided, signal = rng.dirichlet(np.ones(taps)), rng.normal(size=n)
    padded = np.pad(signal, taps // 2, mode=NUMPY_MODES[border])  # type: ignore[call-overload]
    expected = np.convolve(padded, lopsided, "valid")
    np.testing.assert_allclose(border_matrix(lopsided, n, border) @ signal, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("border", BORDERS)
def test_lopsided_kernel_moves_every_kind_of_image_the_same_way(
    border: Border, monkeypatch: pytest.MonkeyPatch
) -> None:
    lopsided = Separable(np.array([0.7, 0.2, 0.1]), np.array([0, 0, 0.3, 0.3, 0.4]))
    kernels.kernel.cache_clear()
    monkeypatch.setitem(kernels.FAMILIES, "lopsided", kernels.Family(lambda _: lopsided, lambda _: 1.0, "nothing"))
    view = Blur("lopsided", 1.0, None, border)
    pixels = random_pixels(1, 3, 12, 14)
    double = blur(torch.from_numpy(pixels / 255), view)
    expected = scipy.ndimage.convolve(pixels[0, 0] / 255, lopsided.weights, mode=SCIPY_MODES[border])
    np.testing.assert_allclose(double[0, 0], expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(blur_pixels(pixels, view), double, rtol=0, atol=1e-6)


@pytest.mark.parametrize("border", ["reflect101", "symmetric", "replicate", "circular"])
@pytest.mark.parametrize("sigma", [0.5, 3.0, 20.0])
def test_constant_image_stays(border: Border, sigma: float) -> None:
    pixels = np.full((1, 3, 20, 24), 77, np.uint8)
    result = blur_pixels(pixels, Blur("gaussian", sigma, None, border))
    np.testing.assert_allclose(result, 77 / 255, rtol=0, atol=1e-6)


def test_zero_border_darkens_the_edge_alone() -> None:
    result = blur_pixels(np.full((1, 3, 40, 40), 255, np.uint8), Blur("gaussian", 2.0, None, "zero"))[0, 0]
    np.testing.assert_allclose(result[8:-8, 8:-8], 1, rtol=0, atol=1e-6)
    assert result[0, 20] == pytest.approx(0.6, abs=0.01)  # half of the gaussian and half of its middle weight
    assert result[0, 0] == pytest.approx(0.36, abs=0.01)


views = st.builds(Blur, st.just("gaussian"), st.floats(0.05, 30), st.none(), st.sampled_from(BORDERS))


@given(views, SIDES, st.integers(0, 99))
def test_values_stay_between_lowest_and_highest(view: Blur, size: tuple[int, int], seed: int) -> None:
    low, high = (0 if view.border == "zero" else 100), 180
    pixels = np.random.default_rng(seed).integers(low, high + 1, (1, 3, *size), dtype=np.uint8)
    result = blur_pixels(pixels, view)
    assert result.min() >= low / 255 - 1e-6
    assert result.max() <= high / 255 + 1e-6


@given(views, SIDES, st.sampled_from([-1, -2]))
def test_blur_commutes_with_flips(view: Blur, size: tuple[int, int], axis: int) -> None:
    pixels = random_pixels(1, 3, *size)
    np.testing.assert_allclose(
        blur_pixels(np.flip(pixels, axis).copy(), view), np.flip(blur_pixels(pixels, view), axis), rtol=0, atol=1e-6
    )


@given(views, SIDES)
def test_blur_commutes_with_exchanging_the_axes(view: Blur, size: tuple[int, int]) -> None:
    images = torch.from_numpy(random_pixels(1, 3, *size) / 255)
    torch.testing.assert_close(blur(images.mT, view), blur(images, view).mT, rtol=0, atol=1e-12)


@given(st.floats(1, 4), st.floats(1, 4))
@settings(max_examples=30)
def test_two_gaussians_make_one(first: float, second: float) -> None:
    images = torch.from_numpy(random_pixels(1, 3, 24, 24) / 255)
    twice = blur(blur(images, Blur("gaussian", first, None, "circular")), Blur("gaussian", second, None, "circular"))
    once = blur(images, Blur("gaussian", float(np.hypot(first, second)), None, "circular"))
    torch.testing.assert_close(twice, once, rtol=0, atol=2e-4)  # the tails beyond four sigma


@given(st.floats(0.05, 30), SIDES)
def test_symmetric_border_keeps_the_mean(sigma: float, size: tuple[int, int]) -> None:
    pixels = random_pixels(1, 1, *size)
    result = blur_pixels(pixels, Blur("gaussian", sigma, None, "symmetric"))
    assert result.mean(dtype=np.float64) == pytest.approx(pixels.mean() / 255, abs=1e-6)


@pytest.mark.parametrize("n", [1, 5, 30])
def test_symmetric_border_matrix_is_doubly_stochastic(n: int) -> None:
    matrix = border_matrix(gaussian(2.0).vertical, n, "symmetric")
    assert (matrix >= 0).all()
    np.testing.assert_allclose(matrix.sum(axis=0), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)


def test_strength_zero_changes_nothing() -> None:
    (view,) = BlurGrid("gaussian", (0.0,)).blurs()
    pixels = random_pixels(2, 3, 8, 8)
    images = torch.from_numpy(pixels / 255)
    assert view == CLEAN
    assert torch.equal(blur(images, view), images)
    np.testing.assert_array_equal(blur_pixels(pixels, view), (pixels / 255).astype(np.float32))


def test_next_to_no_blur_is_next_to_the_identity() -> None:
    pixels = random_pixels(1, 3, 8, 8)
    np.testing.assert_allclose(blur_pixels(pixels, Blur("gaussian", 0.05)), pixels / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("view", [CLEAN, Blur("gaussian", 1.0), Blur("gaussian", 5.0, None, "circular")], ids=str)
def test_image_is_blurred_alike_in_any_batch(view: Blur) -> None:
    pixels = random_pixels(8, 3, 19, 16)
    alone = np.concatenate([blur_pixels(image[None], view) for image in pixels])
    np.testing.assert_array_equal(alone, blur_pixels(pixels, view))


@pytest.mark.parametrize("view", [CLEAN, Blur("gaussian", 1.5), Blur("gaussian", 9.0)], ids=str)
def test_input_is_left_alone(view: Blur) -> None:
    pixels = random_pixels(1, 3, 16, 16)
    images = torch.from_numpy((pixels / 255).astype(np.float32))
    before = pixels.copy(), images.clone()
    blur_pixels(pixels, view)
    blur(images, view)
    np.testing.assert_array_equal(pixels, before[0])
    assert torch.equal(images, before[1])


def test_memory_layout_changes_nothing() -> None:
    images = torch.rand(2, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    view = Blur("gaussian", 1.5)
    last = images.to(memory_format=torch.channels_last)
    assert torch.equal(blur(last, view), blur(images, view))
    window = torch.nn.functional.pad(images, (3, 4))[..., 3:-4]
    assert torch.equal(blur(window, view), blur(images, view))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_type_is_kept(dtype: torch.dtype) -> None:
    images = torch.rand(1, 3, 12, 10, generator=torch.Generator().manual_seed(0))
    result = blur(images.to(dtype), Blur("gaussian", 1.5))
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), blur(images, Blur("gaussian", 1.5)), rtol=0, atol=0.02)


@pytest.mark.parametrize("border", BORDERS)
def test_gradient_is_the_transposed_filter(border: Border) -> None:
    view = Blur("gaussian", 1.5, None, border)
    images = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(0), requires_grad=True)
    result = blur(images, view)
    torch.testing.assert_close(result.detach(), blur(images.detach(), view), rtol=0, atol=1e-6)
    probe = torch.rand(1, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((result * probe).sum(), images)
    rows, columns = (torch.from_numpy(border_matrix(gaussian(1.5).vertical, n, border)).float() for n in (9, 11))
    torch.testing.assert_close(gradient, rows.mT @ probe @ columns, rtol=0, atol=1e-6)


def test_whole_numbers_are_refused() -> None:
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        with pytest.raises(ValueError, match=r"images must be floating point, got torch\.uint8"):
            blur(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), CLEAN)
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
