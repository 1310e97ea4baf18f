"""Find a network's head and cut it off, on shapes alone: what cannot be used is told before any weights are read."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from blurtrain.errors import BackboneError

MOST_LINEAR = 10  # layers a convolution: ConvNeXt has 2, networks that mix patches have more
ATTENDS = "{} is an attention network ({}), not a convolutional one: blurtrain backbones lists those"
# Parts of timm that mix places by weights which they find in the image, under other names.
ATTENTION = (
    *("HaloAttn", "BottleneckAttn", "LambdaLayer", "CrossCovarianceAttn", "XCA", "GPSA", "LiteMLA", "FocalModulation"),
    *("TalkingHeadAttn", "BatNonLocalAttn"),
)


@dataclass(frozen=True)
class Cut:
    """What was cut off a network.

    Args:
        head: Path of the last layer; empty where it was kept.
        head_shapes: Shapes of its weights, by their keys in the whole network's state.
        idle: Paths of the parts that never run in eval mode: auxiliary classifiers.
        features: Width of what the rest gives.
    """

    head: str
    head_shapes: dict[str, tuple[int, ...]]
    idle: tuple[str, ...]
    features: int

    def removes(self, key: str) -> bool:
        """Whether a key of a state belongs to what was cut off."""
        return any(is_within(key, part) for part in (self.head, *self.idle))


class _AttendsError(Exception):
    """A network mixes places by torch's own attention, whatever its modules are called."""


