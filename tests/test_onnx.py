"""Export to ONNX: one node for each rotated tensor where it fits, the formula elsewhere, and the numbers of the formula in float64 in two
implementations of ONNX. Positions and tables are judged by mpmath."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rotary import RotaryEmbedding, apply_rotary, onnx, operators
from support import truth

pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")
reference = pytest.importorskip("onnx.reference")
if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 9):
    pytest.skip("torch.onnx says whether it exports since 2.9", allow_module_level=True)

AUTO = torch.export.Dim.AUTO
NODE = "RotaryEmbedding"


def export(module: nn.Module, arguments: tuple[Any, ...], shapes: Any = None, **how: Any) -> Any:
    how = {"opset_version": 23, "custom_translation_table": onnx.translation_table(), "dynamic_shapes": shapes} | how
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?!opset)")  # of torch about itself
        return torch.onnx.export(module.eval(), arguments, dynamo=True, verbose=False, **how)


def nodes(program: Any) -> Counter[str]:
    return Counter(node.op_type for node in program.model.graph)


def run_by_runtime(program: Any, *arguments: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feed = {i.name: x.numpy() for i, x in zip(session.get_inputs(), arguments, strict=True)}
    return [torch.from_numpy(y) for y in session.run(None, feed)]


def run_by_reference(program: Any, *arguments: Tensor) -> list[Tensor]:
    evaluator = reference.ReferenceEvaluator(program.model_proto)
    feed = {name: x.numpy() for name, x in zip(evaluator.input_names, arguments, strict=True)}
    return [torch.from_numpy(y) for y in evaluator.run(None, feed)]


RUNNERS = [run_by_runtime, run_by_reference]


class WithTables(nn.Module):
    """cos and sin as inputs. node: by rotary.operators."""

    def __init__(self, operator: bool = False, **how: Any) -> None:
        super().__init__()
        self.function, self.how = operators.apply_rotary if operator else apply_rotary, how

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        return self.function(x, cos, sin, **self.how)


def expected(x: Tensor, angles: Tensor, *, seq_dim: int, interleaved: bool = False, **_: Any) -> Tensor:
    """The rotation by complex multiplication in float64, angles (seq, planes) or (batch, seq, planes)."""
    dim = 2 * angles.shape[-1]
    a, b = x[..., :dim].double().unflatten(-1, (-1, 2) if interleaved else (2, -1)).unbind(-1 if interleaved else -2)
    batched = angles.ndim == 3
    shape = [1] * (x.ndim - 1) + [dim // 2]
    shape[seq_dim] = angles.shape[-2]
    if batched:
        shape[0] = angles.shape[0]
    turned = torch.complex(a, b) * torch.polar(torch.ones(()).double(), angles.double()).reshape(shape)
    parts = (turned.real, turned.imag)
    y = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    return torch.cat((y, x[..., dim:].double()), -1)


CASES = {
    "heads first, a table for all rows": ((2, 4, 9, 32), 2, 0, 32, {}),
    "heads first, partial, a table for each row": ((2, 4, 9, 32), 2, 2, 16, {"interleaved": True}),
    "sequence first, known heads": ((2, 9, 4, 32), 1, 2, 32, {"interleaved": True}),
    "sequence first, any heads": ((2, 9, 4, 32), 1, 0, 32, {}),
    "packed tokens, known heads": ((9, 4, 32), 0, 0, 16, {}),
    "no heads": ((2, 9, 32), 1, 2, 32, {}),
    "more dimensions": ((2, 3, 2, 9, 32), 3, 1, 32, {"interleaved": True}),
}
KNOWN = {"sequence first, known heads", "packed tokens, known heads"}


@pytest.mark.parametrize("name", CASES)
def test_a_rotation_is_one_node_in_every_layout(name: str):
    """Sizes are dynamic but for known heads; the program of one length serves another, and another batch."""
    shape, seq_dim, batch, dim, how = CASES[name]
    how = {"seq_dim": seq_dim, **how}

    def inputs(tokens: int) -> tuple[Tensor, Tensor]:
        sizes = list(shape)
        sizes[seq_dim] = tokens
        rows = (batch,) if batch else ()
        return torch.randn(sizes), 7 * torch.rand(*rows, tokens, dim // 2)

    x, angles = inputs(shape[seq_dim])
    dynamic = {seq_dim: AUTO} if name in KNOWN else dict.fromkeys(range(len(shape) - 1), AUTO)
    table = {angles.ndim - 2: AUTO} | ({0: AUTO} if batch == 2 and name not in KNOWN else {})
    program = export(WithTables(**how), (x, angles.cos(), angles.sin()), (dynamic, table, table))
    assert nodes(program)[NODE] == 1 and not nodes(program).keys() & {"Mul", "Sub", "Cast"}
    assert nodes(program)["Transpose"] == (2 if name == "sequence first, any heads" else 0)
    x, angles = inputs(5)
    for run in RUNNERS:
        (y,) = run(program, x, angles.cos(), angles.sin())
        assert y.shape == x.shape and (y.double() - expected(x, angles, **how)).abs().max() < 3e-6


@pytest.mark.parametrize("how", [{"inplace": True}, {"operator": True}, {"operator": True, "inplace": True}])
def test_in_place_and_the_operator_are_one_node_too(how: dict[str, Any]):
    x, angles = torch.randn(2, 4, 9, 32), 7 * torch.rand(9, 16)
    program = export(WithTables(conjugate=True, **how), (x.clone(), angles.cos(), angles.sin()))
    assert nodes(program)[NODE] == 1
    for run in RUNNERS:
        (y,) = run(program, x, angles.cos(), angles.sin())
        assert (y.double() - expected(x, -angles, seq_dim=2)).abs().max() < 3e-6


def test_a_program_that_torch_export_made_before_has_the_node_by_the_operator():
    x, angles = torch.randn(2, 4, 9, 32), 7 * torch.rand(9, 16)
    arguments = (x, angles.cos(), angles.sin())
    program = torch.export.export(WithTables(operator=True), arguments)
    made: Any = torch.onnx.export(
        program, dynamo=True, verbose=False, opset_version=23, custom_translation_table=onnx.translation_table()
    )
    assert nodes(made)[NODE] == 1
    assert (run_by_runtime(made, *arguments)[0].double() - expected(x, angles, seq_dim=2)).abs().max() < 3e-6


class Rope(nn.Module):
    """Positions as inputs; x is cast to a dtype and back, since numpy has no bfloat16."""

    def __init__(self, dtype: torch.dtype = torch.float32, **how: Any) -> None:
        super().__init__()
        self.rope, self.dtype = RotaryEmbedding(32, **how), dtype

    def forward(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        q, k = self.rope.rotate(q.to(self.dtype), k.to(self.dtype), positions=positions)
        return q.float(), k.float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_tables_in_the_graph_are_exact_at_the_last_positions(dtype: torch.dtype):
    """Up to 2^31 - 1, against mpmath. The rotation is computed in float32 and rounded once."""
    positions = torch.tensor([0, 1, 2**24 + 1, 2**31 - 2, 2**31 - 1])
    module = Rope(dtype)
    inv_freq = module.rope.inv_freq
    rows = truth.table(positions.tolist(), inv_freq.tolist())
    cos, sin = (torch.tensor([[float(pair[i]) for pair in row] for row in rows], dtype=torch.float64) for i in (0, 1))
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.rand(2, heads, 5, 32, generator=generator).to(dtype).float() for heads in (4, 2))
    small = (q[:, :, :3], k[:, :, :3], positions[:3])
    program = export(module, small, ({0: AUTO, 2: AUTO}, {0: AUTO, 2: AUTO}, {0: AUTO}))
    assert nodes(program)[NODE] == 2
    allowed = (
        4.8e-7 if dtype == torch.float32 else 1.01 * torch.finfo(dtype).eps
    )  # half a unit in the last place below 2
    for run in RUNNERS:
        for x, y in zip((q, k), run(program, q, k, positions), strict=True):
            a, b = x.double().chunk(2, -1)
            right = torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
            assert (y.double() - right).abs().max() <= allowed


def test_without_the_table_the_formula_is_exported():
    x, angles = torch.randn(2, 4, 9, 32), 7 * torch.rand(9, 16)
    for operator in (False, True):
        program = export(
            WithTables(operator), (x, angles.cos(), angles.sin()), custom_translation_table=None, opset_version=20
        )
        assert nodes(program)[NODE] == 0 and nodes(program)["Mul"] == 4
        (y,) = run_by_runtime(program, x, angles.cos(), angles.sin())
        assert (y.double() - expected(x, angles, seq_dim=2)).abs().max() < 3e-6


@pytest.mark.parametrize("interleaved", [False, True])
def test_float64_and_odd_heads_are_the_formula(interleaved: bool):
    how = {"seq_dim": 1, "interleaved": interleaved}
    for x, dtype in ((torch.randn(2, 9, 4, 32).double(), torch.float64), (torch.randn(2, 9, 4, 33), torch.float32)):
        angles = 7 * torch.rand(2, 9, 8, dtype=dtype)
        program = export(WithTables(**how), (x, angles.cos(), angles.sin()), ({1: AUTO}, {1: AUTO}, {1: AUTO}))
        assert nodes(program)[NODE] == 0
        allowed = 3e-6 if dtype == torch.float32 else 1e-14
        for run in RUNNERS:
            (y,) = run(program, x, angles.cos(), angles.sin())
            assert y.dtype == dtype and (y.double() - expected(x, angles, **how)).abs().max() < allowed


@pytest.mark.parametrize("interleaved", [False, True])
def test_tables_of_no_plane_export_what_goes_in(interleaved: bool):
    x, table = torch.randn(2, 4, 9, 32), torch.empty(9, 0)
    for dtype in (torch.float32, torch.float16):
        program = export(WithTables(interleaved=interleaved), (x.to(dtype), table, table))
        assert not nodes(program).keys() & {NODE, "Mul", "Cast"}
        session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        feed = {i.name: t.numpy() for i, t in zip(session.get_inputs(), (x.to(dtype), table, table), strict=False)}
        assert torch.equal(torch.from_numpy(session.run(None, feed)[0]), x.to(dtype))


def test_an_older_opset_gets_the_formula_and_a_warning():
    x, angles = torch.randn(9, 2, 32), 7 * torch.rand(9, 16)
    with pytest.warns(UserWarning, match="opset 20 has no RotaryEmbedding.*pass opset_version=23"):
        program = export(WithTables(seq_dim=0), (x, angles.cos(), angles.sin()), opset_version=20)
    assert nodes(program)[NODE] == 0
    (y,) = run_by_runtime(program, x, angles.cos(), angles.sin())
    assert (y.double() - expected(x, angles, seq_dim=0)).abs().max() < 3e-6


def test_without_onnxscript_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(ImportError, match=r"rotary\[onnx\]"):
        onnx.translation_table()
