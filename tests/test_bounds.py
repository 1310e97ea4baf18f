"""The seven bounds against errors that are measured by numpy, scipy and torch's conv2d alone (`tests.inequality`)."""

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from blurtrain import kernels
from blurtrain.blur import blur
from blurtrain.bounds import NAMES, ON_IMAGE, Bound, Extension, bounds, extension_norm, wider
from blurtrain.convolution import Kernel, Planar, from_weights
from blurtrain.operators import Layer, Padding, gains
from blurtrain.views import Blur
from tests.inequality import (
    ACTIVATIONS,
    EXTENSIONS,
    ROUNDING,
    Case,
    blurred,
    canvas,
    convolved,
    dense,
    dial,
    drawn,
    drawn_case,
    error,
    error_matrix,
    layer_matrix,
    matrix_norm,
    moved_matrix,
    norms,
    ratios,
    shift,
    sizes,
    symbols,
    whole,
)

VIOLATED = 1 + 1e-5  # a bound, relative
SEED, DRAWN = 0, 1200  # cases, each with nine images
BOTH = np.array([[1.0, -1]])  # a layer that is largest at the highest frequency across
NEIGHBOURS = np.array([[0.5, 0, 0.5]])  # a blur that is even, and makes -1 times such an image
every_extension = pytest.mark.parametrize("extension", [*EXTENSIONS, "uncropped"])


def constants(case: Case) -> dict[str, float]:
    """Of all bounds that are promised."""
    found = bounds(case.layer, gains(case.layer), case.kernel, case.extension)
    assert tuple(found) == NAMES
    for bound in found.values():
        assert (bound.constant is None) == bool(bound.reason)
        assert bound.constant is None or 0 <= bound.constant < math.inf
    return {name: bound.constant for name, bound in found.items() if bound.constant is not None}


def promised(case: Case) -> set[str]:
    """Names of the bounds that theory has for such a case."""
    if case.extension == "uncropped" and (case.layer.mode != "zeros" or too_wide(case)):
        return set()
    return {"lipschitz", *ON_IMAGE, "output"} if case.commutes else {"lipschitz", *ON_IMAGE} - {"joint"}


def too_wide(case: Case) -> bool:
    return case.kernel.shape[0] > case.layer.height or case.kernel.shape[1] > case.layer.width


def disorder(found: dict[str, float]) -> list[tuple[str, str]]:
    """Pairs that are not in the order joint <= spectral <= l1 <= young, l1 <= triangle."""
    pairs = [("joint", "spectral"), ("spectral", "l1"), ("l1", "young"), ("l1", "triangle")]
    return [(a, b) for a, b in pairs if a in found and found[a] > found[b] * (1 + 1e-12)]


# The fixed battery


@dataclass
class Tally:
    """What became of all drawn cases."""

    cases: int = 0
    comparisons: int = 0
    largest: dict[str, float] = field(default_factory=lambda: dict.fromkeys(NAMES, 0.0))
    violations: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    wrongly_promised: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)


@lru_cache(maxsize=1)
def battery() -> Tally:
    tally = Tally()
    for number, (case, images) in enumerate(drawn(SEED, DRAWN)):
        found, layer = constants(case), case.layer
        tally.cases += len(images)
        tally.disorder += [f"case {number}: {pair}" for pair in disorder(found)]
        if set(found) != promised(case):
            tally.wrongly_promised.append(f"case {number}: {sorted(found)}")
        tally.seen.update([layer.mode, case.extension, case.activation, f"groups {layer.groups > 1}"])
        tally.seen.update([f"stride {layer.stride != (1, 1)}", f"dilation {layer.dilation != (1, 1)}"])
        tally.seen.update([f"wide {too_wide(case)}", f"even {case.kernel.is_even}", f"commutes {case.commutes}"])
        for name, shares in ratios(case, np.stack(list(images.values())), found).items():
            tally.comparisons += len(shares)
            tally.largest[name] = max(tally.largest[name], float(shares.max()))
            tally.violations += [
                f"case {number}, {kind}, {name}: {share:.6f} of its bound"
                for kind, share in zip(images, shares, strict=True)
                if not share <= VIOLATED
            ]
    return tally


def test_no_bound_is_violated_by_any_drawn_case() -> None:
    tally = battery()
    assert tally.violations == []
    assert tally.cases >= 10_000
    assert tally.comparisons >= 50_000


def test_bounds_of_drawn_cases_are_ordered() -> None:
    assert battery().disorder == []


def test_what_is_promised_is_what_theory_has() -> None:
    assert battery().wrongly_promised == []


def test_battery_has_every_kind_of_case() -> None:
    kinds = [*ACTIVATIONS, *EXTENSIONS, "uncropped", "zeros", "circular", "reflect", "replicate"]
    kinds += [
        f"{what} {yes}" for what in ("groups", "stride", "dilation", "wide", "even", "commutes") for yes in (0, 1)
    ]
    seen = battery().seen
    for kind in kinds:
        word = kind.replace(" 0", " False").replace(" 1", " True")
        assert seen[word] >= 50, word


