"""How long a comparison takes: `make bench`.

Ratios within one run on one machine, never bare seconds from another:

1. the embedded default, cold (nothing stored) and again;
2. photographs (with --root): the plain Lightning recipe of `plain_lightning.py` with one head an arm, against
   blurtrain with five, cold and again.

Whole processes are timed, imports included. Each blurtrain figure is the median of --repeats runs.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PYTHON = sys.executable


def timed(command: list[str], folder: Path) -> float:
    """Seconds of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return time.perf_counter() - start


def blurtrain(options: list[str], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of a comparison in an empty folder, and of the same with all features but no run stored."""
    cold, warm = [], []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command = [PYTHON, "-m", "blurtrain", "compare", *options]
            cold.append(timed(command, folder))
            warm.append(timed([*command, "--name", "again"], folder))
    return cold, warm


def row(what: str, seconds: list[float], reference: float) -> str:
    """One row of the table."""
    median = statistics.median(seconds)
    spread = f"{min(seconds):.1f} to {max(seconds):.1f}" if len(seconds) > 1 else "one run"
    return f"| {what} | {median:.1f} | {spread} | {reference / median:.1f} |"


def photographs(words: argparse.Namespace) -> list[str]:
    """Rows for the photographs."""
    plain = [PYTHON, str(HERE / "plain_lightning.py"), "--root", str(words.root.resolve()), "--name", words.name]
    options = ["--config", str(HERE.parent / "configs/photos.yaml"), "--data.root", str(words.root.resolve())]
    options += ["--backbone.name", words.name]
    if words.weights is not None:
        weights = str(words.weights.resolve())
        plain += ["--weights", weights]
        options += ["--backbone.weights", weights]
    if words.mean is not None:
        plain += ["--mean", *map(str, words.mean), "--std", *map(str, words.std)]
        options += [f"--backbone.mean={words.mean}", f"--backbone.std={words.std}"]
    reference = timed(plain, HERE)
    cold, warm = blurtrain(options, words.repeats)
    return [
        row(f"{words.name}: plain Lightning, 1 head an arm, 10 epochs", [reference], reference),
        row(f"{words.name}: blurtrain, 5 heads an arm, nothing stored", cold, reference),
        row(f"{words.name}: blurtrain, new run, features stored", warm, reference),
    ]


def main() -> None:
    """Measure and write benchmarks/results/speed.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="photographs, ROOT/train/CLASS and ROOT/test/CLASS")
    parser.add_argument("--name", default="squeezenet1_1", help="torchvision backbone for the photographs")
    parser.add_argument("--weights", type=Path, help="its weights; downloaded where not given")
    parser.add_argument("--mean", type=float, nargs=3, help="normalisation, where it is not ImageNet's")
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    cold, warm = blurtrain(["--config", str(HERE.parent / "configs/augmented.yaml")], words.repeats)
    reference = statistics.median(cold)
    rows = [
        row("embedded digits: blurtrain, nothing stored", cold, reference),
        row("embedded digits: blurtrain, new run, features stored", warm, reference),
        *(photographs(words) if words.root else []),
    ]
    versions = {name: metadata.version(name) for name in ("torch", "pytorch-lightning", "onnxruntime")}
    machine = f"{platform.machine()}, Python {platform.python_version()}, {json.dumps(versions)}"
    head = ["| what | seconds, median | spread | times faster |", "| --- | --- | --- | --- |"]
    text = "\n".join([f"Made by `make bench` on {machine}.", "", *head, *rows]) + "\n"
    print(text)
    target = HERE / "results" / "speed.md"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
