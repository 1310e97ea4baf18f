"""What was compared with what, in sentences that are made from the runs' configs and results. No computation."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from blurtrain.kernels import FAMILIES
from blurtrain.layer_words import plural
from blurtrain.roots import title
from blurtrain.runs import Run
from blurtrain.views import Blur

MOST_CLASSES, MOST_NAMED = 4, 60  # classes that a title names, and characters of their names
MOST_CURVES = 4  # blurs whose strengths are listed in a sentence
NUMBERS = {2: "Both", 3: "All three", 4: "All four"}

Comparison = Mapping[str, Any]


def headline(runs: Mapping[str, Run]) -> str:
    """Whose images are blurred, and the arms."""
    first = next(iter(runs.values()))
    named = ", ".join(first.classes)
    if len(first.classes) > MOST_CLASSES or len(named) > MOST_NAMED:
        named = f"{len(first.classes):,} classes of {title(first.config.data.root)}"
    arms = " and ".join(runs) if len(runs) == 2 else f"{len(runs)} arms"
    return f"{named} under blur: {arms}"


def blurs_said(blurs: Sequence[Blur]) -> str:
    """Blurs with their strengths, those of one curve together."""
    by_curve = sorted(blurs, key=lambda blur: blur.curve)  # stable
    curves = {curve: list(some) for curve, some in groupby(by_curve, key=lambda blur: blur.curve)}
    if len(curves) > MOST_CURVES:
        return f"{len(blurs)} strengths of {len(curves)} blurs"
    return "; ".join(_strengths(curve, some) for curve, some in curves.items())


def _strengths(curve: str, blurs: Sequence[Blur]) -> str:
    first = blurs[0]
    if first.file:
        return ", ".join(blur.name for blur in blurs)
    strengths = ", ".join(f"{blur.strength:g}" for blur in blurs)
    return f"{curve}{':' * (first.angle is not None)} {strengths}{'' if first.severity else ' px'}"


def measure(blur: Blur) -> str:
    """What the strengths of a blur's curve are."""
    strength = FAMILIES[blur.family].strength
    if blur.severity:
        return blur.curve
    return f"{blur.curve}: {strength}" if blur.file else f"{blur.curve} {strength}, px"


def strengths_said(blurs: Sequence[Blur], side: int) -> str:
    """What the strengths of several blurs are."""
    in_px = dict.fromkeys(blur.family for blur in blurs if not blur.severity and not blur.file)
    said = [f"of {family} blur its {FAMILIES[family].strength}" for family in in_px]
    if any(FAMILIES[family].strength == "sigma" for family in in_px):
        said[-1] += " (sigma: the standard deviation of the blur's kernel)"
    parts = [f"{', '.join(said)}, in px at the network's input, {side} x {side} px"] if said else []
    if any(blur.severity for blur in blurs):
        parts.append("of a severity one of ImageNet-C's five steps")
    if any(blur.file for blur in blurs):
        parts.append("of a measured blur (psf) how many px at the network's input a pixel of its file is")
    return f"A strength is {'; '.join(parts)}."


def native_said(example: Blur, run: Run) -> str:
    """How wide a blur at the network's input is in the files, by an example; nothing where that is the same."""
    scale = run.result["native_pixels_per_pixel"]
    if scale == 1 or example.severity or example.file:
        return ""
    resize = run.result["backbone"]["preprocessing"]["geometry"]["resize"]
    return (
        f"In an image file of the median size (shorter side {scale * resize:.0f} px, resized to {resize}) "
        f"{_strengths(example.curve, [example])} is {example.strength * scale:.1f} px wide: native px."
    )


