"""Apply a blur to images: on a CPU by OpenCV's separable filter where it can, elsewhere as two matrix products.

Both are exact: the same taps, the same border, whatever the strength. OpenCV is several times faster on a
CPU; a matrix product is what a GPU does best, and its cost does not grow with the strength.
"""

from functools import lru_cache

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from blurtrain.kernels import kernel
from blurtrain.views import CLEAN, Blur, Border

_OPENCV_BORDERS = {
    "reflect101": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
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
    """Each colour plane by itself, which needs no change of memory layout and gives one result in any batch."""
    height, width = images.shape[-2:]
    shape = kernel(view)
    horizontal = shape.horizontal[::-1].astype(np.float32)  # OpenCV correlates, a blur convolves
    vertical = (shape.vertical[::-1] * scale).astype(np.float32)
    blurred = np.empty(images.shape, np.float32)
    planes = zip(images.reshape(-1, height, width), blurred.reshape(-1, height, width), strict=True)
    # OpenCV's filters do not wrap around, and read wrong pixels where the kernel is wider than the image.
    if view.border == "circular" or len(vertical) // 2 >= height or len(horizontal) // 2 >= width:
        rows, columns = _matrices(view, height, width)
        left, right = (rows * scale).astype(np.float32), columns.astype(np.float32)
        nothing = np.empty(0, np.float32)  # gemm would add it to the product
        for plane, target in planes:
            half = np.asarray(cv2.gemm(left, plane.astype(np.float32), 1, nothing, 0))
            target[:] = cv2.gemm(half, right, 1, nothing, 0, flags=cv2.GEMM_2_T)
        return blurred
    border = _OPENCV_BORDERS[view.border]
    for plane, target in planes:
        cv2.sepFilter2D(plane, cv2.CV_32F, horizontal, vertical, dst=target, borderType=border)
    return blurred


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
