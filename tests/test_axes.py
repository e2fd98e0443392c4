"""Several coordinates: goldens of 30 systems of others, and the laws that make them one concept with one coordinate."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, cos_sin_of, scaling
from rotary.axes import alternating, sections, shown, strided
from rotary.positions import centres, grid, grids, merged, multimodal, prefixed

GOLDENS: dict[str, Any] = json.loads((Path(__file__).parent / "goldens" / "axes.json").read_text())
SYSTEMS = {system["system"]: system for system in GOLDENS["systems"]}
FLOAT32_BOUND = 3.1e-8
axial = RotaryEmbedding.axial


def progression(n: int, first: float, base: float, dtype: torch.dtype) -> Tensor:
    """first x base^-(j / n), j = 0 .. n - 1, computed in float64."""
    return (first * base ** -(torch.arange(n, dtype=torch.float64) / n)).to(dtype)


def twice(n: int, f: Tensor, dtype: torch.dtype) -> RotaryEmbedding:
    return RotaryEmbedding.from_inv_freq(torch.cat((f, f)).to(dtype), axes=sections(n, n))


def pixels(first: float, last: float) -> Tensor:
    return math.pi * torch.linspace(first, last, 16, dtype=torch.float64)


def ltx(dtype: torch.dtype) -> RotaryEmbedding:
    f = math.pi / 2 * 10000 ** torch.linspace(0, 1, 341, dtype=torch.float64)
    return RotaryEmbedding.from_inv_freq(f.repeat_interleave(3).to(dtype), axes=alternating(3, 1023))


# How each system is made: base, sizes and order of its own code, as the goldens' "args" say it.
MADE: dict[str, Callable[[], RotaryEmbedding]] = {
    "qwen2_5_vl_text": lambda: RotaryEmbedding(128, base=1e6, axes=sections(16, 24, 24)),
    "qwen3_vl_text": lambda: RotaryEmbedding(128, base=5e6, axes=strided((24, 20, 20))),
    "glm4v_text": lambda: RotaryEmbedding(64, axes=sections(8, 12, 12), interleaved=True),
    "neomme": lambda: RotaryEmbedding(16, base=1e6, axes=alternating(2, 8)),
    "qwen2_vl_vision": lambda: axial(40, 40),
    "llama4_vision": lambda: axial(24, 24, axes=(1, 0), interleaved=True),
    "gemma4_vision": lambda: axial(32, 32, base=100),
    "step3p5_vision": lambda: axial(48, 48, axes=(1, 0)),
    "inkling2_vision": lambda: axial(32, 32, axes=(1, 0), interleaved=True),
    "sam2_video": lambda: axial(128, 128, interleaved=True),
    "efficientloftr": lambda: axial(128, 128, order="alternating", interleaved=True),
    "dinov3_hf": lambda: twice(16, progression(16, 2 * math.pi, 100, torch.float32), torch.float32),
    "eva02_timm": lambda: axial(32, 32, interleaved=True),
    "pixel_timm": lambda: twice(
        16, math.pi * 2 ** torch.linspace(0, math.log2(224) - 1, 16, dtype=torch.float64), torch.float32
    ),
    "mrope_timm": lambda: RotaryEmbedding(64, axes=strided((8, 12, 12), planes=32)),
    "rotary_embedding_torch_pixel": lambda: twice(16, pixels(1, 256 / 2), torch.float32),
    "flux": lambda: axial(16, 56, 56, interleaved=True),
    "hunyuan_video": lambda: axial(16, 56, 56, base=256, interleaved=True),
    "wan": lambda: axial(44, 42, 42, interleaved=True),
    "cogvideox": lambda: axial(16, 24, 24, interleaved=True),
    "cosmos": lambda: axial(RotaryEmbedding(44, scaling=scaling.NTK(2.0)), 42, 42),
    "ltx": lambda: ltx(torch.float32),
    "qwen_image": lambda: axial(16, 56, 56, interleaved=True),
    "z_image": lambda: axial(32, 48, 48, base=256, interleaved=True),
    "kandinsky5": lambda: axial(16, 24, 24, interleaved=True),
    "hidream": lambda: axial(64, 32, 32, interleaved=True),
    "allegro": lambda: axial(32, 32, 32),
    "cogview4": lambda: axial(64, 64),
    "minimax_h3": lambda: axial(32, 32, 32),
    "esmfold2_atom": lambda: RotaryEmbedding.from_inv_freq(
        torch.tensor(SYSTEMS["esmfold2_atom"]["inv_freq_float32"]), axes=SYSTEMS["esmfold2_atom"]["axis"]
    ),
}


def position_of(sample: dict[str, Any], divisor: list[int] | None) -> Tensor:
    """One position (1, coordinates): integers, or what they are divided by to, in float64."""
    numbers = sample["position"]
    if divisor is None:
        return torch.tensor([numbers], dtype=torch.int64 if all(n == int(n) for n in numbers) else torch.float64)
    return torch.tensor([[n / d for n, d in zip(numbers, divisor, strict=True)]], dtype=torch.float64)


def test_every_golden_is_made():
    assert MADE.keys() == SYSTEMS.keys() and len(MADE) == 30


@pytest.mark.parametrize("name", MADE)
def test_goldens(name: str):
    system, rope = SYSTEMS[name], MADE[name]()
    assert rope.dim == 2 * system["planes"]
    if "axis" in system:
        assert list(rope.axes or ()) == system["axis"]
        torch.testing.assert_close(rope.inv_freq, torch.tensor(system["inv_freq_float32"]), rtol=2e-7, atol=0)
    for sample in system["samples"]:
        j = sample["plane"]
        assert (rope.axes or ())[j] == sample["axis"]
        cos, sin = rope.cos_sin(position_of(sample, system["divisor"]), torch.float64)
        moved = abs(
            rope.inv_freq[j].item() - sample["inv_freq_float32"]
        )  # a spectrum rounded an ulp away is another one
        if moved == 0.0:
            assert abs(cos[0, j].item() - sample["cos"]) <= 1e-11 and abs(sin[0, j].item() - sample["sin"]) <= 1e-11
            cos, sin = rope.cos_sin(position_of(sample, system["divisor"]))
        reach = FLOAT32_BOUND + moved * max(abs(n) for n in sample["position"])
        assert abs(cos[0, j].item() - sample["cos"]) <= reach and abs(sin[0, j].item() - sample["sin"]) <= reach


@pytest.mark.parametrize("name", ["ltx", "flux", "wan"])
def test_frequencies_given_in_float64_stay_so(name: str):
    """Models that compute angles in float64: their float32 frequencies would be off by 1e-6 to 4e-4."""
    system = SYSTEMS[name]
    if name == "ltx":
        rope = ltx(torch.float64)
    else:
        sizes = {"flux": (16, 56, 56), "wan": (44, 42, 42)}[name]
        parts = [progression(n // 2, 1.0, 10000, torch.float64) for n in sizes]
        rope = RotaryEmbedding.from_inv_freq(torch.cat(parts), axes=sections(*(n // 2 for n in sizes)))
    for sample in system["samples"]:
        cos, sin = rope.cos_sin(position_of(sample, system["divisor"]))
        j = sample["plane"]
        assert abs(cos[0, j].item() - sample["cos_ideal_spectrum"]) <= FLOAT32_BOUND
        assert abs(sin[0, j].item() - sample["sin_ideal_spectrum"]) <= FLOAT32_BOUND


def test_dense_directions():
    dense = GOLDENS["dense"]
    for sample in dense["samples"]:
        cos, sin = cos_sin_of(torch.tensor([sample["position"]]), dense["omega"])
        result = cos[sample["head"], 0, sample["plane"]].item(), sin[sample["head"], 0, sample["plane"]].item()
        assert abs(result[0] - sample["cos"]) <= FLOAT32_BOUND and abs(result[1] - sample["sin"]) <= FLOAT32_BOUND


def test_orders_of_positions_and_planes():
    want = GOLDENS["positions"]
    assert multimodal(3, (1, 2, 3), 2)[0].tolist() == want["qwen2_vl text3 image(1,2,3) text2, next=max+1"]
    assert merged(4, 4, 2).tolist() == want["merge order 2x2 of a 4x4 grid (h,w)"]
    numerators = torch.tensor(want["dinov3 centres of a 2x3 grid as numerators over (2,3)"]) / torch.tensor([2.0, 3.0])
    torch.testing.assert_close(centres(2, 3), numerators.double(), rtol=0, atol=1e-7)
    assert grid(5, start=-3)[:, 0].tolist() == want["qwen-image centred h=5: rows"]
    assert "".join(map(str, strided((24, 20, 20)))) == want["strided (24,20,20)"]
    assert "".join(map(str, strided((8, 12, 12)))) == want["strided (8,12,12)"]


def test_centres_keep_the_aspect_ratio_where_asked():
    """timm's normalize_coords (layers/pos_embed_sincos.py): each axis by its own size, by the largest, or by the smallest."""
    rows = {"each": (-0.5, 0.5), "max": (-0.25, 0.25), "min": (-0.5, 0.5)}
    columns = {"each": (-0.75, 0.75), "max": (-0.75, 0.75), "min": (-1.5, 1.5)}
    for by in ("each", "max", "min"):
        result = centres(2, 4, by=by)
        assert (result[0].tolist(), result[-1].tolist()) == tuple(map(list, zip(rows[by], columns[by], strict=True)))


