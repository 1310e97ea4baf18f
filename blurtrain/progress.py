"""What a user sees while a long step runs: a bar on a terminal, one line with figures elsewhere."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

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


@contextmanager
def progress(step: str, total: int, unit: str = "image") -> Iterator[Progress]:
    """A bar with rate and time left while the block runs; shows nothing where there is nothing to do."""
    watched = sys.stderr.isatty() and total > 0
    bar = (
        tqdm(
            total=total,
            desc=f"{step:<22}",
            unit=f" {unit}s",
            unit_scale=total >= 100_000,
            dynamic_ncols=True,
            mininterval=0.2,
            bar_format="{desc} {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} {rate_fmt} {remaining} left",
        )
        if watched
        else None
    )
    counter = Progress(bar)
    start = time.monotonic()
    try:
        yield counter
    finally:
        if bar is not None:
            bar.close()
        elif total > 0:
            seconds = time.monotonic() - start
            rate = counter.done / seconds if seconds > 0 else 0.0
            say(f"{step:<22} {counter.done} of {total} {unit}s in {seconds:.1f} s ({rate:.0f}/s)")


def one_line(text: str) -> str:
    """A text in which names of files, that hold whatever they like, break no line and give the terminal no orders."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def say(line: str) -> None:
    """One line of what happens, apart from the results on standard output."""
    with tqdm.external_write_mode(file=sys.stderr):
        sys.stderr.write(one_line(line) + "\n")
        sys.stderr.flush()