def test_no_bound_is_much_larger_than_its_largest_error() -> None:
    largest = battery().largest
    least = {"lipschitz": 0.999, "triangle": 0.6, "young": 0.8, "l1": 0.9, "spectral": 0.99, "joint": 0.99}
    for name, share in least.items():
        assert largest[name] >= share, (name, largest)
    assert largest["output"] >= 0.99


# Drawn again, with shrinking, and all images of a case at once


@st.composite
def small_cases(draw: st.DrawFn) -> Case:
    """Of whole numbers, so that what fails can be checked by hand."""
    side, count, step = st.integers(1, 5), st.integers(1, 3), st.integers(1, 2)
    height, width, groups, outer, inner = draw(side), draw(side), draw(step), draw(step), draw(step)
    shape = (groups * outer, inner, draw(count), draw(count))
    mode: Padding = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    most = (height - 1, width - 1) if mode == "reflect" else (height, width) if mode == "circular" else (4, 4)
    margins = [draw(st.integers(0, most[number // 2])) for number in range(4)]
    activation = draw(st.sampled_from(list(ACTIVATIONS)))
    layer = Layer(
        draw(arrays.arrays(np.float64, shape, elements=st.integers(-3, 3))),
        height,
        width,
        (draw(step), draw(step)),
        (draw(step), draw(step)),
        groups,
        (margins[0], margins[1], margins[2], margins[3]),
        mode,
        float(ACTIVATIONS[activation].lipschitz),
    )
    assume(all(n > reach for n, reach in zip(layer.padded, layer.reach, strict=True)))
    odd = st.sampled_from([1, 3, 5])
    weights = draw(arrays.arrays(np.float64, (draw(odd), draw(odd)), elements=st.integers(0, 3)))
    assume(weights.any())
    bias = draw(arrays.arrays(np.float64, len(layer.weights), elements=st.integers(-3, 3)))
    extension: Extension = draw(st.sampled_from(["uncropped", *EXTENSIONS]))
    return Case(layer, bias, activation, Planar(weights / weights.sum()), extension)


def check_order_and_promises(case: Case) -> dict[str, float]:
    found = constants(case)
    assert set(found) == promised(case)
    assert disorder(found) == []
    return found


@given(small_cases(), st.data())
@settings(max_examples=300)
def test_no_image_violates_a_bound(case: Case, data: st.DataObject) -> None:
    found, layer = check_order_and_promises(case), case.layer
    shape = (1, layer.groups * layer.weights.shape[1], layer.height, layer.width)
    image = data.draw(arrays.arrays(np.float64, shape, elements=st.integers(-4, 4)))
    for name, shares in ratios(case, image, found).items():
        assert shares.max() <= VIOLATED, name


def check_operators(case: Case) -> None:
    """Without an activation the worst image of all is a singular vector of the matrix of W (x - x_b)."""
    found = check_order_and_promises(case)
    if not found:
        return
    layer, matrix = case.layer, error_matrix(case)
    worst, scale = matrix_norm(matrix), layer.lipschitz
    nothing = ROUNDING * np.abs(layer.weights).sum()
    for name in set(ON_IMAGE) & set(found):
        assert scale * worst <= found[name] * VIOLATED + nothing, name
    assert scale * matrix_norm(layer_matrix(layer)) <= found["lipschitz"] * VIOLATED + nothing
    if "output" in found:
        before = layer_matrix(whole(layer))
        kept = np.linalg.pinv(before, rcond=1e-9)
        assert scale * matrix_norm(matrix @ kept) <= found["output"] * VIOLATED + 1e-8
        blind = matrix - matrix @ kept @ before  # of images that the layer does not see
        assert matrix_norm(blind) <= 1e-6 * (nothing / ROUNDING)


@given(small_cases())
@settings(max_examples=200)
def test_no_bound_is_below_the_norm_of_the_whole_operator(case: Case) -> None:
    check_operators(case)


@given(st.integers(0, 10**6))
@settings(max_examples=150)
def test_no_bound_is_below_the_norm_of_the_operator_of_families_of_blurs(seed: int) -> None:
    check_operators(drawn_case(np.random.default_rng([7, seed])))


@given(small_cases(), st.integers(0, 99))
@settings(max_examples=100)
def test_lipschitz_holds_for_any_two_inputs(case: Case, seed: int) -> None:
    """Whatever happened to an image: another one, rounding to 8 bit, a constant."""
    layer, rng = case.layer, np.random.default_rng(seed)
    constant = constants(replace(case, extension="zero"))["lipschitz"]
    image = rng.random((1, layer.groups * layer.weights.shape[1], layer.height, layer.width))
    for other in (rng.standard_normal(image.shape), (255 * image).round() / 255, np.full(image.shape, 0.5)):
        one, two = (
            ACTIVATIONS[case.activation].function(torch.from_numpy(convolved(layer, x) + case.bias[:, None, None]))
            for x in (image, other)
        )
        measured = float(norms((one - two).numpy())[0])
        assert measured <= constant * float(norms(image - other)[0]) * VIOLATED + 1e-12


# Equality


def torus_layer(weights: np.ndarray, height: int, width: int, **rest: int | tuple[int, int]) -> Layer:
    """A circular layer with as many outputs as inputs."""
    weights = np.array(weights, dtype=np.float64)
    while weights.ndim < 4:
        weights = weights[None]
    return whole(Layer(weights, height, width, mode="circular", **rest))  # type: ignore[arg-type]


def alternating(*shape: int) -> np.ndarray:
    """+1 and -1 from column to column, in all channels."""
    return np.broadcast_to((-1.0) ** np.arange(shape[-1]), (1, *shape)).copy()


def linear(layer: Layer, kernel: Kernel, extension: Extension) -> Case:
    return Case(layer, np.zeros(len(layer.weights)), "none", kernel, extension)


CIRCULAR = linear(torus_layer(BOTH, 4, 6), Planar(NEIGHBOURS), "circular")
IN_TWO_AXES = Planar(np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]]) / 4)
FOURTH = Planar(np.array([[0.5, 0, 0, 0, 0.5]]))
EVEN = [kernels.gaussian(0.6), kernels.gaussian(2.0), kernels.box(3.0), kernels.box(5.0), kernels.box(7.0), IN_TWO_AXES]
EVEN += [kernels.defocus(1.5), kernels.defocus(3.25), Planar(NEIGHBOURS), kernels.kernel(Blur("motion", 5.0, 90.0))]
EQUAL: dict[str, tuple[Case, np.ndarray, tuple[str, ...]]] = {
    # Both neighbours' mean is -1 times the image: 1 - khat = 2 = 1 + ||k||_1, and [1, -1] doubles it.
    "mean of both neighbours": (CIRCULAR, alternating(1, 4, 6), NAMES),
    "moved by a pixel": (replace(CIRCULAR, kernel=shift(0, 1)), alternating(1, 4, 6), NAMES),
    "kernel wider than the torus": (replace(CIRCULAR, kernel=shift(0, 15)), alternating(1, 4, 6), NAMES),
    "checkerboard": (
        linear(torus_layer(BOTH.T * BOTH, 4, 6), IN_TWO_AXES, "circular"),
        alternating(1, 4, 6) * alternating(1, 6, 4).mT,
        NAMES,
    ),
    "channels": (
        linear(torus_layer(np.tile(BOTH, (3, 2, 1, 1)), 2, 4), Planar(NEIGHBOURS), "circular"),
        alternating(2, 2, 4),
        NAMES,
    ),
    "groups": (
        linear(torus_layer(np.tile(BOTH, (4, 2, 1, 1)), 2, 4, groups=2), Planar(NEIGHBOURS), "circular"),
        alternating(4, 2, 4),
        NAMES,
    ),
    "dilation": (
        linear(torus_layer(BOTH, 2, 6, dilation=(1, 3)), shift(0, 1), "circular"),
        alternating(1, 2, 6),
        NAMES,
    ),
    # Decimation loses nothing of an image that lives on every second column.
    "stride": (
        linear(Layer(np.ones((1, 1, 1, 1)), 1, 8, stride=(1, 2), mode="circular"), FOURTH, "circular"),
        np.array([1.0, 0, -1, 0, 1, 0, -1, 0]).reshape(1, 1, 1, 8),
        NAMES,
    ),
    "zeros": (
        linear(Layer(BOTH[None, None], 1, 800, padding=(0, 0, 1, 1)), Planar(NEIGHBOURS), "uncropped"),
        alternating(1, 1, 800),
        NAMES,
    ),
    # 1 - khat = 1 + 1 / 3 = 2 (1 - 1 / 3): the bound by ||delta - k||_1 without the triangle inequality.
    "box of three": (
        replace(CIRCULAR, kernel=Planar(np.full((1, 3), 1 / 3))),
        alternating(1, 4, 6),
        tuple(name for name in NAMES if name != "triangle"),
    ),
    "gaussian": (
        linear(torus_layer(BOTH.T * BOTH, 6, 6), kernels.gaussian(0.8), "circular"),
        alternating(1, 6, 6) * alternating(1, 6, 6).mT,
        ("lipschitz", "spectral", "joint", "output"),
    ),
}


@pytest.mark.parametrize(("case", "image", "names"), EQUAL.values(), ids=EQUAL)
def test_bounds_are_attained(case: Case, image: np.ndarray, names: tuple[str, ...]) -> None:
    found = check_order_and_promises(case)
    shares = ratios(case, image, found)
    for name in names:
        assert 0.99 <= shares[name][0] <= VIOLATED, name


@pytest.mark.parametrize("seed", range(12))
def test_joint_is_attained_at_its_frequency(seed: int) -> None:
    """By a wave there, in the mixture of channels that the layer amplifies most: also where spectral is larger."""
    rng = np.random.default_rng(seed)
    layer = torus_layer(rng.standard_normal((3, 2, 3, 2)), 7, 6)
    case = linear(layer, kernels.kernel(Blur("motion", 3.0, 30.0)), "circular")
    there = symbols(layer, 7, 6)
    wrapped = np.zeros((7, 6))
    rows, columns = case.kernel.shape
    for row, column in np.ndindex(rows, columns):
        wrapped[(row - rows // 2) % 7, (column - columns // 2) % 6] += case.kernel.weights[row, column]
    products = np.abs(1 - np.fft.fft2(wrapped)) * np.linalg.svd(there, compute_uv=False)[..., 0]
    u, v = np.unravel_index(products.argmax(), products.shape)
    mixture = np.linalg.svd(there[u, v].conj())[2][0].conj()
    row, column = np.indices((7, 6))
    image = (mixture[:, None, None] * np.exp(2j * np.pi * (u * row / 7 + v * column / 6))).real[None]
    found = constants(case)
    assert found["joint"] == pytest.approx(products.max(), rel=1e-3)
    shares = ratios(case, image, found)
    assert 0.99 <= shares["joint"][0] <= VIOLATED
    assert shares["spectral"][0] < shares["joint"][0] * VIOLATED


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_constants_of_activations_are_attained(name: str) -> None:
    """By a small image where the slope is steepest."""
    activation = ACTIVATIONS[name]
    layer = replace(CIRCULAR.layer, lipschitz=float(activation.lipschitz))
    case = replace(CIRCULAR, layer=layer, activation=name, bias=np.array([float(activation.steepest)]))
    shares = ratios(case, 1e-5 * alternating(1, 4, 6), constants(case))
    for bound in NAMES:
        assert 0.99 <= shares[bound][0] <= VIOLATED, bound


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_lipschitz_is_attained_by_a_layer_that_repeats_pixels(mode: Padding) -> None:
    layer = Layer(np.array([0.0, 0, 1]).reshape(1, 1, 1, 3), 1, 4, padding=(0, 0, 1, 1), mode=mode)
    case = linear(layer, kernels.gaussian(0.7), "zero")
    wanted = np.linalg.svd(layer_matrix(layer))[2][0]  # as x - x_b
    image = np.linalg.solve(moved_matrix(1, 4, case.kernel, "zero"), wanted).reshape(1, 1, 1, 4)
    assert ratios(case, image, constants(case))["lipschitz"][0] == pytest.approx(1, rel=1e-9)


# What would be violated, with numbers, and is refused


def reason(found: dict[str, Bound], *names: str) -> str:
    """The one reason why none of these is promised."""
    assert all(found[name].constant is None for name in names)
    (words,) = {found[name].reason for name in names}
    return words


def test_blur_that_reflects_at_the_edge_does_not_commute() -> None:
    """Box of 3 px, reflect-101, before the sum of 2 x 2 px between zeros: 2.514 where joint would say 2."""
    layer = Layer(np.ones((1, 1, 2, 2)), 4, 4, padding=(1, 1, 1, 1))
    case = linear(layer, kernels.box(3.0), "reflect101")
    found = bounds(layer, gains(layer), case.kernel, "reflect101")
    words = "a blur with reflect101 border does not commute with a layer that pads with zeros"
    assert reason(found, "joint", "output") == words
    joint = constants(replace(case, kernel=Planar(np.full((3, 3), 1 / 9)), extension="uncropped"))["joint"]
    assert joint == pytest.approx(2)
    assert matrix_norm(error_matrix(case)) == pytest.approx(2.514, abs=1e-3)


def test_output_does_not_hold_for_a_blur_that_reflects_at_the_edge() -> None:
    """The sum of 4 x 4 px hardly sees an image, and sees its blurred version: 1.84 times the bound."""
    layer = Layer(np.ones((1, 1, 4, 4)), 6, 6, padding=(3, 3, 3, 3))
    case = linear(layer, kernels.box(3.0), "reflect101")
    output = constants(replace(case, extension="uncropped"))["output"]
    matrix = error_matrix(case) @ np.linalg.pinv(layer_matrix(layer))
    assert matrix_norm(matrix) / output == pytest.approx(1.838, abs=1e-3)


@pytest.mark.parametrize(("extension", "measured"), [("reflect101", 6.845), ("zero", 5.734), ("replicate", 1.429)])
def test_circular_layers_commute_with_no_other_border(extension: Extension, measured: float) -> None:
    """A sum over the whole torus sees the mean alone, which a circular blur keeps: joint would be 0."""
    layer = torus_layer(np.ones((4, 4)), 4, 4)
    case = linear(layer, kernels.gaussian(1.0), extension)
    assert constants(replace(case, extension="circular"))["joint"] == pytest.approx(0, abs=1e-9)
    assert matrix_norm(error_matrix(case)) == pytest.approx(measured, abs=1e-3)
    words = f"a blur with {extension} border does not commute with a layer that pads with circular"
    assert reason(bounds(layer, gains(layer), case.kernel, extension), "joint", "output") == words


def test_cropped_blur_with_zeros_does_not_commute() -> None:
    """A sum of 15 px sees the light that the blur sent beyond the edge: 1.33 times joint, 1.15 times output."""
    layer = Layer(np.ones((1, 1, 1, 15)), 1, 5, padding=(0, 0, 14, 14))
    case = linear(layer, Planar(np.full((1, 3), 1 / 3)), "zero")
    uncropped, matrix = constants(replace(case, extension="uncropped")), error_matrix(case)
    assert matrix_norm(matrix) == pytest.approx(1.7691, abs=1e-4)
    assert uncropped["joint"] == pytest.approx(1.3333, abs=1e-4)
    assert matrix_norm(matrix @ np.linalg.pinv(layer_matrix(layer))) == pytest.approx(1.1499 * 4 / 3, abs=1e-3)
    assert uncropped["output"] == pytest.approx(4 / 3, abs=1e-4)
    found = bounds(layer, gains(layer), case.kernel, "zero")
    words = "a blur with zero border does not commute with a layer that pads with zeros"
    assert reason(found, "joint", "output") == words


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_layer_that_repeats_pixels_violates_every_norm_without_its_padding(mode: Padding) -> None:
    """[0, 0, 1]: even lipschitz, by sqrt(2); and no blur commutes with it."""
    layer = Layer(np.array([0.0, 0, 1]).reshape(1, 1, 1, 3), 1, 4, padding=(0, 0, 1, 1), mode=mode)
    case = linear(layer, kernels.gaussian(0.7), "zero")
    wanted = np.linalg.svd(layer_matrix(layer))[2][0]
    image = np.linalg.solve(moved_matrix(1, 4, case.kernel, "zero"), wanted).reshape(1, 1, 1, 4)
    without = gains(layer).max() * sizes(case, image)["lipschitz"]
    assert error(case, image)[0] == pytest.approx(math.sqrt(2) * without[0])
    for extension in EXTENSIONS:
        found = bounds(layer, gains(layer), case.kernel, extension)
        assert reason(found, "joint", "output") == f"no blur commutes with a layer that pads by {mode}"
    found = bounds(layer, gains(layer), shift(0, 1), "uncropped")
    assert reason(found, *NAMES) == f"a layer that pads by {mode} is another one on a larger map"


def test_circular_layer_is_another_one_on_a_larger_map() -> None:
    """What its norm is about is a torus of its own size."""
    layer = torus_layer(BOTH, 3, 3)
    words = "a layer that pads by circular is another one on a larger map"
    assert reason(bounds(layer, gains(layer), shift(0, 1), "uncropped"), *NAMES) == words


@pytest.mark.parametrize(
    ("length", "n", "measured", "factor"),
    [(6.0, 5, 1.2166, 1.1520), (7.0, 5, 1.3241, 1.2437), (12.0, 6, 1.2960, 1.2053)],
)
def test_diagonal_line_needs_a_factor_at_a_symmetric_border(
    length: float, n: int, measured: float, factor: float
) -> None:
    kernel = kernels.kernel(Blur("motion", length, 45.0))
    assert kernel.furthest(360, 360) == pytest.approx(factor, abs=1e-4)
    assert matrix_norm(moved_matrix(n, n, kernel, "symmetric")) == pytest.approx(measured, abs=1e-4)
    assert not kernel.is_even
    layer = torus_layer(np.ones((1, 1)), n, n)
    assert constants(linear(layer, kernel, "symmetric"))["spectral"] >= 2 * factor * (1 - 1e-2)


@pytest.mark.parametrize(("sigma", "n", "measured"), [(1.0, 3, 1.1079), (2.0, 3, 1.1250), (2.0, 12, 1.0387)])
def test_gaussian_needs_a_factor_at_a_reflecting_border(sigma: float, n: int, measured: float) -> None:
    kernel = kernels.gaussian(sigma)
    assert kernel.furthest(360, 360) < 1.00002
    assert matrix_norm(moved_matrix(n, n, kernel, "reflect101")) == pytest.approx(measured, abs=1e-4)
    assert constants(linear(torus_layer(np.ones((1, 1)), n, n), kernel, "reflect101"))["spectral"] >= measured


def test_output_is_measured_without_stride() -> None:
    """Every second pixel of the image is 0, and the blur fills it from its neighbours."""
    layer = Layer(np.ones((1, 1, 1, 1)), 1, 8, stride=(1, 2), mode="circular")
    case = linear(layer, kernels.box(3.0), "circular")
    case = replace(case, kernel=Planar(np.full((1, 3), 1 / 3)))
    image = np.array([0.0, 1] * 4).reshape(1, 1, 1, 8)
    assert error(case, image)[0] == pytest.approx(4 / 3)
    assert norms(convolved(layer, image))[0] == 0
    assert constants(case)["output"] * norms(convolved(whole(layer), image))[0] == pytest.approx(8 / 3)


def test_output_is_measured_beyond_the_layers_own_crop() -> None:
    """A layer without padding does not see the edge, and the blur brings it in."""
    layer = Layer(np.ones((1, 1, 1, 3)), 1, 3)
    case = linear(layer, Planar(np.full((1, 3), 1 / 3)), "uncropped")
    image = np.array([1.0, -2, 1]).reshape(1, 1, 1, 3)
    assert norms(convolved(layer, image))[0] == 0  # 1 - 2 + 1
    assert error(case, image)[0] > 0.1
    assert error(case, image)[0] <= constants(case)["output"] * sizes(case, image)["output"][0]


def test_output_is_measured_without_bias() -> None:
    """The bias takes all of W x away, and an error stays."""
    layer = Layer(np.ones((1, 1, 1, 1)), 1, 6)
    case = replace(linear(layer, Planar(np.full((1, 3), 1 / 3)), "uncropped"), bias=np.array([-1.0]))
    image = np.ones((1, 1, 1, 6))
    assert norms(convolved(layer, image) + case.bias[:, None, None])[0] == 0
    assert error(case, image)[0] == pytest.approx(2 / 3)  # 1 / 3 in each of the two pixels on either side of an edge
    assert error(case, image)[0] <= constants(case)["output"] * norms(convolved(whole(layer), image))[0]


def test_frequencies_of_the_map_alone_are_too_few() -> None:
    """The mean of both neighbours on 3 px between zeros: 1 + cos(pi / 4), while a torus of 3 has at most 3 / 2."""
    kernel, layer = Planar(NEIGHBOURS), torus_layer(np.ones((1, 1)), 1, 3)
    assert matrix_norm(moved_matrix(1, 3, kernel, "zero")) == pytest.approx(1 + math.cos(math.pi / 4))
    assert kernel.furthest(1, 3) == pytest.approx(3 / 2)
    assert constants(linear(layer, kernel, "zero"))["spectral"] >= 1 + math.cos(math.pi / 4)


def test_blur_that_is_not_cropped_needs_a_torus_for_all_of_it() -> None:
    """[1, -1] twice, on 4 px: a torus of 4 + 1 for the layer alone has no frequency near the worst one."""
    layer = Layer(np.ones((1, 1, 1, 2)) * BOTH, 1, 4, padding=(0, 0, 1, 1))
    case = linear(layer, shift(0, 1), "uncropped")
    found = check_order_and_promises(case)
    exact = matrix_norm(error_matrix(case))
    assert found["spectral"] >= found["joint"] >= exact
    coarse = (np.abs(1 - case.kernel.spectrum(1, 5)) * np.abs(symbols(layer, 1, 5)[..., 0, 0])).max()
    assert exact == pytest.approx(3.6586, abs=1e-4)
    assert coarse == pytest.approx(4 * math.sin(2 * math.pi / 5) ** 2)  # 3.618


@pytest.mark.parametrize(
    ("kernel_shape", "size", "words"),
    [
        ((3, 5), (4, 4), "the kernel of 3 x 5 px is wider than the map of 4 x 4 px"),
        ((5, 3), (4, 9), "the kernel of 5 x 3 px is wider than the map of 4 x 9 px"),
        ((3, 3), (1, 1), "the kernel of 3 x 3 px is wider than the map of 1 x 1 px"),
        ((3, 5), (3, 5), ""),
        ((1, 1), (1, 1), ""),
    ],
)
def test_kernel_must_fit_the_map_if_the_blur_is_not_cropped(
    kernel_shape: tuple[int, int], size: tuple[int, int], words: str
) -> None:
    layer = Layer(np.ones((1, 1, 2, 2)), *size, padding=(1, 1, 1, 1))
    kernel = Planar(np.full(kernel_shape, 1 / math.prod(kernel_shape)))
    assert wider(kernel, layer) == words
    found = bounds(layer, gains(layer), kernel, "uncropped")
    if words:
        assert reason(found, *NAMES) == words
    else:
        assert all(bound.constant is not None for bound in found.values())
    for extension in EXTENSIONS:
        check_operators(linear(layer, kernel, extension))


def test_torus_would_be_too_small_for_a_kernel_that_is_wider_than_the_map() -> None:
    """What a blur moves by 5 px wraps around on a torus of 2 x 2 px and meets itself."""
    layer = Layer(np.ones((1, 1, 1, 1)), 1, 2)
    far = linear(layer, from_weights(np.eye(1, 9) / 2 + np.eye(1, 9, 8) / 2), "uncropped")
    exact = matrix_norm(error_matrix(far))
    assert far.kernel.furthest(*layer.torus) == pytest.approx(0, abs=1e-12)
    assert exact == pytest.approx(math.sqrt(1.5))
    with_room = replace(layer, width=9)
    assert constants(replace(far, layer=with_room))["spectral"] >= exact


def test_kernel_wider_than_the_map_does_not_wrap_around_at_other_borders() -> None:
    """Moved by 4 px to both sides, nothing stays of 2 px between zeros, and all of them on a torus of 2 x 2."""
    kernel, layer = from_weights(np.eye(1, 9) / 2 + np.eye(1, 9, 8) / 2), Layer(np.ones((1, 1, 1, 1)), 1, 2)
    assert kernel.furthest(1, 4) == pytest.approx(0, abs=1e-12)
    assert matrix_norm(moved_matrix(1, 2, kernel, "zero")) == 1
    assert constants(linear(layer, kernel, "zero"))["spectral"] >= 1
    assert constants(linear(layer, kernel, "circular"))["spectral"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate"])
@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_circular_blur_is_bounded_on_its_own_torus(mode: Padding, n: int) -> None:
    """Whatever the layer pads with; kernels may be wider than the map."""
    layer = Layer(np.ones((1, 1, 1, 1)), n, n + 1, mode=mode)
    for kernel in (*EVEN, shift(0, 2), shift(-1, 3), kernels.half_gaussian(1.5, 20.0)):
        spectral = constants(linear(layer, kernel, "circular"))["spectral"]
        assert spectral == pytest.approx(matrix_norm(moved_matrix(n, n + 1, kernel, "circular")), abs=1e-9)


def test_joint_is_never_above_spectral_where_young_is_the_norm() -> None:
    """Gains overestimate equal singular values, and Young's bound is exact for moved channels."""
    layer = torus_layer(np.eye(5)[:, :, None, None], 2, 4)
    assert gains(layer).max() > 1.001
    found = check_order_and_promises(linear(layer, Planar(NEIGHBOURS), "circular"))
    assert found["joint"] == pytest.approx(2, rel=1e-12)


@pytest.mark.parametrize("lipschitz", [math.inf, math.nan])
@every_extension
def test_activation_must_have_a_constant(lipschitz: float, extension: Extension) -> None:
    layer = Layer(np.ones((1, 1, 3, 3)), 5, 5, padding=(1, 1, 1, 1), lipschitz=lipschitz)
    found = bounds(layer, gains(layer), kernels.box(3.0), extension)
    assert reason(found, *NAMES) == "the activation has no Lipschitz constant"


# Factors


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (3, 2), (4, 5)], ids=str)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (3, 5), (5, 3), (9, 7)], ids=str)
def test_factor_of_a_border_is_the_norm_of_the_extension(size: tuple[int, int], shape: tuple[int, int]) -> None:
    lopsided = Planar(np.random.default_rng(shape).dirichlet(np.ones(math.prod(shape))).reshape(shape))
    margins = [(0, 0)] * 2 + [(n // 2, n // 2) for n in shape]
    for extension in ("symmetric", "reflect101", "replicate"):
        if extension == "symmetric" and lopsided.is_even:
            continue
        extended = partial(np.pad, pad_width=margins, mode=EXTENSIONS[extension])
        matrix = dense(extended, 1, *size)
        multiplicity = matrix.sum(0).max()
        assert extension_norm(*size, lopsided, extension) == pytest.approx(matrix_norm(matrix), rel=1e-12)
        assert extension_norm(*size, lopsided, extension) == pytest.approx(math.sqrt(multiplicity), rel=1e-12)
    for free in ("zero", "circular", "uncropped"):
        assert extension_norm(*size, lopsided, free) == 1


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 3), (5, 4), (7, 6)], ids=str)
@pytest.mark.parametrize("kernel", EVEN, ids=range(len(EVEN)))
def test_even_kernel_needs_no_factor_at_a_symmetric_border(kernel: Kernel, size: tuple[int, int]) -> None:
    """Its blur is diagonal in cosines of half the torus' frequencies, which a border matrix confirms."""
    assert kernel.is_even
    assert extension_norm(*size, kernel, "symmetric") == 1
    exact = matrix_norm(moved_matrix(*size, kernel, "symmetric"))
    moved = np.abs(1 - kernel.spectrum(2 * size[0], 2 * size[1]))
    assert exact == pytest.approx(moved[: size[0], : size[1]].max(), abs=1e-12)
    layer = torus_layer(np.ones((1, 1)), *size)
    spectral = constants(linear(layer, kernel, "symmetric"))["spectral"]
    assert exact <= spectral + 1e-12
    assert spectral == pytest.approx(min(moved.max(), kernel.distance), abs=1e-9)


