"""Pictures of single test images: the stored pixels, the decoded ones and the files themselves must agree."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import blurtrain
from blurtrain import runs
from blurtrain.config import Config
from blurtrain.decoding import Geometry
from blurtrain.errors import ConfigError, DataError
from blurtrain.folder_source import FolderSource
from blurtrain.roster import TEST_IMAGES, read_roster
from blurtrain.runs import Run
from blurtrain.tested_images import Unreadable, read_tested
from tests.conftest import photograph

Named = list[tuple[str, str]]


@pytest.fixture
def tested(photo_folder: Path, few: Config, tmp_path: Path) -> tuple[Run, Named]:
    """A run on photographs, and its test images."""
    data = replace(few.data, root=str(photo_folder))
    run = runs.load_run(blurtrain.train(replace(few, data=data, runs=tmp_path / "runs", cache=tmp_path / "cache")))
    roster = read_roster(run.file(TEST_IMAGES))
    return run, list(zip(*roster.rows(np.arange(15)), strict=True))


def forbid_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> Image.Image:
        raise DataError("was decoded")

    monkeypatch.setattr(FolderSource, "decode", refuse)


def test_stored_pixels_are_those_of_the_files_and_nothing_is_decoded(
    tested: tuple[Run, Named], photo_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, named = tested
    decoded = read_tested(replace(run, config=replace(run.config, cache=False)), named)
    forbid_decoding(monkeypatch)
    stored = read_tested(run, named)
    for (file, _), one, other in zip(named, stored, decoded, strict=True):
        with Image.open(photo_folder / file) as image:
            expected = Geometry(64, 64).apply(image.convert("RGB"))
        np.testing.assert_array_equal(one, expected)
        np.testing.assert_array_equal(other, expected)
    (nothing,) = read_tested(replace(run, config=replace(run.config, cache=False)), named[:1])
    assert nothing == Unreadable("was decoded")


def test_what_is_not_stored_any_more_is_decoded(tested: tuple[Run, Named]) -> None:
    run, named = tested
    before = read_tested(run, named)
    assert run.config.cache is not False
    (shard, *_) = sorted(run.config.cache.glob("pixels/*/*.safetensors"))
    damaged = bytearray(shard.read_bytes())
    damaged[-len(damaged) // 2 :: 997] = bytes(len(damaged[-len(damaged) // 2 :: 997]))
    shard.write_bytes(damaged)
    np.testing.assert_array_equal(read_tested(run, named), before)
    shutil.rmtree(run.config.cache)
    np.testing.assert_array_equal(read_tested(run, named), before)
    assert not run.config.cache.exists()  # looking makes nothing


def test_an_image_that_has_changed_is_not_shown(tested: tuple[Run, Named], photo_folder: Path) -> None:
    run, named = tested
    (first, content), (second, other), (third, _), (fourth, _) = named[:4]
    photograph(1, 12345).save(photo_folder / first)
    (photo_folder / third).unlink()
    (photo_folder / fourth).write_bytes(b"no picture")
    asked = [(first, content), (second, other), (second, content), *named[2:4]]
    changed, kept, swapped, gone, broken = read_tested(run, asked)
    for other_image in (changed, swapped):
        assert isinstance(other_image, Unreadable)
        assert other_image.why == "is another image than was tested"
    assert isinstance(kept, np.ndarray)
    assert gone == Unreadable("is not there any more")
    assert isinstance(broken, Unreadable)
    assert broken.why.startswith("is no image in a known format")


def test_a_source_that_is_gone_is_told(tested: tuple[Run, Named], photo_folder: Path) -> None:
    run, named = tested
    photo_folder.rename(photo_folder.with_name("elsewhere"))
    with pytest.raises((ConfigError, DataError), match="photos"):
        read_tested(run, named)
