"""Blur the clean input of one convolution right there, and measure what comes out beside what was promised."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from blurtrain.blur import blur_uncropped
from blurtrain.bounds import ON_IMAGE, Bound, Extension, wider
from blurtrain.convolution import Kernel
from blurtrain.decision import ratio
from blurtrain.operators import Layer

Maps = Float[Tensor, "images channels height width"]
Padded = Float[Tensor, "images channels rows columns"]
Outputs = Float[Tensor, "images out down across"]
Each = Float64[np.ndarray, " images"]
BLOCK = 1024  # numbers that are added up in single precision
NOTHING = 1e-10  # of ||delta - k||_1: what is left of such a blur is rounding
PARTS = ("padding", "stride", "nonlinearity")


@dataclass(frozen=True)
class Local:
    """What happened at one layer under one blur, for each image.

    Args:
        change: ||F(x) - F(x_b)||.
        image: ||x||.
        difference: ||x - x_b||.
        linear: ||W x||, un-strided and without bias.
    """

    change: Each
    image: Each
    difference: Each
    linear: Each

    def ratios(self, promised: Mapping[str, Bound]) -> dict[str, Each]:
        """The change over each bound that there is: 1 is attained, more would be a violation."""
        of = {"lipschitz": self.difference, "output": self.linear, **dict.fromkeys(ON_IMAGE, self.image)}
        return {
            name: ratio(self.change, bound.constant * of[name])
            for name, bound in promised.items()
            if bound.constant is not None
        }


@dataclass(frozen=True, eq=False)
class Bounded:
    """A convolution of which something can be stated, batch norm folded in.

    Args:
        layer: Its linear part.
        bias: Of each output channel.
        activate: What follows; it may overwrite what it is given.
    """

    layer: Layer
    bias: Float64[np.ndarray, " out"]
    activate: Callable[[Tensor], Tensor]

    @property
    def extension(self) -> Extension:
        """How maps continue when they are blurred: such that blur and layer commute, where any do."""
        return "uncropped" if self.layer.mode == "zeros" else "circular"

    def refusal(self, kernel: Kernel) -> str:
        """Why its input cannot be blurred so; empty if it can."""
        if kernel.distance < NOTHING:
            return "the kernel blurs nothing"
        return wider(kernel, self.layer) if self.extension == "uncropped" else ""


class Convolved:
    """One convolution and the clean maps that reach it.

    Args:
        bounded: The convolution.
        maps: Its input.
    """

    def __init__(self, bounded: Bounded, maps: Maps) -> None:
        self._layer, self._activate, self._extension = bounded.layer, bounded.activate, bounded.extension
        self._maps = maps.contiguous(memory_format=torch.channels_last)
        weights = torch.from_numpy(bounded.layer.weights).to(maps)
        self._weights = weights.contiguous(memory_format=torch.channels_last)
        self._bias = torch.from_numpy(bounded.bias).to(maps)
        full = self._linear_of_all()
        self._image, self._linear = norms(self._maps), norms(full)
        if self._extension == "uncropped":
            # Where the maps are zero, so is the linear part.
            self._silent = self._activate(self._bias.view(1, -1, 1, 1).clone())
            (down, across), (first, left) = self._layer.stride, self._phase()
            seen = full[..., first::down, left::across] + self._bias[:, None, None]
            self._clean = self._activate(seen).sub_(self._silent)

    def blurred(self, kernel: Kernel) -> Local:
        """Blur the maps such that blur and layer commute, and measure."""
        change, difference = self._uncropped(kernel) if self._extension == "uncropped" else self._circular(kernel)
        return Local(change, self._image, difference, self._linear)

    def parts(self, kernel: Kernel) -> dict[str, Each]:
        """What padding, stride and nonlinearity add to the change after global average pooling.

        The maps are blurred on a torus, where pooling an un-strided linear map on that torus would leave no change.

        Returns:
            Of each part its scalar product with the whole change: these add up to the whole's square.
        """
        (down, across), bias = self._layer.stride, self._bias[:, None, None]
        linear = [self._convolve(self._padded(maps)) for maps in (self._maps, self._on_torus(kernel))]
        strided = [out[..., ::down, ::across] for out in linear]
        padding, stride = (_pooled(clean - blurred) for clean, blurred in (linear, strided))
        total = _pooled(self._activate(strided[0] + bias) - self._activate(strided[1] + bias))
        parts = dict(zip(PARTS, (padding, stride - padding, total - stride), strict=True))
        return {name: (part * total).sum(1).double().numpy() for name, part in parts.items()}

    def _uncropped(self, kernel: Kernel) -> tuple[Each, Each]:
        """Zeros around the maps, and all of the blur kept: the changes of output and input."""
        margin = self._margin(kernel)
        blurred = blur_uncropped(self._maps, kernel, margin)
        changed = self._outputs(blurred).sub_(self._silent)
        places = [self._overlap(axis, margin[axis], changed.shape[2 + axis]) for axis in (0, 1)]
        (rows, clean_rows), (columns, clean_columns) = places
        changed[..., rows, columns] -= self._clean[..., clean_rows, clean_columns]
        height, width = self._maps.shape[-2:]
        blurred[..., margin[0] : margin[0] + height, margin[1] : margin[1] + width] -= self._maps
        return norms(changed), norms(blurred)

    def _margin(self, kernel: Kernel) -> tuple[int, int]:
        """Pixels around the maps in which all that the blurred maps give is seen, in step with the stride."""
        down, across = (
            math.ceil((size // 2 + max(0, reach - min(self._layer.padding[2 * axis : 2 * axis + 2]))) / stride) * stride
            for axis, (size, reach, stride) in enumerate(
                zip(kernel.shape, self._layer.reach, self._layer.stride, strict=True)
            )
        )
        return down, across

    def _phase(self) -> tuple[int, int]:
        """First row and column of all of the linear part that the stride meets."""
        (top, _, left, _), (rows, columns), (down, across) = self._layer.padding, self._layer.reach, self._layer.stride
        return (rows - top) % down, (columns - left) % across

    def _overlap(self, axis: int, margin: int, outputs: int) -> tuple[slice, slice]:
        """Where the outputs on maps with a margin see the clean ones, and which these are.

        Output j on the larger maps is number start + j stride of all of the linear part.
        """
        reach, stride = self._layer.reach[axis], self._layer.stride[axis]
        start = reach - self._layer.padding[2 * axis] - margin
        known = self._maps.shape[2 + axis] + reach
        first, stop = max(0, math.ceil(-start / stride)), min(outputs, (known - 1 - start) // stride + 1)
        skipped = (start - self._phase()[axis]) // stride
        return slice(first, stop), slice(first + skipped, stop + skipped)

    def _circular(self, kernel: Kernel) -> tuple[Each, Each]:
        """On the maps' own torus: the changes of output and input."""
        blurred = self._on_torus(kernel)
        return norms(self._outputs(self._maps) - self._outputs(blurred)), norms(self._maps - blurred)

    def _on_torus(self, kernel: Kernel) -> Maps:
        height, width = self._maps.shape[-2:]
        spectrum = torch.fft.rfft2(self._maps)
        transfer = torch.from_numpy(kernel.spectrum(height, width)[:, : width // 2 + 1]).to(spectrum)
        blurred = torch.fft.irfft2(spectrum * transfer, (height, width))
        return Tensor.contiguous(blurred, memory_format=torch.channels_last)

    def _outputs(self, maps: Maps) -> Outputs:
        """The layer on maps of any size."""
        (top, bottom, left, right), mode = self._layer.padding, self._layer.mode
        is_even = mode == "zeros" and top == bottom and left == right
        padded, padding = (maps, (top, left)) if is_even else (self._padded(maps), (0, 0))
        settings = (self._bias, self._layer.stride, padding, self._layer.dilation, self._layer.groups)
        return self._activate(F.conv2d(padded, self._weights, *settings))

    def _convolve(self, maps: Maps) -> Outputs:
        """Un-strided and without bias or padding."""
        return F.conv2d(maps, self._weights, dilation=self._layer.dilation, groups=self._layer.groups)

    def _linear_of_all(self) -> Outputs:
        """W x wherever it is not 0, or once around the torus; for other paddings as the layer has it."""
        rows, columns = self._layer.reach
        if self._layer.mode == "zeros":
            return self._convolve(F.pad(self._maps, (columns, columns, rows, rows)))
        if self._layer.mode == "circular":
            return self._convolve(_wrapped(self._maps, (0, columns, 0, rows)))
        return self._convolve(self._padded(self._maps))

    def _padded(self, maps: Maps) -> Padded:
        """With the layer's own padding."""
        top, bottom, left, right = self._layer.padding
        if self._layer.mode == "circular":
            return _wrapped(maps, (left, right, top, bottom))
        mode = "constant" if self._layer.mode == "zeros" else self._layer.mode
        return F.pad(maps, (left, right, top, bottom), mode=mode)


def norms(maps: Float[Tensor, "images ..."]) -> Each:
    """Over channels and pixels, added up in double precision block by block."""
    flat = (maps.permute(0, 2, 3, 1) if maps.dim() == 4 else maps).flatten(1)  # channels are last in memory
    whole = flat.shape[1] // BLOCK * BLOCK
    blocks = flat[:, :whole].view(len(flat), -1, BLOCK)
    parts = torch.cat([torch.linalg.vector_norm(blocks, dim=2), flat[:, whole:]], 1).double()
    return np.asarray(torch.linalg.vector_norm(parts, dim=1).numpy())


def _wrapped(maps: Maps, margin: tuple[int, int, int, int]) -> Padded:
    """Continued around the torus at the left, right, top and bottom, however often."""
    left, right, top, bottom = margin
    height, width = maps.shape[-2:]
    rows, columns = (
        torch.arange(-before, n + after) % n for before, n, after in ((top, height, bottom), (left, width, right))
    )
    return maps.index_select(-2, rows).index_select(-1, columns)


def _pooled(maps: Maps) -> Float[Tensor, "images channels"]:
    """Global averages, as a product of matrices: torch's own mean is slow with channels last."""
    count, channels, height, width = maps.shape
    last = maps.permute(0, 2, 3, 1).reshape(count, height * width, channels)
    return torch.bmm(last.new_full((count, 1, height * width), 1 / (height * width)), last)[:, 0]
