"""The commands that take no config: one thin function each, which parses, calls one module and prints."""

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal, cast

from blurtrain.config import OnBadImage
from blurtrain.errors import ConfigError
from blurtrain.options import Parser
from blurtrain.parsers import DRY_RUN, plain_parser
from blurtrain.progress import meanwhile
from blurtrain.trust import OPTION

NOTHING = 1  # exit code where nothing could be classified


def _of_a_run(command: str) -> Parser:
    """A parser for what is done with a finished run."""
    parser = plain_parser(command)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a finished run")
    parser.add_argument(
        OPTION, metavar="MODULE:FUNCTION", help="leave to run it, where a function of yours is the network"
    )
    return parser


def _require_named(run: Path, name: str | None) -> None:
    """Check that a network which is named is the run's, so that nobody thinks another one answers.

    Raises:
        ConfigError: If it is another.
        RunError: If there is no finished run.
    """
    if name is None:
        return
    from blurtrain import runs

    own = runs.load_run(run).config.backbone.name
    if name != own:
        raise ConfigError(f"{OPTION} must be {own!r}, the network of {run}, got {name!r}")


def predict(words: Sequence[str]) -> int:
    """``blurtrain predict``: 1 where no file at all could be classified, else 0."""
    parser = _of_a_run("predict")
    parser.add_argument("paths", type=str, nargs="+", metavar="PATH", help="images, folders (at any depth), patterns")
    parser.add_argument("--format", type=Literal["csv", "jsonl"], default="csv", help="a line a file")
    parser.add_argument("--out", type=Path, metavar="FILE", help="whole or not at all; standard output by default")
    parser.add_argument(
        "--top",
        type=int,
        default=1,
        help="how many classes are named, the most probable first; all where there are fewer",
    )
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
    _require_named(parsed.run, parsed.backbone.name)
    with meanwhile("loading libraries"):
        from blurtrain import endings, predictions

    asked = predictions.Asked(parsed.top, parsed.blur_check, parsed.least_accuracy, parsed.on_bad_image)
    asked = predictions.capped(asked, parsed.run)
    with closing(predictions.predict(parsed.run, parsed.paths, asked, parsed.cache)) as rows:
        classes, bad = predictions.write(rows, parsed.format, asked, parsed.out)
    ending = endings.after_predict(parsed.run, parsed.out, classes, bad)
    endings.show(ending, apart=False, aside=True)  # standard output is for the rows alone
    return 0 if classes else NOTHING


def export(words: Sequence[str]) -> None:
    """``blurtrain export``."""
    parser = _of_a_run("export")
    parser.add_argument("--format", type=Literal["onnx", "torch", "safetensors"], default="onnx", help="of the file")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends in .onnx, .pt2 or .safetensors")
    parsed = parser.parse_words(words)
    _require_named(parsed.run, parsed.backbone.name)
    with meanwhile("exporting and comparing with the original"):
        from blurtrain import endings, exporting

        made = exporting.export(parsed.run, parsed.format, parsed.out)
    endings.show(endings.after_export(made.file, made.card, made.difference, made.images), apart=False)


def report(words: Sequence[str]) -> None:
    """``blurtrain report``."""
    parser = plain_parser("report")
    parser.add_argument("comparison", type=Path, metavar="COMPARISON", help="folder of a comparison: runs/compare-NAME")
    parsed = parser.parse_words(words)
    with meanwhile("writing the page"):
        from blurtrain import endings, page
        from blurtrain.comparison import read

        written = page.write(parsed.comparison)
    endings.show(endings.after_compare(parsed.comparison, read(parsed.comparison), [written.name]), apart=False)


