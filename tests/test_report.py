"""The terminal table, the sentences under it, and the picture, against the numbers that they are made from."""

import json
import re
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from blurtrain import report
from blurtrain.config import Config
from blurtrain.errors import StoreError

BLUE, VERMILION = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)  # of the first two arms


@pytest.fixture
def comparison(experiment: Config) -> dict[str, Any]:
    """The comparison of the experiment that was really run."""
    loaded: dict[str, Any] = json.loads((experiment.comparison_folder / "comparison.json").read_text())
    return loaded


def against(difference: float, verdict: str, ci95: tuple[float | None, float | None]) -> dict[str, Any]:
    return {
        "difference": difference,
        "ci95": list(ci95),
        "p": 0.01,
        "p_holm": None,
        "verdict": verdict,
        "smallest_detectable": None,
    }


def renamed(comparison: dict[str, Any], name: str) -> dict[str, Any]:
    """The same with another name for the second arm."""
    copy = deepcopy(comparison)

    def rename(values: dict[str, Any]) -> dict[str, Any]:
        return {name if key == "augmented" else key: value for key, value in values.items()}

    for key in ("arms", "area"):
        copy[key] = rename(copy[key])
    for view in (*copy["views"], copy["heavy_mean"]):
        view["arms"], view["against_reference"] = rename(view["arms"]), rename(view["against_reference"])
    return copy


def table_lines(text: str) -> list[str]:
    """The lines between the headline and the notes."""
    return text.split("\n\n")[1].splitlines()


# the terminal


def test_table_is_at_most_100_columns_wide(comparison: dict[str, Any]) -> None:
    for view in comparison["views"]:
        view["against_reference"]["augmented"].update(difference=-0.2, ci95=[-0.3, -0.1], p_holm=None, p=0.1234)
    comparison.update(native_pixels_per_pixel=4.5, n_test=2000, groups=500)
    text = report.terminal_table(comparison)
    lines = text.split("\n\nUnder heavy blur")[0].splitlines()  # sentences may be longer
    assert max(map(len, lines)) <= 100


def test_every_view_has_its_row_with_its_numbers(comparison: dict[str, Any]) -> None:
    lines = table_lines(report.terminal_table(comparison))
    assert lines[0].split() == ["blur", "baseline", "augmented", "gain", "95", "%", "interval", "p", "verdict"]
    rows = [line for line in lines[1:] if set(line) != {"-"}]
    assert len(rows) == len(comparison["views"]) + 1
    for line, view in zip(rows, comparison["views"], strict=False):
        other = view["against_reference"]["augmented"]
        low, high = other["ci95"]
        p = other["p_holm"] if view["heavy"] else other["p"]
        expected = [
            view["name"] + " *" * view["heavy"],
            f"{100 * view['arms']['baseline']['accuracy']:.1f}",
            f"{100 * view['arms']['augmented']['accuracy']:.1f}",
            f"{100 * other['difference']:+.1f}",
            f"{100 * low:+.1f} to {100 * high:+.1f}",
            "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0"),
            other["verdict"],
        ]
        assert re.split(r"\s{2,}", line) == expected
    assert rows[-1].startswith("mean of heavy *")


def test_an_adjusted_p_value_stands_beside_its_verdict() -> None:
    other = {**against(0.1, "not distinguishable", (0.01, 0.19)), "p": 0.03, "p_holm": 0.09}
    view = {"arms": {"baseline": {"accuracy": 0.5}, "augmented": {"accuracy": 0.6}}, "against_reference": {"it": other}}
    cells = report._cells(view, "gaussian 2 *", ["baseline", "augmented"])
    assert cells == ["gaussian 2 *", "50.0", "60.0", "+10.0", "+1.0 to +19.0", ".090", "not distinguishable"]


def test_headline_counts_what_was_compared(comparison: dict[str, Any]) -> None:
    line = report.terminal_table(comparison).splitlines()[0]
    assert line == ("Accuracy in % on 90 test images in 8 groups, mean of 5 heads an arm; blur in px at network size")
    comparison.update(groups=90, heads=1)
    line = report.terminal_table(comparison).splitlines()[0]
    assert line == "Accuracy in % on 90 test images, mean of 1 head an arm; blur in px at network size"


