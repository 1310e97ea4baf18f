"""A labelled grid of images by blurs: what it says, and its picture."""

import math
import warnings
from bisect import bisect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from blurtrain.files import whole_file
from blurtrain.imagenet_c import table_in_words
from blurtrain.kernels import FAMILIES, is_heavy
from blurtrain.nearest_severity import nearest, table
from blurtrain.views import CLEAN, Blur, Drawn, TrainView

WIDTHS = (640, 1400)  # px of the whole: a title's least, and a laptop's window at 100 % zoom
SIDES = (128, 448)  # px of a picture: smaller ones are magnified, larger ones made smaller, by whole factors
DPI = 128  # a power of two: matplotlib divides by it and multiplies again, and must find the same whole pixels
POINTS = 7.0  # of all text: 12 px
GAP, MARGIN, LINE = 6, 14, 17  # px between pictures, around all of them, and from line to line
ELLIPSIS = "…"

Picture = UInt8[np.ndarray, "height width 3"]
Width = Callable[[str], int]  # of a text in px
BOLD: dict[str, Any] = {"weight": "bold"}
GREY: dict[str, Any] = {"color": "0.35"}


@dataclass(frozen=True)
class Row:
    """One image through every view.

    Args:
        group: Its class.
        name: Of its file, without folders.
        size: Width and height of the file's picture in px.
        scale: Of these per pixel of the network's input.
        pictures: As they are shown, one a view.
    """

    group: str
    name: str
    size: tuple[int, int]
    scale: float
    pictures: tuple[Picture, ...]

    @property
    def measure(self) -> str:
        """Its native size and scale in words."""
        scale = "" if self.scale == 1 else f" · 1 network px = {self.scale:.2f} native px"
        return f"{self.size[0]} x {self.size[1]} px{scale}"


@dataclass(frozen=True)
class Sheet:
    """All that is drawn.

    Args:
        title: One line.
        views: Of the columns; the first one is clean.
        copies: Those of them that join the training images.
        rows: The images.
        side: Of the network's input, px.
    """

    title: str
    views: tuple[TrainView, ...]
    copies: tuple[TrainView, ...]
    rows: tuple[Row, ...]
    side: int

    @property
    def summary(self) -> str:
        """What is on it, in words."""
        images, blurs = len(self.rows), len(self.blurs) - 1
        drawn = len(self.views) - len(self.blurs)
        also = f" and {drawn} cop{'ies' if drawn > 1 else 'y'} by albumentations" if drawn else ""
        return f"{images} training image{'s' * (images > 1)}, clean and through {blurs} blur{'s' * (blurs > 1)}{also}"

    @property
    def blurs(self) -> tuple[Blur, ...]:
        """The views that are blurs, the clean one among them."""
        return tuple(view for view in self.views if isinstance(view, Blur))

    @property
    def notes(self) -> list[str]:
        """What stands under the pictures."""
        families = dict.fromkeys(view.family for view in self.blurs if view != CLEAN and not view.severity)
        strengths = ", ".join(f"{name}: {FAMILIES[name].strength}" for name in families)
        resized = any(row.scale != 1 for row in self.rows)
        also = "; below the pictures in px of the image file" if resized else ""
        lines = [f"Strengths in px at network size ({strengths}){also}."] * bool(families)
        if len(self.blurs) > 1:
            signs = "; ≈ most like, < weaker than, > stronger than" * bool(families)
            lines.append(f"Severities: {table_in_words(self.side)}{signs}.")
        if self.copies:
            lines.append("(copy) joins the training images.")
        if any(map(self._is_heavy, self.views)):
            lines.append("* heavy: at least twice as wide as the strongest copy.")
        return lines

    @property
    def table(self) -> str:
        """The blurs in numbers, as text."""
        return table(self.blurs, self.side)

    def likeness(self, view: TrainView) -> str:
        """What stands under the heading of a column: the severity that a blur is most like."""
        return (
            ""
            if view == CLEAN or isinstance(view, Drawn) or view.severity
            else nearest(view, self.side).caption(view.family)
        )

    def heading(self, view: TrainView) -> str:
        """What stands above a column."""
        copy = " (copy)" if view in self.copies else ""
        return f"{view.name}{copy}{' *' * self._is_heavy(view)}"

    def _is_heavy(self, view: TrainView) -> bool:
        blurred = tuple(copy for copy in self.copies if isinstance(copy, Blur))
        return isinstance(view, Blur) and is_heavy(view, blurred, self.side)


def native(view: TrainView, scale: float) -> str:
    """A strength in pixels of the image file; empty where there is nothing to say.

    Args:
        view: Its strength is in pixels of the network's input.
        scale: Native pixels in one of these.
    """
    if isinstance(view, Drawn) or view == CLEAN or view.severity or scale == 1:
        return ""
    strength = f"{view.strength * scale:.1f}"
    return f"= x {strength} native" if FAMILIES[view.family].from_file else f"= {strength} px native"


