"""Data sets of torchvision as sources, on small ones in exactly their formats on disk; no network."""

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image
from scipy.io import savemat

from blurtrain.config import Config, DataConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.images import load
from blurtrain.opening import open_source
from blurtrain.torchvision_sets import SETS, TorchvisionSource
from tests.alike import entries_of, require_same

GEOMETRY = Geometry(24, 20)
KINDS = ("blue", "green", "red")
Entries = Sequence[tuple[Path, str, str]]


# torchvision: trees of the photographs of a folder, as the original archives unpack


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix == target.suffix:
        target.write_bytes(source.read_bytes())
    else:  # another format of the same pixels
        Image.open(source).save(target)


def text(path: Path, lines: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def flowers(root: Path, entries: Entries) -> None:
    base = root / "flowers-102"
    for number, (path, *_) in enumerate(entries, 1):
        copy(path, base / "jpg" / f"image_{number:05d}.jpg")
    savemat(base / "imagelabels.mat", {"labels": [[KINDS.index(kind) + 1 for _, kind, _ in entries]]})
    numbers = {
        key: [[number for number, (*_, split) in enumerate(entries, 1) if split == word]]
        for word, key in (("train", "trnid"), ("val", "valid"), ("test", "tstid"))
    }
    savemat(base / "setid.mat", numbers)


def pets(root: Path, entries: Entries) -> None:
    base = root / "oxford-iiit-pet"
    for split, word in (("train", "trainval"), ("test", "test")):
        chosen = [entry for entry in entries if entry[2] == split]
        ids = [f"{kind}_dog_{split}{number}" for number, (_, kind, _) in enumerate(chosen)]
        for name, (path, *_) in zip(ids, chosen, strict=True):
            copy(path, base / "images" / f"{name}.jpg")
        lines = [f"{name} {KINDS.index(kind) + 1} 2 1" for name, (_, kind, _) in zip(ids, chosen, strict=True)]
        text(base / "annotations" / f"{word}.txt", lines)


def food(root: Path, entries: Entries) -> None:
    base = root / "food-101"
    for split in ("train", "test"):
        listed: dict[str, list[str]] = {kind: [] for kind in KINDS}
        for number, (path, kind, word) in enumerate(entries):
            if word == split:
                copy(path, base / "images" / kind / f"{number}.jpg")
                listed[kind].append(f"{kind}/{number}")
        text(base / "meta" / f"{split}.json", [json.dumps(listed)])


def eurosat(root: Path, entries: Entries) -> None:
    for number, (path, kind, _) in enumerate(entries):
        copy(path, root / "eurosat" / "2750" / kind / f"{kind}_{number}.jpg")


def textures(root: Path, entries: Entries) -> None:
    base = root / "dtd" / "dtd"
    for split in ("train", "val", "test"):
        names = []
        for number, (path, kind, word) in enumerate(entries):
            if word == split:
                copy(path, base / "images" / kind / f"{kind}_{number}.jpg")
                names.append(f"{kind}/{kind}_{number}.jpg")
        text(base / "labels" / f"{split}1.txt", names)


def signs(root: Path, entries: Entries) -> None:
    base = root / "gtsrb"
    rows = ["Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId"]
    for number, (path, kind, split) in enumerate(entries):
        label = KINDS.index(kind)
        if split == "test":
            copy(path, base / "GTSRB" / "Final_Test" / "Images" / f"{number:05d}.ppm")
            rows.append(f"{number:05d}.ppm;9;9;1;1;8;8;{label}")
        else:
            copy(path, base / "GTSRB" / "Training" / f"{label:05d}" / f"00000_{number:05d}.ppm")
    text(base / "GT-final_test.csv", rows)


def caltech(root: Path, entries: Entries) -> None:
    base = root / "caltech101" / "101_ObjectCategories"
    (base / "BACKGROUND_Google").mkdir(parents=True)
    for kind in KINDS:
        for number, path in enumerate([path for path, word, _ in entries if word == kind], 1):
            copy(path, base / kind / f"image_{number:04d}.jpg")


def cars(root: Path, entries: Entries) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    savemat(base / "devkit" / "cars_meta.mat", {"class_names": np.array(KINDS, object)})
    kind_of_row = np.dtype([("class", object), ("fname", object)])
    for split, name in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = []
        for number, (path, kind, word) in enumerate(entries):
            if word == split:
                copy(path, base / f"cars_{split}" / f"{number:05d}.jpg")
                rows.append((KINDS.index(kind) + 1, f"{number:05d}.jpg"))
        savemat(base / name, {"annotations": np.array(rows, kind_of_row)})


def countries(root: Path, entries: Entries) -> None:
    for number, (path, kind, split) in enumerate(entries):
        copy(path, root / "country211" / {"val": "valid"}.get(split, split) / kind / f"{number}.jpg")


def aircraft(root: Path, entries: Entries) -> None:
    base = root / "fgvc-aircraft-2013b" / "data"
    text(base / "variants.txt", KINDS)
    for split in ("train", "val", "test"):
        rows = []
        for number, (path, kind, word) in enumerate(entries):
            if word == split:
                copy(path, base / "images" / f"{number:07d}.jpg")
                rows.append(f"{number:07d} {kind}")
        text(base / f"images_variant_{split}.txt", rows)


FILES: dict[str, tuple[Callable[[Path, Entries], None], bool, tuple[str, ...]]] = {
    "Caltech101": (caltech, False, KINDS),
    "Country211": (countries, True, KINDS),
    "DTD": (textures, True, KINDS),
    "EuroSAT": (eurosat, False, KINDS),
    "FGVCAircraft": (aircraft, True, KINDS),
    "Flowers102": (flowers, True, ("pink primrose", "hard-leaved pocket orchid", "canterbury bells")),
    "Food101": (food, True, KINDS),
    "GTSRB": (signs, True, ("00000", "00001", "00002")),
    "OxfordIIITPet": (pets, True, ("Blue Dog", "Green Dog", "Red Dog")),
    "StanfordCars": (cars, True, KINDS),
}
THREE_SPLITS = ("Country211", "DTD", "FGVCAircraft", "Flowers102")


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files have other checksums than the originals; whether they are there is still asked."""
    for module in ("cifar", "flowers102", "svhn", "stl10"):
        there = getattr(torchvision.datasets, module)
        monkeypatch.setattr(there, "check_integrity", lambda path, md5=None: Path(path).is_file())  # noqa: ARG005


def as_folder(source: Path, target: Path, suffix: str, names: dict[str, str], *, split: bool) -> Path:
    """The same photographs as a folder by the classes' own names."""
    for number, (path, kind, word) in enumerate(entries_of(source)):
        place = target / word / names[kind] if split else target / names[kind]
        copy(path, place / f"{number}{suffix}")
    return target


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", FILES)
def test_files_of_torchvision_are_the_same_images_as_in_a_folder(photo_folder: Path, tmp_path: Path, name: str) -> None:
    make, split, named = FILES[name]
    for path in sorted((photo_folder / "train").rglob("[67].*")) if name in THREE_SPLITS else []:
        target = photo_folder / "val" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    make(tmp_path / "data", entries_of(photo_folder))
    suffix = ".ppm" if name == "GTSRB" else ".jpg"
    folder = as_folder(photo_folder, tmp_path / "folder", suffix, dict(zip(KINDS, named, strict=True)), split=split)
    config = DataConfig(root=f"torchvision:{name}", folder=str(tmp_path / "data"), download=False)
    found = require_same(DataConfig(root=str(folder)), config)
    assert found.classes == named
    assert len(found.validation) == (6 if name in THREE_SPLITS else 0)
    assert all(item.split in (None, "test") for item in open_source(config, trained=False).items)


@pytest.mark.usefixtures("unchecked")
def test_labels_are_those_that_torchvision_gives(photo_folder: Path, tmp_path: Path) -> None:
    flowers(tmp_path, entries_of(photo_folder))
    source = TorchvisionSource("torchvision:Flowers102", tmp_path, download=False)
    theirs = torchvision.datasets.Flowers102(tmp_path, split="test")
    ours = [index for index, item in enumerate(source.items) if item.split == "test"]
    assert len(ours) == len(theirs) == 15
    for index, (image, label) in zip(ours, theirs, strict=True):
        assert source.items[index].label == label
        np.testing.assert_array_equal(np.asarray(source.decode(index)), np.asarray(image))


def rendered(root: Path) -> None:
    for place, split in enumerate(("train", "valid", "test")):
        for label, kind in enumerate(("negative", "positive")):
            for number in range(2):
                pixels = np.full((5, 6, 3), 100 * label + 10 * place + number, np.uint8)
                target = root / "rendered-sst2" / split / kind / f"{number}.png"
                target.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(target)


@pytest.mark.usefixtures("unchecked")
def test_text_that_is_drawn_has_two_classes(tmp_path: Path) -> None:
    rendered(tmp_path)
    source = TorchvisionSource("torchvision:RenderedSST2", tmp_path, download=False)
    assert source.classes == ("negative", "positive")
    assert [item.split for item in source.items] == ["train"] * 4 + ["validation"] * 4 + ["test"] * 4


# torchvision: sets that are one array


def arrays(count: int, side: int, seed: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, side, side)).astype(np.uint8)


