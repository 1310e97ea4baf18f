"""What TensorBoard shows of a comparison: finding and table, heavy means, charts, images that copies rescue or lose."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Int32, Int64, UInt8
from PIL import Image, ImageDraw, ImageFont

from blurtrain import page_answers, report
from blurtrain.blur import blur_pixels
from blurtrain.breakdown import most_changed
from blurtrain.comparison import Compared
from blurtrain.errors import BlurtrainError, DataError
from blurtrain.progress import say
from blurtrain.roster import by_content
from blurtrain.sweep import PREDICTIONS
from blurtrain.tensorboard import Events, Picture, add_figures, add_picture
from blurtrain.tested_images import Unreadable, read_tested
from blurtrain.views import CLEAN, Blur

CHARTED = ("accuracy", "nll", "ece")
CATEGORY = "arms side by side"  # one for all comparisons: TensorBoard merges charts of one category, and drops doubles
HEAVY_MEAN = "mean of heavy"  # no run knows it: what is heavy is measured by the copies of all arms
MOST = 5  # images of a kind
SHOWN = 3  # heavy views of an image, beside the clean one
SIDES = (128, 256)  # px of a picture: smaller ones are magnified, larger ones made smaller, by whole factors
GAP, LINE = 8, 18  # px
WIDEST = 46  # characters of a class's or an image's name
RIGHT, WRONG, PLAIN = "#00603F", "#B03A00", "#333333"  # each told apart by its mark as well

Answers = Mapping[Blur, Mapping[str, Int32[np.ndarray, " images"]]]


def write_comparison(folder: Path, compared: Compared, figures: Mapping[str, Path]) -> None:
    """Write the events of a comparison.

    Images are found by their names in their source. Where they are not there any more, all else is written.

    Args:
        folder: Of the comparison.
        compared: The comparison.
        figures: Its pictures.

    Raises:
        StoreError: If the file cannot be written.
        RunError: If the runs' predictions are not what was written.
    """
    with Events(folder) as writer:
        writer.add_text("comparison", report.markdown_table(compared.result))
        for arm, mean in (compared.result["heavy_mean"] or {"arms": {}})["arms"].items():
            writer.add_scalar(f"{HEAVY_MEAN}/{arm}", mean["accuracy"], 0)
        writer.add_custom_scalars(layout(compared.arms.views))
        add_figures(writer, "comparison", figures)
        for tag, step, picture in _changed_images(compared):
            add_picture(writer, tag, step, picture)


def layout(views: Sequence[Blur]) -> dict[str, dict[str, tuple[str, list[str]]]]:
    """Charts of the Custom Scalars tab: a line for each run that has the tag."""
    curves = dict.fromkeys(view.curve for view in views if view != CLEAN)
    charts = {
        f"{curve}: {metric}": ("Multiline", [f"^{re.escape(f'sweep {curve}/{metric}')}$"])
        for curve in curves
        for metric in CHARTED
    }
    return {CATEGORY: charts}


def _changed_images(compared: Compared) -> Iterator[tuple[str, int, Picture]]:
    """Tag, step and picture of images that an arm rescues and loses, the one that changes most at the last step."""
    chosen = {
        (arm, kind): positions for arm in _others(compared) for kind, positions in _most_changed(compared, arm).items()
    }
    positions = np.unique(np.concatenate([*chosen.values(), np.empty(0, np.int64)]))
    if not len(positions):
        return
    try:
        pixels = dict(zip(positions.tolist(), _pixels(compared, positions), strict=True))
    except (BlurtrainError, OSError) as error:
        say(f"note: TensorBoard shows no single images, because they cannot be read any more: {error}")
        return
    answers = _answers(compared, views_shown(compared), positions)
    for (arm, kind), members in chosen.items():
        for step, position in enumerate(reversed(members.tolist()), 1):  # the last step is shown first
            place = int(np.searchsorted(positions, position))
            sheet = _described(
                compared,
                arm,
                position,
                {view: {n: int(a[place]) for n, a in by.items()} for view, by in answers.items()},
            )
            yield f"test images {kind}/{arm}", step, drawn(pixels[position], sheet)


def _others(compared: Compared) -> list[str]:
    return compared.counts.others if compared.counts else []


def _most_changed(compared: Compared, arm: str) -> dict[str, Int64[np.ndarray, " images"]]:
    """Places of the rescued and of the lost test images, those that change most first."""
    assert compared.counts is not None
    order = by_content(compared.roster.images.to_pylist())
    return {
        kind: np.array(most_changed(compared.counts, arm, kind, order, MOST), np.int64) for kind in ("rescued", "lost")
    }


def views_shown(compared: Compared) -> list[Blur]:
    """The clean view and at most three heavy ones, evenly spaced."""
    heavy = [view for view, is_heavy in zip(compared.arms.views, compared.arms.heavy, strict=True) if is_heavy]
    places = np.unique(np.linspace(0, len(heavy) - 1, min(SHOWN, len(heavy))).round().astype(int))
    return [CLEAN, *(heavy[place] for place in places)]


def _pixels(compared: Compared, positions: Int64[np.ndarray, " some"]) -> list[UInt8[np.ndarray, "3 side side"]]:
    """Pixels of some test images at the network's size.

    Raises:
        DataError: If one is not there any more, or is another image now.
    """
    run = compared.arms.runs[compared.arms.reference]
    named = list(zip(*compared.roster.rows(positions), strict=True))
    found = []
    for (file, _), pixels in zip(named, read_tested(run, named), strict=True):
        if isinstance(pixels, Unreadable):
            raise DataError(f"{file} {pixels.why}")
        found.append(pixels)
    return found


def _answers(compared: Compared, views: Sequence[Blur], positions: Int64[np.ndarray, " some"]) -> Answers:
    """The class that most of an arm's heads give to each image."""
    answers: dict[Blur, dict[str, Int32[np.ndarray, " images"]]] = {}
    for view in views:
        answers[view] = {}
        for name, run in compared.arms.runs.items():
            labels, predicted, confidence = page_answers.read(run.folder / PREDICTIONS, view.name)
            given, sure = predicted[:, positions], confidence[:, positions]
            answers[view][name] = page_answers.majority(given, sure, given == labels[positions]).answer
    return answers


