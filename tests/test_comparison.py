"""Comparisons worked out by hand, and the promises that comparison.json makes."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from blurtrain import comparison, experiment, report, runs, sweep
from blurtrain.arms import WIDER, open_arms
from blurtrain.config import BlurGrid, Config
from blurtrain.errors import RunError
from blurtrain.files import read_sealed, write_text
from blurtrain.roster import TEST_IMAGES, write_roster
from blurtrain.views import CLEAN, Blur, View

Correct = Sequence[Sequence[int]]  # 1 or 0, one row a head

AUGMENTED = Config(
    name="made-up", copies=(BlurGrid("gaussian", (1.0,)),), sweep=(BlurGrid("gaussian", (0.0, 2.0)),), runs=Path("runs")
)
BASELINE = AUGMENTED.baseline()
RESULT = {  # of every run
    "native_pixels_per_pixel": 1.0,
    "backbone": {
        "name": "glyphnet",
        "fingerprint": "0" * 64,
        "preprocessing": {"geometry": {"resize": 64, "crop": 64, "interpolation": "BILINEAR"}},
    },
    "images": {"train": 8, "validation": 0, "test": 4},
    "copies": [],
    "trainable": {"parameters": 386},
    "head": {"solver": "L-BFGS", "l2": 0.1, "iterations": 9, "heads": 2},
    "engine": "onnxruntime",
    "inputs": {"training": "1" * 64, "test": "2" * 64},
    "versions": {"blurtrain": "0"},
}
HEAVY = Blur("gaussian", 2.0)

# Two heads on four images, the views clean and gaussian 2. Differences, augmented minus baseline, with means beside:
#   clean   0  0 -1  1 |  0         heavy   0  1  0  0 | .25
#           0  0 -1  0 | -.25               0  1  1  0 | .25 + .25 = .5
#           0  0 -1 .5 | -.125              0  1 .5  0 | .375
BASELINE_CORRECT = {CLEAN: [[1, 1, 1, 0], [1, 1, 1, 0]], HEAVY: [[1, 0, 0, 1], [1, 0, 0, 0]]}
AUGMENTED_CORRECT = {CLEAN: [[1, 1, 0, 1], [1, 1, 0, 0]], HEAVY: [[1, 1, 0, 1], [1, 1, 1, 0]]}


def make_run(
    folder: Path,
    config: Config,
    correct: Mapping[Any, Correct],
    *,
    groups: Sequence[str] | None = None,
    classes: tuple[str, ...] = ("no", "yes"),
    labels: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
) -> Path:
    """A finished run whose heads are right where `correct` says so; its refitted head is always right."""
    count = len(correct[CLEAN][0])
    truth = np.array(labels if labels is not None else [i % 2 for i in range(count)], np.int64)

    def logits(view: View, block: slice) -> np.ndarray:
        right = np.array([*correct[view], [1] * count], bool)
        return np.eye(len(classes))[np.where(right, truth, 1 - truth)][:, block]

    names = np.array([f"{i:02}".encode() for i in range(count)] if ids is None else [i.encode() for i in ids])
    write_text(folder / runs.CONFIG, runs.dump_config(config))
    write_roster(folder / TEST_IMAGES, {None: (names, [f"{name.decode()}.png" for name in names])})
    sweep.write_predictions(
        folder / "predictions.parquet",
        ids=names,
        groups=groups or [f"group {i:02}" for i in range(count)],
        labels=truth,
        views=config.test_views,
        heads=sweep.head_names(len(correct[CLEAN])),
        logits=logits,
    )
    runs.finish(folder, {**RESULT, "classes": list(classes)})
    return folder


def made_up(folder: Path, **options: Any) -> list[Path]:  # noqa: ANN401 - passed on
    """The two runs of the hand-made example."""
    return [
        make_run(folder / "baseline", BASELINE, BASELINE_CORRECT, **options),
        make_run(folder / "augmented", AUGMENTED, AUGMENTED_CORRECT, **options),
    ]


def several_views(folder: Path, gains: Mapping[float, Correct], copies: Sequence[float] = (1.0,)) -> list[Path]:
    """A baseline that is always wrong on blurred images, and an arm that is right where `gains` says so."""
    config = Config(
        copies=(BlurGrid("gaussian", tuple(copies)),), sweep=(BlurGrid("gaussian", tuple(gains)),), name="several"
    )
    views = config.test_views[1:]
    none = np.zeros_like(gains[views[0].strength]).tolist()
    return [
        make_run(folder / "baseline", config.baseline(), {CLEAN: none, **dict.fromkeys(views, none)}),
        make_run(folder / "augmented", config, {CLEAN: none, **{view: gains[view.strength] for view in views}}),
    ]


def strict(value: object) -> dict[str, Any]:
    """A value after a journey through JSON without NaN or infinity."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(word)

    loaded: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False), parse_constant=refuse)
    return loaded


