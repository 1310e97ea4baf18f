"""The evidence for and against copies: a config's controls, what each gains on every view, and how sure that is.

All arms share the images, the folds and the stored features; they differ in what joins the training images. So an arm
costs a fit, and every (image, view) pair passes the backbone once, however many arms see it.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from blurtrain import features, imagenet_c, preparation, runs, training
from blurtrain.config import Config
from blurtrain.differences import accuracy_of, adjust, difference
from blurtrain.errors import ConfigError
from blurtrain.files import sha256, whole_file
from blurtrain.grids import BlurGrid
from blurtrain.heads import Heads
from blurtrain.imagenet_c import described
from blurtrain.kernels import FAMILIES, is_heavy
from blurtrain.progress import progress
from blurtrain.store import Table
from blurtrain.sweep import BLOCK
from blurtrain.version import VERSION
from blurtrain.views import Blur

JsonValue = Any  # what json.dumps takes
Rows = list[dict[str, JsonValue]]  # one an arm
REFERENCE = "baseline"
HEADS = "heads"  # folder of fitted heads
SLIGHT = (1, 2)  # severities of the copies in the table of families
STRONGER = (3, 4, 5)  # and of the test views there
MOST_COPIES = 4  # in the table of how many copies are enough
GAIN = ("p", "p_holm", "verdict", "smallest_detectable")
CONTROLS, FAMILY, NUMBER, STRENGTH = "controls", "families", "number of copies", "strength of one copy"


@dataclass(frozen=True)
class Arm:
    """What is compared with the baseline.

    Args:
        name: In tables.
        section: The table that it belongs to.
        config: Its copies; everything else is as in all other arms.
    """

    name: str
    section: str
    config: Config


def check(config: Config) -> None:
    """Refuse what no evidence can be given for.

    Raises:
        ConfigError: If there are no copies, or nothing is stored.
    """
    if not config.copies:
        raise ConfigError("copies is empty, so there is nothing to give evidence for: give copies")
    if config.augment.pipeline is not None:
        raise ConfigError("augment must be left out for evidence, which looks at blurred copies alone")
    require_store(config, "evidence")


def require_store(config: Config, command: str) -> None:
    """Refuse a config whose arms do not share stored features.

    Raises:
        ConfigError: If ``cache`` is false, ``bn`` adapts the backbone to each arm, or the config is itself a control.
    """
    if config.duplicated:
        raise ConfigError(f"duplicated must be false for {command}, which looks at blurred copies, got True")
    if config.bn != "frozen":
        raise ConfigError(f"bn must be frozen for {command}, whose arms share one backbone, got {config.bn!r}")
    if config.cache is False:
        raise ConfigError(f"cache must be a folder for {command}, which compares arms on stored features, got False")


def arms_of(config: Config, side: int) -> list[Arm]:
    """The arms that a config calls for: its own two, its controls, and what its tables compare.

    Args:
        config: With copies; its own sweep says which strengths are tried as single copies.
        side: Of the images as the network sees them, px.
    """
    heavy = heavy_views(config, side)
    shared = replace(config, sweep=_with_severities(config))
    arms = [
        Arm(REFERENCE, CONTROLS, shared.baseline()),
        Arm("augmented", CONTROLS, shared),
        Arm("duplicated", CONTROLS, replace(shared, duplicated=True)),
    ]
    if heavy:
        arms.append(Arm("heavy", CONTROLS, replace(shared, copies=grids_of(heavy))))
    for family in imagenet_c.FAMILIES:
        arms.append(Arm(family, FAMILY, replace(shared, copies=(BlurGrid(family, severity=SLIGHT),))))
    arms += _numbers(shared)
    main = _main(config)
    for view in config.test_views[1:]:
        if view.curve == main.curve:
            arms.append(Arm(view.name, STRENGTH, replace(shared, copies=grids_of([view]))))
    return arms


def heavy_views(config: Config, side: int) -> tuple[Blur, ...]:
    """Views of the config's own sweep that are heavy."""
    return tuple(view for view in config.test_views if is_heavy(view, config.copy_views, side))


def _main(config: Config) -> Blur:
    """The last copy, whose family and strength the tables of numbers and strengths vary."""
    return config.copy_views[-1]


def _numbers(config: Config) -> Iterator[Arm]:
    """One, two and more copies, evenly spaced up to the last one of the config."""
    main = _main(config)
    for count in range(1, MOST_COPIES + 1):
        strengths = [main.strength * (i + 1) / count for i in range(count)]
        allowed = not main.severity and all(FAMILIES[main.family].allows(strength) for strength in strengths)
        if allowed:
            copies = grids_of(replace(main, strength=strength) for strength in strengths)
            name = ", ".join(f"{strength:.3g}" for strength in strengths)
            yield Arm(f"{main.curve} {name}", NUMBER, replace(config, copies=copies))


def grids_of(views: Iterable[Blur]) -> tuple[BlurGrid, ...]:
    """Views as a config names them."""
    return tuple(
        BlurGrid(view.family, severity=(int(view.strength),))
        if view.severity
        else BlurGrid(view.family, (view.strength,), view.border, view.angle, view.file)
        for view in views
    )


