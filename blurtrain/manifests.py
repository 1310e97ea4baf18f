"""A spreadsheet of labels: a CSV or parquet file of the columns path, label and perhaps split."""

import csv
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from blurtrain.errors import DataError
from blurtrain.listed import Listing, choose
from blurtrain.sources import SPLITS, File, FileSource

NEEDED = ("path", "label")
SPLIT = "split"
ALLOWED = "give the columns path, label and perhaps split, whose names are told apart by case"
ROWS_AT_ONCE = 8192  # of a parquet file in memory


class Row(NamedTuple):
    """One image of a manifest.

    Args:
        number: Its row, as a spreadsheet counts: the header of a CSV file is the first.
        path: As it is written.
        label: Name of its class.
        split: As it is written; nothing without such a column.
    """

    number: int
    path: str
    label: str
    split: str | None


class ManifestSource(FileSource):
    """Images that a table lists.

    Args:
        table: The file. Relative paths begin at its folder.
        trained: Whether a head is to be trained on them.
        lenient: Whether a class may lack training images.

    Raises:
        DataError: If the table cannot be read, a column is missing, or a row says what it must not.
    """

    def __init__(self, table: Path, *, trained: bool = True, lenient: bool = False) -> None:
        super().__init__()
        self._table = table
        rows = _checked(table)
        names, labels = [row.path for row in rows], [row.label for row in rows]
        splits = [None if row.split is None else SPLITS[row.split.lower()] for row in rows]
        self.classes, self.items, chosen = choose(
            str(table), Listing(names, labels, splits), trained=trained, lenient=lenient
        )
        self._rows = array("q", [rows[place].number for place in chosen])
        self._paths = [table.parent / rows[place].path for place in chosen]

    def _open(self, index: int) -> File:
        try:
            return super()._open(index)
        except FileNotFoundError as error:
            raise DataError(
                f"is no file ({_at(self._table, self._rows[index], 'path')}; paths that are not absolute begin at "
                f"{self._table.parent.absolute()})"
            ) from error


def _at(table: Path, row: int, column: str) -> str:
    return f"row {row} of {table}, column {column}"


def _checked(table: Path) -> list[Row]:
    """All rows of a table, none of which contradicts another one."""
    first: dict[str, Row] = {}
    rows: list[Row] = []
    for row in _parquet_rows(table) if table.suffix.lower() == ".parquet" else _csv_rows(table):
        _require_texts(table, row)
        is_absolute = Path(row.path).is_absolute()
        if rows and is_absolute != Path(rows[0].path).is_absolute():
            kinds = ("an absolute path", "a relative one")
            one, other = kinds if is_absolute else kinds[::-1]
            raise DataError(
                f"{_at(table, row.number, 'path')} has {one}, and row {rows[0].number} {other}: give one kind only"
            )
        # `a//b` and `./a/b` are the same file as `a/b`; `..` may lead elsewhere behind a link.
        before = first.setdefault(str(Path(row.path)), row)
        if before is not row:
            _refuse_repeated(table, before, row)
        rows.append(row)
    if not rows:
        raise DataError(f"{table} lists no images: give rows of path and label")
    return rows


def _require_texts(table: Path, row: Row) -> None:
    for column, text in (*zip(NEEDED, (row.path, row.label), strict=True), (SPLIT, row.split)):
        if text is None:
            continue
        if not text.strip():
            raise DataError(f"{_at(table, row.number, column)} is empty: give a text, or remove the row")
        if column != "path" and text != text.strip():
            raise DataError(f"{_at(table, row.number, column)} has spaces around {text.strip()!r}: remove them")
    if "\0" in row.path:
        raise DataError(f"{_at(table, row.number, 'path')} is {row.path!r}, which no file is called: mend it")
    if row.split is not None and row.split.lower() not in SPLITS:
        raise DataError(f"{_at(table, row.number, SPLIT)} is {row.split!r}: give train, val, validation or test")


def _refuse_repeated(table: Path, before: Row, row: Row) -> None:
    for column, one, other in (("label", before.label, row.label), (SPLIT, before.split, row.split)):
        if one != other:
            raise DataError(
                f"{_at(table, row.number, column)} gives {row.path!r} as {other!r}, and row {before.number} as "
                f"{one!r}: list an image once"
            )
    raise DataError(f"{_at(table, row.number, 'path')} repeats {row.path!r} of row {before.number}: list an image once")


def _csv_rows(table: Path) -> Iterator[Row]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            columns = _columns(table, next(reader, []))
            for cells in reader:
                if not cells:
                    continue  # an empty line
                if len(cells) <= max(columns):
                    raise DataError(
                        f"row {reader.line_num} of {table} has {len(cells)} column(s), fewer than the header needs: "
                        "give all of them"
                    )
                path, label, *split = (cells[column] for column in columns)
                yield Row(reader.line_num, path, label, split[0] if split else None)
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(table, error) from error


def _parquet_rows(table: Path) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with table.open("rb") as opened, parquet.ParquetFile(opened) as file:
            schema = file.schema_arrow
            columns = [schema.names[place] for place in _columns(table, schema.names)]
            for column in columns:
                _require_type(table, column, schema.field(column).type)
            number = 0
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                for cells in zip(*(batch.column(column).to_pylist() for column in columns), strict=True):
                    number += 1
                    path, label, *split = ("" if cell is None else str(cell) for cell in cells)
                    yield Row(number, path, label, split[0] if split else None)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise _unreadable(table, error) from error


def _require_type(table: Path, column: str, kind: object) -> None:
    from pyarrow import types

    held = kind.value_type if types.is_dictionary(kind) else kind  # type: ignore[attr-defined]
    fits = types.is_string(held) or types.is_large_string(held) or types.is_string_view(held)
    if not (fits or (column == "label" and types.is_integer(held))):
        also = " or whole numbers" if column == "label" else ""
        raise DataError(f"column {column} of {table} holds {kind}: give texts{also}")


def _columns(table: Path, header: list[str]) -> list[int]:
    """Places of the columns path, label and, where there is one, split."""
    for name in (*NEEDED, SPLIT):
        if header.count(name) > 1:
            raise DataError(f"{table} has the column {name!r} {header.count(name)} times: {ALLOWED}")
    for name in NEEDED:
        if name not in header:
            has = ", ".join(header) if header else "none"
            commas = " and separate them by commas" if len(header) == 1 and {";", "\t"} & set(header[0]) else ""
            raise DataError(f"{table} has no column {name!r} (it has {has}): {ALLOWED}{commas}")
    return [header.index(name) for name in (*NEEDED, SPLIT) if name in header]


def _unreadable(table: Path, error: Exception) -> DataError:
    reason = getattr(error, "strerror", None) or str(error).splitlines()[0].rstrip(".")
    kind = "a parquet file" if table.suffix.lower() == ".parquet" else "a CSV file in UTF-8"
    return DataError(f"data.root {str(table)!r} cannot be read ({reason}): give {kind} with the columns path and label")
