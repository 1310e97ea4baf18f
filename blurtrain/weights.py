"""Read weight files without running code, and put them into a network that has lost its head."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from blurtrain.cutting import Cut, first_sentence, is_within
from blurtrain.errors import BackboneError
from blurtrain.files import file_sha256
from blurtrain.progress import say

CHECKPOINT = ".ckpt"  # as Lightning calls its own
COUNTER = "num_batches_tracked"  # plays no part in eval mode, and converters often drop it
NEEDED = re.compile(r"Unsupported (?:global: GLOBAL|class) (\S+)")  # in torch's refusal of a pickle

# DenseNet's published files name layers as modules may no longer be named (norm.1 for norm1); torchvision renames too.
OLD_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


def read_weights(path: Path, expected_sha256: str | None = None) -> dict[str, Tensor]:
    """Tensors of a .safetensors, .pth or .ckpt file; pickled code is never run.

    Of a checkpoint (.ckpt) the tensors under ``state_dict`` alone are taken: hyperparameters and all else play no part.

    Raises:
        BackboneError: If the file is missing, is not what its hash says, or holds anything but tensors.
    """
    require_file(path)
    if expected_sha256 is not None and file_sha256(path) != expected_sha256.lower():
        raise BackboneError(f"{path} hashes to {file_sha256(path)}, not to backbone.sha256: it is another file")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (safetensors.SafetensorError, OSError, RuntimeError, EOFError, ValueError) as error:
        raise BackboneError(f"{path} is no readable {path.suffix} file: {first_sentence(error)}") from error
    except Exception as error:  # torch.load raises pickle.UnpicklingError and whatever a broken pickle provokes
        needed = NEEDED.search(str(error))
        what = f"objects ({needed[1]}) besides tensors" if needed and path.suffix == CHECKPOINT else "more than tensors"
        raise BackboneError(
            f"{path} holds {what}, or is damaged, and its code is never run: save a state_dict, best as .safetensors"
        ) from error
    if path.suffix == CHECKPOINT and isinstance(state, Mapping):
        state = state.get("state_dict", state)
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise BackboneError(f"{path} holds no state_dict of tensors: save model.state_dict(), best as .safetensors")
    return dict(state)


def require_file(path: Path) -> None:
    """Check that weights lie where they should, without reading them.

    Raises:
        BackboneError: If they do not.
    """
    if not path.is_file():
        raise BackboneError(
            f"backbone.weights {str(path)!r} is not a file: give a path that ends in .safetensors, .pth or .ckpt"
        )


def without_prefix(state: Mapping[str, Tensor], keys: Sequence[str], file: str) -> Mapping[str, Tensor]:
    """The part of a checkpoint that is the network, which there is a part of something larger, such as ``model.``.

    Args:
        state: All of it.
        keys: That the network needs.
        file: For errors and notes.

    Returns:
        What is below the one prefix that makes the keys fit, without it; or all of it, where none does.

    Raises:
        BackboneError: If several do: nobody says which of the networks is meant.
    """
    state = {OLD_NAME.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    needed = [key for key in keys if not key.endswith(COUNTER)]
    ends = [key.removesuffix(needed[0]) for key in state if key.endswith(needed[0])] if needed else []
    fitting = [
        prefix
        for prefix in ends
        if (not prefix or prefix.endswith(".")) and all(f"{prefix}{key}" in state for key in needed)
    ]
    if len(fitting) > 1:
        several = " and ".join(repr(prefix) for prefix in fitting)
        raise BackboneError(f"{file} holds the network more than once, below {several}: save the state_dict of one")
    if not fitting or not fitting[0]:
        return state
    prefix = fitting[0]
    say(f"note: {file}: the network is what lies below {prefix!r}; nothing else is taken")
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def fill(network: nn.Module, cut: Cut, state: Mapping[str, Tensor], file: str, name: str) -> str:
    """Put tensors of any precision into a float32 network without its head; what was cut off is left out.

    Args:
        network: Without its head, real or hollow.
        cut: What was cut off it.
        state: Of the whole network; its classifier may be any or none.
        file: For errors and notes.
        name: Of the architecture, for errors and notes.

    Returns:
        A note where the classifier is not the architecture's, else nothing.

    Raises:
        BackboneError: If a key is missing or too many, a shape differs, or a value is not finite.
    """
    state = {OLD_NAME.sub(r"\1\2", key): tensor for key, tensor in state.items()}
    own = network.state_dict()
    given = {key: tensor for key, tensor in state.items() if not cut.removes(key)}
    missing = sorted(key for key in own.keys() - given.keys() if not key.endswith(COUNTER))
    extra = sorted(given.keys() - own.keys())
    if missing or extra:
        found = f"lacks {missing[0]!r}" if missing else f"has an unknown {extra[0]!r}"
        raise BackboneError(
            f"{file} does not fit {name}: it {found} ({len(missing)} keys missing, {len(extra)} unknown); "
            "give weights of exactly this architecture"
        )
    for key, tensor in given.items():
        if tensor.shape != own[key].shape:
            raise BackboneError(
                f"{file} does not fit {name}: {key!r} has shape {tuple(tensor.shape)}, not {tuple(own[key].shape)}"
            )
        if not torch.isfinite(tensor.to(own[key].dtype)).all():
            raise BackboneError(f"{file} has a value in {key!r} that is not finite: it cannot be used")
    # Copies, because tensors of a file may be that file's pages, which change when it is written anew. They go into
    # `own`, which also carries the version of each module's layout; MNASNet loads nothing without.
    own.update({key: tensor.to(own[key].dtype, copy=True).contiguous() for key, tensor in given.items()})
    network.load_state_dict(own, assign=True)
    return _about_classifier(cut, state, file, name)


def require_head(found: Cut, state: Mapping[str, Tensor], file: str, name: str) -> None:
    """Check that a file has the architecture's own head.

    Args:
        found: The head, as `blurtrain.cutting.find_head` gives it.
        state: Of the whole network.
        file: For errors.
        name: Of the architecture, for errors.

    Raises:
        BackboneError: If it holds no classifier or another one.
    """
    if differs := _classifier_differs(found, state, name):
        outputs = next(iter(found.head_shapes.values()))[0]
        raise BackboneError(f"{file} holds {differs}: give weights with the head of {outputs} outputs")


def _about_classifier(cut: Cut, state: Mapping[str, Tensor], file: str, name: str) -> str:
    differs = _classifier_differs(cut, state, name)
    if not differs:
        return ""
    is_absent = differs.startswith("no ")
    return f"note: {file} holds {differs}: {'none is needed' if is_absent else 'it is left out'}"


def _classifier_differs(cut: Cut, state: Mapping[str, Tensor], name: str) -> str:
    """What classifier a file holds in place of the architecture's own; nothing where it holds that one."""
    found = {key: tuple(tensor.shape) for key, tensor in state.items() if is_within(key, cut.head)}
    if found == cut.head_shapes:
        return ""
    if not found:
        return f"no classifier ({', '.join(cut.head_shapes)})"
    differing = sorted(
        key for key in found.keys() | cut.head_shapes.keys() if found.get(key) != cut.head_shapes.get(key)
    )
    key = differing[0]
    if key not in found:
        what = "is absent"
    elif key in cut.head_shapes:
        what = f"has shape {found[key]}, not {cut.head_shapes[key]}"
    else:
        what = f"is unknown to {name}"
    return f"another classifier than {name}'s ({key} {what})"
