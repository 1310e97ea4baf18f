"""Decode large JPEGs at a part of their size, where so many pixels are left that the network sees the same.

A JPEG decoder can give 1/2, 1/4 or 1/8 of an image in a fraction of the time. Where at least three times the wanted
pixels are left in each direction, the antialiased resize that follows makes nearly the same of them (docs/data.md has
the figures).

Images are named by their decoded pixels, and exact duplicates must share a name whatever their format. So a JPEG is
decoded in full where a file of another format has its size; two JPEGs of the same picture reduce alike. Only the images
of the splits decide that: a further test set must not change what is trained on.
"""

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from blurtrain.cores import cores
from blurtrain.decoding import FORMATS, Geometry, decode
from blurtrain.files import sha256
from blurtrain.sources import Header, Item, Source, Traits

LEFT = 3  # times the wanted pixels, in each direction: the difference stays far below one grey level
LEAST = 96  # px: for smaller networks the difference may exceed one grey level
SCALES = (8, 4, 2)


@dataclass(frozen=True)
class Reduced:
    """A source some of whose JPEGs are decoded at a part of their size.

    Args:
        whole: The source.
        scales: Of each image: 1, 2, 4 or 8.
    """

    whole: Source
    scales: Sequence[int]

    @property
    def classes(self) -> tuple[str, ...]:
        """Those of the whole."""
        return self.whole.classes

    @property
    def items(self) -> Sequence[Item]:
        """Those of the whole."""
        return self.whole.items

    @property
    def notes(self) -> Sequence[str]:
        """Those of the whole."""
        return self.whole.notes

    def key(self, index: int) -> str:
        """What will be decoded, and how."""
        key, scale = self.whole.key(index), self.scales[index]
        return key if scale == 1 else sha256(key, f"1/{scale}")

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image at its part of its size."""
        return self.whole.decode(index, max(scale, self.scales[index]))

    def header(self, index: int) -> Header | None:
        """What the whole has for it."""
        return self.whole.header(index)

    def traits(self, index: int) -> Traits | None:
        """What the whole has for it."""
        return self.whole.traits(index)


def reduced(source: Source, geometry: Geometry) -> Source:
    """The same source, its large JPEGs decoded at a part of their size where that changes next to nothing."""
    if geometry.resize < LEAST:
        return source
    with warnings.catch_warnings(), ThreadPoolExecutor(cores()) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image shows when it is decoded
        headers = list(pool.map(source.header, range(len(source.items))))
    others = {
        _sides(header)
        for item, header in zip(source.items, headers, strict=True)
        if item.extra_test is None and header is not None and header[0] != "JPEG"
    }
    scales = [_scale(header, others, LEFT * geometry.resize) for header in headers]
    return Reduced(source, scales) if max(scales, default=1) > 1 else source


def square(data: bytes, geometry: Geometry) -> UInt8[np.ndarray, "3 crop crop"]:
    """Pixels of one image by itself at the network's size: a large JPEG is decoded at a part of its size.

    Args:
        data: The file's bytes.
        geometry: Brings it to the network's size.

    Raises:
        DataError: As `blurtrain.decoding.decode` and `Geometry.apply`.
    """
    scale = 1
    if geometry.resize >= LEAST:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                scale = _scale((str(image.format), image.width, image.height), set(), LEFT * geometry.resize)
        except Exception:  # what is wrong with an image shows when it is decoded
            scale = 1
    return geometry.apply(decode(data, scale))


def _sides(header: Header) -> tuple[int, int]:
    """Shorter and longer side: EXIF may turn the image."""
    return min(header[1:]), max(header[1:])


def _scale(header: Header | None, others: set[tuple[int, int]], needed: int) -> int:
    if header is None or header[0] != "JPEG" or _sides(header) in others:
        return 1
    return next((scale for scale in SCALES if _sides(header)[0] // scale >= needed), 1)
