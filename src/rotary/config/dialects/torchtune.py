"""The arguments of torchtune's model builders, or the `model` block of its recipes, whose _component_ names the builder."""

from __future__ import annotations

from ..._checks import text
from .dialect import Config, Dialect, Spelled, check_read, integer, keys, real, respelled, switch

_LLAMA4 = keys("rope_scale_factor rope_low_freq_factor rope_high_freq_factor old_context_len")
_KEYS = _LLAMA4 | keys("rope_base scale_factor use_scaled_rope skip_rope_interval")
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
"""Package -> the scale_factor of its models, which llama3_2_vision fixes."""
_IDLE = {
    "rope_scale_factor": (16,),
    "rope_low_freq_factor": (1,),
    "rope_high_freq_factor": (1,),
    "old_context_len": (8192,),
}
"""Defaults of llama4's builder, which mean nothing without use_scaled_rope."""


def _recognises(config: Config) -> bool:
    if config.get("model_type") is not None:
        return False
    component = config.get("_component_")
    named = isinstance(component, str) and component.startswith("torchtune.")
    return named or ("embed_dim" in config and "num_heads" in config)


def _translate(config: Config) -> Spelled:
    component = config.get("_component_")
    parts = [] if component is None else text("_component_", component, "torchtune.models.llama3_1.llama3_1").split(".")
    package = parts[2] if len(parts) > 2 else ""
    if component is not None and package not in _BUILDERS:
        raise ValueError(
            f"unknown torchtune builder {component!r}; known packages of torchtune.models: {', '.join(_BUILDERS)}"
        )
    rope = _scheme(config, package)
    scaled = rope["rope_type"] != "default"
    if not package and not scaled and config.get("rope_base") is None:
        raise ValueError("missing rope_base: torchtune's builders have different defaults; write it, or _component_")
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


def _scheme(config: Config, package: str) -> Config:
    """rope_scaling: Llama 3's, by use_scaled_rope of llama4 or by scale_factor of the builders from llama3_1 on."""
    about_schemes = _LLAMA4 | {"scale_factor"}
    if switch(config, "use_scaled_rope"):
        check_read(config, about_schemes, _LLAMA4, "use_scaled_rope", {})
        return {
            "rope_type": "llama3",
            "factor": real(config, "rope_scale_factor", 16.0),
            "low_freq_factor": real(config, "rope_low_freq_factor", 1.0),
            "high_freq_factor": real(config, "rope_high_freq_factor", 1.0),
            "original_max_position_embeddings": integer(config, "old_context_len", 8192),
        }
    read = {"scale_factor"} if not package or package in _SCALES.keys() - {"llama3_2_vision"} else set[str]()
    selected = f"the builder of {package}" if package and package != "llama4" else "use_scaled_rope: false"
    idle = _IDLE if package in ("", "llama4") else {"scale_factor": (_SCALES.get(package),)}
    check_read(config, about_schemes, read, selected, idle)
    factor = config.get("scale_factor")
    factor = _SCALES.get(package) if factor is None else real(config, "scale_factor")
    if factor is None:
        return {"rope_type": "default"}
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


TORCHTUNE = Dialect(
    "torchtune builder",
    "pytorch/torchtune, torchtune/models/*/_component_builders.py, torchtune/modules/position_embeddings.py",
    _recognises,
    _KEYS,
    _translate,
    stems=("rope", "rotary", "scale_factor", "old_context"),
)
