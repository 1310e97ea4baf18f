"""How commands end: three lines of one shape, and a next command that is taken from them and run."""

import re
import shlex
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from blurtrain import cli, endings, glyphnet, runs
from blurtrain.cli import main
from blurtrain.config import BackboneConfig, Config
from blurtrain.endings import Ending, without

pytestmark = pytest.mark.usefixtures("here")

SHAPE = re.compile(r"Found: (?P<found>.+)\n(Files: (?P<files>.+)\n)?Next:  (?P<next>.+)\n\Z")
TINY = [
    *("--data.glyphs.train", "60", "--data.glyphs.test", "20", "--head.folds", "2", "--head.l2", "[0.1, 1.0]"),
    *("--runs", "my runs", "--cache", "it's a cache"),
]
Ends = Callable[..., tuple[list[str], list[str]]]


@pytest.fixture
def ends(capsys: pytest.CaptureFixture[str]) -> Ends:
    """Runs a command that must end well; gives the words of its next one, and the files that it names."""

    def run(*words: str) -> tuple[list[str], list[str]]:
        capsys.readouterr()
        assert main(words) == 0, capsys.readouterr().err
        out, err = capsys.readouterr()
        said = err if words[0] == "predict" else out
        found = SHAPE.search(said)
        assert found, said
        assert len(re.findall(r"^(Found|Files|Next):", said, re.MULTILINE)) == (3 if found["files"] else 2)
        files = shlex.split((found["files"] or "").partition("; shown by: ")[0].partition(" (")[0])
        assert all(Path(file).exists() for file in files if "cache" not in file)
        program, *following = shlex.split(found["next"])
        assert program == ("cat" if words[0] == "export" else "blurtrain")
        return following, files

    return run


def test_a_preview_leads_to_a_comparison_and_on(ends: Ends) -> None:
    words, files = ends("preview", *TINY, "--images", "1", "--out=a picture.png")
    assert words == ["compare", *TINY]
    assert files == ["a picture.png"]
    words, files = ends(*words)
    assert files == ["my runs/compare-glyphs-glyphnet"]
    assert words[0] in ("recommend", "export", "preview")
    ends(*words)


def test_images_that_were_looked_at_lead_to_a_comparison(ends: Ends) -> None:
    words, files = ends("check-data", *TINY, "--out", "what was found.csv")
    assert words == ["compare", *TINY]
    assert files == ["what was found.csv"]


