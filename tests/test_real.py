"""Really blurred photographs: read like all others, tested on, used for nothing else, and counted for themselves."""

import csv
import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import blurtrain
from blurtrain import backbones, comparison, forecast, minibatch, preparation, report, runs, tables, training
from blurtrain.cli import main
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError, RunError
from blurtrain.folder_source import ExtraSource
from blurtrain.images import ImageSet, check_source, load, survey
from blurtrain.opening import open_source
from blurtrain.reduction import Reduced, reduced
from blurtrain.roster import TEST_IMAGES
from blurtrain.sources import Item, Joined
from blurtrain.views import CLEAN, RealView
from tests.conftest import fill_classes, photograph
from tests.test_leaks import Watched, WatchedPixels, fitted_numbers, run_json
from tests.test_report import cells, table_lines
from tests.test_statistics import Predictions, accuracy, against, require_same, through_json, words

pytestmark = pytest.mark.usefixtures("quiet")
GEOMETRY = Geometry(18, 16)
Read = Callable[..., ImageSet]


def phone_and_night(folder: Path) -> dict[str, str]:
    """Two sets: 8 photographs of two of the classes, and 9 of all three."""
    fill_classes(folder / "phone", 4, first_seed=300)
    shutil.rmtree(folder / "phone" / "green")
    fill_classes(folder / "night", 3, first_seed=400)
    return {"phone": str(folder / "phone"), "night": str(folder / "night")}


def fill_hard(folder: Path, count: int, first_seed: int) -> None:
    """Photographs of colours that are often those of another class, so that heads differ."""
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for seed in range(first_seed, first_seed + count):
            rng = np.random.default_rng([label, seed])
            tint = rng.normal(0, 30, 3) + 45 * np.eye(3)[label]
            pixels = rng.integers(0, 200, (*rng.integers(20, 60, 2), 3)) + tint
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{seed}.png")


