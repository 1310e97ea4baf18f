"""ImageNet-C's published blurs beside ours on photographs: `python benchmarks/imagenet_c.py --code FILE --root ROOT`.

FILE is imagenet_c/corruptions.py of github.com/hendrycks/robustness, which is run as it is; what its libraries have
dropped since (a keyword of scikit-image, two names of scipy and numpy) is put back around it. Needs, beside what
blurtrain has, `pip install scikit-image Wand` and ImageMagick's library. Each published blur gets the same image of
224 px, and for motion the angle, that ours has; its JPEG compression is left out. A page in results/imagenet_c.md.
"""

import argparse
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import scipy.ndimage
import skimage.filters
from PIL import Image
from timing import table, write

from blurtrain import imagenet_c, warps
from blurtrain.blur import blur_pixels
from blurtrain.decoding import Geometry
from blurtrain.folder_source import FolderSource
from blurtrain.views import Blur

SIDE = 224


def published(code: Path) -> dict[str, Any]:
    """The names of the published module."""
    gone = types.ModuleType("scipy.ndimage.interpolation")
    gone.map_coordinates = scipy.ndimage.map_coordinates  # type: ignore[attr-defined]
    sys.modules["scipy.ndimage.interpolation"] = gone
    resources = types.ModuleType("pkg_resources")
    resources.resource_filename = None  # type: ignore[attr-defined]
    sys.modules.setdefault("pkg_resources", resources)
    names: dict[str, Any] = {}
    exec(compile(code.read_text(encoding="utf-8"), str(code), "exec"), names)

    def gaussian(image: np.ndarray, sigma: float, multichannel: bool) -> np.ndarray:
        return np.asarray(skimage.filters.gaussian(image, sigma=sigma, channel_axis=-1 if multichannel else None))

    numpy = types.ModuleType("numpy")
    numpy.__dict__.update({**vars(np), "fromstring": np.frombuffer})
    return names | {"gaussian": gaussian, "np": numpy}


def photographs(root: Path, count: int) -> np.ndarray:
    """Some test photographs as a network of 224 px sees them."""
    source, geometry = FolderSource(root), Geometry(256, SIDE)
    chosen = [index for index, item in enumerate(source.items) if item.split in ("test", None)]
    chosen = chosen[:: max(1, len(chosen) // count)][:count]
    return np.stack([geometry.apply(source.decode(index)) for index in chosen])


class Angles:
    """Gives the published code the angle that ours draws."""

    def __init__(self) -> None:
        self.next = 0.0

    def uniform(self, _low: float, _high: float) -> float:
        """The same whatever is asked for."""
        return self.next


def theirs(names: dict[str, Any], view: Blur, image: np.ndarray, angles: Angles) -> np.ndarray:
    """The published blur of one image, in grey levels."""
    if view.family == "motion":
        angles.next = 180 - warps.angle(image, view)
    function = names[{"gaussian": "gaussian_blur"}.get(view.family, f"{view.family}_blur")]
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    result = function.__class__(function.__code__, names)(picture, int(view.strength))
    return np.asarray(result, np.float64).transpose(2, 0, 1)


def differences(names: dict[str, Any], images: np.ndarray) -> list[list[str]]:
    """Mean absolute difference of each family and severity."""
    angles, rows = Angles(), []
    random = types.SimpleNamespace(uniform=angles.uniform, randint=np.random.default_rng(0).integers)
    names["np"].random = random
    for family in ("gaussian", "defocus", "motion", "zoom"):
        for severity in imagenet_c.SEVERITIES:
            view = Blur(family, float(severity), severity=True, seed=0 if family in imagenet_c.DRAWN else None)
            ours = 255.0 * blur_pixels(images, view)
            other = np.stack([theirs(names, view, image, angles) for image in images])
            total = imagenet_c.disk(*imagenet_c.parameters(view, SIDE)).sum() if family == "defocus" else 1.0
            as_is, divided = (np.abs(ours - values).mean(axis=(1, 2, 3)) for values in (other, other / total))
            cells = [
                f"{as_is.mean():.3f} (at most {as_is.max():.3f})",
                f"{divided.mean():.3f} (at most {divided.max():.3f})",
            ]
            rows.append([family, str(severity), f"{total:.4f}", *cells])
    return rows


def displacements(names: dict[str, Any]) -> list[list[str]]:
    """How far pixels are moved by the published loop and by ours; images carry their pixels' places."""
    rows = []
    place = np.arange(SIDE, dtype=np.uint8)
    grid = np.stack([*np.meshgrid(place, place, indexing="ij"), np.zeros((SIDE, SIDE), np.uint8)], -1)
    bare = names | {"gaussian": lambda image, **_: image + 1e-6}  # or the blur would mix places
    for severity in imagenet_c.SEVERITIES:
        view = Blur("glass", float(severity), severity=True, seed=0)
        _, shift, rounds = imagenet_c.parameters(view, SIDE)
        function = names["glass_blur"]
        moved = [
            np.rint(function.__class__(function.__code__, bare)(Image.fromarray(grid), severity))[..., :2].astype(int)
            for _ in range(3)
        ]
        first, *others = [(one - grid[..., :2].astype(int)).reshape(-1, 2) for one in moved]
        source = warps.displaced(SIDE, SIDE, int(shift), int(rounds), np.random.default_rng(severity))
        ours = np.stack(np.divmod(source, SIDE), -1) - grid[..., :2].reshape(-1, 2)
        expected = np.concatenate([first, *others])
        cells = []
        for axis in (0, 1):
            reach = max(np.abs(expected[:, axis]).max(), np.abs(ours[:, axis]).max())
            counts = [
                np.bincount(d[:, axis] + reach, minlength=2 * reach + 1) for d in (ours, others[0], expected, first)
            ]
            shares = [count / count.sum() for count in counts]
            cells += [
                f"{np.abs(shares[0] - shares[2]).sum() / 2:.4f}",
                f"{np.abs(shares[1] - shares[3]).sum() / 2:.4f}",
            ]
        deviations = [f"{value:.3f}" for d in (expected, ours) for value in d.std(0)]
        rows.append([str(severity), *deviations, *cells])
    return rows


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--code", type=Path, required=True, help="corruptions.py of ImageNet-C")
    parser.add_argument("--root", type=Path, required=True, help="photographs, as for blurtrain")
    parser.add_argument("--images", type=int, default=20)
    words = parser.parse_args()
    warnings.simplefilter("ignore")
    names, images = published(words.code), photographs(words.root, words.images)
    head = ("family", "severity", "sum of the published kernel", "grey levels", "grey levels, divided by that sum")
    text = f"Mean absolute difference over {len(images)} photographs, before any JPEG compression.\n\n"
    text += table(head, differences(names, images))
    text += (
        "\nGlass: standard deviation of the displacements in px, and half the sum of absolute differences of their\n"
    )
    text += "shares: ours against three runs of the published loop, and of these the first against the second.\n\n"
    head = (
        "severity",
        "published, down",
        "across",
        "ours, down",
        "across",
        "down",
        "two published",
        "across",
        "two published",
    )
    text += table(head, displacements(names))
    command = "python benchmarks/imagenet_c.py --code corruptions.py --root ROOT"
    write(
        "imagenet_c", "ImageNet-C's published blurs and ours", command, text, ("scikit-image", "Wand", "scipy", "numpy")
    )


if __name__ == "__main__":
    main()
