"""Read and decode the images of a source by several threads, and store their pixels."""

import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Int32, Int64, UInt8
from PIL import Image

from blurtrain.cores import cores
from blurtrain.decoding import DECODER_VERSION, REDUCED, Geometry
from blurtrain.errors import DataError
from blurtrain.files import remove_partial, sha256
from blurtrain.locks import held
from blurtrain.progress import progress, reused
from blurtrain.sources import Source, why
from blurtrain.store import ID, Ids, Table, row_id

SHARD_BYTES = 1 << 23  # an interrupted decoding repeats at most this much
MANY = 2000  # images: fewer are hashed in a moment, which is no step to tell of
KEYS_AT_ONCE = 512  # images handed to the threads together: what waits in memory

Bad = dict[int, str]  # what is wrong with the images that cannot be used, by their index in the source


def pixel_table(geometry: Geometry, cache: Path) -> Table:
    """Where decoded pixels are stored."""
    key = {
        "kind": "pixels",
        "resize": geometry.resize,
        "crop": geometry.crop,
        "interpolation": geometry.interpolation,
        "decoder": DECODER_VERSION,
        "pillow": PIL.__version__,
    }
    return Table(cache / "pixels" / f"{geometry.crop}-{sha256(repr(key))[:8]}", key)


def keys_of(source: Source, bad: Bad) -> Ids:
    """What each item is before decoding, read by several threads; nothing where it is bad."""
    keys = np.zeros(len(source.items), ID)
    with progress("hashing images", len(keys) if len(keys) >= MANY else 0) as bar, ThreadPoolExecutor(cores()) as pool:
        for chunk in chunks(np.arange(len(keys)), KEYS_AT_ONCE):
            for index, key in zip(chunk.tolist(), pool.map(lambda i: _key(source, i), chunk.tolist()), strict=True):
                if isinstance(key, str):
                    bad[index] = key
                else:
                    keys[index] = key
            bar.advance(len(chunk))
    return keys


def _key(source: Source, index: int) -> bytes | str:
    try:
        return row_id(source.key(index))
    except (DataError, OSError) as error:
        return why(error)


def decode_missing(source: Source, keys: Ids, geometry: Geometry, table: Table, bad: Bad) -> None:
    """Store the pixels of every image that is not stored yet, shard by shard."""
    found = np.unique(keys[keys != b""])
    if table.has(found).all():
        reused("reading images", len(found))
        return
    with held(table.lock, "reading the same images"):
        remove_partial(table.folder)
        table.refresh()
        found, first = np.unique(keys, return_index=True)
        missing = np.sort(first[~table.has(found) & (found != b"")])
        for chunk, rows in _decoded(source, missing, geometry, bad, stored=int(table.has(found).sum())):
            pixels, content, size = (np.stack(column) for column in zip(*rows, strict=True))
            table.append(keys[chunk], {"pixels": pixels, "content": content, "size": size})
    for index in [index for index in bad if keys[index]]:
        bad.update(dict.fromkeys(np.flatnonzero(keys == keys[index]).tolist(), bad[index]))  # the same bytes elsewhere


def contents(table: Table, keys: Ids) -> Ids:
    """Names by content of stored images."""
    return table.read(keys, "content").reshape(len(keys), ID.itemsize).view(ID)[:, 0]


def name_all(source: Source, geometry: Geometry, bad: Bad) -> tuple[Ids, Int32[np.ndarray, "images 2"]]:
    """Content name and size of every image; the pixels are let go."""
    ids, sizes = np.empty(len(source.items), ID), np.empty((len(source.items), 2), np.int32)
    for chunk, rows in _decoded(source, np.arange(len(ids)), geometry, bad):
        ids[chunk] = [content.tobytes() for _, content, _ in rows]
        sizes[chunk] = [size for _, _, size in rows]
    return ids, sizes


def _decoded(
    source: Source, wanted: Int64[np.ndarray, " images"], geometry: Geometry, bad: Bad, stored: int = 0
) -> Iterator[tuple[Int64[np.ndarray, " rows"], list["_Row"]]]:
    """Decode images by several threads, in pieces that fit in memory; what is wrong with the others goes into `bad`."""
    piece = max(1, SHARD_BYTES // (3 * geometry.crop**2))
    with (
        warnings.catch_warnings(),
        progress("reading images", len(wanted), stored=stored) as bar,
        ThreadPoolExecutor(cores()) as pool,
    ):
        # Too large images are refused by `decode`, and odd ones that still decode are no news to the user.
        warnings.filterwarnings("ignore", module="PIL")
        for chunk in chunks(wanted, piece):
            rows = []
            try:
                for row in pool.map(lambda index: _row(source, index, geometry), chunk.tolist()):
                    rows.append(row)
                    bar.advance()
            except KeyboardInterrupt:
                pool.shutdown(cancel_futures=True)
                raise
            bad.update({index: row for index, row in zip(chunk.tolist(), rows, strict=True) if isinstance(row, str)})
            good = [(index, row) for index, row in zip(chunk, rows, strict=True) if not isinstance(row, str)]
            if good:
                yield np.array([index for index, _ in good]), [row for _, row in good]


_Row = tuple[np.ndarray, np.ndarray, np.ndarray]  # pixels, content id, width and height


def _row(source: Source, index: int, geometry: Geometry) -> _Row | str:
    try:
        image = source.decode(index)
        pixels = geometry.apply(image)
    except (DataError, OSError) as error:
        return why(error)
    return pixels, np.frombuffer(content_name(image), np.uint8), native_size(image)


def native_size(image: Image.Image) -> Int32[np.ndarray, "2"]:
    """Width and height of what was decoded, in pixels of its file."""
    scale: int = image.info.get(REDUCED, 1)
    return scale * np.array(image.size, np.int32)


def content_name(image: Image.Image) -> bytes:
    """The name by content of a decoded image, which exact duplicates share."""
    scale = image.info.get(REDUCED, 1)
    content = hashlib.sha256(f"{image.width}x{image.height}{f' 1/{scale}' if scale > 1 else ''}".encode())
    content.update(image.tobytes())
    return row_id(content.hexdigest())


def pixels_of(source: Source, index: int, geometry: Geometry) -> tuple[UInt8[np.ndarray, "3 side side"], str] | str:
    """One image at the network's size and its name by content, or what is wrong with it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd images that still decode are no news to the user
        row = _row(source, index, geometry)
    return row if isinstance(row, str) else (row[0], row[1].tobytes().decode())


def chunks(values: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """The values in pieces of at most so many."""
    for start in range(0, len(values), size):
        yield values[start : start + size]
