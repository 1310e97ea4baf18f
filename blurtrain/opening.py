"""The source that a config names."""

from collections.abc import Mapping
from pathlib import Path

from blurtrain.config import EMBEDDED, DataConfig
from blurtrain.folder_source import ExtraSource, FolderSource
from blurtrain.sources import GlyphSource, Joined, LetterSource, Source


def open_source(config: DataConfig, extra_tests: Mapping[str, str] | None = None, *, trained: bool = True) -> Source:
    """The source that a config names, with further folders to test on behind it.

    Args:
        config: Of the images.
        extra_tests: Folders of further test sets by name.
        trained: Whether a head is to be trained on it; else it holds test images alone, and the embedded ones are
            letters, which the embedded network knows already.

    Raises:
        DataError: As `FolderSource` and `ExtraSource`.
    """
    source: Source
    if config.root != EMBEDDED:
        source = FolderSource(Path(config.root), trained=trained)
    elif trained:
        source = GlyphSource(config.glyphs.train, config.glyphs.test, config.glyphs.seed)
    else:
        source = LetterSource(config.glyphs.test, config.glyphs.seed)
    further = [ExtraSource(name, Path(folder), source.classes) for name, folder in (extra_tests or {}).items()]
    return Joined((source, *further)) if further else source
