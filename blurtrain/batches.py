"""Image batches for a `Trainer`: images seen through blurs or through albumentations, in an order made by a seed."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import cv2
import numpy as np
import torch
from albumentations import BaseCompose, BasicTransform
from jaxtyping import Float32, Int64
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from blurtrain import copies
from blurtrain.blur import blur_pixels
from blurtrain.classifier import FoldBatch, ImageBatch
from blurtrain.images import ImageSet
from blurtrain.transforms import apply_seeded
from blurtrain.views import CLEAN, Blur, Drawn, TrainView

Transform: TypeAlias = BasicTransform | BaseCompose  # of albumentations
Place = tuple[int, int]  # an epoch and a place in a data set


class ViewDataset(Dataset[ImageBatch | FoldBatch]):
    """Images seen through views: all images through the first one, then all through the second, and so on.

    Args:
        images: What `blurtrain.images.load` gives.
        positions: Which of them.
        views: Blurs, what a config's pipeline draws, or transforms of albumentations on float32 images in [0, 1].
        seed: Of what the transforms draw; an image at the same place in the same epoch gets the same draws.
        folds: Of each position, for heads that are trained fold by fold.
    """

    def __init__(
        self,
        images: ImageSet,
        positions: Int64[np.ndarray, " images"],
        views: Sequence[TrainView | Transform],
        seed: int = 0,
        folds: Int64[np.ndarray, " images"] | None = None,
    ) -> None:
        self._images = images
        self._positions = positions
        self._views = tuple(views)
        self._seed = seed
        self._folds = folds

    def __len__(self) -> int:
        return len(self._positions) * len(self._views)

    def __getitem__(self, place: int | Place) -> ImageBatch | FoldBatch:
        """An image; a bare number is its place in the first epoch."""
        epoch, index = place if isinstance(place, tuple) else (0, place)
        slot, which = divmod(index, len(self._positions))
        position = self._positions[which : which + 1]
        image = torch.from_numpy(self._seen(position, self._views[slot], epoch, index))
        label = torch.tensor(self._images.labels[position[0]])
        if self._folds is None:
            return ImageBatch(image, label)
        return FoldBatch(image, label, torch.tensor(self._folds[which]))

    def _seen(
        self, position: Int64[np.ndarray, "1"], view: TrainView | Transform, epoch: int, index: int
    ) -> Float32[np.ndarray, "3 height width"]:
        pixels = self._images.read_pixels(position)
        if isinstance(view, Blur | Drawn):
            seen: np.ndarray = blur_pixels(*copies.seen(pixels, self._images.ids[position], view, epoch))[0]
            return seen
        image = blur_pixels(pixels, CLEAN)[0].transpose(1, 2, 0)  # albumentations has the channels last
        transformed: np.ndarray = apply_seeded(
            view, np.ascontiguousarray(image), seed=self._seed, epoch=epoch, index=index
        )
        planes: np.ndarray = np.ascontiguousarray(transformed.transpose(2, 0, 1), np.float32)
        return planes


class EpochSampler(Sampler[Place]):
    """Every place once an epoch, in an order that follows from the seed and the epoch alone.

    It gives the epoch along with the place, so that workers which outlive an epoch know it.

    Args:
        size: Number of places.
        seed: Of the order.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that comes next; a `Trainer` does so."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Place]:
        epoch = self._epoch
        self._epoch += 1
        order = np.random.default_rng([self._seed, epoch]).permutation(self._size)
        return ((epoch, index) for index in order.tolist())


class ImageDataModule(LightningDataModule):
    """Image batches for a `Trainer`: training images with their copies, validation alike, one blur in the test.

    Args:
        images: What `blurtrain.images.load` gives.
        train_views: The clean view and the copies: blurs, and a config's pipeline or transforms of albumentations,
            which draw anew for every image in every epoch.
        test_view: The blur of the test split.
        batch_size: Images in a batch.
        workers: Processes that prepare batches; 0 is the main one. Their number changes no batch.
        seed: Of the order of the training images and of what transforms draw.
        folds: Of the training images, where heads are trained fold by fold.
    """

    def __init__(
        self,
        images: ImageSet,
        train_views: Sequence[TrainView | Transform] = (CLEAN,),
        test_view: Blur = CLEAN,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
        folds: Int64[np.ndarray, " train"] | None = None,
    ) -> None:
        super().__init__()
        self._images = images
        self._train_views = tuple(train_views)
        self._test_view = test_view
        self._batch_size = batch_size
        self._workers = workers
        self._seed = seed
        self._folds = folds

    def train_dataloader(self) -> DataLoader[ImageBatch | FoldBatch]:
        """Training images in every training view, shuffled by the seed."""
        dataset = ViewDataset(self._images, self._images.train, self._train_views, self._seed, self._folds)
        return self._loader(dataset, EpochSampler(len(dataset), self._seed))

    def val_dataloader(self) -> DataLoader[ImageBatch | FoldBatch] | list[DataLoader[ImageBatch]]:
        """The given validation images in every training view; none where there is no such split."""
        if len(self._images.validation) == 0:
            return []
        return self._loader(ViewDataset(self._images, self._images.validation, self._train_views, self._seed))

    def test_dataloader(self) -> DataLoader[ImageBatch | FoldBatch]:
        """Test images in the test view."""
        return self._loader(ViewDataset(self._images, self._images.test, (self._test_view,)))

    def predict_dataloader(self) -> DataLoader[ImageBatch | FoldBatch]:
        """The same as `test_dataloader`."""
        return self.test_dataloader()

    def _loader(self, dataset: ViewDataset, sampler: EpochSampler | None = None) -> DataLoader[ImageBatch | FoldBatch]:
        return DataLoader(
            dataset,
            batch_size=self._batch_size,
            sampler=sampler,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            worker_init_fn=_one_thread,
        )


def _one_thread(_worker: int) -> None:
    """OpenCV's threads do not survive a fork, and workers share the cores anyway."""
    cv2.setNumThreads(0)
