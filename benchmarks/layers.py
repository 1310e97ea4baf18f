"""How long `blurtrain layers` takes: `python benchmarks/layers.py --root ROOT`, a page in results/layers.md.

Whole processes on 64 images with four blurs: nothing stored, then norms and decoded images stored. Beside them the
limit of the latter, its forward passes alone in eager torch: every image clean and through every blur with two borders.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from timing import PYTHON, rounds, spread, table, write

from blurtrain import backbones
from blurtrain.config import BackboneConfig
from blurtrain.cores import cores

IMAGES, BLURS = 64, 4
BATCH = 16


def run(options: list[str], folder: Path) -> tuple[float, float]:
    """Seconds and MiB of one command, a process of its own."""
    start = time.perf_counter()
    with (folder / "said").open("w+") as said:
        words = [PYTHON, "-m", "blurtrain", "layers", "--own_head", "--images", str(IMAGES), *options]
        child = subprocess.Popen(words, cwd=folder, stdout=said, stderr=said)
        _, status, usage = os.wait4(child.pid, 0)
        said.seek(0)
        if status:
            raise SystemExit(said.read())
    scale = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, usage.ru_maxrss * scale / 2**20


def bare(name: str, weights: str) -> float:
    """Seconds of the forward passes alone, all cores busy."""
    backbone = backbones.load(BackboneConfig(name, weights)).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    side = backbone.preprocessing.geometry.crop
    images = torch.rand(BATCH, 3, side, side).contiguous(memory_format=torch.channels_last)
    torch.set_num_threads(cores())
    with torch.inference_mode():
        taken = rounds({"bare": lambda: backbone(images)}, repeats=5)["bare"]
    return statistics.median(taken) / BATCH * IMAGES * (1 + 2 * BLURS)


def row(name: str, weights: str, root: str, repeats: int) -> list[str]:
    """Of one network."""
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside)
        options = ["--data.root", root, "--backbone.name", name, "--backbone.weights", weights]
        first, memory = run([*options, "--name", "first"], folder)
        again = [run([*options, "--name", f"again{turn}"], folder)[0] for turn in range(repeats)]
    limit = bare(name, weights)
    ratio = statistics.median(again) / limit
    return [name, f"{first:.1f}", spread(again), f"{memory:.0f}", f"{limit:.1f}", f"{ratio:.1f}"]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="glyphs", help="folder of class folders")
    parser.add_argument("--names", nargs="+", default=["squeezenet1_1", "mobilenet_v2", "resnet50"])
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE", help="others have random weights")
    parser.add_argument("--repeats", type=int, default=3)
    words = parser.parse_args()
    files = dict(word.split("=", 1) for word in words.weights)
    root = words.root if words.root == "glyphs" else str(Path(words.root).resolve())
    rows = [row(name, files.get(name, "none"), root, words.repeats) for name in words.names]
    head = ("network", "nothing stored, s", "norms and images stored, s", "peak memory, MiB", "forward passes alone, s")
    body = table([*head, "stored / passes alone"], rows)
    command = "python benchmarks/layers.py --root ROOT --weights NAME=FILE"
    write("layers", "The layers of a network", command, body, ("torch", "torchvision"))


if __name__ == "__main__":
    main()
