"""Imported classifiers with their own heads: logits, outputs of class folders, figures, and what is refused."""

import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blurtrain import answers, backbones, class_folders, glyphs, mce, own_head, sweep
from blurtrain.blur import blur_pixels
from blurtrain.cli import main
from blurtrain.config import BackboneConfig, BlurGrid, Config, DataConfig, GlyphsConfig, HeadConfig
from blurtrain.decoding import decode
from blurtrain.errors import BackboneError, ConfigError, DataError, RunError
from blurtrain.folder_source import FolderSource
from blurtrain.glyphnet import GlyphNet
from blurtrain.imagenet_c import SEVERITIES
from blurtrain.opening import open_source
from blurtrain.runs import Run, load_run
from blurtrain.sources import LetterSource
from blurtrain.views import CLEAN, Blur, View
from tests.conftest import EMBEDDED, REAL_WEIGHTS, SIDE
from tests.test_package import modules_after

pytestmark = pytest.mark.usefixtures("here")

NETWORK = "squeezenet1_1"
FOLDERS = {"4": 3, "n01440764": 2, "0008_n01514859_hen": 1}  # with so many images
OUTPUTS = {"4": 4, "n01440764": 0, "0008_n01514859_hen": 8}
SAMPLE = REAL_WEIGHTS.parent / "data" / "imagenet_sample"
THOUSAND = [f"class {i}" for i in range(1000)]


def fill(root: Path, counts: dict[str, int]) -> Path:
    """A folder of smooth random pictures, each different."""
    for turn, (folder, count) in enumerate(counts.items()):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            coarse = np.random.default_rng([turn, i]).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((80, 70), Image.Resampling.BICUBIC).save(root / folder / f"{i}.png")
    return root


@pytest.fixture
def config(tmp_path: Path, weights_file: Callable[[str], Path]) -> Config:
    """A torchvision network on six pictures of three of its classes, through two blurs."""
    return Config(
        data=DataConfig(root=str(fill(tmp_path / "photos", FOLDERS))),
        backbone=BackboneConfig(name=NETWORK, weights=str(weights_file(NETWORK)), resize=SIDE, crop=SIDE),
        sweep=(BlurGrid("gaussian", (0.0, 1.0, 3.0)),),
        name="six",
    )


def result_of(config: Config, mapping: Path | None = None) -> dict[str, Any]:
    return own_head.read_pretrained(own_head.pretrained(config, mapping))


# which output a folder stands for


def test_wordnet_ids_are_the_thousand_of_ilsvrc2012_in_their_order() -> None:
    known = class_folders.wnids()
    assert len(set(known)) == len(known) == 1000
    assert list(known) == sorted(known)
    assert all(re.fullmatch(r"n\d{8}", wnid) for wnid in known)
    assert [known[i] for i in (0, 4, 999)] == ["n01440764", "n01494475", "n15075141"]


@pytest.mark.skipif(not SAMPLE.is_dir(), reason="needs the photographs of ../shared beside the repository")
def test_photographs_of_every_class_stand_for_the_output_of_that_name() -> None:
    folders = sorted(path.name for path in SAMPLE.iterdir() if path.is_dir())
    assert len(folders) == 250
    names = backbones.outputs(NETWORK)
    for folder, output in zip(folders, class_folders.targets(folders, names), strict=True):
        index, wnid, _ = folder.split("_", 2)
        assert output == int(index) == class_folders.wnids().index(wnid)


@pytest.mark.parametrize(
    ("folder", "output"),
    [
        ("4", 4),
        ("0004", 4),
        ("999", 999),
        ("n01494475", 4),
        ("n01494475_hammerhead", 4),
        ("n01494475 hammerhead", 4),
        ("0004_n01494475", 4),
        ("4_n01494475_hammerhead", 4),
    ],
)
def test_a_folders_name_is_an_index_or_a_wordnet_id(folder: str, output: int) -> None:
    assert class_folders.targets([folder], THOUSAND) == [output]


