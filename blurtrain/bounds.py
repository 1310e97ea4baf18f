"""What theory promises at one convolution when its input is blurred: seven bounds, proven in docs/theory.md.

With x the input, x_b the blurred one, W the linear part without bias, L the activation's constant, k the kernel, and
F(x) = activation(W x + bias), every bound is a constant times a norm that is measured:

    lipschitz   L ||W||                       ||x - x_b||
    triangle    L ||W|| (1 + ||k||_1)         ||x||
    young       L Y(W) ||delta - k||_1        ||x||
    l1          L ||W|| ||delta - k||_1       ||x||
    spectral    L ||W|| sup |1 - khat|        ||x||
    joint       L sup (|1 - khat| s(What))    ||x||
    output      L sup |1 - khat|              ||W x||, un-strided and without bias

and ||F(x) - F(x_b)|| is no larger, in the Euclidean norm over all channels and pixels.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from blurtrain.blur import sources
from blurtrain.convolution import Kernel
from blurtrain.operators import Gains, Layer
from blurtrain.views import Border

Extension = (
    Literal["uncropped"] | Border
)  # of the map beyond its edge; uncropped: by zeros, and all of the blur is kept
NAMES = ("lipschitz", "triangle", "young", "l1", "spectral", "joint", "output")
ON_IMAGE = ("triangle", "young", "l1", "spectral", "joint")  # their constants are multiplied by ||x||


@dataclass(frozen=True)
class Bound:
    """One bound of a layer under a blur.

    Args:
        constant: What the measured norm is multiplied by; none where nothing is promised.
        reason: Why nothing is promised.
    """

    constant: float | None
    reason: str = ""


def wider(kernel: Kernel, layer: Layer) -> str:
    """In words, that a kernel is wider than a layer's map; empty if it is not."""
    (rows, columns), (height, width) = kernel.shape, (layer.height, layer.width)
    if rows <= height and columns <= width:
        return ""
    return f"the kernel of {rows} x {columns} px is wider than the map of {height} x {width} px"


def bounds(layer: Layer, gains: Gains, kernel: Kernel, extension: Extension) -> dict[str, Bound]:
    """All seven, by their names.

    Args:
        layer: The convolution.
        gains: Of it (`blurtrain.operators.gains`).
        kernel: Of the blur.
        extension: How the map continues beyond its edge when it is blurred. ``uncropped`` extends it by zeros and
            keeps all that the blur spreads; the layer then sees the larger map.
    """
    refusal = _refusal(layer, kernel, extension)
    if refusal:
        return dict.fromkeys(NAMES, Bound(None, refusal))
    norm, activation = layer.norm(gains), layer.lipschitz
    furthest = min(kernel.furthest(*_frequencies(layer, kernel, extension)), kernel.distance)
    repeated = activation * extension_norm(layer.height, layer.width, kernel, extension)
    constants = {
        "lipschitz": activation * norm,
        "triangle": repeated * norm * (1 + kernel.l1),
        "young": repeated * layer.young * layer.padding_norm * kernel.distance,
        "l1": repeated * norm * kernel.distance,
        "spectral": repeated * norm * furthest,
    }
    found = {name: Bound(constant) for name, constant in constants.items()}
    return found | _exact(layer, gains, kernel, extension, furthest)


def _exact(layer: Layer, gains: Gains, kernel: Kernel, extension: Extension, furthest: float) -> dict[str, Bound]:
    """The two bounds that need a blur and a layer that commute."""
    refusal = _does_not_commute(layer, extension)
    if refusal:
        return dict.fromkeys(("joint", "output"), Bound(None, refusal))
    height, width = layer.torus
    share = np.abs(1 - kernel.spectrum(height, width))[:, : gains.shape[1]]
    scale = layer.lipschitz * layer.padding_norm
    # Each frequency is capped, as the norm is: joint is then no larger than spectral.
    joint = scale * float((share * np.minimum(gains, layer.young)).max())
    return {"joint": Bound(joint), "output": Bound(scale * furthest)}


def _does_not_commute(layer: Layer, extension: Extension) -> str:
    """Why blurring before the layer is not blurring after it; empty if it is."""
    if (layer.mode, extension) in (("zeros", "uncropped"), ("circular", "circular")):
        return ""
    if layer.mode in ("reflect", "replicate"):
        return f"no blur commutes with a layer that pads by {layer.mode}"
    return f"a blur with {extension} border does not commute with a layer that pads with {layer.mode}"


def _refusal(layer: Layer, kernel: Kernel, extension: Extension) -> str:
    """Why nothing at all is promised; empty if something is."""
    if not math.isfinite(layer.lipschitz):
        return "the activation has no Lipschitz constant"
    if extension != "uncropped":
        return ""
    if layer.mode != "zeros":
        return f"a layer that pads by {layer.mode} is another one on a larger map"
    return wider(kernel, layer)


def _frequencies(layer: Layer, kernel: Kernel, extension: Extension) -> tuple[int, int]:
    """A torus whose frequencies decide how far the blur can move a map: the layer's own where both commute.

    A symmetric extension is diagonal in cosines, whose frequencies are those of a torus of 2 n. Any other continued
    map of n + 2 radius points is convolved without wrapping around on a torus of as many, or of more.
    """
    if not _does_not_commute(layer, extension):
        return layer.torus
    if extension == "circular":
        return layer.height, layer.width
    (rows, columns), (height, width) = kernel.shape, (layer.height, layer.width)
    if extension == "symmetric" and kernel.is_even:
        return 2 * height, 2 * width
    return max(2 * height, height + rows - 1), max(2 * width, width + columns - 1)


def extension_norm(height: int, width: int, kernel: Kernel, extension: Extension) -> float:
    """How much continuing a map beyond its edge can amplify it: the root of how often one pixel is repeated.

    1 for a torus, for zeros, and for a symmetric border with a kernel that is even in each axis, whose blur is
    symmetric and doubly stochastic.
    """
    if extension == "uncropped" or extension in ("zero", "circular"):
        return 1.0
    if extension == "symmetric" and kernel.is_even:
        return 1.0
    most = 1
    for n, taps in zip((height, width), kernel.shape, strict=True):
        most *= int(np.bincount(sources(n, taps // 2, extension)).max())
    return math.sqrt(most)