def _with_severities(config: Config) -> tuple[BlurGrid, ...]:
    """The config's sweep and every severity of every family."""
    missing = [
        BlurGrid(family, severity=(severity,))
        for family in imagenet_c.FAMILIES
        for severity in imagenet_c.SEVERITIES
        if not set(BlurGrid(family, severity=(severity,)).blurs(config.data.view_seed)) & set(config.test_views)
    ]
    return (*config.sweep, *missing)


def groups_of(config: Config, side: int) -> dict[str, tuple[Blur, ...]]:
    """Views whose mean is a column of a table: the heavy ones of the config, and each family's stronger severities."""
    seed = config.data.view_seed
    heavy = heavy_views(config, side)
    families = {family: BlurGrid(family, severity=STRONGER).blurs(seed) for family in imagenet_c.FAMILIES}
    return {**({"heavy": heavy} if heavy else {}), **families}


@dataclass(frozen=True)
class Fitted:
    """An arm and its heads.

    Args:
        arm: The arm.
        heads: Of its folds.
        l2: The chosen penalty.
    """

    arm: Arm
    heads: Heads
    l2: float


def fit_all(arms: Sequence[Arm], ready: preparation.Prepared, folder: Path) -> list[Fitted]:
    """Fit every arm on stored features; arms of the same training views share their heads.

    Args:
        arms: Whose features are all stored.
        ready: What `blurtrain.preparation.prepare` gave.
        folder: Where heads are kept, so that a killed job need not fit them again.

    Raises:
        StoreError: If the store cannot be read, or the folder cannot be written.
    """
    fitted = []
    keys = [_key(arm.config, ready) for arm in arms]
    paths = [folder / f"{key[:16]}.safetensors" for key in keys]
    missing = [path for path, key in zip(paths, keys, strict=True) if _kept(path, key) is None]
    with progress("fitting arms", len(missing), "arm", stored=len(arms) - len(missing)) as bar:
        for arm, key, path in zip(arms, keys, paths, strict=True):
            kept = _kept(path, key)
            if kept is None:
                fit = training.fit_stored(arm.config, ready)
                kept = fit.folds, fit.l2
                with whole_file(path) as temporary:
                    tensors = {"weights": fit.folds.weights, "bias": fit.folds.bias}
                    save_file(tensors, temporary, {"key": key, "l2": repr(fit.l2), "sum": _sum(fit.folds)})
            bar.advance(int(path in missing))
            fitted.append(Fitted(arm, *kept))
    return fitted


def _key(arm: Config, ready: preparation.Prepared) -> str:
    """What the heads of an arm follow from."""
    inputs = preparation.inputs_of(arm, ready)
    views = [features.made_as(view) for view in arm.train_views]
    return sha256(repr((views, arm.head, sorted(inputs.items()), VERSION)))


