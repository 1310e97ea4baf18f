"""What a page says in words and in the rows of its tables, made from a comparison's numbers. No computation."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from blurtrain import report
from blurtrain.page_answers import Answers, Shift

CLEAN = "clean"
MOST_CLASSES = 1200  # rows of a table of classes: more would make the page too large
MEANS = {"slight_mean": "mean of slight", "heavy_mean": "mean of heavy"}  # rows of the gains
CONFUSED = 20  # classes up to which a heat map has room, and rows of a table where there are more

Comparison = Mapping[str, Any]
Row = dict[str, Any]


def findings(comparison: Comparison, heavy_said: str) -> list[str]:
    """The result of each arm: under heavy blur, on clean images, and which class gains and which one pays."""
    reference, heavy = comparison["reference"], comparison["heavy_mean"]
    parts = [(f"Under heavy blur ({heavy_said})", heavy)] if heavy else []
    parts.append(("On clean images", comparison["views"][0]))
    said = [] if heavy else [report.NO_HEAVY]
    for name in list(comparison["arms"])[1:]:
        found = [(where, report.against(part["against_reference"][name], reference)) for where, part in parts]
        lines = [f"{where} {'it' if line else name} is {told}." for line, (where, told) in enumerate(found)]
        lines += _classes_line([row for row in comparison["classes"] or () if row["arm"] == name])
        said.append("\n".join(lines))
    return said


def _classes_line(rows: Sequence[Row]) -> list[str]:
    """The class that gains most and the one that pays most, from accuracy to accuracy."""
    if len(rows) < 2:
        return []
    winner = max(rows, key=itemgetter("difference"))
    worse = [row for row in rows if row["verdict"] == "worse"]  # the largest loss need not be one that is found
    unsure = "" if winner["verdict"] == "better" else ", not distinguishable"
    gains = f"Class {winner['class']!r} gains most under heavy blur ({_from_to(winner)}{unsure})"
    line = gains if winner["difference"] > 0 else "No class gains under heavy blur"
    if worse:
        payer = min(worse, key=itemgetter("difference"))
        return [f"{line}; class {payer['class']!r} pays most ({_from_to(payer)})."]
    return [f"{line}; none is found worse."]


def _from_to(row: Row) -> str:
    return f"{percent(row['reference_heavy'])} to {percent(row['arm_heavy'])} %"


def power_said(comparison: Comparison) -> str:
    """What this many images and heads can show: docs/statistics.md has the formula."""
    parts = {
        "under heavy blur": comparison["heavy_mean"],
        "under slight blur": comparison.get("slight_mean"),  # which older comparisons do not have
        "on clean images": comparison["views"][0],
    }
    said = []
    for name in list(comparison["arms"])[1:]:
        sizes = {where: part["against_reference"][name]["smallest_detectable"] for where, part in parts.items() if part}
        told = [f"{100 * size:.1f} {where}" for where, size in sizes.items() if size is not None]
        if told:
            whose = f" of {name}" * (len(comparison["arms"]) > 2)
            points = " or ".join(filter(None, (", ".join(told[:-1]), told[-1])))
            said.append(f"a true difference{whose} of {points} (points) would be found in 80 of 100 such studies")
    return f"How little can be seen: {'; '.join(said)}; smaller ones less often." if said else ""


def certainty_said(comparison: Comparison) -> list[str]:
    """What intervals, p and verdicts are: docs/statistics.md has the formulas."""
    units = "test images" if comparison["groups"] == comparison["n_test"] else "groups of test images"
    if comparison["heads"] > 1:
        test = (
            f"Test images and heads both vary: intervals and p are those of a study with new {units} and newly trained "
            f"heads (two-way analysis of variance, {units} by heads, with Student's t)."
        )
    else:
        test = f"Intervals and p are those of a study with new {units} (paired t test); the one head is taken as it is."
    heavy = [view["name"] for view in comparison["views"] if view["heavy"]]
    adjusted = []
    if len(heavy) > 1:
        adjusted.append(f"p of the {len(heavy)} heavy views (*) is adjusted for looking at {len(heavy)} of them (Holm)")
    if len(comparison["real"]) > 1:
        adjusted.append(f"p of the {len(comparison['real'])} sets of photographs is adjusted over these")
    others = "; the other p of this table are not adjusted" if adjusted else "No p is adjusted"
    return [
        test,
        f"{'; '.join(adjusted)}{others}. The verdict is better or worse where p is below 0.05.",
        "The bands of the charts above are each arm's own. All arms see the same images, so judge a difference by its "
        "interval here, not by whether bands overlap.",
    ]


def kinds_said(counts: Mapping[str, int], shown: Sequence[str | None]) -> str:
    """How many images of each kind are shown, and how many there are."""
    here = ", ".join(f"{list(shown).count(kind)} {kind}" for kind in counts)
    every = ", ".join(f"{count:,}" for count in counts.values())
    return f"{here}, in the proportions of all {sum(counts.values()):,} ({every})"


def classes_said(comparison: Comparison) -> list[str]:
    """Which classes lose and gain most, and how many images change sides."""
    return [line for line in report.breakdown_lines(comparison) if line]


def percent(value: float | None) -> str:
    """A share in percent."""
    return "unknown" if value is None else f"{100 * value:.1f}"


def tied(text: str) -> str:
    """The same with percent signs that no line break parts from their numbers."""
    return text.replace(" %", "\u00a0%")


def signed(value: float | None) -> str:
    """A difference in points."""
    return "unknown" if value is None else f"{100 * value:+.1f}"


def interval(found: Mapping[str, Any]) -> str:
    """A 95 % interval of a difference in points."""
    low, high = found["ci95"]
    return "unknown" if low is None else f"{signed(low)} to {signed(high)}"


def key_figures(comparison: Comparison, said: Mapping[str, str]) -> list[Row]:
    """Accuracy of each arm under heavy and slight blur and on clean images, and what it gains over the reference.

    Args:
        comparison: The contents of comparison.json.
        said: What slight and heavy blur are.
    """
    parts = [
        (f"Heavy blur ({said['heavy']})", comparison["heavy_mean"]),
        (f"Slight blur ({said['slight']})", comparison.get("slight_mean")),  # which older comparisons do not have
        ("Clean images", comparison["views"][0]),
    ]
    return [
        {
            "name": name,
            "arms": [
                (place, arm, percent(found["arms"][arm]["accuracy"]), found["against_reference"].get(arm))
                for place, arm in enumerate(comparison["arms"])
            ],
        }
        for name, found in parts
        if found
    ]


def gain_rows(comparison: Comparison) -> list[Row]:
    """One row for each view, or mean of views, and arm; p is the adjusted one where there is one."""
    named = [
        (view["name"] + " *" * view["heavy"], native_of(view, comparison), view, comparison)
        for view in comparison["views"]
    ]
    named += [(name, "", comparison[mean], comparison) for mean, name in MEANS.items() if comparison.get(mean)]
    named += [(view["name"], "", view, view) for view in comparison["real"]]
    return [
        {
            "view": name,
            "mean": name in MEANS.values(),
            "native": native,
            "arm": arm,
            "place": place,
            "before": view["arms"][comparison["reference"]]["accuracy"],
            "after": view["arms"][arm]["accuracy"],
            "gain": gain,
            "p": gain["p"] if gain["p_holm"] is None else gain["p_holm"],
            "n": counts["n_test"],
        }
        for name, native, view, counts in named
        for place, (arm, gain) in enumerate(view["against_reference"].items(), 1)
    ]


def native_of(view: Mapping[str, Any], comparison: Comparison) -> str:
    """How strong a blur is in px of the files; nothing where that is the same, or it is not in px."""
    scale = comparison["native_pixels_per_pixel"]
    in_px = view["strength"] and not view["parameters"] and view["family"] != "psf"
    return f"{view['strength'] * scale:.1f} px native" if in_px and scale != 1 else ""


def class_rows(comparison: Comparison) -> list[Row]:
    """Classes of every arm, those first that lose most; where there are too many, the largest gains and losses."""
    rows = sorted(comparison["classes"] or (), key=lambda row: row["difference"])
    if len(rows) > MOST_CLASSES:
        half = MOST_CLASSES // 2
        rows = rows[:half] + rows[-half:]
    return [{**row, "p": row["p"] if row["p_holm"] is None else row["p_holm"]} for row in rows]


def curve_alt(comparison: Comparison, curve: str, always: float) -> str:
    """What a curve of accuracy shows: where each arm begins and ends, beside one constant answer."""
    views = [view for view in comparison["views"] if view["curve"] in (curve, CLEAN)]
    last = views[-1]
    arms = "; ".join(
        f"{name} goes from {percent(views[0]['arms'][name]['accuracy'])} % on clean images "
        f"to {percent(last['arms'][name]['accuracy'])} % at {last['name']}"
        for name in comparison["arms"]
    )
    return f"Accuracy against {curve} blur: {arms}. Always answering the most frequent class is {percent(always)} %."


def real_alt(comparison: Comparison) -> str:
    """What the chart of real photographs shows."""
    sets = "; ".join(
        f"{view['name']}: " + ", ".join(f"{name} {percent(arm['accuracy'])} %" for name, arm in view["arms"].items())
        for view in comparison["real"]
    )
    return f"Accuracy on really blurred photographs. {sets}."


def forest_alt(rows: Sequence[Row]) -> str:
    """What the forest plot shows."""
    verdicts = [row["gain"]["verdict"] for row in rows]
    counted = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts))
    best = max(rows, key=lambda row: row["gain"]["difference"])
    return (
        f"Gains on each view with 95 % intervals: {counted}. "
        f"The largest is {signed(best['gain']['difference'])} points, of {best['arm']} at {best['view']}."
    )


def calibration_alt(kind: str, errors: Mapping[str, float]) -> str:
    """What a reliability diagram shows."""
    arms = "; ".join(f"{name} {percent(error)} %" for name, error in errors.items())
    return f"Accuracy against confidence, {kind}. Expected calibration error: {arms}."


def calibration_errors(comparison: Comparison, kind: str) -> dict[str, float]:
    """The expected calibration error of each arm on clean images, or its mean over the heavy views."""
    views = [view for view in comparison["views"] if (view["heavy"] if kind == "heavy" else view["family"] == CLEAN)]
    return {name: sum(view["arms"][name]["ece"] for view in views) / len(views) for name in comparison["arms"]}


def curves(comparison: Comparison) -> dict[str, list[int]]:
    """Places of the views of each curve, the clean one first in each."""
    named = [(view["curve"], place) for place, view in enumerate(comparison["views"]) if view["curve"] != CLEAN]
    named.sort(key=lambda pair: pair[0])  # stable
    return {curve: [0, *(place for _, place in pairs)] for curve, pairs in groupby(named, key=lambda pair: pair[0])}


def answers_of(answers: Answers, place: int, view: str, arms: Sequence[str], classes: Sequence[str]) -> list[Row]:
    """What each arm says of an image in a view."""
    rows = []
    for arm in arms:
        said = answers.said[view, arm]
        answer = int(said.answer[place])
        rows.append(
            {
                "arm": arm,
                "answer": classes[answer],
                "right": answer == int(answers.labels[place]),
                "confidence": float(said.confidence[place]),
                "votes": int(said.votes[place]),
            }
        )
    return rows


def clearest(answers: Answers, place: int, heavy: Sequence[str], reference: str, arm: str) -> str:
    """The heavy view in which the arms' heads differ most on an image; of equal ones the first."""
    right = {name: [int(answers.said[view, name].right[place]) for view in heavy] for name in (reference, arm)}
    apart = [abs(after - before) for before, after in zip(right[reference], right[arm], strict=True)]
    return heavy[apart.index(max(apart))]


