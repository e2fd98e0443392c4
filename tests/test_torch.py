"""Private names of torch: each may be missing, and the library still imports and rotates."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import rotary
from rotary import _torch
from rotary._torch import has_float64, plain_torch
from support import warm

CPU = torch.device("cpu")


def test_float64_is_found_missing_without_raising():
    assert has_float64(CPU) and has_float64(torch.device("cuda")) and has_float64(torch.device("meta"))
    assert not has_float64(torch.device("mps"))  # absent here: what cannot be made is not there


def test_what_is_made_plainly_is_made_outside_autocast_and_inference():
    with torch.autocast("cpu"), torch.inference_mode(), plain_torch():
        x = torch.ones(2, 2)
        assert not x.is_inference() and (x @ x).dtype == torch.float32


# Removes one name from torch before rotary is imported, and judges a rotation with and without a gradient by the plain formula.
WITHOUT = """
import importlib, sys, warnings
import torch
import torch.autograd.forward_ad, torch.utils._python_dispatch
module, _, name = sys.argv[1].rpartition(".")
owner = importlib.import_module(module)
if module == "torch.autograd.forward_ad":
    saved = owner._current_level  # torch itself reads it in its own functions: hide it from getattr alone
    import types
    class Hidden(types.ModuleType):
        def __getattribute__(self, attribute):
            if attribute == "_current_level":
                raise AttributeError(attribute)
            return getattr(owner, attribute)
    torch.autograd.forward_ad = sys.modules[module] = Hidden(module)
elif sys.argv[1] != "torch._C":
    hidden = type(owner)(module)
    hidden.__dict__.update({k: v for k, v in vars(owner).items() if k != name})
    sys.modules[module] = hidden
else:
    hidden = None
import rotary
from rotary import _torch
rope = rotary.RotaryEmbedding(16)
x = torch.randn(2, 3, 5, 16)
q = rope.rotate(x)
cos, sin = rope.cos_sin(5)
a, b = x[..., :8], x[..., 8:]
expected = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
assert torch.equal(q, expected), (q - expected).abs().max()
leaf = x.clone().requires_grad_()
rope.rotate(leaf).backward(q)
assert (leaf.grad - x).abs().max() < 1e-5
print("rotated")
"""


@pytest.mark.parametrize("name", _torch.PRIVATE)
def test_rotary_works_without(name: str):
    """Each private name of torch is removed in turn; what is left is slower or less detailed, and right."""
    run = warm.run("-c", WITHOUT, name)
    assert (run.returncode, run.stdout.strip()) == (0, "rotated"), run.stderr[-2000:]


# --- names that are reached by strings: tests/test_house.py sees imports and attributes -------------------------------------


GUARDED = ("_torch.py", "_subclasses/dtensor.py")
BY_NAME = {"getattr", "hasattr", "setattr", "delattr", "attrgetter", "import_module", "__import__", "find_spec"}
MODULES = ("torch._", "triton.runtime", "triton.compiler", "triton.knobs", "triton.backends")


def docstrings(tree: ast.Module) -> set[int]:
    """The identities of strings that are statements, which are documentation."""
    alone = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    return {id(value) for value in alone if isinstance(value, ast.Constant)}


def reached_by_strings(package: Path) -> list[str]:
    """Private names of torch and Triton in strings: arguments of getattr and the like, names of modules, names in C++."""
    reached: list[str] = []
    for path in sorted(package.rglob("*.py")):
        file = path.relative_to(package).as_posix()
        tree = ast.parse(path.read_text())
        documentation = docstrings(tree)
        for node in ast.walk(tree) if file not in GUARDED else ():
            if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_NAME:
                texts = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                reached += [f"{file}: {text}" for text in texts if re.search(r"(^|\.)_(?!_|fields\b)", text)]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
                reached += [f"{file}: {node.value}" for module in MODULES if node.value.startswith(module)]
    for path in sorted((*package.rglob("*.cpp"), *package.rglob("*.h"))):
        file = path.relative_to(package).as_posix()
        reached += [f"{file}: {name}" for name in re.findall(r'"(_(?!_)\w+)"', path.read_text())]
    return sorted(set(reached))


def test_no_private_name_is_reached_by_a_string_outside_of_its_file():
    assert reached_by_strings(Path(rotary.__file__).parent) == []


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("a.py", "import torch\ngetattr(torch, '_C')"),
        ("a.py", "import importlib\nimportlib.import_module('torch._dynamo')"),
        ("a.py", "import importlib\nNAME = 'torch._inductor.config'"),
        ("a.py", "def f(x):\n    return hasattr(x, '_spec')"),
        ("a.py", "NAME = 'triton.runtime.driver'"),
        ("a.cpp", 'PyObject_GetAttrString(x, "_current_level");'),
    ],
)
def test_the_test_of_strings_can_fail(tmp_path: Path, file: str, code: str):
    (tmp_path / file).write_text(code)
    assert len(reached_by_strings(tmp_path)) == 1


def test_the_list_of_private_names_is_of_names_that_exist():
    """A misspelled name would be missing for ever, in silence."""
    import importlib

    for name in _torch.PRIVATE:
        module, _, attribute = name.rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), name