@pytest.mark.parametrize(
    "folder",
    ["cat", "1000", "4_hammerhead", "-4", "4.0", "n0149447", "n014944755", "n00000000", "0005_n01494475", "n01494475x"],
)
def test_other_names_stand_for_no_output(folder: str) -> None:
    sentence = (
        f"class folder {folder!r} stands for no output of the network: "
        "name it by an index from 0 to 999 or a WordNet id such as n01494475, or give --mapping FILE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        class_folders.targets(["0", folder], THOUSAND)


def test_another_network_has_indices_alone() -> None:
    assert class_folders.targets(["0", "51"], list(glyphs.LETTERS)) == [0, 51]
    with pytest.raises(DataError, match=r"name it by an index from 0 to 51, or give --mapping FILE$"):
        class_folders.targets(["n01494475"], list(glyphs.LETTERS))


def test_two_folders_for_one_output_are_refused() -> None:
    sentence = (
        "class folders '4' and 'n01494475' both stand for output 4 (class 4): "
        "join them, or tell them apart by --mapping FILE"
    )
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        class_folders.targets(["4", "5", "n01494475"], THOUSAND)


@pytest.mark.parametrize(
    "text",
    [
        "cat,281\ndog,n02085620\n",
        "folder,class\ndog, n02085620\n\ncat,281",
        '\ufefffolder,class\r\n"cat",281\r\ndog,151\r\n',
    ],
)
def test_a_mapping_file_says_which_output_each_folder_stands_for(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mapping.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert class_folders.targets(["cat", "dog"], THOUSAND, path) == [281, 151]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            None,
            "mapping.csv cannot be read (No such file or directory): give a CSV file of two columns, folder and class",
        ),
        (b"cat,\xff\n", "mapping.csv cannot be read ('utf-8' codec can't decode byte 0xff"),
        (b'"cat,281\n', "mapping.csv cannot be read (unexpected end of data): give a CSV file of two columns"),
        (b"cat\ndog\n", "mapping.csv has 1 column(s) in row 1: give two, folder and class"),
        (b"cat,281\ndog,151,terrier\n", "mapping.csv has 3 column(s) in row 2: give two, folder and class"),
        (b"cat,281\ndog,151\ncat,282\n", "mapping.csv names the folder 'cat' twice: keep one of the lines"),
        (
            b"cat,281\ndog,1000\n",
            "mapping.csv gives the folder 'dog' the class '1000', which is no output of the network: "
            "give an index from 0 to 999 or a WordNet id such as n01494475",
        ),
        (b"cat,tabby\ndog,151\n", "mapping.csv gives the folder 'cat' the class 'tabby', which is no output"),
        (b"cat,281\ndog,151\ncow,345\n", "mapping.csv names the folder 'cow', which is not there: remove that line"),
        (b"cat,281\n", "class folder 'dog' is not in mapping.csv: add a line for it"),
    ],
)
def test_a_mapping_file_that_cannot_be_used_is_refused(content: bytes | None, sentence: str) -> None:
    path = Path("mapping.csv")
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}"):
        class_folders.targets(["cat", "dog"], THOUSAND, path)


# the whole network


def eager(name: str, file: Path, pictures: Tensor) -> Tensor:
    """Logits of torchvision's own network, for pictures in [0, 1]."""
    own = {"transform_input": True, "init_weights": False, "aux_logits": True} if name == "googlenet" else {}
    network: nn.Module = torchvision.models.get_model(name, weights=None, **own)
    network.load_state_dict(load_file(file))
    preset = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
    mean, std = (torch.tensor(value).view(1, 3, 1, 1) for value in (preset.mean, preset.std))
    with torch.no_grad():
        logits: Tensor = network.eval()((pictures - mean) / std)
    return logits


