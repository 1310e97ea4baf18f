"""How much a convolution can amplify: rigorous upper bounds of its norm, at every frequency and as a whole."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Complex, Float, Float64, Shaped
from torch import Tensor

from blurtrain.files import sha256

Padding = Literal["zeros", "circular", "reflect", "replicate"]

LOOSE = 1.02  # the bound over the largest singular value where all are equal, rounding aside
EXACT = 32  # channels up to which double precision costs next to nothing
BLOCK = 1 << 22  # complex numbers in one block of frequencies: 64 MiB
VERSION = 2  # raise it when the same layer would get other gains

Gains = Float64[np.ndarray, "rows half"]


@dataclass(frozen=True, eq=False)
class Layer:
    """A convolution with its batch norm folded in, on maps of one size, and the activation that follows.

    Args:
        weights: [out, in / groups, rows, columns].
        height: Of its input, px.
        width: Of its input, px.
        stride: Down and across.
        dilation: Down and across.
        groups: Of channels.
        padding: Above, below, left and right, px.
        mode: What it pads with.
        lipschitz: Lipschitz constant of the activation.
    """

    weights: Float64[np.ndarray, "out in rows columns"]
    height: int
    width: int
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    mode: Padding = "zeros"
    lipschitz: float = 1.0

    @property
    def reach(self) -> tuple[int, int]:
        """Pixels that its kernel spans beside one, dilation (kernel - 1), down and across."""
        rows, columns = self.weights.shape[2:]
        return self.dilation[0] * (rows - 1), self.dilation[1] * (columns - 1)

    @property
    def padded(self) -> tuple[int, int]:
        """Its input with the padding, px."""
        top, bottom, left, right = self.padding
        return self.height + top + bottom, self.width + left + right

    @property
    def torus(self) -> tuple[int, int]:
        """Points down and across of a torus on which it is a part of a circular convolution.

        With zeros n + reach would do; 2 n + reach also holds the input blurred by any kernel that is no wider than
        it. Circular padding makes a torus of n. What is padded otherwise is convolved without any further padding.
        """
        if self.mode == "circular":
            return self.height, self.width
        if self.mode != "zeros":
            return self.padded
        return 2 * self.height + self.reach[0], 2 * self.width + self.reach[1]

    @cached_property
    def young(self) -> float:
        """Y(W) = sqrt(largest sum of |w| into an output * largest out of an input): an upper bound of the norm.

        Schur's test; for one channel Young's inequality.
        """
        size = np.abs(self.weights).sum((2, 3))
        into = size.sum(1).max()
        out_of = size.reshape(self.groups, -1, size.shape[1]).sum(1).max()
        return math.sqrt(into * out_of)

    @cached_property
    def padding_norm(self) -> float:
        """How much the padding can amplify: the root of how often one pixel is repeated, in each axis."""
        top, bottom, left, right = self.padding
        down = self._repeats(self.height, top, bottom, self.reach[0])
        across = self._repeats(self.width, left, right, self.reach[1])
        return math.sqrt(down * across)

    def _repeats(self, n: int, before: int, after: int, reach: int) -> int:
        if self.mode == "zeros":
            return 1
        if self.mode == "circular":  # of the outputs: n are those of the torus
            return max(1, math.ceil((n + before + after - reach) / n))
        places = np.arange(-before, n + after)
        if self.mode == "replicate":
            sources = places.clip(0, n - 1)
        else:
            sources = np.minimum(np.abs(places), np.abs(2 * (n - 1) - places))
        return int(np.bincount(sources).max())

    def norm(self, gains: Gains) -> float:
        """An upper bound of the norm of the linear part, padding included, from its gains."""
        return min(float(gains.max()), self.young) * self.padding_norm

    def content(self) -> str:
        """SHA-256 of all that its gains depend on."""
        shape = (self.weights.shape, self.dilation, self.groups, self.torus, VERSION)
        return sha256(repr(shape), np.ascontiguousarray(self.weights).tobytes())


def effort(layer: Layer) -> float:
    """Floating point operations that its gains take, about."""
    outputs, inputs, rows, columns = layer.weights.shape
    height, width = layer.torus
    points = (height if rows > 1 else 1) * (width // 2 + 1 if columns > 1 else 1)
    size, inner = sorted((outputs // layer.groups, inputs))
    each = size**2 * (inner + (_steps(size) - 1) * size + rows * columns)
    return float(8 * points * layer.groups * each)


def gains(layer: Layer) -> Gains:
    """An upper bound of the largest singular value of the layer's symbol at every frequency of its torus.

    The symbol What(u, v) is the [out, in] matrix that the convolution is at one frequency. Weights are real, so the
    frequency -(u, v) has the same singular values, and half of the columns are enough: the layout is numpy.fft.rfft2's.

    Raises:
        ValueError: If a weight is not finite.
    """
    if not np.isfinite(layer.weights).all():
        raise ValueError("weights must be finite")
    (height, width), (rows, columns) = layer.torus, layer.weights.shape[2:]
    # Along an axis where the kernel has one tap, all frequencies have the same symbol.
    down = _waves(height, rows, layer.dilation[0], height if rows > 1 else 1)
    across = _waves(width, columns, layer.dilation[1], width // 2 + 1 if columns > 1 else 1)
    weights = torch.from_numpy(layer.weights.reshape(layer.groups, -1, *layer.weights.shape[1:]))
    if weights.shape[1] < weights.shape[2]:  # the smaller Gram matrix has the same singular values
        weights = weights.transpose(1, 2)
    taps = weights.flatten(3).permute(3, 0, 1, 2).flatten(1).to(torch.complex128)
    step = max(1, BLOCK // (taps.shape[1] * len(across)))
    found = torch.empty(len(down), len(across), dtype=torch.float64)
    for start in range(0, len(down), step):
        some = slice(start, start + step)
        waves = torch.einsum("ua,vb->uvab", down[some], across).flatten(2)
        symbols = (waves @ taps).view(*waves.shape[:2], *weights.shape[:3])
        if rows == columns == 1:
            symbols = symbols.real  # double precision is then cheap for any number of channels
        found[some] = _largest_singular_values(symbols).amax(2)
    # Rounding of the symbols themselves, which matters where their taps cancel.
    sizes = np.sqrt((np.abs(layer.weights).sum((2, 3)) ** 2).sum())
    found += 4 * rows * columns * torch.finfo(torch.float64).eps * sizes
    return np.broadcast_to(found.numpy(), (height, width // 2 + 1)).copy()


def _waves(n: int, taps: int, dilation: int, count: int) -> Complex[Tensor, "frequencies taps"]:
    """exp(-2 pi i u a / n) for the places of all taps."""
    turns = torch.outer(torch.arange(count), dilation * torch.arange(taps)) % n
    return torch.exp(-2j * math.pi * turns.double() / n)


def _largest_singular_values(
    symbols: Complex[Tensor, "down across groups out in"] | Float64[Tensor, "down across groups out in"],
) -> Float64[Tensor, "down across groups"]:
    """Upper bounds by Gram iteration, rounding included.

    With G_0 the symbol divided by its Frobenius norm and G_t+1 = G_t* G_t divided by its own, f_t+1, the singular
    values obey s(G_t)^2 = f_t+1 s(G_t+1), and s(G_T) <= ||G_T||_F = 1 (Delattre et al., "Efficient bound of Lipschitz
    constant for convolutional layers by Gram iteration", ICML 2023). A computed product of two d x d matrices of
    Frobenius norm 1 is off by less than 4 d unit roundoffs, halves of epsilon, in that norm (Higham, "Accuracy and
    stability of numerical algorithms", chapter 3), which is added at each step.
    """
    inner, size = symbols.shape[-2:]
    scale = _frobenius(symbols)
    is_costly = size > EXACT and symbols.is_complex()
    matrices = _divided(symbols, scale).to(torch.complex64 if is_costly else symbols.dtype)
    errors = [2 * length * torch.finfo(matrices.dtype).eps for length in [inner, *[size] * _steps(size)]]
    shrunk = []
    for _ in range(_steps(size)):
        product = matrices.mH @ matrices
        shrunk.append(_frobenius(product))
        matrices = _divided(product, shrunk[-1])
    bound = torch.full_like(scale, 1 + errors[-1])
    for factor, error in zip(reversed(shrunk), reversed(errors[:-1]), strict=True):
        bound = (factor.double() * bound + error).sqrt()
    return scale * bound


def _steps(size: int) -> int:
    """So many that equal singular values are overestimated by no more than LOOSE: size^(1 / 2^(steps + 1))."""
    return max(0, math.ceil(math.log2(math.log(size) / math.log(LOOSE))) - 1) if size > 1 else 0


def _frobenius(matrices: Shaped[Tensor, "*many rows columns"]) -> Float[Tensor, "*many"]:
    found: Tensor = torch.linalg.vector_norm(matrices, dim=(-2, -1))
    return found


def _divided(
    matrices: Shaped[Tensor, "*many rows columns"], by: Float[Tensor, "*many"]
) -> Shaped[Tensor, "*many rows columns"]:
    """Without a division by 0: a matrix of zeros stays one."""
    return matrices / by.masked_fill(by == 0, 1)[..., None, None]