def test_tokens_in_front_of_each_row_of_a_batch():
    at = prefixed(torch.stack((grid(1, 2), grid(2, 1))) + 5, 2)
    assert at.tolist() == [[[0, 0], [0, 0], [5, 5], [5, 6]], [[0, 0], [0, 0], [5, 5], [6, 5]]]


def test_multimodal_of_nothing_and_of_an_empty_span():
    positions, following = multimodal(start=7)
    assert tuple(positions.shape) == (0, 3) and following == 7
    assert multimodal(2, (0, 4, 4), 1)[0].tolist() == [[0, 0, 0], [1, 1, 1], [2, 2, 2]]


# --- laws ---------------------------------------------------------------------------------------------------------------------------

SCHEMES = {
    "plain": (),
    "yarn": scaling.YaRN(4.0, 4096),
    "llama3": scaling.Llama3(8.0, 8192),
    "dynamic": scaling.DynamicNTK(2.0, 64),
}


def same(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("arithmetic", ["exact", "float32"])
@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=SCHEMES.keys())
@pytest.mark.parametrize("axes", [sections(2, 3, 3), strided((3, 3, 2)), alternating(2, 8)], ids=shown)
def test_text_has_the_bits_of_one_coordinate(axes: tuple[int, ...], scheme: Any, arithmetic: Any):
    rope, one = (RotaryEmbedding(16, scaling=scheme, angles=arithmetic, axes=a) for a in (axes, None))
    n = max(axes) + 1
    positions = torch.tensor([[0, 1, 5, 2**31 - 1], [7, -3, 100, 2**24 + 1]])
    for at in (positions, positions[0]):
        spread = at[..., None].expand(*at.shape, n)
        for dtype in (torch.float32, torch.float64):
            assert same(rope.cos_sin(spread, dtype, length=2**31), one.cos_sin(at, dtype, length=2**31))
    assert same(rope.cos_sin(9), one.cos_sin(9)) and same(rope(9), one(9))
    q, k = torch.randn(2, 3, 4, 16), torch.randn(2, 1, 4, 16)
    for how in ({"offset": 5}, {"offset": torch.tensor([5, 9]), "length": 64}, {"length": torch.tensor([50, 90])}):
        assert same(rope.rotate(q, k, **how), one.rotate(q, k, **how))
    packed = {"cu_seqlens": torch.tensor([0, 3, 4]), "length": 64}
    assert same(rope.rotate(q, k, **packed), one.rotate(q, k, **packed))


