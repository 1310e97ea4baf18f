"""The command line: one thin function a command, and the one place that catches what a user can cause."""

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import Literal, NoReturn, cast

from jsonargparse import Namespace

from blurtrain.config import BlurGrid, Config, OnBadImage, plain
from blurtrain.errors import BlurtrainError, ConfigError
from blurtrain.lean import put_off
from blurtrain.options import STRICT_YAML, Parser, suggest
from blurtrain.progress import one_line
from blurtrain.version import VERSION

USER_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it
DRY_RUN = "say what there is to do and about how long it takes, and do nothing"
MOST_CHARACTERS = 1000  # of an error: a wrong value may be as long as it likes

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
    put_off()
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview())
            return 0
        if words[0] == "--version":
            print(f"blurtrain {VERSION}")
            return 0
        if words[0] not in COMMANDS:
            raise ConfigError(f"command {words[0]!r} is not known: {suggest(words[0], list(COMMANDS))}")
        _RUN[words[0]](words[1:])
    except BlurtrainError as error:
        return _refused(str(error))
    except KeyboardInterrupt:
        print("\nblurtrain: interrupted; the same command goes on from what is stored", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `blurtrain cache | head`
        sys.stderr.close()
        return 0
    except OSError as error:  # what nobody nearer could say more about
        if error.filename is None:
            raise
        place = f"{error.filename} cannot be used ({error.strerror})"
        return _refused(f"{place}: mend its permissions, or give another place")
    return 0


def _refused(sentence: str) -> int:
    sentence = one_line(sentence)
    if len(sentence) > MOST_CHARACTERS:
        sentence = f"{sentence[: MOST_CHARACTERS // 2]} ... {sentence[-MOST_CHARACTERS // 2 :]}"
    print(f"blurtrain: error: {sentence}", file=sys.stderr)
    return USER_ERROR


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


def _parser(command: str) -> Parser:
    return Parser(
        prog=f"blurtrain {command}",
        description=f"{COMMANDS[command].capitalize()}.",
        allow_abbrev=False,  # a key that is cut short is misspelt
        parser_mode=STRICT_YAML,
    )


def _config_parser(command: str) -> Parser:
    parser = _parser(command)
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below; later words win")
    parser.add_class_arguments(Config)
    # As plain values, or --print_config could not write them.
    parser.set_defaults({key: [plain(grid) for grid in getattr(Config(), key)] for key in ("copies", "sweep")})
    return parser


def _config(parser: Parser, parsed: Namespace) -> Config:
    values = vars(parser.instantiate(parsed))
    if values["cache"] == 0 and values["cache"] is not False:  # equal, so jsonargparse takes it for the same
        raise ConfigError(f"cache must be a folder or false, got {values['cache']!r}")
    return Config(**{field.name: values[field.name] for field in fields(Config)})


def _train(words: Sequence[str]) -> None:
    parser = _config_parser("train")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import experiment, report

    if parsed.dry_run:
        print(experiment.forecast(config, both=False))
        return
    folder = experiment.train(config)
    print(report.sweep_table(folder))
    _print_skipped([folder])
    print(f"\nRun: {folder}   TensorBoard: tensorboard --logdir {config.runs}   Next: blurtrain compare RUN RUN")


def _compare(words: Sequence[str]) -> None:
    parser = _config_parser("compare")
    parser.add_argument("arms", nargs="*", type=Path, metavar="RUN", help="finished runs; without them, the config's")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import experiment, report

    if parsed.dry_run and not parsed.arms:
        print(experiment.forecast(config, both=True))
        return
    folder = experiment.compare_runs(parsed.arms) if parsed.arms else experiment.compare(config)
    print(report.terminal_table(experiment.read_comparison(folder)))
    _print_skipped(parsed.arms or [config.baseline().run_folder, config.run_folder])
    names = ("comparison.csv", "comparison.json", "classes.csv", "images.csv")
    tables = ", ".join(name for name in names if (folder / name).exists())
    print(f"\nTables in {folder}: {tables}\nPicture: {folder / experiment.PICTURE}")
    print(f"TensorBoard: tensorboard --logdir {folder.parent}")


def _evidence(words: Sequence[str]) -> None:
    parser = _config_parser("evidence")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import exhibits, experiment

    if parsed.dry_run:
        print(experiment.forecast_evidence(config))
        return
    folder = experiment.evidence(config)
    print(exhibits.tables(experiment.read_evidence(folder)))
    print(f"\nTables: {folder / 'evidence.csv'}, {folder / experiment.EVIDENCE}\nPictures: {folder / 'figures'}")


def _recommend(words: Sequence[str]) -> None:
    parser = _config_parser("recommend")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .yaml file; runs/recommend-NAME.yaml by default")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    out = parsed.out or config.runs / f"recommend-{config.experiment}.yaml"
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"out must be a file that ends in .yaml, got {str(out)!r}")
    from blurtrain import exhibits, experiment

    if parsed.dry_run:
        print(experiment.forecast_recommend(config))
        return
    found = experiment.recommend(config, out)
    print(exhibits.recommendation(found))
    print(f"\nConfig: {out}   Next: blurtrain compare --config {out} --name NAME")


def _pretrained(words: Sequence[str]) -> None:
    parser = _config_parser("pretrained")
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="a CSV file of two columns, folder and class: an index or WordNet id",
    )
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import answers, own_head

    folder = own_head.pretrained(config, parsed.mapping)
    result = own_head.read_pretrained(folder)
    print(answers.table(result))
    if result["skipped"]:
        count = len(result["skipped"])
        print(f"\nSkipped: {count} bad image{'s' * (count > 1)}, listed in {folder / own_head.RESULT}")
    print(f"\nTables: {folder / own_head.TABLE}, {folder / own_head.RESULT}\nPicture: {folder / own_head.PICTURE}")


