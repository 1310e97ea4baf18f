"""The picture grid: which images it shows, what stands in each cell, its labels, and the file."""

import dataclasses
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

import blurtrain
from blurtrain import imagenet_c, nearest_severity, previews, reading, reduction, sheets
from blurtrain.blur import blur
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig
from blurtrain.convolution import from_weights
from blurtrain.decoding import Geometry
from blurtrain.errors import ConfigError, DataError, StoreError
from blurtrain.folder_source import FolderSource
from blurtrain.kernels import FAMILIES, kernel
from blurtrain.nearest_severity import nearest
from blurtrain.opening import open_source
from blurtrain.previews import preview, sheet
from blurtrain.sheets import Row, Sheet, labelled, native, shortened, wrapped
from blurtrain.sources import Item
from blurtrain.views import CLEAN, Blur

CROP = 40  # px: shown four times as large
GLYPHS = DataConfig(glyphs=GlyphsConfig(train=60, test=20))


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Config:
    """Red, green and blue pictures of 20 to 60 px a side, at 40 px."""
    return Config(
        data=DataConfig(str(photo_folder)),
        backbone=BackboneConfig(resize=CROP, crop=CROP),
        runs=tmp_path / "runs",
    )


def png(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        picture.load()
        return np.asarray(picture.convert("RGB"))


def drawn_sheet(views: int = 7, images: int = 2, side: int = 128, name: str = "one.png", group: str = "ant") -> Sheet:
    """A sheet of noise with as many views as wanted."""
    rng = np.random.default_rng(0)
    pictures = [tuple(rng.integers(0, 256, (views, side, side, 3), dtype=np.uint8)) for _ in range(images)]
    rows = tuple(Row(group, name, (500, 375), 1.5, row) for row in pictures)
    strengths = [float(i) for i in range(1, views)]
    return Sheet("title", (CLEAN, *(Blur("gaussian", s) for s in strengths)), (Blur("gaussian", 1.0),), rows, 224)


# what stands in the cells


def test_cells_are_what_the_network_sees(photos: Config) -> None:
    config = replace(photos, sweep=(BlurGrid("gaussian", (0.0, 2.0)), BlurGrid("box", (5.0,), "zero")))
    made = sheet(config, 3)
    assert made.views == (
        CLEAN,
        Blur("box", 5.0, None, "zero"),
        Blur("gaussian", 0.5),
        Blur("gaussian", 1.0),
        Blur("gaussian", 2.0),
    )
    source = open_source(config.data)
    for row in made.rows:
        (index,) = [i for i, item in enumerate(source.items) if item.name == f"train/{row.group}/{row.name}"]
        pixels = torch.from_numpy(Geometry(CROP, CROP).apply(source.decode(index)) / 255)[None]
        for view, picture in zip(made.views, row.pictures, strict=True):
            exact = 255 * blur(pixels, view)[0].permute(1, 2, 0).numpy()
            assert picture.shape == (160, 160, 3)
            assert picture.dtype == np.uint8
            small = picture[::4, ::4]
            np.testing.assert_array_equal(picture, small.repeat(4, 0).repeat(4, 1))
            assert np.abs(small - exact).max() <= 0.5 + 1e-3


def test_colours_are_not_exchanged(photos: Config) -> None:
    made = sheet(photos, 3)
    assert [row.group for row in made.rows] == ["blue", "green", "red"]
    for row, strongest in zip(made.rows, (2, 1, 0), strict=True):
        for picture in row.pictures:
            assert picture.mean(axis=(0, 1)).argmax() == strongest


def test_a_picture_of_moderate_size_is_shown_pixel_by_pixel(photos: Config) -> None:
    made = sheet(replace(photos, backbone=BackboneConfig(resize=200, crop=200)), 1)
    assert made.rows[0].pictures[0].shape == (200, 200, 3)
    assert made.title.endswith(": 200 x 200 px")


def test_a_large_picture_is_shown_smaller(photos: Config) -> None:
    made = sheet(replace(photos, backbone=BackboneConfig(resize=900, crop=900)), 1)
    assert made.rows[0].pictures[0].shape == (300, 300, 3)
    assert made.title.endswith(": 900 x 900 px, shown at 300 px")


# labels


def test_strengths_in_native_pixels_are_the_files(photo_folder: Path) -> None:
    (photo_folder / "train" / "red" / "0.png").unlink()
    wide = Image.new("RGB", (150, 100), "red")
    for path in (photo_folder / "train" / "red").iterdir():
        wide.save(path)
    config = Config(data=DataConfig(str(photo_folder)), backbone=BackboneConfig(resize=40, crop=32))
    (red,) = [row for row in sheet(config, 3).rows if row.group == "red"]
    assert red.scale == 2.5  # 100 px became 40 px
    assert red.size == (150, 100)
    assert red.measure == "150 x 100 px · 1 network px = 2.50 native px"
    assert native(Blur("gaussian", 3.0), red.scale) == "= 7.5 px native"


@pytest.mark.parametrize(
    ("view", "scale", "text"),
    [
        (Blur("gaussian", 4.0), 2.229, "= 8.9 px native"),
        (Blur("box", 5.0), 0.5, "= 2.5 px native"),
        (Blur("gaussian", 4.0), 1.0, ""),
        (CLEAN, 2.5, ""),
    ],
)
def test_native_strength(view: Blur, scale: float, text: str) -> None:
    assert native(view, scale) == text


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if known.from_file])
def test_a_scale_is_not_called_pixels(family: str) -> None:
    assert native(Blur(family, 2.0, file="lens.npy"), 2.5) == "= x 5.0 native"