@pytest.mark.parametrize("order", ["blocks", "alternating"])
@pytest.mark.parametrize("length", [64, 100, torch.tensor([50, 90])], ids=["the window", "length", "length per row"])
def test_axial_is_its_parts_side_by_side(order: Any, length: Any):
    parts = (RotaryEmbedding(8, base=100), RotaryEmbedding(8, scaling=scaling.DynamicNTK(2.0, 64)))
    parts += (RotaryEmbedding(8, interpolation_factor=3.0),)
    rope = axial(*parts, order=order, axes=(2, 0, 1))
    positions = torch.randint(0, 60, (2, 7, 3))
    for dtype in (torch.float32, torch.float64):
        made = [p.cos_sin(positions[..., c], dtype, length=length) for p, c in zip(parts, (2, 0, 1), strict=True)]
        expected: list[Tensor] = []
        for tables in zip(*made, strict=True):
            tables = [t.expand(2, 7, 4) for t in tables]
            expected.append(torch.cat(tables, -1) if order == "blocks" else torch.stack(tables, -1).flatten(-2))
        assert same(rope.cos_sin(positions, dtype, length=length), (expected[0], expected[1]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-(2**31), 2**31)] * 3), min_size=1, max_size=6))
def test_a_row_alone_is_a_row_among_others(rows: list[tuple[int, int, int]]):
    rope, positions = RotaryEmbedding(16, axes=strided((3, 3, 2))), torch.tensor(rows)
    for dtype in (torch.float32, torch.float64):
        cos, sin = rope.cos_sin(positions, dtype)
        for i in range(len(rows)):
            assert same((cos[i : i + 1], sin[i : i + 1]), rope.cos_sin(positions[i : i + 1], dtype))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**20), 2**20), min_size=3, max_size=3), st.integers(0, 2))
