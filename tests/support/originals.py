"""cos and sin as other libraries compute them, at their own positions: diffusers, timm and rotary-embedding-torch, where installed.

Each original is a value: how its channels are shared among coordinates, its base, its positions, and its results.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Tables = tuple[Tensor, Tensor]


class Original(NamedTuple):
    """package: what must be installed. config: of diffusers, {} where there is none. inv_freq: the real-number formula, float64 (planes,).

    axes: the coordinate of each plane. at: positions (tokens, coordinates). theirs: the library's cos and sin (tokens, planes) at these.
    """

    package: str
    config: dict[str, Any]
    inv_freq: Tensor
    axes: list[int]
    at: Tensor
    theirs: Callable[[Tensor], Tables]


def powers(channels: tuple[int, ...], base: float) -> tuple[Tensor, list[int]]:
    """base^(-2j / n) for each axis of n channels, and the axis of each plane."""
    made = [base ** (-torch.arange(0, n, 2, dtype=torch.float64) / n) for n in channels]
    return torch.cat(made), [axis for axis, n in enumerate(channels) for _ in range(n // 2)]


def grid(*sizes: int) -> Tensor:
    return torch.stack(torch.meshgrid(*(torch.arange(n) for n in sizes), indexing="ij"), -1).flatten(0, -2)


def model(name: str) -> Any:
    return importlib.import_module(f"diffusers.models.transformers.{name}")


def evens(cos: Tensor, sin: Tensor) -> Tables:
    return cos[..., 0::2], sin[..., 0::2]


def first_half(cos: Tensor, sin: Tensor) -> Tables:
    return cos[..., : cos.shape[-1] // 2], sin[..., : sin.shape[-1] // 2]


def _of_ids(
    name: str, channels: tuple[int, ...], base: float, key: str, module: str, kind: str, *extra: str
) -> Original:
    """Classes whose embedding takes a tensor of ids: Flux and its like."""

    def theirs(at: Tensor) -> Tables:
        return evens(*getattr(model(module), kind)(theta=base, axes_dim=list(channels))(at.float()))

    inv_freq, axes = powers(channels, base)
    config = {
        "_class_name": name,
        key: list(channels),
        **dict.fromkeys(extra, base),
        "attention_head_dim": sum(channels),
    }
    at = grid(*(3, 24, 40) if len(channels) == 3 else (2, 3, 24, 20))
    return Original("diffusers", config, inv_freq, axes, at, theirs)


def _of_matrices(
    name: str, channels: tuple[int, ...], key: str, module: str, make: Callable[[Any], Any], at: Tensor, **more: Any
) -> Original:
    """Classes that give 2 x 2 matrices."""

    def theirs(at: Tensor) -> Tables:
        made = (
            make(model(module))(at[None].float())[0, 0]
            if name.startswith("PRX")
            else make(model(module))(at[None].float())[0, :, 0]
        )
        return made[..., 0, 0], made[..., 1, 0]

    inv_freq, axes = powers(channels, 10000.0)
    return Original("diffusers", {"_class_name": name, key: list(channels)}, inv_freq, axes, at, theirs)


def _of_tables(name: str, module: str, channels: tuple[int, ...], base: float, key: str) -> Original:
    """Z-Image: complex tables that are indexed."""

    def theirs(at: Tensor) -> Tables:
        result = model(module).RopeEmbedder(base, list(channels), [1536, 512, 512])(at)
        return result.real, result.imag

    inv_freq, axes = powers(channels, base)
    at = torch.cat((grid(100, 1, 1), grid(1, 64, 64) + torch.tensor([100, 0, 0])))
    return Original(
        "diffusers", {"_class_name": name, key: list(channels), "rope_theta": base}, inv_freq, axes, at, theirs
    )


def _lumina() -> Original:
    def theirs(at: Tensor) -> Tables:
        result = model("transformer_lumina2").Lumina2RotaryPosEmbed(10000, [32, 32, 32])._get_freqs_cis(at[None])[0]
        return result.real, result.imag

    inv_freq, axes = powers((32, 32, 32), 10000.0)
    at = torch.cat((grid(100, 1, 1), grid(1, 64, 64) + torch.tensor([100, 0, 0])))
    return Original("diffusers", {"_class_name": "Lumina2Transformer2DModel"}, inv_freq, axes, at, theirs)


def _of_latents(
    name: str,
    channels: tuple[int, ...],
    base: float,
    make: Callable[[], Any],
    config: dict[str, Any],
    *,
    half: bool = False,
    complexes: bool = False,
) -> Original:
    """Classes that count the latents themselves, frames x rows x columns or rows x columns."""
    sizes = (9, 30, 52) if len(channels) == 3 else (48, 64)

    def theirs(at: Tensor) -> Tables:
        made = make()(torch.zeros(1, 1, *sizes))
        cos, sin = (table.reshape(-1, table.shape[-1]) for table in made)
        return first_half(cos, sin) if half else evens(cos, sin)

    inv_freq, axes = powers(channels, base)
    return Original("diffusers", {"_class_name": name, **config}, inv_freq, axes, grid(*sizes), theirs)


def _anyflow() -> Original:
    def theirs(at: Tensor) -> Tables:
        rope = model("transformer_anyflow").AnyFlowRotaryPosEmbed(128, (1, 2, 2), 1024)
        made = rope({"total_frames": 9, "full_frame_shape": (30, 52)}, torch.device("cpu"))["query"][0, 0]
        return made.real, made.imag

    inv_freq, axes = powers((44, 42, 42), 10000.0)
    return Original("diffusers", {"_class_name": "AnyFlowTransformer3DModel"}, inv_freq, axes, grid(9, 30, 52), theirs)


def _cogvideo() -> Original:
    def theirs(at: Tensor) -> Tables:
        make = importlib.import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed
        return evens(*make(64, None, (30, 45), 13, grid_type="slice", max_size=(30, 45)))

    inv_freq, axes = powers((16, 24, 24), 10000.0)
    config = {"_class_name": "CogVideoXTransformer3DModel", "use_rotary_positional_embeddings": True}
    return Original("diffusers", config, inv_freq, axes, grid(13, 30, 45), theirs)


def _allegro() -> Original:
    scales = torch.tensor([2.2, 2.0, 2.0], dtype=torch.float64)

    def theirs(at: Tensor) -> Tables:
        make = importlib.import_module("diffusers.models.embeddings").get_3d_rotary_pos_embed_allegro
        made = make(96, ((0, 0), (45, 80)), (45, 80), 22, tuple(scales.tolist()))[:3]
        places = grid(22, 45, 80)
        cos, sin = (torch.cat([axis[i][places[:, c], :16] for c, axis in enumerate(made)], -1) for i in range(2))
        return cos, sin

    inv_freq, axes = powers((32, 32, 32), 10000.0)
    return Original(
        "diffusers", {"_class_name": "AllegroTransformer3DModel"}, inv_freq, axes, grid(22, 45, 80) / scales, theirs
    )


def _cosmos() -> Original:
    def theirs(at: Tensor) -> Tables:
        rope = model("transformer_cosmos").CosmosRotaryPosEmbed(128)
        cos, sin = rope(torch.zeros(1, 1, 9, 60, 104))
        return first_half(cos, sin)

    inv_freq, axes = powers((44, 42, 42), 10000.0)
    inv_freq[:22] = (10000.0 * 2 ** (44 / 42)) ** (-torch.arange(0, 44, 2, dtype=torch.float64) / 44)
    return Original("diffusers", {"_class_name": "CosmosTransformer3DModel"}, inv_freq, axes, grid(9, 30, 52), theirs)


def _cogview4() -> Original:
    def theirs(at: Tensor) -> Tables:
        return first_half(
            *model("transformer_cogview4").CogView4RotaryPosEmbed(128, 2, (256, 256))(torch.zeros(1, 1, 96, 128))
        )

    inv_freq, axes = powers((64, 64), 10000.0)
    config = {"_class_name": "CogView4Transformer2DModel", "attention_head_dim": 128, "rope_axes_dim": [256, 256]}
    return Original("diffusers", config, inv_freq, axes, grid(48, 64) * 256 // torch.tensor([48, 64]), theirs)


def _minimax() -> Original:
    def theirs(at: Tensor) -> Tables:
        return first_half(*model("transformer_minimax_h3").MiniMaxH3RotaryPosEmbed()(at))

    inv_freq, axes = powers((32, 32, 32), 10000.0)
    return Original(
        "diffusers", {"_class_name": "MiniMaxH3Transformer3DModel"}, inv_freq, axes, grid(9, 30, 32), theirs
    )


def _qwen(name: str, module: str, kind: str, method: str) -> Original:
    def theirs(at: Tensor) -> Tables:
        rope = getattr(model(module), kind)
        make = getattr(rope(10000, [16, 56, 56]) if method == "rope_params" else rope, method)
        result = torch.cat([make(at[:, i], n) for i, n in enumerate((16, 56, 56))], -1)
        return result.real, result.imag

    inv_freq, axes = powers((16, 56, 56), 10000.0)
    at = torch.cat((grid(2, 64, 64) - torch.tensor([0, 32, 32]), torch.arange(32, 132)[:, None].expand(-1, 3)))
    return Original("diffusers", {"_class_name": name}, inv_freq, axes, at, theirs)


def _kandinsky() -> Original:
    def theirs(at: Tensor) -> Tables:
        counts = [torch.arange(n) for n in (9, 32, 48)]
        made = model("transformer_kandinsky").Kandinsky5RoPE3D((16, 24, 24))((1, 9, 32, 48), counts, (1.0, 2.0, 2.0))
        flat = made.reshape(-1, 32, 2, 2)
        return flat[..., 0, 0], flat[..., 1, 0]

    inv_freq, axes = powers((16, 24, 24), 10000.0)
    at = grid(9, 32, 48) / torch.tensor([1.0, 2.0, 2.0], dtype=torch.float64)
    return Original("diffusers", {"_class_name": "Kandinsky5Transformer3DModel"}, inv_freq, axes, at, theirs)


def _dealt(name: str, head_dim: int, config: dict[str, Any]) -> Original:
    """Ideogram 4 and Cosmos 3: coordinates in turn."""

    def theirs(at: Tensor) -> Tables:
        if name.startswith("Ideogram"):
            return first_half(
                *(t[0] for t in model("transformer_ideogram4").Ideogram4MRoPE(256, 5000000, (24, 20, 20))(at[None]))
            )
        rope = model("transformer_cosmos3").Cosmos3VLTextRotaryEmbedding(128, 5000000.0, (24, 20, 20))
        return first_half(*(t[0] for t in rope(at.T[:, None], torch.device("cpu"), torch.float32)))

    inv_freq, _ = powers((head_dim,), 5e6)
    axes = [j % 3 if j < 60 and j % 3 else 0 for j in range(head_dim // 2)]
    at = torch.cat((torch.arange(50)[:, None].expand(-1, 3), grid(1, 32, 32) + 65536))
    return Original("diffusers", {"_class_name": name, **config}, inv_freq, axes, at, theirs)


def _fractions(planes: int, coordinates: int = 3) -> tuple[Tensor, list[int]]:
    n = planes // coordinates
    still = planes - coordinates * n
    made = math.pi / 2 * 10000.0 ** torch.linspace(0, 1, n, dtype=torch.float64)
    inv_freq = torch.cat((torch.zeros(still, dtype=torch.float64), made.repeat_interleave(coordinates)))
    return inv_freq, [0] * still + list(range(coordinates)) * n


_BASES = torch.tensor([20, 2048, 2048], dtype=torch.float64)
_PLACES = (
    torch.arange(600, dtype=torch.float64)[:, None] * torch.tensor([0.03125, 1.5, 3.25], dtype=torch.float64)
) % 19


def _ltx() -> Original:
    def theirs(at: Tensor) -> Tables:
        rope = model("transformer_ltx").LTXVideoRotaryPosEmbed(2048)
        result = rope(torch.zeros(1, 600, 8), video_coords=_PLACES.T[None].float())
        return evens(*(t[0] for t in result))

    inv_freq, axes = _fractions(1024)
    return Original(
        "diffusers", {"_class_name": "LTXVideoTransformer3DModel"}, inv_freq, axes, 2 * _PLACES / _BASES - 1, theirs
    )


def _ltx2(kind: str) -> Original:
    def theirs(at: Tensor) -> Tables:
        made = model("transformer_ltx2").LTX2AudioVideoRotaryPosEmbed(4096, rope_type=kind, num_attention_heads=32)
        cos, sin = (t[0] for t in made(_PLACES.T[None].float()))
        if kind == "split":
            return cos.transpose(0, 1).flatten(1), sin.transpose(0, 1).flatten(1)
        return evens(cos, sin)

    inv_freq, axes = _fractions(2048)
    config = {"_class_name": "LTX2VideoTransformer3DModel", "rope_type": kind}
    return Original("diffusers", config, inv_freq, axes, 2 * _PLACES / _BASES - 1, theirs)


def _timm(kind: str) -> Original:
    """timm's own classes; DINOv3's by centres, EVA-02's by a reference grid, pixels by frequencies of the image."""

    def theirs(at: Tensor) -> Tables:
        pes = importlib.import_module("timm.layers.pos_embed_sincos")
        if kind == "DINOv3":
            sin, cos = pes.RotaryEmbeddingDinoV3(64, feat_shape=[30, 45]).get_embed().chunk(2, -1)
            return first_half(cos, sin)
        if kind == "EVA-02":
            sin, cos = (
                pes.RotaryEmbeddingCat(64, in_pixels=False, feat_shape=[32, 32], ref_feat_shape=[16, 16])
                .get_embed()
                .chunk(2, -1)
            )
        elif kind == "pixels":
            sin, cos = (
                pes.RotaryEmbeddingCat(64, in_pixels=True, max_res=224, feat_shape=[14, 14]).get_embed().chunk(2, -1)
            )
        return evens(cos, sin)

    if kind == "DINOv3":
        one = 2 * math.pi * 100.0 ** -(torch.arange(16, dtype=torch.float64) / 16)
        at = (2 * grid(30, 45).double() + 1) / torch.tensor([30.0, 45.0], dtype=torch.float64) - 1
    elif kind == "EVA-02":
        one, at = powers((32,), 10000.0)[0], grid(32, 32).double() * 16 / 32
    else:
        one = math.pi * 2.0 ** torch.linspace(0, math.log2(224) - 1, 16, dtype=torch.float64)
        at = 2 * grid(14, 14).double() / 13 - 1
    return Original("timm", {}, torch.cat((one, one)), [0] * 16 + [1] * 16, at, theirs)


