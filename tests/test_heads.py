"""The convex head against scikit-learn, automatic differentiation and its own invariances."""

from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight

from blurtrain import fitting, heads
from blurtrain.config import HeadConfig
from blurtrain.fitting import Fit
from blurtrain.heads import ConvexHeads, FeatureBatch, FeatureDataModule, Heads

pytestmark = pytest.mark.usefixtures("quiet")

TOLERANCE = 1e-6  # so tight that what is left of the gradient shows in no comparison


class Data(NamedTuple):
    """An arm's rows, as `fitting.fit` takes them."""

    features: np.ndarray
    labels: np.ndarray
    training: np.ndarray
    validation: np.ndarray

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1

    def fit(self, l2: tuple[float, ...] = (0.1,), tolerance: float = TOLERANCE, balanced: bool = False) -> Fit:
        weights = heads.balanced(self.labels, self.training, self.classes) if balanced else None
        return fitting.fit(*self, classes=self.classes, l2=l2, tolerance=tolerance, class_weights=weights)

    def rows(self, rows: np.ndarray) -> "Data":
        """Some rows, in any order, any number of times."""
        return Data(self.features[rows], self.labels[rows], self.training[:, rows], self.validation[:, rows])


def make(rows: int = 120, width: int = 7, classes: int = 3, folds: int = 3, seed: int = 0) -> Data:
    """Overlapping clouds, correlated and unequally scaled features, folds of unequal size."""
    rng = np.random.default_rng(seed)
    labels = np.r_[np.repeat(np.arange(classes), 2), rng.integers(classes, size=rows - 2 * classes)]
    centres = rng.standard_normal((classes, width))
    mixing = rng.standard_normal((width, width)) / np.sqrt(width)
    features = (centres[labels] + 1.5 * rng.standard_normal((rows, width))) @ mixing * rng.uniform(0.1, 10, width)
    fold = (np.arange(rows) ** 2 // 3) % folds
    fold[: 2 * classes] = np.arange(2 * classes) % 2  # no split lacks a class
    validation = fold == np.arange(folds)[:, None]
    return Data(features.astype(np.float32), labels, ~validation, validation)


def standardised(features: np.ndarray, training: np.ndarray) -> np.ndarray:
    """In float64 by the training rows; a constant feature becomes 0."""
    wide = features.astype(np.float64)
    spread = wide[training].std(0)
    usable = spread > 1e-6 * spread.max()
    return np.asarray((wide - wide[training].mean(0)) * usable / np.where(usable, spread, 1.0))


def oracle(data: Data, training: np.ndarray, l2: float, class_weight: str | None = None) -> np.ndarray:
    """scikit-learn's probabilities of every row."""
    z = standardised(data.features, training)
    count = int(training.sum())
    # sklearn's binary loss has one weight vector; two opposite halves of it have half its penalty.
    penalty = l2 / 2 if data.classes == 2 else l2
    strength = 1 / (count * penalty)
    model = LogisticRegression(C=strength, class_weight=class_weight, solver="newton-cg", tol=1e-8, max_iter=1000)
    model.fit(z[training], data.labels[training])
    return np.asarray(model.predict_proba(z))


def probabilities(found: Heads, features: np.ndarray) -> np.ndarray:
    return np.asarray(softmax(found.logits(features), axis=-1))


def assert_matches_sklearn(data: Data, l2: float, atol: float = 1e-5, class_weight: str | None = None) -> None:
    fit = data.fit((l2,), balanced=class_weight == "balanced")
    assert fit.l2 == l2
    for fold, training in enumerate(data.training):
        expected = oracle(data, training, l2, class_weight)
        np.testing.assert_allclose(probabilities(fit.folds, data.features)[fold], expected, atol=atol)
    refit = oracle(data, np.asarray(data.training.any(0)), l2, class_weight)
    np.testing.assert_allclose(probabilities(fit.refit, data.features)[0], refit, atol=atol)


# Oracle


@pytest.mark.parametrize("l2", [3e-3, 0.1, 10.0])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize(("rows", "width"), [(150, 8), (60, 90)], ids=["tall", "wide"])
def test_heads_match_sklearn(rows: int, width: int, classes: int, l2: float) -> None:
    assert_matches_sklearn(make(rows, width, classes), l2)


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), l2=st.floats(1e-3, 10), classes=st.integers(2, 5), width=st.integers(1, 20))
def test_heads_match_sklearn_on_any_data(seed: int, l2: float, classes: int, width: int) -> None:
    assert_matches_sklearn(make(60, width, classes, folds=2, seed=seed), l2)


