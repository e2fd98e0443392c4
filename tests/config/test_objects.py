"""A dict and the config object that transformers makes of it answer alike, or one of them is refused."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from rotary.config import Arguments
from rotary.config.families import FAMILIES, unrotated
from rotary.config.names import words

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
LEGACY: list[dict[str, Any]] = [
    {},
    {"rope_theta": 5e5},
    {"rope_scaling": {"type": "linear", "factor": 4.0}},
    {"rope_theta": 3e5, "rope_scaling": YARN},
    {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 3e5}},
    {"rotary_pct": 0.5, "rotary_emb_base": 2e4},
    {"rope_local_base_freq": 2e4},
    {"global_rope_theta": 2e4, "local_rope_theta": 3e4},
    {"no_rope_layers": [], "no_rope_layer_interval": 3},
    {"partial_rotary_factor": 0.5, "rope_interleave": False, "layer_rope_theta": None, "no_rope_layers": None},
    {"rotary_dim": 16},
    {"swa_rope_theta": 2e4},
    {"rope_theta": 2e5, "head_dim": 64},
    {"sliding_window": None},
]
"""Keys of configs as they were published under transformers 4."""
SIZES = words(
    "hidden_size num_attention_heads head_dim num_hidden_layers max_position_embeddings n_embd n_head d_model n_heads kv_channels "
    "qk_rope_head_dim rotary_dim global_head_dim max_seq_len n_layers n_layer use_mem_rope position_embedding_type"
)


def classes() -> Iterator[tuple[str, Any]]:
    """(model_type, default config) of each config class whose models rotate."""
    from tools import config_page

    seen: set[str] = set()
    for name, config in config_page.parts():
        if name in FAMILIES and name == config.model_type and name not in seen:
            seen.add(name)
            yield name, config


def answers(config: Any) -> dict[str | None, Arguments] | str:
    """What read() makes of it, per layer type, without the lengths that a dict may leave out; or why it refuses."""
    from tools import config_page

    try:
        found = config_page.readings(config)
    except (TypeError, ValueError) as error:
        return str(error)
    if isinstance(found, str):
        return found
    return {
        kind: replace(reading, dialect="", window=None, target=None, notes=tuple(sorted(reading.notes)))
        for kind, reading in found.items()
    }


def test_a_dict_and_the_object_made_from_it_answer_alike_or_are_refused():
    pytest.importorskip("transformers")
    logging.disable(logging.CRITICAL)  # transformers warns of keys that a class does not have
    both, walked = 0, set[str]()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, default in classes():
                stored = default.to_dict()
                sizes = {key: stored[key] for key in SIZES if stored.get(key) is not None}
                for keys in [*(sizes | legacy for legacy in LEGACY), *LEGACY[:4]]:
                    try:
                        config = type(default)(**copy.deepcopy(keys))
                    except Exception:  # a key that the class refuses: there is no object
                        continue
                    walked.add(name)
                    as_dict, as_object = answers({"model_type": name, **copy.deepcopy(keys)}), answers(config)
                    if isinstance(as_dict, dict) and isinstance(as_object, dict):
                        both += 1
                        assert as_dict == as_object, (name, keys)
    finally:
        logging.disable(logging.NOTSET)
    assert len(walked) >= 240 and both >= 1600, (len(walked), both)


def test_a_dict_that_names_no_window_says_what_the_object_says():
    """As the config classes fill it: sliding_window of Cohere 2, no_rope_layers of SmolLM3, layer_rope_theta of Muse."""
    from rotary.config import read

    sizes = {"hidden_size": 64, "num_attention_heads": 4}
    assert read(sizes | {"model_type": "cohere2"}).notes == ("layers of type 'full_attention' do not rotate",)
    assert read(sizes | {"model_type": "cohere2", "sliding_window": None}).notes == ()
    layers = {"num_hidden_layers": 8}
    for kind in ("smollm3", "llama4_text"):
        assert read(sizes | layers | {"model_type": kind}).notes[0] == "layers 3, 7 do not rotate (no_rope_layers)"
        assert (
            read(sizes | layers | {"model_type": kind, "no_rope_layer_interval": 2})
            .notes[0]
            .startswith("layers 1, 3, 5, 7 ")
        )
    assert read(sizes | layers | {"model_type": "muse_glimmer_text"}).notes == (
        "layers 3, 7 do not rotate (layer_rope_theta is 0)",
    )


def test_models_that_do_not_rotate_are_those_of_the_page():
    """unrotated.json: every model_type of transformers that is neither a family nor a composite of families."""
    transformers = pytest.importorskip("transformers")
    from tools import config_page

    assert transformers.__version__
    known = {name for name, _ in config_page.parts()}
    assert unrotated() <= known and not unrotated() & FAMILIES.keys()
    page = config_page.page().read_text(encoding="utf-8").partition(config_page.END)[0]
    still = page.rpartition("do not rotate: ")[2].rstrip(".\n").split(", ")
    assert set(still) - unrotated() <= {name for name in still if name[0].isupper()}, "add them to unrotated.json"
