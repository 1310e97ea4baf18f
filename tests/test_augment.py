"""Copies that albumentations pipelines draw: beside pipelines run by hand, and beside arms that must be the same."""

import json
import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from blurtrain import (
    batches,
    choosing,
    controls,
    experiment,
    features,
    forecast,
    images,
    options,
    pipelines,
    preparation,
    previews,
    report,
    runs,
    training,
    transforms,
)
from blurtrain.arms import TWICE, WIDER
from blurtrain.backbones import load
from blurtrain.blur import blur_pixels
from blurtrain.cli import main
from blurtrain.config import AugmentConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, MinibatchConfig
from blurtrain.errors import ConfigError, RunError
from blurtrain.images import ImageSet
from blurtrain.views import CLEAN, Blur, Drawn

import albumentations as A  # isort: skip - after the module that looks at what is installed

pytestmark = pytest.mark.usefixtures("quiet")
PAGE = (Path(__file__).parents[1] / "docs" / "augmentation.md").read_text(encoding="utf-8")
NAME = "__class_fullname__"
KERNEL = "blurtrain.transforms.KernelBlur"
IDS = np.array([f"{number:032x}".encode() for number in (7, 1, 99, 2**127, 5, 4, 3, 12)], "S32")
HEADS = ("head.safetensors", "heads-folds.safetensors")


def step(name: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever transforms take
    return {NAME: name, "p": 0.5, **parameters}


def composed(*steps: dict[str, Any], **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - as above
    return {"transform": {NAME: "Compose", "transforms": list(steps), **parameters}}


NOTHING = composed(step("NoOp", p=1.0))
LIVELY = composed(step("HorizontalFlip"), step("RandomBrightnessContrast", p=0.9), step("GaussNoise", p=0.9))


def view(pipeline: dict[str, Any], seed: int = 0, copy: int = 1) -> Drawn:
    return Drawn(json.dumps(pipeline), seed, copy)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """A small arm of two lively copies and no blurred ones."""
    return Config(
        name="small",
        data=DataConfig(glyphs=GlyphsConfig(train=60, test=40)),
        copies=(),
        augment=AugmentConfig(LIVELY, copies=2),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0, 3.0)),),
        head=HeadConfig(folds=3, l2=(0.1, 1.0)),
        minibatch=MinibatchConfig(epochs=2, learning_rate=0.01, seed=4),
        batch_size=16,
        runs=tmp_path / "runs",
        cache=tmp_path / "cache",
    )


def trained(config: Config) -> Path:
    return training.train(config, preparation.prepare(config))


def heads(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in HEADS]


# what is drawn


def test_what_is_drawn_is_what_the_pipeline_gives_by_hand(pixels: np.ndarray) -> None:
    found = pipelines.drawn(pixels, IDS, view(LIVELY, seed=3, copy=2), epoch=5)
    for image, content, seen in zip(pixels, IDS, found, strict=True):
        sequence = np.random.SeedSequence(3, spawn_key=(2, 5, int(content, 16)))
        number = int.from_bytes(sequence.generate_state(4).tobytes(), "little")
        pipeline = A.from_dict(LIVELY)
        pipeline.set_random_state(np.random.default_rng(sequence), random.Random(number))
        by_hand = pipeline(image=image.transpose(1, 2, 0).copy())["image"]
        np.testing.assert_array_equal(seen, by_hand.transpose(2, 0, 1))


def test_a_flip_is_a_flip_and_a_blur_is_the_packages_own(pixels: np.ndarray) -> None:
    flipped = pipelines.drawn(pixels, IDS, view(composed(step("HorizontalFlip", p=1.0))))
    np.testing.assert_array_equal(flipped, pixels[..., ::-1])
    blurred = pipelines.drawn(pixels, IDS, view(composed(step(KERNEL, family="gaussian", strength=1.5, p=1.0))))
    np.testing.assert_array_equal(blurred, np.rint(255 * blur_pixels(pixels, Blur("gaussian", 1.5))))