@pytest.mark.parametrize("name", [NETWORK, "resnet18", "googlenet"])
def test_logits_are_those_of_torchvisions_own_network(
    name: str, weights_file: Callable[[str], Path], pictures: np.ndarray
) -> None:
    whole = backbones.load_whole(BackboneConfig(name=name, weights=str(weights_file(name)), resize=SIDE, crop=SIDE))
    images = torch.from_numpy(pictures)
    with torch.no_grad():
        logits = whole(images)
    assert whole.features == logits.shape[1] == len(backbones.outputs(name)) == 1000
    torch.testing.assert_close(logits, eager(name, weights_file(name), images), rtol=1e-5, atol=1e-5)
    assert not any("aux" in key for key in whole.state_dict())


def test_embedded_network_answers_in_letters() -> None:
    whole = backbones.load_whole(BackboneConfig())
    network = GlyphNet()
    network.load_state_dict({key: value.float() for key, value in load_file(EMBEDDED).items()}, strict=False)
    drawn = glyphs.glyphs("letters", "validation", 16, 5)
    images = torch.from_numpy(glyphs.draw_all(drawn)).permute(0, 3, 1, 2) / 255
    with torch.no_grad():
        logits = whole(images)
        torch.testing.assert_close(logits, network.eval()((images - 0.5) / 0.5), rtol=1e-4, atol=1e-4)
    assert "".join(backbones.outputs("glyphnet")) == glyphs.LETTERS


def test_fingerprint_covers_the_head(weights_file: Callable[[str], Path], tmp_path: Path) -> None:
    state = load_file(weights_file(NETWORK))
    other = {**state, "classifier.1.bias": state["classifier.1.bias"] + 1}
    save_file(other, tmp_path / "other.safetensors")
    config = BackboneConfig(name=NETWORK, weights=str(weights_file(NETWORK)))
    changed = replace(config, weights=str(tmp_path / "other.safetensors"))
    assert backbones.load(config).fingerprint() == backbones.load(changed).fingerprint()
    found = {backbones.load_whole(one).fingerprint() for one in (config, changed)}
    assert len(found | {backbones.load(config).fingerprint()}) == 3


@pytest.mark.parametrize(
    ("head", "sentence"),
    [
        (
            {},
            "holds no classifier (classifier.1.weight, classifier.1.bias): give weights with the head of 1000 outputs",
        ),
        (
            {"classifier.1.weight": torch.zeros(7, 512, 1, 1), "classifier.1.bias": torch.zeros(7)},
            "holds another classifier than squeezenet1_1's (classifier.1.bias has shape (7,), not (1000,)): "
            "give weights with the head of 1000 outputs",
        ),
    ],
)
def test_weights_without_the_networks_own_head_are_refused(
    head: dict[str, Tensor], sentence: str, config: Config, tmp_path: Path
) -> None:
    body = {k: v for k, v in load_file(config.backbone.weights).items() if not k.startswith("classifier")}
    save_file({**body, **head}, tmp_path / "file.safetensors")
    weights = replace(config.backbone, weights=str(tmp_path / "file.safetensors"))
    with pytest.raises(BackboneError, match=re.escape(f"file.safetensors {sentence}")):
        own_head.pretrained(replace(config, backbone=weights))
    assert not Path("runs").exists()


def test_an_unknown_network_is_refused(config: Config) -> None:
    with pytest.raises(BackboneError, match=r"backbone.name 'squeeznet' is not known: did you mean squeezenet"):
        own_head.pretrained(replace(config, backbone=replace(config.backbone, name="squeeznet")))


# which images


def test_every_image_of_a_folder_is_a_test_image(config: Config) -> None:
    source = open_source(config.data, trained=False)
    assert [item.split for item in source.items] == ["test"] * 6
    result = result_of(config)
    assert (result["n_test"], result["n_classes"], result["n_outputs"]) == (6, 3, 1000)
    named = {folder["folder"]: (folder["output"], folder["name"]) for folder in result["classes"]}
    assert {folder: output for folder, (output, _) in named.items()} == OUTPUTS
    assert {name for _, name in named.values()} == {"hammerhead", "tench", "hen"}


