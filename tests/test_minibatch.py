"""`cache: false`: heads trained on image batches, beside the same training written out on stored features."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F
from safetensors.numpy import load_file
from torch import Tensor, nn

from blurtrain import backbones, comparison, experiment, images, minibatch, preparation, training
from blurtrain.batches import EpochSampler
from blurtrain.blur import blur_pixels
from blurtrain.classifier import BlurClassifier
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.errors import ConfigError, RunError
from blurtrain.progress import progress
from blurtrain.roster import TEST_IMAGES
from blurtrain.runs import load_run
from blurtrain.sweep import read_predictions
from blurtrain.views import CLEAN

pytestmark = pytest.mark.usefixtures("quiet")
FILES = ("head", "heads-folds", "head-equal-epochs", "heads-folds-equal-epochs")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An augmented arm with two copies and folds of unequal size."""
    folder = tmp_path_factory.mktemp("minibatch")
    return Config(
        name="small",
        data=DataConfig(glyphs=GlyphsConfig(train=110, test=30)),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(folds=3),
        minibatch=MinibatchConfig(epochs=3, learning_rate=0.01, weight_decay=0.1, seed=4),
        batch_size=16,
        runs=folder / "runs",
        cache=False,
    )


@pytest.fixture(scope="module")
def run_folder(config: Config) -> Path:
    return training.train(config, preparation.prepare(config))


# Oracle: the same training on stored features, head by head, without Lightning


class ByHand:
    """AdamW on the features that the store holds, one head at a time."""

    def __init__(self, config: Config, cache: Path) -> None:
        self.config = config
        stored = replace(config, cache=cache, engine="torch")
        ready = preparation.prepare(stored)
        assert ready.store is not None
        training.train(replace(stored, runs=cache), ready)  # fills the store
        loaded = ready.images
        self.features = torch.from_numpy(
            np.concatenate([ready.store.read(view, loaded, loaded.train) for view in config.train_views])
        )
        views = len(config.train_views)
        self.labels = torch.from_numpy(np.tile(loaded.labels[loaded.train], views))
        self.folds = torch.from_numpy(np.tile(images.folds(loaded, config.head.folds), views))

    def train(self, left_out: int | None) -> list[tuple[Tensor, Tensor]]:
        """Weights and bias after every step."""
        epochs, size = self.config.minibatch.epochs, self.config.batch_size
        weight = torch.zeros(10, self.features.shape[1], requires_grad=True)
        bias = torch.zeros(10, requires_grad=True)
        rate, decay = self.config.minibatch.learning_rate, self.config.minibatch.weight_decay
        optimizer = torch.optim.AdamW([weight, bias], rate, weight_decay=decay)
        sampler, history = EpochSampler(len(self.labels), self.config.minibatch.seed), []
        for _ in range(epochs):
            order = torch.tensor([index for _, index in sampler])
            for rows in torch.split(order, size):
                mine = rows if left_out is None else rows[self.folds[rows] != left_out]
                optimizer.zero_grad()
                loss = F.cross_entropy(self.features[mine] @ weight.T + bias, self.labels[mine])
                torch.autograd.backward(loss)
                optimizer.step()
                history.append((weight.detach().clone(), bias.detach().clone()))
        return history

    def held_out_nll(self, fold: int, head: tuple[Tensor, Tensor]) -> float:
        rows = self.folds == fold
        return float(F.cross_entropy(self.features[rows] @ head[0].T + head[1], self.labels[rows]))