def test_strengths_are_also_given_in_native_pixels(comparison: dict[str, Any]) -> None:
    comparison["native_pixels_per_pixel"] = 2.5
    text = report.terminal_table(comparison)
    assert "\ngaussian 0.5 (1.2 native) " in text
    assert "\ngaussian 3 (7.5 native) * " in text
    assert "clean (" not in text


def test_unknown_intervals_and_p_values_are_said_to_be_unknown(comparison: dict[str, Any]) -> None:
    for view in (*comparison["views"], comparison["heavy_mean"]):
        for other in view["against_reference"].values():
            other.update(ci95=[None, None], p=None, p_holm=None, smallest_detectable=None)
    rows = table_lines(report.terminal_table(comparison))[2:]
    for row in rows:
        assert set(row) == {"-"} or re.search(r"unknown\s+unknown\s", row)


def test_without_heavy_views_the_table_says_why(comparison: dict[str, Any]) -> None:
    comparison["heavy_mean"] = None
    for view in comparison["views"]:
        view["heavy"] = False
    text = report.terminal_table(comparison)
    assert text.endswith("No view is heavy: none is at least twice as wide as the strongest copy.")
    assert "*" not in text
    assert "mean of heavy" not in text


def test_three_arms_have_a_gain_each(comparison: dict[str, Any]) -> None:
    for view in (*comparison["views"], comparison["heavy_mean"]):
        view["arms"]["other"] = view["arms"]["augmented"]
        view["against_reference"]["other"] = view["against_reference"]["augmented"]
    comparison["arms"]["other"] = "runs/other"
    text = report.terminal_table(comparison)
    assert "augmented gain" in text
    assert "other gain" in text
    assert text.count("Under heavy blur") == 2


# the finding


@pytest.mark.parametrize(
    ("heavy", "sentence"),
    [
        (
            against(0.029, "better", (0.007, 0.051)),
            "Under heavy blur mine is better than baseline: +2.9 points (95 % interval +0.7 to +5.1)",
        ),
        (
            against(-0.12, "worse", (-0.2, -0.04)),
            "Under heavy blur mine is worse than baseline: -12.0 points (95 % interval -20.0 to -4.0)",
        ),
        (
            against(0.004, "not distinguishable", (-0.03, 0.04)),
            "Under heavy blur mine is not distinguishable from baseline: +0.4 points (95 % interval -3.0 to +4.0)",
        ),
        (
            against(1.0, "better", (None, None)),
            "Under heavy blur mine is better than baseline: +100.0 points (no interval)",
        ),
    ],
    ids=["better", "worse", "not distinguishable", "no interval"],
)
def test_finding_agrees_with_the_numbers(heavy: dict[str, Any], sentence: str) -> None:
    clean = against(-0.01, "worse", (-0.015, -0.005))
    text = report.finding("mine", heavy, clean, {"reference": "baseline"})
    first, second = text.splitlines()
    assert first == sentence + "."
    assert second == "On clean images it is worse than baseline: -1.0 points (95 % interval -1.5 to -0.5)."


def test_finding_says_what_the_test_could_have_shown() -> None:
    heavy = against(0.0, "not distinguishable", (-0.03, 0.03)) | {"smallest_detectable": 0.042}
    text = report.finding("mine", heavy, heavy, {"reference": "baseline"})
    assert "; this test could have shown 4.2" in text.splitlines()[0]
    assert "could have shown" not in text.splitlines()[1]


def test_the_finding_of_the_run_stands_below_the_table(comparison: dict[str, Any]) -> None:
    text = report.terminal_table(comparison).removesuffix("\n".join(report.breakdown_lines(comparison))).rstrip()
    heavy = comparison["heavy_mean"]["against_reference"]["augmented"]
    clean = comparison["views"][0]["against_reference"]["augmented"]
    assert text.endswith(report.finding("augmented", heavy, clean, comparison))
    assert f"{100 * heavy['difference']:+.1f} points" in text
    assert f"augmented is {heavy['verdict']} " in text


# classes and images


