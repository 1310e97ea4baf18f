"""Image batches: which images they hold, in which order, and that workers change nothing."""

from dataclasses import replace
from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from blurtrain import backbones, images
from blurtrain.batches import EpochSampler, ImageDataModule, ViewDataset
from blurtrain.blur import blur_pixels
from blurtrain.classifier import FoldBatch, ImageBatch
from blurtrain.config import BackboneConfig, DataConfig, GlyphsConfig
from blurtrain.transforms import KernelBlur, transform_of
from blurtrain.views import CLEAN, Blur

SLIGHT, HEAVY = Blur("gaussian", 1.0), Blur("gaussian", 3.0)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> images.ImageSet:
    """A small embedded set."""
    geometry = backbones.load(BackboneConfig()).preprocessing.geometry
    config = DataConfig(glyphs=GlyphsConfig(train=60, test=20))
    return images.load(config, geometry, tmp_path_factory.mktemp("digits"))


def pairs(loader: DataLoader[ImageBatch | FoldBatch]) -> tuple[Tensor, Tensor]:
    """All images and labels of a loader."""
    batches = list(loader)
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def test_views_follow_each_other(digits: images.ImageSet) -> None:
    dataset = ViewDataset(digits, digits.train[:4], (CLEAN, SLIGHT, HEAVY))
    assert len(dataset) == 12
    for index, (view, position) in enumerate((v, p) for v in (CLEAN, SLIGHT, HEAVY) for p in digits.train[:4]):
        image, label = dataset[index][:2]
        np.testing.assert_array_equal(image, blur_pixels(digits.read_pixels(np.array([position])), view)[0])
        assert int(label) == digits.labels[position]


def test_only_training_images_have_copies(digits: images.ImageSet) -> None:
    module = ImageDataModule(digits, train_views=(CLEAN, SLIGHT), test_view=HEAVY, batch_size=7)
    assert len(pairs(module.train_dataloader())[1]) == 2 * len(digits.train)
    assert module.val_dataloader() == []  # the embedded set has no validation split
    seen, labels = pairs(module.test_dataloader())
    np.testing.assert_array_equal(labels, digits.labels[digits.test])
    np.testing.assert_array_equal(seen, blur_pixels(digits.read_pixels(digits.test), HEAVY))


def test_given_validation_split_is_seen_in_the_arms_own_views(digits: images.ImageSet) -> None:
    split = replace(digits, train=digits.train[:40], validation=digits.train[40:])
    loader = ImageDataModule(split, train_views=(CLEAN, SLIGHT), test_view=HEAVY).val_dataloader()
    assert isinstance(loader, DataLoader)
    seen = [blur_pixels(digits.read_pixels(split.validation), view) for view in (CLEAN, SLIGHT)]
    np.testing.assert_array_equal(pairs(loader)[0], np.concatenate(seen))


def test_workers_do_not_change_a_batch(digits: images.ImageSet) -> None:
    split = replace(digits, train=digits.train[:20])
    loaders = [
        ImageDataModule(split, (CLEAN, SLIGHT), batch_size=8, workers=workers, seed=3).train_dataloader()
        for workers in (0, 2)
    ]
    for _ in range(2):  # epochs, with workers that persist
        for ours, theirs in zip(*loaders, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)


def test_order_follows_from_the_seed_alone(digits: images.ImageSet) -> None:
    def order(seed: int, epochs: int = 1) -> list[Tensor]:
        loader = ImageDataModule(digits, seed=seed, batch_size=100).train_dataloader()
        return [next(iter(loader)).images for _ in range(epochs)]

    torch.manual_seed(1)
    first = order(0, epochs=2)
    torch.manual_seed(2)
    assert torch.equal(order(0)[0], first[0])
    assert not torch.equal(order(1)[0], first[0])
    assert not torch.equal(first[1], first[0])


# Draws


WILD = A.Compose([KernelBlur("gaussian", (0.2, 3.0), p=0.7), A.HorizontalFlip(p=0.5)])


