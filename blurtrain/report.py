"""What people look at: the terminal table and the pictures of a comparison. No computation."""

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

from blurtrain.arms import TWICE
from blurtrain.breakdown import IMAGES
from blurtrain.comparison import RESULT
from blurtrain.files import whole_file
from blurtrain.kernels import FAMILIES
from blurtrain.runs import load_run
from blurtrain.views import REAL, Blur

NO_HEAVY = "No view is heavy: none is at least twice as wide as the strongest copy."
# Okabe and Ito's palette: told apart with every kind of colour blindness; the line styles also in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
SHORTFALL = 0.99  # a kernel narrower than this share of what its strength says is stated with its true width
MOST_COLUMNS = 3  # panels side by side: more would be too small on a page
UNEVEN = 1.5  # times as many test images in the largest class as in the smallest: then the mean over classes is told
LINES = ("o-", "s--", "^-.", "D:", "v-")

Comparison = Mapping[str, Any]


def terminal_table(comparison: Comparison) -> str:
    """The comparison as text of at most 100 columns where there are two arms."""
    arms = list(comparison["arms"])
    others = arms[1:]
    header = ["blur", *arms]
    for name in others:
        header += ["gain" if len(others) == 1 else f"{name} gain", "95 % interval", "p", "verdict"]
    sections = _sections(comparison, arms)
    rows = [header, *(row for section in sections for row in section)]
    lines = aligned(rows)
    rule = "-" * max(map(len, lines))
    body, place = [lines[0]], 1
    for section in sections:
        body += [rule, *lines[place : place + len(section)]]
        place += len(section)
    return "\n".join([_counts(comparison), "", *body, "", *_sentences(comparison)])


def _sections(comparison: Comparison, arms: Sequence[str]) -> list[list[list[str]]]:
    """Rows that belong together: blurs of the sweep, their heavy mean, photographs that were blurred really."""
    sections = [[_cells(view, label(view, comparison), arms) for view in comparison["views"]]]
    if comparison["heavy_mean"]:
        sections.append([_cells(comparison["heavy_mean"], "mean of heavy *", arms)])
    if comparison["real"]:
        sections.append(
            [_cells(view, f"{view['name']} ({images_in_words(view)})", arms) for view in comparison["real"]]
        )
    return sections


def images_in_words(counts: Mapping[str, Any]) -> str:
    """How many images there are, and groups where these are fewer."""
    groups = "" if counts["groups"] == counts["n_test"] else f" in {counts['groups']} groups"
    return f"{counts['n_test']} image{'s' * (counts['n_test'] > 1)}{groups}"


def _sentences(comparison: Comparison) -> Iterator[str]:
    """All that stands below a table."""
    yield from _levels(comparison)
    yield from _notes(comparison)
    yield from _real_lines(comparison)
    yield from breakdown_lines(comparison)


def _levels(comparison: Comparison) -> Iterator[str]:
    """What needs no image, and what classes of unequal size hide."""
    largest = comparison.get("largest_class")  # which older comparisons do not have
    if not largest:
        return
    yield f"Always answering {largest['class']!r} would give {100 * largest['share']:.1f}."
    sizes = [row["images"] for row in comparison["classes"] or ()]
    if sizes and max(sizes) > UNEVEN * min(sizes):
        arms = comparison["heavy_mean"]["arms"].items()
        means = ", ".join(f"{name} {100 * arm['macro_accuracy']:.1f}" for name, arm in arms)
        yield f"Mean over classes (macro), mean of heavy: {means}; no interval is made for it."


def _real_lines(comparison: Comparison) -> Iterator[str]:
    """What photographs say that were blurred really."""
    if not comparison["real"]:
        return
    yield ""
    for view in comparison["real"]:
        for name, other in view["against_reference"].items():
            yield f"On {view['name']} {name} is {against(other, comparison['reference'])}{_power(other)}."
    yield "Really blurred photographs are images of their own, in no mean; p of each set is adjusted (Holm)."


def aligned(rows: Sequence[Sequence[str]], left: tuple[int, ...] | None = None) -> list[str]:
    """Lines of columns of equal width; the first and last column, or those given, begin at the left."""
    columns = max(map(len, rows))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(columns)]
    left = (0, columns - 1) if left is None else left
    return [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in rows
    ]


