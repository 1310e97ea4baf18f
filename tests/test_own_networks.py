"""Networks from a function of the user's own: run only where he has named it, and Lightning checkpoints of them."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blurtrain import backbones, trust
from blurtrain.classifier import BlurClassifier
from blurtrain.cli import main
from blurtrain.config import BackboneConfig
from blurtrain.errors import BackboneError
from blurtrain.predictions import predict
from tests.conftest import EMBEDDED, fill_classes, smooth_pictures

CODE = """
from pathlib import Path
import torch
from torch import nn

Path("was_run").touch()
NUMBER = 3

class Net(nn.Module):
    def __init__(self, slope=0.1):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.LeakyReLU(slope))
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))

def build():
    return Net()

def steep():
    return Net(0.3)

def no_pooling():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1))

def maps():
    return nn.Conv2d(3, 4, 3)

def attends():
    return nn.Sequential(Net(), nn.MultiheadAttention(8, 2))

class Hidden(Net):
    def forward(self, x):
        x = self.body(x).flatten(2)
        return self.fc(nn.functional.scaled_dot_product_attention(x, x, x).mean(2))

class Pair(Net):
    def forward(self, x):
        return super().forward(x), x

class Two(Net):
    def forward(self, x, y):
        return x

def unweighted():
    return nn.Flatten()

def fails():
    raise KeyError("no such thing. And more")

def leaves():
    raise SystemExit(3)

def wants(argument):
    return Net()

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working folder with a module of networks, `mine.nets`, of which none is allowed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(trust, "_allowed", set())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "nets.py").write_text(CODE)
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] in ("mine", "broken")]:
        del sys.modules[name]


def load(name: str, **values: Any) -> backbones.FrozenBackbone:  # noqa: ANN401 - any of the config
    backbones.allow(name)
    return backbones.load(BackboneConfig(name=name, **{"weights": "none", "crop": 32, **values}))


