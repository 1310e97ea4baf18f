"""Images looked at before training: what is planted is found and nothing else, and what is left is clean."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance
from scipy.fft import dctn

from blurtrain import lookalikes, sources
from blurtrain.check_report import effective, table
from blurtrain.checking import COLUMNS, check_data
from blurtrain.cli import main
from blurtrain.config import Config, DataConfig, HeadConfig
from blurtrain.decoding import Geometry, decode
from blurtrain.errors import ConfigError, DataError
from blurtrain.findings import PROBLEM, SEVERITY
from blurtrain.images import folds, load
from blurtrain.lookalikes import Candidates, Links, correlation, near_pairs, print_of, small
from tests.alike import entries_of
from tests.test_manifests import write_csv
from tests.test_shards import shard_folder

PHOTOS = Path(__file__).parents[2] / "shared" / "data" / "hymenoptera"
GEOMETRY = Geometry(64, 64)  # of the embedded network
Row = tuple[str, str, str]  # finding, path, other path
TABLE = "check-set-glyphnet.csv"


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """A smooth picture unlike that of any other seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def fill(root: Path, counts: dict[str, int]) -> Path:
    """Folders of so many pictures, all different: {"train/cat": 6}."""
    for turn, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for number in range(count):
            scene(1000 * turn + number).save(root / folder / f"{number}.png")
    return root


def config_of(root: Path | str, folder: Path, folds: int = 2) -> Config:
    head = replace(HeadConfig(), folds=folds)
    return Config(data=DataConfig(root=str(root)), head=head, runs=folder / "runs", cache=folder / "cache")


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        reader = csv.DictReader(opened, strict=True)
        rows = list(reader)
    assert reader.fieldnames == list(COLUMNS)
    return rows


def found_in(root: Path | str, folder: Path, folds: int = 2) -> list[Row]:
    """Everything that a check finds, as its table of findings has it."""
    checked = check_data(config_of(root, folder, folds))
    rows = rows_of(checked.out)
    assert all(row["severity"] == SEVERITY[row["finding"]] for row in rows)
    assert checked.is_fit == all(row["severity"] != PROBLEM for row in rows)
    return [(row["finding"], row["path"], row["other path"]) for row in rows]


# near duplicates: the hash, and the index that finds pairs


@pytest.mark.parametrize("seed", range(5))
def test_the_hash_is_the_low_frequencies_of_a_dct(seed: int) -> None:
    image = scene(seed)
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), float)
    low = dctn(grey, norm="ortho")[:8, :8].ravel()
    bits = "".join("1" if value > np.median(low[1:]) else "0" for value in low)
    assert f"{print_of(image).hash:064b}" == bits


@st.composite
def close_hashes(draw: st.DrawFn) -> list[int]:
    """A few random hashes and others that differ from them in some bits."""
    found: list[int] = draw(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=5))
    for _ in range(draw(st.integers(0, 25))):
        bits = draw(st.sets(st.integers(0, 63), max_size=9))
        found.append(draw(st.sampled_from(found)) ^ sum(1 << bit for bit in bits))
    return found


def pairs_of(candidates: Candidates) -> list[tuple[int, int]]:
    """All of them, the lower place first."""
    return [(min(pair), max(pair)) for some in candidates for pair in some.tolist()]


def close(one: int, other: int) -> bool:
    return (one ^ other).bit_count() <= lookalikes.MOST_BITS


@given(close_hashes())
@example([0, sum(1 << bit for bit in range(0, 48, 8))])  # each differing bit as far from the others as may be
def test_the_index_finds_every_pair_that_comparing_all_finds(hashes: list[int]) -> None:
    distinct = sorted(set(hashes))
    expected = [[i, j] for i, j in combinations(range(len(distinct)), 2) if close(distinct[i], distinct[j])]
    assert near_pairs(np.array(distinct, np.uint64)).tolist() == expected


@given(close_hashes(), st.data())
def test_equal_hashes_are_candidates_too(hashes: list[int], data: st.DataObject) -> None:
    hashes = [*hashes, *data.draw(st.lists(st.sampled_from(hashes), max_size=6))]
    candidates = Candidates(np.array(hashes, np.uint64))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(lookalikes, "PAIRS_AT_ONCE", data.draw(st.integers(1, 9)))
        found = pairs_of(candidates)
    assert sorted(found) == [(i, j) for i, j in combinations(range(len(hashes)), 2) if close(hashes[i], hashes[j])]
    assert len(candidates) == len(found)


