"""Intervals and tests against published examples, tables made by hand, enumeration, scipy and statsmodels."""

import itertools
import math
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import Bool, Int
from scipy import optimize, stats
from statsmodels.api import OLS
from statsmodels.stats.anova import anova_lm
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from blurtrain import inference
from blurtrain.inference import Difference, crossed_difference, holm, mcnemar_exact, sign_flip, verdict


@st.composite
def differences(
    draw: st.DrawFn, min_heads: int = 1, max_heads: int = 4, min_images: int = 2, max_images: int = 12
) -> Int[np.ndarray, "heads images"]:
    heads = draw(st.integers(min_heads, max_heads))
    images = draw(st.integers(min_images, max_images))
    cells = st.lists(st.integers(-1, 1), min_size=heads * images, max_size=heads * images)
    return np.array(draw(cells)).reshape(heads, images)


@st.composite
def grouped_differences(draw: st.DrawFn) -> tuple[Int[np.ndarray, "heads images"], Int[np.ndarray, " images"]]:
    difference = draw(differences(min_images=3))
    n_images = difference.shape[1]
    groups = draw(st.lists(st.integers(0, 3), min_size=n_images, max_size=n_images))
    return difference, np.array(groups)


def numbers(result: Difference) -> list[float]:
    """Everything in a result, flat."""
    estimate, error, freedom, interval, *rest = astuple(result)
    return [estimate, error, freedom, *interval, *rest]


def require_same(first: Difference, second: Difference) -> None:
    np.testing.assert_allclose(numbers(first), numbers(second), rtol=1e-7, atol=1e-10)


# the analysis of variance, by hand

# heads in rows, units in columns; a row and column of means beside it:
#                       mean
#    1   0   0   2      .75         grand mean 13 / 12
#    3   1  -1   1     1.
#    2   2  -2   4     1.5
#    2   1  -1  7/3
TABLE = np.array([[1, 0, 0, 2], [3, 1, -1, 1], [2, 2, -2, 4]])
# SS_head     = 4 ((.75 - 13/12)^2 + (1 - 13/12)^2 + (1.5 - 13/12)^2) = 4 (16 + 1 + 25) / 144 = 7/6,   df 2
# SS_unit     = 3 ((2 - 13/12)^2 + (1 - 13/12)^2 + (-1 - 13/12)^2 + (7/3 - 13/12)^2)
#             = 3 (121 + 1 + 625 + 225) / 144 = 81/4,                                                  df 3
# SS_total    = 45 - 12 (13/12)^2 = 371/12
# SS_residual = 371/12 - 14/12 - 243/12 = 114/12 = 19/2,                                               df 6
MS_HEAD, MS_UNIT, MS_RESIDUAL = 7 / 12, 27 / 4, 19 / 12


def test_mean_squares_by_hand() -> None:
    squares = inference._mean_squares(TABLE.astype(float))
    assert squares == pytest.approx((MS_UNIT, MS_HEAD, MS_RESIDUAL))


def test_heads_that_vary_less_than_the_residual_count_as_equal() -> None:
    result = crossed_difference(TABLE)
    assert result.estimate == pytest.approx(13 / 12)
    assert result.standard_error == pytest.approx(0.75)  # sqrt(6.75 / 12)
    assert result.degrees_of_freedom == 3
    # Student's t for 3 degrees of freedom, from a printed table: .975 -> 3.182446, .8 -> .978472
    assert result.ci95 == pytest.approx((13 / 12 - 0.75 * 3.182446, 13 / 12 + 0.75 * 3.182446), abs=1e-6)
    assert result.smallest_detectable == pytest.approx(0.75 * (3.182446 + 0.978472), abs=1e-6)
    # t = 13/9; for 3 degrees of freedom P(|T| > t) = 1 - 2/pi (atan(u) + u / (1 + u^2)), u = t / sqrt(3)
    u = 13 / 9 / math.sqrt(3)
    assert result.p == pytest.approx(1 - 2 / math.pi * (math.atan(u) + u / (1 + u**2)))
    assert (result.n_units, result.n_heads) == (4, 3)


