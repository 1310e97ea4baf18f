"""ImageNet-C's severities against the published formulas, written out plainly, and against scipy."""

import math
from typing import get_args

import cv2
import numpy as np
import pytest
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st

from blurtrain import imagenet_c, kernels, warps
from blurtrain.blur import blur_pixels
from blurtrain.comparison import described_view
from blurtrain.views import CLEAN, Blur, Border

SIDE = 64
EVERY = [(family, severity) for family in imagenet_c.FAMILIES for severity in imagenet_c.SEVERITIES]
every_severity = pytest.mark.parametrize(("family", "severity"), EVERY, ids=lambda value: str(value))


def at(family: str, severity: int, seed: int = 0) -> Blur:
    """A view at a severity."""
    return Blur(family, float(severity), severity=True, seed=seed if family in imagenet_c.DRAWN else None)


def pictures(count: int = 2, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Smooth random pictures with some noise."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (count, 3, side // 8, side // 8)).astype(np.float64)
    large = scipy.ndimage.zoom(small, (1, 1, 8, 8), order=1) + random.normal(0, 20, (count, 3, side, side))
    return np.asarray(large.clip(0, 255), np.uint8)


def channels_last(pixels: np.ndarray) -> np.ndarray:
    """One picture as the published code has it: in [0, 1], the channels last."""
    return np.asarray(pixels.transpose(1, 2, 0) / 255)


@pytest.mark.parametrize("severity", imagenet_c.SEVERITIES)
def test_gaussian_is_scipys_with_the_edge_pixel_repeated(severity: int) -> None:
    (image,) = pictures(1)
    sigma = {1: 0.5, 2: 0.75, 3: 1, 4: 1.25, 5: 1.5}[severity]
    expected = scipy.ndimage.gaussian_filter(channels_last(image), (sigma, sigma, 0), mode="nearest", truncate=4)
    result = blur_pixels(image[None], at("gaussian", severity))[0].transpose(1, 2, 0)
    assert np.abs(result - expected).max() < 2e-3  # where 4 sigma is not whole, our radius is the next larger one
    if 4 * sigma == round(4 * sigma):
        np.testing.assert_allclose(result, expected, atol=1e-6)


def published_disk(radius: float, alias_blur: float) -> np.ndarray:
    reach, size = (8, 3) if radius <= 8 else (math.ceil(radius), 5)
    x, y = np.meshgrid(np.arange(-reach, reach + 1), np.arange(-reach, reach + 1))
    lit = np.array(x**2 + y**2 <= radius**2, dtype=np.float64)
    return np.asarray(cv2.GaussianBlur(lit / lit.sum(), (size, size), sigmaX=alias_blur))


@pytest.mark.parametrize(
    ("radius", "softened"), [(3.0, 0.1), (4.0, 0.5), (8.0, 0.5), (10.0, 0.5), (2.5, 0.01), (0.4, 0.5)]
)
def test_disk_is_the_published_one(radius: float, softened: float) -> None:
    np.testing.assert_allclose(imagenet_c.disk(radius, softened), published_disk(radius, softened), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("severity", "total"), [(1, 1.0), (2, 1.0), (3, 1.0), (4, 1.013), (5, 1.011)])
def test_published_disks_sum_to_what_is_known_and_ours_to_one(severity: int, total: float) -> None:
    radius, softened = imagenet_c.parameters(at("defocus", severity), 224)
    assert imagenet_c.disk(radius, softened).sum() == pytest.approx(total, abs=5e-4)
    assert kernels.kernel(at("defocus", severity), 224).weights.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("severity", imagenet_c.SEVERITIES)
def test_defocus_is_opencvs_filter_with_that_disk(severity: int) -> None:
    (image,) = pictures(1)
    disk = published_disk(*imagenet_c.parameters(at("defocus", severity), SIDE))
    expected = cv2.filter2D(channels_last(image), -1, disk / disk.sum())
    result = blur_pixels(image[None], at("defocus", severity))[0].transpose(1, 2, 0)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def published_zoom(image: np.ndarray, most: float, step: float) -> np.ndarray:
    """The published function on one picture with the channels last."""
    factors, side = np.arange(1, most, step), len(image)
    total = np.zeros_like(image)
    for factor in factors:
        kept = math.ceil(side / factor)
        top = (side - kept) // 2
        cut = image[top : top + kept, top : top + kept]
        enlarged = scipy.ndimage.zoom(cut, (factor, factor, 1), order=1)
        trim = (len(enlarged) - side) // 2
        total += enlarged[trim : trim + side, trim : trim + side]
    return np.asarray((image + total) / (len(factors) + 1))


@pytest.mark.parametrize("side", [64, 224, 100, 31])
@pytest.mark.parametrize("severity", imagenet_c.SEVERITIES)
def test_zoom_is_the_published_one(severity: int, side: int) -> None:
    image = np.random.default_rng(severity).integers(0, 256, (3, side, side), dtype=np.uint8)
    view = at("zoom", severity)
    expected = published_zoom(channels_last(image), *imagenet_c.parameters(view, side))
    result = blur_pixels(image[None], view)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(result, expected, atol=1e-5)  # places are in float32


class Replayed(np.random.Generator):
    """A generator that keeps what it gave."""

    def __init__(self, seed: int) -> None:
        super().__init__(np.random.PCG64(seed))
        self.given: list[np.ndarray] = []

    def integers(self, *args: int, **kwargs: object) -> np.ndarray:  # type: ignore[override]
        drawn: np.ndarray = super().integers(*args, **kwargs)  # type: ignore[call-overload]
        self.given.append(drawn)
        return drawn


@pytest.mark.parametrize(("shift", "rounds"), [(1, 1), (1, 2), (2, 1), (2, 3), (4, 2)])
def test_glass_displaces_as_the_published_loop_does(shift: int, rounds: int) -> None:
    """The loop as it stands there, on pixels that carry their place, with the draws of ours."""
    height, width = 23, 31
    random = Replayed(shift + 10 * rounds)
    source = warps.displaced(height, width, shift, rounds, random)
    x = np.arange(height * width)[:, None].repeat(3, 1).reshape(height, width, 3).copy()
    for dy, dx in random.given:
        down, across = dy.reshape(height, width), dx.reshape(height, width)
        for h in range(height - shift, shift, -1):
            for w in range(width - shift, shift, -1):
                h_prime, w_prime = h + down[h, w], w + across[h, w]
                x[h, w], x[h_prime, w_prime] = x[h_prime, w_prime], x[h, w]
    np.testing.assert_array_equal(source.reshape(height, width), x[..., 0])


@given(st.integers(1, 4), st.integers(0, 2**32))
def test_glass_draws_every_displacement_equally_often(shift: int, seed: int) -> None:
    source = warps.displaced(60, 60, shift, 1, random := Replayed(seed))
    (drawn,) = random.given
    assert drawn.min() == -shift
    assert drawn.max() == shift - 1
    assert np.abs(np.bincount((drawn + shift).ravel()) / drawn.size - 1 / (2 * shift)).max() < 0.04
    rows, columns = np.divmod(source, 60)
    assert rows.min() >= 0
    assert columns.max() < 60


def test_glass_is_softened_before_and_after() -> None:
    (image,) = pictures(1)
    view = at("glass", 5)
    sigma, shift, rounds = imagenet_c.parameters(view, SIDE)
    source = warps.displaced(SIDE, SIDE, int(shift), int(rounds), warps.generator(image, view))

    def softened(planes: np.ndarray) -> np.ndarray:
        reach = math.ceil(4 * sigma)
        widths, radii = (0, sigma, sigma), (0, reach, reach)
        return np.asarray(scipy.ndimage.gaussian_filter(planes, widths, mode="nearest", radius=radii))

    moved = softened(image / 255).reshape(3, -1)[:, source].reshape(image.shape)
    np.testing.assert_allclose(blur_pixels(image[None], view)[0], softened(moved), atol=1e-6)


@pytest.mark.parametrize("severity", imagenet_c.SEVERITIES)
def test_motion_is_the_trail_at_the_drawn_angle(severity: int) -> None:
    (image,) = pictures(1)
    view = at("motion", severity)
    angle = warps.angle(image, view)
    assert 135 <= angle <= 225
    radius, sigma = imagenet_c.parameters(view, SIDE)
    weights = kernels.half_gaussian(sigma, angle, last=2 * math.ceil(radius)).weights
    expected = [scipy.ndimage.convolve(plane / 255, weights, mode="nearest") for plane in image]
    np.testing.assert_allclose(blur_pixels(image[None], view)[0], expected, atol=1e-6)


def test_angles_are_spread_evenly() -> None:
    view = at("motion", 3)
    images = np.random.default_rng(0).integers(0, 256, (600, 1, 4, 4), dtype=np.uint8)
    angles = np.array([warps.angle(image, view) for image in images])
    counts = np.histogram(angles, 6, (135, 225))[0]
    assert counts.sum() == 600
    assert counts.min() > 60  # 100 expected, four standard deviations


@every_severity
def test_a_view_depends_on_image_blur_and_seed_alone(family: str, severity: int) -> None:
    pixels, view = pictures(3), at(family, severity)
    together = blur_pixels(pixels, view)
    np.testing.assert_array_equal(together, blur_pixels(pixels, view))
    np.testing.assert_array_equal(together[::-1], blur_pixels(pixels[::-1], view))
    np.testing.assert_array_equal(together[1:2], blur_pixels(pixels[1:2], view))
    reseeded = blur_pixels(pixels, Blur(family, float(severity), severity=True, seed=1))
    assert (family in imagenet_c.DRAWN) != bool(np.array_equal(together, reseeded))


@every_severity
def test_a_constant_image_stays_and_normalisation_rides_along(family: str, severity: int) -> None:
    view, mean, std = at(family, severity), (0.1, 0.2, 0.3), (0.5, 0.25, 2.0)
    flat = np.full((1, 3, SIDE, SIDE), 77, np.uint8)
    np.testing.assert_allclose(blur_pixels(flat, view), 77 / 255, atol=2e-6)
    pixels = pictures()
    expected = (blur_pixels(pixels, view) - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    np.testing.assert_allclose(blur_pixels(pixels, view, mean, std), expected, atol=5e-6)


@every_severity
def test_images_lose_detail_and_stay_within_their_range(family: str, severity: int) -> None:
    pixels = pictures(1)
    blurred = blur_pixels(pixels, at(family, severity))[0]
    assert blurred.min() >= pixels.min() / 255 - 1e-5
    assert blurred.max() <= pixels.max() / 255 + 1e-5
    rough = [np.abs(np.diff(image, axis=-1)).mean() for image in (pixels[0] / 255, blurred)]
    assert rough[1] < rough[0]


@pytest.mark.parametrize(
    ("side", "table"), [(224, 224), (299, 224), (112, 64), (128, 224), (64, 64), (45, 32), (8, 32)]
)
def test_nearest_table_is_taken(side: int, table: int) -> None:
    assert imagenet_c.table_for(side) == table


def test_lengths_are_scaled_and_the_table_is_named() -> None:
    assert imagenet_c.parameters(at("defocus", 2), 224) == (4, 0.5)
    assert imagenet_c.parameters(at("defocus", 2), 448) == (8, 1)
    assert imagenet_c.parameters(at("zoom", 1), 448) == (1.11, 0.01)
    assert imagenet_c.parameters(at("glass", 3), 280) == (1.25, 2, 3)  # 2.5 px are no whole number
    assert imagenet_c.described(at("motion", 1), 224) == "radius 10 px, sigma 3 px (ImageNet-C's table for 224 px)"
    assert imagenet_c.described(at("zoom", 5), 112) == (
        "up to factor 1.26, in steps of 0.01 (ImageNet-C's table for 64 px, lengths times 1.75)"
    )


@every_severity
def test_severities_grow_wider(family: str, severity: int) -> None:
    widths = [kernels.spread(at(family, each), 224) for each in imagenet_c.SEVERITIES]
    assert widths == sorted(widths)
    if family != "glass":  # its sixth table entry moves less far, but twice
        assert len(set(widths)) == 5
    assert kernels.standard_deviation(at(family, severity), 224) > 0


@pytest.mark.parametrize("severity", imagenet_c.SEVERITIES)
def test_spread_of_glass_is_that_of_its_displacements(severity: int) -> None:
    view = at("glass", severity)
    sigma, shift, rounds = imagenet_c.parameters(view, 224)
    source = warps.displaced(224, 224, int(shift), int(rounds), np.random.default_rng(severity))
    places = np.arange(224 * 224)
    moved = np.array([source // 224 - places // 224, source % 224 - places % 224])
    inside = np.zeros((224, 224), bool)
    inside[30:-30, 30:-30] = True
    measured = math.sqrt(2 * sigma**2 + moved[:, inside.ravel()].var())
    # Chains of visited neighbours move some pixels further than `rounds` draws.
    assert imagenet_c.spread(view, 224) <= measured <= 1.5 * imagenet_c.spread(view, 224)


def test_spread_of_zoom_is_that_of_its_displacements() -> None:
    view, side = at("zoom", 3), 224
    factors = np.array(imagenet_c.zoom_factors(view, side))
    middle = np.arange(side) - (side - 1) / 2
    radius = np.hypot(*np.meshgrid(middle, middle))
    moved = radius[..., None] * (1 - 1 / factors)
    assert imagenet_c.spread(view, side) == pytest.approx(np.sqrt(moved.var(-1).mean()), rel=0.2)


def test_names_curves_and_order() -> None:
    views = [at("motion", 2), at("gaussian", 5), Blur("motion", 3.0, 0.0), at("gaussian", 1), Blur("gaussian", 2.0)]
    assert [view.name for view in sorted(views)] == [
        "gaussian 2",
        "gaussian severity 1",
        "gaussian severity 5",
        "motion 3 at 0 degrees",
        "motion severity 2",
    ]
    assert at("gaussian", 1).curve == at("gaussian", 5).curve == "gaussian severity"
    assert at("glass", 1, seed=7).name == "glass severity 1 seed 7"
    assert at("gaussian", 1) > CLEAN


@pytest.mark.parametrize(("severity", "sigma"), [(3, 1.0), (5, 1.5)])
def test_a_view_is_described_with_the_border_that_it_is_blurred_with(severity: int, sigma: float) -> None:
    described = described_view(at("gaussian", severity), SIDE)["border"]
    image = pictures(1)
    expected = blur_pixels(image, at("gaussian", severity))
    fits = [
        border
        for border in get_args(Border)
        if np.abs(blur_pixels(image, Blur("gaussian", sigma, border=border)) - expected).max() < 1e-6
    ]
    assert fits == [described]
