"""The families of blurs and their kernels: to add one, a function and an entry in the table."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from blurtrain import imagenet_c, psf
from blurtrain.convolution import Kernel, Separable, Taps, Weights, from_weights
from blurtrain.errors import ConfigError
from blurtrain.views import CLEAN, Blur, Border

TRUNCATE = 4.0  # standard deviations: the cut tail of a gaussian is below 7e-5
MOST = 1000.0  # px: the largest strength
HEAVY = 2.0  # a test view is heavy from twice the spread of the strongest copy
ROOM = 1.002  # spreads that differ less are equal
TOUCH = 1e-9  # px: a line that passes a pixel's corner closer than this does not enter the pixel


def gaussian(sigma: float) -> Separable:
    """A gaussian sampled at whole pixels, as scipy and OpenCV do, radius ceil(4 sigma), normalised.

    Args:
        sigma: Standard deviation in px, above 0. Below about 0.8 px the sampled kernel's own standard
            deviation falls short of it (`Kernel.standard_deviation` gives the true one).
    """
    radius = math.ceil(TRUNCATE * sigma)
    offsets = np.arange(-radius, radius + 1)
    taps = np.exp(-0.5 * (offsets / sigma) ** 2)
    taps /= taps.sum()
    return Separable(taps, taps)


def box(width: float) -> Separable:
    """The mean over a square of pixels.

    Args:
        width: Side in px, odd, or the image would be shifted by half a pixel.
    """
    taps = np.full(round(width), 1 / round(width))
    return Separable(taps, taps)


def defocus(radius: float) -> Kernel:
    """An evenly lit disk, the image of a point out of focus: each weight is the disk's exact area in that pixel.

    Within one quadrant the area above x is y(x) = sqrt(r^2 - x^2), whose antiderivative is
    (x sqrt(r^2 - x^2) + r^2 asin(x / r)) / 2.

    Args:
        radius: In px, above 0; up to 0.5 px the disk lies within one pixel and blurs nothing.
    """
    reach = max(math.ceil(radius - 0.5), 0)
    high = np.arange(reach + 1) + 0.5
    low = (high - 1).clip(0)  # the axes halve the pixels they pass through
    top, bottom = high[:, None], low[:, None]

    def under_the_arc(x: np.ndarray) -> np.ndarray:
        x = x.clip(0, radius)
        # Python's square may round differently from numpy's, so at x = radius the difference may be below 0.
        root, angle = np.sqrt((radius**2 - x**2).clip(0)), np.arcsin((x / radius).clip(max=1))
        return np.asarray((x * root + radius**2 * angle) / 2)

    inside = np.sqrt((radius**2 - top**2).clip(0)).clip(low, high)  # up to here a pixel's whole height is lit
    touched = np.sqrt((radius**2 - bottom**2).clip(0)).clip(low, high)  # and up to here a part of it
    arc = under_the_arc(touched) - under_the_arc(inside) - bottom * (touched - inside)
    quadrant = ((top - bottom) * (inside - low) + arc).clip(0)
    quadrant[0] *= 2
    quadrant[:, 0] *= 2
    quadrant = (quadrant + quadrant.T) / 2  # rounding apart they are equal: now to the last bit
    return from_weights(np.pad(quadrant, [(reach, 0)] * 2, mode="reflect") if reach else quadrant)


def motion(length: float, angle: float) -> Kernel:
    """A straight, even motion: each weight is the exact length of the line within that pixel.

    Args:
        length: Of the whole line in px, above 0; its middle is the origin. A line of up to 1 px along an axis, or
            1.41 px along a diagonal, lies within one pixel and blurs nothing.
        angle: Degrees counter-clockwise from the right, as seen on the picture.
    """
    quarters, rest = divmod(angle % 180, 90)
    slope = math.radians(min(rest, 90 - rest))  # from 0 to 45 degrees; all else is a mirror image
    across, up = math.cos(slope), math.sin(slope)
    edges = [np.arange(0.5, length / 2 * step) / step for step in (across, up) if step > 0]
    crossings = np.sort(np.concatenate([[0], *edges, [length / 2]]))
    lengths, middles = np.diff(crossings), (crossings[1:] + crossings[:-1]) / 2
    entered = lengths > min(TOUCH, length / 4)
    lengths, middles = lengths[entered], middles[entered]
    weights = _at(-np.rint(middles * up), np.rint(middles * across), lengths)  # rows are counted downwards
    weights = weights + weights[::-1, ::-1]  # the other half of the line
    return from_weights(np.rot90(weights.T if rest > 45 else weights, int(quarters)))


def half_gaussian(sigma: float, angle: float, last: int | None = None) -> Kernel:
    """Half a gaussian along a line of whole pixels: motion that fades out, one-sided, as in ImageNet-C.

    ImageMagick's MotionBlur, which ImageNet-C calls, takes the pixel (ceil(i cos a - 1/2), ceil(i sin a - 1/2)) away,
    rows counted downwards, with the weight exp(-i^2 / (2 sigma^2)) (MotionBlurImage in MagickCore/effect.c). A point of
    light leaves a trail the opposite way, so our `angle` is its 180 - a; ImageNet-C draws a evenly from -45 to 45.

    Args:
        sigma: Standard deviation of the whole gaussian in px, above 0.
        angle: Where the trail of a point goes, in degrees counter-clockwise from the right, as seen on the picture.
        last: The last sample, in px; ceil(4 sigma) where it is left out, 2 * radius in ImageNet-C.
    """
    samples = np.arange((math.ceil(TRUNCATE * sigma) if last is None else last) + 1)
    across, down = math.cos(math.radians(angle)), -math.sin(math.radians(angle))
    # Nine digits: at 30 and 60 degrees every other place is a tie, which rounding noise must not decide.
    rows, columns = (np.floor((samples * step).round(9) + 0.5) for step in (down, across))
    return from_weights(_at(rows, columns, np.exp(-0.5 * (samples / sigma) ** 2)))


def _at(rows: np.ndarray, columns: np.ndarray, values: Taps) -> Weights:
    """Values added up at whole offsets from the origin."""
    vertical, horizontal = int(np.abs(rows).max()), int(np.abs(columns).max())
    weights = np.zeros((2 * vertical + 1, 2 * horizontal + 1))
    np.add.at(weights, (rows.astype(int) + vertical, columns.astype(int) + horizontal), values)
    return weights


def measured(file: str, scale: float) -> Kernel:
    """A measured point-spread function (`blurtrain.psf`).

    Args:
        file: A .npy file or an image.
        scale: Network pixels in a pixel of the file.

    Raises:
        ConfigError: If the file cannot be read or holds no point-spread function.
    """
    return from_weights(psf.scaled(file, scale))


@dataclass(frozen=True)
class Family:
    """A kind of blur.

    Args:
        kernel: Makes the kernel of a blur, where one does.
        spread: Nominal standard deviation of that kernel along its widest direction, px.
        strength: What the strength measures.
        allowed: The legal range in words, with 0 for no blur.
        allows: Whether a strength above 0 is legal.
        directed: Whether it has an angle.
        from_file: Whether it reads a file.
    """

    kernel: Callable[[Blur], Kernel] | None
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
    "defocus": Family(lambda blur: defocus(blur.strength), lambda blur: blur.strength / 2, "radius"),
    "motion": Family(
        lambda blur: motion(blur.strength, blur.angle or 0.0),
        lambda blur: blur.strength / math.sqrt(12),
        "length",
        directed=True,
    ),
    "half-gaussian": Family(
        lambda blur: half_gaussian(blur.strength, blur.angle or 0.0),
        lambda blur: blur.strength * math.sqrt(1 - 2 / math.pi),
        "sigma",
        allowed="a number from 0 to 250 px",  # the trail is four times as long
        allows=lambda strength: 0 < strength <= 250,
        directed=True,
    ),
    "psf": Family(
        lambda blur: measured(blur.file or "", blur.strength),
        lambda blur: measured(blur.file or "", blur.strength).standard_deviation,
        "network pixels in a pixel of the file",
        allowed="a number from 0 to 16",
        allows=lambda strength: 0 < strength <= 16,
        from_file=True,
    ),
    **{
        name: Family(
            None,
            lambda _: 0.0,  # a severity has its own
            "severity",
            allowed=f"left out: {name} has ImageNet-C's severities alone, such as severity: [1, 2, 3, 4, 5]",
            allows=lambda _: False,
        )
        for name in ("zoom", "glass")
    },
}

WITH_KERNEL = [name for name, family in FAMILIES.items() if family.kernel is not None]


@lru_cache(maxsize=64)
def kernel(blur: Blur, side: int = 0) -> Kernel:
    """The kernel of a blur with a strength above 0.

    Args:
        blur: The blur.
        side: Of the images in px, which a severity depends on.

    Raises:
        ConfigError: If its file cannot be read or holds no point-spread function, or if no single kernel makes it.
    """
    make = FAMILIES[blur.family].kernel
    if make is None or not has_kernel(blur):
        raise ConfigError(f"{blur.name} has no kernel of its own: give one of {', '.join(WITH_KERNEL)} by strengths")
    if not blur.severity:
        return make(blur)
    values = imagenet_c.parameters(blur, side)
    return gaussian(*values) if blur.family == "gaussian" else from_weights(imagenet_c.disk(*values))


def motion_severity(blur: Blur, side: int, angle: float) -> Kernel:
    """The kernel of one image's motion at a severity, for images of that side."""
    radius, sigma = imagenet_c.parameters(blur, side)
    return half_gaussian(sigma, angle, last=2 * math.ceil(radius))


