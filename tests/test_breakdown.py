"""Classes and images of a comparison, counted again from the stored predictions row by row."""

import csv
import itertools
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blurtrain import breakdown, comparison, experiment, roster, runs, tables
from blurtrain.breakdown import Tally
from blurtrain.config import BlurGrid, Config
from blurtrain.errors import RunError, StoreError
from blurtrain.roster import TEST_IMAGES, Roster, read_roster, write_roster
from blurtrain.views import CLEAN, Blur
from tests.test_comparison import AUGMENTED, BASELINE_CORRECT, RESULT, made_up, make_run
from tests.test_inference import plain_reference

HEAVY_VIEWS = ("gaussian 2", "gaussian 2.5", "gaussian 3")  # of the shared experiment


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def often(folder: Path, views: Sequence[str]) -> dict[str, list[bool]]:
    """Whether each fold's head is right on each image in each view, by image."""
    found: dict[str, list[bool]] = defaultdict(list)
    for row in pq.read_table(folder / "predictions.parquet").to_pylist():
        if row["view"] in views and row["head"].startswith("fold"):
            found[row["image"]].append(row["predicted"] == row["label"])
    return found


# images.csv


def test_every_row_of_images_follows_from_the_predictions(experiment: Config) -> None:
    folders = (experiment.baseline().run_folder, experiment.run_folder)
    heavy, clean = ([often(folder, views) for folder in folders] for views in (HEAVY_VIEWS, ["clean"]))
    labels = {row["image"]: row["label"] for row in pq.read_table(folders[0] / "predictions.parquet").to_pylist()}
    names = {row["image"]: row["file"] for row in pq.read_table(folders[0] / TEST_IMAGES).to_pylist()}
    rows = read_csv(experiment.comparison_folder / "images.csv")
    assert sorted(row["image"] for row in rows) == sorted(labels)
    for row in rows:
        image = row["image"]
        before, after = (sum(right[image]) / 15 for right in heavy)
        assert (row["file"], row["class"], row["arm"]) == (names[image], str(labels[image]), "augmented")
        assert [float(row[key]) for key in ("reference_heavy", "arm_heavy")] == pytest.approx([before, after])
        assert float(row["change"]) == pytest.approx(after - before, abs=1e-12)
        expected = [sum(right[image]) / 5 for right in clean]
        assert [float(row[key]) for key in ("reference_clean", "arm_clean")] == pytest.approx(expected)
        words = {(0, 1): "rescued", (1, 0): "lost", (1, 1): "right in both", (0, 0): "wrong in both"}
        assert row["kind"] == words[before > 0.5, after > 0.5]


def test_images_that_gain_most_come_first_and_the_others_in_the_order_of_content(experiment: Config) -> None:
    rows = read_csv(experiment.comparison_folder / "images.csv")
    keys = [(-float(row["change"]), row["image"]) for row in rows]
    assert keys == sorted(keys)
    assert keys[0][0] < 0 < keys[-1][0]


def test_names_are_those_of_the_source(experiment: Config) -> None:
    rows = read_csv(experiment.comparison_folder / "images.csv")
    assert len({row["file"] for row in rows}) == 90
    for row in rows:
        assert row["file"].split("/")[:2] == ["test", row["class"]]


