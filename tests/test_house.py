"""The architecture holds: imports only go down, importing is light, the public names are all there and say what they are."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import rotary

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "rotary"
DRAWING = ROOT / "docs" / "design" / "0001-the-house.md"


def rooms(drawing: str) -> dict[str, str]:
    """Names of the rooms, "embedding.py" or "cli/", and what they are for, top first, from the drawing's first fenced block."""
    lines = re.findall(r"```\n(.*?)```", drawing, re.S)[0].splitlines()
    return dict(line.split(maxsplit=1) for line in lines)


def imports(node: ast.AST, package: str) -> Iterator[tuple[str, list[str]]]:
    """(module, names) of each import below node, also those for types alone, dots resolved against package."""
    for child in ast.walk(node):
        if isinstance(child, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) - child.level + 1] if child.level else []
            yield ".".join([*above, *([child.module] if child.module else [])]), [alias.name for alias in child.names]
        elif isinstance(child, ast.Import):
            yield from ((alias.name, []) for alias in child.names)


def modules(package: Path) -> dict[str, Path]:
    """Dotted names of all files: "rotary", "rotary.pairing", "rotary._rotation.eager"."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def graph(package: Path) -> dict[str, set[str]]:
    """module -> modules of the same package that it imports."""
    files, found = modules(package), {}
    for name, path in files.items():
        inside = name if path.name == "__init__.py" else name.rpartition(".")[0]
        found[name] = set()
        for module, names in imports(ast.parse(path.read_text()), inside):
            wanted = {f"{module}.{n}" if f"{module}.{n}" in files else module for n in names} or {module}
            found[name] |= wanted & files.keys() - {name}
    return found


def later(package: Path, module: str) -> bool:
    """Whether __init__ names that module for type checkers alone and imports it by __getattr__."""
    text = (package / "__init__.py").read_text() if (package / "__init__.py").exists() else ""
    match = re.search(r"_LATE = \((.*?)\)", text)
    return match is not None and f'"{module.rpartition(".")[2]}"' in match[1]


def complaints(package: Path, drawing: str) -> list[str]:
    """What is wrong with the house: files without a place, places without a file, imports that go up or round."""
    purposes, files = rooms(drawing), modules(package)
    order = list(purposes)

    def room(name: str) -> str:
        first = files[name].relative_to(package).parts[0]
        return first if first.endswith(".py") else first + "/"

    wrong = [f"{room(name)} has no place in the drawing" for name in files if room(name) not in order]
    wrong += [
        f"{n} is drawn but not there" for n in order if "(to come)" not in purposes[n] and not (package / n).exists()
    ]
    if wrong:
        return wrong
    found = graph(package)
    for name, wanted in found.items():
        if name == package.name:  # the public names, some imported when they are first used
            wanted = {w for w in wanted if not later(package, w)}
            found[name] = wanted
        wrong += [
            f"{name} imports {w}, which stands above"
            for w in sorted(wanted)
            if order.index(room(w)) < order.index(room(name))
        ]
    try:
        graphlib.TopologicalSorter(found).prepare()
    except graphlib.CycleError as error:
        wrong.append(f"imports in a circle: {' -> '.join(error.args[1])}")
    return wrong


def test_imports_only_go_down():
    assert complaints(PACKAGE, DRAWING.read_text()) == []


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"low.py": "from .high import x"}, "house.low imports house.high, which stands above"),
        ({"low.py": "def f():\n    from . import high"}, "house.low imports house.high, which stands above"),
        ({"low.py": "import house.high"}, "house.low imports house.high, which stands above"),
        ({"new.py": ""}, "new.py has no place in the drawing"),
        ({"top.py": None}, "top.py is drawn but not there"),
        ({"rooms/a.py": "from . import b", "rooms/b.py": "from .a import x"}, "imports in a circle"),
        ({"low.py": "if TYPE_CHECKING:\n    from .high import X"}, "house.low imports house.high, which stands above"),
        ({"high.py": "from .low import x"}, None),
    ],
)
def test_the_test_of_the_house_can_fail(tmp_path: Path, files: dict[str, str | None], complaint: str | None):
    house = tmp_path / "house"
    (house / "rooms").mkdir(parents=True)
    for name, code in {"top.py": "", "high.py": "", "low.py": "", "rooms/__init__.py": "", **files}.items():
        if code is not None:
            (house / name).write_text(code)
    found = complaints(house, "```\ntop.py  one\nhigh.py two\nlow.py  three\nrooms/  four\nx.py    (to come)\n```")
    assert [c for c in found if complaint and complaint in c] if complaint else found == []


def newly_imported(statement: str) -> set[str]:
    """Top names of modules that a statement brings in after torch, torch's own and the standard library's left out."""
    script = f"import sys, torch; before = set(sys.modules)\n{statement}\nprint(*(set(sys.modules) - before))"
    run = subprocess.run((sys.executable, "-c", script), capture_output=True, text=True, check=True, cwd=ROOT)
    return set(run.stdout.split())


def test_importing_brings_nothing_but_torch():
    """Importing takes little longer than importing torch because next to nothing else is imported, not even lazy parts of torch."""
    brought = newly_imported("import rotary, zeta.nn")
    foreign = {name for name in brought if name.split(".")[0] not in {"rotary", "zeta", *sys.stdlib_module_names}}
    assert foreign == set()
    assert {name for name in brought if name.startswith("rotary.scaling.")} == {"rotary.scaling.scheme"}
    late = {"analysis", "checkpoints", "cli", "config", "onnx", "tables", "testing", "transformers"}
    assert not {
        name
        for name in brought
        if name.split(".")[0] == "rotary" and name.split(".")[1:2] and name.split(".")[1] in late
    }


def test_the_test_of_light_importing_can_fail():
    assert "mpmath" in newly_imported("import rotary, mpmath")


NAMESPACES = {"analysis", "checkpoints", "config", "fused", "onnx", "tables", "testing", "transformers"}


def test_all_names_are_public_and_all_public_names_are_named():
    named = set(rotary.__all__)
    assert {name for name in dir(rotary) if not name.startswith("_")} == (named - {"__version__"}) | NAMESPACES
    assert all(hasattr(rotary, name) for name in named | NAMESPACES)
    assert all(isinstance(getattr(rotary, name), types.ModuleType) for name in NAMESPACES)
    promised = {
        "RotaryEmbedding",
        "apply_rotary",
        "apply_rotary_qk",
        "apply_rotary_pos_emb",
        "positions",
        "scaling",
        "backends",
    }
    assert promised | {"use_backend", "__version__"} <= named
    assert rotary.__all__ == sorted(named, key=lambda name: (not name.isupper(), not name[0].isupper(), name))
    with pytest.raises(AttributeError, match="has no attribute 'kernels'"):
        _ = rotary.kernels


def foreign_private(package: Path) -> list[str]:
    """Uses of private names of torch and Triton outside _torch.py and the file for DTensor: imports, and attributes that no file of the
    package defines."""
    trees = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    own = {"_fields", "_replace", "_asdict"}  # of NamedTuple, documented
    for tree in trees.values():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    wrong: list[str] = []
    for path, tree in trees.items():
        if path.relative_to(package).as_posix() in ("_torch.py", "_subclasses/dtensor.py"):
            continue
        for node in ast.walk(tree):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in ("torch", "triton"):
                parts = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
                names = [p for p in parts if private(p)]
                if (node.module or "").startswith(("triton.runtime", "triton.knobs", "triton.compiler")):
                    names.append(node.module or "")
            elif isinstance(node, ast.Attribute) and private(node.attr) and node.attr not in own:
                names = [node.attr]
            wrong += [f"{path.relative_to(package)}:{node.lineno} {name}" for name in names]
    return wrong


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_private_names_are_in_one_file_and_one_for_dtensor():
    assert foreign_private(PACKAGE) == []


@pytest.mark.parametrize(
    "code",
    [
        "from torch._C import x",
        "from torch import _C",
        "import torch\ntorch._C.x",
        "def f(t):\n    return t._version",
        "from triton.runtime.driver import driver",
    ],
)
def test_the_test_of_private_names_can_fail(tmp_path: Path, code: str):
    (tmp_path / "a.py").write_text(code)
    assert len(foreign_private(tmp_path)) == 1


def test_overridden_methods_of_torchs_module_are_listed():
    """Private methods of nn.Module that are overridden: only in _buffers.py, whose first lines name them."""
    methods = {name for name in vars(torch.nn.Module) if private(name)}
    found = {
        (path.name, node.name)
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name in methods
    }
    assert {name for name, _ in found} <= {"_buffers.py"}
    head = (PACKAGE / "_buffers.py").read_text().split('"""')[1]
    assert all(method in head for _, method in found)


