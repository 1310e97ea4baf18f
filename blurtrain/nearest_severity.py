"""Which of ImageNet-C's severities a blur of some strength is most like, at a size of the network's input.

The measure is the root-mean-square difference that is to be expected between an image blurred by one kernel and the
same image blurred by the other, in parts of the image's own contrast, for images whose power falls with the square of
the spatial frequency, as that of photographs does (Field 1987; Ruderman and Bialek 1994):

    d(k, l)^2 = sum over f != 0 of |K(f) - L(f)|^2 / |f|^2,  divided by  sum over f != 0 of 1 / |f|^2,

with K and L the kernels' Fourier transforms on the torus of the image's size. Before that each kernel is moved so that
its centre of mass is the origin: a shift of the whole image, such as one-sided motion brings, is no blur.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Complex128, Float64

from blurtrain.convolution import Kernel
from blurtrain.imagenet_c import SEVERITIES
from blurtrain.kernels import FAMILIES, kernel, motion_severity, standard_deviation
from blurtrain.views import CLEAN, Blur

# Whose severities a family is compared with: its own, or where ImageNet-C has none, both that are the same for every
# image and in every direction.
COMPARED = {"gaussian": ("gaussian",), "defocus": ("defocus",), "motion": ("motion",), "half-gaussian": ("motion",)}
ROUND = ("gaussian", "defocus")
BEYOND = 0.5  # of the step from severity 4 to 5: nearer to 5 than to a further step of that size

Spectrum = Complex128[np.ndarray, "side side"]


@dataclass(frozen=True)
class Nearest:
    """What a blur is most like.

    Args:
        family: Of ImageNet-C.
        severity: From 1 to 5; 0 where it is weaker than severity 1, and 6 where it is stronger than severity 5.
        distance: From that severity, or from the end of the scale that it is beyond, in parts of the image's contrast.
    """

    family: str
    severity: int
    distance: float

    @property
    def words(self) -> str:
        """As tables have it."""
        if self.severity < SEVERITIES[0]:
            return f"weaker than {self.family} severity {SEVERITIES[0]}"
        if self.severity > SEVERITIES[-1]:
            return f"stronger than {self.family} severity {SEVERITIES[-1]}"
        return f"like {self.family} severity {self.severity}"

    def caption(self, family: str) -> str:
        """The same in a few characters; the family is named where the blur is of another one."""
        sign = "<" if self.severity < SEVERITIES[0] else ">" if self.severity > SEVERITIES[-1] else "≈"
        named = "" if family == self.family else f"{self.family} "
        return f"{sign} {named}severity {min(max(self.severity, SEVERITIES[0]), SEVERITIES[-1])}"


def nearest(view: Blur, side: int) -> Nearest:
    """The severity that a blur is most like.

    A blur is weaker than severity 1 where it is nearer to no blur. It is stronger than severity 5 where it leaves less
    of the contrast, and lies farther from 5 than half the step from 4 to 5.

    Args:
        view: Not clean; a severity is itself.
        side: Of the network's input in px, whose table of severities is taken.

    Raises:
        ConfigError: If its file cannot be read or holds no point-spread function.
    """
    if view.severity:
        return Nearest(view.family, int(view.strength), 0.0)
    own = spectrum(kernel(view, side), side)
    found = [_on_scale(own, family, view.angle or 0.0, side) for family in COMPARED.get(view.family, ROUND)]
    return min(found, key=lambda one: one.distance)


def _on_scale(own: Spectrum, family: str, angle: float, side: int) -> Nearest:
    scale = _scale(family, angle, side)
    distances = [distance(own, other) for other in scale]
    place = int(np.argmin(distances))
    last = len(scale) - 1
    if place == last and contrast(own) < contrast(scale[-1]):
        place += distances[-1] > BEYOND * distance(scale[-1], scale[-2])
    return Nearest(family, place, distances[min(max(place, 1), last)])


@lru_cache(maxsize=16)
def _scale(family: str, angle: float, side: int) -> tuple[Spectrum, ...]:
    """No blur, then the severities in turn; motion in that direction."""
    views = [Blur(family, float(severity), severity=True) for severity in SEVERITIES]
    kernels = [motion_severity(one, side, angle) if family == "motion" else kernel(one, side) for one in views]
    return (np.ones((side, side), np.complex128), *(spectrum(one, side) for one in kernels))


def spectrum(kernel: Kernel, side: int) -> Spectrum:
    """Fourier transform on the torus of the image's size, of the kernel with its centre of mass at the origin."""
    weights, phase = kernel.weights, np.ones((side, side), np.complex128)
    for axis in (0, 1):
        profile = weights.sum(1 - axis)
        middle = float(profile @ (np.arange(len(profile)) - len(profile) // 2))
        along = np.exp(2j * np.pi * middle * np.fft.fftfreq(side))
        phase *= along[:, None] if axis == 0 else along
    return np.asarray(kernel.spectrum(side, side) * phase)


def distance(one: Spectrum, other: Spectrum) -> float:
    """How far images blurred by two kernels are to be expected apart, in parts of an image's contrast."""
    return float(np.sqrt((_power(len(one)) * np.abs(one - other) ** 2).sum()))


def contrast(one: Spectrum) -> float:
    """What a kernel leaves of an image's contrast, from 0 to 1."""
    return float(np.sqrt((_power(len(one)) * np.abs(one) ** 2).sum()))


@lru_cache(maxsize=4)
def _power(side: int) -> Float64[np.ndarray, "side side"]:
    """Of each frequency in an image, with the sum 1 and nothing of the mean."""
    squared = np.add.outer(np.fft.fftfreq(side) ** 2, np.fft.fftfreq(side) ** 2)
    squared[0, 0] = np.inf
    return np.asarray((1 / squared) / (1 / squared).sum())


def table(views: Sequence[Blur], side: int) -> str:
    """Every blur with what its strength measures, how wide its kernel is, and what it is most like, as text."""
    heading = ("blur", "strength", "width", f"ImageNet-C at {side} px")
    rows = [heading, *(_cells(view, side) for view in views if view != CLEAN)]
    name, strength, width, _ = (max(map(len, column)) for column in zip(*rows, strict=True))
    lines = [f"{a:<{name}}  {b:<{strength}}  {c:>{width}}  {d}" for a, b, c, d in rows]
    return "\n".join([lines[0], "-" * max(map(len, lines)), *lines[1:]])


def _cells(view: Blur, side: int) -> tuple[str, str, str, str]:
    width = f"{standard_deviation(view, side):.2f} px"
    if view.severity:
        return view.name, f"severity {view.strength:g}", width, "itself"
    family = FAMILIES[view.family]
    strength = f"scale {view.strength:g}" if family.from_file else f"{family.strength} {view.strength:g} px"
    return view.name, strength, width, nearest(view, side).words
