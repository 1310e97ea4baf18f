"""The command line: what it prints, what it leaves behind, and how it ends."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from blurtrain import cli
from blurtrain.cli import COMMANDS, main
from blurtrain.config import Config
from blurtrain.kernels import FAMILIES
from blurtrain.version import VERSION
from tests.conftest import heed_interrupts

pytestmark = pytest.mark.usefixtures("here")

Fails = Callable[..., str]

INTERRUPTION = "\nblurtrain: interrupted; the same command goes on from what is stored\n"


def tree(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


@pytest.fixture
def fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command that must end in one sentence, with exit code 2, and leave nothing behind; gives the sentence."""

    def run(*words: str, steps: bool = False) -> str:
        before = tree(tmp_path)
        capsys.readouterr()
        assert main(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        *earlier, last = err.splitlines()
        assert last.startswith("blurtrain: error: ")
        assert "Traceback" not in err
        assert "blurtrain: error: " not in "".join(earlier)
        assert steps or not earlier
        left = {path for path in tree(tmp_path) - before if tmp_path / "cache" not in (path, *path.parents)}
        assert not left
        return last.removeprefix("blurtrain: error: ")

    return run


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def photos(root: Path, counts: dict[str, int]) -> Path:
    """A folder of small pictures, each different: {"train/cat": 3} gives three."""
    for turn, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            picture(root / folder / f"{i}.png", 1000 * turn + i)
    return root


def words_of(config: Config) -> list[str]:
    """The options that give the config of the shared experiment."""
    glyphs = config.data.glyphs
    sizes = ["--data.glyphs.train", str(glyphs.train), "--data.glyphs.test", str(glyphs.test)]
    return [*sizes, "--runs", str(config.runs), "--cache", str(config.cache)]


# what explains


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["-h"]):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.startswith("usage: blurtrain COMMAND [options]\n")
        assert [line.split()[0] for line in out.splitlines() if line.startswith("  ")] == list(COMMANDS)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"blurtrain {VERSION}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: blurtrain {command} ")


def test_help_explains_every_key_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    for key in ("--name", "--data.root", "--data.glyphs.train", "--backbone.weights", "--copies", "--head.folds"):
        assert key in out
    assert "Shorter side in pixels before the crop" in out
    assert "default: 6000" in out