def test_heads_that_vary_add_to_the_error() -> None:
    # the table again with 0, 2 and 4 added to its rows: only MS_head changes,
    # to 4 ((.75 - 37/12)^2 + (3 - 37/12)^2 + (5.5 - 37/12)^2) / 2 = 4 (784 + 1 + 841) / 288 = 271/12
    result = crossed_difference(TABLE + np.array([[0], [2], [4]]))
    combined = 27 / 4 + 271 / 12 - 19 / 12
    assert combined == pytest.approx(27.75)
    assert result.standard_error == pytest.approx(math.sqrt(27.75 / 12))
    expected = 27.75**2 / (6.75**2 / 3 + (271 / 12) ** 2 / 2 + (19 / 12) ** 2 / 6)
    assert result.degrees_of_freedom == pytest.approx(expected)
    half_width = stats.t.ppf(0.975, expected) * result.standard_error
    assert result.ci95 == pytest.approx((37 / 12 - half_width, 37 / 12 + half_width))
    assert result.p == pytest.approx(2 * stats.t.sf(37 / 12 / result.standard_error, expected))


# published examples

# Four tips on four coupons of metal (Montgomery 2001, "Design and Analysis of Experiments", 5th edition, section 4-1):
# mean squares 12.83 of tips, 27.50 of coupons, 0.89 of the error.
HARDNESS = np.array([[-2, -1, 1, 5], [-1, -2, 3, 4], [-3, -1, 0, 2], [2, 1, 5, 7]])
# Heights of crossed less those of self-fertilised maize, in eighths of an inch (Darwin 1876; Fisher 1935, "The Design
# of Experiments", sections 17 and 21): t = 2.148, and 1726 of the 32768 sign patterns have a sum as far from 0.
MAIZE = np.array([[49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]])


def test_mean_squares_of_a_published_table() -> None:
    squares = inference._mean_squares(HARDNESS.astype(float))
    assert squares == pytest.approx((27.50, 12.83, 0.89), abs=0.005)


def test_t_of_darwins_maize() -> None:
    result = crossed_difference(MAIZE)
    assert result.estimate / result.standard_error == pytest.approx(2.148, abs=0.0005)
    assert result.degrees_of_freedom == 14
    assert result.p == pytest.approx(0.0497, abs=0.00005)


def test_sign_flip_of_darwins_maize() -> None:
    assert sign_flip(MAIZE) == pytest.approx(1726 / 32768, rel=1e-12)


# other oracles


