"""Train an arm's heads on image batches, where nothing may be stored: `cache: false`.

AdamW runs for a fixed number of epochs in an ordinary Lightning trainer. An arm with copies has longer epochs than
its baseline, so two answers are kept: the best heads within as many steps as the baseline makes (equal steps), and
the best of all (equal epochs). Best means the lowest loss on held-out images, averaged over the folds; all heads of
an arm are taken at the same step, the refitted one too.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from blurtrain.backbones import FrozenBackbone
from blurtrain.batches import ImageDataModule
from blurtrain.classifier import BlurClassifier, FoldBatch, ImageBatch, weights_of
from blurtrain.config import MinibatchConfig
from blurtrain.engines import Engine
from blurtrain.errors import ConfigError
from blurtrain.features import compute
from blurtrain.fitting import quiet_trainer, run
from blurtrain.heads import HELD_OUT, Heads, Trained
from blurtrain.images import ImageSet
from blurtrain.progress import Progress, progress, say
from blurtrain.views import TrainView

Evaluate = Callable[[LightningModule], tuple[float, float]]
Copied = Callable[[LightningModule], dict[str, Tensor]]


@dataclass(frozen=True)
class _Held:
    """Held-out features: row r is held out of the training of head ``folds[r]``."""

    features: Float32[Tensor, "rows features"]
    labels: Int64[Tensor, " rows"]
    folds: Int64[Tensor, " rows"]


def fit(
    config: MinibatchConfig,
    backbone: FrozenBackbone,
    engine: Engine,
    images: ImageSet,
    views: tuple[TrainView, ...],
    folds: Int64[np.ndarray, " train"] | None,
    *,
    batch_size: int,
    checkpoint: Path,
    class_weights: Float64[np.ndarray, "_ classes"] | None = None,
) -> Trained:
    """Train the heads of one arm.

    Args:
        config: Epochs, learning rate and so on.
        backbone: Fixed function from images to features.
        engine: The same function, for the held-out images.
        images: That are trained on.
        views: The clean one and the arm's copies.
        folds: Of the training images; none where a validation split is given.
        batch_size: Images in a batch.
        checkpoint: File from which an interrupted training goes on.
        class_weights: Of each fold and then of the refit; all classes count alike where none are given.

    Raises:
        DataError: If an image cannot be read any more.
    """
    held = _held_out(images, views, folds, engine, batch_size)
    count = 0 if folds is None else int(folds.max()) + 1
    weights = refit_first(class_weights, count)
    classifier = BlurClassifier(
        backbone, len(images.classes), config.learning_rate, config.weight_decay, folds=count, class_weights=weights
    )
    judged = partial(_evaluate, held=held)
    snapshots = trained(
        config, classifier, judged, heads_of, images, views, folds, batch_size=batch_size, checkpoint=checkpoint
    )
    return result(snapshots, len(views) > 1, snapshots.images + len(held.labels))


def trained(
    config: MinibatchConfig,
    module: LightningModule,
    evaluate: Evaluate,
    copied: Copied,
    images: ImageSet,
    views: tuple[TrainView, ...],
    folds: Int64[np.ndarray, " train"] | None,
    *,
    batch_size: int,
    checkpoint: Path,
) -> "Snapshots":
    """Train a module for as long as its config says, and keep the best of what it has been.

    Args:
        config: Epochs and so on.
        module: Takes `FoldBatch` where there are folds, else `ImageBatch`, and logs ``train/nll``.
        evaluate: Gives its loss and accuracy on held-out images.
        copied: Gives what a snapshot keeps of it.
        images: That are trained on.
        views: The clean one and the arm's copies.
        folds: Of the training images; none where a validation split is given.
        batch_size: Images in a batch.
        checkpoint: File from which an interrupted training goes on.

    Raises:
        ConfigError: If the training diverges.
        DataError: If an image cannot be read any more.
    """
    module.strict_loading = False  # checkpoints are without what is frozen
    data = ImageDataModule(images, views, batch_size=batch_size, workers=config.workers, seed=config.seed, folds=folds)
    interval = -(-len(images.train) // batch_size)  # steps of one clean epoch, whatever the copies
    total = config.epochs * -(-len(images.train) * len(views) // batch_size)
    with progress("training heads", config.epochs * len(images.train) * len(views)) as bar:
        snapshots = Snapshots(evaluate, copied, interval, config.epochs * interval, total, bar)
        _train(module, data, snapshots, config.epochs, checkpoint)
    if not snapshots.best["equal_steps"].heads:
        got = f"got {config.learning_rate!r}: no loss on held-out images was finite"
        raise ConfigError(f"minibatch.learning_rate must be smaller, {got}")
    return snapshots


def _train(
    module: LightningModule, data: ImageDataModule, snapshots: "Snapshots", epochs: int, checkpoint: Path
) -> None:
    saver = ModelCheckpoint(
        checkpoint.parent,
        checkpoint.stem,
        save_top_k=1,
        save_on_train_epoch_end=True,
        enable_version_counter=False,  # one file, replaced whole
    )
    trainer = quiet_trainer(epochs, [snapshots, saver])
    resumable = _is_readable(checkpoint)
    if resumable:
        say("going on from the last whole epoch")
    run(trainer, module.train(), data, checkpoint if resumable else None)


def _is_readable(checkpoint: Path) -> bool:
    if not checkpoint.exists():
        return False
    try:
        with zipfile.ZipFile(checkpoint) as contents:
            if contents.testzip() is not None:  # torch compares no checksums
                raise ValueError
        torch.load(checkpoint, weights_only=True)
    except Exception:  # whatever damaged bytes provoke
        say(f"{checkpoint} is damaged: training begins anew")
        checkpoint.unlink()
        return False
    return True


def _held_out(
    images: ImageSet,
    views: tuple[TrainView, ...],
    folds: Int64[np.ndarray, " train"] | None,
    engine: Engine,
    batch: int,
) -> _Held:
    """Features of held-out images in the arm's own views."""
    positions, held = held_positions(images, len(views), folds)
    with progress("held-out features", len(positions) * len(views), "view") as bar:
        features = np.concatenate([compute(images, positions, view, engine, batch, bar) for view in views])
    return _Held(
        torch.from_numpy(features),
        torch.from_numpy(np.tile(images.labels[positions], len(views))),
        torch.from_numpy(np.tile(held, len(views))),
    )


