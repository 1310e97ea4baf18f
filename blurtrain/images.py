"""Images that were decoded once, named by their content, and split.

Every image is named by the SHA-256 of its decoded pixels at full size. Exact duplicates, under other names or
in other formats, therefore share a name, a fold, a group and their features.
"""

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import PIL
from jaxtyping import Int32, Int64, UInt8

from blurtrain.config import DataConfig
from blurtrain.decoding import DECODER_VERSION, Geometry
from blurtrain.errors import DataError
from blurtrain.files import sha256
from blurtrain.progress import progress, say
from blurtrain.sources import Item, Source, open_source
from blurtrain.splits import deal, split
from blurtrain.store import ID, Ids, Table, row_id

SHARD_BYTES = 1 << 25  # an interrupted decoding repeats at most this much
KEYS_AT_ONCE = 4096  # images handed to the threads together: what waits in memory
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
            raise DataError(f"{self.source.items[index].name} {error}") from error


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

    def read_pixels(self, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 height width"]:
        """Pixels of some images at the network's size."""
        return self.pixels.read(positions)

    def group_names(self, positions: Int64[np.ndarray, " n"]) -> list[str]:
        """Statistical units of some images."""
        return [self.group_labels[group] for group in self.groups[positions]]


def check_source(config: DataConfig) -> None:
    """Open a source without reading its images.

    Raises:
        DataError: If folders or classes are missing.
    """
    open_source(config)


def load(config: DataConfig, geometry: Geometry, cache: Path | Literal[False]) -> ImageSet:
    """Decode every image, or find it stored, name it by its content, and split.

    Args:
        config: Of the images.
        geometry: Brings them to the network's size.
        cache: Folder in which decoded pixels are stored, or false: then only names and sizes are kept, and pixels
            are decoded anew whenever they are read.

    Raises:
        DataError: If the source or an image cannot be used; every unreadable image is counted, the first named.
        StoreError: If the store cannot be read or written.
    """
    source = open_source(config)
    pixels: Pixels
    if cache is False:
        ids, sizes = _name_all(source, geometry)
        pixels = DecodedPixels(source, geometry)
    else:
        table, keys = _pixel_table(geometry, cache), _keys(source)
        _decode_missing(source, keys, geometry, table)
        ids = table.read(keys, "content").reshape(len(keys), ID.itemsize).view(ID)[:, 0]
        sizes = table.read(keys, "size")
        pixels = StoredPixels(table, keys)
    _mention_rare_formats(source)
    labels = np.array([item.label for item in source.items], np.int64)
    train, validation, test = split(source.items, ids, labels, config.test_fraction)
    _require_every_class(source, labels, train, test)
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
        native_scale=float(np.median(sizes.min(axis=1)) / geometry.resize),
        pixels=pixels,
    )


def _pixel_table(geometry: Geometry, cache: Path) -> Table:
    key = {
        "kind": "pixels",
        "resize": geometry.resize,
        "crop": geometry.crop,
        "interpolation": geometry.interpolation,
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
    }
    return Table(cache / "pixels" / f"{geometry.crop}-{sha256(repr(key))[:8]}", key)


def _keys(source: Source) -> Ids:
    """What each item is before decoding, read by several threads."""
    keys = np.empty(len(source.items), ID)
    with ThreadPoolExecutor(_threads()) as pool:
        try:
            for chunk in _chunks(np.arange(len(keys)), KEYS_AT_ONCE):
                keys[chunk] = [row_id(key) for key in pool.map(source.key, chunk.tolist())]
            return keys
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read ({error.strerror})") from error


def _threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _decode_missing(source: Source, keys: Ids, geometry: Geometry, table: Table) -> None:
    """Store the pixels of every image that is not stored yet, shard by shard."""
    _, first = np.unique(keys, return_index=True)
    missing = np.sort(first[~table.has(keys[first])])
    for chunk, rows in _decoded(source, missing, geometry):
        pixels, content, size = (np.stack(column) for column in zip(*rows, strict=True))
        table.append(keys[chunk], {"pixels": pixels, "content": content, "size": size})


def _name_all(source: Source, geometry: Geometry) -> tuple[Ids, Int32[np.ndarray, "images 2"]]:
    """Content name and size of every image; the pixels are let go."""
    ids, sizes = np.empty(len(source.items), ID), np.empty((len(source.items), 2), np.int32)
    for chunk, rows in _decoded(source, np.arange(len(ids)), geometry):
        ids[chunk] = [content.tobytes() for _, content, _ in rows]
        sizes[chunk] = [size for _, _, size in rows]
    return ids, sizes


def _decoded(
    source: Source, wanted: Int64[np.ndarray, " images"], geometry: Geometry
) -> Iterator[tuple[Int64[np.ndarray, " rows"], list["_Row"]]]:
    """Decode images by several threads, in pieces that fit in memory.

    Raises:
        DataError: After the last piece, if an image could not be decoded.
    """
    piece = max(1, SHARD_BYTES // (3 * geometry.crop**2))
    bad: list[str] = []
    with (
        warnings.catch_warnings(),
        progress("reading images", len(wanted)) as bar,
        ThreadPoolExecutor(_threads()) as pool,
    ):
        # Too large images are refused by `decode`, and odd ones that still decode are no news to the user.
        warnings.filterwarnings("ignore", module="PIL")
        for chunk in _chunks(wanted, piece):
            rows = []
            try:
                for row in pool.map(lambda index: _row(source, index, geometry), chunk.tolist()):
                    rows.append(row)
                    bar.advance()
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
            bad += [row for row in rows if isinstance(row, str)]
            good = [(index, row) for index, row in zip(chunk, rows, strict=True) if not isinstance(row, str)]
            if good:
                yield np.array([index for index, _ in good]), [row for _, row in good]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0]}{more}: mend or remove it")


_Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # pixels, content id, width and height


def _row(source: Source, index: int, geometry: Geometry) -> _Row | str:
    try:
        image = source.decode(index)
        pixels = geometry.apply(image)
    except (DataError, OSError) as error:
        return f"{source.items[index].name} {error}"
    content = hashlib.sha256(f"{image.width}x{image.height}".encode())
    content.update(image.tobytes())
    name = np.frombuffer(row_id(content.hexdigest()), np.uint8)
    return pixels, name, np.array(image.size, np.int32)


def _chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _mention_rare_formats(source: Source) -> None:
    """A file type that hardly occurs is often no photograph of its class: an error page, an icon."""
    kinds = [Path(item.name).suffix.lower().replace(".jpeg", ".jpg") for item in source.items]
    if not kinds[0]:
        return
    for kind, count in Counter(kinds).items():
        if count < RARE_FORMAT * len(kinds):
            name = source.items[kinds.index(kind)].name
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


def _require_every_class(source: Source, labels: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    for label, name in enumerate(source.classes):
        if not (labels[train] == label).any():
            raise DataError(f"class {name!r} has no training image left that is not also a test image")
    if len(test) == 0:
        raise DataError("the test split has no images")
