"""Run clean and blurred images through a network together, and measure every convolution on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from jaxtyping import Float32, Float64, UInt8
from torch import Tensor, nn

from blurtrain.blur import blur_pixels
from blurtrain.bounds import Bound
from blurtrain.commuting import NOTHING, PARTS, Bounded, Convolved, norms
from blurtrain.decision import ratio
from blurtrain.errors import BackboneError
from blurtrain.graph import Trace
from blurtrain.kernels import kernel
from blurtrain.stages import Convolution
from blurtrain.tracing import watch
from blurtrain.views import CLEAN, Blur

PASSES = 36  # of the network at once: every image clean and through every blur twice
WEAK = 0.5  # a kernel nearer to no blur, in ||delta - k||_1, is measured in double precision
SHARED = 16  # images of which the change after pooling is taken apart: it costs half as much as all the rest


def at_once(views: Sequence[Blur]) -> int:
    """Images that are taken together: memory does not grow with the number of blurs."""
    return max(1, PASSES // (1 + 2 * len(views)))


Pixels = UInt8[np.ndarray, "images 3 height width"]


def circular(view: Blur) -> Blur:
    """The same blur on a torus."""
    return replace(view, border="circular")


@dataclass(frozen=True)
class Measured:
    """What was measured, for each image. What does not apply is not a number.

    Args:
        errors: Relative error of every convolution's output when the image is blurred, for its own border and for the
            circular one.
        outputs: Norm of the clean output.
        images: ||x - x_b|| of the images in [0, 1], with their own border.
        local: Relative error of every convolution's output when its own clean input is blurred.
        ratios: That error over each bound, by their names.
        parts: What padding, stride and nonlinearity add to the change after pooling, summed over the images.
        features: Of the network, clean, then blurred with their own border, then on a torus.
    """

    errors: Float64[np.ndarray, "layers blurs borders images"]
    outputs: Float64[np.ndarray, "layers images"]
    images: Float64[np.ndarray, "blurs images"]
    local: Float64[np.ndarray, "layers blurs images"]
    ratios: dict[str, Float64[np.ndarray, "layers blurs images"]]
    parts: Float64[np.ndarray, "layers blurs parts"]
    features: Float32[np.ndarray, "views images features"]

    @property
    def feature_errors(self) -> Float64[np.ndarray, "blurs borders images"]:
        """Relative error of the features."""
        clean, others = self.features[0].astype(np.float64), self.features[1:].astype(np.float64)
        change = np.linalg.norm(others - clean, axis=2)
        errors = ratio(change, np.linalg.norm(clean, axis=1))
        return np.asarray(errors.reshape(2, -1, len(clean)).transpose(1, 0, 2))


class Meter:
    """Measures a network's convolutions, one chunk of images after another.

    Args:
        trace: Of the network.
        convolutions: In it.
        bounded: Those of which something can be stated, by their place.
        promised: Their bounds, by place and blur.
        views: The blurs.
        count: Images that will come.
    """

    def __init__(
        self,
        trace: Trace,
        convolutions: Sequence[Convolution],
        bounded: Mapping[int, Bounded],
        promised: Mapping[tuple[int, Blur], Mapping[str, Bound]],
        views: Sequence[Blur],
        count: int,
    ) -> None:
        self._trace, self._convolutions = trace, convolutions
        self._bounded, self._promised, self._views = bounded, promised, views
        shape = len(convolutions), len(views), count
        names = dict.fromkeys(name for bounds in promised.values() for name in bounds)
        self._errors = np.full((*shape[:2], 2, count), np.nan)
        self._outputs = np.full((len(convolutions), count), np.nan)
        self._images = np.full(shape[1:], np.nan)
        self._changes = np.full(shape, np.nan)
        self._ratios = {name: np.full(shape, np.nan) for name in names}
        self._parts = np.zeros((*shape[:2], len(PARTS), count))
        self._features: dict[int, np.ndarray] = {}

    def take(self, network: nn.Module, pixels: Pixels, first: int) -> None:
        """Measure some images; different ones may be measured side by side.

        Args:
            network: That was traced, in channels-last layout, or a copy of it: one for each thread.
            pixels: Of the images.
            first: The place of the first among all.
        """
        place = slice(first, first + len(pixels))
        views = [CLEAN, *self._views, *map(circular, self._views)]
        images = torch.from_numpy(np.concatenate([blur_pixels(pixels, view) for view in views]))
        images = images.contiguous(memory_format=torch.channels_last)
        stacked = images.view(len(views), len(pixels), *images.shape[1:])
        self._images[:, place] = _distances(stacked)[: len(self._views)]
        local = {self._convolutions[depth].node: partial(self._locally, depth, place) for depth in self._bounded}
        propagated = {one.last: partial(self._propagated, depth, place) for depth, one in enumerate(self._convolutions)}
        with torch.no_grad():  # not inference mode, in which other operations run than were traced
            output = watch(network, images, self._trace, local, propagated)
        self._features[first] = output.flatten(1).view(len(views), len(pixels), -1).numpy()

    def measured(self) -> Measured:
        """All of it."""
        local = ratio(self._changes, self._outputs[:, None])
        features = np.concatenate([self._features[first] for first in sorted(self._features)], axis=1)
        return Measured(self._errors, self._outputs, self._images, local, self._ratios, self._parts.sum(3), features)

    def _propagated(self, depth: int, place: slice, output: Tensor) -> None:
        count = place.stop - place.start
        stacked = output.view(-1, count, *output.shape[1:])
        sizes = norms(stacked[0])
        distances = _distances(stacked)
        if not (np.isfinite(sizes).all() and np.isfinite(distances).all()):
            raise BackboneError(f"{self._convolutions[depth].name} gives values that are not finite numbers")
        errors = ratio(distances, sizes)
        self._outputs[depth, place] = sizes
        self._errors[depth, ..., place] = errors.reshape(2, -1, count).transpose(1, 0, 2)

    def _locally(self, depth: int, place: slice, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        maps, bounded = inputs[0][: place.stop - place.start], self._bounded[depth]
        known: dict[torch.dtype, Convolved] = {}
        for blur, view in enumerate(self._views):
            made = kernel(view)
            if made.distance < NOTHING:
                continue
            dtype = torch.float64 if made.distance < WEAK else maps.dtype
            if dtype not in known:
                known[dtype] = Convolved(bounded, maps.to(dtype))
            if not bounded.refusal(made):
                found = known[dtype].blurred(made)
                self._changes[depth, blur, place] = found.change
                for name, part in found.ratios(self._promised[depth, view]).items():
                    self._ratios[name][depth, blur, place] = part
            if place.start < SHARED:
                parts = known[dtype].parts(made)
                self._parts[depth, blur, :, place] = [parts[part] for part in PARTS]


def _distances(stacked: Tensor) -> Float64[np.ndarray, "others images"]:
    """From the first of a stack to each of the others."""
    return np.array([norms(other - stacked[0]) for other in stacked[1:]])
