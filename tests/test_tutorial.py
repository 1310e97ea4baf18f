"""docs/tutorial.md does what it says: its commands are run in order, on drawn photographs and on the real ones."""

import csv
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter

from blurtrain.cli import main
from blurtrain.runs import config_from
from tests.test_photographs import PHOTOS, SHARED

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
DOWNLOADED = "weights: IMAGENET1K_V1"
WITHOUT_TORCH = """
import runpy, sys

class Blocked:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "torchvision", "blurtrain", "cv2", "scipy"):
            raise ImportError(name)

sys.meta_path.insert(0, Blocked())
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LEFT_OUT = "..."


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def file_of(kind: str, name: str) -> str:
    """What the page puts into a file: a block that begins with its name."""
    (text,) = (block for block in blocks(kind) if block.startswith(f"# {name}\n"))
    return str(text)


def steps() -> Iterator[tuple[list[str], list[str]]]:
    """The words of each command and the lines that it answers with."""
    for block in blocks("console"):
        command, *answer = block.splitlines()
        assert command.startswith("$ ")
        yield shlex.split(command[2:]), answer


def follow(weights: Path, capfd: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Do what the page says in the working folder, with a file of weights as it says; all lines of each command."""
    config = file_of("yaml", "photos.yaml")
    assert config.count(DOWNLOADED) == 1
    Path("photos.yaml").write_text(config.replace(DOWNLOADED, f"weights: {weights}"))
    Path("classify.py").write_text(file_of("python", "classify.py"))
    said = []
    for (program, *words), _ in steps():
        capfd.readouterr()
        if program == "blurtrain":
            assert main(words) == 0
        else:
            assert program == "python"
            rest = f"import sys; sys.argv = {words!r}\n{WITHOUT_TORCH}"
            subprocess.run([sys.executable, "-I", "-c", rest], check=True)
        out, err = capfd.readouterr()
        said.append([*err.splitlines(), *out.splitlines()])
    return said


