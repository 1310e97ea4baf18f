"""Where images come from: the embedded set, folders whose names are the classes, and further ones to test on."""

import functools
import stat
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from blurtrain import glyphs
from blurtrain.config import EMBEDDED, DataConfig
from blurtrain.decoding import FORMATS, decode
from blurtrain.errors import DataError
from blurtrain.files import file_sha256, sha256
from blurtrain.folders import folders_in, image_files, is_folder, text_of, why_not
from blurtrain.options import suggest

MOST_BYTES = 2**30  # of a file: 16-bit colour of the most pixels that are decoded, and room to spare
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


Header = tuple[str, int, int]  # format, width and height


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


class FileSource:
    """Images that are files; what is wrong with a single one shows when it is read."""

    classes: tuple[str, ...]
    items: list[Item]

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._paths: list[Path] = []

    def listing(self) -> str:
        """SHA-256 of the files' names and sizes: had in a moment, but blind to a change that keeps both."""
        return sha256(*(f"{item.name} {_size(path)}" for item, path in zip(self.items, self._paths, strict=True)))

    def key(self, index: int) -> str:
        """SHA-256 of the file's bytes."""
        return file_sha256(self._file(index))

    def decode(self, index: int, scale: int = 1) -> Image.Image:
        """The image as the network's users see it: first frame, upright, in RGB."""
        return decode(self._file(index).read_bytes(), scale)

    def header(self, index: int) -> Header | None:
        """Format, width and height; nothing for what is no image, which shows when it is decoded."""
        try:
            with Image.open(self._file(index), formats=FORMATS) as image:
                return str(image.format), image.width, image.height
        except Exception:  # damaged bytes make Pillow raise many things
            return None

    def _file(self, index: int) -> Path:
        """An image's path; whatever would never end when it is read, such as a pipe, is refused."""
        path = self._paths[index]
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise DataError("is no ordinary file")
        if found.st_size > MOST_BYTES:
            raise DataError(f"has {found.st_size:,} bytes, more than {MOST_BYTES:,}")
        return path


class FolderSource(FileSource):
    """A folder ROOT/SPLIT/CLASS/* or ROOT/CLASS/*.

    Links to files and folders are followed wherever they lead, but no folder is entered twice within a class.

    Args:
        root: The folder.
        trained: Whether a head is to be trained on it. Else all images are test images, or of split folders those of
            the test split alone, and one class is enough.

    Raises:
        DataError: If a folder is missing or cannot be read, a class is empty, or a class is absent from the training
            split.
    """

    def __init__(self, root: Path, *, trained: bool = True) -> None:
        super().__init__()
        self.root = root
        if not is_folder(root):
            raise DataError(
                f"data.root {str(root)!r} is not a folder{why_not(root)}: "
                f"give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, or {EMBEDDED!r} for the embedded images"
            )
        kinds = {folder: SPLITS.get(folder.name.lower()) for folder in folders_in(root)}  # also Train, TEST
        splits: dict[Path, str] = {folder: split for folder, split in kinds.items() if split is not None}
        if not {"train", "test"} & set(splits.values()):
            splits = {}  # a class may well be called `valid`
        elif len(splits) < len(kinds):
            others = ", ".join(folder.name for folder in kinds if folder not in splits)
            self.notes.append(f"note: {others} beside the split folders of {root} is left out")
        places: dict[Path, str | None] = {**splits} if splits else {root: None if trained else "test"}
        if not trained:
            places = {place: split for place, split in places.items() if split == "test"}
        found = [
            (split, folder, path)
            for place, split in places.items()
            for folder in folders_in(place)
            for path in image_files(folder, self.notes)
        ]
        if splits:
            self._require_splits(("train", "test") if trained else ("test",), found)
        names = sorted({folder.name for _, folder, _ in found})
        self.classes = tuple(map(text_of, names))
        needed = 2 if trained else 1
        if len(self.classes) < needed:
            raise DataError(
                f"{root} has images of {len(self.classes)} class(es), and at least {needed} are needed: give "
                "ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS"
            )
        if trained:
            self._require_trained_classes(found)
        label = {name: i for i, name in enumerate(names)}
        self.items = [Item(text_of(path.relative_to(root)), label[folder.name], split) for split, folder, path in found]
        self._paths = [path for _, _, path in found]

    def _require_splits(self, wanted: tuple[str, ...], found: list[tuple[str | None, Path, Path]]) -> None:
        for needed in wanted:
            if not any(split == needed for split, _, _ in found):
                both = len(wanted) > 1
                raise DataError(
                    f"{self.root} has no images in {needed}/CLASS: {'both train and test are' if both else 'it is'} "
                    f"needed, or class folders alone{', which are then split by content' if both else ''}"
                )

    def _require_trained_classes(self, found: list[tuple[str | None, Path, Path]]) -> None:
        trained = {folder.name for split, folder, _ in found if split in ("train", None)}
        for _, folder, _ in found:
            if folder.name not in trained:
                raise DataError(
                    f"class {folder.name!r} in {folder} has no training images: add some, or remove the folder"
                )


class ExtraSource(FileSource):
    """A folder FOLDER/CLASS/* of photographs that are tested on, and used for nothing else.

    Args:
        name: What the config calls it.
        root: The folder.
        classes: That are trained on, in the order of the labels.

    Raises:
        DataError: If the folder is missing or cannot be read, has no images, or has a class that is not trained on.
    """

    def __init__(self, name: str, root: Path, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        allowed = "give FOLDER/CLASS with images of classes that are trained on"
        if not is_folder(root):
            raise DataError(f"extra_tests.{name} {str(root)!r} is not a folder{why_not(root)}: {allowed}")
        folders = folders_in(root)
        if not folders:
            raise DataError(f"extra_tests.{name} {str(root)!r} has no class folders: {allowed}")
        for folder in folders:
            if text_of(folder.name) not in classes:
                near = suggest(text_of(folder.name), list(classes))
                raise DataError(f"{folder} is named after no class that is trained on: {near}")
        label = {known: i for i, known in enumerate(classes)}
        found = [(folder, path) for folder in folders for path in image_files(folder, self.notes)]
        self.items = [
            Item(f"{name}/{text_of(path.relative_to(root))}", label[text_of(folder.name)], extra_test=name)
            for folder, path in found
        ]
        self._paths = [path for _, path in found]


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


def _size(path: Path) -> int:
    """Bytes of a file; none where it cannot be asked."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def why(error: DataError | OSError) -> str:
    """What is wrong with an image, to stand behind its name."""
    return str(error) if isinstance(error, DataError) else f"cannot be read ({error.strerror or error})"


def open_source(config: DataConfig, extra_tests: Mapping[str, str] | None = None, *, trained: bool = True) -> Source:
    """The source that a config names, with further folders to test on behind it.

    Args:
        config: Of the images.
        extra_tests: Folders of further test sets by name.
        trained: Whether a head is to be trained on it; else it holds test images alone, and the embedded ones are
            letters, which the embedded network knows already.

    Raises:
        DataError: As `FolderSource` and `ExtraSource`.
    """
    source: Source
    if config.root != EMBEDDED:
        source = FolderSource(Path(config.root), trained=trained)
    elif trained:
        source = GlyphSource(config.glyphs.train, config.glyphs.test, config.glyphs.seed)
    else:
        source = LetterSource(config.glyphs.test, config.glyphs.seed)
    further = [ExtraSource(name, Path(folder), source.classes) for name, folder in (extra_tests or {}).items()]
    return Joined((source, *further)) if further else source
