"""What people look at of the layers of a network: the terminal table and the finding. No computation."""

import statistics
from collections.abc import Iterator, Sequence

from blurtrain import layer_gaps
from blurtrain.layer_tables import BOUNDS, READINGS, SHARES, Result
from blurtrain.layer_words import (
    NARROWEST,
    WIDTH,
    Number,
    Part,
    blur_name,
    evenly,
    number,
    plural,
    power,
    ruled,
    said,
    shortened,
    wrapped,
)

WHOLE = 100  # layers up to which each has its line
SHOWN = 30  # lines where there are more
BESIDE = 5  # blurs for which a line has room with two numbers each
READABLE = 18  # characters that are left of a layer's name, for which blurs make room


def table(result: Result) -> str:
    """Everything about the layers as text of at most 100 columns."""
    parts = [
        _counts(result),
        _kernels(result),
        _layers(result),
        _bounds(result),
        _parts(result),
        "\n".join(layer_gaps.missing(result)),
        "\n".join(layer_gaps.stages(result)),
        "\n".join(_classical(result)),
        _decision(result),
        _row_shares(result),
        wrapped(result["finding"]),
    ]
    return "\n\n".join(part for part in parts if part)


def median(part: Part, place: int, result: Result) -> Number | None:
    """The median relative error of a layer, or of the features, when the image is blurred with its own border."""
    values = part["propagated"][place].get(result["blurs"][place]["border"])
    return None if values is None else values["q50"]


def behind(result: Result) -> Iterator[tuple[str, Part]]:
    """What comes after the last layer: features, and logits of every head."""
    yield "features", result["features"]
    for name, part in result["logits"].items():
        yield f"logits {name}", part


def heaviest(result: Result) -> int:
    """Place of the blur that moves the features most."""
    medians = [median(result["features"], place, result) for place in range(len(result["blurs"]))]
    known = [place for place, value in enumerate(medians) if value is not None]
    return max(known, key=lambda place: medians[place] or 0.0) if known else len(medians) - 1


# counts, kernels and layers


def _counts(result: Result) -> str:
    heads = ", ".join(shortened(name, 16) for name in result["head_names"]) or "none"
    split = "" if result["split"] == "all" else f"{result['split']} "
    rest = (
        f": {plural(result['n_images'], split + 'image')} at {result['side']} px, "
        f"{plural(len(result['layers']), 'convolution')}, heads: {heads}"
    )
    return wrapped(shortened(result["network"], max(NARROWEST, WIDTH - len(rest))) + rest)


def _kernels(result: Result) -> str:
    below = {(entry["blur"], entry["reading"]): entry for entry in result["below_one"]}
    rows = [["blur", "k(0)", "||k||_1", "||d-k||_1", "sup|1-khat|", *READINGS]]
    for blur in result["blurs"]:
        found = [below.get((blur["name"], reading)) for reading in READINGS]
        rows.append(
            [
                blur_name(blur),
                *(number(blur[key]) for key in ("centre", "l1", "distance", "furthest")),
                *("-" if entry is None else f"{entry['below']}/{entry['of']}" for entry in found),
            ]
        )
    title = "Kernel factors (d: the kernel of no blur); then layers whose constant L ||W|| factor is below 1"
    return "\n".join([title, ruled(rows, shrink=(0,))])


def _layers(result: Result) -> str:
    """A line a layer, with as many blurs as fit."""
    layers, blurs = result["layers"], result["blurs"]
    if not layers:
        return "The network has no convolution."
    for columns in range(len(blurs), 0, -1):
        shown = evenly(len(blurs), columns)
        rows = [*_layer_head(result, shown), *_layer_rows(result, shown)]
        text = ruled(rows, (1,), heads=2, left=(1, 2), narrowest=READABLE if columns > 1 else NARROWEST)
        if max(map(len, text.splitlines())) <= WIDTH:
            break
    names = ", ".join(blur_name(blurs[place]) for place in shown)
    legend = [
        f"e: median of ||z(x) - z(x_b)|| / ||z(x)|| over images that are blurred, at {names}. "
        "spectral: largest measured share of the local bound. product: largest error that the product of Lipschitz "
        "constants allows, of all blurs."
    ]
    if len(layers) > WHOLE:
        legend.append(f"{SHOWN} of {len(layers)} layers are shown, evenly spread; layers.csv has all.")
    if len(shown) < len(blurs):
        legend.append(f"{len(shown)} of {len(blurs)} blurs are shown; layers.csv has all.")
    return "\n".join([*(wrapped(line) for line in legend), text, wrapped(_violations(result))])


def _layer_head(result: Result, shown: Sequence[int]) -> list[list[str]]:
    """Two lines: family, then strength."""
    blurs = [result["blurs"][place] for place in shown]
    strengths = [blur_name(blur).removeprefix(blur["family"]).strip() or "1" for blur in blurs]
    return [
        ["", "", "", "", "", *(f"e {blur['family'][:5]}" for blur in blurs), "", ""],
        [
            "#",
            "layer",
            "shape",
            "||W||",
            "L",
            *(shortened(strength, 7) for strength in strengths),
            "spectral",
            "product",
        ],
    ]


