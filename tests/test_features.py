"""Features: each (image, view) passes the backbone once, and nothing stale is ever read."""

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from blurtrain import backbones, features, psf
from blurtrain.blur import blur_pixels
from blurtrain.config import BackboneConfig, DataConfig, GlyphsConfig
from blurtrain.decoding import Geometry
from blurtrain.engines import TorchEngine
from blurtrain.errors import BackboneError, StoreError
from blurtrain.features import Extraction, FeatureStore, extract, store_for
from blurtrain.images import ImageSet, load
from blurtrain.store import Table
from blurtrain.views import CLEAN, Blur
from tests.conftest import fill_classes, photograph

GEOMETRY = Geometry(18, 16)
SLIGHT, STRONG = Blur("gaussian", 1.0), Blur("gaussian", 3.0)


class CountingEngine:
    """A nonlinear function of the pixels that counts what passes it, and may fail on a later batch."""

    def __init__(self, name: str = "counting", fails_at: int | None = None, parallel: int = 2) -> None:
        self.name = name
        self.parallel = parallel
        self.batch = 64
        self.lock = threading.Lock()
        self.batches: list[int] = []
        self.fails_at = fails_at

    @property
    def rows(self) -> int:
        """Images that have passed."""
        return sum(self.batches)

    def __call__(self, pixels: np.ndarray, view: Blur) -> np.ndarray:
        """Some pixels and their squares."""
        with self.lock:
            if len(self.batches) == self.fails_at:
                raise KeyboardInterrupt
            self.batches.append(len(pixels))
        return values(blur_pixels(pixels, view))


def values(images: np.ndarray) -> np.ndarray:
    some = images.reshape(len(images), -1)[:, ::37]
    return np.concatenate([some, some**2], axis=1)


def direct(images: ImageSet, view: Blur, positions: np.ndarray) -> np.ndarray:
    """What should be stored, computed without a store."""
    return values(blur_pixels(images.read_pixels(positions), view))


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def store(cache: Path) -> FeatureStore:
    return FeatureStore(cache, "stub", "f" * 64, repr(GEOMETRY), "counting")


@pytest.fixture
def photos(photo_folder: Path, cache: Path) -> ImageSet:
    return load_photos(photo_folder, cache)


def load_photos(root: Path, cache: Path, geometry: Geometry = GEOMETRY) -> ImageSet:
    return load(DataConfig(root=str(root)), geometry, cache)


def test_table_of_a_measured_blur_is_keyed_by_what_the_file_holds(store: FeatureStore, tmp_path: Path) -> None:
    tables, path = [], tmp_path / "lens.npy"
    for values in ([[1.0, 2.0, 1.0]], [[1.0, 3.0, 1.0]], [[1.0, 2.0, 1.0]]):
        np.save(path, values)
        psf.read.cache_clear()
        tables.append(store.table(Blur("psf", 1.0, None, "reflect101", str(path))))
    assert tables[0].folder == tables[2].folder
    assert tables[0].folder != tables[1].folder


def run(
    photos: ImageSet, wanted: Mapping[Blur, np.ndarray], store: FeatureStore, batch_size: int = 8
) -> tuple[Extraction, int]:
    """Extract, and the number of images that passed the engine."""
    engine = CountingEngine(store.engine)
    extraction = extract(photos, wanted, engine, store, batch_size)
    return extraction, engine.rows


def threads_left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("backbone")]


def test_features_are_those_of_a_direct_computation(photos: ImageSet, store: FeatureStore) -> None:
    wanted = {CLEAN: photos.train, SLIGHT: photos.train, STRONG: photos.test}
    assert run(photos, wanted, store) == (Extraction(reused=0, computed=63), 63)
    for view, positions in wanted.items():
        order = np.random.default_rng(0).permutation(positions)
        np.testing.assert_array_equal(store.read(view, photos, order), direct(photos, view, order))


def test_each_image_passes_once_in_each_view(
    photos: ImageSet, store: FeatureStore, capsys: pytest.CaptureFixture[str]
) -> None:
    run(photos, {CLEAN: photos.train, SLIGHT: photos.train}, store)
    assert run(photos, {CLEAN: photos.train, SLIGHT: photos.train}, store) == (Extraction(48, 0), 0)
    assert "running the backbone   all 48 views reused\n" in capsys.readouterr().err
    everything = np.r_[photos.train, photos.test]
    assert run(photos, {CLEAN: everything, STRONG: photos.test}, store) == (Extraction(24, 30), 30)