@pytest.mark.parametrize("l2", [0.03, 1.0, 10.0, 1e3])
def test_default_tolerance_is_tight_enough(l2: float) -> None:
    data = make(60, 90, classes=10)
    fit = data.fit((l2,), HeadConfig().tolerance)
    for fold, training in enumerate(data.training):
        expected = oracle(data, training, l2)
        np.testing.assert_allclose(probabilities(fit.folds, data.features)[fold], expected, atol=1e-4)


def test_correlated_and_repeated_features() -> None:
    data = make(90, 5)
    nearly = data.features + 1e-3 * np.random.default_rng(1).standard_normal(data.features.shape)
    features = np.concatenate([data.features, data.features, nearly.astype(np.float32)], 1)
    assert_matches_sklearn(data._replace(features=features), 0.01)


def test_constant_features_are_ignored() -> None:
    data = make(2000)
    values = np.r_[0.0, 1e4 * np.random.default_rng(8).standard_normal(20)]  # whose squares float64 must round
    constant = np.tile(values.astype(np.float32), (len(data.labels), 1))
    more = data._replace(features=np.concatenate([constant, data.features], 1))
    plain, fit = data.fit(), more.fit()
    assert np.all(fit.folds.weights[:, :, :21] == 0)
    assert np.all(fit.refit.weights[:, :, :21] == 0)
    np.testing.assert_allclose(
        probabilities(fit.folds, more.features), probabilities(plain.folds, data.features), atol=1e-5
    )


def test_feature_that_is_constant_in_training_rows_alone_is_ignored() -> None:
    data = make()
    odd = np.where(data.training[0], np.float32(0.1), np.arange(len(data.labels), dtype=np.float32))
    more = data._replace(features=np.concatenate([data.features, odd[:, None]], 1))
    assert np.all(more.fit().folds.weights[0, :, -1] == 0)
    assert np.all(more.fit().folds.weights[1, :, -1] != 0)


def test_all_features_constant_gives_the_class_shares() -> None:
    data = make(folds=2)._replace(features=np.ones((120, 4), np.float32))
    fit = data.fit()
    for fold, training in enumerate(data.training):
        shares = np.bincount(data.labels[training], minlength=3) / training.sum()
        np.testing.assert_allclose(probabilities(fit.folds, data.features)[fold], np.tile(shares, (120, 1)), atol=1e-6)


@pytest.mark.parametrize("offset", [1e2, 1e4])
def test_large_offsets_cost_no_accuracy(offset: float) -> None:
    data = make()
    shifted = data._replace(features=(data.features + np.float32(offset)).astype(np.float32))
    # The folded bias holds offset * weight and is rounded to float32.
    assert_matches_sklearn(shifted, 0.1, atol=1e-7 * offset + 1e-5)


# Weights of the classes


def uneven(classes: int = 3, width: int = 7, seed: int = 0) -> Data:
    """The last class is frequent, the others are rare, and their share differs from fold to fold."""
    data = make(600, width, classes, seed=seed)
    rare = (data.labels < classes - 1) & (np.arange(600) % 8 > 0)
    return data.rows(np.flatnonzero(~rare | (np.arange(600) < 2 * classes)))


