"""Lipschitz constants: never exceeded, attained where that is known; and convolutions as the network runs them."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from blurtrain import backbones
from blurtrain.backbones import FrozenBackbone
from blurtrain.config import BackboneConfig
from blurtrain.errors import BackboneError
from blurtrain.graph import CONV2D, INPUT, STALE, Trace
from blurtrain.stages import Convolution, Stage, convolutions, stages
from blurtrain.tracing import trace, watch
from tests.conftest import SIDE
from tests.test_families import LAST, SIDES
from tests.test_tracing import Does, Standardised, assert_nodes_give_what_was_seen, random_images

PADS = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}


def dense_norm(network: nn.Module, images: Tensor) -> float:
    """The norm of an affine map's matrix, from its values at the unit vectors."""
    basis = torch.eye(images.numel(), dtype=images.dtype).view(-1, *images.shape[1:])
    with torch.no_grad():
        columns = network(basis) - network(torch.zeros_like(images))
    return float(np.linalg.norm(columns.flatten(1).double().numpy(), 2))


def norms_of(network: nn.Module, found: Trace) -> dict[int, float]:
    """The norms of all convolutions, batch norm included, from their dense matrices."""
    norms = {}
    for layer in convolutions(found, network):
        if not layer.no_bound and layer.module is not None:
            shape = found.nodes[layer.node].input_shapes[0]
            norms[layer.node] = dense_norm(Does(partial(replayed, layer)), torch.zeros(1, *shape[1:]))
    return norms


def replayed(layer: Convolution, images: Tensor) -> Tensor:
    """What a convolution gives with its batch norm, from the folded weights."""
    module, (top, bottom, left, right) = layer.module, layer.padding
    assert module is not None
    weights, bias = (torch.from_numpy(values).to(images.dtype) for values in layer.folded())
    padded = F.pad(images, (left, right, top, bottom), mode=PADS[module.padding_mode])
    return F.conv2d(padded, weights, bias, module.stride, 0, module.dilation, module.groups)


def stages_of(network: nn.Module, images: Tensor) -> list[Stage]:
    found = trace(network, images)
    has_convolutions = any("conv" in node.op for node in found.nodes)
    return stages(found, network, norms_of(network, found) if has_convolutions else {})


def bound_of(compute: Callable[[Tensor], Tensor] | nn.Module, images: Tensor) -> float | str:
    """The constant of a whole network, or why there is none."""
    network = compute.eval() if isinstance(compute, nn.Module) else Does(compute)
    found = trace(network, images)
    if found.output == INPUT:
        return 1.0
    whole = stages_of(network, images)[found.output]
    return whole.no_cumulative if whole.cumulative is None else whole.cumulative


