"""How the gain of copies moves with what was decided beside them: the head's features and penalties, the input size."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from blurtrain import controls, features, preparation
from blurtrain.config import Config
from blurtrain.decoding import Geometry
from blurtrain.differences import accuracy_of, difference
from blurtrain.errors import ConfigError
from blurtrain.grids import BlurGrid
from blurtrain.kernels import FAMILIES
from blurtrain.progress import say

JsonValue = Any  # what json.dumps takes
SIZES = (0.75, 1.25)  # of the input's side
LEAST_SIDE = 32  # px: below, networks have no map left to pool


@dataclass(frozen=True)
class Setting:
    """A way to do the same comparison.

    Args:
        name: In tables.
        config: With copies.
        scale: Of the input's side and of every blur in it.
    """

    name: str
    config: Config
    scale: float = 1.0


def settings(config: Config, side: int) -> Iterator[Setting]:
    """The config as it is, then one thing changed at a time.

    Args:
        config: With copies.
        side: Of the images as the network sees them, px.
    """
    yield Setting("as configured", config)
    other = not config.head.standardise
    name = "standardised features" if other else "features as they are"
    yield Setting(name, replace(config, head=replace(config.head, standardise=other)))
    penalties = sorted(config.head.l2)
    if len(penalties) > 1:
        half = len(penalties) // 2
        for some in (penalties[:half], penalties[half:]):
            name = f"l2 from {some[0]:g} to {some[-1]:g}" if len(some) > 1 else f"l2 {some[0]:g}"
            yield Setting(name, replace(config, head=replace(config.head, l2=tuple(some))))
    for size in SIZES:
        smaller = round(size * side)
        if smaller >= LEAST_SIDE and _can_be_scaled(config, smaller / side, smaller):
            yield Setting(f"input of {smaller} px", config, smaller / side)


def resized(setting: Setting, geometry: Geometry) -> Config:
    """The same with another input size; the images are enlarged or reduced, and their blurs with them."""
    scale = setting.scale
    backbone = replace(
        setting.config.backbone, resize=round(geometry.resize * scale), crop=round(geometry.crop * scale)
    )
    return replace(_with_scaled_blurs(setting.config, scale), backbone=backbone)


def _with_scaled_blurs(config: Config, scale: float) -> Config:
    copies, sweep = (tuple(_scaled(grid, scale) for grid in grids) for grids in (config.copies, config.sweep))
    return replace(config, copies=copies, sweep=sweep)


def _can_be_scaled(config: Config, scale: float, side: int) -> bool:
    """Whether every blur is allowed at that scale, and some view is heavy there, too."""
    try:
        return bool(controls.heavy_views(_with_scaled_blurs(config, scale), side))
    except ConfigError:
        return False


def _scaled(grid: BlurGrid, scale: float) -> BlurGrid:
    """The nearest blurs of that scale; severities follow the size by themselves."""
    if grid.severity:
        return grid
    allows = FAMILIES[grid.family].allows

    def nearest(strength: float) -> float:
        wanted = strength * scale
        if wanted == 0 or allows(wanted) or grid.family != "box":
            return wanted
        return max(3.0, 2.0 * round((wanted - 1) / 2) + 1)  # odd whole numbers

    return replace(grid, strengths=tuple(dict.fromkeys(map(nearest, grid.strengths or (1.0,)))))


def gains(config: Config, ready: preparation.Prepared, heads: Path) -> list[dict[str, JsonValue]]:
    """The gain of the copies on clean images and under heavy blur, in every setting; nothing where no view is heavy.

    Args:
        config: With copies.
        ready: What `blurtrain.preparation.prepare` gave.
        heads: Folder of the fitted heads.

    Raises:
        BlurtrainError: As `blurtrain.preparation.prepare`.
    """
    side = ready.backbone.preprocessing.geometry.crop
    if not controls.heavy_views(config, side):
        return []
    found = []
    for setting in settings(config, side):
        say(f"setting: {setting.name}")
        changed, there = setting.config, ready
        if setting.scale != 1:
            changed = resized(setting, ready.backbone.preprocessing.geometry)
            there = preparation.prepare(changed)
        found.append({"setting": setting.name, **_gain(changed, there, heads)})
    return found


def _gain(config: Config, ready: preparation.Prepared, heads: Path) -> dict[str, JsonValue]:
    assert ready.store is not None
    loaded, side = ready.images, ready.backbone.preprocessing.geometry.crop
    arms = [controls.Arm(arm.arm, controls.CONTROLS, arm) for arm in (config.baseline(), config)]
    wanted = preparation.wanted_by([arm.config for arm in arms], loaded)
    features.extract(loaded, wanted, ready.engine, ready.store, config.batch_size)
    fitted = controls.fit_all(arms, ready, heads)
    units = np.array(loaded.group_names(loaded.test))
    rows: dict[str, JsonValue] = {}
    heavy = controls.heavy_views(config, side)
    for name, views in (("clean", config.test_views[:1]), ("heavy", heavy)):
        baseline, augmented = controls.mean_correct(fitted, views, ready)
        rows[name] = {
            "baseline": accuracy_of(baseline, units)["accuracy"],
            "augmented": accuracy_of(augmented, units)["accuracy"],
            **difference(augmented - baseline, units),
        }
    return rows


def sentence(found: Sequence[dict[str, JsonValue]]) -> str:
    """Whether the verdict depends on the setting."""
    if not found:
        return ""
    main, *others = found
    verdict = main["heavy"]["verdict"]
    differing = [one for one in others if one["heavy"]["verdict"] != verdict]
    gained = [100 * one["heavy"]["difference"] for one in found]
    spread = f"the gain under heavy blur lies between {min(gained):+.1f} and {max(gained):+.1f} points"
    if not differing:
        return f"The verdict, {verdict}, is the same in all {len(found)} settings; {spread}."
    named = "; ".join(f"{one['heavy']['verdict']} with {one['setting']}" for one in differing)
    return f"The verdict, {verdict}, depends on the setting: {named}; {spread}."