def _kept(path: Path, key: str) -> tuple[Heads, float] | None:
    """Heads and penalty of an earlier fit, if they are what was written."""
    try:
        with safe_open(path, "numpy") as file:
            heads, words = Heads(file.get_tensor("weights"), file.get_tensor("bias")), file.metadata()
        if words["key"] == key and words["sum"] == _sum(heads):
            return heads, float(words["l2"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None
    return None


def _sum(heads: Heads) -> str:
    return sha256(heads.weights.tobytes(), heads.bias.tobytes())


def gather(config: Config, ready: preparation.Prepared, heads: Path) -> dict[str, JsonValue]:
    """Extract what is missing, fit all arms, and compare each with the baseline on every view.

    Args:
        config: With copies.
        ready: What `blurtrain.preparation.prepare` gave.
        heads: Folder of the fitted heads.

    Returns:
        The contents of evidence.json but for its sensitivity.

    Raises:
        StoreError: If the store cannot be read or written.
    """
    assert ready.store is not None
    loaded, side = ready.images, ready.backbone.preprocessing.geometry.crop
    arms = arms_of(config, side)
    wanted = preparation.wanted_by([arm.config for arm in arms], loaded)
    extraction = features.extract(loaded, wanted, ready.engine, ready.store, config.batch_size)
    fitted = fit_all(arms, ready, heads)
    units = np.array(loaded.group_names(loaded.test))
    views = arms[0].config.test_views
    groups, heavy = groups_of(config, side), heavy_views(config, side)
    each: dict[str, Rows] = {}
    together: dict[str, Rows] = {}
    with progress("evaluating arms", len(views) + sum(map(len, groups.values())), "view") as bar:
        for view in views:
            each[view.name] = _compared(fitted, correct_in(fitted, view, ready), units)
            bar.advance()
        for name, members in groups.items():
            together[name] = _compared(fitted, mean_correct(fitted, members, ready), units)
            bar.advance(len(members))
    _adjust(arms, [view.name for view in config.test_views[1:]], each, together)
    return {
        "n_test": len(loaded.test),
        "groups": len(np.unique(units)),
        "heads": len(fitted[0].heads.bias),
        "reference": REFERENCE,
        "side": side,
        "skipped": loaded.skipped,
        "inputs": preparation.inputs_of(config, ready),
        "versions": runs.versions(),
        "severities": imagenet_c.table_in_words(side),
        "forward_passes": {
            "distinct_pairs": extraction.reused + extraction.computed,
            "computed": extraction.computed,
            "reused": extraction.reused,
        },
        "arms": [
            {
                "name": one.arm.name,
                "section": one.arm.section,
                "copies": [view.name for view in one.arm.config.train_views[1:]],
                "l2": one.l2,
            }
            for one in fitted
        ],
        "views": [
            {
                "name": view.name,
                "family": view.family,
                "curve": view.curve,
                "strength": view.strength,
                "parameters": described(view, side) if view.severity else None,
                "heavy": view in heavy,
                "arms": each[view.name],
            }
            for view in views
        ],
        "means": [
            {"name": name, "views": [view.name for view in members], "arms": together[name]}
            for name, members in groups.items()
        ],
    }


Correct = Float64[np.ndarray, "heads images"]


def correct_in(fitted: Sequence[Fitted], view: Blur, ready: preparation.Prepared) -> list[Correct]:
    """Whether each head of each arm is right on each test image."""
    assert ready.store is not None
    loaded, table = ready.images, ready.store.table(view)
    parts: list[list[np.ndarray]] = [[] for _ in fitted]
    for start in range(0, len(loaded.test), BLOCK):
        positions = loaded.test[start : start + BLOCK]
        some = rows_of(table, loaded.ids[positions])
        for one, part in zip(fitted, parts, strict=True):
            part.append(right(one.heads, some, loaded.labels[positions]))
    return [np.concatenate(part, axis=1).astype(np.float64) for part in parts]


def rows_of(table: Table, ids: np.ndarray) -> np.ndarray:
    """Stored features of some images."""
    return table.read(ids, "features").astype(np.float32, copy=False)


def right(heads: Heads, rows: np.ndarray, labels: Int64[np.ndarray, " rows"]) -> Bool[np.ndarray, "heads rows"]:
    """Whether each head is right on each row."""
    return np.asarray(heads.logits(rows).argmax(-1) == labels)


def mean_correct(fitted: Sequence[Fitted], views: Sequence[Blur], ready: preparation.Prepared) -> list[Correct]:
    """The mean over views of each head's correctness on each image."""
    totals: list[Correct] = []
    for view in views:
        found = correct_in(fitted, view, ready)
        totals = found if not totals else [total + one for total, one in zip(totals, found, strict=True)]
    return [total / len(views) for total in totals]


def _compared(fitted: Sequence[Fitted], correct: Sequence[Correct], units: np.ndarray) -> Rows:
    """Accuracy of every arm, and what it gains on the first."""
    return [
        {
            "arm": one.arm.name,
            **accuracy_of(values, units),
            "gain": None if one is fitted[0] else difference(values - correct[0], units),
        }
        for one, values in zip(fitted, correct, strict=True)
    ]


def _adjust(arms: Sequence[Arm], own: Sequence[str], views: Mapping[str, Rows], means: Mapping[str, Rows]) -> None:
    """Holm's adjustment over all cells of the table that they stand in; verdicts follow the adjusted p values.

    The families' arms on the families' means are one table, single copies on the blurs of the config's own sweep
    another; in all other columns the arms of a section stand together.
    """
    tables: dict[tuple[str, str], list[dict[str, JsonValue]]] = {}
    for place, arm in enumerate(arms):
        for name, rows in (*views.items(), *means.items()):
            crossed = (arm.section == FAMILY and name in imagenet_c.FAMILIES) or (
                arm.section == STRENGTH and name in own
            )
            if (gain := rows[place]["gain"]) is not None:
                tables.setdefault((arm.section, "" if crossed else name), []).append(gain)
    for cells in tables.values():
        adjust(cells)


def cells(evidence: Mapping[str, JsonValue]) -> Iterator[list[JsonValue]]:
    """Every cell of every table, an arm on a view or on a mean of views, below a head."""
    yield [
        *("section", "arm", "copies", "l2", "view", "n_test", "groups", "heads", "accuracy"),
        *("difference", "ci95_low", "ci95_high", *GAIN),
    ]
    counts = [evidence[key] for key in ("n_test", "groups", "heads")]
    columns = [(view["name"], view["arms"]) for view in evidence["views"]]
    columns += [(f"mean of {', '.join(mean['views'])}", mean["arms"]) for mean in evidence["means"]]
    for place, arm in enumerate(evidence["arms"]):
        for name, rows in columns:
            row, gain = rows[place], rows[place]["gain"] or {}
            low, high = gain.get("ci95", (None, None))
            yield [
                *(arm["section"], arm["name"], "; ".join(arm["copies"]), arm["l2"], name, *counts, row["accuracy"]),
                *(gain.get("difference"), low, high, *(gain.get(key) for key in GAIN)),
            ]
