"""Images that were decoded once, named by their content, and split.

Every image is named by the SHA-256 of its decoded pixels at full size. Exact duplicates, under other names or
in other formats, therefore share a name, a fold, a group and their features.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32, Int64, UInt8

from blurtrain.config import DataConfig, OnBadImage
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.opening import open_source
from blurtrain.progress import say
from blurtrain.reading import Bad, contents, decode_missing, keys_of, name_all, pixel_table
from blurtrain.reduction import reduced
from blurtrain.sources import Item, Part, Source, why
from blurtrain.splits import deal, further_tests, split
from blurtrain.store import Ids, Table

# The way on where a bad image is an error.
MEND = "mend or remove it, list the good ones by blurtrain check-data --fix-list, or give --on_bad_image skip"
RARE_FORMAT = 0.02  # a format below this share of the images is worth a look


@runtime_checkable
class Pixels(Protocol):
    """Where the pixels of an image set come from."""

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        """Pixels of some images at the network's size."""


@dataclass(frozen=True)
class StoredPixels:
    """Pixels that were decoded once and stored.

    Args:
        table: Of decoded pixels.
        keys: Its row of each image.
    """

    table: Table
    keys: Ids

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        """Stored pixels of some images."""
        return self.table.read(self.keys[positions], "pixels")


