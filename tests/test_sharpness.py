"""Sharpness: what it must not depend on, that blur lowers it, and what a run's scale makes of it."""

import json
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from blurtrain.blur import blur_pixels
from blurtrain.config import Config, DataConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import ConfigError, RunError
from blurtrain.files import read_sealed, write_sealed
from blurtrain.predictions import Asked, predict, write
from blurtrain.reduction import square
from blurtrain.runs import RESULT, SHARPNESS, finish, load_run
from blurtrain.sharpness import QUANTILES, Scale, SeenView, confusion, limit, scale_of, sharpness
from blurtrain.views import CLEAN, Blur
from tests.test_photographs import PHOTOS

pytestmark = pytest.mark.usefixtures("quiet")


def textured(seed: int = 0, side: int = 96, contrast: float = 25) -> np.ndarray:
    """Noise with about the spectrum of photographs, mid-grey, [3, side, side]."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    frequency[0, 0] = 1
    noise = np.fft.ifft2(np.fft.fft2(rng.standard_normal((3, side, side))) / frequency).real
    noise = noise - noise.mean()
    return np.asarray((127 + contrast * noise / noise.std()).round().clip(0, 255), np.uint8)


def blurred(pixels: np.ndarray, strength: float) -> np.ndarray:
    seen = blur_pixels(pixels[None], Blur("gaussian", float(strength)))[0]
    return np.asarray(np.rint(255 * seen), np.uint8)


@pytest.mark.parametrize(("strength", "which"), [(0, "fine"), (2, "fine"), (9, "coarse")])
def test_it_is_the_formula(strength: float, which: str) -> None:
    from scipy.ndimage import gaussian_filter

    pixels = blurred(textured(side=96)[:, :80], strength) if strength else textured()[:, :80]
    grey = np.tensordot([0.299, 0.587, 0.114], pixels.astype(np.float64), 1)
    views = (
        grey,
        *(gaussian_filter(grey, scale, mode="reflect", truncate=8) for scale in (4 * 80 / 224, 10 * 80 / 224)),
    )
    energies = [0.001 + sum(np.sum(np.diff(one, axis=axis) ** 2) for axis in (0, 1)) / one.size for one in views]
    fine, coarse = np.log10(np.divide(energies[:2], energies[1:]))
    expected = {"fine": 0.45 * fine ** (1 / 3), "coarse": coarse}
    assert min(expected, key=lambda name: expected[name]) == which
    assert sharpness(pixels) == pytest.approx(expected[which], abs=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_every_further_blur_lowers_it(seed: int) -> None:
    values = [sharpness(blurred(textured(seed), strength)) for strength in (0.5, 1, 2, 3, 4)]
    assert sharpness(textured(seed)) > values[0]
    assert (np.diff(values) < 0).all()


def photograph_of(source: Image.Image, strength: float, quality: int | None) -> np.ndarray:
    """A photograph blurred at its own size, stored as JPEG or PNG, as a network sees it."""
    stored = BytesIO()
    seen = source.filter(ImageFilter.GaussianBlur(strength)) if strength else source
    seen.save(stored, "PNG") if quality is None else seen.save(stored, "JPEG", quality=quality)
    return square(stored.getvalue(), Geometry(256, 224))


@pytest.mark.parametrize("noise", [0, 10])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(("quality", "widest"), [(None, 60), (92, 40), (75, 40), (50, 32)])
def test_rounding_and_compression_do_not_sharpen(quality: int | None, widest: int, seed: int, noise: float) -> None:
    pixels = textured(seed, side=333, contrast=45) + noise * np.random.default_rng(seed).standard_normal((3, 333, 333))
    source = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    strengths = [strength for strength in (0, 1, 2, 4, 8, 16, 24, 32, 40, 60) if strength <= widest]
    values = [sharpness(photograph_of(source, strength, quality)) for strength in strengths]
    assert (np.diff(values) < 0).all()


def test_contrast_brightness_and_turns_do_not_matter() -> None:
    pixels = textured()
    value = sharpness(pixels)
    darker = np.rint(40 + (pixels.astype(float) - 127) / 2).clip(0, 255).astype(np.uint8)
    assert sharpness(darker) == pytest.approx(value, abs=0.02)
    assert sharpness(255 - pixels) == pytest.approx(value, abs=0.02)
    assert sharpness(np.ascontiguousarray(pixels[:, ::-1].transpose(0, 2, 1))) == pytest.approx(value, abs=0.001)


def test_without_contrast_nothing_is_sharp() -> None:
    assert sharpness(np.full((3, 32, 32), 90, np.uint8)) == 0.0


VIEWS = (
    SeenView("clean", 0.9, (1.0, 1.2, 1.4, 1.6, 1.8)),
    SeenView("gaussian 1", 0.8, (0.6, 0.7, 0.8, 0.9, 1.0)),
    SeenView("gaussian 2", 0.5, (0.2, 0.3, 0.4, 0.5, 0.6)),
)


@pytest.mark.parametrize(
    ("least", "value", "like", "accuracy", "beyond"),
    [
        (0.0, 2.0, "clean", 0.9, False),
        (0.0, 1.09, "gaussian 1", 0.8, False),
        (0.0, 0.2, "gaussian 2", 0.5, False),
        (0.0, 0.19, "gaussian 2", 0.5, True),
        (0.6, 0.59, "gaussian 2", 0.5, True),
        (0.8, 0.61, "gaussian 1", 0.8, False),
        (0.81, 0.99, "gaussian 1", 0.8, True),
    ],
)
def test_what_an_image_resembles(least: float, value: float, like: str, accuracy: float, beyond: bool) -> None:
    found = Scale(VIEWS, 100, (), limit(VIEWS, least)).judge(value)
    assert (found.like, found.accuracy, found.beyond) == (like, accuracy, beyond)


def test_no_view_is_good_enough() -> None:
    with pytest.raises(ConfigError, match=r"least_accuracy must be at most 0.9, the best of the run's sweep, got 0.95"):
        limit(VIEWS, 0.95)


def test_confusion_is_told_by_the_other_half() -> None:
    values = np.array([[3.0, 9.0, 3.0, 9.0], [1.0, 7.0, 1.0, 7.0]])  # medians of halves: 3 and 1, 9 and 7
    # Even images are judged by 9 and 7: all are nearer 7. Odd ones by 3 and 1: all are nearer 3.
    np.testing.assert_array_equal(confusion(values), [[0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(confusion(np.array([[3.0], [1.0]])), np.eye(2))


@pytest.fixture
def run_folder(few_runs: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of a finished run, to write into."""
    folder = tmp_path / "run"
    shutil.copytree(few_runs["frozen"], folder)
    (folder / SHARPNESS).unlink(missing_ok=True)
    return folder


