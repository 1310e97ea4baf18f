"""What arms need of the backbone before they are trained: counts of images by view, for `blurtrain.forecast`."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from blurtrain import adaptation, batchnorm, features, preparation
from blurtrain.backbones import FrozenBackbone
from blurtrain.config import Config
from blurtrain.engines import Engine
from blurtrain.heads import HELD_OUT
from blurtrain.images import ImageSet
from blurtrain.store import ID
from blurtrain.views import CLEAN, TrainView

STEP = 2.5  # forward passes that one through batch norms that learn, and back, takes the time of: 2.2 to 2.8 on a CPU
CRC = 4  # bytes of a checksum


@dataclass(frozen=True)
class Plan:
    """What arms that share a backbone need of it.

    Args:
        absent: Features to compute in each view.
        distinct: Features that are needed, stored or not.
        adapting: Images to pass in each view for the statistics of batch norms.
        statistics: Bytes of these.
    """

    absent: dict[TrainView, int]
    distinct: int
    adapting: dict[TrainView, int]
    statistics: int


def of_stored(
    arms: Sequence[Config],
    loaded: ImageSet,
    backbone: FrozenBackbone,
    engine: Engine,
    fitted: Sequence[TrainView] | None = None,
) -> list[Plan]:
    """One plan for the arms on the network as it was imported, one for an arm that adapts it.

    Args:
        arms: That are to be fitted.
        loaded: The images.
        backbone: As it was imported.
        engine: That runs it.
        fitted: Views of the training and validation images, if these alone are wanted.
    """
    frozen, adapting = ([arm for arm in arms if arm.bn == kind] for kind in ("frozen", "adapt"))
    plans = [_plan(frozen, loaded, backbone, engine, fitted)] if frozen else []
    for arm in adapting:
        assert arm.cache is not False
        known = adaptation.found(backbone, loaded, arm.train_views, arm.batch_size, arm.cache)
        plan = _plan([arm], loaded, known, engine)
        if known is None:
            size = sum(tensor.nbytes + CRC for tensor in batchnorm.state_of(backbone).values()) + ID.itemsize + CRC
            plan = replace(plan, adapting=dict.fromkeys(arm.train_views, len(loaded.train)), statistics=size)
        plans.append(plan)
    return plans


def _plan(
    arms: Sequence[Config],
    loaded: ImageSet,
    backbone: FrozenBackbone | None,
    engine: Engine,
    fitted: Sequence[TrainView] | None = None,
) -> Plan:
    """Of a backbone that is not known yet, no feature is stored."""
    config, wanted = arms[-1], preparation.wanted_by(arms, loaded)
    if fitted is not None:
        positions = np.concatenate([loaded.train, loaded.validation])
        wanted = {view: positions for view in fitted}
    assert config.cache is not False
    distinct = {view: len(np.unique(loaded.ids[some])) for view, some in wanted.items()}
    absent = distinct
    if backbone is not None:
        store = features.store_for(backbone, engine, config.cache, config.precision)
        absent = {view: len(features.missing(loaded, some, store.table(view))) for view, some in wanted.items()}
    return Plan(absent, sum(distinct.values()), {}, 0)


def added(counts: Iterable[Mapping[TrainView, int]]) -> dict[TrainView, int]:
    """Counts of several, view by view."""
    total: Counter[TrainView] = Counter()
    for count in counts:
        total.update(count)
    return dict(total)


@dataclass(frozen=True)
class Need:
    """What an arm needs of images that are not stored.

    Args:
        passes: Images to pass the backbone in each view.
        costs: The same in the time of as many images.
        decoded: How often an image is decoded.
    """

    passes: dict[TrainView, int]
    costs: dict[TrainView, int]
    decoded: int


def _fresh(arm: Config, loaded: ImageSet) -> Need:
    """Of heads that share a frozen backbone."""
    # Once more for the held-out images, and once for the statistics of the training images.
    often, once = arm.minibatch.epochs + 1, len(loaded.train) * (arm.bn == "adapt")
    each = once + often * (len(loaded.train) + len(loaded.validation))
    passes = added([dict.fromkeys(arm.train_views, each), _tested(arm, loaded, 1)])
    return Need(passes, passes, sum(passes.values()))


def _tuned(arm: Config, loaded: ImageSet) -> Need:
    """Of heads that have a network each, which learns."""
    views, heads, steps = len(arm.train_views), folds(arm, loaded), arm.minibatch.epochs
    every, own = len(loaded.train), loaded.validation if len(loaded.validation) else loaded.train
    interval = -(-every // arm.batch_size)
    compared = -(-steps * -(-every * views // arm.batch_size) // interval)
    held = compared * min(len(own), max(1, HELD_OUT // views))
    tested = _tested(arm, loaded, (heads + 1) * (1 + (views > 1)))  # at equal steps and at equal epochs
    passes = [dict.fromkeys(arm.train_views, steps * every * heads + held), tested]
    costs = [dict.fromkeys(arm.train_views, round(STEP * steps * every * heads) + held), tested]
    decoded = views * (steps * every + held) + preparation.seen_once(arm, loaded)
    return Need(added(passes), added(costs), decoded)


def _tested(arm: Config, loaded: ImageSet, often: int) -> dict[TrainView, int]:
    """Test images in each view; further test sets are seen as they are."""
    return {view: often * len(loaded.tested if view == CLEAN else loaded.test) for view in arm.test_views}


def folds(config: Config, loaded: ImageSet) -> int:
    """Heads of an arm without the refitted one."""
    return 1 if len(loaded.validation) else config.head.folds


def of_fresh(arms: Sequence[Config], loaded: ImageSet) -> list[Need]:
    """What arms need where nothing is stored: every image is decoded, blurred and run anew in every epoch."""
    return [_tuned(arm, loaded) if arm.tune == "head+bn" else _fresh(arm, loaded) for arm in arms]
