"""Data sets of the Hugging Face hub, by name or as local parquet files in its format."""

import glob
import io
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from blurtrain.errors import DataError
from blurtrain.listed import Listing, choose, splits_of_files
from blurtrain.roots import HUB, hub_files
from blurtrain.sources import SPLITS, File, StoredSource, require_readable

if TYPE_CHECKING:
    import datasets  # type: ignore[import-untyped, import-not-found, unused-ignore]

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
IMAGES = ("image", "img")  # where several columns hold images
LABELS = ("label", "labels")
EXTRA = "pip install 'blurtrain[datasets]'"


class HubSource(StoredSource):
    """Images of a data set whose columns the hub describes; their bytes stay in the library's own files.

    Args:
        root: ``hf:NAME``, or ``hf:FILES`` with a pattern of parquet files.
        download: Whether what is not there yet may be downloaded.
        trained: Whether a head is to be trained on them.
        lenient: Whether a class may lack training images.

    Raises:
        DataError: If the library is not installed, the data set cannot be had, or has no images or labels.
    """

    def __init__(self, root: str, *, download: bool = True, trained: bool = True, lenient: bool = False) -> None:
        super().__init__()
        parts = self._splits(root, download=download, trained=trained)
        image, label = _columns(root, next(iter(parts.values())).features)
        found: list[tuple[str | None, int, str]] = []
        named: list[str] = []
        for split, part in parts.items():
            names, labels = _labels(root, split, part, label)
            if labels is None:
                self.notes.append(f"note: the split {split} of {root} has no labels: it is left out")
                continue
            named += [name for name in names or () if name not in named]
            found += [(split, row, text) for row, text in enumerate(labels)]
        self._images = {split: _undecoded(part, image) for split, part in parts.items()}
        described = {split: _described(part, image) for split, part in self._images.items()}
        listing = Listing(
            ["/".join(filter(None, (split, str(row), described[split][0][row]))) for split, row, _ in found],
            [text for *_, text in found],
            [split for split, *_ in found],
            named or None,
        )
        self.classes, self.items, rows = choose(root, listing, trained=trained, lenient=lenient)
        self._image = image
        self._places = [found[row][:2] for row in rows]
        self._sizes = [described[split][1][row] for split, row in self._places]

    def _splits(self, root: str, *, download: bool, trained: bool) -> "dict[str | None, datasets.Dataset]":
        files = hub_files(root)
        if files is not None:
            paths = sorted(glob.glob(files, recursive=True))  # noqa: PTH207 - of an absolute pattern, too
            if not paths or not all(path.lower().endswith(".parquet") for path in paths):
                raise DataError(f"{root} names no parquet files: give {HUB}FOLDER/*.parquet, or {HUB}NAME")
            _require_one_type(root, paths)
            splits = splits_of_files(root, [Path(path).name for path in paths], self.notes, trained=trained)
            by_split: dict[str, list[str]] = {}
            for split, path in zip(splits, paths, strict=True):
                by_split.setdefault(split or "train", []).append(path)
            loaded = _loaded(root, "parquet", download=True, data_files=by_split)
            return {split if any(splits) else None: loaded[split] for split in by_split}
        name = root.removeprefix(HUB)
        if NAME.fullmatch(name) is None:
            raise DataError(f"{root} is no name of the hub: give {HUB}OWNER/NAME, or {HUB}FOLDER/*.parquet")
        if Path(name).exists():  # which the library would take in its place
            raise DataError(f"{root} is the name of a place here: give data.root {name!r} for that, or start elsewhere")
        return self._known(root, _loaded(root, name, download=download), trained=trained)

    def _known(
        self, root: str, loaded: "Mapping[str, datasets.Dataset]", *, trained: bool
    ) -> "dict[str | None, datasets.Dataset]":
        """The splits that mean something here, by our names."""
        found = {SPLITS[name.lower()]: part for name, part in loaded.items() if name.lower() in SPLITS}
        others = [name for name in loaded if name.lower() not in SPLITS]
        if len(found) + len(others) < len(loaded):
            raise DataError(f"{root} has the splits {', '.join(loaded)}, two of which mean the same: rename one")
        if others and found:
            self.notes.append(f"note: {', '.join(others)} beside the splits of {root} is left out")
        if len(found) + len(others) == 1 or not found:
            if len(loaded) > 1:
                raise DataError(f"{root} has the splits {', '.join(loaded)}: train and test, or one alone, are needed")
            (only,) = loaded.values()
            return {"test" if "test" in found and not trained else None: only}
        return {split: found[split] for split in ("train", "validation", "test") if split in found}

    def _size(self, index: int) -> int:
        return self._sizes[index]

    def _open(self, index: int) -> File:
        split, row = self._places[index]
        held: dict[str, Any] = self._images[split][row][self._image] or {}
        if held.get("bytes") is not None:
            require_readable(len(held["bytes"]))
            return io.BytesIO(held["bytes"])
        path = held.get("path")
        if not path or not Path(path).is_file():
            raise DataError("has neither bytes nor a file")
        require_readable(Path(path).stat().st_size)
        return Path(path).open("rb")


