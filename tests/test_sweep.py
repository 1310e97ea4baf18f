"""Predictions against an independent softmax, and metrics against scikit-learn and torchmetrics."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from jaxtyping import Float, Int64
from scipy.special import softmax
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score
from torchmetrics.functional.classification import binary_calibration_error

from blurtrain import sweep
from blurtrain.config import Config
from blurtrain.errors import RunError
from blurtrain.views import CLEAN, Blur, RealView, View

COLUMNS = ["image", "group", "view", "family", "strength", "angle", "border", "head", "label", "predicted"]
COLUMNS += ["probability", "confidence", "margin", "rank"]
VIEWS = (CLEAN, Blur("gaussian", 2.0), Blur("motion", 5.0, 30.0, "zero"))
PHONE = RealView("phone")
HEADS = ("fold-0", "fold-1", "refit")
IMAGES, CLASSES = 7, 12
LABELS: Int64[np.ndarray, " images"] = np.arange(IMAGES, dtype=np.int64) * 5 % CLASSES

Logits = Float[np.ndarray, "heads images classes"]


def made_up_logits(view: View) -> Logits:
    """Whole numbers, so that many classes tie."""
    generator = np.random.default_rng([[*VIEWS, PHONE].index(view), 1])
    return generator.integers(-3, 4, (len(HEADS), IMAGES, CLASSES)).astype(np.float64)


def write(path: Path) -> Path:
    sweep.write_predictions(
        path,
        ids=np.array([f"image-{i}".encode() for i in range(IMAGES)]),
        groups=[f"font-{i // 2}" for i in range(IMAGES)],
        labels=LABELS,
        views=VIEWS,
        heads=HEADS,
        logits=lambda view, block: made_up_logits(view)[:, block],
    )
    return path


@pytest.fixture
def predictions(tmp_path: Path) -> Path:
    return write(tmp_path / "predictions.parquet")


def test_table_has_one_row_for_each_view_head_and_image(predictions: Path) -> None:
    table = pq.read_table(predictions)
    assert table.column_names == COLUMNS
    expected = [(view.name, head, f"image-{i}") for view in VIEWS for head in HEADS for i in range(IMAGES)]
    assert list(zip(*(table[name].to_pylist() for name in ("view", "head", "image")), strict=True)) == expected
    assert table["group"].to_pylist() == [f"font-{i // 2}" for i in range(IMAGES)] * 9
    assert table["label"].to_pylist() == LABELS.tolist() * 9


def test_table_says_what_each_view_is(predictions: Path) -> None:
    rows = pq.read_table(predictions, columns=["view", "family", "strength", "angle", "border"]).to_pylist()
    each = len(HEADS) * IMAGES
    assert [rows[i * each] for i in range(3)] == [
        {"view": "clean", "family": "clean", "strength": 0, "angle": None, "border": "reflect101"},
        {"view": "gaussian 2", "family": "gaussian", "strength": 2, "angle": None, "border": "reflect101"},
        {"view": "motion 5 at 30 degrees zero", "family": "motion", "strength": 5, "angle": 30, "border": "zero"},
    ]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.family)
def test_probabilities_match_scipys_softmax_and_ranks_a_count(predictions: Path, view: Blur) -> None:
    logits = made_up_logits(view)
    expected = softmax(logits, axis=-1)
    table = pq.read_table(predictions, filters=[("view", "=", view.name)])
    column = {name: table[name].to_numpy().reshape(len(HEADS), IMAGES) for name in table.column_names}
    for head in range(len(HEADS)):
        for i, label in enumerate(LABELS):
            others = np.delete(expected[head, i], label)
            assert column["probability"][head, i] == pytest.approx(expected[head, i, label], rel=1e-6)
            assert column["confidence"][head, i] == pytest.approx(expected[head, i].max(), rel=1e-6)
            assert column["margin"][head, i] == pytest.approx(expected[head, i, label] - others.max(), abs=1e-7)
            assert column["rank"][head, i] == sum(logits[head, i] > logits[head, i, label])
            assert logits[head, i, column["predicted"][head, i]] == logits[head, i].max()


def test_ties_count_for_the_label_in_its_rank_and_for_the_first_class_in_the_prediction(tmp_path: Path) -> None:
    logits: Logits = np.zeros((1, 3, 4))
    logits[0, 1] = [0, 5, 5, 0]
    path = tmp_path / "ties.parquet"
    sweep.write_predictions(
        path,
        ids=np.array([b"a", b"b", b"c"]),
        groups=["a", "b", "c"],
        labels=np.array([3, 2, 0]),
        views=[CLEAN],
        heads=["refit"],
        logits=lambda _, block: logits[:, block],
    )
    table = pq.read_table(path)
    assert table["rank"].to_pylist() == [0, 0, 0]
    assert table["margin"].to_pylist() == [0, 0, 0]
    assert table["predicted"].to_pylist() == [0, 1, 0]
    np.testing.assert_allclose(table["probability"].to_pylist(), [0.25, 0.5 / (1 + np.exp(-5)), 0.25], rtol=1e-6)


def test_enormous_logits_overflow_nothing(tmp_path: Path) -> None:
    logits: Logits = np.array([[[1e308, -1e308], [-800.0, 800.0]]])
    path = tmp_path / "large.parquet"
    sweep.write_predictions(
        path,
        ids=np.array([b"a", b"b"]),
        groups=["a", "b"],
        labels=np.array([0, 0]),
        views=[CLEAN],
        heads=["refit"],
        logits=lambda _, block: logits[:, block] / 2,
    )
    assert pq.read_table(path)["probability"].to_pylist() == [1, 0]


def test_several_blocks_give_the_same_table(predictions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BLOCK", 3)
    blocks = write(tmp_path / "blocks.parquet")
    for view in VIEWS:
        whole, parts = sweep.read_predictions(predictions, view), sweep.read_predictions(blocks, view)
        assert whole.heads == parts.heads
        for name in ("images", "groups", "labels", "predicted", "probability", "confidence", "rank"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.family)
def test_predictions_are_read_back_in_the_order_that_they_were_written(predictions: Path, view: Blur) -> None:
    read = sweep.read_predictions(predictions, view)
    assert read.heads == list(HEADS)
    assert read.folds == [0, 1]
    assert read.images.tolist() == [f"image-{i}" for i in range(IMAGES)]
    np.testing.assert_array_equal(read.labels, LABELS)
    np.testing.assert_array_equal(read.predicted, made_up_logits(view).argmax(-1))
    np.testing.assert_array_equal(read.correct, made_up_logits(view).argmax(-1) == LABELS)


def test_heads_of_a_longer_training_are_read_where_they_are_asked_for(tmp_path: Path) -> None:
    logits: Logits = np.random.default_rng(0).normal(size=(4, IMAGES, CLASSES))
    path = tmp_path / "predictions.parquet"
    sweep.write_predictions(
        path,
        ids=np.array([f"image-{i}".encode() for i in range(IMAGES)]),
        groups=[f"font-{i}" for i in range(IMAGES)],
        labels=LABELS,
        views=[CLEAN],
        heads=sweep.head_names(1, equal_epochs=True),
        logits=lambda _, block: logits[:, block],
    )
    for equal_epochs, expected in ((False, logits[:2]), (True, logits[2:])):
        read = sweep.read_predictions(path, CLEAN, equal_epochs=equal_epochs)
        assert read.heads == ["fold-0", "refit"]
        np.testing.assert_array_equal(read.predicted, expected.argmax(-1))
        np.testing.assert_allclose(read.confidence, softmax(expected, axis=-1).max(-1), rtol=1e-6)


def test_a_view_that_is_not_there_is_named(predictions: Path) -> None:
    with pytest.raises(RunError, match=r"has no predictions for gaussian 3: the runs must share their sweep"):
        sweep.read_predictions(predictions, Blur("gaussian", 3.0))


@pytest.mark.parametrize("contents", [None, b"no parquet"])
def test_a_file_that_is_no_table_is_named(tmp_path: Path, contents: bytes | None) -> None:
    path = tmp_path / "predictions.parquet"
    if contents is not None:
        path.write_bytes(contents)
    with pytest.raises(RunError, match=r"predictions.parquet cannot be read"):
        sweep.read_predictions(path, CLEAN)


def test_metrics_of_made_up_logits_match_scikit_learn(predictions: Path) -> None:
    view = VIEWS[1]
    row = sweep.metrics_of(sweep.read_predictions(predictions, view), view, CLASSES, 2.5)
    logits = made_up_logits(view)
    probabilities = softmax(logits, axis=-1)
    predicted = logits.argmax(-1)
    every = [accuracy_score(LABELS, predicted[head]) for head in range(3)]
    assert row.accuracy == pytest.approx(np.mean(every[:2]))
    assert row.accuracy_sd == pytest.approx(np.std(every[:2], ddof=1))
    assert row.accuracy_refit == pytest.approx(every[2])
    assert row.nll == pytest.approx(np.mean(-np.log(probabilities[:2, np.arange(IMAGES), LABELS])), rel=1e-6)
    assert (row.strength, row.strength_native, row.angle) == (2.0, 5.0, None)
    assert (row.images, row.heads) == (IMAGES, 2)


def test_top5_matches_scikit_learn_where_there_are_more_than_ten_classes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    logits: Logits = generator.normal(size=(2, 40, 11))  # no ties, which scikit-learn counts otherwise
    labels = generator.integers(0, 11, 40)
    path = tmp_path / "predictions.parquet"
    sweep.write_predictions(
        path,
        ids=np.array([f"{i:02}".encode() for i in range(40)]),
        groups=[str(i) for i in range(40)],
        labels=labels,
        views=[CLEAN],
        heads=["fold-0", "refit"],
        logits=lambda _, block: logits[:, block],
    )
    read = sweep.read_predictions(path, CLEAN)
    expected = top_k_accuracy_score(labels, logits[0], k=5, labels=np.arange(11))
    assert sweep.metrics_of(read, CLEAN, 11, 1.0).top5_accuracy == pytest.approx(expected)
    assert sweep.metrics_of(replace(read, labels=read.labels % 10), CLEAN, 10, 1.0).top5_accuracy is None


def test_one_fold_has_no_spread(tmp_path: Path) -> None:
    path = write(tmp_path / "predictions.parquet")
    read = sweep.read_predictions(path, CLEAN)
    two = {name: getattr(read, name)[:2] for name in ("predicted", "probability", "confidence", "rank")}
    alone = replace(read, heads=["fold-0", "refit"], **two)
    assert sweep.metrics_of(alone, CLEAN, CLASSES, 1.0).accuracy_sd == 0


@pytest.mark.parametrize("arm", ["baseline", "augmented"])
def test_sweep_of_a_run_follows_from_its_predictions(experiment: Config, arm: str) -> None:
    config = experiment.baseline() if arm == "baseline" else experiment
    rows = json.loads((config.run_folder / "sweep.json").read_text())
    table = pq.read_table(config.run_folder / "predictions.parquet")
    column = {name: table[name].to_numpy() for name in table.column_names}
    assert len(table) == len(config.test_views) * 6 * 90
    assert [row["view"] for row in rows] == [view.name for view in config.test_views]
    for row in rows:
        heads = []
        for head in (*(f"fold-{i}" for i in range(5)), "refit"):
            here = (column["view"] == row["view"]) & (column["head"] == head)
            heads.append({name: values[here] for name, values in column.items()})
        folds = heads[:-1]
        accuracies = [accuracy_score(head["label"], head["predicted"]) for head in folds]
        assert row["accuracy"] == pytest.approx(np.mean(accuracies))
        assert row["accuracy_sd"] == pytest.approx(np.std(accuracies, ddof=1))
        assert row["accuracy_refit"] == pytest.approx(accuracy_score(heads[-1]["label"], heads[-1]["predicted"]))
        macro = [balanced_accuracy_score(head["label"], head["predicted"]) for head in folds]
        assert row["macro_accuracy"] == pytest.approx(np.mean(macro))
        assert row["nll"] == pytest.approx(np.mean([-np.log(head["probability"].astype(float)) for head in folds]))
        calibration = [
            binary_calibration_error(
                torch.tensor(head["confidence"]), torch.tensor(head["predicted"] == head["label"]).long(), n_bins=15
            )
            for head in folds
        ]
        assert row["ece"] == pytest.approx(np.mean(calibration), abs=1e-5)
        assert row["top5_accuracy"] is None  # ten classes
        assert (row["images"], row["heads"]) == (90, 5)


def test_confidence_and_margin_of_a_run_agree_with_each_other(experiment: Config) -> None:
    table = pq.read_table(experiment.run_folder / "predictions.parquet")
    column = {name: table[name].to_numpy() for name in table.column_names}
    right = column["predicted"] == column["label"]
    np.testing.assert_array_equal(column["rank"][right], 0)
    np.testing.assert_array_equal(column["probability"][right], column["confidence"][right])
    assert (column["margin"][right] >= 0).all()
    assert (column["margin"][~right] <= 0).all()
    gap = column["probability"] - column["confidence"]
    np.testing.assert_allclose(column["margin"][~right], gap[~right], atol=1e-6)


def test_csv_holds_the_same_as_json(experiment: Config) -> None:
    rows = json.loads((experiment.run_folder / "sweep.json").read_text())
    read = list(csv.DictReader(io.StringIO((experiment.run_folder / "sweep.csv").read_text())))
    assert [list(row) for row in read] == [list(row) for row in rows]
    for text, row in zip(read, rows, strict=True):
        assert text == {key: "" if value is None else str(value) for key, value in row.items()}


def test_really_blurred_photographs_have_images_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "BLOCK", 3)
    own = sweep.Subjects(np.array([b"p", b"q", b"r", b"s"]), ["p", "p", "r", "s"], np.array([4, 0, 1, 2]))
    sweep.write_predictions(
        tmp_path / "predictions.parquet",
        ids=np.array([f"image-{i}".encode() for i in range(IMAGES)]),
        groups=[f"font-{i // 2}" for i in range(IMAGES)],
        labels=LABELS,
        views=VIEWS,
        heads=HEADS,
        logits=lambda view, block: made_up_logits(view)[:, : 4 if view == PHONE else IMAGES][:, block],
        real={PHONE: own},
    )
    read = sweep.read_predictions(tmp_path / "predictions.parquet", PHONE)
    assert (read.images.tolist(), read.groups.tolist()) == (["p", "q", "r", "s"], ["p", "p", "r", "s"])
    assert read.labels.tolist() == [4, 0, 1, 2]
    np.testing.assert_array_equal(read.predicted, made_up_logits(PHONE)[:, :4].argmax(-1))
    row = sweep.metrics_of(read, PHONE, CLASSES, 2.5)
    assert (row.view, row.family, row.curve, row.images) == ("phone", "real", "phone", 4)
    assert (row.strength, row.strength_native, row.angle) == (None, None, None)
    assert len(sweep.read_predictions(tmp_path / "predictions.parquet", CLEAN).labels) == IMAGES