def start(runs: Mapping[str, Run]) -> str:
    """What all arms have in common: network, images, and what is trained."""
    first = next(iter(runs.values()))
    images, network = first.result["images"], first.result["backbone"]["name"]
    held = f" (and {images['validation']:,} to validate on)" if images["validation"] else ""
    arms = NUMBERS.get(len(runs), f"All {len(runs)}")
    plain = [run for run in runs.values() if run.config.tune == "head"]
    size = f", {plain[0].result['trainable']['parameters']:,} numbers" if plain else ""
    frozen = "stays as it was imported (frozen)"
    if any(run.config.changes_backbone for run in runs.values()):
        frozen += ", but where an arm below says otherwise"
    weights = " Classes weigh the same, however many images each has." if _same_weights(runs) else ""
    return (
        f"An arm is one way to train. {arms} train a small classifier (a head{size}) on the same imported {network} "
        f"and the same {images['train']:,} training images{held} in {len(first.classes):,} classes; the network itself "
        f"{frozen}.{weights}"
    )


def _same_weights(runs: Mapping[str, Run]) -> bool:
    return all(run.config.head.class_weights == "balanced" for run in runs.values())


def arm_said(run: Run, *, weights: bool) -> str:
    """How one arm trains, as what follows its name.

    Args:
        run: Of the arm.
        weights: Whether to say that classes weigh the same, because they do not in all arms.
    """
    config = run.config
    parts = [f"trains on {_training_views(run)}"]
    if config.bn == "adapt":
        parts.append("before that, the statistics of the network's batch norms are taken anew from all of these")
    if config.tune == "head+bn":
        count = run.result["trainable"]["parameters"]
        parts.append(f"the network's batch norms are trained with the head, {count:,} numbers together")
    if weights and config.head.class_weights == "balanced":
        parts.append("classes weigh the same, however many images each has")
    return "; ".join(parts) + "."


def _training_views(run: Run) -> str:
    config = run.config
    blurred, drawn = config.copy_views, config.drawn_views
    if not config.has_copies:
        return "the images as they are"
    if config.duplicated:
        many = 1 + len(blurred) + len(drawn)
        stand = f", unblurred, in place of copies ({blurs_said(blurred)})" if blurred else ", in place of copies"
        return f"the images as they are, each {many} times{stand}: a control for having more images"
    copies = []
    if blurred:
        copy = "a blurred copy" if len(blurred) == 1 else f"{len(blurred)} blurred copies"
        copies.append(f"{copy} of each ({blurs_said(blurred)})")
    if drawn:
        copy = "a copy" if len(drawn) == 1 else f"{len(drawn)} copies"
        copies.append(f"{copy} of each that an albumentations pipeline draws")
    return f"the images as they are and {' and '.join(copies)}"


def arms_said(runs: Mapping[str, Run]) -> dict[str, str]:
    """How each arm trains."""
    return {name: arm_said(run, weights=not _same_weights(runs)) for name, run in runs.items()}


def test_said(result: Comparison, views: Sequence[Blur]) -> str:
    """On what all arms are tested, and by how many heads."""
    heads, several = result["heads"], plural(result["n_test"], "image")
    each = (
        f"Each arm is trained {heads} times, a head for each fold of a cross-validation, and accuracies are means over "
        "heads."
        if heads > 1
        else "Each arm has one head."
    )
    groups = "" if result["groups"] == result["n_test"] else f" in {result['groups']} groups"
    real = ", ".join(f"{view['name']} ({plural(view['n_test'], 'image')})" for view in result["real"])
    more = f", and on photographs that were blurred really: {real}" if real else ""
    return (
        f"{each} All are tested on the same {several}{groups}, which none was trained on, clean and blurred "
        f"({blurs_said(views[1:])}){more}. Labels are the data set's own."
    )


def ranges_said(slight: Sequence[Blur], heavy: Sequence[Blur], heavy_is: str) -> str:
    """What slight and heavy mean here."""
    parts = []
    if slight:
        parts.append(f"Slight blur ({blurs_said(slight)}) is no wider than the strongest copy")
    if heavy:
        parts.append(f"{'h' if slight else 'H'}eavy blur ({blurs_said(heavy)}) is {heavy_is}")
    return "; ".join(parts) + "." if parts else ""
