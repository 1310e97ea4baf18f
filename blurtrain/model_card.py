"""The model card of an exported classifier: what it is, how it was made, how well it does, and where it ends."""

import html
from pathlib import Path
from typing import Any

import numpy as np

from blurtrain import metrics
from blurtrain.differences import accuracy_of
from blurtrain.files import sha256, write_text
from blurtrain.progress import say
from blurtrain.runs import CONFIG, Run
from blurtrain.sweep import PREDICTIONS, REFIT, read_predictions
from blurtrain.views import View

NAME = "{}-card.md"  # after the file that it describes
SEALED = "<!-- blurtrain wrote the above: "
MOST_CLASSES = 50  # that are listed

CARD = """\
# Model card: {title}

An image classifier in {count} classes: {backbone}, frozen, with a linear head that was trained by blurtrain {version}
on {copies}.

Licence: *to be filled in by who publishes it; it depends on the licences of the weights and of the images*

## Intended use, and limits

It tells the classes below apart in photographs like those that it was trained on. It always answers with one of them,
also for an image that shows none. It was tested on {test} images, clean and through: {views}. What is blurrier than
these, blurred in another way, or from another source than the test images was not tested: `blurtrain predict
--blur_check` tells which of the tested views an image resembles. An accuracy below is that of the test split; rows
whose intervals overlap are no ranking.

Classes: {classes}

## How well it does

The refitted head on {test} test images{groups}; blur in px at network size.

| view | accuracy | 95 % interval | expected calibration error |
| --- | --- | --- | --- |
{rows}

The interval is over new images; the calibration error has 15 bins of equal width (Guo et al. 2017) and is biased
upwards for few images.

## Data

{train} training, {validation} validation and {test} test images{skipped}. No test image, nor an exact duplicate of one,
was trained on.

## How it was made

| | |
| --- | --- |
| backbone | {backbone}, {weights} |
| fingerprint of the network as it is used | `{fingerprint}` |
| input | {crop} x {crop} px RGB: shorter side to {resize} px ({interpolation}, antialiased), central square |
| copies | {copies} |
| trained | {trained} |
| command | `blurtrain train --config config.yaml`, whose SHA-256 is `{config}` |
| versions | {versions} |
| file | `{file}`, SHA-256 `{sha256}` |
| file and original | differ by at most {difference:.1e} in any probability of {checked} test images |
"""


def card(run: Run, file: Path, facts: dict[str, Any]) -> str:
    """The model card as Markdown.

    Args:
        run: Finished.
        file: That was exported.
        facts: Its `sha256`, the `fingerprint` of its network, and `difference` from the original on so many images,
            `checked`.

    Raises:
        RunError: If files of the run are damaged.
    """
    result, config = run.result, run.config
    geometry = result["backbone"]["preprocessing"]["geometry"]
    copies = ", ".join(view.name for view in config.train_views[1:])
    rows, groups = _rows(run)
    names = [_text(name) for name in run.classes]
    more = f" and {len(names) - MOST_CLASSES} more" if len(names) > MOST_CLASSES else ""
    skipped = f"; {len(result['skipped'])} files could not be used" if result["skipped"] else ""
    changed = {"adapt": ", batch-norm statistics"}.get(config.bn, "") + ", batch norms" * (config.tune == "head+bn")
    return CARD.format(
        title=_text(run.folder.name),
        count=len(names),
        backbone=result["backbone"]["name"],
        version=result["versions"]["blurtrain"],
        copies=f"clean images and copies of them: {copies}" if copies else "clean images alone",
        views=", ".join(_text(view.name) for view in _views(run)[1:]),
        classes=", ".join(names[:MOST_CLASSES]) + more,
        rows="\n".join(rows),
        groups=groups,
        skipped=skipped,
        **result["images"],
        weights=_text(Path(config.backbone.weights).name),
        fingerprint=facts["fingerprint"],
        **geometry,
        trained=f"the head ({result['trainable']['parameters']:,} parameters){changed}",
        config=result["files"][CONFIG],
        versions=", ".join(f"{name} {version}" for name, version in result["versions"].items()),
        file=file.name.replace("`", "'"),
        sha256=facts["sha256"],
        difference=facts["difference"],
        checked=facts["checked"],
    )


def _views(run: Run) -> list[View]:
    return [*run.config.test_views, *run.config.real_views]


def _rows(run: Run) -> tuple[list[str], str]:
    """A row for each view, and in how many groups the test images are where these are fewer."""
    path, groups = run.file(PREDICTIONS), ""
    rows: list[str] = []
    for view in _views(run):
        found = read_predictions(path, view)
        refit = found.heads.index(REFIT)
        correct = found.correct[[refit]].astype(np.float64)
        several = len(np.unique(found.groups))
        if view.name == "clean" and several < len(found.groups):
            groups = f" in {several} groups, which are the units of the intervals"
        result = accuracy_of(correct, found.groups)
        low, high = result["ci95"]
        interval = "unknown" if low is None else f"{100 * low:.1f} to {100 * high:.1f}"
        ece = float(metrics.expected_calibration_error(found.confidence[refit], found.correct[refit]))
        rows.append(f"| {_text(view.name)} | {100 * result['accuracy']:.1f} | {interval} | {ece:.3f} |")
    return rows, groups


def _text(name: str) -> str:
    """A name that is nothing but text in Markdown, also within a table."""
    escaped = html.escape(" ".join(name.split()), quote=False)
    return "".join(f"\\{character}" if character in "\\`*_[]|#~$!" else character for character in escaped)


def write(path: Path, text: str) -> None:
    """Write a card; one that somebody has edited since it was written is left, and that is said.

    Raises:
        StoreError: If it cannot be written.
    """
    if path.exists() and not _is_ours(path):
        say(f"note: {path} is not what was written there, so it stays as it is: move it away for a new one")
        return
    write_text(path, f"{text}\n{SEALED}{sha256(text)} -->\n")


def _is_ours(path: Path) -> bool:
    text, mark, seal = path.read_text(encoding="utf-8", errors="replace").rpartition(f"\n{SEALED}")
    return mark != "" and seal == f"{sha256(text)} -->\n"
