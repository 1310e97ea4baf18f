"""`tune: head+bn`: each head's own network beside the same training written out, and all that must not learn."""

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from blurtrain import backbones, batchnorm, comparison, experiment, forecast, images, preparation, training, tuning
from blurtrain.batches import EpochSampler
from blurtrain.blur import blur_pixels
from blurtrain.classifier import BlurClassifier
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.errors import BackboneError, ConfigError, RunError
from blurtrain.images import ImageSet
from blurtrain.runs import load_run
from blurtrain.sweep import read_predictions
from blurtrain.tuning import Networks, TunedBackbone
from blurtrain.views import CLEAN

pytestmark = pytest.mark.usefixtures("quiet")
FOLDS = 3
FILES = tuple(
    f"{name}{suffix}.safetensors"
    for name in ("head", "heads-folds", "batchnorm", "batchnorm-folds")
    for suffix in ("", "-equal-epochs")
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """An augmented arm with a copy and folds of unequal size."""
    folder = tmp_path_factory.mktemp("tuned")
    return Config(
        name="small",
        data=DataConfig(glyphs=GlyphsConfig(train=70, test=30)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(folds=FOLDS),
        minibatch=MinibatchConfig(epochs=2, learning_rate=0.01, weight_decay=0.1, seed=4),
        batch_size=16,
        tune="head+bn",
        runs=folder / "runs",
        cache=False,
    )


@pytest.fixture(scope="module")
def run_folder(config: Config) -> Path:
    return training.train(config, preparation.prepare(config))


@pytest.fixture(scope="module")
def digits(config: Config) -> ImageSet:
    return images.load(config.data, backbones.load(config.backbone).preprocessing.geometry, False)


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in state.items()}


def is_norm(key: str, backbone: backbones.FrozenBackbone) -> bool:
    return key.rpartition(".")[0] in batchnorm.layers(backbone)


# The type


def test_batch_norms_alone_learn() -> None:
    backbone = backbones.load(BackboneConfig())
    before = bits(backbone.network.state_dict())
    tuned = TunedBackbone(backbone)
    learning = {key for key, parameter in tuned.network.named_parameters() if parameter.requires_grad}
    assert learning == {f"{name}.{entry}" for name in batchnorm.layers(tuned) for entry in ("weight", "bias")}
    norms = set(batchnorm.layers(tuned).values())
    assert {module for module in tuned.train().network.modules() if module.training} == norms
    tuned(torch.rand(4, 3, 64, 64)).square().sum().backward()
    torch.optim.SGD([p for p in tuned.parameters() if p.requires_grad], 0.1).step()
    assert not any(module.training for module in tuned.eval().network.modules())
    after = bits(tuned.network.state_dict())
    assert {key for key in before if before[key] != after[key]} == {key for key in before if is_norm(key, tuned)}
    assert bits(backbone.network.state_dict()) == before
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_a_batch_of_one_image_moves_nothing() -> None:
    networks = Networks(backbones.load(BackboneConfig()), 10, 0.1, 0.0, folds=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for head in networks.heads:
            nn.init.normal_(head.get_parameter("weight"))  # a zero head gives the network no gradient
    before = bits(tuning._state_of(networks))
    optimizer = networks.configure_optimizers()
    networks.optimizers = lambda: optimizer  # type: ignore[method-assign,assignment]
    networks.manual_backward = torch.autograd.backward  # type: ignore[method-assign,assignment]
    networks.log = lambda *_, **__: None  # type: ignore[method-assign]
    labels = torch.tensor([0, 1, 2])
    networks.train().training_step([torch.rand(3, 3, 64, 64), labels, torch.tensor([0, 0, 1])], 0)
    after = tuning._state_of(networks)
    stacked = {key: torch.frombuffer(bytearray(before[key]), dtype=after[key].dtype) for key in after}
    for key, tensor in after.items():
        same = (tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]) == stacked[key].view(3, -1)
        # The refit sees three images, fold 0's network one, fold 1's two.
        assert same.all(1).tolist() == [False, True, False], key


# Oracle: the same training network by network, without Lightning


class ByHand:
    """One network after the other, on batches in the same order."""

    def __init__(self, config: Config, digits: ImageSet) -> None:
        self.config = config
        pixels = digits.read_pixels(digits.train)
        self.images = torch.from_numpy(
            np.concatenate([blur_pixels(pixels, view) for view in (CLEAN, *config.copy_views)])
        )
        self.images = (self.images - 0.5) / 0.5
        self.labels = torch.from_numpy(np.tile(digits.labels[digits.train], len(config.train_views)))
        self.folds = torch.from_numpy(np.tile(images.folds(digits, FOLDS), len(config.train_views)))

    def train(self, left_out: int | None) -> list[nn.Sequential]:
        """The network with its head after every clean epoch's number of steps, and at the end."""
        network = copy.deepcopy(backbones.load(self.config.backbone).network)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        head = nn.Linear(192, 10)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        rate, decay = self.config.minibatch.learning_rate, self.config.minibatch.weight_decay
        heads = torch.optim.AdamW(head.parameters(), rate, weight_decay=decay)
        own = [parameter.requires_grad_() for norm in norms for parameter in (norm.weight, norm.bias)]
        affine = torch.optim.AdamW(own, rate, weight_decay=0)
        sampler, steps, kept = EpochSampler(len(self.labels), self.config.minibatch.seed), 0, []
        total = self.config.minibatch.epochs * -(-len(self.labels) // 16)
        for _ in range(self.config.minibatch.epochs):
            for rows in torch.split(torch.tensor([index for _, index in sampler]), 16):
                mine = rows if left_out is None else rows[self.folds[rows] != left_out]
                steps += 1
                if len(mine) > 1:
                    for norm in norms:
                        norm.train()
                    heads.zero_grad()
                    affine.zero_grad()
                    loss = F.cross_entropy(head(network(self.images[mine])), self.labels[mine])
                    torch.autograd.backward(loss)
                    heads.step()
                    affine.step()
                if steps % -(-70 // 16) == 0 or steps == total:
                    kept.append(copy.deepcopy(nn.Sequential(network.eval(), head)))
        return kept

    def held_out_nll(self, fold: int, network: nn.Module) -> float:
        rows = self.folds == fold
        with torch.no_grad():
            return float(F.cross_entropy(network(self.images[rows]), self.labels[rows]))


@pytest.fixture(scope="module")
def by_hand(config: Config, digits: ImageSet) -> dict[str, Any]:
    """All networks at all comparisons, and the steps that are best on held-out images."""
    oracle = ByHand(config, digits)
    folds = [oracle.train(fold) for fold in range(FOLDS)]
    losses = [np.mean([oracle.held_out_nll(f, kept[i]) for f, kept in enumerate(folds)]) for i in range(len(folds[0]))]
    best = {"": int(np.argmin(losses[:2])), "-equal-epochs": int(np.argmin(losses))}
    return {"networks": [oracle.train(None), *folds], "best": best, "losses": losses}


@pytest.mark.parametrize("suffix", ["", "-equal-epochs"])
def test_networks_are_those_of_the_same_training_by_hand(
    suffix: str, run_folder: Path, by_hand: dict[str, Any], config: Config
) -> None:
    refit, folds, norm, norms = (
        load_file(run_folder / f"{name}{suffix}.safetensors")
        for name in ("head", "heads-folds", "batchnorm", "batchnorm-folds")
    )
    imported = backbones.load(config.backbone)
    for place, networks in enumerate(by_hand["networks"]):
        network = networks[by_hand["best"][suffix]]
        found_head = refit if place == 0 else {key: tensor[place - 1] for key, tensor in folds.items()}
        found_norm = norm if place == 0 else {key: tensor[place - 1] for key, tensor in norms.items()}
        for key, tensor in network[1].state_dict().items():
            torch.testing.assert_close(found_head[key], tensor, rtol=0, atol=2e-3)
        expected = {key: tensor for key, tensor in network[0].state_dict().items() if is_norm(key, imported)}
        assert found_norm.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found_norm[key], tensor, rtol=5e-3, atol=5e-3)


def test_snapshots_are_chosen_on_held_out_images(run_folder: Path, by_hand: dict[str, Any]) -> None:
    head = load_run(run_folder).result["head"]
    steps = [5, 10, 15, 18]
    assert head["equal_steps"]["best_step"] == steps[by_hand["best"][""]]
    assert head["equal_epochs"]["best_step"] == steps[by_hand["best"]["-equal-epochs"]]
    assert head["equal_epochs"]["validation_nll"] == pytest.approx(min(by_hand["losses"]), rel=5e-3)
    assert (head["equal_steps"]["steps"], head["equal_epochs"]["steps"]) == (10, 18)
    assert (head["solver"], head["heads"]) == ("AdamW", FOLDS)


# What learns from what


@pytest.fixture
def latest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last snapshot is always the best."""
    losses: Iterator[int] = iter(range(0, -1000, -1))
    monkeypatch.setattr(tuning, "_evaluate", lambda *_, **__: (float(next(losses)), 0.0))


class NoisyFold:
    """Pixels of a set, but noise in place of some images."""

    def __init__(self, inner: ImageSet, noisy: np.ndarray) -> None:
        self.inner, self.noisy = inner, noisy

    def read(self, positions: np.ndarray) -> np.ndarray:
        pixels = self.inner.read_pixels(positions)
        for place in np.flatnonzero(np.isin(positions, self.noisy)):
            pixels[place] = np.random.default_rng(place).integers(0, 256, pixels[place].shape, np.uint8)
        return pixels


@pytest.mark.usefixtures("latest")
def test_no_network_sees_the_images_of_its_own_fold(config: Config, digits: ImageSet, tmp_path: Path) -> None:
    fold = images.folds(digits, FOLDS)
    noisy = replace(digits, pixels=NoisyFold(digits, digits.train[fold == 1]))
    found = []
    for number, loaded in enumerate((digits, noisy)):
        found.append(
            tuning.fit(
                replace(config.minibatch, epochs=1),
                backbones.load(config.backbone),
                loaded,
                config.train_views,
                fold,
                batch_size=16,
                checkpoint=tmp_path / f"{number}.ckpt",
            ).folds
        )
    honest, poisoned = found
    for head in range(FOLDS):
        assert np.array_equal(honest.weights[head], poisoned.weights[head]) == (head == 1)
        assert (bits(honest.state(head)) == bits(poisoned.state(head))) == (head == 1)


def test_the_networks_differ(run_folder: Path) -> None:
    norms = load_file(run_folder / "batchnorm-folds.safetensors")
    refit = load_file(run_folder / "batchnorm.safetensors")
    for key in (key for key in norms if not key.endswith("num_batches_tracked")):
        networks = torch.cat([refit[key][None], norms[key]])
        assert len(torch.unique(networks, dim=0)) == FOLDS + 1, key


def test_convolutions_stay_bit_for_bit(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Networks] = []

    class Kept(Networks):
        def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments, **named)
            made.append(self)

    monkeypatch.setattr(tuning, "Networks", Kept)
    other = replace(config, runs=tmp_path, minibatch=replace(config.minibatch, epochs=1))
    ready = preparation.prepare(other)
    before = bits(ready.backbone.network.state_dict())
    training.train(other, ready)
    assert bits(ready.backbone.network.state_dict()) == before
    assert len(made[0].backbones) == FOLDS + 1
    for tuned in made[0].backbones:
        assert isinstance(tuned, TunedBackbone)
        after = bits(tuned.network.cpu().state_dict())
        assert {key for key in before if before[key] != after[key]} == {key for key in before if is_norm(key, tuned)}


def test_test_images_change_no_network(run_folder: Path, config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path)
    ready = preparation.prepare(other)
    loaded = replace(ready.images, pixels=NoisyFold(ready.images, ready.images.test))
    folder = training.train(other, replace(ready, images=loaded))
    assert {name: (folder / name).read_bytes() for name in FILES} == {
        name: (run_folder / name).read_bytes() for name in FILES
    }
    assert (folder / "predictions.parquet").read_bytes() != (run_folder / "predictions.parquet").read_bytes()


def test_given_validation_split_has_one_network(config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path, minibatch=replace(config.minibatch, epochs=1))
    ready = preparation.prepare(other)
    loaded = ready.images
    split = replace(loaded, train=loaded.train[:50], validation=loaded.train[50:])
    folder = training.train(other, replace(ready, images=split))
    norms, norm = (load_file(folder / f"{name}.safetensors") for name in ("batchnorm-folds", "batchnorm"))
    assert bits({key: tensor[0] for key, tensor in norms.items()}) == bits(norm)
    assert all(len(tensor) == 1 for tensor in norms.values())
    assert load_run(folder).result["head"]["heads"] == 1


def test_training_that_diverges_is_told(
    config: Config, digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Networks.training_step

    def diverging(self: Networks, batch: Any, index: int) -> None:  # noqa: ANN401
        step(self, batch, index)
        for parameter in self.backbones.parameters():
            if parameter.requires_grad:
                parameter.data.fill_(float("inf"))

    monkeypatch.setattr(Networks, "training_step", diverging)
    with pytest.raises(ConfigError) as caught:
        tuning.fit(
            replace(config.minibatch, epochs=1),
            backbones.load(config.backbone),
            digits,
            (CLEAN,),
            images.folds(digits, FOLDS),
            batch_size=16,
            checkpoint=tmp_path / "a.ckpt",
        )
    expected = "minibatch.learning_rate must be smaller, got 0.01: no loss on held-out images was finite"
    assert str(caught.value) == expected


# The run


def test_predictions_of_each_head_come_from_its_own_network(run_folder: Path, config: Config, digits: ImageSet) -> None:
    view = config.test_views[1]
    seen = torch.from_numpy(blur_pixels(digits.read_pixels(digits.test), view))
    for suffix, equal_epochs in (("", False), ("-equal-epochs", True)):
        stored = read_predictions(run_folder / "predictions.parquet", view, equal_epochs=equal_epochs)
        heads, norms = (load_file(run_folder / f"{n}{suffix}.safetensors") for n in ("heads-folds", "batchnorm-folds"))
        for fold in range(FOLDS):
            state = {key: tensor[fold] for key, tensor in norms.items()}
            network = batchnorm.applied(backbones.load(config.backbone), state)
            with torch.no_grad():
                logits = network(seen) @ heads["weight"][fold].T + heads["bias"][fold]
            np.testing.assert_allclose(logits.softmax(1).amax(1).numpy(), stored.confidence[fold], atol=1e-4)


def test_classifier_of_a_run_predicts_what_the_run_stored(run_folder: Path, config: Config, digits: ImageSet) -> None:
    classifier, view = BlurClassifier.from_run(run_folder).eval(), config.test_views[-1]
    with torch.no_grad():
        seen = torch.from_numpy(blur_pixels(digits.read_pixels(digits.test), view))
        probabilities = classifier(seen).softmax(1).numpy()
    stored = read_predictions(run_folder / "predictions.parquet", view)
    np.testing.assert_allclose(probabilities.max(1), stored.confidence[-1], atol=1e-4)
    backbone = load_run(run_folder).result["backbone"]
    assert classifier.backbone.fingerprint() == backbone["adapted"] != backbone["fingerprint"]


def test_run_says_what_was_trained(run_folder: Path, capsys: pytest.CaptureFixture[str], config: Config) -> None:
    result = load_run(run_folder).result
    shapes = result["trainable"]["names"]
    assert result["arm"] == "augmented-head+bn"
    assert len(shapes) == 2 + 2 * 12
    assert shapes["backbone.bn.weight"] == [24]
    assert result["trainable"]["parameters"] == sum(int(np.prod(shape)) for shape in shapes.values())
    assert set(FILES) <= result["files"].keys()
    training._say_what_is_trained(config, preparation.prepare(config))
    assert "trains head.weight, head.bias and batch norms, 4,090 of 692,482" in capsys.readouterr().err


@pytest.mark.parametrize("after", [5, 12])
def test_interrupted_training_goes_on_to_the_same_bytes(
    after: int, run_folder: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(config, runs=tmp_path)
    step, steps = Networks.training_step, 0

    def interrupted(self: Networks, batch: Any, index: int) -> None:  # noqa: ANN401
        nonlocal steps
        steps += 1
        if steps == after:
            raise KeyboardInterrupt
        step(self, batch, index)

    monkeypatch.setattr(Networks, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train(other, preparation.prepare(other))
    checkpoints = list(other.run_folder.glob(".checkpoint-*"))
    assert len(checkpoints) == (after > 9)
    for path in checkpoints:
        kept = torch.load(path, weights_only=True)["state_dict"]
        assert "backbones.1.network.blocks.0.bn1.running_var" in kept
        assert not [key for key in kept if "conv" in key or "stem" in key]
    folder = training.train(other, preparation.prepare(other))
    assert steps == after + 18 - 9 * (after > 9)
    for name in (*FILES, "predictions.parquet"):
        assert (folder / name).read_bytes() == (run_folder / name).read_bytes(), name


# Comparison and forecast


def test_comparison_is_with_heads_alone_at_equal_steps(config: Config, run_folder: Path) -> None:
    folder = experiment.compare(config)
    assert folder.name == "compare-small-augmented-head+bn"
    result = experiment.read_comparison(folder)
    assert list(result["arms"]) == ["baseline", "augmented-head+bn"]
    assert result["equal_epochs"]["steps"] == {"baseline": 10, "augmented-head+bn": 18}
    augmented = experiment.train(replace(config, tune="head"))
    together = comparison.compare_runs([run_folder, augmented, config.baseline().run_folder])
    assert list(together["arms"]) == ["baseline", "augmented", "augmented-head+bn"]


def test_convex_heads_are_not_compared_with_it(config: Config, run_folder: Path, tmp_path: Path) -> None:
    stored = replace(config.baseline(), cache=tmp_path / "cache", runs=tmp_path, engine="torch")
    folder = training.train(stored, preparation.prepare(stored))
    with pytest.raises(RunError, match=r"were trained in different ways, one of them with cache: false: compare runs"):
        comparison.compare_runs([folder, run_folder])


def test_forecast_counts_the_passes(config: Config, run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "DECODING", 0.01)
    monkeypatch.setattr(forecast, "RUNNING", 0.01)
    work = json.loads((run_folder / "work.json").read_text())
    assert forecast.forecast([config]).forward_passes == work["forward_passes"]["computed"]


# What is refused


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cache": Path("cache")}, "cache must be false where tune is head+bn, whose features change with every step"),
        ({"bn": "adapt"}, "bn must be frozen where tune is head+bn, which trains the statistics, too, got 'adapt'"),
        ({"batch_size": 1}, "batch_size must be from 2 to 4096 where statistics are taken of batches, got 1"),
    ],
)
def test_what_does_not_go_together_is_refused(config: Config, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(config, **change)
    assert str(caught.value).startswith(sentence)


def test_a_network_without_batch_norms_is_refused(config: Config) -> None:
    with pytest.raises(BackboneError) as caught:
        preparation.prepare(replace(config, backbone=BackboneConfig(name="squeezenet1_1", weights="none")))
    assert str(caught.value) == "squeezenet1_1 has no batch norms that tune head+bn could change: give tune head"
