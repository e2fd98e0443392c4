"""Files of torch.save: Meta's layout and pytorch_model.bin, judged by attention scores and by the logits of a model of transformers that
is given the converted weights; what such a file may not hold; and what stays when a conversion fails."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("transformers")
pytest.importorskip("safetensors")
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rotary.checkpoints import by_weights, convert
from rotary.checkpoints.torch_archive import tensors_of
from rotary.pairing import half_to_interleaved

DIM, HEADS, KV_HEADS, LAYERS, VOCABULARY, HIDDEN = 64, 4, 2, 2, 96, 128
PARAMS: dict[str, Any] = {
    "dim": DIM, "n_layers": LAYERS, "n_heads": HEADS, "n_kv_heads": KV_HEADS, "vocab_size": VOCABULARY, "norm_eps": 1e-5,
    "rope_theta": 10000.0,
}  # fmt: skip
SCALED = {"use_scaled_rope": True, "rope_scaling_factor": 8.0, "rope_theta": 500000.0}


def weights_of_meta(tied: bool = False) -> dict[str, Tensor]:
    """A small random model under Meta's names, as its files hold them: float32, wq and wk interleaved."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

    kv = DIM // HEADS * KV_HEADS
    weights = {"tok_embeddings.weight": random(VOCABULARY, DIM), "norm.weight": 1 + 0.1 * random(DIM)}
    weights["rope.freqs"] = torch.rand(DIM // HEADS // 2)
    for n in range(LAYERS):
        shapes = {
            "attention.wq": (DIM, DIM),
            "attention.wk": (kv, DIM),
            "attention.wv": (kv, DIM),
            "attention.wo": (DIM, DIM),
        }
        shapes |= {"feed_forward.w1": (HIDDEN, DIM), "feed_forward.w2": (DIM, HIDDEN), "feed_forward.w3": (HIDDEN, DIM)}
        weights |= {f"layers.{n}.{name}.weight": 2 * random(*shape) for name, shape in shapes.items()}
        weights |= {f"layers.{n}.{name}.weight": 1 + 0.1 * random(DIM) for name in ("attention_norm", "ffn_norm")}
    if not tied:
        weights["output.weight"] = random(VOCABULARY, DIM)
    return weights


def cut(weights: dict[str, Tensor], parts: int, *, embedding_axis: int) -> list[dict[str, Tensor]]:
    """The weights as that many tensor-parallel ranks of Meta's code hold them."""
    axes = dict.fromkeys(["wq", "wk", "wv", "w1", "w3", "output"], 0) | dict.fromkeys(["wo", "w2"], 1)
    axes["tok_embeddings"] = embedding_axis
    files: list[dict[str, Tensor]] = [{} for _ in range(parts)]
    for name, weight in weights.items():
        axis = axes.get(name.split(".")[-2])
        pieces = [weight] * parts if axis is None else weight.chunk(parts, axis)
        for file, piece in zip(files, pieces, strict=True):
            file[name] = piece.clone()
    return files


def meta(folder: Path, weights: dict[str, Tensor], parts: int = 1, *, embedding_axis: int = 0, **params: Any) -> Path:
    folder.mkdir()
    for i, file in enumerate(cut(weights, parts, embedding_axis=embedding_axis)):
        torch.save(file, folder / f"consolidated.{i:02d}.pth")
    (folder / "params.json").write_text(json.dumps(PARAMS | params))
    (folder / "tokenizer.model").write_bytes(b"pieces")
    return folder


def scaled(inv_freq: Tensor, factor: float) -> Tensor:
    """The frequencies of Meta's use_scaled_rope, by wavelength, in float64 (llama-models, models/llama3/model.py)."""
    kept = []
    for f in inv_freq.tolist():
        turns = 8192 * f / (2 * torch.pi)
        share = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
        kept.append(f if turns > 4 else f / factor if turns < 1 else (1 - share) * f / factor + share * f)
    return torch.tensor(kept, dtype=torch.float64)


def logits_of_meta(weights: dict[str, Tensor], tokens: Tensor, params: dict[str, Any]) -> Tensor:
    """What Meta's model computes from its own weights, in float64: complex tables, neighbouring channels."""
    w = {name: weight.double() for name, weight in weights.items()}
    dim = DIM // HEADS
    inv_freq = params["rope_theta"] ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    inv_freq = scaled(inv_freq, params["rope_scaling_factor"]) if params.get("use_scaled_rope") else inv_freq
    seq = tokens.shape[1]
    table = torch.polar(torch.ones(()).double(), torch.arange(seq).double()[:, None] * inv_freq)[:, None]
    mask = torch.full((seq, seq), -torch.inf, dtype=torch.float64).triu(1)

    def norm(x: Tensor, name: str) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + PARAMS["norm_eps"]).rsqrt() * w[f"{name}.weight"]

    def turn(x: Tensor) -> Tensor:
        return torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous()) * table).flatten(-2)

    h = w["tok_embeddings.weight"][tokens]
    for n in range(LAYERS):
        at = f"layers.{n}."
        x = norm(h, at + "attention_norm")
        q, k, v = ((x @ w[f"{at}attention.{name}.weight"].T).unflatten(-1, (-1, dim)) for name in ("wq", "wk", "wv"))
        q, k = turn(q), turn(k)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 2) for t in (k, v))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / dim**0.5 + mask
        mixed = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).flatten(-2)
        h = h + mixed @ w[f"{at}attention.wo.weight"].T
        x = norm(h, at + "ffn_norm")
        gate, up = (x @ w[f"{at}feed_forward.{name}.weight"].T for name in ("w1", "w3"))
        h = h + (torch.nn.functional.silu(gate) * up) @ w[f"{at}feed_forward.w2.weight"].T
    return norm(h, "norm") @ w.get("output.weight", w["tok_embeddings.weight"]).T


