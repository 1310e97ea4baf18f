"""Train batch norms together with the head, on image batches: `tune: head+bn`.

The weights and statistics of all batch norms learn along with the head; convolutions stay frozen, bit for bit. Features
then differ from head to head, so each fold has a network of its own, which sees the images of the other folds alone,
and so has the refit. In every step the networks are trained one after the other on the same batch, each without the
images of its own fold; nothing but the frozen convolutions is shared. Steps, budgets and snapshots are those of
`minibatch`, and a snapshot keeps the batch norms along with the heads.
"""

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int64, UInt8
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from blurtrain.backbones import FrozenBackbone
from blurtrain.batchnorm import AFFINE, STATISTICS, applied, layers, state_of
from blurtrain.classifier import Batch, mean_nll, weights_of, zero_head
from blurtrain.config import MinibatchConfig
from blurtrain.engines import TorchEngine
from blurtrain.errors import BackboneError
from blurtrain.features import compute
from blurtrain.heads import Heads, Trained
from blurtrain.images import ImageSet
from blurtrain.minibatch import held_positions, refit_first, result, stacked, trained
from blurtrain.progress import Progress
from blurtrain.views import Blur, TrainView

MOMENTUM = 0.1  # torch's own: with MNASNet's 0.0003 statistics would need thousands of steps
FEWEST = 2  # images of a batch that have a variance


class TunedBackbone(FrozenBackbone):
    """A backbone whose batch norms learn, weights and statistics; all else stays frozen, and is shared.

    Args:
        backbone: Stays as it is.
    """

    def __init__(self, backbone: FrozenBackbone) -> None:
        own = applied(backbone, state_of(backbone, (*AFFINE, *STATISTICS)))
        super().__init__(own.network, backbone.name, backbone.preprocessing, backbone.features, backbone.code)
        for layer in layers(self).values():
            layer.requires_grad_(True)
            layer.momentum = MOMENTUM

    def train(self, mode: bool = True) -> "TunedBackbone":
        """Set the mode of the batch norms; the rest of the network stays in eval mode."""
        super().train(mode)
        for layer in layers(self).values():
            layer.train(mode)
        return self


