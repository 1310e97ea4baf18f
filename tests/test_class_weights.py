"""`head.class_weights: balanced` from the config to run.json: whole runs on unequal classes, and image batches."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.numpy import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn

from blurtrain import backbones, images, minibatch, preparation, runs, training, tuning
from blurtrain.batches import EpochSampler
from blurtrain.classifier import BlurClassifier, FoldBatch
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import RunError
from blurtrain.preparation import Prepared
from blurtrain.runs import config_from, load_run
from blurtrain.sweep import read_predictions
from blurtrain.tuning import Networks
from blurtrain.views import CLEAN

pytestmark = pytest.mark.usefixtures("quiet")
COUNTS = {"3": 44, "5": 8, "8": 20}  # training images of digits that look alike under blur


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits in folders: few of some classes in training, of the test images as many of each."""
    root = tmp_path_factory.mktemp("digits")
    loaded = images.load(DataConfig(glyphs=GlyphsConfig(train=500, test=300)), Geometry(64, 64), False)
    for split, positions in (("train", loaded.train), ("test", loaded.test)):
        for name, count in COUNTS.items():
            some = positions[loaded.labels[positions] == int(name)][: count if split == "train" else 25]
            (root / split / name).mkdir(parents=True)
            for place, pixels in enumerate(loaded.read_pixels(some)):
                Image.fromarray(pixels.transpose(1, 2, 0)).save(root / split / name / f"{place:02}.png")
    return root


@pytest.fixture(scope="module")
def config(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    place = tmp_path_factory.mktemp("balanced")
    return Config(
        name="balanced",
        data=DataConfig(root=str(folder)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 4.0)),),
        head=HeadConfig(l2=(0.01, 0.1, 1.0), folds=3, class_weights="balanced"),
        runs=place / "runs",
        cache=place / "cache",
    )


@pytest.fixture(scope="module")
def ready(config: Config) -> Prepared:
    return preparation.prepare(config)


@pytest.fixture(scope="module")
def run_folder(config: Config, ready: Prepared) -> Path:
    return training.train(config, ready)


def weights_by_hand(config: Config, ready: Prepared) -> dict[str, list[list[float]]]:
    """scikit-learn's, of the training images of each fold and of all."""
    labels = ready.images.labels[ready.images.train]
    fold = images.folds(ready.images, config.head.folds)
    parts = [labels[fold != left_out] for left_out in range(config.head.folds)]
    folds, refit = (
        [compute_class_weight("balanced", classes=np.arange(3), y=part).tolist() for part in some]
        for some in (parts, [labels])
    )
    return {"folds": folds, "refit": refit[0]}


# Whole runs


def test_run_says_the_weights_of_each_fold(config: Config, ready: Prepared, run_folder: Path) -> None:
    found = load_run(run_folder).result["head"]["class_weights"]
    expected = weights_by_hand(config, ready)
    np.testing.assert_allclose(found["folds"], expected["folds"])
    np.testing.assert_allclose(found["refit"], expected["refit"])
    np.testing.assert_allclose(found["refit"], [72 / (3 * count) for count in COUNTS.values()])
    assert found["folds"][0] != found["refit"]


def test_heads_of_a_run_are_sklearns(config: Config, ready: Prepared, run_folder: Path) -> None:
    assert ready.store is not None
    loaded, l2 = ready.images, load_run(run_folder).result["head"]["l2"]
    features = np.concatenate([ready.store.read(view, loaded, loaded.train) for view in config.train_views])
    labels = np.tile(loaded.labels[loaded.train], 2)
    z = (features - features.mean(0, dtype=np.float64)) / np.where(features.std(0) > 0, features.std(0), np.inf)
    model = LogisticRegression(C=1 / (len(z) * l2), class_weight="balanced", solver="newton-cg", tol=1e-8)
    head = load_file(run_folder / "head.safetensors")
    found = F.softmax(torch.from_numpy(features @ head["weight"].T + head["bias"]), 1).numpy()
    np.testing.assert_allclose(found, model.fit(z, labels).predict_proba(z), atol=1e-3)


def test_macro_accuracy_is_reported_beside_micro_accuracy_and_weights_raise_the_rare_class(
    config: Config, ready: Prepared, run_folder: Path
) -> None:
    plain = replace(config, name="plain", head=replace(config.head, class_weights="none"))
    recalls = []
    for folder in (training.train(plain, ready), run_folder):
        rows = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
        for view, row in zip(config.test_views, rows, strict=True):
            found = read_predictions(folder / "predictions.parquet", view)
            labels = ready.images.labels[ready.images.test]
            macro = [balanced_accuracy_score(labels, predicted) for predicted in found.predicted[:3]]
            assert row["macro_accuracy"] == pytest.approx(np.mean(macro))
        recalls.append((found.predicted[:3][:, labels == 1] == 1).mean())
    assert recalls[1] > recalls[0] + 0.05  # under heavy blur, where prior shares decide
    assert "class_weights" not in load_run(plain.run_folder).result["head"]


