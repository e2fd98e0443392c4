"""`rotary` on the command line. Each command is a module with `register(commands)`."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Sequence

from . import bench, convert, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, or 2 for arguments that cannot be honoured, said in one line."""
    try:
        try:
            return _run(arguments)
        finally:
            sys.stdout.flush()  # not at exit, where Python prints a closed pipe as "Exception ignored ... BrokenPipeError"
    except BrokenPipeError:  # as in `rotary show | head`: the reader closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="rotary", description="Rotary position embeddings: exact at every position.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="version, torch, device, and each kernel with the reason if it is off")
    info.set_defaults(run=_info)
    show.register(commands)
    convert.register(commands)
    bench.register(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except BrokenPipeError:
        raise
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        print(f"rotary {options.command}: {error}", file=sys.stderr)
        return 2


def _info(options: argparse.Namespace) -> int:
    import torch

    from .. import __version__, backends

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"rotary   {__version__}")
    print(f"torch    {torch.__version__}")
    print(f"python   {sys.version.split()[0]}")
    print(f"device   {device}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a kernel that is off warns at its first use; here the reason is printed
        states = backends()
    for name, state in states.items():
        print(f"{name:8} {state}")
    return 0
