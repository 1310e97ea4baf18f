"""Import a convolutional network, cut its head off, freeze it, and name it by a fingerprint."""

import difflib
import sys
import urllib.error
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torchvision.models
from jaxtyping import Float
from torch import Tensor, nn

from blurtrain import glyphnet, glyphs, own_networks, timm_networks
from blurtrain.config import BackboneConfig
from blurtrain.cutting import Cut, cut_head, find_head, hollow, keep_head
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.files import sha256
from blurtrain.origins import RANDOM as RANDOM
from blurtrain.origins import Preprocessing as Preprocessing
from blurtrain.origins import Source, assumption, given, refuse_hash, seeded
from blurtrain.progress import say
from blurtrain.trust import allow as allow  # of functions of the user's own, for users of this module
from blurtrain.trust import is_function
from blurtrain.weights import CHECKPOINT, fill, require_head, without_prefix
from blurtrain.weights import read_weights as read_weights  # its name for users of this module

EMBEDDED = "glyphnet"
IMAGENET = 1000  # classes, in torchvision's order in timm as well
NAMES_FROM = "resnet18"  # any network of torchvision that knows them
OTHERS = ", a network of timm as timm:NAME, or a function of yours as MODULE:FUNCTION"
# torchvision's own way to give these two together with weights: their stem then takes the input in another
# normalisation. Without the second word they spend a minute on random values and warn of it.
AS_WITH_WEIGHTS = {name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")}


class FrozenBackbone(nn.Module):
    """A convolutional network, in general without its head, as a fixed function from images to features.

    Freezing is this type: its network stays in eval mode whatever `train()` is told, has no gradients, and so
    keeps its batch-norm statistics.

    Args:
        network: Maps normalised images to features [batch, features] (or [batch, features, 1, 1]).
        name: Of the architecture.
        preprocessing: Of the weights; the normalisation happens here, the geometry in the data.
        features: Width of the output.
        code: Hash of what computes it, where its name does not say what that is.
    """

    def __init__(
        self, network: nn.Module, name: str, preprocessing: Preprocessing, features: int, code: str = ""
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False).eval()
        self.name = name
        self.preprocessing = preprocessing
        self.features = features
        self.code = code
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
        """SHA-256 over the architecture's name, every weight and statistic, the normalisation, and own code."""
        state = self.network.state_dict()
        parts: list[bytes | str] = [self.name, repr((self.preprocessing.mean, self.preprocessing.std))]
        parts += [self.code] if self.code else []
        for key in sorted(state):
            tensor = state[key].detach().cpu().contiguous()
            parts += [f"{key} {tensor.dtype} {tuple(tensor.shape)}", tensor.numpy().tobytes()]
        return sha256(*parts)


def load(config: BackboneConfig, *, told: bool = True) -> FrozenBackbone:
    """Import the network that a config names, with its weights, without its head, frozen.

    The head is cut before any weights are read, so a network that cannot be used costs no download.

    Args:
        config: Of the network.
        told: Whether what the user must know of its weights is said, which need not be for a finished run.

    Raises:
        BackboneError: If the network is not known, its weights cannot be had or do not fit, or it has no head
            that can be cut.
    """
    source, preprocessing = _source(config)
    network = hollow(source.build)
    cut = cut_head(network, config.name, preprocessing.geometry.crop)
    source = source if told else replace(source, note="")
    return _filled(network, cut, source, _state(source, network, cut), config.name, preprocessing)


def load_whole(config: BackboneConfig) -> FrozenBackbone:
    """Import the network that a config names with its own head, frozen: its features are the logits of its outputs.

    Raises:
        BackboneError: As `load`, or if the weights lack the head or have another.
    """
    source, preprocessing = _source(config)
    network, crop = hollow(source.build), preprocessing.geometry.crop
    found = find_head(network, config.name, crop)
    state = _state(source, network, found)
    require_head(found, state, source.origin, config.name)
    return _filled(network, keep_head(network, found, crop), source, state, config.name, preprocessing)


def load_with_head(config: BackboneConfig) -> tuple[FrozenBackbone, nn.Linear | None]:
    """Import the network that a config names, frozen, and its own head beside it.

    Returns:
        The network without its head, and that; or the whole network alone where it ends in pooled convolutions.

    Raises:
        BackboneError: As `load_whole`.
    """
    whole = load_whole(config)
    network, crop = whole.network, whole.preprocessing.geometry.crop
    head = network.get_submodule(find_head(network, config.name, crop).head)
    if not isinstance(head, nn.Linear):
        return whole, None
    cut = cut_head(network, config.name, crop)
    return FrozenBackbone(network, config.name, whole.preprocessing, cut.features, whole.code), head


def untrained(name: str) -> FrozenBackbone:
    """A network that is listed, without its head and with random weights: to see what it is and how fast it runs."""
    network, preprocessing = seeded(architecture(name)).eval(), default_preprocessing(name)
    cut = cut_head(network, name, preprocessing.geometry.crop)
    return FrozenBackbone(network, name, preprocessing, cut.features)


def outputs(name: str) -> tuple[str, ...]:
    """What the outputs of a network's own head stand for, in their order.

    Raises:
        BackboneError: If the network is not known, or nobody says what its outputs are.
    """
    if name == EMBEDDED:
        return tuple(glyphs.LETTERS)
    _require_known(name)
    if is_function(name):
        raise BackboneError(f"nobody says what the outputs of {name} stand for: train gives it a head of your classes")
    if timm_networks.is_timm(name):
        count = timm_networks.outputs(name)
        if count != IMAGENET:
            raise BackboneError(
                f"the {count} outputs of {name} are not ImageNet's {IMAGENET} classes: take another tag"
            )
        name = NAMES_FROM
    categories: list[str] = _default_weights(name).meta["categories"]
    return tuple(categories)


def geometry(config: BackboneConfig) -> Geometry:
    """How images are brought to the network's size; no weights are read.

    Raises:
        BackboneError: If the network or the kind of its weights is not known.
    """
    _, preprocessing = _source(config)
    return preprocessing.geometry


def _source(config: BackboneConfig) -> tuple[Source, Preprocessing]:
    """Where a network comes from, and how the config wants images prepared for it."""
    source = _source_of(config)
    own = source.preprocessing
    return source, Preprocessing(
        geometry=Geometry(
            resize=config.resize or own.geometry.resize,
            crop=config.crop or own.geometry.crop,
            interpolation=own.geometry.interpolation,
        ),
        mean=config.mean or own.mean,
        std=config.std or own.std,
    )


def _source_of(config: BackboneConfig) -> Source:
    if config.name == EMBEDDED:
        return _embedded(config)
    _require_known(config.name)
    if is_function(config.name):
        return own_networks.source(config)
    return timm_networks.source(config) if timm_networks.is_timm(config.name) else _torchvision(config)


def _state(source: Source, network: nn.Module, found: Cut) -> Mapping[str, Tensor]:
    """What a source gives; a checkpoint's keys have the names that the network has inside of something larger."""
    state = source.read()
    if not source.origin.endswith(CHECKPOINT):
        return state
    return without_prefix(state, [key for key in network.state_dict() if not found.removes(key)], source.origin)


def _filled(
    network: nn.Module,
    cut: Cut,
    source: Source,
    state: Mapping[str, Tensor],
    name: str,
    preprocessing: Preprocessing,
) -> FrozenBackbone:
    """A hollow network with its weights, frozen."""
    notes = [source.note, fill(network, cut, state, source.origin, name)]
    for note in filter(None, notes):
        say(note)
    return FrozenBackbone(network, name, preprocessing, cut.features, source.code)


def names() -> list[str]:
    """Networks that can be named in a config: the embedded one, then torchvision's classifiers, family by family."""
    listed = torchvision.models.list_models(module=torchvision.models)

    def place(name: str) -> tuple[str, int]:
        module = torchvision.models.get_model_builder(name).__module__
        return module, list(vars(sys.modules[module])).index(name)  # defined from small to large

    return [EMBEDDED, *sorted(listed, key=place)]


def nearest(name: str, known: list[str]) -> str:
    """A question or an advice for a name that is not known."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"give glyphnet or a classifier of torchvision{OTHERS}"


def architecture(name: str) -> Callable[[], nn.Module]:
    """What builds a network, in the form that torchvision gives it together with weights of its own."""
    if name == EMBEDDED:
        return glyphnet.GlyphNet
    if timm_networks.is_timm(name):
        return timm_networks.architecture(name)
    return lambda: torchvision.models.get_model(name, weights=None, **AS_WITH_WEIGHTS.get(name, {}))


def default_preprocessing(name: str) -> Preprocessing:
    """What a network gets where nothing better is known of its weights."""
    if name == EMBEDDED:
        return Preprocessing(Geometry(glyphnet.SIZE, glyphnet.SIZE), glyphnet.MEAN, glyphnet.STD)
    if timm_networks.is_timm(name):
        return timm_networks.default_preprocessing(name)
    return _preset(_default_weights(name))


def _default_weights(name: str) -> Any:  # noqa: ANN401 - a member of an enumeration made at run time
    choices = torchvision.models.get_model_weights(name)
    return choices.__members__.get("IMAGENET1K_V1", next(iter(choices)))


def _preset(weights: Any) -> Preprocessing:  # noqa: ANN401 - torchvision does not export the preset's type
    preset = weights.transforms()
    geometry = Geometry(preset.resize_size[0], preset.crop_size[0], preset.interpolation.name)
    return Preprocessing(geometry, tuple(preset.mean), tuple(preset.std))


def _embedded(config: BackboneConfig) -> Source:
    build, own = architecture(EMBEDDED), default_preprocessing(EMBEDDED)
    if config.weights == "embedded":
        return Source(build, own, lambda: _read_embedded(config.sha256), config.weights)
    return given(config, build, own, others="embedded")


def _torchvision(config: BackboneConfig) -> Source:
    build = architecture(config.name)
    choices = torchvision.models.get_model_weights(config.name)
    if config.weights in choices.__members__:
        refuse_hash(config)
        chosen = choices[config.weights]
        return Source(build, _preset(chosen), lambda: _download(config.name, chosen), chosen.name)
    file = Path(config.weights).name
    assumed = next((choice for choice in choices if Path(choice.url).name == file), _default_weights(config.name))
    own = _preset(assumed)
    note = assumption(f"{config.name} {assumed.name}", own.geometry)
    return given(config, build, own, " or ".join(choices.__members__), note)


def _require_known(name: str) -> None:
    if is_function(name):
        return
    is_timm = timm_networks.is_timm(name)
    known = timm_networks.names() if is_timm else names()
    if not (timm_networks.is_known(name) if is_timm else name in known):
        raise BackboneError(f"backbone.name {name!r} is not known: {nearest(name, known)}")


def _read_embedded(expected_sha256: str | None) -> dict[str, Tensor]:
    with resources.as_file(resources.files("blurtrain.embedded") / "glyphnet.safetensors") as path:
        return read_weights(path, expected_sha256)


def _download(name: str, weights: Any) -> Mapping[str, Tensor]:  # noqa: ANN401 - see `_default_weights`
    try:
        state: Mapping[str, Tensor] = weights.get_state_dict(progress=True, check_hash=True)
    except (urllib.error.URLError, OSError, RuntimeError) as error:
        reason = getattr(error, "reason", error)
        raise BackboneError(
            f"the weights {weights.name} of {name} could not be downloaded from {weights.url} ({reason}): "
            "connect to the network, or give a local file as backbone.weights"
        ) from error
    return state