@pytest.mark.parametrize("extension", ["symmetric", "reflect101", "replicate", "zero", "circular"])
@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 4)], ids=str)
def test_spectral_is_at_least_the_norm_of_the_move(extension: Extension, size: tuple[int, int]) -> None:
    layer = torus_layer(np.ones((1, 1)), *size)
    lopsided = [shift(0, 1), shift(2, -1), kernels.half_gaussian(1.2, 20.0), kernels.motion(6.0, 45.0)]
    for kernel in [*EVEN, *lopsided, *(kernels.motion(length, 45.0) for length in (7.0, 9.0, 12.0))]:
        found = check_order_and_promises(linear(layer, kernel, extension))
        exact = matrix_norm(moved_matrix(*size, kernel, extension))
        assert exact <= found["spectral"] * (1 + 1e-9) + 1e-12


# Constants by hand, and small maps


def test_constants_by_hand() -> None:
    """Two channels, an activation of constant 1.5, 3 of 4 parts of a pixel moved by one."""
    weights = np.array([[[[3.0]], [[0]]], [[[0]], [[-4]]]])
    layer = Layer(weights, 1, 8, mode="circular", lipschitz=1.5)
    found = constants(linear(layer, dial(shift(0, 1), 0.75), "circular"))
    assert found["lipschitz"] == pytest.approx(1.5 * 4, rel=1e-2)
    assert found["triangle"] == pytest.approx(1.5 * 4 * 2, rel=1e-2)
    for name in ("young", "l1", "spectral", "joint"):
        assert found[name] == pytest.approx(1.5 * 4 * 1.5, rel=1e-2)
    assert found["output"] == pytest.approx(1.5 * 1.5)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@every_extension
