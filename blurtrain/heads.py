"""The retrained head: softmax regression on standardised features, solved to its optimum.

For each fold and each candidate l2 the problem is

    minimise over W, b:  mean over the fold's training rows of cross-entropy(softmax(W z + b), label) + l2 / 2 ||W||^2

with z the features standardised by the mean and standard deviation of those rows. Where classes have weights, the mean
is a weighted one, in training and in validation alike; the standardisation and the accuracy are not. The problem is
strictly convex in W (the bias is unpenalised; it starts at zero, and no gradient moves the sum of its entries), so
there is one answer whatever the order, the seed, the start or the solver. Therefore candidates are solved from the
strongest to the weakest, each from where the one before ended: first the refit, on all rows, then from its answer all
folds as one stacked problem.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from blurtrain.curvature import Curvature
from blurtrain.lbfgs import HISTORY, Precondition, StackedLBFGS
from blurtrain.rows import Rows

BLOCK = 1 << 18  # features and logits held at once: 2 MiB in float64
STATE = 1 << 26  # numbers of the solver's state: 512 MiB; only so many problems are stacked
MAX_ITERATIONS = 1000  # of the solver on one stack of problems
HELD_OUT = 20_000  # rows on which snapshots are compared: 160 MB of 2048 features, and losses good to half a percent
CONSTANT = 1e-6  # a feature whose spread is below this share of the widest one carries no information


class FeatureBatch(NamedTuple):
    """All rows that an arm is trained and validated on."""

    rows: Rows
    labels: Int64[Tensor, " rows"]
    training: Bool[Tensor, "splits rows"]  # rows that each split is fitted on
    validation: Bool[Tensor, "splits rows"]  # rows that each split is validated on


class FeatureDataModule(LightningDataModule):
    """Features as one full batch.

    Args:
        features: Rows [rows, features], in an array or wherever `Rows` has them.
        labels: Class of each row.
        training: Which rows each split is fitted on.
        validation: Which rows each split is validated on.
    """

    def __init__(
        self,
        features: Float32[np.ndarray, "rows features"] | Rows,
        labels: Int64[np.ndarray, " rows"],
        training: Bool[np.ndarray, "splits rows"],
        validation: Bool[np.ndarray, "splits rows"],
    ) -> None:
        super().__init__()
        rows = features if isinstance(features, Rows) else Rows.of(features)
        self.batch = FeatureBatch(rows, *(torch.from_numpy(array) for array in (labels, training, validation)))

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        """One batch an epoch: one epoch solves all problems of one candidate l2."""
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]


class Evaluation(NamedTuple):
    """Some problems at given points."""

    losses: Float64[Tensor, " problems"]
    gradients: Float64[Tensor, "problems size"]
    train_nll: Float64[Tensor, " problems"]
    validation_nll: Float64[Tensor, " problems"]
    validation_accuracy: Float64[Tensor, " problems"]


@dataclass(frozen=True)
class Candidate:
    """A candidate penalty and its solved problems.

    Args:
        l2: The penalty.
        points: Of every split.
        figures: Training loss, validation loss and validation accuracy, averaged over all splits but the refit.
        iterations: Of the solver, from the strongest candidate on.
        largest_gradient: What is left of the gradient, over all splits.
        converged: Whether that is within the tolerance.
    """

    l2: float
    points: Float64[Tensor, "splits size"]
    figures: tuple[float, float, float]
    iterations: int
    largest_gradient: float
    converged: bool


@dataclass(frozen=True)
class Heads:
    """Linear heads on raw features: the standardisation is folded in.

    Args:
        weights: One matrix a head.
        bias: One vector a head.
        norms: Entries of batch norms, one a head, where each head was trained with a network of its own.
    """

    weights: Float32[np.ndarray, "heads classes features"]
    bias: Float32[np.ndarray, "heads classes"]
    norms: dict[str, np.ndarray] | None = None

    def logits(self, features: Float32[np.ndarray, "rows features"]) -> Float64[np.ndarray, "heads rows classes"]:
        """Logits of every head, accumulated in float64; features of several networks stand side by side."""
        weights, bias = self.weights.astype(np.float64), self.bias.astype(np.float64)
        networks = 1 if self.norms is None else len(bias)
        each = np.stack(np.split(features.astype(np.float64), networks, axis=1))
        return each @ weights.transpose(0, 2, 1) + bias[:, None, :]

    def state(self, head: int) -> dict[str, Tensor]:
        """The batch norms of one head's network; none where networks stay frozen."""
        return {key: torch.from_numpy(np.asarray(norm[head])) for key, norm in (self.norms or {}).items()}


