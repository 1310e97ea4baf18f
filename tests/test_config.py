"""What a config may say, and what two configs that differ in their copies share."""

import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, plain
from blurtrain.errors import ConfigError
from blurtrain.kernels import is_heavy
from blurtrain.runs import config_from
from blurtrain.views import CLEAN, Blur, RealView

CONFIGS = Path(__file__).parents[1] / "configs"

SEVERITY_OF = "severity must be left out: only gaussian, defocus, motion, zoom, glass"
ZOOM_HAS = "strengths of zoom must be left out: zoom has ImageNet-C's severities"
REFUSED: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (BlurGrid, {}, "strengths must be a list of at least one number, got []"),
    (BlurGrid, {"strengths": (-1.0,)}, "strength of gaussian must be a number from 0 to 1000 px, got -1.0"),
    (BlurGrid, {"strengths": (1.0, 1000.5)}, "strength of gaussian must be a number from 0 to 1000 px, got 1000.5"),
    (BlurGrid, {"strengths": (math.nan,)}, "strength of gaussian must be a number from 0 to 1000 px, got nan"),
    (BlurGrid, {"strengths": (math.inf,)}, "strength of gaussian must be a number from 0 to 1000 px, got inf"),
    *(
        (BlurGrid, {"family": family, "strengths": (strength,)} | more, f"strength of {family} must be {rest}")
        for family, strength, more, rest in (
            ("box", 4.0, {}, "0 or an odd whole number of px from 3 to 999, got 4.0"),
            ("box", 1.0, {}, "0 or an odd whole number of px from 3 to 999, got 1.0"),
            ("defocus", -2.0, {}, "a number from 0 to 1000 px, got -2.0"),
            ("motion", 1001.0, {}, "a number from 0 to 1000 px, got 1001.0"),
            ("half-gaussian", 251.0, {}, "a number from 0 to 250 px, got 251.0"),
            ("psf", 16.5, {"file": "lens.npy"}, "a number from 0 to 16, got 16.5"),
        )
    ),
    (BlurGrid, {"severity": (0,)}, "severity of gaussian must be a whole number from 1 to 5, got 0"),
    (BlurGrid, {"family": "zoom", "severity": (1, 6)}, "severity of zoom must be a whole number from 1 to 5, got 6"),
    (BlurGrid, {"severity": (2, 2)}, "severity must be all different, got [2, 2]"),
    (BlurGrid, {"severity": (2,), "strengths": (1.0,)}, "strengths must be left out beside severity, got [1.0]"),
    (BlurGrid, {"family": "box", "severity": (2,)}, f"{SEVERITY_OF} have it, got 'box'"),
    (BlurGrid, {"severity": (2,), "border": "zero"}, "border must be left out: a severity has its own, got 'zero'"),
    (
        BlurGrid,
        {"family": "motion", "severity": (2,), "angle": 3.0},
        "angle must be left out: a severity draws one for every image, got 3.0",
    ),
    (
        BlurGrid,
        {"family": "glass", "severity": (2,), "file": "a.png"},
        "file must be left out: glass needs none, got 'a.png'",
    ),
    (
        BlurGrid,
        {"family": "zoom", "strengths": (1.1,)},
        f"{ZOOM_HAS} alone, such as severity: [1, 2, 3, 4, 5], got [1.1]",
    ),
    (BlurGrid, {"family": "glass"}, "severity of glass must be a list of numbers from 1 to 5, got []"),
    (DataConfig, {"view_seed": -1}, "data.view_seed must be from 0 to 2**63 - 1, got -1"),
    (Config, {"copies": (), "duplicated": True}, "duplicated must be false where there are no copies, got True"),
    (BlurGrid, {"strengths": (1.0,), "angle": 3.0}, "angle must be left out: gaussian has none, got 3.0"),
    (
        BlurGrid,
        {"family": "motion", "strengths": (1.0,), "angle": math.nan},
        "angle must be a finite number of degrees, got nan",
    ),
    (BlurGrid, {"family": "psf"}, "file must be a .npy file or an image, got None"),
    (BlurGrid, {"family": "box", "strengths": (3.0,), "file": "a"}, "file must be left out: box needs none, got 'a'"),
    (BlurGrid, {"strengths": (1.0, 2.0, 1.0)}, "strengths must be all different, got [1.0, 2.0, 1.0]"),
    (GlyphsConfig, {"train": 9}, "data.glyphs.train must be from 10 to 1000000, got 9"),
    (GlyphsConfig, {"test": 0}, "data.glyphs.test must be from 10 to 1000000, got 0"),
    (GlyphsConfig, {"seed": -1}, "data.glyphs.seed must be from 0 to 2**63 - 1, got -1"),
    (DataConfig, {"root": ""}, "data.root must be 'glyphs', a folder, or another source of docs/data.md, got ''"),
    (DataConfig, {"test_fraction": 0.0}, "data.test_fraction must be between 0 and 1, got 0.0"),
    (DataConfig, {"test_fraction": 1.0}, "data.test_fraction must be between 0 and 1, got 1.0"),
    (DataConfig, {"test_fraction": math.nan}, "data.test_fraction must be between 0 and 1, got nan"),
    (BackboneConfig, {"resize": 7}, "backbone.resize must be from 8 to 4096 px, got 7"),
    (BackboneConfig, {"crop": 4097}, "backbone.crop must be from 8 to 4096 px, got 4097"),
    (BackboneConfig, {"mean": (0.5, math.inf, 0.5)}, "backbone.mean must be three numbers from -1e6 to 1e6, got inf"),
    (BackboneConfig, {"std": (0.5, 0.0, 0.5)}, "backbone.std must be three numbers from 1e-6 to 1e6, got 0.0"),
    (BackboneConfig, {"std": (0.5, math.nan, 0.5)}, "backbone.std must be three numbers from 1e-6 to 1e6, got nan"),
    (BackboneConfig, {"sha256": "abc"}, "backbone.sha256 must be 64 hexadecimal digits, got 'abc'"),
    (BackboneConfig, {"sha256": "x" * 64}, f"backbone.sha256 must be 64 hexadecimal digits, got {'x' * 64!r}"),
    (HeadConfig, {"l2": ()}, "head.l2 must be a list of at least one number, got []"),
    (HeadConfig, {"l2": (0.1, 0.0)}, "head.l2 must be numbers from 1e-9 to 1e9, got 0.0"),
    (HeadConfig, {"l2": (math.nan,)}, "head.l2 must be numbers from 1e-9 to 1e9, got nan"),
    (HeadConfig, {"folds": 1}, "head.folds must be from 2 to 100, got 1"),
    (HeadConfig, {"folds": 101}, "head.folds must be from 2 to 100, got 101"),
    (HeadConfig, {"tolerance": 0.0}, "head.tolerance must be from 1e-10 to 0.01, got 0.0"),
    (HeadConfig, {"tolerance": 0.1}, "head.tolerance must be from 1e-10 to 0.01, got 0.1"),
    (Config, {"batch_size": 0}, "batch_size must be from 1 to 4096, got 0"),
    (Config, {"batch_size": 5000}, "batch_size must be from 1 to 4096, got 5000"),
    (
        Config,
        {"batch_size": 1, "bn": "adapt"},
        "batch_size must be from 2 to 4096 where statistics are taken of batches, got 1",
    ),
    (Config, {"name": "a/b"}, "name must be a file name without slashes and control characters, got 'a/b'"),
    (Config, {"name": ".."}, "name must be a file name without slashes and control characters, got '..'"),
    *(
        (Config, {"name": name}, f"name must be a name that YAML does not take for nothing, got {name!r}")
        for name in ("~", "Null", "#a", "&b")
    ),
    (Config, {"name": ""}, "name must be a file name without slashes and control characters, got ''"),
    *(
        (
            Config,
            {"extra_tests": {name: "folder"}},
            "extra_tests must be names of 1 to 40 letters, digits, spaces and -_.+ that begin like no blur and are no "
            f"key of a config, got {name!r}",
        )
        for name in (
            "",
            " phone",
            "phone ",
            "a/b",
            "a\nb",
            "x" * 41,
            "$x",
            "_x",
            "clean",
            "gaussian 2",
            "glass x",
            "a*",
            "data",
            "my.head",
        )
    ),
    (Config, {"extra_tests": {"phone": ""}}, "extra_tests.phone must be a folder, got ''"),
    (Config, {"copies": (BlurGrid("gaussian", (0.0, 1.0)),)}, "copies must be blurs with a strength above 0, got 0"),
]


