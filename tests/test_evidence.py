"""Evidence against the runs of the same arms, brute force, and a counting engine."""

import csv
import io
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from blurtrain import (
    controls,
    exhibits,
    experiment,
    features,
    imagenet_c,
    inference,
    kernels,
    preparation,
    psf,
    runs,
    sensitivity,
    training,
)
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.engines import Engine
from blurtrain.errors import ConfigError, RunError
from blurtrain.files import read_sealed
from blurtrain.images import ImageSet
from blurtrain.sweep import PREDICTIONS, read_predictions
from blurtrain.views import CLEAN, Blur

pytestmark = pytest.mark.usefixtures("quiet")


def config_in(folder: Path) -> Config:
    """A small experiment with one heavy view."""
    return Config(
        name="tried",
        data=DataConfig(glyphs=GlyphsConfig(train=120, test=60)),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0)),),
        head=HeadConfig(folds=3, l2=(0.01, 0.1, 1.0)),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return config_in(tmp_path_factory.mktemp("evidence"))


@pytest.fixture(scope="module")
def found(config: Config) -> dict[str, Any]:
    return experiment.read_evidence(experiment.evidence(config))


def place(found: dict[str, Any], name: str, section: str = controls.CONTROLS) -> int:
    names = [(arm["name"], arm["section"]) for arm in found["arms"]]
    return names.index((name, section))


def test_arms_are_what_the_tables_need(config: Config) -> None:
    arms = {(arm.section, arm.name): arm.config for arm in controls.arms_of(config, 64)}
    copies = {key: [view.name for view in arm.train_views[1:]] for key, arm in arms.items()}
    assert copies[controls.CONTROLS, "baseline"] == []
    assert copies[controls.CONTROLS, "augmented"] == ["gaussian 0.5", "gaussian 1"]
    assert copies[controls.CONTROLS, "duplicated"] == ["clean", "clean"]
    assert copies[controls.CONTROLS, "heavy"] == ["gaussian 2"]
    for family in imagenet_c.FAMILIES:
        assert copies[controls.FAMILY, family] == [f"{family} severity 1", f"{family} severity 2"]
    assert copies[controls.NUMBER, "gaussian 0.333, 0.667, 1"] == [
        "gaussian 0.333333",
        "gaussian 0.666667",
        "gaussian 1",
    ]
    assert copies[controls.STRENGTH, "gaussian 2"] == ["gaussian 2"]
    tested = {arm.test_views for arm in arms.values()}
    assert len(tested) == 1
    assert len(tested.pop()) == 3 + 5 * 5


def test_numbers_agree_with_runs_of_the_same_arms(config: Config, found: dict[str, Any]) -> None:
    """Accuracy and gain of every view, from the predictions of ordinary runs."""
    arms = {arm.name: arm for arm in controls.arms_of(config, 64) if arm.section == controls.CONTROLS}
    ready = preparation.prepare(config)
    predictions = {}
    for name in ("baseline", "augmented", "heavy"):
        alone = replace(arms[name].config, name=f"alone-{name}")
        predictions[name] = training.train(alone, ready) / PREDICTIONS
    for view, cells in zip(arms["baseline"].config.test_views, found["views"], strict=True):
        read = {name: read_predictions(path, view) for name, path in predictions.items()}
        right = {name: one.correct[one.folds].astype(float) for name, one in read.items()}
        for name, values in right.items():
            row = cells["arms"][place(found, name)]
            assert row["accuracy"] == pytest.approx(values.mean(), abs=1e-12)
            if name != "baseline":
                expected = inference.crossed_difference(values - right["baseline"], read[name].groups)
                assert row["gain"]["difference"] == pytest.approx(expected.estimate, abs=1e-12)
                assert row["gain"]["p"] == pytest.approx(expected.p, nan_ok=True)


def test_duplicated_clean_images_change_nothing_for_the_convex_head(found: dict[str, Any]) -> None:
    where = place(found, "duplicated")
    for view in found["views"]:
        assert view["arms"][where]["gain"]["difference"] == 0
    assert found["arms"][where]["l2"] == found["arms"][place(found, "baseline")]["l2"]


