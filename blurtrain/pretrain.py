"""Makes the embedded network again, from nothing: `GlyphNet` trained on drawn letters.

One ordinary `LightningModule`, a fixed number of steps and no choice among snapshots. The letters are drawn once
and stay in memory as uint8; validation is on fresh letters in the same fonts, with the weights as shipped.
"""

import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassAccuracy

from blurtrain import files, glyphnet, glyphs, progress
from blurtrain.chatter import silence

WEIGHTS_FILE = "glyphnet.safetensors"
RECIPE_FILE = "glyphnet.json"
FORECAST_LETTERS = 128  # of one step
UPDATE = 5e-5  # seconds a letter for the optimiser and Lightning
CHUNK = 500  # letters between two steps of the progress bar


@dataclass(frozen=True)
class Recipe:
    """What pre-training does. The defaults made the weights that ship.

    They were chosen on the training fonts alone, for a network that names clean digits well and that blur troubles:
    longer training gives letters a higher accuracy, and features that hold better under blur by themselves.

    Attributes:
        images: Letters to train on.
        validation_images: Fresh letters to validate on.
        epochs: Passes over the training letters.
        batch_size: Letters a step.
        learning_rate: Peak of the one-cycle schedule (Smith and Topin 2017).
        weight_decay: Of AdamW.
        label_smoothing: Share of the target that is spread over all classes: the two cases of c or o look the
            same at an unknown size.
    """

    images: int = 12_000
    validation_images: int = 5_200
    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.2

    @property
    def steps(self) -> int:
        """Optimiser steps in all; the last, smaller batch of an epoch is left out."""
        return self.epochs * (self.images // self.batch_size)


@dataclass(frozen=True)
class Letters:
    """Drawn letters.

    Attributes:
        pictures: uint8 `[n, 64, 64, 3]`.
        labels: int64 `[n]`, places in `glyphs.LETTERS`.
    """

    pictures: Tensor
    labels: Tensor


class Batches:
    """Iterates over letters in batches; shuffled anew every epoch where a seed is given.

    Args:
        letters: What to iterate over.
        batch_size: Letters a batch.
        seed: Of the order and of the colour changes; without it, order is kept and a last, smaller batch too.
    """

    def __init__(self, letters: Letters, batch_size: int, seed: int | None = None) -> None:
        self.letters = letters
        self.batch_size = batch_size
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        """Batches an epoch."""
        full, rest = divmod(len(self.letters.labels), self.batch_size)
        return full + int(self.generator is None and rest > 0)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yields network inputs and labels."""
        count = len(self.letters.labels)
        order = torch.arange(count)
        if self.generator is not None:
            order = torch.randperm(count, generator=self.generator)
        for batch in torch.split(order, self.batch_size)[: len(self)]:
            x = normalise(self.letters.pictures[batch])
            if self.generator is not None:
                x = recolour(x, self.generator)
            yield x.contiguous(memory_format=torch.channels_last), self.letters.labels[batch]


def normalise(pictures: Tensor) -> Tensor:
    """Turns uint8 pictures `[batch, height, width, 3]` into network inputs `[batch, 3, height, width]`."""
    pixels = pictures.permute(0, 3, 1, 2).to(torch.float32) / 255.0
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (glyphnet.MEAN, glyphnet.STD))
    return (pixels - mean) / std


def recolour(x: Tensor, generator: torch.Generator) -> Tensor:
    """Swaps colour channels and turns half of the pictures negative: the letter stays, every epoch looks new.

    Args:
        x: Normalised pictures `[batch, 3, height, width]`, symmetric about 0.
        generator: Of the random draws.

    Returns:
        Pictures of the same shape.
    """
    channels = torch.rand(len(x), 3, generator=generator).argsort(dim=1)
    sign = torch.randint(2, (len(x), 1, 1, 1), generator=generator) * 2 - 1
    return x[torch.arange(len(x))[:, None], channels] * sign


class LetterClassifier(pl.LightningModule):
    """Trains `GlyphNet` to name letters.

    Args:
        network: The network; trained in place.
        recipe: Learning rate, weight decay, label smoothing and number of steps.
    """

    def __init__(self, network: glyphnet.GlyphNet, recipe: Recipe) -> None:
        super().__init__()
        self.network = network
        self.recipe = recipe
        self.accuracy = MulticlassAccuracy(glyphnet.CLASSES, average="micro")

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        """Cross-entropy of a batch."""
        x, labels = batch
        loss = F.cross_entropy(self.network(x), labels, label_smoothing=self.recipe.label_smoothing)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        """Counts right answers."""
        x, labels = batch
        self.accuracy(self.network(x), labels)
        self.log("accuracy", self.accuracy)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """AdamW under a one-cycle schedule over all steps."""
        recipe = self.recipe
        optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=recipe.learning_rate, total_steps=recipe.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain(*, seed: int, folder: Path, recipe: Recipe | None = None) -> dict[str, object]:
    """Trains the network and writes its weights and their recipe.

    Args:
        seed: Of the letters, the initial weights and the order.
        folder: Where `glyphnet.safetensors` and `glyphnet.json` go; made if it is missing.
        recipe: What to do; without it, what made the weights that ship.

    Returns:
        What `glyphnet.json` holds: seed, recipe, fonts, versions, parameters, validation accuracy, seconds.
    """
    recipe = Recipe() if recipe is None else recipe
    start = time.perf_counter()
    train = draw_letters(glyphs.glyphs("letters", "train", recipe.images, seed))
    fresh = glyphs.glyphs("letters", "validation", recipe.validation_images, seed)
    validation = draw_letters(fresh, "drawing fresh letters")
    network = fit(train, recipe, seed)
    state = half_precision(network)
    network.load_state_dict(state)
    accuracy = validate(network, validation)
    record: dict[str, object] = {
        "seed": seed,
        "recipe": asdict(recipe),
        "optimizer": "AdamW, one-cycle schedule",
        "steps": recipe.steps,
        "drawing_version": glyphs.DRAWING_VERSION,
        "fonts": list(glyphs.PRETRAINING_FONTS),
        "classes": list(glyphs.LETTERS),
        "mean": list(glyphnet.MEAN),
        "std": list(glyphnet.STD),
        "parameters": sum(p.numel() for p in network.parameters()),
        "precision": "float16",
        "validation": {"images": recipe.validation_images, "accuracy": round(accuracy, 4)},
        "versions": versions(),
        "seconds": round(time.perf_counter() - start, 1),
    }
    with files.whole_file(folder / WEIGHTS_FILE) as temporary:
        save_file(state, temporary)
    files.write_json(folder / RECIPE_FILE, record)
    return record


def forecast(recipe: Recipe | None = None) -> str:
    """What `pretrain` would do and about how long it would take, judged by two seconds of it; nothing is written."""
    recipe = Recipe() if recipe is None else recipe
    begun = time.perf_counter()
    drawn = [glyphs.draw_all([glyph]) for glyph in glyphs.glyphs("letters", "train", FORECAST_LETTERS, seed=0)]
    drawing = (time.perf_counter() - begun) / len(drawn)
    letters = Letters(torch.from_numpy(np.concatenate(drawn)), torch.zeros(len(drawn), dtype=torch.int64))
    (batch,) = Batches(letters, len(drawn), seed=0)
    module = LetterClassifier(glyphnet.GlyphNet().to(memory_format=torch.channels_last), recipe)
    taken = []
    for _ in range(4):  # the first fills caches
        begun = time.perf_counter()
        F.cross_entropy(module.network(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
        taken.append(time.perf_counter() - begun)
    letters_in_all = recipe.images + recipe.validation_images
    seconds = progress.started() + letters_in_all * drawing
    seconds += recipe.steps * recipe.batch_size * (sum(taken[1:]) / (len(taken) - 1) / len(drawn) + UPDATE)
    return (
        f"{letters_in_all:,} letters to draw, {recipe.steps} steps of {recipe.batch_size}: about {seconds:.0f} s, "
        "judged by two seconds of it; nothing was written."
    )


def draw_letters(recipes: Sequence[glyphs.Glyph], step: str = "drawing letters") -> Letters:
    """Draws letters, here: starting further processes takes as long as they would save.

    Args:
        recipes: The letters.
        step: What the user reads.

    Returns:
        Pictures and labels in the order of the recipes.
    """
    parts = []
    with progress.progress(step, len(recipes), "letter") as drawn:
        for start in range(0, len(recipes), CHUNK):
            parts.append(glyphs.draw_all(recipes[start : start + CHUNK]))
            drawn.advance(len(parts[-1]))
    labels = torch.tensor([glyphs.LETTERS.index(glyph.character) for glyph in recipes])
    return Letters(torch.from_numpy(np.concatenate(parts)), labels)


def fit(letters: Letters, recipe: Recipe, seed: int) -> glyphnet.GlyphNet:
    """Trains a new network for the recipe's number of steps.

    Args:
        letters: Training letters.
        recipe: What to do.
        seed: Of the initial weights, the order and the colour changes.

    Returns:
        The trained network in eval mode.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = glyphnet.GlyphNet().to(memory_format=torch.channels_last)
    with progress.progress("training the network", recipe.steps, "step") as bar:
        trainer = _trainer(recipe.steps, [_CountSteps(bar)])
        trainer.fit(LetterClassifier(network, recipe), Batches(letters, recipe.batch_size, seed))
    return network.eval()


def validate(network: glyphnet.GlyphNet, letters: Letters) -> float:
    """Share of letters that the network names, in [0, 1]."""
    module = LetterClassifier(network, Recipe())
    with progress.meanwhile(f"validating on {len(letters.labels):,} fresh letters"):
        (metrics,) = _trainer().validate(module, Batches(letters, batch_size=256), verbose=False)
    return float(metrics["accuracy"])


class _CountSteps(pl.Callback):
    def __init__(self, bar: progress.Progress) -> None:
        self._bar = bar

    def on_train_batch_end(self, *_: object) -> None:
        """One step more."""
        self._bar.advance()


def _trainer(max_steps: int = -1, callbacks: list[pl.Callback] | None = None) -> pl.Trainer:
    silence()
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
        callbacks=callbacks,
    )


def half_precision(network: glyphnet.GlyphNet) -> dict[str, Tensor]:
    """The network's state with every float narrowed to float16, in the usual memory layout."""
    return {
        name: (value.half() if value.is_floating_point() else value).contiguous().clone()
        for name, value in network.state_dict().items()
    }


def versions() -> dict[str, str]:
    """Versions of what the weights depend on."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "pytorch_lightning": metadata.version("pytorch-lightning"),
        **dict(zip(("pillow", "freetype", "numpy"), glyphs.versions(), strict=True)),
    }
