"""The main job on real photographs and weights, where an optional folder beside the project has them."""

import json
from pathlib import Path

import pytest

from blurtrain.cli import main

SHARED = Path(__file__).parents[2] / "shared"
PHOTOS = SHARED / "data" / "hymenoptera"
CONFIG = Path(__file__).parents[1] / "configs" / "photos.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v2"])
def test_ants_and_bees(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = SHARED / "weights" / f"{name}.safetensors"
    if not (PHOTOS.is_dir() and weights.is_file()):
        pytest.skip("needs the photographs and weights of ../shared beside the repository")
    monkeypatch.chdir(tmp_path)
    words = ["--config", str(CONFIG), "--data.root", str(PHOTOS), "--backbone.name", name]
    words += ["--backbone.weights", str(weights)]
    if name == "mobilenet_v2":
        words += ["--backbone.mean=[0.5,0.5,0.5]", "--backbone.std=[0.5,0.5,0.5]"]
    assert main(["compare", *words]) == 0
    errors = capsys.readouterr().err
    assert errors.count("imageNotFound.gif is .gif unlike the others") == 1
    comparison = json.loads(Path(f"runs/compare-hymenoptera-{name}/comparison.json").read_text(encoding="utf-8"))
    assert comparison["n_test"] == 153
    assert [view["strength"] for view in comparison["views"]] == [0, 1, 2, 3, 4, 6, 8]
    assert [view["heavy"] for view in comparison["views"]] == [False] * 4 + [True] * 3
    clean = comparison["views"][0]["arms"]
    assert min(arm["accuracy"] for arm in clean.values()) >= 0.90
    assert main(["compare", *words]) == 0
    assert "finished already" in capsys.readouterr().err
