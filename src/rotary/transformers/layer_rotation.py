"""LayerRotation: which layers of a model rotate the keys that they cache, read off the source of their attention.

    if self.sliding_window is not None:                       decided by the module's own attributes
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
    if position_embeddings is not None: ...                   depends on the caller: the config decides, where it has a key for it

A cache does not record what was done to its keys, and families leave layers out in ways of their own. Each path through forward is
followed, into other methods of the module too; where the module's attributes decide, the path that this module takes.
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from .expressions import NONE, Expressions
from .handle import Report
from .spec import RotationSpec

_Outcomes = frozenset[bool]
"""Whether a rotation was called, for each path: {True} on all paths, {True, False} on some."""
_NO: _Outcomes = frozenset({False})
_YES: _Outcomes = frozenset({True})
_EITHER = _NO | _YES
_LEAVES = (ast.Name, ast.Constant, ast.expr_context, ast.operator)


class LayerRotation:
    """Which layers of a patched model rotate. config: of its text model, or None. report: of its patch."""

    def __init__(self, model: nn.Module, config: Any, report: Report) -> None:
        self._name, self._config = type(model).__name__, config
        recognised = [key for key in report.replaced if isinstance(key[3], RotationSpec)]
        self._rotations = {method if function == "itself" else function for _, method, function, _ in recognised}
        self._left = {function: reason for (_, function), reason in report.left.items()}
        modules = [m for m in model.modules() if type(getattr(m, "layer_idx", None)) is int]
        caching = {module_class: _caches_keys(module_class) for module_class in {type(m) for m in modules}}
        self._attention = [m for m in modules if caching[type(m)]]
        owners = {owner for owner, *_ in recognised}
        self._anywhere = [m for m in model.modules() if type(m).__name__ in owners]
        layers: Any = getattr(config, "num_hidden_layers", None)
        self.count: int = max([layers if type(layers) is int else 0, *(_layer(m) + 1 for m in self._attention)])
        """How many layers the model has; 0 where nothing says so."""

    def of_layer(self, index: int) -> bool:
        """Whether the layer rotates. ValueError where its source does not show it, or where it rotates in a way that was not recognised."""
        modules = [m for m in self._attention if _layer(m) == index] if self._attention else self._anywhere
        if not modules:
            raise ValueError(
                f"no module of {self._name} with layer_idx {index} caches keys: pass a cache of this model"
            )
        paths = [_Paths(module, self._rotations, self._left) for module in modules]
        outcomes = frozenset[bool]().union(*(path.of_method("forward") for path in paths))
        for path in paths:
            for name in path.left:
                raise ValueError(
                    f"layer {index} rotates by {name}, which the patch left: {self._left[name]}; move keys by RotaryEmbedding.rerotate"
                )
        if len(outcomes) == 1:
            return True in outcomes
        by_config = _by_config(self._config, index)
        if by_config is None:
            names = " and ".join(dict.fromkeys(type(module).__name__ for module in modules))
            tests = (
                ", ".join(dict.fromkeys(test for path in paths for test in path.undecided))
                or "only one of them rotates"
            )
            raise ValueError(
                f"the code of {names} does not show whether the keys of layer {index} are rotated ({tests}), and the config does not say: "
                f"move keys by RotaryEmbedding.rerotate"
            )
        return by_config


def _layer(module: nn.Module) -> int:
    index: Any = module.layer_idx
    return index


def _caches_keys(module_class: type) -> bool:
    """Whether forward, or one that it may call by super(), has the code cache.update(keys, values, self.layer_idx)."""
    return any({"update", "layer_idx"} <= {*code.co_names} for code in _definitions(module_class, "forward"))


def _by_config(config: Any, index: int) -> bool | None:
    """What the config says of a layer; None if nothing."""
    bases: Any = getattr(config, "layer_rope_theta", None)
    if isinstance(bases, list) and index < len(bases):
        return bool(bases[index])
    layer_types: Any = getattr(config, "layer_types", None)
    rope: Any = getattr(config, "rope_parameters", None)
    layer_type = layer_types[index] if isinstance(layer_types, list) and index < len(layer_types) else None
    if isinstance(rope, Mapping) and layer_type in rope:
        return rope[layer_type] is not None
    kind: Any = getattr(config, "position_embedding_type", None)
    if isinstance(kind, str):
        return kind in ("rope", "rotary")
    alibi: Any = getattr(config, "alibi", None)
    return not alibi if isinstance(alibi, bool) else None


class _Paths:
    """The paths through the methods of one module.

    rotations: global functions and methods that rotate. left: the reasons why functions were left by the patch.
    After a call of of_method: self.left, those of them that a path calls; self.undecided, the tests on which the outcome depends.
    """

    def __init__(self, module: nn.Module, rotations: set[str], left: Mapping[str, str]) -> None:
        self._module, self._rotations, self._reasons = module, rotations, left
        self._following: list[types.CodeType] = []
        self._ends: list[_Outcomes] = []
        self._this = "self"
        self.left: list[str] = []
        self.undecided: list[str] = []

    def of_method(self, name: str, *, above: bool = False) -> _Outcomes:
        """Whether a method rotates. above: by super() from the method that is followed."""
        codes = _definitions(type(self._module), name)
        if above and self._following and self._following[-1] in codes:
            codes = codes[codes.index(self._following[-1]) + 1 :]
        if not codes or codes[0] in self._following:
            return _NO
        tree = _tree(codes[0])
        if tree is None:
            self.undecided.append(f"the source of {name} cannot be read")
            return _EITHER
        outside = self._this
        self._this = tree.args.args[0].arg if tree.args.args else ""
        self._following.append(codes[0])
        self._ends.append(frozenset())
        outcomes = self._block(tree.body, _NO) | self._ends[-1]
        self._following.pop()
        self._ends.pop()
        self._this = outside
        return outcomes

    def _block(self, statements: Iterable[ast.stmt], arriving: _Outcomes) -> _Outcomes:
        """The outcomes of the paths that reach the end of a block; those of the paths that return are in self._ends."""
        for node in statements:
            match node:
                case ast.If(test=test, body=body, orelse=orelse):
                    arriving = _then(arriving, self._of(test))
                    arriving = self._one_of(
                        test, [self._block(branch, arriving) for branch in self._taken(test, body, orelse)]
                    )
                case ast.Return():
                    self._ends[-1] |= _then(arriving, self._of(node))
                    return frozenset()
                case ast.Raise():
                    return frozenset()
                case ast.For(body=body) | ast.While(body=body) | ast.With(body=body) | ast.Try(body=body):
                    arriving = self._block(body, arriving)  # a loop runs at least once, and a try succeeds
                case ast.FunctionDef() | ast.Match() if True in self._of(node):
                    self.undecided.append("a rotation in a nested function, or in a case of match")
                    arriving = _then(arriving, _EITHER)
                case _:
                    arriving = _then(arriving, self._of(node))
        return arriving

    def _of(self, node: ast.AST) -> _Outcomes:
        """Whether a rotation is called where this node is evaluated."""
        if isinstance(node, _LEAVES):
            return _NO
        match node:
            case ast.IfExp(test=test, body=body, orelse=orelse):
                return self._one_of(test, [self._of(branch[0]) for branch in self._taken(test, [body], [orelse])])
            case ast.Call(func=ast.Name(id=name)) if name in self._rotations:
                return _YES
            case ast.Call(func=ast.Name(id=name)) if name in self._reasons:
                self.left.append(name)
            case ast.Call(func=ast.Attribute(value=ast.Name(id=this), attr=name)) if this == self._this:
                called = _YES if name in self._rotations else self.of_method(name)
                return _then(called, *map(self._of, ast.iter_child_nodes(node)))
            case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name)):
                return _then(self.of_method(name, above=True), *map(self._of, ast.iter_child_nodes(node)))
            case _:
                pass
        return _then(_NO, *map(self._of, ast.iter_child_nodes(node)))

    def _taken(self, test: ast.expr, body: Any, orelse: Any) -> list[Any]:
        """The branches that this module may take."""
        taken = Expressions(self._this, self._module, NONE, {}).decided(test)
        return [body, orelse] if taken is None else [body if taken else orelse]

    def _one_of(self, test: ast.expr, branches: list[_Outcomes]) -> _Outcomes:
        if len({branch for branch in branches if branch}) > 1:  # an empty one raises
            self.undecided.append(ast.unparse(test))
        return frozenset[bool]().union(*branches)


def _then(*outcomes: _Outcomes) -> _Outcomes:
    """The outcomes of paths one after the other."""
    return functools.reduce(lambda before, after: frozenset(a or b for a in before for b in after), outcomes)


def _definitions(module_class: type, name: str) -> list[types.CodeType]:
    """The code of each method of that name in a class and its bases, without decorators; a patched method counts as its original."""
    codes: dict[tuple[str, int], types.CodeType] = {}
    for base in module_class.__mro__:
        method = vars(base).get(name)
        function: Any = inspect.unwrap(getattr(method, "__func__", method)) if method is not None else None
        if isinstance(function, types.FunctionType) and base is not nn.Module:
            codes.setdefault((function.__code__.co_filename, function.__code__.co_firstlineno), function.__code__)
    return list(codes.values())


@functools.lru_cache(maxsize=64)
def _tree(code: types.CodeType) -> ast.FunctionDef | None:
    """The source of a method; None where it cannot be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return None
    return tree if isinstance(tree, ast.FunctionDef) else None
