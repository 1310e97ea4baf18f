"""Run folders: whose they are, and what is said of folders that are none."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import blurtrain
from blurtrain import comparison, runs
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig, plain
from blurtrain.errors import BackboneError, ConfigError, DataError, RunError
from blurtrain.views import Border

UNUSUAL = Config(
    name="Größe: 3 $ #1 'x' \"y\"",
    data=DataConfig(root="photos/日本", test_fraction=0.1, glyphs=GlyphsConfig(train=11, test=12, seed=3)),
    backbone=BackboneConfig("resnet18", "w.pth", "ab" * 32, 256, 224, (0.1, 0.2, 0.3), (1e-5, 2.0, 3.0)),
    copies=(BlurGrid("gaussian", (0.5, 1 / 3)), BlurGrid("gaussian", (1e-9,), "zero")),
    sweep=(BlurGrid("gaussian", (0.0, 1000.0), "circular"),),
    head=HeadConfig((1e-7, 2.0), 3, 1e-9),
    engine="torch",
    batch_size=7,
    runs=Path("a/../b"),
    cache=Path("/c"),
)


def made(tmp_path: Path, **changes: Any) -> Config:  # noqa: ANN401 - fields of the config
    """A config whose run was begun."""
    config = replace(Config(name="mine", runs=tmp_path), **changes)
    runs.begin(config)
    return config


def finish(config: Config, **further: Any) -> None:  # noqa: ANN401 - keys of run.json
    runs.finish(config.run_folder, {"classes": ["a", "b"], **further})


@pytest.mark.parametrize("config", [Config(), Config().baseline(), UNUSUAL], ids=["default", "baseline", "unusual"])
def test_config_comes_back_from_its_folder(tmp_path: Path, config: Config) -> None:
    (tmp_path / runs.CONFIG).write_text(runs.dump_config(config), encoding="utf-8")
    assert runs.read_config(tmp_path) == config.resolved()


@settings(max_examples=25)  # jsonargparse is slow
@given(
    name=st.none() | st.text(min_size=1),
    strengths=st.lists(st.floats(1e-300, 1000), min_size=1, max_size=3, unique=True),
    border=st.sampled_from(["reflect101", "symmetric", "replicate", "circular", "zero"]),
    l2=st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=3),
)
def test_any_config_comes_back_from_yaml(
    name: str | None, strengths: list[float], border: Border, l2: list[float]
) -> None:
    grids = (BlurGrid("gaussian", tuple(strengths), border),)
    try:
        config = Config(name=name, copies=grids, sweep=grids, head=HeadConfig(l2=tuple(l2)))
    except ConfigError:
        assume(False)  # what is no config need not come back
    assert runs.config_from(yaml.safe_load(runs.dump_config(config))) == config


def test_config_is_written_as_a_user_would_write_it() -> None:
    text = runs.dump_config(Config(name="mine"))
    assert text.splitlines()[0] == "name: mine"
    assert {**yaml.safe_load(text), "loggers": {}} == plain(Config(name="mine"))
    assert "!!" not in text


def test_beginning_writes_the_config_and_nothing_else(tmp_path: Path) -> None:
    config = made(tmp_path)
    assert [path.name for path in config.run_folder.iterdir()] == [runs.CONFIG]
    assert runs.read_config(config.run_folder) == config
    assert not runs.is_finished(config)


def test_asking_whether_a_run_is_finished_writes_nothing(tmp_path: Path) -> None:
    assert not runs.is_finished(Config(name="mine", runs=tmp_path / "runs"))
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_is_gone_on_with(tmp_path: Path) -> None:
    config = made(tmp_path)
    before = (config.run_folder / runs.CONFIG).stat().st_mtime_ns
    assert runs.begin(config) == config.run_folder
    assert (config.run_folder / runs.CONFIG).stat().st_mtime_ns == before


def test_leftovers_of_an_interruption_do_not_stand_in_the_way(tmp_path: Path) -> None:
    config = Config(name="mine", runs=tmp_path)
    config.run_folder.mkdir()
    (config.run_folder / ".partial-abc.yaml").touch()
    assert not runs.is_finished(config)
    runs.begin(config)


def test_places_names_and_batches_are_not_identity(tmp_path: Path) -> None:
    config = made(tmp_path)
    finish(config)
    assert runs.is_finished(replace(config, batch_size=8, cache=Path("elsewhere")))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"head": HeadConfig(folds=3)},
            r"\(head.folds is 5 there and 3 now\): choose another name, such as --name mine-2, or",
        ),
        ({"data": DataConfig(glyphs=GlyphsConfig(seed=2))}, r"\(data.glyphs.seed is 1 there and 2 now\)"),
        ({"engine": "torch"}, r"\(engine is 'auto' there and 'torch' now\)"),
        ({"copies": (BlurGrid("gaussian", (2.0,)),)}, r"\(copies is \[\{.*0.5.*\]\}?.* there and .*2.0.* now\)"),
        (
            {"head": HeadConfig(folds=3), "engine": "torch", "data": DataConfig(test_fraction=0.5)},
            r"\(data.test_fraction is 0.25 there and 0.5 now, and 2 more\)",
        ),
        ({"head": HeadConfig(class_weights="balanced")}, r"\(head.class_weights is 'none' there and 'balanced' now\)"),
        (
            {"extra_tests": {"phone": "/shaken"}},
            r"\(extra_tests.phone is not given there and '/shaken' now\): .* --name mine-phone, or remove that folder$",
        ),
    ],
    ids=["number", "nested", "text", "list", "several", "default", "not given"],
)
def test_a_name_that_another_config_has_is_refused(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    config = made(tmp_path)
    for now in (runs.is_finished, runs.begin):
        with pytest.raises(RunError, match=r"mine-augmented holds a run with another config " + sentence):
            now(replace(config, **changes))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": DataConfig(root="photoss")}, "^data.root 'photoss' is not a folder: give"),
        ({"data": DataConfig(root="photos.csv")}, "^data.root 'photos.csv' cannot be read"),
        ({"backbone": BackboneConfig(weights="mine.pth")}, "^backbone.weights 'mine.pth' is not a file: give"),
    ],
    ids=["folder", "manifest", "weights"],
)
def test_a_misspelt_path_is_no_other_experiment(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    config = made(tmp_path)
    with pytest.raises((DataError, BackboneError), match=sentence):
        runs.is_finished(replace(config, **changes))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    config = Config(name="mine", runs=tmp_path)
    config.run_folder.mkdir()
    (config.run_folder / "letters.txt").touch()
    with pytest.raises(RunError, match=r"mine-augmented exists and is no run: choose another name with --name"):
        runs.begin(config)


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    config = Config(name="mine", runs=tmp_path)
    config.run_folder.touch()
    with pytest.raises(RunError, match=r"mine-augmented exists and is no run"):
        runs.begin(config)


def test_a_finished_run_says_so_and_stays_as_it_is(experiment: Config, capsys: pytest.CaptureFixture[str]) -> None:
    files = {path: path.stat().st_mtime_ns for path in experiment.run_folder.iterdir()}
    assert blurtrain.train(experiment) == experiment.run_folder
    said = capsys.readouterr().err
    assert said == f"{experiment.run_folder} is finished already; --name gives another run\n"
    assert {path: path.stat().st_mtime_ns for path in experiment.run_folder.iterdir()} == files


def test_a_run_is_loaded_with_its_config_and_classes(experiment: Config) -> None:
    run = runs.load_run(experiment.run_folder)
    assert run.config == experiment
    assert run.classes == list("0123456789")
    assert run.result["copies"] == ["gaussian 0.5", "gaussian 1"]
    assert runs.load_run(experiment.baseline().run_folder).result["copies"] == []


def test_run_json_says_what_was_trained(experiment: Config) -> None:
    result = runs.load_run(experiment.run_folder).result
    assert result["trainable"] == {
        "names": {"head.weight": [10, 192], "head.bias": [10]},
        "parameters": 1930,
    }
    assert result["images"] == {"train": 200, "validation": 0, "test": 90}
    head = result["head"]
    assert head["l2"] == min(head["candidates"], key=lambda candidate: candidate["validation_nll"])["l2"]
    assert head["largest_gradient"] <= experiment.head.tolerance * max(experiment.head.l2)
    assert head["at_edge_of_grid"] == (head["l2"] in (0.001, 10.0))
    assert set(result["versions"]) >= {"blurtrain", "python", "torch", "onnxruntime"}


def test_both_arms_share_features_and_the_baseline_has_none_to_itself(experiment: Config) -> None:
    baseline, augmented = (
        json.loads((config.run_folder / runs.WORK).read_text())["forward_passes"]
        for config in (experiment.baseline(), experiment)
    )
    assert baseline == {"reused": 0, "computed": 200 + 7 * 90}
    assert augmented == {"reused": 200 + 7 * 90, "computed": 2 * 200}


def test_what_has_a_config_but_is_no_run_names_the_run(tmp_path: Path) -> None:
    config = made(tmp_path)
    other = config.folder("evidence")
    runs.begin(config, other)
    with pytest.raises(RunError, match=r"evidence-mine\S* is not finished: run blurtrain train --config"):
        runs.load_run(other)
    (config.run_folder / runs.RESULT).touch()
    with pytest.raises(RunError, match=r"evidence-mine\S* holds no run: did you mean \S*mine-augmented\?$"):
        runs.load_run(other)


def test_an_unfinished_run_says_how_to_finish_it(tmp_path: Path) -> None:
    config = made(tmp_path)
    with pytest.raises(RunError, match=r"mine-augmented is not finished: run blurtrain train --config .*config.yaml$"):
        runs.load_run(config.run_folder)


@pytest.mark.parametrize("contents", ["", '{"classes": [', "[]", "null", '{"classes": ["a", "b"], "files": {}}'])
def test_a_result_that_was_not_written_is_refused(tmp_path: Path, contents: str) -> None:
    config = made(tmp_path)
    (config.run_folder / runs.RESULT).write_text(contents)
    with pytest.raises(
        RunError, match=r"run.json cannot be used \(.*\): remove it, and blurtrain train --config .* again$"
    ):
        runs.load_run(config.run_folder)


def test_a_flipped_bit_of_any_file_is_noticed(tmp_path: Path) -> None:
    config = made(tmp_path)
    (config.run_folder / "head.safetensors").write_bytes(bytes(range(40)))
    finish(config, l2=0.25, note="größer")
    run = runs.load_run(config.run_folder)
    run.file("head.safetensors")
    for name in (runs.RESULT, runs.CONFIG, "head.safetensors"):
        path = config.run_folder / name
        whole = path.read_bytes()
        for bit in range(8 * len(whole)):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            path.write_bytes(flipped)
            with pytest.raises(RunError, match=rf"{name} (cannot be used|is not what was written)"):
                run.file(name) if name.startswith("head") else runs.load_run(config.run_folder)
        path.write_bytes(whole)
    runs.load_run(config.run_folder).file("head.safetensors")


def test_a_missing_file_of_a_run_is_told(tmp_path: Path) -> None:
    config = made(tmp_path)
    finish(config)
    with pytest.raises(RunError, match=r"sweep.json cannot be read \(.*\): remove .*run.json, and the command"):
        runs.load_run(config.run_folder).file("sweep.json")


def test_another_backbone_is_refused(tmp_path: Path) -> None:
    config = made(tmp_path)
    finish(config, backbone={"fingerprint": "a" * 64})
    run = runs.load_run(config.run_folder)
    run.require_backbone("a" * 64)
    with pytest.raises(RunError, match=r"fingerprint aaaaaaaaaaaa, but embedded now gives bbbbbbbbbbbb: restore"):
        run.require_backbone("b" * 64)


@pytest.mark.parametrize(
    "junk",
    [
        *(b"", b"null", b"hello", b"[]", b"3", b"\x00\xff\xfe", b"\x80", b"name: [", b"a: b: c", b"? [1]: 2"),
        *(b"unknown: 1", b"head: 3", b"head: null", b"head: {folds: 1}", b"head: {fold: 5}", b"batch_size: many"),
        *(b"copies: 3", b"copies: null", b"data: {glyphs: 3}", b"1: 2", b"!!python/object:os.system {}"),
        b"copies: [{strengths: [.nan]}]",
    ],
)
def test_a_config_that_is_none_is_one_sentence(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / runs.CONFIG).write_bytes(junk)
    with pytest.raises(RunError, match=r"holds no readable config.yaml: give the folder of a run, such as runs/NAME"):
        runs.read_config(tmp_path)


def test_a_folder_without_config_is_one_sentence(tmp_path: Path) -> None:
    way_on = "give the folder of a run, such as runs/NAME"
    for folder, found in ((tmp_path, "holds no readable config.yaml"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(RunError) as caught:
            runs.load_run(folder)
        assert str(caught.value) == f"{folder} {found}: {way_on}"


def test_what_is_beside_a_run_names_the_run(experiment: Config) -> None:
    arms, compared = [str(experiment.baseline().run_folder), str(experiment.run_folder)], experiment.comparison_folder
    for folder, sentence in (
        (f"{arms[1][:-1]}", f"{arms[1][:-1]} does not exist: did you mean {arms[1]}?"),
        (compared, f"{compared} is a comparison of {arms[0]} and {arms[1]}: give one of them"),
        (experiment.runs, f"{experiment.runs} holds runs: give one of {arms[1]}, {arms[0]}"),
    ):
        with pytest.raises(RunError) as caught:
            runs.load_run(Path(folder))
        assert str(caught.value) == sentence


def test_at_most_five_runs_are_named(tmp_path: Path) -> None:
    for name in "abcdefg":
        (tmp_path / name).mkdir()
        (tmp_path / name / runs.RESULT).touch()
    with pytest.raises(RunError, match=r"holds runs: give one of .*/a, .*/e \(and 2 more\)$"):
        runs.load_run(tmp_path)


def test_what_is_beside_a_comparison_names_it(experiment: Config, tmp_path: Path) -> None:
    run, compared = experiment.run_folder, experiment.comparison_folder
    misspelt = compared.with_name(f"{compared.name}s")
    alone = shutil.copytree(run, tmp_path / run.name)
    for folder, sentence in (
        (run, f"{run} holds no comparison (it is a run): give {compared}"),
        (alone, f"{alone} holds no comparison (it is a run): blurtrain compare makes one"),
        (tmp_path, f"{tmp_path} holds no comparison: give runs/compare-NAME"),
        (misspelt, f"{misspelt} does not exist: did you mean {compared}?"),
    ):
        with pytest.raises(RunError) as caught:
            comparison.read(folder)
        assert str(caught.value) == sentence
