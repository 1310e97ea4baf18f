"""The commands that take a config: one thin function each, which parses, calls one module and prints."""

from collections.abc import Sequence
from pathlib import Path

from blurtrain.config import BlurGrid
from blurtrain.errors import ConfigError
from blurtrain.parsers import DRY_RUN, config_of, config_parser


def train(words: Sequence[str]) -> None:
    """``blurtrain train``."""
    parser = config_parser("train")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
    from blurtrain import experiment, report

    if parsed.dry_run:
        print(experiment.forecast(config, both=False))
        return
    folder = experiment.train(config)
    print(report.sweep_table(folder))
    _print_skipped([folder])
    print(
        f"\nRun: {folder}   TensorBoard: blurtrain tensorboard --runs {config.runs}   Next: blurtrain compare RUN RUN"
    )


def compare(words: Sequence[str]) -> None:
    """``blurtrain compare``."""
    parser = config_parser("compare")
    parser.add_argument("arms", nargs="*", type=Path, metavar="RUN", help="finished runs; without them, the config's")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
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
    print(f"TensorBoard: blurtrain tensorboard --runs {folder.parent}")


def evidence(words: Sequence[str]) -> None:
    """``blurtrain evidence``."""
    parser = config_parser("evidence")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
    from blurtrain import exhibits, experiment

    if parsed.dry_run:
        print(experiment.forecast_evidence(config))
        return
    folder = experiment.evidence(config)
    print(exhibits.tables(experiment.read_evidence(folder)))
    print(f"\nTables: {folder / 'evidence.csv'}, {folder / experiment.EVIDENCE}\nPictures: {folder / 'figures'}")


def recommend(words: Sequence[str]) -> None:
    """``blurtrain recommend``."""
    parser = config_parser("recommend")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .yaml file; runs/recommend-NAME.yaml by default")
    parser.add_argument("--dry_run", action="store_true", help=DRY_RUN)
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
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


def pretrained(words: Sequence[str]) -> None:
    """``blurtrain pretrained``."""
    parser = config_parser("pretrained")
    parser.add_argument(
        "--mapping",
        type=Path,
        metavar="FILE",
        help="a CSV file of two columns, folder and class: an index or WordNet id",
    )
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
    from blurtrain import answers, own_head

    folder = own_head.pretrained(config, parsed.mapping)
    result = own_head.read_pretrained(folder)
    print(answers.table(result))
    if result["skipped"]:
        count = len(result["skipped"])
        print(f"\nSkipped: {count} bad image{'s' * (count > 1)}, listed in {folder / own_head.RESULT}")
    print(f"\nTables: {folder / own_head.TABLE}, {folder / own_head.RESULT}\nPicture: {folder / own_head.PICTURE}")


def layers(words: Sequence[str]) -> None:
    """``blurtrain layers``."""
    parser = config_parser("layers")
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
    config = config_of(parser, parsed)
    from blurtrain import layer_report, layers

    question = layers.Question(parsed.images, tuple(parser.instantiate(parsed).blurs), parsed.own_head)
    if parsed.dry_run:
        print(layers.forecast(config, question))
        return
    folder = layers.layers(config, question)
    result = layers.read_layers(folder)
    print(layer_report.table(result))
    print(f"\nTables: {folder / layers.TABLE}, {folder / layers.STAGES}, {folder / layers.RESULT}")
    print(f"Pictures: {folder / 'figures'}   TensorBoard: blurtrain tensorboard --runs {config.runs}")


def preview(words: Sequence[str]) -> None:
    """``blurtrain preview``."""
    parser = config_parser("preview")
    parser.add_argument("--images", type=int, default=4, help="how many, from 1 to 32")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a .png file; runs/preview-NAME.png by default")
    parsed = parser.parse_words(words)
    config = config_of(parser, parsed)
    from blurtrain import previews

    path, drawn = previews.made(config, parsed.images, parsed.out)
    print(f"{drawn.summary}: {path}")


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
