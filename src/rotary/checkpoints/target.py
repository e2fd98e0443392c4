"""A file or folder that appears under its name complete or not at all, and never replaces another.

It is written in a new temporary folder next to the target, and gets its name by one system call that fails if the name is taken. Only
that temporary folder is removed afterwards, and after a failure the folders above the target that the run made, if nothing is in them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Generator
from pathlib import Path
from types import FrameType

PREFIX = ".rotary-"
"""Begin of the name of a temporary folder. A killed run leaves its folder, and no other run touches it."""

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
# Errors of os.link on a file system without hard links.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}


@contextlib.contextmanager
def whole(target: Path, *, folder: bool) -> Generator[Path]:
    """A path to write to; at the end it is renamed to the target, after an exception it is removed.

    FileExistsError if the target exists at the end; it stays as it is.
    """
    new_folders: list[Path] = []
    temporary: Path | None = None
    try:
        with undisturbed():
            _make_folder(target.parent, new_folders)
            temporary = Path(tempfile.mkdtemp(prefix=PREFIX, dir=target.parent))
        path = temporary / target.name
        if folder:
            path.mkdir()
        yield path
        with undisturbed():
            _publish(path, target)
    finally:
        with undisturbed():
            if temporary is not None:
                shutil.rmtree(temporary, ignore_errors=True)
            with contextlib.suppress(
                OSError
            ):  # a folder that is not empty stays: the target is in it, or another's file
                for new in reversed(new_folders):
                    new.rmdir()


def _make_folder(folder: Path, new_folders: list[Path]) -> None:
    """Make a folder and those above it, and append each new one to the list, also if a later one fails."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        try:
            path.mkdir()
        except FileExistsError:
            if not path.is_dir():
                raise
        else:
            new_folders.append(path)


def _publish(path: Path, target: Path) -> None:
    """Give the path the name of the target, which must be free."""
    try:
        if path.is_dir():
            _publish_folder(path, target)
        else:
            _publish_file(path, target)
    except OSError as error:
        if not os.path.lexists(target):
            raise
        raise FileExistsError(
            f"{str(target)!r} appeared during the conversion and stays as it is; nothing was written; pass a path that does not exist"
        ) from error


def _publish_folder(path: Path, target: Path) -> None:
    """Rename, which fails if a file, a link or a folder with content has the name. It would replace an empty folder, so that is checked
    just before."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    os.rename(path, target)


def _publish_file(path: Path, target: Path) -> None:
    """Link, which fails if anything has the name. Without hard links: create an empty file of the name, which fails too, and replace it."""
    try:
        os.link(path, target)
        return
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    try:
        os.replace(path, target)
    except OSError:
        target.unlink()
        raise


@contextlib.contextmanager
def undisturbed() -> Generator[None]:
    """Delay signals that end a program until the block is over: without it, one that arrives between two statements of the cleanup would
    leave the temporary folder behind.

    Python runs signal handlers in the main thread alone; in other threads this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []

    def delay(number: int, frame: FrameType | None) -> None:
        received.append(number)

    before = {number: signal.getsignal(number) for number in _ENDING}
    # None: a handler that was not set from Python, which could not be restored.
    replaced = [number for number, handler in before.items() if callable(handler) or handler is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, delay)
    try:
        yield
    finally:
        for number in replaced:
            signal.signal(number, before[number])
        for number in received:
            signal.raise_signal(number)
