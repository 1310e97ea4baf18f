"""The stages of a network, what their Lipschitz constants come to from its input on, and its convolutions."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from torch import Tensor, nn

from blurtrain.errors import BackboneError
from blurtrain.graph import CONV2D, INPUT, Node, Trace
from blurtrain.lipschitz import JOINS, UNKNOWN, Constant, constant_of, is_fixed, kind_of, no_convolution, scale_of
from blurtrain.tracing import paths


@dataclass(frozen=True)
class Stage:
    """One operation of a network.

    Args:
        node: That does it.
        name: Its module, with the operation if that has parts, and which use of it.
        kind: Of operation.
        constant: The Lipschitz constant in each of its inputs; None where none is known.
        no_bound: Why there is none.
        cumulative: The Lipschitz constant of all from the network's input to its output: it multiplies along a path,
            adds where paths add, and is the root of the sum of squares where they are joined side by side.
        no_cumulative: Why there is none: the first stage without a constant.
    """

    node: Node
    name: str
    kind: str
    constant: float | None
    no_bound: str
    cumulative: float | None
    no_cumulative: str


def stages(trace: Trace, network: nn.Module, norms: Mapping[int, float]) -> list[Stage]:
    """Every stage of a network in the order in which they ran.

    Args:
        trace: Of the network.
        network: In eval mode.
        norms: By node of a convolution: no less than its norm, with the batch norm that `convolutions` folds into it.
            That batch norm then counts there, and has constant 1 itself. Those of linear layers may be given, too.

    Raises:
        BackboneError: If an operation has weights that are not finite numbers.
    """
    modules = _modules(network)
    folded = {norm.index for node, norm in _norms(trace) if node.index in norms}
    found: list[Stage] = []
    totals: dict[int, Constant] = {INPUT: 1.0}
    for node in trace.nodes:
        name = name_of(node, modules)
        constant: Constant = 1.0
        if node.index not in folded:  # the norm of a large linear layer takes seconds, so only if none is given
            constant = norms[node.index] if node.index in norms else _constant(trace, node, modules)
        if isinstance(constant, float) and not math.isfinite(constant):
            raise BackboneError(f"{name} has weights that are not finite numbers: give others")
        totals[node.index] = _total(node, name, constant, totals)
        found.append(Stage(node, name, kind_of(node), *_split(constant), *_split(totals[node.index])))
    return found


def _constant(trace: Trace, node: Node, modules: Mapping[str, nn.Module]) -> Constant:
    if node.op == CONV2D:
        return "its norm is not given"
    for source, pick in zip(node.inputs, node.picks, strict=True):
        if pick and kind_of(trace.nodes[source]) != "rearrangement":  # the places of maxima, for instance
            return f"it takes another output of {name_of(trace.nodes[source], modules)} than the first"
    return constant_of(node)


def _total(node: Node, name: str, constant: Constant, totals: Mapping[int, Constant]) -> Constant:
    """The constant from the network's input to a node's output."""
    before: list[float] = []
    for total in (totals[source] for source in node.inputs):
        if isinstance(total, str):
            return total
        before.append(total)
    if isinstance(constant, str):
        return f"{name}: {constant}"
    return constant * (math.hypot(*before) if node.op in JOINS else sum(before))


def _split(constant: Constant) -> tuple[float | None, str]:
    return (None, constant) if isinstance(constant, str) else (constant, "")


# The convolutions


@dataclass(frozen=True)
class Activation:
    """What follows a convolution, element by element.

    Args:
        node: That computes it.
        lipschitz: Its constant.
    """

    node: Node
    lipschitz: float

    def __call__(self, values: Tensor) -> Tensor:
        """Do it on other values, which it may overwrite where the network does."""
        return self.node.run(values)


@dataclass(frozen=True, eq=False)
class Convolution:
    """A convolution with the batch norm and the activation that follow it and see nothing else.

    Args:
        node: Of the convolution.
        name: The user's; a second use of the same module is numbered.
        last: The node that gives its stage's output.
        size: Height and width of its input, px.
        no_bound: Why nothing can be stated of it; empty if something can. The rest is then not to be used.
        module: That computes it.
        norm: The node of its batch norm, to be folded into its weights.
        activation: None for the identity.
        padding: Pixels at the top, bottom, left and right.
    """

    node: int
    name: str
    last: int
    size: tuple[int, ...]
    no_bound: str = ""
    module: nn.Conv2d | None = None
    norm: Node | None = None
    activation: Activation | None = None
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def lipschitz(self) -> float:
        """The constant of its activation."""
        return 1.0 if self.activation is None else self.activation.lipschitz

    def folded(self) -> tuple[Float64[np.ndarray, "out in rows columns"], Float64[np.ndarray, " out"]]:
        """Its weights and bias with the batch norm in them: W g / s and (b - mean) g / s + beta.

        Raises:
            BackboneError: If one of them is not a finite number.
        """
        assert self.module is not None
        weights, bias = self.module.weight.detach().double(), self.module.bias
        bias = weights.new_zeros(len(weights)) if bias is None else bias.detach().double()
        if self.norm is not None:
            scale, shift = scale_of(self.norm), self.norm.arguments["bias"]
            weights = weights * scale.view(-1, 1, 1, 1)
            bias = (bias - self.norm.arguments["running_mean"].detach().double()) * scale
            bias = bias if shift is None else bias + shift.detach().double()
        if not (weights.isfinite().all() and bias.isfinite().all()):
            raise BackboneError(f"{self.name} has weights that are not finite numbers: give others")
        return weights.cpu().numpy(), bias.cpu().numpy()


def convolutions(trace: Trace, network: nn.Module) -> list[Convolution]:
    """All convolutions that ran, in their order.

    Args:
        trace: Of the network.
        network: In eval mode.

    Raises:
        BackboneError: If there is none, or one has weights that are not finite numbers.
    """
    modules = _modules(network)
    found = [_convolution(trace, node, modules) for node in trace.nodes if "conv" in node.op]
    if not found:
        raise BackboneError("the network has no convolution, so there is nothing to state")
    for convolution in found:
        if convolution.module is not None:
            convolution.folded()
    return found


def _convolution(trace: Trace, node: Node, modules: Mapping[str, nn.Module]) -> Convolution:
    name, size = name_of(node, modules), node.input_shapes[0][-2:]
    module = modules[node.path]
    if node.op != CONV2D or not isinstance(module, nn.Conv2d):
        return Convolution(node.index, name, node.index, size, no_convolution(node))
    norm = _norm(trace, node)
    last = norm or node
    follower = _follower(trace, last)
    activation, no_bound = None, ""
    if follower is not None and len(follower.inputs) == 1:
        constant = constant_of(follower)
        kind = kind_of(follower)
        if kind == "activation" and isinstance(constant, float):
            activation, last = Activation(follower, constant), follower
        elif kind == "activation" or (kind == UNKNOWN and follower.is_pointwise):
            no_bound = f"the activation {follower.op} has no known Lipschitz constant"
    return Convolution(node.index, name, last.index, size, no_bound, module, norm, activation, padding_of(module))


def _modules(network: nn.Module) -> dict[str, nn.Module]:
    return {path: module for module, path in paths(network).items()}


def _norms(trace: Trace) -> Iterator[tuple[Node, Node]]:
    """The convolutions with a batch norm that can be folded."""
    for node in trace.nodes:
        norm = _norm(trace, node)
        if node.op == CONV2D and norm is not None:
            yield node, norm


def _norm(trace: Trace, convolution: Node) -> Node | None:
    """The batch norm in eval mode that alone sees a convolution's output."""
    follower = _follower(trace, convolution)
    return follower if follower is not None and follower.op == "batch_norm" and is_fixed(follower) else None


def _follower(trace: Trace, node: Node) -> Node | None:
    """The one node that sees a node's output; None if there are others, or if it is the network's."""
    consumers = trace.consumers(node.index)
    return trace.nodes[consumers[0]] if len(consumers) == 1 and trace.output != node.index else None


def padding_of(module: nn.Conv2d) -> tuple[int, int, int, int]:
    """Pixels that a convolution adds at the top, bottom, left and right; "same" adds an odd one at the far end."""
    if module.padding == "valid":
        return 0, 0, 0, 0
    if isinstance(module.padding, str):
        rows, columns = (d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True))
        return rows // 2, rows - rows // 2, columns // 2, columns - columns // 2
    rows, columns = module.padding
    return rows, rows, columns, columns


def name_of(node: Node, modules: Mapping[str, nn.Module]) -> str:
    """What a stage is called: its module, with the operation if the module has parts, and which use of it."""
    module = modules[node.path]
    is_whole = next(module.children(), None) is None and kind_of(node) != "rearrangement"
    name = node.path if node.path and is_whole else f"{node.path} {node.op}".lstrip()
    return name + (f" (use {node.use + 1})" if node.use else "")
