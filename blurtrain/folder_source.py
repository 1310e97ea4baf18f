"""Folders whose names are the classes, and further ones to test on."""

from pathlib import Path

from blurtrain.config import EMBEDDED
from blurtrain.decoding import SUFFIXES
from blurtrain.errors import DataError
from blurtrain.folders import folders_in, image_files, images_below, is_folder, text_of, why_not
from blurtrain.options import suggest
from blurtrain.sources import SPLITS, FileSource, Item


class FolderSource(FileSource):
    """A folder ROOT/SPLIT/CLASS/* or ROOT/CLASS/*.

    Links to files and folders are followed wherever they lead, but no folder is entered twice within a class.

    Args:
        root: The folder.
        trained: Whether a head is to be trained on it. Else all images are test images, or of split folders those of
            the test split alone, and one class is enough.
        lenient: Whether a class may lack images; `empty` then has its folders without any.

    Raises:
        DataError: If a folder is missing or cannot be read, a class is empty, or a class is absent from the training
            split.
    """

    def __init__(self, root: Path, *, trained: bool = True, lenient: bool = False) -> None:
        super().__init__()
        self.root = root
        if not is_folder(root):
            raise DataError(
                f"data.root {str(root)!r} is not a folder{why_not(root)}: "
                f"give ROOT/train/CLASS and ROOT/test/CLASS, ROOT/CLASS, or {EMBEDDED!r} for the embedded images; "
                "a .csv or .parquet, {a,b}-{000..003}.tar, torchvision:NAME and hf:NAME are taken, too"
            )
        kinds = {folder: SPLITS.get(folder.name.lower()) for folder in folders_in(root)}  # also Train, TEST
        splits: dict[Path, str] = {folder: split for folder, split in kinds.items() if split is not None}
        if not {"train", "test"} & set(splits.values()):
            splits = {}  # a class may well be called `valid`
        elif len(splits) < len(kinds):
            others = ", ".join(folder.name for folder in kinds if folder not in splits)
            self.notes.append(f"note: {others} beside the split folders of {root} is left out")
        places: dict[Path, str | None] = {**splits} if splits else {root: None if trained else "test"}
        if not trained:
            places = {place: split for place, split in places.items() if split == "test"}
        folders = [(split, folder) for place, split in places.items() for folder in folders_in(place)]
        files = images_below if lenient else image_files
        found = [(split, folder, path) for split, folder in folders for path in files(folder, self.notes)]
        filled = {folder for _, folder, _ in found}
        self.empty = [(split, folder) for split, folder in folders if folder not in filled]
        if splits:
            self._require_splits(("train", "test") if trained else ("test",), found)
        names = sorted({folder.name for _, folder in folders})
        self.classes = tuple(map(text_of, names))
        needed = 2 if trained else 1
        if len(self.classes) < needed:
            self._refuse_a_class()
            raise DataError(
                f"{root} has images of {len(self.classes)} class(es), and at least {needed} are needed: give "
                "ROOT/train/CLASS and ROOT/test/CLASS, or ROOT/CLASS"
            )
        if trained and not lenient:
            self._require_trained_classes(found)
        self._note_deeper([path for _, path in folders], [(folder, path) for _, folder, path in found])
        label = {name: i for i, name in enumerate(names)}
        self.items = [Item(text_of(path.relative_to(root)), label[folder.name], split) for split, folder, path in found]
        self._paths = [path for _, _, path in found]

    def _refuse_a_class(self) -> None:
        """Say which folder is meant where the one that was given is a class.

        Raises:
            DataError: If it has no folders, and images of its own.
        """
        if not folders_in(self.root) and any(path.suffix.lower() in SUFFIXES for path in self.root.iterdir()):
            parent = self.root.parent if self.root.name not in ("", "..") else self.root.absolute().parent
            raise DataError(
                f"{self.root} has no class folders, its images lie directly in it: give its parent folder {parent} as "
                "data.root, whose folders are the classes"
            )

    def _note_deeper(self, folders: list[Path], found: list[tuple[Path, Path]]) -> None:
        """Mention class folders whose images all lie in folders of their own: the classes may be one of these."""
        shallow = {folder for folder, path in found if path.parent == folder}
        first = {folder: path for folder, path in reversed(found)}
        deep = [folder for folder in folders if folder in first and folder not in shallow]
        if deep:
            also = f" (and {len(deep) - 1} more)" if len(deep) > 1 else ""
            self.notes.append(
                f"note: class folder {deep[0]}{also} has images in folders of its own alone, such as "
                f"{first[deep[0]].parent}: if these are the classes, give the folder that they lie in as data.root"
            )

    def _require_splits(self, wanted: tuple[str, ...], found: list[tuple[str | None, Path, Path]]) -> None:
        for needed in wanted:
            if not any(split == needed for split, _, _ in found):
                both = len(wanted) > 1
                raise DataError(
                    f"{self.root} has no images in {needed}/CLASS: {'both train and test are' if both else 'it is'} "
                    f"needed, or class folders alone{', which are then split by content' if both else ''}"
                )

    def _require_trained_classes(self, found: list[tuple[str | None, Path, Path]]) -> None:
        trained = {folder.name for split, folder, _ in found if split in ("train", None)}
        for _, folder, _ in found:
            if folder.name not in trained:
                raise DataError(
                    f"class {folder.name!r} in {folder} has no training images: add some, or remove the folder"
                )


class ExtraSource(FileSource):
    """A folder FOLDER/CLASS/* of photographs that are tested on, and used for nothing else.

    Args:
        name: What the config calls it.
        root: The folder.
        classes: That are trained on, in the order of the labels.

    Raises:
        DataError: If the folder is missing or cannot be read, has no images, or has a class that is not trained on.
    """

    def __init__(self, name: str, root: Path, classes: tuple[str, ...]) -> None:
        super().__init__()
        self.classes = classes
        allowed = "give FOLDER/CLASS with images of classes that are trained on"
        if not is_folder(root):
            raise DataError(f"extra_tests.{name} {str(root)!r} is not a folder{why_not(root)}: {allowed}")
        folders = folders_in(root)
        if not folders:
            raise DataError(f"extra_tests.{name} {str(root)!r} has no class folders: {allowed}")
        for folder in folders:
            if text_of(folder.name) not in classes:
                near = suggest(text_of(folder.name), list(classes))
                raise DataError(f"{folder} is named after no class that is trained on: {near}")
        label = {known: i for i, known in enumerate(classes)}
        found = [(folder, path) for folder in folders for path in image_files(folder, self.notes)]
        self.items = [
            Item(f"{name}/{text_of(path.relative_to(root))}", label[text_of(folder.name)], extra_test=name)
            for folder, path in found
        ]
        self._paths = [path for _, path in found]
