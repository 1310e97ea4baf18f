"""Blur kernels against supersampling, scipy's impulse response, numpy's Fourier transform and published figures."""

import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given, settings
from hypothesis import strategies as st

from blurtrain.config import Config
from blurtrain.convolution import Kernel, Planar, Separable, from_weights
from blurtrain.kernels import (
    FAMILIES,
    WITH_KERNEL,
    box,
    content,
    defocus,
    gaussian,
    half_gaussian,
    is_heavy,
    is_slight,
    kernel,
    motion,
    spread,
)
from blurtrain.views import CLEAN, Blur

SIGMAS = st.floats(0.01, 60)
LOPSIDED = Separable(np.array([0.2, 0.5, 0.3]), np.array([0.1, 0, 0.6, 0.3, 0]))
PLANAR = np.random.default_rng(0).dirichlet(np.ones(35)).reshape(5, 7)


@pytest.mark.parametrize("sigma", [0.2, 0.5, 1.0, 1.7, 2.5, 8.0])
def test_gaussian_is_scipys_impulse_response(sigma: float) -> None:
    radius = math.ceil(4 * sigma)
    impulse = np.zeros(2 * radius + 1)
    impulse[radius] = 1
    expected = scipy.ndimage.gaussian_filter1d(impulse, sigma, mode="constant", radius=radius)
    made = gaussian(sigma)
    np.testing.assert_allclose(made.vertical, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(made.horizontal, expected, rtol=0, atol=1e-14)


@given(SIGMAS)
def test_gaussian_is_a_symmetric_average(sigma: float) -> None:
    made = gaussian(sigma)
    assert (made.weights >= 0).all()
    assert made.weights.sum() == pytest.approx(1, abs=1e-12)
    assert made.l1 == pytest.approx(1, abs=1e-12)
    np.testing.assert_array_equal(made.vertical, made.vertical[::-1])
    assert made.is_even
    assert len(made.vertical) == 2 * math.ceil(4 * sigma) + 1


def test_weights_are_the_outer_product_rows_first() -> None:
    assert LOPSIDED.weights.shape == (3, 5)
    assert LOPSIDED.weights[0, 3] == pytest.approx(0.2 * 0.3)


EXAMPLES = {
    "slight": gaussian(0.5),
    "wide": gaussian(2.0),
    "lopsided": LOPSIDED,
    "planar": Planar(PLANAR),
    "upright": Planar((PLANAR + PLANAR[::-1]) / 2),
    "sideways": Planar((PLANAR + PLANAR[:, ::-1]) / 2),
    "box": box(5.0),
    "disk": defocus(2.6),
    "line": motion(7.3, 20.0),
    "trail": half_gaussian(1.5, 100.0),
}
every_example = pytest.mark.parametrize("made", EXAMPLES.values(), ids=EXAMPLES)


def about_the_centre(made: Kernel) -> Iterator[tuple[int, int, float]]:
    """Each weight with its offset from the origin."""
    rows, columns = made.weights.shape
    for (row, column), weight in np.ndenumerate(made.weights):
        yield row - rows // 2, column - columns // 2, float(weight)


@every_example
@pytest.mark.parametrize("size", [(32, 32), (24, 31), (5, 7), (1, 3)], ids=str)
def test_spectrum_is_the_transform_of_the_kernel_on_the_torus(made: Kernel, size: tuple[int, int]) -> None:
    height, width = size
    torus = np.zeros(size)
    for row, column, weight in about_the_centre(made):
        torus[row % height, column % width] += weight
    expected = np.fft.fft2(torus)
    np.testing.assert_allclose(made.spectrum(height, width), expected, rtol=0, atol=1e-12)
    assert made.furthest(height, width) == pytest.approx(np.abs(1 - expected).max(), abs=1e-12)


@every_example
def test_norms_and_moments_are_those_of_the_two_dimensional_weights(made: Kernel) -> None:
    entries = np.array(list(about_the_centre(made)))
    offsets, weights = entries[:, :2], entries[:, 2]
    covariance = np.cov(offsets.T, aweights=weights, bias=True)
    assert made.shape == made.weights.shape
    assert made.standard_deviation == pytest.approx(math.sqrt(np.linalg.eigvalsh(covariance)[-1]), abs=1e-12)
    assert made.l1 == pytest.approx(np.abs(weights).sum(), abs=1e-12)
    assert made.centre == pytest.approx(weights[(offsets == 0).all(1)].item(), abs=1e-15)
    identity = (offsets == 0).all(1)
    assert made.distance == pytest.approx(np.abs(identity - weights).sum(), abs=1e-12)
    assert made.distance == pytest.approx(2 * (1 - made.centre), abs=1e-12)


@every_example
def test_evenness_is_that_of_both_axes(made: Kernel) -> None:
    flipped = (np.flip(made.weights, axis) for axis in (0, 1))
    assert made.is_even == all(np.allclose(made.weights, other, rtol=0, atol=1e-14) for other in flipped)


def test_even_kernels_are_the_mirror_symmetric_ones() -> None:
    assert [name for name, made in EXAMPLES.items() if made.is_even] == ["slight", "wide", "box", "disk"]


def test_spectrum_of_a_gaussian_is_real_and_one_at_frequency_zero() -> None:
    spectrum = gaussian(1.3).spectrum(20, 30)
    assert spectrum[0, 0] == pytest.approx(1, abs=1e-12)
    assert np.abs(spectrum.imag).max() < 1e-12


@pytest.mark.parametrize(("sigma", "effective"), [(0.2, 0.003), (0.5, 0.464), (1.0, 1.0), (3.0, 3.0)])
def test_standard_deviation_is_that_of_the_samples(sigma: float, effective: float) -> None:
    assert gaussian(sigma).standard_deviation == pytest.approx(effective, abs=1.5e-3)


@given(st.floats(0.8, 40))
def test_standard_deviation_is_close_to_sigma_from_0_8_px(sigma: float) -> None:
    assert gaussian(sigma).standard_deviation == pytest.approx(sigma, rel=0.01)


def test_kernel_factors_pass_one_where_the_theory_says() -> None:
    distance = {sigma: gaussian(sigma).distance for sigma in (0.56, 0.57)}
    assert distance[0.56] < 1 < distance[0.57]
    furthest = {sigma: gaussian(sigma).furthest(256, 256) for sigma in (1.5, 3.0)}
    assert furthest[1.5] < 1 < furthest[3.0] < 1 + 1e-3


def test_kernel_of_a_blur_has_its_strength() -> None:
    np.testing.assert_array_equal(kernel(Blur("gaussian", 1.5)).weights, gaussian(1.5).weights)
    np.testing.assert_array_equal(kernel(Blur("box", 7.0)).weights, np.full((7, 7), 1 / 49))
    np.testing.assert_array_equal(kernel(Blur("defocus", 2.5)).weights, defocus(2.5).weights)
    np.testing.assert_array_equal(kernel(Blur("motion", 9.0, 30.0)).weights, motion(9.0, 30.0).weights)
    np.testing.assert_array_equal(kernel(Blur("half-gaussian", 3.0, 80.0)).weights, half_gaussian(3.0, 80.0).weights)


def test_kernel_of_a_blur_is_made_once() -> None:
    assert kernel(Blur("defocus", 3.0)) is kernel(Blur("defocus", 3.0))


def test_content_is_that_of_a_file_alone() -> None:
    assert content(CLEAN) == content(Blur("motion", 3.0, 10.0)) == ""


# what all families have in common

DIRECTIONS = st.integers(0, 1439).map(lambda quarter: quarter / 4)  # degrees whose sum with 180 is exact
SHAPES: dict[str, tuple[Callable[..., Kernel], st.SearchStrategy[tuple[float, ...]]]] = {
    "box": (box, st.tuples(st.integers(1, 30).map(lambda half: 2.0 * half + 1))),
    "defocus": (defocus, st.tuples(st.floats(1e-3, 40))),
    "motion": (motion, st.tuples(st.floats(1e-3, 90), st.floats(-720, 720))),
    "half-gaussian": (half_gaussian, st.tuples(st.floats(0.05, 12), st.floats(0, 360))),
}


@pytest.mark.parametrize("family", SHAPES)
@given(st.data())
@settings(max_examples=40)
def test_kernel_is_an_average_without_empty_margins(family: str, data: st.DataObject) -> None:
    make, strategy = SHAPES[family]
    made = make(*data.draw(strategy))
    weights = made.weights
    assert weights.min() >= 0
    assert abs(weights.sum() - 1) <= 1e-15 * max(weights.size, 10)
    assert made.l1 == pytest.approx(1, abs=1e-12)
    for n, axis in zip(weights.shape, (0, 1), strict=True):
        assert n % 2 == 1
        assert n == 1 or np.take(weights, [0, -1], axis).any()


@pytest.mark.parametrize("family", sorted(set(WITH_KERNEL) - {"psf"}))
def test_wide_kernel_is_as_wide_as_its_strength_says(family: str) -> None:
    view = Blur(family, 61.0, 33.0 if FAMILIES[family].directed else None)
    assert kernel(view).standard_deviation == pytest.approx(spread(view), rel=0.01)


def test_spread_is_the_formula_of_the_family() -> None:
    assert spread(Blur("box", 5.0)) == pytest.approx(math.sqrt(2), abs=1e-12)
    assert spread(Blur("defocus", 3.0)) == 1.5
    assert spread(Blur("motion", 6.0, 10.0)) == pytest.approx(math.sqrt(3), abs=1e-12)
    assert spread(Blur("half-gaussian", 2.0, 10.0)) == pytest.approx(2 * 0.602810, abs=1e-5)


@pytest.mark.parametrize(
    ("made", "low", "high"),
    [
        *((box(width), 1.215, 1.334) for width in (3.0, 5.0, 9.0, 31.0)),
        *((defocus(radius), 1.11, 1.17) for radius in (1.0, 3.0, 10.0, 20.0)),
        *((motion(length, 0.0), 1.21, 1.34) for length in (3.0, 9.0, 21.0)),
        *((motion(length, 30.0), 1.17, 1.25) for length in (9.0, 21.0, 40.0)),
    ],
)
def test_kernels_with_hard_edges_exceed_one_as_published(made: Kernel, low: float, high: float) -> None:
    assert low < made.furthest(256, 256) < high


# separable or not


@pytest.mark.parametrize(
    "made",
    [motion(7.5, 0.0), motion(7.5, 90.0), motion(0.9, 33.0), defocus(0.5), half_gaussian(2.0, 180.0), box(3.0)],
    ids=str,
)
def test_outer_products_take_the_fast_way(made: Kernel) -> None:
    assert isinstance(made, Separable)


@pytest.mark.parametrize(
    "made", [motion(7.5, 20.0), motion(7.5, 45.0), defocus(0.6), half_gaussian(2.0, 45.0)], ids=str
)
def test_other_kernels_are_no_outer_products(made: Kernel) -> None:
    assert isinstance(made, Planar)


def test_weights_are_normalised_trimmed_about_their_centre_and_split() -> None:
    made = from_weights(np.outer([0.0, 0, 0, 1, 2, 0, 0], [0.0, 3, 0]))
    assert isinstance(made, Separable)
    np.testing.assert_allclose(made.vertical, [0, 1 / 3, 2 / 3], rtol=1e-15)
    np.testing.assert_array_equal(made.horizontal, [1])
    single = from_weights((np.outer([1, 2, 4], [1, 3, 1]) / 35).astype(np.float32).astype(np.float64))
    assert isinstance(single, Separable)  # a file in single precision holds rounded weights
    assert isinstance(from_weights(PLANAR), Planar)


# disks


@pytest.mark.parametrize("radius", [0.3, 0.5, 0.6, 0.75, 1.0, 1.5, 2.2, 5.0, 9.7])
def test_disk_is_its_area_in_each_pixel(radius: float) -> None:
    made = defocus(radius)
    fine = 400  # columns of a pixel, each integrated exactly over its rows
    rows, columns = (n // 2 for n in made.shape)
    x = (np.arange((2 * columns + 1) * fine) + 0.5) / fine - columns - 0.5
    arc = np.sqrt(np.clip(radius**2 - x**2, 0, None))
    for row in range(-rows, rows + 1):
        lit = np.clip(np.minimum(arc, row + 0.5) - np.maximum(-arc, row - 0.5), 0, None)
        areas = lit.reshape(-1, fine).mean(1)
        np.testing.assert_allclose(made.weights[row + rows] * math.pi * radius**2, areas, rtol=0, atol=2e-4)


@given(st.floats(0.01, 60))
def test_disk_has_all_eight_symmetries(radius: float) -> None:
    weights = defocus(radius).weights
    assert weights.shape[0] == 2 * max(math.ceil(radius - 0.5), 0) + 1 or radius % 1 == pytest.approx(0.5, abs=1e-6)
    for other in (weights.T, weights[::-1], weights[:, ::-1], np.rot90(weights)):
        np.testing.assert_array_equal(weights, other)


def test_disk_within_a_pixel_is_no_blur() -> None:
    np.testing.assert_array_equal(defocus(0.5).weights, [[1]])
    assert defocus(0.51).weights.shape == (3, 3)


def test_pixels_inside_the_disk_weigh_the_same() -> None:
    weights = defocus(5.0).weights
    np.testing.assert_allclose(weights[3:8, 3:8], 1 / (math.pi * 25), rtol=1e-12)


# lines


@pytest.mark.parametrize("length", [0.5, 1.0, 1.7, 3.0, 6.4, 20.0])
@pytest.mark.parametrize("angle", [0.0, 10.0, 30.0, 45.0, 60.0, 90.0, 123.4, 135.0, 170.0])
def test_line_is_its_length_in_each_pixel(length: float, angle: float) -> None:
    made = motion(length, angle)
    places = ((np.arange(200_000) + 0.5) / 200_000 - 0.5) * length
    expected = np.zeros(made.shape)
    columns = np.rint(places * math.cos(math.radians(angle))).astype(int) + made.shape[1] // 2
    rows = np.rint(-places * math.sin(math.radians(angle))).astype(int) + made.shape[0] // 2
    np.add.at(expected, (rows, columns), 1 / 200_000)
    np.testing.assert_allclose(made.weights, expected, rtol=0, atol=2e-5)


def test_line_rises_to_the_right_at_small_angles() -> None:
    weights = motion(7.0, 20.0).weights
    assert weights[0, -1] > 0  # upper right
    assert weights[0, 0] == 0
    np.testing.assert_allclose(motion(3.0, 0.0).weights, np.full((1, 3), 1 / 3), rtol=1e-15)
    np.testing.assert_allclose(motion(3.0, 90.0).weights, np.full((3, 1), 1 / 3), rtol=1e-15)


def test_diagonal_line_touches_no_pixel_beside_it() -> None:
    weights = motion(5 * math.sqrt(2), 45.0).weights
    np.testing.assert_allclose(weights, np.eye(5)[::-1] / 5, rtol=0, atol=1e-9)
    assert np.count_nonzero(weights) == 5


@given(st.floats(0.01, 60), DIRECTIONS)
def test_line_and_its_images_under_turning_and_mirroring(length: float, angle: float) -> None:
    weights = motion(length, angle).weights
    np.testing.assert_array_equal(weights, weights[::-1, ::-1])
    np.testing.assert_array_equal(motion(length, angle + 180.0).weights, weights)
    np.testing.assert_array_equal(motion(length, angle - 360.0).weights, weights)
    np.testing.assert_array_equal(motion(length, angle + 90.0).weights, np.rot90(weights))
    np.testing.assert_array_equal(motion(length, 180.0 - angle).weights, weights[:, ::-1])
    np.testing.assert_array_equal(motion(length, 90.0 - angle).weights, weights.T)


@pytest.mark.parametrize(
    ("length", "angle"), [(1.0, 0.0), (1.0, 90.0), (1e-6, 17.0), (math.sqrt(2), 45.0), (0.99, 200.0)]
)
def test_line_within_a_pixel_is_no_blur(length: float, angle: float) -> None:
    assert motion(length, angle).standard_deviation == 0


# half gaussians


def imagemagick(image: np.ndarray, last: int, sigma: float, angle: float) -> np.ndarray:
    """ImageMagick's MotionBlurImage, transcribed, with edge pixels repeated."""
    result, total = np.zeros(image.shape), 0.0
    rows, columns = np.indices(image.shape)
    for i in range(last + 1):
        weight = math.exp(-(i**2) / (2 * sigma**2))
        x = math.ceil(i * math.cos(math.radians(angle)) - 0.5)
        y = math.ceil(i * math.sin(math.radians(angle)) - 0.5)
        picked = (rows + y).clip(0, image.shape[0] - 1), (columns + x).clip(0, image.shape[1] - 1)
        result += weight * image[picked]
        total += weight
    return result / total


@pytest.mark.parametrize("angle", [-44.0, -30.5, 0.0, 11.0, 37.0, 44.9, 90.0, 143.0, 200.0, 271.0])
@pytest.mark.parametrize("sigma", [0.4, 1.0, 3.0])
def test_half_gaussian_is_imagemagicks_motion_blur(angle: float, sigma: float) -> None:
    image = np.random.default_rng(0).random((20, 17))
    made = half_gaussian(sigma, 180.0 - angle)
    result = scipy.ndimage.convolve(image, made.weights, mode="nearest")
    np.testing.assert_allclose(result, imagemagick(image, math.ceil(4 * sigma), sigma, angle), rtol=0, atol=1e-12)


def test_half_gaussian_can_be_cut_as_imagenet_c_does() -> None:
    image = np.random.default_rng(0).random((20, 17))
    result = scipy.ndimage.convolve(image, half_gaussian(8.0, 160.0, last=30).weights, mode="nearest")
    np.testing.assert_allclose(result, imagemagick(image, 30, 8, 20), rtol=0, atol=1e-12)


def test_trail_of_a_point_goes_where_the_angle_says() -> None:
    weights = half_gaussian(2.0, 30.0).weights
    middle = weights.shape[0] // 2
    assert weights[:middle].sum() > 0.3  # above
    assert weights[middle + 1 :].sum() == 0
    assert weights[:, : weights.shape[1] // 2].sum() == 0
    assert weights.max() == kernel(Blur("half-gaussian", 2.0, 30.0)).centre


def test_ties_are_rounded_alike_all_along_the_trail() -> None:
    made = half_gaussian(2.0, 60.0)
    rows, columns = np.nonzero(made.weights)
    trail = set(zip((made.shape[0] // 2 - rows).tolist(), (columns - made.shape[1] // 2).tolist(), strict=True))
    assert trail == {(round(i * math.sqrt(0.75)), (i + 1) // 2) for i in range(9)}


def test_spread_is_sigma_and_nothing_for_clean() -> None:
    assert spread(Blur("gaussian", 2.5)) == 2.5
    assert spread(CLEAN) == 0


def test_default_sweep_is_heavy_from_twice_the_strongest_copy() -> None:
    config = Config()
    copies = config.copy_views
    assert [copy.strength for copy in copies] == [0.5, 1]
    assert [view.strength for view in config.test_views if is_heavy(view, copies)] == [2, 2.5, 3]


def test_order_of_the_copies_does_not_decide_what_is_heavy() -> None:
    copies = [Blur("gaussian", sigma) for sigma in (0.5, 2.0, 1.0)]
    for order in itertools.permutations(copies):
        assert is_heavy(Blur("gaussian", 4.0), order)
        assert not is_heavy(Blur("gaussian", 3.9), order)


def test_heavy_is_measured_by_the_spread_whatever_the_family() -> None:
    copies = (Blur("gaussian", 1.0),)
    assert not is_heavy(Blur("box", 5.0), copies)  # sqrt(24 / 12) = 1.41
    assert is_heavy(Blur("box", 7.0), copies)  # sqrt(48 / 12) = 2
    assert not is_heavy(Blur("motion", 6.92, 30.0), copies)
    assert is_heavy(Blur("motion", 6.93, 30.0), copies)  # sqrt(48) = 6.928
    assert is_heavy(Blur("gaussian", 1.64), (Blur("box", 3.0),))  # twice sqrt(8 / 12) = 1.633
    assert not is_heavy(Blur("gaussian", 1.63), (Blur("box", 3.0),))


def test_slight_is_as_wide_as_the_strongest_copy_at_most() -> None:
    config = Config()
    copies = config.copy_views
    assert [view.strength for view in config.test_views if is_slight(view, copies)] == [0.5, 1]
    assert is_slight(Blur("gaussian", 1.0), copies[::-1])
    assert not is_slight(Blur("gaussian", 1.01), copies)
    assert is_slight(Blur("box", 3.0), copies)  # sqrt(8 / 12) = .82
    assert not is_slight(Blur("box", 5.0), copies)  # sqrt(24 / 12) = 1.41
    assert not is_slight(CLEAN, copies)


def test_nothing_is_heavy_or_slight_without_copies() -> None:
    for judge in (is_heavy, is_slight):
        assert not judge(Blur("gaussian", 1000.0), ())
        assert not judge(Blur("gaussian", 0.1), ())
        assert not judge(CLEAN, ())


def test_a_disk_has_finite_weights_whatever_its_radius_rounds_to() -> None:
    for radius in np.arange(501, 20000) / 1000:  # some of them square to less than numpy's square of the same number
        assert defocus(float(radius)).l1 == pytest.approx(1, abs=1e-12), radius
