"""params.json, the config that Meta and Mistral publish with their weights: dim, n_layers, n_heads, no model_type. All interleaved."""

from __future__ import annotations

from typing import Any

from ..._checks import describe, flag
from ..names import same
from .dialect import Config, Dialect, Spelled, block, check_read, keys, only, real, respelled

_SIZES = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
}
_MISTRALS = {
    "hidden_dim",
    "head_dim",
    "sliding_window",
    "yarn",
    "llama_4_scaling",
    "kv_lora_rank",
    "q_lora_rank",
    "qk_rope_head_dim",
}
_LLAMA_3_2 = ((2048, 16, 32), (3072, 28, 24))
"""(dim, n_layers, n_heads) of Llama 3.2 1B and 3B, scaled 32 times."""
_LLAMA_3_1 = ((4096, 32, 32), (8192, 80, 64), (16384, 126, 128))
"""The same of Llama 3.1 8B, 70B and 405B, of 3.2 Vision and of 3.3, scaled 8 times."""
_TEMPERATURE = {"attn_temperature_tuning": (False,), "floor_scale": (8192,), "attn_scale": (0.1,)}
"""Keys of Llama 4's temperature, with their defaults (models/llama4/args.py)."""
_META = keys("rope_theta use_scaled_rope rope_scaling_factor rope_high_freq_factor nope_layer_interval") | frozenset(
    _TEMPERATURE
)
_MISTRAL = keys(
    "rope_theta yarn yarn/beta yarn/alpha yarn/factor yarn/original_max_position_embeddings yarn/apply_scale llama_4_scaling "
    "llama_4_scaling/beta llama_4_scaling/original_max_position_embeddings qk_rope_head_dim"
)


def _is_params_json(config: Config) -> bool:
    named = config.get("model_type") not in (None, "", "transformer")
    return not named and "dim" in config and ("n_heads" in config or "n_layers" in config)


def _is_mistrals(config: Config) -> bool:
    return (
        _is_params_json(config)
        and (config.get("model_type") == "transformer" or not _MISTRALS.isdisjoint(config))
        and not ("use_scaled_rope" in config or "multiple_of" in config or "nope_layer_interval" in config)
    )


def _with_sizes(config: Config, drop: frozenset[str], **new: Any) -> Config:
    sizes = {name: config[key] for key, name in _SIZES.items() if config.get(key) is not None}
    return respelled(config, drop | _SIZES.keys() | {"model_type"}, **sizes, **new)


def _meta(config: Config) -> Spelled:
    notes: list[str] = []
    theta = config.get("rope_theta")
    if theta is None:
        notes.append("params.json states no rope_theta; the base is 10000, that of Llama 1 and 2, which state none")
    rope: Config | None = None
    interval = config.get("nope_layer_interval")
    if config.get("use_scaled_rope") is not None and flag("use_scaled_rope", config["use_scaled_rope"]):
        factor, high = _scale(config, notes), real(config, "rope_high_freq_factor", 1.0 if interval else 4.0)
        rope = {"rope_type": "llama3", "factor": factor, "low_freq_factor": 1.0, "high_freq_factor": high}
        rope["original_max_position_embeddings"] = 8192
    elif config.get("rope_scaling_factor") is not None or config.get("rope_high_freq_factor") is not None:
        raise ValueError(
            "rope_scaling_factor without use_scaled_rope has no effect in Meta's code; write use_scaled_rope: true, or remove it"
        )
    family = {"no_rope_layer_interval": interval, "no_rope_layers": []} if interval else {}
    if not interval:  # the temperature is that of layers that do not rotate
        check_read(config, _TEMPERATURE, (), "layers that all rotate", _TEMPERATURE)
    temperature = {key: config[key] for key in _TEMPERATURE if interval and key in config}
    spelled = _with_sizes(
        config, _META, rope_theta=10000.0 if theta is None else theta, rope_scaling=rope, **family, **temperature
    )
    return Spelled(spelled, interleaved=True, notes=tuple(notes))


