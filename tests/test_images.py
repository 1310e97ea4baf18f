"""Images decoded once, named by content, split and dealt into folds."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blurtrain import reading, sources
from blurtrain.config import DataConfig, GlyphsConfig
from blurtrain.decoding import Geometry, decode
from blurtrain.errors import DataError
from blurtrain.folder_source import FolderSource
from blurtrain.images import MEND, ImageSet, check_source, folds, load
from tests.conftest import fill_classes, photograph

GEOMETRY = Geometry(18, 16)


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., ImageSet]:
    """Load a folder with one cache for the whole test."""

    def load_folder(root: Path, geometry: Geometry = GEOMETRY, **options: float) -> ImageSet:
        return load(DataConfig(root=str(root), **options), geometry, tmp_path / "cache")  # type: ignore[arg-type]

    return load_folder


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Sizes in bytes of all files that are decoded from now on."""
    sizes: list[int] = []

    def counting(data: bytes, scale: int) -> Image.Image:
        sizes.append(len(data))
        return decode(data, scale)

    monkeypatch.setattr(sources, "decode", counting)
    return sizes


def by_name(found: ImageSet, positions: np.ndarray) -> set[str]:
    return {found.names[i] for i in positions}


def contents(found: ImageSet, positions: np.ndarray) -> set[bytes]:
    return set(found.ids[positions].tolist())


def test_pixels_are_those_of_each_file(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    found = read(photo_folder)
    order = np.random.default_rng(0).permutation(len(found.names))
    expected = [GEOMETRY.apply(decode((photo_folder / found.names[i]).read_bytes())) for i in order]
    np.testing.assert_array_equal(found.read_pixels(order), expected)


def test_labels_and_splits_follow_the_folders(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    found = read(photo_folder)
    assert found.classes == ("blue", "green", "red")
    assert [name.split("/")[1] for name in found.names] == [found.classes[label] for label in found.labels]
    assert {name.split("/")[0] for name in by_name(found, found.train)} == {"train"}
    assert {name.split("/")[0] for name in by_name(found, found.test)} == {"test"}
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 0, 15)


def test_validation_folder_becomes_the_validation_split(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    fill_classes(photo_folder / "val", 2, first_seed=200)
    found = read(photo_folder)
    assert {name.split("/")[0] for name in by_name(found, found.validation)} == {"val"}
    assert (len(found.train), len(found.validation), len(found.test)) == (24, 6, 15)


def test_every_file_is_decoded_once_in_its_life(
    photo_folder: Path, read: Callable[..., ImageSet], decoded: list[int]
) -> None:
    read(photo_folder)
    assert len(decoded) == 39
    read(photo_folder)
    assert len(decoded) == 39
    photograph(0, 999).save(photo_folder / "train" / "red" / "new.png")
    read(photo_folder)
    assert len(decoded) == 40
    read(photo_folder, Geometry(16, 16))
    assert len(decoded) == 80


def test_renamed_and_moved_files_are_not_decoded_again(
    class_folder: Path, tmp_path: Path, read: Callable[..., ImageSet], decoded: list[int]
) -> None:
    before = read(class_folder)
    moved = tmp_path / "elsewhere"
    shutil.move(class_folder, moved)
    for path in sorted(moved.rglob("*.*")):
        path.rename(path.with_name("z" + str(100 - int(path.stem)) + path.suffix))
    decoded.clear()
    after = read(moved)
    assert decoded == []
    assert contents(after, after.test) == contents(before, before.test)
    assert contents(after, after.train) == contents(before, before.train)


def test_changed_file_is_read_anew(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    path = photo_folder / "train" / "red" / "0.png"
    before = read(photo_folder)
    stamp = path.stat().st_mtime_ns
    photograph(0, 777).save(path)
    os.utime(path, ns=(stamp, stamp))
    after = read(photo_folder)
    place = after.names.index("train/red/0.png")
    assert before.names == after.names
    assert after.ids[place] != before.ids[place]
    np.testing.assert_array_equal(after.read_pixels(np.array([place]))[0], GEOMETRY.apply(decode(path.read_bytes())))


def test_other_geometry_never_gives_these_pixels(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    everything = np.arange(39)
    for geometry in (GEOMETRY, Geometry(16, 16), Geometry(18, 16, "BICUBIC")):
        found = read(photo_folder, geometry)
        expected = geometry.apply(decode((photo_folder / found.names[0]).read_bytes()))
        np.testing.assert_array_equal(found.read_pixels(everything)[0], expected)


def test_same_pixels_in_another_format_are_the_same_content(photo_folder: Path, read: Callable[..., ImageSet]) -> None:
    with Image.open(photo_folder / "train" / "red" / "0.png") as image:
        image.save(photo_folder / "train" / "red" / "copy.bmp")
        image.resize((30, 30)).save(photo_folder / "train" / "red" / "smaller.bmp")
    found = read(photo_folder)
    id_of = {Path(name).name: found.ids[i] for i, name in enumerate(found.names) if name.startswith("train/red")}
    assert id_of["0.png"] == id_of["copy.bmp"]
    assert id_of["0.png"] != id_of["smaller.bmp"]


def test_images_of_other_shape_with_the_same_bytes_differ(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), dtype=np.uint8)
    for name, shape in {"a/1": (20, 40, 3), "b/1": (40, 20, 3), "a/2": (10, 80, 3), "b/2": (80, 10, 3)}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.reshape(shape)).save(tmp_path / "set" / f"{name}.png")
    for label, name in enumerate("ab"):  # so that the set could be split if they did not differ
        photograph(label, 0).save(tmp_path / "set" / name / "3.png")
    assert len(set(read(tmp_path / "set").ids.tolist())) == 6


def duplicate_as_bmp(source: Path, target: Path) -> None:
    with Image.open(source) as image:
        image.save(target)


def test_duplicate_in_another_format_never_straddles_given_splits(
    photo_folder: Path, read: Callable[..., ImageSet], capsys: pytest.CaptureFixture[str]
) -> None:
    duplicate_as_bmp(photo_folder / "test" / "red" / "100.png", photo_folder / "train" / "red" / "other.bmp")
    found = read(photo_folder)
    assert "train/red/other.bmp" not in by_name(found, found.train)
    assert "test/red/100.png" in by_name(found, found.test)
    assert not contents(found, found.train) & contents(found, found.test)
    assert "note: 1 images are left out because their exact duplicate is in the test" in capsys.readouterr().err


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.8])
def test_duplicates_never_straddle_a_split_by_content(
    class_folder: Path, read: Callable[..., ImageSet], fraction: float
) -> None:
    for path in sorted(class_folder.rglob("*.png")):
        duplicate_as_bmp(path, path.with_name(f"copy of {path.stem}.bmp"))
    found = read(class_folder, test_fraction=fraction)
    assert len(found.train) + len(found.test) == len(found.names) == 54
    assert not contents(found, found.train) & contents(found, found.test)
    dealt = folds(found, 2)
    for fold in range(2):
        inside, outside = found.train[dealt == fold], found.train[dealt != fold]
        assert not contents(found, inside) & contents(found, outside)


