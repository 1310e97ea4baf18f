"""The layers of a network as CSV: one row for each layer and blur, and one for each stage."""

from collections.abc import Iterator, Mapping
from typing import Any

from blurtrain.files import csv_text

READINGS = ("triangle", "young", "l1", "spectral", "joint")  # of a layer's constant
BOUNDS = ("lipschitz", "triangle", "young", "l1", "spectral", "joint", "output")
QUANTILES = ("q05", "q25", "q50", "q75", "q95", "mean")
LAYER = (
    *("depth", "name", "batch_norm", "activation", "in_channels", "out_channels", "kernel", "stride", "padding"),
    *("padding_mode", "dilation", "groups", "height", "width", "no_bound", "norm", "young", "lipschitz"),
    *("cumulative", "no_cumulative"),
)
BLUR = ("name", "family", "strength", "angle", "border", "centre", "l1", "distance", "furthest", "shape")
STAGE = ("name", "kind", "constant", "no_bound", "cumulative")
BOUND = ("constant", "mean", "largest", "relative", "reason")
LOCAL = ("mean", "median", "largest")  # of the local error, over images
SHARES = ("padding", "stride", "nonlinearity")

Result = Mapping[str, Any]  # the contents of layers.json


def layers_text(result: Result) -> str:
    """One row for each layer and blur, then of features and logits: relative errors, shares of bounds."""
    heads = result["head_names"]
    head = [
        *(key if key == "depth" else f"layer_{key}" for key in LAYER),
        *(f"blur_{key}" for key in BLUR),
        *("local_reason", *(f"local_error_{key}" for key in LOCAL)),
        *(f"{bound}_{key}" for bound in BOUNDS for key in BOUND),
        *(f"share_{key}" for key in SHARES),
        *(f"error_{border}_{key}" for border in ("own", "circular") for key in QUANTILES),
        "product",
        *(f"auc_{name}{end}" for name in heads for end in ("", "_ci95_low", "_ci95_high", "_flipped", "_stayed")),
    ]
    nothing: Mapping[str, Any] = dict.fromkeys(("reason", "error", "bounds", "shares"))
    rows = [
        [
            *(_cell(part.get(key)) for key in LAYER),
            *(_cell(blur[key]) for key in BLUR),
            *_local(part["local"][place] if "local" in part else nothing),
            *_propagated(part["propagated"][place], blur, heads),
        ]
        for part in (*result["layers"], *_behind(result))
        for place, blur in enumerate(result["blurs"])
    ]
    return csv_text([head, *rows])


def _behind(result: Result) -> Iterator[Mapping[str, Any]]:
    """Features and logits as if they were layers."""
    depth = len(result["layers"])
    yield {"depth": depth + 1, "name": "features", **result["features"]}
    for name, part in result["logits"].items():
        yield {"depth": depth + 2, "name": f"logits {name}", **part}


def _cell(value: object) -> object:
    """Sizes such as [3, 3] in one cell."""
    return "x".join(map(str, value)) if isinstance(value, list | tuple) else value


def _local(local: Mapping[str, Any]) -> Iterator[object]:
    error, bounds, shares = (local[key] or {} for key in ("error", "bounds", "shares"))
    yield local["reason"]
    yield from (error.get(key) for key in LOCAL)
    for bound in BOUNDS:
        yield from (bounds.get(bound, {}).get(key) for key in BOUND)
    yield from (shares.get(key) for key in SHARES)


def _propagated(propagated: Mapping[str, Any], blur: Mapping[str, Any], heads: list[str]) -> Iterator[object]:
    for border in (blur["border"], "circular"):
        yield from ((propagated.get(border) or {}).get(key) for key in QUANTILES)
    yield propagated["product"]
    for name in heads:
        found = propagated["auc"].get(name) or {}
        yield found.get("auc")
        yield from found.get("ci95") or (None, None)
        yield from (found.get(key) for key in ("flipped", "stayed"))


def stages_text(result: Result) -> str:
    """One row for each stage in the order in which it runs."""
    return csv_text([STAGE, *([stage[key] for key in STAGE] for stage in result["stages"])])