def ratio(compute: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float((compute(x) - compute(y)).norm() / (x - y).norm())


# Activations


ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "relu": (F.relu, 1),
    "relu6": (F.relu6, 1),
    "hardtanh": (lambda x: F.hardtanh(x, -2, 3), 1),
    "clamp": (lambda x: x.clamp(-1, 2), 1),
    "leaky relu": (lambda x: F.leaky_relu(x, 0.1), 1),
    "steep leaky relu": (lambda x: F.leaky_relu(x, -3.0), 3),
    "prelu": (lambda x: F.prelu(x, torch.tensor([0.1, -2.0, 0.3, 0.4]).to(x)), 2),
    "rrelu": (lambda x: F.rrelu(x, 2.0, 4.0), 3),
    "elu": (F.elu, 1),
    "steep elu": (lambda x: F.elu(x, 2.5), 2.5),
    "celu": (lambda x: F.celu(x, 0.3), 1),
    "selu": (F.selu, 1.7581),
    "tanh": (torch.tanh, 1),
    "sigmoid": (torch.sigmoid, 0.25),
    "logsigmoid": (F.logsigmoid, 1),
    "hardsigmoid": (F.hardsigmoid, 1 / 6),
    "hardswish": (F.hardswish, 1.5),
    "silu": (F.silu, 1.0998),
    "gelu": (F.gelu, 1.1289),
    "gelu with tanh": (lambda x: F.gelu(x, approximate="tanh"), 1.1290),
    "mish": (F.mish, 1.0885),
    "softplus": (F.softplus, 1),
    "softshrink": (lambda x: F.softshrink(x, 1.0), 1),
    "abs": (torch.abs, 1),
    "neg": (torch.neg, 1),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_the_steepest_slope_of_an_activation_is_its_constant(name: str) -> None:
    compute, expected = ACTIVATIONS[name]
    grid = torch.linspace(-30, 30, 120_001, dtype=torch.float64).expand(1, 4, 1, -1)
    steepest = float((compute(grid).diff() / grid.diff()).abs().max())
    constant = bound_of(compute, torch.zeros(1, 4, 3, 3))
    assert isinstance(constant, float)
    assert constant == pytest.approx(expected, rel=2e-4)
    assert 0.999 * constant < steepest <= constant * (1 + 1e-6)


def changed_through_a_view(x: Tensor) -> Tensor:
    y = x * 2
    y[:, 0].mul_(100)
    return y + 0


@pytest.mark.parametrize(
    ("compute", "reason"),
    [
        (lambda x: F.hardshrink(x), "hardshrink: no Lipschitz constant of hardshrink is known"),
        (lambda x: F.softplus(x, 1, 0.1), "softplus: it jumps at its threshold"),
        (lambda x: x.exp(), "exp: no Lipschitz constant of exp is known"),
        (lambda x: x.softmax(1), "_softmax: no Lipschitz constant of _softmax is known"),
        (lambda x: x * x.sigmoid(), "mul: it multiplies two of the network's own maps"),
        (lambda x: x @ x, "bmm: no Lipschitz constant of bmm is known"),
        (lambda x: x / (1 + x.abs()), "div: it divides by one of the network's own maps"),
        (lambda x: torch.div(x, 2, rounding_mode="floor"), "div: it rounds"),
        (lambda x: x / 0, "div: it divides by zero"),
        (lambda x: x.half(), "_to_copy: it changes what its numbers are made of"),
        (lambda x: x.view(torch.int32).float(), "view: it changes what its numbers are made of"),
        (lambda x: torch.clamp(x, x.mean()), "clamp: it takes several of the network's own maps"),
        (lambda x: torch.addmm(x[0, 0], torch.ones(6, 2), torch.ones(2, 6)), "addmm: it multiplies two"),
        (lambda x: torch.clamp(x[:, :1], torch.zeros(1, 4, 1, 1)), "clamp: it repeats its input"),
        (lambda x: x.as_strided((2, 3, 3), (0, 3, 1)), "as_strided: it shows memory in another way"),
        (lambda x: F.local_response_norm(x, 2), "mul: it multiplies two of the network's own maps"),
        (lambda x: F.instance_norm(x), "batch_norm: it normalises by the statistics of each image"),
        (
            lambda x: F.batch_norm(x, torch.zeros(4), torch.ones(4), training=True),
            "batch_norm: it normalises by the statistics of each image",
        ),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1] * 1.0, "mul: it takes another output of max_pool2d"),
        (changed_through_a_view, f"{STALE}: its memory is written to through a view"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), "copy: no Lipschitz constant of copy is known"),
        (lambda x: F.conv2d(x, torch.ones(2, 4, 1, 1)), "convolution with weights that are no nn.Conv2d's own"),
        (lambda x: F.conv_transpose2d(x, torch.ones(4, 2, 1, 1)), "it is a transposed convolution"),
    ],
)
def test_what_has_no_constant_says_why(compute: Callable[[Tensor], Tensor], reason: str) -> None:
    said = bound_of(compute, random_images())
    assert isinstance(said, str)
    assert reason in said


# Linear maps: the norm of their dense matrix


def batch_norm(affine: bool) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, eps=0.01, affine=affine)
    assert norm.running_var is not None
    norm.running_var.copy_(torch.tensor([0.1, 2.0, 0.5, 3.0]))
    if affine:
        norm.weight.data.copy_(torch.tensor([0.5, -3.0, 0.1, 1.0]))
    return norm