def test_scores_depend_on_differences_on_each_axis(shift: list[int], axis: int):
    torch.manual_seed(0)
    rope = axial(4, 8, 4, base=1000)
    q, k = torch.randn(2, 1, 1, 1, 16, dtype=torch.float64)
    moved = torch.tensor([[5, -3, 11]]), torch.tensor([[2, 9, 4]])
    scores = [
        float((rope.rotate(q, positions=a) * rope.rotate(k, positions=b)).sum())
        for a, b in (moved, tuple(p + torch.tensor([shift]) for p in moved))
    ]
    assert abs(scores[0] - scores[1]) < 1e-12 * 16


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-(2**24), 2**24)] * 2), min_size=1, max_size=5))
def test_real_integers_are_integers_within_an_ulp(rows: list[tuple[int, int]]):
    """float32 holds integers to 2^24, float64 to 2^53. The angle is at most 1.7e7 rad, where float64 is off by 3.7e-9."""
    for rope in (axial(8, 8), RotaryEmbedding(16, axes=alternating(2, 8))):
        exact = rope.cos_sin(torch.tensor(rows))
        for dtype in (torch.float64, torch.float32):
            for result, expected in zip(rope.cos_sin(torch.tensor(rows, dtype=dtype)), exact, strict=True):
                assert float((result.double() - expected.double()).abs().max()) <= 6.0e-8 + 3.7e-9


def test_a_base_without_a_part_that_reads_it_is_refused():
    rope = RotaryEmbedding(8)
    for base in (10000, 77, "x"):
        with pytest.raises(TypeError, match="base is of parts that are numbers of channels"):
            axial(rope, rope, base=base)  # type: ignore[arg-type]
    assert same(axial(rope, 8, base=77).cos_sin(3), axial(rope, RotaryEmbedding(8, base=77)).cos_sin(3))
    for part in ("56", 56.0, None):
        with pytest.raises(TypeError, match="part 1 must be its channels, an integer, or a RotaryEmbedding"):
            axial(16, part)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="part 1 must be a positive even integer, got 7"):
        axial(16, 7)


def test_every_coordinate_of_alternating_planes_is_read():
    assert alternating(3, 3) == (0, 1, 2)
    with pytest.raises(ValueError, match="5 coordinates need at least 5 planes"):
        alternating(5, 3)


def test_packed_images_are_each_alone():
    rope, sizes = axial(8, 8), [(2, 3), (4, 1)]
    whole = rope.cos_sin(grids(sizes))
    alone = [rope.cos_sin(grid(*size)) for size in sizes]
    assert same(whole, (torch.cat([c for c, _ in alone]), torch.cat([s for _, s in alone])))


def test_tokens_in_front_keep_their_bits():
    rope, x = axial(8, 8), torch.randn(1, 2, 5, 16, dtype=torch.bfloat16)
    y = rope.rotate(x, positions=prefixed(grid(1, 3), 2))
    assert torch.equal(y[..., :2, :], x[..., :2, :]) and not torch.equal(y[..., 3:, :], x[..., 3:, :])