def sweep_rows(folder: Path) -> list[dict[str, Any]]:
    """The contents of a run's sweep.json, view by view.

    Raises:
        RunError: If there is no finished run, or it is damaged.
    """
    rows: list[dict[str, Any]] = json.loads(load_run(folder).file("sweep.json").read_text(encoding="utf-8"))
    return rows


def sweep_table(folder: Path) -> str:
    """The sweep of one run as text.

    Raises:
        RunError: If there is no finished run, or it is damaged.
    """
    rows = sweep_rows(folder)
    heads = rows[0]["heads"]
    names = [
        row["view"] if row["family"] != REAL else f"{row['view']} ({row['images']} image{'s' * (row['images'] > 1)})"
        for row in rows
    ]
    width = max(16, *map(len, names))
    lines = [f"Accuracy in % on {rows[0]['images']} test images, mean of {heads} head{'s' * (heads > 1)}"]
    lines += ["", f"{'blur':<{width}} accuracy   sd over heads     nll     ece   refitted head"]
    lines += [
        f"{name:<{width}} {100 * row['accuracy']:>8.1f}   {100 * row['accuracy_sd']:>13.1f}"
        f"   {row['nll']:>5.2f}   {row['ece']:>5.3f}   {100 * row['accuracy_refit']:>13.1f}"
        for name, row in zip(names, rows, strict=True)
    ]
    return "\n".join(lines)


def _counts(comparison: Comparison) -> str:
    heads = comparison["heads"]
    return (
        f"Accuracy in % on {images_in_words(comparison).replace(' image', ' test image')}, "
        f"mean of {heads} head{'s' * (heads > 1)} an arm; blur in px at network size"
    )


def label(view: Mapping[str, Any], comparison: Comparison) -> str:
    """A view's name with its strength in native pixels, and a star where it is heavy."""
    star = " *" if view["heavy"] else ""
    native = view["strength"] * comparison["native_pixels_per_pixel"]
    in_pixels = view["strength"] and not view["parameters"] and view["family"] != "psf"
    scaled = f" ({native:.1f} native)" if in_pixels and comparison["native_pixels_per_pixel"] != 1 else ""
    return f"{view['name']}{scaled}{star}"


def _cells(view: Mapping[str, Any], label: str, arms: Sequence[str]) -> list[str]:
    cells = [label, *(f"{100 * view['arms'][name]['accuracy']:.1f}" for name in arms)]
    for other in view["against_reference"].values():
        low, high = other["ci95"]
        interval = "unknown" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"
        p = other["p"] if other["p_holm"] is None else other["p_holm"]
        cells += [f"{100 * other['difference']:+.1f}", interval, p_text(p), other["verdict"]]
    return cells


def p_text(value: float | None) -> str:
    """A p value to three places."""
    if value is None:
        return "unknown"
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0")


def _notes(comparison: Comparison) -> Iterator[str]:
    yield from severities(comparison, RESULT)
    if not comparison["heavy_mean"]:
        yield NO_HEAVY
        return
    if comparison["heads"] > 3:  # of three folds each pair of heads shares half
        yield "Heads share most of their training images: a fresh training set would change more than they show."
    yield from shortfalls(comparison)
    heavy = comparison.get("heavy_is", TWICE)  # which older comparisons do not say
    yield f"* heavy: {heavy}; p of each such view is adjusted (Holm)"
    for stated in findings(comparison):
        yield ""
        yield stated
    if comparison.get("equal_epochs"):
        yield from _equal_epochs(comparison)


def severities(comparison: Comparison, file: str) -> Iterator[str]:
    """Where ImageNet-C's severities are explained, where there are any."""
    if comparison["severities"]:
        yield f"Severities: {comparison['severities']}; {file} has the parameters of each."


def shortfalls(comparison: Comparison) -> Iterator[str]:
    """Which blurs are narrower than their strengths say."""
    for view in comparison["views"]:
        effective = view["standard_deviation"]
        if effective < SHORTFALL * _nominal(view):
            yield f"{view['name']}: sampled at whole pixels, its standard deviation is {effective:.2f} px."


def _equal_epochs(comparison: Comparison) -> Iterator[str]:
    """What stands beside the result at equal steps."""
    other, reference = comparison["equal_epochs"], comparison["reference"]
    for name, heavy in other["heavy_mean"]["against_reference"].items():
        times = other["steps"][name] / other["steps"][reference]
        yield ""
        yield f"The above is at equal steps. At equal epochs, {times:.1f} times the steps of {reference}:"
        yield f"under heavy blur {name} is {against(heavy, reference)},"
        yield f"on clean images {against(other['clean'][name], reference)}."