def test_a_scale_is_measured_once_and_stored(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = load_run(run_folder)
    scale = scale_of(run, run.config)
    assert [tested.view for tested in scale.views] == ["clean", "gaussian 1", "gaussian 3"]
    assert scale.images == 40
    np.testing.assert_allclose(np.sum(scale.confusion, axis=1), 1)
    assert scale.confusion[0][0] > 0.8
    assert scale.confusion[2][2] > 0.8
    refit = {row["view"]: row["accuracy_refit"] for row in json.loads((run_folder / "sweep.json").read_text())}
    assert {tested.view: tested.accuracy for tested in scale.views} == refit
    assert all(np.diff(tested.quantiles).min() >= 0 for tested in scale.views)
    load_run(run_folder)  # the run is as whole as before
    with monkeypatch.context() as patch:
        patch.setattr("blurtrain.sharpness.tested_images", None)
        assert scale_of(run, run.config) == scale
    (run_folder / SHARPNESS).write_text((run_folder / SHARPNESS).read_text().replace("gaussian 3", "gaussian 4"))
    assert scale_of(run, run.config) == scale  # what was changed is measured anew


def test_a_scale_of_another_measure_is_made_again(run_folder: Path) -> None:
    run = load_run(run_folder)
    scale = scale_of(run, run.config)
    stored = read_sealed(run_folder / SHARPNESS)
    wrong = [{**view, "quantiles": [9.0] * 5} for view in stored["views"]]
    write_sealed(run_folder / SHARPNESS, {**stored, "measure": stored["measure"] - 1, "views": wrong})
    assert scale_of(run, run.config) == scale
    assert read_sealed(run_folder / SHARPNESS) == stored


@pytest.mark.slow
def test_photographs_beyond_what_was_tested_are_found() -> None:
    """The rates of docs/using.md, on fewer photographs: half of all make the scale, some of the others are judged."""
    if not PHOTOS.is_dir():
        pytest.skip("needs the photographs of ../shared beside the repository")
    files = sorted(PHOTOS.glob("*/*/*.jpg"))
    scaled = [square(path.read_bytes(), Geometry(256, 224)) for path in files[::2]]
    seen = []
    for view in (CLEAN, *(Blur("gaussian", strength) for strength in (2.0, 4.0, 8.0))):
        values = [sharpness(one if view == CLEAN else blurred(one, view.strength)) for one in scaled]
        seen.append(SeenView(view.name, 0.9, tuple(np.quantile(values, QUANTILES).tolist())))
    scale = Scale(tuple(seen), len(scaled), (), limit(seen, 0.0))
    judged = [Image.open(path).convert("RGB") for path in files[1::8]]
    assert len(judged) > 40
    least = {16: 0.8, 20: 0.9, 28: 0.95, 36: 0.95}  # by px at network size
    for quality in (None, 92, 75, 50):
        medians = []
        for width in (0, 4, 8, *least):
            seen_as = [photograph_of(one, width * min(one.size) / 256, quality) for one in judged]
            answers = [scale.judge(sharpness(pixels)) for pixels in seen_as]
            beyond = float(np.mean([answer.beyond for answer in answers]))
            assert beyond >= least[width] if width in least else beyond <= 0.1, (quality, width, beyond)
            medians.append(np.median([answer.sharpness for answer in answers]))
        assert (np.diff(medians) < 0).all()
        assert {answer.like for answer in answers} == {"gaussian 8"}


def test_images_are_told_apart(
    run_folder: Path, drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blurry = tmp_path / "blurry"
    blurry.mkdir()
    for file in sorted(drawn.iterdir())[:20]:
        pixels = np.asarray(Image.open(file)).transpose(2, 0, 1)
        Image.fromarray(blurred(pixels, 9.0).transpose(1, 2, 0)).save(blurry / file.name)
    rows = list(predict(run_folder, [drawn, blurry], Asked(blur_check=True)))
    judged = [row.blur for row in rows if row.blur is not None]
    assert len(judged) == len(rows) == 60
    sharp = [one.like for one in judged[:40]]
    assert sharp.count("clean") > 30
    assert not any(one.beyond for one in judged[:40])
    assert {one.like for one in judged[40:]} == {"gaussian 3"}
    beyond = sum(one.beyond for one in judged[40:])
    assert beyond > 10  # 64 px are soon all blur
    write(rows, "csv", Asked(blur_check=True), tmp_path / "rows.csv")
    said = capsys.readouterr().err
    assert (
        f"note: {beyond} files are blurrier than what the head was tested on: beyond_tested is true in the row" in said
    )
    write(rows[:40], "csv", Asked(blur_check=True), tmp_path / "rows.csv")
    assert "blurrier" not in capsys.readouterr().err


def test_other_test_images_are_refused(run_folder: Path) -> None:
    run = load_run(run_folder)
    other = replace(run.config, data=DataConfig(glyphs=replace(run.config.data.glyphs, seed=5)))
    with pytest.raises(RunError, match=r"the test images of .* are not those any more that it was tested on"):
        scale_of(run, other)


def test_a_missing_cache_is_made_again(run_folder: Path, tmp_path: Path, few: Config) -> None:
    run = load_run(run_folder)
    there = scale_of(run, replace(run.config, cache=tmp_path / "cache"))
    (run_folder / SHARPNESS).unlink()
    assert scale_of(run, few) == there


def test_a_scale_is_no_part_of_the_result(run_folder: Path) -> None:
    run = load_run(run_folder)
    scale_of(run, run.config)
    before = (run_folder / RESULT).read_bytes()
    finish(run_folder, {key: value for key, value in run.result.items() if key != "files"})
    assert (run_folder / SHARPNESS).exists()
    assert (run_folder / RESULT).read_bytes() == before
