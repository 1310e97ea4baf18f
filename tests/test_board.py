"""What TensorBoard really shows of comparisons, in a real Chromium, and what is written for it."""

import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import blurtrain
from blurtrain import board, comparison, page, report, serving, tools
from blurtrain.cli import main
from blurtrain.config import BlurGrid, Config, GlyphsConfig
from blurtrain.errors import ConfigError, RunError
from blurtrain.experiment import read_comparison
from blurtrain.opening import open_source
from blurtrain.roster import by_content
from blurtrain.views import CLEAN, Blur
from tests.browser import Watched, browser, needs_chromium
from tests.conftest import heed_interrupts

PATIENCE = 20_000  # ms: no test may fail because the machine is busy
ARMS = ("baseline", "augmented")


@pytest.fixture(scope="module")
def three(few: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Config]:
    """Three comparisons in one folder of runs: other images, and a sweep of two families."""
    runs = tmp_path_factory.mktemp("three") / "runs"
    other = replace(few.data, glyphs=GlyphsConfig(train=120, test=40, seed=2))
    two = (*few.sweep, BlurGrid("box", (3.0, 9.0)))
    configs = [
        replace(few, name="first", runs=runs),
        replace(few, name="second", runs=runs, data=other),
        replace(few, name="third", runs=runs, sweep=two),
    ]
    for config in configs:
        blurtrain.compare(config)
    return configs