def _layer_rows(result: Result, shown: Sequence[int]) -> Iterator[list[str]]:
    layers = result["layers"]
    for at in evenly(len(layers), SHOWN if len(layers) > WHOLE else len(layers)):
        layer = layers[at]
        spectral = [((local["bounds"] or {}).get("spectral") or {}).get("largest") for local in layer["local"]]
        products = [propagated["product"] for propagated in layer["propagated"]]
        yield [
            str(layer["depth"]),
            layer["name"],
            shape(layer),
            *(number(layer[key]) for key in ("norm", "lipschitz")),
            *(number(median(layer, place, result)) for place in shown),
            *(number(max((v for v in values if v is not None), default=None)) for values in (spectral, products)),
        ]
    for name, part in behind(result):
        products = [propagated["product"] for propagated in part["propagated"]]
        errors = (number(median(part, place, result)) for place in shown)
        yield ["", name, "", "", "", *errors, "", number(max((v for v in products if v is not None), default=None))]


def shape(layer: Part) -> str:
    """Kernel, stride, channels, dilation and groups, such as ``3x3/2 64``."""
    if layer["kernel"] is None:
        return "-"
    stride, dilation = layer["stride"], layer["dilation"]
    steps = f"{stride[0]}" if len(set(stride)) == 1 else "x".join(map(str, stride))
    return (
        "x".join(map(str, layer["kernel"]))
        + (f"/{steps}" if steps != "1" else "")
        + f" {layer['out_channels']}"
        + (f" d{max(dilation)}" if max(dilation) > 1 else "")
        + (f" g{layer['groups']}" if layer["groups"] > 1 else "")
    )


def _violations(result: Result) -> str:
    found = result["violations"]
    largest = "" if found["largest"] is None else f"; the largest measured share of a bound is {found['largest']:.6g}"
    return f"{_in_words(found)}{largest}.".capitalize()


def _in_words(violations: Part) -> str:
    if not violations["checked"]:
        return "nothing could be compared with a bound"
    amount = plural(violations["count"], "violation") if violations["count"] else "no violation"
    return f"{amount} in {plural(violations['checked'], 'comparison')}"


def _bounds(result: Result) -> str:
    """How much of each bound was measured."""
    shown = evenly(len(result["blurs"]), BESIDE)
    rows = [["bound", *(blur_name(result["blurs"][place]) for place in shown)]]
    for bound in BOUNDS:
        rows.append([bound, *(_of_bound(result, bound, place) for place in shown)])
    if not any(cell != "-" for row in rows[1:] for cell in row[1:]):
        return ""
    title = "Measured error / bound where each layer's own input is blurred: mean over layers (largest)"
    return "\n".join([title, ruled(rows, shrink=range(len(rows[0])))])


def _of_bound(result: Result, bound: str, place: int) -> str:
    found = [(layer["local"][place]["bounds"] or {}).get(bound) for layer in result["layers"]]
    known = [values for values in found if values and values["mean"] is not None]
    if not known:
        return "-"
    mean = sum(values["mean"] for values in known) / len(known)
    return f"{number(mean)} ({number(max(values['largest'] for values in known))})"


def _parts(result: Result) -> str:
    """What lets blur through global average pooling."""
    rows = [["blur", *SHARES, "layers"]]
    for place, blur in enumerate(result["blurs"]):
        found = [layer["local"][place]["shares"] for layer in result["layers"]]
        known = [shares for shares in found if shares]
        if known:
            rows.append([blur_name(blur), *(number(statistics.median(s[key] for s in known)) for key in SHARES)])
            rows[-1].append(str(len(known)))
    if len(rows) == 1:
        return ""
    title = "What lets a layer's blurred input through global average pooling: median share over layers"
    return "\n".join([title, ruled(rows, shrink=[0])])


def _classical(result: Result) -> Iterator[str]:
    """The product of Lipschitz constants beside what was measured."""
    place = heaviest(result)
    last = _last_product(result, place)
    if last is not None:
        name, part, product = last
        yield wrapped(
            f"Classical picture at {blur_name(result['blurs'][place])}: the product of Lipschitz constants allows an "
            f"error of {power(product)} at {shortened(name, 40)}, the measured median is "
            f"{said(median(part, place, result))}."
        )
    if reason := result["features"]["no_cumulative"]:
        yield wrapped(f"At the features no product is known: {reason}.")
    if heads := "; ".join(_head_norms(result)):
        yield wrapped(f"||V df|| / (||V|| ||df||) over blurs: {heads}.")


def _head_norms(result: Result) -> Iterator[str]:
    """How much of its norm each head uses on the shift of the features."""
    for name in result["head_names"]:
        found = [decision[name] for decision in result["decision"] if name in decision]
        ratios = [decision["head_ratio"] for decision in found if decision["head_ratio"]]
        if ratios:
            low, high = (number(end(ratio["mean"] for ratio in ratios)) for end in (min, max))
            means = low if low == high else f"{low} to {high}"
            largest = number(max(ratio["largest"] for ratio in ratios))
            norm = number(found[0]["head_norm"])
            yield f"{shortened(name, 24)} head, ||V||_2 = {norm}, {means} on average, {largest} at most"


