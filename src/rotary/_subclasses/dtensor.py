"""Every private name of DTensor that this library reads, and the questions about one.

As in _torch.py each name may be missing, and the function that uses it then takes a public, slower way or says what to do.
torch.distributed.tensor is not imported here: that takes longer than importing rotary.
"""

from __future__ import annotations

import copy
import importlib
import sys
from typing import Any

import torch
from torch import Tensor


def several_processes() -> bool:
    """True in a process group of more than one process."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def dtensor_class() -> Any:
    """The class DTensor, or None in a process that has not imported torch.distributed.tensor."""
    module = sys.modules.get("torch.distributed.tensor")
    return getattr(module, "DTensor", None)


def distributed(*values: object) -> bool:
    """True if one of the values is a DTensor."""
    kind = dtensor_class()
    return kind is not None and any(isinstance(value, kind) for value in values)


def private_attribute(x: Any, name: str) -> Any:
    """x.name, or None where this version of torch has no such name."""
    return getattr(x, name, None)


def local_part(x: Any) -> Tensor:
    """The local tensor of the DTensor x, outside autograd. Without the private name: the public to_local(), which takes longer."""
    local = private_attribute(x, "_local_tensor")
    if local is None:
        with torch.no_grad():
            local = x.to_local()
    return local.wait() if type(local) is not Tensor and hasattr(local, "wait") else local  # of a collective under way


def wrapped(local: Tensor, like: Any) -> Any:
    """The DTensor with the shape and placements of `like` and this local tensor. Without the private constructor: the public
    from_local(), 25 microseconds instead of 4."""
    spec = private_attribute(like, "_spec")
    if spec is not None and like.is_contiguous() and local.dtype == like.dtype:
        try:
            return type(like)(local, copy.copy(spec), requires_grad=False)
        except TypeError:  # another signature
            pass
    with torch.no_grad():
        stride = torch.empty_like(torch.empty_strided(like.shape, like.stride(), device="meta")).stride()
        return dtensor_class().from_local(
            local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=stride
        )


def strided_shard(dim: int, factor: int) -> Any:
    """torch's private placement of a dimension that another dimension of the mesh cut first. Called only for a gradient or input
    that has such a placement itself."""
    kind: Any = getattr(importlib.import_module("torch.distributed.tensor.placement_types"), "_StridedShard", None)
    if kind is None:
        raise RuntimeError(
            "this version of torch cannot place a table as _StridedShard: redistribute the gradient first"
        )
    return kind(dim, split_factor=factor)


def ordered(x: Any) -> bool:
    """True if mesh dimensions that cut the same dimension of x do so from the first to the last. Since torch 2.10 a private property
    of the placements may say another order."""
    order: Any = getattr(private_attribute(x, "_spec"), "shard_order", None) or ()
    return all(list(entry.mesh_dims) == sorted(entry.mesh_dims) for entry in order)
