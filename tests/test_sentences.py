"""What goes wrong with sources, networks and unfinished runs, as the command line says it: one whole sentence each."""

import csv
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blurtrain import trust
from blurtrain.cli import main
from tests.conftest import fill_classes
from tests.test_bad_input import sentence_of
from tests.test_shards import write_tar

Refused = Callable[..., str]


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Photographs in the working folder."""
    monkeypatch.chdir(tmp_path)
    fill_classes(Path("photos"), 6)
    return sorted(Path("photos").rglob("*.*g"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must end with exit code 2, print and leave nothing; gives its sentence."""

    def run(*words: str) -> str:
        before = {path for path in Path().rglob("*") if "cache" not in path.parts}
        capsys.readouterr()
        code = main(words)
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert {path for path in Path().rglob("*") if "cache" not in path.parts} == before
        return sentence_of(err)

    return run


def listed(name: str, rows: list[tuple[object, ...]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    Path(name).write_text(text.getvalue(), encoding="utf-8")


# sources


def test_a_manifest_lacks_a_column(photos: list[Path], refused: Refused) -> None:
    listed("m.csv", [("path", "class"), *((path, path.parent.name) for path in photos)])
    sentence = (
        "m.csv has no column 'label' (it has path, class): give the columns path, label and perhaps split, whose names "
        "are told apart by case"
    )
    assert refused("compare", "--data.root", "m.csv") == sentence
    pq.write_table(pa.table({"path": [str(path) for path in photos], "class": ["a", "b"] * 9}), "m.parquet")
    assert refused("compare", "--data.root", "m.parquet") == sentence.replace("m.csv", "m.parquet")


def test_a_manifest_has_absolute_and_relative_paths(photos: list[Path], refused: Refused) -> None:
    rows = [(path.resolve() if i == 4 else path, path.parent.name) for i, path in enumerate(photos)]
    listed("m.csv", [("path", "label"), *rows])
    assert refused("compare", "--data.root", "m.csv") == (
        "row 6 of m.csv, column path has an absolute path, and row 2 a relative one: give one kind only"
    )


def test_labels_are_numbers_here_and_texts_there(photos: list[Path], refused: Refused) -> None:
    members = []
    for i, path in enumerate(photos):
        label = json.dumps({"label": 3 if i < 9 else path.parent.name}).encode()
        members += [(f"{i}{path.suffix}", path.read_bytes()), (f"{i}.json", label)]
    write_tar(Path("whole.tar"), members)
    assert refused("compare", "--data.root", "whole.tar") == (
        "0.json of shard whole.tar has a whole number for its label, and 9.json of shard whole.tar a text: give one "
        "kind only"
    )
    half = len(members) // 2
    for name, some in (("a.tar", members[:half]), ("b.tar", members[half:])):
        write_tar(Path(name), some)
    assert refused("compare", "--data.root", "{a,b}.tar") == (
        "0.json of shard a.tar has a whole number for its label, and 9.json of shard b.tar a text: give one kind only"
    )
    pq.write_table(pa.table({"path": [str(path) for path in photos], "label": [0.5] * 18}), "m.parquet")
    assert refused("compare", "--data.root", "m.parquet") == (
        "column label of m.parquet holds double: give texts or whole numbers"
    )


def test_parquet_files_of_the_hub_disagree_about_labels(photos: list[Path], refused: Refused) -> None:
    pytest.importorskip("datasets")
    image = [{"bytes": path.read_bytes(), "path": None} for path in photos[:4]]
    pq.write_table(pa.table({"image": image, "label": [0, 1, 0, 1]}), "train-0.parquet")
    pq.write_table(pa.table({"image": image, "label": ["a", "b"] * 2}), "train-1.parquet")
    assert refused("compare", "--data.root", "hf:train-*.parquet") == (
        "column label of hf:train-*.parquet holds int64 in train-0.parquet and string in train-1.parquet: give one "
        "kind only"
    )


def test_a_shard_is_cut_short(photos: list[Path], refused: Refused) -> None:
    members = []
    for i, path in enumerate(photos):
        members += [(f"{i}{path.suffix}", path.read_bytes()), (f"{i}.cls", path.parent.name.encode())]
    whole = write_tar(Path("a.tar"), members).read_bytes()
    Path("a.tar").write_bytes(whole[: len(whole) // 2])
    assert refused("compare", "--data.root", "a.tar") == (
        "shard a.tar is cut short or no plain tar file (unexpected end of data): make or fetch it again"
    )


# networks


def test_timm_is_not_installed(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert refused("compare", "--data.root", "photos", "--backbone.name", "timm:resnet18") == (
        "timm is not installed, and backbones called timm:NAME are its networks: pip install 'blurtrain[timm]'"
    )


NETS = """
from torch import nn

def pools():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))

def does_not():
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 2, 1))
"""


def test_a_network_has_no_pooling(monkeypatch: pytest.MonkeyPatch, refused: Refused) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_allowed", set())
    Path("unpooled_nets.py").write_text(NETS)
    words = ("--data.root", "photos", "--backbone.weights", "none", "--backbone.crop", "32")
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert refused("compare", *words, "--backbone.name", "unpooled_nets:does_not") == (
        "unpooled_nets:does_not without its last layer gives shape (1, 900), not the layer's 4 inputs: pool its maps "
        "to one value a channel, before or behind that layer"
    )
    assert main(["preview", *words, "--backbone.name", "unpooled_nets:pools"]) == 0  # with it, all is well
    del sys.modules["unpooled_nets"]


# runs


@pytest.mark.usefixtures("quiet")
def test_a_run_is_not_finished(few_runs: dict[str, Path], refused: Refused) -> None:
    shutil.copytree(few_runs["frozen"], "half")
    Path("half/run.json").unlink()
    sentence = "half is not finished: run blurtrain train --config half/config.yaml"
    assert refused("predict", "half", "photos") == sentence
    assert refused("export", "half", "--out", "x.onnx") == sentence
    assert refused("compare", "half", str(few_runs["adapt"])) == sentence
    assert refused("predict", "photos", "photos") == (
        "photos holds no readable config.yaml: give the folder of a run, such as runs/NAME"
    )