@given(differences(min_heads=2))
@settings(max_examples=25)
def test_mean_squares_match_statsmodels(difference: np.ndarray) -> None:
    (n_heads, n_units), y = difference.shape, difference.ravel().astype(float)
    head, unit = np.indices(difference.shape)
    heads, units = np.eye(n_heads)[head.ravel()], np.eye(n_units)[unit.ravel()]
    both = OLS(y, np.hstack([heads, units[:, 1:]])).fit()
    of_heads, of_units = (anova_lm(OLS(y, other).fit(), both)["ss_diff"].iloc[1] for other in (units, heads))
    ours = inference._mean_squares(difference.astype(float))
    theirs = of_units / (n_units - 1), of_heads / (n_heads - 1), both.ssr / ((n_units - 1) * (n_heads - 1))
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def plain_reference(difference: np.ndarray, groups: np.ndarray | None) -> tuple[float, float, float]:
    """Estimate, squared standard error and degrees of freedom, in loops over definitions."""
    heads, images = difference.shape
    names = list(range(images)) if groups is None else groups.tolist()
    labels = sorted(set(names))
    members = {label: [i for i in range(images) if names[i] == label] for label in labels}
    shares = [len(members[label]) / images for label in labels]
    n_units, effective = len(labels), 1 / sum(share**2 for share in shares)
    widen = math.sqrt(effective / (effective - 1) * (n_units - 1) / n_units)
    table = []
    for s in range(heads):
        mean = sum(difference[s]) / images
        row = []
        for label, share in zip(labels, shares, strict=True):
            of_group = sum(difference[s, i] for i in members[label]) / len(members[label])
            row.append(mean + widen * n_units * share * (of_group - mean))
        table.append(row)
    grand = sum(map(sum, table)) / (heads * n_units)
    head_means = [sum(row) / n_units for row in table]
    unit_means = [sum(row[g] for row in table) / heads for g in range(n_units)]
    ss_unit = heads * sum((mean - grand) ** 2 for mean in unit_means)
    ss_head = n_units * sum((mean - grand) ** 2 for mean in head_means)
    ss_total = sum((value - grand) ** 2 for row in table for value in row)
    unit_df, head_df = effective - 1, heads - 1
    ms_unit = ss_unit / (n_units - 1)
    if heads == 1:
        return grand, ms_unit / n_units, unit_df
    ms_head = ss_head / head_df
    ms_residual = (ss_total - ss_unit - ss_head) / ((n_units - 1) * head_df)
    if ms_head - ms_residual <= 1e-9:
        return grand, ms_unit / (heads * n_units), unit_df
    combined = ms_unit + ms_head - ms_residual
    freedom = combined**2 / (ms_unit**2 / unit_df + ms_head**2 / head_df + ms_residual**2 / (unit_df * head_df))
    return grand, combined / (heads * n_units), freedom


@given(differences())
def test_matches_the_definitions_in_loops(difference: np.ndarray) -> None:
    result = crossed_difference(difference)
    estimate, variance, freedom = plain_reference(difference, None)
    assert result.estimate == pytest.approx(estimate)
    if variance > 1e-12:
        assert result.standard_error == pytest.approx(math.sqrt(variance))
        assert result.degrees_of_freedom == pytest.approx(freedom)


@given(grouped_differences())
def test_matches_the_definitions_in_loops_for_groups(case: tuple[np.ndarray, np.ndarray]) -> None:
    difference, groups = case
    result = crossed_difference(difference, groups)
    if len(set(groups.tolist())) > 1:
        estimate, variance, freedom = plain_reference(difference, groups)
        assert result.estimate == pytest.approx(estimate)
        if variance > 1e-12:
            assert result.standard_error == pytest.approx(math.sqrt(variance))
            assert result.degrees_of_freedom == pytest.approx(freedom)


@given(differences(max_heads=1, max_images=30))
def test_one_head_is_the_t_test(difference: np.ndarray) -> None:
    if np.ptp(difference) == 0:
        return
    result = crossed_difference(difference)
    theirs = stats.ttest_1samp(difference[0], 0)
    interval = theirs.confidence_interval(0.95)
    assert result.p == pytest.approx(theirs.pvalue)
    assert result.degrees_of_freedom == theirs.df
    assert result.ci95 == pytest.approx((interval.low, interval.high))


def test_equal_heads_are_as_good_as_one() -> None:
    one = np.random.default_rng(0).integers(-1, 2, (1, 50))
    first, several = numbers(crossed_difference(one)), numbers(crossed_difference(np.repeat(one, 5, axis=0)))
    assert several[:-1] == pytest.approx(first[:-1])  # all but the number of heads


# groups


def test_groups_of_one_size_are_plain_means() -> None:
    difference = np.random.default_rng(0).integers(-1, 2, (4, 60))
    groups = np.random.default_rng(1).permutation(np.repeat(np.arange(12), 5))
    means = np.stack([difference[:, groups == label].mean(axis=1) for label in range(12)], axis=1)
    require_same(crossed_difference(difference, groups), crossed_difference(means))


