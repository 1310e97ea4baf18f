"""The command line: one thin function a command, and the one place that catches what a user can cause."""

import difflib
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import NoReturn, cast

from jsonargparse import ArgumentParser, Namespace

from blurtrain.config import Config, plain
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.version import VERSION

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it

COMMANDS = {
    "train": "train and evaluate one arm",
    "compare": "train a config's baseline and augmented arm where missing, and compare them; or compare runs",
    "preview": "draw some training images as the network sees them, through the config's copies and sweep",
    "backbones": "list the networks that can be imported",
    "cache": "show what the store holds, and remove what is no longer used",
    "pretrain": "make the embedded backbone again, from nothing",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0, 2 for what the user can mend, 130 when interrupted.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if words[0] == "--version":
            print(f"blurtrain {VERSION}")
            return 0
        if words[0] not in COMMANDS:
            raise ConfigError(f"command {words[0]!r} is not known: {_suggest(words[0], list(COMMANDS))}")
        _RUN[words[0]](words[1:])
    except BlurtrainError as error:
        print(f"blurtrain: error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("\nblurtrain: interrupted; the same command goes on from what is stored", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `blurtrain cache | head`
        sys.stderr.close()
        return 0
    return 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _overview() -> str:
    lines = [f"  {name:<10} {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: blurtrain COMMAND [options]",
            "",
            "Shows how blur breaks an image classifier, and repairs it with slightly blurred training copies.",
            "",
            *lines,
            "",
            "blurtrain COMMAND --help explains a command; blurtrain compare needs no options at all.",
        ]
    )


def _suggest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"give one of {', '.join(known)}"


class _Parser(ArgumentParser):
    """Errors become one sentence, with the nearest known key, instead of a usage text."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the user reads."""
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, BlurtrainError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        raise ConfigError(self._sentence(" ".join(message.split())))

    def parse_words(self, words: Sequence[str]) -> Namespace:
        """Parse what stands behind the command.

        Raises:
            ConfigError: If it is not understood.
        """
        try:
            parsed = self.parse_args(list(words))
        except UnicodeDecodeError as error:
            raise ConfigError("the config file is no text in UTF-8") from error
        keys = [key for key in self._keys() if "." in key and not key.endswith(".help")]
        for key in keys:
            group = key.rpartition(".")[0]
            if not isinstance(parsed[group], Namespace):
                raise ConfigError(f"{group} must hold keys of its own, such as {key}, got {parsed[group]!r}")
        defaults = self.get_defaults()
        for key, value in parsed.items():
            if value is None and defaults.get(key) is not None:  # in YAML, a key with nothing behind it
                raise ConfigError(f"{key} has no value: give one, or leave the key out")
        return parsed

    def _keys(self) -> list[str]:
        return [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]

    def _sentence(self, message: str) -> str:
        if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            word = match[1].split("=")[0]
            if not word.startswith("-"):
                return f"{word!r} is not expected here: {self.prog} --help lists the options"
            return f"option {word} is not known: {self._near(word.lstrip('-'), self._keys())}"
        if match := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            word = f"{match[1]}.{match[2]}"
            return f"key {word!r} is not known: {self._near(word, [k for k in self._keys() if k.startswith(match[1])])}"
        if match := re.search(r"Option '(.+)' is not accepted", message):
            return f"key {match[1]!r} is not known: {self._near(match[1], [k for k in self._keys() if '.' not in k])}"
        for pattern, words in _REWORDED:
            message = re.sub(pattern, words, message)
        return message

    def _near(self, word: str, known: list[str]) -> str:
        return _suggest(word, known) if difflib.get_close_matches(word, known) else f"{self.prog} --help lists them"


_BLURS = "such as [{family: gaussian, strengths: [1, 2]}]"
_REWORDED = [
    (r"^Parser key \"(.+?)\": ?", r"\1: "),
    (r"^Problems parsing config: (.*)", r"the config file is no valid YAML: \1"),
    (r"in \"<unicode string>\", ", ""),
    (r"^Unexpected config: ?(.*)", r"the config file must hold keys and values, such as 'batch_size: 32', got '\1'"),
    (r"Does not validate against any of the Union .*?Errors: - (.+?) - Expected a <.*Given value: ", r"\1, got: "),
    (r"Expected a tuple with (\d+) elements", r"must be a list of \1"),
    (r"Expected a typing.Literal\[(.+?)\]. Got value", r"must be one of \1, got"),
    (r"Expected a <class 'int'>(. Got value)?", "must be a whole number, got"),
    (r"Expected a <class 'float'>(. Got value)?", "must be a number, got"),
    (r"Expected a <class 'tuple'>(. Got value)?", "must be a list, got"),
    (r"Expected a <class 'str'>(. Got value)?", "must be a text, got"),
    (
        r"Not a valid subclass of BlurGrid. Got value(: .*?) Subclass types .*",
        rf"must be a list of blurs, {_BLURS}, got\1",
    ),
    (r"Expected a dot import path string: .*", f"must be given whole, {_BLURS}"),
    (r"got, got", "got"),
]


def _parser(command: str) -> _Parser:
    return _Parser(
        prog=f"blurtrain {command}",
        description=f"{COMMANDS[command].capitalize()}.",
        allow_abbrev=False,  # a key that is cut short is misspelt
    )


def _config_parser(command: str) -> _Parser:
    parser = _parser(command)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; later words win")
    parser.add_class_arguments(Config)
    # As plain values, or --print_config could not write them.
    parser.set_defaults({key: [plain(grid) for grid in getattr(Config(), key)] for key in ("copies", "sweep")})
    return parser


def _config(parser: _Parser, parsed: Namespace) -> Config:
    values = vars(parser.instantiate(parsed))
    return Config(**{field.name: values[field.name] for field in fields(Config)})


def _train(words: Sequence[str]) -> None:
    parser = _config_parser("train")
    config = _config(parser, parser.parse_words(words))
    from blurtrain import experiment, report

    folder = experiment.train(config)
    print(report.sweep_table(folder))
    print(f"\nRun: {folder}   TensorBoard: tensorboard --logdir {config.runs}   Next: blurtrain compare RUN RUN")


def _compare(words: Sequence[str]) -> None:
    parser = _config_parser("compare")
    parser.add_argument("arms", nargs="*", type=Path, metavar="RUN", help="finished runs; without them, the config's")
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import experiment, report

    folder = experiment.compare_runs(parsed.arms) if parsed.arms else experiment.compare(config)
    print(report.terminal_table(experiment.read_comparison(folder)))
    print(
        f"\nTables: {folder / 'comparison.csv'}, {folder / 'comparison.json'}\nPicture: {folder / experiment.PICTURE}"
    )
    print(f"TensorBoard: tensorboard --logdir {folder.parent}")


def _preview(words: Sequence[str]) -> None:
    parser = _config_parser("preview")
    parser.add_argument("--images", type=int, default=4, help="how many, from 1 to 32")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .png file; runs/preview-NAME.png by default")
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import previews

    path, drawn = previews.made(config, parsed.images, parsed.out)
    print(f"{drawn.summary}: {path}")


def _backbones(words: Sequence[str]) -> None:
    parser = _parser("backbones")
    parser.add_argument("filter", nargs="?", default="", help="part of a name, or a pattern for all of it: 'resnet*'")
    parsed = parser.parse_words(words)
    from blurtrain import catalogue

    print(catalogue.table(catalogue.catalogue(parsed.filter)))


def _cache(words: Sequence[str]) -> None:
    parser = _parser("cache")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of the store")
    parser.add_argument(
        "--unused_for", type=float, metavar="DAYS", help="remove tables not used for so many days; 0 is all"
    )
    parsed = parser.parse_words(words)
    if parsed.unused_for is not None and not parsed.unused_for >= 0:
        raise ConfigError(f"--unused_for must be 0 or more days, got {parsed.unused_for}")
    from blurtrain import store

    kept = []
    for table in list(store.summaries(parsed.cache)):
        age = (time.time() - table.used) / 86400
        stale = parsed.unused_for is not None and age >= parsed.unused_for
        if stale:
            store.remove(table)
        else:
            kept.append(table)
        what = table.key.get("view", f"{table.key.get('crop')} px")
        action = "removed " if stale else ""
        print(
            f"{action}{table.key.get('kind', '?'):<9} {table.key.get('backbone', ''):<18} {what:<16}"
            f"{table.rows:>10} rows {table.size / 1e6:>10.1f} MB   used {age:.1f} days ago   {table.folder}"
        )
    total = sum(table.size for table in kept)
    print(f"{len(kept)} tables, {total / 1e6:.1f} MB in {parsed.cache}; everything there can be computed again")


def _pretrain(words: Sequence[str]) -> None:
    parser = _parser("pretrain")
    parser.add_argument("--seed", type=int, default=0, help="of the letters, the weights and their order")
    parser.add_argument("--folder", type=Path, default=Path("pretrained"), help="where the weights and recipe go")
    parsed = parser.parse_words(words)
    if parsed.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {parsed.seed}")
    from blurtrain.pretrain import RECIPE_FILE, WEIGHTS_FILE, pretrain

    validation = cast(dict[str, float], pretrain(seed=parsed.seed, folder=parsed.folder)["validation"])
    print(f"Validation accuracy {100 * validation['accuracy']:.1f} % on {validation['images']} fresh letters")
    print(f"{parsed.folder / WEIGHTS_FILE}, {parsed.folder / RECIPE_FILE}; use it with --backbone.weights")


_RUN: dict[str, Callable[[Sequence[str]], None]] = {
    "train": _train,
    "compare": _compare,
    "preview": _preview,
    "backbones": _backbones,
    "cache": _cache,
    "pretrain": _pretrain,
}
