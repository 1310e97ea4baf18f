"""Recommended copies: chosen without the test split, by rules that are checked by hand."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jaxtyping import Int64, UInt8
from scipy import stats

from blurtrain import choosing, exhibits, experiment, images, preparation, runs, store, training
from blurtrain.choosing import Tried
from blurtrain.config import BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, OnBadImage
from blurtrain.decoding import Geometry
from blurtrain.errors import ConfigError
from blurtrain.kernels import is_heavy, spread
from blurtrain.options import read_yaml
from blurtrain.reading import contents
from blurtrain.views import CLEAN, Blur

pytestmark = pytest.mark.usefixtures("quiet")


def config_in(folder: Path) -> Config:
    """A small experiment with one heavy view."""
    return Config(
        name="chosen",
        data=DataConfig(glyphs=GlyphsConfig(train=150, test=40)),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0)),),
        head=HeadConfig(folds=3, l2=(0.01, 0.1, 1.0)),
        runs=folder / "runs",
        cache=folder / "cache",
    )


def recommended(config: Config, folder: Path) -> dict[str, Any]:
    experiment.recommend(config, folder / "out.yaml")
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    return found


def test_the_test_split_is_never_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisoned test labels and pixels change no byte, and no test image passes the backbone."""
    clean = config_in(tmp_path / "clean")
    recommend_clean = recommended(clean, tmp_path / "clean")
    load, read = images.load, images.StoredPixels.read
    test_ids: set[bytes] = set()

    def poisoned(
        config: DataConfig, geometry: Geometry, cache: Path, on_bad_image: OnBadImage, extra_tests: Mapping[str, str]
    ) -> images.ImageSet:
        loaded = load(config, geometry, cache, on_bad_image, extra_tests)
        test_ids.update(bytes(id_) for id_ in loaded.ids[loaded.test])
        loaded.labels[loaded.test] = (loaded.labels[loaded.test] + 1) % 10
        return loaded

    def noisy(self: images.StoredPixels, positions: Int64[np.ndarray, " n"]) -> UInt8[np.ndarray, "n 3 h w"]:
        pixels = read(self, positions)
        assert not test_ids & {bytes(id_) for id_ in contents(self.table, self.keys[positions])}
        return pixels

    monkeypatch.setattr(images, "load", poisoned)
    monkeypatch.setattr(images.StoredPixels, "read", noisy)
    dirty = config_in(tmp_path / "dirty")
    assert recommended(dirty, tmp_path / "dirty") == recommend_clean
    assert test_ids
    stored = {
        bytes(id_)
        for table in store.summaries(Path(str(dirty.cache)) / "features")
        for shard in table.folder.glob("*.safetensors")
        for id_ in store._Shard(shard).ids
    }
    assert stored
    assert not stored & test_ids