def test_draws_follow_from_content_seed_copy_and_epoch_alone(pixels: np.ndarray) -> None:
    lively, order = view(LIVELY), np.array([3, 1, 0, 7, 6, 5, 4, 2])
    whole = pipelines.drawn(pixels, IDS, lively)
    alone = [pipelines.drawn(pixels[i : i + 1], IDS[i : i + 1], lively)[0] for i in range(len(IDS))]
    np.testing.assert_array_equal(alone, whole)
    np.testing.assert_array_equal(pipelines.drawn(pixels[order], IDS[order], lively), whole[order])
    others = [
        pipelines.drawn(pixels, IDS, view(LIVELY, seed=1)),
        pipelines.drawn(pixels, IDS, view(LIVELY, copy=2)),
        pipelines.drawn(pixels, IDS, lively, epoch=1),
        pipelines.drawn(pixels, IDS[::-1], lively),
    ]
    for i, other in enumerate([whole, *others]):
        for later in [whole, *others][i + 1 :]:
            assert all(not np.array_equal(one, two) for one, two in zip(other, later, strict=True))


def test_global_generators_play_no_part_and_are_left_alone(pixels: np.ndarray) -> None:
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is the point
    states = random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index] # noqa: NPY002
    first = pipelines.drawn(pixels, IDS, view(LIVELY))
    assert random.getstate() == states[0]
    np.testing.assert_array_equal(np.random.get_state()[1], states[1])  # type: ignore[index] # noqa: NPY002
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    np.testing.assert_array_equal(pipelines.drawn(pixels, IDS, view(LIVELY)), first)


def test_threads_do_not_disturb_each_other(pixels: np.ndarray) -> None:
    pipeline = view(composed(step("OneOf", p=1.0, transforms=[step("ISONoise"), step("GaussNoise"), step("Sharpen")])))
    expected = pipelines.drawn(pixels, IDS, pipeline)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(lambda _: pipelines.drawn(pixels, IDS, pipeline), range(40)):
            np.testing.assert_array_equal(found, expected)


def test_every_transform_that_makes_images_of_images_draws_the_same_again(pixels: np.ndarray) -> None:
    """In an order that shows what one image leaves behind for the next."""
    taken = []
    for name in pipelines.known():
        pipeline = view(composed(step(name, p=1.0)))
        try:
            pipelines.check(pipeline, pixels.shape[-1])
        except ConfigError:
            continue  # it has parameters without defaults, or makes something else: other tests look at these
        taken.append(name)
        first = pipelines.drawn(pixels[:3], IDS[:3], pipeline)
        again = pipelines.drawn(pixels[[2, 0, 1]], IDS[[2, 0, 1]], pipeline)
        np.testing.assert_array_equal(again, first[[2, 0, 1]], err_msg=name)
    assert len(taken) > 75
    assert {"Affine", "ElasticTransform", "CLAHE", "ImageCompression", "RandomFog", "Superpixels", "MotionBlur"} <= {
        *taken
    }


# arms that must come out the same


def test_a_pipeline_that_does_nothing_is_the_duplicated_arm(config: Config) -> None:
    nothing = replace(config, augment=AugmentConfig(NOTHING, copies=2))
    duplicated = replace(config, copies=(BlurGrid("gaussian", (0.5, 1.0)),), augment=AugmentConfig(), duplicated=True)
    assert heads(trained(nothing)) == heads(trained(duplicated))
    control = replace(nothing, duplicated=True, name="control")
    assert heads(trained(control)) == heads(trained(duplicated))


def test_nothing_drawn_anew_in_every_epoch_is_the_duplicated_arm(config: Config) -> None:
    nothing = replace(config, augment=AugmentConfig(NOTHING), cache=False)
    duplicated = replace(nothing, copies=(BlurGrid("gaussian", (1.0,)),), augment=AugmentConfig(), duplicated=True)
    assert heads(trained(nothing)) == heads(trained(duplicated))


@pytest.mark.parametrize("change", [{"bn": "adapt"}, {"tune": "head+bn", "cache": False}], ids=str)
def test_batch_norms_see_the_copies_too(config: Config, change: dict[str, Any]) -> None:
    quick = replace(config, head=HeadConfig(folds=2, l2=(1.0,)), minibatch=MinibatchConfig(epochs=1), **change)
    nothing = replace(quick, augment=AugmentConfig(NOTHING))
    duplicated = replace(nothing, copies=(BlurGrid("gaussian", (1.0,)),), augment=AugmentConfig(), duplicated=True)
    lively = replace(quick, augment=AugmentConfig(LIVELY), name="lively")
    same, other = (load_file(trained(arm) / "batchnorm.safetensors") for arm in (nothing, lively))
    for key, norm in load_file(trained(duplicated) / "batchnorm.safetensors").items():
        np.testing.assert_array_equal(same[key], norm)
    assert any(not np.array_equal(other[key], same[key]) for key in same)


