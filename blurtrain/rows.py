"""Feature rows that are passed over many times: in memory where they are few, else in a scratch file."""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from blurtrain.errors import StoreError

KEPT = 1 << 22  # features kept in memory, in float64: 32 MiB


class Rows:
    """Features of many images, read block by block in float64.

    Args:
        blocks: The features in order, a few rows at a time.
        count: How many rows there are in all.
        width: Features of a row.
        folder: Where the scratch file lies, which has no name and ends with `close` or the process.

    Raises:
        StoreError: If the scratch file cannot be written.
    """

    def __init__(self, blocks: Iterable[Float32[np.ndarray, "_ width"]], count: int, width: int, folder: Path) -> None:
        self._count, self.width = count, width
        self._kept: Float64[Tensor, "rows width"] | None = None
        self._file: BinaryIO | None = None
        if count * width <= KEPT:
            self._kept = torch.empty(count, width, dtype=torch.float64)
            start = 0
            for block in blocks:
                self._kept[start : start + len(block)] = torch.from_numpy(block)
                start += len(block)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - as long as these rows live
            for block in blocks:
                self._file.write(np.ascontiguousarray(block, np.float32).data)
        except OSError as error:
            raise StoreError(
                f"{folder} cannot hold a scratch file of {4 * count * width / 1e9:.1f} GB ({error.strerror or error}): "
                "free space or choose another folder, then run the same command again"
            ) from error

    @classmethod
    def of(cls, features: Float[np.ndarray, "rows width"]) -> "Rows":
        """Rows that are in memory anyway."""
        rows = cls((), 0, features.shape[1], Path())
        rows._count = len(features)
        rows._kept = torch.from_numpy(features.astype(np.float64))
        return rows

    def __len__(self) -> int:
        return self._count

    def close(self) -> None:
        """Free the scratch file."""
        if self._file is not None:
            self._file.close()

    def to(self, device: torch.device) -> "Rows":
        """The same rows, on a device where they are kept in memory; how Lightning moves a batch."""
        if self._kept is not None:
            self._kept = self._kept.to(device)
        return self

    def block(self, rows: slice) -> Float64[Tensor, "_ width"]:
        """Some consecutive rows."""
        if self._kept is not None:
            return self._kept[rows]
        assert self._file is not None
        start, stop, _ = rows.indices(self._count)
        buffer = np.empty((stop - start, self.width), np.float32)
        self._file.seek(4 * start * self.width)
        self._file.readinto(buffer.data)  # type: ignore[attr-defined]
        return torch.from_numpy(buffer).double()

    def blocks(self, columns: int, most: int) -> Iterator[slice]:
        """All rows in slices of so many that `most` numbers hold `columns` of each."""
        size = max(1, most // columns)
        return (slice(start, start + size) for start in range(0, self._count, size))
