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
    """Whether this process is one of a group of several, which may hold other parts of the same tensors."""
    group = torch.distributed
    return group.is_available() and group.is_initialized() and group.get_world_size() > 1


def dtensor_class() -> Any:
    """DTensor, or None in a process that has not imported torch.distributed.tensor and so has none. It is not imported here: that
    takes longer than importing rotary."""
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
    """What this process holds of the DTensor x, outside autograd. Without the private name: the public to_local(), which takes longer."""
    local = private_attribute(x, "_local_tensor")
    if local is None:
        with torch.no_grad():
            local = x.to_local()
    return local.wait() if type(local) is not Tensor and hasattr(local, "wait") else local  # of a collective under way


def wrapped(local: Tensor, like: Any) -> Any:
    """A DTensor placed as `like` is and of its shape, with this local part. Without the private constructor: the public from_local(),
    which takes 25 microseconds in the place of 4."""
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
    """torch's private placement of a dimension that was cut by another dimension of the mesh first. Only asked for where one came."""
    kind: Any = getattr(importlib.import_module("torch.distributed.tensor.placement_types"), "_StridedShard", None)
    if kind is None:
        raise RuntimeError(
            "this version of torch cannot place a table as _StridedShard: redistribute the gradient first"
        )
    return kind(dim, split_factor=factor)


def ordered(x: Any) -> bool:
    """Whether a dimension of the DTensor x that is cut along several dimensions of its mesh is cut along them from the first to the
    last. torch has had another order since 2.10, as a private property of a placement."""
    order: Any = getattr(private_attribute(x, "_spec"), "shard_order", None) or ()
    return all(list(entry.mesh_dims) == sorted(entry.mesh_dims) for entry in order)