def test_drawn_blurs_are_nearly_the_blurred_copies(config: Config) -> None:
    """They differ by rounding to 8 bit."""
    pipeline = composed(step(KERNEL, family="gaussian", strength=1.0, p=1.0))
    drawn = load_file(trained(replace(config, augment=AugmentConfig(pipeline))) / HEADS[0])
    blurred = replace(config, augment=AugmentConfig(), copies=(BlurGrid("gaussian", (1.0,)),))
    plain = load_file(trained(config.baseline()) / HEADS[0])
    expected = load_file(trained(blurred) / HEADS[0])
    assert (
        np.abs(drawn["weight"] - expected["weight"]).max() < 0.02 * np.abs(plain["weight"] - expected["weight"]).max()
    )


# what is stored


def test_stored_features_are_those_of_the_drawn_pixels(config: Config) -> None:
    ready = preparation.prepare(config)
    trained(config)
    assert ready.store is not None
    loaded, train = ready.images, ready.images.train
    for drawn in config.drawn_views:
        seen = pipelines.drawn(loaded.read_pixels(train), loaded.ids[train], drawn)
        expected = ready.engine(seen, CLEAN)
        np.testing.assert_allclose(ready.store.read(drawn, loaded, train), expected, atol=1e-5)


def test_copies_pass_the_backbone_once_and_test_images_never(config: Config) -> None:
    def passes(arm: Config) -> int:
        count: int = json.loads((trained(arm) / runs.WORK).read_text())["forward_passes"]["computed"]
        return count

    assert passes(config) == 60 * 3 + 40 * 4
    assert passes(replace(config, name="again")) == 0
    assert passes(replace(config, name="more", augment=replace(config.augment, copies=3))) == 60
    assert passes(replace(config, name="seed", augment=replace(config.augment, seed=1))) == 120
    assert passes(replace(config, name="other", augment=AugmentConfig(NOTHING))) == 60


