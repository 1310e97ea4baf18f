"""Apply a blur to images: on a CPU by OpenCV's separable filter, on other devices as two matrix products.

Both are exact: the same taps, the same border, whatever the strength. OpenCV is several times faster on a
CPU; a matrix product is what a GPU does best, and its cost does not grow with the strength.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from blurtrain.config import CLEAN, Blur, Border
from blurtrain.kernels import kernel

_OPENCV_BORDERS = {
    "reflect101": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "circular": cv2.BORDER_WRAP,
    "zero": cv2.BORDER_CONSTANT,
}


def blur_pixels(
    pixels: UInt8[np.ndarray, "batch channel height width"], view: Blur
) -> Float32[np.ndarray, "batch channel height width"]:
    """Blurred images in [0, 1] from stored pixels in [0, 255], on the CPU; nothing is rounded to 8 bit.

    The division by 255 rides along in the taps of one axis.
    """
    if view == CLEAN:
        return pixels.astype(np.float32) / np.float32(255)
    return _filter(pixels, view, scale=1 / 255)


def blur(
    images: Float[Tensor, "batch channel height width"], view: Blur
) -> Float[Tensor, "batch channel height width"]:
    """Blurred images of the same type on the same device; any value range.

    Raises:
        ValueError: If the images are not floating point.
    """
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}")
    if view == CLEAN:
        return images
    if images.device.type == "cpu" and images.dtype == torch.float32 and not images.requires_grad:
        return torch.from_numpy(_filter(images.numpy(), view, scale=1.0))
    rows, columns = _matrices(view, images.shape[-2], images.shape[-1])
    vertical = torch.from_numpy(rows).to(images)
    horizontal = torch.from_numpy(columns).to(images)
    return vertical @ images @ horizontal.mT


def _filter(images: np.ndarray, view: Blur, scale: float) -> Float32[np.ndarray, "batch channel height width"]:
    """OpenCV's filter on each colour plane, which needs no change of memory layout."""
    shape = kernel(view)
    horizontal = shape.horizontal.astype(np.float32)
    vertical = (shape.vertical * scale).astype(np.float32)
    height, width = images.shape[-2:]
    pad_y, pad_x = len(vertical) // 2, len(horizontal) // 2
    # OpenCV's filters do not wrap around and read wrong pixels where the kernel is wider than the image.
    by_hand = view.border == "circular" or pad_y >= height or pad_x >= width
    border = _OPENCV_BORDERS[view.border]
    blurred = np.empty(images.shape, np.float32)
    planes = images.reshape(-1, height, width)
    for plane, target in zip(planes, blurred.reshape(-1, height, width), strict=True):
        if by_hand:
            wide = _pad(plane, pad_y, pad_x, view.border)
            full = cv2.sepFilter2D(wide, cv2.CV_32F, horizontal, vertical, borderType=cv2.BORDER_CONSTANT)
            target[:] = full[pad_y : pad_y + height, pad_x : pad_x + width]
        else:
            cv2.sepFilter2D(plane, cv2.CV_32F, horizontal, vertical, dst=target, borderType=border)
    return blurred


def _pad(plane: np.ndarray, pad_y: int, pad_x: int, border: Border) -> np.ndarray:
    rows, columns = (_sources(n, pad, border) for n, pad in zip(plane.shape, (pad_y, pad_x), strict=True))
    wide = plane[np.maximum(rows, 0)][:, np.maximum(columns, 0)]
    wide[rows < 0] = 0
    wide[:, columns < 0] = 0
    return np.ascontiguousarray(wide)


def _sources(n: int, pad: int, border: Border) -> np.ndarray:
    """Which of n pixels stands at each place of the axis extended by pad on both sides; -1 for zero."""
    places = np.arange(-pad, n + pad)
    if border == "zero":
        return np.where((places >= 0) & (places < n), places, -1)
    if border == "replicate":
        return places.clip(0, n - 1)
    if border == "circular":
        return places % n
    if border == "symmetric":
        folded = places % (2 * n)
        return np.minimum(folded, 2 * n - 1 - folded)
    period = max(2 * n - 2, 1)  # reflect101: the edge pixel itself is not repeated
    folded = places % period
    return np.minimum(folded, period - folded)


def border_matrix(taps: Float64[np.ndarray, " taps"], n: int, border: Border) -> Float64[np.ndarray, "n n"]:
    """The n x n matrix that filters one axis of n pixels, with the border rule written into it."""
    pad = len(taps) // 2
    sources = _sources(n, pad, border)
    matrix = np.zeros((n, n))
    for row in range(n):
        window = sources[row : row + len(taps)]
        np.add.at(matrix[row], window[window >= 0], taps[::-1][window >= 0])
    return matrix


@lru_cache(maxsize=32)
def _matrices(view: Blur, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    shape = kernel(view)
    return (
        border_matrix(shape.vertical, height, view.border),
        border_matrix(shape.horizontal, width, view.border),
    )