RENAMED = {
    "tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head", "layers": "model.layers",
    "attention": "self_attn", "wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj", "feed_forward": "mlp",
    "w1": "gate_proj", "w2": "down_proj", "w3": "up_proj", "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}  # fmt: skip


def model_of(weights: dict[str, Tensor], params: dict[str, Any], *, tied: bool) -> LlamaForCausalLM:
    """transformers' model with these weights, renamed and not reordered."""
    rope = {"rope_type": "default", "rope_theta": params["rope_theta"]}
    if params.get("use_scaled_rope"):
        factors = {"factor": params["rope_scaling_factor"], "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        rope |= {"rope_type": "llama3", "original_max_position_embeddings": 8192} | factors
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=DIM, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            num_key_value_heads=KV_HEADS, vocab_size=VOCABULARY, rms_norm_eps=1e-5, tie_word_embeddings=tied,
            rope_parameters=rope, attn_implementation="eager",
        )
    )  # fmt: skip
    renamed = {
        ".".join(RENAMED.get(word, word) for word in name.split(".")): weight
        for name, weight in weights.items()
        if name != "rope.freqs"
    }
    missing, unexpected = model.load_state_dict(renamed, strict=False)
    assert not unexpected and set(missing) <= ({"lm_head.weight"} if tied else set())
    model.tie_weights()
    return model.double().eval()


