"""How sure a difference between two arms is: intervals and tests from per-image correctness.

Throughout, `difference[s, i]` is the correctness of the arm's head s on image i minus that of the
reference's head s: -1, 0 or 1. Two questions are kept apart. `crossed_difference` asks about *new images and
newly trained heads*; `mcnemar_exact` and `sign_flip` ask about *these heads* on new images.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real, Shaped
from scipy import special  # not scipy.stats, which takes half a second to import

LEVEL = 0.05  # two-sided: 95 % intervals, and the threshold of every verdict
POWER = 0.8  # of the smallest difference that a test set could have shown
ROUNDING = 1e-12  # a spread below this share of the largest value is arithmetic noise, not variance

Verdict = Literal["better", "worse", "not distinguishable"]


@dataclass(frozen=True)
class Difference:
    """A mean difference in correctness, arm minus reference, with its uncertainty.

    Where the data say nothing about a quantity it is nan, never 0. One unit: all but the estimate is nan.
    Units without any spread: all but the estimate and `p`. No image that differs: only `smallest_detectable`.

    Attributes:
        estimate: The difference of the two arms' accuracies, in [-1, 1].
        standard_error: Of the estimate, over new units and new heads.
        degrees_of_freedom: Of the t distribution that the interval and the p value use; not a whole number in
            general, and below 1 where nearly all images are in one group.
        ci95: The 95 % interval (low, high). Not cut at -1 and 1.
        p: Two-sided p value of the hypothesis of no difference.
        smallest_detectable: The true difference that this test set would have shown with 80 % power.
        n_units: Units of analysis: groups where there are groups, images otherwise.
        n_heads: Heads.
    """

    estimate: float
    standard_error: float
    degrees_of_freedom: float
    ci95: tuple[float, float]
    p: float
    smallest_detectable: float
    n_units: int
    n_heads: int


def crossed_difference(
    difference: Real[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " labels"] | None = None
) -> Difference:
    """Estimate an arm's gain in accuracy over new images and newly trained heads.

    Heads and units are random and crossed: every head sees every unit. With G units, S heads and the mean
    squares of the two-way analysis of variance without replication,

        SE^2 = (MS_unit + MS_head - MS_residual) / (G S)

    is unbiased for the variance of the grand mean (Searle, Casella and McCulloch 1992, "Variance Components",
    chapter 4). Where MS_head < MS_residual the heads' variance would be estimated as negative; it is taken
    as 0, which leaves MS_unit / (G S) with G - 1 degrees of freedom. Otherwise the degrees of freedom are
    Satterthwaite's (1946, Biometrics Bulletin 2:110). One head: the t test over units, for that head.

    Images that belong together are given a common group, and the group is then the unit. Every image counts
    the same, so the estimate is the difference of the two accuracies whatever the groups: see `_unit_values`.

    Args:
        difference: Correctness of the arm minus that of the reference, for each head and image; for a mean
            over views, its mean over those views.
        groups: A label for each image: images with equal labels are one unit. `None`: each image is a unit.

    Returns:
        The difference with its interval and p value. Without spread between units there is no t statistic.
        If no image differs at all the interval is [0, 0] and p is 1. Otherwise there is no interval; but that
        all G units point the same way is evidence by itself, so p is the sign test's, 2^(1 - G) (1 at 0).

    Raises:
        ValueError: If there is no head, no image, or not one group label an image.
    """
    n_heads, n_images = difference.shape
    if n_heads == 0 or n_images == 0:
        raise ValueError(f"needs at least one head and one image, got shape {difference.shape}")
    _require_labels(groups, n_images)
    values = difference.astype(np.float64)
    estimate = float(values.mean())
    n_units = n_images if groups is None else len(np.unique(groups))
    if n_units == 1:
        return _without_spread(estimate, float("nan"), n_units, n_heads)
    if not values.any():
        return Difference(0.0, 0.0, n_units - 1.0, (0.0, 0.0), 1.0, float("nan"), n_units, n_heads)
    units, unit_freedom = (values, n_units - 1.0) if groups is None else _unit_values(values, groups)
    variance, freedom = _variance_of_mean(units, unit_freedom)
    if variance == 0:
        p = 2.0 ** (1 - n_units) if abs(estimate) > ROUNDING else 1.0
        return _without_spread(estimate, p, n_units, n_heads)
    return _from_t(estimate, float(np.sqrt(variance)), freedom, n_units, n_heads)


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjust p values for being several: the chance of any false positive stays below the level.

    The i-th smallest of m is multiplied by m - i + 1, never below its predecessor, cut at 1 (Holm 1979, "A
    simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6:65).

    Args:
        p_values: One p value a test. A nan is no test: it stays nan and does not count towards m.

    Returns:
        The adjusted p values, in the order given.
    """
    adjusted = p_values.copy()
    order = np.argsort(p_values)[: np.count_nonzero(~np.isnan(p_values))]  # nan sorts last
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(factors * p_values[order]), 1)
    return adjusted


