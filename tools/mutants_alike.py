"""Mutants that change no answer, each with its reason: mutants.py does not count them, and docs/reliability.md refers to this list."""

from __future__ import annotations

SPEED = "how much is done at once, or which way is the short one: speed, and not one bit"
IDENTITY = "`is` for `==`: small integers and interned words are one object in CPython"
MARKER = "a marker of keyword arguments, where every caller names them"
TWICE = "a shape that is settled elsewhere too: tables have two or three axes, cos and sin alike"
GUARD = "a guard against a fault of ours: no caller gives sequences of different lengths"
STATIC = "torch calls it on the class, where a function is one that takes no self"
PROBE = "a row of a probe more or fewer"
DEVICE = "a device without float64, which no machine here has"

ALIKE: dict[str, dict[str, str]] = {  # file -> part of the line as changed, or as taken out -> reason
    "_angles/eager.py": {
        "count * planes >= 2 * _BLOCK": SPEED,
        "<= 2 % _BLOCK": SPEED,
        'is not "cpu" or count': IDENTITY,
    },
    "_angles/frequencies.py": {"        /,": MARKER, "given_factor: float = 0.0": "read only where it is given"},
    "_angles/cos_sin.py": {
        'type > "cpu"': "no name of a device stands before cpu in the alphabet",
        "torch.cat((scale, scale), 1)": "two axes, the last of which is 1",
        "torch.cat((scale, scale), +1)": "two axes, the last of which is 1",
        "if not has_float64(device)": DEVICE,
    },
    "_angles/xpos.py": {"power.dtype is torch.float32": "torch has one object for each dtype"},
    "_inputs/calls.py": {"table[ -1].ndim": TWICE, "table[0].ndim >= 3": TWICE, "q_table[0].shape[1] * 2": TWICE},
    "_inputs/shapes.py": {"x.dtype is torch.float64": "torch has one object for each dtype"},
    "_inputs/fused.py": {"ordered else (0, ~1)": "the highest of no slots, which no check is below"},
    "_torch.py": {"torch.ones( 0,": DEVICE},
    "_operators/norm.py": {
        "2 * count + 3 * i + 2]": "a slice that ends with its list, or at the first tensor where it did",
        "@staticmethod": STATIC,
        "strict=False": GUARD,
    },
    "_fused/backends.py": {'name is "native"': IDENTITY},
    "_fused/native.py": {
        "t.stride(-1) == 1 and": SPEED,
        "weight.stride( -1)": "a weight has one dimension",
        "(0, -1) if weight is None": "the stride of no weight",
    },
    "_operators/store.py": {
        "tables, stored[ 1])": "the operator asks again, before it writes",
        "(None, -1.0, False": "a number of a norm that is none",
        "strict=False": GUARD,
    },
    "_fused/storing.py": {"xs[ -1].device": "tensors of one device", "strict=False": GUARD},
    "_fused/sums.py": {
        "max(size ^ 1, 0)": "a power of two is filled up to the next one: more zeros are added",
        "whole ^ size": "a power of two and less have no bit in both: more zeros, which are not read",
    },
    "_fused/autograd.py": {
        "saved[2 * count ^ 2 * i]": "one tensor or two: no bit is in both numbers",
        "@staticmethod": STATIC,
        "strict=False": GUARD,
    },
    "_rotation/backends.py": {"    /,": MARKER},
    "_rotation/overlap.py": {"size == y_start": "the early way out of a search that finds the same"},
    "embedding.py": {"@overload": "for readers and type checkers alone"},
    "positions/counted.py": {
        "steps % offset": "a sum with positions that are none",
        "documents <= 0": "a count is not negative",
    },
    "testing.py": {"seed: int = -1": "another draw of a law that holds for all"},
    "scaling/longrope.py": {"is not len(self.long_factor)": IDENTITY},
    "scaling/scheme.py": {"is not dim // 2": IDENTITY},
    "checkpoints/verify.py": {"rope.base + (": "any frequencies do: scores agree under all"},
    "transformers/fused_norms.py": {"p.shape[not 1]": "the one dimension of a weight"},
    "transformers/halves.py": {
        'type <= "cpu"': "no name of a device stands before cpu in the alphabet",
        'widths < "repeat"': "no layout of tables stands behind repeat in the alphabet",
    },
    "transformers/norms.py": {
        "name is not None or weight": "a weight has a name, and a name a weight",
        "1 | 4096": PROBE,
        "torch.randn( 4, channels": PROBE,
    },
    "transformers/spec.py": {"still.shape[not 1]": "no part of a batch of none"},
    "transformers/probe.py": {"((seq,), (seq, 2))": "a layout that no function takes is passed over"},
    "transformers/wrapper.py": {"x.ndim ** 1": "channels are never one"},
    "transformers/rebind.py": {"base is nn.Module and": "torch's own methods are looked into, and call no rotation"},
    "transformers/patcher.py": {"0 < value <= 1024": "one size more to try", "pairs[:65]": "one size more to try"},
}


def reason(file: str, diff: str) -> str | None:
    """Why a mutant changes no answer, None where it may. For a line that was deleted, the line itself is compared."""
    changed = [line for line in diff.splitlines() if line[:1] in ("+", "-") and line[:3] not in ("+++", "---")]
    changed = [line for line in changed if line[0] == "+"] or changed
    return next((why for part, why in ALIKE.get(file, {}).items() if any(part in line[1:] for line in changed)), None)
