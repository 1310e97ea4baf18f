"""What kind of source ``data.root`` names, told from its text alone."""

import re
from pathlib import Path
from typing import Literal

from blurtrain.grids import absolute

EMBEDDED = "glyphs"  # the image set that needs no files
TORCHVISION = "torchvision:"
HUB = "hf:"
TABLES = (".csv", ".parquet")
SHARDS = (".tar", ".tar.gz", ".tgz", ".tar}")  # compressed ones are refused in words
URL = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://", re.IGNORECASE)

Kind = Literal["embedded", "folder", "manifest", "shards", "torchvision", "hub"]


def kind_of(root: str) -> Kind:
    """The kind of a source; whatever is none of the others is taken for a folder."""
    if root == EMBEDDED:
        return "embedded"
    if root.startswith(TORCHVISION):
        return "torchvision"
    if root.startswith(HUB):
        return "hub"
    if URL.match(root) or root.lower().endswith(SHARDS):
        return "shards"
    return "manifest" if root.lower().endswith(TABLES) else "folder"


def is_fetched(root: str) -> bool:
    """Whether ``data.folder`` plays a part."""
    return kind_of(root) == "torchvision" or URL.match(root) is not None


def hub_files(root: str) -> str | None:
    """The pattern of local files that hf: names; nothing where it names a data set on the hub."""
    place = root.removeprefix(HUB)
    return place if place.lower().endswith(".parquet") or place.startswith(("/", ".")) else None


def absolute_root(root: str) -> str:
    """The same source, whatever the current folder is."""
    kind = kind_of(root)
    if kind in ("embedded", "torchvision") or URL.match(root):
        return root
    if kind == "hub":
        files = hub_files(root)
        return root if files is None else HUB + absolute(files)
    return absolute(root)


def title(root: str) -> str:
    """A name for what is made of a source, without slashes."""
    kind = kind_of(root)
    if kind == "torchvision":
        return root.removeprefix(TORCHVISION).replace("/", "-") or "images"
    if kind == "hub":
        files = hub_files(root)
        place = Path(root.removeprefix(HUB)) if files is None else Path(absolute(files)).parent
        return place.name or "images"
    if kind == "shards":
        return _without_braces(root) or "images"
    place = Path(absolute(root))
    return (place.stem if kind == "manifest" and not place.is_dir() else place.name) or "images"


def _without_braces(pattern: str) -> str:
    """The file name of a pattern, or else its folder's, without what differs between the files."""
    plain = re.sub(r"\.(tar|tar\.gz|tgz)$", "", pattern, flags=re.IGNORECASE)
    while (shorter := re.sub(r"\{[^{}]*\}", "", plain)) != plain:
        plain = shorter
    words = [part.strip(" -_.{}") for part in re.split(r"[/\\]", URL.sub("", plain))]
    return next((word for word in reversed(words) if word), "")
