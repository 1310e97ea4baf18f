"""Which networks can be imported: their sizes, and whether their weights are on this machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
import torchvision.models

from blurtrain.backbones import EMBEDDED, architecture, default_preprocessing, names, nearest
from blurtrain.cutting import find_head, hollow
from blurtrain.errors import BackboneError


@dataclass(frozen=True)
class Entry:
    """A network that can be imported.

    Args:
        name: For backbone.name.
        crop: Side in px of the square that it sees by default.
        features: Width of its features.
        parameters: Of the frozen part, without head and auxiliary classifiers.
        at_hand: Weights that need no download.
    """

    name: str
    crop: int
    features: int
    parameters: int
    at_hand: tuple[str, ...]


def catalogue(pattern: str = "") -> list[Entry]:
    """The convolutional networks whose name fits, family by family.

    Args:
        pattern: Part of a name, or a shell pattern for all of it, such as ``resnet*``.

    Raises:
        BackboneError: If no name fits, or only those of attention networks.
    """
    known = names()
    fitting = [name for name in known if _fits(name, pattern)]
    if not fitting:
        raise BackboneError(f"no backbone is called {pattern!r}: {nearest(pattern, known)}")
    entries, refusals = [], []
    for name in fitting:
        try:
            entries.append(_entry(name))
        except BackboneError as error:  # attention networks; they say so themselves
            refusals.append(error)
    if not entries:
        raise refusals[0]
    return entries


def table(entries: Sequence[Entry]) -> str:
    """The entries as text."""
    width = max(len(entry.name) for entry in entries)
    lines = [f"{'name':<{width}}  input px  features  parameters  weights at hand"]
    lines += [
        f"{entry.name:<{width}}  {entry.crop:>8}  {entry.features:>8}  {entry.parameters / 1e6:>8.1f} M"
        f"  {', '.join(entry.at_hand) or '-'}"
        for entry in entries
    ]
    return "\n".join(lines)


def _fits(name: str, pattern: str) -> bool:
    is_shell_pattern = any(sign in pattern for sign in "*?[")
    return fnmatchcase(name, pattern) if is_shell_pattern else pattern in name


def _entry(name: str) -> Entry:
    network, crop = hollow(architecture(name)), default_preprocessing(name).geometry.crop
    cut = find_head(network, name, crop)
    parameters = sum(tensor.numel() for key, tensor in network.named_parameters() if not cut.removes(key))
    return Entry(name, crop, cut.features, parameters, _at_hand(name))


def _at_hand(name: str) -> tuple[str, ...]:
    if name == EMBEDDED:
        return ("embedded",)
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    choices = torchvision.models.get_model_weights(name)
    return tuple(choice.name for choice in choices if (downloads / Path(choice.url).name).is_file())