def test_chosen_copies_are_slight_and_the_config_is_whole(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    found = recommended(config, tmp_path)
    written = runs.config_from(read_yaml((tmp_path / "out.yaml").read_text()))
    assert [view.name for view in written.train_views[1:]] == found["chosen"]
    assert replace(written, copies=config.copies) == config.resolved()
    assert found["against"] == ["gaussian 2"]
    assert all(is_heavy(Blur("gaussian", 2.0), (view,), 64) for view in written.copy_views)
    assert exhibits.recommendation(found)


def test_every_image_is_judged_by_the_head_that_was_not_fitted_on_it(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    ready = preparation.prepare(config)
    aims = (Blur("gaussian", 2.0),)
    choosing._extract(config, ready, (), aims)
    tried = choosing._try(config, (), aims, ready)
    fold = images.folds(ready.images, 3)
    heads = training.fit_stored(config.baseline(), ready).folds
    assert ready.store is not None
    for view, judged in ((CLEAN, tried.clean), (aims[0], tried.heavy)):
        rows = ready.store.read(view, ready.images, ready.images.train)
        for i in range(len(rows)):
            logits = heads.weights[fold[i]].astype(float) @ rows[i] + heads.bias[fold[i]]
            assert judged[i] == (logits.argmax() == ready.images.labels[ready.images.train[i]])


def tried(copies: int, clean: list[float], heavy: list[float]) -> Tried:
    return Tried(tuple(Blur("gaussian", i + 1.0) for i in range(copies)), np.array(clean), np.array(heavy))


def test_best_needs_a_gain_and_no_clean_cost() -> None:
    units, everyone = np.arange(100), np.ones(100, bool)
    none = [0.0] * 100
    start = tried(0, [1.0] * 100, none)
    better = tried(1, [1.0] * 100, [1.0] * 30 + [0.0] * 70)
    best = tried(1, [1.0] * 100, [1.0] * 50 + [0.0] * 50)
    costly = tried(1, [0.0] * 4 + [1.0] * 96, [1.0] * 90 + [0.0] * 10)
    assert choosing._best([better, best, costly], [start], units, everyone) is best
    assert choosing._best([costly], [start], units, everyone) is None
    noise = tried(1, [1.0] * 100, [1.0, *none[1:]])
    assert choosing._best([noise], [start], units, everyone) is None  # one image is its own standard error
    few = np.arange(100) < 30
    assert choosing._best([better, best], [start], units, few) is better  # the others are not looked at


@pytest.mark.parametrize(
    ("images", "lost", "won", "refused"),
    [
        (58, 1, 0, False),  # 1.7 points, but a single image
        (20, 1, 0, False),
        (58, 2, 0, True),  # 3.4 points, standard error 2.4
        (58, 3, 1, False),  # as many net, of noisier copies: standard error 3.5
        (10_000, 100, 0, False),  # 1 point
        (10_000, 115, 0, True),  # 1.15, standard error 0.107
        (58, 58, 0, True),  # no spread, no standard error
        (1, 1, 0, True),
    ],
)
def test_a_clean_cost_refuses_where_it_exceeds_a_point_by_more_than_its_standard_error(
    images: int, lost: int, won: int, refused: bool
) -> None:
    before = np.ones(images)
    before[lost : lost + won] = 0
    after = np.ones(images)
    after[:lost] = 0
    error = stats.sem(before - after) if images > 1 else np.nan
    assert ((before - after).mean() - 0.01 > np.nan_to_num(error)) == refused
    units, everyone = np.arange(images), np.ones(images, bool)
    start = tried(0, before.tolist(), [0.0] * images)
    better = tried(1, after.tolist(), [1.0] * images)
    best = choosing._best([better], [start], units, everyone)
    assert best is (None if refused else better)
    assert choosing._refused([start, better], [start], units, everyone) is (better if refused else None)


def test_costs_of_several_copies_add_up() -> None:
    """Two images of 100 lost, then two more: each step is small, the sum is not."""
    units, everyone = np.arange(100), np.ones(100, bool)
    start, first, second = (
        tried(copies, [0.0] * 2 * copies + [1.0] * (100 - 2 * copies), [copies / 4] * 100) for copies in range(3)
    )
    assert choosing._best([first], [start], units, everyone) is first
    assert choosing._best([second], [start, first], units, everyone) is None


def test_images_of_a_group_are_lost_together() -> None:
    """Two of 58 images are refused alone, but one group of two is one piece of evidence."""
    everyone, alone = np.ones(58, bool), np.arange(58)
    start = tried(0, [1.0] * 58, [0.0] * 58)
    better = tried(1, [0.0] * 2 + [1.0] * 56, [1.0] * 58)
    assert choosing._best([better], [start], alone, everyone) is None
    assert choosing._best([better], [start], alone // 2, everyone) is better


def judged(*sets: Tried, chosen: int) -> dict[str, Any]:
    """The answer where every second image chooses."""
    chooses = np.arange(len(sets[0].clean)) % 2 == 0
    path = sets[:1] if chosen == 0 else (sets[0], sets[chosen])
    aims = (Blur("gaussian", 8.0),)
    return choosing._result(Config(copies=()), path, sets, np.arange(len(chooses)), chooses, aims)


def test_the_answer_counts_the_clean_images_that_are_lost() -> None:
    one = [1.0, 0.0, *[1.0] * 114]  # image 1 is lost, which is among those that judge
    found = judged(tried(0, [1.0] * 116, [0.5] * 116), tried(1, one, [0.6, 0.598] * 58), chosen=1)
    text = exhibits.recommendation(found)
    assert "Expected under heavy blur: +9.8 points" in text
    assert "on clean images -1.7 (" in text
    assert text.endswith(": the copies lose 1 and win 0 of 58 clean images.")
    assert "Refused" not in text


def test_the_answer_names_what_gains_more_and_is_refused() -> None:
    lost = [float(i not in (0, 2, 4)) for i in range(116)]  # three that choose
    start = tried(0, [1.0] * 115 + [0.0], [0.5] * 116)
    costly, other = tried(2, [*lost[:-1], 1.0], [0.7, 0.8] * 58), tried(1, [1.0] * 116, [0.6, 0.5] * 58)
    refusal = (
        "Refused: gaussian 1, gaussian 2, +20.0 points under heavy blur on the images that chose, but -5.2 on clean "
        "ones, over a standard error below -1: they lose 3 and win 0 of 58 clean images.\n"
    )
    for sets, chosen in (((start, costly, other), 2), ((start, costly), 0)):
        text = exhibits.recommendation(judged(*sets, chosen=chosen))
        assert refusal in text
        assert ("No copies are recommended: no other copies gain more" in text) == (chosen == 0)
    more = tried(1, [1.0] * 116, [0.9, 0.5] * 58)
    assert "Refused" not in exhibits.recommendation(judged(start, costly, more, chosen=2))  # it gains less


def test_own_copies_are_chosen_where_they_pass_the_same_rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no candidate gains, and the config's own pair does, there is no "none that help" above its gain."""

    def made_up(config: Config, copies: tuple[Blur, ...], *_: object) -> Tried:
        own = copies == config.copy_views
        return Tried(copies, np.ones(150), np.full(150, 0.9 if own else 0.5) - np.arange(150) / 1e4)

    monkeypatch.setattr(choosing, "_try", made_up)
    own = replace(config_in(tmp_path), copies=(BlurGrid("gaussian", (0.3, 0.7)),))
    found = recommended(own, tmp_path)
    assert found["chosen"] == ["gaussian 0.3", "gaussian 0.7"]
    assert found["own"] == found["expected"]


def test_candidates_are_slight_for_every_target() -> None:
    config = Config(sweep=(BlurGrid("gaussian", (2.0, 3.0)), BlurGrid("defocus", (4.0,))))
    assert choosing.targets(config, 64) == (Blur("defocus", 4.0), Blur("gaussian", 2.0), Blur("gaussian", 3.0))
    options = choosing.candidates(config, 64)
    assert {view.family for view in options} == {"gaussian", "defocus"}
    assert max(spread(view, 64) for view in options) <= 1
    assert all(spread(aim, 64) >= 2 * spread(view, 64) for aim in choosing.targets(config, 64) for view in options)


def test_severities_are_candidates_by_their_width() -> None:
    config = Config(copies=(), sweep=(BlurGrid("zoom", severity=(1, 2, 3, 4, 5)),))
    targets = choosing.targets(config, 224)
    assert [view.strength for view in targets] == [3, 4, 5]
    options = choosing.candidates(config, 224)
    assert all(2 * spread(view, 224) <= spread(targets[0], 224) for view in options)
    assert any(view.family == "gaussian" for view in options)


def test_a_given_validation_split_judges(tmp_path: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 6), ("test", 2)):
        for label in ("a", "b"):
            folder = tmp_path / "data" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 120, (64, 64, 3), dtype=np.uint8) + (100 if label == "b" else 0)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i}.png")
    config = replace(config_in(tmp_path), data=DataConfig(root=str(tmp_path / "data")))
    found = recommended(config, tmp_path)
    assert sum(found["images"].values()) == 12


def test_what_cannot_be_recommended_for_is_told(tmp_path: Path) -> None:
    mild = replace(config_in(tmp_path), sweep=(BlurGrid("gaussian", (1.0,)),))
    with pytest.raises(ConfigError, match="sweep has no heavy view for these copies"):
        experiment.recommend(mild, tmp_path / "x.yaml")
    with pytest.raises(ConfigError, match="cache must be a folder for recommend"):
        experiment.recommend(replace(mild, cache=False), tmp_path / "x.yaml")


def test_rounded_candidates_are_still_slight() -> None:
    config = Config(sweep=(BlurGrid("gaussian", (3.1,)),))
    assert all(is_heavy(Blur("gaussian", 3.1), (view,), 64) for view in recommend_candidates(config))


def recommend_candidates(config: Config) -> list[Blur]:
    found = choosing.candidates(config, 64)
    assert found
    return found
