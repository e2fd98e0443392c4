"""Wrong values for every argument of the public functions: a TypeError or ValueError of ours, with the argument's name and no numbers."""

from __future__ import annotations

import ast
import functools
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rotary
from rotary import (
    RotaryEmbedding,
    analysis,
    axes,
    checkpoints,
    config,
    fused,
    pairing,
    positions,
    scaling,
    tables,
    testing,
)
from rotary import transformers as models
from rotary.scaling import temperature

PACKAGE = Path(rotary.__file__).parent
VALUE = 0.123456789
WRONG: dict[str, Any] = {
    "tensor": torch.full((2, 8, 10, 64), VALUE),
    "integers": torch.full((2, 3), 1234567),
    "sparse": torch.eye(3).to_sparse(),
    "list": [VALUE] * 40,
    "dict": {f"key{i}": VALUE for i in range(60)},
    "array": np.full((2, 3), VALUE),
    "str": "yarn",
    "None": None,
    "nan": float("nan"),
    "float": 2.5,
    "huge": 10**30,
    "bool": True,
    "object": object(),
    "module": nn.Linear(2, 2),
}
LLAMA: dict[str, Any] = {"model_type": "llama", "head_dim": 64, "rope_theta": 1e4}
TEXT = torch.arange(10)
WIDE = torch.ones(5, 8)
ROPE = RotaryEmbedding(64)
COORDINATES = analysis.Coordinates("two", (0, 0, 1, 1), (1.0, 0.1, 1.0, 0.1), (16, 32))
Case = tuple[Callable[..., Any], dict[str, Any], str]
"""A function, arguments that it takes, and those of them of which any value is right, or whose errors are the caller's own."""


class Attention(nn.Module):
    def forward(self, q: Any, k: Any, cos: Any, sin: Any) -> Any:
        return rotate(q, k, cos, sin)


def rotate(q: Any, k: Any, cos: Any, sin: Any) -> Any:
    half = q.shape[-1] // 2
    return tuple(x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin for x in (q, k))


def turned(x: Any, positions: Any) -> Any:
    return ROPE.rotate(x, positions=positions)


@functools.cache
def diagnosis() -> analysis.Diagnosis:
    return analysis.Diagnosis("yarn", 64, 1e4, (scaling.YaRN(4.0, 1024),), window=1024, length=4096)


def of_key(key: str, **more: Any) -> Callable[..., Any]:
    """rotary.config.read with one key of a config replaced; inside a block for "block/key"."""
    block, _, name = key.rpartition("/")

    def read(value: Any) -> Any:
        inner = {**more, name: value}
        return config.read({**LLAMA, block: inner} if block else {**LLAMA, **inner})

    return read


