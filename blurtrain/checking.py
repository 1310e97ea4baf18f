"""`blurtrain check-data`: look at every image of a source before training, tell what is wrong, list what is left."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from blurtrain import backbones
from blurtrain.chatter import silence
from blurtrain.config import Config
from blurtrain.errors import ConfigError, DataError
from blurtrain.files import whole_file, write_csv
from blurtrain.findings import LEFT_OUT, PROBLEM, SEVERITY, Checked, Finding, classes_that_fail, findings, resolved
from blurtrain.folder_source import FolderSource
from blurtrain.folders import text_of
from blurtrain.lookalikes import Links
from blurtrain.opening import open_source
from blurtrain.progress import one_line, say
from blurtrain.reduction import reduced
from blurtrain.scanning import near_duplicates, scan
from blurtrain.sources import FileSource, Joined, Source

COLUMNS = ("finding", "severity", "split", "class", "path", "other path", "detail")


@dataclass(frozen=True)
class Mended:
    """A manifest without the images that should not be there.

    Args:
        file: Where it lies.
        images: In it.
        dropped: Images that are left out for each reason, with words for it.
    """

    file: Path
    images: int
    dropped: dict[str, int]


@dataclass(frozen=True)
class Check:
    """A finished check.

    Args:
        checked: What was found.
        out: The table of all findings.
        mended: What was made of the set, where that was asked for.
        has_paths: Whether images are files, so that a list of them can be made.
    """

    checked: Checked
    out: Path
    mended: Mended | None
    has_paths: bool

    @property
    def is_fit(self) -> bool:
        """Whether nothing stands in the way of training, or makes its result wrong."""
        return all(SEVERITY[finding.kind] != PROBLEM for finding in self.checked.findings)


def check_data(config: Config, out: Path | None = None, fix_list: Path | None = None) -> Check:
    """Decode every image as training would, and look for what is wrong; nothing of the images is stored.

    Args:
        config: Of the images; its network says which images are small, `head.folds` which classes.
        out: A .csv file with all findings; runs/check-NAME.csv where it is left out.
        fix_list: A .csv file that becomes a manifest of the images that are left without the bad ones.

    Returns:
        What was found and written.

    Raises:
        ConfigError: If a file is no .csv, or would overwrite the images' own list.
        BackboneError: If the network is not known.
        DataError: If the source cannot be opened, or too little is left for a manifest, or it cannot name the images.
        StoreError: If a file cannot be written.
    """
    out = out or config.runs / f"check-{config.experiment}.csv"
    _require_tables(config, out, fix_list)
    silence()
    source = open_source(config.data, config.extra_tests, lenient=True)
    for note in source.notes:
        say(note)
    own = source.parts[0] if isinstance(source, Joined) else source
    paths = own.paths if isinstance(own, FileSource) else ()
    if fix_list is not None and not paths:
        raise DataError(
            f"fix_list names files, and the images of {config.data.root} are none of their own: mend them where they "
            "were made, by the rows of --out"
        )
    if fix_list is not None:
        _require_names(source.classes)
    checked = examine(source, own, config)
    _write(out, chain([COLUMNS], _rows(checked)))
    mended = None if fix_list is None else _mend(checked, paths, fix_list)
    return Check(checked, out, mended, bool(paths))


def examine(source: Source, own: Source, config: Config) -> Checked:
    """All findings about a source that was opened leniently.

    Args:
        source: All images.
        own: Those of them that are no further test set.
        config: As `check_data`.
    """
    geometry = backbones.geometry(config.backbone)
    source = reduced(source, geometry)
    found = scan(source, geometry)
    splits, names = resolved(source.items, found, config.data.test_fraction)
    folders = own.empty if isinstance(own, FolderSource) else ()
    empty = [(split or "", text_of(folder.name)) for split, folder in folders]
    checked = Checked(source.classes, source.items, found, splits, names, geometry, config.head.folds, empty)
    near = near_duplicates(source, found, Links(checked.sides, checked.splits, checked.labels))
    return replace(checked, findings=findings(checked, near))


def _require_tables(config: Config, out: Path, fix_list: Path | None) -> None:
    for key, path in (("out", out), ("fix_list", fix_list)):
        if path is None:
            continue
        if path.suffix.lower() != ".csv" or path.is_dir():
            raise ConfigError(f"{key} must be a file that ends in .csv, got {str(path)!r}")
        if path.absolute() == Path(config.data.root).absolute() or _is_same(path, Path(config.data.root)):
            raise ConfigError(f"{key} must be another file than data.root, got {str(path)!r}")
    if fix_list is not None and (fix_list.absolute() == out.absolute() or _is_same(fix_list, out)):
        raise ConfigError(f"fix_list must be another file than out, got {str(fix_list)!r}")


def _require_names(classes: Sequence[str]) -> None:
    """A manifest takes no spaces around a label, which could be a slip there.

    Raises:
        DataError: If a class has some.
    """
    for name in classes:
        if name != name.strip():
            raise DataError(f"fix_list cannot name the class {name!r}, which has spaces around it: rename it")


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _rows(checked: Checked) -> Iterable[Sequence[str]]:
    for finding in checked.findings:
        cells = (finding.kind, SEVERITY[finding.kind], *place(checked, finding), finding.detail)
        yield [one_line(cell) for cell in cells]


def place(checked: Checked, finding: Finding) -> tuple[str, str, str, str]:
    """Split, class, and the names of the image and of the other one; empty where there is none."""
    other = "" if finding.other is None else checked.items[finding.other].name
    if finding.index is None:
        return finding.split, finding.group, "", other
    item, number = checked.items[finding.index], int(checked.splits[finding.index])
    return checked.names[number] if number >= 0 else "", checked.classes[item.label], item.name, other


def _mend(checked: Checked, paths: Sequence[Path], file: Path) -> Mended:
    """Write a manifest of what is left.

    Raises:
        DataError: If too little is left.
    """
    left, dropped = _left(checked, paths)
    places = np.flatnonzero(left).tolist()
    names = _plain(paths[index] for index in places)
    rows = (
        (
            name,
            checked.classes[checked.items[index].label],
            checked.names[checked.splits[index]],
        )
        for name, index in zip(names, places, strict=True)
    )
    _write(file, chain([("path", "label", "split")], rows))
    return Mended(file, len(places), dropped)


def _plain(paths: Iterable[Path]) -> Iterator[str]:
    """Absolute paths without `..`, unless that leads elsewhere behind a link, or two of them would be one."""
    whole, folders = [path.absolute() for path in paths], dict[Path, Path]()
    used = set(whole)
    for path in whole:
        if path.parent not in folders:
            short = Path(os.path.normpath(path.parent))
            folders[path.parent] = short if _is_same(short, path.parent) else path.parent
        shorter = folders[path.parent] / path.name
        yield str(path if shorter in used else shorter)
        used.add(shorter)


def _left(checked: Checked, paths: Sequence[Path]) -> tuple[Bool[np.ndarray, " images"], dict[str, int]]:
    """Where an image is left, and how many are not for which reason."""
    left = np.zeros(len(checked.items), bool)
    left[: len(paths)] = True
    dropped: dict[str, int] = {}

    def drop(reason: str, places: Iterable[int]) -> None:
        gone = np.array([index for index in places if left[index]], np.int64)
        if len(gone := np.unique(gone)):
            dropped[reason] = dropped.get(reason, 0) + len(gone)
            left[gone] = False

    for kind in LEFT_OUT:
        drop(kind, (f.index for f in checked.findings if f.kind == kind and f.index is not None))
    drop("name that is no UTF-8", (index for index, path in enumerate(paths) if not _is_utf8(path)))
    without = replace(checked, empty=())
    while True:
        failing = [f.group for f in classes_that_fail(without, left) if SEVERITY[f.kind] == PROBLEM and f.group]
        labels = [checked.classes.index(name) for name in failing]
        more = np.flatnonzero(left & np.isin(checked.labels, labels)).tolist()
        if not more:
            break
        drop("class that cannot be trained", more)
    _require_enough(without, left)
    return left, dropped


def _require_enough(checked: Checked, left: Bool[np.ndarray, " images"]) -> None:
    if len(np.unique(checked.labels[left])) < 2:
        raise DataError("fix_list would have fewer than 2 classes that can be trained: add images, or mend them")
    for finding in classes_that_fail(checked, left):
        if SEVERITY[finding.kind] == PROBLEM and not finding.group:
            raise DataError(
                f"fix_list would be too short ({finding.split}: {finding.detail}): add images, or mend them"
            )


def _is_utf8(path: Path) -> bool:
    try:
        str(path.absolute()).encode()
    except UnicodeEncodeError:
        return False
    return True


def _write(file: Path, rows: Iterable[Sequence[str]]) -> None:
    with whole_file(file) as temporary, temporary.open("w", encoding="utf-8", newline="") as opened:
        write_csv(opened, rows)