@pytest.mark.parametrize("l2", [3e-3, 0.1, 10.0])
@pytest.mark.parametrize(("classes", "width"), [(2, 8), (6, 8), (4, 90)])
def test_balanced_heads_match_sklearn(classes: int, width: int, l2: float) -> None:
    data = uneven(classes, width)
    counts = np.bincount(data.labels)
    assert counts.max() > 4 * counts.min()
    assert_matches_sklearn(data, l2, class_weight="balanced")
    plain, balanced = (oracle(data, np.ones(len(data.labels), bool), l2, name) for name in (None, "balanced"))
    assert np.abs(plain - balanced).max() > 0.01  # the weights are strong enough to show


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10_000), l2=st.floats(1e-3, 10), classes=st.integers(2, 5), width=st.integers(1, 20))
def test_balanced_heads_match_sklearn_on_any_data(seed: int, l2: float, classes: int, width: int) -> None:
    assert_matches_sklearn(uneven(classes, width, seed), l2, class_weight="balanced")


def test_default_tolerance_is_tight_enough_with_weights() -> None:
    data = uneven(6, 90)
    for l2 in (0.01, 1.0):
        fit = data.fit((l2,), HeadConfig().tolerance, balanced=True)
        assert fit.converged
        for fold, training in enumerate(data.training):
            expected = oracle(data, training, l2, "balanced")
            np.testing.assert_allclose(probabilities(fit.folds, data.features)[fold], expected, atol=1e-4)


def test_balanced_weights_are_those_of_sklearn_for_each_splits_own_rows() -> None:
    data = uneven()
    found = heads.balanced(data.labels, data.training, 3)
    masks = [*data.training, np.ones(len(data.labels), bool)]
    expected = [compute_class_weight("balanced", classes=np.arange(3), y=data.labels[mask]) for mask in masks]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert len(np.unique(found[:, 0])) == 4  # the folds' shares differ, so that it shows whose they are
    split = heads.balanced(data.labels, data.training[:1], 3)
    np.testing.assert_array_equal(split, found[[0, 0]])  # a given validation split has no part in the refit


def test_copies_change_no_weight() -> None:
    data = uneven()
    copied = heads.balanced(np.tile(data.labels, 3), np.tile(data.training, 3), 3)
    np.testing.assert_array_equal(copied, heads.balanced(data.labels, data.training, 3))


def test_a_class_without_training_rows_has_no_weight() -> None:
    data = uneven()
    lacking = data.training & (data.labels != 1)
    with pytest.raises(ValueError, match="a class without training rows"):
        heads.balanced(data.labels, lacking, 3)


def test_equal_class_counts_make_balanced_heads_the_plain_ones() -> None:
    data = make(120)
    labels, fold = np.arange(120) % 3, np.arange(120) // 3 % 4  # ten rows of a class in each of four folds
    validation = fold == np.arange(4)[:, None]
    even = Data(data.features, labels, ~validation, validation)
    plain, balanced = even.fit((0.01, 0.1)), even.fit((0.01, 0.1), balanced=True)
    np.testing.assert_array_equal(balanced.folds.weights, plain.folds.weights)
    np.testing.assert_array_equal(balanced.refit.bias, plain.refit.bias)
    assert balanced.candidates == plain.candidates


def test_weighting_a_class_is_repeating_its_rows() -> None:
    # On features as they are, because repeated rows would move the standardisation.
    data, times = uneven(), np.array([5, 3, 1])
    data = data._replace(features=(data.features / data.features.std(0)).astype(np.float32))
    repeated = data.rows(np.repeat(np.arange(len(data.labels)), times[data.labels]))
    grid = (0.003, 0.03, 0.3, 3.0)

    def fit(some: Data, weights: np.ndarray | None) -> Fit:
        return fitting.fit(*some, classes=3, l2=grid, tolerance=TOLERANCE, standardise=False, class_weights=weights)

    weighted, plain = fit(data, np.tile(7.0 * times, (4, 1))), fit(repeated, None)  # 7: the ratios alone count
    np.testing.assert_allclose(weighted.folds.weights, plain.folds.weights, atol=1e-5)
    np.testing.assert_allclose(weighted.refit.bias, plain.refit.bias, atol=1e-5)
    assert weighted.l2 == plain.l2
    for ours, theirs in zip(weighted.candidates, plain.candidates, strict=True):
        assert ours["train_nll"] == pytest.approx(theirs["train_nll"], abs=1e-6)
        assert ours["validation_nll"] == pytest.approx(theirs["validation_nll"], abs=1e-6)


