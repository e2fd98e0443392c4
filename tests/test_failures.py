"""One test per class of real failures of rotary embeddings, by its number in the catalogue of docs/reliability.md.

Where a library that is installed here has the failure, the test shows it there first: a test that would not have caught it proves
nothing. Those libraries are transformers 5.23 (HF) and rotary-embedding-torch 0.9.1.
"""

from __future__ import annotations

import copy
import gc
import math
import pickle
import re
import threading
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from rotary import RotaryEmbedding, apply_rotary, apply_rotary_pos_emb, apply_rotary_qk, fused
from rotary.axes import sections
from rotary.testing import assert_angles


def hf(dim: int = 64, **rope: object) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    parameters = {"rope_type": "default", "rope_theta": 10000.0, **rope}
    config = transformers.LlamaConfig(
        hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=2048, rope_parameters=parameters
    )
    return LlamaRotaryEmbedding(config)


def hf_cos(module: nn.Module, positions: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    return module(torch.zeros(1, dtype=dtype), positions[None])[0][0, :, : module.inv_freq.shape[0]]


def lucid(**options: object) -> nn.Module:
    return pytest.importorskip("rotary_embedding_torch").RotaryEmbedding(dim=32, **options)


def worst(cos: Tensor, positions: Tensor, inv_freq: Tensor) -> float:
    return float((cos.double() - (positions.double()[:, None] * inv_freq.double()).cos()).abs().max())


FAR = torch.tensor([255, 257, 1000, 4000, 32_000])


# --- precision ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cast", ["bfloat16", "half"])
def test_F01_frequencies_cast_to_a_half_precision(cast: str):
    theirs = hf()
    inv_freq = theirs.inv_freq.clone()
    assert worst(hf_cos(getattr(theirs, cast)(), FAR), FAR, inv_freq) > 0.2
    ours = RotaryEmbedding(64)
    frequencies = ours.inv_freq.clone()
    assert_angles(*getattr(ours, cast)().float().cos_sin(FAR), FAR, frequencies)


def test_F02_positions_counted_in_the_dtype_of_q():
    q = torch.ones(1, 1, 600, 32, dtype=torch.bfloat16)
    theirs = lucid().rotate_queries_or_keys(q).float()
    assert torch.equal(theirs[0, 0, 256], theirs[0, 0, 257])  # bfloat16 cannot tell 256 from 257
    ours = RotaryEmbedding(32, interleaved=True).rotate(q).float()
    assert not torch.equal(ours[0, 0, 256], ours[0, 0, 257])
    assert torch.equal(ours, RotaryEmbedding(32, interleaved=True).rotate(q.float()).bfloat16().float())


def test_F03_autocast_in_the_angles():
    rope = RotaryEmbedding(64)
    plain = rope.cos_sin(FAR)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(torch.equal(a, b) for a, b in zip(rope.cos_sin(FAR), plain, strict=True))


def test_F04_float32_angles_at_long_positions():
    far = torch.tensor([1_000_000, 10_000_000])
    theirs, ours = hf(), RotaryEmbedding(64)
    assert worst(hf_cos(theirs, far), far, theirs.inv_freq) > 1e-2
    assert_angles(*ours.cos_sin(far), far, ours.inv_freq)


def test_F05_devices_without_float64():
    from rotary._angles.eager import cos_sin_without_float64
    from rotary._angles.turns import in_one_word, turns, turns_per_token

    rope = RotaryEmbedding(64)
    words = turns_per_token(rope.inv_freq)
    assert_angles(*cos_sin_without_float64(turns(FAR, in_one_word(*words))), FAR, rope.inv_freq, tolerance=1e-7)


def test_F06_no_complex_buffer_to_be_cast_to_real():
    rope = RotaryEmbedding(64, use_xpos=True)
    assert not any(buffer.is_complex() for buffer in rope.to(torch.bfloat16).buffers())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_F07_output_dtype_drifts(dtype: torch.dtype):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as theirs

    q, table = torch.ones(1, 1, 3, 8, dtype=torch.bfloat16), torch.ones(1, 3, 8)
    assert theirs(q, q, table, table)[0].dtype == torch.float32
    x = torch.ones(3, 8, dtype=dtype)
    cos, sin = torch.ones(2, 3, 4)
    assert apply_rotary(x, cos, sin).dtype == RotaryEmbedding(8).rotate(x).dtype == dtype
    assert apply_rotary_pos_emb(x, *RotaryEmbedding(8)(3)).dtype == dtype
    with pytest.raises(TypeError, match="int64"):
        apply_rotary(torch.ones(3, 8, dtype=torch.int64), cos, sin)


# --- state, caches, lifecycle --------------------------------------------------------------------------------------------------------


def test_F08_meta_to_empty_leaves_garbage():
    theirs, expected = hf(), hf().inv_freq
    theirs = theirs.to("meta").to_empty(device="cpu")
    assert not torch.equal(theirs.inv_freq, expected)
    ours, before = RotaryEmbedding(64), RotaryEmbedding(64).rotate(torch.ones(5, 64))
    emptied = ours.to("meta").to_empty(device="cpu")
    assert torch.equal(emptied.rotate(torch.ones(5, 64)), before)
    assert torch.equal(emptied.inv_freq, RotaryEmbedding(64).inv_freq)


def test_F09_state_dict_keys():
    assert "freqs" in lucid().state_dict()
    rope = RotaryEmbedding(32)
    assert rope.state_dict() == {}
    rope.load_state_dict({"inv_freq": rope.inv_freq.clone()})
    with pytest.raises(RuntimeError, match="inv_freq"):
        rope.load_state_dict({"inv_freq": rope.inv_freq * 2})


def test_F10_a_cache_keyed_too_narrowly():
    theirs = lucid()
    first = theirs(torch.arange(8), seq_len=8).clone()
    assert torch.equal(theirs(torch.arange(8) + 100, seq_len=8), first)  # other positions, the old table
    ours = RotaryEmbedding(32)
    x = torch.ones(8, 32)
    near, far = ours.rotate(x, positions=torch.arange(8)), ours.rotate(x, positions=torch.arange(8) + 100)
    assert not torch.equal(near, far)
    ours.rotate(x.bfloat16())
    assert torch.equal(ours.rotate(x), near)


def test_F11_cached_autograd_or_inference_tensors():
    rope = RotaryEmbedding(32)
    with torch.inference_mode():
        rope.rotate(torch.ones(8, 32))
    x = torch.ones(8, 32, requires_grad=True)
    for _ in range(2):
        rope.rotate(x).sum().backward()
    cos, sin = rope.cos_sin(8)
    assert not cos.is_inference() and not sin.requires_grad


def test_F12_sequences_longer_than_a_table():
    rope = RotaryEmbedding(32)
    rope.rotate(torch.ones(4, 32))
    assert_angles(*rope.cos_sin(torch.tensor([5_000_000])), [5_000_000], rope.inv_freq)
    assert rope.rotate(torch.ones(70_000, 32)).isfinite().all()


def test_F13_threads():
    rope, x = RotaryEmbedding(32), torch.randn(2, 300, 32)
    expected, wrong = {dtype: rope.rotate(x.to(dtype)) for dtype in (torch.float32, torch.bfloat16)}, []

    def work(dtype: torch.dtype) -> None:
        wrong.extend(1 for _ in range(50) if not torch.equal(rope.rotate(x.to(dtype)), expected[dtype]))

    threads = [threading.Thread(target=work, args=(dtype,)) for dtype in list(expected) * 3]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_F14_memory_of_modules():
    theirs = lucid()
    theirs.rotate_queries_or_keys(torch.ones(1, 1, 8000, 32))
    assert len(pickle.dumps(theirs)) > 500_000
    RotaryEmbedding(64).rotate(torch.ones(1, 20_000, 64))  # makes the constants that all modules share
    before = numbers_in_tensors()
    rope = RotaryEmbedding(128)
    rope.rotate(torch.ones(1, 20_000, 128))
    assert numbers_in_tensors() - before <= 4 * 64
    assert len(pickle.dumps(rope)) < 10_000


def numbers_in_tensors() -> int:
    """The count of numbers in all tensors that Python's garbage collector tracks."""
    gc.collect()
    return sum(x.numel() for x in gc.get_objects() if type(x) in (torch.Tensor, torch.nn.Parameter))


def test_F15_devices_that_do_not_match():
    rope, x = RotaryEmbedding(32), torch.ones(1, 8, 32)
    with pytest.raises(ValueError, match="positions on meta, q on cpu"):
        rope.rotate(x, positions=torch.arange(8, device="meta"))
    away = RotaryEmbedding(32, device="meta")
    assert torch.equal(away.rotate(x), rope.rotate(x))  # tables follow x, wherever the module lies


def test_F16_sharded_modules_find_no_parameter():
    assert list(RotaryEmbedding(32, use_xpos=True).parameters()) == []
    assert len(list(lucid().parameters())) == 1


def test_F17_functorch_and_float64():
    rope, x = RotaryEmbedding(32), torch.randn(4, 32, dtype=torch.float64)
    gradient = torch.func.grad(lambda x: rope.rotate(x).pow(2).sum())(x)
    torch.testing.assert_close(gradient, 2 * x, rtol=1e-12, atol=1e-12)
    far = torch.tensor([600_000])
    assert_angles(*rope.cos_sin(far, torch.float64), far, rope.inv_freq, tolerance=1e-14)


# --- formula and configuration ---------------------------------------------------------------------------------------------------------


def test_F18_dynamic_scaling_remembers_and_mixes_rows():
    from rotary.scaling import DynamicNTK

    theirs, positions = hf(rope_type="dynamic", factor=2.0), torch.arange(3000)
    before = hf_cos(theirs, positions).clone()
    hf_cos(theirs, torch.arange(8000))
    assert (hf_cos(theirs, positions) - before).abs().max() > 0.1
    ours = RotaryEmbedding(64, scaling=DynamicNTK(2.0, 2048))
    x = torch.ones(2, 1, 3000, 64)
    alone = ours.rotate(x[:1], length=3000)
    ours.rotate(torch.ones(1, 1, 8000, 64), length=8000)
    together = ours.rotate(x, length=torch.tensor([3000, 8000]))
    assert torch.equal(together[:1], alone)
    assert not torch.equal(together[1:], alone)
    with pytest.raises(ValueError, match="length="):
        ours.rotate(x)


def test_F19_the_switch_of_longrope():
    """Theirs looks at the longest row of a batch; the trained length itself is still short, one token more is not."""
    from rotary.scaling import LongRoPE

    short, long = [1.0] * 16, [4.0] * 16
    rope = RotaryEmbedding(32, scaling=LongRoPE(short, long, 64, factor=4.0))
    x = torch.ones(1, 1, 1, 32)
    at = {length: rope.rotate(x, offset=60, length=length) for length in (1, 64, 65, 1000)}
    assert torch.equal(at[1], at[64]) and torch.equal(at[65], at[1000]) and not torch.equal(at[64], at[65])
    rows = rope.rotate(x.expand(2, 1, 1, 32), offset=60, length=torch.tensor([64, 65]))
    assert torch.equal(rows[:1], at[64]) and torch.equal(rows[1:], at[65])
    assert torch.equal(rope.rotate(x, offset=60, length=64), at[64])  # what came between left nothing behind
    rope.rotate(x, offset=63)
    with pytest.raises(ValueError, match="position 64 lies beyond the trained window of 64 tokens"):
        rope.rotate(x, offset=64)


@pytest.mark.parametrize("name", ["DynamicNTK", "LongRoPE"])
def test_F65_no_process_raises_alone(name: str):
    """Whether a length is needed is known from the types of a call: the first of several processes, whose positions lie within the
    trained window, raises as the others do, and none waits for it at the next collective."""
    from rotary.scaling import DynamicNTK, LongRoPE

    scheme = {"DynamicNTK": DynamicNTK(4.0, 64), "LongRoPE": LongRoPE([1.0] * 16, [4.0] * 16, 64, factor=4.0)}[name]
    rope = RotaryEmbedding(32, scaling=scheme)
    x = torch.randn(2, 2, 4, 32)
    near, far = torch.arange(4), torch.arange(1000, 1004)
    for positions in (near, far, near.expand(2, 4), far.int()):
        for call in (lambda p=positions: rope.rotate(x, positions=p), lambda p=positions: rope.cos_sin(p)):
            with pytest.raises(ValueError, match="positions in a tensor may lie beyond.*pass length="):
                call()
    for given in ({"offset": near[0]}, {"offset": near[:2]}, {"cu_seqlens": torch.tensor([0, 2, 4])}):
        with pytest.raises(ValueError, match="pass length="):
            rope.rotate(x, **given)
    with torch.no_grad(), pytest.raises(Exception, match="pass length="):
        torch.compile(lambda p: rope.rotate(x, positions=p), backend="eager")(near)
    whole = rope.rotate(x.repeat(1, 1, 2, 1), length=8)
    assert torch.equal(rope.rotate(x, positions=near + 4, length=8), whole[:, :, 4:])
    assert torch.equal(
        rope.rotate(x, offset=3), rope.rotate(x, offset=torch.tensor(3), length=64)
    )  # ints are alike everywhere


def test_F66_tables_that_a_cast_rounded_are_told_once(recwarn: pytest.WarningsRecorder):
    """FSDP2 casts the floating inputs of a layer, tables among them, in silence (pytorch/torchtitan#2881)."""
    import rotary
    from rotary._inputs import shapes

    rope, x = RotaryEmbedding(16), torch.randn(1, 2, 4, 16).bfloat16()
    tables = rope.cos_sin(4)
    for dtype in (torch.bfloat16, torch.float16):
        shapes._warned = False
        half = [t.to(dtype) for t in tables]
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            rotary.apply_rotary(x, *half)
            rotary.apply_rotary_qk(x, x, *half)
        (warning,) = told
        assert warning.filename == __file__
        assert re.match(f"cos and sin are {dtype}.*cast_forward_inputs=False", str(warning.message))
    shapes._warned = False
    before = len(recwarn)
    rotary.apply_rotary(x, *tables)
    rotary.apply_rotary(x.double(), *tables)  # float32 tables, cast up: nothing was lost here
    torch.compile(lambda: rotary.apply_rotary(x, *half), backend="eager", fullgraph=True)()
    assert len(recwarn) == before and not shapes._warned


def test_F67_a_dispatch_mode_sees_one_operator_and_the_kernel_runs():
    """Selective checkpointing, FlopCounterMode and a user's own mode: no rotation by formula, no bit of it changed."""
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode

    import rotary
    from rotary import operators

    class Seen(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.names: list[str] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(str(func))
            return func(*args, **(kwargs or {}))

    rope, (q, k) = RotaryEmbedding(16), (torch.randn(2, 2, 4, 16), torch.randn(2, 1, 4, 16))
    tables = rope.cos_sin(4)
    expected = rotary.apply_rotary_qk(q, k, *tables)
    for module in (rotary, operators):
        with Seen() as seen:
            result = module.apply_rotary_qk(q, k, *tables)
        assert seen.names == ["rotary.rotate.default"]
        assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
        own = q.clone(), k.clone()
        with Seen() as seen, torch.no_grad():
            module.apply_rotary_qk(*own, *tables, inplace=True)
        assert seen.names == ["rotary.rotate_.default"]
        assert all(torch.equal(a, b) for a, b in zip(own, expected, strict=True))
        leaf, alone = q.clone().requires_grad_(), q.clone().requires_grad_()
        with Seen() as seen:
            module.apply_rotary(leaf, *tables).backward(q)
        rotary.apply_rotary(alone, *tables).backward(q)
        assert [name for name in seen.names if "rotary" in name] == ["rotary.rotate.default"] * 2
        assert not any("mul" in name for name in seen.names) and torch.equal(leaf.grad, alone.grad)
    with FlopCounterMode(display=False), rotary.use_backend("native"):
        assert all(torch.equal(a, b) for a, b in zip(rope.rotate(q, k), expected, strict=True))


def test_F20_yarns_attention_factor_and_ramp():
    """The factor once, 0.1 ln s + 1, on q and on k: scores get its square; the ramp ends on whole planes unless truncate=False."""
    from rotary.scaling import YaRN

    rope = RotaryEmbedding(64, base=150_000, scaling=YaRN(32.0, 4096))
    factor = 0.1 * math.log(32.0) + 1.0
    q = torch.randn(1, 1, 64, dtype=torch.float64)
    turned = rope.rotate(q)
    assert float(turned.norm() / q.norm()) == pytest.approx(factor, rel=1e-12)
    plain, whole = RotaryEmbedding(64, base=150_000).inv_freq, rope.inv_freq
    fine = RotaryEmbedding(64, base=150_000, scaling=YaRN(32.0, 4096, truncate=False)).inv_freq
    low, high = (64 * math.log(4096 / (turns * 2 * math.pi)) / (2 * math.log(150_000)) for turns in (32.0, 1.0))
    for inv_freq, first, last in ((whole, math.floor(low), math.ceil(high)), (fine, low, high)):
        for plane in range(32):
            ramp = min(max((plane - first) / (last - first), 0.0), 1.0)
            exact = 150_000 ** (-plane / 32) * (1 - ramp + ramp / 32)
            assert float(inv_freq[plane]) == pytest.approx(exact, rel=1e-6), (plane, float(plain[plane]))
    assert not torch.equal(whole, fine)


def test_F21_keys_of_a_config_passed_over():
    """transformers logs a line and goes on, with frequencies that are negative, infinite, or not what was asked for."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    def parameters(**changes: object) -> dict[str, object]:
        return {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0} | changes

    wrong = {
        "factor": parameters(factor=-3.0),
        "rope_theta": parameters(rope_theta=0.0),
        "attention_facter": parameters(attention_facter=2.0),
    }
    for name, given in wrong.items():
        with pytest.raises((TypeError, ValueError), match=name):
            RotaryEmbedding.from_config({"model_type": "llama", "head_dim": 64, "rope_parameters": given})
    theirs = LlamaRotaryEmbedding(LlamaConfig(head_dim=64, rope_parameters=wrong["factor"])).inv_freq
    assert (theirs < 0).all()


def test_F22_xpos_and_cached_keys():
    theirs = lucid(use_xpos=True, xpos_scale_base=32)
    q = k = torch.ones(1, 1, 64, 32)
    full_q, full_k = theirs.rotate_queries_and_keys(q, k)
    last_q, all_k = theirs.rotate_queries_with_cached_keys(q[:, :, -1:], k)
    full, step = full_q[:, :, -1:] @ full_k.mT, last_q @ all_k.mT
    assert (full - step).abs().max() > 0.1  # the centre was lost
    ours = RotaryEmbedding(32, use_xpos=True, scale_base=32)
    full_q, full_k = ours.rotate(q, k)
    cached = torch.cat([ours.rotate(k[:, :, t : t + 1], offset=t, role="key") for t in range(64)], 2)
    last_q = ours.rotate(q[:, :, -1:], offset=63, role="query")
    assert torch.equal(last_q @ cached.mT, full_q[:, :, -1:] @ full_k.mT)
    with pytest.raises(TypeError, match="role"):
        ours.rotate(q)


# --- several axes -----------------------------------------------------------------------------------------------------------------------


def test_F23_planes_dealt_out_wrongly():
    """Rows and columns dropped, or planes in blocks where they are strided: text is untouched, and images are wrong."""
    pytest.importorskip("transformers")
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextRotaryEmbedding

    config = Qwen3VLTextConfig(
        rope_parameters={"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]}
    )
    with pytest.warns(UserWarning, match="three coordinates"):
        ours = RotaryEmbedding.from_config(config)
    blocks = RotaryEmbedding(128, base=5e6, axes=sections(24, 20, 20))
    one = RotaryEmbedding(128, base=5e6)
    text, image = torch.tensor([[17, 17, 17]]), torch.tensor([[17, 20, 23]])  # t != h != w
    for wrong, at in ((blocks, image), (one, image[:, 0])):
        again = text if wrong.axes else text[:, 0]
        assert torch.equal(wrong.cos_sin(again)[1], ours.cos_sin(text)[1])
        assert float((wrong.cos_sin(at)[1] - ours.cos_sin(image)[1]).abs().max()) > 0.5
    theirs = Qwen3VLTextRotaryEmbedding(config)(torch.zeros(1), image.T[:, None])[1][0, :, :64]
    assert float((theirs - ours.cos_sin(image)[1]).abs().max()) < 1e-5

    for coordinate in range(3):  # a coordinate moves its planes, all of them and no others
        moved = image.clone()
        moved[0, coordinate] += 1
        changed = (ours.cos_sin(moved, torch.float64)[1] != ours.cos_sin(image, torch.float64)[1])[0]
        assert changed.tolist() == [axis == coordinate for axis in ours.axes or ()]
    exact = [
        math.sin(image[0, axis].item() * f) for axis, f in zip(ours.axes or (), ours.inv_freq.tolist(), strict=True)
    ]
    torch.testing.assert_close(
        ours.cos_sin(image, torch.float64)[1][0], torch.tensor(exact, dtype=torch.float64), rtol=0, atol=1e-13
    )

    for lost in (
        torch.tensor([17, 20, 23]),
        torch.tensor([[17, 20]]),
    ):  # a row of positions for two, or without coordinates
        with pytest.raises(ValueError, match="coordinates"):
            ours.cos_sin(lost)
    with pytest.raises(ValueError, match="64 planes"):
        RotaryEmbedding(128, axes=sections(8, 12, 12))
    with pytest.raises(TypeError, match="256 and 257"):  # positions of an image in the dtype of the model
        ours.cos_sin(torch.tensor([[17, 257, 258]]).bfloat16())
    with pytest.raises(ValueError, match="contradicts"):
        RotaryEmbedding.from_config(
            {"model_type": "qwen3_vl_text", "rope_theta": 5e6, "rope_scaling": {"mrope_section": [24, 20, 20], "mrope_interleaved": False}}
        )  # fmt: skip


# --- shape and layout --------------------------------------------------------------------------------------------------------------------


def test_F24_pairing_converts_both_ways():
    from rotary.pairing import half_to_interleaved, interleaved_to_half

    x = torch.randn(2, 5, 16)
    through = RotaryEmbedding(16, interleaved=True).rotate(half_to_interleaved(x))
    assert torch.equal(interleaved_to_half(through), RotaryEmbedding(16).rotate(x))


def test_F25_the_wrong_axis():
    rope = RotaryEmbedding(8)
    cos, sin = rope.cos_sin(6)
    x = torch.randn(2, 4, 6, 8)
    with pytest.raises(ValueError, match="6 rows.*4 along dimension 1"):
        apply_rotary(x, cos, sin, seq_dim=1)
    with pytest.raises(ValueError, match="seq_dim"):
        rope.rotate(x, seq_dim=-1)


def test_F26_silent_broadcast():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as theirs

    cos, sin = hf(8)(torch.zeros(1), torch.arange(1)[None])
    q = torch.ones(1, 1, 16, 8)
    assert theirs(q, q, cos, sin)[0].shape == q.shape  # one position served sixteen tokens
    rope = RotaryEmbedding(8)
    for positions in (torch.arange(1), torch.zeros(3, 16, dtype=torch.int64)):
        with pytest.raises(ValueError, match="positions"):
            rope.rotate(q, positions=positions)
    with pytest.raises(ValueError, match="1 rows"):
        apply_rotary(q, *rope.cos_sin(1))
    with pytest.raises(ValueError, match="batch 3"):
        apply_rotary(q, *rope.cos_sin(torch.zeros(3, 16, dtype=torch.int64)))


def test_F27_positions_ignored_when_packing():
    rope, x = RotaryEmbedding(8), torch.randn(10, 2, 8)
    whole = rope.rotate(x, cu_seqlens=torch.tensor([0, 4, 10]), seq_dim=0)
    assert torch.equal(whole[4:], rope.rotate(x[4:], seq_dim=0))
    assert not torch.equal(whole[4:], rope.rotate(x, seq_dim=0)[4:])


def test_F28_offsets_of_a_key_cache():
    rope, x = RotaryEmbedding(8), torch.randn(2, 3, 9, 8)
    whole = rope.rotate(x, offset=torch.tensor([0, -2]))
    steps = [rope.rotate(x[:, :, t : t + 1], offset=torch.tensor([t, t - 2])) for t in range(9)]
    assert torch.equal(torch.cat(steps, 2), whole)


def test_F29_positions_out_of_range():
    rope, x = RotaryEmbedding(8), torch.randn(1, 8, dtype=torch.float64)
    back = rope.rotate(rope.rotate(x, offset=-(2**31)), offset=2**31)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-13)
    assert_angles(*rope.cos_sin(torch.tensor([-1])), [-1], rope.inv_freq)


def test_F30_addresses_beyond_two_to_the_31_elements():
    torch.utils.deterministic.fill_uninitialized_memory = False  # 4 GiB of addresses of which two pages are touched
    memory = torch.empty(2**31 + 4096, dtype=torch.bfloat16)
    x = memory.as_strided((2, 4, 8), (2**31 + 64, 8, 1))
    x.copy_(torch.randn(2, 4, 8))
    rope = RotaryEmbedding(8)
    expected = rope.rotate(x.clone())
    assert torch.equal(rope.rotate(x), expected)
    rope.rotate(x, inplace=True)
    assert torch.equal(x, expected)


@pytest.mark.parametrize("heads", [1, 3])
def test_F31_strides_and_degenerate_shapes(heads: int):
    rope = RotaryEmbedding(8)
    qkv = torch.randn(2, 5, 3, heads, 8)
    for x in (
        qkv[:, :, 1].transpose(1, 2),
        qkv[:, :1, 2].transpose(1, 2),
        qkv[:1, :, 0].expand(2, 5, heads, 8).transpose(1, 2),
    ):
        assert torch.equal(rope.rotate(x), rope.rotate(x.contiguous()))
    one = qkv[:, :1, 0].transpose(1, 2)
    assert not torch.equal(rope.rotate(one, offset=3), one)
    x = torch.randn(2, 5, 8, requires_grad=True)
    rope.rotate(x).sum().backward()  # a gradient with stride 0
    assert torch.equal(x.grad, apply_rotary(torch.ones(2, 5, 8), *rope.cos_sin(5), conjugate=True))


def test_F32_autograd():
    rope = RotaryEmbedding(8)
    x = torch.randn(2, 5, 8, dtype=torch.float64, requires_grad=True)
    before = x.detach().clone()
    assert torch.autograd.gradcheck(rope.rotate, x) and torch.autograd.gradgradcheck(rope.rotate, x)
    assert torch.equal(x.detach(), before)


def test_F33_torch_compile_without_breaks():
    torch._dynamo.reset()
    rope = RotaryEmbedding(8)
    x = torch.randn(1, 2, 5, 8)
    assert torch.equal(torch.compile(rope.rotate, fullgraph=True, backend="eager")(x), rope.rotate(x))


def test_F34_export_with_a_dynamic_length():
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rope = RotaryEmbedding(8)

        def forward(self, x: Tensor) -> Tensor:
            return self.rope.rotate(x)

    x = torch.randn(1, 2, 5, 8)
    program = torch.export.export(Layer(), (x,), dynamic_shapes={"x": {2: torch.export.Dim("seq", min=2, max=4096)}})
    longer = torch.randn(1, 2, 77, 8)
    assert torch.equal(program.module()(longer), RotaryEmbedding(8).rotate(longer))


def test_F35_edge_dims():
    for dim in (9, 0, -4):
        with pytest.raises(ValueError, match=str(dim)):
            RotaryEmbedding(dim)
    with pytest.raises(ValueError, match="dim >= 4"):
        RotaryEmbedding(2, base_rescale_factor=2.0)
    x = torch.empty(2, 0, 8, requires_grad=True)
    RotaryEmbedding(8).rotate(x).sum().backward()
    assert x.grad is not None and x.grad.shape == x.shape


@pytest.mark.parametrize("head_dim", [2, 4, 6, 8, 64, 128])
def test_F36_the_companion_works_at_every_head_dim(head_dim: int):
    freqs, scale = RotaryEmbedding(head_dim)(5)
    t = torch.randn(2, 5, head_dim, dtype=torch.float64)
    y = apply_rotary_pos_emb(t, freqs, scale)
    torch.testing.assert_close(y.norm(dim=-1), t.norm(dim=-1))
    j = head_dim // 2
    turned = t[0, 4, 0] * math.cos(4) - t[0, 4, j] * math.sin(4)
    assert abs(y[0, 4, 0] - turned) < 1e-12


def test_a_copy_is_independent():
    rope = RotaryEmbedding(8)
    other = copy.deepcopy(rope)
    other.inv_freq.zero_()
    assert rope.inv_freq[0] == 1
    q, k = torch.randn(2, 1, 3, 8)
    assert all(
        torch.equal(a, b) for a, b in zip(apply_rotary_qk(q, k, *rope.cos_sin(3)), other.rotate(q, k), strict=True)
    )


def test_the_catalogue_names_every_class_that_is_tested_here():
    page = (Path(__file__).parents[1] / "docs" / "reliability.md").read_text(encoding="utf-8")
    folder = Path(__file__).parent
    files = [folder / "test_failures.py", folder / "test_borders.py", folder / "_native" / "test_operator_fuzz.py"]
    files += [folder / "_angles" / "test_polynomials.py", folder / "_embedding" / "test_rerotate.py"]
    files += (folder / "transformers").glob("test_*.py")
    files += [folder / "checkpoints" / "test_torch.py", folder / "_rotation" / "test_call.py"]
    files += [folder / "test_distributed.py", folder / "positions" / "test_ranks.py"]
    tested = {
        int(n) for file in files for n in re.findall(r"^def test_F(\d+)_", file.read_text(encoding="utf-8"), re.M)
    }
    listed = [int(line.split("|")[1].strip()[1:]) for line in page.splitlines() if line.startswith("| F")]
    assert listed == list(range(1, 70)) and tested == set(listed)


# --- norm, rotation and write in one pass ------------------------------------------------------------------------------------------------


def test_F61_partial_rotary_dropped_by_a_fused_norm():
    """Read as full width, tables of 8 planes would turn channels that pass, and rows would be read beyond their end."""
    x, weight = torch.randn(1, 2, 5, 32), torch.rand(32) + 0.5
    cos, sin = RotaryEmbedding(16).cos_sin(5)
    y, _ = fused.norm_rotate(x, x, cos, sin, q_weight=weight, k_weight=weight, eps=1e-6)
    normed = torch.nn.functional.rms_norm(x, (32,), weight, 1e-6)
    torch.testing.assert_close(y, apply_rotary(normed, cos, sin))
    torch.testing.assert_close(y[..., 16:], normed[..., 16:])


def test_F62_rows_of_tables_per_batch_entry_dropped_by_a_fused_norm():
    """M-RoPE and left padding: each batch entry has rows of its own, and the first entry's are not those of all."""
    x = torch.randn(2, 3, 5, 16)
    cos, sin = RotaryEmbedding(16).cos_sin(torch.stack((torch.arange(5), torch.tensor([0, 0, 7, 7, 9]))))
    both, _ = fused.norm_rotate(x, x, cos, sin, q_weight=None, k_weight=None, eps=1e-6)
    for b in range(2):
        alone, _ = fused.norm_rotate(x[b : b + 1], x[b : b + 1], cos[b], sin[b], q_weight=None, k_weight=None, eps=1e-6)
        assert torch.equal(both[b : b + 1], alone)
    assert not torch.equal(cos[0], cos[1])


def test_F63_memory_that_a_backward_pass_saved_written_over():
    """autograd notices, since every write past torch bumps the version: no gradient is silently wrong."""
    q = torch.randn(1, 2, 3, 8, requires_grad=True) * 1
    k, cos, sin = torch.randn(1, 2, 3, 8), *RotaryEmbedding(8).cos_sin(3)
    y, _ = fused.norm_rotate(q, k, cos, sin, q_weight=None, k_weight=None, eps=1e-6)
    with pytest.raises(RuntimeError, match="backward pass reads them"):
        fused.norm_rotate(q, k, cos, sin, q_weight=None, k_weight=None, eps=1e-6, inplace=True)
    with torch.no_grad():
        apply_rotary(q, cos, sin, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    cache = torch.zeros(2, 1, 4, 2, 8)
    leaf = torch.ones((), requires_grad=True)
    product = leaf * cache[0]
    with torch.no_grad():
        fused.rotate_and_store(k, k, cos, sin, *cache, torch.arange(3))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


def test_F64_a_norm_after_the_rotation_cancels_the_attention_factor():
    from rotary.config import read
    from rotary.scaling import YaRN

    x = torch.randn(1, 1, 4, 16)
    loud = RotaryEmbedding(16, scaling=YaRN(4.0, original_max_position_embeddings=64)).cos_sin(4)
    factor = float((loud[0] ** 2 + loud[1] ** 2).sqrt()[0, 0])
    assert factor > 1.1
    how = {"q_weight": None, "k_weight": None, "eps": 1e-12}
    before, after = (fused.norm_rotate(x, x, *loud, after=after, **how)[0] for after in (False, True))
    torch.testing.assert_close(before, after * factor)
    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 2048}
    config = {
        "model_type": "hunyuan_v1_dense",
        "head_dim": 64,
        "max_position_embeddings": 8192,
        "rope_parameters": rope,
    }
    assert any("cancels the attention factor" in note for note in read(config).notes)