def test_given_validation_split_has_no_part_in_the_weights(config: Config, ready: Prepared) -> None:
    train = ready.images.train
    split = replace(ready.images, train=train[::2], validation=train[1::2])
    weights = training.class_weights(config, split)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=split.labels[split.train])
    assert weights is not None
    np.testing.assert_allclose(weights, [expected, expected])


# The config


def test_default_is_no_part_of_the_identity() -> None:
    old = Config().identity()
    assert "class_weights" not in old["head"]
    assert config_from({"head": {"folds": 5}}) == Config()
    weighted = Config(head=HeadConfig(class_weights="balanced"))
    assert weighted.identity()["head"] == {**old["head"], "class_weights": "balanced"}
    assert weighted.baseline().head.class_weights == "balanced"  # both arms of a comparison are weighted
    on_images = replace(weighted, cache=False)
    assert on_images.identity()["head"]["class_weights"] == "balanced"


def test_a_run_with_other_weights_is_refused(config: Config, run_folder: Path) -> None:
    assert run_folder == config.run_folder
    other = replace(config, head=replace(config.head, class_weights="none"))
    with pytest.raises(RunError, match=r"another config .head.class_weights is 'balanced' there and 'none' now"):
        runs.begin(other)


# Image batches


def on_images(config: Config, name: str, tune: bool = False) -> Config:
    return replace(
        config,
        name=name,
        cache=False,
        engine="torch",
        tune="head+bn" if tune else "head",
        minibatch=MinibatchConfig(epochs=3, learning_rate=0.01, seed=3),
        batch_size=16,
    )


@pytest.mark.usefixtures("run_folder")  # which fills the store
def test_minibatch_heads_are_those_of_weighted_training_by_hand(config: Config, ready: Prepared) -> None:
    fresh, loaded = on_images(config, "fresh"), ready.images
    run = load_run(training.train(fresh, preparation.prepare(fresh)))
    assert ready.store is not None
    features = torch.from_numpy(
        np.concatenate([ready.store.read(view, loaded, loaded.train) for view in config.train_views])
    )
    labels = torch.from_numpy(np.tile(loaded.labels[loaded.train], 2))
    fold = torch.from_numpy(np.tile(images.folds(loaded, 3), 2))
    expected = weights_by_hand(config, ready)
    assert run.result["head"]["class_weights"]["folds"] == pytest.approx(np.array(expected["folds"]))
    best = run.result["head"]["equal_epochs"]
    losses, accuracies = [], []
    for head, weights in enumerate([expected["refit"], *expected["folds"]]):
        of_class = torch.tensor(weights, dtype=torch.float32)
        mine = torch.ones_like(fold, dtype=torch.bool) if head == 0 else fold != head - 1
        weight, bias = _adamw(fresh, features, labels, mine, of_class, best["best_step"])
        name, place = ("head", ...) if head == 0 else ("heads-folds", head - 1)
        saved = load_file(run.folder / f"{name}-equal-epochs.safetensors")
        np.testing.assert_allclose(saved["weight"][place], weight, atol=1e-3)
        np.testing.assert_allclose(saved["bias"][place], bias, atol=1e-3)
        if head:
            logits = features[~mine] @ weight.T + bias
            found = logits.softmax(1).double().numpy()
            found /= found.sum(1, keepdims=True)
            losses.append(log_loss(labels[~mine], found, sample_weight=of_class[labels[~mine]]))
            accuracies.append(float((logits.argmax(1) == labels[~mine]).float().mean()))
    assert best["validation_nll"] == pytest.approx(np.mean(losses), abs=1e-3)
    assert best["validation_accuracy"] == pytest.approx(np.mean(accuracies), abs=0.02)


def _adamw(
    config: Config, features: Tensor, labels: Tensor, mine: Tensor, of_class: Tensor, steps: int
) -> tuple[Tensor, Tensor]:
    """A head after so many steps, its images weighted and divided by their number."""
    head = nn.Linear(features.shape[1], 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), 0.01, weight_decay=config.minibatch.weight_decay)
    sampler = EpochSampler(len(labels), 3)
    epochs = [torch.split(torch.tensor([index for _, index in sampler]), 16) for _ in range(3)]
    for rows in [rows for epoch in epochs for rows in epoch][:steps]:
        some = rows[mine[rows]]
        optimizer.zero_grad()
        log_p = head(features[some]).log_softmax(1)[torch.arange(len(some)), labels[some]]
        (-(of_class[labels[some]] * log_p).sum() / max(1, len(some))).backward()
        optimizer.step()
    return head.weight.detach(), head.bias.detach()


