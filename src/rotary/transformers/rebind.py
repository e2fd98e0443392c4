"""Make a method call another function in place of a global one.

A rebound method is a copy of the method, for a subclass of its class (patched_class.py). The copy's code object is the original's with some
names replaced: where the original reads the global `apply_rotary_pos_emb`, the copy reads a private global such as
`__rotary_apply_rotary_pos_emb_7`, which holds the replacement. Both share the live globals of the module that defines them, so later
changes of other globals reach both.

Why not a wrapper around the function: it would have to be set in the library's module, and so change every model of that library
(docs/design/0007-recognised-by-behaviour.md).

Names are replaced in `co_names`, which has held the names of globals, attributes and imports in all of Python 3; checked on 3.10 to 3.13
with nested functions, comprehensions, class bodies and code that the interpreter had specialised. What is left alone, because
renaming cannot reach it or would break it:

- methods without Python code: C functions, functools.partial, callable objects;
- a function that is not read as a global: an attribute (`module.rotate`), a closure variable, a default value, `globals()[name]`;
- a name that the same code also uses for an attribute or an import, since `co_names` has one entry for all uses of a name;
- globals of a decorator that comes from another module than the method;
- a method that is reached through super() alone.

A Python without `co_names` or `CodeType.replace` would break it; tests/transformers/test_rebind.py would fail there.
"""

from __future__ import annotations

import dis
import functools
import itertools
import types
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from .wrapper import Replacement

_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME"}  # LOAD_NAME: in class bodies
_counter = itertools.count()


def rebind(method: Any, replacements: Mapping[str, Any]) -> Any:
    """A copy of the method that calls the replacement of each of these globals.

    The private globals are removed when the copy is garbage-collected, which a deep copy of the model may delay beyond the handle.
    """
    names = {name: f"__rotary_{name}_{next(_counter)}" for name in replacements}
    namespace = _namespace(method)
    copy = _copy(method, names, namespace)
    for name, private in names.items():
        namespace[private] = replacements[name]
        weakref.finalize(copy, namespace.pop, private, None)
    return copy


def wrap_method(method: Any, replacement: Replacement, *, static: bool) -> Any:
    """A method that returns what the replacement computes, or calls the original if the replacement cannot compute it."""

    @functools.wraps(method)
    def of_instance(self: Any, *args: Any, **kwargs: Any) -> Any:
        y = replacement.try_rotate(args, kwargs)
        return method(self, *args, **kwargs) if y is None else y

    @functools.wraps(method)
    def of_class(*args: Any, **kwargs: Any) -> Any:
        y = replacement.try_rotate(args, kwargs)
        return method(*args, **kwargs) if y is None else y

    return mark_as_patched(of_class if static else of_instance)


def mark_as_patched(function: Any) -> Any:
    """The function, with the mark by which is_patched() knows it."""
    function.__rotary__ = True
    return function


def is_patched(method: Any) -> bool:
    return getattr(getattr(method, "__func__", method), "__rotary__", False) is True


def places(module: nn.Module, name: str, method: Any) -> list[str]:
    """The attributes of an instance through which this method of its class is called: its own name; or, if a wrapper has that name on the
    instance (a hook of accelerate), those of the bound originals that the wrapper calls. Empty if the instance has a method of its own and
    no original."""
    if name not in module.__dict__:
        return [name]
    return [
        key
        for key, value in module.__dict__.items()
        if isinstance(value, types.MethodType) and value.__func__ is method and value.__self__ is module
    ]


def methods(module_class: type) -> Iterator[tuple[str, Callable[..., Any], bool]]:
    """(name, function, is static) of the methods that a class and its bases define, up to the first class of torch."""
    seen: set[str] = set()
    for base in module_class.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            return
        for name, value in vars(base).items():
            static = isinstance(value, staticmethod)
            function = value.__func__ if static else value
            if name not in seen and isinstance(function, types.FunctionType):
                seen.add(name)
                yield name, function, static


