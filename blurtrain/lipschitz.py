"""The Lipschitz constant of every operation that a network may do, or the reason why none is known.

All constants are in the Euclidean norm and hold for any two inputs, not near one image alone; those that are no
fractions are rounded up.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from blurtrain.graph import STALE, Node, Traced

ROUNDING = 1 + 1e-9  # of a norm in float64: more than its last digits

UNKNOWN = "other"  # kind of an operation without a rule
GATE = "it multiplies two of the network's own maps"

Constant = float | str  # or the reason why there is none


# Constants of activations: the largest slope


def _elu(node: Node) -> Constant:
    """exp(s x) has slope s at most below zero, and the rest is scaled."""
    alpha, scale, inner = (node.arguments[name] for name in ("alpha", "scale", "input_scale"))
    return float(max(abs(scale), abs(alpha * scale * inner))) if inner >= 0 else "its slope has no limit"


def _softplus(node: Node) -> Constant:
    """The sigmoid; above the threshold torch goes on with x, a step of less than 3e-9 at torch's own 20."""
    return 1.0 if node.arguments["threshold"] >= 20 else "it jumps at its threshold"


def _rrelu(node: Node) -> Constant:
    lower, upper = node.arguments["lower"], node.arguments["upper"]
    return "it is random" if node.arguments["training"] else max(1.0, abs(lower + upper) / 2)


ACTIVATIONS: Mapping[str, Callable[[Node], Constant]] = {
    **dict.fromkeys(
        ("relu", "hardtanh", "clamp", "clamp_min", "clamp_max", "tanh", "abs", "log_sigmoid"), lambda _: 1.0
    ),
    **dict.fromkeys(("sin", "cos", "atan", "softshrink"), lambda _: 1.0),
    "leaky_relu": lambda node: max(1.0, abs(node.arguments["negative_slope"])),
    "prelu": lambda node: max(1.0, _largest(node.arguments["weight"])),
    "rrelu_with_noise": _rrelu,
    "elu": _elu,  # SELU too: 1.7581
    "celu": lambda node: 1.0 if node.arguments["alpha"] > 0 else "its slope has no limit",
    "sigmoid": lambda _: 0.25,
    "hardsigmoid": lambda _: 0.16667,
    "hardswish": lambda _: 1.5,  # at 3, from below
    "silu": lambda _: 1.09984,  # at 2.3994
    "gelu": lambda _: 1.12905,  # at the square root of 2; with tanh in place of erf at 1.4178
    "mish": lambda _: 1.08850,  # at 1.4904
    "softplus": _softplus,
}


# Constants of linear maps: their norms


def _largest(tensor: Tensor) -> float:
    return float(tensor.detach().double().abs().max())


def norm_of(matrix: Tensor) -> float:
    """The largest singular value, as the root of the smaller Gram matrix's largest eigenvalue.

    Not a number where an entry is none.
    """
    matrix = matrix.detach().double()
    if not matrix.isfinite().all():
        return math.nan
    gram = matrix @ matrix.T if len(matrix) < matrix.shape[1] else matrix.T @ matrix
    return math.sqrt(max(float(torch.linalg.eigvalsh(gram)[-1]), 0.0)) * ROUNDING


def matrix_of(node: Node) -> Tensor | None:
    """The weights of a linear layer, scaled as it scales them; None for anything else."""
    if node.op not in RULES["linear"] or len(node.inputs) != 1:
        return None
    matrix = node.arguments["weight" if node.op == "linear" else "mat2"]
    return matrix * abs(node.arguments.get("alpha", 1)) if isinstance(matrix, Tensor) else None


def _linear(node: Node) -> Constant:
    """X V + b, whose constant is ||V||."""
    matrix = matrix_of(node)
    return "it multiplies two of the network's own maps" if matrix is None else norm_of(matrix)


def scale_of(norm: Node) -> Float[Tensor, " channels"]:
    """What a batch norm in eval mode multiplies each channel by, in float64."""
    variance, weight = norm.arguments["running_var"], norm.arguments["weight"]
    scale: Tensor = (variance.detach().double() + norm.arguments["eps"]).rsqrt()
    return scale if weight is None else scale * weight.detach().double()


def _batch_norm(node: Node) -> Constant:
    return _largest(scale_of(node)) if is_fixed(node) else "it normalises by the statistics of each image"


def is_fixed(norm: Node) -> bool:
    """Whether a batch norm has statistics of its own."""
    return norm.arguments["running_var"] is not None and not norm.arguments.get("training", False)


