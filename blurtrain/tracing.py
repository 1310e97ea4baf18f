"""Record what a network computes in one forward pass: every operation in order, with what it came from."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakTensorKeyDictionary

from blurtrain.backbones import FrozenBackbone
from blurtrain.errors import BackboneError
from blurtrain.graph import CONV2D, INPUT, STALE, Node, Operation, Shape, Trace, Traced, Value, mapped, tensors_in

# What torch calls otherwise below its documented functions.
NAMES = {
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "native_layer_norm": "layer_norm",
    "native_group_norm": "group_norm",
    "max_pool2d_with_indices": "max_pool2d",
    "_adaptive_avg_pool2d": "adaptive_avg_pool2d",
    "_prelu_kernel": "prelu",
    "_unsafe_view": "view",
    "log_sigmoid_forward": "log_sigmoid",
}
# They take a tensor's shape alone.
SHAPE_ALONE = ("empty_like", "zeros_like", "ones_like", "full_like", "new_empty", "new_zeros", "new_ones", "new_full")

Images = Float[Tensor, "batch channel height width"]
Watcher = Callable[[tuple[Tensor, ...], Tensor], None]
_Seen = Callable[[Node, tuple[Tensor, ...], Tensor], None]
_Placed = list[tuple[int, Tensor]]  # with the place of each among the outputs


def trace(network: nn.Module, images: Images) -> Trace:
    """Run a network once and record it.

    Args:
        network: In eval mode. A `FrozenBackbone`'s own normalisation is recorded with an empty path, and the names in
            it are those of the network that it wraps.
        images: One is enough.

    Raises:
        BackboneError: If a part of the network is in train mode, or it does not give one tensor.
    """
    recorder = _Recorder(images, lambda *_: None)
    _, source = _run(network, recorder)
    return Trace(tuple(recorder.nodes), source)


def watch(
    network: nn.Module,
    images: Images,
    trace: Trace,
    at: Mapping[int, Watcher],
    outputs: Mapping[int, Callable[[Tensor], None]] = MappingProxyType({}),
) -> Tensor:
    """Run a network again, and show what goes into some nodes and comes out.

    Args:
        network: The one that was traced.
        images: Any number of the size that was traced.
        trace: What to expect.
        at: By node: what is told its input tensors and its output (the first if there are several) as soon as that
            is there. The tensors are lent: later operations may change them, so what is kept must be copied.
        outputs: By node: what is told its output alone, which saves a copy of what an operation in place overwrites.

    Returns:
        The network's output.

    Raises:
        BackboneError: As `trace`, or if other operations ran than were traced.
    """
    watched = at.keys() | outputs.keys()

    def seen(node: Node, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if node.index >= len(trace.nodes) or node.identity != trace.nodes[node.index].identity:
            raise BackboneError(_differs(f"{node.path} ({node.op})"))
        if node.index in watched:
            with _disable_current_modes():  # what is done with them is not recorded, and need not be looked at
                if node.index in at:
                    at[node.index](inputs, output)
                if node.index in outputs:
                    outputs[node.index](output)

    recorder = _Recorder(images, seen, at)
    output, source = _run(network, recorder)
    if len(recorder.nodes) != len(trace.nodes) or source != trace.output:
        raise BackboneError(_differs("its end"))
    return output


def _differs(place: str) -> str:
    return f"the network computes otherwise than on the first image, at {place}, so nothing can be stated of its layers"


def paths(network: nn.Module) -> dict[nn.Module, str]:
    """The modules of a network with their names: those of the wrapped network for a `FrozenBackbone`."""
    inner = network.network if isinstance(network, FrozenBackbone) else network
    return {module: path for path, module in inner.named_modules()}


def _run(network: nn.Module, recorder: "_Recorder") -> tuple[Tensor, int]:
    """The network's output and the node that it came from, with everything recorded.

    Raises:
        BackboneError: If a part of the network is in train mode, or it does not give one tensor.
    """
    names = paths(network)
    for path in (path or "the network" for module, path in names.items() if module.training):
        raise BackboneError(f"{path} is in train mode, in which no bound holds: call eval() first")
    with torch.no_grad(), _hooked(names, recorder), recorder:
        output = network(recorder.images)
    if not isinstance(output, Tensor):
        raise BackboneError(f"the network gives {type(output).__name__}, not a tensor")
    source = recorder.source_of(output)
    if source is None:
        raise BackboneError("the network's output does not depend on its input")
    return output, source[0]


@contextmanager
def _hooked(names: Mapping[nn.Module, str], recorder: "_Recorder") -> Iterator[None]:
    """Tell the recorder which module runs."""
    handles: list[RemovableHandle] = []
    for module, path in names.items():
        is_plain = _is_plain(module)
        # Innermost of all hooks: what others do to inputs and outputs is not the module's own work.
        handles.append(module.register_forward_pre_hook(partial(recorder.enter, path, is_plain), with_kwargs=True))
        handles.append(module.register_forward_hook(partial(recorder.leave, is_plain), prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _is_plain(module: nn.Module) -> bool:
    """Whether a module is a convolution of its weights: a standardised one, for instance, brings its own forward."""
    if not isinstance(module, nn.Conv2d) or {"forward", "_conv_forward"} & vars(module).keys():
        return False
    kind: type[nn.Conv2d] = type(module)
    return kind.forward is nn.Conv2d.forward and kind._conv_forward is nn.Conv2d._conv_forward


class _Operand(NamedTuple):
    """A tensor that depends on the images, with its shape before the operation."""

    tensor: Tensor
    node: int
    pick: int
    shape: Shape


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees every operation, follows each tensor from the one that made it, and hands on a node.

    Args:
        images: What the network gets; it is given a copy, which it may change in place.
        seen: Called with each node, its inputs and its output.
        kept: Nodes whose inputs must be shown as they were before an operation in place.
    """

    def __init__(self, images: Tensor, seen: _Seen, kept: Iterable[int] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.images = images.clone()
        self.nodes: list[Node] = []
        self._seen = seen
        self._kept = frozenset(kept)
        self._changes: Counter[int] = Counter()  # in place, of each piece of memory
        # Of a tensor: its node, which of the outputs, and the changes so far. Weak: activations are freed as ever.
        self._sources: Any = WeakTensorKeyDictionary()
        self._sources[self.images] = (INPUT, 0, 0)
        # Constants into whose memory something traced was written; held, so that none is mistaken for another.
        self._overwritten: dict[int, tuple[int, torch.UntypedStorage]] = {}
        self._frames = [("", 0)]
        self._uses: Counter[str] = Counter()
        self._convolution: list[Tensor] | None = None  # what the one that runs was given

    def enter(
        self, path: str, is_plain: bool, _: nn.Module, inputs: tuple[object, ...], keywords: dict[str, object]
    ) -> None:
        """Runs before a module; the operations in a plain convolution are not recorded."""
        self._frames.append((path, self._uses[path]))
        self._uses[path] += 1
        if is_plain:
            self._convolution = tensors_in([*inputs, *keywords.values()])

    def leave(self, is_plain: bool, module: nn.Module, _: object, output: object) -> None:
        """Runs after a module."""
        operands = self._operands(self._convolution or ()) if is_plain else []
        if operands and isinstance(output, Tensor):
            node = self._node(CONV2D, operands, {"input": Traced(0)}, module.forward, [(0, output)])
            self._seen(node, (operands[0].tensor,), output)  # still inside, where nothing is recorded
        self._convolution = None if is_plain else self._convolution
        self._frames.pop()

    def source_of(self, tensor: Tensor) -> tuple[int, int, int] | None:
        """The node that a tensor came from, as (node, which output, changes); None for a constant."""
        source: tuple[int, int, int] | None = self._sources.get(tensor)
        memory = _memory(tensor)
        if source is not None and source[2] != self._changes[memory]:
            origin = source[0]
        elif source is None and memory in self._overwritten:
            origin = self._overwritten[memory][0]
        else:
            return source
        stale = self._node(STALE, [_Operand(tensor, origin, 0, tuple(tensor.shape))], {}, None, [(0, tensor)])
        self._seen(stale, (tensor,), tensor)
        return stale.index, 0, self._changes[memory]

    def __torch_dispatch__(
        self, func: Operation, types: object, args: tuple[Value, ...] = (), kwargs: Mapping[str, Value] | None = None
    ) -> Value:
        """Run an operation, and record it if it takes anything that depends on the images."""
        if self._convolution is not None:
            return func(*args, **(kwargs or {}))
        call = _named(func, args, kwargs or {})
        written = [
            tensor
            for argument in func._schema.arguments
            if argument.alias_info is not None and argument.alias_info.is_write
            for tensor in tensors_in(call[argument.name])
        ]
        name = func._schema.name.split("::")[-1]
        operands = [] if name in SHAPE_ALONE else self._operands(tensors_in([*call.values()]))
        if operands:
            return self._record(func, name, call, operands, written)
        self._changes.update(_memory(tensor) for tensor in written)
        return func(**call)

    def _record(
        self, func: Operation, name: str, call: dict[str, Value], operands: list[_Operand], written: list[Tensor]
    ) -> Value:
        """Run an operation on something traced."""
        kept = {id(tensor): tensor.clone() for tensor in written} if len(self.nodes) in self._kept else {}
        before = tuple(kept.get(id(operand.tensor), operand.tensor) for operand in operands)
        arguments = _noted(call, operands, written)
        output = func(**call)
        outputs = tensors_in(output)
        for memory, tensor in {_memory(tensor): tensor for tensor in written}.items():
            if self._sources.get(tensor) is None:
                self._overwritten[memory] = (len(self.nodes), tensor.untyped_storage())
            self._changes[memory] += 1
        name = name.removesuffix("_") if written else name
        placed = [*enumerate(outputs), *((0, tensor) for tensor in written)]
        node = self._node(NAMES.get(name, name), operands, arguments, func, placed)
        self._seen(node, before, (*outputs, before[0])[0])  # some give a number, or nothing
        return output

    def _operands(self, tensors: Iterable[Tensor]) -> list[_Operand]:
        """Those that depend on the images, as they are now."""
        sources = [(tensor, self.source_of(tensor)) for tensor in tensors]
        return [_Operand(tensor, *source[:2], tuple(tensor.shape)) for tensor, source in sources if source is not None]

    def _node(
        self, op: str, operands: list[_Operand], arguments: Mapping[str, Value], function: Operation, outputs: _Placed
    ) -> Node:
        """The next node, from which its outputs come."""
        inputs, picks, shapes = zip(*(operand[1:] for operand in operands), strict=True)
        index, frame = len(self.nodes), self._frames[-1]
        shape = tuple(outputs[0][1].shape) if outputs else ()
        self.nodes.append(Node(index, op, *frame, inputs, picks, arguments, function, shapes, shape))
        for place, tensor in outputs:
            self._sources[tensor] = (index, place, self._changes[_memory(tensor)])
        return self.nodes[-1]


def _noted(call: Mapping[str, Value], operands: list[_Operand], written: list[Tensor]) -> Value:
    """A call's arguments with the traced tensors marked; a constant that is overwritten is kept as it was."""
    places = {id(operand.tensor): place for place, operand in enumerate(operands)}
    constants: dict[int, object] = {id(tensor): tensor.clone() for tensor in written if id(tensor) not in places}
    marks = constants | {key: Traced(place) for key, place in places.items()}
    return mapped(call, lambda value: marks.get(id(value), value))


def _named(func: Operation, args: tuple[Value, ...], kwargs: Mapping[str, Value]) -> dict[str, Value]:
    """All arguments of a call by name, defaults too."""
    return {
        argument.name: args[place] if place < len(args) else kwargs.get(argument.name, argument.default_value)
        for place, argument in enumerate(func._schema.arguments)
    }


def _memory(tensor: Tensor) -> int:
    """What tensors that are views of one another share."""
    return int(tensor.untyped_storage()._cdata)