def behind_super(module_class: type) -> Iterator[tuple[str, Callable[..., Any], str]]:
    """(name, function, name of its class) of the methods that a class overrides by one that calls super(), or the class by its name."""
    overriding: dict[str, list[Callable[..., Any]]] = {}
    for base in module_class.__mro__:
        if base is nn.Module or base.__module__.startswith("torch."):
            return
        for name, value in vars(base).items():
            if isinstance(value, types.FunctionType):
                if any(_reads(method, {"super", base.__name__}) for method in overriding.get(name, ())):
                    yield name, value, base.__name__
                overriding.setdefault(name, []).append(value)


def _reads(method: Callable[..., Any], names: set[str]) -> bool:
    return any(names & _names(code) for code in _codes(method))


def called_functions(method: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    """The functions that a method's code reads from its globals, by the names it reads them under."""
    namespace = _namespace(method)
    functions: dict[str, Callable[..., Any]] = {}
    for name in sorted(set[str]().union(*map(_names, _codes(method)))):
        value = namespace.get(name)
        if isinstance(
            value, nn.Module
        ):  # the package kernels puts a module in the place of a decorated function, its attribute func
            value = getattr(value, "func", None) or getattr(type(value), "func", None)
        if isinstance(value, types.FunctionType) and "global" in _uses(method, name):
            functions[name] = value
    return functions


def is_replaceable(method: Callable[..., Any], name: str) -> bool:
    """Whether the method's code uses the name for a global alone."""
    return _uses(method, name) == {"global"}


def _uses(method: Callable[..., Any], name: str) -> set[str]:
    """What a method's code uses a name for: {"global"}, {"other"} (attributes, imports), or both."""
    return set[str]().union(*(_uses_in(code, name) for code in _codes(method)))


def _uses_in(code: types.CodeType, name: str) -> set[str]:
    uses = set[str]().union(*(_uses_in(nested, name) for nested in _nested(code)))
    if name in code.co_names:
        for instruction in dis.get_instructions(code):
            if instruction.opcode in dis.hasname and instruction.argval == name:
                uses.add("global" if instruction.opname in _GLOBAL_READS else "other")
    return uses


def _codes(method: Callable[..., Any]) -> list[types.CodeType]:
    """The code of a method and of its decorators from the same module: the code in which names are replaced."""
    namespace = _namespace(method)
    return [layer.__code__ for layer in _layers(method) if layer.__globals__ is namespace]


def _namespace(method: Any) -> dict[str, Any]:
    """The globals of the module that defines the method, which may not be the module of its decorators."""
    return list(_layers(method))[-1].__globals__


def _layers(function: Any) -> Iterator[types.FunctionType]:
    """A function and the functions that its decorators wrap, outermost first."""
    while isinstance(function, types.FunctionType):
        yield function
        function = getattr(function, "__wrapped__", None)


def _nested(code: types.CodeType) -> list[types.CodeType]:
    return [constant for constant in code.co_consts if isinstance(constant, types.CodeType)]


def _names(code: types.CodeType) -> set[str]:
    return set(code.co_names).union(*map(_names, _nested(code)))


def _copy(function: Any, names: Mapping[str, str], namespace: dict[str, Any]) -> Any:
    """A copy of the function, and of the functions it wraps, with names replaced in the code of those that read this namespace."""
    if not isinstance(function, types.FunctionType):
        return function
    wrapped = getattr(function, "__wrapped__", None)
    inner = _copy(wrapped, names, namespace) if wrapped is not None else None
    cells = function.__closure__
    if wrapped is not None and cells is not None:
        cells = tuple(types.CellType(inner) if _contains(cell, wrapped) else cell for cell in cells)
    code = _rename(function.__code__, names) if function.__globals__ is namespace else function.__code__
    copy = types.FunctionType(code, function.__globals__, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__dict__.update(function.__dict__)
    copy.__doc__, copy.__module__, copy.__qualname__ = function.__doc__, function.__module__, function.__qualname__
    copy.__annotations__ = function.__annotations__
    if wrapped is not None:
        copy.__dict__["__wrapped__"] = inner
    return mark_as_patched(copy)


def _contains(cell: types.CellType, value: Any) -> bool:
    try:
        return cell.cell_contents is value
    except ValueError:  # an empty cell
        return False


def _rename(code: types.CodeType, names: Mapping[str, str]) -> types.CodeType:
    constants = tuple(_rename(c, names) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    return code.replace(co_names=tuple(names.get(name, name) for name in code.co_names), co_consts=constants)
