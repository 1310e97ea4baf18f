"""What a pass is recorded as: against the values themselves, which every node must reproduce."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from blurtrain import backbones
from blurtrain.config import BackboneConfig
from blurtrain.errors import BackboneError
from blurtrain.graph import CONV2D, INPUT, STALE, Node, Trace
from blurtrain.tracing import trace, watch
from tests.conftest import SIDE


def random_images(count: int = 1, channels: int = 4, side: int = 6) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(2))


class Does(nn.Module):
    """A network with parts that computes what it is told."""

    def __init__(self, compute: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            self.add_module(name, part)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """What it was told."""
        return self.compute(x, **dict(self.named_children()))


def traced(compute: Callable[..., Tensor], **parts: nn.Module) -> tuple[Does, Trace]:
    network = Does(compute, **parts)
    return network, trace(network, random_images())


def ops(found: Trace) -> list[str]:
    return [node.op for node in found.nodes]


def is_same(actual: Tensor, expected: Tensor) -> bool:
    """To the bit; fresh memory may hold anything."""
    return actual.shape == expected.shape and torch.equal(actual.nan_to_num(), expected.nan_to_num())


def assert_nodes_give_what_was_seen(network: nn.Module, images: Tensor, found: Trace) -> None:
    """Each node, run alone, gives the output that the network had there, from what the nodes before it gave."""
    outputs = {INPUT: images.clone()}
    wrong: list[tuple[str, Node]] = []

    def check(node: Node, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if tuple(tuple(tensor.shape) for tensor in inputs) != node.input_shapes:
            wrong.append(("shapes", node))
        for source, pick, tensor in zip(node.inputs, node.picks, inputs, strict=True):
            if pick == 0 and node.op != STALE and not is_same(tensor, outputs[source]):
                wrong.append(("input", node))
        if node.function is not None and not is_same(node.run(*inputs), output):
            wrong.append(("output", node))
        outputs[node.index] = output.clone()

    at = {node.index: lambda inputs, output, node=node: check(node, inputs, output) for node in found.nodes}
    result = watch(network, images, found, at)
    assert wrong == []
    assert len(outputs) == len(found.nodes) + 1
    assert torch.equal(outputs[found.output], result)
    with torch.no_grad():
        assert torch.equal(network(images), result)


def residual(x: Tensor, conv: nn.Module) -> Tensor:
    y: Tensor = conv(x)
    y += x
    return y.relu_() + x.relu()


def dense(x: Tensor, conv: nn.Module) -> Tensor:
    return torch.cat([x, conv(x), x], 1)


def split(x: Tensor, conv: nn.Module) -> Tensor:
    first, second, third = torch.split(x * 1, [1, 2, 1], 1)
    second.mul_(3)
    factor: Tensor = conv(x)
    return torch.cat([third, second, first], 1) * factor


def gate(x: Tensor, conv: nn.Module) -> Tensor:
    y: Tensor = conv(x.mean((2, 3), keepdim=True))
    return x * y.sigmoid()


def pads_by_hand(x: Tensor, conv: nn.Module) -> Tensor:
    y: Tensor = conv(F.pad(x, (1, 1, 2, 0), mode="circular"))
    return y


def uses_maxima(x: Tensor, conv: nn.Module) -> Tensor:
    values, places = F.max_pool2d(conv(x), 2, return_indices=True)
    return F.max_unpool2d(values, places, (2, 2))


def writes_into_a_constant(x: Tensor, conv: nn.Module) -> Tensor:
    whole = torch.ones(1, 8, 6, 6)
    whole[:, 4:].mul_(conv(x))
    return whole.relu()


def changes_its_input(x: Tensor, conv: nn.Module) -> Tensor:
    y: Tensor = conv(x.clamp_(0, 1))
    return y + x


BY_HAND = (residual, dense, split, gate, pads_by_hand, uses_maxima, writes_into_a_constant, changes_its_input)


@pytest.mark.parametrize("compute", BY_HAND, ids=lambda compute: str(compute.__name__))
def test_nodes_of_a_network_by_hand_give_what_was_seen(compute: Callable[..., Tensor]) -> None:
    torch.manual_seed(0)
    network, found = traced(compute, conv=nn.Conv2d(4, 4, 1))
    assert_nodes_give_what_was_seen(network, random_images(), found)


def test_an_operation_in_place_follows_its_tensor() -> None:
    _, found = traced(residual, conv=nn.Conv2d(4, 4, 1))
    assert ops(found) == [CONV2D, "add", "relu", "relu", "add"]
    assert [node.inputs for node in found.nodes] == [(-1,), (0, -1), (1,), (-1,), (2, 3)]
    assert found.output == 4
    assert [found.consumers(i) for i in range(-1, 5)] == [(0, 1, 3), (1,), (2,), (4,), (4,), ()]


def test_parts_of_a_split_are_told_apart() -> None:
    _, found = traced(split, conv=nn.Conv2d(4, 4, 1))
    (parts,) = (node for node in found.nodes if node.op == "split_with_sizes")
    (joined,) = (node for node in found.nodes if node.op == "cat")
    assert [pick for source, pick in zip(joined.inputs, joined.picks, strict=True)] != [2, 1, 0]
    # The others share memory with the part that was changed: what they are is not known any more.
    assert [found.nodes[source].op for source in joined.inputs] == [STALE, "mul", STALE]
    assert all(found.nodes[source].inputs == (parts.index,) for source in joined.inputs)


def test_a_tensor_changed_through_a_view_is_not_what_it_was() -> None:
    def compute(x: Tensor) -> Tensor:
        y = x * 2
        y[:, 0].mul_(100)
        return y + 0

    _, found = traced(compute)
    assert ops(found) == ["mul", "select", "mul", STALE, "add"]
    assert found.nodes[-1].inputs == (3,)


def test_a_constant_written_into_is_one_no_more() -> None:
    _, found = traced(writes_into_a_constant, conv=nn.Conv2d(4, 4, 1))
    assert ops(found) == [CONV2D, "mul", STALE, "relu"]
    assert torch.equal(found.nodes[1].arguments["self"], torch.ones(1, 4, 6, 6))  # as it was


def test_the_places_of_maxima_are_another_output() -> None:
    _, found = traced(uses_maxima, conv=nn.Conv2d(4, 4, 1))
    assert found.nodes[-1].inputs == (1, 1)
    assert found.nodes[-1].picks == (0, 1)


def test_constants_are_no_nodes() -> None:
    def compute(x: Tensor) -> Tensor:
        return x * torch.linspace(0, 1, 6).exp() + torch.zeros_like(x).add_(3)

    _, found = traced(compute)
    assert ops(found) == ["mul", "add"]


def test_a_shared_module_is_counted() -> None:
    _, found = traced(lambda x, conv, act: act(conv(act(conv(x)))), conv=nn.Conv2d(4, 4, 1), act=nn.ReLU())
    assert [(node.path, node.use) for node in found.nodes] == [("conv", 0), ("act", 0), ("conv", 1), ("act", 1)]


def test_names_are_those_of_the_wrapped_network() -> None:
    found = trace(backbones.load(BackboneConfig(name="glyphnet")), torch.ones(1, 3, SIDE, SIDE))
    assert [(node.op, node.path) for node in found.nodes[:4]] == [
        ("sub", ""),
        ("div", ""),
        (CONV2D, "stem"),
        ("batch_norm", "bn"),
    ]


def test_a_convolution_called_by_keyword_is_one_node() -> None:
    network, found = traced(lambda x, conv: conv(input=x), conv=nn.Conv2d(4, 2, 3, padding=1, padding_mode="reflect"))
    assert ops(found) == [CONV2D]
    assert_nodes_give_what_was_seen(network, random_images(), found)


class Standardised(nn.Conv2d):
    """Its weights have no mean (Qiao et al. 2019)."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with other weights."""
        return F.conv2d(input, self.weight - self.weight.mean((1, 2, 3), keepdim=True), self.bias)


