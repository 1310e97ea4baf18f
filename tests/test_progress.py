"""What stands on a terminal while steps run: real pseudo terminals, read as a terminal shows them."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from blurtrain import chatter, progress
from blurtrain.cli import main

ROOT = Path(__file__).parents[1]
HEADER = "import sys\nfrom blurtrain.progress import *\n"


@dataclass
class Screen:
    """A terminal that knows what tqdm and plain text need: it wraps nothing, and remembers how wide a line became."""

    lines: list[str] = field(default_factory=lambda: [""])
    row: int = 0
    column: int = 0
    widest_bar: int = 0
    shown: list[str] = field(default_factory=list)  # every state of a line that was written over

    def write(self, text: str) -> None:
        for part in re.findall(r"\x1b\[A|\x1b\[K|\r|\n|[^\r\n\x1b]+", text):
            if part == "\r":
                self.shown.append(self.lines[self.row].rstrip())
                self.column = 0
            elif part == "\n":
                self.row, self.column = self.row + 1, 0
                if self.row == len(self.lines):
                    self.lines.append("")
            elif part == "\x1b[A":
                raise AssertionError("a bar moved to another line: there were two")
            elif part != "\x1b[K":
                line = self.lines[self.row].ljust(self.column)
                self.lines[self.row] = line[: self.column] + part + line[self.column + len(part) :]
                self.column += len(part)
                self.widest_bar = max(self.widest_bar, len(self.lines[self.row].rstrip()))

    @property
    def text(self) -> list[str]:
        """What stays."""
        return [line.rstrip() for line in self.lines if line.strip()]


def on_a_terminal(words: list[str], columns: int, env: Mapping[str, str] | None = None) -> tuple[int, Screen]:
    """Run Python on a pseudo terminal of that width; its exit code, and what the terminal shows."""
    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "TERM": "xterm"} | dict(env or {})
    process = subprocess.Popen([sys.executable, *words], stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    said = b""
    while select.select([parent], [], [], 120)[0]:
        try:
            data = os.read(parent, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not data:
            break
        said += data
    os.close(parent)
    screen = Screen()
    screen.write(said.decode("utf-8").replace("\r\n", "\n"))
    return process.wait(timeout=60), screen


def program(body: str, columns: int = 80, env: Mapping[str, str] | None = None) -> Screen:
    code, screen = on_a_terminal(["-c", HEADER + body], columns, env)
    assert code == 0, screen.text
    return screen


STEP = """
import time
with progress("running the backbone", 40, "view", stored=60) as bar:
    for _ in range(40):
        time.sleep(0.02)
        bar.advance()
"""
DONE = r"running the backbone   40 of 40 views in \d+\.\d s \([\d.]+/s\); 60 of 100 reused"


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_a_step_is_one_bar_and_then_one_line(columns: int) -> None:
    screen = program(STEP, columns)
    assert re.fullmatch(DONE, " ".join(line.strip() for line in screen.text).replace("backbone 40", "backbone   40"))
    bars = [line for line in screen.shown if "%" in line]
    assert len(bars) >= 3
    assert all("left" in bar for bar in bars if bar)
    assert any("views/s" in bar for bar in bars) == (columns >= 80)
    assert any("(60 reused)" in bar for bar in bars) == (columns >= 100)
    assert "60%" in bars[0]  # what is stored counts as done
    assert screen.widest_bar <= columns


def test_the_time_left_is_that_of_what_is_not_stored() -> None:
    """Ten units of 0.1 s are left from 1 s on, however many were stored."""
    body = STEP.replace("40", "10").replace("0.02", "0.1").replace("stored=60", "stored=100_000")
    lefts = [int(found[1]) for line in program(body, 120).shown if (found := re.search(r"00:(\d\d) left", line))]
    assert lefts
    assert max(lefts) <= 2


def test_a_step_within_a_step_is_a_part_of_it() -> None:
    body = """
with progress("outer", 2, "set") as outer:
    for _ in range(2):
        with progress("inner", 3) as inner, meanwhile("also inner"):
            inner.advance(3)
        outer.advance()
"""
    screen = program(body)
    assert not [line for line in [*screen.shown, *screen.text] if "inner" in line]
    assert [line.split()[:6] for line in screen.text] == [["outer", "2", "of", "2", "sets", "in"]]


def test_there_is_no_bar_of_no_length() -> None:
    screen = program('with progress("empty", 0): pass\nreused("reading images", 4000)\nreused("nothing", 0)')
    assert screen.text == ["reading images         all 4,000 images reused"]
    assert not [line for line in screen.shown if "%" in line]


def test_a_line_that_is_said_stands_above_the_bar() -> None:
    body = 'with progress("step", 2) as bar:\n    bar.advance()\n    say("note: one")\n    bar.advance()\n'
    assert [line.split()[0] for line in program(body).text] == ["note:", "step"]


def test_what_is_written_to_the_same_terminal_stands_above_the_bar() -> None:
    body = """
with progress("step", 3) as bar:
    for i in range(3):
        AboveBars().write(f"row {i}\\n")
        bar.advance()
