"""Expressions of a method: which norms a value may be the result of, and where such a value goes out of sight.

A value is followed through names, views, conditional expressions and assignments, and into calls of rotations. Any other use of it is
the reason why its norm may not be deferred: a false "used" costs speed alone, a false "unused" would be a wrong result.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping

from torch import nn

from .views import VIEWS

NormNames = frozenset[str]
"""The norms whose result a value may be, by their attributes: {"q_norm"}."""
Variables = dict[str, NormNames]
"""variable -> what it may be."""
NONE: NormNames = frozenset()

_SHARED_ATTRIBUTES = frozenset({"shape", "dtype", "device", "ndim"})
"""Attributes that a norm's input and its result have alike: reading one is no use of the result."""


def writes(node: ast.AST) -> bool:
    """Whether code writes into a tensor: `x += y`, `x[i] = y`, `x.add_(y)`, `f(x, out=y)`."""
    match node:
        case ast.AugAssign() | ast.Subscript(ctx=ast.Store()):
            return True
        case ast.Call(func=function, keywords=keywords):
            name = function.attr if isinstance(function, ast.Attribute) else ""
            return (name.endswith("_") and not name.endswith("__")) or any(
                k.arg in ("out", "inplace") for k in keywords
            )
        case _:
            return False


class Expressions:
    """The expressions of one method, followed one after the other.

    called: the norms that the method calls. reasons: why a norm may not be deferred, the first reason found.
    rotated: for each call of a rotation, the norms that each of its tensors may come from.
    """

    def __init__(self, this: str, module: nn.Module, norms: NormNames, rotations: Mapping[str, int]) -> None:
        self.called: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.rotated: list[tuple[NormNames, ...]] = []
        self._this, self._module, self._norms, self._rotations = this, module, norms, rotations
        self._ever: Variables = {}
        self._mentioned: list[ast.Name] = []

    def value(self, node: ast.expr, variables: Variables) -> NormNames:
        """What an expression may be."""
        match node:
            case ast.Name(id=name):
                return variables.get(name, NONE)
            case ast.NamedExpr(target=target, value=value):
                names = self.value(value, variables)
                self.assign(target, names, variables)
                return names
            case ast.IfExp(test=test, body=body, orelse=orelse):
                taken = self.decided(test)
                if taken is None:
                    self.use(test, variables)
                branches = [body, orelse] if taken is None else [body if taken else orelse]
                return frozenset().union(*(self.value(branch, variables) for branch in branches))
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute, ctx=ast.Load()) if self._is_norm(
                owner, attribute
            ):
                self.called.add(attribute)  # the norm itself gets another name, under which calls are not followed
                self._leak(frozenset({attribute}), node)
                return NONE
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id=owner), attr=attribute)) if self._is_norm(
                owner, attribute
            ):
                return NONE  # an attribute of the norm: its weight, its eps
            case ast.Attribute(value=value, attr=attribute):
                names = self.value(value, variables)
                if attribute not in _SHARED_ATTRIBUTES:
                    self._leak(names, node)
                return NONE
            case ast.Call(func=function, args=arguments, keywords=keywords):
                return self._call(node, function, [*arguments, *(k.value for k in keywords)], variables)
            case ast.Lambda():
                self.mention(node, variables)
                return NONE
            case _:
                for child in ast.iter_child_nodes(node):
                    self.use(child, variables)
                return NONE

    def values(self, node: ast.expr, variables: Variables) -> list[NormNames] | NormNames:
        """What an expression may be; for a tuple, what each of its elements may be."""
        if isinstance(node, ast.Tuple):
            return [self.value(element, variables) for element in node.elts]
        return self.value(node, variables)

    def assign(self, target: ast.expr, names: list[NormNames] | NormNames, variables: Variables) -> None:
        """Enter into variables what a target holds from here on. names: as values() gives them."""
        whole = frozenset().union(*names) if isinstance(names, list) else names
        match target:
            case ast.Name(id=name):
                variables[name] = whole
                self._ever[name] = self._ever.get(name, NONE) | whole
            case ast.Tuple(elts=targets) if isinstance(names, list) and len(names) == len(targets):
                for element, element_names in zip(targets, names, strict=True):
                    self.assign(element, element_names, variables)
            case ast.Tuple(elts=targets):
                for element in targets:
                    self.assign(element, whole, variables)
            case _:  # an attribute or an element of a container: out of sight from here on
                self._leak(whole, target)
                self.use(target, variables)

    def use(self, node: ast.AST, variables: Variables) -> None:
        """Follow a part of a statement whose value goes where it is not followed any further."""
        if isinstance(node, ast.Starred | ast.keyword | ast.FormattedValue):
            self.use(node.value, variables)
        elif isinstance(node, ast.expr):
            self._leak(self.value(node, variables), node)
        else:
            for child in ast.iter_child_nodes(node):
                self.use(child, variables)

    def mention(self, node: ast.AST, variables: Variables) -> None:
        """Count as used every norm that a piece of code names, and every norm that a variable it names ever holds.

        For code whose order is not followed: nested functions and lambdas, try, match.
        """
        for part in ast.walk(node):
            match part:
                case ast.Name(id=name):
                    self._mentioned.append(part)
                    self._leak(variables.get(name, NONE), part)
                    if isinstance(part.ctx, ast.Store):
                        variables[name] = NONE
                case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if self._is_norm(owner, attribute):
                    self.called.add(attribute)
                    self._leak(frozenset({attribute}), part)
                case _:
                    pass

    def write(self, node: ast.AST, variables: Variables) -> None:
        """Count as used every norm that a variable holds where a piece of code writes into a tensor."""
        for norm in NONE.union(*variables.values()):
            self.reasons.setdefault(
                norm, f"a tensor may be written between it and the rotation: {ast.unparse(node)[:60]}"
            )

    def finish(self) -> None:
        """To be called at the end of the method: a nested function reads what a variable holds when it is called, which may be later."""
        for name in self._mentioned:
            self._leak(self._ever.get(name.id, NONE), name)

    def decided(self, test: ast.expr) -> bool | None:
        """The value of a test that reads nothing but the module's attributes, as `self.is_sliding`; None where it reads more."""
        for part in ast.walk(test):
            plain = isinstance(
                part,
                ast.Attribute | ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.boolop | ast.unaryop
                | ast.cmpop | ast.expr_context,
            )  # fmt: skip
            if not plain and not (isinstance(part, ast.Name) and part.id == self._this):
                return None
        try:
            return bool(
                eval(compile(ast.Expression(test), "", "eval"), {"__builtins__": {}}, {self._this: self._module})
            )
        except Exception:  # properties of the model's code may raise anything
            return None

    def _call(self, node: ast.Call, function: ast.expr, arguments: list[ast.expr], variables: Variables) -> NormNames:
        if writes(node):
            self.write(node, variables)
        match function:
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if self._is_norm(owner, attribute):
                self.called.add(attribute)
                for argument in arguments:
                    self.use(argument, variables)
                if len(arguments) != 1 or node.keywords:
                    self._leak(frozenset({attribute}), node)
                return frozenset({attribute})
            case ast.Attribute(value=value, attr=attribute):
                names = self.value(value, variables)
                for argument in arguments:
                    self.use(argument, variables)
                if attribute in VIEWS:
                    return names
                self._leak(names, node)
                return NONE
            case ast.Name(id=name) if name in self._rotations and name not in variables:
                tensors = min(self._rotations[name], len(node.args))
                self.rotated.append(tuple([self.value(argument, variables) for argument in arguments[:tensors]]))
                for argument in arguments[tensors:]:
                    self.use(argument, variables)
                return NONE
            case _:
                for part in (function, *arguments):
                    self.use(part, variables)
                return NONE

    def _is_norm(self, owner: str, attribute: str) -> bool:
        """Whether owner.attribute in the method's source is one of the norms."""
        return owner == self._this and attribute in self._norms

    def _leak(self, names: NormNames, node: ast.AST) -> None:
        for norm in names:
            self.reasons.setdefault(norm, f"its result is used otherwise than by a rotation: {ast.unparse(node)[:60]}")
