"""Two and four processes over gloo against one: spawned once each, every job of tests/several inside."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch.distributed as dist

from support import warm

pytestmark = pytest.mark.skipif(not dist.is_available(), reason="torch was built without distributed")
pytest.importorskip("torch.distributed.tensor")

from several import behaviour, context, matrix, processes, training  # noqa: E402


def fails(rank: int, world: int, folder: Path) -> None:
    assert rank != 1, "as it is meant to"


ROOT = Path(__file__).parents[1]
JOBS: dict[int, dict[str, processes.Job]] = {
    2: {
        job.__name__: job
        for job in (
            behaviour.compiled,  # first: see there
            behaviour.gradients_elsewhere,
            behaviour.refusals,
            behaviour.modes,
            behaviour.without_private_names,
            behaviour.lying_tables,
            matrix.rotate_by_every_placement,
            matrix.tables_of_the_whole,
            matrix.other_arguments,
            context.shards_of_every_order,
            training.data_parallel,
            training.mixed_precision,
            training.checkpointing,
            training.tensor_parallel,
            training.pipeline,
            training.patched,
            training.seen_by_modes,
            fails,
        )
    },
    4: {
        job.__name__: job
        for job in (
            behaviour.gradients_elsewhere,
            behaviour.refusals,
            behaviour.outside_the_mesh,
            matrix.rotate_on_two_axes,
            matrix.uneven_and_empty,
            matrix.strided,
            matrix.tables_of_the_whole,
            matrix.other_arguments,
            context.shards_of_every_order,
            context.by_torch,
            training.data_parallel,
            training.everything_distributed,
            training.stored,
        )
    },
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, list[str]]]:
    """What went wrong, by number of processes and job."""
    return {world: processes.run(world, jobs, tmp_path_factory.mktemp(f"world{world}")) for world, jobs in JOBS.items()}


@pytest.mark.parametrize(
    ("world", "name"), [(world, name) for world, jobs in JOBS.items() for name in jobs if name != fails.__name__]
)
def test_as_one_process(failures: dict[int, dict[str, list[str]]], world: int, name: str):
    assert not failures[world][name], "\n".join(failures[world][name])


def test_F69_what_would_be_rotated_in_a_temporary_is_refused(failures: dict[int, dict[str, list[str]]]):
    assert not failures[2][behaviour.refusals.__name__] and not failures[4][behaviour.refusals.__name__]


def test_the_test_of_processes_can_fail(failures: dict[int, dict[str, list[str]]]):
    (failure,) = failures[2][fails.__name__]
    assert "rank 1" in failure and "as it is meant to" in failure


# One process makes its tables and rotates, dies, and the others go on: nothing of ours waits for it.
DIES = """
import os, sys
from pathlib import Path
import torch, torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from rotary import RotaryEmbedding
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
mesh, rope = init_device_mesh("cpu", (2,)), RotaryEmbedding(16)
x = torch.randn(2, 2, 4, 16, generator=torch.Generator().manual_seed(0))
spread = DTensor.from_local(x, mesh, [Shard(2)], run_check=False).requires_grad_()
if rank == 1:
    os._exit(7)
import time
time.sleep(2)
for _ in range(10):
    y = rope.rotate(spread, offset=3)
    y.backward(DTensor.from_local(x, mesh, [Shard(2)], run_check=False))
assert torch.equal(y.to_local(), rope.rotate(x, offset=3))
print("went on", flush=True)
os._exit(0)
"""


def test_a_process_that_dies_stops_no_rotation_of_the_others(tmp_path: Path):
    with ThreadPoolExecutor(2) as threads:
        runs = list(threads.map(lambda rank: warm.run("-c", DIES, rank, tmp_path / "store", timeout=60), ("0", "1")))
    assert [run.returncode for run in runs] == [0, 7], runs[0].stderr
    assert runs[0].stdout.strip() == "went on"


def test_importing_rotary_imports_no_distributed_tensors():
    rotated = "rotary.RotaryEmbedding(16).rotate(torch.ones(1, 1, 2, 16))"
    script = f"import sys, rotary, torch; {rotated}; print('torch.distributed.tensor' in sys.modules)"
    run = warm.run("-c", script)
    assert run.stdout.strip() == "False", run.stderr


@pytest.mark.parametrize("options", [(), ("--fsdp",)])
def test_the_example_agrees_with_one_process(options: tuple[str, ...]):
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "4")
    command = (*launcher, str(ROOT / "examples" / "distributed.py"), "--steps", "1", *options)
    run = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "distributed: four processes are one" in run.stdout
