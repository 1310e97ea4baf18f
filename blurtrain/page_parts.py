"""Parts of a page that come from beside a comparison: layers, evidence, and how everything was made."""

import base64
import shlex
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from blurtrain import comparison, layer_report, page_words, runs
from blurtrain.breakdown import CLASSES, IMAGES
from blurtrain.config import EMBEDDED, Config
from blurtrain.errors import BlurtrainError, RunError
from blurtrain.files import read_sealed
from blurtrain.layer_pictures import FIGURES
from blurtrain.layer_words import number, plural
from blurtrain.page_images import drawn
from blurtrain.roots import HUB

LAYERS, EVIDENCE = "layers.json", "evidence.json"  # what `blurtrain layers` and `blurtrain evidence` write last
FAMILIES = "families"  # the section of evidence whose arms have copies of one family
SHORT = 16  # hexadecimal digits of a fingerprint that are shown

Part = dict[str, Any]


def layers(parent: Path, config: Config) -> Part | None:
    """What `blurtrain layers` has found for a config, with its pictures; nothing where it was not run."""
    folder = parent / config.folder("layers").name
    if not _belongs(folder, config, LAYERS):
        return None
    try:
        result = runs.load_run(folder, LAYERS, "layers").result
    except RunError:
        return None
    files = {name: folder / "figures" / f"{name}.png" for name in FIGURES}
    pictures = []
    for name, path in files.items():
        with suppress(OSError):  # it is not there, or damaged: the figures are in the text as well
            pictures.append((layer_alt(name, result), *drawn(path.read_bytes())))
    return {"finding": result["finding"], "pictures": pictures, "folder": str(folder), "n": result["n_images"]}


def layer_alt(name: str, result: Mapping[str, Any]) -> str:
    """What a picture of layers shows."""
    place = layer_report.heaviest(result)
    blur, convolutions = result["blurs"][place]["name"], plural(len(result["layers"]), "convolution")
    if name == "error" and result["layers"]:
        ends = (layer_report.median(part, place, result) for part in (result["layers"][0], result["features"]))
        first, last = ("unknown" if value is None else number(value) for value in ends)
        return (
            f"Median relative error over depth, {convolutions}: at {blur} {first} at the first, {last} at the features."
        )
    about = {
        "bounds": "Error that each layer makes of its own blurred input, beside its bounds",
        "constants": "Constants of the blurs' kernels and of the layers",
        "decision": "How errors of layers tell images whose answer turns, and what the heads see of the shift",
    }
    return f"{about.get(name, name)}: {convolutions}, {plural(len(result['blurs']), 'blur')}."


def evidence(parent: Path, config: Config) -> Part | None:
    """What copies of each family gain on each other one, as `blurtrain evidence` found; nothing where it has not."""
    folder = parent / config.folder("evidence").name
    if not _belongs(folder, config, EVIDENCE):
        return None
    try:
        found = read_sealed(folder / EVIDENCE)
    except (OSError, ValueError):
        return None
    means = [mean for mean in found["means"] if mean["name"] != "heavy"]
    places = [place for place, arm in enumerate(found["arms"]) if arm["section"] == FAMILIES]
    gains = [[mean["arms"][place]["gain"] for mean in means] for place in places]
    most = max([0.01, *(abs(gain["difference"]) for line in gains for gain in line)])
    return {
        "tested": [mean["name"] for mean in means],
        "rows": [
            {"copies": found["arms"][place]["name"], "cells": [_cell(gain, most) for gain in line]}
            for place, line in zip(places, gains, strict=True)
        ],
        "said": _families_said([found["arms"][place]["name"] for place in places], means, gains),
        "folder": str(folder),
        "n": found["n_test"],
        "heads": found["heads"],
    }


def _cell(gain: Mapping[str, Any], most: float) -> Part:
    return {
        "gain": gain,
        "interval": page_words.interval(gain),
        "weight": round(100 * abs(gain["difference"]) / most),
        "rises": gain["difference"] > 0,
    }


def _families_said(copies: Sequence[str], means: Sequence[Mapping[str, Any]], gains: Sequence[Sequence[Any]]) -> str:
    """How often copies help against their own family, and against others."""
    own = [line[column] for name, line in zip(copies, gains, strict=True) for column in _columns(means, name)]
    every = [gain for line in gains for gain in line]
    others = [gain for gain in every if not any(gain is one for one in own)]
    helped = [sum(gain["verdict"] == "better" for gain in some) for some in (own, others)]
    return (
        f"Copies are better than the baseline against their own family in {helped[0]} of {len(own)} cases, "
        f"and against another one in {helped[1]} of {len(others)}."
    )


