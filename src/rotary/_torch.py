"""Every private name of torch and Triton that this library reads, and the questions it answers.

Private names change without notice. Each is looked up here, once, and each may be missing: the function that uses it then gives the
safe answer, slower or less detailed but never wrong, and `import rotary` works. tests/test_torch.py removes them one by one.
Those of DTensor are in _subclasses/dtensor.py. Private methods of nn.Module that are overridden are in _buffers.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

PRIVATE: list[str] = []
"""The dotted names that were asked for, in the order of this file."""


def _private(module: str, name: str) -> Any:
    """module.name, or None where this version of torch has no such name."""
    PRIVATE.append(f"{module}.{name}")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


# The innermost functorch transform, None outside of any (torch 2.0). Without it: as if always inside one, so that the formula runs.
_peek_interpreter_stack = _private("torch._C._functorch", "peek_interpreter_stack")
# How many dispatch modes (fake tensors, make_fx) are on (torch 1.11). Without it: as if one always were.
_len_torch_dispatch_stack = _private("torch._C", "_len_torch_dispatch_stack")
# The modes that fake, functionalise or record (make_fx), and the key of each (torch 2.0). Without them: as if every mode did.
_get_dispatch_mode = _private("torch._C", "_get_dispatch_mode")
_TorchDispatchModeKey = _private("torch._C", "_TorchDispatchModeKey")
# Turns dispatch modes off (torch 2.0). Without it: a module cannot be constructed under fake tensors.
_disable_current_modes = _private("torch.utils._python_dispatch", "_disable_current_modes")
# Whether torch.jit.trace records (torch 1.6). Without it: torch.jit.is_tracing, which asks the same and costs 0.06 of 13 us more.
_is_tracing = _private("torch._C", "_is_tracing") or torch.jit.is_tracing  # pyright: ignore[reportPrivateImportUsage]
# Whether a tensor is batched by the vmap behind is_grads_batched=True (torch 2.0). Without it: no kernel where a gradient is wanted.
_is_legacy_batchedtensor = _private("torch._C._functorch", "is_legacy_batchedtensor")
# The level of forward-mode differentiation, -1 outside (torch 1.8). Without it: as if always inside.
_private("torch.autograd.forward_ad", "_current_level")  # read at each call, since it changes
# Leaves the autograd key while an operator is called again (torch 1.9). Without it: the operators compute by the formula there.
_AutoDispatchBelowAutograd = _private("torch._C", "_AutoDispatchBelowAutograd")
# How a view was made (torch 1.11). Without it: autograd refuses some in-place calls itself, in its own words.
_get_creation_meta = _private("torch._C._autograd", "_get_creation_meta")
# Whether a mode of __torch_function__ is on (torch 2.2). Without it: no call goes whole into C.
_is_torch_function_mode_enabled = _private("torch._C", "_is_torch_function_mode_enabled")
# Raises the version counters of several tensors at once (torch 2.5). Without it: the public function, which takes one a time there.
_increment_version = _private("torch._C", "_increment_version")
# The extension module, through which libtorch's C function torch_parallel_for is found. Without it: CPU loops run on one thread.
_extension = _private("torch", "_C")


def transforming() -> bool:
    """True inside a functorch transform (grad, vmap, jvp, batched gradients)."""
    return _peek_interpreter_stack is None or _peek_interpreter_stack() is not None


def tracing() -> bool:
    """True under torch.compile, torch.export, fake tensors, functorch transforms or jit tracing, when new tensors may not be plain
    tensors and their values may not be read. An ordinary dispatch mode, which sees operators and lets them run, is none of these."""
    return (
        torch.compiler.is_compiling()
        or _len_torch_dispatch_stack is None
        or (_len_torch_dispatch_stack() > 0 and _faking())
        or transforming()
        or _is_tracing()
    )


_FAKING = tuple(
    key for name in ("FAKE", "PROXY", "FUNCTIONAL") if (key := getattr(_TorchDispatchModeKey, name, None)) is not None
)


def _faking() -> bool:
    """True if one of the modes that are on makes fake or functional tensors, or records a program; True where torch does not say."""
    if _get_dispatch_mode is None or not _FAKING:
        return True
    return any(_get_dispatch_mode(key) is not None for key in _FAKING)


def watched() -> bool:
    """True if a dispatch mode is on, which is to see operators: selective checkpointing, FlopCounterMode, CommDebugMode, a user's own."""
    return _len_torch_dispatch_stack is None or _len_torch_dispatch_stack() > 0


def compiling() -> bool:
    """True under torch.compile, whose programs run in this process; False under torch.export, whose programs may run anywhere."""
    exporting = getattr(torch.compiler, "is_exporting", None)
    return torch.compiler.is_compiling() and exporting is not None and not exporting()


def onnx_exporting() -> bool:
    """True under torch.onnx.export(..., dynamo=True). False where that says nothing: before torch 2.9, and inside dynamo, which the
    exporter takes where its first way fails. The rotation is exported as the plain formula then."""
    compiler = torch.compiler
    return compiler.is_compiling() and not compiler.is_dynamo_compiling() and torch.onnx.is_in_onnx_export()


def jit_tracing() -> bool:
    """True while torch.jit.trace records."""
    return not torch.compiler.is_compiling() and _is_tracing()  # a compiler cannot trace the second question


def forward_mode() -> bool:
    """True inside forward-mode differentiation (torch.autograd.forward_ad.dual_level)."""
    return getattr(forward_ad, "_current_level", 0) >= 0


