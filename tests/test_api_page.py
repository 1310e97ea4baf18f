"""docs/api.md does what it says: its code is run in its order, and prints what stands below it."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from blurtrain import BlurClassifier
from tests.test_export import answers, pixels_of
from tests.test_tutorial import numbers_and_words

PAGE = (Path(__file__).parents[1] / "docs" / "api.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.DOTALL | re.MULTILINE)

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore:Found .* in eval mode at the start of training"),  # which is the point
    pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]


def near(ours: float, theirs: float) -> bool:
    """Whether two numbers are the same up to what another version of a library changes."""
    return abs(ours - theirs) <= (0.05 if max(ours, theirs) <= 1 else 3)


def run_page() -> dict[str, Any]:
    """All names that the page's code leaves, run in the working folder; each block must print what the page shows."""
    names: dict[str, Any] = {}
    for code, shown in BLOCK.findall(PAGE):
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile(code, "docs/api.md", "exec"), names)
        lines = [numbers_and_words(line) for line in out.getvalue().splitlines()]
        expected = [numbers_and_words(line) for line in shown.splitlines()]
        assert [words for _, words in lines] == [words for _, words in expected]
        for (ours, _), (theirs, _) in zip(lines, expected, strict=True):
            assert all(map(near, ours, theirs)), (ours, theirs)
    return names


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_page()
    config, found, folder = names["config"], names["found"], names["folder"]

    # "called again, it reads what is there"
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")}
    assert names["compare"](config) == folder
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")} == before

    # what the figures are said to be
    assert names["read_comparison"](str(folder)) == found
    view = found["views"][-1]["arms"]["augmented"]
    assert view["accuracy"] == pytest.approx(sum(view["correct"]) / (200 * len(view["correct"])))
    by_view = {row["view"]: row["accuracy"] for row in names["rows"]}
    assert by_view == {row["name"]: pytest.approx(row["arms"]["augmented"]["accuracy"]) for row in found["views"]}
    assert config.baseline().run_folder == Path("runs/small-baseline")

    # the training of one's own
    assert 1 < names["trainer"].current_epoch < 20
    kinds = [f"{stage}/{kind}" for stage in ("validation", "test") for kind in ("nll", "accuracy", "macro_accuracy")]
    assert re.findall(r"`((?:validation)/\w+)`", PAGE) == kinds[:3]
    assert {*names["result"]} == {*kinds[3:]}
    stored = torch.load("checkpoints/best.ckpt", weights_only=True)
    assert stored["callbacks"]
    again = BlurClassifier.from_run(str(config.run_folder))
    assert again.head.weight.requires_grad

    # the exported file is the loaded classifier
    pixels = pixels_of(Path("photos"))
    expected = names["classifier"](torch.from_numpy(pixels)).numpy()
    assert answers(Path("classifier.onnx"), pixels) == pytest.approx(expected, abs=1e-5)
    for i, path in enumerate(sorted(Path("photos").iterdir())):
        assert torch.equal(names["classifier"].read(path), torch.from_numpy(pixels[i]))


def test_every_code_block_is_run() -> None:
    assert len(BLOCK.findall(PAGE)) == PAGE.count("```python") == PAGE.count("```") // 2 - PAGE.count("```text")


def test_pages_that_are_named_exist() -> None:
    folder = Path(__file__).parents[1] / "docs"
    assert all((folder / name).is_file() for name in re.findall(r"\]\(([\w.]+)\)", PAGE))
