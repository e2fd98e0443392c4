"""read(config): every default config of transformers against transformers itself, and all spellings and errors."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.config import Arguments, path, read, shipped
from rotary.config.load import rotary_keys
from rotary.scaling import DynamicNTK, Linear, Llama3, LongRoPE, Proportional, YaRN
from rotary.scaling.temperature import LogN

LLAMA = {"model_type": "llama", "hidden_size": 4096, "num_attention_heads": 32, "max_position_embeddings": 8192}
# No code of this model reads rotary_dim: transformers' tables are as wide as the head, and the default config has half of it.
UNREAD = {"minimax_m3_vl_text"}


@pytest.mark.filterwarnings("ignore:the config asks for more than a rotation")
def test_every_default_config_of_transformers_rotates_as_in_transformers():
    """Frequencies and attention factor bit for bit (angles="float32"), and scores of random queries and keys, which show the pairing."""
    pytest.importorskip("transformers")
    from tools import config_page

    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 5, 512), torch.randn(1, 2, 5, 512)
    positions = torch.tensor([[0, 1, 2, 100, 50]])
    compared, loaded, towers = set(), set(), set()
    for name, config in config_page.parts():
        readings = config_page.readings(config)
        for layer_type, arguments in readings.items() if isinstance(readings, dict) else ():
            loaded.add(name)
            if arguments.parts or arguments.inv_freq:  # beside the model's own cos and sin in test_towers.py
                towers.add(name)
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # notes on positions and temperatures
                rope = RotaryEmbedding.from_config(config, layer_type=layer_type, angles="float32")
            at = positions if rope.axes is None else positions[..., None].expand(1, 5, rope.coordinates)
            for module in config_page.rotary_modules(config):
                inv_freq, factor = config_page.frequencies(module, layer_type)
                if inv_freq is None or inv_freq.ndim != 1 or name in UNREAD:
                    continue
                if rope.axes is not None:  # Ernie 4.5 VL keeps them in the order of its coordinates
                    inv_freq = inv_freq.sort(descending=True).values
                assert torch.equal(inv_freq, rope.inv_freq), (name, layer_type)
                assert factor == rope.attention_factor, (name, layer_type)
                for dim in (arguments.head_dim, arguments.dim):
                    heads = q[..., :dim], k[..., :dim]
                    expected = config_page.scores(config, module, layer_type, *heads, positions)
                    if expected is not None:
                        scores = config_page.products(*rope.rotate(*heads, positions=at))
                        torch.testing.assert_close(scores, expected, rtol=0, atol=1e-3, msg=f"{name}, {layer_type}")
                        compared.add(name)
                        break
    assert len(compared) >= 165 and len(loaded) >= 240
    # Not compared: composite configs, since their text model is; tables of positions (below); two without model code.
    alone = {
        name
        for name, config in config_page.parts()
        if name in loaded and config_page.modeling(config) and config_page.text(config) == name
    }
    assert alone - compared - towers - UNREAD <= {"gptj", "codegen", "roformer", "cohere_compass_text"}


def sines_and_cosines(name: str, n: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(sin, cos) of the families that keep a table of positions instead of a rotary module."""
    from transformers.models.codegen import modeling_codegen
    from transformers.models.gptj import modeling_gptj
    from transformers.models.roformer import modeling_roformer

    if name == "roformer":
        table = modeling_roformer.RoFormerSinusoidalPositionalEmbedding(n, dim).create_weight()
    else:
        table = {"gptj": modeling_gptj, "codegen": modeling_codegen}[name].create_sinusoidal_positions(n, dim)
    sin, cos = table.chunk(2, -1)
    return sin, cos


@pytest.mark.parametrize("name", ["gptj", "codegen", "roformer"])
def test_families_that_keep_a_table_of_positions(name: str):
    transformers = pytest.importorskip("transformers")
    from transformers.models.gptj.modeling_gptj import apply_rotary_pos_emb
    from transformers.models.roformer.modeling_roformer import RoFormerSelfAttention

    rope = RotaryEmbedding.from_config(transformers.AutoConfig.for_model(name))
    x = torch.randn(1, 6, 2, rope.dim)  # (batch, seq, heads, dim)
    sin, cos = sines_and_cosines(name, 6, rope.dim)
    if name == "roformer":
        table, y = torch.cat((sin, cos), -1), x.transpose(1, 2)
        expected = RoFormerSelfAttention.apply_rotary_position_embeddings(table, y, y)[0].transpose(1, 2)
    else:
        expected = apply_rotary_pos_emb(x, sin[None], cos[None])
    torch.testing.assert_close(rope.rotate(x, seq_dim=1), expected, rtol=0, atol=1e-5)