def _layers(words: Sequence[str]) -> None:
    parser = _config_parser("layers")
    parser.add_argument(
        "--images", type=int, default=64, help="how many are looked at, of the test split; with own_head of all"
    )
    parser.add_argument(
        "--blurs",
        type=tuple[BlurGrid, ...],
        default=[{"family": "gaussian", "strengths": [0.5, 1.0, 2.0, 4.0]}],
        help="blurs of the images, and of each layer's own input",
    )
    parser.add_argument("--own_head", action="store_true", help="keep the network's own head, and train nothing")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = _config(parser, parsed)
    from blurtrain import layer_report, layers

    question = layers.Question(parsed.images, tuple(parser.instantiate(parsed).blurs), parsed.own_head)
    if parsed.dry_run:
        print(layers.forecast(config, question))
        return
    folder = layers.layers(config, question)
    result = layers.read_layers(folder)
    print(layer_report.table(result))
    print(f"\nTables: {folder / layers.TABLE}, {folder / layers.STAGES}, {folder / layers.RESULT}")
    print(f"Pictures: {folder / 'figures'}   TensorBoard: tensorboard --logdir {config.runs}")


def _predict(words: Sequence[str]) -> None:
    parser = _parser("predict")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("paths", type=str, nargs="+", metavar="PATH", help="images, folders (at any depth), patterns")
    parser.add_argument("--format", type=Literal["csv", "jsonl"], default="csv", help="a line a file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="whole or not at all; standard output by default")
    parser.add_argument("--top", type=int, default=1, help="how many classes are named, the most probable first")
    parser.add_argument("--blur_check", action="store_true", help="tell the tested blur that each image resembles")
    parser.add_argument(
        "--least_accuracy", type=float, default=0.0, help="tested views with less count as not tested in that check"
    )
    parser.add_argument(
        "--on_bad_image", type=OnBadImage, default="skip", help="give a file that cannot be used a row, or stop"
    )
    parser.add_argument("--cache", type=Path, metavar="FOLDER", help="keeps the exported network; the run's by default")
    parsed = parser.parse_words(words)
    if parsed.out is not None and parsed.out.is_dir():
        raise ConfigError(f"out must be a file, and {parsed.out} is a folder")
    from blurtrain import predictions

    asked = predictions.Asked(parsed.top, parsed.blur_check, parsed.least_accuracy, parsed.on_bad_image)
    with closing(predictions.predict(parsed.run, parsed.paths, asked, parsed.cache)) as rows:
        predictions.write(rows, parsed.format, asked, parsed.out)


def _export(words: Sequence[str]) -> None:
    parser = _parser("export")
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument("--format", type=Literal["onnx", "torch", "safetensors"], default="onnx", help="of the file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .onnx, .pt2 or .safetensors")
    parsed = parser.parse_words(words)
    from blurtrain import exporting

    made = exporting.export(parsed.run, parsed.format, parsed.out)
    print(f"Largest difference in a probability on {made.images} test images: {made.difference:.1e}")
    print(f"File: {made.file}   Model card: {made.card}")


def _print_skipped(folders: Sequence[Path]) -> None:
    """How many images were left out, where there are any."""
    from blurtrain import runs

    places: dict[tuple[str, ...], list[str]] = {}
    for folder in folders:
        names = tuple(runs.load_run(folder).result.get("skipped", {}))
        places.setdefault(names, []).append(str(folder / runs.RESULT))
    for names, files in places.items():
        if names:
            print(f"\nSkipped: {len(names)} bad image{'s' * (len(names) > 1)}, listed in {' and '.join(files)}")


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
    parser.add_argument("--measure", action="store_true", help="how fast each runs here, and what has bounds; minutes")
    parsed = parser.parse_words(words)
    from blurtrain import catalogue

    entries = catalogue.catalogue(parsed.filter)
    if not parsed.measure:
        print(catalogue.table(entries))
    else:
        from blurtrain import trials

        print(catalogue.table(entries, trials.tried([entry.name for entry in entries])))
        print(f"\n{trials.LEGEND}")
    if not parsed.filter:
        print(f"\n{catalogue.MORE}")


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
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parser.add_argument("--seed", type=int, default=0, help="of the letters, the weights and their order")
    parser.add_argument("--folder", type=Path, default=Path("pretrained"), help="where the weights and recipe go")
    parsed = parser.parse_words(words)
    if not 0 <= parsed.seed < 2**63:
        raise ConfigError(f"--seed must be from 0 to 2**63 - 1, got {parsed.seed}")
    from blurtrain.pretrain import RECIPE_FILE, WEIGHTS_FILE, forecast, pretrain

    if parsed.dry_run:
        print(forecast())
        return
    validation = cast(dict[str, float], pretrain(seed=parsed.seed, folder=parsed.folder)["validation"])
    print(f"Validation accuracy {100 * validation['accuracy']:.1f} % on {validation['images']} fresh letters")
    print(f"{parsed.folder / WEIGHTS_FILE}, {parsed.folder / RECIPE_FILE}; use it with --backbone.weights")


_RUN: dict[str, Callable[[Sequence[str]], None]] = {
    "train": _train,
    "compare": _compare,
    "evidence": _evidence,
    "recommend": _recommend,
    "pretrained": _pretrained,
    "layers": _layers,
    "predict": _predict,
    "export": _export,
    "preview": _preview,
    "backbones": _backbones,
    "cache": _cache,
    "pretrain": _pretrain,
}
