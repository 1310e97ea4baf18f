"""What a finished run's classifier says of image files, one after another, read and answered side by side."""

import glob
import json
import sys
import warnings
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, UInt8

from blurtrain import engines, finished
from blurtrain.config import Config, OnBadImage
from blurtrain.cores import cores
from blurtrain.decoding import SUFFIXES, Geometry
from blurtrain.engines import CHECK_IMAGES, Engine
from blurtrain.errors import ConfigError, DataError
from blurtrain.features import AHEAD
from blurtrain.files import SupportsWrite, whole_file, write_csv
from blurtrain.folders import KINDS, images_below, is_folder, text_of, why_not
from blurtrain.progress import AboveBars, progress, say
from blurtrain.reduction import square
from blurtrain.runs import Run, load_run
from blurtrain.sharpness import Resembled, Scale, scale_of, sharpness
from blurtrain.sources import FileSource, why
from blurtrain.views import CLEAN

DIGITS = 6  # of a probability: more depend on how many images were answered together

Square = UInt8[np.ndarray, "3 side side"]


@dataclass(frozen=True)
class Prediction:
    """What is said of one file.

    Args:
        path: As it was given or found.
        top: Classes and their probabilities, the most probable first; none where the file cannot be used.
        blur: What its sharpness says, where that was asked for.
        error: Why it cannot be used.
    """

    path: str
    top: tuple[tuple[str, float], ...]
    blur: Resembled | None = None
    error: str | None = None


@dataclass(frozen=True)
class Asked:
    """How files are to be answered.

    Args:
        top: How many classes are named, at most.
        blur_check: Whether the sharpness is judged.
        least_accuracy: Views in which the refitted head was right less often count as not tested.
        on_bad_image: Whether a file that cannot be used gets a row that says so, or stops everything.
    """

    top: int = 1
    blur_check: bool = False
    least_accuracy: float = 0.0
    on_bad_image: OnBadImage = "skip"


