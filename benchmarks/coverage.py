"""How often the 95 % interval of `inference.crossed_difference` holds the true difference.

Simulates the differences in correctness of an arm and its reference, -1, 0 or 1 for each head and image, with
a known expectation. Whether head s gains or loses image i is decided by thresholds on a standard normal number

    sqrt(group) y_g + sqrt(image) x_i + sqrt(rest) e_si,  group + image + rest = 1,

where the case says which share of the variance belongs to groups, to images and to single (head, image) pairs.
Each head moves both thresholds by its own amount, so that the expectation over heads is exact. The
probabilities do not depend on the shares, so every case has the same truth: GAIN - LOSS.

Usage: python benchmarks/coverage.py [--replications 4000] [--seed 0] [--output FILE.md]
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import stats

from blurtrain.inference import crossed_difference

GAIN, LOSS = 0.16, 0.12  # share of images that only the arm, only the reference gets right
TRUTH = GAIN - LOSS
CUT = 2.5  # standard deviations at which the heads' effects are cut, so that LOSS stays a probability
SPLITS = {"images only": 1.0, "images and interaction": 0.6, "all interaction": 0.0}


@dataclass(frozen=True)
class Case:
    """One row of the table: sizes, and where the variance lies."""

    name: str
    n_images: int
    head_sd: float
    image_share: float
    group_share: float = 0.0
    group_sizes: tuple[int, ...] = ()
    n_heads: int = 5


def cases() -> Iterator[Case]:
    """Yield every simulated case."""
    for n_images in (153, 2000):
        for head_sd in (0.0, 0.02, 0.04):
            for name, share in SPLITS.items():
                yield Case(name, n_images, head_sd, share)
    yield Case("images only, one head", 153, 0.0, 1.0, n_heads=1)
    equal = Case("9 equal groups", 900, 0.0, 0.4, 0.2, (100,) * 9)
    unequal = Case("9 unequal groups", 900, 0.0, 0.4, 0.2, (20, 40, 60, 80, 100, 120, 140, 160, 180))
    many = Case("60 unequal groups", 900, 0.0, 0.4, 0.2, (5, 10, 15, 20, 25) * 12)
    dominated = Case("one group of 700, ten of 20", 900, 0.0, 0.4, 0.2, (700, *(20,) * 10))
    for grouped in (equal, unequal, many, dominated):
        yield grouped
        yield replace(grouped, head_sd=0.04)


def draw(case: Case, random: np.random.Generator) -> Float[np.ndarray, "heads images"]:
    """Draw one set of differences."""
    rest = 1 - case.image_share - case.group_share
    latent = np.sqrt(case.image_share) * random.standard_normal(case.n_images)
    if case.group_sizes:
        group = random.standard_normal(len(case.group_sizes))
        latent = latent + np.sqrt(case.group_share) * np.repeat(group, case.group_sizes)
    noise = np.sqrt(rest) * random.standard_normal((case.n_heads, case.n_images)) if rest > 0 else 0.0
    head = case.head_sd * np.clip(random.standard_normal((case.n_heads, 1)), -CUT, CUT)
    difference: Float[np.ndarray, "heads images"] = np.zeros((case.n_heads, case.n_images))
    difference += latent + noise > stats.norm.isf(GAIN + head / 2)
    difference -= latent + noise < stats.norm.ppf(LOSS - head / 2)
    return difference


def coverage(case: Case, replications: int, seed: int) -> tuple[float, float, float]:
    """Return the coverage, the mean half width and the root mean square error of the estimate."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(case.group_sizes)), case.group_sizes) if case.group_sizes else None
    held, half_widths, errors = [], [], []
    for _ in range(replications):
        result = crossed_difference(draw(case, random), groups)
        low, high = result.ci95
        held.append(low <= TRUTH <= high)
        half_widths.append((high - low) / 2)
        errors.append(result.estimate - TRUTH)
    return float(np.mean(held)), float(np.mean(half_widths)), float(np.sqrt(np.mean(np.square(errors))))


def table(replications: int, seed: int) -> Iterator[str]:
    """Yield the Markdown table line by line."""
    resolution = 2 * np.sqrt(0.95 * 0.05 / replications)
    yield f"Coverage of the 95 % interval, {replications} replications, seed {seed}; exact to {resolution:.3f}."
    yield ""
    yield "| variance | images | heads | head sd | coverage | mean half width | error of the estimate (rms) |"
    yield "|---|---|---|---|---|---|---|"
    for number, case in enumerate(cases()):
        held, half_width, error = coverage(case, replications, seed + number)
        yield (
            f"| {case.name} | {case.n_images} | {case.n_heads} | {case.head_sd:g} | {held:.3f} "
            f"| {half_width:.4f} | {error:.4f} |"
        )


def main() -> None:
    """Print the table and, where asked for, write it to a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".md"))
    arguments = parser.parse_args()
    lines = []
    for line in table(arguments.replications, arguments.seed):
        print(line, flush=True)
        lines.append(line)
    arguments.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
