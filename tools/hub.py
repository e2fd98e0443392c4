"""The folder that the kernels hub takes: `make hub` writes it to out/hub and loads it from there.

    build.toml                  what kernel-builder reads
    README.md                   the card
    torch-ext/rotary/           layers.py, and the files of this library that it needs, as they are
    build/torch-cpu, torch-cuda the same, with the metadata that a loader reads; nothing is compiled

Hub kernels import the standard library, torch and themselves alone, so a kernel cannot depend on the package `rotary`. The files are
found by their imports. On a GPU the rotation is Triton's kernel, which is compiled when it first runs; on the CPU it is the formula,
since the native library is built by pip.
"""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import sys
from pathlib import Path

import rotary

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "rotary"
REPOSITORY = "rotary-embeddings/rotary"
BACKENDS = ("cpu", "cuda")
VERSION = 1
"""Of the kernel on the hub, which counts in whole numbers."""

BUILD = f"""[general]
name = "rotary"
version = {VERSION}
edition = 5
license = "Apache-2.0"
backends = [{", ".join(f'"{name}"' for name in BACKENDS)}]

[general.hub]
repo-id = "{REPOSITORY}"

[torch-noarch]
pyext = ["py"]
"""

CARD = f"""---
license: apache-2.0
tags:
- kernels
- rotary
---

# rotary

Rotary position embeddings for models of transformers, forward and backward: from release {rotary.__version__} of
[rotary](https://github.com/rotary-embeddings/rotary). Arithmetic in float32, rounded once; half and interleaved pairing, partial
rotation, queries alone. On a GPU by Triton; on a CPU by plain torch.

```python
from kernels import LayerRepository, Mode, kernelize, use_kernel_mapping

layer = LayerRepository("{REPOSITORY}", layer_name="apply_rotary_transformers", version={VERSION}, trust_remote_code=True)
modes = {{Mode.INFERENCE: layer, Mode.TRAINING: layer}}
with use_kernel_mapping({{"rotary_pos_emb": {{"cuda": modes}}}}):
    model = kernelize(model, mode=Mode.TRAINING)
```

What the decorated function does is found out by calling it once with small tensors on the CPU. A function that is no known
rotation runs as it is, and a warning says so. Under torch.compile the function itself runs.
"""

INIT = (
    '"""Rotary position embeddings as layers of the kernels hub."""\n\nfrom . import layers\n\n__all__ = ["layers"]\n'
)
LAYERS = '''"""The layers, by the names under which the hub looks for them."""

from .transformers.layers import apply_rotary_transformers, apply_rotary_transformers_one

__all__ = ["apply_rotary_transformers", "apply_rotary_transformers_one"]
'''
ROOM = '"""The layers, and what they need."""\n'
OWN = {"__init__.py": INIT, "layers.py": LAYERS, "transformers/__init__.py": ROOM}
"""Files of the folder that are not those of the library."""


def needed(start: str = "transformers/layers.py") -> dict[str, str]:
    """path -> text of all files that a file of the library imports, and those that these import; with the folder's own."""
    files = dict(OWN)
    left = [start]
    while left:
        path = left.pop()
        if path in files:
            continue
        files[path] = (SOURCE / path).read_text()
        left += [other for other in _imported(path, files[path]) if (SOURCE / other).exists()]
    return dict(sorted(files.items()))


def _imported(path: str, text: str) -> list[str]:
    """Files that may be meant by the relative imports of a file, and the __init__ of each folder on the way."""
    files: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue
        folder = Path(path).parents[node.level - 1]
        module = folder.joinpath(*(node.module or "").split(".")) if node.module else folder
        for place in (module, *(module / alias.name for alias in node.names)):
            files += [str(place.with_suffix(".py")), str(place / "__init__.py")] if str(place) != "." else []
        files += [str(up / "__init__.py") for up in module.parents if str(up) != "."]
    return files


def write(folder: Path) -> Path:
    """Write the folder anew. ValueError where it exists and was not written by this script."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "build.toml").exists():
            raise ValueError(f"{folder} is not empty and holds no build.toml: name another folder, or empty it")
        shutil.rmtree(folder)
    files = needed()
    digest = hashlib.sha256("\0".join(f"{path}\0{text}" for path, text in files.items()).encode()).hexdigest()[:8]
    places = {name: folder / "build" / f"torch-{name}" for name in BACKENDS}
    for place in (folder / "torch-ext" / "rotary", *places.values()):
        for path, text in files.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)
    for name, place in places.items():
        metadata = {
            "id": f"_rotary_{name}_{digest}",
            "name": "rotary",
            "version": VERSION,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": name},
        }
        (place / "metadata.json").write_text(json.dumps(metadata, indent=2) + "\n")
    (folder / "build.toml").write_text(BUILD)
    (folder / "README.md").write_text(CARD)
    return folder


def check(folder: Path) -> str:
    """Load the folder as the hub's loader does, rotate once by its layer, and say what was found. RuntimeError where bits differ."""
    import torch
    from kernels import get_local_kernel

    from rotary.transformers.layers import apply_rotary_transformers

    kernel = get_local_kernel(folder, backend="cpu")
    cos, sin = rotary.RotaryEmbedding(16).cos_sin(9)
    arguments = (
        torch.randn(2, 4, 9, 32),
        torch.randn(2, 2, 9, 32),
        torch.cat((cos, cos), -1),
        torch.cat((sin, sin), -1),
        0,
    )
    theirs, ours = kernel.layers.apply_rotary_transformers()(*arguments), apply_rotary_transformers()(*arguments)
    if not all(map(torch.equal, theirs, ours)):
        raise RuntimeError(f"{folder} does not rotate as this library does")
    return f"{folder}: {len(needed())} files, loaded, same bits"


if __name__ == "__main__":
    print(check(write(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "out" / "hub")))
