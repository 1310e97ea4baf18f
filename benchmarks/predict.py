"""How fast `blurtrain predict` is: `python benchmarks/predict.py RUN ROOT`, a page in results/predict.md.

In turns, on the images of ROOT repeated until there are enough: the engine alone on decoded pixels; decoding alone; the
limit, every batch decoded and run by one of as many threads as there are cores, and nothing else; and the command's own
stream of predictions. Then whole processes: seconds until the first row, and how much of that is processor time (on a
busy machine the clock tells of the others, too).
"""

import argparse
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from timing import PYTHON, ratio, rounds, spread, table, write

from blurtrain import engines, finished
from blurtrain.chatter import silence
from blurtrain.cores import cores
from blurtrain.decoding import Geometry
from blurtrain.engines import Engine
from blurtrain.folders import images_below
from blurtrain.predictions import Asked, predict
from blurtrain.reduction import square
from blurtrain.runs import load_run
from blurtrain.views import CLEAN


def batches(files: Sequence[Path], size: int) -> list[Sequence[Path]]:
    """Files in batches."""
    return [files[start : start + size] for start in range(0, len(files), size)]


def decoded(files: Sequence[Path], geometry: Geometry) -> np.ndarray:
    """Pixels of a batch."""
    return np.stack([square(file.read_bytes(), geometry) for file in files])


def side_by_side(work: Callable[[object], object], parts: Sequence[object]) -> None:
    """Every part by one of as many threads as there are cores."""
    with ThreadPoolExecutor(cores()) as pool:
        for _ in pool.map(work, parts):
            pass


def streamed(run: Path, files: Sequence[Path], asked: Asked) -> tuple[float, int]:
    """Seconds between the first and the last row, without what is made once, and rows in between."""
    rows = predict(run, files, asked)
    next(rows)
    start = time.perf_counter()
    count = sum(1 for _ in rows)
    return time.perf_counter() - start, count


def first_row(run: Path, root: Path) -> tuple[float, float, float]:
    """Seconds until a new process prints its first answer, the processor's among them, and the process's MiB."""
    words = [PYTHON, "-m", "blurtrain", "predict", str(run), str(root)]
    start = time.perf_counter()
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        child.stdout.readline()
        child.stdout.readline()
        taken = time.perf_counter() - start
        fields = Path(f"/proc/{child.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        busy = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = status
    return taken, busy, usage.ru_maxrss / 1024


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("root", type=Path, help="folder of images")
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--repeats", type=int, default=5)
    words = parser.parse_args()
    silence()
    run = load_run(words.run)
    backbone = finished.backbone_of(run)
    geometry = backbone.preprocessing.geometry
    found = images_below(words.root, [])
    files = [found[place % len(found)] for place in range(words.images)]
    assert run.config.cache is not False
    sample = decoded(files[: engines.CHECK_IMAGES], geometry)
    engine: Engine = engines.build(backbone, run.config.engine, run.config.cache, sample)
    size = min(engine.batch, run.config.batch_size)
    parts = batches(files, size)
    pixels = [decoded(part, geometry) for part in batches(files[: 8 * size], size)]
    ready = [pixels[place % len(pixels)] for place in range(len(parts))]
    rates: dict[str, list[float]] = {"predict": [], "predict --blur_check": []}

    def stream(name: str, asked: Asked) -> None:
        taken, count = streamed(words.run, files, asked)
        rates[name].append(count / taken)

    taken = rounds(
        {
            "engine": lambda: side_by_side(lambda part: engine(part, CLEAN), ready),  # type: ignore[arg-type]
            "decoding": lambda: side_by_side(lambda part: decoded(part, geometry), parts),  # type: ignore[arg-type]
            "limit": lambda: side_by_side(lambda part: engine(decoded(part, geometry), CLEAN), parts),  # type: ignore[arg-type]
            "predict": lambda: stream("predict", Asked()),
            "predict --blur_check": lambda: stream("predict --blur_check", Asked(blur_check=True)),
        },
        words.repeats,
    )
    bare = {name: [words.images / one for one in taken[name]] for name in ("engine", "decoding", "limit")}
    rates = {name: values[1:] for name, values in rates.items()}  # the first round fills caches
    rows = [
        ["the engine alone, on decoded pixels", spread(bare["engine"], 0), ""],
        ["reading and decoding alone", spread(bare["decoding"], 0), ""],
        ["the limit: decoding and engine, nothing else", spread(bare["limit"], 0), "1.00"],
        *([f"blurtrain {name}", spread(values, 0), ratio(values, bare["limit"])] for name, values in rates.items()),
    ]
    starts = [first_row(words.run, words.root) for _ in range(words.repeats)]
    clock, busy, memory = (list(values) for values in zip(*starts, strict=True))
    text = table(["what", "images a second", "share of the limit"], rows)
    text += (
        f"\n{backbone.name}, {words.images} images. A new process prints its first row after {spread(clock)} s, "
        f"of which {spread(busy)} s are processor time; at most it takes {statistics.median(memory):.0f} MiB.\n"
    )
    write("predict", "Predicting", "python benchmarks/predict.py RUN ROOT", text, ("torch", "onnxruntime", "pillow"))


if __name__ == "__main__":
    main()
