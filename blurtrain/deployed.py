"""A finished run's classifier as a plain module: pixels in, probabilities out; from its folder or from one file."""

import json
from pathlib import Path
from typing import Any

import safetensors
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from blurtrain import backbones, finished
from blurtrain.backbones import FrozenBackbone, Preprocessing
from blurtrain.cutting import cut_head, hollow
from blurtrain.decoding import Geometry
from blurtrain.errors import DataError, RunError
from blurtrain.reduction import square
from blurtrain.runs import load_run
from blurtrain.sources import why
from blurtrain.weights import fill

FORMAT = "blurtrain-classifier-1"  # of a file: raise it when its contents mean something else
NETWORK, HEAD = "network.", "head."  # how the names of its tensors begin


class DeployedClassifier(nn.Module):
    """A frozen backbone and its trained head, ready to be asked; in eval mode, without gradients.

    Args:
        backbone: Maps images to features.
        head: Maps features to logits.
        classes: Names, in the order of the probabilities.
    """

    def __init__(self, backbone: FrozenBackbone, head: nn.Linear, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.classes = classes
        self.requires_grad_(False).eval()

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes what the network sees; the normalisation happens within."""
        return self.backbone.preprocessing

    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Probabilities of RGB images at network size, in whole grey levels or in [0, 1]."""
        in_unit = images.float() / 255 if images.dtype == torch.uint8 else images
        probabilities: Tensor = self.head(self.backbone(in_unit)).softmax(-1)
        return probabilities

    def read(self, path: Path | str) -> UInt8[Tensor, "3 height width"]:
        """An image file as the network sees it: upright, in RGB, resized and cropped.

        Raises:
            DataError: If it cannot be read or decoded.
        """
        try:
            return torch.from_numpy(square(Path(path).read_bytes(), self.preprocessing.geometry))
        except (DataError, OSError) as error:
            raise DataError(f"{path} {why(error)}") from error


def load(place: Path | str) -> DeployedClassifier:
    """The classifier of a finished run, or of a file that `blurtrain export --format safetensors` has written.

    Args:
        place: The run's folder or the file.

    Raises:
        RunError: If it is neither, the run is not finished, or the file is damaged.
        BackboneError: If a run's backbone cannot be had any more.
    """
    path = Path(place)
    if path.is_file():
        return _from_file(path)
    run = load_run(path)
    return assembled(finished.backbone_of(run), finished.head_of(run), tuple(run.classes))


def assembled(backbone: FrozenBackbone, head: dict[str, Tensor], classes: tuple[str, ...]) -> DeployedClassifier:
    """A backbone and the weight and bias of a head."""
    layer = nn.Linear(backbone.features, len(classes))
    layer.load_state_dict(head)
    return DeployedClassifier(backbone, layer, classes)


def described(classifier: DeployedClassifier) -> dict[str, Any]:
    """What a file says of a classifier beside its tensors."""
    backbone, preprocessing = classifier.backbone, classifier.preprocessing
    geometry = preprocessing.geometry
    return {
        "classes": list(classifier.classes),
        "backbone": backbone.name,
        "fingerprint": backbone.fingerprint(),
        "preprocessing": {
            "resize": geometry.resize,
            "crop": geometry.crop,
            "interpolation": geometry.interpolation,
            "mean": list(preprocessing.mean),
            "std": list(preprocessing.std),
            "rule": "upright by EXIF, RGB, shorter side to `resize` px (Pillow's antialiased filter), central square "
            "of `crop` px, whole grey levels 0 to 255; mean and std are applied within the network",
        },
    }


def tensors_of(classifier: DeployedClassifier) -> dict[str, Tensor]:
    """All that has to be stored of a classifier."""
    network = {NETWORK + key: tensor for key, tensor in classifier.backbone.network.state_dict().items()}
    head = {HEAD + key: tensor for key, tensor in classifier.head.state_dict().items()}
    return {key: tensor.contiguous().clone() for key, tensor in {**network, **head}.items()}


def _from_file(path: Path) -> DeployedClassifier:
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no mapping
        if metadata.get("format") != FORMAT:
            raise RunError(f"{path} is no classifier: give a run, or a file of blurtrain export --format safetensors")
        return _built(path, json.loads(metadata["classifier"]), tensors)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise RunError(
            f"{path} cannot be read as a classifier ({type(error).__name__}): give a run, or a file of "
            "blurtrain export --format safetensors"
        ) from error


def _built(path: Path, told: dict[str, Any], tensors: dict[str, Tensor]) -> DeployedClassifier:
    name, given = told["backbone"], told["preprocessing"]
    geometry = Geometry(given["resize"], given["crop"], given["interpolation"])
    preprocessing = Preprocessing(geometry, tuple(given["mean"]), tuple(given["std"]))
    network = hollow(backbones.architecture(name))
    cut = cut_head(network, name, geometry.crop)
    state = {key.removeprefix(NETWORK): tensor for key, tensor in tensors.items() if key.startswith(NETWORK)}
    fill(network, cut, state, str(path), name)
    backbone = FrozenBackbone(network, name, preprocessing, cut.features)
    if backbone.fingerprint() != told["fingerprint"]:
        raise RunError(f"{path} is not what was written, it is damaged or was changed: export it again")
    head = {key.removeprefix(HEAD): tensor for key, tensor in tensors.items() if key.startswith(HEAD)}
    return assembled(backbone, head, tuple(told["classes"]))
