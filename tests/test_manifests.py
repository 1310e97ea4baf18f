"""A spreadsheet of labels as a source: the same images as from folders, and every mistake in one sentence."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from blurtrain.config import Config, DataConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.images import MEND, load
from blurtrain.manifests import ManifestSource
from blurtrain.opening import open_source
from blurtrain.sources import Item, StoredSource
from tests.alike import entries_of, require_same

GEOMETRY = Geometry(24, 20)
Rows = Sequence[Sequence[object]]


def write_csv(path: Path, rows: Rows, encoding: str = "utf-8") -> Path:
    with path.open("w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def write_parquet(path: Path, rows: Rows) -> Path:
    header, *body = rows
    parquet.write_table(pa.table(dict(zip(map(str, header), zip(*body, strict=True), strict=True))), path)
    return path


def write(path: Path, rows: Rows) -> Path:
    return (write_parquet if path.suffix == ".parquet" else write_csv)(path, rows)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("absolute", [False, True])
def test_split_folders_and_their_list_are_the_same_images(photo_folder: Path, suffix: str, absolute: bool) -> None:
    rows = [(path if absolute else path.relative_to(photo_folder), *rest) for path, *rest in entries_of(photo_folder)]
    table = write(
        photo_folder / f"labels{suffix}", [("path", "label", "split"), *((str(path), *rest) for path, *rest in rows)]
    )
    require_same(DataConfig(root=str(photo_folder)), DataConfig(root=str(table)))


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_class_folders_and_their_list_are_split_alike(class_folder: Path, suffix: str) -> None:
    rows = [(str(path.relative_to(class_folder)), label) for path, label, _ in reversed(entries_of(class_folder))]
    table = write(class_folder / f"labels{suffix}", [("path", "label"), *rows])
    require_same(DataConfig(root=str(class_folder)), DataConfig(root=str(table)))
    larger = load(DataConfig(root=str(table), test_fraction=0.5), GEOMETRY, cache=False)
    assert len(larger.test) == 18


def simple(tmp_path: Path, *rows: Sequence[object], header: Sequence[str] = ("path", "label")) -> ManifestSource:
    return ManifestSource(write_csv(tmp_path / "t.csv", [header, *rows]))


def test_other_columns_and_their_order_do_not_matter(tmp_path: Path) -> None:
    source = simple(
        tmp_path, ("x", "cat", 3, "a.jpg"), ("y", "ant", 4, "b.png"), header=["note", "label", "age", "path"]
    )
    assert source.classes == ("ant", "cat")
    assert source.items == [Item("a.jpg", 1), Item("b.png", 0)]


def test_mark_of_a_spreadsheet_programme_and_empty_lines_are_passed_over(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(b'\xef\xbb\xbfpath,label\r\na.jpg,1\r\n\r\nb.jpg,"caf\xc3\xa9, grand"\r\n\r\n')
    assert ManifestSource(table).classes == ("1", "café, grand")


def test_classes_are_sorted_as_text_as_folders_are(tmp_path: Path) -> None:
    rows = [("a.jpg", 10), ("b.jpg", 9), ("c.jpg", 100)]
    assert simple(tmp_path, *rows).classes == ("10", "100", "9")
    assert ManifestSource(write_parquet(tmp_path / "t.parquet", [("path", "label"), *rows])).classes == (
        "10",
        "100",
        "9",
    )


@pytest.mark.parametrize("word", ["val", "valid", "validation", "Val"])
def test_validation_has_several_names(tmp_path: Path, word: str) -> None:
    rows = [(f"{split}{kind}.jpg", kind, split) for split in ("train", word, "test") for kind in "ab"]
    source = simple(tmp_path, *rows, header=["path", "label", "split"])
    assert [item.split for item in source.items] == ["train"] * 2 + ["validation"] * 2 + ["test"] * 2


def test_categories_of_pandas_are_texts(tmp_path: Path) -> None:
    labels = pa.array(["b", "a", "b"]).dictionary_encode()
    parquet.write_table(pa.table({"path": ["1.jpg", "2.jpg", "3.jpg"], "label": labels}), tmp_path / "t.parquet")
    assert [item.label for item in ManifestSource(tmp_path / "t.parquet").items] == [1, 0, 1]


def test_a_network_that_is_not_trained_sees_test_images_alone(tmp_path: Path) -> None:
    rows = [("a.jpg", "a", "train"), ("b.jpg", "b", "test"), ("c.jpg", "b", "val")]
    table = write_csv(tmp_path / "t.csv", [("path", "label", "split"), *rows])
    assert ManifestSource(table, trained=False).items == [Item("b.jpg", 0, "test")]
    table = write_csv(tmp_path / "u.csv", [("path", "label"), *(row[:2] for row in rows)])
    assert {item.split for item in ManifestSource(table, trained=False).items} == {"test"}


def test_what_is_listed_shows_in_the_listing(photo_folder: Path) -> None:
    rows = [(str(path), label) for path, label, _ in entries_of(photo_folder)]
    table = write_csv(photo_folder / "t.csv", [("path", "label"), *rows])
    source = open_source(DataConfig(root=str(table)))
    assert isinstance(source, StoredSource)
    before = source.listing()
    assert before == ManifestSource(table).listing()
    Path(rows[0][0]).write_bytes(b"shorter")
    assert source.listing() != before


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_file_that_is_missing_is_told_with_its_row_and_can_be_skipped(photo_folder: Path, suffix: str) -> None:
    rows = [(str(path.relative_to(photo_folder)), *rest) for path, *rest in entries_of(photo_folder)]
    table = write(photo_folder / f"t{suffix}", [("path", "label", "split"), *rows])
    (photo_folder / rows[4][0]).unlink()
    row = 5 if suffix == ".parquet" else 6  # the header is a row of the one and not of the other
    with pytest.raises(DataError) as caught:
        load(DataConfig(root=str(table)), GEOMETRY, cache=False)
    assert str(caught.value) == (
        f"{rows[4][0]} is no file (row {row} of {table}, column path; paths that are not absolute begin at "
        f"{photo_folder}): {MEND}"
    )
    found = load(DataConfig(root=str(table)), GEOMETRY, cache=False, on_bad_image="skip")
    assert list(found.skipped) == [rows[4][0]]
    whole = load(DataConfig(root=str(photo_folder)), GEOMETRY, cache=False)  # the file is not there either
    assert set(found.ids) == set(whole.ids)


@pytest.mark.parametrize("stored", [True, False])
def test_a_table_whose_paths_all_lead_nowhere_says_where_they_begin(
    photo_folder: Path, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    paths = [(str(path.relative_to(photo_folder)), *rest) for path, *rest in entries_of(photo_folder)]
    (photo_folder.parent / "lists").mkdir()
    table = write_csv(photo_folder.parent / "lists" / "t.csv", [("path", "label", "split"), *paths])
    monkeypatch.chdir(table.parent)
    for on_bad_image in ("error", "skip"):
        with pytest.raises(DataError) as caught:
            load(DataConfig(root="t.csv"), GEOMETRY, Path("cache") if stored else False, on_bad_image)
        assert str(caught.value) == (
            f"{paths[0][0]} is no file (row 2 of t.csv, column path; paths that are not absolute begin at "
            f"{table.parent}) (and {len(paths) - 1} more): no image is left"
        )


HEAD, SPLIT_HEAD = ("path", "label"), ("path", "label", "split")
A, B = ("a.jpg", "a"), ("b.jpg", "b")
REFUSED: dict[str, tuple[Rows, str]] = {
    "no label": (
        [("path", "Label"), A],
        "{t} has no column 'label' (it has path, Label): give the columns path, label and perhaps split, "
        "whose names are told apart by case",
    ),
    "semicolons": (
        [("path;label",), ("a.jpg;a",)],
        "{t} has no column 'path' (it has path;label): give the columns path, label and perhaps split, whose names "
        "are told apart by case and separate them by commas",
    ),
    "nothing": (
        [],
        "{t} has no column 'path' (it has none): give the columns path, label and perhaps split, whose names are "
        "told apart by case",
    ),
    "two labels": (
        [("path", "label", "label"), ("a.jpg", "a", "b")],
        "{t} has the column 'label' 2 times: give the columns path, label and perhaps split, whose names are told "
        "apart by case",
    ),
    "no rows": ([HEAD], "{t} lists no images: give rows of path and label"),
    "short row": (
        [HEAD, A, ("b.jpg",)],
        "row 3 of {t} has 1 column(s), fewer than the header needs: give all of them",
    ),
    "empty label": (
        [HEAD, A, ("b.jpg", "")],
        "row 3 of {t}, column label is empty: give a text, or remove the row",
    ),
    "empty path": ([HEAD, (" ", "a")], "row 2 of {t}, column path is empty: give a text, or remove the row"),
    "empty split": (
        [SPLIT_HEAD, (*A, "train"), (*B, "")],
        "row 3 of {t}, column split is empty: give a text, or remove the row",
    ),
    "space": ([HEAD, ("a.jpg", " a")], "row 2 of {t}, column label has spaces around 'a': remove them"),
    "zero byte": ([HEAD, ("a\0.jpg", "a")], "row 2 of {t}, column path is 'a\\x00.jpg', which no file is called: mend"),
    "unknown split": (
        [SPLIT_HEAD, (*A, "train"), (*B, "holdout")],
        "row 3 of {t}, column split is 'holdout': give train, val, validation or test",
    ),
    "same row": ([HEAD, A, B, A], "row 4 of {t}, column path repeats 'a.jpg' of row 2: list an image once"),
    "same file": (
        [HEAD, A, B, ("./a.jpg", "a")],
        "row 4 of {t}, column path repeats './a.jpg' of row 2: list an image once",
    ),
    "two classes of one": (
        [HEAD, A, ("a.jpg", "b")],
        "row 3 of {t}, column label gives 'a.jpg' as 'b', and row 2 as 'a': list an image once",
    ),
    "two splits of one": (
        [SPLIT_HEAD, (*A, "train"), (*A, "test")],
        "row 3 of {t}, column split gives 'a.jpg' as 'test', and row 2 as 'train': list an image once",
    ),
    "two kinds of path": (
        [HEAD, A, B, ("/c.jpg", "a")],
        "row 4 of {t}, column path has an absolute path, and row 2 a relative one: give one kind only",
    ),
    "no test split": (
        [SPLIT_HEAD, (*A, "train"), (*B, "val")],
        "{t} has no images of the split 'test' (it has train, validation): both train and test are needed, or no "
        "splits at all, which are then made by content",
    ),
    "one class": ([HEAD, A, ("b.jpg", "a")], "{t} has images of 1 class(es), and at least 2 are needed: list more"),
    "class without training": (
        [SPLIT_HEAD, (*A, "train"), (*B, "train"), ("c.jpg", "c", "test")],
        "class 'c' of c.jpg in {t} has no training images: add some, or remove it",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_table_that_cannot_be_used_is_refused_in_words(tmp_path: Path, case: str) -> None:
    rows, sentence = REFUSED[case]
    table = write_csv(tmp_path / "t.csv", rows)
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=str(table)))
    assert str(caught.value).startswith(sentence.format(t=table))


COLUMNS = {
    "path": ([1, 2], ["a", "b"], "column path of {t} holds int64: give texts"),
    "label": (["a", "b"], [1.5, 2.5], "column label of {t} holds double: give texts or whole numbers"),
    "nested": (["a", "b"], [["a"], ["b"]], "column label of {t} holds list<element: string>: give texts or whole"),
    "missing": (["a", "b"], ["a", None], "row 2 of {t}, column label is empty: give a text, or remove the row"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_of_other_kinds_are_refused_in_words(tmp_path: Path, case: str) -> None:
    paths, labels, sentence = COLUMNS[case]
    table = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"path": paths, "label": labels}), table)
    with pytest.raises(DataError) as caught:
        ManifestSource(table)
    assert str(caught.value).startswith(sentence.format(t=table))


BROKEN = {
    "latin.csv": (b"path,label\ncaf\xe9.jpg,a\n", "'utf-8' codec can't decode", "a CSV file in UTF-8"),
    "quote.csv": (b'path,label\n"a.jpg,a\n', "unexpected end of data", "a CSV file in UTF-8"),
    "words.parquet": (b"path,label\na.jpg,a\n", "Parquet magic bytes not found", "a parquet file"),
    "none.csv": (None, "No such file or directory", "a CSV file in UTF-8"),
    "none.parquet": (None, "No such file or directory", "a parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_file_that_is_no_table_is_refused_in_words(tmp_path: Path, name: str) -> None:
    contents, reason, kind = BROKEN[name]
    table = tmp_path / name
    if contents is not None:
        table.write_bytes(contents)
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root=str(table)))
    told = str(caught.value)
    assert told.startswith(f"data.root '{table}' cannot be read (")
    assert reason in told
    assert told.endswith(f": give {kind} with the columns path and label")
    assert "\n" not in told


def test_folder_may_be_called_like_a_table(class_folder: Path) -> None:
    renamed = class_folder.rename(class_folder.with_name("labels.csv"))
    assert open_source(DataConfig(root=str(renamed))).classes == ("blue", "green", "red")


def test_experiment_is_called_like_the_table(tmp_path: Path) -> None:
    assert Config(data=DataConfig(root=str(tmp_path / "birds.csv"))).experiment == "birds-glyphnet"