def config_in(folder: Path, root: Path, extra: dict[str, str], *, stored: bool = True) -> Config:
    return Config(
        name="real",
        data=DataConfig(root=str(root)),
        backbone=BackboneConfig(resize=32, crop=32),
        copies=(BlurGrid("gaussian", (0.5, 1.0)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        extra_tests=extra,
        head=HeadConfig(l2=(0.1, 1.0), folds=3),
        minibatch=MinibatchConfig(epochs=2, learning_rate=0.01),
        batch_size=16,
        runs=folder / "runs",
        cache=folder / "cache" if stored else False,
    )


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """A comparison with two sets of photographs. Tests must not write there."""
    folder = tmp_path_factory.mktemp("real")
    for place, count, seed in (("photos/train", 8, 0), ("photos/test", 5, 100), ("phone", 4, 300), ("night", 3, 400)):
        fill_hard(folder / place, count, seed)
    shutil.rmtree(folder / "phone" / "green")
    extra = {name: str(folder / name) for name in ("phone", "night")}
    config = config_in(folder, folder / "photos", extra)
    blurtrain.compare(config)
    accuracies = [
        view["arms"][arm]["accuracy"] for view in result_of(config)["real"] for arm in ("baseline", "augmented")
    ]
    assert len({*accuracies, 0.0, 1.0}) == 6  # all different, and nothing is as easy or as hard as can be
    return config


@pytest.fixture
def extra(tmp_path: Path) -> dict[str, str]:
    return phone_and_night(tmp_path)


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def load_folder(root: Path, extra: dict[str, str], **options: Any) -> ImageSet:  # noqa: ANN401 - passed on
        cache = options.pop("cache", tmp_path / "cache")
        return load(DataConfig(root=str(root), **options), GEOMETRY, cache, extra_tests=extra)

    return load_folder


def result_of(config: Config) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((config.comparison_folder / "comparison.json").read_text())
    return result


# how they are read


@pytest.mark.parametrize("kind", ["photo_folder", "class_folder"])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_they_are_images_like_all_others_and_in_no_split(
    request: pytest.FixtureRequest, extra: dict[str, str], read: Read, kind: str, stored: bool, tmp_path: Path
) -> None:
    root = request.getfixturevalue(kind)
    cache = tmp_path / "cache" if stored else False
    found, alone = read(root, extra, cache=cache), read(root, {}, cache=cache)
    assert list(found.extra_tests) == ["phone", "night"]
    assert [len(some) for some in found.extra_tests.values()] == [8, 9]
    for name, positions in found.extra_tests.items():
        for i in positions:
            _, group, file = found.names[i].split("/")
            assert found.names[i] == f"{name}/{group}/{file}"
            assert found.classes[found.labels[i]] == group
            with Image.open(Path(extra[name]) / group / file) as image:
                np.testing.assert_array_equal(found.read_pixels(np.array([i]))[0], GEOMETRY.apply(image.convert("RGB")))
        assert found.ids[positions].tolist() == sorted(found.ids[positions].tolist())
        assert found.group_names(positions) == [name.decode() for name in found.ids[positions].tolist()]
    for split in ("train", "validation", "test"):
        ours, theirs = (getattr(one, split) for one in (found, alone))
        assert [found.names[i] for i in ours] == [alone.names[i] for i in theirs]
    assert (found.classes, found.native_scale) == (alone.classes, alone.native_scale)
    assert found.tested.tolist() == [*found.test, *found.extra_tests["phone"], *found.extra_tests["night"]]
    assert alone.tested.tolist() == alone.test.tolist()


def test_embedded_digits_can_be_tested_on_photographs(tmp_path: Path) -> None:
    for label in ("3", "7"):
        (tmp_path / "paper" / label).mkdir(parents=True)
        photograph(0, int(label)).save(tmp_path / "paper" / label / "one.png")
    glyphs = DataConfig(glyphs=GlyphsConfig(train=60, test=40))
    found = load(glyphs, GEOMETRY, tmp_path / "cache", extra_tests={"paper": str(tmp_path / "paper")})
    assert sorted(found.labels[found.extra_tests["paper"]].tolist()) == [3, 7]
    assert (len(found.train), len(found.test), len(found.names)) == (60, 40, 102)


def test_sources_in_a_row_are_each_asked_for_their_own(photo_folder: Path, extra: dict[str, str]) -> None:
    whole = open_source(DataConfig(root=str(photo_folder)), extra)
    assert isinstance(whole, Joined)
    assert len(whole.items) == 39 + 8 + 9
    place = 39
    for name in ("phone", "night"):
        own = ExtraSource(name, Path(extra[name]), whole.classes)
        for i, item in enumerate(own.items):
            assert whole.items[place] == item == Item(item.name, item.label, extra_test=name)
            assert (whole.key(place), whole.header(place)) == (own.key(i), own.header(i))
            np.testing.assert_array_equal(np.asarray(whole.decode(place)), np.asarray(own.decode(i)))
            place += 1


REFUSED: list[tuple[str, str]] = [
    (
        "missing",
        r"extra_tests\.mine '.*mine' is not a folder: give FOLDER/CLASS with images of classes that are trained",
    ),
    ("empty", r"extra_tests\.mine '.*mine' has no class folders: give FOLDER/CLASS with images of classes"),
    ("flat", r"extra_tests\.mine '.*mine' has no class folders: give FOLDER/CLASS"),
    ("unknown class", r"mine/gren is named after no class that is trained on: did you mean 'green'\?"),
    ("far class", r"mine/zebra is named after no class that is trained on: give one of blue, green, red"),
    ("empty class", r"class folder .*mine/red has no images \(.*\): add some, or remove it"),
]


def spoilt(kind: str, folder: Path) -> Path:
    mine = folder / "mine"
    if kind == "missing":
        return mine
    mine.mkdir()
    if kind == "flat":
        photograph(0, 1).save(mine / "1.png")
    names = {"unknown class": "gren", "far class": "zebra", "empty class": "red"}
    if kind in names:
        (mine / names[kind]).mkdir()
        if kind != "empty class":
            photograph(0, 1).save(mine / names[kind] / "1.png")
    return mine


@pytest.mark.parametrize(("kind", "sentence"), REFUSED, ids=[kind for kind, _ in REFUSED])
def test_folders_that_cannot_be_used_are_told_unread(
    kind: str, sentence: str, photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = {"mine": str(spoilt(kind, tmp_path))}
    with pytest.raises(DataError, match=sentence):
        check_source(DataConfig(root=str(photo_folder)), extra)
    monkeypatch.setattr(backbones, "load", lambda *_: pytest.fail("the backbone is read first"))
    with pytest.raises(DataError, match=sentence):
        preparation.prepare(config_in(tmp_path, photo_folder, extra))
    assert not (tmp_path / "cache").exists()


def test_a_bad_photograph_is_named_with_its_set(photo_folder: Path, extra: dict[str, str], read: Read) -> None:
    (Path(extra["phone"]) / "red" / "bad.jpg").write_bytes(b"<html>")
    way_on = "mend or remove it, list the good ones by blurtrain check-data --fix-list, or"
    with pytest.raises(DataError, match=rf"^phone/red/bad\.jpg is no image in a known format .*: {way_on}"):
        read(photo_folder, extra)
    found = load(DataConfig(root=str(photo_folder)), GEOMETRY, False, "skip", extra)
    assert list(found.skipped) == ["phone/red/bad.jpg"]
    assert len(found.extra_tests["phone"]) == 8


def test_a_set_without_good_images_is_refused(photo_folder: Path, extra: dict[str, str]) -> None:
    for path in Path(extra["phone"]).rglob("*.*"):
        path.write_bytes(b"<html>")
    with pytest.raises(DataError, match=r"extra_tests\.phone has no image left that can be read and is not trained on"):
        load(DataConfig(root=str(photo_folder)), GEOMETRY, False, "skip", extra)


def test_no_set_makes_up_for_bad_images_of_the_splits(photo_folder: Path, extra: dict[str, str]) -> None:
    for path in photo_folder.rglob("*.*"):
        path.write_bytes(b"<html>")
    with pytest.raises(DataError, match="no image is left"):
        load(DataConfig(root=str(photo_folder)), GEOMETRY, False, "skip", extra)


def test_a_format_of_their_own_is_no_news(
    class_folder: Path, extra: dict[str, str], read: Read, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(60):
        photograph(0, 1000 + seed).save(class_folder / "red" / f"more{seed}.png")
    photograph(0, 9999).save(Path(extra["phone"]) / "red" / "one.gif")
    read(class_folder, extra)
    assert "gif" not in capsys.readouterr().err


# leaks


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_duplicates_of_fitted_images_leave_the_set_and_not_the_fit(
    photo_folder: Path, extra: dict[str, str], read: Read, tmp_path: Path, stored: bool, split: str,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fill_classes(photo_folder / "val", 2, first_seed=200)
    seed = 0 if split == "train" else 200
    with Image.open(photo_folder / split / "red" / f"{seed}.png") as image:
        image.save(Path(extra["phone"]) / "blue" / "another name and class.bmp")
    with Image.open(photo_folder / "test" / "red" / "100.png") as image:
        image.save(Path(extra["phone"]) / "red" / "of the test split.bmp")
    found = read(photo_folder, extra, cache=tmp_path / "cache" if stored else False)
    names = [found.names[i] for i in found.extra_tests["phone"]]
    assert len(names) == 9
    assert "phone/red/of the test split.bmp" in names
    fitted = set(found.ids[np.r_[found.train, found.validation]].tolist())
    assert not fitted & set(found.ids[np.concatenate(list(found.extra_tests.values()))].tolist())
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 6, 15)
    note = "note: 1 images of phone are left out because their exact duplicate is trained on"
    assert note in capsys.readouterr().err


def test_a_set_of_nothing_but_training_images_is_refused(photo_folder: Path, tmp_path: Path, read: Read) -> None:
    shutil.copytree(photo_folder / "train", tmp_path / "mine")
    with pytest.raises(DataError, match=r"extra_tests\.mine has no image left that can be read and is not trained on"):
        read(photo_folder, {"mine": str(tmp_path / "mine")})


def test_other_formats_in_a_set_do_not_change_how_training_images_are_decoded(tmp_path: Path) -> None:
    geometry, pixels = Geometry(96, 96), np.random.default_rng(0).integers(0, 256, (4, 640, 600, 3), dtype=np.uint8)
    for i, (name, place) in enumerate(
        [("a", "a/1.jpg"), ("b", "b/1.jpg"), ("a", "mine/a/2.png"), ("b", "mine/b/3.jpg")]
    ):
        path = tmp_path / ("" if place.startswith("mine") else "set") / place
        path.parent.mkdir(parents=True, exist_ok=True)
        assert name in place
        Image.fromarray(pixels[i]).save(path)
    shutil.copy(tmp_path / "set" / "a" / "1.jpg", tmp_path / "mine" / "a" / "same.jpg")
    config = DataConfig(root=str(tmp_path / "set"))
    source = reduced(open_source(config, {"mine": str(tmp_path / "mine")}), geometry)
    assert isinstance(source, Reduced)
    by_name = dict(zip([item.name for item in source.items], source.scales, strict=True))
    assert by_name == {"a/1.jpg": 2, "b/1.jpg": 2, "mine/a/2.png": 1, "mine/a/same.jpg": 2, "mine/b/3.jpg": 2}
    assert source.key(0) == source.key(2 if source.items[2].name.endswith("same.jpg") else 3)  # so it is recognised


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "fresh"])
@pytest.mark.parametrize("kind", ["photo_folder", "class_folder"])
def test_photographs_change_no_fitted_number(
    request: pytest.FixtureRequest, extra: dict[str, str], tmp_path: Path, kind: str, stored: bool
) -> None:
    root = request.getfixturevalue(kind)
    made = []
    for place, sets in (("without", {}), ("with", extra)):
        config = config_in(tmp_path / place, root, sets, stored=stored)
        training.train(config, preparation.prepare(config))
        made.append(config)
    assert fitted_numbers(made[0]) == fitted_numbers(made[1])
    without, others = map(run_json, made)
    assert {key for key in without if without[key] != others[key]} == {"extra_tests", "inputs", "files", "checksum"}
    assert {key: value for key, value in others["inputs"].items() if key in without["inputs"]} == without["inputs"]
    assert set(others["inputs"]) - set(without["inputs"]) == {"extra test phone", "extra test night"}
    rows = [json.loads((config.run_folder / "sweep.json").read_text()) for config in made]
    assert rows[0] == rows[1][:3]


def test_they_pass_the_backbone_once_and_are_never_read_before_the_fit(
    photo_folder: Path, extra: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Watched(monkeypatch)
    config = config_in(tmp_path, photo_folder, extra)
    training.train(config, preparation.prepare(config))
    loaded = watched.images
    assert loaded is not None
    real = set(loaded.tested.tolist()) - set(loaded.test.tolist())
    assert len(real) == 17
    got = {view: set(positions.tolist()) for view, positions in watched.extracted.items()}
    assert [view for view, positions in got.items() if real & positions] == [CLEAN]
    assert real < got[CLEAN]
    assert not any(real & set(positions.tolist()) for _, positions in watched.read)
    assert len(watched.fit["rows"]) == 3 * len(loaded.train)


def test_training_on_images_reads_none_of_them(
    photo_folder: Path, extra: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_in(tmp_path, photo_folder, extra, stored=False)
    ready, fit = preparation.prepare(config), minibatch.fit
    seen: list[int] = []
    in_training: list[int] = []

    def fit_and_note(*arguments: Any, **named: Any) -> Any:  # noqa: ANN401 - passed on
        result = fit(*arguments, **named)
        in_training.extend(seen)
        return result

    monkeypatch.setattr(minibatch, "fit", fit_and_note)
    pixels = WatchedPixels(ready.images.pixels, seen)
    training.train(config, replace(ready, images=replace(ready.images, pixels=pixels)))
    assert set(in_training) == set(ready.images.train.tolist())
    assert set(seen[len(in_training) :]) == set(ready.images.tested.tolist())


# what is stored


def test_predictions_hold_them_under_their_name(compared: Config) -> None:
    table = pq.read_table(compared.run_folder / "predictions.parquet")
    for name, count in (("phone", 8), ("night", 9)):
        rows = table.filter([view == name for view in table["view"].to_pylist()]).to_pylist()
        assert len(rows) == 4 * count
        assert {(row["family"], row["strength"], row["angle"], row["border"]) for row in rows} == {
            ("real", None, None, None)
        }
    images = {view: {row["image"] for row in table.to_pylist() if row["view"] == view} for view in ("clean", "phone")}
    assert len(images["clean"]) == 15
    assert not images["clean"] & images["phone"]


def test_predictions_are_those_of_the_photographs(compared: Config) -> None:
    """The refitted head, from its file, on features that are computed again."""
    from safetensors.numpy import load_file

    ready = preparation.prepare(compared)
    assert ready.store is not None
    head = load_file(compared.run_folder / "head.safetensors")
    for name, positions in ready.images.extra_tests.items():
        rows = pq.read_table(compared.run_folder / "predictions.parquet").to_pylist()
        own = [row for row in rows if row["view"] == name and row["head"] == "refit"]
        seen = ready.engine(ready.images.read_pixels(positions), CLEAN)
        logits = seen.astype(np.float64) @ head["weight"].T + head["bias"]
        assert [row["image"] for row in own] == [image.decode() for image in ready.images.ids[positions].tolist()]
        assert [row["label"] for row in own] == ready.images.labels[positions].tolist()
        chances = np.exp(logits - logits.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        of_label = chances[np.arange(len(own)), [row["label"] for row in own]]
        np.testing.assert_allclose([row["probability"] for row in own], of_label, atol=1e-4)


def test_names_of_photographs_are_stored(compared: Config) -> None:
    rows = pq.read_table(compared.run_folder / TEST_IMAGES).to_pylist()
    assert [row["extra_test"] for row in rows] == [None] * 15 + ["phone"] * 8 + ["night"] * 9
    for row in rows[15:]:
        assert row["file"].startswith(f"{row['extra_test']}/")
    by_image = {row["image"]: row["file"] for row in rows}
    predictions = pq.read_table(compared.run_folder / "predictions.parquet").to_pylist()
    assert {row["image"] for row in predictions} == set(by_image)


def test_the_sweep_holds_a_row_for_each_set(compared: Config) -> None:
    rows = json.loads((compared.run_folder / "sweep.json").read_text())
    assert [row["view"] for row in rows] == ["clean", "gaussian 1", "gaussian 3", "phone", "night"]
    stored = Predictions(compared.run_folder)
    for row, count in zip(rows[3:], (8, 9), strict=True):
        assert (row["family"], row["strength"], row["strength_native"], row["angle"]) == ("real", None, None, None)
        assert row["images"] == count
        assert row["accuracy"] == pytest.approx(stored.correct(row["view"]).mean())
        for key, value in stored.metrics(row["view"], classes=3).items():
            assert row[key] == pytest.approx(value)
    text = list(csv.DictReader(io.StringIO((compared.run_folder / "sweep.csv").read_text())))
    assert [(row["view"], row["strength"]) for row in text[3:]] == [("phone", ""), ("night", "")]


def test_run_json_counts_them(compared: Config) -> None:
    result = run_json(compared)
    assert result["extra_tests"] == {"phone": 8, "night": 9}
    assert result["images"] == {"train": 24, "validation": 0, "test": 15}
    work = json.loads((compared.run_folder / runs.WORK).read_text())["forward_passes"]
    assert work["reused"] + work["computed"] == 24 * 3 + 15 * 3 + 17


# the comparison


def test_every_number_of_them_follows_from_the_predictions(compared: Config) -> None:
    arms = {
        name: Predictions(config.run_folder)
        for name, config in (("baseline", compared.baseline()), ("augmented", compared))
    }
    base, other = arms.values()
    expected: list[dict[str, Any]] = []
    for name in ("night", "phone"):
        groups = base.of("group", name, base.folds)[0]
        gain = other.correct(name).astype(float) - base.correct(name)
        row: dict[str, Any] = {
            "name": name,
            "family": "real",
            "n_test": len(groups),
            "groups": len(set(groups.tolist())),
            "arms": {
                arm: {
                    **accuracy(stored.correct(name), groups),
                    "correct": stored.correct(name).sum(axis=1).tolist(),
                    **stored.metrics(name, classes=3),
                }
                for arm, stored in arms.items()
            },
            "against_reference": {"augmented": against(gain, groups)},
        }
        expected.append(row)
    largest = 0.0
    others = [row["against_reference"]["augmented"] for row in expected]
    for rank, one in enumerate(sorted(others, key=lambda one: float(one["p"]))):
        largest = max(largest, min(1, (2 - rank) * one["p"]))
        one["p_holm"], one["verdict"] = largest, words(one["difference"], largest)
    found = result_of(compared)["real"]
    for row in found:
        assert 0 < row["against_reference"]["augmented"].pop("p_these_heads") <= 1
    assert require_same(found, through_json(expected)) > 40


def test_they_are_in_no_mean_and_in_no_area(compared: Config, tmp_path: Path) -> None:
    alone = replace(compared, extra_tests={}, runs=tmp_path / "runs")
    blurtrain.compare(alone)
    ours, theirs = result_of(compared), result_of(alone)
    for key in ("views", "heavy_mean", "area", "classes", "images", "n_test", "groups"):
        assert ours[key] == theirs[key]
    assert (len(ours["real"]), theirs["real"]) == (2, [])


def test_images_and_classes_tables_hold_the_test_split_alone(compared: Config) -> None:
    with (compared.comparison_folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 15
    assert all(row["file"].startswith("test/") for row in rows)


def test_csv_has_rows_of_their_own(compared: Config) -> None:
    result = result_of(compared)
    rows = list(csv.DictReader(io.StringIO((compared.comparison_folder / "comparison.csv").read_text())))
    assert len(rows) == 2 * (3 + 2)
    assert rows == list(csv.DictReader(io.StringIO(tables.views_text(result))))
    for row, (view, name) in zip(rows[6:], [(v, a) for v in result["real"] for a in v["arms"]], strict=True):
        assert (row["view"], row["family"], row["arm"]) == (view["name"], "real", name)
        assert (row["strength"], row["angle"], row["heavy"]) == ("", "", "")
        assert (row["n_test"], row["groups"], row["heads"]) == (str(view["n_test"]), str(view["groups"]), "3")
        assert float(row["accuracy"]) == view["arms"][name]["accuracy"]
        other = view["against_reference"].get(name)
        assert row["verdict"] == (other["verdict"] if other else "")


def test_sets_of_other_names_are_not_compared(compared: Config, tmp_path: Path) -> None:
    renamed = {"phone": compared.extra_tests["phone"], "day": compared.extra_tests["night"]}
    other = replace(compared, extra_tests=renamed, runs=tmp_path)
    blurtrain.train(other)
    with pytest.raises(RunError, match=r"have different extra_tests: compare runs that share them"):
        comparison.compare_runs([compared.baseline().run_folder, other.run_folder])


def test_other_photographs_under_the_same_name_are_not_compared(compared: Config, tmp_path: Path) -> None:
    root = shutil.copytree(compared.extra_tests["phone"], tmp_path / "phone")
    (root / "red" / "300.png").unlink()
    other = replace(compared, extra_tests={**compared.extra_tests, "phone": str(root)}, runs=tmp_path / "runs")
    blurtrain.train(other)
    with pytest.raises(RunError, match=r"was trained with other inputs \(extra test phone\), so the arms cannot be"):
        comparison.compare_runs([compared.baseline().run_folder, other.run_folder])


def test_a_run_is_told_apart_by_its_folders(compared: Config) -> None:
    with pytest.raises(RunError, match=r"another config \(extra_tests\.night is '.*night' there and not given now"):
        runs.is_finished(replace(compared, extra_tests={"phone": compared.extra_tests["phone"]}))


# what is shown


def test_table_has_a_section_for_them(compared: Config) -> None:
    result = result_of(compared)
    lines = table_lines(report.terminal_table(result))
    rules = [i for i, line in enumerate(lines) if set(line) == {"-"}]
    assert len(rules) == 3
    assert [line.split("  ")[0] for line in lines[rules[2] + 1 :]] == ["night (9 images)", "phone (8 images)"]
    text = report.terminal_table(result)
    for view in result["real"]:
        other = view["against_reference"]["augmented"]
        assert f"\nOn {view['name']} augmented is {other['verdict']} " in text
        assert f"{100 * other['difference']:+.1f} points" in text
    assert "images of their own, in no mean; p of each set is adjusted (Holm)." in text
    assert max(map(len, lines)) <= 100


def test_markdown_has_the_same_rows(compared: Config) -> None:
    result = result_of(compared)
    text = report.markdown_table(result)
    names = [cells(line)[0] for line in text.splitlines() if line.startswith("|")]
    assert names[-3:] == ["mean of heavy *", "night (9 images)", "phone (8 images)"]
    assert "On phone augmented is" in text


def test_groups_are_counted_where_there_are_fewer(compared: Config) -> None:
    result = result_of(compared)
    result["real"][0]["groups"] = 4
    assert "\nnight (9 images in 4 groups) " in report.terminal_table(result)


def test_without_them_nothing_is_said(experiment: Config) -> None:
    text = report.terminal_table(result_of(experiment))
    assert "blurred really" not in text
    assert "Really blurred" not in text


def test_sweep_of_a_run_shows_their_numbers(compared: Config) -> None:
    lines = report.sweep_table(compared.run_folder).splitlines()
    rows = json.loads((compared.run_folder / "sweep.json").read_text())
    assert [line[:18].rstrip() for line in lines[-2:]] == ["phone (8 images)", "night (9 images)"]
    for line, row in zip(lines[-2:], rows[-2:], strict=True):
        assert line[18:].split()[0] == f"{100 * row['accuracy']:.1f}"


def test_picture_has_a_panel_with_a_mark_at_each_height(compared: Config, tmp_path: Path) -> None:
    result = result_of(compared)
    for view in result["real"]:
        for name, height in (("baseline", 0.25), ("augmented", 0.75)):
            view["arms"][name].update(accuracy=height, ci95=[height - 0.1, height + 0.1])
    result["real"][1]["arms"]["baseline"]["ci95"] = [None, None]
    report.accuracy_picture(tmp_path / "accuracy.png", result)
    with Image.open(tmp_path / "accuracy.png") as picture:
        assert picture.size == (2 * 768, 528)
        pixels = np.asarray(picture.convert("RGB")).astype(int)[:, 768:]
    heights = []
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        found = np.abs(pixels - colour).max(-1) < 8
        rows = np.flatnonzero(found.sum(1) > 15)  # of two marks side by side
        heights.append(rows.mean())
    assert 0.3 < (heights[0] - heights[1]) / len(pixels) < 0.5


def test_tensorboard_has_a_tag_for_each_set(compared: Config) -> None:
    for config in (compared, compared.baseline()):
        events = EventAccumulator(str(config.run_folder), size_guidance={"scalars": 0, "images": 0})
        events.Reload()
        rows = json.loads((config.run_folder / "sweep.json").read_text())
        for row in rows[3:]:
            for metric in ("accuracy", "macro_accuracy", "nll", "ece"):
                (point,) = events.Scalars(f"real {row['view']}/{metric}")
                assert (point.step, point.value) == (0, pytest.approx(row[metric], rel=1e-6))
            shown = f"test images/{row['view']}" in events.Tags()["images"]
            assert shown == (config == compared.baseline())  # photographs are the same in every arm
        assert not [tag for tag in events.Tags()["scalars"] if tag.startswith("sweep") and "gaussian" not in tag]
        mean = events.Scalars("test/accuracy mean over views")[0].value
        assert mean == pytest.approx(np.mean([row["accuracy"] for row in rows[:3]]))


# before anything is done


def test_forecast_counts_them(compared: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "DECODING", 0.01)
    monkeypatch.setattr(forecast, "RUNNING", 0.01)
    config = replace(compared, runs=tmp_path / "runs", cache=tmp_path / "cache")
    found = forecast.forecast([config.baseline(), config])
    assert (found.decoded, found.forward_passes) == (39 + 17, 24 * 3 + 15 * 3 + 17)
    fresh = forecast.forecast([replace(config, cache=False)])
    assert fresh.forward_passes == (2 + 1) * 24 * 3 + 15 * 3 + 17
    known = survey(compared.data, preparation.prepare(compared).backbone.preprocessing.geometry, compared.cache,
                   extra_tests=compared.extra_tests)  # fmt: skip
    assert (len(known.unread), len(known.images.tested)) == (0, 32)


# options


def printed(capsys: pytest.CaptureFixture[str], *options: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["train", *options, "--print_config"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("option", ["--extra_tests", "--extra-tests"])
@pytest.mark.parametrize("name", ["phone", "D90 at f 2.8"])
def test_sets_are_given_on_the_command_line(capsys: pytest.CaptureFixture[str], option: str, name: str) -> None:
    assert f"extra_tests:\n  {name}: some/folder\n" in printed(capsys, option, f"{{{name}: some/folder}}")


def test_sets_are_given_in_yaml(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("extra_tests:\n  phone: some/folder\n  my.lens: other\n")
    out = printed(capsys, "--config", str(tmp_path / "mine.yaml"))
    assert "extra_tests:\n  phone: some/folder\n  my.lens: other\n" in out
    (tmp_path / "again.yaml").write_text(out)
    assert printed(capsys, "--config", str(tmp_path / "again.yaml")) == out


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("phone", "extra_tests: must hold names and folders, such as {phone: FOLDER}, got: phone"),
        ("[phone]", "extra_tests: must hold names and folders, such as {phone: FOLDER}, got: ['phone']"),
        ("{phone: 3}", "extra_tests: must be a text, got: 3"),
        ("{phone: [a]}", "extra_tests: must be a text, got: ['a']"),
        ("{phone: a, phone: b}", "key 'phone' stands twice in line 1: keep one of them"),
        ("{phone: }", "extra_tests: must be a text, got: None"),
        ("{data: a}", "data must hold keys of its own, got 'a'"),
        ("{7: a}", "the key in line 1 is not a text: keys are words such as batch_size"),
        ("{gaussian 2: a}", "extra_tests must be names of 1 to 40 letters, digits, spaces and -_.+ that begin like "
                            "no blur and are no key of a config, got 'gaussian 2'"),
        ("{phone: none}", "extra_tests.phone 'none' is not a folder: give FOLDER/CLASS with images of classes that are "
                          "trained on"),
    ],
)  # fmt: skip
def test_sets_that_are_none_are_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--extra_tests", value]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"blurtrain: error: {sentence}"


def test_a_name_is_a_view_of_no_strength() -> None:
    view = RealView("phone")
    assert (view.name, view.curve, view.family) == ("phone", "phone", "real")
