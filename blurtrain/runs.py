"""Run folders: what an arm leaves, whose config made it, and whether it is finished."""

import difflib
import platform
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonargparse
import yaml

from blurtrain.config import WEIGHT_SUFFIXES, Config, plain
from blurtrain.errors import ConfigError, RunError
from blurtrain.files import file_sha256, read_sealed, write_sealed, write_text
from blurtrain.options import read_yaml
from blurtrain.roots import kind_of
from blurtrain.trust import OPTION, is_function
from blurtrain.version import VERSION

CONFIG = "config.yaml"  # written first: whose run it is
RESULT = "run.json"  # written last: it is finished
COMPARISON = "comparison.json"  # of a comparison: written last, too
WORK = "work.json"  # what the last process had to do: not part of the result
SHARPNESS = "sharpness.json"  # measured when it is first asked for, by `blurtrain.sharpness`: neither

MOST_NAMED = 5  # runs of a folder in an error
_A_RUN = "give the folder of a run, such as runs/NAME"
_LIBRARIES = ("torch", "torchvision", "pytorch-lightning", "onnxruntime", "numpy", "pillow")  # results depend on them


@dataclass(frozen=True)
class Run:
    """A finished run.

    Args:
        folder: Where it lies.
        config: What made it.
        result: The contents of run.json.
    """

    folder: Path
    config: Config
    result: dict[str, Any]

    @property
    def classes(self) -> list[str]:
        """Names in the order of the labels."""
        names: list[str] = self.result["classes"]
        return names

    @property
    def side(self) -> int:
        """Of the images as the network sees them, px."""
        side: int = self.result["backbone"]["preprocessing"]["geometry"]["crop"]
        return side

    def file(self, name: str) -> Path:
        """One of its files, compared with its checksum.

        Raises:
            RunError: If it is missing, or not what was written.
        """
        return _as_written(self.folder, name, self.result)

    def require_inputs(self, inputs: dict[str, str]) -> None:
        """Check that the run was made from the same images, labels, folds, backbone and engine.

        Raises:
            RunError: If one of them is another.
        """
        mine = self.result.get("inputs", {})
        changed = [name for name in inputs if mine.get(name) != inputs[name]]
        if changed:
            raise RunError(
                f"{self.folder} was trained with other inputs ({', '.join(changed)}), so the arms cannot be compared: "
                "train both anew under another --name"
            )

    def require_backbone(self, fingerprint: str) -> None:
        """Check that a backbone is the one that the run was trained on.

        Raises:
            RunError: If it is another.
        """
        expected = self.result["backbone"]["fingerprint"]
        if fingerprint != expected:
            raise RunError(
                f"{self.folder} was trained on a backbone with fingerprint {expected[:12]}, "
                f"but {self.config.backbone.weights} now gives {fingerprint[:12]}: restore those weights"
            )


def _as_written(folder: Path, name: str, result: Mapping[str, Any]) -> Path:
    path, way_on = folder / name, f"remove {folder / RESULT}, and the command that made the run makes it again"
    try:
        same = file_sha256(path) == result.get("files", {}).get(name)
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror or error}): {way_on}") from error
    if not same:
        raise RunError(f"{path} is not what was written, it is damaged or was changed: {way_on}")
    return path


def is_finished(config: Config, folder: Path | None = None, result: str = RESULT) -> bool:
    """Whether the run of a config is finished; nothing is written.

    Args:
        config: Whose run it is.
        folder: Where it lies; where the config's arm does, unless it is something else that a config makes.
        result: The file that is written last.

    Raises:
        RunError: If its folder belongs to another config.
        DataError: If it does, and the images are missing.
        BackboneError: If it does, and the weights are missing.
    """
    folder = folder or config.run_folder
    if (folder / CONFIG).exists():
        _require_same(folder, config)
        return (folder / result).exists()
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        raise RunError(f"{folder} exists and is no run: choose another name with --name, or move it away")
    return False


def lock(folder: Path) -> Path:
    """The lock of a run or a comparison, beside its folder: held by the process that makes it."""
    return folder.parent / f".{folder.name}.lock"


