"""Folders and the embedded set as sources: what is an image of which class and split, and what is refused."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurtrain import glyphs
from blurtrain.config import DataConfig, GlyphsConfig
from blurtrain.errors import DataError
from blurtrain.folder_source import FolderSource
from blurtrain.opening import open_source
from blurtrain.sources import GlyphSource, Item, Source


def touch(path: Path) -> None:
    """A file that has an image's name; a source does not read it before it is asked for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(path.name.encode())


def layout(root: Path, *paths: str) -> Path:
    for path in paths:
        touch(root / path)
    return root


def test_train_and_test_folders(tmp_path: Path) -> None:
    source = FolderSource(layout(tmp_path, "train/b/1.jpg", "train/a/2.png", "test/a/3.jpg", "test/b/4.jpg"))
    assert source.classes == ("a", "b")
    assert sorted(source.items, key=lambda item: item.name) == [
        Item("test/a/3.jpg", 0, "test"),
        Item("test/b/4.jpg", 1, "test"),
        Item("train/a/2.png", 0, "train"),
        Item("train/b/1.jpg", 1, "train"),
    ]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_validation_folder_has_several_names(tmp_path: Path, name: str) -> None:
    paths = [f"{split}/{kind}/1.jpg" for split in ("train", name, "test") for kind in "ab"]
    splits = {item.name: item.split for item in FolderSource(layout(tmp_path, *paths)).items}
    assert splits[f"{name}/a/1.jpg"] == "validation"
    assert sorted(set(splits.values()), key=str) == ["test", "train", "validation"]


def test_split_folders_are_known_in_capitals(tmp_path: Path) -> None:
    paths = [f"{split}/{kind}/1.jpg" for split in ("Train", "TEST") for kind in "ab"]
    source = FolderSource(layout(tmp_path, *paths))
    assert source.classes == ("a", "b")
    assert {item.split for item in source.items} == {"train", "test"}


def test_class_folders_alone_have_no_split(tmp_path: Path) -> None:
    source = FolderSource(layout(tmp_path, "cat/1.jpg", "dog/1.jpg"))
    assert source.items == [Item("cat/1.jpg", 0), Item("dog/1.jpg", 1)]


