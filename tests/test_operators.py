"""Bounds of a convolution's norm against singular values of dense matrices and of its symbols."""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blurtrain import operators
from blurtrain.operators import EXACT, LOOSE, Layer, Padding, gains
from tests.inequality import (
    PADDINGS,
    dense,
    drawn_layer,
    layer_matrix,
    matrix_norm,
    padded,
    symbols,
    whole,
)

EXACTLY = 1 + 1e-12  # but for the rounding of the singular values that bounds are compared with


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def orthogonal(size: int) -> np.ndarray:
    return np.asarray(np.linalg.qr(noise(size, size))[0])


LAYERS = {
    "three in, two out": Layer(noise(2, 3, 3, 3), 6, 5),
    "two in, three out": Layer(noise(3, 2, 3, 3), 6, 5),
    "one": Layer(noise(1, 1, 3, 2), 5, 6, mode="circular"),
    "1 x 1": Layer(noise(4, 3, 1, 1), 4, 5),
    "one row": Layer(noise(3, 3, 1, 4), 3, 6),
    "one column": Layer(noise(3, 3, 4, 1), 3, 6),
    "even sides": Layer(noise(2, 2, 2, 4), 5, 5, padding=(1, 0, 2, 1)),
    "wider than its map": Layer(noise(2, 2, 5, 7), 2, 3, padding=(4, 4, 6, 6)),
    "wider than its torus": Layer(noise(2, 2, 5, 7), 2, 3, padding=(2, 2, 3, 3), mode="circular"),
    "one pixel": Layer(noise(2, 2, 1, 1), 1, 1, mode="circular"),
    "groups": Layer(noise(6, 2, 3, 3), 4, 5, groups=3),
    "groups with fewer outputs": Layer(noise(2, 3, 3, 3), 4, 5, groups=2),
    "one group much larger": Layer(noise(4, 2, 3, 3) * np.array([1, 1, 9, 9])[:, None, None, None], 4, 4, groups=2),
    "depthwise": Layer(noise(5, 1, 3, 3), 5, 4, groups=5),
    "depthwise with a multiplier": Layer(noise(6, 1, 3, 3), 5, 4, groups=3),
    "dilation": Layer(noise(2, 2, 3, 3), 6, 7, dilation=(2, 3)),
    "dilation beyond a torus": Layer(noise(2, 2, 3, 3), 3, 4, dilation=(5, 2), padding=(3, 4, 2, 2), mode="circular"),
    "stride": Layer(noise(2, 2, 3, 3), 6, 6, stride=(2, 3), padding=(1, 1, 1, 1)),
    "reflect": Layer(noise(2, 2, 3, 3), 5, 4, padding=(2, 1, 0, 3), mode="reflect"),
    "replicate": Layer(noise(2, 2, 3, 3), 2, 4, padding=(2, 5, 0, 3), mode="replicate"),
    "equal singular values": Layer(orthogonal(24)[:, :, None, None], 2, 2),
    "nearly equal singular values": Layer(orthogonal(7)[:, :, None, None] + 0.01 * noise(7, 7, 2, 2), 2, 2),
    "one singular value": Layer(noise(9, 1, 1, 1) * noise(1, 8, 2, 2), 3, 3),
    "cancelling taps": Layer(np.array([1.0, -3, 3, -1]).reshape(1, 1, 1, 4) * noise(3, 3, 1, 1), 1, 6, mode="circular"),
    "many": Layer(noise(48, 40, 3, 3), 3, 2, mode="circular"),
    "many and few": Layer(noise(5, 90, 3, 3), 3, 2, mode="circular"),
    "many with equal singular values": Layer(orthogonal(EXACT + 32)[:, :, None, None], 1, 1),
    "many with one singular value": Layer(noise(40, 1, 1, 1) * noise(1, 50, 1, 2), 1, 5, mode="circular"),
    "many in groups": Layer(noise(80, 40, 1, 2), 1, 4, groups=2, mode="circular"),
}
every_layer = pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)


