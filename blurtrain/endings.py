"""How every command ends: what was found, where it lies, and the command that goes on from there."""

import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurtrain import runs
from blurtrain.config import Config
from blurtrain.progress import one_line
from blurtrain.trust import OPTION
from blurtrain.views import REAL

if TYPE_CHECKING:
    from blurtrain.checking import Check

Words = Sequence[str | Path]
Result = Mapping[str, Any]

SHOW = ("tensorboard", "--runs")
NAMED = 3  # classes that the ending of a prediction names


@dataclass(frozen=True)
class Ending:
    """The last lines of a command.

    Args:
        found: In words.
        files: The folder or files that hold it; none where nothing is written.
        names: Of files within that folder.
        following: The words of the command that goes on from there, without its program.
        watch: Folder of runs that TensorBoard shows, where there is one.
        program: Of the command that goes on.
    """

    found: str
    files: Words
    following: Words
    names: Sequence[str] = ()
    watch: Path | None = None
    program: str = "blurtrain"

    @property
    def text(self) -> str:
        """Two or three lines; whatever is to be copied into a shell is quoted for it."""
        lines = [f"Found: {one_line(self.found)}"]
        if self.files:
            inside = f" ({', '.join(self.names)})" if self.names else ""
            shown = "" if self.watch is None else f"; shown by: {_command('blurtrain', *SHOW, self.watch)}"
            lines.append(f"Files: {' '.join(_command(file) for file in self.files)}{inside}{shown}")
        lines.append(f"Next:  {_command(self.program, *self.following)}")
        return "\n".join(lines)


def show(ending: Ending, *, apart: bool = True, aside: bool = False) -> None:
    """Print an ending.

    Args:
        ending: Of a command.
        apart: Whether an empty line stands before it.
        aside: Whether standard output is for something else.
    """
    print("\n" * apart + ending.text, file=sys.stderr if aside else sys.stdout)


def _command(*words: str | Path) -> str:
    return one_line(shlex.join(map(str, words)))


def _can_choose(config: Config) -> bool:
    """Whether `recommend` takes it."""
    return config.cache is not False and not config.changes_backbone and not config.duplicated


def _improving(folder: Path, config: Config) -> Words:
    """What may find better copies, or else shows the blurs."""
    return ["recommend" if _can_choose(config) else "preview", *runs.again(folder, config)]


def after_train(config: Config) -> Ending:
    """What a run found; with copies it is compared with its baseline next."""
    from blurtrain import report  # pyarrow, which few commands need

    folder = config.run_folder
    rows = report.sweep_rows(folder)
    clean, worst = rows[0], min((row for row in rows if row["family"] != REAL), key=_accuracy)
    lost = "" if worst is clean else f", {_percent(worst)} through {worst['view']}"
    following = ["compare", *runs.again(folder, config)] if config != config.baseline() else _improving(folder, config)
    return Ending(f"accuracy {_percent(clean)} on clean images{lost}", [folder], following, watch=config.runs)


def _accuracy(row: Result) -> float:
    return float(row["accuracy"])


def _percent(row: Result) -> str:
    return f"{100 * row['accuracy']:.1f} %"


def after_compare(folder: Path, comparison: Result, names: Sequence[str]) -> Ending:
    """The verdict; an arm that is better is exported next, else other copies are looked for."""
    from blurtrain import report  # pyarrow, which few commands need

    reference, heavy = comparison["reference"], comparison["heavy_mean"]
    where = "under heavy blur" if heavy else "on clean images, as no view is heavy,"
    verdicts: dict[str, Result] = (heavy or comparison["views"][0])["against_reference"]
    found = "; ".join(f"{name} is {report.against(verdict, reference)}" for name, verdict in verdicts.items())
    best = max(verdicts, key=lambda name: float(verdicts[name]["difference"]))
    run = runs.placed(folder, Path(comparison["arms"][best]))
    config = runs.read_config(run)
    if heavy and verdicts[best]["verdict"] == "better":
        following: Words = ["export", run, "--out", "classifier.onnx", *runs.named_again(config)]
    else:
        following = _improving(run, config)
    return Ending(f"{where} {found}", [folder], following, names, folder.parent)


def after_evidence(folder: Path, config: Config, found: Result) -> Ending:
    """The gain of the config's own copies; others are looked for next."""
    from blurtrain import report  # pyarrow, which few commands need

    count = f"{len(found['arms']) - 1} arms beside the {found['reference']}"
    gains = [setting["heavy"] for setting in found["sensitivity"]]
    verdict = f"; under heavy blur {config.arm} is {report.against(gains[0], found['reference'])}" if gains else ""
    names = ["evidence.csv", "evidence.json", "figures"]
    return Ending(f"{count}{verdict}", [folder], ["recommend", *runs.again(folder, config)], names)


def after_recommend(out: Path, config: Config, found: Result) -> Ending:
    """The copies that were chosen, which are compared with the baseline next."""
    named = runs.named_again(config)
    files = [out, out.with_suffix(".json")]
    if not found["chosen"]:
        costly = " at little cost on clean images" * bool(found["refused"])
        return Ending(f"no copies that help{costly}", files, ["preview", "--config", out, *named])
    gain = f"{100 * found['expected']['heavy']['gain']['difference']:+.1f} points expected under heavy blur"
    name = f"{config.experiment}-recommended"
    following: Words = ["compare", "--config", out, "--name", name, *named]
    return Ending(f"copies {', '.join(found['chosen'])}: {gain}", files, following)


