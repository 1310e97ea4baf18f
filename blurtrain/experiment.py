"""From configs or runs to a comparison folder: trains what is missing, then tables, pictures and TensorBoard."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurtrain import comparison, report, runs
from blurtrain.config import Config
from blurtrain.errors import ConfigError, RunError
from blurtrain.files import read_sealed, remove_partial, write_sealed, write_text
from blurtrain.locks import held
from blurtrain.progress import say

if TYPE_CHECKING:
    from blurtrain import training

PICTURE = "figures/accuracy.png"


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
    from blurtrain import training  # imports torch, which a finished run does not need

    _train_alone(config, training.prepare(config))
    return config.run_folder


def _train_alone(config: Config, prepared: "training.Prepared") -> None:
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
        from blurtrain import training  # imports torch, which finished runs do not need

        prepared = training.prepare(config)
        for arm in arms:
            if arm not in unfinished:  # told before the other arm is trained
                runs.load_run(arm.run_folder).require_inputs(training.inputs_of(arm, prepared))
        for arm in unfinished:
            _train_alone(arm, prepared)
    return compare_runs([arm.run_folder for arm in arms], config.comparison_folder)


def forecast(config: Config, *, both: bool) -> str:
    """What `train` or, with both arms, `compare` would do and how long it would take; nothing is written.

    Raises:
        BlurtrainError: As `train`.
    """
    arms = [arm for arm in ([config.baseline(), config] if both else [config]) if not runs.is_finished(arm)]
    if not arms:
        return f"{config.run_folder} is finished: the results are shown in about a second."
    from blurtrain import forecast  # imports torch

    return forecast.forecast(arms).text()


def compare_runs(folders: Sequence[Path], target: Path | None = None) -> Path:
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
    arms = comparison.open_arms(folders)
    folder = target or folders[0].parent / f"compare-{_joint_name([run.folder.name for run in arms.runs.values()])}"
    if comparison.stored(folder, arms) is not None:
        say(f"{folder} is finished already")
        return folder
    with held(runs.lock(folder), f"making {folder}"):
        if comparison.stored(folder, arms) is None:
            _write_comparison(folder, comparison.compare_runs(folders))
    return folder


def _write_comparison(folder: Path, result: dict[str, Any]) -> None:
    remove_partial(folder)
    write_text(folder / "comparison.csv", comparison.csv_text(result))
    report.accuracy_picture(folder / PICTURE, result)
    from blurtrain import tensorboard  # imports torch

    tensorboard.write_comparison(folder, table=report.markdown_table(result), figures={"accuracy": folder / PICTURE})
    write_sealed(folder / comparison.RESULT, result)  # last: the comparison is finished


def _joint_name(names: Sequence[str]) -> str:
    """X for the two runs X-baseline and X-augmented, else all names, so that no two comparisons share a folder."""
    experiment = names[0].removesuffix("-baseline")
    is_pair = list(names) == [f"{experiment}-baseline", f"{experiment}-augmented"]
    return experiment if is_pair else "-and-".join(names)


def read_comparison(folder: Path) -> dict[str, Any]:
    """The contents of a finished comparison's comparison.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    try:
        return read_sealed(folder / comparison.RESULT)
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / comparison.RESULT} cannot be used ({error}): remove it, and the same comparison makes it again"
        ) from error
