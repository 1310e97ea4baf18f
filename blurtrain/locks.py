"""One process at a time on one thing: the store and the run folders may be shared by several.

The operating system holds a lock for a process (flock, or its counterpart elsewhere) and lets go of it when the process
ends, however it ends: a dead owner's lock is free at once, and the empty file that stays behind means nothing.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from blurtrain.errors import StoreError
from blurtrain.progress import say

POLL = 0.1  # seconds between two looks at a lock that another process holds

Thing = TypeVar("Thing")


@contextmanager
def held(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock while the block runs; wait for another process, and say so.

    Args:
        path: The lock's own file; it stays behind, empty.
        doing: What the other process is doing, for the user who waits.

    Raises:
        StoreError: If the folder cannot be written.
    """
    lock = _lock(path)
    _acquire(lock, path, doing)
    try:
        yield
    finally:
        lock.release()


def in_turn(paths: Mapping[Thing, Path], doing: str) -> Generator[Thing, None, None]:
    """Give one thing after the other, each with its lock held until the next is asked for.

    What other processes hold comes last, so several processes with the same work share it among them.

    Raises:
        StoreError: If a folder cannot be written.
    """
    waiting: list[Thing] = []
    for thing, path in paths.items():
        lock = _lock(path)
        if not _acquired(lock, path, wait=False):
            waiting.append(thing)
            continue
        try:
            yield thing
        finally:
            lock.release()
    for thing in waiting:
        with held(paths[thing], doing):
            yield thing


def is_free(path: Path) -> bool:
    """Whether no process holds a lock."""
    if not path.exists():
        return True
    lock = _lock(path)
    if not _acquired(lock, path, wait=False):
        return False
    lock.release()
    return True


def _lock(path: Path) -> FileLock:
    return FileLock(path, thread_local=False)


def _acquire(lock: FileLock, path: Path, doing: str) -> None:
    if not _acquired(lock, path, wait=False):
        say(f"waiting: another process is {doing}")
        _acquired(lock, path, wait=True)


def _acquired(lock: FileLock, path: Path, wait: bool) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0, poll_interval=POLL)
    except Timeout:
        return False
    except OSError as error:
        raise StoreError(
            f"{path} cannot be written ({error.strerror or error}): free space or choose another folder, "
            "then run the same command again"
        ) from error
    return True