def _columns(means: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return [column for column, mean in enumerate(means) if mean["name"] == name]


def _belongs(folder: Path, config: Config, result: str) -> bool:
    """Whether a folder holds something finished of this very config."""
    try:
        return runs.is_finished(config, folder, result)
    except BlurtrainError:  # another one's, whose images or weights may be missing, too
        return False


def made(folder: Path, opened: Mapping[str, runs.Run]) -> Part:
    """How a comparison came about, and how to make it again."""
    last = list(opened.values())[-1]
    rows = {name: _facts(run) for name, run in opened.items()}
    facts = {key: [rows[name][key] for name in opened] for key in next(iter(rows.values()))}
    return {
        "differ": [(key, values) for key, values in facts.items() if len(set(values)) > 1],
        "shared": [(key, values[0]) for key, values in facts.items() if len(set(values)) == 1],
        "steps": steps(folder, opened),
        "needed": list(opened)[-1:] if _is_pair(folder, opened) else list(opened),
        "places": _places(last.config),
        "configs": configs(opened),
        "files": [str(folder / name) for name in (comparison.RESULT, "comparison.csv")],
        "single": [str(folder / name) for name in (CLASSES, IMAGES)],
        "skipped": len(last.result.get("skipped", {})),
        "run": _shell([last.folder]),
        "named": _shell(runs.named_again(last.config)),
        "version": last.result["versions"]["blurtrain"],
    }


def _facts(run: runs.Run) -> dict[str, str]:
    """What a run is made of."""
    result, config = run.result, run.config
    head, images, backbone = result["head"], result["images"], result["backbone"]
    inputs, seeds = result["inputs"], {"views": config.data.view_seed}
    if config.data.root == EMBEDDED:
        seeds["glyphs"] = config.data.glyphs.seed
    if config.cache is False:
        seeds["mini-batches"] = config.minibatch.seed
    heads = head["heads"]
    scored = f"{heads} are scored, one for each fold of a cross-validation" if heads > 1 else "1 is scored"
    return {
        "Run": str(run.folder),
        "Copies": ", ".join(result["copies"]) or "none",
        "Images": ", ".join(f"{count:,} {split}" for split, count in images.items() if count),
        "Backbone": f"{backbone['name']}, {config.backbone.weights}, {run.side} x {run.side} px",
        "Backbone's fingerprint": backbone["fingerprint"][:SHORT],
        "Trained parameters": f"{result['trainable']['parameters']:,} a head",
        "Classes weigh": "the same" if config.head.class_weights == "balanced" else "as many images as they have",
        "Solver": str(head["solver"]),
        "Steps": f"{head['iterations'] if 'iterations' in head else head['equal_steps']['steps']:,}",
        "L2 penalty": f"{head['l2']:g}" if "l2" in head else "none",
        "Heads": f"{scored}; a further one, trained on all training images, is the one that is exported",
        "Engine": str(result["engine"]),
        "Training images' fingerprint": inputs["training"][:SHORT],
        "Test images' fingerprint": inputs["test"][:SHORT],
        "Seeds": ", ".join(f"{name} {seed}" for name, seed in seeds.items()),
        "Versions": ", ".join(f"{name} {version}" for name, version in result["versions"].items()),
    }


def _places(config: Config) -> Part:
    """Where a config expects images and weights, and whether that is a place of one machine."""
    root, weights = config.data.root, config.backbone.weights
    lines = [
        "images: drawn by blurtrain itself" if root == EMBEDDED else f"images: {root} (data.root)",
        "weights: inside blurtrain" if weights == "embedded" else f"weights: {weights} (backbone.weights)",
        *(f"{name}: {place} (extra_tests)" for name, place in config.extra_tests.items()),
    ]
    places = (root.removeprefix(HUB), weights, *config.extra_tests.values())
    return {"lines": lines, "here": any(Path(place).is_absolute() for place in places)}


def steps(folder: Path, opened: Mapping[str, runs.Run]) -> list[tuple[str, str]]:
    """What makes a comparison again, in order: what each command does, and the command."""
    last = list(opened.values())[-1]
    options = _shell(runs.again(last.folder, last.config))
    if _is_pair(folder, opened):
        command = f"blurtrain compare {options}"
        again = [("Trains what is missing, reuses what is stored, compares the arms, writes this page.", command)]
    else:
        again = [
            (
                f"Trains {name}, unless it is stored.",
                f"blurtrain train {_shell(runs.again(run.folder, run.config))}",
            )
            for name, run in opened.items()
        ]
        several = _shell(run.folder for run in opened.values())
        again.append(("Compares them, and writes this page.", f"blurtrain compare {several}"))
    return [
        *again,
        ("Optional: what blur does at each convolution, in theory and measured.", f"blurtrain layers {options}"),
        (
            "Optional: the copies beside controls, other families, numbers and strengths of copies.",
            f"blurtrain evidence {options}",
        ),
        (
            "Writes this page anew, with what these two have found.",
            f"blurtrain report {shlex.quote(str(folder))}",
        ),
    ]


def _shell(words: Iterable[str | Path]) -> str:
    return shlex.join(map(str, words))


def _is_pair(folder: Path, opened: Mapping[str, runs.Run]) -> bool:
    """Whether a comparison is that of the last arm's config with its baseline, which one command makes."""
    config = list(opened.values())[-1].config
    pair = {config.baseline().run_folder.name, config.run_folder.name}
    return pair == {run.folder.name for run in opened.values()} and folder.name == config.comparison_folder.name


def configs(opened: Mapping[str, runs.Run]) -> list[Part]:
    """The config of each arm: its text, line by line, with those of keys that differ between arms, and its bytes."""
    texts = {name: (run.folder / runs.CONFIG).read_bytes() for name, run in opened.items()}
    values = {name: yaml.safe_load(text) for name, text in texts.items()}
    keys = dict.fromkeys(key for one in values.values() for key in one)
    first = next(iter(values.values()))
    differ = [key for key in keys if any(one.get(key) != first.get(key) for one in values.values())]
    return [
        {
            "arm": name,
            "place": str(opened[name].folder / runs.CONFIG),
            "lines": _lines(text.decode(), differ),
            "differ": differ,
            "uri": f"data:text/yaml;charset=utf-8;base64,{base64.b64encode(text).decode()}",
        }
        for name, text in texts.items()
    ]


def _lines(text: str, differ: Sequence[str]) -> list[tuple[str, bool]]:
    """Lines of a YAML file, and whether each is of one of some keys: a key and all that is indented below it."""
    lines, marked = [], False
    for line in text.splitlines():
        if line[:1] not in (" ", "-", ""):
            marked = line.partition(":")[0] in differ
        lines.append((line, marked))
    return lines
