"""Another peer: scikit-learn's logistic regression on features of timm or torchvision, run eagerly.

Both arms, five folds and the same eleven penalties, the same sweep. timm where it knows the network, else torchvision.
"""

import argparse
import json
import time

import numpy as np
import torch
from plain_lightning import COPIES, SWEEP, backbone, options, transform
from sklearn.linear_model import LogisticRegressionCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

L2 = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)


def network_of(name: str, weights: str) -> tuple[nn.Module, str]:
    """A headless network, and the library that it comes from."""
    if weights == "none":
        import timm

        known = {"mobilenet_v2": "mobilenetv2_100"}.get(name, name)
        if timm.is_model(known):
            return timm.create_model(known, pretrained=False, num_classes=0).eval(), "timm"
    return backbone(name, weights)[0].eval(), "torchvision"


def run(words: argparse.Namespace) -> dict[str, object]:
    """Extract, fit and sweep; seconds and accuracies."""
    start = time.perf_counter()
    network, library = network_of(words.name, words.weights)

    def features(split: str, sigma: float) -> tuple[np.ndarray, np.ndarray]:
        loader = DataLoader(ImageFolder(words.root / split, transform(sigma, words.mean, words.std)), 32, num_workers=2)
        with torch.inference_mode():
            parts = [(network(batch).flatten(1).numpy(), labels.numpy()) for batch, labels in loader]
        rows, labels = zip(*parts, strict=True)
        return np.concatenate(rows), np.concatenate(labels)

    train = {sigma: features("train", sigma) for sigma in (0.0, *COPIES)}
    test = {sigma: features("test", sigma) for sigma in SWEEP}
    extracted = time.perf_counter() - start
    accuracies = {}
    for arm, sigmas in (("baseline", (0.0,)), ("augmented", (0.0, *COPIES))):
        rows = np.concatenate([train[sigma][0] for sigma in sigmas])
        labels = np.concatenate([train[sigma][1] for sigma in sigmas])
        model = make_pipeline(
            StandardScaler(),
            LogisticRegressionCV(Cs=[1 / (l2 * len(rows)) for l2 in L2], cv=5, max_iter=1000, scoring="neg_log_loss"),
        )
        model.fit(rows, labels)
        accuracies[arm] = [float(model.score(*test[sigma])) for sigma in SWEEP]
    total = time.perf_counter() - start
    return {"seconds": total, "extraction": extracted, "library": library, "accuracies": accuracies}


def main() -> None:
    """Run once and print the result as JSON."""
    print(json.dumps(run(options(__doc__).parse_args())))


if __name__ == "__main__":
    main()