def draw(path: Path, drawn: Sheet) -> None:
    """Write the picture: every pixel that the network sees is one pixel, or a square of whole pixels.

    Raises:
        StoreError: If the file cannot be written.
    """
    from matplotlib.figure import Figure

    with whole_file(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font")  # a box is drawn, as any program does
        page = _page(drawn, _measure())
        figure = Figure(figsize=(page.across / DPI, page.top / DPI), dpi=DPI)
        figure.figimage(page.canvas())
        for left, top, text, style in page.texts:
            placed = figure.text(left / page.across, 1 - top / page.top, text, fontsize=POINTS, va="top", **style)
            placed.set_parse_math(False)  # a name may hold a dollar sign
        figure.savefig(temporary, format="png")


def _measure() -> Width:
    """How wide a text is drawn."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties

    renderer = FigureCanvasAgg(Figure(dpi=DPI)).get_renderer()  # type: ignore[no-untyped-call]
    bold = FontProperties(size=POINTS, weight="bold")  # the wider one: what fits in it fits
    return lambda text: math.ceil(renderer.get_text_width_height_descent(text, bold, False)[0])


def _page(drawn: Sheet, width: Width) -> "_Page":
    """All images in one band of columns where that is not too wide, else the bands of each image together."""
    side = len(drawn.rows[0].pictures[0])
    most = max(1, (WIDTHS[1] - 2 * MARGIN + GAP) // (side + GAP))
    columns = range(len(drawn.views))
    bands = [band.tolist() for band in np.array_split(columns, -(-len(columns) // most))]
    page = _Page(drawn, side, max(WIDTHS[0], 2 * MARGIN + len(bands[0]) * (side + GAP) - GAP), width)
    page.write_title()
    if len(bands) == 1:
        page.write_headings(bands[0])
    for row in drawn.rows:
        page.write_label(row)
        for band in bands:
            if len(bands) > 1:
                page.write_headings(band)
            page.put(row, band)
        page.top += GAP * len(bands)
    page.write_notes()
    return page


class _Page:
    """Texts and pictures at their places in px, from top to bottom."""

    def __init__(self, drawn: Sheet, side: int, across: int, width: Width) -> None:
        self._drawn, self._side, self._width = drawn, side, width
        self.across, self._inner, self.top = across, across - 2 * MARGIN, MARGIN
        self.texts: list[tuple[int, int, str, dict[str, Any]]] = []
        self._pictures: list[tuple[int, int, Picture]] = []

    def write_title(self) -> None:
        title = shortened(_printable(self._drawn.title), self._inner, self._width)
        self.texts.append((MARGIN, self.top, title, BOLD))
        self.top += 2 * LINE

    def write_headings(self, band: list[int]) -> None:
        for said, style in ((self._drawn.heading, BOLD), (self._drawn.likeness, GREY)):
            columns = [wrapped(said(self._drawn.views[i]), self._side, self._width) for i in band]
            for place, lines in enumerate(columns):
                for i, line in enumerate(lines):
                    self.texts.append((self._left(place), self.top + LINE * i, line, style))
            self.top += LINE * max(map(len, columns))

    def write_label(self, row: Row) -> None:
        self.texts.append((MARGIN, self.top, labelled(row, self._inner, self._width), GREY))
        self.top += LINE

    def put(self, row: Row, band: list[int]) -> None:
        for place, i in enumerate(band):
            left, below = self._left(place), self.top + self._side + 2
            self._pictures.append((left, self.top, row.pictures[i]))
            self.texts.append((left, below, native(self._drawn.views[i], row.scale), GREY))
        self.top += self._side + (LINE if row.scale != 1 else 0) + GAP

    def write_notes(self) -> None:
        for note in self._drawn.notes:
            for line in wrapped(note, self._inner, self._width):
                self.texts.append((MARGIN, self.top, line, GREY))
                self.top += LINE
        self.top += MARGIN

    def canvas(self) -> Picture:
        """The pictures on white."""
        canvas = np.full((self.top, self.across, 3), 255, np.uint8)
        for left, top, picture in self._pictures:
            canvas[top : top + self._side, left : left + self._side] = picture
        return canvas

    def _left(self, place: int) -> int:
        return MARGIN + place * (self._side + GAP)


def labelled(row: Row, most: int, width: Width) -> str:
    """Class, name and size in one line: first the class gives way, then the name."""
    rest = f" · {row.measure}"
    group = shortened(_printable(row.group), most // 4, width)
    return f"{group}{shortened(f' · {_printable(row.name)}', most - width(group + rest), width)}{rest}"


def _printable(name: str) -> str:
    """A file's name may hold whatever its folder allows, such as line breaks."""
    return "".join(character if character.isprintable() else "?" for character in name)


def shortened(text: str, most: int, width: Width) -> str:
    """The text without its middle where it is too long."""
    if width(text) <= most:
        return text

    def cut(kept: int) -> str:
        return f"{text[: kept - kept // 2]}{ELLIPSIS}{text[len(text) - kept // 2 :]}"

    return cut(bisect(range(1, len(text)), most, key=lambda kept: width(cut(kept))))


def wrapped(text: str, most: int, width: Width) -> list[str]:
    """The text in lines that are not too long; a word that is loses its middle."""
    lines: list[str] = []
    for word in text.split():
        if lines and width(f"{lines[-1]} {word}") <= most:
            lines[-1] += f" {word}"
        else:
            lines.append(shortened(word, most, width))
    return lines
