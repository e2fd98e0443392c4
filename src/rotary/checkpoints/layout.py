"""Where in a checkpoint the channels that turn are, by its config. A tensor of an attention layer that nobody knows is an error:
half a converted checkpoint gives noise, and nobody would be told."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..config.families import FAMILIES as ROTATING
from ..config.parameters import layer_types
from ..config.read import Arguments, read
from ..config.source import load, text_part
from ..pairing import permutation
from .families import BERT, FAMILIES, META, NORMS, STILL, STILL_LAYERS, Rows, Table

Role = Literal["q", "k"]
# What a tensor does: map the hidden state, add to the result, multiply it (a norm's weight, DoRA's magnitude), add after that.
Kind = Literal["weight", "bias", "gain", "shift"]

_META_KEYS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
}
_ATTENTION = {"self_attn", "attn", "attention", "self_attention", "temporal_block"}
_TOWERS = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|mm_projector|img)\w*\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_TAIL = re.compile(
    r"(norms\.\d+\.)?(weight|bias)|lora_(?P<lora>[AB])(\.\w+)?\.weight|(?P<dora>lora_magnitude_vector)(\.\w+)*"
)


@dataclass(frozen=True)
class Turned:
    """One tensor whose rows turn.

    module: the attention layer that it belongs to, as named. layer: its number. kind: what the tensor does.
    where: role -> (heads, dim) int64, the rows that turn, head by head, in the order they come in, of the tensor flattened to one row
        per output channel.
    """

    name: str
    module: str
    layer: int
    kind: Kind
    where: Mapping[Role, Tensor]

    def order(self, rows: int, to: Literal["half", "interleaved"]) -> Tensor:
        """(rows,) int64: new row i is old row order[i], from the other pairing to this one; of a tensor with so many rows."""
        order = torch.arange(rows)
        for turning in self.where.values():
            dim = turning.shape[1]
            order[turning] = turning[:, permutation(dim, dim, to_interleaved=to == "interleaved")]
        return order


class Layout:
    """What a checkpoint's tensors are, by its config.

    config: as RotaryEmbedding.from_config takes it, or Meta's params.json as a dict. like: a family whose tensors are arranged the
        same way, for a model_type that no table is known of.

    ValueError where the family is unknown, or its rotation is none that a pairing describes.
    """

    def __init__(self, config: Any, *, like: str | None = None) -> None:
        whole = load(config)
        meta = "n_layers" in whole and "model_type" not in whole
        whole |= {new: whole[old] for old, new in _META_KEYS.items() if old in whole and new not in whole}
        if meta:
            whole |= {"model_type": "llama"}
        self.config = text_part(whole)
        self.framed = self.config is not whole
        self.family = like or str(self.config.get("model_type", ""))
        if self.family not in FAMILIES:
            raise ValueError(
                f"no table of tensors for model_type {self.family!r}; like= names a family that is arranged the same way, "
                f"one of {', '.join(sorted(FAMILIES))}"
            )
        self.table: Table = META if meta else FAMILIES[self.family]
        self.pairing: bool | None = True if meta else None
        self._read: dict[str | None, Arguments] = {}

    @property
    def interleaved(self) -> bool:
        """The pairing that the family's code rotates by; ValueError for one whose code is not known."""
        name = self.config.get("model_type")
        if self.pairing is None and name not in ROTATING and self.config.get("rope_interleave") is None:
            raise ValueError(
                f"how the code of models of type {name!r} pairs channels is not known: for a conversion given= (--from) says it, "
                f"elsewhere rope_interleave in the config"
            )
        return self.arguments(0).interleaved if self.pairing is None else self.pairing

    def arguments(self, layer: int) -> Arguments:
        """What the config says of that layer's rotation; ValueError where the layer does not rotate."""
        listed: list[str] = self.config.get("layer_types") or []
        kind = listed[layer] if layer_types(self.config) and layer < len(listed) else None
        if kind not in self._read:
            self._read[kind] = read(self.config, layer_type=kind)
        return self._read[kind]

    def turned(self, name: str, shape: tuple[int, ...]) -> Turned | None:
        """How that tensor turns, None where it does not; ValueError for one of an attention layer that is not known, or of another size."""
        if self.framed and _TOWERS.search(name):
            return None
        parts = name.split(".")
        if not STILL_LAYERS.isdisjoint(parts):
            return None
        inside = [i for i, part in enumerate(parts[:-1]) if part in _ATTENTION]
        if not inside:
            lost = [part for part in parts if part in self.table]
            if lost:
                raise ValueError(f"{name}: {lost[0]} outside an attention layer, of which no rule is known")
            return None
        end = inside[-1] + 1
        if self.table is BERT and parts[end:-1][:1] == ["self"]:  # attention.self.query beside attention.output.dense
            end += 1
        rest = parts[end:]
        if rest[0] in STILL:
            return None
        if rest[0] not in self.table:
            raise ValueError(
                f"{name}: no rule for {rest[0]!r} in models like {self.family!r}; known are {', '.join((*self.table, *sorted(STILL)))}"
            )
        tail, layer = _TAIL.fullmatch(".".join(rest[1:])), _LAYER.search(name)
        if tail is None or layer is None:
            raise ValueError(
                f"{name}: {'.'.join(rest[1:])!r} of {rest[0]!r} is not a weight, bias or LoRA pair of a numbered layer; "
                f"a quantised checkpoint must be dequantised first"
            )
        if tail["lora"] == "A":  # maps the hidden state to the rank: no channel of a head in it
            return None
        normed = rest[0] in NORMS
        kind: Kind = "gain" if normed or tail["dora"] else "weight"
        if rest[-1] == "bias":
            kind = "shift" if normed else "bias"
        where = self._where(rest[0], int(layer[1]), name, shape, kind)
        return Turned(name, ".".join(parts[:end]), int(layer[1]), kind, where)

    def _where(self, part: str, layer: int, name: str, shape: tuple[int, ...], kind: Kind) -> dict[Role, Tensor]:
        rows: Rows = self.table[part]
        found = self.arguments(layer)
        if len(shape) != {"weight": 2, "bias": 1}.get(kind, len(shape)) or not math.prod(shape):
            raise ValueError(f"{name} has shape {shape}, which no {kind} of {part} has; is the checkpoint whole?")
        size = shape[0] if kind in ("weight", "bias") else math.prod(shape)
        heads, kv = self._heads()
        nope = int(self.config.get("qk_nope_head_dim") or 0) if "kv_a_proj_with_mqa" in self.table else 0
        width = {
            "q": nope + found.head_dim,
            "k": found.head_dim,
            "gate": found.head_dim,
            "v": int(self.config.get("v_head_dim") or found.head_dim),
            "latent": int(self.config.get("kv_lora_rank") or 0),
        }
        times = {"heads": heads, "kv": kv}.get(rows.times) or int(rows.times)
        share = {"qs": heads // times, "ks": kv // times, "vs": kv // times}
        words = rows.parts.split()
        if part in NORMS and size % width[words[0]] == 0:
            times = size // width[words[0]]  # one weight for every head, or one for each
        whole = [word.rstrip("s") for word in words for _ in range(share.get(word, 1))]
        starts: dict[Role, list[int]] = {"q": [], "k": []}
        at = 0
        for _ in range(times):
            for piece in whole:
                if piece in ("q", "k"):
                    starts[piece].append(at + (nope if piece == "q" else 0))
                at += width[piece]
        if at != size:
            raise ValueError(
                f"{name} has {size} rows, and {at} are expected: {times} x ({rows.parts}) with heads of {found.head_dim} channels, "
                f"{heads} query and {kv} key heads; is the config this checkpoint's?"
            )
        return {role: torch.tensor(begin)[:, None] + torch.arange(found.dim) for role, begin in starts.items() if begin}

    def _heads(self) -> tuple[int, int]:
        heads = next((int(self.config[key]) for key in ("num_attention_heads", "n_head") if self.config.get(key)), 0)
        if not heads:
            raise ValueError("missing num_attention_heads in the config")
        if self.family == "falcon":  # writes num_kv_heads even where it does not heed it
            if not self.config.get("new_decoder_architecture"):
                return heads, 1 if self.config.get("multi_query", True) else heads
            return heads, int(self.config.get("num_kv_heads") or heads)
        return heads, int(self.config.get("num_key_value_heads") or heads)
