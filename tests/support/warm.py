"""Python programs in processes of their own that begin with torch imported: the import, 1.5 s of a core, is paid once for all of them.

A process imports torch, and forks for each program. A program finds what a fresh interpreter has and torch, nothing of rotary, no tensor
and no thread; it ends as an interpreter ends. Options of Python, PYTHONPATH and whatever is read while torch is imported are those of the
tests' own process: what depends on them is a case for subprocess. So is every program on a system other than Linux, where this file
starts interpreters.
"""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import types
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

TORCH = ("torch",)
TRANSFORMERS = ("torch", "transformers", "transformers.models.llama.modeling_llama")
"""What is imported before a program begins."""


def run(
    *arguments: str | Path,
    after: tuple[str, ...] = TORCH,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdout: int | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """A program to its end, and what it printed. arguments: as they follow `python`, a path, or -c and code, or -m and a module.

    env: all of its environment. stdout: a file descriptor to print into, which is then not read. A program that has not ended after
    `timeout` seconds is killed: subprocess.TimeoutExpired.
    """
    words = list(map(str, arguments))
    if sys.platform != "linux":
        to = subprocess.PIPE if stdout is None else stdout
        command = [sys.executable, *words]
        return subprocess.run(
            command, stdout=to, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd, timeout=timeout, check=False
        )
    task = {"arguments": words, "env": dict(os.environ if env is None else env), "cwd": str(cwd or Path.cwd())}
    # What it prints goes through pipes, as from subprocess: a file would be under a limit of the size of files, which a program may set.
    (printed, out), (errors, error) = os.pipe(), os.pipe()
    with ThreadPoolExecutor(2) as readers:
        outputs = [readers.submit(_read, printed), readers.submit(_read, errors)]
        try:
            status = _done(task, (out if stdout is None else stdout, error), after, timeout)
        finally:
            os.close(out)
            os.close(error)
    return subprocess.CompletedProcess(words, status, outputs[0].result(), outputs[1].result())


def _read(pipe: int) -> str:
    with os.fdopen(pipe, encoding="utf-8") as file:
        return file.read()


def _done(task: dict[str, Any], outs: tuple[int, int], after: tuple[str, ...], timeout: float) -> int:
    """The exit status of a task, as subprocess gives it."""
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as ends, tempfile.TemporaryFile() as written:
        written.write(json.dumps(task).encode())  # into a file: a message has a limit
        written.flush()
        socket.send_fds(_server(after), [b"."], [written.fileno(), writer, *outs])
        os.close(writer)
        (pid,) = struct.unpack("q", ends.read(8))
        if not select.select([ends], [], [], timeout)[0]:
            os.kill(pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(task["arguments"], timeout)
        return struct.unpack("q", ends.read(8))[0]


@functools.cache
def _server(after: tuple[str, ...]) -> socket.socket:
    """Where the process that has imported these modules takes its tasks. It ends when this process does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno()), *after]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env=environment)

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- in the process that forks ----------------------------------------------------------------------------------------------------------


def _tasks(channel: socket.socket) -> dict[str, Any] | None:
    """A task, in the process that is to do it; None where no more come."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
        if not message:
            return None
        if os.fork() == 0:
            break
        for descriptor in descriptors:
            os.close(descriptor)
    # One process of its own waits for each, so that several run at once.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    channel.close()
    file, ends, *outs = descriptors
    with os.fdopen(file, "rb") as written:
        written.seek(0)
        task = json.load(written)
    pid = os.fork()
    if pid:
        os.write(ends, struct.pack("q", pid))
        for descriptor in outs:
            os.close(descriptor)
        _, status = os.waitpid(pid, 0)
        os.write(ends, struct.pack("q", os.waitstatus_to_exitcode(status)))
        os._exit(0)
    os.close(ends)
    for number, descriptor in enumerate(outs, 1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    return task


def _do(task: dict[str, Any]) -> None:
    """Run a program as `python` would."""
    torch = sys.modules["torch"]
    os.environ.clear()
    os.environ.update(task["env"])
    os.chdir(task["cwd"])
    if threads := os.environ.get("OMP_NUM_THREADS"):
        torch.set_num_threads(int(threads))
    first, *rest = task["arguments"]
    if first == "-m":
        sys.path[0], sys.argv = os.getcwd(), rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        return
    main = types.ModuleType("__main__")
    if first == "-c":
        code, sys.argv, sys.path[0] = rest[0], ["-c", *rest[1:]], ""
        compiled = compile(code, "<string>", "exec")
    else:
        sys.argv, sys.path[0] = [first, *rest], str(Path(first).parent)
        main.__file__ = first
        compiled = compile(Path(first).read_bytes(), first, "exec")
    sys.modules["__main__"] = main
    exec(compiled, vars(main))


def _serve() -> None:
    number, *after = sys.argv[1:]
    sys.path[0] = ""  # not the folder of this file
    for module in after:
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the processes that wait leave no zombies
    task = _tasks(socket.socket(fileno=int(number)))
    if task is not None:
        _do(task)


if __name__ == "__main__":
    _serve()