def _nominal(view: Mapping[str, Any]) -> float:
    """What the strength of a blur stands for; a measured one and a severity are what they are."""
    family = FAMILIES.get(view["family"])
    if family is None or family.from_file or view["parameters"]:
        return 0.0
    return family.spread(Blur(view["family"], view["strength"], view["angle"], view["border"]))


def findings(comparison: Comparison) -> Iterator[str]:
    """The result of each arm in two sentences; nothing where no view is heavy."""
    heavy, clean = comparison["heavy_mean"], comparison["views"][0]["against_reference"]
    for name, other in heavy["against_reference"].items() if heavy else ():
        yield finding(name, other, clean[name], comparison)


def finding(name: str, heavy: Mapping[str, Any], clean: Mapping[str, Any], comparison: Comparison) -> str:
    """The result in two sentences made from the numbers."""
    reference = comparison["reference"]
    return (
        f"Under heavy blur {name} is {against(heavy, reference)}{_power(heavy)}.\n"
        f"On clean images it is {against(clean, reference)}."
    )


def _power(difference: Mapping[str, Any]) -> str:
    """What could have been shown."""
    smallest = difference["smallest_detectable"]
    return "" if smallest is None else f"; this test could have shown {100 * smallest:.1f}"


def breakdown_lines(comparison: Comparison) -> Iterator[str]:
    """Which class loses and which one gains most, and how many images change sides; nothing where no view is heavy."""
    reference = comparison["reference"]
    for name, kinds in comparison["images"].items() if comparison["heavy_mean"] else ():
        rows = [row for row in comparison["classes"] if row["arm"] == name]
        loser, winner = (max(rows, key=itemgetter(key)) for key in ("reference_loss", "difference"))
        worse = [row for row in rows if row["verdict"] == "worse"]  # the largest loss need not be one that is found
        before, after = (f"{100 * loser[f'reference_{view}']:.1f}" for view in ("clean", "heavy"))
        yield ""
        if loser["reference_loss"] > 0:
            yield f"Class {loser['class']!r} loses most under heavy blur: from {before} to {after} in {reference}."
        if winner["difference"] > 0:
            yield f"Class {winner['class']!r} gains most: there {name} is {against(winner, reference)}."
        if worse:
            paying = min(worse, key=itemgetter("difference"))
            yield f"Class {paying['class']!r} pays most: there {name} is {against(paying, reference)}."
        yield (
            f"Of {comparison['n_test']} test images {name} rescues {kinds['rescued']} and loses {kinds['lost']}, "
            f"by the majority of heads and heavy views ({IMAGES})."
        )


def against(difference: Mapping[str, Any], reference: str) -> str:
    """A verdict with its numbers."""
    joint = "from" if difference["verdict"] == "not distinguishable" else "than"
    low, high = difference["ci95"]
    interval = "no interval" if low is None else f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    return f"{difference['verdict']} {joint} {reference}: {100 * difference['difference']:+.1f} points ({interval})"


def markdown_table(comparison: Comparison) -> str:
    """The finding and the same table in Markdown, for TensorBoard's Text tab."""
    arms = list(comparison["arms"])
    header = ["blur", *arms]
    for name in arms[1:]:
        header += [f"{name} gain", "95 % interval", "p", "verdict"]
    rows = [row for section in _sections(comparison, arms) for row in section]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in [header, ["---"] * len(header), *rows])
    lines = ["| " + " | ".join(cells) + " |" for cells in escaped]
    found = list(findings(comparison))
    notes = [f"- {note}".replace("* heavy", r"\* heavy") for note in _sentences(comparison) if note not in ("", *found)]
    stated = [paragraph for finding in found for paragraph in (f"**{finding}**".replace("\n", " "), "")]
    return "\n".join([*stated, _counts(comparison), "", *lines, "", *notes])


