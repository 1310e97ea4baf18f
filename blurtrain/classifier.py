"""`BlurClassifier`: a frozen backbone and a linear head as an ordinary Lightning module, on image batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from blurtrain import finished
from blurtrain.backbones import FrozenBackbone
from blurtrain.runs import load_run

NO_FOLD = -1  # of an image on which every head is trained


class ImageBatch(NamedTuple):
    """Images as the backbone takes them, and their classes."""

    images: Float[Tensor, "batch 3 height width"]  # RGB in [0, 1] at network size
    labels: Int64[Tensor, " batch"]


class FoldBatch(NamedTuple):
    """The same with the fold of each image: the one fold's head that is not trained on it."""

    images: Float[Tensor, "batch 3 height width"]
    labels: Int64[Tensor, " batch"]
    folds: Int64[Tensor, " batch"]


Batch = ImageBatch | FoldBatch | Sequence[Tensor]  # PyTorch's collation makes lists of what are no named tuples


class BlurClassifier(LightningModule):
    """A frozen backbone with a trainable linear head.

    Works in any `Trainer`: `training_step`, `validation_step` and `test_step` take an `ImageBatch` (or a pair of
    images and labels), `predict_step` the same or bare images. Only the head has gradients.

    With folds, as many further heads are trained beside it in the same passes, each on the images of the other
    folds (`FoldBatch`). The sum of the losses is minimised; since AdamW treats every weight by itself, each head
    becomes what it would have become alone.

    Args:
        backbone: Fixed function from images to features.
        classes: Number of classes.
        learning_rate: Of AdamW, above 0.
        weight_decay: Of AdamW, 0 or more.
        folds: Number of further heads.
        class_weights: Weights of the classes in the training loss of each head, the folds' after the first one, as
            `blurtrain.heads.balanced` gives them for all images and not for a batch; none where all count alike.
            ``train/nll`` is the weighted loss, what is logged in validation and test is not.
    """

    def __init__(
        self,
        backbone: FrozenBackbone,
        classes: int,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.01,
        folds: int = 0,
        class_weights: Float[Tensor, "heads classes"] | None = None,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = zero_head(backbone.features, classes)
        self.fold_heads = nn.ModuleList(zero_head(backbone.features, classes) for _ in range(folds))
        self.register_buffer("class_weights", class_weights, persistent=False)  # a state is the same with and without
        self.class_weights: Tensor | None
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.metrics = nn.ModuleDict(
            {
                stage: MetricCollection(
                    {
                        "accuracy": MulticlassAccuracy(classes, average="micro"),
                        "macro_accuracy": MulticlassAccuracy(classes, average="macro"),
                    },
                    prefix=f"{stage}/",
                )
                for stage in ("validation", "test")
            }
        )

    @classmethod
    def from_run(cls, folder: Path | str) -> "BlurClassifier":
        """The classifier of a finished run: its backbone, with its own batch norms where it has some, and its refit.

        Raises:
            RunError: If the folder holds no finished run.
            BackboneError: If the backbone's weights cannot be had any more, or are others.
        """
        run = load_run(Path(folder))
        classifier = cls(finished.backbone_of(run), len(run.classes))
        classifier.head.load_state_dict(finished.head_of(run))
        return classifier

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of RGB images in [0, 1] at network size."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: Batch, _index: int) -> Float[Tensor, ""]:
        """Cross-entropy of a batch, summed over the heads."""
        images, labels, *rest = batch
        features = self.backbone(images)
        logits = self.head(features)
        loss = mean_nll(logits, labels, weights_of(self.class_weights, 0, logits))
        self.log("train/nll", loss)
        for fold, head in enumerate(self.fold_heads):
            others = rest[0] != fold
            logits = head(features)
            weights = weights_of(self.class_weights, 1 + fold, logits)
            nll = F.cross_entropy(logits, labels, weights, reduction="none")
            loss = loss + (nll * others).sum() / others.sum().clamp(min=1)
        return loss

    def validation_step(self, batch: Batch, _index: int) -> None:
        """Log accuracy and loss."""
        self._evaluate("validation", batch)

    def test_step(self, batch: Batch, _index: int) -> None:  # noqa: PT019 - Lightning's name, no pytest here
        """Log accuracy and loss."""
        self._evaluate("test", batch)

    def predict_step(
        self, batch: Batch | Float[Tensor, "batch 3 height width"], _index: int
    ) -> Float[Tensor, "batch classes"]:
        """Probabilities of a batch."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        probabilities: Tensor = self(images).softmax(-1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the heads alone."""
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(parameters, self.learning_rate, weight_decay=self.weight_decay)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        images, labels = batch[0], batch[1]
        logits = self(images)
        metrics = self.metrics[stage]
        assert isinstance(metrics, MetricCollection)
        metrics.update(logits, labels)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        nll = F.cross_entropy(logits, labels)
        self.log(f"{stage}/nll", nll, on_step=False, on_epoch=True, batch_size=len(labels))


def zero_head(features: int, classes: int) -> nn.Linear:
    """A head that knows nothing yet."""
    head = nn.Linear(features, classes)
    nn.init.zeros_(head.weight)  # a convex problem needs no random start
    nn.init.zeros_(head.bias)
    return head


def weights_of(
    class_weights: Float[Tensor, "heads classes"] | None, head: int, logits: Float[Tensor, "batch classes"]
) -> Float[Tensor, " classes"] | None:
    """The weights of the classes for one head, if they have some, as the head's logits are kept."""
    return None if class_weights is None else class_weights[head].to(logits)


def mean_nll(
    logits: Float[Tensor, "batch classes"], labels: Int64[Tensor, " batch"], weights: Float[Tensor, " classes"] | None
) -> Float[Tensor, ""]:
    """Cross-entropy of a batch, its images weighted by their classes and divided by their number.

    Torch would divide by the sum of the batch's weights: a rare class would then count less the rarer its batches are.
    """
    if weights is None:
        return F.cross_entropy(logits, labels)
    return F.cross_entropy(logits, labels, weights, reduction="none").mean()
