"""`blurtrain predict`: the answers of the run's own classifier, a row for every file, in order, whole or not at all."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import blurtrain
from blurtrain import engines
from blurtrain.classifier import BlurClassifier
from blurtrain.cli import main
from blurtrain.decoding import Geometry, decode
from blurtrain.errors import ConfigError, DataError, RunError
from blurtrain.predictions import Asked, files_of, predict
from blurtrain.reduction import square

pytestmark = [pytest.mark.usefixtures("quiet", "here")]

Rows = list[dict[str, str]]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[Rows, str]]:
    """Rows that a command prints as CSV, and what it says."""

    def run(*words: object) -> tuple[Rows, str]:
        capsys.readouterr()
        assert main(["predict", *map(str, words)]) == 0
        out, err = capsys.readouterr()
        return list(csv.DictReader(io.StringIO(out, newline=""))), err

    return run


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """The sentence of a command that must end with exit code 2."""

    def run(*words: object) -> str:
        capsys.readouterr()
        assert main(["predict", *map(str, words)]) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("blurtrain: error: ")
        return last.removeprefix("blurtrain: error: ")

    return run


def oracle(run: Path, files: list[Path]) -> np.ndarray:
    """Probabilities of the run's Lightning module on the same decoded pixels, one by one."""
    classifier = BlurClassifier.from_run(run).eval()
    geometry = classifier.backbone.preprocessing.geometry
    rows = []
    with torch.inference_mode():
        for file in files:
            pixels = torch.from_numpy(geometry.apply(decode(file.read_bytes()))).float() / 255
            rows.append(classifier.predict_step(pixels[None], 0).numpy()[0])
    return np.stack(rows)


# the answers


@pytest.mark.parametrize("arm", ["frozen", "adapt", "head+bn"])
def test_answers_are_those_of_the_classifier(arm: str, few_runs: dict[str, Path], drawn: Path) -> None:
    files = sorted(drawn.iterdir())
    expected = oracle(few_runs[arm], files)
    found = list(predict(few_runs[arm], [drawn], Asked(top=10)))
    assert [row.path for row in found] == [str(file) for file in files]
    names = list("0123456789")
    for row, probabilities in zip(found, expected, strict=True):
        given = dict(row.top)
        np.testing.assert_allclose([given[name] for name in names], probabilities, atol=1e-5)
        assert [share for _, share in row.top] == sorted(given.values(), reverse=True)
        assert row.error is None
        assert row.blur is None


