"""Gaussian blur beside other libraries: `python benchmarks/blur_peers.py`, a page in results/blur_peers.md.

32 images of 3 x 224 x 224 px on all cores, every library with a kernel that reaches 4 sigma and reflect-101 borders;
blurtrain and OpenCV blur images side by side, one a core. In rounds in which the libraries take turns. The error is
the largest difference from scipy in double precision on images in [0, 1].
"""

import argparse
import math
import os
from concurrent.futures import ThreadPoolExecutor

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations
import cv2
import kornia
import numpy as np
import scipy.ndimage
import torch
from timing import Way, ratio, rounds, table, write
from torchvision.transforms.v2 import functional

from blurtrain.blur import blur_pixels
from blurtrain.cores import cores
from blurtrain.views import Blur

BATCH, COUNT, SIDE = 8, 32, 224


def ways(sigma: float) -> dict[str, Way]:
    """Each library's blur of the same images."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)
    floats = np.ascontiguousarray((pixels / np.float32(255)).transpose(0, 2, 3, 1))
    tensor = torch.from_numpy(pixels) / 255
    side = 2 * math.ceil(4 * sigma) + 1
    transform = albumentations.GaussianBlur(blur_limit=(side, side), sigma_limit=(sigma, sigma), p=1.0)
    pool = ThreadPoolExecutor(cores())

    def ours() -> np.ndarray:
        view, starts = Blur("gaussian", sigma), range(0, COUNT, BATCH)
        return np.concatenate(list(pool.map(lambda s: blur_pixels(pixels[s : s + BATCH], view), starts)))

    def opencv() -> np.ndarray:
        def one(image: np.ndarray) -> np.ndarray:
            return np.asarray(cv2.GaussianBlur(image, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101))

        return np.stack(list(pool.map(one, floats))).transpose(0, 3, 1, 2)

    def of_albumentations() -> np.ndarray:
        return np.stack([transform(image=image)["image"] for image in floats]).transpose(0, 3, 1, 2)

    return {
        "blurtrain": ours,
        "OpenCV": opencv,
        "torchvision": lambda: functional.gaussian_blur(tensor, [side, side], [sigma, sigma]).numpy(),
        "kornia": lambda: kornia.filters.gaussian_blur2d(tensor, (side, side), (sigma, sigma), "reflect").numpy(),
        "albumentations": of_albumentations,
    }


def errors(sigma: float, found: dict[str, Way]) -> dict[str, float]:
    """Largest difference of the first images from scipy in double precision."""
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, 3, SIDE, SIDE), dtype=np.uint8)[:2] / 255
    radius = math.ceil(4 * sigma)
    exact = scipy.ndimage.gaussian_filter(pixels, (0, 0, sigma, sigma), mode="mirror", radius=(0, 0, radius, radius))
    return {name: float(np.abs(way()[:2] - exact).max()) for name, way in found.items()}  # type: ignore[index]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sigmas", type=float, nargs="+", default=[1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--repeats", type=int, default=7)
    words = parser.parse_args()
    rows = []
    for sigma in words.sigmas:
        found = ways(sigma)
        taken, wrong = rounds(found, words.repeats), errors(sigma, found)
        names = [name for name in found if name != "blurtrain"]
        speed = COUNT / np.median(taken["blurtrain"])
        rows.append(
            [f"{sigma:g}", f"{speed:.0f}", f"{wrong['blurtrain']:.0e}"]
            + [f"{ratio(taken[name], taken['blurtrain'])}; {wrong[name]:.0e}" for name in names]
        )
    head = ["sigma, px", "blurtrain, images / s", "error"]
    head += [f"{name}: times slower; error" for name in names]
    packages = ("opencv-python-headless", "torchvision", "kornia", "albumentations")
    write("blur_peers", "Gaussian blur beside other libraries", "python benchmarks/blur_peers.py",
          table(head, rows), packages)  # fmt: skip


if __name__ == "__main__":
    main()