def cases(folder: Path) -> dict[str, Case]:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}
    layer, one = models.layers.apply_rotary_transformers(), models.layers.apply_rotary_transformers_one()
    q, k, v, weight = torch.ones(2, 4, 10, 8), torch.ones(2, 2, 10, 8), torch.ones(2, 2, 10, 8), torch.ones(8)
    cos, sin = RotaryEmbedding(8).cos_sin(10)
    freqs, scale = RotaryEmbedding(8, use_xpos=True)(10)
    flags = {"seq_dim": -2, "interleaved": False, "conjugate": False, "inplace": False}
    norm = {
        "q_weight": weight,
        "k_weight": weight,
        "eps": 1e-6,
        "weight_offset": 0.0,
        "rounding": "once",
        "after": False,
    }
    cached = {
        "k": k,
        "v": v,
        "cos": cos,
        "sin": sin,
        "cache_k": torch.ones(2, 16, 2, 8),
        "cache_v": torch.ones(2, 16, 2, 8),
    }
    cached |= {"slots": torch.arange(20).view(2, 10), "q": None}
    places = {"offset": 0, "positions": None, "cu_seqlens": None, "length": None}
    moves = {"old_positions": 0, "new_positions": 5, "new": None, "old_length": None, "new_length": None, "role": "key"}
    of_flags = {name: flags[name] for name in ("seq_dim", "interleaved", "inplace")}
    found: dict[str, Case] = {
        "RotaryEmbedding": (
            RotaryEmbedding,
            {"dim": 8, "use_xpos": False, "scale_base": 512, "interpolation_factor": 1.0, "base": 1e4, "base_rescale_factor": 1.0,
             "scaling": None, "interleaved": False, "angles": "exact", "axes": None, "device": None}, "",
        ),
        "from_inv_freq": (
            RotaryEmbedding.from_inv_freq,
            {"inv_freq": [1.0, 0.1], "attention_factor": 1.0, "interleaved": False, "angles": "exact", "axes": None, "device": None}, "",
        ),
        "axial": (
            lambda part, **rest: RotaryEmbedding.axial(part, 8, **rest),
            {"part": 8, "base": 1e4, "axes": None, "order": "blocks", "interleaved": False, "angles": "exact", "device": None}, "",
        ),
        "forward": (ROPE, {"seq_len": 10, "device": None}, ""),
        "cos_sin": (ROPE.cos_sin, {"positions": 10, "dtype": torch.float32, "role": None, "length": None}, ""),
        "rotate": (
            RotaryEmbedding(8).rotate,
            {"q": q, "k": None, **places, "role": None, "seq_dim": -2, "conjugate": False, "inplace": False}, "",
        ),
        "rotate_qkv": (
            RotaryEmbedding(8).rotate_qkv,
            {"qkv": torch.ones(2, 10, 3, 4, 8), "heads": None, "qkv_dim": -3, "seq_dim": None, **places, "conjugate": False,
             "inplace": False}, "",
        ),
        "rerotate of a module": (RotaryEmbedding(8).rerotate, {"k": k, **moves, "seq_dim": -2, "inplace": False}, ""),
        "rerotation": (RotaryEmbedding(8).rerotation, {**moves, "rows": 3, "dtype": torch.float32}, ""),
        "apply_rotary": (rotary.apply_rotary, {"x": q, "cos": cos, "sin": sin, **flags}, ""),
        "apply_rotary_qk": (
            rotary.apply_rotary_qk, {"q": q, "k": k, "cos": cos, "sin": sin, "key_cos": cos, "key_sin": sin, **flags}, "",
        ),
        "apply_rotary of operators": (rotary.operators.apply_rotary, {"x": q, "cos": cos, "sin": sin, **flags}, ""),
        "apply_rotary_pos_emb": (rotary.apply_rotary_pos_emb, {"t": q, "freqs": freqs, "scale": scale}, ""),
        "cos_sin_of": (
            rotary.cos_sin_of, {"positions": positions.grid(2, 2), "directions": [[1.0, 0.5]], "dtype": torch.float32}, "",
        ),
        "use_backend": (lambda name: rotary.use_backend(name).__enter__(), {"name": "eager"}, ""),
        "norm_rotate": (fused.norm_rotate, {"q": q, "k": k, "cos": cos, "sin": sin, **norm, **of_flags}, ""),
        "rotate_and_store": (fused.rotate_and_store, {**cached, **of_flags}, ""),
        "norm_rotate_and_store": (fused.norm_rotate_and_store, {**cached, "q": q, **norm, **of_flags}, ""),
        "from_config": (RotaryEmbedding.from_config, {"config": LLAMA, "part": None, "layer_type": None, "head_dim": None}, ""),
        "sections": (lambda planes: axes.sections(planes, 2), {"planes": 2}, ""),
        "strided": (axes.strided, {"sections": (3, 3, 2), "planes": None}, ""),
        "alternating": (axes.alternating, {"coordinates": 2, "planes": 8}, ""),
        "shown": (axes.shown, {"axes": (0, 1)}, ""),
        "half_to_interleaved": (
            pairing.half_to_interleaved, {"x": torch.ones(2, 64), "dim": None, "head_dim": None, "axis": -1}, "",
        ),
        "permutation": (pairing.permutation, {"dim": 8, "head_dim": 8, "to_interleaved": True}, ""),
        "sequence": (positions.sequence, {"n": 5, "offset": 0, "device": None}, ""),
        "packed": (positions.packed, {"cu_seqlens": torch.tensor([0, 3, 5]), "n": 5, "tokens": None, "offset": 0}, ""),
        "padded": (positions.padded, {"mask": torch.tensor([[0, 1, 1]])}, ""),
        "grid": (lambda size, **rest: positions.grid(size, 3, **rest), {"size": 2, "start": 0, "device": None}, ""),
        "merged": (positions.merged, {"rows": 2, "columns": 4, "merge": 2, "device": None}, ""),
        "centres": (lambda size, by: positions.centres(size, 4, by=by), {"size": 2, "by": "each"}, ""),
        "prefixed": (positions.prefixed, {"positions": positions.grid(2, 2), "n": 1}, "positions"),
        "grids": (positions.grids, {"sizes": [(1, 2)], "device": None}, ""),
        "a size of grids": (lambda size: positions.grids([size, (1, 2)]), {"size": (1, 2)}, ""),
        "multimodal": (lambda span, start: positions.multimodal(span, start=start), {"span": (1, 2, 2), "start": 0}, ""),
        "streaming": (positions.streaming, {"n_seen": 1000, "sinks": 4, "window": 256, "device": None}, "window"),
        "self_extend": (positions.self_extend, {"n": 6, "group": 2, "window": 4}, ""),
        "context_shift": (positions.context_shift, {"n": 8, "keep": 2, "discard": None}, ""),
        "kept": (positions.kept, {"positions": TEXT}, ""),
        "chunk": (positions.chunk, {"n": 3, "start": 100, "old": 0}, ""),
        "tree": (positions.tree, {"prefix": 10, "depth": TEXT}, ""),
        "of_rank": (positions.of_rank, {"n": 8, "rank": 0, "world": 2, "order": "striped", "block": 2, "device": None}, ""),
        "LogN": (temperature.LogN(64), {"positions": TEXT}, ""),
        "Llama4": (temperature.Llama4(0.1, 64), {"positions": TEXT}, ""),
        "path": (config.path, {"name": "llama-3.1-8b"}, ""),
        "overridden": (config.overridden, {"config": LLAMA, "hf_overrides": {}}, "config hf_overrides"),
        "Diagnosis": (
            lambda **given: analysis.Diagnosis(**{"name": "a", "dim": 64, "base": 1e4, "scaling": (), **given}).warnings,
            {"dim": 64, "base": 1e4, "scaling": (), "window": 1024, "length": 4096, "scale_base": None, "published": False}, "",
        ),
        "Coordinates": (
            analysis.Coordinates, {"name": "a", "axes": (0, 1), "inv_freq": (1.0, 0.1), "grid": (16, 32)}, "",
        ),
        "coordinates_text": (analysis.coordinates_text, {"arguments": config.read(LLAMA), "own": COORDINATES}, ""),
        "report_text": (
            analysis.report_text,
            {"arguments": config.read(LLAMA), "diagnoses": [diagnosis()], "all_planes": False, "several": None, "width": 110}, "",
        ),
        "draw": (analysis.draw, {"file": folder / "a.txt", "layers": [[diagnosis()]], "picture": "spectrum"}, "file"),
        "convert": (
            checkpoints.convert, {"source": folder, "target": folder / "x", "to": "half", "source_pairing": None, "like": None}, "",
        ),
        "by_weights": (checkpoints.by_weights, {"source": folder, "config": LLAMA, "like": None}, ""),
        "patch": (
            lambda model, **rest: models.patch(model, **rest).remove(),
            {"model": Attention(), "tables": None, "trust": "config", "fuse": None}, "",
        ),
        "unpatch": (models.unpatch, {"model": Attention()}, ""),
        "handle_of": (models.handle_of, {"model": Attention()}, "model"),
        "probe": (models.probe, {"function": rotate, "sizes": ((3, 8),)}, "function"),
        "check": (models.check, {"model": Attention(), "config": None}, "model config"),
        "rerotate": (lambda handle: models.rerotate(None, handle, 0, 1), {"handle": 0}, ""),
        "layer": (
            layer, {"q": torch.ones(1, 4, 5, 8), "k": None, "cos": torch.ones(1, 5, 8), "sin": torch.ones(1, 5, 8), "unsqueeze_dim": 1}, "",
        ),
        "layer of one": (one, {"x": torch.ones(1, 4, 5, 8), "cos": WIDE, "sin": WIDE, "unsqueeze_dim": 0}, ""),
        "from_full_width": (tables.from_full_width, {"cos": WIDE, "sin": WIDE, "doubled": "halves", "seq_dim": -2}, ""),
        "from_radians": (tables.from_radians, {"angles": WIDE, "doubled": "halves", "seq_dim": -2, "dtype": torch.float32}, ""),
        "from_complex": (tables.from_complex, {"freqs_cis": torch.complex(WIDE, WIDE), "seq_dim": -2}, ""),
        "from_joined": (tables.from_joined, {"cache": WIDE, "ids": None}, ""),
        "assert_rotation": (
            testing.assert_rotation, {"rotate": turned, "head_dim": 64, "dim": None, "furthest": 16, "tolerance": 1e-9}, "rotate",
        ),
        "assert_angles": (
            testing.assert_angles,
            {"cos": ROPE.cos_sin(10)[0], "sin": ROPE.cos_sin(10)[1], "positions": range(10), "inv_freq": ROPE.inv_freq}, "",
        ),
    }  # fmt: skip
    for key in ("model_type", "head_dim", "rope_theta", "rope_scaling", "partial_rotary_factor", "max_position_embeddings",
                "no_rope_layers", "layer_types", "per_layer_config", "rope_interleave", "rotary_dim"):  # fmt: skip
        found[key] = (of_key(key), {"value": None}, "")
    for key in ("rope_type", "type", "factor", "beta_fast", "attention_factor", "mscale", "truncate", "rope_theta", "attn_factor",
                "extrapolation_factor"):  # fmt: skip
        found[f"rope_scaling/{key}"] = (of_key(f"rope_scaling/{key}", **yarn), {"value": None}, "")
    return found


