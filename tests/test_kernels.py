"""Blur kernels against scipy's impulse response, numpy's Fourier transform and published figures."""

import itertools
import math

import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from blurtrain.config import Config
from blurtrain.kernels import Kernel, gaussian, is_heavy, kernel, spread
from blurtrain.views import CLEAN, Blur

SIGMAS = st.floats(0.01, 60)
LOPSIDED = Kernel(np.array([0.2, 0.5, 0.3]), np.array([0.1, 0, 0.6, 0.3, 0]))


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
    assert len(made.vertical) == 2 * math.ceil(4 * sigma) + 1


def test_weights_are_the_outer_product_rows_first() -> None:
    assert LOPSIDED.weights.shape == (3, 5)
    assert LOPSIDED.weights[0, 3] == pytest.approx(0.2 * 0.3)


@pytest.mark.parametrize("made", [gaussian(0.5), gaussian(2.0), LOPSIDED], ids=["slight", "wide", "lopsided"])
@pytest.mark.parametrize("size", [(32, 32), (24, 31), (5, 7), (1, 3)], ids=str)
def test_spectrum_is_the_transform_of_the_kernel_on_the_torus(made: Kernel, size: tuple[int, int]) -> None:
    height, width = size
    torus = np.zeros(size)
    for (row, column), weight in np.ndenumerate(made.weights):
        torus[(row - len(made.vertical) // 2) % height, (column - len(made.horizontal) // 2) % width] += weight
    np.testing.assert_allclose(made.spectrum(height, width), np.fft.fft2(torus), rtol=0, atol=1e-12)


def test_spectrum_of_a_gaussian_is_real_and_one_at_frequency_zero() -> None:
    spectrum = gaussian(1.3).spectrum(20, 30)
    assert spectrum[0, 0] == pytest.approx(1, abs=1e-12)
    assert np.abs(spectrum.imag).max() < 1e-12


@pytest.mark.parametrize(("sigma", "effective"), [(0.2, 0.003), (0.5, 0.464), (1.0, 1.0), (3.0, 3.0)])
def test_standard_deviation_is_that_of_the_samples(sigma: float, effective: float) -> None:
    assert gaussian(sigma).standard_deviation == pytest.approx(effective, abs=1.5e-3)


def test_standard_deviation_matches_moments_of_the_two_dimensional_kernel() -> None:
    rows, columns = np.indices(LOPSIDED.weights.shape)
    variances = [(LOPSIDED.weights * axis**2).sum() - (LOPSIDED.weights * axis).sum() ** 2 for axis in (rows, columns)]
    assert LOPSIDED.standard_deviation == pytest.approx(math.sqrt(sum(variances) / 2), abs=1e-12)


@given(st.floats(0.8, 40))
def test_standard_deviation_is_close_to_sigma_from_0_8_px(sigma: float) -> None:
    assert gaussian(sigma).standard_deviation == pytest.approx(sigma, rel=0.01)


def test_kernel_factors_pass_one_where_the_theory_says() -> None:
    distance = {sigma: 2 * (1 - gaussian(sigma).weights.max()) for sigma in (0.56, 0.57)}  # ||delta - k||_1
    assert distance[0.56] < 1 < distance[0.57]
    furthest = {sigma: np.abs(1 - gaussian(sigma).spectrum(256, 256)).max() for sigma in (1.5, 3.0)}
    assert furthest[1.5] < 1 < furthest[3.0] < 1 + 1e-3


def test_kernel_of_a_blur_has_its_strength() -> None:
    np.testing.assert_array_equal(kernel(Blur("gaussian", 1.5)).vertical, gaussian(1.5).vertical)


def test_spread_is_sigma_and_nothing_for_clean() -> None:
    assert spread(Blur("gaussian", 2.5)) == 2.5
    assert spread(CLEAN) == 0


def test_default_sweep_is_heavy_from_twice_the_strongest_copy() -> None:
    config = Config()
    copies = config.train_views[1:]
    assert [copy.strength for copy in copies] == [0.5, 1]
    assert [view.strength for view in config.test_views if is_heavy(view, copies)] == [2, 2.5, 3]


def test_order_of_the_copies_does_not_decide_what_is_heavy() -> None:
    copies = [Blur("gaussian", sigma) for sigma in (0.5, 2.0, 1.0)]
    for order in itertools.permutations(copies):
        assert is_heavy(Blur("gaussian", 4.0), order)
        assert not is_heavy(Blur("gaussian", 3.9), order)


def test_nothing_is_heavy_without_copies() -> None:
    assert not is_heavy(Blur("gaussian", 1000.0), ())
    assert not is_heavy(CLEAN, ())
