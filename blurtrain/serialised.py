"""Albumentations pipelines as plain values: read from files that run nothing, and checked to be what YAML can hold."""

import json
import math
from pathlib import Path
from typing import Any

import yaml

from blurtrain.errors import ConfigError
from blurtrain.grids import is_path, require

SUFFIXES = (".json", ".yaml", ".yml")
MOST_DEPTH = 12  # lists and keys within each other: compositions four deep, with parameters that are lists
MOST_BYTES = 1_000_000
FORM = "a dictionary as albumentations.to_dict gives it, with the key 'transform', or a .json or .yaml file of one"


def read(file: str, key: str) -> dict[str, Any]:
    """What a file of ``albumentations.save`` holds.

    Args:
        file: A .json or .yaml file.
        key: Of the config, for messages.

    Raises:
        ConfigError: If it cannot be read or holds something else.
    """
    path = Path(file)
    require(is_path(file) and path.suffix in SUFFIXES, key, FORM, file)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ConfigError(f"{key}: {file} is larger than {MOST_BYTES} bytes, which no pipeline needs")
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if path.suffix == ".json" else _yaml(text)
    except OSError as error:
        raise ConfigError(f"{key}: {file} cannot be read ({error.strerror or error}): give {FORM}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        raise ConfigError(f"{key}: {file} is no valid {path.suffix[1:].upper()} ({words})") from error
    require(isinstance(value, dict), key, FORM, file)
    found: dict[str, Any] = value
    return found


def _yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):  # a few of them can stand for more than any memory holds
            raise ValueError(f"it has the alias *{event.anchor}: write its value out")
    return yaml.safe_load(text)


def plain(value: Any, key: str, depth: int = 0) -> Any:  # noqa: ANN401 - any value
    """A value made of texts, numbers, lists and keys alone, tuples as lists, as YAML and JSON hold it.

    Raises:
        ConfigError: If there is something else in it, or it is nested without end.
    """
    require(depth > 0 or (isinstance(value, dict) and isinstance(value.get("transform"), dict)), key, FORM, value)
    if depth > MOST_DEPTH:
        raise ConfigError(f"{key}: lists and keys lie more than {MOST_DEPTH} deep")
    if isinstance(value, dict):
        for name in value:
            require(isinstance(name, str), f"a key in {key}", "a text", name)
        return {name: plain(below, key, depth + 1) for name, below in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(below, key, depth + 1) for below in value]
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    require(value is None or isinstance(value, str) or is_number, f"a value in {key}", "a text or a number", value)
    return value
