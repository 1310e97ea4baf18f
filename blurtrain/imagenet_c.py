"""ImageNet-C's five blurs at its severities 1 to 5 (Hendrycks and Dietterich 2019, arXiv 1903.12261): parameters.

They were published for images of 224 px (ImageNet-C), 64 px and 32 px (CIFAR-10-C). For another size the table of the
nearest one is taken and every length in it is scaled; `described` says so. What is followed of the published code, and
what is not, stands in docs/blurs.md.
"""

import math

import numpy as np
from jaxtyping import Float64

from blurtrain.views import Blur, Border

SEVERITIES = (1, 2, 3, 4, 5)
SLANT = 45.0  # degrees: each image's motion is drawn from as far on either side of the horizontal

# For each size in px and each family, what `NAMES` says of the severities in turn.
TABLES: dict[int, dict[str, tuple[tuple[float, ...], ...]]] = {
    224: {
        "gaussian": ((1,), (2,), (3,), (4,), (6,)),
        "defocus": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "motion": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom": ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        "glass": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
    },
    64: {
        "gaussian": ((0.5,), (0.75,), (1,), (1.25,), (1.5,)),
        "defocus": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "motion": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "glass": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
    },
    32: {
        "gaussian": ((0.4,), (0.6,), (0.7,), (0.8,), (1,)),
        "defocus": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "motion": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom": ((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        "glass": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    },
}
NAMES: dict[str, tuple[str, ...]] = {
    "gaussian": ("sigma",),
    "defocus": ("radius", "softened by sigma"),
    "motion": ("radius", "sigma"),
    "zoom": ("up to factor", "in steps of"),
    "glass": ("sigma", "pixels move by up to", "rounds"),
}
LENGTHS: dict[str, int] = {"gaussian": 1, "defocus": 2, "motion": 2, "zoom": 0, "glass": 2}  # so many come first
FAMILIES = tuple(NAMES)
DRAWN = ("motion", "glass")  # differ from image to image
BORDERS: dict[str, Border] = {
    "gaussian": "replicate",
    "defocus": "reflect101",
    "motion": "replicate",
    "glass": "replicate",
    "zoom": "replicate",
}


def table_for(side: int) -> int:
    """The published size that is nearest to a side in px, as a ratio."""
    return min(TABLES, key=lambda size: abs(math.log(side / size)))


def parameters(view: Blur, side: int) -> tuple[float, ...]:
    """What `NAMES` says of a family, for images of that side; lengths are in px."""
    table = table_for(side)
    values = [float(value) for value in TABLES[table][view.family][int(view.strength) - 1]]
    lengths = LENGTHS[view.family]
    scaled = [value * side / table for value in values[:lengths]]
    if view.family == "glass":
        scaled[1] = max(1.0, float(round(scaled[1])))  # whole pixels
    return (*scaled, *values[lengths:])


def described(view: Blur, side: int) -> str:
    """A severity's parameters in words, with the table that they come from."""
    values = parameters(view, side)
    units = [" px"] * LENGTHS[view.family] + [""] * len(values)
    words = [f"{name} {value:.4g}{unit}" for name, value, unit in zip(NAMES[view.family], values, units, strict=False)]
    return f"{', '.join(words)} ({table_in_words(side)})"


def table_in_words(side: int) -> str:
    """Where the parameters for a side in px come from."""
    table = table_for(side)
    scaled = "" if side == table else f", lengths times {side / table:.3g}"
    return f"ImageNet-C's table for {table} px{scaled}"


def disk(radius: float, softened: float) -> Float64[np.ndarray, "side side"]:
    """The published kernel of a defocus: whole pixels within a radius, softened by a small gaussian.

    Its sum is above 1 where the disk touches the edge of its square, which the gaussian reflects: 1.013 at radius 8 and
    1.011 at radius 10. Whoever uses it as a blur divides by the sum.

    Args:
        radius: In px.
        softened: Standard deviation of the gaussian in px, whose taps are cut off after 1 px, above radius 8 after 2.
    """
    reach, cut = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    offsets = np.arange(-reach, reach + 1)
    lit = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float64)
    taps = np.exp(-0.5 * (np.arange(-cut, cut + 1) / softened) ** 2)
    padded = np.pad(lit / lit.sum(), cut, mode="reflect")
    for axis in (0, 1):
        padded = np.apply_along_axis(np.convolve, axis, padded, taps / taps.sum(), "valid")
    return padded


def zoom_factors(view: Blur, side: int) -> tuple[float, ...]:
    """Of a zoom that is open from the first to the last: the images whose mean, with the clean one, is taken."""
    most, step = parameters(view, side)
    return tuple(np.arange(1, most, step).tolist())


def spread(view: Blur, side: int) -> float:
    """Standard deviation in px of how far a pixel's light is moved, along its widest direction.

    Of zoom and glass, whose blur differs from pixel to pixel, the root of the mean square over the image: a zoom
    by factors evenly spread up to F moves a pixel r px from the middle by up to r (F - 1), and the mean of r^2 over the
    square is side^2 / 6; glass moves each round by whole pixels, evenly from -d to d - 1, between two gaussians.
    """
    values = parameters(view, side)
    if view.family == "zoom":
        return (zoom_factors(view, side)[-1] - 1) / math.sqrt(12) * side / math.sqrt(6)
    if view.family == "glass":
        sigma, shift, rounds = values
        return math.sqrt(2 * sigma**2 + rounds * (4 * shift**2 - 1) / 12)
    if view.family == "motion":
        return values[1] * math.sqrt(1 - 2 / math.pi)
    return values[0] if view.family == "gaussian" else values[0] / 2
