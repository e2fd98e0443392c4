"""A native library of another build under the same tests: ROTARY_LIBRARY=path python -m pytest tests/kernels (see sanitize.sh).

With TRITON_INTERPRET=1 the GPU kernel takes part through Triton's interpreter, whose rounding is put right first. ROTARY_CHIP, which has
it take part as it is compiled, is heard in tests/conftest.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from rotary.kernels import cpu

if os.environ.get("TRITON_INTERPRET") == "1":
    from kernels import interpreter as interpreter

if "ROTARY_LIBRARY" in os.environ:
    cpu.LIBRARY = Path(os.environ["ROTARY_LIBRARY"]).resolve(strict=True)
    cpu.SOURCE = cpu.LIBRARY.with_suffix(".cpp")  # not there, so that no build is taken for a stale one
