"""The source that a config names."""

from collections.abc import Mapping
from pathlib import Path

from blurtrain.config import DataConfig
from blurtrain.folder_source import ExtraSource, FolderSource
from blurtrain.folders import is_folder
from blurtrain.manifests import ManifestSource
from blurtrain.roots import kind_of
from blurtrain.sources import GlyphSource, Joined, LetterSource, Source


def open_source(config: DataConfig, extra_tests: Mapping[str, str] | None = None, *, trained: bool = True) -> Source:
    """The source that a config names, with further folders to test on behind it.

    Args:
        config: Of the images.
        extra_tests: Folders of further test sets by name.
        trained: Whether a head is to be trained on it; else it holds test images alone, and the embedded ones are
            letters, which the embedded network knows already.

    Raises:
        DataError: As the sources.
    """
    source = _source(config, trained=trained)
    further = [ExtraSource(name, Path(folder), source.classes) for name, folder in (extra_tests or {}).items()]
    return Joined((source, *further)) if further else source


def _source(config: DataConfig, *, trained: bool) -> Source:
    drawn, root = config.glyphs, Path(config.root)
    match kind_of(config.root):
        case "embedded" if trained:
            return GlyphSource(drawn.train, drawn.test, drawn.seed)
        case "embedded":
            return LetterSource(drawn.test, drawn.seed)
        case "manifest" if not is_folder(root):
            return ManifestSource(root, trained=trained)
        case _:
            return FolderSource(root, trained=trained)