def test_groups_of_one_image_are_no_groups() -> None:
    difference = np.random.default_rng(0).integers(-1, 2, (4, 30))
    require_same(crossed_difference(difference, np.arange(30)[::-1]), crossed_difference(difference))


def test_one_head_with_unequal_groups_has_cochrans_ratio_variance() -> None:
    # sizes 1, 2, 3 and sums 1, 1, 0: R = 2/6, deviations y - R n = 2/3, 1/3, -1; n = 6, G = 3
    # E = 36/14, so the variance is sum(deviation^2) / n^2 * E / (E - 1) = (14/9) / 36 * 18/11 = 7/99
    result = crossed_difference(np.array([[1, 0, 1, 0, 1, -1]]), np.array([7, 4, 4, 9, 9, 9]))
    assert result.estimate == pytest.approx(1 / 3)
    assert result.standard_error == pytest.approx(math.sqrt(7 / 99))
    assert result.degrees_of_freedom == pytest.approx(36 / 14 - 1)
    assert result.n_units == 3


@given(grouped_differences())
@settings(max_examples=50)
def test_one_head_in_groups_matches_the_cluster_robust_error_of_statsmodels(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    difference, groups = case[0][:1], case[1]
    result = crossed_difference(difference, groups)
    if math.isnan(result.standard_error) or len(set(groups.tolist())) == 1 or result.standard_error == 0:
        return
    options = {"groups": groups, "use_correction": False}
    theirs = OLS(difference[0].astype(float), np.ones(len(groups))).fit(cov_type="cluster", cov_kwds=options)
    effective = len(groups) ** 2 / (np.unique(groups, return_counts=True)[1] ** 2).sum()
    assert result.estimate == pytest.approx(theirs.params[0])
    assert result.standard_error == pytest.approx(theirs.bse[0] * math.sqrt(effective / (effective - 1)))


@given(grouped_differences())
def test_the_estimate_is_the_difference_of_accuracies_whatever_the_groups(
    case: tuple[np.ndarray, np.ndarray],
) -> None:
    difference, groups = case
    arm, reference = difference == 1, difference == -1
    gap = arm.mean() - reference.mean()
    assert crossed_difference(difference, groups).estimate == pytest.approx(gap, abs=1e-12)
    if len(set(groups.tolist())) > 1:
        units, _ = inference._unit_values(difference.astype(float), groups)
        np.testing.assert_allclose(units.mean(axis=1), difference.mean(axis=1), atol=1e-12)


def test_images_that_move_together_are_not_counted_twice() -> None:
    once = np.random.default_rng(0).integers(-1, 2, (3, 20))
    frames = np.repeat(once, 10, axis=1)
    labels = np.repeat(np.arange(20), 10)
    require_same(crossed_difference(frames, labels), crossed_difference(once))
    assert crossed_difference(frames).standard_error < 0.5 * crossed_difference(frames, labels).standard_error


# invariances


@given(grouped_differences(), st.integers(0, 2**32))
def test_order_and_names_do_not_matter(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    difference, groups = case
    shuffle = np.random.default_rng(seed)
    images = shuffle.permutation(difference.shape[1])
    heads = shuffle.permutation(len(difference))
    names = np.array(["serif", "mono", "Zapf", "Äther"])
    moved = difference[heads][:, images]
    require_same(crossed_difference(moved), crossed_difference(difference))
    require_same(crossed_difference(moved, names[groups[images]]), crossed_difference(difference, groups))
    assert sign_flip(moved, names[groups[images]]) == sign_flip(difference, groups)


@given(grouped_differences())
def test_the_arms_may_be_exchanged(case: tuple[np.ndarray, np.ndarray]) -> None:
    difference, groups = case
    forth, back = crossed_difference(difference, groups), crossed_difference(-difference, groups)
    assert back.estimate == -forth.estimate
    np.testing.assert_allclose(back.ci95, (-forth.ci95[1], -forth.ci95[0]), atol=1e-12)
    np.testing.assert_allclose(numbers(back)[5:], numbers(forth)[5:], atol=1e-12)
    assert sign_flip(-difference, groups) == sign_flip(difference, groups)


@given(grouped_differences(), st.booleans())
def test_interval_and_p_value_agree(case: tuple[np.ndarray, np.ndarray], use_groups: bool) -> None:
    difference, groups = case
    result = crossed_difference(difference, groups if use_groups else None)
    low, high = result.ci95
    if not math.isnan(low) and abs(result.p - 0.05) > 1e-9:
        assert (result.p < 0.05) == (not low <= 0 <= high)


@given(differences(min_heads=2))
def test_the_error_never_falls_below_that_of_equal_heads(difference: np.ndarray) -> None:
    result = crossed_difference(difference)
    squares = inference._mean_squares(difference.astype(float))
    if not math.isnan(result.standard_error):
        assert result.standard_error**2 >= squares.unit / difference.size - 1e-12


# the smallest detectable difference


def exact_detectable(freedom: float) -> float:
    """The true difference, in standard errors, that a two-sided t test shows with 80 % power, by integration."""
    shares = (np.arange(100_000) + 0.5) / 100_000  # of the distribution of the estimated standard error
    threshold = stats.t.ppf(0.975, freedom) * np.sqrt(stats.chi2.ppf(shares, freedom) / freedom)

    def power(difference: float) -> float:
        return float(np.mean(stats.norm.sf(threshold - difference) + stats.norm.cdf(-threshold - difference)))

    return float(optimize.brentq(lambda difference: power(difference) - 0.8, 1, 100))


# What docs/statistics.md says of the formula: by how many % it is below the exact answer.
TOO_SMALL = {1: 13.8, 2: 5.1, 3: 2.2, 4: 1.2, 7: 0.3, 10: 0.1}


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 10, 30, 152, 1999])
def test_smallest_detectable_difference_beside_the_exact_one(freedom: int) -> None:
    result = crossed_difference(np.eye(1, freedom + 1))
    assert result.degrees_of_freedom == freedom
    exact = exact_detectable(freedom)
    theirs = TTestPower().solve_power(nobs=freedom + 1, alpha=0.05, power=0.8) * math.sqrt(freedom + 1)
    assert exact == pytest.approx(theirs, rel=1e-4)
    short = 100 * (1 - result.smallest_detectable / result.standard_error / exact)
    assert short == pytest.approx(TOO_SMALL.get(freedom, 0.0), abs=0.06)