def test_means_are_means_of_their_views(found: dict[str, Any]) -> None:
    views = {view["name"]: view for view in found["views"]}
    assert [mean["name"] for mean in found["means"]] == ["heavy", *imagenet_c.FAMILIES]
    for mean in found["means"]:
        for i in range(len(found["arms"])):
            expected = np.mean([views[name]["arms"][i]["accuracy"] for name in mean["views"]])
            assert mean["arms"][i]["accuracy"] == pytest.approx(expected)


def test_p_values_are_adjusted_over_the_table(found: dict[str, Any]) -> None:
    """Holm, written out: the k-th smallest of m times m - k + 1, never below the one before."""

    def holm(p_values: list[float]) -> list[float]:
        order = sorted(range(len(p_values)), key=lambda i: p_values[i])
        adjusted, running = [0.0] * len(p_values), 0.0
        for k, i in enumerate(order):
            running = max(running, (len(p_values) - k) * p_values[i])
            adjusted[i] = min(1.0, running)
        return adjusted

    matrix = [
        mean["arms"][i]["gain"]
        for i, arm in enumerate(found["arms"])
        if arm["section"] == controls.FAMILY
        for mean in found["means"]
        if mean["name"] != "heavy"
    ]
    assert len(matrix) == 25
    known = [cell for cell in matrix if cell["p"] is not None]
    for cell, expected in zip(known, holm([cell["p"] for cell in known]), strict=True):
        assert cell["p_holm"] == pytest.approx(expected)
        said = "not distinguishable" if expected >= 0.05 else "better" if cell["difference"] > 0 else "worse"
        assert cell["verdict"] == said


