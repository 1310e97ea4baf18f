"""The scalars of a run by tag and step: what TensorBoard and every other logger is given."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from blurtrain.sweep import SweepRow
from blurtrain.views import CLEAN, REAL

STEPS_PER_PIXEL = 100  # steps are integers: a blur of 1.5 px stands at step 150
SWEPT = ("accuracy", "macro_accuracy", "nll", "ece")

Scalar = tuple[str, int, float]


def scalars(curves: Sequence[Mapping[str, float]], rows: Sequence[SweepRow]) -> Iterator[Scalar]:
    """Tag, step and value of all that is a number: the same tags in every arm, so that curves overlay.

    Args:
        curves: One row a solver iteration, for the chosen penalty, averaged over folds.
        rows: The sweep; photographs that are blurred really have tags of their own.
    """
    for step, point in enumerate(curves):
        yield "train/nll", step, point["train_nll"]
        yield "validation/nll", step, point["validation_nll"]
        yield "validation/accuracy", step, point["validation_accuracy"]
    for row, tag in _tagged(rows):
        for metric in SWEPT:
            yield f"{tag}/{metric}", step_of(row.strength), getattr(row, metric)


def final_metrics(rows: Sequence[SweepRow], strongest: str) -> dict[str, float]:
    """What a run comes to, under the same names in every arm; photographs that are blurred really are in no mean.

    Args:
        rows: The sweep.
        strongest: Name of its widest blur: strengths of several families are of several units.
    """
    swept = {row.view: row for row in rows if row.strength is not None}
    clean, widest = swept[CLEAN.name], swept[strongest]
    return {
        "test/accuracy clean": clean.accuracy,
        "test/accuracy strongest blur": widest.accuracy,
        "test/accuracy mean over views": float(np.mean([row.accuracy for row in swept.values()])),
        "test/nll clean": clean.nll,
        "test/nll strongest blur": widest.nll,
        "test/ece clean": clean.ece,
        "test/ece strongest blur": widest.ece,
    }


def step_of(strength: float | None) -> int:
    """Where a view stands on the axis of steps; photographs that are blurred really, at 0."""
    return round(STEPS_PER_PIXEL * (strength or 0))


def _tagged(rows: Sequence[SweepRow]) -> Iterator[tuple[SweepRow, str]]:
    """Every row under the tag of its curve, the clean one under each; photographs have one of their own."""
    for curve in dict.fromkeys(row.curve for row in rows if row.strength):
        yield from ((row, f"sweep {curve}") for row in rows if row.curve in (curve, CLEAN.curve))
    yield from ((row, f"real {row.view}") for row in rows if row.family == REAL)