def test_of_split_folders_the_test_split_alone_is_used(tmp_path: Path) -> None:
    fill(tmp_path / "split", {"train/4": 3, "test/4": 2, "test/5": 1, "val/6": 1})
    names = [item.name for item in FolderSource(tmp_path / "split", trained=False).items]
    assert names == ["test/4/0.png", "test/4/1.png", "test/5/0.png"]


def test_one_class_with_one_image_is_enough(config: Config, tmp_path: Path) -> None:
    root = fill(tmp_path / "one", {"4": 1})
    result = result_of(replace(config, data=DataConfig(root=str(root)), name="one"))
    assert (result["n_test"], result["n_classes"]) == (1, 1)
    assert [view["ci95"] for view in result["views"]] == [[None, None]] * 3
    assert " unknown " in answers.table(result)


@pytest.mark.parametrize(
    ("counts", "sentence"),
    [
        ({}, "photos has images of 0 class(es), and at least 1 are needed"),
        ({"train/4": 2}, "photos has no images in test/CLASS: it is needed, or class folders alone"),
    ],
)
def test_a_folder_without_test_images_is_refused(counts: dict[str, int], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    with pytest.raises(DataError, match=re.escape(sentence)):
        FolderSource(fill(tmp_path / "photos", counts), trained=False)


def test_letters_are_fresh_ones_in_the_fonts_of_the_pretraining() -> None:
    source = open_source(DataConfig(glyphs=GlyphsConfig(train=10, test=60, seed=3)), trained=False)
    assert isinstance(source, LetterSource)
    drawn = glyphs.glyphs("letters", "validation", 60, 3)
    assert [source.classes[item.label] for item in source.items] == [glyph.character for glyph in drawn]
    assert [item.group for item in source.items] == [glyph.font for glyph in drawn]
    assert {item.group for item in source.items} <= set(glyphs.PRETRAINING_FONTS)
    assert {item.split for item in source.items} == {"test"}
    np.testing.assert_array_equal(np.asarray(source.decode(7)), glyphs.draw(drawn[7]))
    fitted = {glyphs.recipe_key(glyph) for glyph in glyphs.glyphs("letters", "train", 500, 0)}
    assert not fitted & {source.key(i) for i in range(60)}


# the figures, made again from torchvision's own network


def seen_by_torch(config: Config, view: Blur) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [images, outputs] and right outputs, in the order of the files."""
    weights, geometry = Path(config.backbone.weights), backbones.load_whole(config.backbone).preprocessing.geometry
    paths = sorted(Path(config.data.root).rglob("*.png"))
    pixels = np.stack([geometry.apply(decode(path.read_bytes())) for path in paths])
    logits = eager(NETWORK, weights, torch.from_numpy(blur_pixels(pixels, view)))
    return logits.double().softmax(1).numpy(), np.array([OUTPUTS[path.parent.name] for path in paths])


@pytest.mark.parametrize("engine", ["torch", "onnxruntime"])
def test_predictions_are_torchvisions(config: Config, engine: Any) -> None:  # noqa: ANN401 - one of the two
    config = replace(config, engine=engine)
    folder = own_head.pretrained(config)
    columns = pq.read_table(folder / sweep.PREDICTIONS).to_pydict()
    assert set(columns["head"]) == {"own"}
    for view in config.test_views:
        probabilities, labels = seen_by_torch(config, view)
        expected = sorted(
            (int(label), int(row.argmax()), float(row[label])) for row, label in zip(probabilities, labels, strict=True)
        )
        found = sorted(
            (label, predicted, probability)
            for name, label, predicted, probability in zip(
                columns["view"], columns["label"], columns["predicted"], columns["probability"], strict=True
            )
            if name == view.name
        )
        assert [row[:2] for row in found] == [row[:2] for row in expected]
        np.testing.assert_allclose([row[2] for row in found], [row[2] for row in expected], rtol=1e-3)


def test_metrics_are_those_of_torchvisions_network(config: Config) -> None:
    for view, found in zip(config.test_views, result_of(config)["views"], strict=True):
        probabilities, labels = seen_by_torch(config, view)
        rows = range(len(labels))
        right = probabilities.argmax(1) == labels
        of_label = probabilities[rows, labels]
        assert found["name"] == view.name
        assert found["correct"] == right.sum()
        assert found["accuracy"] == pytest.approx(right.mean())
        rank = (probabilities > of_label[:, None]).sum(1)
        assert found["top5_accuracy"] == pytest.approx((rank < 5).mean())
        assert found["nll"] == pytest.approx(-np.log(of_label).mean(), rel=1e-4)
        per_class = [right[labels == output].mean() for output in sorted(set(labels))]
        assert found["macro_accuracy"] == pytest.approx(np.mean(per_class))
        confidence = probabilities.max(1)
        gap = sum(
            abs((right - confidence)[(confidence > m / 15) & (confidence <= (m + 1) / 15)].sum()) for m in range(15)
        )
        assert found["ece"] == pytest.approx(gap / len(labels), rel=1e-4)


MADE_UP = (CLEAN, *(Blur("gaussian", float(s), border="reflect101", severity=True) for s in SEVERITIES))


def made_up(path: Path, predicted: dict[Blur, list[int]], labels: list[int], outputs: int = 1000) -> Path:
    """Predictions of one head that answers as told."""

    def logits(view: View, block: slice) -> np.ndarray:
        assert isinstance(view, Blur)
        return 20 * np.eye(outputs)[predicted[view]][None, block]

    sweep.write_predictions(
        path,
        ids=np.array([f"{i:03}".encode() for i in range(len(labels))]),
        groups=[f"{i:03}" for i in range(len(labels))],
        labels=np.array(labels, np.int64),
        views=list(predicted),
        heads=[own_head.OWN],
        logits=logits,
    )
    return path


def test_interval_of_an_accuracy_is_students(tmp_path: Path) -> None:
    path = made_up(tmp_path / "file.parquet", {CLEAN: [1, 1, 1, 2]}, [1, 1, 1, 1])
    (view,) = own_head.results(path, [CLEAN], THOUSAND, 64)["views"]
    # Mean 3/4, variance 1/4 over four images: the standard error is 1/4, with 3 degrees of freedom.
    assert view["accuracy"] == 0.75
    assert view["ci95"] == pytest.approx([max(0, 0.75 - 3.182446305284263 / 4), 1])


def test_confusions_are_counted() -> None:
    rng = np.random.default_rng(0)
    labels, given = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    names = ["ant", "bee", "cow", "dog"]
    found = own_head.confusions(labels, given, names)
    pairs: Counter[tuple[str, str]] = Counter()
    wrong: Counter[str] = Counter()
    for label, answer in zip(labels, given, strict=True):
        if label != answer:
            pairs[names[label], names[answer]] += 1
            wrong[names[answer]] += 1
    listed = {(row["true"], row["predicted"]): row["images"] for row in found["confusions"]}
    assert len(listed) == 10 <= len(pairs)
    assert all(pairs[pair] == count for pair, count in listed.items())
    assert list(listed.values()) == sorted(pairs.values(), reverse=True)[:10]
    assert {row["predicted"]: row["images"] for row in found["wrong_answers"]} == wrong


def test_equally_frequent_confusions_stand_in_the_order_of_the_outputs() -> None:
    labels, given = np.array([3, 2, 2, 1, 0]), np.array([1, 0, 1, 1, 1])
    found = own_head.confusions(labels, given, list("abcd"))
    assert [(row["true"], row["predicted"], row["images"]) for row in found["confusions"]] == [
        *(("a", "b", 1), ("c", "a", 1), ("c", "b", 1), ("d", "b", 1))
    ]
    assert [(row["predicted"], row["images"]) for row in found["wrong_answers"]] == [("b", 3), ("a", 1)]


# corruption errors


def test_corruption_errors_by_hand() -> None:
    found = mce.corruption_errors(0.25, {"defocus": [0.5, 0.6, 0.7, 0.8, 0.9], "zoom": [0.4, 0.4, 0.4, 0.4, 0.9]})
    # Sums 3.5 and 2.5; AlexNet's 5 * .819880 = 4.0994 and 5 * .798360 = 3.9918; its clean error is .43478.
    defocus, zoom = found["families"]["defocus"], found["families"]["zoom"]
    assert defocus["mean_error"] == pytest.approx(0.7)
    assert defocus["ce"] == pytest.approx(3.5 / 4.0994)
    assert zoom["ce"] == pytest.approx(2.5 / 3.9918)
    assert defocus["relative_ce"] == pytest.approx((3.5 - 1.25) / (4.0994 - 5 * 0.43478))
    assert zoom["relative_ce"] == pytest.approx((2.5 - 1.25) / (3.9918 - 5 * 0.43478))
    assert found["mce"] == pytest.approx((defocus["ce"] + zoom["ce"]) / 2)
    assert found["relative_mce"] == pytest.approx((defocus["relative_ce"] + zoom["relative_ce"]) / 2)


def test_alexnet_itself_has_corruption_errors_of_one() -> None:
    found = mce.corruption_errors(mce.ALEXNET_CLEAN, {family: [error] * 5 for family, error in mce.ALEXNET.items()})
    assert found["mce"] == pytest.approx(1)
    assert found["relative_mce"] == pytest.approx(1)


def test_alexnets_clean_error_is_that_of_torchvision() -> None:
    published = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["_metrics"]["ImageNet-1K"]["acc@1"]
    assert pytest.approx(1 - published / 100) == mce.ALEXNET_CLEAN


@pytest.mark.parametrize(
    ("grid", "families"),
    [
        (BlurGrid("gaussian", severity=(1, 2, 3, 4, 5)), ["gaussian"]),
        (BlurGrid("glass", severity=(5, 3, 1, 2, 4)), ["glass"]),
        (BlurGrid("gaussian", severity=(1, 2, 3, 5)), []),
        (BlurGrid("gaussian", (1.0, 2.0, 3.0, 4.0, 5.0)), []),
    ],
)
def test_only_all_five_severities_make_a_corruption_error(grid: BlurGrid, families: list[str]) -> None:
    assert mce.complete_families([CLEAN, *grid.blurs()]) == families


def test_corruption_errors_need_imagenets_classes_at_224_px(tmp_path: Path) -> None:
    labels = [3, 4, 5, 6]
    wrong = {view: [7] * view_number + labels[view_number:] for view_number, view in enumerate(MADE_UP[:5])}
    wrong[MADE_UP[5]] = [7] * 4
    path = made_up(tmp_path / "thousand.parquet", wrong, labels)
    found = own_head.results(path, MADE_UP, THOUSAND, 224)["corruption"]
    expected = mce.corruption_errors(0.0, {"gaussian": [0.25, 0.5, 0.75, 1.0, 1.0]})
    assert found == expected
    assert found["families"]["gaussian"]["ce"] == pytest.approx(3.5 / (5 * 0.787108))
    assert own_head.results(path, MADE_UP, THOUSAND, 160)["corruption"] is None
    assert own_head.results(path, MADE_UP[:5], THOUSAND, 224)["corruption"] is None
    few = made_up(tmp_path / "few.parquet", wrong, labels, outputs=52)
    assert own_head.results(few, MADE_UP, list(glyphs.LETTERS), 224)["corruption"] is None


# what is left behind, and what is shown


def test_a_finished_result_is_left_as_it_is(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_head.pretrained(config)
    assert folder == Path("runs/pretrained-six")
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}
    assert {path.name for path in before} == {
        *("config.yaml", "predictions.parquet", "pretrained.csv", "pretrained.json", "work.json", "accuracy.png")
    }
    capsys.readouterr()
    for same in (config, replace(config, copies=(), head=HeadConfig(folds=3)), replace(config, batch_size=2)):
        assert own_head.pretrained(same) == folder
    assert capsys.readouterr().err.count("runs/pretrained-six is finished already") == 3
    assert before == {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in before}


def test_a_finished_result_is_shown_without_torch(config: Config) -> None:
    own_head.pretrained(config)
    words = f"['pretrained', '--config', {str(Path('runs/pretrained-six/config.yaml').resolve())!r}]"
    statement = f"import os; os.chdir({str(Path.cwd())!r}); from blurtrain.cli import main; main({words})"
    program = f"import contextlib, io\nwith contextlib.redirect_stdout(io.StringIO()):\n    {statement}"
    assert modules_after(program, ("torch", "torchvision", "pytorch_lightning")) == []


def test_each_image_passes_the_network_once_in_each_view(config: Config) -> None:
    def passes(config: Config) -> dict[str, int]:
        work = json.loads((own_head.pretrained(config) / "work.json").read_text())
        counts: dict[str, int] = work["forward_passes"]
        return counts

    assert passes(config) == {"reused": 0, "computed": 18}
    assert passes(replace(config, name="again")) == {"reused": 18, "computed": 0}
    more = (BlurGrid("gaussian", (1.0, 2.0, 3.0)),)
    assert passes(replace(config, name="more", sweep=more)) == {"reused": 18, "computed": 6}


def test_the_same_config_gives_the_same_bytes(config: Config) -> None:
    folders = [own_head.pretrained(config), own_head.pretrained(replace(config, name="again", cache=Path("other")))]
    for name in ("predictions.parquet", "pretrained.csv", "figures/accuracy.png"):
        one, two = ((folder / name).read_bytes() for folder in folders)
        assert one == two


def test_other_files_under_a_finished_name_are_refused(config: Config, tmp_path: Path) -> None:
    folder = own_head.pretrained(config)
    shutil.copy(tmp_path / "photos/4/0.png", tmp_path / "photos/4/9.png")
    with pytest.raises(RunError, match=r"pretrained-six was made from other files \(images\): choose another name"):
        own_head.pretrained(config)
    (tmp_path / "photos/4/9.png").unlink()
    mapping = tmp_path / "mapping.csv"
    mapping.write_text("".join(f"{name},{output}\n" for name, output in OUTPUTS.items()))
    with pytest.raises(RunError, match=r"made from other files \(mapping\)"):
        own_head.pretrained(config, mapping)
    with pytest.raises(RunError, match=r"holds a run with another config \(sweep is "):
        own_head.pretrained(replace(config, sweep=(BlurGrid("gaussian", (5.0,)),)))
    assert own_head.pretrained(config) == folder


def test_a_damaged_result_is_refused(config: Config) -> None:
    path = own_head.pretrained(config) / "pretrained.json"
    path.write_text(path.read_text().replace('"correct": ', '"correct": 1'))
    with pytest.raises(RunError, match=r"pretrained.json cannot be used .* blurtrain pretrained --config"):
        own_head.pretrained(config)


def test_result_is_a_run_whose_files_have_checksums(config: Config) -> None:
    run = load_run(own_head.pretrained(config), own_head.RESULT, "pretrained")
    assert isinstance(run, Run)
    assert run.file(sweep.PREDICTIONS).is_file()
    assert run.result["backbone"]["outputs"] == 1000


def test_table_fits_a_terminal_and_has_the_numbers(tmp_path: Path) -> None:
    labels = list(range(40))
    predicted = {view: [(label + 500) % 1000 for label in labels] for view in MADE_UP}
    predicted[CLEAN] = [*labels[:-2], 900, 900]
    path = made_up(tmp_path / "file.parquet", predicted, labels)
    names = [f"{i} a name of {'very ' * 6}many letters" for i in range(1000)]
    found = own_head.results(path, MADE_UP, names, 224)
    text = answers.table({"network": NETWORK, "native_pixels_per_pixel": 4.5, **found})
    lines = text.splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "squeezenet1_1 with its own head: 40 images, 40 of its 1000 classes"
    assert next(line for line in lines if line.startswith("clean ")).split()[1] == "95.0"
    (mean,) = [line for line in lines if line.startswith("mean of 1 family")]
    assert float(mean.split()[4]) == pytest.approx(100 / 0.787108, abs=0.05)
    assert "900 a name" in text
    assert own_head.views_text({**found}).count("\n") == 1 + len(MADE_UP)


def test_picture_shows_every_curve(tmp_path: Path) -> None:
    views = (CLEAN, *MADE_UP[1:], Blur("gaussian", 2.0))
    path = made_up(tmp_path / "file.parquet", {view: [1, 2] for view in views}, [1, 3])
    result = {"network": NETWORK, **own_head.results(path, views, THOUSAND, 224)}
    answers.picture(tmp_path / "accuracy.png", result)
    with Image.open(tmp_path / "accuracy.png") as picture:
        assert picture.width > 2 * picture.height  # two panels side by side


# the command


def test_the_embedded_default_needs_no_options_but_a_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pretrained", "--data.glyphs.test", "468"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("glyphnet with its own head: 468 images in 9 groups, 52 of its 52 classes\n")
    assert "nothing is trained" in err
    result = own_head.read_pretrained(Path("runs/pretrained-glyphs-glyphnet"))
    accuracies = [view["accuracy"] for view in result["views"]]
    assert accuracies[0] > 0.8  # as at its pretraining, .895 on 5200 letters
    assert accuracies[-1] < 0.2
    assert result["corruption"] is None
    assert main(["pretrained", "--data.glyphs.test", "468"]) == 0
    assert capsys.readouterr().out == out


def test_skipped_images_are_counted_and_listed(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    (Path(config.data.root) / "4" / "0.png").write_bytes(b"no image")
    words = ["--data.root", config.data.root, "--backbone.name", NETWORK, "--backbone.weights", config.backbone.weights]
    words += ["--backbone.resize", "64", "--backbone.crop", "64", "--name", "six"]
    assert main(["pretrained", *words, "--on-bad-image", "skip"]) == 0
    assert "\nSkipped: 1 bad image, listed in runs/pretrained-six/pretrained.json\n" in capsys.readouterr().out
    assert list(own_head.read_pretrained(Path("runs/pretrained-six"))["skipped"]) == ["4/0.png"]


def test_what_cannot_be_done_is_refused_in_one_sentence(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    root, weights = config.data.root, config.backbone.weights
    network = ["--backbone.name", NETWORK, "--backbone.weights", weights]
    cases = {
        "cache must be a folder for pretrained": ["--cache", "false"],
        "data.root 'glyphs' shows letters, which squeezenet1_1 does not know": network,
        "mapping must be left out where data.root is 'glyphs'": ["--mapping", "file.csv"],
        "file.csv cannot be read": ["--data.root", root, *network, "--mapping", "file.csv"],
        "class folder '0008_n01514859_hen' stands for no output": ["--data.root", root],
        "--mapping has no value": ["--data.root", root, "--mapping", ""],
    }
    for sentence, words in cases.items():
        assert main(["pretrained", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith(f"blurtrain: error: {sentence}")
        assert err.count("\n") == 1
    assert not Path("runs").exists()


@pytest.mark.slow
def test_squeezenet_on_photographs_is_what_was_measured_before() -> None:
    weights = REAL_WEIGHTS / f"{NETWORK}.safetensors"
    if not (SAMPLE.is_dir() and weights.is_file()):
        pytest.skip("needs the photographs and weights of ../shared beside the repository")
    sigmas = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0)
    found = result_of(
        Config(
            data=DataConfig(root=str(SAMPLE)),
            backbone=BackboneConfig(name=NETWORK, weights=str(weights)),
            sweep=(BlurGrid("gaussian", sigmas),),
        )
    )
    accuracies = [100 * view["accuracy"] for view in found["views"]]
    assert accuracies == pytest.approx([67.2, 56.4, 34.4, 22.0, 13.2, 4.0, 2.0], abs=1.0)
    assert all(math.isfinite(view["nll"]) for view in found["views"])
