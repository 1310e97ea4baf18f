"""The page of a comparison in a real browser, against the stored predictions, the images, and other libraries."""

import base64
import csv
import io
import itertools
import json
import re
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from playwright.sync_api import Browser, Page
from sklearn.metrics import confusion_matrix

import blurtrain
from blurtrain import (
    comparison,
    layers,
    metrics,
    page,
    page_answers,
    page_figures,
    page_images,
    page_parts,
    page_setup,
    page_words,
    runs,
)
from blurtrain import experiment as experiments
from blurtrain.blur import blur_pixels
from blurtrain.cli import main
from blurtrain.config import AugmentConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError, BlurtrainError, DataError, RunError
from blurtrain.opening import open_source
from blurtrain.runs import Run
from blurtrain.views import Blur
from tests.browser import WIDTHS, Watched, browser, needs_chromium
from tests.conftest import photograph
from tests.test_comparison import RESULT, made_up, make_run

ODD = ("<b>\"ants\" & 'bees'", "line\nbreak", "naïve $x_1$ <script>")  # names of classes
MOST_BYTES = 5_000_000
HEAVY_VIEWS = ("gaussian 2", "gaussian 2.5", "gaussian 3")  # of the shared experiment


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as running:
        yield running


def opened(running: Browser, path: Path, width: int = WIDTHS[0], *, dark: bool = False) -> Watched:
    watched = Watched(running, width, dark=dark)
    watched.open_file(path)
    return watched


@pytest.fixture(scope="module")
def own(experiment: Config) -> Path:
    return experiment.comparison_folder / "report.html"


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three arms on photographs of oddly named classes, one of which is not tested; two blurs and a real test set."""
    folder = tmp_path_factory.mktemp("Bilder süß <i>")
    root = folder / "photos"
    for split, first, count in (("train", 0, 8), ("test", 100, 5)):
        for label, name in enumerate((*ODD, "absent") if split == "train" else ODD):
            (root / split / name).mkdir(parents=True)
            for seed in range(first, first + count):
                photograph(label % 3, seed + 50 * (label == 3)).save(root / split / name / f"{seed} & <i>.png")
    for label, name in enumerate(ODD):
        (folder / "phone" / name).mkdir(parents=True)
        for seed in range(3):
            photograph(label, 900 + seed).save(folder / "phone" / name / f"{seed}.png")
    config = Config(
        data=DataConfig(root=str(root)),
        copies=(BlurGrid("gaussian", (1.0,)),),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)), BlurGrid("box", (3.0, 9.0))),
        extra_tests={"phone": str(folder / "phone")},
        head=HeadConfig(folds=2, l2=(0.1, 1.0)),
        name="odd",
        runs=folder / "runs",
        cache=folder / "cache",
    )
    blurtrain.compare(config)
    adapted = replace(config, bn="adapt")
    blurtrain.train(adapted)
    arms = (config.baseline(), config, adapted)
    return blurtrain.compare_runs([arm.run_folder for arm in arms])


def cells(watched: Page, table: str) -> list[list[str]]:
    """Texts of a table's body."""
    found: list[list[str]] = watched.evaluate(
        "id => [...document.getElementById(id).tBodies[0].rows].map(r => [...r.cells].map(c => c.innerText.trim()))",
        table,
    )
    return found


# in a browser


@needs_chromium
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("which", ["own", "odd"])
def test_page_opens_from_disk_and_has_no_fault(
    chromium: Browser, request: pytest.FixtureRequest, which: str, width: int, dark: bool
) -> None:
    path: Path = request.getfixturevalue(which)
    path = path if which == "own" else path / "report.html"
    watched = opened(chromium, path, width, dark=dark)
    assert watched.errors == []
    assert watched.external_requests() == []
    assert [url for url in watched.requests if url.startswith("file:")] == [path.absolute().as_uri()]
    assert watched.broken_images() == []
    assert watched.serious_faults() == []
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= width
    assert path.stat().st_size < MOST_BYTES


