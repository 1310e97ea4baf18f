"""Names by content: what is hashed together never runs together."""

import csv
import hashlib
import io
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from blurtrain.files import csv_text, file_sha256, sha256

PARTS = st.lists(st.text("ab", max_size=3), max_size=4)


def test_parts_do_not_run_together() -> None:
    lists = (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""), ("", "abc"), ())
    assert len({sha256(*parts) for parts in lists}) == len(lists)


@given(PARTS, PARTS)
def test_lists_of_parts_are_told_apart(one: list[str], two: list[str]) -> None:
    assert (sha256(*one) == sha256(*two)) == (one == two)


def test_text_is_its_utf_8() -> None:
    assert sha256("größer") == sha256("größer".encode())


def test_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some bytes")
    assert file_sha256(tmp_path / "file") == hashlib.sha256(b"some bytes").hexdigest()


@given(st.lists(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2), min_size=1))
def test_tables_are_read_as_they_were_written(rows: list[list[str]]) -> None:
    assert list(csv.reader(io.StringIO(csv_text(rows), newline=""))) == rows


def test_a_carriage_return_makes_no_row() -> None:
    assert list(csv.reader(io.StringIO(csv_text([["a\rb.jpg", 1]]), newline=""))) == [["a\rb.jpg", "1"]]