@dataclass(frozen=True)
class DecodedPixels:
    """Pixels that are decoded whenever they are asked for.

    Args:
        source: Of the images.
        geometry: Brings them to the network's size.
    """

    source: Source
    geometry: Geometry

    def read(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        """Freshly decoded pixels of some images.

        Raises:
            DataError: If a file cannot be read any more.
        """
        return np.stack([self._decode(index) for index in positions.tolist()])

    def _decode(self, index: int) -> UInt8[np.ndarray, "3 height width"]:
        try:
            return self.geometry.apply(self.source.decode(index))
        except (DataError, OSError) as error:
            raise DataError(f"{self.source.items[index].name} {why(error)}") from error


@dataclass(frozen=True)
class ImageSet:
    """Images that were split; their pixels are read when they are needed.

    Args:
        classes: Names, in the order of the labels.
        names: Of the images within their source.
        ids: Names by content: rows of the feature tables.
        labels: Class of each image.
        groups: Statistical unit of each image, a place in `group_labels`.
        group_labels: Names of the units: a font, or the content of an image and its exact duplicates.
        train: Positions of the training images.
        validation: Positions of the validation images; empty where folds take their place.
        test: Positions of the test images.
        native_scale: Native pixels per pixel of the network's input, for the median image.
        pixels: Where they come from.
        skipped: Names of images that were left out, each with the reason.
        extra_tests: Positions of the images of further test sets, by name; they are in no split.
    """

    classes: tuple[str, ...]
    names: list[str]
    ids: Ids
    labels: Int64[np.ndarray, " images"]
    groups: Int64[np.ndarray, " images"]
    group_labels: list[str]
    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    test: Int64[np.ndarray, " test"]
    native_scale: float
    pixels: Pixels
    skipped: dict[str, str] = field(default_factory=dict)
    extra_tests: dict[str, Int64[np.ndarray, " _"]] = field(default_factory=dict)

    @property
    def tested(self) -> Int64[np.ndarray, " tested"]:
        """Positions of all images that are tested on: the test split, then the further test sets."""
        return np.concatenate([self.test, *self.extra_tests.values()])

    def read_pixels(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        """Pixels of some images at the network's size."""
        return self.pixels.read(positions)

    def group_names(self, positions: Int64[np.ndarray, " n"]) -> list[str]:
        """Statistical units of some images."""
        return [self.group_labels[group] for group in self.groups[positions]]


def check_source(config: DataConfig, extra_tests: Mapping[str, str] | None = None) -> None:
    """Open a source without reading its images.

    Raises:
        DataError: If folders or classes are missing.
    """
    open_source(config, extra_tests)


def load(
    config: DataConfig,
    geometry: Geometry,
    cache: Path | Literal[False],
    on_bad_image: OnBadImage = "error",
    extra_tests: Mapping[str, str] | None = None,
    *,
    trained: bool = True,
) -> ImageSet:
    """Decode every image, or find it stored, name it by its content, and split.

    Args:
        config: Of the images.
        geometry: Brings them to the network's size.
        cache: Folder in which decoded pixels are stored, or false: then only names and sizes are kept, and pixels
            are decoded anew whenever they are read.
        on_bad_image: Whether an image that cannot be used is an error or is left out.
        extra_tests: Folders of further test sets by name.
        trained: Whether a head is to be trained on them; else all are test images.

    Raises:
        DataError: If the source cannot be used, or an image cannot and is not to be left out; every such image is
            counted, the first named.
        StoreError: If the store cannot be read or written.
    """
    whole = reduced(open_source(config, extra_tests, trained=trained), geometry)
    for note in whole.notes:
        say(note)
    bad: Bad = {}
    pixels: Pixels
    if cache is False:
        ids, sizes = name_all(whole, geometry, bad)
        source = _without(whole, bad, on_bad_image)
        ids, sizes = ids[source.indices], sizes[source.indices]
        pixels = DecodedPixels(source, geometry)
    else:
        table, keys = pixel_table(geometry, cache), keys_of(whole, bad)
        decode_missing(whole, keys, geometry, table, bad)
        source = _without(whole, bad, on_bad_image)
        keys = keys[source.indices]
        ids = contents(table, keys)
        sizes = table.read(keys, "size")
        pixels = StoredPixels(table, keys)
    _mention_rare_formats(source)
    loaded = _image_set(config, geometry, whole, source, bad, ids, sizes, pixels)
    if trained:
        _require_trained_classes(loaded, len(bad))
    return loaded


def _image_set(
    config: DataConfig,
    geometry: Geometry,
    whole: Source,
    source: Part,
    bad: Bad,
    ids: Ids,
    sizes: Int32[np.ndarray, "images 2"],
    pixels: Pixels,
) -> ImageSet:
    """Images whose names by content are known, split."""
    labels = np.array([item.label for item in source.items], np.int64)
    first = sum(item.extra_test is None for item in source.items)  # images: those of further test sets stand behind
    train, validation, test = split(source.items[:first], ids[:first], labels[:first], config.test_fraction)
    if len(test) == 0:
        raise DataError(f"the test split has no images{_besides(len(bad))}")
    extra = further_tests(source.items, ids, labels, np.r_[train, validation])
    _require_extra_images(whole.items, extra)
    group_labels, groups = _groups(source.items, ids)
    return ImageSet(
        classes=source.classes,
        names=[item.name for item in source.items],
        ids=ids,
        labels=labels,
        groups=groups,
        group_labels=group_labels,
        train=train,
        validation=validation,
        test=test,
        native_scale=float(np.median(sizes.min(axis=1)[:first]) / geometry.resize),
        pixels=pixels,
        skipped={whole.items[index].name: bad[index] for index in sorted(bad)},
        extra_tests=extra,
    )


@dataclass(frozen=True)
class Survey:
    """What is known of images before any is decoded.

    Args:
        images: Named by their content where that is known, else by their files; split accordingly. Pixels are decoded
            when they are read.
        unread: Positions of images that are not stored yet.
    """

    images: ImageSet
    unread: Int64[np.ndarray, " unread"]


def survey(
    config: DataConfig,
    geometry: Geometry,
    cache: Path | Literal[False],
    on_bad_image: OnBadImage = "error",
    extra_tests: Mapping[str, str] | None = None,
    *,
    trained: bool = True,
) -> Survey:
    """Look at images without decoding or storing any.

    Raises:
        DataError: If the source cannot be used, or a file cannot be read and is not to be left out.
        StoreError: If the store cannot be read.
    """
    whole = reduced(open_source(config, extra_tests, trained=trained), geometry)
    bad: Bad = {}
    ids = keys_of(whole, bad)
    source = _without(whole, bad, on_bad_image)
    ids = ids[source.indices]
    unread, sizes = np.ones(len(ids), bool), np.full((len(ids), 2), geometry.resize, np.int32)
    if cache is not False:
        table = pixel_table(geometry, cache)
        unread = ~table.has(ids)
        if not unread.all():
            ids[~unread] = contents(table, ids[~unread])
    loaded = _image_set(config, geometry, whole, source, bad, ids, sizes, DecodedPixels(source, geometry))
    if trained:
        _require_trained_classes(loaded, len(bad))
    return Survey(loaded, np.flatnonzero(unread))


def _without(source: Source, bad: Bad, on_bad_image: OnBadImage) -> Part:
    """The images that can be used."""
    good = [index for index in range(len(source.items)) if index not in bad]
    if bad:
        first = min(bad)
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        told = f"{source.items[first].name} {bad[first]}{more}"
        if all(source.items[index].extra_test is not None for index in good):
            raise DataError(f"{told}: no image is left")
        if on_bad_image == "error":
            raise DataError(f"{told}: {MEND}")
        say(f"note: {told}: left out")
    return Part(source, good)


def _mention_rare_formats(source: Source) -> None:
    """A file type that hardly occurs is often no photograph of its class: an error page, an icon."""
    items = [item for item in source.items if item.extra_test is None]
    kinds = [Path(item.name).suffix.lower().replace(".jpeg", ".jpg") for item in items]
    if not kinds[0]:
        return
    for kind, count in Counter(kinds).items():
        if count < RARE_FORMAT * len(kinds):
            name = items[kinds.index(kind)].name
            also = f" and {count - 1} more" if count > 1 else ""
            say(f"note: {name}{also} is {kind} unlike the others; it is used as an image of its class: look at it")


def _groups(items: Sequence[Item], ids: Ids) -> tuple[list[str], Int64[np.ndarray, " images"]]:
    names = [item.group or id_.decode() for item, id_ in zip(items, ids, strict=True)]
    labels, groups = np.unique(names, return_inverse=True)
    return labels.tolist(), groups.astype(np.int64)


def folds(images: ImageSet, count: int) -> Int64[np.ndarray, " train"]:
    """Fold of each training image.

    Raises:
        DataError: If there are fewer units than folds, or a fold's complement lacks a class.
    """
    labels = images.labels[images.train]
    groups = images.groups[images.train]
    if len(np.unique(groups)) < count:
        raise DataError(
            f"there are {len(np.unique(groups))} different training images or groups for head.folds {count}: "
            "give more images or fewer folds"
        )
    fold = deal(images.ids[images.train], labels, groups, count)
    for label, name in enumerate(images.classes):
        where = fold[labels == label]
        if len(np.unique(where)) < 2:
            raise DataError(
                f"class {name!r} has {len(where)} training images, all in one of {count} folds: "
                "each class needs at least 2 different ones"
            )
    return fold


def _require_trained_classes(loaded: ImageSet, bad: int) -> None:
    for label, name in enumerate(loaded.classes):
        if not (loaded.labels[loaded.train] == label).any():
            raise DataError(f"class {name!r} has no training image left that is not also a test image{_besides(bad)}")


def _besides(bad: int) -> str:
    return f" ({bad} bad images are left out)" if bad else ""


def _require_extra_images(items: Sequence[Item], found: Mapping[str, np.ndarray]) -> None:
    """A further test set may lose all of its images: to bad files, or as duplicates."""
    for name in dict.fromkeys(item.extra_test for item in items if item.extra_test is not None):
        if len(found.get(name, ())) == 0:
            raise DataError(f"extra_tests.{name} has no image left that can be read and is not trained on: add some")
