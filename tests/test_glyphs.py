"""The embedded image set: recipes, fonts and pictures."""

import hashlib
from collections import Counter
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import ImageFont

from blurtrain import glyphs
from blurtrain.glyphs import DIGITS, FILES, LETTERS, SPLITS, TEST_FONTS, Glyph

TRAIN, TEST = 3000, 2000  # pictures of digits by default


@pytest.fixture(scope="module")
def digits() -> dict[str, list[Glyph]]:
    return {
        "train": glyphs.glyphs("digits", "train", TRAIN, seed=0),
        "test": glyphs.glyphs("digits", "test", TEST, seed=0),
    }


def superfamily(font: str) -> str:
    """The family that the font file itself names, without its style."""
    if font in glyphs.AILERON:
        return "Aileron"
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / FILES[font]
    family = ImageFont.truetype(str(path), 10).getname()[0] or ""
    return "cm" if family.startswith("cm") else family.split()[0]


def test_same_glyph_gives_the_same_picture_whatever_was_drawn_before() -> None:
    glyph, other = Glyph("g", "dejavu-serif", 7), Glyph("Q", "aileron", 8)
    first = glyphs.draw(glyph)
    glyphs.draw(other)
    assert first.tobytes() == glyphs.draw(glyph).tobytes()


def test_draw_gives_rgb_bytes_of_the_stated_size() -> None:
    picture = glyphs.draw(Glyph("3", "stix", 1))
    assert picture.shape == (glyphs.SIZE, glyphs.SIZE, 3)
    assert picture.dtype == np.uint8


def test_draw_all_draws_each_in_order() -> None:
    recipes = glyphs.glyphs("letters", "train", 5, seed=3)
    expected = np.stack([glyphs.draw(glyph) for glyph in recipes])
    np.testing.assert_array_equal(glyphs.draw_all(recipes), expected)


@pytest.mark.parametrize("font", FILES)
def test_every_font_has_every_character(font: str) -> None:
    missing = glyphs._outline(font, "\uffff", 0).tobytes()
    outlines = {character: glyphs._outline(font, character, 0) for character in LETTERS + DIGITS}
    assert all(np.asarray(outline).max() > 200 for outline in outlines.values())
    assert len({(o.size, o.tobytes()) for o in outlines.values()}) == len(LETTERS + DIGITS)
    assert missing not in {outline.tobytes() for outline in outlines.values()}


@pytest.mark.parametrize("font", FILES)
def test_numerals_are_lining(font: str) -> None:
    heights = [glyphs._outline(font, digit, 0).height for digit in DIGITS]
    assert max(heights) < 1.1 * min(heights)


@pytest.mark.parametrize("font", FILES)
def test_a_heavier_weight_covers_more(font: str) -> None:
    covered = [int(np.asarray(glyphs._outline(font, "8", w), dtype=np.int64).sum()) for w in glyphs.WEIGHTS]
    assert covered == sorted(set(covered))


def test_characters_stay_inside_the_picture() -> None:
    rng = np.random.default_rng(0)
    for font in FILES:
        for character in "0W":
            coverage = glyphs._place(glyphs._outline(font, character, 0), rng)
            rim = np.concatenate([coverage[0], coverage[-1], coverage[:, 0], coverage[:, -1]])
            assert coverage.min() >= 0.0
            assert 0.5 < coverage.max() <= 1.0
            assert rim.mean() < 0.1


def test_ink_differs_from_the_background() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        background, ink = glyphs._colours(rng)
        luminance = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in (background, ink)]
        assert abs(luminance[0] - luminance[1]) >= glyphs.CONTRAST - 1e-6


def test_superfamilies_of_the_test_split_occur_nowhere_else() -> None:
    test = {superfamily(font) for font in TEST_FONTS}
    others = {superfamily(f) for (_, split), fonts in SPLITS.items() if split != "test" for f in fonts}
    assert test == {"STIXGeneral", "cm"}
    assert others == {"DejaVu", "Aileron"}


def test_test_fonts_differ_from_all_others_as_files() -> None:
    digests = {font: glyphs.font_digest(font) for font in FILES}
    assert len(set(digests.values())) == len(FILES)


@pytest.mark.parametrize("split", ["train", "test"])
def test_default_digits_are_balanced_exactly(digits: dict[str, list[Glyph]], split: str) -> None:
    counts = Counter((glyph.font, glyph.character) for glyph in digits[split])
    assert set(counts) == {(f, c) for f in SPLITS["digits", split] for c in DIGITS}  # type: ignore[index]
    assert len(set(counts.values())) == 1


@given(count=st.integers(0, 500), seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_any_count_is_balanced_within_one(count: int, seed: int) -> None:
    recipes = glyphs.glyphs("digits", "test", count, seed)
    counts = Counter({(f, c): 0 for f in TEST_FONTS for c in DIGITS})
    counts.update((glyph.font, glyph.character) for glyph in recipes)
    assert len(recipes) == count
    assert max(counts.values()) - min(counts.values()) <= 1


def test_recipes_follow_from_the_seed() -> None:
    assert glyphs.glyphs("digits", "train", 50, 1) == glyphs.glyphs("digits", "train", 50, 1)
    assert glyphs.glyphs("digits", "train", 50, 1) != glyphs.glyphs("digits", "train", 50, 2)


def test_no_two_splits_or_seeds_share_a_random_stream() -> None:
    streams = [
        {glyph.seed for glyph in glyphs.glyphs(task, split, 1000, seed)} for task, split in SPLITS for seed in (0, 1)
    ]
    assert len(set().union(*streams)) == 1000 * len(streams)


def test_no_two_pictures_are_the_same(digits: dict[str, list[Glyph]]) -> None:
    pictures = {glyphs.draw(glyph).tobytes() for split in digits.values() for glyph in split}
    assert len(pictures) == TRAIN + TEST


def test_unknown_split_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no split letters test, only letters train"):
        glyphs.glyphs("letters", "test", 1, 0)


def test_negative_count_is_refused() -> None:
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        glyphs.glyphs("digits", "test", -1, 0)


def test_unknown_font_is_refused() -> None:
    with pytest.raises(ValueError, match=r"font must be one of dejavu-sans.*, got papyrus"):
        glyphs.draw(Glyph("a", "papyrus", 0))


def test_font_digest_is_that_of_the_file() -> None:
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"
    assert glyphs.font_digest("computer-modern") == hashlib.sha256(path.read_bytes()).hexdigest()


def test_recipe_key_depends_on_the_recipe() -> None:
    recipes = [Glyph(c, f, s) for c in "12" for f in ("stix", "aileron") for s in (1, 12)]
    keys = [glyphs.recipe_key(glyph) for glyph in recipes]
    assert len(set(keys)) == len(keys)
    assert keys == [glyphs.recipe_key(glyph) for glyph in recipes]
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)


@pytest.mark.parametrize(
    ("ingredient", "other"),
    [
        ("DRAWING_VERSION", -1),
        ("font_digest", lambda _: "0" * 64),
        ("versions", lambda: ("12.0.0", "2.13.3", "2.4.0")),
    ],
)
def test_recipe_key_depends_on_what_draws(monkeypatch: pytest.MonkeyPatch, ingredient: str, other: object) -> None:
    glyph = Glyph("5", "dejavu-mono", 0)
    before = glyphs.recipe_key(glyph)
    monkeypatch.setattr(glyphs, ingredient, other)
    assert glyphs.recipe_key(glyph) != before
