"""Kills comparisons at seeded moments, and demands that the same command goes on to the same bytes: `make kills`.

A comparison that nobody disturbs is the reference. Then, each from an empty folder:

- `kill -9` at moments drawn evenly over the time of decoding, extracting, fitting, sweeping, and at steps of writing
  drawn evenly from all (a temporary file made, a file renamed); with `cache: false` also while training on images;
- SIGINT and SIGTERM at any moment, which must end the process within 5 seconds and say how to go on;
- two processes at once, and two of which one is killed;
- a bit flipped in a stored file after the end.

After each, the same command must finish with the reference's files, times of events aside, and no work may be done
twice but for the one shard that was under way. Shards are made small, so that a comparison of seconds has many.

Processes are forked from one that has imported the libraries, because importing takes longer than the comparison.
"""

# ruff: noqa: E402 - the process is pinned to a core before libraries are imported
import argparse
import contextlib
import mmap
import os
import re
import select
import shutil
import signal
import struct
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

CORES = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, CORES[:1])  # before any library starts a thread for each core: they would wait for each other

import albumentations  # noqa: F401 - this and others are imported here so that no fork needs to
import matplotlib.backends.backend_agg
import matplotlib.figure  # noqa: F401
import numpy as np
import onnx  # noqa: F401
import pytorch_lightning  # noqa: F401
import scipy.stats  # noqa: F401
import torch
import torch.onnx._internal.torchscript_exporter.utils
import torch.utils.tensorboard  # noqa: F401
import torchvision  # noqa: F401
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from blurtrain import batches, cli, engines, features, fitting, images, minibatch, reading, store, training  # noqa: F401

SHARD = 16  # images of a shard
SIDE = 64  # px of the embedded images
WORDS = [
    *("compare", "--data.glyphs.train", "120", "--data.glyphs.test", "70", "--head.folds", "3"),
    *("--head.l2", "[0.01,0.1,1]", "--engine", "onnxruntime", "--batch_size", "8"),
    *("--copies", "[{family: gaussian, strengths: [1]}]", "--sweep", "[{family: gaussian, strengths: [0,1,2.5]}]"),
]
ON_IMAGES = ["--cache", "false", "--engine", "auto", "--minibatch.epochs", "3", "--data.glyphs.train", "60"]
PATIENCE = 300  # seconds after which a process that should have ended hangs
SIGNALLED = 5.0  # seconds within which a signal must end a process
INTERRUPTED = "blurtrain: interrupted; the same command goes on from what is stored"
PHASES: dict[str, tuple[Any, str]] = {
    "decoding": (images, "decode_missing"),
    "extraction": (features, "extract"),
    "fitting": (fitting, "fit"),
    "sweep": (training, "_sweep"),
    "training on images": (minibatch, "fit"),
}


