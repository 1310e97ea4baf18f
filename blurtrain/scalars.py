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


def final_metrics(rows: Sequence[SweepRow]) -> dict[str, float]:
    """The few numbers that runs are sorted by."""
    swept = [row for row in rows if row.strength is not None]
    clean, blurred = swept[0], swept[1:]
    metrics = ("accuracy", "nll", "ece")
    means = {metric: float(np.mean([getattr(row, metric) for row in blurred])) for metric in metrics}
    return {
        **{f"final/{metric} clean": getattr(clean, metric) for metric in metrics},
        **{f"final/{metric} mean of blurred": means[metric] for metric in metrics},
    }


def step_of(strength: float | None) -> int:
    """Where a view stands on the axis of steps; photographs that are blurred really, at 0."""
    return round(STEPS_PER_PIXEL * (strength or 0))


def _tagged(rows: Sequence[SweepRow]) -> Iterator[tuple[SweepRow, str]]:
    """Every row under the tag of its curve, the clean one under each; photographs have one of their own."""
    for curve in dict.fromkeys(row.curve for row in rows if row.strength):
        yield from ((row, f"sweep {curve}") for row in rows if row.curve in (curve, CLEAN.curve))
    yield from ((row, f"real {row.view}") for row in rows if row.family == REAL)
