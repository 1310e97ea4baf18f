"""Classification metrics against torchmetrics, scikit-learn and counts made by hand."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import Bool, Float
from sklearn.metrics import auc, balanced_accuracy_score, log_loss, top_k_accuracy_score
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from blurtrain import metrics

N_CLASSES = 6
N_IMAGES = 400


@pytest.fixture
def labels() -> np.ndarray:
    labels = np.random.default_rng(0).choice(N_CLASSES, N_IMAGES, p=[0.4, 0.25, 0.15, 0.1, 0.07, 0.03])
    labels[:N_CLASSES] = np.arange(N_CLASSES)
    return labels


@pytest.fixture
def probabilities(labels: np.ndarray) -> Float[np.ndarray, "heads images classes"]:
    """Softmax outputs of three heads that are right more often than not, the third overconfident."""
    logits = np.random.default_rng(1).standard_normal((3, N_IMAGES, N_CLASSES))
    logits += 1.5 * np.eye(N_CLASSES)[labels]
    logits[2] *= 4
    shares: Float[np.ndarray, "heads images classes"] = np.exp(logits)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


@pytest.fixture
def correct(probabilities: np.ndarray, labels: np.ndarray) -> Bool[np.ndarray, "heads images"]:
    return np.asarray(probabilities.argmax(axis=-1) == labels)


def booleans(text: str) -> Bool[np.ndarray, " images"]:
    return np.array([letter == "1" for letter in text], dtype=bool)


# accuracy


def test_accuracy_counts() -> None:
    assert metrics.accuracy(booleans("1101")) == 0.75


def test_accuracy_reduces_the_images_and_keeps_the_heads() -> None:
    correct = np.stack([booleans("1111"), booleans("1000"), booleans("0000")])
    np.testing.assert_array_equal(metrics.accuracy(correct), [1, 0.25, 0])


def test_one_head_gives_a_number() -> None:
    value = metrics.accuracy(booleans("10"))
    assert value.shape == ()
    assert f"{float(value):.2f}" == "0.50"


# class-averaged accuracy


def test_macro_accuracy_by_hand() -> None:
    # class 0: 3 of 4, class 1: 0 of 1, class 3: 1 of 1, class 2 absent -> (3/4 + 0 + 1) / 3
    labels = np.array([0, 0, 0, 0, 1, 3])
    assert metrics.macro_accuracy(booleans("111001"), labels, 4) == pytest.approx(1.75 / 3)


def test_macro_accuracy_matches_torchmetrics_and_sklearn(
    probabilities: np.ndarray, correct: np.ndarray, labels: np.ndarray
) -> None:
    ours = metrics.macro_accuracy(correct, labels, N_CLASSES)
    for head, value in enumerate(ours):
        predicted = probabilities[head].argmax(axis=-1)
        theirs = MulticlassAccuracy(N_CLASSES, average="macro")(torch.tensor(predicted), torch.tensor(labels))
        assert value == pytest.approx(theirs.item(), abs=1e-6)
        assert value == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_macro_accuracy_is_not_the_plain_one(correct: np.ndarray, labels: np.ndarray) -> None:
    skewed = correct & (labels < 3)  # the three rare classes are never right
    assert np.all(metrics.macro_accuracy(skewed, labels, N_CLASSES) < metrics.accuracy(skewed) - 0.1)


def test_macro_accuracy_leaves_out_a_class_without_images(correct: np.ndarray, labels: np.ndarray) -> None:
    np.testing.assert_array_equal(
        metrics.macro_accuracy(correct, labels, N_CLASSES),
        metrics.macro_accuracy(correct, labels + 2, N_CLASSES + 5),
    )


@pytest.mark.parametrize("bad", [-1, 3])
def test_macro_accuracy_refuses_a_label_out_of_range(bad: int) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.2, got"):
        metrics.macro_accuracy(booleans("11"), np.array([1, bad]), 3)


# top k


def test_top_k_matches_sklearn(probabilities: np.ndarray, labels: np.ndarray) -> None:
    of_label = np.take_along_axis(probabilities, labels[np.newaxis, :, np.newaxis], axis=-1)
    rank = np.sum(probabilities > of_label, axis=-1)
    for k in (1, 2, 5):
        for head, value in enumerate(metrics.top_k(rank, k)):
            theirs = top_k_accuracy_score(labels, probabilities[head], k=k, labels=range(N_CLASSES))
            assert value == pytest.approx(theirs)


def test_top_k_refuses_no_class() -> None:
    with pytest.raises(ValueError, match="k must be at least 1, got 0"):
        metrics.top_k(np.array([0, 1]), 0)


# likelihood


def test_negative_log_likelihood_matches_sklearn(probabilities: np.ndarray, labels: np.ndarray) -> None:
    of_label = np.take_along_axis(probabilities, labels[np.newaxis, :, np.newaxis], axis=-1)[..., 0]
    for head, value in enumerate(metrics.negative_log_likelihood(of_label)):
        assert value == pytest.approx(log_loss(labels, probabilities[head]))


@pytest.mark.parametrize(("dtype", "cost"), [(np.float32, 87.336), (np.float64, 708.396)])
def test_negative_log_likelihood_of_probability_zero_is_finite(dtype: type, cost: float) -> None:
    value = metrics.negative_log_likelihood(np.array([0, 1], dtype=dtype))
    assert value == pytest.approx(cost / 2, abs=1e-3)


# calibration


def test_calibration_error_by_hand() -> None:
    # five bins of width .2: (.2, .4] has confidences .3 .4, one right: |.7 - 1| = .3
    #                        (.8, 1.] has confidences .9 1. .9, two right: |2.8 - 2| = .8; (1.1 / 5) in all
    confidence = np.array([0.3, 0.4, 0.9, 1.0, 0.9])
    assert metrics.expected_calibration_error(confidence, booleans("01110"), 5) == pytest.approx(0.22)


def test_calibration_error_bins_are_closed_on_the_right() -> None:
    # .5 belongs to (0, .5], so the two images share no bin: |.5 - 1| / 2 + |.75 - 0| / 2
    confidence = np.array([0.5, 0.75])
    assert metrics.expected_calibration_error(confidence, booleans("10"), 2) == pytest.approx(0.625)
    # ... and with 0, which has no bin of its own, |.5 + 0 - 1| / 2
    assert metrics.expected_calibration_error(np.array([0.5, 0.0]), booleans("10"), 2) == pytest.approx(0.25)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibration_error_puts_every_edge_in_the_bin_below(dtype: type) -> None:
    edges = np.arange(1, 16, dtype=dtype) / dtype(15)
    above_the_edge_below = np.append(0, edges[:-1]).astype(dtype) + dtype(1e-3)
    pairs = np.stack([edges, above_the_edge_below], axis=1)
    # one right, one wrong in the same bin: |p + q - 1| / 2; in different bins it were (|p - 1| + q) / 2
    errors = metrics.expected_calibration_error(pairs, np.tile([True, False], (15, 1)))
    np.testing.assert_allclose(errors, np.abs(pairs.sum(axis=1) - 1) / 2, atol=1e-6)


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_matches_torchmetrics(
    probabilities: np.ndarray, correct: np.ndarray, labels: np.ndarray, bins: int
) -> None:
    ours = metrics.expected_calibration_error(probabilities.max(axis=-1), correct, bins)
    for head, value in enumerate(ours):
        theirs = MulticlassCalibrationError(N_CLASSES, n_bins=bins, norm="l1")(
            torch.tensor(probabilities[head]), torch.tensor(labels)
        )
        assert value == pytest.approx(theirs.item(), abs=1e-6)


def test_calibration_error_defaults_to_15_bins(probabilities: np.ndarray, correct: np.ndarray) -> None:
    confidence = probabilities.max(axis=-1)
    np.testing.assert_array_equal(
        metrics.expected_calibration_error(confidence, correct),
        metrics.expected_calibration_error(confidence, correct, 15),
    )


@pytest.mark.parametrize("value", [-0.01, 1.01, np.nan])
def test_calibration_error_refuses_what_is_no_probability(value: float) -> None:
    with pytest.raises(ValueError, match=r"confidence must lie in \[0, 1\], got"):
        metrics.expected_calibration_error(np.array([0.5, value]), booleans("10"))


def test_calibration_error_refuses_no_bins() -> None:
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        metrics.expected_calibration_error(np.array([0.5]), booleans("1"), 0)


# curves


def test_area_by_hand() -> None:
    # trapezoids 1 * (1 + .6) / 2 = .8 and 3 * (.6 + .2) / 2 = 1.2, over a range of 4
    assert metrics.area_under_strength(np.array([0, 1, 4]), np.array([1, 0.6, 0.2])) == pytest.approx(0.5)


def test_area_matches_sklearn() -> None:
    random = np.random.default_rng(0)
    strengths, accuracies = np.cumsum(random.uniform(0.1, 2, 9)), random.uniform(0, 1, (3, 9))
    expected = [auc(strengths, row) / (strengths[-1] - strengths[0]) for row in accuracies]
    np.testing.assert_allclose(metrics.area_under_strength(strengths, accuracies), expected)


def test_area_of_one_point_is_its_accuracy() -> None:
    np.testing.assert_array_equal(metrics.area_under_strength(np.array([2.0]), np.array([[0.3], [0.4]])), [0.3, 0.4])


@given(
    steps=st.lists(st.floats(0.01, 10), min_size=1, max_size=8),
    height=st.floats(0, 1),
    slope=st.floats(-1, 1),
    offset=st.floats(-5, 5),
)
def test_area_of_a_straight_line_is_its_middle(steps: list[float], height: float, slope: float, offset: float) -> None:
    strengths = np.concatenate([[0.0], np.cumsum(steps)])
    line = height + slope * strengths
    area = metrics.area_under_strength(strengths + offset, np.stack([line, line[::-1]]))
    np.testing.assert_allclose(area[0], line[[0, -1]].mean(), atol=1e-9)


@pytest.mark.parametrize("strengths", [[], [1, 1], [2, 1]])
def test_area_refuses_strengths_that_do_not_increase(strengths: list[int]) -> None:
    with pytest.raises(ValueError, match="strengths must be one or more increasing numbers, got"):
        metrics.area_under_strength(np.array(strengths, dtype=int), np.array(strengths, dtype=float))


def test_corruption_error_is_a_ratio_of_sums() -> None:
    # (.1 + .5) / (.2 + .6) = .75, where the mean of the ratios would be (.5 + .8333) / 2
    errors = np.array([[0.1, 0.5], [0.2, 0.6]])
    np.testing.assert_allclose(metrics.corruption_error(errors, np.array([0.2, 0.6])), [0.75, 1])


def test_corruption_error_beside_a_faultless_reference() -> None:
    none = np.zeros(2)
    assert metrics.corruption_error(np.array([0.0, 0.1]), none) == np.inf
    assert np.isnan(metrics.corruption_error(none, none))


# all of them


def test_each_head_is_reduced_alone(probabilities: np.ndarray, correct: np.ndarray, labels: np.ndarray) -> None:
    confidence = probabilities.max(axis=-1)
    strengths = np.arange(N_IMAGES)
    for together, alone in (
        (metrics.accuracy(correct), [metrics.accuracy(c) for c in correct]),
        (
            metrics.macro_accuracy(correct, labels, N_CLASSES),
            [metrics.macro_accuracy(c, labels, N_CLASSES) for c in correct],
        ),
        (metrics.negative_log_likelihood(confidence), [metrics.negative_log_likelihood(c) for c in confidence]),
        (
            metrics.expected_calibration_error(confidence, correct),
            [metrics.expected_calibration_error(p, c) for p, c in zip(confidence, correct, strict=True)],
        ),
        (
            metrics.area_under_strength(strengths, confidence),
            [metrics.area_under_strength(strengths, c) for c in confidence],
        ),
    ):
        assert together.shape == (3,)
        np.testing.assert_allclose(together, alone)


def test_the_order_of_images_does_not_matter(
    probabilities: np.ndarray, correct: np.ndarray, labels: np.ndarray
) -> None:
    order = np.random.default_rng(2).permutation(N_IMAGES)
    confidence = probabilities.max(axis=-1)
    np.testing.assert_allclose(
        metrics.macro_accuracy(correct, labels, N_CLASSES),
        metrics.macro_accuracy(correct[:, order], labels[order], N_CLASSES),
    )
    np.testing.assert_allclose(
        metrics.expected_calibration_error(confidence, correct),
        metrics.expected_calibration_error(confidence[:, order], correct[:, order]),
    )


def test_no_image_is_refused() -> None:
    none, nothing = booleans(""), np.array([])
    index = np.array([], dtype=int)
    message = "a metric needs at least one image, got none"
    with pytest.raises(ValueError, match=message):
        metrics.accuracy(none)
    with pytest.raises(ValueError, match=message):
        metrics.macro_accuracy(none, index, 3)
    with pytest.raises(ValueError, match=message):
        metrics.top_k(index, 1)
    with pytest.raises(ValueError, match=message):
        metrics.negative_log_likelihood(nothing)
    with pytest.raises(ValueError, match=message):
        metrics.expected_calibration_error(nothing, none)
