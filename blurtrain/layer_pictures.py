"""Pictures of the layers of a network: errors over depth, bounds, constants, the decision. No computation."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isfinite, nan
from pathlib import Path
from typing import Any

from blurtrain.files import whole_file
from blurtrain.layer_tables import BOUNDS, READINGS, Result
from blurtrain.layer_words import Part, blur_name, shortened
from blurtrain.report import COLOURS, LINES, MOST_COLUMNS

TICKS = 30  # layers whose names fit below a panel
NAME = 26  # characters of a name below a panel
LEVEL = 4  # blurs up to which their names stand side by side
MARKED = 60  # layers up to which each has a mark
SPARSE = 20  # marks where there are more
BLACK = "#000000"  # of what was measured, beside bounds in colours
FACTORS: dict[str, Callable[[Mapping[str, Any]], float]] = {  # of the kernel constants, what is drawn of each
    "1 + ||k||_1": lambda kernel: 1 + kernel["l1"],
    "||d - k||_1": lambda kernel: kernel["distance"],
    "sup |1 - khat|": lambda kernel: kernel["furthest"],
}

Panel = Any  # matplotlib's


def pictures(folder: Path, result: Result) -> dict[str, Path]:
    """Write every picture of the layers that there is something for.

    Args:
        folder: Where they are written.
        result: The contents of layers.json.

    Returns:
        The file of each picture's name.

    Raises:
        StoreError: If a file cannot be written.
    """
    shown = [name for name, (_, needed) in FIGURES.items() if result[needed]]
    files = {name: folder / f"{name}.png" for name in shown}
    for name, path in files.items():
        draw, _ = FIGURES[name]
        figure = draw(result)
        with whole_file(path) as temporary:
            figure.savefig(temporary, format="png")
    return files


def _figure(width: float, height: float) -> Panel:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=120)


def _style(place: int) -> tuple[str, str]:
    """A colour and a line with its mark: pairs that differ beyond the number of colours."""
    return COLOURS[place % len(COLOURS)], LINES[(place + place // len(COLOURS)) % len(LINES)]


def _known(values: Iterable[float | None]) -> list[float]:
    """What is not known becomes a gap in a curve."""
    return [nan if value is None else value for value in values]


def _depths(result: Result) -> list[int]:
    return [layer["depth"] for layer in result["layers"]]


def _step(result: Result) -> float:
    """A distance on the axis of depths that can be seen, however many layers there are."""
    return max(1.0, len(result["layers"]) / TICKS)


def _features_at(result: Result) -> float:
    """Where the features stand on that axis: apart from the last layer."""
    return _depths(result)[-1] + _step(result)


def _name_layers(panel: Panel, result: Result, *, features: bool, most: int = TICKS) -> None:
    """Names of layers as ticks, as many as can be read."""
    places, names = _depths(result), [layer["name"] for layer in result["layers"]]
    shown = range(0, len(names), -(-len(names) // most))
    ticks = [places[at] for at in shown] + ([_features_at(result)] if features else [])
    labels = [shortened(names[at], NAME) for at in shown] + (["features"] if features else [])
    panel.set_xticks(ticks, labels, rotation=90, fontsize=7)
    for text in panel.get_xticklabels():
        text.set_parse_math(False)
    margin = 0.7 * _step(result)
    panel.set_xlim(places[0] - margin, (_features_at(result) if features else places[-1]) + margin)


def _name_blurs(panel: Panel, result: Result) -> None:
    """Names of blurs as ticks, upright where they would meet."""
    names = [shortened(blur_name(blur), NAME) for blur in result["blurs"]]
    panel.set_xticks(range(len(names)), names, rotation=90 if len(names) > LEVEL else 0, fontsize=7)
    for text in panel.get_xticklabels():
        text.set_parse_math(False)
    panel.set_xlim(-0.6, len(names) - 0.4)


def _curve(panel: Panel, result: Result, values: Sequence[float], style: tuple[str, str], **more: Any) -> Panel:  # noqa: ANN401 - matplotlib
    colour, line = style
    marks = {"markersize": 3, "markevery": _marked(values)}
    (drawn,) = panel.plot(_depths(result), values, line, color=colour, linewidth=1.2, **marks, **more)
    return drawn


def _marked(values: Sequence[float]) -> list[int]:
    """Places that have a mark: all, or few enough to be told apart and each that has a gap on both sides."""
    step = 1 if len(values) <= MARKED else -(-len(values) // SPARSE)
    known = [False, *map(isfinite, values), False]
    return [at for at in range(len(values)) if at % step == 0 or not (known[at] or known[at + 2])]


def _legend(figure: Panel, drawn: Mapping[str, Panel], **more: Any) -> None:  # noqa: ANN401 - matplotlib
    for text in figure.legend(list(drawn.values()), list(drawn), fontsize=8, **more).get_texts():
        text.set_parse_math(False)


def _title(figure: Panel, result: Result, words: str) -> None:
    network, images = shortened(result["network"], 40), result["n_images"]
    count = f"{images} image{'s' * (images != 1)}"
    figure.suptitle(f"{network} at {result['side']} px, {count}: {words}", fontsize=10).set_parse_math(False)


def _name_panel(panel: Panel, blur: Part, words: str) -> None:
    if not any(isfinite(height) for line in panel.lines for height in line.get_ydata()):
        panel.text(0.5, 0.5, "not known", ha="center", va="center", transform=panel.transAxes, color="0.3")
    panel.set_title(blur_name(blur), fontsize=9, loc="left").set_parse_math(False)
    panel.set_ylabel(words, fontsize=8)
    panel.tick_params(which="both", labelsize=7)
    panel.grid(alpha=0.3)


# errors and bounds over depth


def _error(result: Result) -> Panel:
    """The error of every layer and of the features, one row a blur, for two border rules."""
    blurs = result["blurs"]
    figure = _figure(9.6, 1.6 + 1.9 * len(blurs))
    panels = figure.subplots(len(blurs), 1, sharex=True, squeeze=False)[:, 0]
    drawn: dict[str, Panel] = {}
    for place, (panel, blur) in enumerate(zip(panels, blurs, strict=True)):
        borders = {"circular border": "circular"}
        if blur["border"] != "circular":
            borders = {"its own border": blur["border"], **borders}
        for label, border in borders.items():
            style = _style(int(border == "circular"))
            drawn[label] = _error_curve(panel, result, place, border, style)
        _name_panel(panel, blur, "relative error")
        panel.set_ylim(bottom=0)
    _name_layers(panels[-1], result, features=True)
    _title(figure, result, "error over depth, median with 5 to 95 % of images (band, dotted)")
    _legend(figure, drawn, loc="outside lower center", ncols=2)
    return figure


def _error_curve(panel: Panel, result: Result, place: int, border: str, style: tuple[str, str]) -> Panel:
    found = [layer["propagated"][place].get(border) or {} for layer in result["layers"]]
    low, middle, high = (_known(values.get(key) for values in found) for key in ("q05", "q50", "q95"))
    curve = _curve(panel, result, middle, style)
    first = style == _style(0)
    if first:
        panel.fill_between(_depths(result), low, high, color=style[0], alpha=0.15, linewidth=0)
    else:  # two bands on each other could not be told apart
        for edge in (low, high):
            panel.plot(_depths(result), edge, ":", color=style[0], linewidth=1.0)
    last = result["features"]["propagated"][place].get(border) or {}
    if last.get("q50") is not None:
        at = _features_at(result) + (-0.12 if first else 0.12) * _step(result)
        ends = [[max(0.0, last["q50"] - last["q05"])], [max(0.0, last["q95"] - last["q50"])]]
        panel.errorbar([at], [last["q50"]], ends, fmt=style[1][0], color=style[0], capsize=3, markersize=4)
    return curve


def _bounds(result: Result) -> Panel:
    """Left the local error with its bounds, right the propagated one with the product's; one row a blur."""
    blurs = result["blurs"]
    figure = _figure(12.4, 2.0 + 2.2 * len(blurs))
    rows = figure.subplots(len(blurs), 2, sharex=True, squeeze=False)
    drawn: dict[str, Panel] = {}
    for place, (blur, (left, right)) in enumerate(zip(blurs, rows, strict=True)):
        for number, bound in enumerate(BOUNDS):
            values = _known(_bound_size(layer["local"][place], bound) for layer in result["layers"])
            if any(map(isfinite, values)):
                drawn[bound] = _curve(left, result, values, _style(number), alpha=0.85)
        errors = _known((layer["local"][place]["error"] or {}).get("median") for layer in result["layers"])
        drawn["measured"] = _curve(left, result, errors, (BLACK, "x-"))
        found = [layer["propagated"][place] for layer in result["layers"]]
        medians = _known((values.get(blur["border"]) or {}).get("q50") for values in found)
        _curve(right, result, medians, (BLACK, "x-"))
        products = _known(values["product"] for values in found)
        drawn["product of constants"] = _curve(right, result, products, (COLOURS[1], "P--"))
        for panel, words in ((left, "local relative error"), (right, "propagated error")):
            _name_panel(panel, blur, words)
            panel.set_yscale("log")
    for panel in rows[-1]:
        _name_layers(panel, result, features=False, most=TICKS // 2 + 5)
    _title(figure, result, "left blurred at the layer itself, right the image blurred; medians")
    _legend(figure, drawn, loc="outside right center")
    return figure


def _bound_size(local: Part, bound: str) -> float | None:
    """A bound in units of the layer's output, in the median."""
    size: float | None = ((local["bounds"] or {}).get(bound) or {}).get("relative")
    return size


# constants


def _constants(result: Result) -> Panel:
    """Above the constants of kernels against strength, below those of layers."""
    curves: dict[str, list[Part]] = {}
    for kernel in result["constants"]:
        angle = "" if kernel["angle"] is None else f" {kernel['angle']:g}°"
        curves.setdefault(f"{kernel['family']}{angle}", []).append(kernel)
    columns = max(1, min(len(curves), MOST_COLUMNS))
    lines = -(-len(curves) // columns)
    figure = _figure(10.2, (4.4 if len(result["blurs"]) <= LEVEL else 5.4) + 2.6 * lines)
    parts = figure.subfigures(2, 1, height_ratios=(2.6 * max(lines, 1), 3.6))
    panels = parts[0].subplots(max(lines, 1), columns, squeeze=False, sharey=True).ravel()
    drawn: dict[str, Panel] = {}
    for panel, (curve, kernels) in zip(panels, curves.items(), strict=False):
        drawn = _kernel_curves(panel, sorted(kernels, key=lambda kernel: float(kernel["strength"])))
        _name_panel(panel, {"name": curve}, "kernel factor")
        panel.set_xlabel("strength", fontsize=8)
    for panel in panels[len(curves) :]:
        panel.remove()
    if drawn:
        _legend(parts[0], drawn, loc="outside right center")
    _layer_constants(parts[1], result)
    _title(figure, result, "constants of kernels and of layers")
    return figure


def _kernel_curves(panel: Panel, kernels: Sequence[Part]) -> dict[str, Panel]:
    drawn = {}
    for place, (label, factor) in enumerate(FACTORS.items()):
        colour, line = _style(place)
        values = [factor(kernel) for kernel in kernels]
        strengths = [kernel["strength"] for kernel in kernels]
        (drawn[label],) = panel.plot(strengths, values, line, color=colour, markersize=3, linewidth=1.2)
    panel.axhline(1, color="0.3", linewidth=0.8)
    panel.set_ylim(0, 2.2)
    return drawn


def _layer_constants(figure: Panel, result: Result) -> None:
    """Median and range of each reading's constants, blur for blur."""
    panel = figure.subplots()
    places = {blur["name"]: place for place, blur in enumerate(result["blurs"])}
    drawn: dict[str, Panel] = {}
    for number, reading in enumerate(READINGS):
        colour, line = _style(number)
        for entry in result["below_one"]:
            if entry["reading"] != reading or entry["blur"] not in places or entry["median"] is None:
                continue
            at, middle = places[entry["blur"]] + 0.14 * (number - 2), entry["median"]
            ends = [[max(0.0, middle - entry["least"])], [max(0.0, entry["largest"] - middle)]]
            drawn[reading] = panel.errorbar([at], [middle], ends, fmt=line[0], color=colour, capsize=3, markersize=5)
    panel.set_yscale("log")
    _name_panel(panel, {"name": "layers: median and range of L ||W|| factor"}, "layer constant")
    _name_blurs(panel, result)
    panel.axhline(1, color="0.3", linewidth=0.8)
    if drawn:
        _legend(figure, drawn, loc="outside right center")


# the decision


def _decision(result: Result) -> Panel:
    """Left how well each layer's error tells turned answers, right what the heads make of the shift."""
    blurs = result["blurs"]
    figure = _figure(12.4, max(5.0, 1.8 + 2.0 * len(blurs)))
    left, right = figure.subfigures(1, 2, width_ratios=(1.9, 1))
    drawn: dict[str, Panel] = {}
    if result["layers"]:
        panels = left.subplots(len(blurs), 1, sharex=True, squeeze=False)[:, 0]
        for place, (panel, blur) in enumerate(zip(panels, blurs, strict=True)):
            for number, name in enumerate(result["head_names"]):
                drawn[name] = _auc(panel, result, place, name, number)
            _name_panel(panel, blur, "AUC")
            panel.axhline(0.5, color="0.3", linewidth=0.8)
            panel.set_ylim(0, 1.03)
        _name_layers(panels[-1], result, features=True)
    above, below = right.subplots(2, 1)
    for number, name in enumerate(result["head_names"]):
        shift = 0.2 * (number - (len(result["head_names"]) - 1) / 2)
        decisions = [heads[name] for heads in result["decision"]]
        mark = _spread(above, [found["change_over_margin"] for found in decisions], shift, number)
        drawn.setdefault(name, mark)
        _spread(below, [found["row_share"] for found in decisions], shift, number, middle="mean")
    above.set_yscale("log")
    below.set_ylim(bottom=0)
    _name_panel(above, {"name": "change of the logits / clean margin, median"}, "quotient")
    _name_panel(below, {"name": "share of the shift that the head's rows see, mean"}, "||P df||^2 / ||df||^2")
    above.axhline(1, color="0.3", linewidth=0.8)
    for panel in (above, below):
        _name_blurs(panel, result)
    _title(figure, result, "AUC of a layer's error for turned answers (bars 95 %); right bars 5 to 95 % of images")
    _legend(figure, {shortened(name, 20): line for name, line in drawn.items()}, loc="outside lower right", ncols=2)
    return figure


def _auc(panel: Panel, result: Result, place: int, head: str, number: int) -> Panel:
    """The curve over depth with its intervals, and a point for the features."""
    depths, (colour, line) = _depths(result), _style(number)
    shift = 0.24 * (number - (len(result["head_names"]) - 1) / 2)
    found = [part["propagated"][place]["auc"].get(head) or {} for part in (*result["layers"], result["features"])]
    at = [*(depth + shift for depth in depths), _features_at(result) + shift * _step(result)]
    heights = _known(one.get("auc") for one in found)
    marks, width = {"markersize": 3, "markevery": _marked(heights[:-1])}, 0.8 if len(depths) <= MARKED else 0.4
    (curve,) = panel.plot(at[:-1], heights[:-1], line, color=colour, linewidth=1.2, **marks)
    panel.plot(at[-1:], heights[-1:], line[0], color=colour, markersize=5)
    for depth, one in zip(at, found, strict=True):
        if one.get("auc") is not None and one["ci95"] is not None:
            panel.plot([depth] * 2, one["ci95"], "-", color=colour, linewidth=width, alpha=0.7)
    return curve


def _spread(panel: Panel, found: Sequence[Part | None], shift: float, number: int, middle: str = "q50") -> Panel:
    """A mark and a bar from the 5 to the 95 % quantile, one a blur."""
    colour, line = _style(number)
    known = [(place, values) for place, values in enumerate(found) if values and values[middle] is not None]
    at, heights = [place + shift for place, _ in known], [values[middle] for _, values in known]
    (drawn,) = panel.plot(at, heights, line[0], color=colour, markersize=6)
    for place, values in known:
        panel.plot([place + shift] * 2, [values["q05"], values["q95"]], "-", color=colour, linewidth=1.6)
    return drawn


# To add a picture: one function and one line here, with what the result must have some of.
FIGURES: dict[str, tuple[Callable[[Result], Panel], str]] = {
    "error": (_error, "layers"),
    "bounds": (_bounds, "layers"),
    "constants": (_constants, "blurs"),
    "decision": (_decision, "head_names"),
}
