"""What all benchmarks share: rounds in which the ways take turns, and tables of medians, spreads and ratios."""

import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path

from blurtrain.cores import cores

RESULTS = Path(__file__).parent / "results"
PYTHON = sys.executable
Way = Callable[[], object]


def seconds(way: Way) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    way()
    return time.perf_counter() - start


def rounds(ways: Mapping[str, Way], repeats: int, warm: bool = True) -> dict[str, list[float]]:
    """Seconds of each way, in rounds in which the ways take turns; a first round that fills caches does not count."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + warm):
        for name, way in ways.items():
            taken = seconds(way)
            if turn >= warm:
                found[name].append(taken)
    return found


def process(command: Sequence[str], folder: Path) -> tuple[float, str]:
    """Seconds of a whole process, and what it printed."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return time.perf_counter() - start, done.stdout


def spread(values: Sequence[float], digits: int = 1) -> str:
    """Median, and between which values the others lie."""
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return f"{middle} (once)"
    return f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratio(above: Sequence[float], below: Sequence[float]) -> str:
    """Ratio of medians; where both took turns, between which values it lies round by round."""
    middle = statistics.median(above) / statistics.median(below)
    if len(above) != len(below) or len(above) == 1:
        return f"{middle:.2f}"
    each = [a / b for a, b in zip(above, below, strict=True)]
    return f"{middle:.2f} ({min(each):.2f} to {max(each):.2f})"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def machine(*packages: str) -> str:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in packages)
    return f"{model}, {cores()} cores, Python {platform.python_version()}, {versions}"


def write(name: str, title: str, command: str, text: str, packages: Sequence[str]) -> None:
    """Write a page of results, and print it."""
    RESULTS.mkdir(exist_ok=True)
    page = f"# {title}\n\nMade by `{command}` on {machine(*packages)}.\n\n{text}"
    (RESULTS / f"{name}.md").write_text(page, encoding="utf-8")
    sys.stdout.write(page)
    sys.stdout.flush()