def test_a_killed_extraction_goes_on_to_the_same_bytes(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = heads(trained(config))
    monkeypatch.setattr(features, "SHARD_ROWS", 16)
    broken = replace(config, cache=Path(config.runs).parent / "other", runs=Path(config.runs).parent / "elsewhere")
    draw, left = pipelines.drawn, [3]

    def interrupted(*arguments: Any, **named: Any) -> np.ndarray:  # noqa: ANN401 - passed on
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return draw(*arguments, **named)

    monkeypatch.setattr(pipelines, "drawn", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trained(broken)
    monkeypatch.setattr(pipelines, "drawn", draw)
    assert heads(trained(broken)) == whole


def test_the_run_folder_holds_what_albumentations_loads(config: Config) -> None:
    pipeline = composed(step("HorizontalFlip"), step(KERNEL, family="gaussian", strength=[0, 2]))
    folder = trained(replace(config, augment=AugmentConfig(pipeline)))
    expected = A.to_dict(A.Compose([A.HorizontalFlip(), transforms.KernelBlur("gaussian", (0, 2))]))
    assert A.to_dict(A.load(folder / pipelines.FILE)) == expected
    assert runs.read_config(folder).augment.pipeline == pipeline
    result = runs.load_run(folder).result
    assert (result["arm"], result["copies"]) == ("albumentations", ["albumentations 1"])
    assert result["versions"]["albumentations"] == "2.0.8"
    assert pipelines.FILE in result["files"]


# anew in every epoch


def test_the_number_of_workers_changes_no_byte(config: Config) -> None:
    folders = [
        trained(replace(config, cache=False, name=f"w{workers}", minibatch=replace(config.minibatch, workers=workers)))
        for workers in (0, 1, 2)
    ]
    first, *others = [heads(folder) for folder in folders]
    assert others == [first, first]
    lame = replace(config, cache=False, name="lame", augment=AugmentConfig(NOTHING, copies=2))
    assert heads(trained(lame)) != first


@pytest.fixture
def digits(config: Config) -> ImageSet:
    return images.load(config.data, load(config.backbone).preprocessing.geometry, config.cache)


def test_epochs_and_copies_draw_anew_whatever_the_place(config: Config, digits: ImageSet) -> None:
    views = config.train_views
    dataset = batches.ViewDataset(digits, digits.train, views)
    turned = batches.ViewDataset(digits, digits.train[::-1].copy(), views)
    count = len(digits.train)
    for epoch in (0, 1):
        for slot, drawn in enumerate(config.drawn_views, 1):
            some = digits.train[:1]
            seen = pipelines.drawn(digits.read_pixels(some), digits.ids[some], drawn, epoch)
            expected = blur_pixels(seen, CLEAN)[0]
            np.testing.assert_array_equal(dataset[epoch, slot * count].images, expected)
            np.testing.assert_array_equal(turned[epoch, slot * count + count - 1].images, expected)
    shown = [dataset[epoch, slot * count].images.numpy().tobytes() for epoch in (0, 1) for slot in (1, 2)]
    assert len(set(shown)) == 4
    assert dataset[0, 0].images.equal(dataset[1, 0].images)  # the clean view stays


# configs


def test_a_pipeline_is_part_of_the_identity_where_there_is_one(config: Config) -> None:
    plain = replace(config, augment=AugmentConfig())
    assert "augment" not in plain.identity()
    augment = config.augment
    arms = [augment, replace(augment, copies=3), replace(augment, seed=1), AugmentConfig(NOTHING, copies=2)]
    identities = [json.dumps(replace(config, augment=one).identity()) for one in (AugmentConfig(), *arms)]
    assert len(set(identities)) == 5
    assert runs.config_from(options.read_yaml(runs.dump_config(config))).identity() == config.identity()


def test_a_run_is_not_taken_for_one_of_another_pipeline(config: Config) -> None:
    trained(config)
    assert runs.is_finished(config)
    with pytest.raises(RunError, match=r"augment\.seed"):
        runs.is_finished(replace(config, augment=replace(config.augment, seed=1)))


@pytest.mark.parametrize(
    ("change", "arm"),
    [
        ({}, "albumentations"),
        ({"duplicated": True}, "duplicated-albumentations"),
        ({"bn": "adapt"}, "albumentations-bn-adapt"),
        ({"copies": (BlurGrid("gaussian", (1.0,)),)}, "augmented-albumentations"),
        ({"copies": (BlurGrid("gaussian", (1.0,)),), "augment": AugmentConfig()}, "augmented"),
        ({"augment": AugmentConfig()}, "baseline"),
    ],
)
def test_arms_have_names_of_their_own(config: Config, change: dict[str, Any], arm: str) -> None:
    changed = replace(config, **change)
    assert changed.arm == arm
    assert changed.baseline().arm == "baseline"
    assert changed.baseline().train_views == (CLEAN,)
    assert hash(changed) == hash(replace(changed))


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_files_of_albumentations_are_taken(suffix: str, config: Config, tmp_path: Path) -> None:
    pipeline = A.Compose([A.HorizontalFlip(p=0.5), A.OneOf([A.GaussNoise(p=1), A.ISONoise(p=0.2)], p=0.7)])
    file = tmp_path / f"mine.{suffix}"
    A.save(pipeline, file, data_format=suffix)
    read = AugmentConfig(str(file))
    assert read == AugmentConfig(A.to_dict(pipeline))
    pipelines.check(replace(config, augment=read).drawn_views[0], 64)
    file.unlink()  # it was read once
    written = options.read_yaml(runs.dump_config(replace(config, augment=read)))
    assert runs.config_from(written).augment == read


def test_the_command_line_takes_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    A.save(A.Compose([A.HorizontalFlip(p=0.5)]), "mine.json")
    words = ["--data.glyphs.train", "60", "--data.glyphs.test", "40", "--head.folds", "2", "--copies", "[]"]
    assert main(["compare", *words, "--augment.pipeline", "mine.json", "--augment.copies", "2", "--name", "cli"]) == 0
    out = capsys.readouterr().out
    assert "baseline  albumentations" in out
    assert "* heavy: the wider half of the sweep, as no arm has blurred copies; p of" in out
    assert "runs/compare-cli-albumentations" in out


# what is refused


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        (composed(step("HorizontalFlp")), r"transform 'HorizontalFlp' is not known: did you mean 'HorizontalFlip'\?"),
        (
            composed(step("KernelBlur")),
            r"'KernelBlur' is not known: did you mean 'blurtrain\.transforms\.KernelBlur'\?",
        ),
        (composed(step("os.system")), r"transform 'os\.system' is not known: docs/augmentation\.md says which are"),
        (composed(step("tests.test_augment.Mine")), r"transform 'tests\.test_augment\.Mine' is not known"),
        (composed(step("BasicTransform")), r"transform 'BasicTransform' is not known"),
        (composed(step("BboxParams")), r"transform 'BboxParams' is not known"),
        (composed(step("Lambda", image="print")), r"Lambda is code, which no file may hold"),
        (composed(step("albumentations.Lambda")), r"albumentations\.Lambda is code"),
        (composed({NAME: "HorizontalFlip"}), r"HorizontalFlip has no p: give the probability"),
        (composed({"p": 0.5}), r"a transform must have the key '__class_fullname__', such as HorizontalFlip, got"),
        (composed({NAME: ["Flip"]}), r"a transform must have the key '__class_fullname__'"),
        (composed(transforms="all"), r"transforms of Compose must be a list, got 'all'"),
        (
            composed(step("GaussianBlur", sigma_limits=3)),
            r"GaussianBlur has no parameter 'sigma_limits': did you mean ",
        ),
        (composed(step("HorizontalFlip", always_apply=True)), r"HorizontalFlip has no parameter 'always_apply'"),
        (
            composed(step("HorizontalFlip", p=1.5)),
            r"cannot be used: p: Input should be less than or equal to 1, got 1\.5",
        ),
        (composed(step("GaussianBlur", sigma_limit="x")), r"cannot be used: sigma_limit: .*, got 'x'"),
        (composed(step(KERNEL, family="gauss", strength=1)), r"cannot be used: family must be one of .*, got 'gauss'$"),
        (composed(step(KERNEL, family="psf", strength=1, file="a.npy")), r"KernelBlur may read no file"),
        (composed(step("TextImage", font_path="a.ttf")), r"TextImage may read no file"),
        (composed(step("FDA", reference_images=["a.png"])), r"cannot be used: 'reference_images' and"),
        (
            composed(step("HorizontalFlip"), seed=3),
            r"seed of Compose must be left out: all draws follow from augment\.seed",
        ),
        ({**NOTHING, "__version__": "1.4.0"}, r"was saved by albumentations 1\.4\.0: save it by 2\.0\.8"),
        ({**NOTHING, "lambda_transforms": {}}, r"has the key 'lambda_transforms' beside 'transform'"),
        (composed(step("RandomCrop", height=32, width=48)), r"network's 64 x 64 px, got 32 x 48: leave out"),
        (composed(step("RandomCrop", height=32, width=32, p=1e-9)), r"network's 64 x 64 px, got 32 x 32: leave out"),
        (composed(step("RandomCrop", height=99, width=99)), r"fails on an 8-bit image of 64 x 64 px: "),
        (composed(step("Normalize")), r"must give 8-bit images, got float32: leave out Normalize"),
        (composed(step("ToTensorV2")), r"must give 8-bit images, got Tensor: leave out Normalize"),
        (composed(step("ToFloat")), r"must give 8-bit images, got float32"),
        (composed(step("ToGray", num_output_channels=1)), r"fails|must"),
        (composed(step("MaskDropout")), r"fails on an 8-bit image of 64 x 64 px: MaskDropout requires \['mask'\]"),
        (composed(step("Mosaic")), r"fails on an 8-bit image of 64 x 64 px: Mosaic requires"),
    ],
    ids=str,
)
def test_pipelines_that_are_refused(pipeline: dict[str, Any], words: str, config: Config) -> None:
    bad = replace(config, augment=AugmentConfig(pipeline))
    with pytest.raises(ConfigError, match=words) as caught:
        preparation.prepare(bad)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("augment.pipeline")
    assert not Path(str(config.cache)).exists()  # no image was decoded


