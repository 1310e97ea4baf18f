"""Train an arm's heads on image batches, where nothing may be stored: `cache: false`.

AdamW runs for a fixed number of epochs in an ordinary Lightning trainer. An arm with copies has longer epochs than
its baseline, so two answers are kept: the best heads within as many steps as the baseline makes (equal steps), and
the best of all (equal epochs). Best means the lowest loss on held-out images, averaged over the folds; all heads of
an arm are taken at the same step, the refitted one too.
"""

import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int64
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F

from blurtrain.backbones import FrozenBackbone
from blurtrain.batches import ImageDataModule
from blurtrain.classifier import BlurClassifier, FoldBatch, ImageBatch
from blurtrain.config import MinibatchConfig
from blurtrain.engines import Engine
from blurtrain.features import compute
from blurtrain.fitting import quiet_trainer, run
from blurtrain.heads import Heads, Trained
from blurtrain.images import ImageSet
from blurtrain.progress import Progress, progress, say
from blurtrain.views import Blur

HELD_OUT = 20_000  # rows on which snapshots are compared: 160 MB of 2048 features, and losses good to half a percent


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
    views: tuple[Blur, ...],
    folds: Int64[np.ndarray, " train"] | None,
    *,
    batch_size: int,
    checkpoint: Path,
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

    Raises:
        DataError: If an image cannot be read any more.
    """
    held = _held_out(images, views, folds, engine, batch_size)
    classifier = BlurClassifier(
        backbone,
        len(images.classes),
        config.learning_rate,
        config.weight_decay,
        folds=0 if folds is None else int(folds.max()) + 1,
    )
    classifier.strict_loading = False  # checkpoints are without the backbone
    data = ImageDataModule(images, views, batch_size=batch_size, workers=config.workers, seed=config.seed, folds=folds)
    interval = -(-len(images.train) // batch_size)  # steps of one clean epoch, whatever the copies
    total = config.epochs * -(-len(images.train) * len(views) // batch_size)
    with progress("training heads", config.epochs * len(images.train) * len(views)) as bar:
        snapshots = _Snapshots(held, interval, config.epochs * interval, total, bar)
        _train(classifier, data, snapshots, config.epochs, checkpoint)
    return _result(snapshots, len(views) > 1, len(held.labels))


def _train(
    classifier: BlurClassifier, data: ImageDataModule, snapshots: "_Snapshots", epochs: int, checkpoint: Path
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
    run(trainer, classifier.train(), data, checkpoint if resumable else None)


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
    images: ImageSet, views: tuple[Blur, ...], folds: Int64[np.ndarray, " train"] | None, engine: Engine, batch: int
) -> _Held:
    """Features of held-out images in the arm's own views; of many images a share that their content decides."""
    positions = images.validation if folds is None else images.train
    held = np.zeros(len(positions), np.int64) if folds is None else folds
    most = max(1, HELD_OUT // len(views))
    if len(positions) > most:
        chosen = np.sort(np.argsort(images.ids[positions], kind="stable")[:most])
        positions, held = positions[chosen], held[chosen]
    with progress("held-out features", len(positions) * len(views), "view") as bar:
        features = np.concatenate([compute(images, positions, view, engine, batch, bar) for view in views])
    return _Held(
        torch.from_numpy(features),
        torch.from_numpy(np.tile(images.labels[positions], len(views))),
        torch.from_numpy(np.tile(held, len(views))),
    )


@dataclass
class _Best:
    """The best heads so far: weights and biases of all of them."""

    nll: float = float("inf")
    accuracy: float = 0.0
    step: int = 0
    heads: dict[str, Tensor] = field(default_factory=dict)


class _Snapshots(Callback):
    """Compares the heads on held-out images at regular steps, and keeps the best ones.

    Args:
        held: Held-out features.
        interval: Steps between two comparisons.
        equal: Steps that count as equal for all arms.
        total: Steps in all.
        bar: Counts the images trained on.
    """

    def __init__(self, held: _Held, interval: int, equal: int, total: int, bar: Progress) -> None:
        self.best = {"equal_steps": _Best(), "equal_epochs": _Best()}
        self.limits = {"equal_steps": equal, "equal_epochs": total}
        self.curves: list[dict[str, float]] = []
        self.images = 0
        self._held = held
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
        assert isinstance(module, BlurClassifier)
        self.images += len(batch[1])
        self._bar.advance(self.images - self._bar.done)
        step = trainer.global_step
        if step % self._interval == 0 or step == self._total:
            self._compare(module, step, float(trainer.callback_metrics["train/nll"]))

    def _compare(self, module: BlurClassifier, step: int, train_nll: float) -> None:
        nll, accuracy = _evaluate(module, self._held)
        self.curves.append({"train_nll": train_nll, "validation_nll": nll, "validation_accuracy": accuracy})
        for name, limit in self.limits.items():
            if step <= limit and nll < self.best[name].nll:
                self.best[name] = _Best(nll, accuracy, step, _heads_of(module))

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
def _evaluate(module: BlurClassifier, held: _Held) -> tuple[float, float]:
    """Loss and accuracy on held-out rows, averaged over the heads."""
    losses, accuracies = [], []
    for fold, head in enumerate(module.fold_heads or [module.head]):
        mine = held.folds == fold
        logits = head(held.features[mine].to(module.device)).cpu()
        losses.append(float(F.cross_entropy(logits, held.labels[mine])))
        accuracies.append(float((logits.argmax(1) == held.labels[mine]).float().mean()))
    return float(np.mean(losses)), float(np.mean(accuracies))


def _heads_of(module: BlurClassifier) -> dict[str, Tensor]:
    """Copies of all heads: the refitted one first."""
    heads = [module.head, *module.fold_heads]
    return {
        name: torch.stack([getattr(head, name).detach().cpu() for head in heads]).clone() for name in ("weight", "bias")
    }


def _result(snapshots: _Snapshots, has_copies: bool, held: int) -> Trained:
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
        forward_passes=snapshots.images + held,
        equal_epochs=_folds_and_refit(snapshots.best["equal_epochs"].heads) if has_copies else None,
    )


def _folds_and_refit(heads: dict[str, Tensor]) -> tuple[Heads, Heads]:
    """The folds' heads and the refitted one; where a validation split is given, one head is both."""
    weight, bias = heads["weight"].numpy(), heads["bias"].numpy()
    refit = Heads(weight[:1], bias[:1])
    return (Heads(weight[1:], bias[1:]) if len(bias) > 1 else refit), refit