def test_a_true_difference_of_that_size_is_found_8_times_in_10() -> None:
    random = np.random.default_rng(3)
    noise = 0.2  # of the mean of 25 units, so that their own standard deviation is 1
    truth = noise * (stats.t.ppf(0.975, 24) + stats.t.ppf(0.8, 24))
    p_values = [crossed_difference(random.normal(truth, 1, (1, 25))).p for _ in range(2000)]
    assert np.mean(np.array(p_values) < 0.05) == pytest.approx(0.8, abs=0.03)


# what cannot be known


def test_no_difference_at_all() -> None:
    result = crossed_difference(np.zeros((3, 10), dtype=int))
    assert (result.estimate, result.standard_error, result.ci95, result.p) == (0, 0, (0, 0), 1)
    assert math.isnan(result.smallest_detectable)


@pytest.mark.parametrize("n_heads", [1, 3])
def test_one_unit_has_an_estimate_and_nothing_else(n_heads: int) -> None:
    for result in (
        crossed_difference(np.ones((n_heads, 1))),
        crossed_difference(np.eye(n_heads, 5), np.zeros(5, dtype=int)),
    ):
        assert result.estimate != 0
        assert all(map(math.isnan, numbers(result)[1:-2]))
        assert (result.n_units, result.n_heads) == (1, n_heads)


