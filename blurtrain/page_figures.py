"""The charts of a page as SVG whose colours are names: the page's style sheet gives them by day and by night."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from blurtrain.kernels import FAMILIES
from blurtrain.page_answers import Calibration
from blurtrain.report import LINES

# Nobody sees these: the style sheet (report.css) finds them in the drawing and puts in what fits the ground.
INK, SOFT, SHADE = "#010101", "#020202", "#030303"
ARMS = ("#0a0001", "#0a0002", "#0a0003", "#0a0004", "#0a0005")
SVG, LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
CLEAN = "clean"
ROW = 0.27  # inches of a row of the forest plot

Panel = Any  # matplotlib's
Comparison = Mapping[str, Any]


def style(place: int) -> tuple[str, str]:
    """A colour and a line with its mark: pairs that differ beyond the number of colours."""
    return ARMS[place % len(ARMS)], LINES[(place + place // len(ARMS)) % len(LINES)]


def _figure(width: float, height: float) -> Panel:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained", dpi=72)


def _svg(figure: Panel, alt: str) -> Markup:
    """A figure to stand in a page: one size for all widths, a text in place of the picture, names that clash with none.

    The same figure gives the same text.
    """
    import matplotlib
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # a name may hold a dollar sign
    buffer = io.BytesIO()
    settings: Any = {"svg.hashsalt": alt, "svg.fonttype": "none", "font.size": 10}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # the reader's fonts draw it
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", LINK)
    root = ElementTree.fromstring(buffer.getvalue())
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    for group in root.iter(f"{{{SVG}}}g"):
        group.attrib.pop("id", None)  # axes_1 in every figure; what is pointed to is no group
    for part in [child for child in root if child.tag == f"{{{SVG}}}metadata"]:
        root.remove(part)
    root.set("role", "img")
    root.set("aria-label", alt)
    # Every text in it was escaped on the way.
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _dress(panel: Panel) -> None:
    """Nothing but what is read: two axes, a faint grid."""
    panel.spines[["top", "right"]].set_visible(False)
    panel.spines[["left", "bottom"]].set_color(SOFT)
    panel.tick_params(colors=SOFT, labelcolor=INK, labelsize=10, length=3)
    panel.grid(color=SOFT, alpha=0.25, linewidth=0.6)
    panel.set_axisbelow(True)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set(color=INK, fontsize=10)


def accuracy(
    comparison: Comparison, curve: str, slight: float, copies: Sequence[float], always: float, alt: str
) -> Markup:
    """Accuracy against the strength of one blur, with 95 % bands, and the ranges of slight and heavy blur marked.

    Args:
        comparison: The contents of comparison.json.
        curve: The blur.
        slight: The strongest view that is no wider than the strongest copy; 0 where there is none.
        copies: Strengths of the copies that are of this blur.
        always: Accuracy of always answering the most frequent class.
        alt: What the picture shows, in words.
    """
    views = [view for view in comparison["views"] if view["curve"] in (curve, CLEAN)]
    strengths = [view["strength"] for view in views]
    figure = _figure(4.4, 3.1)
    panel = figure.subplots()
    for place, name in enumerate(comparison["arms"]):
        colour, line = style(place)
        arms = [view["arms"][name] for view in views]
        known = [(s, arm["ci95"]) for s, arm in zip(strengths, arms, strict=True) if None not in arm["ci95"]]
        if known:
            low, high = ([100 * ci[end] for _, ci in known] for end in (0, 1))
            panel.fill_between([s for s, _ in known], low, high, color=colour, alpha=0.16, linewidth=0)
        panel.plot(
            strengths,
            [100 * arm["accuracy"] for arm in arms],
            line,
            color=colour,
            linewidth=2,
            markersize=5.5,
            clip_on=False,
            zorder=3,
        )
    panel.axhline(100 * always, color=INK, linewidth=1.2, linestyle=(0, (1, 2)))
    _range(panel, 0.0, slight, "slight")
    heavy = [view["strength"] for view in views if view["heavy"]]
    if heavy:
        _range(panel, min(heavy), max(strengths), "heavy")
    for strength in copies:
        panel.plot([strength], [0], "^", color=INK, markersize=8, clip_on=False, zorder=5)
    panel.set(xlim=(0, max(strengths)), ylim=(0, 100), ylabel="accuracy in %")
    family = next(view["family"] for view in views if view["curve"] == curve)
    kind = FAMILIES[family]
    measure = "" if views[-1]["parameters"] else f" blur: {kind.strength}{'' if kind.from_file else ' in px'}"
    panel.set_xlabel(f"{curve}{measure}")
    _dress(panel)
    return _svg(figure, alt)


def _range(panel: Panel, start: float, end: float, name: str) -> None:
    """A range of strengths, shaded and named; one that is a single strength is named alone."""
    if end > start:
        panel.axvspan(start, end, color=SHADE, alpha=0.5 if name == "heavy" else 0.22, linewidth=0, zorder=0)
    if end > 0:
        place = {"x": (start + end) / 2, "y": 1.02, "ha": "center"}
        panel.text(s=name, transform=panel.get_xaxis_transform(), color=INK, fontsize=10, va="bottom", **place)


def real(comparison: Comparison, names: Sequence[str], alt: str) -> Markup:
    """Really blurred photographs: a place for each set, and in it the arms side by side with their intervals."""
    arms = list(comparison["arms"])
    figure = _figure(4.4, 3.1)
    panel = figure.subplots()
    for number, name in enumerate(arms):
        colour, line = style(number)
        for place, view in enumerate(comparison["real"]):
            at, found = place + 0.16 * (number - (len(arms) - 1) / 2), view["arms"][name]
            if None not in found["ci95"]:
                panel.plot([at, at], [100 * bound for bound in found["ci95"]], "-", color=colour, linewidth=2)
            panel.plot([at], [100 * found["accuracy"]], line[0], color=colour, markersize=8)
    panel.set_xticks(range(len(names)), names)
    panel.set(xlim=(-0.6, len(names) - 0.4), ylim=(0, 100), ylabel="accuracy in %")
    _dress(panel)
    return _svg(figure, alt)


def forest(rows: Sequence[tuple[str, int, Mapping[str, Any]]], alt: str) -> Markup:
    """Gains with their intervals, one line each; filled where the verdict is better or worse.

    Args:
        rows: Name, place of the arm, and what it gains.
        alt: What the picture shows, in words.
    """
    figure = _figure(4.9, 0.9 + ROW * len(rows))  # on a telephone its letters are as large as those beside it
    panel = figure.subplots()
    for at, (_, place, gain) in enumerate(rows):
        colour, line = style(place)
        filled = gain["verdict"] != "not distinguishable"
        if None not in gain["ci95"]:
            panel.plot([100 * bound for bound in gain["ci95"]], [at, at], "-", color=colour, linewidth=2)
        face = colour if filled else "none"
        middle = [100 * gain["difference"]]
        panel.plot(middle, [at], line[0], color=colour, markerfacecolor=face, markersize=8, markeredgewidth=1.8)
    panel.axvline(0, color=INK, linewidth=1)
    panel.set_yticks(range(len(rows)), [name for name, *_ in rows])
    panel.set_ylim(len(rows) - 0.4, -0.6)
    panel.set_xlabel("gain in points of accuracy, with 95 % interval")
    _dress(panel)
    panel.grid(visible=False, axis="y")
    panel.spines["left"].set_visible(False)
    panel.tick_params(axis="y", length=0)
    return _svg(figure, alt)


def calibration(found: Mapping[str, Calibration], alt: str) -> Markup:
    """Accuracy of answers against their confidence; the area of a mark is the share of answers that it stands for."""
    figure = _figure(4.2, 4.2)
    panel = figure.subplots()
    panel.plot([0, 100], [0, 100], "-", color=SOFT, linewidth=1)
    for place, one in enumerate(found.values()):
        colour, line = style(place)
        some = one.counts > 0
        at, height = 100 * one.confidence[some], 100 * one.accuracy[some]
        panel.plot(at, height, line[1:], color=colour, linewidth=1.4)
        size = 12 + 260 * one.counts[some] / np.sum(one.counts)
        panel.scatter(at, height, size, marker=line[0], color=colour, linewidth=0, alpha=0.85, zorder=3, clip_on=False)
    panel.set(xlim=(-2, 102), ylim=(-2, 102), xlabel="confidence in %", ylabel="accuracy in %", aspect="equal")
    _dress(panel)
    return _svg(figure, alt)
