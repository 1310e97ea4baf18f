"""Data sets of torchvision by their names: which splits they have, and where their images lie."""

import functools
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blurtrain.errors import DataError
from blurtrain.folders import text_of
from blurtrain.listed import Listing, choose
from blurtrain.locks import held
from blurtrain.options import suggest
from blurtrain.progress import say
from blurtrain.roots import TORCHVISION
from blurtrain.sources import File, FileSource

Entry = tuple[Path | int, str]  # an image's file, or its place in the data set's array; and the name of its class
Kept = Callable[[Any], list[Entry]]  # what a data set of torchvision holds, without decoding any image


@dataclass(frozen=True)
class Known:
    """How a data set is made and read.

    Args:
        kept: Its images and classes.
        splits: Arguments that make each split; one of no name is split by content.
        by_path: Whether it takes a loader, which then gives the path in place of an image.
    """

    kept: Kept
    splits: Mapping[str | None, Mapping[str, Any]]
    by_path: bool = False


def _pairs(data: Any) -> list[Entry]:  # noqa: ANN401 - any data set
    return [(Path(path), data.classes[label]) for path, label in (data[row] for row in range(len(data)))]


def _arrays(data: Any) -> list[Entry]:  # noqa: ANN401
    labels = data.targets if hasattr(data, "targets") else data.labels
    names = getattr(data, "classes", range(10))  # SVHN, and STL10 without its file of names
    return [(row, str(names[int(label)])) for row, label in enumerate(labels)]


def _pets(data: Any) -> list[Entry]:  # noqa: ANN401
    return [
        (path, data.classes[label])
        for path, label in zip(data._images, data._labels, strict=True)  # no public ones
    ]


def _signs(data: Any) -> list[Entry]:  # noqa: ANN401
    return [(Path(path), _sign(Path(path), label)) for path, label in data._samples]  # no public ones


def _sign(path: Path, label: int) -> str:
    """Five digits, which training images have as their folder."""
    return path.parent.name if path.parent.name.isdecimal() else f"{label:05d}"


def _caltech(data: Any) -> list[Entry]:  # noqa: ANN401
    names = [data.categories[label] for label in data.y]
    folder = Path(data.root) / "101_ObjectCategories"
    return [(folder / name / f"image_{number:04d}.jpg", name) for name, number in zip(names, data.index, strict=True)]


_HALVES: Mapping[str | None, Mapping[str, Any]] = {"train": {"train": True}, "test": {"train": False}}
_WHOLE: Mapping[str | None, Mapping[str, Any]] = {None: {}}


def _named(**names: str) -> Mapping[str | None, Mapping[str, Any]]:
    return {split: {"split": name} for split, name in names.items()}


_TWO = _named(train="train", test="test")
_THREE = _named(train="train", validation="val", test="test")

SETS = {
    "CIFAR10": Known(_arrays, _HALVES),
    "CIFAR100": Known(_arrays, _HALVES),
    "Caltech101": Known(_caltech, _WHOLE),
    "Country211": Known(_pairs, _named(train="train", validation="valid", test="test"), by_path=True),
    "DTD": Known(_pairs, _THREE, by_path=True),  # partition 1
    "EuroSAT": Known(_pairs, _WHOLE, by_path=True),
    "FGVCAircraft": Known(_pairs, _THREE, by_path=True),  # by variant
    "FashionMNIST": Known(_arrays, _HALVES),
    "Flowers102": Known(_pairs, _THREE, by_path=True),
    "Food101": Known(_pairs, _TWO, by_path=True),
    "GTSRB": Known(_signs, _TWO),
    "MNIST": Known(_arrays, _HALVES),
    "OxfordIIITPet": Known(_pets, _named(train="trainval", test="test")),
    "RenderedSST2": Known(_pairs, _THREE, by_path=True),
    "STL10": Known(_arrays, _TWO),
    "SVHN": Known(_arrays, _TWO),
    "StanfordCars": Known(_pairs, _TWO, by_path=True),
}


class TorchvisionSource(FileSource):
    """A data set of torchvision: its files by blurtrain's own decoder, or its arrays as images without loss.

    Args:
        root: ``torchvision:NAME``.
        folder: What torchvision calls its root.
        download: Whether torchvision may download what is not there.
        trained: Whether a head is to be trained on it.

    Raises:
        DataError: If the name is not known, or the files are not there and cannot be downloaded.
    """

    def __init__(self, root: str, folder: Path, *, download: bool = True, trained: bool = True) -> None:
        super().__init__()
        name = root.removeprefix(TORCHVISION)
        if name not in SETS:
            raise DataError(f"data.root {root!r} is no data set that is known: {suggest(name, list(SETS))}")
        splits = [split for split in SETS[name].splits if trained or split in (None, "test")]
        self._data = {split: _made(name, split, folder, download) for split in splits}
        found = [(split, *entry) for split, data in self._data.items() for entry in SETS[name].kept(data)]
        named = [str(label) for data in self._data.values() for label in getattr(data, "classes", ())]
        listing = Listing(
            [_name(split, place, folder) for split, place, _ in found],
            [label for *_, label in found],
            [split for split, *_ in found],
            list(dict.fromkeys(named)) or None,
        )
        self.classes, self.items, rows = choose(root, listing, trained=trained)
        self._places = [found[row][:2] for row in rows]
        self._paths = [place for _, place in self._places if isinstance(place, Path)]

    def _size(self, index: int) -> int:
        return super()._size(index) if self._paths else 0

    def _open(self, index: int) -> File:
        split, place = self._places[index]
        if isinstance(place, Path):
            return super()._open(index)
        image, _ = self._data[split][place]
        file = io.BytesIO()
        image.save(file, "PPM")  # pixel by pixel
        file.seek(0)
        return file


def _name(split: str | None, place: Path | int, folder: Path) -> str:
    if isinstance(place, int):
        return f"{split}/{place}"
    return text_of(place.relative_to(folder) if place.is_relative_to(folder) else place)


@functools.lru_cache(4)  # a command opens its source several times, and some sets are read whole
def _made(name: str, split: str | None, folder: Path, download: bool) -> Any:  # noqa: ANN401 - any data set
    """A split of a data set, downloaded where it is not there."""
    from torchvision import datasets

    known, root = SETS[name], TORCHVISION + name
    make = functools.partial(getattr(datasets, name), folder, **known.splits[split])
    if known.by_path:
        make = functools.partial(make, loader=Path)  # which decodes nothing
    try:
        return make(download=False)
    except Exception as error:  # torchvision raises many things where a file is not there or not whole
        if not download:
            raise DataError(
                f"{root} is not whole in {folder} ({_reason(error)}), and data.download is false: "
                "set it to true, or mend data.folder"
            ) from error
    with held(folder / ".lock", f"downloading to {folder}"):
        say(f"{root} is not whole in {folder}: torchvision downloads it")
        try:
            return make(download=True)
        except Exception as error:
            raise DataError(
                f"{root} is not whole in {folder} and cannot be downloaded ({_reason(error)}): "
                "put its files there as torchvision lays them out, or mend data.folder"
            ) from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
