"""A store of rows keyed by content: decoded pixels and features, computed once and found again.

A table is a folder of shards. A shard is one safetensors file that appears whole or not at all; it holds
the ids of its rows, the rows as named columns, and a checksum per row that is compared on every read.
Which table a row belongs to is decided by everything that its value depends on (`Table.key`), and which row
by the content of the image, so nothing stale can be read: a change of either asks for another row.
In memory there is only the index of the tables in use.
"""

import io
import json
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Int64, Shaped
from safetensors.numpy import save_file

from blurtrain.errors import StoreError
from blurtrain.files import sha256, whole_file, write_json
from blurtrain.progress import say

ID = np.dtype("S32")  # the first 128 bits of a SHA-256 in hexadecimal
Ids = Shaped[np.ndarray, " rows"]

_NUMPY_TYPES = {"U8": "u1", "I32": "<i4", "I64": "<i8", "U32": "<u4", "F16": "<f2", "F32": "<f4", "F64": "<f8"}
_HEADER_LIMIT = 1 << 20  # bytes; our headers are below one kilobyte
_DESCRIPTION = "table.json"
LOCK = ".lock"
_SHARDS = "[!.]*.safetensors"  # a name with a leading dot is a shard that another process is writing


def row_id(digest: str) -> bytes:
    """The id of a row from a hexadecimal SHA-256."""
    return digest[: ID.itemsize].encode()


class _DamagedError(Exception):
    """A shard whose bytes are not what was written."""


@dataclass(frozen=True)
class _Column:
    """Where an array lies in a file."""

    dtype: str
    offset: int
    shape: tuple[int, ...]

    def read(self, file: BinaryIO, rows: Int64[np.ndarray, " n"] | None = None) -> np.ndarray:
        """Some rows, or all; mapped files would count as memory, and cost more than reading a few rows."""
        wanted = np.arange(self.shape[0]) if rows is None else rows
        if not 0 <= wanted.min() <= wanted.max() < self.shape[0]:
            raise _DamagedError
        result = np.empty((len(wanted), *self.shape[1:]), self.dtype)
        step = result.nbytes // len(wanted)
        starts = np.flatnonzero(np.diff(wanted, prepend=-2) != 1)  # of runs of consecutive rows
        for start, stop in zip(starts, [*starts[1:], len(wanted)], strict=True):
            part = result[start:stop]
            file.seek(self.offset + int(wanted[start]) * step)
            if file.readinto(part.data.cast("B")) != part.nbytes:  # type: ignore[attr-defined]
                raise _DamagedError
        return result


