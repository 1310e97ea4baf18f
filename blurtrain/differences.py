"""Differences between two arms as comparison.json has them: interval, p values and a verdict; no torch."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Shaped

from blurtrain import inference


def number(value: float) -> float | None:
    """JSON has no NaN: what the data say nothing about is null."""
    return value if math.isfinite(value) else None


def difference(values: Float64[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " images"]) -> dict[str, Any]:
    """What images and heads say of a mean difference, not adjusted for being one of several.

    Args:
        values: Correctness of the arm minus that of the reference, or its mean over views.
        groups: Statistical unit of each image.
    """
    result = inference.crossed_difference(values, groups)
    return {
        "difference": result.estimate,
        "ci95": [number(bound) for bound in result.ci95],
        "p": number(result.p),
        "p_holm": None,
        "verdict": inference.verdict(result.estimate, result.p),
        "smallest_detectable": number(result.smallest_detectable),
    }


def accuracy_of(correct: Float64[np.ndarray, "heads images"], groups: Shaped[np.ndarray, " images"]) -> dict[str, Any]:
    """Accuracy with an interval made like that of a difference: heads and groups are both random."""
    against_nothing = inference.crossed_difference(correct, groups)
    return {
        "accuracy": float(correct.mean()),
        "ci95": [number(float(np.clip(bound, 0, 1))) for bound in against_nothing.ci95],  # clip keeps NaN
    }


def adjust(several: Sequence[dict[str, Any]]) -> None:
    """Holm's adjustment over some of what `difference` gave; the verdicts then follow the adjusted p value."""
    p_values = [math.nan if one["p"] is None else one["p"] for one in several]
    for one, p in zip(several, inference.holm(np.array(p_values)), strict=True):
        one["p_holm"] = number(float(p))
        one["verdict"] = inference.verdict(one["difference"], float(p))
