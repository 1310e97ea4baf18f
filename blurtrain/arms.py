"""Finished runs side by side: which can be compared, in what order, and which views are heavy."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blurtrain import runs
from blurtrain.errors import RunError
from blurtrain.kernels import is_heavy, is_slight, wider_half
from blurtrain.roster import TEST_IMAGES
from blurtrain.sweep import PREDICTIONS
from blurtrain.version import VERSION
from blurtrain.views import Blur, RealView

TWICE = "at least twice as wide as the strongest copy"
WIDER = "the wider half of the sweep, as no arm has blurred copies"


@dataclass(frozen=True)
class Arms:
    """Finished runs that can be compared: the same test images seen through the same views.

    Args:
        runs: By arm name; the reference is the first.
        views: Of the test split.
        heavy: Whether each view is heavy.
        heavy_is: What that means, in words.
        slight: Whether each view is blurred, but no wider than the strongest copy.
        real: Really blurred photographs that were tested on besides.
    """

    runs: dict[str, runs.Run]
    views: tuple[Blur, ...]
    heavy: tuple[bool, ...]
    heavy_is: str
    slight: tuple[bool, ...]
    real: tuple[RealView, ...]

    @property
    def reference(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.runs))

    @property
    def side(self) -> int:
        """Of the images as the network sees them, px."""
        return self.runs[self.reference].side


def open_arms(folders: Sequence[Path]) -> Arms:
    """Read finished runs and check that they can be compared.

    The reference is the plain baseline, or what comes nearest: an arm without copies before one with some, and a
    network as it was imported before one with other batch norms. Such an arm has the same images, folds and imported
    network as its baseline, so it may be compared with it: the changed network is what the arm is about. But heads that
    were trained together with batch norms took AdamW's steps on images, as all heads do where ``cache`` is false, and
    are compared with such heads alone: beside a convex head, which has no budget of steps, a difference could as well
    be the solver's.

    Raises:
        RunError: If a run is not finished, or the runs differ in test images or views.
    """
    loaded = [runs.load_run(folder) for folder in {os.path.realpath(folder): folder for folder in folders}.values()]
    if len(loaded) < 2:
        raise RunError(f"a comparison needs at least 2 different runs, got {len(loaded)}")
    first = loaded[0]
    for run in loaded[1:]:
        if run.config.test_views != first.config.test_views:
            raise RunError(f"{run.folder} and {first.folder} have different sweeps: compare runs that share one")
        if run.config.extra_tests.keys() != first.config.extra_tests.keys():
            raise RunError(f"{run.folder} and {first.folder} have different extra_tests: compare runs that share them")
        if run.classes != first.classes:
            raise RunError(f"{run.folder} and {first.folder} have different classes: compare runs on the same images")
        if _solver(run) != _solver(first):
            raise RunError(
                f"{run.folder} and {first.folder} were trained in different ways, one of them with cache: false: "
                "compare runs of one way"
            )
        run.require_inputs(first.result.get("inputs", {}))
    loaded.sort(key=lambda run: (run.config.has_copies, run.config.changes_backbone))  # stable
    named: dict[str, runs.Run] = {}
    for run in loaded:
        names = (run.config.arm, run.folder.name, str(run.folder))  # the first that no other run has
        named[next(name for name in names if name not in named)] = run
    copies = tuple(view for run in loaded for view in run.config.copy_views)
    views = first.config.test_views
    wide = () if copies else wider_half(views[1:], first.side)  # without blurred copies nothing says what slight is
    heavy = tuple(is_heavy(view, copies, first.side) if copies else view in wide for view in views)
    return Arms(
        named,
        views,
        heavy,
        TWICE if copies else WIDER,
        tuple(is_slight(view, copies, first.side) for view in views),
        tuple(sorted(first.config.real_views, key=lambda view: view.name)),
    )


def _solver(run: runs.Run) -> object:
    return run.result.get("head", {}).get("solver")


def inputs_of(arms: Arms) -> dict[str, str]:
    """A hash of every run that a comparison is made of: the same ones give the same comparison."""
    return {
        **{name: run.result["files"][PREDICTIONS] for name, run in arms.runs.items()},
        TEST_IMAGES: arms.runs[arms.reference].result["files"][TEST_IMAGES],
        "blurtrain": VERSION,
    }
