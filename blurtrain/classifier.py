"""`BlurClassifier`: a frozen backbone and a linear head as an ordinary Lightning module, on image batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pytorch_lightning import LightningDataModule, LightningModule
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy

from blurtrain.backbones import FrozenBackbone, load, read_weights
from blurtrain.blur import blur_pixels
from blurtrain.images import ImageSet
from blurtrain.runs import load_run
from blurtrain.views import CLEAN, Blur


class ImageBatch(NamedTuple):
    """Images as the backbone takes them, and their classes."""

    images: Float[Tensor, "batch 3 height width"]  # RGB in [0, 1] at network size
    labels: Int64[Tensor, " batch"]


Pair = ImageBatch | Sequence[Tensor]  # PyTorch's collation makes a list of pairs that are no named tuples


class BlurClassifier(LightningModule):
    """A frozen backbone with a trainable linear head.

    Works in any `Trainer`: `training_step`, `validation_step` and `test_step` take an `ImageBatch` (or a pair of
    images and labels), `predict_step` the same or bare images. Only the head has gradients.

    Args:
        backbone: Fixed function from images to features.
        classes: Number of classes.
        learning_rate: Of AdamW, above 0.
        weight_decay: Of AdamW, 0 or more.
    """

    def __init__(
        self, backbone: FrozenBackbone, classes: int, learning_rate: float = 1e-3, weight_decay: float = 0.01
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.features, classes)
        nn.init.zeros_(self.head.weight)  # a convex problem needs no random start
        nn.init.zeros_(self.head.bias)
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
    def from_run(cls, folder: Path) -> "BlurClassifier":
        """The classifier of a finished run: its backbone and its refitted head.

        Raises:
            RunError: If the folder holds no finished run.
            BackboneError: If the backbone's weights cannot be had any more, or are others.
        """
        run = load_run(folder)
        backbone = load(run.config.backbone)
        run.require_backbone(backbone.fingerprint())
        classifier = cls(backbone, len(run.classes))
        classifier.head.load_state_dict(read_weights(folder / "head.safetensors"))
        return classifier

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch classes"]:
        """Logits of RGB images in [0, 1] at network size."""
        logits: Tensor = self.head(self.backbone(images))
        return logits

    def training_step(self, batch: Pair, _index: int) -> Float[Tensor, ""]:
        """Cross-entropy of a batch."""
        images, labels = batch
        loss = F.cross_entropy(self(images), labels)
        self.log("train/nll", loss)
        return loss

    def validation_step(self, batch: Pair, _index: int) -> None:
        """Log accuracy and loss."""
        self._evaluate("validation", batch)

    def test_step(self, batch: Pair, _index: int) -> None:  # noqa: PT019 - Lightning's name, no pytest here
        """Log accuracy and loss."""
        self._evaluate("test", batch)

    def predict_step(
        self, batch: Pair | Float[Tensor, "batch 3 height width"], _index: int
    ) -> Float[Tensor, "batch classes"]:
        """Probabilities of a batch."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        probabilities: Tensor = self(images).softmax(-1)
        return probabilities

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the head alone."""
        return torch.optim.AdamW(self.head.parameters(), self.learning_rate, weight_decay=self.weight_decay)

    def _evaluate(self, stage: str, batch: Pair) -> None:
        images, labels = batch
        logits = self(images)
        metrics = self.metrics[stage]
        assert isinstance(metrics, MetricCollection)
        metrics.update(logits, labels)
        self.log_dict(metrics, on_step=False, on_epoch=True)
        nll = F.cross_entropy(logits, labels)
        self.log(f"{stage}/nll", nll, on_step=False, on_epoch=True, batch_size=len(labels))


class ViewDataset(Dataset[ImageBatch]):
    """Stored images seen through blurs: all images of the first view, then all of the second, and so on."""

    def __init__(self, images: ImageSet, positions: Int64[np.ndarray, " images"], views: tuple[Blur, ...]) -> None:
        self._images = images
        self._positions = positions
        self._views = views

    def __len__(self) -> int:
        return len(self._positions) * len(self._views)

    def __getitem__(self, index: int) -> ImageBatch:
        view, place = divmod(index, len(self._positions))
        position = self._positions[place : place + 1]
        image = blur_pixels(self._images.read_pixels(position), self._views[view])[0]
        return ImageBatch(torch.from_numpy(image), torch.tensor(self._images.labels[position[0]]))


class ImageDataModule(LightningDataModule):
    """Image batches for a `Trainer`: training images with their copies, clean validation, one blur in the test.

    Args:
        images: What `blurtrain.images.load` gives.
        train_views: The clean view and the copies.
        test_view: The blur of the test split.
        batch_size: Images in a batch.
        workers: Processes that prepare batches; 0 is the main one.
        seed: Of the order of the training images.
    """

    def __init__(
        self,
        images: ImageSet,
        train_views: tuple[Blur, ...] = (CLEAN,),
        test_view: Blur = CLEAN,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._images = images
        self._train_views = train_views
        self._test_view = test_view
        self._batch_size = batch_size
        self._workers = workers
        self._seed = seed

    def train_dataloader(self) -> DataLoader[ImageBatch]:
        """Training images in every training view, shuffled by the seed."""
        generator = torch.Generator().manual_seed(self._seed)
        return self._loader(self._images.train, self._train_views, generator)

    def val_dataloader(self) -> DataLoader[ImageBatch] | list[DataLoader[ImageBatch]]:
        """The given validation images; none where there is no such split."""
        if len(self._images.validation) == 0:
            return []
        return self._loader(self._images.validation, (CLEAN,))

    def test_dataloader(self) -> DataLoader[ImageBatch]:
        """Test images in the test view."""
        return self._loader(self._images.test, (self._test_view,))

    def predict_dataloader(self) -> DataLoader[ImageBatch]:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(
        self, positions: Int64[np.ndarray, " images"], views: tuple[Blur, ...], generator: torch.Generator | None = None
    ) -> DataLoader[ImageBatch]:
        dataset = ViewDataset(self._images, positions, views)
        # The sampler alone has the generator: a loader also draws its workers' seeds from it, but not in every epoch.
        sampler = None if generator is None else RandomSampler(dataset, generator=generator)
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            sampler=sampler,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
        )
