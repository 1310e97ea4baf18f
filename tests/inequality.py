"""Convolutions, blurs and images to try the inequality on, by numpy, scipy and torch's conv2d: nothing of blurtrain's.

Only the values that blurtrain's functions take, a `Layer` and a `Kernel`, are its own. Everything is in float64.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import scipy.signal
import torch
from torch.nn import functional as F

from blurtrain import kernels
from blurtrain.bounds import Extension
from blurtrain.convolution import Kernel, Planar, from_weights
from blurtrain.operators import Layer
from blurtrain.views import Blur

PADDINGS = {"zeros": "constant", "circular": "wrap", "reflect": "reflect", "replicate": "edge"}  # in numpy's words
EXTENSIONS: dict[Extension, str] = {
    "zero": "constant",
    "circular": "wrap",
    "symmetric": "symmetric",
    "reflect101": "reflect",
    "replicate": "edge",
}
COMMUTING: list[tuple[str, Extension]] = [("zeros", "uncropped"), ("circular", "circular")]
SIDES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)
UNKNOWNS = 200  # pixels of a map in all channels, up to which the worst image of all is found
ROUNDING = 1e-12  # of what a layer could make of an image: below lies what float64 makes of nothing


@dataclass(frozen=True)
class Activation:
    """A function of each value by itself.

    Args:
        function: Of a float64 tensor.
        lipschitz: Its constant, rounded up.
        steepest: Where its slope is that large, or beside it.
    """

    function: Callable[[torch.Tensor], torch.Tensor]
    lipschitz: float
    steepest: float


ACTIVATIONS = {
    "none": Activation(lambda x: x, 1, 0),
    "relu": Activation(F.relu, 1, 1),
    "relu6": Activation(F.relu6, 1, 3),
    "leaky relu": Activation(lambda x: F.leaky_relu(x, 0.2), 1, 1),
    "elu": Activation(F.elu, 1, 1),
    "tanh": Activation(torch.tanh, 1, 0),
    "sigmoid": Activation(torch.sigmoid, 1 / 4, 0),
    "hardsigmoid": Activation(F.hardsigmoid, 1 / 6, 0),
    "selu": Activation(F.selu, 1.758100, -1e-4),
    "silu": Activation(F.silu, 1.099840, 2.399357),
    "gelu": Activation(F.gelu, 1.128905, 2**0.5),
    "mish": Activation(F.mish, 1.088500, 1.490597),
    "hardswish": Activation(F.hardswish, 1.5, 3 - 1e-4),
}


@dataclass(frozen=True)
class Case:
    """A layer under a blur.

    Args:
        layer: With the constant of the activation.
        bias: One for each output channel.
        activation: A key of `ACTIVATIONS`.
        kernel: Of the blur.
        extension: Of the map beyond its edge.
    """

    layer: Layer
    bias: np.ndarray
    activation: str
    kernel: Kernel
    extension: Extension

    @property
    def commutes(self) -> bool:
        """Whether the blur may as well come after the layer."""
        return (self.layer.mode, self.extension) in COMMUTING


def canvas(images: np.ndarray, kernel: Kernel, extension: Extension) -> np.ndarray:
    """The images on the map where their blurred versions live."""
    if extension != "uncropped":
        return images
    rows, columns = kernel.shape
    return np.pad(images, [(0, 0)] * 2 + [(rows // 2,) * 2, (columns // 2,) * 2])


def blurred(images: np.ndarray, kernel: Kernel, extension: Extension) -> np.ndarray:
    """Each channel convolved by scipy, beyond the border that numpy pads."""
    weights = kernel.weights[None, None]
    if extension == "uncropped":
        return np.asarray(scipy.signal.convolve(images, weights, "full", "direct"))
    margins = [(n // 2, n // 2) for n in weights.shape]
    padded = np.pad(images, margins, mode=EXTENSIONS[extension])  # type: ignore[call-overload]
    return np.asarray(scipy.signal.convolve(padded, weights, "valid", "direct"))


def padded(layer: Layer, images: np.ndarray) -> np.ndarray:
    """The images with the layer's padding around them."""
    top, bottom, left, right = layer.padding
    margins = [(0, 0)] * 2 + [(top, bottom), (left, right)]
    return np.asarray(np.pad(images, margins, mode=PADDINGS[layer.mode]))  # type: ignore[call-overload]