class Networks(LightningModule):
    """A head with a network of its own for the refit, then for each fold.

    Args:
        backbone: That the networks begin as.
        classes: Number of classes.
        learning_rate: Of AdamW.
        weight_decay: Of AdamW, for the heads; a batch norm's weight that decays would shrink its channel.
        folds: Number of folds; 0 where a validation split is given.
        class_weights: Weights of the classes in the loss of each head; all count alike where none are given.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        classes: int,
        learning_rate: float,
        weight_decay: float,
        folds: int,
        class_weights: Float32[Tensor, "heads classes"] | None = None,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False  # network after network, so that one at a time is held with its gradients
        self.backbones = nn.ModuleList(TunedBackbone(backbone) for _ in range(folds + 1))
        self.heads = nn.ModuleList(zero_head(backbone.features, classes) for _ in range(folds + 1))
        self.register_buffer("class_weights", class_weights, persistent=False)
        self.class_weights: Tensor | None
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay

    def training_step(self, batch: Batch, _index: int) -> None:
        """One step of every network, on the images that are not of its own fold."""
        images, labels, *rest = batch
        optimizer = self.optimizers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        optimizer.zero_grad()
        for network, (backbone, head) in enumerate(zip(self.backbones, self.heads, strict=True)):
            mine = rest[0] != network - 1 if rest and network else torch.ones_like(labels, dtype=torch.bool)
            if int(mine.sum()) < FEWEST:
                continue
            logits = head(backbone(images[mine]))
            nll = mean_nll(logits, labels[mine], weights_of(self.class_weights, network, logits))
            self.manual_backward(nll)
            if network == 0:
                self.log("train/nll", nll)
        optimizer.step()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over heads and batch norms."""
        norms = [parameter for parameter in self.backbones.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": self.heads.parameters()}, {"params": norms, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, self.learning_rate, weight_decay=self.weight_decay)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out what no training changes."""
        frozen = {key for key, parameter in self.named_parameters() if not parameter.requires_grad}
        # Shared parameters have one name there and one for each network in the state.
        shared = {key.split(".", 2)[2] for key in frozen}
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {
            key: state[key] for key in state if key.startswith("heads.") or key.split(".", 2)[2] not in shared
        }


def fit(
    config: MinibatchConfig,
    backbone: FrozenBackbone,
    images: ImageSet,
    views: tuple[TrainView, ...],
    folds: Int64[np.ndarray, " train"] | None,
    *,
    batch_size: int,
    checkpoint: Path,
    class_weights: Float64[np.ndarray, "_ classes"] | None = None,
) -> Trained:
    """Train the heads and batch norms of one arm; see `blurtrain.minibatch.fit`.

    Raises:
        ConfigError: If the training diverges.
        DataError: If an image cannot be read any more.
    """
    positions, held = held_positions(images, len(views), folds)
    count = 0 if folds is None else int(folds.max()) + 1
    weights = refit_first(class_weights, count)
    networks = Networks(backbone, len(images.classes), config.learning_rate, config.weight_decay, count, weights)
    judged = partial(_judge, images=images, views=views, positions=positions, folds=held, batch_size=batch_size)
    snapshots = trained(
        config, networks, judged, _state_of, images, views, folds, batch_size=batch_size, checkpoint=checkpoint
    )
    passes = snapshots.images * max(1, count)  # a fold's network leaves its fold out, and the refit takes it
    return result(snapshots, len(views) > 1, passes + len(snapshots.curves) * len(positions) * len(views))


def _judge(module: LightningModule, **held: Any) -> tuple[float, float]:  # noqa: ANN401 - passed on
    """The same in eval mode, in which nothing learns."""
    module.eval()
    try:
        return _evaluate(module, **held)
    finally:
        module.train()


def _evaluate(
    module: LightningModule,
    images: ImageSet,
    views: tuple[TrainView, ...],
    positions: Int64[np.ndarray, " held"],
    folds: Int64[np.ndarray, " held"],
    batch_size: int,
) -> tuple[float, float]:
    """Loss, weighted as in training, and accuracy on held-out images, averaged over the heads."""
    assert isinstance(module, Networks)
    losses, accuracies, first = [], [], min(1, len(module.heads) - 1)
    for network in range(first, len(module.heads)):
        mine = positions[folds == network - first]
        engine = TorchEngine(cast(TunedBackbone, module.backbones[network]))
        try:
            features = [compute(images, mine, view, engine, batch_size, Progress(None)) for view in views]
        except BackboneError:  # not finite: it diverges, and an earlier snapshot is better
            return float("inf"), 0.0
        labels = torch.from_numpy(np.tile(images.labels[mine], len(views)))
        with torch.no_grad():
            logits = module.heads[network](torch.from_numpy(np.concatenate(features)).to(module.device)).cpu()
        weights = weights_of(module.class_weights, network, logits)
        losses.append(float(F.cross_entropy(logits, labels, weights)))
        accuracies.append(float((logits.argmax(1) == labels).float().mean()))
    return float(np.mean(losses)), float(np.mean(accuracies))


def _state_of(module: LightningModule) -> dict[str, Tensor]:
    """Copies of heads and batch norms of all networks: the refitted one first."""
    assert isinstance(module, Networks)
    norms = [state_of(cast(TunedBackbone, backbone), (*AFFINE, *STATISTICS)) for backbone in module.backbones]
    return stacked([head.state_dict() | norm for head, norm in zip(module.heads, norms, strict=True)])


class SideBySide:
    """The networks of several heads as one engine: their features one after the other.

    Args:
        backbone: As it was imported.
        heads: With the batch norms of their networks.
    """

    def __init__(self, backbone: FrozenBackbone, heads: Heads) -> None:
        self._engines = [TorchEngine(applied(backbone, heads.state(head))) for head in range(len(heads.bias))]
        self.name, self.batch, self.parallel = self._engines[0].name, self._engines[0].batch, 1

    def __call__(
        self, pixels: UInt8[np.ndarray, "batch 3 height width"], view: Blur
    ) -> Float32[np.ndarray, "batch features"]:
        """Features of a batch, network after network."""
        return np.concatenate([engine(pixels, view) for engine in self._engines], axis=1)