def tensorboard(words: Sequence[str]) -> None:
    """``blurtrain tensorboard``."""
    parser = plain_parser("tensorboard")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs and comparisons")
    parser.add_argument("--port", type=int, default=6006, help="of 127.0.0.1; 0 takes any that is free")
    parsed = parser.parse_words(words)
    if not 0 <= parsed.port <= 65535:
        raise ConfigError(f"--port must be from 0 to 65535, got {parsed.port}")
    from blurtrain import serving

    print(f"TensorBoard: {serving.launch(parsed.runs, parsed.port)} (Ctrl-C ends it)", flush=True)
    serving.wait()


def backbones(words: Sequence[str]) -> None:
    """``blurtrain backbones``."""
    parser = plain_parser("backbones")
    parser.add_argument("filter", nargs="?", default="", help="part of a name, or a pattern for all of it: 'resnet*'")
    parser.add_argument("--measure", action="store_true", help="how fast each runs here, and what has bounds; minutes")
    parsed = parser.parse_words(words)
    with meanwhile("loading libraries"):
        from blurtrain import catalogue, endings

    entries = catalogue.catalogue(parsed.filter)
    if not parsed.measure:
        print(catalogue.table(entries))
    else:
        from blurtrain import trials

        print(catalogue.table(entries, trials.tried([entry.name for entry in entries])))
        print(f"\n{trials.LEGEND}")
    if not parsed.filter:
        print(f"\n{catalogue.MORE}")
    sizes = {entry.name: entry.parameters for entry in entries}
    endings.show(endings.after_backbones(sizes, measured=parsed.measure))


def cache(words: Sequence[str]) -> None:
    """``blurtrain cache``."""
    parser = plain_parser("cache")
    parser.add_argument("--cache", type=Path, default=Path("cache"), help="folder of the store")
    parser.add_argument(
        "--unused_for", type=float, metavar="DAYS", help="remove tables not used for so many days; 0 is all"
    )
    parsed = parser.parse_words(words)
    if parsed.unused_for is not None and not parsed.unused_for >= 0:
        raise ConfigError(f"--unused_for must be 0 or more days, got {parsed.unused_for}")
    from blurtrain import endings, store

    kept, removed = [], 0
    for table in list(store.summaries(parsed.cache)):
        age = (time.time() - table.used) / 86400
        stale = parsed.unused_for is not None and age >= parsed.unused_for
        if stale:
            store.remove(table)
            removed += 1
        else:
            kept.append(table)
        what = table.key.get("view", f"{table.key.get('crop')} px")
        action = "removed " if stale else ""
        print(
            f"{action}{table.key.get('kind', '?'):<9} {table.key.get('backbone', ''):<18} {what:<16}"
            f"{table.rows:>10} rows {table.size / 1e6:>10.1f} MB   used {age:.1f} days ago   {table.folder}"
        )
    total = sum(table.size for table in kept)
    endings.show(endings.after_cache(parsed.cache, len(kept), total, removed), apart=bool(kept or removed))


def pretrain(words: Sequence[str]) -> None:
    """``blurtrain pretrain``."""
    parser = plain_parser("pretrain")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parser.add_argument("--seed", type=int, default=0, help="of the letters, the weights and their order")
    parser.add_argument("--folder", type=Path, default=Path("pretrained"), help="where the weights and recipe go")
    parsed = parser.parse_words(words)
    if not 0 <= parsed.seed < 2**63:
        raise ConfigError(f"--seed must be from 0 to 2**63 - 1, got {parsed.seed}")
    with meanwhile("loading libraries"):
        from blurtrain import endings
        from blurtrain.pretrain import RECIPE_FILE, WEIGHTS_FILE, forecast, pretrain

    if parsed.dry_run:
        with meanwhile("trying a step"):
            text = forecast()
        print(text)
        endings.show(endings.after_forecast("pretrain", words))
        return
    validation = cast(dict[str, float], pretrain(seed=parsed.seed, folder=parsed.folder)["validation"])
    files = (parsed.folder / WEIGHTS_FILE, parsed.folder / RECIPE_FILE)
    endings.show(endings.after_pretrain(*files, validation["accuracy"], int(validation["images"])), apart=False)
