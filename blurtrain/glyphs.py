"""The embedded image set: characters drawn with the fonts that matplotlib and Pillow ship.

Letters are the source task (a network is pre-trained on them), digits the target task. A `Glyph` is the
recipe of one picture and `draw` makes the picture from it, so an image set is a list of recipes, not files.

Fonts of the test split are whole superfamilies that no other split uses: a test picture is in a typeface that
neither the pre-training nor the training of a head has seen, and the font is the statistical unit.
"""

import functools
import hashlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, features
from PIL import __version__ as pillow_version

SIZE = 64  # pixels, height and width of a picture
DRAWING_VERSION = 2  # raise it whenever `draw` gives other pixels for the same glyph

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
DIGITS = "0123456789"

Task = Literal["letters", "digits"]
Split = Literal["train", "validation", "test"]
Pixels = NDArray[np.uint8]

DEJAVU = {
    "dejavu-sans": "DejaVuSans.ttf",
    "dejavu-sans-bold": "DejaVuSans-Bold.ttf",
    "dejavu-sans-oblique": "DejaVuSans-Oblique.ttf",
    "dejavu-sans-bold-oblique": "DejaVuSans-BoldOblique.ttf",
    "dejavu-mono": "DejaVuSansMono.ttf",
    "dejavu-mono-bold": "DejaVuSansMono-Bold.ttf",
    "dejavu-mono-oblique": "DejaVuSansMono-Oblique.ttf",
    "dejavu-mono-bold-oblique": "DejaVuSansMono-BoldOblique.ttf",
    "dejavu-serif": "DejaVuSerif.ttf",
    "dejavu-serif-bold": "DejaVuSerif-Bold.ttf",
    "dejavu-serif-italic": "DejaVuSerif-Italic.ttf",
    "dejavu-serif-bold-italic": "DejaVuSerif-BoldItalic.ttf",
}
AILERON = {"aileron": ""}  # no file: Pillow holds it in a module
STIX = {
    "stix": "STIXGeneral.ttf",
    "stix-bold": "STIXGeneralBol.ttf",
    "stix-italic": "STIXGeneralItalic.ttf",
    "stix-bold-italic": "STIXGeneralBolIta.ttf",
}
COMPUTER_MODERN = {
    "computer-modern": "cmr10.ttf",
    "computer-modern-bold": "cmb10.ttf",
    "computer-modern-sans": "cmss10.ttf",
    "computer-modern-typewriter": "cmtt10.ttf",
}
# Left out: cmmi10 (old-style numerals), cmti10 (not in every matplotlib from 3.8 on), cmex10 and cmsy10
# (symbols in the places of letters), LastResort (one box for every character), and the DejaVu Display,
# STIXNonUni and STIXSiz files (no letters, no digits).
FILES = DEJAVU | AILERON | STIX | COMPUTER_MODERN

# Letters are without serifs, digits also with: an imported network has not seen all that its new task shows.
PRETRAINING_FONTS = tuple(name for name in DEJAVU | AILERON if "serif" not in name)
TARGET_FONTS = tuple(DEJAVU)
TEST_FONTS = tuple(STIX | COMPUTER_MODERN)

SPLITS: dict[tuple[Task, Split], tuple[str, ...]] = {
    ("letters", "train"): PRETRAINING_FONTS,
    ("letters", "validation"): PRETRAINING_FONTS,
    ("digits", "train"): TARGET_FONTS,
    ("digits", "test"): TEST_FONTS,
}

EM = 96  # pixels; about twice what is drawn, so that outlines are hardly ever enlarged
SUPERSAMPLING = 2  # drawn at twice the size and averaged: smooth edges at any angle
WEIGHTS = (0, 1, 2, 3)  # pixels at EM by which the outline is made bolder on either side
EM_RANGE = (22.0, 60.0)  # pixels in the picture, uniform in the logarithm: each size has its own heavy blur
STRETCH = 0.35  # largest absolute logarithm of width over height, beside the font's own
SHEAR = 0.2  # tangent of the largest slant
ROTATION = 15.0  # degrees, largest
SHIFT = 4.0  # pixels, largest, of the bounding box's centre
CONTRAST = 0.35  # smallest difference of luminance, [0, 1], between character and background
TEXTURE = 0.5  # largest amplitude of the background's texture
TEXTURE_CELLS = (2, 4, 8)  # across the picture: shades as wide as a stroke or wider, which blur leaves
NOISE = (0.04, 0.08)  # standard deviation: never none, like a camera's; blur takes it away
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


