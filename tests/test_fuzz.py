"""Any config and any command line give an answer or a documented error: no traceback, no hang, no file.

`make fuzz` for the long run, 105,000 inputs; ROTARY_FUZZ is the number of configs that each test draws.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rotary import RotaryEmbedding, config
from rotary.cli.main import main
from rotary.config.families import FAMILIES
from rotary.config.normalize import KNOWN_KEYS
from rotary.config.schemes import TYPES

LONG = settings(
    max_examples=int(os.environ.get("ROTARY_FUZZ", "300")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
NUMBERS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.integers(-2, 300),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0, 1, 2, 64, 128, 4096, 1e4, 5e5, 1.0, 0.25, 8.0, -1.0]),
)
LEAVES = st.one_of(
    st.none(), st.booleans(), NUMBERS, st.text(max_size=6), st.sampled_from([*TYPES, "su", "mrope", "axial"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ROPE_KEYS = sorted(
    {key for kind in TYPES.values() for key in kind.required | kind.optional}
    | {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
)
SIZES = (
    "hidden_size",
    "num_attention_heads",
    "head_dim",
    "max_position_embeddings",
    "model_type",
    "layer_types",
    "sliding_window",
)
ROPE = st.dictionaries(
    st.sampled_from(ROPE_KEYS) | st.text(max_size=5), LEAVES | st.lists(NUMBERS, max_size=4), max_size=5
)
CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        "model_type": st.sampled_from(sorted(FAMILIES)) | LEAVES,
        "rope_scaling": ROPE | VALUES,
        "rope_parameters": ROPE
        | st.dictionaries(st.sampled_from(["full_attention", "sliding_attention"]), ROPE | st.none(), max_size=2),
        **dict.fromkeys([*SIZES[1:4], *sorted(KNOWN_KEYS - {"rope_scaling", "rope_parameters"})], VALUES),
        "text_config": VALUES,
    },
)
SHIPPED = [json.loads(config.path(name).read_text()) for name in config.shipped()]


def read(given: Any) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            assert RotaryEmbedding.from_config(given).dim > 0
        except (TypeError, ValueError) as error:
            if not str(error):
                raise


@LONG
@given(given=CONFIGS)
def test_any_config(given: dict[str, Any]):
    read(given)


@LONG
@given(which=st.sampled_from(SHIPPED), data=st.data())
def test_a_published_config_with_anything_changed(which: dict[str, Any], data: st.DataObject):
    """One key of it, at any depth, gets any value or goes."""
    changed = json.loads(json.dumps(which))
    place = changed
    while True:
        key = data.draw(st.sampled_from(sorted(place)))
        if isinstance(place[key], dict) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        if data.draw(st.booleans()):
            place[key] = data.draw(VALUES)
        else:
            del place[key]
        break
    read(changed)


SAID = ["show", "info", "plain", "llama-3.1-8b", "gemma-3-4b", "full_attention", "-1", "0", "16384", "nan"]
SAID += ["--compare", "--length", "--json", "--all", "--xpos", "--layer-type", "--head-dim"]
SAID += ["yarn:4", "yarn:", "linear:0", "ntk:1e400", "resonance", "config+power:0.5"]
WORDS = st.lists(st.sampled_from(SAID) | st.text(max_size=5), max_size=6)


@settings(LONG, max_examples=max(LONG.max_examples // 10, 60))
@given(words=WORDS)
def test_any_command_line(words: list[str], tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("empty")
    before = Path.cwd()
    os.chdir(folder)
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                status = main([word for word in words if "bench" not in word and "convert" not in word])
            except SystemExit as left:
                status = left.code
        assert status in (0, 2) and "Traceback" not in printed.getvalue()
        assert list(folder.iterdir()) == []
    finally:
        os.chdir(before)
