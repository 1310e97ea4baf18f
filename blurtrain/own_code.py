"""Import what the user has named, from an installed module or from one in the working folder."""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from blurtrain.cutting import first_sentence
from blurtrain.errors import BlurtrainError


def found(place: str, attribute: str, what: str, error: type[BlurtrainError], *, here: bool = True) -> Any:  # noqa: ANN401 - whatever it is
    """An attribute of a module, or nothing where it has none.

    Args:
        place: The module.
        attribute: Its name there.
        what: The key and value that name them, for the sentence.
        error: Is raised.
        here: Whether the module may lie in the working folder: only where the user has named it himself.

    Raises:
        BlurtrainError: If the module is not there or cannot be imported.
    """
    folder = str(Path.cwd())
    if here and folder not in sys.path and "" not in sys.path:
        sys.path.append(folder)  # last, so that no file in it hides a library; kept, for imports inside functions
    return getattr(_imported(place, what, error), attribute, None)


def file_of(place: str) -> str:
    """Where an imported module lies."""
    return getattr(sys.modules[place], "__file__", None) or place


def said(error: BaseException) -> str:
    """An exception of code that is not ours, in a few words."""
    return f"{type(error).__name__}: {first_sentence(error)}".rstrip(": ")


def _imported(place: str, what: str, kind: type[BlurtrainError]) -> ModuleType:
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{place}.".startswith(f"{error.name}."):
            raise kind(f"{what}: {place} needs {error.name}, which is not there") from error
        raise kind(f"{what}: there is no module {error.name}, neither installed nor in {Path.cwd()}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise kind(f"{what}: {place} cannot be imported ({said(error)})") from error
