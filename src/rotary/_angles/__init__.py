"""Positions -> cos, sin.

cos_sin.py       Tables.at(positions): the entry for every call that ../_rotation/call.py does not hand to C++ as a whole
frequencies.py   Spectrum: base, dim and schemes -> inv_freq
turns.py         exact angles in fixed-point turns
polynomials.py   what cos, sin and exp are, wherever they are computed
xpos.py          the decay of xPos
exact.py         exact tables, by the first of the next three that can make them here; all have the same bits
native.py        by the native library, on a CPU
gpu.py           by one launch on a GPU; gpu_kernel.py is the Triton kernel
eager.py         by plain torch operations; real positions and the arithmetic of transformers too
integers.py      positions in int64, and their range
work.py          the arguments of the first two, as a value
plan.py          the numbers of a module's tables, packed once for the native library
rerotation.py    tables that move keys which are rotated already
progression.py   the geometric progression and its schemes, in float64 and in float32
"""
