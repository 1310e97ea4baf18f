"""What the test images of a run are called: a table of names beside their ids, in the order of the predictions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int64, Shaped

from blurtrain.errors import RunError
from blurtrain.files import whole_file

TEST_IMAGES = "test-images.parquet"
BLOCK = 65536  # images that are written together

SCHEMA = pa.schema([("extra_test", pa.string()), ("image", pa.string()), ("file", pa.string())])


@dataclass(frozen=True)
class Roster:
    """The test images of a run.

    Args:
        images: Their names by content, as the predictions have them.
        files: What they are called within their source.
    """

    images: pa.Array
    files: pa.Array

    def require(self, images: Shaped[np.ndarray, " images"], folder: Path) -> None:
        """Check that these are the images of the predictions, in their order.

        Raises:
            RunError: If they are others.
        """
        if not self.images.equals(pa.array(images, pa.large_string())):
            raise RunError(f"{folder / TEST_IMAGES} names other images than the predictions: train that run again")

    def rows(self, positions: Int64[np.ndarray, " some"]) -> tuple[list[str], list[str]]:
        """Files and names by content of some images."""
        return self.files.take(positions).to_pylist(), self.images.take(positions).to_pylist()


def by_content(ids: Sequence[str]) -> list[int]:
    """Places sorted by the images' names by content, which are hashes: an order that knows nothing of any answer."""
    return sorted(range(len(ids)), key=lambda place: ids[place])


def write_roster(path: Path, parts: Mapping[str | None, tuple[Shaped[np.ndarray, " images"], Sequence[str]]]) -> None:
    """Write the names of test images, block by block.

    Args:
        path: The parquet file; it appears whole.
        parts: Names by content and files of the test split, called `None`, and of each further test set.

    Raises:
        StoreError: If the file cannot be written.
    """
    with whole_file(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        for name, (ids, files) in parts.items():
            for start in range(0, len(ids), BLOCK):
                block = slice(start, start + BLOCK)
                images = ids[block].astype(str)
                columns = {"extra_test": [name] * len(images), "image": images, "file": files[block]}
                writer.write_table(pa.table(columns, schema=SCHEMA))


def read_roster(path: Path) -> Roster:
    """The names that a run has stored of its test split.

    Raises:
        RunError: If the file cannot be read.
    """
    try:
        table = pq.read_table(path, schema=SCHEMA)
        table = table.filter(table["extra_test"].is_null())
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read: train that run again under another name") from error
    # Arrow's larger kind of text: more than 2 GiB of names may be in one array.
    return Roster(*(table[name].cast(pa.large_string()).combine_chunks() for name in ("image", "file")))
