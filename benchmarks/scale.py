"""Memory and speed from few images to many: `python benchmarks/scale.py`, a page in results/scale.md.

A whole comparison of embedded digits, of 1,000 and of 20,000 images, each in a process of its own: the largest resident
memory that the system saw, and how many views a second passed the backbone.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timing import PYTHON, table, write


def run(images: int) -> tuple[float, float, float, float]:
    """Seconds, MiB, decoded images a second, and views a second."""
    test = images // 5
    words = ["--data.glyphs.train", str(images - test), "--data.glyphs.test", str(test)]
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "said").open("w+") as said:
        start = time.perf_counter()
        child = subprocess.Popen([PYTHON, "-m", "blurtrain", "compare", *words], cwd=folder, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        said.seek(0)
        text = said.read()
    if status:
        raise SystemExit(text)
    steps = re.findall(r"(reading images|running the backbone) +([\d,]+) of [\d,]+ \w+ in ([\d.]+) s", text)
    rates = []
    for step in ("reading images", "running the backbone"):
        mine = [(int(count.replace(",", "")), float(taken)) for name, count, taken in steps if name == step]
        rates.append(sum(count for count, _ in mine) / sum(taken for _, taken in mine))
    scale = 1 if sys.platform == "darwin" else 1024
    return seconds, usage.ru_maxrss * scale / 2**20, *rates


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 5000, 20_000])
    words = parser.parse_args()
    found = {images: run(images) for images in words.images}
    first = next(iter(found.values()))
    rows = [
        [
            f"{images:,}",
            f"{seconds:.0f}",
            f"{memory:.0f}",
            f"{memory - first[1]:+.0f}",
            f"{decoded:.0f}",
            f"{views:.0f}",
            f"{views / first[3]:.2f}",
        ]
        for images, (seconds, memory, decoded, views) in found.items()
    ]
    head = ("images", "whole comparison, s", "peak memory, MiB", "against the first", "drawn and read / s")
    text = table((*head, "views / s", "against the first"), rows)
    write("scale", "From few images to many", "python benchmarks/scale.py", text, ("torch", "onnxruntime"))


if __name__ == "__main__":
    main()