def test_groups_are_contents_in_folders_and_fonts_in_the_embedded_set(
    class_folder: Path, read: Callable[..., ImageSet], tmp_path: Path
) -> None:
    duplicate_as_bmp(class_folder / "red" / "0.png", class_folder / "red" / "copy.bmp")
    found = read(class_folder)
    assert len(found.group_labels) == 36
    pair = np.array([found.names.index("red/0.png"), found.names.index("red/copy.bmp")])
    assert len(set(found.group_names(pair))) == 1
    drawn = load(DataConfig(glyphs=GlyphsConfig(train=60, test=40)), GEOMETRY, tmp_path / "cache")
    assert drawn.group_names(np.arange(100)) == [name.split("/")[2].rsplit("-", 1)[0] for name in drawn.names]


def test_folds_of_the_embedded_set_never_divide_a_font(tmp_path: Path) -> None:
    drawn = load(DataConfig(glyphs=GlyphsConfig(train=300, test=10)), Geometry(8, 8), tmp_path / "cache")
    dealt = folds(drawn, 5)
    fonts = np.array(drawn.group_names(drawn.train))
    assert sorted(set(dealt)) == [0, 1, 2, 3, 4]
    for font in set(fonts):
        assert len(set(dealt[fonts == font])) == 1


def test_folds_are_stratified(class_folder: Path, read: Callable[..., ImageSet]) -> None:
    found = read(class_folder, test_fraction=0.2)
    dealt = folds(found, 5)
    assert dealt.shape == found.train.shape
    for label in range(3):
        counts = np.bincount(dealt[found.labels[found.train] == label], minlength=5)
        assert counts.min() >= 1
        assert counts.max() <= counts.min() + 1


def test_fewer_images_than_folds_are_refused(class_folder: Path, read: Callable[..., ImageSet]) -> None:
    with pytest.raises(DataError) as caught:
        folds(read(class_folder), 40)
    assert str(caught.value) == (
        "there are 27 different training images or groups for head.folds 40: give more images or fewer folds"
    )


