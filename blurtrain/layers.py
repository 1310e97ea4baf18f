"""From a config to a folder of what theory promises at each convolution, what happens there, and what becomes of it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurtrain import experiment, layer_pictures, layer_report, layer_tables, runs
from blurtrain.config import BlurGrid, Config, plain
from blurtrain.errors import ConfigError
from blurtrain.files import remove_partial, sha256, write_text
from blurtrain.grids import require
from blurtrain.kernels import WITH_KERNEL, content, has_kernel
from blurtrain.locks import held
from blurtrain.opening import open_source
from blurtrain.progress import meanwhile, say
from blurtrain.sources import listing
from blurtrain.views import CLEAN, Blur

if TYPE_CHECKING:
    from blurtrain.anatomy import Subject

RESULT = "layers.json"  # written last: it is finished
TABLE, STAGES = "layers.csv", "stages.csv"
MOST = 10_000  # images
MOST_BLURS = 16  # what one image takes of memory


@dataclass(frozen=True)
class Question:
    """What is asked of a network's layers.

    Args:
        images: How many, evenly of all classes.
        blurs: Of the images and of each layer's own input.
        own_head: Whether the network keeps its own head and nothing is trained; else the heads of the config's arms
            are looked at, and trained where they are missing.
    """

    images: int = 64
    blurs: tuple[BlurGrid, ...] = (BlurGrid("gaussian", (0.5, 1.0, 2.0, 4.0)),)
    own_head: bool = False

    def __post_init__(self) -> None:
        require(1 <= self.images <= MOST, "images", f"from 1 to {MOST}", self.images)
        require(1 <= len(self.views) <= MOST_BLURS, "blurs", f"from 1 to {MOST_BLURS} blurs", len(self.views))
        names = [view.name for view in self.views]
        require(len(set(names)) == len(names), "blurs", "of different names, which strengths and files give", names)
        for view in self.views:
            fits = view != CLEAN and not view.severity and has_kernel(view)
            require(fits, "blurs", f"strengths above 0 of {', '.join(WITH_KERNEL)}", view.name)

    @property
    def views(self) -> tuple[Blur, ...]:
        """The blurs."""
        return tuple(sorted({blur for grid in self.blurs for blur in grid.blurs()}))


def layers(config: Config, question: Question) -> Path:
    """Measure a network's layers; a finished result is left as it is.

    Returns:
        The folder of the result.

    Raises:
        BlurtrainError: Whatever a user can cause.
    """
    _require_use(config)
    config = _used(config, question)
    folder = _folder(config, question)
    if not question.own_head:
        _train_missing(config)
    seen = _seen(config, question)
    if runs.is_finished(config, folder, RESULT):
        runs.require_seen(folder, read_layers(folder)["seen"], seen, "others")
        say(f"{folder} is finished already; --name gives another one")
        return folder
    with meanwhile("loading libraries and the network"):
        subject = _subject(config, question)
    with held(runs.lock(folder), f"making {folder}"):
        if not runs.is_finished(config, folder, RESULT):
            runs.begin(config, folder)
            remove_partial(folder)
            _make(config, folder, subject, seen)
    if not question.own_head:
        from blurtrain import page

        page.refresh(config)
    return folder


def forecast(config: Config, question: Question) -> str:
    """What `layers` would do and how long it would take; nothing is written.

    Raises:
        BlurtrainError: As `layers`.
    """
    _require_use(config)
    used = _used(config, question)
    folder = _folder(used, question)
    missing = [] if question.own_head else [arm for arm in arms_of(used) if not runs.is_finished(arm)]
    if not missing and runs.is_finished(used, folder, RESULT):
        runs.require_seen(folder, read_layers(folder)["seen"], _seen(used, question), "others")
        return f"{folder} is finished: the results are shown in about a second."
    with meanwhile("loading libraries and trying the steps"):
        from blurtrain import forecast  # imports torch

        found = forecast.of_layers(used, missing, question.views, question.images, own_head=question.own_head)
    return found.text()


def _used(config: Config, question: Question) -> Config:
    """Without what plays no part."""
    return replace(config.untrained(), sweep=Config().sweep) if question.own_head else config


def _folder(config: Config, question: Question) -> Path:
    return config.folder("layers-own" if question.own_head else "layers")


def _subject(config: Config, question: Question) -> "Subject":
    from blurtrain import anatomy  # torch, which a finished result does not need

    if question.own_head:
        return anatomy.of_own_head(config, question.views, question.images)
    return anatomy.of_arms(config, arms_of(config), question.views, question.images)


def _make(config: Config, folder: Path, subject: "Subject", seen: Mapping[str, str]) -> None:
    """Measure, and write tables, pictures, events and last the result."""
    from blurtrain import anatomy, dissection, tensorboard

    counts = f"{len(subject.positions)} images, blurs of them and of each layer's input: {len(subject.views)}"
    say(f"{folder.name}: {counts}")
    found = anatomy.anatomy(subject)
    result = dissection.described(subject, found, anatomy.measured(subject, found)) | _made_of(config, subject, seen)
    result["finding"] = layer_report.finding(result)
    write_text(folder / TABLE, layer_tables.layers_text(result))
    write_text(folder / STAGES, layer_tables.stages_text(result))
    with meanwhile("drawing pictures"):
        tensorboard.write_layers(folder, result, layer_pictures.pictures(folder / "figures", result))
    runs.finish(folder, result, RESULT)


def _made_of(config: Config, subject: "Subject", seen: Mapping[str, str]) -> dict[str, Any]:
    """What the result was made of, for layers.json."""
    loaded = subject.images
    return {
        "weights": config.backbone.weights,
        "fingerprint": subject.fingerprint,
        "images": [loaded.names[position] for position in subject.positions],
        "split": "test" if subject.labels is not None else "all",
        "native_pixels_per_pixel": loaded.native_scale,
        "skipped": loaded.skipped,
        "preprocessing": plain(subject.backbone.preprocessing),
        "seen": dict(seen),
        "versions": runs.versions(),
    }


def arms_of(config: Config) -> list[Config]:
    """The baseline and the config's own arm."""
    return list(dict.fromkeys([config.baseline(), config]))


def read_layers(folder: Path) -> dict[str, Any]:
    """The contents of a finished layers.json.

    Raises:
        RunError: If there is none, or it is not what was written.
    """
    return runs.load_run(folder, RESULT, "layers").result


def _require_use(config: Config) -> None:
    if config.cache is False:
        raise ConfigError("cache must be a folder for layers, which stores the norms of each layer, got False")
    if config.changes_backbone:
        key = "bn" if config.bn == "adapt" else "tune"
        raise ConfigError(
            f"{key} must be {'frozen' if key == 'bn' else 'head'} for layers: the network is as it was imported"
        )


def _train_missing(config: Config) -> None:
    """Train the arms that are not finished."""
    if all(runs.is_finished(arm) for arm in arms_of(config)):
        return
    if config.has_copies:
        experiment.compare(config)
    else:
        experiment.train(config)


def _seen(config: Config, question: Question) -> dict[str, str]:
    """What is asked, and what lies in files, by hashes that are had in a moment."""
    seen = {
        "images, blurs": repr((question.images, question.views)),
        "psf": sha256(*(content(view) for view in question.views)),
        "weights": runs.weights_sha256(config),
    }
    if question.own_head:
        source = open_source(config.data, trained=False)
        return {**seen, "image files": listing(source)}
    found = [runs.load_run(arm.run_folder).result for arm in arms_of(config)]
    return {**seen, "arms": sha256(*(repr((run["inputs"], run["files"]["head.safetensors"])) for run in found))}