class Bare(nn.Conv2d):
    """A subclass that computes nothing else."""


def test_only_what_convolves_with_its_own_weights_is_a_convolution() -> None:
    kinds: dict[str, nn.Module] = {
        CONV2D: Bare(4, 2, 3),
        "convolution": Standardised(4, 2, 3),
    }
    for op, conv in kinds.items():
        _, found = traced(lambda x, conv: conv(x), conv=conv)
        assert ops(found) == [op]
        assert found.nodes[0].path == "conv"


def test_a_parametrised_convolution_is_one_node() -> None:
    conv = parametrizations.weight_norm(nn.Conv2d(4, 2, 3))
    network, found = traced(lambda x, conv: conv(x), conv=conv)
    assert ops(found) == [CONV2D]
    assert_nodes_give_what_was_seen(network, random_images(), found)


def test_a_hook_of_others_is_no_part_of_the_convolution() -> None:
    conv = nn.Conv2d(4, 2, 3)
    conv.register_forward_hook(lambda *given: given[-1] * 2)
    _, found = traced(lambda x, conv: conv(x), conv=conv)
    assert ops(found) == [CONV2D, "mul"]


def test_tracing_leaves_no_trace() -> None:
    network, images = Does(changes_its_input, conv=nn.Conv2d(4, 4, 1)), random_images()
    before = images.clone()
    watch(network, images, trace(network, images), {})
    assert torch.equal(images, before)
    for module in network.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks


