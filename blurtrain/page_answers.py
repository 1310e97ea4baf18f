"""What the arms of a comparison answer on every test image, read once and column by column; no torch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Float64, Int32, Int64, UInt16

from blurtrain import breakdown, metrics
from blurtrain.errors import RunError
from blurtrain.runs import Run
from blurtrain.sweep import EQUAL_EPOCHS, PREDICTIONS, REFIT

COLUMNS = ["head", "label", "predicted", "confidence"]
CLEAN, HEAVY = "clean", "heavy"  # what calibration is told of


@dataclass(frozen=True)
class Said:
    """What the folds' heads of one arm say of each image in one view.

    Args:
        answer: The class that most heads give; of equally many the first.
        votes: How many give it.
        confidence: Mean probability that these give to it.
        right: How many heads are right.
    """

    answer: Int32[np.ndarray, " images"]
    votes: UInt16[np.ndarray, " images"]
    confidence: Float32[np.ndarray, " images"]
    right: UInt16[np.ndarray, " images"]


@dataclass(frozen=True)
class Calibration:
    """Answers of all heads by their confidence, in bins of equal width.

    Args:
        counts: Answers in each bin.
        confidence: Their mean confidence; NaN where there are none.
        accuracy: How many of them are right; NaN where there are none.
    """

    counts: Int64[np.ndarray, " bins"]
    confidence: Float64[np.ndarray, " bins"]
    accuracy: Float64[np.ndarray, " bins"]


@dataclass(frozen=True)
class Confusion:
    """How often each class is taken for each under heavy blur, by heads and views; pairs that never occur are left out.

    Args:
        labels: The classes.
        answers: What they are taken for.
        counts: How often.
    """

    labels: Int64[np.ndarray, " pairs"]
    answers: Int64[np.ndarray, " pairs"]
    counts: Int64[np.ndarray, " pairs"]


@dataclass(frozen=True)
class Answers:
    """All that a page says of single images.

    Args:
        labels: Class of each test image.
        said: By view and arm.
        calibration: By `CLEAN` or `HEAVY`, and arm.
        confusion: By arm; empty where no view is heavy.
        counts: How often each image is classified correctly; none where no view is heavy.
    """

    labels: Int64[np.ndarray, " images"]
    said: Mapping[tuple[str, str], Said]
    calibration: Mapping[tuple[str, str], Calibration]
    confusion: Mapping[str, Confusion]
    counts: breakdown.Tally | None


def gather(runs: Mapping[str, Run], heavy: Mapping[str, bool]) -> Answers:
    """Read the predictions of all arms, view by view; of each only what a page needs is kept.

    Args:
        runs: By arm, the reference first.
        heavy: Whether each blur of the sweep is heavy, by its name; the clean view is the first.

    Raises:
        RunError: If a run's predictions cannot be read, or are damaged.
    """
    said: dict[tuple[str, str], Said] = {}
    bins = {(kind, arm): np.zeros((3, metrics.CALIBRATION_BINS)) for kind in (CLEAN, HEAVY) for arm in runs}
    pairs: dict[str, list[np.ndarray]] = {arm: [] for arm in runs}
    correct: list[dict[str, Bool[np.ndarray, "heads images"]]] = []
    clean: dict[str, Bool[np.ndarray, "heads images"]] = {}
    files = {arm: run.file(PREDICTIONS) for arm, run in runs.items()}
    for place, (view, is_heavy) in enumerate(heavy.items()):
        right: dict[str, Bool[np.ndarray, "heads images"]] = {}
        for arm, path in files.items():
            labels, predicted, confidence = read(path, view)
            right[arm] = predicted == labels
            said[view, arm] = majority(predicted, confidence, right[arm])
            if place == 0 or is_heavy:
                bins[HEAVY if is_heavy else CLEAN, arm] += _binned(confidence, right[arm])
            if is_heavy:
                pairs[arm].append(_pairs(labels, predicted, len(runs[arm].classes)))
        if place == 0:
            clean = right
        if is_heavy:
            correct.append(right)
    return Answers(
        labels=labels,
        said=said,
        calibration={key: _calibration(sums) for key, sums in bins.items() if sums[0].any()},
        confusion={arm: _confusion(found, len(runs[arm].classes)) for arm, found in pairs.items() if found},
        counts=breakdown.tally(correct, clean, labels, np.zeros(len(labels), np.int64)) if correct else None,
    )


def read(
    path: Path, view: str
) -> tuple[Int64[np.ndarray, " images"], Int32[np.ndarray, "heads images"], Float32[np.ndarray, "heads images"]]:
    """Labels, answers and confidences of the folds' heads in one view, in the order of the images.

    Raises:
        RunError: If the file cannot be read, or has no such view.
    """
    try:
        filters = [("view", "=", view)]
        table = pq.read_table(path, columns=COLUMNS, filters=filters, read_dictionary=["head"])
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: train that run again under another name") from error
    if len(table) == 0:
        raise RunError(f"{path} has no predictions for {view}: train that run again under another name")
    head = table["head"].unify_dictionaries().combine_chunks()
    names, codes = head.dictionary.to_pylist(), head.indices.to_numpy()
    folds = [code for code, name in enumerate(names) if name != REFIT and not name.startswith(EQUAL_EPOCHS)]
    rows = [np.flatnonzero(codes == code) for code in folds]  # block by block; within a block by head, then image
    label, predicted, confidence = (table[name].to_numpy() for name in COLUMNS[1:])
    return label[rows[0]].astype(np.int64), *(np.stack([column[i] for i in rows]) for column in (predicted, confidence))


def majority(
    predicted: Int32[np.ndarray, "heads images"],
    confidence: Float32[np.ndarray, "heads images"],
    right: Bool[np.ndarray, "heads images"],
) -> Said:
    """The answer that most heads give, and how sure those are that give it."""
    votes = np.stack([(predicted == one).sum(0) for one in predicted])
    most = votes.max(0)
    answer = np.where(votes == most, predicted, np.iinfo(np.int32).max).min(0).astype(np.int32)
    agreeing = predicted == answer
    sure = np.where(agreeing, confidence, 0).sum(0, dtype=np.float64) / most
    return Said(answer, most.astype(np.uint16), sure.astype(np.float32), right.sum(0).astype(np.uint16))


def _binned(
    confidence: Float32[np.ndarray, "heads images"], right: Bool[np.ndarray, "heads images"]
) -> Float64[np.ndarray, "3 bins"]:
    """Number, summed confidence and correct answers of each bin, whose edges are those of the calibration error."""
    edges = np.linspace(0, 1, metrics.CALIBRATION_BINS + 1, dtype=confidence.dtype)
    index = np.digitize(confidence, edges[1:-1], right=True).ravel()
    weights = (None, confidence.ravel(), right.ravel())
    return np.stack([np.bincount(index, one, metrics.CALIBRATION_BINS).astype(np.float64) for one in weights])


def _calibration(sums: Float64[np.ndarray, "3 bins"]) -> Calibration:
    with np.errstate(invalid="ignore"):
        return Calibration(sums[0].astype(np.int64), sums[1] / sums[0], sums[2] / sums[0])


def _pairs(
    labels: Int64[np.ndarray, " images"], predicted: Int32[np.ndarray, "heads images"], classes: int
) -> Int64[np.ndarray, "2 pairs"]:
    """Label and answer as one number, and how often it occurs: of a thousand classes few pairs do."""
    return np.stack(np.unique(labels * classes + predicted, return_counts=True))


def _confusion(found: Sequence[Int64[np.ndarray, "2 _"]], classes: int) -> Confusion:
    joined = np.concatenate(found, axis=1)
    keys, place = np.unique(joined[0], return_inverse=True)
    counts = np.bincount(place, joined[1]).astype(np.int64)
    return Confusion(keys // classes, keys % classes, counts)


@dataclass(frozen=True)
class Shift:
    """How often a class is taken for another in two arms, as shares of all answers to images of that class.

    Args:
        label: The class.
        answer: What it is taken for.
        before: Share in the reference.
        after: Share in the arm.
        images: How many images change, the mean over heads and heavy views; more than none where the arm has more.
    """

    label: int
    answer: int
    before: float
    after: float
    images: float


def shifts(answers: Answers, reference: str, arm: str) -> list[Shift]:
    """What changes from the reference to an arm under heavy blur, the largest change in images first."""
    assert answers.counts is not None
    seen = answers.counts.seen
    found: dict[tuple[int, int], list[int]] = {}
    for place, name in enumerate((reference, arm)):
        one = answers.confusion[name]
        for label, answer, count in zip(one.labels.tolist(), one.answers.tolist(), one.counts.tolist(), strict=True):
            found.setdefault((label, answer), [0, 0])[place] = count
    images = np.bincount(answers.labels)
    rows = []
    for (label, answer), (before, after) in found.items():
        all_answers = seen * int(images[label])
        rows.append(Shift(label, answer, before / all_answers, after / all_answers, (after - before) / seen))
    return sorted(rows, key=lambda row: (-abs(row.images), row.label, row.answer))