def test_dial_scales_what_moves(mode: Padding, extension: Extension) -> None:
    """(1 - z) delta + z k, exactly."""
    weights = np.random.default_rng(3).standard_normal((3, 2, 3, 3))
    layer = Layer(weights, 6, 7, padding=(1, 1, 2, 1), mode=mode)
    for kernel in (kernels.gaussian(0.7), kernels.motion(5.0, 45.0), kernels.half_gaussian(1.0, 200.0)):
        kernel = Planar(kernel.weights[:5, :5] / kernel.weights[:5, :5].sum())
        case = linear(layer, kernel, extension)
        whole_blur = constants(case)
        for share in (1e-6, 0.3, 1.0):  # nothing at all would be an even kernel
            found = constants(replace(case, kernel=dial(kernel, share)))
            assert found.keys() == whole_blur.keys()
            for name in set(found) & {"young", "l1", "spectral", "joint", "output"}:
                assert found[name] == pytest.approx(share * whole_blur[name], rel=1e-9, abs=1e-14)
            for name in set(found) & {"lipschitz", "triangle"}:
                assert found[name] == pytest.approx(whole_blur[name])


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@every_extension
def test_constants_scale_with_the_activation(mode: Padding, extension: Extension) -> None:
    layer = Layer(np.random.default_rng(0).standard_normal((3, 2, 3, 3)), 6, 7, padding=(1, 1, 2, 1), mode=mode)
    once = constants(linear(layer, kernels.box(3.0), extension))
    thrice = constants(linear(replace(layer, lipschitz=3.0), kernels.box(3.0), extension))
    assert thrice == pytest.approx({name: 3 * constant for name, constant in once.items()})


