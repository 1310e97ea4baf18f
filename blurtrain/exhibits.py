"""What people look at of the evidence and of a recommendation: terminal tables and pictures. No computation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import fill
from typing import Any

from blurtrain import controls
from blurtrain.files import whole_file
from blurtrain.report import COLOURS, LINES, aligned
from blurtrain.sensitivity import sentence

WIDTH = 100  # characters of a line
Evidence = Mapping[str, Any]
MARKS = {"better": "+", "worse": "-", "not distinguishable": "="}
SIGNS = "+ better, - worse, = not distinguishable from the baseline (p adjusted after Holm below .05)."
LEGEND = "The same signs; below each gain its 95 % interval."


def tables(found: Evidence) -> str:
    """Every table of the evidence as text of at most 100 columns."""
    parts = [_counts(found), _arms(found), _families(found), _strengths(found), _sensitivity(found), _passes(found)]
    return "\n\n".join(part for part in parts if part)


def _counts(found: Evidence) -> str:
    groups = "" if found["groups"] == found["n_test"] else f" in {found['groups']} groups"
    heads = found["heads"]
    return fill(
        f"Accuracy in % on {found['n_test']} test images{groups}, mean of {heads} head{'s' * (heads > 1)} an arm; "
        f"gains on the {found['reference']} in points with 95 % intervals; p adjusted over the table (Holm). "
        f"Severities: {found['severities']}.",
        WIDTH,
    )


def _arms(found: Evidence) -> str:
    """Every arm on clean images and under heavy blur."""
    heavy = _mean(found, "heavy")
    clean = found["views"][0]["arms"]
    header = ["arm", "clean", "gain", "95 % interval", *(["heavy", "gain", "95 % interval"] if heavy else [])]
    rows, sections = [header], []
    for place, arm in enumerate(found["arms"]):
        sections.append(arm["section"])
        cells = [_name(arm), *_cells(clean[place])]
        if heavy is not None:
            cells += _cells(heavy["arms"][place])
        rows.append(cells)
    lines = aligned(rows, left=(0,))
    body = [lines[0], "-" * max(map(len, lines))]
    for place, line in enumerate(lines[1:]):
        if place and sections[place] != sections[place - 1]:
            body.append(f"  {sections[place]}:")
        body.append(line)
    return "\n".join([*body, SIGNS])


def _name(arm: Mapping[str, Any]) -> str:
    return f"{arm['name']} 1, 2" if arm["section"] == controls.FAMILY else str(arm["name"])


def _cells(row: Mapping[str, Any]) -> list[str]:
    accuracy = f"{100 * row['accuracy']:.1f}"
    gain = row["gain"]
    if gain is None:
        return [accuracy, "", ""]
    return [accuracy, _signed(gain), _interval(gain)]


def _signed(gain: Mapping[str, Any]) -> str:
    return f"{100 * gain['difference']:+.1f} {MARKS[gain['verdict']]}"


def _interval(gain: Mapping[str, Any]) -> str:
    low, high = gain["ci95"]
    return "unknown" if low is None else f"{100 * low:+.1f} to {100 * high:+.1f}"


def _mean(found: Evidence, name: str) -> Mapping[str, Any] | None:
    return next((mean for mean in found["means"] if mean["name"] == name), None)


def _of_section(found: Evidence, section: str) -> list[int]:
    return [place for place, arm in enumerate(found["arms"]) if arm["section"] == section]


def _families(found: Evidence) -> str:
    """Gains of copies of each family on the stronger severities of each."""
    means = [mean for mean in found["means"] if mean["name"] != "heavy"]
    slight, stronger = (", ".join(map(str, some)) for some in (controls.SLIGHT, controls.STRONGER))
    title = f"Copies of one family at severity {slight} (rows), tested on each at severity {stronger} (columns)"
    labels = [found["arms"][place]["name"] for place in _of_section(found, controls.FAMILY)]
    gains = [[mean["arms"][place]["gain"] for mean in means] for place in _of_section(found, controls.FAMILY)]
    return _matrix(title, "copies", [mean["name"] for mean in means], labels, gains)


def _strengths(found: Evidence) -> str:
    """Gains of one copy of each strength on each blur of the same curve."""
    places = _of_section(found, controls.STRENGTH)
    views = _tested_strengths(found)
    if not places:
        return ""
    title = "One copy of each strength (rows), tested on each strength (columns); * heavy"
    columns = [f"{view['strength']:g}{' *' * view['heavy']}" for view in views]
    gains = [[view["arms"][place]["gain"] for view in views] for place in places]
    return _matrix(title, "copy", columns, [found["arms"][place]["name"] for place in places], gains)


def _tested_strengths(found: Evidence) -> list[Mapping[str, Any]]:
    """Views that single copies were made of: the clean one is none."""
    names = {found["arms"][place]["name"] for place in _of_section(found, controls.STRENGTH)}
    return [view for view in found["views"] if view["name"] in names]


def _matrix(
    title: str, corner: str, columns: Sequence[str], labels: Sequence[str], gains: Sequence[Sequence[Mapping[str, Any]]]
) -> str:
    rows = [[corner, *columns]]
    for label, line in zip(labels, gains, strict=True):
        rows.append([label, *map(_signed, line)])
        rows.append(["", *(_short(gain) for gain in line)])
    lines = aligned(rows, left=(0,))
    return "\n".join([title, lines[0], "-" * max(map(len, lines)), *lines[1:], LEGEND])


def _short(gain: Mapping[str, Any]) -> str:
    low, high = gain["ci95"]
    return "unknown" if low is None else f"{100 * low:+.0f} to {100 * high:+.0f}"


def _sensitivity(found: Evidence) -> str:
    if not found["sensitivity"]:
        return ""
    title = "The gain under heavy blur with one thing decided otherwise; p is not adjusted"
    rows = [["setting", "baseline", "augmented", "gain", "95 % interval", "verdict"]]
    for one in found["sensitivity"]:
        heavy = one["heavy"]
        accuracies = [f"{100 * heavy[arm]:.1f}" for arm in ("baseline", "augmented")]
        rows.append(
            [one["setting"], *accuracies, f"{100 * heavy['difference']:+.1f}", _interval(heavy), heavy["verdict"]]
        )
    lines = aligned(rows)
    return "\n".join(
        [title, lines[0], "-" * max(map(len, lines)), *lines[1:], fill(sentence(found["sensitivity"]), WIDTH)]
    )


def _passes(found: Evidence) -> str:
    passes = found["forward_passes"]
    return (
        f"{passes['distinct_pairs']:,} distinct (image, view) pairs: {passes['computed']:,} passed the backbone now, "
        f"{passes['reused']:,} were stored."
    )


def pictures(folder: Path, found: Evidence) -> None:
    """Write every picture of the evidence.

    Raises:
        StoreError: If a file cannot be written.
    """
    _families_picture(folder / "families.png", found)
    if _of_section(found, controls.STRENGTH):
        _strengths_picture(folder / "strengths.png", found)
    if found["sensitivity"]:
        _sensitivity_picture(folder / "sensitivity.png", found)


def _families_picture(path: Path, found: Evidence) -> None:
    """A heat map: copies of one family down, test views of one family across."""
    from matplotlib.figure import Figure

    places = _of_section(found, controls.FAMILY)
    means = [mean for mean in found["means"] if mean["name"] != "heavy"]
    gains = [[mean["arms"][place]["gain"] for mean in means] for place in places]
    values = [[100 * gain["difference"] for gain in line] for line in gains]
    most = max(1.0, *(abs(value) for line in values for value in line))
    figure = Figure(figsize=(8.2, 6.2), layout="constrained", dpi=120)
    panel = figure.subplots()
    shown = panel.imshow(values, cmap="RdBu", vmin=-most, vmax=most)
    for row, line in enumerate(gains):
        for column, gain in enumerate(line):
            dark = abs(values[row][column]) > 0.6 * most
            words = f"{_signed(gain)}\n{_short(gain)}"
            panel.text(column, row, words, ha="center", va="center", color="white" if dark else "black", fontsize=9)
    panel.set_xticks(range(len(means)), [mean["name"] for mean in means])
    panel.set_yticks(range(len(places)), [found["arms"][place]["name"] for place in places])
    slight, stronger = (", ".join(map(str, some)) for some in (controls.SLIGHT, controls.STRONGER))
    panel.set_xlabel(f"test: mean of severities {stronger}")
    panel.set_ylabel(f"copies: severities {slight}")
    figure.colorbar(shown, label="gain in points")
    heads = found["heads"]
    figure.suptitle(
        f"Gain of copies in accuracy, {found['n_test']} test images, {heads} head{'s' * (heads > 1)} an arm\n"
        "+ better, - worse, = not distinguishable (Holm); below: 95 % interval",
        fontsize=10,
    )
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _strengths_picture(path: Path, found: Evidence) -> None:
    """The gain of one copy against its strength, one curve a tested strength."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    places, views = _of_section(found, controls.STRENGTH), _tested_strengths(found)
    figure = Figure(figsize=(8.6, 4.8), layout="constrained", dpi=120)
    panel = figure.subplots()
    strengths = [view["strength"] for view in views]
    tested = [found["views"][0], *views]
    shades = colormaps["viridis_r"](
        [0.1 + 0.9 * i / (len(tested) - 1) for i in range(len(tested))]
    )  # darker is stronger
    for view, colour, line in zip(tested, shades, LINES * 9, strict=False):
        gains = [view["arms"][place]["gain"] for place in places]
        label = f"{view['name']}{' *' * view['heavy']}"
        panel.plot(strengths, [100 * gain["difference"] for gain in gains], line, color=colour, label=label)
        known = [(s, gain["ci95"]) for s, gain in zip(strengths, gains, strict=True) if None not in gain["ci95"]]
        low, high = ([100 * ci[end] for _, ci in known] for end in (0, 1))
        panel.fill_between([s for s, _ in known], low, high, color=colour, alpha=0.1, linewidth=0)
    panel.axhline(0, color="0.3", linewidth=0.8)
    panel.set_xlabel(f"strength of the one copy ({views[0]['curve']})")
    panel.set_ylabel("gain in points")
    panel.grid(alpha=0.3)
    figure.legend(title="tested on (* heavy)", fontsize=9, loc="outside right center")
    figure.suptitle(f"Which copy buys most, {found['n_test']} test images, bands: 95 % intervals", fontsize=10)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def _sensitivity_picture(path: Path, found: Evidence) -> None:
    """The gain under heavy blur with its interval, one row a setting."""
    from matplotlib.figure import Figure

    rows = list(reversed(found["sensitivity"]))
    figure = Figure(figsize=(8.2, 1.4 + 0.42 * len(rows)), layout="constrained", dpi=120)
    panel = figure.subplots()
    for place, row in enumerate(rows):
        for shift, key, colour, mark in ((0.12, "heavy", COLOURS[0], "o"), (-0.12, "clean", COLOURS[1], "s")):
            gain, (low, high) = row[key]["difference"], row[key]["ci95"]
            panel.plot([100 * gain], [place + shift], mark, color=colour, label=key if place == 0 else None)
            if low is not None:
                panel.plot([100 * low, 100 * high], [place + shift] * 2, "-", color=colour)
    panel.axvline(0, color="0.3", linewidth=0.8)
    panel.set_yticks(range(len(rows)), [row["setting"] for row in rows])
    panel.set_xlabel("gain of the copies in points, with 95 % interval")
    panel.grid(axis="x", alpha=0.3)
    panel.legend(fontsize=8)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png")


