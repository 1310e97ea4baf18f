"""Rows of the store: whole or absent, never stale, never damaged without a word."""

import errno
import os
import threading
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from safetensors import SafetensorError
from safetensors.numpy import load_file

from blurtrain import store
from blurtrain.errors import StoreError
from blurtrain.files import sha256
from blurtrain.store import ID, Ids, Table, remove, row_id, summaries

KEY = {"kind": "test"}


def ids_of(numbers: Sequence[int]) -> Ids:
    return np.array([row_id(sha256(str(number))) for number in numbers], ID)


def values_of(numbers: Sequence[int]) -> np.ndarray:
    """What the rows of a table are here: a function of the row alone, as in real tables."""
    return np.array([[number, number / 7, -number] for number in numbers], np.float32).reshape(-1, 3)


def append(table: Table, numbers: Sequence[int]) -> None:
    table.append(ids_of(numbers), {"values": values_of(numbers), "bytes": np.full((len(numbers), 2, 3), 7, np.uint8)})


def read(table: Table, numbers: Sequence[int]) -> np.ndarray:
    return table.read(ids_of(numbers), "values")


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Table(tmp_path / "table", KEY)


def test_rows_come_back_in_the_order_asked(table: Table) -> None:
    append(table, [5, 3, 9])
    append(table, [1, 8])
    order = [8, 3, 3, 1, 9, 5, 8]
    np.testing.assert_array_equal(read(table, order), values_of(order))
    np.testing.assert_array_equal(read(Table(table.folder, KEY), order), values_of(order))


@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64", "uint32", "float16", "float32", "float64"])
def test_every_type_and_shape_comes_back_as_it_was(table: Table, dtype: str) -> None:
    values = np.random.default_rng(0).integers(0, 100, (4, 2, 3, 5)).astype(dtype)
    table.append(ids_of(range(4)), {"deep": values, "flat": values[:, 0, 0, 0]})
    again = Table(table.folder, KEY)
    for name, expected in (("deep", values), ("flat", values[:, 0, 0, 0])):
        result = again.read(ids_of(range(4)), name)
        assert result.dtype == expected.dtype
        np.testing.assert_array_equal(result, expected)


def test_has_tells_which_rows_are_stored(table: Table) -> None:
    assert table.has(ids_of([1, 2])).tolist() == [False, False]
    append(table, [2, 4])
    assert table.has(ids_of([1, 2, 3, 4, 5])).tolist() == [False, True, False, True, False]
    assert len(table) == 2


def test_missing_rows_are_counted(table: Table) -> None:
    append(table, [1])
    with pytest.raises(KeyError, match=r"2 of 3 rows are not in .*table"):
        read(table, [1, 2, 3])


def test_nothing_is_made_before_the_first_append(table: Table) -> None:
    table.has(ids_of([1]))
    assert not table.folder.exists()


def test_shard_is_a_safetensors_file_that_others_can_read(table: Table) -> None:
    append(table, [1, 2])
    (path,) = shards(table.folder)
    np.testing.assert_array_equal(load_file(path)["values"], values_of([1, 2]))


def test_reading_a_row_does_not_load_the_shard(table: Table) -> None:
    size = 1 << 20  # bytes of a row
    table.append(ids_of(range(8)), {"values": np.zeros((8, size), np.uint8)})
    again = Table(table.folder, KEY)
    tracemalloc.start()
    again.read(ids_of([3]), "values")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_open_tables_hold_no_files_open(table: Table) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(20):
        append(table, [number])
    again = Table(table.folder, KEY)
    read(again, range(20))
    assert len(list(Path("/proc/self/fd").iterdir())) < before + 10


@pytest.mark.parametrize("order", [[3], [2, 3, 4], [4, 2, 3], [0, 9], [9, 8, 7], list(range(10))])
def test_rows_come_in_the_order_asked_for(table: Table, order: list[int]) -> None:
    append(table, range(10))  # as one shard
    np.testing.assert_array_equal(read(table, order), values_of(order))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("when", ["open", "read"])
