"""How often the 95 % interval of `inference.crossed_difference` holds the true difference.

Simulates the differences in correctness of an arm and its reference, -1, 0 or 1 for each head and image, with
a known expectation. Whether head s gains or loses image i is decided by thresholds on a standard normal number

    sqrt(group) y_g + sqrt(image) x_i + sqrt(rest) e_si,  group + image + rest = 1,

where the case says which share of the variance belongs to groups, to images and to single (head, image) pairs.
Each head moves both thresholds by its own amount, so that the expectation over heads is exact. The
probabilities do not depend on the shares, so every case has the same truth: GAIN - LOSS.

Every case is simulated with each of the seeds. The table takes the place of the one in docs/statistics.md.

Usage: python benchmarks/coverage.py [--replications 10000] [--seeds 1 2 3] [--output FILE.md]
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy import stats

from blurtrain.inference import crossed_difference

GAIN, LOSS = 0.16, 0.12  # share of images that only the arm, only the reference gets right
TRUTH = GAIN - LOSS
CUT = 2.5  # standard deviations at which the heads' effects are cut, so that LOSS stays a probability
BEGIN, END = "<!-- made by benchmarks/coverage.py -->", "<!-- end -->"  # what stands between them is replaced
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


def coverage(case: Case, replications: int, seed: Sequence[int]) -> tuple[float, float, float]:
    """Return the coverage, the mean half width and the mean square error of the estimate."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(case.group_sizes)), case.group_sizes) if case.group_sizes else None
    held, half_widths, errors = [], [], []
    for _ in range(replications):
        result = crossed_difference(draw(case, random), groups)
        low, high = result.ci95
        held.append(low <= TRUTH <= high)
        half_widths.append((high - low) / 2)
        errors.append(result.estimate - TRUTH)
    return float(np.mean(held)), float(np.mean(half_widths)), float(np.mean(np.square(errors)))


def table(replications: int, seeds: Sequence[int]) -> Iterator[str]:
    """Yield the Markdown table line by line: coverage in % for each seed, the rest over all of them."""
    resolution = 200 * np.sqrt(0.95 * 0.05 / replications)
    yield (
        f"Share of 95 % intervals that hold the truth, in %: {replications} replications a seed, "
        f"each exact to about {resolution:.1f}."
    )
    yield ""
    names = " | ".join(f"seed {seed}" for seed in seeds)
    yield f"| variance | images | heads | head sd | {names} | mean half width | error of the estimate (rms) |"
    yield "|---" * (6 + len(seeds)) + "|"
    for number, case in enumerate(cases()):
        each = [coverage(case, replications, (seed, number)) for seed in seeds]
        _, half_width, square = np.mean(each, axis=0)
        held = " | ".join(f"{100 * share:.1f}" for share, _, _ in each)
        yield (
            f"| {case.name} | {case.n_images} | {case.n_heads} | {case.head_sd:g} | {held} "
            f"| {half_width:.4f} | {np.sqrt(square):.4f} |"
        )


def main() -> None:
    """Print the table and write it to its place in a file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--replications", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[1] / "docs" / "statistics.md")
    arguments = parser.parse_args()
    text = arguments.output.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        parser.error(f"{arguments.output} needs one line {BEGIN} and one line {END}")
    lines = []
    for line in table(arguments.replications, arguments.seeds):
        print(line, flush=True)
        lines.append(line)
    made = "\n".join([BEGIN, "", *lines, "", END])
    replaced = re.sub(f"{re.escape(BEGIN)}.*{re.escape(END)}", lambda _: made, text, flags=re.DOTALL)
    arguments.output.write_text(replaced, encoding="utf-8")


if __name__ == "__main__":
    main()