def test_no_thread_is_left(photos: ImageSet, store: FeatureStore) -> None:
    run(photos, {CLEAN: photos.train, SLIGHT: photos.train}, store)
    assert threads_left() == []


def test_duplicates_pass_once(photo_folder: Path, cache: Path, store: FeatureStore) -> None:
    photograph(0, 0).save(photo_folder / "train" / "red" / "copy.bmp")  # the pixels of 0.png
    photos = load_photos(photo_folder, cache)
    assert len(photos.train) == 25
    assert run(photos, {CLEAN: photos.train}, store) == (Extraction(0, 24), 24)
    assert store.read(CLEAN, photos, photos.train).shape[0] == 25


def test_added_image_costs_exactly_its_views(photo_folder: Path, cache: Path, store: FeatureStore) -> None:
    def everything() -> tuple[ImageSet, dict[Blur, np.ndarray]]:
        photos = load_photos(photo_folder, cache)
        return photos, {CLEAN: photos.train, SLIGHT: photos.train, STRONG: photos.test}

    run(*everything(), store)
    photograph(1, 999).save(photo_folder / "train" / "green" / "new.png")
    photos, wanted = everything()
    assert run(photos, wanted, store) == (Extraction(63, 2), 2)
    np.testing.assert_array_equal(store.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train))


def test_another_split_costs_nothing(class_folder: Path, cache: Path, store: FeatureStore) -> None:
    splits = set()
    for fraction, cost in ((0.25, 36), (0.5, 0), (0.1, 0)):
        photos = load(DataConfig(root=str(class_folder), test_fraction=fraction), GEOMETRY, cache)
        splits.add(tuple(photos.test))
        assert run(photos, {CLEAN: np.r_[photos.train, photos.test]}, store)[1] == cost
    assert len(splits) == 3


def test_renamed_files_cost_nothing(photo_folder: Path, cache: Path, store: FeatureStore) -> None:
    photos = load_photos(photo_folder, cache)
    run(photos, {CLEAN: photos.train}, store)
    for path in sorted(photo_folder.rglob("*.*")):
        path.rename(path.with_name(f"z{path.name}"))
    photos = load_photos(photo_folder, cache)
    assert run(photos, {CLEAN: photos.train}, store)[1] == 0


def test_changed_file_gives_its_new_features(photo_folder: Path, cache: Path, store: FeatureStore) -> None:
    photos = load_photos(photo_folder, cache)
    run(photos, {SLIGHT: photos.train}, store)
    photograph(2, 555).save(photo_folder / "train" / "blue" / "0.png")
    photos = load_photos(photo_folder, cache)
    assert run(photos, {SLIGHT: photos.train}, store)[1] == 1
    np.testing.assert_array_equal(store.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train))


@pytest.mark.parametrize(
    "view",
    [
        CLEAN,
        Blur("gaussian", 1.0 + 1e-9),
        Blur("gaussian", 1.1),
        Blur("gaussian", 1.0, None, "zero"),
        Blur("gaussian", 1.0, 0.0),
        Blur("box", 1.0),
    ],
    ids=repr,
)
def test_another_view_is_another_table(photos: ImageSet, store: FeatureStore, view: Blur) -> None:
    run(photos, {SLIGHT: photos.train}, store)
    assert store.table(view).folder != store.table(SLIGHT).folder
    assert not store.table(view).has(photos.ids[photos.train]).any()


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": "other"},
        {"fingerprint": "f" * 63 + "e"},
        {"geometry": repr(Geometry(18, 16, "BICUBIC"))},
        {"engine": "counting 2"},
    ],
    ids=repr,
)
def test_another_network_geometry_or_engine_never_reads_these_rows(
    photos: ImageSet, store: FeatureStore, change: dict[str, Any]
) -> None:
    run(photos, {SLIGHT: photos.train}, store)
    other = replace(store, **change)
    assert run(photos, {SLIGHT: photos.train}, other) == (Extraction(0, 24), 24)
    assert run(photos, {SLIGHT: photos.train}, store)[1] == 0