class Counts:
    """Numbers that forked processes share: images decoded, images that passed the backbone."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)
        self._lock = threading.Lock()

    def add(self, place: int, count: int) -> None:
        """Count further ones."""
        with self._lock:
            struct.pack_into("q", self._memory, 8 * place, self.read()[place] + count)

    def read(self) -> tuple[int, int]:
        """Decoded, passed."""
        decoded, passed = struct.unpack("qq", self._memory[:])
        return decoded, passed


@dataclass
class Process:
    """A forked comparison.

    Args:
        pid: Of the process.
        pipe: On which it says where it is.
        folder: Its working folder.
        counts: What it did.
    """

    pid: int
    pipe: int
    folder: Path
    counts: Counts
    said: str = ""
    code: int | None = None

    def wait_for(self, moment: str, times: int = 1) -> bool:
        """Wait until it has said something so often; false if it ended before."""
        until = time.monotonic() + PATIENCE
        while self.said.count(f"{moment}\n") < times:
            ready = select.select([self.pipe], [], [], max(0, until - time.monotonic()))[0]
            if not ready:
                raise TimeoutError(f"process {self.pid} hangs before {moment}")
            heard = os.read(self.pipe, 65536).decode()
            if not heard:
                return False
            self.said += heard
        return True

    def hear(self) -> bool:
        """Wait for whatever it says next; false if it has ended."""
        heard = os.read(self.pipe, 65536).decode()
        self.said += heard
        return heard != ""

    def send(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def join(self) -> int:
        """Exit code, or the negative signal that ended it."""
        until = time.monotonic() + PATIENCE
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
                os.close(self.pipe)
            elif time.monotonic() > until:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"process {self.pid} hangs")
            else:
                time.sleep(0.002)
        return self.code

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / f"{self.pid}.err").read_text(encoding="utf-8")

    @property
    def output(self) -> str:
        """What it wrote to standard output."""
        return (self.folder / f"{self.pid}.out").read_text(encoding="utf-8")


def start(folder: Path, words: Sequence[str], die_at_write: int | None = None, core: int = 0) -> Process:
    """Fork a comparison.

    Args:
        folder: Its working folder.
        words: Of the command line.
        die_at_write: The step of writing at which it kills itself.
        core: On which it runs.
    """
    counts = Counts()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Process(pid, reading, folder, counts)
    try:
        os.close(reading)
        os.chdir(folder)
        os.sched_setaffinity(0, {CORES[core % len(CORES)]})
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{os.getpid()}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _watch(writing, counts, die_at_write)
        os.write(writing, b"begin all\n")
        _leave(cli.main(list(words)))
    except BaseException:
        traceback.print_exc()
        _leave(1)


def _leave(code: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _watch(pipe: int, counts: Counts, die_at_write: int | None) -> None:
    """Make this process say where it is, count what it does, and have small shards."""
    features.SHARD_ROWS = SHARD
    reading.SHARD_BYTES = SHARD * 3 * SIDE**2

    def told(phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            os.write(pipe, f"begin {phase}\n".encode())
            result = function(*args, **kwargs)
            os.write(pipe, f"end {phase}\n".encode())
            return result

        return run

    for phase, (module, name) in PHASES.items():
        setattr(module, name, told(phase, getattr(module, name)))
    decode, compute = reading._row, features._require_finite

    def row(*args: Any) -> Any:  # noqa: ANN401
        counts.add(0, 1)
        return decode(*args)

    def finite(shard: np.ndarray) -> None:
        counts.add(1, len(shard))
        compute(shard)

    for module, name, function in ((reading, "_row", row), (features, "_require_finite", finite)):
        setattr(module, name, function)
    sys.addaudithook(_on_writing(pipe, die_at_write))


def _on_writing(pipe: int, die_at_write: int | None) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that sees each step of writing a file: the temporary one made, then renamed."""
    steps = 0

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal steps
        if event in ("os.rename", "tempfile.mkstemp", "tempfile.mkdtemp") and ".partial-" in str(arguments):
            steps += 1
            if die_at_write is None:
                os.write(pipe, b"write\n")
            elif steps == die_at_write:
                os.kill(os.getpid(), signal.SIGKILL)

    return audit


# What a comparison leaves


def artefacts(folder: Path) -> dict[str, bytes]:
    """Every file of the runs and comparisons, events without their times and names."""
    found: dict[str, bytes] = {}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir() or path.name in ("work.json",) or re.fullmatch(r"\..*\.lock", path.name):
            continue
        if "tfevents" in path.name:
            found[f"{path.parent.relative_to(folder)}/events"] = b"".join(_summaries(path))
        else:
            found[name] = path.read_bytes()
    return found


def _summaries(path: Path) -> Iterator[bytes]:
    for raw in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(raw)
        yield b"%d " % event.step + event.summary.SerializeToString(deterministic=True)


def rows(folder: Path) -> dict[str, int]:
    """Rows of every table of the store."""
    return {str(table.folder.relative_to(folder)): table.rows for table in store.summaries(folder / "cache")}


def leftovers(folder: Path) -> list[str]:
    """What a killed process was writing and nobody removed."""
    return [str(path) for path in folder.rglob("*") if path.name.startswith((".partial-", ".checkpoint-"))]


