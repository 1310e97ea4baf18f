"""Blur kernels: their taps, norms and spectra, in float64 and without torch."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex128, Float64

from blurtrain.views import CLEAN, Blur

TRUNCATE = 4.0  # standard deviations: the cut tail of a gaussian is below 7e-5
MOST = 1000.0  # px: the largest strength
HEAVY = 2.0  # a test view is heavy from twice the spread of the strongest copy


@dataclass(frozen=True)
class Kernel:
    """A separable blur kernel: the outer product of two odd-length, non-negative taps that sum to 1."""

    vertical: Float64[np.ndarray, " rows"]
    horizontal: Float64[np.ndarray, " columns"]

    @property
    def weights(self) -> Float64[np.ndarray, "rows columns"]:
        """The two-dimensional kernel."""
        return np.outer(self.vertical, self.horizontal)

    @property
    def l1(self) -> float:
        """Sum of absolute weights: 1 for every blur."""
        return float(np.abs(self.vertical).sum() * np.abs(self.horizontal).sum())

    @property
    def standard_deviation(self) -> float:
        """Of the taps as sampled, in px, averaged over the two axes (root mean square)."""
        variances = [_variance(taps) for taps in (self.vertical, self.horizontal)]
        return math.sqrt(sum(variances) / 2)

    def spectrum(self, height: int, width: int) -> Complex128[np.ndarray, "height width"]:
        """Fourier transform on a torus of that many pixels, with the kernel's centre at the origin."""
        return np.outer(_spectrum(self.vertical, height), _spectrum(self.horizontal, width))


def _variance(taps: Float64[np.ndarray, " taps"]) -> float:
    offsets = np.arange(len(taps)) - len(taps) // 2
    return float((taps * offsets**2).sum() - (taps * offsets).sum() ** 2)


def _spectrum(taps: Float64[np.ndarray, " taps"], n: int) -> Complex128[np.ndarray, " n"]:
    wrapped = np.zeros(n)
    np.add.at(wrapped, (np.arange(len(taps)) - len(taps) // 2) % n, taps)
    return np.fft.fft(wrapped)


def gaussian(sigma: float) -> Kernel:
    """A gaussian sampled at whole pixels, as scipy and OpenCV do, radius ceil(4 sigma), normalised.

    Args:
        sigma: Standard deviation in px, above 0. Below about 0.8 px the sampled kernel's own standard
            deviation falls short of it (`Kernel.standard_deviation` gives the true one).
    """
    radius = math.ceil(TRUNCATE * sigma)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    return Kernel(taps, taps)


def box(width: float) -> Kernel:
    """The mean over a square of pixels.

    Args:
        width: Side in px, odd, or the image would be shifted by half a pixel.
    """
    taps = np.full(round(width), 1 / round(width))
    return Kernel(taps, taps)


@dataclass(frozen=True)
class Family:
    """A kind of blur.

    Args:
        kernel: Makes the kernel of a blur.
        spread: Nominal standard deviation of that kernel along its widest direction, px.
        strength: What the strength measures.
        allowed: The legal range in words, with 0 for no blur.
        allows: Whether a strength above 0 is legal.
        directed: Whether it has an angle.
        from_file: Whether it reads a file.
    """

    kernel: Callable[[Blur], Kernel]
    spread: Callable[[Blur], float]
    strength: str
    allowed: str = f"a number from 0 to {MOST:g} px"
    allows: Callable[[float], bool] = lambda strength: 0 < strength <= MOST
    directed: bool = False
    from_file: bool = False


# To add a family: one function and one entry here.
FAMILIES: dict[str, Family] = {
    "gaussian": Family(lambda blur: gaussian(blur.strength), lambda blur: blur.strength, "sigma"),
    "box": Family(
        lambda blur: box(blur.strength),
        lambda blur: math.sqrt((blur.strength**2 - 1) / 12),
        "width",
        allowed="0 or an odd whole number of px from 3 to 999",
        allows=lambda strength: 3 <= strength <= MOST and strength % 2 == 1,
    ),
}


def kernel(blur: Blur) -> Kernel:
    """The kernel of a blur with a strength above 0."""
    return FAMILIES[blur.family].kernel(blur)


def spread(blur: Blur) -> float:
    """Nominal standard deviation of the kernel in px: what slight and heavy are measured by."""
    return 0.0 if blur == CLEAN else FAMILIES[blur.family].spread(blur)


def is_heavy(view: Blur, copies: tuple[Blur, ...]) -> bool:
    """Whether a test view is at least twice as wide as the strongest copy; never where there are no copies."""
    strongest = max((spread(copy) for copy in copies), default=math.inf)
    return spread(view) >= HEAVY * strongest