def accuracy_picture(path: Path, comparison: Comparison, title: str = "") -> None:
    """Accuracy versus strength, one panel a curve, with 95 % bands and the heavy range shaded.

    Photographs that were blurred really stand in a last panel, a point and its interval for each set and arm.

    Args:
        path: The file, a PNG.
        comparison: Its views with their arms, and real photographs.
        title: Above the panels, where it is not the comparison's own.

    Raises:
        StoreError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    views = comparison["views"]
    curves = {view["curve"]: view for view in views if view["family"] != "clean"}
    count = len(curves) + bool(comparison["real"])
    columns = min(count, MOST_COLUMNS)
    rows = -(-count // columns)
    figure = Figure(figsize=(6.4 * columns, 4.4 * rows), layout="constrained", dpi=120)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel, (curve, last) in zip(panels, curves.items(), strict=False):
        _draw_curves(panel, [view for view in views if view["curve"] in (curve, "clean")], comparison)
        measure = "" if last["parameters"] else f" blur: {FAMILIES[last['family']].strength}"
        panel.set_xlabel(f"{curve}{measure}")
        panel.set_ylabel("accuracy in %")
    if comparison["real"]:
        _draw_real(panels[len(curves)], comparison)
    for panel in panels[count:]:
        panel.remove()
    figure.suptitle(title or _title(comparison), fontsize=11)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _draw_curves(panel: Any, views: Sequence[Mapping[str, Any]], comparison: Comparison) -> None:  # noqa: ANN401 - matplotlib
    strengths = [view["strength"] for view in views]
    shown = {}  # what the legend names; automatic legends leave out names such as _mine
    for name, colour, line in zip(comparison["arms"], COLOURS * 9, LINES * 9, strict=False):
        arms = [view["arms"][name] for view in views]
        (shown[name],) = panel.plot(strengths, [100 * arm["accuracy"] for arm in arms], line, color=colour)
        known = [(s, arm["ci95"]) for s, arm in zip(strengths, arms, strict=True) if None not in arm["ci95"]]
        if known:
            low, high = ([100 * ci[end] for _, ci in known] for end in (0, 1))
            panel.fill_between([s for s, _ in known], low, high, color=colour, alpha=0.15, linewidth=0)
    largest = comparison.get("largest_class")  # which a network tested by itself does not have
    if largest:
        share = 100 * largest["share"]
        shown[f"always {largest['class']!r}"] = panel.axhline(share, color="0.3", linestyle=":", linewidth=1)
    heavy = [view["strength"] for view in views if view["heavy"]]
    if heavy:
        shown["heavy blur"] = panel.axvspan(min(heavy), max(strengths), color="0.5", alpha=0.12, linewidth=0)
    panel.set_xlim(0, max(strengths))
    _finish(panel, shown)


def _draw_real(panel: Any, comparison: Comparison) -> None:  # noqa: ANN401 - matplotlib
    """A place for each set of photographs, and in it the arms side by side."""
    views, arms = comparison["real"], list(comparison["arms"])
    shown = {}
    for number, (name, colour, line) in enumerate(zip(arms, COLOURS * 9, LINES * 9, strict=False)):
        places = [place + 0.16 * (number - (len(arms) - 1) / 2) for place in range(len(views))]
        heights = [100 * view["arms"][name]["accuracy"] for view in views]
        known = [
            (at, high, *(100 * bound for bound in view["arms"][name]["ci95"]))
            for at, high, view in zip(places, heights, views, strict=True)
            if None not in view["arms"][name]["ci95"]
        ]
        (shown[name],) = panel.plot(places, heights, line[0], color=colour)
        for at, height, low, high in known:
            panel.errorbar([at], [height], [[height - low], [high - height]], color=colour, capsize=4)
    names = [f"{textwrap.fill(view['name'], 20)}\n{images_in_words(view)}" for view in views]
    panel.set_xticks(range(len(views)), names)
    panel.set_xlim(-0.6, len(views) - 0.4)
    panel.set_xlabel("really blurred photographs")
    panel.set_ylabel("accuracy in %")
    _finish(panel, shown, "best")


def _finish(panel: Any, shown: Mapping[str, Any], place: str = "lower left") -> None:  # noqa: ANN401 - matplotlib
    panel.set_ylim(0, 100)
    panel.grid(alpha=0.3)
    for text in panel.legend(list(shown.values()), list(shown), loc=place).get_texts():
        text.set_parse_math(False)  # a name may hold a dollar sign


def _title(comparison: Comparison) -> str:
    heads = comparison["heads"]
    marks = "bands and bars" if comparison["real"] else "bands"
    return f"{comparison['n_test']} test images, {heads} head{'s' * (heads > 1)} an arm, {marks}: 95 % intervals"
