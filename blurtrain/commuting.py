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
from blurtrain.operators import Layer

Maps = Float[Tensor, "images channels height width"]
Each = Float64[np.ndarray, " images"]
PARTS = ("padding", "stride", "nonlinearity")


@dataclass(frozen=True)
class Local:
    """What happened at one layer under one blur, for each image.

    Args:
        change: ||F(x) - F(x_b)||.
        output: ||F(x)||, on the layer's own map.
        image: ||x||.
        difference: ||x - x_b||.
        linear: ||W x||, un-strided and without bias.
        parts: Of the change after global average pooling: its scalar products with what padding, stride and
            nonlinearity add to it.
    """

    change: Each
    output: Each
    image: Each
    difference: Each
    linear: Each
    parts: dict[str, Each]

    def error(self) -> Each:
        """The change relative to the output; 0 where both are 0."""
        return np.where(self.change > 0, self.change / np.maximum(self.output, np.finfo(float).tiny), 0.0)

    def ratios(self, promised: Mapping[str, Bound]) -> dict[str, Each]:
        """The change over each bound that there is: 1 is attained, more would be a violation."""
        norms = {"lipschitz": self.difference, "output": self.linear, **dict.fromkeys(ON_IMAGE, self.image)}
        found = {}
        for name, bound in promised.items():
            if bound.constant is not None:
                limit = bound.constant * norms[name]
                found[name] = np.where(self.change > 0, self.change / np.maximum(limit, np.finfo(float).tiny), 0.0)
        return found


@dataclass(frozen=True)
class _Seen:
    """An input and the blurred one, with the layer's un-strided linear outputs of both on one grid.

    Args:
        difference: Between the inputs.
        clean: Linear output of the clean one.
        blurred: Of the blurred one.
        margin: Of the grid beyond the layer's own, down and across: a multiple of the stride.
    """

    difference: Maps
    clean: Maps
    blurred: Maps
    margin: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Bounded:
    """A convolution of which something can be stated, batch norm folded in.

    Args:
        layer: Its linear part.
        bias: Of each output channel.
        activate: What follows.
    """

    layer: Layer
    bias: Float64[np.ndarray, " out"]
    activate: Callable[[Tensor], Tensor]

    @property
    def extension(self) -> Extension:
        """How maps continue when they are blurred: such that blur and layer commute, where any do."""
        return "uncropped" if self.layer.mode == "zeros" else "circular"

    def refusal(self, kernel: Kernel) -> str:
        """Why its input cannot be blurred; empty if it can."""
        return wider(kernel, self.layer) if self.extension == "uncropped" else ""


class Convolved:
    """One convolution and the clean maps that reach it.

    Args:
        bounded: The convolution.
        maps: Its input.
    """

    def __init__(self, bounded: Bounded, maps: Maps) -> None:
        self._bounded, self._layer = bounded, bounded.layer
        self._maps = maps.contiguous(memory_format=torch.channels_last)
        self._weights = torch.from_numpy(bounded.layer.weights).to(maps).contiguous(memory_format=torch.channels_last)
        self._bias = torch.from_numpy(bounded.bias).to(maps)[:, None, None]
        self._full = self._linear_of_all()

    def blurred(self, kernel: Kernel) -> Local:
        """Blur the maps, and measure."""
        seen = self._uncropped(kernel) if self._bounded.extension == "uncropped" else self._circular(kernel)
        (down, across), (top, side) = self._layer.stride, seen.margin
        linear = [out[..., ::down, ::across] for out in (seen.clean, seen.blurred)]
        clean, blurred = (self._bounded.activate(out + self._bias) for out in linear)
        changed = clean - blurred
        height, width = self._own_output()
        own = (slice(top, top + height), slice(side, side + width))
        strided = (
            slice(top // down, top // down + math.ceil(height / down)),
            slice(side // across, side // across + math.ceil(width / across)),
        )
        # The linear part, blurred on a torus or by zeros and not cropped, keeps its sum: what it loses it loses here.
        padding = (seen.clean - seen.blurred)[..., *own].mean((2, 3))
        stride = (linear[0] - linear[1])[..., *strided].mean((2, 3)) - padding
        total = changed[..., *strided].mean((2, 3))
        parts = (padding, stride, total - stride - padding)
        return Local(
            change=norms(changed),
            output=norms(clean[..., *strided]),
            image=norms(self._maps),
            difference=norms(seen.difference),
            linear=norms(self._full),
            parts={
                name: (part * total).sum(1, dtype=torch.float64).numpy()
                for name, part in zip(PARTS, parts, strict=True)
            },
        )

    def _own_output(self) -> tuple[int, int]:
        """Rows and columns of the layer's own un-strided output."""
        (height, width), (rows, columns) = self._layer.padded, self._layer.reach
        return height - rows, width - columns

    def _convolve(self, maps: Maps) -> Maps:
        return F.conv2d(maps, self._weights, dilation=self._layer.dilation, groups=self._layer.groups)

    def _linear_of_all(self) -> Maps:
        """W x wherever it is not 0, or once around the torus; for other paddings as the layer has it."""
        rows, columns = self._layer.reach
        if self._layer.mode == "zeros":
            return self._convolve(F.pad(self._maps, (columns, columns, rows, rows)))
        if self._layer.mode == "circular":
            return self._convolve(F.pad(self._maps, (0, columns, 0, rows), mode="circular"))
        return self._convolve(self._padded(self._maps))

    def _padded(self, maps: Maps) -> Maps:
        """With the layer's own padding."""
        top, bottom, left, right = self._layer.padding
        mode = "constant" if self._layer.mode == "zeros" else self._layer.mode
        return F.pad(maps, (left, right, top, bottom), mode=mode)

    def _uncropped(self, kernel: Kernel) -> _Seen:
        """Zeros around the maps, and all of the blur kept."""
        (high, wide), (down, across) = (n // 2 for n in kernel.shape), self._layer.stride
        margin = math.ceil(high / down) * down, math.ceil(wide / across) * across
        blurred = blur_uncropped(self._maps, kernel, margin)
        (top, bottom, left, right), (rows, columns) = self._layer.padding, self._layer.reach
        # The blurred maps are convolved anew; the clean ones beyond their edge are zeros, so their output is known.
        places = (left - columns, right - columns, top - rows, bottom - rows)
        beyond = (margin[1], margin[1], margin[0], margin[0])
        clean = F.pad(self._full, tuple(a + b for a, b in zip(places, beyond, strict=True)))
        return _Seen(F.pad(self._maps, beyond) - blurred, clean, self._convolve(self._padded(blurred)), margin)

    def _circular(self, kernel: Kernel) -> _Seen:
        """On the maps' own torus."""
        height, width = self._maps.shape[-2:]
        transfer = torch.from_numpy(kernel.spectrum(height, width)[:, : width // 2 + 1])
        blurred = torch.fft.irfft2(torch.fft.rfft2(self._maps) * transfer, (height, width)).to(self._maps)
        clean, other = (self._convolve(self._padded(maps)) for maps in (self._maps, blurred))
        return _Seen(self._maps - blurred, clean, other, (0, 0))


def norms(maps: Float[Tensor, "_ *_"]) -> Each:
    """Over channels and pixels; BLAS adds up in pieces, so that single precision suffices."""
    flat = (maps.permute(0, 2, 3, 1) if maps.dim() == 4 else maps).flatten(1)  # channels are last in memory
    return np.array([float(torch.dot(one, one)) for one in flat]) ** 0.5
