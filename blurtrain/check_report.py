"""A finished check of images as text: classes, sizes, formats, findings, a verdict, and what to do next."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from blurtrain.checking import Check, place
from blurtrain.config import Config
from blurtrain.decoding import KINDS
from blurtrain.findings import NOTE, PROBLEM, SEVERITY, TRAIN, WARNING, Checked, Finding, tally
from blurtrain.progress import one_line
from blurtrain.sheets import ELLIPSIS, shortened

WIDE = 100  # characters of a line
MOST_CLASSES = 20  # that are all shown; of more, the largest and the smallest
ENDS = 6  # how many of them
NAME = 34  # characters of a class's name


def table(check: Check, config: Config) -> str:
    """All of it, at most 100 characters wide unless a file that must be named is longer."""
    checked = check.checked
    parts = [
        _title(checked, config),
        "\n".join(_classes(checked)),
        "\n".join(_pictures(checked)),
        "\n".join(_findings(checked)),
        "\n".join(_left_out(check)),
    ]
    return "\n\n".join(part for part in parts if part)


def effective(counts: Sequence[int]) -> float:
    """Effective number of classes: exp of the entropy of their shares (Hill, "Diversity and evenness", 1973)."""
    shares = np.array([count for count in counts if count > 0], float)
    if len(shares) == 0:
        return 0.0
    shares /= shares.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _title(checked: Checked, config: Config) -> str:
    images, classes = len(checked.items), len(checked.classes)
    counts = f" · {images:,} images · {classes:,} classes"
    whole = f"{one_line(config.data.root)}{counts}"
    sizes = f"resize {checked.geometry.resize}, crop {checked.geometry.crop} px"
    return f"{shortened(whole, WIDE, len)}\nas {shortened(one_line(config.backbone.name), 60, len)} sees them: {sizes}"


def _classes(checked: Checked) -> Iterator[str]:
    counts = checked.counts()
    shown = [number for number in range(len(checked.names)) if number < 3 or counts[:, number].any()]
    shown = [number for number in shown if counts[:, number].any() or number == TRAIN]
    widths = [max(10, min(len(checked.names[number]), 14) + 2) for number in shown]
    heads = [shortened(checked.names[number], width - 2, len) for number, width in zip(shown, widths, strict=True)]
    yield f"{'images that can be used':<{NAME}}" + "".join(
        f"{head:>{w}}" for head, w in zip(heads, widths, strict=True)
    )
    yield "-" * (NAME + sum(widths))
    order = sorted(range(len(counts)), key=lambda label: (-counts[label, TRAIN], label))
    hidden = order[ENDS:-ENDS] if len(order) > MOST_CLASSES else []
    between = set(hidden)
    for label in order:
        if label not in between:
            name = shortened(one_line(checked.classes[label]), NAME - 2, len)
            yield f"{name:<{NAME}}" + _numbers(counts[label, shown].tolist(), widths)
        elif label == hidden[0]:
            yield f"{f'... {len(hidden):,} classes in between':<{NAME}}" + _numbers(
                counts[hidden][:, shown].sum(axis=0).tolist(), widths
            )
    yield "-" * (NAME + sum(widths))
    yield f"{'all':<{NAME}}" + _numbers(counts[:, shown].sum(axis=0).tolist(), widths)
    train = counts[:, TRAIN]
    ratio = f"{train.max() / train.min():.2f}" if train.min() else "infinite"
    number = f"{effective(train.tolist()):.1f} of {len(train):,}"
    yield f"balance in training: largest / smallest class {ratio}, effective number of classes {number}"


def _numbers(values: Iterable[int], widths: Sequence[int]) -> str:
    return "".join(f"{value:>{width},}" for value, width in zip(values, widths, strict=True))


def _pictures(checked: Checked) -> Iterator[str]:
    good = checked.is_good
    if not good.any():
        return
    sizes = checked.scan.sizes[good]
    for name, sides in (("shorter side, px", sizes.min(axis=1)), ("longer side, px", sizes.max(axis=1))):
        yield f"{name:<18}{sides.min():,} to {sides.max():,}, median {np.median(sides):,.0f}"
    formats = np.bincount(checked.scan.formats[good], minlength=len(checked.scan.format_names))
    named = sorted(zip(formats.tolist(), checked.scan.format_names, strict=True), reverse=True)
    told = [f"{name or 'drawn'} {count:,}" for count, name in named if count]
    kinds = [(int((checked.scan.kinds[good] >> bit & 1).sum()), kind) for bit, kind in enumerate(KINDS)]
    told_kinds = [f"{kind} {count:,}" for count, kind in kinds if count]
    yield f"{'format':<18}{', '.join(told)}{'; of these ' * bool(told_kinds)}{', '.join(told_kinds)}"


def _findings(checked: Checked) -> Iterator[str]:
    counts = tally(checked.findings)
    if not counts:
        return
    width = max(map(len, counts)) + 2
    yield f"{'finding':<{width}}{'severity':<10}{'rows':>7}  first"
    yield "-" * WIDE
    first: dict[str, Finding] = {}
    for finding in checked.findings:
        first.setdefault(finding.kind, finding)
    for kind, finding in first.items():
        room = WIDE - width - 19
        example = _example(checked, finding, room)
        yield f"{kind:<{width}}{SEVERITY[kind]:<10}{counts[kind]:>7,}  {example}"
    yield "-" * WIDE


def _example(checked: Checked, finding: Finding, room: int) -> str:
    split, group, name, other = map(one_line, place(checked, finding))
    if finding.index is None:
        where = " ".join(filter(None, (group, f"in {split}" if split else "")))
        return shortened(": ".join(filter(None, (where, one_line(finding.detail)))), room, len)
    left, right = (name, other) if other else (name, one_line(finding.detail))
    most = max(room // 2 - 2, room - len(right) - 2)
    left = _tail(left, most)
    rest = room - len(left) - 3
    return f"{left} = {_tail(right, rest)}" if other else f"{left}: {shortened(right, rest + 1, len)}"


def _tail(name: str, most: int) -> str:
    """A file's name, of which the end tells most."""
    return name if len(name) <= most else f"{ELLIPSIS}{name[len(name) - most + 1 :]}"


def _left_out(check: Check) -> Iterator[str]:
    if check.mended is not None:
        dropped = ", ".join(f"{count:,} x {reason}" for reason, count in check.mended.dropped.items()) or "nothing"
        yield f"Without the bad ones: {one_line(str(check.mended.file))}, {check.mended.images:,} images"
        yield f"  Left out: {dropped}."
        yield (
            "  Of duplicates across splits the image that is tested on stays, of those with different labels none does."
        )


def verdict(check: Check) -> str:
    """Whether the images may be trained on, and what else there is."""
    counts = tally(check.checked.findings)
    if not check.is_fit:
        worst = [kind for kind in SEVERITY if counts[kind] and SEVERITY[kind] == PROBLEM]
        mended = "" if check.mended is None else f"; {check.mended.file} is"
        return f"not fit for training: {', '.join(f'{counts[kind]:,} x {kind}' for kind in worst)}{mended}"
    rows = {kind: sum(counts[one] for one in SEVERITY if SEVERITY[one] == kind) for kind in (WARNING, NOTE)}
    also = ", ".join(f"{count:,} {kind}{'s' * (count != 1)}" for kind, count in rows.items() if count)
    return f"nothing stands in the way of training{also and '; ' + also + ' to look at'}"