def _scale(config: Config, notes: list[str]) -> float:
    """The factor of use_scaled_rope, for which params.json has no key: by the shape of a published model. ValueError for another shape."""
    if config.get("rope_scaling_factor") is not None:
        return real(config, "rope_scaling_factor")
    if config.get("nope_layer_interval"):
        notes.append("use_scaled_rope states no factor; 16 is Meta's for Llama 4 (models/llama4/args.py)")
        return 16.0
    shape = (config.get("dim"), config.get("n_layers"), config.get("n_heads"))
    for shapes, factor, models in ((_LLAMA_3_2, 32.0, "3.2 1B and 3B"), (_LLAMA_3_1, 8.0, "3.1, 3.2 Vision and 3.3")):
        if shape in shapes:
            notes.append(
                f"use_scaled_rope states no factor; {factor:g} is that of Llama {models} as transformers publishes them, by their shape"
            )
            return factor
    raise ValueError(
        f"use_scaled_rope states no factor, and dim {describe(shape[0])}, n_layers {describe(shape[1])}, n_heads {describe(shape[2])} is "
        f"the shape of no published Llama; write rope_scaling_factor: 8.0 (Llama 3.1) or 32.0 (Llama 3.2 1B and 3B)"
    )


def _mistral(config: Config) -> Spelled:
    notes: list[str] = []
    theta = config.get("rope_theta")
    if theta is None:
        if config.get("sliding_window") is None:
            raise ValueError(
                "missing rope_theta: mistral-inference takes 1000000.0 today and took 10000.0 in Mistral 7B v0.1; write it"
            )
        theta = 10000.0
        notes.append(
            "params.json states no rope_theta; the base is 10000, that of Mistral 7B v0.1, which has a sliding window"
        )
    yarn = _yarn(config)
    scaling = block(config, "llama_4_scaling")
    only(scaling, "llama_4_scaling", "beta", "original_max_position_embeddings")
    if scaling:
        if yarn is None:
            raise ValueError(
                f"llama_4_scaling {describe(scaling)} without a yarn block: no model of Mistral's has it alone; write the yarn block"
            )
        yarn["llama_4_scaling_beta"] = real(scaling, "beta", name="llama_4_scaling.beta")
        window, name = scaling.get("original_max_position_embeddings"), "original_max_position_embeddings"
        yarn[name] = same(name, yarn.get(name), window, "yarn", "llama_4_scaling")
    longest = same(
        "max_position_embeddings",
        config.get("max_position_embeddings"),
        config.get("max_seq_len"),
        "config",
        "max_seq_len",
    )
    spelled = _with_sizes(
        config, _MISTRAL - {"qk_rope_head_dim"}, rope_theta=theta, rope_scaling=yarn, max_position_embeddings=longest
    )
    return Spelled(spelled, interleaved=True, notes=tuple(notes))


def _yarn(config: Config) -> Config | None:
    """rope_scaling of the yarn block, None without one. Its beta is beta_fast, alpha is beta_slow; apply_scale: false means attention
    factor 1 and no temperature."""
    if config.get("yarn") is None:
        return None
    yarn = block(config, "yarn")
    only(yarn, "yarn", "beta", "alpha", "factor", "original_max_position_embeddings", "apply_scale")
    names = {
        "beta": "beta_fast",
        "alpha": "beta_slow",
        "factor": "factor",
        "original_max_position_embeddings": "original_max_position_embeddings",
    }
    for key in ("factor", "original_max_position_embeddings"):
        if yarn.get(key) is None:
            raise ValueError(f"missing yarn.{key}")
    rope: Config = {"rope_type": "yarn"} | {new: yarn[old] for old, new in names.items() if yarn.get(old) is not None}
    applied = yarn.get("apply_scale")
    if applied is not None and not flag("yarn.apply_scale", applied):
        return rope | {"attention_factor": 1.0}
    if config.get("qk_rope_head_dim") is not None:
        # As in DeepSeek's models: attention factor 1 in cos and sin, and a temperature in the softmax.
        return rope | {"mscale": 1.0, "mscale_all_dim": 1.0}
    return rope


META = Dialect(
    "Meta params.json",
    "meta-llama/llama-models, models/llama3/{args,model}.py and models/llama4/{args,model}.py",
    lambda config: _is_params_json(config) and not _is_mistrals(config),
    _META,
    _meta,
    stems=("rope", "nope", "use_scaled"),
)
MISTRAL = Dialect(
    "Mistral params.json",
    "mistralai/mistral-inference, src/mistral_inference/{args,rope}.py; vllm-project/vllm, vllm/transformers_utils/configs/mistral.py",
    _is_mistrals,
    _MISTRAL,
    _mistral,
    stems=("rope", "yarn", "llama_4", "beta", "apply_scale"),
)
