"""Where images come from: the embedded set, or folders whose names are the classes."""

import functools
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from blurtrain import glyphs
from blurtrain.config import EMBEDDED, DataConfig
from blurtrain.decoding import FORMATS, SUFFIXES, decode
from blurtrain.errors import DataError
from blurtrain.files import file_sha256

MOST_BYTES = 2**30  # of a file: 16-bit colour of the most pixels that are decoded, and room to spare
SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


Header = tuple[str, int, int]  # format, width and height


@dataclass(frozen=True, slots=True)  # there may be millions of them
class Item:
    """One image of a source before anything was read: its name, label and, where given, split and group."""

    name: str
    label: int
    split: str | None = None
    group: str | None = None


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


class GlyphSource:
    """The embedded set: digits drawn with fonts; a font is a statistical group."""

    classes = tuple("0123456789")
    notes = ()

    def __init__(self, train: int, test: int, seed: int) -> None:
        self._glyphs = [
            *glyphs.glyphs("digits", "train", train, seed),
            *glyphs.glyphs("digits", "test", test, seed),
        ]
        self.items = [
            Item(
                name=f"{'train' if i < train else 'test'}/{g.character}/{g.font}-{g.seed}",
                label=int(g.character),
                split="train" if i < train else "test",
                group=g.font,
            )
            for i, g in enumerate(self._glyphs)
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


class FolderSource:
    """A folder ROOT/SPLIT/CLASS/* or ROOT/CLASS/*.

    Links to files and folders are followed wherever they lead, but no folder is entered twice within a class. What is
    wrong with a single image shows when it is read.

    Raises:
        DataError: If a folder is missing or cannot be read, a class is empty, or a class is absent from the training
            split.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        if not _is_folder(root):
            raise DataError(
                f"data.root {str(root)!r} is not a folder{_why_not(root)}: "
                f"give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, or {EMBEDDED!r} for the embedded images"
            )
        self._paths: list[Path] = []
        kinds = {folder: SPLITS.get(folder.name.lower()) for folder in _folders(root)}  # also Train, TEST
        splits: dict[Path, str] = {folder: split for folder, split in kinds.items() if split is not None}
        if not {"train", "test"} & set(splits.values()):
            splits = {}  # a class may well be called `valid`
        elif len(splits) < len(kinds):
            others = ", ".join(folder.name for folder in kinds if folder not in splits)
            self.notes.append(f"note: {others} beside the split folders of {root} is left out")
        places: dict[Path, str | None] = {**splits} if splits else {root: None}
        found = [
            (split, folder, path)
            for place, split in places.items()
            for folder in _folders(place)
            for path in self._image_files(folder)
        ]
        self._require_both_splits(splits, found)
        names = sorted({folder.name for _, folder, _ in found})
        self.classes = tuple(map(_text, names))
        if len(self.classes) < 2:
            raise DataError(
                f"{root} has images of {len(self.classes)} class(es), and at least 2 are needed: give "
                "ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS"
            )
        self._require_trained_classes(found)
        label = {name: i for i, name in enumerate(names)}
        self.items = [Item(_text(path.relative_to(root)), label[folder.name], split) for split, folder, path in found]
        self._paths = [path for _, _, path in found]

    def _image_files(self, class_folder: Path) -> list[Path]:
        """Images of a class at any depth."""
        found: list[Path] = []
        waiting, entered = [class_folder], {*_with_parents(class_folder), *_with_parents(class_folder.parent)}
        while waiting:
            folder = waiting.pop()
            for entry in _entries(folder):
                path = folder / entry.name
                if _is_folder(entry):
                    real = Path(os.path.realpath(path))
                    if real in entered:
                        self.notes.append(f"note: {path} leads back to a folder that is read anyway: it is left out")
                    else:
                        waiting.append(path)
                        entered.add(real)
                elif path.suffix.lower() in SUFFIXES:
                    found.append(path)
                elif _leads_nowhere(entry):
                    self.notes.append(f"note: {path} is a link that leads nowhere: it is left out")
        if not found:
            kinds = ", ".join(sorted(SUFFIXES))
            raise DataError(f"class folder {class_folder} has no images ({kinds}): add some, or remove it")
        return sorted(found)

    def _require_both_splits(self, splits: dict[Path, str], found: list[tuple[str | None, Path, Path]]) -> None:
        for needed in ("train", "test") if splits else ():
            if not any(split == needed for split, _, _ in found):
                raise DataError(
                    f"{self.root} has no images in {needed}/CLASS: both train and test are needed, "
                    "or class folders alone, which are then split by content"
                )

    def _require_trained_classes(self, found: list[tuple[str | None, Path, Path]]) -> None:
        trained = {folder.name for split, folder, _ in found if split in ("train", None)}
        for _, folder, _ in found:
            if folder.name not in trained:
                raise DataError(
                    f"class {folder.name!r} in {folder} has no training images: add some, or remove the folder"
                )

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


def why(error: DataError | OSError) -> str:
    """What is wrong with an image, to stand behind its name."""
    return str(error) if isinstance(error, DataError) else f"cannot be read ({error.strerror or error})"


def _folders(place: Path) -> list[Path]:
    """Folders of a place, which are splits or classes: none may be missing without a word."""
    found = []
    for entry in _entries(place):
        path = place / entry.name
        if _is_folder(entry):
            found.append(path)
            if Path(os.path.realpath(path)) in _with_parents(place):
                raise DataError(f"{path} is a link to a folder that it lies in: mend or remove it")
        elif _leads_nowhere(entry) and path.suffix.lower() not in SUFFIXES:
            raise DataError(f"{path} is a link that leads nowhere: mend or remove it")
    return found


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """What a folder holds in the order of the names, hidden things aside."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror}): mend its permissions") from error


def _is_folder(place: "Path | os.DirEntry[str]") -> bool:
    try:
        return place.is_dir()
    except OSError:  # links in a circle, a name that is too long, a place that is not open to everybody
        return False


def _leads_nowhere(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_symlink() and not entry.stat()
    except OSError:
        return True


def _why_not(path: Path) -> str:
    """The reason why a folder is none, where that is not plain."""
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f" ({error.strerror})"
    return ""


def _with_parents(folder: Path) -> list[Path]:
    """A folder and all that it lies in, without links."""
    real = Path(os.path.realpath(folder))
    return [real, *real.parents]


def _text(name: Path | str) -> str:
    """A file's name as text; bytes that are no UTF-8 are written as hexadecimal digits."""
    return os.fsencode(name).decode(errors="backslashreplace")


def open_source(config: DataConfig) -> Source:
    """The source that a config names.

    Raises:
        DataError: As `FolderSource`.
    """
    if config.root == EMBEDDED:
        return GlyphSource(config.glyphs.train, config.glyphs.test, config.glyphs.seed)
    return FolderSource(Path(config.root))