def test_guessing_and_the_mean_over_classes_by_hand(tmp_path: Path) -> None:
    """Three images of class no, one of yes: (1/3 + 1) / 2 and (1/3 + 0) / 2 in the baseline's two heads."""
    got = strict(comparison.compare_runs(made_up(tmp_path, labels=[0, 0, 0, 1])))
    assert got["largest_class"] == {"class": "no", "images": 3, "share": 0.75}
    macro = {name: arm["macro_accuracy"] for name, arm in got["heavy_mean"]["arms"].items()}
    assert macro == pytest.approx({"baseline": 5 / 12, "augmented": 8 / 12})
    lines = report.terminal_table(got).split("\n\n")[2].splitlines()
    assert lines[:2] == [
        "Always answering 'no' would give 75.0.",
        "Mean over classes (macro), mean of heavy: baseline 41.7, augmented 66.7; no interval is made for it.",
    ]


@pytest.mark.parametrize(("labels", "told"), [([0, 1, 0, 1], False), ([1, 1, 1, 0, 0], False), ([1, 0, 1, 1], True)])
def test_the_mean_over_classes_is_told_where_these_are_uneven(tmp_path: Path, labels: list[int], told: bool) -> None:
    correct = {CLEAN: [[1] * len(labels)], HEAVY: [[1, *[0] * (len(labels) - 1)]]}
    runs = [make_run(tmp_path / c.arm, c, correct, labels=labels) for c in (BASELINE, AUGMENTED)]
    got = comparison.compare_runs(runs)
    assert got["largest_class"]["class"] == ("yes" if sum(labels) > len(labels) / 2 else "no")
    for text in (report.terminal_table(got), report.markdown_table(got)):
        assert ("Mean over classes (macro)" in text) is told
        assert "Always answering" in text


def test_guessing_is_told_where_no_view_is_heavy(tmp_path: Path) -> None:
    mild = replace(AUGMENTED, copies=(BlurGrid("gaussian", (1.5,)),))
    runs = [
        make_run(tmp_path / "a", mild.baseline(), BASELINE_CORRECT),
        make_run(tmp_path / "b", mild, AUGMENTED_CORRECT),
    ]
    got = comparison.compare_runs(runs)
    assert got["heavy_mean"] is None
    assert "\n\nAlways answering 'no' would give 50.0.\n" in report.terminal_table(got)


def t3_two_sided(t: float) -> float:
    """The p value of Student's t with three degrees of freedom, in closed form."""
    x = abs(t) / math.sqrt(3)
    return 1 - 2 / math.pi * (x / (1 + x * x) + math.atan(x))


@pytest.fixture(scope="module")
def result(experiment: Config) -> dict[str, Any]:
    """The comparison of the experiment that was really run."""
    return strict(read_sealed(experiment.comparison_folder / "comparison.json"))


# by hand


