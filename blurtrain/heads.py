"""The retrained head: softmax regression on standardised features, solved to its optimum.

For each fold and each candidate l2 the problem is

    minimise over W, b:  mean over the fold's training rows of cross-entropy(softmax(W z + b), label) + l2 / 2 ||W||^2

with z the features standardised by the mean and standard deviation of those rows. It is strictly convex in W (the
bias is unpenalised; it starts at zero, and no gradient moves the sum of its entries), so there is one answer
whatever the order, the seed or the solver. All folds and candidates are one stacked problem.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int64
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from blurtrain.lbfgs import StackedLBFGS

BLOCK = 1 << 22  # logits held at once: 32 MiB in float64
SELECTION = 1000.0  # candidates are compared at so many times the tolerance: their losses hold to about 3e-4 there
WIDENED = 1 << 26  # features kept in float64 up to 512 MiB
CONSTANT = 1e-6  # a feature whose spread is below this share of the widest one carries no information


class FeatureBatch(NamedTuple):
    """All rows that an arm is trained and validated on."""

    features: Float[Tensor, "rows features"]
    labels: Int64[Tensor, " rows"]
    training: Bool[Tensor, "splits rows"]  # rows that each split is fitted on
    validation: Bool[Tensor, "splits rows"]  # rows that each split is validated on


class FeatureDataModule(LightningDataModule):
    """Features as one full batch.

    Args:
        features: Rows [rows, features].
        labels: Class of each row.
        training: Which rows each split is fitted on.
        validation: Which rows each split is validated on.
    """

    def __init__(
        self,
        features: Float32[np.ndarray, "rows features"],
        labels: Int64[np.ndarray, " rows"],
        training: Bool[np.ndarray, "splits rows"],
        validation: Bool[np.ndarray, "splits rows"],
    ) -> None:
        super().__init__()
        if features.size < WIDENED:
            features = features.astype(np.float64)  # once, instead of at every pass over the rows
        arrays = (features, labels, training, validation)
        self.batch = FeatureBatch(*(torch.from_numpy(array) for array in arrays))

    def train_dataloader(self) -> DataLoader[FeatureBatch]:
        """One batch an epoch: one epoch is one iteration of the solver."""
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]


class Evaluation(NamedTuple):
    """Some problems at given points."""

    losses: Float64[Tensor, " problems"]
    gradients: Float64[Tensor, "problems size"]
    train_nll: Float64[Tensor, " problems"]
    validation_nll: Float64[Tensor, " problems"]
    validation_accuracy: Float64[Tensor, " problems"]


@dataclass(frozen=True)
class Heads:
    """Linear heads on raw features: the standardisation is folded in.

    Args:
        weights: One matrix a head.
        bias: One vector a head.
    """

    weights: Float32[np.ndarray, "heads classes features"]
    bias: Float32[np.ndarray, "heads classes"]

    def logits(self, features: Float32[np.ndarray, "rows features"]) -> Float64[np.ndarray, "heads rows classes"]:
        """Logits of every head, accumulated in float64."""
        weights, bias = self.weights.astype(np.float64), self.bias.astype(np.float64)
        return features.astype(np.float64) @ weights.transpose(0, 2, 1) + bias[:, None, :]


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
    """All heads of one arm: every split and every candidate l2, fitted together.

    Problem p stands for split p // len(l2) and candidate p % len(l2). The last split is the refit: it is fitted on
    all rows that any split is fitted on, and has no say in the choice of the penalty.

    Args:
        batch: The rows that it will be fitted on; standardisation and preconditioner come from them.
        classes: Number of classes.
        l2: Candidate penalties.
        tolerance: A problem has converged when no entry of its gradient exceeds tolerance * l2, because l2 is the
            modulus of convexity in the weights; the bias has no penalty, so for it l2 counts as 1 / classes at most.
    """

    def __init__(self, batch: FeatureBatch, classes: int, l2: tuple[float, ...], tolerance: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.classes = classes
        self.tolerance = tolerance
        self.candidates = len(l2)
        splits = len(batch.training)
        means, scales = _standardisation(batch)
        self.register_buffer("means", means)
        self.register_buffer("scales", scales)
        self.register_buffer("l2", torch.tensor(l2, dtype=torch.float64).repeat(splits))
        self.register_buffer("split_of", torch.arange(splits).repeat_interleave(len(l2)))
        variances, directions = _principal_axes(batch, means[-1], scales[-1])
        self.register_buffer("variances", variances)
        self.register_buffer("directions", directions)
        self.means: Tensor
        self.scales: Tensor
        self.l2: Tensor
        self.split_of: Tensor
        self.variances: Tensor
        self.directions: Tensor
        size = classes * (means.shape[1] + 1)
        self.points = torch.nn.Parameter(torch.zeros(len(self.l2), size, dtype=torch.float64))
        self.ended = 0
        self.chosen: int | None = None
        self.converged = False
        self.largest_gradient = float("inf")
        self.figures = torch.zeros(3, len(self.l2), dtype=torch.float64)
        self.history: list[Float64[Tensor, "3 problems"]] = []  # train_nll, validation_nll, validation_accuracy

    def configure_optimizers(self) -> StackedLBFGS:
        """The stacked solver."""
        return StackedLBFGS(self.points, self._precondition, SELECTION * self._tolerances())

    def _tolerances(self) -> Float64[Tensor, " problems"]:
        return self.tolerance * self.l2.clamp(max=1 / self.classes)

    def training_step(self, batch: FeatureBatch, _index: int) -> None:
        """One iteration of the solver over all rows.

        When every problem is settled well enough to be compared, the penalty is chosen; when its problems have
        converged in full, the fit ends.
        """
        optimizer = self.optimizers(use_pl_optimizer=False)
        assert isinstance(optimizer, StackedLBFGS)
        optimizer.step(lambda problems, points: self._objective(batch, problems, points))
        self.history.append(self.figures.clone())
        self.ended = int((optimizer.converged | optimizer.stalled).sum())
        if self.ended < len(self.l2):
            return
        if self.chosen is None:
            self.chosen = int(self.validation_figures()[1].argmin())
            optimizer.tolerance[self.chosen :: self.candidates] = self._tolerances()[self.chosen :: self.candidates]
        else:
            self.trainer.should_stop = True
        ours = slice(self.chosen, None, self.candidates)
        self.largest_gradient = float(optimizer.largest_gradients[ours].max())
        self.converged = bool(optimizer.converged[ours].all())

    def validation_figures(self) -> Float64[Tensor, "3 candidates"]:
        """Training loss, validation loss and accuracy of each candidate, averaged over all splits but the refit."""
        return self.figures.view(3, -1, self.candidates)[:, :-1].mean(1)

    def _objective(
        self, batch: FeatureBatch, problems: Int64[Tensor, " problems"], points: Float64[Tensor, "problems size"]
    ) -> tuple[Float64[Tensor, " problems"], Float64[Tensor, "problems size"]]:
        result = self.evaluate(batch, problems, points)
        self.figures[:, problems.cpu()] = torch.stack(result[2:]).cpu()
        return result.losses, result.gradients

    def evaluate(
        self, batch: FeatureBatch, problems: Int64[Tensor, " problems"], points: Float64[Tensor, "problems size"]
    ) -> Evaluation:
        """Loss, gradient and validation figures of some problems, block of rows by block of rows."""
        count = len(problems)
        split = self.split_of[problems]
        theta = points.view(count, self.classes, -1)
        weights, bias = theta[..., :-1], theta[..., -1]
        means, scales = self.means[split][:, None], self.scales[split][:, None]
        folded = weights / scales
        shift = bias - (folded * means).sum(-1)
        shares = [1 / mask.sum(1).clamp_min(1).double()[split] for mask in (batch.training, batch.validation)]
        nll = torch.zeros(count, dtype=torch.float64, device=points.device)
        validation_nll, validation_accuracy = nll.clone(), nll.clone()
        # Classes before problems: sums over classes then run along contiguous problems, which is twice as fast.
        columns, offsets = folded.transpose(0, 1).flatten(0, 1), shift.T.contiguous()
        by_column, by_offset = torch.zeros_like(columns), torch.zeros_like(offsets)
        for rows in _blocks(len(batch.labels), count * self.classes):
            features, labels = batch.features[rows].double(), batch.labels[rows]
            each = torch.arange(len(labels), device=labels.device)
            training = batch.training[:, rows][split].T * shares[0]
            validation = batch.validation[:, rows][split].T * shares[1]
            logits = (features @ columns.T).view(-1, self.classes, count).add_(offsets)
            logits -= logits.amax(1, keepdim=True)
            of_label = logits[each, labels]
            residual = logits.exp_()
            total = residual.sum(1)
            row_nll = total.log() - of_label
            nll += (row_nll * training).sum(0)
            validation_nll += (row_nll * validation).sum(0)
            correct = of_label == 0  # the largest logit is 0 after the shift
            validation_accuracy += (correct * validation).sum(0)
            residual *= (training / total)[:, None]
            residual[each, labels] -= training
            by_column += residual.flatten(1).T @ features
            by_offset += residual.sum(0)
        by_weight = by_column.view(self.classes, count, -1).transpose(0, 1)
        by_shift = by_offset.T
        l2 = self.l2[problems]
        gradient = (by_weight - by_shift[..., None] * means) / scales + l2[:, None, None] * weights
        losses = nll + l2 / 2 * weights.square().sum((1, 2))
        gradients = torch.cat([gradient, by_shift[..., None]], -1).flatten(1)
        return Evaluation(losses, gradients, nll, validation_nll, validation_accuracy)

    def heads(self, problems: list[int]) -> Heads:
        """Fitted heads of some problems, on raw features."""
        theta = self.points.detach()[problems].view(len(problems), self.classes, -1)
        split = self.split_of[problems]
        weights = theta[..., :-1] / self.scales[split][:, None]
        bias = theta[..., -1] - (weights * self.means[split][:, None]).sum(-1)
        return Heads(weights.float().cpu().numpy(), bias.float().cpu().numpy())

    def _precondition(
        self, problems: Int64[Tensor, " problems"], points: Float64[Tensor, "problems size"]
    ) -> Float64[Tensor, "problems size"]:
        """Inverse of the Hessian at zero, which is (C / classes + l2), C the features' correlation matrix."""
        theta = points.view(len(problems), self.classes, -1)
        l2 = self.l2[problems][:, None, None]
        along = theta[..., :-1] @ self.directions
        factors = 1 / (self.variances / self.classes + l2) - 1 / l2
        weights = (along * factors) @ self.directions.T + theta[..., :-1] / l2
        return torch.cat([weights, theta[..., -1:] * self.classes], -1).flatten(1)