def test_other_folders_beside_the_splits_are_no_classes(tmp_path: Path) -> None:
    paths = ["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "notes/1.jpg"]
    assert FolderSource(layout(tmp_path, *paths)).classes == ("a", "b")


def test_images_in_deeper_folders_belong_to_the_class(tmp_path: Path) -> None:
    source = FolderSource(layout(tmp_path, "a/monday/1.jpg", "a/tuesday/1.jpg", "b/1.jpg"))
    assert [item.label for item in source.items] == [0, 0, 1]


def test_classes_that_may_lie_deeper_are_mentioned(tmp_path: Path) -> None:
    whole = layout(tmp_path, "a/photos/ants/1.jpg", "a/photos/bees/1.jpg", "b/x/1.jpg", "c/1.jpg", "c/y/1.jpg")
    assert FolderSource(whole).notes == [
        f"note: class folder {whole}/a (and 1 more) has images in folders of its own alone, such as "
        f"{whole}/a/photos/ants: if these are the classes, give the folder that they lie in as data.root"
    ]
    assert FolderSource(whole / "a" / "photos").notes == []


def test_the_parent_of_the_current_folder_is_named_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout(tmp_path, "a/1.jpg")
    monkeypatch.chdir(tmp_path / "a")
    with pytest.raises(DataError, match=f"give its parent folder {re.escape(str(tmp_path))} as data.root"):
        FolderSource(Path())


def test_other_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    paths = ["a/1.JPG", "b/1.TiFF", "a/readme.txt", "a/._1.jpg", "a/.thumbnails/1.jpg", ".git/1.jpg", "2.jpg"]
    names = [item.name for item in FolderSource(layout(tmp_path, *paths)).items]
    assert names == ["a/1.JPG", "b/1.TiFF"]


def test_key_is_the_hash_of_the_bytes(tmp_path: Path) -> None:
    source = FolderSource(layout(tmp_path, "a/1.jpg", "b/2.jpg"))
    assert source.key(1) == hashlib.sha256(b"2.jpg").hexdigest()


def test_image_is_decoded_in_rgb(photo_folder: Path) -> None:
    source = FolderSource(photo_folder)
    place = next(i for i, item in enumerate(source.items) if item.name == "train/green/0.png")
    image = source.decode(place)
    assert image.mode == "RGB"
    assert np.asarray(image).mean(axis=(0, 1)).argmax() == 1


REFUSED = {
    "missing folder": (
        ["here/a/1.jpg"],
        "nowhere",
        "data.root '{root}' is not a folder: give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, or 'glyphs' "
        "for the embedded images",
    ),
    "file in place of a folder": (["file.jpg"], "file.jpg", "data.root '{root}' is not a folder: give "),
    "nothing": (["1.txt"], "", "{root} has images of 0 class(es), and at least 2 are needed"),
    "a class": (
        ["a/1.jpg", "b/1.jpg"],
        "a",
        "{root} has no class folders, its images lie directly in it: give its parent folder {root.parent} as data.root",
    ),
    "one class": (["a/1.jpg", "a/2.jpg"], "", "{root} has images of 1 class(es), and at least 2 are needed"),
    "one class in splits": (
        ["train/a/1.jpg", "test/a/2.jpg"],
        "",
        "{root} has images of 1 class(es), and at least 2 are needed",
    ),
    "empty class": (["a/1.jpg", "b/1.txt", "c/1.jpg"], "", "class folder {root}/b has no images (.bmp, .gif, .jpeg,"),
    "empty class in a split": (
        ["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/b/1.txt"],
        "",
        "class folder {root}/test/b has no images (.bmp, .gif, .jpeg,",
    ),
    "no test split": (
        ["train/a/1.jpg", "train/b/1.jpg"],
        "",
        "{root} has no images in test/CLASS: both train and test are needed, or class folders alone, "
        "which are then split by content",
    ),
    "no training split": (["val/a/1.jpg", "test/b/1.jpg"], "", "{root} has no images in train/CLASS: both train and"),
    "images without a class": (["train/1.jpg", "test/1.jpg"], "", "{root} has no images in train/CLASS: both train"),
    "class in test alone": (
        ["train/a/1.jpg", "train/b/1.jpg", "test/a/1.jpg", "test/c/1.jpg"],
        "",
        "class 'c' in {root}/test/c has no training images: add some, or remove the folder",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_folder_that_cannot_be_used_is_refused_in_words(tmp_path: Path, case: str) -> None:
    paths, root, message = REFUSED[case]
    layout(tmp_path, *paths)
    with pytest.raises(DataError) as caught:
        FolderSource(tmp_path / root)
    assert str(caught.value).startswith(message.format(root=tmp_path / root))


def test_class_that_is_missing_in_test_is_no_error(tmp_path: Path) -> None:
    paths = ["train/a/1.jpg", "train/b/1.jpg", "train/c/1.jpg", "test/a/1.jpg"]
    assert FolderSource(layout(tmp_path, *paths)).classes == ("a", "b", "c")


def test_embedded_set_is_drawn_as_its_recipes_say() -> None:
    source = GlyphSource(train=12, test=11, seed=3)
    recipes = glyphs.glyphs("digits", "train", 12, 3) + glyphs.glyphs("digits", "test", 11, 3)
    assert [item.split for item in source.items] == ["train"] * 12 + ["test"] * 11
    assert [source.classes[item.label] for item in source.items] == [glyph.character for glyph in recipes]
    assert [item.group for item in source.items] == [glyph.font for glyph in recipes]
    np.testing.assert_array_equal(np.asarray(source.decode(14)), glyphs.draw(recipes[14]))
    assert source.key(14) == glyphs.recipe_key(recipes[14])
    assert len({item.name for item in source.items}) == 23


def test_embedded_fonts_of_the_test_split_are_its_own() -> None:
    source = GlyphSource(train=300, test=200, seed=0)
    fonts = {split: {item.group for item in source.items if item.split == split} for split in ("train", "test")}
    assert not fonts["train"] & fonts["test"]


def test_config_names_the_source(photo_folder: Path) -> None:
    embedded = open_source(DataConfig(glyphs=GlyphsConfig(train=10, test=10)))
    assert isinstance(embedded, GlyphSource)
    folder: Source = open_source(DataConfig(root=str(photo_folder)))
    assert isinstance(folder, FolderSource)
    assert len(folder.items) == 39


def test_file_that_is_no_image_is_only_refused_when_read(tmp_path: Path) -> None:
    source = FolderSource(layout(tmp_path, "a/1.jpg", "b/2.jpg"))
    with pytest.raises(DataError, match=re.escape("is no image in a known format")):
        source.decode(0)
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "1.jpg")
    assert source.decode(0).size == (4, 4)
