"""RMSNorm, rotation and cache write in one pass.

    autograd.py      norm_rotate(): formula, kernel, or kernel inside an autograd node
    storing.py       store(): rotation and write, without a gradient
    backends.py      which kernel runs
    eager.py         the formula in plain torch operations, its gradients, the write: the other kernels are tested against it
    sums.py          the order of addition, within a row and over rows
    work.py          Norm and Store, the settings of a norm and the tensors of a write, as values
    native.py        the CPU kernel, C++ (../_native)
    triton.py        the GPU kernel, host part; triton_kernel.py is the device part
    triton_backward.py  its gradient, host part; triton_gradient.py is the device part
    triton_rows.py   how both cut rows into blocks, host part; triton_blocks.py is the device part

A kernel is a module with four functions, held to one contract by tests/_fused/test_contract.py:

    unavailable() -> str | None
        Why this kernel cannot run on this machine at all; None when it can. Cheap after the first call; never raises.

    norm_rotate(xs, outs, weights, tables, norm, *, seq_dim, interleaved) -> str | None
        xs, outs, tables, seq_dim   as in ../_rotation: `outs[i] is xs[i]` for in place
        weights                     for each x (head_dim,) in the dtype of x, on its device, or None
        norm                        a work.Norm

        Writes into outs, with arithmetic in the dtype W of the tables, no fused multiply-add, each operation rounded to W:

            v = x in W                                                       after:  v = rotated x, first rounded to x's dtype if `model`
            r = 1 / sqrt(halves(v v) (1/head_dim) + eps)                     root and quotient each rounded correctly
            n = v r, rounded to x's dtype if `model`
            n = n (weight + weight_offset), rounded to x's dtype if `model`  the sum in W and left out where weight_offset is 0
            y = n rotated, rounded to x's dtype                              after:  y = n, rounded to x's dtype

        halves: the order of addition of sums.by_halves, over all channels of a head. Channels past the rotated ones are normalised like
        the others.

    norm_rotate_backward(grads, xs, grad_xs, grad_weights, weights, tables, norm, *, seq_dim, interleaved) -> str | None
        grads                       of outs, shapes and dtype of xs
        grad_xs                     fresh memory, as xs
        grad_weights                for each x (head_dim,) in W, fresh memory, or None where none is wanted or there is no weight

        Writes both: the formula of eager.gradients, and the sum over rows in the order of sums.over_rows, whatever the threads.

    rotate_and_store(xs, outs, weights, tables, norm, store, *, seq_dim, interleaved) -> str | None
        xs                          (k,) or (q, k); norm None: rotated alone, and weights are None
        store                       a work.Store: values, caches and slots

        As norm_rotate (or ../_rotation's rotate); then the rotated key and the value of every token whose slot is not negative are copied
        bit for bit to cache[slot // page, slot % page]. Slots are in range and different where they were checked (CPU).

    Each returns None when done, or the reason why it does not serve these tensors, in which case nothing has been written.

The caller has checked shapes, dtypes, devices, overlaps and slots, and records the gradient. A kernel raises the version counter of the
tensors that it writes through addresses.
"""