@dataclass
class Reference:
    """An undisturbed comparison.

    Args:
        words: Of its command line.
        files: What it leaves.
        rows: Of its store.
        counts: What it did.
        output: What it printed.
        phases: Seconds of each time that each phase ran.
        writes: Steps of writing.
        seconds: Of the whole.
    """

    words: list[str]
    files: dict[str, bytes]
    rows: dict[str, int]
    counts: tuple[int, int]
    output: str
    phases: dict[str, list[float]]
    writes: int
    seconds: float


def reference(words: list[str]) -> Reference:
    """Run a comparison that nobody disturbs, twice, so that the times are those of a warm machine."""
    for _ in range(2):
        with workplace() as folder:
            process = start(folder, words)
            begun: dict[str, float] = {}
            phases: dict[str, list[float]] = {}
            heard, first = 0, time.monotonic()
            while process.hear():
                for line in process.said[heard:].splitlines():
                    verb, _, phase = line.partition(" ")
                    if verb == "begin":
                        begun[phase] = time.monotonic()
                    elif verb == "end":
                        phases.setdefault(phase, []).append(time.monotonic() - begun[phase])
                heard = len(process.said)
            if process.join() != 0:
                raise AssertionError(f"the undisturbed comparison failed:\n{process.errors}")
            found = Reference(
                words,
                artefacts(folder),
                rows(folder) if (folder / "cache").exists() else {},
                process.counts.read(),
                process.output,
                phases,
                process.said.count("write\n"),
                time.monotonic() - first,
            )
            assert leftovers(folder) == []
    return found


@contextlib.contextmanager
def workplace() -> Iterator[Path]:
    """An empty folder."""
    folder = Path(tempfile.mkdtemp(prefix="blurtrain-kills-"))
    yield folder
    shutil.rmtree(folder)  # kept for a look where something was wrong


def same(folder: Path, expected: Reference) -> list[str]:
    """What differs from the reference, in words."""
    found = artefacts(folder)
    wrong = [
        f"{name} differs"
        for name in found.keys() | expected.files.keys()
        if found.get(name) != expected.files.get(name)
    ]
    if expected.rows and rows(folder) != expected.rows:
        wrong.append("the store holds other rows")
    return wrong + [f"{path} is left over" for path in leftovers(folder)]


# The disturbances: each returns what went wrong, in words


@dataclass
class Tally:
    """Trials of one kind."""

    tried: int = 0
    passed: int = 0
    faults: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def count(self, wrong: list[str], where: str) -> None:
        """Count a trial."""
        self.tried += 1
        self.passed += not wrong
        self.faults += [f"{where}: {fault}" for fault in wrong]


def killed(expected: Reference, phase: str, rng: np.random.Generator) -> list[str] | None:
    """Kill at a moment of a phase, then go on; none where the process had ended the phase before the signal came."""
    durations = expected.phases[phase]
    times = int(rng.choice(len(durations), p=np.array(durations) / sum(durations))) + 1
    pause = durations[times - 1] * rng.random()
    with workplace() as folder:
        process = start(folder, expected.words)
        if not process.wait_for(f"begin {phase}", times):
            raise AssertionError(f"{phase} did not begin:\n{process.errors}")
        time.sleep(pause)
        process.send(signal.SIGKILL)
        if process.join() != -signal.SIGKILL:
            return None
        return _gone_on(folder, expected, [process])


def killed_writing(expected: Reference, rng: np.random.Generator) -> list[str]:
    """Kill at a step of writing, then go on."""
    with workplace() as folder:
        process = start(folder, expected.words, die_at_write=int(rng.integers(1, expected.writes + 1)))
        code = process.join()
        if code != -signal.SIGKILL:
            return [f"exit code {code} instead of a kill"]
        return _gone_on(folder, expected, [process])