def test_counts_and_accuracies_by_hand(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    got = strict(comparison.compare_runs(folders))
    assert got["arms"] == {"baseline": str(folders[0]), "augmented": str(folders[1])}
    assert got["reference"] == "baseline"
    assert (got["n_test"], got["groups"], got["heads"]) == (4, 4, 2)
    clean, heavy = got["views"]
    assert [clean["family"], clean["strength"], clean["angle"], clean["heavy"]] == ["clean", 0, None, False]
    assert [heavy["family"], heavy["strength"], heavy["angle"], heavy["heavy"]] == ["gaussian", 2, None, True]
    assert clean["arms"]["baseline"]["correct"] == [3, 3]
    assert clean["arms"]["augmented"]["correct"] == [3, 2]
    assert heavy["arms"]["baseline"]["correct"] == [2, 1]
    assert heavy["arms"]["augmented"]["correct"] == [3, 3]
    assert [clean["arms"][name]["accuracy"] for name in got["arms"]] == [6 / 8, 5 / 8]
    assert [heavy["arms"][name]["accuracy"] for name in got["arms"]] == [3 / 8, 6 / 8]
    assert [heavy["arms"][name]["accuracy_refit"] for name in got["arms"]] == [1, 1]


def test_intervals_and_p_values_by_hand(tmp_path: Path) -> None:
    clean, heavy = (
        view["against_reference"]["augmented"] for view in strict(comparison.compare_runs(made_up(tmp_path)))["views"]
    )
    # Heavy: SS_image = 2 (.375^2 + .625^2 + .125^2 + .375^2) = 11/8 with 3 degrees of freedom, SS_head = 1/8 with 1,
    # SS_total = 15/8, so SS_residual = 3/8 with 3. MS_head = MS_residual: the heads add nothing, SE^2 = 11/24 / 8.
    error = math.sqrt(11 / 192)
    assert heavy["difference"] == 3 / 8
    quantile = 3.182446305284263  # Student's t, 97.5 %, 3 degrees of freedom
    assert heavy["ci95"] == pytest.approx([3 / 8 - quantile * error, 3 / 8 + quantile * error], rel=1e-9)
    assert heavy["p"] == pytest.approx(t3_two_sided(3 / 8 / error), rel=1e-9)
    assert heavy["p_holm"] == heavy["p"]  # one heavy view
    assert heavy["p_these_heads"] == pytest.approx(0.5)  # sums over heads 2 and 1: two of four sign patterns reach 3
    assert heavy["verdict"] == "not distinguishable"
    # Clean: SS_image = 2 (.125^2 + .125^2 + .875^2 + .625^2) = 19/8, SS_head = 1/8, SS_total = 23/8: the same case.
    error = math.sqrt(19 / 24 / 8)
    assert clean["difference"] == -1 / 8
    assert clean["ci95"] == pytest.approx([-1 / 8 - quantile * error, -1 / 8 + quantile * error], rel=1e-9)
    assert clean["p"] == pytest.approx(t3_two_sided(1 / 8 / error), rel=1e-9)
    assert clean["p_holm"] is None
    assert clean["p_these_heads"] == 1  # sums -2 and 1: every pattern reaches 1


def test_further_metrics_by_hand(tmp_path: Path) -> None:
    got = strict(comparison.compare_runs(made_up(tmp_path)))
    sure = 1 / (1 + math.exp(-1))  # the confidence everywhere: logits are 1 and 0
    right, wrong = -math.log(sure), -math.log(1 - sure)
    baseline = got["views"][1]["arms"]["baseline"]
    assert baseline["nll"] == pytest.approx((3 * right + 5 * wrong) / 8, rel=1e-6)
    assert baseline["ece"] == pytest.approx((abs(2 / 4 - sure) + abs(1 / 4 - sure)) / 2, rel=1e-6)
    assert baseline["macro_accuracy"] == pytest.approx(((1 / 2 + 1 / 2) / 2 + (1 / 2 + 0) / 2) / 2)
    assert baseline["top5_accuracy"] is None
    assert got["area"] == {"baseline": (6 / 8 + 3 / 8) / 2, "augmented": (5 / 8 + 6 / 8) / 2}
    heavy = got["heavy_mean"]
    assert heavy["against_reference"]["augmented"]["corruption_error"] == pytest.approx((2 / 8) / (5 / 8))
    view = got["views"][1]  # the one heavy view is its own mean
    assert heavy["arms"]["augmented"]["correct"] == view["arms"]["augmented"]["correct"]
    for key in ("difference", "ci95", "p"):
        assert heavy["against_reference"]["augmented"][key] == view["against_reference"]["augmented"][key]


def test_groups_are_the_unit(tmp_path: Path) -> None:
    got = strict(comparison.compare_runs(made_up(tmp_path, groups=["a", "b", "b", "a"])))
    assert (got["n_test"], got["groups"]) == (4, 2)
    heavy = got["views"][1]["against_reference"]["augmented"]
    # Group means 0 and .5 (head 0), 0 and 1 (head 1): SS_group = 2 * 2 * .375^2, SS_head = 2 * 2 * .125^2,
    # SS_residual = 4 * .125^2, all with 1 degree of freedom: SE^2 = 9/16 / 4, and t1 is Cauchy's distribution.
    assert heavy["difference"] == 3 / 8
    assert heavy["p"] == pytest.approx(1 - 2 / math.pi * math.atan(1))  # t = 1


# what the file promises


def is_number(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def require_arms(arms: Mapping[str, Any], heads: int) -> None:
    assert set(arms) == {"baseline", "augmented"}
    for arm in arms.values():
        assert is_number(arm["accuracy"])
        assert len(arm["correct"]) == heads
        assert all(type(count) is int for count in arm["correct"])


def require_against(against: Mapping[str, Any], adjusted: bool) -> None:
    assert set(against) == {"augmented"}
    other = against["augmented"]
    assert is_number(other["difference"])
    assert len(other["ci95"]) == 2
    assert all(bound is None or is_number(bound) for bound in other["ci95"])
    assert 0 <= other["p"] <= 1
    assert is_number(other["p_holm"]) if adjusted else other["p_holm"] is None
    assert other["verdict"] in ("better", "worse", "not distinguishable")


def test_schema(result: dict[str, Any], experiment: Config) -> None:
    assert result["arms"] == {
        "baseline": str(experiment.baseline().run_folder),
        "augmented": str(experiment.run_folder),
    }
    assert result["reference"] == "baseline"
    assert [type(result[key]) for key in ("n_test", "groups", "heads")] == [int, int, int]
    assert (result["n_test"], result["heads"]) == (90, 5)
    assert [view["strength"] for view in result["views"]] == [0, 0.5, 1, 1.5, 2, 2.5, 3]
    for view in result["views"]:
        assert view["family"] == ("clean" if view["strength"] == 0 else "gaussian")
        assert isinstance(view["strength"], float)
        assert view["angle"] is None
        assert type(view["heavy"]) is bool
        require_arms(view["arms"], 5)
        require_against(view["against_reference"], adjusted=view["heavy"])
    require_arms(result["heavy_mean"]["arms"], 5)
    require_against(result["heavy_mean"]["against_reference"], adjusted=False)
    assert set(result["area"]) == {"baseline", "augmented"}
    assert all(is_number(area) and 0 <= area <= 1 for area in result["area"].values())


def test_accuracies_are_counts_over_images_and_differences_are_theirs(result: dict[str, Any]) -> None:
    for view in result["views"]:
        arms = view["arms"]
        for arm in arms.values():
            assert arm["accuracy"] == pytest.approx(np.mean(arm["correct"]) / result["n_test"], abs=1e-12)
        gain = arms["augmented"]["accuracy"] - arms["baseline"]["accuracy"]
        assert view["against_reference"]["augmented"]["difference"] == pytest.approx(gain, abs=1e-12)


def test_heavy_mean_is_the_mean_of_the_heavy_views(result: dict[str, Any]) -> None:
    heavy = [view for view in result["views"] if view["heavy"]]
    assert [view["strength"] for view in heavy] == [2, 2.5, 3]
    assert result["heavy_mean"]["views"] == 3
    for name, arm in result["heavy_mean"]["arms"].items():
        assert arm["accuracy"] == pytest.approx(np.mean([view["arms"][name]["accuracy"] for view in heavy]))
        assert arm["correct"] == np.sum([view["arms"][name]["correct"] for view in heavy], axis=0).tolist()
    gains = [view["against_reference"]["augmented"]["difference"] for view in heavy]
    assert result["heavy_mean"]["against_reference"]["augmented"]["difference"] == pytest.approx(np.mean(gains))


def test_area_is_under_the_stored_accuracies(result: dict[str, Any]) -> None:
    strengths = [view["strength"] for view in result["views"]]
    for name, area in result["area"].items():
        heights = [view["arms"][name]["accuracy"] for view in result["views"]]
        assert area == pytest.approx(np.trapezoid(heights, strengths) / 3)


def test_accuracies_are_those_of_the_sweeps(result: dict[str, Any], experiment: Config) -> None:
    for name, folder in result["arms"].items():
        rows = json.loads((Path(folder) / "sweep.json").read_text())
        for view, row in zip(result["views"], rows, strict=True):
            for key in ("accuracy", "macro_accuracy", "nll", "ece", "accuracy_refit"):
                assert view["arms"][name][key] == pytest.approx(row[key])
    assert experiment.arm == "augmented"


def test_holm_adjusts_the_heavy_views_alone(tmp_path: Path) -> None:
    gains = {
        0.5: [[1, 1, 1, 0, 0, 0]],  # as far as the first heavy view, and not adjusted
        2.0: [[1, 1, 1, 0, 0, 0]],
        3.0: [[1, 1, 1, 1, 0, 0]],
        4.0: [[1, 1, 0, 0, 0, 0]],
    }
    views = strict(comparison.compare_runs(several_views(tmp_path, gains)))["views"]
    against = {view["strength"]: view["against_reference"]["augmented"] for view in views}
    p = {strength: other["p"] for strength, other in against.items()}
    assert p[3.0] < p[2.0] < p[4.0]
    assert [against[s]["p_holm"] for s in (0.0, 0.5)] == [None, None]
    assert against[3.0]["p_holm"] == pytest.approx(3 * p[3.0])
    assert against[2.0]["p_holm"] == pytest.approx(max(3 * p[3.0], 2 * p[2.0]))
    assert against[4.0]["p_holm"] == pytest.approx(max(3 * p[3.0], 2 * p[2.0], p[4.0]))
    assert p[3.0] < 0.05 < against[3.0]["p_holm"]
    assert against[3.0]["verdict"] == "not distinguishable"  # the adjusted p decides


@pytest.mark.parametrize(
    ("before", "after", "verdict", "p"),
    [
        (0, 1, "better", 2**-5),
        (1, 0, "worse", 2**-5),
        (1, 1, "not distinguishable", 1.0),
    ],
)
def test_verdicts(tmp_path: Path, before: int, after: int, verdict: str, p: float) -> None:
    folders = [
        make_run(tmp_path / "a", BASELINE, dict.fromkeys((CLEAN, HEAVY), [[before] * 6] * 2)),
        make_run(tmp_path / "b", AUGMENTED, dict.fromkeys((CLEAN, HEAVY), [[after] * 6] * 2)),
    ]
    got = strict(comparison.compare_runs(folders))
    for other in (*(view["against_reference"]["augmented"] for view in got["views"]),):
        assert other["verdict"] == verdict
        assert other["p"] == p
        assert other["ci95"] == ([None, None] if before != after else [0, 0])  # six equal gains have no spread
    assert got["heavy_mean"]["against_reference"]["augmented"]["verdict"] == verdict


def test_an_arm_that_is_always_right_has_no_known_interval_and_no_corruption_error(tmp_path: Path) -> None:
    every = dict.fromkeys((CLEAN, HEAVY), [[1] * 4] * 2)
    folders = [
        make_run(tmp_path / "a", BASELINE, every),
        make_run(tmp_path / "b", AUGMENTED, AUGMENTED_CORRECT),
    ]
    got = strict(comparison.compare_runs(folders))
    assert got["views"][1]["arms"]["baseline"]["ci95"] == [None, None]
    assert got["heavy_mean"]["against_reference"]["augmented"]["corruption_error"] is None  # no error to divide by


def test_one_group_has_no_interval(tmp_path: Path) -> None:
    got = strict(comparison.compare_runs(made_up(tmp_path, groups=["font"] * 4)))
    assert got["groups"] == 1
    for view in got["views"]:
        other = view["against_reference"]["augmented"]
        assert other["ci95"] == [None, None]
        assert other["p"] is None
        assert other["p_holm"] is None
        assert other["smallest_detectable"] is None
        assert other["verdict"] == "not distinguishable"
        assert view["arms"]["augmented"]["ci95"] == [None, None]


def test_intervals_of_accuracies_stay_within_0_and_1(tmp_path: Path) -> None:
    for view in strict(comparison.compare_runs(made_up(tmp_path)))["views"]:
        for arm in view["arms"].values():
            low, high = arm["ci95"]
            assert 0 <= low <= arm["accuracy"] <= high <= 1


# what is heavy


@pytest.mark.parametrize(
    ("copies", "strengths", "expected"),
    [
        ([1.0], [0.5, 1.0, 1.99, 2.0, 3.0], [False, False, False, False, True, True]),
        ([0.5, 1.0], [1.0, 2.0], [False, False, True]),  # the strongest copy decides
        ([0.25], [0.4, 0.5], [False, False, True]),
        ([4.0], [1.0, 2.0], [False, False, False]),
    ],
)
def test_heavy_follows_from_the_configs_alone(
    tmp_path: Path, copies: list[float], strengths: list[float], expected: list[bool]
) -> None:
    folders = several_views(tmp_path, {strength: [[1, 0]] for strength in strengths}, copies)
    for folder in folders:
        (folder / "predictions.parquet").unlink()
    assert list(open_arms(folders).heavy) == expected


def test_without_a_heavy_view_there_is_no_heavy_mean(tmp_path: Path) -> None:
    got = strict(comparison.compare_runs(several_views(tmp_path, {0.5: [[1, 0]], 1.5: [[1, 1]]})))
    assert (got["heavy_mean"], got["slight_mean"]["views"]) == (None, 1)
    assert [view["against_reference"]["augmented"]["p_holm"] for view in got["views"]] == [None] * 3
    assert got["area"] == {"baseline": 0, "augmented": pytest.approx((0.5 * 0.25 + 1 * 0.75) / 1.5)}


def test_without_copies_the_wider_half_of_the_sweep_is_heavy(tmp_path: Path) -> None:
    """No copy says how wide slight blur is: of runs that differ in something else than copies, too."""
    folders = [make_run(tmp_path / name, BASELINE, BASELINE_CORRECT) for name in ("one", "two")]
    arms = open_arms(folders)
    assert (arms.heavy, arms.slight, arms.heavy_is) == ((False, True), (False, False), WIDER)


# which arms


def test_the_arm_without_copies_is_the_reference_in_any_order(tmp_path: Path) -> None:
    baseline, augmented = made_up(tmp_path)
    for folders in ([baseline, augmented], [augmented, baseline]):
        arms = open_arms(folders)
        assert list(arms.runs) == ["baseline", "augmented"]
        assert arms.reference == "baseline"


def test_where_every_arm_has_copies_the_first_is_the_reference(tmp_path: Path) -> None:
    other = replace(AUGMENTED, copies=(BlurGrid("gaussian", (0.5,)),))
    folders = [
        make_run(tmp_path / "strong", AUGMENTED, AUGMENTED_CORRECT),
        make_run(tmp_path / "weak", other, BASELINE_CORRECT),
    ]
    assert list(open_arms(folders).runs) == ["augmented", "weak"]


def test_no_run_is_lost_when_names_are_the_same(tmp_path: Path) -> None:
    folders = [make_run(tmp_path / place / "run", AUGMENTED, AUGMENTED_CORRECT) for place in "abc"]
    arms = open_arms(folders)
    assert [run.folder for run in arms.runs.values()] == folders
    assert list(arms.runs) == ["augmented", "run", str(folders[2])]


def test_three_arms_are_each_compared_with_the_reference(tmp_path: Path) -> None:
    third = make_run(tmp_path / "third", AUGMENTED, BASELINE_CORRECT)
    got = strict(comparison.compare_runs([*made_up(tmp_path), third]))
    for view in got["views"]:
        assert list(view["against_reference"]) == ["augmented", "third"]
        assert view["against_reference"]["third"]["difference"] == 0
        assert view["against_reference"]["third"]["p"] == 1


# what cannot be compared


def test_one_run_is_no_comparison(tmp_path: Path) -> None:
    baseline, _ = made_up(tmp_path)
    for folders in ([baseline], [baseline, baseline]):
        with pytest.raises(RunError, match=r"needs at least 2 different runs, got 1"):
            comparison.compare_runs(folders)


def test_other_sweeps_are_refused(tmp_path: Path) -> None:
    baseline, _ = made_up(tmp_path)
    config = replace(AUGMENTED, sweep=(BlurGrid("gaussian", (2.0, 3.0)),))
    views = dict.fromkeys(config.test_views, [[1] * 4] * 2)
    other = make_run(tmp_path / "other", config, views)
    with pytest.raises(RunError, match=r"other and .*baseline have different sweeps: compare runs that share one"):
        comparison.compare_runs([baseline, other])


def test_other_classes_are_refused(tmp_path: Path) -> None:
    baseline, _ = made_up(tmp_path)
    other = make_run(tmp_path / "other", AUGMENTED, AUGMENTED_CORRECT, classes=("no", "perhaps"))
    with pytest.raises(RunError, match=r"different classes: compare runs on the same images"):
        comparison.compare_runs([baseline, other])


@pytest.mark.parametrize(
    "options",
    [{"ids": ["00", "01", "02", "other"]}, {"ids": ["01", "00", "02", "03"]}, {"labels": [0, 1, 0, 0]}],
    ids=["another image", "another order", "another label"],
)
def test_other_test_images_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    baseline, _ = made_up(tmp_path)
    other = make_run(tmp_path / "other", AUGMENTED, AUGMENTED_CORRECT, **options)
    with pytest.raises(RunError, match=r"different test images or heads: compare runs of the same data and folds"):
        comparison.compare_runs([baseline, other])


def test_another_number_of_folds_is_refused(tmp_path: Path) -> None:
    baseline, _ = made_up(tmp_path)
    three = {view: [*heads, heads[0]] for view, heads in AUGMENTED_CORRECT.items()}
    other = make_run(tmp_path / "other", AUGMENTED, three)
    with pytest.raises(RunError, match=r"different test images or heads"):
        comparison.compare_runs([baseline, other])


@pytest.mark.parametrize("name", ["training", "test", "backbone", "engine"])
def test_runs_that_were_made_of_other_inputs_are_refused(tmp_path: Path, name: str) -> None:
    inputs = {"training": "a", "test": "b", "backbone": "c", "engine": "d"}
    result = {**RESULT, "classes": ["no", "yes"]}
    folders = made_up(tmp_path)
    for folder in folders:
        runs.finish(folder, {**result, "inputs": inputs})
    assert open_arms(folders).reference == "baseline"
    runs.finish(folders[1], {**result, "inputs": inputs | {name: "other"}})
    with pytest.raises(RunError, match=rf"augmented was trained with other inputs \({name}\), so the arms cannot be"):
        comparison.compare_runs(folders)


def test_an_unfinished_run_is_refused(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    (folders[1] / runs.RESULT).unlink()
    with pytest.raises(RunError, match=r"augmented is not finished: run blurtrain train --config"):
        comparison.compare_runs(folders)


def test_a_run_without_predictions_is_refused(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    (folders[1] / "predictions.parquet").unlink()
    with pytest.raises(RunError, match=r"predictions.parquet cannot be read"):
        experiment.compare_runs(folders)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"baseline", "augmented"}


# what is stored


def test_csv_holds_the_same_as_json(experiment: Config, result: dict[str, Any]) -> None:
    rows = list(csv.DictReader(io.StringIO((experiment.comparison_folder / "comparison.csv").read_text())))
    assert len(rows) == 7 * 2
    every = [(view, name, arm) for view in result["views"] for name, arm in view["arms"].items()]
    for row, (view, name, arm) in zip(rows, every, strict=True):
        assert (row["family"], float(row["strength"]), row["arm"]) == (view["family"], view["strength"], name)
        assert (row["heavy"], row["angle"]) == (str(view["heavy"]), "")
        assert (row["n_test"], row["heads"]) == ("90", "5")
        assert float(row["accuracy"]) == arm["accuracy"]
        other = view["against_reference"].get(name)
        if other is None:
            assert row["difference"] == row["verdict"] == ""
        else:
            assert [float(row["ci95_low"]), float(row["ci95_high"])] == other["ci95"]
            assert (float(row["p"]), row["verdict"]) == (other["p"], other["verdict"])


def test_the_same_runs_give_the_same_comparison(experiment: Config, result: dict[str, Any]) -> None:
    again = comparison.compare_runs([experiment.baseline().run_folder, experiment.run_folder])
    assert strict(again) == result


def test_a_finished_comparison_is_left_as_it_is(experiment: Config, capsys: pytest.CaptureFixture[str]) -> None:
    path = experiment.comparison_folder / "comparison.json"
    before = path.stat().st_mtime_ns
    import blurtrain

    folders = [experiment.baseline().run_folder, experiment.run_folder]
    assert blurtrain.compare_runs(folders, experiment.comparison_folder) == experiment.comparison_folder
    assert path.stat().st_mtime_ns == before
    assert "is finished already" in capsys.readouterr().err


def test_a_comparison_of_other_predictions_is_made_again(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    target = experiment.compare_runs(folders, tmp_path / "compare")
    before = experiment.read_comparison(target)
    assert comparison.stored(target, open_arms(folders)) == before
    make_run(tmp_path / "augmented", AUGMENTED, BASELINE_CORRECT)
    assert comparison.stored(target, open_arms(folders)) is None
    after = experiment.read_comparison(experiment.compare_runs(folders, target))
    assert after["views"][1]["against_reference"]["augmented"]["difference"] == 0
    assert len(list(target.glob("events.out.tfevents.*"))) == 1


@pytest.mark.parametrize("contents", ["", "no json", "[]", '{"views": []}'])
def test_a_damaged_comparison_is_made_again(tmp_path: Path, contents: str) -> None:
    folders = made_up(tmp_path)
    write_text(tmp_path / "compare" / "comparison.json", contents)
    assert comparison.stored(tmp_path / "compare", open_arms(folders)) is None


def test_the_comparison_of_given_runs_lies_beside_the_first(tmp_path: Path) -> None:
    folders = made_up(tmp_path / "one")
    assert experiment.compare_runs(folders) == tmp_path / "one" / "compare-baseline-and-augmented"
