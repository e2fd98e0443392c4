"""The command `rotary`: parses arguments, runs one command, and prints its errors in one line."""

from __future__ import annotations

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Any

from .._version import __version__
from . import bench, check, convert, show


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 0, 1 for problems that `check` finds, 3 for an unknown pairing, or 2 after an error,
    which is printed in one line. arguments: of the command line, by default the program's own."""
    try:
        try:
            return _run(arguments)
        finally:
            _flush()  # not at exit, where Python would print a closed pipe as "Exception ignored ... BrokenPipeError"
    except BrokenPipeError:  # the reader closed the pipe, as in `rotary show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _flush() -> None:
    if sys.stdout is not None:  # it is None where the standard output was closed before Python started, as by `>&-`
        sys.stdout.flush()


def _run(arguments: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(prog="rotary", description="Rotary position embeddings: exact at every position.")
    parser.add_argument("--version", action="version", version=f"rotary {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    info = commands.add_parser("info", help="versions, the device, and which kernels are available, or why not")
    info.add_argument("--json", action="store_true", help="print one object of JSON")
    info.set_defaults(run=_info)
    show.register(commands)
    check.register(commands)
    convert.register(commands)
    bench.register(commands)
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    with warnings.catch_warnings():

        def show_warning(message: Warning | str, *place: Any) -> None:
            text = _one_line(message) if isinstance(message, Warning) else message
            print(f"rotary {options.command}: warning: {text}", file=sys.stderr)

        warnings.showwarning = show_warning
        try:
            return options.run(options)
        except BrokenPipeError:
            raise
        except (ValueError, TypeError, ArithmeticError, OSError, RuntimeError, ImportError) as error:
            print(f"rotary {options.command}: {_one_line(error)}", file=sys.stderr)
            return 2


def _one_line(error: Exception) -> str:
    """The message of an error in one line (some of torch have several); the error's name where it has no message."""
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip()) or type(error).__name__


def _info(options: argparse.Namespace) -> int:
    import torch

    from .. import backends
    from .._native import library
    from .._rotation import call

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    versions = {
        "rotary": __version__,
        "torch": str(torch.__version__),
        "python": sys.version.split()[0],
        "device": device,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an unavailable kernel warns at its first use; here the reason is printed
        states = backends()
    if states["native"] == "available":
        stepwise = call.unavailable()
        whole = "whole calls in C" if stepwise is None else f"calls step by step: {stepwise}"
        states["native"] += f", {library.threads()}, {library.instructions()}; {whole}"
    if options.json:
        print(json.dumps(versions | {"backends": states}))
        return 0
    for name, state in (versions | states).items():
        print(f"{name:8} {state}")
    return 0