@pytest.mark.parametrize("constant", ["BLUR_VERSION", "DECODER_VERSION"])
def test_raised_version_never_reads_these_rows(
    photos: ImageSet, store: FeatureStore, constant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, {SLIGHT: photos.train}, store)
    monkeypatch.setattr(features, constant, 99)
    assert run(photos, {SLIGHT: photos.train}, store)[1] == 24


def test_another_geometry_gives_its_own_features(photo_folder: Path, cache: Path, store: FeatureStore) -> None:
    for geometry in (GEOMETRY, Geometry(16, 16), Geometry(18, 16, "BICUBIC")):
        photos = load_photos(photo_folder, cache, geometry)
        own = replace(store, geometry=repr(geometry))
        assert run(photos, {SLIGHT: photos.train}, own)[1] == 24
        np.testing.assert_array_equal(own.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train))


def test_store_is_named_by_weights_normalisation_geometry_and_engine(cache: Path) -> None:
    def own_store(config: BackboneConfig, change: float = 0) -> FeatureStore:
        backbone = backbones.load(config)
        next(backbone.network.parameters()).data.flatten()[0] += change
        return store_for(backbone, CountingEngine(), cache)

    config = BackboneConfig()
    stores = [
        own_store(config),
        own_store(config, change=1e-3),
        own_store(replace(config, mean=(0.5, 0.5, 0.4))),
        own_store(replace(config, std=(0.5, 0.5, 0.4))),
        own_store(replace(config, resize=70)),
        own_store(replace(config, crop=48)),
    ]
    folders = {store.table(SLIGHT).folder for store in stores}
    assert len(folders) == len(stores)
    assert own_store(config).table(SLIGHT).folder in folders


@pytest.mark.parametrize("fails_at", [0, 1, 5, 8])
def test_interrupted_extraction_goes_on_where_it_stopped(
    photos: ImageSet, store: FeatureStore, fails_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 10)
    wanted = {CLEAN: photos.train, SLIGHT: photos.train}
    broken = CountingEngine(fails_at=fails_at)
    with pytest.raises(KeyboardInterrupt):
        extract(photos, wanted, broken, store, batch_size=4)
    assert threads_left() == []
    extraction, rows = run(photos, wanted, store, batch_size=4)
    assert extraction.reused + extraction.computed == 48
    assert rows == extraction.computed
    assert broken.rows + rows - 48 <= 10
    for view in wanted:
        np.testing.assert_array_equal(store.read(view, photos, photos.train), direct(photos, view, photos.train))


def test_damaged_shard_is_computed_again(photos: ImageSet, store: FeatureStore) -> None:
    run(photos, {CLEAN: photos.train}, store)
    (path,) = store.table(CLEAN).folder.glob("*.safetensors")
    whole = bytearray(path.read_bytes())
    row = direct(photos, CLEAN, photos.train[:1]).tobytes()
    whole[whole.index(row)] ^= 1
    path.write_bytes(whole)
    with pytest.raises(StoreError, match="was damaged and has been removed: run the same command again"):
        store.read(CLEAN, photos, photos.train)
    assert run(photos, {CLEAN: photos.train}, store)[1] == 24
    np.testing.assert_array_equal(store.read(CLEAN, photos, photos.train), direct(photos, CLEAN, photos.train))


def test_error_in_the_engine_surfaces(photos: ImageSet, store: FeatureStore) -> None:
    class Breaking(CountingEngine):
        def __call__(self, pixels: np.ndarray, view: Blur) -> np.ndarray:
            if self.rows == 8:
                raise ZeroDivisionError("in a thread")
            return super().__call__(pixels, view)

    with pytest.raises(ZeroDivisionError, match="in a thread"):
        extract(photos, {CLEAN: photos.train}, Breaking(), store, batch_size=4)
    assert threads_left() == []
    assert run(photos, {CLEAN: photos.train}, store)[1] == 24


@pytest.mark.parametrize("parallel", [1, 2, 5])
def test_as_many_calls_run_side_by_side_as_the_engine_can_use(
    photos: ImageSet, store: FeatureStore, parallel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 10)
    most, now, lock = 0, 0, threading.Lock()
    together = threading.Barrier(parallel)

    class Meeting(CountingEngine):
        def __call__(self, pixels: np.ndarray, view: Blur) -> np.ndarray:
            nonlocal most, now
            with lock:
                now += 1
                most = max(most, now)
            if self.rows == 0:
                together.wait(timeout=60)  # the first calls wait for one another
            with lock:
                now -= 1
            return super().__call__(pixels, view)

    extract(photos, {SLIGHT: photos.train}, Meeting(parallel=parallel), store, batch_size=2)
    assert most == parallel
    np.testing.assert_array_equal(store.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train))


