"""How a change of features reaches a linear head's decision, and whether images that flip changed more before."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

QUANTILES = {"q05": 0.05, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q95": 0.95}
CONFIDENCE = 0.95
NEXT = 1e-9  # beside an end, where the equation is solved trivially
HALVINGS = 60
Figures = Mapping[str, float | None]


@dataclass(frozen=True, eq=False)
class LinearHead:
    """The last layer of a network, logits = weights features + bias.

    Args:
        name: Of the arm, or ``own`` for the network's own.
        weights: One row a class.
        bias: One number a class.
        is_separate: Whether the network gives it features; else it gives the logits themselves.
    """

    name: str
    weights: Float64[np.ndarray, "classes features"]
    bias: Float64[np.ndarray, " classes"]
    is_separate: bool = True

    def logits(self, features: Float64[np.ndarray, "images features"]) -> Float64[np.ndarray, "images classes"]:
        """Of some images."""
        return np.asarray(features @ self.weights.T + self.bias)

    @cached_property
    def norm(self) -> float:
        """||V||_2: the most that it can amplify."""
        return float(np.linalg.norm(self.weights, 2))

    @cached_property
    def row_space(self) -> Float64[np.ndarray, "features rank"]:
        """An orthonormal basis of the directions that decide: the span of the rows with their mean taken off.

        What moves all logits alike changes no answer.
        """
        left, sizes, _ = np.linalg.svd((self.weights - self.weights.mean(0)).T, full_matrices=False)
        return np.asarray(left[:, sizes > 1e-9 * max(sizes.max(), np.finfo(float).tiny)])


def quantiles(values: Float64[np.ndarray, " images"]) -> Figures:
    """Quantiles and mean of the finite values; none where there are none."""
    known = values[np.isfinite(values)]
    if not len(known):
        return dict.fromkeys((*QUANTILES, "mean"))
    return {name: float(np.quantile(known, share)) for name, share in QUANTILES.items()} | {"mean": float(known.mean())}


def ratio(above: Float64[np.ndarray, "*_"], below: Float64[np.ndarray, "*_"]) -> Float64[np.ndarray, "*_"]:
    """A quotient; 0 of 0 is 0, and what else is divided by 0 has no limit."""
    with np.errstate(invalid="ignore", over="ignore"):  # what is not finite stays so
        without = np.where(above > 0, np.inf, 0.0 * above)
        return np.where(below > 0, above / np.where(below > 0, below, 1), without + 0.0 * below)


@dataclass(frozen=True)
class Answers:
    """A head's logits of the same images clean and blurred."""

    clean: Float64[np.ndarray, "images classes"]
    blurred: Float64[np.ndarray, "images classes"]

    @property
    def both(self) -> tuple[np.ndarray, np.ndarray]:
        """Clean and blurred."""
        return self.clean, self.blurred

    @property
    def flipped(self) -> Bool[np.ndarray, " images"]:
        """Which images get another answer."""
        return np.asarray(self.clean.argmax(1) != self.blurred.argmax(1))


def described(
    head: LinearHead,
    clean: Float64[np.ndarray, "images features"],
    blurred: Float64[np.ndarray, "images features"],
    labels: Int64[np.ndarray, " images"] | None,
) -> dict[str, Any]:
    """What blur does to a head's decision.

    Args:
        head: The head.
        clean: Features.
        blurred: Features of the same images.
        labels: Their classes, where the head was made for them.

    Returns:
        Flips, accuracies, margin (best minus second logit of the clean image), logit change ||V df||, also over the
        margin and beside the bound ||V|| ||df||, and the share of ||df||^2 that lies in the head's row space.
    """
    answers = Answers(head.logits(clean), head.logits(blurred))
    change = np.linalg.norm(answers.blurred - answers.clean, axis=1)
    best = np.sort(answers.clean, axis=1)
    margin = best[:, -1] - best[:, -2]
    right = [None if labels is None else float((some.argmax(1) == labels).mean()) for some in answers.both]
    return {
        "flipped": int(answers.flipped.sum()),
        "accuracy_clean": right[0],
        "accuracy_blurred": right[1],
        "margin": float(margin.mean()),
        "logit_change": quantiles(change),
        "error": quantiles(ratio(change, np.linalg.norm(answers.clean, axis=1))),
        "change_over_margin": quantiles(ratio(change, margin)),
        **_passed_on(head, blurred - clean, change),
    }


def _passed_on(
    head: LinearHead, shift: Float64[np.ndarray, "images features"], change: Float64[np.ndarray, " images"]
) -> dict[str, Any]:
    """What a head makes of a shift of its features; nothing where it has none of its own."""
    if not head.is_separate:
        return dict.fromkeys(("head_norm", "head_ratio", "row_share", "row_chance"))
    size = np.linalg.norm(shift, axis=1)
    inside = np.linalg.norm(shift @ head.row_space, axis=1)
    bound, share = ratio(change, head.norm * size), quantiles(ratio(inside**2, size**2))
    return {
        "head_norm": head.norm,
        "head_ratio": {"mean": float(np.nanmean(bound)), "largest": float(np.nanmax(bound))},
        "row_share": {key: share[key] for key in ("mean", "q05", "q95")},
        "row_chance": head.row_space.shape[1] / head.row_space.shape[0],  # of a shift without preferred direction
    }


def separation(errors: Float64[np.ndarray, " images"], flipped: Bool[np.ndarray, " images"]) -> dict[str, Any]:
    """Area under the ROC curve of an error as a sign of a flip: how often a flipped image has the larger one."""
    ones, others = errors[flipped], errors[~flipped]
    counts = {"flipped": len(ones), "stayed": len(others)}
    if not len(ones) or not len(others):
        return {"auc": None, "ci95": None, **counts}
    above = (ones[:, None] > others).mean() + 0.5 * (ones[:, None] == others).mean()
    return {"auc": float(above), "ci95": list(auc_interval(float(above), len(ones), len(others))), **counts}


def auc_interval(auc: float, ones: int, others: int) -> tuple[float, float]:
    """Newcombe's interval of an area under the ROC curve (Statistics in Medicine 25 (2006) 559, method 5).

    The limits A solve |A - auc| = z sqrt(V(A)) with Hanley and McNeil's variance, V(A) = A (1 - A) / (m n)
    [1 + N (1 - A) / (2 - A) + N A / (1 + A)] and N = (m + n) / 2 - 1, so they stay within 0 and 1 and are wide at both.
    """
    z, extra = NormalDist().inv_cdf((1 + CONFIDENCE) / 2), (ones + others) / 2 - 1

    def is_within(area: float) -> bool:
        spread = 1 + extra * (1 - area) / (2 - area) + extra * area / (1 + area)
        return (area - auc) ** 2 < z**2 * area * (1 - area) * spread / (ones * others)

    def limit(end: float) -> float:
        inside, outside = (auc + NEXT * (end - auc), end) if 0 < auc < 1 else (abs(auc - NEXT), end)
        for _ in range(HALVINGS):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if is_within(middle) else (inside, middle)
        return inside

    return (0.0 if auc == 0 else limit(0.0)), (1.0 if auc == 1 else limit(1.0))
