"""The rotated rows of each arrangement, worked out by hand, and the tensors that are refused."""

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
MLA = LLAMA | {"model_type": "deepseek_v3", "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "kv_lora_rank": 8}
ROFORMER = {"model_type": "roformer", "hidden_size": 16, "num_attention_heads": 4}
STEM = "model.layers.3.self_attn"


def heads(tensor: Any, role: str) -> list[int]:
    """The first row of each head of that role; heads have four channels."""
    rows = tensor.rows[role]
    assert torch.equal(rows, rows[:, :1] + torch.arange(4))
    return rows[:, 0].tolist()


def test_order_permutes_each_head_and_the_other_pairing_inverts_it():
    tensor = Layout(LLAMA).rotated(f"{STEM}.k_proj.weight", (8, 16))
    assert tensor is not None and (tensor.module, tensor.layer, tensor.effect) == (STEM, 3, "weight")
    assert tensor.order(8, "interleaved").tolist() == [0, 2, 1, 3, 4, 6, 5, 7]
    wider = Layout(LLAMA | {"head_dim": 6, "partial_rotary_factor": 1.0}).rotated(f"{STEM}.k_proj.bias", (12,))
    assert wider is not None and wider.order(12, "interleaved").tolist()[:6] == [0, 3, 1, 4, 2, 5]
    assert wider.order(12, "half").tolist()[:6] == [0, 2, 4, 1, 3, 5]
    x = torch.arange(12)
    assert torch.equal(x[wider.order(12, "interleaved")][wider.order(12, "half")], x)


@pytest.mark.parametrize(
    ("options", "rows", "q", "k"),
    [
        ({"new_decoder_architecture": True}, 32, [0, 4, 16, 20], [8, 24]),  # q q k v | q q k v
        ({"multi_query": True}, 24, [0, 4, 8, 12], [16]),  # q q q q k v, num_kv_heads is ignored
        ({}, 24, [0, 4, 8, 12], [16]),  # the default
        ({"multi_query": False}, 48, [0, 12, 24, 36], [4, 16, 28, 40]),  # q k v, head by head
        ({"new_decoder_architecture": True, "num_kv_heads": None}, 48, [0, 12, 24, 36], [4, 16, 28, 40]),
    ],
)
def test_falcons_three_arrangements(options: dict[str, Any], rows: int, q: list[int], k: list[int]):
    tensor = Layout(FALCON | options).rotated("transformer.h.0.self_attention.query_key_value.weight", (rows, 16))
    assert tensor is not None and heads(tensor, "query") == q and heads(tensor, "key") == k
    with pytest.raises(ValueError, match=f"{rows + 4} rows, but {rows} are expected"):
        Layout(FALCON | options).rotated("transformer.h.0.self_attention.query_key_value.weight", (rows + 4, 16))


def test_falcon_with_alibi_does_not_rotate():
    with pytest.raises(ValueError, match="alibi = True: this model does not rotate"):
        Layout(FALCON | {"alibi": True}).rotated("transformer.h.0.self_attention.query_key_value.weight", (24, 16))


def test_berts_names():
    layout = Layout(ROFORMER)
    stem = "roformer.encoder.layer.0.attention"
    tensor = layout.rotated(f"{stem}.self.query.weight", (16, 16))
    assert tensor is not None and tensor.module == f"{stem}.self" and heads(tensor, "query") == [0, 4, 8, 12]
    for unrotated in ("self.value.bias", "output.dense.weight", "output.LayerNorm.bias"):
        assert layout.rotated(f"{stem}.{unrotated}", (16,)) is None
    with pytest.raises(ValueError, match="no rule for 'self'"):
        layout.rotated(f"{stem}.self", (16, 16))
    with pytest.raises(ValueError, match="query outside an attention layer"):
        layout.rotated("roformer.encoder.layer.0.crossattention.self.query.weight", (16, 16))
    with pytest.raises(ValueError, match="no rule for 'self' in models like 'llama'"):
        Layout(LLAMA).rotated(f"{stem}.self.query.weight", (16, 16))


@pytest.mark.parametrize("part", ["rotary_emb.inv_freq", "bias", "masked_bias"])
def test_buffers_of_older_releases_are_not_rotated(part: str):
    assert Layout(LLAMA).rotated(f"{STEM}.{part}", ()) is None


def test_layers_without_rotation_are_left_alone_whatever_the_names_of_their_parts():
    assert Layout(LLAMA).rotated("model.layers.3.linear_attn.q_proj.weight", (5, 7)) is None


@pytest.mark.parametrize("shape", [(), (0,), (16,), (16, 0), (0, 16), (16, 16, 1)])
def test_an_impossible_shape_is_refused_by_name(shape: tuple[int, ...]):
    """A single number, an empty or flattened shard, a convolution: none of them has the rows of a projection."""
    with pytest.raises(ValueError, match=r"q_proj\.weight has shape .*which no weight of q_proj has"):
        Layout(LLAMA).rotated(f"{STEM}.q_proj.weight", shape)
    with pytest.raises(ValueError, match="which no bias of q_proj has"):
        Layout(LLAMA).rotated(f"{STEM}.q_proj.bias", (16, 1) if shape == (16,) else shape)


@pytest.mark.parametrize(
    ("shape", "rows"), [((4,), [0]), ((16,), [0, 4, 8, 12]), ((4, 4), [0, 4, 8, 12]), ((1, 16), [0, 4, 8, 12])]
)
def test_norms_may_be_shared_by_all_heads_or_have_one_weight_per_head(shape: tuple[int, ...], rows: list[int]):
    tensor = Layout(LLAMA).rotated(f"{STEM}.q_norm.weight", shape)
    assert tensor is not None and tensor.effect == "gain" and heads(tensor, "query") == rows


def test_the_pairing_of_unknown_code_is_not_guessed():
    unknown = LLAMA | {"model_type": "of tomorrow"}
    layout = Layout(unknown, like="llama")
    assert layout.rotated(f"{STEM}.q_proj.weight", (16, 16)) is not None
    with pytest.raises(ValueError, match="the pairing of the code of model_type 'of tomorrow' is unknown"):
        _ = layout.interleaved
    assert Layout(unknown | {"rope_interleave": True}, like="llama").interleaved
    assert not Layout(unknown | {"rope_interleave": False}, like="gptj").interleaved
    assert Layout(LLAMA | {"model_type": "helium"}, like="llama").interleaved  # like= gives the tensors, not the code
    meta = {"dim": 16, "n_layers": 1, "n_heads": 4, "rope_theta": 1e4}
    assert Layout(meta).interleaved


@pytest.mark.parametrize("value", [10**30, -4, 2**16 + 1, 10**400], ids=["10^30", "-4", "65537", "10^400"])
@pytest.mark.parametrize(
    "key",
    [
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "v_head_dim",
        "kv_lora_rank",
        "qk_nope_head_dim",
        "qk_rope_head_dim",
    ],
)
def test_a_number_of_heads_or_channels_has_a_limit(key: str, value: int):
    """It becomes the length of a loop or of a tensor."""
    config = MLA if key.startswith(("qk", "kv")) else LLAMA
    with pytest.raises(ValueError, match=f"{key} must be from 0 to 65,536"):
        Layout(config | {key: value}).rotated(f"{STEM}.q_proj.weight", (16, 16))


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 4.5, "4", [4]])
def test_a_number_of_heads_is_an_integer(value: Any):
    with pytest.raises(TypeError, match="num_key_value_heads must be an integer"):
        Layout(LLAMA | {"num_key_value_heads": value}).rotated(f"{STEM}.k_proj.weight", (8, 16))


def test_the_number_of_a_layer_has_a_limit():
    with pytest.raises(ValueError, match="layers are numbered up to 99,999"):
        Layout(LLAMA).rotated(f"model.layers.{'9' * 5000}.self_attn.q_proj.weight", (16, 16))


@pytest.mark.parametrize("value", [{"a": 1}, "full_attention", [["full_attention"]], [3]])
def test_layer_types_are_a_list_of_names(value: Any):
    with pytest.raises(TypeError, match="layer_types must be a list of names"):
        Layout(LLAMA | {"layer_types": value}).rotated(f"{STEM}.q_proj.weight", (16, 16))


@pytest.mark.parametrize("size", [10**12, 10**400])  # the second is too large for a float
def test_a_head_of_more_channels_than_any_has_is_refused(size: int):
    with pytest.raises(ValueError, match="head_dim must be at most 65,536"):
        Layout(LLAMA | {"hidden_size": size}).rotated(f"{STEM}.q_proj.weight", (16, 16))


def test_a_base_that_is_too_large_for_a_float_is_refused():
    with pytest.raises(ValueError, match="too large"):
        Layout(LLAMA | {"rope_theta": 10**400}).rotated(f"{STEM}.q_proj.weight", (16, 16))
