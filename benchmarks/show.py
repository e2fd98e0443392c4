"""How long does `rotary show` take to print its first line, beside importing torch alone?

    python -m benchmarks.show       1 minute; writes results/show.json and results/show.md

Each run is a process of its own, in turn. Expected are 0.3 s more than torch: only the package itself and a config of one page are read.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.record import circumstances, table, write

COMMANDS = {
    "import torch": ("-c", "import torch; print('torch')"),
    "rotary show": ("-m", "rotary", "show"),
    "rotary show gemma-3-4b --compare yarn:4": ("-m", "rotary", "show", "gemma-3-4b", "--compare", "yarn:4"),
}
TURNS = 9


def first_line(arguments: tuple[str, ...]) -> float:
    """Seconds from the start of the interpreter until it has written a line."""
    start = time.perf_counter()
    with subprocess.Popen((sys.executable, *arguments), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline()
        seconds = time.perf_counter() - start
        process.stdout.read()
    return seconds


if __name__ == "__main__":
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(TURNS + 1):
        for name, arguments in COMMANDS.items():
            taken = first_line(arguments)
            if turn:  # the first fills the file cache
                seconds[name].append(taken)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    torch = medians["import torch"]
    rows = [[f"`{name}`", f"{median:.2f}", f"{median - torch:.2f}"] for name, median in medians.items()]
    found = {**circumstances(), "turns": TURNS, "median seconds to the first line": medians}
    page = table(["command", "first line after [s]", "beyond torch [s]"], rows)
    write("show", found, f"Medians of {TURNS} turns, {found['device']}, commit {found['commit']}.\n\n{page}")
    print(page)