NAMES = list(cases(Path()))


@functools.cache
def _raises(file: str) -> list[tuple[int, int]]:
    nodes = ast.walk(ast.parse(Path(file).read_text(encoding="utf-8")))
    return [(node.lineno, node.end_lineno or 0) for node in nodes if isinstance(node, ast.Raise)]


def ours(where: TracebackType | None) -> bool:
    """Whether the error was raised by a raise statement of this library."""
    last = traceback.extract_tb(where)[-1]
    lines = _raises(last.filename) if PACKAGE in Path(last.filename).parents else []
    return any(first <= (last.lineno or 0) <= end for first, end in lines)


def complaint(function: Callable[..., Any], arguments: dict[str, Any]) -> str | None:
    """What is wrong with the error of a call, None for a good one and for a call that is taken."""
    try:
        function(**arguments)
    except Exception as error:
        text = str(error)
        if not isinstance(error, (TypeError, ValueError, AssertionError)) or not ours(error.__traceback__):
            return f"not ours: {type(error).__name__}: {text[:200]}"
        if "tensor(" in text or len(re.findall(r"0\.1234", text)) > 1 or "\n" in text:
            return f"not described: {text[:200]}"
    return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_a_wrong_argument_is_named_and_described_without_its_numbers(name: str, tmp_path: Path):
    function, arguments, free = cases(tmp_path)[name]
    complaints = {
        f"{name}({argument}={kind})": complaint(function, {**arguments, argument: wrong})
        for argument in arguments
        for kind, wrong in WRONG.items()
        if argument not in free.split()
    }
    assert {case: text for case, text in complaints.items() if text is not None} == {}


def test_the_test_of_arguments_can_fail():
    def refuses(value: Any) -> None:
        raise ValueError(f"got {value!r}")

    assert "not ours" in str(complaint(lambda value: value.missing, {"value": 1}))
    assert "not ours" in str(complaint(refuses, {"value": 1}))
    assert complaint(axes.sections, {"planes": 1}) is not None  # not a keyword: the call is Python's error
    assert complaint(lambda planes: axes.sections(planes), {"planes": 10**30}) is None
