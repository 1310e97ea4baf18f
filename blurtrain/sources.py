"""Where images come from: what every source says of its images, the embedded sets, and images in files."""

import functools
import hashlib
import io
import stat
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from blurtrain import glyphs
from blurtrain.decoding import FORMATS, decode, traits
from blurtrain.errors import DataError
from blurtrain.files import sha256

MOST_BYTES = 2**30  # of a file: 16-bit colour of the most pixels that are decoded, and room to spare
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


Header = tuple[str, int, int]  # format, width and height
Traits = tuple[str, tuple[str, ...]]  # format, and which of `decoding.KINDS` it is
File = io.BufferedReader | io.BytesIO  # what an image's bytes are read from


@dataclass(frozen=True, slots=True)  # there may be millions of them
class Item:
    """One image of a source before anything was read.

    Args:
        name: Within its source.
        label: Place of its class.
        split: Where it is given.
        group: Statistical unit, where it is given.
        extra_test: The further test set that it belongs to, and then to nothing else.
    """

    name: str
    label: int
    split: str | None = None
    group: str | None = None
    extra_test: str | None = None


@runtime_checkable
class Source(Protocol):
    """Where images come from."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""

    @property
    def items(self) -> Sequence[Item]:
        """The images, before anything was read."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know of how they were found."""

    def key(self, index: int) -> str:
        """SHA-256 of what will be decoded: the file's bytes, or a drawing's recipe."""

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image in RGB, a JPEG perhaps at a part of its size."""

    def header(self, index: int) -> Header | None:
        """What a file says of itself before it is decoded; nothing where it says nothing."""

    def traits(self, index: int) -> Traits | None:
        """What else it says; nothing where it says nothing."""


class DrawnSource:
    """Drawings of characters; a font is a statistical group.

    Args:
        classes: The characters in the order of their labels.
        splits: Recipes by the split that they belong to.
    """

    notes = ()

    def __init__(self, classes: str, splits: Mapping[str, Sequence[glyphs.Glyph]]) -> None:
        self.classes = tuple(classes)
        self._glyphs = [glyph for drawn in splits.values() for glyph in drawn]
        self.items = [
            Item(
                name=f"{split}/{glyph.character}/{glyph.font}-{glyph.seed}",
                label=classes.index(glyph.character),
                split=split,
                group=glyph.font,
            )
            for split, drawn in splits.items()
            for glyph in drawn
        ]

    def key(self, index: int) -> str:
        """SHA-256 of the recipe and of everything that draws it."""
        return glyphs.recipe_key(self._glyphs[index])

    def decode(self, index: int, scale: int = 1) -> Image.Image:  # noqa: ARG002 - a drawing has one size
        """The drawing."""
        return Image.fromarray(glyphs.draw(self._glyphs[index]))

    def header(self, index: int) -> Header | None:  # noqa: ARG002 - it is no file
        """Nothing."""
        return None

    def traits(self, index: int) -> Traits | None:  # noqa: ARG002
        """Nothing."""
        return None


class GlyphSource(DrawnSource):
    """The embedded set: digits, the test split in fonts of its own."""

    def __init__(self, train: int, test: int, seed: int) -> None:
        super().__init__(
            glyphs.DIGITS,
            {
                "train": glyphs.glyphs("digits", "train", train, seed),
                "test": glyphs.glyphs("digits", "test", test, seed),
            },
        )


class LetterSource(DrawnSource):
    """What the embedded network was pre-trained on: fresh letters in the fonts that it has seen."""

    def __init__(self, test: int, seed: int) -> None:
        super().__init__(glyphs.LETTERS, {"test": glyphs.glyphs("letters", "validation", test, seed)})


@dataclass(frozen=True)
class Part:
    """Some images of a source.

    Args:
        whole: The source.
        indices: Of its images, in its order.
    """

    whole: Source
    indices: Sequence[int]

    @property
    def classes(self) -> tuple[str, ...]:
        """All classes, also those of which no image is left."""
        return self.whole.classes

    @functools.cached_property
    def items(self) -> Sequence[Item]:
        """The images that are left."""
        return [self.whole.items[index] for index in self.indices]

    @property
    def notes(self) -> Sequence[str]:
        """Those of the whole."""
        return self.whole.notes

    def key(self, index: int) -> str:
        """What the whole has for it."""
        return self.whole.key(self.indices[index])

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image in RGB, a JPEG perhaps at a part of its size."""
        return self.whole.decode(self.indices[index], scale)

    def header(self, index: int) -> Header | None:
        """What the whole has for it."""
        return self.whole.header(self.indices[index])

    def traits(self, index: int) -> Traits | None:
        """What the whole has for it."""
        return self.whole.traits(self.indices[index])