LINEAR: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "batch norm": batch_norm(affine=True),
    "batch norm without weights": batch_norm(affine=False),
    "linear": nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 7)),
    "linear over the last axis": nn.Linear(6, 9),
    "linear without bias": nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 7, bias=False)),
    "factor a channel": lambda x: x * torch.tensor([1.0, -4.0, 2.0, 0.5]).view(1, 4, 1, 1),
    "factor before": lambda x: 3 * x,
    "divisor a channel": lambda x: x / torch.tensor([1.0, -0.25, 2.0, 0.5]).view(1, 4, 1, 1),
    "constant added": lambda x: 2 - (x + torch.arange(4.0).view(1, 4, 1, 1) - 1),
    "twice the same": lambda x: x + x,
    "repeated factor": lambda x: x[:, :1] * torch.ones(1, 3, 1, 1).to(x),
    "repeated term": lambda x: x[:, :, :1, :1] + torch.zeros(1, 4, 5, 6),
    "expanded": lambda x: x[..., :1].expand(len(x), 4, 6, 5),
    "repeated": lambda x: x.repeat(1, 2, 1, 3),
    "joined": lambda x: torch.cat([x, 2 * x, torch.ones(len(x), 1, 6, 6).to(x)], 1),
    "stacked": lambda x: torch.stack([x, 2 * x], 1),
    "global average": lambda x: x.mean((2, 3)),
    "average of all": lambda x: x.mean((1, 2, 3), keepdim=True),
    "sum": lambda x: x.sum(2),
    "zero padding": lambda x: F.pad(x, (1, 2, 0, 3)),
    "cropped": lambda x: F.pad(x, (-1, -2, 0, 0)),
    "reflect padding": lambda x: F.pad(x, (2, 5, 1, 0), mode="reflect"),
    "replicate padding": lambda x: F.pad(x, (2, 3, 1, 0), mode="replicate"),
    "moved": lambda x: x.permute(0, 2, 3, 1).flatten(1).view(-1, 9, 16).transpose(1, 2).clone(),
    "cut": lambda x: x[:, 1:3, ::2].chunk(2, 3)[1].squeeze(2).unsqueeze(1).flip(-1),
    "channel shuffle": lambda x: F.channel_shuffle(x, 2),
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "cast": lambda x: x.double(),
    "dropout": nn.Dropout2d(0.5),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (4, 5)),
    "enlarging adaptive average": lambda x: F.adaptive_avg_pool2d(x, (7, 9)),
    "average over padding": lambda x: F.avg_pool2d(x, (3, 2), 1, (1, 0)),
    "average without padding": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "average of a rounded-up size": lambda x: F.avg_pool2d(x, 3, (2, 3), 1, ceil_mode=True),
    "average with a divisor": lambda x: F.avg_pool2d(x, 3, 2, 1, divisor_override=4),
}


@pytest.mark.parametrize("name", LINEAR)
def test_the_constant_of_a_linear_map_is_its_norm(name: str) -> None:
    torch.manual_seed(0)
    compute = LINEAR[name]
    network = compute.eval() if isinstance(compute, nn.Module) else Does(compute)
    bound = bound_of(compute, random_images())
    assert bound == pytest.approx(dense_norm(network, random_images()), rel=1e-6)