def joined(parts: Sequence[Heads]) -> Heads:
    """All heads of several collections, in their order."""
    norms = [part.norms for part in parts if part.norms is not None]
    together = {key: np.concatenate([norm[key] for norm in norms]) for key in norms[0]} if norms else None
    return Heads(np.concatenate([p.weights for p in parts]), np.concatenate([p.bias for p in parts]), together)


@dataclass(frozen=True)
class Trained:
    """What training an arm gives, however it was done.

    Args:
        folds: One head a fold, or the one head of a given validation split.
        refit: One head trained on all training images.
        curves: Training loss, validation loss and accuracy, one row a step of whatever kind.
        summary: What run.json says of the training.
        notes: What the user should be told.
        forward_passes: Images that passed the backbone and were not stored.
        equal_epochs: Folds' heads and refitted head of a longer training, where equal steps and equal epochs differ.
    """

    folds: Heads
    refit: Heads
    curves: list[dict[str, float]]
    summary: dict[str, Any]
    notes: list[str]
    forward_passes: int = 0
    equal_epochs: tuple[Heads, Heads] | None = None


class ConvexHeads(LightningModule):
    """All heads of one arm: every split with every candidate l2. The last split is the refit.

    Args:
        batch: The rows that it will be fitted on; the standardisation comes from them.
        classes: Number of classes.
        l2: Candidate penalties.
        tolerance: A problem has converged when no entry of its gradient exceeds tolerance * l2, because l2 is the
            modulus of convexity in the weights; the bias has no penalty, so for it l2 counts as 1 / classes at most.
        standardise: Whether the penalty counts weights of standardised features, or of the features as they are.
        class_weights: Weights of the classes in the loss of each split, above 0; all alike where none are given.
    """

    def __init__(
        self,
        batch: FeatureBatch,
        classes: int,
        l2: tuple[float, ...],
        tolerance: float,
        standardise: bool = True,
        class_weights: Float64[Tensor, "splits classes"] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.classes = classes
        self.tolerance = tolerance
        self.path = sorted(l2, reverse=True)
        means, scales = _standardisation(batch)
        if not standardise:
            means, scales = torch.zeros_like(means), scales.masked_fill(scales.isfinite(), 1.0)
        self.register_buffer("means", means)
        self.register_buffer("scales", scales)
        self.means: Tensor
        self.scales: Tensor
        self._weighted = class_weights is not None  # or every block would be multiplied by ones
        given = torch.ones(len(means), classes, dtype=torch.float64) if class_weights is None else class_weights
        self.register_buffer("training_weights", _averaging_one(given, batch.labels, batch.training))
        self.register_buffer("validation_weights", _averaging_one(given, batch.labels, batch.validation))
        self.training_weights: Tensor
        self.validation_weights: Tensor
        splits, size = len(means), classes * (means.shape[1] + 1)
        self.points = torch.nn.Parameter(torch.zeros(splits, size, dtype=torch.float64))  # of the candidate at hand
        self.candidates: list[Candidate] = []  # solved so far; only of the best one the points are kept
        self.figures = torch.zeros(3, splits, dtype=torch.float64)
        self.history: list[tuple[float, ...]] = []  # figures averaged over the folds, one row an iteration of theirs
        self._curvature: Curvature | None = None

    @property
    def best(self) -> Candidate:
        """The candidate with the lowest validation loss so far."""
        return min(self.candidates, key=lambda candidate: candidate.figures[1])

    def configure_optimizers(self) -> list[Optimizer]:
        """None that Lightning would have to know: every stack of problems has a solver of its own."""
        return []

    def training_step(self, batch: FeatureBatch, _index: int) -> None:
        """Solve all problems of the next candidate."""
        l2 = self.path[len(self.candidates)]
        refit = len(self.points) - 1
        self._curvature = self._curvature or self.curvature_at_refit(batch)
        solved = [self.solve(batch, torch.tensor([refit]), l2, self._curvature)]
        self.points.data[:] = self.points.data[refit]
        self._curvature = self.curvature_at_refit(batch)
        most = max(1, STATE // (self.points.shape[1] * (2 * HISTORY + 8)))
        stacks = [torch.arange(start, min(start + most, refit)) for start in range(0, refit, most)]
        solved += [self.solve(batch, folds, l2, self._curvature) for folds in stacks]
        gradients, converged = zip(*solved, strict=True)
        found = Candidate(
            l2, self.points.detach().clone(), self._means(), len(self.history), max(gradients), all(converged)
        )
        self.candidates.append(found)
        self.candidates = [c if c is self.best else replace(c, points=c.points[:0]) for c in self.candidates]

    def curvature_at_refit(self, batch: FeatureBatch) -> Curvature:
        """Where the refit is now."""
        point = self.points.detach()[-1].view(self.classes, -1)
        weights = self.training_weights[-1][batch.labels]
        return Curvature(batch.rows, batch.training[-1], weights, self.means[-1], self.scales[-1], point)

    def solve(
        self,
        batch: FeatureBatch,
        splits: Int64[Tensor, " problems"],
        l2: float,
        curvature: Curvature,
        most: int = MAX_ITERATIONS,
    ) -> tuple[float, bool]:
        """Solve some splits as one stack, from where they are: the largest gradient left, and whether it is enough."""
        points = torch.nn.Parameter(self.points.detach()[splits])
        inverse = curvature.inverse(l2)
        tolerance = self.tolerance * min(l2, 1 / self.classes)
        precondition: Precondition = lambda _problems, gradients: inverse(gradients)  # noqa: E731
        solver = StackedLBFGS(points, precondition, torch.full_like(points[:, 0], tolerance))

        def objective(problems: Tensor, tried: Tensor) -> tuple[Tensor, Tensor]:
            result = self.evaluate(batch, splits[problems.cpu()], tried, l2)
            self.figures[:, splits[problems.cpu()]] = torch.stack(result[2:]).cpu()
            return result.losses, result.gradients

        for _ in range(most):
            solver.step(objective)
            if int(splits[-1]) == len(self.points) - 2:  # the last stack of folds: the others are solved
                self.history.append(self._means())
            if bool((solver.converged | solver.stalled).all()):
                break
        self.points.data[splits] = points.detach()
        return float(solver.largest_gradients.max()), bool(solver.converged.all())

    def _means(self) -> tuple[float, float, float]:
        train_nll, validation_nll, validation_accuracy = self.figures[:, :-1].mean(1).tolist()
        return train_nll, validation_nll, validation_accuracy

    def evaluate(
        self,
        batch: FeatureBatch,
        splits: Int64[Tensor, " problems"],
        points: Float64[Tensor, "problems size"],
        l2: float,
    ) -> Evaluation:
        """Loss, gradient and validation figures of some splits' problems, block of rows by block of rows."""
        count = len(splits)
        theta = points.view(count, self.classes, -1)
        weights, bias = theta[..., :-1], theta[..., -1]
        means, scales = self.means[splits][:, None], self.scales[splits][:, None]
        folded = weights / scales
        shift = bias - (folded * means).sum(-1)
        shares = [1 / mask[splits].sum(1).clamp_min(1).double() for mask in (batch.training, batch.validation)]
        nll = torch.zeros(count, dtype=torch.float64, device=points.device)
        validation_nll, validation_accuracy = nll.clone(), nll.clone()
        # Classes before problems: sums over classes then run along contiguous problems, which is twice as fast.
        columns, offsets = folded.transpose(0, 1).flatten(0, 1), shift.T.contiguous()
        by_column, by_offset = torch.zeros_like(columns), torch.zeros_like(offsets)
        for rows in batch.rows.blocks(count * self.classes + batch.rows.width, BLOCK):
            features, labels = batch.rows.block(rows), batch.labels[rows]
            each = torch.arange(len(labels), device=labels.device)
            training = batch.training[splits, rows].T * shares[0]
            validation = held_out = batch.validation[splits, rows].T * shares[1]
            if self._weighted:
                training = training * self.training_weights[splits][:, labels].T
                held_out = validation * self.validation_weights[splits][:, labels].T
            logits = (features @ columns.T).view(-1, self.classes, count).add_(offsets)
            logits -= logits.amax(1, keepdim=True)
            of_label = logits[each, labels]
            residual = logits.exp_()
            total = residual.sum(1)
            row_nll = total.log() - of_label
            nll += (row_nll * training).sum(0)
            validation_nll += (row_nll * held_out).sum(0)
            correct = of_label == 0  # the largest logit is 0 after the shift
            validation_accuracy += (correct * validation).sum(0)
            residual *= (training / total)[:, None]
            residual[each, labels] -= training
            by_column += residual.flatten(1).T @ features
            by_offset += residual.sum(0)
        by_weight = by_column.view(self.classes, count, -1).transpose(0, 1)
        by_shift = by_offset.T
        gradient = (by_weight - by_shift[..., None] * means) / scales + l2 * weights
        losses = nll + l2 / 2 * weights.square().sum((1, 2))
        gradients = torch.cat([gradient, by_shift[..., None]], -1).flatten(1)
        return Evaluation(losses, gradients, nll, validation_nll, validation_accuracy)

    def heads(self, points: Float64[Tensor, "problems size"], splits: list[int]) -> Heads:
        """Heads on raw features, from points of some splits."""
        theta = points.view(len(splits), self.classes, -1)
        weights = theta[..., :-1] / self.scales[splits][:, None]
        bias = theta[..., -1] - (weights * self.means[splits][:, None]).sum(-1)
        return Heads(weights.float().cpu().numpy(), bias.float().cpu().numpy())


def _standardisation(
    batch: FeatureBatch,
) -> tuple[Float64[Tensor, "splits features"], Float64[Tensor, "splits features"]]:
    """Mean and standard deviation of each split's training rows; a constant feature gets an infinite scale."""
    counts = batch.training.sum(1).double()[:, None]
    width = batch.rows.width
    sums = torch.zeros(len(counts), width, dtype=torch.float64)
    squares = torch.zeros_like(sums)
    centre = batch.rows.block(slice(0, 1))  # any point near the data keeps the difference of squares exact
    for rows in batch.rows.blocks(width, BLOCK):
        centred, mask = batch.rows.block(rows) - centre, batch.training[:, rows].double()
        sums += mask @ centred
        squares += mask @ centred.square()
    means = sums / counts
    scales = (squares / counts - means.square()).clamp_min(0).sqrt()
    constant = scales <= CONSTANT * scales.amax(1, keepdim=True)
    return means + centre, scales.masked_fill(constant, float("inf"))


def balanced(
    labels: Int64[np.ndarray, " rows"], training: Bool[np.ndarray, "splits rows"], classes: int
) -> Float64[np.ndarray, "_ classes"]:
    """Weights with which all classes of a split's training rows count alike: rows / (classes * rows of the class).

    They are those of scikit-learn's ``class_weight="balanced"`` (after King and Zeng 2001, "Logistic Regression in Rare
    Events Data") and average 1 over the rows. Copies of all rows change none of them.

    Args:
        labels: Class of each row.
        training: Which rows each split is fitted on.
        classes: Number of classes.

    Returns:
        A row for each split, and one for the refit on the rows of all of them.

    Raises:
        ValueError: If a split has no row of a class.
    """
    every = np.concatenate([training, training.any(0, keepdims=True)])
    counts = np.stack([np.bincount(labels[mask], minlength=classes) for mask in every])
    if not counts.all():
        raise ValueError("a class without training rows has no weight")
    return np.asarray(counts.sum(1, keepdims=True) / (classes * counts))


def _averaging_one(
    weights: Float64[Tensor, "splits classes"], labels: Int64[Tensor, " rows"], masks: Bool[Tensor, "splits rows"]
) -> Float64[Tensor, "splits classes"]:
    """Weights of the same ratios whose mean over the rows of each mask is 1, so that a weighted mean is a mean."""
    counts = torch.stack([torch.bincount(labels[mask], minlength=weights.shape[1]) for mask in masks])
    sums = (weights * counts).sum(1, keepdim=True)
    return torch.where(sums > 0, weights * counts.sum(1, keepdim=True) / sums, weights)