def test_no_pair_passes_the_backbone_twice(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: Counter[tuple[bytes, str]] = Counter()
    run = features._run

    def counting(engine: Engine, images: ImageSet, positions: np.ndarray, view: Blur) -> np.ndarray:
        passes.update((bytes(images.ids[i]), view.name) for i in positions)
        return run(engine, images, positions, view)

    monkeypatch.setattr(features, "_run", counting)
    monkeypatch.setattr(sensitivity, "SIZES", ())
    elsewhere = replace(config, runs=tmp_path / "runs", cache=tmp_path / "cache")
    once = experiment.read_evidence(experiment.evidence(elsewhere))["forward_passes"]
    assert set(passes.values()) == {1}
    assert once == {"distinct_pairs": len(passes), "computed": len(passes), "reused": 0}
    train = {view for arm in controls.arms_of(config, 64) for view in arm.config.train_views}
    test = controls.arms_of(config, 64)[0].config.test_views
    assert len(passes) == 120 * len(train) + 60 * len(test)
    again = experiment.read_evidence(experiment.evidence(replace(elsewhere, name="again")))["forward_passes"]
    assert again == {"distinct_pairs": len(passes), "computed": 0, "reused": len(passes)}


def test_finished_evidence_is_not_made_again(config: Config, found: dict[str, Any]) -> None:
    path = config.folder("evidence") / experiment.EVIDENCE
    before = path.stat().st_mtime_ns
    experiment.evidence(config)
    assert path.stat().st_mtime_ns == before
    assert read_sealed(path) == found


def test_another_config_does_not_take_the_folder(config: Config, found: dict[str, Any]) -> None:
    assert found
    with pytest.raises(RunError, match=r"holds a run with another config"):
        experiment.evidence(replace(config, copies=(BlurGrid("gaussian", (0.25,)),)))


def test_damaged_evidence_is_told(config: Config, tmp_path: Path) -> None:
    (tmp_path / experiment.EVIDENCE).write_text("{}")
    with pytest.raises(RunError, match=r"evidence.json cannot be used .* remove it"):
        experiment.read_evidence(tmp_path)
    assert config


def test_a_killed_job_keeps_its_heads(config: Config, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its last file the folder is unfinished: no arm is fitted again, and the same bytes come out."""
    path = config.folder("evidence") / experiment.EVIDENCE
    before = path.read_bytes()
    path.unlink()

    def refuse(*_: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(training, "fit_stored", refuse)
    experiment.evidence(config)
    again = json.loads(path.read_bytes())
    expected = json.loads(before)
    for one in (again, expected):
        one.pop("forward_passes")
        one.pop("sha256", None)
        one.pop("seal", None)
    assert {key: again[key] for key in found if key != "forward_passes"} == {
        key: expected[key] for key in found if key != "forward_passes"
    }


def test_damaged_heads_are_fitted_again(config: Config, found: dict[str, Any], tmp_path: Path) -> None:
    assert found
    arms = controls.arms_of(config, 64)[:1]
    ready = preparation.prepare(config)
    first = controls.fit_all(arms, ready, tmp_path)[0].heads
    (file,) = tmp_path.glob("*.safetensors")
    data = bytearray(file.read_bytes())
    data[-3] ^= 1
    file.write_bytes(bytes(data))
    np.testing.assert_array_equal(controls.fit_all(arms, ready, tmp_path)[0].heads.weights, first.weights)
    file.write_bytes(b"nothing")
    np.testing.assert_array_equal(controls.fit_all(arms, ready, tmp_path)[0].heads.weights, first.weights)


def test_every_cell_of_the_csv_has_its_counts(config: Config, found: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO((config.folder("evidence") / "evidence.csv").read_text())))
    assert len(rows) == len(found["arms"]) * (len(found["views"]) + len(found["means"]))
    for row in rows:
        assert (row["n_test"], row["heads"]) == ("60", "3")
        assert row["accuracy"]
        assert (row["verdict"] == "") == (row["arm"] == "baseline")
    heavy = [row for row in rows if row["view"] == "mean of gaussian 2" and row["arm"] == "augmented"]
    assert len(heavy) == 1
    assert float(heavy[0]["difference"]) == found["means"][0]["arms"][1]["gain"]["difference"]


def test_tables_fit_a_terminal_and_show_every_cell(found: dict[str, Any]) -> None:
    text = exhibits.tables(
        found | {"n_test": 10_000_000, "severities": "ImageNet-C's table for 224 px, lengths times 1.34"}
    )
    assert max(map(len, text.splitlines())) <= 100
    text = exhibits.tables(found)
    assert max(map(len, text.splitlines())) <= 100
    for mean in found["means"][1:]:
        for i, arm in enumerate(found["arms"]):
            if arm["section"] == controls.FAMILY:
                gain = mean["arms"][i]["gain"]
                assert f"{100 * gain['difference']:+.1f} {exhibits.MARKS[gain['verdict']]}" in text
    assert "mean of 3 heads an arm" in text
    assert "ImageNet-C's table for 64 px" in text


def test_pictures_are_drawn(config: Config, found: dict[str, Any]) -> None:
    assert found
    names = {path.name for path in (config.folder("evidence") / "figures").iterdir()}
    assert names == {"families.png", "strengths.png", "sensitivity.png"}


def test_settings_change_one_thing_at_a_time(config: Config) -> None:
    names = [setting.name for setting in sensitivity.settings(config, 64)]
    assert names == [
        "as configured",
        "features as they are",
        "l2 0.01",
        "l2 from 0.1 to 1",
        "input of 48 px",
        "input of 80 px",
    ]


def test_sensitivity_begins_with_the_gain_itself(found: dict[str, Any]) -> None:
    first = found["sensitivity"][0]
    assert first["heavy"]["difference"] == pytest.approx(found["means"][0]["arms"][1]["gain"]["difference"])
    assert len({one["heavy"]["difference"] for one in found["sensitivity"]}) > 1


def test_blurs_grow_with_the_input() -> None:
    grid = sensitivity._scaled(BlurGrid("gaussian", (0.0, 1.0, 3.0)), 1.25)
    assert grid.strengths == (0, 1.25, 3.75)
    assert sensitivity._scaled(BlurGrid("box", (3.0, 9.0)), 0.75).strengths == (3, 7)
    severities = BlurGrid("zoom", severity=(1, 2))
    assert sensitivity._scaled(severities, 0.75) == severities


@pytest.mark.parametrize(
    ("verdicts", "said"),
    [
        (["better", "better"], "The verdict, better, is the same in all 2 settings; "),
        (["better", "worse"], "The verdict, better, depends on the setting: worse with setting 1; "),
    ],
)
def test_sentence_on_the_sensitivity(verdicts: list[str], said: str) -> None:
    found = [
        {"setting": f"setting {i}", "heavy": {"verdict": verdict, "difference": 0.1 * i}}
        for i, verdict in enumerate(verdicts)
    ]
    text = sensitivity.sentence(found)
    assert text == f"{said}the gain under heavy blur lies between +0.0 and +10.0 points."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"copies": ()}, "copies is empty, so there is nothing to give evidence for"),
        ({"cache": False}, "cache must be a folder for evidence"),
        ({"duplicated": True}, "duplicated must be false for evidence"),
        ({"bn": "adapt"}, "bn must be frozen for evidence, whose arms share one backbone, got 'adapt'"),
    ],
)
def test_what_no_evidence_can_be_given_for_is_told(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        experiment.evidence(replace(config_in(tmp_path), **change))


def test_evidence_without_a_heavy_view_has_no_such_column(tmp_path: Path) -> None:
    mild = replace(config_in(tmp_path), sweep=(BlurGrid("gaussian", (0.0, 1.0)),))
    found = experiment.read_evidence(experiment.evidence(mild))
    assert "heavy" not in [mean["name"] for mean in found["means"]]
    assert found["sensitivity"] == []
    assert "heavy" not in [arm["name"] for arm in found["arms"]]
    assert exhibits.tables(found)


def test_a_backbone_of_another_size_names_its_table(tmp_path: Path) -> None:
    config = replace(config_in(tmp_path), backbone=BackboneConfig(resize=40, crop=40))
    mild = replace(config, sweep=(BlurGrid("gaussian", (0.0, 1.0)),))
    found = experiment.read_evidence(experiment.evidence(mild))
    assert found["severities"] == "ImageNet-C's table for 32 px, lengths times 1.25"
    assert found["views"][0]["name"] == CLEAN.name
    assert math.isfinite(found["views"][0]["arms"][0]["accuracy"])
    assert runs.CONFIG in {path.name for path in mild.folder("evidence").iterdir()}


def test_blurs_that_cannot_be_scaled_leave_their_size_out() -> None:
    boxes = Config(copies=(BlurGrid("box", (3.0,)),), sweep=(BlurGrid("box", (7.0,)),))
    names = [setting.name for setting in sensitivity.settings(boxes, 64)]
    assert "input of 48 px" not in names  # there box 5 is not twice as wide as box 3
    trails = Config(copies=(BlurGrid("half-gaussian", (50.0,)),), sweep=(BlurGrid("half-gaussian", (240.0,)),))
    names = [setting.name for setting in sensitivity.settings(trails, 64)]
    assert "input of 80 px" not in names
    assert "input of 48 px" in names


def test_heads_are_fitted_again_where_a_measured_blur_has_changed(config: Config, tmp_path: Path) -> None:
    """The path is the same, so that only the file's content can tell."""
    file = tmp_path / "camera.npy"
    arm = replace(config, copies=(BlurGrid("psf", (1.0,), file=str(file)),))
    ready = preparation.prepare(config)
    assert ready.store is not None

    def fitted() -> np.ndarray:
        for cached in (psf.read, kernels.kernel):  # what a new process would not remember
            cached.cache_clear()
        wanted = preparation.wanted_by([arm], ready.images)
        assert ready.store is not None
        features.extract(ready.images, wanted, ready.engine, ready.store, arm.batch_size)
        (one,) = controls.fit_all([controls.Arm("own", controls.CONTROLS, arm)], ready, tmp_path / "heads")
        return one.heads.weights

    np.save(file, np.ones((1, 5)) / 5)
    across = fitted()
    np.save(file, np.ones((5, 1)) / 5)
    assert not np.array_equal(fitted(), across)
