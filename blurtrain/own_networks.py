"""Networks that a function of the user's own builds; it runs only if he has named it himself (`blurtrain.trust`)."""

import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from blurtrain import own_code
from blurtrain.config import WEIGHT_SUFFIXES, BackboneConfig
from blurtrain.decoding import Geometry
from blurtrain.errors import BackboneError
from blurtrain.files import sha256
from blurtrain.origins import CHANGED_BY, RANDOM, Preprocessing, Source, given, refuse_hash, seeded
from blurtrain.trust import require_allowed

IMAGENET = Preprocessing(Geometry(256, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
LIBRARIES = ("torch", "torchvision", "timm")  # code that a name and a version stand for


def source(config: BackboneConfig) -> Source:
    """A network that the user's own function has built, and its weights.

    Raises:
        BackboneError: If the user has not named it himself, it cannot be built, or there are no such weights.
    """
    require_allowed(config.name)
    function = _found(config.name)
    network = _built(config.name, function)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    own, assumed = _preprocessing(config)
    code = _code(network, function)
    if config.weights == RANDOM:
        refuse_hash(config)
        note = f"warning: the weights of {config.name} are those that it comes with, random ones unless it sets others"
        note = "; ".join(filter(None, [note, assumed]))
        return Source(lambda: network, own, lambda: state, RANDOM, note, code)
    if not config.weights.endswith(WEIGHT_SUFFIXES):
        raise BackboneError(
            f"backbone.weights {config.weights!r} is not known for {config.name}: give a file ending in "
            f"{', '.join(WEIGHT_SUFFIXES)}, or none for the weights that it comes with"
        )
    return replace(given(config, lambda: network, own, "", assumed), code=code)


def _preprocessing(config: BackboneConfig) -> tuple[Preprocessing, str]:
    """ImageNet's, with the usual margin around the crop, and what of it the config does not give."""
    crop = config.crop or IMAGENET.geometry.crop
    resize = config.resize or round(crop * IMAGENET.geometry.resize / IMAGENET.geometry.crop)
    own = replace(IMAGENET, geometry=replace(IMAGENET.geometry, resize=resize, crop=crop))
    given_ones = {"mean": config.mean, "std": config.std, "resize": config.resize, "crop": config.crop}
    sizes = {"resize": f"resize {resize}", "crop": f"crop {crop} px"}
    missing = [sizes.get(key, f"ImageNet's {key}") for key, value in given_ones.items() if value is None]
    return own, f"{', '.join(missing)} assumed; {CHANGED_BY}" if missing else ""


def _found(name: str) -> Callable[[], Any]:
    """The function, from an installed module or from one in the working folder."""
    place, _, attribute = name.partition(":")
    function = own_code.found(place, attribute, f"backbone.name {name!r}", BackboneError)
    if not callable(function):
        lacks = f"has no {attribute}" if function is None else f"has a {attribute} that is no function"
        raise BackboneError(f"backbone.name {name!r}: {own_code.file_of(place)} {lacks}: give MODULE:FUNCTION")
    return function  # type: ignore[no-any-return]


def _built(name: str, function: Callable[[], Any]) -> nn.Module:
    try:
        network = seeded(function)
    except (Exception, SystemExit) as error:  # whatever the user's code does
        raise BackboneError(f"backbone.name {name!r} fails when it is called ({own_code.said(error)})") from error
    if not isinstance(network, nn.Module):
        raise BackboneError(f"backbone.name {name!r} gives {type(network).__name__}, not a torch.nn.Module")
    return network.float().eval()


def _code(network: nn.Module, function: Callable[[], Any]) -> str:
    """A hash of what computes: the files of the function and of all its modules' classes, and their settings.

    Two networks of equal weights may differ in it, and features of one must not be found for the other.
    """
    kinds = [function, *{type(module) for module in network.modules()}]
    places = sorted({kind.__module__ for kind in kinds if kind.__module__.split(".")[0] not in LIBRARIES})
    parts: list[str | bytes] = [ADDRESS.sub("", repr(network))]
    for place in places:
        try:
            file = inspect.getsourcefile(sys.modules[place]) if place in sys.modules else None
        except TypeError as error:  # typed in: other code by the same name would find its features
            raise BackboneError(f"backbone.name: {place} lies in no file: write its code into one") from error
        parts += [place, Path(file).read_bytes() if file and Path(file).is_file() else b""]
    return sha256(*parts)
