"""Positions -> cos, sin.

cos_sin.py       Tables.at(positions): the one entry, for RotaryEmbedding
frequencies.py   Spectrum: base, dim and schemes -> inv_freq
turns.py         exact angles in fixed-point turns
xpos.py          the decay of xPos
gpu.py           the same tables in one launch on a GPU; gpu_kernel.py is the Triton kernel
"""