@pytest.fixture(scope="module")
def by_hand(config: Config, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Histories of all heads and the steps that are best on held-out images."""
    oracle = ByHand(config, tmp_path_factory.mktemp("stored"))
    folds = [oracle.train(fold) for fold in range(3)]
    per_clean_epoch = -(-110 // 16)
    steps = sorted({*range(per_clean_epoch, len(folds[0]) + 1, per_clean_epoch), len(folds[0])})
    losses = [np.mean([oracle.held_out_nll(f, history[step - 1]) for f, history in enumerate(folds)]) for step in steps]
    equal = [loss for step, loss in zip(steps, losses, strict=True) if step <= 3 * per_clean_epoch]
    return {
        "folds": folds,
        "refit": oracle.train(None),
        "best": {"": steps[int(np.argmin(equal))], "-equal-epochs": steps[int(np.argmin(losses))]},
        "losses": losses,
    }


@pytest.mark.parametrize("suffix", ["", "-equal-epochs"])
def test_heads_are_those_of_the_same_training_on_stored_features(
    suffix: str, run_folder: Path, by_hand: dict[str, Any]
) -> None:
    step = by_hand["best"][suffix] - 1
    refit, folds = (load_file(run_folder / f"{name}{suffix}.safetensors") for name in ("head", "heads-folds"))
    np.testing.assert_allclose(refit["weight"], by_hand["refit"][step][0], rtol=0, atol=1e-4)
    np.testing.assert_allclose(refit["bias"], by_hand["refit"][step][1], rtol=0, atol=1e-4)
    for fold, history in enumerate(by_hand["folds"]):
        np.testing.assert_allclose(folds["weight"][fold], history[step][0], rtol=0, atol=1e-4)
        np.testing.assert_allclose(folds["bias"][fold], history[step][1], rtol=0, atol=1e-4)
    assert float(np.abs(refit["weight"]).max()) > 0.01


def test_snapshots_are_chosen_on_held_out_images(run_folder: Path, by_hand: dict[str, Any]) -> None:
    head = load_run(run_folder).result["head"]
    assert head["equal_steps"]["best_step"] == by_hand["best"][""]
    assert head["equal_epochs"]["best_step"] == by_hand["best"]["-equal-epochs"]
    assert head["equal_epochs"]["validation_nll"] == pytest.approx(min(by_hand["losses"]), abs=1e-4)
    assert head["equal_steps"]["steps"] == 3 * 7
    assert head["equal_epochs"]["steps"] == 3 * 21
    assert (head["solver"], head["heads"]) == ("AdamW", 3)


def test_both_budgets_differ_so_that_the_above_says_something(run_folder: Path) -> None:
    short, long = (load_file(run_folder / f"{name}.safetensors") for name in ("head", "head-equal-epochs"))
    assert not np.array_equal(short["weight"], long["weight"])


def random_heads(folds: int) -> BlurClassifier:
    """A classifier of four classes; its features are not looked at."""
    classifier = BlurClassifier(backbones.load(BackboneConfig()), classes=4, folds=folds)
    generator = torch.Generator().manual_seed(folds)
    with torch.no_grad():
        for parameter in [*classifier.head.parameters(), *classifier.fold_heads.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return classifier


def held_out(rows: int, folds: int) -> minibatch._Held:
    generator = torch.Generator().manual_seed(rows)
    labels = torch.randint(4, (rows,), generator=generator)
    return minibatch._Held(torch.randn(rows, 192, generator=generator), labels, torch.arange(rows) % folds)


def test_each_head_is_judged_by_the_rows_that_it_was_not_trained_on() -> None:
    classifier, held = random_heads(folds=3), held_out(31, folds=3)
    losses, accuracies = [], []
    for fold, head in enumerate(classifier.fold_heads):
        assert isinstance(head, nn.Linear)
        rows = torch.arange(fold, 31, 3)
        logits = held.features[rows] @ head.weight.detach().T + head.bias.detach()
        losses.append(float(F.cross_entropy(logits, held.labels[rows])))
        accuracies.append(float((logits.argmax(1) == held.labels[rows]).float().mean()))
    assert minibatch._evaluate(classifier, held) == pytest.approx((np.mean(losses), np.mean(accuracies)), rel=1e-5)


def test_the_best_heads_of_each_budget_are_kept() -> None:
    classifier, losses = random_heads(folds=2), {2: 0.9, 4: 0.6, 6: 0.7, 8: 0.5, 10: 0.3, 12: 0.4}
    judged = iter(losses.values())
    with progress("training heads", 0) as bar:
        snapshots = minibatch.Snapshots(
            lambda _: (next(judged), 0.0), minibatch.heads_of, interval=2, equal=6, total=12, bar=bar
        )
    for step in losses:
        with torch.no_grad():
            for head in (classifier.head, *classifier.fold_heads):
                head.bias.fill_(step)  # shows from which step a head is
        snapshots.compare(classifier, step, 0.0)
    result = minibatch.result(snapshots, has_copies=True, forward_passes=8)
    assert result.equal_epochs is not None
    for (folds, refit), step in (((result.folds, result.refit), 4), (result.equal_epochs, 10)):
        assert (folds.bias.shape, refit.bias.shape) == ((2, 4), (1, 4))
        assert set(folds.bias.ravel()) == set(refit.bias.ravel()) == {step}
    assert result.summary["equal_steps"]["best_step"] == 4
    assert result.summary["equal_epochs"]["best_step"] == 10


# The run


def test_nothing_is_stored_beside_the_run(config: Config, run_folder: Path) -> None:
    assert {path.name for path in config.runs.parent.iterdir()} == {"runs"}
    names = {path.name for path in run_folder.iterdir() if "tfevents" not in path.name}
    tables = {"config.yaml", "run.json", "work.json", "predictions.parquet", "sweep.csv", "sweep.json", TEST_IMAGES}
    assert names == tables | {f"{name}.safetensors" for name in FILES}


def test_predictions_hold_both_budgets(run_folder: Path, config: Config) -> None:
    path = run_folder / "predictions.parquet"
    heads = dict.fromkeys(pq.read_table(path)["head"].to_pylist())
    own = ["fold-0", "fold-1", "fold-2", "refit"]
    assert list(heads) == own + [f"equal epochs: {name}" for name in own]
    for view in config.test_views:
        steps, epochs = read_predictions(path, view), read_predictions(path, view, equal_epochs=True)
        assert steps.heads == epochs.heads == own
        assert not np.array_equal(steps.probability, epochs.probability)


def test_classifier_of_a_run_predicts_what_the_run_stored(run_folder: Path, config: Config) -> None:
    classifier = BlurClassifier.from_run(run_folder).eval()
    ready = preparation.prepare(config)
    view = config.test_views[-1]
    with torch.no_grad():
        seen = torch.from_numpy(blur_pixels(ready.images.read_pixels(ready.images.test), view))
        probabilities = classifier(seen).softmax(1).numpy()
    stored = read_predictions(run_folder / "predictions.parquet", view)
    np.testing.assert_allclose(probabilities.max(1), stored.confidence[-1], atol=1e-5)
    np.testing.assert_array_equal(probabilities.argmax(1), stored.predicted[-1])


def test_workers_change_no_byte(run_folder: Path, config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path, minibatch=replace(config.minibatch, workers=2))
    folder = training.train(other, preparation.prepare(other))
    for name in FILES:
        path = f"{name}.safetensors"
        assert (folder / path).read_bytes() == (run_folder / path).read_bytes()
    assert (folder / "predictions.parquet").read_bytes() == (run_folder / "predictions.parquet").read_bytes()


@pytest.mark.parametrize("after", [20, 45])
def test_interrupted_training_goes_on_to_the_same_bytes(
    after: int,
    run_folder: Path,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,  # noqa: ANN401
) -> None:
    other = replace(config, runs=tmp_path)
    step = BlurClassifier.training_step
    steps = 0

    def interrupted(self: BlurClassifier, batch: Any, index: int) -> Tensor:  # noqa: ANN401
        nonlocal steps
        steps += 1
        if steps == after:
            raise KeyboardInterrupt
        return step(self, batch, index)

    monkeypatch.setattr(BlurClassifier, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(other, preparation.prepare(other))
    assert len(list(other.run_folder.glob(".checkpoint-*"))) == (after > 21)
    folder = training.train(other, preparation.prepare(other))
    said = "going on from the last whole epoch" in capsys.readouterr().err
    assert said == (after > 21)
    whole_epochs = (after - 1) // 21
    assert steps == after + 63 - 21 * whole_epochs
    for name in FILES:
        path = f"{name}.safetensors"
        assert (folder / path).read_bytes() == (run_folder / path).read_bytes(), name
    assert not list(folder.glob(".partial-*")) + list(folder.glob(".checkpoint-*"))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_interrupted_sweep_repeats_no_training(
    run_folder: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(config, runs=tmp_path)
    ready = preparation.prepare(other)
    monkeypatch.setattr(training, "_sweep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(other, ready)
    monkeypatch.undo()
    monkeypatch.setattr(BlurClassifier, "training_step", interrupt)
    folder = training.train(other, preparation.prepare(other))
    for name in FILES:
        path = f"{name}.safetensors"
        assert (folder / path).read_bytes() == (run_folder / path).read_bytes()
    assert not list(folder.glob(".partial-*")) + list(folder.glob(".checkpoint-*"))


def test_damaged_checkpoint_is_told_and_not_used(
    run_folder: Path,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,  # noqa: ANN401
) -> None:
    other = replace(config, runs=tmp_path)
    monkeypatch.setattr(training, "_sweep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        training.train(other, preparation.prepare(other))
    monkeypatch.undo()
    (checkpoint,) = other.run_folder.glob(".checkpoint-*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    folder = training.train(other, preparation.prepare(other))
    assert f"{checkpoint} is damaged: training begins anew" in capsys.readouterr().err
    assert (folder / "head.safetensors").read_bytes() == (run_folder / "head.safetensors").read_bytes()


def test_test_labels_change_no_head(run_folder: Path, config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path)
    ready = preparation.prepare(other)
    labels = ready.images.labels.copy()
    labels[ready.images.test] = 9 - labels[ready.images.test]
    folder = training.train(other, replace(ready, images=replace(ready.images, labels=labels)))
    for name in FILES:
        path = f"{name}.safetensors"
        assert (folder / path).read_bytes() == (run_folder / path).read_bytes()


def test_given_validation_split_has_one_head(config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path, minibatch=replace(config.minibatch, epochs=1))
    ready = preparation.prepare(other)
    loaded = ready.images
    split = replace(loaded, train=loaded.train[:80], validation=loaded.train[80:])
    folder = training.train(other, replace(ready, images=split))
    folds, refit = (load_file(folder / f"{name}.safetensors") for name in ("heads-folds", "head"))
    assert folds["weight"].shape == (1, *refit["weight"].shape)
    np.testing.assert_array_equal(folds["weight"][0], refit["weight"])


def test_held_out_rows_are_bounded(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minibatch, "HELD_OUT", 90)
    ready = preparation.prepare(config)
    fold = images.folds(ready.images, 3)
    held = minibatch._held_out(ready.images, config.train_views, fold, ready.engine, 16)
    assert len(held.labels) == 90
    expected = np.sort(ready.images.ids[ready.images.train])[:30]  # by content, so the same whatever the order
    by_id = dict(zip(ready.images.ids[ready.images.train], fold, strict=True))
    assert sorted(held.folds[:30].tolist()) == sorted(by_id[name] for name in expected)
    assert torch.equal(held.folds[:30], held.folds[30:60])


# Comparing


def test_comparison_reports_equal_steps_and_equal_epochs(config: Config, run_folder: Path) -> None:
    folder = experiment.compare(config)
    result = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    other = result["equal_epochs"]
    assert other["steps"] == {"baseline": 21, "augmented": 63}
    augmented, baseline = run_folder, config.baseline().run_folder
    assert "equal epochs: refit" not in pq.read_table(baseline / "predictions.parquet")["head"].to_pylist()
    for view, equal_epochs, found in [
        (CLEAN, True, other["clean"]["augmented"]["difference"]),
        (config.test_views[-1], True, other["heavy_mean"]["against_reference"]["augmented"]["difference"]),
        (CLEAN, False, result["views"][0]["against_reference"]["augmented"]["difference"]),
    ]:
        one, two = (
            read_predictions(run / "predictions.parquet", view, equal_epochs=equal_epochs)
            for run in (augmented, baseline)
        )
        expected = one.correct[one.folds].mean() - two.correct[two.folds].mean()
        assert found == pytest.approx(expected, abs=1e-12)


def test_comparison_says_both(config: Config, run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from blurtrain.cli import main

    assert run_folder.exists()
    baseline = experiment.train(config.baseline())
    assert main(["compare", str(baseline), str(run_folder)]) == 0
    out = capsys.readouterr().out
    assert "The above is at equal steps. At equal epochs, 3.0 times the steps of baseline:" in out


def test_stored_and_fresh_runs_are_not_compared(config: Config, run_folder: Path, tmp_path: Path) -> None:
    stored = replace(config.baseline(), cache=tmp_path / "cache", runs=tmp_path, engine="torch")
    folder = training.train(stored, preparation.prepare(stored))
    with pytest.raises(RunError, match=r"were trained in different ways, one of them with cache: false: compare runs"):
        comparison.compare_runs([folder, run_folder])


# The config


def test_what_does_not_matter_is_no_part_of_the_identity(config: Config) -> None:
    def differs(one: Config, two: Config) -> bool:
        return one.identity() != two.identity()

    stored = replace(config, cache=Path("cache"))
    assert differs(config, stored)
    longer: Callable[[Config], Config] = lambda c: replace(c, minibatch=replace(c.minibatch, epochs=9))  # noqa: E731
    assert differs(config, longer(config))
    assert not differs(stored, longer(stored))
    assert differs(config, replace(config, batch_size=8))
    assert not differs(stored, replace(stored, batch_size=8))
    assert not differs(config, replace(config, minibatch=replace(config.minibatch, workers=3)))
    assert not differs(config, replace(config, head=replace(config.head, l2=(1.0,))))


def test_engine_that_cannot_train_is_refused(config: Config) -> None:
    with pytest.raises(ConfigError, match=r"^engine must be auto or torch where cache is false, because training runs"):
        replace(config, engine="onnxruntime")


@pytest.mark.parametrize("word", ["true", "None"])
def test_cache_is_a_folder_or_false(word: str) -> None:
    with pytest.raises(ConfigError, match=rf"^cache must be a folder or false, got '{word}'$"):
        Config(cache=Path(word))