def class_row(name: str, loss: float, gain: float) -> dict[str, Any]:
    row = {"class": name, "arm": "augmented", "reference_clean": 0.9, "reference_heavy": 0.9 - loss}
    return {**row, "reference_loss": loss, **against(gain, "better", (gain - 0.1, gain + 0.1))}


def broken_down(comparison: dict[str, Any], *rows: dict[str, Any]) -> list[str]:
    kinds = {"rescued": 12, "lost": 3, "right in both": 50, "wrong in both": 25}
    return list(report.breakdown_lines(comparison | {"classes": list(rows), "images": {"augmented": kinds}}))


def test_classes_and_images_are_told_below_the_finding(comparison: dict[str, Any]) -> None:
    rows = [class_row("a", 0.3, -0.1), class_row("b", 0.5, 0.2), class_row("line\nbreak", 0.1, 0.25)]
    assert broken_down(comparison, *rows) == [
        "",
        "Class 'b' loses most under heavy blur: from 90.0 to 40.0 in baseline.",
        "Class 'line\\nbreak' gains most: there augmented is better than baseline: +25.0 points "
        "(95 % interval +15.0 to +35.0).",
        "Of 90 test images augmented rescues 12 and loses 3, by the majority of heads and heavy views (images.csv).",
    ]


def test_a_class_that_copies_make_worse_is_told(comparison: dict[str, Any]) -> None:
    rows = [class_row("a", 0.3, -0.3) | {"verdict": "worse"}, class_row("b", 0.5, 0.2), class_row("c", 0.1, -0.2)]
    assert broken_down(comparison, *rows)[3] == (
        "Class 'a' pays most: there augmented is worse than baseline: -30.0 points (95 % interval -40.0 to -20.0)."
    )


def test_a_worse_class_is_told_behind_one_that_may_have_lost_more(comparison: dict[str, Any]) -> None:
    unsure = class_row("a", 0.3, -0.3) | {"verdict": "not distinguishable"}
    rows = [unsure, class_row("b", 0.5, 0.2), class_row("c", 0.1, -0.2) | {"verdict": "worse"}]
    assert broken_down(comparison, *rows)[3].startswith("Class 'c' pays most: there augmented is worse than baseline")


def test_no_class_is_said_to_lose_or_gain_that_does_not(comparison: dict[str, Any]) -> None:
    (empty, images) = broken_down(comparison, class_row("a", -0.1, 0.0), class_row("b", 0.0, -0.2))
    assert (empty, images[:19]) == ("", "Of 90 test images a")


def test_every_arm_has_its_lines_in_the_terminal_and_in_tensorboard(comparison: dict[str, Any]) -> None:
    comparison["images"]["other"] = comparison["images"]["augmented"]
    comparison["classes"] += [row | {"arm": "other"} for row in comparison["classes"]]
    lines = list(report.breakdown_lines(comparison))
    assert sum(line.startswith("Of 90 test images") for line in lines) == 2
    assert report.terminal_table(comparison).endswith("\n".join(lines))
    assert report.markdown_table(comparison).endswith("\n".join(f"- {line}" for line in lines if line))


def test_tensorboards_text_begins_with_the_finding_and_has_it_once(comparison: dict[str, Any]) -> None:
    text = report.markdown_table(comparison)
    (stated,) = report.findings(comparison)
    assert text.startswith(f"**{stated}**\n\nAccuracy in %".replace("\nOn clean", " On clean"))
    assert text.count("Under heavy blur augmented is") == 1
    below = text.rpartition(" |\n\n")[2].splitlines()
    assert below
    assert all(line.startswith("- ") for line in below)


# Markdown


def cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", ["augmented", "a|b", "||", "with space", "$_{"])
def test_markdown_table_is_rectangular_and_holds_every_view(comparison: dict[str, Any], name: str) -> None:
    text = report.markdown_table(renamed(comparison, name))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(cells(line)) for line in lines} == {7}
    assert cells(lines[0])[:4] == ["blur", "baseline", name, f"{name} gain"]
    assert set(cells(lines[1])) == {"---"}
    names = [cells(line)[0].removesuffix(" *") for line in lines[2:]]
    assert names == [*(view["name"] for view in comparison["views"]), "mean of heavy"]


