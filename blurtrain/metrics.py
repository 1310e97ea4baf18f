"""Classification metrics from per-image predictions: plain numbers in, plain numbers out.

Images lie on the last axis. Axes before it, such as one of heads, are kept: for correctness of shape
[heads, images] every metric returns one value a head, for [images] an array without axes, which `float`
turns into a number.
"""

import numpy as np
from jaxtyping import Bool, Float, Int, Real

CALIBRATION_BINS = 15  # Guo et al. 2017, "On Calibration of Modern Neural Networks"


def accuracy(correct: Bool[np.ndarray, "*heads images"]) -> Float[np.ndarray, "*heads"]:
    """Return the share of images that are classified correctly: top-1, micro-averaged.

    Args:
        correct: Whether each image's predicted class is its label.

    Returns:
        The accuracy in [0, 1].

    Raises:
        ValueError: If there is no image.
    """
    _require_images(correct.shape[-1])
    return np.asarray(np.mean(correct, axis=-1, dtype=np.float64))


def macro_accuracy(
    correct: Bool[np.ndarray, "*heads images"], labels: Int[np.ndarray, " images"], n_classes: int
) -> Float[np.ndarray, "*heads"]:
    """Return the mean over classes of each class's accuracy.

    A class without an image among the labels has no accuracy and is left out of the mean, whether or not
    it is ever predicted (as scikit-learn's `balanced_accuracy_score` does; torchmetrics counts a class that
    is predicted but absent as an accuracy of 0).

    Args:
        correct: Whether each image's predicted class is its label.
        labels: The class of each image, 0 to `n_classes` - 1.
        n_classes: The number of classes.

    Returns:
        The class-averaged accuracy in [0, 1].

    Raises:
        ValueError: If there is no image, or a label is outside its range.
    """
    _require_images(len(labels))
    if labels.min() < 0 or labels.max() >= n_classes:
        raise ValueError(f"labels must lie in 0..{n_classes - 1}, got {labels.min()}..{labels.max()}")
    images = np.bincount(labels, minlength=n_classes)
    hits = _sum_per_bin(correct, np.broadcast_to(labels, correct.shape), n_classes)
    present = images > 0
    return np.asarray(np.mean(hits[..., present] / images[present], axis=-1))


def top_k(rank: Int[np.ndarray, "*heads images"], k: int) -> Float[np.ndarray, "*heads"]:
    """Return the share of images whose label is among the `k` classes of highest score.

    Args:
        rank: How many classes score higher than the label: 0 where the label is the prediction.
        k: How many classes are looked at, at least 1.

    Returns:
        The accuracy in [0, 1]; `k=1` is the plain one.

    Raises:
        ValueError: If there is no image, or `k` is below 1.
    """
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    return accuracy(rank < k)


def negative_log_likelihood(
    probability_of_label: Float[np.ndarray, "*heads images"],
) -> Float[np.ndarray, "*heads"]:
    """Return the mean of -log(probability that was given to the label), in nats.

    A probability below the smallest normal number of its own type (1.2e-38 in single precision, 2.2e-308 in
    double) counts as that number, so one hopeless image costs at most 87.3 or 708.4 and never infinity.

    Args:
        probability_of_label: The predicted probability of each image's label, in [0, 1].

    Returns:
        The mean in nats, at least 0.

    Raises:
        ValueError: If there is no image.
    """
    _require_images(probability_of_label.shape[-1])
    smallest = np.finfo(probability_of_label.dtype).tiny
    clipped = np.maximum(probability_of_label, smallest).astype(np.float64)
    return np.asarray(np.mean(-np.log(clipped), axis=-1))