def has_kernel(blur: Blur) -> bool:
    """Whether one kernel makes it, the same for every image."""
    return FAMILIES[blur.family].kernel is not None and not (blur.severity and blur.family in imagenet_c.DRAWN)


def border_of(blur: Blur) -> Border:
    """How the image continues beyond its edge; a severity continues it as ImageNet-C's code does."""
    return imagenet_c.BORDERS[blur.family] if blur.severity else blur.border


def content(blur: Blur) -> str:
    """The SHA-256 of the file that a blur reads; empty where it reads none.

    Raises:
        ConfigError: If the file cannot be read or holds no point-spread function.
    """
    return "" if blur.file is None else psf.read(blur.file).sha256


def spread(blur: Blur, side: int = 0) -> float:
    """Nominal standard deviation of the kernel in px: what slight and heavy are measured by.

    Args:
        blur: The blur.
        side: Of the images in px, which a severity depends on.
    """
    if blur == CLEAN:
        return 0.0
    return imagenet_c.spread(blur, side) if blur.severity else FAMILIES[blur.family].spread(blur)


def standard_deviation(blur: Blur, side: int = 0) -> float:
    """That of the kernel itself, where one makes the blur; else the same as `spread`."""
    if blur == CLEAN:
        return 0.0
    return kernel(blur, side).standard_deviation if has_kernel(blur) else spread(blur, side)


def is_heavy(view: Blur, copies: tuple[Blur, ...], side: int = 0) -> bool:
    """Whether a test view is at least twice as wide as the strongest copy; never where there are no copies."""
    strongest = max((spread(copy, side) for copy in copies), default=math.inf)
    return spread(view, side) >= HEAVY * strongest


def is_slight(view: Blur, copies: tuple[Blur, ...], side: int = 0) -> bool:
    """Whether a blurred test view is no wider than the strongest copy; never where there are no copies."""
    widest = max([0.0, *(spread(copy, side) for copy in copies)])
    return 0 < spread(view, side) <= ROOM * widest


def wider_half(views: Sequence[Blur], side: int = 0) -> tuple[Blur, ...]:
    """What takes the place of heavy views where no copy says how wide slight is."""
    widths = sorted(spread(view, side) for view in views)
    return tuple(view for view in views if spread(view, side) >= widths[len(widths) // 2])