def begin(config: Config, folder: Path | None = None) -> Path:
    """Make the run folder of a config, or the folder of something else that it makes, or go on with it.

    Raises:
        RunError: If the folder belongs to another config.
        StoreError: If it cannot be written.
    """
    folder = folder or config.run_folder
    if not is_finished(config, folder) and not (folder / CONFIG).exists():
        write_text(folder / CONFIG, dump_config(config))
    return folder


def finish(folder: Path, result: Mapping[str, Any], name: str = RESULT) -> None:
    """Write what a run found, with the checksums of its other files: now it is finished.

    Args:
        folder: Where they lie.
        result: What was found.
        name: Of the file that says it is finished.

    Raises:
        StoreError: If it cannot be written.
    """
    made = (path for path in sorted(folder.iterdir()) if path.is_file() and _is_result(path.name))
    write_sealed(folder / name, {**result, "files": {path.name: file_sha256(path) for path in made}})


def versions(*further: str) -> dict[str, str]:
    """Of what a result was made with: the libraries that every result depends on, and further ones."""
    own = {"blurtrain": VERSION, "python": platform.python_version()}
    return {**own, **{name: metadata.version(name) for name in (*_LIBRARIES, *further)}}


def weights_sha256(config: Config) -> str:
    """Of the file that a config's weights lie in; empty where they lie in none.

    Raises:
        ConfigError: If it cannot be read.
    """
    weights = Path(config.backbone.weights)
    return file_sha256(weights) if weights.suffix in WEIGHT_SUFFIXES and weights.is_file() else ""


def require_seen(folder: Path, before: Mapping[str, str], seen: Mapping[str, str], things: str) -> None:
    """Check that a finished result was made from what there is now, by hashes that are had in a moment.

    Raises:
        RunError: If one of them is another.
    """
    changed = sorted(name for name in seen if before.get(name) != seen[name])
    if changed:
        raise RunError(
            f"{folder} was made from {things} ({', '.join(changed)}): "
            "choose another name with --name, or remove that folder"
        )


def _is_result(name: str) -> bool:
    """Whether a file is made by the config alone; events have times in them."""
    return not name.startswith((".", "events.")) and name not in (RESULT, WORK, SHARPNESS)


def _require_same(folder: Path, config: Config) -> None:
    own = read_config(folder)
    before, now = _flat(own.identity()), _flat(config.identity())
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        _require_places(config)  # a misspelt path is no other experiment
        key = changed[0]
        there, here = (_told(values, key, one) for values, one in ((before, own), (now, config)))
        others = f", and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise RunError(
            f"{folder} holds a run with another config ({key} is {there} there and {here} now{others}): "
            f"choose another name, such as --name {_other_name(config, key)}, or remove that folder"
        )


def _require_places(config: Config) -> None:
    """Check that the images and the weights lie where the config says, without reading them.

    Raises:
        DataError: If there are no images.
        BackboneError: If there is no file of weights.
    """
    root, weights = config.data.root, config.backbone.weights
    if kind_of(root) in ("folder", "manifest") and not Path(root).exists():
        from blurtrain.opening import open_source

        open_source(config.data)
    if weights.endswith(WEIGHT_SUFFIXES):
        from blurtrain.weights import require_file  # imports torch

        require_file(Path(weights))


def _other_name(config: Config, changed: str) -> str:
    """A name for an experiment that differs from a finished one."""
    group, _, name = changed.partition(".")
    return shlex.quote(f"{config.experiment}-{name if group == 'extra_tests' else 2}")


def _told(values: Mapping[str, Any], key: str, config: Config) -> str:
    """A value of an identity, which leaves out what has its default or plays no part."""
    known = values if key in values else _flat(plain(config))
    return repr(known[key]) if key in known else "not given"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:  # noqa: ANN401 - any tree of plain values
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        name: leaf
        for key, item in value.items()
        for name, leaf in _flat(item, f"{prefix}.{key}" if prefix else key).items()
    }