def expected_calibration_error(
    confidence: Float[np.ndarray, "*heads images"],
    correct: Bool[np.ndarray, "*heads images"],
    bins: int = CALIBRATION_BINS,
) -> Float[np.ndarray, "*heads"]:
    """Return the mean gap between confidence and accuracy over bins of equal confidence width.

    With bin m holding the images of confidence in ((m - 1) / M, m / M], the error is
    `sum_m n_m / n |accuracy_m - confidence_m|` (Guo et al. 2017, equation 3). A confidence of 0 belongs to
    the first bin. torchmetrics closes its bins on the left and so gives confidences of exactly 1 a bin of
    their own; elsewhere than on a bin's edge the two agree.

    Args:
        confidence: The probability of each image's predicted class, in [0, 1].
        correct: Whether each image's predicted class is its label.
        bins: The number of bins M, at least 1.

    Returns:
        The error in [0, 1].

    Raises:
        ValueError: If there is no image, fewer than one bin, or a confidence outside [0, 1].
    """
    _require_images(confidence.shape[-1])
    if bins < 1:
        raise ValueError(f"bins must be at least 1, got {bins}")
    if not np.all((confidence >= 0) & (confidence <= 1)):
        raise ValueError(f"confidence must lie in [0, 1], got {confidence.min()} to {confidence.max()}")
    edges = np.linspace(0, 1, bins + 1, dtype=confidence.dtype)  # in its own type, so that 0.2 is 1/5 in each
    index = np.digitize(confidence, edges[1:-1], right=True)
    gaps = _sum_per_bin(correct - confidence.astype(np.float64), index, bins)
    return np.asarray(np.abs(gaps).sum(axis=-1) / confidence.shape[-1])


def area_under_strength(
    strengths: Real[np.ndarray, " views"], accuracies: Float[np.ndarray, "*heads views"]
) -> Float[np.ndarray, "*heads"]:
    """Return the mean height of the accuracy curve over blur strength.

    The area under the straight lines through the points, divided by the range of strengths, so that a
    constant accuracy is its own area. One point is a range of 0: its accuracy is returned.

    Args:
        strengths: Blur strengths, strictly increasing, for example sigma in pixels.
        accuracies: The accuracy at each strength, in [0, 1].

    Returns:
        The normalised area in [0, 1].

    Raises:
        ValueError: If there is no strength, or the strengths do not increase.
    """
    if len(strengths) == 0 or np.any(np.diff(strengths) <= 0):
        raise ValueError(f"strengths must be one or more increasing numbers, got {strengths.tolist()}")
    if len(strengths) == 1:
        return accuracies[..., 0]
    return np.asarray(np.trapezoid(accuracies, strengths, axis=-1) / (strengths[-1] - strengths[0]))


def corruption_error(
    errors: Float[np.ndarray, "*#heads views"], reference_errors: Float[np.ndarray, "*#heads views"]
) -> Float[np.ndarray, "*heads"]:
    """Return the summed errors over a blur's strengths relative to those of a reference.

    `CE = sum_v errors_v / sum_v reference_errors_v` (Hendrycks and Dietterich 2019, section 4.2): a ratio
    of sums, so that a strength at which the reference barely errs cannot dominate.

    Args:
        errors: The share of wrongly classified images at each view, in [0, 1].
        reference_errors: The same of the reference arm, at the same views.

    Returns:
        The ratio: 1 is as good as the reference, below 1 is better. Where the reference makes no error at
        all it is infinite, or nan if `errors` are 0 too.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(errors.sum(axis=-1) / reference_errors.sum(axis=-1))


def _require_images(n_images: int) -> None:
    if n_images == 0:
        raise ValueError("a metric needs at least one image, got none")


def _sum_per_bin(
    values: Real[np.ndarray, "*heads images"] | Bool[np.ndarray, "*heads images"],
    index: Int[np.ndarray, "*heads images"],
    n_bins: int,
) -> Float[np.ndarray, "*heads {n_bins}"]:
    """Sum the values of each row by bin: one `bincount` over (row, bin) pairs."""
    rows = index.reshape(-1, index.shape[-1])
    pairs = rows + n_bins * np.arange(len(rows))[:, np.newaxis]
    sums = np.bincount(pairs.ravel(), weights=values.ravel(), minlength=n_bins * len(rows))
    return sums.reshape(*index.shape[:-1], n_bins)
