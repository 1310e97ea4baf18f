"""Fit an arm's heads with a Lightning trainer: every fold, every candidate penalty, and the refit for use."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint

from blurtrain.heads import ConvexHeads, FeatureDataModule, Heads, Trained
from blurtrain.progress import Progress, progress
from blurtrain.rows import Rows

WORTH_THREADS = 2e8  # multiplications of one pass over the rows: about 10 ms on one core


@dataclass(frozen=True)
class Fit:
    """What the fit of an arm gives.

    Args:
        folds: One head a fold, or the one head of a given validation split.
        refit: One head fitted on all training rows with the chosen penalty.
        l2: The chosen penalty: the one with the lowest mean validation loss.
        candidates: For each candidate penalty its validation figures, averaged over folds.
        iterations: Of the solver on the folds, from the strongest penalty to the chosen one.
        largest_gradient: What is left of the gradient, over the heads that are kept.
        converged: Whether that is within the tolerance.
        curves: Training loss, validation loss and accuracy, one row an iteration: along the path of penalties from the
            strongest to the chosen one.
    """

    folds: Heads
    refit: Heads
    l2: float
    candidates: list[dict[str, float]]
    iterations: int
    largest_gradient: float
    converged: bool
    curves: list[dict[str, float]]

    def trained(self) -> Trained:
        """The same in the form that every kind of training has."""
        gradient = f"{self.largest_gradient:.1e}"
        unsolved = f"warning: the heads are not at their optimum (gradient {gradient}): raise head.tolerance"
        edge = f"note: the chosen l2 {self.l2:g} is at the edge of head.l2: candidates beyond it might do better"
        summary = {
            "solver": "L-BFGS",
            "l2": self.l2,
            "candidates": self.candidates,
            "at_edge_of_grid": self.at_edge,
            "iterations": self.iterations,
            "largest_gradient": self.largest_gradient,
            "converged": self.converged,
            "heads": len(self.folds.bias),
        }
        notes = [unsolved] * (not self.converged) + [edge] * self.at_edge
        return Trained(self.folds, self.refit, self.curves, summary, notes)

    @property
    def at_edge(self) -> bool:
        """Whether the chosen penalty is the smallest or the largest of several candidates."""
        grid = [candidate["l2"] for candidate in self.candidates]
        return len(grid) > 1 and self.l2 in (min(grid), max(grid))


class _CountSolved(Callback):
    def __init__(self, bar: Progress) -> None:
        self._bar = bar

    def on_train_batch_end(self, _trainer: Trainer, module: LightningModule, *_: Any) -> None:  # noqa: ANN401
        assert isinstance(module, ConvexHeads)
        self._bar.advance(len(module.points))


def fit(
    features: Float32[np.ndarray, "rows features"] | Rows,
    labels: Int64[np.ndarray, " rows"],
    training: Bool[np.ndarray, "splits rows"],
    validation: Bool[np.ndarray, "splits rows"],
    *,
    classes: int,
    l2: tuple[float, ...],
    tolerance: float,
    standardise: bool = True,
    class_weights: Float64[np.ndarray, "_ classes"] | None = None,
) -> Fit:
    """Fit every split with every candidate penalty, choose the penalty on validation rows, and refit.

    Args:
        features: Of all rows that the arm has: clean, then copies.
        labels: Class of each row.
        training: Which rows each split is fitted on.
        validation: Which rows each split is validated on.
        classes: Number of classes.
        l2: Candidate penalties.
        tolerance: As in `ConvexHeads`.
        standardise: As in `ConvexHeads`.
        class_weights: Of each split and then of the refit; all classes count alike where none are given.
    """
    # The last split is the refit: all that any split is fitted on, validated on nothing.
    refit = training.any(0, keepdims=True)
    every = np.concatenate([training, refit])
    width = features.width if isinstance(features, Rows) else features.shape[1]
    with (
        threads_for(len(features) * width * len(training) * classes),
        progress("fitting heads", len(every) * len(l2), "head") as bar,
    ):
        data = FeatureDataModule(features, labels, every, np.concatenate([validation, np.zeros_like(refit)]))
        weights = None if class_weights is None else torch.from_numpy(class_weights)
        module = ConvexHeads(data.batch, classes, l2, tolerance, standardise, weights)
        run(quiet_trainer(len(l2), [_CountSolved(bar)]), module, data)
    best, splits = module.best, list(range(len(every)))
    names = ("train_nll", "validation_nll", "validation_accuracy")
    figures = {candidate.l2: candidate.figures for candidate in module.candidates}
    return Fit(
        folds=module.heads(best.points[:-1], splits[:-1]),
        refit=module.heads(best.points[-1:], splits[-1:]),
        l2=best.l2,
        candidates=[{"l2": value, **dict(zip(names, figures[value], strict=True))} for value in l2],
        iterations=best.iterations,
        largest_gradient=best.largest_gradient,
        converged=best.converged,
        curves=[dict(zip(names, row, strict=True)) for row in module.history[: best.iterations]],
    )


@contextmanager
def threads_for(multiplications: int) -> Iterator[None]:
    """One thread for small problems: handing each operation to several costs more than it gives."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if multiplications < WORTH_THREADS else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run(trainer: Trainer, module: LightningModule, data: LightningDataModule, checkpoint: Path | None = None) -> None:
    """Fit; an interruption stays one, where Lightning would ignore further ones and exit with code 1."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    except SystemExit as error:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        raise KeyboardInterrupt from error


def quiet_trainer(epochs: int, callbacks: list[Callback]) -> Trainer:
    """A Lightning trainer without its own bar, logger and tips; it makes checkpoints only where a callback does."""
    return Trainer(
        max_epochs=epochs,
        accelerator="cuda" if torch.cuda.is_available() else "cpu",  # Apple's MPS has no float64
        devices=1,
        limit_val_batches=0,  # the modules, or a callback, compare candidates themselves
        logger=False,
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callbacks,
    )
