"""What a network computed: its operations in their order, and which came from which."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

INPUT = -1  # in place of a node: the images
CONV2D = "conv2d"  # a whole call of an nn.Conv2d
STALE = "changed through a view"  # in place of an operation: a tensor whose memory was changed under another name

Shape = tuple[int, ...]
Operation = Any  # torch's own, which has no type
Value = Any  # whatever an operation of torch takes or gives


@dataclass(frozen=True)
class Traced:
    """Stands in a node's arguments for a tensor that depends on the images.

    Args:
        position: Among the node's inputs.
    """

    position: int


@dataclass(frozen=True, eq=False)
class Node:
    """One operation of a forward pass.

    Args:
        index: Its place in the order in which they ran.
        op: `CONV2D`, `STALE`, or torch's name without the underscore of what runs in place: "relu", "batch_norm".
        path: The innermost module that ran it, as `named_modules` names it; empty for the network itself.
        use: How often that module had run before.
        inputs: The nodes its tensors came from, `INPUT` for the images; weights and constants are not listed.
        picks: Which of the outputs of these nodes: 0 but after a split.
        arguments: By their names in torch; `Traced` stands for an input, so what is left are numbers and constants.
        function: Takes these arguments; None where there is nothing to run.
        input_shapes: Of its inputs.
        shape: Of its output, the first if there are several.
    """

    index: int
    op: str
    path: str
    use: int
    inputs: tuple[int, ...]
    picks: tuple[int, ...]
    arguments: Mapping[str, Value]
    function: Callable[..., Any] | None
    input_shapes: tuple[Shape, ...]
    shape: Shape

    @property
    def identity(self) -> tuple[object, ...]:
        """What must be the same when the network runs again."""
        return self.op, self.path, self.use, self.inputs, self.picks

    @property
    def is_pointwise(self) -> bool:
        """Whether torch counts it among the operations that see each element alone."""
        return torch.Tag.pointwise in getattr(self.function, "tags", ())

    def run(self, *inputs: Tensor) -> Tensor:
        """Do it again on other tensors, which it may overwrite where the network does; gives the first output."""
        if self.function is None:
            raise ValueError(f"there is nothing to run in {self.op}")

        call = mapped(self.arguments, lambda v: inputs[v.position] if isinstance(v, Traced) else v)
        return tensors_in(self.function(**call))[0]


@dataclass(frozen=True, eq=False)
class Trace:
    """What a network computed.

    Args:
        nodes: In the order in which they ran.
        output: The node that gave the network's output, `INPUT` for a network that does nothing.
    """

    nodes: tuple[Node, ...]
    output: int
    _consumers: Mapping[int, tuple[int, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        consumers: dict[int, tuple[int, ...]] = {}
        for node in self.nodes:
            for source in dict.fromkeys(node.inputs):
                consumers[source] = (*consumers.get(source, ()), node.index)
        object.__setattr__(self, "_consumers", consumers)

    def consumers(self, index: int) -> tuple[int, ...]:
        """The nodes that take what a node gives; the network's own output is not counted."""
        return self._consumers.get(index, ())


def mapped(call: Mapping[str, Value], change: Callable[[Value], Value]) -> dict[str, Value]:
    """A call's arguments with a change made to each thing in them."""
    return {name: _changed(value, change) for name, value in call.items()}


def _changed(value: Value, change: Callable[[Value], Value]) -> Value:
    """An argument with a change made to each thing in it."""
    if isinstance(value, (list, tuple)):
        return [_changed(item, change) for item in value]
    return change(value)


def tensors_in(value: object) -> list[Tensor]:
    """The tensors in an argument or in what an operation gives."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in tensors_in(item)] if isinstance(value, (list, tuple)) else []
