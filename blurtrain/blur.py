"""Apply a blur to images, exactly: the kernel's own weights and border, whatever the strength.

On a CPU each colour plane is filtered by itself in one thread, by OpenCV's sliding filters or by a Fourier transform,
so that an image comes out the same in any batch and with any number of threads. On other devices, in double precision
and where a gradient is wanted, separable kernels are two matrix products and the others sums of shifted images or
Fourier transforms. Which way is taken depends on the kernel and the sizes alone; docs/blurs.md has the measurements.
"""

from collections.abc import Sequence
from functools import lru_cache, reduce

import cv2
import numpy as np
import scipy.fft
import torch
from jaxtyping import Complex128, Float, Float32, Float64, UInt8
from torch import Tensor
from torch.nn import functional as F

from blurtrain import warps
from blurtrain.convolution import Kernel, Separable
from blurtrain.kernels import FAMILIES, border_of, has_kernel, kernel, motion_severity
from blurtrain.views import CLEAN, Blur, Border

DIRECT_TAPS = 128  # from more weights above 0 on, a Fourier transform is faster than OpenCV's filter
SHIFTED_TAPS = 12  # from more on, it is faster than adding up shifted tensors
PIECE = 128  # from 130 on, cv2.filter2D takes a Fourier transform of its own, zeros included
_OPENCV_BORDERS = {
    "reflect101": cv2.BORDER_REFLECT_101,
    "symmetric": cv2.BORDER_REFLECT,
    "replicate": cv2.BORDER_REPLICATE,
    "circular": cv2.BORDER_WRAP,
    "zero": cv2.BORDER_CONSTANT,
}

Planes = Float32[np.ndarray, "planes height width"]


