"""Files that appear whole or not at all, and what they are made of: seals, hashes, rows as CSV."""

import csv
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from safetensors import SafetensorError

from blurtrain.errors import StoreError

SEAL = "checksum"

PARTIAL = ".partial-"  # how the name of a file that is being written begins


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` when the block ends without an error.

    Raises:
        StoreError: If the folder cannot be written or the disk is full.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=PARTIAL, suffix=path.suffix)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        _flush_to_disk(temporary)
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes files that only their owner reads
        temporary.replace(path)
    except (OSError, SafetensorError) as error:  # the latter is how safetensors reports a full disk
        reason = getattr(error, "strerror", None) or error
        raise StoreError(
            f"{path} cannot be written ({reason}): free space or choose another folder, then run the same command again"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    current = os.umask(0o077)
    os.umask(current)
    return current


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Write indented JSON, whole or not at all; NaN is refused because JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def remove_partial(folder: Path) -> None:
    """Remove what killed processes were writing in a folder and below; only for who alone writes there."""
    for left in list(folder.rglob(f"{PARTIAL}*")):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON with a checksum of its own contents, whole or not at all."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The contents of a file that `write_sealed` has written.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not what was written.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict) or value.pop(SEAL, None) != _seal(value):
        raise ValueError("its checksum is not that of its contents")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    return sha256(json.dumps(value, sort_keys=True))


def sha256(*parts: bytes | str) -> str:
    """Hexadecimal hash of the parts, each preceded by its length so that no two lists run together."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def file_sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's bytes, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@runtime_checkable
class SupportsWrite(Protocol):
    """A file or a stream of text."""

    def write(self, text: str, /) -> object:
        """Take a text."""


def write_csv(file: SupportsWrite, rows: Iterable[Iterable[object]]) -> None:
    """Rows as CSV, one at a time; a row with a carriage return is quoted, which Python before 3.13 forgets."""
    plain = csv.writer(file, lineterminator="\n")
    quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in map(tuple, rows):
        (quoted if any("\r" in str(cell) for cell in row) else plain).writerow(row)


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as CSV; the first one is the head."""
    buffer = io.StringIO()
    write_csv(buffer, rows)
    return buffer.getvalue()
