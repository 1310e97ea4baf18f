"""ImageNet-C's corruption errors: a network's errors under its blurs in parts of AlexNet's (no torch).

Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", section
4.2 (arXiv 1903.12261).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from blurtrain import imagenet_c, metrics
from blurtrain.views import Blur

SIDE = 224  # px, for which AlexNet's errors hold
# Mean top-1 error of AlexNet over the five severities, as published with the data set
# (github.com/hendrycks/robustness). Gaussian blur is one of its four extra corruptions, beside the fifteen of its mCE.
ALEXNET: Mapping[str, float] = {
    "defocus": 0.819880,
    "glass": 0.826268,
    "motion": 0.785948,
    "zoom": 0.798360,
    "gaussian": 0.787108,
}
ALEXNET_CLEAN = 0.43478  # top-1 error: torchvision states 56.522 % for AlexNet's IMAGENET1K_V1, the network used there


def complete_families(views: Sequence[Blur]) -> list[str]:
    """Families of which all five severities are among the views."""
    there = {(view.family, view.strength) for view in views if view.severity}
    return [family for family in ALEXNET if all((family, level) in there for level in imagenet_c.SEVERITIES)]


def corruption_errors(clean: float, errors: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Corruption errors by family, and their means over the families that are there.

    ``CE = sum_s error_s / sum_s alexnet_s`` and ``relative CE = sum_s (error_s - clean) / sum_s (alexnet_s -
    alexnet_clean)``, over the severities s.

    Args:
        clean: Top-1 error of the network on clean images.
        errors: Its errors at the five severities of each family, one family or more.

    Returns:
        ``families``, each with ``mean_error``, ``ce`` and ``relative_ce``; ``mce`` and ``relative_mce``; 1 is AlexNet.
    """
    families = {}
    for family, values in errors.items():
        own, alexnet = np.asarray(values, np.float64), np.full(len(values), ALEXNET[family])
        families[family] = {
            "mean_error": float(own.mean()),
            "ce": float(metrics.corruption_error(own, alexnet)),
            "relative_ce": float(metrics.corruption_error(own - clean, alexnet - ALEXNET_CLEAN)),
        }
    return {
        "families": families,
        "mce": float(np.mean([family["ce"] for family in families.values()])),
        "relative_mce": float(np.mean([family["relative_ce"] for family in families.values()])),
        "alexnet": {"clean_error": ALEXNET_CLEAN, "mean_errors": {family: ALEXNET[family] for family in families}},
    }
