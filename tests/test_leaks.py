"""Nothing of the test split reaches a fit: poisoned labels or pixels and other test blurs change no bit of it."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blurtrain import features, fitting, images, sources, training
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.sources import GlyphSource
from blurtrain.views import CLEAN, Blur

COPY = Blur("gaussian", 1.0)


def config_in(folder: Path) -> Config:
    """A small augmented arm; one blur of the sweep is also a copy."""
    return Config(
        name="leak",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(l2=(0.01, 0.1, 1.0), folds=3),
        runs=folder / "runs",
        cache=folder / "cache",
    )


def trained(config: Config) -> Config:
    training.train(config, training.prepare(config))
    return config


def fitted_numbers(config: Config) -> dict[str, bytes]:
    """Everything that a fit decides, byte for byte."""
    result = json.loads((config.run_folder / "run.json").read_text())
    return {
        "heads": (config.run_folder / "heads-folds.safetensors").read_bytes(),
        "refit": (config.run_folder / "head.safetensors").read_bytes(),
        "choice": json.dumps(result["head"]).encode(),
    }


def accuracies(config: Config) -> list[float]:
    return [row["accuracy"] for row in json.loads((config.run_folder / "sweep.json").read_text())]


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The run that every poisoned one is compared with."""
    return trained(config_in(tmp_path_factory.mktemp("honest")))


class PoisonedLabels(GlyphSource):
    """Every test image is called by the next digit's name."""

    def __init__(self, train: int, test: int, seed: int) -> None:
        super().__init__(train, test, seed)
        self.items = [
            replace(item, label=(item.label + 1) % 10) if item.split == "test" else item for item in self.items
        ]


class PoisonedPixels(GlyphSource):
    """Every test image is noise."""

    def key(self, index: int) -> str:
        key = super().key(index)
        return f"{'noise' if self.items[index].split == 'test' else ''}{key}"

    def decode(self, index: int) -> Image.Image:
        if self.items[index].split != "test":
            return super().decode(index)
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("source", [PoisonedLabels, PoisonedPixels])
def test_a_poisoned_test_split_changes_no_fitted_number(
    honest: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: type[GlyphSource]
) -> None:
    monkeypatch.setattr(sources, "GlyphSource", source)
    poisoned = trained(config_in(tmp_path))
    assert fitted_numbers(poisoned) == fitted_numbers(honest)
    assert accuracies(honest)[0] > 0.5 > 0.3 > accuracies(poisoned)[0]  # the poison was taken


def test_other_test_blurs_change_no_fitted_number(honest: Config, tmp_path: Path) -> None:
    sweep = (BlurGrid("gaussian", (0.0, 2.0, 7.0), "zero"),)
    other = trained(replace(honest, sweep=sweep, runs=tmp_path))
    assert fitted_numbers(other) == fitted_numbers(honest)


def test_the_same_config_gives_the_same_bytes(honest: Config, tmp_path: Path) -> None:
    again = trained(config_in(tmp_path))  # with a cache of its own
    assert fitted_numbers(again) == fitted_numbers(honest)
    for name in ("predictions.parquet", "sweep.json", "sweep.csv"):
        assert (again.run_folder / name).read_bytes() == (honest.run_folder / name).read_bytes()