@pytest.fixture(scope="module")
def shown(three: list[Config]) -> str:
    """Address of a TensorBoard over them that has read them all."""
    url = serving.launch(three[0].runs, 0)
    while True:
        with urllib.request.urlopen(f"{url.split('?')[0]}data/runs") as answer:
            if len(json.load(answer)) == 3 * len(three):
                return url
        time.sleep(0.2)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One for all tabs."""
    with browser() as running:
        yield running


@pytest.fixture
def watched(chromium: Browser, shown: str) -> Iterator[Watched]:
    """A page that asks nobody but TensorBoard."""
    page = Watched(chromium, 1600)
    own = shown.split("?")[0]
    page.page.context.route(lambda url: not url.startswith(own), lambda route: route.abort())
    page.page.goto(shown)
    page.page.set_default_timeout(PATIENCE)
    expect.set_options(timeout=PATIENCE)
    yield page
    page.page.context.close()


def tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=re.compile(f"^{name}$", re.IGNORECASE)).click()


def wait_for_text(page: Page, *texts: str) -> None:
    for text in texts:
        expect(page.get_by_text(text, exact=True).filter(visible=True).first).to_be_visible()


slow = pytest.mark.slow
# what TensorBoard itself brings along says so when it is imported
pytestmark = pytest.mark.filterwarnings("ignore:html5lib's sanitizer is deprecated:DeprecationWarning")


# the rendered page


@slow
@needs_chromium
def test_time_series_overlay_both_arms_of_every_comparison(watched: Watched) -> None:
    page = watched.page
    page.locator("metrics-tag-filter input").fill("sweep gaussian/accuracy")
    cards = page.locator("metrics-filtered-view card-view")
    expect(cards).to_have_count(1)  # one tag for all arms
    for name in ("first", "second", "third"):
        for arm in ARMS:
            wait_for_text(page, f"{name}-{arm}")
    page.locator("metrics-tag-filter input").fill("^sweep")
    expect(page.locator("metrics-filtered-view card-view")).to_have_count(
        8
    )  # four metrics of two families, however many comparisons


@slow
@needs_chromium
def test_hparams_have_all_arms_and_their_final_metrics_in_one_table(watched: Watched, three: list[Config]) -> None:
    page = watched.page
    tab(page, "HParams")
    for config in three:
        for arm in (config, config.baseline()):
            wait_for_text(page, arm.run_folder.name)
    table = page.locator("vaadin-grid")
    header = page.locator("tf-hparams-table-view")
    expect(header.get_by_text("test/accuracy clean", exact=True).first).to_be_attached()
    cells = " ".join(table.locator("vaadin-grid-cell-content").all_inner_texts())
    for config in three:
        for arm in (config, config.baseline()):
            clean = json.loads((arm.run_folder / "sweep.json").read_text())[0]["accuracy"]
            assert f"{clean:.5g}" in cells
    assert "hp_metric" not in page.locator("tf-hparams-main").inner_text()


@slow
@needs_chromium
def test_custom_scalars_lay_all_arms_into_one_chart_a_metric(watched: Watched, three: list[Config]) -> None:
    page = watched.page
    tab(page, "Custom Scalars")
    wait_for_text(page, board.CATEGORY)
    for curve in ("gaussian", "box"):
        for metric in board.CHARTED:
            wait_for_text(page, f"{curve}: {metric}")
    charts = page.locator("tf-custom-scalar-multi-line-chart-card")
    expect(charts).to_have_count(2 * len(board.CHARTED))  # nothing twice, though three comparisons ask for it
    matches = charts.get_by_text(re.compile(r"Matches \(\d+\)"))
    expect(matches).to_have_text([f"Matches ({count})" for count in (6, 6, 6, 2, 2, 2)])
    (smoothing,) = [field.input_value() for field in page.locator("tf-smoothing-input input").all()][-1:]
    assert smoothing == "0"
    assert three


@slow
@needs_chromium
def test_text_has_each_finding_and_its_table(watched: Watched, three: list[Config]) -> None:
    page = watched.page
    tab(page, "Text")
    wait_for_text(page, *(config.comparison_folder.name for config in three))
    heads = page.locator("tf-text-dashboard th")
    expect(heads).to_have_text(["blur", *ARMS, "augmented gain", "95 % interval", "p", "verdict"] * 3)
    results = [read_comparison(config.comparison_folder) for config in three]
    expect(page.locator("tf-text-dashboard strong")).to_have_text(
        [finding.replace("\n", " ") for result in results for finding in report.findings(result)]
    )


@slow
@needs_chromium
def test_images_show_views_and_what_copies_change(watched: Watched, three: list[Config]) -> None:
    page = watched.page
    tab(page, "Images")
    wait_for_text(page, "comparison", "test images")
    written = set()
    for config in three:
        for folder in (config.baseline().run_folder, config.run_folder, config.comparison_folder):
            written |= set(read(folder).Tags()["images"])
    assert {"comparison/accuracy", "test images/gaussian", "test images/box"} < written
    assert {"test images rescued/augmented", "test images lost/augmented"} & written
    for tag in written:
        page.locator("tf-image-dashboard tf-tag-filterer input").fill(f"^{tag}$")
        titles = page.locator("tf-image-loader").filter(visible=True)
        expect(titles.first).to_contain_text(tag)
    expect(page.locator("tf-image-loader img").first).to_be_visible()
    assert not watched.broken_images()


# what is written


def read(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    accumulator.Reload()
    return accumulator


def test_shown_images_are_those_of_the_table_of_images(experiment: Config) -> None:
    """The last step is the first row of its kind in images.csv, and its title says so."""
    compared = comparison.compared([experiment.baseline().run_folder, experiment.run_folder])
    assert compared.counts is not None
    lines = (experiment.comparison_folder / "images.csv").read_text().splitlines()
    for kind, rows in (("rescued", lines[1:]), ("lost", lines[:0:-1])):
        changes = [abs(float(row.split(",")[6])) for row in rows if row.endswith(f",{kind}")]
        positions = board._most_changed(compared, "augmented")[kind]
        files, _ = compared.roster.rows(positions)
        assert len(files) == min(board.MOST, len(changes))
        found = [abs(float(next(row for row in lines if row.startswith(f"{file},")).split(",")[6])) for file in files]
        assert found == pytest.approx(changes[: board.MOST])
        images = read(experiment.comparison_folder).Images(f"test images {kind}/augmented")
        assert [image.step for image in images] == list(range(1, len(files) + 1))


def test_shown_images_are_the_first_of_the_page(experiment: Config) -> None:
    """Of images that change equally often, too."""
    compared = comparison.compared([experiment.baseline().run_folder, experiment.run_folder])
    told = page.read(experiment.comparison_folder)
    on_page = page._chosen(told, by_content(told.ids), 1)
    for kind, positions in board._most_changed(compared, "augmented").items():
        assert positions.tolist() == on_page[kind][: board.MOST]


def test_answers_are_those_of_most_heads(experiment: Config) -> None:
    compared = comparison.compared([experiment.baseline().run_folder, experiment.run_folder])
    positions = np.array([3, 17, 40])
    views = board.views_shown(compared)
    answers = board._answers(compared, views, positions)
    _, ids = compared.roster.rows(positions)
    for name, run in compared.arms.runs.items():
        rows = pq.read_table(run.folder / "predictions.parquet").to_pylist()
        for view in views:
            for place, content in enumerate(ids):
                said = [
                    row["predicted"]
                    for row in rows
                    if (row["image"], row["view"]) == (content, view.name) and row["head"] != "refit"
                ]
                assert len(said) == experiment.head.folds
                assert said.count(answers[view][name][place]) == max(map(said.count, said))


def test_views_shown_are_clean_and_heavy(experiment: Config) -> None:
    compared = comparison.compared([experiment.baseline().run_folder, experiment.run_folder])
    assert board.views_shown(compared) == [CLEAN, *(Blur("gaussian", strength) for strength in (2.0, 2.5, 3.0))]


def test_a_picture_has_the_pixels_that_the_network_saw(experiment: Config) -> None:
    events = read(experiment.comparison_folder)
    tag = next(tag for tag in events.Tags()["images"] if tag.startswith("test images "))
    with Image.open(io.BytesIO(events.Images(tag)[-1].encoded_image_string)) as picture:
        pixels = np.asarray(picture)
    side = board.SIDES[0]
    top = board.GAP // 2 + 3 * board.LINE
    columns = [pixels[top : top + side, board.GAP + i * (side + board.GAP) :][:, :side] for i in range(4)]
    contrasts = [column.astype(float).std() for column in columns]
    assert contrasts == sorted(contrasts, reverse=True)  # blur takes contrast away
    assert (columns[0][::2, ::2] == columns[0][1::2, 1::2]).all()  # magnified twice
    compared = comparison.compared([experiment.baseline().run_folder, experiment.run_folder])
    kind = tag.removeprefix("test images ").removesuffix("/augmented")
    (first, *_), _ = compared.roster.rows(board._most_changed(compared, "augmented")[kind])
    source = open_source(experiment.data)
    (index,) = [place for place, item in enumerate(source.items) if item.name == first]
    np.testing.assert_array_equal(columns[0][::2, ::2], np.asarray(source.decode(index)))


def test_images_that_are_gone_leave_all_else(
    photo_folder: Path, tmp_path: Path, few: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(few, name="gone", data=replace(few.data, root=str(photo_folder)), runs=tmp_path, cache=tmp_path)
    folder = blurtrain.compare(config)
    before = read(folder).Tags()
    (folder / comparison.RESULT).unlink()
    photo_folder.rename(photo_folder.with_name("elsewhere"))
    blurtrain.compare_runs([config.baseline().run_folder, config.run_folder], folder)
    after = read(folder).Tags()
    changed = [tag for tag in before["images"] if tag.startswith("test images ")]
    assert after["images"] == [tag for tag in before["images"] if tag not in changed]
    assert after["tensors"] == before["tensors"]
    assert ("TensorBoard shows no single images, because" in capsys.readouterr().err) == bool(changed)


def test_the_line_to_quote_is_a_scalar_of_each_arm(experiment: Config) -> None:
    """Counted from predictions.parquet: correct answers of the folds' heads on gaussian 2, 2.5 and 3."""
    events = read(experiment.comparison_folder)
    for config in (experiment.baseline(), experiment):
        (point,) = events.Scalars(f"mean of heavy/{config.arm}")
        rows = pq.read_table(config.run_folder / "predictions.parquet").to_pylist()
        right = [row["predicted"] == row["label"] for row in rows if row["strength"] >= 2 and row["head"] != "refit"]
        assert (point.step, point.value) == (0, pytest.approx(sum(right) / len(right)))
    assert len(events.Tags()["scalars"]) == 2


