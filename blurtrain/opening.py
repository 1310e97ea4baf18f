"""The source that a config names."""

from collections.abc import Mapping
from pathlib import Path

from blurtrain.config import DataConfig
from blurtrain.errors import DataError
from blurtrain.folder_source import ExtraSource, FolderSource
from blurtrain.folders import folders_in, is_folder
from blurtrain.hub_sets import HubSource
from blurtrain.manifests import ManifestSource
from blurtrain.roots import kind_of
from blurtrain.shards import ShardSource
from blurtrain.sources import GlyphSource, Joined, LetterSource, Source
from blurtrain.torchvision_sets import TorchvisionSource


def open_source(
    config: DataConfig, extra_tests: Mapping[str, str] | None = None, *, trained: bool = True, lenient: bool = False
) -> Source:
    """The source that a config names, with further folders to test on behind it.

    Args:
        config: Of the images.
        extra_tests: Folders of further test sets by name.
        trained: Whether a head is to be trained on it; else it holds test images alone, and the embedded ones are
            letters, which the embedded network knows already.
        lenient: Whether a class may lack images, which is not for training but for a check that tells all of them.

    Raises:
        DataError: As the sources.
    """
    source = _source(config, trained=trained, lenient=lenient)
    further = [ExtraSource(name, Path(folder), source.classes) for name, folder in (extra_tests or {}).items()]
    return Joined((source, *further)) if further else source


def _source(config: DataConfig, *, trained: bool, lenient: bool) -> Source:
    drawn, root = config.glyphs, Path(config.root)
    match kind_of(config.root):
        case "embedded" if trained:
            return GlyphSource(drawn.train, drawn.test, drawn.seed)
        case "embedded":
            return LetterSource(drawn.test, drawn.seed)
        case "manifest" if not is_folder(root):
            return ManifestSource(root, trained=trained, lenient=lenient)
        case "shards" if not is_folder(root):
            folder = Path(config.folder)
            return ShardSource(config.root, folder, download=config.download, trained=trained, lenient=lenient)
        case "torchvision":
            return TorchvisionSource(config.root, Path(config.folder), download=config.download, trained=trained)
        case "hub":
            return HubSource(config.root, download=config.download, trained=trained, lenient=lenient)
        case _:
            _refuse_shards(root)
            return FolderSource(root, trained=trained, lenient=lenient)


def _refuse_shards(root: Path) -> None:
    """A folder of tar files alone could be many things, so the shards are named.

    Raises:
        DataError: If there are tar files and no folders.
    """
    shards = sorted(root.glob("*.tar")) if is_folder(root) else []
    if shards and not folders_in(root):
        raise DataError(
            f"{root} has tar files ({shards[0].name}) and no class folders: "
            f"name the shards by a pattern, such as {root}/{{train,test}}-{{000..003}}.tar"
        )