def test_headings_name_blurs_copies_and_heavy_views() -> None:
    views = (CLEAN, Blur("box", 9.0), Blur("gaussian", 1.0), Blur("gaussian", 1.9), Blur("gaussian", 2.0))
    made = Sheet("", views, (Blur("gaussian", 1.0),), drawn_sheet(len(views)).rows, 224)
    assert [made.heading(view) for view in made.views] == [
        "clean",
        "box 9 *",  # sqrt((81 - 1) / 12) = 2.58
        "gaussian 1 (copy)",
        "gaussian 1.9",
        "gaussian 2 *",
    ]
    assert made.notes == [
        "Strengths in px at network size (box: width, gaussian: sigma); below the pictures in px of the image file.",
        "Severities: ImageNet-C's table for 224 px; ≈ most like, < weaker than, > stronger than.",
        "(copy) joins the training images.",
        "* heavy: at least twice as wide as the strongest copy.",
    ]
    assert made.summary == "2 training images, clean and through 4 blurs"


def test_notes_tell_what_is_there_alone() -> None:
    made = drawn_sheet(3, images=1)
    plain = Sheet("", made.views[:2], (), tuple(replace(row, scale=1.0) for row in made.rows), 224)
    assert plain.notes == [
        "Strengths in px at network size (gaussian: sigma).",
        "Severities: ImageNet-C's table for 224 px; ≈ most like, < weaker than, > stronger than.",
    ]
    assert plain.summary == "1 training image, clean and through 1 blur"
    assert plain.rows[0].measure == "500 x 375 px"


# which severity


def photograph(side: int, seed: int = 0) -> np.ndarray:
    """A picture that goes on beyond its borders and whose power is exactly 1 / f^2, of mean 0."""
    squared = np.add.outer(np.fft.fftfreq(side) ** 2, np.fft.fftfreq(side) ** 2)
    squared[0, 0] = np.inf
    spectrum = np.fft.fft2(np.random.default_rng(seed).standard_normal((side, side)))
    return np.fft.ifft2(spectrum / np.abs(spectrum) / np.sqrt(squared)).real


