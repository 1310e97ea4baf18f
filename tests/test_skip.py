"""`on_bad_image: skip`: bad images are left out, are listed, and change nothing else."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import blurtrain
from blurtrain import runs
from blurtrain.cli import main
from blurtrain.config import BlurGrid, Config, DataConfig, HeadConfig, MinibatchConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.images import MEND, ImageSet, load
from tests.conftest import photograph

GEOMETRY = Geometry(18, 16)
UNKNOWN = "is no image in a known format (JPEG, PNG, GIF, BMP, WEBP, TIFF, PPM)"


def spoil(root: Path, split: str) -> dict[str, str]:
    """Put bad files of several kinds between the good ones; gives the names with a part of each reason."""
    names = {
        f"{split}blue/00.jpg": UNKNOWN,
        f"{split}green/zz.png": UNKNOWN,  # the same bytes
        f"{split}red/3-cut.jpg": "cannot be decoded (",
        f"{split}red/gone.png": "cannot be read (No such file or directory)",
        f"{split}red/pipe.gif": "is no ordinary file",
    }
    blue, green, cut, gone, pipe = (root / name for name in names)
    blue.write_bytes(b"<html>")
    green.write_bytes(b"<html>")
    photograph(0, 999).save(cut)
    cut.write_bytes(cut.read_bytes()[:-100])
    gone.symlink_to("nowhere")
    pipe.symlink_to("/dev/null")
    return names


def read(root: Path, cache: Path | bool = False, **options: Any) -> ImageSet:  # noqa: ANN401 - passed on
    assert cache is not True
    return load(DataConfig(root=str(root)), GEOMETRY, cache, "skip", **options)


def everything(found: ImageSet) -> list[object]:
    """All that training sees of an image set."""
    arrays = (found.ids, found.labels, found.groups, found.train, found.validation, found.test)
    pixels = found.read_pixels(np.arange(len(found.names)))
    others = (found.classes, found.names, found.group_labels, found.native_scale)
    return [*(array.tolist() for array in (*arrays, pixels)), *others]


@pytest.fixture(params=["splits", "classes"])
def root(request: pytest.FixtureRequest) -> Path:
    """Photographs with given splits, and such that are split by content."""
    folder: Path = request.getfixturevalue("photo_folder" if request.param == "splits" else "class_folder")
    return folder


def split_of(root: Path) -> str:
    return "train/" if (root / "train").exists() else ""


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_skipped_images_change_no_image_set(root: Path, tmp_path: Path, stored: bool) -> None:
    before = everything(read(root, tmp_path / "one" if stored else False))
    names = spoil(root, split_of(root))
    found = read(root, tmp_path / "two" if stored else False)
    assert everything(found) == before
    assert list(found.skipped) == list(names)
    for name, reason in names.items():
        assert found.skipped[name].startswith(reason)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_images_of_any_split_are_skipped(photo_folder: Path, tmp_path: Path, split: str) -> None:
    shutil.copytree(photo_folder / "test", photo_folder / "val")
    for path in (photo_folder / "val").rglob("*.*"):
        photograph(0, int(path.stem) + 2_000 * len(path.parent.name)).save(path)
    before = everything(read(photo_folder, tmp_path / "cache"))
    names = spoil(photo_folder, f"{split}/")
    found = read(photo_folder, tmp_path / "cache")
    assert everything(found) == before
    assert found.skipped.keys() == names.keys()


def test_skipping_is_told_once(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(root, split_of(root))
    read(root, tmp_path / "cache")
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: {split_of(root)}blue/00.jpg {UNKNOWN} (and 4 more): left out"]


def test_a_mended_image_is_no_longer_skipped(photo_folder: Path, tmp_path: Path) -> None:
    bad = photo_folder / "train/red/0.png"
    whole = bad.read_bytes()
    bad.write_bytes(whole[:100])
    assert list(read(photo_folder, tmp_path / "cache").skipped) == ["train/red/0.png"]
    bad.write_bytes(whole)
    found = read(photo_folder, tmp_path / "cache")
    assert found.skipped == {}
    assert "train/red/0.png" in found.names


def test_nothing_but_skipping_is_the_default(root: Path, tmp_path: Path) -> None:
    spoil(root, split_of(root))
    for cache in (tmp_path / "cache", False):
        with pytest.raises(DataError) as caught:
            load(DataConfig(root=str(root)), GEOMETRY, cache)
        assert str(caught.value) == (f"{split_of(root)}blue/00.jpg {UNKNOWN} (and 4 more): {MEND}")


def overwrite(folder: Path) -> int:
    paths = sorted(path for path in folder.rglob("*.*") if path.is_file())
    for path in paths:
        path.write_bytes(b"no image")
    return len(paths)


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
@pytest.mark.parametrize(
    ("folder", "sentence"),
    [
        (
            "train/red",
            "class 'red' has no training image left that is not also a test image (8 bad images are left out)",
        ),
        ("test", "the test split has no images (15 bad images are left out)"),
        ("", f"test/blue/100.png {UNKNOWN} (and 38 more): no image is left"),
    ],
    ids=["class", "test split", "all"],
)
def test_too_few_images_are_an_error_still(
    photo_folder: Path, tmp_path: Path, folder: str, sentence: str, stored: bool
) -> None:
    overwrite(photo_folder / folder)
    with pytest.raises(DataError) as caught:
        read(photo_folder, tmp_path / "cache" if stored else False)
    assert str(caught.value) == sentence


def test_a_class_without_any_readable_image_is_an_error_where_the_split_is_by_content(class_folder: Path) -> None:
    overwrite(class_folder / "green")
    with pytest.raises(
        DataError, match=r"^class 'green' has no training image left .* \(12 bad images are left out\)$"
    ):
        read(class_folder)


def test_it_is_no_part_of_what_a_run_is() -> None:
    assert Config(on_bad_image="skip").identity() == Config().identity()


def quick(root: Path, folder: Path, cache: bool = True) -> Config:
    """A comparison of seconds."""
    return Config(
        name="quick",
        data=DataConfig(root=str(root)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (2.0,)),),
        head=HeadConfig(l2=(0.1,), folds=2),
        minibatch=MinibatchConfig(epochs=1),
        runs=folder / "runs",
        cache=folder / "cache" if cache else False,
        on_bad_image="skip",
    )


RESULTS = ["head.safetensors", "heads-folds.safetensors", "predictions.parquet", "sweep.csv", "sweep.json"]


@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_skipped_images_change_no_byte_of_the_results(root: Path, tmp_path: Path, stored: bool) -> None:
    clean, spoilt = (quick(root, tmp_path / name, stored) for name in ("clean", "spoilt"))
    compared = blurtrain.compare(replace(clean, on_bad_image="error"))
    names = spoil(root, split_of(root))
    assert blurtrain.compare(spoilt) == spoilt.comparison_folder
    for before, after in ((clean, spoilt), (clean.baseline(), spoilt.baseline())):
        for name in RESULTS:
            assert (before.run_folder / name).read_bytes() == (after.run_folder / name).read_bytes(), name
        result = runs.load_run(after.run_folder).result
        assert list(result["skipped"]) == list(names)
        assert runs.load_run(before.run_folder).result["skipped"] == {}
        assert result["inputs"] == runs.load_run(before.run_folder).result["inputs"]
    tables = [(folder / "comparison.csv").read_bytes() for folder in (compared, spoilt.comparison_folder)]
    assert tables[0] == tables[1]


def words_of(config: Config) -> list[str]:
    return [
        *("--name", "quick", "--data.root", config.data.root, "--runs", str(config.runs), "--cache", str(config.cache)),
        *("--copies", "[{strengths: [1]}]", "--sweep", "[{strengths: [2]}]", "--head.l2", "[0.1]"),
        *("--head.folds", "2", "--on-bad-image", "skip"),
    ]


@pytest.mark.usefixtures("quiet")
def test_the_command_line_counts_what_was_skipped(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = quick(photo_folder, tmp_path)
    arms = [config.baseline().run_folder, config.run_folder]
    assert main(["train", *words_of(config)]) == 0
    assert "Skipped" not in capsys.readouterr().out
    shutil.rmtree(config.run_folder)
    names = spoil(photo_folder, "train/")
    for _ in range(2):  # when it is finished already, too
        assert main(["train", *words_of(config)]) == 0
        assert f"\nSkipped: 5 bad images, listed in {arms[1]}/run.json\n" in capsys.readouterr().out
    assert main(["compare", *words_of(config)]) == 0
    listed = f"\nSkipped: 5 bad images, listed in {arms[0]}/run.json and {arms[1]}/run.json\n"
    assert listed in capsys.readouterr().out
    assert main(["compare", *map(str, arms)]) == 0
    assert listed in capsys.readouterr().out
    assert json.loads((arms[0] / "run.json").read_text())["skipped"].keys() == names.keys()
