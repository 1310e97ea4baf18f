"""Where images come from: the embedded set, or folders whose names are the classes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from blurtrain import glyphs
from blurtrain.config import EMBEDDED, DataConfig
from blurtrain.decoding import SUFFIXES, decode
from blurtrain.errors import DataError
from blurtrain.files import file_sha256
from blurtrain.progress import say

SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


@dataclass(frozen=True)
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

    def key(self, index: int) -> str:
        """SHA-256 of what will be decoded: the file's bytes, or a drawing's recipe."""

    def decode(self, index: int) -> Image.Image:
        """The image in RGB at full size."""


class GlyphSource:
    """The embedded set: digits drawn with fonts; a font is a statistical group."""

    classes = tuple("0123456789")

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

    def decode(self, index: int) -> Image.Image:
        """The drawing."""
        return Image.fromarray(glyphs.draw(self._glyphs[index]))


class FolderSource:
    """A folder ROOT/SPLIT/CLASS/* or ROOT/CLASS/*.

    Raises:
        DataError: If a folder is missing, a class is empty, or a class is absent from the training split.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        if not root.is_dir():
            raise DataError(
                f"data.root {str(root)!r} is not a folder: give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, "
                f"or {EMBEDDED!r} for the embedded images"
            )
        self._paths: list[Path] = []
        kinds = {folder: SPLITS.get(folder.name.lower()) for folder in _folders(root)}  # also Train, TEST
        splits: dict[Path, str] = {folder: split for folder, split in kinds.items() if split is not None}
        if not {"train", "test"} & set(splits.values()):
            splits = {}  # a class may well be called `valid`
        elif len(splits) < len(kinds):
            others = ", ".join(folder.name for folder in kinds if folder not in splits)
            say(f"note: {others} beside the split folders of {root} is left out")
        places: dict[Path, str | None] = {**splits} if splits else {root: None}
        found = [
            (split, folder, path)
            for place, split in places.items()
            for folder in _folders(place)
            for path in _image_files(folder)
        ]
        self._require_both_splits(splits, found)
        self.classes = tuple(sorted({folder.name for _, folder, _ in found}))
        if len(self.classes) < 2:
            raise DataError(
                f"{root} has images of {len(self.classes)} class(es), and at least 2 are needed: give "
                "ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS"
            )
        self._require_trained_classes(found)
        label = {name: i for i, name in enumerate(self.classes)}
        self.items = [Item(str(path.relative_to(root)), label[folder.name], split) for split, folder, path in found]
        self._paths = [path for _, _, path in found]

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
        return file_sha256(self._paths[index])

    def decode(self, index: int) -> Image.Image:
        """The image as the network's users see it: first frame, upright, in RGB."""
        return decode(self._paths[index].read_bytes())


def _folders(place: Path) -> list[Path]:
    try:
        return sorted(path for path in place.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror}): mend its permissions") from error


def _image_files(folder: Path) -> list[Path]:
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _is_hidden(path.relative_to(folder))
    )
    if not paths:
        raise DataError(f"class folder {folder} has no images ({', '.join(sorted(SUFFIXES))}): add some, or remove it")
    return paths


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def open_source(config: DataConfig) -> Source:
    """The source that a config names.

    Raises:
        DataError: As `FolderSource`.
    """
    if config.root == EMBEDDED:
        return GlyphSource(config.glyphs.train, config.glyphs.test, config.glyphs.seed)
    return FolderSource(Path(config.root))
