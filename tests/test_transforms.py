"""The blurs as transforms of albumentations, against the package's own blurs, and draws that depend on no worker."""

import io
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from blurtrain.blur import blur, blur_pixels
from blurtrain.errors import ConfigError
from blurtrain.kernels import FAMILIES, WITH_KERNEL
from blurtrain.transforms import KernelBlur, _legal_points, apply_seeded, require_albumentations, transform_of
from blurtrain.views import CLEAN, Blur, Border

import albumentations as A  # isort: skip - after the module that looks at what is installed

SHAPES = [(20, 24, 3), (20, 24, 1), (20, 24), (20, 24, 6), (1, 9, 3), (9, 1), (5, 5, 130)]
BORDERS: tuple[Border, ...] = get_args(Border)
HEIGHT, WIDTH = 20, 24


@pytest.fixture
def psf_file(tmp_path: Path) -> Path:
    """A point-spread function without any symmetry."""
    path = tmp_path / "measured.npy"
    np.save(path, np.array([[0.0, 1.0, 0.0], [2.0, 4.0, 0.0], [0.0, 0.0, 3.0]]))
    return path


def random_image(shape: tuple[int, ...] = (HEIGHT, WIDTH, 3), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def some_strength(family: str) -> float:
    return next(strength for strength in (2.5, 3.0, 1.0) if FAMILIES[family].allows(strength))


def some_view(family: str, file: Path, border: Border = "reflect101") -> Blur:
    """One legal blur of any family."""
    known = FAMILIES[family]
    angle = 30.0 if known.directed else None
    return Blur(family, some_strength(family), angle, border, str(file) if known.from_file else None)


def oracle(image: np.ndarray, view: Blur) -> np.ndarray:
    """What the package's own blur makes of an image in double precision, in the image's layout."""
    deep = torch.from_numpy(image.reshape(*image.shape[:2], -1).astype(np.float64))
    return blur(deep.permute(2, 0, 1)[None], view)[0].permute(1, 2, 0).numpy().reshape(image.shape)


def drawn(transform: KernelBlur, count: int) -> list[tuple[float, float | None]]:
    """Strengths and angles that a transform draws in turn."""
    draws: list[dict[str, Any]] = [transform.get_params() for _ in range(count)]
    return [(params["strength"], params["angle"]) for params in draws]


# exactness


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", WITH_KERNEL)
def test_bytes_are_rounded_once_at_the_end(family: str, border: Border, psf_file: Path) -> None:
    view, image = some_view(family, psf_file, border), random_image()
    result = transform_of(view)(image=image)["image"]
    assert result.dtype == np.uint8
    assert np.abs(result - oracle(image, view)).max() <= 0.5 + 1e-3  # to either side of a tie
    planes = blur_pixels(np.ascontiguousarray(image.transpose(2, 0, 1))[None], view)[0]
    np.testing.assert_array_equal(result, np.rint(255 * planes).transpose(1, 2, 0))


@pytest.mark.parametrize("border", BORDERS)
@pytest.mark.parametrize("family", WITH_KERNEL)
def test_floats_are_blurred_as_they_are(family: str, border: Border, psf_file: Path) -> None:
    view = some_view(family, psf_file, border)
    image = (random_image() / 255).astype(np.float32)
    result = transform_of(view)(image=image)["image"]
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, oracle(image, view), rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_shape_comes_back_and_nothing_is_written_to(shape: tuple[int, ...], dtype: type) -> None:
    image: np.ndarray = random_image(shape).astype(dtype)
    image.flags.writeable = False
    view = Blur("gaussian", 1.5, None, "symmetric")
    result = transform_of(view)(image=image)["image"]
    assert result.shape == shape
    assert result.flags.c_contiguous
    tolerance = 0.501 if dtype is np.uint8 else 255e-6
    assert np.abs(result - oracle(image, view)).max() <= tolerance


def test_white_stays_white() -> None:
    image = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    for strength in (0.3, 1.0, 7.0):
        np.testing.assert_array_equal(KernelBlur("gaussian", strength, p=1)(image=image)["image"], image)


def test_part_of_a_larger_image_is_blurred_by_itself() -> None:
    large = random_image((40, 50, 4))
    part = large[5:25, 7:31, :3]
    result = transform_of(Blur("gaussian", 2.0))(image=part)["image"]
    np.testing.assert_array_equal(result, transform_of(Blur("gaussian", 2.0))(image=part.copy())["image"])


@pytest.mark.parametrize("dtype", [np.int16, np.float64, np.uint16])
def test_other_types_are_refused(dtype: type) -> None:
    image: np.ndarray = random_image().astype(dtype)
    for strength in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"images must be uint8 or float32, got {np.dtype(dtype)}: convert"):
            KernelBlur("gaussian", strength, p=1)(image=image)


