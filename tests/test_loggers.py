"""Loggers of Lightning against the run's own tables, and what may be named by whom."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

import blurtrain
from blurtrain import runs, trust
from blurtrain.cli import main
from blurtrain.config import Config
from blurtrain.errors import ConfigError

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "loggers.md").read_text(encoding="utf-8")
CSV = "pytorch_lightning.loggers.CSVLogger"
OWN = """
from pathlib import Path
from pytorch_lightning.loggers import Logger

Path("was_run").touch()

class Lines(Logger):
    def __init__(self, file, fails=False):
        super().__init__()
        self.file, self.fails = Path(file), fails

    name, version = "lines", 0

    def log_hyperparams(self, params):
        self._add("hyperparameters", sorted(params))

    def log_metrics(self, metrics, step=None):
        if self.fails:
            raise ConnectionError("no server answers")
        self._add(step, metrics)

    def _add(self, *what):
        with self.file.open("a") as file:
            print(*what, file=file)

class NoLogger:
    pass
"""


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    before = set(trust._allowed)
    yield
    trust._allowed.clear()
    trust._allowed.update(before)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a module of the user's own, from where commands are run."""
    (tmp_path / "mylogs.py").write_text(OWN)
    (tmp_path / "breaks.py").write_text("raise RuntimeError('on purpose')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])  # as in an installed command
    for name in ("mylogs", "breaks"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


def words_of(config: Config, folder: Path) -> list[str]:
    """A command that trains a config, its features stored already."""
    path = folder / "config.yaml"
    values = yaml.safe_load((config.run_folder / "config.yaml").read_text())
    path.write_text(yaml.safe_dump({**values, "runs": str(folder / "runs")}))
    return ["train", "--config", str(path)]


@pytest.mark.usefixtures("quiet", "few_runs")
def test_csv_has_the_numbers_of_the_sweep(few: Config, tmp_path: Path) -> None:
    arms = [few.baseline(), few]
    for config in arms:
        named = {CSV: {"save_dir": str(tmp_path), "name": config.arm, "version": ""}}
        blurtrain.train(replace(config, runs=tmp_path / "runs", loggers=named))
    for config in arms:
        with (tmp_path / config.arm / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        sweep = json.loads((tmp_path / "runs" / config.run_folder.name / "sweep.json").read_text())
        for metric in ("accuracy", "macro_accuracy", "nll", "ece"):
            tag = f"sweep gaussian/{metric}"
            logged = {int(row["step"]): float(row[tag]) for row in rows if row[tag]}
            assert logged == pytest.approx({round(100 * row["strength"]): row[metric] for row in sweep})
        (final,) = [row for row in rows if row["test/accuracy clean"]]
        assert float(final["test/accuracy clean"]) == pytest.approx(sweep[0]["accuracy"])
        result = json.loads((tmp_path / "runs" / config.run_folder.name / "run.json").read_text())
        curve = [row for row in rows if row["train/nll"]]
        assert [int(row["step"]) for row in curve] == list(range(result["head"]["iterations"]))
        hyperparameters = yaml.safe_load((tmp_path / config.arm / "hparams.yaml").read_text())
        assert hyperparameters["arm"] == config.arm


@pytest.mark.usefixtures("few_runs")
def test_arms_are_told_apart_where_no_name_is_given(
    few: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {CSV: {"save_dir": str(tmp_path / "logs")}}
    blurtrain.compare(replace(few, runs=tmp_path / "runs", loggers=given))
    said = capsys.readouterr().err.splitlines()
    names = [arm.run_folder.name for arm in (few.baseline(), few)]
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == sorted(names)
    for name in names:
        folder = tmp_path / "logs" / name / "version_0"
        assert yaml.safe_load((folder / "hparams.yaml").read_text())["arm"] == name.removeprefix(f"{few.experiment}-")
        assert said.count(f"{name}: logged by CSVLogger") == 1


@pytest.mark.parametrize("given", [{}, {"name": "mine"}, {"name": None}])
def test_each_logger_has_the_run_as_its_own_class_calls_it(tmp_path: Path, given: dict[str, Any]) -> None:
    from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger

    from blurtrain import loggers

    for kind in (CSVLogger, TensorBoardLogger, WandbLogger):
        assert loggers._named(kind, {"save_dir": "x", **given}, "run") == {"save_dir": "x", "name": "run", **given}
    assert loggers._named(MLFlowLogger, {"experiment_name": "x"}, "run") == {"experiment_name": "x", "run_name": "run"}
    assert loggers._named(MLFlowLogger, {"run_name": "x"}, "run") == {"run_name": "x"}
    assert loggers._named(CometLogger, {"project": "x"}, "run") == {"project": "x"}
    logger = loggers._made("pytorch_lightning.loggers.TensorBoardLogger", {"save_dir": str(tmp_path), **given}, "run")
    assert logger.name == ({"name": "run", **given}["name"] or "")


@pytest.mark.usefixtures("quiet", "few_runs")
def test_a_logger_changes_no_result(few: Config, tmp_path: Path) -> None:
    logged = replace(few, loggers={CSV: {"save_dir": str(tmp_path)}})
    assert logged.identity() == few.identity()
    assert runs.is_finished(logged)
    assert not list(tmp_path.iterdir())  # a finished run is not logged again


@pytest.mark.usefixtures("few_runs")
def test_an_own_logger_is_run_where_the_command_line_names_it(
    few: Config, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(few, own)
    config = own / "config.yaml"
    config.write_text(f"{config.read_text()}loggers: {{mylogs.Lines: {{file: lines.txt}}}}\n")
    assert main(words) == 2
    assert "mylogs.Lines is code, which no file may start" in capsys.readouterr().err
    assert not (own / "was_run").exists()
    assert main([*words, "--loggers", "{mylogs.Lines: {file: lines.txt}}"]) == 0
    lines = (own / "lines.txt").read_text().splitlines()
    assert lines[0].startswith("hyperparameters ['arm', 'augment', 'backbone',")
    assert lines[-1].startswith("0 {'test/accuracy clean'")


@pytest.mark.usefixtures("few_runs")
def test_what_a_logger_is_given_stands_in_no_file_and_no_sentence(
    few: Config, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = words_of(few, own)
    assert main([*words, "--loggers", "{mylogs.Lines: {file: lines.txt, api_key: SECRET}}"]) == 2
    assert "does not take file, api_key (TypeError" in (error := capsys.readouterr().err)
    assert "SECRET" not in error
    assert main([*words, "--loggers", "{mylogs.Lines: {file: SECRET}}"]) == 0
    files = [path for path in (own / "runs").rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if b"SECRET" in path.read_bytes()]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("end", ["finish", "end"])
def test_what_a_service_runs_is_ended_with_its_arm(end: str, *, fails: bool) -> None:
    """W&B and Comet go on with what is not ended, and would put the next arm's numbers into it."""
    from pytorch_lightning.loggers import Logger

    from blurtrain import loggers

    class Service(Logger):
        name, version, experiment = "service", 0, SimpleNamespace()

        def log_hyperparams(self, *_: object, **__: object) -> None:
            done.append("hyperparameters")

        def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
            if fails:
                raise OSError
            done.append((list(metrics), step))

    done: list[Any] = []
    setattr(Service.experiment, end, lambda: done.append(end))
    with pytest.raises(OSError) if fails else nullcontext():  # noqa: PT011
        loggers._write(Service(), [("sweep/a", 1, 0.5), ("sweep/b", 1, 0.6)], {}, {"test/a": 0.7})
    logged = [] if fails else [(["sweep/a", "sweep/b"], 1), (["test/a"], 0)]
    assert done == ["hyperparameters", *logged, end]


@pytest.mark.usefixtures("few_runs")
def test_a_logger_that_fails_later_loses_no_run(few: Config, own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = "{mylogs.Lines: {file: lines.txt, fails: true}}"
    assert main([*words_of(few, own), "--loggers", named]) == 0
    said = capsys.readouterr().err
    assert "mylogs.Lines failed and is left out: no server answers" in said
    assert "logged by" not in said
    assert runs.is_finished(replace(few, runs=own / "runs"))


def test_a_file_starts_nothing_that_lies_in_the_working_folder(
    own: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lightning's loggers may be named by a file: neither a folder called like it nor what they import is run then."""
    code = f"open({str(own / 'ran')!r}, 'w').close()\n"
    (own / "lightning/pytorch").mkdir(parents=True)
    for name in ("lightning/__init__.py", "lightning/pytorch/__init__.py", "lightning/pytorch/loggers.py"):
        (own / name).write_text(code)
    for name in ("comet_ml", "mlflow"):
        (own / f"{name}.py").write_text(code)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(own)])
    for path in ("lightning.pytorch.loggers.CSVLogger", "pytorch_lightning.loggers.MLFlowLogger"):
        (own / "c.yaml").write_text(f"loggers: {{{path}: {{}}}}\n")
        assert main(["train", "--config", "c.yaml", "--runs", str(own / "runs"), "--cache", str(own / "cache")]) == 2
        assert path in capsys.readouterr().err
    assert not (own / "ran").exists()


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("{pytorch_lightning.loggers.Nonsense: {}}", "is no logger of Lightning"),
        ("{nowhere.Logs: {}}", "there is no module nowhere, neither installed nor in"),
        ("{Logs: {}}", "is no logger of Lightning"),
        ("{mylogs.NoLogger: {}}", "is no logger of Lightning"),
        ("{breaks.Logs: {}}", "breaks cannot be imported (RuntimeError: on purpose)"),
        ("{pytorch_lightning.loggers.CSVLogger: {folder: logs}}", "does not take folder (TypeError:"),
        ("{pytorch_lightning.loggers.CometLogger: {}}", "needs a library that is not installed: pip install comet-ml"),
        ("[pytorch_lightning.loggers.CSVLogger]", "loggers"),
        ("{mylogs.Lines: {class_path: mylogs.Lines}}", "a config names no Python classes"),
    ],
)
def test_mistakes_are_told_before_any_work(
    named: str, said: str, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--runs", str(own / "runs"), "--cache", str(own / "cache"), "--loggers", named]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not (own / "runs").exists()


def blocks(kind: str) -> list[str]:
    """Blocks of the page in one language."""
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(3))
def test_the_page_says_the_same_in_yaml_and_on_the_command_line(number: int) -> None:
    import shlex

    from blurtrain.parsers import config_of, config_parser

    named: dict[str, Any] = yaml.safe_load(blocks("yaml")[number])
    words = shlex.split(blocks("console")[number])
    parser = config_parser("train")
    config = config_of(parser, parser.parse_words(words[2:]))
    assert config.loggers == named["loggers"]


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("number", range(3))
def test_what_the_page_names_is_there_or_asks_for_its_library(number: int) -> None:
    from blurtrain import loggers

    named = yaml.safe_load(blocks("yaml")[number])["loggers"]
    library = ("pytorch_lightning", "mlflow", "wandb")[number]
    try:
        __import__(library)
    except ImportError:
        with pytest.raises(ConfigError, match="needs a library that is not installed"):
            loggers.check(named)
    else:
        loggers.check(named)
