"""Device, versions and commit, which every result file states, and writing such a file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
# Settings of glibc at the start of a process: keep all pages of large tensors (warm), or map new ones for every tensor above 128 KB and
# give them back (cold).
PAGES = {
    "warm": {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(1 << 26)},
    "cold": {"MALLOC_MMAP_THRESHOLD_": str(1 << 17), "MALLOC_MMAP_MAX_": str(1 << 16)},
}


def circumstances(*packages: str) -> dict[str, Any]:
    """Device, versions and commit. A commit that ends in + had uncommitted changes when the numbers were taken."""
    versions = {name: metadata.version(name) for name in ("torch", *packages)}
    return {"device": device(), "python": platform.python_version(), "versions": versions, "commit": commit()}


def device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def commit() -> str:
    """The commit that is checked out; ROTARY_COMMIT where the files were copied without their history."""
    if "ROTARY_COMMIT" in os.environ:
        return os.environ["ROTARY_COMMIT"]

    def git(*arguments: str) -> str:
        return subprocess.run(
            ("git", *arguments), cwd=RESULTS, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        git("rev-parse", "HEAD")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # a copy of the files without their history
    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "../../src") else "")


def write(name: str, result: dict[str, Any], table: str) -> None:
    """results/name.json and results/name.md; the README shows parts of the second, which tests/test_readme.py compares."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    (RESULTS / f"{name}.md").write_text(table.rstrip() + "\n")


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table, the first column left, the others right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
