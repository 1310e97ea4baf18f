"""A head of 1000 classes on 100,000 rows of 2048 features, in bounded memory: `python benchmarks/large_head.py`.

A given validation split and one penalty, so two problems. Random clouds, one a class; the page results/large_head.md
has the largest resident memory, before and after, and the time.
"""

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from timing import table, write

from blurtrain import fitting
from blurtrain.chatter import silence
from blurtrain.rows import Rows

PIECE = 4096


def memory() -> float:
    """Largest resident memory so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def blocks(labels: np.ndarray, width: int, classes: int) -> Iterator[np.ndarray]:
    """Noise around a centre for each class, some rows at a time."""
    centres = np.random.default_rng(0).standard_normal((classes, width), np.float32) / 4
    for start in range(0, len(labels), PIECE):
        some = labels[start : start + PIECE]
        noise = np.random.default_rng([1, start]).standard_normal((len(some), width), np.float32)
        yield centres[some] + noise


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--l2", type=float, default=0.1)
    parser.add_argument("--tolerance", type=float, default=1e-3)
    words = parser.parse_args()
    silence()
    labels = np.random.default_rng(2).integers(words.classes, size=words.rows)
    training = (np.arange(words.rows) % 10 > 0)[None]
    with tempfile.TemporaryDirectory() as folder:
        some = blocks(labels, words.features, words.classes)
        with closing(Rows(some, words.rows, words.features, Path(folder))) as rows:
            before, start = memory(), time.perf_counter()
            fit = fitting.fit(
                rows, labels, training, ~training, classes=words.classes, l2=(words.l2,), tolerance=words.tolerance
            )
            taken = time.perf_counter() - start
    held = (
        "rows in float32, MB",
        "before the fit, MiB",
        "largest, MiB",
        "the fit alone, MiB",
        "s",
        "iterations",
        "converged",
    )
    line = [
        f"{words.rows * words.features * 4 / 1e6:.0f}",
        *(f"{value:.0f}" for value in (before, memory(), memory() - before, taken)),
        str(fit.iterations),
        str(fit.converged),
    ]
    command = "python benchmarks/large_head.py"
    shape = f"{words.rows:,} rows of {words.features} features, {words.classes} classes, l2 {words.l2:g}"
    text = f"{shape}, tolerance {words.tolerance:g}:\n\n{table(held, [line])}"
    write("large_head", "A large head", command, text, ("torch",))


if __name__ == "__main__":
    main()