def test_duplicates_do_not_count_as_different_images(class_folder: Path, read: Callable[..., ImageSet]) -> None:
    for path in sorted((class_folder / "red").iterdir())[1:]:
        path.unlink()
    for number in range(5):
        shutil.copy(class_folder / "red" / "0.png", class_folder / "red" / f"copy {number}.png")
    with pytest.raises(DataError) as caught:
        folds(read(class_folder), 5)
    assert str(caught.value) == (
        "class 'red' has 6 training images, all in one of 5 folds: each class needs at least 2 different ones"
    )


def test_native_scale_is_that_of_the_median_image(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    sizes = {"a/1": (40, 90), "a/2": (400, 36), "b/1": (72, 72), "b/2": (36, 36), "b/3": (500, 500)}
    for name, size in sizes.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (len(name), size[0] % 256, size[1] % 256)).save(tmp_path / "set" / f"{name}.png")
    assert read(tmp_path / "set").native_scale == pytest.approx(40 / 18)


def test_unreadable_image_is_named_and_the_others_counted(
    photo_folder: Path, read: Callable[..., ImageSet], decoded: list[int]
) -> None:
    bad = photo_folder / "test" / "green" / "101.jpg"
    bad.write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError) as caught:
        read(photo_folder)
    assert str(caught.value) == (
        f"test/green/101.jpg is no image in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM): {MEND}"
    )
    whole = (photo_folder / "train" / "red" / "1.jpg").read_bytes()
    (photo_folder / "train" / "red" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    way_on = "mend or remove it, list the good ones by blurtrain check-data --fix-list, or"
    with pytest.raises(DataError, match=rf"^t.*/.*jpg .* \(and 1 more\): {way_on}"):
        read(photo_folder)
    bad.unlink()
    (photo_folder / "train" / "red" / "1.jpg").unlink()
    decoded.clear()
    read(photo_folder)
    assert decoded == []


def test_image_that_vanishes_is_named(
    photo_folder: Path, read: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = FolderSource.key

    def vanish(source: FolderSource, index: int) -> str:
        path = photo_folder / source.items[index].name
        if path.name == "0.png":
            path.unlink()
        return key(source, index)

    monkeypatch.setattr(FolderSource, "key", vanish)
    with pytest.raises(
        DataError, match=r"^train/blue/0\.png cannot be read \(No such file or directory\) \(and 2 more\)"
    ):
        read(photo_folder)


def test_class_whose_training_images_are_all_test_images_is_refused(
    photo_folder: Path, read: Callable[..., ImageSet]
) -> None:
    shutil.rmtree(photo_folder / "train" / "red")
    shutil.copytree(photo_folder / "test" / "red", photo_folder / "train" / "red")
    with pytest.raises(DataError, match=r"^class 'red' has no training image left that is not also a test image$"):
        read(photo_folder)


def test_classes_of_one_image_cannot_be_split(tmp_path: Path, read: Callable[..., ImageSet]) -> None:
    for label, name in enumerate("ab"):
        (tmp_path / "set" / name).mkdir(parents=True)
        photograph(label, 0).save(tmp_path / "set" / name / "1.png")
    with pytest.raises(DataError, match=r"^the test split has no images$"):
        read(tmp_path / "set")


def test_source_can_be_checked_without_reading(photo_folder: Path, decoded: list[int]) -> None:
    check_source(DataConfig(root=str(photo_folder)))
    assert decoded == []
    with pytest.raises(DataError, match="is not a folder"):
        check_source(DataConfig(root="no such folder"))


def test_rare_format_is_mentioned(
    class_folder: Path, read: Callable[..., ImageSet], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(20):
        fill_classes(class_folder / "red" / f"more {number}", 1, first_seed=1000 + 2 * number)
    Image.new("RGB", (9, 9), (1, 2, 3)).save(class_folder / "green" / "banner.gif")
    read(class_folder)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [
        "note: green/banner.gif is .gif unlike the others; it is used as an image of its class: look at it"
    ]


def test_interrupted_decoding_keeps_finished_shards(
    photo_folder: Path, read: Callable[..., ImageSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = 10
    monkeypatch.setattr(reading, "SHARD_BYTES", shard * 3 * GEOMETRY.crop**2)
    count = 0

    def interrupted(data: bytes, scale: int) -> Image.Image:
        nonlocal count
        count += 1
        if count == 25:
            raise KeyboardInterrupt
        return decode(data, scale)

    monkeypatch.setattr(sources, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        read(photo_folder)
    count = 100
    read(photo_folder)
    assert count == 100 + 39 - 2 * shard