def test_print_config_is_a_config_that_can_be_given_back(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--head.folds", "3", "--print_config"])
    printed = capsys.readouterr().out
    assert "folds: 3" in printed
    (tmp_path / "printed.yaml").write_text(printed)
    with pytest.raises(SystemExit):
        main(["train", "--config", "printed.yaml", "--print_config"])
    assert capsys.readouterr().out == printed


# words that are not understood


STRENGTH = "strength of gaussian must be a number from 0 to 1000 px"
FOLDER_SENTENCE = (
    "data.root 'none' is not a folder: give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, "
    "or 'glyphs' for the embedded images; a .csv or .parquet, {a,b}-{000..003}.tar, torchvision:NAME and hf:NAME are "
    "taken, too"
)
FAMILY_SENTENCE = f"family: must be one of {', '.join(map(repr, FAMILIES))}, got: "


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["comapre"], "command 'comapre' is not known: did you mean 'compare'?"),
        (["xyz"], f"command 'xyz' is not known: give one of {', '.join(COMMANDS)}"),
        (["train", "--head.fold", "3"], "option --head.fold is not known: did you mean 'head.folds'?"),
        (["train", "--batchsize=3"], "option --batchsize is not known: did you mean 'batch_size'?"),
        (["compare", "--zzz", "3"], "option --zzz is not known: blurtrain compare --help lists them"),
        (["train", "--verbos"], "option --verbos is not known: did you mean 'verbose'?"),
        (["predict", "run"], "paths must be given: blurtrain predict --help explains what is wanted"),
        (["export"], "run and out must be given: blurtrain export --help explains what is wanted"),
        (["train", "file.yaml"], "'file.yaml' is not expected here: blurtrain train --help lists the options"),
        (["cache", "--cach", "x"], "option --cach is not known: did you mean 'cache'?"),
        (["train", "--head.folds", "many"], "head.folds: must be a whole number, got: many"),
        (["train", "--head.folds", "2.5"], "head.folds: must be a whole number, got: 2.5"),
        (["train", "--head.l2", "[a]"], "head.l2: must be a number, got: a"),
        (["train", "--engine", "tf"], "engine: must be one of 'auto', 'onnxruntime', 'torch', got: tf"),
        (["train", "--backbone.mean", "[1, 2]"], "backbone.mean: must be a list of 3, got: [1, 2]"),
        (["train", "--head.folds", "1"], "head.folds must be from 2 to 100, got 1"),
        (
            ["train", "--copies", "[{strengths: [-1]}]"],
            "strength of gaussian must be a number from 0 to 1000 px, got -1.0",
        ),
        (
            ["train", "--copies", "[{strengths: [.nan]}]"],
            "strength of gaussian must be a number from 0 to 1000 px, got nan",
        ),
        (["train", "--copies", "[{strengths: [0]}]"], "copies must be blurs with a strength above 0, got 0"),
        (["train", "--copies", "[{family: vox, strengths: [1]}]"], FAMILY_SENTENCE + "vox: did you mean 'box'?"),
        (["train", "--copies", "[{family: gausian}]"], FAMILY_SENTENCE + "gausian: did you mean 'gaussian'?"),
        (
            ["train", "--copies", "[{strength: [1]}]"],
            "key 'strength' of a blur is not known: did you mean 'strengths'?",
        ),
        (
            ["train", "--copies", "[{sigma: [1]}]"],
            "key 'sigma' of a blur is not known: give one of family, strengths, border, angle, file, severity",
        ),
        (["train", "--head.l2", "0.1, 1"], "head.l2: must be a list in brackets, as in l2: [0.1, 1]"),
        (["train", "--copies", "1"], "copies: must be a list, got: 1"),
        (["train", "--sweep", "[]"], "sweep must be at least one blur with a strength above 0, got []"),
        (["train", "--name", "a/b"], "name must be a file name without slashes and control characters, got 'a/b'"),
        (["cache", "--unused_for", "-1"], "--unused_for must be 0 or more days, got -1.0"),
        (["pretrain", "--seed", "-1"], "--seed must be from 0 to 2**63 - 1, got -1"),
        (["preview", "--images", "0"], "images must be from 1 to 32, got 0"),
        (["preview", "--images", "some"], "images: must be a whole number, got: some"),
        (["preview", "--out", "p.jpg"], "out must be a file that ends in .png, got 'p.jpg'"),
        (["preview", "--data.root", "none"], FOLDER_SENTENCE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_words_that_are_not_understood(fails: Fails, words: list[str], sentence: str) -> None:
    assert fails(*words) == sentence


@pytest.mark.parametrize(
    "copies", ["[1, 2]", "[[1]]", "[{family: gaussian}]", "[{strengths: 1}]", "{strengths: [1]}", "{strengths: [1]"]
)
def test_blurs_that_are_none_are_one_sentence(fails: Fails, copies: str) -> None:
    assert re.search(r"must be a list", fails("train", "--copies", copies))


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ("copis: []", "key 'copis' is not known: did you mean 'copies'?"),
        ("zzz: 1", "key 'zzz' is not known: blurtrain train --help lists them"),
        ("head: {fold: 3}", "key 'head.fold' is not known: did you mean 'head.folds'?"),
        ("data: {glyphs: {trian: 20}}", "key 'data.glyphs.trian' is not known: did you mean 'data.glyphs.train'?"),
        ("copies: [{famly: gaussian, strengths: [1]}]", "key 'famly' of a blur is not known: did you mean 'family'?"),
        ("copies:\n- strengths: 1, 2", "strengths: must be a list in brackets, as in strengths: [1, 2]"),
        ("batch_size: many", "batch_size: must be a whole number, got: many"),
        ("name: 2023", "name: must be a text, got: 2023"),
        ("head: 3", "head must hold keys of its own, such as head.l2, got 3"),
        ("head: {l2: }", "head.l2 has no value: give one, or leave the key out"),
        ("batch_size: 3\ncopies:", "copies has no value: give one, or leave the key out"),
        ("batch_size: 0", "batch_size must be from 1 to 4096, got 0"),
        ("", "mine.yaml must hold keys and values, such as 'batch_size: 32', got ''"),
        ("- a\n- b", "mine.yaml must hold keys and values, such as 'batch_size: 32', got '- a - b'"),
    ],
)
def test_configs_that_are_not_understood(fails: Fails, contents: str, sentence: str) -> None:
    Path("mine.yaml").write_text(contents)
    assert fails("train", "--config", "mine.yaml") == sentence


