"""The documented page: its examples rewritten, and, if the page is next to the checkout, the page itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "shared" / "spec" / "RotaryEmbedding.txt"
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@pytest.mark.parametrize("arguments", [{"use_xpos": True}, {"use_xpos": True, "scale_base": 1024}, {"use_xpos": False}])
def test_the_calls_of_the_page(arguments: dict):
    from zeta.nn import RotaryEmbedding

    module = RotaryEmbedding(dim=64, **arguments)
    assert isinstance(module, torch.nn.Module)
    freqs, scale = module(10, torch.device(DEVICE))
    assert freqs.shape == (10, 64) and freqs.device.type == DEVICE
    assert torch.equal(freqs[:, :32], freqs[:, 32:])
    assert torch.equal(freqs[:, 0], torch.arange(10.0, device=DEVICE))
    if arguments["use_xpos"]:
        assert scale.shape == (10, 64) and (scale[5] == 1).all()
        assert torch.all(scale[6:] < 1) and torch.all(scale[:5] > 1)
    else:
        assert scale.ndim == 0 and scale == 1
    assert (freqs * scale).shape == (10, 64)


def test_one_class_under_both_names():
    import rotary
    import zeta.nn

    assert zeta.nn.RotaryEmbedding is rotary.RotaryEmbedding


@pytest.mark.skipif(not PAGE.exists(), reason="the page does not lie beside this checkout")
def test_the_examples_of_the_page_run_as_printed(capsys: pytest.CaptureFixture[str]):
    parts = re.split(r"Example \d+:[^\n]*\n", PAGE.read_text())[1:]
    assert len(parts) == 3
    for part in parts:
        code = part[part.index("import torch") : part.index("print(scale)") + len("print(scale)")]
        exec(code.replace('"cuda"', f'"{DEVICE}"'), {})
    assert capsys.readouterr().out.count("tensor(") == 6