"""
    assert [line.split()[:2] for line in program(body).text] == [
        ["row", "0"],
        ["row", "1"],
        ["row", "2"],
        ["step", "3"],
    ]


def test_what_cannot_be_counted_is_said_and_wiped_out() -> None:
    body = 'with meanwhile("loading libraries"):\n    with progress("step", 1) as bar: bar.advance()\nprint("done")'
    screen = program(body)
    assert "loading libraries ..." in screen.shown
    assert [line.split()[0] for line in screen.text] == ["step", "done"]


def test_an_error_wipes_the_line_out() -> None:
    body = 'try:\n    with meanwhile("loading"):\n        raise ValueError\nexcept ValueError:\n    print("caught")'
    assert program(body).text == ["caught"]


@pytest.mark.parametrize("columns", [40, 80])
def test_long_lines_are_cut_between_words(columns: int) -> None:
    words = "note: " + "a photograph of a bee " * 9
    screen = program(f"say({words!r})", columns)
    assert max(map(len, screen.text)) <= columns
    assert " ".join(" ".join(screen.text).split()) == words.strip()


def test_a_terminal_without_utf_8_is_given_plain_signs() -> None:
    body = STEP + 'say("note: caf\\u00e9")'
    screen = program(body, 80, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"})
    assert screen.text[-1] == "note: caf\\xe9"
    assert all(line.isascii() for line in screen.shown)


def test_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.meanwhile("loading"), progress.progress("step", 3, stored=1000) as bar:
        bar.advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"step                   3 of 3 images in 0\.0 s \([\d,.]+/s\); 1,000 of 1,003 reused\n", err)


@pytest.mark.parametrize(
    ("done", "seconds", "rate"), [(3, 60.0, "0.05/s"), (0, 0.0, "0/s"), (3200, 1.0, "3,200/s"), (19, 2.0, "9.5/s")]
)
def test_rates_keep_two_digits(done: int, seconds: float, rate: str) -> None:
    assert progress._done(done, done, "set", seconds).endswith(f"({rate})")


# whole commands


GLYPHS = ["--data.glyphs.train", "60", "--data.glyphs.test", "20", "--head.folds", "2"]
BAR = re.compile(r"^(\S.{0,21}?) +\d+%")


@pytest.mark.parametrize("columns", [40, 80])
def test_a_comparison_on_a_terminal(tmp_path: Path, columns: int) -> None:
    words = ["-m", "blurtrain", "compare", *GLYPHS, "--runs", str(tmp_path / "r"), "--cache", str(tmp_path / "c")]
    code, screen = on_a_terminal(words, columns)
    assert code == 0, screen.text
    text = "\n".join(screen.text)
    assert "loading libraries and the network ..."[: columns - 1] in screen.shown
    steps = [found[1] for line in screen.shown if (found := BAR.match(line))]
    order = list(dict.fromkeys(steps))
    assert {"reading images", "running the backbone", "fitting heads"} <= set(order)
    for step in order:
        assert len(re.findall(rf"^{step} +\d", text, re.MULTILINE)) == (1 if step == "reading images" else 2)
    assert not any("%" in line and "left" in line for line in screen.text)
    assert max(len(line) for line in screen.shown if "% " in line) <= columns
    assert screen.text[-1].startswith("Next:  blurtrain ")
    code, again = on_a_terminal([*words, "--name", "other"], columns)
    assert code == 0
    assert re.search(r"reading images +all 80\s+images\s+reused", "\n".join(again.text))
    assert not [line for line in again.shown if line.startswith("running the backbone")]


# libraries


LIBRARY = """
import logging, sys, warnings
from blurtrain import cli
def chatty(_):
    from blurtrain.chatter import silence
    import pytorch_lightning.utilities.rank_zero as rank_zero
    silence()
    warnings.warn("Checkpoint directory x exists and is not empty")
    warnings.warn("You defined a `validation_step` but have no `val_dataloader`. Skipping val loop.")
    rank_zero.rank_zero_info("`Trainer.fit` stopped: `max_epochs=1` reached.")
    warnings.warn("this is new")
    rank_zero.rank_zero_info("so is this")
cli._RUN["cache"] = chatty
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("words", [["cache"], ["cache", "-v"], ["-v", "cache"], ["--verbose", "cache"]])
def test_libraries_are_silenced_by_their_exact_words_alone(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIBRARY, *words], capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ
    )
    for known in ("Checkpoint directory x", "You defined a `validation_step`", "`Trainer.fit` stopped:"):
        assert (known in done.stderr) == (len(words) > 1)
    assert "this is new" in done.stderr
    assert "so is this" in done.stderr


def test_the_switch_is_no_key_and_is_explained(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatter, "_let_through", False)
    for words in (["train"], ["train", "--verbose"]):
        with pytest.raises(SystemExit):
            main([*words, "--print_config"])
    printed = capsys.readouterr().out
    assert printed[: len(printed) // 2] == printed[len(printed) // 2 :] != ""
    assert "verbose" not in printed
    for words in (["--help"], ["train", "--help"], ["predict", "--help"]):
        if len(words) > 1:
            with pytest.raises(SystemExit):
                main(words)
        else:
            main(words)
        assert "-v, --verbose" in capsys.readouterr().out


def test_a_file_may_be_called_like_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatter, "_let_through", False)
    from blurtrain.cli import _without_verbose

    assert _without_verbose(["predict", "run", "--", "-v"]) == ["predict", "run", "--", "-v"]
    assert not chatter._let_through
    assert _without_verbose(["predict", "-v", "run", "--", "-v"]) == ["predict", "run", "--", "-v"]
    assert chatter._let_through
