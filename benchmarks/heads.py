"""Head training alone: `python benchmarks/heads.py`, a page in results/heads.md.

On the stored features of the embedded digits and, with --root, of photographs (both arms): blurtrain's stacked folds
against one alone, against scikit-learn's logistic regression, and against a bare loop over torch's own L-BFGS,
problem by problem, to the same optimum. One thread for all, and the same eleven penalties, folds and refit.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from timing import ratio, rounds, spread, table, write
from torch.nn import functional as F

from blurtrain import features, fitting, preparation
from blurtrain.chatter import silence
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, HeadConfig
from blurtrain.fitting import Fit

L2 = HeadConfig().l2


class Data(NamedTuple):
    """What a fit takes."""

    rows: np.ndarray
    labels: np.ndarray
    training: np.ndarray
    validation: np.ndarray

    @property
    def classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1


def fit(data: Data, folds: int) -> Fit:
    """blurtrain's, with so many of the folds."""
    return fitting.fit(
        data.rows, data.labels, data.training[:folds], data.validation[:folds], classes=data.classes, l2=L2,
        tolerance=1e-5,
    )  # fmt: skip


def standardised(data: Data, training: np.ndarray) -> np.ndarray:
    """In float64 by the training rows."""
    rows = data.rows.astype(np.float64)
    spread_ = rows[training].std(0)
    usable = spread_ > 1e-6 * spread_.max()
    return np.asarray((rows - rows[training].mean(0)) * usable / np.where(usable, spread_, 1.0))


def sklearn(data: Data, training_rows: np.ndarray) -> list[np.ndarray]:
    """scikit-learn's probabilities for every penalty of a split, with its default solver to a comparable gradient."""
    found, z = [], standardised(data, training_rows)
    for l2 in L2:
        penalty = l2 / 2 if data.classes == 2 else l2
        model = LogisticRegression(
            C=1 / (int(training_rows.sum()) * penalty), tol=1e-5 * min(l2, 1 / data.classes), max_iter=10_000
        )
        model.fit(z[training_rows], data.labels[training_rows])
        found.append(model.predict_proba(z))
    return found


def bare(data: Data, training_rows: np.ndarray) -> None:
    """Torch's own L-BFGS, one problem after the other."""
    z = torch.from_numpy(standardised(data, training_rows)[training_rows])
    labels = torch.from_numpy(data.labels[training_rows])
    for l2 in L2:
        weights = torch.zeros(z.shape[1], data.classes, dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(data.classes, dtype=torch.float64, requires_grad=True)
        solver = torch.optim.LBFGS(
            [weights, bias],
            max_iter=5000,
            history_size=10,
            tolerance_grad=1e-5 * min(l2, 1 / data.classes),
            tolerance_change=0,
            line_search_fn="strong_wolfe",
        )

        def loss(l2=l2, weights=weights, bias=bias, solver=solver) -> torch.Tensor:  # noqa: ANN001
            solver.zero_grad()
            value = F.cross_entropy(z @ weights + bias, labels) + l2 / 2 * weights.square().sum()
            value.backward()
            return value

        solver.step(loss)


def stored(config: Config, ready: preparation.Prepared) -> Data:
    """The rows of an arm."""
    assert ready.store is not None
    loaded, copies = ready.images, len(config.train_views)
    wanted = dict.fromkeys(config.train_views, loaded.train)
    features.extract(loaded, wanted, ready.engine, ready.store, 32)
    rows = np.concatenate([ready.store.read(view, loaded, loaded.train) for view in config.train_views])
    masks = (np.tile(mask, copies) for mask in preparation.masks(config, loaded))
    return Data(rows, np.tile(loaded.labels[loaded.train], copies), *masks)


def row(name: str, data: Data, repeats: int) -> list[str]:
    """One line of the table."""
    folds = len(data.training)
    found = rounds({"five": lambda: fit(data, folds), "one": lambda: fit(data, 1)}, repeats)
    theirs: list[np.ndarray] = []
    first = data.training[0]
    slow = rounds(
        {"sklearn": lambda: theirs.extend(sklearn(data, first)), "bare": lambda: bare(data, first)}, 1, warm=False
    )
    ours = fit(data, folds)
    probabilities = softmax(ours.folds.logits(data.rows)[0], axis=-1)
    difference = float(np.abs(probabilities - theirs[L2.index(ours.l2)]).max())
    all_splits = {way: [seconds * (folds + 1) for seconds in taken] for way, taken in slow.items()}
    return [
        name,
        f"{len(data.rows)} x {data.rows.shape[1]}, {data.classes} classes",
        spread(found["five"], 2),
        ratio(found["five"], found["one"]),
        ratio(all_splits["sklearn"], found["five"]),
        ratio(all_splits["bare"], found["five"]),
        f"{difference:.0e}",
    ]


HEAD = (
    *("features", "rows", "five folds and refit, s", "five folds / one", "scikit-learn / ours", "bare loop / ours"),
    "largest difference of a probability",
)


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="photographs")
    parser.add_argument("--name", default="squeezenet1_1")
    parser.add_argument("--weights", default="IMAGENET1K_V1")
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    silence()
    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        digits = Config(cache=Path(folder))
        photos = replace(
            digits,
            data=DataConfig(root=str(words.root)),
            backbone=BackboneConfig(name=words.name, weights=words.weights),
            copies=(BlurGrid("gaussian", (1.0, 2.0)),),
        )
        for name, config in {"digits": digits, words.name: photos}.items():
            if name != "digits" and words.root is None:
                continue
            ready = preparation.prepare(config)
            for arm in (config.baseline(), config):
                rows.append(row(f"{name}, {arm.arm}", stored(arm, ready), words.repeats))
    text = table(HEAD, rows)
    text += (
        "\nOne thread, eleven penalties for each split. scikit-learn and the bare loop ran once, on the first split,"
    )
    text += "\nand are scaled to all; the difference is that of the first fold's head from scikit-learn's.\n"
    write("heads", "Head training", "python benchmarks/heads.py", text, ("torch", "scikit-learn"))


if __name__ == "__main__":
    main()
