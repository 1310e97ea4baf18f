"""How sharp an image is, and which blur of a run's sweep it resembles: medians and quantiles over its test images.

The measure compares scales, so that neither contrast nor brightness plays a part. With y the grey image at network
size, mirrored at its borders, G_p a Gaussian of p px at 224 px (in proportion at other sizes), and E_p the mean
square of the differences between neighbours of G_p y, plus a thousandth of a squared grey level, which only keeps an
image without contrast at 0,

    fine = log10(E_0 / E_4),  coarse = log10(E_4 / E_10),  sharpness = min(.45 cbrt(fine), coarse).

Fine tells slight blurs apart. From about 10 px on an image has so little left of it that the rounding to whole grey
levels and the blocks of JPEG outweigh it, and fine rises again. G_4 takes both away: coarse goes on falling, and has
the word as soon as it is the lower one. The root and the .45 let the two meet there.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from jaxtyping import Float32, Float64, Int64, UInt8

from blurtrain.blur import blur_pixels
from blurtrain.config import Config
from blurtrain.errors import ConfigError
from blurtrain.files import read_sealed, write_sealed
from blurtrain.finished import tested_images
from blurtrain.images import ImageSet
from blurtrain.runs import SHARPNESS, Run
from blurtrain.sweep import PREDICTIONS
from blurtrain.views import Blur

MEASURE = 2  # raise it when the same image would get another sharpness
SCALES = (0.0, 4.0, 10.0)  # px at 224 px, of the Gaussians
MEETING = 0.45  # below .4 heavy blur is missed more often, above .5 slight blurs are told apart less often
FLOOR = 0.001  # grey levels squared
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
MOST = 2000  # test images that are looked at, evenly spaced
AT_ONCE = 64  # images that are held at once


def sharpness(pixels: UInt8[np.ndarray, "3 height width"]) -> float:
    """The measure above, of an RGB image: 0 for one without contrast, about 0.5 for a sharp photograph."""
    grey = np.tensordot(LUMA, pixels.astype(np.float32), 1)  # not rounded: that would double the noise
    waves = scipy.fft.dctn(grey - grey.mean(), norm="ortho", overwrite_x=True)
    energies = (_weights(*grey.shape) * waves**2).sum((1, 2)) + FLOOR
    fine, coarse = np.log10(energies[:-1] / energies[1:])
    return float(min(MEETING * np.cbrt(fine), coarse))


@lru_cache(maxsize=2)
def _weights(height: int, width: int) -> Float32[np.ndarray, "scales height width"]:
    """What each squared cosine adds to the energies, whose Gaussians and differences are diagonal among cosines."""
    down, across = (np.pi * np.arange(side) / side for side in (height, width))
    frequency = down[:, None] ** 2 + across**2
    differences = 4 - 2 * np.cos(down)[:, None] - 2 * np.cos(across)
    passed = [np.exp(-((scale * min(height, width) / 224) ** 2) * frequency) for scale in SCALES]
    return np.asarray(np.stack(passed) * differences / (height * width), np.float32)


@dataclass(frozen=True)
class SeenView:
    """What a run has seen of one view.

    Args:
        view: What tables call it.
        accuracy: Of the refitted head.
        quantiles: Of the sharpness of the test images in it, at `QUANTILES`.
    """

    view: str
    accuracy: float
    quantiles: tuple[float, ...]

    @property
    def low(self) -> float:
        """5 % of the images are blurrier."""
        return self.quantiles[0]

    @property
    def median(self) -> float:
        """Half of the images are blurrier."""
        return self.quantiles[QUANTILES.index(0.5)]


@dataclass(frozen=True)
class Resembled:
    """What an image's sharpness says of it.

    Args:
        sharpness: The measure.
        like: The view whose median is nearest; of equal ones the sharper.
        accuracy: Of the refitted head in that view.
        beyond: Whether the image is blurrier than 95 % of the test images in the blurriest view that counts.
    """

    sharpness: float
    like: str
    accuracy: float
    beyond: bool


@dataclass(frozen=True)
class Scale:
    """The views of a run by sharpness.

    Args:
        views: In the order of the sweep.
        images: Test images that were looked at.
        confusion: Share of the test images of each view (rows) whose sharpness resembles each view (columns), told by
            medians of the other half of the images.
        limit: Below it an image is beyond what was tested.
    """

    views: tuple[SeenView, ...]
    images: int
    confusion: tuple[tuple[float, ...], ...]
    limit: float

    def judge(self, value: float) -> Resembled:
        """What an image of such a sharpness resembles."""
        sharpest_first = sorted(self.views, key=lambda tested: -tested.median)  # stable
        near = min(sharpest_first, key=lambda tested: abs(tested.median - value))
        return Resembled(value, near.view, near.accuracy, value < self.limit)


def limit(views: Sequence[SeenView], least_accuracy: float) -> float:
    """5 % quantile of the blurriest view in which the refitted head was right often enough.

    Raises:
        ConfigError: If there is none.
    """
    good = [tested for tested in views if tested.accuracy >= least_accuracy]
    if not good:
        best = max(tested.accuracy for tested in views)
        raise ConfigError(f"least_accuracy must be at most {best:g}, the best of the run's sweep, got {least_accuracy}")
    return min(good, key=lambda tested: tested.median).low


def scale_of(run: Run, config: Config, least_accuracy: float = 0.0) -> Scale:
    """The views of a run by sharpness: read where that is stored beside the run, else measured and stored.

    Args:
        run: Finished.
        config: Its own, perhaps with another cache.
        least_accuracy: Views in which the refitted head was right less often count as not tested.

    Raises:
        ConfigError: If no view is as good.
        RunError: If the test images are not those of the run any more, or its files are damaged.
        DataError: If the test images cannot be read any more.
        StoreError: If the file cannot be written.
    """
    stored = _stored(run)
    if stored is None:
        stored = _measured(run, config)
        write_sealed(run.folder / SHARPNESS, stored)
    views = tuple(SeenView(one["view"], one["accuracy"], tuple(one["quantiles"])) for one in stored["views"])
    return Scale(views, stored["images"], tuple(map(tuple, stored["confusion"])), limit(views, least_accuracy))


def _key(run: Run) -> dict[str, Any]:
    return {"measure": MEASURE, "predictions": run.result["files"][PREDICTIONS]}


def _stored(run: Run) -> dict[str, Any] | None:
    """What was measured before; nothing where that was of another run or by another measure."""
    try:
        found = read_sealed(run.folder / SHARPNESS)
    except (OSError, ValueError):
        return None
    return found if found.items() >= _key(run).items() else None


def _measured(run: Run, config: Config) -> dict[str, Any]:
    loaded, positions = tested_images(run, config, MOST)
    views = config.test_views
    values = np.stack([_values(loaded, positions, view) for view in views])
    accuracies = {
        row["view"]: row["accuracy_refit"] for row in json.loads(run.file("sweep.json").read_text(encoding="utf-8"))
    }
    return {
        **_key(run),
        "images": len(positions),
        "views": [
            {
                "view": view.name,
                "accuracy": accuracies[view.name],
                "quantiles": [float(value) for value in np.quantile(row, QUANTILES)],
            }
            for view, row in zip(views, values, strict=True)
        ],
        "confusion": confusion(values).tolist(),
    }


def confusion(values: Float64[np.ndarray, "views images"]) -> Float64[np.ndarray, "views views"]:
    """Share of the images of each view whose nearest median is that of each view, medians being of the other half."""
    count = values.shape[1]
    found = np.zeros((len(values), len(values)))
    for half in (0, 1):
        judged = np.arange(count) % 2 == half
        others = values[:, ~judged] if count > 1 else values
        medians = np.median(others, axis=1)
        nearest = np.abs(values[:, judged, None] - medians).argmin(-1)
        for view, row in enumerate(nearest):
            found[view] += np.bincount(row, minlength=len(values))
    return np.asarray(found / count)


def _values(loaded: ImageSet, positions: Int64[np.ndarray, " some"], view: Blur) -> Float64[np.ndarray, " some"]:
    return np.array([sharpness(image) for block in _blocks(positions) for image in _seen(loaded, block, view)])


def _blocks(positions: Int64[np.ndarray, " some"]) -> Iterator[Int64[np.ndarray, " _"]]:
    for start in range(0, len(positions), AT_ONCE):
        yield positions[start : start + AT_ONCE]


def _seen(loaded: ImageSet, block: Int64[np.ndarray, " _"], view: Blur) -> UInt8[np.ndarray, "_ 3 height width"]:
    """Images through a blur, in whole grey levels as files have them."""
    blurred = blur_pixels(loaded.read_pixels(block), view)
    return np.asarray(np.rint(blurred.clip(0, 1) * 255), np.uint8)
