"""Drawn JPEGs of the size of photographs, for benchmarks where there are no photographs.

    python benchmarks/drawn.py FOLDER --train 3000 --test 700

Two classes of random pictures with the spectrum of natural ones (amplitude falls as 1 / frequency, Field 1987); they
differ in the direction that their edges prefer.
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 375, 500


def draw(seed: int, label: int, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    """One picture."""
    rng = np.random.default_rng([seed, label])
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None]
    stretch = 1.6 if label else 1 / 1.6
    frequency = np.maximum(np.hypot(rows * stretch, columns / stretch), 1 / width)
    noise = rng.standard_normal((3, height, width))
    noise = 0.3 * noise + noise.mean(0)  # colour channels go together
    picture = np.fft.irfft2(np.fft.rfft2(noise) / frequency, s=(height, width))
    picture = 0.45 + 0.22 * (picture - picture.mean()) / picture.std()
    return Image.fromarray((255 * picture.clip(0, 1)).round().astype(np.uint8).transpose(1, 2, 0))


def _save(folder: Path, split: str, index: int) -> None:
    label = index % 2
    path = folder / split / ("across" if label else "along") / f"{index:06}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(index + (10**6 if split == "test" else 0), label).save(path, quality=90)


def fill(folder: Path, train: int, test: int) -> None:
    """Draw a data set, ROOT/train/CLASS/* and ROOT/test/CLASS/*."""
    with ProcessPoolExecutor() as pool:
        for split, count in (("train", train), ("test", test)):
            list(pool.map(partial(_save, folder, split), range(count), chunksize=16))


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=3000)
    parser.add_argument("--test", type=int, default=700)
    words = parser.parse_args()
    fill(words.folder, words.train, words.test)


if __name__ == "__main__":
    main()
