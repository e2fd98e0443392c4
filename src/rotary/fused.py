"""The rotation and its neighbours in one pass over memory: the norm of queries and keys before it, the write into a cache after it.

    norm_rotate               RMSNorm over head_dim, then the rotation; or after it
    rotate_and_store          the rotation, then keys and values into a cache by slot
    norm_rotate_and_store     all three

Nearly fifty families of models normalise q and k per head right before they rotate them (docs/fused.md lists them with their formulas).
Norms over the whole projection, and LayerNorms, are not these: apply them before the reshape into heads, then rotate as usual.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor

from . import _inputs
from ._fused import autograd, storing
from ._fused.work import Norm
from ._inputs.fused import check_no_mix, for_norm, for_store
from ._operators import norm as norm_operator
from ._operators import store as store_operator
from ._subclasses import nested
from ._subclasses.dtensor import dtensor_class
from ._torch import compiling
from ._types import CosSin


def norm_rotate(
    q: Tensor,
    k: Tensor,
    cos: Tensor,
    sin: Tensor,
    *,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    eps: float,
    weight_offset: float = 0.0,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    rounding: Literal["once", "model"] = "once",
    after: bool = False,
    seq_dim: int = -2,
    interleaved: bool = False,
    inplace: bool = False,
) -> tuple[Tensor, Tensor]:
    """Normalise each head of q and k, x / sqrt(mean(x^2) + eps) (weight + weight_offset), and rotate it.

    q, k, cos, sin, key_cos, key_sin, seq_dim, interleaved: as in apply_rotary_qk. The mean is over all of head_dim, and channels past the
        rotated ones are normalised too. DTensors: all of the tensors, weights included, or none; they go by torch's own rules, without a
        kernel, which local parts (to_local()) have.
    q_weight, k_weight: (head_dim,) in the dtype of q and k, or None for a norm without weight.
    eps: > 0, inside the root. weight_offset: 1.0 for Gemma's (1 + weight).
    rounding: "once": all of it in float32 (float64 for float64), rounded to the dtype of q and k at the end. "model": rounded after the
        norm and after the weight as well, as models do that return weight * x.to(dtype) (LlamaRMSNorm, Qwen3RMSNorm); with after=True,
        after the rotation too. Less accurate, and the bits of the model's own norm but for the order of a sum.
    after: rotate first, then normalise (HunYuan, Llama 4, nanochat). An attention factor in cos and sin is then cancelled by the norm.
    inplace: write over q and k and return the same objects; only where no gradient is wanted, since the backward pass reads them.

    Returns (q, k) with the dtype of q and the strides of empty_like. Differentiable in q, k, both weights, cos and sin; kept for the
    backward pass are the arguments alone. The gradient of a weight has the same bits on any number of threads.

    Source: RMSNorm, Zhang and Sennrich 2019 (arXiv:1910.07467), equation 4; on queries and keys, Henry et al. 2020 (arXiv:2010.04245).

    TypeError for another dtype of a weight; ValueError for shapes, devices or numbers that do not fit, a weight over heads x head_dim
    among them; RuntimeError where writing in place would be wrong, before anything is written.

    >>> import torch
    >>> q = k = torch.tensor([[3.0, 4.0]])
    >>> norm_rotate(q, k, torch.tensor([[0.0]]), torch.tensor([[1.0]]), q_weight=None, k_weight=None, eps=1e-6)[0]
    tensor([[-1.1314,  0.8485]])
    """
    _inputs.check_flags(interleaved=interleaved, inplace=inplace)
    norm: dict[str, Any] = {
        "q_weight": q_weight,
        "k_weight": k_weight,
        "eps": eps,
        "weight_offset": weight_offset,
        "rounding": rounding,
        "after": after,
        "interleaved": interleaved,
    }
    if type(q) is not Tensor and nested.is_jagged(q):
        return nested.apply(
            lambda xs, t, **how: norm_rotate(*xs, *t[:2], key_cos=t[2], key_sin=t[3], **norm, **how),
            (q, k),
            (cos, sin, key_cos, key_sin),
            seq_dim=seq_dim,
            inplace=inplace,
        )
    if dtensor_class() is not None:
        check_no_mix(q=q, k=k, cos=cos, sin=sin, key_cos=key_cos, key_sin=key_sin, q_weight=q_weight, k_weight=k_weight)
    axis, tables = _inputs.for_pair(q, k, cos, sin, key_cos, key_sin, seq_dim)
    checked = for_norm(q, k, q_weight, k_weight, eps, weight_offset, rounding, after)
    call = norm_operator.norm_rotate if compiling() else autograd.norm_rotate
    q, k = call((q, k), (q_weight, k_weight), tables, checked, seq_dim=axis, interleaved=interleaved, in_place=inplace)
    return q, k


def rotate_and_store(
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    *,
    q: Tensor | None = None,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    seq_dim: int = -2,
    interleaved: bool = False,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Rotate keys, and queries where they are given, and copy rotated keys and the values into a cache.

    k: (batch, heads, seq, head_dim), (batch, seq, heads, head_dim), (tokens, heads, head_dim) or (heads, tokens, head_dim), with the
        sequence at seq_dim; of DTensors the local parts. v: as k; its last dimension may differ. cos, sin, key_cos, key_sin,
        interleaved: as in apply_rotary_qk.
    cache_k, cache_v: (pages, page, heads, head_dim) in the dtype of k, any strides: a cache with heads before the rows of a page is given
        as cache.transpose(1, 2). A static cache has a page for each batch entry.
    slots: (batch, seq) or (batch x seq,) integers, where each token goes: number of the page x page + row. -1 stores nothing. On the CPU
        slots outside of the cache or given twice are refused; on a device they are not read, and what they do is undefined.
    inplace: write over k, and q, and return the same objects.

    Returns (q, k), rotated: the keys of these tokens, for an attention that does not read them from the cache. q is None if it was not
    given. Nothing is differentiated through a cache: RuntimeError where a gradient is wanted.

    TypeError for dtypes, ValueError for shapes, devices and slots that do not fit, RuntimeError for memory that is shared, before anything
    is written.

    >>> import torch
    >>> cache_k, cache_v = torch.zeros(2, 1, 4, 1, 2)
    >>> k = v = torch.tensor([[[1.0, 0.0]]])
    >>> _, k = rotate_and_store(k, v, torch.tensor([[0.0]]), torch.tensor([[1.0]]), cache_k, cache_v, torch.tensor([2]))
    >>> cache_k[0, :, 0], cache_v[0, 2, 0]
    (tensor([[0., 0.],
            [0., 0.],
            [0., 1.],
            [0., 0.]]), tensor([1., 0.]))
    """
    _inputs.check_flags(interleaved=interleaved, inplace=inplace)
    if dtensor_class() is not None:
        check_no_mix(q=q, k=k, cos=cos, sin=sin, key_cos=key_cos, key_sin=key_sin)
    first, name = (k, "k") if q is None else (q, "q")
    axis, tables = _inputs.for_pair(first, k, cos, sin, key_cos, key_sin, seq_dim, name)
    return _store(q, k, (None, None), tables, None, v, cache_k, cache_v, slots, axis, interleaved, inplace)