def _lucidrains(kind: str) -> Original:
    """rotary-embedding-torch 0.9: text, and axial frequencies of an image."""

    def theirs(at: Tensor) -> Tables:
        package = importlib.import_module("rotary_embedding_torch")
        if kind == "pixel":
            radians = package.RotaryEmbedding(dim=32, freqs_for="pixel", max_freq=256).get_axial_freqs(16, 24).detach()
        else:
            radians = package.RotaryEmbedding(dim=64)(torch.arange(4096)).detach()
        return evens(*(f(radians.reshape(-1, radians.shape[-1])) for f in (torch.cos, torch.sin)))

    if kind == "pixel":
        one = math.pi * torch.linspace(1, 128, 16, dtype=torch.float64)
        at = torch.stack(
            torch.meshgrid(*(torch.linspace(-1, 1, n, dtype=torch.float64) for n in (16, 24)), indexing="ij"), -1
        ).flatten(0, 1)
        return Original("rotary_embedding_torch", {}, torch.cat((one, one)), [0] * 16 + [1] * 16, at, theirs)
    inv_freq, axes = powers((64,), 10000.0)
    return Original("rotary_embedding_torch", {}, inv_freq, axes, torch.arange(4096)[:, None], theirs)


def originals() -> dict[str, Original]:
    """All of them, by name."""
    wan = {"attention_head_dim": 128}
    hunyuan = (16, 56, 56)

    def latents(module: str, kind: str, *args: Any) -> Callable[[], Any]:
        return lambda: getattr(model(module), kind)(*args)

    return {
        "Flux": _of_ids("FluxTransformer2DModel", (16, 56, 56), 10000, "axes_dims_rope", "transformer_flux", "FluxPosEmbed"),
        "LongCat Image": _of_ids(
            "LongCatImageTransformer2DModel", (16, 56, 56), 10000, "axes_dims_rope", "transformer_longcat_image", "LongCatImagePosEmbed"
        ),
        "Ovis Image": _of_ids(
            "OvisImageTransformer2DModel", (16, 56, 56), 10000, "axes_dims_rope", "transformer_ovis_image", "OvisImagePosEmbed"
        ),
        "Bria": _of_ids("BriaTransformer2DModel", (16, 56, 56), 10000, "axes_dims_rope", "transformer_bria", "BriaPosEmbed", "rope_theta"),
        "Flux 2": _of_ids(
            "Flux2Transformer2DModel", (32, 32, 32, 32), 2000, "axes_dims_rope", "transformer_flux2", "Flux2PosEmbed", "rope_theta"
        ),
        "Flux 3": _of_ids(
            "Flux3Transformer2DModel", (32, 32, 32, 32), 10000, "axes_dims_rope", "transformer_flux3", "Flux3PosEmbed", "rope_theta"
        ),
        "Krea 2": _of_ids(
            "Krea2Transformer2DModel", (32, 48, 48), 1000, "axes_dims_rope", "transformer_krea2", "Krea2RotaryPosEmbed", "rope_theta"
        ),
        "HiDream": _of_matrices(
            "HiDreamImageTransformer2DModel", (64, 32, 32), "axes_dims_rope", "transformer_hidream_image",
            lambda m: m.HiDreamImageEmbedND(10000, [64, 32, 32]), grid(1, 64, 64),
        ),
        "PRX": _of_matrices(
            "PRXTransformer2DModel", (32, 32), "axes_dim", "transformer_prx", lambda m: m.PRXEmbedND(64, 10000, [32, 32]), grid(32, 32)
        ),
        "Lumina 2": _lumina(),
        "Z-Image": _of_tables("ZImageTransformer2DModel", "transformer_z_image", (32, 48, 48), 256.0, "axes_dims"),
        "Bria Fibo 2": _of_tables("BriaFibo2Transformer2DModel", "transformer_bria_fibo2", (32, 48, 48), 256.0, "axes_dims"),
        "HunyuanVideo": _of_latents(
            "HunyuanVideoTransformer3DModel", hunyuan, 256.0,
            latents("transformer_hunyuan_video", "HunyuanVideoRotaryPosEmbed", 1, 1, hunyuan), {},
        ),
        "HunyuanVideo 1.5": _of_latents(
            "HunyuanVideo15Transformer3DModel", hunyuan, 256.0,
            latents("transformer_hunyuan_video15", "HunyuanVideo15RotaryPosEmbed", 1, 1, hunyuan, 256.0), {},
        ),
        "HunyuanImage": _of_latents(
            "HunyuanImageTransformer2DModel", (64, 64), 256.0,
            latents("transformer_hunyuanimage", "HunyuanImageRotaryPosEmbed", (1, 1), (64, 64)), {},
        ),
        "Motif": _of_latents(
            "MotifVideoTransformer3DModel", hunyuan, 256.0,
            latents("transformer_motif_video", "MotifVideoRotaryPosEmbed", 1, 1, list(hunyuan)), {},
        ),
        "Wan": _of_latents(
            "WanTransformer3DModel", (44, 42, 42), 10000.0, latents("transformer_wan", "WanRotaryPosEmbed", 128, (1, 1, 1), 1024), wan
        ),
        "SkyReels": _of_latents(
            "SkyReelsV2Transformer3DModel", (44, 42, 42), 10000.0,
            latents("transformer_skyreels_v2", "SkyReelsV2RotaryPosEmbed", 128, (1, 1, 1), 1024), wan,
        ),
        "Sana Video": _of_latents(
            "SanaVideoTransformer3DModel", (40, 36, 36), 10000.0,
            latents("transformer_sana_video", "WanRotaryPosEmbed", 112, (1, 1, 1), 1024), {},
        ),
        "AnyFlow": _anyflow(),
        "CogVideoX": _cogvideo(),
        "Allegro": _allegro(),
        "Cosmos": _cosmos(),
        "CogView 4": _cogview4(),
        "GLM-Image": _of_latents(
            "GlmImageTransformer2DModel", (64, 64), 10000.0, latents("transformer_glm_image", "GlmImageRotaryPosEmbed", 128, 1),
            {"attention_head_dim": 128}, half=True,
        ),
        "MiniMax-H3": _minimax(),
        "Qwen-Image": _qwen("QwenImageTransformer2DModel", "transformer_qwenimage", "QwenEmbedRope", "rope_params"),
        "Kandinsky 5": _kandinsky(),
        "Ideogram 4": _dealt("Ideogram4Transformer2DModel", 256, {"attention_head_dim": 256}),
        "Cosmos 3": _dealt("Cosmos3OmniTransformer", 128, {}),
        "LTX": _ltx(),
        "LTX-2": _ltx2("interleaved"),
        "LTX-2, split": _ltx2("split"),
        "timm DINOv3": _timm("DINOv3"),
        "timm EVA-02": _timm("EVA-02"),
        "timm pixels": _timm("pixels"),
        "rotary-embedding-torch pixels": _lucidrains("pixel"),
        "rotary-embedding-torch text": _lucidrains("text"),
    }  # fmt: skip


def error(found: Tables, original: Original) -> float:
    """Largest |cos, sin - float64| of tables, against the real-number formula at these positions."""
    angles = original.at.double()[:, original.axes] * original.inv_freq
    return max(
        float((t.double() - truth).abs().max()) for t, truth in zip(found, (angles.cos(), angles.sin()), strict=True)
    )
