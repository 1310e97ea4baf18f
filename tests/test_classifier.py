"""`BlurClassifier` in a user's own Trainer, and the way back from a finished run."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning import Trainer
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from torchmetrics.classification import MulticlassAccuracy

from blurtrain import backbones, engines, fitting, images, preparation, training
from blurtrain.batches import ImageDataModule, ViewDataset
from blurtrain.classifier import BlurClassifier, FoldBatch, ImageBatch
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.errors import RunError
from blurtrain.runs import WORK, load_run
from blurtrain.views import CLEAN, Blur
from tests.conftest import EMBEDDED

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),  # which is the point
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero"),  # no validation split
]

SLIGHT, HEAVY = Blur("gaussian", 1.0), Blur("gaussian", 3.0)


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    def make(epochs: int = 1) -> Trainer:
        return Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            log_every_n_steps=1,
            default_root_dir=tmp_path,
        )

    return make


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small augmented arm on the embedded images."""
    folder = tmp_path_factory.mktemp("tiny")
    return Config(
        name="tiny",
        data=DataConfig(glyphs=GlyphsConfig(train=100, test=50)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(l2=(0.01, 0.1, 1.0)),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture
def digits(tiny: Config) -> images.ImageSet:
    assert tiny.cache is not False
    return images.load(tiny.data, backbones.load(tiny.backbone).preprocessing.geometry, tiny.cache)


@pytest.fixture
def classifier() -> BlurClassifier:
    return BlurClassifier(backbones.load(BackboneConfig()), classes=10, learning_rate=0.01)


@pytest.fixture
def random_head(classifier: BlurClassifier) -> BlurClassifier:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        classifier.head.weight.copy_(torch.randn(classifier.head.weight.shape, generator=generator))
        classifier.head.bias.copy_(torch.randn(classifier.head.bias.shape, generator=generator))
    return classifier.eval()


def pairs(loader: DataLoader[ImageBatch | FoldBatch]) -> tuple[Tensor, Tensor]:
    """All images and labels of a loader."""
    batches = list(loader)
    return torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])


def loss_of(classifier: BlurClassifier, images_: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(classifier.eval()(images_), labels))


# Training


def changed(before: dict[str, Tensor], classifier: BlurClassifier) -> set[str]:
    return {key for key, tensor in classifier.state_dict().items() if not torch.equal(tensor, before[key])}


