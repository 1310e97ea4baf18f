"""Heads, flips and areas under ROC curves, against scikit-learn, closed forms and simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from blurtrain.decision import LinearHead, auc_interval, described, quantiles, ratio, separation


@given(st.integers(0, 2**32), st.integers(2, 40), st.booleans())
def test_area_is_that_of_scikit_learn(seed: int, count: int, ties: bool) -> None:
    generator = np.random.default_rng(seed)
    errors, flipped = generator.random(count), generator.random(count) < 0.5
    errors = errors.round(1) if ties else errors
    found = separation(errors, flipped)
    assert (found["flipped"], found["stayed"]) == (flipped.sum(), (~flipped).sum())
    if flipped.all() or not flipped.any():
        assert found["auc"] is None
        assert found["ci95"] is None
    else:
        assert found["auc"] == pytest.approx(roc_auc_score(flipped, errors))
        low, high = found["ci95"]
        assert 0 <= low <= found["auc"] <= high <= 1


@pytest.mark.parametrize(("shift", "ones", "others"), [(0.0, 20, 44), (1.0, 20, 44), (2.0, 8, 56)])
def test_interval_covers_as_often_as_it_says(shift: float, ones: int, others: int) -> None:
    from scipy.stats import norm

    generator, true, draws = np.random.default_rng(1), float(norm.cdf(shift / np.sqrt(2))), 2000
    flipped = np.arange(ones + others) < ones
    covered = 0
    for _ in range(draws):
        low, high = separation(generator.standard_normal(ones + others) + shift * flipped, flipped)["ci95"]
        covered += low <= true <= high
    assert covered / draws == pytest.approx(0.95, abs=0.025)


def test_interval_at_the_ends_reaches_inwards() -> None:
    low, high = auc_interval(1.0, 10, 40)
    assert high == 1.0
    assert low == pytest.approx(0.875, abs=0.001)  # docs/theory.md
    assert auc_interval(0.0, 10, 40) == pytest.approx((0.0, 1 - low), abs=1e-6)


def test_interval_is_narrower_with_more_images() -> None:
    few, many = (np.diff(auc_interval(0.7, n, n))[0] for n in (10, 1000))
    assert many < 0.2 * few


def head(weights: list[list[float]]) -> LinearHead:
    return LinearHead("head", np.array(weights), np.zeros(len(weights)))


def test_a_head_is_blind_to_what_moves_all_logits_alike() -> None:
    alike = head([[1.0, 2.0, 0.0], [1.0, -2.0, 0.0]])
    clean = np.array([[1.0, 1.0, 1.0]])
    assert described(alike, clean, clean + np.array([[3.0, 0.0, 0.0]]), None)["row_share"]["mean"] == pytest.approx(0)
    assert described(alike, clean, clean + np.array([[0.0, 0.0, 3.0]]), None)["row_share"]["mean"] == pytest.approx(0)
    assert described(alike, clean, clean + np.array([[0.0, 3.0, 0.0]]), None)["row_share"]["mean"] == pytest.approx(1)
    assert described(alike, clean, clean + np.array([[3.0, 3.0, 0.0]]), None)["row_share"]["mean"] == pytest.approx(0.5)


def test_a_change_along_the_largest_singular_vector_attains_the_heads_bound() -> None:
    generator = np.random.default_rng(0)
    some = LinearHead("head", generator.standard_normal((4, 9)), np.ones(4))
    direction = np.linalg.svd(some.weights)[2][0]
    clean = generator.standard_normal((5, 9))
    found = described(some, clean, clean + direction, None)
    assert found["head_ratio"]["mean"] == pytest.approx(1)
    assert found["logit_change"]["q50"] == pytest.approx(some.norm)
    others = described(some, clean, clean + generator.standard_normal((5, 9)), None)
    assert others["head_ratio"]["largest"] < 1


def test_flips_accuracies_and_margins_are_counted() -> None:
    some = head([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    clean = np.array([[3.0, 1.0, 0.0], [2.0, 1.0, -1.0], [0.0, 4.0, -1.0], [1.0, 2.0, -5.0]])
    blurred = np.array([[0.0, 1.0, 0.0], [3.0, 1.0, -1.0], [0.0, 1.0, -1.0], [1.0, 3.0, -5.0]])
    found = described(some, clean, blurred, np.array([0, 0, 1, 0]))  # the last one is wrong before and after
    assert (found["flipped"], found["accuracy_clean"], found["accuracy_blurred"]) == (1, 0.75, 0.5)
    assert found["margin"] == pytest.approx((2 + 1 + 4 + 1) / 4)
    assert found["change_over_margin"]["q50"] == pytest.approx(1.0)  # of 3 / 2, 1 / 1, 3 / 4 and 1 / 1


def test_a_flip_needs_a_change_of_the_margin_over_root_two() -> None:
    generator = np.random.default_rng(2)
    some = LinearHead("head", generator.standard_normal((5, 6)), generator.standard_normal(5))
    clean = generator.standard_normal((4000, 6))
    before, after = (some.logits(f) for f in (clean, clean + 0.3 * generator.standard_normal((4000, 6))))
    flipped = before.argmax(1) != after.argmax(1)
    best = np.sort(before, axis=1)
    needed = (best[:, -1] - best[:, -2]) / np.sqrt(2)
    assert flipped.sum() > 100
    assert (np.linalg.norm(after - before, axis=1)[flipped] >= needed[flipped] - 1e-12).all()


def test_what_has_no_head_of_its_own_says_nothing_of_it() -> None:
    whole = LinearHead("own", np.eye(2), np.zeros(2), is_separate=False)
    found = described(whole, np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]), None)
    assert found["flipped"] == 1
    assert found["head_norm"] is None
    assert found["row_share"] is None


def test_quotients_with_nothing() -> None:
    np.testing.assert_array_equal(ratio(np.array([0.0, 2.0, 3.0]), np.array([0.0, 0.0, 2.0])), [0.0, np.inf, 1.5])
    assert np.isnan(ratio(np.array([np.nan, 1.0]), np.array([0.0, np.nan]))).all()
    assert quantiles(np.array([np.nan, np.inf]))["q50"] is None
    assert quantiles(np.array([np.nan, 2.0]))["mean"] == 2.0