def _may_be_batched(x: Tensor) -> bool:
    return torch.is_grad_enabled()


batched_gradient: Callable[[Tensor], bool] = _is_legacy_batchedtensor or _may_be_batched
"""True if x is batched by the vmap of is_grads_batched=True, which has no functorch interpreter."""


@contextmanager
def plain_torch() -> Generator[None, None, None]:
    """Plain CPU tensors inside, whatever is on around the call: fake tensors, a default device, inference mode, autocast."""
    with (
        contextlib.nullcontext() if _disable_current_modes is None else _disable_current_modes(),
        torch.device("cpu"),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
    ):
        yield


def below_autograd() -> Any:
    """A context in which an operator that is called again skips its autograd implementation; None where torch has none."""
    return None if _AutoDispatchBelowAutograd is None else _AutoDispatchBelowAutograd()


def view_origin(x: Tensor) -> str | None:
    """Why autograd refuses to change the view x in place: "MULTI_OUTPUT_NODE" (split, unbind), "NO_GRAD_MODE", ...; None if it does
    not refuse, or if this version of torch does not say."""
    meta = None if _get_creation_meta is None else _get_creation_meta(x)
    name = getattr(meta, "name", "DEFAULT")
    return None if name == "DEFAULT" else name


def base_of(x: Tensor) -> Tensor | None:
    """The tensor that x is a view of."""
    return x._base if x._is_view() else None


def has_hooks(module: nn.Module) -> bool:
    """Whether something sees what module(x) returns, or its gradient: a hook on it. Hooks of all modules do not count."""
    return any(
        getattr(module, name, True)
        for name in ("_forward_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_always_called")
    )


def implement(library: torch.library.Library, name: str, function: Callable[..., Any], keys: Sequence[str]) -> None:
    """Register function for these dispatch keys. The keys of vmap are private: where torch lacks one, that vmap raises by itself."""
    for key in keys:
        try:
            library.impl(name, function, key)
        except (RuntimeError, ValueError):
            if "Batched" not in key:
                raise


@functools.cache
def parallel_for() -> int | None:
    """The address of torch_parallel_for, libtorch's thread pool as a C function (torch 2.10); None where there is none."""
    try:
        return ctypes.cast(ctypes.CDLL(_extension.__file__).torch_parallel_for, ctypes.c_void_p).value
    except (OSError, AttributeError, TypeError):
        return None


def exchange_api() -> Any:
    """The table of C functions through which torch's tensors are read without its headers (DLPack, torch 2.10); None where there is
    none."""
    return getattr(Tensor, "__dlpack_c_exchange_api__", None)


def questions() -> tuple[Callable[[], Any], ...] | None:
    """Functions whose answers are all false where an operation on plain tensors is no more than that: no mode, no transform, no
    trace. None where this version of torch cannot be asked one of them."""
    asked = (_len_torch_dispatch_stack, _is_torch_function_mode_enabled, _peek_interpreter_stack, _is_tracing)
    return None if None in asked else asked


def version(x: Tensor) -> int | None:
    """The number of writes into x that torch has counted; None where it counts none, in inference mode."""
    return None if x.is_inference() else getattr(x, "_version", None)


increment_versions: Callable[[tuple[Tensor, ...]], None] = _increment_version or torch.autograd.graph.increment_version
"""Counts a write into each of several tensors that are no inference tensors."""


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64. MPS and some NPUs do not, and say so by raising."""
    return True if device.type in ("cpu", "cuda", "meta") else _computes_in_float64(device.type)


@functools.cache
def _computes_in_float64(device_type: str) -> bool:
    try:
        with plain_torch():
            torch.ones(1, dtype=torch.float64, device=device_type).cos()
    except (RuntimeError, TypeError):
        return False
    return True


# --- Triton ------------------------------------------------------------------------------------------------------------------

TESTED_TRITON = ((3, 4), (3, 9))
"""The versions whose compiled kernels direct_launch() was tested on, first and last."""


def triton_driver() -> Any:
    """Triton's driver, built when it is first asked for; raises where Triton cannot build it (no C compiler)."""
    from triton.runtime.driver import driver

    active: Any = driver.active
    return active


def direct_launch(compiled: Any, device: int) -> Callable[[int, tuple[int, ...]], None]:
    """launch(programs, arguments) of a compiled Triton kernel, past Triton's look-up of the kernel by its arguments.

    Triton's own route finds the kernel again by the type, divisibility and options of every argument, which costs more than the rest
    of a call (benchmarks/results/gpu_host.md). The direct route has a private signature, which changed between versions: outside
    TESTED_TRITON, and under a profiler's hook, the compiled kernel's public call is taken.
    """
    import triton

    def public(programs: int, arguments: tuple[int, ...]) -> None:
        compiled[(programs, 1, 1)](*arguments)

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    if not TESTED_TRITON[0] <= version <= TESTED_TRITON[1]:
        return public
    try:
        from triton.knobs import runtime as hooks

        stream_of = triton_driver().get_current_stream
        run, function, metadata = compiled.run, compiled.function, compiled.packed_metadata
    except (ImportError, AttributeError):
        return public

    def launch(programs: int, arguments: tuple[int, ...]) -> None:
        hook = hooks.launch_enter_hook  # a profiler's: a function, or a chain of them that may be empty
        if getattr(hook, "calls", hook):
            public(programs, arguments)
        else:
            run(programs, 1, 1, stream_of(device), function, metadata, None, None, None, *arguments)

    return launch
