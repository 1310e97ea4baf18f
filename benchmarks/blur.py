"""How long each way of blurring takes: `python benchmarks/blur.py`, tables in Markdown.

Times relative to a gaussian of sigma 2 on the same images in the same run, the fastest of --repeats rounds in which
the ways take turns; bold is the way that blurtrain takes. One thread: blurring runs beside the engine, which has the
others. The error is the largest difference from scipy in double precision on random images in [0, 1].
"""

import argparse
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import scipy
import scipy.ndimage
import torch

from blurtrain.blur import DIRECT_TAPS, SHIFTED_TAPS, _direct, _fourier, _padded, _separable, _shifts, _transforms
from blurtrain.convolution import Kernel, Separable
from blurtrain.kernels import kernel
from blurtrain.views import Blur

UNIT = Blur("gaussian", 2.0)
PLANES = 24
Way = Callable[[], object]


def views(folder: Path) -> list[Blur]:
    """Blurs of all families, slight to very heavy."""
    rng = np.random.default_rng(0)
    measured = []
    for side in (7, 11, 15, 31, 51, 101):
        path = folder / f"{side}-px.npy"
        np.save(path, rng.random((side, side)))
        measured.append(Blur("psf", 1.0, None, file=str(path)))
    return [
        *(Blur("gaussian", sigma) for sigma in (1.0, 2.0, 4.0, 8.0)),
        *(Blur("box", width) for width in (3.0, 9.0, 21.0, 51.0)),
        *(Blur("defocus", radius) for radius in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)),
        *(Blur("motion", length, angle) for angle in (0.0, 30.0, 45.0) for length in (3.0, 9.0, 20.0, 40.0, 80.0)),
        *(Blur("half-gaussian", sigma, 30.0) for sigma in (3.0, 8.0, 15.0)),
        *measured,
    ]


def times(ways: dict[str, Way], repeats: int) -> dict[str, float]:
    """Seconds of each way: the fastest of several rounds."""
    best = dict.fromkeys(ways, np.inf)
    for _ in range(repeats + 1):  # the first round fills caches
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def pixel_ways(made: Kernel, planes: np.ndarray, targets: np.ndarray) -> dict[str, Way]:
    """Ways to blur stored pixels with reflect101 borders; the one that blurtrain takes stands first."""
    ways: dict[str, Way] = {
        "direct": lambda: _direct(planes, targets, made, "reflect101", 1 / 255),
        "Fourier": lambda: _fourier(planes, targets, made, "reflect101", 1 / 255),
    }
    order = ["direct", "Fourier"] if np.count_nonzero(made.weights) <= DIRECT_TAPS else ["Fourier", "direct"]
    chosen = {name: ways[name] for name in order}
    if isinstance(made, Separable):
        chosen = {"separable": lambda: _separable(planes, targets, made, "reflect101", 1 / 255), **chosen}
    mirrored = (made.weights[::-1, ::-1] / 255).astype(np.float32)

    def opencv() -> None:
        for plane, target in zip(planes, targets, strict=True):
            cv2.filter2D(plane.astype(np.float32), cv2.CV_32F, mirrored, dst=target, borderType=cv2.BORDER_REFLECT_101)

    def torch_convolution() -> None:
        weight = torch.from_numpy(mirrored)[None, None]
        for plane, target in zip(planes, targets, strict=True):
            padded = torch.from_numpy(_padded(plane, made, "reflect101"))[None, None]
            target[:] = torch.nn.functional.conv2d(padded, weight)[0, 0].numpy()

    chosen["filter2D alone"] = opencv
    if made.weights.size <= 400:
        chosen["conv2d"] = torch_convolution
    return chosen


def pixels_table(side: int, folder: Path, repeats: int) -> None:
    """Print how all ways compare on stored pixels."""
    planes = np.random.default_rng(1).integers(0, 256, (PLANES, side, side), dtype=np.uint8)
    targets = np.empty(planes.shape, np.float32)
    columns = ("separable", "direct", "Fourier", "filter2D alone", "conv2d")
    print(f"\n| {side} x {side} px | weights | {' | '.join(columns)} | error |\n|---|{'---|' * (len(columns) + 2)}")
    for view in views(folder):
        made = kernel(view)
        ways = pixel_ways(made, planes, targets)
        unit = pixel_ways(kernel(UNIT), planes, targets)["separable"]
        seconds = times({"unit": unit, **ways}, repeats)
        next(iter(ways.values()))()
        expected = scipy.ndimage.convolve(planes[0] / 255, made.weights, mode="mirror")
        taken = next(iter(ways))
        cells = [f"{seconds[name] / seconds['unit']:.2f}" if name in seconds else "" for name in columns]
        cells[columns.index(taken)] = f"**{cells[columns.index(taken)]}**"
        error = f"{np.abs(targets[0] - expected).max():.0e}"
        print(f"| {view.name} | {np.count_nonzero(made.weights)} | {' | '.join(cells)} | {error} |", flush=True)


def tensors_table(side: int, folder: Path, repeats: int) -> None:
    """Print how the ways for double precision and gradients compare."""
    images = torch.rand(8, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    print(f"\n| tensors, {side} x {side} px | weights | shifts / Fourier |\n|---|---|---|")
    for view in views(folder):
        made = kernel(view)
        taps = np.count_nonzero(made.weights)
        if isinstance(made, Separable) or taps > 60:
            continue
        ways: dict[str, Way] = {
            "shifts": lambda made=made: _shifts(images, made, "reflect101"),
            "Fourier": lambda made=made: _transforms(images, made, "reflect101"),
        }
        seconds = times(ways, repeats)
        taken = "shifts" if taps <= SHIFTED_TAPS else "Fourier"
        print(f"| {view.name} | {taps} | {seconds['shifts'] / seconds['Fourier']:.2f} ({taken} taken) |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[224, 64], help="sides of the images in px")
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    print(f"opencv {cv2.__version__}, scipy {scipy.__version__}, torch {torch.__version__}, {platform.machine()}")
    with tempfile.TemporaryDirectory() as folder:
        for side in options.sides:
            pixels_table(side, Path(folder), options.repeats)
        for side in options.sides:
            tensors_table(side, Path(folder), options.repeats)


if __name__ == "__main__":
    main()