def test_penalty_is_chosen_by_the_weighted_validation_loss() -> None:
    rng = np.random.default_rng(1)
    data = uneven(width=20, seed=1)
    data = data._replace(labels=np.where(rng.random(len(data.labels)) < 0.2, 2, data.labels))
    grid = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    fit = data.fit(grid, balanced=True)
    weighted, plain = [], []
    for l2 in grid:
        found = probabilities(data.fit((l2,), balanced=True).folds, data.features)
        losses = []
        for fold, (training, rows) in enumerate(zip(data.training, data.validation, strict=True)):
            by_class = compute_class_weight("balanced", classes=np.arange(3), y=data.labels[training])
            weights = compute_sample_weight(dict(enumerate(by_class)), data.labels[rows])
            loss = partial(log_loss, data.labels[rows], found[fold][rows], labels=np.arange(3))
            losses.append((loss(sample_weight=weights), loss()))
        weighted.append(np.mean(losses, axis=0)[0])
        plain.append(np.mean(losses, axis=0)[1])
    assert [row["validation_nll"] for row in fit.candidates] == pytest.approx(weighted, abs=1e-5)
    assert fit.l2 == grid[int(np.argmin(weighted))]
    assert fit.l2 != grid[int(np.argmin(plain))]
    logits = fit.folds.logits(data.features)
    right = [(logits[fold][rows].argmax(1) == data.labels[rows]).mean() for fold, rows in enumerate(data.validation)]
    chosen = next(row for row in fit.candidates if row["l2"] == fit.l2)
    assert chosen["validation_accuracy"] == pytest.approx(np.mean(right))  # each image counts the same in it


# Penalty


def test_bias_is_not_penalised() -> None:
    rare = make(classes=2)
    keep = (rare.labels == 0) | (np.arange(120) % 12 == 1)
    data = rare.rows(np.flatnonzero(keep))
    fit = data.fit((1e4,))
    for fold, training in enumerate(data.training):
        shares = np.bincount(data.labels[training]) / training.sum()
        np.testing.assert_allclose(probabilities(fit.folds, data.features)[fold].mean(0), shares, atol=1e-3)


def test_mean_training_probability_is_the_class_share() -> None:
    data = make()
    fit = data.fit((0.03,))
    for fold, training in enumerate(data.training):
        shares = np.bincount(data.labels[training]) / training.sum()
        means = probabilities(fit.folds, data.features)[fold][training].mean(0)
        np.testing.assert_allclose(means, shares, atol=1e-5)  # the bias' own first-order condition


# Gradient


def module_for(data: Data, l2: tuple[float, ...] = (0.02, 0.5), tolerance: float = TOLERANCE) -> ConvexHeads:
    return ConvexHeads(FeatureDataModule(*data).batch, data.classes, l2, tolerance)


def by_hand(data: Data, theta: torch.Tensor, split: int, l2: float) -> torch.Tensor:
    """The objective as the module's docstring states it, in plain torch."""
    z = torch.from_numpy(standardised(data.features, data.training[split]))[data.training[split]]
    labels = torch.from_numpy(data.labels)[data.training[split]]
    parameters = theta.view(data.classes, -1)
    weights, bias = parameters[:, :-1], parameters[:, -1]
    return F.cross_entropy(z @ weights.T + bias, labels) + l2 / 2 * weights.square().sum()


