"""Private kernels. eager, cpu and triton have the same two functions, held to one contract by tests/kernels/test_contract.py; tables
makes cos and sin on a GPU; code, tiles and axes are how GPU kernels are launched, how much of the work each program takes, and how
tensors look to them.

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

The caller (rotary.dispatch) has checked shapes, dtypes, devices and overlaps, and has settled autograd: a kernel differentiates nothing.
"""

from contextvars import ContextVar

CHOSEN: ContextVar[str | None] = ContextVar("rotary_backend", default=None)
"""The name given to rotary.use_backend, which also says who makes tables; None where nobody chose."""