def message(name: str, **values: Any) -> str:  # noqa: ANN401 - any of the config
    with pytest.raises(BackboneError) as caught:
        load(name, **values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Who may run code

REFUSED = (
    "backbone.name 'mine.nets:build' is code, which no file may start: name it on the command line as well, with "
    "--backbone.name mine.nets:build, or in Python with blurtrain.backbones.allow('mine.nets:build')"
)
BACKBONE = "backbone: {name: 'mine.nets:build', weights: none, crop: 32}\n"
SMALL = (
    *("--data.root", "photos", "--copies", "[{strengths: [1]}]", "--sweep", "[{strengths: [0, 2]}]"),
    *("--head.folds", "2", "--head.l2", "[0.1, 1]", "--engine", "torch"),
)
NAMED = ("--backbone.name", "mine.nets:build", "--backbone.weights", "none", "--backbone.crop", "32")


@pytest.fixture
def photos(folder: Path) -> Path:
    """The same folder with images."""
    fill_classes(folder / "photos" / "train", 6)
    fill_classes(folder / "photos" / "test", 3, first_seed=100)
    return folder


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command ends in the sentence, and the module was not even imported."""
    capsys.readouterr()
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"blurtrain: error: {REFUSED}"
    assert not Path("was_run").exists()
    assert "mine.nets" not in sys.modules


@pytest.mark.parametrize(
    "command",
    [
        ["train"],
        ["compare"],
        ["preview"],
        ["evidence"],
        ["recommend"],
        ["layers", "--own_head"],
        ["train", "--dry_run"],
    ],
)
def test_a_config_file_starts_no_code(command: list[str], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "c.yaml").write_text(BACKBONE)
    refused([*command, "--config", "c.yaml", "--data.root", "photos"], capsys)


@pytest.mark.parametrize(
    "words",
    [
        ["--backbone", "{name: 'mine.nets:build', weights: none}"],  # may have been pasted with all the rest
        ["--config", "c.yaml", "--backbone.name", "mine.nets:steep", "--config", "c.yaml"],  # another one was named
    ],
)
def test_only_the_option_itself_names_it(words: list[str], photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "c.yaml").write_text(BACKBONE)
    refused(["preview", "--data.root", "photos", *words], capsys)


@pytest.mark.parametrize("form", ["--backbone.name=mine.nets:build", "--backbone.name mine.nets:build"])
def test_the_command_line_does(form: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "c.yaml").write_text(BACKBONE)
    assert main(["preview", "--config", "c.yaml", "--data.root", "photos", *form.split(" ")]) == 0
    assert Path("was_run").exists()
    said = capsys.readouterr().err
    assert "warning: the weights of mine.nets:build are those that it comes with, random ones unless it sets" in said
    assert "ImageNet's mean, ImageNet's std, resize 37 assumed; backbone.mean, std, resize and crop change it" in said


def test_python_does_with_allow(folder: Path) -> None:
    config = BackboneConfig(name="mine.nets:build", weights="none", crop=32)
    with pytest.raises(BackboneError) as caught:
        backbones.load(config)
    assert str(caught.value) == REFUSED
    assert not (folder / "was_run").exists()
    backbones.allow("mine.nets:build")
    assert backbones.load(config).features == 8


@pytest.mark.usefixtures("quiet")
def test_a_run_is_used_again_by_who_names_it_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *SMALL, *NAMED]) == 0
    runs = [photos / "runs" / f"photos-mine.nets-build-{arm}" for arm in ("baseline", "augmented")]
    (photos / "was_run").unlink()
    forget()
    assert main(["compare", *map(str, runs)]) == 0  # tables of predictions need no network
    for words in (["preview"], ["layers", "--images", "2"]):
        refused([*words, "--config", str(runs[1] / "config.yaml")], capsys)
    with pytest.raises(BackboneError, match="is code, which no file may start"):
        BlurClassifier.from_run(runs[1])
    assert not (photos / "was_run").exists()

    again = ["--config", str(runs[1] / "config.yaml"), "--backbone.name", "mine.nets:build"]
    assert main(["preview", *again]) == 0
    assert main(["layers", *again, "--images", "2", "--blurs", "[{strengths: [1]}]"]) == 0
    assert BlurClassifier.from_run(runs[1]).head.weight.shape == (3, 8)
    assert json.loads((runs[1] / "run.json").read_text())["backbone"]["name"] == "mine.nets:build"


@pytest.mark.usefixtures("quiet")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")
@pytest.mark.filterwarnings("ignore::FutureWarning:torch")
def test_predict_and_export_take_the_name_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *SMALL, *NAMED]) == 0
    run = "runs/photos-mine.nets-build-augmented"
    commands = (["predict", run, "photos/test"], ["export", run, "--out", "mine.onnx"])
    for words in commands:
        (photos / "was_run").unlink(missing_ok=True)
        forget()
        refused(words, capsys)
        assert main([*words, "--backbone.name", "mine.nets:steep"]) == 2
        assert capsys.readouterr().err == (
            "blurtrain: error: --backbone.name must be 'mine.nets:build', the network of "
            "runs/photos-mine.nets-build-augmented, got 'mine.nets:steep'\n"
        )
        assert not Path("was_run").exists()
        assert main([*words, "--backbone.name", "mine.nets:build"]) == 0
        assert Path("was_run").exists()
    classifier = BlurClassifier.from_run(run).eval()
    paths = sorted(Path("photos/test").rglob("*.*g"))
    rows = list(predict(run, ["photos/test"]))
    assert [row.path for row in rows] == [str(path) for path in paths]
    session = onnxruntime.InferenceSession("mine.onnx", providers=["CPUExecutionProvider"])
    for path, row in zip(paths, rows, strict=True):
        with Image.open(path) as image:
            pixels = classifier.backbone.preprocessing.geometry.apply(image.convert("RGB"))
        expected = classifier.predict_step(torch.from_numpy(pixels)[None].float() / 255, 0).detach().numpy()
        assert row.top[0][1] == pytest.approx(float(expected.max()), abs=1e-5)
        assert row.top[0][0] == ("blue", "green", "red")[int(expected.argmax())]
        np.testing.assert_allclose(session.run(None, {"images": pixels[None]})[0], expected, atol=1e-5)


def forget() -> None:
    """As in a new process."""
    trust._allowed.clear()
    del sys.modules["mine.nets"]


def test_a_checkpoint_names_no_network(folder: Path) -> None:
    state = load("mine.nets:build").network.state_dict()
    contents = {"state_dict": state, "hyper_parameters": {"backbone": {"name": "mine.nets:steep"}}}
    torch.save(contents, folder / "a.ckpt")
    assert load("mine.nets:build", weights="a.ckpt").name == "mine.nets:build"
    assert trust._allowed == {"mine.nets:build"}


# What it gives


def test_features_are_those_of_the_users_own_network(folder: Path) -> None:
    backbone = load("mine.nets:build")
    body = sys.modules["mine.nets"].build().body.eval()
    body.load_state_dict({key.removeprefix("body."): value for key, value in backbone.network.state_dict().items()})
    images = smooth_pictures(2, 32)
    with torch.no_grad():
        expected = body((images - backbone.mean) / backbone.std).mean((2, 3))
        torch.testing.assert_close(backbone(images), expected)
    assert str(folder) in sys.path  # for what it imports later
    assert sys.path[0] != str(folder)


def test_weights_without_a_file_are_the_same_every_time(folder: Path) -> None:
    torch.manual_seed(1)
    first = load("mine.nets:build").fingerprint()
    torch.manual_seed(2)
    assert load("mine.nets:build").fingerprint() == first
    assert (folder / "was_run").exists()


@pytest.mark.usefixtures("folder")
def test_a_file_of_weights_is_used(tmp_path: Path) -> None:
    backbones.allow("mine.nets:build")
    load("mine.nets:build")
    state = sys.modules["mine.nets"].build().state_dict()
    save_file(state, tmp_path / "a.safetensors")
    loaded = load("mine.nets:build", weights="a.safetensors").network.state_dict()
    assert loaded.keys() == {key for key in state if not key.startswith("fc.")}
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


@pytest.mark.usefixtures("folder")
def test_settings_that_are_no_weights_tell_networks_apart() -> None:
    flat, steep = load("mine.nets:build"), load("mine.nets:steep")
    steep.name = flat.name
    assert all(torch.equal(a, b) for a, b in zip(flat.network.parameters(), steep.network.parameters(), strict=True))
    assert flat.fingerprint() != steep.fingerprint()


def test_other_code_is_another_network(folder: Path) -> None:
    first = load("mine.nets:build").fingerprint()
    forget()
    (folder / "mine" / "nets.py").write_text(CODE.replace(".mean((2, 3))", ".amax((2, 3))"))
    assert load("mine.nets:build").fingerprint() != first


@pytest.mark.usefixtures("folder")
def test_preprocessing_is_imagenets_unless_given(capsys: pytest.CaptureFixture[str]) -> None:
    own = load("mine.nets:build", crop=None).preprocessing
    assert (own.geometry.resize, own.geometry.crop) == (256, 224)
    assert (own.mean, own.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "ImageNet's mean, ImageNet's std, resize 256, crop 224 px assumed" in capsys.readouterr().err
    half = (0.5, 0.5, 0.5)
    own = load("mine.nets:build", mean=half, std=half, resize=40, crop=32).preprocessing
    assert (own.geometry.resize, own.geometry.crop, own.mean, own.std) == (40, 32, half, half)
    assert "assumed" not in capsys.readouterr().err


# What is refused


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("absent:build", "backbone.name 'absent:build': there is no module absent, neither installed nor in "),
        ("mine.absent:build", "backbone.name 'mine.absent:build': there is no module mine.absent, neither"),
        ("mine.nets:absent", "nets.py has no absent: give MODULE:FUNCTION"),
        ("mine.nets:NUMBER", "nets.py has a NUMBER that is no function: give MODULE:FUNCTION"),
        ("mine.nets:fails", "backbone.name 'mine.nets:fails' fails when it is called (KeyError: 'no such thing)"),
        ("mine.nets:leaves", "backbone.name 'mine.nets:leaves' fails when it is called (SystemExit: 3)"),
        ("mine.nets:wants", "(TypeError: wants() missing 1 required positional argument: 'argument')"),
        ("mine.nets:number", "backbone.name 'mine.nets:number' gives int, not a torch.nn.Module"),
        (
            "mine.nets:no_pooling",
            "mine.nets:no_pooling without its last layer gives shape (1, 3600), not the layer's 4",
        ),
        ("mine.nets:maps", "mine.nets:maps ends in Conv2d: only a linear layer or pooled 1 x 1 convolution can be cut"),
        ("mine.nets:attends", "mine.nets:attends is an attention network (MultiheadAttention), not a convolutional"),
        ("mine.nets:Hidden", "mine.nets:Hidden is an attention network (scaled_dot_product_attention), not a"),
        ("mine.nets:Pair", "the network gives tuple, not a tensor of one value a class"),
        ("mine.nets:Two", "mine.nets:Two cannot run (TypeError: "),
        ("mine.nets:unweighted", "mine.nets:unweighted has no layer with weights that runs"),
        ("broken:build", "backbone.name 'broken:build': broken cannot be imported (SyntaxError: "),
        ("needing.it:build", "backbone.name 'needing.it:build': needing.it needs nothing_of_this_name, which is not"),
    ],
)
def test_function_that_gives_no_usable_network_is_refused(name: str, expected: str) -> None:
    Path("broken.py").write_text("def build(:\n")
    Path("needing").mkdir()
    Path("needing/it.py").write_text("import nothing_of_this_name\n")
    assert expected in message(name)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    "name", ["mine/nets.py:build", "mine.nets:", ":build", "mine.nets:build()", "a:b:c", "timm:b:c"]
)
def test_what_is_no_name_of_a_function_is_not_known(name: str) -> None:
    assert message(name).startswith(f"backbone.name {name!r} is not known: ")


@pytest.mark.usefixtures("folder")
def test_weights_and_outputs_that_nobody_knows_are_refused() -> None:
    text = message("mine.nets:build", weights="embedded")
    assert text.startswith("backbone.weights 'embedded' is not known for mine.nets:build: give a file ending in ")
    assert message("mine.nets:build", sha256="0" * 64).startswith("backbone.sha256 is for local files")
    with pytest.raises(BackboneError, match="nobody says what the outputs of mine"):
        backbones.outputs("mine.nets:build")


# Lightning checkpoints


@pytest.fixture
def glyphnet_state() -> dict[str, Tensor]:
    return load_file(EMBEDDED)


def checkpoint(path: Path, state: dict[str, Tensor], **others: object) -> BackboneConfig:
    torch.save({"epoch": 3, "pytorch-lightning_version": "2.6.6", "state_dict": state, **others}, path)
    return BackboneConfig(weights=str(path))


@pytest.mark.parametrize("prefix", ["", "model.", "backbone.net.", "model._orig_mod."])
@pytest.mark.parametrize("others", [{}, {"loss.weight": torch.ones(3), "model_ema.decay": torch.ones(1)}])
def test_the_one_prefix_that_fits_is_stripped(
    prefix: str,
    others: dict[str, Tensor],
    glyphnet_state: dict[str, Tensor],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = {f"{prefix}{key}": tensor for key, tensor in glyphnet_state.items()} | (others if prefix else {})
    config = checkpoint(tmp_path / "a.ckpt", state, hyper_parameters={"lr": 0.1}, optimizer_states=[{"state": {}}])
    expected = backbones.load(BackboneConfig()).fingerprint()
    assert backbones.load(config).fingerprint() == expected
    assert (f"the network is what lies below {prefix!r}; nothing else is taken" in capsys.readouterr().err) == bool(
        prefix
    )
    whole = backbones.load_whole(config)  # with its own head
    assert whole.fingerprint() == backbones.load_whole(BackboneConfig()).fingerprint()


def test_two_networks_in_a_checkpoint_are_refused(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {f"{prefix}.{key}": tensor for prefix in ("net", "ema") for key, tensor in glyphnet_state.items()}
    with pytest.raises(BackboneError) as caught:
        backbones.load(checkpoint(tmp_path / "a.ckpt", state))
    assert "holds the network more than once, below 'net.' and 'ema.': save the state_dict of one" in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    state = {f"net.{key}": tensor for key, tensor in glyphnet_state.items() if key != "bn.bias"}
    with pytest.raises(BackboneError, match=r"a\.ckpt does not fit glyphnet: it lacks"):
        backbones.load(checkpoint(tmp_path / "a.ckpt", state))


class Payload:
    """Makes a file as soon as it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._target,))


