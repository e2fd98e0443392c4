"""The folder for the kernels hub: written, complete, and loaded from disk as the hub's loader does."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest
import torch

from tools import hub

if sys.version_info >= (3, 11):
    import tomllib

kernels = pytest.importorskip("kernels")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hub.write(tmp_path_factory.mktemp("hub") / "rotary")


@pytest.mark.filterwarnings("ignore:rotary rotates CPU tensors with plain torch operations")
def test_the_folder_loads_and_has_the_bits_of_this_library(folder: Path):
    assert hub.check(folder).endswith("loaded, same bits")


@pytest.mark.filterwarnings("ignore:rotary rotates CPU tensors with plain torch operations")
def test_kernelize_takes_the_layer_from_the_folder(folder: Path):
    @kernels.use_kernel_forward_from_hub("rotary_pos_emb")
    def rotate(q, k, cos, sin, unsqueeze_dim=1):
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        half = q.shape[-1] // 2
        return tuple(x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin for x in (q, k))

    @kernels.use_kernelized_func(rotate)
    class Attention(torch.nn.Module):
        def forward(self, *arguments):
            return rotate(*arguments)

    cos, sin = (torch.rand(2, 5, 4).repeat(1, 1, 2) for _ in range(2))
    q, k = torch.randn(2, 4, 5, 8, requires_grad=True), torch.randn(2, 2, 5, 8)
    model = Attention()
    before = model(q, k, cos, sin)
    layer = kernels.LocalLayerRepository(folder, layer_name="apply_rotary_transformers")
    with kernels.use_kernel_mapping({"rotary_pos_emb": {"cpu": {kernels.Mode.TRAINING: layer}}}):
        kernels.kernelize(model, mode=kernels.Mode.TRAINING, device="cpu", use_fallback=False)
    assert "hub" in sys.modules[rotate.forward.__func__.__module__].__file__
    after = model(q, k, cos, sin)
    assert all(map(torch.equal, before, after))
    gradients = [torch.autograd.grad(ys[0].sum(), q)[0] for ys in (before, after)]
    assert torch.allclose(*gradients, rtol=0, atol=1e-6)


def test_every_file_imports_torch_the_standard_library_and_the_folder_alone(folder: Path):
    allowed = {*sys.stdlib_module_names, "torch", "triton"}  # the hub counts triton as part of torch
    for path in folder.glob("torch-ext/rotary/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.split(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert (node.module or "").split(".")[0] in allowed, path
            elif isinstance(node, ast.ImportFrom):
                root = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                assert root.is_dir() or root.with_suffix(".py").exists(), f"{path} imports {ast.unparse(node)}"


def test_the_built_variants_hold_what_the_source_holds(folder: Path):
    def texts(place: Path) -> dict[str, str]:
        return {str(p.relative_to(place)): p.read_text() for p in sorted(place.rglob("*.py"))}

    source = texts(folder / "torch-ext" / "rotary")
    assert source
    for backend in hub.BACKENDS:
        assert texts(folder / "build" / f"torch-{backend}") == source


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib is of Python 3.11")
def test_the_card_and_build_toml_name_the_same_repository(folder: Path):
    build = tomllib.loads((folder / "build.toml").read_text())
    assert build["general"]["backends"] == list(hub.BACKENDS)
    card = (folder / "README.md").read_text()
    assert f'"{build["general"]["hub"]["repo-id"]}"' in card
    assert f"version={build['general']['version']}" in card
    assert card.startswith("---\nlicense: apache-2.0\n")


def test_a_folder_of_someone_else_is_not_written_over(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(ValueError, match=r"holds no build\.toml: name another folder"):
        hub.write(tmp_path)
    assert (tmp_path / "thesis.txt").exists()