@pytest.mark.parametrize("n_heads", [1, 2])
def test_units_that_all_agree_give_the_sign_tests_p_value_and_no_interval(n_heads: int) -> None:
    result = crossed_difference(np.full((n_heads, 5), -1))
    assert result.p == 2 / 2**5
    assert result.p == pytest.approx(sign_flip(np.full((n_heads, 5), -1)))
    assert all(map(math.isnan, [result.standard_error, *result.ci95, result.smallest_detectable]))


@pytest.mark.parametrize(("size", "ones", "n_groups"), [(3, 1, 5), (3, 2, 7), (5, 1, 6), (49, 1, 11)])
def test_equal_group_means_are_recognised_in_spite_of_rounding(size: int, ones: int, n_groups: int) -> None:
    # with the noise of 1/3 taken for variance, p would be about 1e-43
    block = np.repeat([1, 0], [ones, size - ones])
    result = crossed_difference(np.tile(block, (3, n_groups)), np.repeat(np.arange(n_groups), size))
    assert math.isnan(result.standard_error)
    assert result.p == 2.0 ** (1 - n_groups)


def test_an_estimate_of_rounding_noise_is_no_direction() -> None:
    groups = np.repeat(np.arange(5), 3)
    result = crossed_difference(np.tile([[0.1, 0.2, -0.3]], 5), groups)  # .1 + .2 - .3 is 5.6e-17
    assert result.p == 1
    assert math.isnan(result.standard_error)


def test_interaction_that_cancels_is_no_certainty() -> None:
    result = crossed_difference(np.array([[1, -1], [-1, 1]]))
    assert result.p == 1
    assert all(map(math.isnan, result.ci95))


def test_one_huge_group_leaves_hardly_any_freedom() -> None:
    difference = np.random.default_rng(0).integers(0, 2, (2, 10_010))
    result = crossed_difference(difference, np.append(np.zeros(10_000, dtype=int), np.arange(1, 11)))
    assert result.degrees_of_freedom < 0.01
    assert result.p > 0.9


@pytest.mark.parametrize("shape", [(0, 3), (3, 0)])
def test_nothing_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="needs at least one head and one image, got shape"):
        crossed_difference(np.zeros(shape))


def test_a_group_label_an_image() -> None:
    difference, labels = np.ones((2, 3), dtype=int), np.array([0, 1])
    message = "needs one group label an image, got 2 for 3 images"
    with pytest.raises(ValueError, match=message):
        crossed_difference(difference, labels)
    with pytest.raises(ValueError, match=message):
        sign_flip(difference, labels)


# coverage: the benchmark of the same name has more cases and replications


def covered(head_sd: float, image_share: float, replications: int, seed: int) -> float:
    """Share of intervals that hold the truth, 153 images and 5 heads.

    A gain has probability .16 and a loss .12 (thresholds of a standard normal number, of which `image_share` of
    the variance is common to all heads); each head moves both, by the same draw up to the sign.
    """
    random = np.random.default_rng(seed)
    held = 0
    for _ in range(replications):
        common, own = random.standard_normal((1, 153)), random.standard_normal((5, 153))
        latent = math.sqrt(image_share) * common + math.sqrt(1 - image_share) * own
        shift = head_sd * np.clip(random.standard_normal((5, 1)), -2.5, 2.5) / 2
        difference = (latent > stats.norm.isf(0.16 + shift)).astype(float)
        difference -= latent < stats.norm.ppf(0.12 - shift)
        low, high = crossed_difference(difference).ci95
        held += low <= 0.04 <= high
    return held / replications


@pytest.mark.parametrize("head_sd", [0, 0.02, 0.04])
@pytest.mark.parametrize("image_share", [1, 0.6])
def test_the_interval_holds_the_truth_about_95_times_in_100(head_sd: float, image_share: float) -> None:
    assert 0.92 <= covered(head_sd, image_share, 1000, 5) <= 0.985