def test_a_batch_is_watched_with_the_trace_of_one() -> None:
    network, found = traced(residual, conv=nn.Conv2d(4, 4, 1))
    shapes = []
    output = watch(network, random_images(5), found, {0: lambda _, y: shapes.append(y.shape[0])})
    assert shapes == [len(output)] == [5]


def test_an_output_is_shown_before_it_is_changed() -> None:
    network, found = traced(lambda x, conv: conv(x).relu_(), conv=nn.Conv2d(4, 4, 1))
    seen: list[Tensor] = []
    watch(network, random_images(), found, {i: lambda _, y: seen.append(y.clone()) for i in range(2)})
    assert seen[0].min() < 0
    assert torch.equal(seen[0].relu(), seen[1])


def test_what_a_watcher_computes_is_not_recorded() -> None:
    network, found = traced(residual, conv=nn.Conv2d(4, 4, 1))

    def compute(inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert inputs[0].add(2).norm() + output.norm() > 0

    watch(network, random_images(), found, dict.fromkeys(range(len(found.nodes)), compute))


# Errors


def branching(x: Tensor) -> Tensor:
    if x.mean() > 0:
        return (x * 2).relu()
    return (x * 2).sigmoid()


@pytest.mark.parametrize(
    ("compute", "place"),
    [
        (branching, "sigmoid"),
        (lambda x: x * 2 if x.max() > 0 else x, "its end"),
        (lambda x: x if x.max() > 0 else x * 2, "mul"),
    ],
)
def test_a_network_that_computes_otherwise_is_refused(compute: Callable[..., Tensor], place: str) -> None:
    network = Does(compute)
    images = torch.ones(1, 3, 4, 4)
    with pytest.raises(BackboneError, match=f"otherwise than on the first image, at .*{place}.* nothing can be stated"):
        watch(network, -images, trace(network, images), {})


def test_train_mode_is_refused_by_name() -> None:
    norm = nn.BatchNorm2d(3)
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(norm)).eval()
    norm.train()
    with pytest.raises(BackboneError, match=r"1\.0 is in train mode, in which no bound holds: call eval\(\) first"):
        trace(network, torch.ones(1, 3, 4, 4))
    with pytest.raises(BackboneError, match="the network is in train mode"):
        trace(nn.ReLU(), torch.ones(1, 3, 4, 4))


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda x: (x, x), "the network gives tuple, not a tensor"),
        (lambda _: torch.ones(3), "the network's output does not depend on its input"),
    ],
)
def test_an_output_that_is_no_map_of_the_input_is_refused(compute: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(BackboneError, match=message):
        traced(compute)


def test_what_was_changed_elsewhere_cannot_be_run() -> None:
    _, found = traced(writes_into_a_constant, conv=nn.Conv2d(4, 4, 1))
    with pytest.raises(ValueError, match="there is nothing to run in changed through a view"):
        found.nodes[2].run(torch.ones(1))