def test_file_that_cannot_be_opened_is_named_and_kept(
    table: Table, number: int, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, [1])
    (path,) = shards(table.folder)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store._Column, "read", refuse)
    with pytest.raises(StoreError, match=f"{path.name} cannot be read .{os.strerror(number)}.: mend that, or delete"):
        Table(table.folder, KEY) if when == "open" else read(table, [1])
    monkeypatch.undo()
    np.testing.assert_array_equal(read(Table(table.folder, KEY), [1]), values_of([1]))


@pytest.mark.parametrize(
    ("error", "seen"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), StoreError),
        (SafetensorError("Error while serializing: I/O error: No space left on device"), StoreError),
    ],
    ids=["interrupted", "disk full", "disk full as safetensors says it"],
)
def test_shard_that_was_not_finished_is_not_there(
    table: Table, error: BaseException, seen: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    append(table, [1, 2])
    before = sorted(table.folder.iterdir())
    whole = before[0].read_bytes()

    def save_half(_: Any, path: Path) -> None:  # noqa: ANN401 - any mapping of arrays
        Path(path).write_bytes(whole[: len(whole) // 2])
        raise error

    monkeypatch.setattr(store, "save_file", save_half)
    with pytest.raises(seen) as caught:
        append(table, [3, 4])
    if seen is StoreError:
        assert "cannot be written" in str(caught.value)
        assert "No space left on device" in str(caught.value)
        assert "free space or choose another folder" in str(caught.value)
    assert sorted(table.folder.iterdir()) == before
    for known in (table, Table(table.folder, KEY)):
        assert known.has(ids_of([1, 2, 3, 4])).tolist() == [True, True, False, False]
    monkeypatch.undo()
    append(table, [3, 4])
    np.testing.assert_array_equal(read(table, [1, 2, 3, 4]), values_of([1, 2, 3, 4]))


def test_shard_that_another_process_is_writing_is_not_touched(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    append(table, [1])
    (path,) = shards(table.folder)
    unfinished = path.with_name(".partial-abc.safetensors")
    unfinished.write_bytes(path.read_bytes()[:100])
    again = Table(table.folder, KEY)
    assert len(again) == 1
    assert unfinished.exists()
    assert [summary.rows for summary in summaries(table.folder)] == [1]
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot be written"):
        append(Table(tmp_path / "table", KEY), [1])


def test_file_in_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(StoreError, match=r"cache/table/table\.json cannot be written"):
        append(Table(tmp_path / "cache" / "table", KEY), [1])


def test_flipped_bit_is_never_read(table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = [1, 2, 3]
    append(table, numbers)
    (path,) = shards(table.folder)
    whole = path.read_bytes()
    refused = 0
    for place in range(len(whole)):  # header, ids, checksums and rows
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        again = Table(table.folder, KEY)
        if not again.has(ids_of(numbers)).all():
            assert f"{path} is damaged: removed" in capsys.readouterr().err
            assert not path.exists()
            refused += 1
            continue
        message = None
        try:
            np.testing.assert_array_equal(read(again, numbers), values_of(numbers))
        except StoreError as error:
            message = str(error)
        if message is not None:
            assert message.startswith(f"{path} was damaged and has been removed: run the same command again")
            assert not path.exists()
            refused += 1
    rows = values_of(numbers).nbytes + len(numbers) * (ID.itemsize + 4)
    assert refused >= rows  # all of the rows, ids and their checksums, and most of the header


@pytest.mark.parametrize("share", [0, 0.005, 0.3, 0.6, 0.99])
def test_cut_file_is_removed_and_its_rows_are_missing(
    table: Table, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    append(table, [1, 2])
    append(table, [3])
    path = next(path for path in shards(table.folder) if load_file(path)["values"].shape[0] == 2)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    again = Table(table.folder, KEY)
    assert f"{path} is damaged: removed, and its rows are computed again" in capsys.readouterr().err
    assert again.has(ids_of([1, 2, 3])).tolist() == [False, False, True]
    append(again, [1, 2])
    np.testing.assert_array_equal(read(again, [1, 2, 3]), values_of([1, 2, 3]))


def test_damaged_row_does_not_spoil_its_neighbours(table: Table) -> None:
    append(table, [1, 2])
    (path,) = shards(table.folder)
    row = values_of([2]).tobytes()
    path.write_bytes(path.read_bytes().replace(row, b"\x00" * len(row)))
    again = Table(table.folder, KEY)
    np.testing.assert_array_equal(read(again, [1]), values_of([1]))
    with pytest.raises(StoreError, match="was damaged"):
        read(again, [2])


def test_tables_that_write_at_once_lose_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "table"
    failures: list[BaseException] = []

    def write(first: int) -> None:
        try:
            table = Table(folder, KEY)
            for start in range(first, first + 60, 3):
                append(table, range(start, start + 3))
                Table(folder, KEY)  # another process that starts meanwhile
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 60, 30)]  # the last overlaps both
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(read(Table(folder, KEY), range(120)), values_of(range(120)))


class StoreAgainstDict(RuleBasedStateMachine):
    """Any sequence of appends, reads and restarts behaves as a dict does."""

    numbers = st.lists(st.integers(0, 30), min_size=1, max_size=8)

    @initialize()
    def start(self) -> None:
        self.place = TemporaryDirectory()
        self.folder = Path(self.place.name) / "table"
        self.table = Table(self.folder, KEY)
        self.model: dict[int, np.ndarray] = {}

    @rule(numbers=numbers)
    def append(self, numbers: list[int]) -> None:
        distinct = list(dict.fromkeys(numbers))
        append(self.table, distinct)
        self.model |= dict(zip(distinct, values_of(distinct), strict=True))

    @rule(numbers=numbers)
    def read(self, numbers: list[int]) -> None:
        known = [number in self.model for number in numbers]
        assert self.table.has(ids_of(numbers)).tolist() == known
        if all(known):
            np.testing.assert_array_equal(read(self.table, numbers), [self.model[number] for number in numbers])
        else:
            with pytest.raises(KeyError):
                read(self.table, numbers)

    @rule()
    def start_again(self) -> None:
        self.table = Table(self.folder, KEY)

    @invariant()
    def holds_every_row(self) -> None:
        numbers = list(self.model)
        if numbers:
            np.testing.assert_array_equal(read(self.table, numbers), [self.model[number] for number in numbers])

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.cleanup()


StoreAgainstDict.TestCase.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
test_store_behaves_as_a_dict = StoreAgainstDict.TestCase


def test_summaries_list_tables_with_key_rows_and_size(tmp_path: Path) -> None:
    for name, numbers in (("b", [1, 2, 3]), ("a", [4])):
        append(Table(tmp_path / name / "inner", {"name": name}), numbers)
    found = list(summaries(tmp_path))
    assert [(one.folder, one.key, one.rows) for one in found] == [
        (tmp_path / "a" / "inner", {"name": "a"}, 1),
        (tmp_path / "b" / "inner", {"name": "b"}, 3),
    ]
    assert all(one.size == sum(path.stat().st_size for path in shards(one.folder)) for one in found)
    assert all(one.used > 0 for one in found)


def test_opening_a_table_is_noted_for_the_summary(table: Table) -> None:
    append(table, [1])
    os.utime(table.folder / "table.json", (1, 1))
    assert next(summaries(table.folder)).used == 1
    Table(table.folder, KEY)
    assert next(summaries(table.folder)).used > 1


def test_table_in_a_folder_that_may_only_be_read_can_be_used(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    append(table, [1])

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    np.testing.assert_array_equal(read(Table(table.folder, KEY), [1]), values_of([1]))


def test_summaries_of_a_missing_folder_are_none(tmp_path: Path) -> None:
    assert list(summaries(tmp_path / "nowhere")) == []


def test_damaged_shard_counts_no_rows(table: Table) -> None:
    append(table, [1])
    shards(table.folder)[0].write_bytes(b"nothing")
    assert [one.rows for one in summaries(table.folder)] == [0]


def test_description_that_cannot_be_read_is_named(table: Table) -> None:
    append(table, [1])
    (table.folder / "table.json").write_text("{")
    with pytest.raises(StoreError, match=r"table\.json cannot be read: delete .*table$"):
        list(summaries(table.folder))


def test_removed_table_is_gone_and_can_be_filled_again(table: Table) -> None:
    append(table, [1])
    remove(next(summaries(table.folder)))
    assert not table.folder.exists()
    again = Table(table.folder, KEY)
    append(again, [1])
    assert len(again) == 1
