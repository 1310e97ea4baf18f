"""Which code of the user's own may be run, to build a network or to log: that alone which he has named himself.

A config file, a run folder and a checkpoint come from anywhere, and a name such as ``mymodels.nets:build`` in one of
them would run whatever code lies there. So the name in a config says which network is meant and gives no leave to
build it. That comes from outside of all files: from the words of the command line, or from `allow` in Python. It
holds for this process alone and is written nowhere.
"""

import re

from blurtrain.errors import BackboneError, ConfigError

FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")
OPTION = "--backbone.name"
LOGGERS_OPTION = "--loggers"
LOGGERS = ("pytorch_lightning.loggers", "lightning.pytorch.loggers")  # modules whose classes a file may name

_allowed: set[str] = set()


def is_function(name: str) -> bool:
    """Whether a backbone's name means a function of the user's own: ``module:function``."""
    return FUNCTION.fullmatch(name) is not None and not name.startswith("timm:")


def allow(name: str) -> None:
    """Let code of the user's own be imported and run in this process.

    Args:
        name: ``module:function`` of a network or ``module.Class`` of a logger, as in the config.
    """
    _allowed.add(name)


def require_allowed_logger(path: str) -> None:
    """Check that a logger is Lightning's own, or that the user has named it himself.

    Raises:
        ConfigError: If it comes from a file alone.
    """
    if path.rpartition(".")[0] not in LOGGERS and path not in _allowed:
        raise ConfigError(
            f"loggers: {path} is code, which no file may start: name it on the command line as well, with "
            f"{LOGGERS_OPTION} '{{{path}: {{}}}}', or in Python with blurtrain.backbones.allow({path!r})"
        )


def require_allowed(name: str) -> None:
    """Check that the user has named a function himself.

    Raises:
        BackboneError: If it comes from a file alone.
    """
    if name not in _allowed:
        raise BackboneError(
            f"backbone.name {name!r} is code, which no file may start: name it on the command line as well, with "
            f"{OPTION} {name}, or in Python with blurtrain.backbones.allow({name!r})"
        )