class StoredSource(ABC):
    """Images that lie in files; what is wrong with a single one shows when it is read."""

    classes: tuple[str, ...]
    items: list[Item]

    def __init__(self) -> None:
        self.notes: list[str] = []

    @abstractmethod
    def _open(self, index: int) -> File:
        """An image file's bytes, to be read once from their beginning."""

    @abstractmethod
    def _size(self, index: int) -> int:
        """How many bytes there are, had in a moment; none where they cannot be asked for."""

    def listing(self) -> str:
        """SHA-256 of the images' names and sizes: had in a moment, but blind to a change that keeps both."""
        return sha256(*(f"{item.name} {self._size(index)}" for index, item in enumerate(self.items)))

    def key(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        with self._open(index) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image as the network's users see it: first frame, upright, in RGB."""
        with self._open(index) as file:
            return decode(file.read(), scale)

    def header(self, index: int) -> Header | None:
        """Format, width and height; nothing for what is no image, which shows when it is decoded."""
        try:
            with self._open(index) as file, Image.open(file, formats=FORMATS) as image:
                return str(image.format), image.width, image.height
        except Exception:  # damaged bytes make Pillow raise many things
            return None

    def traits(self, index: int) -> Traits | None:
        """Format and kinds; nothing for what is no image, which shows when it is decoded."""
        try:
            with self._open(index) as file, Image.open(file, formats=FORMATS) as image:
                return traits(image)
        except Exception:  # as above
            return None


class FileSource(StoredSource):
    """Images that are files of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._paths: Sequence[Path] = []

    @property
    def paths(self) -> Sequence[Path]:
        """Of all images; none where they are held in memory."""
        return self._paths

    def _size(self, index: int) -> int:
        try:
            return self._paths[index].stat().st_size
        except OSError:
            return 0

    def _open(self, index: int) -> File:
        """The file; whatever would never end when it is read, such as a pipe, is refused."""
        path = self._paths[index]
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError("is no ordinary file")
        require_readable(found.st_size)
        return path.open("rb")


def require_readable(size: int) -> None:
    """Refuse a file that no image fills.

    Raises:
        DataError: If it has too many bytes.
    """
    if size > MOST_BYTES:
        raise DataError(f"has {size:,} bytes, more than {MOST_BYTES:,}")


def listing(source: Source) -> str:
    """What tells a source from a changed one in a moment; nothing where all is drawn."""
    return source.listing() if isinstance(source, StoredSource) else ""


@dataclass(frozen=True)
class Joined:
    """Several sources in a row, of the same classes.

    Args:
        parts: The first one is trained on.
    """

    parts: tuple[Source, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names in the order of the labels."""
        return self.parts[0].classes

    @functools.cached_property
    def items(self) -> Sequence[Item]:
        """The images of all parts."""
        return [item for part in self.parts for item in part.items]

    @property
    def notes(self) -> Sequence[str]:
        """Those of all parts."""
        return [note for part in self.parts for note in part.notes]

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [sum(len(part.items) for part in self.parts[:number]) for number in range(len(self.parts))]

    def _at(self, index: int) -> tuple[Source, int]:
        number = bisect(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def key(self, index: int) -> str:
        """What its part has for it."""
        part, place = self._at(index)
        return part.key(place)

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image in RGB, a JPEG perhaps at a part of its size."""
        part, place = self._at(index)
        return part.decode(place, scale)

    def header(self, index: int) -> Header | None:
        """What its part has for it."""
        part, place = self._at(index)
        return part.header(place)

    def traits(self, index: int) -> Traits | None:
        """What its part has for it."""
        part, place = self._at(index)
        return part.traits(place)


def why(error: DataError | OSError) -> str:
    """What is wrong with an image, to stand behind its name."""
    return str(error) if isinstance(error, DataError) else f"cannot be read ({error.strerror or error})"