def test_markdown_and_terminal_show_the_same_cells(comparison: dict[str, Any]) -> None:
    markdown = [cells(line) for line in report.markdown_table(comparison).splitlines() if line.startswith("|")][2:]
    terminal = [line for line in table_lines(report.terminal_table(comparison))[2:] if set(line) != {"-"}]
    assert [re.split(r"\s{2,}", line) for line in terminal] == markdown


# one run


def test_sweep_table_shows_every_view_of_a_run(experiment: Config) -> None:
    rows = json.loads((experiment.run_folder / "sweep.json").read_text())
    lines = report.sweep_table(experiment.run_folder).splitlines()
    assert lines[0] == "Accuracy in % on 90 test images, mean of 5 heads"
    assert max(map(len, lines)) <= 100
    for line, row in zip(lines[3:], rows, strict=True):
        shown = [100 * row["accuracy"], 100 * row["accuracy_sd"], row["nll"], row["ece"], 100 * row["accuracy_refit"]]
        assert line.startswith(row["view"] + " ")
        found = [float(word) for word in line.removeprefix(row["view"]).split()]
        assert found == pytest.approx(shown, abs=0.051)


# the picture


def draw(path: Path, comparison: dict[str, Any]) -> Image.Image:
    report.accuracy_picture(path, comparison)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.convert("RGB")


def pixels_of(picture: Image.Image, colour: tuple[int, int, int]) -> int:
    return int((np.abs(np.asarray(picture).astype(int) - colour).max(-1) < 8).sum())


def test_picture_is_readable_and_of_sensible_size(tmp_path: Path, comparison: dict[str, Any]) -> None:
    picture = draw(tmp_path / "figures" / "accuracy.png", comparison)
    width, height = picture.size
    assert 600 <= width <= 1600
    assert 400 <= height <= 1200
    assert (tmp_path / "figures" / "accuracy.png").stat().st_size < 200_000
    assert pixels_of(picture, BLUE) > 300
    assert pixels_of(picture, VERMILION) > 300
    assert np.asarray(picture)[:5].mean() > 250  # a white margin: nothing is cut off at the top


def test_picture_of_the_run_is_stored(experiment: Config) -> None:
    with Image.open(experiment.comparison_folder / "figures" / "accuracy.png") as picture:
        assert picture.size == (768, 528)


def test_picture_shows_the_heights_of_the_curves(tmp_path: Path, comparison: dict[str, Any]) -> None:
    for view in comparison["views"]:
        for name, height in (("baseline", 0.25), ("augmented", 0.75)):
            view["arms"][name].update(accuracy=height, ci95=[None, None])
    pixels = np.asarray(draw(tmp_path / "flat.png", comparison)).astype(int)
    inner = pixels[:, 300:700]  # without the legend
    rows = [np.flatnonzero((np.abs(inner - colour).max(-1) < 8).sum(1) > 200).mean() for colour in (BLUE, VERMILION)]
    assert rows[0] > rows[1]  # the higher accuracy stands higher up
    figure_height = pixels.shape[0]
    assert 0.3 < (rows[0] - rows[1]) / figure_height < 0.5  # half of an axis that covers most of the figure


@pytest.mark.parametrize("name", ["a|b", "$_{", "cost $5 to $10", "_hidden", "日本", "x" * 60, "%s {} \\alpha"])
@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")  # the picture's font, not ours to ship
def test_names_break_no_picture(tmp_path: Path, comparison: dict[str, Any], name: str) -> None:
    picture = draw(tmp_path / "accuracy.png", renamed(comparison, name))
    assert picture.size == (768, 528)