def after_pretrained(folder: Path, config: Config, result: Result, names: Sequence[str]) -> Ending:
    """What blur takes from the network, whose layers are looked at next."""
    views = result["views"]
    clean, worst = views[0], min(views, key=_accuracy)
    lost = "" if worst is clean else f", {_percent(worst)} through {worst['name']}"
    skipped = len(result["skipped"])
    without = f"; {skipped} bad image{'s' * (skipped > 1)} left out" if skipped else ""
    found = f"{result['network']} top-1 {_percent(clean)} on clean images{lost}{without}"
    return Ending(found, [folder], ["layers", "--own_head", *runs.again(folder, config)], names)


def after_layers(folder: Path, config: Config, result: Result, names: Sequence[str], *, own_head: bool) -> Ending:
    """Whether any bound failed; the copies are judged next."""
    violations, count = result["violations"], len(result["layers"])
    held = "no bound violated" if violations["count"] == 0 else f"{violations['count']:,} bounds violated"
    found = f"{held} in {violations['checked']:,} comparisons at {count} convolution{'s' * (count != 1)}"
    command = "preview" if own_head or config == config.baseline() else "compare"
    return Ending(found, [folder], [command, *runs.again(folder, config)], names, config.runs)


def after_preview(out: Path, config: Config, summary: str, words: Sequence[str]) -> Ending:
    """The picture; the same blurs are trained and tested with next."""
    rest = without(words, "--images", "--out")
    return Ending(summary, [out], ["compare" if config != config.baseline() else "train", *rest])


def after_check(check: "Check", words: Sequence[str]) -> Ending:
    """Fit images are trained on next; of others a list without the bad ones is made where there can be one."""
    from blurtrain.check_report import verdict  # imports numpy, which few endings need

    rest = without(words, "--out", "--fix_list", "--fix-list")
    files = [check.out] if check.mended is None else [check.out, check.mended.file]
    if check.is_fit:
        return Ending(verdict(check), files, ["compare", *rest])
    if check.mended is not None:
        rest = [*without(rest, "--data.root"), "--data.root", str(check.mended.file)]
    elif check.has_paths:
        rest = [*rest, "--fix-list", "mended.csv"]
    return Ending(verdict(check), files, ["check-data", *rest])


def without(words: Sequence[str], *options: str) -> list[str]:
    """Words of a command line without some options and their values."""
    rest, skip = [], False
    for word in words:
        if skip or word.partition("=")[0] in options:
            skip = not skip and "=" not in word
        else:
            rest.append(word)
    return rest


def after_forecast(command: str, words: Sequence[str]) -> Ending:
    """Nothing was done; the command itself comes next."""
    rest = [word for word in words if word not in ("--dry_run", "--dry-run")]
    return Ending("what there is to do; nothing was written", [], [command, *rest])


def after_predict(run: Path, out: Path | None, classes: Counter[str], bad: int) -> Ending:
    """How many files each class has; the classifier becomes one file next, unless nothing could be classified."""
    if not classes:
        found = f"none of {bad:,} files" if bad > 1 else "the file"
        told = f"{found} could {'not ' * (bad == 1)}be classified: the column error says why"
        return Ending(told, [] if out is None else [out], ["predict", "--help"])
    named = [f"{count:,} {name}" for name, count in classes.most_common(NAMED)]
    others = classes.total() - sum(count for _, count in classes.most_common(NAMED))
    named += [f"{others:,} of other classes"] * (others > 0) + [f"{bad:,} not usable"] * (bad > 0)
    total = classes.total() + bad
    found = f"{total:,} file{'s' * (total > 1)}: {', '.join(named)}"
    named = runs.named_again(runs.read_config(run)) if (run / runs.CONFIG).exists() else []
    return Ending(found, [] if out is None else [out], ["export", run, "--out", "classifier.onnx", *named])


def after_export(file: Path, card: Path, difference: float, images: int) -> Ending:
    """How far the file's answers differ; its model card is to be read next."""
    found = f"the file differs from the run by at most {difference:.1e} in any probability of {images} test images"
    return Ending(found, [file, card], [card], program="cat")


def after_backbones(names: Mapping[str, int], *, measured: bool) -> Ending:
    """How many networks; the smallest one is tried out next.

    Args:
        names: Of the networks, with their numbers of parameters.
        measured: Whether they have been tried out.
    """
    smallest = min(names, key=lambda name: names[name])
    found = f"{len(names)} networks, the smallest {smallest}" if len(names) > 1 else f"1 network, {smallest}"
    following = ["preview", OPTION, smallest] if measured else ["backbones", smallest, "--measure"]
    return Ending(found, [], following)


def after_cache(cache: Path, tables: int, size: int, removed: int) -> Ending:
    """What the store holds; old tables are removed next, or what is missing is computed again."""
    gone = f", {removed} removed" if removed else ""
    found = f"{tables} tables, {size / 1e6:.1f} MB{gone}; everything there can be computed again"
    place: list[str | Path] = ["--cache", cache]
    following: Words = ["cache", *place, "--unused_for", "30"] if tables and not removed else ["compare", *place]
    return Ending(found, [cache], following)


def after_pretrain(weights: Path, recipe: Path, accuracy: float, images: int) -> Ending:
    """How good the network is, which is blurred next."""
    found = f"validation accuracy {100 * accuracy:.1f} % on {images:,} fresh letters"
    name = f"pretrained-{weights.parent.name}"
    return Ending(found, [weights, recipe], ["pretrained", "--backbone.weights", weights, "--name", name])
