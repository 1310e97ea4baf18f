"""Arms side by side: what each gets right on every view, and how sure their difference is; no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Shaped

from blurtrain import breakdown, inference, metrics, runs
from blurtrain.arms import Arms, inputs_of, open_arms
from blurtrain.differences import accuracy_of, adjust, difference, number
from blurtrain.errors import RunError
from blurtrain.files import read_sealed
from blurtrain.imagenet_c import described, table_in_words
from blurtrain.kernels import border_of, standard_deviation
from blurtrain.roster import TEST_IMAGES, Roster, read_roster
from blurtrain.sweep import PREDICTIONS, ViewPredictions, head_metrics, read_predictions
from blurtrain.views import CLEAN, REAL, Blur, View

RESULT = runs.COMPARISON
PAGE = "report.html"
JsonValue = Any  # what json.dumps takes


@dataclass(frozen=True)
class _View:
    """One view of all arms, folds' heads only.

    Args:
        groups: Statistical unit of each image.
        predictions: By arm.
    """

    groups: Shaped[np.ndarray, " images"]
    predictions: dict[str, ViewPredictions]

    def correct(self, arm: str) -> Bool[np.ndarray, "heads images"]:
        predictions = self.predictions[arm]
        return predictions.correct[predictions.folds]


def _read_view(arms: Arms, view: View, *, equal_epochs: bool = False) -> _View:
    predictions = {
        name: read_predictions(run.folder / PREDICTIONS, view, equal_epochs=equal_epochs)
        for name, run in arms.runs.items()
    }
    reference = predictions[arms.reference]
    for name, other in predictions.items():
        same = np.array_equal(other.images, reference.images) and np.array_equal(other.labels, reference.labels)
        if not same or len(other.folds) != len(reference.folds):
            raise RunError(
                f"{arms.runs[name].folder} and {arms.runs[arms.reference].folder} have different test images or heads: "
                "compare runs of the same data and folds"
            )
    return _View(reference.groups, predictions)


@dataclass(frozen=True)
class Compared:
    """A comparison and what stands behind it.

    Args:
        result: The contents of comparison.json.
        arms: The runs.
        classes: Names in the order of the labels.
        roster: What the test images are called.
        counts: How often each image is classified correctly; none where no view is heavy.
    """

    result: dict[str, JsonValue]
    arms: Arms
    classes: list[str]
    roster: Roster
    counts: breakdown.Tally | None


def compare_runs(folders: Sequence[Path]) -> dict[str, JsonValue]:
    """Compare finished runs.

    Args:
        folders: Of two or more runs.

    Returns:
        The contents of comparison.json; see the README for its keys.

    Raises:
        RunError: If the runs cannot be compared, or their predictions are not what was written.
    """
    return compared(folders).result


def compared(folders: Sequence[Path]) -> Compared:
    """The same as `compare_runs`, with what tables of single images are made of.

    Raises:
        RunError: As `compare_runs`.
    """
    arms = open_arms(folders)
    for run in arms.runs.values():
        run.file(PREDICTIONS)
    reference = arms.runs[arms.reference]
    roster = read_roster(reference.file(TEST_IMAGES))
    per_view, heavy_correct, slight_correct = [], [], []
    for view, heavy, slight in zip(arms.views, arms.heavy, arms.slight, strict=True):
        read = _read_view(arms, view)
        correct = {name: read.correct(name) for name in arms.runs}
        if view == CLEAN:  # which every sweep has; of what was read no more is kept
            clean, groups, labels = correct, read.groups, read.predictions[arms.reference].labels
            roster.require(read.predictions[arms.reference].images, reference.folder)
        marks = {"heavy": heavy, "slight": slight}
        per_view.append({**described_view(view, arms.side), **marks, **_side_by_side(arms, read, correct)})
        if heavy:
            heavy_correct.append(correct)
        if slight:
            slight_correct.append(correct)
    _adjust([view["against_reference"] for view in per_view if view["heavy"]])
    counts = breakdown.tally(heavy_correct, clean, labels, groups) if heavy_correct else None
    largest = breakdown.largest_class(labels, reference.classes)
    means = {
        "heavy_mean": _mean(arms, heavy_correct, groups, [view for view in per_view if view["heavy"]]),
        "slight_mean": _mean(arms, slight_correct, groups, [view for view in per_view if view["slight"]]),
    }
    result = _result(arms, per_view, means, groups, counts, largest)
    return Compared(result, arms, reference.classes, roster, counts)


def _result(
    arms: Arms,
    per_view: list[dict[str, JsonValue]],
    means: Mapping[str, JsonValue],
    groups: Shaped[np.ndarray, " images"],
    counts: breakdown.Tally | None,
    largest: dict[str, JsonValue],
) -> dict[str, JsonValue]:
    return {
        "arms": {name: str(run.folder) for name, run in arms.runs.items()},
        "reference": arms.reference,
        "n_test": len(groups),
        "groups": len(np.unique(groups)),
        "largest_class": largest,
        "heads": len(per_view[0]["arms"][arms.reference]["correct"]),
        "native_pixels_per_pixel": arms.runs[arms.reference].result["native_pixels_per_pixel"],
        "heavy_is": arms.heavy_is,
        "severities": table_in_words(arms.side) if any(view.severity for view in arms.views) else None,
        "views": per_view,
        "real": _real(arms),
        **means,
        "equal_epochs": _equal_epochs(arms),
        "classes": breakdown.class_rows(counts, arms.runs[arms.reference].classes) if counts else None,
        "images": breakdown.image_counts(counts) if counts else None,
        "area": {name: _area(name, per_view) for name in arms.runs},
        "inputs": inputs_of(arms),
    }


def described_view(view: Blur, side: int) -> dict[str, JsonValue]:
    """What a view is, as JSON has it, for images of that side in px."""
    return {
        "family": view.family,
        "strength": view.strength,
        "standard_deviation": standard_deviation(view, side),
        "parameters": described(view, side) if view.severity else None,
        "angle": view.angle,
        "border": border_of(view),
        "name": view.name,
        "curve": view.curve,
    }


def _real(arms: Arms) -> list[dict[str, JsonValue]]:
    """Really blurred photographs, each set with images of its own; Holm's adjustment is over the sets."""
    rows = []
    for view in arms.real:
        read = _read_view(arms, view)
        correct = {name: read.correct(name) for name in arms.runs}
        counts = {"n_test": len(read.groups), "groups": len(np.unique(read.groups))}
        rows.append({"name": view.name, "family": REAL, **counts, **_side_by_side(arms, read, correct)})
    _adjust([row["against_reference"] for row in rows])
    return rows