@dataclass(frozen=True)
class Described:
    """What stands around the pictures of an image.

    Args:
        title: Its class and name.
        shares: How often each arm is right under heavy blur.
        columns: Each view with what each arm says, and whether that is right.
    """

    title: str
    shares: str
    columns: Mapping[Blur, Sequence[tuple[str, bool]]]


def _described(compared: Compared, arm: str, position: int, given: Mapping[Blur, Mapping[str, int]]) -> Described:
    counts, classes = compared.counts, compared.classes
    assert counts is not None
    label = int(counts.labels[position])
    pair = (counts.reference, arm)
    shares = (f"{name} {counts.times_right(name)[position]} of {counts.seen}" for name in pair)
    return Described(
        title=f"class {_cut(classes[label])}   {_cut(compared.roster.rows(np.array([position]))[0][0])}",
        shares=f"right under heavy blur, heads x views: {', '.join(shares)}",
        columns={
            view: [(f"{name}: {classes[by_arm[name]]}", by_arm[name] == label) for name in pair]
            for view, by_arm in given.items()
        },
    )


def drawn(pixels: UInt8[np.ndarray, "3 side side"], described: Described) -> Picture:
    """An image through some views, with the answers below each."""
    pictures = [_sized(blur_pixels(pixels[None], view)[0]) for view in described.columns]
    side, font = pictures[0].width, _font(13)
    height = 3 * LINE + side + 2 * LINE + 2 * GAP
    sheet = Image.new("RGB", (GAP + len(pictures) * (side + GAP), height), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, GAP // 2), described.title, PLAIN, _font(14))
    draw.text((GAP, GAP // 2 + LINE), described.shares, PLAIN, font)
    for place, (picture, (view, answers)) in enumerate(zip(pictures, described.columns.items(), strict=True)):
        left, top = GAP + place * (side + GAP), GAP // 2 + 2 * LINE
        draw.text((left, top), view.name, PLAIN, font)
        sheet.paste(picture, (left, top + LINE))
        for line, (answer, right) in enumerate(answers):
            below = (left, top + LINE + side + 2 + LINE * line)
            draw.text(below, f"{'✓' if right else '✗'} {_fitting(answer, side, font)}", RIGHT if right else WRONG, font)
    return np.asarray(sheet)


def _sized(seen: np.ndarray) -> Image.Image:
    """At a size that can be looked at."""
    picture = Image.fromarray(np.rint(255 * seen.transpose(1, 2, 0)).clip(0, 255).astype(np.uint8))
    if picture.width > SIDES[1]:
        return picture.reduce(-(-picture.width // SIDES[1]))
    times = -(-SIDES[0] // picture.width)
    return picture.resize((times * picture.width, times * picture.height), Image.Resampling.NEAREST)


def _font(size: int) -> ImageFont.FreeTypeFont:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(path, size, layout_engine=ImageFont.Layout.BASIC)


def _cut(name: str) -> str:
    """A name in one line that is not too long; a file's may hold whatever its folder allows."""
    printable = "".join(character if character.isprintable() else "?" for character in name)
    return printable if len(printable) <= WIDEST else f"…{printable[1 - WIDEST :]}"


def _fitting(text: str, side: int, font: ImageFont.FreeTypeFont) -> str:
    """The text without its end where it is too wide for a column."""
    most, text = side - LINE, _cut(text)
    while font.getlength(text) > most:
        text = f"{text[:-2]}…"
    return text
