"""How long does the rotation take on a CPU, beside what a user would pick instead and beside a copy of the same memory?

    python -m benchmarks.cpu.run                    12 minutes; writes results/cpu.json, results/cpu.md and docs/pictures/cpu.png
    python -m benchmarks.cpu.run --only hub onnx    the parts named; prints and writes nothing
    python -m benchmarks.cpu.run --list             the parts, and the lines of the table of targets that they measure
    python -m benchmarks.cpu.run --quick            every part on tiny tensors, seconds; shows that they run, writes nothing

python -m benchmarks.cpu.page then puts the figures into README.md and docs/cpu.md.

Contenders take turns in one process (A B C A B C); figures are medians and their ratios. Two things besides length and dtype decide
what a rotation costs, and are told apart. State: in the *cache* each contender finds q and k where its own call before left them; from
*memory* as many q and k take turns as fill the last cache four times over. Pages: where the allocator maps new pages for each large
output, these are dearer than the rotation. With *cold* pages glibc maps and unmaps every large tensor; with *warm* ones it keeps them.
Each state of pages has a process of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.cpu import calls, forward, hub, model, one_on_one, package
from benchmarks.cpu.load import QUIET, Load
from benchmarks.cpu.measured import Effort, Record
from benchmarks.cpu.report import plot, report
from benchmarks.cpu.targets import LINES, targets
from benchmarks.record import PAGES, circumstances, write
from rotary import backends
from rotary.cli import main as rotary_command
from rotary.cli.machine import described

Part = Callable[[Effort, str], list[Record]]
PARTS: dict[str, tuple[Part, tuple[str, ...]]] = {
    "lengths": (forward.lengths, ("warm", "cold")),
    "breadth": (forward.breadth, ("warm",)),
    "decode": (calls.decode, ("warm",)),
    "tables": (calls.tables, ("warm",)),
    "hub": (one_on_one.hub_lines, ("warm",)),
    "onnx": (one_on_one.onnx_lines, ("warm",)),
    "backward": (calls.backward, ("warm", "cold")),
    "memory": (calls.memory, ("cold",)),
    "package": (package.package, ("warm",)),
    "model": (model.model, ("warm",)),
}
"""What is measured, and in which states of pages."""


def measure(parts: list[str], pages: str, effort: Effort) -> list[Record]:
    """The records of these parts that belong to this state of pages, in which this process has to be already."""
    torch.manual_seed(0)
    chosen = [part for part in parts if pages in PARTS[part][1]]
    return [record for part in chosen for record in PARTS[part][0](effort, pages)]


def in_a_process(parts: list[str], pages: str, effort: Effort) -> list[Record]:
    """The same in a process whose pages are in that state."""
    if not any(pages in PARTS[part][1] for part in parts):
        return []
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [sys.executable, "-m", "benchmarks.cpu.run", "--pages", pages, "--into", file.name]
        command += ["--seconds", str(effort.seconds), "--only", *parts]
        subprocess.run(command, env=os.environ | PAGES[pages], check=True)
        return json.loads(Path(file.name).read_text())


def around(load: Load) -> dict[str, Any]:
    """What the figures depend on besides the code: processor, threads, versions, commit, and what else ran meanwhile."""
    at = circumstances("transformers", "rotary-embedding-torch", "onnxruntime")
    at |= {"processor": described(), "threads": torch.get_num_threads(), "rotates": kernel()}
    return at | {"hub": hub.unavailable() or hub.version(), "busy": load.others()}


def kernel() -> str:
    """The line of `rotary info` on the native kernel: its threads, and what is missing, if anything."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        rotary_command(["info", "--json"])
    return json.loads(printed.getvalue())["backends"]["native"]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--list", action="store_true", help="print the parts and what they are for")
    parser.add_argument("--quick", action="store_true", help="tiny tensors, without torch.compile and installation")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="of measuring for each case, more or less (default 1)"
    )
    parser.add_argument("--note", default="", help="a sentence for the results, on what is particular about this run")
    parser.add_argument("--pages", choices=tuple(PAGES), help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        for part in PARTS:
            print(part, *(f"    {line.work}" for line in LINES if line.part == part), sep="\n")
        return
    if backends()["native"] != "available":
        raise SystemExit(f"there is no native kernel, so there is nothing to measure: {backends()['native']}")
    parts, effort, load = options.only or list(PARTS), Effort(options.seconds, options.quick), Load()
    if options.pages:
        options.into.write_text(json.dumps(measure(parts, options.pages, effort)))
        return
    if not options.quick and (busy := Load.now()) is not None and busy > QUIET:
        print(
            f"Other processes take {busy:.0%} of the cores' time: figures of two threads will be far off.\n", flush=True
        )
    way = measure if options.quick else in_a_process
    records = [record for pages in PAGES for record in way(parts, pages, effort)]
    at = around(load) | {"note": options.note}
    if options.quick or options.only:
        if options.quick:
            print("Quick: tensors are smaller than the lines say, and their figures mean nothing.\n")
        print(targets(records))
        return
    write("cpu", {**at, "records": records}, report(records, at))
    plot(records)
    print(targets(records))


if __name__ == "__main__":
    main()
