"""The page of a comparison, report.html: one file that holds all it shows and asks for nothing from anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from blurtrain import comparison, page_answers, page_figures, page_images, page_parts, page_setup, page_words, runs
from blurtrain.arms import TWICE
from blurtrain.breakdown import KINDS, most_changed
from blurtrain.config import Config
from blurtrain.errors import BlurtrainError, RunError, StoreError
from blurtrain.files import write_text
from blurtrain.page_answers import Answers
from blurtrain.progress import say
from blurtrain.report import images_in_words
from blurtrain.roster import TEST_IMAGES, by_content, read_roster
from blurtrain.runs import Run
from blurtrain.sweep import PREDICTIONS
from blurtrain.version import VERSION
from blurtrain.views import Blur

DOZEN = 12  # images under the slider, and in each grid
SAMPLES = 3  # images that show what the blurs look like; one where there are many blurs
MANY_CURVES = 2

Part = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """A comparison and what it was made of.

    Args:
        folder: Of the comparison.
        result: The contents of comparison.json.
        runs: By arm, the reference first.
        answers: Of every arm on every test image.
        ids: Names of the test images by content.
        files: What they are called.
    """

    folder: Path
    result: Mapping[str, Any]
    runs: Mapping[str, Run]
    answers: Answers
    ids: Sequence[str]
    files: Sequence[str]

    @property
    def reference(self) -> Run:
        """The run that the others are compared with."""
        return self.runs[self.result["reference"]]

    @property
    def arm(self) -> str:
        """The last arm: of several it is the one whose images and classes are shown."""
        return list(self.runs)[-1]

    @property
    def views(self) -> tuple[Blur, ...]:
        """Of the test split."""
        return self.reference.config.test_views

    @property
    def heavy(self) -> tuple[Blur, ...]:
        """The heavy views."""
        return self._marked("heavy")

    @property
    def slight(self) -> tuple[Blur, ...]:
        """The views that are blurred, but no wider than the strongest copy."""
        return self._marked("slight")

    def _marked(self, mark: str) -> tuple[Blur, ...]:
        marks = [view.get(mark, False) for view in self.result["views"]]  # older comparisons do not say what is slight
        return tuple(view for view, marked in zip(self.views, marks, strict=True) if marked)

    @property
    def copies(self) -> set[Blur]:
        """Blurs of the copies of all arms; not of a control that repeats clean images in their place."""
        return {copy for run in self.runs.values() if not run.config.duplicated for copy in run.config.copy_views}

    @property
    def always(self) -> float:
        """Accuracy of always answering the most frequent class of the test split."""
        counts = np.bincount(self.answers.labels)
        return float(counts.max() / counts.sum())


def write(folder: Path) -> Path:
    """Write the page of a finished comparison, beside its tables.

    Args:
        folder: Of the comparison.

    Returns:
        The page.

    Raises:
        RunError: If the comparison or one of its runs is not finished, damaged, or not what it was.
        StoreError: If the page cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    surroundings = Environment(
        loader=PackageLoader("blurtrain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    surroundings.filters.update(percent=page_words.percent, signed=page_words.signed, tied=page_words.tied)
    path = folder / comparison.PAGE
    write_text(path, surroundings.get_template("report.html.j2").render(context(read(folder))))
    return path


def refresh(config: Config) -> None:
    """Write the page of a config's comparison anew, where there is one: something was found that belongs in it.

    Raises:
        StoreError: If the page cannot be written.
    """
    folder = config.comparison_folder
    if not (folder / comparison.RESULT).exists():
        return
    try:
        write(folder)
    except StoreError:
        raise
    except BlurtrainError as error:
        say(f"note: {folder / comparison.PAGE} is as it was: {error}")


def read(folder: Path) -> Told:
    """All that a page is made of but pictures.

    Raises:
        RunError: As `write`.
    """
    result = comparison.read(folder)
    opened = {arm: runs.load_run(runs.placed(folder, Path(place))) for arm, place in result["arms"].items()}
    for arm, run in opened.items():
        if run.result["files"][PREDICTIONS] != result["inputs"][arm]:
            raise RunError(
                f"{run.folder} is another run than {folder} has compared: run blurtrain compare "
                f"{' '.join(str(one.folder) for one in opened.values())}"
            )
    reference = opened[result["reference"]]
    answers = page_answers.gather(opened, {view["name"]: view["heavy"] for view in result["views"]})
    roster = read_roster(reference.file(TEST_IMAGES))
    return Told(folder, result, opened, answers, roster.images.to_pylist(), roster.files.to_pylist())


def context(told: Told) -> Part:
    """What the template is filled with."""
    result, curves = told.result, page_words.curves(told.result)
    order = by_content(told.ids)
    chosen = _chosen(told, order, SAMPLES if len(curves) <= MANY_CURVES else 1)
    album = page_images.album(told.reference, told.ids, told.files, _wanted(told, chosen))
    rows = page_words.gain_rows(result)
    said = {"slight": page_setup.blurs_said(told.slight), "heavy": page_setup.blurs_said(told.heavy)}
    return {
        "title": page_setup.headline(told.runs),
        "id": told.folder.name.removeprefix("compare-"),
        "setup": _setup(told),
        "natives": [page_words.native_of(view, result) for view in result["views"]],
        "certainty": page_words.certainty_said(result),
        "always": told.always,
        "below": page_words.below_said(result, told.always),
        "example": told.reference.classes[0],
        "version": VERSION,
        "result": result,
        "counts": images_in_words(result).replace(" image", " test image"),
        "arm": told.arm,
        "styles": {name: place for place, name in enumerate(result["arms"])},
        "findings": page_words.findings(result, said["heavy"]),
        "classes_said": page_words.classes_said(result),
        "figures": page_words.key_figures(result, said),
        "charts": _charts(told, curves),
        "marked": any(_marks(told, curve) for curve in curves),
        "real_chart": _real_chart(told),
        "gains": rows,
        "forest": page_figures.forest(
            [(row["view"] * (row["place"] == 1), row["place"], row["gain"]) for row in rows],
            page_words.forest_alt(rows),
        ),
        "album": album,
        "curves": {curve: _curve(told, places) for curve, places in curves.items()},
        "samples": [_card(told, album, place, told.views) for place in chosen["samples"]],
        "cards": (cards := [_card(told, album, place, told.views) for place in chosen["dozen"]]),
        "kinds": page_words.kinds_said(result["images"][told.arm], [card["kind"] for card in cards])
        if result["images"]
        else "",
        "stops": _stops(told, chosen["dozen"]),
        "grids": {kind: [_grid_card(told, album, place) for place in chosen[kind]] for kind in ("rescued", "lost")},
        "class_rows": page_words.class_rows(result),
        "confusion": _confusion(told),
        "calibration": _calibration(told),
        "layers": page_parts.layers(told.folder.parent, told.runs[told.arm].config),
        "evidence": page_parts.evidence(told.folder.parent, told.runs[told.arm].config),
        "made": page_parts.made(told.folder, told.runs),
    }


def _setup(told: Told) -> Part:
    """What was compared with what, in words."""
    example = next(iter(told.heavy or told.views[1:]))
    heavy_is = told.result.get("heavy_is", TWICE)  # which older comparisons do not say
    return {
        "start": page_setup.start(told.runs),
        "arms": page_setup.arms_said(told.runs),
        "tested": page_setup.test_said(told.result, told.views),
        "ranges": page_setup.ranges_said(told.slight, told.heavy, heavy_is),
        "strengths": page_setup.strengths_said(told.views[1:], told.reference.side),
        "native": page_setup.native_said(example, told.reference),
        "power": page_words.power_said(told.result),
    }


def _curve(told: Told, places: Sequence[int]) -> Part:
    """What the slider has of a blur: places of its views, what they measure, and where it starts."""
    heavy = [told.result["views"][place]["heavy"] for place in places]
    return {
        "stops": " ".join(map(str, places)),
        "measure": page_setup.measure(told.views[places[-1]]),
        "start": heavy.index(True) if True in heavy else 0,
    }


def _chosen(told: Told, order: Sequence[int], samples: int) -> dict[str, list[int]]:
    """Which test images stand where."""
    kinds = ("rescued", "lost")
    counts = told.answers.counts
    shown = {kind: [] if counts is None else most_changed(counts, told.arm, kind, order, DOZEN) for kind in kinds}
    return {
        "samples": page_images.one_of_each_class(told.answers.labels, order, samples),
        "dozen": page_images.mixed(told.answers, told.arm, order, DOZEN),
        **shown,
    }


def _wanted(told: Told, chosen: Mapping[str, Sequence[int]]) -> dict[int, list[Blur]]:
    """The views in which each chosen image is shown."""
    named = {view.name: view for view in told.views}
    wanted: dict[int, dict[Blur, None]] = {}
    for kind, places in chosen.items():
        for place in places:
            views = told.views if kind in ("samples", "dozen") else (told.views[0], named[_clearest(told, place)])
            wanted.setdefault(place, {}).update(dict.fromkeys(views))
    return {place: list(views) for place, views in wanted.items()}


def _clearest(told: Told, place: int) -> str:
    heavy = [view.name for view in told.heavy]
    return page_words.clearest(told.answers, place, heavy, told.result["reference"], told.arm)


def _card(told: Told, album: page_images.Album, place: int, views: Sequence[Blur]) -> Part:
    """One test image with its pictures and answers, view by view."""
    classes, counts = told.reference.classes, told.answers.counts
    return {
        "file": told.files[place],
        "label": classes[int(told.answers.labels[place])],
        "kind": None if counts is None else KINDS[int(counts.kinds(told.arm)[place])],
        "missing": album.missing.get(place),
        "shown": [
            {
                "name": view.name,
                "picture": album.pictures.get((place, view.name)),
                "answers": page_words.answers_of(told.answers, place, view.name, list(told.runs), classes),
            }
            for view in views
        ],
    }


def _grid_card(told: Told, album: page_images.Album, place: int) -> Part:
    named = {view.name: view for view in told.views}
    return _card(told, album, place, (told.views[0], named[_clearest(told, place)]))


def _stops(told: Told, dozen: Sequence[int]) -> list[Part]:
    """What is said of each strength: of the images that are shown, and of all."""
    stops = []
    for view in told.result["views"]:
        right = {
            arm: sum(
                int(told.answers.said[view["name"], arm].answer[place]) == int(told.answers.labels[place])
                for place in dozen
            )
            for arm in told.runs
        }
        stops.append({"view": view, "right": right})
    return stops


def _charts(told: Told, curves: Mapping[str, Sequence[int]]) -> list[Any]:
    """Accuracy against strength, one chart a blur."""
    charts = []
    for curve in curves:
        slight = max((view.strength for view in told.slight if view.curve == curve), default=0.0)
        alt = page_words.curve_alt(told.result, curve, told.always)
        charts.append(page_figures.accuracy(told.result, curve, slight, _marks(told, curve), told.always, alt))
    return charts


def _marks(told: Told, curve: str) -> list[float]:
    """Strengths of copies within a chart."""
    most = max(view.strength for view in told.views if view.curve == curve)
    return sorted(copy.strength for copy in told.copies if copy.curve == curve and copy.strength <= most)


def _real_chart(told: Told) -> Any:  # noqa: ANN401 - markup or nothing
    if not told.result["real"]:
        return None
    names = [view["name"] for view in told.result["real"]]
    return page_figures.real(told.result, names, page_words.real_alt(told.result))


def _calibration(told: Told) -> list[Part]:
    """Reliability on clean images and under heavy blur."""
    shown = []
    for kind, title in ((page_answers.CLEAN, "Clean images"), (page_answers.HEAVY, "Heavy blur, all views together")):
        found = {
            arm: told.answers.calibration[kind, arm] for arm in told.runs if (kind, arm) in told.answers.calibration
        }
        if found:
            errors = page_words.calibration_errors(told.result, kind)
            alt = page_words.calibration_alt(title.lower(), errors)
            shown.append({"title": title, "errors": errors, "chart": page_figures.calibration(found, alt)})
    return shown


def _confusion(told: Told) -> Part | None:
    """How answers change under heavy blur: a heat map of few classes, the largest changes of many."""
    if told.answers.counts is None:
        return None
    classes, reference = told.reference.classes, told.result["reference"]
    changes = page_answers.shifts(told.answers, reference, told.arm)
    few = len(classes) <= page_words.CONFUSED
    tested = sorted(set(told.answers.labels.tolist()))
    return {
        "said": list(page_words.confusion_said(changes, classes, reference, told.arm)),
        "classes": classes,
        "heat": page_words.heat_rows(changes, tested, len(classes)) if few else None,
        "largest": None if few else changes[: page_words.CONFUSED],
    }
