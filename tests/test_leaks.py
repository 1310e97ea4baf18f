"""Nothing of the test split reaches a fit: poisoned labels or pixels and other test blurs change no bit of it."""

import functools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jaxtyping import Int64, UInt8
from PIL import Image
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from blurtrain import features, fitting, images, minibatch, opening, preparation, training
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.images import Pixels
from blurtrain.roster import TEST_IMAGES
from blurtrain.rows import Rows
from blurtrain.sources import GlyphSource
from blurtrain.views import CLEAN, Blur
from tests.conftest import fill_classes, photograph

pytestmark = pytest.mark.usefixtures("quiet")
COPY = Blur("gaussian", 1.0)
FITTED_TAGS = ("train/", "validation/", "_hparams_/session_start_info")  # in event files
TESTED_FILES = {"predictions.parquet", "sweep.csv", "sweep.json"}
BOTH_WAYS = pytest.mark.parametrize("stored", [True, False], ids=["stored", "fresh"])


def config_in(folder: Path, *, stored: bool = True, root: Path | None = None) -> Config:
    """A small augmented arm; one blur of the sweep is also a copy."""
    return Config(
        name="leak",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)) if root is None else DataConfig(root=str(root)),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        head=HeadConfig(l2=(0.01, 0.1, 1.0), folds=3),
        minibatch=MinibatchConfig(epochs=2, learning_rate=0.01),
        batch_size=16,
        runs=folder / "runs",
        cache=folder / "cache" if stored else False,
    )


def trained(config: Config) -> Config:
    training.train(config, preparation.prepare(config))
    return config


def run_json(config: Config) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((config.run_folder / "run.json").read_text())
    return result


def fitted_numbers(config: Config) -> dict[str, bytes]:
    """Everything that a fit decides, byte for byte."""
    (events,) = config.run_folder.glob("events.out.tfevents.*")
    values = [value for event in EventFileLoader(str(events)).Load() for value in event.summary.value]
    for value in values:
        if value.tag == metadata.SESSION_START_INFO_TAG:
            settings = HParamsPluginData.FromString(value.metadata.plugin_data.content)
            del settings.session_start_info.hparams["strongest blur"]  # what the sweep says, and no fit
            value.metadata.plugin_data.content = settings.SerializeToString(deterministic=True)
    curves = [value.SerializeToString(deterministic=True) for value in values if value.tag.startswith(FITTED_TAGS)]
    assert len(curves) > 3
    return {
        **{path.name: path.read_bytes() for path in config.run_folder.glob("*.safetensors")},
        "choice": json.dumps(run_json(config)["head"]).encode(),
        "curves and hyperparameters": b"".join(curves),
    }


def require_only_the_test_differs(poisoned: Config, honest: Config) -> None:
    """No fitted number differs, and of run.json only what names the test images and the files made of them."""
    assert fitted_numbers(poisoned) == fitted_numbers(honest)
    theirs, ours = run_json(poisoned), run_json(honest)
    assert {key for key in ours if theirs[key] != ours[key]} <= {"inputs", "files", "checksum"}
    assert {key for key in ours["inputs"] if theirs["inputs"][key] != ours["inputs"][key]} == {"test"}
    changed = {name for name in ours["files"] if theirs["files"][name] != ours["files"][name]}
    assert changed - {"config.yaml", TEST_IMAGES} == TESTED_FILES  # the folder of the runs is another


def accuracies(config: Config) -> list[float]:
    return [row["accuracy"] for row in json.loads((config.run_folder / "sweep.json").read_text())]


def image_folder(kind: str, folder: Path) -> Path | None:
    """Photographs with given splits, or to be split by content; none where the set is embedded."""
    if kind == "embedded":
        return None
    root = folder / "photos"
    if kind == "content":
        fill_classes(root, 12)
        return root
    for split, (count, first) in {"train": (8, 0), "val": (3, 50), "test": (5, 100)}.items():
        fill_classes(root / split, count, first)
    return root


HonestRun = Callable[[str, bool], Config]


@pytest.fixture(scope="module")
def honest_run(tmp_path_factory: pytest.TempPathFactory) -> HonestRun:
    """The runs that the poisoned ones are compared with, by kind of image set and whether features are stored."""

    @functools.cache
    def run(kind: str, stored: bool) -> Config:
        folder = tmp_path_factory.mktemp(kind)
        return trained(config_in(folder, stored=stored, root=image_folder(kind, folder)))

    return run


