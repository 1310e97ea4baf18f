"""Import a convolutional network, cut its head off, freeze it, and name it by a fingerprint."""

import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import safetensors
import torch
import torchvision.models
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from blurtrain import glyphnet
from blurtrain.config import WEIGHT_SUFFIXES, BackboneConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.files import file_sha256, sha256
from blurtrain.progress import say

EMBEDDED = "glyphnet"


@dataclass(frozen=True)
class Preprocessing:
    """What the imported weights expect: resize and crop, then (x - mean) / std on RGB in [0, 1]."""

    geometry: Geometry
    mean: tuple[float, ...]
    std: tuple[float, ...]


class FrozenBackbone(nn.Module):
    """A convolutional network without its head, as a fixed function from images to features.

    Freezing is this type: its network stays in eval mode whatever `train()` is told, has no gradients, and so
    keeps its batch-norm statistics.

    Args:
        network: Maps normalised images to features [batch, features] (or [batch, features, 1, 1]).
        name: Of the architecture.
        preprocessing: Of the weights; the normalisation happens here, the geometry in the data.
        features: Width of the output.
    """

    def __init__(self, network: nn.Module, name: str, preprocessing: Preprocessing, features: int) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.name = name
        self.preprocessing = preprocessing
        self.features = features
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocessing.std).view(1, -1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor
        self.train(False)

    def train(self, mode: bool = True) -> "FrozenBackbone":
        """Set this wrapper's mode; the network stays in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch features"]:
        """Features of RGB images in [0, 1]."""
        features: Tensor = self.network((images - self.mean) / self.std)
        return features.flatten(1)

    def fingerprint(self) -> str:
        """SHA-256 over the architecture's name, every weight and statistic, and the normalisation."""
        state = self.network.state_dict()
        parts: list[bytes | str] = [self.name, repr((self.preprocessing.mean, self.preprocessing.std))]
        for key in sorted(state):
            tensor = state[key].detach().cpu().contiguous()
            parts += [f"{key} {tensor.dtype} {tuple(tensor.shape)}", tensor.numpy().tobytes()]
        return sha256(*parts)


def load(config: BackboneConfig) -> FrozenBackbone:
    """Import the network that a config names, with its weights, without its head, frozen.

    Raises:
        BackboneError: If the network is not known, its weights cannot be had or do not fit, or it has no head
            that can be cut.
    """
    network, own = _build(config)
    preprocessing = Preprocessing(
        geometry=Geometry(
            resize=config.resize or own.geometry.resize,
            crop=config.crop or own.geometry.crop,
            interpolation=own.geometry.interpolation,
        ),
        mean=config.mean or own.mean,
        std=config.std or own.std,
    )
    crop = preprocessing.geometry.crop
    features = cut_head(network, config.name, torch.zeros(1, 3, crop, crop))
    return FrozenBackbone(network, config.name, preprocessing, features)


def _build(config: BackboneConfig) -> tuple[nn.Module, Preprocessing]:
    if config.name == EMBEDDED:
        return _embedded(config)
    if config.name not in names():
        raise BackboneError(f"backbone.name {config.name!r} is not known: {_nearest(config.name, names())}")
    choices = torchvision.models.get_model_weights(config.name)
    if config.weights.endswith(WEIGHT_SUFFIXES):
        network = _unfilled(config.name)
        load_weights(network, read_weights(Path(config.weights), config.sha256), config.weights, config.name)
        return network, _own_preprocessing(_preset_for(Path(config.weights), config, list(choices)))
    if config.sha256 is not None:
        raise BackboneError("backbone.sha256 is for local files: torchvision checks its own downloads; leave it out")
    if config.weights not in choices.__members__:
        raise BackboneError(
            f"backbone.weights {config.weights!r} is not known for {config.name}: give "
            f"{' or '.join(choices.__members__)}, or a file ending in {', '.join(WEIGHT_SUFFIXES)}"
        )
    return _from_hub(config.name, choices[config.weights]), _own_preprocessing(choices[config.weights])


def _preset_for(file: Path, config: BackboneConfig, choices: list[Any]) -> Any:  # noqa: ANN401 - torchvision's enumeration
    """The weights whose preprocessing a local file gets: those of the same file name, else the architecture's first."""
    chosen = next((weights for weights in choices if Path(weights.url).name == file.name), choices[0])
    if config.mean is None or config.std is None:
        say(f"note: {file.name} gets the preprocessing of {config.name} {chosen.name}; backbone.mean and std change it")
    return chosen


def _embedded(config: BackboneConfig) -> tuple[nn.Module, Preprocessing]:
    network = glyphnet.GlyphNet()
    if config.weights == "embedded":
        with resources.as_file(resources.files("blurtrain.embedded") / "glyphnet.safetensors") as path:
            state = read_weights(path, config.sha256)
    elif config.weights.endswith(WEIGHT_SUFFIXES):
        state = read_weights(Path(config.weights), config.sha256)
    else:
        raise BackboneError(
            f"backbone.weights {config.weights!r} is not known for {EMBEDDED}: give embedded, "
            f"or a file ending in {', '.join(WEIGHT_SUFFIXES)}"
        )
    load_weights(network, state, config.weights, config.name)
    side = glyphnet.SIZE
    return network, Preprocessing(Geometry(side, side), glyphnet.MEAN, glyphnet.STD)


def names() -> list[str]:
    """Networks that can be named in a config."""
    return [EMBEDDED, *torchvision.models.list_models(module=torchvision.models)]


def _nearest(name: str, known: list[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else "give glyphnet or a classifier of torchvision"


def _own_preprocessing(weights: Any) -> Preprocessing:  # noqa: ANN401 - torchvision does not export the preset's type
    preset = weights.transforms()
    geometry = Geometry(preset.resize_size[0], preset.crop_size[0], preset.interpolation.name)
    return Preprocessing(geometry, tuple(preset.mean), tuple(preset.std))


def _from_hub(name: str, weights: Any) -> nn.Module:  # noqa: ANN401 - an enumeration made at run time
    try:
        state = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise BackboneError(
            f"the weights {weights.name} of {name} could not be downloaded from {weights.url} ({reason}): "
            "connect to the network, or give a local file as backbone.weights"
        ) from error
    network = _unfilled(name)
    load_weights(network, state, weights.name, name)
    return network


def _unfilled(name: str) -> nn.Module:
    """The network in the form that torchvision gives it together with weights of its own."""
    own = {"transform_input": True, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **own)
    return network


def read_weights(path: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors or .pth file; pickled code is never run.

    Raises:
        BackboneError: If the file is missing, is not what its hash says, or holds anything but tensors.
    """
    if not path.is_file():
        raise BackboneError(
            f"backbone.weights {str(path)!r} is not a file: give a path that ends in .safetensors or .pth"
        )
    if expected_sha256 is not None and file_sha256(path) != expected_sha256.lower():
        raise BackboneError(f"{path} hashes to {file_sha256(path)}, not to backbone.sha256: it is another file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise BackboneError(f"{path} is no readable {path.suffix} file: {_first_sentence(error)}") from error
    except Exception as error:  # torch.load raises pickle.UnpicklingError and whatever a broken pickle provokes
        raise BackboneError(
            f"{path} holds more than tensors, or is damaged, and its code is never run: "
            "save a state_dict, best as .safetensors"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise BackboneError(f"{path} holds no state_dict of tensors: save model.state_dict(), best as .safetensors")
    return dict(state)


def _first_sentence(error: Exception) -> str:
    return str(error).split("\n")[0].split(". ")[0]


def load_weights(network: nn.Module, state: Mapping[str, Tensor], file: str, name: str) -> None:
    """Put tensors of any precision into a float32 network.

    Raises:
        BackboneError: If a key is missing or too many, a shape differs, or a value is not finite.
    """
    own = network.state_dict()
    # Counters of batches seen play no part in eval mode, and converters often drop them.
    missing = sorted(key for key in own.keys() - state.keys() if not key.endswith("num_batches_tracked"))
    extra = sorted(state.keys() - own.keys())
    if missing or extra:
        found = f"lacks {missing[0]!r}" if missing else f"has an unknown {extra[0]!r}"
        raise BackboneError(
            f"{file} does not fit {name}: it {found} ({len(missing)} keys missing, {len(extra)} unknown); "
            "give weights of exactly this architecture"
        )
    for key, tensor in state.items():
        if tensor.shape != own[key].shape:
            raise BackboneError(
                f"{file} does not fit {name}: {key!r} has shape {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
            )
        if not torch.isfinite(tensor.to(own[key].dtype)).all():
            raise BackboneError(f"{file} has a value in {key!r} that is not finite: it cannot be used")
    network.load_state_dict({**own, **{key: tensor.to(own[key].dtype) for key, tensor in state.items()}})


def cut_head(network: nn.Module, name: str, example: Float[Tensor, "1 3 height width"]) -> int:
    """Replace the last layer that has weights by the identity, in place.

    That layer is found by running the network, so no architecture is named here. A linear layer leaves its
    input; a 1 x 1 convolution that is pooled afterwards (SqueezeNet) leaves the pooled feature maps.

    Returns:
        The number of features.

    Raises:
        BackboneError: If the network ends in anything else, or cannot run on the example.
    """
    network.eval()
    try:
        path, last = _last_layer(network, example)
    except (RuntimeError, ValueError, AssertionError) as error:
        side = example.shape[-1]
        raise BackboneError(
            f"{name} cannot run on {side} x {side} px ({_first_sentence(error)}): give another backbone.crop"
        ) from error
    if isinstance(last, nn.Linear):
        features = last.in_features
    elif isinstance(last, nn.Conv2d) and last.kernel_size == (1, 1):
        features = last.in_channels
    else:
        raise BackboneError(
            f"{name} ends in {type(last).__name__}: only a linear layer or pooled 1 x 1 convolution can be cut off"
        )
    network.set_submodule(path, nn.Identity())
    with torch.no_grad():
        shape = tuple(network(example).flatten(1).shape)
    if shape != (1, features):
        raise BackboneError(f"{name} without its last layer gives shape {shape}, not the layer's {features} inputs")
    return features


def _last_layer(network: nn.Module, example: Tensor) -> tuple[str, nn.Module]:
    """Path and module of the layer with weights that runs last."""
    order: list[tuple[str, nn.Module]] = []

    def note(path: str) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, _inputs, _output: order.append((path, module))

    hooks = [
        module.register_forward_hook(note(path))
        for path, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
    ]
    try:
        with torch.no_grad():
            network(example)
    finally:
        for hook in hooks:
            hook.remove()
    return order[-1]
