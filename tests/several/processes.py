"""Several gloo processes on this machine, started once for a whole list of jobs; a process that dies ends the test, never hangs it.

They are forked from a process that imports torch's distributed tensors and has used no thread: 3 s of a core, once for all of them.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

Job = Callable[[int, int, Path], None]
"""job(rank, world, folder): asserts."""

FIRST = (
    "torch",
    "torch.distributed.tensor",
    "torch.distributed.fsdp",
    "torch.distributed.tensor.parallel",
    "torch._dynamo",
)
"""What is imported before they part."""
SECONDS = 300
"""After which a process that still runs says where it is and goes: of a job that waits for another, for ever."""


def run(world: int, jobs: dict[str, Job], folder: Path) -> dict[str, list[str]]:
    """Run the jobs one after the other in `world` processes. name -> what went wrong, by rank; empty where nothing did."""
    multiprocessing.set_forkserver_preload(list(FIRST))
    arguments = (world, jobs, str(folder))
    context: Any = torch.multiprocessing.start_processes(
        _process, args=arguments, nprocs=world, join=False, start_method="forkserver"
    )
    end = time.monotonic() + SECONDS + 30
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f"{world} processes did not end within {SECONDS + 30} seconds")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return {name: [p.read_text() for p in sorted(folder.glob(f"{name}.*.failed"))] for name in jobs}


def _process(rank: int, world: int, jobs: dict[str, Job], folder: str) -> None:
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world, timeout=timedelta(seconds=60)
    )
    for name, job in jobs.items():
        started = time.monotonic()
        try:
            job(rank, world, Path(folder))
        except Exception:
            (Path(folder) / f"{name}.{rank}.failed").write_text(f"rank {rank}\n{traceback.format_exc()}")
        (Path(folder) / f"{name}.{rank}.seconds").write_text(f"{time.monotonic() - started:.1f}")
        dist.barrier()  # a job that failed in one process may have left others at different places
    os._exit(0)  # gloo's threads do not always survive an orderly end (seen once: terminate, SIGABRT)