@pytest.fixture(scope="module")
def honest(honest_run: HonestRun) -> Config:
    """The stored run on the embedded set."""
    return honest_run("embedded", True)


# Poison


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

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        if self.items[index].split != "test":
            return super().decode(index, scale)
        return Image.fromarray(np.random.default_rng(index).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize("source", [PoisonedLabels, PoisonedPixels])
def test_a_poisoned_test_split_changes_no_fitted_number(
    honest: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: type[GlyphSource]
) -> None:
    monkeypatch.setattr(opening, "GlyphSource", source)
    poisoned = trained(config_in(tmp_path))
    require_only_the_test_differs(poisoned, honest)
    assert accuracies(honest)[0] > 0.5 > 0.3 > accuracies(poisoned)[0]  # the poison was taken


@dataclass(frozen=True)
class NoisyPixels:
    """The pixels of a set, but noise in place of the test images."""

    inner: Pixels
    test: Int64[np.ndarray, " test"]

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        pixels = self.inner.read(positions)
        for place in np.flatnonzero(np.isin(positions, self.test)):
            pixels[place] = np.random.default_rng(positions[place]).integers(0, 256, pixels[place].shape, np.uint8)
        return pixels


def poisoned_test(loaded: images.ImageSet) -> images.ImageSet:
    """Test images are noise under other names and other labels."""
    labels, ids = loaded.labels.copy(), loaded.ids.copy()
    labels[loaded.test] = (labels[loaded.test] + 1) % len(loaded.classes)
    ids[loaded.test] = [b"noise" + name[5:] for name in ids[loaded.test].tolist()]
    return replace(loaded, labels=labels, ids=ids, pixels=NoisyPixels(loaded.pixels, loaded.test))


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("embedded", False), ("given", True), ("given", False), ("content", True), ("content", False)],
)
def test_nor_does_it_wherever_the_split_comes_from_and_however_the_head_is_trained(
    honest_run: HonestRun, tmp_path: Path, kind: str, stored: bool
) -> None:
    honest = honest_run(kind, stored)
    poisoned = replace(honest, runs=tmp_path / "runs", cache=tmp_path / "cache" if stored else False)
    ready = preparation.prepare(poisoned)
    training.train(poisoned, replace(ready, images=poisoned_test(ready.images)))
    require_only_the_test_differs(poisoned, honest)
    theirs, ours = (pq.read_table(config.run_folder / "predictions.parquet") for config in (poisoned, honest))
    for column in ("image", "label", "confidence"):  # the poison was taken
        assert (theirs[column].to_numpy() != ours[column].to_numpy()).mean() > 0.9


@BOTH_WAYS
def test_nor_are_batch_norms_adapted_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    honest, poisoned = (
        replace(config_in(tmp_path / name, stored=stored), bn="adapt") for name in ("honest", "poisoned")
    )
    trained(honest)
    monkeypatch.setattr(opening, "GlyphSource", PoisonedPixels)
    trained(poisoned)
    assert "batchnorm.safetensors" in fitted_numbers(honest)
    require_only_the_test_differs(poisoned, honest)
    assert run_json(poisoned)["backbone"] == run_json(honest)["backbone"]


@BOTH_WAYS
def test_other_test_blurs_change_no_fitted_number(honest_run: HonestRun, tmp_path: Path, stored: bool) -> None:
    honest = honest_run("given", stored)
    sweep = (BlurGrid("gaussian", (0.0, 2.0, 7.0), "zero"), BlurGrid("box", (9.0,)))
    other = trained(replace(honest, sweep=sweep, runs=tmp_path))
    assert fitted_numbers(other) == fitted_numbers(honest)


