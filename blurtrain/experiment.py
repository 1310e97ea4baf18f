"""From configs or runs to a comparison folder: trains what is missing, then tables, pictures and TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurtrain import breakdown, comparison, report, runs, tables
from blurtrain.arms import open_arms
from blurtrain.config import Config
from blurtrain.errors import ConfigError, RunError
from blurtrain.files import csv_text, read_sealed, remove_partial, write_json, write_sealed, write_text
from blurtrain.locks import held
from blurtrain.progress import meanwhile, say

if TYPE_CHECKING:
    from blurtrain import preparation

PICTURE = "figures/accuracy.png"

EVIDENCE = "evidence.json"
LOADING = "loading libraries and the network"  # some seconds, for torch
FORECASTING = "loading libraries and trying the steps"


def train(config: Config) -> Path:
    """Train and evaluate one arm; a finished run is left as it is.

    Returns:
        The run folder.

    Raises:
        BlurtrainError: Whatever a user can cause; see `blurtrain.training.train`.
    """
    if runs.is_finished(config):
        say(f"{config.run_folder} is finished already; --name gives another run")
        return config.run_folder

    _check_loggers(config)
    with meanwhile(LOADING):
        from blurtrain import preparation  # imports torch, which a finished run does not need

        prepared = preparation.prepare(config)
    _train_alone(config, prepared)
    return config.run_folder


def _check_loggers(config: Config) -> None:
    if config.loggers:
        from blurtrain import loggers

        loggers.check(config.loggers)


def _train_alone(config: Config, prepared: "preparation.Prepared") -> None:
    """Train an arm unless another process has trained it while this one waited."""
    from blurtrain import training

    with held(runs.lock(config.run_folder), f"training {config.run_folder}"):
        if not runs.is_finished(config):
            training.train(config, prepared)


def compare(config: Config) -> Path:
    """Train the config's arm and its baseline where they are missing, and compare them.

    Returns:
        The comparison folder.

    Raises:
        ConfigError: If the config has no copies.
        BlurtrainError: As `train`.
    """
    if config == config.baseline():
        raise ConfigError("copies is empty, so this config is the baseline itself: give copies, or two run folders")
    arms = [config.baseline(), config]
    unfinished = [arm for arm in arms if not runs.is_finished(arm)]
    if unfinished:
        _check_loggers(config)
        with meanwhile(LOADING):
            from blurtrain import preparation  # imports torch, which finished runs do not need

            prepared = preparation.prepare(config)
        for arm in arms:
            if arm not in unfinished:  # told before the other arm is trained
                runs.load_run(arm.run_folder).require_inputs(preparation.inputs_of(arm, prepared))
        for arm in unfinished:
            _train_alone(arm, prepared)
    return compare_runs([arm.run_folder for arm in arms], config.comparison_folder)


def evidence(config: Config) -> Path:
    """Fit a config's controls and compare them all with its baseline; finished evidence is left as it is.

    Returns:
        The folder of the evidence.

    Raises:
        BlurtrainError: As `train`.
    """
    folder = config.folder("evidence")
    if runs.is_finished(config, folder, EVIDENCE):
        say(f"{folder} is finished already")
        return folder
    with meanwhile(LOADING):
        from blurtrain import controls, exhibits, page, preparation, sensitivity  # torch, not for finished evidence

        controls.check(config)
        ready = preparation.prepare(config)
    with held(runs.lock(folder), f"making {folder}"):
        if not runs.is_finished(config, folder, EVIDENCE):
            runs.begin(config, folder)
            remove_partial(folder)
            found = controls.gather(config, ready, folder / controls.HEADS)
            found["sensitivity"] = sensitivity.gains(config, ready, folder / controls.HEADS)
            write_text(folder / "evidence.csv", csv_text(controls.cells(found)))
            with meanwhile("drawing pictures"):
                exhibits.pictures(folder / "figures", found)
            write_sealed(folder / EVIDENCE, found)  # last: the evidence is finished
    page.refresh(config)
    return folder


def recommend(config: Config, out: Path) -> dict[str, Any]:
    """Choose copies on the validation images alone, and write the config that has them.

    Args:
        config: Its sweep says what is to be helped against.
        out: The YAML file.

    Returns:
        What was tried and chosen.

    Raises:
        BlurtrainError: As `train`.
    """
    with meanwhile(LOADING):
        from blurtrain import choosing, controls, preparation

        controls.require_store(config, "recommend")
        ready = preparation.prepare(config)
    chosen = choosing.recommend(config, ready)
    write_text(out, runs.dump_config(chosen.config))
    write_json(out.with_suffix(".json"), chosen.found)
    return chosen.found


def forecast(config: Config, *, both: bool) -> str:
    """What `train` or, with both arms, `compare` would do and how long it would take; nothing is written.

    Raises:
        BlurtrainError: As `train`.
    """
    arms = [arm for arm in ([config.baseline(), config] if both else [config]) if not runs.is_finished(arm)]
    if not arms:
        return f"{config.run_folder} is finished: the results are shown in about a second."
    with meanwhile(FORECASTING):
        from blurtrain import forecast  # imports torch

        return forecast.forecast(arms).text()


def forecast_evidence(config: Config) -> str:
    """What `evidence` would do and how long it would take; nothing is written.

    Raises:
        BlurtrainError: As `evidence`.
    """
    folder = config.folder("evidence")
    if runs.is_finished(config, folder, EVIDENCE):
        return f"{folder} is finished: the results are shown in about a second."
    with meanwhile(FORECASTING):
        from blurtrain import forecast  # imports torch

        return forecast.of_evidence(config).text()


def forecast_recommend(config: Config) -> str:
    """What `recommend` would do at most and how long it would take; nothing is written.

    Raises:
        BlurtrainError: As `recommend`.
    """
    with meanwhile(FORECASTING):
        from blurtrain import forecast  # imports torch

        return f"At most, if every round adds a copy:\n{forecast.of_recommendation(config).text()}"


def compare_runs(folders: Sequence[Path | str], target: Path | None = None) -> Path:
    """Compare finished runs; what was compared already is not computed again.

    Args:
        folders: Of two or more runs.
        target: Folder of the comparison; beside the first run where it is not given.

    Returns:
        The comparison folder.

    Raises:
        RunError: If the runs cannot be compared.
        StoreError: If the folder cannot be written.
    """
    chosen = [Path(folder) for folder in folders]
    arms = open_arms(chosen)
    folder = target or chosen[0].parent / f"compare-{_joint_name([run.folder.name for run in arms.runs.values()])}"
    if comparison.stored(folder, arms) is not None and (folder / comparison.PAGE).exists():
        say(f"{folder} is finished already")
        return folder
    from blurtrain import page  # imports torch, which a finished comparison does not need

    with held(runs.lock(folder), f"making {folder}"):
        if comparison.stored(folder, arms) is None:
            (folder / comparison.PAGE).unlink(missing_ok=True)  # of runs that lay there before
            with meanwhile("comparing the runs"):
                _write_comparison(folder, comparison.compared(chosen))
        with meanwhile("writing the page"):
            page.write(folder)
    return folder


def _write_comparison(folder: Path, compared: comparison.Compared) -> None:
    result = compared.result
    remove_partial(folder)
    write_text(folder / "comparison.csv", tables.views_text(result))
    if compared.counts is None:
        for name in (breakdown.CLASSES, breakdown.IMAGES):
            (folder / name).unlink(missing_ok=True)  # of runs that lay there before
    else:
        write_text(folder / breakdown.CLASSES, tables.classes_text(result["classes"]))
        breakdown.write_images(folder / breakdown.IMAGES, compared.counts, compared.classes, compared.roster)
    report.accuracy_picture(folder / PICTURE, result)
    from blurtrain import board  # imports torch

    board.write_comparison(folder, compared, {"accuracy": folder / PICTURE})
    write_sealed(folder / comparison.RESULT, result)  # last: the comparison is finished


def _joint_name(names: Sequence[str]) -> str:
    """X for the two runs X-baseline and X-augmented, else all names, so that no two comparisons share a folder."""
    experiment = names[0].removesuffix("-baseline")
    is_pair = list(names) == [f"{experiment}-baseline", f"{experiment}-augmented"]
    return experiment if is_pair else "-and-".join(names)


def read_comparison(folder: Path | str) -> dict[str, Any]:
    """The contents of a finished comparison's comparison.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    return comparison.read(Path(folder))


def read_evidence(folder: Path) -> dict[str, Any]:
    """The contents of a finished evidence.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    path = folder / EVIDENCE
    try:
        return read_sealed(path)
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be used ({error}): remove it, and the same command makes it again") from error
