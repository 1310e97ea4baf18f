"""Feature rows: the same wherever they lie."""

from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch

from blurtrain import rows
from blurtrain.errors import StoreError
from blurtrain.rows import Rows

WIDTH = 5


def features(count: int = 23) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, WIDTH)).astype(np.float32)


def in_blocks(values: np.ndarray, size: int, folder: Path) -> Rows:
    blocks = (values[start : start + size] for start in range(0, len(values), size))
    return Rows(blocks, len(values), values.shape[1], folder)


@pytest.mark.parametrize("kept", [0, 1 << 20], ids=["file", "memory"])
@pytest.mark.parametrize("size", [1, 4, 23, 50])
def test_rows_are_the_same_in_memory_and_in_a_file(
    kept: int, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows, "KEPT", kept)
    values = features()
    found = in_blocks(values, size, tmp_path / "scratch")
    assert (len(found), found.width) == values.shape
    with closing(found):
        for some in (slice(0, 1), slice(3, 9), slice(20, 99), slice(None)):
            block = found.block(some)
            assert block.dtype == torch.float64
            np.testing.assert_array_equal(block.numpy(), values[some])


def test_few_rows_touch_no_disk(tmp_path: Path) -> None:
    in_blocks(features(), 4, tmp_path / "scratch")
    assert list(tmp_path.iterdir()) == []


def test_scratch_file_has_no_name_to_be_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT", 0)
    with closing(in_blocks(features(), 4, tmp_path / "scratch")) as found:
        assert list((tmp_path / "scratch").iterdir()) == []
        np.testing.assert_array_equal(found.block(slice(None)).numpy(), features())


def test_array_is_taken_as_it_is() -> None:
    values = features()
    np.testing.assert_array_equal(Rows.of(values).block(slice(None)).numpy(), values)
    assert Rows.of(values).to(torch.device("cpu")).width == WIDTH


@pytest.mark.parametrize(("columns", "most"), [(3, 30), (7, 7), (100, 7), (1, 1000)])
def test_blocks_cover_all_rows_and_hold_no_more_than_told(columns: int, most: int) -> None:
    found = list(Rows.of(features()).blocks(columns, most))
    covered = [row for some in found for row in range(*some.indices(23))]
    assert covered == list(range(23))
    assert all(some.stop - some.start == max(1, most // columns) for some in found)


def test_folder_that_cannot_hold_the_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "KEPT", 0)
    (tmp_path / "scratch").write_text("a file where a folder should be")
    with pytest.raises(StoreError, match=r"scratch cannot hold a scratch file of 0\.0 GB \(.*\): free space"):
        in_blocks(features(), 4, tmp_path / "scratch")