def blur_pixels(
    pixels: UInt8[np.ndarray, "batch channel height width"],
    view: Blur,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Float32[np.ndarray, "batch channel height width"]:
    """Blurred images in [0, 1] from stored pixels in [0, 255], on the CPU; nothing is rounded to 8 bit.

    With mean and std of each channel the images are then normalised, (blurred - mean) / std. Neither that nor the
    division by 255 takes a further pass over the image: both ride along in the kernel.

    Raises:
        ConfigError: If the blur's file cannot be read or holds no point-spread function.
    """
    channels = pixels.shape[1]
    deviation = np.ones(channels) if std is None else np.array(std, np.float64)
    shift = np.zeros(channels) if mean is None else -np.array(mean, np.float64) / deviation
    if view != CLEAN:
        return _seen(pixels, view, 1 / deviation, shift)
    images = np.empty(pixels.shape, np.float32)
    tables = (np.arange(256) / 255 / deviation[:, None] + shift[:, None]).astype(np.float32)
    for channel, table in enumerate(tables):
        for plane, target in zip(pixels[:, channel], images[:, channel], strict=True):
            cv2.LUT(plane, table, dst=target)
    return images


def _seen(
    pixels: UInt8[np.ndarray, "batch channel height width"],
    view: Blur,
    scale: Float64[np.ndarray, " channel"],
    shift: Float64[np.ndarray, " channel"],
) -> Float32[np.ndarray, "batch channel height width"]:
    """Blurred images in [0, 1], multiplied by their channel's scale, plus its shift."""
    side = min(pixels.shape[-2:])
    if has_kernel(view):
        return _filter(pixels, kernel(view, side), border_of(view), scale / 255, shift)
    if FAMILIES[view.family].kernel is None:
        images = warps.warped(pixels, view)
        images *= scale.astype(np.float32)[:, None, None]
        images += shift.astype(np.float32)[:, None, None]
        return images
    made = (motion_severity(view, side, warps.angle(image, view)) for image in pixels)
    return np.concatenate(
        [
            _filter(image[None], one, border_of(view), scale / 255, shift)
            for image, one in zip(pixels, made, strict=True)
        ]
    )


def blur(
    images: Float[Tensor, "batch channel height width"], view: Blur
) -> Float[Tensor, "batch channel height width"]:
    """Blurred images of the same type on the same device; any value range.

    Raises:
        ValueError: If the images are not floating point.
        ConfigError: If the blur's file cannot be read or holds no point-spread function, or if no single kernel makes
            the blur: `blur_pixels` knows those, too.
    """
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point, got {images.dtype}")
    if view == CLEAN:
        return images
    made = kernel(view, min(images.shape[-2:]))
    if images.device.type == "cpu" and images.dtype == torch.float32 and not images.requires_grad:
        ones, zeros = np.ones(images.shape[1]), np.zeros(images.shape[1])
        return torch.from_numpy(_filter(images.numpy(), made, border_of(view), ones, zeros))
    # Taps in half precision would not sum to 1, and autocast would make them so.
    exact = images if images.dtype == torch.float64 else images.float()
    with torch.autocast(images.device.type, enabled=False):
        if isinstance(made, Separable):
            blurred = _products(exact, made, border_of(view))
        elif _taps(made) <= SHIFTED_TAPS:
            blurred = _shifts(exact, made, border_of(view))
        else:
            blurred = _transforms(exact, made, border_of(view))
    return blurred.to(images.dtype)


def blur_uncropped(
    maps: Float[Tensor, "batch channel height width"], made: Kernel, margin: tuple[int, int]
) -> Float[Tensor, "batch channel rows columns"]:
    """Maps that are zero outside, blurred, with all that the blur spreads beyond their edge.

    Args:
        maps: Of any channels.
        made: The kernel.
        margin: Pixels added above and below, and left and right: at least the kernel's radius.
    """
    count, channels, height, width = maps.shape
    if isinstance(made, Separable):
        down, across = (torch.from_numpy(matrix).to(maps) for matrix in _spreading(made, height, width, margin))
        # With channels last both products are of large matrices: five times as fast as plane by plane.
        last = maps.permute(0, 2, 3, 1).reshape(count, height, width * channels)
        half = torch.bmm(down.expand(count, -1, -1), last).view(-1, width, channels)
        spread = torch.bmm(across.expand(len(half), -1, -1), half)
        return spread.view(count, len(down), len(across), channels).permute(0, 3, 1, 2)
    (rows, columns), (above, left) = made.shape, margin
    size = _fast_size(made, height, width)
    spectrum = torch.fft.rfft2(maps.contiguous(), size) * torch.from_numpy(_transfer(made, size)).to(maps.device)
    spread = torch.fft.irfft2(spectrum.to(torch.complex64 if maps.dtype == torch.float32 else spectrum.dtype), size)
    top, side = above - rows // 2, left - columns // 2
    return F.pad(spread[..., : height + rows - 1, : width + columns - 1].to(maps), (side, side, top, top))


def _filter(
    images: np.ndarray,
    made: Kernel,
    rule: Border,
    scale: Float64[np.ndarray, " channel"],
    shift: Float64[np.ndarray, " channel"],
) -> Float32[np.ndarray, "batch channel height width"]:
    """Each colour plane by itself, which needs no change of memory layout and gives one result in any batch.

    The blurred values are multiplied by their channel's scale, and then its shift is added.
    """
    blurred = np.empty(images.shape, np.float32)
    for channel in range(images.shape[1]):
        planes, targets = images[:, channel], blurred[:, channel]
        affine = float(scale[channel]), float(shift[channel])
        if isinstance(made, Separable):
            _separable(planes, targets, made, rule, *affine)
        elif _taps(made) <= DIRECT_TAPS:
            _direct(planes, targets, made, rule, *affine)
        else:
            _fourier(planes, targets, made, rule, *affine)
    return blurred


def _separable(
    planes: np.ndarray, targets: Planes, made: Separable, border: Border, scale: float, shift: float = 0.0
) -> None:
    (rows, columns), (height, width) = made.shape, planes.shape[1:]
    if not _is_opencvs(made, border, height, width):
        vertical, horizontal = _matrices(made, height, width, border)
        left, right = (vertical * scale).astype(np.float32), horizontal.astype(np.float32)
        nothing = np.empty(0, np.float32)  # gemm would add it to the product
        for plane, target in zip(planes, targets, strict=True):
            half = np.asarray(cv2.gemm(left, plane.astype(np.float32), 1, nothing, 0))
            target[:] = cv2.gemm(half, right, 1, nothing, 0, flags=cv2.GEMM_2_T)
            target += np.float32(shift)
        return
    rule = _OPENCV_BORDERS[border]
    if _is_flat(made.vertical) and _is_flat(made.horizontal):
        share = np.float32(scale / (rows * columns))
        for plane, target in zip(planes, targets, strict=True):  # running sums, in whole numbers or double precision
            cv2.boxFilter(plane, cv2.CV_32F, (columns, rows), dst=target, normalize=False, borderType=rule)
            target *= share
            target += np.float32(shift)
        return
    across = made.horizontal[::-1].astype(np.float32)  # OpenCV correlates, a blur convolves
    down = (made.vertical[::-1] * scale).astype(np.float32)
    for plane, target in zip(planes, targets, strict=True):
        cv2.sepFilter2D(plane, cv2.CV_32F, across, down, dst=target, delta=shift, borderType=rule)


def _is_opencvs(made: Kernel, border: Border, height: int, width: int) -> bool:
    """OpenCV's filters do not wrap around; for a kernel wider than the image a matrix of its size is less work."""
    rows, columns = made.shape
    return border != "circular" and rows // 2 < height and columns // 2 < width


def _is_flat(taps: Float64[np.ndarray, " taps"]) -> bool:
    """Whether all weights are equal but for rounding."""
    return bool(np.ptp(taps) <= 1e-12 * taps.max())


def _taps(made: Kernel) -> int:
    return int(np.count_nonzero(made.weights))


def _padded(plane: np.ndarray, made: Kernel, border: Border) -> Float32[np.ndarray, "rows columns"]:
    """The plane continued far enough that every weight finds a pixel; any border, any size."""
    top, left = (n // 2 for n in made.shape)
    return np.asarray(cv2.copyMakeBorder(plane, top, top, left, left, _OPENCV_BORDERS[border])).astype(np.float32)


def _direct(
    planes: np.ndarray, targets: Planes, made: Kernel, border: Border, scale: float, shift: float = 0.0
) -> None:
    """OpenCV's filter, which visits the weights above 0 alone, a long line in pieces that it does not transform."""
    height, width = planes.shape[1:]
    if made.weights.size <= PIECE and _is_opencvs(made, border, height, width):
        taps = (made.weights[::-1, ::-1] * scale).astype(np.float32)  # OpenCV correlates
        for plane, target in zip(planes, targets, strict=True):
            floats = plane.astype(np.float32)  # from 8 bit OpenCV is up to four times slower
            cv2.filter2D(floats, cv2.CV_32F, taps, dst=target, delta=shift, borderType=_OPENCV_BORDERS[border])
        return
    pieces = _pieces(made, scale)
    for plane, target in zip(planes, targets, strict=True):
        padded = _padded(plane, made, border)
        target[:] = shift
        for row, column, taps in pieces:
            window = padded[row : row + height + taps.shape[0] - 1, column : column + width + taps.shape[1] - 1]
            part = cv2.filter2D(window, cv2.CV_32F, taps, anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
            target += part[:height, :width]


Piece = tuple[int, int, Float32[np.ndarray, "_ _"]]


@lru_cache(maxsize=32)
def _pieces(made: Kernel, scale: float) -> list[Piece]:
    """The mirrored kernel in rectangles: the row and the column where each begins, and its weights."""
    return _cut((made.weights[::-1, ::-1] * scale).astype(np.float32), 0, 0)


def _cut(taps: Float32[np.ndarray, "rows columns"], row: int, column: int) -> list[Piece]:
    """Halve what is too large, and leave out what is empty."""
    rows, columns = (np.flatnonzero(taps.any(axis)) for axis in (1, 0))
    if not len(rows):
        return []
    taps = taps[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    row, column = row + int(rows[0]), column + int(columns[0])
    height, width = taps.shape
    if taps.size <= PIECE:
        return [(row, column, np.ascontiguousarray(taps))]
    if height > width:
        half = height // 2
        return _cut(taps[:half], row, column) + _cut(taps[half:], row + half, column)
    half = width // 2
    return _cut(taps[:, :half], row, column) + _cut(taps[:, half:], row, column + half)


def _fourier(
    planes: np.ndarray, targets: Planes, made: Kernel, border: Border, scale: float, shift: float = 0.0
) -> None:
    (rows, columns), (height, width) = made.shape, planes.shape[1:]
    size = _fast_size(made, height, width)
    transfer = (_transfer(made, size) * scale).astype(np.complex64)
    for plane, target in zip(planes, targets, strict=True):
        spectrum = scipy.fft.rfft2(_padded(plane, made, border), size)
        spectrum *= transfer
        # What wrapped around the torus lies in the first rows and columns, before the image.
        target[:] = scipy.fft.irfft2(spectrum, size)[rows - 1 : rows - 1 + height, columns - 1 : columns - 1 + width]
        target += np.float32(shift)


def _fast_size(made: Kernel, height: int, width: int) -> tuple[int, int]:
    """Of a torus that holds the padded image: what wraps around stays within its margin."""
    rows, columns = made.shape
    return scipy.fft.next_fast_len(height + rows - 1, True), scipy.fft.next_fast_len(width + columns - 1, True)


@lru_cache(maxsize=16)
def _transfer(made: Kernel, size: tuple[int, int]) -> Complex128[np.ndarray, "rows columns"]:
    """Transform of the kernel with its first weight at the origin."""
    return np.asarray(scipy.fft.rfft2(made.weights, size))


def _products(
    images: Float[Tensor, "batch channel height width"], made: Separable, border: Border
) -> Float[Tensor, "batch channel height width"]:
    vertical, horizontal = _matrices(made, images.shape[-2], images.shape[-1], border)
    return torch.from_numpy(vertical).to(images) @ images @ torch.from_numpy(horizontal).to(images).mT


def _shifts(
    images: Float[Tensor, "batch channel height width"], made: Kernel, border: Border
) -> Float[Tensor, "batch channel height width"]:
    """A sum of moved images, each an elementwise product: no convolution of a GPU that rounds to TF32."""
    height, width = images.shape[-2:]
    padded, mirrored = _padded_tensor(images, made, border), made.weights[::-1, ::-1]
    moved = (
        float(mirrored[row, column]) * padded[..., row : row + height, column : column + width]
        for row, column in np.argwhere(mirrored)
    )
    return reduce(torch.add, moved)


def _transforms(
    images: Float[Tensor, "batch channel height width"], made: Kernel, border: Border
) -> Float[Tensor, "batch channel height width"]:
    (rows, columns), (height, width) = made.shape, images.shape[-2:]
    size = _fast_size(made, height, width)
    spectrum = torch.fft.rfft2(_padded_tensor(images, made, border), size)
    transfer = torch.from_numpy(_transfer(made, size)).to(spectrum)
    blurred: Tensor = torch.fft.irfft2(spectrum * transfer, size)
    return blurred[..., rows - 1 :, columns - 1 :][..., :height, :width]


def _padded_tensor(
    images: Float[Tensor, "batch channel height width"], made: Kernel, border: Border
) -> Float[Tensor, "batch channel rows columns"]:
    """By indices: `torch.nn.functional.pad` knows neither every border nor margins wider than the image."""
    top, left = (n // 2 for n in made.shape)
    if border == "zero":
        return F.pad(images, (left, left, top, top))
    rows, columns = (
        torch.from_numpy(sources(n, pad, border)).to(images.device)
        for n, pad in zip(images.shape[-2:], (top, left), strict=True)
    )
    return images.index_select(-2, rows).index_select(-1, columns)


def sources(n: int, pad: int, border: Border) -> np.ndarray:
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
    places = sources(n, pad, border)
    matrix = np.zeros((n, n))
    for row in range(n):
        window = places[row : row + len(taps)]
        np.add.at(matrix[row], window[window >= 0], taps[::-1][window >= 0])
    return matrix


@lru_cache(maxsize=32)
def _matrices(made: Separable, height: int, width: int, border: Border) -> tuple[np.ndarray, np.ndarray]:
    return border_matrix(made.vertical, height, border), border_matrix(made.horizontal, width, border)


@lru_cache(maxsize=256)
def _spreading(made: Separable, height: int, width: int, margin: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Matrices from n to n + 2 margin pixels that spread each pixel over its neighbours."""
    return _spread(made.vertical, height, margin[0]), _spread(made.horizontal, width, margin[1])


def _spread(taps: Float64[np.ndarray, " taps"], n: int, margin: int) -> Float64[np.ndarray, "rows n"]:
    matrix = np.zeros((n + 2 * margin, n))
    for place in range(n):
        start = place + margin - len(taps) // 2
        matrix[start : start + len(taps), place] = taps
    return matrix
