"""What blurtrain's time is measured against: the recipes that fair users of Lightning would write.

A frozen torchvision backbone under no_grad, `ImageFolder`, torchvision transforms, two workers, ten epochs an arm,
one head, both arms, and the same sweep. Nothing is stored, because such a recipe does not.

With --cached the second attempt: channels-last layout, and features that are computed once per image and view and kept
in memory for both arms and all epochs.
"""

import argparse
import json
import time
import warnings
from functools import cache
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader, Dataset, TensorDataset
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

Batch = tuple[Tensor, Tensor]
COPIES = (1.0, 2.0)
SWEEP = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)


class HeadOnly(pl.LightningModule):
    """A frozen backbone, which may be left out where features are given, and a linear head."""

    def __init__(self, network: nn.Module, features: int, classes: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.head = nn.Linear(features, classes)
        self.accuracy = MulticlassAccuracy(classes, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        self.network.eval()
        with torch.no_grad():
            features = self.network(images).flatten(1)
        logits: Tensor = self.head(features)
        return logits

    def training_step(self, batch: Batch, _index: int) -> Tensor:
        """Cross-entropy."""
        return F.cross_entropy(self(batch[0]), batch[1])

    def test_step(self, batch: Batch, _index: int) -> None:  # noqa: PT019 - Lightning's name, no pytest here
        """Accuracy."""
        self.accuracy(self(batch[0]), batch[1])
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW over the head."""
        return torch.optim.AdamW(self.head.parameters(), lr=1e-3)


class Epochs(pl.Callback):
    """How long each epoch takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, *_: object) -> None:
        """Note the time."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, *_: object) -> None:
        """Take the difference."""
        self.seconds.append(time.perf_counter() - self._start)


def backbone(name: str, weights: str) -> tuple[nn.Module, int]:
    """The network without its last layer."""
    is_name = not weights.endswith(".safetensors") and weights != "none"
    network = torchvision.models.get_model(name, weights=weights if is_name else None)
    if weights.endswith(".safetensors"):
        network.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    if name.startswith("squeezenet"):
        return nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1)), 512
    if name.startswith("resnet"):
        features = network.fc.in_features
        network.fc = nn.Identity()
        return network, features
    features = network.classifier[-1].in_features
    network.classifier[-1] = nn.Identity()
    return network, features


def transform(sigma: float, mean: list[float], std: list[float]) -> v2.Compose:
    """Resize, crop, blur, normalise."""
    steps = [v2.Resize(256), v2.CenterCrop(224), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    if sigma:
        radius = int(4 * sigma + 0.999)
        steps.append(v2.GaussianBlur(2 * radius + 1, sigma))
    return v2.Compose([*steps, v2.Normalize(mean, std)])


def run(words: argparse.Namespace) -> dict[str, object]:
    """Train and sweep both arms; seconds, epoch by epoch too, and accuracies."""
    pl.seed_everything(0, verbose=False)
    start = time.perf_counter()
    found, width = backbone(words.name, words.weights)
    network = found.requires_grad_(False).eval()

    def images(split: str, sigma: float) -> ImageFolder:
        return ImageFolder(words.root / split, transform(sigma, words.mean, words.std))

    @cache
    def features(split: str, sigma: float) -> TensorDataset:
        fast = network.to(memory_format=torch.channels_last)
        rows, labels = [], []
        with torch.inference_mode():
            for batch, label in DataLoader(images(split, sigma), 32, num_workers=2):
                rows.append(fast(batch.to(memory_format=torch.channels_last)).flatten(1))
                labels.append(label)
        return TensorDataset(torch.cat(rows).clone(), torch.cat(labels))

    def data(split: str, sigma: float) -> Dataset[Batch]:
        return features(split, sigma) if words.cached else images(split, sigma)

    classes = len(images("train", 0.0).classes)
    workers = 0 if words.cached else 2
    accuracies, epochs = {}, {}
    for arm, copies in (("baseline", ()), ("augmented", COPIES)):
        sets = [data("train", sigma) for sigma in (0.0, *copies)]
        module = HeadOnly(nn.Identity() if words.cached else network, width, classes)
        watch = Epochs()
        trainer = pl.Trainer(
            max_epochs=words.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watch],
        )
        loader = DataLoader(
            ConcatDataset(sets), 32, shuffle=True, num_workers=workers, persistent_workers=not words.cached
        )
        trainer.fit(module, loader)
        epochs[arm] = watch.seconds
        accuracies[arm] = [
            trainer.test(module, DataLoader(data("test", sigma), 32, num_workers=workers), verbose=False)[0]["accuracy"]
            for sigma in SWEEP
        ]
    return {"seconds": time.perf_counter() - start, "epochs": epochs, "accuracies": accuracies}


def options(about: str | None) -> argparse.ArgumentParser:
    """What every peer is told of images and network."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--name", default="squeezenet1_1")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="a name, a .safetensors file, or none")
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225])
    return parser


def main() -> None:
    """Run the recipe once and print its result as JSON."""
    parser = options(__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--cached", action="store_true", help="channels last, and features kept in memory")
    print(json.dumps(run(parser.parse_args())))


if __name__ == "__main__":
    main()
