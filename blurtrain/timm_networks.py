"""Networks of timm, which is an extra: what they are called, how they are built, and where their weights come from."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blurtrain.config import BackboneConfig
from blurtrain.cutting import first_sentence
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.origins import Preprocessing, Source, assumption, given, refuse_hash

PREFIX = "timm:"
PRETRAINED = "pretrained"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")  # of a network in the hub's cache


def is_timm(name: str) -> bool:
    """Whether a backbone's name means a network of timm."""
    return name.startswith(PREFIX)


def _timm() -> Any:  # noqa: ANN401 - the module, which has no types
    try:
        import timm
    except ModuleNotFoundError as error:
        if error.name != "timm":
            raise
        raise BackboneError(
            "timm is not installed, and backbones called timm:NAME are its networks: pip install 'blurtrain[timm]'"
        ) from error
    return timm


def names(tagged: bool = False) -> list[str]:
    """All networks of timm as a config names them.

    Args:
        tagged: Once for each of their weights, with its tag, instead of once without.

    Raises:
        BackboneError: If timm is not installed.
    """
    return [f"{PREFIX}{name}" for name in _timm().list_models(pretrained=tagged)]


def is_known(name: str) -> bool:
    """Whether timm has a network, and weights by its tag if it has one; an address such as hf-hub:NAME is neither."""
    architecture, _, tag = name.removeprefix(PREFIX).partition(".")
    return f"{PREFIX}{architecture}" in names() and (not tag or tag in _tags(architecture))


def _tags(architecture: str) -> list[str]:
    """Of the weights that timm has of a network, its own first."""
    return [name.partition(".")[2] for name in _timm().list_models(f"{architecture}.*", pretrained=True)]


def architecture(name: str) -> Callable[[], nn.Module]:
    """What builds a network."""
    timm = _timm()
    return lambda: timm.create_model(name.removeprefix(PREFIX), pretrained=False)


def default_preprocessing(name: str) -> Preprocessing:
    """What timm itself does to the images: its resize is that of its evaluation, the crop over crop_pct."""
    config = _timm().data.resolve_data_config(pretrained_cfg=_weights(name).to_dict())
    crop = int(config["input_size"][-1])
    geometry = Geometry(math.floor(crop / config["crop_pct"]), crop, config["interpolation"].upper())
    return Preprocessing(geometry, tuple(config["mean"]), tuple(config["std"]))


def outputs(name: str) -> int:
    """How many classes the network's own head tells apart."""
    return int(_weights(name).num_classes)


def source(config: BackboneConfig) -> Source:
    """A network of timm that is known, and its weights.

    Raises:
        BackboneError: If there are no such weights.
    """
    weights = _weights(config.name)
    build, own = architecture(config.name), default_preprocessing(config.name)
    if config.weights == PRETRAINED and weights.has_weights:
        refuse_hash(config)
        return Source(build, own, lambda: _download(config.name, weights), f"{config.weights} {weights.tag}".rstrip())
    tags = _tags(weights.architecture)
    assumed = assumption(f"{PREFIX}{weights.architecture} {weights.tag}".rstrip(), own.geometry)
    if weights.crop_mode != "center":
        assumed += f"; timm brings images to that size by {weights.crop_mode}, which is a central cut here"
    return given(config, build, own, PRETRAINED if tags else "", assumed)


def at_hand(name: str) -> tuple[str, ...]:
    """Tags of the weights that were downloaded before."""
    bare, _, own = name.removeprefix(PREFIX).partition(".")
    return tuple(tag for tag in ([own] if own else _tags(bare)) if _is_downloaded(_weights(f"{bare}.{tag}")))


def _is_downloaded(weights: Any) -> bool:  # noqa: ANN401 - timm has no types
    from huggingface_hub import try_to_load_from_cache

    files = [weights.hf_hub_filename] if weights.hf_hub_filename else WEIGHT_FILES
    hub = weights.hf_hub_id
    if hub and any(isinstance(try_to_load_from_cache(hub, file), str) for file in files):
        return True
    return bool(weights.url) and (Path(torch.hub.get_dir()) / "checkpoints" / Path(weights.url).name).is_file()


def _weights(name: str) -> Any:  # noqa: ANN401 - timm has no types
    """What timm says of the weights with a network's tag, or of its own choice."""
    return _timm().get_pretrained_cfg(name.removeprefix(PREFIX))


def _download(name: str, weights: Any) -> Mapping[str, Tensor]:  # noqa: ANN401 - timm has no types
    """As timm loads them: from its own place, without running what a pickle holds, and in its present form."""
    try:
        network = _timm().create_model(name.removeprefix(PREFIX), pretrained=True)
    except Exception as error:  # of the hub, the connection and the file, by several libraries
        place = f"the hub's {weights.hf_hub_id}" if weights.hf_hub_id else weights.url
        raise BackboneError(
            f"the weights {weights.tag} of {name} could not be downloaded from {place} ({first_sentence(error)}): "
            "connect to the network, or give a local file as backbone.weights"
        ) from error
    state: Mapping[str, Tensor] = network.state_dict()
    return state
