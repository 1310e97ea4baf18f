"""What blurtrain's time is measured against: the recipe that a fair user of Lightning would write.

A frozen torchvision backbone under no_grad, `ImageFolder`, torchvision transforms, two workers, ten epochs an arm,
one head, both arms, and the same sweep. Nothing is cached, because such a recipe does not.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import ConcatDataset, DataLoader
from torchmetrics.classification import MulticlassAccuracy
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

Batch = tuple[Tensor, Tensor]


class HeadOnly(pl.LightningModule):
    """A frozen backbone and a linear head."""

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


def backbone(name: str, weights: str) -> tuple[nn.Module, int]:
    """The network without its last layer."""
    is_file = weights.endswith(".safetensors")
    network = torchvision.models.get_model(name, weights=None if is_file else weights)
    if is_file:
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


def run(root: Path, name: str, weights: str, mean: list[float], std: list[float], epochs: int) -> dict[str, object]:
    """Train and sweep both arms; seconds and accuracies."""
    pl.seed_everything(0, verbose=False)
    start = time.perf_counter()
    accuracies = {}
    for arm, copies in (("baseline", []), ("augmented", [1.0, 2.0])):
        network, features = backbone(name, weights)
        sets = [ImageFolder(root / "train", transform(sigma, mean, std)) for sigma in (0.0, *copies)]
        module = HeadOnly(network, features, len(sets[0].classes))
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, DataLoader(ConcatDataset(sets), 32, shuffle=True, num_workers=2, persistent_workers=True))
        accuracies[arm] = [
            trainer.test(
                module,
                DataLoader(ImageFolder(root / "test", transform(sigma, mean, std)), 32, num_workers=2),
                verbose=False,
            )[0]["accuracy"]
            for sigma in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
        ]
    return {"seconds": time.perf_counter() - start, "accuracies": accuracies}


def main() -> None:
    """Run the recipe once and print its result as JSON."""
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--name", default="squeezenet1_1")
    parser.add_argument("--weights", default="IMAGENET1K_V1")
    parser.add_argument("--mean", type=float, nargs=3, default=[0.485, 0.456, 0.406])
    parser.add_argument("--std", type=float, nargs=3, default=[0.229, 0.224, 0.225])
    parser.add_argument("--epochs", type=int, default=10)
    words = parser.parse_args()
    print(json.dumps(run(words.root, words.name, words.weights, words.mean, words.std, words.epochs)))


if __name__ == "__main__":
    main()