def test_workers_do_not_change_what_is_drawn(digits: images.ImageSet) -> None:
    loaders = [
        ImageDataModule(digits, (CLEAN, WILD), batch_size=16, workers=workers, seed=5).train_dataloader()
        for workers in (0, 2)
    ]
    epochs = []
    for _ in range(2):
        batches = [list(loader) for loader in loaders]
        for ours, theirs in zip(*batches, strict=True):
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
        epochs.append(batches[0])
    assert not torch.equal(epochs[0][0].images, epochs[1][0].images)


def test_draws_follow_from_seed_epoch_and_place(digits: images.ImageSet) -> None:
    dataset = ViewDataset(digits, digits.train[:5], (WILD,), seed=1)
    again = ViewDataset(digits, digits.train[:5], (WILD,), seed=1)
    other = ViewDataset(digits, digits.train[:5], (WILD,), seed=2)
    places = [(epoch, index) for epoch in range(3) for index in range(5)]
    first = [dataset[place].images for place in places]
    backwards = [again[place].images for place in reversed(places)][::-1]
    assert all(torch.equal(one, two) for one, two in zip(first, backwards, strict=True))
    assert not all(torch.equal(one, other[place].images) for one, place in zip(first, places, strict=True))
    assert torch.equal(dataset[3].images, dataset[(0, 3)].images)
    assert len({image.numpy().tobytes() for image in first}) == len(places)  # no two draws alike


@pytest.mark.parametrize("view", [CLEAN, SLIGHT, Blur("box", 3.0, None, "zero"), Blur("motion", 7.0, 30.0)], ids=str)
def test_fixed_copies_are_the_views_that_are_stored_elsewhere(digits: images.ImageSet, view: Blur) -> None:
    drawn = ViewDataset(digits, digits.train[:6], (transform_of(view),))
    expected = blur_pixels(digits.read_pixels(digits.train[:6]), view)
    np.testing.assert_allclose(torch.stack([drawn[i].images for i in range(6)]), expected, rtol=0, atol=1e-6)


def test_folds_travel_with_their_images(digits: images.ImageSet) -> None:
    folds = np.arange(len(digits.train)) % 5
    loader = ImageDataModule(digits, (CLEAN, SLIGHT), folds=folds, batch_size=7).train_dataloader()
    where = {digits.read_pixels(digits.train[i : i + 1])[0].tobytes(): folds[i] for i in range(len(folds))}
    seen = 0
    for batch in loader:
        assert isinstance(batch, FoldBatch)
        for image, fold in zip(batch.images, batch.folds.tolist(), strict=True):
            pixels = (image * 255).round().to(torch.uint8).numpy().tobytes()
            if pixels in where:  # the clean view
                assert where[pixels] == fold
                seen += 1
    assert seen == len(folds)


# Order


def test_every_place_comes_once_an_epoch() -> None:
    sampler = EpochSampler(50, seed=3)
    first, second = list(sampler), list(sampler)
    assert [epoch for epoch, _ in first] == [0] * 50
    assert [epoch for epoch, _ in second] == [1] * 50
    assert sorted(index for _, index in first) == sorted(index for _, index in second) == list(range(50))
    assert [index for _, index in first] != [index for _, index in second]
    sampler.set_epoch(0)
    assert list(sampler) == first
    assert len(sampler) == 50


@pytest.mark.filterwarnings("ignore")
def test_a_trainer_names_the_epochs(digits: images.ImageSet, tmp_path: Path) -> None:
    class Spy(LightningModule):
        """Remembers what it sees."""

        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False
            self.seen: list[Tensor] = []

        def training_step(self, batch: ImageBatch, _index: int) -> None:
            self.seen.append(batch.images)

        def configure_optimizers(self) -> None:
            return None

    spy = Spy()
    data = ImageDataModule(replace(digits, train=digits.train[:6]), (WILD,), batch_size=6, seed=9)
    Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    ).fit(spy, train_dataloaders=data.train_dataloader())
    dataset = ViewDataset(digits, digits.train[:6], (WILD,), seed=9)
    for epoch, images_ in enumerate(spy.seen):
        order = np.random.default_rng([9, epoch]).permutation(6)
        expected = torch.stack([dataset[(epoch, int(index))].images for index in order])
        assert torch.equal(images_, expected)