def _group_norm(node: Node) -> Constant:
    """The Jacobian of z = (x - mean) / s, s^2 = variance + eps, is (P - z z^T / n) / s.

    P takes the mean away, z lies in its range, and |z|^2 < n, so the bracket's eigenvalues are in [0, 1], and
    s is at least the root of eps. Layer norm is the same over other elements.
    """
    weight = node.arguments["weight"]
    return (1.0 if weight is None else _largest(weight)) / math.sqrt(node.arguments["eps"])


def _multiple(node: Node) -> Constant:
    """The largest factor, and what is repeated over the factor's axes grows."""
    factors = [node.arguments[name] for name in ("self", "other") if not isinstance(node.arguments[name], Traced)]
    if not factors:
        return GATE
    return _largest(torch.as_tensor(factors[0])) * _repeated(node)


def _quotient(node: Node) -> Constant:
    """One over the smallest divisor."""
    divisor = node.arguments["other"]
    if isinstance(divisor, Traced):
        return "it divides by one of the network's own maps"
    if node.arguments.get("rounding_mode") is not None:
        return "it rounds"
    smallest = float(torch.as_tensor(divisor).detach().double().abs().min())
    return _repeated(node) / smallest if smallest > 0 else "it divides by zero"


def _sum(node: Node) -> Constant:
    """In each term alone."""
    return max(1.0, abs(float(node.arguments.get("alpha", 1)))) * _repeated(node)


def _repeated(node: Node) -> float:
    """The root of how often each element of the input that is repeated most comes up in the output."""
    return math.sqrt(max(math.prod(node.shape) / math.prod(shape) for shape in node.input_shapes))


# Constants of windows and of what only moves elements