def test_prefill_agrees_with_decoding_after_images():
    rope = RotaryEmbedding(16, base=1e6, axes=sections(2, 3, 3))
    q = torch.randn(1, 2, 14, 16)
    positions, following = multimodal(3, (2, 2, 2), 3)
    assert len(positions) == 14 and following == 8
    whole, after = multimodal(3, (2, 2, 2), 4)
    more = torch.cat((q, torch.randn(1, 2, 1, 16)), -2)
    one = rope.rotate(more[..., 14:, :], offset=following)
    assert torch.equal(rope.rotate(more, positions=whole)[..., 14:, :], one) and after == 9


def test_one_hot_rows_are_sparse_ones():
    rope = RotaryEmbedding(8, axes=(0, 1, 0, 1))
    directions = [[f, 0.0] if a == 0 else [0.0, f] for f, a in zip(rope.inv_freq.tolist(), (0, 1, 0, 1), strict=True)]
    positions = torch.randint(-(2**31), 2**31, (20, 2))
    for dtype in (torch.float32, torch.float64):
        result, expected = cos_sin_of(positions, directions, dtype), rope.cos_sin(positions, dtype)
        for a, b in zip(result, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=6e-8 if dtype == torch.float32 else 1e-14)


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan, 1e300, 3.5e38, torch.tensor(math.inf)])
@pytest.mark.parametrize("positions", [torch.tensor([[1]]), torch.tensor([[1.0]])])
def test_directions_in_sequences_are_finite(number: Any, positions: torch.Tensor):
    for directions in ([[number]], [[[number]], [[1.0]]], ((1.0,), (number,))):
        with pytest.raises(ValueError, match=r"directions with shape \(.*\) must be finite in float32"):
            cos_sin_of(positions, directions)
    assert cos_sin_of(positions, [[3.4e38]])[0].isfinite().all()


def test_positions_of_directions_are_those_of_every_table():
    large = torch.tensor([[2**64 - 1]], dtype=torch.uint64)
    for directions in ([[1.0]], torch.ones(1, 1), torch.ones(1, 1, requires_grad=True)):
        for number in (math.inf, -math.inf, math.nan):
            with pytest.raises(ValueError, match="positions must be finite"):
                cos_sin_of(torch.tensor([[number]]), directions)
    with pytest.raises(ValueError, match="below 2\\^63"):
        cos_sin_of(large, [[1.0]])
    last = torch.tensor([[2**63 - 1]])
    assert torch.equal(cos_sin_of(last.to(torch.uint64), [[1.0]])[0], cos_sin_of(last, [[1.0]])[0])


def test_sequences_of_parameters_are_refused_and_stacked_ones_get_gradients():
    weights = [torch.nn.Parameter(torch.tensor(1.0)) for _ in range(2)]
    for directions in ([weights], [[[weights[0]]]], (torch.nn.Parameter(torch.ones(2)),)):
        with pytest.raises(TypeError, match=r"require a gradient, .* torch.stack\(\)"):
            cos_sin_of(torch.tensor([[1, 2]]), directions)
    cos_sin_of(torch.tensor([[1, 2]]), torch.stack(weights)[None])[1].sum().backward()
    assert all(w.grad is not None for w in weights)
    plain = cos_sin_of(torch.tensor([[1, 2]]), [[w.detach() for w in weights]])
    assert torch.equal(plain[0], cos_sin_of(torch.tensor([[1, 2]]), [[1.0, 1.0]])[0])


def test_gradients_reach_directions_and_real_positions():
    directions = torch.nn.Parameter(torch.randn(2, 4, 2, dtype=torch.float64))
    positions = torch.randn(5, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda d, p: cos_sin_of(p, d, torch.float64), (directions, positions))
    rope = axial(4, 4)
    assert torch.autograd.gradcheck(lambda p: rope.cos_sin(p, torch.float64), (positions,))
    x = torch.randn(3, 2, 5, 8)  # (batch, heads, seq, channels): directions per head are the batch of a transposed view
    cos, sin = cos_sin_of(positions, directions)
    y = apply_rotary(x.transpose(0, 1), cos, sin, interleaved=True).transpose(0, 1)
    y.square().sum().backward()
    assert directions.grad is not None and y.shape == x.shape
    alone = apply_rotary(x[:, 1:], cos[1], sin[1], interleaved=True)
    torch.testing.assert_close(y[:, 1:], alone, rtol=0, atol=0)


