"""How long is the host of a GPU busy with one rotation? It needs no GPU: Triton launches for an H200 on a driver that does nothing.

    python -m benchmarks.gpu.host           10 seconds; writes results/gpu_host.json and results/gpu_host.md
    python -m benchmarks.gpu.host 50        blocks of 50 calls instead of 500, some seconds; writes nothing

A step that decodes one token waits for the host and not for the device, which needs two microseconds. Here everything up to the
driver runs as it does with a GPU: checks, allocation of outputs, our launcher, Triton's launcher. Missing are the driver's part of a
launch, one or two microseconds each, and torch.cuda's queries of devices. Times are of this machine: compare columns.

Flash-attention and Liger are measured where they can be imported (their folders on PYTHONPATH; both are Python alone). They switch the
device around a launch; here that switch does nothing, to their advantage. Most of the time of flash-attention's calls goes to
torch.library.wrap_triton, through which it launches.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(tempfile.mkdtemp())
LIBRARY = FOLDER / "libcuda.so.1"
CALLS = 500
BLOCKS = 15


def build() -> ctypes.CDLL:
    source = Path(__file__).with_name("no_driver.c")
    subprocess.run(
        (os.environ.get("CC", "cc"), "-w", "-shared", "-fPIC", f"-Wl,-soname,{LIBRARY.name}", "-o", LIBRARY, source),
        check=True,
    )
    (FOLDER / "libcuda.so").symlink_to(LIBRARY)
    os.environ["TRITON_LIBCUDA_PATH"] = str(FOLDER)
    return ctypes.CDLL(str(LIBRARY), mode=ctypes.RTLD_GLOBAL)


def install() -> None:
    """Triton's own driver over that library; CPU tensors pass for those of the device."""
    from triton.backends.nvidia import driver as nvidia
    from triton.runtime.driver import driver

    from rotary._rotation import backends
    from rotary._rotation import triton as launcher
    from rotary._triton import devices

    class Driver(nvidia.CudaDriver):
        def __init__(self) -> None:
            self.utils, self.launcher_cls = nvidia.CudaUtils(), nvidia.CudaLauncher
            self.get_device_capability = lambda device: (9, 0)
            self.get_current_device = lambda: 0
            self.set_current_device = lambda device: None
            self.get_current_stream = lambda device: 0

    driver.set_active(Driver())
    devices.interpreting = lambda: True  # whether CPU tensors may be served
    launcher.unavailable.cache_clear()
    launcher._multiprocessors = lambda device: 132
    backends._BY_DEVICE["cpu"] = "triton"
    torch.cuda.device = lambda index: contextlib.nullcontext()  # pyright: ignore


def contenders(batch: int, seq: int) -> dict[str, Any]:
    from rotary import RotaryEmbedding, apply_rotary_qk

    rope = RotaryEmbedding(128)
    q, k = (torch.randn(batch, seq, heads, 128).bfloat16().transpose(1, 2) for heads in (32, 8))
    cos, sin = rope.cos_sin(seq)
    calls = {
        "rotary, tables ready": lambda: apply_rotary_qk(q, k, cos, sin),
        "rotary, tables ready, in place": lambda: apply_rotary_qk(q, k, cos, sin, inplace=True),
        "rotary, tables": lambda: rope.cos_sin(torch.arange(7, 7 + seq)),
        "rotary, rotate(offset=7)": lambda: rope.rotate(q, k, offset=7),
        "two allocations alone": lambda: (torch.empty_like(q), torch.empty_like(k)),
        "the launch alone": launch_alone(q, k, cos, sin),
    }
    with contextlib.suppress(ImportError):
        flash = importlib.import_module("flash_attn.layers.rotary").apply_rotary_emb
        a, b, half_cos, half_sin = q.transpose(1, 2), k.transpose(1, 2), cos.bfloat16(), sin.bfloat16()
        calls["flash-attention, q then k"] = lambda: (flash(a, half_cos, half_sin), flash(b, half_cos, half_sin))
        calls["flash-attention, q then k, in place"] = lambda: (
            flash(a, half_cos, half_sin, inplace=True),
            flash(b, half_cos, half_sin, inplace=True),
        )
    with contextlib.suppress(ImportError):
        liger = importlib.import_module("liger_kernel.ops.rope").LigerRopeFunction.apply
        whole = [torch.cat((t, t), -1).bfloat16()[None] for t in (cos, sin)]
        calls["Liger, in place"] = lambda: liger(q, k, *whole)
    return calls


def launch_alone(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Any:
    """The time of Triton's launcher alone, with the kernel and its arguments known."""
    from unittest import mock

    from rotary import apply_rotary_qk
    from rotary._rotation import call
    from rotary._triton.launch import Code

    call.rotate = call.plan = call.rotate_at = call.tables_at = call.declined  # they take CPU tensors for what they are
    apply_rotary_qk(q, k, cos, sin)
    with mock.patch.object(Code, "launch", autospec=True) as seen:
        apply_rotary_qk(q, k, cos, sin)
    code, programs, tensors, integers = seen.call_args.args
    arguments = (*(t.data_ptr() for t in tensors), *integers, *code.constants)
    return lambda: code.direct(programs, arguments)


def measure(calls: dict[str, Any], count: int, library: ctypes.CDLL) -> dict[str, tuple[float, int]]:
    """Median microseconds per call, in turns of blocks, and launches per call."""
    launches: dict[str, int] = {}
    for name, call in calls.items():
        for _ in range(20):
            call()
        before = library.no_driver_launches()
        call()
        launches[name] = library.no_driver_launches() - before
    times: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for _ in range(BLOCKS):
            for name, call in calls.items():
                start = time.perf_counter()
                for _ in range(count):
                    call()
                times[name].append(1e6 * (time.perf_counter() - start) / count)
    return {name: (statistics.median(result), launches[name]) for name, result in times.items()}


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CALLS
    library = build()
    install()
    from benchmarks.record import circumstances, table, write

    shapes = {"1 token": (1, 1), "128 tokens": (1, 128), "256 rows of 1 token": (256, 1)}
    result = {name: measure(contenders(*shape), count, library) for name, shape in shapes.items()}
    names = next(iter(result.values()))
    rows = [[name, str(names[name][1]), *(f"{result[shape][name][0]:.1f}" for shape in shapes)] for name in names]
    at = circumstances("triton")
    text = f"""# Host time of a rotation [us], with a driver that does nothing

`python -m benchmarks.gpu.host`, {at["device"]}, torch {at["versions"]["torch"]}, triton {at["versions"]["triton"]}, commit {at["commit"]}.
32 + 8 heads of 128, bfloat16, no gradients; medians of {BLOCKS} blocks of {count} calls, contenders in turn.

{table(["", "launches", *shapes], rows)}
"""
    print(text)
    if count == CALLS:
        write("gpu_host", {**at, "found": result}, text)


if __name__ == "__main__":
    main()