def norm_rotate_and_store(
    k: Tensor,
    v: Tensor,
    cos: Tensor,
    sin: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    *,
    k_weight: Tensor | None,
    eps: float,
    q: Tensor | None = None,
    q_weight: Tensor | None = None,
    weight_offset: float = 0.0,
    key_cos: Tensor | None = None,
    key_sin: Tensor | None = None,
    rounding: Literal["once", "model"] = "once",
    after: bool = False,
    seq_dim: int = -2,
    interleaved: bool = False,
    inplace: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Normalise and rotate keys, and queries where they are given, and copy these keys and the values into a cache.

    The norm and its arguments as in norm_rotate, the cache and the rest as in rotate_and_store. A q_weight without a q is a TypeError.

    Returns (q, k), normalised and rotated; q is None if it was not given.
    """
    if q is None and q_weight is not None:
        raise TypeError("q_weight without q: give both, or neither")
    _inputs.check_flags(interleaved=interleaved, inplace=inplace)
    if dtensor_class() is not None:
        check_no_mix(q=q, k=k, cos=cos, sin=sin, key_cos=key_cos, key_sin=key_sin, q_weight=q_weight, k_weight=k_weight)
    first, name = (k, "k") if q is None else (q, "q")
    axis, tables = _inputs.for_pair(first, k, cos, sin, key_cos, key_sin, seq_dim, name)
    norm = for_norm(q, k, q_weight, k_weight, eps, weight_offset, rounding, after)
    weights = q_weight, k_weight
    return _store(q, k, weights, tables, norm, v, cache_k, cache_v, slots, axis, interleaved, inplace)


def _store(
    q: Tensor | None,
    k: Tensor,
    weights: tuple[Tensor | None, Tensor | None],
    tables: tuple[CosSin, CosSin],
    norm: Norm | None,
    v: Tensor,
    cache_k: Tensor,
    cache_v: Tensor,
    slots: Tensor,
    seq_dim: int,
    interleaved: bool,
    in_place: bool,
) -> tuple[Tensor | None, Tensor]:
    stored = for_store(k, v, cache_k, cache_v, slots, seq_dim)
    first = 1 if q is None else 0  # of what is rotated
    xs = (k,) if q is None else (q, k)
    if compiling():
        ys = store_operator.store(
            xs,
            weights[first:],
            tables[first:],
            norm,
            (v, cache_k, cache_v, stored.slots),
            seq_dim=seq_dim,
            interleaved=interleaved,
            in_place=in_place,
        )
    else:
        ys = storing.store(
            xs,
            weights[first:],
            tables[first:],
            norm,
            stored,
            seq_dim=seq_dim,
            interleaved=interleaved,
            in_place=in_place,
        )
    return (None if q is None else ys[0]), ys[-1]
