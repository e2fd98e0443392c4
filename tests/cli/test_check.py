"""`rotary check`: dialect, contradictions and warnings of a config, a model built from it, and the exit status of each."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rotary.cli.main import main

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 128,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 99,
    "max_position_embeddings": 2048,
    "rope_theta": 500000.0,
}

MROPE = {"mrope_section": [24, 20, 20], "mrope_interleaved": False}
ORIGINAL = {"original_max_position_embeddings": 4096}


def folder(path: Path, **changes: Any) -> str:
    (path / "config.json").write_text(json.dumps({**LLAMA, **changes}))
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], status: int, *arguments: str) -> str:
    assert main(["check", *arguments]) == status
    captured = capsys.readouterr()
    assert (captured.err.count("\n") == 1 and not captured.out) if status == 2 else captured.out
    return captured.err if status == 2 else captured.out


def test_a_config_without_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    lines = printed(capsys, 0, folder(tmp_path)).splitlines()
    assert lines[0].startswith(f"{tmp_path}, read as transformers")
    assert lines[1] == "rotation   32 of 32 channels, base 500,000, half pairing, no scheme"


def test_a_config_without_a_window_names_a_remedy_that_this_command_has(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = {key: value for key, value in LLAMA.items() if key != "max_position_embeddings"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    error = printed(capsys, 2, str(tmp_path))
    assert "write one into it, or pass `rotary show` --window" in error


def test_warnings_are_no_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    scaling = {"rope_type": "yarn", "factor": 2.0, "rope_theta": 500000.0, "original_max_position_embeddings": 8192}
    name = folder(tmp_path, rope_parameters=scaling, max_position_embeddings=131072)
    assert "planes reach angles that did not occur in training" in printed(capsys, 0, name)


def test_the_scheme_of_a_published_model_is_a_note(capsys: pytest.CaptureFixture[str]):
    text = printed(capsys, 0, "llama-3.1-8b")
    assert "warning" not in text and "note       from token 65,536 on some planes reach angles" in text


def test_layers_of_several_types(capsys: pytest.CaptureFixture[str]):
    document = json.loads(printed(capsys, 0, "gemma-3-4b", "--json"))
    assert [(layer["layer_type"], layer["base"]) for layer in document["layers"]] == [
        ("full_attention", 1e6),
        ("sliding_attention", 1e4),
    ]
    assert document["contradictions"] == [] and "planes" not in document["layers"][0]


def test_a_contradiction(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    name = folder(tmp_path, rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    assert "CONTRADICTION  conflicting rope_theta" in printed(capsys, 1, name)
    document = json.loads(printed(capsys, 1, name, "--json"))
    assert document["layers"] == [] and "500000.0" in document["contradictions"][0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "qwen3_vl_text", "head_dim": 128, "rope_scaling": MROPE}, "contradicts the code"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0, **ORIGINAL}}, "differs from max_position_embeddings"),
        ({"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "conflicting rope_type"),
    ],
)
def test_a_contradiction_in_any_words(
    changes: dict[str, Any], text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    found = json.loads(printed(capsys, 1, folder(tmp_path, **changes), "--json"))["contradictions"]
    assert len(found) == 1 and text in found[0] and str(tmp_path) not in found[0]


def test_a_path_with_the_word_conflicting_is_no_contradiction(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "conflicting"
    path.mkdir()
    (path / "config.json").write_text('{"model_type": "llama"}')
    error = printed(capsys, 2, str(path))
    assert "missing head_dim" in error and error.endswith("to derive it from; write head_dim into the config\n")


def test_an_existing_folder_comes_before_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    folder(tmp_path / "plain")
    for arguments in (["plain"], ["plain", "--model"]):
        if "--model" in arguments:
            pytest.importorskip("transformers")
        text = printed(capsys, 0, *arguments)
        assert "32 of 32 channels, base 500,000" in text
    assert "agrees     LlamaRotaryEmbedding (model.rotary_emb): base 500,000" in text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"rope_scaling": {"type": "yarm", "factor": 2.0}}, "did you mean 'yarn'?"),
        ({"model_type": "qwen2_vl_text"}, "mrope_section (16, 24, 24) has 64 planes, the head"),
        ({"rope_wavelength": 3.0}, "unknown rotary key 'rope_wavelength'"),
    ],
)
def test_what_cannot_be_read(changes: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert reason in printed(capsys, 2, folder(tmp_path, **changes))


def test_what_is_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "no config and no file named" in printed(capsys, 2, str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text("{")
    assert "is not JSON" in printed(capsys, 2, str(tmp_path))


def test_a_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("transformers")
    text = printed(capsys, 0, folder(tmp_path, vocab_size=2**31, hidden_size=2**20, head_dim=32), "--model")
    assert text.splitlines()[-1] == "agrees     LlamaRotaryEmbedding (model.rotary_emb): base 500,000"
    document = json.loads(printed(capsys, 0, str(tmp_path), "--model", "--json"))
    assert [f["kind"] for f in document["agreeing"]] == ["agrees"] and document["problems"] == []


def test_a_model_that_does_not_do_what_its_config_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """MiniMax-M3's tables are as wide as the head, though its config has a rotary_dim of 64."""
    transformers = pytest.importorskip("transformers")
    transformers.AutoConfig.for_model("minimax_m3_vl_text", num_hidden_layers=1).save_pretrained(tmp_path)
    text = printed(capsys, 1, str(tmp_path), "--model")
    assert "PROBLEM" in text and "128 channels turn; the config has 64 of 128" in text


def test_a_model_that_transformers_does_not_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("transformers")
    name = folder(tmp_path, model_type="nobodys", auto_map={"AutoConfig": "configuration.Config"})
    assert "transformers does not build a model of this config" in printed(capsys, 2, name, "--model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install 'rotary[transformers]'" in printed(capsys, 2, name, "--model")


def test_a_config_with_a_spectrum_for_each_axis(capsys: pytest.CaptureFixture[str]):
    assert main(["check", "flux.1-dev"]) == 0
    assert "128 of 128 channels, sections(8, 28, 28), base 10,000, interleaved pairing" in capsys.readouterr().out