# a config's views


@pytest.mark.parametrize("family", WITH_KERNEL)
def test_a_view_and_its_transform_name_the_same_blur(family: str, psf_file: Path) -> None:
    view = some_view(family, psf_file, "replicate")
    made: Any = transform_of(view)
    assert Blur(made.family, made.strength, made.angle, made.border, made.file) == view
    assert made.p == 1


def test_clean_changes_nothing() -> None:
    image = random_image()
    for transform in (transform_of(CLEAN), KernelBlur("box", 0, p=1), KernelBlur("gaussian", 0.0, border="zero", p=1)):
        np.testing.assert_array_equal(transform(image=image)["image"], image)
        floats = image.astype(np.float32)
        np.testing.assert_array_equal(transform(image=floats)["image"], floats)


# ranges


def test_a_range_is_drawn_from_evenly() -> None:
    transform = KernelBlur("gaussian", (0.5, 2.5))
    transform.set_random_seed(1)
    strengths = np.array([strength for strength, _ in drawn(transform, 4000)])
    assert strengths.min() >= 0.5
    assert strengths.max() <= 2.5
    counts, _ = np.histogram(strengths, 4, (0.5, 2.5))
    assert counts.min() > 1000 - 5 * np.sqrt(750)  # five standard deviations of a count


@pytest.mark.parametrize(
    ("strength", "members"), [((3, 7), {3, 5, 7}), ((0, 5), {0, 3, 5}), ((9, 9), {9}), ((3, 3), {3})]
)
def test_a_range_of_boxes_holds_odd_widths_alone(strength: tuple[float, float], members: set[float]) -> None:
    transform = KernelBlur("box", strength)
    transform.set_random_seed(0)
    counts = Counter(drawn_strength for drawn_strength, _ in drawn(transform, 300))
    assert set(counts) == members
    assert min(counts.values()) > 300 / len(members) / 2


def test_a_range_with_forbidden_members_is_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """No family has such a gap today: the range from 0 would hold strengths below 1."""
    gap = replace(FAMILIES["gaussian"], allows=lambda strength: 1 <= strength <= 9)
    monkeypatch.setitem(FAMILIES, "gap", gap)

    def legal(low: float, high: float) -> bool:
        return all(strength == 0 or gap.allows(strength) for strength in _legal_points("gap", (low, high)))

    assert legal(1.0, 9.0)
    assert legal(2.5, 2.5)
    assert not legal(0.0, 9.0)
    assert not legal(1.0, 10.0)


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if known.directed])
def test_directions_are_drawn_too(family: str) -> None:
    transform = KernelBlur(family, 3, (-45, 45), p=1)
    transform.set_random_seed(0)
    angles = np.array([angle for _, angle in drawn(transform, 400)], float)
    assert -45 <= angles.min() < -40 < 40 < angles.max() <= 45
    assert {angle for _, angle in drawn(KernelBlur(family, 3, 30), 3)} == {30.0}
    image = random_image()
    result = transform(image=image)["image"]
    angle = transform.get_applied_params()["angle"]
    np.testing.assert_array_equal(result, transform_of(Blur(family, 3.0, angle % 360))(image=image)["image"])
    left_out = KernelBlur(family, 3, p=1)(image=image)["image"]
    np.testing.assert_array_equal(left_out, transform_of(Blur(family, 3.0, 0.0))(image=image)["image"])


@given(st.floats(0, 500), st.floats(0, 500), st.integers(0, 99))
def test_whatever_is_drawn_is_allowed(one: float, other: float, seed: int) -> None:
    low, high = sorted((one, other))
    transform = KernelBlur("gaussian", (low, high))
    transform.set_random_seed(seed)
    for strength, _ in drawn(transform, 5):
        assert low <= strength <= high


def test_the_value_drawn_is_the_blur_applied() -> None:
    image = random_image()
    transform = KernelBlur("gaussian", (0.5, 3), p=1)
    for _ in range(5):
        result = transform(image=image)["image"]
        view = Blur("gaussian", transform.get_applied_params()["strength"])
        np.testing.assert_array_equal(result, transform_of(view)(image=image)["image"])