@pytest.mark.parametrize("axis", range(2))
@given(st.data())
@settings(max_examples=30)
def test_average_pooling_has_the_norm_of_its_matrix(axis: int, data: st.DataObject) -> None:
    size, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    padding, pixels = data.draw(st.integers(0, size // 2)), data.draw(st.integers(4, 9))
    ceil_mode, counted = data.draw(st.booleans()), data.draw(st.booleans())
    pool = nn.AvgPool2d(size, stride, padding, ceil_mode, counted)
    images = torch.zeros(1, 1, *((pixels, 4) if axis == 0 else (4, pixels)))
    assert bound_of(pool, images) == pytest.approx(dense_norm(pool, images), rel=1e-5)


# Max-pooling


@given(st.data())
@settings(max_examples=40)
def test_max_pooling_counts_the_windows_of_a_pixel(data: st.DataObject) -> None:
    size, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))
    padding, pixels = data.draw(st.integers(0, size // 2)), data.draw(st.integers(30, 40))
    ceil_mode = data.draw(st.booleans())
    compute = partial(F.max_pool2d, kernel_size=size, stride=stride, padding=padding, ceil_mode=ceil_mode)
    assert bound_of(compute, torch.zeros(1, 1, pixels, pixels)) == pytest.approx(math.ceil(size / stride), rel=1e-12)


def test_max_pooling_attains_its_constant() -> None:
    x = torch.zeros(1, 1, 9, 9)
    y = x.clone()
    y[..., 4, 4] = 1
    compute = partial(F.max_pool2d, kernel_size=3, stride=2)
    assert ratio(compute, x, y) == bound_of(compute, x) == 2
    assert bound_of(lambda x: F.max_pool2d(x, 3, 1, dilation=9), torch.zeros(1, 1, 20, 20)) == 1
    assert bound_of(lambda x: F.adaptive_max_pool2d(x, 3), torch.zeros(1, 1, 9, 9)) == 1
    assert bound_of(lambda x: F.adaptive_max_pool2d(x, 2), torch.zeros(1, 1, 9, 9)) == 2
    assert bound_of(lambda x: x.amax((2, 3)), x) == 1


# Nothing exceeds its constant


class ChannelNorm(nn.LayerNorm):
    """Over the channels of each pixel."""

    def forward(self, input: Tensor) -> Tensor:
        """Channels last, and back."""
        output: Tensor = super().forward(input.permute(0, 2, 3, 1))
        return output.permute(0, 3, 1, 2)


def random_norm(norm: nn.LayerNorm | nn.GroupNorm) -> nn.Module:
    nn.init.normal_(norm.weight)
    return norm


OTHERS: dict[str, Callable[[Tensor], Tensor] | nn.Module] = {
    "layer norm": random_norm(ChannelNorm(4, eps=0.1)),
    "group norm": random_norm(nn.GroupNorm(2, 4, eps=0.3)),
    "weighted sum": lambda x: torch.sub(x[:, :2], x[:, 2:], alpha=3),
    "max pool": partial(F.max_pool2d, kernel_size=3, stride=1, padding=1),
    "adaptive max pool": partial(F.adaptive_max_pool2d, output_size=4),
}
EVERYTHING = {**{name: pair[0] for name, pair in ACTIVATIONS.items()}, **LINEAR, **OTHERS}


@pytest.mark.parametrize("name", EVERYTHING)
@given(st.integers(0, 2**31), st.floats(0.01, 10), st.floats(1e-3, 10))
@settings(max_examples=8)
def test_no_pair_of_inputs_exceeds_a_constant(name: str, seed: int, scale: float, distance: float) -> None:
    compute = EVERYTHING[name]
    generator = torch.Generator().manual_seed(seed)
    x, change = (torch.randn(1, 4, 6, 6, generator=generator) for _ in range(2))
    x = scale * x
    y = x + distance * change
    bound = bound_of(compute, x)
    assert isinstance(bound, float)
    assert ratio(compute, x, y) <= bound * (1 + 1e-5) + 1e-4


def test_layer_norm_attains_its_constant_where_the_input_is_constant() -> None:
    x = torch.zeros(1, 4, 1, 1)
    y = x + 1e-4 * torch.tensor([1.0, -1.0, 0.0, 0.0]).view(1, 4, 1, 1)
    norm = ChannelNorm(4, eps=0.01)
    assert bound_of(norm, x) == pytest.approx(ratio(norm, x, y), rel=1e-3)


# Graphs


def seeded(network: nn.Module) -> nn.Module:
    """With random weights and statistics, in eval mode."""
    generator = torch.Generator().manual_seed(3)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            for tensor in module.parameters(recurse=False):
                tensor.data.normal_(0, 0.4, generator=generator)
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return network.eval()


conv = partial(nn.Conv2d, 4, 4, 3, padding=1)


def skip(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
    y: Tensor = second(F.relu(norm(first(x)), inplace=True))
    y += x
    return y.relu_()


def dense(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
    y = F.relu6(norm(first(x)))
    return F.max_pool2d(torch.cat([x, y, second(y)], 1), 3, 2, 1)


def shared(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
    y: Tensor = second(F.silu(norm(first(first(x)))))
    return y.mean((2, 3))


def forked(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
    y = first(x)
    z: Tensor = second(y)
    return F.gelu(norm(y)) - z / 2


def rectified(x: Tensor, first: nn.Module, norm: nn.Module, second: nn.Module) -> Tensor:
    y: Tensor = first(x)
    z: Tensor = second(norm(y.relu()))
    return z + y


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
@pytest.mark.parametrize("compute", [skip, dense, shared, forked, rectified], ids=lambda compute: str(compute.__name__))
def test_no_pair_of_images_exceeds_the_cumulative_constant_anywhere(
    compute: Callable[..., Tensor], mode: Literal["zeros", "reflect"]
) -> None:
    network = seeded(Does(compute, first=conv(padding_mode=mode), norm=nn.BatchNorm2d(4), second=conv()))
    x = random_images()
    found, all_stages = trace(network, x), stages_of(network, x)
    folded = {layer.node for layer in convolutions(found, network) if layer.norm is not None}
    for distance in (1e-3, 1.0, 30.0):
        y = x + distance * torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
        seen: list[dict[int, Tensor]] = []
        for images in (x, y):
            outputs: dict[int, Tensor] = {}
            at = {node.index: partial(keep, outputs, node.index) for node in found.nodes}
            watch(network, images, found, at)
            seen.append(outputs)
        for stage in all_stages:
            index = stage.node.index
            assert stage.cumulative is not None
            if index not in folded:
                moved = float((seen[0][index] - seen[1][index]).norm())
                assert moved <= stage.cumulative * float((x - y).norm()) * (1 + 1e-5)
    assert len(all_stages) == len(found.nodes)


def keep(kept: dict[int, Tensor], index: int, _: tuple[Tensor, ...], output: Tensor) -> None:
    kept[index] = output.clone()


def test_constants_multiply_along_and_add_across() -> None:
    network = Does(skip, first=conv(), norm=nn.BatchNorm2d(4), second=conv())
    found = trace(network, random_images())
    first, second = (node.index for node in found.nodes if node.op == CONV2D)
    totals = [(s.name, s.cumulative) for s in stages(found, network, {first: 3.0, second: 5.0})]
    assert totals == [("first", 3), ("norm", 3), ("relu", 3), ("second", 15), ("add", 16), ("relu", 16)]


def test_constants_side_by_side_are_roots_of_squares() -> None:
    network = Does(dense, first=conv(), norm=nn.BatchNorm2d(4), second=conv())
    found = trace(network, random_images())
    first, second = (node.index for node in found.nodes if node.op == CONV2D)
    (joined,) = (s for s in stages(found, network, {first: 4.0, second: 2.0}) if s.kind == "concatenation")
    assert joined.cumulative == math.sqrt(1 + 4**2 + 8**2)


def gated(x: Tensor, first: nn.Module, second: nn.Module) -> Tensor:
    y = first(x)
    z: Tensor = second(y * F.adaptive_avg_pool2d(y, 1).sigmoid())
    return z


def test_what_follows_a_gate_names_it() -> None:
    network = seeded(Does(gated, first=conv(), second=conv()))
    found = stages_of(network, random_images())
    by_name = {stage.name: stage for stage in found}
    assert by_name["mul"].constant is None
    assert by_name["mul"].no_bound == "it multiplies two of the network's own maps"
    assert by_name["sigmoid"].cumulative is not None
    assert by_name["second"].constant is not None
    assert by_name["second"].no_bound == ""
    assert by_name["second"].cumulative is None
    assert by_name["second"].no_cumulative == "mul: it multiplies two of the network's own maps"


def test_a_convolution_whose_norm_is_not_given_has_no_constant() -> None:
    network = seeded(Does(gated, first=conv(), second=conv()))
    found = stages(trace(network, random_images()), network, {})
    assert (found[0].no_bound, found[0].no_cumulative) == ("its norm is not given", "first: its norm is not given")


# Convolutions by hand


def layers_of(compute: Callable[..., Tensor], **parts: nn.Module) -> list[Convolution]:
    network = seeded(Does(compute, **parts))
    images = random_images()
    found = trace(network, images)
    layers = convolutions(found, network)
    assert_replayed(network, images, found, layers)
    return layers


def assert_replayed(network: nn.Module, images: Tensor, found: Trace, layers: list[Convolution]) -> None:
    """Each convolution's stage, from the folded weights alone, gives what the network has there."""
    inputs: dict[int, Tensor] = {}
    sizes: dict[int, tuple[int, ...]] = {}
    off: dict[int, float] = {}

    def after(layer: Convolution, _: tuple[Tensor, ...], output: Tensor) -> None:
        values = replayed(layer, inputs[layer.node])
        values = values if layer.activation is None else layer.activation(values)
        off[layer.node] = float((values - output).norm() / output.norm()) if output.any() else float(values.norm())

    def before(layer: Convolution, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[layer.node] = given[0].clone()
        sizes[layer.node] = tuple(given[0].shape[-2:])
        if layer.last == layer.node:
            after(layer, given, output)

    usable = [layer for layer in layers if not layer.no_bound]
    at = {layer.last: partial(after, layer) for layer in usable} | {
        layer.node: partial(before, layer) for layer in usable
    }
    watch(network, images, found, at)
    assert sizes == {layer.node: layer.size for layer in usable}
    assert list(off) == [layer.node for layer in usable]
    assert {layer.name: off[layer.node] for layer in usable if not off[layer.node] <= 1e-4} == {}


def describe(layer: Convolution) -> tuple[str, bool, str]:
    activation = "" if layer.activation is None else layer.activation.node.op
    return layer.name, layer.norm is not None, activation


@pytest.mark.parametrize(
    ("compute", "expected"),
    [
        (skip, [("first", True, "relu"), ("second", False, "")]),  # the second is added to
        (dense, [("first", True, "hardtanh"), ("second", False, "")]),
        (shared, [("first", False, ""), ("first (use 2)", True, "silu"), ("second", False, "")]),
        (forked, [("first", False, ""), ("second", False, "")]),  # two see what the first one gives
        (rectified, [("first", False, ""), ("second", False, "")]),  # the sum, after its activation
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_only_what_alone_sees_a_convolution_joins_its_stage(
    compute: Callable[..., Tensor], expected: list[tuple[str, bool, str]]
) -> None:
    layers = layers_of(compute, first=conv(), norm=nn.BatchNorm2d(4), second=conv())
    assert [describe(layer) for layer in layers] == expected


def test_the_networks_own_output_is_seen_by_others() -> None:
    def compute(x: Tensor, first: nn.Module) -> Tensor:
        y: Tensor = first(x)
        y.relu()
        return y

    assert [describe(layer) for layer in layers_of(compute, first=conv())] == [("first", False, "")]


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"padding": (1, 2)}, (1, 1, 2, 2)),
        ({"padding": "same", "kernel_size": (4, 3), "dilation": (1, 2)}, (1, 2, 2, 2)),
        ({"padding": "same", "kernel_size": 2, "padding_mode": "reflect"}, (0, 1, 0, 1)),
        ({"padding": "valid", "padding_mode": "circular"}, (0, 0, 0, 0)),
        ({"padding": 2, "padding_mode": "replicate", "stride": 2, "dilation": 2, "groups": 2}, (2, 2, 2, 2)),
        ({"padding": 3, "padding_mode": "circular", "bias": False}, (3, 3, 3, 3)),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
def test_padding_of_every_kind_is_told_in_pixels(keywords: dict[str, Any], expected: tuple[int, int, int, int]) -> None:
    (layer,) = layers_of(lambda x, first: first(x).tanh(), first=nn.Conv2d(4, 4, **({"kernel_size": 3} | keywords)))
    assert layer.padding == expected
    assert layer.lipschitz == 1


def test_the_constant_of_the_activation_is_told() -> None:
    (layer,) = layers_of(lambda x, first: F.leaky_relu_(first(x), 2), first=conv())
    assert layer.lipschitz == 2


@pytest.mark.parametrize(
    ("compute", "first", "reason"),
    [
        (lambda x, first: first(x).exp(), conv(), "the activation exp has no known Lipschitz constant"),
        (
            lambda x, first: F.softplus(first(x), 1, 1),
            conv(),
            "the activation softplus has no known Lipschitz constant",
        ),
        (lambda x, first: first(x), Standardised(4, 4, 1), "it is a convolution with weights that are no nn.Conv2d's"),
        (lambda x, first: first(x), nn.ConvTranspose2d(4, 4, 1), "it is a transposed convolution"),
        (lambda x, first: first(x.flatten(2)), nn.Conv1d(4, 4, 1), "it is a convolution over one axis"),
        (lambda x, first: first(x[:, None]), nn.Conv3d(1, 4, 1), "it is a convolution over three axes"),
    ],
)
def test_a_convolution_without_a_bound_is_listed_with_the_reason(
    compute: Callable[..., Tensor], first: nn.Module, reason: str
) -> None:
    (layer,) = layers_of(compute, first=first)
    assert layer.name == "first"
    assert layer.no_bound.startswith(reason)


def test_a_batch_norm_without_statistics_is_not_folded() -> None:
    norm = nn.BatchNorm2d(4, track_running_stats=False)
    network = Does(lambda x, first, norm: norm(first(x)), first=conv(), norm=norm)
    found = trace(network, random_images())
    (layer,) = convolutions(found, network)
    assert layer.norm is None
    assert stages(found, network, {0: 1.0})[1].no_bound == "it normalises by the statistics of each image"


# Errors


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["first", "norm", "fc", "factor"])
def test_weights_that_are_not_finite_are_refused_by_name(part: str, value: float) -> None:
    parts = {"first": conv(), "norm": nn.BatchNorm2d(4), "fc": nn.Linear(6, 6)}

    def compute(x: Tensor, first: nn.Module, norm: nn.Module, fc: nn.Module) -> Tensor:
        y: Tensor = fc(norm(F.relu(first(x))))
        return y * (value if part == "factor" else 1)

    network = seeded(Does(compute, **parts))
    if part != "factor":
        next(parts[part].parameters()).data.view(-1)[0] = value
    name = "mul" if part == "factor" else part
    with pytest.raises(BackboneError, match=f"^{name} has weights that are not finite numbers: give others$"):
        stages_of(network, random_images())


def test_a_network_without_convolutions_is_refused() -> None:
    network = nn.Linear(6, 6).eval()
    with pytest.raises(BackboneError, match="the network has no convolution, so there is nothing to state"):
        convolutions(trace(network, random_images()), network)


# Every family


@pytest.fixture(scope="module", params=["glyphnet", *LAST])
def backbone(request: pytest.FixtureRequest) -> FrozenBackbone:
    """One of each, with random weights and statistics but for the embedded one."""
    name = str(request.param)
    weights = "embedded" if name == "glyphnet" else "none"
    found = backbones.load(BackboneConfig(name=name, weights=weights))
    if weights == "none":
        shake_norms(found.network)
    return found


def shake_norms(network: nn.Module) -> None:
    """Give batch norms of random weights statistics and scales that are not the identity, always the same."""
    generator = torch.Generator().manual_seed(0)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            for tensor in (module.running_var, module.weight.data):
                tensor.uniform_(0.5, 1.5, generator=generator)


@pytest.fixture
def image(backbone: FrozenBackbone) -> Tensor:
    side = SIDES.get(backbone.name, SIDE)
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_nodes_of_every_family_give_what_was_seen(backbone: FrozenBackbone, image: Tensor) -> None:
    found = trace(backbone, image)
    assert_nodes_give_what_was_seen(backbone, image, found)
    assert all(node.op != STALE for node in found.nodes)
    assert [node.op for node in found.nodes[:2]] == ["sub", "div"]  # the normalisation


def test_every_convolution_of_every_family_is_replayed_under_its_name(backbone: FrozenBackbone, image: Tensor) -> None:
    found = trace(backbone, image)
    layers = convolutions(found, backbone)
    named = {path for path, module in backbone.network.named_modules() if isinstance(module, nn.Conv2d)}
    assert {layer.name for layer in layers} == named
    assert not any(layer.no_bound for layer in layers)
    assert_replayed(backbone, image, found, layers)


def test_only_gates_have_no_constant_in_any_family(backbone: FrozenBackbone, image: Tensor) -> None:
    if backbone.name in ("alexnet", "vgg11"):
        return  # the norms of their linear layers take long, and are those of others
    found = trace(backbone, image)
    everything = stages(found, backbone, {node.index: 1.0 for node in found.nodes if node.op == CONV2D})
    without = {stage.no_bound for stage in everything} - {""}
    assert without <= {"it multiplies two of the network's own maps"}
    gates = backbone.name.startswith(("efficientnet", "mobilenet_v3", "regnet_y"))
    assert (everything[-1].cumulative is None) == bool(without) == gates