def verdict(estimate: float, p: float) -> Verdict:
    """Say in words what a difference amounts to.

    Args:
        estimate: The difference, arm minus reference.
        p: Its p value, adjusted where there are several tests; nan where there is none.

    Returns:
        "better" or "worse" where p is below 0.05, else "not distinguishable", which does not mean equal.
    """
    if not p < LEVEL or estimate == 0:  # `not <` also catches nan
        return "not distinguishable"
    return "better" if estimate > 0 else "worse"


def mcnemar_exact(reference_correct: Bool[np.ndarray, " images"], arm_correct: Bool[np.ndarray, " images"]) -> float:
    """Test whether two fixed classifiers err equally often on new images.

    Of the images that only one of them gets right, each falls to either side with probability 1/2 under the
    hypothesis (McNemar 1947, Psychometrika 12:153; in the exact, binomial form).

    Args:
        reference_correct: Whether the reference is right on each image.
        arm_correct: The same of the arm, on the same images.

    Returns:
        The two-sided p value; 1 where the two are right on the same images.
    """
    gained = np.count_nonzero(arm_correct & ~reference_correct)
    lost = np.count_nonzero(reference_correct & ~arm_correct)
    return min(1.0, 2 * float(special.bdtr(min(gained, lost), gained + lost, 0.5)))


def sign_flip(
    difference: Real[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " labels"] | None = None
) -> float:
    """Test whether these heads, taken together, err equally often on new images.

    Under the hypothesis a unit's summed difference d_u is as likely as -d_u, independently of the other units
    (Fisher 1935, "The Design of Experiments", section 21). All 2^G sign patterns count: the sums are
    integers, so the exact distribution of `sum +-|d_u|` is a convolution of binomials, and nothing is drawn
    at random. With one head and no groups it is `mcnemar_exact`.

    Args:
        difference: Correctness of the arm minus that of the reference, as integers; for a mean over views,
            its sum over those views.
        groups: A label for each image: images with equal labels flip together. `None`: each image by itself.

    Returns:
        The two-sided p value: the probability of a sum at least as far from 0 as the one seen.

    Raises:
        ValueError: If the differences are not integers, or there is not one group label an image.
    """
    if not np.issubdtype(difference.dtype, np.signedinteger):
        raise ValueError(f"differences must be signed integers, got {difference.dtype}")
    _require_labels(groups, difference.shape[1])
    sums = difference.sum(axis=0, dtype=np.int64)
    if groups is not None:
        sums = _sum_per_group(sums[np.newaxis], groups)[0][0]
    probability = _positive_part_distribution(np.abs(sums))
    total = len(probability) - 1
    reached = 2 * np.arange(total + 1) - total  # positive part t means a signed sum of t - (total - t)
    return min(1.0, float(probability[np.abs(reached) >= abs(sums.sum())].sum()))


def _require_labels(groups: Shaped[np.ndarray, " labels"] | None, n_images: int) -> None:
    if groups is not None and len(groups) != n_images:
        raise ValueError(f"needs one group label an image, got {len(groups)} for {n_images} images")


class _MeanSquares(NamedTuple):
    unit: float
    head: float
    residual: float


def _mean_squares(units: Float[np.ndarray, "heads units"]) -> _MeanSquares:
    """Two-way analysis of variance without replication, of two or more heads and units."""
    n_heads, n_units = units.shape
    centred = units - units.mean()
    by_unit = centred.mean(axis=0)
    by_head = centred.mean(axis=1)
    residual = centred - by_unit - by_head[:, np.newaxis]
    return _MeanSquares(
        unit=float(n_heads * np.sum(by_unit**2) / (n_units - 1)),
        head=float(n_units * np.sum(by_head**2) / (n_heads - 1)),
        residual=float(np.sum(residual**2) / ((n_units - 1) * (n_heads - 1))),
    )


def _variance_of_mean(units: Float[np.ndarray, "heads units"], unit_freedom: float) -> tuple[float, float]:
    """Return the estimated variance of the grand mean and its degrees of freedom; two or more units."""
    if len(units) == 1:
        variance, freedom = float(units.var(ddof=1)), unit_freedom
    else:
        squares = _mean_squares(units)
        if squares.head <= squares.residual * (1 + ROUNDING):  # the heads' variance would come out negative
            variance, freedom = squares.unit, unit_freedom
        else:
            variance = squares.unit + squares.head - squares.residual
            freedom = _satterthwaite(squares, variance, unit_freedom, len(units) - 1.0)
    noise = (ROUNDING * float(np.abs(units).max())) ** 2
    return (variance / units.size if variance > noise else 0.0), freedom