class _ShapesOnly(TorchFunctionMode):
    """Networks are built and run without memory for their weights: in milliseconds, whatever their size.

    More than the meta device by itself: RegNet computes its widths with tensors, and batch norms count in buffers
    that no file needs to hold, so only what `torch.empty` makes, a layer's weights, has no memory.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - whatever torch calls
        kwargs = kwargs or {}
        if func is torch.empty:
            return func(*args, **{**kwargs, "device": "meta"})
        if func is F.batch_norm:  # keeps the shape; its meta version takes half of the time
            return args[0]
        if func is F.scaled_dot_product_attention:
            raise _AttendsError
        if func is Tensor.normal_ or getattr(func, "__module__", "") == "torch.nn.init":
            target = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if target.is_meta:
                return target
        return func(*args, **kwargs)


def hollow(build: Callable[[], nn.Module]) -> nn.Module:
    """A network in eval mode whose layers' weights have a shape and no memory; its buffers are real.

    Where that is not possible the weights have memory as well: a constructor may compute with them, or make constants
    as layers make weights, which no file would bring back (timm's blur pooling).
    """
    try:
        with _ShapesOnly():
            network = build().eval()
    except RuntimeError:
        return build().eval()
    return build().eval() if any(constant.is_meta for constant in _constants(network)) else network


def _constants(network: nn.Module) -> Iterator[Tensor]:
    """Buffers, and tensors that are neither buffers nor parameters."""
    yield from network.buffers()
    for module in network.modules():
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def cut_head(network: nn.Module, name: str, crop: int) -> Cut:
    """Replace the last layer that has weights by the identity, in place, and parts that never run as well.

    Args:
        network: Real or hollow; only shapes are looked at.
        name: For errors.
        crop: Side of the square that it is to see, in px.

    Raises:
        BackboneError: As `find_head`, or if what is left does not give that layer's inputs.
    """
    cut = find_head(network, name, crop)
    for path in (cut.head, *cut.idle):
        network.set_submodule(path, nn.Identity())
    try:
        shape = _run(network, crop)[0]
    except RuntimeError as error:
        raise BackboneError(f"{name} needs its last layer ({first_sentence(error)}): it may have two heads") from error
    if shape != (1, cut.features):
        raise BackboneError(
            f"{name} without its last layer gives shape {shape}, not the layer's {cut.features} inputs: "
            "pool its maps to one value a channel, before or behind that layer"
        )
    return cut


def keep_head(network: nn.Module, found: Cut, crop: int) -> Cut:
    """Leave a network its head: only parts that never run are replaced by the identity, in place.

    Args:
        network: Real or hollow; only shapes are looked at.
        found: What `find_head` has found in it.
        crop: Side of the square that it is to see, in px.

    Returns:
        What was cut off: no head; its features are the network's own outputs.
    """
    for path in found.idle:
        network.set_submodule(path, nn.Identity())
    (_, outputs), _ = _run(network, crop)
    return Cut("", {}, found.idle, outputs)


def find_head(network: nn.Module, name: str, crop: int) -> Cut:
    """Find the last layer that has weights by running the network, so that no architecture is named here.

    A linear layer leaves its input; a 1 x 1 convolution that is pooled afterwards (SqueezeNet) leaves the pooled
    feature maps.

    Raises:
        BackboneError: If it is an attention network, ends in anything else, or cannot run at that size.
    """
    _require_convolutional(network, name)
    try:
        ran = _run(network, crop)[1]
    except (RuntimeError, ValueError, AssertionError) as error:
        raise BackboneError(
            f"{name} cannot run on {crop} x {crop} px ({first_sentence(error)}): give another backbone.crop"
        ) from error
    except _AttendsError as error:
        raise BackboneError(ATTENDS.format(name, F.scaled_dot_product_attention.__name__)) from error
    except BackboneError:
        raise
    except Exception as error:  # of code that somebody else has written
        raise BackboneError(
            f"{name} cannot run ({type(error).__name__}: {first_sentence(error)}): it must take RGB images alone"
        ) from error
    if not ran:
        raise BackboneError(f"{name} has no layer with weights that runs: give a network with a head")
    last = network.get_submodule(ran[-1])
    if isinstance(last, nn.Linear):
        features = last.in_features
    elif isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1):
        features = last.in_channels
    else:
        raise BackboneError(
            f"{name} ends in {type(last).__name__}: only a linear layer or pooled 1 x 1 convolution can be cut off"
        )
    shapes = {f"{ran[-1]}.{key}": tuple(tensor.shape) for key, tensor in last.state_dict().items()}
    return Cut(ran[-1], shapes, _idle(network, ran), features)


def _require_convolutional(network: nn.Module, name: str) -> None:
    """Let convolutional networks pass.

    Raises:
        BackboneError: If a module of the network is attention (not squeeze-and-excitation, which weights channels), or
            it cuts the image into patches and goes on with linear layers.
    """
    for module in network.modules():
        kind = type(module).__name__
        if "Attention" in kind or kind in ATTENTION:
            raise BackboneError(ATTENDS.format(name, kind))
    convolutional, linear = (
        sum(isinstance(module, kind) for module in network.modules()) for kind in (nn.Conv2d, nn.Linear)
    )
    if linear > MOST_LINEAR * convolutional:
        raise BackboneError(
            f"{name} is no convolutional network: it has {convolutional} convolutions and {linear} linear layers"
        )


def _run(network: nn.Module, crop: int) -> tuple[tuple[int, ...], list[str]]:
    """Shape of the flattened output for one image, and the layers with weights in the order in which they ran."""
    ran: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, path=path: ran.append(path))
        for path, module in network.eval().named_modules()
        if _weighted(module, recurse=False)
    ]
    tensors = {
        key: tensor.detach().to("meta") for key, tensor in (*network.named_parameters(), *network.named_buffers())
    }
    try:
        with _ShapesOnly(), torch.no_grad():
            output = functional_call(network, tensors, torch.zeros(1, 3, crop, crop, device="meta"))
    finally:
        for handle in handles:
            handle.remove()
    if not isinstance(output, Tensor):
        raise BackboneError(f"the network gives {type(output).__name__}, not a tensor of one value a class")
    return tuple(output.flatten(1).shape), ran


def _idle(network: nn.Module, ran: list[str]) -> tuple[str, ...]:
    """Paths of the largest parts with weights of which nothing ran."""
    alive = {path[:end] for path in ran for end in range(len(path) + 1) if path[end : end + 1] in ("", ".")} | {""}
    idle: list[str] = []
    for path, module in network.named_modules():  # parents first
        inside = any(is_within(path, part) for part in idle)
        if path not in alive and not inside and _weighted(module, recurse=True):
            idle.append(path)
    return tuple(idle)


def _weighted(module: nn.Module, recurse: bool) -> bool:
    return next(module.parameters(recurse), None) is not None


def is_within(path: str, part: str) -> bool:
    """Whether a path or key names a module or something in it."""
    return path == part or path.startswith(f"{part}.")


def first_sentence(error: BaseException) -> str:
    """What torch says first; its messages go on for pages."""
    return str(error).split("\n")[0].split(". ")[0]
