"""How near the extraction of features comes to what the machine can do at all.

    python benchmarks/limit.py --root ROOT --name squeezenet1_1 --weights FILE

In rounds in which they take turns: the bare engine on arrays in memory, fed as blurtrain feeds it and with one call on
all cores; the exact blur of every view alone; the extraction of the seven views from stored pixels into an empty
store, decoding excluded; and bare decoding. The limit of the extraction is 1 / (1 / engine + 1 / blur).
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from timing import ratio, spread, table, write

from blurtrain import backbones, decoding, engines, features, images
from blurtrain.blur import blur_pixels
from blurtrain.chatter import silence
from blurtrain.config import BackboneConfig, DataConfig
from blurtrain.cores import cores
from blurtrain.opening import open_source
from blurtrain.views import CLEAN, Blur

VIEWS = (CLEAN, *(Blur("gaussian", sigma) for sigma in (1.0, 2.0, 3.0, 4.0, 6.0, 8.0)))
BATCH = 8
MOST = 400  # images that are decoded and extracted


def rate(count: int, seconds: float) -> float:
    """Images a second."""
    return count / seconds


class Subject:
    """One backbone on one set of images.

    Args:
        words: Of the command line.
        cache: Folder of the store.
    """

    def __init__(self, words: argparse.Namespace, cache: Path) -> None:
        config = BackboneConfig(
            name=words.name,
            weights=words.weights,
            mean=tuple(words.mean) if words.mean else None,
            std=tuple(words.std) if words.std else None,
        )
        self.backbone = backbones.load(config)
        self.cache, self.data = cache, DataConfig(root=str(words.root))
        self.geometry = self.backbone.preprocessing.geometry
        self.images = images.load(self.data, self.geometry, cache)
        sample = self.images.read_pixels(self.images.train[:8])
        self.engine = engines.build(self.backbone, "onnxruntime", cache, sample)
        (self.path,) = (cache / "engines").rglob("*.onnx")
        few = np.resize(np.arange(len(self.images.ids)), words.images)
        self.pixels = self.images.read_pixels(few)
        own = self.backbone.preprocessing
        self.arrays = blur_pixels(self.pixels, CLEAN, own.mean, own.std)
        self.pool = ThreadPoolExecutor(cores())

    def session(self, threads: int) -> onnxruntime.InferenceSession:
        """The exported network, with so many threads for each call."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])

    def side_by_side(self, session: onnxruntime.InferenceSession) -> None:
        """Batches of eight, one call a core."""
        starts = range(0, len(self.arrays), BATCH)
        list(self.pool.map(lambda start: session.run(None, {"images": self.arrays[start : start + BATCH]}), starts))

    def together(self, session: onnxruntime.InferenceSession) -> None:
        """Batches of 32, all cores on each."""
        for start in range(0, len(self.arrays), 32):
            session.run(None, {"images": self.arrays[start : start + 32]})

    def blur(self, view: Blur) -> None:
        """The exact blur alone."""
        own = self.backbone.preprocessing
        starts = range(0, len(self.pixels), BATCH)
        list(self.pool.map(lambda s: blur_pixels(self.pixels[s : s + BATCH], view, own.mean, own.std), starts))

    def eager(self) -> None:
        """Eager torch as it comes, NCHW, on a few images."""
        with torch.inference_mode():
            self.backbone(torch.from_numpy(blur_pixels(self.pixels[:32], CLEAN)))

    def extract(self) -> int:
        """Extract all views of some images into an empty store."""
        shutil.rmtree(self.cache / "features", ignore_errors=True)
        store = features.store_for(self.backbone, self.engine, self.cache)
        every = np.arange(min(len(self.images.ids), MOST))
        done = features.extract(self.images, dict.fromkeys(VIEWS, every), self.engine, store, batch_size=32)
        return done.computed

    def decode(self) -> int:
        """Bare decoding and resizing of some files, one a core at a time."""
        source = open_source(self.data)
        some = range(min(len(source.items), MOST))
        list(self.pool.map(lambda i: self.geometry.apply(source.decode(i)), some))
        return len(some)


def timed(way: object, *arguments: object) -> tuple[float, int]:
    """Seconds, and what the way returns as a count."""
    start = time.perf_counter()
    count = way(*arguments)  # type: ignore[operator]
    return time.perf_counter() - start, count or 0


def measure(words: argparse.Namespace) -> dict[str, list[float]]:
    """Rates in images a second, round by round."""
    found: dict[str, list[float]] = {name: [] for name in ("engine", "blur", "extraction", "eager", "decoding")}
    with tempfile.TemporaryDirectory() as folder:
        subject = Subject(words, Path(folder))
        alone, joined = subject.session(1), subject.session(cores())
        for turn in range(words.repeats + 1):
            count = len(subject.arrays)
            fastest = min(timed(subject.side_by_side, alone)[0], timed(subject.together, joined)[0])
            blurs = sum(timed(subject.blur, view)[0] for view in VIEWS)
            extraction, views = timed(subject.extract)
            eager = min(timed(subject.eager)[0] for _ in range(2))
            decoding_, files = timed(subject.decode)
            if turn:  # the first fills caches
                found["engine"].append(rate(count, fastest))
                found["blur"].append(rate(count * len(VIEWS), blurs))
                found["extraction"].append(rate(views, extraction))
                found["eager"].append(rate(32, eager))
                found["decoding"].append(rate(files, decoding_))
    return found


def row(name: str, found: dict[str, list[float]]) -> list[str]:
    """One line of the table."""
    limit = [1 / (1 / e + 1 / b) for e, b in zip(found["engine"], found["blur"], strict=True)]
    return [
        name,
        spread(found["eager"], 0),
        spread(found["engine"], 0),
        ratio(found["engine"], found["eager"]),
        spread(found["blur"], 0),
        spread(found["extraction"], 0),
        ratio(found["extraction"], limit),
        ratio(found["extraction"], found["engine"]),
        spread(found["decoding"], 0),
    ]


HEAD = (
    *("backbone", "eager torch", "bare engine", "engine / eager", "exact blur, mean of 7 views", "extraction"),
    *("extraction / limit", "extraction / engine", "decoding"),
)


def main() -> None:
    """Measure one backbone and print the rates as JSON, or a page for several."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--name", default="squeezenet1_1")
    parser.add_argument("--weights", default="IMAGENET1K_V1", help="a name, a file, or none")
    parser.add_argument("--mean", type=float, nargs=3)
    parser.add_argument("--std", type=float, nargs=3)
    parser.add_argument("--images", type=int, default=256, help="of the bare engine's round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print rates instead of a page")
    words = parser.parse_args()
    silence()
    found = measure(words)
    if words.json:
        print(json.dumps(found))
        return
    text = table(HEAD, [row(words.name, found)])
    text += f"\nImages a second on {decoding.__name__.partition('.')[0]}'s own paths; median of rounds.\n"
    median = statistics.median(found["extraction"])
    write("limit", "Extraction against its limit", f"python benchmarks/limit.py --name {words.name}", text, ("torch",))
    print(f"{median:.0f} images/s")


if __name__ == "__main__":
    main()