def placed(folder: Path, run: Path) -> Path:
    """Where a run of a comparison lies: as the comparison has it, or beside the comparison if both have moved."""
    return run if (run / CONFIG).exists() else folder.parent / run.name


def named_again(config: Config) -> list[str]:
    """The option that names a network of the user's own, which no file may start."""
    return [OPTION, config.backbone.name] if is_function(config.backbone.name) else []


def again(folder: Path, config: Config) -> list[str | Path]:
    """The options that give the config of a folder to a command."""
    return ["--config", folder / CONFIG, *named_again(config)]


def dump_config(config: Config) -> str:
    """A config as YAML, without loggers: what they are given may be a key of a service."""
    values = plain(config.resolved())
    del values["loggers"]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def read_config(folder: Path) -> Config:
    """The config that a run folder was made from.

    Raises:
        RunError: If there is none, or it cannot be read.
    """
    try:
        return config_from(read_yaml((folder / CONFIG).read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RunError(_no_run(folder)) from error
    except (
        *(OSError, ValueError, TypeError, AttributeError, KeyError),
        *(yaml.YAMLError, jsonargparse.ArgumentError, ConfigError),
    ) as error:
        raise RunError(f"{folder} holds no readable {CONFIG}: {_A_RUN}") from error


def _no_run(folder: Path) -> str:
    """What is found where a run was looked for, and what may be meant."""
    if folder.suffix in (".yaml", ".yml"):
        return f"{folder} holds no readable {CONFIG}: give --config {folder}"
    if not folder.exists():
        return f"{folder} does not exist: {nearest(folder, RESULT) or _A_RUN}"
    if (folder / COMPARISON).exists():
        try:
            arms = f" of {' and '.join(read_sealed(folder / COMPARISON)['arms'].values())}: give one of them"
        except (OSError, ValueError):
            arms = f": {_A_RUN}"
        return f"{folder} is a comparison{arms}"
    found = _folders_with(folder, RESULT)
    if found:
        more = f" (and {len(found) - MOST_NAMED} more)" if len(found) > MOST_NAMED else ""
        return f"{folder} holds runs: give one of {', '.join(str(folder / name) for name in found[:MOST_NAMED])}{more}"
    return f"{folder} holds no readable {CONFIG}: {_A_RUN}"


def nearest(folder: Path, file: str) -> str:
    """A question for a folder that does not exist, after one beside it that has a file; empty where none is near."""
    near = difflib.get_close_matches(folder.name, _folders_with(folder.parent, file), n=1)
    return f"did you mean {folder.parent / near[0]}?" if near else ""


def _folders_with(place: Path, file: str) -> list[str]:
    return sorted(path.parent.name for path in place.glob(f"*/{file}"))


def config_from(values: dict[str, Any]) -> Config:
    """A config from plain values, typed and checked.

    Raises:
        ConfigError: If a value is out of range.
        jsonargparse.ArgumentError: If a key is unknown or a type is wrong.
    """
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Config)
    return Config(**vars(parser.instantiate(parser.parse_object(values))))


def load_run(folder: Path, name: str = RESULT, command: str = "train") -> Run:
    """A finished run.

    Args:
        folder: Where it lies.
        name: Of the file that says it is finished.
        command: Which has made it.

    Raises:
        RunError: If there is none in the folder, or it is damaged.
    """
    try:
        result = read_sealed(folder / name)
    except (FileNotFoundError, NotADirectoryError) as error:
        arm = folder.parent / read_config(folder).run_folder.name  # what is no run at all says so
        if name == RESULT and arm != folder and (arm / RESULT).exists():  # evidence and layers have a config, too
            raise RunError(f"{folder} holds no run: did you mean {arm}?") from error
        raise RunError(f"{folder} is not finished: run blurtrain {command} --config {folder / CONFIG}") from error
    except (OSError, ValueError) as error:
        raise RunError(
            f"{folder / name} cannot be used ({error}): remove it, and blurtrain {command} --config {folder / CONFIG} "
            "makes the run again"
        ) from error
    _as_written(folder, CONFIG, result)
    return Run(folder, read_config(folder), result)
