"""Loggers of Lightning, named by class path in a config, that are given what TensorBoard is given of a run."""

import inspect
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from pytorch_lightning.loggers import Logger

from blurtrain import own_code
from blurtrain.errors import ConfigError
from blurtrain.progress import one_line, say
from blurtrain.scalars import Scalar
from blurtrain.trust import LOGGERS, require_allowed_logger

Named = Mapping[str, Mapping[str, Any]]
NAMES = ("run_name", "name")  # what a class may call the name of a run; the first that it takes
ENDS = ("finish", "end")  # what ends a run of W&B's, of Comet's
PACKAGES = {"CometLogger": "comet-ml", "LitLogger": "litlogger", "MLFlowLogger": "mlflow", "WandbLogger": "wandb"}


def check(named: Named) -> None:
    """Make each logger once and drop it, so that a mistake is told before any work.

    Raises:
        ConfigError: If one cannot be imported, is no logger of Lightning, is code that a file alone names, lacks a
            library, or does not take its arguments.
    """
    for path, arguments in named.items():
        _made(path, arguments, "checked")


def write(
    named: Named, run: str, scalars: Iterable[Scalar], hyperparameters: Mapping[str, Any], final: Mapping[str, float]
) -> None:
    """Give every logger the numbers of a run, a step at a time, and say which ones were.

    A logger that fails now is told of and left: what was trained must not be lost with a server that does not answer.

    Args:
        named: Arguments of each logger by its class path.
        run: Its name, for each logger that takes one and was given none: else arms are not told apart.
        scalars: Tag, step and value, as `blurtrain.scalars.scalars` gives them.
        hyperparameters: Of the run.
        final: Its final metrics.
    """
    points, done = list(scalars), []
    for path, arguments in named.items():
        try:
            _write(_made(path, arguments, run), points, hyperparameters, final)
            done.append(path.rpartition(".")[2])
        except Exception as error:  # whatever a logger's server, disk or library may raise
            say(f"{path} failed and is left out: {one_line(str(error)) or type(error).__name__}")
    if done:
        say(f"{run}: logged by {', '.join(done)}")


def _write(
    logger: Logger, points: Iterable[Scalar], hyperparameters: Mapping[str, Any], final: Mapping[str, float]
) -> None:
    try:
        logger.log_hyperparams(dict(hyperparameters))
        for (_, step), some in groupby(points, key=lambda point: (point[0].rpartition("/")[0], point[1])):
            logger.log_metrics({tag: value for tag, _, value in some}, step)
        logger.log_metrics(dict(final), 0)
        logger.save()
        logger.finalize("success")
    finally:
        _end(getattr(logger, "experiment", None))


def _end(service: object) -> None:
    """End what a service runs, or the next arm goes on with it."""
    for name in ENDS:
        if callable(end := getattr(service, name, None)):
            end()
            return


def _made(path: str, arguments: Mapping[str, Any], run: str) -> Logger:
    require_allowed_logger(path)
    place, _, name = path.rpartition(".")
    here = place not in LOGGERS  # a file may name Lightning's own, and must not start what lies in the working folder
    kind = own_code.found(place, name, f"loggers: {path}", ConfigError, here=here) if place else None
    if not (isinstance(kind, type) and issubclass(kind, Logger)):
        raise ConfigError(
            f"loggers: {path} is no logger of Lightning: give the path of a class, such as "
            "pytorch_lightning.loggers.CSVLogger"
        )
    try:
        return kind(**_named(kind, arguments, run))
    except ImportError as error:
        package = PACKAGES.get(name)
        way_on = f"pip install {package}" if package else f"install it ({one_line(str(error)).strip()})"
        raise ConfigError(f"loggers: {path} needs a library that is not installed: {way_on}") from error
    except Exception as error:  # its own checks of what it was given; values are not repeated, one may be a key
        given = ", ".join(arguments) or "no arguments"
        raise ConfigError(
            f"loggers: {path} does not take {given} ({own_code.said(error)}): see its documentation"
        ) from error


def _named(kind: type[Logger], arguments: Mapping[str, Any], run: str) -> dict[str, Any]:
    """The arguments, with the run's name where the class takes one and none is given."""
    taken = [name for name in NAMES if name in inspect.signature(kind).parameters][:1]
    return {**dict.fromkeys(taken, run), **arguments}
