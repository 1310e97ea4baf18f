"""Every number of a comparison made again from the stored predictions, in loops over published formulas.

Nothing of the package computes here: parquet in, plain numpy and scipy's special functions over it, and the whole of
comparison.json must come out.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from jaxtyping import Bool, Float
from scipy import special
from sklearn.metrics import top_k_accuracy_score
from statsmodels.stats.contingency_tables import mcnemar

import blurtrain
from blurtrain import comparison, runs, sweep
from blurtrain.config import BlurGrid, Config
from blurtrain.experiment import read_comparison
from blurtrain.files import write_json, write_text
from blurtrain.roster import TEST_IMAGES, write_roster
from blurtrain.views import Blur, View
from tests.test_inference import all_flips, plain_reference

CLASSES = 12  # of the made-up runs: enough for a top-5 accuracy
MADE_UP = Config(
    name="made-up",
    copies=(BlurGrid("gaussian", (1.0,)),),
    sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.5)), BlurGrid("box", (9.0,))),
)


class Predictions:
    """One run's parquet file as columns."""

    def __init__(self, folder: Path) -> None:
        table = pq.read_table(folder / "predictions.parquet")
        self.columns = {name: np.array(table[name].to_pylist()) for name in table.column_names}
        self.heads = list(dict.fromkeys(self.columns["head"].tolist()))
        self.folds = [head for head in self.heads if head != "refit"]

    def of(self, column: str, view: str, heads: Sequence[str]) -> np.ndarray:
        """A column as [heads, images]."""
        here = self.columns["view"] == view
        return np.stack([self.columns[column][here & (self.columns["head"] == head)] for head in heads])

    def correct(self, view: str) -> Bool[np.ndarray, "heads images"]:
        """Whether each fold's head is right on each image."""
        return np.asarray(self.of("predicted", view, self.folds) == self.of("label", view, self.folds))

    def metrics(self, view: str, classes: int) -> dict[str, float | None]:
        """Means over the folds' heads, and the refitted head's accuracy."""
        labels, correct = self.of("label", view, self.folds)[0], self.correct(view)
        rank = self.of("rank", view, self.folds)
        refit = self.of("predicted", view, ["refit"]) == labels
        chances = self.of("probability", view, self.folds)
        nll = [sum(-math.log(float(chance)) for chance in row) / len(row) for row in chances]
        confidence = self.of("confidence", view, self.folds)
        return {
            "macro_accuracy": float(np.mean([correct[:, labels == label].mean() for label in set(labels.tolist())])),
            "top5_accuracy": float((rank <= 4).mean()) if classes > 10 else None,
            "nll": float(np.mean(nll)),
            "ece": float(np.mean([calibration_error(*pair) for pair in zip(confidence, correct, strict=True)])),
            "accuracy_refit": float(refit.mean()),
        }