def check_gains(layer: Layer) -> None:
    """Upper at every frequency, and not by more than promised."""
    height, width = layer.torus
    exact = np.linalg.svd(symbols(layer, height, width), compute_uv=False)[..., 0][:, : width // 2 + 1]
    found, size = gains(layer), np.abs(layer.weights).sum()
    assert found.shape == exact.shape
    assert found.dtype == np.float64
    assert (found * EXACTLY >= exact - 1e-14 * size).all()
    single = min(layer.weights.shape[1], len(layer.weights) // layer.groups) > EXACT
    assert (found <= exact * (LOOSE + (1e-3 if single else 1e-9)) + 1e-11 * size).all()
    assert layer.norm(found) <= layer.young * layer.padding_norm  # with one tap the norm may be as large


# Gains


@every_layer
def test_gains_are_upper_bounds_at_every_frequency(layer: Layer) -> None:
    check_gains(layer)


@given(st.integers(0, 10**6))
@settings(max_examples=150)
def test_gains_of_drawn_layers_are_upper_bounds_at_every_frequency(seed: int) -> None:
    check_gains(drawn_layer(np.random.default_rng(seed)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 17, EXACT, EXACT + 1, 70])
def test_equal_singular_values_are_the_loosest(size: int) -> None:
    (found,) = np.unique(gains(Layer(orthogonal(size)[:, :, None, None], 2, 3)))
    assert 1 <= found <= LOOSE + (1e-3 if size > EXACT else 1e-9)
    apart = Layer((orthogonal(size) * 0.7 ** np.arange(size))[:, :, None, None], 1, 1)
    assert gains(apart).max() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("size", "noisy", "equal"), [(128, 1.002, 1.03), (512, 1.025, 1.13)])
def test_single_precision_loosens_wide_layers(size: int, noisy: float, equal: float) -> None:
    """Roundoffs are added at each step, and count more the more singular values share the Frobenius norm."""
    for weights, most in ((noise(size, size), noisy), (orthogonal(size), equal)):
        found = gains(Layer(weights[:, :, None, None], 1, 1)).max()
        assert 1 <= found / matrix_norm(weights) <= most


@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 2), (1, 40), (40, 40)])
def test_zero_weights_have_no_gain(outputs: int, inputs: int) -> None:
    layer = Layer(np.zeros((outputs, inputs, 3, 3)), 4, 4)
    assert (gains(layer) == 0).all()
    assert layer.norm(gains(layer)) == 0


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 1)])
@pytest.mark.parametrize(("outputs", "inputs"), [(1, 1), (3, 2), (17, 19), (40, 40)])
def test_one_hot_weights_have_gain_one(place: tuple[int, int], outputs: int, inputs: int) -> None:
    weights = np.zeros((outputs, inputs, 3, 3))
    weights[-1, 0, *place] = 1
    found = gains(Layer(weights, 5, 4))
    assert (found >= 1).all()
    np.testing.assert_allclose(found, 1, rtol=0, atol=1e-3 if inputs > EXACT else 1e-12)


def test_moved_channels_have_gain_one() -> None:
    weights = np.zeros((4, 4, 3, 3))
    weights[[0, 1, 2, 3], [2, 0, 3, 1], [0, 1, 2, 2], [1, 1, 0, 2]] = 1
    found = gains(Layer(weights, 5, 4))
    assert found.min() >= 1
    assert found.max() <= LOOSE


@pytest.mark.parametrize("name", ["two in, three out", "one", "many", "groups", "cancelling taps"])
@pytest.mark.parametrize("factor", [-1.0, 3.0, 1e-20, -1e20])
def test_gains_scale_with_the_weights(name: str, factor: float) -> None:
    layer = LAYERS[name]
    scaled, expected = replace(layer, weights=factor * layer.weights), abs(factor) * gains(layer)
    relative = 1e-5 if name == "many" else 1e-12
    np.testing.assert_allclose(gains(scaled), expected, rtol=relative, atol=1e-13 * expected.max())
    assert scaled.young == pytest.approx(abs(factor) * layer.young, rel=1e-12)