def _windows(node: Node, axis: int) -> list[np.ndarray]:
    """The pixels in each window of a pooling along an axis, -2 or -1."""
    pixels, outputs = node.input_shapes[0][axis], node.shape[axis]
    if node.op.startswith("adaptive"):
        return [np.arange(i * pixels // outputs, -(-(i + 1) * pixels // outputs)) for i in range(outputs)]
    size, stride, padding, dilation = (_along(node, name, axis) for name in WINDOW)
    windows = (np.arange(size) * dilation + i * stride - padding for i in range(outputs))
    return [window[(window >= 0) & (window < pixels)] for window in windows]


def _along(node: Node, name: str, axis: int) -> int:
    """A setting of a pooling along an axis; its stride is its size where none is given."""
    value = node.arguments.get(name, 1)
    if name == "stride" and not value:
        return _along(node, "kernel_size", axis)
    return int(value[max(axis, -len(value))]) if isinstance(value, Sequence) else int(value)


def _max_pool(node: Node) -> Constant:
    """|max a - max b| <= |a - b| in each window, and a pixel counts in every window that it is in."""
    return math.sqrt(math.prod(_multiplicity(np.concatenate(_windows(node, axis))) for axis in (-2, -1)))


def _multiplicity(pixels: np.ndarray) -> int:
    """How often the most frequent pixel occurs."""
    return int(np.bincount(pixels).max())


def _average_pool(node: Node) -> Constant:
    """The norm of its matrix, which is the Kronecker product of one matrix along each axis."""
    norm = math.prod(float(np.linalg.norm(_average_matrix(node, axis), 2)) for axis in (-2, -1)) * ROUNDING
    return norm / abs(float(node.arguments.get("divisor_override") or 1))


def _average_matrix(node: Node, axis: int) -> Float64[np.ndarray, "outputs pixels"]:
    """A row a window, divided by its pixels; by its padding, too, but for what a rounded-up size adds beyond it."""
    matrix = np.zeros((node.shape[axis], node.input_shapes[0][axis]))
    for place, window in enumerate(_windows(node, axis)):
        matrix[place, window] = 1.0
        if node.arguments.get("divisor_override") is None:
            matrix[place] /= _divisor(node, axis, place, len(window))
    return matrix


def _divisor(node: Node, axis: int, place: int, inside: int) -> int:
    if not node.arguments.get("count_include_pad", False):
        return inside
    size, stride, padding = (_along(node, name, axis) for name in WINDOW[:3])
    start = place * stride - padding
    return min(start + size, node.input_shapes[0][axis] + padding) - start


def _mean(node: Node) -> Constant:
    """The root of the share of what is left."""
    return math.sqrt(math.prod(node.shape) / math.prod(node.input_shapes[0]))


def _reflected(node: Node) -> Constant:
    """The root of how often the most frequent pixel is repeated, along each axis."""
    mode: Literal["reflect", "edge"] = "reflect" if node.op.startswith("reflection") else "edge"
    padding, most = node.arguments["padding"], 1
    for place in range(len(padding) // 2):  # the last axis first
        pixels = np.arange(node.input_shapes[0][-1 - place])
        most *= _multiplicity(np.pad(pixels, tuple(padding[2 * place : 2 * place + 2]), mode=mode))
    return math.sqrt(most)


def _moved(node: Node) -> Constant:
    """Every element goes to one place at most."""
    kind = node.arguments.get("dtype")
    if kind is None or (node.op == "_to_copy" and kind in (torch.float32, torch.float64)):
        return 1.0
    return "it changes what its numbers are made of"


def _strided(node: Node) -> Constant:
    """Another view of the same memory, which has each element once if its strides leave neither gaps nor overlaps."""
    expected = 1
    for stride, size in sorted(zip(node.arguments["stride"], node.arguments["size"], strict=True)):
        if size > 1 and stride != expected:
            return "it shows memory in another way"
        expected *= size
    return 1.0 if expected == math.prod(node.input_shapes[0]) else "it shows memory in another way"


WINDOW = ("kernel_size", "stride", "padding", "dilation")
MOVES = (
    *("view", "reshape", "permute", "transpose", "t", "flatten", "unflatten", "squeeze", "unsqueeze", "flip", "roll"),
    *("slice", "select", "narrow", "split", "split_with_sizes", "chunk", "unbind", "diagonal", "_to_copy"),
    *("clone", "detach", "alias", "contiguous", "lift_fresh", "channel_shuffle", "native_channel_shuffle"),
    *("pixel_shuffle", "pixel_unshuffle", "constant_pad_nd", "neg"),
)
SUMS = ("add", "sub", "rsub")
JOINS = ("cat", "stack")
# By kind, as a table shows it: the operations, and the constant of each.
RULES: Mapping[str, Mapping[str, Callable[[Node], Constant]]] = {
    "activation": ACTIVATIONS,
    "normalisation": {"batch_norm": _batch_norm, **dict.fromkeys(("layer_norm", "group_norm"), _group_norm)},
    "linear": dict.fromkeys(("addmm", "mm", "linear"), _linear),
    "scaling": {"mul": _multiple, "div": _quotient},
    "sum": dict.fromkeys(SUMS, _sum),
    "concatenation": dict.fromkeys(JOINS, lambda _: 1.0),
    "pooling": {
        **dict.fromkeys(("max_pool2d", "adaptive_max_pool2d"), _max_pool),
        **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d"), _average_pool),
        "mean": _mean,
        "sum": lambda node: math.sqrt(math.prod(node.input_shapes[0]) / math.prod(node.shape)),
        **dict.fromkeys(("amax", "amin"), lambda _: 1.0),
    },
    "repetition": {
        **dict.fromkeys(("expand", "repeat"), _repeated),
        **dict.fromkeys(("reflection_pad1d", "reflection_pad2d"), _reflected),
        **dict.fromkeys(("replication_pad1d", "replication_pad2d"), _reflected),
    },
    "rearrangement": {**dict.fromkeys(MOVES, _moved), "as_strided": _strided},
}
_RULES = {op: (kind, rule) for kind, rules in RULES.items() for op, rule in rules.items()}


def constant_of(node: Node) -> Constant:
    """The Lipschitz constant of an operation in each of its inputs, or why there is none; not of convolutions."""
    if node.op == STALE:
        return "its memory is written to through a view"
    if "conv" in node.op:
        return no_convolution(node)
    if node.op not in _RULES:
        return f"no Lipschitz constant of {node.op} is known"
    kind, rule = _RULES[node.op]
    if node.op not in (*SUMS, *JOINS, "mul", "div"):
        first = "mat1" if node.op == "addmm" else next(iter(node.arguments))
        if len(node.inputs) != 1 or not isinstance(node.arguments[first], Traced):
            return GATE if kind == "linear" else "it takes several of the network's own maps"
    if kind == "activation" and node.shape != node.input_shapes[0]:
        return "it repeats its input"
    constant = rule(node)
    return constant if isinstance(constant, str) else float(constant)


def kind_of(node: Node) -> str:
    """What kind of operation it is, as a table shows it."""
    if "conv" in node.op:
        return "convolution"
    return _RULES[node.op][0] if node.op in _RULES else UNKNOWN


def no_convolution(node: Node) -> str:
    """Why a convolution that is not a call of an `nn.Conv2d` has no bound."""
    if node.arguments.get("transposed"):
        return "it is a transposed convolution"
    axes = len(node.arguments.get("stride", ()))
    if axes in (1, 3):
        return f"it is a convolution over {'one axis' if axes == 1 else 'three axes'}"
    return "it is a convolution with weights that are no nn.Conv2d's own"