@pytest.mark.parametrize(
    "pipeline",
    [
        composed(step("RandomCrop", height=64, width=64)),
        composed(step("RandomResizedCrop", size=[64, 64])),
        composed(step("ToFloat", max_value=255, p=1), step("FromFloat", dtype="uint8", max_value=255, p=1)),
        {"transform": step("HorizontalFlip")},
        {"transform": step("albumentations.augmentations.geometric.flip.HorizontalFlip")},
        composed(step("Sequential", transforms=[step("SomeOf", n=1, transforms=[step("NoOp"), step("Blur")])])),
        A.to_dict(A.ReplayCompose([A.Rotate()])),
    ],
    ids=str,
)
def test_pipelines_that_are_taken(pipeline: dict[str, Any]) -> None:
    pipelines.check(view(json.loads(json.dumps(pipeline))), 64)


def test_what_the_trial_does_not_meet_is_told_when_it_comes(pixels: np.ndarray) -> None:
    rare = step("CenterCrop", height=9, width=9, p=1e-12)
    pipeline = view(composed(step("OneOf", p=1.0, transforms=[rare, step("NoOp", p=1.0)])))
    ids = np.array([f"{number:032x}".encode() for number in range(64)], "S32")
    seldom = view(composed(step("OneOf", p=1.0, transforms=[{**rare, "p": 0.5}, step("NoOp", p=1.0)])))
    pipelines.drawn(pixels, IDS, pipeline)
    with pytest.raises(ConfigError, match="must keep images at the network's 64 x 64 px, got 9 x 9"):
        pipelines.drawn(np.repeat(pixels, 8, axis=0), ids, seldom)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", "{", r"a\.json is no valid JSON"),
        ("a.json", "[" * 100_000, r"a\.json is no valid JSON"),
        ("a.json", "[1]", r"augment\.pipeline must be a dictionary as albumentations\.to_dict gives it"),
        ("a.json", "{}", r"augment\.pipeline must be a dictionary as albumentations\.to_dict gives it"),
        ("a.json", '{"transform": {"p": NaN}}', r"a value in augment\.pipeline must be a text or a number, got nan"),
        ("a.json", '{"transform": ' * 20 + "{}" + "}" * 20, r"lists and keys lie more than 12 deep"),
        ("a.json", " " * 1_000_001, r"a\.json is larger than 1000000 bytes"),
        ("a.yaml", "a: &a [1]\ntransform: {b: *a}", r"a\.yaml is no valid YAML \(it has the alias \*a"),
        ("a.yaml", "transform: !!python/object/apply:os.getcwd []", r"a\.yaml is no valid YAML"),
        ("a.yaml", "transform: {1: 2}", r"a key in augment\.pipeline must be a text, got 1"),
        ("a.yaml", "transform: {a: 2020-01-01}", r"a value in augment\.pipeline must be a text or a number, got dat"),
        ("a.pkl", "", r"augment\.pipeline must be a dictionary .* or a \.json or \.yaml file of one, got '.*a\.pkl'"),
    ],
)
def test_files_that_are_refused(name: str, text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        AugmentConfig(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: AugmentConfig("nowhere.json"), r"nowhere\.json cannot be read \(No such file or directory\)"),
        (lambda: AugmentConfig(copies=2), r"augment\.pipeline must be given beside augment\.copies and augment\.seed"),
        (lambda: AugmentConfig(seed=2), r"augment\.pipeline must be given beside"),
        (lambda: AugmentConfig(NOTHING, copies=0), r"augment\.copies must be from 1 to 100, got 0"),
        (lambda: AugmentConfig(NOTHING, seed=-1), r"augment\.seed must be from 0 to 2\*\*63 - 1, got -1"),
    ],
)
def test_keys_that_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make()