def cifar(root: Path, base: str, batches: dict[str, np.ndarray], key: str, meta: tuple[str, str], names: int) -> None:
    folder = root / base
    folder.mkdir(parents=True)
    for name, pixels in batches.items():
        labels = [row % names for row in range(len(pixels))]
        (folder / name).write_bytes(pickle.dumps({"data": pixels.reshape(len(pixels), -1), key: labels}))
    file, column = meta
    (folder / file).write_bytes(pickle.dumps({column: [f"class {place:02d}" for place in range(names)]}))


def cifar10(root: Path) -> dict[str, np.ndarray]:
    parts = {f"data_batch_{number}": arrays(20, 32, number) for number in range(1, 6)}
    test = arrays(20, 32, 9)
    cifar(root, "cifar-10-batches-py", {**parts, "test_batch": test}, "labels", ("batches.meta", "label_names"), 10)
    return {"train": np.concatenate(list(parts.values())), "test": test}


def cifar100(root: Path) -> dict[str, np.ndarray]:
    parts = {"train": arrays(200, 32, 1), "test": arrays(100, 32, 2)}
    cifar(root, "cifar-100-python", parts, "fine_labels", ("meta", "fine_label_names"), 100)
    return parts


def digits(root: Path, name: str) -> dict[str, np.ndarray]:
    folder = root / name / "raw"
    folder.mkdir(parents=True)
    parts = {"train": arrays(40, 28, 3, 1), "test": arrays(20, 28, 4, 1)}
    for word, pixels in (("train", parts["train"]), ("t10k", parts["test"])):
        sizes = [len(pixels), 28, 28]
        head = (0x803).to_bytes(4, "big") + b"".join(size.to_bytes(4, "big") for size in sizes)
        (folder / f"{word}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        labels = bytes(row % 10 for row in range(len(pixels)))
        (folder / f"{word}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big") + len(pixels).to_bytes(4, "big") + labels
        )
    return parts


