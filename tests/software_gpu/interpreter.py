"""Triton's interpreter, made to round to bfloat16 as the hardware does.

Triton 3.9's own (triton.runtime.interpreter, `_convert_float`) cuts the low bits off instead of rounding to nearest, and loses
denormals: a defect of the interpreter alone, which would otherwise look like one of the kernel. Import this after setting
TRITON_INTERPRET=1 and before the first launch.
"""

from __future__ import annotations

from typing import Any

import torch
import triton.language as tl
from triton.runtime import interpreter

from rotary._rotation import call

# They would take CPU tensors for what they are.
call.rotate = call.plan = call.rotate_at = call.tables_at = call.declined
_as_it_is = interpreter.InterpreterBuilder.cast_impl


def _cast(self: Any, source: Any, to: Any) -> Any:
    kinds = source.dtype.scalar, to.scalar
    if kinds == (tl.float32, tl.bfloat16):
        rounded = torch.tensor(source.data).to(torch.bfloat16).view(torch.uint16).numpy()
        return interpreter.TensorHandle(rounded, tl.bfloat16)
    if kinds == (tl.bfloat16, tl.float32):
        widened = torch.tensor(source.data).view(torch.bfloat16).to(torch.float32).numpy()
        return interpreter.TensorHandle(widened, tl.float32)
    return _as_it_is(self, source, to)


interpreter.InterpreterBuilder.cast_impl = _cast
