"""`blurtrain export` and `load`: every file answers as the run does, or is not written."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import blurtrain
from blurtrain import exporting, model_card
from blurtrain.backbones import Preprocessing
from blurtrain.classifier import BlurClassifier
from blurtrain.cli import main
from blurtrain.config import Config
from blurtrain.decoding import Geometry
from blurtrain.deployed import DeployedClassifier, load
from blurtrain.errors import BackboneError, ConfigError, DataError, RunError
from blurtrain.exporting import export
from blurtrain.predictions import Asked, predict
from blurtrain.runs import load_run

pytestmark = [
    pytest.mark.usefixtures("quiet"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch"),
]

ARMS = ["frozen", "adapt", "head+bn"]
DOCS = Path(__file__).parents[1] / "docs" / "using.md"


def pixels_of(drawn: Path, count: int = 40) -> np.ndarray:
    files = sorted(drawn.iterdir())[:count]
    return np.stack([np.asarray(Image.open(file).convert("RGB")).transpose(2, 0, 1) for file in files])


def oracle(run: Path, pixels: np.ndarray) -> np.ndarray:
    """Probabilities of the run's Lightning module."""
    with torch.inference_mode():
        probabilities = BlurClassifier.from_run(run).eval().predict_step(torch.from_numpy(pixels).float() / 255, 0)
    return np.asarray(probabilities.numpy())


def answers(file: Path, pixels: np.ndarray) -> np.ndarray:
    """What an exported file says, run as its users would."""
    if file.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, {"images": pixels})[0])
    if file.suffix == ".pt2":
        program: Callable[[Tensor], Tensor] = torch.export.load(file).module()
        return np.asarray(program(torch.from_numpy(pixels)).detach().numpy())
    return np.asarray(blurtrain.load(file)(torch.from_numpy(pixels)).numpy())


# the files


@pytest.mark.parametrize(
    ("kind", "arm"), [*(("onnx", arm) for arm in ARMS), ("safetensors", "adapt"), ("torch", "head+bn")]
)
def test_a_file_answers_as_the_run_does(
    kind: exporting.Format, arm: str, few_runs: dict[str, Path], drawn: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / f"classifier{exporting.SUFFIX[kind]}"
    made = export(few_runs[arm], kind, out)
    assert (made.file, made.images) == (out, 40)
    assert made.difference <= 1e-5
    assert {path.name for path in out.parent.iterdir()} == {out.name, "classifier-card.md"}
    pixels = pixels_of(drawn)
    for count in (40, 1, 3):  # any number of images
        np.testing.assert_allclose(answers(out, pixels[:count]), oracle(few_runs[arm], pixels[:count]), atol=1e-5)


def test_a_graph_says_what_it_is(few_runs: dict[str, Path], tmp_path: Path) -> None:
    made = export(few_runs["frozen"], "onnx", tmp_path / "x.onnx")
    model = onnx.load(made.file)
    onnx.checker.check_model(model, full_check=True)
    (given,), (result,) = model.graph.input, model.graph.output
    assert given.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_value or dim.dim_param for dim in given.type.tensor_type.shape.dim] == ["batch", 3, 64, 64]
    assert (given.name, result.name) == ("images", "probabilities")
    told = {prop.key: prop.value for prop in model.metadata_props}
    run = load_run(few_runs["frozen"])
    assert json.loads(told["classes"]) == run.classes
    rule = json.loads(told["preprocessing"])
    assert (rule["resize"], rule["crop"], rule["interpolation"]) == (64, 64, "BILINEAR")
    assert told["fingerprint"] == run.result["backbone"]["fingerprint"]
    assert json.loads(told["checked"]) == {"images": 40, "largest_difference": made.difference}


def test_weights_hold_no_code(few_runs: dict[str, Path], tmp_path: Path) -> None:
    file = export(few_runs["adapt"], "safetensors", tmp_path / "x.safetensors").file
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    told = json.loads(metadata["classifier"])
    assert metadata["format"] == "blurtrain-classifier-1"
    assert told["fingerprint"] == load_run(few_runs["adapt"]).result["backbone"]["adapted"]
    assert told["checked"]["images"] == 40


