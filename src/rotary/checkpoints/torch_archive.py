"""Open a file of torch.save from an untrusted source: tensors alone, mapped and not read, and no code of the file runs.

torch.load(mmap=True, weights_only=True) makes tensors whose memory is the file. The archive is checked before: a compressed record could
expand to more than the machine's memory, and a pickle is read whole, so that none may be larger than a header of safetensors.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from .._checks import describe
from .files import regular
from .signature import mistaken

_LARGEST_PICKLE = 100_000_000
_MOST_RECORDS = 1_000_000

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
"""Dtypes that a file may have -> their names in the format of safetensors."""


def tensors_of(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict, by name, in the order of the file; their memory is the file, mapped.

    ValueError for what is no such file: another object than a dict of tensors; compressed or overlong records; the format before torch
    1.6, which cannot be mapped; tensors that are not dense, not on a CPU, or larger than their storage.
    """
    _check_archive(regular(path))
    try:
        state_dict: Any = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, EOFError, pickle.UnpicklingError) as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"{path} holds more than tensors, or is damaged: {reason[:300]}") from None
    if not isinstance(state_dict, Mapping):
        raise ValueError(f"{path} holds a {type(state_dict).__name__}, not a dict of tensors by their names")
    if not state_dict:
        raise ValueError(f"{path} holds an empty dict; a dict of tensors by their names is needed")
    for name, tensor in cast("Mapping[Any, Any]", state_dict).items():
        _check_tensor(path, name, tensor)
    return dict(cast("Mapping[str, Tensor]", state_dict))


def _check_archive(path: Path) -> None:
    """ValueError unless it is a zip archive as torch.save writes it: nothing compressed, nothing encrypted, a pickle of bounded size."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError) as error:
        what = mistaken(path) or f"{error}; is it complete?"
        raise ValueError(f"{path} is no archive of torch.save: {what}") from None
    if len(records) > _MOST_RECORDS:
        raise ValueError(f"{path} has {len(records):,} records, more than {_MOST_RECORDS:,}")
    for record in records:
        if record.compress_type != zipfile.ZIP_STORED or record.file_size > size:
            raise ValueError(
                f"{path}: {describe(record.filename)} is compressed or larger than the file; torch.save writes no such record"
            )
        if record.filename.endswith(".pkl") and record.file_size > _LARGEST_PICKLE:
            raise ValueError(
                f"{path}: the pickle {describe(record.filename)} has {record.file_size:,} bytes, more than {_LARGEST_PICKLE:,}"
            )


def _check_tensor(path: Path, name: Any, tensor: Any) -> None:
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        value = "a dict; save that dict alone" if isinstance(tensor, Mapping) else describe(tensor)
        raise ValueError(f"{path}: a dict of tensors by their names is needed, and {describe(name)} is {value}")
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise ValueError(f"{path}: {name} is {describe(tensor)}, not a dense tensor with values")
    if tensor.dtype not in DTYPES:
        raise ValueError(
            f"{path}: {name} is {tensor.dtype}, which is not converted; known: {', '.join(DTYPES.values())}"
        )
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{path}: {name} {tuple(tensor.shape)} is larger than what the file holds of it")