def draw(folder: Path, count: int, stripes: int, seed: int) -> None:
    """JPEG photographs of noise with stripes, whose width is what a class is told by."""
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        height, width = rng.integers(250, 330, 2)
        wave = np.sin(np.arange(width) * 2 * np.pi / stripes + rng.uniform(0, 6))
        pixels = 120 + 60 * wave[None, :, None] + rng.normal(0, 25, (height, width, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.jpg")


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tutorial's working folder, with drawn photographs."""
    draw(tmp_path / "photos" / "ants", 16, 6, 1)
    draw(tmp_path / "photos" / "bees", 16, 40, 2)
    draw(tmp_path / "new", 2, 6, 3)
    (tmp_path / "new" / "00.jpg").rename(tmp_path / "new" / "ant.jpg")
    (tmp_path / "new" / "01.jpg").rename(tmp_path / "new" / "bee.jpg")
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_every_command_runs_on_any_photographs(
    drawn: None, weights_file: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    del drawn
    said = follow(weights_file("squeezenet1_1"), capfd)
    by_command = {tuple(words[:2]): lines for (words, _), lines in zip(steps(), said, strict=True)}
    assert [words[1] for words, _ in steps()] == [
        "check-data",
        *("preview", "compare", "compare"),
        "predict",
        "export",
        "classify.py",
    ]
    for name in ("comparison.csv", "comparison.json", "classes.csv", "images.csv", "figures/accuracy.png"):
        assert Path("runs/compare-photos-squeezenet1_1", name).stat().st_size > 0
    assert Path("runs/preview-photos-squeezenet1_1.png").exists()
    assert Path("classifier-card.md").read_text().startswith("# Model card: photos-squeezenet1\\_1-augmented\n")
    found = by_command["blurtrain", "predict"]
    start = next(i for i, line in enumerate(found) if line.startswith("path,"))
    rows = {row["path"]: row for row in csv.DictReader(found[start:])}
    ((_, words),) = ((answer, words) for words, answer in steps() if words[1] == "predict")
    assert words[2] == "runs/photos-squeezenet1_1-augmented"
    assert list(rows) == ["new/ant.jpg", "new/bee.jpg"]
    assert {row["error"] for row in rows.values()} == {""}
    label, probability = by_command["python", "classify.py"][-1].split()
    assert label == rows["new/bee.jpg"]["class"]
    assert float(probability) == pytest.approx(float(rows["new/bee.jpg"]["probability"]), abs=2e-3)


def numbers_and_words(line: str) -> tuple[list[float], str]:
    """A line's numbers, and what is between them; times are no result."""
    line = re.sub(r"about \d+ (s|min|minutes)", "about a while", line)
    numbers = [float(text.replace(",", "")) for text in re.findall(r"\d[\d,]*\.?\d*(?:e-\d+)?|\.\d+", line)]
    return numbers, " ".join(re.sub(r"[\d.]+(e-\d+)?", "#", line.replace(",", "")).split())


def is_like(line: str, other: str) -> bool:
    """Whether two lines say the same, up to what another version of a library changes in the last digits."""
    (numbers, words), (others, their_words) = numbers_and_words(line), numbers_and_words(other)
    same = words == their_words and len(numbers) == len(others)
    return same and all(abs(a - b) <= max(0.31, 0.02 * abs(a)) for a, b in zip(numbers, others, strict=True))


@pytest.mark.slow
def test_the_output_is_that_of_ants_and_bees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    weights = SHARED / "weights" / "squeezenet1_1.safetensors"
    if not (PHOTOS.is_dir() and weights.is_file()):
        pytest.skip("needs the photographs and weights of ../shared beside the repository")
    for path in PHOTOS.glob("*/*/*"):
        target = tmp_path / "photos" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "photos/ants/11381045_b352a47d8c.jpg", tmp_path / "new/ant.jpg")
    shutil.move(tmp_path / "photos/bees/144098310_a4176fd54d.jpg", tmp_path / "new/bee.jpg")
    with Image.open(tmp_path / "new/bee.jpg") as image:
        image.filter(ImageFilter.GaussianBlur(16)).save(tmp_path / "new/shaken.jpg")
    monkeypatch.chdir(tmp_path)
    for (words, shown), said in zip(steps(), follow(weights, capfd), strict=True):
        rest = iter(said)
        for line in shown:
            if line not in ("", LEFT_OUT):
                assert any(is_like(line, other) for other in rest), f"{words}: no line like {line!r} in {said}"
        if LEFT_OUT not in shown:  # then the page leaves out but the notes on a local file and on the GIF
            others = [line for line in said if not line.startswith("note: ")]
            assert len(others) == len(shown)


def test_the_text_quotes_its_own_table() -> None:
    (table,) = (answer for words, answer in steps() if words[1] == "compare" and "--dry_run" not in words)
    (section,) = re.findall(r"^## Read the table\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
    quoted = set(re.findall(r"\d+\.\d", section))
    assert len(quoted) >= 6
    assert quoted <= set(re.findall(r"\d+\.\d", "\n".join(table)))


def test_the_config_is_that_of_the_project_with_a_root() -> None:
    ours, theirs = (
        config_from(yaml.safe_load(text))
        for text in (file_of("yaml", "photos.yaml"), (ROOT / "configs" / "photos.yaml").read_text(encoding="utf-8"))
    )
    assert ours == replace(theirs, data=ours.data, backbone=replace(theirs.backbone, name="squeezenet1_1"))
    assert ours.data.root == "photos"


def test_the_script_has_ten_lines() -> None:
    _, _, body = file_of("python", "classify.py").partition("\nsession = ")
    assert len(body.strip().splitlines()) == 10


def test_pages_that_are_named_exist() -> None:
    assert all((ROOT / "docs" / name).is_file() for name in re.findall(r"\]\(([\w.]+)\)", PAGE))