@pytest.mark.parametrize(("kind", "values", "message"), REFUSED, ids=[message[:60] for *_, message in REFUSED])
def test_value_out_of_range_is_refused_in_words(
    kind: Callable[..., object], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        kind(**values)
    assert str(caught.value) == message


@pytest.mark.parametrize("sweep", [(), (BlurGrid("gaussian", (0.0,)),)], ids=["empty", "clean alone"])
def test_sweep_without_a_blur_is_refused(sweep: tuple[BlurGrid, ...]) -> None:
    with pytest.raises(ConfigError, match="sweep must be at least one blur with a strength above 0"):
        Config(sweep=sweep)


def test_values_at_the_limits_are_taken() -> None:
    GlyphsConfig(train=10, test=10, seed=0)
    BackboneConfig(resize=8, crop=4096, sha256="0123456789abcdefABCDEF" + "0" * 42)
    HeadConfig(folds=100, tolerance=1e-10)
    HeadConfig(folds=2, tolerance=1e-2)
    BlurGrid("gaussian", (0.0, 1000.0))
    Config(batch_size=1)
    Config(batch_size=4096, name="a name. with dots")


@pytest.mark.parametrize(
    "value", [Config(), DataConfig(), BackboneConfig(), HeadConfig(), BlurGrid("gaussian", (1.0,))]
)
def test_configs_are_frozen(value: object) -> None:
    name = fields(value)[0].name  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        setattr(value, name, None)


def test_configs_can_be_told_apart_and_used_as_keys() -> None:
    assert Config() == Config()
    assert len({Config(), Config(), Config(batch_size=8)}) == 2


def test_strength_zero_is_clean_in_every_family_and_border() -> None:
    assert BlurGrid("gaussian", (0.0, -0.0 + 1.0), "zero").blurs() == (CLEAN, Blur("gaussian", 1.0, None, "zero"))


@pytest.mark.parametrize(
    ("blur", "name", "slug"),
    [
        (CLEAN, "clean", "clean"),
        (Blur("gaussian", 2.0), "gaussian 2", "gaussian-2"),
        (Blur("gaussian", 0.5, None, "zero"), "gaussian 0.5 zero", "gaussian-0.5-zero"),
        (Blur("motion", 9.0, 45.0), "motion 9 at 45 degrees", "motion-9-at-45-degrees"),
        (Blur("psf", 1.0, None, "reflect101", "a/lens.npy"), "psf lens", "psf-lens"),
        (Blur("psf", 0.5, None, "zero", "a/lens.npy"), "psf lens x 0.5 zero", "psf-lens-x-0.5-zero"),
    ],
    ids=str,
)
def test_blur_is_named_by_all_that_it_is(blur: Blur, name: str, slug: str) -> None:
    assert blur.name == name
    assert blur.slug == slug


def test_directed_blurs_have_an_angle_below_360_and_others_none() -> None:
    assert BlurGrid("motion", (3.0,)).blurs() == (Blur("motion", 3.0, 0.0),)
    assert BlurGrid("half-gaussian", (3.0,), angle=-90.0).blurs() == (Blur("half-gaussian", 3.0, 270.0),)
    assert BlurGrid("defocus", (3.0,)).blurs() == (Blur("defocus", 3.0, None),)


def test_measured_blur_is_as_it_is_unless_scaled_and_its_file_is_not_read_here() -> None:
    assert BlurGrid("psf", file="no/lens.npy").blurs() == (Blur("psf", 1.0, None, "reflect101", "no/lens.npy"),)
    assert BlurGrid("psf", (0.5,), file="lens.npy").blurs()[0].strength == 0.5
    assert Path(BlurGrid("psf", file="lens.npy").resolved().file or "").is_absolute()


def test_train_views_are_clean_and_the_copies_in_their_order() -> None:
    config = Config(copies=(BlurGrid("gaussian", (1.0, 0.5)), BlurGrid("gaussian", (0.5, 2.0))))
    assert config.train_views == (CLEAN, *(Blur("gaussian", strength) for strength in (1.0, 0.5, 2.0)))


def test_test_views_are_clean_and_the_sweep_by_strength() -> None:
    config = Config(sweep=(BlurGrid("gaussian", (3.0, 0.0, 0.5)), BlurGrid("gaussian", (10.0, 0.5))))
    assert config.test_views == (CLEAN, *(Blur("gaussian", sigma) for sigma in (0.5, 3.0, 10.0)))


def test_clean_view_is_swept_where_nobody_asked_for_it() -> None:
    assert Config(sweep=(BlurGrid("gaussian", (1.0,)),)).test_views == (CLEAN, Blur("gaussian", 1.0))


def test_order_of_the_sweep_does_not_change_what_is_swept() -> None:
    forward = Config(sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0)),))
    backward = Config(sweep=(BlurGrid("gaussian", (2.0, 1.0)), BlurGrid("gaussian", (0.0,))))
    assert forward.test_views == backward.test_views