@pytest.mark.parametrize("tune", [False, True], ids=["head", "head+bn"])
def test_weights_on_image_batches_make_the_rare_class_likelier(config: Config, ready: Prepared, tune: bool) -> None:
    fresh = replace(on_images(config, f"fresh-{tune}", tune), copies=())
    balanced = replace(fresh, head=replace(config.head, folds=2))
    plain = replace(balanced, name=f"plain-{tune}", head=replace(balanced.head, class_weights="none"))
    is_rare, found = ready.images.labels[ready.images.test] == 1, []
    for arm in (plain, balanced):
        folder = training.train(arm, preparation.prepare(arm))
        found.append(read_predictions(folder / "predictions.parquet", CLEAN).probability[:, is_rare].mean())
        assert ("class_weights" in load_run(folder).result["head"]) == (arm is balanced)
    assert found[1] > found[0] + 0.05


def random_batch() -> tuple[FoldBatch, Tensor]:
    """Images of three classes and folds, and weights of a refit and three folds."""
    generator = torch.Generator().manual_seed(0)
    batch = FoldBatch(
        torch.rand(9, 3, 64, 64, generator=generator), torch.arange(9) % 3, torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    )
    return batch, torch.rand(4, 3, generator=generator) + 0.5


def randomise(*heads: nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for head in heads:
            for parameter in head.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))


def nll_by_hand(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    rows = torch.arange(len(labels))
    return -(weights[labels] * logits.log_softmax(1)[rows, labels]).sum() / len(labels)


def test_each_head_of_a_classifier_has_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, weights = random_batch()
    classifier = BlurClassifier(backbones.load(BackboneConfig()), 3, folds=3, class_weights=weights)
    plain = BlurClassifier(classifier.backbone, 3, folds=3)
    assert classifier.state_dict().keys() == plain.state_dict().keys()
    monkeypatch.setattr(classifier, "log", lambda *_: None)  # there is no trainer
    heads = [classifier.head, *classifier.fold_heads]
    randomise(*heads)
    with torch.no_grad():
        features = classifier.backbone(batch.images)
        expected = sum(
            nll_by_hand(head(features)[mine], batch.labels[mine], weights[place])
            for place, head in enumerate(heads)
            for mine in [batch.folds != place - 1]
        )
        assert float(classifier.training_step(batch, 0)) == pytest.approx(float(expected), rel=1e-5)


def test_each_network_has_weights_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, weights = random_batch()
    networks = Networks(backbones.load(BackboneConfig()), 3, 0.1, 0.0, folds=3, class_weights=weights)
    randomise(*networks.heads)
    losses: list[Tensor] = []
    optimizer = networks.configure_optimizers()
    monkeypatch.setattr(networks, "optimizers", lambda: optimizer)
    monkeypatch.setattr(networks, "manual_backward", losses.append)
    monkeypatch.setattr(networks, "log", lambda *_: None)
    networks.train().training_step(batch, 0)
    for place, (backbone, head) in enumerate(zip(networks.backbones, networks.heads, strict=True)):
        mine = batch.folds != place - 1
        expected = nll_by_hand(head(backbone(batch.images[mine])), batch.labels[mine], weights[place])
        assert float(losses[place].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


@pytest.mark.usefixtures("run_folder")  # which fills the store
def test_networks_are_judged_by_the_weighted_loss(ready: Prepared) -> None:
    loaded, weights = ready.images, torch.tensor([[1.0, 1.0, 1.0], [0.5, 6.0, 1.5], [0.4, 3.0, 2.0]])
    networks = Networks(backbones.load(BackboneConfig()), 3, 0.1, 0.0, folds=2, class_weights=weights)
    randomise(*networks.heads)
    fold = images.folds(loaded, 2)
    found, _ = tuning._judge(networks, images=loaded, views=(CLEAN,), positions=loaded.train, folds=fold, batch_size=16)
    assert ready.store is not None
    losses = []
    for place in range(2):
        mine = loaded.train[fold == place]
        features = torch.from_numpy(ready.store.read(CLEAN, loaded, mine))
        p = networks.heads[place + 1](features).softmax(1).detach().double().numpy()
        labels = loaded.labels[mine]
        losses.append(log_loss(labels, p / p.sum(1, keepdims=True), sample_weight=weights[place + 1].numpy()[labels]))
    assert found == pytest.approx(np.mean(losses), rel=1e-3)


def test_weights_of_the_refit_come_first_where_heads_do() -> None:
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    found = minibatch.refit_first(rows, 2)
    assert found is not None
    assert found.tolist() == [[5.0, 6.0], [1.0, 2.0], [3.0, 4.0]]
    alone = minibatch.refit_first(rows[[0, 0]], 0)
    assert alone is not None
    assert alone.tolist() == [[1.0, 2.0]]
    assert minibatch.refit_first(None, 2) is None
