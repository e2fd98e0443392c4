"""Where a norm's result goes inside a method: into a rotation, through views alone, or anywhere else. Read off the method's source.

A norm may wait for the rotation behind it only where nothing else sees what it returns. Source tells: assignments, branches and loops
are followed, every path at once, and whatever is not understood counts as a use. A branch that only the module's own attributes decide
(`if self.is_sliding:`) is followed as this module would take it.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import nn

VIEWS = frozenset(
    {"transpose", "permute", "view", "reshape", "contiguous", "unflatten", "flatten", "unsqueeze", "squeeze"}
)
"""Methods of a tensor after which its elements are the same, in the same order within each row of the last dimension."""
_FACTS = frozenset({"shape", "dtype", "device", "ndim"})
_UNREADABLE = frozenset({"locals", "vars", "eval", "exec"})

Source = frozenset[str]
"""The norms whose result an expression may be, by their attributes: {"q_norm"}."""
_State = dict[str, Source] | None
"""variable -> what it may be; None where no path arrives."""
_CLEAN: Source = frozenset()


class Uses(NamedTuple):
    """reasons: for each norm that a method calls, None where its result reaches nothing but rotations, else why it may not wait.
    together: of each call of a rotation, which norms each of its tensors may come from."""

    reasons: dict[str, str | None]
    together: list[tuple[Source, ...]]


def uses(method: Callable[..., Any], module: nn.Module, norms: frozenset[str], rotations: Mapping[str, int]) -> Uses:
    """Where the results of norms, attributes of the module, go in a method.

    rotations: functions that the method calls by a global name, and how many tensors each takes first.
    """
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(method)))).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return Uses(dict.fromkeys(norms, "the source of the method cannot be read"), [])
    if not isinstance(tree, ast.FunctionDef) or not tree.args.args:
        return Uses(dict.fromkeys(norms, "it is no method with a source of its own"), [])
    followed = _Followed(tree.args.args[0].arg, module, norms, rotations)
    followed.method(tree.body)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    if names & _UNREADABLE:
        return Uses(dict.fromkeys(followed.called, f"the method calls {min(names & _UNREADABLE)}()"), [])
    return Uses({norm: followed.reasons.get(norm) for norm in sorted(followed.called)}, followed.together)


class _Followed:
    """One walk through a method. reasons: why a norm may not wait, the first reason found."""

    def __init__(self, this: str, module: nn.Module, norms: frozenset[str], rotations: Mapping[str, int]) -> None:
        self.this, self.module, self.norms, self.rotations = this, module, norms, rotations
        self.called: set[str] = set()
        self.reasons: dict[str, str] = {}
        self.together: list[tuple[Source, ...]] = []
        self._jumps: list[list[dict[str, Source]]] = []
        self._ever: dict[str, Source] = {}
        self._mentioned: list[ast.Name] = []

    def method(self, body: list[ast.stmt]) -> None:
        self.block(body, {})
        # A nested function reads what a variable holds when it is called, which may be later.
        for name in self._mentioned:
            self.leak(self._ever.get(name.id, _CLEAN), name)

    # --- statements -----------------------------------------------------------------------------------------------------------------

    def block(self, statements: list[ast.stmt], state: _State) -> _State:
        for statement in statements:
            if state is None:
                return None
            state = self.statement(statement, state)
        return state

    def statement(self, node: ast.stmt, state: dict[str, Source]) -> _State:
        match node:
            case ast.Assign(targets=targets, value=value):
                source = self.parts(value, state)
                for target in targets:
                    self.assign(target, source, state)
            case ast.AnnAssign(target=target, value=value):
                if value is not None:
                    self.assign(target, self.parts(value, state), state)
            case ast.If(test=test, body=body, orelse=orelse):
                return self.branch(test, body, orelse, state)
            case ast.For(target=target, iter=iterated, body=body, orelse=orelse):
                self.used(iterated, state)
                self.assign(target, _CLEAN, state)
                return self.loop(body, orelse, state)
            case ast.While(test=test, body=body, orelse=orelse):
                self.used(test, state)
                return self.loop(body, orelse, state)
            case ast.With(items=items, body=body):
                for item in items:
                    self.used(item.context_expr, state)
                    if item.optional_vars is not None:
                        self.assign(item.optional_vars, _CLEAN, state)
                return self.block(body, state)
            case ast.Return() | ast.Raise():
                for child in ast.iter_child_nodes(node):
                    self.used(child, state)
                return None
            case ast.Expr(value=value):
                self.expression(value, state)
            case ast.Break() | ast.Continue():
                self._jumps[-1].append(state)
                return None
            case ast.Pass() | ast.Import() | ast.ImportFrom():
                pass
            case _:  # try, match, a nested function, an assignment with an operator, ...: whatever it names is used
                self.mentioned(node, state)
        return state

    def branch(self, test: ast.expr, body: list[ast.stmt], orelse: list[ast.stmt], state: dict[str, Source]) -> _State:
        taken = self.decided(test)
        if taken is None:
            self.used(test, state)
        ways = [body, orelse] if taken is None else [body if taken else orelse]
        return _merged(*(self.block(way, dict(state)) for way in ways))

    def loop(self, body: list[ast.stmt], orelse: list[ast.stmt], state: dict[str, Source]) -> _State:
        self._jumps.append([])  # where a break or a continue leaves a round
        once = _merged(dict(state), self.block(body, dict(state)))  # what one round assigns, the next one may read
        once = _merged(once, *self._jumps[-1])
        again = _merged(once, None if once is None else self.block(body, dict(once)))
        again = _merged(again, *self._jumps.pop())
        return None if again is None else self.block(orelse, again)

    def assign(self, target: ast.expr, source: list[Source] | Source, state: dict[str, Source]) -> None:
        whole = frozenset().union(*source) if isinstance(source, list) else source
        match target:
            case ast.Name(id=name):
                state[name] = whole
                self._ever[name] = self._ever.get(name, _CLEAN) | whole
            case ast.Tuple(elts=targets) if isinstance(source, list) and len(source) == len(targets):
                for one, part in zip(targets, source, strict=True):
                    self.assign(one, part, state)
            case ast.Tuple(elts=targets):
                for one in targets:
                    self.assign(one, whole, state)
            case _:  # an attribute or an element: out of sight from here on
                self.leak(whole, target)
                self.used(target, state)

    # --- expressions ----------------------------------------------------------------------------------------------------------------

    def parts(self, node: ast.expr, state: dict[str, Source]) -> list[Source] | Source:
        """What an expression may be; for a tuple, what each of its parts may be."""
        if isinstance(node, ast.Tuple):
            return [self.expression(part, state) for part in node.elts]
        return self.expression(node, state)

    def expression(self, node: ast.expr, state: dict[str, Source]) -> Source:
        match node:
            case ast.Name(id=name):
                return state.get(name, _CLEAN)
            case ast.NamedExpr(target=target, value=value):
                source = self.expression(value, state)
                self.assign(target, source, state)
                return source
            case ast.IfExp(test=test, body=body, orelse=orelse):
                taken = self.decided(test)
                if taken is None:
                    self.used(test, state)
                ways = [body, orelse] if taken is None else [body if taken else orelse]
                return frozenset().union(*(self.expression(way, state) for way in ways))
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute, ctx=ast.Load()) if (
                owner == self.this and attribute in self.norms
            ):
                self.called.add(attribute)  # by another name, where it is not followed
                self.leak(frozenset({attribute}), node)
                return _CLEAN
            case ast.Attribute(value=ast.Attribute(value=ast.Name(id=owner), attr=attribute)) if (
                owner == self.this and attribute in self.norms
            ):
                return _CLEAN  # a weight of the norm, a number
            case ast.Attribute(value=value, attr=attribute):
                source = self.expression(value, state)
                if attribute not in _FACTS:
                    self.leak(source, node)
                return _CLEAN
            case ast.Call(func=called, args=arguments, keywords=keywords):
                return self.call(node, called, [*arguments, *(k.value for k in keywords)], state)
            case ast.Lambda():
                self.mentioned(node, state)
                return _CLEAN
            case _:
                for child in ast.iter_child_nodes(node):
                    self.used(child, state)
                return _CLEAN

    def call(self, node: ast.Call, called: ast.expr, arguments: list[ast.expr], state: dict[str, Source]) -> Source:
        match called:
            case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if (
                owner == self.this and attribute in self.norms
            ):
                self.called.add(attribute)
                for argument in arguments:
                    self.used(argument, state)
                if len(arguments) != 1 or node.keywords:
                    self.leak(frozenset({attribute}), node)
                return frozenset({attribute})
            case ast.Attribute(value=value, attr=attribute):
                source = self.expression(value, state)
                for argument in arguments:
                    self.used(argument, state)
                if attribute in VIEWS:
                    return source
                self.leak(source, node)
                return _CLEAN
            case ast.Name(id=name) if name in self.rotations and name not in state:
                turned = min(self.rotations[name], len(node.args))
                self.together.append(tuple([self.expression(argument, state) for argument in arguments[:turned]]))
                for argument in arguments[turned:]:
                    self.used(argument, state)
                return _CLEAN
            case _:
                for part in (called, *arguments):
                    self.used(part, state)
                return _CLEAN

    def used(self, node: ast.AST, state: dict[str, Source]) -> None:
        """Follow a part whose value goes where it is not followed any further."""
        if isinstance(node, ast.Starred | ast.keyword | ast.FormattedValue):
            self.used(node.value, state)
        elif isinstance(node, ast.expr):
            self.leak(self.expression(node, state), node)
        else:
            for child in ast.iter_child_nodes(node):
                self.used(child, state)

    def mentioned(self, node: ast.AST, state: dict[str, Source]) -> None:
        """Code that runs who knows when and in what order: every norm that it names, or that a variable it names ever holds, is used."""
        for part in ast.walk(node):
            match part:
                case ast.Name(id=name):
                    self._mentioned.append(part)
                    self.leak(state.get(name, _CLEAN), part)
                    if isinstance(part.ctx, ast.Store):
                        state[name] = _CLEAN
                case ast.Attribute(value=ast.Name(id=owner), attr=attribute) if owner == self.this:
                    if attribute in self.norms:
                        self.called.add(attribute)
                        self.leak(frozenset({attribute}), part)
                case _:
                    pass

    def leak(self, source: Source, node: ast.AST) -> None:
        for norm in source:
            self.reasons.setdefault(norm, f"its result is used otherwise than by a rotation: {ast.unparse(node)[:60]}")

    def decided(self, test: ast.expr) -> bool | None:
        """How a test comes out that reads nothing but the module's attributes; None where it reads more."""
        for part in ast.walk(test):
            plain = isinstance(
                part,
                ast.Attribute | ast.Compare | ast.BoolOp | ast.UnaryOp | ast.Constant | ast.boolop | ast.unaryop
                | ast.cmpop | ast.expr_context,
            )  # fmt: skip
            if not plain and not (isinstance(part, ast.Name) and part.id == self.this):
                return None
        try:
            return bool(eval(compile(ast.Expression(test), "", "eval"), {"__builtins__": {}}, {self.this: self.module}))
        except Exception:  # properties of the model's code may raise anything
            return None


def _merged(*states: _State) -> _State:
    """What variables may be where these paths meet."""
    alive = [state for state in states if state is not None]
    if not alive:
        return None
    return {name: frozenset().union(*(s.get(name, _CLEAN) for s in alive)) for name in set().union(*alive)}