def _satterthwaite(squares: _MeanSquares, combined: float, unit_freedom: float, head_freedom: float) -> float:
    """Degrees of freedom of `unit + head - residual`: combined^2 / sum of MS^2 / df (Satterthwaite 1946)."""
    shares = (
        (squares.unit / combined) ** 2 / unit_freedom,
        (squares.head / combined) ** 2 / head_freedom,
        (squares.residual / combined) ** 2 / (unit_freedom * head_freedom),
    )
    return 1 / sum(shares)


def _from_t(estimate: float, standard_error: float, freedom: float, n_units: int, n_heads: int) -> Difference:
    quantile = float(special.stdtrit(freedom, 1 - LEVEL / 2))
    half_width = quantile * standard_error
    return Difference(
        estimate=estimate,
        standard_error=standard_error,
        degrees_of_freedom=freedom,
        ci95=(estimate - half_width, estimate + half_width),
        p=float(2 * special.stdtr(freedom, -abs(estimate) / standard_error)),
        smallest_detectable=half_width + float(special.stdtrit(freedom, POWER)) * standard_error,
        n_units=n_units,
        n_heads=n_heads,
    )


def _without_spread(estimate: float, p: float, n_units: int, n_heads: int) -> Difference:
    nan = float("nan")
    return Difference(estimate, nan, nan, (nan, nan), p, nan, n_units, n_heads)


def _sum_per_group(
    values: Real[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " images"]
) -> tuple[Real[np.ndarray, "heads units"], Int[np.ndarray, " units"]]:
    """Return each group's sum and its number of images."""
    _, unit, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    together = values[:, np.argsort(unit, kind="stable")]
    sums: Real[np.ndarray, "heads units"] = np.add.reduceat(together, np.cumsum(sizes) - sizes, axis=1)
    return sums, sizes


def _unit_values(
    values: Float[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " images"]
) -> tuple[Float[np.ndarray, "heads units"], float]:
    """Return one value a head and group, and the degrees of freedom between groups; two or more groups.

    The accuracy of a cluster sample is a ratio, correct images over images, and both vary from cluster to
    cluster. Its linearised form (Cochran 1977, "Sampling Techniques", 3rd edition, the ratio estimator of
    chapters 6 and 11) gives group g of n_g images, of G groups and n images in all, the value

        z_g = m + c (G n_g / n) (mean_g - m),  m the head's mean over images, c = 1

    whose plain mean over groups is m: every image counts the same, whatever the size of its group.
    With unequal sizes the large groups pull m towards themselves, so that G overstates what is known: with one
    group of 700 images and ten of 20, such intervals held the truth 3 times in 10. So the effective number of
    groups, E = n^2 / sum n_g^2 (Kish 1965, "Survey Sampling"), takes the place of G in the correction for the
    estimated mean, c^2 = (E / (E - 1)) / (G / (G - 1)), and in the degrees of freedom, E - 1 (cases in
    benchmarks/coverage.py). With groups of one size E = G, c = 1 and z_g = mean_g.
    """
    sums, sizes = _sum_per_group(values, groups)
    n_groups = len(sizes)
    effective = float(sizes.sum()) ** 2 / float(np.sum(sizes**2))
    inflation = np.sqrt((n_groups - 1) * effective / (n_groups * (effective - 1)))
    mean = values.mean(axis=1, keepdims=True)
    return mean + inflation * (sums - sizes * mean) / sizes.mean(), effective - 1


def _fair_coins(count: int) -> Float[np.ndarray, " heads"]:
    """Probability of each number of heads."""
    heads = np.arange(count + 1)
    ways = special.gammaln(count + 1) - special.gammaln(heads + 1) - special.gammaln(count - heads + 1)
    return np.asarray(np.exp(ways - count * math.log(2)))


def _positive_part_distribution(magnitudes: Int[np.ndarray, " units"]) -> Float[np.ndarray, " sums"]:
    """Distribution of the sum of those magnitudes that a fair coin chooses, over 0..sum(magnitudes).

    The k units of equal magnitude m add m times a binomial of k coins; the distributions of different
    magnitudes are convolved. Only positive terms are added, so small tails are as exact as large ones.
    """
    total = np.array([1.0])
    for magnitude, count in zip(*np.unique(magnitudes[magnitudes > 0], return_counts=True), strict=True):
        coins = _fair_coins(int(count))
        convolved = np.zeros(len(total) + magnitude * count)
        for chosen in np.flatnonzero(coins):  # a probability that underflows to 0 adds nothing
            start = magnitude * chosen
            convolved[start : start + len(total)] += coins[chosen] * total
        total = convolved
    return total