def test_the_successor_is_refused_before_any_work(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"albumentationsx": "2.0.11", "albumentations": None}
    monkeypatch.setattr(transforms, "_installed", installed.get)
    with pytest.raises(ConfigError, match=r"AlbumentationsX 2\.0\.11 is installed, whose licence is AGPL"):
        preparation.prepare(config)
    assert not Path(str(config.cache)).exists()
    preparation.prepare(replace(config, augment=AugmentConfig()))  # which needs none


# other commands


def test_without_blurred_copies_the_wider_half_is_heavy(config: Config) -> None:
    folder = experiment.compare(config)
    compared = experiment.read_comparison(folder)
    assert folder == config.comparison_folder
    assert [one["heavy"] for one in compared["views"]] == [False, False, True, True]
    assert compared["heavy_is"] == WIDER
    blurred = replace(config, copies=(BlurGrid("gaussian", (1.5,)),))
    arms = [experiment.train(blurred), config.run_folder, config.baseline().run_folder]
    every = experiment.read_comparison(experiment.compare_runs(arms))
    assert list(every["arms"]) == ["baseline", "augmented-albumentations", "albumentations"]
    assert [one["heavy"] for one in every["views"]] == [False, False, False, True]
    assert TWICE in report.terminal_table(every)
    old = {key: value for key, value in every.items() if key != "heavy_is"}
    assert report.terminal_table(old) == report.terminal_table(every)


