"""Where a norm's result goes inside a method: into a rotation, through views alone, or anywhere else. Read off the method's source.

A norm may be deferred to the rotation behind it only where nothing else sees what it returns. Running the method would show one path;
its source shows all of them. Each statement is followed with what every variable may be (expressions.py):

    q = self.q_norm(q)                  q: {q_norm}
    if self.is_sliding:                 decided by the module's own attributes: followed as this module takes it
        q = q.transpose(1, 2)           q: {q_norm}, since transpose is a view
    else:
        q = q * 2                       not taken by a module that slides; by another, q_norm is used here
    q, k = rotate(q, k, cos, sin)       a rotation of {q_norm} and of whatever k may be

Where paths meet, a variable may be what it is on either of them. Code that writes into a tensor counts as a use of every norm that waits
at that place: it may be the norm's input. A statement that is not understood counts as a use of every norm it
names.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

from .expressions import NONE, Expressions, NormNames, Variables, writes

_UNREADABLE = frozenset({"locals", "vars", "eval", "exec"})
"""Functions that read variables by other means than their names."""

_Path = Variables | None
"""What variables may be where a path arrives; None where none does."""


class Uses(NamedTuple):
    """What a method does with the results of norms.

    reasons: for each norm that the method calls, None where its result reaches nothing but rotations, else why it may not be deferred.
    rotated: for each call of a rotation, the norms that each of its tensors may come from.
    """

    reasons: dict[str, str | None]
    rotated: list[tuple[NormNames, ...]]


def uses(method: Callable[..., Any], module: nn.Module, norms: NormNames, rotations: Mapping[str, int]) -> Uses:
    """Where the results of norms, attributes of the module, go in a method.

    rotations: functions that the method calls by a global name, and how many tensors each takes first.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method)))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return Uses(dict.fromkeys(norms, "the source of the method cannot be read"), [])
    if not isinstance(tree, ast.FunctionDef) or not tree.args.args:
        return Uses(dict.fromkeys(norms, "it is no method with a source of its own"), [])
    expressions = Expressions(tree.args.args[0].arg, module, norms, rotations)
    _Statements(expressions).block(tree.body, {})
    expressions.finish()
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if names & _UNREADABLE:
        return Uses(dict.fromkeys(expressions.called, f"the method calls {min(names & _UNREADABLE)}()"), [])
    reasons = {norm: expressions.reasons.get(norm) for norm in sorted(expressions.called)}
    return Uses(reasons, expressions.rotated)


class _Statements:
    """The statements of one method. Each function takes the variables of the path that arrives, and returns those of the path behind."""

    def __init__(self, expressions: Expressions) -> None:
        self._expressions = expressions
        self._jumps: list[list[Variables]] = []
        """For each loop around: the variables where a break or a continue leaves a round."""

    def block(self, statements: list[ast.stmt], variables: _Path) -> _Path:
        for statement in statements:
            if variables is None:
                return None
            variables = self._statement(statement, variables)
        return variables

    def _statement(self, node: ast.stmt, variables: Variables) -> _Path:
        of = self._expressions
        match node:
            case ast.Assign(targets=targets, value=value):
                names = of.values(value, variables)
                if any(isinstance(target, ast.Subscript) for target in targets):
                    of.write(node, variables)
                for target in targets:
                    of.assign(target, names, variables)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    of.assign(target, of.values(value, variables), variables)
            case ast.If(test=test, body=body, orelse=orelse):
                return self._branch(test, body, orelse, variables)
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                of.use(iterated, variables)
                of.assign(target, NONE, variables)
                return self._loop(body, orelse, variables)
            case ast.While(test=test, body=body, orelse=orelse):
                of.use(test, variables)
                return self._loop(body, orelse, variables)
            case ast.With(items=items, body=body):
                for item in items:
                    of.use(item.context_expr, variables)
                    if item.optional_vars is not None:
                        of.assign(item.optional_vars, NONE, variables)
                return self.block(body, variables)
            case ast.Return() | ast.Raise():
                for child in ast.iter_child_nodes(node):
                    of.use(child, variables)
                return None
            case ast.Expr(value=value):
                of.value(value, variables)
            case ast.Break() | ast.Continue():
                self._jumps[-1].append(variables)
                return None
            case ast.Pass() | ast.Import() | ast.ImportFrom():
                pass
            case ast.AugAssign(target=target, value=value):
                of.write(node, variables)
                of.use(value, variables)
                of.assign(target, NONE, variables)
            case _:  # try, match, a nested function, ...
                if any(map(writes, ast.walk(node))):
                    of.write(node, variables)
                of.mention(node, variables)
        return variables

    def _branch(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], variables: Variables) -> _Path:
        taken = self._expressions.decided(test)
        if taken is None:
            self._expressions.use(test, variables)
        branches = [body, orelse] if taken is None else [body if taken else orelse]
        return _merged(*(self.block(branch, dict(variables)) for branch in branches))

    def _loop(self, body: list[ast.stmt], orelse: list[ast.stmt], variables: Variables) -> _Path:
        """Round after round, until no variable may be more than before: what one round assigns, the next may read."""
        self._jumps.append([])
        arriving = dict(variables)
        while (path := _merged(arriving, self.block(body, dict(arriving)), *self._jumps[-1])) != arriving:
            assert path is not None  # arriving is among the merged paths
            arriving = path
        self._jumps.pop()
        return self.block(orelse, arriving)


def _merged(*paths: _Path) -> _Path:
    """What variables may be where these paths meet."""
    arriving = [variables for variables in paths if variables is not None]
    if not arriving:
        return None
    names = set[str]().union(*arriving)
    return {name: frozenset().union(*(variables.get(name, NONE) for variables in arriving)) for name in names}