def heat_rows(changes: Sequence[Shift], labels: Sequence[int], classes: int) -> list[Row]:
    """A row for each class with test images: what its images are taken for, and how that changes, in points."""
    by_pair = {(one.label, one.answer): one for one in changes}
    most = max([0.01, *(abs(one.after - one.before) for one in changes)])
    return [
        {"label": label, "cells": [_heat(by_pair.get((label, answer)), most) for answer in range(classes)]}
        for label in labels
    ]


def _heat(one: Shift | None, most: float) -> Row:
    if one is None:
        return {"change": 0.0, "before": 0.0, "after": 0.0, "weight": 0, "rises": True}
    change = one.after - one.before
    weight = round(100 * abs(change) / most)
    return {"change": change, "before": one.before, "after": one.after, "weight": weight, "rises": change > 0}


def confusion_said(changes: Sequence[Shift], classes: Sequence[str], reference: str, arm: str) -> Iterator[str]:
    """The largest change of all, and the largest among mistakes."""
    mistakes = [one for one in changes if one.label != one.answer]
    for what, some in ((" among mistakes", mistakes), (" of all", changes)):
        if some and (some is mistakes or some[0] not in mistakes[:1]):
            one = some[0]
            taken = "is recognised" if one.label == one.answer else f"is taken for {classes[one.answer]!r}"
            yield (
                f"The largest change{what}: {classes[one.label]!r} {taken} in {percent(one.before)} % of answers by "
                f"{reference} and in {percent(one.after)} % by {arm}."
            )


def below_said(comparison: Comparison, always: float) -> str:
    """Where an arm is no better than one that always gives the same answer, without a look at any image."""
    start = f"Always answering the most frequent class would be right on {percent(always)} %"
    parts = []
    for arm in comparison["arms"]:
        names = [view["name"] for view in comparison["views"] if view["arms"][arm]["accuracy"] <= always]
        if names:
            parts.append(f"{arm} is not above that at {', '.join(names)}")
    return f"{start}; {'; '.join(parts) or 'every arm is above that in every view'}."
