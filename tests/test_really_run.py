"""Every source and every kind of weights trains a head by the command line; the same images give the same bytes."""

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from blurtrain import backbones
from blurtrain.cli import main
from blurtrain.torchvision_sets import SETS
from tests.alike import entries_of
from tests.test_datasets import ARRAYS, FILES, THREE_SPLITS, rendered
from tests.test_datasets import unchecked as unchecked
from tests.test_manifests import write
from tests.test_photographs import PHOTOS, SHARED
from tests.test_shards import served as served
from tests.test_shards import shard_folder

pytestmark = pytest.mark.usefixtures("quiet")

ROOT = Path(__file__).parents[1]
QUICK = (
    *("--copies", "[{strengths: [1]}]", "--sweep", "[{strengths: [0, 2]}]"),
    *("--head.folds", "2", "--head.l2", "[0.1, 1]"),
)
SMALL = ("--backbone.resize", "32", "--backbone.crop", "32")
RESULTS = ("head.safetensors", "heads-folds.safetensors", "sweep.csv", "predictions.parquet")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(name: str, *words: str) -> dict[str, bytes]:
    """What a command with a store of its own leaves."""
    places = ("--name", name, "--cache", f"cache-{name}", "--runs", "runs")
    assert main(["train", *QUICK, *words, *places]) == 0
    run = Path("runs") / f"{name}-augmented"
    assert json.loads((run / "work.json").read_text())["forward_passes"]["reused"] == 0  # nothing came from another
    return {file: (run / file).read_bytes() for file in RESULTS}


# sources


@pytest.fixture
def as_hub_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list[str]]:
    """The same photographs as local parquet files of the hub, and by a name, with the library's answer in its place."""

    def both(photos: Path) -> list[str]:
        try:
            import datasets
        except ImportError:  # an extra
            return []
        from tests.test_hub import parquet_of, table_of

        entries, load = entries_of(photos), datasets.load_dataset
        kinds = sorted({kind for _, kind, _ in entries})
        parts = {word: [entry for entry in entries if entry[2] == word] for word in ("train", "test")}
        by_name = {word: table_of(part, kinds) for word, part in parts.items()}
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hub-cache")
        monkeypatch.setattr(
            datasets, "load_dataset", lambda name, **more: by_name if name == "owner/set" else load(name, **more)
        )
        return [parquet_of(photos, tmp_path / "hub", split=True, names=kinds), "hf:owner/set"]

    return both


def every_way(photos: Path, address: str, served_folder: Path) -> list[list[str]]:
    """Words for the same photographs as a folder, in lists, and in shards, in files and from a server."""
    rows = [("path", "label", "split"), *((path.resolve(), kind, split) for path, kind, split in entries_of(photos))]
    shard_folder(photos, served_folder, split=True, per_shard=100)
    names = ",".join(sorted(path.stem for path in served_folder.iterdir()))
    return [
        ["--data.root", str(photos)],
        ["--data.root", str(write(Path("list.csv"), rows))],
        ["--data.root", str(write(Path("list.parquet"), [[str(cell) for cell in row] for row in rows]))],
        ["--data.root", f"{served_folder}/{{{names}}}.tar"],
        ["--data.root", f"{address}/{{{names}}}.tar", "--data.folder", "fetched"],
    ]


def require_one_result(ways: list[list[str]], *words: str) -> None:
    results = [trained(f"way{number}", *way, *words) for number, way in enumerate(ways)]
    for way, result in zip(ways, results, strict=True):
        assert all(result[file] == results[0][file] for file in RESULTS), way


def test_every_source_trains_the_same_head(
    photo_folder: Path, request: pytest.FixtureRequest, as_hub_does: Callable[[Path], list[str]]
) -> None:
    address, folder, _ = request.getfixturevalue("served")
    ways = every_way(photo_folder, address, folder)
    ways += [["--data.root", root] for root in as_hub_does(photo_folder)]
    require_one_result(ways, *SMALL)


@pytest.mark.slow
def test_real_photographs_train_the_same_head_through_every_source(
    tmp_path: Path, request: pytest.FixtureRequest, as_hub_does: Callable[[Path], list[str]]
) -> None:
    weights = SHARED / "weights" / "squeezenet1_1.safetensors"
    if not (PHOTOS.is_dir() and weights.is_file()):
        pytest.skip("needs the photographs and weights of ../shared beside the repository")
    photos = tmp_path / "photos"
    for path, kind, split in entries_of(PHOTOS):  # all but the GIF of an error page
        (photos / split / kind).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, photos / split / kind / path.name)
    address, folder, _ = request.getfixturevalue("served")
    ways = every_way(photos, address, folder)
    ways += [["--data.root", root] for root in as_hub_does(photos)]
    require_one_result(ways, "--backbone.name", "squeezenet1_1", "--backbone.weights", str(weights))


