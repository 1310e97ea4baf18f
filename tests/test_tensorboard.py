"""Event files, read back with TensorBoard's own reader."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from blurtrain import layer_pictures, preparation, report, tensorboard, training
from blurtrain.blur import blur_pixels
from blurtrain.config import BlurGrid, Config
from blurtrain.errors import StoreError
from blurtrain.scalars import final_metrics
from blurtrain.sweep import SweepRow
from blurtrain.views import CLEAN, Blur
from tests.test_layer_report import BLURS, blank, fabricated, gated

METRICS = ("accuracy", "macro_accuracy", "nll", "ece")


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def row(view: Blur, accuracy: float) -> SweepRow:
    return SweepRow(
        view=view.name,
        curve=view.curve,
        family=view.family,
        strength=view.strength,
        strength_native=view.strength,
        angle=None,
        images=10,
        heads=2,
        accuracy=accuracy,
        accuracy_sd=0.0,
        macro_accuracy=accuracy / 2,
        top5_accuracy=None,
        nll=2 * accuracy,
        ece=accuracy / 4,
        accuracy_refit=accuracy,
    )


def write(folder: Path, value: float = 0.5) -> None:
    views = (CLEAN, Blur("gaussian", 1.5))
    tensorboard.write_run(
        folder,
        curves=[{"train_nll": 1.0, "validation_nll": 2.0, "validation_accuracy": 0.25}],
        rows=[row(view, value) for view in views],
        samples={view: np.full((2, 3, 8, 8), 0.5, np.float32) for view in views},
        strongest="gaussian 1.5",
        hyperparameters={"arm": "baseline", "l2": 0.1},
    )


@pytest.fixture(scope="module")
def arms(experiment: Config) -> dict[str, EventAccumulator]:
    return {config.arm: read(config.run_folder) for config in (experiment.baseline(), experiment)}


def test_both_arms_have_the_same_tags(arms: dict[str, EventAccumulator]) -> None:
    tags = {arm: events.Tags() for arm, events in arms.items()}
    for kind in ("scalars", "tensors"):
        assert tags["baseline"][kind] == tags["augmented"][kind]
    assert (tags["baseline"]["images"], tags["augmented"]["images"]) == (["test images/gaussian"], [])  # shown once
    assert set(tags["baseline"]["scalars"]) == {
        *("train/nll", "validation/nll", "validation/accuracy"),
        *(f"sweep gaussian/{metric}" for metric in METRICS),
        *("test/accuracy clean", "test/accuracy strongest blur", "test/accuracy mean over views"),
        *("test/nll clean", "test/nll strongest blur", "test/ece clean", "test/ece strongest blur"),
    }


@pytest.mark.parametrize("arm", ["baseline", "augmented"])
def test_sweep_stands_at_100_steps_a_pixel_with_the_values_of_sweep_json(
    arms: dict[str, EventAccumulator], experiment: Config, arm: str
) -> None:
    config = experiment.baseline() if arm == "baseline" else experiment
    rows = json.loads((config.run_folder / "sweep.json").read_text())
    for metric in METRICS:
        points = arms[arm].Scalars(f"sweep gaussian/{metric}")
        assert [point.step for point in points] == [0, 50, 100, 150, 200, 250, 300]
        np.testing.assert_allclose([point.value for point in points], [row[metric] for row in rows], rtol=1e-6)


def test_curves_have_one_point_an_iteration_and_end_in_the_chosen_heads(
    arms: dict[str, EventAccumulator], experiment: Config
) -> None:
    head = json.loads((experiment.run_folder / "run.json").read_text())["head"]
    (chosen,) = [candidate for candidate in head["candidates"] if candidate["l2"] == head["l2"]]
    for tag, key in (
        ("train/nll", "train_nll"),
        ("validation/nll", "validation_nll"),
        ("validation/accuracy", "validation_accuracy"),
    ):
        points = arms["augmented"].Scalars(tag)
        assert [point.step for point in points] == list(range(head["iterations"]))
        assert points[-1].value == pytest.approx(chosen[key], rel=1e-6)


def test_hparams_show_the_arm_beside_its_final_metrics(arms: dict[str, EventAccumulator], experiment: Config) -> None:
    for arm, config in (("baseline", experiment.baseline()), ("augmented", experiment)):
        events = arms[arm]
        start = metadata.parse_session_start_info_plugin_data(
            events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        )
        result = json.loads((config.run_folder / "run.json").read_text())
        assert start.hparams["arm"].string_value == arm
        assert start.hparams["copies"].string_value == (", ".join(result["copies"]) or "none")
        assert start.hparams["class weights"].string_value == "none"
        assert start.hparams["augment"].string_value == "none"
        assert start.hparams["l2"].number_value == result["head"]["l2"]
        declared = metadata.parse_experiment_plugin_data(
            events.SummaryMetadata("_hparams_/experiment").plugin_data.content
        )
        names = [info.name.tag for info in declared.metric_infos]
        assert names
        assert all(len(events.Scalars(name)) == 1 for name in names)
        assert "hp_metric" not in events.Tags()["scalars"]


def test_final_metrics_are_those_of_the_sweep(arms: dict[str, EventAccumulator], experiment: Config) -> None:
    rows = json.loads((experiment.run_folder / "sweep.json").read_text())
    value = {tag: arms["augmented"].Scalars(tag)[0].value for tag in arms["augmented"].Tags()["scalars"]}
    assert value["test/accuracy clean"] == pytest.approx(rows[0]["accuracy"])
    assert value["test/accuracy strongest blur"] == pytest.approx(rows[-1]["accuracy"])
    assert value["test/accuracy mean over views"] == pytest.approx(np.mean([row["accuracy"] for row in rows]))
    assert value["test/ece strongest blur"] == pytest.approx(rows[-1]["ece"])


def test_strongest_blur_is_the_widest_kernel_and_not_the_greatest_number(
    few: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A box of 9 px is 2.6 px wide, a gaussian of 3 px 3 px, and severity 5 is no width."""
    asked = {}
    monkeypatch.setattr(tensorboard, "write_run", lambda _, **given: asked.update(given))
    sweep = (BlurGrid("box", (3.0, 9.0)), BlurGrid("gaussian", (0.0, 3.0)), BlurGrid("defocus", severity=(1, 5)))
    config = replace(few, name="widest", sweep=sweep, runs=tmp_path)
    training.train(config, preparation.prepare(config))
    side = 64
    widths = {view.name: measured_width(view, side) for view in config.test_views}
    assert asked["strongest"] == max(widths, key=lambda name: widths[name]) != "box 9"
    final = final_metrics(asked["rows"], asked["strongest"])
    (widest,) = [row for row in asked["rows"] if row.view == asked["strongest"]]
    assert final["test/nll strongest blur"] == widest.nll
    assert final["test/nll clean"] == asked["rows"][0].nll != widest.nll
    assert sum(row.nll == widest.nll for row in asked["rows"]) == 1
    assert asked["hyperparameters"]["strongest blur"] == asked["strongest"]