def groups_of(pairs: Iterable[tuple[int, int]]) -> set[frozenset[int]]:
    """Images that pairs join, by merging sets until nothing changes."""
    groups: list[set[int]] = []
    for pair in pairs:
        met = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if group not in met] + [set(pair).union(*met)]
    return {frozenset(group) for group in groups}


Alike = tuple[list[int], list[int], list[tuple[int, int]]]


@st.composite
def alike_images(draw: st.DrawFn) -> Alike:
    """Splits and labels of a few images, and which pairs of them look the same, in some order."""
    count = draw(st.integers(2, 9))
    splits = draw(st.lists(st.integers(0, 4), min_size=count, max_size=count))
    labels = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    order = draw(st.permutations(list(combinations(range(count), 2))))
    turned = [pair if draw(st.booleans()) else (pair[1], pair[0]) for pair in order]
    return splits, labels, turned[: draw(st.integers(0, len(turned)))]


@given(alike_images())
def test_as_many_pairs_are_told_as_leave_nothing_unsaid(images: Alike) -> None:
    splits, labels, pairs = images
    sides = [min(split, 2) for split in splits]
    links = Links(np.array(sides), np.array(splits), np.array(labels))
    told = []
    for pair in pairs:
        is_open = links.open(np.array([pair])).item()
        assert links.is_open(*pair) == is_open
        if is_open:
            links.add(*pair)
            told.append(pair)
        assert not links.is_open(*reversed(pair))
    for kind in (False, True):
        some, every = ([p for p in of if (labels[p[0]] != labels[p[1]]) == kind] for of in (told, pairs))
        for side in range(3):
            within, of_all = ([p for p in of if sides[p[0]] == sides[p[1]] == side] for of in (some, every))
            groups = groups_of(of_all)
            assert groups_of(within) == groups
            assert len(within) == sum(len(group) - 1 for group in groups)
        across, wanted = ([p for p in of if sides[p[0]] != sides[p[1]]] for of in (some, every))
        named = {(image, splits[other]) for p in wanted for image, other in (p, p[::-1])}
        for place, pair in enumerate(across):  # each tells something that was not yet said
            before = {(image, splits[other]) for p in across[:place] for image, other in (p, p[::-1])}
            assert not before.issuperset((image, splits[other]) for image, other in (pair, pair[::-1]))
        assert {(image, splits[other]) for p in across for image, other in (p, p[::-1])} == named


def test_many_images_that_look_alike_have_a_row_each(tmp_path: Path) -> None:
    """And not one for each pair, nor a comparison for each: of two clips from a fixed camera."""
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    for split, count in (("train", 60), ("test", 20)):
        for number in range(count):
            frame(number, 255 if split == "train" else 128).save(root / split / "a" / f"frame{number}.png")
    kinds = Counter(kind for kind, *_ in found_in(root, tmp_path))
    assert kinds.keys() == {"near duplicate across splits", "near duplicate within a split"}
    assert kinds["near duplicate within a split"] == 59 + 19
    assert 60 <= kinds["near duplicate across splits"] < 60 + 20
    for number in range(4):
        frame(number, 64).save(root / "train" / "b" / f"frame{number}.png")
    rows = rows_of(check_data(config_of(root, tmp_path)).out)
    conflicts = [row for row in rows if "and class" in row["detail"]]
    within = [row for row in conflicts if row["finding"] == "near duplicate within a split"]
    assert len(within) == 60 + 4 - 1
    across = {row["path"] for row in conflicts if row["finding"] == "near duplicate across splits"}
    assert across == {f"train/b/frame{number}.png" for number in range(4)}


