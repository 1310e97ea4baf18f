"""`bn: adapt`: statistics of batch norms beside torch's own re-estimation, and all that must not change with them."""

import copy
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Int64, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from blurtrain import (
    adaptation,
    backbones,
    batchnorm,
    comparison,
    engines,
    experiment,
    forecast,
    images,
    preparation,
    training,
)
from blurtrain.arms import open_arms
from blurtrain.backbones import FrozenBackbone
from blurtrain.blur import blur_pixels
from blurtrain.classifier import BlurClassifier
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.engines import TorchEngine
from blurtrain.errors import BackboneError, StoreError
from blurtrain.glyphnet import GlyphNet
from blurtrain.images import ImageSet
from blurtrain.runs import load_run
from blurtrain.sweep import read_predictions
from blurtrain.views import CLEAN, Blur
from tests.conftest import SIDE

pytestmark = pytest.mark.usefixtures("quiet")
VIEWS = (CLEAN, Blur("gaussian", 0.5), Blur("gaussian", 1.0))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small augmented arm that adapts the embedded network."""
    folder = tmp_path_factory.mktemp("adapted")
    return Config(
        name="small",
        data=DataConfig(glyphs=GlyphsConfig(train=70, test=30)),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(folds=3, l2=(0.1, 1.0)),
        batch_size=16,
        bn="adapt",
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture(scope="module")
def run_folder(config: Config) -> Path:
    return training.train(config, preparation.prepare(config))


@pytest.fixture(scope="module")
def backbone() -> FrozenBackbone:
    return backbones.load(BackboneConfig())


@pytest.fixture(scope="module")
def digits(config: Config, backbone: FrozenBackbone) -> ImageSet:
    return images.load(config.data, backbone.preprocessing.geometry, False)


def bits(state: dict[str, Tensor]) -> dict[str, bytes]:
    return {key: tensor.numpy().tobytes() for key, tensor in state.items()}


def is_statistic(key: str) -> bool:
    return key.endswith(("running_mean", "running_var", "num_batches_tracked"))


# Which images, and in which batches


@pytest.mark.parametrize("batch_size", [2, 7, 16, 64, 1000])
def test_every_training_image_is_seen_once_in_every_view(digits: ImageSet, batch_size: int) -> None:
    batches = adaptation.batches(digits, VIEWS, batch_size)
    pairs = [pair for positions, slots in batches for pair in zip(positions.tolist(), slots.tolist(), strict=True)]
    assert sorted(pairs) == sorted((position, slot) for position in digits.train.tolist() for slot in range(3))
    sizes = [len(positions) for positions, _ in batches]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= min(batch_size, len(pairs))


def test_a_batch_holds_different_images_in_all_views_evenly(digits: ImageSet) -> None:
    for positions, slots in adaptation.batches(digits, VIEWS, 16)[:-1]:
        assert len(positions) - len(np.unique(positions)) <= 1  # of two rounds
        counts = np.bincount(slots, minlength=3)
        assert counts.max() - counts.min() <= 2


def permuted(loaded: ImageSet, seed: int = 0) -> ImageSet:
    """The same images under other names and places."""
    order = np.random.default_rng(seed).permutation(len(loaded.ids))
    place = np.argsort(order)
    return replace(
        loaded,
        ids=loaded.ids[order],
        labels=loaded.labels[order],
        groups=loaded.groups[order],
        train=np.sort(place[loaded.train]),
        test=np.sort(place[loaded.test]),
        pixels=Elsewhere(loaded, order),
    )


class Elsewhere:
    """Pixels of images that lie at other places."""

    def __init__(self, inner: ImageSet, order: Int64[np.ndarray, " images"]) -> None:
        self.inner, self.order = inner, order

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        return self.inner.read_pixels(self.order[positions])


def test_the_order_follows_from_the_content(digits: ImageSet, backbone: FrozenBackbone) -> None:
    other = permuted(digits)
    here, there = adaptation.batches(digits, VIEWS, 16), adaptation.batches(other, VIEWS, 16)
    for (positions, slots), (others, other_slots) in zip(here, there, strict=True):
        assert digits.ids[positions].tolist() == other.ids[others].tolist()
        assert slots.tolist() == other_slots.tolist()
    assert bits(adaptation.estimate(backbone, digits, VIEWS, 16)) == bits(
        adaptation.estimate(backbone, other, VIEWS, 16)
    )


class Poisoned:
    """Pixels of the training images alone: whoever reads others gets noise, and is noted."""

    def __init__(self, inner: ImageSet) -> None:
        self.inner = inner

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        pixels = self.inner.read_pixels(positions)
        for place in np.flatnonzero(~np.isin(positions, self.inner.train)):
            pixels[place] = np.random.default_rng(place).integers(0, 256, pixels[place].shape, np.uint8)
        return pixels


def test_poisoned_test_images_change_no_statistic(digits: ImageSet, backbone: FrozenBackbone) -> None:
    poisoned = replace(digits, pixels=Poisoned(digits))
    assert not np.array_equal(poisoned.read_pixels(digits.test[:2]), digits.read_pixels(digits.test[:2]))
    found, expected = (bits(adaptation.estimate(backbone, loaded, VIEWS, 16)) for loaded in (poisoned, digits))
    assert found == expected


# Oracle: torch's own re-estimation on the same batches


def seen(digits: ImageSet, views: tuple[Blur, ...], batch_size: int) -> list[Tensor]:
    """The same batches, image by image."""
    return [
        torch.from_numpy(
            np.concatenate(
                [
                    blur_pixels(digits.read_pixels(positions[i : i + 1]), views[int(slot)])
                    for i, slot in enumerate(slots)
                ]
            )
        )
        for positions, slots in adaptation.batches(digits, views, batch_size)
    ]


@pytest.mark.parametrize("name", ["glyphnet", "resnet18"])
def test_statistics_are_those_of_update_bn(name: str, digits: ImageSet, weights_file: Callable[[str], Path]) -> None:
    weights = "embedded" if name == "glyphnet" else str(weights_file(name))
    backbone = backbones.load(BackboneConfig(name=name, weights=weights, resize=SIDE, crop=SIDE))
    state = adaptation.estimate(backbone, digits, VIEWS, 16)
    network = copy.deepcopy(backbone.network)
    update_bn([(images - backbone.mean) / backbone.std for images in seen(digits, VIEWS, 16)], network)
    expected = network.state_dict()
    assert state.keys() == {key for key in expected if is_statistic(key)}
    for key, tensor in state.items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-3, atol=1e-4)
        assert key.endswith("num_batches_tracked") or not torch.equal(tensor, backbone.network.state_dict()[key])


def test_statistics_of_the_first_batch_norm_by_hand(digits: ImageSet, backbone: FrozenBackbone) -> None:
    network = backbone.network
    assert isinstance(network, GlyphNet)
    with torch.no_grad():
        maps = [network.stem((images - 0.5) / 0.5).double() for images in seen(digits, VIEWS, 16)]
    mean = torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0)
    variance = torch.stack([m.transpose(0, 1).flatten(1).var(1) for m in maps]).mean(0)
    state = adaptation.estimate(backbone, digits, VIEWS, 16)
    torch.testing.assert_close(state["bn.running_mean"].double(), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(state["bn.running_var"].double(), variance, rtol=1e-5, atol=1e-6)


def test_nothing_but_statistics_changes(digits: ImageSet, backbone: FrozenBackbone) -> None:
    before = {key: tensor.clone() for key, tensor in backbone.network.state_dict().items()}
    adapted, passes = adaptation.adapted(backbone, digits, VIEWS, 16, False)
    assert passes == 3 * 70
    after = adapted.network.state_dict()
    assert bits(backbone.network.state_dict()) == bits(before)  # the imported one stays
    assert {key for key in before if bits({key: before[key]}) != bits({key: after[key]})} == {
        key for key in before if is_statistic(key)
    }
    assert not any(module.training for module in adapted.network.modules())
    assert not any(parameter.requires_grad for parameter in adapted.parameters())
    norms = batchnorm.layers(adapted).values()
    assert {layer.momentum for layer in norms} == {layer.momentum for layer in batchnorm.layers(backbone).values()}
    assert adapted.fingerprint() != backbone.fingerprint()


def test_statistics_that_are_not_finite_are_refused(digits: ImageSet, backbone: FrozenBackbone) -> None:
    broken = copy.deepcopy(backbone)
    assert isinstance(broken.network, GlyphNet)
    broken.network.stem.weight.data.fill_(1e38)
    with pytest.raises(BackboneError, match=r"^the batch norms see values that are not finite: check weights and"):
        adaptation.estimate(broken, digits, (CLEAN,), 16)


# The run


def test_a_run_keeps_its_statistics(run_folder: Path, config: Config, digits: ImageSet) -> None:
    run, backbone = load_run(run_folder), backbones.load(config.backbone)
    state = load_file(run.file("batchnorm.safetensors"))
    assert bits(state) == bits(adaptation.estimate(backbone, digits, config.train_views, config.batch_size))
    assert run.result["backbone"]["fingerprint"] == run.result["inputs"]["backbone"] == backbone.fingerprint()
    assert run.result["backbone"]["adapted"] == batchnorm.applied(backbone, state).fingerprint()
    assert run.result["arm"] == "augmented-bn-adapt"
    work = json.loads((run_folder / "work.json").read_text())
    assert work == {"forward_passes": {"reused": 0, "computed": 70 * 3 + 30 * 3}, "adapting": 70 * 3}


def test_stored_features_are_those_of_the_adapted_network(run_folder: Path, config: Config, digits: ImageSet) -> None:
    state = load_file(run_folder / "batchnorm.safetensors")
    adapted = batchnorm.applied(backbones.load(config.backbone), state)
    ready = preparation.adapted(config, preparation.prepare(config))
    assert ready.store is not None
    stored = ready.store.read(VIEWS[1], digits, digits.train[:8])
    with torch.no_grad():
        expected = adapted(torch.from_numpy(blur_pixels(digits.read_pixels(digits.train[:8]), VIEWS[1]))).numpy()
    np.testing.assert_allclose(stored, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_classifier_of_a_run_predicts_what_the_run_stored(run_folder: Path, config: Config, digits: ImageSet) -> None:
    classifier, view = BlurClassifier.from_run(run_folder).eval(), config.test_views[-1]
    with torch.no_grad():
        images_ = torch.from_numpy(blur_pixels(digits.read_pixels(digits.test), view))
        probabilities = classifier(images_).softmax(1).numpy()
    stored = read_predictions(run_folder / "predictions.parquet", view)
    np.testing.assert_allclose(probabilities.max(1), stored.confidence[-1], atol=1e-4)


def interrupt(*_: object, **__: object) -> Any:  # noqa: ANN401 - stands for anything
    raise KeyboardInterrupt


def results(folder: Path) -> dict[str, bytes]:
    """What a run found, byte for byte."""
    names = ("batchnorm.safetensors", "head.safetensors", "heads-folds.safetensors", "predictions.parquet")
    return {name: (folder / name).read_bytes() for name in names}


def test_a_further_run_passes_no_image_again(
    run_folder: Path,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(adaptation, "estimate", interrupt)
    other = replace(config, runs=tmp_path)
    folder = training.train(other, preparation.prepare(other))
    assert results(folder) == results(run_folder)
    assert json.loads((folder / "work.json").read_text())["adapting"] == 0
    assert re.search(r"^adapting batch norms +all \d+ views reused$", capsys.readouterr().err, re.MULTILINE)


def test_an_interrupted_run_goes_on_to_the_same_bytes(
    run_folder: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = replace(config, runs=tmp_path / "runs", cache=tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(training, "_fit_features", interrupt)
        with pytest.raises(KeyboardInterrupt):
            training.train(other, preparation.prepare(other))
    monkeypatch.setattr(adaptation, "estimate", interrupt)
    assert results(training.train(other, preparation.prepare(other))) == results(run_folder)


def test_damaged_statistics_are_not_used(run_folder: Path, config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path / "runs", cache=tmp_path / "cache")
    training.train(other, preparation.prepare(other))
    (path,) = (tmp_path / "cache" / "statistics").rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1  # of a statistic
    path.write_bytes(content)
    again = replace(other, name="again")
    with pytest.raises(StoreError, match=r"was damaged and has been removed: run the same command again"):
        training.train(again, preparation.prepare(again))
    assert results(training.train(again, preparation.prepare(again))) == results(run_folder)


@pytest.mark.parametrize(
    "change",
    [
        {"copies": (BlurGrid("gaussian", (0.5,)),)},
        {"batch_size": 17},
        {"data": DataConfig(glyphs=GlyphsConfig(train=71, test=30))},
        {"backbone": BackboneConfig(mean=(0.4, 0.5, 0.5))},
    ],
    ids=["views", "batch size", "images", "backbone"],
)
def test_statistics_of_anything_else_are_others(run_folder: Path, config: Config, change: dict[str, Any]) -> None:
    assert run_folder.exists()
    for arm, is_known in ((config, True), (replace(config, **change), False)):
        network = backbones.load(arm.backbone)
        loaded = images.load(arm.data, network.preprocessing.geometry, False)
        assert arm.cache is not False
        found = adaptation.found(network, loaded, arm.train_views, arm.batch_size, arm.cache)
        assert (found is not None) == is_known


def test_heads_on_images_are_trained_on_the_adapted_network(config: Config, tmp_path: Path) -> None:
    fresh = replace(config, runs=tmp_path, cache=False, minibatch=MinibatchConfig(epochs=1, learning_rate=0.01))
    ready = preparation.prepare(fresh)
    folder = training.train(fresh, ready)
    classifier, view = BlurClassifier.from_run(folder).eval(), config.test_views[-1]
    with torch.no_grad():
        images_ = torch.from_numpy(blur_pixels(ready.images.read_pixels(ready.images.test), view))
        probabilities = classifier(images_).softmax(1).numpy()
    stored = read_predictions(folder / "predictions.parquet", view)
    np.testing.assert_allclose(probabilities.max(1), stored.confidence[-1], atol=1e-4)
    assert json.loads((folder / "work.json").read_text())["adapting"] == 70 * 3


# Comparison and forecast


def test_an_adapted_arm_is_compared_with_the_plain_baseline(config: Config, tmp_path: Path) -> None:
    other = replace(config, runs=tmp_path)
    folder = experiment.compare(other)
    result = experiment.read_comparison(folder)
    assert folder.name == "compare-small-augmented-bn-adapt"
    assert list(result["arms"]) == ["baseline", "augmented-bn-adapt"]
    for bare in (replace(other, copies=()), replace(other, bn="frozen")):
        experiment.train(bare)
    names = ("augmented-bn-adapt", "augmented", "baseline-bn-adapt", "baseline")
    together = comparison.compare_runs([tmp_path / f"small-{name}" for name in names])
    assert together["reference"] == "baseline"
    assert list(together["arms"]) == ["baseline", "baseline-bn-adapt", "augmented", "augmented-bn-adapt"]
    without = open_arms([tmp_path / "small-augmented", tmp_path / "small-baseline-bn-adapt"])
    assert without.reference == "baseline-bn-adapt"


@pytest.mark.parametrize("stored", [True, False])
def test_forecast_counts_the_passes(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    monkeypatch.setattr(forecast, "DECODING", 0.01)
    monkeypatch.setattr(forecast, "RUNNING", 0.01)
    other = replace(config, runs=tmp_path / "runs", cache=tmp_path / "cache" if stored else False)
    other = replace(other, minibatch=MinibatchConfig(epochs=1))
    arms = [other.baseline(), other]
    found = forecast.forecast(arms)
    experiment.compare(other)
    works = [json.loads((arm.run_folder / "work.json").read_text()) for arm in arms]
    assert found.forward_passes == sum(work["forward_passes"]["computed"] + work["adapting"] for work in works)
    assert found.reused == sum(work["forward_passes"]["reused"] for work in works)
    if stored:
        size = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
        files = sum(1 for _ in (tmp_path / "cache").rglob("*.safetensors"))
        assert found.stored <= size <= found.stored + 6000 * files
        again = forecast.forecast([replace(arm, name="again") for arm in arms])
        assert (again.forward_passes, again.reused) == (0, 70 + 3 * 30 + 70 * 3 + 3 * 30)


# What is refused


@pytest.fixture
def no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "load", interrupt)


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("name", ["squeezenet1_1", "vgg11", "convnext_tiny"])
def test_a_network_without_batch_norms_is_refused_before_images_are_read(name: str, config: Config) -> None:
    other = replace(config, backbone=BackboneConfig(name=name, weights="none"))
    with pytest.raises(BackboneError) as caught:
        preparation.prepare(other)
    assert str(caught.value) == f"{name} has no batch norms that bn adapt could change: give bn frozen"


@pytest.mark.usefixtures("no_images")
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_folded_batch_norms_are_refused(config: Config, tmp_path: Path, shift: float) -> None:
    network = GlyphNet()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None
            module.running_var -= shift * module.eps  # so that the square root of variance + eps is exactly 1
            nn.init.normal_(module.bias)  # where the folded bias is
    path = tmp_path / "folded.safetensors"
    save_file(network.state_dict(), path)
    other = replace(config, backbone=BackboneConfig(weights=str(path)))
    with pytest.raises(BackboneError) as caught:
        preparation.prepare(other)
    assert str(caught.value) == (
        f"12 of 12 batch norms of {path} have weight 1, mean 0 and variance 1: they were folded into the convolutions, "
        "and bn adapt would undo that, so give bn frozen or weights that are not folded"
    )
    assert isinstance(batchnorm.imported(replace(other, bn="frozen")), FrozenBackbone)


def test_random_weights_are_not_folded(config: Config) -> None:
    assert batchnorm.imported(replace(config, backbone=BackboneConfig(weights="none")))


def test_an_engine_runs_the_adapted_network(config: Config, digits: ImageSet, tmp_path: Path) -> None:
    backbone = backbones.load(config.backbone)
    pixels = digits.read_pixels(digits.train[:8])
    plain = engines.build(backbone, "onnxruntime", tmp_path, pixels)
    adapted, _ = adaptation.adapted(backbone, digits, VIEWS, 16, False)
    fast = engines.build(adapted, "onnxruntime", tmp_path, pixels)
    assert engines.export_path(adapted, tmp_path, 64) != engines.export_path(backbone, tmp_path, 64)
    expected = TorchEngine(adapted)(pixels, CLEAN)
    np.testing.assert_allclose(fast(pixels, CLEAN), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    assert np.abs(plain(pixels, CLEAN) - expected).max() > 0.01 * np.abs(expected).max()
