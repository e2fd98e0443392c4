"""One kernel of Triton's for given constants: compiled at its first launch, launched past Triton's own look-ups from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ACCESS = 16  # bytes that one thread moves at once
MOST = 2**31 - 1024  # numbers of rows and of programs are 32 bits wide in the kernels, addresses 64
Short = Callable[[int, "tuple[int, ...]"], None]


@dataclass(eq=False)
class Code:
    """kernel: gives Triton's function. device: the number of the GPU. constants: all that the kernel was compiled for beside types.

    Triton finds a compiled kernel again by types, divisibility and options of every argument, which costs more than all the rest of a
    call. Here constants decide everything but the alignment of addresses, so that one question is left: are all divisible by 16?
    """

    kernel: Callable[[], Any]
    device: int
    warps: int
    constants: tuple[int, ...]
    short: Short | None = None

    def launch(self, programs: int, tensors: tuple[Tensor, ...], integers: tuple[int, ...]) -> None:
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
        if aligned and self.short is not None:
            self.short(programs, (*addresses, *integers, *self.constants))
            return
        # enable_fp_fusion would contract a * c - b * s and leave out a rounding: pinned, so that the bits are those of the plain
        # formula under every version of Triton. It is a tenth of a thread's instructions, where memory is what is waited for.
        compiled = self.kernel()[(programs,)](
            *tensors, *integers, *self.constants, num_warps=self.warps, enable_fp_fusion=False
        )
        if aligned and compiled is not None:  # None from the interpreter
            self.short = _short(compiled, self.device)


def _short(compiled: Any, device: int) -> Short:
    from triton.runtime.driver import driver

    try:
        from triton.knobs import runtime as hooks
    except ImportError:  # before 3.4
        return lambda programs, arguments: compiled[(programs, 1, 1)](*arguments)
    active: Any = driver.active
    stream_of = active.get_current_stream
    run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata

    def launch(programs: int, arguments: tuple[int, ...]) -> None:
        hook = hooks.launch_enter_hook  # a profiler's: a function, or a chain of them that may be empty
        if getattr(hook, "calls", hook):
            compiled[(programs, 1, 1)](*arguments)
        else:
            run(programs, 1, 1, stream_of(device), function, metadata, None, None, None, *arguments)

    return launch