def test_a_config_that_is_not_there(fails: Fails) -> None:
    assert re.fullmatch(
        "config '.*none.yaml' does not exist: give a YAML file that does",
        fails("train", "--config", "none.yaml"),
    )


def test_broken_yaml_is_one_sentence_with_its_place(fails: Fails) -> None:
    Path("mine.yaml").write_text("name: [a\nhead: }")
    assert re.search(r"^mine.yaml is no valid YAML: .*line 2", fails("train", "--config", "mine.yaml"))


def test_a_config_that_is_no_text_is_one_sentence(fails: Fails) -> None:
    Path("mine.yaml").write_bytes(b"name: \xff\xfe")
    assert fails("train", "--config", "mine.yaml") == "mine.yaml is no text in UTF-8"


def test_a_missing_config_is_named(fails: Fails, tmp_path: Path) -> None:
    assert str(tmp_path / "none.yaml") in fails("train", "--config", "none.yaml")
    assert str(tmp_path) in fails("train", "--config", ".")


def test_comparing_without_copies_says_what_to_do(fails: Fails) -> None:
    assert fails("compare", "--copies", "[]") == (
        "copies is empty, so this config is the baseline itself: give copies, or two run folders"
    )


# images that cannot be used


def test_a_missing_folder_is_named(fails: Fails) -> None:
    assert fails("compare", "--data.root", "nowhere").startswith("data.root 'nowhere' is not a folder: give ROOT/train")


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, r"photos has images of 0 class\(es\), and at least 2 are needed"),
        ({"train/a": 3, "train/b": 3}, r"photos has no images in test/CLASS: both train and test are needed"),
        ({"train/a": 3, "train/b": 0, "test/a": 1}, r"class folder photos/train/b has no images \(.*\): add some"),
        (
            {"train/a": 3, "train/b": 3, "test/a": 1, "test/c": 1},
            r"class 'c' in photos/test/c has no training images: add some, or remove the folder",
        ),
        ({"train/a": 3, "test/a": 3}, r"photos has images of 1 class\(es\), and at least 2 are needed"),
    ],
    ids=["empty", "no test", "empty class", "class only in test", "one class"],
)
def test_folders_that_cannot_be_used(fails: Fails, tmp_path: Path, counts: dict[str, int], sentence: str) -> None:
    photos(tmp_path / "photos", counts).mkdir(exist_ok=True)
    assert re.search(sentence, fails("compare", "--data.root", "photos"))
    assert not Path("cache").exists()  # told before any image is read


def test_fewer_images_than_folds(fails: Fails, tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1})
    sentence = fails("compare", "--data.root", "photos", steps=True)
    assert (
        sentence == "there are 4 different training images or groups for head.folds 5: give more images or fewer folds"
    )