def frame(number: int, changed: int) -> Image.Image:
    """A picture that differs from others of its kind in a pixel."""
    pixels = np.array(scene(9000))
    pixels[number // 90, number % 90] ^= changed
    return Image.fromarray(pixels)


def test_every_split_and_image_that_has_a_look_alike_is_named(tmp_path: Path) -> None:
    """A further test set is its own: that the test split has look-alikes says nothing of it."""
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    fill(tmp_path / "more", {"none": 0, "phone/a": 0, "no": 0, "phone/b": 0})
    scene(9100).save(tmp_path / "more" / "phone" / "b" / "new.png")
    places = {"train": root / "train", "test": root / "test", "phone": tmp_path / "more" / "phone"}
    for turn, place in enumerate(places.values()):
        for number in range(3):
            frame(3 * turn + number, 255).save(place / "a" / f"frame{number}.png")
    config = replace(config_of(root, tmp_path), extra_tests={"phone": str(places["phone"])})
    rows = rows_of(check_data(config).out)
    across = [row for row in rows if row["finding"] == "near duplicate across splits"]
    others = {(row["path"], row["other path"].split("/")[0]) for row in across}
    assert others == {(f"train/a/frame{number}.png", split) for number in range(3) for split in ("test", "phone")}
    named = {row["other path"] for row in across}
    assert named == {f"{split}/a/frame{number}.png" for number in range(3) for split in ("test", "phone")}
    assert all(f"as one in {row['other path'].split('/')[0]} (" in row["detail"] for row in across)


def test_correlation_is_that_of_numpy_and_nothing_for_a_plain_picture() -> None:
    one, other = small(scene(1)), small(scene(2))
    assert correlation(one, other) == pytest.approx(np.corrcoef(one.ravel(), other.ravel())[0, 1])
    assert correlation(one, np.full_like(one, 7)) == 0


def test_a_plain_picture_is_flat() -> None:
    assert print_of(Image.new("RGB", (40, 30), (10, 20, 30))).is_flat
    assert not print_of(scene(1)).is_flat


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return decode(file.getvalue())


@pytest.mark.slow
@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photographs of ../shared beside the repository")
def test_copies_of_photographs_are_found_and_other_photographs_are_not() -> None:
    images = [decode(path.read_bytes()) for path in sorted(PHOTOS.rglob("*")) if path.is_file()]
    copies = [
        jpeg(ImageEnhance.Brightness(image.resize((image.width // 2, image.height // 2))).enhance(1.1), 50)
        for image in images
    ]
    hashes = np.array([print_of(image).hash for image in [*images, *copies]], np.uint64)
    pictures = [small(image) for image in [*images, *copies]]
    near = {
        pair
        for pair in pairs_of(Candidates(hashes))
        if correlation(pictures[pair[0]], pictures[pair[1]]) >= lookalikes.LEAST_CORRELATION
    }
    assert near == {(i, i + len(images)) for i in range(len(images))}


# what is planted is found, and nothing else


def test_a_clean_tree_is_clean(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 5, "train/b": 5, "val/a": 3, "val/b": 3, "test/a": 3, "test/b": 3})
    assert found_in(root, tmp_path) == []


def test_the_embedded_images_are_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["check-data", "--data.glyphs.train", "600", "--data.glyphs.test", "200"]) == 0
    assert rows_of(Path("runs/check-glyphs-glyphnet.csv")) == []


def test_planted_faults_are_found_and_nothing_else(tmp_path: Path) -> None:
    root = fill(
        tmp_path / "set",
        {"train/a": 6, "train/b": 6, "test/a": 5, "test/b": 5, "test/c": 2, "train/few": 4, "train/odd": 5},
    )
    (root / "train" / "none").mkdir()
    (root / "test" / "few").mkdir()
    whole = (root / "train" / "a" / "0.png").read_bytes()
    (root / "train" / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "test" / "b" / "page.jpg").write_text("<html>404</html>")
    Image.open(root / "test" / "a" / "0.png").save(root / "train" / "a" / "leak.bmp")
    Image.open(root / "train" / "b" / "1.png").save(root / "train" / "b" / "again.tif")
    Image.open(root / "train" / "a" / "2.png").save(root / "train" / "b" / "conflict.png")
    near: Image.Image = Image.open(root / "test" / "b" / "3.png")
    near.resize((240, 180)).save(root / "train" / "b" / "near.jpg", quality=50)
    near = ImageEnhance.Brightness(Image.open(root / "train" / "a" / "4.png")).enhance(1.1)
    near.save(root / "train" / "a" / "near.png")
    scene(8001).save(root / "train" / "a" / "renamed.jpg", "PNG")
    scene(8002, (80, 63)).save(root / "train" / "a" / "small.png")
    scene(8003, (400, 90)).save(root / "train" / "a" / "long.png")
    scene(8004).convert("L").save(root / "train" / "a" / "grey.png")
    scene(8005).convert("CMYK").save(root / "train" / "a" / "ink.jpg")
    scene(8006).convert("P").save(root / "train" / "a" / "palette.png")
    deep = np.asarray(scene(8007).convert("L")).astype(np.uint16) * 257
    Image.fromarray(deep).save(root / "train" / "a" / "deep.png")
    scene(8008).convert("RGBA").save(root / "train" / "a" / "clear.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    scene(8009).save(root / "train" / "a" / "turned.jpg", exif=turned)
    scene(8010).save(root / "train" / "a" / "moving.webp", save_all=True, append_images=[scene(8011)])

    a, b = "train/a", "train/b"
    found = found_in(root, tmp_path, folds=5)
    classes = {(row["finding"], row["split"], row["class"]) for row in rows_of(config_of(root, tmp_path).runs / TABLE)}
    assert {row for row in classes if "class" in row[0] or "folds" in row[0]} == {
        ("empty class", "train", "none"),
        ("empty class", "train", "c"),
        ("empty class", "test", "few"),
        ("class missing from split", "test", "odd"),
        ("fewer than head.folds", "train", "few"),
    }
    assert sorted(found) == sorted(
        [
            ("unreadable", f"{a}/cut.png", ""),
            ("unreadable", "test/b/page.jpg", ""),
            ("duplicate across splits", f"{a}/leak.bmp", "test/a/0.png"),
            ("label conflict", f"{a}/2.png", f"{b}/conflict.png"),
            ("label conflict", f"{b}/conflict.png", f"{a}/2.png"),
            ("empty class", "", ""),  # none
            ("empty class", "", ""),  # c
            ("empty class", "", ""),  # few, whose folder in test is left empty
            ("class missing from split", "", ""),  # odd
            ("fewer than head.folds", "", ""),  # few
            ("near duplicate across splits", f"{b}/near.jpg", "test/b/3.png"),
            ("near duplicate within a split", f"{a}/4.png", f"{a}/near.png"),
            ("duplicate within a split", f"{b}/again.tif", f"{b}/1.png"),
            ("suffix does not fit", f"{a}/renamed.jpg", ""),
            ("smaller than the network", f"{a}/small.png", ""),
            ("elongated", f"{a}/long.png", ""),
            ("grey", f"{a}/grey.png", ""),
            ("grey", f"{a}/deep.png", ""),
            ("16-bit", f"{a}/deep.png", ""),
            ("CMYK", f"{a}/ink.jpg", ""),
            ("palette", f"{a}/palette.png", ""),
            ("alpha", f"{a}/clear.png", ""),
            ("EXIF-turned", f"{a}/turned.jpg", ""),
            ("several frames", f"{a}/moving.webp", ""),
        ]
    )


def test_the_reason_split_and_class_of_a_bad_image_are_told(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    (root / "test" / "b" / "page.jpg").write_text("<html>404</html>")
    (row,) = rows_of(check_data(config_of(root, tmp_path)).out)
    with pytest.raises(DataError) as reason:
        decode((root / "test" / "b" / "page.jpg").read_bytes())
    assert list(row.values()) == ["unreadable", "problem", "test", "b", "test/b/page.jpg", "", str(reason.value)]


def test_a_near_duplicate_of_a_duplicate_is_told_on_both_sides(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    picture = Image.open(root / "train" / "a" / "0.png")
    picture.save(root / "test" / "a" / "same.png")
    picture.resize((240, 180)).save(root / "train" / "a" / "large.png")
    assert found_in(root, tmp_path) == [
        ("duplicate across splits", "train/a/0.png", "test/a/same.png"),
        ("near duplicate across splits", "train/a/large.png", "test/a/same.png"),
        ("near duplicate within a split", "train/a/0.png", "train/a/large.png"),
    ]


def test_a_rare_format_is_told_and_a_common_kind_once(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 40, "train/b": 3, "test/a": 20, "test/b": 2})
    for path in root.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    scene(9000).convert("L").save(root / "test" / "a" / "odd.bmp")
    assert found_in(root, tmp_path) == [("rare format", "test/a/odd.bmp", ""), ("grey", "", "")]


def test_a_validation_split_takes_the_place_of_folds(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 1, "train/b": 3, "val/a": 1, "val/b": 1, "test/a": 1, "test/b": 1})
    assert found_in(root, tmp_path, folds=5) == []
    (root / "val").rename(root / "left out")
    Image.open(root / "train" / "a" / "0.png").save(root / "train" / "a" / "copy.bmp")
    kinds = [kind for kind, *_ in found_in(root, tmp_path, folds=5)]
    # a, all, b; two files of one picture are one
    assert kinds == ["too few to train", "too few to train", "fewer than head.folds", "duplicate within a split"]


def test_of_further_test_sets_their_own_copy_gives_way(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    fill(tmp_path / "more", {"none": 0, "phone/a": 0, "no": 0, "phone/b": 0})
    for split, number in (("train", 0), ("test", 1)):
        Image.open(root / split / "a" / f"{number}.png").save(tmp_path / "more" / "phone" / "a" / f"{split}.bmp")
    scene(9000).save(tmp_path / "more" / "phone" / "b" / "new.png")
    config = replace(config_of(root, tmp_path), extra_tests={"phone": str(tmp_path / "more" / "phone")})
    (row,) = rows_of(check_data(config).out)
    assert (row["finding"], row["split"]) == ("duplicate across splits", "phone")
    assert (row["path"], row["other path"]) == ("phone/a/train.bmp", "train/a/0.png")


def test_a_copy_of_what_is_tested_is_no_copy_of_what_is_trained_on(tmp_path: Path) -> None:
    """The training image gives way to the test image, so the further test set may keep its own."""
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    fill(tmp_path / "more", {"none": 0, "phone/a": 0, "no": 0, "phone/b": 0})
    for place in (root / "train" / "a" / "leak.png", tmp_path / "more" / "phone" / "a" / "same.png"):
        Image.open(root / "test" / "a" / "0.png").save(place)
    scene(9000).save(tmp_path / "more" / "phone" / "b" / "new.png")
    config = replace(config_of(root, tmp_path), extra_tests={"phone": str(tmp_path / "more" / "phone")})
    rows = [(row["finding"], row["path"], row["other path"]) for row in rows_of(check_data(config).out)]
    assert rows == [("duplicate across splits", "train/a/leak.png", "test/a/0.png")]
    used = load(config.data, GEOMETRY, cache=False, extra_tests=config.extra_tests)
    assert len(used.train) == 6
    assert [len(found) for found in used.extra_tests.values()] == [2]


def test_all_sources_of_the_same_images_have_the_same_findings(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 6, "train/b": 5, "test/a": 3, "test/b": 3})
    Image.open(root / "test" / "a" / "0.png").save(root / "train" / "a" / "leak.png")
    (root / "train" / "b" / "cut.png").write_bytes((root / "train" / "b" / "0.png").read_bytes()[:300])
    listed = [("path", "label", "split"), *((str(path), *rest) for path, *rest in entries_of(root))]
    shard_folder(root, tmp_path / "shards", split=True)
    pattern = f"{tmp_path}/shards/{{train-{{00..02}},test-{{00..01}}}}.tar"
    for source in (root, write_csv(tmp_path / "list.csv", listed), pattern):
        kinds = [kind for kind, *_ in found_in(source, tmp_path)]
        assert kinds == ["unreadable", "duplicate across splits"]


def test_parquet_of_the_hub_has_the_same_findings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    from tests.test_hub import KINDS, parquet_of

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
    root = fill(tmp_path / "set", {f"{split}/{kind}": 3 for split in ("train", "val", "test") for kind in KINDS})
    Image.open(root / "test" / "red" / "0.png").save(root / "train" / "red" / "leak.png")
    (root / "val" / "red" / "0.png").write_bytes(b"nothing")
    hub = parquet_of(root, tmp_path / "parquet", split=True)
    kinds = [kind for kind, *_ in found_in(root, tmp_path)]
    assert [kind for kind, *_ in found_in(hub, tmp_path)] == kinds == ["unreadable", "duplicate across splits"]
    with pytest.raises(DataError, match=r"are none of their own: mend them where they were made"):
        check_data(config_of(hub, tmp_path), fix_list=tmp_path / "mended.csv")


def test_all_images_bad_is_a_finding(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a", "b"):
        (root / name).mkdir(parents=True)
        (root / name / "bad.png").write_bytes(b"nothing")
    kinds = [kind for kind, *_ in found_in(root, tmp_path)]
    assert kinds == ["unreadable"] * 2 + ["empty split"] + ["empty class"] * 2 + ["too few to train"]


# what is left


Entry = tuple[int, str, str, bool]  # picture, class, split, whether its file is damaged


def expected_left(entries: Sequence[Entry]) -> set[int]:
    """Places of the images that are to be left, by plain sets."""
    good = [i for i, (*_, bad) in enumerate(entries) if not bad]
    labels: dict[int, set[str]] = {}
    splits: dict[int, set[str]] = {}
    for i in good:
        picture, label, split, _ = entries[i]
        labels.setdefault(picture, set()).add(label)
        splits.setdefault(picture, set()).add(split)
    later = {"train": {"val", "test"}, "val": {"test"}, "test": set()}
    left = {i for i in good if len(labels[entries[i][0]]) == 1 and not later[entries[i][2]] & splits[entries[i][0]]}
    while True:
        needed = 1 if any(entries[i][2] == "val" for i in left) else 2
        kept = {
            label
            for label in "abc"
            if len({entries[i][0] for i in left if entries[i][1:3] == (label, "train")}) >= needed
        }
        remaining = {i for i in left if entries[i][1] in kept}
        if remaining == left:
            return left
        left = remaining


@st.composite
def sets(draw: st.DrawFn) -> list[Entry]:
    """A set that would be clean, and faults that are planted."""
    clean = [(n, label, split, False) for n, (label, split) in enumerate(product_of("abc", ("train", "test"), 3))]
    some = st.tuples(
        st.integers(0, 20), st.sampled_from("abc"), st.sampled_from(["train", "val", "test"]), st.booleans()
    )
    return draw(st.permutations([*clean, *draw(st.lists(some, max_size=8))]))


def product_of(labels: str, splits: Sequence[str], times: int) -> list[tuple[str, str]]:
    return [(label, split) for label in labels for split in splits for _ in range(times)]


def planted(entries: Sequence[Entry], root: Path) -> list[Path]:
    found = []
    for place, (picture, label, split, bad) in enumerate(entries):
        path = root / split / label / f"{place}.{'bmp' if place % 2 else 'png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if bad:
            path.write_bytes(b"damaged")
        else:
            scene(picture, (12, 9)).save(path)
        found.append(path)
    return found


@settings(max_examples=40)
@given(sets(), st.booleans())
def test_what_is_left_loads_and_is_clean(
    tmp_path_factory: pytest.TempPathFactory, entries: list[Entry], listed: bool
) -> None:
    folder = tmp_path_factory.mktemp("set")
    paths = planted(entries, folder / "set")
    root = folder / "set"
    if listed:
        rows = [(str(path), label, split) for path, (_, label, split, _) in zip(paths, entries, strict=True)]
        root = write_csv(folder / "list.csv", [("path", "label", "split"), *rows])
    mended = folder / "mended.csv"
    expected = {str(paths[place]) for place in expected_left(entries)}
    try:
        check_data(config_of(root, folder), fix_list=mended)
    except DataError:
        assert not mended.exists()
        kept = {entries[place][1:3] for place in expected_left(entries)}
        assert len({label for label, _ in kept}) < 2 or "test" not in {split for _, split in kept}
        return
    with mended.open(newline="") as file:
        assert {path for path, *_ in list(csv.reader(file))[1:]} == expected
    again = check_data(config_of(mended, folder))
    assert again.is_fit
    assert not {"unreadable", "label conflict"} & {finding.kind for finding in again.checked.findings}
    images = load(DataConfig(root=str(mended)), GEOMETRY, cache=False)
    assert len(images.train) + len(images.validation) + len(images.test) == len(expected)
    if len(images.validation) == 0:
        folds(images, 2)


@pytest.mark.parametrize(
    ("broken", "sentence"),
    [
        ("train/b", "fix_list would have fewer than 2 classes that can be trained: add images, or mend them"),
        ("test", "fix_list would be too short (test: no image is left to test on): add images, or mend them"),
    ],
)
def test_where_too_little_is_left_there_is_no_list(broken: str, sentence: str, tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    for path in (root / broken).rglob("*.png"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError) as error:
        check_data(config_of(root, tmp_path), fix_list=tmp_path / "mended.csv")
    assert str(error.value) == sentence
    assert not (tmp_path / "mended.csv").exists()
    assert {row["finding"] for row in rows_of(tmp_path / "runs" / TABLE)} >= {"unreadable"}


def test_a_set_without_splits_keeps_those_that_training_makes(tmp_path: Path, class_folder: Path) -> None:
    (class_folder / "red" / "cut.png").write_bytes(b"nothing")
    before = load(DataConfig(root=str(class_folder)), GEOMETRY, cache=False, on_bad_image="skip")
    check_data(config_of(class_folder, tmp_path), fix_list=tmp_path / "mended.csv")
    after = load(DataConfig(root=str(tmp_path / "mended.csv")), GEOMETRY, cache=False)
    for split in ("train", "test"):
        np.testing.assert_array_equal(before.ids[getattr(before, split)], after.ids[getattr(after, split)])


def test_images_that_are_no_files_cannot_be_listed(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    shard_folder(root, tmp_path / "shards", split=True)
    for source in (f"{tmp_path}/shards/{{train-{{00..01}},test-00}}.tar", "glyphs"):
        with pytest.raises(DataError, match=r"^fix_list names files, and the images of .* are none of their own: mend"):
            check_data(config_of(source, tmp_path), fix_list=tmp_path / "mended.csv")
    assert not (tmp_path / "runs").exists()


def test_a_list_names_files_without_detours_where_these_lead_to_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    fill(tmp_path / "set", {"a": 5, "b": 5})
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "far" / "c").mkdir()
    for number in range(5):
        scene(9000 + number).save(tmp_path / "far" / "c" / f"{number}.png")
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    rows = [(f"work/../set/{kind}/{number}.png", kind) for kind in "ab" for number in range(5)]
    rows += [("set/a/0.png", "a")]  # the first file once more
    rows += [(f"link/../c/{number}.png", "c") for number in range(5)]  # behind the link, and there is no other c
    root = write_csv(tmp_path / "list.csv", [("path", "label"), *rows])
    check_data(config_of(root, tmp_path), fix_list=tmp_path / "mended.csv")
    with (tmp_path / "mended.csv").open(newline="") as file:
        listed = [row["path"] for row in csv.DictReader(file)]
    assert listed == [
        f"{tmp_path}/work/../set/a/0.png",  # no two rows may name one file alike
        *(f"{tmp_path}/set/{kind}/{number}.png" for kind in "ab" for number in range(5) if (kind, number) != ("a", 0)),
        f"{tmp_path}/set/a/0.png",
        *(f"{tmp_path}/link/../c/{number}.png" for number in range(5)),
    ]
    assert len(load(DataConfig(root=str(tmp_path / "mended.csv")), GEOMETRY, cache=False).names) == 16


# the command


def test_exit_codes_and_verdicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    root = fill(tmp_path / "set", {"train/a": 3, "train/b": 3, "test/a": 2, "test/b": 2})
    words = ["check-data", "--data.root", "set", "--head.folds", "2"]
    assert main(words) == 0
    assert "\nFound: nothing stands in the way of training\nFiles: " in capsys.readouterr().out
    Image.open(root / "test" / "a" / "0.png").save(root / "train" / "a" / "leak.png")
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "\nFound: not fit for training: 1 x duplicate across splits\nFiles: " in out
    assert out.endswith(" --fix-list mended.csv\n")
    assert main([*words, "--out", "found.csv", "--fix-list", "mended.csv"]) == 1
    out = capsys.readouterr().out
    assert "mended.csv, 10 images\n  Left out: 1 x duplicate across splits.\n" in out
    assert "\nFound: not fit for training: 1 x duplicate across splits; mended.csv is\n" in out
    assert out.endswith(" --data.root mended.csv\n")
    assert len(rows_of(Path("found.csv"))) == 1
    assert main(["check-data", "--data.root", "mended.csv", "--head.folds", "2"]) == 0
    assert main(["check-data", "--data.root", "nowhere"]) == 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"out": "found.txt"}, "out must be a file that ends in .csv, got 'found.txt'"),
        ({"fix_list": "list.parquet"}, "fix_list must be a file that ends in .csv, got 'list.parquet'"),
        ({"fix_list": "images.csv"}, "fix_list must be another file than data.root, got 'images.csv'"),
        ({"out": "./images.csv"}, "out must be another file than data.root, got 'images.csv'"),
        ({"out": "one.csv", "fix_list": "one.csv"}, "fix_list must be another file than out, got 'one.csv'"),
    ],
)
def test_files_that_cannot_be_written_are_refused(
    options: dict[str, str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("images.csv").write_text("path,label\n")
    with pytest.raises(ConfigError) as error:
        check_data(config_of("images.csv", tmp_path), **{key: Path(value) for key, value in options.items()})
    assert str(error.value) == sentence
    assert Path("images.csv").read_text() == "path,label\n"


def test_a_class_that_no_list_can_name_is_refused(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/ a": 3, "train/b": 3, "test/ a": 2, "test/b": 2})
    with pytest.raises(
        DataError, match=r"^fix_list cannot name the class ' a', which has spaces around it: rename it$"
    ):
        check_data(config_of(root, tmp_path), fix_list=tmp_path / "mended.csv")


def test_odd_names_break_neither_table_nor_list(tmp_path: Path) -> None:
    root = fill(tmp_path / "set", {"train/a": 3, "train/b\nc": 3, "test/a": 2, "test/b\nc": 2})
    odd = ["line\nbreak.png", "return\r.png", "\x1b[31mred.png", 'quote",.png', "caf\udce9.png", "=sum(A1).png"]
    for number, name in enumerate(odd):
        scene(9000 + number).save(root / "train" / "a" / name)
        (root / "test" / "a" / name).write_bytes(b"nothing")
    config = config_of(root, tmp_path)
    done = check_data(config, fix_list=tmp_path / "mended.csv")
    assert len(done.out.read_text(encoding="utf-8").splitlines()) == 1 + len(odd)
    assert all(line.isprintable() for line in done.out.read_text(encoding="utf-8").splitlines())
    assert sorted(row["path"] for row in rows_of(done.out)) == sorted(
        f"test/a/{name}"
        for name in (
            "line\\nbreak.png",
            "return\\r.png",
            "\\x1b[31mred.png",
            'quote",.png',
            "caf\\xe9.png",
            "=sum(A1).png",
        )
    )
    text = table(done, config)
    assert all(line.isprintable() for line in text.split("\n"))
    assert "6 x unreadable, 1 x name that is no UTF-8" in text
    again = check_data(config_of(tmp_path / "mended.csv", tmp_path))
    assert again.is_fit
    assert len(again.checked.items) == 10 + len(odd) - 1


def test_the_table_is_narrow_and_counts_right(tmp_path: Path) -> None:
    names = [f"{'long ' * 9}{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    root = tmp_path / "set"
    fill(root, {f"{split}/{name}": 1 for name in names for split in ("train", "test")})
    for name in names:
        Image.open(root / "test" / name / "0.png").save(root / "train" / name / f"{'copy' * 20}.png")
    config = config_of(root, tmp_path)
    lines = table(check_data(config), config).splitlines()
    assert max(len(line) for line in lines if not line.startswith(("Found: ", "Files: ", "Next: "))) <= 100
    cells = [line.split() for line in lines]
    assert ["all", "52", "26"] in cells
    assert "... 14 classes in between" in next(line for line in lines if "between" in line)
    assert [line.split()[-2:] for line in lines if "between" in line] == [["28", "14"]]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=8))
def test_effective_number_of_classes(counts: list[int]) -> None:
    assert effective([counts[0]] * len(counts)) == pytest.approx(len(counts))
    assert 1 - 1e-9 <= effective(counts) <= len(counts) + 1e-9
    assert effective([*counts, 0]) == pytest.approx(effective(counts))


def test_an_interrupted_check_leaves_nothing(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def stopped(*_: object) -> Image.Image:
        raise KeyboardInterrupt

    monkeypatch.setattr(sources, "decode", stopped)
    before = set(tmp_path.rglob("*"))
    assert main(["check-data", "--data.root", str(photo_folder), "--fix-list", "mended.csv"]) == 130
    assert set(tmp_path.rglob("*")) == before
    assert "interrupted" in capsys.readouterr().err
