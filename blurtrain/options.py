"""The words of a command line and the YAML of configs: read strictly, and refused in one sentence."""

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any, NoReturn

import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader

from blurtrain.config import GROUPS as GROUPS
from blurtrain.config import IMPORTING
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.grids import BlurGrid
from blurtrain.trust import LOGGERS_OPTION, OPTION, allow, is_function

NO_VALUE = "{} has no value: give one, or leave the key out"
A_BLURS_KEYS = [field.name for field in fields(BlurGrid)]
A_BLUR = "{family: gaussian, strengths: [1, 2]}"
DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
STRICT_YAML = "blurtrain"  # the name of `read_yaml` among jsonargparse's loaders
STR, INT, FLOAT = (f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float"))
TAB = re.compile(r"^ *\t", re.MULTILINE)
AMBIGUOUS = re.compile(r"[-+]?(0[0-9_]+|[0-9_.:]+:[0-9_.:]+)")  # 010 is eight and 1:30 is ninety
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # as jsonargparse chooses: their sentences differ
MOST_DEPTH = 16  # lists and keys within each other; a config needs 5


class NotPlainError(ConfigError, yaml.YAMLError):
    """YAML that a config may not have; as any YAML error, it turns a word that may be a text into one."""


def read_yaml(text: str) -> Any:  # noqa: ANN401 - any YAML value
    """Plain YAML values, without what hides a mistake or grows without end when it is written out.

    Raises:
        NotPlainError: If there is an alias, a key that stands twice or has an empty text, a number that YAML reads as
            octal or to base 60, or too much nesting.
        yaml.YAMLError: If the text is no YAML.
    """
    try:
        _require_plain_events(text)
    except NotPlainError:
        raise
    except yaml.YAMLError as error:
        if indented := TAB.search(text):
            line = text.count("\n", 0, indented.end()) + 1
            raise NotPlainError(f"line {line} of the YAML is indented by a tab: indent it by spaces") from error
        raise
    for node in _nodes(yaml.compose(text, Loader=LOADER)):
        if isinstance(node, yaml.MappingNode):
            _require_clear_keys(node)
        elif node.tag in (INT, FLOAT) and AMBIGUOUS.fullmatch(node.value):
            raise NotPlainError(
                f"the number {node.value}{_line(node)} is another one in YAML: write plain decimal digits"
            )
    value = get_loader("yaml")(text)
    refuse_imports(value)
    return value


def _require_plain_events(text: str) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise NotPlainError(f"the alias *{event.anchor}{_line(event)} is not allowed: write its value out")
        if depth > MOST_DEPTH:
            raise NotPlainError(f"lists and keys lie more than {MOST_DEPTH} deep{_line(event)}: no key needs that")


def refuse_imports(value: Any) -> None:  # noqa: ANN401 - any plain value
    """Refuse values in which jsonargparse would import the module that a text names, and so run its code.

    Raises:
        NotPlainError: If there is such a text.
    """
    if isinstance(value, dict):
        for key, below in value.items():
            name = str(key).rpartition(".")[2]
            if name in IMPORTING:
                raise NotPlainError(f"key {key!r} is not known: a config names no Python classes")
            if name in GROUPS and isinstance(below, str):
                raise NotPlainError(f"{key} must hold keys of its own, got {below!r}")
            refuse_imports(below)
    elif isinstance(value, (list, tuple)):
        for below in value:
            if isinstance(below, str) and DOTTED.fullmatch(below):
                raise NotPlainError(f"{below!r} in a list is neither a number nor a blur, such as {A_BLUR}")
            refuse_imports(below)


def _line(place: Any) -> str:  # noqa: ANN401 - an event or a node; the stubs of both lack their marks
    return f" in line {place.start_mark.line + 1}"


def _nodes(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """All nodes of a tree but keys."""
    if node is not None:
        yield node
    below = node.value if isinstance(node, yaml.CollectionNode) else []
    for value in below:
        yield from _nodes(value[1] if isinstance(value, tuple) else value)


def _require_clear_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key, value in node.value:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if key.tag != STR:
            raise NotPlainError(f"the key{_line(key)} is not a text: keys are words such as batch_size")
        if name in seen:
            raise NotPlainError(f"key {name!r} stands twice{_line(key)}: keep one of them")
        if isinstance(value, yaml.ScalarNode) and (value.tag, value.value) == (STR, ""):
            raise NotPlainError(NO_VALUE.format(name))
        seen.add(name)


def suggest(word: str, known: list[str]) -> str:
    """A question or an advice for a word that is not known."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"give one of {', '.join(known)}"


class Parser(ArgumentParser):
    """Errors become one sentence, with the nearest known key, instead of a usage text."""

    config_file = "the config file"  # as errors call it

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what the user reads."""
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, BlurtrainError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        raise ConfigError(self._sentence(" ".join(message.split())))

    def parse_words(self, words: Sequence[str]) -> Namespace:
        """Parse what stands behind the command; an option may have hyphens in place of underscores.

        Code that is named here, as the backbone or a logger, may be run: whoever types the command has named it.

        Raises:
            ConfigError: If it is not understood.
        """
        words = [self._named(word) for word in words]
        _require_values(words)
        files = [value for option, value in _pairs(words) if option == "--config"]
        if len(files) == 1:
            self.config_file = files[0]
        try:
            parsed = self.parse_args(words)
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.config_file} is no text in UTF-8") from error
        except ConfigError:
            _require_plain_lists(words)  # says more than that a list is wanted
            raise
        _require_as_written(words, parsed)
        self._require_filled(parsed)
        for option, value in _pairs(words):
            if option == OPTION and is_function(value):
                allow(value)
            if option == LOGGERS_OPTION:
                for path in read_yaml(value):
                    allow(path)
        return parsed

    def _require_filled(self, parsed: Namespace) -> None:
        """Refuse groups without keys, and keys that have nothing behind them in YAML."""
        for key in (key for key in self._keys() if "." in key and not key.endswith(".help")):
            group = key.rpartition(".")[0]
            if not isinstance(parsed[group], Namespace):
                raise ConfigError(f"{group} must hold keys of its own, such as {key}, got {parsed[group]!r}")
        defaults = self.get_defaults()
        for key, value in parsed.items():
            if value is None and defaults.get(key) is not None:
                raise ConfigError(NO_VALUE.format(key))
            for blur in value if isinstance(value, tuple) else ():
                _require_no_null(key, blur)

    def _named(self, word: str) -> str:
        """An option by its own name, with underscores; other words as they are."""
        option, equals, value = word.partition("=")
        name = option.replace("-", "_")[2:]
        return f"--{name}{equals}{value}" if word[:2] == "--" and name in self._keys() else word

    def _keys(self) -> list[str]:
        return [option[2:] for action in self._actions for option in action.option_strings if option[:2] == "--"]

    def _sentence(self, message: str) -> str:
        if match := re.search(r"unrecognized arguments: (\S+)", message, re.IGNORECASE):
            word = match[1].split("=")[0]
            if not word.startswith("-"):
                return f"{word!r} is not expected here: {self.prog} --help lists the options"
            return f"option {word} is not known: {self._near(word.lstrip('-'), [*self._keys(), 'verbose'])}"
        if match := re.search(r"Group '(.+)' does not accept option '(.+)'", message):
            word = f"{match[1]}.{match[2]}"
            return f"key {word!r} is not known: {self._near(word, [k for k in self._keys() if k.startswith(match[1])])}"
        if match := re.search(r"Option '(.+)' is not accepted", message):
            keys = [key for key in self._keys() if "." not in key]
            if set(keys) >= set(A_BLURS_KEYS):  # jsonargparse has a parser for each blur
                return f"key {match[1]!r} of a blur is not known: {suggest(match[1], A_BLURS_KEYS)}"
            return f"key {match[1]!r} is not known: {self._near(match[1], keys)}"
        if match := re.search(r"arguments are required: (.+)", message):
            *first, last = match[1].split(", ")
            missing = f"{', '.join(first)} and {last}" if first else last
            return f"{missing} must be given: {self.prog} --help explains what is wanted"
        for pattern, words in _REWORDED:
            message = re.sub(pattern, words, message)
        if match := re.search(r"must be one of (.+), got: (\S+)$", message):
            near = difflib.get_close_matches(match[2], re.findall(r"'(.+?)'", match[1]), n=1)
            message += f": did you mean {near[0]!r}?" if near else ""
        return message.replace(Parser.config_file, self.config_file)

    def _near(self, word: str, known: list[str]) -> str:
        return suggest(word, known) if difflib.get_close_matches(word, known) else f"{self.prog} --help lists them"


def _require_no_null(key: str, blur: object) -> None:
    if isinstance(blur, Namespace):
        for field in fields(BlurGrid):
            if blur.get(field.name, field.default) is None and field.default is not None:
                raise ConfigError(NO_VALUE.format(f"{field.name} of a blur in {key}"))


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Options with their values, which follow after a space or an equals sign; a value may have no option."""
    option = ""
    for word in words:
        name, equals, value = word.partition("=")
        if word[:2] != "--":
            yield option, word
            option = ""
        elif equals:
            yield name, value
        else:
            option = name


def _require_values(words: Sequence[str]) -> None:
    for option, value in _pairs(words):
        name = option.rpartition(".")[2].lstrip("-")
        if any("\ud800" <= character <= "\udfff" for character in value):  # how Python holds bytes that are no text
            raise ConfigError(f"{option} {value!r} is no text in UTF-8: rename that file or folder".lstrip())
        if option and value == "":
            raise ConfigError(NO_VALUE.format(option))
        if name in IMPORTING:
            raise ConfigError(f"option {option} is not known: a config names no Python classes")
        if name in GROUPS and not value.startswith("{"):
            raise ConfigError(f"{option} must hold keys of its own, as in {option} '{{KEY: VALUE}}', got {value!r}")


def _require_as_written(words: Sequence[str], parsed: Namespace) -> None:
    """Refuse words that mean something else in YAML: 1:30 is ninety, and what follows a # is a comment."""
    for option, value in _pairs(words):
        taken = parsed.get(option[2:], value)
        if isinstance(taken, (int, float)) and not isinstance(taken, bool) and ":" in value:
            raise ConfigError(f"{option} must be in plain decimal digits, got {value!r}")
        if taken is None and value not in ("null", "~"):
            raise ConfigError(f"{option} must begin with another character, got {value!r}")


def _require_plain_lists(words: Sequence[str]) -> None:
    for _, value in _pairs(words):
        if value[:1] in ("[", "{"):
            try:
                read_yaml(value)
            except NotPlainError:
                raise
            except yaml.YAMLError:
                continue


_REWORDED = [
    (
        r"Does not validate against any of the Union .*?typing.Literal\[False\].*Given value: ?",
        "must be a folder or false, got: ",
    ),
    (r"^Parser key \"(.+?)\": ?", r"\1: "),
    (r"^Problems parsing config: (.*)", r"the config file is no valid YAML: \1"),
    (r"in \"<unicode string>\", ", ""),
    (r"^config: File does not exist: (.*)", r"config \1 does not exist: give a YAML file that does"),
    (r"^Unexpected config: ?(.*)", r"the config file must hold keys and values, such as 'batch_size: 32', got '\1'"),
    (r"Does not validate against any of the Union .*?Errors: - (.+?) - Expected a <.*Given value: ?", r"\1, got: "),
    (r"Expected a tuple with (\d+) elements", r"must be a list of \1"),
    (r"Expected a typing.Literal\[(.+?)\]. Got value", r"must be one of \1, got"),
    (r"Expected a <class 'int'>(. Got value)?", "must be a whole number, got"),
    (r"Expected a <class 'float'>(. Got value)?", "must be a number, got"),
    (r"Expected a <class 'tuple'>(. Got value)?", "must be a list, got"),
    (r"Expected a <class 'str'>(. Got value)?", "must be a text, got"),
    (r"Expected a <class 'dict'>(. Got value)?", "must hold names and folders, such as {phone: FOLDER}, got"),
    (
        r"Not a valid subclass of BlurGrid. Got value(: .*?) Subclass types .*",
        rf"must be a list of blurs, such as [{A_BLUR}], got\1",
    ),
    (r"Expected a dot import path string: .*", f"must be given whole, such as [{A_BLUR}]"),
    (r"got, got", "got"),
    (
        r"^(.*?)(strengths|severity|l2): must be a list, got: ([-\d., ]+)$",
        r"\1\2: must be a list in brackets, as in \2: [\3]",
    ),
    (r", got: .*?(, got: )", r"\1"),  # what was understood, then what was written
    (
        r"^argument (--\S+): expected one argument",
        r"\1 has no value: give one, or leave it out; one that begins with a dash is given as \1=VALUE",
    ),
]

set_loader(STRICT_YAML, read_yaml, (yaml.YAMLError,))