def calibration_error(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Equation 3 of Guo et al. 2017 with 15 bins, image by image."""
    error = 0.0
    for m in range(1, 16):
        inside = [i for i, p in enumerate(confidence) if (m - 1) / 15 < p <= m / 15]
        if inside:
            gap = sum(correct[inside]) / len(inside) - sum(confidence[inside].astype(float)) / len(inside)
            error += len(inside) / len(confidence) * abs(gap)
    return error


def interval(values: Float[np.ndarray, "heads images"], groups: np.ndarray) -> dict[str, Any]:
    """Estimate, interval, p value and smallest detectable difference."""
    estimate, variance, freedom = plain_reference(values, groups)
    if not values.any():
        return {"difference": 0, "ci95": [0, 0], "p": 1, "smallest_detectable": None}
    if variance < 1e-12:  # all units agree: the sign test
        p = 2.0 ** (1 - len(set(groups.tolist()))) if abs(estimate) > 1e-12 else 1.0
        return {"difference": estimate, "ci95": [None, None], "p": p, "smallest_detectable": None}
    error, quantile = math.sqrt(variance), special.stdtrit(freedom, 0.975)
    return {
        "difference": estimate,
        "ci95": [estimate - quantile * error, estimate + quantile * error],
        "p": special.betainc(freedom / 2, 0.5, freedom / (freedom + (estimate / error) ** 2)),
        "smallest_detectable": (quantile + special.stdtrit(freedom, 0.8)) * error,
    }


def words(estimate: float, p: float) -> str:
    if p >= 0.05:
        return "not distinguishable"
    return "better" if estimate > 0 else "worse"


def against(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    found = interval(values, groups)
    return {**found, "p_holm": None, "verdict": words(found["difference"], found["p"])}


def accuracy(correct: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    bounds = interval(correct.astype(float), groups)["ci95"]
    return {
        "accuracy": float(correct.mean()),
        "ci95": [None if bound is None else min(max(bound, 0), 1) for bound in bounds],
    }


def spread(view: Blur) -> float:
    """Standard deviation of the sampled kernel."""
    if view.family == "clean":
        return 0
    if view.family == "box":
        return math.sqrt((view.strength**2 - 1) / 12)
    places = np.arange(-math.ceil(4 * view.strength), math.ceil(4 * view.strength) + 1)
    weights = np.exp(-(places**2) / (2 * view.strength**2))
    return math.sqrt(float((weights * places**2).sum() / weights.sum()))


def made_again(
    folders: dict[str, Path], views: Sequence[Blur], heavy: Sequence[str], slight: Sequence[str], classes: int
) -> dict[str, Any]:
    """The whole of comparison.json; the first arm is the reference."""
    arms = {name: Predictions(folder) for name, folder in folders.items()}
    first, *others = arms
    base = arms[first]
    groups = base.of("group", "clean", base.folds)[0]
    rows = []
    for view in views:
        name = view.name
        row: dict[str, Any] = {
            **{key: getattr(view, key) for key in ("family", "strength", "angle", "border", "name", "curve")},
            "standard_deviation": spread(view),
            "parameters": None,
            "heavy": name in heavy,
            "slight": name in slight,
            "arms": {
                arm: {
                    **accuracy(stored.correct(name), groups),
                    "correct": stored.correct(name).sum(axis=1).tolist(),
                    **stored.metrics(name, classes),
                }
                for arm, stored in arms.items()
            },
            "against_reference": {},
        }
        for arm in others:
            gain = arms[arm].correct(name).astype(int) - base.correct(name)
            sums = [int(gain[:, groups == group].sum()) for group in sorted(set(groups.tolist()))]
            row["against_reference"][arm] = {**against(gain.astype(float), groups), "p_these_heads": all_flips(sums)}
        rows.append(row)
    for arm in others:
        adjusted, largest = [row["against_reference"][arm] for row in rows if row["heavy"]], 0.0
        for rank, other in enumerate(sorted(adjusted, key=lambda other: float(other["p"]))):
            largest = max(largest, min(1, (len(adjusted) - rank) * other["p"]))
            other["p_holm"], other["verdict"] = largest, words(other["difference"], largest)
    return {
        "arms": {name: str(folder) for name, folder in folders.items()},
        "reference": first,
        "n_test": len(groups),
        "groups": len(set(groups.tolist())),
        "largest_class": most_frequent(base.of("label", "clean", base.folds)[0].tolist()),
        "heads": len(base.folds),
        "native_pixels_per_pixel": 1,
        "views": rows,
        "heavy_mean": mean(arms, heavy, groups, classes),
        "slight_mean": mean(arms, slight, groups, classes),
        "equal_epochs": None,
        "real": [],
        "severities": None,
        "heavy_is": "at least twice as wide as the strongest copy",
        "classes": class_rows(arms, heavy, classes),
        "images": {arm: kinds(base, arms[arm], heavy) for arm in others},
        "area": {arm: area(arm, rows) for arm in arms},
        "inputs": {
            **{
                name: hashlib.sha256((folder / "predictions.parquet").read_bytes()).hexdigest()
                for name, folder in folders.items()
            },
            TEST_IMAGES: hashlib.sha256((folders[first] / TEST_IMAGES).read_bytes()).hexdigest(),
            "blurtrain": blurtrain.__version__,
        },
    }


def class_rows(arms: dict[str, Predictions], heavy: Sequence[str], classes: int) -> list[dict[str, Any]]:
    """What each class loses and gains, class by class, from the rows of its images alone."""
    first, *others = arms
    base, rows = arms[first], []
    labels, groups = (base.of(column, "clean", base.folds)[0] for column in ("label", "group"))
    for arm in others:
        own = []
        for label in sorted(set(labels.tolist())):
            here = labels == label
            clean, blurred = (
                [np.mean([stored.correct(name)[:, here] for name in views], axis=0) for stored in (base, arms[arm])]
                for views in (["clean"], heavy)
            )
            row = {
                "class": str(label),
                "arm": arm,
                "images": int(here.sum()),
                "groups": len(set(groups[here].tolist())),
                "reference_clean": float(clean[0].mean()),
                "arm_clean": float(clean[1].mean()),
                "reference_heavy": float(blurred[0].mean()),
                "arm_heavy": float(blurred[1].mean()),
                "reference_loss": float(clean[0].mean() - blurred[0].mean()),
                **class_gain(blurred[1] - blurred[0], groups[here]),
            }
            own.append(row)
        known, largest = [row for row in own if row["p"] is not None], 0.0
        for rank, row in enumerate(sorted(known, key=lambda row: float(row["p"]))):
            largest = max(largest, min(1, (len(known) - rank) * row["p"]))
            row["p_holm"], row["verdict"] = largest, words(row["difference"], largest)
        rows += own
    assert len({row["class"] for row in rows}) <= classes
    return rows


def class_gain(values: np.ndarray, groups: np.ndarray) -> dict[str, Any]:
    """As `against`; of a class whose images are all of one group nothing is known."""
    if len(set(groups.tolist())) > 1:
        return against(values, groups)
    unknown = {"ci95": [None, None], "p": None, "p_holm": None, "smallest_detectable": None}
    return {"difference": float(values.mean()), **unknown, "verdict": "not distinguishable"}


def kinds(base: Predictions, stored: Predictions, heavy: Sequence[str]) -> dict[str, int]:
    """Images that change sides, one by one."""
    found = dict.fromkeys(("rescued", "lost", "right in both", "wrong in both"), 0)
    for image in range(base.correct("clean").shape[1]):
        before, after = (
            sum(int(run.correct(name)[:, image].sum()) for name in heavy) > len(heavy) * len(run.folds) / 2
            for run in (base, stored)
        )
        found[("right in both" if after else "lost") if before else ("rescued" if after else "wrong in both")] += 1
    return found


def most_frequent(labels: list[int]) -> dict[str, Any]:
    """By sorting: the commonest, the first of equal ones."""
    counts = sorted(((-labels.count(label), label) for label in set(labels)), key=lambda pair: pair)
    return {"class": str(counts[0][1]), "images": -counts[0][0], "share": -counts[0][0] / len(labels)}


def mean(arms: dict[str, Predictions], views: Sequence[str], groups: np.ndarray, classes: int) -> dict[str, Any]:
    first, *others = arms
    means = {arm: sum(stored.correct(name) / len(views) for name in views) for arm, stored in arms.items()}
    errors = {arm: sum(1 - float(stored.correct(name).mean()) for name in views) for arm, stored in arms.items()}
    return {
        "views": len(views),
        "arms": {
            arm: {
                **accuracy(np.asarray(means[arm]), groups),
                "correct": np.sum([stored.correct(name).sum(axis=1) for name in views], axis=0).tolist(),
                "macro_accuracy": sum(stored.metrics(name, classes)["macro_accuracy"] or 0 for name in views)
                / len(views),
            }
            for arm, stored in arms.items()
        },
        "against_reference": {
            arm: {
                **against(np.asarray(means[arm] - means[first]), groups),
                "corruption_error": errors[arm] / errors[first],
            }
            for arm in others
        },
    }


def area(arm: str, rows: Sequence[dict[str, Any]]) -> float:
    """Mean over the curves of the trapezoids' area, each curve from clean on."""
    areas = []
    for curve in sorted({row["curve"] for row in rows} - {"clean"}):
        points = [(row["strength"], row["arms"][arm]["accuracy"]) for row in rows if row["curve"] in (curve, "clean")]
        strips = [(b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points)]
        areas.append(sum(strips) / (points[-1][0] - points[0][0]))
    return float(np.mean(areas))


def require_same(ours: Any, expected: Any, where: str = "comparison") -> int:  # noqa: ANN401 - any JSON value
    """Compare two JSON trees and count their numbers."""
    if isinstance(expected, dict):
        assert set(ours) == set(expected), where
        return sum(require_same(ours[key], expected[key], f"{where}.{key}") for key in expected)
    if isinstance(expected, list):
        assert len(ours) == len(expected), where
        pairs = enumerate(zip(ours, expected, strict=True))
        return sum(require_same(*pair, f"{where}[{i}]") for i, pair in pairs)
    if expected is None or isinstance(expected, (str, bool)):
        assert ours == expected, where
        return 0
    assert ours == pytest.approx(float(expected), rel=1e-7, abs=1e-9), where
    return 1


def made_up_run(folder: Path, config: Config, skill: float, heads: int, groups: Sequence[str], seed: int) -> Path:
    """A finished run of random logits, the better the more skill and the less blur; other seed, other heads."""
    labels = np.random.default_rng(0).integers(0, CLASSES, len(groups))
    per_view: dict[View, np.ndarray] = {}
    for number, view in enumerate(config.test_views):
        image = np.random.default_rng([1, number]).normal(0, 1, (1, len(groups), CLASSES))  # all arms and heads see it
        own = np.random.default_rng([2, number, seed]).normal(0, 0.7, (heads + 1, len(groups), CLASSES))
        per_view[view] = image + own + skill / (1 + view.strength) * np.eye(CLASSES)[labels]
    ids = np.array([f"{i:03}".encode() for i in range(len(groups))])
    write_text(folder / runs.CONFIG, runs.dump_config(config))
    write_roster(folder / TEST_IMAGES, {None: (ids, [f"photo {i}.png" for i in range(len(groups))])})
    sweep.write_predictions(
        folder / "predictions.parquet",
        ids=ids,
        groups=groups,
        labels=labels,
        views=config.test_views,
        heads=sweep.head_names(heads),
        logits=lambda view, block: per_view[view][:, block],
    )
    rows = sweep.sweep_rows(folder / "predictions.parquet", config.test_views, CLASSES, 1.0)
    write_json(folder / "sweep.json", [vars(row) for row in rows])
    np.savez(folder / "scores.npz", labels=labels, heavy=per_view[config.test_views[-1]])
    names, backbone = [str(i) for i in range(CLASSES)], {"preprocessing": {"geometry": {"crop": 64}}}
    runs.finish(folder, {"classes": names, "native_pixels_per_pixel": 1.0, "backbone": backbone})
    return folder


def through_json(value: object) -> Any:  # noqa: ANN401 - any JSON value
    return json.loads(json.dumps(value, allow_nan=False))


def test_every_number_of_a_real_comparison_follows_from_the_predictions(experiment: Config) -> None:
    folders = {"baseline": experiment.baseline().run_folder, "augmented": experiment.run_folder}
    heavy = ["gaussian 2", "gaussian 2.5", "gaussian 3"]
    expected = made_again(folders, experiment.test_views, heavy, ["gaussian 0.5", "gaussian 1"], classes=10)
    stored = read_comparison(experiment.comparison_folder)
    assert require_same(stored, through_json(expected)) > 250
    assert stored["groups"] < stored["n_test"]  # fonts


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("grouped", [True, False])
def test_every_number_of_made_up_comparisons_too(tmp_path: Path, heads: int, grouped: bool) -> None:
    """Twelve classes, three arms, two families, groups of unequal size or none."""
    sizes = np.repeat(np.arange(9), range(2, 11)) if grouped else np.arange(14)  # enough to enumerate all sign patterns
    groups = [f"group {i:02}" for i in sizes]
    folders = {
        "baseline": made_up_run(tmp_path / "baseline", MADE_UP.baseline(), 3, heads, groups, 1),
        "augmented": made_up_run(tmp_path / "augmented", MADE_UP, 6, heads, groups, 2),
        "other": made_up_run(tmp_path / "other", MADE_UP, 2, heads, groups, 3),
    }
    expected = made_again(folders, MADE_UP.test_views, ["gaussian 2.5", "box 9"], ["gaussian 1"], CLASSES)
    found = comparison.compare_runs(list(folders.values()))
    assert require_same(through_json(found), through_json(expected)) > 150


def test_one_head_and_no_groups_are_mcnemars_test_of_the_stored_counts(tmp_path: Path) -> None:
    groups = [f"image {i:03}" for i in range(150)]
    folders = [
        made_up_run(tmp_path / "baseline", MADE_UP.baseline(), 3, 1, groups, 1),
        made_up_run(tmp_path / "augmented", MADE_UP, 6, 1, groups, 2),
    ]
    before, after = map(Predictions, folders)
    p_values = []
    for row in comparison.compare_runs(folders)["views"]:
        first, second = before.correct(row["name"])[0], after.correct(row["name"])[0]
        table = [[int((first == a)[second == b].sum()) for b in (True, False)] for a in (True, False)]
        p_values.append(mcnemar(table, exact=True).pvalue)
        assert row["against_reference"]["augmented"]["p_these_heads"] == pytest.approx(p_values[-1], rel=1e-9)
    assert min(p_values) < 0.05 < max(p_values)


def test_top_5_is_that_of_the_scores(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run", MADE_UP, 6, 3, [f"image {i:03}" for i in range(150)], 1)
    with np.load(folder / "scores.npz") as scores:
        theirs = [
            top_k_accuracy_score(scores["labels"], head, k=5, labels=range(CLASSES)) for head in scores["heavy"][:-1]
        ]
    rows = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert rows[-1]["top5_accuracy"] == pytest.approx(np.mean(theirs), abs=1e-12)
    assert rows[-1]["top5_accuracy"] > rows[-1]["accuracy"]


@pytest.mark.parametrize("arm", ["baseline", "augmented"])
def test_every_number_of_a_sweep_follows_from_the_predictions(experiment: Config, arm: str) -> None:
    folder = experiment.baseline().run_folder if arm == "baseline" else experiment.run_folder
    stored = Predictions(folder)
    expected = []
    for view in experiment.test_views:
        accuracies = stored.correct(view.name).mean(axis=1)
        squares = sum((value - accuracies.mean()) ** 2 for value in accuracies) / (len(accuracies) - 1)
        expected.append(
            {
                **{key: getattr(view, key) for key in ("family", "strength", "angle", "curve")},
                "view": view.name,
                "strength_native": view.strength,
                "images": 90,
                "heads": 5,
                "accuracy": float(accuracies.mean()),
                "accuracy_sd": math.sqrt(squares),
                **stored.metrics(view.name, classes=10),
            }
        )
    rows = json.loads((folder / "sweep.json").read_text(encoding="utf-8"))
    assert require_same(rows, through_json(expected)) == 10 * 7