def test_seeds_rule_the_draws() -> None:
    image = random_image()

    def run(seed: int) -> list[np.ndarray]:
        pipeline = A.Compose([A.HorizontalFlip(), KernelBlur("gaussian", (0.5, 3))], seed=seed)
        return [pipeline(image=image)["image"] for _ in range(8)]

    np.testing.assert_array_equal(run(3), run(3))
    assert not np.array_equal(run(3), run(4))


def test_probability_is_kept() -> None:
    image = random_image()
    transform = KernelBlur("gaussian", 2.0, p=0.25)
    transform.set_random_seed(0)
    applied = sum(not np.array_equal(transform(image=image)["image"], image) for _ in range(400))
    assert abs(applied - 100) < 5 * np.sqrt(75)


# in pipelines


def test_masks_boxes_and_keypoints_stay() -> None:
    image, mask = random_image(), random_image((HEIGHT, WIDTH), seed=1)
    pipeline = A.Compose(
        [A.NoOp(), KernelBlur("gaussian", (1, 2), p=1)],  # something that knows of boxes, or albumentations warns
        bbox_params=A.BboxParams("pascal_voc", label_fields=["names"]),
        keypoint_params=A.KeypointParams("xy"),
        strict=True,
    )
    result = pipeline(
        image=image, mask=mask, masks=[mask], bboxes=[(2, 3, 12, 13)], names=["cat"], keypoints=[(4.0, 5.0)]
    )
    assert not np.array_equal(result["image"], image)
    np.testing.assert_array_equal(result["mask"], mask)
    np.testing.assert_array_equal(result["masks"][0], mask)
    np.testing.assert_allclose(result["bboxes"], [(2, 3, 12, 13)], rtol=1e-6)  # albumentations scales them in float32
    np.testing.assert_array_equal(result["keypoints"], [(4.0, 5.0)])
    assert result["names"] == ["cat"]


@pytest.mark.parametrize("shape", [(HEIGHT, WIDTH, 3), (HEIGHT, WIDTH)])
def test_images_of_one_call_share_one_blur(shape: tuple[int, ...]) -> None:
    images = [random_image(shape, seed) for seed in range(3)]
    transform = KernelBlur("gaussian", (0.5, 3), p=1)
    pipeline = A.Compose([transform])
    for given_as in (images, np.stack(images)):
        results = pipeline(images=given_as)["images"]
        assert type(results) is type(given_as)
        same = transform_of(Blur("gaussian", transform.get_applied_params()["strength"]))
        for image, result in zip(images, results, strict=True):
            np.testing.assert_array_equal(result, same(image=image)["image"])


def test_a_second_image_and_slices_of_a_volume_are_blurred_alike() -> None:
    first, second = random_image(seed=1), random_image(seed=2)
    pipeline = A.Compose([KernelBlur("gaussian", 2, p=1)], additional_targets={"other": "image"})
    result = pipeline(image=first, other=second)
    blurred = KernelBlur("gaussian", 2, p=1)
    np.testing.assert_array_equal(result["other"], blurred(image=second)["image"])
    volume = pipeline(volume=np.stack([first, second]))["volume"]
    np.testing.assert_array_equal(volume, [result["image"], result["other"]])


def test_the_order_in_a_pipeline_is_the_users() -> None:
    image = random_image()
    blurred = KernelBlur("gaussian", 2, p=1)
    result = A.Compose([A.Resize(10, 12), blurred])(image=image)["image"]
    np.testing.assert_array_equal(result, blurred(image=A.Resize(10, 12)(image=image)["image"])["image"])


def test_what_was_applied_can_be_applied_again() -> None:
    image = random_image()
    pipeline = A.ReplayCompose([A.HorizontalFlip(), KernelBlur("gaussian", (0.5, 3), p=1)])
    result = pipeline(image=image)
    again = A.ReplayCompose.replay(result["replay"], image=image)["image"]
    np.testing.assert_array_equal(again, result["image"])


# saved pipelines


def saved_and_loaded(pipeline: Any, how: str, folder: Path) -> Any:  # noqa: ANN401 - albumentations has no types
    if how == "dict":
        return A.from_dict(A.to_dict(pipeline))
    data_format = how.removesuffix(" text")
    if how.endswith("text"):
        text = io.StringIO()
        A.save(pipeline, text, data_format=data_format)
        text.seek(0)
        return A.load(text, data_format=data_format)
    A.save(pipeline, folder / "pipeline", data_format=data_format)
    return A.load(folder / "pipeline", data_format=data_format)


