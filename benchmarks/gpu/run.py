"""How long does the rotation take on a GPU, beside its peers: device time, share of the copy bandwidth, host time, launches?

    python -m benchmarks.gpu.run             30 minutes or more; writes results/gpu.json and results/gpu.md
    python -m benchmarks.gpu.run 4096        only shapes of so many tokens, 5 minutes; writes the same files
    python -m benchmarks.gpu.run tables      only the tables of cos and sin, 1 minute; writes the same files
    python -m benchmarks.gpu.run "--peers=rotary,transformers"    only these; writes the same files
    python -m benchmarks.gpu.run --check     judges every peer's result and times nothing, without a GPU too; writes nothing

It needs CUDA, except for --check, and says so where there is none. What the files already hold of this commit and device is kept and
not measured again, so that a run that was interrupted can be started again and continues.

The floor is a copy: queries and keys are read once and written once, and nothing else has to move but the tables, which all calls
share, as the layers of a model do. So every time is also given as the share of the bandwidth of the fastest copy of the same run:
copy_, or a kernel that negates (on an H100 copy_ alone moves 2.44 TB/s, the rotation 2.9). No time is reported for a peer whose
result is not the rotation.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks import record as results
from benchmarks.gpu import clock, workers
from benchmarks.gpu import tables as gpu_tables
from benchmarks.gpu.peers import MODES, PEERS, Layout, Rotation, Tables, absent, exact, tables
from benchmarks.gpu.report import report

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPE = torch.bfloat16
HEAD_DIM = 128
HEADS = {"32 + 8": (32, 8), "4 + 1": (4, 1)}  # Llama-3-8B, and one of eight GPUs among which its heads are split
SHAPES = ((1, 1), (1, 128), (256, 1), (1, 4096), (1, 32768), (1, 131072))  # (batch, seq)
COPIED = 2**30  # bytes of the copy whose bandwidth everything is compared with
HOST_UP_TO = 256  # tokens: beyond, the device is what a loop of calls waits for
JUDGED = 2048  # tokens at either end
PEERS_OPTION = "--peers="
CLOSE = 1e-2  # |y - exact| / |exact|, over all: bfloat16 rounds to 2e-3, a wrong pairing or direction is off by 1


class Case(NamedTuple):
    heads: str
    batch: int
    seq: int
    interleaved: bool
    mode: str

    @property
    def tokens(self) -> int:
        return self.batch * self.seq

    @property
    def bytes(self) -> int:
        """Queries and keys, read once and written once. Tables are not counted, for no peer."""
        return 2 * self.tokens * sum(HEADS[self.heads]) * HEAD_DIM * DTYPE.itemsize

    def draw(self) -> list[Tensor]:
        """New q and k, (batch, seq, heads, head_dim)."""
        return [torch.randn(self.batch, self.seq, n, HEAD_DIM, dtype=DTYPE, device=DEVICE) for n in HEADS[self.heads]]


def cases(tokens: list[int]) -> Iterator[Case]:
    for batch, seq in SHAPES:
        for heads in HEADS:
            for interleaved in (False, True):
                for mode in MODES:
                    if not tokens or batch * seq in tokens:
                        yield Case(heads, batch, seq, interleaved, mode)


def prepared(case: Case, rotate: Rotation, layout: Layout) -> Callable[[], Any]:
    """A call on separate tensors that does only the work to be timed and returns (q, k) or their gradients."""
    q, k = (layout.view(t) for t in case.draw())
    if case.mode != "backward":
        return lambda: rotate(q, k)
    leaves = [t.requires_grad_() for t in (q, k)]
    outs = rotate(*leaves)
    grads = [layout.view(t) for t in case.draw()]
    return lambda: torch.autograd.grad(outs, leaves, grads, retain_graph=True)


def error(case: Case, made: Tables, rotate: Rotation, layout: Layout) -> float:
    """|result - exact| / |exact| of one call on new data, over the first and the last tokens."""
    q, k = case.draw()
    back = case.mode == "backward"
    seen = torch.arange(case.seq, device=DEVICE)
    seen = torch.cat((seen[:JUDGED], seen[max(JUDGED, case.seq - JUDGED) :]))
    part = made._replace(cos=made.cos[:, seen], sin=made.sin[:, seen])
    expected = [exact(t[:, seen], part, conjugate=back) for t in (q, k)]
    given = [layout.view(t) for t in (q, k)]
    if back:
        leaves = [torch.zeros_like(t).requires_grad_() for t in given]
        result = torch.autograd.grad(rotate(*leaves), leaves, given)
    else:
        with torch.no_grad():
            result = rotate(*given)
    result = [layout.back(f, t.shape)[:, seen] for f, t in zip(result, (q, k), strict=True)]
    return max(float((f.double() - w).norm() / w.norm()) for f, w in zip(result, expected, strict=True))


def measure(case: Case, name: str, *, timed: bool) -> dict[str, Any]:
    """The record of one peer in one case: its times, or the reason why there are none."""
    peer = PEERS[name]
    made = tables(case.batch, case.seq, HEAD_DIM, interleaved=case.interleaved, device=DEVICE)
    record: dict[str, Any] = {**case._asdict(), "bytes": case.bytes, "peer": name}
    rotate = peer.make(made, case.mode)
    if isinstance(rotate, str):
        return {**record, "none": rotate}
    record["error"] = error(case, made, rotate, peer.layout)
    if not record["error"] < CLOSE:
        return {**record, "none": f"wrong: relative error {record['error']:.1e}"}
    if not timed:
        return record
    with torch.set_grad_enabled(case.mode == "backward"):
        calls = [prepared(case, rotate, peer.layout) for _ in range(clock.cold_calls(case.bytes))]
        record["cold"] = clock.cold(calls)
        record["warm"] = clock.warm(calls[0])
        record["launches"] = clock.launches(calls[0])
        if case.tokens <= HOST_UP_TO:
            record["host"] = clock.host(calls[0])
    return record


def copied(count: int) -> clock.Time:
    """Microseconds of the fastest copy that reads so many bytes and writes as many, cold: copy_, or a kernel that changes each number."""
    pairs = [
        (
            torch.empty(count // 4, device=DEVICE).uniform_(),
            torch.empty(count // 4, device=DEVICE),
        )
        for _ in range(clock.cold_calls(2 * count))
    ]
    copies = clock.cold([lambda a=a, b=b: b.copy_(a) for a, b in pairs])
    kernels = clock.cold([lambda a=a, b=b: torch.neg(a, out=b) for a, b in pairs])
    return min(copies, kernels)


def bandwidth() -> float:
    """Bytes per second, read and written, of the fastest copy too large for any cache."""
    return 2 * COPIED / (copied(COPIED).median * 1e-6)


def run(words: list[str], *, timed: bool) -> dict[str, Any]:
    """Every peer in every case of so many tokens, and "tables"; all where no word is given. The files are written after each case.

    What they hold already, of this commit and device, is not measured again.
    """
    missing = absent()
    chosen, words = asked_peers(words)
    parts, words = [w for w in words if workers.is_part(w)], [w for w in words if not workers.is_part(w)]
    packages = ("triton", "transformers", "flash-attn", "liger-kernel", "flashinfer-python")
    at = results.circumstances(*(name for name in packages if installed(name)))
    result: dict[str, Any] = {**at, "dtype": str(DTYPE), "head_dim": HEAD_DIM}
    result = {**result, **(earlier(result) if timed else {}), "absent": missing}
    for name, empty in (("bandwidth", []), ("copies", {}), ("records", [])):
        result.setdefault(name, empty)
    done = {(*(r[field] for field in Case._fields), r["peer"]) for r in result["records"]}

    def keep() -> None:
        if timed:
            results.write("gpu", result, report(result))

    tokens = [int(word) for word in words if word != "tables"]
    asked = list(cases(tokens)) if tokens or not words else []
    pairs = [(case, name) for case in asked for name in chosen if name not in missing and (*case, name) not in done]
    for case, name in workers.part_of(pairs, parts[0]) if parts else pairs:
        where = f"{case.heads} heads {case.batch} x {case.seq}"
        if timed and where not in result["copies"]:
            torch.cuda.empty_cache()
            with clock.aside():
                result["bandwidth"].append(bandwidth())
                result["copies"][where] = copied(case.bytes // 2)
        torch.compiler.reset()
        try:
            with clock.aside() if timed else contextlib.nullcontext():
                record = measure(case, name, timed=timed)
        except Exception as error:  # a peer may raise anything; the others are still measured
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            record = {**case._asdict(), "bytes": case.bytes, "peer": name, "none": reason}
        result["records"].append(record)
        print(*case, name, record.get("none") or record.get("cold") or record["error"], sep="   ", flush=True)
        keep()
    if timed and ("tables" in words or not words) and "tables" not in result:
        with clock.aside():
            result["tables"] = gpu_tables.measure(DEVICE)
            result["bandwidth"] = result["bandwidth"] or [bandwidth()]
        keep()
    return result


def asked_peers(words: list[str]) -> tuple[list[str], list[str]]:
    """The peers that the words of the command line choose, all without a choice; and the other words."""
    options = [word for word in words if word.startswith(PEERS_OPTION)]
    chosen = options[-1].removeprefix(PEERS_OPTION).split(",") if options else list(PEERS)
    unknown = [name for name in chosen if name not in PEERS]
    if unknown:
        raise SystemExit(f"unknown peers: {', '.join(unknown)}; known are {', '.join(PEERS)}")
    return chosen, [word for word in words if word not in options]


def earlier(at: dict[str, Any]) -> dict[str, Any]:
    """The records in the result file, if they are of the same device, versions and commit: a run may be made in parts."""
    path = results.RESULTS / "gpu.json"
    result = json.loads(path.read_text()) if path.exists() else {}
    return result if all(result.get(key) == value for key, value in at.items()) else {}


def main() -> None:
    words = sys.argv[1:]
    timed = "--check" not in words
    if timed and DEVICE == "cpu":
        print("no CUDA device: nothing measured (--check judges results without one)")
        return
    rest = [word for word in words if word != "--check"]
    if timed and any("torch.compile" in name for name in asked_peers(rest)[0]):  # fills Inductor's cache, and judges
        workers.compiled("benchmarks.gpu.run", "--check", *rest)
    result = run(rest, timed=timed)
    if timed:
        print(report(result))


def installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


if __name__ == "__main__":
    main()