def _standardisation(
    batch: FeatureBatch,
) -> tuple[Float64[Tensor, "splits features"], Float64[Tensor, "splits features"]]:
    """Mean and standard deviation of each split's training rows; a constant feature gets an infinite scale."""
    counts = batch.training.sum(1).double()[:, None]
    width = batch.features.shape[1]
    sums = torch.zeros(len(counts), width, dtype=torch.float64)
    squares = torch.zeros_like(sums)
    centre = batch.features[:1].double()  # any point near the data keeps the difference of squares exact
    for rows in _blocks(len(batch.labels), width):
        centred, mask = batch.features[rows].double() - centre, batch.training[:, rows].double()
        sums += mask @ centred
        squares += mask @ centred.square()
    means = sums / counts
    scales = (squares / counts - means.square()).clamp_min(0).sqrt()
    constant = scales <= CONSTANT * scales.amax(1, keepdim=True)
    return means + centre, scales.masked_fill(constant, float("inf"))


def _principal_axes(
    batch: FeatureBatch, mean: Float64[Tensor, " features"], scale: Float64[Tensor, " features"]
) -> tuple[Float64[Tensor, " axes"], Float64[Tensor, "features axes"]]:
    """Variances and directions of the last split's standardised rows."""
    width = batch.features.shape[1]
    correlation = torch.zeros(width, width, dtype=torch.float64)
    for rows in _blocks(len(batch.labels), width):
        standard = ((batch.features[rows].double() - mean) / scale) * batch.training[-1, rows, None]
        correlation += standard.T @ standard
    variances, directions = torch.linalg.eigh(correlation / batch.training[-1].sum())
    return variances.clamp_min(0), directions


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, BLOCK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))
