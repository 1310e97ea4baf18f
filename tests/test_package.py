"""The package itself: what an import costs, what is exported, and which module may import which."""

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import blurtrain
from tests import planted_bugs

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "blurtrain"
HEAVY = ("torch", "torchvision", "pytorch_lightning", "onnxruntime", "albumentations", "matplotlib")

# Ground floor first: a module imports only modules that stand before it, inside functions too.
LADDER = [
    *(
        "lean",
        "version",
        "errors",
        "trust",
        "views",
        "psf",
        "convolution",
        "imagenet_c",
        "kernels",
        "nearest_severity",
        "grids",
        "roots",
        "serialised",
        "sections",
        "config",
        "files",
        "chatter",
        "progress",
        "locks",
    ),
    *("cores", "memory"),
    *(
        "options",
        "parsers",
        "warps",
        "blur",
        "transforms",
        "pipelines",
        "copies",
        "metrics",
        "inference",
        "differences",
        "rows",
        "curvature",
        "lbfgs",
        "store",
    ),
    *("decoding", "glyphs", "folders", "sources", "folder_source", "listed", "manifests"),
    *("shard_index", "shards", "torchvision_sets", "hub_sets", "opening"),
    *("splits", "reduction", "reading", "images"),
    *(
        "glyphnet",
        "cutting",
        "weights",
        "origins",
        "timm_networks",
        "own_code",
        "own_networks",
        "backbones",
        "batchnorm",
    ),
    *("graph", "tracing", "lipschitz", "stages", "operators", "bounds", "decision", "commuting", "propagation"),
    *("engines", "trials", "catalogue", "features", "adaptation", "heads", "fitting"),
    *(
        "runs",
        "sweep",
        "scalars",
        "finished",
        "classifier",
        "batches",
        "minibatch",
        "tuning",
        "roster",
        "breakdown",
        "arms",
        "comparison",
        "tables",
        "report",
        "tensorboard",
        "loggers",
        "tested_images",
    ),
    *("class_folders", "mce", "answers", "own_head"),
    *("preparation", "training", "controls", "sensitivity", "choosing", "exhibits"),
    *("deployed", "sharpness", "predictions", "model_card", "exporting"),
    *("layer_tables", "layer_words", "layer_gaps", "layer_report", "layer_pictures"),
    *("anatomy", "dissection", "needs", "forecast"),
    *("page_answers", "board", "page_images", "page_figures", "page_words", "page_setup", "page_parts", "page"),
    *("experiment", "layers", "sheets", "previews", "pretrain", "serving"),
    *("lookalikes", "scanning", "findings", "checking", "check_report"),
    *("endings", "commands", "tools", "cli"),
]
OUTSIDE = ["__init__", "__main__"]  # names for users: they stand on top
MOST_LINES = 400


def imported_by(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import"
            if node.module == "blurtrain":
                yield from (alias.name for alias in node.names)
            elif (node.module or "").startswith("blurtrain."):
                yield (node.module or "").split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[1] for alias in node.names if alias.name.startswith("blurtrain."))


def modules_after(statement: str, watched: tuple[str, ...]) -> list[str]:
    """Which of the watched modules a fresh interpreter has after a statement."""
    program = f"import json, sys\n{statement}\nprint(json.dumps([m for m in {watched} if m in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    names: list[str] = json.loads(done.stdout)
    return names


def test_import_takes_no_heavy_library() -> None:
    assert modules_after("import blurtrain, blurtrain.cli", HEAVY) == []


def test_a_command_takes_no_signal_processing() -> None:
    statement = "from blurtrain.lean import put_off; put_off(); import blurtrain.training"
    assert modules_after(statement, ("torchmetrics", "scipy.signal.windows", "scipy.stats")) == ["torchmetrics"]


@pytest.mark.parametrize(
    "use",
    [
        "import scipy.signal; scipy.signal.convolve",
        "from scipy.signal import convolve",
        "from scipy import signal; signal.convolve",
        "import scipy.signal.windows; scipy.signal.windows.hann",
        "from scipy.signal.windows import hann",
    ],
)
def test_what_is_put_off_is_there_for_who_uses_it(use: str) -> None:
    assert modules_after(f"from blurtrain.lean import put_off; put_off(); {use}", ("scipy.signal.windows",))


def test_comparing_and_reporting_take_no_torch() -> None:
    statement = "import blurtrain.comparison, blurtrain.report, blurtrain.experiment"
    assert modules_after(statement, ("torch", "torchvision", "pytorch_lightning", "matplotlib")) == []


def test_exported_names_are_sorted_and_exist() -> None:
    assert blurtrain.__all__ == sorted(blurtrain.__all__)
    for name in blurtrain.__all__:
        assert getattr(blurtrain, name) is not None


def test_no_exported_name_is_that_of_a_module() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}  # which would take its place as soon as it is imported
    assert modules.isdisjoint(blurtrain.__all__)


def test_what_the_readme_imports_is_exported() -> None:
    code = "\n".join(re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL))
    names = [
        alias.name
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module == "blurtrain"
        for alias in node.names
    ]
    assert names
    assert set(names) <= set(blurtrain.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'blurtrain' has no attribute 'nonsense'"):
        getattr(blurtrain, "nonsense")  # noqa: B009 - the name is the point


def test_type_checkers_and_the_interpreter_see_the_same_names() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: (node.module or "").removeprefix("blurtrain.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == blurtrain._LAZY


def test_every_module_stands_on_the_ladder_once() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert len(set(LADDER)) == len(LADDER)
    assert files == {*LADDER, *OUTSIDE}


@pytest.mark.parametrize("module", LADDER)
def test_a_module_imports_only_what_stands_below_it(module: str) -> None:
    allowed = {*LADDER[: LADDER.index(module)], "embedded"}
    assert set(imported_by(PACKAGE / f"{module}.py")) <= allowed


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_no_module_is_too_long_to_be_one_idea(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


def make_targets() -> dict[str, str]:
    """Targets of the Makefile that say what they do."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z-]+):.*?## (.+)$", text, re.MULTILINE))


def test_make_targets_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    spans = "\n".join("".join(pair) for pair in re.findall(r"```[a-z]*\n(.*?)```|`([^`\n]+)`", text, re.DOTALL))
    named = set(re.findall(r"^make ([a-z-]+)", spans, re.MULTILINE))
    assert {"compare", "test"} <= named
    assert named <= set(make_targets())


def test_every_phony_target_has_a_help_text() -> None:
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(phony.split()) == set(make_targets())


def test_make_targets_call_commands_that_exist() -> None:
    from blurtrain.cli import COMMANDS

    called = re.findall(r"\$\(BIN\)/blurtrain ([a-z-]+)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert called
    assert set(called) <= set(COMMANDS)


def test_configs_of_the_arms_differ_in_copies_alone() -> None:
    import yaml

    from blurtrain.runs import config_from

    baseline, augmented = (
        config_from(yaml.safe_load((ROOT / "configs" / f"{arm}.yaml").read_text(encoding="utf-8")))
        for arm in ("baseline", "augmented")
    )
    assert augmented.baseline() == baseline
    assert augmented.copies


def test_version_is_a_version() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.?[a-z]+\d*)?", blurtrain.__version__)


def test_planted_bugs_still_fit_the_code() -> None:
    assert list(planted_bugs.misfits(planted_bugs.BUGS)) == []
