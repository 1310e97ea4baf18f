"""What was found in a network's layers, as plain values for layers.json."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64

from blurtrain import decision
from blurtrain.anatomy import Anatomy, Subject
from blurtrain.bounds import NAMES, ON_IMAGE
from blurtrain.commuting import PARTS
from blurtrain.config import plain
from blurtrain.decision import LinearHead, quantiles, ratio
from blurtrain.kernels import kernel
from blurtrain.propagation import Measured
from blurtrain.stages import Convolution
from blurtrain.views import Blur

# Strengths at which the kernel factors of each family are shown.
STRENGTHS = {
    "gaussian": (0.3, 0.4, 0.5, 0.56, 0.7, 0.85, 1.0, 1.2, 1.4, 1.6, 2.0, 3.0, 4.0, 6.0, 8.0),
    "box": (3.0, 5.0, 7.0, 9.0, 13.0, 17.0, 25.0),
    "defocus": (0.6, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0),
    "motion": (1.2, 1.5, 2.0, 3.0, 5.0, 8.0, 12.0, 16.0, 20.0),
    "half-gaussian": (0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0),
}
VIOLATED = 1 + 1e-5  # of a bound: beyond what rounding in single precision explains
Values = dict[str, Any]


def described(subject: Subject, found: Anatomy, seen: Measured) -> Values:
    """All of it but where it came from."""
    flips = _flips(subject, seen)
    constants = [Blur(family, strength, _angle(family)) for family, some in STRENGTHS.items() for strength in some]
    return {
        "network": subject.backbone.name,
        "side": subject.side,
        "n_images": len(subject.positions),
        "head_names": [head.name for head in subject.heads],
        "blurs": [_factors(view, subject.side) for view in subject.views],
        "constants": [_factors(view, subject.side) for view in constants],
        "below_one": list(_below_one(subject, found)),
        "layers": [
            _layer(subject, found, seen, flips, depth, convolution)
            for depth, convolution in enumerate(found.plan.convolutions)
        ],
        "features": _features(subject, found, seen, flips),
        "logits": {head.name: _logits(subject, seen, head, flips) for head in subject.heads},
        "stages": [
            {
                "name": stage.name,
                "kind": stage.kind,
                "constant": stage.constant,
                "no_bound": stage.no_bound or None,
                "cumulative": stage.cumulative,
            }
            for stage in found.stages
        ],
        "decision": [_decided(subject, seen, blur) for blur in range(len(subject.views))],
        "violations": _violations(seen),
        "no_bound": len(found.plan.convolutions) - len(found.plan.bounded),
    }


def _angle(family: str) -> float | None:
    return 0.0 if family in ("motion", "half-gaussian") else None


def _factors(view: Blur, side: int) -> Values:
    """The numbers of a kernel that the bounds are made of; its frequencies are those of a torus of 2 n."""
    made = kernel(view)
    return {
        "name": view.name,
        "family": view.family,
        "strength": view.strength,
        "angle": view.angle,
        "border": view.border,
        "centre": made.centre,
        "l1": made.l1,
        "distance": made.distance,
        "furthest": min(made.furthest(2 * side, 2 * side), made.distance),
        "shape": list(made.shape),
    }


def _below_one(subject: Subject, found: Anatomy) -> Iterator[Values]:
    """How many layers have a constant below 1, blur by blur and reading by reading."""
    for view in subject.views:
        for reading in ON_IMAGE:
            bounds = [some[reading].constant for (_, one), some in found.promised.items() if one == view]
            known = np.array([constant for constant in bounds if constant is not None])
            if len(known):
                figures = {
                    "least": float(known.min()),
                    "median": float(np.median(known)),
                    "largest": float(known.max()),
                }
                below = {"below": int((known < 1).sum()), "of": len(known)}
                yield {"blur": view.name, "reading": reading, **below, **figures}


def _flips(subject: Subject, seen: Measured) -> Mapping[str, Bool[np.ndarray, "blurs images"]]:
    """Which images get another answer when they are blurred with their own border."""
    features = seen.features.astype(np.float64)
    return {
        head.name: np.array(
            [
                decision.Answers(head.logits(features[0]), head.logits(blurred)).flipped
                for blurred in features[1 : 1 + len(subject.views)]
            ]
        )
        for head in subject.heads
    }


def _features(
    subject: Subject, found: Anatomy, seen: Measured, flips: Mapping[str, Bool[np.ndarray, "blurs images"]]
) -> Values:
    """What becomes of the errors at the end of the network."""
    cumulative, sizes = _cumulative(found, found.plan.trace.output), np.linalg.norm(seen.features[0], axis=1)
    propagated = [
        _propagated(view, seen.feature_errors[blur], flips, blur, _product(cumulative, seen.images[blur], sizes))
        for blur, view in enumerate(subject.views)
    ]
    return {"propagated": propagated, **cumulative}


def _logits(
    subject: Subject, seen: Measured, head: LinearHead, flips: Mapping[str, Bool[np.ndarray, "blurs images"]]
) -> Values:
    """What becomes of the errors behind a head."""
    clean, *others = (head.logits(features.astype(np.float64)) for features in seen.features)
    errors = np.array([ratio(np.linalg.norm(some - clean, axis=1), np.linalg.norm(clean, axis=1)) for some in others])
    both = errors.reshape(2, len(subject.views), -1)
    return {
        "propagated": [_propagated(view, both[:, blur], flips, blur, None) for blur, view in enumerate(subject.views)]
    }


def _product(
    cumulative: Values, distances: Float64[np.ndarray, " images"], sizes: Float[np.ndarray, " images"]
) -> float | None:
    """The relative error that the product of Lipschitz constants allows, in the median."""
    if cumulative["cumulative"] is None:
        return None
    return quantiles(ratio(cumulative["cumulative"] * distances, sizes.astype(np.float64)))["q50"]


def _layer(
    subject: Subject,
    found: Anatomy,
    seen: Measured,
    flips: Mapping[str, Bool[np.ndarray, "blurs images"]],
    depth: int,
    convolution: Convolution,
) -> Values:
    cumulative = _cumulative(found, convolution.last)
    propagated = [
        _propagated(
            *(view, seen.errors[depth, blur], flips, blur),
            _product(cumulative, seen.images[blur], seen.outputs[depth]),
        )
        for blur, view in enumerate(subject.views)
    ]
    return {
        "depth": depth + 1,
        **_shape(convolution),
        **_norms(found, depth, convolution),
        **cumulative,
        "local": [_local(found, seen, depth, blur, view) for blur, view in enumerate(subject.views)],
        "propagated": propagated,
    }


def _shape(convolution: Convolution) -> Values:
    """What kind of convolution it is; of one that is no `Conv2d` not all is known."""
    module = convolution.module
    height, width = (*convolution.size, None, None)[:2]
    values = {
        "name": convolution.name,
        "batch_norm": None if convolution.norm is None else convolution.norm.path,
        "activation": None if convolution.activation is None else convolution.activation.node.op,
        "height": height,
        "width": width,
    }
    keys = ("in_channels", "out_channels", "kernel", "stride", "padding", "padding_mode", "dilation", "groups")
    if module is None:
        return values | dict.fromkeys(keys)
    sizes = (module.in_channels, module.out_channels, module.kernel_size, module.stride, convolution.padding)
    return values | dict(zip(keys, plain((*sizes, module.padding_mode, module.dilation, module.groups)), strict=True))


def _norms(found: Anatomy, depth: int, convolution: Convolution) -> Values:
    if depth not in found.plan.bounded:
        return {"no_bound": convolution.no_bound, "norm": None, "young": None, "lipschitz": None}
    layer = found.plan.bounded[depth].layer
    young = layer.young * layer.padding_norm
    return {"no_bound": None, "norm": found.norms[depth], "young": young, "lipschitz": layer.lipschitz}


def _cumulative(found: Anatomy, node: int) -> Values:
    """The Lipschitz constant from the image to a node."""
    stage = found.stages[node]
    if stage.cumulative is not None and not np.isfinite(stage.cumulative):
        return {"cumulative": None, "no_cumulative": "it is beyond 10^308"}
    return {"cumulative": stage.cumulative, "no_cumulative": stage.no_cumulative or None}


def _local(found: Anatomy, seen: Measured, depth: int, blur: int, view: Blur) -> Values:
    known = found.plan.bounded.get(depth)
    if known is None:
        return {"reason": found.plan.convolutions[depth].no_bound, "error": None, "bounds": {}, "shares": None}
    bounds, local = {}, seen.local[depth, blur]
    for name in NAMES:
        bound, measured = found.promised[depth, view][name], seen.ratios[name][depth, blur]
        bounds[name] = {
            "constant": bound.constant,
            **_mean_and_largest(measured),
            "relative": quantiles(ratio(local, measured))["q50"],  # to the layer's output
            "reason": bound.reason or None,
        }
    parts = seen.parts[depth, blur]
    total = float(parts.sum())
    return {
        "reason": known.refusal(kernel(view)) or None,
        "error": {**_mean_and_largest(local), "median": quantiles(local)["q50"]} if np.isfinite(local).any() else None,
        "bounds": bounds,
        "shares": {name: float(part / total) for name, part in zip(PARTS, parts, strict=True)} if total > 0 else None,
    }


def _mean_and_largest(values: Float64[np.ndarray, " images"]) -> Values:
    known = values[np.isfinite(values)]
    return (
        {"mean": float(known.mean()), "largest": float(known.max())} if len(known) else {"mean": None, "largest": None}
    )


def _propagated(
    view: Blur,
    errors: Float64[np.ndarray, "borders images"],
    flips: Mapping[str, Bool[np.ndarray, "blurs images"]],
    blur: int,
    product: float | None,
) -> Values:
    """The error that a blurred image makes somewhere, and how well it tells the images that flip."""
    own, circular = errors
    areas = {name: decision.separation(own, flipped[blur]) for name, flipped in flips.items()}
    return {view.border: quantiles(own), "circular": quantiles(circular), "product": product, "auc": areas}


def _decided(subject: Subject, seen: Measured, blur: int) -> Values:
    clean, blurred = (seen.features[place].astype(np.float64) for place in (0, 1 + blur))
    return {head.name: decision.described(head, clean, blurred, subject.labels) for head in subject.heads}


def _violations(seen: Measured) -> Values:
    """How many comparisons of a measured error with a bound there were, and how many were lost."""
    ratios = np.concatenate([values[~np.isnan(values)] for values in seen.ratios.values()] or [np.empty(0)])
    return {
        "checked": len(ratios),
        "count": int((ratios > VIOLATED).sum()),
        "largest": float(ratios.max()) if len(ratios) and np.isfinite(ratios.max()) else None,
    }
