"""Forecasts: they count what a run then does, and leave no trace."""

from dataclasses import replace
from pathlib import Path

import pytest

from blurtrain import experiment, forecast, progress, runs
from blurtrain.cli import main
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.errors import DataError
from blurtrain.forecast import Forecast
from blurtrain.images import MEND
from tests.conftest import photograph

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        name="forecast",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)),
        head=HeadConfig(folds=3, l2=(0.1, 1.0)),
        runs=tmp_path / "runs",
        cache=tmp_path / "cache",
    )


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for a calibration."""
    monkeypatch.setattr(forecast, "DECODING", 0.01)
    monkeypatch.setattr(forecast, "RUNNING", 0.01)


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def told(config: Config) -> Forecast:
    return forecast.forecast([config.baseline(), config])


@pytest.mark.usefixtures("quick")
def test_counts_and_bytes_are_those_of_the_comparison(config: Config) -> None:
    found = told(config)
    assert found.decoded == 100
    assert found.forward_passes == 60 * 3 + 40 * 7
    assert found.reused == 0
    experiment.compare(config)
    headers = 1000 * sum(1 for _ in (config.cache or Path()).rglob("*.safetensors"))
    assert found.stored <= size(Path(str(config.cache))) <= found.stored + headers


@pytest.mark.usefixtures("quick")
def test_nothing_is_written(config: Config, tmp_path: Path) -> None:
    told(config)
    assert list(tmp_path.rglob("*.*")) == []


@pytest.mark.usefixtures("quick")
def test_what_is_stored_is_counted_as_reused(config: Config) -> None:
    experiment.train(config.baseline())
    before = sorted(path for path in config.runs.parent.rglob("*"))
    found = told(replace(config, name="other"))
    assert (found.decoded, found.forward_passes, found.reused) == (0, 60 * 2, 60 + 40 * 7)
    assert sorted(path for path in config.runs.parent.rglob("*")) == before
    wider = replace(config, name="other", sweep=(BlurGrid("gaussian", (0.5, 5.0)),))
    found = told(wider)
    # Clean and 0.5 are there for the test split, 5 for nothing, and both copies are missing.
    assert (found.forward_passes, found.reused) == (60 * 2 + 40, 60 + 40 * 2)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("added", [0, 3])
def test_photographs_that_were_added_are_counted(photo_folder: Path, config: Config, added: int) -> None:
    photos = replace(
        config,
        data=DataConfig(root=str(photo_folder)),
        backbone=BackboneConfig(resize=32, crop=32),
        sweep=(BlurGrid("gaussian", (0.0, 2.0)),),
    )
    experiment.train(photos)
    for seed in range(added):
        photograph(1, 999 + seed).save(photo_folder / "train" / "green" / f"new{seed}.png")
    found = forecast.forecast([replace(photos, name="more")])
    assert (found.decoded, found.forward_passes) == (added, 3 * added)
    experiment.train(replace(photos, name="more"))
    work = (config.runs / "more-augmented" / runs.WORK).read_text()
    assert f'"computed": {3 * added}' in work


@pytest.mark.usefixtures("quick")
def test_training_on_images_is_counted(config: Config) -> None:
    found = told(replace(config, cache=False, minibatch=MinibatchConfig(epochs=2)))
    assert found.forward_passes == (2 + 1) * 60 * (1 + 3) + 2 * 40 * 7
    assert (found.decoded, found.stored, found.reused) == (0, 0, 0)


def test_seconds_are_those_of_the_steps() -> None:
    steps = (forecast.Step("a", "much", 30.0), forecast.Step("b", "more", 4000.0))
    found = Forecast(steps, 1, 2, 3, 4_000_000, 5)
    assert found.seconds == 4030
    first, second, store, last = found.text().splitlines()
    assert first.split() == ["a", "much", "about", "30", "s"]
    assert second.split() == ["b", "more", "about", "67", "min"]
    assert store.split() == ["store", "4.0", "MB", "more"]
    assert last == "In all about 67 min, judged by two seconds of it; nothing was written."


@pytest.mark.parametrize(("seconds", "words"), [(5.4, "5 s"), (119.0, "119 s"), (121.0, "2 min"), (8000.0, "2.2 h")])
def test_durations(seconds: float, words: str) -> None:
    assert forecast._duration(seconds) == words


@pytest.mark.usefixtures("quick")
def test_command_prints_it_and_does_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--data.glyphs.train", "60", "--data.glyphs.test", "40", "--head.folds", "2"]
    assert main(["compare", "--dry-run", *words]) == 0
    out = capsys.readouterr().out
    assert "460 forward passes, 0 reused" in out
    assert "judged by two seconds of it; nothing was written.\n" in out
    assert main(["train", "--dry_run", *words]) == 0
    assert list(tmp_path.iterdir()) == []


def test_finished_runs_are_told(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "is_finished", lambda _: True)
    assert experiment.forecast(config, both=True).endswith("is finished: the results are shown in about a second.")


@pytest.mark.usefixtures("quick")
def test_bad_input_is_told_as_ever(config: Config, tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"data.root .* is not a folder"):
        told(replace(config, data=DataConfig(root=str(tmp_path / "none"))))


def test_start_of_the_process_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seconds = progress.started
    assert 0 < seconds() < 10_000
    monkeypatch.setattr(progress, "STAT", tmp_path / "no such file")
    assert 0 < seconds() < 10_000


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not stored"])
def test_bad_images_are_left_out_as_the_run_does(
    photo_folder: Path, config: Config, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "DECODING", 600.0)  # all images are tried
    bad = [photo_folder / "train/red/00.png", photo_folder / "test/blue/gone.png"]
    bad[0].write_bytes(photo_folder.joinpath("train/red/0.png").read_bytes()[:60])
    bad[1].symlink_to("nowhere")
    photos = replace(
        config,
        data=DataConfig(root=str(photo_folder)),
        backbone=BackboneConfig(resize=32, crop=32),
        sweep=(BlurGrid("gaussian", (0.0, 2.0)),),
        cache=config.cache if stored else False,
        minibatch=MinibatchConfig(epochs=1),
        on_bad_image="skip",
    )
    for path in reversed(bad):  # what is told first is found without decoding
        with pytest.raises(DataError, match=f"{path.name} .*: {MEND}$"):
            told(replace(photos, on_bad_image="error"))
        if path != bad[0]:
            path.unlink()
    bad[1].symlink_to("nowhere")
    assert told(photos).test == 15
    if stored:  # afterwards the one that cannot be decoded is all that is not stored
        experiment.train(photos)
        assert told(photos).decoded == 1
        assert told(photos).forward_passes == told(photos).decoded * (1 + len(photos.copies[0].strengths))


@pytest.mark.usefixtures("quick")
def test_a_forecast_needs_one_image_at_least(photo_folder: Path, config: Config) -> None:
    for path in photo_folder.rglob("*.*"):
        path.write_bytes(path.name.encode())
    photos = replace(config, data=DataConfig(root=str(photo_folder)), on_bad_image="skip")
    with pytest.raises(DataError, match=r"^none of 39 images that were tried can be decoded: mend them"):
        told(photos)
