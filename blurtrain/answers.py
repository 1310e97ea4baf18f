"""What people look at of an imported network with its own head: table and picture. No computation."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blurtrain import report

RESULT = "pretrained.json"
COLUMNS = 100  # of a terminal
MOST = 5  # mistakes that are shown of a view

Result = Mapping[str, Any]  # the contents of pretrained.json


def table(result: Result) -> str:
    """What the network gets right and what it takes for what, as text of at most 100 columns."""
    rows = [["blur", "top-1", "95 % interval", "top-5", "nll", "ece"]]
    for view in result["views"]:
        low, high = view["ci95"]
        interval = "unknown" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
        top5 = "-" if view["top5_accuracy"] is None else f"{100 * view['top5_accuracy']:.1f}"
        cells = [f"{100 * view['accuracy']:.1f}", interval, top5, f"{view['nll']:.2f}", f"{view['ece']:.3f}"]
        rows.append([report.label({**view, "heavy": False}, result), *cells])
    title = (
        f"{result['network']} with its own head: {report.images_in_words(result)}, "
        f"{result['n_classes']} of its {result['n_outputs']} classes"
    )
    parts = [f"{title}\nAccuracy in %; blur in px at network size", _ruled(report.aligned(rows, left=(0,)))]
    if notes := [*report.shortfalls(result), *report.severities(result, RESULT)]:
        parts.append("\n".join(notes))
    if result["corruption"]:
        parts.append(_corruption(result["corruption"]))
    return "\n\n".join([*parts, *_mistakes(result)])


def _corruption(corruption: Mapping[str, Any]) -> str:
    """ImageNet-C's corruption errors in % of AlexNet's."""
    families = corruption["families"]
    rows = [["ImageNet-C", "mean error", "CE", "relative CE"]]
    rows += [
        [family, *(f"{100 * values[key]:.1f}" for key in ("mean_error", "ce", "relative_ce"))]
        for family, values in families.items()
    ]
    count = f"mean of {len(families)} famil{'ies' if len(families) > 1 else 'y'}"
    rows.append([count, "", f"{100 * corruption['mce']:.1f}", f"{100 * corruption['relative_mce']:.1f}"])
    clean = 100 * corruption["alexnet"]["clean_error"]
    return "\n".join(
        [
            _ruled(report.aligned(rows, left=(0,)), last=True),
            "CE: errors summed over the five severities, in % of AlexNet's. Relative CE: each error less the",
            f"network's clean one, {clean:.1f} % for AlexNet (torchvision's IMAGENET1K_V1). The means are those of",
            "ImageNet-C's mCE over these blurs alone.",
        ]
    )


def _mistakes(result: Result) -> Iterator[str]:
    """What is taken for what, on clean images and in the heaviest view of each curve."""
    heaviest = {view["curve"]: view for view in sorted(result["views"], key=lambda view: view["strength"])}
    shown = [view for view in result["views"] if heaviest[view["curve"]] is view]
    width = max(len(view["name"]) for view in shown)
    for heading, key in (
        ("Most frequent confusions: true class -> predicted class, images", "confusions"),
        ("Most frequent wrong answers: predicted class, images", "wrong_answers"),
    ):
        lines = [f"{view['name']:<{width}}  {_some(view[key], COLUMNS - width - 2)}" for view in shown]
        yield "\n".join([heading, *lines])


def _some(mistakes: Sequence[Mapping[str, Any]], most: int) -> str:
    """The first few mistakes, as many as fit in a line."""
    text = ""
    for mistake in mistakes[:MOST]:
        true = f"{mistake['true']} -> " if "true" in mistake else ""
        longer = f"{text}{', ' if text else ''}{true}{mistake['predicted']} {mistake['images']}"
        if len(longer) > most and text:
            break
        text = longer
    return text[:most] or "none"


def _ruled(lines: Sequence[str], *, last: bool = False) -> str:
    """A table with a rule below its heading, and perhaps above its last line."""
    rule = "-" * max(map(len, lines))
    body = [*lines[1:-1], rule, lines[-1]] if last else lines[1:]
    return "\n".join([lines[0], rule, *body])


def picture(path: Path, result: Result) -> None:
    """Accuracy versus strength, one panel a curve, with 95 % bands.

    Raises:
        StoreError: If the file cannot be written.
    """
    network = result["network"]
    views = [{**view, "heavy": False, "arms": {network: view}} for view in result["views"]]
    title = f"{network} with its own head, {result['n_test']} test images, bands: 95 % intervals"
    report.accuracy_picture(path, {"arms": [network], "views": views, "real": []}, title)
