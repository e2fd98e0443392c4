"""`rotary convert` and `rotary pairing`: a checkpoint to the other pairing, and which one it has."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any


def register(commands: Any) -> None:
    """Add `convert` and `pairing` to the commands of `rotary`."""
    convert = commands.add_parser(
        "convert", help="rewrite a checkpoint of safetensors in the other pairing of channels"
    )
    convert.add_argument("source", help="a file of safetensors, or a folder of them; only read")
    convert.add_argument("target", help="what is written; must not be there yet")
    convert.add_argument("--to", required=True, choices=("half", "interleaved"), help="the pairing it shall have")
    convert.add_argument(
        "--from", dest="given", choices=("half", "interleaved"), help="the one it has; default its family's"
    )
    convert.set_defaults(run=_convert)
    pairing = commands.add_parser("pairing", help="tell which pairing a checkpoint has, or that it cannot be told")
    pairing.add_argument("source", help="a file of safetensors, or a folder of them")
    pairing.add_argument("--text", help="a text file that the model should know: decides by loss, with its tokenizer")
    pairing.add_argument("--tokens", type=int, default=1024, help="how many tokens of the text (default 1024)")
    pairing.set_defaults(run=_pairing)
    for parser in (convert, pairing):
        parser.add_argument("--config", help="a config.json; default the one beside the tensors")
        parser.add_argument("--like", metavar="FAMILY", help="a family whose tensors are arranged the same way")


def _convert(options: argparse.Namespace) -> int:
    from ..checkpoints import convert

    how: dict[str, Any] = {"to": options.to, "given": options.given, "config": options.config, "like": options.like}
    with _ending_tidily(), _bar() as progress:
        done = convert(options.source, options.target, **how, progress=progress)
    print(f"{done.tensors} tensors in {done.files} files now pair as {options.to}: {options.target}")
    print(f"attention scores of {done.layers} layers agree to {done.difference:.1e}")
    if done.left_out:
        print(f"not converted and left out: {', '.join(done.left_out)}")
    return 0


@contextlib.contextmanager
def _ending_tidily() -> Generator[None]:
    """Asked to terminate, unwind as for Ctrl-C, so that what is half-written is removed."""
    if threading.current_thread() is not threading.main_thread():  # only it may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL if before is None else before)  # None: one not set from Python


def _pairing(options: argparse.Namespace) -> int:
    from ..checkpoints import by_text, by_weights

    if options.text is None:
        verdict = by_weights(options.source, config=options.config, like=options.like)
    else:
        try:
            from transformers import AutoModelForCausalLM, AutoTokenizer
        except ImportError:
            raise ValueError("--text needs transformers: pip install 'rotary[transformers]'") from None
        text = Path(options.text).read_text(encoding="utf-8")
        given: Any = AutoTokenizer.from_pretrained(options.source)(text, return_tensors="pt")
        model: Any = AutoModelForCausalLM.from_pretrained(options.source)
        tokens = given["input_ids"][:, : options.tokens]
        verdict = by_text(model.eval(), tokens, config=options.config, like=options.like)
    print(verdict.pairing)
    print(f"{verdict.why}; {verdict.confidence:.1f} standard errors")
    return 0


@contextlib.contextmanager
def _bar() -> Generator[Callable[[str, int, int], None]]:
    """A progress bar where rich is installed and somebody watches; else nothing."""
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