@pytest.mark.parametrize("mode", ["zeros", "circular", "replicate"])
@every_extension
def test_one_pixel_maps(mode: Padding, extension: Extension) -> None:
    layer = Layer(np.array([2.0, -3]).reshape(2, 1, 1, 1), 1, 1, mode=mode)
    for kernel in (shift(0, 0), shift(1, 0), kernels.box(3.0), kernels.gaussian(2.0)):
        case = linear(layer, kernel, extension)
        check_operators(case)
        if mode == "zeros" and extension == "zero":  # a pixel loses what is moved away
            share = 1 - kernel.centre
            assert error(case, np.ones((1, 1, 1, 1)))[0] == pytest.approx(math.sqrt(13) * share)


@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect", "replicate"])
@every_extension
def test_one_pixel_kernel_blurs_nothing(mode: Padding, extension: Extension) -> None:
    layer = Layer(np.random.default_rng(0).standard_normal((2, 3, 3, 3)), 4, 5, padding=(2, 1, 1, 1), mode=mode)
    case = linear(layer, shift(0, 0), extension)
    found = constants(case)
    for name in set(found) & {"young", "l1", "spectral", "joint", "output"}:
        assert found[name] == 0
    if found:
        assert found["triangle"] == pytest.approx(2 * found["lipschitz"])
        assert (error(case, np.random.default_rng(1).random((4, 3, 4, 5))) == 0).all()