def convolved(layer: Layer, images: np.ndarray) -> np.ndarray:
    """The layer's linear part, W x."""
    result = F.conv2d(
        torch.from_numpy(padded(layer, images)),
        torch.from_numpy(layer.weights),
        stride=layer.stride,
        dilation=layer.dilation,
        groups=layer.groups,
    )
    return np.asarray(result.numpy())


def whole(layer: Layer) -> Layer:
    """The same without stride, with all outputs that a circular or zero padding gives."""
    (down, across), circular = layer.reach, layer.mode == "circular"
    padding = (0, down, 0, across) if circular else (down, down, across, across)
    return replace(layer, stride=(1, 1), padding=padding)


def applied(case: Case, images: np.ndarray) -> np.ndarray:
    """F(x) = activation(W x + bias)."""
    linear = convolved(case.layer, images) + case.bias[:, None, None]
    return ACTIVATIONS[case.activation].function(torch.from_numpy(linear)).numpy()


def norms(images: np.ndarray) -> np.ndarray:
    """The Euclidean norm of each over all channels and pixels."""
    return np.asarray(np.sqrt((images**2).sum((1, 2, 3))))


def error(case: Case, images: np.ndarray) -> np.ndarray:
    """||F(x) - F(x_b)|| for each image x."""
    clean, blurry = (
        applied(case, version)
        for version in (canvas(images, case.kernel, case.extension), blurred(images, case.kernel, case.extension))
    )
    return norms(clean - blurry)


