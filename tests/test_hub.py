"""Data sets of the hub as sources: small parquet files in its format, its splits by name; no network."""

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blurtrain import hub_sets
from blurtrain.config import Config, DataConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError
from blurtrain.hub_sets import HubSource
from blurtrain.images import load
from blurtrain.opening import open_source
from tests.alike import entries_of, require_same
from tests.conftest import photograph
from tests.test_manifests import write
from tests.test_shards import shard_folder

datasets = pytest.importorskip("datasets")  # an extra

GEOMETRY = Geometry(24, 20)
KINDS = ("blue", "green", "red")
Entries = Sequence[tuple[Path, str, str]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")


def table_of(entries: Entries, names: Sequence[str] | None = KINDS) -> Any:  # noqa: ANN401 - a datasets.Dataset
    label = datasets.Value("string") if names is None else datasets.ClassLabel(names=list(names))
    rows = [
        {
            "image": {"bytes": path.read_bytes(), "path": path.name},
            "label": kind if names is None else list(names).index(kind),
            "note": "x",
        }
        for path, kind, _ in entries
    ]
    columns = {name: [row[name] for row in rows] for name in ("image", "label", "note")}
    features = {"image": datasets.Image(), "label": label, "note": datasets.Value("string")}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def parquet_of(folder: Path, target: Path, *, split: bool, names: Sequence[str] = KINDS) -> str:
    """The images of a folder in parquet files, called as on the hub."""
    target.mkdir()
    for word in ("train", "val", "test") if split else ("",):
        entries = [entry for entry in entries_of(folder) if entry[2] == word]
        for number, part in enumerate(filter(None, (entries[:7], entries[7:]))):
            name = {"val": "validation", "": "train"}.get(word, word)
            table_of(part, names).to_parquet(target / f"{name}-{number:05d}-of-00002.parquet")
    return f"hf:{target}/*.parquet"


def test_split_folders_and_the_hubs_parquet_are_the_same_images(photo_folder: Path, tmp_path: Path) -> None:
    for path in sorted((photo_folder / "train").rglob("[67].*")):
        target = photo_folder / "val" / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    config = DataConfig(root=parquet_of(photo_folder, tmp_path / "hub", split=True))
    found = require_same(DataConfig(root=str(photo_folder)), config)
    assert found.classes == KINDS
    assert len(found.validation) == 6
    source = open_source(config)
    path, kind, _ = next(entry for entry in entries_of(photo_folder) if entry[2] == "test")
    index = next(index for index, item in enumerate(source.items) if item.split == "test")
    assert source.key(index) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source.items[index].name == f"test/0/{path.name}"
    assert KINDS[source.items[index].label] == kind


def test_class_folders_and_the_hubs_parquet_are_split_alike(class_folder: Path, tmp_path: Path) -> None:
    root = parquet_of(class_folder, tmp_path / "hub", split=False)
    require_same(DataConfig(root=str(class_folder)), DataConfig(root=root))
    source = open_source(DataConfig(root=root))
    assert list(source.notes) == [f"note: all files of {root} are called train: their images are split by content"]


# What lies where: class, split and format of each image, whose pixels are drawn by its place in the list.
ENTRIES = st.lists(
    st.tuples(st.sampled_from(KINDS), st.sampled_from(("train", "val", "test")), st.sampled_from((".jpg", ".png"))),
    max_size=8,
)


@settings(max_examples=6, suppress_health_check=list(HealthCheck))
@given(more=ENTRIES, split=st.booleans(), per_shard=st.integers(1, 9), absolute=st.booleans(), data=st.data())
def test_any_images_are_the_same_through_every_source(
    tmp_path_factory: pytest.TempPathFactory,
    more: list[tuple[str, str, str]],
    split: bool,
    per_shard: int,
    absolute: bool,
    data: st.DataObject,
) -> None:
    root = tmp_path_factory.mktemp("alike")
    needed = [(kind, word, ".png") for kind in KINDS for word in ("train", "test")]
    for number, (kind, word, suffix) in enumerate([*needed, *more]):
        place = root / "photos" / (word if split else "") / kind / f"{number}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        photograph(KINDS.index(kind), number).save(place)
    photos = root / "photos"
    rows = [
        (str(path if absolute else path.relative_to(photos)), kind, *([word] if split else []))
        for path, kind, word in data.draw(st.permutations(entries_of(photos)))
    ]
    header = ("path", "label", "split")[: 3 if split else 2]
    for suffix in (".csv", ".parquet"):
        table = write(photos / f"labels{suffix}", [header, *rows])
        require_same(DataConfig(root=str(photos)), DataConfig(root=str(table)))
    shard_folder(photos, root / "shards", split=split, per_shard=per_shard)
    names = ",".join(sorted(path.stem for path in (root / "shards").iterdir()))
    pattern = f"{root}/shards/{{{names}}}.tar" if "," in names else f"{root}/shards/{names}.tar"
    require_same(DataConfig(root=str(photos)), DataConfig(root=pattern))
    require_same(DataConfig(root=str(photos)), DataConfig(root=parquet_of(photos, root / "hub", split=split)))


def test_labels_may_be_texts(class_folder: Path, tmp_path: Path) -> None:
    table_of(entries_of(class_folder), None).to_parquet(tmp_path / "mine.parquet")
    found = require_same(DataConfig(root=str(class_folder)), DataConfig(root=f"hf:{tmp_path}/mine.parquet"))
    assert found.classes == KINDS


def test_names_of_the_hub_give_its_splits(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    entries = entries_of(photo_folder)
    parts = {word: table_of([entry for entry in entries if entry[2] == word]) for word in ("train", "test")}
    whole = {**parts, "extra": parts["test"], "validation": table_of(entries[:3])}

    def answer(name: str) -> Any:  # noqa: ANN401
        asked.append((name, datasets.config.HF_HUB_OFFLINE))
        return answers[name]

    answers = {"owner/whole": whole, "one": {"train": table_of(entries)}, "odd": {"a": parts["train"], "b": whole}}
    monkeypatch.setattr(datasets, "load_dataset", answer)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    source = HubSource("hf:owner/whole", download=False)
    assert [item.split for item in source.items] == ["train"] * 24 + ["validation"] * 3 + ["test"] * 15
    assert source.notes == ["note: extra beside the splits of hf:owner/whole is left out"]
    assert {item.split for item in HubSource("hf:one").items} == {None}
    assert asked == [("owner/whole", True), ("one", False)]
    assert not datasets.config.HF_HUB_OFFLINE
    assert [item.split for item in HubSource("hf:owner/whole", trained=False).items] == ["test"] * 15
    assert {item.split for item in HubSource("hf:one", trained=False).items} == {"test"}
    with pytest.raises(DataError, match=r"^hf:odd has the splits a, b: train and test, or one alone, are needed$"):
        HubSource("hf:odd")


def test_two_splits_of_one_meaning_are_refused(photo_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = table_of(entries_of(photo_folder))
    monkeypatch.setattr(datasets, "load_dataset", lambda *_: {"train": part, "valid": part, "validation": part})
    with pytest.raises(DataError, match=r"^hf:x has the splits train, valid, validation, two of which mean the same"):
        HubSource("hf:x")


def test_labels_beyond_the_classes_and_blank_ones_are_refused(class_folder: Path, tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table_of(entries_of(class_folder)).to_parquet(tmp_path / "classes.parquet")
    stored = parquet.read_table(tmp_path / "classes.parquet")
    place, field = stored.column_names.index("label"), stored.schema.field("label")
    labels = pyarrow.array([0, 1, 2, *[3] * (len(stored) - 3)], field.type)
    parquet.write_table(stored.set_column(place, field, labels), tmp_path / "classes.parquet")
    with pytest.raises(DataError, match=r"^row 4 of hf:.*, column label has label 3 of 3 classes: mend it$"):
        HubSource(f"hf:{tmp_path}/classes.parquet")
    entries = entries_of(class_folder)
    rows = [(path, " " if number == 5 else label, "") for number, (path, label, _) in enumerate(entries)]
    table_of(rows, None).to_parquet(tmp_path / "texts.parquet")
    with pytest.raises(DataError, match=r"^row 6 of hf:.*, column label has no label: remove it, or give one$"):
        HubSource(f"hf:{tmp_path}/texts.parquet")


def test_split_without_labels_is_left_out_in_words(photo_folder: Path, tmp_path: Path) -> None:
    entries = entries_of(photo_folder)
    table_of([entry for entry in entries if entry[2] == "train"]).to_parquet(tmp_path / "train.parquet")
    hidden = table_of([entry for entry in entries if entry[2] == "test"]).to_dict()
    features = table_of(entries[:1]).features
    for name, labels in (("test", [-1] * 15), ("validation", [0] * 14 + [-1])):
        datasets.Dataset.from_dict({**hidden, "label": labels}, features=features).to_parquet(
            tmp_path / f"{name}.parquet"
        )
    with pytest.raises(DataError, match=r"^row 15 of hf:.* in the split validation, column label has no label: remove"):
        HubSource(f"hf:{tmp_path}/*.parquet")
    (tmp_path / "validation.parquet").unlink()
    with pytest.raises(DataError, match=r"has no images of the split 'test' \(it has train\)"):
        HubSource(f"hf:{tmp_path}/*.parquet")


def test_damaged_image_can_be_skipped(class_folder: Path, tmp_path: Path) -> None:
    bad = entries_of(class_folder)[3][0]
    bad.write_bytes(bad.read_bytes()[:100])
    table_of(entries_of(class_folder)).to_parquet(tmp_path / "mine.parquet")
    config = DataConfig(root=f"hf:{tmp_path}/mine.parquet")
    with pytest.raises(DataError, match=rf"^3/{bad.name} (cannot be decoded|is no image).*: mend or remove it"):
        load(config, GEOMETRY, cache=False)
    assert list(load(config, GEOMETRY, cache=False, on_bad_image="skip").skipped) == [f"3/{bad.name}"]


COLUMNS: dict[str, tuple[dict[str, Any], str]] = {
    "no image": (
        {"label": datasets.ClassLabel(names=["a", "b"]), "text": datasets.Value("string")},
        "needs an image column and has none (it has label: ClassLabel, text: string): give one called image or img",
    ),
    "no label": (
        {"image": datasets.Image(), "caption": datasets.Value("string")},
        "needs a label column and has none (it has image: Image, caption: string): give one called label or labels",
    ),
    "two labels": (
        {"img": datasets.Image(), "fine": datasets.ClassLabel(names=["a"]), "coarse": datasets.ClassLabel(names=["b"])},
        "needs a label column and has 2 of them and none called label or labels (it has img: Image, fine: ClassLabel, "
        "coarse: ClassLabel): give one called label or labels",
    ),
    "fractions": (
        {"image": datasets.Image(), "label": datasets.Value("float32")},
        "needs a label column and has none (it has image: Image, label: float32): give one called label or labels",
    ),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_columns_that_do_not_say_what_is_an_image_are_listed(tmp_path: Path, case: str, class_folder: Path) -> None:
    features, sentence = COLUMNS[case]
    data = entries_of(class_folder)[0][0].read_bytes()
    values = {"Image": {"bytes": data, "path": None}, "ClassLabel": 0, "string": "x", "float32": 0.5}
    columns = {name: [values[hub_sets._kind(feature)]] for name, feature in features.items()}
    table = datasets.Dataset.from_dict(columns, features=datasets.Features(features))
    table.to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(DataError) as caught:
        HubSource(f"hf:{tmp_path}/mine.parquet")
    assert str(caught.value) == f"hf:{tmp_path}/mine.parquet {sentence}"


def test_library_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.parquet").touch()
    monkeypatch.setitem(sys.modules, "datasets", None)
    for root in (f"hf:{tmp_path}/a.parquet", "hf:owner/name"):
        with pytest.raises(DataError) as caught:
            open_source(DataConfig(root=root))
        assert str(caught.value) == f"data.root '{root}' needs the library datasets: pip install 'blurtrain[datasets]'"


def test_what_is_no_data_set_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "a.parquet").write_bytes(b"no parquet")
    for root, sentence in {
        f"hf:{tmp_path}/*.parquet/none": f"hf:{tmp_path}/*.parquet/none names no parquet files: give hf:FOLDER/*.parq",
        "hf:none/*.parquet": "hf:none/*.parquet names no parquet files: give hf:FOLDER/*.parquet, or hf:NAME",
        "hf:a/b/c": "hf:a/b/c is no name of the hub: give hf:OWNER/NAME, or hf:FOLDER/*.parquet",
        "hf:": "hf: is no name of the hub: give hf:OWNER/NAME, or hf:FOLDER/*.parquet",
        "hf:photos": "hf:photos is the name of a place here: give data.root 'photos' for that, or start elsewhere",
        "hf:owner/none": "hf:owner/none cannot be loaded (Couldn't reach ",
        "hf:a.parquet": "hf:a.parquet cannot be loaded (",
    }.items():
        with pytest.raises(DataError) as caught:
            open_source(DataConfig(root=root))
        assert str(caught.value).startswith(sentence)
        assert "\n" not in str(caught.value)


def test_experiments_are_called_like_their_sets(tmp_path: Path) -> None:
    for root, name in {"hf:owner/birds": "birds", f"hf:{tmp_path}/cars/*.parquet": "cars"}.items():
        config = Config(data=DataConfig(root=root))
        assert config.experiment == f"{name}-glyphnet"
        assert config.resolved() == config.resolved().resolved()


def test_a_relative_pattern_means_the_same_wherever_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Config(data=DataConfig(root="hf:a/*.parquet")).resolved().data.root == f"hf:{tmp_path}/a/*.parquet"
    assert Config(data=DataConfig(root="hf:a/b")).resolved().data.root == "hf:a/b"
    assert Config(data=DataConfig(root="t-{0..3}.tar")).resolved().data.root == f"{tmp_path}/t-{{0..3}}.tar"