# The oracles themselves


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_blur_that_is_measured_is_the_one_that_is_applied(extension: Extension) -> None:
    """What the battery blurs by scipy is what `blurtrain.blur` makes, so that the bounds are about it."""
    images = np.random.default_rng(0).random((2, 3, 6, 7))
    for view in (Blur("gaussian", 1.2), Blur("box", 5.0), Blur("defocus", 2.5), Blur("motion", 6.0, 30.0)):
        found = blur(torch.from_numpy(images), replace(view, border=extension))  # type: ignore[arg-type]
        np.testing.assert_allclose(found, blurred(images, kernels.kernel(view), extension), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_no_slope_of_an_activation_is_above_its_constant(name: str) -> None:
    activation = ACTIVATIONS[name]
    places = torch.linspace(-12, 12, 240_001, dtype=torch.float64)
    slopes = activation.function(places).diff().abs() / places.diff()
    assert activation.lipschitz * (1 - 1e-4) <= slopes.max().item() <= activation.lipschitz * (1 + 1e-9)


def test_whole_blur_is_that_of_a_map_with_room() -> None:
    """Not cropped means zeros all around: the same as the cropped blur of a padded map."""
    images, kernel = np.random.default_rng(0).random((2, 3, 5, 6)), kernels.motion(5.0, 30.0)
    found = blurred(images, kernel, "uncropped")
    np.testing.assert_allclose(found, blurred(canvas(images, kernel, "uncropped"), kernel, "zero"), rtol=0, atol=1e-15)


def test_dense_error_is_that_of_single_images() -> None:
    for case, images in drawn(5, 20):
        matrix = error_matrix(case)
        plain = replace(case, activation="none", bias=np.zeros(len(case.bias)))
        for image in images.values():
            expected = np.linalg.norm(matrix @ image.ravel())
            assert error(plain, image[None])[0] == pytest.approx(expected, rel=1e-9, abs=1e-9 * np.abs(matrix).max())