def test_error_while_storing_surfaces(photos: ImageSet, store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise StoreError("the disk is full")

    monkeypatch.setattr(features, "SHARD_ROWS", 4)
    monkeypatch.setattr(Table, "append", full)
    with pytest.raises(StoreError, match="the disk is full"):
        run(photos, {CLEAN: photos.train, SLIGHT: photos.train}, store, batch_size=2)
    assert threads_left() == []


def test_half_precision_takes_half_the_space(photos: ImageSet, store: FeatureStore) -> None:
    half = replace(store, precision="float16")
    run(photos, {SLIGHT: photos.train}, store)
    assert run(photos, {SLIGHT: photos.train}, half)[1] == 24  # another table
    found, expected = half.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected.astype(np.float16))
    sizes = [
        sum(path.stat().st_size for path in one.table(SLIGHT).folder.glob("*.safetensors")) for one in (half, store)
    ]
    assert sizes[1] - sizes[0] == expected.size * 2


@pytest.mark.parametrize("value", [7e4, np.inf, np.nan])
def test_feature_that_half_precision_cannot_hold_is_told(value: float, store: FeatureStore) -> None:
    wrong = np.array([[1.0, value]], np.float32)
    half = replace(store, precision="float16")
    sentence = "values of 70000: give precision float32" if value == 7e4 else "values that are not finite"
    with pytest.raises(BackboneError, match=sentence):
        half.stored(wrong)


@pytest.mark.parametrize(("parallel", "batch_size", "rows"), [(2, 4, 6), (2, 16, 6), (3, 16, 12), (2, 64, 24)])
def test_shards_grow_with_what_the_engine_runs_at_once(
    photos: ImageSet, store: FeatureStore, parallel: int, batch_size: int, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "SHARD_ROWS", 6)
    sizes = []

    def note(_table: Table, ids: np.ndarray, _columns: object) -> None:
        sizes.append(len(ids))

    monkeypatch.setattr(Table, "append", note)
    extract(photos, {SLIGHT: photos.train}, CountingEngine(parallel=parallel), store, batch_size)
    assert sizes == [rows] * (24 // rows)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batches_are_never_larger_than_asked(photos: ImageSet, store: FeatureStore, batch_size: int) -> None:
    engine = CountingEngine()
    extract(photos, {CLEAN: photos.train, SLIGHT: photos.train}, engine, store, batch_size)
    assert max(engine.batches) == min(batch_size, 24)
    np.testing.assert_array_equal(store.read(SLIGHT, photos, photos.train), direct(photos, SLIGHT, photos.train))


def test_embedded_backbone_gives_the_same_features_in_any_batch(tmp_path: Path) -> None:
    backbone = backbones.load(BackboneConfig())
    cache = tmp_path / "cache"
    digits = load(DataConfig(glyphs=GlyphsConfig(train=70, test=10)), backbone.preprocessing.geometry, cache)
    engine = TorchEngine(backbone)
    with torch.inference_mode():
        blurred = torch.from_numpy(blur_pixels(digits.read_pixels(digits.train), SLIGHT))
        expected = backbone(blurred.to(engine.device)).cpu().numpy()
    for batch_size in (8, 64):
        own = store_for(backbone, engine, tmp_path / f"cache {batch_size}")
        extract(digits, {SLIGHT: digits.train}, engine, own, batch_size)
        found = own.read(SLIGHT, digits, digits.train)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_row_depends_on_the_image_and_not_on_its_neighbours(
    photo_folder: Path, cache: Path, store: FeatureStore
) -> None:
    photos = load_photos(photo_folder, cache)
    run(photos, {SLIGHT: photos.train[::-1].copy()}, store, batch_size=5)
    fill_classes(photo_folder / "val", 3, first_seed=300)
    photos = load_photos(photo_folder, cache)
    wanted = np.r_[photos.validation, photos.train]
    assert run(photos, {SLIGHT: wanted}, store, batch_size=64)[1] == 9
    np.testing.assert_array_equal(store.read(SLIGHT, photos, wanted), direct(photos, SLIGHT, wanted))