def _gone_on(folder: Path, expected: Reference, before: list[Process]) -> list[str]:
    """Run the same command to its end, and look at what it leaves and at what was done twice."""
    last = start(folder, expected.words)
    if last.join() != 0:
        return [f"exit code {last.code} after the kill: {last.errors[-2000:]}"]
    wrong = same(folder, expected)
    if expected.rows:
        done = np.sum([process.counts.read() for process in (*before, last)], axis=0) - expected.counts
        wrong += [
            f"{count} images were {what} twice"
            for count, what in zip(done, ("decoded", "passed"), strict=True)
            if count > SHARD
        ]
    return wrong


def signalled(expected: Reference, number: int, rng: np.random.Generator, tally: Tally) -> list[str] | None:
    """Interrupt at any moment, then go on."""
    with workplace() as folder:
        process = start(folder, expected.words)
        process.wait_for("begin all")
        time.sleep(expected.seconds * rng.random())
        process.send(number)
        sent = time.monotonic()
        if process.join() == 0:
            return None
        seconds = time.monotonic() - sent
        tally.slowest = max(tally.slowest, seconds)
        wrong = [f"it took {seconds:.1f} s to end"] if seconds > SIGNALLED else []
        if process.code != 130 or "Traceback" in process.errors:
            wrong.append(f"exit code {process.code}: {process.errors[-2000:]}")
        if not process.errors.endswith(f"{INTERRUPTED}\n"):
            wrong.append(f"it does not say how to go on: {process.errors[-300:]!r}")
        return wrong + _gone_on(folder, expected, [process])


def two_at_once(expected: Reference, rng: np.random.Generator, *, kill: bool) -> list[str]:
    """Two processes with the same command in one folder, perhaps one killed: nothing is done twice."""
    with workplace() as folder:
        first = start(folder, expected.words)
        first.wait_for("begin all")
        time.sleep(expected.seconds * rng.random() / 2)
        second = start(folder, expected.words, core=1)
        if kill:
            second.wait_for("begin all")
            time.sleep(expected.seconds * rng.random())
            first.send(signal.SIGKILL)
        codes = [process.join() for process in (first, second)]
        if codes[1] != 0 or codes[0] not in (0, *([-signal.SIGKILL] if kill else [])):
            return [f"exit codes {codes}: {first.errors[-1000:]} {second.errors[-1000:]}"]
        wrong = same(folder, expected)
        done = np.sum([process.counts.read() for process in (first, second)], axis=0) - expected.counts
        most = SHARD if kill else 0
        return wrong + [
            f"{count} images were {what} twice"
            for count, what in zip(done, ("decoded", "passed"), strict=True)
            if count > most
        ]


def shared_store(expected: Reference, rng: np.random.Generator) -> list[str]:
    """Two different experiments on one store at once: what they share is computed by one of them."""
    with workplace() as folder:
        first = start(folder, expected.words)
        first.wait_for("begin all")
        time.sleep(expected.seconds * rng.random() / 4)
        second = start(folder, [*expected.words, "--name", "other"], core=1)
        codes = [process.join() for process in (first, second)]
        if codes != [0, 0]:
            return [f"exit codes {codes}: {first.errors[-1000:]} {second.errors[-1000:]}"]
        done = np.sum([process.counts.read() for process in (first, second)], axis=0)
        wrong = [f"done {done.tolist()} instead of {expected.counts}"] if tuple(done) != expected.counts else []
        table = first.output.split("\nFound: ")[0]
        if table != expected.output.split("\nFound: ")[0] or table != second.output.split("\nFound: ")[0]:
            wrong.append("the tables differ")
        return wrong


