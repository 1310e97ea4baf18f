"""One convolution and its blurred input, against the same done in float64 on a map with room on all sides."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.signal import convolve2d
from torch import Tensor
from torch.nn import functional as F

from blurtrain.bounds import NAMES, bounds
from blurtrain.commuting import PARTS, Bounded, Convolved
from blurtrain.kernels import kernel
from blurtrain.operators import Layer, Padding, gains
from blurtrain.views import Blur

BLURS = (
    Blur("gaussian", 0.5),
    Blur("gaussian", 0.7),
    Blur("defocus", 1.6),
    Blur("motion", 3.0, 30.0),
    Blur("box", 3.0),
)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[Bounded, Tensor, Blur]:
    """A layer with bias and activation, maps for it, and a blur that is no wider than they are."""
    whole = st.integers
    groups, stride = draw(whole(1, 2)), (draw(whole(1, 3)), draw(whole(1, 3)))
    size, dilation = (draw(whole(1, 3)), draw(whole(1, 4))), (draw(whole(1, 2)), draw(whole(1, 2)))
    height, width = draw(whole(7, 11)), draw(whole(7, 12))
    generator = np.random.default_rng(draw(whole(0, 2**32)))
    weights = generator.standard_normal((2 * groups, draw(whole(1, 2)), *size))
    padding = (draw(whole(0, 3)), draw(whole(0, 3)), draw(whole(0, 3)), draw(whole(0, 3)))
    modes: list[Padding] = ["zeros", "zeros", "circular", "reflect", "replicate"]
    mode = draw(st.sampled_from(modes))
    layer = Layer(weights, height, width, stride, dilation, groups, padding, mode)
    activate = draw(st.sampled_from([torch.relu, F.leaky_relu, torch.tanh, torch.sigmoid]))
    maps = generator.standard_normal((2, weights.shape[1] * groups, height, width))
    bounded = Bounded(replace(layer, lipschitz=1.0), generator.standard_normal(len(weights)), activate)
    return bounded, torch.from_numpy(maps).float(), draw(st.sampled_from(BLURS))


def outputs(bounded: Bounded, maps: np.ndarray) -> np.ndarray:
    """The layer in float64, written once more."""
    layer = bounded.layer
    top, bottom, left, right = layer.padding
    mode = "constant" if layer.mode == "zeros" else layer.mode
    padded = F.pad(torch.from_numpy(maps), (left, right, top, bottom), mode=mode)
    weights, bias = torch.from_numpy(layer.weights), torch.from_numpy(bounded.bias)
    found = F.conv2d(padded, weights, bias, layer.stride, 0, layer.dilation, layer.groups)
    return np.asarray(bounded.activate(found).numpy())


def spread(maps: np.ndarray, weights: np.ndarray, room: tuple[int, int]) -> np.ndarray:
    """Every map in the middle of zeros, blurred."""
    wide = np.pad(maps, [(0, 0), (0, 0), (room[0],) * 2, (room[1],) * 2])
    return np.stack([[convolve2d(plane, weights, mode="same") for plane in image] for image in wide])


def wrapped(maps: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Every map on its torus, blurred."""
    return np.stack([[convolve2d(p, weights, mode="same", boundary="wrap") for p in image] for image in maps])


def unbiased(bounded: Bounded, layer: Layer) -> Bounded:
    """The linear part alone, of another layer with as many outputs."""
    return Bounded(layer, np.zeros(len(bounded.bias)), torch.clone)


def lengths(maps: np.ndarray) -> np.ndarray:
    return np.asarray(np.sqrt((maps**2).sum((1, 2, 3))))