def refit_first(
    class_weights: Float64[np.ndarray, "_ classes"] | None, folds: int
) -> Float32[Tensor, "_ classes"] | None:
    """Weights of the classes in the order of the heads: the refit, then so many folds."""
    if class_weights is None:
        return None
    return torch.from_numpy(np.roll(class_weights, 1, axis=0)[: folds + 1]).float()


def held_positions(
    images: ImageSet, views: int, folds: Int64[np.ndarray, " train"] | None
) -> tuple[Int64[np.ndarray, " held"], Int64[np.ndarray, " held"]]:
    """Held-out images and their folds; of many images a share that their content decides."""
    positions = images.validation if folds is None else images.train
    held = np.zeros(len(positions), np.int64) if folds is None else folds
    most = max(1, HELD_OUT // views)
    if len(positions) > most:
        chosen = np.sort(np.argsort(images.ids[positions], kind="stable")[:most])
        positions, held = positions[chosen], held[chosen]
    return positions, held


@dataclass
class _Best:
    """The best heads so far: weights and biases of all of them, and their batch norms where they have some."""

    nll: float = float("inf")
    accuracy: float = 0.0
    step: int = 0
    heads: dict[str, Tensor] = field(default_factory=dict)


class Snapshots(Callback):
    """Compares the heads on held-out images at regular steps, and keeps the best ones.

    Args:
        evaluate: Gives loss and accuracy on held-out images.
        copied: Gives what is kept of the module.
        interval: Steps between two comparisons.
        equal: Steps that count as equal for all arms.
        total: Steps in all.
        bar: Counts the images trained on.
    """

    def __init__(
        self, evaluate: Evaluate, copied: Copied, interval: int, equal: int, total: int, bar: Progress
    ) -> None:
        self.best = {"equal_steps": _Best(), "equal_epochs": _Best()}
        self.limits = {"equal_steps": equal, "equal_epochs": total}
        self.curves: list[dict[str, float]] = []
        self.images = 0
        self._evaluate = evaluate
        self._copied = copied
        self._interval = interval
        self._total = total
        self._bar = bar

    def on_train_batch_end(
        self,
        trainer: Trainer,
        module: LightningModule,
        _outputs: object,
        batch: FoldBatch | ImageBatch,
        _index: int,
    ) -> None:
        """Count, and compare where it is time."""
        self.images += len(batch[1])
        self._bar.advance(self.images - self._bar.done)
        step = trainer.global_step
        if step % self._interval == 0 or step == self._total:
            self.compare(module, step, float(trainer.callback_metrics["train/nll"]))

    def compare(self, module: LightningModule, step: int, train_nll: float) -> None:
        """Note how good the heads are, and keep them where they are the best."""
        nll, accuracy = self._evaluate(module)
        self.curves.append({"train_nll": train_nll, "validation_nll": nll, "validation_accuracy": accuracy})
        for name, limit in self.limits.items():
            if step <= limit and nll < self.best[name].nll:
                self.best[name] = _Best(nll, accuracy, step, self._copied(module))

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint."""
        return {
            "best": {name: dict(vars(best)) for name, best in self.best.items()},
            "curves": self.curves,
            "images": self.images,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """From a checkpoint."""
        self.best = {name: _Best(**best) for name, best in state_dict["best"].items()}
        self.curves = state_dict["curves"]
        self.images = state_dict["images"]

    def on_save_checkpoint(self, _trainer: Trainer, _module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Leave out the backbone, which no training changes."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {key: state[key] for key in state if not key.startswith("backbone.")}


@torch.no_grad()
def _evaluate(module: LightningModule, held: _Held) -> tuple[float, float]:
    """Loss, weighted as in training, and accuracy on held-out rows, averaged over the heads."""
    assert isinstance(module, BlurClassifier)
    losses, accuracies, first = [], [], min(1, len(module.fold_heads))
    for fold, head in enumerate(module.fold_heads or [module.head]):
        mine = held.folds == fold
        logits = head(held.features[mine].to(module.device)).cpu()
        weights = weights_of(module.class_weights, fold + first, logits)
        losses.append(float(F.cross_entropy(logits, held.labels[mine], weights)))
        accuracies.append(float((logits.argmax(1) == held.labels[mine]).float().mean()))
    return float(np.mean(losses)), float(np.mean(accuracies))


def heads_of(module: LightningModule) -> dict[str, Tensor]:
    """Copies of all heads: the refitted one first."""
    assert isinstance(module, BlurClassifier)
    return stacked([module.head.state_dict(), *(head.state_dict() for head in module.fold_heads)])


def stacked(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Copies of several states as one, on the CPU."""
    return {name: torch.stack([state[name].detach().cpu() for state in states]).clone() for name in states[0]}


def result(snapshots: Snapshots, has_copies: bool, forward_passes: int) -> Trained:
    """The best heads of both budgets, and what run.json says of them."""
    folds, refit = _folds_and_refit(snapshots.best["equal_steps"].heads)
    is_last = snapshots.best["equal_epochs"].step == snapshots.limits["equal_epochs"]
    return Trained(
        folds,
        refit,
        curves=snapshots.curves,
        summary={
            "solver": "AdamW",
            "heads": len(folds.bias),
            **{
                name: {
                    "steps": snapshots.limits[name],
                    "best_step": best.step,
                    "validation_nll": best.nll,
                    "validation_accuracy": best.accuracy,
                }
                for name, best in snapshots.best.items()
            },
        },
        notes=["note: the last heads were the best ones: more minibatch.epochs might do better"] * is_last,
        forward_passes=forward_passes,
        equal_epochs=_folds_and_refit(snapshots.best["equal_epochs"].heads) if has_copies else None,
    )


def _folds_and_refit(heads: dict[str, Tensor]) -> tuple[Heads, Heads]:
    """The folds' heads and the refitted one; where a validation split is given, one head is both."""
    weight, bias = heads["weight"].numpy(), heads["bias"].numpy()
    norms = {key: tensor.numpy() for key, tensor in heads.items() if "." in key}  # LAYER.ENTRY, of batch norms

    def some(part: slice) -> Heads:
        return Heads(weight[part], bias[part], {key: norm[part] for key, norm in norms.items()} or None)

    refit = some(slice(0, 1))
    return (some(slice(1, None)) if len(bias) > 1 else refit), refit
