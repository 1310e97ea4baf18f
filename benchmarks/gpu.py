"""How fast a GPU could run a backbone, and how fast blurtrain does: `python benchmarks/gpu.py`, results/gpu.md.

Images a second of resnet50 and squeezenet1_1 with random weights, in rounds in which the ways take turns: eager torch
as blurtrain runs it, compiled, and compiled in float16 and bfloat16, each on images that lie on the device. Then
blurtrain's extraction of seven views, from stored pixels to stored features, and bare decoding, which says where the
bottleneck is. Half precision is shown with its largest difference from float32, relative to the scale of the features:
blurtrain itself keeps float32, which agrees within 1e-4.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from drawn import fill
from limit import VIEWS, timed
from timing import rounds, spread, table, write

from blurtrain import backbones, engines, features, images
from blurtrain.chatter import silence
from blurtrain.config import BackboneConfig, DataConfig
from blurtrain.cores import cores


def rates(found: dict[str, list[float]], count: int) -> dict[str, list[float]]:
    """Images a second."""
    return {name: [count / taken for taken in values] for name, values in found.items()}


def measure(name: str, root: Path, words: argparse.Namespace) -> list[str]:
    """One line of the table."""
    backbone = backbones.load(BackboneConfig(name=name, weights="none"))
    engine = engines.TorchEngine(backbone)
    device = engine.device
    batch = torch.rand(words.batch, 3, 224, 224, device=device).to(memory_format=torch.channels_last)
    network = backbone.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    compiled = torch.compile(network, mode="max-autotune" if device.type == "cuda" else "default")

    def run(module: torch.nn.Module, dtype: torch.dtype | None) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            result = module(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return torch.as_tensor(result).float()

    ways = {
        "eager": lambda: run(network, None),
        "compiled": lambda: run(compiled, None),
        "float16": lambda: run(compiled, torch.float16),
        "bfloat16": lambda: run(compiled, torch.bfloat16),
    }
    exact = run(network, None)
    wrong = {key: float((way() - exact).abs().max() / exact.abs().max()) for key, way in ways.items()}
    found = rates(rounds(ways, words.repeats), words.batch)
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder)
        loaded = images.load(DataConfig(root=str(root)), backbone.preprocessing.geometry, cache)
        store = features.store_for(backbone, engine, cache)
        wanted = dict.fromkeys(VIEWS, np.arange(len(loaded.ids)))
        taken, _ = timed(lambda: features.extract(loaded, wanted, engine, store, words.batch).computed)
        whole = len(VIEWS) * len(loaded.ids) / taken
        source = images.open_source(DataConfig(root=str(root)))
        geometry = backbone.preprocessing.geometry
        decoding, _ = timed(lambda: [geometry.apply(source.decode(i)) for i in range(100)] and None)
    cells = [f"{spread(found[key], 0)}; {wrong[key]:.0e}" for key in ways]
    return [name, *cells, f"{whole:.0f}", f"{100 / decoding * cores():.0f}"]


def main() -> None:
    """Measure and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", nargs="+", default=["resnet50", "squeezenet1_1"])
    parser.add_argument("--images", type=int, default=4096, help="drawn for the whole pipe")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    words = parser.parse_args()
    silence()
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder), words.images // 2, words.images // 2)
        rows = [measure(name, Path(folder), words) for name in words.names]
    head = [
        "backbone",
        *(f"{way}, images / s; difference" for way in ("eager", "compiled", "float16", "bfloat16")),
        "blurtrain's extraction, views / s",
        "decoding on all cores, images / s",
    ]
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU: the CPU alone"
    write("gpu", "On a GPU", "python benchmarks/gpu.py", f"{device}\n\n{table(head, rows)}", ("torch",))


if __name__ == "__main__":
    main()