def test_bad_images_lead_to_a_list_without_them_and_on(photo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((photo_folder / "train").rglob("*.*"))
    (photo_folder / "test" / picture.parent.name / f"again{picture.suffix}").write_bytes(picture.read_bytes())
    words = ["check-data", "--data.root", str(photo_folder), "--out", "all.csv"]
    for code in (1, 1, 0):  # found; listed without them, which mends nothing of the folder; the list is clean
        assert main(words) == code
        line = capsys.readouterr().out.splitlines()[-1]
        words = shlex.split(line.removeprefix("Next:  blurtrain "))
    assert words[:3] == ["compare", "--data.root", "mended.csv"]


def test_a_run_leads_to_its_comparison(ends: Ends) -> None:
    words, files = ends("train", *TINY)
    assert files == ["my runs/glyphs-glyphnet-augmented"]
    assert words == ["compare", "--config", f"{files[0]}/config.yaml"]
    _, files = ends(*words)
    assert files == ["my runs/compare-glyphs-glyphnet"]


def test_a_page_that_is_written_anew_leads_where_its_comparison_did(ends: Ends, few_runs: dict[str, Path]) -> None:
    arms = [str(few_runs[name]) for name in ("frozen", "adapt")]
    compared, (folder,) = ends("compare", *arms)
    assert ends("report", folder) == (compared, [folder])


def test_a_baseline_leads_to_a_recommendation_and_on(ends: Ends) -> None:
    words, files = ends("train", *TINY, "--copies", "[]")
    assert words == ["recommend", "--config", f"{files[0]}/config.yaml"]
    words, files = ends(*words)
    assert files == ["my runs/recommend-glyphs-glyphnet.yaml", "my runs/recommend-glyphs-glyphnet.json"]
    assert words[:3] == [words[0], "--config", files[0]]
    assert words[0] in ("compare", "preview")
    ends(*words)


def test_a_run_that_nothing_can_be_recommended_for_leads_to_a_preview(ends: Ends) -> None:
    words, _ = ends("train", *TINY, "--copies", "[]", "--cache", "false", "--minibatch.epochs", "1")
    assert words[0] == "preview"
    ends(*words)


@pytest.mark.parametrize("command", ["train", "compare", "evidence", "recommend", "layers"])
def test_a_forecast_leads_to_the_command_itself(ends: Ends, command: str) -> None:
    for option in ("--dry_run", "--dry-run"):
        words, files = ends(command, option, *TINY)
        assert (words, files) == ([command, *TINY], [])


def test_a_forecast_of_pretraining_leads_to_it(ends: Ends) -> None:
    assert ends("pretrain", "--dry_run", "--folder", "a b") == (["pretrain", "--folder", "a b"], [])


def test_an_imported_network_leads_to_its_layers_and_on(ends: Ends) -> None:
    words, files = ends("pretrained", *TINY)
    assert files == ["my runs/pretrained-glyphs-glyphnet"]
    assert words == ["layers", "--own_head", "--config", f"{files[0]}/config.yaml"]
    words, files = ends(*words, "--images", "2")
    assert files == ["my runs/layers-own-glyphs-glyphnet"]
    assert words[0] == "preview"
    ends(*words)


@pytest.mark.slow
def test_layers_and_evidence_lead_on(ends: Ends) -> None:
    words, _ = ends("layers", *TINY, "--images", "2")
    assert words[0] == "compare"
    ends(*words)
    words, _ = ends("evidence", *TINY)
    assert words[0] == "recommend"
    ends(*words)


def test_predictions_lead_to_an_export_and_its_card(ends: Ends, few_runs: dict[str, Path], drawn: Path) -> None:
    shutil.copytree(few_runs["frozen"], "a run")
    words, files = ends("predict", "a run", str(drawn), "--out", "rows of it.csv")
    assert files == ["rows of it.csv"]
    assert words == ["export", "a run", "--out", "classifier.onnx"]
    words, files = ends(*words)
    assert files == ["classifier.onnx", "classifier-card.md"]
    assert words == ["classifier-card.md"]
    assert Path(words[0]).read_text().startswith("# Model card")


def test_rows_alone_stand_on_standard_output(
    few_runs: dict[str, Path], drawn: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(few_runs["frozen"]), str(drawn)]) == 0
    out, err = capsys.readouterr()
    rows = [line.split(",") for line in out.splitlines()[1:]]
    assert len(rows) == 40
    (found,) = re.findall(r"^Found: 40 files: (.+)$", err, re.MULTILINE)
    classes = Counter(row[1] for row in rows)
    for count, name in re.findall(r"(\d+) (\d)(?:,|$)", found):
        assert classes[name] == int(count)
    assert sum(int(count) for count in re.findall(r"(\d+) (?:\d|of)", found)) == 40


def test_backbones_lead_to_a_trial_and_on(ends: Ends) -> None:
    words, files = ends("backbones", "glyph")
    assert (words, files) == (["backbones", "glyphnet", "--measure"], [])
    words, _ = ends(*words)
    assert words == ["preview", "--backbone.name", "glyphnet"]
    ends(*words)


def test_a_store_leads_to_what_fills_it_or_prunes_it(ends: Ends, few: Config, few_runs: dict[str, Path]) -> None:
    words, _ = ends("cache", "--cache", "no cache")
    assert words == ["compare", "--cache", "no cache"]
    ends(*words, "--dry_run", *TINY[:4])
    assert few_runs
    shutil.copytree(str(few.cache), "a cache")
    words, _ = ends("cache", "--cache", "a cache")
    assert words == ["cache", "--cache", "a cache", "--unused_for", "30"]
    ends(*words)


def test_pretrained_weights_are_shown_next(ends: Ends) -> None:
    shipped = Path(glyphnet.__file__).parent / "embedded" / "glyphnet.safetensors"
    Path("my weights").mkdir()
    weights = Path(shutil.copy(shipped, "my weights"))
    program, *words = shlex.split(
        endings.after_pretrain(weights, weights.with_suffix(".json"), 0.9, 5200).text.partition("Next:")[2]
    )
    assert program == "blurtrain"
    ends(*words, "--data.glyphs.test", "20", "--runs", "my runs")