def test_coverage_table_of_the_docs_holds_every_case_within_its_bar() -> None:
    """The bars: 93 to 97 % with images only and with heads that scatter, at least 93 % where all is interaction."""
    text = (Path(__file__).parents[1] / "docs" / "statistics.md").read_text(encoding="utf-8")
    table = text.partition("<!-- made by benchmarks/coverage.py -->")[2].partition("<!-- end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    found = {(row[0], int(row[1]), float(row[3])): [float(cell) for cell in row[4:-2]] for row in rows[2:]}
    kinds = ("images only", "images and interaction", "all interaction")
    for kind, images, head_sd in itertools.product(kinds, (153, 2000), (0, 0.02, 0.04)):
        shares = found[kind, images, head_sd]
        assert len(shares) == 3  # seeds
        assert min(shares) >= 93
        assert max(shares) <= 97 or kind == "all interaction"


# Holm


def test_holm_by_hand() -> None:
    # sorted .005 .01 .02 .03 .04 .7 times 6 5 4 3 2 1 = .03 .05 .08 .09 .08 .7, then never falling
    p_values = np.array([0.01, 0.04, 0.03, 0.005, 0.02, 0.7])
    np.testing.assert_allclose(holm(p_values), [0.05, 0.09, 0.09, 0.03, 0.08, 0.7])


def test_holm_of_a_published_example() -> None:
    # Wikipedia, "Holm-Bonferroni method": at .05 the fourth and the first are rejected, the others are not
    adjusted = holm(np.array([0.01, 0.04, 0.03, 0.005]))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])


@pytest.mark.parametrize("tests", [1, 2, 7, 40])
def test_holm_matches_statsmodels(tests: int) -> None:
    p_values = np.random.default_rng(tests).beta(0.3, 2, tests).round(3)  # with ties
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1], rtol=1e-12)


def test_holm_leaves_its_argument_alone() -> None:
    p_values = np.array([0.2, 0.01])
    holm(p_values)
    np.testing.assert_array_equal(p_values, [0.2, 0.01])


def test_holm_passes_nan_through_and_does_not_count_it() -> None:
    nan = math.nan
    np.testing.assert_allclose(holm(np.array([nan, 0.03, nan, 0.01])), [nan, 0.03, nan, 0.02])
    np.testing.assert_array_equal(holm(np.array([nan, nan])), [nan, nan])
    assert holm(np.array([])).shape == (0,)


