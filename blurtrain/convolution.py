"""What a blur kernel is: its weights, norms and spectrum, in float64 and without torch."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Complex128, Float64

SEPARABLE = 1e-7  # distance in L1 from an outer product: how far a float32 file is from the one it stores
EVEN = 1e-12  # the same from the mirrored kernel: rounding alone

Taps = Float64[np.ndarray, " taps"]
Weights = Float64[np.ndarray, "rows columns"]


class Kernel(ABC):
    """A blur kernel: odd sides, the origin in the middle, not negative, sum 1."""

    @property
    @abstractmethod
    def weights(self) -> Weights:
        """The two-dimensional kernel."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    @abstractmethod
    def l1(self) -> float:
        """Sum of absolute weights: 1 for every blur."""

    @property
    @abstractmethod
    def centre(self) -> float:
        """The weight at the origin, k(0): the share of each pixel that stays where it is."""

    @property
    @abstractmethod
    def is_even(self) -> bool:
        """Whether it is mirror symmetric in each axis."""

    @property
    @abstractmethod
    def standard_deviation(self) -> float:
        """Along its widest direction, of the weights at whole pixels, in px."""

    @abstractmethod
    def spectrum(self, height: int, width: int) -> Complex128[np.ndarray, "height width"]:
        """Fourier transform on a torus of that many pixels, with the kernel's centre at the origin."""

    @property
    def distance(self) -> float:
        """||delta - k||_1, how far it is from no blur; 2 (1 - k(0)) for a blur."""
        return abs(1 - self.centre) + self.l1 - abs(self.centre)

    def furthest(self, height: int, width: int) -> float:
        """The largest |1 - khat| over the frequencies of a torus of that many pixels."""
        return float(np.abs(1 - self.spectrum(height, width)).max())


@dataclass(frozen=True, eq=False)  # a key of caches by identity
class Separable(Kernel):
    """The outer product of two odd-length taps."""

    vertical: Float64[np.ndarray, " rows"]
    horizontal: Float64[np.ndarray, " columns"]

    @property
    def weights(self) -> Weights:
        """The two-dimensional kernel."""
        return np.outer(self.vertical, self.horizontal)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.vertical), len(self.horizontal)

    @property
    def l1(self) -> float:
        """Sum of absolute weights."""
        return float(np.abs(self.vertical).sum() * np.abs(self.horizontal).sum())

    @property
    def centre(self) -> float:
        """The weight at the origin."""
        return float(self.vertical[len(self.vertical) // 2] * self.horizontal[len(self.horizontal) // 2])

    @property
    def is_even(self) -> bool:
        """Whether both taps read the same backwards."""
        return all(np.abs(taps - taps[::-1]).sum() <= EVEN for taps in (self.vertical, self.horizontal))

    @property
    def standard_deviation(self) -> float:
        """Of the wider taps: the two axes are independent."""
        return math.sqrt(max(_variance(self.vertical), _variance(self.horizontal)))

    def spectrum(self, height: int, width: int) -> Complex128[np.ndarray, "height width"]:
        """The outer product of the taps' transforms."""
        return np.outer(_spectrum(self.vertical, height), _spectrum(self.horizontal, width))


@dataclass(frozen=True, eq=False)
class Planar(Kernel):
    """Any other kernel."""

    values: Weights

    @property
    def weights(self) -> Weights:
        """The two-dimensional kernel."""
        return self.values

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        rows, columns = self.values.shape
        return rows, columns

    @property
    def l1(self) -> float:
        """Sum of absolute weights."""
        return float(np.abs(self.values).sum())

    @property
    def centre(self) -> float:
        """The weight at the origin."""
        rows, columns = self.shape
        return float(self.values[rows // 2, columns // 2])

    @property
    def is_even(self) -> bool:
        """Whether it equals both its mirror images."""
        return all(np.abs(self.values - np.flip(self.values, axis)).sum() <= EVEN for axis in (0, 1))

    @property
    def standard_deviation(self) -> float:
        """The square root of the covariance's larger eigenvalue."""
        rows, columns = _offsets(self.values)
        vertical, horizontal = self.values.sum(1), self.values.sum(0)
        shared = rows @ self.values @ columns - (vertical @ rows) * (horizontal @ columns)
        covariance = [[_variance(vertical), shared], [shared, _variance(horizontal)]]
        return math.sqrt(max(np.linalg.eigvalsh(covariance)[-1], 0))

    def spectrum(self, height: int, width: int) -> Complex128[np.ndarray, "height width"]:
        """Fourier transform of the kernel wrapped around the torus."""
        rows, columns = _offsets(self.values)
        wrapped = np.zeros((height, width))
        np.add.at(wrapped, (rows[:, None] % height, columns % width), self.values)
        return np.fft.fft2(wrapped)


def _offsets(array: np.ndarray) -> tuple[np.ndarray, ...]:
    """Distance from the middle along each axis."""
    return tuple(np.arange(n) - n // 2 for n in array.shape)


def _variance(taps: Taps) -> float:
    (offsets,) = _offsets(taps)
    return max(float((taps * offsets**2).sum() - (taps * offsets).sum() ** 2), 0.0)


def _spectrum(taps: Taps, n: int) -> Complex128[np.ndarray, " n"]:
    (offsets,) = _offsets(taps)
    wrapped = np.zeros(n)
    np.add.at(wrapped, offsets % n, taps)
    return np.fft.fft(wrapped)


def from_weights(weights: Weights) -> Kernel:
    """The kernel of some weights: normalised, without margins of zeros, separable if it is an outer product.

    Args:
        weights: Odd sides, the origin in the middle; not negative, with a sum above 0.
    """
    for axis, offsets in enumerate(_offsets(weights)):
        reach = np.abs(offsets[weights.any(axis=1 - axis)]).max()
        weights = weights.compress(np.abs(offsets) <= reach, axis)
    weights = weights / np.sort(weights, axis=None).sum()  # in one order: a turned kernel has the same weights
    vertical, horizontal = weights.sum(1), weights.sum(0)
    if np.abs(weights - np.outer(vertical, horizontal)).sum() <= SEPARABLE:
        return Separable(vertical / vertical.sum(), horizontal / horizontal.sum())
    return Planar(weights)
