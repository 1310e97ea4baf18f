"""What a user sees while a long step runs: one bar on a terminal, and everywhere one line with figures at its end."""

import os
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

STEP = 22  # columns of a step's name
WIDE = 72  # columns: a narrower terminal has no room for a rate and a bar
ROOMY = 100  # columns from which a bar also tells what is reused, as the line after it does
LEAST = 20  # columns that text is folded to
STAT = Path("/proc/self/stat")  # Linux


def started() -> float:
    """Seconds since this process began, imports of libraries included."""
    try:
        fields = STAT.read_text(encoding="ascii").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):  # no Linux
        return time.monotonic() - _IMPORTED


_IMPORTED = time.monotonic()


class Progress:
    """Counts finished units of one step; made by `progress`."""

    def __init__(self, bar: "tqdm[None] | None") -> None:
        self._bar = bar
        self.done = 0

    def advance(self, units: int = 1) -> None:
        """Count further finished units."""
        self.done += units
        if self._bar is not None:
            self._bar.update(units)


_running = False  # whether a step runs: what runs within it is a part of it
_waiting: "tqdm[None] | None" = None  # the line of `meanwhile`


@contextmanager
def progress(step: str, total: int, unit: str = "image", *, stored: int = 0) -> Iterator[Progress]:
    """A bar with rate and time left while the block runs, then one line with figures; nothing of a step within a step.

    Args:
        step: What is done, at most 22 characters.
        total: Units that there are to do.
        unit: Of what.
        stored: Further units that are found stored.
    """
    global _running
    if _running:
        yield Progress(None)
        return
    _end_waiting()
    bar = _bar(step, total, unit, stored) if total > 0 and sys.stderr.isatty() else None
    counter = Progress(bar)
    start, _running = time.monotonic(), True
    try:
        yield counter
    finally:
        _running = False
        if bar is not None:
            bar.close()
        if total > 0:
            reused = f"; {stored:,} of {stored + total:,} reused" if stored else ""
            say(f"{step:<{STEP}} {_done(counter.done, total, unit, time.monotonic() - start)}{reused}")
        elif stored > 0:
            say(_all_reused(step, stored, unit))


def reused(step: str, stored: int, unit: str = "image") -> None:
    """Say of a step that all of it was found stored."""
    if not _running and stored > 0:
        say(_all_reused(step, stored, unit))


def _all_reused(step: str, stored: int, unit: str) -> str:
    return f"{step:<{STEP}} all {stored:,} {unit}s reused"


def _bar(step: str, total: int, unit: str, stored: int) -> "tqdm[None]":
    wide = "{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {rate_noinv_fmt} {remaining} left"
    reused = f" ({stored:,} reused)" if stored else ""
    return tqdm(
        total=stored + total,
        desc=f"{step:<{STEP}}" if columns() >= WIDE else step,
        unit=f" {unit}s",
        unit_scale=total >= 100_000,
        dynamic_ncols=True,
        mininterval=0.2,
        leave=False,  # the line with figures takes its place
        initial=stored,
        bar_format=wide + (reused if columns() >= ROOMY else "")
        if columns() >= WIDE
        else "{desc} {percentage:3.0f}% {remaining} left",
    )


def _done(done: int, total: int, unit: str, seconds: float) -> str:
    rate = done / seconds if seconds > 0 else 0.0
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{done:,} of {total:,} {unit}s in {seconds:.1f} s ({shown}/s)"


@contextmanager
def meanwhile(text: str) -> Iterator[None]:
    """A line on a terminal while the block does what cannot be counted; a step that begins in it takes its place."""
    global _waiting
    if not _running:
        _end_waiting()
        if sys.stderr.isatty():
            shown = one_line(f"{text} ...")[: columns() - 1]
            _waiting = tqdm(desc=shown, bar_format="{desc}", leave=False)
    try:
        yield
    finally:
        if not _running:
            _end_waiting()


def _end_waiting() -> None:
    global _waiting
    if _waiting is not None:
        _waiting.close()
        _waiting = None


def one_line(text: str) -> str:
    """A text in which names of files, that hold whatever they like, break no line and give the terminal no orders."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def columns() -> int:
    """Width of the terminal that shows standard error; 80 where there is none."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def folded(text: str) -> str:
    """A line in pieces that fit in the terminal, cut between words alone; as it is where nobody watches."""
    if not sys.stderr.isatty():
        return text
    width = max(LEAST, columns())
    return textwrap.fill(text, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def say(line: str) -> None:
    """One line of what happens, apart from the results on standard output."""
    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(folded(one_line(line)) + "\n")
        sys.stderr.flush()


class AboveBars:
    """Standard output where it is the terminal that shows the bars, too."""

    def write(self, text: str) -> int:
        """Write above the bar."""
        with tqdm.external_write_mode(file=sys.stdout):
            return sys.stdout.write(text)

    def flush(self) -> None:
        """Hand on what was written."""
        sys.stdout.flush()
