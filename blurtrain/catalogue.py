"""Which networks can be imported: their sizes, and whether their weights are on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torchvision.models

from blurtrain import timm_networks
from blurtrain.backbones import EMBEDDED, architecture, default_preprocessing, names, nearest
from blurtrain.cutting import find_head, hollow
from blurtrain.errors import BackboneError
from blurtrain.progress import progress

if TYPE_CHECKING:
    from blurtrain.trials import Trial  # needs engines, which a list does not

WIDTH = 100  # columns of the table
HEADINGS = "input px  features  parameters  weights at hand"
HEADINGS_MEASURED = "  px  features    params  images/s  engine  bounded  product  at hand"
MORE = f"Those of timm: blurtrain backbones '{timm_networks.PREFIX}resnet*', after pip install 'blurtrain[timm]'"


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
        pattern: Part of a name, or a shell pattern for all of it, such as ``resnet*``. With ``timm:`` at its
            beginning it is for networks of timm, and with a dot after that for their weights.

    Raises:
        BackboneError: If no name fits, or only those of attention networks, or timm is wanted and not installed.
    """
    is_timm = timm_networks.is_timm(pattern)
    known = timm_networks.names(tagged="." in pattern) if is_timm else names()
    fitting = [name for name in known if _fits(name, pattern)]
    if not fitting:
        raise BackboneError(f"no backbone is called {pattern!r}: {nearest(pattern, known)}")
    entries, refusals = [], []
    with progress("looking at networks", len(fitting) if is_timm else 0, "network") as bar:
        for name in fitting:
            try:
                entries.append(_entry(name))
            except BackboneError as error:  # attention networks; they say so themselves
                refusals.append(error)
            bar.advance()
    if not entries:
        raise refusals[0]
    return entries


def table(entries: Sequence[Entry], trials: "Mapping[str, Trial] | None" = None) -> str:
    """The entries as text.

    Args:
        entries: A line each.
        trials: What was measured of them, by their names; None where nothing was.
    """
    width = max(4, *(len(entry.name) for entry in entries))
    lines = [f"{'name':<{width}}  {HEADINGS if trials is None else HEADINGS_MEASURED}"]
    for entry in entries:
        at_hand = ", ".join(entry.at_hand) or "-"
        if trials is None:
            found = f"{entry.crop:>8}  {entry.features:>8}  {entry.parameters / 1e6:>8.1f} M  {at_hand}"
        else:
            found = f"{entry.crop:>4}  {entry.features:>8}  {entry.parameters / 1e6:>6.1f} M"
            found += f"  {_found(trials.get(entry.name))}  {at_hand}"
        lines.append(f"{entry.name:<{width}}  {found}")
    return "\n".join(line if len(line) <= WIDTH else f"{line[: WIDTH - 2]}.." for line in lines)


def _found(trial: "Trial | None") -> str:
    if trial is None:
        return f"{'-':>8}  {'-':<6}  {'-':>7}  {'-':<7}"
    bounded = f"{trial.convolutions - trial.without_bound}/{trial.convolutions}"
    engine = trial.engine.removesuffix("runtime")
    return f"{trial.rate:>8.3g}  {engine:<6}  {bounded:>7}  {'yes' if trial.reaches else 'no':<7}"


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
    if timm_networks.is_timm(name):
        return timm_networks.at_hand(name)
    downloads = Path(torch.hub.get_dir()) / "checkpoints"
    choices = torchvision.models.get_model_weights(name)
    return tuple(choice.name for choice in choices if (downloads / Path(choice.url).name).is_file())
