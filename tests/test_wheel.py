"""What is installed: a wheel that needs nothing of the checkout, and dependencies pinned by version and hash."""

import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
TEMPLATES = {"report.html.j2", "report.css.j2", "report.js.j2"}
EMBEDDED = {"__init__.py", "glyphnet.safetensors", "glyphnet.json", "imagenet_wnids.txt", "LICENSE-FONTS"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NEEDED = [*PROJECT["build-system"]["requires"], *PROJECT["project"]["dependencies"]]
NEEDED_TO_WORK = [*NEEDED, *PROJECT["project"]["optional-dependencies"]["dev"]]
NEEDED_TO_COMPARE = [*NEEDED_TO_WORK, *PROJECT["project"]["optional-dependencies"]["bench"]]


def run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, made from a copy: an old egg-info in the checkout would add files that it knew."""
    checkout = tmp_path_factory.mktemp("checkout")
    for folder in ("blurtrain", "tests", "benchmarks", "configs", "docs"):
        shutil.copytree(ROOT / folder, checkout / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, checkout)
    # As every build tool calls it, with the setuptools that the lock pins.
    run(sys.executable, "-c", "from setuptools import build_meta; build_meta.build_sdist('dist')", cwd=checkout)
    (made,) = (checkout / "dist").iterdir()
    return made


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from nothing but the source distribution."""
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, "-m", "pip", "wheel", *options, sdist, cwd=folder)
    (made,) = folder.iterdir()
    return made


@pytest.mark.slow
def test_sdist_holds_the_package_and_what_builds_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {path.split("/", 1)[1] for path in archive.getnames() if "/" in path}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    tops = {name.split("/")[0] for name in names}
    assert not tops & {"tests", "benchmarks", "configs", "docs"}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "blurtrain").rglob("*.py")}
    assert {name for name in names if name.startswith("blurtrain/") and name.endswith(".py")} == modules


@pytest.mark.slow
def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {name for name in names if name.startswith("blurtrain/")}
    modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / "blurtrain").glob("*.py")}
    data = [("embedded", name) for name in EMBEDDED] + [("templates", name) for name in TEMPLATES]
    assert package == {*modules, "blurtrain/py.typed", *(f"blurtrain/{folder}/{name}" for folder, name in data)}
    (metadata,) = {name.split("/")[0] for name in names - package}
    assert metadata.endswith(".dist-info")
    licences = {f"{metadata}/licenses/LICENSE", f"{metadata}/licenses/blurtrain/embedded/LICENSE-FONTS"}
    assert licences <= names


@pytest.mark.slow
def test_wheel_compares_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    fresh = tmp_path / "venv"
    venv.create(fresh, symlinks=True)
    python = fresh / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--no-index", "--no-deps", wheel, cwd=tmp_path)
    # Installing torch again would take minutes, so the fresh interpreter also looks where the running one has it. A
    # folder named in a .pth file comes after the interpreter's own, and .pth files in it are not read: not that of an
    # editable blurtrain either. It is named after the installation, or pip would find blurtrain there.
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')", cwd=tmp_path))
    seen = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (site / "dependencies.pth").write_text("\n".join(seen), encoding="utf-8")

    empty = tmp_path / "empty"
    empty.mkdir()
    imported = run(python, "-c", "import blurtrain.cli; print(blurtrain.cli.__file__, end='')", cwd=empty)
    assert imported == str(site / "blurtrain" / "cli.py")
    command = ("compare", "--data.glyphs.train", "200", "--data.glyphs.test", "90")
    assert "Accuracy in %" in run(fresh / "bin" / "blurtrain", *command, cwd=empty)
    assert (empty / "runs" / "compare-glyphs-glyphnet" / "comparison.json").exists()
    assert (empty / "runs" / "compare-glyphs-glyphnet" / "report.html").exists()


def pinned(lock: str) -> set[tuple[str, str]]:
    """Name and version of each package that a lock file pins with hashes; two of a name where Pythons need two."""
    text = (ROOT / lock).read_text(encoding="utf-8")
    entries = re.findall(r"^([\w.-]+)==(\S+)(?: ; .+)?(?: \\\n +--hash=sha256:[0-9a-f]{64})+\n", text, re.MULTILINE)
    return {(canonicalize_name(name), version) for name, version in entries}


@pytest.mark.parametrize(
    ("lock", "needed"),
    [
        ("requirements.lock", NEEDED),
        ("requirements-dev.lock", NEEDED_TO_WORK),
        ("requirements-bench.lock", NEEDED_TO_COMPARE),
    ],
)
def test_lock_pins_what_pyproject_needs(lock: str, needed: list[str]) -> None:
    for requirement in map(Requirement, needed):
        versions = {version for name, version in pinned(lock) if name == canonicalize_name(requirement.name)}
        assert versions, requirement
        assert set(requirement.specifier.filter(versions, prereleases=True)) == versions, requirement


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock", "requirements-bench.lock"])
def test_lock_holds_pins_with_hashes_alone(lock: str) -> None:
    """No address or folder: where packages come from is for each machine to say."""
    lines = (ROOT / lock).read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if not line.startswith(" ")]) == len(pinned(lock))
    assert not [line for line in lines if re.search(r"https?:|file:|@ |index-url|find-links|-c /", line)]


def test_locks_agree() -> None:
    assert pinned("requirements.lock") <= pinned("requirements-dev.lock")
    assert pinned("requirements-dev.lock") <= pinned("requirements-bench.lock")