@pytest.mark.parametrize("side", [33, 64])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Blur("gaussian", 1.0), Blur("gaussian", 2.5)),
        (Blur("defocus", 3.0), Blur("gaussian", 1.5)),
        (Blur("motion", 9.0, 30.0), Blur("box", 5.0)),
    ],
)
def test_the_distance_is_that_of_blurred_pictures(one: Blur, other: Blur, side: int) -> None:
    picture = photograph(side)
    blurred = [ndimage.convolve(picture, kernel(view).weights, mode="wrap") for view in (one, other)]
    expected = np.sqrt(((blurred[0] - blurred[1]) ** 2).mean()) / picture.std()
    spectra = [nearest_severity.spectrum(kernel(view), side) for view in (one, other)]
    assert nearest_severity.distance(*spectra) == pytest.approx(expected, rel=1e-9)
    left = blurred[0].std() / picture.std()
    assert nearest_severity.contrast(spectra[0]) == pytest.approx(left, rel=1e-9)


def test_a_shift_is_no_blur() -> None:
    weights = np.zeros((1, 7))
    weights[0, 6] = 1.0
    shifted = nearest_severity.spectrum(from_weights(np.pad(weights, ((3, 3), (0, 0)))), 33)
    assert nearest_severity.distance(shifted, np.ones((33, 33), complex)) < 1e-12


@pytest.mark.parametrize("side", [32, 64, 128, 224, 299])
@pytest.mark.parametrize("family", imagenet_c.FAMILIES)
def test_a_severity_is_nearest_to_itself(family: str, side: int) -> None:
    for severity in imagenet_c.SEVERITIES:
        seed = 0 if family in imagenet_c.DRAWN else None
        found = nearest(Blur(family, float(severity), severity=True, seed=seed), side)
        assert (found.family, found.severity, found.distance) == (family, severity, 0.0)


@pytest.mark.parametrize("side", [32, 64, 224])
def test_what_is_made_as_a_severity_is_nearest_to_it(side: int) -> None:
    """The same kernels by strengths: its gaussians, its motion but for the cut tail, its disks as exact areas."""
    for severity in imagenet_c.SEVERITIES:
        sigma, *_ = imagenet_c.parameters(Blur("gaussian", float(severity), severity=True), side)
        found = nearest(Blur("gaussian", sigma), side)
        assert (found.severity, found.distance) == (severity, 0.0)
        _, sigma = imagenet_c.parameters(Blur("motion", float(severity), severity=True), side)
        same = 3 if (side, severity) == (32, 4) else severity  # two severities that differ in the cut alone
        assert nearest(Blur("half-gaussian", sigma, -20.0), side).severity == same
        if side == 224:
            radius, _ = imagenet_c.parameters(Blur("defocus", float(severity), severity=True), side)
            assert nearest(Blur("defocus", radius), side).severity == severity


@pytest.mark.parametrize("side", [32, 64, 224, 299])
@pytest.mark.parametrize("family", ["gaussian", "defocus", "motion", "half-gaussian"])
def test_a_stronger_blur_is_like_no_weaker_severity(family: str, side: int) -> None:
    angle = 30.0 if FAMILIES[family].directed else None
    found = [nearest(Blur(family, strength, angle), side) for strength in np.geomspace(0.2, side / 2, 40).tolist()]
    assert [one.severity for one in found] == sorted(one.severity for one in found)
    assert found[0].severity == 0
    assert found[-1].severity == 6
    assert {one.severity for one in found} >= {0, 1, 3, 5, 6}


@pytest.mark.parametrize(
    ("view", "side", "words", "caption"),
    [
        (Blur("gaussian", 0.3), 224, "weaker than gaussian severity 1", "< severity 1"),
        (Blur("gaussian", 2.2), 224, "like gaussian severity 2", "≈ severity 2"),
        (Blur("gaussian", 2.2), 64, "stronger than gaussian severity 5", "> severity 5"),
        (Blur("box", 3.0), 64, "like defocus severity 3", "≈ defocus severity 3"),
    ],
)
def test_a_blur_is_compared_in_words(view: Blur, side: int, words: str, caption: str) -> None:
    found = nearest(view, side)
    assert (found.words, found.caption(view.family)) == (words, caption)
    made = replace(drawn_sheet(2, side=128), views=(CLEAN, view), side=side)
    assert (made.likeness(CLEAN), made.likeness(view)) == ("", caption)
    heading, rule, line = made.table.splitlines()
    assert heading.endswith(f"ImageNet-C at {side} px")
    assert set(rule) == {"-"}
    assert line.split("  ")[0] == view.name
    assert line.endswith(f" px  {words}")