@BOTH_WAYS
def test_poisoned_training_labels_do_change_the_fit(
    honest_run: HonestRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    class PoisonedTraining(GlyphSource):
        def __init__(self, train: int, test: int, seed: int) -> None:
            super().__init__(train, test, seed)
            self.items = [replace(item, label=(item.label + i % 2) % 10) for i, item in enumerate(self.items)]

    expected = fitted_numbers(honest_run("embedded", stored))  # before it would be poisoned, too
    monkeypatch.setattr(opening, "GlyphSource", PoisonedTraining)
    numbers = fitted_numbers(trained(config_in(tmp_path, stored=stored)))
    assert set(numbers) == set(expected)
    assert all(numbers[key] != expected[key] for key in expected)


# Other files in the folders


def one_test_image_more(root: Path) -> None:
    photograph(0, 999).save(root / "test" / "red" / "new.png")


def one_test_image_fewer(root: Path) -> None:
    (root / "test" / "green" / "100.png").unlink()


def other_names(root: Path) -> None:
    """The files of each folder in another order."""
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        path.rename(path.with_stem(f"{9 - int(path.stem) % 10} was {path.stem}"))


def duplicates_of_test_images(root: Path) -> None:
    """Under other names, in other formats and in other classes, among the training and the validation images."""
    for number, path in enumerate(sorted((root / "test").rglob("*.*"))):
        with Image.open(path) as image:
            image.save(root / ("train", "val")[number % 2] / ("red", "blue")[number % 3 > 0] / f"0 copy {number}.bmp")


@BOTH_WAYS
@pytest.mark.parametrize(
    "change", [one_test_image_more, one_test_image_fewer, duplicates_of_test_images], ids=lambda change: change.__name__
)
def test_other_test_images_change_no_fitted_number(
    honest_run: HonestRun, tmp_path: Path, stored: bool, change: Callable[[Path], None]
) -> None:
    honest = honest_run("given", stored)
    root = shutil.copytree(honest.data.root, tmp_path / "photos")
    change(root)
    other = trained(config_in(tmp_path, stored=stored, root=root))
    assert fitted_numbers(other) == fitted_numbers(honest)
    ours, theirs = run_json(honest), run_json(other)
    assert theirs["inputs"]["training"] == ours["inputs"]["training"]
    is_other_test = change is not duplicates_of_test_images
    assert (theirs["inputs"]["test"] != ours["inputs"]["test"]) == is_other_test


@BOTH_WAYS
@pytest.mark.parametrize("kind", ["given", "content"])
def test_file_names_change_nothing(honest_run: HonestRun, tmp_path: Path, stored: bool, kind: str) -> None:
    honest = honest_run(kind, stored)
    root = shutil.copytree(honest.data.root, tmp_path / "photos")
    other_names(root)
    other = trained(config_in(tmp_path, stored=stored, root=root))
    assert fitted_numbers(other) == fitted_numbers(honest)
    for name in TESTED_FILES:
        assert (other.run_folder / name).read_bytes() == (honest.run_folder / name).read_bytes()


# What a run reads


class Watched:
    """What a run hands to the extraction and to the fit."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.images: images.ImageSet | None = None
        self.extracted: dict[Blur, np.ndarray] = {}
        self.read: list[tuple[Blur, np.ndarray]] = []
        self.fit: dict[str, Any] = {}
        self._wrap(monkeypatch, features, "extract", self._note_extraction)
        self._wrap(monkeypatch, features.FeatureStore, "blocks", self._note_reading)
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

    def _note_fit(self, rows: Rows, labels: np.ndarray, train: np.ndarray, held: np.ndarray, **_: object) -> None:
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


@dataclass(frozen=True)
class WatchedPixels:
    """The pixels of a set, with a note of what was read."""

    inner: Pixels
    seen: list[int]

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        self.seen.extend(positions.tolist())
        return self.inner.read(positions)


@pytest.mark.parametrize("kind", ["given", "content"])
def test_training_on_images_reads_no_test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    config = config_in(tmp_path, stored=False, root=image_folder(kind, tmp_path))
    ready = preparation.prepare(config)
    loaded, fit = ready.images, minibatch.fit
    seen: list[int] = []
    in_training: list[int] = []

    def fit_and_note(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
        result = fit(*arguments, **named)
        in_training.extend(seen)
        return result

    monkeypatch.setattr(minibatch, "fit", fit_and_note)
    pixels = WatchedPixels(loaded.pixels, seen)
    training.train(config, replace(ready, images=replace(loaded, pixels=pixels)))
    assert set(in_training) == {*loaded.train.tolist(), *loaded.validation.tolist()}
    assert set(seen[len(in_training) :]) == set(loaded.test.tolist())
    often = [in_training.count(position) for position in loaded.train.tolist()]
    held_out = 0 if kind == "given" else 1
    assert often == [(2 + held_out) * len(config.train_views)] * len(often)  # two epochs, clean and each copy


def test_splits_share_no_content_and_no_font(tmp_path: Path) -> None:
    loaded = preparation.prepare(config_in(tmp_path)).images
    for values in (loaded.ids, loaded.groups):
        assert not set(values[loaded.train].tolist()) & set(values[loaded.test].tolist())
