"""Layout: which rows of each tensor of a checkpoint rotate, from its config.

An unknown tensor in an attention layer is an error, because a partly converted checkpoint fails silently: it gives noise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .._checks import WIDEST, describe, index, text
from .._types import Role
from ..config.dialects import TRANSFORMERS, recognise
from ..config.dialects.params_json import META as META_PARAMS
from ..config.dialects.params_json import MISTRAL as MISTRAL_PARAMS
from ..config.families import FAMILIES
from ..config.load import Config, load
from ..config.normalize import layer_types
from ..config.parts import text_part
from ..config.read import Arguments, read
from ..config.spelling import spelled
from ..config.values import layer_types_of
from ..pairing import permutation
from .projections import BERT, META, NORMS, PROJECTIONS, UNROTATED, UNROTATED_LAYERS, Content, Projections, Repeat

Effect = Literal["weight", "bias", "gain", "shift"]
"""What a tensor does. "weight" maps the hidden state, "bias" is added to that; "gain" multiplies the result (a norm, DoRA), "shift" is
added after it."""

_COUNTS = ("num_attention_heads", "n_head", "n_heads", "head_dim", "qk_rope_head_dim", "rotary_dim")
_ATTENTION = {"self_attn", "attn", "attention", "self_attention", "temporal_block"}
_TOWERS = re.compile(r"(^|\.)(vision|visual|audio|image|multi_modal|mm_projector|img)\w*\.")
_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks)\.(\d+)\.")
_SUFFIX = re.compile(
    r"(norms\.\d+\.)?(weight|bias)|lora_(?P<lora>[AB])(\.\w+)?\.weight|(?P<dora>lora_magnitude_vector)(\.\w+)*"
)


@dataclass(frozen=True)
class RotatedTensor:
    """A tensor with rotated rows.

    module: name of the attention layer that it belongs to. layer: number of that layer. effect: see Effect.
    rows: role -> (heads, dim) int64, the rotated rows, head by head, in the order of the current pairing.
    """

    name: str
    module: str
    layer: int
    effect: Effect
    rows: Mapping[Role, Tensor]

    @property
    def flat(self) -> bool:
        """Whether rows count the elements of the flattened tensor: a gain or shift has one number per channel, in any shape."""
        return self.effect in ("gain", "shift")

    def order(self, size: int, to: Literal["half", "interleaved"]) -> Tensor:
        """(size,) int64 for a tensor of that many rows: row i of the tensor in pairing `to` is row order[i] of the current one."""
        order = torch.arange(size)
        for rows in self.rows.values():
            dim = rows.shape[1]
            order[rows] = rows[:, permutation(dim, dim, to_interleaved=to == "interleaved")]
        return order


class Layout:
    """The meaning of a checkpoint's tensors.

    config: as RotaryEmbedding.from_config takes it; with Meta's or Mistral's params.json the tensors have Meta's names.
    like: a family whose tensors are arranged in the same way, for an unknown model_type.

    ValueError for an unknown family, or one whose rotation is not a matter of pairing.
    """

    def __init__(self, config: Any, *, like: str | None = None) -> None:
        self._source = load(config)
        translated = spelled(self._source)
        self._meta = translated.dialect in (META_PARAMS.name, MISTRAL_PARAMS.name)
        self._interleaved = translated.interleaved
        self.config: Config = translated.config
        in_own_words = recognise(self._source) is TRANSFORMERS
        self.composite: bool = in_own_words and text_part(self._source) is not self._source
        if like is not None:
            text("like", like, "llama")
        self.family: str = like or ("llama" if self._meta else str(self.config.get("model_type", "")))
        if self.family not in PROJECTIONS:
            raise ValueError(
                f"no table of tensors for model_type {self.family!r}; pass like= with a family whose tensors are arranged in the same "
                f"way, one of {', '.join(sorted(PROJECTIONS))}"
            )
        self.projections: Projections = META if self._meta else PROJECTIONS[self.family]
        self._arguments: dict[str | None, Arguments] = {}

    @property
    def interleaved(self) -> bool:
        """Whether the family's code rotates interleaved pairs; ValueError for a family whose code is unknown."""
        if self._interleaved is not None:
            return self._interleaved
        name = self.config.get("model_type")
        if name not in FAMILIES and self.config.get("rope_interleave") is None:
            raise ValueError(
                f"the pairing of the code of model_type {name!r} is unknown; pass source_pairing= (--from) to a conversion, or write "
                f"rope_interleave into the config"
            )
        return self.arguments(0).interleaved

    def arguments(self, layer: int) -> Arguments:
        """The rotation of that layer; ValueError if it does not rotate."""
        types = layer_types_of(self.config)
        layer_type = types[layer] if layer_types(self.config) and layer < len(types) else None
        if layer_type not in self._arguments:
            for key in _COUNTS:
                self._count(key)
            try:
                self._arguments[layer_type] = read(self._source, layer_type=layer_type)
            except OverflowError as error:
                raise ValueError(f"a number in the config is too large: {error}") from None
        return self._arguments[layer_type]

    def rotated(self, name: str, shape: tuple[int, ...]) -> RotatedTensor | None:
        """The tensor with its rotated rows, None if it has none.

        ValueError for an unknown tensor of an attention layer, and for a shape that does not fit the config.
        """
        if self.composite and _TOWERS.search(name):
            return None
        words = name.split(".")
        if not UNROTATED_LAYERS.isdisjoint(words):
            return None
        start = self._after_attention(name, words)
        if start is None or words[start] in UNROTATED:
            return None
        part, suffix = words[start], ".".join(words[start + 1 :])
        if part not in self.projections:
            raise ValueError(
                f"{name}: no rule for {part!r} in models like {self.family!r}; known: "
                f"{', '.join((*self.projections, *sorted(UNROTATED)))}"
            )
        ending, layer_name = _SUFFIX.fullmatch(suffix), _LAYER.search(name)
        if ending is None or layer_name is None:
            raise ValueError(
                f"{name}: {suffix!r} of {part!r} is not a weight, bias or LoRA pair of a numbered layer; "
                f"a quantised checkpoint must be dequantised first"
            )
        if ending["lora"] == "A":  # its rows are the rank of the adapter, not channels of a head
            return None
        effect: Effect = "gain" if part in NORMS or ending["dora"] else "weight"
        if words[-1] == "bias":
            effect = "shift" if part in NORMS else "bias"
        layer = int(layer_name[1][:6])
        if len(layer_name[1]) > 5:
            raise ValueError(f"{describe(name)}: layers are numbered up to 99,999")
        rows = self._rotated_rows(part, layer, name, shape, effect)
        return RotatedTensor(name, ".".join(words[:start]), layer, effect, rows)

    def _after_attention(self, name: str, words: list[str]) -> int | None:
        """Index of the word after the attention layer in a tensor's name, None if it is in no attention layer."""
        attention = [i for i, word in enumerate(words[:-1]) if word in _ATTENTION]
        if not attention:
            outside = [word for word in words if word in self.projections]
            if outside:
                raise ValueError(f"{name}: {outside[0]} outside an attention layer, for which no rule exists")
            return None
        start = attention[-1] + 1
        # BERT nests once more: attention.self.query, but attention.output.dense
        return start + 1 if self.projections is BERT and words[start:-1][:1] == ["self"] else start

    def _rotated_rows(
        self, part: str, layer: int, name: str, shape: tuple[int, ...], effect: Effect
    ) -> dict[Role, Tensor]:
        rope = self.arguments(layer)
        if len(shape) != {"weight": 2, "bias": 1}.get(effect, len(shape)) or not math.prod(shape):
            raise ValueError(f"{name} has shape {shape}, which no {effect} of {part} has; is the checkpoint complete?")
        size = shape[0] if effect in ("weight", "bias") else math.prod(shape)
        if rope.head_dim > WIDEST:
            raise ValueError(f"head_dim must be at most {WIDEST:,} channels, got {describe(rope.head_dim)}")
        widths = self._widths(rope)
        repeat, contents = self._contents(part, size, widths)
        starts: dict[Role, list[int]] = {"query": [], "key": []}
        row = 0
        for content in contents * repeat:
            if content == "query":
                starts["query"].append(row + self._nope_width())
            elif content == "key":
                starts["key"].append(row)
            row += widths[content]
        if row != size:
            heads, kv_heads = self._head_counts()
            parts = ", ".join(map(str, self.projections[part].parts))
            raise ValueError(
                f"{name} has {size} rows, but {row} are expected: {repeat} x ({parts}) with heads of {rope.head_dim} channels, "
                f"{heads} query heads and {kv_heads} key heads; does the config belong to this checkpoint?"
            )
        return {role: torch.tensor(first)[:, None] + torch.arange(rope.dim) for role, first in starts.items() if first}

    def _contents(self, part: str, size: int, widths: dict[Content, int]) -> tuple[int, list[Content]]:
        """(number of repetitions, contents of one repetition, head by head) of the rows of that projection."""
        rows = self.projections[part]
        heads, kv_heads = self._head_counts()
        times = {Repeat.ONCE: 1, Repeat.FOUR_TIMES: 4, Repeat.PER_HEAD: heads, Repeat.PER_KV_HEAD: kv_heads}
        repeat = times[rows.repeat]
        counts: dict[Content, int] = {"query": heads // repeat, "key": kv_heads // repeat, "value": kv_heads // repeat}
        contents: list[Content] = [
            p.content for p in rows.parts for _ in range(counts[p.content] if p.all_heads else 1)
        ]
        if part in NORMS and size % widths[rows.parts[0].content] == 0:
            repeat = size // widths[rows.parts[0].content]  # one weight shared by all heads, or one for each head
        return repeat, contents

    def _widths(self, rope: Arguments) -> dict[Content, int]:
        """Rows of one head of each content."""
        return {
            "query": self._nope_width() + rope.head_dim,
            "key": rope.head_dim,
            "gate": rope.head_dim,
            "value": self._count("v_head_dim") or rope.head_dim,
            "latent": self._count("kv_lora_rank"),
        }

    def _nope_width(self) -> int:
        """Channels of a query head before its rotated slice (MLA's qk_nope_head_dim), 0 in other models."""
        return self._count("qk_nope_head_dim") if "kv_a_proj_with_mqa" in self.projections else 0

    def _head_counts(self) -> tuple[int, int]:
        """(query heads, key heads)"""
        heads = self._count("num_attention_heads") or self._count("n_head") or self._count("n_heads")
        if not heads:
            raise ValueError("missing num_attention_heads in the config")
        if self.family == "falcon":  # its configs have num_kv_heads even where its code ignores it
            if not self.config.get("new_decoder_architecture"):
                return heads, 1 if self.config.get("multi_query", True) else heads
            return heads, self._count("num_kv_heads") or heads
        return heads, self._count("num_key_value_heads") or heads

    def _count(self, key: str) -> int:
        """A number of heads or channels in the config, 0 if it is missing. It has a limit, because it becomes the length of a loop."""
        count = index(key, self.config.get(key) or 0)
        if not 0 <= count <= WIDEST:
            raise ValueError(f"{key} must be from 0 to {WIDEST:,}, got {describe(count)}; is the config damaged?")
        return count