def recommendation(found: Mapping[str, Any]) -> str:
    """What is recommended, why, and what to expect, as text."""
    chosen, images = found["chosen"], found["images"]
    against = ", ".join(found["against"])
    lines = [f"Against {against}; {images['choosing']} validation images chose, {images['others']} others judge."]
    rows = [["copies", "clean", "gain", "95 % interval", "heavy", "gain", "95 % interval"]]
    for one in sorted(found["sets"], key=lambda one: -float(one["choosing"]["heavy"]["accuracy"]))[:8]:
        rows.append([", ".join(one["copies"]) or "none", *_judged(one["others"])])
    table = aligned(rows)
    lines += ["", table[0], "-" * max(map(len, table)), *table[1:], ""]
    if found["refused"]:
        lines += [_refusal(found["refused"])]
    if not chosen:
        other = "no other copies gain" if found["refused"] else "none gain"
        return "\n".join([*lines, f"No copies are recommended: {other} more than a standard error under heavy blur."])
    heavy, clean = found["expected"]["heavy"]["gain"], found["expected"]["clean"]["gain"]
    lines += [
        f"Recommended: {', '.join(chosen)}.",
        f"Expected under heavy blur: {100 * heavy['difference']:+.1f} points ({_interval(heavy)}), {heavy['verdict']}; "
        f"on clean images {100 * clean['difference']:+.1f} ({_interval(clean)}), {clean['verdict']}: "
        f"the copies {_changed(found['expected']['clean'])}.",
    ]
    return "\n".join(lines)


def _refusal(refused: Mapping[str, Any]) -> str:
    """What gains more than all that is recommended, and why it is not."""
    figures = refused["choosing"]
    heavy, clean = (100 * figures[key]["gain"]["difference"] for key in ("heavy", "clean"))
    return (
        f"Refused: {', '.join(refused['copies'])}, {heavy:+.1f} points under heavy blur on the images that chose, but "
        f"{clean:+.1f} on clean ones, over a standard error below -1: they {_changed(figures['clean'])}."
    )


def _changed(clean: Mapping[str, Any]) -> str:
    """What copies cost on clean images, counted."""
    return f"lose {clean['lost']} and win {clean['won']} of {clean['images']} clean images"


def _judged(figures: Mapping[str, Any]) -> Iterator[str]:
    for key in ("clean", "heavy"):
        gain = figures[key]["gain"]
        yield f"{100 * figures[key]['accuracy']:.1f}"
        yield f"{100 * gain['difference']:+.1f}"
        yield _interval(gain)
