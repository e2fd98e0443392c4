"""One Triton kernel for one set of constants: compiled at its first launch, later launched directly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .._torch import direct_launch
from .._types import Tensors

ACCESS = 16  # bytes that one thread moves at once
MOST = 2**31 - 1024  # numbers of rows and of programs are 32 bits wide in the kernels, addresses 64


@dataclass(eq=False)
class Code:
    """A kernel with its constants. kernel: returns Triton's function. device: the number of the GPU. constants: the constexpr arguments.

    Triton looks a compiled kernel up by the types, divisibility and options of every argument, which costs more than the rest of a
    call (benchmarks/results/gpu_host.md). The constexpr arguments here fix the specialisation except pointer alignment, so only that is
    checked before the compiled kernel is launched directly.
    """

    kernel: Callable[[], Any]
    device: int
    warps: int
    constants: tuple[int, ...]
    direct: Callable[[int, tuple[int, ...]], None] | None = None
    """Launches the compiled kernel for aligned addresses; None until it is compiled."""

    def launch(self, programs: int, tensors: Tensors, integers: tuple[int, ...]) -> None:
        """Queue it on the device's current stream. Parameters of the kernel are the tensors, the integers, then the constants."""
        if tensors[0].is_cuda and self.device != torch.cuda.current_device():
            with torch.cuda.device(self.device):
                self.launch(programs, tensors, integers)
            return
        addresses = [t.data_ptr() for t in tensors]
        bits = 0
        for address in addresses:
            bits |= address
        aligned = not bits % ACCESS
        if aligned and self.direct is not None:
            self.direct(programs, (*addresses, *integers, *self.constants))
            return
        # enable_fp_fusion would contract a * c - b * s and leave out a rounding: off, so that the bits are those of the plain
        # formula under every version of Triton. It would save a tenth of the instructions of a kernel that waits for memory.
        compiled = self.kernel()[(programs,)](
            *tensors, *integers, *self.constants, num_warps=self.warps, enable_fp_fusion=False
        )
        if aligned and compiled is not None:  # None from the interpreter
            self.direct = direct_launch(compiled, self.device)
