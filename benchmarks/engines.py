"""How far ONNX Runtime's features are from eager torch's, family by family: writes the table of docs/backbones.md.

    python benchmarks/engines.py [--weights NAME=FILE ...] [--root FOLDER] [--timm]

Weights are random where no file is given, with batch-norm statistics taken from the images, because statistics
that fit nothing make features dead or huge. Sixteen images at the network's own input size: photographs where
--root gives a folder of them, else random pictures with the spectrum of natural ones. With --timm it is the table of
timm's families, which says as well what of them has bounds.
"""

import argparse
import json
import tempfile
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from torch import nn

from blurtrain import backbones, decoding, engines
from blurtrain.backbones import FrozenBackbone
from blurtrain.catalogue import catalogue
from blurtrain.config import BackboneConfig
from blurtrain.trials import bounded

FAMILIES = {
    "AlexNet": "alexnet",
    "ConvNeXt": "convnext_tiny",
    "DenseNet": "densenet121",
    "EfficientNet": "efficientnet_b0",
    "EfficientNet v2": "efficientnet_v2_s",
    "GoogLeNet": "googlenet",
    "Inception v3": "inception_v3",
    "MNASNet": "mnasnet0_5",
    "MobileNet v2": "mobilenet_v2",
    "MobileNet v3": "mobilenet_v3_small",
    "RegNet X": "regnet_x_400mf",
    "RegNet Y": "regnet_y_400mf",
    "ResNet": "resnet18",
    "ResNeXt": "resnext50_32x4d",
    "ShuffleNet v2": "shufflenet_v2_x0_5",
    "SqueezeNet": "squeezenet1_1",
    "VGG": "vgg11",
    "VGG, batch norm": "vgg11_bn",
    "Wide ResNet": "wide_resnet50_2",
}
OF_TIMM = {
    "ConvNeXt": "convnext_atto",
    "ConvNeXt v2": "convnextv2_atto",
    "CSPNet": "cspresnet50",
    "DenseNet": "densenet121",
    "DLA": "dla34",
    "EfficientNet": "efficientnet_b0",
    "EfficientNet Lite": "efficientnet_lite0",
    "GhostNet": "ghostnet_100",
    "HRNet": "hrnet_w18_small",
    "Inception v4": "inception_v4",
    "MobileNet v3": "mobilenetv3_small_100",
    "MobileNet v4": "mobilenetv4_conv_small",
    "NF-RegNet": "nf_regnet_b0",
    "RegNet Y": "regnety_004",
    "RepVGG": "repvgg_a0",
    "Res2Net": "res2net50_26w_4s",
    "ResNet": "resnet18",
    "ResNet, antialiased": "resnetblur18",
    "ResNet v2": "resnetv2_18",
    "SE-ResNet": "seresnet18",
    "VGG": "vgg11",
    "Xception": "xception41",
}
IMAGES = 16
PAGE = Path(__file__).parents[1] / "docs" / "backbones.md"
BEGIN, END = "<!-- made by benchmarks/engines.py{} -->\n", "<!-- end -->\n"


def natural(side: int) -> np.ndarray:
    """Random pictures whose amplitude falls as 1 / frequency, as that of photographs does (Field 1987)."""
    noise = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(0))
    noise = 0.3 * noise + noise.mean(1, keepdim=True)  # colour channels go together
    frequency = torch.fft.fftfreq(side)[:, None].hypot(torch.fft.rfftfreq(side)[None]).clamp_min(1 / side)
    pictures = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency, s=(side, side))
    pictures = 0.45 + 0.22 * (pictures - pictures.mean()) / pictures.std()
    return np.ascontiguousarray((255 * pictures.clamp(0, 1)).round().byte().numpy())


def photographs(root: Path, geometry: decoding.Geometry) -> np.ndarray:
    """The first photographs of a folder and those in it, at the network's size."""
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in decoding.SUFFIXES)
    files = files[:: max(1, len(files) // IMAGES)][:IMAGES]
    pixels = [geometry.apply(decoding.decode(path.read_bytes())) for path in files]
    return np.stack(pixels)


def calibrate(backbone: FrozenBackbone, images: np.ndarray) -> None:
    """Give batch norms the statistics of the images."""
    norms = [module for module in backbone.network.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in norms:
        module.train().momentum = None  # the average of what is seen, without what was there before
        module.reset_running_stats()
    with torch.no_grad():
        backbone(torch.from_numpy(images) / 255)
    for module in norms:  # what hardly varies would be rounding errors, enlarged
        assert module.running_var is not None
        module.running_var.clamp_(min=float(module.running_var.mean()) / 10)
    backbone.eval()


def bounds(backbone: FrozenBackbone) -> str:
    """Two more cells: the convolutions that have a bound, and whether a Lipschitz constant reaches the features."""
    count, without, reaches = bounded(backbone)
    return f" {count - without} of {count} | {'yes' if reaches else 'no'} |"


def row(family: str, name: str, weights: Path | None, root: Path | None) -> str:
    """One line of the table."""
    (entry,) = (entry for entry in catalogue(name) if entry.name == name)
    backbone = backbones.load(BackboneConfig(name=name, weights=str(weights or "none")))
    geometry = backbone.preprocessing.geometry
    images = photographs(root, geometry) if root else natural(geometry.crop)
    if weights is None:
        calibrate(backbone, images)
    with tempfile.TemporaryDirectory() as cache:
        engine = engines.build(backbone, "onnxruntime", Path(cache), images[:8])
        (verdict,) = (json.loads(path.read_text()) for path in Path(cache).rglob("*.json"))
        used, difference = "ONNX Runtime", verdict["relative_difference"]
        if isinstance(engine, engines.OnnxEngine):
            difference = f"{engines.difference(engine, backbone, images):.1e}"
        else:
            used = f"torch: {verdict['reason']}"
    kind = "random" if weights is None else "trained"
    return (
        f"| {family} | {name} | {geometry.crop} | {entry.features} | {entry.parameters / 1e6:.1f} M "
        f"| {kind} | {used} | {difference} |" + (bounds(backbone) if name.startswith("timm:") else "")
    )


def main() -> None:
    """Measure and write the table into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder of photographs")
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE", help="rows with trained weights")
    parser.add_argument("--timm", action="store_true", help="timm's families instead of torchvision's")
    words = parser.parse_args()
    trained = dict(word.split("=", 1) for word in words.weights)
    rows = []
    families = {family: f"timm:{name}" for family, name in OF_TIMM.items()} if words.timm else FAMILIES
    for family, name in families.items():
        rows.append(row(family, name, None, words.root))
        print(rows[-1], flush=True)
        if name in trained:
            rows.append(row(family, name, Path(trained[name]), words.root))
            print(rows[-1], flush=True)
    versions = ", ".join(
        f"{name} {metadata.version(name)}" for name in ("torch", "timm" if words.timm else "torchvision", "onnxruntime")
    )
    seen = f"{IMAGES} photographs" if words.root else f"{IMAGES} random pictures with a natural spectrum"
    head = ["family", "member", "input px", "features", "frozen parameters", "weights", "runs on a CPU with"]
    head += ["largest relative difference", *(["convolutions with a bound", "product"] if words.timm else [])]
    lines = [
        f"Measured on {seen}, {versions}.\n",
        f"| {' | '.join(head)} |",
        "|" + " --- |" * len(head),
        *rows,
    ]
    page = PAGE.read_text(encoding="utf-8")
    begin = BEGIN.format(" --timm" if words.timm else "")
    before, _, rest = page.partition(begin)
    after = rest.partition(END)[2]
    PAGE.write_text(before + begin + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


if __name__ == "__main__":
    main()