def test_counts_in_json_are_those_of_the_table(experiment: Config) -> None:
    rows = read_csv(experiment.comparison_folder / "images.csv")
    result = json.loads((experiment.comparison_folder / "comparison.json").read_text())
    assert set(result["images"]) == {"augmented"}
    for kind, count in result["images"]["augmented"].items():
        assert count == sum(row["kind"] == kind for row in rows)
    assert sum(result["images"]["augmented"].values()) == 90


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ([1, 1, 0, 0], [1, 1, 1, 0], "rescued"),  # half of all is no majority
        ([1, 1, 1, 0], [1, 1, 0, 0], "lost"),
        ([1, 1, 1, 0], [1, 1, 1, 1], "right in both"),
        ([0, 0, 0, 0], [1, 1, 0, 0], "wrong in both"),
    ],
)
def test_most_heads_in_most_views_decide(tmp_path: Path, before: list[int], after: list[int], kind: str) -> None:
    """One image, two heads, two heavy views; a second image that is always right."""
    config = Config(copies=AUGMENTED.copies, sweep=(BlurGrid("gaussian", (2.0, 3.0)),), name="two", runs=tmp_path)
    folders = []
    for arm, right in (("baseline", before), ("augmented", after)):
        views = {Blur("gaussian", strength): [[right[i], 1], [right[i + 1], 1]] for i, strength in ((0, 2.0), (2, 3.0))}
        one = config if arm == "augmented" else config.baseline()
        folders.append(make_run(tmp_path / arm, one, {CLEAN: [[1, 1], [0, 1]], **views}))
    compared = comparison.compared(folders)
    assert compared.result["images"]["augmented"] == {**dict.fromkeys(breakdown.KINDS, 0), "right in both": 1} | {
        kind: 2 if kind == "right in both" else 1
    }
    breakdown.write_images(tmp_path / "images.csv", made(compared.counts), compared.classes, compared.roster)
    row = next(row for row in read_csv(tmp_path / "images.csv") if row["image"] == "00")
    assert (row["kind"], float(row["reference_clean"])) == (kind, 0.5)
    assert [float(row["reference_heavy"]), float(row["arm_heavy"])] == [sum(before) / 4, sum(after) / 4]


def made(counts: Tally | None) -> Tally:
    assert counts is not None
    return counts