@pytest.mark.parametrize("place", ["hyper_parameters", "callbacks", "state_dict"])
def test_a_checkpoint_that_needs_code_is_refused(place: str, glyphnet_state: dict[str, Tensor], tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    with pytest.raises(BackboneError) as caught:
        backbones.load(checkpoint(tmp_path / "a.ckpt", glyphnet_state, **{place: {"it": Payload(victim)}}))
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'a.ckpt'} holds objects (")
    assert text.endswith("and its code is never run: save a state_dict, best as .safetensors")
    assert not victim.exists()
    torch.load(tmp_path / "a.ckpt", weights_only=False)
    assert victim.exists()  # the payload does work, so the test could fail


def test_torchvisions_networks_take_checkpoints(tmp_path: Path) -> None:
    network: nn.Module = backbones.architecture("shufflenet_v2_x0_5")()
    torch.save({"state_dict": {f"model.{key}": t for key, t in network.state_dict().items()}}, tmp_path / "a.ckpt")
    config = BackboneConfig(name="shufflenet_v2_x0_5", weights=str(tmp_path / "a.ckpt"), crop=64)
    loaded = backbones.load(config).network.state_dict()
    assert all(torch.equal(loaded[key], network.state_dict()[key]) for key in loaded)


# What the page of backbones says


PAGE = (Path(__file__).parents[1] / "docs" / "backbones.md").read_text(encoding="utf-8")


def example(beginning: str) -> str:
    """The code that begins so."""
    (code,) = (code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if code.startswith(beginning))
    return str(code)


def test_the_pages_examples_work(folder: Path) -> None:
    (folder / "mine" / "nets.py").write_text(example("# mymodels/nets.py"))
    backbone = load("mine.nets:build", crop=96)
    assert backbone.features == 32
    state = sys.modules["mine.nets"].build().state_dict()
    contents = {"state_dict": {f"model.{key}": tensor for key, tensor in state.items()}, "epoch": 3}
    torch.save({**contents, "hyper_parameters": {"root": Path("data")}}, "last.ckpt")
    assert "last.ckpt holds objects (pathlib." in message("mine.nets:build", weights="last.ckpt")
    exec(compile(example("import safetensors.torch"), "page", "exec"), {})
    torch.save(contents, "last.ckpt")
    prints = {load("mine.nets:build", weights=file).fingerprint() for file in ("last.ckpt", "mine.safetensors")}
    assert len(prints) == 1


def test_the_page_has_the_sentence_of_the_refusal() -> None:
    assert REFUSED.replace("mine.nets", "mymodels.nets") in PAGE