def test_baseline_is_the_empty_case() -> None:
    config = Config(name="one", batch_size=8)
    assert config.baseline() == replace(config, copies=())
    assert config.baseline().train_views == (CLEAN,)
    assert config.baseline().test_views == config.test_views
    assert config.baseline().baseline() == config.baseline()


def test_arms_are_named_by_their_copies() -> None:
    config = Config(name="one", runs=Path("here"))
    assert (config.arm, config.baseline().arm) == ("augmented", "baseline")
    assert config.run_folder == Path("here/one-augmented")
    assert config.baseline().run_folder == Path("here/one-baseline")
    assert config.comparison_folder == config.baseline().comparison_folder == Path("here/compare-one")


def test_experiment_is_named_after_images_and_backbone(tmp_path: Path) -> None:
    assert Config().experiment == "glyphs-glyphnet"
    config = Config(data=DataConfig(root=str(tmp_path / "cats") + "/"), backbone=BackboneConfig("resnet18"))
    assert config.experiment == "cats-resnet18"


def test_identity_leaves_out_names_places_and_batch_size() -> None:
    config = Config()
    moved = replace(config, name="other", runs=Path("there"), cache=Path("elsewhere"), batch_size=7)
    assert moved.identity() == config.identity()
    assert config.baseline().identity() != config.identity()
    for change in (
        {"data": DataConfig(test_fraction=0.5)},
        {"backbone": BackboneConfig(crop=32)},
        {"sweep": (BlurGrid("gaussian", (1.0,)),)},
        {"head": HeadConfig(folds=3)},
        {"engine": "torch"},
    ):
        assert replace(config, **change).identity() != config.identity()


