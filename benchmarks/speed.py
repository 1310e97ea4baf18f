"""How long a comparison takes beside its peers: `make bench`, pages in results/.

Ratios within one run on one machine, never bare seconds from another. Whole processes, imports included, both arms and
the same seven views:

1. the plain Lightning recipe, one head an arm, ten epochs (`plain_lightning.py`);
2. the same in channels-last layout with features kept in memory (`--cached`);
3. scikit-learn's logistic regression on eagerly extracted features (`logistic_regression.py`);
4. blurtrain with five folds and a refit, nothing stored;
5. blurtrain, a new run with all features stored; and the finished comparison shown again;
6. the limit: bare decoding, engine and blur on arrays in memory, without anything else (`limit.py`).

With --root on photographs, ROOT/train/CLASS and ROOT/test/CLASS; else on drawn ones. Networks have random weights,
which change no time, where --weights NAME=FILE gives none. Then the other pages, unless --only says otherwise.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import limit
from drawn import fill
from timing import PYTHON, process, ratio, seconds, spread, table, write

HERE = Path(__file__).parent
PLAIN_EPOCHS = 10
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "onnxruntime", "scikit-learn", "pillow")


@dataclass
class Peers:
    """Seconds of whole processes on one set of images with one backbone.

    Args:
        name: Of the backbone.
        options: Of every script: --root, --name, --weights and so on.
        words: The same for blurtrain.
        epochs: That the plain recipe really runs; the time of ten is then scaled up.
    """

    name: str
    options: list[str]
    words: list[str]
    epochs: int
    plain: list[float] = field(default_factory=list)
    cached: list[float] = field(default_factory=list)
    logistic: list[float] = field(default_factory=list)
    cold: list[float] = field(default_factory=list)
    warm: list[float] = field(default_factory=list)
    again: list[float] = field(default_factory=list)

    def recipe(self, *more: str, epochs: int) -> float:
        """Seconds of a plain recipe with ten epochs."""
        command = [PYTHON, str(HERE / "plain_lightning.py"), *self.options, "--epochs", str(epochs), *more]
        taken, output = process(command, HERE)
        done = json.loads(output.strip().splitlines()[-1])
        left = PLAIN_EPOCHS - epochs
        return taken + left * sum(statistics.mean(epoch) for epoch in done["epochs"].values())

    def blurtrain(self) -> None:
        """A comparison in an empty folder, another one of the same features, and the first one again."""
        with tempfile.TemporaryDirectory() as folder:
            command = [PYTHON, "-m", "blurtrain", "compare", *self.words]
            self.cold.append(process(command, Path(folder))[0])
            self.warm.append(process([*command, "--name", "again"], Path(folder))[0])
            self.again.append(process(command, Path(folder))[0])

    def round(self, plain: bool, peers: bool) -> None:
        """Everything once, one after the other."""
        if plain:
            self.plain.append(self.recipe(epochs=self.epochs))
        if peers:
            self.cached.append(self.recipe("--cached", epochs=PLAIN_EPOCHS))
            taken, _ = process([PYTHON, str(HERE / "logistic_regression.py"), *self.options], HERE)
            self.logistic.append(taken)
        self.blurtrain()

    def rows(self, bare: float) -> list[list[str]]:
        """Lines of the table."""
        scaled = f", {self.epochs} of {PLAIN_EPOCHS} epochs timed and scaled" if self.epochs < PLAIN_EPOCHS else ""
        ways = {
            f"(1) plain Lightning, 1 head{scaled}": self.plain,
            "(2) channels last, features in memory, 1 head": self.cached,
            "(3) scikit-learn on eager features, 5 folds": self.logistic,
            "(4) blurtrain, 5 folds and refit, nothing stored": self.cold,
            "(5) blurtrain, a new run of stored features": self.warm,
            "(5) blurtrain, the finished comparison again": self.again,
            "(6) the limit: bare decoding, engine and blur": [bare],
        }
        return [
            [self.name, what, spread(values), ratio(self.plain, values), ratio(self.cached, values)]
            for what, values in ways.items()
            if values
        ]


def bare_seconds(peers: Peers, root: Path) -> float:
    """Decoding of all files, and engine and blur of every (image, view) that a comparison needs."""
    command = [PYTHON, str(HERE / "limit.py"), *peers.options, "--json", "--repeats", "2"]
    _, output = process(command, HERE)
    found = {name: statistics.median(values) for name, values in json.loads(output.strip().splitlines()[-1]).items()}
    train, test = (sum(path.is_file() for path in (root / split).rglob("*")) for split in ("train", "test"))
    views = 3 * train + len(limit.VIEWS) * test
    return (train + test) / found["decoding"] + views / found["engine"] + views / found["blur"]


def peers_of(name: str, root: Path, weights: dict[str, str], epochs: int) -> Peers:
    """One backbone on a set of images."""
    file = weights.get(name, "none")
    mean, _, file = file.rpartition("@")  # 0.5@FILE: mean and std of the normalisation
    options = ["--root", str(root.resolve()), "--name", name, "--weights", file]
    words = ["--config", str(HERE.parent / "configs/photos.yaml"), "--data.root", str(root.resolve())]
    words += ["--backbone.name", name, "--backbone.weights", file]
    if mean:
        options += ["--mean", mean, mean, mean, "--std", mean, mean, mean]
        words += [f"--backbone.mean=[{mean},{mean},{mean}]", f"--backbone.std=[{mean},{mean},{mean}]"]
    return Peers(name, options, words, epochs)


def photographs(words: argparse.Namespace, folder: Path) -> str:
    """The table of peers, and the one of the limit."""
    root, title = words.root, f"{words.root}"
    if root is None:
        root, title = folder / "drawn", f"{words.train} + {words.test} drawn images"
        fill(root, words.train, words.test)
    weights = dict(word.split("=", 1) for word in words.weights)
    rows, limits = [], []
    for name in words.names:
        epochs = words.epochs if name == words.names[0] else 1
        peers = peers_of(name, root, weights, epochs)
        for turn in range(words.repeats):
            peers.round(plain=turn == 0, peers=turn < words.peer_repeats)
        rows += peers.rows(bare_seconds(peers, root))
        _, output = process([PYTHON, str(HERE / "limit.py"), *peers.options, "--json"], HERE)
        limits.append(limit.row(name, json.loads(output.strip().splitlines()[-1])))
        print(table(("backbone", "what", "seconds", "(1) / this", "(2) / this"), rows), flush=True)
    name = "photographs" if words.root else title
    return (
        f"{'Photographs' if words.root else title}: both arms, seven views, whole processes.\n\n"
        + table(("backbone", "what", "seconds", f"(1) / this, {name}", "(2) / this"), rows)
        + "\nImages a second, each alone, in rounds:\n\n"
        + table(limit.HEAD, limits)
    )


def start_up() -> str:
    """What a command costs before it does anything."""
    ways = {
        "`python -c pass`": ["-c", "pass"],
        "`blurtrain --help`": ["-m", "blurtrain", "--help"],
        "`import blurtrain`": ["-c", "import blurtrain"],
        "`import torch`": ["-c", "import torch"],
        "`import torch, torchvision, pytorch_lightning`": ["-c", "import torch, torchvision, pytorch_lightning"],
        "`import blurtrain.training`, all that a first run needs": ["-c", "import blurtrain.training"],
    }

    def start(options: list[str]) -> None:
        subprocess.run([PYTHON, *options], check=True, capture_output=True)

    rows = []
    for what, options in ways.items():
        start(options)
        rows.append([what, spread([seconds(lambda options=options: start(options)) for _ in range(5)], 2)])
    return table(("what", "seconds"), rows)


def main() -> None:
    """Measure and write the pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="photographs; else pictures are drawn")
    parser.add_argument("--train", type=int, default=244, help="pictures drawn for the training split")
    parser.add_argument("--test", type=int, default=153, help="and for the test split")
    parser.add_argument("--names", nargs="+", default=["squeezenet1_1", "mobilenet_v2", "resnet18", "resnet50"])
    parser.add_argument("--weights", nargs="*", default=[], metavar="NAME=FILE")
    parser.add_argument("--epochs", type=int, default=PLAIN_EPOCHS, help="of the plain recipe on the first backbone")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of blurtrain")
    parser.add_argument("--peer_repeats", type=int, default=1, help="rounds of the other peers")
    parser.add_argument("--page", default="speed", help="name of the page of peers")
    parser.add_argument("--only", nargs="*", default=["peers", "start", "blur", "heads", "scale"])
    words = parser.parse_args()
    command = "make bench" if len(sys.argv) == 1 else f"make bench FLAGS='{' '.join(_public(sys.argv[1:]))}'"
    if "peers" in words.only:
        with tempfile.TemporaryDirectory() as folder:
            write(words.page, "Speed of a whole comparison", command, photographs(words, Path(folder)), PACKAGES)
    if "start" in words.only:
        write("start", "What starting costs", command, start_up(), PACKAGES)
    first = dict(word.split("=", 1) for word in words.weights).get(words.names[0], "none")
    real = ["--root", str(words.root.resolve()), "--name", words.names[0], "--weights", first] if words.root else []
    for page, options in {"blur": [], "heads": real, "scale": []}.items():
        if page in words.only:
            script = "blur_peers.py" if page == "blur" else f"{page}.py"
            subprocess.run([PYTHON, str(HERE / script), *options], check=True)


def _public(words: list[str]) -> list[str]:
    """The options without folders of this machine."""
    return [word if "/" not in word else f"{word.partition('=')[0]}=FILE" if "=" in word else "ROOT" for word in words]


if __name__ == "__main__":
    main()
