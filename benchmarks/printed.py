"""What longer programs print: the examples on real input, and the check of every family. The documentation quotes lines of it.

python -m benchmarks.printed              8 minutes on two cores; writes results/printed.json and results/printed.md
python -m benchmarks.printed multimodal   one of them; what the files hold of the others stays
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import record

ROOT = Path(__file__).parents[1]
PROGRAMS = {
    "vision": ("examples/vision.py", "--out"),
    "multimodal": ("examples/multimodal.py",),
    "streaming": ("examples/streaming.py",),
    "check_families": ("-m", "tools.check_families"),
}


def printed(name: str) -> str:
    """Standard output of a program, 120 columns wide. CalledProcessError where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *PROGRAMS[name], *([folder] if PROGRAMS[name][-1] == "--out" else [])]
        environment = os.environ | {"COLUMNS": "120", "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        if done.returncode and name != "check_families":  # it ends with 1 for the one problem that is known
            raise SystemExit(f"{name} failed:\n{done.stdout}")
        return "\n".join(line.rstrip() for line in done.stdout.replace(folder, "out").splitlines()).strip()


def report(result: dict[str, dict[str, str]]) -> str:
    parts = [
        "# What longer programs print\n\nEach by `python -m benchmarks.printed NAME`, with the device and commit of that run."
    ]
    for name, one in result.items():
        command = " ".join(word for word in PROGRAMS[name] if word != "--out")
        parts.append(
            f"## {name}\n\n`python {command}`, {one['device']}, torch {one['torch']}, commit {one['commit']}.\n\n"
            f"```text\n{one['output']}\n```"
        )
    return "\n\n".join(parts)


def main() -> None:
    path = record.RESULTS / "printed.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    for name in sys.argv[1:] or PROGRAMS:
        at = record.circumstances()
        output = printed(name)
        print(f"--- {name}\n{output}", flush=True)
        result[name] = {
            "device": at["device"],
            "torch": at["versions"]["torch"],
            "commit": at["commit"],
            "output": output,
        }
        record.write("printed", result, report(result))


if __name__ == "__main__":
    main()
