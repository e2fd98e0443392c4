"""`rotary show`: every config that comes with the package, comparisons, JSON and refusals."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest

from rotary import config
from rotary.cli.main import main
from rotary.cli.schemes import SPELLINGS, schemes
from rotary.scaling import Linear, Resonance, YaRN
from support import warm


def show(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["show", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    return printed.err


@pytest.mark.parametrize("name", config.shipped())
def test_every_shipped_config_shows(name: str, capsys: pytest.CaptureFixture[str]):
    printed = show(capsys, name)
    assert printed.startswith(name) and max(map(len, printed.splitlines())) <= 110
    arguments = config.read(name, layer_type="full_attention" if name.startswith("gemma") else None)
    assert ("critical dimension" in printed) == (not arguments.inv_freq)
    assert ("coordinate 0" in printed) == (arguments.axes is not None)


def test_axes_of_qwen_vl_and_of_its_tower(capsys: pytest.CaptureFixture[str]):
    """Columns of Qwen2.5-VL read wavelengths from 35,333 on: on an image of 40 x 40 tokens none comes full circle."""
    text = show(capsys, "qwen2.5-vl-7b", "--grid", "10", "40", "40")
    assert "axes                sections(16, 24, 24)" in text and "other parts         vision_config" in text
    assert "coordinate 2        24 planes, 40-63; wavelengths 35,333 to 5,063,256, on 40: 0 come full circle" in text
    tower = show(capsys, "qwen2.5-vl-7b", "--part", "vision_config", "--grid", "40", "40")
    assert tower.startswith("qwen2.5-vl-7b, vision_config\n") and "80 of 80 channels, base 10,000" in tower
    assert "coordinate 0        20 planes, 0-19; wavelengths 6.283 to 39,644, on 40: 5 come full circle" in tower


def test_axes_as_json(capsys: pytest.CaptureFixture[str]):
    shown = json.loads(show(capsys, "flux.1-dev", "--json", "--grid", "1", "64", "64"))["layers"][0]
    several = shown["coordinates"]
    assert several["axes"] == [0] * 8 + [1] * 28 + [2] * 28 and several["grid"] == [1.0, 64.0, 64.0]
    assert several["inv_freq"][9] == 1e4 ** (-2 / 56) and several["whole"] == [0, 8, 8] and shown["schemes"] == []
    assert json.loads(show(capsys, "plain", "--json"))["layers"][0]["coordinates"] is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("flux.1-dev", "--grid", "64", "64"), "3 numbers > 0"),
        (("flux.1-dev", "--grid", "0", "64", "64"), "3 numbers > 0"),
        (("flux.1-dev", "--compare", "yarn:4"), "--compare"),
        (("flux.1-dev", "--length", "100"), "--length"),
        (("flux.1-dev", "--plot", "x.png", "--picture", "decay"), "--picture decay"),
        (("plain", "--plot", "x.png", "--picture", "axes"), "one coordinate"),
        (("plain", "--grid", "64"), "one coordinate"),
        (("qwen2.5-vl-7b", "--part", "vision"), "its parts: vision_config"),
    ],
)
def test_what_does_not_fit_several_coordinates(
    arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]
):
    assert words in refused(capsys, *arguments)


def test_pictures_of_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("matplotlib")
    for name in ("qwen3-vl-8b", "dinov3-vitl16"):
        show(capsys, name, "--plot", str(tmp_path / f"{name}.svg"))
        drawn = (tmp_path / f"{name}.svg").read_text()
        assert drawn.count("<image") >= 7  # a score and six gratings
    show(capsys, "qwen3-vl-8b", "--picture", "decay", "--plot", str(tmp_path / "decay.svg"))
    assert (tmp_path / "decay.svg").exists()


def test_without_arguments_it_shows_the_plain_module(capsys: pytest.CaptureFixture[str]):
    printed = show(capsys)
    assert printed.startswith("plain\n") and "base 10,000" in printed and "planes              0-63 kept" in printed


def test_a_file_and_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "config.json"
    file.write_text(
        json.dumps({"model_type": "llama", "head_dim": 64, "rope_theta": 1e4, "max_position_embeddings": 2048})
    )
    assert show(capsys, str(file)).splitlines()[2:] == show(capsys, str(tmp_path)).splitlines()[2:]


def test_json_has_the_figures(capsys: pytest.CaptureFixture[str]):
    document = json.loads(show(capsys, "gemma-3-4b", "--json", "--compare", "yarn:4"))
    assert [layer["layer_type"] for layer in document["layers"]] == ["full_attention", "sliding_attention"]
    text = json.dumps(document)
    assert "Infinity" not in text and "NaN" not in text
    full = document["layers"][0]
    assert (full["dim"], full["base"], full["interleaved"]) == (256, 1e6, False)
    own, yarn = full["schemes"]
    assert (own["attention_factor"], yarn["attention_factor"]) == (1.0, pytest.approx(0.1 * math.log(4) + 1))
    assert (own["window"], own["critical_dimension"], own["reach"]) == (131072, 186, pytest.approx(8 * 131072))
    plane = own["planes"][64]
    assert plane["trained_inv_freq"] == pytest.approx(1e-3) and plane["inv_freq"] == pytest.approx(1e-3 / 8)
    assert plane["wavelength"] == pytest.approx(2 * math.pi * 8000) and plane["treatment"] == "interpolated"
    assert plane["trained_turns"] == pytest.approx(131.072 / (2 * math.pi)) and plane["whole"]


def test_compare_and_length(capsys: pytest.CaptureFixture[str]):
    printed = show(capsys, "plain", "--compare", "yarn:4", "linear:4", "ntk:4", "--length", "16384")
    head = next(line for line in printed.splitlines() if line.startswith("reach [token]"))
    assert head.split()[2:5] == ["4,096", "16,384", "16,384"]
    assert "linear:4" in printed and "does not reach 16,384" in printed


def test_a_trained_window_that_the_config_does_not_state(capsys: pytest.CaptureFixture[str]):
    """Gemma 3 was trained with 32,768 tokens and extended 8 times; its config states 131,072 alone."""
    note = "max_position_embeddings is used; --window sets it"
    by_default = " ".join(show(capsys, "gemma-3-4b", "--layer-type", "full_attention").split())
    assert "no new angle up to 1,048,576 tokens" in by_default and note in by_default
    stated = " ".join(show(capsys, "gemma-3-4b", "--layer-type", "full_attention", "--window", "32768").split())
    assert "no new angle up to 262,144 tokens" in stated and note not in stated


def test_a_second_scheme_over_a_scaled_config(capsys: pytest.CaptureFixture[str]):
    def words(scheme: str) -> str:
        return " ".join(show(capsys, "llama-3.1-8b", "--compare", scheme).split())

    assert "Llama3 and Linear both extend the context: the planes are slowed down twice, 32 times" in words(
        "config+linear:4"
    )
    assert "the weights were trained with Llama3; linear:4, in its place, would change" in words("linear:4")
    assert "weights were trained" not in words("config+resonance")


def test_schemes_chain_and_know_the_window():
    assert schemes("yarn:4+resonance", 4096) == (YaRN(4.0, 4096), Resonance())
    assert schemes("config+resonance", 4096, (Linear(2.0),)) == (Linear(2.0), Resonance())
    assert schemes("plain", 4096, (Linear(2.0),)) == ()
    for name, (number, _) in SPELLINGS.items():
        assert len(schemes(f"{name}:0.5" if name == "proportional" else f"{name}:4" if number else name, 4096)) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lama-3.1-8b"], "did you mean llama-3.1-8b?"),
        (["plain", "--compare", "yarm:4"], "yarn"),
        (["plain", "--compare", "yarn"], "scheme 'yarn' needs a number, as yarn:4"),
        (["plain", "--compare", "yarn:x"], "show: --compare: scheme 'yarn:x' needs a number, as yarn:4, got 'x'"),
        (["plain", "--compare", "yarn:4:4"], "show: --compare: scheme 'yarn:4:4' needs a number, as yarn:4, got '4:4'"),
        (["plain", "--compare", "clipped:2.9"], "scheme 'clipped:2.9': planes must be an integer, got 2.9"),
        (["plain", "--compare", "clipped:inf"], "scheme 'clipped:inf': planes must be an integer, got inf"),
        (["plain", "--compare", "clipped:nan"], "scheme 'clipped:nan': planes must be an integer, got nan"),
        (["plain", "--xpos", "0"], "show: --xpos must be a finite number > 0, got 0.0"),
        (["plain", "--head-dim", "3"], "show: --head-dim: dim must be a positive even integer, got 3"),
        (["flux.1-dev", "--grid", "nan", "1", "1"], "show: --grid must be 3 numbers > 0"),
        (["plain", "--compare", "resonance:4"], "needs no number"),
        (["plain", "--length", "0"], "--length must be at least 1, got 0"),
        (["plain", "--window", "-1"], "--window must be at least 1, got -1"),
        (["plain", "--plot", "picture.doc"], "suffixes are"),
        (["gemma-3-4b", "--layer-type", "full"], "unknown layer_type 'full'"),
        (["plain", "--picture", "decay"], "--picture decay says what --plot FILE draws; pass --plot too"),
        (["plain", "--compare", "power:auto"], "scheme 'power:auto': auto is a factor, and power takes exponent"),
        (["plain", "--compare", "resonance:auto"], "scheme 'resonance:auto' needs no number"),
    ],
)
def test_refusals_are_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]):
    assert words in refused(capsys, *arguments)


def test_xpos_out_of_range(capsys: pytest.CaptureFixture[str]):
    assert "xPos with scale_base 512 leaves the range of float16" in " ".join(
        show(capsys, "plain", "--xpos", "512", "--length", "65536").split()
    )


def test_xpos_that_leaves_a_dtype_at_once(capsys: pytest.CaptureFixture[str]):
    """At a scale_base of 0.05 [token] the scale of position 1 is 0.286^20 = 1.3e-11, the inverse of 7.6e10."""
    printed = " ".join(show(capsys, "plain", "--xpos", "0.05").split())
    assert "leaves the range of float16 at the first token; a scale_base of 741 stays in it" in printed
    assert "leaves the range of float16" not in " ".join(show(capsys, "plain", "--xpos", "741").split())


def test_a_warning_is_printed_once(capsys: pytest.CaptureFixture[str]):
    printed = " ".join(
        show(capsys, "plain", "--compare", "yarn:4", "linear:4", "--xpos", "512", "--length", "16384").split()
    )
    assert printed.count("leaves the range of float16") == printed.count("attenuates the fastest plane") == 1
    assert "warning: plain: 18 of 64 planes" in printed


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not json", "is not JSON"),
        (b"\xff\xfe", "is not JSON"),
        (b"", "is not JSON"),
        (b"[1]", "not a JSON object"),
    ],
)
def test_a_file_that_is_no_config_is_one_line(
    content: bytes, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    file = tmp_path / "config.json"
    file.write_bytes(content)
    error = refused(capsys, str(file))
    assert words in error and str(file) in error


def test_it_needs_neither_transformers_nor_matplotlib():
    code = (
        "import sys; from rotary.cli import main; main(['show']); "
        "sys.exit(bool({'transformers', 'matplotlib', 'mpmath'} & set(sys.modules)))"
    )
    assert warm.run("-c", code).returncode == 0


def test_it_says_which_dialect_it_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert show(capsys).splitlines()[2] == "dialect             transformers"
    params = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "rope_theta": 5e5, "use_scaled_rope": True}
    (tmp_path / "params.json").write_text(json.dumps(params))
    printed = show(capsys, str(tmp_path), "--length", "131072")
    assert printed.splitlines()[2] == "dialect             Meta params.json"
    assert "interleaved pairing" in printed and "8 is that of Llama 3.1" in " ".join(printed.split())
    assert json.loads(show(capsys, str(tmp_path), "--length", "131072", "--json"))["dialect"] == "Meta params.json"


def test_a_published_scheme_is_a_note_by_name_and_by_file_and_a_warning_beyond(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """Llama 3.1 states 131,072 tokens, and its scheme keeps its angles to 65,536; no larger factor is advised."""
    file = tmp_path / "config.json"
    file.write_text(config.path("llama-3.1-8b").read_text())
    for name in ("llama-3.1-8b", str(file)):
        printed = " ".join(show(capsys, name).split())
        assert "note from token 65,536 on some planes reach angles that the trained window did not have" in printed
        assert "warning" not in printed and "choose a larger factor" not in printed
        beyond = " ".join(show(capsys, name, "--length", "262144").split())
        assert "choose a larger factor" in beyond and "note from token" not in beyond
    changed = json.loads(file.read_text())
    changed["rope_scaling"]["factor"] = 4.0
    file.write_text(json.dumps(changed))
    assert "choose a larger factor" in " ".join(show(capsys, str(file)).split())
    own = json.loads(show(capsys, "llama-3.1-8b", "--json"))["layers"][0]["schemes"][0]
    assert own["warnings"] == [] and len(own["notes"]) == 1


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "LLAMA-3.1-8B", "DeepSeek-V3"])
def test_names_in_any_case(name: str, capsys: pytest.CaptureFixture[str]):
    assert show(capsys, name).splitlines()[4:] == show(capsys, name.lower()).splitlines()[4:]
    assert config.read(name) == config.read(name.lower())


@pytest.mark.parametrize(
    "name", ["linear", "ntk", "dynamic", "mixed", "parts", "yarn", "llama3", "plain+yarn", "linear:2+yarn"]
)
def test_auto_is_the_smallest_factor_that_reaches_the_context(name: str, capsys: pytest.CaptureFixture[str]):
    arguments = ["plain", "--length", "32768", "--json", "--compare", f"{name}:auto"]
    found = json.loads(show(capsys, *arguments))["layers"][0]["schemes"][1]
    assert found["reach"] is None or found["reach"] >= 32768 * (1 - 2e-6)
    factor = float(re.search(r"factor=([\d.]+)", found["scaling"][-1])[1])
    smaller = f"{name}:{0.995 * factor}" if factor > 1 else "plain"
    short = json.loads(show(capsys, *arguments[:-1], smaller))["layers"][0]["schemes"][1]
    assert short["reach"] < 32768
    if name in ("linear", "yarn", "llama3"):
        assert factor == 8.0
    if name == "linear:2+yarn":
        assert factor == 4.0


@pytest.mark.parametrize("columns", [72, 80, 100, 200])
def test_nothing_is_wider_than_the_terminal(
    columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (
        ["llama-3.1-8b"],
        ["dinov3-vitl16"],
        ["qwen2.5-vl-7b"],
        ["plain", "--compare", "yarn:4", "linear:4", "ntk:4", "dynamic:4", "parts:4"],
    ):
        printed = show(capsys, *arguments)
        assert max(map(len, printed.splitlines())) <= min(columns, 110)
        for name in arguments[2:]:
            assert name in printed


def test_an_error_in_a_config_names_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "head_dim": 64, "rope_theta": -1.0}))
    assert str(file) in refused(capsys, str(file))


def test_an_existing_path_comes_before_a_published_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    content = {"model_type": "llama", "head_dim": 64, "rope_theta": 7.0, "max_position_embeddings": 2048}
    (tmp_path / "plain" / "config.json").write_text(json.dumps(content))
    assert "64 of 64 channels, base 7," in show(capsys, "plain")
    assert "128 of 128 channels, base 10,000," in show(capsys, "PLAIN")  # no such path


def test_advice_of_a_config_names_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "llama", "max_position_embeddings": 2048}))
    assert refused(capsys, str(file)).endswith("to derive it from; pass --head-dim\n")
    assert "64 of 64 channels" in show(capsys, str(file), "--head-dim", "64")
    towers = {
        name: {"model_type": name, "rope_theta": 1e4, "head_dim": 64} for name in ("sight_config", "sound_config")
    }
    file.write_text(json.dumps(towers))
    assert "pass --part one of its sub-configs that rotate: sight_config, sound_config" in refused(capsys, str(file))


def test_a_sliding_window_that_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    content = json.loads(config.path("gemma-3-4b").read_text())["text_config"]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(content | {"sliding_window": "abc"}))
    assert "sliding_window must be an integer, got str 'abc'" in refused(capsys, str(file))


def test_a_warning_of_a_scheme_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["show", "plain", "--compare", "linear:0.5"]) == 0
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("rotary show: warning: ") and ".py" not in error


@pytest.mark.parametrize("keys", [("llm_config",), ("thinker_config", "text_config")])
def test_the_part_that_is_shown_is_no_other_part(
    keys: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    """text_config alone was left out of the other parts."""
    text = {"model_type": "llama", "head_dim": 64, "max_position_embeddings": 2048}
    for key in reversed(keys):
        text = {key: text}
    vision = {"model_type": "qwen2_vl", "hidden_size": 64, "num_attention_heads": 2, "rope_theta": 1e4}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "foo_vl", "vision_config": vision} | text))
    printed = show(capsys, str(tmp_path))
    assert "other parts         vision_config; --part shows one" in printed