def test_the_picture_says_what_each_blur_is_like() -> None:
    drawn = drawn_sheet(4)
    said = [text for _, _, text, _ in sheets._page(drawn, sheets._measure()).texts]
    for view in drawn.blurs[1:]:
        assert said.count(nearest(view, 224).caption("gaussian")) == 1
    assert "≈ severity 3" in said


# which images


def items(counts: dict[str, int]) -> list[Item]:
    """So many images of each class, training images first."""
    return [
        Item(f"{split}/{label}/{i}", label, split)
        for split in ("train", "validation", "test")
        for label, count in enumerate(counts.values())
        for i in range(count)
    ]


def test_classes_take_turns_and_only_training_images_are_shown() -> None:
    listing = items({"a": 9, "b": 3, "c": 1})
    order = list(previews._candidates(listing, 6))
    assert sorted(order) == list(range(13))
    assert [listing[i].label for i in order[:7]] == [0, 1, 2, 0, 1, 0, 1]
    assert order[:4] == [2, 9, 12, 6]  # of nine the third and the seventh


def test_few_images_are_spread_over_many_classes() -> None:
    listing = items({str(label): 5 for label in range(100)})
    order = list(previews._candidates(listing, 4))
    assert [listing[i].label for i in order[:4]] == [12, 37, 62, 87]
    assert [i % 5 for i in order[:4]] == [2, 2, 2, 2]
    assert sorted(order) == list(range(500))


def test_unsplit_folders_are_shown_too(class_folder: Path) -> None:
    config = Config(data=DataConfig(str(class_folder)), backbone=BackboneConfig(resize=CROP, crop=CROP))
    assert Counter(row.group for row in sheet(config, 5).rows) == {"blue": 2, "green": 2, "red": 1}


@given(st.integers(1, 60), st.integers(1, 40))
def test_spread_is_a_permutation_that_begins_evenly(n: int, wanted: int) -> None:
    order = previews._spread(n, wanted)
    assert sorted(order) == list(range(n))
    first = order[: min(n, wanted)]
    gaps = [b - a for a, b in pairwise([-1 - first[0], *first, 2 * n - 1 - first[-1]])]  # mirrored at both ends
    assert max(gaps) - min(gaps) <= 2


def test_fewer_images_than_asked_are_all_shown(photos: Config) -> None:
    assert len(sheet(photos, 32).rows) == 24


