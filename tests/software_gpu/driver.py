"""A GPU made of software under Triton: kernels are compiled for a chip that need not be there, and run by ptx.py on CPU tensors.

From the call of the library to the last store everything is what a GPU would get: the plan, the compiled code, the arguments in
their order and width. This command runs the battery this way (tests/conftest.py):

    ROTARY_CHIP=90 python -m pytest tests/_rotation tests/_angles -k "triton or test_gpu"
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.compiler import CompiledKernel
from triton.runtime.driver import driver

from rotary._rotation import backends, call
from rotary._rotation import triton as launcher
from rotary._triton import devices
from rotary._triton.launch import Code
from software_gpu import ptx

_RANGE = {"i32": 1 << 31, "i64": 1 << 63}
_memory: list[tuple[int, int]] = []
"""Where the tensors of the present launch lie: all that a kernel may touch."""
launches: list[int] = []
"""Programs of each launch so far."""
texts: list[str] = []
"""PTX of each kernel that was loaded so far."""


class Utils:
    """What Triton asks of a chip's driver while it loads a kernel. The handle of a function is the function."""

    def load_binary(self, name: str, binary: bytes, shared: int, device: int) -> tuple[Any, ...]:
        return name, ptx.parse(texts[-1]), 0, 0, 1024

    def unload_module(self, module: str) -> None:
        pass

    def get_device_properties(self, device: int) -> dict[str, int]:
        return {"max_shared_mem": 100_000, "multiprocessor_count": 4}


class Launcher:
    """Arguments as Triton's own launcher takes them: one for each name of the signature, those known to the compiler left out."""

    def __init__(self, source: Any, metadata: Any) -> None:
        self.kinds = tuple(source.signature.values())
        self.shared = metadata.shared

    def __call__(self, x: int, y: int, z: int, stream: int, function: ptx.Program, *more: Any) -> None:
        _, launch_metadata, enter, leave, *arguments = more
        assert y == z == 1
        values: list[int] = []
        for kind, argument in zip(self.kinds, arguments, strict=True):
            if kind == "constexpr":
                continue
            if kind.startswith("*"):
                argument = argument.data_ptr() if isinstance(argument, Tensor) else argument
            else:
                assert -_RANGE[kind] <= argument < _RANGE[kind], f"{argument} is no {kind}"
            values.append(int(argument))
        values += [0] * (len(function.sizes) - len(values))  # two scratch memories, which no kernel here asks for
        launches.append(x)
        for hook in (enter, leave):  # as Triton's own launcher calls them
            if hook is not None:
                hook(launch_metadata)
        ptx.run(function, x, values, _memory, self.shared)


class Driver(DriverBase):
    """One device, without streams."""

    def __init__(self, chip: int) -> None:
        self.chip = chip
        self.utils, self.launcher_cls = Utils(), Launcher

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.chip, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_device_capability(self, device: int) -> tuple[int, int]:
        return divmod(self.chip, 10)

    def get_active_torch_device(self) -> Any:
        raise RuntimeError("there is none")

    def map_python_to_cpp_type(self, kind: str) -> str:
        raise RuntimeError("nothing is compiled for the host")

    def get_benchmarker(self) -> Any:
        raise RuntimeError("nothing is timed here")


def install(chip: int) -> None:
    """Have the launcher serve CPU tensors, first of all kernels, and Triton compile for this chip and run in software, in this process."""

    load = CompiledKernel._init_handles

    def remembering(self: CompiledKernel) -> None:
        if self.module is None:
            texts.append(self.asm["ptx"])
        load(self)

    CompiledKernel._init_handles = remembering
    launch = Code.launch

    def noting(self: Code, programs: int, tensors: tuple[Tensor, ...], integers: tuple[int, ...]) -> None:
        storages = [tensor.untyped_storage() for tensor in tensors]
        _memory[:] = [(storage.data_ptr(), storage.data_ptr() + storage.nbytes()) for storage in storages]
        launch(self, programs, tensors, integers)

    Code.launch = noting
    driver.set_active(Driver(chip))
    backends._BY_DEVICE["cpu"] = "triton"
    call.rotate = call.plan = call.rotate_at = call.tables_at = (
        call.declined
    )  # which would take CPU tensors for what they are
    devices.interpreting = lambda: True  # what it decides by: whether CPU tensors may be served
    launcher.unavailable.cache_clear()
