"""A native library of another build under the same tests: ROTARY_LIBRARY=path python -m pytest tests/kernels (see sanitize.sh).

With TRITON_INTERPRET=1 the GPU kernel takes part through Triton's interpreter, whose rounding is put right first. With ROTARY_CHIP=90
(or 80, 100) it takes part as it is compiled for that chip, its instructions run in software.
"""

from __future__ import annotations

import os
from pathlib import Path

from rotary.kernels import cpu

if os.environ.get("TRITON_INTERPRET") == "1":
    from kernels import interpreter as interpreter

elif "ROTARY_CHIP" in os.environ:
    from kernels import software_gpu

    software_gpu.install(int(os.environ["ROTARY_CHIP"]))

if "ROTARY_LIBRARY" in os.environ:
    cpu.LIBRARY = Path(os.environ["ROTARY_LIBRARY"]).resolve(strict=True)
    cpu.SOURCE = cpu.LIBRARY.with_suffix(".cpp")  # not there, so that no build is taken for a stale one