@pytest.mark.parametrize("how", ["dict", "json", "yaml", "json text", "yaml text"])
@pytest.mark.parametrize("family", WITH_KERNEL)
def test_a_saved_pipeline_is_the_same(family: str, how: str, psf_file: Path, tmp_path: Path) -> None:
    known, strength = FAMILIES[family], some_strength(family)
    file = str(psf_file) if known.from_file else None
    angle = (-30.5, 30) if known.directed else None
    for drawn_from in (strength, (0, strength)):
        pipeline = A.Compose([KernelBlur(family, drawn_from, angle, "circular", file, p=0.7)])
        loaded = saved_and_loaded(pipeline, how, tmp_path)
        assert repr(loaded) == repr(pipeline)
        assert vars(loaded[0]).keys() == vars(pipeline[0]).keys()
        for key in ("family", "strength", "angle", "border", "file", "p"):
            assert getattr(loaded[0], key) == getattr(pipeline[0], key)
        pipeline.set_random_seed(5)
        loaded.set_random_seed(5)
        image = random_image()
        for _ in range(4):
            np.testing.assert_array_equal(loaded(image=image)["image"], pipeline(image=image)["image"])


def test_what_is_saved_is_plain(tmp_path: Path) -> None:
    A.save(KernelBlur("gaussian", (1, 2), border="zero"), tmp_path / "blur.json")
    A.save(KernelBlur("gaussian", (1, 2), border="zero"), tmp_path / "blur.yaml", data_format="yaml")
    stored = {
        "__class_fullname__": "blurtrain.transforms.KernelBlur",
        "p": 0.5,
        "family": "gaussian",
        "strength": [1.0, 2.0],
        "angle": None,
        "border": "zero",
        "file": None,
    }
    assert json.loads((tmp_path / "blur.json").read_text()) == {"__version__": "2.0.8", "transform": stored}
    assert yaml.safe_load((tmp_path / "blur.yaml").read_text()) == {"__version__": "2.0.8", "transform": stored}


def test_its_text_is_the_call_that_makes_it() -> None:
    transform = KernelBlur("gaussian", (1, 2.5), border="zero", p=0.25)
    assert repr(eval(repr(transform))) == repr(transform)
    assert "border='zero', family='gaussian', file=None, strength=(1.0, 2.5)" in repr(transform)