def _last_product(result: Result, place: int) -> tuple[str, Part, Number] | None:
    """Where the product of constants ends, the features unless it breaks off before, with what it allows there."""
    parts = [*((layer["name"], layer) for layer in result["layers"]), ("the features", result["features"])]
    known = [(name, part) for name, part in parts if part["propagated"][place].get("product") is not None]
    return (*known[-1], known[-1][1]["propagated"][place]["product"]) if known else None


# the decision


def _decision(result: Result) -> str:
    if not result["head_names"]:
        return ""
    rows = [["blur", "head", "turned", "clean", "blurred", "e", "change", "AUC", "95 % interval"]]
    for place, (blur, heads) in enumerate(zip(result["blurs"], result["decision"], strict=True)):
        for name, found in heads.items():
            auc = result["features"]["propagated"][place]["auc"].get(name) or {}
            low, high = auc.get("ci95") or (None, None)
            rows.append(
                [
                    blur_name(blur),
                    name,
                    str(found["flipped"]),
                    *(_percent(found[f"accuracy_{view}"]) for view in ("clean", "blurred")),
                    number((found["error"] or {}).get("q50")),
                    number((found["change_over_margin"] or {}).get("q50")),
                    number(auc.get("auc")),
                    "unknown" if low is None or high is None else f"{number(low)} to {number(high)}",
                ]
            )
    legend = (
        f"Turned: answers of {result['n_images']} that blur changes. Clean, blurred: accuracy in %. e: relative error "
        "of the logits; change: theirs over the clean margin; medians. AUC: how often an image that turns has the "
        "larger error at the features than one that stays (layers.csv and decision.png: at every layer)."
    )
    return "\n".join([wrapped(legend), ruled(rows, shrink=(0, 1), left=(0, 1))])


def _percent(value: Number | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _row_shares(result: Result) -> str:
    names = result["head_names"]
    if not names:
        return ""
    rows = [["blur", *names]]
    if all(found["row_share"] is None for heads in result["decision"] for found in heads.values()):
        return ""
    for blur, heads in zip(result["blurs"], result["decision"], strict=True):
        shares = [(heads.get(name) or {}).get("row_share") for name in names]
        rows.append([blur_name(blur), *(_share(share) for share in shares)])
    title = "How much of the features' squared shift a head can see, ||P df||^2 / ||df||^2: mean (5 to 95 %)"
    chances = {number(heads[name].get("row_chance")) for heads in result["decision"] for name in names} - {"-"}
    if chances == {"1"}:
        return "The heads have as many directions as there are features, so they see all of the features' shift."
    if chances:
        title += f"\nA shift without preferred direction: {' or '.join(sorted(chances))}."
    return "\n".join([title, ruled(rows, shrink=range(len(rows[0])))])


def _share(share: Part | None) -> str:
    if share is None:
        return "-"
    return f"{number(share['mean'])} ({number(share['q05'])} to {number(share['q95'])})"


def finding(result: Result) -> str:
    """The result in one sentence made from the numbers."""
    place, layers = heaviest(result), result["layers"]
    clauses = [f"{plural(len(layers), 'convolution')}, {_in_words(result['violations'])}"]
    clauses.append(f"under {result['blurs'][place]['name']} {', '.join(_under(result, place))}")
    if result["head_names"]:
        clauses.append(", ".join(_turned(result, place)))
    return f"{result['network']} at {result['side']} px: {'; '.join(clauses)}."


def _under(result: Result, place: int) -> Iterator[str]:
    """What the blur does on the way to the features."""
    name, layers = result["blurs"][place]["name"], result["layers"]
    for entry in result["below_one"]:
        if (entry["blur"], entry["reading"]) == (name, "spectral"):
            yield f"spectral constants are below 1 at {entry['below']} of {plural(entry['of'], 'layer')}"
    first = f"{said(median(layers[0], place, result))} after the first convolution and " if layers else ""
    yield f"the median error is {first}{said(median(result['features'], place, result))} at the features"
    last = _last_product(result, place)
    if last is None:
        yield "no product of Lipschitz constants is known"
    else:
        where = "" if last[1] is result["features"] else f" at {last[0]}, the last layer that it reaches"
        yield f"the product of Lipschitz constants allows {power(last[2])}{where}"


def _turned(result: Result, place: int) -> Iterator[str]:
    """How many answers each head changes, the last one first."""
    for at, name in enumerate(reversed(result["head_names"])):
        flipped = result["decision"][place][name]["flipped"]
        words = f"turns {flipped} of {plural(result['n_images'], 'answer')}" if at == 0 else f"{flipped}"
        yield f"{'its own' if name == 'own' else f'the {name}'} head {words}"