def test_arms_differ(few_runs: dict[str, Path], drawn: Path) -> None:
    files = sorted(drawn.iterdir())[:4]
    some = [oracle(folder, files) for folder in few_runs.values()]
    assert all(np.abs(some[i] - some[j]).max() > 1e-3 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_answers_do_not_depend_on_the_batch_or_the_engine(
    few_runs: dict[str, Path], drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(predict(few_runs["frozen"], [drawn]))
    monkeypatch.setattr(engines, "CPU_BATCH", 3)
    assert list(predict(few_runs["frozen"], [drawn])) == first
    monkeypatch.setattr(engines, "build", lambda backbone, *_: engines.TorchEngine(backbone))
    for one, other in zip(predict(few_runs["frozen"], [drawn]), first, strict=True):
        assert one.top[0][1] == pytest.approx(other.top[0][1], abs=1e-5)


def test_exported_names(few_runs: dict[str, Path], drawn: Path) -> None:
    assert next(blurtrain.predict(few_runs["frozen"], [drawn])).path == str(drawn / "00.png")


def test_a_large_jpeg_is_decoded_at_a_part_of_its_size() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).resize((1600, 1200))
    data = io.BytesIO()
    image.save(data, "JPEG")
    geometry = Geometry(128, 112)
    np.testing.assert_array_equal(square(data.getvalue(), geometry), geometry.apply(decode(data.getvalue(), 2)))
    small = Geometry(64, 64)  # such networks see the difference
    np.testing.assert_array_equal(square(data.getvalue(), small), small.apply(decode(data.getvalue())))


# which files


def test_files_folders_and_patterns_in_their_order(drawn: Path, tmp_path: Path) -> None:
    for name in ("b/deep/2.png", "b/1.PNG", "b/.hidden/3.png", "b/notes.txt", "a.png", "c1.png", "c2.png", "c.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(drawn / "00.png", tmp_path / name)
    assert list(map(str, files_of(["c*", "b", "a.png", "a.png"]))) == [
        *("c1.png", "c2.png", "b/1.PNG", "b/deep/2.png", "a.png", "a.png")
    ]
    assert list(map(str, files_of(["b/**"]))) == ["b/1.PNG", "b/deep/2.png"]  # of folders, and of what is in them
    assert list(map(str, files_of(["**/*.png"]))) == ["a.png", "b/deep/2.png", "c1.png", "c2.png"]
    (tmp_path / "[x].png").write_bytes(b"")  # a name that looks like a pattern is a name
    assert list(map(str, files_of(["[x].png", "c.txt"]))) == ["[x].png", "c.txt"]


def test_what_stands_for_nothing_is_refused(
    few_runs: dict[str, Path], tmp_path: Path, refused: Callable[..., str]
) -> None:
    run = few_runs["frozen"]
    kinds = ".bmp, .gif, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"
    (tmp_path / "empty").mkdir()
    assert refused(run, "empty") == f"folder empty has no images ({kinds}): give one that has"
    assert refused(run, "*.jpg") == f"pattern '*.jpg' matches no images ({kinds}): give one that does"
    assert refused(run, "x.jpg") == "x.jpg is no file and no folder: give images, folders or patterns"
    assert refused("empty", "x.jpg").startswith("empty holds no readable config.yaml: give the folder of a run")
    assert "paths" in refused(run)
    assert refused(run, run, "--top", "0") == "top must be at least 1, got 0"
    assert refused(run, run, "--least_accuracy", "2") == "least_accuracy must be from 0 to 1, got 2.0"
    assert refused(run, run, "--out", "empty") == "out must be a file, and empty is a folder"


def test_an_unfinished_run_is_refused(few_runs: dict[str, Path], tmp_path: Path, drawn: Path) -> None:
    shutil.copytree(few_runs["frozen"], tmp_path / "half")
    (tmp_path / "half" / "run.json").unlink()
    with pytest.raises(RunError, match=r"half is not finished: run blurtrain train --config .*half/config.yaml"):
        predict(tmp_path / "half", [drawn])


def test_wrong_words_are_told_before_anything_is_read(few_runs: dict[str, Path], drawn: Path) -> None:
    for asked in (Asked(top=0), Asked(least_accuracy=-0.1)):
        with pytest.raises(ConfigError):
            predict(few_runs["frozen"], [drawn], asked)


# what is written


def test_a_row_has_no_more_classes_than_the_run(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    shutil.copy(drawn / "00.png", tmp_path / "one.png")
    (tmp_path / "two.png").write_bytes(b"no image")
    everything, _ = said(few_runs["frozen"], "one.png", "two.png", "--top", 10)
    beyond, _ = said(few_runs["frozen"], "one.png", "two.png", "--top", 1000)
    assert list(beyond[0]) == list(everything[0])
    assert beyond == everything


ODD = ['a,b".png', "new\nline.png", "ünï 🐜.png", "=1+1.png", "' .png"]


def test_odd_names_come_back_from_csv(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    (tmp_path / "odd").mkdir()
    for name in ODD:
        shutil.copy(drawn / "00.png", tmp_path / "odd" / name)
    raw = os.fsencode(tmp_path / "odd") + b"/\xff.png"  # no UTF-8
    Path(os.fsdecode(raw)).write_bytes((drawn / "00.png").read_bytes())
    rows, err = said(few_runs["frozen"], "odd", "--top", 2)
    assert [row["path"] for row in rows] == [*sorted(f"odd/{name}" for name in ODD), "odd/\\xff.png"]
    assert list(rows[0]) == ["path", "class", "probability", "class_2", "probability_2", "error"]
    assert len({row["probability"] for row in rows}) == 1
    assert [line.split()[0] for line in err.splitlines()] == ["classifying", "Found:", "Next:"]


def test_a_file_behind_a_switch_may_have_a_colon_in_its_name(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    shutil.copy(drawn / "00.png", tmp_path / "12:30.png")
    rows, _ = said(few_runs["frozen"], "--blur_check", "12:30.png")
    assert [row["path"] for row in rows] == ["12:30.png"]


def test_a_broken_file_has_a_row_that_says_so(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    (tmp_path / "some").mkdir()
    shutil.copy(drawn / "00.png", tmp_path / "some" / "a.png")
    (tmp_path / "some" / "b.png").write_bytes((drawn / "01.png").read_bytes()[:200])
    (tmp_path / "some" / "c.png").write_bytes(b"")
    shutil.copy(drawn / "02.png", tmp_path / "some" / "d.png")
    os.mkfifo(tmp_path / "some" / "e.png")  # would never end
    rows, err = said(few_runs["frozen"], "some", "--blur_check")
    assert [row["path"][-5:] for row in rows] == ["a.png", "b.png", "c.png", "d.png", "e.png"]
    assert [bool(row["class"]) for row in rows] == [True, False, False, True, False]
    assert rows[1]["error"].startswith("cannot be decoded")
    assert rows[2]["error"].startswith("is no image in a known format")
    assert rows[4]["error"] == "is no ordinary file"
    assert {rows[1][name] for name in ("probability", "sharpness", "blur_like", "beyond_tested")} == {""}
    whole = {row.path: row.top[0] for row in predict(few_runs["frozen"], [drawn])}
    assert (rows[3]["class"], float(rows[3]["probability"])) == whole[str(drawn / "02.png")]
    assert err.splitlines()[-3] == "note: 3 files could not be used: their rows say why"
    assert err.splitlines()[-2].endswith(", 3 not usable")


def test_nothing_but_broken_files_is_answered_too(few_runs: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    (row,) = predict(few_runs["frozen"], ["bad.png"])
    assert (row.top, row.error is None) == ((), False)


def test_where_no_file_can_be_classified_it_is_told_and_the_exit_code_is_1(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = [tmp_path / f"{name}.png" for name in "ab"]
    for path in bad:
        path.write_bytes(b"no image")
    for files, told in (
        (bad[:1], "the file could not be classified"),
        (bad, "none of 2 files could be classified"),
    ):
        assert main(["predict", str(few_runs["frozen"]), *map(str, files)]) == 1
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 1 + len(files)
        assert err.endswith(f"Found: {told}: the column error says why\nNext:  blurtrain predict --help\n")
    assert main(["predict", str(few_runs["frozen"]), str(bad[0]), str(drawn / "00.png")]) == 0


def test_a_broken_file_stops_who_asks_for_it(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    sentence = refused(few_runs["frozen"], drawn, "bad.png", "--on_bad_image", "error", "--out", "out.csv")
    assert sentence.startswith("bad.png is no image in a known format")
    assert sentence.endswith("mend or remove it, or give --on_bad_image skip")
    assert {path.name for path in tmp_path.iterdir()} == {"bad.png"}
    with pytest.raises(DataError, match=r"^bad.png is no image"):
        list(predict(few_runs["frozen"], ["bad.png"], Asked(on_bad_image="error")))


def test_lines_of_json_say_the_same(
    few_runs: dict[str, Path], drawn: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    run, words = few_runs["frozen"], ("--top", "3", "--blur_check")
    rows, _ = said(run, drawn, *words)
    assert main(["predict", str(run), str(drawn), *words, "--format", "jsonl", "--out", "deep/out.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("deep/out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == len(rows) == 40
    for line, row in zip(lines, rows, strict=True):
        assert (line["path"], line["class"], line["error"]) == (row["path"], row["class"], None)
        flat = [str(value) for one in line["top"] for value in (one["class"], f"{one['probability']:.6f}")]
        assert flat == [row[f"{name}{place}"] for place in ("", "_2", "_3") for name in ("class", "probability")]
        assert line["blur"]["blur_like"] == row["blur_like"]
        assert line["blur"]["beyond_tested"] is (row["beyond_tested"] == "true")
        assert line["probability"] == line["top"][0]["probability"]


def test_the_exported_network_is_kept_where_it_is_asked(
    few_runs: dict[str, Path], drawn: Path, tmp_path: Path, said: Callable[..., tuple[Rows, str]]
) -> None:
    first, _ = said(few_runs["frozen"], drawn)
    again, _ = said(few_runs["frozen"], drawn, "--cache", "other")
    assert again == first
    assert len(list((tmp_path / "other").rglob("network.onnx"))) == 1


# being stopped


def test_interrupted_it_leaves_no_file(few_runs: dict[str, Path], drawn: Path, tmp_path: Path) -> None:
    many = tmp_path / "many"
    many.mkdir()
    for number in range(8000):
        (many / f"{number}.png").symlink_to(drawn / f"{number % 40:02}.png")
    words = [sys.executable, "-m", "blurtrain", "predict", str(few_runs["frozen"])]
    words += [str(many), "--out", str(tmp_path / "out" / "rows.csv")]
    child = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, cwd=Path(blurtrain.__file__).parents[1])
    until = time.monotonic() + 60
    while not any(path.stat().st_size > 200 for path in tmp_path.glob("out/.partial-*")):
        assert child.poll() is None, child.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert (child.returncode, list((tmp_path / "out").iterdir())) == (130, [])
    assert err.endswith("\nblurtrain: interrupted; the same command begins anew\n")
    assert "Traceback" not in err