# how it is said


def test_a_better_arm_is_exported_and_others_are_searched_for(few_runs: dict[str, Path]) -> None:
    folder = few_runs["frozen"]

    def after(verdict: str) -> Ending:
        result = {"difference": 0.1, "ci95": [0.0, 0.2], "verdict": verdict}
        heavy = {"against_reference": {"augmented": result}}
        comparison = {"reference": "baseline", "arms": {"augmented": str(folder)}, "heavy_mean": heavy}
        return endings.after_compare(Path("compare-x"), comparison, ["comparison.csv"])

    better = after("better")
    assert better.following == ["export", folder, "--out", "classifier.onnx"]
    assert better.found.startswith(
        "under heavy blur augmented is better than baseline: +10.0 points (95 % interval +0.0"
    )
    comparison = {"reference": "baseline", "arms": {"augmented": f"gone/{folder.name}"}}
    heavy = {"against_reference": {"augmented": {"difference": 0.1, "ci95": [0.0, 0.2], "verdict": "better"}}}
    moved = endings.after_compare(folder.parent / "compare-x", {**comparison, "heavy_mean": heavy}, [])
    assert moved.following == better.following
    assert after("not distinguishable").following[0] == "recommend"
    assert after("worse").following[0] == "recommend"


@pytest.mark.parametrize("change", [{"cache": False}, {"bn": "adapt"}, {"duplicated": True}])
def test_what_cannot_be_recommended_for_is_not_sent_there(change: dict[str, bool | str]) -> None:
    config = replace(Config(), **change)  # type: ignore[arg-type]
    assert endings._improving(Path("x"), config)[0] == "preview"
    assert endings._improving(Path("x"), Config())[0] == "recommend"


def test_a_function_of_the_users_own_is_named_again() -> None:
    config = Config(backbone=BackboneConfig(name="nets:build", weights="w.pth"))
    assert runs.again(Path("x"), config)[-2:] == ["--backbone.name", "nets:build"]


@pytest.mark.parametrize("name", ["a b", "it's", "$HOME", "a;b", "*", "tab\t"])
def test_what_is_to_be_copied_is_quoted(name: str) -> None:
    text = Ending("x", [name], ["predict", name, "two"], watch=Path(name)).text
    if name.isprintable():
        shown, following = (
            line.partition(start)[2] for line, start in zip(text.splitlines()[1:], ("by: ", ": "), strict=True)
        )
        assert shlex.split(following) == ["blurtrain", "predict", name, "two"]
        assert shlex.split(shown) == ["blurtrain", "tensorboard", "--runs", name]
    assert "\t" not in text


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["--images", "4", "--runs", "r"], ["--runs", "r"]),
        (["--runs", "r", "--images=4"], ["--runs", "r"]),
        (["--out", "--images", "x"], ["x"]),
        (["--imagesque", "4"], ["--imagesque", "4"]),
    ],
)
def test_options_are_left_out_with_their_values(words: list[str], rest: list[str]) -> None:
    assert without(words, "--images", "--out") == rest


def test_every_command_is_tried_here() -> None:
    tried = set(re.findall(r'ends\(\s*"([\w-]+)"', Path(__file__).read_text(encoding="utf-8")))
    tried |= {
        "compare",
        "export",
        "evidence",
        "recommend",
        "tensorboard",
    }  # by the lines of others, or by their parameters
    assert tried >= set(cli.COMMANDS)


@pytest.mark.parametrize("refused", [None, {"copies": ["gaussian 2"]}])
def test_copies_that_were_refused_for_their_cost_are_not_said_to_help_nothing(
    refused: dict[str, list[str]] | None,
) -> None:
    ending = endings.after_recommend(Path("out.yaml"), Config(), {"chosen": [], "refused": refused})
    (found,) = re.findall(r"^Found: (.*)$", ending.text, re.MULTILINE)
    assert found == "no copies that help" + " at little cost on clean images" * (refused is not None)
