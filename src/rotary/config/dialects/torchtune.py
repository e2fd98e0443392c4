"""The arguments of torchtune's model builders, or the `model` block of its recipes, whose _component_ names the builder."""

from __future__ import annotations

from ..._checks import describe
from .dialect import Config, Dialect, Spelled, keys, real, respelled

_KEYS = keys(
    "rope_base scale_factor use_scaled_rope rope_scale_factor rope_low_freq_factor rope_high_freq_factor old_context_len "
    "skip_rope_interval"
)
_BUILDERS: dict[str, tuple[bool, float]] = {
    "llama2": (True, 1e4),
    "llama3": (True, 5e5),
    "llama3_1": (True, 5e5),
    "llama3_2": (True, 5e5),
    "llama3_2_vision": (True, 5e5),
    "llama3_3": (True, 5e5),
    "llama4": (True, 5e5),
    "mistral": (True, 1e4),
    "gemma": (True, 1e4),
    "gemma2": (True, 1e4),
    "phi3": (False, 1e4),
    "phi4": (False, 1e4),
    "qwen2": (False, 1e6),
    "qwen2_5": (False, 1e6),
    "qwen3": (False, 1e6),
}
"""Package of torchtune.models -> (interleaved, default rope_base). RotaryPositionalEmbeddings and Llama3ScaledRoPE pair neighbouring
channels, Phi3- and Qwen2RotaryPositionalEmbeddings channels half a head apart."""
_SCALES = {"llama3_1": 8.0, "llama3_2": 32.0, "llama3_2_vision": 8.0, "llama3_3": 8.0}


def _recognises(config: Config) -> bool:
    if config.get("model_type") is not None:
        return False
    component = config.get("_component_")
    named = isinstance(component, str) and component.startswith("torchtune.")
    return named or ("embed_dim" in config and "num_heads" in config)


def _translate(config: Config) -> Spelled:
    component = config.get("_component_")
    package = component.split(".")[2] if isinstance(component, str) and component.count(".") >= 2 else ""
    if component is not None and package not in _BUILDERS:
        raise ValueError(
            f"unknown torchtune builder {describe(component)}; known packages of torchtune.models: {', '.join(_BUILDERS)}"
        )
    factor = config.get("scale_factor", _SCALES.get(package))
    scaled = factor is not None
    if not package and not scaled and config.get("rope_base") is None:
        raise ValueError("missing rope_base: torchtune's builders have different defaults; write it, or _component_")
    rope: Config = {"rope_type": "default"}
    high = 4.0
    if config.get("use_scaled_rope"):
        factor, high, scaled = real(config, "rope_scale_factor", 16.0), real(config, "rope_high_freq_factor", 1.0), True
    if scaled:
        rope = {
            "rope_type": "llama3",
            "factor": real({"scale_factor": factor}, "scale_factor"),
            "high_freq_factor": high,
        }
        rope |= {"low_freq_factor": real(config, "rope_low_freq_factor", 1.0)}
        rope |= {"original_max_position_embeddings": int(real(config, "old_context_len", 8192))}
    interval = config.get("skip_rope_interval")
    new: Config = {
        "rope_theta": real(config, "rope_base", _BUILDERS[package][1] if package else 5e5),
        "rope_scaling": rope,
        "hidden_size": config.get("embed_dim"),
        "num_attention_heads": config.get("num_heads"),
        "num_hidden_layers": config.get("num_layers"),
        "max_position_embeddings": config.get("max_seq_len"),
        "no_rope_layer_interval": interval,
        "no_rope_layers": [] if interval is not None else None,
    }
    drop = _KEYS | {"embed_dim", "num_heads", "num_layers", "max_seq_len"}
    interleaved = _BUILDERS[package][0] if package else (True if scaled else None)  # only interleaved builders scale
    unknown = ""
    if interleaved is None:
        unknown = "torchtune's builders differ in their pairing, and these arguments do not name one"
    return Spelled(respelled(config, drop, **new), interleaved=interleaved, pairing_unknown=unknown)


TORCHTUNE = Dialect(
    "torchtune builder",
    "pytorch/torchtune, torchtune/models/*/_component_builders.py, torchtune/modules/position_embeddings.py",
    _recognises,
    _KEYS,
    _translate,
    stems=("rope", "rotary", "scale_factor", "old_context"),
)
