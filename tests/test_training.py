"""One arm: the hashes of what it is made from, and the rows that its heads are fitted and validated on."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blurtrain import backbones, fitting, preparation, training
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.experiment import train
from blurtrain.fitting import Fit
from blurtrain.preparation import Prepared, inputs_of
from blurtrain.sweep import read_predictions
from blurtrain.views import Blur

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A small augmented arm."""
    folder = tmp_path_factory.mktemp("training")
    return Config(
        name="small",
        data=DataConfig(glyphs=GlyphsConfig(train=120, test=40)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 3.0)),),
        head=HeadConfig(l2=(0.1, 1.0), folds=3),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture(scope="module")
def ready(config: Config) -> Prepared:
    return preparation.prepare(config)


# Inputs


def differing(one: dict[str, str], two: dict[str, str]) -> set[str]:
    assert one.keys() == two.keys()
    return {name for name in one if one[name] != two[name]}


def test_both_arms_have_the_same_inputs(config: Config, ready: Prepared) -> None:
    assert inputs_of(config.baseline(), ready) == inputs_of(config, ready)


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", ["labels", "ids"])
def test_another_image_or_label_shows(config: Config, ready: Prepared, what: str, split: str) -> None:
    values, position = getattr(ready.images, what).copy(), getattr(ready.images, split)[5]
    values[position] = (values[position] + 1) % 10 if what == "labels" else b"f" * 32
    other = replace(ready, images=replace(ready.images, **{what: values}))
    name = {"train": "training", "test": "test"}[split]
    assert differing(inputs_of(config, ready), inputs_of(config, other)) == {name}


def test_other_folds_show(config: Config, ready: Prepared) -> None:
    other = replace(config, head=replace(config.head, folds=2))
    assert differing(inputs_of(config, ready), inputs_of(other, ready)) == {"training"}


def test_a_validation_split_shows(config: Config, ready: Prepared) -> None:
    train = ready.images.train
    split = replace(ready, images=replace(ready.images, train=train[:80], validation=train[80:]))
    assert differing(inputs_of(config, ready), inputs_of(config, split)) == {"training"}
    other = replace(ready, images=replace(ready.images, train=train[:81], validation=train[81:]))
    assert differing(inputs_of(config, split), inputs_of(config, other)) == {"training"}


def test_another_backbone_geometry_or_engine_shows(config: Config, ready: Prepared) -> None:
    class Other:
        name, parallel, batch = "other", 1, 8

        def __call__(self, pixels: np.ndarray, view: Blur) -> np.ndarray:
            raise NotImplementedError

    for name, other in {
        "backbone": replace(ready, fingerprint="0" * 64),
        "geometry": replace(ready, backbone=backbones.load(replace(config.backbone, resize=80))),
        "engine": replace(ready, engine=Other()),
    }.items():
        assert differing(inputs_of(config, ready), inputs_of(config, other)) == {name}


def test_half_precision_changes_no_accuracy(tmp_path: Path) -> None:
    found = {}
    for precision in ("float32", "float16"):
        config = Config(
            name=precision,
            data=DataConfig(glyphs=GlyphsConfig(train=400, test=300)),
            head=HeadConfig(l2=(0.001, 0.01, 0.1)),
            sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0)),),
            precision=precision,
            runs=tmp_path / "runs",
            cache=tmp_path / "cache",
        )
        folder = training.train(config, preparation.prepare(config))
        found[precision] = [read_predictions(folder / "predictions.parquet", view) for view in config.test_views]
    for whole, half in zip(*found.values(), strict=True):
        assert np.mean(whole.predicted != half.predicted) < 0.003
        np.testing.assert_allclose(half.probability, whole.probability, atol=0.02)
        np.testing.assert_allclose(half.correct.mean(1), whole.correct.mean(1), atol=0.007)  # two of 300 images


def test_another_measured_kernel_shows(config: Config, ready: Prepared, tmp_path: Path) -> None:
    found = []
    for name, middle in (("a", 2.0), ("b", 3.0)):
        np.save(tmp_path / f"{name}.npy", [[1.0, middle, 1.0]])
        grid = BlurGrid("psf", file=str(tmp_path / f"{name}.npy"))
        found.append(inputs_of(replace(config, sweep=(grid,)), ready))
    assert differing(*found) == {"psf"}


# Rows


def test_a_given_validation_split_is_validated_on_and_not_fitted(
    config: Config, ready: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Any] = []
    fit = fitting.fit

    def watched(*rows: Any, **options: Any) -> Fit:  # noqa: ANN401 - passed on
        given.extend(rows)
        return fit(*rows, **options)

    monkeypatch.setattr(fitting, "fit", watched)
    loaded, store = ready.images, ready.store
    assert store is not None
    split = replace(loaded, train=loaded.train[:80], validation=loaded.train[80:])
    training.train(replace(config, runs=tmp_path), replace(ready, images=split))
    features, labels, fitted, validated = given
    stored = [store.read(view, loaded, loaded.train) for view in config.train_views]
    np.testing.assert_array_equal(features.block(slice(None)), np.concatenate(stored))  # clean, then the copies
    np.testing.assert_array_equal(labels, np.tile(loaded.labels[loaded.train], 2))
    assert fitted.tolist() == [[*[True] * 80, *[False] * 40] * 2]
    assert validated.tolist() == [[*[False] * 80, *[True] * 40] * 2]


@pytest.mark.usefixtures("quiet")
def test_few_classes_are_named_with_their_training_images(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted((photo_folder / "train" / "red").iterdir())[:3]:
        path.unlink()
    train(
        Config(
            name="few",
            data=DataConfig(root=str(photo_folder)),
            head=HeadConfig(l2=(0.1,), folds=2),
            runs=tmp_path / "runs",
            cache=tmp_path / "cache",
        )
    )
    told = " ".join(capsys.readouterr().err.split())
    assert (
        "few-augmented: 21 training images of 3 classes, blue (8), green (8), red (5), and 15 test images; gaussian 0.5"
        in told
    )