def house_numbers(root: Path) -> dict[str, np.ndarray]:
    root.mkdir(parents=True)
    parts = {"train": arrays(40, 32, 5), "test": arrays(20, 32, 6)}
    for split, pixels in parts.items():
        labels = np.array([[row % 10 or 10] for row in range(len(pixels))], np.uint8)  # 10 stands for 0
        savemat(root / f"{split}_32x32.mat", {"X": pixels.transpose(2, 3, 1, 0), "y": labels})
    return parts


def stl(root: Path) -> dict[str, np.ndarray]:
    folder = root / "stl10_binary"
    folder.mkdir(parents=True)
    parts = {"train": arrays(20, 96, 7), "test": arrays(20, 96, 8)}
    for split, pixels in parts.items():
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 1, 3, 2).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(row % 10 + 1 for row in range(len(pixels))))
    (folder / "unlabeled_X.bin").write_bytes(b"")
    text(folder / "class_names.txt", [f"class {place:02d}" for place in range(10)])
    return parts


ARRAYS: dict[str, tuple[Callable[[Path], dict[str, np.ndarray]], str]] = {
    "CIFAR10": (cifar10, "class 01"),
    "CIFAR100": (cifar100, "class 01"),
    "FashionMNIST": (lambda root: digits(root, "FashionMNIST"), "Trouser"),
    "MNIST": (lambda root: digits(root, "MNIST"), "1 - one"),
    "STL10": (stl, "class 01"),
    "SVHN": (house_numbers, "1"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_of_torchvision_are_images_without_loss(tmp_path: Path, name: str) -> None:
    make, second = ARRAYS[name]
    parts = make(tmp_path / "data")
    config = DataConfig(root=f"torchvision:{name}", folder=str(tmp_path / "data"), download=False)
    source = open_source(config)
    assert len(source.classes) == (100 if name == "CIFAR100" else 10)
    assert source.classes[1] == second
    start = 0
    for split, pixels in parts.items():
        for row in (0, 1, 13, len(pixels) - 1):
            item, image = source.items[start + row], np.asarray(source.decode(start + row))
            assert (item.name, item.label, item.split) == (f"{split}/{row}", row % len(source.classes), split)
            np.testing.assert_array_equal(image, np.broadcast_to(pixels[row].transpose(1, 2, 0), image.shape))
        start += len(pixels)
    assert len(source.items) == start
    assert len({source.key(index) for index in range(start)}) == start
    folder = tmp_path / "folder"
    for index, item in enumerate(source.items):
        target = folder / str(item.split) / source.classes[item.label].replace("/", "-") / f"{index}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        source.decode(index).save(target)
    if "/" not in "".join(source.classes):
        require_same(DataConfig(root=str(folder)), config)


def test_every_set_that_is_known_is_tried_here() -> None:
    assert sorted(SETS) == sorted([*FILES, *ARRAYS, "RenderedSST2"])
    assert all(hasattr(torchvision.datasets, name) for name in SETS)


def test_unknown_name_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root="torchvision:Flower102"))
    assert str(caught.value) == (
        "data.root 'torchvision:Flower102' is no data set that is known: did you mean 'Flowers102'?"
    )
    with pytest.raises(DataError, match=r"is no data set that is known: give one of CIFAR10, CIFAR100, Caltech101, "):
        open_source(DataConfig(root="torchvision:"))


