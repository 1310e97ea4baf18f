"""What the commands' parsers have in common: the keys of a config, strict YAML, one text for --dry_run."""

from dataclasses import fields

from jsonargparse import Namespace

from blurtrain.config import Config, plain
from blurtrain.errors import ConfigError
from blurtrain.options import STRICT_YAML, Parser

DRY_RUN = "say what there is to do and about how long it takes, and do nothing"

VERBOSE = ("-v", "--verbose")  # taken by `cli` before a command parses its words: it is no key of a config
VERBOSE_SHOWS = "what libraries say on every run, which is left out otherwise"

COMMANDS = {
    "train": "train and evaluate one arm",
    "compare": "train a config's arm and its baseline where missing, and compare them; or compare runs",
    "evidence": "compare a config's copies with controls, other families, numbers and strengths of copies",
    "recommend": "choose copies on the validation images alone, and write the config that has them",
    "pretrained": "show how an imported network with its own head breaks under blur; nothing is trained",
    "layers": "state what theory bounds at each convolution under blur, and measure what happens there and after",
    "predict": "classify image files by a finished run's head",
    "export": "write a finished run's classifier as one file, with its model card",
    "preview": "draw some training images as the network sees them, through the config's copies and sweep",
    "check-data": "look at all images before training: bad ones, duplicates, classes, sizes, formats",
    "report": "write a comparison's page, report.html, anew: with what layers and evidence found since",
    "tensorboard": "show all runs and comparisons of a folder in TensorBoard, to this machine alone",
    "backbones": "list the networks that can be imported",
    "cache": "show what the store holds, and remove what is no longer used",
    "pretrain": "make the embedded backbone again, from nothing",
}


def plain_parser(command: str) -> Parser:
    """A parser without any option yet."""
    return Parser(
        prog=f"blurtrain {command}",
        description=f"{COMMANDS[command].capitalize()}.",
        epilog=f"{', '.join(VERBOSE)} shows {VERBOSE_SHOWS}.",
        allow_abbrev=False,  # a key that is cut short is misspelt
        parser_mode=STRICT_YAML,
    )


def config_parser(command: str) -> Parser:
    """A parser that takes every key of a config, and a file of them."""
    parser = plain_parser(command)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; later words win")
    parser.add_class_arguments(Config)
    # As plain values, or --print_config could not write them.
    parser.set_defaults({key: [plain(grid) for grid in getattr(Config(), key)] for key in ("copies", "sweep")})
    return parser


def config_of(parser: Parser, parsed: Namespace) -> Config:
    """The config that was parsed.

    Raises:
        ConfigError: If a value is not allowed.
    """
    values = vars(parser.instantiate(parsed))
    if values["cache"] == 0 and values["cache"] is not False:  # equal, so jsonargparse takes it for the same
        raise ConfigError(f"cache must be a folder or false, got {values['cache']!r}")
    return Config(**{field.name: values[field.name] for field in fields(Config)})
