"""Blurs that no single kernel makes: ImageNet-C's zoom and glass, and what is drawn for every image anew."""

import hashlib
import math

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8

from blurtrain import imagenet_c
from blurtrain.kernels import gaussian
from blurtrain.views import Blur

Planes = Float32[np.ndarray, "channel height width"]


def generator(image: UInt8[np.ndarray, "channel height width"], view: Blur) -> np.random.Generator:
    """Of what a blur draws for an image: it depends on the view's seed, the image's pixels and the blur alone.

    So every worker, order and batch, every head and every run sees the same test image.
    """
    words = repr((view.seed, view.family, view.strength)).encode()
    digest = hashlib.sha256(words + np.ascontiguousarray(image).tobytes()).digest()
    return np.random.default_rng(np.frombuffer(digest, np.uint32))


def angle(image: UInt8[np.ndarray, "channel height width"], view: Blur) -> float:
    """Where the trail of an image's motion goes, in degrees counter-clockwise from the right.

    ImageNet-C draws ImageMagick's angle, which is 180 less ours (`blurtrain.kernels.half_gaussian`).
    """
    return 180.0 - generator(image, view).uniform(-imagenet_c.SLANT, imagenet_c.SLANT)


def warped(
    pixels: UInt8[np.ndarray, "batch channel height width"], view: Blur
) -> Float32[np.ndarray, "batch channel height width"]:
    """Images in [0, 1] through a zoom or a glass."""
    images = pixels.astype(np.float32) / np.float32(255)
    if view.family == "zoom":
        return _zoomed(images, view)
    return np.stack(
        [_behind_glass(image, view, generator(raw, view)) for image, raw in zip(images, pixels, strict=True)]
    )


def _zoomed(images: Float32[np.ndarray, "batch channel height width"], view: Blur) -> np.ndarray:
    """The mean of the image and its enlargements, each cut to the image's size about the middle."""
    height, width = images.shape[-2:]
    factors = imagenet_c.zoom_factors(view, min(height, width))
    total = images.reshape(-1, height, width).copy()
    for factor in factors:
        (down, top), (across, left) = (_enlargement(side, factor) for side in (height, width))
        matrix = np.array([[across, 0, left], [0, down, top]])
        for plane, sum_ in zip(images.reshape(total.shape), total, strict=True):
            sum_ += cv2.warpAffine(
                plane,
                matrix,
                (width, height),
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
                borderMode=cv2.BORDER_REPLICATE,  # rounding alone leaves the image
                hint=cv2.ALGO_HINT_ACCURATE,  # or places are rounded to 1/32 px
            )
    return (total / np.float32(len(factors) + 1)).reshape(images.shape)


def _enlargement(side: int, factor: float) -> tuple[float, float]:
    """How far apart two neighbours of one axis were before it was enlarged, and where the first one was, in px.

    As `scipy.ndimage.zoom` of order 1 does it: the middle ceil(side / factor) px are stretched from end to end. The
    published code then cuts off what is beyond the image.
    """
    kept = math.ceil(side / factor)
    enlarged = round(kept * factor)
    step = (kept - 1) / max(enlarged - 1, 1)
    return step, (side - kept) // 2 + (enlarged - side) // 2 * step


def _behind_glass(image: Planes, view: Blur, random: np.random.Generator) -> Planes:
    """Blurred, its pixels displaced, blurred again."""
    height, width = image.shape[1:]
    sigma, shift, rounds = imagenet_c.parameters(view, min(height, width))
    source = displaced(height, width, int(shift), int(rounds), random)
    moved = _softened(image, sigma).reshape(len(image), -1)[:, source]
    return _softened(moved.reshape(image.shape), sigma)


def _softened(image: Planes, sigma: float) -> Planes:
    taps = gaussian(sigma).vertical.astype(np.float32)
    planes = [cv2.sepFilter2D(plane, cv2.CV_32F, taps, taps, borderType=cv2.BORDER_REPLICATE) for plane in image]
    return np.stack(planes)


def displaced(
    height: int, width: int, shift: int, rounds: int, random: np.random.Generator
) -> Int64[np.ndarray, " pixels"]:
    """Which pixel stands at each place behind ImageNet-C's glass; both are counted row by row.

    The published code goes over the places from the last to the first, a margin left out, and gives each the pixel
    that stands (dy, dx) away at that moment, both evenly from -shift to shift - 1. (It means to swap the two; but in
    `x[a], x[b] = x[b], x[a]` numpy's right side are views, so that x[b] keeps its pixel.) A place whose neighbour was
    visited before it takes that neighbour's new pixel: chains, which are followed here by doubling.
    """
    places = np.arange(height * width)
    margin = np.ones((height, width), bool)
    margin[shift + 1 : height - shift + 1, shift + 1 : width - shift + 1] = False
    inside = ~margin.ravel()
    source = places
    for _ in range(rounds):
        dy, dx = random.integers(-shift, shift, size=(2, height * width))
        neighbour = np.where(inside, places + dy * width + dx, places)
        chain = np.where(inside[neighbour] & (neighbour > places), neighbour, places)
        while not np.array_equal(chain, further := chain[chain]):
            chain = further
        source = source[neighbour[chain]]
    return source