def sizes(case: Case, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the constants are multiplied by."""
    difference = canvas(images, case.kernel, case.extension) - blurred(images, case.kernel, case.extension)
    size = dict.fromkeys(("triangle", "young", "l1", "spectral", "joint"), norms(images))
    size["lipschitz"] = norms(difference)
    if case.layer.mode in ("zeros", "circular"):
        size["output"] = norms(convolved(whole(case.layer), images))
    return size


def ratios(case: Case, images: np.ndarray, constants: dict[str, float]) -> dict[str, np.ndarray]:
    """How much of each bound the error is, for each image; rounding of float64 is no error."""
    found, size = error(case, images), sizes(case, images)
    nothing = ROUNDING * case.layer.lipschitz * np.abs(case.layer.weights).sum() * norms(images) + 1e-300
    return {name: found / (constant * size[name] + nothing) for name, constant in constants.items()}


# Matrices


def dense(function: Callable[[np.ndarray], np.ndarray], *shape: int) -> np.ndarray:
    """The matrix of a linear map of images of one shape."""
    count = int(np.prod(shape))
    return function(np.eye(count).reshape(count, *shape)).reshape(count, -1).T


def matrix_norm(matrix: np.ndarray) -> float:
    """The largest singular value."""
    return float(np.linalg.svd(matrix, compute_uv=False).max(initial=0))


def layer_matrix(layer: Layer) -> np.ndarray:
    """Of its linear part, padding and stride included."""
    channels = layer.groups * layer.weights.shape[1]
    return dense(partial(convolved, layer), channels, layer.height, layer.width)


def moved_matrix(height: int, width: int, kernel: Kernel, extension: Extension) -> np.ndarray:
    """Of x - x_b, for one channel."""
    return dense(
        lambda images: canvas(images, kernel, extension) - blurred(images, kernel, extension), 1, height, width
    )


def error_matrix(case: Case) -> np.ndarray:
    """Of W (x - x_b); its norm is the largest error that any image of norm 1 can have without an activation."""
    layer, channels = case.layer, case.layer.groups * case.layer.weights.shape[1]
    planes = moved_matrix(layer.height, layer.width, case.kernel, case.extension).T
    rows, columns = canvas(np.zeros((1, 1, layer.height, layer.width)), case.kernel, case.extension).shape[2:]
    moved = np.zeros((channels, len(planes), channels, rows, columns))
    for channel in range(channels):
        moved[channel, :, channel] = planes.reshape(-1, rows, columns)
    return convolved(layer, moved.reshape(-1, channels, rows, columns)).reshape(channels * len(planes), -1).T


def symbols(layer: Layer, height: int, width: int) -> np.ndarray:
    """The [out, in] matrix at every frequency of a torus, by a transform of the weights with zeros stuffed in."""
    outputs, inner, rows, columns = layer.weights.shape
    places = [step * np.arange(taps) for step, taps in zip(layer.dilation, (rows, columns), strict=True)]
    stuffed = np.zeros((outputs, layer.groups * inner, height, width))
    for output in range(outputs):
        first = output // (outputs // layer.groups) * inner
        for channel in range(inner):
            plane = stuffed[output, first + channel]
            np.add.at(plane, (places[0][:, None] % height, places[1] % width), layer.weights[output, channel])
    return np.fft.fft2(stuffed).transpose(2, 3, 0, 1)


# Drawn cases


def drawn_layer(rng: np.random.Generator) -> Layer:
    """A convolution that has an output, of any kind that torch knows."""
    while True:
        groups = int(rng.choice([1, 1, 1, 2, 3]))
        inner, outer = (int(rng.integers(1, 4)) for _ in range(2))
        height, width = (int(rng.choice(SIDES)) for _ in range(2))
        mode = str(rng.choice(["zeros", "zeros", "circular", "circular", "reflect", "replicate"]))
        most = {"zeros": (6, 6), "replicate": (6, 6), "circular": (height, width), "reflect": (height - 1, width - 1)}
        down, across = most[mode]
        top, bottom, left, right = (int(rng.integers(0, n + 1)) for n in (down, down, across, across))
        layer = Layer(
            drawn_weights(rng, (groups * outer, inner, int(rng.integers(1, 5)), int(rng.integers(1, 5)))),
            height,
            width,
            (int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2, 3]))),
            (int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2, 3]))),
            groups,
            (top, bottom, left, right),
            mode,  # type: ignore[arg-type]
        )
        unknowns = groups * inner * height * width
        if unknowns <= UNKNOWNS and all(n > reach for n, reach in zip(layer.padded, layer.reach, strict=True)):
            return layer


def drawn_weights(rng: np.random.Generator, shape: tuple[int, int, int, int]) -> np.ndarray:
    """Noise, means, edges, or nearly nothing; of any scale."""
    noise = rng.standard_normal(shape)
    signs = (-1.0) ** np.add(*np.indices(shape[2:]))
    kinds = [noise, np.abs(noise), signs * np.abs(noise), np.ones(shape), noise * (rng.random(shape) < 0.3)]
    kinds.append(noise[:, :1, :1, :1] * noise[:1] + 0.0)  # all outputs alike
    weights = kinds[rng.integers(len(kinds))] * 10 ** rng.uniform(-3, 3)
    return np.asarray(weights)


def drawn_kernel(rng: np.random.Generator) -> Kernel:
    """Of every family, lopsided ones, shifts, one pixel, and some of them mixed with no blur."""
    angle = float(rng.choice([0.0, 45.0, 90.0, 135.0, rng.uniform(0, 180)]))
    odd = rng.integers(0, 4, 2) * 2 + 1
    views = [
        Blur("gaussian", float(rng.uniform(0.3, 2.5))),
        Blur("box", float(rng.choice([3, 5, 7]))),
        Blur("defocus", float(rng.integers(2, 15)) / 4),
        Blur("motion", float(rng.uniform(1.0, 7.0)), angle),
        Blur("half-gaussian", float(rng.uniform(0.3, 1.5)), angle),
    ]
    made = [kernels.kernel(view) for view in views]
    made.append(Planar(rng.dirichlet(np.full(odd.prod(), 0.3)).reshape(odd)))
    made.append(shift(int(odd[0] // 2), int(odd[1] // 2)))
    chosen = made[rng.integers(len(made))]
    return dial(chosen, float(rng.random())) if rng.random() < 0.2 else chosen


def shift(down: int, right: int) -> Kernel:
    """What moves an image by whole pixels."""
    weights = np.zeros((2 * abs(down) + 1, 2 * abs(right) + 1))
    weights[abs(down) + down, abs(right) + right] = 1
    return from_weights(weights)


def dial(kernel: Kernel, share: float) -> Kernel:
    """k_z = (1 - z) delta + z k."""
    weights = share * kernel.weights
    rows, columns = weights.shape
    weights[rows // 2, columns // 2] += 1 - share
    return Planar(weights)


def drawn_case(rng: np.random.Generator) -> Case:
    """A layer, a blur, a bias and an activation; in every third case both commute."""
    layer, name = drawn_layer(rng), str(rng.choice(list(ACTIVATIONS)))
    layer = replace(layer, lipschitz=float(ACTIVATIONS[name].lipschitz))
    scale = np.abs(layer.weights).max()
    bias = rng.choice([0.0, 1.0]) * scale * rng.standard_normal(len(layer.weights))
    if rng.random() < 0.5:  # where even a small image meets the constant
        bias = np.full(len(layer.weights), float(ACTIVATIONS[name].steepest))
    extension: Extension = list(EXTENSIONS)[rng.integers(len(EXTENSIONS))]
    if rng.random() < 0.4:
        extension = dict(COMMUTING).get(layer.mode, extension)
    kernel = drawn_kernel(rng)
    while extension == "uncropped" and (kernel.shape[0] > layer.height or kernel.shape[1] > layer.width):
        kernel = drawn_kernel(rng)
    return Case(layer, bias, name, kernel, extension)


def drawn_images(rng: np.random.Generator, case: Case) -> dict[str, np.ndarray]:
    """One of every kind, [channel, height, width]."""
    layer, channels = case.layer, case.layer.groups * case.layer.weights.shape[1]
    shape = (channels, layer.height, layer.width)
    rows, columns = np.indices(shape[1:])
    pixel, corner = np.zeros(shape), np.zeros(shape)
    pixel[:, rng.integers(shape[1]), rng.integers(shape[2])] = rng.standard_normal(channels)
    corner[..., -1, 0] = 1
    images = {
        "noise": rng.standard_normal(shape),
        "bright noise": rng.random(shape),
        "photograph": photograph(rng, shape),
        "constant": np.ones(shape) * rng.random((channels, 1, 1)),
        "checkerboard": (-1.0) ** (rows + columns) * rng.standard_normal((channels, 1, 1)),
        "pixel": pixel,
        "corner": corner,
        "frequency": frequency(case),
        "worst": np.linalg.svd(error_matrix(case))[2][0].reshape(shape),
    }
    return {kind: image * 10 ** rng.uniform(-3, 2) for kind, image in images.items()}


def photograph(rng: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """Amplitudes that fall as 1 / frequency, values from 0 to 1, one edge."""
    spectrum = np.fft.fft2(rng.standard_normal(shape))
    distance = np.hypot(np.fft.fftfreq(shape[1])[:, None], np.fft.fftfreq(shape[2]))
    smooth = np.fft.ifft2(spectrum / (distance + 0.05)).real
    smooth[..., : shape[2] // 2] += smooth.std()
    low, high = smooth.min(), smooth.max()
    return np.asarray((smooth - low) / (high - low) if high > low else np.ones(shape))


def frequency(case: Case) -> np.ndarray:
    """A wave where (delta - k) W is largest, in the channels' worst mixture, on a torus of about the layer's."""
    layer = case.layer
    height, width = layer.height, layer.width
    if layer.mode != "circular":
        height, width = 2 * height + layer.reach[0], 2 * width + layer.reach[1]
    there = symbols(layer, height, width)
    wrapped, (middle, centre) = np.zeros((height, width)), (n // 2 for n in case.kernel.shape)
    down, across = (np.arange(n) for n in case.kernel.shape)
    np.add.at(wrapped, ((down[:, None] - middle) % height, (across - centre) % width), case.kernel.weights)
    share = np.abs(1 - np.fft.fft2(wrapped)) * np.linalg.norm(there, axis=(2, 3))
    u, v = np.unravel_index(share.argmax(), share.shape)
    mixture = np.linalg.svd(there[u, v].conj())[2][0].conj()
    rows, columns = np.indices((layer.height, layer.width))
    wave = np.exp(2j * np.pi * (u * rows / height + v * columns / width))
    return np.asarray((mixture[:, None, None] * wave).real)


def drawn(seed: int, count: int) -> Iterator[tuple[Case, dict[str, np.ndarray]]]:
    """So many cases, each with one image of every kind."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        case = drawn_case(rng)
        yield case, drawn_images(rng, case)