def test_every_refusal_of_a_default_config_says_why_and_is_in_the_docs():
    pytest.importorskip("transformers")
    from tools import config_page

    page = config_page.page().read_text(encoding="utf-8")
    assert page.partition(config_page.BEGIN)[2].partition(config_page.END)[0] == config_page.tables(), (
        "run python -m tools.config_page"
    )


def test_the_width_that_minimax_m3_reads_from_nowhere():
    """The config has rotary_dim 64, but transformers 5.23 makes tables for all 128 channels. read() takes the config's value."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLRotaryEmbedding

    config = transformers.AutoConfig.for_model("minimax_m3_vl_text")
    assert config.rotary_dim == 64 and MiniMaxM3VLRotaryEmbedding(config).inv_freq.shape == (64,)
    assert read(config).dim == 64


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"rope_theta": 1e4}, {"dim": 128, "base": 1e4, "scaling": (), "interleaved": False, "head_dim": 128}),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.25}, {"dim": 32, "head_dim": 128}),
        ({"rope_theta": 1e4, "head_dim": 64}, {"dim": 64}),
        ({"rope_theta": 1e4, "rotary_dim": 48}, {"dim": 48}),
        ({"rope_theta": 1e4, "model_type": "glm", "head_dim": 128}, {"dim": 64, "interleaved": True}),
        ({"rope_theta": 1e4, "model_type": "gpt_neox", "rotary_pct": 0.25}, {"dim": 32}),
        ({"rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}}, {"base": 5e5, "scaling": ()}),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 4.0}}, {"scaling": (Linear(4.0),)}),
        (
            {"rope_theta": 1e4, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
            {"scaling": (DynamicNTK(2.0, 8192),), "window": 8192},
        ),
        (
            {
                "rope_parameters": {
                    "rope_theta": 1e6,
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                }
            },
            {"scaling": (YaRN(4.0, 32768),), "window": 32768, "target": 8192},
        ),
        (
            {
                "rope_theta": 5e5,
                "rope_scaling": {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            },
            {"scaling": (Llama3(8.0, 8192),)},
        ),
        (
            {
                "rope_theta": 1e4,
                "head_dim": 4,
                "rope_scaling": {
                    "type": "su",
                    "short_factor": [1.0, 1.0],
                    "long_factor": [2.0, 3.0],
                    "original_max_position_embeddings": 4096,
                },
            },
            {"scaling": (LongRoPE([1.0, 1.0], [2.0, 3.0], 4096, factor=2.0),), "dim": 4},
        ),
        (
            {"rope_parameters": {"rope_theta": 1e6, "rope_type": "proportional", "partial_rotary_factor": 0.25}},
            {"scaling": (Proportional(0.25),), "dim": 128},
        ),
    ],
)
def test_dialects(changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path):
    """The same from a dict, a file and its folder."""
    config = LLAMA | changes
    (tmp_path / "config.json").write_text(json.dumps(config))
    for source in (config, tmp_path / "config.json", str(tmp_path)):
        arguments = read(source)
        assert {key: getattr(arguments, key) for key in expected} == expected


def test_layer_types():
    config = {
        "model_type": "gemma3_text",
        "head_dim": 256,
        "rope_theta": 1e6,
        "rope_local_base_freq": 1e4,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        "max_position_embeddings": 131072,
    }
    full, sliding = (read(config, layer_type=kind) for kind in ("full_attention", "sliding_attention"))
    assert (full.base, full.scaling) == (1e6, (Linear(8.0),)) and (sliding.base, sliding.scaling) == (1e4, ())
    with pytest.raises(ValueError, match="pass layer_type= one of full_attention, sliding_attention"):
        read(config)
    with pytest.raises(ValueError, match="unknown layer_type 'full_attn'; did you mean 'full_attention'"):
        read(config, layer_type="full_attn")


def test_arguments_overrule_the_config():
    config = LLAMA | {"rope_theta": 1e4}
    assert read(config, head_dim=64).dim == 64 and read(config, interleaved=True).interleaved
    rope = RotaryEmbedding.from_config(config, interleaved=True, angles="float32")
    assert (rope.dim, rope.interleaved, rope.angles, rope.base) == (128, True, "float32", 1e4)


REFUSALS: list[tuple[dict[str, Any], type[Exception], list[str]]] = [
    ({"rope_scaling": {"rope_type": "yarm", "factor": 2.0}}, ValueError, ["'yarm'", "did you mean 'yarn'"]),
    ({"rope_scaling": {"rope_type": "linear"}}, ValueError, ["missing key 'factor'", "linear"]),
    ({"rope_scaling": {"type": "linear", "factr": 2.0}}, TypeError, ["'factr' (float 2.0)", "did you mean 'factor'"]),
    ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, ValueError, ["'yarn'", "'linear'"]),
    ({"rope_scaling": {"type": "linear", "factor": 0.0}}, ValueError, ["linear", "0.0"]),
    ({"rope_scaling": {"type": "linear", "factor": "2"}}, TypeError, ["factor", "'2'"]),
    ({"rope_scaling": {"factor": 4.0}}, ValueError, ["missing rope_type", "'factor' (float 4.0)"]),
    ({"rope_scaling": "yarn"}, TypeError, ["rope_scaling must be a dict", "'yarn'"]),
    ({"rope_theta": -1.0}, ValueError, ["rope_theta", "-1.0"]),
    ({"rope_theta": None}, ValueError, []),
    ({"rope_tetha": 1e4}, TypeError, ["'rope_tetha'", "did you mean 'rope_theta'"]),
    ({"rope_parameters": {"rope_theta": 5e5}}, ValueError, ["conflicting rope_theta", "500000.0", "10000.0"]),
    ({"partial_rotary_factor": 1.5}, ValueError, ["partial_rotary_factor", "1.5"]),
    ({"partial_rotary_factor": 0.5, "rotary_dim": 32}, ValueError, ["conflicting rotary_dim 32", "0.5"]),
    ({"rotary_dim": 7}, ValueError, ["7 rotated channels"]),
    ({"hidden_size": 4097}, ValueError, ["4097", "pass head_dim="]),
    ({"hidden_size": None}, ValueError, ["missing head_dim"]),
    ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, ValueError, ["original_max_position_embeddings", "8192"]),
    (
        {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [1.0] * 64,
                          "original_max_position_embeddings": 4096}},
        ValueError,
        ["short_factor", "64", "1"],
    ),
    ({"rope_scaling": {"type": "default", "mrope_section": [16, 24, 20]}}, ValueError, ["mrope_section", "60 planes", "64"]),
    ({"rope_scaling": {"type": "default", "mrope_section": [16, 48]}}, ValueError, ["mrope_section", "three numbers"]),
    (
        {"model_type": "qwen3_vl_text", "head_dim": 128, "rope_scaling": {"rope_type": "default", "mrope_interleaved": False,
                                                                         "mrope_section": [24, 20, 20]}},
        ValueError,
        ["mrope_interleaved", "in turn"],
    ),
    ({"rope_parameters": {"rope_type": "axial", "rope_theta": 1e4}}, ValueError, ["'axial'", "RotaryEmbedding.axial"]),
    ({"model_type": "some_mla", "qk_rope_head_dim": 64}, ValueError, ["'some_mla'", "pass interleaved="]),
    ({"kv_lora_rank": 512}, ValueError, ["missing qk_rope_head_dim", "kv_lora_rank"]),
    ({"max_position_embeddings": -1}, ValueError, ["max_position_embeddings must be >= 1, got -1"]),
    ({"max_position_embeddings": "8192"}, TypeError, ["max_position_embeddings must be an integer, got str '8192'"]),
    ({"use_dynamic_ntk": True}, ValueError, ["use_dynamic_ntk (bool True)", "NTK("]),
    ({"dual_chunk_attention_config": {"chunk_size": 9}}, ValueError, ["dual_chunk_attention_config", "remove it"]),
    ({"model_type": "gptj", "rotary": False}, ValueError, ["rotary = False", "does not rotate"]),
    ({"model_type": "falcon", "alibi": True}, ValueError, ["alibi = True", "does not rotate"]),
    ({"model_type": "granitemoehybrid"}, ValueError, ["position_embedding_type = None", "does not rotate"]),
    ({"model_type": "granitemoehybrid", "position_embedding_type": "nope"}, ValueError, ["'nope'"]),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "error", "words"), REFUSALS)
def test_what_cannot_be_honoured_is_refused_by_name_and_value(
    changes: dict[str, Any], error: type[Exception], words: list[str]
):
    config = LLAMA | {"rope_theta": 1e4} | changes
    if changes == {"rope_theta": None}:  # the family fixes it
        assert read(config).base == 1e4
        return
    with pytest.raises(error) as raised:
        rope = RotaryEmbedding.from_config(config)
        raise AssertionError(rope)
    assert [word for word in words if word not in str(raised.value)] == []


def test_keys_that_are_not_about_rotation_are_not_examined():
    assert read(LLAMA | {"rope_theta": 1e4, "vocab_size": "many", "europe": 1, "microphone": None}) == read(
        LLAMA | {"rope_theta": 1e4}
    )


def test_position_embedding_type_matters_only_in_families_that_read_it():
    """Other published configs have it without effect: "rope_gptj" in Command R7B, "absolute" in ModernBERT, which both rotate."""
    cohere = LLAMA | {"model_type": "cohere2", "rope_theta": 5e4, "rotary_pct": 1.0}
    assert read(cohere | {"position_embedding_type": "rope_gptj"}).interleaved
    bert = LLAMA | {"model_type": "modernbert", "global_rope_theta": 1.6e5, "position_embedding_type": "absolute"}
    assert read(bert, layer_type="full_attention").base == 1.6e5
    granite = LLAMA | {"model_type": "granitemoehybrid", "rope_theta": 1e7}
    assert read(granite | {"position_embedding_type": "rope"}).dim == 128
    assert read(LLAMA | {"model_type": "gptj", "rotary": True, "rotary_dim": 64}).dim == 64


def test_an_unknown_family_with_a_rotated_slice_takes_the_interleaved_argument():
    arguments = read(LLAMA | {"model_type": "some_mla", "rope_theta": 5e4, "qk_rope_head_dim": 64}, interleaved=True)
    assert (arguments.dim, arguments.interleaved) == (64, True)


def test_sizes_that_a_sub_config_omits():
    """As Gemma 3 12B and Gemma 4 are published: head_dim is not in the config, is not hidden / heads, and is wider in full attention."""
    gemma3 = {"model_type": "gemma3_text", "hidden_size": 3840, "num_attention_heads": 16, "sliding_window": 1024}
    gemma3 |= {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    composite = {"model_type": "gemma3", "text_config": gemma3, "vision_config": {"model_type": "siglip_vision_model"}}
    arguments = read(composite, layer_type="full_attention")
    assert (arguments.dim, arguments.base, arguments.scaling) == (256, 1e6, (Linear(8.0),))
    assert read(composite | {"text_config": gemma3 | {"head_dim": 128}}, layer_type="sliding_attention").dim == 128
    parameters = {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    }
    gemma4 = {"model_type": "gemma4_text", "rope_parameters": parameters}
    for sizes, dims in (({}, (512, 256)), ({"head_dim": 128, "global_head_dim": 384}, (384, 128))):
        assert tuple(read(gemma4 | sizes, layer_type=kind).dim for kind in parameters) == dims
    assert read({"model_type": "deepseek_v3"}).dim == 64


def nothing_about_rotation_is_ignored(config: dict[str, Any], part: dict[str, Any], key: str) -> None:
    """An impossible value of the key, and a misspelt key, are errors that name the key."""
    kinds = (None, "full_attention", "sliding_attention") if "rope_local_base_freq" in json.dumps(config) else (None,)
    value = part[key]
    for wrong in ("abc", -1, 0, float("nan"), float("inf"), [], [1.0, 2.0], {}):
        if key == "mscale_all_dim" and wrong == 0:  # the same as an absent key
            continue
        part[key] = wrong
        with pytest.raises((TypeError, ValueError), match=key if isinstance(wrong, (int, float)) else None):
            for kind in kinds[1:] or kinds:
                RotaryEmbedding.from_config(config, layer_type=kind)
    del part[key]
    part[f"{key}_x"] = value
    with pytest.raises((TypeError, ValueError), match=f"{key}_x|missing|rope_type"):
        for kind in kinds[1:] or kinds:
            RotaryEmbedding.from_config(config, layer_type=kind)
    del part[f"{key}_x"]
    part[key] = value


@pytest.mark.parametrize("name", shipped())
def test_nothing_about_rotation_is_ignored(name: str):
    config = json.loads(path(name).read_text())
    part = config.get("text_config", config)
    scaling = part.get("rope_scaling") or {}
    for key in rotary_keys(part):
        if key not in ("rope_scaling", "qk_rope_head_dim"):
            nothing_about_rotation_is_ignored(config, part, key)
    for key in list(scaling):
        nothing_about_rotation_is_ignored(config, scaling, key)


def test_logn_of_qwen_is_a_temperature():
    qwen = {"model_type": "qwen", "kv_channels": 128, "rotary_emb_base": 1e4, "rotary_pct": 1.0, "seq_length": 2048}
    assert read(qwen | {"use_logn_attn": True, "use_dynamic_ntk": False}).temperatures == (LogN(2048),)


def test_arguments_are_a_value():
    assert isinstance(read(LLAMA | {"rope_theta": 1e4}), Arguments)
    assert hash(read(LLAMA | {"rope_theta": 1e4})) == hash(read(LLAMA | {"rope_theta": 1e4}))


def test_a_factor_that_differs_from_the_lengths_is_no_conflict():
    """In some published configs the factor is the ratio of the lengths (40 with 163,840 / 4,096), in others it is not."""
    yarn = {"type": "yarn", "factor": 3.0, "original_max_position_embeddings": 1024}
    assert read(LLAMA | {"rope_theta": 1e4, "rope_scaling": yarn}).scaling == (YaRN(3.0, 1024),)