@pytest.mark.parametrize("cache", [True, False])
def test_the_forecast_counts_the_copies(config: Config, cache: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "RUNNING", 0.01)
    monkeypatch.setattr(forecast, "DECODING", 0.01)
    arm = config if cache else replace(config, cache=False)
    found = forecast.forecast([arm])
    done = json.loads((trained(arm) / runs.WORK).read_text())["forward_passes"]
    assert found.forward_passes == done["computed"]


def test_recommend_chooses_blurs_beside_the_pipelines_copies(config: Config, tmp_path: Path) -> None:
    found = experiment.recommend(config, tmp_path / "out.yaml")
    chosen = runs.config_from(options.read_yaml((tmp_path / "out.yaml").read_text()))
    assert chosen.augment == config.augment
    assert [one.name for one in chosen.copy_views] == found["chosen"]
    assert found["against"] == [one.name for one in choosing.targets(config, 64)] == ["gaussian 2", "gaussian 3"]
    assert experiment.forecast_recommend(config)


def test_evidence_refuses_a_pipeline(config: Config) -> None:
    both = replace(config, copies=(BlurGrid("gaussian", (1.0,)),))
    with pytest.raises(ConfigError, match="augment must be left out for evidence, which looks at blurred copies alone"):
        controls.check(both)


def test_the_preview_shows_what_is_trained_on(config: Config, digits: ImageSet) -> None:
    sheet = previews.sheet(config, 3)
    assert sheet.summary == "3 training images, clean and through 3 blurs and 2 copies by albumentations"
    assert [sheet.heading(one) for one in sheet.views[-2:]] == ["albumentations 1 (copy)", "albumentations 2 (copy)"]
    clean = {digits.read_pixels(digits.train[i : i + 1])[0].tobytes(): i for i in range(len(digits.train))}
    for row in sheet.rows:
        factor = len(row.pictures[0]) // 64
        pictures = [np.ascontiguousarray(one[::factor, ::factor].transpose(2, 0, 1)) for one in row.pictures]
        some = digits.train[clean[pictures[0].tobytes()]][None]
        for drawn, picture in zip(config.drawn_views, pictures[-2:], strict=True):
            np.testing.assert_array_equal(
                pipelines.drawn(digits.read_pixels(some), digits.ids[some], drawn)[0], picture
            )


# the page


EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_pages_configs_train(example: str, config: Config) -> None:
    values = yaml.safe_load(example)
    given = runs.config_from(options.read_yaml(example))
    assert {"augment", "copies"} == set(values)
    arm = replace(config, augment=given.augment, copies=given.copies)
    folder = trained(arm)
    names = [f"albumentations {copy}" for copy in range(1, values["augment"]["copies"] + 1)]
    assert runs.load_run(folder).result["copies"][-len(names) :] == names


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 2


def test_the_pages_program_saves_what_the_page_was_run_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(program, "page", "exec"), {})
    given = AugmentConfig("mine.json")
    assert isinstance(given.pipeline, dict)
    pipelines.check(view(given.pipeline), 64)


def test_a_pipeline_is_told_by_what_it_applies() -> None:
    one_of = {NAME: "OneOf", "p": 1.0, "transforms": [step("GaussNoise"), step(KERNEL, family="box", strength=[1, 2])]}
    told = pipelines.in_words(view(composed(step("HorizontalFlip"), one_of)))
    assert told == "HorizontalFlip, GaussNoise, KernelBlur"
    assert pipelines.in_words(view({"transform": step("albumentations.NoOp")})) == "NoOp"