def test_download_is_tried_only_where_it_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def no_network(request: Any, *_: object, **__: object) -> None:  # noqa: ANN401 - as urllib
        asked.append(getattr(request, "full_url", request))
        raise URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    config = DataConfig(root="torchvision:DTD", folder=str(tmp_path / "data"), download=False)
    with pytest.raises(DataError) as caught:
        open_source(config)
    assert str(caught.value) == (
        f"torchvision:DTD is not whole in {tmp_path}/data (Dataset not found. You can use download=True to download "
        "it), and data.download is false: set it to true, or mend data.folder"
    )
    assert not asked
    with pytest.raises(DataError) as caught:
        open_source(DataConfig(root="torchvision:DTD", folder=str(tmp_path / "data")))
    assert str(caught.value) == (
        f"torchvision:DTD is not whole in {tmp_path}/data and cannot be downloaded (<urlopen error no network>): "
        "put its files there as torchvision lays them out, or mend data.folder"
    )
    assert asked


def test_checksum_that_is_wrong_is_refused_before_anything_is_unpickled(tmp_path: Path) -> None:
    cifar10(tmp_path)
    with pytest.raises(DataError, match=r"^torchvision:CIFAR10 is not whole in .* \(Dataset not found or corrupted\."):
        TorchvisionSource("torchvision:CIFAR10", tmp_path, download=False)


def test_files_are_read_when_they_are_needed_and_bad_ones_can_be_skipped(photo_folder: Path, tmp_path: Path) -> None:
    food(tmp_path / "data", entries_of(photo_folder))
    bad = sorted((tmp_path / "data/food-101/images/red").iterdir())[0]
    bad.write_bytes(b"no image")
    config = DataConfig(root="torchvision:Food101", folder=str(tmp_path / "data"), download=False)
    found = load(config, GEOMETRY, cache=False, on_bad_image="skip")
    assert list(found.skipped) == [f"food-101/images/red/{bad.name}"]
    source = open_source(config)
    assert isinstance(source, TorchvisionSource)
    before = source.listing()
    bad.write_bytes(b"another size")
    assert source.listing() != before


def test_folder_of_a_set_is_no_part_of_what_a_run_is() -> None:
    here, there = (Config(data=DataConfig(root="torchvision:DTD", folder=name)) for name in ("a", "b"))
    assert here.identity() == there.identity()
    assert here.resolved().data.folder == str(Path("a").resolve())
    assert here.untrained().data.folder == "a"
    assert here.experiment == "DTD-glyphnet"
    assert here.identity() != Config(data=DataConfig(root="torchvision:Food101")).identity()
    assert Config().resolved().data.folder == "data"