def test_a_truncated_image_is_named_before_any_training(fails: Fails, tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"train/a": 4, "train/b": 4, "test/a": 1, "test/b": 1})
    for name in ("train/a/0.png", "train/b/1.png"):
        whole = Path("photos", name).read_bytes()
        Path("photos", name).write_bytes(whole[: len(whole) // 2])
    sentence = fails("compare", "--data.root", "photos", steps=True)
    way_on = "mend or remove it, list the good ones by blurtrain check-data --fix-list, or .* skip"
    assert re.fullmatch(rf"train/a/0\.png cannot be decoded \(.*\) \(and 1 more\): {way_on}", sentence)


# weights that cannot be used


def test_weights_that_cannot_be_used(fails: Fails) -> None:
    Path("junk.pth").write_bytes(b"junk")
    Path("junk.safetensors").write_bytes(b"junk")
    torch.save(torch.nn.Linear(1, 1), "pickled.pth")
    save_file({"other": torch.zeros(1)}, "other.safetensors")
    for weights, words in (
        ("none.pth", "backbone.weights 'none.pth' is not a file"),
        ("IMAGENET1K_V1", "backbone.weights 'IMAGENET1K_V1' is not known for glyphnet: give embedded, or a file"),
        ("junk.safetensors", "junk.safetensors is no readable .safetensors file"),
        ("junk.pth", "junk.pth"),
        ("pickled.pth", "pickled.pth holds more than tensors, or is damaged, and its code is never run"),
        ("other.safetensors", "other.safetensors does not fit glyphnet: it lacks"),
    ):
        assert words in fails("compare", "--backbone.weights", weights)
    assert "did you mean resnet18" in fails("compare", "--backbone.name", "resnt18")
    wrong = fails("train", "--backbone.weights", "other.safetensors", "--backbone.sha256", "0" * 64)
    assert "not to backbone.sha256: it is another file" in wrong


# runs


def test_a_run_name_with_another_config_is_refused(fails: Fails, experiment: Config) -> None:
    before = tree(experiment.runs)
    for command in ("train", "compare"):
        sentence = fails(command, *words_of(experiment), "--head.folds", "3")
        assert "holds a run with another config (head.folds is 5 there and 3 now): choose another name" in sentence
    assert tree(experiment.runs) == before


def test_a_folder_that_is_no_run_cannot_be_compared(fails: Fails, experiment: Config, tmp_path: Path) -> None:
    sentence = fails("compare", str(experiment.run_folder), str(tmp_path))
    assert sentence.endswith("holds no readable config.yaml: give the folder of a run, such as runs/NAME")
    assert "at least 2 different runs, got 1" in fails("compare", str(experiment.run_folder))


def test_an_unfinished_run_cannot_be_compared(fails: Fails, experiment: Config, tmp_path: Path) -> None:
    shutil.copytree(experiment.run_folder, tmp_path / "copy")
    (tmp_path / "copy" / "run.json").unlink()
    sentence = fails("compare", str(experiment.baseline().run_folder), "copy")
    assert sentence == "copy is not finished: run blurtrain train --config copy/config.yaml"


def test_two_runs_are_compared_by_their_folders(
    experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, config in zip(folders, (experiment.baseline(), experiment), strict=True):
        shutil.copytree(config.run_folder, folder)
    assert main(["compare", *map(str, reversed(folders))]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^blur +baseline +augmented +gain", out, re.MULTILINE)
    (made,) = {path for path in tmp_path.glob("[!.]*") if path not in folders}
    views = json.loads((made / "comparison.json").read_text())["views"]
    assert views == json.loads((experiment.comparison_folder / "comparison.json").read_text())["views"]
    assert f"Files: {made} (report.html, comparison.csv, " in out
    assert (made / "figures" / "accuracy.png").is_file()


def test_a_finished_comparison_is_shown_again(experiment: Config, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in tree(experiment.runs)}
    assert main(["compare", *words_of(experiment)]) == 0
    out, err = capsys.readouterr()
    assert err == f"{experiment.comparison_folder} is finished already\n"
    for view in experiment.test_views:
        assert f"\n{view.name} " in out
    assert "Under heavy blur augmented is" in out
    assert {path: path.stat().st_mtime_ns for path in tree(experiment.runs)} == before


def test_a_finished_run_is_shown_again(experiment: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *words_of(experiment)]) == 0
    out, err = capsys.readouterr()
    assert err == f"{experiment.run_folder} is finished already; --name gives another run\n"
    assert out.startswith("Accuracy in % on 90 test images, mean of 5 heads\n")


# where nothing can be written


@pytest.mark.parametrize("place", ["runs", "cache"])
def test_a_file_in_the_place_of_a_folder(fails: Fails, place: str) -> None:
    Path("file").touch()
    words = [
        "--data.glyphs.train",
        "60",
        "--data.glyphs.test",
        "20",
        "--runs",
        "runs",
        "--cache",
        "cache",
    ]
    words[words.index(f"--{place}") + 1] = "file"
    sentence = fails("train", *words, steps=True)
    assert re.search(
        r"^file/.* cannot be written \((Not a directory|File exists)\): free space or choose another folder", sentence
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES], ids=errno.errorcode.get)
def test_a_full_or_read_only_folder(fails: Fails, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("blurtrain.files.tempfile.mkstemp", refuse)
    sentence = fails("train", "--data.glyphs.train", "20", "--data.glyphs.test", "10", steps=True)
    assert f"cannot be written ({os.strerror(number)}): free space or choose another folder" in sentence


# the picture grid


def test_a_preview_is_drawn_where_the_runs_lie(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["preview", "--data.glyphs.train", "20", "--data.glyphs.test", "10", "--runs", "mine"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith(
        "\n\nFound: 4 training images, clean and through 6 blurs\nFiles: mine/preview-glyphs-glyphnet.png\n"
        "Next:  blurtrain compare --data.glyphs.train 20 --data.glyphs.test 10 --runs mine\n"
    )
    assert tree(tmp_path) == {tmp_path / "mine", tmp_path / "mine" / "preview-glyphs-glyphnet.png"}


def test_a_preview_is_drawn_where_it_is_wanted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    photos(tmp_path / "photos", {"train/a": 3, "train/b": 3, "test/a": 1, "test/b": 1})
    Path("blurs.yaml").write_text("copies: []\nsweep: [{family: box, strengths: [3]}]\ndata: {root: photos}\n")
    assert main(["preview", "--config", "blurs.yaml", "--images", "1", "--out", "pictures/p.PNG"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.endswith(
        "Found: 1 training image, clean and through 1 blur\nFiles: pictures/p.PNG\n"
        "Next:  blurtrain train --config blurs.yaml\n"
    )
    with Image.open("pictures/p.PNG") as drawn:
        assert drawn.format == "PNG"
    assert not Path("runs").exists()
    assert not Path("cache").exists()


# the networks


def test_backbones_lists_what_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    for file in ("resnet50-0676ba61.pth", "resnet50-11ad3fa6.pth", "other.pth"):
        (tmp_path / "hub" / "checkpoints" / file).touch()
    assert main(["backbones", "res*[05]0*"]) == 0
    assert capsys.readouterr() == (
        "name             input px  features  parameters  weights at hand\n"
        "resnet50              224      2048      23.5 M  IMAGENET1K_V1, IMAGENET1K_V2\n"
        "resnext50_32x4d       224      2048      23.0 M  -\n"
        "\nFound: 2 networks, the smallest resnext50_32x4d\nNext:  blurtrain backbones resnext50_32x4d --measure\n",
        "",
    )
    assert main(["backbones", "glyph"]) == 0
    assert capsys.readouterr() == (
        "name      input px  features  parameters  weights at hand\n"
        "glyphnet        64       192       0.7 M  embedded\n"
        "\nFound: 1 network, glyphnet\nNext:  blurtrain backbones glyphnet --measure\n",
        "",
    )


def test_backbones_that_do_not_exist(fails: Fails) -> None:
    assert fails("backbones", "resnt") == (
        "no backbone is called 'resnt': did you mean resnet50 or resnet34 or resnet18?"
    )
    assert fails("backbones", "swin_t") == (
        "swin_t is an attention network (ShiftedWindowAttention), not a convolutional one: "
        "blurtrain backbones lists those"
    )


# the store


def test_cache_shows_every_table(experiment: Config, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--cache", str(experiment.cache)]) == 0
    out = capsys.readouterr().out
    lines = out.partition("\n\n")[0].splitlines()
    views = [line for line in lines if line.startswith("features")]
    assert len(views) == len({*experiment.train_views, *experiment.test_views})
    for view in experiment.test_views:
        rows = 290 if view in experiment.train_views else 90
        assert re.search(rf"^features +glyphnet +{view.name} +{rows} rows", out, re.MULTILINE)
    assert re.search(r"^pixels +64 px +290 rows", out, re.MULTILINE)
    assert re.search(rf"^Found: {len(lines)} tables, \d+\.\d MB; everything there can be", out, re.MULTILINE)


def test_cache_prunes_what_is_asked(experiment: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert experiment.cache is not False
    shutil.copytree(experiment.cache, tmp_path / "cache")
    tables = set(Path("cache").rglob("table.json"))
    assert main(["cache", "--unused_for", "1"]) == 0
    assert set(Path("cache").rglob("table.json")) == tables
    old = min(tables)
    for path in old.parent.glob("*"):
        os.utime(path, (time.time() - 3 * 86400,) * 2)
    capsys.readouterr()
    assert main(["cache", "--unused_for", "1"]) == 0
    removed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("removed ")]
    assert len(removed) == 1
    assert str(old.parent) in removed[0]
    assert set(Path("cache").rglob("table.json")) == tables - {old}
    assert main(["cache", "--unused_for", "0"]) == 0
    assert f"\nFound: 0 tables, 0.0 MB, {len(tables) - 1} removed; everything there" in capsys.readouterr().out
    assert not set(Path("cache").rglob("table.json"))


def test_an_empty_cache_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache"]) == 0
    assert capsys.readouterr().out == (
        "Found: 0 tables, 0.0 MB; everything there can be computed again\n"
        "Files: cache\nNext:  blurtrain compare --cache cache\n"
    )


# being stopped


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", ["compare", "predict", "export", "cache"])
def test_an_interruption_is_one_line(
    command: str, number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    monkeypatch.setitem(cli._RUN, command, lambda _: signal.raise_signal(number))
    assert main([command]) == 130
    stores = command == "compare"  # the others keep nothing that they could go on from
    anew = "\nblurtrain: interrupted; the same command begins anew\n"
    assert capsys.readouterr().err == (INTERRUPTION if stores else anew)


# real processes: seconds each, so few


def process(*words: str, program: str = "") -> subprocess.Popen[str]:
    command = ["-c", program] if program else ["-m", "blurtrain"]
    return subprocess.Popen(
        [sys.executable, *command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    )


def test_python_m_blurtrain_is_the_command() -> None:
    started = process("comapre")
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (2, "")
    assert err == "blurtrain: error: command 'comapre' is not known: did you mean 'compare'?\n"


def test_the_installed_command_is_this_package() -> None:
    script = Path(sys.executable).with_name("blurtrain")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"blurtrain {VERSION}\n"


def test_a_finished_comparison_needs_no_torch(experiment: Config) -> None:
    program = (
        "import sys; from blurtrain.cli import main; code = main(sys.argv[1:]); heavy = "
        "{'torch', 'torchvision', 'pytorch_lightning', 'onnxruntime', 'matplotlib'} & set(sys.modules); "
        "print('heavy:', heavy or 'none'); sys.exit(code)"
    )
    started = process("compare", *words_of(experiment), program=program)
    out, _ = started.communicate(timeout=60)
    assert started.returncode == 0
    assert out.endswith("heavy: none\n")


def test_a_reader_that_goes_away_is_no_error(experiment: Config) -> None:
    started = process("compare", *words_of(experiment))
    assert started.stdout is not None
    started.stdout.close()
    assert started.stderr is not None
    with started.stderr:
        assert "Traceback" not in started.stderr.read()
    assert started.wait(timeout=60) == 0


SLOW_ENGINE = """
import sys, time
from blurtrain import engines, features
features.SHARD_ROWS = 32
run = engines.OnnxEngine.__call__
engines.OnnxEngine.__call__ = lambda self, *seen: (time.sleep(0.1), run(self, *seen))[1]
from blurtrain.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_an_interrupted_extraction_goes_on_to_the_same_comparison(experiment: Config, tmp_path: Path) -> None:
    words = ["compare", *words_of(experiment)[:4], "--runs", "runs", "--cache", "cache", "--engine", "onnxruntime"]
    started = process(*words, program=SLOW_ENGINE)
    until = time.monotonic() + 60
    while not list(Path("cache").glob("features/*/*/[!.]*.safetensors")) and time.monotonic() < until:
        time.sleep(0.02)
    started.send_signal(signal.SIGINT)
    out, err = started.communicate(timeout=60)
    assert (started.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert err.endswith(INTERRUPTION)
    stored = list(Path("cache").glob("features/*/*/[!.]*.safetensors"))
    assert stored
    assert not list(tmp_path.rglob(".partial*"))
    assert not list(Path("runs").rglob("run.json"))
    assert main(words) == 0
    resumed = json.loads(Path("runs/glyphs-glyphnet-baseline/work.json").read_text())["forward_passes"]
    assert resumed["reused"] >= 32
    assert resumed["reused"] + resumed["computed"] == 200 + 7 * 90
    views = json.loads(Path("runs/compare-glyphs-glyphnet/comparison.json").read_text())["views"]
    assert views == json.loads((experiment.comparison_folder / "comparison.json").read_text())["views"]