class _Shard:
    """One file: ids in memory, columns read when they are asked for.

    The file is open only meanwhile: a process has about a thousand descriptors, and a table perhaps more shards.

    Raises:
        StoreError: If the file cannot be opened; it is left alone, for nothing says that it is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _damage_told_apart(path):
            self._columns = _columns(path)
            with path.open("rb", buffering=0) as file:
                raw, checksum = (self._columns.pop(name).read(file) for name in ("ids", "ids.crc32"))
            self.ids: Ids = raw.reshape(len(raw), ID.itemsize).view(ID)[:, 0]
            if _checksums(raw.reshape(1, -1))[0] != checksum[0]:
                raise _DamagedError

    def read(self, column: str, rows: Int64[np.ndarray, " n"]) -> np.ndarray:
        """A copy of some rows of a column, each compared with its checksum."""
        with _damage_told_apart(self.path):
            with self.path.open("rb", buffering=0) as file:
                values = self._columns[column].read(file, rows)
                expected = self._columns[f"{column}.crc32"].read(file)[rows]
            if not np.array_equal(_checksums(values), expected):
                raise _DamagedError
            return values


@contextmanager
def _damage_told_apart(path: Path) -> Iterator[None]:
    """Whatever wrong bytes provoke becomes `_DamagedError`; a file that cannot be opened is a `StoreError`."""
    try:
        yield
    except FileNotFoundError as error:  # removed meanwhile, by another process that found it damaged
        raise _DamagedError from error
    except OSError as error:
        raise StoreError(f"{path} cannot be read ({error.strerror or error}): mend that, or delete the file") from error
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise _DamagedError from error


def _columns(path: Path) -> dict[str, _Column]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise _DamagedError
        header = json.loads(file.read(length))
        size = file.seek(0, io.SEEK_END)
    header.pop("__metadata__", None)
    if size != 8 + length + max(entry["data_offsets"][1] for entry in header.values()):
        raise _DamagedError
    return {
        name: _Column(_NUMPY_TYPES[entry["dtype"]], 8 + length + entry["data_offsets"][0], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def _checksums(rows: np.ndarray) -> np.ndarray:
    flat = np.ascontiguousarray(rows).reshape(len(rows), -1).view(np.uint8)
    return np.fromiter((zlib.crc32(row.data) for row in flat), np.uint32, len(flat))


class Table:
    """Rows of one kind.

    Args:
        folder: Where its shards lie; made at the first `append`.
        key: Everything that the value of a row depends on besides the image, for people and for `cache`.
    """

    def __init__(self, folder: Path, key: Mapping[str, Any]) -> None:
        self.folder = folder
        self.key = dict(key)
        self._shards: list[_Shard] = []
        with suppress(OSError):  # not there yet, or in a folder that may only be read
            os.utime(folder / _DESCRIPTION)  # when it was last used, for `blurtrain cache`
        self._indexed = -1  # shards that the index knows
        self.refresh()

    @property
    def lock(self) -> Path:
        """Held by the process that adds rows (`blurtrain.locks`); reading needs none."""
        return self.folder / LOCK

    def refresh(self) -> None:
        """Take note of what other processes have stored meanwhile."""
        known = {shard.path for shard in self._shards}
        for path in sorted(self.folder.glob(_SHARDS)):
            if path not in known:
                self._add(path)

    def _add(self, path: Path) -> None:
        try:
            self._shards.append(_Shard(path))
        except _DamagedError:
            path.unlink(missing_ok=True)
            say(f"{path} is damaged: removed, and its rows are computed again")

    def _index(self) -> None:
        """Sort the ids of all shards; put off until somebody asks, so that many appends cost one sort."""
        if self._indexed == len(self._shards):
            return
        ids = [shard.ids for shard in self._shards]
        every = np.concatenate([np.empty(0, ID), *ids])
        order = np.argsort(every, kind="stable")
        self._ids = every[order]
        self._shard_of = np.repeat(np.arange(len(ids), dtype=np.int32), [len(i) for i in ids])[order]
        rows = [np.arange(len(i), dtype=np.int32) for i in ids]
        self._row_of = np.concatenate([np.empty(0, np.int32), *rows])[order]
        self._indexed = len(self._shards)

    def __len__(self) -> int:
        self._index()
        return len(self._ids)

    def has(self, ids: Ids) -> Bool[np.ndarray, " rows"]:
        """Which of these rows are stored."""
        self._index()
        if len(self._ids) == 0:
            return np.zeros(len(ids), bool)
        places = np.searchsorted(self._ids, ids).clip(max=len(self._ids) - 1)
        return np.asarray(self._ids[places] == ids)

    def append(self, ids: Ids, columns: Mapping[str, np.ndarray]) -> None:
        """Store rows as one shard.

        Args:
            ids: Their ids, all different.
            columns: Arrays whose first axis runs over the ids.

        Raises:
            StoreError: If the disk is full or the folder cannot be written.
        """
        if not (self.folder / _DESCRIPTION).exists():
            write_json(self.folder / _DESCRIPTION, self.key)
        raw = np.ascontiguousarray(ids.astype(ID)).view(np.uint8).reshape(len(ids), ID.itemsize)
        tensors = {"ids": raw, "ids.crc32": _checksums(raw.reshape(1, -1))}
        for name, values in columns.items():
            tensors[name] = np.ascontiguousarray(values)
            tensors[f"{name}.crc32"] = _checksums(values)
        path = self.folder / f"{sha256(raw.tobytes())[:16]}.safetensors"
        with whole_file(path) as temporary:
            save_file(tensors, temporary)
        self._add(path)

    def read(self, ids: Ids, column: str) -> np.ndarray:
        """Rows of a column in the order of the ids.

        Raises:
            KeyError: If a row is not stored.
            StoreError: If a stored row is not what was written; its shard is removed.
        """
        if len(ids) == 0 or not self.has(ids).all():
            raise KeyError(f"{(~self.has(ids)).sum()} of {len(ids)} rows are not in {self.folder}")
        places = np.searchsorted(self._ids, ids)
        shards, rows = self._shard_of[places], self._row_of[places]
        result: np.ndarray | None = None
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            values = self._read_shard(self._shards[shard], column, rows[here].astype(np.int64))
            if result is None:
                result = np.empty((len(ids), *values.shape[1:]), values.dtype)
            result[here] = values
        assert result is not None
        return result

    def _read_shard(self, shard: _Shard, column: str, rows: Int64[np.ndarray, " n"]) -> np.ndarray:
        try:
            return shard.read(column, rows)
        except _DamagedError:
            shard.path.unlink(missing_ok=True)
            raise StoreError(
                f"{shard.path} was damaged and has been removed: run the same command again, "
                "which computes its rows anew"
            ) from None


@dataclass(frozen=True)
class TableSummary:
    """What `blurtrain cache` shows of a table."""

    folder: Path
    key: dict[str, Any]
    rows: int
    size: int  # bytes
    used: float  # seconds since the epoch at which it was last opened

    @property
    def lock(self) -> Path:
        """Held by the process that adds rows."""
        return self.folder / LOCK


def summaries(root: Path) -> Iterator[TableSummary]:
    """Every table below a folder, in the order of their paths.

    Raises:
        StoreError: If a table's description cannot be read.
    """
    for description in sorted(root.rglob(_DESCRIPTION)):
        shards = list(description.parent.glob(_SHARDS))
        try:
            key = json.loads(description.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StoreError(f"{description} cannot be read: delete {description.parent}") from error
        yield TableSummary(
            folder=description.parent,
            key=key,
            rows=sum(_row_count(path) for path in shards),
            size=sum(path.stat().st_size for path in shards),
            used=description.stat().st_mtime,
        )


def _row_count(path: Path) -> int:
    try:
        return len(_Shard(path).ids)
    except _DamagedError:
        return 0


def remove(table: TableSummary) -> None:
    """Delete a table; its rows are computed again when they are next needed."""
    shutil.rmtree(table.folder)