# what is refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"family": "vox"}, r"family must be one of 'gaussian', 'box'.*, got 'vox'"),
        ({"family": ["gaussian"]}, r"family must be one of .*, got \['gaussian'\]"),
        ({"strength": -1}, r"strength of gaussian must be a number from 0 to 1000 px, got -1\.0"),
        ({"strength": float("nan")}, r"strength of gaussian must be a number from 0 to 1000 px, got nan"),
        ({"strength": float("inf")}, r"strength of gaussian must be a number from 0 to 1000 px, got inf"),
        ({"strength": (1, 2000)}, r"strength of gaussian must be a number from 0 to 1000 px, got 2000\.0"),
        ({"strength": (2, 1)}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got \(2, 1\)"),
        ({"strength": (1, 2, 3)}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got \(1, 2, 3\)"),
        ({"strength": "2"}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got '2'"),
        ({"strength": True}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got True"),
        ({"strength": None}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got None"),
        ({"strength": (1, None)}, r"strength\n.*must be a number, or a pair \(low, high\) .*, got \(1, None\)"),
        ({"strength": (float("nan"), 1)}, r"strength\n.*must be a number, or a pair \(low, high\)"),
        ({"family": "box", "strength": 4}, r"strength of box must be 0 or an odd whole number .*, got 4\.0"),
        ({"family": "box", "strength": (3, 8)}, r"strength of box must be 0 or an odd whole number .*, got 8\.0"),
        ({"angle": 30}, r"angle must be left out: gaussian has none, got 30\.0"),
        ({"angle": (0, 90)}, r"angle must be left out: gaussian has none, got 0\.0"),
        ({"angle": "up"}, r"angle\n.*must be a number, or a pair \(low, high\) .*, got 'up'"),
        ({"border": "reflect"}, r"border must be one of 'reflect101', .*, got 'reflect'"),
        ({"file": "psf.npy"}, r"file must be left out: gaussian needs none, got 'psf\.npy'"),
        ({"p": 1.5}, r"p\n.*less than or equal to 1"),
    ],
    ids=str,
)
def test_parameters_that_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        KernelBlur(**{"family": "gaussian", "strength": 1.0, **arguments})


def test_a_strength_is_needed() -> None:
    with pytest.raises(ValueError, match=r"strength\n.*Field required"):
        KernelBlur("gaussian")  # type: ignore[call-arg]


@pytest.mark.parametrize("family", [name for name, known in FAMILIES.items() if known.from_file])
def test_a_file_that_cannot_be_used_is_told_at_once(family: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nowhere\.npy"):
        KernelBlur(family, (0, 1), file=str(tmp_path / "nowhere.npy"))
    with pytest.raises(ValueError, match=r"file must be a \.npy file or an image, got None"):
        KernelBlur(family, 1)


@pytest.mark.parametrize("family", ["zoom", "glass"])
def test_a_family_without_a_kernel_is_refused(family: str) -> None:
    with pytest.raises(ValueError, match=r"family must be one of 'gaussian', .*, got"):
        KernelBlur(family, 1)


def test_a_path_is_taken_as_a_file(psf_file: Path) -> None:
    for family, known in FAMILIES.items():
        if known.from_file:
            made: Any = KernelBlur(family, 1, file=psf_file)  # type: ignore[arg-type]
            assert made.file == str(psf_file)


# which albumentations


def pretend(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


@pytest.mark.parametrize(
    ("versions", "sentence"),
    [
        (
            {"albumentations": "2.0.9"},
            "albumentations is installed in version 2.0.9, and blurtrain needs 2.0.8: "
            "run pip install albumentations==2.0.8",
        ),
        (
            {},
            "albumentations is not installed, and blurtrain needs 2.0.8: run pip install albumentations==2.0.8",
        ),
        (
            {"albumentations": "2.0.8", "albumentationsx": "2.1.0"},
            "AlbumentationsX 2.1.0 is installed, whose licence is AGPL and which takes the import name of "
            "albumentations 2.0.8: run pip uninstall albumentationsx, then pip install albumentations==2.0.8",
        ),
    ],
    ids=["other version", "missing", "successor"],
)
def test_another_albumentations_is_refused(
    versions: dict[str, str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, **versions)
    with pytest.raises(ConfigError) as refused:
        require_albumentations()
    assert str(refused.value) == sentence


def test_the_right_one_is_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    require_albumentations()
    pretend(monkeypatch, albumentations="2.0.8")
    require_albumentations()


REFUSED = """
import importlib.metadata, sys
version = importlib.metadata.version
importlib.metadata.version = lambda name: "2.1.0" if name == "albumentationsx" else version(name)
from blurtrain.errors import BlurtrainError
try:
    import blurtrain.transforms
except BlurtrainError as error:
    print(str(error).split(",")[0], [m for m in sys.modules if m.startswith(("albumentations", "albucore"))])
"""


def test_the_successor_is_refused_before_its_import() -> None:
    done = subprocess.run([sys.executable, "-c", REFUSED], capture_output=True, text=True, check=True)
    assert done.stdout == "AlbumentationsX 2.1.0 is installed []\n"


QUIET = """
import os, sys, urllib.request
os.environ.pop("NO_ALBUMENTATIONS_UPDATE", None)
urllib.request.build_opener = lambda *_: sys.exit("asked the network")
import blurtrain.transforms, albumentations
print(albumentations.__version__)
"""


def test_the_import_does_not_ask_the_network() -> None:
    done = subprocess.run([sys.executable, "-W", "error", "-c", QUIET], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "2.0.8\n")


# draws that depend on nothing but seed, epoch and image


def user_pipeline() -> A.Compose:
    """Every kind of random choice, nested."""
    return A.Compose(
        [
            A.HorizontalFlip(p=0.5),
            A.OneOf(
                [KernelBlur("gaussian", (0.5, 3)), KernelBlur("box", (3, 7)), A.Sequential([A.Transpose()])], p=0.8
            ),
            A.SomeOf([A.VerticalFlip(), A.RandomBrightnessContrast(), A.GaussNoise()], n=2),
            KernelBlur("gaussian", (0.5, 2), p=0.5),
        ]
    )


def square(index: int) -> np.ndarray:
    return random_image((16, 16, 3), index)


class Augmented(Dataset[tuple[int, np.ndarray]]):
    """Images by index, freshly augmented in each epoch."""

    def __init__(self, epoch: int, seed: int = 0) -> None:
        self.epoch, self.seed, self.pipeline = epoch, seed, user_pipeline()

    def __len__(self) -> int:
        return 12

    def __getitem__(self, index: int) -> tuple[int, np.ndarray]:
        return index, apply_seeded(self.pipeline, square(index), seed=self.seed, epoch=self.epoch, index=index)


def loaded(epoch: int, **options: Any) -> np.ndarray:  # noqa: ANN401 - whatever a loader takes
    """All images of an epoch in their order, whatever the loader's."""
    batches = list(DataLoader(Augmented(epoch), **options))
    order = np.concatenate([indices.numpy() for indices, _ in batches])
    images = np.concatenate([batch.numpy() for _, batch in batches])
    return np.asarray(images[np.argsort(order)])


# From Python 3.12 on a fork beside running threads is warned of; the workers touch none of them.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_order_and_batches_change_nothing() -> None:
    epochs = []
    for epoch in (0, 1):
        alone = loaded(epoch, batch_size=4)
        np.testing.assert_array_equal(loaded(epoch, batch_size=4, num_workers=2), alone)
        np.testing.assert_array_equal(loaded(epoch, batch_size=5, num_workers=2, shuffle=True), alone)
        np.testing.assert_array_equal(loaded(epoch, batch_size=1, shuffle=True), alone)
        epochs.append(alone)
    changed = [not np.array_equal(*pair) for pair in zip(*epochs, strict=True)]
    assert sum(changed) >= 11  # of 12: a second epoch shows other images


def test_what_was_applied_before_changes_nothing() -> None:
    fresh = apply_seeded(user_pipeline(), square(3), seed=1, epoch=2, index=3)
    used = user_pipeline()
    for index in (7, 1):
        apply_seeded(used, square(index), seed=9, epoch=9, index=index)
    np.testing.assert_array_equal(apply_seeded(used, square(3), seed=1, epoch=2, index=3), fresh)


@pytest.mark.parametrize("key", ["seed", "epoch", "index"])
def test_seed_epoch_and_image_each_matter(key: str) -> None:
    transform = KernelBlur("gaussian", (0.1, 5), p=1)
    image, strengths = square(0), set()
    for number in (0, 1, 2, 2**31, 2**32 - 1):
        apply_seeded(transform, image, **{"seed": 0, "epoch": 0, "index": 0, key: number})
        strengths.add(transform.get_applied_params()["strength"])
    assert len(strengths) == 5


def test_the_three_numbers_are_not_added_up() -> None:
    transform = KernelBlur("gaussian", (0.1, 5), p=1)
    strengths = set()
    for seed, epoch, index in np.ndindex(3, 3, 3):
        apply_seeded(transform, square(0), seed=seed, epoch=epoch, index=index)
        strengths.add(transform.get_applied_params()["strength"])
    assert len(strengths) == 27


def test_a_seed_may_be_as_large_as_a_config_allows() -> None:
    transform = KernelBlur("gaussian", (0.1, 5), p=1)
    first, second = (apply_seeded(transform, square(0), seed=2**63 - n, epoch=0, index=0) for n in (1, 2))
    assert not np.array_equal(first, second)


def test_parts_of_a_pipeline_draw_independently() -> None:
    """With equal seeds in every part, two flips of one probability would always come together."""
    pipeline = A.Compose(
        [A.HorizontalFlip(), A.VerticalFlip(), KernelBlur("gaussian", (1, 2), p=1), KernelBlur("gaussian", (1, 2), p=1)]
    )
    pipeline.save_applied_params = True
    flips, strengths = Counter[tuple[str, ...]](), []
    for index in range(200):
        apply_seeded(pipeline, square(0), seed=0, epoch=0, index=index)
        applied = [part for part in pipeline.transforms if part.get_applied_params()]
        flips[tuple(type(part).__name__ for part in applied[:-2])] += 1
        strengths.append([part.get_applied_params()["strength"] for part in pipeline.transforms[-2:]])
    assert len(flips) == 4
    assert min(flips.values()) > 25  # of 50, four standard deviations
    assert abs(np.corrcoef(np.array(strengths).T)[0, 1]) < 4 / np.sqrt(200)