def test_charts_match_one_tag_each(experiment: Config) -> None:
    """Of the tags that an arm has, each chart shows the one that its title names."""
    tags = read(experiment.run_folder).Tags()["scalars"]
    ((title, charts),) = board.layout(experiment.test_views).items()
    assert title == board.CATEGORY
    for name, (kind, patterns) in charts.items():
        curve, _, metric = name.partition(": ")
        assert kind == "Multiline"
        assert [tag for tag in tags for pattern in patterns if re.match(pattern, tag)] == [f"sweep {curve}/{metric}"]


def test_a_finished_comparison_keeps_its_events(experiment: Config) -> None:
    before = {path: path.read_bytes() for path in experiment.runs.rglob("events.*")}
    blurtrain.compare(experiment)
    assert {path: path.read_bytes() for path in experiment.runs.rglob("events.*")} == before


# the command


def test_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tensorboard", "--runs", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err == (
        f"blurtrain: error: {tmp_path / 'none'} holds no run with events: blurtrain compare makes some, and "
        "--runs names another folder\n"
    )


def test_a_port_beyond_all_is_one_sentence(experiment: Config) -> None:
    with pytest.raises(ConfigError, match=r"--port must be from 0 to 65535, got 70000"):
        tools.tensorboard(["--runs", str(experiment.runs), "--port", "70000"])


def test_a_port_that_is_taken_is_one_sentence(experiment: Config) -> None:
    with socket.socket() as taken:
        taken.bind((serving.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"port {port} cannot be listened on \(.*in use.*\): --port gives another"
        ):
            serving.launch(experiment.runs, port)


def test_no_run_with_events_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunError, match=r"holds no run with events"):
        serving.launch(tmp_path, 0)


@contextmanager
def killed_at_last(process: "subprocess.Popen[str]") -> Iterator[None]:
    """So that a server which heeds nothing stops no test run."""
    try:
        yield
    finally:
        process.kill()


def test_the_printed_address_answers_and_ctrl_c_ends_it(experiment: Config) -> None:

    words = [sys.executable, "-m", "blurtrain", "tensorboard", "--runs", str(experiment.runs), "--port", "0"]
    with (
        subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts
        ) as process,
        killed_at_last(process),
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        (url,) = re.findall(
            rf"^TensorBoard: (http://{re.escape(serving.HOST)}:\d+/)\?smoothing=0#\S+ \(Ctrl-C ends it\)$", line
        )
        with urllib.request.urlopen(f"{url}data/logdir") as answer:
            assert json.load(answer)["logdir"] == str(experiment.runs)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err