def _loaded(root: str, name: str, *, download: bool, **arguments: Any) -> "Mapping[str, datasets.Dataset]":  # noqa: ANN401
    """All splits of a data set.

    Raises:
        DataError: If the library is not installed, or cannot have the data set.
    """
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"data.root {root!r} needs the library datasets: {EXTRA}") from error
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    offline = datasets.config.HF_HUB_OFFLINE
    try:
        datasets.config.HF_HUB_OFFLINE = offline or not download
        loaded: Mapping[str, datasets.Dataset] = datasets.load_dataset(name, **arguments)
    except Exception as error:  # the library raises many things
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise DataError(f"{root} cannot be loaded ({reason}): mend the name or the files, or give a folder") from error
    finally:
        datasets.config.HF_HUB_OFFLINE = offline
    return loaded


def _require_one_type(root: str, paths: Sequence[str]) -> None:
    """Check that labels are numbers in all files or in none, or the library says no more than that it failed.

    Raises:
        DataError: If they are not.
    """
    from pyarrow import ArrowException, parquet, types

    first: dict[tuple[str, bool], str] = {}
    for path in paths:
        try:
            schema = parquet.read_schema(path)
        except (OSError, ArrowException):  # the library says so
            continue
        for name in {*LABELS} & {*schema.names}:
            kind = schema.field(name).type
            number = types.is_integer(kind)
            first.setdefault((name, number), f"{kind} in {path}")
            if (name, not number) in first:
                both = f"{first[name, not number]} and {kind} in {path}"
                raise DataError(f"column {name} of {root} holds {both}: give one kind only")


def _columns(root: str, features: "datasets.Features") -> tuple[str, str]:
    """The columns of images and of labels."""
    import datasets

    images = [name for name, kind in features.items() if isinstance(kind, datasets.Image)]
    labels = [name for name, kind in features.items() if isinstance(kind, datasets.ClassLabel)]
    if not labels:
        labels = [name for name in LABELS if _is_label(features.get(name))]
    image, label = _one_of(images, IMAGES), _one_of(labels, LABELS)
    if image is None or label is None:
        has = ", ".join(f"{name}: {_kind(feature)}" for name, feature in features.items())
        wanted = "an image column" if image is None else "a label column"
        calls = " or ".join(IMAGES if image is None else LABELS)
        many = images if image is None else labels
        which = f"{len(many)} of them and none called {calls}" if many else "none"
        raise DataError(f"{root} needs {wanted} and has {which} (it has {has}): give one called {calls}")
    return image, label


def _one_of(found: list[str], preferred: tuple[str, ...]) -> str | None:
    if len(found) == 1:
        return found[0]
    return next((name for name in preferred if name in found), None)


def _is_label(feature: Any) -> bool:  # noqa: ANN401 - any feature
    dtype = str(getattr(feature, "dtype", ""))
    return type(feature).__name__ == "Value" and dtype.startswith(("int", "uint", "string", "large_string"))


def _kind(feature: Any) -> str:  # noqa: ANN401
    dtype = getattr(feature, "dtype", None)
    return str(dtype) if type(feature).__name__ == "Value" else type(feature).__name__


def _labels(
    root: str, split: str | None, part: "datasets.Dataset", column: str
) -> tuple[list[str] | None, list[str] | None]:
    """Names of all classes where they are given, and of each image's; nothing where no image has one."""
    names: list[str] | None = getattr(part.features[column], "names", None)
    where = f"{root}{f' in the split {split}' if split else ''}, column {column}"
    try:
        values = part.select_columns([column])[:][column]
    except UnicodeDecodeError as error:
        raise DataError(f"{where} holds a label that is no text in UTF-8 ({error}): write it anew") from error
    if names is not None:
        for row, value in enumerate(values):
            if value is not None and value >= len(names):
                raise DataError(f"row {row + 1} of {where} has label {value} of {len(names)} classes: mend it")
    bad = [
        row
        for row, value in enumerate(values)
        if value is None or (value < 0 if names is not None else not str(value).strip())
    ]
    if bad and len(bad) == len(values):
        return names, None
    if bad:
        raise DataError(f"row {bad[0] + 1} of {where} has no label: remove it, or give one")
    return names, [str(value) if names is None else names[value] for value in values]


def _undecoded(part: "datasets.Dataset", image: str) -> "datasets.Dataset":
    import datasets

    return part.select_columns([image]).cast_column(image, datasets.Image(decode=False))


def _described(part: "datasets.Dataset", image: str) -> tuple[list[str], list[int]]:
    """File name, perhaps empty, and number of bytes of each image, none of which is read."""
    from pyarrow import compute

    column = part.data.column(image)
    paths = compute.struct_field(column, "path").to_pylist()
    sizes = compute.binary_length(compute.struct_field(column, "bytes")).to_pylist()
    return [Path(path).name if path else "" for path in paths], [size or 0 for size in sizes]