def measured_width(view: Blur, side: int) -> float:
    """Standard deviation along the rows of what the blur makes of a point of light, in px."""
    point = np.zeros((1, 1, side, side), np.uint8)
    point[..., side // 2, side // 2] = 255
    across = blur_pixels(point, view)[0, 0].sum(0).astype(np.float64)
    places = np.arange(side) - side // 2
    return float(np.sqrt((across * places**2).sum() / across.sum() - ((across * places).sum() / across.sum()) ** 2))


def test_test_images_are_shown_through_every_view(arms: dict[str, EventAccumulator]) -> None:
    events = arms["baseline"]
    shown = events.Images("test images/gaussian")
    assert [image.step for image in shown] == [0, 50, 100, 150, 200, 250, 300]
    spread = []
    for image in shown:
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert picture.size == (training.SAMPLES * 64, 64)  # side by side
            spread.append(np.asarray(picture).astype(float).std())
    assert spread == sorted(spread, reverse=True)  # blur takes contrast away


def test_sample_images_are_of_as_many_classes_as_there_are(
    arms: dict[str, EventAccumulator], experiment: Config
) -> None:
    """The first of each of the first four digits, by the names in the run's own files."""
    loaded = preparation.prepare(experiment).images
    names = [loaded.names[position] for position in loaded.test]
    labels = loaded.labels[loaded.test].tolist()
    expected = [loaded.read_pixels(loaded.test[[labels.index(label)]])[0] for label in range(training.SAMPLES)]
    clean = arms["baseline"].Images("test images/gaussian")[0]
    with Image.open(io.BytesIO(clean.encoded_image_string)) as picture:
        np.testing.assert_array_equal(np.asarray(picture), np.concatenate(expected, axis=2).transpose(1, 2, 0))
    assert len(set(names)) == len(labels)


@pytest.mark.parametrize(
    ("labels", "chosen"),
    [
        ([0, 0, 0, 0, 0, 1, 1, 2], [0, 5, 7, 1]),  # three classes, then the second of the first
        ([5, 5, 5, 4, 3, 2, 1, 0], [7, 6, 5, 4]),
        ([1, 1, 0], [2, 0, 1]),  # fewer images than are shown
        ([2, 2, 2, 2, 2], [0, 1, 2, 3]),
    ],
)
def test_samples_are_dealt_class_by_class(labels: list[int], chosen: list[int]) -> None:
    positions = 100 - np.arange(len(labels))  # in any order
    assert training._spread(positions, np.array(labels)).tolist() == positions[chosen].tolist()


def test_each_folder_has_exactly_one_event_file(experiment: Config) -> None:
    for folder in (experiment.run_folder, experiment.baseline().run_folder, experiment.comparison_folder):
        assert len(list(folder.rglob("*tfevents*"))) == 1
        assert not list(folder.rglob(".partial*"))


def test_comparison_shows_its_table_and_its_picture(experiment: Config) -> None:
    events = read(experiment.comparison_folder)
    comparison = json.loads((experiment.comparison_folder / "comparison.json").read_text())
    (text,) = events.Tensors("comparison/text_summary")
    assert text.tensor_proto.string_val[0].decode() == report.markdown_table(comparison)
    (image,) = events.Images("comparison/accuracy")
    with (
        Image.open(io.BytesIO(image.encoded_image_string)) as shown,
        Image.open(experiment.comparison_folder / "figures" / "accuracy.png") as stored,
    ):
        np.testing.assert_array_equal(np.asarray(shown), np.asarray(stored.convert("RGB")))


def test_layers_stand_at_their_depth_and_the_features_after_them(tmp_path: Path) -> None:
    result = fabricated(5)
    tensorboard.write_layers(tmp_path, result)
    events = read(tmp_path)
    for place, blur in enumerate(BLURS):
        parts = [*result["layers"], result["features"]]
        found = [part["propagated"][place] for part in parts]
        expected = {
            "error": [one["reflect101"]["q50"] for one in found],
            "error circular": [one["circular"]["q50"] for one in found],
            "auc augmented": [one["auc"]["augmented"]["auc"] for one in found],
            "product log10": [np.log10(one["product"]) for one in found],
            "local error": [layer["local"][place]["error"]["mean"] for layer in result["layers"]],
            "local spectral": [layer["local"][place]["bounds"]["spectral"]["largest"] for layer in result["layers"]],
        }
        for name, values in expected.items():
            points = events.Scalars(f"layers {blur.name}/{name}")
            assert [point.step for point in points] == list(range(1, len(values) + 1))
            np.testing.assert_allclose([point.value for point in points], values, rtol=1e-6)


def test_networks_share_the_tags_of_their_layers(tmp_path: Path) -> None:
    tags = []
    for name, n in (("one", 3), ("other", 7)):
        tensorboard.write_layers(tmp_path / name, fabricated(n, names=(name + "{}").format))
        tags.append(read(tmp_path / name).Tags()["scalars"])
    assert sorted(tags[0]) == sorted(tags[1])


def test_what_is_not_known_of_a_layer_has_no_point(tmp_path: Path) -> None:
    result = gated(12)
    tensorboard.write_layers(tmp_path, result)
    points = read(tmp_path).Scalars("layers gaussian 1/local spectral")
    assert [point.step for point in points] == [layer["depth"] for layer in result["layers"] if not layer["no_bound"]]
    assert all(np.isfinite(point.value) for point in points)
    tensorboard.write_layers(tmp_path, blank())
    assert read(tmp_path).Tags()["scalars"] == [f"layers {blur.name}/product log10" for blur in BLURS]


def test_a_product_that_no_float_of_an_event_holds_is_shown_as_its_power(tmp_path: Path) -> None:
    result = fabricated(2)
    result["layers"][1]["propagated"][0]["product"] = 1e200
    tensorboard.write_layers(tmp_path, result)
    assert read(tmp_path).Scalars("layers gaussian 1/product log10")[1].value == pytest.approx(200)


def test_pictures_and_finding_of_the_layers_are_shown(tmp_path: Path) -> None:
    result = fabricated(2)
    files = layer_pictures.pictures(tmp_path / "figures", result)
    tensorboard.write_layers(tmp_path, result, files)
    events = read(tmp_path)
    (text,) = events.Tensors("layers/text_summary")
    assert text.tensor_proto.string_val[0].decode() == result["finding"]
    for name, path in files.items():
        (image,) = events.Images(f"layers/{name}")
        with Image.open(io.BytesIO(image.encoded_image_string)) as shown, Image.open(path) as stored:
            np.testing.assert_array_equal(np.asarray(shown), np.asarray(stored.convert("RGB")))


def test_writing_again_replaces_the_event_file(tmp_path: Path) -> None:
    for value in (0.25, 0.75):
        write(tmp_path, value)
    assert len(list(tmp_path.iterdir())) == 1
    points = read(tmp_path).Scalars("sweep gaussian/accuracy")
    assert [(point.step, point.value) for point in points] == [(0, 0.75), (150, 0.75)]


def test_an_interrupted_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorboard, "hparams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_writing_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, 0.25)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(tensorboard, "hparams", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, 0.75)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    with pytest.raises(StoreError, match=r"run cannot be written \(.*\): free space and run again"):
        write(tmp_path / "run")
