"""A comparison as CSV: its views and its classes, one row for each and each arm."""

from collections.abc import Mapping, Sequence
from typing import Any

from blurtrain.files import csv_text

ARM = ("accuracy", "macro_accuracy", "top5_accuracy", "nll", "ece", "accuracy_refit")
AGAINST = ("difference", "ci95_low", "ci95_high", "p", "p_holm", "verdict", "smallest_detectable")


def views_text(comparison: Mapping[str, Any]) -> str:
    """One row for each view and arm: first the blurs of the sweep, then photographs that are blurred really."""
    head = ("view", "family", "strength", "angle", "heavy", "arm", "n_test", "groups", "heads")
    rows: list[list[Any]] = [[*head, *ARM, *AGAINST]]
    for view in (*comparison["views"], *comparison["real"]):
        counts = [view.get(key, comparison[key]) for key in ("n_test", "groups", "heads")]
        what = [view["name"], *(view.get(key) for key in ("family", "strength", "angle", "heavy"))]
        for name, arm in view["arms"].items():
            other = view["against_reference"].get(name)
            against = [None] * len(AGAINST) if other is None else _against(other)
            rows.append([*what, name, *counts, *(arm[metric] for metric in ARM), *against])
    return csv_text(rows)


def classes_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """One row for each class and arm, the interval in two columns."""
    own = [key for key in rows[0] if key not in ("ci95", *AGAINST)]
    return csv_text([[*own, *AGAINST], *([*(row[key] for key in own), *_against(row)] for row in rows)])


def _against(difference: Mapping[str, Any]) -> list[Any]:
    return [difference["difference"], *difference["ci95"], *(difference[key] for key in AGAINST[3:])]