def test_a_name_with_an_underscore_stands_in_the_legend(tmp_path: Path, comparison: dict[str, Any]) -> None:
    for view in comparison["views"]:  # curves at the top, so that only the legend has colour at the bottom
        for arm in view["arms"].values():
            arm.update(accuracy=0.95, ci95=[None, None])
    pictures = [draw(tmp_path / f"{name}.png", renamed(comparison, name)) for name in ("hidden", "_hidden")]
    below = [picture.crop((0, picture.height // 2, picture.width, picture.height)) for picture in pictures]
    assert pixels_of(below[0], VERMILION) > 0
    assert pixels_of(below[1], VERMILION) == pixels_of(below[0], VERMILION)


def test_unknown_intervals_and_no_heavy_view_break_no_picture(tmp_path: Path, comparison: dict[str, Any]) -> None:
    comparison["heavy_mean"] = None
    for view in comparison["views"]:
        view["heavy"] = False
        for arm in view["arms"].values():
            arm["ci95"] = [None, None]
    assert draw(tmp_path / "accuracy.png", comparison).size == (768, 528)


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@pytest.mark.parametrize("name", ["ants", "$_{", "日本"])
def test_picture_has_a_dotted_line_where_guessing_stands(tmp_path: Path, comparison: dict[str, Any], name: str) -> None:
    for view in comparison["views"]:
        for arm in view["arms"].values():
            arm.update(accuracy=0.95, ci95=[None, None])
    rows = []
    for share in (0.6, 0.8):
        comparison["largest_class"] = {"class": name, "images": 60, "share": share}
        pixels = np.asarray(draw(tmp_path / "level.png", comparison)).astype(int)
        dark = (np.abs(pixels[:, 330:740] - 77).max(-1) < 60).sum(1)  # 0.3 of white, where no legend stands
        rows.append(60 + int(dark[60:-60].argmax()))  # within the axes
        assert 80 < dark[rows[-1]] < 330  # dots, not a whole line
    assert 0.13 < (rows[0] - rows[1]) / pixels.shape[0] < 0.2


def test_a_second_family_gets_a_panel(tmp_path: Path, comparison: dict[str, Any]) -> None:
    for view in deepcopy(comparison["views"][1:]):
        comparison["views"].append(view | {"family": "box", "curve": "box"})
    assert draw(tmp_path / "accuracy.png", comparison).size == (2 * 768, 528)
    for view in deepcopy(comparison["views"][1:3]):
        for angle in (0, 45):
            comparison["views"].append(view | {"family": "motion", "curve": f"motion at {angle} degrees"})
    assert draw(tmp_path / "accuracy.png", comparison).size == (3 * 768, 2 * 528)


@pytest.mark.parametrize("curve", ["glass severity", "glass severity seed 3"])
def test_severities_are_no_measure_of_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comparison: dict[str, Any], curve: str
) -> None:
    told: list[str] = []
    monkeypatch.setattr("matplotlib.axes.Axes.set_xlabel", lambda _, text: told.append(text))
    for place, view in enumerate(deepcopy(comparison["views"][1:3]), 1):
        of_glass = {"family": "glass", "curve": curve, "strength": place, "parameters": {"sigma": 0.7}}
        comparison["views"].append(view | of_glass)
    report.accuracy_picture(tmp_path / "accuracy.png", comparison)
    assert told == ["gaussian blur: sigma", curve]


def test_the_same_comparison_gives_the_same_picture(tmp_path: Path, comparison: dict[str, Any]) -> None:
    for name in ("one.png", "two.png"):
        report.accuracy_picture(tmp_path / name, comparison)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path, comparison: dict[str, Any]) -> None:
    (tmp_path / "figures").touch()
    with pytest.raises(StoreError, match=r"accuracy.png cannot be written \(.*\): free space or choose another folder"):
        report.accuracy_picture(tmp_path / "figures" / "accuracy.png", comparison)


def test_a_blur_narrower_than_its_strength_says_is_noted_in_any_family(comparison: dict[str, Any]) -> None:
    for family, strength, deviation in (("motion", 1.0, 0.0), ("defocus", 3.0, 1.536), ("psf", 1.0, 0.3)):
        extra = {"family": family, "strength": strength, "standard_deviation": deviation, "name": f"{family} here"}
        comparison["views"].append(comparison["views"][-1] | extra)
    text = report.terminal_table(comparison)
    assert "motion here: sampled at whole pixels, its standard deviation is 0.00 px." in text
    assert "gaussian 0.5: sampled at whole pixels, its standard deviation is 0.46 px." in text
    assert "defocus here: sampled" not in text
    assert "psf here: sampled" not in text  # a measured one is what it is