def test_class_folders_and_their_list_train_the_same_head(class_folder: Path) -> None:
    rows = [("path", "label"), *((path.resolve(), kind) for path, kind, _ in entries_of(class_folder))]
    require_one_result(
        [["--data.root", str(class_folder)], ["--data.root", str(write(Path("list.csv"), rows))]], *SMALL
    )


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", sorted(SETS))
def test_every_set_of_torchvision_trains_a_head(name: str, photo_folder: Path) -> None:
    for path in sorted((photo_folder / "train").rglob("[67].*")) if name in THREE_SPLITS else []:
        (photo_folder / "val" / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(photo_folder / "val" / path.parent.name / path.name)
    data = Path("data")
    if name in FILES:
        FILES[name][0](data, entries_of(photo_folder))
    elif name in ARRAYS:
        ARRAYS[name][0](data)
    else:
        rendered(data)
    words = ("--data.root", f"torchvision:{name}", "--data.folder", "data", "--data.download", "false")
    trained(name, *words, *SMALL)
    run = json.loads(Path(f"runs/{name}-augmented/run.json").read_text())
    assert run["head"]["converged"]
    assert run["images"]["train"] > 0
    rows = list(csv.DictReader(Path(f"runs/{name}-augmented/sweep.csv").read_text().splitlines()))
    assert [row["view"] for row in rows] == ["clean", "gaussian 2"]


# networks


class Task(LightningModule):
    """A network within something larger, as people train it."""

    weight: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network
        self.register_buffer("weight", torch.ones(3))

    def training_step(self, batch: list[Tensor], _index: int) -> Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.model(images)[:, :3], labels, self.weight)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.filterwarnings("ignore:The '.*_dataloader' does not have many workers")
@pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_weights_of_every_kind_train_the_same_head(
    weights_file: Callable[[str], Path], pixels: np.ndarray, photo_folder: Path
) -> None:
    """A checkpoint that Lightning itself has written, and its network as a state_dict and as safetensors."""
    name = "shufflenet_v2_x0_5"
    network: nn.Module = backbones.architecture(name)()
    network.load_state_dict(load_file(weights_file(name)))
    batch = TensorDataset(torch.from_numpy(pixels).float() / 255, torch.arange(8) % 3)
    trainer = Trainer(
        max_epochs=1,
        accelerator="cpu",
        callbacks=[ModelCheckpoint("checkpoints", save_last=True)],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Task(network), DataLoader(batch, batch_size=8))
    state = torch.load("checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert {"weight", "model.fc.weight"} <= {*state}
    own = {key.removeprefix("model."): tensor for key, tensor in state.items() if key.startswith("model.")}
    assert not torch.equal(own["fc.weight"], load_file(weights_file(name))["fc.weight"])  # it was trained
    torch.save(own, "mine.pth")
    save_file(own, "mine.safetensors")
    ways = [["--backbone.weights", file] for file in ("checkpoints/last.ckpt", "mine.pth", "mine.safetensors")]
    words = ("--data.root", str(photo_folder), "--backbone.name", name)
    require_one_result(ways, *words, "--backbone.resize", "64", "--backbone.crop", "64")


@pytest.mark.parametrize("name", ["timm:resnet10t", "timm:mobilenetv3_small_050", "timm:convnext_atto"])
def test_networks_of_timm_train_a_head(name: str, photo_folder: Path) -> None:
    pytest.importorskip("timm")
    words = ("--data.root", str(photo_folder), "--backbone.name", name, "--backbone.weights", "none")
    trained("timm", *words, "--backbone.resize", "64", "--backbone.crop", "64")
    run = json.loads(Path("runs/timm-augmented/run.json").read_text())
    assert run["backbone"]["name"] == name
    assert run["head"]["converged"]


# tables


PAGES = ("data.md", "backbones.md")
NAMED = re.compile(r"`(test_\w+)::(test_\w+)`")


def named_tests() -> list[tuple[str, str]]:
    """Tests that a page says something was run by."""
    texts = [(ROOT / "docs" / page).read_text(encoding="utf-8") for page in PAGES]
    texts.append((ROOT / "README.md").read_text(encoding="utf-8"))
    return sorted({match for text in texts for match in NAMED.findall(text)})


def test_tests_that_tables_name_exist() -> None:
    assert len(named_tests()) >= 10
    for module, test in named_tests():
        text = (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")
        assert re.search(rf"^def {test}\(", text, re.MULTILINE), f"{module}::{test}"