class _Files(FileSource):
    """Files that are read one by one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        super().__init__()
        self._paths = list(paths)

    def pixels(self, index: int, geometry: Geometry) -> Square | str:
        """A file as the network sees it, or what is wrong with it."""
        try:
            with self._open(index) as file:
                return square(file.read(), geometry)
        except (DataError, OSError) as error:
            return why(error)


@dataclass(frozen=True)
class _Answering:
    """All that one batch needs."""

    engine: Engine
    weight: Float32[np.ndarray, "classes features"]
    bias: Float32[np.ndarray, " classes"]
    scale: Scale | None

    def __call__(self, squares: Sequence[Square]) -> Float32[np.ndarray, "batch classes"]:
        """Probabilities of a batch."""
        logits = self.engine(np.stack(squares), CLEAN) @ self.weight.T + self.bias
        shifted = np.exp(logits - logits.max(-1, keepdims=True))
        return np.asarray(shifted / shifted.sum(-1, keepdims=True))


def files_of(words: Sequence[str]) -> list[Path]:
    """The files that are meant: each file by itself, images of folders at any depth, and what patterns match, sorted.

    Raises:
        DataError: If a word stands for nothing, or a folder cannot be read.
    """
    notes: list[str] = []
    found = [path for word in words for path in _meant(word, notes)]
    for note in notes:
        say(note)
    return found


def _meant(word: str, notes: list[str]) -> list[Path]:
    path = Path(word)
    if is_folder(path):
        return _in_folder(path, notes)
    if path.exists() or path.is_symlink():  # a link that leads nowhere shows when it is read
        return [path]
    if not glob.has_magic(word):
        raise DataError(f"{word} is no file and no folder{why_not(path)}: give images, folders or patterns")
    matched = [Path(name) for name in sorted(glob.glob(word, recursive=True))]  # noqa: PTH207 - Path.glob wants a folder to start from
    found = [
        image
        for match in matched
        for image in (images_below(match, notes) if is_folder(match) else [match])
        if image.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise DataError(f"pattern {word!r} matches no images ({KINDS}): give one that does")
    return list(dict.fromkeys(found))  # `**` matches folders and what is in them


def _in_folder(path: Path, notes: list[str]) -> list[Path]:
    found = images_below(path, notes)
    if not found:
        raise DataError(f"folder {path} has no images ({KINDS}): give one that has")
    return found


def predict(
    run: Path | str, paths: Sequence[Path | str], asked: Asked | None = None, cache: Path | None = None
) -> Generator[Prediction, None, None]:
    """Answer image files by a finished run's refitted head, in their order.

    Args:
        run: The run's folder.
        paths: Files, folders, patterns.
        asked: What is wanted.
        cache: Folder that keeps the exported network; that of the run's config where none is given.

    Raises:
        RunError: If there is no finished run, or it is damaged.
        DataError: If a path stands for nothing, or where bad images are errors, for the first one.
        BackboneError: If the backbone's weights cannot be had any more, or are others.
        ConfigError: If less than one class is asked for, or no view is as good as is asked.
        StoreError: If the exported network cannot be written.
    """
    loaded = load_run(Path(run))
    asked, config = asked or Asked(), loaded.config
    if cache is not None and config.cache is not False:
        config = replace(config, cache=cache)
    if asked.top < 1:
        raise ConfigError(f"top must be at least 1, got {asked.top}")
    if not 0 <= asked.least_accuracy <= 1:
        raise ConfigError(f"least_accuracy must be from 0 to 1, got {asked.least_accuracy}")
    files = files_of([str(path) for path in paths])
    return _predicted(loaded, config, files, asked)


def capped(asked: Asked, run: Path) -> Asked:
    """The same with no more classes than a run has, which then are the columns of its rows.

    Raises:
        RunError: If there is no finished run, or it is damaged.
    """
    return replace(asked, top=min(asked.top, len(load_run(run).classes)))


def _predicted(run: Run, config: Config, paths: list[Path], asked: Asked) -> Generator[Prediction, None, None]:
    source, classes = _Files(paths), [*run.classes]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # odd files that still decode are no news to the user
        backbone = finished.backbone_of(run)
        geometry = backbone.preprocessing.geometry
        head = {key: tensor.numpy() for key, tensor in finished.head_of(run).items()}
        scale = scale_of(run, config, asked.least_accuracy) if asked.blur_check else None
        sample = _sample(source, geometry, len(paths))
        if config.cache is False:
            engine: Engine = engines.TorchEngine(backbone)
        else:
            engine = engines.build(backbone, config.engine, config.cache, sample)
        answering = _Answering(engine, head["weight"], head["bias"], scale)
        size = min(config.batch_size, engine.batch)
        with (
            progress("classifying", len(paths), "file") as bar,
            closing(_batches(answering, source, geometry, len(paths), size)) as batches,
        ):
            for start, answers in batches:
                for path, answer in zip(paths[start : start + len(answers)], answers, strict=True):
                    yield _prediction(text_of(path), answer, classes, asked)
                bar.advance(len(answers))


def _sample(source: _Files, geometry: Geometry, count: int) -> UInt8[np.ndarray, "batch 3 side side"]:
    """Some images on which a new export is compared with torch: the first that can be read."""
    found: list[Square] = []
    for index in range(count):
        square_ = source.pixels(index, geometry)
        if not isinstance(square_, str):
            found.append(square_)
        if len(found) == CHECK_IMAGES:
            break
    return np.stack(found or [np.zeros((3, geometry.crop, geometry.crop), np.uint8)])


_Answer = tuple[Float32[np.ndarray, " classes"], Resembled | None] | str


def _batches(
    answering: _Answering, source: _Files, geometry: Geometry, count: int, size: int
) -> Generator[tuple[int, list[_Answer]], None, None]:
    """Answers batch by batch with the place of their first, as many batches at once as the engine can use."""
    readers = ThreadPoolExecutor(cores(), "reading")
    runners = ThreadPoolExecutor(answering.engine.parallel, "backbone")
    running: deque[tuple[int, Future[list[_Answer]]]] = deque()
    try:
        for start in range(0, count, size):
            batch = range(start, min(start + size, count))
            squares = [readers.submit(source.pixels, index, geometry) for index in batch]
            running.append((start, runners.submit(_answered, answering, squares)))
            if len(running) == answering.engine.parallel * (1 + AHEAD):
                place, answers = running.popleft()
                yield place, answers.result()
        for place, answers in running:
            yield place, answers.result()
    finally:
        readers.shutdown(cancel_futures=True)  # first: the others wait for them
        runners.shutdown(cancel_futures=True)


def _answered(answering: _Answering, waiting: Sequence[Future[Square | str]]) -> list[_Answer]:
    squares = [future.result() for future in waiting]
    good = [one for one in squares if not isinstance(one, str)]
    rows = iter(answering(good) if good else ())
    return [one if isinstance(one, str) else (next(rows), _judged(answering.scale, one)) for one in squares]


def _judged(scale: Scale | None, pixels: Square) -> Resembled | None:
    return None if scale is None else scale.judge(sharpness(pixels))


def _prediction(path: str, answer: _Answer, classes: Sequence[str], asked: Asked) -> Prediction:
    if isinstance(answer, str):
        if asked.on_bad_image == "error":
            raise DataError(f"{path} {answer}: mend or remove it, or give --on_bad_image skip")
        return Prediction(path, (), error=answer)
    probabilities, blur = answer
    best = np.argsort(-probabilities, kind="stable")[: asked.top]  # of equal ones the first class
    return Prediction(path, tuple((classes[i], round(float(probabilities[i]), DIGITS)) for i in best), blur)


def write(
    rows: Iterable[Prediction], kind: Literal["csv", "jsonl"], asked: Asked, out: Path | None = None
) -> tuple[Counter[str], int]:
    """Write predictions as they come, to a file that appears whole or to standard output; then say what was bad.

    Returns:
        How many files are most probably of each class, and how many could not be used.

    Raises:
        StoreError: If the file cannot be written.
    """
    if out is None:
        classes, bad, beyond = _write(rows, kind, asked, AboveBars() if sys.stdout.isatty() else sys.stdout)
    else:
        with whole_file(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            classes, bad, beyond = _write(rows, kind, asked, file)
    if bad:
        say(f"note: {bad} file{'s' * (bad > 1)} could not be used: their rows say why")
    if beyond:
        are = "files are" if beyond > 1 else "file is"
        say(f"note: {beyond} {are} blurrier than what the head was tested on: beyond_tested is true in the row")
    return classes, bad


@runtime_checkable
class _Lines(SupportsWrite, Protocol):
    """The same, that hands on what it was given."""

    def flush(self) -> object:
        """Hand on what was taken."""


def _write(rows: Iterable[Prediction], kind: str, asked: Asked, file: _Lines) -> tuple[Counter[str], int, int]:
    """Counts of classes, of files that could not be used, and of those blurrier than anything tested."""
    classes: Counter[str] = Counter()
    bad = beyond = 0
    if kind == "csv":
        write_csv(file, [columns(asked)])
    for row in rows:
        if kind == "csv":
            write_csv(file, [_cells(row, asked)])
        else:
            file.write(json.dumps(_object(row, asked), ensure_ascii=False) + "\n")
        file.flush()
        classes.update(name for name, _ in row.top[:1])
        bad += row.error is not None
        beyond += row.blur is not None and row.blur.beyond
    return classes, bad, beyond


def columns(asked: Asked) -> list[str]:
    """Names of the columns of CSV."""
    further = [name for place in range(2, asked.top + 1) for name in (f"class_{place}", f"probability_{place}")]
    judged = ["sharpness", "blur_like", "accuracy_like", "beyond_tested"] if asked.blur_check else []
    return ["path", "class", "probability", *further, *judged, "error"]


def _cells(row: Prediction, asked: Asked) -> Iterator[object]:
    yield row.path
    for name, probability in row.top or (("", ""),) * asked.top:
        yield from (name, probability if isinstance(probability, str) else f"{probability:.{DIGITS}f}")
    if asked.blur_check:
        yield from ("",) * 4 if row.blur is None else _judgement(row.blur).values()
    yield row.error or ""


def _judgement(blur: Resembled) -> dict[str, object]:
    return {
        "sharpness": round(blur.sharpness, 3),
        "blur_like": blur.like,
        "accuracy_like": round(blur.accuracy, 4),
        "beyond_tested": str(blur.beyond).lower(),
    }


def _object(row: Prediction, asked: Asked) -> dict[str, object]:
    name, probability = row.top[0] if row.top else (None, None)
    judged = (
        {"blur": row.blur and {**_judgement(row.blur), "beyond_tested": row.blur.beyond}} if asked.blur_check else {}
    )
    top = [{"class": one, "probability": share} for one, share in row.top]
    return {"path": row.path, "class": name, "probability": probability, "top": top, **judged, "error": row.error}