def test_really_blurred_photographs_are_part_of_what_a_run_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = Config(extra_tests={"phone": "a"})
    assert config.identity()["extra_tests"] == {"phone": str(tmp_path / "a")}
    assert config.identity() != Config().identity()
    assert config.identity() == replace(config, extra_tests={"phone": str(tmp_path / "a")}).identity()
    assert config.resolved().extra_tests == {"phone": str(tmp_path / "a")}
    assert config.baseline().extra_tests == config.extra_tests
    assert config.test_views == Config().test_views
    assert config.real_views == (RealView("phone"),)
    assert (config == Config(), hash(config) == hash(Config())) == (False, True)  # a dict has no hash


@pytest.mark.parametrize("name", ["phone", "D90 at f 2.8", "x" * 40, "Größe+1", "box-like", "cleaner", "7"])
def test_names_of_photographs_may_be_many(name: str) -> None:
    assert Config(extra_tests={name: "folder"}).real_views == (RealView(name),)


def test_an_arm_is_named_by_what_its_baseline_lacks() -> None:
    config = Config(name="mine")
    adapted = replace(config, bn="adapt")
    assert (config.arm, config.baseline().arm) == ("augmented", "baseline")
    assert (adapted.arm, replace(adapted, copies=()).arm) == ("augmented-bn-adapt", "baseline-bn-adapt")
    assert adapted.baseline() == config.baseline()
    assert adapted.run_folder == Path("runs/mine-augmented-bn-adapt")
    assert adapted.comparison_folder == Path("runs/compare-mine-augmented-bn-adapt")
    assert config.comparison_folder == Path("runs/compare-mine")


def test_batch_size_matters_where_statistics_are_taken_of_batches() -> None:
    config = Config(bn="adapt")
    assert replace(config, batch_size=7).identity() != config.identity()
    assert config.identity() != Config().identity()


def test_plain_values_survive_yaml() -> None:
    config = Config(backbone=BackboneConfig(mean=(0.1, 0.2, 0.3)))
    values = plain(config)
    assert yaml.safe_load(yaml.safe_dump(values)) == values
    assert values["cache"] == "cache"
    assert values["backbone"]["mean"] == [0.1, 0.2, 0.3]


def test_supplied_configs_differ_in_copies_alone() -> None:
    baseline, augmented = (
        yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")) for name in ("baseline", "augmented")
    )
    assert baseline.pop("copies") == []
    assert augmented.pop("copies") != []
    assert baseline == augmented


def test_supplied_augmented_config_says_what_the_defaults_are() -> None:
    values = yaml.safe_load((CONFIGS / "augmented.yaml").read_text(encoding="utf-8"))

    def grids(key: str) -> tuple[BlurGrid, ...]:
        return tuple(BlurGrid(grid["family"], tuple(map(float, grid["strengths"]))) for grid in values[key])

    written = Config(
        data=DataConfig(**values["data"]),
        backbone=BackboneConfig(**values["backbone"]),
        copies=grids("copies"),
        sweep=grids("sweep"),
    )
    assert written.identity() == Config().identity()


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIGS.glob("*.yaml")))
def test_supplied_configs_are_understood_and_test_heavy_blur(name: str) -> None:
    config = config_from(yaml.safe_load((CONFIGS / name).read_text(encoding="utf-8")))
    assert config.arm == ("baseline" if name == "baseline.yaml" else "augmented")
    heavy = [view for view in config.test_views if view.file is None and is_heavy(view, config.copy_views, 224)]
    assert heavy or not config.copies or name == "psf.yaml"  # whose width only the user's file knows


def test_duplicated_images_leave_what_is_heavy_to_the_copies_that_they_stand_for() -> None:
    config = Config()
    control = replace(config, duplicated=True)
    assert control.train_views == (CLEAN,) * 3
    assert control.copy_views == config.copy_views == config.train_views[1:]
    assert not any(is_heavy(view, control.copy_views, 64) for view in config.test_views[:4])
