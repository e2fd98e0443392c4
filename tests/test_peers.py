"""Peers as judges: the same queries through what other people wrote. Equal within rounding; where one is wrong, by how much."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_pos_emb
from rotary.pairing import half_to_interleaved, interleaved_to_half
from support import truth

BATCH, HEADS, TOKENS, DIM = 2, 3, 33, 64
ROUNDINGS = 4 * 2.0**-24  # of products below 8: each side rounds each product and sum


def queries(dtype: torch.dtype = torch.float32, dim: int = DIM) -> Tensor:
    """(BATCH, HEADS, TOKENS, dim), entries at most 4 in magnitude."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(BATCH, HEADS, TOKENS, dim, generator=generator).clamp(-4, 4).to(dtype)


def exact(dim: int = DIM) -> tuple[Tensor, Tensor]:
    """float32 (TOKENS, dim/2) from mpmath, independent of all libraries."""
    rows = truth.table(range(TOKENS), [float(np.float32(f)) for f in truth.inv_freq(dim)])
    cos, sin = (torch.tensor([[float(pair[i]) for pair in row] for row in rows], dtype=torch.float32) for i in (0, 1))
    return cos, sin


def complex_multiplication(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    z = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(z * torch.complex(cos, sin)).flatten(-2)


def torchtune(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """torchtune's forward, rewritten: adjacent pairs, stacked, flattened."""
    pairs = x.unflatten(-1, (-1, 2))
    turned = (pairs[..., 0] * cos - pairs[..., 1] * sin, pairs[..., 1] * cos + pairs[..., 0] * sin)
    return torch.stack(turned, -1).flatten(-2)


def llama(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    modeling = pytest.importorskip("transformers.models.llama.modeling_llama")
    wide = [torch.cat((t, t), -1)[None] for t in (cos, sin)]
    return modeling.apply_rotary_pos_emb(x, x, *wide)[0]


def cohere(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    modeling = pytest.importorskip("transformers.models.cohere.modeling_cohere")
    wide = [t.repeat_interleave(2, -1)[None] for t in (cos, sin)]
    return modeling.apply_rotary_pos_emb(x, x, *wide)[0]


def rotary_embedding_torch(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    library = pytest.importorskip("rotary_embedding_torch")
    return library.apply_rotary_emb(torch.atan2(sin, cos).repeat_interleave(2, -1), x)


def timm(x: Tensor, cos: Tensor, sin: Tensor, half: bool) -> Tensor:
    """apply_rot_embed_cat, which takes sin and cos side by side, every value twice."""
    layers = pytest.importorskip("timm.layers")
    wide = [torch.cat((t, t), -1) if half else t.repeat_interleave(2, -1) for t in (sin, cos)]
    return layers.apply_rot_embed_cat(x, torch.cat(wide, -1), half=half)


def onnx_model(interleaved: bool, dim: int) -> Any:
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    node = helper.make_node(
        "RotaryEmbedding",
        ["x", "cos", "sin"],
        ["y"],
        interleaved=int(interleaved),
        rotary_embedding_dim=0 if dim == DIM else dim,
    )
    shapes = {"x": [BATCH, HEADS, TOKENS, DIM], "cos": [BATCH, TOKENS, dim // 2], "sin": [BATCH, TOKENS, dim // 2]}
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, shape in shapes.items()]
    graph = helper.make_graph([node], "rope", inputs, [helper.make_tensor_value_info("y", kind, shapes["x"])])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def fed(x: Tensor, cos: Tensor, sin: Tensor) -> dict[str, Any]:
    rows = [t.expand(BATCH, -1, -1).contiguous().numpy() for t in (cos, sin)]
    return {"x": x.numpy(), "cos": rows[0], "sin": rows[1]}


def onnx_reference(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    reference = pytest.importorskip("onnx.reference")
    model = onnx_model(interleaved, 2 * cos.shape[-1])
    return torch.from_numpy(reference.ReferenceEvaluator(model).run(None, fed(x, cos, sin))[0])


def onnx_runtime(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(
        onnx_model(interleaved, 2 * cos.shape[-1]).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return torch.from_numpy(session.run(None, fed(x, cos, sin))[0])


def onnx_runtime_of_microsoft(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """The older operator of the domain com.microsoft, which reads rows of its tables by position ids."""
    runtime, helper = pytest.importorskip("onnxruntime"), pytest.importorskip("onnx").helper
    kinds = pytest.importorskip("onnx").TensorProto
    node = helper.make_node(
        "RotaryEmbedding",
        ["x", "positions", "cos", "sin"],
        ["y"],
        domain="com.microsoft",
        interleaved=int(interleaved),
    )
    given = {"x": x, "positions": torch.arange(TOKENS).expand(BATCH, -1).contiguous(), "cos": cos, "sin": sin}
    inputs = [
        helper.make_tensor_value_info(name, kinds.INT64 if name == "positions" else kinds.FLOAT, list(t.shape))
        for name, t in given.items()
    ]
    graph = helper.make_graph([node], "rope", inputs, [helper.make_tensor_value_info("y", kinds.FLOAT, list(x.shape))])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {name: t.numpy() for name, t in given.items()})[0])


Peer = Callable[[Tensor, Tensor, Tensor], Tensor]
PEERS: dict[str, tuple[Peer, bool]] = {
    "llama": (llama, False),
    "cohere": (cohere, True),
    "complex": (complex_multiplication, True),
    "torchtune": (torchtune, True),
    "rotary-embedding-torch": (rotary_embedding_torch, True),
    "timm, half": (lambda *a: timm(*a, True), False),
    "timm, interleaved": (lambda *a: timm(*a, False), True),
    "onnx reference, half": (lambda *a: onnx_reference(*a, False), False),
    "onnx reference, interleaved": (lambda *a: onnx_reference(*a, True), True),
    "onnx runtime, half": (lambda *a: onnx_runtime(*a, False), False),
    "onnx runtime, interleaved": (lambda *a: onnx_runtime(*a, True), True),
    "com.microsoft, half": (lambda *a: onnx_runtime_of_microsoft(*a, False), False),
    "com.microsoft, interleaved": (lambda *a: onnx_runtime_of_microsoft(*a, True), True),
}


@pytest.mark.parametrize("name", PEERS)
def test_a_peer_rotates_as_we_do(name: str):
    peer, interleaved = PEERS[name]
    x, (cos, sin) = queries(), exact()
    difference = (peer(x, cos, sin) - apply_rotary(x, cos, sin, interleaved=interleaved)).abs().max()
    allowed = 8 * (8 * 2.0**-24 if name == "rotary-embedding-torch" else ROUNDINGS)  # it goes by the angle and back
    assert difference <= allowed


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("peer", [onnx_reference, onnx_runtime])
def test_partial_rotary_of_onnx_is_ours(peer: Any, interleaved: bool):
    x, (cos, sin) = queries(), exact(32)
    ours = apply_rotary(x, cos, sin, interleaved=interleaved)
    assert (peer(x, cos, sin, interleaved) - ours).abs().max() <= 8 * ROUNDINGS
    assert torch.equal(ours[..., 32:], x[..., 32:])


def test_bfloat16_of_llama_rounds_three_times():
    """Its rms error is larger than ours, which rounds once, by about a third."""
    x, (cos, sin) = queries(torch.bfloat16), exact()
    low = [t.bfloat16() for t in (cos, sin)]
    right = apply_rotary(x.double(), *(t.double() for t in low))
    ours, theirs = ((y.double() - right).square().mean().sqrt() for y in (apply_rotary(x, *low), llama(x, *low)))
    assert 1.2 * ours <= theirs <= 1.6 * ours


def test_F4_angles_of_transformers_far_out_are_off_by_hundredths():
    """Its own module at a million tokens, against mpmath on its own frequencies, where ours is within 3.1e-8."""
    pytest.importorskip("transformers")
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    theirs = LlamaRotaryEmbedding(LlamaConfig(head_dim=DIM))
    positions = torch.arange(999_900, 1_000_000, 7)
    cos, _ = theirs(torch.zeros(1), positions[None])
    ours, _ = RotaryEmbedding.from_inv_freq(theirs.inv_freq).cos_sin(positions)
    rows = truth.table(positions.tolist(), theirs.inv_freq.tolist())
    right = torch.tensor([[float(pair[0]) for pair in row] for row in rows], dtype=torch.float64)
    assert (ours - right).abs().max() <= 3.1e-8
    assert 1e-3 < (cos[0, :, : DIM // 2] - right).abs().max() < 0.1


def test_rotary_embedding_torch_cannot_tell_positions_past_two_to_the_24():
    library = pytest.importorskip("rotary_embedding_torch")
    positions = torch.tensor([2**24, 2**24 + 1])
    theirs = library.RotaryEmbedding(DIM)
    angles = theirs(positions.float())[:, ::2]
    ours = RotaryEmbedding(DIM).cos_sin(positions)[0]
    assert torch.equal(angles[0], angles[1])
    assert (ours[0] - ours[1]).abs().max() > 0.1


def test_F2_rotary_embedding_torch_counts_in_bfloat16():
    """From 257 tokens on its positions stand still and step; results are off by the size of the queries, ours by one rounding."""
    library = pytest.importorskip("rotary_embedding_torch")
    x = torch.randn(1, 1, 600, DIM, generator=torch.Generator().manual_seed(1)).clamp(-4, 4).bfloat16()
    rope = RotaryEmbedding(DIM, interleaved=True)
    right = rope.rotate(x.double())
    theirs = (library.RotaryEmbedding(DIM).rotate_queries_or_keys(x).double() - right).abs()
    ours = (rope.rotate(x).double() - right).abs()
    assert theirs[..., :256, :].max() <= 2**-6 and theirs[..., 257:, :].max() > 2
    assert ours.max() <= 2**-6  # half a unit in the last place between 4 and 8


@pytest.mark.parametrize("base", [10_000, 500_000])
def test_tables_of_timm_are_the_float32_product(base: int):
    """Its function for patches makes one axis with language frequencies too; at 5,000 tokens it is off by thousands of roundings."""
    layers = pytest.importorskip("timm.layers")
    sin, cos = layers.build_rotary_pos_embed(
        [5000], dim=2 * DIM, temperature=base, in_pixels=False, rotate_half=True
    )  # dim counts two axes
    inv_freq = 1.0 / (base ** (torch.arange(DIM // 2).to(torch.float32) / (DIM // 2)))
    angles = torch.arange(5000.0)[:, None] * inv_freq
    assert torch.equal(cos[:, : DIM // 2], angles.cos()) and torch.equal(sin[:, : DIM // 2], angles.sin())
    ours, _ = RotaryEmbedding.from_inv_freq(inv_freq).cos_sin(5000)
    assert 5e-5 < (cos[:, : DIM // 2] - ours).abs().max() < 5e-4


def torchscale(x: Tensor, *, length: int, offset: int, down: bool) -> Tensor:
    """xPos of torchscale (component/xpos_relative_position.py), written anew: powers centred on the middle of what it is given."""
    half = x.shape[-1] // 2
    zeta = (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) + 0.4 * x.shape[-1]) / (1.4 * x.shape[-1])
    lowest = -(length + offset) // 2
    powers = torch.arange(lowest, length + offset + lowest, dtype=torch.float64)[:, None] / 512
    scale = (zeta**powers)[-length:]
    angles = torch.arange(scale.shape[0], dtype=torch.float64)[:, None] / 10000 ** (
        torch.arange(half, dtype=torch.float64) / half
    )
    scale = 1 / scale if down else scale
    return torchtune(x, angles.cos() * scale, angles.sin() * scale)


def test_xpos_of_torchscale_gives_the_same_scores():
    """Its powers are centred on the middle, ours on position 0: queries and keys differ, each score is the same."""
    q, k = queries(torch.float64), queries(torch.float64).flip(0)
    rope = RotaryEmbedding(DIM, use_xpos=True, interleaved=True)
    ours_q, ours_k = rope.rotate(q, k)
    theirs_q, theirs_k = (torchscale(x, length=TOKENS, offset=0, down=down) for x, down in ((q, False), (k, True)))
    ours, theirs = ours_q @ ours_k.mT, theirs_q @ theirs_k.mT
    assert (ours_q - theirs_q).abs().max() > 1e-3
    assert (
        ours - theirs
    ).abs().max() <= 2e-6 * theirs.abs().max()  # our frequencies are float32, its formula's here float64


def test_F22_keys_that_torchscale_scaled_for_one_length_are_wrong_at_another():
    """A key cached at 33 tokens and the same key at 65: other numbers there, the same bits here."""
    k = queries(torch.float64)
    before = torchscale(k, length=TOKENS, offset=0, down=True)
    longer = torchscale(torch.cat((k, k[..., : TOKENS - 1, :]), -2), length=2 * TOKENS - 1, offset=0, down=True)[
        ..., :TOKENS, :
    ]
    assert (before - longer).abs().max() > 1e-2
    rope = RotaryEmbedding(DIM, use_xpos=True)
    alone = rope.rotate(k, role="key")
    together = rope.rotate(torch.cat((k, k), -2), role="key")[..., :TOKENS, :]
    assert torch.equal(alone, together)


@pytest.mark.parametrize("down", [False, True])
@pytest.mark.parametrize(("length", "offset"), [(TOKENS, 0), (TOKENS - 1, 0), (1, 40)])
def test_the_formula_of_torchscale_is_its_module(length: int, offset: int, down: bool):
    module = pytest.importorskip("torchscale.component.xpos_relative_position")
    x = queries()[:, 0, :length]
    theirs = module.XPOS(DIM)(x, offset=offset, downscale=down)
    if length == 1:
        x = x.expand(-1, offset + 1, -1)  # our spelling turns every row and shows the last
        written = torchscale(x.double(), length=offset + 1, offset=0, down=down)[:, -1:]
    else:
        written = torchscale(x.double(), length=length, offset=offset, down=down)
    assert (theirs - written).abs().max() <= 2e-5  # its angles are float32 products


def test_odd_lengths_have_another_centre_in_torchscale():
    """Floor division of a negative number: of 33 tokens position 17 has power 0 there; the documented centre is 33 // 2 = 16."""
    ones = torch.zeros(TOKENS, DIM, dtype=torch.float64)
    ones[:, 0::2] = 1.0
    theirs = torchscale(ones, length=TOKENS, offset=0, down=False).unflatten(-1, (-1, 2)).norm(dim=-1)
    _, documented = RotaryEmbedding(DIM, use_xpos=True)(TOKENS)
    assert torch.equal(documented[TOKENS // 2], torch.ones(DIM))
    torch.testing.assert_close(theirs[TOKENS // 2 + 1], torch.ones(DIM // 2, dtype=torch.float64))
    apart = (theirs - documented[:, : DIM // 2]).abs().max()
    assert 1e-3 < apart < 1e-2  # one step of zeta^(1/512), nothing more
    even = torchscale(ones[1:], length=TOKENS - 1, offset=0, down=False).unflatten(-1, (-1, 2)).norm(dim=-1)
    _, documented = RotaryEmbedding(DIM, use_xpos=True)(TOKENS - 1)
    assert (even - documented[:, : DIM // 2]).abs().max() <= 1e-6


def test_xpos_of_rotary_embedding_torch_is_the_documented_pair():
    """It centres on seq_len // 2 as forward() does: queries and keys agree, not only scores."""
    library = pytest.importorskip("rotary_embedding_torch")
    q, k = queries(), queries().flip(0)
    theirs = library.RotaryEmbedding(DIM, use_xpos=True).rotate_queries_and_keys(q, k)
    freqs, scale = RotaryEmbedding(DIM, use_xpos=True)(TOKENS)
    for given, peer, factor in zip((q, k), theirs, (scale, 1 / scale), strict=True):
        ours = apply_rotary_pos_emb(interleaved_to_half(given), freqs, factor)
        assert (half_to_interleaved(ours) - peer).abs().max() <= 2e-5  # both angles are rounded to float32