def test_only_the_images_that_are_shown_are_decoded(photos: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []
    decode = FolderSource.decode

    def counted(self: FolderSource, index: int, scale: int = 1) -> Image.Image:
        opened.append(index)
        return decode(self, index, scale)

    monkeypatch.setattr(FolderSource, "decode", counted)
    sheet(photos, 4)
    assert len(opened) == 4


def test_an_image_that_cannot_be_decoded_gives_its_place_to_another(
    photos: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sheet(photos, 3)
    bad = Path(photos.data.root, "train", before.rows[0].group, before.rows[0].name)
    bad.write_bytes(bad.read_bytes()[:100])
    capsys.readouterr()
    after = sheet(photos, 3)
    assert len(after.rows) == 3
    assert bad.name not in [row.name for row in after.rows if row.group == before.rows[0].group]
    (note,) = capsys.readouterr().err.splitlines()
    assert note.startswith(f"note: train/blue/{bad.name} cannot be decoded (")
    assert note.endswith("; another image takes its place")


def test_an_odd_image_is_shown_without_a_word(photos: Config, capsys: pytest.CaptureFixture[str]) -> None:
    for path in Path(photos.data.root, "train", "red").iterdir():
        picture = Image.new("P", (50, 40), 3)
        picture.putpalette([value for value in range(256) for _ in "rgb"])
        picture.save(path.with_suffix(".png"), transparency=bytes(range(256)))  # Pillow warns of it
        if path.suffix != ".png":
            path.unlink()
    assert "red" in {row.group for row in sheet(photos, 3).rows}
    assert capsys.readouterr().err == ""


def test_without_any_image_that_can_be_decoded_it_says_so(photos: Config) -> None:
    for path in Path(photos.data.root, "train").rglob("*.*"):
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the training images in .*photos can be decoded: mend or replace"):
        sheet(photos, 2)


# the file


def test_the_picture_holds_every_cell_pixel_by_pixel(tmp_path: Path) -> None:
    drawn = drawn_sheet(7)
    sheets.draw(tmp_path / "p.png", drawn)
    picture = png(tmp_path / "p.png")
    places = []
    for row in drawn.rows:
        for cell in row.pictures:
            corners = np.argwhere(
                (picture[:-127, :-127] == cell[0, 0]).all(-1) & (picture[127:, 127:] == cell[-1, -1]).all(-1)
            )
            ((top, left),) = corners
            np.testing.assert_array_equal(picture[top : top + 128, left : left + 128], cell)
            places.append((int(top), int(left)))
    tops, lefts = (sorted(set(axis)) for axis in zip(*places, strict=True))
    assert places == [(top, left) for top in tops for left in lefts]  # rows are images, columns are views


def test_a_clean_run_leaves_one_whole_file(tmp_path: Path) -> None:
    config = Config(data=GLYPHS, runs=tmp_path / "runs")
    path = preview(config, images=2)
    assert path == tmp_path / "runs" / "preview-glyphs-glyphnet.png"
    assert list(tmp_path.rglob("*.*")) == [path]
    assert png(path).shape[1] == 2 * 14 + 7 * 128 + 6 * 6


def test_the_same_bytes_come_out_again(tmp_path: Path) -> None:
    config = Config(data=GLYPHS)
    first, second = (preview(config, 3, tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert first == second
    assert preview(config, 2, tmp_path / "c.png").read_bytes() != first


def test_without_copies_or_store_it_is_the_same_command(tmp_path: Path) -> None:
    config = Config(data=GLYPHS, copies=(), cache=False)
    made = sheet(config, 1)
    assert not any("*" in made.heading(view) or "copy" in made.heading(view) for view in made.views)
    assert preview(config, 1, tmp_path / "p.png").is_file()


@pytest.mark.parametrize(("views", "side"), [(2, 128), (7, 128), (7, 224), (20, 128), (20, 224), (20, 448)])
@pytest.mark.parametrize("name", ["a.png", "long-name-" * 25 + ".png"])
def test_nothing_overlaps_and_everything_fits(views: int, side: int, name: str) -> None:
    drawn = drawn_sheet(views, side=side, name=name, group=name.removesuffix(".png"))
    drawn = replace(
        drawn,
        title=name,
        views=(CLEAN, *(Blur("gaussian", v.strength, 30.0, "symmetric") for v in drawn.blurs[1:])),
    )
    width = sheets._measure()
    page = sheets._page(drawn, width)
    assert 640 <= page.across <= 1400
    boxes = [(left, top, left + width(text), top + sheets.LINE - 1) for left, top, text, _ in page.texts if text]
    boxes += [(left, top, left + side, top + side) for left, top, _ in page._pictures]
    assert len(page._pictures) == 2 * views
    taken = np.zeros((page.top, page.across), np.uint8)
    for left, top, right, bottom in boxes:
        assert left >= 0
        assert right <= page.across
        assert bottom <= page.top
        taken[int(top) : int(bottom), int(left) : int(np.ceil(right))] += 1
    assert taken.max() == 1


@pytest.mark.parametrize("name", [r"cost $\nonsense{$", "two\nlines", "\udcff.png", "图像.png", "tab\t.png"])
def test_odd_names_are_drawn(name: str, tmp_path: Path) -> None:
    sheets.draw(tmp_path / "p.png", drawn_sheet(2, name=name, group=name))
    assert (tmp_path / "p.png").is_file()


def test_long_labels_keep_their_numbers() -> None:
    row = Row("class" * 40, "name" * 60 + ".jpg", (500, 375), 1.5, ())
    label = labelled(row, 90, len)
    assert len(label) <= 90
    assert label.endswith(".jpg · 500 x 375 px · 1 network px = 1.50 native px")
    assert label.startswith("classclas")
    short = replace(row, group="ants", name="1.jpg")
    assert labelled(short, 90, len) == "ants · 1.jpg · 500 x 375 px · 1 network px = 1.50 native px"


@given(st.text(max_size=30), st.integers(1, 30))
def test_shortened_fits_and_keeps_both_ends(text: str, most: int) -> None:
    result = shortened(text, most, len)
    assert len(result) == min(len(text), most)
    if result != text:
        before, _, after = result.partition(sheets.ELLIPSIS) if sheets.ELLIPSIS not in text else (text, "", "")
        assert text.startswith(before)
        assert text.endswith(after)
        assert sheets.ELLIPSIS in text or 0 <= len(before) - len(after) <= 1


@given(st.lists(st.text("abc", min_size=1, max_size=12), max_size=8), st.integers(3, 30))
def test_wrapped_lines_fit_and_keep_the_words(words: list[str], most: int) -> None:
    lines = wrapped(" ".join(words), most, len)
    assert all(len(line) <= most for line in lines)
    assert " ".join(lines).split() == [shortened(word, most, len) for word in words]
    for one, other in pairwise(lines):
        assert len(f"{one} {other.split()[0]}") > most


# what is refused


@pytest.mark.parametrize("images", [0, -1, 33])
def test_a_number_of_images_that_is_refused(images: int) -> None:
    with pytest.raises(ConfigError, match=rf"^images must be from 1 to 32, got {images}$"):
        preview(Config(), images)


def test_too_many_pictures_are_refused() -> None:
    config = Config(sweep=(BlurGrid("gaussian", tuple(float(s) for s in range(1, 17))),), copies=())
    with pytest.raises(ConfigError, match=r"images times blurs must be at most 256, got 16 x 17: give fewer of either"):
        preview(config, 16)


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"out must be a file that ends in \.png, got '.*p\.jpg'"):
        preview(Config(), out=tmp_path / "p.jpg")


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"file/in/p\.png cannot be written \(Not a directory\)"):
        sheets.draw(tmp_path / "file" / "in" / "p.png", drawn_sheet(2))


# the package


def test_it_is_a_function_of_the_package_however_often_it_is_named() -> None:
    for _ in range(2):
        assert blurtrain.preview is previews.preview
        assert dataclasses.is_dataclass(sheets.Sheet)


PROGRAM = """
import sys
from pathlib import Path
from blurtrain import Config, preview
from blurtrain.config import DataConfig, GlyphsConfig
preview(Config(data=DataConfig(glyphs=GlyphsConfig(train=20, test=10))), 1, Path(sys.argv[1]))
print({"pytorch_lightning", "onnxruntime", "albumentations", "tensorboard", "sklearn", "pyarrow"} & set(sys.modules))
"""


def test_it_takes_no_library_that_it_does_not_need(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", "-c", PROGRAM, str(tmp_path / "p.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "set()\n", "")


def test_large_photographs_are_decoded_as_in_training(tmp_path: Path) -> None:
    """What a pipeline draws depends on the name by content, and this on the part of the size."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.random.default_rng(ord(name)).integers(0, 255, (1500, 1700, 3), np.uint8)).save(
            tmp_path / name / "large.jpg"
        )
    source, geometry = open_source(DataConfig(root=str(tmp_path))), Geometry(128, 128)
    read = reading.pixels_of(reduction.reduced(source, geometry), 0, geometry)
    whole = reading.pixels_of(source, 0, geometry)
    assert not isinstance(read, str)
    assert not isinstance(whole, str)
    assert read[1] != whole[1]
    row = previews._row(source, 0, geometry, [CLEAN])
    assert row.size == (1700, 1500)
    assert row.scale == pytest.approx(1500 / 128)
    step = len(row.pictures[0]) // 128
    np.testing.assert_array_equal(row.pictures[0][::step, ::step], read[0].transpose(1, 2, 0))