def flipped(expected: Reference, made: Path, rng: np.random.Generator) -> tuple[list[str], str]:
    """Flip a bit of one stored file, run the command again and another one on the same store."""
    with workplace() as folder:
        shutil.copytree(made, folder, dirs_exist_ok=True)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 0)
        files = [path for path in files if path.relative_to(folder).parts[0] in ("runs", "cache")]
        path = files[rng.integers(len(files))]
        contents = bytearray(path.read_bytes())
        place = int(rng.integers(8 * len(contents)))
        contents[place // 8] ^= 1 << place % 8
        path.write_bytes(contents)
        wrong, outcomes = [], []
        for words in (expected.words, [*expected.words, "--name", "other"]):
            process = start(folder, words)
            code = process.join()
            if code == 0:
                if process.output.split("\nFound: ")[0] != expected.output.split("\nFound: ")[0]:
                    wrong.append(f"bit {place} of {path.relative_to(folder)} was used: another table is printed")
                outcomes.append("healed" if "damaged" in process.errors else "not needed")
            elif code == 2 and path.name in process.errors and "Traceback" not in process.errors:
                outcomes.append("refused by name")
                again = start(folder, words)  # a damaged shard is removed when it is refused
                again.join()
            else:
                wrong.append(f"bit {place} of {path.relative_to(folder)}: exit code {code}: {process.errors[-1500:]}")
        return wrong, outcomes[-1] if outcomes else "failed"


# The whole


def battery(seed: int, kills: int, flips: int) -> dict[str, Tally]:
    """All trials of one seed."""
    rng = np.random.default_rng(seed)
    stored, on_images = reference(WORDS), reference([*WORDS, *ON_IMAGES])
    tallies: dict[str, Tally] = {}

    def repeat(kind: str, wanted: int, trial: Callable[[], list[str] | None]) -> None:
        tally = tallies.setdefault(kind, Tally())
        for _ in range(20 * wanted):
            if tally.tried == wanted:
                break
            wrong = trial()
            if wrong is not None:
                tally.count(wrong, kind)
        say(kind, tally)

    for phase in ("decoding", "extraction", "fitting", "sweep"):
        repeat(f"kill -9, {phase}", kills, lambda phase=phase: killed(stored, phase, rng))  # type: ignore[misc]
    repeat("kill -9, writing", kills, lambda: killed_writing(stored, rng))
    repeat("kill -9, training on images", kills, lambda: killed(on_images, "training on images", rng))
    for number in (signal.SIGINT, signal.SIGTERM):
        tally = tallies.setdefault(number.name, Tally())
        repeat(number.name, kills, lambda number=number, tally=tally: signalled(stored, number, rng, tally))  # type: ignore[misc]
    repeat("two at once, same command", kills // 2, lambda: two_at_once(stored, rng, kill=False))
    repeat("two at once, one killed", kills // 2, lambda: two_at_once(stored, rng, kill=True))
    repeat("two at once, one store", kills // 2, lambda: shared_store(stored, rng))
    outcomes: Counter[str] = Counter()
    with workplace() as made:
        assert start(made, WORDS).join() == 0
        for path in made.glob("*.*"):
            path.unlink()

        def flip() -> list[str]:
            wrong, outcome = flipped(stored, made, rng)
            outcomes[outcome] += 1
            return wrong

        repeat("bit flipped in a stored file", flips, flip)
    print(f"  of these {dict(outcomes)}", flush=True)
    return tallies


def say(kind: str, tally: Tally) -> None:
    """One line, and what went wrong."""
    slowest = f", slowest end {tally.slowest:.2f} s" if tally.slowest else ""
    print(f"{kind:<32} {tally.passed} of {tally.tried}{slowest}", flush=True)
    for fault in tally.faults:
        print(f"  {fault}", flush=True)


def main() -> int:
    """Run the battery for each seed; exit code 1 unless all trials pass."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--kills", type=int, default=20, help="moments of each kind")
    parser.add_argument("--flips", type=int, default=60)
    words = parser.parse_args()
    failed = 0
    for seed in words.seeds:
        print(f"seed {seed}", flush=True)
        began = time.monotonic()
        tallies = battery(seed, words.kills, words.flips)
        tried, passed = (sum(getattr(t, name) for t in tallies.values()) for name in ("tried", "passed"))
        failed += tried - passed
        print(f"{passed} of {tried} survived in {time.monotonic() - began:.0f} s\n", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