def random_tally(images: int, classes: int, seed: int = 0, views: int = 4) -> tuple[Tally, list[dict[str, np.ndarray]]]:
    """Three arms of three heads, and the views that the counts are of."""
    rng = np.random.default_rng(seed)
    seen = [{arm: rng.random((3, images)) < 0.5 for arm in ("first", "second", "third")} for _ in range(views + 1)]
    labels, groups = rng.integers(0, classes, images), rng.integers(0, max(images // 3, 2), images)
    return breakdown.tally(seen[1:], seen[0], labels, groups.astype(str)), seen


def test_blocks_of_any_size_give_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, _ = random_tally(50, 4)
    names = np.array([f"{i:03}".encode() for i in range(50)])
    write_roster(tmp_path / "names", {None: (names, [f'odd, "name"\n{i}' for i in range(50)])})
    known = read_roster(tmp_path / "names")
    breakdown.write_images(tmp_path / "whole.csv", counts, ["a", "b,c", "d", "e"], known)
    monkeypatch.setattr(breakdown, "BLOCK", 7)
    breakdown.write_images(tmp_path / "parts.csv", counts, ["a", "b,c", "d", "e"], known)
    assert (tmp_path / "whole.csv").read_bytes() == (tmp_path / "parts.csv").read_bytes()
    rows = read_csv(tmp_path / "parts.csv")
    assert [row["arm"] for row in rows] == ["second"] * 50 + ["third"] * 50
    assert all(row["file"] == f'odd, "name"\n{int(row["image"])}' for row in rows)


def test_only_a_block_of_names_is_ever_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts, _ = random_tally(100, 4)
    asked: list[int] = []
    rows = Roster.rows

    def noting(self: Roster, positions: np.ndarray) -> tuple[list[str], list[str]]:
        asked.append(len(positions))
        return rows(self, positions)

    monkeypatch.setattr(Roster, "rows", noting)
    monkeypatch.setattr(breakdown, "BLOCK", 16)
    write_roster(tmp_path / "names", {None: (np.array([f"{i:03}".encode() for i in range(100)]), ["x"] * 100)})
    breakdown.write_images(tmp_path / "images.csv", counts, list("abcd"), read_roster(tmp_path / "names"))
    assert sum(asked) == 200
    assert max(asked) == 16


# classes.csv


def test_classes_csv_holds_the_same_as_json(experiment: Config) -> None:
    result = json.loads((experiment.comparison_folder / "comparison.json").read_text())
    rows = read_csv(experiment.comparison_folder / "classes.csv")
    assert [row["class"] for row in rows] == list("0123456789")
    for row, own in zip(rows, result["classes"], strict=True):
        low, high = own.pop("ci95")
        assert row == {
            key: "" if value is None else str(value)
            for key, value in (own | {"ci95_low": low, "ci95_high": high}).items()
        }


def test_class_rows_by_hand(tmp_path: Path) -> None:
    """The example of test_comparison.py: even images are of class no, odd ones of class yes."""
    no, yes = comparison.compare_runs(made_up(tmp_path))["classes"]
    assert (no["class"], no["arm"], no["images"], no["groups"]) == ("no", "augmented", 2, 2)
    assert [no[key] for key in ("reference_clean", "arm_clean", "reference_heavy", "arm_heavy")] == [1, 0.5, 0.5, 0.75]
    assert (no["reference_loss"], no["difference"]) == (0.5, 0.25)
    assert [yes[key] for key in ("reference_clean", "arm_clean", "reference_heavy", "arm_heavy")] == [
        0.5,
        0.75,
        0.25,
        0.75,
    ]
    assert (yes["reference_loss"], yes["difference"]) == (0.25, 0.5)
    # Class no gains 0 0 and 0 1 (by head): MS_image = MS_head = MS_residual = 1/4, SE^2 = 1/16, t = 1 with 1 degree of
    # freedom, whose p is 1/2. Class yes gains 1 0 and 1 0: SE^2 = 1/4, the same t.
    assert [no["p"], yes["p"]] == pytest.approx([0.5, 0.5])
    assert [no["p_holm"], yes["p_holm"]] == pytest.approx([1, 1])
    assert (no["verdict"], yes["verdict"]) == ("not distinguishable",) * 2


def test_gains_and_intervals_are_those_of_the_class_alone() -> None:
    counts, seen = random_tally(120, 5)
    for row in breakdown.class_rows(counts, list("abcde")):
        here = counts.labels == "abcde".index(row["class"])
        gain = np.mean([view[row["arm"]][:, here].astype(float) - view["first"][:, here] for view in seen[1:]], axis=0)
        estimate, variance, _ = plain_reference(gain, counts.groups[here])
        assert (row["images"], row["groups"]) == (here.sum(), len(set(counts.groups[here].tolist())))
        assert row["difference"] == pytest.approx(estimate)
        assert np.mean(row["ci95"]) == pytest.approx(estimate)
        assert row["ci95"][1] - row["ci95"][0] > 3.9 * np.sqrt(variance)  # t is wider than the normal's 1.96
        assert row["reference_loss"] == pytest.approx(
            seen[0]["first"][:, here].mean() - np.mean([view["first"][:, here] for view in seen[1:]])
        )


def test_verdicts_are_adjusted_over_the_classes_of_one_arm() -> None:
    counts, _ = random_tally(400, 8)
    rows = breakdown.class_rows(counts, list("abcdefgh"))
    assert [row["arm"] for row in rows] == ["second"] * 8 + ["third"] * 8
    for own in (rows[:8], rows[8:]):
        by_p = sorted(own, key=lambda row: float(row["p"]))
        largest = itertools.accumulate(((8 - i) * row["p"] for i, row in enumerate(by_p)), max)
        assert [row["p_holm"] for row in by_p] == pytest.approx([min(value, 1) for value in largest])
    assert rows[0]["p_holm"] > rows[0]["p"]


def test_classes_without_test_images_have_no_row() -> None:
    counts, _ = random_tally(30, 2)
    assert [row["class"] for row in breakdown.class_rows(counts, ["a", "b", "never"])] == ["a", "b"] * 2


def test_a_class_of_one_image_has_no_interval(tmp_path: Path) -> None:
    options: dict[str, Any] = {"labels": [0, 1, 1, 1]}
    rows = comparison.compare_runs(made_up(tmp_path, **options))["classes"]
    assert rows[0]["images"] == 1
    assert (rows[0]["ci95"], rows[0]["p"], rows[0]["p_holm"]) == ([None, None], None, None)
    assert rows[0]["verdict"] == "not distinguishable"
    text = tables.classes_text(rows).splitlines()[1]
    assert text.startswith("no,augmented,1,1,")
    assert ",,,,,not distinguishable," in text


def test_the_heavy_views_alone_are_counted() -> None:
    counts, seen = random_tally(20, 2, views=3)
    assert (counts.views, counts.seen) == (3, 9)
    for arm in ("first", "second", "third"):
        np.testing.assert_array_equal(counts.times_right(arm), sum(view[arm].sum(0) for view in seen[1:]))
        np.testing.assert_array_equal(counts.clean[arm], seen[0][arm])


# where no view is heavy


def test_without_a_heavy_view_there_are_no_tables(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    target = experiment.compare_runs(folders, tmp_path / "compare")
    assert {"classes.csv", "images.csv"} <= {path.name for path in target.iterdir()}
    wide = Config(name="made-up", copies=(BlurGrid("gaussian", (1.5,)),), sweep=AUGMENTED.sweep)
    make_run(tmp_path / "augmented", wide, BASELINE_CORRECT)
    result = experiment.read_comparison(experiment.compare_runs(folders, target))
    assert (result["heavy_mean"], result["classes"], result["images"]) == (None, None, None)
    assert not {"classes.csv", "images.csv"} & {path.name for path in target.iterdir()}


# names


def test_names_are_read_back_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = np.array([b"c", b"a", b"b"])
    monkeypatch.setattr(roster, "BLOCK", 2)
    write_roster(tmp_path / "names.parquet", {None: (names, ["x", "日本\n", "z"])})
    known = read_roster(tmp_path / "names.parquet")
    assert known.rows(np.array([2, 1])) == (["z", "日本\n"], ["b", "a"])
    known.require(np.array(["c", "a", "b"], object), tmp_path)
    assert pq.read_schema(tmp_path / "names.parquet").names == ["extra_test", "image", "file"]


@pytest.mark.parametrize("others", [["c", "a"], ["a", "c", "b"], ["c", "a", "x"]])
def test_names_of_other_images_are_refused(tmp_path: Path, others: list[str]) -> None:
    known = Roster(*(pa.array(["c", "a", "b"], pa.large_string()) for _ in range(2)))
    with pytest.raises(RunError, match=r"test-images.parquet names other images than the predictions: train that run"):
        known.require(np.array(others, object), tmp_path)


def test_a_comparison_refuses_names_of_other_images(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    write_roster(folders[0] / TEST_IMAGES, {None: (np.array([b"00", b"01", b"03", b"02"]), ["a", "b", "c", "d"])})
    runs.finish(folders[0], {**RESULT, "classes": ["no", "yes"]})
    with pytest.raises(RunError, match=r"names other images than the predictions"):
        comparison.compare_runs(folders)


@pytest.mark.parametrize("contents", [None, b"other bytes"])
def test_a_run_without_its_names_is_refused(tmp_path: Path, contents: bytes | None) -> None:
    folders = made_up(tmp_path)
    (folders[0] / TEST_IMAGES).unlink()
    if contents is not None:
        (folders[0] / TEST_IMAGES).write_bytes(contents)
    with pytest.raises(RunError, match=r"test-images.parquet (cannot be read|is not what was written)"):
        comparison.compare_runs(folders)


@pytest.mark.parametrize("contents", [None, b"no parquet"])
def test_a_table_of_names_that_is_none_is_named(tmp_path: Path, contents: bytes | None) -> None:
    if contents is not None:
        (tmp_path / TEST_IMAGES).write_bytes(contents)
    with pytest.raises(RunError, match=r"test-images.parquet cannot be read: train that run again"):
        read_roster(tmp_path / TEST_IMAGES)


def test_a_table_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    counts, _ = random_tally(5, 2)
    known = Roster(*(pa.array(list("abcde"), pa.large_string()) for _ in range(2)))
    with pytest.raises(StoreError, match=r"images.csv cannot be written"):
        breakdown.write_images(tmp_path / "file" / "images.csv", counts, ["a", "b"], known)


def test_names_are_sealed_with_the_run(experiment: Config) -> None:
    for config in (experiment, experiment.baseline()):
        files = json.loads((config.run_folder / "run.json").read_text())["files"]
        assert TEST_IMAGES in files
        table = pq.read_table(config.run_folder / TEST_IMAGES)
        predictions = pq.read_table(config.run_folder / "predictions.parquet", filters=[("view", "=", "clean")])
        assert table["image"].to_pylist() == predictions["image"].to_pylist()[:90]


def test_other_names_make_a_comparison_again(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    target = experiment.compare_runs(folders, tmp_path / "compare")
    assert {row["file"] for row in read_csv(target / "images.csv")} == {"00.png", "01.png", "02.png", "03.png"}
    write_roster(folders[0] / TEST_IMAGES, {None: (np.array([b"00", b"01", b"02", b"03"]), list("abcd"))})
    runs.finish(folders[0], {**RESULT, "classes": ["no", "yes"]})
    experiment.compare_runs(folders, target)
    assert {row["file"] for row in read_csv(target / "images.csv")} == set("abcd")
