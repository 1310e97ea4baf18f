"""Table, finding, CSV and pictures of the layers, against fabricated results that they are made from."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blurtrain import kernels, layer_pictures, layer_report, layer_tables
from blurtrain.errors import StoreError
from blurtrain.views import Blur

Json = dict[str, Any]
BLURS = (Blur("gaussian", 1), Blur("gaussian", 4), Blur("motion", 9, angle=45))
GRID = (
    *(Blur("gaussian", sigma) for sigma in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8)),
    *(Blur("box", width) for width in (3, 5, 9, 17)),
    *(Blur("defocus", radius) for radius in (1, 2, 4, 8)),
    *(Blur("motion", length, angle=45) for length in (3, 5, 9, 15)),
)
READINGS = ("triangle", "young", "l1", "spectral", "joint")
SHARES = {"lipschitz": 0.5, "triangle": 0.1, "young": 0.05, "l1": 0.15, "spectral": 0.2, "joint": 0.3, "output": 0.6}
GATED = "the scale of a squeeze-and-excitation block has no Lipschitz constant"
WIDER = "the kernel of 33 px is wider than the map of 13 px"
BORDERS = "the border rule reflect101 does not commute with convolution"


def quantiles(middle: float) -> Json:
    low = {"q05": 0.6 * middle, "q25": 0.8 * middle, "q50": middle}
    return {**low, "q75": 1.25 * middle, "q95": 1.6 * middle, "mean": 1.1 * middle}


def kernel_row(blur: Blur) -> Json:
    kernel = kernels.kernel(blur)
    factors = {"centre": kernel.centre, "l1": kernel.l1, "distance": kernel.distance}
    what = {"name": blur.name, "family": blur.family, "strength": blur.strength, "angle": blur.angle}
    return {**what, "border": blur.border, **factors, "furthest": kernel.furthest(96, 96), "shape": list(kernel.shape)}


def auc_of(value: float) -> Json:
    return {"auc": value, "ci95": [value - 0.1, min(1.0, value + 0.08)], "flipped": 20, "stayed": 44}


def propagated(blur: Blur, place: int, depth: float, heads: Sequence[str], product: float | None) -> Json:
    error = (0.1 + 0.15 * place) * (0.5 + depth) + 0.03 * np.sin(9 * depth)
    borders: Json = {blur.border: quantiles(error), "circular": quantiles(0.9 * error)}
    aucs = {name: auc_of(0.5 + 0.3 * depth + 0.05 * number) for number, name in enumerate(heads)}
    return {**borders, "product": product, "auc": aucs}


def local(place: int, depth: float) -> Json:
    error = (0.1 + 0.1 * place) * (1 + 0.3 * np.sin(20 * depth))
    bounds = {
        name: {"constant": 3.0 * share, "mean": share * (1 - 0.3 * depth), "largest": 1.4 * share, "reason": None}
        for name, share in SHARES.items()
    }
    shares = {"padding": 0.1, "stride": 0.2, "nonlinearity": 0.7}
    return {"reason": None, "error": {"mean": error, "largest": 2 * error}, "bounds": bounds, "shares": shares}


def layer(at: int, n: int, blurs: Sequence[Blur], heads: Sequence[str], names: Callable[[int], str]) -> Json:
    depth = at / max(1, n - 1)
    cumulative = 2.5 ** (at + 1)
    return {
        "depth": at + 1,
        "name": names(at),
        "batch_norm": None,
        "activation": "relu",
        "in_channels": 3 if at == 0 else 64,
        "out_channels": 64 * 2 ** (at // 8),
        "kernel": [3, 3] if at % 3 == 0 else [1, 1],
        "stride": [2, 2] if at == 0 else [1, 1],
        "padding": [1, 1, 1, 1],
        "padding_mode": "zeros",
        "dilation": [1, 1],
        "groups": 1,
        "height": 224,
        "width": 224,
        "no_bound": None,
        "norm": 2.5 + np.sin(at),
        "young": 4.5,
        "lipschitz": 1.0,
        "cumulative": cumulative,
        "no_cumulative": None,
        "local": [local(place, depth) for place, _ in enumerate(blurs)],
        "propagated": [propagated(b, place, depth, heads, 0.3 * cumulative) for place, b in enumerate(blurs)],
    }


def decision(place: int, number: int) -> Json:
    return {
        "flipped": 5 + 10 * place - 4 * number,
        "accuracy_clean": 0.9,
        "accuracy_blurred": 0.8 - 0.2 * place + 0.1 * number,
        "margin": 3.5,
        "logit_change": quantiles(2.0 + place),
        "error": quantiles(0.3),
        "change_over_margin": quantiles(0.4 + 0.5 * place - 0.1 * number),
        "head_norm": 3.25,
        "head_ratio": {"mean": 0.21, "largest": 0.44},
        "row_share": {"mean": 0.3 - 0.1 * number, "q05": 0.1, "q95": 0.5},
    }


def below(blur: Blur, place: int, n: int) -> list[Json]:
    values = zip(READINGS, (0, 0, 1, 3, 4), (6.0, 4.0, 3.0, 2.0, 1.5), strict=True)
    return [
        {"blur": blur.name, "reading": reading, "below": min(n, max(0, count - place)), "of": n}
        | {"least": 0.4 * median, "median": median, "largest": 3 * median}
        for reading, count, median in values
    ]


def fabricated(
    n: int = 26,
    *,
    blurs: Sequence[Blur] = BLURS,
    heads: Sequence[str] = ("baseline", "augmented"),
    names: Callable[[int], str] = lambda at: f"features.{at}.squeeze.conv",
) -> Json:
    """A plausible result: errors and constants grow with depth and strength."""
    layers = [layer(at, n, blurs, heads, names) for at in range(n)]
    features = {"propagated": [propagated(b, place, 1.1, heads, None) for place, b in enumerate(blurs)]}
    for one in features["propagated"]:
        del one["product"]
    stages = [
        {"name": one["name"], "kind": "convolution", "constant": one["norm"], "no_bound": None}
        | {"cumulative": one["cumulative"]}
        for one in layers
    ]
    result = {
        "network": "squeezenet1_1",
        "weights": "IMAGENET1K_V1",
        "side": 224,
        "n_images": 64,
        "split": "test",
        "head_names": list(heads),
        "blurs": [kernel_row(blur) for blur in blurs],
        "constants": [kernel_row(blur) for blur in GRID],
        "below_one": [entry for place, blur in enumerate(blurs) for entry in below(blur, place, n)],
        "layers": layers,
        "features": {**features, "cumulative": 2.5**n, "no_cumulative": None},
        "stages": stages,
        "decision": [
            {name: decision(place, number) for number, name in enumerate(heads)} for place, _ in enumerate(blurs)
        ],
        "violations": {"checked": 40_000, "count": 0, "largest": 0.9731},
        "no_bound": 0,
    }
    plain: Json = json.loads(json.dumps(result))  # as it is read from its file
    return plain | {"finding": layer_report.finding(plain)}


def gated(n: int = 52, every: int = 5) -> Json:
    """A network with blocks that have no constant: gaps in everything that needs one."""
    result = fabricated(n, names=lambda at: f"features.{at // 3}.0.block.{at % 3}.0")
    for at, one in enumerate(result["layers"]):
        for place, found in enumerate(one["local"]):
            if at >= n // 2 and place == 1:
                found.update(reason=WIDER, error=None, bounds={}, shares=None)
            elif place == 2:
                for bound in ("joint", "output"):
                    found["bounds"][bound] = {"constant": None, "mean": None, "largest": None, "reason": BORDERS}
        if at % every == every - 1:
            one.update(no_bound=GATED, norm=None, young=None, lipschitz=None)
            for found in one["local"]:
                found.update(reason=GATED, error=None, bounds=None, shares=None)
        if at >= every:
            one.update(cumulative=None, no_cumulative=GATED)
            for found in one["propagated"]:
                found["product"] = None
                found["auc"]["augmented"].update(ci95=None)
    result["features"].update(cumulative=None, no_cumulative=GATED)
    lost = {"name": "features.4.scale", "kind": "product", "constant": None, "no_bound": GATED, "cumulative": None}
    result["stages"] += [lost, lost, lost | {"kind": "attention", "no_bound": "attention has no Lipschitz constant"}]
    result["no_bound"] = n // every
    return result | {"finding": layer_report.finding(result)}


def blank() -> Json:
    """Every null that there can be, with one image."""
    result = gated(3, every=1)
    result.update(n_images=1, violations={"checked": 0, "count": 0, "largest": None})
    for entry in result["below_one"]:
        entry.update(below=0, of=0, least=None, median=None, largest=None)
    for part in (*result["layers"], result["features"]):
        for found in part["propagated"]:
            for border in ("reflect101", "circular"):
                found[border] = None
            for auc in found["auc"].values():
                auc.update(auc=None, ci95=None, flipped=0, stayed=1)
    for heads in result["decision"]:
        for head in heads.values():
            head.update(flipped=0, accuracy_clean=None, accuracy_blurred=None, change_over_margin=None)
            head.update(row_share=None, head_ratio=None, logit_change=None)
    return result | {"finding": layer_report.finding(result)}