@needs_chromium
@pytest.mark.parametrize("which", ["own", "odd"])
def test_headings_are_in_order_and_what_has_an_id_has_its_own(
    chromium: Browser, request: pytest.FixtureRequest, which: str
) -> None:
    path: Path = request.getfixturevalue(which)
    watched = opened(chromium, path if which == "own" else path / "report.html").page
    levels = watched.evaluate("() => [...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    ids = watched.evaluate("() => [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert [name for name, count in Counter(ids).items() if count > 1] == []
    targets = watched.evaluate("() => [...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))")
    assert set(targets) <= set(ids)
    assert watched.evaluate("() => [...document.querySelectorAll('table')].filter(t => !t.caption).length") == 0


@needs_chromium
def test_gains_are_those_of_the_comparison(chromium: Browser, own: Path) -> None:
    result = json.loads((own.parent / "comparison.json").read_text())
    watched = opened(chromium, own).page
    caption = watched.locator("#gains-table caption").inner_text()
    assert f"{result['n_test']} test images in {result['groups']} groups, {result['heads']} heads an arm" in caption
    rows = cells(watched, "gains-table")
    means = [
        {**result["slight_mean"], "name": "mean of slight", "heavy": False},
        {**result["heavy_mean"], "name": "mean of heavy", "heavy": False},  # no mark: its p is not adjusted
    ]
    for row, view in zip(rows, [*result["views"], *means], strict=True):
        gain = view["against_reference"]["augmented"]
        p = gain["p"] if gain["p_holm"] is None else gain["p_holm"]
        assert row == [
            view["name"] + " *" * view["heavy"],
            f"{100 * gain['difference']:+.1f}",
            "{:+.1f} to {:+.1f}".format(*(100 * bound for bound in gain["ci95"])),
            gain["verdict"],
            *(f"{100 * view['arms'][arm]['accuracy']:.1f}" for arm in ("baseline", "augmented")),
            "<.001" if p < 0.001 else f"{p:.3f}",
        ]


@needs_chromium
def test_the_finding_stands_first(chromium: Browser, own: Path) -> None:
    result = json.loads((own.parent / "comparison.json").read_text())
    text = opened(chromium, own).page.locator("header").inner_text().replace("\xa0", " ")
    for part in (result["heavy_mean"], result["views"][0]):
        gain = part["against_reference"]["augmented"]
        assert f"{gain['verdict']} " in text
        assert f"{100 * gain['difference']:+.1f} points" in text
        for arm in part["arms"].values():
            assert f"{100 * arm['accuracy']:.1f}" in text
    parts = (result["heavy_mean"], result["slight_mean"], result["views"][0])
    heavy, slight, clean = (100 * part["against_reference"]["augmented"]["smallest_detectable"] for part in parts)
    little = f"{heavy:.1f} under heavy blur, {slight:.1f} under slight blur or {clean:.1f} on clean images (points)"
    assert f"How little can be seen: a true difference of {little} would be found in 80 of 100" in text
    rows = {row["difference"]: row for row in result["classes"]}
    gains = f"{100 * rows[max(rows)]['reference_heavy']:.1f} to {100 * rows[max(rows)]['arm_heavy']:.1f} %"
    gains += ", not distinguishable" * (rows[max(rows)]["verdict"] != "better")
    assert f"Class {rows[max(rows)]['class']!r} gains most under heavy blur ({gains}); none is found worse." in text
    slight = [view for view in result["views"] if view["name"] in ("gaussian 0.5", "gaussian 1")]
    tile = text[text.index("Slight blur (gaussian 0.5, 1 px)") :]
    means = [np.mean([view["arms"][arm]["accuracy"] for view in slight]) for arm in ("baseline", "augmented")]
    assert f"{100 * means[0]:.1f}" in tile
    verdict = result["slight_mean"]["against_reference"]["augmented"]["verdict"]
    assert f"{100 * means[1]:.1f} {100 * (means[1] - means[0]):+.1f}, {verdict}" in " ".join(tile.split())


@needs_chromium
def test_every_table_sorts_by_every_column_and_back(chromium: Browser, odd: Path) -> None:
    watched = opened(chromium, odd / "report.html").page
    assert watched.locator("table:has(th button)").count() >= 2
    for table in watched.locator("table:has(th button)").all():
        count = table.locator("thead th").count()
        for column in range(count):
            heading = table.locator("thead th").nth(column)
            before = table.evaluate(VALUES, column)
            numbers = all(isinstance(value, float | int) for value in before)
            order = sorted(before, key=float) if numbers else sorted(before, key=str)
            already = heading.get_attribute("aria-sort") == "ascending"
            if not already:
                heading.locator("button").click()
                assert heading.get_attribute("aria-sort") == "ascending"
                assert table.evaluate(VALUES, column) == order
            heading.locator("button").click()
            assert heading.get_attribute("aria-sort") == "descending"
            assert table.evaluate(VALUES, column) == order[::-1]
            assert table.locator("th[aria-sort]:not([aria-sort=none])").count() == 1


VALUES = """(table, column) => [...table.tBodies[0].rows].map(row => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
})"""


def stored(folder: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of the folds' heads in a predictions file by image and view."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in pq.read_table(folder / "predictions.parquet").to_pylist():
        if row["head"].startswith("fold"):
            found.setdefault((row["image"], row["view"]), []).append(row)
    return found


def answer(rows: list[dict[str, Any]]) -> tuple[int, float, int]:
    """The class that most heads give, of equally many the first; how sure these are, and how many."""
    counted = Counter(row["predicted"] for row in rows)
    best = min(one for one in counted if counted[one] == max(counted.values()))
    agreeing = [row["confidence"] for row in rows if row["predicted"] == best]
    return best, sum(agreeing) / len(agreeing), len(agreeing)


def dozen(folder: Path) -> list[dict[str, str]]:
    """Which images stand under the slider, from images.csv alone: rows of each kind in the order of their hashes."""
    with (folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: row["image"])
    kinds = ("rescued", "lost", "right in both", "wrong in both")
    exact = [12 * sum(row["kind"] == kind for row in rows) / len(rows) for kind in kinds]
    given = [int(share) for share in exact]
    for place in sorted(range(4), key=lambda i: given[i] - exact[i])[: 12 - sum(given)]:
        given[place] += 1
    return [row for kind, n in zip(kinds, given, strict=True) for row in [r for r in rows if r["kind"] == kind][:n]]


@needs_chromium
def test_slider_shows_the_stored_answers_and_the_image_through_that_blur(
    chromium: Browser, own: Path, experiment: Config
) -> None:
    watched = opened(chromium, own).page
    chosen, slider = dozen(own.parent), watched.locator("#strength")
    cards = watched.locator(".cards > li")
    assert cards.count() == len(chosen) == 12
    predictions = [stored(arm.run_folder) for arm in (experiment.baseline(), experiment)]
    source = open_source(experiment.data)
    index = {item.name: place for place, item in enumerate(source.items)}
    geometry = Geometry(64, 64)
    views = experiment.test_views
    assert int(slider.get_attribute("max") or 0) == len(views) - 1
    assert views[int(slider.input_value())].name == HEAVY_VIEWS[0]  # where heavy blur begins
    assert watched.locator("label[for=strength]").inner_text() == "Blur (gaussian sigma, px)"
    for stop, view in enumerate(views):
        slider.fill(str(stop))
        right = [0, 0]
        for card, row in zip(cards.all(), chosen, strict=True):
            shown = card.locator(".strip > li:visible")
            assert shown.count() == 1
            for place, rows in enumerate(predictions):
                best, sure, votes = answer(rows[row["image"], view.name])
                text = re.sub(r"\s+", " ", shown.locator("dd").nth(place).inner_text()).strip()
                is_right = str(best) == row["class"]
                right[place] += is_right
                assert text.endswith(f"{best} {100 * sure:.0f} % {votes} of 5")
                assert ("✓" if is_right else "✗") in text
            assert card.locator("h3").inner_text() == row["class"]
            pixels = geometry.apply(source.decode(index[row["file"]]))[None]
            picture = decoded(shown.locator("img").get_attribute("src") or "")
            errors = [np.abs(255 * blur_pixels(pixels, one)[0].transpose(1, 2, 0) - picture).mean() for one in views]
            assert int(np.argmin(errors)) == stop
        said = watched.locator(".control output").inner_text()
        assert f"baseline is right on {right[0]} of these 12 images" in said
        assert f"augmented is right on {right[1]} and" in said
        assert (slider.get_attribute("aria-valuetext") or "").startswith(view.name)


def decoded(uri: str) -> np.ndarray:
    data = base64.b64decode(uri.removeprefix("data:image/webp;base64,"))
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB")).astype(np.float64)


@needs_chromium
def test_another_blur_of_the_slider_has_its_own_strengths(chromium: Browser, odd: Path) -> None:
    watched = opened(chromium, odd / "report.html").page
    assert watched.locator("#curve option").all_inner_texts() == ["box", "gaussian"]
    for curve, expected in (
        ("gaussian", ["clean", "gaussian 1 px", "gaussian 3 px"]),
        ("box", ["clean", "box 3 px", "box 9 px"]),
    ):
        watched.locator("#curve").select_option(label=curve)
        assert watched.locator("#strength").get_attribute("max") == "2"
        measure = {"gaussian": "gaussian sigma, px", "box": "box width, px"}[curve]
        assert watched.locator("label[for=strength]").inner_text() == f"Blur ({measure})"
        for stop, name in enumerate(expected):
            watched.locator("#strength").fill(str(stop))
            captions = watched.locator(".cards .strip > li:visible figcaption span:first-child").all_inner_texts()
            assert set(captions) == {name}


@needs_chromium
def test_without_script_every_strength_can_be_read(chromium: Browser, own: Path, experiment: Config) -> None:
    context = chromium.new_context(viewport={"width": WIDTHS[1], "height": 900}, java_script_enabled=False)
    watched = context.new_page()
    watched.goto(own.absolute().as_uri())
    assert watched.locator(".cards .strip > li:visible").count() == 12 * len(experiment.test_views)
    assert not watched.locator(".control").is_visible()
    assert watched.locator("#said > li:visible").count() == len(experiment.test_views)
    assert watched.locator("th button:enabled").count() == 0  # what does nothing looks like nothing
    context.close()


@needs_chromium
def test_names_are_shown_as_they_are(chromium: Browser, odd: Path) -> None:
    watched = opened(chromium, odd / "report.html").page
    shown = watched.evaluate(
        "() => [...document.querySelectorAll('#classes-table tbody th, .card h3')].map(e => e.textContent)"
    )
    assert set(ODD) <= set(shown)
    assert "absent" not in {row[0] for row in cells(watched, "classes-table")}  # which has no test image
    assert watched.locator("main script").count() == 0
    assert watched.locator("main i:not(.mark)").count() == 0
    arms = watched.locator("nav + main #accuracy .legend li").all_inner_texts()
    assert [arm.lstrip("●■▲◆▼") for arm in arms] == ["baseline", "augmented", "augmented-bn-adapt"]


# what it is made from


def test_answers_of_most_heads_are_those_of_the_file(experiment: Config) -> None:
    said = page.read(experiment.comparison_folder).answers
    for arm, config in (("baseline", experiment.baseline()), ("augmented", experiment)):
        rows = stored(config.run_folder)
        images = list(dict.fromkeys(image for image, _ in rows))
        for view in experiment.test_views:
            found = said.said[view.name, arm]
            expected = [answer(rows[image, view.name]) for image in images]
            assert found.answer.tolist() == [best for best, _, _ in expected]
            assert found.votes.tolist() == [votes for _, _, votes in expected]
            np.testing.assert_allclose(found.confidence, [sure for _, sure, _ in expected], rtol=1e-5)


def test_confusion_is_scikit_learns(experiment: Config) -> None:
    told = page.read(experiment.comparison_folder)
    matrices = []
    for config in (experiment.baseline(), experiment):
        rows = [row for (_, view), some in stored(config.run_folder).items() if view in HEAVY_VIEWS for row in some]
        truth, guess = ([row[key] for row in rows] for key in ("label", "predicted"))
        matrices.append(confusion_matrix(truth, guess, labels=range(10), normalize="true"))
    before, after = np.zeros((10, 10)), np.zeros((10, 10))
    found = page_answers.shifts(told.answers, "baseline", "augmented")
    for one in found:
        before[one.label, one.answer], after[one.label, one.answer] = one.before, one.after
    np.testing.assert_allclose([before, after], matrices, atol=1e-12)
    assert [abs(one.images) for one in found] == sorted((abs(one.images) for one in found), reverse=True)
    images = np.bincount(told.answers.labels, minlength=10)
    np.testing.assert_allclose(
        sum(abs(one.images) for one in found), np.abs((after - before) * images[:, None]).sum(), atol=1e-9
    )


@needs_chromium
def test_heat_map_has_the_changes_of_all_pairs(chromium: Browser, own: Path, experiment: Config) -> None:
    rows = [
        [row for (_, view), some in stored(config.run_folder).items() if view in HEAVY_VIEWS for row in some]
        for config in (experiment.baseline(), experiment)
    ]
    before, after = (
        confusion_matrix([r["label"] for r in some], [r["predicted"] for r in some], labels=range(10), normalize="true")
        for some in rows
    )
    shown = cells(opened(chromium, own).page, "confusion-table")
    for label, line in enumerate(shown):
        assert line[0] == str(label)
        change = [int(cell.split()[0]) for cell in line[1:]]
        assert change == pytest.approx(100 * (after - before)[label], abs=0.5 + 1e-9)
        ends = [cell.split()[1].split("→") if " " in cell or "\n" in cell else ("0", "0") for cell in line[1:]]
        for place, shares in enumerate((before, after)):
            assert [int(end[place]) for end in ends] == pytest.approx(100 * shares[label], abs=0.5 + 1e-9)


def test_gaps_of_calibration_sum_to_the_calibration_error(experiment: Config) -> None:
    found = page.read(experiment.comparison_folder).answers.calibration
    for (kind, arm), one in found.items():
        config = {"baseline": experiment.baseline(), "augmented": experiment}[arm]
        views = HEAVY_VIEWS if kind == page_answers.HEAVY else ("clean",)
        rows = [row for (_, view), some in stored(config.run_folder).items() if view in views for row in some]
        confidence = np.array([row["confidence"] for row in rows], np.float32)
        correct = np.array([row["predicted"] == row["label"] for row in rows])
        some = one.counts > 0
        gaps = (one.counts * np.abs(one.accuracy - one.confidence))[some].sum() / one.counts.sum()
        assert gaps == pytest.approx(float(metrics.expected_calibration_error(confidence, correct)), abs=1e-6)
        assert one.counts.sum() == len(rows)


def test_calibration_errors_are_those_of_the_comparison(experiment: Config) -> None:
    result = experiments.read_comparison(experiment.comparison_folder)
    for arm in ("baseline", "augmented"):
        ece = {view["name"]: view["arms"][arm]["ece"] for view in result["views"]}
        assert page_words.calibration_errors(result, "clean")[arm] == ece["clean"]
        heavy = page_words.calibration_errors(result, "heavy")[arm]
        assert heavy == pytest.approx(np.mean([ece[name] for name in HEAVY_VIEWS]))


@pytest.mark.parametrize(
    ("counts", "total", "expected"),
    [
        ((320, 105, 145, 1430), 12, [2, 1, 1, 8]),  # exactly 1.92, .63, .87, 8.58
        ((1, 1, 1, 1), 2, [1, 1, 0, 0]),  # of equal remainders the first
        ((0, 0, 3, 0), 12, [0, 0, 3, 0]),  # fewer images than places
        ((5, 0, 5, 0), 4, [2, 0, 2, 0]),
    ],
)
def test_kinds_are_shown_in_proportion(counts: tuple[int, ...], total: int, expected: list[int]) -> None:
    assert page_images.shares(counts, total) == expected


def test_grids_show_what_changes_most_in_the_view_that_shows_it(experiment: Config) -> None:
    told = page.read(experiment.comparison_folder)
    context = page.context(told)
    with (told.folder / "images.csv").open(encoding="utf-8", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    by_arm = [stored(config.run_folder) for config in (experiment.baseline(), experiment)]
    for kind in ("rescued", "lost"):
        cards = context["grids"][kind]
        every = [abs(float(row["change"])) for row in rows.values() if row["kind"] == kind]
        changes = [abs(float(rows[card["file"]]["change"])) for card in cards]
        assert changes == sorted(every, reverse=True)[:12]
        for card in cards:
            image = rows[card["file"]]["image"]
            assert rows[card["file"]]["kind"] == kind
            apart = {
                view: abs(
                    int(np.diff([sum(r["predicted"] == r["label"] for r in some[image, view]) for some in by_arm])[0])
                )
                for view in HEAVY_VIEWS
            }
            assert card["shown"][1]["name"] == max(apart, key=lambda view: apart[view])


def test_same_inputs_same_bytes(odd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (odd / "report.html").read_bytes()
    (odd / "report.html").unlink()
    capsys.readouterr()
    assert main(["report", str(odd)]) == 0
    assert "(report.html)" in capsys.readouterr().out
    assert (odd / "report.html").read_bytes() == before


def test_a_comparison_whose_page_is_gone_gets_it_again(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    made = blurtrain.compare_runs(folders)
    before = (made / "report.html").read_bytes()
    (made / "report.html").unlink()
    assert blurtrain.compare_runs(folders) == made
    assert (made / "report.html").read_bytes() == before


# what it says of the runs


def run_of(config: Config, **changes: Any) -> Run:  # noqa: ANN401 - values of run.json
    return Run(config.run_folder, config, {**RESULT, "classes": ["no", "yes"], **changes})


BLURRED = Config(copies=(BlurGrid("gaussian", (1.0, 2.0)), BlurGrid("motion", (9.0,), angle=45.0)))
DRAWN = AugmentConfig(pipeline={"transform": {"__class_fullname__": "HorizontalFlip", "p": 1.0}}, copies=2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BLURRED.baseline(), "trains on the images as they are."),
        (
            BLURRED,
            "trains on the images as they are and 3 blurred copies of each "
            "(gaussian 1, 2 px; motion at 45 degrees: 9 px).",
        ),
        (
            replace(BLURRED, copies=(), augment=DRAWN),
            "trains on the images as they are and 2 copies of each that an albumentations pipeline draws.",
        ),
        (
            replace(BLURRED, copies=BLURRED.copies[:1], augment=DRAWN),
            "trains on the images as they are and 2 blurred copies of each (gaussian 1, 2 px) and 2 copies of each "
            "that an albumentations pipeline draws.",
        ),
        (
            replace(BLURRED, duplicated=True),
            "trains on the images as they are, each 4 times, unblurred, in place of copies "
            "(gaussian 1, 2 px; motion at 45 degrees: 9 px): a control for having more images.",
        ),
        (
            replace(BLURRED.baseline(), bn="adapt"),
            "trains on the images as they are; before that, the statistics of the network's batch norms are taken anew "
            "from all of these.",
        ),
        (
            replace(BLURRED.baseline(), tune="head+bn", cache=False),
            "trains on the images as they are; the network's batch norms are trained with the head, 386 numbers "
            "together.",
        ),
        (
            replace(BLURRED.baseline(), head=HeadConfig(class_weights="balanced")),
            "trains on the images as they are; classes weigh the same, however many images each has.",
        ),
    ],
)
def test_every_kind_of_arm_is_told_in_a_sentence(config: Config, expected: str) -> None:
    plain = run_of(BLURRED.baseline())
    assert page_setup.arms_said({"baseline": plain, "arm": run_of(config)})["arm"] == expected
    assert config.changes_backbone is ("arm below" in page_setup.start({"baseline": plain, "arm": run_of(config)}))


def test_what_all_arms_share_is_said_once() -> None:
    balanced = replace(BLURRED, head=HeadConfig(class_weights="balanced"))
    arms = {"baseline": run_of(balanced.baseline()), "augmented": run_of(balanced)}
    assert page_setup.start(arms) == (
        "An arm is one way to train. Both train a small classifier (a head, 386 numbers) on the same imported glyphnet "
        "and the same 8 training images in 2 classes; the network itself stays as it was imported (frozen). "
        "Classes weigh the same, however many images each has."
    )
    assert "classes" not in page_setup.arms_said(arms)["augmented"]
    assert page_setup.headline(arms) == "no, yes under blur: baseline and augmented"
    many = {name: run_of(balanced, classes=[f"class {i}" for i in range(1000)]) for name in ("a", "b", "c")}
    assert page_setup.headline(many) == "1,000 classes of glyphs under blur: 3 arms"


@pytest.mark.parametrize(
    ("grids", "expected", "strengths"),
    [
        ([BlurGrid("gaussian", (1.0, 0.5))], "gaussian 1, 0.5 px", "of gaussian blur its sigma"),
        (
            [BlurGrid("defocus", severity=(1, 3)), BlurGrid("box", (3.0,))],
            "box 3 px; defocus severity 1, 3",
            "of box blur its width, in px at the network's input, 64 x 64 px; of a severity one of ImageNet-C's five",
        ),
        ([BlurGrid(f, (3.0, 5.0)) for f in ("gaussian", "box", "defocus", "half-gaussian")], "box 3, 5 px; d", "its w"),
        (
            [BlurGrid("motion", (3.0, 5.0), angle=a) for a in (0.0, 30.0, 60.0, 90.0, 120.0)],
            "10 strengths of 5 blurs",
            "of motion blur its length",
        ),
    ],
)
def test_blurs_are_told_by_their_strengths(grids: list[BlurGrid], expected: str, strengths: str) -> None:
    blurs = [blur for grid in grids for blur in grid.blurs(0)]
    assert page_setup.blurs_said(blurs).startswith(expected)
    assert strengths in page_setup.strengths_said(blurs, 64)


def test_a_blur_is_as_wide_in_the_files_as_they_are_larger() -> None:
    run = run_of(BLURRED, native_pixels_per_pixel=2.5)
    said = page_setup.native_said(Blur("gaussian", 3.0), run)
    assert "shorter side 160 px, resized to 64" in said
    assert "gaussian 3 px is 7.5 px wide" in said
    assert page_setup.native_said(Blur("gaussian", 3.0), run_of(BLURRED)) == ""  # files of the network's size


@needs_chromium
@pytest.mark.parametrize("which", ["own", "odd"])
def test_words_are_defined_before_they_are_used(chromium: Browser, request: pytest.FixtureRequest, which: str) -> None:
    path: Path = request.getfixturevalue(which)
    watched = opened(chromium, path if which == "own" else path / "report.html").page
    text = re.sub(r"\s+", " ", watched.locator("body").inner_text()).replace("Skip to the content", "")
    for word, definition in (
        ("arm", "An arm is one way to train"),
        ("head", "a small classifier (a head, "),
        ("cop(y|ies)", "blurred cop"),
        ("heavy", "heavy blur ("),
        ("slight", "slight blur ("),
        ("sure", "sure on average"),
        ("rescued", "Rescued: over all heavy strengths and heads together, more than half"),
        ("Holm", "is adjusted for looking at"),
        ("ECE", "ECE, the expected calibration error, is how far"),
    ):
        first = re.search(rf"\b{word}\b", text, re.IGNORECASE)
        assert first is not None, word
        defined = text.lower().index(definition.lower())
        assert defined <= first.start() <= defined + len(definition) + 100, (word, text[first.start() - 40 :][:120])


def test_intervals_are_told_as_they_were_made(own: Path, tmp_path: Path) -> None:
    result = json.loads((own.parent / "comparison.json").read_text())
    test, adjusted, _ = page_words.certainty_said(result)
    assert "groups of test images by heads" in test
    assert adjusted.startswith("p of the 3 heavy views (*) is adjusted for looking at 3 of them (Holm); the other p")
    single = comparison.read(blurtrain.compare_runs(made_up(tmp_path)))
    test, adjusted, _ = page_words.certainty_said(single)
    assert "new test images" in test
    assert adjusted.startswith("No p is adjusted.")  # of one heavy view
    assert "paired t test" in page_words.certainty_said({**single, "heads": 1})[0]


def test_the_class_that_pays_is_named_where_it_is_found_worse() -> None:
    ants = {"class": "ants", "difference": -0.1, "verdict": "worse", "reference_heavy": 0.9, "arm_heavy": 0.8}
    bees = {"class": "bees", "difference": 0.3, "verdict": "better", "reference_heavy": 0.2, "arm_heavy": 0.5}
    said = "Class 'bees' gains most under heavy blur (20.0 to 50.0 %)"
    assert page_words._classes_line([ants, bees]) == [f"{said}; class 'ants' pays most (90.0 to 80.0 %)."]
    unsure = {**ants, "verdict": "not distinguishable"}
    assert page_words._classes_line([bees, unsure]) == [f"{said}; none is found worse."]
    chance = page_words._classes_line([ants, {**bees, "verdict": "not distinguishable"}])
    assert "(20.0 to 50.0 %, not distinguishable); class" in chance[0]
    lower = {**unsure, "class": "cats", "difference": -0.3}
    assert page_words._classes_line([bees, lower, ants]) == [f"{said}; class 'ants' pays most (90.0 to 80.0 %)."]
    assert page_words._classes_line([ants, ants])[0].startswith("No class gains under heavy blur; class 'ants' pays")


def test_images_of_each_kind_are_counted(own: Path) -> None:
    with (own.parent / "images.csv").open(encoding="utf-8", newline="") as file:
        every = Counter(row["kind"] for row in csv.DictReader(file))
    shown = Counter(row["kind"] for row in dozen(own.parent))
    kinds = ("rescued", "lost", "right in both", "wrong in both")
    said = page.context(page.read(own.parent))["kinds"]
    assert said == (
        f"{', '.join(f'{shown[kind]} {kind}' for kind in kinds)}, in the proportions of all {every.total():,} "
        f"({', '.join(f'{every[kind]:,}' for kind in kinds)})"
    )


def test_one_constant_answer_is_as_right_as_its_class_is_frequent(odd: Path, own: Path) -> None:
    for folder in (odd, own.parent):
        told = page.read(folder)
        rows = [row[0]["label"] for (_, view), row in stored(told.reference.folder).items() if view == "clean"]
        share = Counter(rows).most_common(1)[0][1] / len(rows)
        assert told.always == pytest.approx(share)
        text = (folder / "report.html").read_text(encoding="utf-8")
        assert f"most frequent class is {100 * share:.1f} %." in text


@needs_chromium
@pytest.mark.parametrize("which", ["own", "odd"])
def test_configs_can_be_saved_and_what_differs_is_marked(
    chromium: Browser, request: pytest.FixtureRequest, which: str
) -> None:
    path: Path = request.getfixturevalue(which)
    folder = path.parent if which == "own" else path
    told = page.read(folder)
    watched = opened(chromium, folder / "report.html").page
    links = watched.locator("a[download]")
    files = [(run.folder / "config.yaml").read_bytes() for run in told.runs.values()]
    configs = [yaml.safe_load(file) for file in files]
    differ = {key for key in configs[0] if len({json.dumps(one[key]) for one in configs}) > 1}
    assert links.count() == len(files)
    for place, file in enumerate(files):
        with watched.expect_download() as saved:
            links.nth(place).click()
        assert Path(saved.value.path()).read_bytes() == file
        block = watched.locator("#repeat details").nth(place)
        assert (block.locator("code").text_content() or "").strip() == file.decode().strip()
        marked = "\n".join(block.locator("mark").all_text_contents())
        assert set(yaml.safe_load(marked)) == differ


def test_commands_are_told_in_their_order(own: Path, odd: Path, experiment: Config) -> None:
    file = experiment.run_folder / "config.yaml"
    pair = page.read(own.parent).runs
    lines = [line for _, line in page_parts.steps(own.parent, pair)]
    assert page_parts.made(own.parent, pair)["needed"] == ["augmented"]
    assert lines[0] == f"blurtrain compare --config {shlex.quote(str(file))}"
    several = page.read(odd).runs
    assert page_parts.made(odd, several)["needed"] == list(several)
    words = [shlex.split(line) for _, line in page_parts.steps(odd, several)]
    assert [line[1] for line in words] == ["train", "train", "train", "compare", "layers", "evidence", "report"]
    assert [Path(line[3]).parent for line in words[:3]] == [run.folder for run in several.values()]
    assert [Path(folder) for folder in words[3][2:]] == [run.folder for run in several.values()]


@needs_chromium
@pytest.mark.parametrize("which", ["own", "odd"])
def test_on_a_telephone_nothing_is_cut(chromium: Browser, request: pytest.FixtureRequest, which: str) -> None:
    path: Path = request.getfixturevalue(which)
    watched = opened(chromium, path if which == "own" else path / "report.html", WIDTHS[1]).page
    for what in (".forest svg", ".samples .strip > li", ".command pre", ".command button", "caption"):
        boxes = [box for one in watched.locator(what).all() if (box := one.bounding_box())]
        assert boxes, what
        assert max(box["x"] + box["width"] for box in boxes) <= WIDTHS[1], what
    assert watched.evaluate(
        "() => [...document.querySelectorAll('.command pre')].every(p => p.scrollWidth <= p.clientWidth)"
    )
    table = watched.locator(".scroll:has(> #gains-table)")
    cell = watched.locator("#gains-table tbody th").first
    before = cell.bounding_box()
    table.evaluate("region => region.scrollLeft = 80")
    assert table.evaluate("region => region.scrollLeft") == 80
    assert cell.bounding_box() == before


# what may be missing


def copied(folder: Path, target: Path) -> Path:
    """A comparison and its runs in another place."""
    shutil.copytree(folder.parent, target)
    return target / folder.name


def test_images_that_are_gone_or_changed_are_told_in_their_places(odd: Path, tmp_path: Path) -> None:
    photos = odd.parent.parent / "photos"
    moved = copied(odd, tmp_path / "runs")
    told = page.read(moved)
    files = [told.files[place] for place in range(len(told.files))]
    kept = tmp_path / "kept"
    shutil.copytree(photos, kept)
    try:
        (photos / files[0]).unlink()
        photograph(0, 12345).save(photos / files[1])
        Path(photos / files[2]).write_bytes(b"no picture")
        text = page.write(moved).read_text(encoding="utf-8")
        shutil.rmtree(photos)
        gone = page.write(moved).read_text(encoding="utf-8")
    finally:
        shutil.rmtree(photos, ignore_errors=True)
        shutil.copytree(kept, photos)
    for words in ("is not there any more.", "is another image than was tested.", "is no image in a known format"):
        assert words in text
    assert text.count("<img ") > 50
    assert "<img " not in gone
    assert "The test images cannot be shown: " in gone
    assert 'id="classes-table"' in gone
    whole = (odd / "report.html").read_text(encoding="utf-8")
    assert whole.count("<svg ") == gone.count("<svg ")  # all charts are there


def test_without_a_heavy_view_there_is_no_section_of_classes(tmp_path: Path) -> None:
    config = Config(name="slight", copies=(BlurGrid("gaussian", (2.0,)),), sweep=(BlurGrid("gaussian", (0.0, 2.0)),))
    rows = {"baseline": [[1, 0, 1, 1], [1, 0, 1, 1]], "augmented": [[1, 1, 1, 1], [1, 0, 0, 1]]}
    folders = [
        make_run(tmp_path / arm.arm, arm, dict.fromkeys(config.test_views, rows[arm.arm]))
        for arm in (config.baseline(), config)
    ]
    text = (blurtrain.compare_runs(folders) / "report.html").read_text(encoding="utf-8")
    assert "No view is heavy" in text
    assert "On clean images augmented is not distinguishable from baseline" in text
    assert "How little can be seen: a true difference of " in text
    assert 'id="classes"' not in text
    assert 'id="gains-table"' in text


@pytest.mark.parametrize(
    ("copies", "duplicated", "marks"),
    [((2.0,), False, [2.0]), ((2.0,), True, []), ((12.0,), False, []), ((2.0, 12.0), False, [2.0])],
)
def test_marks_of_copies_stand_where_the_chart_has_them(
    tmp_path: Path, copies: tuple[float, ...], duplicated: bool, marks: list[float]
) -> None:
    config = Config(
        name="marks",
        copies=(BlurGrid("gaussian", copies),),
        sweep=(BlurGrid("gaussian", (0.0, 2.0, 4.0)),),
        duplicated=duplicated,
    )
    right = {view: [[1, 0, 1, 1], [1, 0, 1, 1]] for view in config.test_views}
    folders = [make_run(tmp_path / arm.arm, arm, right) for arm in (config.baseline(), config)]
    folder = blurtrain.compare_runs(folders)
    told = page.read(folder)
    assert page._marks(told, "gaussian") == marks
    assert ("A ▲ on the axis" in (folder / "report.html").read_text(encoding="utf-8")) == bool(marks)


def test_one_head_and_unknown_intervals(tmp_path: Path) -> None:
    config = Config(name="one", copies=(BlurGrid("gaussian", (1.0,)),), sweep=(BlurGrid("gaussian", (0.0, 3.0)),))
    right = {view: [[1, 1, 1, 1]] for view in config.test_views}
    folders = [make_run(tmp_path / arm.arm, arm, right, groups=["one"] * 4) for arm in (config.baseline(), config)]
    text = (blurtrain.compare_runs(folders) / "report.html").read_text(encoding="utf-8")
    assert "unknown" in text
    assert " of 1</span>" not in text


def test_heads_that_were_trained_on_images_have_a_page(few: Config, tmp_path: Path) -> None:
    minibatch = replace(few.minibatch, epochs=1)
    config = replace(few, cache=False, minibatch=minibatch, runs=tmp_path / "runs")
    made = page.context(page.read(blurtrain.compare(config)))["made"]
    facts = {key: list(values) for key, values in made["differ"]} | {key: [one] * 2 for key, one in made["shared"]}
    heads = [runs.load_run(arm.run_folder).result["head"] for arm in (config.baseline(), config)]
    assert facts["Solver"] == ["AdamW", "AdamW"]
    assert facts["Steps"] == [str(head["equal_steps"]["steps"]) for head in heads]
    assert facts["Copies"] == ["none", "gaussian 1"]


def test_other_runs_than_were_compared_are_refused(tmp_path: Path) -> None:
    folders = made_up(tmp_path)
    made = blurtrain.compare_runs(folders)
    result = json.loads((folders[0] / runs.RESULT).read_text())
    for name in (runs.RESULT, "predictions.parquet"):
        shutil.copy(folders[1] / name, folders[0] / name)
    shutil.copy(folders[1] / runs.CONFIG, folders[0] / runs.CONFIG)
    assert result["files"]
    with pytest.raises(RunError, match=r"is another run than .* has compared: run blurtrain compare "):
        page.write(made)


def test_a_run_cut_short_and_a_folder_that_is_no_comparison_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = made_up(tmp_path)
    made = blurtrain.compare_runs(folders)
    (folders[1] / runs.RESULT).unlink()
    capsys.readouterr()
    assert main(["report", str(made)]) == 2
    assert re.search(
        r"^blurtrain: error: \S+augmented is not finished: run blurtrain train .*\n$",
        capsys.readouterr().err,
        re.MULTILINE,
    )
    assert main(["report", str(tmp_path)]) == 2
    assert re.search(r"^blurtrain: error: \S+ holds no comparison: give .*\n$", capsys.readouterr().err, re.MULTILINE)


@needs_chromium
def test_a_thousand_classes_fit(chromium: Browser, tmp_path: Path) -> None:
    classes = tuple(f"class {i}" for i in range(1000))
    config = Config(name="many", copies=(BlurGrid("gaussian", (1.0,)),), sweep=(BlurGrid("gaussian", (0.0, 3.0)),))
    rng = np.random.default_rng(0)
    labels = list(range(999)) * 3
    folders = []
    for arm in (config.baseline(), config):
        right = {view: (rng.random((2, len(labels))) < 0.6).astype(int).tolist() for view in config.test_views}
        ids = [f"{i:04}" for i in range(len(labels))]
        folders.append(make_run(tmp_path / arm.arm, arm, right, classes=classes, labels=labels, ids=ids))
    path = blurtrain.compare_runs(folders) / "report.html"
    assert path.stat().st_size < MOST_BYTES
    watched = opened(chromium, path, WIDTHS[1])
    assert watched.errors == []
    assert len(cells(watched.page, "classes-table")) == 999
    assert len(cells(watched.page, "confusion-table")) == page_words.CONFUSED
    assert watched.page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[1]


@pytest.mark.parametrize(("side", "shown"), [(64, 64), (224, 224), (448, 224), (500, 224)])
def test_pictures_are_kept_no_larger_than_they_are_shown(side: int, shown: int) -> None:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, side, side), dtype=np.uint8)
    found = page_images._shown(pixels)
    assert found.shape == (3, shown, shown)
    assert found.dtype == np.uint8
    if side == 2 * shown:  # each is the mean of four
        mean = pixels.reshape(3, shown, 2, shown, 2).mean((2, 4))
        assert np.abs(found - mean).max() <= 1  # rounded twice, along each side
    elif side == shown:
        assert (found == pixels).all()


def test_pictures_become_smaller_until_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    seen = {(i, "clean"): rng.integers(0, 255, (3, 224, 224)).astype(np.uint8) for i in range(4)}
    full, whole = page_images._encoded(seen)
    sizes = sum(len(base64.b64decode(uri.partition(",")[2])) for uri in whole.values())
    assert full == 224
    monkeypatch.setattr(page_images, "MOST_BYTES", sizes // 3)
    side, fewer = page_images._encoded(seen)
    assert side < 224
    assert fewer.keys() == whole.keys()
    assert {decoded(uri).shape for uri in fewer.values()} == {(side, side, 3)}
    monkeypatch.setattr(page_images, "MOST_BYTES", 1)
    assert page_images._encoded(seen)[0] == page_images.SIDES[-1]
    assert page_images._encoded(seen)[1].keys() == whole.keys()  # none is left out, however many there are


@pytest.mark.parametrize("error", [RunError, DataError, BackboneError])
def test_what_belongs_to_another_config_is_passed_over(
    error: type[BlurtrainError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its images or weights may have gone, too."""

    def refuse(*_: object) -> bool:
        raise error("gone")

    monkeypatch.setattr(runs, "is_finished", refuse)
    assert page_parts.layers(tmp_path, Config()) is page_parts.evidence(tmp_path, Config()) is None


def test_same_figure_same_bytes_and_names_are_escaped() -> None:
    gain = {"verdict": "better", "ci95": [0.1, 0.2], "difference": 0.15}
    rows = [("<b> & $x$", 1, gain), ("other", 1, {**gain, "ci95": [None, None], "verdict": "not distinguishable"})]
    drawn = page_figures.forest(rows, 'a "picture" <i>')
    assert drawn == page_figures.forest(rows, 'a "picture" <i>')
    assert "<b>" not in drawn
    assert "&lt;b&gt; &amp; $x$" in drawn


# layers and evidence


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("tried")
    return Config(
        name="tried",
        data=DataConfig(glyphs=GlyphsConfig(train=120, test=60)),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 2.0)),),
        head=HeadConfig(folds=3, l2=(0.01, 0.1, 1.0)),
        runs=folder / "runs",
        cache=folder / "cache",
    )


@needs_chromium
def test_layers_and_evidence_join_the_page_when_they_are_there(chromium: Browser, tried: Config) -> None:
    path = blurtrain.compare(tried) / "report.html"
    alone = path.read_text(encoding="utf-8")
    assert 'id="layers"' not in alone
    assert 'id="evidence"' not in alone
    layers.layers(tried, layers.Question(8, (BlurGrid("gaussian", (1.0,)),)))
    finding = layers.read_layers(tried.folder("layers"))["finding"]
    found = experiments.read_evidence(experiments.evidence(tried))
    watched = opened(chromium, path)
    assert finding in watched.page.locator("#layers").inner_text()
    shown_pictures = len(list((tried.folder("layers") / "figures").iterdir()))
    assert watched.page.locator("#layers img").count() == shown_pictures
    assert watched.broken_images() == watched.serious_faults() == []
    shown = cells(watched.page, "evidence-table")
    places = [place for place, arm in enumerate(found["arms"]) if arm["section"] == "families"]
    means = [mean for mean in found["means"] if mean["name"] != "heavy"]
    assert [line[0] for line in shown] == [found["arms"][place]["name"] for place in places]
    for place, line in zip(places, shown, strict=True):
        expected = [f"{100 * mean['arms'][place]['gain']['difference']:+.1f}" for mean in means]
        assert [cell.split()[0] for cell in line[1:]] == expected
    assert path.stat().st_size < MOST_BYTES
    figure = next((tried.folder("layers") / "figures").iterdir())
    whole = figure.read_bytes()
    figure.write_bytes(whole[: len(whole) // 2])
    assert (
        page.write(path.parent).read_text(encoding="utf-8").count("<img ") == alone.count("<img ") + shown_pictures - 1
    )
    figure.write_bytes(whole)
    other = replace(tried, sweep=(BlurGrid("gaussian", (0.0, 2.0)),), name="other")
    shutil.copytree(tried.folder("layers"), other.folder("layers"))
    assert 'id="layers"' not in (blurtrain.compare(other) / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("always", "said"),
    [
        (0.1, "; every arm is above that in every view."),
        (0.6, "; b is not above that at clean; c is not above that at clean, gaussian 2."),
    ],
)
def test_where_looking_at_images_is_no_use_is_said(always: float, said: str) -> None:
    accuracies = {"clean": {"a": 0.9, "b": 0.6, "c": 0.5}, "gaussian 2": {"a": 0.7, "b": 0.7, "c": 0.2}}
    views = [
        {"name": name, "arms": {arm: {"accuracy": accuracy} for arm, accuracy in arms.items()}}
        for name, arms in accuracies.items()
    ]
    made = page_words.below_said({"arms": {"a": "", "b": "", "c": ""}, "views": views}, always)
    assert made == f"Always answering the most frequent class would be right on {100 * always:.1f} %{said}"
