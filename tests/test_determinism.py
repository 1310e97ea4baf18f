"""The same config gives the same bytes; threads, workers and batch sizes change no decision."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import blurtrain
from blurtrain import fitting, runs
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig

pytestmark = pytest.mark.usefixtures("quiet")
CORES = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
ARMS = ("runs/same-baseline", "runs/same-augmented")
EVENTS = "events.out.tfevents."
HEADS = ("head.safetensors", "heads-folds.safetensors")
RUN_FILES = {"config.yaml", "run.json", "work.json", "predictions.parquet", "sweep.csv", "sweep.json", *HEADS}
COMPARISON_FILES = {"comparison.json", "comparison.csv", "accuracy.png", "report.html"}

SMALL = Config(
    name="same",
    data=DataConfig(glyphs=GlyphsConfig(train=120, test=60)),
    copies=(BlurGrid("gaussian", (1.0,)),),
    sweep=(BlurGrid("gaussian", (0.0, 2.0)), BlurGrid("motion", (9.0,), angle=30.0)),
    head=HeadConfig(l2=(0.01, 0.1, 1.0), folds=2),
    minibatch=MinibatchConfig(epochs=1, learning_rate=0.01),
    batch_size=8,
    runs=Path("runs"),
    cache=Path("cache"),
)
MODES = {
    "onnxruntime": replace(SMALL, engine="onnxruntime"),
    "torch": replace(SMALL, engine="torch"),
    "fresh": replace(SMALL, cache=False),
}
STORED = pytest.mark.parametrize("mode", ["onnxruntime", "torch"])
EVERY = pytest.mark.parametrize("mode", MODES)


def compared(folder: Path, config: Config, threads: int = 1) -> Path:
    """A comparison made in a folder; its paths are relative, so its files do not tell where they lie."""
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder), using_threads(threads):
        blurtrain.compare(config)
    return folder


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """So many threads for everything that asks."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(count)), raising=False)
        torch.set_num_threads(count)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A comparison of each mode, made once."""
    made: dict[str, Path] = {}

    def of(mode: str) -> Path:
        if mode not in made:
            made[mode] = compared(tmp_path_factory.mktemp(mode), MODES[mode])
        return made[mode]

    return of


def artefacts(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, event files aside."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and EVENTS not in path.name]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def events(folder: Path) -> dict[str, list[bytes]]:
    """What the event files below a folder hold, without the times at which it was written.

    Hyperparameters are a map, whose order protobuf leaves open and changes from process to process.
    """
    found = {}
    for path in sorted(folder.rglob(f"{EVENTS}*")):
        told = []
        for event in EventFileLoader(str(path)).Load():
            event.wall_time = 0
            for value in event.summary.value:
                data = value.metadata.plugin_data
                if data.plugin_name == "hparams":
                    data.content = HParamsPluginData.FromString(data.content).SerializeToString(deterministic=True)
            told.append(event.SerializeToString(deterministic=True))
        found[str(path.parent.relative_to(folder))] = told
    return found


def features(folder: Path) -> dict[str, dict[bytes, np.ndarray]]:
    """Stored features by table and image."""
    tables: dict[str, dict[bytes, np.ndarray]] = {}
    for path in sorted((folder / "cache" / "features").rglob("[!.]*.safetensors")):
        shard = load_file(path)
        rows = tables.setdefault(path.parent.name, {})
        rows.update(zip((name.tobytes() for name in shard["ids"]), shard["features"], strict=True))
    return tables


def require_same_bytes(one: Path, two: Path) -> None:
    ours, theirs = artefacts(one), artefacts(two)
    assert set(ours) == set(theirs)
    assert [name for name in ours if ours[name] != theirs[name]] == []
    names = {Path(name).name for name in ours}
    assert names >= RUN_FILES | COMPARISON_FILES
    told = events(one)
    assert sorted(told) == ["runs/compare-same", "runs/same-augmented", "runs/same-baseline"]
    assert all(len(lines) > 5 for folder, lines in told.items() if folder in ARMS)
    assert events(two) == told


def require_same_decisions(one: Path, two: Path) -> None:
    """The same features to 1e-5 of their scale, much the same heads, and the same predicted classes."""
    ours, theirs = features(one), features(two)
    assert {table: set(rows) for table, rows in ours.items()} == {table: set(rows) for table, rows in theirs.items()}
    for table, rows in ours.items():
        scale = max(float(np.abs(row).max()) for row in rows.values())
        for image, row in rows.items():
            np.testing.assert_allclose(theirs[table][image], row, rtol=0, atol=1e-5 * scale)
    for arm in ARMS:
        for name in HEADS:
            heads = [load_file(folder / arm / name) for folder in (one, two)]
            for key, values in heads[0].items():
                np.testing.assert_allclose(heads[1][key], values, rtol=0, atol=1e-3 * float(np.abs(values).max()))
        tables = [pq.read_table(folder / arm / "predictions.parquet") for folder in (one, two)]
        for column in ("image", "view", "head", "label", "predicted"):
            assert tables[0][column].equals(tables[1][column]), column
        chances = [table["probability"].to_numpy() for table in tables]
        np.testing.assert_allclose(chances[1], chances[0], rtol=0, atol=1e-3)
        summaries = [runs.load_run(folder / arm).result["head"] for folder in (one, two)]
        assert summaries[0].get("l2") == summaries[1].get("l2")


@EVERY
def test_the_same_config_gives_the_same_bytes(first: Callable[[str], Path], tmp_path: Path, mode: str) -> None:
    require_same_bytes(first(mode), compared(tmp_path / "again", MODES[mode]))


@STORED
def test_threads_change_no_decision(first: Callable[[str], Path], tmp_path: Path, mode: str) -> None:
    require_same_decisions(first(mode), compared(tmp_path / "two", MODES[mode], threads=2))


@pytest.mark.slow
@EVERY
def test_threads_where_they_are_not_worth_it_change_no_decision(
    first: Callable[[str], Path], tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "WORTH_THREADS", 0)
    require_same_decisions(first(mode), compared(tmp_path / "two", MODES[mode], threads=2))


@STORED
def test_batch_size_changes_no_decision(first: Callable[[str], Path], tmp_path: Path, mode: str) -> None:
    require_same_decisions(first(mode), compared(tmp_path / "large", replace(MODES[mode], batch_size=64)))


@pytest.mark.slow
def test_workers_change_no_decision(first: Callable[[str], Path], tmp_path: Path) -> None:
    config = replace(MODES["fresh"], minibatch=replace(SMALL.minibatch, workers=2))
    require_same_decisions(first("fresh"), compared(tmp_path / "workers", config))


# Whole processes on one and on two cores


def in_process(folder: Path, mode: str, cores: int, hash_seed: int) -> Path:
    """The comparison made by a process of its own, whose sets have an order of their own."""
    folder.mkdir()
    program = (
        f"import os; os.sched_setaffinity(0, {CORES[:cores]})\n"
        "from tests.test_determinism import MODES\n"
        f"import blurtrain; blurtrain.compare(MODES[{mode!r}])"
    )
    environment = {
        **{key: value for key, value in os.environ.items() if key != "PYTEST_XDIST_WORKER"},
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": str(Path(__file__).parents[1]),
        "OMP_NUM_THREADS": str(cores),
    }
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
@pytest.mark.skipif(len(CORES) < 2, reason="needs two cores")
@EVERY
def test_processes_with_one_and_two_cores_agree(tmp_path: Path, mode: str) -> None:
    two = in_process(tmp_path / "two", mode, 2, hash_seed=1)
    require_same_bytes(two, in_process(tmp_path / "again", mode, 2, hash_seed=2))
    require_same_decisions(two, in_process(tmp_path / "one", mode, 1, hash_seed=3))