def test_rounding_of_symbols_is_added_where_taps_cancel() -> None:
    """[1, -3, 3, -1] at the frequency t is (2 sin(t / 2))^3, down to 4e-9 on this torus."""
    layer = Layer(np.array([1.0, -3, 3, -1]).reshape(1, 1, 1, 4), 1, 4096, mode="circular")
    (found,) = gains(layer)
    exact = (2 * np.sin(np.pi * np.arange(2049) / 4096)) ** 3
    assert (found >= exact).all()
    np.testing.assert_allclose(found, exact, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("block", [1, 40, 333])
def test_blocks_of_frequencies_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LAYERS["groups"]
    expected = gains(layer)
    monkeypatch.setattr(operators, "BLOCK", block)
    np.testing.assert_allclose(gains(layer), expected, rtol=1e-12)


def test_layout_of_the_weights_changes_nothing() -> None:
    layer = LAYERS["three in, two out"]
    turned = replace(layer, weights=np.asfortranarray(layer.weights))
    np.testing.assert_allclose(gains(turned), gains(layer), rtol=1e-14)
    assert turned.content() == layer.content()


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_weights_must_be_finite(wrong: float) -> None:
    weights = noise(3, 2, 3, 3)
    weights[1, 0, 2, 1] = wrong
    with pytest.raises(ValueError, match="weights must be finite"):
        gains(Layer(weights, 4, 4))


# Norms


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
def test_norm_is_at_least_that_of_the_matrix(mode: Padding) -> None:
    count = 0
    for seed in range(400):
        layer = drawn_layer(np.random.default_rng(seed))
        if layer.mode != mode:
            continue
        count += 1
        norm, exact = layer.norm(gains(layer)), matrix_norm(layer_matrix(layer))
        assert norm * EXACTLY >= exact
        assert layer.young * layer.padding_norm * EXACTLY >= norm
    assert count >= 50


@pytest.mark.parametrize("shape", [(3, 3), (1, 5), (4, 2), (1, 1), (2, 2)], ids=str)
def test_norm_of_one_channel_on_a_torus_is_exact(shape: tuple[int, int]) -> None:
    layer = whole(Layer(noise(1, 1, *shape), 7, 6, dilation=(1, 2), mode="circular"))
    assert layer.norm(gains(layer)) == pytest.approx(matrix_norm(layer_matrix(layer)), rel=1e-9)


@pytest.mark.parametrize("name", ["three in, two out", "two in, three out", "groups", "depthwise", "dilation"])
def test_norm_of_circular_layers_is_that_of_their_matrix(name: str) -> None:
    layer = whole(replace(LAYERS[name], mode="circular"))
    assert layer.norm(gains(layer)) == pytest.approx(matrix_norm(layer_matrix(layer)), rel=1e-3)


@pytest.mark.parametrize(
    "weights",
    [
        np.full((1, 1, 3, 3), 1 / 9),
        noise(1, 1, 3, 3),
        noise(2, 1, 3, 3),
        np.array([-1.0, 2, -1]).reshape(1, 1, 1, 3),
        np.array([[1.0, 2, 1], [0, 0, 0], [-1, -2, -1]])[None, None],
    ],
    ids=["mean", "noise", "two", "edges", "sobel"],
)
def test_norm_is_close_on_large_maps_with_zeros(weights: np.ndarray) -> None:
    """The smaller the kernel beside the map, the less its edge matters."""
    down, across = (n // 2 for n in weights.shape[2:])
    layer = Layer(weights, 24, 24, padding=(down, down, across, across))
    exact = matrix_norm(layer_matrix(layer))
    assert exact <= layer.norm(gains(layer)) * EXACTLY <= 1.05 * exact


def test_norm_holds_on_the_larger_map_of_a_blur_that_is_not_cropped() -> None:
    """[1, -1] on 4 px that a blur has spread to 6: 2 cos(pi / 14) = 1.950, a torus of 4 + 1 has 2 sin(2 pi / 5)."""
    layer = Layer(np.array([1.0, -1]).reshape(1, 1, 1, 2), 1, 4, padding=(0, 0, 1, 1))
    exact, coarse = matrix_norm(layer_matrix(replace(layer, width=6))), np.abs(symbols(layer, 1, 5)).max()
    assert exact == pytest.approx(2 * math.cos(math.pi / 14))
    assert coarse == pytest.approx(2 * math.sin(2 * math.pi / 5))
    assert layer.norm(gains(layer)) >= exact > 1.02 * coarse


def test_stride_cannot_enlarge() -> None:
    for seed in range(60):
        layer = drawn_layer(np.random.default_rng(seed))
        norm = layer.norm(gains(layer))
        for stride in ((1, 1), (1, 2), (3, 2)):
            assert matrix_norm(layer_matrix(replace(layer, stride=stride))) <= norm * EXACTLY


def test_young_is_schurs_test_by_hand() -> None:
    weights = np.array([[[1.0, -2], [0, 3]], [[4, 0], [0, -1]], [[0, 1], [1, 0]], [[0, 0], [5, 6]]])[:, :, None]
    assert Layer(weights, 3, 3).young == pytest.approx(math.sqrt(11 * 16))  # into output 3; out of input 1
    grouped = Layer(weights, 3, 3, groups=2)  # into output 3: 5 + 6; out of input 1 of group 1: 1 + 11
    assert grouped.young == pytest.approx(math.sqrt(11 * 12))
    assert Layer(-2 * weights[:1, :1], 3, 3).young == pytest.approx(6)  # Young's inequality: the sum of |w|


# Padding


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@pytest.mark.parametrize(
    ("size", "padding"),
    [
        ((4, 5), (0, 0, 0, 0)),
        ((4, 5), (1, 1, 1, 1)),
        ((4, 5), (0, 0, 0, 2)),
        ((4, 5), (3, 0, 0, 1)),
        ((4, 5), (0, 3, 4, 4)),
        ((4, 5), (3, 3, 2, 1)),
        ((2, 3), (1, 1, 2, 2)),
        ((2, 3), (1, 0, 0, 2)),
        ((1, 1), (0, 0, 0, 0)),
    ],
    ids=str,
)
def test_padding_norm_is_that_of_the_matrix(
    mode: Padding, size: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    layer = Layer(np.ones((1, 1, 1, 1)), *size, padding=padding, mode=mode)
    matrix = dense(partial(padded, layer), 1, *size)
    assert layer.padding_norm == pytest.approx(matrix_norm(matrix), rel=1e-12)
    layer = replace(layer, weights=noise(2, 1, 1, 1))  # W is then the padding times a number
    assert layer.norm(gains(layer)) == pytest.approx(matrix_norm(layer_matrix(layer)), rel=1e-9)


@pytest.mark.parametrize(("size", "padding"), [((3, 2), (4, 1, 5, 0)), ((1, 1), (2, 3, 0, 1)), ((2, 1), (0, 9, 7, 7))])
def test_replicated_margins_may_be_wider_than_the_map(
    size: tuple[int, int], padding: tuple[int, int, int, int]
) -> None:
    layer = Layer(np.ones((1, 1, 1, 1)), *size, padding=padding, mode="replicate")
    matrix = dense(partial(padded, layer), 1, *size)
    assert layer.padding_norm == pytest.approx(matrix_norm(matrix), rel=1e-12)


def test_circular_padding_counts_repeated_outputs() -> None:
    layer = Layer(np.ones((1, 1, 3, 3)), 4, 4, padding=(1, 1, 1, 1), mode="circular")
    assert layer.padding_norm == 1  # as many outputs as inputs
    assert replace(layer, padding=(1, 2, 1, 1)).padding_norm == pytest.approx(math.sqrt(2))
    assert replace(layer, padding=(1, 2, 2, 1)).padding_norm == 2
    assert replace(layer, padding=(0, 0, 0, 0)).padding_norm == 1


@pytest.mark.parametrize("mode", PADDINGS)
def test_padding_norm_is_never_too_small(mode: Padding) -> None:
    rng = np.random.default_rng(0)
    for _ in range(80):
        height, width = (int(n) for n in rng.integers(1, 6, 2))
        most = (height, width) if mode == "circular" else (height - 1, width - 1)
        padding = tuple(int(rng.integers(0, most[side // 2] + 1)) for side in range(4))
        layer = Layer(np.ones((1, 1, 1, 1)), height, width, padding=padding, mode=mode)  # type: ignore[arg-type]
        exact = matrix_norm(dense(partial(padded, layer), 1, height, width))
        assert layer.padding_norm == pytest.approx(exact, rel=1e-12)


# What is no upper bound, with numbers


def test_coarse_grid_is_no_upper_bound() -> None:
    """[1, -1] on three pixels between zeros: 2 cos(pi / 8) = 1.848, while a torus of 3 has at most 2 sin(pi / 3)."""
    layer = Layer(np.array([1.0, -1]).reshape(1, 1, 1, 2), 1, 3, padding=(0, 0, 1, 1))
    exact, coarse = matrix_norm(layer_matrix(layer)), np.abs(symbols(layer, 1, 3)).max()
    assert exact == pytest.approx(2 * math.cos(math.pi / 8))
    assert coarse == pytest.approx(2 * math.sin(math.pi / 3))
    assert exact > 1.06 * coarse
    assert layer.norm(gains(layer)) >= exact


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_power_iteration_is_no_upper_bound(steps: int) -> None:
    layer = Layer(noise(3, 3, 3, 3), 6, 6, padding=(1, 1, 1, 1))
    matrix = layer_matrix(layer)
    image = noise(matrix.shape[1])
    for _ in range(steps):
        image = matrix.T @ (matrix @ image)
        image /= np.linalg.norm(image)
    estimate, exact = float(np.linalg.norm(matrix @ image)), matrix_norm(matrix)
    assert estimate < {1: 0.9, 3: 0.99, 10: 0.9999}[steps] * exact
    assert layer.norm(gains(layer)) >= exact


@pytest.mark.parametrize(
    ("mode", "ratio"),
    [("reflect", math.sqrt(2)), ("replicate", math.sqrt(2)), ("circular", 1.0)],
)
def test_gains_alone_are_no_upper_bound_of_a_layer_that_repeats_pixels(mode: Padding, ratio: float) -> None:
    """[0, 0, 1] moves one of two equal pixels into the map, and the other one is still there."""
    layer = Layer(np.array([0.0, 0, 1]).reshape(1, 1, 1, 3), 1, 3, padding=(0, 0, 1, 1), mode=mode)
    exact = matrix_norm(layer_matrix(layer))
    assert exact == pytest.approx(ratio * gains(layer).max(), rel=1e-9)
    assert layer.norm(gains(layer)) * EXACTLY >= exact


# Content


def test_content_is_all_that_gains_depend_on() -> None:
    layer = Layer(noise(4, 2, 3, 3), 5, 6, padding=(1, 1, 1, 1))
    changed = layer.weights.copy()
    changed[3, 1, 2, 2] = np.nextafter(changed[3, 1, 2, 2], 9)
    others = [
        layer,
        replace(layer, weights=changed),
        replace(layer, weights=layer.weights.reshape(2, 4, 3, 3)),
        replace(layer, weights=layer.weights.reshape(4, 2, 1, 9)),
        replace(layer, groups=2),
        replace(layer, dilation=(2, 1)),
        replace(layer, dilation=(1, 2)),
        replace(layer, height=6),
        replace(layer, width=7),
        replace(layer, height=6, width=5),
        replace(layer, mode="circular"),
        replace(layer, mode="reflect"),
        replace(layer, mode="reflect", padding=(1, 1, 1, 2)),
    ]
    assert len({other.content() for other in others}) == len(others)


def test_content_leaves_out_what_gains_do_not_depend_on() -> None:
    layer = Layer(noise(4, 2, 3, 3), 5, 6, padding=(1, 1, 1, 1))
    for other in (
        replace(layer, weights=layer.weights.copy()),
        replace(layer, stride=(2, 2)),
        replace(layer, lipschitz=1.5),
        replace(layer, padding=(0, 2, 0, 0)),
    ):
        assert other.content() == layer.content()
        np.testing.assert_array_equal(gains(other), gains(layer))


def test_content_depends_on_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = LAYERS["one"]
    before = layer.content()
    monkeypatch.setattr(operators, "VERSION", operators.VERSION + 1)
    assert layer.content() != before