@pytest.mark.parametrize("kind", ["ImageDataModule", "pairs"])
def test_fit_lowers_the_loss_and_changes_the_head_alone(
    kind: str, classifier: BlurClassifier, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    module = ImageDataModule(digits, (CLEAN, SLIGHT), batch_size=50)
    seen, labels = pairs(module.train_dataloader())
    before = {key: tensor.clone() for key, tensor in classifier.state_dict().items()}
    assert loss_of(classifier, seen, labels) == pytest.approx(np.log(10))  # the zero start knows nothing
    if kind == "pairs":
        loader = DataLoader(TensorDataset(seen, labels), batch_size=50)  # collated to lists, not to `ImageBatch`
        trainer(3).fit(classifier.train(), loader)
    else:
        trainer(3).fit(classifier.train(), datamodule=module)
    assert loss_of(classifier, seen, labels) < 0.7 * np.log(10)
    assert changed(before, classifier) == {"head.weight", "head.bias"}


def test_training_step_is_the_cross_entropy(
    classifier: BlurClassifier, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    runner = trainer()
    runner.fit(classifier.train(), datamodule=ImageDataModule(digits, batch_size=100))  # one batch: logged at zero
    assert float(runner.callback_metrics["train/nll"]) == pytest.approx(np.log(10))


@pytest.mark.parametrize("folds", [[0, 0, 1, 2, 2, 2], [1] * 6], ids=["several folds", "one fold alone"])
def test_each_folds_head_learns_from_the_other_folds(
    folds: list[int], classifier: BlurClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(0)
    images_, labels = torch.rand(6, 3, 64, 64, generator=generator), torch.arange(6)
    several = BlurClassifier(classifier.backbone, classes=10, folds=3)
    monkeypatch.setattr(several, "log", lambda *_: None)  # there is no trainer
    with torch.no_grad():
        for parameter in [*several.head.parameters(), *several.fold_heads.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        logits = [head(several.backbone(images_)) for head in (several.head, *several.fold_heads)]
        loss = several.training_step(FoldBatch(images_, labels, torch.tensor(folds)), 0)
    every = [[row for row in range(6) if folds[row] != fold] for fold in (-1, 0, 1, 2)]
    expected = [
        float(F.cross_entropy(one[rows], labels[rows])) for one, rows in zip(logits, every, strict=True) if rows
    ]
    assert float(loss) == pytest.approx(sum(expected), rel=1e-5)


def test_optimizer_holds_the_head_alone(classifier: BlurClassifier) -> None:
    optimizer = BlurClassifier(classifier.backbone, 3, learning_rate=0.25, weight_decay=0.5).configure_optimizers()
    assert isinstance(optimizer, torch.optim.AdamW)
    (group,) = optimizer.param_groups
    assert [tuple(parameter.shape) for parameter in group["params"]] == [(3, 192), (3,)]
    assert (group["lr"], group["weight_decay"]) == (0.25, 0.5)
    assert [name for name, p in classifier.named_parameters() if p.requires_grad] == ["head.weight", "head.bias"]


# Evaluation


def macro(predicted: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([(predicted[labels == label] == label).mean() for label in range(10)]))


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_metrics_match_counts_by_hand(
    stage: str, random_head: BlurClassifier, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    # Unequal classes and a short last batch, which a mean over batches or classes would weigh wrongly.
    order = np.argsort(digits.labels[digits.test], kind="stable")
    keep = np.r_[digits.test[order][:19], digits.test[order][19::4]]
    dataset = ViewDataset(digits, keep, (HEAVY,))
    loader = DataLoader(dataset, batch_size=8)
    runner = trainer()
    found = (runner.test if stage == "test" else runner.validate)(random_head, loader, verbose=False)[0]
    seen, labels = pairs(loader)
    with torch.no_grad():
        logits = random_head.eval()(seen)
    predicted = logits.argmax(1).numpy()
    assert found == {
        f"{stage}/accuracy": pytest.approx((predicted == labels.numpy()).mean()),
        f"{stage}/macro_accuracy": pytest.approx(macro(predicted, labels.numpy())),
        f"{stage}/nll": pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-5),
    }
    oracle = MulticlassAccuracy(10, average="micro")
    assert found[f"{stage}/accuracy"] == pytest.approx(float(oracle(logits, labels)))
    assert found[f"{stage}/accuracy"] != found[f"{stage}/macro_accuracy"]


def test_second_test_does_not_remember_the_first(
    random_head: BlurClassifier, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    module = ImageDataModule(digits)
    runner = trainer()
    first = runner.test(random_head, module, verbose=False)
    assert runner.test(random_head, ImageDataModule(digits, test_view=HEAVY), verbose=False) != first
    assert runner.test(random_head, module, verbose=False) == first


def test_predict_gives_probabilities(
    random_head: BlurClassifier, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    module = ImageDataModule(digits, test_view=SLIGHT, batch_size=20)
    predictions = trainer().predict(random_head, module)
    assert predictions is not None
    found = torch.cat([batch for batch in predictions if isinstance(batch, Tensor)])
    seen, _ = pairs(module.predict_dataloader())
    with torch.no_grad():
        expected = F.softmax(random_head(seen), -1)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found.sum(1), torch.ones(50))
    bare: DataLoader[Tensor] = DataLoader(seen, batch_size=20)  # type: ignore[arg-type]
    again = trainer().predict(random_head, bare)
    assert again is not None
    torch.testing.assert_close(torch.cat([batch for batch in again if isinstance(batch, Tensor)]), expected)


# Runs


@pytest.fixture(scope="session")
def run_folder(tiny: Config) -> Path:
    return training.train(tiny, preparation.prepare(tiny))


def refit_rows(folder: Path, view: Blur) -> dict[str, np.ndarray]:
    table = pq.read_table(folder / "predictions.parquet", filters=[("view", "=", view.name), ("head", "=", "refit")])
    return {name: table[name].to_numpy() for name in table.column_names}


@pytest.mark.parametrize("view", [CLEAN, SLIGHT, HEAVY])
def test_classifier_of_a_run_predicts_what_the_run_stored(
    view: Blur, run_folder: Path, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    classifier = BlurClassifier.from_run(run_folder)
    predictions = trainer().predict(classifier, ImageDataModule(digits, test_view=view))
    assert predictions is not None
    found = torch.cat([batch for batch in predictions if isinstance(batch, Tensor)]).numpy()
    stored = refit_rows(run_folder, view)
    assert stored["image"].tolist() == [name.decode() for name in digits.ids[digits.test]]
    np.testing.assert_array_equal(stored["label"], digits.labels[digits.test])
    np.testing.assert_array_equal(found.argmax(1), stored["predicted"])
    np.testing.assert_allclose(found.max(1), stored["confidence"], atol=1e-4)
    np.testing.assert_allclose(found[np.arange(50), stored["label"]], stored["probability"], atol=1e-4)


def test_run_predicts_better_than_chance(run_folder: Path) -> None:
    stored = refit_rows(run_folder, CLEAN)
    assert (stored["predicted"] == stored["label"]).mean() > 0.3


def test_classifier_of_a_run_goes_on_training(
    run_folder: Path, digits: images.ImageSet, trainer: Callable[..., Trainer]
) -> None:
    classifier = BlurClassifier.from_run(run_folder)
    fingerprint = classifier.backbone.fingerprint()
    trainer().fit(classifier.train(), datamodule=ImageDataModule(digits, batch_size=50))
    assert classifier.backbone.fingerprint() == fingerprint == load_run(run_folder).result["backbone"]["fingerprint"]


def test_folds_heads_are_validated_on_their_own_images(run_folder: Path, tiny: Config, digits: images.ImageSet) -> None:
    ready = preparation.prepare(tiny)
    assert ready.store is not None
    folds = images.folds(digits, tiny.head.folds)
    saved = load_arrays(run_folder / "heads-folds.safetensors")
    result = load_run(run_folder).result["head"]
    losses = []
    for fold in range(tiny.head.folds):
        for view in tiny.train_views:
            rows = digits.train[folds == fold]
            logits = ready.store.read(view, digits, rows) @ saved["weight"][fold].T + saved["bias"][fold]
            nll = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(digits.labels[rows]), reduction="sum")
            losses.append((fold, len(rows), float(nll)))
    by_fold = [
        sum(nll for f, _, nll in losses if f == fold) / sum(count for f, count, _ in losses if f == fold)
        for fold in range(tiny.head.folds)
    ]
    chosen = next(row for row in result["candidates"] if row["l2"] == result["l2"])
    assert chosen["validation_nll"] == pytest.approx(np.mean(by_fold), rel=1e-5)
    assert chosen["validation_nll"] == min(row["validation_nll"] for row in result["candidates"])


def test_folds_heads_are_fitted_on_the_other_folds_alone(
    run_folder: Path, tiny: Config, digits: images.ImageSet
) -> None:
    store = preparation.prepare(tiny).store
    assert store is not None
    folds = images.folds(digits, tiny.head.folds)
    saved = load_arrays(run_folder / "heads-folds.safetensors")
    l2 = (load_run(run_folder).result["head"]["l2"],)
    for fold in range(tiny.head.folds):
        rows = digits.train[folds != fold]
        every = np.ones((1, len(rows) * len(tiny.train_views)), bool)
        alone = fitting.fit(
            np.concatenate([store.read(view, digits, rows) for view in tiny.train_views]),
            np.tile(digits.labels[rows], len(tiny.train_views)),
            every,
            every,
            classes=10,
            l2=l2,
            tolerance=1e-8,
        )
        np.testing.assert_allclose(saved["weight"][fold], alone.refit.weights[0], atol=2e-3)


def work(folder: Path) -> dict[str, int]:
    """What training a run had to do."""
    counts: dict[str, int] = json.loads((folder / WORK).read_text())["forward_passes"]
    return counts


def test_other_weights_are_refused(tiny: Config, run_folder: Path, tmp_path: Path) -> None:
    state = load_file(EMBEDDED)
    path = tmp_path / "weights.safetensors"
    save_file(state, path)
    config = replace(tiny, name="own", backbone=BackboneConfig(weights=str(path)), runs=tmp_path / "runs")
    folder = training.train(config, preparation.prepare(config))
    assert work(folder)["computed"] == 0  # the same tensors from another file
    assert load_run(folder).result["backbone"]["fingerprint"] == load_run(run_folder).result["backbone"]["fingerprint"]
    state["bn.running_mean"] += 0.5  # what training in the wrong mode would do
    save_file(state, path)
    with pytest.raises(RunError, match=r"was trained on a backbone with fingerprint .* but .* now gives .*: restore"):
        BlurClassifier.from_run(folder)


def test_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no readable"):
        BlurClassifier.from_run(tmp_path)


def test_same_config_twice_gives_the_same_bytes(tiny: Config, run_folder: Path, tmp_path: Path) -> None:
    again = replace(tiny, runs=tmp_path / "runs", cache=tmp_path / "cache", batch_size=17)
    folder = training.train(again, preparation.prepare(replace(again, batch_size=32)))
    exact = replace(tiny, runs=tmp_path / "exact", cache=tmp_path / "exact-cache")
    exact_folder = training.train(exact, preparation.prepare(exact))
    for name in ("head.safetensors", "heads-folds.safetensors", "predictions.parquet", "sweep.csv"):
        assert (exact_folder / name).read_bytes() == (run_folder / name).read_bytes(), name
    for name in ("weight", "bias"):  # another batch size may round otherwise
        np.testing.assert_allclose(
            load_arrays(folder / "head.safetensors")[name],
            load_arrays(run_folder / "head.safetensors")[name],
            atol=1e-4,
        )


@pytest.fixture
def forward_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Sizes of the batches that any engine sees."""
    sizes: list[int] = []
    for kind in (engines.OnnxEngine, engines.TorchEngine):
        run: Any = kind.__call__

        def counted(self: Any, pixels: np.ndarray, view: Blur, run: Any = run) -> Any:  # noqa: ANN401
            sizes.append(len(pixels))
            return run(self, pixels, view)

        monkeypatch.setattr(kind, "__call__", counted)
    return iter([sizes])


def test_second_arm_recomputes_nothing(
    tiny: Config, run_folder: Path, tmp_path: Path, forward_passes: Iterator[list[int]]
) -> None:
    assert work(run_folder) == {"reused": 0, "computed": 100 * 2 + 50 * 3}  # each image in each of its views, once
    baseline = replace(tiny.baseline(), runs=tmp_path / "runs")
    folder = training.train(baseline, preparation.prepare(baseline))
    assert work(folder) == {"reused": 100 + 50 * 3, "computed": 0}
    assert next(forward_passes) == []
    assert folder.name == "tiny-baseline"