def _side_by_side(
    arms: Arms, read: _View, correct: Mapping[str, Bool[np.ndarray, "heads images"]]
) -> dict[str, JsonValue]:
    """What each arm gets right on some images, and what the others gain over the reference."""
    classes, reference = len(arms.runs[arms.reference].classes), correct[arms.reference]
    return {
        "arms": {
            name: {
                **accuracy_of(correct[name].astype(np.float64), read.groups),
                "correct": [int(count) for count in correct[name].sum(1)],
                **head_metrics(read.predictions[name], classes),
            }
            for name in arms.runs
        },
        "against_reference": {
            name: {
                **difference(correct[name].astype(np.float64) - reference, read.groups),
                "p_these_heads": _these_heads(correct[name], reference, read.groups),
            }
            for name in arms.runs
            if name != arms.reference
        },
    }


def _these_heads(
    arm: Bool[np.ndarray, "heads images"],
    reference: Bool[np.ndarray, "heads images"],
    groups: Shaped[np.ndarray, " images"],
) -> float:
    """The sign-flip test, which for one head and ungrouped images is McNemar's exact test."""
    return inference.sign_flip(arm.astype(np.int64) - reference, groups)


def _adjust(several: Sequence[Mapping[str, dict[str, JsonValue]]]) -> None:
    """Holm's adjustment over the heavy views or over sets of photographs, arm by arm; the verdicts follow it."""
    for name in several[0] if several else ():
        adjust([one[name] for one in several])