def test_pairs_inside_blocks_by_a_view():
    """Gemma-4's vision tower pairs halves inside each axis' channels: the same rotation on a view, two tokens for one."""
    rope, x = axial(8, 8, base=100), torch.randn(2, 3, 6, 16)
    cos, sin = rope.cos_sin(grid(2, 3))
    y = apply_rotary(x.view(2, 3, 12, 8), cos.view(12, 4), sin.view(12, 4)).view(x.shape)
    blocks = [
        apply_rotary(x[..., c : c + 8].contiguous(), cos[:, c // 2 : c // 2 + 4], sin[:, c // 2 : c // 2 + 4])
        for c in (0, 8)
    ]
    assert torch.equal(y, torch.cat(blocks, -1))


WAYS = {
    "axial": axial(8, 8),
    "alternating": axial(8, 8, order="alternating", axes=(1, 0), interleaved=True),
    "sections with YaRN": RotaryEmbedding(16, scaling=scaling.YaRN(4.0, 64), axes=sections(5, 3)),
    "float64": RotaryEmbedding.from_inv_freq(progression(8, 2 * math.pi, 100, torch.float64), axes=alternating(2, 8)),
}


KINDS = [(name, torch.int64) for name in WAYS] + [("axial", torch.float64), ("float64", torch.float64)]


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_compiled_without_a_break_or_a_graph_per_grid(name: str, dtype: torch.dtype):
    rope = WAYS[name]
    torch.compiler.reset()
    compiled = torch.compile(
        lambda q, p: rope.rotate(q, positions=p), fullgraph=True, backend="aot_eager", dynamic=True
    )
    graphs: list[int] = []
    for rows, columns in ((2, 3), (3, 4), (4, 5)):
        q, p = torch.randn(1, 2, rows * columns, 16), grid(rows, columns).to(dtype)
        assert torch.equal(compiled(q, p), rope.rotate(q, positions=p))
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[-1]


@pytest.mark.parametrize(("name", "dtype"), KINDS)
def test_exported_and_mapped(name: str, dtype: torch.dtype):
    rope = WAYS[name]
    stacked = torch.stack([grid(2, 3), grid(3, 2)]).to(dtype)
    mapped = torch.vmap(lambda p: rope.cos_sin(p)[0])(stacked)
    assert torch.equal(mapped, rope.cos_sin(stacked)[0])

    class Module(torch.nn.Module):
        def forward(self, q: Tensor, p: Tensor) -> Tensor:
            return rope.rotate(q, positions=p)

    tokens = torch.export.Dim("tokens", min=2, max=4096)
    shapes = ({2: tokens}, {0: tokens})
    exported = torch.export.export(Module(), (torch.randn(1, 2, 6, 16), stacked[0]), dynamic_shapes=shapes).module()
    for size in ((2, 3), (4, 5)):
        q, p = torch.randn(1, 2, size[0] * size[1], 16), grid(*size).to(dtype)
        assert torch.equal(exported(q, p), rope.rotate(q, positions=p))


@pytest.mark.parametrize("name", WAYS)
def test_gradients_of_a_rotation_to_real_positions(name: str):
    rope = WAYS[name]
    q = torch.randn(1, 3, 16, dtype=torch.float64, requires_grad=True)
    positions = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q, p: rope.rotate(q, positions=p), (q, positions))
    rope.rotate(torch.randn(1, 3, 16), positions=positions.float().detach().requires_grad_()).sum().backward()


# --- words and errors -----------------------------------------------------------------------------------------------------------------


def test_repr_is_short_and_true():
    assert repr(RotaryEmbedding(128, base=1000000, axes=sections(16, 24, 24))) == (
        "RotaryEmbedding(128, base=1000000, axes=sections(16, 24, 24))"
    )
    assert "strided((24, 20, 20))" in repr(RotaryEmbedding(128, axes=strided((24, 20, 20))))
    assert "(1, 2) * 22 + (0,) * 20" in repr(RotaryEmbedding(128, axes=(1, 2) * 22 + (0,) * 20))
    assert repr(axial(16, 56, 56)) == "RotaryEmbedding(128, parts=(16, 56, 56), axes=sections(8, 28, 28))"
    assert repr(RotaryEmbedding.from_inv_freq([1.0, 0.5], axes=(1, 0))) == (
        "RotaryEmbedding(4, inv_freq=given, axes=(1, 0))"
    )
    for axes in (sections(2, 3), strided((3, 2, 2)), alternating(3, 7), (1, 2) * 2 + (0,), (0, 1, 1, 0, 2)):
        assert tuple(eval(shown(axes))) == axes


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: RotaryEmbedding(8, axes=(0, 1)), "each of the 4 planes"),
        (lambda: RotaryEmbedding(8, axes=(0, 1, 2, -1)), "must not be negative"),
        (lambda: RotaryEmbedding(8, axes=(0, 0, 2, 2)), "no plane reads coordinate 1"),
        (lambda: RotaryEmbedding(8, use_xpos=True, axes=(0, 0, 1, 1)), "xPos"),
        (lambda: axial(), "channels of each axis"),
        (lambda: axial(RotaryEmbedding(8, use_xpos=True), 8), "part 0 has xPos"),
        (lambda: axial(8, RotaryEmbedding(8, axes=(0, 0, 1, 1))), "part 1 has axes"),
        (lambda: axial(8, RotaryEmbedding(8, interleaved=True)), "part 1 has interleaved=True"),
        (lambda: axial(8, 4, order="alternating"), "one size"),
        (lambda: axial(8, 4, order="rows"), "order must be one of"),
        (lambda: axial(8, RotaryEmbedding(8, scaling=scaling.YaRN(4.0, 64))), "attention_factor=1.0"),
        (lambda: axial(8, 8, axes=(0, 2)), "no plane reads coordinate 1"),
        (
            lambda: RotaryEmbedding.from_inv_freq(torch.ones(4, dtype=torch.float64), angles="float32"),
            "float32 product",
        ),
        (lambda: axial(8, 8).cos_sin(torch.arange(5)), "last dimension of 2 coordinates"),
        (lambda: axial(8, 8).cos_sin(torch.ones(5, 3, dtype=torch.int64)), "have 3 coordinates"),
        (lambda: axial(8, 8).cos_sin(torch.ones(2, 5, dtype=torch.int64)), "movedim"),
        (lambda: axial(8, 8).rotate(torch.randn(5, 16), positions=torch.ones(4, 2).long()), "4 entries along"),
        (lambda: axial(8, 8).cos_sin(torch.full((3, 2), float("nan"))), "finite"),
        (lambda: RotaryEmbedding(8).rotate(torch.randn(2, 5, 8), positions=torch.ones(2, 5, 2).long()), "axes="),
        (lambda: strided((3, 3), planes=4), "need 6 planes"),
        (lambda: sections(3, 0), "at least 1"),
        (lambda: merged(3, 4, 2), "do not divide"),
        (lambda: multimodal((2, 3)), "frames, rows, columns"),
        (lambda: multimodal((2, 3, 4, 5)), "frames, rows, columns"),
        (lambda: RotaryEmbedding(8, axes=(0, 0, 2, 4)), "no plane reads coordinate 1"),
        (lambda: grids([(2, 3), (2, 3, 4)]), "one number of coordinates"),
        (lambda: grid(2, 3, start=(1,)), "start has 1"),
        (lambda: cos_sin_of(torch.ones(3, 2).long(), torch.ones(4, 3)), "the planes read 3"),
        (lambda: cos_sin_of(torch.ones(2, 3, 2), torch.ones(2, 4, 2)), "must have shape"),
    ],
)
def test_values_that_do_not_fit(make: Callable[[], Any], words: str):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_cannot_tell_neighbours_apart(dtype: torch.dtype):
    """Image positions in bfloat16: prompts that break (OneTrainer #1177, diffusers #13920)."""
    for call in (
        lambda: RotaryEmbedding(8).cos_sin(torch.arange(5).to(dtype)),
        lambda: axial(4, 4).rotate(torch.randn(2, 8), positions=torch.ones(2, 2, dtype=dtype)),
        lambda: RotaryEmbedding.from_inv_freq(torch.ones(4, dtype=dtype)),
        lambda: cos_sin_of(torch.ones(2, 2, dtype=dtype), torch.ones(4, 2)),
        lambda: cos_sin_of(torch.ones(2, 2), torch.ones(4, 2, dtype=dtype)),
    ):
        with pytest.raises(TypeError, match=str(dtype)):
            call()
    with pytest.raises(TypeError, match="whole positions"):
        RotaryEmbedding(8, angles="float32").cos_sin(torch.rand(3))