def test_poisoned_training_labels_do_change_the_fit(
    honest: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PoisonedTraining(GlyphSource):
        def __init__(self, train: int, test: int, seed: int) -> None:
            super().__init__(train, test, seed)
            self.items = [replace(item, label=(item.label + i % 2) % 10) for i, item in enumerate(self.items)]

    monkeypatch.setattr(sources, "GlyphSource", PoisonedTraining)
    poisoned = trained(config_in(tmp_path))
    numbers, expected = fitted_numbers(poisoned), fitted_numbers(honest)
    assert all(numbers[key] != expected[key] for key in expected)


class Watched:
    """What a run hands to the extraction and to the fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: images.ImageSet | None = None
        self.extracted: dict[Blur, np.ndarray] = {}
        self.read: list[tuple[Blur, np.ndarray]] = []
        self.fit: dict[str, Any] = {}
        self._wrap(monkeypatch, features, "extract", self._note_extraction)
        self._wrap(monkeypatch, features.FeatureStore, "read", self._note_reading)
        self._wrap(monkeypatch, fitting, "fit", self._note_fit)

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, note: Callable[..., None]) -> None:
        inner = getattr(owner, name)

        def outer(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - whatever is watched
            note(*arguments, **named)
            return inner(*arguments, **named)

        monkeypatch.setattr(owner, name, outer)

    def _note_extraction(self, loaded: images.ImageSet, wanted: Mapping[Blur, np.ndarray], *_: object) -> None:
        self.images, self.extracted = loaded, dict(wanted)

    def _note_reading(self, _store: object, view: Blur, _loaded: object, positions: np.ndarray) -> None:
        if not self.fit:
            self.read.append((view, positions))

    def _note_fit(self, rows: np.ndarray, labels: np.ndarray, train: np.ndarray, held: np.ndarray, **_: object) -> None:
        self.fit = {"rows": rows, "labels": labels, "training": train, "validation": held}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watched:
    """The augmented arm, watched."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        watched = Watched(monkeypatch)
        trained(config_in(tmp_path_factory.mktemp("watched")))
    return watched


def test_copies_are_made_of_training_images_only(watched: Watched) -> None:
    loaded = watched.images
    assert loaded is not None
    train, test = set(loaded.train.tolist()), set(loaded.test.tolist())
    assert not train & test
    got = {view: set(positions.tolist()) for view, positions in watched.extracted.items()}
    assert got == {
        CLEAN: train | test,
        Blur("gaussian", 0.5): train,  # a copy, not in the sweep
        COPY: train | test,  # both
        Blur("gaussian", 3.0): test,  # a view of the sweep, no copy
    }


def test_the_baseline_makes_no_copies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    watched = Watched(monkeypatch)
    trained(config_in(tmp_path).baseline())
    loaded = watched.images
    assert loaded is not None
    assert [view for view, positions in watched.extracted.items() if np.isin(loaded.train, positions).any()] == [CLEAN]
    assert len(watched.fit["rows"]) == len(loaded.train)


def test_only_training_images_are_read_before_the_fit(watched: Watched, honest: Config) -> None:
    loaded = watched.images
    assert loaded is not None
    assert [view for view, _ in watched.read] == list(honest.train_views)
    for _, positions in watched.read:
        np.testing.assert_array_equal(positions, loaded.train)


def test_a_copy_stays_with_its_original(watched: Watched) -> None:
    loaded = watched.images
    assert loaded is not None
    count = len(loaded.train)
    assert len(watched.fit["rows"]) == 3 * count
    np.testing.assert_array_equal(watched.fit["labels"].reshape(3, count), [loaded.labels[loaded.train]] * 3)
    for key in ("training", "validation"):
        views = watched.fit[key].reshape(3, 3, count)  # folds, views, images
        assert (views == views[:, :1]).all()
    assert (watched.fit["training"] ^ watched.fit["validation"]).all()
    np.testing.assert_array_equal(watched.fit["validation"].sum(0), 1)  # every image is held out once


def test_no_font_is_both_fitted_and_validated_on(watched: Watched) -> None:
    loaded = watched.images
    assert loaded is not None
    fonts = np.tile(loaded.groups[loaded.train], 3)
    for fitted, held in zip(watched.fit["training"], watched.fit["validation"], strict=True):
        assert not set(fonts[fitted]) & set(fonts[held])


def test_splits_share_no_content_and_no_font(tmp_path: Path) -> None:
    loaded = training.prepare(config_in(tmp_path)).images
    for values in (loaded.ids, loaded.groups):
        assert not set(values[loaded.train].tolist()) & set(values[loaded.test].tolist())
