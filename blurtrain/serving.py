"""TensorBoard over a folder of runs, at an address of this machine alone that is printed as it really is."""

import threading
from pathlib import Path

from blurtrain.errors import ConfigError, RunError

HOST = "127.0.0.1"  # TensorBoard asks nobody for a password
STATE = "?smoothing=0#timeseries&_smoothingWeight=0"  # a sweep has few points; the latter is of the older tabs
IMAGES = 100  # steps of a picture that are kept; ten by default, fewer than many a sweep has


def launch(runs: Path, port: int) -> str:
    """Start TensorBoard in a thread of this process, which ends with it.

    Args:
        runs: Folder of runs and comparisons.
        port: Where it listens; 0 takes any that is free.

    Returns:
        The address.

    Raises:
        RunError: If there is no run.
        ConfigError: If the port is not free.
    """
    if not any(runs.glob("*/events.out.tfevents.*")):
        raise RunError(
            f"{runs} holds no run with events: blurtrain compare makes some, and --runs names another folder"
        )
    from tensorboard import default, program

    server = program.TensorBoard(plugins=default.get_plugins())
    server.configure(logdir=str(runs), host=HOST, port=port, samples_per_plugin={"images": IMAGES}, load_fast="false")
    try:
        return f"{server.launch()}{STATE}"
    except program.TensorBoardServerException as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"port {port} cannot be listened on ({reason}): --port gives another") from error


def wait() -> None:
    """Until Ctrl-C."""
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        return
