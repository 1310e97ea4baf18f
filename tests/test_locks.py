"""Locks between real processes."""

import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from blurtrain.errors import StoreError
from blurtrain.locks import held, in_turn, is_free


def holder(path: Path) -> "subprocess.Popen[str]":
    """A process that holds a lock until it is killed."""
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from blurtrain.locks import held
        with held(Path(sys.argv[1]), "nothing"):
            print("held", flush=True)
            time.sleep(600)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def kill(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_dead_owners_lock_is_taken_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "table" / ".lock"
    other = holder(path)
    assert not is_free(path)
    killer = threading.Timer(0.5, kill, [other])
    killer.start()
    start = time.monotonic()
    with held(path, "counting sheep"):
        assert time.monotonic() - start >= 0.3
        assert not is_free(path)
    killer.join()
    assert capsys.readouterr().err == "waiting: another process is counting sheep\n"
    assert is_free(path)
    with held(path, "counting sheep"):
        pass
    assert capsys.readouterr().err == ""


def test_what_others_hold_comes_last(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {name: tmp_path / name / ".lock" for name in "abcd"}
    other = holder(paths["b"])
    given = []
    for name in in_turn(paths, "counting sheep"):
        given.append(name)
        assert not is_free(paths[name])
        assert all(is_free(paths[done]) for done in given[:-1])
        if name == "d":
            kill(other)
    assert given == ["a", "c", "d", "b"]
    assert all(map(is_free, paths.values()))
    assert capsys.readouterr().err in ("", "waiting: another process is counting sheep\n")


def test_an_error_lets_go(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with pytest.raises(KeyboardInterrupt), held(path, "counting sheep"):
        raise KeyboardInterrupt
    assert is_free(path)
    turns = in_turn({"a": path}, "counting sheep")
    assert next(turns) == "a"
    turns.close()
    assert is_free(path)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "table").touch()
    with (
        pytest.raises(StoreError, match=r"table/.lock cannot be written \(.*\): free space or"),
        held(tmp_path / "table" / ".lock", "counting sheep"),
    ):
        pass


def test_a_lock_that_never_was_is_free(tmp_path: Path) -> None:
    assert is_free(tmp_path / ".lock")
    assert not list(tmp_path.iterdir())