@pytest.mark.parametrize(
    ("parts", "tied", "embedding_axis", "params"),
    [(1, False, 0, {}), (1, True, 0, SCALED), (2, False, 0, SCALED | {"rope_scaling_factor": 32.0}), (2, True, 1, {})],
)
def test_metas_files_give_transformers_the_same_logits(
    parts: int, tied: bool, embedding_axis: int, params: dict[str, Any], tmp_path: Path
):
    weights = weights_of_meta(tied)
    source = meta(tmp_path / "llama", weights, parts, embedding_axis=embedding_axis, **params)
    done = convert(source, tmp_path / "out", to="half")
    assert (done.files, done.tensors, done.layers) == (1, 2 * LAYERS, LAYERS) and done.difference < 1e-9
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "consolidated.safetensors",
        "params.json",
        "tokenizer.model",
    }
    converted = load_file(tmp_path / "out" / "consolidated.safetensors")
    assert converted.keys() == weights.keys()
    others = [name for name in weights if not name.endswith(("wq.weight", "wk.weight"))]
    assert all(torch.equal(converted[name], weights[name]) for name in others)
    tokens = torch.randint(VOCABULARY, (2, 17), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        theirs = model_of(converted, PARAMS | params, tied=tied)(tokens).logits
        unconverted = model_of(weights, PARAMS | params, tied=tied)(tokens).logits
    right = logits_of_meta(weights, tokens, PARAMS | params)
    assert (theirs - right).abs().max() < 1e-4  # its angles are float32 products
    assert (unconverted - right).abs().max() > 0.05


def test_there_and_back_gives_the_same_bits_of_the_joined_tensors(tmp_path: Path):
    weights = {name: weight.bfloat16() for name, weight in weights_of_meta().items()}
    source = meta(tmp_path / "llama", weights, 2)
    convert(source, tmp_path / "half", to="half")
    convert(tmp_path / "half", tmp_path / "back", to="interleaved")
    back = load_file(tmp_path / "back" / "consolidated.safetensors")
    assert all(torch.equal(back[name], weights[name]) for name in weights) and back.keys() == weights.keys()
    with pytest.raises(ValueError, match="already has half pairing"):
        convert(tmp_path / "half", tmp_path / "again", to="half")


def test_pairing_of_metas_files_is_told_by_their_weights(tmp_path: Path):
    """Planes of unlike norms, of which each has two rows: the sign of training."""
    weights = weights_of_meta()
    generator = torch.Generator().manual_seed(2)
    for name in weights:
        if name.endswith(("wq.weight", "wk.weight")):
            planes = torch.randn(weights[name].shape[0] // 2, generator=generator).exp()
            weights[name] = weights[name] * planes.repeat_interleave(2)[:, None]
    four = {
        name.replace("layers.0", f"layers.{n}"): w
        for n in range(4)
        for name, w in weights.items()
        if "layers.0" in name
    }
    source = meta(tmp_path / "llama", weights | four, 2)
    assert by_weights(source).pairing == "interleaved"


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("shards", [1, 2])
def test_pytorch_model_bin_becomes_safetensors_that_transformers_loads(shards: int, tied: bool, tmp_path: Path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "vocab_size": 99, "head_dim": 16}
    config = LlamaConfig(num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=tied, **sizes)
    model = LlamaForCausalLM(config).eval()
    folder = tmp_path / "llama"
    folder.mkdir()
    config.save_pretrained(folder)
    names = list(model.state_dict())
    files = [names[i::shards] for i in range(shards)]
    file_names = ["pytorch_model.bin"] if shards == 1 else [f"pytorch_model-0000{i + 1}-of-00002.bin" for i in range(2)]
    for file_name, part in zip(file_names, files, strict=True):
        torch.save({name: model.state_dict()[name] for name in part}, folder / file_name)
    if shards == 2:
        index = {name: file for file, part in zip(file_names, files, strict=True) for name in part}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    done = convert(folder, tmp_path / "out", to="interleaved")
    assert (done.files, done.tensors, done.left_out) == (shards, 4, ())
    assert not list((tmp_path / "out").glob("*.bin*"))
    changed = LlamaForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    for name, weight in model.state_dict().items():
        rotated = name.endswith(("q_proj.weight", "k_proj.weight"))
        expected = half_to_interleaved(weight.unflatten(0, (-1, 16)).mT).mT.flatten(0, 1) if rotated else weight
        assert torch.equal(changed[name], expected)
    convert(tmp_path / "out", tmp_path / "back", to="half")
    again = LlamaForCausalLM.from_pretrained(tmp_path / "back").eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(again(tokens).logits, model(tokens).logits)


def test_a_single_file_is_written_as_safetensors(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta()) / "consolidated.00.pth"
    with pytest.raises(ValueError, match=r"written as safetensors: name the target .*half\.safetensors"):
        convert(source, tmp_path / "half.pth", to="half")
    assert convert(source, tmp_path / "half.safetensors", to="half").tensors == 2 * LAYERS
    assert "layers.0.attention.wq.weight" in load_file(tmp_path / "half.safetensors")


def test_checksums_of_the_old_files_are_left_out_and_named(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta())
    (source / "checklist.chk").write_text("d41d8cd98f00b204e9800998ecf8427e  consolidated.00.pth")
    (source / "optimizer.pt").write_bytes(b"states")
    assert convert(source, tmp_path / "out", to="half").left_out == ("checklist.chk", "optimizer.pt")


def test_parts_that_do_not_belong_together_are_refused_by_name(tmp_path: Path):
    weights = weights_of_meta()
    source = meta(tmp_path / "llama", weights, 2)
    first, second = source / "consolidated.00.pth", source / "consolidated.01.pth"
    files = cut(weights, 2, embedding_axis=0)

    def refused(message: str, **changed: Tensor | None) -> None:
        content = {n: t for n, t in {**files[1], **changed}.items() if t is not None}
        torch.save(content, second)
        with pytest.raises(ValueError, match=message):
            convert(source, tmp_path / "out", to="half")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]

    refused("norm.weight differs between the files", **{"norm.weight": torch.zeros(DIM)})
    refused("output.weight is in one of", **{"output.weight": None})
    refused("norm.weight has other shapes or dtypes", **{"norm.weight": files[1]["norm.weight"].half()})
    extra = {"layers.0.feed_forward.experts.weight": torch.zeros(2, 2)}
    torch.save(files[0] | extra, first)
    refused("experts.weight: no rule for the axis along which 2 tensor-parallel files divide it", **extra)
    torch.save(files[0], first)
    (source / "params.json").write_text(json.dumps(PARAMS | {"dim": 256}))
    refused(r"tok_embeddings.weight \(48, 64\) should have dim = 256 columns in each file")
    (source / "params.json").write_text(json.dumps(PARAMS))
    first.unlink()
    with pytest.raises(ValueError, match=r"consolidated\.00\.pth is missing, and each of consolidated\.01\.pth"):
        convert(source, tmp_path / "out", to="half")


def test_F60_one_of_several_parts_and_two_formats_are_refused(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta(), 2)
    with pytest.raises(ValueError, match="is one of 2 tensor-parallel files"):
        convert(source / "consolidated.00.pth", tmp_path / "out.safetensors", to="half")
    torch.save({}, source / "pytorch_model.bin")
    with pytest.raises(ValueError, match="two models, or one twice"):
        convert(source, tmp_path / "out", to="half")
    with pytest.raises(ValueError, match="no safetensors file at .*, nor consolidated"):
        (tmp_path / "empty").mkdir()
        convert(tmp_path / "empty", tmp_path / "out", to="half", config=PARAMS)


class Runs:
    """What a pickle of a stranger may do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_F59_a_file_that_would_run_code_does_not(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta())
    torch.save({"a": Runs(tmp_path / "ran")}, source / "consolidated.00.pth")
    with pytest.raises(ValueError, match=r"consolidated\.00\.pth holds more than tensors, or is damaged"):
        convert(source, tmp_path / "out", to="half")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]


def test_what_is_no_dict_of_dense_tensors_is_refused_by_name(tmp_path: Path):
    path = tmp_path / "a.pth"
    expanded = torch.zeros(1).expand(1 << 40)
    for content, message in (
        ([torch.zeros(2)], "not a dict of tensors"),
        ({}, "holds an empty dict; a dict of tensors by their names is needed"),
        ({"model": {"a": torch.zeros(2)}}, "str 'model' is a dict; save that dict alone"),
        ({"epoch": 3}, "dict of tensors by their names is needed, and str 'epoch' is int 3"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "a is .*, not a dense tensor"),
        ({"a": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}, "not a dense tensor"),
        ({"a": torch.zeros(2, dtype=torch.complex128)}, "complex128, which is not converted"),
        ({"layers.0.attention.wq.weight": expanded}, "is larger than what the file holds of it"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            convert(path, tmp_path / "out.safetensors", to="half", config=PARAMS)
    assert [each.name for each in tmp_path.iterdir()] == ["a.pth"]


def test_archives_that_torch_did_not_write_are_refused_before_they_are_read(tmp_path: Path):
    path = tmp_path / "a.pth"

    def refused(message: str) -> None:
        with pytest.raises(ValueError, match=message):
            convert(path, tmp_path / "out.safetensors", to="half", config=PARAMS)

    torch.save({"a": torch.zeros(9)}, path, _use_new_zipfile_serialization=False)
    refused("no archive of torch.save.*before torch 1.6")
    path.write_bytes(pickle.dumps({"a": 1}))
    refused("no archive of torch.save")
    torch.save({"a": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused("no archive of torch.save")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * (1 << 20))
    refused("'a/data.pkl' is compressed or larger than the file")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ValueError, match="is a FIFO, not a regular file"):
        tensors_of(path)


def test_a_link_that_leaves_the_folder_is_refused(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta())
    (source / "consolidated.00.pth").rename(tmp_path / "private.pth")
    (source / "consolidated.00.pth").symlink_to(tmp_path / "private.pth")
    with pytest.raises(ValueError, match="is a link that leaves"):
        convert(source, tmp_path / "out", to="half")
    assert not (tmp_path / "out").exists()


def test_a_failed_conversion_leaves_nothing_and_the_source_as_it_was(tmp_path: Path):
    source = meta(tmp_path / "llama", weights_of_meta(), 2)
    before = {path.name: path.read_bytes() for path in source.iterdir()}

    def stop(file: str, done: int, total: int) -> None:
        assert file == "consolidated.safetensors" and 0 < done <= total
        if done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "out", to="half", progress=stop)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["llama"]
    assert before == {path.name: path.read_bytes() for path in source.iterdir()}


def test_no_file_is_read_into_memory_whole(tmp_path: Path):
    """Two files of 24 MiB: at each report of progress, the process has less than half a file in memory of its own."""
    pages = Path("/proc/self/smaps_rollup")
    if not pages.exists():
        pytest.skip("memory is read from /proc")
    source = tmp_path / "llama"
    source.mkdir()
    weights = {f"layers.{n}.attention.{name}.weight": torch.randn(512, 1024) for n in range(6) for name in ("wq", "wk")}
    for i in range(2):
        torch.save(weights, source / f"consolidated.{i:02d}.pth")
    (source / "params.json").write_text(json.dumps({"dim": 1024, "n_layers": 6, "n_heads": 8, "rope_theta": 1e4}))
    script = f"""
from rotary.checkpoints import convert
def anonymous():
    return next(int(l.split()[1]) for l in open({str(pages)!r}) if l.startswith('Anonymous:'))
peak = [anonymous()]
start = peak[0]
convert({str(source)!r}, {str(tmp_path / "out")!r}, to="half", progress=lambda f, d, t: peak.append(anonymous()))
print(max(peak) - start)
"""
    # Without the threshold, glibc keeps freed blocks for later, by a limit that grows as a process runs: 4.4 MiB in a fresh interpreter, 12
    # in one forked from a process with torch imported, 31 there on another machine. With it, the pages of a tensor end with the tensor.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env, check=False)
    assert run.returncode == 0, run.stderr
    assert int(run.stdout) < 12 << 10  # KiB; a tensor has 4 MiB
