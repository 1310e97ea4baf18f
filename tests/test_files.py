"""Names by content: what is hashed together never runs together."""

import hashlib
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from blurtrain.files import file_sha256, sha256

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