@dataclass(frozen=True, slots=True)
class Glyph:
    """The recipe of one picture.

    Attributes:
        character: One character of `LETTERS` or `DIGITS`.
        font: Short stable name of a font, a key of `FILES`; pictures of one font belong together.
        seed: Everything else about the picture (size, position, colours, texture) follows from it.
    """

    character: str
    font: str
    seed: int


def glyphs(task: Task, split: Split, count: int, seed: int) -> list[Glyph]:
    """The recipes of one split, in random order.

    Every pair of font and character occurs equally often where `count` is a multiple of their number, else as
    nearly so as possible.

    Args:
        task: `letters` (52 classes) or `digits` (10 classes).
        split: For letters `train` or `validation`, for digits `train` or `test`.
        count: Number of pictures.
        seed: Another seed gives other pictures of the same kind.

    Returns:
        `count` recipes with different seeds.

    Raises:
        ValueError: If the task has no such split or `count` is negative.
    """
    if (task, split) not in SPLITS:
        known = ", ".join(f"{a} {b}" for a, b in SPLITS)
        raise ValueError(f"there is no split {task} {split}, only {known}")
    if count < 0:
        raise ValueError(f"count must be at least 0, got {count}")
    rng = _generator(f"glyphs {task} {split} {seed}")
    pairs = [(character, font) for character in characters(task) for font in SPLITS[task, split]]
    rounds = [rng.permutation(len(pairs)) for _ in range(math.ceil(count / len(pairs)))]
    order = rng.permutation(np.concatenate([*rounds, np.empty(0, dtype=np.int64)])[:count])
    seeds = rng.integers(2**63, size=count)
    return [Glyph(*pairs[int(pair)], seed=int(own)) for pair, own in zip(order, seeds, strict=True)]


def characters(task: Task) -> str:
    """The classes of a task in the order of their labels."""
    return LETTERS if task == "letters" else DIGITS


def draw(glyph: Glyph) -> Pixels:
    """Draws a glyph.

    Args:
        glyph: The recipe.

    Returns:
        RGB picture, uint8 `[SIZE, SIZE, 3]`; the same for the same recipe.

    Raises:
        ValueError: If the font is not a key of `FILES`.
    """
    rng = _generator(f"{glyph.character} {glyph.font} {glyph.seed}")
    shape = _outline(glyph.font, glyph.character, int(rng.choice(WEIGHTS)))
    coverage = _place(shape, rng)[:, :, None]
    background, ink = _colours(rng)
    texture = rng.uniform(0.0, TEXTURE) * _texture(rng)
    noise = rng.uniform(*NOISE) * rng.standard_normal((SIZE, SIZE, 3), dtype=np.float32)
    picture = (background + texture) * (1.0 - coverage) + ink * coverage + noise
    pixels: Pixels = np.rint(255.0 * picture.clip(0.0, 1.0)).astype(np.uint8)
    return pixels


def draw_all(recipes: Sequence[Glyph]) -> Pixels:
    """Draws glyphs one after another.

    Returns:
        uint8 `[len(recipes), SIZE, SIZE, 3]`.
    """
    pictures = np.empty((len(recipes), SIZE, SIZE, 3), dtype=np.uint8)
    for row, glyph in enumerate(recipes):
        pictures[row] = draw(glyph)
    return pictures


def recipe_key(glyph: Glyph) -> str:
    """Names the picture of a glyph by all that it is made from, so that a stored picture is never stale.

    Returns:
        sha256, 64 hexadecimal digits, over the recipe, `DRAWING_VERSION`, the font file and the versions of
        what draws.
    """
    ingredients = (
        glyph.character,
        glyph.font,
        glyph.seed,
        DRAWING_VERSION,
        font_digest(glyph.font),
        *versions(),
    )
    return hashlib.sha256(repr(ingredients).encode()).hexdigest()


