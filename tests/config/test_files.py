"""Config files of each kind: JSON, params.json, YAML, GGUF, and folders that hold them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rotary import RotaryEmbedding
from rotary.config import read
from rotary.config.files import content
from rotary.scaling import Gains, Linear, Llama3, LongRoPE

PARAMS = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "rope_theta": 500000.0, "use_scaled_rope": True}
LITGPT = """\
name: long-context-like
block_size: 512
n_layer: 2
n_head: 4
n_embd: 64
norm_class_name: RMSNorm
rotary_percentage: 1.0
rope_base: 10000
rope_condense_ratio: 4
rope_adjustments: null
"""


def test_a_folder_with_params_json(tmp_path: Path):
    (tmp_path / "params.json").write_text(json.dumps(PARAMS))
    assert read(tmp_path) == read(PARAMS) == read(tmp_path / "params.json")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", "head_dim": 64, "rope_theta": 5e5}))
    assert read(tmp_path).dialect == "transformers"  # config.json comes first, as in the folders that have both


def test_yaml(tmp_path: Path):
    pytest.importorskip("yaml")
    (tmp_path / "model_config.yaml").write_text(LITGPT)
    arguments = read(tmp_path)
    assert (arguments.dialect, arguments.dim, arguments.scaling, arguments.target) == ("LitGPT", 16, (Linear(4),), 512)
    (tmp_path / "a.yml").write_text("- 1")
    with pytest.raises(TypeError, match="contains list .*, not a YAML mapping"):
        read(tmp_path / "a.yml")
    (tmp_path / "a.yml").write_text("a: [")
    with pytest.raises(ValueError, match="is not YAML"):
        read(tmp_path / "a.yml")


@pytest.mark.parametrize("file", ["config.json", "model_config.yaml"])
def test_a_key_that_is_given_twice(file: str, tmp_path: Path):
    """Parsers keep the last of two values without a word."""
    pytest.importorskip("yaml")
    twice = '{"model_type": "llama", "head_dim": 64, "rope_theta": 500000.0, "rope_theta": %s}'
    (tmp_path / file).write_text(twice % "10000.0")
    with pytest.raises(ValueError, match=r"conflicting rope_theta: float 500000\.0 in config, float 10000\.0"):
        read(tmp_path)
    (tmp_path / file).write_text(twice % "500000.0")
    assert read(tmp_path).base == 5e5


def write(path: Path, arch: str, numbers: dict[str, Any], tensors: dict[str, list[float]]) -> Path:
    """A GGUF file of metadata and the tensors of the rotation, by the gguf package."""
    gguf = pytest.importorskip("gguf")
    numpy = pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(str(path), arch)
    for key, value in numbers.items():
        add = {int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}[type(value)]
        add(f"{arch}.{key}", value)
    for name, values in tensors.items():
        writer.add_tensor(name, numpy.array(values, dtype=numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_read_with_its_tensors(tmp_path: Path):
    """Llama 3.1: rope_freqs.weight holds factors, and the frequencies are those of rope_type llama3."""
    plain = RotaryEmbedding(128, base=500000.0).inv_freq.double()
    scaled = RotaryEmbedding(128, base=500000.0, scaling=Llama3(8.0, 8192)).inv_freq.double()
    factors = (plain / scaled).tolist()
    numbers = {"block_count": 2, "context_length": 131072, "embedding_length": 4096, "attention.head_count": 32}
    numbers |= {"rope.dimension_count": 128, "rope.freq_base": 500000.0}
    file = write(tmp_path / "a.gguf", "llama", numbers, {"rope_freqs.weight": factors})
    arguments = read(file)
    assert (arguments.dialect, arguments.dim, arguments.base, arguments.interleaved) == ("GGUF", 128, 500000.0, True)
    assert isinstance(arguments.scaling[0], Gains) and arguments.notes == ()
    torch.testing.assert_close(RotaryEmbedding.from_config(file).inv_freq.double(), scaled, rtol=3e-7, atol=0)
    bare = write(tmp_path / "b.gguf", "llama", numbers, {})
    assert read(bare).scaling == () and read(bare).notes == ()  # the file has no such tensor, so there is none


def test_the_factors_of_longrope_are_tensors_of_the_file(tmp_path: Path):
    numbers = {
        "context_length": 131072,
        "embedding_length": 3072,
        "attention.head_count": 32,
        "rope.dimension_count": 96,
    }
    numbers |= {"rope.scaling.original_context_length": 4096, "rope.scaling.attn_factor": 1.1875}
    tensors = {"rope_factors_long.weight": [2.0] * 48, "rope_factors_short.weight": [1.0] * 48}
    (scheme,) = read(write(tmp_path / "phi.gguf", "phi3", numbers, tensors)).scaling
    assert scheme == LongRoPE([1.0] * 48, [2.0] * 48, 4096, attention_factor=1.1875)
    with pytest.raises(ValueError, match="belong together"):
        read(write(tmp_path / "half.gguf", "phi3", numbers, {"rope_factors_long.weight": [2.0] * 48}))


def test_a_damaged_gguf_file(tmp_path: Path):
    pytest.importorskip("gguf")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(ValueError, match="is not a whole GGUF file"):
        content(tmp_path / "a.gguf")


@pytest.mark.parametrize(
    ("module", "file", "words"), [("gguf", "a.gguf", r"rotary\[gguf\]"), ("yaml", "a.yaml", "pip install pyyaml")]
)
def test_a_missing_package_is_named(
    module: str, file: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / file).write_text("")
    with pytest.raises(ImportError, match=words):
        content(tmp_path / file)


def test_a_block_of_yaml_replaces_the_keys_that_it_merges(tmp_path: Path):
    pytest.importorskip("yaml")
    file = tmp_path / "a.yaml"
    base = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, y: 3}\n"
    file.write_text(base + "c: {<<: *b, x: 4}\nd: {<<: [*a, *b], z: 5}\n")
    parsed = content(file)
    assert parsed["b"] == {"x": 1, "y": 3} and parsed["c"] == {"x": 4, "y": 3}
    assert parsed["d"] == {"x": 1, "y": 2, "z": 5}  # of two merged blocks the first counts
    file.write_text(base + "c: {<<: *b, x: 4, x: 5}\n")
    with pytest.raises(ValueError, match="conflicting x: int 4 in config, int 5"):
        content(file)


def test_yaml_that_is_no_config(tmp_path: Path):
    pytest.importorskip("yaml")
    file = tmp_path / "a.yaml"
    file.write_bytes(b"a: \xff")
    with pytest.raises(ValueError, match="a.yaml' is not YAML: 'utf-8' codec"):
        content(file)
    file.write_text("? [a, b]\n: 1\n")
    with pytest.raises(ValueError, match=r"has list \['a', 'b'\] as a key; the keys of a config are names"):
        content(file)
    file.write_text("1: 2\n")
    with pytest.raises(TypeError, match="the keys of config must be strings, got int 1"):
        read(file)
