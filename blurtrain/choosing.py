"""Which copies to add, chosen on the validation images alone; the test split is never looked at.

Copies are added one by one, each time the one that gains most on heavily blurred validation images, as long as it
gains more than one standard error and its cost on clean ones does not exceed a point by more than one. Half of the
validation images choose; the gain is stated on the other half, which took no part in choosing copies (each set's
penalty follows from all validation images).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from blurtrain import controls, features, imagenet_c, inference, preparation, splits, training
from blurtrain.config import Config
from blurtrain.differences import accuracy_of, difference
from blurtrain.errors import ConfigError
from blurtrain.kernels import FAMILIES, HEAVY, spread, wider_half
from blurtrain.progress import progress
from blurtrain.views import CLEAN, Blur, TrainView

JsonValue = Any  # what json.dumps takes
MOST_COPIES = 4
SHARES = (0.25, 0.5, 1.0)  # of the largest strength at which a copy is still slight
MOST_CLEAN_COST = 0.01  # of accuracy on clean images; of fewer than 100, a point is less than one image


@dataclass(frozen=True)
class Tried:
    """A set of copies and what its heads get right.

    Args:
        copies: Beside the clean images.
        clean: Whether each validation image is classified correctly by the head that was not fitted on it.
        heavy: The share of heavy views in which it is.
    """

    copies: tuple[Blur, ...]
    clean: Float64[np.ndarray, " images"]
    heavy: Float64[np.ndarray, " images"]


def targets(config: Config, side: int) -> tuple[Blur, ...]:
    """What the copies are to help against: the sweep's heavy views, or without copies its wider half.

    Raises:
        ConfigError: If there is none.
    """
    heavy = controls.heavy_views(config, side)
    if not config.copies:
        heavy = wider_half(config.test_views[1:], side)
    if not heavy:
        raise ConfigError("sweep has no heavy view for these copies: give stronger blurs in sweep, or weaker copies")
    return heavy


def candidates(config: Config, side: int) -> list[Blur]:
    """Slight blurs of every family that is to be helped against, and of the gaussian: every target stays heavy.

    Args:
        config: Whose sweep says what is to be helped against.
        side: Of the images as the network sees them, px.
    """
    aims = targets(config, side)
    widest = min(spread(view, side) for view in aims) / HEAVY
    found: dict[Blur, None] = {}
    for aim in (*aims, Blur("gaussian", 1.0)):
        if aim.severity:
            severities = (replace(aim, strength=float(severity)) for severity in imagenet_c.SEVERITIES)
            found.update(dict.fromkeys(view for view in severities if spread(view, side) <= widest))
            continue
        per_strength = spread(aim, side) / aim.strength
        for share in SHARES:
            strength = float(f"{share * widest / per_strength:.2g}")
            view = replace(aim, strength=strength)
            if FAMILIES[aim.family].allows(strength) and spread(view, side) <= widest:  # rounding may have widened it
                found[view] = None
    return list(found)


@dataclass(frozen=True)
class Recommendation:
    """What was chosen.

    Args:
        config: With the chosen copies.
        found: The contents of the JSON file beside it.
    """

    config: Config
    found: dict[str, JsonValue]


def recommend(config: Config, ready: preparation.Prepared) -> Recommendation:
    """Choose copies.

    Args:
        config: Its sweep says what is to be helped against; its own copies are one of the sets that are tried.
        ready: What `blurtrain.preparation.prepare` gave.

    Raises:
        ConfigError: If the sweep has no heavy view, or no slight blur of its families is allowed.
        StoreError: If the store cannot be read or written.
    """
    side = ready.backbone.preprocessing.geometry.crop
    aims, options = targets(config, side), candidates(config, side)
    if not options:
        raise ConfigError("no slight blur of the families in sweep is allowed: give other families or stronger blurs")
    _extract(config, ready, (*options, *config.train_views[1:]), aims)
    units = _units(ready)
    chooses = _half(ready)
    with progress("trying copies", MOST_COPIES * len(options) + 2, "set") as bar:
        tried = [_try(config, (), aims, ready)]
        bar.advance()
        path = [tried[0]]
        while len(path) <= MOST_COPIES:
            others = [view for view in options if view not in path[-1].copies]
            step = []
            for view in others:
                step.append(_try(config, (*path[-1].copies, view), aims, ready))
                bar.advance()
            tried += step
            best = _best(step, path, units, chooses)
            if best is None:
                break
            path.append(best)
        own = config.copy_views
        if not any(set(one.copies) == set(own) for one in tried):
            tried.append(_try(config, own, aims, ready))
            bar.advance()
            if _best(tried[-1:], path, units, chooses):
                path.append(tried[-1])
    chosen = replace(config, copies=controls.grids_of(path[-1].copies))
    return Recommendation(chosen, _result(config, path, tried, units, chooses, aims))


def _extract(config: Config, ready: preparation.Prepared, copies: Sequence[TrainView], aims: Sequence[Blur]) -> None:
    """Training and validation images alone, in every view that they are fitted or judged in."""
    assert ready.store is not None
    positions = _positions(ready)
    wanted = dict.fromkeys((CLEAN, *copies, *aims), np.sort(positions))
    features.extract(ready.images, wanted, ready.engine, ready.store, config.batch_size)


def _positions(ready: preparation.Prepared) -> Int64[np.ndarray, " images"]:
    return np.concatenate([ready.images.train, ready.images.validation])


def _judged(ready: preparation.Prepared) -> Int64[np.ndarray, " images"]:
    """Images that heads are judged on: the validation split where one is given, else every training image."""
    return ready.images.validation if len(ready.images.validation) else ready.images.train


def _units(ready: preparation.Prepared) -> np.ndarray:
    return np.array(ready.images.group_names(_judged(ready)))


def _half(ready: preparation.Prepared) -> Bool[np.ndarray, " images"]:
    """The images that choose: a half of every class by content, no unit divided."""
    loaded, judged = ready.images, _judged(ready)
    return np.asarray(splits.deal(loaded.ids[judged], loaded.labels[judged], loaded.groups[judged], 2) == 0)


def _try(config: Config, copies: tuple[Blur, ...], aims: Sequence[Blur], ready: preparation.Prepared) -> Tried:
    """Fit one set of copies, and judge every image by the head that was not fitted on it."""
    assert ready.store is not None
    arm = replace(config, copies=controls.grids_of(copies))
    heads = training.fit_stored(arm, ready).folds
    _, validation = preparation.masks(config, ready.images)
    positions = _positions(ready)
    judge = validation.argmax(0)[np.isin(positions, _judged(ready))]
    labels, ids = ready.images.labels[_judged(ready)], ready.images.ids[_judged(ready)]

    def right(view: Blur) -> Float64[np.ndarray, " images"]:
        assert ready.store is not None
        rows = controls.rows_of(ready.store.table(view), ids)
        every = controls.right(heads, rows, labels)
        return np.asarray(every[judge, np.arange(len(labels))], np.float64)

    return Tried(copies, right(CLEAN), np.asarray(np.mean([right(view) for view in aims], axis=0)))


def _best(
    step: Sequence[Tried], path: Sequence[Tried], units: np.ndarray, chooses: Bool[np.ndarray, " images"]
) -> Tried | None:
    """The set that gains most on the images that choose, if it gains more than a standard error and costs little."""
    allowed = [one for one in step if not _costs(one, path[0], units, chooses)]
    best = _foremost(allowed, chooses)
    return best if best and _gains(best, path[-1], units, chooses) else None


def _refused(
    tried: Sequence[Tried], path: Sequence[Tried], units: np.ndarray, chooses: Bool[np.ndarray, " images"]
) -> Tried | None:
    """The set that gains most beside the chosen one, but costs too much on clean images."""
    costly = [one for one in tried if _costs(one, path[0], units, chooses) and _gains(one, path[-1], units, chooses)]
    return _foremost(costly, chooses)


def _foremost(sets: Sequence[Tried], chooses: Bool[np.ndarray, " images"]) -> Tried | None:
    """The set that is right most often under heavy blur."""
    return max(sets, key=lambda one: float(one.heavy[chooses].mean()), default=None)


def _gains(one: Tried, before: Tried, units: np.ndarray, chooses: Bool[np.ndarray, " images"]) -> bool:
    """Whether it gains more than a standard error under heavy blur."""
    return _beyond((one.heavy - before.heavy)[chooses], units[chooses], 0.0)


def _costs(one: Tried, baseline: Tried, units: np.ndarray, chooses: Bool[np.ndarray, " images"]) -> bool:
    """Whether its clean cost exceeds what is allowed by more than a standard error.

    That of a single image lost among n is 1 / n: one lost image alone refuses nothing, however few there are.
    """
    return _beyond((baseline.clean - one.clean)[chooses], units[chooses], MOST_CLEAN_COST)


def _beyond(values: Float64[np.ndarray, " images"], units: np.ndarray, limit: float) -> bool:
    """Whether the mean exceeds a limit by more than its standard error; without one, by anything."""
    mean = inference.crossed_difference(values[None], units)
    return mean.estimate - limit > (mean.standard_error if math.isfinite(mean.standard_error) else 0.0)


def _result(
    config: Config,
    path: Sequence[Tried],
    tried: Sequence[Tried],
    units: np.ndarray,
    chooses: Bool[np.ndarray, " images"],
    aims: Sequence[Blur],
) -> dict[str, JsonValue]:
    baseline, chosen = path[0], path[-1]
    refused = _refused(tried, path, units, chooses)
    sets = {
        frozenset(one.copies): {
            "copies": [view.name for view in one.copies],
            "choosing": _figures(one, baseline, units, chooses),
            "others": _figures(one, baseline, units, ~chooses),
        }
        for one in tried
    }
    return {
        "against": [view.name for view in aims],
        "images": {"choosing": int(chooses.sum()), "others": int((~chooses).sum())},
        "chosen": [view.name for view in chosen.copies],
        "refused": sets[frozenset(refused.copies)] if refused else None,
        "expected": sets[frozenset(chosen.copies)]["others"],
        "own": sets[frozenset(config.copy_views)]["others"] if config.copies else None,
        "path": [[view.name for view in one.copies] for one in path],
        "sets": list(sets.values()),
    }


def _figures(one: Tried, baseline: Tried, units: np.ndarray, some: Bool[np.ndarray, " images"]) -> dict[str, JsonValue]:
    """Accuracy and gain on clean and on heavily blurred images, and how many clean ones are lost and won."""
    change = (one.clean - baseline.clean)[some]
    figures = {
        name: {
            **accuracy_of(values[None, some], units[some]),
            "gain": difference((values - reference)[None, some], units[some]),
        }
        for name, values, reference in (
            ("clean", one.clean, baseline.clean),
            ("heavy", one.heavy, baseline.heavy),
        )
    }
    figures["clean"] |= {"images": len(change), "lost": int((change < 0).sum()), "won": int((change > 0).sum())}
    return figures