@pytest.mark.parametrize("name", [name for name in rotary.__all__ if name != "__version__"])
def test_every_public_name_says_what_it_is(name: str):
    value = getattr(rotary, name)
    assert value.__doc__
    functions = [value] if inspect.isfunction(value) else []
    for owner in (value,) if inspect.isclass(value) or inspect.ismodule(value) else ():
        functions += [f for n, f in vars(owner).items() if inspect.isfunction(f) and not n.startswith("_")]
        functions += [
            f.__func__ for n, f in vars(owner).items() if isinstance(f, classmethod) and not n.startswith("_")
        ]
    for function in functions:
        if function.__name__ != "extra_repr":
            assert function.__doc__, f"{function.__qualname__} has no docstring"
        hinted = inspect.signature(function)
        bare = [p for p in hinted.parameters.values() if p.annotation is p.empty and p.name not in ("self", "cls")]
        assert not bare, f"{function.__qualname__}: {bare} without a type"
        assert hinted.return_annotation is not hinted.empty, f"{function.__qualname__} returns it does not say what"


LONGER = {"src/rotary/embedding.py": 370}
"""RotaryEmbedding's methods are one page of the reference, and half of its lines are documentation or overloads."""


def test_no_file_grows_into_two():
    sources = [path for end in ("*.py", "*.h", "*.cpp") for path in PACKAGE.rglob(end)]
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in sources}
    assert {name: n for name, n in lines.items() if n > LONGER.get(name, 300)} == {}
