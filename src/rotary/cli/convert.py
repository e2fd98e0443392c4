"""`rotary convert` and `rotary pairing`: convert a checkpoint to the other pairing of channels, and tell which one it has."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from .. import _checks

if TYPE_CHECKING:
    from ..checkpoints.detect import Verdict

UNKNOWN = 3
"""The exit status of `pairing` where neither pairing is significant."""

_SOURCE = "a file of weights or a folder of them: safetensors, Meta's consolidated.*.pth, pytorch_model.bin"
_FLAGS = {"source_pairing": "--from", "config": "--config", "like": "--like"}
"""Arguments of convert() and by_weights(), which their messages name -> the flags of the command line."""


def register(commands: Any) -> None:
    """Add `convert` and `pairing` to the commands of `rotary`."""
    convert = commands.add_parser(
        "convert", help="rewrite a checkpoint in the other pairing of channels, as safetensors"
    )
    convert.add_argument("source", help=_SOURCE + "; only read")
    convert.add_argument("target", help="the file or folder of safetensors to write; it must not exist")
    convert.add_argument("--to", required=True, choices=("half", "interleaved"), help="the pairing to convert to")
    convert.add_argument(
        "--from",
        dest="source_pairing",
        choices=("half", "interleaved"),
        help="the pairing it has (default: its family's)",
    )
    convert.set_defaults(run=_convert)
    pairing = commands.add_parser(
        "pairing", help="tell which pairing a checkpoint has, or that it is unknown (status 3)"
    )
    pairing.add_argument("source", help=_SOURCE)
    pairing.add_argument(
        "--text",
        help="a text file of a kind that the model was trained on: decide by the loss on it, with the model's tokenizer",
    )
    pairing.add_argument("--tokens", type=int, help="how many tokens of --text to use (default 1024)")
    pairing.add_argument("--json", action="store_true", help="print one object of JSON")
    pairing.set_defaults(run=_pairing)
    for parser in (convert, pairing):
        parser.add_argument("--config", help="a config.json or params.json (default: the one next to the tensors)")
        parser.add_argument("--like", metavar="FAMILY", help="a model family with the same tensor names and layout")


def _convert(options: argparse.Namespace) -> int:
    from ..checkpoints import convert

    arguments: dict[str, Any] = {
        "to": options.to,
        "source_pairing": options.source_pairing,
        "config": options.config,
        "like": options.like,
    }
    _check_exists(options.source)
    with _naming_flags(options.source), _unwinding_on_signals(), _bar() as progress:
        converted = convert(options.source, options.target, **arguments, progress=progress)
    tensors, files, layers = _counted(converted.tensors, "tensor"), _counted(converted.files, "file"), converted.layers
    print(f"{tensors} in {files} now pair as {options.to}: {options.target}")
    print(f"attention scores of {_counted(layers, 'layer')} agree to {converted.difference:.1e}")
    if converted.left_out:
        print(f"not converted and left out: {', '.join(converted.left_out)}")
    return 0


def _counted(n: int, noun: str) -> str:
    return f"{n} {noun}{'s' * (n != 1)}"


@contextlib.contextmanager
def _naming_flags(source: str) -> Generator[None]:
    """Change messages of errors: flags for the names of arguments, and the source in front of a message that does not name it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = re.sub(
            r"\b(pass |as |and )?(source_pairing|config|like)=(?: \(--from\))?",
            lambda m: f"{m[1] or ''}{_FLAGS[m[2]]}",
            str(error),
        )
        error_class = ValueError if isinstance(error, ValueError) else TypeError
        raise error_class(text if source in text else f"{source}: {text}") from None


_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextlib.contextmanager
def _unwinding_on_signals() -> Generator[None]:
    """Make the first SIGINT, SIGTERM or SIGHUP raise, so that the conversion removes what it wrote; ignore later ones until it has.

    A signal that was ignored before, as under nohup, stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():  # signal handlers can be set in the main thread alone
        yield
        return
    before = {number: signal.getsignal(number) for number in _ENDING}

    def unwind(number: int, frame: FrameType | None) -> None:
        for ending in _ENDING:
            signal.signal(ending, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + number)

    for number, handler in before.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, unwind)
    try:
        yield
    finally:
        for number, handler in before.items():  # None: it was not set from Python
            signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _pairing(options: argparse.Namespace) -> int:
    from ..checkpoints import by_weights

    if options.text is not None:
        verdict = _by_text(options)
    elif options.tokens is not None:
        raise ValueError("--tokens counts tokens of --text; pass --text too")
    else:
        _check_exists(options.source)
        with _naming_flags(options.source):
            verdict = by_weights(options.source, config=options.config, like=options.like)
    if options.json:
        print(json.dumps({"pairing": verdict.pairing, "why": verdict.why, "standard_errors": verdict.confidence}))
    else:
        print(verdict.pairing)
        print(f"{verdict.why}; {verdict.confidence:.1f} standard errors")
    return UNKNOWN if verdict.pairing == "unknown" else 0


def _by_text(options: argparse.Namespace) -> Verdict:
    """The pairing by the loss on --text. ValueError for a text that cannot be read or is too short."""
    from ..checkpoints import by_text

    count = 1024 if options.tokens is None else _checks.count("--tokens", options.tokens)
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError:
        raise ValueError("--text needs transformers: pip install 'rotary[transformers]'") from None
    try:
        text = Path(options.text).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"--text {options.text} is not UTF-8: {error}") from None
    with _naming_flags(options.source):
        encoded: Any = AutoTokenizer.from_pretrained(options.source)(text, return_tensors="pt")
        tokens = encoded["input_ids"][:, :count]
        if tokens.shape[1] < 2:
            raise ValueError(f"a loss needs two tokens; --text has {tokens.shape[1]} within --tokens {count}")
        model: Any = AutoModelForCausalLM.from_pretrained(options.source)
        return by_text(model.eval(), tokens, config=options.config, like=options.like)


def _check_exists(source: str) -> None:
    if not Path(source).exists():
        raise ValueError(f"no file or folder at {source!r}")


@contextlib.contextmanager
def _bar() -> Generator[Callable[[str, int, int], None]]:
    """A progress bar if rich is installed and stderr is a terminal, and otherwise nothing."""
    try:
        from rich.progress import Progress
    except ImportError:
        Progress = None
    if Progress is None or not sys.stderr.isatty():
        yield lambda file, done, total: None
        return
    from rich.console import Console

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("reading")

        def show(file: str, done: int, total: int) -> None:
            bar.update(task, description=file, completed=done, total=total)

        yield show
