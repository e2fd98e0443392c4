"""Rotating tensors by ready tables.

    call.py          ordinary calls on a CPU, from arguments to rotated tensors in one crossing into C++
    autograd.py      rotate(): formula, kernel, or kernel inside an autograd node
    wide.py          the same by tables with a column per channel, on a GPU
    backends.py      which kernel runs, and why one is unavailable
    eager.py         the formula in plain torch operations; the other kernels are tested against it, bit for bit on the CPU
    native.py        the CPU kernel, C++ (../_native)
    triton.py        the GPU kernel, host part: tiles, strides, launches; triton_kernel.py is the device part
    overlap.py       preconditions of writing in place
    shards.py        the rotation of distributed tensors (DTensor), each process its own part

A kernel is a module with two functions, held to one contract by tests/_rotation/test_contract.py:

    unavailable() -> str | None
        Why this kernel cannot run on this machine at all; None when it can. Cheap after the first call; never raises.

    rotate(xs, outs, tables, *, seq_dim, interleaved, conjugate) -> str | None
        xs      (q,) or (q, k): plain strided tensors (..., seq at seq_dim, ..., head_dim) of one dtype and one device
        outs    as xs; `outs[i] is xs[i]` for in place, otherwise fresh memory that nothing overlaps
        tables  a (cos, sin) per x: (seq, dim/2) or (1 or batch, seq, dim/2), float64 when x is float64, else float32
        seq_dim not negative; the batch is dimension 0 where a table has rows of its own, and then seq_dim is not 0

        Writes y = x * (cos + i sin), with (cos - i sin) when `conjugate`, into outs, channels past dim copied bit for bit
        (not touched in place). Arithmetic in the dtype of the tables, without fused multiply-add, rounded once to x's dtype.
        Returns None when done, or the reason why it does not serve these tensors, in which case nothing has been written.

The caller (autograd.py) has checked shapes, dtypes, devices and overlaps, and records the gradient; a kernel does neither.
"""