def test_gradient_matches_autograd() -> None:
    data = make()
    module = module_for(data)
    points = torch.randn(module.points.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    splits = torch.tensor([2, 0])
    result = module.evaluate(FeatureDataModule(*data).batch, splits, points[splits], 0.5)
    for row, split in enumerate(splits.tolist()):
        theta = points[split].clone().requires_grad_()
        loss = by_hand(data, theta, split, 0.5)
        (gradient,) = torch.autograd.grad(loss, theta)
        torch.testing.assert_close(result.losses[row], loss.detach())
        torch.testing.assert_close(result.gradients[row], gradient, rtol=1e-9, atol=1e-11)


def test_validation_figures_match_counts_by_hand() -> None:
    data = make()
    module = module_for(data)
    points = torch.randn(module.points.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    result = module.evaluate(FeatureDataModule(*data).batch, torch.arange(3), points, 0.1)
    for split in range(3):
        parameters = points[split].view(3, -1).numpy()
        logits = standardised(data.features, data.training[split]) @ parameters[:, :-1].T + parameters[:, -1]
        nll = -log_softmax(logits, axis=1)[np.arange(120), data.labels]
        correct = logits.argmax(1) == data.labels
        rows = data.validation[split]
        assert float(result.train_nll[split]) == pytest.approx(nll[data.training[split]].mean())
        assert float(result.validation_nll[split]) == pytest.approx(nll[rows].mean())
        assert float(result.validation_accuracy[split]) == pytest.approx(correct[rows].mean())


def test_gradient_vanishes_at_the_solution() -> None:
    data = make()
    fit = data.fit((0.02, 0.5))
    assert 0 < fit.largest_gradient <= TOLERANCE / 3
    for fold, training in enumerate(data.training):
        spread = data.features[training].astype(np.float64).std(0)
        mean = data.features[training].astype(np.float64).mean(0)
        weights = fit.folds.weights[fold] * spread  # undo the folding
        bias = fit.folds.bias[fold] + fit.folds.weights[fold] @ mean
        theta = torch.from_numpy(np.concatenate([weights, bias[:, None]], 1)).flatten().requires_grad_()
        (gradient,) = torch.autograd.grad(by_hand(data, theta, fold, fit.l2), theta)
        assert float(gradient.abs().max()) < 3e-6  # float32 rounding of the saved head


# Invariances


def test_order_of_rows_does_not_matter() -> None:
    data = make()
    shuffled = data.rows(np.random.default_rng(3).permutation(120)).fit()
    np.testing.assert_allclose(shuffled.folds.weights, data.fit().folds.weights, atol=1e-5)
    np.testing.assert_allclose(shuffled.refit.bias, data.fit().refit.bias, atol=1e-5)


@pytest.mark.parametrize("times", [2, 3])
def test_duplicated_rows_do_not_matter(times: int) -> None:
    data, grid = make(), (0.01, 0.1, 1.0)
    once, often = data.fit(grid), data.rows(np.tile(np.arange(120), times)).fit(grid)
    assert often.l2 == once.l2
    for name in ("folds", "refit"):
        ours, theirs = getattr(once, name), getattr(often, name)
        np.testing.assert_allclose(theirs.weights, ours.weights, atol=1e-5)
        np.testing.assert_allclose(theirs.bias, ours.bias, atol=1e-5)


@settings(max_examples=5, deadline=None)
@given(scales=st.lists(st.floats(0.01, 100), min_size=7, max_size=7), seed=st.integers(0, 100))
def test_units_of_features_do_not_matter(scales: list[float], seed: int) -> None:
    data = make(seed=seed)
    scaled = data._replace(features=data.features * np.array(scales, np.float32))
    np.testing.assert_allclose(
        probabilities(scaled.fit().folds, scaled.features), probabilities(data.fit().folds, data.features), atol=1e-5
    )


def test_names_of_classes_do_not_matter() -> None:
    data = make()
    renamed = data._replace(labels=np.array([2, 0, 1])[data.labels])
    expected = probabilities(data.fit().folds, data.features)
    found = probabilities(renamed.fit().folds, data.features)
    np.testing.assert_allclose(found[..., [2, 0, 1]], expected, atol=1e-5)


def test_stacked_heads_equal_single_fits() -> None:
    data, grid = make(), (0.01, 0.1, 1.0)
    for l2 in grid:
        together = data.fit((l2,))
        for fold in range(3):
            alone = Data(data.features, data.labels, data.training[[fold]], data.validation[[fold]]).fit((l2,))
            np.testing.assert_allclose(together.folds.weights[fold], alone.folds.weights[0], atol=1e-5)
            np.testing.assert_allclose(alone.refit.weights, alone.folds.weights, atol=1e-5)
    stacked = data.fit(grid)
    np.testing.assert_allclose(stacked.folds.weights, data.fit((stacked.l2,)).folds.weights, atol=1e-5)


@pytest.mark.parametrize("block", [1, 50, 1000])
def test_blocks_do_not_change_a_head(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data, grid = make(), (0.05, 0.5)
    whole = data.fit(grid)
    monkeypatch.setattr(heads, "BLOCK", block)
    pieces = data.fit(grid)
    np.testing.assert_allclose(pieces.folds.weights, whole.folds.weights, atol=1e-5)
    assert pieces.l2 == whole.l2
    for ours, theirs in zip(whole.candidates, pieces.candidates, strict=True):
        assert theirs == pytest.approx(ours, abs=1e-6)


def test_same_data_give_the_same_bytes() -> None:
    data = make()
    first, second = data.fit((0.05, 0.5), tolerance=1e-4), data.fit((0.05, 0.5), tolerance=1e-4)
    assert first.folds.weights.tobytes() == second.folds.weights.tobytes()
    assert first.refit.bias.tobytes() == second.refit.bias.tobytes()
    assert first.curves == second.curves


# Leaks


def test_validation_rows_do_not_reach_their_folds_head() -> None:
    data = make()
    poisoned = data.features.copy()
    poisoned[data.validation[0]] = 1e4 * np.random.default_rng(4).standard_normal((data.validation[0].sum(), 7))
    clean, other = data.fit(), data._replace(features=poisoned).fit()
    np.testing.assert_allclose(other.folds.weights[0], clean.folds.weights[0], atol=1e-5)
    np.testing.assert_allclose(other.folds.bias[0], clean.folds.bias[0], atol=1e-5)
    assert np.abs(other.folds.weights[1] - clean.folds.weights[1]).max() > 1e-3  # the poison is strong enough
    assert np.abs(other.refit.weights - clean.refit.weights).max() > 1e-3


def test_validation_labels_do_not_reach_their_folds_head() -> None:
    data = make()
    labels = data.labels.copy()
    labels[data.validation[1]] = (labels[data.validation[1]] + 1) % 3
    clean, other = data.fit(), data._replace(labels=labels).fit()
    np.testing.assert_allclose(other.folds.weights[1], clean.folds.weights[1], atol=1e-5)
    assert np.abs(other.folds.weights[0] - clean.folds.weights[0]).max() > 1e-3


def test_rows_of_a_given_validation_split_reach_no_head() -> None:
    data = make()
    split = data._replace(training=data.training[:1], validation=data.validation[:1])
    poisoned = data.features.copy()
    poisoned[~split.training[0]] *= -50
    clean, other = split.fit(), split._replace(features=poisoned).fit()
    np.testing.assert_allclose(other.folds.weights, clean.folds.weights, atol=1e-5)
    np.testing.assert_allclose(other.refit.weights, clean.refit.weights, atol=1e-5)


# Choice of the penalty


def noisy() -> Data:
    """Labels that features hardly tell, where the least penalty is not the best one."""
    data = make(90, 20, classes=3)
    rng = np.random.default_rng(5)
    return data._replace(labels=np.where(rng.random(90) < 0.4, rng.integers(3, size=90), data.labels))


def test_chosen_penalty_has_the_lowest_mean_validation_loss() -> None:
    data, grid = noisy(), (0.01, 0.1, 1.0, 10.0, 100.0)
    fit = data.fit(grid)
    losses = []
    for l2 in grid:
        found = data.fit((l2,)).folds.logits(data.features)
        nll = -log_softmax(found, axis=-1)[:, np.arange(90), data.labels]
        losses.append(np.mean([nll[fold][rows].mean() for fold, rows in enumerate(data.validation)]))
    assert fit.l2 == grid[int(np.argmin(losses))]
    assert grid[0] < fit.l2 < grid[-1]  # neither the training loss nor the strongest penalty chose it
    assert [row["l2"] for row in fit.candidates] == list(grid)
    assert [row["validation_nll"] for row in fit.candidates] == pytest.approx(losses, abs=1e-5)
    training = [row["train_nll"] for row in fit.candidates]
    assert training == sorted(training)


def test_order_of_the_grid_does_not_matter() -> None:
    data, grid = noisy(), (0.01, 1.0, 0.1, 10.0)
    assert data.fit(grid).l2 == data.fit(tuple(reversed(grid))).l2


def test_chosen_heads_are_those_of_the_chosen_penalty() -> None:
    data, grid = noisy(), (0.01, 0.1, 1.0, 100.0)
    fit = data.fit(grid)
    alone = data.fit((fit.l2,))
    np.testing.assert_allclose(fit.folds.weights, alone.folds.weights, atol=1e-5)
    np.testing.assert_allclose(fit.refit.weights, alone.refit.weights, atol=1e-5)


def test_curves_end_at_the_chosen_candidate() -> None:
    fit = noisy().fit((0.01, 0.1, 1.0))
    chosen = next(row for row in fit.candidates if row["l2"] == fit.l2)
    assert len(fit.curves) == fit.iterations
    assert {name: chosen[name] for name in fit.curves[-1]} == fit.curves[-1]
    assert 0 < fit.curves[-1]["train_nll"] < np.log(3)  # what the zero start gives


# Shapes and precision


def test_folded_head_equals_the_standardised_one() -> None:
    data = make()
    module = module_for(data, l2=(0.1,))
    points = torch.randn(module.points.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    found = module.heads(points[[2, 0]], [2, 0])
    assert {str(found.weights.dtype), str(found.bias.dtype)} == {"float32"}
    logits = found.logits(data.features)
    assert logits.dtype == np.float64
    for row, split in enumerate((2, 0)):
        parameters = points[split].view(3, -1).numpy()
        expected = standardised(data.features, data.training[split]) @ parameters[:, :-1].T + parameters[:, -1]
        np.testing.assert_allclose(logits[row], expected, atol=1e-5)


def test_logits_are_a_linear_map() -> None:
    rng = np.random.default_rng(7)
    found = Heads(rng.standard_normal((2, 3, 5), np.float32), rng.standard_normal((2, 3), np.float32))
    features = rng.standard_normal((4, 5), np.float32)
    expected = [
        [weights @ row + bias for row in features] for weights, bias in zip(found.weights, found.bias, strict=True)
    ]
    np.testing.assert_allclose(found.logits(features), expected, rtol=1e-5)


def test_fit_says_what_it_gives(capsys: pytest.CaptureFixture[str]) -> None:
    fit = make().fit((0.1, 1.0), tolerance=1e-4)
    assert fit.folds.weights.shape == (3, 3, 7)
    assert fit.folds.bias.shape == (3, 3)
    assert fit.refit.weights.shape == (1, 3, 7)
    assert fit.largest_gradient <= 1e-4 / 3  # tolerance times a penalty that counts as 1 / classes at most
    assert capsys.readouterr().err.startswith("fitting heads          8 of 8 heads in ")


def test_fit_restores_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        make().fit(tolerance=1e-4)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)


def test_trainable_parameters_start_at_zero() -> None:
    module = module_for(make())
    assert [name for name, _ in module.named_parameters()] == ["points"]
    assert not bool(module.points.detach().any())


def test_data_module_gives_one_full_batch() -> None:
    data = make()
    (batch,) = FeatureDataModule(*data).train_dataloader()
    assert isinstance(batch, FeatureBatch)
    np.testing.assert_array_equal(batch.rows.block(slice(None)).numpy(), data.features)
    for tensor, array in zip(batch[1:], data[1:], strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