@functools.cache
def font_digest(font: str) -> str:
    """sha256 of a font's file, 64 hexadecimal digits."""
    return hashlib.sha256(_font_bytes(font)).hexdigest()


@functools.cache
def versions() -> tuple[str, ...]:
    """Of Pillow, FreeType and numpy (which promises no stable random streams)."""
    return (pillow_version, features.version("freetype2") or "none", np.__version__)


def _generator(text: str) -> np.random.Generator:
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(np.frombuffer(digest, dtype=np.uint32))


def _font_bytes(font: str) -> bytes:
    if font not in FILES:
        raise ValueError(f"font must be one of {', '.join(FILES)}, got {font}")
    if font in AILERON:
        loaded = ImageFont.load_default(EM)
        assert isinstance(loaded, ImageFont.FreeTypeFont)  # with a size it always is
        assert isinstance(loaded.path, io.BytesIO)
        return loaded.path.getvalue()
    return (Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FILES[font]).read_bytes()


@functools.cache
def _font(font: str) -> ImageFont.FreeTypeFont:
    # the basic layout needs no further library and is the same everywhere
    return ImageFont.truetype(io.BytesIO(_font_bytes(font)), EM, layout_engine=ImageFont.Layout.BASIC)


@functools.lru_cache(maxsize=4096)
def _outline(font: str, character: str, weight: int) -> Image.Image:
    """A character at `EM` pixels, grey, cut to its bounding box with a border of one empty pixel."""
    left, top, right, bottom = (int(v) for v in _font(font).getbbox(character, stroke_width=weight))
    image = Image.new("L", (right - left + 2, bottom - top + 2))
    ImageDraw.Draw(image).text((1 - left, 1 - top), character, fill=255, font=_font(font), stroke_width=weight)
    return image


def _place(outline: Image.Image, rng: np.random.Generator) -> NDArray[np.float32]:
    """Scales, stretches, slants, turns and shifts an outline.

    Returns:
        Coverage by the character, [0, 1], `[SIZE, SIZE]`.
    """
    scale = SUPERSAMPLING * math.exp(rng.uniform(*np.log(EM_RANGE))) / EM
    stretch = math.exp(rng.uniform(-STRETCH, STRETCH) / 2.0)
    slant, angle = rng.uniform(-SHEAR, SHEAR), math.radians(rng.uniform(-ROTATION, ROTATION))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    forward = scale * turn @ np.array([[1.0, slant], [0.0, 1.0]]) @ np.diag([stretch, 1.0 / stretch])
    canvas = SUPERSAMPLING * SIZE
    centre = canvas / 2.0 + SUPERSAMPLING * rng.uniform(-SHIFT, SHIFT, 2)
    inverse = np.linalg.inv(forward)
    offset = np.array(outline.size) / 2.0 - inverse @ centre
    matrix = (*inverse[0].tolist(), offset[0].item(), *inverse[1].tolist(), offset[1].item())
    placed = outline.transform((canvas, canvas), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
    return np.asarray(placed.reduce(SUPERSAMPLING), dtype=np.float32) / np.float32(255.0)


def _colours(rng: np.random.Generator) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Background and ink, each RGB in [0, 1], at least `CONTRAST` apart in luminance."""
    while True:
        background, ink = rng.random((2, 3))
        if abs(LUMINANCE @ (background - ink)) >= CONTRAST:
            return background.astype(np.float32), ink.astype(np.float32)


def _texture(rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth random colour at a random scale: [-1, 1], `[SIZE, SIZE, 3]`."""
    cells = int(rng.choice(TEXTURE_CELLS))
    coarse = Image.fromarray(rng.integers(256, size=(cells, cells, 3), dtype=np.uint8))
    smooth = coarse.resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    return np.asarray(smooth, dtype=np.float32) / np.float32(127.5) - np.float32(1.0)