@settings(max_examples=150)
@given(convolutions())
def test_what_is_measured_is_what_a_direct_computation_gives(drawn: tuple[Bounded, Tensor, Blur]) -> None:
    bounded, maps, view = drawn
    found, exact = Convolved(bounded, maps).blurred(kernel(view)), maps.double().numpy()
    down, across = bounded.layer.stride
    room = (12 * down, 12 * across)  # more than any kernel here needs, and in step with the stride
    if bounded.extension == "uncropped":
        clean, blurred = spread(exact, np.ones((1, 1)), room), spread(exact, kernel(view).weights, room)
    else:
        clean, blurred = exact, wrapped(exact, kernel(view).weights)
    change = lengths(outputs(bounded, clean) - outputs(bounded, blurred))
    np.testing.assert_allclose(found.change, change, rtol=2e-5, atol=2e-5)
    alone = replace(bounded.layer, stride=(1, 1), padding=(0, 0, 0, 0))
    if bounded.layer.mode == "zeros":  # of all positions, without stride and bias
        linear = outputs(unbiased(bounded, alone), spread(exact, np.ones((1, 1)), room))
        np.testing.assert_allclose(found.linear, lengths(linear), rtol=1e-5)
    if bounded.layer.mode == "circular":  # once around the torus
        rows, columns = bounded.layer.reach
        once = np.pad(exact, [(0, 0), (0, 0), (0, rows), (0, columns)], mode="wrap")
        np.testing.assert_allclose(found.linear, lengths(outputs(unbiased(bounded, alone), once)), rtol=1e-5)
    np.testing.assert_allclose(found.difference, lengths(clean - blurred), rtol=1e-5)
    np.testing.assert_allclose(found.image, lengths(exact), rtol=1e-5)


@settings(max_examples=100)
@given(convolutions())
def test_no_bound_is_violated_and_all_that_exist_are_compared(drawn: tuple[Bounded, Tensor, Blur]) -> None:
    bounded, maps, view = drawn
    promised = bounds(bounded.layer, gains(bounded.layer), kernel(view), bounded.extension)
    ratios = Convolved(bounded, maps).blurred(kernel(view)).ratios(promised)
    expected = set(NAMES) if bounded.layer.mode in ("zeros", "circular") else set(NAMES) - {"joint", "output"}
    assert set(ratios) == expected
    for name, ratio in ratios.items():
        assert (ratio <= 1 + 1e-5).all(), name


@settings(max_examples=60)
@given(convolutions())
def test_parts_add_up_to_the_change_after_pooling(drawn: tuple[Bounded, Tensor, Blur]) -> None:
    bounded, maps, view = drawn
    found, exact = Convolved(bounded, maps).parts(kernel(view)), maps.double().numpy()
    both = exact, wrapped(exact, kernel(view).weights)
    linear = (unbiased(bounded, layer) for layer in (replace(bounded.layer, stride=(1, 1)), bounded.layer))
    padding, strided, whole = (
        (outputs(one, both[0]) - outputs(one, both[1])).mean((2, 3)) for one in (*linear, bounded)
    )
    parts = dict(zip(PARTS, (padding, strided - padding, whole - strided), strict=True))
    for name, part in parts.items():
        np.testing.assert_allclose(found[name], (part * whole).sum(1), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(sum(found[name] for name in PARTS), (whole**2).sum(1), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("stride", "padding", "activate", "left"),
    [
        ((1, 1), (1, 1, 1, 1), torch.relu, "nonlinearity"),
        ((2, 2), (1, 1, 1, 1), torch.clone, "stride"),
        ((1, 1), (0, 0, 0, 0), torch.clone, "padding"),
    ],
)
def test_each_part_alone_is_all_of_the_change(
    stride: tuple[int, int], padding: tuple[int, int, int, int], activate: Callable[[Tensor], Tensor], left: str
) -> None:
    """Circular padding, stride 1 and no activation let no blur through global average pooling: change one of them."""
    generator = np.random.default_rng(0)
    mode: Padding = "zeros" if left == "padding" else "circular"
    layer = Layer(generator.standard_normal((3, 2, 3, 3)), 8, 8, stride, padding=padding, mode=mode)
    maps = torch.from_numpy(generator.standard_normal((4, 2, 8, 8))).float()
    found = Convolved(Bounded(layer, np.zeros(3), activate), maps).parts(kernel(Blur("gaussian", 1.0)))
    whole = np.sum([*found.values()], axis=0)
    assert (whole > 0).all()
    np.testing.assert_allclose(found[left] / whole, 1, atol=1e-3)


def test_a_linear_layer_on_a_torus_lets_no_blur_through_global_average_pooling() -> None:
    generator = np.random.default_rng(0)
    layer = Layer(generator.standard_normal((3, 2, 3, 3)), 8, 8, padding=(1, 1, 1, 1), mode="circular")
    maps = torch.from_numpy(generator.standard_normal((4, 2, 8, 8))).float()
    found = Convolved(Bounded(layer, np.ones(3), torch.clone), maps)
    assert max(np.abs(part).max() for part in found.parts(kernel(Blur("gaussian", 1.0))).values()) < 1e-10
    assert (found.blurred(kernel(Blur("gaussian", 1.0))).change > 0.1).all()