def _mean(
    arms: Arms,
    correct: Sequence[Mapping[str, Bool[np.ndarray, "heads images"]]],
    groups: Shaped[np.ndarray, " images"],
    views: Sequence[Mapping[str, JsonValue]] = (),
) -> dict[str, JsonValue] | None:
    """The mean over some views of each head's correctness on each image, compared like a view; none over no view.

    Args:
        arms: The runs.
        correct: Of each view, by arm.
        groups: Statistical unit of each image.
        views: What was found on each; where given, the mean over classes is added, which has no interval.
    """
    if not correct:
        return None
    means = {name: np.mean([view[name] for view in correct], axis=0) for name in arms.runs}
    return {
        "views": len(correct),
        "arms": {
            name: {
                **accuracy_of(means[name], groups),
                "correct": [int(count) for count in np.sum([view[name].sum(1) for view in correct], axis=0)],
                **({"macro_accuracy": _macro(views, name)} if views else {}),
            }
            for name in arms.runs
        },
        "against_reference": {
            name: {
                **difference(means[name] - means[arms.reference], groups),
                "corruption_error": number(
                    float(
                        metrics.corruption_error(
                            np.array([1 - view[name].mean() for view in correct]),
                            np.array([1 - view[arms.reference].mean() for view in correct]),
                        )
                    )
                ),
            }
            for name in arms.runs
            if name != arms.reference
        },
    }


def _macro(views: Sequence[Mapping[str, JsonValue]], arm: str) -> float:
    return float(np.mean([view["arms"][arm]["macro_accuracy"] for view in views]))


def _equal_epochs(arms: Arms) -> dict[str, JsonValue] | None:
    """The clean view and the heavy mean once more, for heads trained equally many epochs instead of steps.

    None where every head is a function of its config alone, or no arm has copies.
    """
    if not any("equal_epochs" in run.result.get("head", {}) and run.config.has_copies for run in arms.runs.values()):
        return None
    clean = _read_view(arms, CLEAN, equal_epochs=True)
    views = [view for view, heavy in zip(arms.views, arms.heavy, strict=True) if heavy]
    read = (_read_view(arms, view, equal_epochs=True) for view in views)
    heavy = [{name: one.correct(name) for name in arms.runs} for one in read]
    steps = {name: run.result["head"]["equal_epochs"]["steps"] for name, run in arms.runs.items()}
    reference = clean.correct(arms.reference).astype(np.float64)
    return {
        "steps": steps,
        "clean": {
            name: difference(clean.correct(name) - reference, clean.groups)
            for name in arms.runs
            if name != arms.reference
        },
        "heavy_mean": _mean(arms, heavy, clean.groups),
    }


def _area(arm: str, per_view: Sequence[Mapping[str, JsonValue]]) -> float:
    """Mean over curves of the area under accuracy versus strength, the clean view included in each."""
    curves = dict.fromkeys(view["curve"] for view in per_view if view["curve"] != CLEAN.curve)
    areas = []
    for curve in curves:
        views = [view for view in per_view if view["curve"] in (curve, CLEAN.curve)]
        strengths = np.array([view["strength"] for view in views], np.float64)
        areas.append(
            float(metrics.area_under_strength(strengths, np.array([v["arms"][arm]["accuracy"] for v in views])))
        )
    return float(np.mean(areas))


def read(folder: Path) -> dict[str, JsonValue]:
    """The contents of a finished comparison's comparison.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    try:
        return read_sealed(folder / RESULT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(_no_comparison(folder)) from error
    except (OSError, ValueError) as error:
        path, way_on = folder / RESULT, "remove it, and the same comparison makes it again"
        raise RunError(f"{path} cannot be used ({error}): {way_on}") from error


def _no_comparison(folder: Path) -> str:
    """What is found where a comparison was looked for, and what may be meant."""
    a_comparison = "give runs/compare-NAME"
    if not folder.exists():
        return f"{folder} does not exist: {runs.nearest(folder, RESULT) or a_comparison}"
    if not (folder / runs.CONFIG).exists():
        return f"{folder} holds no comparison: {a_comparison}"
    made = folder.parent / runs.read_config(folder).comparison_folder.name
    way_on = f"give {made}" if (made / RESULT).exists() else "blurtrain compare makes one"
    return f"{folder} holds no comparison (it is a run): {way_on}"


def stored(folder: Path, arms: Arms) -> dict[str, JsonValue] | None:
    """The comparison that a folder holds, if it was made of exactly these runs."""
    try:
        comparison: dict[str, JsonValue] = read_sealed(folder / RESULT)
        if comparison["inputs"] == inputs_of(arms):
            return comparison
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None