@given(st.lists(st.floats(0, 1), max_size=8), st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[index] * (len(p_values) - step) > level:
            break
        rejected.add(index)
    adjusted = holm(np.array(p_values))
    assert {i for i, p in enumerate(adjusted) if p <= level} == rejected
    assert np.all(adjusted >= p_values)
    assert np.all(adjusted <= 1)


# verdicts


@pytest.mark.parametrize(
    ("estimate", "p", "words"),
    [
        (0.1, 0.049, "better"),
        (-0.1, 0.049, "worse"),
        (0.1, 0.05, "not distinguishable"),
        (-0.1, 0.9, "not distinguishable"),
        (0.1, math.nan, "not distinguishable"),
        (0.0, 0.01, "not distinguishable"),
    ],
)
def test_verdict(estimate: float, p: float, words: str) -> None:
    assert verdict(estimate, p) == words


# tests for the heads at hand


def one_head(gained: int, lost: int, both: int) -> tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    reference = np.repeat([False, True, True], [gained, lost, both])
    arm = np.repeat([True, False, True], [gained, lost, both])
    return reference, arm


@given(gained=st.integers(0, 40), lost=st.integers(0, 40), both=st.integers(0, 9))
def test_mcnemar_is_a_binomial_test_and_so_is_the_sign_flip_of_one_head(gained: int, lost: int, both: int) -> None:
    reference, arm = one_head(gained, lost, both)
    expected = stats.binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert mcnemar_exact(reference, arm) == pytest.approx(expected)
    difference = arm.astype(int) - reference
    assert sign_flip(difference[np.newaxis]) == pytest.approx(expected)


@given(gained=st.integers(0, 400), lost=st.integers(0, 400), both=st.integers(0, 9))
def test_mcnemar_matches_statsmodels(gained: int, lost: int, both: int) -> None:
    theirs = mcnemar([[both, lost], [gained, 0]], exact=True).pvalue
    assert mcnemar_exact(*one_head(gained, lost, both)) == pytest.approx(theirs, rel=1e-9)


def test_mcnemar_of_a_published_example() -> None:
    # approval of a prime minister, asked twice (Agresti 2002, "Categorical Data Analysis", section 10.1): 150 changed
    # one way and 86 the other; R's exact2x2 prints p-value = 3.716e-05
    assert mcnemar_exact(*one_head(150, 86, 794)) == pytest.approx(3.716e-05, abs=5e-9)


def test_mcnemar_by_hand() -> None:
    # 1 against 5 of 6: 2 (1 + 6) / 64
    assert mcnemar_exact(*one_head(5, 1, 3)) == pytest.approx(14 / 64)


def all_flips(sums: list[int]) -> float:
    """The sign-flip p value by enumeration."""
    seen = abs(sum(sums))
    flips = [abs(sum(signed)) for signed in itertools.product(*((value, -value) for value in sums))]
    return sum(flip >= seen for flip in flips) / len(flips)


@given(differences(max_images=8), st.lists(st.integers(0, 3), min_size=8, max_size=8))
def test_sign_flip_matches_enumeration(difference: np.ndarray, labels: list[int]) -> None:
    assert sign_flip(difference) == pytest.approx(all_flips(difference.sum(axis=0).tolist()))
    groups = np.array(labels[: difference.shape[1]])
    sums = [int(difference[:, groups == label].sum()) for label in set(groups.tolist())]
    assert sign_flip(difference, groups) == pytest.approx(all_flips(sums))


@given(differences(max_heads=3, max_images=9))
@settings(max_examples=25)
def test_sign_flip_matches_scipy(difference: np.ndarray) -> None:
    sums = difference.sum(axis=0)
    theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(difference) == pytest.approx(theirs.pvalue)


def test_sign_flip_ignores_images_without_a_difference() -> None:
    difference = np.array([[1, 1, -1, 1, 0], [1, 0, -1, 1, 1]])
    assert sign_flip(np.pad(difference, ((0, 0), (0, 100)))) == sign_flip(difference)


def test_sign_flip_of_nothing() -> None:
    assert sign_flip(np.zeros((3, 4), dtype=int)) == 1


def test_sign_flip_matches_its_normal_limit() -> None:
    difference = np.random.default_rng(0).choice([-1, 0, 1], (5, 10_000), p=[0.1, 0.79, 0.11])
    sums = difference.sum(axis=0)
    z = (abs(sums.sum()) - 1) / math.sqrt((sums**2).sum())  # 1: half the step between sums of one parity
    assert sign_flip(difference) == pytest.approx(2 * stats.norm.sf(z), rel=0.01)


def test_sign_flip_is_exact_far_out() -> None:
    # all 300 images gain with all heads: only the two patterns of one sign reach the sum
    assert sign_flip(np.ones((5, 300), dtype=np.int8)) == pytest.approx(2.0**-299, rel=1e-9)


def test_sign_flip_does_not_overflow_small_integers() -> None:
    difference = np.ones((200, 2), dtype=np.int8)  # a sum of 200 is -56 in eight bits
    difference[100:, 1] = 0
    assert sign_flip(difference) == pytest.approx(0.5)  # 200 and 100: two of four patterns reach 300
    assert sign_flip(difference, np.array([0, 0])) == pytest.approx(1)


@pytest.mark.parametrize("dtype", [np.float64, np.uint8])
def test_sign_flip_refuses_what_is_no_signed_integer(dtype: type) -> None:
    with pytest.raises(ValueError, match="differences must be signed integers, got"):
        sign_flip(np.zeros((2, 3), dtype=dtype))
