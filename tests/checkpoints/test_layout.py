"""Which rows turn, worked out by hand; and what is refused rather than guessed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rotary.checkpoints.layout import Layout

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_theta": 1e4,
}
FALCON = {"model_type": "falcon", "hidden_size": 16, "num_attention_heads": 4, "num_kv_heads": 2, "rope_theta": 1e4}
ROFORMER = {"model_type": "roformer", "hidden_size": 16, "num_attention_heads": 4}
STEM = "model.layers.3.self_attn"


def heads(found: Any, role: str) -> list[int]:
    """The first row of each head of that role; heads of four channels."""
    rows = found.where[role]
    assert torch.equal(rows, rows[:, :1] + torch.arange(4))
    return rows[:, 0].tolist()


def test_order_is_a_permutation_of_heads_alone_and_its_own_inverse_the_other_way():
    found = Layout(LLAMA).turned(f"{STEM}.k_proj.weight", (8, 16))
    assert found is not None and (found.module, found.layer, found.kind) == (STEM, 3, "weight")
    assert found.order(8, "interleaved").tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    wider = Layout(LLAMA | {"head_dim": 6, "partial_rotary_factor": 1.0}).turned(f"{STEM}.k_proj.bias", (12,))
    assert wider is not None and wider.order(12, "interleaved").tolist()[:6] == [0, 3, 1, 4, 2, 5]
    assert wider.order(12, "half").tolist()[:6] == [0, 2, 4, 1, 3, 5]
    x = torch.arange(12)
    assert torch.equal(x[wider.order(12, "interleaved")][wider.order(12, "half")], x)


@pytest.mark.parametrize(
    ("options", "rows", "q", "k"),
    [
        ({"new_decoder_architecture": True}, 32, [0, 4, 16, 20], [8, 24]),  # q q k v | q q k v
        ({"multi_query": True}, 24, [0, 4, 8, 12], [16]),  # q q q q k v, whatever num_kv_heads says
        ({}, 24, [0, 4, 8, 12], [16]),  # which is the default
        ({"multi_query": False}, 48, [0, 12, 24, 36], [4, 16, 28, 40]),  # q k v, head by head
        ({"new_decoder_architecture": True, "num_kv_heads": None}, 48, [0, 12, 24, 36], [4, 16, 28, 40]),
    ],
)
def test_falcons_three_arrangements(options: dict[str, Any], rows: int, q: list[int], k: list[int]):
    found = Layout(FALCON | options).turned("transformer.h.0.self_attention.query_key_value.weight", (rows, 16))
    assert found is not None and heads(found, "q") == q and heads(found, "k") == k
    with pytest.raises(ValueError, match=f"{rows} are expected"):
        Layout(FALCON | options).turned("transformer.h.0.self_attention.query_key_value.weight", (rows + 4, 16))


def test_falcon_with_biases_of_distance_does_not_rotate():
    with pytest.raises(ValueError, match="alibi = True: this model does not rotate"):
        Layout(FALCON | {"alibi": True}).turned("transformer.h.0.self_attention.query_key_value.weight", (24, 16))


def test_berts_names():
    layout = Layout(ROFORMER)
    stem = "roformer.encoder.layer.0.attention"
    found = layout.turned(f"{stem}.self.query.weight", (16, 16))
    assert found is not None and found.module == f"{stem}.self" and heads(found, "q") == [0, 4, 8, 12]
    for still in ("self.value.bias", "output.dense.weight", "output.LayerNorm.bias"):
        assert layout.turned(f"{stem}.{still}", (16,)) is None
    with pytest.raises(ValueError, match="no rule for 'self'"):
        layout.turned(f"{stem}.self", (16, 16))
    with pytest.raises(ValueError, match="query outside an attention layer"):
        layout.turned("roformer.encoder.layer.0.crossattention.self.query.weight", (16, 16))
    with pytest.raises(ValueError, match="no rule for 'self' in models like 'llama'"):
        Layout(LLAMA).turned(f"{stem}.self.query.weight", (16, 16))


@pytest.mark.parametrize("part", ["rotary_emb.inv_freq", "bias", "masked_bias"])
def test_buffers_of_older_releases_stand_still(part: str):
    assert Layout(LLAMA).turned(f"{STEM}.{part}", ()) is None


def test_layers_without_a_rotation_stand_still_whatever_their_parts_are_called():
    assert Layout(LLAMA).turned("model.layers.3.linear_attn.q_proj.weight", (5, 7)) is None


@pytest.mark.parametrize("shape", [(), (0,), (16,), (16, 0), (0, 16), (16, 16, 1)])
def test_a_weight_of_a_shape_that_none_has_is_refused_by_name(shape: tuple[int, ...]):
    """A single number, what a sharded optimizer leaves behind, a convolution: none of them is rows of a projection."""
    with pytest.raises(ValueError, match=r"q_proj\.weight has shape .*which no weight of q_proj has"):
        Layout(LLAMA).turned(f"{STEM}.q_proj.weight", shape)
    with pytest.raises(ValueError, match="which no bias of q_proj has"):
        Layout(LLAMA).turned(f"{STEM}.q_proj.bias", (16, 1) if shape == (16,) else shape)


@pytest.mark.parametrize(
    ("shape", "rows"), [((4,), [0]), ((16,), [0, 4, 8, 12]), ((4, 4), [0, 4, 8, 12]), ((1, 16), [0, 4, 8, 12])]
)
def test_gains_may_be_one_for_every_head_or_one_for_each(shape: tuple[int, ...], rows: list[int]):
    found = Layout(LLAMA).turned(f"{STEM}.q_norm.weight", shape)
    assert found is not None and found.kind == "gain" and heads(found, "q") == rows


def test_the_pairing_of_code_that_nobody_knows_is_not_guessed():
    strange = LLAMA | {"model_type": "of tomorrow"}
    layout = Layout(strange, like="llama")
    assert layout.turned(f"{STEM}.q_proj.weight", (16, 16)) is not None
    with pytest.raises(ValueError, match="how the code of models of type 'of tomorrow' pairs channels is not known"):
        _ = layout.interleaved
    assert Layout(strange | {"rope_interleave": True}, like="llama").interleaved
    assert not Layout(strange | {"rope_interleave": False}, like="gptj").interleaved
    assert Layout(
        LLAMA | {"model_type": "helium"}, like="llama"
    ).interleaved  # its tensors like another's, its code its own
    meta = {"dim": 16, "n_layers": 1, "n_heads": 4, "rope_theta": 1e4}
    assert Layout(meta).interleaved