def test_the_example_of_the_docs_runs_without_torch(few_runs: dict[str, Path], drawn: Path, tmp_path: Path) -> None:
    export(few_runs["frozen"], "onnx", tmp_path / "classifier.onnx")
    odd = Image.open(drawn / "07.png").resize((90, 131))
    exif = Image.Exif()
    exif[0x0112] = 6  # it lies on its side
    odd.save(tmp_path / "photo.jpg", exif=exif)
    (example,) = re.findall(r"```python\n(import json\n.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(example.strip().splitlines()) <= 16
    blocker = (
        "import sys\n"
        "class Blocked:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.partition('.')[0] in ('torch', 'torchvision', 'blurtrain', 'cv2', 'scipy'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Blocked())\n"
    )
    program = f"{blocker}{example}\nassert 'torch' not in sys.modules\nprint(probabilities.tolist())"
    done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *_, found = done.stdout.splitlines()
    (row,) = predict(few_runs["frozen"], [tmp_path / "photo.jpg"], Asked(top=10))
    classes = load_run(few_runs["frozen"]).classes
    np.testing.assert_allclose(json.loads(found), [dict(row.top)[name] for name in classes], atol=1e-5)
    assert done.stdout.startswith(row.top[0][0])


# what is not written


@pytest.mark.parametrize("kind", ["onnx", "torch", "safetensors"])
def test_a_file_that_differs_is_not_written(
    kind: exporting.Format, few_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(classifier: DeployedClassifier, path: Path, _: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        path.write_bytes(b"something")
        return lambda images: classifier(torch.from_numpy(images)).numpy() + np.float32(2e-4)

    monkeypatch.setitem(exporting._WRITERS, kind, wrong)
    with pytest.raises(BackboneError, match=r"exported glyphnet differs by 2.0e-04 in a probability, more than 0.0001"):
        export(few_runs["frozen"], kind, tmp_path / f"x{exporting.SUFFIX[kind]}")
    assert not list(tmp_path.iterdir())


def test_answers_that_are_no_numbers_differ(few_runs: dict[str, Path]) -> None:
    classifier = load(few_runs["frozen"])
    some = np.zeros((2, 3, 64, 64), np.uint8)
    assert np.isnan(
        exporting.difference(lambda images: np.full((len(images), 10), np.nan, np.float32), classifier, some)
    )


def test_the_largest_difference_of_all_counts(few_runs: dict[str, Path], drawn: Path) -> None:
    classifier, pixels = load(few_runs["frozen"]), pixels_of(drawn, 23)
    wrong = classifier(torch.from_numpy(pixels)).numpy()
    wrong[17, 4] += np.float32(0.25)  # one probability of one image

    def answer(images: np.ndarray) -> np.ndarray:
        (start,) = (i for i in range(len(pixels)) if np.array_equal(pixels[i : i + len(images)], images))
        return np.asarray(wrong[start : start + len(images)])

    assert exporting.difference(answer, classifier, pixels) == pytest.approx(0.25, abs=1e-4)


def test_what_cannot_be_exported_says_so(
    few_runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise NotImplementedError("no operator for that\nand more")

    monkeypatch.setattr(exporting, "write_onnx", fails)
    with pytest.raises(BackboneError, match=r"glyphnet cannot be exported as onnx \(NotImplementedError: no operator"):
        export(few_runs["frozen"], "onnx", tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_wrong_words(few_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = few_runs["frozen"]
    with pytest.raises(ConfigError, match=r"out must end in .onnx for format onnx, got 'x.pt'"):
        export(run, "onnx", "x.pt")
    (tmp_path / "x.onnx").mkdir()
    with pytest.raises(ConfigError, match=r"out must be a file, and .*x.onnx is a folder"):
        export(run, "onnx", tmp_path / "x.onnx")
    shutil.copytree(run, tmp_path / "half")
    (tmp_path / "half" / "run.json").unlink()
    with pytest.raises(RunError, match="half is not finished: run blurtrain train --config"):
        export(tmp_path / "half", "onnx", tmp_path / "y.onnx")
    assert main(["export", str(run)]) == 2
    assert "out" in capsys.readouterr().err


def test_the_command(few_runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.safetensors"
    assert main(["export", str(few_runs["frozen"]), "--format", "safetensors", "--out", str(out)]) == 0
    assert capsys.readouterr().out == (
        "Found: the file differs from the run by at most 0.0e+00 in any probability of 40 test images\n"
        f"Files: {out} {tmp_path / 'x-card.md'}\nNext:  cat {tmp_path / 'x-card.md'}\n"
    )


# loading


@pytest.mark.parametrize("arm", ARMS)
def test_a_run_is_loaded_as_a_plain_module(arm: str, few_runs: dict[str, Path], drawn: Path) -> None:
    classifier = blurtrain.load(str(few_runs[arm]))
    pixels = pixels_of(drawn)
    assert classifier.classes == tuple("0123456789")
    assert not classifier.training
    assert not any(parameter.requires_grad for parameter in classifier.parameters())
    in_grey, in_unit = classifier(torch.from_numpy(pixels)), classifier(torch.from_numpy(pixels).float() / 255)
    np.testing.assert_allclose(in_grey.numpy(), oracle(few_runs[arm], pixels), atol=1e-6)
    torch.testing.assert_close(in_grey, in_unit)
    read = torch.stack([classifier.read(file) for file in sorted(drawn.iterdir())])
    np.testing.assert_array_equal(read.numpy(), pixels)
    with pytest.raises(DataError, match=r"nowhere.png cannot be read"):
        classifier.read("nowhere.png")


def test_other_preprocessing_is_kept(few: Config, tmp_path: Path) -> None:
    backbone = replace(few.backbone, mean=(0.4, 0.5, 0.6), crop=56)
    run = blurtrain.train(replace(few, backbone=backbone, runs=tmp_path / "runs", cache=tmp_path / "cache"))
    file = export(run, "safetensors", tmp_path / "x.safetensors").file
    expected = Preprocessing(Geometry(64, 56), (0.4, 0.5, 0.6), load(run).preprocessing.std)
    assert load(file).preprocessing == load(run).preprocessing == expected


def test_a_changed_file_is_refused(few_runs: dict[str, Path], tmp_path: Path) -> None:
    file = export(few_runs["frozen"], "safetensors", tmp_path / "x.safetensors").file
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    key = next(key for key in tensors if key.startswith("network.") and key.endswith("weight"))
    tensors[key] = tensors[key] + 1
    save_file(tensors, tmp_path / "changed.safetensors", metadata)
    with pytest.raises(RunError, match=r"changed.safetensors is not what was written"):
        load(tmp_path / "changed.safetensors")
    save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(RunError, match=r"other.safetensors is no classifier: give a run, or a file of"):
        load(tmp_path / "other.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(file.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"cut.safetensors cannot be read as a classifier \(SafetensorError\)"):
        load(tmp_path / "cut.safetensors")
    with pytest.raises(RunError, match=r"nowhere does not exist: give the folder of a run"):
        load(tmp_path / "nowhere")


# the card


def test_a_card_tells_the_numbers_of_the_run(few_runs: dict[str, Path], tmp_path: Path) -> None:
    made = export(few_runs["adapt"], "safetensors", tmp_path / "x.safetensors")
    text = made.card.read_text(encoding="utf-8")
    run = load_run(few_runs["adapt"])
    for row in json.loads(run.file("sweep.json").read_text(encoding="utf-8")):
        assert f"| {row['view']} | {100 * row['accuracy_refit']:.1f} | " in text
    assert "60 training, 0 validation and 40 test images." in text
    assert run.result["backbone"]["adapted"] in text
    assert "batch-norm statistics" in text
    assert "Licence: *to be filled in" in text


def test_files_in_one_folder_have_cards_of_their_own(few_runs: dict[str, Path], tmp_path: Path) -> None:
    one, other = (
        export(few_runs["frozen"], "safetensors", tmp_path / f"{name}.safetensors") for name in ("a.1", "a.2")
    )
    assert [made.card.name for made in (one, other)] == ["a.1-card.md", "a.2-card.md"]
    for made in (one, other):
        assert f"{made.file.name}" in made.card.read_text(encoding="utf-8")


def test_names_are_but_text_in_a_card() -> None:
    assert model_card._text("a|b <script> *x*\n# [y](z)") == r"a\|b &lt;script&gt; \*x\* \# \[y\](z)"


def test_an_edited_card_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = tmp_path / "model-card.md"
    model_card.write(card, "first\n")
    model_card.write(card, "second\n")
    assert card.read_text().startswith("second\n")
    card.write_text(card.read_text().replace("second", "third"))
    model_card.write(card, "fourth\n")
    assert card.read_text().startswith("third\n")
    assert capsys.readouterr().err.startswith(f"note: {card} is not what was written there, so it stays as it is")
